"""Mean and sd of columns in one pass and in float64, exact when batches are merged (Chan, Golub and LeVeque 1983)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch


class Moments:
    """Running mean and sum of squared deviations of rows that come in batches.

    >>> moments = Moments()
    >>> for batch in ([[1.0, 5.0], [2.0, 5.0]], [[6.0, 5.0]]):
    ...     moments.add(torch.tensor(batch))
    >>> [column.tolist() for column in moments.finish()]  # the sd is √(Σ(x − mean)²/N), 0 for a constant column
    [[3.0, 5.0], [2.160246899469287, 0.0]]
    """

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, torch.zeros(()), torch.zeros(())

    def add(self, rows: torch.Tensor, weight: torch.Tensor | None = None) -> None:
        """Count rows, (B, D), in, each as often as its weight (B,) says."""
        rows = rows.detach().to("cpu", torch.float64)
        if weight is None:
            mean, count = rows.mean(0), len(rows)
            squares = (rows - mean).square().sum(0)
        else:
            weight = weight.to(rows)
            count = float(weight.sum())
            mean = weight @ rows / count
            squares = weight @ (rows - mean).square()
        total = self.count + count
        shift = mean - self.mean
        self.squares = squares if self.count == 0 else self.squares + squares + shift**2 * (self.count * count / total)
        self.mean = mean if self.count == 0 else self.mean + shift * (count / total)
        self.count = total

    def add_channels(self, x: torch.Tensor, weight: torch.Tensor | None = None) -> None:
        """Count inputs (B, C, ...) in, each place beside the channel axis as a row."""
        rows = x.transpose(1, -1).reshape(-1, x.shape[1]) if x.dim() > 2 else x.reshape(len(x), -1)
        self.add(rows, weight if weight is None else weight.repeat_interleave(len(rows) // len(x)))

    def finish(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and sd of each column, (D,) each, float64 on the CPU."""
        sd = (self.squares / self.count).sqrt()
        # rounding of a constant column leaves a sd of about eps·|mean|: it is a constant all the same
        return self.mean, torch.where(sd <= 4e-16 * self.count**0.5 * self.mean.abs(), 0.0, sd)

    def standardizing(self, shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor, tuple[int, ...]]:
        """Mean and scale for standardisation, in this shape, and the numbers of the constant columns, whose scale is kept."""
        mean, sd = self.finish()
        constant = sd == 0
        scale = torch.where(constant, 1.0, sd).reshape(shape)
        return mean.reshape(shape), scale, tuple(constant.nonzero().flatten().tolist())


def of_transformed(transform: Any, loc: torch.Tensor, sd: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and sd of a transformed normal, by Gauss–Hermite quadrature."""
    nodes, weights = (torch.as_tensor(part).to(loc) for part in np.polynomial.hermite_e.hermegauss(64))
    values, weights = transform(loc + sd * nodes[:, None]), (weights / weights.sum())[:, None]
    mean = (weights * values).sum(0)
    return mean, (weights * (values - mean).square()).sum(0).sqrt()
