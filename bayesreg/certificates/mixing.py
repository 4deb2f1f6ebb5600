"""Whether Markov chains can be believed: R̂ and effective sample sizes of the unknowns and of the predictions, by ArviZ.

A network's weights have symmetric modes (units may change places, signs may flip), so that chains which agree on every
prediction need not agree on a weight. Both are judged, and which is which is said.

Members of an ensemble are not expected to meet in weights, nor in every direction of the function that the rows leave open.
What they are for is the prediction of y: with mean μ and variance v of y at a draw, both along the chains,

    R̂ of y = √(T / W),   T = E[v] + Var[μ] over all draws,   W = the mean of E[v] + Var[μ] over the 2C halves of chains
    error  = sd of the C members' E[μ] / √(C T)
    drift  = |½ log Σ T₂/Σ T₁|, over rows,    T of the second and of the first halves: a noise that still falls

Members start apart, so that the second holds whatever the autocorrelation within one.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from bayesreg.certificates.certificate import Certificate
from bayesreg.certificates.outcome import Finding
from bayesreg.certificates.values import Agreement, Mixing, Predictions
from bayesreg.samplers.diagnostics import load_arviz, quiet_arviz

MOST_RHAT = 1.05
LEAST_ESS = 400.0  # a mean is then known to a twentieth of its sd
# of predictions of y by an ensemble: what moves a normal density of y by .01 nats on average, ½ δ² for a mean that is δ sds off
# and δ² for an sd that is by δ; R̂ as Gelman et al. (2013) bound it, since members are not expected to meet more closely
MOST_ERROR, MOST_DRIFT, MOST_RHAT_OF_Y = 0.14, 0.1, 1.1
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


def predictions(mean: torch.Tensor, variance: torch.Tensor) -> Predictions | None:
    """How far members predict the same y, the worst of all rows that have a finite variance; for `drift` all together.

    Args:
        mean: E[y | x, θ] along the chains, (C, D, Q).
        variance: Var[y | x, θ], the same shape.

    Returns:
        The worst; None where there is one chain, too few draws, or no row with a variance.

    >>> mean = torch.tensor([[0.0] * 8, [1.0] * 8])[..., None]          # two members that stand still, one sd of y apart
    >>> found = predictions(mean, torch.ones_like(mean))                # T = 1 + 1/4, W = 1
    >>> round(found.rhat**2, 6), round(found.error * 1.25**0.5, 6)      # sd of the members' means 1/√2, of their mean 1/2
    (1.25, 0.5)
    """
    mean, variance = mean.double(), variance.double()
    fits = (mean.isfinite() & variance.isfinite()).flatten(0, 1).all(0) & (variance.flatten(0, 1).mean(0) > 0)
    mean, variance = mean[..., fits], variance[..., fits]
    if len(mean) < 2 or mean.shape[1] < _FEW or not mean.shape[2]:
        return None
    halves = [(mean[:, part], variance[:, part]) for part in torch.arange(mean.shape[1]).tensor_split(2)]
    within = torch.stack([v.mean(1) + m.var(1, correction=0) for m, v in halves]).mean((0, 1))
    first, second = (v.mean((0, 1)) + m.flatten(0, 1).var(0, correction=0) for m, v in halves)
    total = variance.mean((0, 1)) + mean.flatten(0, 1).var(0, correction=0)
    error = mean.mean(1).std(0) / (len(mean) * total).sqrt()
    drift = 0.5 * (second.sum() / first.sum()).log().abs()
    return Predictions(mean.shape[2], float((total / within).max().sqrt()), float(error.max()), float(drift))


def of_chains(
    run: Mixing,
    unknowns: torch.Tensor,
    outputs: torch.Tensor | None,
    *,
    ensemble: bool = False,
    moments: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> Certificate:
    """The certificate of a run.

    Args:
        run: What is known already.
        unknowns: (C, D, P).
        outputs: The network's outputs at some training rows, (C, D, Q); None where they cannot be had.
        ensemble: Whether the chains are members of an ensemble, which are not expected to meet.
        moments: For an ensemble mean and variance of y at these rows, (C, D, Q) each.

    Returns:
        The certificate.
    """
    weights = agreement(unknowns)
    function = None if outputs is None else agreement(outputs)
    within = between = None
    if outputs is not None and len(outputs) > 1 and outputs.shape[1] > 1:
        within = float(outputs.var(1).mean().sqrt())
        between = float(outputs.mean(1).var(0).mean().sqrt())
    of_y = None if moments is None else predictions(*moments)
    run = dataclasses.replace(run, weights=weights, function=function, predictions=of_y, within=within, between=between)
    finding = _finding(run)
    if ensemble and finding is Finding.NOT_MIXED:
        finding = Finding.SEPARATE if of_y is None or not predict_alike(of_y) else Finding.MIXED_IN_PREDICTION
    return Certificate(finding, mixing=run)


def predict_alike(found: Predictions) -> bool:
    """Whether members' predictions of y are within the bounds."""
    return found.rhat <= MOST_RHAT_OF_Y and found.error <= MOST_ERROR and found.drift <= MOST_DRIFT


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
