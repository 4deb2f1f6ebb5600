"""What a fit says about itself: how it went, whether it can be believed, and by which method it came."""

from __future__ import annotations

import dataclasses
from typing import Any


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


@dataclasses.dataclass(frozen=True)
class Certificate:
    """Whether a fit can be believed, and why.

    Attributes:
        converged: True when the check below was passed.
        sentence: The verdict in words; says what to do when it is not.
        details: The numbers behind it.
    """

    converged: bool
    sentence: str
    details: dict[str, float | str] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        return self.sentence


@dataclasses.dataclass(frozen=True)
class FitRecord:
    """What a method says about its fit, whatever the answer's class.

    Attributes:
        method: The method's name, "map".
        seed: The seed it was given.
        history: How it went.
        certificate: Whether it can be believed.
        elapsed: Seconds.
        space: "constrained" or "unconstrained", the space in which a mode was taken; None where there is no mode.
        log_evidence: log p(y | x) in nats, in the data's own units, where the method knows it.
        batch_statistics: By which statistics batch normalisation predicts, in words, where they are not its running averages.
        training_rmse: By how much the predicted mean misses the training targets, output by output, from a few hundred rows;
            only where the noise scale is learned, for which it is the first thing to compare with.
    """

    method: str
    seed: int
    history: History
    certificate: Certificate
    elapsed: float = 0.0
    space: str | None = None
    log_evidence: float | None = None
    batch_statistics: str | None = None
    training_rmse: tuple[float, ...] | None = None

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> FitRecord:
        """The inverse of `dataclasses.asdict`."""
        history, certificate = History(**fields["history"]), Certificate(**fields["certificate"])
        found = cls(**{**fields, "history": history, "certificate": certificate})
        missed = found.training_rmse
        return dataclasses.replace(found, training_rmse=None if missed is None else tuple(missed))
