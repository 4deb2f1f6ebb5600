"""From a Gaussian about a mode to draws of the posterior: a few Hamiltonian steps from its draws, by its own metric.

u = loc + F z,   log π(z) = log p(y, u) + const,   ∇_z = Fᵀ ∇_u:  where the Gaussian is right, z is standard normal.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch

from bayesreg.data.rows import Data
from bayesreg.objective.chains import Chains, MappedChains
from bayesreg.objective.flat import LogJoint
from bayesreg.posteriors.base import AbstractPosterior
from bayesreg.posteriors.gaussian import AbstractAboutAMode
from bayesreg.posteriors.of_chains import concluded
from bayesreg.samplers.base import AbstractSampler
from bayesreg.samplers.chain_loop import sample_chains
from bayesreg.samplers.options import ChainOptions
from bayesreg.solvers.history import History
from bayesreg.solvers.progress import ProgressCallback


@dataclasses.dataclass
class _Refining:
    """What `concluded` asks of the method that ran chains."""

    options: ChainOptions
    name: ClassVar[str] = "laplace"
    ensemble: ClassVar[bool] = False


def refined(
    gaussian: AbstractAboutAMode,
    sampler: AbstractSampler,
    options: ChainOptions,
    data: Data,
    seed: int,
    report: ProgressCallback,
    started: float,
) -> AbstractPosterior:
    """Draws of the posterior, from chains that start at draws of a Gaussian and move in its own coordinates.

    Args:
        gaussian: The Gaussian, over all unknowns.
        sampler: How the chains move.
        options: How many, and how long.
        data: The rows.
        seed: The fit's.
        report: Hears of the steps.
        started: When the fit did, by `time.perf_counter`.

    Returns:
        `Draws`, with the Gaussian's evidence.
    """
    history = History("log joint")
    inner = Chains(LogJoint(gaussian.model), data, options.num_chains)
    density = MappedChains(inner, gaussian.from_noise, gaussian.times_factor)
    start = gaussian.noise(options.num_chains, torch.Generator().manual_seed(seed))
    run = sample_chains(sampler, density, start, options, report=report, history=history)
    run = dataclasses.replace(run, draws=gaussian.from_noise(run.draws.flatten(0, 1)).view(*run.draws.shape[:2], -1))
    made = concluded(_Refining(options), gaussian.model, inner, run, seed, history, started)
    history.notes.extend([*gaussian.history.notes, "refined by Hamiltonian steps in the Gaussian's own coordinates."])
    made.record = dataclasses.replace(made.record, log_evidence=gaussian.log_evidence)
    return made
