"""Hamiltonian Monte Carlo: many chains in one batched gradient, trajectory lengths found by ChEES."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from bayesreg import _check
from bayesreg.inference.base import AbstractSampling
from bayesreg.objective.flat import LogJoint
from bayesreg.samplers.base import AbstractSampler
from bayesreg.samplers.hamiltonian import Hamiltonian
from bayesreg.samplers.options import ChainOptions


class HMC(AbstractSampling):
    """Hamiltonian Monte Carlo with a Metropolis rule: draws of the posterior itself, up to their Monte Carlo error.

    Step size by dual averaging, length of the trajectories by ChEES, a diagonal mass matrix from all chains; the number of
    leapfrogs is drawn anew for each draw and is the same for all chains, whose gradients are one batch.

    Args:
        num_chains: C. Of small models many cost little more than one, and all tune the sampler together.
        num_warmup: Draws of each chain that tune the sampler and are thrown away.
        num_samples: Draws that are kept of each chain.
        thin: Draws made for one that is kept.
        temperature: T > 0; anything but 1 is no posterior, and certificate and report say so.
        start: "weights", "prior" or a `MAP`, see `samplers.ChainOptions`.
        target_acceptance: The chains' acceptance that the step size is tuned for, in (0, 1).
        max_leapfrogs: Leapfrogs of a draw, at most.
        compile: Whether the gradient is compiled: True, False, or "auto" for runs that are long enough.
        checkpoint: As for `MAP`, with checkpoint_every and checkpoint_key.
        checkpoint_every: Draws between two states.
        checkpoint_key: A text that names the data.

    Raises:
        ValueError: If an argument is out of its range.

    References:
        Hoffman, Radul and Sountsov (2021), An adaptive-MCMC scheme for setting trajectory lengths in Hamiltonian Monte Carlo.
        Neal (2011), MCMC using Hamiltonian dynamics.

    >>> import torch, bayesreg as br
    >>> from bayesreg import likelihoods, priors
    >>> X, y = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([0.0, 1.0, 2.0])
    >>> model = br.BayesianModel(torch.nn.Linear(1, 1, bias=False), priors.Normal(1.0), likelihoods.Gaussian(1.0))
    >>> draws = br.fit(model, X, y, method=HMC(num_warmup=100, num_samples=150)).sample(3200, seed=0)["weight"].flatten()
    >>> bool(abs(draws.mean() - 5 / 6) < 0.03), bool(abs(draws.std() - 6**-0.5) < 0.03)      # N(Σxy, 1)/(Σx² + 1)
    (True, True)
    """

    name: ClassVar[str] = "hmc"
    when: ClassVar[str] = "Up to some thousand unknowns, and draws of the posterior itself: many chains at once, none biased."

    def __init__(
        self,
        num_chains: int = 32,
        num_warmup: int = 300,
        num_samples: int = 500,
        thin: int = 1,
        temperature: float = 1.0,
        start: Any = "weights",
        *,
        target_acceptance: float = 0.651,
        max_leapfrogs: int = 1000,
        compile: bool | str = "auto",
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int | None = None,
        checkpoint_key: str | None = None,
    ) -> None:
        options = ChainOptions(num_chains, num_warmup, num_samples, thin, temperature, start)
        super().__init__(options, checkpoint, checkpoint_every, checkpoint_key, compile)
        self.target_acceptance = _check.fraction("target_acceptance", target_acceptance)
        self.max_leapfrogs = _check.count("max_leapfrogs", max_leapfrogs)

    def sampler(self, log_joint: LogJoint) -> AbstractSampler:
        """See `AbstractSampling.sampler`."""
        return Hamiltonian(self.target_acceptance, self.max_leapfrogs)
