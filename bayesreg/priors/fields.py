"""Priors on a field: neighbours along an axis are alike (smooth), or alike except for a few jumps (total variation).

Smooth           Σ |Δᵏ w|² / (2 scale²)        TotalVariation   Σ |Δ w| / scale        over all axes of the field
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import torch

from bayesreg import _check
from bayesreg.priors.analysis import Analysis, LeastSquares, primal_dual
from bayesreg.priors.base import Shape, shown
from bayesreg.priors.groups import AbstractPartsPrior
from bayesreg.priors.spectrum import Spectrum
from bayesreg.priors.values import HALF_LOG_2PI, log, wide

_EDGES = 200  # differences up to which a total variation prox is found by an active set


@dataclass(frozen=True, repr=False)
class AbstractFieldPrior(AbstractPartsPrior):
    """A prior on differences of neighbours. The whole tensor is one field, or each row or each column is one."""

    @property
    def _order(self) -> int:
        return 1

    def resolve(self, shape: Shape) -> Any:
        """The same prior with `fan_in` applied.

        Raises:
            ValueError: If the tensor lacks the axis that makes the fields, or has no axis long enough for a difference.
        """
        resolved = super().resolve(shape)
        if max(field_shape(shape, self.grouping), default=0) <= self._order:
            raise ValueError(
                f"{self} must meet a field with more than {self._order} entries along an axis, but shape {tuple(shape)} came; "
                "give this tensor a prior of independent entries, for example Normal(1.0)."
            )
        return resolved

    def _fields(self, value: torch.Tensor) -> torch.Tensor:
        """(G, *field): one field a line."""
        return fields_of(value, self.grouping)


@dataclass(frozen=True, repr=False)
class Smooth(AbstractFieldPrior):
    """Gaussian Markov random field on differences: log p(w) = −½ wᵀQw + ½ log|Q| − (n/2) log 2π.

    Q = Σ_axes DᵀD/scale² + I/level_scale², D the differences of this order. Without a level_scale the null space of D (a level
    for order 1, a line for order 2) is free: the density is improper, |Q| the product of the eigenvalues that are not zero.

    As a regulariser: Tikhonov with a difference operator, the penalty of a smoothing spline, ridge on neighbours' differences.

    Args:
        order: 1 for differences, 2 for second differences (curvature).
        scale: Standard deviation of a difference, > 0, or a prior of it; 1 when None, see `priors.scaled`.
        level_scale: Standard deviation of each entry in the factor I/level_scale², > 0; None leaves the level free.
        per: What forms a field: the whole "tensor" (all axes), each "row" or each "column".

    Raises:
        ValueError: If order is not 1 or 2, a scale not > 0, or per none of these.

    References:
        Tikhonov (1963), Solution of incorrectly formulated problems and the regularization method. Rue and Held (2005),
        Gaussian Markov Random Fields.

    >>> w = torch.tensor([0.0, 1.0, 3.0], dtype=torch.float64)
    >>> float(Smooth(1, 0.5).penalty(w)) == (1 + 4) / (2 * 0.5**2), float(Smooth(2, 0.5).penalty(w)) == 1 / (2 * 0.5**2)
    (True, True)
    """

    order: int = 1
    scale: Any = None
    level_scale: float | None = None
    per: str = "tensor"

    regulariser: ClassVar[str] = "Tikhonov on differences, smoothing spline"
    convex: ClassVar[bool] = True

    @property
    def proper(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """True with a level_scale."""
        return self.level_scale is not None

    @property
    def _order(self) -> int:
        return self.order

    def check(self) -> None:
        """Refuse another order than 1 or 2 and scales that are not > 0.

        Raises:
            ValueError: If so.
        """
        if isinstance(self.order, bool) or self.order not in (1, 2):
            raise ValueError(f"order must be 1 or 2, but {self.order!r} came; 1 is for differences, 2 for curvature.")
        if self.level_scale is not None:
            _check.positive("level_scale", self.level_scale)
        super().check()

    def stretched(self, factor: float) -> Smooth | None:
        """With `scale` and `level_scale` both times the factor."""
        level = None if self.level_scale is None else self.level_scale * factor
        return None if self.path_scale is None else replace(self, scale=self.path_scale * factor, level_scale=level)

    def penalty(self, value: torch.Tensor) -> torch.Tensor:
        """½ wᵀQw, a scalar in nats."""
        prior = self.at(value.shape)
        fields = prior._fields(wide(value))
        squares = sum((fields.diff(self.order, axis) / prior.scale).square().sum() for axis in range(1, fields.dim()))
        level = 0.0 if self.level_scale is None else (wide(value) / self.level_scale).square().sum()
        return torch.as_tensor(0.5 * (squares + level)).to(value.dtype)

    def log_normaliser(self, shape: Shape) -> Any:
        """½ log|Q| − (rank/2) log 2π."""
        prior, inner = self.at(shape), field_shape(shape, self.per)
        roots = self._roots(inner)
        count = math.prod(shape) // math.prod(inner)
        if self.level_scale is None:
            seen = roots[roots > 0]
            return count * (0.5 * float(seen.log().sum()) - len(seen) * (log(prior.scale) + HALF_LOG_2PI))
        half = 0.5 * self._levels(prior.scale, roots).log().sum()
        half = half.to(prior.scale.dtype) if isinstance(prior.scale, torch.Tensor) else float(half)
        return count * (half - roots.numel() * HALF_LOG_2PI)

    def draw(self, shape: Shape, num_samples: int, options: Mapping[str, Any]) -> torch.Tensor:
        """Independent normals along the eigenvectors of Q."""
        inner = field_shape(shape, self.per)
        count = math.prod(shape) // math.prod(inner)
        sd = self._levels(torch.as_tensor(self.scale).double(), self._roots(inner)).rsqrt()
        noise = torch.randn(num_samples * count, *inner, dtype=torch.float64) * sd
        drawn = self._along(noise, inner, back=True).reshape(num_samples, count, *inner)
        return torch.stack([unfield(part, shape, self.per) for part in drawn]).to(**options)

    def prox(self, value: torch.Tensor, step: Any) -> torch.Tensor:
        """(I + step Q)⁻¹ w, along the eigenvectors of Q."""
        prior, inner = self.at(value.shape), field_shape(value.shape, self.per)
        fields = prior._fields(value).double()
        levels = self._levels(prior.scale, self._roots(inner)).to(fields)
        solved = self._along(self._along(fields, inner) / (1 + step * levels), inner, back=True)
        return unfield(solved, value.shape, self.per).to(value)

    def gaussian(self, shape: Shape) -> tuple[float, torch.Tensor]:
        """Mean of each entry, 0, and the precision Q, (n, n), over the tensor laid flat, in float64."""
        size = math.prod(shape)
        return 0.0, self._times(torch.eye(size, dtype=torch.float64).reshape(-1, *shape)).reshape(size, size)

    def gaussian_root(self, shape: Shape) -> torch.Tensor:
        """The differences themselves over scale, and the level's ridge, (q, n) in float64."""
        prior, size = self.at(shape), math.prod(shape)
        fields = _lines(torch.eye(size, dtype=torch.float64).reshape(-1, *shape), self.per)
        rows = [fields.diff(self.order, axis).reshape(size, -1).mT / prior.scale for axis in range(2, fields.dim())]
        level = [] if self.level_scale is None else [torch.eye(size, dtype=torch.float64) / self.level_scale]
        return torch.cat(rows + level)

    def spectrum(self, shape: Shape) -> Spectrum:
        """By the eigenvectors of differences along each axis."""
        prior, inner, shape = self.at(shape), field_shape(shape, self.per), torch.Size(shape)
        levels = self._levels(float(prior.scale), self._roots(inner))
        waves = self._levels(float(prior.scale), _separable([_cosine_roots(length, self.order) for length in inner]))
        whole = lambda field: unfield(field.expand(math.prod(shape) // field.numel(), *inner), shape, self.per)  # noqa: E731

        def along(values: torch.Tensor, *, back: bool = False) -> torch.Tensor:
            lines = _lines(values.double(), self.per)
            turned = self._along(lines.reshape(-1, *inner), inner, back=back).reshape(lines.shape)
            return turned.movedim(1, 2) if self.per == "column" else turned.reshape(values.shape)

        def spread(weights: torch.Tensor) -> torch.Tensor:
            fields = fields_of(weights, self.per)
            for axis, length in enumerate(inner, start=1):
                squares = torch.as_tensor(_eigen(length, self.order)[1]).square()
                fields = torch.tensordot(fields.movedim(axis, -1), squares.mT, dims=1).movedim(-1, axis)
            return unfield(fields, shape, self.per)

        return Spectrum(0.0, whole(levels), along, lambda v: along(v, back=True), self._times, whole(waves), spread)

    def _times(self, values: torch.Tensor) -> torch.Tensor:
        """Q v for each v of (S, *shape)."""
        prior = self.at(values.shape[1:])
        fields = _lines(values, self.per)
        total = torch.zeros_like(fields) if self.level_scale is None else fields / self.level_scale**2
        for axis in range(2, fields.dim()):
            if fields.shape[axis] > self.order:
                edge = fields.new_zeros([self.order if i == axis else n for i, n in enumerate(fields.shape)])
                steps = fields.diff(self.order, axis) / prior.scale**2
                total = total + (-1) ** self.order * steps.diff(self.order, axis, prepend=edge, append=edge)
        return total.movedim(1, 2) if self.per == "column" else total.reshape(values.shape)

    def _roots(self, inner: tuple[int, ...]) -> torch.Tensor:
        """Eigenvalues of Σ_axes DᵀD over the field, in its shape; those of its null space are exactly zero."""
        return _separable([torch.as_tensor(_eigen(length, self.order)[0]) for length in inner])

    def _levels(self, scale: Any, roots: torch.Tensor) -> torch.Tensor:
        """Eigenvalues of Q."""
        return roots / (scale * scale) + (0.0 if self.level_scale is None else self.level_scale**-2)

    def _along(self, fields: torch.Tensor, inner: tuple[int, ...], *, back: bool = False) -> torch.Tensor:
        """Coordinates of (G, *field) along the eigenvectors, or the inverse."""
        for axis, length in enumerate(inner, start=1):
            vectors = torch.as_tensor(_eigen(length, self.order)[1]).to(fields)
            fields = torch.tensordot(fields.movedim(axis, -1), vectors.mT if back else vectors, dims=1).movedim(-1, axis)
        return fields

    @property
    def penalty_text(self) -> str:
        """The penalty as a person writes it."""
        level = "" if self.level_scale is None else f" + Σ w² / (2·{shown(self.level_scale)}²)"
        return f"Σ |Δ{'²' if self.order == 2 else ''}w|² / (2·{shown(self.scale)}²){level}"


@dataclass(frozen=True, repr=False)
class TotalVariation(AbstractFieldPrior):
    """Total variation: log p(w) = −Σ |Δw|/scale − (n − 1) log 2 scale, over all axes of the field.

    Improper: the level is free. In one dimension it is the density of the differences, independent Laplace variables; in more
    the sum over axes (anisotropic) has a normaliser that is not known and does not depend on scale, and is left out.

    As a regulariser: total variation, fused lasso. The mode is piecewise constant: differences are exactly zero except at
    jumps.

    Args:
        scale: Mean absolute difference, > 0, or a prior of it; 1 when None, see `priors.scaled`.
        per: What forms a field: the whole "tensor" (all axes), each "row" or each "column".

    Raises:
        ValueError: If scale is not > 0 or per none of these.

    References:
        Rudin, Osher and Fatemi (1992), Nonlinear total variation based noise removal algorithms. Tibshirani et al. (2005),
        Sparsity and smoothness via the fused lasso.

    >>> w = torch.tensor([0.0, 1.0, 1.0, 3.0], dtype=torch.float64)
    >>> float(TotalVariation(0.5).penalty(w)), TotalVariation(1.0).prox(w, 10.0).tolist()
    (6.0, [1.25, 1.25, 1.25, 1.25])
    """

    scale: Any = None
    per: str = "tensor"

    regulariser: ClassVar[str] = "total variation, fused lasso"
    convex: ClassVar[bool] = True
    proper: ClassVar[bool] = False
    smooth: ClassVar[bool] = False

    def penalty(self, value: torch.Tensor) -> torch.Tensor:
        """Σ |Δw|/scale, a scalar in nats."""
        prior = self.at(value.shape)
        fields = prior._fields(value)
        jumps: Any = sum(fields.diff(1, axis).abs().sum() for axis in range(1, fields.dim()))
        return jumps / prior.scale

    def log_normaliser(self, shape: Shape) -> Any:
        """−(n − 1) log 2 scale for each field."""
        prior, inner = self.at(shape), math.prod(field_shape(shape, self.per))
        return -(math.prod(shape) // inner) * (inner - 1) * (log(prior.scale) + math.log(2))

    def draw(self, shape: Shape, num_samples: int, options: Mapping[str, Any]) -> torch.Tensor:
        """There are none: the level is free.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            f"a draw must come from a proper prior, but {self} leaves the level free; take Smooth with level_scale."
        )

    def prox(self, value: torch.Tensor, step: Any) -> torch.Tensor:
        """Total variation denoising, by its dual: w − t Dᵀp, p the box-constrained least-squares solution of t Dᵀp ≈ w.

        Pieces on which no dual variable is at its bound are averaged, so that they are constant to the last digit.
        """
        prior = self.at(value.shape)
        fields = prior._fields(value).detach().cpu().double().numpy()
        solved = np.stack([_denoised(field, float(step / prior.scale)) for field in fields])
        return unfield(torch.as_tensor(solved), value.shape, self.per).to(value)

    def analysis(self, shape: Shape) -> Analysis:
        """All differences of neighbours."""
        prior, inner, shape = self.at(shape), field_shape(shape, self.per), torch.Size(shape)
        levels = _separable([_cosine_roots(length, 1) for length in inner])
        levels = unfield(levels.expand(math.prod(shape) // levels.numel(), *inner), shape, self.per)

        def times(w: torch.Tensor) -> torch.Tensor:
            fields = fields_of(w, self.per)
            return torch.cat([fields.diff(1, axis).reshape(-1) for axis in range(1, fields.dim())])

        def adjoint(p: torch.Tensor) -> torch.Tensor:
            fields = fields_of(p.new_zeros(shape), self.per)
            sizes = [[n - (i == axis) for i, n in enumerate(fields.shape)] for axis in range(1, fields.dim())]
            total = torch.zeros_like(fields)
            for axis, (size, part) in enumerate(zip(sizes, p.split([math.prod(size) for size in sizes]), strict=True), start=1):
                edge = p.new_zeros([1 if i == axis else n for i, n in enumerate(size)])
                total = total - part.reshape(size).diff(1, axis, prepend=edge, append=edge)
            return unfield(total, shape, self.per)

        def pieces(zero: torch.Tensor) -> torch.Tensor:
            from scipy.sparse import coo_array, csgraph

            size = math.prod(shape)
            fields = fields_of(torch.arange(size).reshape(shape), self.per)
            ends = [
                torch.stack([fields.narrow(axis, i, fields.shape[axis] - 1).reshape(-1) for i in (0, 1)])
                for axis in range(1, fields.dim())
            ]
            one, other = torch.cat(ends, 1)[:, zero].numpy()
            graph = coo_array((np.ones(len(one)), (one, other)), shape=(size, size))
            return torch.from_numpy(csgraph.connected_components(graph, directed=False)[1]).long()

        return Analysis(0.0, 1 / float(prior.scale), times, adjoint, levels, pieces)

    @property
    def penalty_text(self) -> str:
        """The penalty as a person writes it."""
        return f"Σ |Δw| / {shown(self.scale)}"


def field_shape(shape: Shape, per: str) -> tuple[int, ...]:
    """Shape of one field: the tensor's own, or without the axis along which the fields are counted."""
    return {"tensor": tuple(shape), "row": tuple(shape[1:]), "column": (*shape[:1], *shape[2:])}[per]


def fields_of(value: torch.Tensor, per: str) -> torch.Tensor:
    """The tensor as (G, *field)."""
    return {"tensor": lambda: value[None], "row": lambda: value, "column": lambda: value.movedim(1, 0)}[per]()


def _lines(values: torch.Tensor, per: str) -> torch.Tensor:
    """Many tensors (S, *shape) as (S, G, *field)."""
    return {"tensor": lambda: values[:, None], "row": lambda: values, "column": lambda: values.movedim(2, 1)}[per]()


def _separable(parts: list[torch.Tensor]) -> torch.Tensor:
    """The sum over axes of numbers along each, over the whole field."""
    total = torch.zeros([len(part) for part in parts], dtype=torch.float64)
    for axis, part in enumerate(parts):
        total = total + part.reshape([-1 if i == axis else 1 for i in range(len(parts))])
    return total


def _cosine_roots(length: int, order: int) -> torch.Tensor:
    """Eigenvalues of DᵀD along an axis, were the field mirrored at its ends: its eigenvectors are cosines then."""
    return (2 - 2 * (math.pi / length * torch.arange(length, dtype=torch.float64)).cos()) ** order * (length > order)


def unfield(fields: torch.Tensor, shape: Shape, per: str) -> torch.Tensor:
    """The inverse of `fields_of`."""
    return fields.movedim(0, 1) if per == "column" else fields.reshape(torch.Size(shape))


@functools.lru_cache(maxsize=64)
def _eigen(length: int, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and eigenvectors of DᵀD along an axis; the null space's values are exactly zero."""
    if length <= order:
        return np.zeros(length), np.eye(length)
    D = np.diff(np.eye(length), order, axis=0)
    values, vectors = np.linalg.eigh(D.T @ D)
    values[:order] = 0.0
    return values, vectors


@functools.lru_cache(maxsize=64)
def _differences(shape: tuple[int, ...]) -> Any:
    """The sparse matrix of all first differences of a field laid flat."""
    from scipy import sparse

    blocks = []
    for axis, length in enumerate(shape):
        if length > 1:
            step = sparse.csr_array(np.diff(np.eye(length), axis=0))
            before, after = math.prod(shape[:axis]), math.prod(shape[axis + 1 :])
            blocks.append(sparse.kron(sparse.kron(sparse.eye_array(before), step), sparse.eye_array(after)))
    found = sparse.vstack(blocks).tocsr()
    found.eliminate_zeros()  # a Kronecker product may store explicit zeros
    return found


def _denoised(field: np.ndarray, t: float) -> np.ndarray:
    """argmin_z t Σ|Δz| + ½‖z − field‖²."""
    if sum(field.size - field.size // n for n in field.shape) > _EDGES:
        flat, same = torch.from_numpy(field).reshape(-1), lambda z: z.reshape(-1)
        penalty = dataclasses.replace(TotalVariation().analysis(field.shape), strength=t)
        problem = LeastSquares(
            same, lambda y: y.reshape(field.shape), flat, penalty, torch.ones(field.shape, dtype=torch.float64)
        )
        return primal_dual(problem, 1e-9 * float((flat - flat.mean()).square().sum())).x.numpy()
    from scipy.optimize import lsq_linear
    from scipy.sparse import csgraph, csr_array

    D, flat = _differences(field.shape), field.ravel()
    matrix = t * D.T
    found = lsq_linear(matrix.toarray(), flat, bounds=(-1.0, 1.0), tol=1e-14, max_iter=2000, method="bvls")
    z = flat - matrix @ found.x
    # an edge whose dual variable is inside its bounds joins two neighbours
    together = np.abs(found.x) < 1 - 1e-9
    edges = np.abs(D[together]).tocsr().indices.reshape(-1, 2)
    graph = csr_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(len(flat), len(flat)))
    pieces = csgraph.connected_components(graph, directed=False)[1]
    return (np.bincount(pieces, z) / np.bincount(pieces))[pieces].reshape(field.shape)
