"""What variational methods share: their settings, and one ascent of an ELBO from its stepper to the certified posterior.

ELBO(phi) = E_q[log p(y | θ)] − KL(q ‖ p);   for each step:  batch → draws → gradient of phi → Adam
"""

from __future__ import annotations

import abc
import dataclasses
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from bayesreg import _check
from bayesreg.certificates.certificate import Certificate
from bayesreg.certificates.elbo import level, with_elbos
from bayesreg.certificates.importance import num_draws, of_draws
from bayesreg.data.rows import Batch, Batches, Data
from bayesreg.inference.base import AbstractMethod
from bayesreg.model.model import BayesianModel
from bayesreg.objective.flat import LogJoint
from bayesreg.objective.whole import in_double
from bayesreg.posteriors.guide import Guide
from bayesreg.posteriors.guides import AbstractGuide
from bayesreg.posteriors.record import FitRecord, stopped
from bayesreg.solvers.batches import resolve_batch
from bayesreg.solvers.failures import FitError, rescuing
from bayesreg.solvers.history import History
from bayesreg.solvers.loop import readable, run
from bayesreg.solvers.progress import ProgressCallback
from bayesreg.solvers.restarts import fresh
from bayesreg.solvers.schedules import AbstractSchedule, Schedule
from bayesreg.solvers.stepper import AbstractStepper


@dataclasses.dataclass(frozen=True)
class Ascent:
    """What a search for the highest ELBO is of, and who hears of it.

    Attributes:
        log_joint: The objective.
        data: Prepared rows.
        batch_size: Rows a step; None for all, or a loader's.
        seed: As for `fit`.
        history: Where it is recorded.
        report: Told how far it is.
        started: When the fit began, by `time.perf_counter`.
    """

    log_joint: LogJoint
    data: Data
    batch_size: int | None
    seed: int
    history: History
    report: ProgressCallback
    started: float

    @classmethod
    def of(cls, model: BayesianModel, data: Data, batch_size: int | None, seed: int, report: ProgressCallback) -> Ascent:
        """That of a model's ELBO, with what is to be said of the model beforehand.

        Args:
            model: The model, bound to the data.
            data: Prepared rows.
            batch_size: What a person asked for.
            seed: As for `fit`.
            report: Told how far it is.
        """
        started, log_joint, history = time.perf_counter(), LogJoint(model), History("elbo")
        notes_of(model, history)
        return cls(log_joint, data, resolve_batch(batch_size, data, log_joint), seed, history, report, started)

    @property
    def elapsed(self) -> float:
        """Seconds since the fit began."""
        return time.perf_counter() - self.started

    def batches(self) -> Batches:
        """Those of the steps, from torch's seed."""
        return self.data.batches(self.batch_size, torch.Generator().manual_seed(torch.initial_seed()))


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

    num_particles: int = 1

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
        self.keep_in(checkpoint, checkpoint_every, checkpoint_key)

    def schedule(self, data: Data, batch_size: int | None) -> AbstractSchedule:
        """How many steps, and the learning rate of each, for batches of so many rows, None for all."""
        return Schedule(self.num_steps or max(5000, 50 * data.steps_an_epoch(batch_size)), self.learning_rate or 0.01)

    def keep(
        self,
        log_joint: LogJoint,
        start: torch.Tensor,
        data: Data,
        schedule: AbstractSchedule,
        batch_size: int | None,
        seed: int,
    ) -> Any:
        """The open checkpoint, with the fit that it belongs to; None where none was asked for."""
        if self.checkpoint is not None:
            streamed = None if data.loader is None else (data.loader.batch_size, type(data.loader.sampler).__name__)
            settings = (self.name, self.deciding, schedule, batch_size, streamed)
            self.checkpoint.belong(log_joint, start, data, settings, seed, schedule.num_steps)
        return self.checkpoint

    def ascend(
        self,
        ascent: Ascent,
        start: torch.Tensor,
        stepper: AbstractStepper,
        schedule: AbstractSchedule,
        posterior: Callable[[torch.Tensor, FitRecord], Guide],
        judge: Callable[[torch.Tensor, torch.Tensor, Iterator[Batch]], Certificate],
    ) -> Guide:
        """One search for the highest ELBO, from where `stepper` stands to the posterior, certified.

        Args:
            ascent: What it is of.
            start: What tells the fit of a checkpoint from others, one vector.
            stepper: Takes the steps; its loss is minus the ELBO over N.
            schedule: How many, and how fast.
            posterior: From the guide's parameters, one vector, and the record to the answer.
            judge: From those, the ELBO's estimate at each step, (num_steps,), and the batches that follow, to the certificate.

        Returns:
            The posterior.

        Raises:
            FitError: If the search cannot go on; it takes the last good point with it.
        """
        data, history, batch_size, seed = ascent.data, ascent.history, ascent.batch_size, ascent.seed
        num_data, batches = data.num_data, ascent.batches()
        constant = num_data * ascent.log_joint.model.log_jacobian

        def rescued(failure: FitError) -> Guide:
            stepper.restore(failure.state)
            return posterior(stepper.parameter.detach(), stopped(self.name, seed, history, failure))

        with rescuing(rescued):
            losses = run(
                stepper,
                batches,
                schedule,
                layout=ascent.log_joint.layout,
                report=ascent.report,
                history=history,
                objective=lambda loss, phi: constant - num_data * float(loss),
                checkpoint=self.keep(ascent.log_joint, start, data, schedule, batch_size, seed),
            )
            answer = stepper.answer
            certificate = judge(answer, constant - num_data * losses, readable(batches, len(losses), stepper))
        if ascent.log_joint.model.behaviour.coupling and batch_size is not None and certificate.elbo is not None:
            certificate = dataclasses.replace(certificate, elbo=dataclasses.replace(certificate.elbo, of_batches=True))
        found = posterior(answer, FitRecord(self.name, seed, history, certificate))
        seen = len(losses) * self.num_particles * (batch_size or num_data)
        certificate = with_importance(certificate, found.model, found.guide, data, seen, history)
        found.record = dataclasses.replace(found.record, certificate=certificate, elapsed=ascent.elapsed)
        return found


