"""Several posteriors on the same held-out rows, side by side.

    Δ = Σᵢ [log p(yᵢ | xᵢ, this one) − log p(yᵢ | xᵢ, the best)],   se(Δ) = √N · sd over rows of the same difference

The difference is paired by row: what makes a row hard is hard for both, and cancels.
"""

from __future__ import annotations

import html
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, final

import torch

from bayesreg.data import all_rows
from bayesreg.metrics import Scores, evaluate, plain
from bayesreg.posterior import AbstractPosterior
from bayesreg.predictive import Predictive

if TYPE_CHECKING:
    import pandas as pd

Goal = Literal["higher", "lower", "level", "none"]
_ARROWS = {"higher": " ↑", "lower": " ↓", "level": "", "none": ""}


@final
@dataclass(frozen=True)
class Metric:
    """How a metric is shown.

    Attributes:
        label: Its name in the head of a table.
        goal: "higher" or "lower" is better; "level": near its level is right; "none": no direction by itself.
        headline: Whether the printed table has it; `to_frame` and `to_dict` have all.
    """

    label: str
    goal: Goal
    headline: bool = True

    @property
    def head(self) -> str:
        """The label with an arrow towards the better."""
        return self.label + _ARROWS[self.goal]


METRICS: dict[str, Metric] = {
    "mlpd": Metric("log density", "higher"),
    "rmse": Metric("RMSE", "lower"),
    "mae": Metric("MAE", "lower", headline=False),
    "crps": Metric("CRPS", "lower"),
    "interval_score": Metric("interval score 95%", "lower", headline=False),
    "mean_width": Metric("width 95%", "none"),
    "calibration_error": Metric("calibration error", "lower", headline=False),
    "coverage_50": Metric("coverage 50%", "level", headline=False),
    "coverage_80": Metric("coverage 80%", "level", headline=False),
    "coverage_90": Metric("coverage 90%", "level", headline=False),
    "coverage_95": Metric("coverage 95%", "level"),
    "accuracy": Metric("accuracy", "higher"),
    "brier": Metric("Brier", "lower"),
    "ece": Metric("ECE", "lower"),
}


@final
@dataclass(frozen=True)
class Difference:
    """Log predictive density of one posterior minus the best's, paired by row, in nats.

    Attributes:
        sum: Over all rows; zero for the best itself, negative for the others.
        sum_se: Standard error of the sum, √N · sd of the row differences; NaN for a single row.
        mean: A row, sum / N.
        mean_se: Standard error of the mean, sum_se / N.
    """

    sum: float
    sum_se: float
    mean: float
    mean_se: float


def paired_difference(log_prob: torch.Tensor, best: torch.Tensor) -> Difference:
    """Sum and mean over rows of log_prob − best, each with its standard error.

    Args:
        log_prob: Log density of each row, (N,), in nats.
        best: The same rows under the one to compare with, (N,).

    Returns:
        The difference.

    References:
        Vehtari, Gelman and Gabry (2017), Practical Bayesian model evaluation using leave-one-out cross-validation and
        WAIC, section 5.

    >>> paired_difference(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 5.0]))
    Difference(sum=-4.0, sum_se=2.0, mean=-2.0, mean_se=1.0)
    """
    rows = log_prob.double() - best.double()
    n = rows.numel()
    se = float(rows.std()) / math.sqrt(n) if n > 1 else math.nan
    return Difference(float(rows.sum()), se * n, float(rows.mean()), se)


