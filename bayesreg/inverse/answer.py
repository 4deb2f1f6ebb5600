"""How good an answer to A x = b is: bands, the residual against the noise, its whiteness, and the truth where it is known."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from bayesreg import _check
from bayesreg._text import AbstractTextTable, number, percent
from bayesreg.inverse.setting import MOST, declared, has_scale, measured, true_field
from bayesreg.inverse.spectrum import Spectrum
from bayesreg.model.model import BayesianModel
from bayesreg.operators import Observed
from bayesreg.posteriors.base import AbstractPosterior
from bayesreg.posteriors.gaussian import AbstractNormal

SIGNIFICANT = 0.05
_DRAWS = 999  # residuals that the model would leave; the p-value is exact for any number


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Answer(AbstractTextTable):
    """An answer and what can be said against it.

    Attributes:
        mean: Posterior mean, or the mode, in the unknown's shape.
        lower: Lower ends of the central intervals, entry by entry; None of a mode.
        upper: Upper ends.
        sd: Posterior sd; None of a mode.
        level: Of the intervals.
        residual: b − A mean, in the shape of the data.
        noise_scale: The noise's sd, known or the posterior's mean of it.
        degrees_of_freedom: How many unknowns the data decide; None where the prior is not Gaussian or the problem large.
        p_size: p-value of the residual's norm, two-sided; None where the noise is not one Gaussian scale, or df is not known.
        p_white: p-value of its whiteness: small where neighbouring residuals go together; None where the problem is large.
        relative_error: ‖mean − truth‖/‖truth‖, or None.
        coverage: Share of the truth's entries inside the intervals, or None.
    """

    mean: torch.Tensor
    lower: torch.Tensor | None
    upper: torch.Tensor | None
    sd: torch.Tensor | None
    level: float
    residual: torch.Tensor
    noise_scale: float | None
    degrees_of_freedom: float | None
    p_size: float | None
    p_white: float | None
    relative_error: float | None
    coverage: float | None

    @property
    def expected_residual(self) -> float | None:
        """σ√(M − df), what the noise leaves of a fit that uses df; σ√M where df is not known."""
        if self.noise_scale is None:
            return None
        return self.noise_scale * math.sqrt(max(self.residual.numel() - (self.degrees_of_freedom or 0.0), 0.0))

    @property
    def heads(self) -> Sequence[str]:
        """None: each row names its own number."""
        return ["", ""]

    @property
    def cells(self) -> Sequence[Sequence[str]]:
        """What is known, a row each."""
        size = float(self.residual.norm())
        rows = [["residual", number(size, 3)]]
        if self.noise_scale is not None:
            rows.append(["σ√M", number(self.noise_scale * math.sqrt(self.residual.numel()), 3)])
        if self.degrees_of_freedom is not None:
            rows.append(["degrees of freedom", number(self.degrees_of_freedom, 3)])
            rows.append(["σ√(M − df)", number(self.expected_residual or 0.0, 3)])
        rows += [["p of the residual's size", number(self.p_size, 2)]] if self.p_size is not None else []
        rows += [["p of its whiteness", number(self.p_white, 2)]] if self.p_white is not None else []
        rows += [["relative error", percent(self.relative_error)]] if self.relative_error is not None else []
        rows += [[f"truth in {percent(self.level)} intervals", percent(self.coverage)]] if self.coverage is not None else []
        return rows

    @property
    def notes(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """What speaks against it."""
        said = []
        size, expected = float(self.residual.norm()), self.expected_residual
        if self.p_size is not None and expected is not None and self.p_size < SIGNIFICANT:
            large = size > expected
            said.append(
                f"The residual is {'larger' if large else 'smaller'} than the noise leaves (p = {number(self.p_size, 2)}): "
                + (
                    "the penalty is too strong, σ too small, or A not the map."
                    if large
                    else "σ is too large, or noise is fitted."
                )
            )
        if self.p_white is not None and self.p_white < SIGNIFICANT:
            said.append(
                f"The residual is not white (p = {number(self.p_white, 2)}): neighbours go together, so structure of x, or an "
                "error of A, is left in it."
            )
        if self.degrees_of_freedom is None and self.p_white is not None:
            said.append("The p-value is as if no degree of freedom had been used: approximate.")
        return tuple(said)

    def __repr__(self) -> str:
        return f"Answer(residual {float(self.residual.norm()):.3g}, whiteness p = {self.p_white})"


def judge(posterior: AbstractPosterior, b: Any, truth: Any = None, *, level: float = 0.9, seed: int = 0) -> Answer:
    """Hold an answer beside the data, and beside the truth where it is known.

    Args:
        posterior: A fit of a model of an operator.
        b: The measurements that it was fitted to.
        truth: x, in the unknown's shape.
        level: Of the intervals, between 0 and 1.
        seed: Of the draws.

    Returns:
        The answer.

    Raises:
        ValueError: If the model is not one of an operator, or b or the truth does not fit.

    References:
        Hansen, Kilmer and Kjeldsen (2006), Exploiting residual information in the parameter choice for discrete ill-posed
        problems (the cumulative periodogram).

    >>> import bayesreg as br
    >>> A = torch.eye(50, dtype=torch.float64)
    >>> model = br.BayesianModel(br.operators.Dense(A), {"x": br.priors.Normal(1.0)}, br.likelihoods.Gaussian(0.5))
    >>> b = 1.1 * torch.randn(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> found = judge(br.fit(model, None, b, method="exact"), b)
    >>> round(found.degrees_of_freedom, 6), found.p_white > 0.05
    (40.0, True)
    """
    model = posterior.model
    if not isinstance(model.module, Observed):
        raise ValueError("the posterior must be one of an operator, but another came; judge its predictions by br.compare.")
    operator, level = model.module.operator, _check.fraction("level", level)
    data = measured(operator, b)
    mean = posterior.mean["x"].detach().cpu().double()
    lower, upper, sd = _bands(posterior, level, seed)
    with torch.no_grad():
        residual = data.reshape(operator.output_shape) - operator(mean).double()
    sigma = _noise(posterior)
    problem = _taken_apart(posterior, data, sigma)
    df = None if problem is None or sigma is None else float(problem[0].degrees_of_freedom(problem[1]))
    p_size, p_white = (None, None) if sigma is None or residual.numel() > MOST else _tests(residual, sigma, problem, seed)
    error, inside = None, None
    if truth is not None:
        x = _check.all_finite("truth", true_field(operator, truth))
        error = float((mean - x).norm() / x.norm())
        if lower is not None and upper is not None:
            inside = float(((lower <= x) & (x <= upper)).double().mean())
    return Answer(mean, lower, upper, sd, level, residual, sigma, df, p_size, p_white, error, inside)


def _bands(
    posterior: AbstractPosterior, level: float, seed: int
) -> tuple[torch.Tensor | None, torch.Tensor | None, torch.Tensor | None]:
    """Ends of the central intervals, and the sd, entry by entry; none of a mode."""
    if posterior.at_a_point:
        return None, None, None
    sd = posterior.std["x"].detach().cpu().double()
    if isinstance(posterior, AbstractNormal):
        half = math.sqrt(2) * float(torch.erfinv(torch.tensor(level, dtype=torch.float64))) * sd
        mean = posterior.mean["x"].detach().cpu().double()
        return mean - half, mean + half, sd
    draws = posterior.sample(1000, seed=seed)["x"].detach().cpu().double()
    ends = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    lower, upper = torch.quantile(draws, ends, dim=0)
    return lower, upper, sd


def _noise(posterior: AbstractPosterior) -> float | None:
    """The noise's sd where it is one Gaussian scale: known, or its posterior mean."""
    likelihood = posterior.model.likelihood
    name = likelihood.squared_error_scale
    if name is None:
        return None
    return float(likelihood.fixed[name]) if name in likelihood.fixed else float(posterior.mean[name])


def _taken_apart(posterior: AbstractPosterior, data: torch.Tensor, sigma: float | None) -> tuple[Spectrum, float] | None:
    """The spectrum and λ of a linear-Gaussian model; None of another, and of a large one."""
    model: Any = posterior.model
    (resolved,) = model.resolved
    operator = model.module.operator
    if sigma is None or not operator.linear or not isinstance(model, BayesianModel):
        return None
    if max(operator.size, operator.num_data) > MOST or not has_scale(resolved):
        return None
    if resolved.prior.gaussian(resolved.shape) is None:
        return None
    problem = declared(model, data.reshape(operator.output_shape))
    if problem.matrix is None or problem.root is None:
        return None
    return Spectrum.of(problem.matrix, problem.root), (sigma / problem.scale) ** 2


def _tests(
    residual: torch.Tensor, sigma: float, problem: tuple[Spectrum, float] | None, seed: int
) -> tuple[float | None, float | None]:
    """p-values of the residual's size and of its whiteness, by residuals that the model itself would leave.

    These are N(0, σ²(I − H)), H the influence matrix; N(0, σ²I) where it is not known.
    """
    generator = torch.Generator().manual_seed(_check.seed(seed))
    noise = sigma * torch.randn(_DRAWS, residual.numel(), generator=generator, dtype=torch.float64)
    if problem is not None:
        spectrum, lam = problem
        noise = noise - (noise @ spectrum.images) @ spectrum.images.mT
        kept = 1 - (1 - spectrum.filters(lam)).sqrt()
        noise = noise - ((noise @ spectrum.measured) * kept) @ spectrum.measured.mT
    size, sizes = float(residual.square().sum()), noise.square().sum(1)
    above, below = float((sizes >= size).sum()), float((sizes <= size).sum())
    p_size = min(1.0, 2 * (1 + min(above, below)) / (1 + _DRAWS))
    p_size = None if problem is None else p_size  # its expectation needs the df
    if residual.numel() < 8:
        return p_size, None
    found, others = _colour(residual[None]), _colour(noise.reshape(_DRAWS, *residual.shape))
    centre = others.mean(0)
    distance = np.abs(found - centre).max(1)[0]
    return p_size, float((1 + (np.abs(others - centre).max(1) >= distance).sum()) / (1 + _DRAWS))


def _colour(fields: torch.Tensor) -> np.ndarray:
    """Cumulative periodogram of (S, *shape), shares of the power up to each frequency's size, (S, frequencies)."""
    shape = fields.shape[1:]
    power = torch.fft.fftn(fields, dim=tuple(range(1, fields.dim()))).abs().square().reshape(len(fields), -1).numpy()
    sizes = np.sqrt(sum(np.meshgrid(*(np.fft.fftfreq(n) ** 2 for n in shape), indexing="ij"))).ravel()
    groups = np.unique(sizes.round(9), return_inverse=True)[1]
    bins = np.minimum(groups, 200 * groups // (groups.max() + 1)) if groups.max() >= 200 else groups
    summed = np.stack([np.bincount(bins, row, minlength=bins.max() + 1) for row in power])
    return np.cumsum(summed, 1) / np.maximum(summed.sum(1, keepdims=True), 1e-300)
