"""What likelihoods of counts share: a log link, so that the network's output is the logarithm of the mean."""

from __future__ import annotations

import abc
from typing import Any, ClassVar

import torch
from torch.distributions import constraints

from bayesreg.likelihoods.base import AbstractLikelihood
from bayesreg.likelihoods.special import whole_number_quantile


class AbstractCounts(AbstractLikelihood):
    """Whole numbers y >= 0 with E[y] = eᶠ: a step of log 2 in the output doubles the mean."""

    log_concave: ClassVar[bool] = True
    log_link: ClassVar[bool] = True

    @property
    def kind(self) -> str:
        """Counts."""
        return "counts"

    @property
    def support(self) -> Any:
        """Whole numbers from 0."""
        return constraints.nonnegative_integer

    def mean(self, output: torch.Tensor, **noise: torch.Tensor) -> torch.Tensor:
        """The mean eᶠ."""
        return output.exp()

    @abc.abstractmethod
    def cdf(self, output: torch.Tensor, y: torch.Tensor, **noise: torch.Tensor) -> torch.Tensor:
        """P(Y <= y | output), elementwise; zero below zero."""

    def quantile(self, output: torch.Tensor, q: float, **noise: torch.Tensor) -> torch.Tensor:
        """The smallest y with P(Y <= y | output) >= q, elementwise, by halves."""
        about = self.mean(output, **noise) + 2 * self.variance(output, **noise).sqrt()
        return whole_number_quantile(lambda k: self.cdf(output, k, **noise), q, about)
