"""Factors of a covariance that has structure: F with Σ = F Fᵀ over some of the unknowns, never written out where it is large.

dense  F (n, n)          diagonal  F = diag(sd)          Kronecker  F z = L (s ∘ Z) Rᵀ,  Z (O, I) the entries of z
"""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping
from typing import ClassVar

import torch


class AbstractFactor(abc.ABC):
    """A square factor F of the covariance F Fᵀ of n unknowns.

    Args:
        index: Where they lie in the flat vector, (n,).

    Attributes:
        shapes: The tensors that make it, by name, with a letter for each axis; n is the number of unknowns.
    """

    shapes: ClassVar[Mapping[str, str]]

    def __init__(self, index: torch.Tensor) -> None:
        self.index = index

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """What makes it, by name as in `shapes`."""
        return {name: getattr(self, name) for name in self.shapes}

    @abc.abstractmethod
    def to(self, like: torch.Tensor) -> AbstractFactor:
        """The same in the type and on the device of `like`."""

    @abc.abstractmethod
    def times(self, noise: torch.Tensor) -> torch.Tensor:
        """F z of each row z of (S, n), (S, n)."""

    @abc.abstractmethod
    def rows(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows (M, n) times F, (M, n)."""

    @abc.abstractmethod
    def whitened(self, steps: torch.Tensor) -> torch.Tensor:
        """F⁻¹ v of each row v of (S, n), (S, n)."""

    @property
    @abc.abstractmethod
    def variance(self) -> torch.Tensor:
        """The diagonal of F Fᵀ, (n,)."""

    @property
    @abc.abstractmethod
    def log_det(self) -> float:
        """Log |det F|, which is −½ log|precision|."""


class DenseFactor(AbstractFactor):
    """F written out.

    Args:
        index: Where its unknowns lie, (n,).
        root: F, (n, n).
    """

    shapes: ClassVar[Mapping[str, str]] = {"root": "nn"}

    def __init__(self, index: torch.Tensor, root: torch.Tensor) -> None:
        super().__init__(index)
        self.root = root

    def to(self, like: torch.Tensor) -> DenseFactor:
        """See `AbstractFactor.to`."""
        return DenseFactor(self.index.to(like.device), self.root.to(like))

    def times(self, noise: torch.Tensor) -> torch.Tensor:
        """See `AbstractFactor.times`."""
        return noise @ self.root.mT

    def rows(self, rows: torch.Tensor) -> torch.Tensor:
        """See `AbstractFactor.rows`."""
        return rows @ self.root.to(rows)

    def whitened(self, steps: torch.Tensor) -> torch.Tensor:
        """See `AbstractFactor.whitened`."""
        return torch.linalg.solve(self.root.to(steps), steps.mT).mT

    @property
    def variance(self) -> torch.Tensor:
        """See `AbstractFactor.variance`."""
        return self.root.square().sum(1)

    @property
    def log_det(self) -> float:
        """See `AbstractFactor.log_det`."""
        return float(torch.linalg.slogdet(self.root.double())[1])


class DiagonalFactor(AbstractFactor):
    """Independent unknowns.

    Args:
        index: Where they lie, (n,).
        sd: Their standard deviations, (n,).
    """

    shapes: ClassVar[Mapping[str, str]] = {"sd": "n"}

    def __init__(self, index: torch.Tensor, sd: torch.Tensor) -> None:
        super().__init__(index)
        self.sd = sd

    def to(self, like: torch.Tensor) -> DiagonalFactor:
        """See `AbstractFactor.to`."""
        return DiagonalFactor(self.index.to(like.device), self.sd.to(like))

    def times(self, noise: torch.Tensor) -> torch.Tensor:
        """See `AbstractFactor.times`."""
        return noise * self.sd

    def rows(self, rows: torch.Tensor) -> torch.Tensor:
        """See `AbstractFactor.rows`."""
        return rows * self.sd.to(rows)

    def whitened(self, steps: torch.Tensor) -> torch.Tensor:
        """See `AbstractFactor.whitened`."""
        return steps / self.sd.to(steps)

    @property
    def variance(self) -> torch.Tensor:
        """See `AbstractFactor.variance`."""
        return self.sd.square()

    @property
    def log_det(self) -> float:
        """See `AbstractFactor.log_det`."""
        return float(self.sd.double().log().sum())


class KroneckerFactor(AbstractFactor):
    """F z = L (s ∘ Z) Rᵀ over the weights W (O, I) of a layer, row by row, Z being z in the shape of W.

    The covariance is (L ⊗ R) diag(s²) (L ⊗ R)ᵀ, which takes O² + I² + O·I numbers in place of (O·I)².

    Args:
        index: Where its unknowns lie, (O · I,).
        left: L, (O, O).
        right: R, (I, I).
        scale: s, (O, I), positive.

    >>> left, right = torch.tensor([[2.0, 0.0], [1.0, 1.0]]), torch.tensor([[3.0]])
    >>> factor = KroneckerFactor(torch.arange(2), left, right, torch.tensor([[1.0], [0.5]]))
    >>> dense = torch.kron(left, right) @ torch.diag(factor.scale.reshape(-1))
    >>> bool(torch.equal(factor.rows(torch.eye(2)), dense)), bool(torch.equal(factor.times(torch.eye(2)), dense.T))
    (True, True)
    >>> factor.variance.tolist(), (dense @ dense.T).diagonal().tolist()
    ([36.0, 11.25], [36.0, 11.25])
    """

    shapes: ClassVar[Mapping[str, str]] = {"left": "OO", "right": "II", "scale": "OI"}

    def __init__(self, index: torch.Tensor, left: torch.Tensor, right: torch.Tensor, scale: torch.Tensor) -> None:
        super().__init__(index)
        self.left, self.right, self.scale = left, right, scale

    def to(self, like: torch.Tensor) -> KroneckerFactor:
        """See `AbstractFactor.to`."""
        return KroneckerFactor(self.index.to(like.device), self.left.to(like), self.right.to(like), self.scale.to(like))

    def times(self, noise: torch.Tensor) -> torch.Tensor:
        """See `AbstractFactor.times`."""
        found = self.left @ (noise.reshape(-1, *self.scale.shape) * self.scale) @ self.right.mT
        return found.reshape(len(noise), -1)

    def rows(self, rows: torch.Tensor) -> torch.Tensor:
        """See `AbstractFactor.rows`."""
        left, right, scale = (part.to(rows) for part in (self.left, self.right, self.scale))
        return (left.mT @ rows.reshape(-1, *scale.shape) @ right * scale).reshape(len(rows), -1)

    def whitened(self, steps: torch.Tensor) -> torch.Tensor:
        """See `AbstractFactor.whitened`."""
        left, right, scale = (part.to(steps) for part in (self.left, self.right, self.scale))
        inner = torch.linalg.solve(left, steps.reshape(-1, *scale.shape))
        return (torch.linalg.solve(right, inner.mT).mT / scale).reshape(len(steps), -1)

    @property
    def variance(self) -> torch.Tensor:
        """See `AbstractFactor.variance`."""
        return (self.left.square() @ self.scale.square() @ self.right.square().mT).reshape(-1)

    @property
    def log_det(self) -> float:
        """See `AbstractFactor.log_det`."""
        outputs, inputs = self.scale.shape
        sizes = [float(torch.linalg.slogdet(part.double())[1]) for part in (self.left, self.right)]
        return float(self.scale.double().log().sum()) + inputs * sizes[0] + outputs * sizes[1]


KINDS: Mapping[str, type[AbstractFactor]] = {
    "dense": DenseFactor,
    "diagonal": DiagonalFactor,
    "kronecker": KroneckerFactor,
}


def kind_of(factor: AbstractFactor) -> str:
    """Its name among `KINDS`."""
    return next(name for name, kind in KINDS.items() if type(factor) is kind)


def condition(factors: tuple[AbstractFactor, ...]) -> float:
    """The largest ratio of sds that a factor without units holds apart: of a Kronecker factor's own axes, 1 for a diagonal.

    A dense factor's is said by its `Root`.
    """
    found = [float(f.scale.max() / f.scale.min()) for f in factors if isinstance(f, KroneckerFactor)]
    return max([1.0, *(value if math.isfinite(value) else math.inf for value in found)])
