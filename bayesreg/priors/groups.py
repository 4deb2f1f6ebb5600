"""Priors on groups of entries: groups that are zero or not as a whole, or correlated entries.

GroupLasso            exact zeros for whole groups        GroupHorseshoe     the same without shrinking the large ones
MultivariateNormal    a known covariance within a group
"""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import torch

from bayesreg import _check
from bayesreg.priors.base import AbstractTensorPrior, Shape, shown
from bayesreg.priors.numeric import NEAR, STEP, beside_the_pole, nodes_for
from bayesreg.priors.scaled import AbstractScaledPrior, shared_shape
from bayesreg.priors.sparse import half_cauchy
from bayesreg.priors.values import HALF_LOG_2PI, log, wide

GROUPS = ("row", "column", "tensor")
NEWTON_STEPS = 6  # Newton steps of the group lasso's prox: sixteen digits where steps differ by 10⁶ within a group


@dataclass(frozen=True, repr=False)
class AbstractPartsPrior(AbstractScaledPrior, AbstractTensorPrior):
    """A prior under which parts of a tensor are independent: the whole of it, or each row or each column, as `per` says."""

    def check(self) -> None:
        """Refuse an invalid scale or an unknown kind of part."""
        super().check()
        _check.one_of("per", self.grouping, GROUPS)

    @property
    def grouping(self) -> str:
        """The field `per`: which entries form a part."""
        return self.per  # pyright: ignore[reportAttributeAccessIssue]  (each class declares it in its own order)

    def resolve(self, shape: Shape) -> Any:
        """The same prior with `fan_in` applied.

        Raises:
            ValueError: If the tensor lacks the axis that makes the parts.
        """
        shared_shape(shape, self.grouping)  # refuses an axis that the tensor lacks
        return super().resolve(shape)


@dataclass(frozen=True, repr=False)
class AbstractGroupPrior(AbstractPartsPrior):
    """A prior under which groups of entries are independent, and each depends on its Euclidean norm only.

    A subclass writes `_energy` and `_log_constant` of a norm.
    """

    def _norms(self, value: torch.Tensor) -> torch.Tensor:
        """(G,), one norm a group."""
        return torch.linalg.vector_norm(grouped(value, self.grouping), dim=1)

    def penalty(self, value: torch.Tensor) -> torch.Tensor:
        """The regulariser, log p(mode) − log p(value), a scalar in nats, summed over groups."""
        prior = self.at(value.shape)
        return prior._energy(prior._norms(wide(value)), group_size(value.shape, self.grouping)).sum().to(value.dtype)

    def log_normaliser(self, shape: Shape) -> Any:
        """The log-density where the penalty is zero."""
        prior, size = self.at(shape), group_size(shape, self.grouping)
        return math.prod(shape) // size * prior._log_constant(size)

    @abc.abstractmethod
    def _energy(self, norm: torch.Tensor, size: int) -> torch.Tensor:
        """−log density of a group of `size` entries with this norm, relative to the reference norm."""

    @abc.abstractmethod
    def _log_constant(self, size: int) -> Any:
        """The log-density of a group of `size` entries at the reference norm."""


