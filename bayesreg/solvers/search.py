"""A search for a mode by steps of Adam: its copy, stepper, batches, held-out rows and checkpoint put together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch

from bayesreg.data.rows import Data
from bayesreg.model.model import BayesianModel
from bayesreg.objective.directions import Rows
from bayesreg.objective.flat import LogJoint
from bayesreg.objective.training_copy import TrainingCopy
from bayesreg.solvers.checkpoint import Checkpoint
from bayesreg.solvers.history import History
from bayesreg.solvers.loop import EarlyStopping, FitError, Schedule, rescuing, run
from bayesreg.solvers.progress import ProgressCallback
from bayesreg.solvers.rising import Trend, trend
from bayesreg.solvers.stepper import AbstractStepper, make_stepper
from bayesreg.solvers.training import no_compiling


@dataclasses.dataclass(frozen=True)
class SearchOptions:
    """How a search goes; see `MAP` for what each means."""

    num_steps: int | None
    learning_rate: float | None
    jacobian: bool
    compile: bool | str
    schedule: str
    num_cycles: int
    clip_norm: float | None
    patience: int
    checkpoint: Checkpoint | None
    scale_invariant: str

    def deciding(self) -> dict[str, Any]:
        """What decides the answer: all but where the state is kept."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "checkpoint"}


class Search:
    """A search by steps of Adam, with or without a prox.

    Args:
        options: How.
        log_joint: The objective.
        start: Where it begins, (P,).
        data: The rows.
        batch_size: Rows a step, or None.
        proximal: Whether penalties with a kink are left to a prox.
        seed: Recorded with a rescued answer.
        history: Where the objective and notes go.
        held: Tensors whose rows stay at length one.

    Attributes:
        trend: How what training followed ended, where that is not what is evaluated and there are steps enough; after `run`.
    """

    def __init__(
        self,
        options: SearchOptions,
        log_joint: LogJoint,
        start: torch.Tensor,
        data: Data,
        batch_size: int | None,
        proximal: bool,
        seed: int,
        history: History,
        held: Sequence[Rows] = (),
    ) -> None:
        self.held = held
        self.trend: Trend | None = None
        self.options, self.log_joint, self.data, self.history, self.seed = options, log_joint, data, history, seed
        self.copy = TrainingCopy(
            log_joint,
            start,
            data.num_data,
            jacobian=options.jacobian,
            proximal=proximal,
            rows_a_batch=data.rows_a_batch,
        )
        self.kinked = log_joint.kinked if proximal else []
        self.batches = data.batches(batch_size, torch.Generator().manual_seed(torch.initial_seed()))
        num_steps = options.num_steps or max(5000, 30 * data.steps_an_epoch(batch_size))
        self.schedule = Schedule(num_steps, options.learning_rate or 0.01, options.schedule, options.num_cycles)
        self.stepper = self._stepper(batch_size)
        self.checkpoint = options.checkpoint
        if self.checkpoint is not None:
            streamed = None if data.loader is None else (data.loader.batch_size, type(data.loader.sampler).__name__)
            settings = (options.deciding(), batch_size, proximal, streamed)
            self.checkpoint.belong(log_joint, start, data, settings, seed, num_steps)

    def _stepper(self, batch_size: int | None) -> AbstractStepper:
        data = self.data
        common: dict[str, Any] = {"kinked": self.kinked, "num_data": self.data.num_data, "clip_norm": self.options.clip_norm}
        return make_stepper(
            self.options.compile,
            self.copy.flat,
            self.copy.backward,
            self.copy.pure_loss,
            lambda: next(data.epoch(batch_size or data.num_data)),
            obstacle=no_compiling(self.log_joint, self.data),
            num_steps=self.schedule.num_steps,
            notes=self.history.notes,
            buffers=list(self.copy.module.buffers()),
            split=self.copy.split,
            held=self.held,
            **common,
        )

    def run(
        self, report: ProgressCallback, held_out: Any, rescued: Callable[[torch.Tensor, BayesianModel, FitError], Any]
    ) -> tuple[torch.Tensor, BayesianModel]:
        """The search.

        Args:
            report: Told how far it is.
            held_out: Rows that say when to stop, or None.
            rescued: What an error takes with it, made of the last good point, (P,), its model, and the error.

        Returns:
            The point, (P,), and the model with the buffers that were trained beside it.

        Raises:
            FitError: If it cannot go on.
        """
        watch = None if held_out is None else EarlyStopping(lambda: self._score(*held_out), self.options.patience)
        with rescuing(lambda failure: rescued(self.last_good(failure), self._trained(), failure)):
            losses = run(
                self.stepper,
                self.batches,
                self.schedule,
                layout=self.log_joint.layout,
                report=report,
                history=self.history,
                objective=self.copy.objective,
                watch=watch,
                checkpoint=self.checkpoint,
            )
        if not self.log_joint.model.behaviour.deterministic:  # its curvature will not tell
            self.trend = trend(self.data.num_data * (self.log_joint.model.log_jacobian - losses))
        return self.stepper.parameter.detach().clone(), self._trained()

    def _trained(self) -> BayesianModel:
        return self.log_joint.model.with_buffers(self.copy.module)

    def _score(self, x: torch.Tensor, y: torch.Tensor) -> float:
        """Mean log-density of the held-out rows at the present point, in nats a row, in the data's own units."""
        model = self._trained()
        with torch.no_grad():
            values = self.log_joint.layout.unflatten(self.stepper.parameter.detach())
            rows = model.likelihood.log_prob_sum(model.forward(values, x), y, **model.noise(values))
        return float(rows) / len(x) + model.log_jacobian

    def last_good(self, failure: FitError) -> torch.Tensor:
        """The point, (P,), at which all was well last; the copy's buffers are put back too."""
        self.stepper.restore(failure.state)
        return self.stepper.parameter.detach().clone()


def hold_out(model: BayesianModel, data: Data, fraction: float, history: History) -> tuple[BayesianModel, Data, Any]:
    """The model and its rows without those that are held out, and these; statistics are those of the rows that are left.

    Raises:
        ValueError: If no row is left, or rows are streamed.
    """
    if data.x is None or data.y is None:
        raise ValueError("validation_fraction needs all rows in memory, but a DataLoader came; pass X and y as arrays.")
    x, y = data.x, data.y
    count = max(1, round(fraction * len(x)))
    if count >= len(x):
        raise ValueError(
            f"validation_fraction must leave rows to fit, but {fraction:g} of {len(x):,} came; pass a smaller one."
        )
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(torch.initial_seed())).to(x.device)
    held, rest = order[:count], order[count:]
    history.notes.append(f"{count:,} rows are held out to stop early; the fit is about the other N = {len(rest):,}.")
    units = model.standardization
    if units is None and not model.waits_for_scale:
        fitted = model.with_rows(len(rest))
        return fitted, dataclasses.replace(data, num_data=len(rest), x=x[rest], y=y[rest]), (x[held], y[held])
    if units is not None:  # back to the data's own units
        x = x if not x.is_floating_point() else x.double() * units.x_scale + units.x_mean
        y = y.double() * units.y_scale + units.y_mean if model.likelihood.location_scale else y
    fitted, rows = model.ingest(x[rest], y[rest])
    fitted = fitted.with_names(model.feature_names, model.target_names)
    return fitted, rows, fitted.prepare(x[held], y[held])
