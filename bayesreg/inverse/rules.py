"""The rules that choose the penalty weight λ, each a curve over λ and what it assumes; the class tree is their list.

Each rule minimises its curve over log λ, with one exception that solves an equation.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable
from typing import ClassVar, final

import torch

from bayesreg.inverse.spectrum import Measured

_EPS = torch.finfo(torch.float64).eps
Found = tuple[float, str]  # λ and a remark, empty where there is none; λ is NaN where the rule has no answer


class AbstractRule(abc.ABC):
    """A way to choose λ.

    Attributes:
        name: As it is asked for.
        title: The heading of its curve.
        assumes: What must hold for its answer to be good.
        needs_noise: Whether the noise's sd must be known.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    assumes: ClassVar[str]
    needs_noise: ClassVar[bool] = False

    @abc.abstractmethod
    def curve(self, data: Measured, lam: torch.Tensor, sigma: float | None) -> torch.Tensor:
        """What is minimised, (R,) at λ (R,); sigma is the noise's sd where it is known."""

    def pick(self, data: Measured, lam: torch.Tensor, sigma: float | None, *, refine: bool) -> Found:
        """The λ of the lowest point.

        Args:
            data: The measurements.
            lam: λ to look at, (R,) increasing.
            sigma: The noise's sd where it is known.
            refine: Whether λ between these may be taken.

        Returns:
            λ and a remark.
        """
        curve = self.curve(data, lam, sigma)
        best = int(curve.nan_to_num(nan=math.inf).argmin())
        if best in (0, len(lam) - 1):
            side = "smallest" if best == 0 else "largest"
            return float(lam[best]), f"{self.name}: lowest at the {side} λ that was looked at; do not trust it."
        if not refine:
            return float(lam[best]), ""
        return _refined(lambda at: float(self.curve(data, at, sigma)[0]), lam, best), ""

    def noise_scale(self, data: Measured, lam: float, sigma: float | None) -> float:
        """The noise's sd that goes with its λ: the known one, else what the residual shows."""
        return float(data.noise_scale(lam)) if sigma is None else sigma


def _refined(curve: Callable[[torch.Tensor], float], lam: torch.Tensor, best: int) -> float:
    """The lowest point between the neighbours of the best λ."""
    from scipy.optimize import minimize_scalar

    low, high = math.log(float(lam[best - 1])), math.log(float(lam[best + 1]))

    def at(log_lam: float) -> float:
        return curve(torch.tensor([math.exp(log_lam)], dtype=torch.float64))

    found = minimize_scalar(at, bounds=(low, high), method="bounded", options={"xatol": 1e-6})
    middle = float(lam[best])
    return math.exp(float(found.x)) if at(float(found.x)) <= at(math.log(middle)) else middle  # pyright: ignore


def _inner(data: Measured, lam: torch.Tensor) -> torch.Tensor:
    """The λ between the squares of the smallest and the largest singular value, where rules by shape may look."""
    s = data.spectrum.values
    low, high = float(s[-1].maximum(16 * _EPS * s[0])) ** 2, float(s[0]) ** 2
    found = lam[(lam >= low) & (lam <= high)]
    return found if len(found) > 2 else lam


@final
class GCV(AbstractRule):
    """Generalised cross-validation: M ‖A x_λ − b‖² / (M − df)², the mean squared error of a measurement left out, rotated.

    References:
        Golub, Heath and Wahba (1979), Generalized cross-validation as a method for choosing a good ridge parameter.
    """

    name: ClassVar[str] = "gcv"
    title: ClassVar[str] = "generalised cross-validation"
    assumes: ClassVar[str] = "white noise of unknown size; many measurements (with few it now and then takes far too small a λ)"

    def curve(self, data: Measured, lam: torch.Tensor, sigma: float | None) -> torch.Tensor:
        """The score, in squared units of b."""
        left = data.left_over(lam)
        return data.spectrum.num_data * data.residual_squares(lam) / left.square()


@final
class LCurve(AbstractRule):
    """The corner of log ‖L x_λ‖ against log ‖A x_λ − b‖: the point of largest curvature.

    References:
        Hansen and O'Leary (1993), The use of the L-curve in the regularization of discrete ill-posed problems.
    """

    name: ClassVar[str] = "l-curve"
    title: ClassVar[str] = "minus the L-curve's curvature"
    assumes: ClassVar[str] = (
        "a corner, which smooth truths round off; no theory that it converges as the noise vanishes (look at the curvature)"
    )

    def curve(self, data: Measured, lam: torch.Tensor, sigma: float | None) -> torch.Tensor:
        """Minus the curvature."""
        return -curvature(data, lam)

    def pick(self, data: Measured, lam: torch.Tensor, sigma: float | None, *, refine: bool) -> Found:
        """See `AbstractRule.pick`; only λ between the squares of the singular values are looked at."""
        return super().pick(data, _inner(data, lam), sigma, refine=refine)


