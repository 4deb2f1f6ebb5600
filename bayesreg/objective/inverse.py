"""A linear inverse problem with a Gaussian prior, by products alone: nothing of the size unknowns × unknowns is formed.

    −log p(x | b) = ½‖Ã x − b̃‖² + ½ (x − m)ᵀΛ(x − m) + const,   Ã = A/σ,  b̃ = b/σ
    H = ÃᵀÃ + Λ,     x̂ = H⁻¹(Ãᵀb̃ + Λ m),     x̂ + H⁻¹(Ãᵀε + L z) ~ N(x̂, H⁻¹)  for standard normal ε, z and L Lᵀ = Λ

How much log-density a point x still has to gain is ½ gᵀH⁻¹g with g = H(x̂ − x). It is bounded from above, since H ≥ Λ + W Wᵀ
with W what the data say about directions that the prior leaves free.
"""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any

import torch

from bayesreg.data.rows import Data
from bayesreg.model.model import BayesianModel
from bayesreg.operators import AbstractLinearOperator
from bayesreg.priors.analysis import cosines, diagonal_in_cosines
from bayesreg.priors.spectrum import Spectrum

MAX_FREE = 64  # directions that a prior may leave free: each is kept as a field
_NOTHING = 1e-10  # of the operator's size: what it does to a direction that it does not see


class Improper(ValueError):
    """Neither the data nor the prior determine a direction of the unknown."""


