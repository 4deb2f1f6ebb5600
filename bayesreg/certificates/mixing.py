"""Whether Markov chains can be believed: R̂ and effective sample sizes of the unknowns and of the predictions, by ArviZ.

A network's weights have symmetric modes (units may change places, signs may flip), so that chains which agree on every
prediction need not agree on a weight. Both are judged, and which is which is said.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from bayesreg.certificates.certificate import Certificate
from bayesreg.certificates.outcome import Finding
from bayesreg.certificates.values import Agreement, Mixing
from bayesreg.samplers.diagnostics import load_arviz, quiet_arviz

MOST_RHAT = 1.05
LEAST_ESS = 400.0  # a mean is then known to a twentieth of its sd
_LOOKED_AT = 300  # quantities; ArviZ takes some milliseconds for each
_FEW = 8  # draws of a chain below which nothing can be said
_DIVERGING = 1e-3  # of all steps


def agreement(values: torch.Tensor) -> Agreement | None:
    """R̂ and effective sample sizes of quantities along chains, the worst of up to 300 of them.

    One chain is judged by its halves. R̂ is rank-normalised and split; a quantity that never moves is left out.

    Args:
        values: (C, D, Q).

    Returns:
        The worst; None where there are too few draws, or nothing moves.

    References:
        Vehtari, Gelman, Simpson, Carpenter and Bürkner (2021), Rank-normalization, folding, and localization: an improved R̂.
    """
    if len(values) == 1:
        values = values[:, : values.shape[1] // 2 * 2].reshape(2, -1, values.shape[2])
    moving = (values.flatten(0, 1).amax(0) > values.flatten(0, 1).amin(0)).nonzero()[:, 0]
    if values.shape[1] < _FEW or not len(moving):
        return None
    count = len(moving)
    if count > _LOOKED_AT:
        which = torch.randperm(count, generator=torch.Generator().manual_seed(0))[:_LOOKED_AT].sort().values
        moving = moving[which.to(moving.device)]
    values = values[..., moving]  # once: of many weights a copy is all that memory has left
    with quiet_arviz() as arviz:
        found: Any = arviz.convert_to_dataset({"x": values.double().cpu().numpy()})
        rhats: Any = arviz.rhat(found)
        sizes: list[Any] = [arviz.ess(found, method=kind) for kind in ("bulk", "tail")]
    rhat, (bulk, tail) = float(rhats["x"].max()), (float(one["x"].min()) for one in sizes)
    return Agreement(values.shape[2], rhat, bulk, tail)


def bfmi(energy: torch.Tensor) -> float:
    """The smallest Bayesian fraction of missing information of chains' energies (C, D), by ArviZ (Betancourt 2016)."""
    return float(min(load_arviz().bfmi(energy.double().cpu().numpy())))


def of_chains(run: Mixing, unknowns: torch.Tensor, outputs: torch.Tensor | None, *, ensemble: bool = False) -> Certificate:
    """The certificate of a run.

    Args:
        run: What is known already.
        unknowns: (C, D, P).
        outputs: The network's outputs at some training rows, (C, D, Q); None where they cannot be had.

        ensemble: Whether the chains are members of an ensemble, which are not expected to meet.

    Returns:
        The certificate.
    """
    weights = agreement(unknowns)
    function = None if outputs is None else agreement(outputs)
    within = between = None
    if outputs is not None and len(outputs) > 1 and outputs.shape[1] > 1:
        within = float(outputs.var(1).mean().sqrt())
        between = float(outputs.mean(1).var(0).mean().sqrt())
    run = dataclasses.replace(run, weights=weights, function=function, within=within, between=between)
    finding = _finding(run)
    return Certificate(Finding.SEPARATE if ensemble and finding is Finding.NOT_MIXED else finding, mixing=run)


def _finding(run: Mixing) -> Finding:
    if run.steps < run.planned:
        return Finding.CUT_SHORT
    if run.weights is None:
        return Finding.FEW_DRAWS
    if (run.divergences or 0) > _DIVERGING * run.num_chains * run.num_draws:
        return Finding.DIVERGING
    if _agree(run.weights):
        return Finding.MIXED
    return Finding.MIXED_IN_FUNCTION if run.function is not None and _agree(run.function) else Finding.NOT_MIXED


def _agree(found: Agreement) -> bool:
    return found.rhat <= MOST_RHAT and min(found.ess_bulk, found.ess_tail) >= LEAST_ESS
