"""The record of a fit: its history, its certificate, and the method that made it."""

from __future__ import annotations

import dataclasses
from typing import Any

from bayesreg.certificates.certificate import Certificate
from bayesreg.certificates.outcome import Finding
from bayesreg.certificates.values import Failure
from bayesreg.solvers.failures import FitError
from bayesreg.solvers.history import History
from bayesreg.storage.schema import built


@dataclasses.dataclass(frozen=True)
class Refreshed:
    """Statistics of batch normalisation that were recomputed after the fit.

    Attributes:
        num_rows: Rows of the inputs that they come from.
        batch_size: Rows of one random batch for each draw; None for all of them.
        at_mode: True for one set, at the mode; False for one a draw.

    >>> print(Refreshed(100, None, at_mode=True), Refreshed(100, 20, at_mode=False), sep="; ")
    the statistics of 100 rows, at the mode; the statistics of one random batch of 20 out of 100 rows, for each draw
    """

    num_rows: int
    batch_size: int | None
    at_mode: bool

    @property
    def of_a_draw(self) -> str:
        """The statistics of one draw, in words."""
        if self.at_mode:
            return f"the statistics of {self.num_rows:,} rows"
        if self.batch_size is None:
            return f"its own statistics, over {self.num_rows:,} rows"
        return f"the statistics of one random batch of {self.batch_size:,} out of {self.num_rows:,} rows"

    def __str__(self) -> str:
        if self.at_mode:
            return f"{self.of_a_draw}, at the mode"
        if self.batch_size is None:
            return f"each draw's own statistics, over {self.num_rows:,} rows"
        return f"{self.of_a_draw}, for each draw"


@dataclasses.dataclass(frozen=True)
class FitRecord:
    """A method's record of its fit, whatever the posterior's class.

    Attributes:
        method: The method's name, "map".
        seed: The seed it was given.
        history: How it went.
        certificate: Whether it can be believed.
        elapsed: Seconds.
        space: "constrained" or "unconstrained", the space in which a mode was taken; None where there is no mode.
        log_evidence: log p(y | x) in nats, in the data's own units, where the method knows it.
        batch_statistics: By which statistics batch normalisation predicts, where they are not its running averages.
        training_rmse: RMSE of the predicted mean on a few hundred training rows, for each output; only where the noise scale is
            learned, to be compared with it.
    """

    method: str
    seed: int
    history: History
    certificate: Certificate
    elapsed: float = 0.0
    space: str | None = None
    log_evidence: float | None = None
    batch_statistics: Refreshed | None = None
    training_rmse: tuple[float, ...] | None = None

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> FitRecord:
        """The inverse of `dataclasses.asdict`."""
        return built(cls, fields)


def stopped(method: str, seed: int, history: History, failure: FitError, space: str | None = None) -> FitRecord:
    """The record of a fit that stopped with an error."""
    certificate = Certificate(Finding.FAILED, failure=Failure(str(failure), failure.step))
    return FitRecord(method, seed, history, certificate, 0.0, space)