class AbstractRestarted(AbstractVariational):
    """A variational method that may begin from several starts and keeps the fit of the highest ELBO.

    Args:
        num_steps: As for `AbstractVariational`, with learning_rate, batch_size and the arguments of checkpoints.
        learning_rate: Adam's first rate.
        batch_size: Rows a step.
        checkpoint: As for `MAP`.
        checkpoint_every: Steps between two states.
        checkpoint_key: A text that names a loader's data.
        num_restarts: Starts.

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
        num_restarts: int,
    ) -> None:
        super().__init__(num_steps, learning_rate, batch_size, checkpoint, checkpoint_every, checkpoint_key)
        self.num_restarts = _check.count("num_restarts", num_restarts)
        if self.num_restarts > 1 and checkpoint is not None:
            raise ValueError(
                f"num_restarts={num_restarts} makes several fits, of which a checkpoint keeps one; leave out one of the two."
            )

    def run(self, model: BayesianModel, data: Data, *, seed: int, report: ProgressCallback) -> Guide:
        """The best of `num_restarts` fits; see `AbstractMethod.run`.

        Raises:
            FitError: If one of them cannot go on; the best before it is in it.
        """
        started, count = time.perf_counter(), self.num_restarts
        found = [self.once(model, data, seed=seed, report=report)]
        for start in range(1, count):

            def told(step: int, total: int, nats: float, said: str = "", start: int = start) -> None:
                report(step, total, nats, f"start {start + 1} of {count}{said and ': '}{said}")

            with rescuing(lambda failure: _best(found)):
                other = self.once(fresh(model), data, seed=seed, report=told)
            found.append(Guide(model.with_buffers(other.model.module), other.record, other.guide))
        if count == 1:
            return found[0]
        best, nats = _best(found), [level(one.certificate, one.history) for one in found]
        number, apart = found.index(best) + 1, max(nats) - min(nats)
        best.history.notes.append(f"{count} starts: number {number} is the best; their ELBOs lie {apart:.3g} nats apart.")
        certificate = with_elbos(best.certificate, nats, sum(not one.certificate.converged for one in found))
        best.record = dataclasses.replace(best.record, certificate=certificate, elapsed=time.perf_counter() - started)
        return best

    @abc.abstractmethod
    def once(self, model: BayesianModel, data: Data, *, seed: int, report: ProgressCallback) -> Guide:
        """One fit, from the module's own weights; see `AbstractMethod.run`."""


def _best(found: list[Guide]) -> Guide:
    return max(found, key=lambda one: level(one.certificate, one.history))


def with_importance(
    certificate: Certificate, model: BayesianModel, guide: AbstractGuide, data: Data, seen: int, history: History
) -> Certificate:
    """The certificate with k̂ where that costs less than the search, which passed `seen` rows forwards and backwards."""
    log_joint = LogJoint(model)
    count = num_draws(log_joint, data)
    if model.behaviour.coupling or not count or 2 * count * data.num_data > seen:
        why = "its batches make another objective" if model.behaviour.coupling else "all rows under many draws cost too much"
        history.notes.append(f"importance weights (k̂) were not looked at: {why}.")
        return certificate
    try:
        weighed = guide.weighed(count, torch.Generator().manual_seed(0))
        if weighed is None or bool((weighed[0][0] == weighed[0]).all()):  # no density, or a point
            return certificate
        wide, _, rows = in_double(log_joint, weighed[0][0], data)
        found = of_draws(wide, weighed[0].double(), weighed[1], rows)
    except Exception as error:  # a finished fit is never lost
        history.notes.append(f"importance weights (k̂) could not be found: {error}")
        return certificate
    return dataclasses.replace(certificate, importance=found)


def notes_of(model: BayesianModel, history: History) -> None:
    """Tell what a variational fit makes of improper priors, of dropout, and of normalisation layers."""
    history.notes.extend(_of_priors(model))
    if model.behaviour.draw:
        history.notes.append("dropout is in evaluation mode; method='mc-dropout' fits it.")
    history.of_statistics.extend(_of_statistics(model))


def _of_priors(model: BayesianModel) -> list[str]:
    return [f"flat prior on {', '.join(model.improper)}: the ELBO is defined up to a constant."] if model.improper else []


def _of_statistics(model: BayesianModel) -> list[str]:
    """Which statistics of normalisation layers a prediction uses, in words."""
    if model.behaviour.coupling:
        return [
            "batch normalisation: each step's draw is normalised by its batch, as in training; predictions take the running "
            "averages over draws, one set for all; refresh_batchnorm(posterior, X) gives each draw its own."
        ]
    if model.behaviour.normalising:
        return [
            "instance normalisation: each step's draw is normalised row by row, as in training; predictions take the running "
            "averages over draws, one set for all."
        ]
    return []