def curvature(data: Measured, lam: torch.Tensor) -> torch.Tensor:
    """Curvature of the L-curve at λ, (R,), from the derivatives of both logs in log λ; positive at the corner."""
    squares, s = data.coefficients.square(), data.spectrum.values
    f = data.spectrum.filters(lam)
    g = lam[:, None] / (s**2 + lam[:, None])

    def log_path(value: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Derivatives of ½ log of a square from its own."""
        return first / (2 * value), (second * value - first**2) / (2 * value**2)

    residual = data.residual_squares(lam), (2 * f * g**2 * squares).sum(-1), (2 * f * g**2 * (3 * f - 1) * squares).sum(-1)
    sized = squares / s**2
    size = data.penalty_squares(lam), (-2 * f**2 * g * sized).sum(-1), (-2 * f**2 * g * (3 * f - 2) * sized).sum(-1)
    (x, xx), (y, yy) = log_path(*residual), log_path(*size)
    return (x * yy - xx * y) / (x**2 + y**2).clamp_min(1e-300) ** 1.5


@final
class Discrepancy(AbstractRule):
    """The residual is as large as the noise: ‖A x_λ − b‖ = σ√M.

    References:
        Morozov (1966), On the solution of functional equations by the method of regularization.
    """

    name: ClassVar[str] = "discrepancy"
    title: ClassVar[str] = "distance of the residual from σ√M, in logs"
    assumes: ClassVar[str] = "that σ is right; it smooths a little too much, since M is not reduced by the df"
    needs_noise: ClassVar[bool] = True

    def curve(self, data: Measured, lam: torch.Tensor, sigma: float | None) -> torch.Tensor:
        """|log ‖residual‖ / σ√M|."""
        return self._excess(data, lam, sigma).abs()

    def pick(self, data: Measured, lam: torch.Tensor, sigma: float | None, *, refine: bool) -> Found:
        """The λ at which the residual, which grows with λ, reaches σ√M; the largest below it where λ are given."""
        excess = self._excess(data, lam, sigma)
        below = int((excess <= 0).sum())
        if below == 0:
            why = "the residual is above σ√M even without a penalty: σ is too small, or A is not what made b"
            return math.nan, f"{self.name}: {why}."
        if below == len(lam):
            why = "b is not larger than the noise: its residual stays below σ√M whatever λ"
            return math.nan, f"{self.name}: {why}."
        if not refine:
            return float(lam[below - 1]), ""
        from scipy.optimize import brentq

        def at(log_lam: float) -> float:
            return float(self._excess(data, torch.tensor([math.exp(log_lam)], dtype=torch.float64), sigma)[0])

        found = brentq(at, math.log(float(lam[below - 1])), math.log(float(lam[below])), xtol=1e-10)
        return math.exp(float(found)), ""  # pyright: ignore[reportArgumentType]

    def _excess(self, data: Measured, lam: torch.Tensor, sigma: float | None) -> torch.Tensor:
        allowed = data.spectrum.num_data * (sigma or math.nan) ** 2
        return 0.5 * (data.residual_squares(lam) / allowed).log()


@final
class Evidence(AbstractRule):
    """The highest log p(b | λ): at the known σ, else at the likeliest σ of each λ.

    References:
        MacKay (1992), Bayesian interpolation. Wahba (1985), A comparison of GCV and GML (restricted, with a flat null space).
    """

    name: ClassVar[str] = "evidence"
    title: ClassVar[str] = "minus the log evidence (nats)"
    assumes: ClassVar[str] = "the prior: that x looks like its draws (under a wrong one λ comes out too small; compare priors)"

    def curve(self, data: Measured, lam: torch.Tensor, sigma: float | None) -> torch.Tensor:
        """−log p(b | λ, σ)."""
        return -data.log_evidence(lam, data.likeliest_noise_scale(lam) if sigma is None else sigma)

    def noise_scale(self, data: Measured, lam: float, sigma: float | None) -> float:
        """The known one, else the likeliest."""
        return float(data.likeliest_noise_scale(lam)) if sigma is None else sigma


@final
class ProfiledEvidence(AbstractRule):
    """The evidence as if σ were not known: each λ at its own likeliest σ. Its distance from the known one checks the model."""

    name: ClassVar[str] = "evidence-profiled"
    title: ClassVar[str] = "minus the log evidence, σ profiled (nats)"
    assumes: ClassVar[str] = "the prior, as evidence does, and white noise of unknown size"

    def curve(self, data: Measured, lam: torch.Tensor, sigma: float | None) -> torch.Tensor:
        """−max_σ log p(b | λ, σ)."""
        return -data.log_evidence(lam, data.likeliest_noise_scale(lam))

    def noise_scale(self, data: Measured, lam: float, sigma: float | None) -> float:
        """The likeliest, also where one is known."""
        return float(data.likeliest_noise_scale(lam))


@final
class QuasiOptimality(AbstractRule):
    """The answer moves least with log λ: ‖λ dx_λ/dλ‖ in the coordinates of the penalty.

    References:
        Tikhonov and Glasko (1965), Use of the regularization method in non-linear problems. Hansen (1998), Rank-deficient and
        discrete ill-posed problems, section 7.6.
    """

    name: ClassVar[str] = "quasi-optimality"
    title: ClassVar[str] = "how far the answer moves with log λ"
    assumes: ClassVar[str] = "nothing of the noise's size, but that noise and truth take turns once over the singular values"

    def curve(self, data: Measured, lam: torch.Tensor, sigma: float | None) -> torch.Tensor:
        """‖fᵢ(1 − fᵢ) uᵢᵀb/sᵢ‖."""
        f = data.spectrum.filters(lam)
        return ((1 - f) * data.contributions(lam)).square().sum(-1).sqrt()

    def pick(self, data: Measured, lam: torch.Tensor, sigma: float | None, *, refine: bool) -> Found:
        """The lowest of the valleys: at both ends the curve falls to zero and says nothing."""
        lam = _inner(data, lam)
        curve = self.curve(data, lam, sigma)
        valleys = 1 + ((curve[1:-1] < curve[:-2]) & (curve[1:-1] <= curve[2:])).nonzero()[:, 0]
        if not len(valleys):
            return math.nan, f"{self.name}: the answer moves ever less towards one end of λ; there is no valley."
        best = int(valleys[curve[valleys].argmin()])
        if not refine:
            return float(lam[best]), ""
        return _refined(lambda at: float(self.curve(data, at, sigma)[0]), lam, best), ""
