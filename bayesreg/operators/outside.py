"""Operators whose products are computed outside torch: sparse matrices, SciPy's linear operators and what looks like one.

They take part in automatic differentiation all the same: the derivative of A x is A, and its adjoint is Aᵀ.
"""

from __future__ import annotations

import abc
import hashlib
from typing import Any

import numpy as np
import torch

from bayesreg import _check
from bayesreg.operators.base import AbstractLinearOperator, shape_of

_NEEDS = "give it one, LinearOperator(shape, matvec=..., rmatvec=...), or pass a matrix"


class Products:
    """The products of a SciPy operator or sparse matrix with vectors, one a row. It is constant, so that copies share it."""

    def __init__(self, source: Any) -> None:
        self.source = source
        self.transposed = getattr(source, "T", None) if _is_sparse(source) else None

    def __deepcopy__(self, memo: dict[int, Any]) -> Products:
        return self

    def rows(self, vectors: np.ndarray, *, adjoint: bool) -> np.ndarray:
        """A v, or Aᵀ v, of each row v."""
        if self.transposed is not None:
            return ((self.transposed if adjoint else self.source) @ vectors.T).T
        if len(vectors) == 1:
            return np.asarray((self.source.rmatvec if adjoint else self.source.matvec)(vectors[0])).reshape(1, -1)
        return np.asarray((self.source.rmatmat if adjoint else self.source.matmat)(vectors.T)).T


class AbstractOutsideOperator(AbstractLinearOperator):
    """A linear operator by `Products`. What comes on another device than the CPU goes there and back."""

    @property
    @abc.abstractmethod
    def products(self) -> Products:
        """What multiplies."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A x, (..., *output_shape)."""
        return _Product.apply(self.field(x), self, False)  # pyright: ignore[reportReturnType]

    def adjoint(self, b: torch.Tensor) -> torch.Tensor:
        """Aᵀ b, (..., *shape)."""
        return _Product.apply(self.measurements(b), self, True)  # pyright: ignore[reportReturnType]

    def multiplied(self, x: torch.Tensor, *, adjoint: bool) -> torch.Tensor:
        """The product itself, without derivatives."""
        into, out = (self.output_shape, self.shape) if adjoint else (self.shape, self.output_shape)
        lead = x.shape[: x.dim() - len(into)]
        flat = x.detach().cpu().double().reshape(-1, self.num_data if adjoint else self.size).numpy()
        values = np.ascontiguousarray(self.products.rows(flat, adjoint=adjoint), dtype=np.float64)
        return torch.from_numpy(values).reshape(*lead, *out).to(x)

    def matrix(self) -> torch.Tensor:
        """A as a matrix, (M, N) float64."""
        if self.products.transposed is None:
            return super().matrix()
        return torch.from_numpy(np.asarray(self.products.source.toarray(), dtype=np.float64))


class FromLinearOperator(AbstractOutsideOperator):
    """A SciPy `LinearOperator`, a sparse matrix, or an operator of another package with the same face (PyLops).

    Its adjoint is put to the dot test when it is made.

    Args:
        operator: A (M, N), real: `matvec` and `rmatvec`, or a sparse matrix.
        shape: Shape of the unknown, N entries in row-major order; (N,) by default.
        output_shape: Shape of the measurements, M entries; (M,) by default.

    Raises:
        ValueError: If it is none of these, is complex or has no adjoint or one of another operator, gives NaN, or the shapes
            have not as many entries.

    >>> from scipy.sparse import csr_array
    >>> A = FromLinearOperator(csr_array([[0.0, 2.0], [1.0, 0.0], [0.0, 1.0]]))
    >>> A(torch.tensor([1.0, 2.0])).tolist()
    [4.0, 1.0, 2.0]
    """

    def __init__(
        self,
        operator: Any,
        shape: int | tuple[int, ...] | None = None,
        output_shape: int | tuple[int, ...] | None = None,
    ) -> None:
        source, num_data, size = _understood(operator)
        into = (size,) if shape is None else shape_of("shape", shape)
        out = (num_data,) if output_shape is None else shape_of("output_shape", output_shape)
        for name, sizes, number in (("shape", into, size), ("output_shape", out, num_data)):
            if np.prod(sizes) != number:
                raise ValueError(f"{name} must have {number:,} entries as the operator has, but {sizes} came; correct it.")
        super().__init__()
        self._products, self.shape, self.output_shape = Products(source), into, out
        self.digest = _digest(source)  # a file tells by it whether a matrix is that of the fit
        try:
            probe = self.adjoint(torch.zeros(out, dtype=torch.float64))
        except (NotImplementedError, AttributeError, TypeError) as error:
            raise ValueError(f"an operator must have an adjoint, but it has none ({error}); {_NEEDS}.") from None
        _finite(probe)
        single = np.dtype(getattr(source, "dtype", float) or float).itemsize < 8
        _finite(self(torch.ones(into, dtype=torch.float64)))
        self.check_adjoint(tolerance=1e-4 if single else 1e-10)

    @property
    def products(self) -> Products:
        """What multiplies."""
        return self._products


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(x: torch.Tensor, operator: AbstractOutsideOperator, adjoint: bool) -> torch.Tensor:
        return operator.multiplied(x, adjoint=adjoint)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: torch.Tensor) -> None:
        _, ctx.operator, ctx.adjoint = inputs

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        return _Product.apply(gradients[0], ctx.operator, not ctx.adjoint), None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: torch.Tensor) -> Any:
        return _Product.apply(tangents[0], ctx.operator, ctx.adjoint)

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: torch.Tensor, operator: AbstractOutsideOperator, adjoint: bool) -> Any:
        return _Product.apply(x.movedim(in_dims[0], 0), operator, adjoint), 0


def _understood(operator: Any) -> tuple[Any, int, int]:
    """A SciPy linear operator or sparse array, and its two sizes.

    Raises:
        ValueError: If it is neither, complex, empty, or a sparse matrix with entries that are not finite.
    """
    from scipy.sparse.linalg import aslinearoperator

    try:
        source: Any = operator.tocsr() if _is_sparse(operator) else aslinearoperator(operator)
        num_data, size = (_check.count("A's size", int(part)) for part in source.shape)
    except (TypeError, AttributeError) as error:
        raise ValueError(
            f"A must be a SciPy LinearOperator or a sparse matrix, but {type(operator).__name__} came ({error}); a function is "
            "operators.Nonlinear, a matrix operators.Dense."
        ) from None
    if np.issubdtype(np.dtype(source.dtype if source.dtype is not None else float), np.complexfloating):
        raise ValueError(f"A must be real, but {source.dtype} came; stack real and imaginary parts, in the data too.")
    if _is_sparse(source):
        bad = int((~np.isfinite(source.data)).sum())
        if bad:
            raise ValueError(f"A must be finite, but {bad:,} of its entries are NaN or infinite; correct them.")
        source = source.astype(np.float64)
    return source, num_data, size


def _is_sparse(source: Any) -> bool:
    from scipy import sparse

    return sparse.issparse(source)


def _digest(source: Any) -> str:
    """What tells a sparse matrix from another one; of other operators their kind and size only."""
    if not _is_sparse(source):
        return f"{type(source).__name__} {tuple(source.shape)}"
    return hashlib.sha256(b"".join(part.tobytes() for part in (source.data, source.indices, source.indptr))).hexdigest()


def _finite(values: torch.Tensor) -> None:
    """Refuse a product that is not finite.

    Raises:
        ValueError: If so.
    """
    if not bool(torch.isfinite(values).all()):
        raise ValueError("A must give finite numbers, but a product with ones or zeros is NaN or infinite; correct it.")
