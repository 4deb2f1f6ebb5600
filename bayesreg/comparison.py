"""Several posteriors on the same held-out rows, compared row by row.

    Δ = Σᵢ [log p(yᵢ | xᵢ, this one) − log p(yᵢ | xᵢ, the best)],   se(Δ) = √N · sd over rows of the same difference

The difference is paired by row: what makes a row hard is hard for both, and cancels.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, final

import torch

from bayesreg._text import aligned, column, html_table, listing, number, percent, plus_minus
from bayesreg.baselines import Beside, beside, fit_baselines, verdict
from bayesreg.data.rows import all_rows
from bayesreg.likelihoods import AbstractLabels
from bayesreg.metrics.difference import Difference, paired_difference
from bayesreg.metrics.measures import Scores, evaluate, plain
from bayesreg.metrics.monte_carlo import FEW, LogDensityError, log_density_error
from bayesreg.posteriors.base import AbstractPosterior
from bayesreg.predictive.mixture import Predictive

if TYPE_CHECKING:
    import pandas as pd

Goal = Literal["higher", "lower", "level", "none"]
SHARE = 0.1  # share of a difference's standard error below which its Monte Carlo error does not matter
_LEAST = 0.01  # nats over all rows; smaller errors do not matter
_MOST, _ROUNDS = 50_000, 3
_ENTRIES = 2**23  # draws × rows × outputs
_ARROWS = {"higher": " ↑", "lower": " ↓", "level": "", "none": ""}


@final
@dataclass(frozen=True)
class Metric:
    """How a metric is shown.

    Attributes:
        label: Its name in the head of a table.
        goal: "higher" or "lower" is better; "level": near its level is right; "none": no direction by itself.
        headline: Whether the printed table has it; `to_frame` and `to_dict` have all.
        digits: Significant digits in a table.
    """

    label: str
    goal: Goal
    headline: bool = True
    digits: int = 3

    @property
    def head(self) -> str:
        """The label with an arrow towards the better."""
        return self.label + _ARROWS[self.goal]


METRICS: dict[str, Metric] = {
    "mlpd": Metric("log density", "higher", digits=4),
    "rmse": Metric("RMSE", "lower"),
    "r2": Metric("R²", "higher", digits=2),
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
    "auc": Metric("AUC", "higher"),
}


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
        seconds: Duration of the fit.
        best: Name of the posterior with the highest log predictive density; a baseline may have a higher one, see `highest`.
        errors: Monte Carlo error of the log density, of all rows together.
        log_evidences: Log evidence of the training targets in nats and their own units, of the posteriors that have one.
        num_trained: Rows that it was trained on.
        num_tuned: Scales that the evidence tuned.
        baselines: What is simpler, on the same rows; empty where none was asked for.
        weighted: Whether the training rows of a posterior count by sample_weight.
        fitted: Whether the rows are the measurements of an inverse problem, which were fitted.
    """

    scores: dict[str, Scores]
    predictives: dict[str, Predictive]
    differences: dict[str, Difference]
    methods: dict[str, str]
    num_parameters: dict[str, int]
    seconds: dict[str, float]
    best: str
    errors: dict[str, LogDensityError] = field(default_factory=dict)
    log_evidences: dict[str, float] = field(default_factory=dict)
    num_trained: dict[str, int] = field(default_factory=dict)
    num_tuned: dict[str, int] = field(default_factory=dict)
    baselines: dict[str, Beside] = field(default_factory=dict)
    weighted: bool = False
    fitted: bool = False

    @property
    def kind(self) -> str:
        """What is predicted: "regression", "counts", "binary" or "multiclass"."""
        return self.scores[self.best].kind

    @property
    def labels(self) -> AbstractLabels | None:
        """The likelihood's questions about classes; None where targets are numbers."""
        return self.predictives[self.best].likelihood.labels

    @property
    def num_data(self) -> int:
        """N, the number of rows that were scored."""
        return self.scores[self.best].num_data

    @property
    def highest(self) -> str:
        """Name of what has the highest log predictive density of all, baselines included."""
        ahead = {name: one.difference.sum for name, one in self.baselines.items() if one.difference.sum > 0}
        return max(ahead, key=lambda name: ahead[name]) if ahead else self.best

    def to_dict(self) -> dict[str, Any]:
        """The same as plain types, ready for JSON, without the predictives; a number that is not finite becomes None.

        Returns:
            Keys "kind", "num_data", "best", "notes", "posteriors" and "baselines", the last two by name.
        """
        posteriors = {
            name: {
                "method": self.methods[name],
                "num_parameters": self.num_parameters[name],
                "seconds": plain(self.seconds[name]),
                "log_evidence": plain(self.log_evidences[name]) if name in self.log_evidences else None,
                "num_samples": self.predictives[name].num_samples,
                "closed_form": self.predictives[name].function is not None,
                "monte_carlo_error": plain(self.errors[name].error) if name in self.errors else None,
                "log_density_difference": self.differences[name].to_dict(),
                "scores": scores.to_dict(),
            }
            for name, scores in self.scores.items()
        }
        return {
            "kind": self.kind,
            "num_data": self.num_data,
            "best": self.best,
            "notes": self.notes,
            "posteriors": posteriors,
            "baselines": {name: one.to_dict() for name, one in self.baselines.items()},
        }

    def to_frame(self) -> pd.DataFrame:
        """A data frame with one row a posterior and every metric in a column.

        Returns:
            Index "posterior"; columns "method", "num_parameters", "seconds", "log_evidence" (NaN where there is none),
            "log_density_difference", "log_density_difference_se" (sums over rows, in nats), then the metrics by name.
        """
        import pandas as pd

        rows = [
            {
                "method": self.methods[name],
                "num_parameters": self.num_parameters[name],
                "seconds": self.seconds[name],
                "log_evidence": self.log_evidences.get(name, math.nan),
                "log_density_difference": self.differences[name].sum,
                "log_density_difference_se": self.differences[name].sum_se,
                **scores,
            }
            for name, scores in self.scores.items()
        ]
        return pd.DataFrame(rows, index=pd.Index(self.scores, name="posterior"))

    def __str__(self) -> str:
        rows = self.table()
        return "\n".join([*aligned(rows, "<<" + ">" * (len(rows[0]) - 2), rule=True), "", *self._legend()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head, *rows = self.table()
        return "\n".join([html_table(head, rows), *(f"<p>{html.escape(line)}</p>" for line in self._legend())])

    def table(self) -> list[list[str]]:
        """Head and rows; the names and methods are left-aligned, a mark or a blank ends each metric's cell."""
        names, others = list(self.scores), self.baselines.values()
        seconds = [*self.seconds.values(), *(one.seconds for one in others)]
        columns = [
            ["", *names, *self.baselines],
            ["method", *self.methods.values(), *("baseline" for _ in others)],
            ["parameters ", *(f"{number:,} " for number in self.num_parameters.values()), *("- " for _ in others)],
            ["seconds ", *(f"{number:.3g} " if number < 1000 else f"{number:,.0f} " for number in seconds)],
        ]
        if self.log_evidences:
            known = [_plain(number(self.log_evidences[n], 5)) if n in self.log_evidences else "-" for n in names]
            columns.append(["log evidence ", *(f"{text} " for text in known), *("- " for _ in others)])
        for metric, values, best in self.headline():
            marks = ["*" if top else " " for top in best]
            if METRICS[metric].goal == "level":
                level = float(metric.rpartition("_")[2]) / 100
                found = [c for scores in self._all_scores() for c in scores.coverages if c.level == level]
                marks = [" " if c.consistent else "!" for c in found]
            cells = [text + mark for text, mark in zip(map(_plain, column(values, METRICS[metric].digits)), marks, strict=True)]
            columns.append([METRICS[metric].head + " ", *cells])
            if metric == "mlpd":
                beside = (plus_minus(one.difference.sum, one.difference.sum_se) for one in others)
                columns.append(["Δ ± se ", *(_plain(delta) + " " for delta in (*self.deltas(), *beside))])
        return [list(row) for row in zip(*columns, strict=True)]

    def _all_scores(self) -> list[Scores]:
        return [*self.scores.values(), *(one.scores for one in self.baselines.values())]

    def headline(self) -> Iterator[tuple[str, list[float], list[bool]]]:
        """The metrics of a table: their names, their values, and which of these are the best, baselines last and included."""
        for metric in self.scores[self.best]:
            if METRICS[metric].headline:
                values = [scores[metric] for scores in self._all_scores()]
                known = [value for value in values if value == value] or [math.nan]
                top = {"higher": max, "lower": min}.get(METRICS[metric].goal, lambda _: None)(known)
                yield metric, values, [value == top for value in values]

    def deltas(self) -> list[str]:
        """Each difference from the best with its standard error, as text."""
        return ["0" if name == self.best else plus_minus(d.sum, d.sum_se) for name, d in self.differences.items()]

    def _legend(self) -> list[str]:
        of = " of all, baselines included" if self.baselines else ""
        lines = [f"{self.num_data:,} rows. ↑ higher is better, ↓ lower is better, * the best{of}."]
        lines.append("log density: mean log predictive density, in nats a row.")
        lines.append(f"Δ: log density summed over the rows minus that of {self.best}, ± its standard error, paired by row.")
        if self.baselines:
            lines.append(verdict(self.best, self.baselines)[1])
        if self.log_evidences:
            lines.append(
                "log evidence: log p(training targets | model) in nats: of architectures and priors on the same training rows "
                "the higher is the more probable."
            )
        if any(not coverage.consistent for scores in self.scores.values() for coverage in scores.coverages[-1:]):
            lines.append("!: fewer than one calibrated test set in twenty has a coverage as far from its level.")
        return lines + self.notes

    @property
    def notes(self) -> list[str]:
        """What the differences and their standard errors do not say by themselves, one sentence each."""
        found = [*self._of_evidences(), *self._of_baselines()]
        if self.fitted:
            found.append(
                "These rows are the measurements that were fitted: the scores say how well they are described, not how good x "
                "is; compare log evidences, or inverse.judge(posterior, b, truth)."
            )
        for name, d in self.differences.items():
            if d.heavy_tailed:
                found.append(
                    f"{name}: a few rows make its Δ, and ± says little; in the median row it is {number(d.median, 3)} nats, "
                    f"and {name} is better than {self.best} on {percent(d.share)} of the rows."
                )
        for name, error in self.errors.items():
            decided = [d for other, d in self.differences.items() if name in (other, self.best) and other != self.best]
            if error.few and error.num_samples <= FEW:
                found.append(
                    f"{name}: its density is that of {error.num_samples:,} draws or members; how far more of them would move "
                    "it is a guess."
                )
            elif any(d.monte_carlo > max(SHARE * d.sampling_se, _LEAST) for d in decided) and error.error > _LEAST:
                found.append(
                    f"{name}: its log density rests on {error.num_samples:,} draws and may be off by {number(error.error, 2)} "
                    "nats over all rows, more than a tenth of a Δ's standard error; ± includes that."
                )
            if error.few > 0 and error.num_samples > FEW:
                found.append(
                    f"{name}: on {error.few:,} of {self.num_data:,} rows fewer than {FEW:g} of its {error.num_samples:,} draws "
                    "carry the density; how far it is off there is a guess."
                )
        return found

    def _of_baselines(self) -> list[str]:
        """What the baselines were not told, one sentence each."""
        found = []
        if blind := [name for name, one in self.baselines.items() if not one.offset]:
            found.append(f"{listing(blind)}: without the offset that the fits have, so that they know less of each row.")
        if self.weighted and (even := [name for name, one in self.baselines.items() if not one.weighted]):
            found.append(f"{listing(even)}: each training row counts once, where the fits count it by sample_weight.")
        return found

    def _of_evidences(self) -> list[str]:
        """What stands in the way of comparing log evidences, one sentence each."""
        found, rows = [], {self.num_trained[name] for name in self.log_evidences}
        if len(rows) > 1:
            counts = " and ".join(f"{count:,}" for count in sorted(rows))
            found.append(f"log evidences do not compare: they are of {counts} training rows.")
        tuned = [f"{name} ({count})" for name, count in self.num_tuned.items() if count and name in self.log_evidences]
        if tuned and len(self.log_evidences) > 1:
            found.append(
                f"log evidences of {', '.join(tuned)}: at scales tuned to it, and optimistic by about half a nat for each of "
                "these."
            )
        return found


def compare(
    posteriors: Mapping[str, AbstractPosterior],
    X: Any,
    y: Any = None,
    *,
    num_samples: int | None = None,
    seed: int = 0,
    baselines: Mapping[str, AbstractPosterior] | tuple[Any, ...] | None = None,
    offset: Any = None,
) -> Comparison:
    """Score several posteriors on the same held-out rows.

    Which is best is decided by the log predictive density, the only score here that sees the whole distribution and
    that every kind has. A difference of less than about two standard errors may be chance.

    Args:
        posteriors: Name to posterior, of one or of several models, all of one likelihood kind.
        X: Inputs (N, ...) in the data's own units, not used in the fits; or a `Dataset` or `DataLoader` of pairs. None for an
            inverse problem, whose measurements are y.
        y: Targets there: (N,) or (N, K), or class labels (N,); None for a data set or loader, which brings its own.
        num_samples: Draws from each posterior; a mode needs and takes one. None for as many as `predict` takes by itself, and
            more of a posterior whose Monte Carlo error is above a tenth of a difference's standard error (and above 0.01 nats):
            until it is not, all that a sampler left are taken, or draws × rows × outputs are 8 million.
        seed: Seed of the draws; the global random state is left as it was.
        baselines: The training rows (X, y), (X, y, sample_weight) or (X, y, sample_weight, offset), to which a constant, a
            line, boosted trees and a forest are then fitted, or these fits themselves, as `baselines.fit_baselines` makes them;
            None for no such comparison.
        offset: A known part of each row's output, as for `fit` and `predict`; none when None.

    Returns:
        The comparison; `print` it, or take `.scores`, `.to_frame()` and `.to_dict()`.

    Raises:
        ValueError: If the mapping is empty or none, a value is no posterior, the kinds differ, or the data do not fit.
    """
    _check_posteriors(posteriors)
    X, y = all_rows(X, y)
    fitted = X is None  # an inverse problem's rows are its measurements
    X, y = next(iter(posteriors.values())).model.all_measurements(X, y)
    start = {name: num_samples or posterior.usual_draws for name, posterior in posteriors.items()}
    known = {} if offset is None else {"offset": offset}
    predictives = {name: p.predict(X, num_samples=start[name], seed=seed, **known) for name, p in posteriors.items()}
    targets = {name: posterior.model.targets(y) for name, posterior in posteriors.items()}
    rows = {name: predictive.log_prob(targets[name]) for name, predictive in predictives.items()}
    errors = {name: log_density_error(predictive, targets[name]) for name, predictive in predictives.items()}
    for _ in range(_ROUNDS if num_samples is None else 0):
        more = _more_draws(posteriors, predictives, rows, errors)
        for name, count in more.items():
            predictives[name] = posteriors[name].predict(X, num_samples=count, seed=seed, **known)
            wanted = targets[name]
            rows[name], errors[name] = predictives[name].log_prob(wanted), log_density_error(predictives[name], wanted)
        if not more:
            break
    if isinstance(baselines, tuple):
        (train, target), more = baselines[:2], dict(zip(("sample_weight", "offset"), baselines[2:], strict=False))
        likelihood = next(iter(posteriors.values())).model.likelihood
        baselines = fit_baselines(train, target, likelihood, seed=seed, **more)
    return Comparison(
        scores={name: evaluate(predictive, targets[name], seed=seed) for name, predictive in predictives.items()},
        predictives=predictives,
        differences=_differences(rows, errors),
        methods={name: posterior.method for name, posterior in posteriors.items()},
        num_parameters={name: posterior.model.num_parameters for name, posterior in posteriors.items()},
        seconds={name: posterior.elapsed for name, posterior in posteriors.items()},
        best=_best(rows),
        errors=errors,
        log_evidences={name: p.log_evidence for name, p in posteriors.items() if p.log_evidence is not None},
        num_trained={name: posterior.model.total() for name, posterior in posteriors.items()},
        num_tuned={name: len(posterior.history.scales) for name, posterior in posteriors.items()},
        baselines=beside(baselines or {}, X, y, rows[_best(rows)], seed=seed, offset=offset),
        weighted=any(posterior.model.likelihood.weighted for posterior in posteriors.values()),
        fitted=fitted,
    )


def _best(rows: Mapping[str, torch.Tensor]) -> str:
    return max(rows, key=lambda name: float(rows[name].double().mean()))


def _differences(rows: Mapping[str, torch.Tensor], errors: Mapping[str, LogDensityError]) -> dict[str, Difference]:
    best = _best(rows)
    found = {n: 0.0 if n == best else errors[n].against(errors[best]) for n in rows}
    return {name: paired_difference(log_prob, rows[best], found[name]) for name, log_prob in rows.items()}


def _more_draws(
    posteriors: Mapping[str, AbstractPosterior],
    predictives: Mapping[str, Predictive],
    rows: Mapping[str, torch.Tensor],
    errors: Mapping[str, LogDensityError],
) -> dict[str, int]:
    """How many draws to take next of the posteriors whose Monte Carlo error dominates a difference's, where memory allows."""
    found: dict[str, int] = {}
    best = _best(rows)
    for name, difference in _differences(rows, errors).items():
        excess = difference.monte_carlo / max(SHARE * difference.sampling_se, _LEAST)
        if not excess > 1:  # False also for NaN: a single row gives no standard error
            continue
        for one in (name, best):
            predictive, own = predictives[one], errors[one].error
            if own <= difference.monte_carlo / 4:  # the error is that of the other one
                continue
            most = min(_MOST, _ENTRIES // predictive.like[0].numel(), posteriors[one].num_draws or _MOST)
            wanted = math.ceil(predictive.num_samples * min(max(1.5 * excess**2, 2.0), 64.0) / 1000) * 1000
            if most > predictive.num_samples:
                found[one] = max(found.get(one, 0), min(wanted, most))
    return found


def _check_posteriors(posteriors: Any) -> None:
    advice = 'pass names with posteriors, for example {"MAP": fit(model, X, y, method="map", seed=0)}.'
    if not isinstance(posteriors, Mapping) or not posteriors:
        came = "an empty one" if isinstance(posteriors, Mapping) else type(posteriors).__name__
        raise ValueError(f"posteriors must be a mapping with one entry or more, but {came} came; {advice}")
    for name, value in posteriors.items():
        if not isinstance(name, str) or not name.strip():
            raise ValueError(f"each posterior must have a name, a text, but {name!r} came; {advice}")
        if not isinstance(value, AbstractPosterior):
            raise ValueError(f"posteriors[{name!r}] must be a posterior, but {type(value).__name__} came; {advice}")
    kinds = {name: posterior.model.likelihood.kind for name, posterior in posteriors.items()}
    if len(set(kinds.values())) > 1:
        came = ", ".join(f"{name!r} is {kind}" for name, kind in kinds.items())
        raise ValueError(f"posteriors must be of one likelihood kind, but {came}; compare those of one kind at a time.")


def _plain(text: str) -> str:
    """Typeset numbers as a terminal and a parser take them."""
    return text.replace("−", "-").replace(",", "")
