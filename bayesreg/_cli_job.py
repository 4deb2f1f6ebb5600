"""What `bayesreg report` and `bayesreg demo` do: one network, several fits, one report."""

from __future__ import annotations

import contextlib
import inspect
import os
import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

import bayesreg as br
from bayesreg import _check, likelihoods
from bayesreg import priors as prior_classes
from bayesreg._cli_screen import columns, console, in_options, progress, say
from bayesreg.datasets import Split, Table, load_diabetes, read_table
from bayesreg.inference import MAP, AbstractMethod
from bayesreg.inference.base import resolve
from bayesreg.inference.training import FULL_BATCH_ROWS
from bayesreg.layers.mlp import ACTIVATIONS, MLP
from bayesreg.propagate import MAX_MEMORY
from bayesreg.rules_file import RulesFile
from bayesreg.rules_file import read as read_rules
from bayesreg.spec import PriorSpec

if TYPE_CHECKING:
    from rich.console import Console

    from bayesreg.compare import Comparison


@dataclass(frozen=True)
class Network:
    """A multilayer perceptron.

    Attributes:
        hidden: Widths of the hidden layers; (0,) is a linear model.
        activation: Its name.
        batchnorm: Normalise before each activation.
        dropout: Rate of the units dropped after each activation.
    """

    hidden: tuple[int, ...]
    activation: str = "relu"
    batchnorm: bool = False
    dropout: float = 0.0

    def __post_init__(self) -> None:
        _check.one_of("--activation", self.activation, ACTIVATIONS)
        if min(self.hidden) < 0 or (0 in self.hidden and len(self.hidden) > 1):
            came = " ".join(f"--hidden {width}" for width in self.hidden)
            raise ValueError(f"--hidden must be a width >= 1, or 0 by itself for a linear model, but {came} came; correct it.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"--dropout must be a rate, 0 <= RATE < 1, but {self.dropout:g} came; pass for example 0.05.")

    @property
    def widths(self) -> tuple[int, ...]:
        """The hidden layers' widths; none for a linear model."""
        return tuple(width for width in self.hidden if width)

    def build(self, inputs: int, outputs: int, seed: int) -> nn.Sequential:
        """The module, with seeded weights; torch's global random state is left as it was.

        Args:
            inputs: D.
            outputs: K.
            seed: Of the first weights.

        Returns:
            The module.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return MLP(inputs, self.widths, outputs, self.activation, self.batchnorm, self.dropout)


DEMO = Network((20,))
_SMALL = 10**7  # rows × parameters of a step: one thread takes about a millisecond for them


@dataclass(frozen=True)
class Settings:
    """How a job is done.

    Attributes:
        out: Where the report goes.
        force: Replace one that is there.
        test_fraction: Share of the rows held out.
        seed: Of the split, the first weights, the fits and the draws.
        num_samples: Draws from each posterior for its predictions.
    """

    out: Path
    force: bool
    test_fraction: float = 0.2
    seed: int = 0
    num_samples: int = 1000


@dataclass(frozen=True)
class Fit:
    """One fit of a job.

    Attributes:
        model: What is assumed.
        method: How it is concluded.
    """

    model: br.BayesianModel
    method: AbstractMethod


class _Begun(Exception):
    """A rehearsed fit has taken its first step."""


def check(settings: Settings) -> None:
    """Refuse what is wrong whatever the data are.

    Args:
        settings: How the job is to be done.

    Raises:
        ValueError: If the report cannot be written where it is to go, or a number is out of its range.
    """
    if settings.seed < 0:
        raise ValueError(f"--seed must be a whole number >= 0, but {settings.seed} came; pass for example --seed 0.")
    if settings.num_samples < 1:
        raise ValueError(f"--num-samples must be a whole number >= 1, but {settings.num_samples} came; pass for example 1000.")
    out = settings.out
    if out.suffix != ".html":
        raise ValueError(f"--out must end in .html, but {str(out)!r} came; the numbers go beside it as .json.")
    if not out.parent.is_dir():
        raise ValueError(f"the folder of --out must exist, but {str(out)!r} came; make {str(out.parent)!r} first.")
    for path in (out, out.with_suffix(".json")):
        if path.is_dir() or (path.exists() and not settings.force):
            raise ValueError(f"{str(path)!r} must not exist yet; pass --force to replace it, or another name by --out.")
    try:
        with tempfile.TemporaryFile(dir=out.parent):
            pass
    except OSError as error:
        raise ValueError(f"the folder of --out must be writable, but {error.strerror} came; choose another place.") from error


def rules(texts: Sequence[str], file: Path | None = None) -> RulesFile:
    """Rules from `--prior` texts and a `--priors` file.

    Args:
        texts: PATTERN=PRIOR each.
        file: A TOML file, whose rules come first.

    Returns:
        The rules of both.

    Raises:
        ValueError: If a text is not of that form, names no prior, or repeats a pattern; or the file is refused.

    >>> rules(["*.weight=Laplace(scale=0.1)"]).priors
    PriorSpec({'*.weight': Laplace(scale=0.1)})
    """
    given = RulesFile(PriorSpec()) if file is None else read_rules(file)
    found: dict[str, prior_classes.AbstractPrior] = {}
    for text in texts:
        pattern, equals, prior = (part.strip() for part in text.partition("="))
        if not (pattern and equals and prior) or "(" in pattern:
            example = "for example '*.weight=Laplace(scale=0.1)'"
            raise ValueError(f"--prior must read PATTERN=PRIOR, {example}, but {text!r} came; write both sides of the '='.")
        if pattern == "noise_scale":
            raise ValueError(
                f"the noise's prior is a part of the likelihood; write --likelihood 'Gaussian(noise_scale={prior})'."
            )
        if pattern in found:
            raise ValueError(f"each --prior must have a pattern of its own, but {pattern!r} came twice; leave one out.")
        found[pattern] = prior_classes.parse(prior)
    return RulesFile(given.priors & found, given.outputs)


def methods(names: Sequence[str], settings: Mapping[str, float | None] | None = None) -> dict[str, AbstractMethod]:
    """Methods by name, with the settings that they take.

    Args:
        names: What the methods are called.
        settings: num_steps, batch_size, learning_rate, for those that take them; None where nothing was said.

    Returns:
        Name to method, in the order given.

    Raises:
        ValueError: If a name is unknown or repeated, or a setting is out of its range or taken by none.
    """
    given: dict[str, Any] = {key: value for key, value in (settings or {}).items() if value is not None}
    found: dict[str, AbstractMethod] = {}
    unused = set(given)
    for name in names:
        made = type(resolve(name))
        if name in found:
            raise ValueError(f"each --method must be given once, but {name!r} came twice; leave one out.")
        takes = inspect.signature(made).parameters
        options: dict[str, Any] = {key: value for key, value in given.items() if key in takes}
        unused -= options.keys()
        if given and "mode" in takes:  # it starts from a mode, and finding that is what takes steps
            options["mode"], unused = MAP(**given), set()
        found[name] = made(**options)
    if unused:
        came = f"{', '.join(sorted(unused))} came for {', '.join(found)}"
        raise ValueError(f"a setting must be one that a method takes, but {came}; leave it out.")
    return found


def read(
    file: Path | None, target: str | None, kind: str | None, drop: Sequence[str], drop_missing: bool, max_levels: int
) -> Table:
    """The file's table, or the demo's where there is no file; see `datasets.read_table`.

    Raises:
        ValueError: If a file comes without its target, or the other way round, or the file is refused.
    """
    if file is None:
        if target is not None or kind is not None or drop or drop_missing:
            raise ValueError("options about the data need a FILE, but none came; write: bayesreg priors FILE --target NAME.")
        return load_diabetes()
    if target is None:
        raise ValueError("a FILE needs the column to predict, but none was said; add --target NAME.")
    wanted: Any = kind  # read_table checks it
    return read_table(file, target, kind=wanted, drop_columns=drop, drop_missing=drop_missing, max_levels=max_levels)


def model(table: Table, network: Network, rules: RulesFile, likelihood: str | None, seed: int) -> br.BayesianModel:
    """The model of a table: the network's last layer and the likelihood follow the target.

    Args:
        table: The data.
        network: What kind of network.
        rules: Over tensors and outputs.
        likelihood: Its text, or None for what suits the target.
        seed: Of the first weights.

    Returns:
        The model, not fitted.

    Raises:
        ValueError: If the likelihood does not suit the target, or a rule matches nothing.
    """
    suits = {"regression": likelihoods.Gaussian, "binary": likelihoods.Bernoulli, "multiclass": likelihoods.Categorical}
    noise = suits[table.kind]() if likelihood is None else likelihoods.parse(likelihood)
    fits = noise.kind == table.kind or (table.kind == "binary" and noise.kind == "multiclass")
    if not fits:
        what = "numbers (regression)" if table.kind == "regression" else f"{len(table.classes or ())} classes"
        came = f"--likelihood {type(noise).__name__} is for {noise.kind} and {table.target!r} holds {what}"
        raise ValueError(f"the likelihood must suit the target, but {came}; leave it out, or say --kind.")
    outputs = len(table.classes or ()) if noise.kind == "multiclass" else 2 if noise.heteroscedastic else 1
    module = network.build(table.X.shape[1], outputs, seed)
    return br.BayesianModel(module, rules.priors, noise, standardize=True, outputs=rules.outputs)


def run(table: Table, fits: Mapping[str, Fit], settings: Settings) -> None:
    """Fit, compare, report; say on stdout what was done.

    Args:
        table: The data.
        fits: Name to fit, all of one likelihood kind.
        settings: How.

    Raises:
        ValueError: If a fit is refused, fails, or the report cannot be written.
    """
    split = table.train_test_split(settings.test_fraction, settings.seed)
    _check_memory(fits, split, settings.num_samples)
    with _threads(fits, split):
        _run(table, split, fits, settings)


def _run(table: Table, split: Split, fits: Mapping[str, Fit], settings: Settings) -> None:
    from bayesreg.report.build import report

    started, screen = time.perf_counter(), console()
    done = {name: _rehearse(name, fit, split, settings.seed) for name, fit in fits.items()}
    say_data(screen, table, split)
    say_priors(screen, {name: fit.model for name, fit in fits.items()})
    say(screen, "", "The fits:")
    posteriors: dict[str, br.AbstractPosterior] = {}
    for name, fit in fits.items():
        posteriors[name] = done[name] or _fit(name, fit, split, settings.seed)
        _say_fit(screen, name, posteriors[name], table.target)
    with progress("Report"):
        made = report(
            posteriors,
            split.X_test,
            split.y_test,
            num_samples=settings.num_samples,
            seed=settings.seed,
            title=f"{table.target}, from {table.source}",
            notes=[*map(in_options, table.encoding), _setting(split, settings)],
            source=table.source,
            feature_names=table.feature_names,
            target_name=table.target,
            classes=table.classes,
        )
        made.save(settings.out, force=settings.force)
    _say_comparison(screen, made.comparison)
    _say_verdict(screen, made.data["verdict"])
    where = f"Report: {settings.out}, with its numbers in {settings.out.with_suffix('.json')}"
    say(screen, "", f"{where}; fits and report took {time.perf_counter() - started:.0f} s.", style="bold")


@contextlib.contextmanager
def _threads(fits: Mapping[str, Fit], split: Split) -> Iterator[None]:
    """One thread for small fits, unless the environment says how many, and as many as before afterwards.

    Two threads hand each other matrices so small that waiting for the other one costs more than the product: on a
    machine that is busy with something else, forty times more.
    """
    before = torch.get_num_threads()
    work = min(len(split.y_train), FULL_BATCH_ROWS) * max(fit.model.num_parameters for fit in fits.values())
    if work < _SMALL and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _setting(split: Split, settings: Settings) -> str:
    return f"{len(split.y_train):,} rows to fit, {len(split.y_test):,} held out at random; seed {settings.seed}."


def _check_memory(fits: Mapping[str, Fit], split: Split, num_samples: int) -> None:
    rows = len(split.y_test)
    width = max(fit.model.module[-1].out_features for fit in fits.values())  # pyright: ignore
    if 4 * num_samples * rows * width > MAX_MEMORY:
        most = MAX_MEMORY // (4 * rows * width)
        came = f"{num_samples:,} draws for {rows:,} rows"
        raise ValueError(f"the predictions must fit into memory, but {came} came; pass at most --num-samples {most}.")


def _rehearse(name: str, fit: Fit, split: Split, seed: int) -> br.AbstractPosterior | None:
    """Let a fit refuse what it will refuse before anybody waits: it is stopped at its first step.

    One that takes no steps (a closed form) is not stopped, and its answer is kept.
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


def say_data(screen: Console, table: Table, split: Split | None = None) -> None:
    """What the data are, and what was done to the columns.

    Args:
        screen: Where to print.
        table: The data.
        split: How they were divided, where they were.
    """
    parts = "" if split is None else f", {len(split.y_train):,} to fit and {len(split.y_test):,} held out"
    what = "regression" if table.classes is None else f"{len(table.classes)} classes"
    inputs = f"{table.X.shape[1]:,} input{'s' if table.X.shape[1] != 1 else ''}"
    say(screen, f"{table.source}: {len(table.y):,} rows{parts}; {inputs}; {what}, on {table.target!r}", style="bold")
    say(screen, *map(in_options, table.encoding), indent=2)


def say_priors(screen: Console, models: Mapping[str, br.BayesianModel]) -> None:
    """What is assumed about every tensor, each table once.

    Args:
        screen: Where to print.
        models: Name of a fit to its model.
    """
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
    sentence = in_options(posterior.certificate.sentence)
    noise = posterior.mean.get("noise_scale")
    if noise is not None:
        sentence += f" noise_scale = {float(noise):.3g}, in units of {target}."
    say(screen, f"{name}, {posterior.elapsed:.1f} s")
    say(screen, sentence, indent=2, style=None if posterior.certificate.converged else "yellow")


def _say_comparison(screen: Console, comparison: Comparison) -> None:
    """The comparison with one column a posterior: it has more metrics than a terminal has room for columns."""
    head, *rows = comparison.table()
    say(screen, "", "On the held-out rows:")
    step = max(1, (screen.width - 17) // 15)
    for start in range(0, len(rows), step):
        part = rows[start : start + step]
        lines = [[cells[0].strip(), *cells[1:]] for cells in zip(head, *part, strict=True)]
        columns(screen, lines[0], lines[1:], numbers=True)
    say(screen, "", *str(comparison).partition("\n\n")[2].splitlines())


def _say_verdict(screen: Console, cards: Sequence[Mapping[str, Any]]) -> None:
    from bayesreg.report.verdict import WORDS

    colours = {"good": "green", "bad": "yellow"}
    say(screen, "", "In short:")
    for card in cards:
        mark, _ = WORDS[card["state"]]
        columns(
            screen, ("", ""), [(f"{mark} {card['topic']}".ljust(22), card["headline"])], style=colours.get(card["state"], "")
        )
