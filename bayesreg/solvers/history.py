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
        of_statistics: What is to be known of the statistics that the fit left in batch normalisation, one sentence each; no
            longer so once others are taken.
        scales: Where the evidence tuned them, each scale at each step, as it is written in a prior.
        log_evidence: That evidence in nats, up to a constant where a prior is flat.
    """

    label: str = "log joint"
    steps: list[int] = dataclasses.field(default_factory=list)
    objective: list[float] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)
    of_statistics: list[str] = dataclasses.field(default_factory=list)
    scales: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    log_evidence: list[float] = dataclasses.field(default_factory=list)

    @property
    def said(self) -> list[str]:
        """All that is to be known of the fit, one sentence each."""
        return [*self.notes, *self.of_statistics]

    def record(self, step: int, objective: float) -> None:
        """Add one point."""
        self.steps.append(step)
        self.objective.append(objective)
