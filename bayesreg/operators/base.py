"""What a forward map of an inverse problem is: b = F(x) + ε, and for a linear one its adjoint.

    ⟨A x, b⟩ = ⟨x, Aᵀ b⟩   for every x and b: the dot test, which each linear operator must pass

An operator acts on fields of `shape` and gives measurements of `output_shape`; both take any number of leading axes, so that
many draws go through at once. `Observed` is the module that a model is made of: its one weight is the unknown x, and row i of
its output is measurement i.
"""

from __future__ import annotations

import abc
import math
from typing import TYPE_CHECKING, Any, ClassVar

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

    def matrix(self) -> torch.Tensor:
        """A as a matrix, (M, N) float64, measurements and unknowns in row-major order. Column by column where no faster way is.

        Returns:
            The matrix.
        """
        identity = torch.eye(self.size, dtype=torch.float64)
        rows = [self(part.reshape(-1, *self.shape)).reshape(-1, self.num_data) for part in identity.split(256)]
        return torch.cat(rows).T

    def to_linear_operator(self) -> LinearOperator:
        """The same as a SciPy `LinearOperator` (M, N), for whoever takes one."""
        from scipy.sparse.linalg import LinearOperator

        def product(x: Any) -> Any:
            return self(torch.as_tensor(x, dtype=torch.float64).reshape(self.shape)).reshape(-1).numpy()

        def transposed(b: Any) -> Any:
            return self.adjoint(torch.as_tensor(b, dtype=torch.float64).reshape(self.output_shape)).reshape(-1).numpy()

        return LinearOperator((self.num_data, self.size), matvec=product, rmatvec=transposed, dtype=float)  # pyright: ignore

    def check_adjoint(self, seed: int = 0) -> float:
        """The dot test on random fields in float64.

        Args:
            seed: Of the fields; the global random state is not touched.

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
        if not error < _DOT:
            raise ValueError(
                f"an adjoint must have <A x, b> = <x, A' b>, but {left:.6g} and {right:.6g} came for random x and b; "
                "give the operator the adjoint of its own product."
            )
        return error


class Observed(nn.Module):
    """The module b = F(x): its weight is the unknown "x", its inputs are the numbers of measurements, its outputs these.

    Args:
        operator: The forward map; shared, not copied.

    >>> from bayesreg.operators import Dense
    >>> module = Observed(Dense([[1.0, 1.0], [1.0, -1.0]]))
    >>> module(torch.tensor([1.0, 0.0])).tolist(), [name for name, _ in module.named_parameters()]
    ([0.0, 0.0], ['x'])
    """

    def __init__(self, operator: AbstractOperator) -> None:
        super().__init__()
        self.operator = operator.requires_grad_(False)
        self.x = nn.Parameter(torch.zeros(operator.shape, dtype=torch.float64))

    def rows(self) -> torch.Tensor:
        """The numbers 0 … M − 1 of all measurements, (M,) float64: what a fit takes for X."""
        return torch.arange(self.operator.num_data, dtype=torch.float64)

    def measured(self, b: Any) -> torch.Tensor:
        """Measurements as the targets of a fit, (M,), in row-major order.

        Raises:
            ValueError: If they are complex or not of the operator's `output_shape`.
        """
        values = torch.as_tensor(b)
        if values.is_complex():
            raise ValueError("b must be real, but complex numbers came; stack real and imaginary parts, in the operator too.")
        if values.shape not in (self.operator.output_shape, (self.operator.num_data,)):
            raise ValueError(
                f"b must have the shape of what the operator gives, {self.operator.output_shape}, but {tuple(values.shape)} "
                "came; reshape it, or give the operator the shape of the data."
            )
        return values.reshape(-1)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Measurements, (B,), of these numbers, (B,)."""
        return self.operator(self.x).reshape(-1)[rows.long()]
