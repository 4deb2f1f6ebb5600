"""The work of `bayesreg report` and `bayesreg demo`: one network, several fits, one report."""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

import bayesreg as br
from bayesreg import _check
from bayesreg._memory import MAX_MEMORY
from bayesreg._text import counted
from bayesreg.certificates import sentence
from bayesreg.cli.models import save_model
from bayesreg.cli.screen import as_option, columns, console, in_options, note_in_options, progress, say, warn
from bayesreg.cli.setup import DEMO, Network, Settings, by_default, check, methods, model, rules, with_note
from bayesreg.cli.tables import Asked, Case, demo, missing_as, read, reading_of
from bayesreg.data import Split
from bayesreg.inference import AbstractMethod
from bayesreg.solvers.batches import FULL_BATCH_ROWS

if TYPE_CHECKING:
    from rich.console import Console

    from bayesreg.comparison import Comparison

__all__ = [
    "DEMO",
    "Asked",
    "Case",
    "Fit",
    "Network",
    "Settings",
    "by_default",
    "check",
    "demo",
    "methods",
    "missing_as",
    "model",
    "read",
    "reading_of",
    "rules",
    "run",
    "say_data",
    "say_priors",
    "with_note",
]
_SMALL = 10**7  # rows × parameters of a step: one thread takes about a millisecond for them


@dataclass(frozen=True)
class Fit:
    """One fit of a job.

    Attributes:
        model: The model.
        method: The method.
    """

    model: br.BayesianModel
    method: AbstractMethod


class _Begun(Exception):
    """Raised by a rehearsed fit at its first step."""


def run(case: Case, fits: Mapping[str, Fit], settings: Settings) -> None:
    """Fit, compare and report; print what was done. All fits are of one likelihood kind.

    Raises:
        ValueError: If a fit is refused, fails, or the report cannot be written.
    """
    _check_memory(fits, case, settings.num_samples or 1000)
    with _threads(fits, case.split):
        _run(case, fits, settings)


def _run(case: Case, fits: Mapping[str, Fit], settings: Settings) -> None:
    from bayesreg.reports.page import report

    started, screen, split, target = time.perf_counter(), console(), case.split, case.target.name
    missing: dict[str, str] = {}
    done = _each(fits, lambda name, fit: _rehearse(name, fit, split, settings.seed), missing)
    say_data(screen, case)
    say_priors(screen, {name: fits[name].model for name in done})
    say(screen, "", "The fits:")

    def fitted(name: str, fit: Fit) -> br.AbstractPosterior:
        posterior = done[name] or _fit(name, fit, split, settings.seed)
        posterior.predict(split.X_test, num_samples=20, seed=settings.seed)  # or it is left out
        _say_fit(screen, name, posterior, target)
        if fit.method.name == "auto":
            say(screen, *map(in_options, posterior.history.notes), indent=2)
        return posterior

    posteriors = _each({name: fits[name] for name in done}, fitted, missing)
    with progress("Report"):
        made = report(
            posteriors,
            split.X_test,
            split.y_test,
            num_samples=settings.num_samples,
            seed=settings.seed,
            title=f"{target}, from {case.prepared.source}",
            notes=[*map(note_in_options, (*case.said, *case.prepared.notes)), *_setting(case, settings)],
            source=case.prepared.source,
            feature_names=case.feature_names,
            target_name=target,
            classes=case.classes,
            row_names=[int(row) for row in case.prepared.rows[1]],
            missing=missing,
            baselines=(split.X_train, split.y_train) if settings.baselines else None,
        )
        made.save(settings.out, force=settings.force)
    saved = ""
    if settings.save is not None:
        name, kept = list(posteriors.items())[-1]
        save_model(kept, case, settings.save, force=settings.force)
        saved = f"Model: {settings.save}, of {name}; predict new rows by: bayesreg predict {settings.save} NEW.csv"
    _say_comparison(screen, made.comparison)
    say_verdict(screen, made.data["verdict"])
    where = f"Report: {settings.out}, with its numbers in {settings.out.with_suffix('.json')}"
    say(
        screen,
        "",
        f"{where}; fits and report took {time.perf_counter() - started:.0f} s.",
        *filter(None, [saved]),
        style="bold",
    )


def _each(fits: Mapping[str, Fit], do: Callable[[str, Fit], Any], missing: dict[str, str]) -> dict[str, Any]:
    """The result of `do` for each fit; one that is refused goes to stderr and to `missing`, unless none is left.

    Raises:
        ValueError: If none is left, for the reason of the first.
    """
    found: dict[str, Any] = {}
    refused: dict[str, ValueError] = {}
    for name, fit in fits.items():
        try:
            found[name] = do(name, fit)
        except ValueError as error:
            refused[name] = error
    if not found:
        raise ValueError(str(next(iter(refused.values()))))
    for name, error in refused.items():
        said = in_options(str(error)).removeprefix(f"{name}: ")
        warn(f"{name} is left out of the report: {said}")
        missing[name] = said
    return found