@dataclass(frozen=True, repr=False)
class GroupLasso(AbstractGroupPrior):
    """Multivariate Laplace on each group of d entries: log p(w) = Σ_g −‖w_g‖/scale + log Γ(d/2) − log 2π^(d/2) Γ(d) scale^d.

    As a regulariser: the group lasso. The mode sets whole groups to exactly zero: with per="column" all weights that leave one
    input, which drops that input.

    Args:
        scale: ‖w_g‖ has mean d · scale, > 0; or a prior of it; 1 when None, see `priors.scaled`.
        per: What is a group: a "row" (all inputs of one output), a "column" (all outputs of one input), or the "tensor".

    Raises:
        ValueError: If scale is not > 0 or per none of these.

    References:
        Yuan and Lin (2006), Model selection and estimation in regression with grouped variables. Raman et al. (2009), The
        Bayesian group-lasso for analyzing contingency tables.

    >>> from bayesreg.priors import Laplace
    >>> w = torch.tensor([[3.0, 0.0], [4.0, 0.0]], dtype=torch.float64)
    >>> float(GroupLasso(0.5, per="column").penalty(w)) == 5 / 0.5
    True
    >>> single = torch.tensor([[1.0, -2.0]], dtype=torch.float64)  # one row: a column is a single entry
    >>> bool(torch.isclose(GroupLasso(0.5, per="column").log_prob(single), Laplace(0.5).log_prob(single)))
    True
    """

    scale: Any = None
    per: str = "column"

    regulariser: ClassVar[str] = "group lasso"
    convex: ClassVar[bool] = True
    smooth: ClassVar[bool] = False
    separable_prox: ClassVar[bool] = True
    shrinks_groups: ClassVar[bool] = True

    def _energy(self, norm: torch.Tensor, size: int) -> torch.Tensor:
        return norm / self.scale

    def _log_constant(self, size: int) -> Any:
        shape = math.lgamma(size / 2) - math.log(2) - size / 2 * math.log(math.pi) - math.lgamma(size)
        return shape - size * log(self.scale)

    def draw(self, shape: Shape, num_samples: int, options: Mapping[str, Any]) -> torch.Tensor:
        """A uniform direction times a Gamma(d, 1/scale) norm."""
        size = group_size(shape, self.per)
        unit, radius = _direction(shape, self.per, num_samples), torch.tensor(float(size), dtype=torch.float64)
        norms = torch.distributions.Gamma(radius, torch.ones_like(radius)).sample(unit.shape[:2])
        return ungrouped(unit * norms[..., None], shape, self.per).to(**options) * self.scale

    def prox(self, value: torch.Tensor, step: float | torch.Tensor) -> torch.Tensor:
        """Block soft thresholding: each group's norm shrinks by step/scale and stops at zero.

        With a step for each entry, z = v r/(r + step/scale), whose norm r solves Σ v²/(r + step/scale)² = 1 by Newton's method
        on the sum's inverse root, which is concave: from below, ‖v‖ − max step/scale, it climbs to the solution and never
        passes it.
        """
        prior = self.at(value.shape)
        groups = grouped(value, self.per)
        if not isinstance(step, torch.Tensor) or step.dim() == 0:
            norms = torch.linalg.vector_norm(groups, dim=1, keepdim=True)
            shrunk = (1 - step / (prior.scale * norms.clamp_min(torch.finfo(value.dtype).tiny))).clamp_min(0)
            return ungrouped((groups * shrunk)[None], value.shape, self.per)[0]
        reach = grouped(step, self.per) / prior.scale
        alive = (groups / reach).square().sum(1, keepdim=True) > 1
        tiny = torch.finfo(value.dtype).tiny
        norm = (torch.linalg.vector_norm(groups, dim=1, keepdim=True) - reach.amax(1, keepdim=True)).clamp_min(0)
        for _ in range(NEWTON_STEPS):
            width = norm + reach
            squares = (groups / width).square()
            total = squares.sum(1, keepdim=True)
            norm = norm + (total.sqrt() - 1) * total / (squares / width).sum(1, keepdim=True).clamp_min(tiny)
        found = torch.where(alive, groups * (norm / (norm + reach)), 0.0)
        return ungrouped(found[None], value.shape, self.per)[0]

    @property
    def penalty_text(self) -> str:
        """The penalty as a person writes it."""
        return f"Σ_{self.per} ‖w‖ / {shown(self.scale)}"


