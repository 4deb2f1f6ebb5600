"""What methods that climb an ELBO share: the settings of the search, and whether it has stopped rising."""

from __future__ import annotations

import torch

from bayesreg import _check
from bayesreg.data import Data
from bayesreg.inference.base import AbstractMethod
from bayesreg.inference.loop import Schedule
from bayesreg.record import Certificate


class AbstractVariational(AbstractMethod):
    """A method that maximises an ELBO by Adam.

    Args:
        num_steps: Steps; 5,000, or 50 epochs of mini-batches, when None.
        learning_rate: Adam's first rate, falling to zero along a cosine; 0.01 when None.
        batch_size: Rows a step; when None all rows up to 10,000, or while rows × unknowns ≤ 10⁷, and 256 above. A loader
            brings its own batches.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(self, num_steps: int | None, learning_rate: float | None, batch_size: int | None) -> None:
        self.num_steps = None if num_steps is None else _check.count("num_steps", num_steps)
        self.learning_rate = None if learning_rate is None else _check.positive("learning_rate", learning_rate)
        self.batch_size = None if batch_size is None else _check.count("batch_size", batch_size)

    def schedule(self, data: Data, batch_size: int | None) -> Schedule:
        """How long, and how fast at each step.

        Args:
            data: Prepared rows.
            batch_size: Rows a step, None for all.
        """
        return Schedule(self.num_steps or max(5000, 50 * data.steps_an_epoch(batch_size)), self.learning_rate or 0.01)


def rise(elbos: torch.Tensor, what: str = "elbo") -> Certificate:
    """Whether an ELBO has stopped rising: its mean over the last tenth of the steps against that over steps 70–80 %.

    Args:
        elbos: One estimate a step, in nats, (num_steps,).
        what: "elbo", or what else they estimate.

    Returns:
        The certificate; passed when the rise is below 1 nat or 2.5 standard errors.
    """
    tenth = len(elbos) // 10
    if tenth < 10:
        return Certificate(False, f"Not converged: {len(elbos)} steps are too few to tell; raise num_steps to 1,000 or more.")
    said = "ELBO" if what == "elbo" else what
    early, late = (elbos[start : start + tenth].double() for start in (7 * tenth, len(elbos) - tenth))
    gained = float(late.mean() - early.mean())
    error = float(((late.var() + early.var()) / tenth).sqrt())
    details: dict[str, float | str] = {what: float(late.mean()), "rise": gained, "Monte Carlo error": error}
    if gained > max(1.0, 2.5 * error):
        sentence = (
            f"Not converged: the {said} still rose by {gained:.1f} nats (Monte Carlo error {error:.1f}) over the last fifth of "
            "the steps; raise num_steps."
        )
        return Certificate(False, sentence, details)
    sentence = f"Converged: the {said} changed by {gained:+.1f} nats (Monte Carlo error {error:.1f}) over the last fifth."
    return Certificate(True, sentence, details)
