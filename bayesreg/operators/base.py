"""What a forward map of an inverse problem is: b = F(x) + ε, and for a linear one its adjoint.

    ⟨A x, b⟩ = ⟨x, Aᵀ b⟩   for every x and b: the dot test, which each linear operator must pass

An operator acts on fields of `shape` and gives measurements of `output_shape`; both take any number of leading axes, so that
many draws go through at once. Linear ones have an algebra: A @ B, A + B, A - B, 2 * A, A.T.
"""

from __future__ import annotations

import abc
import math
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn

from bayesreg import _check

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

_DOT = 1e-10  # by how much of its size the two sides of the dot test may differ in float64


def shape_of(name: str, shape: Any) -> tuple[int, ...]:
    """A field's shape as a tuple of positive whole numbers; one number stands for a vector.

    Raises:
        ValueError: If it is no such thing.
    """
    sizes = (shape,) if isinstance(shape, int) else tuple(shape)
    return tuple(_check.count(name, size) for size in sizes)


def as_given(values: Any) -> torch.Tensor:
    """An array as a tensor; lists with all digits that Python's numbers have."""
    if isinstance(values, torch.Tensor):
        return values
    array = np.asarray(values)
    return torch.as_tensor(array if array.flags.writeable else array.copy())  # torch warns of what it cannot write to


def real(name: str, values: Any) -> torch.Tensor:
    """An array that an operator is made of, as float64.

    Raises:
        ValueError: If it is complex, empty, no array of numbers, or has entries that are NaN or infinite.
    """
    try:
        tensor = as_given(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"{name} must be an array of numbers, but {type(values).__name__} came: {error}; correct it."
        ) from None
    if tensor.is_complex():
        raise ValueError(f"{name} must be real, but complex numbers came; stack real and imaginary parts.")
    if tensor.numel() == 0:
        raise ValueError(f"{name} must have at least one entry, but shape {tuple(tensor.shape)} came; give it one.")
    bad = int((~torch.isfinite(tensor)).sum())
    if bad:
        raise ValueError(f"{name} must be finite, but {bad:,} of {tensor.numel():,} entries are NaN or infinite; correct them.")
    return tensor.detach().double()


def ending(name: str, values: Any, shape: tuple[int, ...]) -> torch.Tensor:
    """A field as a tensor of floating type, whose last axes are `shape`; whole numbers become float64.

    Raises:
        ValueError: If it is complex or of another shape.
    """
    tensor = as_given(values)
    if tensor.is_complex():
        raise ValueError(f"{name} must be real, but complex numbers came; stack real and imaginary parts, in the operator too.")
    if tensor.dim() < len(shape) or tuple(tensor.shape[tensor.dim() - len(shape) :]) != shape:
        raise ValueError(
            f"the last axes of {name} must be {shape}, but shape {tuple(tensor.shape)} came; reshape it, or give the operator "
            "the shape of the data."
        )
    return tensor if tensor.is_floating_point() else tensor.double()


class AbstractOperator(nn.Module, abc.ABC):
    """A forward map F from fields x of `shape` to measurements of `output_shape`.

    Attributes:
        shape: Shape of the unknown.
        output_shape: Shape of the measurements.
        linear: Whether F(x) = A x; then it has an `adjoint`.
        transformable: Whether it is made of torch operations alone, so that nothing has to be tried: vmap, forward mode and
            double backward all work.
    """

    shape: tuple[int, ...]
    output_shape: tuple[int, ...]
    linear: ClassVar[bool] = True
    transformable: ClassVar[bool] = False

    @property
    def size(self) -> int:
        """N, the number of unknowns."""
        return math.prod(self.shape)

    @property
    def num_data(self) -> int:
        """M, the number of measurements."""
        return math.prod(self.output_shape)

    @abc.abstractmethod
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """F(x).

        Args:
            x: (..., *shape).

        Returns:
            (..., *output_shape).
        """

    def field(self, x: Any) -> torch.Tensor:
        """What a product takes: an x whose last axes are `shape`.

        Raises:
            ValueError: If it is complex or of another shape.
        """
        return ending("x", x, self.shape)

    def extra_repr(self) -> str:
        """The shapes that it leads from and to."""
        return f"{self.shape} -> {self.output_shape}"