@final
@dataclass(frozen=True, repr=False)
class Comparison:
    """What `compare` found; `print` shows it as a table. All dicts have one entry a posterior, in the order given.

    Attributes:
        scores: All metrics.
        predictives: The predictions that were scored.
        differences: Log predictive density minus the best's, paired by row.
        methods: Name of the method.
        num_parameters: P.
        seconds: What the fit took.
        best: Name of the one with the highest log predictive density.
    """

    scores: dict[str, Scores]
    predictives: dict[str, Predictive]
    differences: dict[str, Difference]
    methods: dict[str, str]
    num_parameters: dict[str, int]
    seconds: dict[str, float]
    best: str

    @property
    def kind(self) -> str:
        """What is predicted: "regression", "binary" or "multiclass"."""
        return self.scores[self.best].kind

    @property
    def num_data(self) -> int:
        """N, the number of rows that were scored."""
        return self.scores[self.best].num_data

    def to_dict(self) -> dict[str, Any]:
        """The same as plain types, ready for JSON, without the predictives; a number that is not finite becomes None.

        Returns:
            Keys "kind", "num_data", "best" and "posteriors", the last one by name.
        """
        posteriors = {
            name: {
                "method": self.methods[name],
                "num_parameters": self.num_parameters[name],
                "seconds": plain(self.seconds[name]),
                "log_density_difference": {k: plain(v) for k, v in asdict(self.differences[name]).items()},
                "scores": scores.to_dict(),
            }
            for name, scores in self.scores.items()
        }
        return {"kind": self.kind, "num_data": self.num_data, "best": self.best, "posteriors": posteriors}

    def to_frame(self) -> pd.DataFrame:
        """A data frame with one row a posterior and every metric in a column.

        Returns:
            Index "posterior"; columns "method", "num_parameters", "seconds", "log_density_difference",
            "log_density_difference_se" (sums over rows, in nats), then the metrics by name.
        """
        import pandas as pd

        rows = [
            {
                "method": self.methods[name],
                "num_parameters": self.num_parameters[name],
                "seconds": self.seconds[name],
                "log_density_difference": self.differences[name].sum,
                "log_density_difference_se": self.differences[name].sum_se,
                **scores,
            }
            for name, scores in self.scores.items()
        ]
        return pd.DataFrame(rows, index=pd.Index(self.scores, name="posterior"))

    def __str__(self) -> str:
        head, *rows = self.table()
        widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
        lines = []
        for row in (head, ["─" * width for width in widths], *rows):
            cells = [cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))]
            lines.append("  ".join(cells).rstrip())
        return "\n".join([*lines, "", *self._legend()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head, *rows = ([html.escape(cell.strip()) for cell in row] for row in self.table())
        lines = ["<table>", "<thead><tr>" + "".join(f'<th scope="col">{cell}</th>' for cell in head) + "</tr></thead>"]
        lines.append("<tbody>")
        for name, *cells in rows:
            body = "".join(f"<td>{f'<b>{cell}</b>' if cell.endswith('*') else cell}</td>" for cell in cells)
            lines.append(f'<tr><th scope="row">{name}</th>{body}</tr>')
        lines.append("</tbody></table>")
        return "\n".join([*lines, *(f"<p>{html.escape(line)}</p>" for line in self._legend())])

    def table(self) -> list[list[str]]:
        """Head and rows; the names and methods are left-aligned, a mark or a blank ends each metric's cell."""
        names = list(self.scores)
        columns = [
            ["", *names],
            ["method", *self.methods.values()],
            ["parameters ", *(f"{number:,} " for number in self.num_parameters.values())],
            ["seconds ", *(f"{number:.3g} " if number < 1000 else f"{number:,.0f} " for number in self.seconds.values())],
        ]
        for metric in self.scores[self.best]:
            if METRICS[metric].headline:
                columns.append([METRICS[metric].head + " ", *self._column(metric)])
            if metric == "mlpd":
                columns.append(["Δ ± se ", *self._deltas()])
        return [list(row) for row in zip(*columns, strict=True)]

    def _column(self, metric: str) -> list[str]:
        values, goal = [scores[metric] for scores in self.scores.values()], METRICS[metric].goal
        if goal == "level":
            level = float(metric.rpartition("_")[2]) / 100
            found = [c for scores in self.scores.values() for c in scores.coverages if c.level == level]
            marks = [" " if c.consistent else "!" for c in found]
        else:
            top = {"higher": max, "lower": min}.get(goal, lambda _: None)(values)
            marks = ["*" if value == top else " " for value in values]
        return [text + mark for text, mark in zip(_numbers(values), marks, strict=True)]

    def _deltas(self) -> list[str]:
        return [
            "0 " if name == self.best else _with_error(difference.sum, difference.sum_se) + " "
            for name, difference in self.differences.items()
        ]

    def _legend(self) -> list[str]:
        lines = [f"{self.num_data:,} rows. ↑ higher is better, ↓ lower is better, * the best."]
        lines.append("log density: mean log predictive density, in nats a row.")
        lines.append("Δ: log density summed over the rows minus that of the best, ± its standard error, paired by row.")
        if any(not coverage.consistent for scores in self.scores.values() for coverage in scores.coverages[-1:]):
            lines.append("!: the 95% interval of the observed coverage leaves the level out.")
        return lines


def compare(
    posteriors: Mapping[str, AbstractPosterior], X: Any, y: Any = None, *, num_samples: int = 1000, seed: int = 0
) -> Comparison:
    """Score several posteriors on the same held-out rows.

    Which is best is decided by the log predictive density, the only score here that sees the whole distribution and
    that every kind has. A difference of less than about two standard errors may be chance.

    Args:
        posteriors: Name to posterior, of one or of several models, all of one likelihood kind.
        X: Inputs (N, ...) in the data's own units, not used in the fits; or a `Dataset` or `DataLoader` of pairs.
        y: Targets there: (N,) or (N, K), or class labels (N,); None for a data set or loader, which brings its own.
        num_samples: Draws from each posterior; a mode needs and takes one.
        seed: Seed of the draws; the global random state is left as it was.

    Returns:
        The comparison; `print` it, or take `.scores`, `.to_frame()` and `.to_dict()`.

    Raises:
        ValueError: If the mapping is empty or none, a value is no posterior, the kinds differ, or the data do not fit.
    """
    _check_posteriors(posteriors)
    X, y = all_rows(X, y)
    predictives = {n: p.predict(X, num_samples=num_samples, seed=seed) for n, p in posteriors.items()}
    targets = {name: posterior.model.targets(y) for name, posterior in posteriors.items()}
    scores = {name: evaluate(predictive, targets[name], seed=seed) for name, predictive in predictives.items()}
    rows = {name: predictive.log_prob(targets[name]) for name, predictive in predictives.items()}
    best = max(scores, key=lambda name: scores[name]["mlpd"])
    return Comparison(
        scores=scores,
        predictives=predictives,
        differences={name: paired_difference(log_prob, rows[best]) for name, log_prob in rows.items()},
        methods={name: posterior.method for name, posterior in posteriors.items()},
        num_parameters={name: posterior.model.num_parameters for name, posterior in posteriors.items()},
        seconds={name: posterior.elapsed for name, posterior in posteriors.items()},
        best=best,
    )


def _check_posteriors(posteriors: Any) -> None:
    advice = 'pass names with posteriors, for example {"MAP": fit(model, X, y, method="map", seed=0)}.'
    if not isinstance(posteriors, Mapping) or not posteriors:
        came = "an empty one" if isinstance(posteriors, Mapping) else type(posteriors).__name__
        raise ValueError(f"posteriors must be a mapping with one entry or more, but {came} came; {advice}")
    for name, value in posteriors.items():
        if not isinstance(value, AbstractPosterior):
            raise ValueError(f"posteriors[{name!r}] must be a posterior, but {type(value).__name__} came; {advice}")
    kinds = {name: posterior.model.likelihood.kind for name, posterior in posteriors.items()}
    if len(set(kinds.values())) > 1:
        came = ", ".join(f"{name!r} is {kind}" for name, kind in kinds.items())
        raise ValueError(f"posteriors must be of one likelihood kind, but {came}; compare those of one kind at a time.")


def _numbers(values: list[float]) -> list[str]:
    """One column of numbers, with as many decimals as give the smallest three digits and the largest at most six.

    >>> _numbers([-0.7098, -20.78]), _numbers([0.5, 12345.0]), _numbers([2e-7, 0.0])
    (['-0.710', '-20.780'], ['0.5', '12345.0'], ['2.00e-07', '0.00e+00'])
    """
    sizes = [abs(value) for value in values if math.isfinite(value) and value != 0] or [1.0]
    low, high = math.floor(math.log10(min(sizes))), math.floor(math.log10(max(sizes)))
    if high >= 6 or high < -3:
        return [f"{value:.2e}" for value in values]
    decimals = max(min(2 - low, 5 - max(high, 0), 4), 0)
    return [f"{value:.{decimals}f}" for value in values]


def _with_error(value: float, error: float) -> str:
    """A number to two digits of its standard error.

    >>> _with_error(-1204.42, 195.2), _with_error(-0.0993, 0.239), _with_error(-3.0, float("nan"))
    ('-1204 ± 195', '-0.10 ± 0.24', '-3.00 ± nan')
    """
    known = math.isfinite(error) and error > 0
    decimals = min(max(1 - math.floor(math.log10(error)), 0), 6) if known else 2
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"
