"""The No-U-Turn sampler: Pyro's kernel, one chain at a time; the reference for small models."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from bayesreg import _check
from bayesreg.inference.base import AbstractSampling
from bayesreg.objective.flat import LogJoint
from bayesreg.samplers.base import AbstractSampler
from bayesreg.samplers.no_u_turn import NoUTurn
from bayesreg.samplers.options import ChainOptions


class NUTS(AbstractSampling):
    """The No-U-Turn sampler: the length of each trajectory is found on the way; draws of the posterior itself.

    Pyro's kernel makes the draws; step size and diagonal mass matrix are tuned over all chains.

    Args:
        num_chains: C, one after the other within each draw.
        num_warmup: Draws of each chain that tune the sampler and are thrown away.
        num_samples: Draws that are kept of each chain.
        thin: Draws made for one that is kept.
        temperature: T > 0; anything but 1 is no posterior, and certificate and report say so.
        start: "weights", "prior" or a `MAP`, see `samplers.ChainOptions`.
        target_acceptance: Mean acceptance that the step size is tuned for, in (0, 1).
        max_tree_depth: Doublings of a trajectory, at most.
        compile: Whether the gradient is compiled: True, False, or "auto" for runs that are long enough.
        checkpoint: As for `MAP`, with checkpoint_every and checkpoint_key.
        checkpoint_every: Draws between two states.
        checkpoint_key: A text that names the data.

    Raises:
        ValueError: If an argument is out of its range.

    References:
        Hoffman and Gelman (2014), The No-U-Turn sampler: adaptively setting path lengths in Hamiltonian Monte Carlo.
        Bingham et al. (2019), Pyro: deep universal probabilistic programming.
    """

    name: ClassVar[str] = "nuts"
    when: ClassVar[str] = "Up to a few dozen unknowns, and a posterior to hold the others against: slow, and hard to fool."

    def __init__(
        self,
        num_chains: int = 4,
        num_warmup: int = 500,
        num_samples: int = 500,
        thin: int = 1,
        temperature: float = 1.0,
        start: Any = "weights",
        *,
        target_acceptance: float = 0.8,
        max_tree_depth: int = 10,
        compile: bool | str = "auto",
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int | None = None,
        checkpoint_key: str | None = None,
    ) -> None:
        options = ChainOptions(num_chains, num_warmup, num_samples, thin, temperature, start)
        super().__init__(options, checkpoint, checkpoint_every, checkpoint_key, compile)
        self.target_acceptance = _check.fraction("target_acceptance", target_acceptance)
        self.max_tree_depth = _check.count("max_tree_depth", max_tree_depth)

    def sampler(self, log_joint: LogJoint) -> AbstractSampler:
        """See `AbstractSampling.sampler`."""
        return NoUTurn(self.target_acceptance, self.max_tree_depth)