class AbstractLinearOperator(AbstractOperator):
    """A linear forward map A, with its adjoint Aᵀ.

    >>> from bayesreg.operators import Dense
    >>> A = Dense([[1.0, 1.0]])
    >>> A(torch.tensor([2.0, 3.0])).tolist(), A.adjoint(torch.tensor([1.0])).tolist()
    ([5.0], [1.0, 1.0])
    """

    @abc.abstractmethod
    def adjoint(self, b: torch.Tensor) -> torch.Tensor:
        """Aᵀ b.

        Args:
            b: (..., *output_shape).

        Returns:
            (..., *shape).
        """

    def measurements(self, b: Any) -> torch.Tensor:
        """What an adjoint takes: a b whose last axes are `output_shape`.

        Raises:
            ValueError: If it is complex or of another shape.
        """
        return ending("b", b, self.output_shape)

    def spectrum(self) -> tuple[str, torch.Tensor] | None:
        """The eigenvalues of AᵀA where a fast transform T diagonalises it, AᵀA = T⁻¹ diag(values) T, for preconditioners.

        Returns:
            The transform's name, "dct" for `scipy.fft.dctn(x, norm="ortho")` or "fft" for `torch.fft.fftn`, both over all axes
            of `shape`, and the eigenvalues, `shape`, float64 and >= 0; None where there is no such transform.
        """
        return None

    @property
    def T(self) -> AbstractLinearOperator:
        """Aᵀ, an operator of its own."""
        return Transposed(self)

    def __matmul__(self, other: AbstractLinearOperator) -> Composition:
        return Composition(self, other)

    def __add__(self, other: AbstractLinearOperator) -> Sum:
        return Sum(self, other)

    def __sub__(self, other: AbstractLinearOperator) -> Sum:
        return Sum(self, Scaled(other, -1.0))

    def __mul__(self, factor: float) -> Scaled:
        return Scaled(self, factor)

    __rmul__ = __mul__

    def __neg__(self) -> Scaled:
        return Scaled(self, -1.0)

    def matrix(self) -> torch.Tensor:
        """A as a matrix, (M, N) float64, measurements and unknowns in row-major order. Column by column where no faster way is.

        Returns:
            The matrix.
        """
        identity = torch.eye(self.size, dtype=torch.float64)
        with torch.no_grad():
            rows = [self(part.reshape(-1, *self.shape)).reshape(-1, self.num_data) for part in identity.split(256)]
        return torch.cat(rows).T

    def to_linear_operator(self) -> LinearOperator:
        """The same as a SciPy `LinearOperator` (M, N), for whoever takes one."""
        from scipy.sparse.linalg import LinearOperator

        @torch.no_grad()
        def product(x: Any) -> Any:
            return self(torch.as_tensor(x, dtype=torch.float64).reshape(self.shape)).reshape(-1).numpy()

        @torch.no_grad()
        def transposed(b: Any) -> Any:
            return self.adjoint(torch.as_tensor(b, dtype=torch.float64).reshape(self.output_shape)).reshape(-1).numpy()

        return LinearOperator((self.num_data, self.size), matvec=product, rmatvec=transposed, dtype=float)  # pyright: ignore

    def check_adjoint(self, seed: int = 0, tolerance: float = _DOT) -> float:
        """The dot test on random fields in float64.

        Args:
            seed: Of the fields; the global random state is not touched.
            tolerance: What counts as rounding: larger for a product that is computed in float32.

        Returns:
            |⟨A x, b⟩ − ⟨x, Aᵀ b⟩| over ‖A x‖ ‖b‖ + ‖x‖ ‖Aᵀ b‖: rounding for an adjoint.

        Raises:
            ValueError: If it is more than rounding.
        """
        generator = torch.Generator().manual_seed(_check.seed(seed))
        x = torch.randn(self.shape, generator=generator, dtype=torch.float64)
        b = torch.randn(self.output_shape, generator=generator, dtype=torch.float64)
        forward, back = self(x), self.adjoint(b)
        left, right = float((forward * b).sum()), float((x * back).sum())
        size = float(forward.norm() * b.norm() + x.norm() * back.norm())
        error = abs(left - right) / size if size else 0.0
        if not error < tolerance:
            raise ValueError(
                f"an adjoint must have <A x, b> = <x, A' b>, but {left:.6g} and {right:.6g} came for random x and b; "
                "give the operator the adjoint of its own product."
            )
        return error


