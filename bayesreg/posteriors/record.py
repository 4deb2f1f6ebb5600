"""What a fit says about itself: how it went, whether it can be believed, and by which method it came."""

from __future__ import annotations

import dataclasses
from typing import Any

from bayesreg.certificates.certificate import Certificate
from bayesreg.solvers.failures import FitError
from bayesreg.solvers.history import History


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


def stopped(method: str, seed: int, history: History, failure: FitError, space: str | None = None) -> FitRecord:
    """The record of a fit that could not go on."""
    sentence = f"Stopped: the last good point, after {failure.step:,} steps; {failure}"
    return FitRecord(method, seed, history, Certificate(False, sentence), 0.0, space)
