"""Integral equations of the first kind, ∫ K(s, t) f(t) dt = g(s), as matrices: the usual one-dimensional test problems.

Each is discretised as its source does: by the midpoint rule, x_j = f(t_j), or by Galerkin's method with orthonormal boxes,
x_j = ∫ f over box j / √its width. b is A x, which differs from g by the error of the discretisation; that vanishes with n.
"""

from __future__ import annotations

import math

import numpy as np

from bayesreg import _check
from bayesreg.datasets.inverse.problem import InverseProblem, measured
from bayesreg.operators import Dense

_TOOLS = "Hansen (1994), Regularization Tools, Numerical Algorithms 6"


def shaw(n: int = 32) -> InverseProblem:
    """Light through a slit: K = (cos s + cos t)² (sin u / u)², u = π (sin s + sin t), on [−π/2, π/2]; midpoint rule.

    f(t) = 2 exp(−6 (t − 0.8)²) + exp(−2 (t + 0.5)²). A is symmetric, and its singular values fall to rounding within 20.

    Args:
        n: Number of unknowns and of measurements.

    Returns:
        The problem.

    Raises:
        ValueError: If n is not a whole number >= 1.

    References:
        Shaw (1972), Improvement of the resolution of an instrument by numerical solution of an integral equation.
        Hansen (1994), Regularization Tools.

    >>> A = shaw(32).operator.matrix()
    >>> round(float(A.sum()), 6), bool((A == A.T).all())
    (68.089627, True)
    """
    t, h = _midpoints(-math.pi / 2, math.pi / 2, n)
    sines = np.sin(t)[:, None] + np.sin(t)
    A = h * ((np.cos(t)[:, None] + np.cos(t)) * np.sinc(sines)) ** 2
    return _problem("shaw", A, 2 * np.exp(-6 * (t - 0.8) ** 2) + np.exp(-2 * (t + 0.5) ** 2), "Shaw (1972)")


def gravity(n: int = 32, depth: float = 0.25) -> InverseProblem:
    """Mass along a line at this depth from the force above it: K = d / (d² + (s − t)²)^(3/2) on [0, 1]; midpoint rule.

    f(t) = sin πt + ½ sin 2πt. The deeper, the harder.

    Args:
        n: Number of unknowns and of measurements.
        depth: d, > 0.

    Returns:
        The problem.

    Raises:
        ValueError: If n is not a whole number >= 1 or depth not > 0.

    References:
        Wing and Zahrt (1991), A Primer on Integral Equations of the First Kind. Hansen (2007), Regularization Tools 4.0.

    >>> float(gravity(1).operator.matrix()) == 0.25**-2
    True
    """
    (t, h), d = _midpoints(0, 1, n), _check.positive("depth", depth)
    A = h * d / (d**2 + (t[:, None] - t) ** 2) ** 1.5
    return _problem("gravity", A, np.sin(math.pi * t) + 0.5 * np.sin(2 * math.pi * t), "Wing and Zahrt (1991)", 2007)


def heat(n: int = 32, kappa: float = 1.0) -> InverseProblem:
    """Heat at one end of a rod from the temperature inside: K(s, t) = k(s − t) for t < s; midpoint rule on [0, 1].

    k(t) = t^(−3/2) exp(−1 / 4κ²t) / 2κ√π. f rises in two parabolas, with a kink at 0.1, and decays from 0.15 on.

    Args:
        n: Number of unknowns and of measurements.
        kappa: κ, > 0: 1 is hard, 5 is easy.

    Returns:
        The problem; its matrix is lower triangular and a convolution.

    Raises:
        ValueError: If n is not a whole number >= 1 or kappa not > 0.

    References:
        Carasso (1982), Determining surface temperatures from interior observations. Hansen (1994), Regularization Tools.

    >>> problem = heat(32)
    >>> round(float(np.linalg.norm(problem.operator.matrix(), 2)), 6), round(float(np.linalg.norm(problem.b)), 6)
    (0.358271, 0.263116)
    """
    (t, h), kappa = _midpoints(0, 1, n), _check.positive("kappa", kappa)
    k = h / (2 * kappa * math.sqrt(math.pi)) * t**-1.5 * np.exp(-1 / (4 * kappa**2 * t))
    lag = np.arange(n)[:, None] - np.arange(n)
    A = np.where(lag >= 0, k[np.maximum(lag, 0)], 0.0)
    at = 20 * np.arange(1, n + 1) / n
    pieces = [0.75 * at**2 / 4, 0.75 + (at - 2) * (3 - at), 0.75 * np.exp(-2 * (at - 3))]
    x = np.where(at <= 10, np.select([at < 2, at < 3], pieces[:2], pieces[2]), 0.0)
    return _problem("heat", A, x, "Carasso (1982)")


