"""Many fits at once, each stopped early: Adam's steps of R fits in one, and of each the point that held-out rows find best."""

from __future__ import annotations

import math

import torch

from bayesreg import _check
from bayesreg.data.rows import Data
from bayesreg.model.model import BayesianModel
from bayesreg.objective.batched import Replicas
from bayesreg.objective.flat import LogJoint
from bayesreg.solvers.batched import descend, row_batches
from bayesreg.solvers.batches import resolve_batch
from bayesreg.solvers.history import History
from bayesreg.solvers.progress import ProgressCallback
from bayesreg.solvers.schedules import Schedule


class BestPoints:
    """Of each fit the point with the best held-out score so far; a fit is over after `patience` looks that brought no better.

    Args:
        replicas: The fits, whose running statistics are read at each look.
        held_out: Prepared rows that are not fitted.
        patience: Looks without improvement.

    Attributes:
        u: (R, P).
        scores: Mean log-density of a held-out row there, in nats and the data's own units, (R,) float64.
        steps: Steps done when it came, (R,).
    """

    def __init__(self, replicas: Replicas, held_out: tuple[torch.Tensor, torch.Tensor], patience: int) -> None:
        count = replicas.num_replicas
        self.replicas, self.patience = replicas, patience
        self._held = Replicas([replicas.log_joint], *held_out, count)
        self._held.buffers = replicas.buffers  # the same tensors, which each step writes
        like = replicas.model.like
        self.scores = torch.full((count,), -math.inf, dtype=torch.float64, device=like.device)
        self.steps, self._since = (torch.zeros(count, dtype=torch.long, device=like.device) for _ in range(2))
        self.u: torch.Tensor | None = None
        self.buffers = replicas.buffers

    def stops(self, step: int, u: torch.Tensor) -> bool:
        """Look once; True when every fit is over.

        Args:
            step: Steps done.
            u: Where the fits stand, (R, P).
        """
        found = self._held.row_log_prob(u).double().flatten(1).mean(1).nan_to_num(-math.inf)
        going = self._since < self.patience
        better = going & (found > self.scores)
        if self.u is None:
            self.u, self.buffers = u.clone(), self.replicas.buffers.part(slice(None), u.dtype)
        self.u[better] = u[better]
        self.buffers.take(self.replicas.buffers, better)
        self.scores = torch.where(better, found, self.scores)
        self.steps = torch.where(better, step, self.steps)
        self._since = torch.where(better, 0, self._since + going.long())
        return bool((self._since >= self.patience).all())


def fit_many_early(
    log_joint: LogJoint,
    starts: torch.Tensor,
    data: Data,
    held_out: tuple[torch.Tensor, torch.Tensor],
    *,
    num_steps: int = 2000,
    learning_rate: float = 0.01,
    batch_size: int | None = None,
    patience: int = 10,
    generator: torch.Generator | None = None,
    report: ProgressCallback | None = None,
    history: History | None = None,
) -> tuple[torch.Tensor, torch.Tensor, list[BayesianModel]]:
    """R fits at once, each at its own best point on held-out rows; `hold_out` splits them off.

    Such a point is no mode and need not be one. Each fit ends where it would have ended alone; the run ends with the last.

    Args:
        log_joint: The objective, of the rows that are left.
        starts: Where each begins, (R, P) unconstrained.
        data: The rows that are left, in memory.
        held_out: Prepared inputs and targets that are held out.
        num_steps: Adam's steps at most.
        learning_rate: Adam's first rate, falling to zero along half a cosine.
        batch_size: Rows a step; when None as for `MAP`.
        patience: Looks in a row without improvement after which a fit is over; there are about a hundred.
        generator: Where the batches come from; seed 0 when None.
        report: Called about a hundred times with (step, of how many, the highest log-joint).
        history: Where the highest log-joint is recorded.

    Returns:
        The points (R, P); the mean log-density of a held-out row there, in nats and the data's own units, (R,) float64; and
        the model of each fit, which has that point's running statistics of batch normalisation.

    Raises:
        ValueError: If the model or the rows are none for many fits at once.
        FitError: If a loss stops being finite.
    """
    x, y = data.full("many fits at once")
    num_steps, patience = _check.steps("num_steps", num_steps), _check.count("patience", patience)
    replicas, history = Replicas([log_joint], x, y, len(starts)), history or History()
    watch = BestPoints(replicas, held_out, patience)
    u = starts.detach().clone()
    watch.stops(0, u)
    batches = row_batches(
        len(x), resolve_batch(batch_size, data, log_joint), generator or torch.Generator().manual_seed(0), u.device
    )
    report = report or (lambda step, total, objective: None)
    descend(replicas, u, Schedule(num_steps, learning_rate), batches, report, history, watch.stops)
    history.notes.append(
        f"early stopping: of {len(u):,} fits the best points on held-out rows came after {int(watch.steps.min()):,} to "
        f"{int(watch.steps.max()):,} steps of {num_steps:,}."
    )
    best: torch.Tensor = watch.u  # pyright: ignore[reportAssignmentType]
    return best, watch.scores, [watch.buffers.carried(r, log_joint.model) for r in range(len(u))]
