"""How a noisy estimate of an objective ended: its level, and whether it still rose."""

from __future__ import annotations

from typing import NamedTuple

import torch


class Trend(NamedTuple):
    """How an estimate ended, in nats.

    Attributes:
        level: Its mean over the last tenth of the steps.
        rise: That minus its mean over steps 70–80 %.
        error: The rise's Monte Carlo error.
    """

    level: float
    rise: float
    error: float

    def details(self, what: str) -> dict[str, float | str]:
        """For a certificate, under the name of what was estimated."""
        return {what: self.level, "rise": self.rise, "Monte Carlo error": self.error}


def trend(estimates: torch.Tensor) -> Trend | None:
    """How one estimate a step, in nats, (num_steps,), ended; None where there are too few to tell."""
    tenth = len(estimates) // 10
    if tenth < 10:
        return None
    early, late = (estimates[start : start + tenth].double() for start in (7 * tenth, len(estimates) - tenth))
    error = float(((late.var() + early.var()) / tenth).sqrt())
    return Trend(float(late.mean()), float(late.mean() - early.mean()), error)
