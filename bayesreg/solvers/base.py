"""What a way to a mode is: it says what it requires of a problem, and solves it."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

import torch

from bayesreg.data.rows import Data
from bayesreg.model.model import BayesianModel
from bayesreg.objective.affine import AffineProblem, affine_problem
from bayesreg.objective.directions import Rows
from bayesreg.objective.flat import LogJoint
from bayesreg.solvers.history import History
from bayesreg.solvers.loop import Follow
from bayesreg.solvers.options import SearchOptions
from bayesreg.solvers.progress import ProgressCallback
from bayesreg.solvers.rising import Trend


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """What is to be maximised, over which rows, and how the person wants it searched.

    Attributes:
        log_joint: The objective.
        data: Prepared rows.
        batch_size: Rows a step, as `resolve_batch` gives them; None for all.
        options: The settings of the search.
        seed: Recorded in a checkpoint; torch's generator already stands there.
        held_out: Rows that say when to stop, or None.
        held: Tensors whose rows stay at length one.
        follow: Who is told of the points on the way, or None.

    Raises:
        ValueError: If points are followed of a search that may begin where a checkpoint left it.
    """

    log_joint: LogJoint
    data: Data
    batch_size: int | None = None
    options: SearchOptions = dataclasses.field(default_factory=SearchOptions)
    seed: int = 0
    held_out: tuple[torch.Tensor, torch.Tensor] | None = None
    held: Sequence[Rows] = ()
    follow: Follow | None = None

    def __post_init__(self) -> None:
        if self.follow is not None and self.options.checkpoint is not None:
            raise ValueError(
                "a search whose points are followed must be seen from its start, but a checkpoint came, from which it would go "
                "on in the middle; leave out one of the two."
            )

    @property
    def asked_to_search(self) -> str:
        """The settings that ask for a search by steps, in words; empty where there is none."""
        options = self.options
        asked = [*options.of_steps().values(), *(n for n in ("num_steps", "batch_size") if getattr(options, n) is not None)]
        asked += ["num_restarts"] * (options.num_restarts > 1) + ["follow"] * (self.follow is not None)
        return " and ".join(asked)

    def partial(self, reads: Sequence[str] = ()) -> str | None:
        """Why a search that needs one fixed objective over all rows is out of place; None where it is not.

        Args:
            reads: Settings of a search by steps that are no obstacle.
        """
        if self.data.x is None:
            return "the rows are streamed"
        if self.follow is not None:
            return "the points on its way are followed"
        if self.batch_size is not None:
            return f"it sees {self.batch_size:,} of {self.data.num_data:,} rows at a step"
        if not self.log_joint.model.behaviour.deterministic:
            return "batch normalisation or dropout makes training differ from evaluation"
        asked = " and ".join(text for name, text in self.options.of_steps().items() if name not in reads)
        return f"{asked} asks for a search by steps" if asked else None

    @cached_property
    def affine(self) -> AffineProblem | None:
        """The least-squares problem that this one is, if it is one."""
        return affine_problem(self.log_joint, self.data)


@dataclasses.dataclass(frozen=True, eq=False)
class Solution:
    """Where a search ended.

    Attributes:
        u: The point, (P,) unconstrained, in the module's type.
        model: The model with the buffers that were trained beside it.
        trend: How what training followed ended, where that is not what is evaluated.
        value: The log-joint there, in nats and the data's own units, where the solver knows it.
        gap: Nats that are at most left to gain, where a dual point is known.
        violation: Largest violation of the optimality conditions in posterior sds, where the solver has measured it.
        exact: Solved by the problem's own conditions, not searched for.
        steps: Training steps that were taken, where the search is made of them.
    """

    u: torch.Tensor
    model: BayesianModel
    trend: Trend | None = None
    value: float | None = None
    gap: float | None = None
    violation: float | None = None
    exact: bool = False
    steps: int | None = None


class Unsuited(ValueError):
    """A solver found on the way that it cannot solve the problem, which `requires` could not see."""


class AbstractSolver(abc.ABC):
    """A way to a mode. A subclass is one file; its name then is a choice of `MAP(optimizer=...)`.

    Attributes:
        name: What `optimizer` calls it.
        rank: Among those that `suits` speaks for, the least is taken.
        reads: Settings of `SearchOptions.of_steps` that it reads; others are refused.
        proximal: Whether penalties with a kink are left to a prox.
        local: Whether another start may lead elsewhere.
    """

    name: ClassVar[str]
    rank: ClassVar[int] = 0
    reads: ClassVar[tuple[str, ...]] = ()
    proximal: ClassVar[bool] = False
    local: ClassVar[bool] = True

    @abc.abstractmethod
    def requires(self, problem: Problem) -> str | None:
        """Why it cannot solve a problem.

        Args:
            problem: The problem.

        Returns:
            What follows "needs": what must hold, what came, what to do; None where nothing is in the way.
        """

    def suits(self, problem: Problem) -> str | None:
        """What speaks for it where nobody asked for it by name.

        Args:
            problem: One that it can solve.

        Returns:
            A clause for the fit's notes, empty where it says so itself; None where nothing does.
        """
        return None

    @abc.abstractmethod
    def solve(self, problem: Problem, start: torch.Tensor, history: History, report: ProgressCallback) -> Solution:
        """Find the mode.

        Args:
            problem: One that it can solve.
            start: Where to begin, (P,) unconstrained.
            history: Where the objective and notes go.
            report: To be called now and then with (step, of how many, log-joint in nats).

        Returns:
            Where it ended.

        Raises:
            FitError: If it cannot go on; the last good point is in it.
            Unsuited: If it is no solver for this problem after all.
        """

    def finish(self, problem: Problem, u: torch.Tensor) -> torch.Tensor | None:
        """From near a mode to the mode itself, so that fits from several starts can be told apart.

        Args:
            problem: One that it can solve.
            u: Where to go on from, (P,).

        Returns:
            (P,); None where this solver does not go on.
        """
        return None

    def check(self, options: SearchOptions) -> None:
        """Refuse settings that it does not read.

        Raises:
            ValueError: If there are such.
        """
        unread = " and ".join(text for name, text in options.of_steps().items() if name not in self.reads)
        if unread:
            raise ValueError(
                f"optimizer={self.name!r} finds its own steps, but {unread} came, which it does not read; leave "
                "it out, or take 'adam' or 'prox-adam'."
            )
