"""What the test rows say: how much of the variance is not known, and which rows were predicted worst."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from bayesreg import _readings
from bayesreg.compare import Comparison
from bayesreg.metrics import plain
from bayesreg.predictive import Predictive

MAX_OUTPUTS = 6


def num_outputs(predictive: Predictive) -> int:
    """K of a regression with several outputs, else 1: class probabilities are read together."""
    return predictive.num_outputs if predictive.kind == "regression" else 1


def epistemic_shares(predictive: Predictive) -> tuple[float, float]:
    """Share of the predictive variance that is epistemic: of all rows, and of the tenth with the largest variance.

        Σᵢ epistemicᵢ / Σᵢ (aleatoricᵢ + epistemicᵢ)

    With K outputs of a regression it is the mean of their shares, and a row's variance is measured in each output's mean.

    Args:
        predictive: The prediction for N rows.

    Returns:
        Both shares; zero for a mode.
    """
    parts = [_readings.variance_rows(predictive, k) for k in range(num_outputs(predictive))]
    total = sum((a + e) / max((a + e).mean(), 1e-300) for a, e in parts)
    top = np.argsort(-np.asarray(total), kind="stable")[: math.ceil(0.1 * predictive.num_rows)]

    def share(rows: Any) -> float:
        return float(np.mean([e[rows].sum() / max((a + e)[rows].sum(), 1e-300) for a, e in parts]))

    return share(slice(None)), share(top)


def uncertainty_facts(comparison: Comparison) -> list[dict[str, Any]]:
    """The two parts of the variance, one record for each posterior and output.

    Args:
        comparison: What `compare` found.

    Returns:
        Plain values; sds are roots of mean variances, in target units for a regression.
    """
    found = []
    for name, predictive in comparison.predictives.items():
        for k in range(min(num_outputs(predictive), MAX_OUTPUTS)):
            aleatoric, epistemic = _readings.variance_rows(predictive, k)
            total = aleatoric + epistemic
            order = np.argsort(-total, kind="stable")[: math.ceil(0.1 * len(total))]
            known = max(total.sum(), 1e-300)
            found.append(
                {
                    "posterior": name,
                    "output": k if num_outputs(predictive) > 1 else None,
                    "mode": predictive.num_samples == 1,
                    "sd": plain(math.sqrt(total.mean())),
                    "aleatoric_sd": plain(math.sqrt(aleatoric.mean())),
                    "epistemic_sd": plain(math.sqrt(epistemic.mean())),
                    "epistemic_share": plain(epistemic.sum() / known),
                    "epistemic_share_top": plain(epistemic[order].sum() / max(total[order].sum(), 1e-300)),
                    "largest_share": plain((epistemic / np.maximum(total, 1e-300)).max()),
                }
            )
    return found


def worst_rows(comparison: Comparison, y: Any, *, count: int = 5, classes: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """The rows with the lowest log density under the best posterior, the worst first.

    Args:
        comparison: What `compare` found.
        y: The targets that it scored.
        count: How many.
        classes: Names of the classes.

    Returns:
        Plain values: "row" from 0, "log_density" in nats, and what was observed and predicted. With K outputs it is the
        output that is most sds away.
    """
    predictive = comparison.predictives[comparison.best]
    target = predictive.target(y)
    log_density = predictive.log_prob(target).cpu().double()
    chosen = log_density.argsort(stable=True)[:count]
    part = _readings.take(predictive, chosen)
    truth, mean = target[chosen.to(target.device)].cpu(), part.mean.cpu().double()
    found = [{"row": int(row), "log_density": plain(float(log_density[row]))} for row in chosen]
    if predictive.kind != "regression":
        for i, record in enumerate(found):
            p = [1 - float(mean[i]), float(mean[i])] if mean.dim() == 1 else mean[i].tolist()
            seen, said = int(truth[i]), int(np.argmax(p))
            record |= {"observed": _label(seen, classes), "predicted": _label(said, classes)}
            record |= {"p_observed": plain(p[seen]), "p_predicted": plain(p[said])}
        return found
    lower, upper = (end.cpu().double() for end in part.interval(0.95))
    distance = (truth.double() - mean) / part.std.cpu().double()
    for i, record in enumerate(found):
        k = None if distance.dim() == 1 else int(distance[i].abs().argmax())
        at = (i,) if k is None else (i, k)
        ends = {"lower": lower[at], "upper": upper[at], "observed": truth[at], "predicted": mean[at], "distance": distance[at]}
        record |= {"output": k, **{key: plain(float(value)) for key, value in ends.items()}}
    return found


def _label(number: int, classes: Sequence[str] | None) -> str:
    return str(number) if classes is None else str(classes[number])
