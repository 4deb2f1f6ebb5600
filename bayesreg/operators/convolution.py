"""Blurring: convolution along one axis or two, with what lies beyond the ends of the field.

    (A x)ᵢ = Σₖ kernelₖ x̃ᵢ₋ₖ₊c,   c = K // 2,   x̃ the field continued beyond its ends ("reflect": b a | a b c d | d c)

By FFT: A = R H E, E continues the field, H multiplies its Fourier coefficients, R cuts out; the adjoint is Eᵀ Hᵀ Rᵀ. Where the
kernel is a product of one along each axis and the axes are short, by a matrix along each, which is faster then.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch

from bayesreg import _check
from bayesreg.operators.base import AbstractLinearOperator, real, shape_of

# where an index beyond the ends of a field of N entries is read from
_CONTINUED: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {
    "reflect": lambda i, n: torch.minimum(i % (2 * n), 2 * n - 1 - i % (2 * n)),
    "mirror": lambda i, n: torch.minimum(i % (2 * n - 2), -i % (2 * n - 2)) if n > 1 else torch.zeros_like(i),
    "nearest": lambda i, n: i.clamp(0, n - 1),
}
BOUNDARIES = (*_CONTINUED, "zero", "periodic")
_SHORT = 256  # entries of an axis up to which a matrix is faster than an FFT
_SEPARABLE = 1e-15  # of the kernel's size: what may be missing in a product
_SYMMETRIC = 1e-12  # by how much of its largest entry a kernel may differ from its mirror image


class _AbstractConvolution(AbstractLinearOperator):
    """Convolution over the last axes, as many as the kernel has."""

    num_axes: ClassVar[int]
    transformable = True
    kernel: torch.Tensor
    _transfer: torch.Tensor

    def __init__(self, kernel: Any, boundary: str = "reflect", *, shape: int | tuple[int, ...]) -> None:
        super().__init__()
        kernel = real("kernel", kernel)
        if kernel.dim() != self.num_axes:
            raise ValueError(
                f"kernel must have the axes that it acts along, {self.num_axes}, but shape {tuple(kernel.shape)} came; reshape "
                f"it, or take operators.Convolution{3 - self.num_axes}d."
            )
        self.boundary = _check.one_of("boundary", boundary, BOUNDARIES)
        self.shape = self.output_shape = shape_of("shape", shape)
        if len(self.shape) < self.num_axes:
            raise ValueError(
                f"shape must have at least the axes of the kernel, {self.num_axes}, but {self.shape} came; give it more."
            )
        self._axes = tuple(range(-self.num_axes, 0))
        self._inner = self.shape[-self.num_axes :]
        self.register_buffer("kernel", kernel)
        lines = _factors(kernel) if max(self._inner) <= _SHORT else None
        self._separable = lines is not None
        if lines is not None:
            for axis, (n, line) in enumerate(zip(self._inner, lines, strict=True)):
                self.register_buffer(f"_line_{axis}", _line_matrix(line, n, boundary), persistent=False)
            return
        sizes = zip(self._inner, kernel.shape, strict=True)
        self._padded = self._inner if boundary == "periodic" else tuple(_fast(n + k - 1) for n, k in sizes)
        # measurement i reads entries i − K + 1 + c … i + c of the field, which for a continued one lie K − 1 − c further on
        starts = [k - 1 if boundary in _CONTINUED else k // 2 for k in kernel.shape]
        transfer = torch.fft.rfftn(_wrapped(kernel, self._padded, starts), dim=self._axes)
        self.register_buffer("_transfer", torch.view_as_real(transfer), persistent=False)
        for axis, (n, k) in enumerate(zip(self._inner, kernel.shape, strict=True)):
            if boundary in _CONTINUED:
                self.register_buffer(f"_read_{axis}", _CONTINUED[boundary](_reach(n, k), n), persistent=False)

    def extra_repr(self) -> str:
        """Its kernel's shape, its boundary and its shape."""
        return f"kernel {tuple(self.kernel.shape)}, boundary={self.boundary!r}, shape={self.shape}"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The blurred field, (..., *shape)."""
        x = self.field(x)
        if self._separable:
            return self._along(x, self._lines())
        for axis, read in self._reads():
            x = x.index_select(axis, read)
        return self._filtered(x, conjugate=False, sizes=self._inner)

    def adjoint(self, b: torch.Tensor) -> torch.Tensor:
        """Aᵀ b, (..., *shape)."""
        b = self.measurements(b)
        if self._separable:
            return self._along(b, [line.T for line in self._lines()])
        reads = self._reads()
        x = self._filtered(b, conjugate=True, sizes=tuple(len(read) for _, read in reads) or self._inner)
        for (axis, read), n in zip(reads, self._inner, strict=False):
            sizes = list(x.shape)
            sizes[axis] = n
            x = x.new_zeros(sizes).index_add(axis, read, x)
        return x

    def spectrum(self) -> tuple[str, torch.Tensor] | None:
        """|Fourier coefficients of the kernel|², for "periodic", and for "reflect" with a kernel symmetric along each axis."""
        if self.boundary == "periodic":
            values = torch.fft.fftn(_wrapped(self.kernel.double(), self._inner, self._centres), dim=self._axes).abs().square()
            return "fft", values.expand(self.shape)
        if self.boundary != "reflect" or not self._symmetric or any(n > 1 for n in self.shape[: -self.num_axes]):
            return None
        doubled = tuple(2 * n for n in self._inner)
        values = torch.fft.fftn(_wrapped(self.kernel.double(), doubled, self._centres), dim=self._axes).abs().square()
        return "dct", values[tuple(slice(n) for n in self._inner)].expand(self.shape)

    @property
    def _centres(self) -> list[int]:
        return [k // 2 for k in self.kernel.shape]

    @property
    def _symmetric(self) -> bool:
        """Whether the kernel is its own mirror image along each axis; one of an even number of entries has no middle."""
        odd = all(k % 2 for k in self.kernel.shape)
        limit = _SYMMETRIC * float(self.kernel.abs().max())
        return odd and all(float((self.kernel - self.kernel.flip(axis)).abs().max()) <= limit for axis in self._axes)

    def matrix(self) -> torch.Tensor:
        """A as a matrix, (M, N) float64."""
        if not self._separable or len(self.shape) > self.num_axes:
            return super().matrix()
        first, *others = (line.double() for line in self._lines())
        return torch.kron(first, others[0]) if others else first

    def _lines(self) -> list[torch.Tensor]:
        return [self.get_buffer(f"_line_{axis}") for axis in range(self.num_axes)]

    @staticmethod
    def _along(x: torch.Tensor, lines: list[torch.Tensor]) -> torch.Tensor:
        """The product with a matrix along each of the last axes."""
        x = x @ lines[-1].T.to(x)
        return x if len(lines) == 1 else lines[0].to(x) @ x

    def _reads(self) -> list[tuple[int, torch.Tensor]]:
        """Axis by axis, where a continued field is read from."""
        if self.boundary not in _CONTINUED:
            return []
        return [(axis, self.get_buffer(f"_read_{i}")) for i, axis in enumerate(self._axes)]

    def _filtered(self, x: torch.Tensor, *, conjugate: bool, sizes: tuple[int, ...]) -> torch.Tensor:
        kind = x.dtype if x.dtype in (torch.float32, torch.float64) else torch.float32  # others have no FFT on a CPU
        transfer = torch.view_as_complex(self._transfer.to(x.device, kind))
        spectrum = torch.fft.rfftn(x.to(kind), s=self._padded, dim=self._axes)
        spectrum = spectrum * (transfer.conj() if conjugate else transfer)
        values = torch.fft.irfftn(spectrum, s=self._padded, dim=self._axes)
        return values[(..., *(slice(size) for size in sizes))].to(x.dtype)


class Convolution1d(_AbstractConvolution):
    """Convolution along the last axis.

    (A x)ᵢ = Σₖ kernelₖ x̃ᵢ₋ₖ₊c with c = K // 2: the middle of an odd number of entries; of an even one, the entry right of the
    middle. As `scipy.ndimage.convolve1d`.

    Args:
        kernel: (K,), as an impulse looks after it; entries that sum to one keep the level. It may be longer than the field.
        boundary: How the field a b c d goes on at its ends: "reflect" (a | a b c d | d), "mirror" (b | a b c d | c), "nearest"
            (a | a b c d | d, and so on), "zero" (0 | a b c d | 0), "periodic" (d | a b c d | a).
        shape: Shape of the unknown, and of the measurements; each line of the last axis is convolved by itself.

    Raises:
        ValueError: If the kernel is complex, empty, not finite or has several axes, or the boundary or shape is none.

    >>> A = Convolution1d([0.25, 0.5, 0.25], boundary="periodic", shape=4)
    >>> A(torch.tensor([4.0, 0.0, 0.0, 0.0])).round(decimals=6).abs().tolist()
    [2.0, 1.0, 0.0, 1.0]
    """

    num_axes = 1


class Convolution2d(_AbstractConvolution):
    """Convolution over the last two axes, as `scipy.ndimage.convolve`.

    (A x)ᵢⱼ = Σₖₗ kernelₖₗ x̃ᵢ₋ₖ₊c,ⱼ₋ₗ₊d with c, d = K // 2, L // 2: the middle of an odd number of entries; of an even one, the
    entry after the middle. A kernel that is a product of two costs the same as any other.

    Args:
        kernel: (K, L), the point spread function.
        boundary: How the image goes on beyond its edges: "reflect", "mirror", "nearest", "zero" or "periodic", see
            `Convolution1d`.
        shape: Shape of the unknown, and of the measurements, (..., H, W).

    Raises:
        ValueError: If the kernel is complex, empty, not finite or has not two axes, or the boundary or shape is none.

    >>> A = Convolution2d(torch.ones(3, 3) / 9, shape=(4, 5))
    >>> A(torch.ones(2, 4, 5)).shape, bool((A(torch.ones(4, 5)) - 1).abs().max() < 1e-6)
    (torch.Size([2, 4, 5]), True)
    """

    num_axes = 2


def gaussian_kernel(width: float, num_axes: int = 1, truncate: float = 4.0) -> torch.Tensor:
    """A Gaussian blur: entries ∝ exp(−|k|² / 2 width²), of sum one.

    Args:
        width: Standard deviation, in entries, > 0.
        num_axes: 1 for (K,), 2 for (K, K).
        truncate: Half of its extent, in standard deviations, > 0.

    Returns:
        The kernel, of an odd number of entries an axis.

    Raises:
        ValueError: If width or truncate is not > 0, or num_axes neither 1 nor 2.

    >>> gaussian_kernel(1.0, 2).shape, round(float(gaussian_kernel(1.0, 2).sum()), 12)
    (torch.Size([9, 9]), 1.0)
    """
    width = _check.positive("width", width)
    reach = int(_check.positive("truncate", truncate) * width + 0.5)
    line = (-0.5 * (torch.arange(-reach, reach + 1, dtype=torch.float64) / width).square()).exp()
    line = line / line.sum()
    return line if _check.count("num_axes", num_axes, 2) == 1 else line[:, None] * line


def _wrapped(kernel: torch.Tensor, sizes: tuple[int, ...], starts: list[int]) -> torch.Tensor:
    """The kernel on a periodic field of these sizes, entry `starts` at the origin; what is longer is wrapped around."""
    for axis, (size, start) in enumerate(zip(sizes, starts, strict=True)):
        shape = list(kernel.shape)
        shape[axis] = size
        at = (torch.arange(kernel.shape[axis], device=kernel.device) - start) % size
        kernel = kernel.new_zeros(shape).index_add(axis, at, kernel)
    return kernel


def _reach(n: int, k: int) -> torch.Tensor:
    """The indices of a field of n entries that a kernel of k meets, from before its start to beyond its end."""
    return torch.arange(n + k - 1) - (k - 1 - k // 2)


def _factors(kernel: torch.Tensor) -> list[torch.Tensor] | None:
    """A kernel as a product of one along each axis, or None where it is none."""
    if kernel.dim() == 1:
        return [kernel]
    left, sizes, right = torch.linalg.svd(kernel, full_matrices=False)
    if len(sizes) > 1 and sizes[1] > _SEPARABLE * sizes[0]:
        return None
    return [left[:, 0] * sizes[0], right[0]]


def _line_matrix(kernel: torch.Tensor, n: int, boundary: str) -> torch.Tensor:
    """The convolution of a line of n entries, (n, n)."""
    k = len(kernel)
    reach = _reach(n, k)
    at = reach % n if boundary == "periodic" else _CONTINUED.get(boundary, _CONTINUED["nearest"])(reach, n)
    there = ((reach >= 0) & (reach < n)) | (boundary != "zero")
    rows = torch.arange(n)[:, None].expand(n, k)
    read = rows + torch.arange(k - 1, -1, -1)  # measurement i meets entry i + K − 1 − k of the continued line by kernelₖ
    values = kernel.expand(n, k) * there[read]
    return kernel.new_zeros(n, n).index_put((rows, at[read]), values, accumulate=True)


def _fast(size: int) -> int:
    """The next size of which an FFT is fast."""
    from scipy.fft import next_fast_len

    return int(next_fast_len(size, True))  # pyright: ignore[reportArgumentType]
