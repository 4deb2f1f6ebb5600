"""Tomography: line integrals of an image along parallel rays."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bayesreg import _check
from bayesreg.operators.base import real, shape_of
from bayesreg.operators.outside import AbstractOutsideOperator, Products

_EDGE = 1e-9  # a ray as close to the edge between two pixels belongs to both by half


class Radon(AbstractOutsideOperator):
    """Parallel-beam projections: entry (i, k) is the integral of the image along the line x cos θᵢ + y sin θᵢ = sₖ.

    The image is constant on pixels of width 1 and zero beyond; its centre is the origin, x runs to the right and y up. The
    weight of a pixel is the length of the ray within it (exactly, as Siddon's, 1985), in a sparse matrix: at most two
    detectors see a pixel at an angle. At θ = 0 the rays are vertical: projections are sums of columns.

    Args:
        angles: θ, (K,), in radians.
        shape: Shape of the image, (H, W).
        detectors: Number of detectors, one pixel apart and centred; by default so many that they see the whole image at every
            angle, ⌈√(H² + W²)⌉.

    Raises:
        ValueError: If the angles are no line of finite numbers within ±2π, shape is not (H, W), or detectors no whole
            number >= 1.

    References:
        Siddon (1985), Fast calculation of the exact radiological path for a three-dimensional CT array.
        Natterer (1986), The Mathematics of Computerized Tomography.

    >>> import torch
    >>> A = Radon([0.0, np.pi / 2], shape=(2, 2), detectors=2)
    >>> A(torch.tensor([[1.0, 2.0], [3.0, 4.0]])).round(decimals=5).tolist()
    [[4.0, 6.0], [7.0, 3.0]]
    """

    def __init__(self, angles: Any, shape: tuple[int, int], detectors: int | None = None) -> None:
        theta = real("angles", angles).numpy()
        if theta.ndim != 1 or np.abs(theta).max() > 2 * math.pi + 1e-9:
            raise ValueError(
                f"angles must be a line of radians within ±2π, but shape {theta.shape} with entries up to "
                f"{np.abs(theta).max():g} came; np.deg2rad turns degrees into radians."
            )
        sizes = shape_of("shape", shape)
        if len(sizes) != 2:
            raise ValueError(f"shape must be that of an image, (H, W), but {sizes} came; give it two axes.")
        number = math.ceil(math.hypot(*sizes)) if detectors is None else _check.count("detectors", detectors)
        super().__init__()
        self.angles, self.shape, self.output_shape = tuple(theta.tolist()), sizes, (len(theta), number)
        self._products = Products(_lengths(theta, (sizes[0], sizes[1]), number))

    @property
    def products(self) -> Products:
        """The sparse matrix."""
        return self._products


def _lengths(angles: np.ndarray, shape: tuple[int, int], detectors: int) -> Any:
    """The length of each ray in each pixel, a sparse matrix (K · detectors, H · W)."""
    from scipy import sparse

    height, width = shape
    y, x = np.meshgrid((height - 1) / 2 - np.arange(height), np.arange(width) - (width - 1) / 2, indexing="ij")
    pixels = np.arange(height * width, dtype=np.int32)
    rows, columns, values = [], [], []
    for i, angle in enumerate(angles):
        cosine, sine = abs(math.cos(angle)), abs(math.sin(angle))
        # the chord of a unit square at a distance r from its middle: 1 / max up to |cos − sin| / 2, zero from (cos + sin) / 2
        half, ramp = max(cosine, sine) / 2, max(min(cosine, sine), _EDGE)
        at = (x * math.cos(angle) + y * math.sin(angle)).ravel() + (detectors - 1) / 2
        first = np.ceil(at - half - ramp / 2 - _EDGE).astype(np.int32)
        for step in range(2):
            seen = first + step
            length = np.clip(0.5 + (half - np.abs(at - seen)) / ramp, 0, 1) / (2 * half)
            kept = (length > 0) & (seen >= 0) & (seen < detectors)
            rows.append(seen[kept] + np.int32(i * detectors))
            columns.append(pixels[kept])
            values.append(length[kept])
    parts = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    return sparse.csr_array(parts, shape=(len(angles) * detectors, height * width))
