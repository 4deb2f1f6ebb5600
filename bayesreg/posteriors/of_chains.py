"""From a run of Markov chains to a posterior: its draws, their certificate, and what is noted."""

from __future__ import annotations

import time
from typing import ClassVar, Protocol

import torch

from bayesreg.certificates.mixing import bfmi, of_chains
from bayesreg.certificates.values import Mixing
from bayesreg.model.model import BayesianModel
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
    certificate = of_chains(found, run.draws, outputs_along(density, run.draws), ensemble=method.ensemble)
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
    """The network's outputs in some training rows along the chains (C, D, P), evenly thinned, (C, D', Q).

    None where rows depend on each other, so that a few of them have no output of their own.
    """
    log_joint, chains = density.log_joint, len(draws)
    if density.by_rows:
        return None
    thinned = draws[:, :: max(1, -(-chains * draws.shape[1] // _DRAWS))]
    rows = torch.arange(0, len(density.x), -(-len(density.x) // _ROWS), device=density.x.device)

    def forward(u: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return log_joint.model.forward(log_joint.layout.unflatten(u), x)

    flat = thinned.reshape(-1, thinned.shape[-1])
    found = propagate.outputs(log_joint.model.behaviour, forward, flat.split(256), len(flat), density.x[rows], probe=flat[0])
    return found.reshape(chains, thinned.shape[1], -1)
