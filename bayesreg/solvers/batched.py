"""Many modes at once: Adam's steps of R fits in one, then, on all rows and in float64, steps that reach each mode itself.

    u_r ← prox_{s·penalty_r}(u_r − s ∇smooth_r(u_r)),  all r together; s first in Adam's metric, at the end one a fit

A fit that sees all rows ends by accelerated proximal steps (exact zeros) and, while the Hessians are affordable, by Newton's
on what is not zero, so that a convex problem ends at its mode to about ten digits. A network with batch normalisation ends
with Adam's steps: its objective in training is another one than that of evaluation.

Why a single fit is not R = 1 here: it must take what `Replicas` refuse (dropout, unknown scales, priors on outputs, streamed
rows), and Adam's fused kernel rounds otherwise than these in-place products. The steps that end them are the same: `finish`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch

from bayesreg.data.rows import Data
from bayesreg.model.model import BayesianModel
from bayesreg.objective.batched import Replicas
from bayesreg.objective.flat import LogJoint
from bayesreg.solvers.batched_whitened import settle_many
from bayesreg.solvers.batches import resolve_batch
from bayesreg.solvers.failures import FitError
from bayesreg.solvers.history import History
from bayesreg.solvers.last_steps import finish, newton_on_support, newton_pays
from bayesreg.solvers.progress import ProgressCallback
from bayesreg.solvers.schedules import Schedule
from bayesreg.solvers.steps import move_moments, pace

POLISH_WORK = 10**9  # replicas × rows × unknowns up to which the fits end by full-batch steps at all


def fit_many(
    log_joints: LogJoint | Sequence[LogJoint],
    starts: torch.Tensor,
    data: Data,
    *,
    num_steps: int = 2000,
    learning_rate: float = 0.01,
    batch_size: int | None = None,
    weights: torch.Tensor | None = None,
    targets: torch.Tensor | None = None,
    jacobian: bool = False,
    polish: bool = True,
    settles: bool = False,
    generator: torch.Generator | None = None,
    report: ProgressCallback | None = None,
    history: History | None = None,
) -> tuple[torch.Tensor, torch.Tensor, list[BayesianModel]]:
    """R fits at once: restarts, an ensemble, scales, or rows that count differently.

    Args:
        log_joints: One for all, or R of models that differ in the numbers of their priors alone.
        starts: Where each begins, (R, P) unconstrained.
        data: The rows, in memory.
        num_steps: Adam's steps; 0 for none where the objective is convex, or the start is near a mode, and there is no batch
            normalisation.
        learning_rate: Adam's first rate, falling to zero along half a cosine.
        batch_size: Rows a step; when None as for `MAP`.
        weights: How often each row counts in each fit, (R, N), >= 0; once when None, as batch normalisation needs it.
        targets: Prepared targets of each fit, (R, N) or (R, N, K); those of the data for all when None.
        jacobian: Follow the density of the unconstrained vector.
        polish: Whether steps that end at the modes may follow Adam's; a piecewise linear network stalls them.
        settles: Whether rounds of `settle_many` follow Adam's steps, as those of `settle` do in a single fit.
        generator: Where the batches come from; seed 0 when None.
        report: Called about a hundred times with (step, of how many, the highest log-joint).
        history: Where the highest log-joint is recorded.

    Returns:
        The modes (R, P) in the type of `starts`; their log-joints in nats, summed over each fit's rows and in the data's own
        units, (R,), float64; and the model of each fit, which has that fit's running statistics of batch normalisation.

    Raises:
        ValueError: If the model or the rows are none for many fits at once.
        FitError: If a loss stops being finite; its state's "parameter" is the last good point of all fits, (R, P).

    >>> from torch import nn
    >>> from bayesreg import BayesianModel, likelihoods, priors
    >>> model = BayesianModel(nn.Linear(1, 1, bias=False), priors.Normal(1.0), likelihoods.Gaussian(1.0))
    >>> model, data = model.ingest([[0.0], [1.0], [2.0]], [0.0, 1.0, 2.0])
    >>> once, twice = torch.ones(3), torch.tensor([1.0, 2.0, 0.0])     # Σxy/(Σx² + σ²/τ²): 5/6, and 2/3
    >>> found, *_ = fit_many(LogJoint(model), torch.zeros(2, 1), data, num_steps=0, weights=torch.stack([once, twice]))
    >>> found.flatten().tolist()
    [0.8333333..., 0.6666666...]
    """
    x, y = data.full("many fits at once")
    joints = [log_joints] if isinstance(log_joints, LogJoint) else list(log_joints)
    _check_counts(joints, starts, weights, data.num_data)
    if own := targets is not None:
        if targets.shape != (len(starts), *y.shape):
            came, needed = tuple(targets.shape), (len(starts), *y.shape)
            raise ValueError(
                f"targets must be those of each fit, {needed}, but shape {came} came; stack one set of them a fit."
            )
        x, y = x.expand(len(starts), *x.shape), targets
    replicas = Replicas(joints, x, y, len(starts), weights=weights, own_rows=own, jacobian=jacobian)
    u = search_many(
        replicas,
        starts,
        num_steps=num_steps,
        learning_rate=learning_rate,
        batch_size=resolve_batch(batch_size, data, joints[0]),
        polish=polish,
        settled_by=data if settles else None,
        generator=generator or torch.Generator().manual_seed(0),
        report=report or (lambda step, total, objective: None),
        history=history or History(),
    )
    models = [replicas.buffers.carried(r, joints[r % len(joints)].model) for r in range(len(starts))]
    return u, replicas.double().objectives(u.double()), models


def search_many(
    replicas: Replicas,
    starts: torch.Tensor,
    *,
    num_steps: int,
    learning_rate: float,
    batch_size: int | None,
    generator: torch.Generator,
    report: ProgressCallback,
    history: History,
    polish: bool = True,
    settled_by: Data | None = None,
) -> torch.Tensor:
    """Adam's steps, then those that end at the modes where there is no batch normalisation.

    Arguments are those of `fit_many`; `settled_by` are the rows by which `settle_many` goes on, None where it does not.

    Returns:
        (R, P), in the type of `starts`; the running statistics that belong to it are in `replicas.buffers` then.

    Raises:
        ValueError: If no step is to be taken though there is batch normalisation.
        FitError: As `descend` does.
    """
    if replicas.normalised and not num_steps:
        raise ValueError(
            "num_steps must be at least 1 where a network has batch normalisation, which is trained by Adam's steps alone, but "
            "0 came; take for example 2000."
        )
    u = starts.detach().clone()
    if num_steps:
        batches = row_batches(replicas.num_rows, batch_size, generator, u.device)
        u = descend(replicas, u, Schedule(num_steps, learning_rate), batches, report, history)
    work = replicas.num_rows * u.numel()
    if settled_by is not None:
        u = settle_many(replicas, u, settled_by, history=history, report=report, done=num_steps)
        return (newton_on_support(replicas.double(), u)[0] if polish and newton_pays(replicas, u) else u).to(starts.dtype)
    if polish and batch_size is None and not replicas.normalised and (work <= POLISH_WORK or not num_steps):
        u = finish(replicas.double(), u.double()).to(starts.dtype)
    return u


def descend(
    replicas: Replicas,
    u: torch.Tensor,
    schedule: Schedule,
    batches: Iterator[torch.Tensor | None],
    report: ProgressCallback,
    history: History,
    stops: Callable[[int, torch.Tensor], bool] | None = None,
) -> torch.Tensor:
    """Adam's steps along a schedule, proximal where a penalty has a kink; see `fit_many`.

    `stops` is asked about a hundred times, with the steps done and (R, P), whether it is enough.

    Raises:
        FitError: If a loss stops being finite, or the network raises; says at which step.
    """
    take, num_steps = Stepper(replicas, u), schedule.num_steps
    every = max(1, num_steps // 100)
    good, good_step = u.clone(), 0
    for step in range(num_steps):
        try:
            loss = take(schedule.rate(step), next(batches))
        except Exception as failure:  # a person's module may raise anything
            said = f"every step of the {len(u)} fits must go through the network, but step {step} raised"
            said = f"{said} {type(failure).__name__}: {failure}; look at its forward."
            raise FitError(said, good_step, {"parameter": good}) from failure
        if step % every == 0 or step == num_steps - 1:
            if not math.isfinite(loss):
                said = f"the loss must stay finite in each of the {len(u)} fits, but their sum is {float(loss)} at step {step};"
                said = f"{said} lower learning_rate (now {schedule.learning_rate:g}) or standardise the data."
                raise FitError(said, good_step, {"parameter": good})
            nats = replicas.objectives(u, next(batches))
            if bool(nats.isfinite().all()):
                good, good_step = u.clone(), step + 1
            best = float(nats.max())
            history.record(step, best)
            report(step + 1, num_steps, best)
            if stops is not None and stops(step + 1, u):
                break
    return u


class Stepper:
    """One training step of all fits by Adam, in place, on F_r/N_r; where penalties have kinks their prox in its metric follows.

    Args:
        replicas: The problems.
        u: The present point (R, P), which each step changes.
    """

    def __init__(self, replicas: Replicas, u: torch.Tensor) -> None:
        self.replicas, self.u = replicas, u
        self.per_row = (1 / replicas.num_data)[:, None]
        self.gradient, self.first, self.second, self.step = (torch.zeros_like(u) for _ in range(4))
        self.leaves, self.into = replicas.leaves(u), replicas.leaves(self.gradient)
        self.count = 0

    def __call__(self, rate: float, rows: torch.Tensor | None) -> torch.Tensor:
        """Take the step.

        Args:
            rate: The learning rate.
            rows: Numbers of the batch's rows, or None for all.

        Returns:
            The likelihood's part of F before the step, summed over the fits, a detached scalar.
        """
        gradient, first, second, step = self.gradient, self.first, self.second, self.step
        loss = self.replicas.backward(self.leaves, self.into, rows, training=True)
        with torch.no_grad():
            self.replicas.add_slopes(gradient, self.u, kinks=False)
            gradient.mul_(self.per_row)
            self.count += 1
            move_moments(gradient, first, second)
            ahead, floor, whole = pace(self.count, rate)
            torch.sqrt(second, out=step).add_(floor)
            for group in self.replicas.nonsmooth:
                part = step[:, group.first.slice]
                part.copy_(-group.common(-part))
            self.u.addcdiv_(first, step, value=-ahead * whole)
            for group in self.replicas.nonsmooth:
                part, own = self.u[:, group.first.slice], step[:, group.first.slice]
                part.copy_(group.prox(part, ahead * self.per_row / own))
        return loss


def row_batches(
    num_rows: int, batch_size: int | None, generator: torch.Generator, device: torch.device
) -> Iterator[torch.Tensor | None]:
    """Numbers of rows without end, a fresh permutation each epoch; None for all rows."""
    while batch_size is None:
        yield None
    while True:
        order = torch.randperm(num_rows, generator=generator).to(device)
        yield from order.split(batch_size)[: num_rows // batch_size]


def _check_counts(joints: list[LogJoint], starts: torch.Tensor, weights: torch.Tensor | None, num_rows: int) -> None:
    """Refuse shapes that do not fit.

    Raises:
        ValueError: If so.
    """
    size = joints[0].layout.size
    if starts.dim() != 2 or starts.shape[1] != size:
        raise ValueError(f"starts must be (R, P) with P = {size}, but shape {tuple(starts.shape)} came; stack one row a fit.")
    if len(joints) not in (1, len(starts)):
        raise ValueError(f"log_joints must be one, or one for each of the {len(starts)} starts, but {len(joints)} came.")
    if weights is None:
        return
    if tuple(weights.shape) != (len(starts), num_rows):
        raise ValueError(
            f"weights must be (R, N) = {(len(starts), num_rows)}, but {tuple(weights.shape)} came; give each fit a row of them."
        )
    if not bool((weights >= 0).all() & weights.isfinite().all()) or bool((weights.sum(1) == 0).any()):
        raise ValueError("weights must be numbers >= 0, not all zero in a fit; count how often each row is in it.")
