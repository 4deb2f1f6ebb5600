"""How a noisy estimate of an objective ended: its level, and whether it still rose."""

from __future__ import annotations

import dataclasses

import torch


@dataclasses.dataclass(frozen=True)
class Trend:
    """How an estimate ended, in nats.

    Attributes:
        level: Its mean over the last tenth of the steps.
        rise: That minus its mean over steps 70–80 %.
        error: The rise's Monte Carlo error.
    """

    level: float
    rise: float
    error: float


def trend(estimates: torch.Tensor) -> Trend | None:
    """How one estimate a step, in nats, (num_steps,), ended; None where there are too few to tell."""
    tenth = len(estimates) // 10
    if tenth < 10:
        return None
    early, late = (estimates[start : start + tenth].double() for start in (7 * tenth, len(estimates) - tenth))
    error = float(((late.var() + early.var()) / tenth).sqrt())
    return Trend(float(late.mean()), float(late.mean() - early.mean()), error)
