"""`bayesreg inverse`: what data can say of x in A x = b, the rules for λ, the answer with its band, and a page."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import bayesreg as br
from bayesreg import _check, inverse
from bayesreg._text import listing
from bayesreg.cli.job import say_verdict
from bayesreg.cli.screen import columns, console, progress, say
from bayesreg.cli.setup import Settings, check
from bayesreg.datasets.inverse import PROBLEMS
from bayesreg.operators import AbstractLinearOperator, Dense
from bayesreg.priors import AbstractPrior, parse
from bayesreg.reports.page import report

PRIOR, PROPER = "Smooth(order=2)", "Smooth(order=2, scale=1.0, level_scale=1000.0)"  # the second for large problems
RULE = "gcv"


@dataclasses.dataclass(frozen=True)
class Asked:
    """What the command line asked for.

    Attributes:
        problem: Name of a test problem, or None where files are given.
        size: Its number of unknowns (an image's side), or None for its default.
        noise: Noise that is added to it, relative to its measurements.
        matrix: File of A.
        data: File of b.
        truth: File of x, or None.
        noise_scale: The noise's sd where it is known, or None.
    """

    problem: str | None
    size: int | None
    noise: float
    matrix: Path | None
    data: Path | None
    truth: Path | None
    noise_scale: float | None


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """An inverse problem that was read.

    Attributes:
        name: What it is called.
        operator: A.
        b: Measurements.
        truth: x, or None.
        noise_scale: σ, or None.
        source: Where it comes from.
        notes: What was done to it.
    """

    name: str
    operator: AbstractLinearOperator
    b: np.ndarray
    truth: np.ndarray | None
    noise_scale: float | None
    source: str
    notes: tuple[str, ...]


def read(asked: Asked, seed: int) -> Case:
    """The problem that was asked for.

    Raises:
        ValueError: If neither a test problem nor files were named, both were, or a file does not hold what it must.
    """
    if asked.problem is None:
        if asked.matrix is None or asked.data is None:
            raise ValueError(
                f"a test problem, or --matrix A.npy with --data b.npy, must be given, but neither came; known: "
                f"{listing([*PROBLEMS])}."
            )
        operator, b = Dense(_array(asked.matrix, "--matrix")), _array(asked.data, "--data")
        truth = None if asked.truth is None else _array(asked.truth, "--truth")
        return Case(str(asked.matrix), operator, b, truth, asked.noise_scale, f"{asked.matrix} and {asked.data}", ())
    given = [("--matrix", asked.matrix), ("--data", asked.data), ("--truth", asked.truth), ("--noise-scale", asked.noise_scale)]
    if beside := [name for name, value in given if value is not None]:
        raise ValueError(f"a test problem brings its own, but {listing(beside)} came beside {asked.problem}; leave one out.")
    name = _check.one_of("the problem", asked.problem, PROBLEMS)
    made: Any = PROBLEMS[name]
    problem = made() if asked.size is None else made(_check.count("--size", asked.size))
    b, sigma = problem.noisy(_check.positive("--noise", asked.noise), seed)
    note = f"White noise of {100 * asked.noise:g} % of the measurements was added, seed {seed}."
    return Case(name, problem.operator, b, problem.x, sigma, problem.source, (note,))


def _array(path: Path, option: str) -> np.ndarray:
    """Numbers of a .npy file.

    Raises:
        ValueError: If it is none.
    """
    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(
            f"{option} must be a NumPy file of numbers, but {str(path)!r}: {error}; write it by numpy.save."
        ) from None
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "fiub":
        raise ValueError(f"{option} must hold one array of real numbers, but {str(path)!r} does not; write it by numpy.save.")
    return found


def solve_problem(asked: Asked, texts: Sequence[str], rule: str | None, *, out: Path, seed: int, force: bool) -> None:
    """Analyse, choose λ, fit the mode and the posterior, and write the page; print what was found.

    Args:
        asked: The problem.
        texts: Priors of x, each by its text; of several the first is fitted, and all are compared by their evidence.
        rule: Whose prior scale is taken; None for GCV's.
        out: The page.
        seed: Of noise and draws.
        force: Replace it.

    Raises:
        ValueError: If anything is refused; then nothing is written.
    """
    check(Settings(out, force, seed))
    started, screen, case = time.perf_counter(), console(), read(asked, seed)
    noise: Any = br.priors.HalfNormal(1.0) if case.noise_scale is None else case.noise_scale
    likelihood = br.likelihoods.Gaussian(noise_scale=noise)
    usual = PRIOR if max(case.operator.size, case.operator.num_data) <= inverse.MOST else PROPER
    priors: dict[str, AbstractPrior] = {text: parse(text) for text in texts or [usual]}
    models = {text: br.BayesianModel(case.operator, {"x": prior}, likelihood) for text, prior in priors.items()}
    first = next(iter(models.values()))
    say(screen, f"{case.name}: {case.source}", style="bold")
    say(screen, *case.notes, indent=2)
    analysis = inverse.analyse(case.operator, case.b, case.noise_scale)
    say(screen, "", *analysis.verdict)
    choice = inverse.choose(first, case.b)
    taken = _check.one_of("--rule", RULE if rule is None else rule, choice.chosen)
    _say_rules(screen, choice, case.truth)
    _say_priors(screen, models, case.b)
    chosen = choice.model(taken)
    scale = f"The prior's scale is that of {taken}: {choice[taken].prior_scale:.3g}."
    fits = _fitted(chosen, case.b, seed)
    with progress("Report"):
        notes = [*case.notes, scale]
        options: dict[str, Any] = {"truth": case.truth, "title": f"{case.name}: A x = b", "notes": notes, "source": case.source}
        page = report(fits, None, case.b, seed=seed, **options)
        page.save(out, force=force)
    say(screen, "", scale)
    say_verdict(screen, page.data["verdict"])
    where = f"Report: {out}, with its numbers in {out.with_suffix('.json')}"
    say(screen, "", f"{where}; it took {time.perf_counter() - started:.0f} s.", style="bold")


def _fitted(model: br.BayesianModel, b: np.ndarray, seed: int) -> dict[str, br.AbstractPosterior]:
    with warnings.catch_warnings():  # the certificate's sentence is on the page
        warnings.simplefilter("ignore", br.ConvergenceWarning)
        return {name: br.fit(model, None, b, method=how, seed=seed) for name, how in (("mode", "map"), ("posterior", "exact"))}


def _say_rules(screen: Any, choice: inverse.Choice, truth: np.ndarray | None) -> None:
    """The table of rules, with the true error where it can be known."""
    say(screen, "", choice.caption)
    cells, heads = [list(row) for row in choice.cells], list(choice.heads)
    errors: Mapping[str, float] = {}
    if truth is not None:
        errors = choice.errors(truth)
        heads.append("true error")
        for row in cells:
            row.append("–" if np.isnan(errors[row[0]]) else f"{100 * errors[row[0]]:.3g} %")
    columns(screen, heads, cells, numbers=True)
    if "best" in errors:
        say(screen, f"The best λ, which only the truth tells, has an error of {100 * errors['best']:.3g} %.")
    say(screen, *choice.notes)


def _say_priors(screen: Any, models: Mapping[str, br.BayesianModel], b: np.ndarray) -> None:
    """Several priors by their evidence."""
    if len(models) < 2:
        return
    compared = inverse.compare_priors(models, b)
    say(screen, "", compared.caption)
    columns(screen, compared.heads, compared.cells, numbers=True)
    say(screen, *compared.notes)
