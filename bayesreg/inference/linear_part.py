"""The linear part of a network alone, and whether it predicts rows that were left out as well as the network does.

    f(x) = A x + b        of        f(x) = A x + W₂ a(W₁ x + b₁) + b

It is a model of its own of the same rows, in the same units: the network with W₁, b₁ and W₂ held at zero.
"""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import Any

import numpy as np
import torch

from bayesreg.data.rows import Data
from bayesreg.layers import MLP
from bayesreg.model.model import BayesianModel
from bayesreg.model.rescaled import with_scales
from bayesreg.objective.evidence import scaled
from bayesreg.posteriors.base import AbstractPosterior
from bayesreg.priors import AbstractPrior, Fixed

SKIP = "skip.weight"
_STRENGTHS = np.logspace(-3, 3, 13)  # variances of the coefficients
_FOLDS, _DRAWS = 5, 300
_WITHOUT = "the linear part alone"
WHY = "by five-fold cross-validation of the linear part alone"


def line_of(model: BayesianModel) -> BayesianModel | None:
    """The model whose network is the linear part of this one's; None where that is no `MLP` with one.

    Args:
        model: Bound to its rows or not.

    Returns:
        A model over the line's weights, the last bias and the noise; it predicts from the same inputs.
    """
    network: Any = model.module
    if not isinstance(network, MLP) or network.line is None or SKIP not in scaled(model):
        return None
    if _skip(model).specified.gaussian(_skip(model).shape) is None:
        return None
    kept = {SKIP, f"{last_layer(model)}.bias"}
    rules: dict[Any, AbstractPrior] = {r.name: r.specified if r.name in kept else Fixed(0.0) for r in model.resolved}
    line = BayesianModel(network, rules, model.likelihood.plain, model.standardize)
    line = line.with_sources({r.name: r.source if r.name in kept else _WITHOUT for r in model.resolved}, {})
    if model.autoscale is not None:
        line = line.autoscaled(model.autoscale)
    return line.with_binding(vars(model), model.standardization).with_likelihood(model.likelihood)


def last_layer(model: BayesianModel) -> str:
    """Name of the last layer of an `MLP` with a linear part."""
    return [r.name.removesuffix(".weight") for r in model.resolved if r.name.endswith(".weight") and r.name != SKIP][-1]


def with_scale_by_folds(line: BayesianModel, data: Data, seed: int) -> tuple[BayesianModel, str]:
    """The linear part of a model of classes, its scale as cross-validation finds it, and a sentence."""
    prior = _skip(line)
    own = float(prior.specified.path_scale)
    scale = float(f"{own * cross_validated(line, data, seed) / float(prior.prior.scale):.3g}")
    return with_scales(line, {SKIP: scale}, WHY), f"scale of {SKIP} {WHY}: {own:.3g} → {scale:.3g}."


def _skip(model: BayesianModel) -> Any:
    return next(r for r in model.resolved if r.name == SKIP)


def cross_validated(line: BayesianModel, data: Data, seed: int) -> float:
    """The sd of the coefficients of a logistic regression at which rows left out have the highest log score."""
    from sklearn.linear_model import LogisticRegressionCV
    from sklearn.model_selection import StratifiedKFold

    x, y = data.full("cross-validation")
    y, weight, _ = line.likelihood.brought(y)
    folds = int(min(_FOLDS, torch.unique(y, return_counts=True)[1].min()))
    if folds < 2:
        return float(_skip(line).prior.scale)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cv = StratifiedKFold(folds, shuffle=True, random_state=seed % 2**32)  # rows of a file may be in order
        options: Any = {"Cs": _STRENGTHS, "cv": cv, "scoring": "neg_log_loss", "max_iter": 1000}
        found: Any = LogisticRegressionCV(**options)
        found.fit(x.cpu().double().numpy(), y.cpu().numpy(), None if weight is None else weight.cpu().numpy())
    return math.sqrt(float(np.ravel(found.C_)[0]))


def divided(model: BayesianModel, data: Data, fraction: float, seed: int) -> tuple[BayesianModel, Data, Data]:
    """The model of some of its rows, drawn by the seed, these rows, and the others; units stay those of all."""
    x, y = data.full("a comparison on rows left out")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)).to(x.device)
    count = max(1, round(fraction * len(x)))
    held, rest = (
        dataclasses.replace(data, num_data=len(part), x=x[part], y=y[part]) for part in (order[:count], order[count:])
    )
    return model.with_rows(rest.num_data), rest, held


def log_scores(posterior: AbstractPosterior, data: Data) -> torch.Tensor:
    """Log p(y | x) of prepared rows by the mixture of the draws, (N,) float64, in the units that the model works in."""
    x, y = data.full("a comparison on rows left out")
    model, layout = posterior.model, posterior.layout
    draws = posterior.draw(1 if posterior.is_mode else _DRAWS, torch.Generator().manual_seed(0))
    target = model.likelihood.brought(y)
    plain = y if target[2] is not None else target[0]  # offsets are part of the prediction, weights are not
    total = torch.full((len(x),), -math.inf, dtype=torch.float64, device=x.device)
    with torch.no_grad():
        for u in draws:
            values = layout.unflatten(u)
            row = model.likelihood.log_prob(model.forward(values, x), plain, **model.noise(values))
            total = torch.logaddexp(total, row.double())
    return total - math.log(len(draws))