@dataclasses.dataclass(frozen=True, eq=False)
class Measurements:
    """b = A x + noise of known scale; fields are float64 and have any number S of draws as their first axis.

    Attributes:
        operator: A.
        sigma: σ.
        rows: The numbers of the measurements that were made, (m,); None where all were, in order.
    """

    operator: AbstractLinearOperator
    sigma: float
    rows: torch.Tensor | None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Ã x, (S, m)."""
        b = self.operator(x).reshape(len(x), -1) / self.sigma
        return b if self.rows is None else b[:, self.rows]

    def adjoint(self, b: torch.Tensor) -> torch.Tensor:
        """Ãᵀ b for b (S, m), (S, *shape)."""
        if self.rows is not None:
            b = b.new_zeros(len(b), self.operator.num_data).index_add_(1, self.rows, b)
        return self.operator.adjoint(b.reshape(-1, *self.operator.output_shape)) / self.sigma


@dataclasses.dataclass(frozen=True, eq=False)
class InverseProblem(Measurements):
    """The same with a Gaussian prior.

    Attributes:
        prior: Λ and m.

    Raises:
        Improper: By whatever needs H⁻¹, if the posterior is improper; it names the dimension.
    """

    prior: Spectrum

    def times(self, x: torch.Tensor) -> torch.Tensor:
        """H x, (S, *shape)."""
        return self.adjoint(self.forward(x)) + self.prior.times(x)

    def right(self, b: torch.Tensor) -> torch.Tensor:
        """Ãᵀb̃ + Λ m for measurements b (m,), (1, *shape)."""
        mean = torch.as_tensor(self.prior.loc, dtype=torch.float64).expand(self.prior.shape)
        pulled = self.prior.times(mean[None]) if bool(mean.any()) else 0.0
        return self.adjoint(b.double()[None] / self.sigma) + pulled

    def noise(self, num_samples: int, generator: torch.Generator) -> torch.Tensor:
        """Ãᵀε + L z, whose covariance is H, (S, *shape)."""
        count = self.operator.num_data if self.rows is None else len(self.rows)
        options: Any = {"generator": generator, "dtype": torch.float64}
        epsilon = torch.randn(num_samples, count, **options)
        return self.adjoint(epsilon) + self.prior.root(torch.randn(num_samples, *self.prior.shape, **options))

    def left(self, g: torch.Tensor) -> torch.Tensor:
        """An upper bound of ½ gᵀH⁻¹g, in nats, (S,).

        Args:
            g: The gradient of the log-density, (S, *shape).
        """
        if self._seen is None:
            found = self.prior.into(g).square() / self.prior.levels
            return 0.5 * found.flatten(1).sum(1)
        free, ways, factor = self._seen
        told = torch.linalg.solve_triangular(factor.mT, free.flatten(1) @ g.flatten(1).mT, upper=False)  # (k, S)
        rest = self.prior.into(g - torch.tensordot(told.mT, ways, 1))
        levels = self.prior.levels
        held = torch.where(levels > 0, rest.square() / torch.where(levels > 0, levels, 1.0), 0.0)
        return 0.5 * (held.flatten(1).sum(1) + told.square().sum(0))

    @cached_property
    def _seen(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
        """What the prior leaves free N (k, *shape), W (k, *shape), and R of Ã N = U R, W = ÃᵀU; None where nothing is free.

        Raises:
            Improper: If the data do not see some of it either.
        """
        if not self.prior.num_free:
            return None
        free = self.prior.free
        basis, factor = torch.linalg.qr(self.forward(free).mT)
        size = max(float(torch.linalg.matrix_norm(factor, 2)), float(self._bends.mean()) ** 0.5)
        missing = len(free) - int((torch.linalg.svdvals(factor) > _NOTHING * size).sum())
        if missing:
            raise Improper(improper(missing))
        return free, self.adjoint(basis.mT), factor

    @cached_property
    def _bends(self) -> torch.Tensor:
        """The diagonal of ÃᵀÃ in cosines, (*shape)."""
        return diagonal_in_cosines(lambda v: self.adjoint(self.forward(v[None]))[0], self.prior.shape)

    @cached_property
    def _diagonal(self) -> torch.Tensor:
        found = self._bends + self.prior.cosines
        return found.clamp_min(1e-12 * float(found.max()))

    @cached_property
    def variance_of_preconditioner(self) -> torch.Tensor:
        """The diagonal of what `precondition` multiplies by, (*shape): of C diag(1/d) Cᵀ with C the cosines."""
        found = 1 / self._diagonal
        for axis, length in enumerate(found.shape):
            squares = cosines(torch.eye(length, dtype=torch.float64), axes=(1,)).square()  # entry (i, k): the k-th cosine at i
            found = torch.tensordot(found.movedim(axis, -1), squares.mT, dims=1).movedim(-1, axis)
        return found

    def precondition(self, g: torch.Tensor) -> torch.Tensor:
        """About H⁻¹ g, (S, *shape): by the diagonal of H in cosines, nearly all there is for a filter."""
        axes = tuple(range(1, g.dim()))
        return cosines(cosines(g, axes=axes) / self._diagonal, back=True, axes=axes)


def improper(missing: int) -> str:
    """The error of a posterior that is improper in so many dimensions."""
    return (
        f"the posterior must be proper, but A and the prior together leave a null space of dimension {missing:,} free: there "
        "x moves without any effect on b or on the prior; give x a proper prior, Normal(scale), or Smooth with a level_scale."
    )


def num_free(rows: torch.Tensor) -> int:
    """The dimension of the null space of rows, (q, n) with n columns of about one length."""
    values = torch.linalg.svdvals(rows)
    return rows.shape[1] - int((values > 1e-12 * values[0]).sum()) if float(values[0]) > 0 else rows.shape[1]


@dataclasses.dataclass(frozen=True, eq=False)
class LowRank:
    """What the data say about a few directions, and a bound of what the others would add.

        Cov[x | b] = Λ⁻¹ − Σ_k μ_k/(1 + μ_k) c_k c_kᵀ − rest,     0 ≤ rest ≤ μ/(1 + μ) Λ⁻¹ with μ the smallest one kept

    Attributes:
        gains: μ, eigenvalues of ÃᵀÃ in the prior's own units, from the largest, (K,).
        directions: c, (K, *shape).
        variance: The diagonal of the covariance without the rest, (*shape).
    """

    gains: torch.Tensor
    directions: torch.Tensor
    variance: torch.Tensor

    @property
    def error(self) -> float:
        """What part of the prior's variance the rest is at most."""
        return float(self.gains[-1] / (1 + self.gains[-1]))