def deriv2(n: int = 32) -> InverseProblem:
    """The second derivative: K(s, t) = s (t − 1) for s < t, else t (s − 1), on [0, 1], f(t) = t; Galerkin's method.

    Mildly ill-posed: the singular values fall as 1 / (π i)².

    Args:
        n: Number of unknowns and of measurements.

    Returns:
        The problem.

    Raises:
        ValueError: If n is not a whole number >= 1.

    References:
        Delves and Mohamed (1985), Computational Methods for Integral Equations. Hansen (1994), Regularization Tools.

    >>> round(float(deriv2(32).operator.matrix().sum()), 8)
    -2.66666667
    """
    t, h = _midpoints(0, 1, n)
    below, above = np.minimum(t[:, None], t), np.maximum(t[:, None], t)
    A = h * below * (above - 1)
    A[np.diag_indices(len(t))] += h * h / 6  # K bends on the diagonal; elsewhere the middle of a box is its mean
    return _problem("deriv2", A, math.sqrt(h) * t, "Delves and Mohamed (1985)")


def phillips(n: int = 32) -> InverseProblem:
    """Phillips' problem: K(s, t) = φ(s − t), f = φ, on [−6, 6], φ(t) = 1 + cos(πt/3) for |t| < 3; Galerkin's method.

    Args:
        n: Number of unknowns and of measurements.

    Returns:
        The problem; its matrix is symmetric Toeplitz.

    Raises:
        ValueError: If n is not a whole number >= 1.

    References:
        Phillips (1962), A technique for the numerical solution of certain integral equations of the first kind.
        Hansen (1994), Regularization Tools.

    >>> problem = phillips(64)
    >>> round(float(np.sum(problem.x) * (12 / 64) ** 0.5), 12)                                      # ∫ φ
    6.0
    """
    t, h = _midpoints(-6, 6, n)
    second = _second_antiderivative
    lag = h * np.arange(len(t))  # the mean of φ over two boxes that lie so far apart is a second difference
    A = ((second(lag + h) - 2 * second(lag) + second(lag - h)) / h)[np.abs(np.subtract.outer(range(n), range(n)))]
    x = (_antiderivative(t + h / 2) - _antiderivative(t - h / 2)) / math.sqrt(h)
    return _problem("phillips", A, x, "Phillips (1962)")


def baart(n: int = 32) -> InverseProblem:
    """Baart's problem: ∫ exp(s cos t) f(t) dt = 2 sinh(s) / s, t on [0, π], s on [0, π/2], f(t) = sin t.

    Galerkin's method, exactly in s and by Simpson's rule in t. Severely ill-posed: a dozen singular values count.

    Args:
        n: Number of unknowns and of measurements.

    Returns:
        The problem.

    Raises:
        ValueError: If n is not a whole number >= 1.

    References:
        Baart (1982), The use of auto-correlation for pseudo-rank determination in noisy ill-conditioned linear least-squares
        problems. Hansen (1994), Regularization Tools.

    >>> round(float(np.sum(baart(32).x) * (np.pi / 32) ** 0.5), 12)                                 # ∫ sin t over [0, π]
    2.0
    """
    (t, width), (s, height) = _midpoints(0, math.pi, n), _midpoints(0, math.pi / 2, n)

    def over_box(at: np.ndarray) -> np.ndarray:
        """∫ exp(s cos t) ds over each box of s."""
        rate = np.cos(at)
        return height * np.exp(np.outer(s, rate)) * _sinhc(rate * height / 2)

    A = (over_box(t - width / 2) + 4 * over_box(t) + over_box(t + width / 2)) * math.sqrt(width / height) / 6
    x = (np.cos(t - width / 2) - np.cos(t + width / 2)) / math.sqrt(width)
    return _problem("baart", A, x, "Baart (1982)")


