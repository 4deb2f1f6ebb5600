"""Turns the options of `bayesreg` into objects, or into one sentence about what is wrong, before any long work."""

from __future__ import annotations

import dataclasses
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
from bayesreg import _check
from bayesreg import priors as prior_classes
from bayesreg._memory import MAX_MEMORY
from bayesreg.cli.tables import Case
from bayesreg.inference import MAP, AbstractMethod
from bayesreg.inference.base import resolve
from bayesreg.layers.mlp import ACTIVATIONS, MLP
from bayesreg.model import default_model, network_note
from bayesreg.model.rules_file import MAX_RULES, RulesFile, too_many
from bayesreg.model.rules_file import read as read_rules
from bayesreg.model.spec import PriorSpec
from bayesreg.solvers.batches import FULL_BATCH_ROWS
from bayesreg.storage.files import probe

DTYPE = torch.float64  # as the estimators: a row's prediction does not depend on the rows beside it
_ROOM = 4 * 10**6  # bytes; more than a page or its numbers need
_BYTES_A_WEIGHT = 32  # a weight, its gradient and Adam's two averages of it
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
        if _BYTES_A_WEIGHT * weights + 8 * units > MAX_MEMORY:
            layers = " → ".join(map(_check.said, sizes))
            came = f"{_check.said(weights)} weights came of the layers {layers}, for {rows:,} rows"
            raise ValueError(f"the network must fit into {MAX_MEMORY:.1e} bytes, but {came}; take a smaller --hidden.")

    def build(self, inputs: int, outputs: int, seed: int) -> nn.Sequential:
        """The module, with weights from the seed; torch's global random state is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return MLP(inputs, self.widths, outputs, self.activation, self.batchnorm, self.dropout).to(dtype=DTYPE)


DEMO = Network((20,))


@dataclass(frozen=True)
class Settings:
    """Settings of one run.

    Attributes:
        out: Path of the report.
        force: Replace an existing one.
        seed: Of the split, the first weights, the fits and the draws.
        num_samples: Draws from each posterior for its predictions; None for as many as their comparison needs.
        save: Path for the fitted model; None for none.
        baselines: Whether a constant, a line, boosted trees and a forest stand beside.
    """

    out: Path
    force: bool
    seed: int = 0
    num_samples: int | None = None
    save: Path | None = None
    baselines: bool = False


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
    for path in (out, out.with_suffix(".json"), *([] if settings.save is None else [settings.save])):
        probe(path, force=settings.force, room=_ROOM)
    if settings.save is not None and settings.save in (out, out.with_suffix(".json")):
        raise ValueError(f"--save must be another file than the report, but {str(settings.save)!r} came; choose another name.")
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


def _check_units(case: Case) -> None:
    """Refuse data whose squares overflow or underflow: other units help.

    Raises:
        ValueError: If so.
    """
    X, y = case.split.X_train, case.split.y_train
    for name, column in zip(case.feature_names, X.T, strict=True):
        if (largest := float(np.abs(column).max())) > 1:
            _check.in_range(f"the largest entry of {name!r}", largest, torch.float64, power=2)
    if case.classes is None:
        largest = float(np.abs(y).max())
        for what, size in (("largest entry", largest), ("sd", largest * float(np.std(y / largest)) if largest else 1.0)):
            _check.in_range(f"the {what} of target {case.target.name!r}", size, DTYPE, power=2)


def model(case: Case, network: Network | None, rules: RulesFile, seed: int) -> br.BayesianModel:
    """The model for a case, not fitted: the network's last layer follows the target; the seed is that of the first weights.

    Without a network the table decides: a linear part beside one hidden layer, see `default_model`.

    Raises:
        ValueError: If the likelihood does not suit the target, or a rule matches nothing.
    """
    classes, noise = None if case.classes is None else len(case.classes), case.likelihood
    if not noise.suits(classes):
        what = "numbers (regression)" if classes is None else f"{classes} classes"
        came = f"--likelihood {type(noise).__name__} is for {noise.kind} and {case.target.name!r} holds {what}"
        raise ValueError(f"the likelihood must suit the target, but {came}; leave it out, or say --kind.")
    _check_units(case)
    rows, inputs = case.split.X_train.shape
    outputs = noise.num_outputs(classes)
    if network is None:
        X, y = case.split.X_train, case.split.y_train
        found = default_model(X, y, noise, seed=seed).to(dtype=DTYPE)
        if not (rules.priors.to_dict() or rules.outputs):
            return found
        return br.BayesianModel(found.module, rules.priors, found.likelihood, standardize=True, outputs=rules.outputs)
    network.check_memory(rows, inputs, outputs)
    module = network.build(inputs, outputs, seed)
    return br.BayesianModel(module, rules.priors, noise, standardize=True, outputs=rules.outputs)


def with_note(case: Case, model: br.BayesianModel) -> Case:
    """The case with a sentence on the network that the table decided."""
    return dataclasses.replace(case, said=(*case.said, network_note(model, len(case.split.y_train))))


def by_default(
    methods: Mapping[str, AbstractMethod], case: Case, model: br.BayesianModel
) -> tuple[dict[str, AbstractMethod], Case]:
    """The methods that nobody chose, for the network that the table decided, and the case, which says what is left out.

    The joint mode of weights and noise divides squared residuals by N, not by N − γ; with half as many weights as rows it
    begins to pass through them. No prior of the noise mends that, and a posterior has no such trouble.
    """
    rows, weights = len(case.split.y_train), model.num_parameters
    learned = any(latent.is_noise for latent in model.latents.values()) and not model.likelihood.discrete
    if not learned or 2 * weights <= rows or len(methods) == 1:
        return dict(methods), case
    said = (
        f"the mode is left out: {weights:,} weights for {rows:,} rows could pass through most of them, and its noise run to "
        "zero; --method map --method auto shows it."
    )
    kept = {name: method for name, method in methods.items() if name != "map"}
    return kept, dataclasses.replace(case, said=(*case.said, said))
