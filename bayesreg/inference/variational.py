"""What methods that climb an ELBO share: the settings of the search, and whether it has stopped rising."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import torch

from bayesreg import _check
from bayesreg.data import Data
from bayesreg.flat import LogJoint
from bayesreg.inference.base import AbstractMethod
from bayesreg.inference.checkpoint import check_options
from bayesreg.inference.loop import Schedule
from bayesreg.record import Certificate


class AbstractVariational(AbstractMethod):
    """A method that maximises an ELBO by Adam.

    Args:
        num_steps: Steps; 5,000, or 50 epochs of mini-batches, when None.
        learning_rate: Adam's first rate, falling to zero along a cosine; 0.01 when None.
        batch_size: Rows a step; when None all rows up to 10,000, or while rows × unknowns ≤ 10⁷, and 256 above. A loader
            brings its own batches.
        checkpoint: As for `MAP`, with checkpoint_every and checkpoint_key.
        checkpoint_every: Steps between two states.
        checkpoint_key: A text that names a loader's data.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(
        self,
        num_steps: int | None,
        learning_rate: float | None,
        batch_size: int | None,
        checkpoint: str | os.PathLike[str] | None,
        checkpoint_every: int | None,
        checkpoint_key: str | None,
    ) -> None:
        self.num_steps = None if num_steps is None else _check.steps("num_steps", num_steps)
        self.learning_rate = None if learning_rate is None else _check.positive("learning_rate", learning_rate)
        self.batch_size = None if batch_size is None else _check.count("batch_size", batch_size)
        check_options(checkpoint, checkpoint_every, checkpoint_key)
        self.checkpoint, self.checkpoint_every, self.checkpoint_key = checkpoint, checkpoint_every, checkpoint_key

    def schedule(self, data: Data, batch_size: int | None) -> Schedule:
        """How long, and how fast at each step.

        Args:
            data: Prepared rows.
            batch_size: Rows a step, None for all.
        """
        return Schedule(self.num_steps or max(5000, 50 * data.steps_an_epoch(batch_size)), self.learning_rate or 0.01)

    def keep(
        self, log_joint: LogJoint, start: torch.Tensor, data: Data, schedule: Schedule, batch_size: int | None, seed: int
    ) -> Any:
        """The open checkpoint, which is told whose it is; None where none was asked for."""
        if self.checkpoint is not None:
            streamed = None if data.loader is None else (data.loader.batch_size, type(data.loader.sampler).__name__)
            own = {name: value for name, value in vars(self).items() if not name.startswith("checkpoint")}
            settings = (self.name, own, schedule, batch_size, streamed)
            self.checkpoint.belong(log_joint, start, data, settings, seed, schedule.num_steps)
        return self.checkpoint


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


def rise(elbos: torch.Tensor) -> Certificate:
    """Whether an ELBO has stopped rising, by its `trend`.

    Args:
        elbos: One estimate a step, in nats, (num_steps,).

    Returns:
        The certificate; passed when the rise is below 1 nat or 2.5 standard errors.
    """
    found = trend(elbos)
    if found is None:
        return Certificate(False, f"Not converged: {len(elbos)} steps are too few to tell; raise num_steps to 1,000 or more.")
    gained, error, details = found.rise, found.error, found.details("elbo")
    if gained > max(1.0, 2.5 * error):
        sentence = (
            f"Not converged: the ELBO still rose by {gained:.1f} nats (Monte Carlo error {error:.1f}) over the last fifth of "
            "the steps; raise num_steps."
        )
        return Certificate(False, sentence, details)
    sentence = f"Converged: the ELBO changed by {gained:+.1f} nats (Monte Carlo error {error:.1f}) over the last fifth."
    return Certificate(True, sentence, details)
