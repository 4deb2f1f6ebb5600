"""Noise with heavy tails, under which outlying targets weigh little."""

from __future__ import annotations

import math
from typing import Any, ClassVar, final

import pyro.distributions as dist
import torch

from bayesreg.likelihoods.base import AbstractLikelihood
from bayesreg.likelihoods.special import by_scipy, number_or_prior
from bayesreg.priors import AbstractPrior, HalfNormal
from bayesreg.priors.numeric import ends


@final
class StudentT(AbstractLikelihood):
    """y = f(x) + s t, t ~ Student(ν):  log p = Σ log Γ((ν+1)/2) − log Γ(ν/2) − ½ log(νπ) − log s − (ν+1)/2 log(1 + z²/ν).

    z = (y − f)/s. The variance is s²ν/(ν − 2); ν → ∞ is `Gaussian`.

    As a loss: a robust one, quadratic near zero, whose slope falls like 1/|y − f| far out.

    Args:
        df: Degrees of freedom ν > 2, so that the variance is finite: a number when known, a prior when they are to be learned,
            for example priors.Uniform(2.0, 50.0).
        noise_scale: Scale s of the noise in the units that the model works in: a number > 0 when known, a prior of a positive
            quantity when it is to be learned.

    Raises:
        ValueError: If one of them is neither a number > 0 nor a prior on positive values, or df may be 2 or less.

    References:
        Lange, Little and Taylor (1989), Robust statistical modeling using the t distribution.

    >>> import torch
    >>> one = torch.ones(1)
    >>> row = StudentT().log_prob(0 * one, 3 * one, df=4 * one, noise_scale=2 * one)
    >>> torch.allclose(row, torch.distributions.StudentT(4 * one, 0 * one, 2 * one).log_prob(3 * one))
    True
    """

    location_scale: ClassVar[bool] = True
    unit_free: ClassVar[frozenset[str]] = frozenset({"df"})

    def __init__(self, df: float | AbstractPrior = 4.0, noise_scale: float | AbstractPrior = HalfNormal(1.0)) -> None:  # noqa: B008 (frozen)
        self.df = number_or_prior("df", df, "priors.Uniform(2.0, 50.0)")
        if ends(df.support)[0] < 2 if isinstance(df, AbstractPrior) else df <= 2:
            raise ValueError(
                f"df must be > 2, or the variance of y is infinite, but {df!r} came; pass for example 4.0, or "
                "priors.Uniform(2.0, 50.0) to learn it."
            )
        self.noise_scale = number_or_prior("noise_scale", noise_scale, "priors.HalfNormal(1.0)")

    @property
    def parameters(self) -> dict[str, float | AbstractPrior]:
        """Degrees of freedom and the noise scale."""
        return {"df": self.df, "noise_scale": self.noise_scale}

    @property
    def discrete(self) -> bool:
        """False."""
        return False

    def distribution(self, output: torch.Tensor, *, df: torch.Tensor, noise_scale: torch.Tensor) -> Any:
        """StudentT(ν, f, s); a row with K outputs is one event."""
        rows = dist.StudentT(df, output, noise_scale, validate_args=False)
        return rows.to_event(1) if output.dim() > 1 else rows

    def log_prob(self, output: torch.Tensor, y: torch.Tensor, *, df: torch.Tensor, noise_scale: torch.Tensor) -> torch.Tensor:
        """As above, summed over a row's K outputs when y has them."""
        half = 0.5 * (df + 1)
        constant = torch.lgamma(half) - torch.lgamma(0.5 * df) - 0.5 * torch.log(math.pi * df) - noise_scale.log()
        rows = constant - half * torch.log1p(((y - output) / noise_scale).square() / df)
        return rows.sum(-1) if y.dim() > 1 else rows

    def output_curvature(
        self, output: torch.Tensor, y: torch.Tensor, *, df: torch.Tensor, noise_scale: torch.Tensor
    ) -> torch.Tensor:
        """The Fisher information (ν + 1)/((ν + 3) s²), where the Hessian is negative for |y − f| > s √ν."""
        width = output.shape[-1] if output.dim() > 1 else 1
        eye = torch.eye(width, dtype=output.dtype, device=output.device)
        return (eye * ((df + 1) / ((df + 3) * noise_scale.square()))).expand(len(output), width, width)

    def start(self, output: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        """Five degrees of freedom and 1.4826 times the median distance of the residuals."""
        middle = 1.4826 * (y - output).abs().median()
        found = {"df": output.new_tensor(5.0), "noise_scale": middle.clamp_min(1e-3)}
        return {name: found[name] for name in self.latents}

    def mean(self, output: torch.Tensor, *, df: torch.Tensor, noise_scale: torch.Tensor) -> torch.Tensor:
        """The output itself, which for ν <= 1 is the median alone."""
        return output

    def variance(self, output: torch.Tensor, *, df: torch.Tensor, noise_scale: torch.Tensor) -> torch.Tensor:
        """s²ν/(ν − 2), infinite for ν <= 2."""
        ratio = torch.where(df > 2, df / (df - 2).clamp_min(torch.finfo(df.dtype).tiny), math.inf)
        return (noise_scale.square() * ratio).expand_as(output)

    def cdf(self, output: torch.Tensor, y: torch.Tensor, *, df: torch.Tensor, noise_scale: torch.Tensor) -> torch.Tensor:
        """That of Student's distribution at z."""
        return by_scipy("stdtr", df, (y - output) / noise_scale)

    def quantile(self, output: torch.Tensor, q: float, *, df: torch.Tensor, noise_scale: torch.Tensor) -> torch.Tensor:
        """The output plus s times Student's quantile."""
        return output + noise_scale * by_scipy("stdtrit", df, q)

    def check_target(self, y: torch.Tensor) -> None:
        """Any number will do."""

    def __repr__(self) -> str:
        return f"StudentT(df={self.df!r}, noise_scale={self.noise_scale!r})"
