"""The loop around an optimizer's step: batches, learning rates, history, early stopping, checkpoints, and plain failures.

for each call:  batches → rates → step → (now and then) finite? · history · held-out score · checkpoint

A step costs a fraction of a millisecond; whatever is done here at every call must stay small beside that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from bayesreg.data.rows import Batch, Batches
from bayesreg.objective.flat import FlatLayout
from bayesreg.solvers.checkpoint import Checkpoint, random_states, restore_random
from bayesreg.solvers.early_stopping import EarlyStopping
from bayesreg.solvers.failures import FitError
from bayesreg.solvers.history import History
from bayesreg.solvers.progress import ProgressCallback
from bayesreg.solvers.schedules import AbstractSchedule
from bayesreg.solvers.stepper import AbstractStepper, NotFinite

_TOLD = 100  # times a fit, at most, that history, progress, early stopping and checkpoints hear of it,
_APART = 40  # and steps between two of them, where a fit is long enough to hear of ten;
_WATCHED = 20  # closer where the best point is looked for, which may come early


@dataclasses.dataclass(frozen=True)
class Follow:
    """Who is told of the points on the way of a search, and how often: for an average over them, or for draws.

    Attributes:
        tell: Called with (steps done, the point), (P,) unconstrained. The search goes on in that memory: copy what is kept.
        every: Steps between two points. A step that is compiled with others is told with the last of them.
    """

    tell: Callable[[int, torch.Tensor], None]
    every: int = 1

    def after(self, step: int, count: int, point: torch.Tensor) -> None:
        """Tell the point, where one is due.

        Args:
            step: Steps done.
            count: Of them, in the last call.
            point: Where the search stands.
        """
        if step // self.every > (step - count) // self.every:
            self.tell(step, point.detach())


def run(
    stepper: AbstractStepper,
    batches: Batches,
    schedule: AbstractSchedule,
    *,
    layout: FlatLayout,
    report: ProgressCallback,
    history: History,
    objective: Callable[[torch.Tensor, torch.Tensor], float],
    watch: EarlyStopping | None = None,
    checkpoint: Checkpoint | None = None,
    follow: Follow | None = None,
) -> torch.Tensor:
    """Steps along a schedule.

    Args:
        stepper: Takes the steps; its parameter is what is learned.
        batches: Where they come from.
        schedule: How many, and how fast.
        layout: Whose names an error uses.
        report: Called up to a hundred times with (steps done, of how many, objective).
        history: Where the objective is recorded at the same steps.
        objective: From a loss and the point where it was found to what a person reads.
        watch: Early stopping, or None.
        checkpoint: Where the state is kept, or None.
        follow: Who is told of the points on the way, or None.

    Returns:
        The loss of every step taken, (at most num_steps,).

    Raises:
        FitError: If the loss stops being finite, or a loader raises; says at which batch, and names the parameter.
    """
    device, most = stepper.parameter.device, max(schedule.num_steps, schedule.budget)
    losses = torch.empty(most, dtype=stepper.parameter.dtype, device=device)
    pending: list[torch.Tensor] = []  # written into `losses` where it is told: a slice a step would cost
    each = stepper.steps_a_call
    apart = _APART if watch is None else _WATCHED
    every = -(-max(most // _TOLD, min(apart, most // 10), 1) // each) * each
    step, over = (0, False) if checkpoint is None else _resume(checkpoint, stepper, batches, history, watch, losses)
    schedule = _heard(schedule, losses, range(each, step + 1, every))
    good, good_step = stepper.state(), step
    while step < schedule.num_steps and not over:
        count = min(each, schedule.num_steps - step)
        told = step % every == 0 or step + count >= schedule.num_steps
        try:
            chunk = [_next(batches) for _ in range(count)]
            found, before = stepper.advance(chunk, [schedule.rate(step + i) for i in range(count)], told)
        except Exception as failure:  # a person's module may raise anything
            said, cause = _told(failure, layout, batches, step, count, schedule, checkpoint)
            if said is None:
                raise
            raise FitError(said, good_step, good) from cause
        pending.append(found)
        step += count
        if follow is not None:
            follow.after(step, count, stepper.parameter)
        if not told:
            continue
        recent = torch.cat(pending)
        losses[step - len(recent) : step] = recent
        pending.clear()
        value = objective(found[-1], before)  # pyright: ignore[reportArgumentType]
        history.record(step - 1, value)
        report(step, schedule.num_steps, value)
        schedule = schedule.after(losses[:step])
        good, good_step = stepper.state(), step
        over = step >= schedule.num_steps or (watch is not None and watch.stops(step, stepper))
        if checkpoint is not None and (over or checkpoint.is_due(step)):  # the last one too: a certificate may yet fail
            checkpoint.save(_state(step, over, good, batches, history, watch, losses), history.notes)
    history.notes.extend(schedule.said)
    _take_best(watch, stepper, history, step, schedule.num_steps)
    return losses[:step]


def _heard(schedule: AbstractSchedule, losses: torch.Tensor, looks: Iterable[int]) -> AbstractSchedule:
    """The schedule as it had become by so many steps, from the losses of all of them."""
    for look in looks:
        schedule = schedule.after(losses[:look])
    return schedule


def _take_best(watch: EarlyStopping | None, stepper: AbstractStepper, history: History, step: int, total: int) -> None:
    """Go back to the point that held-out rows found best."""
    if watch is None or watch.state is None:
        return
    stepper.restore(watch.state)
    history.notes.append(
        f"early stopping: the best of {len(history.steps)} looks at the held-out rows came after step {watch.step:,} "
        f"({watch.best:.4g} nats a row); steps taken: {step:,} of {total:,}."
    )


class _BatchError(Exception):
    """What a loader raised is this one's cause."""


