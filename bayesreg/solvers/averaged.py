"""The mean of the last iterates: noise that a small step leaves in each point is averaged away (Polyak and Juditsky 1992)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from bayesreg.data.rows import Batch
from bayesreg.solvers.stepper import AbstractStepper


class Averaged(AbstractStepper):
    """Another stepper's steps, and the mean of its points once the rate has fallen.

    Args:
        stepper: Takes the steps.
        slow: Share of the largest rate so far below which points count: 0.15 is the last quarter of half a cosine. A call of
            several steps counts with its last point.
        memory: Points that it reaches back, older ones fading; None where all count alike.
    """

    def __init__(self, stepper: AbstractStepper, slow: float, memory: int | None = None) -> None:
        self._stepper, self._slow, self._memory = stepper, slow, memory
        self.parameter, self.steps_a_call = stepper.parameter, stepper.steps_a_call
        self._fastest, self._count = 0.0, 0
        self._mean = torch.zeros_like(stepper.parameter.detach())

    def advance(self, batches: Sequence[Batch], rates: Sequence[float], keep: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Steps of the other; see `AbstractStepper.advance`."""
        found = self._stepper.advance(batches, rates, keep)
        self.parameter = self._stepper.parameter
        self._fastest = max(self._fastest, *rates)
        if rates[-1] < self._slow * self._fastest:
            self._count += 1
            self._mean.lerp_(self.parameter.detach(), 1 / min(self._count, self._memory or self._count))
        return found

    @property
    def answer(self) -> torch.Tensor:
        """The mean of the points that count, the last point where none does; detached."""
        return (self._mean if self._count else self.parameter.detach()).clone()

    def state(self) -> dict[str, Any]:
        """The other's state, and the mean so far."""
        return {"stepper": self._stepper.state(), "mean": self._mean.clone(), "rate": self._fastest, "count": self._count}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        self._stepper.restore(state["stepper"])
        self.parameter = self._stepper.parameter
        self._mean.copy_(state["mean"])
        self._fastest, self._count = float(state["rate"]), int(state["count"])
