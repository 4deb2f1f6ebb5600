"""How long a search by steps goes on, and how fast: so many steps along half a cosine, or until its objective rises no more.

constant while the objective rises more than its noise  →  half a cosine down to zero  →  the end
"""

from __future__ import annotations

import abc
import dataclasses
import math

import torch

from bayesreg.solvers.rising import trend

SCHEDULES = ("cosine", "constant")
_FIRST = 1000
_BLOCKS = 10  # whose means tell the noise, since steps near each other are alike
_LATEST = 0.6  # of the budget: there the rate falls in any case,
_EARLIEST = 0.4  # and here where it is to stay low for a third of all steps


@dataclasses.dataclass(frozen=True)
class AbstractSchedule(abc.ABC):
    """How long, and how fast at each step.

    Attributes:
        num_steps: Steps.
        learning_rate: The first rate.
        budget: Steps at most, where they may become more; else 0.
    """

    num_steps: int
    learning_rate: float
    budget: int = dataclasses.field(default=0, kw_only=True)

    @abc.abstractmethod
    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""

    def after(self, losses: torch.Tensor) -> AbstractSchedule:
        """How to go on after these losses of all steps so far, (steps,): as before."""
        return self

    @property
    def said(self) -> list[str]:
        """Why the search ended where it did, in a sentence; none where that was fixed from the start."""
        return []


@dataclasses.dataclass(frozen=True)
class Schedule(AbstractSchedule):
    """So many steps.

    rate(step) = learning_rate · ½ (1 + cos π t),  t ∈ [0, 1) the progress within a cycle;  or constant.

    Attributes:
        kind: "cosine" or "constant".
        num_cycles: With more than one, the cosine starts anew: warm restarts.

    References:
        Loshchilov and Hutter (2017), SGDR: stochastic gradient descent with warm restarts.

    >>> [round(Schedule(4, 1.0).rate(step), 3) for step in range(4)]
    [1.0, 0.854, 0.5, 0.146]
    >>> [round(Schedule(4, 1.0, num_cycles=2).rate(step), 3) for step in range(4)]
    [1.0, 0.5, 1.0, 0.5]
    """

    kind: str = "cosine"
    num_cycles: int = 1

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if self.kind == "constant":
            return self.learning_rate
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step * self.num_cycles / self.num_steps % 1)))


