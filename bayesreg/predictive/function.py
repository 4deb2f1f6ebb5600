"""What a predictive asks of its closed form, where it has one."""

from __future__ import annotations

import abc
from typing import Any

import torch


class AbstractFunction(abc.ABC):
    """The distribution of y row by row, without draws, in float64."""

    @property
    @abc.abstractmethod
    def num_components(self) -> int:
        """J, the numbers for each row and output that the computation holds at once."""

    @property
    @abc.abstractmethod
    def mean(self) -> torch.Tensor:
        """E[y | x], (N,) or (N, K)."""

    @property
    @abc.abstractmethod
    def aleatoric_variance(self) -> torch.Tensor:
        """The noise's variance, in the shape of `mean`."""

    @property
    @abc.abstractmethod
    def epistemic_variance(self) -> torch.Tensor:
        """The variance that comes from not knowing the function, in the shape of `mean`."""

    @abc.abstractmethod
    def log_prob(self, y: torch.Tensor) -> torch.Tensor:
        """Log density of each row, (N,)."""

    @abc.abstractmethod
    def rows(self, index: Any) -> AbstractFunction:
        """The same for some rows, by numbers or a slice."""

    # of numbers alone; what is about classes has none of them

    weight: torch.Tensor

    @property
    def normals(self) -> torch.distributions.Normal:
        """The normals that are mixed with `weight` (J,), entry by entry, (J, N) or (J, N, K).

        Raises:
            NotImplementedError: If y is a class.
        """
        raise NotImplementedError

    def cdf(self, y: torch.Tensor) -> torch.Tensor:
        """F(y), entry by entry, in the shape of y.

        Raises:
            NotImplementedError: If y is a class.
        """
        raise NotImplementedError
