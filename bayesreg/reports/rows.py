"""What the test rows say: how much of the variance is not known, and which rows were predicted worst."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from bayesreg.comparison import Comparison
from bayesreg.data.rows import as_tensor
from bayesreg.metrics import readings as _readings
from bayesreg.metrics.measures import plain
from bayesreg.predictive.mixture import Predictive

MAX_OUTPUTS, MAX_INPUTS = 6, 6


def num_outputs(predictive: Predictive) -> int:
    """K of a regression with several outputs, else 1: class probabilities are read together."""
    return predictive.num_outputs if predictive.likelihood.labels is None else 1


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


def row_names(X: Any, num_rows: int, given: Sequence[Any] | None = None) -> tuple[list[str | int], str]:
    """What the rows are called where they came from.

    Args:
        X: Test inputs; a data frame's index names its rows.
        num_rows: N.
        given: Names by a person, or by who has read them from a file.

    Returns:
        N names, 1 … N where there are none; and a sentence that says which these are.

    Raises:
        ValueError: If the names are no list, or not as many as the rows.

    >>> row_names([[0.5], [1.5]], 2)
    ([1, 2], 'Rows are numbered from 1, in the order in which they were given.')
    """
    import pandas as pd

    sentence = "Rows are called by the names that came with them."
    if given is None and isinstance(X, pd.DataFrame):
        given, sentence = list(X.index), "Rows are called as in the data frame's index."
    elif given is None:
        given, sentence = range(1, num_rows + 1), "Rows are numbered from 1, in the order in which they were given."
    if isinstance(given, (str, bytes)) or not isinstance(given, (Sequence, np.ndarray, pd.Index, pd.Series)):
        raise ValueError(f"row_names must be a sequence of one name a row, but {given!r} came; pass for example [3, 17, 20].")
    if len(given) != num_rows:
        raise ValueError(f"row_names must name each row, but {len(given):,} came for {num_rows:,} rows; name all of them.")
    whole = (int, np.integer)
    return [int(name) if isinstance(name, whole) and not isinstance(name, bool) else str(name) for name in given], sentence


def inputs_of(X: Any, rows: Sequence[int], names: Sequence[str] | None) -> list[list[list[Any]]]:
    """The inputs of some rows: all of them where there are few, else those farthest from the middle of all rows.

    Args:
        X: Test inputs (N, D); others, images say, have no inputs to be listed.
        rows: Which.
        names: Names of the D inputs.

    Returns:
        A row's pairs of name and value; empty where a row is no list of inputs.
    """
    values = as_tensor("X", X)
    values = values[:, None] if values.dim() == 1 else values
    if values.dim() != 2:
        return [[] for _ in rows]
    table = values.detach().cpu().double().numpy()
    middle, spread = np.median(table, 0), table.std(0)
    far = np.abs(table[list(rows)] - middle) / np.where(spread > 0, spread, 1)
    chosen = [np.sort(np.argsort(-each, kind="stable")[:MAX_INPUTS]) for each in far]
    named = [str(k) for k in range(1, table.shape[1] + 1)] if names is None else names
    return [[[named[k], plain(float(table[row, k]))] for k in each] for row, each in zip(rows, chosen, strict=True)]


def worst_rows(
    comparison: Comparison,
    y: Any,
    *,
    count: int = 5,
    classes: Sequence[str] | None = None,
    X: Any = None,
    names: Sequence[str | int] | None = None,
    features: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """The rows with the lowest log density under the best posterior, the worst first.

    Args:
        comparison: What `compare` found.
        y: The targets that it scored.
        count: How many.
        classes: Names of the classes.
        X: Test inputs, where they are to be shown.
        names: Of the rows; 1 … N where None.
        features: Names of the inputs.

    Returns:
        Plain values: "row", its name where it came from, "log_density" in nats, "inputs", and what was observed and
        predicted. With K outputs it is the output that is most sds away.
    """
    predictive = comparison.predictives[comparison.best]
    target = predictive.target(y)
    log_density = predictive.log_prob(target).cpu().double()
    chosen = log_density.argsort(stable=True)[:count]
    part = _readings.take(predictive, chosen)
    truth, mean = target[chosen.to(target.device)].cpu(), part.mean.cpu().double()
    rows = [int(row) for row in chosen]
    inputs = [[] for _ in rows] if X is None else inputs_of(X, rows, features)
    found: list[dict[str, Any]] = [
        {"row": row + 1 if names is None else names[row], "log_density": plain(float(log_density[row])), "inputs": shown}
        for row, shown in zip(rows, inputs, strict=True)
    ]
    if (labels := predictive.likelihood.labels) is not None:
        for record, p, observed in zip(found, labels.class_probabilities(mean).tolist(), truth, strict=True):
            seen, said = int(observed), int(np.argmax(p))
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