def low_rank(problem: InverseProblem, rank: int, *, seed: int = 0) -> LowRank:
    """The best-determined directions, by a randomised eigendecomposition with one power iteration.

    Args:
        problem: One whose prior is proper.
        rank: K.
        seed: Of the random fields.

    Returns:
        They, and the marginal variances that follow.

    Raises:
        ValueError: If the prior is improper.

    References:
        Halko, Martinsson and Tropp (2011), Finding structure with randomness: probabilistic algorithms for constructing
        approximate matrix decompositions. Bui-Thanh, Ghattas, Martin and Stadler (2013), A computational framework for
        infinite-dimensional Bayesian inverse problems, part I.
    """
    prior, size = problem.prior, problem.prior.levels.numel()
    if prior.num_free:
        raise ValueError(
            "a low-rank posterior needs a proper prior, but this one leaves directions free: give it a level_scale."
        )
    generator = torch.Generator().manual_seed(seed)

    def product(v: torch.Tensor) -> torch.Tensor:
        parts = [prior.inverse_root(part.reshape(-1, *prior.shape)) for part in v.mT.split(8)]
        return torch.cat([prior.inverse_root_adjoint(problem.adjoint(problem.forward(p))).flatten(1) for p in parts]).mT

    width = min(size, rank + 10)
    basis = torch.linalg.qr(product(torch.randn(size, width, generator=generator, dtype=torch.float64))).Q
    basis = torch.linalg.qr(product(basis)).Q
    values, vectors = torch.linalg.eigh(basis.mT @ product(basis))
    gains = values.flip(0)[:rank].clamp_min(0)
    ways = basis @ vectors.flip(1)[:, :rank]
    directions = torch.cat([prior.inverse_root(part.reshape(-1, *prior.shape)) for part in ways.mT.split(8)])
    share = (gains / (1 + gains)).reshape(-1, *[1] * len(prior.shape))
    return LowRank(gains, directions, prior.variance - (share * directions.square()).sum(0))


def of_model(model: BayesianModel, rows: torch.Tensor | None) -> Measurements | None:
    """What a model says of its measurements, where it is a linear inverse problem with known Gaussian noise, else None.

    Args:
        model: The model.
        rows: The numbers of the measurements; None for all.
    """
    operator = model.linear_operator
    sigma = model.likelihood.fixed.get(model.likelihood.squared_error_scale or "")
    if operator is None or sigma is None or model.outputs or set(model.latents) != {"x"} or model.like.device.type != "cpu":
        return None
    return None if model.latents["x"].parents else Measurements(operator, float(sigma), rows)


def measurements(model: BayesianModel, data: Data) -> Measurements | None:
    """The same for the measurements of a fit, None also where these are streamed."""
    operator = model.linear_operator
    if operator is None or data.x is None or not isinstance(data.y, torch.Tensor):
        return None
    rows: Any = data.x.reshape(-1).long()
    return of_model(model, None if torch.equal(rows, torch.arange(operator.num_data)) else rows)


def with_prior(found: Measurements | None, model: BayesianModel) -> InverseProblem | None:
    """Measurements with the prior of x, where that is Gaussian, else None."""
    prior = None if found is None else model.latents["x"].prior.spectrum(found.operator.shape)
    return None if found is None or prior is None else InverseProblem(found.operator, found.sigma, found.rows, prior)


def inverse_problem(model: BayesianModel, data: Data) -> InverseProblem | None:
    """A model and its rows as a linear inverse problem with a Gaussian prior and known noise, or None where it is none."""
    return with_prior(measurements(model, data), model)