def _next(batches: Batches) -> Batch:
    try:
        return next(batches)
    except Exception as failure:
        raise _BatchError from failure


def readable(batches: Batches, step: int, stepper: AbstractStepper) -> Iterator[Batch]:
    """The batches that follow a search.

    Args:
        batches: Where they come from.
        step: Steps done.
        stepper: Whose state is that of the answer.

    Yields:
        Each.

    Raises:
        FitError: If a loader raises.
    """
    while True:
        try:
            found = _next(batches)
        except _BatchError as failure:
            raise FitError(_unreadable(failure, batches, step, None), step, stepper.state()) from failure.__cause__
        yield found


def _told(
    failure: Exception,
    layout: FlatLayout,
    batches: Batches,
    step: int,
    count: int,
    schedule: AbstractSchedule,
    checkpoint: Checkpoint | None,
) -> tuple[str | None, BaseException | None]:
    """What is said of a step's failure, or None where nothing is lost and it speaks for itself; and its cause."""
    if isinstance(failure, NotFinite):
        return _blame(failure, layout, batches, step, count, schedule, checkpoint), None
    if isinstance(failure, _BatchError):
        return _unreadable(failure, batches, step, checkpoint), failure.__cause__
    if step == 0:
        return None, None
    said = (
        f"every batch must go through the network, but batch {batches.position} of epoch {batches.epoch} (step {step + 1:,}) "
        f"raised {type(failure).__name__}: {failure}; look at its rows{_kept(checkpoint)}."
    )
    return said, failure


def _unreadable(failure: _BatchError, batches: Batches, step: int, checkpoint: Checkpoint | None) -> str:
    cause = failure.__cause__
    return (
        f"every batch must be readable, but batch {batches.position + 1} of epoch {batches.epoch} (step {step + 1:,}) raised "
        f"{type(cause).__name__}: {cause}; mend the loader{_kept(checkpoint)}."
    )


def _kept(checkpoint: Checkpoint | None) -> str:
    if checkpoint is not None and checkpoint.path.exists():
        return f" and fit again: it goes on from {checkpoint.path.name}"
    return "; the error's `posterior` is the last good point"


def _stale(checkpoint: Checkpoint | None) -> str:
    """Other settings make another fit, to which the state on disk does not belong."""
    return "" if checkpoint is None or not checkpoint.path.exists() else f", and delete {checkpoint.path.name}"


def _blame(
    failure: NotFinite,
    layout: FlatLayout,
    batches: Batches,
    step: int,
    count: int,
    schedule: AbstractSchedule,
    checkpoint: Checkpoint | None,
) -> str:
    flat = failure.gradient  # what a variational method learns beside the unknowns stands behind them
    gradient = flat[: len(flat) // layout.size * layout.size].view(-1, layout.size)
    broken = ~gradient.isfinite().all(0)
    sizes = gradient.nan_to_num(0.0).abs().amax(0)
    names = [s.latent.name for s in layout.in_order if bool(broken[s.slice].any())]
    if names:
        who = f"the gradient of {', '.join(names[:3])}{' and others' if len(names) > 3 else ''} is not finite there"
    else:
        largest = max(layout.in_order, key=lambda s: float(sizes[s.slice].max()))
        who = f"the largest gradient there is that of {largest.latent.name}"
    batch = batches.position - (count - 1 - failure.index)
    rate = schedule.rate(step + failure.index)
    return (
        f"the loss must stay finite, but it is {failure.loss} at step {step + failure.index + 1:,}, batch {batch} of epoch "
        f"{batches.epoch}; {who}; lower learning_rate (now {rate:.3g}) or standardise the data{_stale(checkpoint)}; the "
        "error's `posterior` is the last good point."
    )


def _state(
    step: int,
    over: bool,
    stepper: dict[str, Any],
    batches: Batches,
    history: History,
    watch: EarlyStopping | None,
    losses: torch.Tensor,
) -> dict[str, Any]:
    kept = None if watch is None else {"best": watch.best, "step": watch.step, "since": watch.since, "state": watch.state}
    return {
        "step": step,
        "over": over,
        "stepper": stepper,
        "batches": batches.state(),
        **random_states(losses.device),
        "history": {"steps": list(history.steps), "objective": list(history.objective), "notes": list(history.notes)},
        "watch": kept,
        "losses": losses[:step].clone(),
    }


def _resume(
    checkpoint: Checkpoint,
    stepper: AbstractStepper,
    batches: Batches,
    history: History,
    watch: EarlyStopping | None,
    losses: torch.Tensor,
) -> tuple[int, bool]:
    """Bring everything to where a checkpoint left it; the number of steps done, and whether the search is over."""
    own = stepper.state()
    found = checkpoint.load(losses.device, own)
    checkpoint.check_room([own, losses, own if watch is not None else []])
    if found is None:
        return 0, False
    step = found["step"]
    stepper.restore(found["stepper"])
    batches.restore(found["batches"])
    restore_random(found)
    history.steps[:] = found["history"]["steps"]
    history.objective[:] = found["history"]["objective"]
    history.notes[:] = found["history"].get("notes", history.notes)  # how it began, too
    history.notes.append(f"resumed from {checkpoint.path.name} after step {step:,}.")
    if watch is not None and found["watch"] is not None:
        watch.best, watch.step, watch.since, watch.state = (found["watch"][k] for k in ("best", "step", "since", "state"))
    losses[:step] = found["losses"]
    checkpoint.last = step
    return step, found["over"]
