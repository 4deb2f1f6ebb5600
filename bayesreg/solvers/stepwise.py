"""A search for a mode by steps of Adam, with or without a prox: for any rows, any network and any prior."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import torch

from bayesreg.model.model import BayesianModel
from bayesreg.objective.first_order import exact_zeros
from bayesreg.objective.flat import LogJoint
from bayesreg.objective.training_copy import TrainingCopy
from bayesreg.objective.whole import in_double
from bayesreg.solvers.base import AbstractSolver, Problem, Solution
from bayesreg.solvers.compiled import CompiledAdam, make_stepper
from bayesreg.solvers.early_stopping import EarlyStopping
from bayesreg.solvers.failures import FitError, keeping
from bayesreg.solvers.history import History
from bayesreg.solvers.loop import run
from bayesreg.solvers.nonsmooth import can_polish, polish
from bayesreg.solvers.options import SearchOptions
from bayesreg.solvers.progress import ProgressCallback, unheard
from bayesreg.solvers.rising import Trend, trend
from bayesreg.solvers.schedules import AbstractSchedule, Schedule, UntilFlat
from bayesreg.solvers.whitened import can_settle, settle

STEPS = 5000  # where they are fixed from the start, and at least 30 epochs
MOST = 10_000  # where a search ends once it rises no more
SETTLED = 1000  # before rounds in whitened coordinates take over
_PIECES = "the network is piecewise linear, and a line search stalls where the pieces meet"


class _AbstractStepwise(AbstractSolver):
    """What the two have in common."""

    reads: ClassVar[tuple[str, ...]] = tuple(SearchOptions.step_settings)

    def requires(self, problem: Problem) -> str | None:
        """Nothing."""
        return None

    def solve(self, problem: Problem, start: torch.Tensor, history: History, report: ProgressCallback) -> Solution:
        """Steps along the schedule, ended by `polish` where nobody asked for this search alone and a kink is in its reach.

        Raises:
            FitError: If the loss stops being finite or a loader raises.
        """
        settles = self._settles(problem)
        search = _Search(problem, start, self.proximal, settles, history)
        with keeping(search.last_good):
            found, rising = search.run(report)
        log_joint = LogJoint(found.model)
        if settles:
            return self._settled(problem, found, history, report)
        ended = problem.options.optimizer == "auto" and problem.held_out is None
        if not (ended and can_polish(log_joint, problem.data, problem.batch_size)):
            return dataclasses.replace(found, trend=rising)
        wide = in_double(log_joint, found.u, problem.data)
        u = polish(*wide, jacobian=problem.options.jacobian).to(found.u.dtype)
        history.notes.append(f"fista: the last stretch; {exact_zeros(log_joint, u):,} weights are exactly zero.")
        return dataclasses.replace(found, u=u, trend=rising)

    def finish(self, problem: Problem, u: torch.Tensor) -> torch.Tensor | None:
        """`settle` from there, where it ends the search too."""
        if not self._settles(problem):
            return None
        words = {"jacobian": problem.options.jacobian, "history": History(), "report": unheard}
        return settle(problem.log_joint, u, problem.data, **words).u.to(u.dtype)

    def _settles(self, problem: Problem) -> bool:
        """Whether rounds of `settle` end the search: nobody said how long it takes, nor by which solver."""
        options = problem.options
        return options.num_steps is None and options.optimizer == "auto" and not self.proximal and can_settle(problem)

    def _settled(self, problem: Problem, found: Solution, history: History, report: ProgressCallback) -> Solution:
        """A search that goes on until it has converged, by `settle`."""
        done, log_joint = found.steps or 0, LogJoint(found.model)
        words = {"jacobian": problem.options.jacobian, "history": history, "report": report, "done": done}
        end = settle(log_joint, found.u, problem.data, **words)
        history.notes.append(
            f"{self.name}: {done:,} steps, then {end.steps:,} in coordinates whitened by the Gauss–Newton matrix, which gained "
            f"{end.gain:.3g} nats; the search ended since {end.why}."
        )
        return dataclasses.replace(found, u=end.u.to(found.u.dtype), steps=done + end.steps)


class ProximalAdam(_AbstractStepwise):
    """Adam with proximal steps in its own metric: exact zeros, also from mini-batches.

    References:
        Yun, Lozano and Yang (2021), Adaptive proximal gradient methods for structured neural networks.
    """

    name: ClassVar[str] = "prox-adam"
    rank: ClassVar[int] = 40
    proximal: ClassVar[bool] = True

    def suits(self, problem: Problem) -> str | None:
        """A penalty with a kink."""
        return problem.partial() or "a prior's penalty has a kink" if problem.log_joint.nonsmooth else None


class Adam(_AbstractStepwise):
    """Adam: a subgradient at a kink, and so no exact zeros.

    References:
        Kingma and Ba (2015), Adam: a method for stochastic optimization.
    """

    name: ClassVar[str] = "adam"
    rank: ClassVar[int] = 50

    def suits(self, problem: Problem) -> str | None:
        """Whatever no other solver takes."""
        return problem.partial() or (_PIECES if problem.log_joint.smooth else "a prior's penalty has a kink")


class _Search:
    """The copy, the stepper, the batches and the checkpoint of one search.

    Args:
        problem: The problem.
        start: Where it begins, (P,).
        proximal: Whether penalties with a kink are left to a prox.
        settles: Whether rounds of `settle` follow.
        history: Where the objective and notes go.
    """

    def __init__(self, problem: Problem, start: torch.Tensor, proximal: bool, settles: bool, history: History) -> None:
        log_joint, data, options = problem.log_joint, problem.data, problem.options
        self.problem, self.history = problem, history
        self.copy = TrainingCopy(
            log_joint,
            start,
            data.num_data,
            jacobian=options.jacobian,
            proximal=proximal,
            rows_a_batch=data.rows_a_batch,
        )
        self.batches = data.batches(problem.batch_size, torch.Generator().manual_seed(torch.initial_seed()))
        self.schedule = _schedule(problem, settles)
        self.stepper = make_stepper(
            options.compile,
            self.copy.flat,
            self.copy.backward,
            self.copy.pure_loss,
            lambda: next(data.epoch(problem.batch_size or data.num_data)),
            obstacle=CompiledAdam.requires(log_joint, data),
            num_steps=self.schedule.num_steps,
            notes=history.notes,
            buffers=list(self.copy.module.buffers()),
            split=self.copy.split,
            held=problem.held,
            nonsmooth=log_joint.nonsmooth if proximal else [],
            num_data=data.num_data,
            clip_norm=options.clip_norm,
        )
        if options.checkpoint is not None:
            streamed = None if data.loader is None else (data.loader.batch_size, type(data.loader.sampler).__name__)
            settings = (options.deciding(), problem.batch_size, proximal, streamed)
            options.checkpoint.belong(log_joint, start, data, settings, problem.seed, self.schedule.num_steps)

    def run(self, report: ProgressCallback) -> tuple[Solution, Trend | None]:
        """The search.

        Args:
            report: Told how far it is.

        Returns:
            Where it ended, with the buffers that were trained beside it; and how what training followed ended.

        Raises:
            FitError: If it cannot go on.
        """
        options, log_joint, data = self.problem.options, self.problem.log_joint, self.problem.data
        held_out = self.problem.held_out
        watch = None if held_out is None else EarlyStopping(lambda: self._score(*held_out), options.patience or 10)
        losses = run(
            self.stepper,
            self.batches,
            self.schedule,
            layout=log_joint.layout,
            report=report,
            history=self.history,
            objective=self.copy.objective,
            watch=watch,
            checkpoint=options.checkpoint,
            follow=self.problem.follow,
        )
        rising = None
        if not log_joint.model.behaviour.deterministic:  # its curvature will not tell
            rising = trend(data.num_data * (log_joint.model.log_jacobian - losses))
        return dataclasses.replace(self._present(), steps=len(losses)), rising

    def last_good(self, failure: FitError) -> Solution:
        """The point at which all was well last; the copy's buffers are put back too."""
        self.stepper.restore(failure.state)
        return self._present()

    def _present(self) -> Solution:
        return Solution(self.stepper.parameter.detach().clone(), self._trained())

    def _trained(self) -> BayesianModel:
        return self.problem.log_joint.model.with_buffers(self.copy.module)

    def _score(self, x: torch.Tensor, y: torch.Tensor) -> float:
        """Mean log-density of the held-out rows at the present point, in nats a row, in the data's own units."""
        present = LogJoint(self._trained())
        with torch.no_grad():
            values = present.layout.unflatten(self.stepper.parameter.detach())
            rows = present.log_likelihood(values, x, y, len(x))
        return float(rows) / len(x) + present.model.log_jacobian


def _schedule(problem: Problem, settles: bool) -> AbstractSchedule:
    """As many steps as were said; else those before the rounds of `settle`, or until the objective is flat."""
    options, size = problem.options, problem.log_joint.layout.size
    rate, epochs = options.learning_rate or 0.01, 30 * problem.data.steps_an_epoch(problem.batch_size)
    fixed = options.schedule != "cosine" or options.num_cycles > 1 or problem.held_out is not None or problem.follow is not None
    if options.num_steps is None and not (settles or fixed):
        return UntilFlat(max(MOST, epochs), rate, least=0.005 * size / problem.data.num_data)
    most = SETTLED if settles and not fixed else max(STEPS, epochs)
    return Schedule(options.num_steps or most, rate, options.schedule, options.num_cycles)
