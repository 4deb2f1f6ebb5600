"""The network and the priors for a table of which nothing is said: a linear part beside one hidden layer.

    f(x) = A x + W₂ tanh(W₁ x + b₁) + b₂

Where the rows say nothing of what is not linear the hidden part stays small, and the model is ridge or logistic regression.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from bayesreg import _check
from bayesreg._text import counted
from bayesreg.data.rows import all_rows
from bayesreg.layers import MLP
from bayesreg.likelihoods import AbstractLikelihood, choose
from bayesreg.model.model import BayesianModel
from bayesreg.model.spec import PriorSpec
from bayesreg.priors import AbstractPrior, InverseGamma, Normal

_LEAST, _MOST = 5, 50  # units
_PRODUCTS = 750  # units × (inputs + outputs)
# P(noise < q) = exp(−0.05/q) in units of the target's sd: 90 % between a sixtieth and one. Its density falls faster than any
# power at zero, so that a network that passes through every row has a mode with noise; HalfNormal is flat there.
NOISE = InverseGamma(1.0, 0.05)
# sd of a hidden unit's input, for numbers and for classes: by the log score on a fifth of the training rows of one split of
# energy, Auto, airfoil, diabetes, prestige and Carseats (3 beside 1: +.06, +.09, +.34, −.02, −.01, −.01 nats a row), and of
# breast cancer, wine and OJ (1 beside 3: +.004, +.005, +.003); see benchmarks/tables.py
_BENT, _BENT_CLASSES = 3.0, 1.0


def hidden_units(num_rows: int, inputs: int, outputs: int) -> int:
    """Units of the hidden layer: about √N, from 5 to 50, fewer where inputs or outputs are many.

    A unit that the rows do not need costs time and nothing else, since W₂'s prior shrinks with their number.

    >>> hidden_units(100, 8, 1), hidden_units(1500, 8, 1), hidden_units(10**5, 8, 1), hidden_units(1500, 64, 10)
    (10, 39, 50, 10)
    """
    most = max(_LEAST, _PRODUCTS // (inputs + outputs))
    return min(max(round(math.sqrt(num_rows)), _LEAST), _MOST, most)


def default_model(
    X: Any,
    y: Any,
    likelihood: AbstractLikelihood | None = None,
    *,
    hidden: Sequence[int] | None = None,
    priors: Mapping[Any, AbstractPrior] | PriorSpec | AbstractPrior | None = None,
    seed: int = 0,
) -> BayesianModel:
    """A model for a table: what a person would start from who knows nothing of it.

    Weights have Normal priors by their layer's inputs, so that the linear and the hidden part are of the target's size before
    any fit. A hidden unit's input has an sd of three, so that most units bend within the rows; of one for classes. Where the
    output is a logarithm it is about that of the target. A noise scale of which nothing is said has the prior
    `NOISE`, which keeps a mode from running to zero noise. All is for standardised inputs and, where the likelihood allows it,
    a standardised target.

    Args:
        X: Training inputs (N, D), numbers.
        y: Training targets (N,) or (N, K), or class numbers (N,).
        likelihood: What is assumed about the noise; what the targets' values ask for (`likelihoods.choose`) when None. Class
            numbers of more than two classes look like counts: say `Categorical()`.
        hidden: Widths of the hidden layers; () for a linear model; `hidden_units` when None.
        priors: As for `BayesianModel`; those above when None.
        seed: Of the first weights; torch's global random state is left as it was.

    Returns:
        The model, not fitted.

    Raises:
        ValueError: If X is no table, or the likelihood does not suit the target.

    >>> model = default_model(np.zeros((100, 3)), np.arange(100.0))
    >>> [(row.tensor, row.prior) for row in model.prior_table().rows][-2:]
    [('skip.weight', 'Normal(scale=1.0, fan_in=True)'), ('noise_scale', 'InverseGamma(concentration=1.0, rate=0.05)')]
    """
    x, target = all_rows(X, y)
    if np.ndim(x) != 2:
        raise ValueError(f"a default model needs a table (N, D), but {tuple(np.shape(x))} came; pass module= for other inputs.")
    shape, classes = np.shape(x), None
    given = choose(np.asarray(target)).likelihood if likelihood is None else likelihood
    spread = _spread(given, np.asarray(target, dtype=float)) if given.log_link else 1.0
    noise = _with_noise(given, spread)
    if noise.labels is not None:
        classes = max(2, int(target.max()) + 1)
    targets = np.shape(target)[1] if np.ndim(target) == 2 else 1
    outputs = noise.num_outputs(classes) * targets
    widths = (hidden_units(shape[0], shape[1], outputs),) if hidden is None else tuple(hidden)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_check.seed(seed))
        network = MLP(shape[1], widths, outputs, "tanh", skip=bool(widths))
    last: Any = network[2 * len(widths)]
    with torch.no_grad():
        for weight in [last.weight, *([] if network.line is None else [network.line.weight])]:
            weight *= spread
    return BayesianModel(network, _priors(widths, spread, noise) if priors is None else priors, noise, standardize=True)


def _spread(likelihood: AbstractLikelihood, y: np.ndarray) -> float:
    """The sd of the output where it is a logarithm; it is about the targets' own level, see `likelihoods.by_row`."""
    return 1.0 if likelihood.discrete else float(f"{max(float(np.log(y).std()), 1e-3):.3g}")


def _priors(widths: Sequence[int], spread: float, likelihood: AbstractLikelihood) -> dict[Any, AbstractPrior]:
    """Scales for outputs of this sd."""
    bent = _BENT if likelihood.labels is None else _BENT_CLASSES
    last = f"{2 * len(widths)}"
    found: dict[Any, AbstractPrior] = {"*.weight": Normal(1.0, fan_in=True), "*.bias": Normal(1.0)}
    if widths:
        found |= {"0.weight": Normal(bent, fan_in=True), "skip.weight": Normal(spread, fan_in=True)}
    return found | {f"{last}.weight": Normal(spread, fan_in=True), f"{last}.bias": Normal(spread)}


def network_note(model: BayesianModel, num_rows: int) -> str:
    """The network of a default model in words.

    >>> network_note(default_model(np.zeros((100, 3)), np.arange(100.0)), 100)
    'network: a linear part and one hidden layer of 10 tanh units, about √N for 100 rows of 3 inputs; 54 weights.'
    """
    network: Any = model.module
    weights = sum(parameter.numel() for parameter in network.parameters())
    if network.line is None:
        return f"network: linear, {counted(network[0].in_features, 'input')}; {counted(weights, 'weight')}."
    units, inputs = network[0].out_features, counted(network[0].in_features, "input")
    rows = f"about √N for {counted(num_rows, 'row')} of {inputs}"
    return f"network: a linear part and one hidden layer of {units} tanh units, {rows}; {counted(weights, 'weight')}."


def _with_noise(likelihood: AbstractLikelihood, spread: float) -> AbstractLikelihood:
    """The likelihood, its noise scale under `NOISE`, in units of the output's sd, where nothing was said of it."""
    if "noise_scale" not in likelihood.latents or repr(likelihood) != repr(type(likelihood)()):
        return likelihood
    made: Any = type(likelihood)
    return made(noise_scale=InverseGamma(NOISE.concentration, round(NOISE.rate * spread, 6)))
