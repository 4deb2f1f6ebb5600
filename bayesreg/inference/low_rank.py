"""Low-rank variational inference: a normal whose covariance is a diagonal plus a few directions."""

from __future__ import annotations

import os
from typing import Any, ClassVar

import torch

from bayesreg import _check
from bayesreg.inference.full_rank import AbstractFromLaplace
from bayesreg.objective.flat import LogJoint
from bayesreg.posteriors.low_rank import nearest
from bayesreg.posteriors.normal_guides import LowRankGuide

_SHARED = 0.3  # the first directions' share of an sd where nothing is known of them


class LowRank(AbstractFromLaplace):
    """A normal over the unconstrained vector with covariance diag(d²) + V Vᵀ, V of a few columns, where its ELBO is largest.

    Between `MeanField`, which has no correlations and is too narrow for that, and `FullRank`, which has all: it has those along
    the K directions that matter most to the ELBO.

    Args:
        rank: K, the columns of V; the number of unknowns at most.
        num_steps: Steps; 5,000, or 50 epochs of mini-batches, when None.
        learning_rate: Adam's first rate, in units of the start's standard deviations, falling to zero along a cosine; 0.01 when
            None.
        batch_size: Rows a step, as for `MeanField`.
        num_particles: Draws a step, averaged, in pairs of opposite noise.
        initial_scale: Sd of every unknown at the start, about the module's own weights; None to start from the Laplace
            approximation, or as `MeanField` where there is none.
        compile: As for `MeanField`.
        checkpoint: As for `MAP`.
        checkpoint_every: Steps between two states.
        checkpoint_key: A text that names a loader's data.
        num_restarts: Starts: the module's own weights, and others as its layers draw them anew. The fit of the highest ELBO is
            kept, and the certificate says how far apart their ELBOs lie.

    Raises:
        ValueError: If an argument is out of its range.

    References:
        Ong, Nott and Smith (2018), Gaussian variational approximation with a factor covariance structure.

    >>> import bayesreg as br
    >>> X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> X[:, 2] = X[:, 1] + 0.3 * X[:, 2]                              # two weights of one sum
    >>> net = torch.nn.Linear(3, 1, bias=False).double()
    >>> model = br.BayesianModel(net, br.priors.Normal(1.0), br.likelihoods.Gaussian(0.5))
    >>> fit = lambda method: br.fit(model, X, X.sum(1), method=method).std["weight"]
    >>> low, exact = fit(LowRank(rank=1, num_steps=200)), fit("exact")
    >>> bool((low / exact - 1).abs().max() < 0.1)
    True
    """

    name: ClassVar[str] = "low-rank"
    when: ClassVar[str] = "Thousands of weights, in mini-batches: an sd for each weight, and the main correlations."
    start_parameters: ClassVar[int] = 1000

    def __init__(
        self,
        rank: int = 10,
        num_steps: int | None = None,
        learning_rate: float | None = None,
        batch_size: int | None = None,
        num_particles: int = 2,
        initial_scale: float | None = None,
        *,
        compile: bool | str = "auto",
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int | None = None,
        checkpoint_key: str | None = None,
        num_restarts: int = 1,
    ) -> None:
        kept = (checkpoint, checkpoint_every, checkpoint_key, num_restarts)
        super().__init__(num_steps, learning_rate, batch_size, num_particles, initial_scale, compile, *kept)
        self.rank = _check.count("rank", rank)

    def guide(self, log_joint: LogJoint, loc: torch.Tensor, scale: torch.Tensor) -> LowRankGuide:
        """See `AbstractGuided.guide`."""
        rank = min(self.rank, len(loc))
        directions = torch.linalg.qr(torch.randn(len(loc), rank, dtype=torch.float64)).Q.to(loc)
        shared = _SHARED * (len(loc) / rank) ** 0.5 * scale[:, None] * directions
        return LowRankGuide(log_joint.layout, loc, (1 - _SHARED**2) ** 0.5 * scale, shared)

    def from_normal(self, log_joint: LogJoint, loc: torch.Tensor, factor: torch.Tensor) -> Any:
        """The normal of that rank that is nearest in KL(q ‖ p)."""
        own, directions = nearest(factor.double() @ factor.double().mT, min(self.rank, len(loc)))
        return LowRankGuide(log_joint.layout, loc, own.to(loc), directions.to(loc))
