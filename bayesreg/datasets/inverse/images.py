"""Blurred signals, blurred images, and projections of a phantom."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from bayesreg import _check
from bayesreg.datasets.inverse.problem import InverseProblem, measured
from bayesreg.operators import Convolution1d, Convolution2d, Radon, gaussian_kernel

# grey, half axes, centre, tilt in degrees, of the ellipses that are added up; the square is [−1, 1]², y up
_ELLIPSES = (
    (1.0, 0.69, 0.92, 0.0, 0.0, 0.0),
    (-0.8, 0.6624, 0.874, 0.0, -0.0184, 0.0),
    (-0.2, 0.11, 0.31, 0.22, 0.0, -18.0),
    (-0.2, 0.16, 0.41, -0.22, 0.0, 18.0),
    (0.1, 0.21, 0.25, 0.0, 0.35, 0.0),
    (0.1, 0.046, 0.046, 0.0, 0.1, 0.0),
    (0.1, 0.046, 0.046, 0.0, -0.1, 0.0),
    (0.1, 0.046, 0.023, -0.08, -0.605, 0.0),
    (0.1, 0.023, 0.023, 0.0, -0.606, 0.0),
    (0.1, 0.023, 0.046, 0.06, -0.605, 0.0),
)
_FINE = 4  # points an axis over which a pixel of an image is averaged


def shepp_logan(n: int = 64) -> np.ndarray:
    """The Shepp–Logan phantom of a head, ten ellipses, with the contrast that Toft (1996) gave it: grey from 0 to 1.

    Args:
        n: Pixels an axis.

    Returns:
        (n, n), the first row on top; a pixel is the mean over 4 × 4 points in it.

    Raises:
        ValueError: If n is not a whole number >= 1.

    References:
        Shepp and Logan (1974), The Fourier reconstruction of a head section. Toft (1996), The Radon Transform, appendix B.

    >>> image = shepp_logan(64)
    >>> image.shape, float(image.max()), round(float(image[32, 32]), 3)
    ((64, 64), 1.0, 0.2)
    """
    x, y = _points(n)
    total = np.zeros_like(x)
    for grey, *ellipse in _ELLIPSES:
        total += grey * _inside(x, y, *ellipse)
    return np.round(_averaged(total), 12)


def deblurring_1d(n: int = 128, width: float = 3.0, signal: str = "blocks") -> InverseProblem:
    """A line blurred by a Gaussian, with reflecting ends.

    Args:
        n: Number of unknowns and of measurements.
        width: Standard deviation of the blur, in entries, > 0.
        signal: "blocks" (piecewise constant: total variation), "spikes" (a few entries differ from 0: Laplace) or "smooth"
            (two bumps: a smoothness prior).

    Returns:
        The problem.

    Raises:
        ValueError: If n is not a whole number >= 1, width not > 0, or signal none of these.

    References:
        Hansen (2010), Discrete Inverse Problems: Insight and Algorithms.

    >>> deblurring_1d(128, signal="spikes")
    InverseProblem(deblurring_1d: 128 measurements of 128 unknowns)
    """
    make = _SIGNALS[_check.one_of("signal", signal, _SIGNALS)]
    t = (np.arange(_check.count("n", n)) + 0.5) / n
    operator = Convolution1d(gaussian_kernel(width), shape=n)
    return measured("deblurring_1d", operator, make(t), "Hansen (2010), Discrete Inverse Problems, a Gaussian blur of a signal")


def deblurring_2d(n: int = 64, width: float = 2.0, image: str = "blobs") -> InverseProblem:
    """An image blurred by a Gaussian, with reflecting edges.

    Args:
        n: Pixels an axis.
        width: Standard deviation of the blur, in pixels, > 0.
        image: "blobs" (smooth) or "phantom" (the Shepp–Logan phantom, piecewise constant).

    Returns:
        The problem.

    Raises:
        ValueError: If n is not a whole number >= 1, width not > 0, or image none of these.

    References:
        Hansen, Nagy and O'Leary (2006), Deblurring Images: Matrices, Spectra, and Filtering.

    >>> deblurring_2d(32).b.shape
    (32, 32)
    """
    make = _IMAGES[_check.one_of("image", image, _IMAGES)]
    operator = Convolution2d(gaussian_kernel(width, 2), shape=(_check.count("n", n), n))
    return measured("deblurring_2d", operator, make(n), "Hansen, Nagy and O'Leary (2006), Deblurring Images, a Gaussian blur")


def tomography(n: int = 32, num_angles: int = 45) -> InverseProblem:
    """Projections of the Shepp–Logan phantom by parallel rays, at angles evenly over half a turn.

    Args:
        n: Pixels an axis.
        num_angles: Number of projections: fewer than about πn/2 leave a null space.

    Returns:
        The problem; b is (num_angles, detectors).

    Raises:
        ValueError: If n or num_angles is not a whole number >= 1.

    References:
        Shepp and Logan (1974), The Fourier reconstruction of a head section.

    >>> tomography(32, 10).b.shape
    (10, 46)
    """
    angles = np.arange(_check.count("num_angles", num_angles)) * math.pi / num_angles
    operator = Radon(angles, (_check.count("n", n), n))
    return measured("tomography", operator, shepp_logan(n), "Shepp and Logan (1974), the phantom with Toft's contrast (1996)")


def _blocks(t: np.ndarray) -> np.ndarray:
    return np.select([t < 0.15, t < 0.3, t < 0.45, t < 0.5, t < 0.8], [0.0, 1.0, 0.4, 1.6, -0.5], 0.3)


def _spikes(t: np.ndarray) -> np.ndarray:
    x = np.zeros_like(t)
    for place, height in ((0.12, 1.0), (0.34, -0.8), (0.5, 1.4), (0.71, 0.6), (0.88, -1.1)):
        x[int(place * len(t))] = height
    return x


def _smooth(t: np.ndarray) -> np.ndarray:
    return np.exp(-0.5 * ((t - 0.3) / 0.08) ** 2) + 0.6 * np.exp(-0.5 * ((t - 0.68) / 0.12) ** 2)


def _blobs(n: int) -> np.ndarray:
    x, y = _points(n)
    total = np.zeros_like(x)
    for height, x0, y0, width in (
        (1.0, -0.3, 0.35, 0.18),
        (0.7, 0.4, 0.1, 0.25),
        (0.9, -0.1, -0.45, 0.12),
        (-0.4, 0.5, -0.5, 0.2),
    ):
        total += height * np.exp(-0.5 * ((x - x0) ** 2 + (y - y0) ** 2) / width**2)
    return _averaged(total)


_SIGNALS: dict[str, Callable[[np.ndarray], np.ndarray]] = {"blocks": _blocks, "spikes": _spikes, "smooth": _smooth}
_IMAGES: dict[str, Callable[[int], np.ndarray]] = {"blobs": _blobs, "phantom": shepp_logan}


def _points(n: int) -> tuple[np.ndarray, np.ndarray]:
    """X and y of the points of an image on [−1, 1]², the first row on top.

    Raises:
        ValueError: If n is not a whole number >= 1.
    """
    fine = _FINE * _check.count("n", n)
    line = (np.arange(fine) + 0.5) * 2 / fine - 1
    x, y = np.meshgrid(line, -line)
    return x, y


def _averaged(values: np.ndarray) -> np.ndarray:
    n = len(values) // _FINE
    return values.reshape(n, _FINE, n, _FINE).mean((1, 3))


def _inside(x: np.ndarray, y: np.ndarray, a: float, b: float, x0: float, y0: float, tilt: float) -> np.ndarray:
    """Whether points lie in an ellipse."""
    cosine, sine = math.cos(math.radians(tilt)), math.sin(math.radians(tilt))
    along, across = (x - x0) * cosine + (y - y0) * sine, (y - y0) * cosine - (x - x0) * sine
    return (along / a) ** 2 + (across / b) ** 2 <= 1
