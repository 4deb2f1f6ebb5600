"""A normal distribution whose covariance is a diagonal plus a matrix of low rank."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from bayesreg.model.model import BayesianModel
from bayesreg.posteriors.gaussian import AbstractNormal
from bayesreg.posteriors.record import FitRecord


class LowRankGaussian(AbstractNormal):
    """N(loc, diag(sd²) + V Vᵀ) over the unconstrained vector.

    Args:
        model: The model, bound to its training data.
        record: What the method says about the fit.
        loc: (P,).
        sd: What each entry has for itself, ≥ 0, (P,).
        directions: V, (P, K).
    """

    state_shapes: ClassVar = {"loc": "P", "sd": "P", "directions": "PK"}

    def __init__(
        self, model: BayesianModel, record: FitRecord, loc: torch.Tensor, sd: torch.Tensor, directions: torch.Tensor
    ) -> None:
        super().__init__(model, record)
        self.loc, self.sd, self.directions = loc.detach(), sd.detach(), directions.detach()

    @property
    def covariance(self) -> torch.Tensor:
        """(P, P), of the unconstrained vector in the layout's order."""
        return self.sd.square().diag() + self.directions @ self.directions.mT

    def draw(self, num_samples: int, generator: torch.Generator) -> torch.Tensor:
        """Draws, (S, P)."""
        own, shared = (
            torch.randn(num_samples, size, generator=generator, dtype=self.loc.dtype).to(self.loc.device)
            for size in self.directions.shape
        )
        return self.loc + own * self.sd + shared @ self.directions.mT

    def unconstrained_moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and sd of each entry."""
        return self.loc, (self.sd.square() + self.directions.square().sum(1)).sqrt()

    def as_normal(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Location and factor, (P, K + P); None where the diagonal is too large to be written out."""
        size = len(self.loc)
        if size * (size + self.directions.shape[1]) > _ENTRIES:
            return None
        return self.loc, torch.cat([self.directions, self.sd.diag()], 1)

    def times_factor(self, rows: torch.Tensor) -> torch.Tensor:
        """See `AbstractPosterior.times_factor`; for any number of unknowns."""
        return torch.cat([rows @ self.directions.to(rows), rows * self.sd.to(rows)], 1)

    def log_density(self, u: torch.Tensor) -> torch.Tensor | None:
        """See `AbstractPosterior.log_density`; by Woodbury's identity, for any number of unknowns."""
        if not bool((self.sd > 0).all()):
            return super().log_density(u)
        loc, directions, sd = (part.double() for part in (self.loc, self.directions, self.sd))
        normal = torch.distributions.LowRankMultivariateNormal(loc, directions, sd.square(), validate_args=False)
        return normal.log_prob(u.double())

    def state(self) -> dict[str, Any]:
        """Location, sds and directions."""
        return {"loc": self.loc, "sd": self.sd, "directions": self.directions}

    @classmethod
    def from_state(cls, model: BayesianModel, record: FitRecord, state: dict[str, Any]) -> LowRankGaussian:
        """The inverse of `state`."""
        return cls(model, record, **state)


_ENTRIES = 10**8
_LEAST = 0.05  # of an entry's sd given the others, that it keeps for itself where the directions would take all


def moments_of_path(path: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What SWAG makes of the points on a path: half of its covariance from each part.

    Σ = ½ diag(mean(u²) − mean(u)²) + 1/(2(K − 1)) Σ_{last K} (u_i − ū_i)(u_i − ū_i)ᵀ,   ū_i the mean of the first i points

    Args:
        path: Points in their order, (S, P).
        rank: K, from 2 to S.

    Returns:
        Mean (P,), sd by entry (P,), and directions (P, K).

    References:
        Maddox, Garipov, Izmailov, Vetrov and Wilson (2019), A simple baseline for Bayesian uncertainty in deep learning.

    >>> path = torch.tensor([[0.0, 1.0], [2.0, 1.0], [4.0, 4.0]], dtype=torch.float64)
    >>> mean, sd, directions = moments_of_path(path, 2)
    >>> mean.tolist(), sd.square().tolist(), (directions @ directions.mT).round(decimals=6).tolist()
    ([2.0, 2.0], [1.333333..., 1.0], [[2.5, 2.0], [2.0, 2.0]])
    """
    so_far = path.cumsum(0) / torch.arange(1, len(path) + 1).to(path)[:, None]
    away = (path - so_far)[-rank:]
    return path.mean(0), (path.var(0, correction=0) / 2).sqrt(), away.mT / (2 * (rank - 1)) ** 0.5


def nearest(covariance: torch.Tensor, rank: int, num_rounds: int = 50) -> tuple[torch.Tensor, torch.Tensor]:
    """The diagonal plus low rank S = diag(d²) + V Vᵀ that is nearest to a covariance Σ, in KL(N(0, S) ‖ N(0, Σ)).

    Given d, V are the directions of the smallest eigenvalues of diag(d) Σ⁻¹ diag(d), below 1; given V, d is where the diagonals
    of S⁻¹ and Σ⁻¹ agree. The two take turns.

    Args:
        covariance: Σ, (P, P), positive definite.
        rank: K, up to P; at P it is Σ itself.
        num_rounds: Turns.

    Returns:
        d (P,), > 0, and V (P, K).

    >>> sigma = torch.tensor([[2.0, 1.5, 0.0], [1.5, 2.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    >>> own, directions = nearest(sigma, 1)
    >>> torch.allclose(own.square().diag() + directions @ directions.mT, sigma, atol=1e-4)
    True
    """
    precision = torch.cholesky_inverse(torch.linalg.cholesky(covariance))
    bend = precision.diagonal()
    own = bend.rsqrt()
    if rank >= len(bend):
        own = own * (0.5 * torch.linalg.eigvalsh(own[:, None] * precision * own)[-1].reciprocal()).sqrt()
        num_rounds = 1
    for turn in range(num_rounds):
        values, vectors = torch.linalg.eigh(own[:, None] * precision * own)
        along = (1 / values[:rank] - 1).clamp(min=1e-12)
        directions = own[:, None] * vectors[:, :rank] * along.sqrt()
        if turn < num_rounds - 1:
            inverse = (1 - (vectors[:, :rank].square() * (along / (1 + along))).sum(1)) / own.square()  # of S, its diagonal
            own = own * (inverse / bend).clamp(min=0.0).sqrt()
            own = own.maximum(_LEAST * bend.rsqrt())
    return own, directions