class _AbstractOfOthers(AbstractLinearOperator):
    """Made of other operators; as transformable as the least of them."""

    def __init__(self, *operators: AbstractLinearOperator) -> None:
        super().__init__()
        for operator in operators:
            if not isinstance(operator, AbstractLinearOperator):
                raise ValueError(
                    f"a sum or product must be of linear operators, but {type(operator).__name__} came; for the product with a "
                    "field write A(x), for a map that is not linear operators.Nonlinear(lambda x: A(F(x)), F.shape)."
                )
        self.operators = nn.ModuleList(operators)

    @property
    def transformable(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether all are."""
        return all(operator.transformable for operator in self.parts)

    @property
    def parts(self) -> list[AbstractLinearOperator]:
        """The operators."""
        return list(self.operators)  # pyright: ignore[reportReturnType]


class Transposed(_AbstractOfOthers):
    """Aᵀ.

    Args:
        operator: A.

    Raises:
        ValueError: If it is no linear operator.

    >>> from bayesreg.operators import Dense
    >>> A = Dense([[1.0, 2.0]])
    >>> A.T.matrix().tolist(), A.T.T is A
    ([[1.0], [2.0]], True)
    """

    def __init__(self, operator: AbstractLinearOperator) -> None:
        super().__init__(operator)
        self.shape, self.output_shape = operator.output_shape, operator.shape

    @property
    def T(self) -> AbstractLinearOperator:
        """A."""
        return self.parts[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Aᵀ x."""
        return self.parts[0].adjoint(self.field(x))

    def adjoint(self, b: torch.Tensor) -> torch.Tensor:
        """A b."""
        return self.parts[0](self.measurements(b))

    def matrix(self) -> torch.Tensor:
        """A's matrix, transposed."""
        return self.parts[0].matrix().T


class Composition(_AbstractOfOthers):
    """A B: first B, then A.

    Args:
        left: A.
        right: B.

    Raises:
        ValueError: If one is no linear operator, or A does not take what B gives.

    >>> from bayesreg.operators import Dense
    >>> (Dense([[1.0, 2.0]]) @ Dense([[3.0], [4.0]])).matrix().tolist()
    [[11.0]]
    """

    def __init__(self, left: AbstractLinearOperator, right: AbstractLinearOperator) -> None:
        super().__init__(left, right)
        if left.shape != right.output_shape:
            raise ValueError(
                f"A @ B must have A take what B gives, but A takes {left.shape} and B gives {right.output_shape}; turn them "
                "round, or give one the shape of the other."
            )
        self.shape, self.output_shape = right.shape, left.output_shape

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A (B x)."""
        left, right = self.parts
        return left(right(x))

    def adjoint(self, b: torch.Tensor) -> torch.Tensor:
        """Bᵀ (Aᵀ b)."""
        left, right = self.parts
        return right.adjoint(left.adjoint(b))


class Sum(_AbstractOfOthers):
    """A + B.

    Args:
        left: A.
        right: B.

    Raises:
        ValueError: If one is no linear operator, or their shapes differ.

    >>> from bayesreg.operators import Identity
    >>> (Identity(2) + 3 * Identity(2)).matrix().tolist()
    [[4.0, 0.0], [0.0, 4.0]]
    """

    def __init__(self, left: AbstractLinearOperator, right: AbstractLinearOperator) -> None:
        super().__init__(left, right)
        if (left.shape, left.output_shape) != (right.shape, right.output_shape):
            raise ValueError(
                f"A + B must be of operators between the same shapes, but {left.shape} -> {left.output_shape} and "
                f"{right.shape} -> {right.output_shape} came; to join their measurements take operators.Stack."
            )
        self.shape, self.output_shape = left.shape, left.output_shape

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A x + B x."""
        left, right = self.parts
        return left(x) + right(x)

    def adjoint(self, b: torch.Tensor) -> torch.Tensor:
        """Aᵀ b + Bᵀ b."""
        left, right = self.parts
        return left.adjoint(b) + right.adjoint(b)


class Scaled(_AbstractOfOthers):
    """A times a number.

    Args:
        operator: A.
        factor: A finite number.

    Raises:
        ValueError: If it is no linear operator, or the factor not finite.

    >>> from bayesreg.operators import Identity
    >>> (2 * Identity(1)).matrix().tolist()
    [[2.0]]
    """

    def __init__(self, operator: AbstractLinearOperator, factor: float) -> None:
        super().__init__(operator)
        self.factor = _check.finite("factor", factor)
        self.shape, self.output_shape = operator.shape, operator.output_shape

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The product c A x."""
        return self.factor * self.parts[0](x)

    def adjoint(self, b: torch.Tensor) -> torch.Tensor:
        """The product c Aᵀ b."""
        return self.factor * self.parts[0].adjoint(b)

    def spectrum(self) -> tuple[str, torch.Tensor] | None:
        """The eigenvalues of A's, times c²."""
        found = self.parts[0].spectrum()
        return None if found is None else (found[0], self.factor**2 * found[1])
