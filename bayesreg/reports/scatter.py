"""Whether test rows scatter as their likelihood says: alike at small and at large predictions, and counts by their mean."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from bayesreg._text import number
from bayesreg.comparison import Comparison
from bayesreg.reports.base import Card, Line, num_outputs

_FEW = 40  # rows, below which a spread says little
_RATIO = 1.5  # of the spreads at the smallest and at the largest third of the predictions
_SURE = 1e-3  # p-value of a rank correlation
_SPREAD = 1.3  # mean squared error of counts over their variance


def scatter_card(comparison: Comparison, y: Any) -> Card | None:
    """What another likelihood would do better for the best posterior; None where nothing says so.

    The errors' sizes, in predictive sds, are ranked against the predictions; of counts whose variance is their mean, the mean
    squared error is held beside the variance.
    """
    predictive = comparison.predictives[comparison.best]
    likelihood = predictive.likelihood
    if likelihood.labels is not None or num_outputs(predictive) > 1 or predictive.num_rows < _FEW:
        return None
    target, mean, sd = (v.double().cpu().numpy() for v in (predictive.target(y), predictive.mean, predictive.std))
    if likelihood.kind == "counts":
        return None if likelihood.latents or likelihood.fixed else _of_counts(comparison.best, target, mean, sd)
    if not likelihood.location_scale or likelihood.heteroscedastic or np.ptp(mean) == 0:
        return None
    from scipy.stats import spearmanr

    found: Any = spearmanr(np.abs(target - mean) / sd, mean)
    low, high = np.quantile(mean, [1 / 3, 2 / 3])
    spreads = [math.sqrt(float(np.square(target - mean)[part].mean())) for part in (mean <= low, mean >= high)]
    ratio = max(spreads) / max(min(spreads), 1e-300)
    if not (found.pvalue < _SURE and ratio > _RATIO):
        return None
    grows = spreads[1] > spreads[0]
    line = (
        f"{comparison.best}: RMSE {number(spreads[0], 3)} on the third of the rows with the smallest predictions, "
        f"{number(spreads[1], 3)} on that with the largest; its likelihood has one noise scale for all."
    )
    advice = "Gaussian('heteroscedastic') lets the network predict the noise of each row"
    positive = "; for positive targets LogNormal() and Gamma() have errors in per cent" if grows and target.min() > 0 else ""
    head = f"Errors {'grow' if grows else 'shrink'} with the prediction."
    return Card("Scatter", "neutral", head, (Line("neutral", line), Line("neutral", f"{advice}{positive}.")), "uncertainty", 5)


def _of_counts(name: str, target: np.ndarray, mean: np.ndarray, sd: np.ndarray) -> Card | None:
    spread = float((np.square(target - mean) / np.square(sd)).mean())
    if spread < max(_SPREAD, 1 + 4 * math.sqrt(2 / len(target))):
        return None
    line = f"{name}: the mean squared error is {number(spread, 3)} times the predictive variance."
    advice = "NegativeBinomial() learns the scatter beyond the mean."
    head = "Counts scatter more than a Poisson's."
    return Card("Scatter", "bad", head, (Line("bad", line), Line("neutral", advice)), "uncertainty", 5)
