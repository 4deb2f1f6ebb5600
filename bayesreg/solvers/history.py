"""How a search went: its objective at some steps, and what was decided on the way."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class History:
    """How a fit went.

    Attributes:
        label: What was followed: "log joint" or "elbo".
        steps: Step numbers at which it was recorded.
        objective: Its values there, in nats, summed over the data set, in the data's own units.
        notes: What was taken and why, one sentence each.
    """

    label: str = "log joint"
    steps: list[int] = dataclasses.field(default_factory=list)
    objective: list[float] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    def record(self, step: int, objective: float) -> None:
        """Add one point."""
        self.steps.append(step)
        self.objective.append(objective)
