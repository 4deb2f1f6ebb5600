"""Microcanonical Langevin Monte Carlo: many long chains in one batched gradient."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from bayesreg import _check
from bayesreg.inference.base import AbstractSampling
from bayesreg.objective.flat import LogJoint
from bayesreg.samplers.base import AbstractSampler
from bayesreg.samplers.microcanonical import AdjustedMicrocanonical, Microcanonical
from bayesreg.samplers.options import ChainOptions


class MCLMC(AbstractSampling):
    """Microcanonical Langevin Monte Carlo: particles of constant speed whose direction turns along the gradient.

    Unadjusted, no draw is rejected, and the steps are so short that the bias of an sd stays below some per cent; with
    `adjusted=True` whole trajectories are accepted or rejected, and the draws are exact. All chains move in one batched
    gradient, each unknown is measured in its own sd, and step size and length are found in the warm-up.

    Args:
        num_chains: C.
        num_warmup: Steps of each chain that tune it; each is two gradients.
        num_samples: D, draws that are kept of each chain.
        thin: Steps from one draw to the next.
        temperature: T: the posterior density to the power 1/T; 1 is the posterior.
        start: Where the chains start: "weights" (the module's own, and others as its layers draw them), "prior", or a `MAP`.
        adjusted: Accept or reject trajectories, so that nothing but Monte Carlo error is left.
        target_acceptance: Mean acceptance probability that sets the step size where `adjusted`; 0.9 when None.
        energy_variance: Mean square of a step's energy error by dimension that sets the step size where not; 5e-4 when None.
            Smaller is less biased, and slower.
        compile: True, False, or "auto" for runs that are long enough to win back the ten seconds.
        checkpoint: As for `MAP`, with checkpoint_every and checkpoint_key.
        checkpoint_every: Steps between two states.
        checkpoint_key: A text that names the data.

    Raises:
        ValueError: If an argument is out of its range, or belongs to the other kind.

    References:
        Robnik, De Luca, Silverstein and Seljak (2023), Microcanonical Hamiltonian Monte Carlo. Robnik and Seljak (2024),
        Fluctuation without dissipation: microcanonical Langevin Monte Carlo. Robnik, Cohn-Gordon and Seljak (2025), Metropolis
        adjusted microcanonical Hamiltonian Monte Carlo.
    """

    name: ClassVar[str] = "mclmc"
    when: ClassVar[str] = "Hundreds of unknowns or more, all rows in memory: long chains, many at once, from one density."

    def __init__(
        self,
        num_chains: int = 4,
        num_warmup: int = 2000,
        num_samples: int = 1000,
        thin: int = 5,
        temperature: float = 1.0,
        start: Any = "weights",
        *,
        adjusted: bool = False,
        target_acceptance: float | None = None,
        energy_variance: float | None = None,
        compile: bool | str = "auto",
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int | None = None,
        checkpoint_key: str | None = None,
    ) -> None:
        options = ChainOptions(num_chains, num_warmup, num_samples, thin, temperature, start)
        super().__init__(options, checkpoint, checkpoint_every, checkpoint_key, compile)
        self.adjusted = _check.flag("adjusted", adjusted)
        owned = (("target_acceptance", target_acceptance, True), ("energy_variance", energy_variance, False))
        for name, value, wanted in owned:
            if value is not None and self.adjusted is not wanted:
                raise ValueError(f"{name} must come with adjusted={wanted}, but adjusted={self.adjusted} came; leave it out.")
        self.target_acceptance = _check.fraction("target_acceptance", 0.9 if target_acceptance is None else target_acceptance)
        self.energy_variance = _check.positive("energy_variance", 5e-4 if energy_variance is None else energy_variance)

    def sampler(self, log_joint: LogJoint) -> AbstractSampler:
        """See `AbstractSampling.sampler`."""
        if self.adjusted:
            return AdjustedMicrocanonical(self.target_acceptance)
        return Microcanonical((self.energy_variance, self.energy_variance))
