"""The work of `bayesreg report` and `bayesreg demo`: one network, several fits, one report."""

from __future__ import annotations

import contextlib
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import bayesreg as br
from bayesreg import _check
from bayesreg._memory import MAX_MEMORY
from bayesreg.certificates import sentence
from bayesreg.cli.screen import as_option, columns, console, in_options, progress, say, warn
from bayesreg.cli.setup import DEMO, Network, Settings, check, methods, model, read, rules
from bayesreg.data.datasets import Split, Table, load_diabetes
from bayesreg.inference import AbstractMethod
from bayesreg.solvers.batches import FULL_BATCH_ROWS

if TYPE_CHECKING:
    from rich.console import Console

    from bayesreg.comparison import Comparison

__all__ = ["DEMO", "Fit", "Network", "Settings", "check", "load_diabetes", "methods", "model", "read", "rules", "run"]
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


def run(table: Table, fits: Mapping[str, Fit], settings: Settings) -> None:
    """Fit, compare and report; print what was done. All fits are of one likelihood kind.

    Raises:
        ValueError: If a fit is refused, fails, or the report cannot be written.
    """
    split = table.train_test_split(settings.test_fraction, settings.seed)
    _check_memory(fits, split, settings.num_samples or 1000)
    with _threads(fits, split):
        _run(table, split, fits, settings)


def _run(table: Table, split: Split, fits: Mapping[str, Fit], settings: Settings) -> None:
    from bayesreg.reports.page import report

    started, screen = time.perf_counter(), console()
    missing: dict[str, str] = {}
    done = _each(fits, lambda name, fit: _rehearse(name, fit, split, settings.seed), missing)
    say_data(screen, table, split)
    say_priors(screen, {name: fits[name].model for name in done})
    say(screen, "", "The fits:")

    def fitted(name: str, fit: Fit) -> br.AbstractPosterior:
        posterior = done[name] or _fit(name, fit, split, settings.seed)
        posterior.predict(split.X_test, num_samples=20, seed=settings.seed)  # or it is left out
        _say_fit(screen, name, posterior, table.target)
        return posterior

    posteriors = _each({name: fits[name] for name in done}, fitted, missing)
    with progress("Report"):
        made = report(
            posteriors,
            split.X_test,
            split.y_test,
            num_samples=settings.num_samples,
            seed=settings.seed,
            title=f"{table.target}, from {table.source}",
            notes=[*map(in_options, table.encoding), *_setting(split, settings)],
            source=table.source,
            feature_names=table.feature_names,
            target_name=table.target,
            classes=table.classes,
            row_names=_held_out(table, settings),
            missing=missing,
        )
        made.save(settings.out, force=settings.force)
    _say_comparison(screen, made.comparison)
    _say_verdict(screen, made.data["verdict"])
    where = f"Report: {settings.out}, with its numbers in {settings.out.with_suffix('.json')}"
    say(screen, "", f"{where}; fits and report took {time.perf_counter() - started:.0f} s.", style="bold")


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


def _held_out(table: Table, settings: Settings) -> list[int]:
    """The file's row numbers of the held-out rows: the split depends on the targets and the seed only."""
    rows = np.arange(1, len(table.y) + 1) if table.rows is None else table.rows
    numbers = replace(table, X=rows[:, None]).train_test_split(settings.test_fraction, settings.seed).X_test
    return [int(number) for number in numbers[:, 0]]


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


def _setting(split: Split, settings: Settings) -> tuple[str, str]:
    held_out = f"{len(split.y_train):,} rows to fit, {len(split.y_test):,} held out at random; seed {settings.seed}."
    return held_out, "Row numbers count the file's rows of data from 1."


def _check_memory(fits: Mapping[str, Fit], split: Split, num_samples: int) -> None:
    rows = len(split.y_test)
    width = max(fit.model.module[-1].out_features for fit in fits.values())  # pyright: ignore
    if 4 * num_samples * rows * width > MAX_MEMORY:
        most = MAX_MEMORY // (4 * rows * width)
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


def say_data(screen: Console, table: Table, split: Split | None = None) -> None:
    """Print the size of the data, and what was done to the columns; `split` is how the rows were divided, if they were."""
    parts = "" if split is None else f", {len(split.y_train):,} to fit and {len(split.y_test):,} held out"
    what = "regression" if table.classes is None else f"{len(table.classes)} classes"
    inputs = f"{table.X.shape[1]:,} input{'s' if table.X.shape[1] != 1 else ''}"
    say(screen, f"{table.source}: {len(table.y):,} rows{parts}; {inputs}; {what}, on {table.target!r}", style="bold")
    say(screen, *map(in_options, table.encoding), indent=2)


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


def _say_verdict(screen: Console, cards: Sequence[Mapping[str, Any]]) -> None:
    from bayesreg.reports.base import WORDS

    colours = {"good": "green", "bad": "yellow"}
    say(screen, "", "In short:")
    for card in cards:
        mark, _ = WORDS[card["state"]]
        columns(
            screen, ("", ""), [(f"{mark} {card['topic']}".ljust(22), card["headline"])], style=colours.get(card["state"], "")
        )
