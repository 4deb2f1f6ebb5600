"""Stochastic gradient Hamiltonian Monte Carlo: chains on mini-batches."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from bayesreg import _check
from bayesreg.data.rows import Data
from bayesreg.inference.base import AbstractSampling
from bayesreg.objective.chains import AbstractChains, Chains, ChainsOfBatches
from bayesreg.objective.flat import LogJoint
from bayesreg.samplers.base import AbstractSampler
from bayesreg.samplers.langevin import Langevin
from bayesreg.samplers.options import ChainOptions
from bayesreg.solvers.batches import resolve_batch


class SGHMC(AbstractSampling):
    """Langevin dynamics with momentum on the gradients of mini-batches, each chain's its own, all chains in one gradient.

    Nothing is accepted or rejected: a step may see any part of the rows. The batches' noise is measured in the warm-up, left
    out of the noise that is added, and bounds the step; so the fewer rows a step sees, the more steps a draw takes. On all rows
    (up to 10,000) the variances of a normal posterior are exact.

    Args:
        num_chains: C.
        num_warmup: Steps that tune scales, step size and friction.
        num_samples: D, draws of each chain.
        thin: Steps from one draw to the next.
        temperature: T; 1 is the posterior.
        start: "weights", the module's own and new ones; "prior"; or a `MAP`.
        batch_size: B, rows a step of each chain; when None all rows up to 10,000 and 256 above, as for `MAP`. A loader brings
            its own batches, one for each chain.
        friction: The part of the momentum that a step forgets, in (0, 1]; batch noise may raise it. At 1 there is no momentum:
            stochastic gradient Langevin dynamics (SGLD).
        step_size: In units of the unknowns' scales; tuned when None.
        precondition: Whether each unknown has its own scale.
        cyclical: Whether the steps between two draws shrink from the step size to zero along half a cosine, so that each draw
            comes from a fresh exploration.
        compile: Whether the gradient is compiled: True, False, or "auto".
        checkpoint: As for `MAP`, with checkpoint_every and checkpoint_key; not for a loader.
        checkpoint_every: Steps between two states.
        checkpoint_key: A text that names the data.

    Raises:
        ValueError: If an argument is out of its range.

    References:
        Chen, Fox and Guestrin (2014), Stochastic gradient Hamiltonian Monte Carlo. Welling and Teh (2011), Bayesian learning
        via stochastic gradient Langevin dynamics. Li, Chen, Carlson and Carin (2016), Preconditioned stochastic gradient
        Langevin dynamics. Zhang, Li, Zhang, Chen and Wilson (2020), Cyclical stochastic gradient MCMC.

    >>> import torch, bayesreg as br
    >>> x, y = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([0.0, 1.0, 2.0])
    >>> net = torch.nn.Linear(1, 1, bias=False)
    >>> model = br.BayesianModel(net, br.priors.Normal(1.0), br.likelihoods.Gaussian(1.0))
    >>> draws = br.fit(model, x, y, method=SGHMC(50, 200, 100, 10))     # N(5/6, 1/6)
    >>> abs(float(draws.mean["weight"]) - 5 / 6) < 0.03, abs(float(draws.std["weight"]) * 6**0.5 - 1) < 0.05
    (True, True)
    """

    name: ClassVar[str] = "sghmc"
    when: ClassVar[str] = "More rows than a step should see, or a loader: chains on mini-batches, which mix slowly."
    all_rows: ClassVar[bool] = False

    def __init__(
        self,
        num_chains: int = 4,
        num_warmup: int = 2000,
        num_samples: int = 1000,
        thin: int = 10,
        temperature: float = 1.0,
        start: Any = "weights",
        *,
        batch_size: int | None = None,
        friction: float = 0.1,
        step_size: float | None = None,
        precondition: bool = True,
        cyclical: bool = False,
        compile: bool | str = "auto",
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int | None = None,
        checkpoint_key: str | None = None,
    ) -> None:
        options = ChainOptions(num_chains, num_warmup, num_samples, thin, temperature, start)
        super().__init__(options, checkpoint, checkpoint_every, checkpoint_key, compile)
        self.batch_size = None if batch_size is None else _check.count("batch_size", batch_size)
        self.friction = 1.0 if friction == 1 and not isinstance(friction, bool) else _check.fraction("friction", friction)
        self.step_size = None if step_size is None else _check.positive("step_size", step_size)
        self.precondition, self.cyclical = _check.flag("precondition", precondition), _check.flag("cyclical", cyclical)
        if self.cyclical and thin < 2:
            raise ValueError(f"thin must be at least 2 with cyclical=True, whose cycles end at the draws, but {thin} came.")

    def sampler(self, log_joint: LogJoint) -> AbstractSampler:
        """See `AbstractSampling.sampler`."""
        return Langevin(self.friction, self.step_size, self.precondition, self.options.thin * self.cyclical)

    def density(self, log_joint: LogJoint, data: Data, num_chains: int) -> AbstractChains:
        """On all rows where a step sees them, else on batches.

        Raises:
            ValueError: If a loader is to be taken up from a checkpoint.
        """
        if data.loader is not None and self.checkpoint is not None:
            raise ValueError(
                "a checkpoint must find each chain's next batch again, but a DataLoader came; pass X and y as arrays, or leave "
                "checkpoint out."
            )
        size = resolve_batch(self.batch_size, data, log_joint)
        if size is None and data.loader is None:
            return Chains(log_joint, data, num_chains, temperature=self.options.temperature)
        return ChainsOfBatches(log_joint, data, num_chains, size, temperature=self.options.temperature)
