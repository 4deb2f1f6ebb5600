"""What the methods share that fit a family of guides of our own: where it begins, who takes the steps, how it is judged."""

from __future__ import annotations

import abc
import dataclasses
import math
import os
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch

from bayesreg import _check
from bayesreg.behaviour import first_line
from bayesreg.certificates.certificate import Certificate
from bayesreg.certificates.elbo import gain_of, maximal, rise, with_collapse
from bayesreg.certificates.mode import why_not_judged
from bayesreg.certificates.outcome import Finding
from bayesreg.data.rows import Batch, Data
from bayesreg.inference.map import MAP
from bayesreg.inference.variational import AbstractRestarted, Ascent
from bayesreg.model.model import BayesianModel
from bayesreg.objective.flat import LogJoint
from bayesreg.objective.spread import widened
from bayesreg.objective.training_copy import TrainingCopy
from bayesreg.objective.whole import of_rows
from bayesreg.posteriors.guide import Guide
from bayesreg.posteriors.guides import AbstractFamily
from bayesreg.posteriors.record import FitRecord
from bayesreg.solvers.averaged import Averaged
from bayesreg.solvers.compiled import CompiledAdam, make_stepper
from bayesreg.solvers.failures import FitError
from bayesreg.solvers.history import History
from bayesreg.solvers.ivon import EagerIvon, SettledByIvon
from bayesreg.solvers.progress import ProgressCallback
from bayesreg.solvers.raced import Raced
from bayesreg.solvers.schedules import AbstractSchedule, Settling
from bayesreg.solvers.stepper import AbstractStepper, checked_compile

_SCALE = 0.03  # at the start, where there is no mode
_NARROW = 0.1  # at most, of weights whose length a normalisation takes out: no curvature holds it, and a wide start drowns them
_SLOW = 0.8  # of the first rate: below, a fit's points are averaged
_NEAR = 1e-3  # above the share of the rate at which a fit settles: they are averaged there
_MEMORY = 300  # steps that this mean reaches back
_PACE = 0.5  # of the means' natural-gradient steps, that of the precisions, where a fit settles
_SEARCH, _EPOCHS = 1000, 10  # steps towards a mode at most, or epochs where these are more
ENOUGH = 0.02  # nats an unknown, a gain that does not matter

Step = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Race:
    """Rates and starts that are tried.

    Attributes:
        shares: Of the schedule's rate, one a lane.
        searches: Steps towards a mode from which each begins.
        steps: Of one lane.
    """

    shares: tuple[float, ...]
    searches: tuple[int, ...]
    steps: int