@dataclasses.dataclass(frozen=True)
class UntilFlat(AbstractSchedule):
    """A constant rate while the objective rises, then half a cosine down to zero, half as long as the way there.

    It counts as flat where the mean loss of the last quarter of the steps is below that of the quarter before by no more than
    one Monte Carlo error, or by less than `least`.

    Attributes:
        num_steps: Steps; the whole budget until the rate falls.
        budget: Steps at most.
        least: A fall of the loss that no longer matters.
        turn: The step at which the rate began to fall.
        first: Steps before anybody asks whether the objective still rises.

    >>> schedule = UntilFlat(10_000, 1.0)
    >>> flat = schedule.after(torch.tensor([1.0, -1.0]).repeat(1000))
    >>> flat.num_steps, flat.rate(2000), round(flat.rate(2500), 3)
    (3000, 1.0, 0.5)
    >>> schedule.after(torch.linspace(1.0, 0.0, 2000)) is schedule
    True
    """

    budget: int = 0
    least: float = 0.0
    turn: int | None = None
    first: int = _FIRST

    def __post_init__(self) -> None:
        object.__setattr__(self, "budget", self.budget or self.num_steps)

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if self.turn is None:
            return self.learning_rate
        part = (step - self.turn) / max(1, self.num_steps - self.turn)
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * part))

    def after(self, losses: torch.Tensor) -> AbstractSchedule:
        """With the end in sight, where the losses so far are flat, or the budget is nearly spent."""
        done = len(losses)
        if self.turn is not None or done < min(self.first, _LATEST * self.budget):
            return self
        if done >= _LATEST * self.budget:
            return dataclasses.replace(self, turn=done)
        if not _is_flat(losses, self.least):
            return self
        return dataclasses.replace(self, turn=done, num_steps=min(self.budget, done + done // 2))

    @property
    def said(self) -> list[str]:
        """Why the search ended where it did."""
        if self.num_steps < self.budget:
            why = "the search ended once its objective rose no more than its noise"
            return [f"{why}: after {self.num_steps:,} steps, the rate falling over the last third; at most {self.budget:,}."]
        return [f"the search ended with its budget of {self.budget:,} steps; its objective still rose when the rate fell."]


def _is_flat(losses: torch.Tensor, least: float) -> bool:
    """Whether the last quarter of the losses is below the quarter before by no more than one Monte Carlo error, or `least`."""
    size = len(losses) // (4 * _BLOCKS)
    early, late = losses[-2 * size * _BLOCKS :].double().view(2, _BLOCKS, size).mean(2)
    error = float(((early.var() + late.var()) / _BLOCKS).sqrt())
    return float(early.mean() - late.mean()) <= max(error, least)


@dataclasses.dataclass(frozen=True)
class Settling(AbstractSchedule):
    """A constant rate, then half a cosine down to a share of it, then that share until the objective rises no more.

    The last part is a third of all steps at least, so that the ends of the search which are compared have one rate. It goes on
    while the objective's `trend` is a rise above 2.5 of its standard errors and above `least`. With `first`, the rate begins to
    fall once the objective is flat, as `UntilFlat` says, and falls for half as many steps.

    Attributes:
        num_steps: Steps, as far as is known.
        budget: Steps at most.
        turn: The step at which the rate begins to fall.
        share: Of the first rate, that of the last part.
        least: A fall of the loss that no longer matters.
        fall: Steps that it falls for; as many as before when 0.
        first: Steps before anybody asks whether the objective still rises; 0 where `turn` is known.

    >>> schedule = Settling(30, 1.0, budget=60, turn=10, share=0.1)
    >>> [round(schedule.rate(step), 3) for step in (9, 10, 15, 20, 29)]
    [1.0, 1.0, 0.55, 0.1, 0.1]
    >>> schedule = Settling(3000, 1.0, budget=6000, turn=1000)
    >>> schedule.after(torch.zeros(3000)).num_steps, schedule.after(torch.linspace(1, 0, 3000)).num_steps
    (3000, 3600)
    >>> schedule = Settling(9000, 1.0, budget=9000, share=0.1, first=1000)
    >>> flat = schedule.after(torch.tensor([1.0, -1.0]).repeat(1000))
    >>> schedule.rate(2000), flat.rate(2000), flat.rate(3000), flat.num_steps
    (1.0, 1.0, 0.1, 4500)
    """

    budget: int = 0
    turn: int = 0
    share: float = 0.1
    least: float = 0.0
    fall: int = 0
    first: int = 0

    def rate(self, step: int) -> float:
        """The learning rate of a step, counted from 0."""
        if self.first and not self.turn:
            return self.learning_rate
        part = min(1.0, max(0.0, (step - self.turn) / max(1, self.fall or self.turn)))
        return self.learning_rate * (self.share + (1 - self.share) * 0.5 * (1 + math.cos(math.pi * part)))

    def after(self, losses: torch.Tensor) -> AbstractSchedule:
        """With the end in sight, where the losses so far are flat; with a fifth more steps where it still rises at that end."""
        done = len(losses)
        if self.first and not self.turn:
            if done < min(self.first, _EARLIEST * self.budget) or (
                done < _EARLIEST * self.budget and not _is_flat(losses, self.least)
            ):
                return self
            return dataclasses.replace(self, turn=done, fall=done // 2, num_steps=min(self.budget, 9 * done // 4))
        if done < self.num_steps or done >= self.budget:
            return self
        found = trend(-losses)
        if found is None or found.rise <= max(self.least, 2.5 * found.error):
            return self
        return dataclasses.replace(self, num_steps=min(self.budget, done + done // 5))

    @property
    def said(self) -> list[str]:
        """Why the search ended where it did."""
        if self.num_steps < self.budget:
            return [
                f"the search ended once its objective rose no more: after {self.num_steps:,} steps, at most {self.budget:,}."
            ]
        return [f"the search ended with its budget of {self.budget:,} steps."]
