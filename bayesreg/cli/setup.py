"""Turns the options of `bayesreg` into objects, or into one sentence about what is wrong, before any long work."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import bayesreg as br
from bayesreg import _check, likelihoods
from bayesreg import priors as prior_classes
from bayesreg._memory import MAX_MEMORY
from bayesreg.data.datasets import Table, load_diabetes, read_table
from bayesreg.inference import MAP, AbstractMethod
from bayesreg.inference.base import resolve
from bayesreg.layers.mlp import ACTIVATIONS, MLP
from bayesreg.model.rules_file import MAX_RULES, RulesFile, too_many
from bayesreg.model.rules_file import read as read_rules
from bayesreg.model.spec import PriorSpec
from bayesreg.solvers.batches import FULL_BATCH_ROWS
from bayesreg.storage.files import probe

_ROOM = 4 * 10**6  # bytes; more than a page or its numbers need
_BYTES_A_WEIGHT = 16  # a weight, its gradient and Adam's two averages of it
MAX_LAYERS = 100  # in sequence; without skip connections no gradient passes more


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
        if len(self.hidden) > MAX_LAYERS:
            came = f"{len(self.hidden):,} came"
            raise ValueError(f"--hidden must be said at most {MAX_LAYERS} times, but {came}; take fewer and wider layers.")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"--dropout must be a rate, 0 <= RATE < 1, but {self.dropout:g} came; pass for example 0.05.")

    @property
    def widths(self) -> tuple[int, ...]:
        """The hidden layers' widths; none for a linear model."""
        return tuple(width for width in self.hidden if width)

    def check_memory(self, rows: int, inputs: int, outputs: int) -> None:
        """Refuse, before it is made, a network whose fit to N rows would not fit into memory.

        Raises:
            ValueError: If so.
        """
        sizes = (inputs, *self.widths, outputs)
        weights = sum((one + 1) * other for one, other in itertools.pairwise(sizes))
        units = min(rows, FULL_BATCH_ROWS) * sum(sizes)
        if _BYTES_A_WEIGHT * weights + 4 * units > MAX_MEMORY:
            layers = " → ".join(map(_check.said, sizes))
            came = f"{_check.said(weights)} weights came of the layers {layers}, for {rows:,} rows"
            raise ValueError(f"the network must fit into {MAX_MEMORY:.1e} bytes, but {came}; take a smaller --hidden.")

    def build(self, inputs: int, outputs: int, seed: int) -> nn.Sequential:
        """The module, with weights from the seed; torch's global random state is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return MLP(inputs, self.widths, outputs, self.activation, self.batchnorm, self.dropout)


DEMO = Network((20,))


@dataclass(frozen=True)
class Settings:
    """Settings of one run.

    Attributes:
        out: Path of the report.
        force: Replace an existing one.
        test_fraction: Share of the rows held out.
        seed: Of the split, the first weights, the fits and the draws.
        num_samples: Draws from each posterior for its predictions; None for as many as their comparison needs.
    """

    out: Path
    force: bool
    test_fraction: float = 0.2
    seed: int = 0
    num_samples: int | None = None


def check(settings: Settings) -> None:
    """Refuse settings that are wrong whatever the data are.

    Raises:
        ValueError: If the report cannot be written where it is to go, or a number is out of its range.
    """
    if not 0 <= settings.seed < 2**64:
        raise ValueError(
            f"--seed must be a whole number >= 0 and below 2**64, but {_check.said(settings.seed)} came; pass for example 0."
        )
    if settings.num_samples is not None and settings.num_samples < 1:
        raise ValueError(f"--num-samples must be a whole number >= 1, but {settings.num_samples} came; pass for example 1000.")
    out = settings.out
    if out.suffix != ".html":
        raise ValueError(f"--out must end in .html, but {str(out)!r} came; the numbers go next to it as .json.")
    try:
        str(out).encode()
    except UnicodeEncodeError:
        raise ValueError(f"--out must be a name in UTF-8, but {str(out)!r} came; choose another name.") from None
    for path in (out, out.with_suffix(".json")):
        probe(path, force=settings.force, room=_ROOM)
    _check_figures()


def _check_figures() -> None:
    """Load Matplotlib, which reads the user's own settings: a wrong one would otherwise show at the report, after all fits.

    Raises:
        ValueError: If it does not load.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ValueError as error:
        why = str(error).partition("; supported values")[0]
        raise ValueError(f"Matplotlib must load, but it says: {why}; unset MPLBACKEND, or mend matplotlibrc.") from None


def rules(texts: Sequence[str], file: Path | None = None) -> RulesFile:
    """Rules from `--prior` texts, PATTERN=PRIOR each, and a `--priors` file, a TOML file whose rules come first.

    Raises:
        ValueError: If a text is not of that form, names no prior, or repeats a pattern, or they are too many; or the file is
            refused.

    >>> rules(["*.weight=Laplace(scale=0.1)"]).priors
    PriorSpec({'*.weight': Laplace(scale=0.1)})
    """
    if len(texts) > MAX_RULES:
        raise ValueError(too_many(len(texts)))
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
    """Methods by name, in the order given, with the settings that they take.

    The settings are num_steps (of each chain, for a sampler), batch_size and learning_rate; None where nothing was given.

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
        options: dict[str, Any] = {key: value for key, value in given.items() if key in takes and key != "num_steps"}
        unused -= options.keys()
        if "num_steps" in given and (lengths := made.lengths(given["num_steps"])):
            options |= lengths
            unused.discard("num_steps")
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


def _check_units(table: Table) -> None:
    """Refuse data whose squares overflow or underflow: other units help.

    Raises:
        ValueError: If so.
    """
    for name, column in zip(table.feature_names, table.X.T, strict=True):
        if (largest := float(np.abs(column).max())) > 1:
            _check.in_range(f"the largest entry of {name!r}", largest, torch.float64, power=2)
    if table.classes is None:
        largest = float(np.abs(table.y).max())
        for what, size in (("largest entry", largest), ("sd", largest * float(np.std(table.y / largest)))):
            _check.in_range(f"the {what} of target {table.target!r}", size, torch.get_default_dtype(), power=2)


def model(table: Table, network: Network, rules: RulesFile, likelihood: str | None, seed: int) -> br.BayesianModel:
    """The model for a table, not fitted: the network's last layer and the likelihood follow the target.

    `likelihood` is its text, or None for what suits the target; the seed is that of the first weights.

    Raises:
        ValueError: If the likelihood does not suit the target, or a rule matches nothing.
    """
    classes = None if table.classes is None else len(table.classes)
    noise = likelihoods.suiting(classes) if likelihood is None else likelihoods.parse(likelihood)
    if not noise.suits(classes):
        what = "numbers (regression)" if classes is None else f"{classes} classes"
        came = f"--likelihood {type(noise).__name__} is for {noise.kind} and {table.target!r} holds {what}"
        raise ValueError(f"the likelihood must suit the target, but {came}; leave it out, or say --kind.")
    _check_units(table)
    outputs = noise.num_outputs(classes)
    network.check_memory(len(table.y), table.X.shape[1], outputs)
    module = network.build(table.X.shape[1], outputs, seed)
    return br.BayesianModel(module, rules.priors, noise, standardize=True, outputs=rules.outputs)
