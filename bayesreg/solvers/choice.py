"""Which solver a problem goes to: the one that was asked for, or the first that can and has something in its favour."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import torch

from bayesreg import _check
from bayesreg._catalog import concrete
from bayesreg.objective.directions import held_rows, on_sphere, scale_free
from bayesreg.solvers.base import AbstractSolver, Problem, Solution, Unsuited
from bayesreg.solvers.history import History
from bayesreg.solvers.options import SearchOptions
from bayesreg.solvers.progress import ProgressCallback


class Searched(NamedTuple):
    """A problem, and how it was solved.

    Attributes:
        problem: With the tensors whose rows were held.
        solver: Which one.
        start: Where it began, (P,).
        solution: Where it ended.
    """

    problem: Problem
    solver: AbstractSolver
    start: torch.Tensor
    solution: Solution


def known_solvers() -> dict[str, AbstractSolver]:
    """Every solver by name, in the order in which they are asked."""
    classes: list[Any] = sorted(concrete(AbstractSolver), key=lambda cls: cls.rank)
    return {cls.name: cls() for cls in classes}


def check_choice(options: SearchOptions) -> None:
    """Refuse an optimizer that is none, or settings that it does not read.

    Raises:
        ValueError: If so.
    """
    known = known_solvers()
    name = _check.one_of("optimizer", options.optimizer, ("auto", *reversed(known)))
    if name != "auto":
        known[name].check(options)


def searched(problem: Problem, history: History, report: ProgressCallback) -> Searched:
    """Solve a problem by the solver that was asked for, or else by the first that can and that something speaks for.

    Args:
        problem: The problem.
        history: Where the objective and notes go.
        report: Told how far it is.

    Returns:
        What was solved, how, and where it ended.

    Raises:
        ValueError: If the solver that was asked for cannot.
        Unsuited: If it finds so on the way.
        FitError: If the search cannot go on.
    """
    asked, log_joint = problem.options.optimizer, problem.log_joint
    begin = None
    for solver in known_solvers().values() if asked == "auto" else [known_solvers()[asked]]:
        lacking = solver.requires(problem)
        if asked != "auto" and lacking is not None:
            raise ValueError(f"optimizer={asked!r} needs {lacking}")
        why = "asked for" if asked != "auto" else solver.suits(problem) if lacking is None else None
        if why is None:
            continue
        if why:
            history.notes.append(f"{solver.name}: {why}.")
        if begin is None:
            begin = log_joint.layout.flatten(log_joint.model.start(*next(problem.data.epoch())))
        held, start = _held(problem, solver, history), begin.clone()
        on_sphere(start, held.held)
        try:
            return Searched(held, solver, start, solver.solve(held, start, history, report))
        except Unsuited:
            if asked != "auto":
                raise
    raise ValueError("a model must have a solver that is suited to it, but none is; name one by `optimizer`.")


def _held(problem: Problem, solver: AbstractSolver, history: History) -> Problem:
    """The problem with the tensors whose rows are held at norm 1.

    Raises:
        ValueError: If they are asked for, and there is none or a prior is in the way.
    """
    if problem.options.scale_invariant == "free":
        return problem
    held = held_rows(scale_free(problem.log_joint), solver.proximal)
    history.notes.append(f"unit-norm: each output unit of {', '.join(rows.name for rows in held)} is held at norm 1.")
    return dataclasses.replace(problem, held=held)