class AbstractGuided(AbstractRestarted):
    """A variational method that fits a family of guides; a subclass says with which guide it starts.

    Args:
        num_steps: As for `AbstractVariational`, with learning_rate, batch_size and the arguments of checkpoints.
        learning_rate: Adam's first rate.
        batch_size: Rows a step.
        num_particles: Draws a step, averaged, in pairs of opposite noise.
        initial_scale: Sd of every unknown at the start, about the module's own weights; None to start at a mode.
        compile: True, False or "auto".
        checkpoint: As for `MAP`.
        checkpoint_every: Steps between two states.
        checkpoint_key: A text that names a loader's data.
        num_restarts: Starts, of which the best is kept.

    Raises:
        ValueError: If an argument is out of its range.
    """

    optimizer: str = "adam"
    draws_by_copy: ClassVar[int] = 1  # up to so many draws a step `one_draw` costs less than a pass of all at once

    def __init__(
        self,
        num_steps: int | None,
        learning_rate: float | None,
        batch_size: int | None,
        num_particles: int,
        initial_scale: float | None,
        compile: bool | str,
        checkpoint: str | os.PathLike[str] | None,
        checkpoint_every: int | None,
        checkpoint_key: str | None,
        num_restarts: int,
    ) -> None:
        super().__init__(num_steps, learning_rate, batch_size, checkpoint, checkpoint_every, checkpoint_key, num_restarts)
        self.num_particles = _check.count("num_particles", num_particles)
        self.initial_scale = None if initial_scale is None else _check.positive("initial_scale", initial_scale)
        self.compile = checked_compile(compile)

    def climb(self, log_joint: LogJoint, data: Data, batch_size: int | None) -> AbstractSchedule:
        """The schedule for this objective."""
        return self.schedule(data, batch_size)

    def steps_to_start(self, log_joint: LogJoint, data: Data, batch_size: int | None, num_steps: int) -> int:
        """Steps towards a mode, near which an ascent of so many steps begins, at most."""
        return min(max(_SEARCH, _EPOCHS * data.steps_an_epoch(batch_size)), num_steps)

    def settled(self, schedule: AbstractSchedule) -> bool:
        """Whether natural-gradient steps end the search."""
        return False

    def race(self, schedule: AbstractSchedule) -> Race | None:
        """Rates and starts that are tried before the best goes on; None where there is one of each."""
        return None

    @abc.abstractmethod
    def guide(self, log_joint: LogJoint, loc: torch.Tensor, scale: torch.Tensor) -> AbstractFamily:
        """The guide to start with: of these means and about these standard deviations, both (P,)."""

    def first_guide(
        self,
        log_joint: LogJoint,
        data: Data,
        batch_size: int | None,
        num_steps: int,
        seed: int,
        history: History,
        report: ProgressCallback,
    ) -> AbstractFamily:
        """Where the ascent begins: at a mode where no `initial_scale` was said, and where there is one."""
        found = None if self.initial_scale else self._mode(log_joint, data, batch_size, num_steps, seed, history, report)
        if found is None:
            start = log_joint.layout.flatten(log_joint.model.start(*next(data.epoch())))
            found = start, torch.full_like(start, self.initial_scale or _SCALE)
        return self.guide(log_joint, *found)

    def one_draw(self, guide: Any, copy: TrainingCopy, x: torch.Tensor, history: History) -> tuple[Step, list]:
        """A step of `num_particles` draws for batches like `x`, and tensors of its own state that the next step depends on.

        It gives minus the ELBO divided by N, and its gradient is added to `guide.phi.grad`. It is asked for where there are no
        more draws than `draws_by_copy`.
        """
        return (lambda x, y: one_draw_by_graph(guide, copy, copy.log_joint, x, y)), []

    def once(self, model: BayesianModel, data: Data, *, seed: int, report: ProgressCallback) -> Guide:
        """See `AbstractRestarted.once`."""
        ascent = Ascent.of(model, data, self.batch_size, seed, report)
        log_joint, history, batch_size = ascent.log_joint, ascent.history, ascent.batch_size
        schedule = self.climb(log_joint, data, batch_size)
        start = log_joint.layout.flatten(model.start(*next(data.epoch())))
        if self.checkpoint is not None and self.checkpoint.path.exists():  # it holds what the search of a start found
            guide = self.guide(log_joint, start, torch.ones_like(start))
        else:
            guide = self.first_guide(log_joint, data, batch_size, schedule.num_steps, seed, history, report)
        guide.phi.grad, race = torch.zeros_like(guide.phi), self.race(schedule)
        starts = [guide.phi.detach().clone()]
        for steps in () if race is None else race.searches[1:]:
            resumed = self.checkpoint is not None and self.checkpoint.path.exists()
            if resumed or self.initial_scale is not None:
                found = None
            else:
                found = self._mode(log_joint, data, batch_size, schedule.num_steps, seed, history, report, steps)
            starts.append(starts[0] if found is None else self.guide(log_joint, *found).phi.detach())
        history.notes.append(f"{self.optimizer}: {self.num_particles} draw(s) a step, {batch_size or 'all'} rows.")
        if drawn := _drawn(log_joint):
            history.notes.append(f"the KL to the prior is met at the draws: {', '.join(drawn)}.")
        # a training step normalises by its batch, and its draw's statistics go into the running averages
        copy = TrainingCopy(log_joint, guide.moments()[0], data.num_data, noise=False, rows_a_batch=data.rows_a_batch)
        pure = of_rows(log_joint)
        stepper, step = self._stepper(guide, copy, pure, data, schedule, batch_size, history, starts)
        settles = isinstance(schedule, Settling)
        stepper = Averaged(stepper, schedule.share + _NEAR, _MEMORY) if settles else Averaged(stepper, _SLOW)

        def posterior(phi: torch.Tensor, record: FitRecord) -> Guide:
            guide.phi.data.copy_(phi)
            return Guide(model.with_buffers(copy.module), record, guide.requires_grad_(False))

        def judge(phi: torch.Tensor, elbos: torch.Tensor, batches: Iterator[Batch]) -> Certificate:
            guide.phi.data.copy_(phi)
            return _judged(elbos, guide, pure, data, batches, step)

        return self.ascend(ascent, start, stepper, schedule, posterior, judge)

    def _mode(
        self,
        log_joint: LogJoint,
        data: Data,
        batch_size: int | None,
        total: int,
        seed: int,
        history: History,
        report: ProgressCallback,
        steps: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Means and standard deviations near a mode, both (P,); None where none is found.

        Raises:
            FitError: If the network or a loader breaks.
        """
        steps = steps or self.steps_to_start(log_joint, data, batch_size, total)

        def searching(step: int, most: int, nats: float, said: str = "") -> None:
            report(0, total, nats, said or f"search for a start, {step}/{most}")

        search = MAP(num_steps=steps, batch_size=self.batch_size, jacobian=True, compile=False, certify=False)
        try:
            found = widened(log_joint, search.run(log_joint.model, data, seed=seed, report=searching).loc.detach(), data)
        except FitError:  # what breaks there breaks here
            raise
        except Exception as why:  # no mode, or no way to one: a fit that can begin elsewhere is not given up
            history.notes.append(f"starts at the module's weights: {first_line(why)}")
            return None
        most = ""
        if log_joint.model.behaviour.normalising:
            found, most = (found[0], found[1].clamp_max(_NARROW)), f", at most {_NARROW:g}: the network normalises by batches"
        history.notes.append(f"starts at the point of at most {steps:,} steps towards a mode, scales by the curvature{most}.")
        return found

    def _stepper(
        self,
        guide: AbstractFamily,
        copy: TrainingCopy,
        pure: LogJoint,
        data: Data,
        schedule: AbstractSchedule,
        batch_size: int | None,
        history: History,
        starts: list[torch.Tensor],
    ) -> tuple[AbstractStepper, Step | None]:
        """Who takes the steps, and the step of one draw where there is one, which may be taken at the end too."""
        log_joint, num_data = copy.log_joint, data.num_data
        model = log_joint.model
        normalised = bool(model.behaviour.normalising)
        example = lambda: next(data.epoch(batch_size or num_data))  # noqa: E731
        one_draw, kept = None, []
        if self.num_particles <= self.draws_by_copy and not copy.flat_path:
            one_draw, kept = self.one_draw(guide, copy, example()[0], history)

        def backward(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            if one_draw is not None:
                return one_draw(x, y)
            loss = negative_elbo(guide, pure, data, x, y, self.num_particles) * (1 / num_data)
            loss.backward()
            if normalised:  # of one draw: the pass of all draws writes no statistics
                with torch.no_grad():
                    model.forward(log_joint.layout.unflatten(guide.rsample()), x, copy.module)
            return loss.detach()

        def pure_loss(phi: torch.Tensor, x: torch.Tensor, y: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, Any]:
            stands_for = num_data * len(x) / data.rows_a_batch(x)
            loss = guide.elbo_at(phi, noise.view(self.num_particles, -1), log_joint, x, y, stands_for) * (-1 / num_data)
            return loss, loss

        buffers, by_itself = [*copy.module.buffers(), *kept, *guide.buffers()], None if normalised else one_draw
        if self.optimizer == "ivon":
            return EagerIvon(guide.phi, backward, num_data=num_data, buffers=buffers), by_itself
        stepper = make_stepper(
            self.compile,
            guide.phi,
            backward,
            pure_loss,
            example,
            obstacle=CompiledAdam.requires(log_joint, data),
            num_steps=schedule.num_steps,
            notes=history.notes,
            noise_size=self.num_particles * guide.noise_size,
            num_data=num_data,
            buffers=buffers,
        )
        if (race := self.race(schedule)) is not None:
            stepper = Raced(stepper, race.shares, race.steps, starts)
            tried = " and ".join(f"{share * schedule.learning_rate:.3g}" for share in race.shares)
            history.notes.append(f"{race.steps:,} steps at a rate of {tried} each, of which the higher ELBO goes on.")
        if isinstance(schedule, Settling) and self.settled(schedule):
            ivon = EagerIvon(guide.phi, backward, num_data=num_data, buffers=buffers, pace=_PACE)
            stepper = SettledByIvon(stepper, ivon, schedule.share)
        return stepper, by_itself


def _drawn(log_joint: LogJoint) -> list[str]:
    """Classes of priors whose KL to a normal takes a draw, and unknowns whose prior's scale is unknown too."""
    like = torch.zeros(log_joint.layout.size, dtype=torch.float64)
    groups = [g for g in log_joint.groups if g.expected_energy(like[g.slice], like[g.slice] + 1) is None]
    return [*dict.fromkeys(type(group.prior).__name__ for group in groups), *(latent.name for latent in log_joint.linked)]


def one_draw_by_graph(
    guide: AbstractFamily, copy: TrainingCopy, log_joint: LogJoint, x: torch.Tensor, y: torch.Tensor
) -> torch.Tensor:
    """Minus the one-draw ELBO divided by N, detached; its gradient, that of `guide.elbo`, is added to `guide.phi.grad`.

    It costs less than `guide.elbo`. The draw is written into the buffer of `copy`, a training copy of the model, and the
    network's gradient is read from that copy; autograd differentiates the guide's part only.
    """
    u = guide.rsample()
    copy.flat.data.copy_(u.detach())
    gradient: Any = copy.flat.grad
    gradient.zero_()
    loss = copy.likelihood_loss(x, y)
    loss.backward()
    divergence = guide.divergence_at(guide.phi, log_joint, u) * (1 / copy.num_data)
    torch.autograd.backward((u, divergence), (gradient, None))  # pyright: ignore[reportArgumentType]
    return loss.detach() + divergence.detach()


def negative_elbo(
    guide: AbstractFamily, log_joint: LogJoint, data: Data, x: torch.Tensor, y: torch.Tensor, num_particles: int
) -> torch.Tensor:
    """Minus the ELBO estimated from one batch, a scalar with gradient, in nats, each row counting alike over an epoch."""
    stands_for = data.num_data * len(x) / data.rows_a_batch(x)
    return -guide.elbo(log_joint, x, y, stands_for, num_particles)  # pyright: ignore[reportArgumentType]


def nats_to_gain(
    guide: AbstractFamily,
    log_joint: LogJoint,
    data: Data,
    batches: Iterator,
    step: Step | None = None,
    enough: float = math.nan,
    num_particles: int = 8,
) -> tuple[float, float]:
    """The gain in nats of a natural-gradient step, which may be negative by chance, and its Monte Carlo error.

    The gradient is a mean over up to 30 estimates; there are fewer where it is plain before whether the gain is above `enough`.

    Args:
        guide: The guide.
        log_joint: The objective.
        data: Its rows.
        batches: Those of the estimates.
        step: The step of the search: two of them are an estimate; None for `num_particles` draws at once.
        enough: The gain that does not matter.
        num_particles: Draws of one estimate.

    Returns:
        Both, in nats.
    """
    gradients, gain, error = [], math.inf, math.inf
    for repeat in range(1, 31):
        if step is not None:
            guide.phi.grad = torch.zeros_like(guide.phi)
            for _ in range(2):
                step(*next(batches))
            gradients.append(guide.phi.grad * (0.5 * data.num_data))
        else:
            x, y = next(batches)
            loss = negative_elbo(guide, log_joint, data, x, y, num_particles)
            gradients.append(torch.autograd.grad(loss, guide.phi)[0])
        if repeat in (8, 15, 30):
            gain, error = gain_of(guide.whitened(torch.stack(gradients).double()))
            if abs(gain - enough) > 5 * error:
                break
    return gain, error


def _judged(
    elbos: torch.Tensor, guide: AbstractFamily, log_joint: LogJoint, data: Data, batches: Iterator, step: Step | None
) -> Certificate:
    enough = ENOUGH * guide.layout.size
    try:
        gain = nats_to_gain(guide, log_joint, data, batches, step, enough)
        return with_collapse(maximal(elbos, *gain, enough=enough), log_joint, *guide.moments())
    except Exception as error:  # a finished fit is never lost
        return dataclasses.replace(rise(elbos), finding=Finding.NOT_JUDGED, failure=why_not_judged(log_joint, error))
