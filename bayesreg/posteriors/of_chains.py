"""From a run of Markov chains to a posterior: its draws, their certificate, and what is noted."""

from __future__ import annotations

import time
from typing import ClassVar, Protocol

import torch

from bayesreg.certificates.mixing import bfmi, of_chains
from bayesreg.certificates.values import Mixing
from bayesreg.model.model import BayesianModel
from bayesreg.model.prior_predictive import in_data_units
from bayesreg.objective.chains import AbstractChains
from bayesreg.posteriors import propagate
from bayesreg.posteriors.base import AbstractPosterior
from bayesreg.posteriors.draws import Draws
from bayesreg.posteriors.record import FitRecord
from bayesreg.posteriors.refreshed import with_statistics
from bayesreg.samplers.chain_loop import Sampled
from bayesreg.samplers.options import ChainOptions
from bayesreg.solvers.history import History

_ROWS = 50  # training rows whose outputs are judged
_DRAWS = 2000  # draws, of all chains, whose outputs are judged


class Method(Protocol):
    """What is asked of the method that ran the chains."""

    name: ClassVar[str]
    ensemble: ClassVar[bool]
    options: ChainOptions


def concluded(
    method: Method,
    model: BayesianModel,
    density: AbstractChains,
    run: Sampled,
    seed: int,
    history: History,
    started: float,
) -> AbstractPosterior:
    """The posterior of a run.

    Args:
        method: The method.
        model: Bound to the data.
        density: What was sampled.
        run: The draws.
        seed: The fit's.
        history: How it went.
        started: When the fit did, by `time.perf_counter`.

    Returns:
        `Draws`; with statistics of their own for a network with batch normalisation.
    """
    options, (chains, count) = method.options, run.draws.shape[:2]
    stats = dict(run.stats)
    if "lp" in stats:
        stats["lp"] = density.nats(stats["lp"]).to(run.draws)
    rate, error, energy = (stats.get(name) for name in ("acceptance_rate", "energy_error", "energy"))
    found = Mixing(
        num_chains=chains,
        num_draws=count,
        steps=run.steps,
        planned=run.planned,
        temperature=options.temperature,
        divergences=run.divergences if "diverging" in stats else None,
        acceptance=None if rate is None else float(rate.mean()),
        energy_error=None if error is None else float(error.mean()),
        bfmi=None if energy is None or count < 4 else bfmi(energy),
    )
    history.notes.insert(
        0,
        f"{chains:,} chain{'s' if chains > 1 else ''}: {options.num_warmup:,} steps of warm-up, then {count:,} draws each, "
        f"{'every step' if options.thin == 1 else f'every {options.thin:,} steps'}.",
    )
    if density.by_rows:
        history.notes.append("batch normalisation: the density takes the statistics of all rows, and so does each draw.")
    outputs = outputs_along(density, run.draws)
    whole = outputs is not None and bool(outputs.isfinite().all())
    moments = (
        None if outputs is None or not (method.ensemble and whole) else moments_along(density, thinned(run.draws), outputs)
    )
    flat = None if outputs is None else outputs.flatten(2)
    certificate = of_chains(found, run.draws, flat, ensemble=method.ensemble, moments=moments)
    record = FitRecord(method.name, seed, history, certificate, time.perf_counter() - started)
    posterior = Draws(model, record, run.draws, stats=stats)
    if not density.by_rows:
        return posterior
    made = with_statistics(posterior, density.x, batch_size=None, num_draws=posterior.num_draws, seed=seed)
    made.record = FitRecord(
        method.name, seed, history, certificate, time.perf_counter() - started, batch_statistics=made.record.batch_statistics
    )
    return made


def outputs_along(density: AbstractChains, draws: torch.Tensor) -> torch.Tensor | None:
    """The network's outputs in some training rows along the chains (C, D, P), evenly thinned, (C, D', n) or (C, D', n, K).

    None where rows depend on each other, so that a few of them have no output of their own.
    """
    log_joint, chains = density.log_joint, len(draws)
    if density.by_rows:
        return None
    taken = thinned(draws)
    rows = torch.arange(0, len(density.x), -(-len(density.x) // _ROWS), device=density.x.device)

    def forward(u: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return log_joint.model.forward(log_joint.layout.unflatten(u), x)

    flat = taken.reshape(-1, taken.shape[-1])
    found = propagate.outputs(log_joint.model.behaviour, forward, flat.split(256), len(flat), density.x[rows], probe=flat[0])
    return found.reshape(chains, taken.shape[1], *found.shape[1:])


def thinned(draws: torch.Tensor) -> torch.Tensor:
    """Draws (C, D, P) at even distances, as many as are judged, (C, D', P)."""
    return draws[:, :: max(1, -(-len(draws) * draws.shape[1] // _DRAWS))]


def moments_along(density: AbstractChains, draws: torch.Tensor, outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """E[y | x, θ] and Var[y | x, θ] at draws (C, D, P) and their outputs (C, D, n) or (C, D, n, K), (C, D, Q) each."""
    model, u = density.log_joint.model, draws.flatten(0, 1)
    noise = propagate.noise_of(model, density.log_joint.layout, u)
    found = in_data_units(model.likelihood, model.standardization, outputs.flatten(0, 1), noise)
    mean, variance = (
        part(found.output, **found.noise).reshape(*outputs.shape[:2], -1)
        for part in (found.likelihood.mean, found.likelihood.variance)
    )
    return mean, variance