def foxgood(n: int = 32) -> InverseProblem:
    """Fox and Goodwin's problem: ∫ √(s² + t²) f(t) dt = ((1 + s²)^(3/2) − s³) / 3 on [0, 1], f(t) = t; midpoint rule.

    Severely ill-posed, and the continuous problem does not satisfy Picard's condition well.

    Args:
        n: Number of unknowns and of measurements.

    Returns:
        The problem; its matrix is symmetric.

    Raises:
        ValueError: If n is not a whole number >= 1.

    References:
        Fox and Goodwin (1953), The numerical solution of non-singular linear integral equations.
        Hansen (1994), Regularization Tools.

    >>> bool(abs(foxgood(200).b[-1] - (2**1.5 - 1) / 3) < 0.005)                                    # at s = 1 − 1/400
    True
    """
    t, h = _midpoints(0, 1, n)
    return _problem("foxgood", h * np.hypot(t[:, None], t), t, "Fox and Goodwin (1953)")


def i_laplace(n: int = 32) -> InverseProblem:
    """The inverse Laplace transform: ∫ exp(−s t) f(t) dt = 1 / (s + ½) on [0, ∞), f(t) = exp(−t/2).

    By Gauss's and Laguerre's quadrature in t; s = 10 i / n.

    Args:
        n: Number of unknowns and of measurements, at most 300.

    Returns:
        The problem.

    Raises:
        ValueError: If n is not a whole number from 1 to 300: beyond, exp(−t/2) of the last node is no number.

    References:
        Varah (1983), Pitfalls in the numerical solution of linear ill-posed problems. Hansen (1994), Regularization Tools.

    >>> problem = i_laplace(64)
    >>> s = 10 * np.arange(1, 65) / 64
    >>> bool(np.abs(problem.b - 1 / (s + 0.5)).max() < 1e-9)
    True
    """
    n = _check.count("n", n, 300)
    degree = np.arange(1, n)
    t = np.linalg.eigvalsh(np.diag(2.0 * np.arange(n) + 1) + np.diag(degree, 1) + np.diag(degree, -1))  # Golub and Welsch
    before, now = np.zeros(n), np.exp(-t / 2)  # exp(−t/2) Lₖ(t), whose size stays moderate
    for k in range(n + 1):
        before, now = now, ((2 * k + 1 - t) * now - k * before) / (k + 1)
    s = 10 * np.arange(1, n + 1) / n
    weights = t / ((n + 1) * now) ** 2  # w exp(t)
    return _problem("i_laplace", weights * np.exp(-np.outer(s, t)), np.exp(-t / 2), "Varah (1983)")


def _problem(name: str, A: np.ndarray, x: np.ndarray, source: str, year: int = 1994) -> InverseProblem:
    tools = _TOOLS if year == 1994 else "Hansen (2007), Regularization Tools 4.0, Numerical Algorithms 46"
    return measured(name, Dense(A), x, f"{source}; {tools}")


def _midpoints(start: float, stop: float, n: int) -> tuple[np.ndarray, float]:
    """The middles of n boxes that divide an interval, and the width of a box.

    Raises:
        ValueError: If n is not a whole number >= 1.
    """
    width = (stop - start) / _check.count("n", n)
    return start + width * (np.arange(n) + 0.5), width


def _antiderivative(t: np.ndarray) -> np.ndarray:
    """∫ φ from 0, φ(t) = 1 + cos(πt/3) for |t| < 3."""
    inside = np.clip(t, -3, 3)
    return inside + 3 / math.pi * np.sin(math.pi * inside / 3)


def _second_antiderivative(t: np.ndarray) -> np.ndarray:
    """∫ of that from 0: beyond 3 a line of slope 3."""
    inside = np.minimum(np.abs(t), 3)
    return inside**2 / 2 + 9 / math.pi**2 * (1 - np.cos(math.pi * inside / 3)) + 3 * (np.abs(t) - inside)


def _sinhc(z: np.ndarray) -> np.ndarray:
    """The function sinh(z) / z."""
    return np.where(z == 0, 1.0, np.sinh(z) / np.where(z == 0, 1.0, z))