@contextlib.contextmanager
def _threads(fits: Mapping[str, Fit], split: Split) -> Iterator[None]:
    """One thread for small fits, unless the environment sets a number; the previous number is restored.

    With matrices so small, two threads spend more time waiting for each other than on the product: on a busy machine, forty
    times more.
    """
    before = torch.get_num_threads()
    work = min(len(split.y_train), FULL_BATCH_ROWS) * max(fit.model.num_parameters for fit in fits.values())
    if work < _SMALL and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _setting(case: Case, settings: Settings) -> tuple[str, str]:
    train, test = len(case.split.y_train), len(case.split.y_test)
    held_out = f"{train:,} rows to fit, {test:,} {case.how}; seed {settings.seed}."
    return held_out, "Row numbers count the file's rows of data from 1."


def _check_memory(fits: Mapping[str, Fit], case: Case, num_samples: int) -> None:
    rows = len(case.split.y_test)
    classes = None if case.classes is None else len(case.classes)
    width = max(fit.model.likelihood.num_outputs(classes) for fit in fits.values())
    if 8 * num_samples * rows * width > MAX_MEMORY:
        most = MAX_MEMORY // (8 * rows * width)
        came = f"{_check.said(num_samples)} draws for {rows:,} rows"
        raise ValueError(f"the predictions must fit into memory, but {came} came; pass at most --num-samples {most}.")


def _rehearse(name: str, fit: Fit, split: Split, seed: int) -> br.AbstractPosterior | None:
    """Let a fit raise its refusals before the long work starts: it is stopped at its first step.

    A fit without steps (a closed form) is not stopped, and its answer is kept.
    """

    def stop(step: int, total: int, objective: float) -> None:
        raise _Begun

    try:  # one step is not worth compiling; where nothing is compiled, it is the fit's own
        return _call(name, replace(fit, method=fit.method.eager()), split, seed, stop)
    except _Begun:
        return None


def _fit(name: str, fit: Fit, split: Split, seed: int) -> br.AbstractPosterior:
    with progress(name) as update:
        return _call(name, fit, split, seed, update)


def _call(name: str, fit: Fit, split: Split, seed: int, update: Any) -> br.AbstractPosterior:
    try:
        with warnings.catch_warnings():  # the certificate's sentence is shown with the fit, as every other one
            warnings.simplefilter("ignore", br.ConvergenceWarning)
            return br.fit(fit.model, split.X_train, split.y_train, method=fit.method, seed=seed, progress=update)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    except ArithmeticError as error:  # Python's own numbers raise where tensors become infinite
        must = "every number of the fit must stay within what floating point holds"
        raise ValueError(
            f"{name}: {must}, but {error} came; take scales of --prior and --likelihood nearer to one, or another unit."
        ) from error


def say_data(screen: Console, case: Case) -> None:
    """Print the size of the data, how the rows were divided, what was done to the columns, and what suits the target."""
    train, test = len(case.split.y_train), len(case.split.y_test)
    what = case.likelihood.kind if case.classes is None else f"{len(case.classes)} classes"
    inputs = counted(len(case.feature_names), "input")
    parts = f"{train + test:,} rows" + (f", {train:,} to fit and {test:,} {case.how}" if test else "")
    say(screen, f"{case.prepared.source}: {parts}; {inputs}; {what}, on {case.target.name!r}", style="bold")
    say(screen, *map(note_in_options, (*case.said, *case.prepared.notes)), indent=2)


def say_priors(screen: Console, models: Mapping[str, br.BayesianModel]) -> None:
    """Print what is assumed about every tensor, each distinct table once, for models by the name of their fit."""
    tables: dict[str, list[str]] = {}
    for name, shown in models.items():
        tables.setdefault(str(shown.prior_table()), []).append(name)
    of = "inputs and target" if any(shown.likelihood.location_scale for shown in models.values()) else "inputs"
    say(screen, "", f"What is assumed before any fit (scales are for standardised {of}):")
    for names in tables.values():
        if len(tables) > 1:
            say(screen, "", " · ".join(names), style="italic")
        table = models[names[0]].prior_table()
        columns(screen, table.heads, table.cells)


def _say_fit(screen: Console, name: str, posterior: br.AbstractPosterior, target: str) -> None:
    said, likelihood = sentence(posterior.certificate, as_option), posterior.model.likelihood
    for key in likelihood.latents:
        units = f", in units of {target}" if likelihood.location_scale and key not in likelihood.unit_free else ""
        said += f" {key} = {float(posterior.mean[key]):.3g}{units}."
    say(screen, f"{name}, {posterior.elapsed:.1f} s")
    say(screen, said, indent=2, style=None if posterior.certificate.converged else "yellow")


def _say_comparison(screen: Console, comparison: Comparison) -> None:
    """Print the comparison with one column a posterior: a terminal is too narrow for one column a metric."""
    head, *rows = comparison.table()
    say(screen, "", "On the held-out rows:")
    step = max(1, (screen.width - 17) // 15)
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        lines = [[cells[0].strip(), *cells[1:]] for cells in zip(head, *part, strict=True)]
        columns(screen, lines[0], lines[1:], numbers=True)
    say(screen, "", *str(comparison).partition("\n\n")[2].splitlines())


def say_verdict(screen: Console, cards: Sequence[Mapping[str, Any]]) -> None:
    from bayesreg.reports.base import WORDS

    colours = {"good": "green", "bad": "yellow"}
    say(screen, "", "In short:")
    for card in cards:
        mark, _ = WORDS[card["state"]]
        columns(
            screen, ("", ""), [(f"{mark} {card['topic']}".ljust(22), card["headline"])], style=colours.get(card["state"], "")
        )