@dataclass(frozen=True, repr=False)
class GroupHorseshoe(AbstractGroupPrior):
    """Horseshoe on groups: w_g ~ N(0, (scale λ_g)² I), λ_g ~ HalfCauchy(1), one λ a group, integrated out by quadrature.

    As a regulariser: whole groups are shrunk to almost nothing or hardly at all. It has a pole at zero and no mode; the penalty
    counts from ‖w_g‖ = scale. With λ as unknowns: Normal(HalfCauchy(scale), per="column", centered=False).

    Args:
        scale: The global scale, > 0, or a prior of it; 1 when None, see `priors.scaled`.
        per: What is a group: a "row", a "column" or the "tensor".

    Raises:
        ValueError: If scale is not > 0 or per none of these.

    References:
        Carvalho, Polson and Scott (2010), The horseshoe estimator for sparse signals. Xu, Schmidt, Makalic, Qian and Hopper
        (2016), Bayesian grouped horseshoe regression with application to additive models.

    >>> from bayesreg.priors import Horseshoe
    >>> single = torch.tensor([[1.0, -2.0]], dtype=torch.float64)  # one row: a column is a single entry
    >>> bool(torch.isclose(GroupHorseshoe(0.5, per="column").log_prob(single), Horseshoe(0.5).log_prob(single)))
    True
    """

    scale: Any = None
    per: str = "column"

    regulariser: ClassVar[str] = "group horseshoe"
    smooth: ClassVar[bool] = False
    bounded: ClassVar[bool] = False

    def _log_density(self, norm: torch.Tensor, size: int) -> torch.Tensor:
        """Log-density of a group of sd 1 at this norm; see `priors.sparse`."""
        least = NEAR if size == 1 else torch.finfo(norm.dtype).tiny ** 0.4
        reached = norm.clamp_min(least)
        v = nodes_for(reached)
        if size > 1:  # λ is then near ‖w‖, however small that is
            v = v - (reached.detach().clamp_max(NEAR) / NEAR).log()[..., None]
        weights = math.log(2 * STEP / math.pi) - size * HALF_LOG_2PI + (size + 1) * v - torch.log1p((2 * v).exp())
        found = torch.logsumexp(weights - 0.5 * reached.square()[..., None] * (2 * v).exp(), -1)
        return beside_the_pole(norm, found, NEAR) if size == 1 else found

    def _energy(self, norm: torch.Tensor, size: int) -> torch.Tensor:
        return self._log_density(norm.new_ones(()), size) - self._log_density(norm / self.scale, size)

    def _log_constant(self, size: int) -> Any:
        return float(self._log_density(torch.ones((), dtype=torch.float64), size)) - size * log(self.scale)

    def draw(self, shape: Shape, num_samples: int, options: Mapping[str, Any]) -> torch.Tensor:
        """Normals times one half-Cauchy a group."""
        size = group_size(shape, self.per)
        local = half_cauchy((num_samples, math.prod(shape) // size, 1))
        normal = torch.randn(*local.shape[:2], size, dtype=torch.float64)
        return ungrouped(normal * local, shape, self.per).to(**options) * self.scale

    def prox(self, value: torch.Tensor, step: float | torch.Tensor) -> torch.Tensor:
        """There is none: the density has a pole where a group is zero.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            f"a prox must have a minimum, but {self} has a pole, where step·penalty falls to −∞; take GroupLasso for a mode, "
            "or a posterior method."
        )

    @property
    def penalty_text(self) -> str:
        """The penalty as a person writes it."""
        return f"−Σ_{self.per} log ∫ N(w; ({shown(self.scale)}·λ)²) dλ/(1 + λ²)"


@dataclass(frozen=True, repr=False)
class MultivariateNormal(AbstractTensorPrior):
    """Correlated normal: log p(w) = Σ_g −½ (w_g − loc)ᵀ C⁻¹ (w_g − loc) − ½ log|2πC|, C the covariance of one group.

    As a regulariser: generalised Tikhonov, ‖L(w − loc)‖² with LᵀL = C⁻¹.

    Args:
        covariance: C, (d, d), symmetric and positive definite: rows of numbers, an array or a tensor.
        loc: Mean of each entry.
        per: What a group of d entries is: the whole "tensor" laid flat, each "row", or each "column".

    Raises:
        ValueError: If covariance is not a symmetric positive definite matrix, loc not finite or per none of these.

    References:
        Tikhonov and Arsenin (1977), Solutions of Ill-posed Problems. Tarantola (2005), Inverse Problem Theory.

    >>> w, C = torch.tensor([1.0, -2.0]), torch.tensor([[2.0, 0.5], [0.5, 1.0]])
    >>> theirs = torch.distributions.MultivariateNormal(torch.zeros(2), C)
    >>> bool(torch.isclose(MultivariateNormal(C).log_prob(w), theirs.log_prob(w)))
    True
    """

    covariance: Any = ((1.0, 0.5), (0.5, 1.0))
    loc: float = 0.0
    per: str = "tensor"

    regulariser: ClassVar[str] = "generalised Tikhonov"
    convex: ClassVar[bool] = True

    def __post_init__(self) -> None:
        try:
            matrix = torch.as_tensor(self.covariance, dtype=torch.float64)
        except (TypeError, ValueError, ArithmeticError):  # what torch raises for a text, a ragged list, a number of 400 digits
            raise ValueError(
                f"covariance must be a square matrix of numbers, but {_check.said(self.covariance)} came; pass for example "
                "((1.0, 0.5), (0.5, 1.0))."
            ) from None
        object.__setattr__(self, "covariance", tuple(map(tuple, matrix.tolist())) if matrix.dim() == 2 else self.covariance)
        super().__post_init__()

    def check(self) -> None:
        """Refuse what is no covariance matrix.

        Raises:
            ValueError: If so.
        """
        _check.finite("loc", self.loc)
        _check.one_of("per", self.per, GROUPS)
        matrix = self._matrix
        square = matrix.dim() == 2 and matrix.shape[0] == matrix.shape[1]
        symmetric = square and bool(torch.isfinite(matrix).all()) and bool(torch.allclose(matrix, matrix.mT, rtol=1e-10))
        if not symmetric or int(torch.linalg.cholesky_ex(matrix).info) != 0:
            raise ValueError(
                f"covariance must be a symmetric positive definite matrix, but one of shape {tuple(matrix.shape)} came that is "
                "not; add a little to its diagonal, or check its rows."
            )

    @cached_property
    def _matrix(self) -> torch.Tensor:
        return torch.as_tensor(self.covariance, dtype=torch.float64)

    @cached_property
    def _factor(self) -> torch.Tensor:
        return torch.linalg.cholesky(self._matrix)

    @cached_property
    def _precision(self) -> torch.Tensor:
        return torch.cholesky_inverse(self._factor)

    def resolve(self, shape: Shape) -> MultivariateNormal:
        """This prior itself.

        Raises:
            ValueError: If the tensor lacks the axis that makes the groups, or its groups have another size than d.
        """
        shared_shape(shape, self.per)
        size = group_size(shape, self.per)
        if size != len(self._matrix):
            raise ValueError(
                f"covariance must be {size} × {size} for per={self.per!r} on shape {tuple(shape)}, but it is "
                f"{len(self._matrix)} × {len(self._matrix)}; pass one of that size, or another per."
            )
        return self

    def penalty(self, value: torch.Tensor) -> torch.Tensor:
        """½ (w_g − loc)ᵀ C⁻¹ (w_g − loc), summed over groups, a scalar in nats."""
        self.resolve(value.shape)
        shift = grouped(wide(value), self.per) - self.loc
        return (0.5 * (shift @ self._precision.to(shift) * shift).sum()).to(value.dtype)

    def log_normaliser(self, shape: Shape) -> float:
        """−½ log|2πC| for each group."""
        size = len(self._matrix)
        each = -size * HALF_LOG_2PI - float(self._factor.diagonal().log().sum())
        return math.prod(shape) // size * each

    def draw(self, shape: Shape, num_samples: int, options: Mapping[str, Any]) -> torch.Tensor:
        """Standard normals through the Cholesky factor."""
        size = len(self._matrix)
        noise = torch.randn(num_samples, math.prod(shape) // size, size, dtype=torch.float64)
        return ungrouped(self.loc + noise @ self._factor.mT, shape, self.per).to(**options)

    def prox(self, value: torch.Tensor, step: float | torch.Tensor) -> torch.Tensor:
        """Loc + (I + step C⁻¹)⁻¹ (w − loc) for each group."""
        self.resolve(value.shape)
        shift = grouped(value, self.per) - self.loc
        precision = self._precision.to(shift)
        matrix = torch.eye(len(precision), dtype=shift.dtype, device=shift.device) + step * precision
        return ungrouped((self.loc + torch.linalg.solve(matrix, shift.mT).mT)[None], value.shape, self.per)[0]

    def stretched(self, factor: float) -> MultivariateNormal:
        """With the covariance times factor²."""
        return replace(self, covariance=self._matrix * factor**2)

    def gaussian(self, shape: Shape) -> tuple[float, torch.Tensor]:
        """Mean of each entry, and the precision (n, n) over the tensor laid flat, in float64."""
        self.resolve(shape)
        size = math.prod(shape)
        order = grouped(torch.arange(size).reshape(torch.Size(shape)), self.per)
        full = torch.zeros(size, size, dtype=torch.float64)
        for group in order:
            full[group[:, None], group] = self._precision
        return self.loc, full

    def gaussian_root(self, shape: Shape) -> torch.Tensor:
        """The inverse of C's Cholesky factor, in each group, (n, n) in float64."""
        self.resolve(shape)
        size, d = math.prod(shape), len(self._matrix)
        root = torch.linalg.solve_triangular(self._factor, torch.eye(d, dtype=torch.float64), upper=False)
        full = torch.zeros(size, size, dtype=torch.float64)
        for g, group in enumerate(grouped(torch.arange(size).reshape(torch.Size(shape)), self.per)):
            full[g * d : (g + 1) * d, group] = root
        return full

    @property
    def penalty_text(self) -> str:
        """The penalty as a person writes it."""
        w = "w" if self.loc == 0 else f"(w − {self.loc:g})"
        return f"½ {w}ᵀ C⁻¹ {w}, C {len(self._matrix)} × {len(self._matrix)}"


def grouped(value: torch.Tensor, per: str) -> torch.Tensor:
    """The tensor as (G, d), one line a group."""
    if per == "tensor":
        return value.reshape(1, -1)
    return (value if per == "row" else value.movedim(1, 0)).reshape(value.shape[0 if per == "row" else 1], -1)


def ungrouped(groups: torch.Tensor, shape: Shape, per: str) -> torch.Tensor:
    """The inverse of `grouped`, over a leading axis of draws: (S, G, d) to (S, *shape)."""
    shape = tuple(shape)
    if per != "column":
        return groups.reshape(-1, *shape)
    return groups.reshape(len(groups), shape[1], shape[0], *shape[2:]).movedim(1, 2)


def group_size(shape: Shape, per: str) -> int:
    """d, the number of entries of a group."""
    return math.prod(shape) // {"row": lambda: shape[0], "column": lambda: shape[1], "tensor": lambda: 1}[per]()


def _direction(shape: Shape, per: str, num_samples: int) -> torch.Tensor:
    size = group_size(shape, per)
    normal = torch.randn(num_samples, math.prod(shape) // size, size, dtype=torch.float64)
    return normal / torch.linalg.vector_norm(normal, dim=-1, keepdim=True)
