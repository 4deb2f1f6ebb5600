"""What a test problem is: a forward map, the truth, and the measurements that it would give without noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from bayesreg import _check
from bayesreg.operators import AbstractLinearOperator


@dataclass(frozen=True)
class InverseProblem:
    """A x = b, with the truth known.

    Attributes:
        name: What it is called.
        operator: The forward map A.
        x: The truth, in the operator's `shape`, float64.
        b: A x, the measurements without noise, in its `output_shape`.
        source: Where the problem was published.
    """

    name: str
    operator: AbstractLinearOperator
    x: np.ndarray
    b: np.ndarray
    source: str

    def noisy(self, level: float, seed: int = 0) -> tuple[np.ndarray, float]:
        """Measurements with white noise whose expected norm is nearly level ‖b‖: sd σ = level ‖b‖ / √M.

        Args:
            level: Noise relative to the signal, for example 0.01; > 0.
            seed: Of `numpy.random.default_rng`.

        Returns:
            b + σ ε, and σ.

        Raises:
            ValueError: If level is not > 0 or seed is none.

        >>> from bayesreg.datasets import inverse
        >>> problem = inverse.shaw(32)
        >>> b, noise_scale = problem.noisy(0.01, seed=0)
        >>> round(noise_scale * 32**0.5 / float(np.linalg.norm(problem.b)), 12)
        0.01
        """
        scale = _check.positive("level", level) * float(np.linalg.norm(self.b)) / math.sqrt(self.b.size)
        rng = np.random.default_rng(_check.seed(seed))
        return self.b + scale * rng.standard_normal(self.b.shape), scale

    def __repr__(self) -> str:
        return f"InverseProblem({self.name}: {self.operator.num_data:,} measurements of {self.operator.size:,} unknowns)"


def measured(name: str, operator: AbstractLinearOperator, x: np.ndarray, source: str) -> InverseProblem:
    """The problem whose truth is x."""
    with torch.no_grad():
        b = operator(torch.as_tensor(x, dtype=torch.float64)).numpy()
    return InverseProblem(name, operator, np.array(x, dtype=np.float64), b, source)
