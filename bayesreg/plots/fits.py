"""Figures of a fit and of its predictions: history, calibration, where the uncertainty comes from, rows, weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bayesreg import _check
from bayesreg._text import number
from bayesreg.comparison import Comparison
from bayesreg.likelihoods import AbstractLabels
from bayesreg.metrics.readings import (
    LEVELS,
    binomial_band,
    check_output,
    coverage_curve,
    reliability_bins,
    take,
    variance_rows,
    wilson,
)
from bayesreg.plots.palette import ALEATORIC, BAD, DASHES, EPISTEMIC, GRID, INK, MARKERS, MUTED, PAPER, styled
from bayesreg.plots.style import bars, every, legend, one_panel, percent_axes, series_color, ticks
from bayesreg.posteriors.base import AbstractPosterior
from bayesreg.predictive.mixture import Predictive

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_GROUPS = 60


@styled()
def history(posterior: AbstractPosterior, *, series: int = 0) -> Figure:
    """The objective over the steps, in nats summed over the data; far-off first steps are cut off, with a note.

    Args:
        posterior: The fit.
        series: Which colour of the palette.

    Returns:
        The figure.

    Raises:
        ValueError: If the fit has no steps, as a closed form has none.
    """
    steps, objective = np.array(posterior.history.steps), np.array(posterior.history.objective)
    if len(steps) == 0:
        raise ValueError(f"a history must have steps, but method {posterior.method!r} recorded none; draw another fit.")
    figure, axes = one_panel()
    axes.plot(steps, objective, color=series_color(series), linewidth=1.6, marker="o" if len(steps) < 15 else "", markersize=4)
    top, low = objective.max(), np.quantile(objective, 0.15)
    span = max(top - low, 1e-3 * abs(top), 1e-6)
    if objective.min() < low - 3 * span:  # the gain of the first steps would flatten all the rest
        axes.set_ylim(low - 0.6 * span, top + 0.15 * span)
        start = f"starts at {number(objective[0])}"
        axes.text(0.97, 0.06, start, transform=axes.transAxes, ha="right", color=MUTED, fontsize=11.5)
    axes.set_xlabel("step")
    axes.set_ylabel(f"{posterior.history.label.replace('elbo', 'ELBO')} (nats)")
    return figure


@styled()
def coverage(comparison: Comparison, y: Any = None) -> Figure:
    """Observed against nominal coverage of central intervals, one line a posterior.

    On the diagonal a predictive is calibrated; below it, intervals are too narrow. The grey band is where the count of a
    calibrated predictive lies 95 % of the time, binomial with n values and level by level.

    Args:
        comparison: What `compare` found, for a regression.
        y: The targets that it scored, for the whole curve; when None the four levels that it knows, with Wilson bounds.

    Returns:
        The figure.

    Raises:
        ValueError: If this is no regression, or y does not fit.
    """
    if comparison.labels is not None:
        raise ValueError(
            f"coverage must be drawn of a regression, but kind {comparison.kind!r} came; draw reliability instead."
        )
    figure, axes = one_panel()
    found = comparison.scores[comparison.best].coverages
    low, high = binomial_band(found[0].num_data, LEVELS)
    axes.fill_between(LEVELS, low, high, color=GRID, linewidth=0)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1)
    for i, (name, predictive) in enumerate(comparison.predictives.items()):
        style: dict[str, Any] = {"color": series_color(i), "linestyle": DASHES[i % len(DASHES)], "label": name}
        if y is not None:
            axes.plot(LEVELS, coverage_curve(predictive, y), linewidth=1.8, **style)
            continue
        rows = comparison.scores[name].coverages
        rate = np.array([c.rate for c in rows])
        bounds = np.abs(np.array([[c.lower for c in rows], [c.upper for c in rows]]) - rate)
        levels = [c.level + 0.006 * (i - (len(comparison.scores) - 1) / 2) for c in rows]  # side by side
        axes.errorbar(levels, rate, bounds, marker=MARKERS[i % len(MARKERS)], markersize=4.5, linewidth=1.2, **style)
    axes.text(0.96, 0.05, "below: too narrow", transform=axes.transAxes, ha="right", color=MUTED, fontsize=11.5)
    axes.text(0.04, 0.9, "above: too wide", transform=axes.transAxes, color=MUTED, fontsize=11.5)
    percent_axes(axes, "level of the interval", "observed inside")
    legend(axes)
    return figure


@styled()
def pit(predictive: Predictive, y: Any, *, num_bins: int = 10, series: int = 0) -> Figure:
    """Histogram of the PIT values F(yᵢ | xᵢ), flat when the predictive is calibrated.

    High ends: intervals too narrow. High middle: too wide. A slope: predictions too high or too low. The grey band is
    where a bin of a calibrated predictive lies 95 % of the time.

    Args:
        predictive: A regression's prediction for N rows.
        y: What was observed there, (N,) or (N, K).
        num_bins: Number of bins.
        series: Which colour of the palette.

    Returns:
        The figure.

    Raises:
        ValueError: If this is no regression, y does not fit, or num_bins is not a whole number >= 1.
    """
    values = predictive.pit(y).cpu().double().numpy().ravel()
    shares = np.histogram(values, _check.count("num_bins", num_bins), (0, 1))[0] / values.size
    figure, axes = one_panel()
    low, high = binomial_band(values.size, [1 / num_bins])
    edges = np.linspace(0, 1, num_bins + 1)
    axes.fill_between([0, 1], low[0], high[0], color=GRID, linewidth=0)
    axes.bar(
        edges[:-1], shares, 1 / num_bins, align="edge", color=series_color(series), alpha=0.7, edgecolor=PAPER, linewidth=1.5
    )
    axes.axhline(1 / num_bins, color=INK, linewidth=1)
    for end in (low[0], high[0]):
        axes.axhline(end, color=INK, linewidth=0.9, linestyle=(0, (2, 2)))
    axes.set_ylim(0, 1.08 * max(shares.max(), high[0]))
    percent_axes(axes, "place of the truth in its predictive", "share of rows")
    axes.set_xticks([0, 0.5, 1], ["lowest", "middle", "highest"])
    for label, side in zip(axes.get_xticklabels(), ("left", "center", "right"), strict=True):
        label.set_horizontalalignment(side)
    return figure


@styled()
def reliability(predictive: Predictive, y: Any, *, num_bins: int = 10, series: int = 0) -> Figure:
    """Observed share against stated probability, in bins: P(y = 1) for two classes, the predicted class for several.

    On the diagonal a predictive is calibrated. Bars are 95 % Wilson bounds of a bin's share; a dot's area grows with
    its number of rows.

    Args:
        predictive: A classification's prediction for N rows.
        y: Class labels (N,).
        num_bins: Number of bins of equal width.
        series: Which colour of the palette.

    Returns:
        The figure.

    Raises:
        ValueError: If this is no classification, y does not fit, or num_bins is not a whole number >= 1.
    """
    stated, observed, count = reliability_bins(predictive, y, num_bins)
    figure, axes = one_panel()
    low, high = wilson(observed * count, count)
    axes.plot([0, 1], [0, 1], color=MUTED, linewidth=1)
    axes.vlines(stated, low, high, color=series_color(series), linewidth=1.3)
    axes.plot(stated, observed, color=series_color(series), linewidth=1, alpha=0.6)
    axes.scatter(
        stated, observed, 18 + 130 * count / count.sum(), color=series_color(series), edgecolor=PAPER, linewidth=1, zorder=3
    )
    labels: Any = predictive.likelihood.labels  # for other predictives the bins were refused
    chosen = labels.judged_by_choice
    percent_axes(axes, f"stated {labels.stated_name}", "observed accuracy" if chosen else "observed share of 1")
    axes.set_xlim(min(0.97 * stated.min(), 0.9) if chosen else -0.03, 1.03)
    axes.set_ylim(-0.04, 1.04)
    return figure


@styled()
def variance_parts(predictive: Predictive, *, output: int = 0, top: float | None = None) -> Figure:
    """Aleatoric and epistemic variance, one on the other, from the least to the most uncertain row.

    Many rows are averaged in up to 60 groups of neighbours, which leaves the totals as they are. For classes it is the
    variance of the class indicator, summed over classes.

    Args:
        predictive: The prediction for N rows.
        output: Which of K outputs of a regression.
        top: Upper end of the vertical axis, to make several figures comparable.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no such output.
    """
    aleatoric, epistemic = variance_rows(predictive, output)
    order = np.argsort(aleatoric + epistemic, kind="stable")
    groups = np.array_split(order, min(_GROUPS, len(order)))
    noise, unknown = (np.array([part[rows].mean() for rows in groups]) for part in (aleatoric, epistemic))
    edges = np.cumsum([0, *(len(rows) for rows in groups)]) / len(order)
    figure, axes = one_panel()
    axes.stairs(noise, edges, fill=True, color=ALEATORIC, label="aleatoric (noise)", linewidth=0)
    axes.stairs(noise + unknown, edges, baseline=noise, fill=True, color=EPISTEMIC, label="epistemic (not known)", linewidth=0)
    axes.stairs(noise + unknown, edges, baseline=None, color=INK, linewidth=1)
    axes.set_ylim(0, 1.05 * (top or max((noise + unknown).max(), 1e-300)))
    axes.set_xlim(0, 1)
    axes.set_xticks([0, 0.5, 1], ["least uncertain", "rows", "most uncertain"])
    for label, side in zip(axes.get_xticklabels(), ("left", "center", "right"), strict=True):
        label.set_horizontalalignment(side)
    axes.set_ylabel("variance (target units²)" if predictive.likelihood.labels is None else "variance of the class")
    legend(axes)
    return figure


@styled()
def predictions(predictive: Predictive, y: Any, *, output: int = 0, max_rows: int = 100, series: int = 0) -> Figure:
    """What was predicted against what was observed, row by row in the order of the prediction.

    Regression: 95 % and 50 % intervals, the truth as a dot, or as a cross outside its 95 %. Classes: the probability of
    class 1 (two classes) or of the predicted class, with 90 % of what the draws say; a cross where the class was wrong.

    Args:
        predictive: The prediction for N rows.
        y: What was observed there.
        output: Which of K outputs of a regression.
        max_rows: Rows drawn; of more, every so-many-th in the order.
        series: Which colour of the palette.

    Returns:
        The figure.

    Raises:
        ValueError: If y does not fit, there is no such output, or max_rows is not a whole number >= 1.
    """
    truth = predictive.target(y).cpu()
    figure, axes = one_panel()
    labels = predictive.likelihood.labels
    if labels is None:
        check_output(predictive, output)
        centre = predictive.mean if predictive.mean.dim() == 1 else predictive.mean[:, output]
        rows = _spread(centre, max_rows)
        part = take(predictive, rows)
        ends = torch.stack([*part.interval(0.95), *part.interval(0.5)]).cpu().numpy()
        ends = ends if ends.ndim == 2 else ends[:, :, output]
        seen = (truth if truth.dim() == 1 else truth[:, output])[rows].numpy()
        wrong, words = (seen < ends[0]) | (seen > ends[1]), ("observed", "outside")
        bars(axes, ends[0], ends[1], series_color(series), 1.8, "95 %", alpha=0.45)
        bars(axes, ends[2], ends[3], series_color(series), 2.6, "50 %", alpha=0.55)
        axes.set_ylabel("target units")
        axes.set_xlabel("rows, from low to high prediction")
    else:
        ends, seen, wrong = _class_rows(predictive, labels, truth, max_rows)
        words = "right", "wrong"
        if predictive.num_samples > 1:
            bars(axes, ends[0], ends[1], series_color(series), 1.8, "90 % of draws", alpha=0.45)
        axes.plot(np.arange(len(seen)), ends[2], color=series_color(series), linewidth=1.4, label="stated")
        axes.set_ylabel(labels.stated_name)
        axes.set_xlabel(f"rows, from low to high {labels.stated_name}")
        axes.set_ylim(-0.05, 1.05)
    at = np.arange(len(seen))
    axes.plot(
        at[~wrong], seen[~wrong], "o", color=INK, markersize=3.4, markeredgecolor=PAPER, markeredgewidth=0.5, label=words[0]
    )
    if wrong.any():
        axes.plot(
            at[wrong], seen[wrong], "X", color=BAD, markersize=6.5, markeredgecolor=PAPER, markeredgewidth=0.6, label=words[1]
        )
    axes.set_xticks([])
    axes.yaxis.set_major_formatter(ticks())
    legend(axes)
    return figure


@styled()
def parameters(
    mode: AbstractPosterior, posterior: AbstractPosterior, name: str, *, max_entries: int = 200, series: int = 0
) -> Figure:
    """Posterior mean ± sd of each entry of a tensor against the mode's value, in the units that the model works in.

    On the diagonal both agree. A bar that reaches zero is a weight that the data leave open.

    Args:
        mode: A posterior that is a point.
        posterior: Another answer to the same model.
        name: Dotted name of the tensor.
        max_entries: Entries drawn; of more, every so-many-th.
        series: Which colour of the palette.

    Returns:
        The figure.

    Raises:
        ValueError: If there is no such tensor, the shapes differ, or max_entries is not a whole number >= 1.
    """
    _check.one_of("name", name, posterior.mean)
    _check.one_of("name", name, mode.mean)
    x, mean, std = (p.reshape(-1).cpu().double().numpy() for p in (mode.mean[name], posterior.mean[name], posterior.std[name]))
    if x.shape != mean.shape:
        raise ValueError(f"{name} must have one shape in both, but {x.size} and {mean.size} entries came; compare one model.")
    chosen = every(x.size, max_entries)
    x, mean, std = x[chosen], mean[chosen], std[chosen]
    figure, axes = one_panel()
    ends = [min(x.min(), mean.min()), max(x.max(), mean.max())]
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.plot(ends, ends, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    bars(axes, mean - std, mean + std, series_color(series), 1.0, "", at=x, alpha=0.4)
    axes.plot(x, mean, "o", color=series_color(series), markersize=3, markeredgewidth=0)
    axes.set_xlabel("mode")
    axes.set_ylabel("posterior mean ± sd")
    return figure


def _spread(values: torch.Tensor, most: int) -> torch.Tensor:
    order = values.cpu().double().argsort(stable=True)
    return order[torch.from_numpy(every(len(order), most))]


def _class_rows(
    predictive: Predictive, labels: AbstractLabels, truth: torch.Tensor, most: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """5 %, 95 % over draws and mean of the drawn probability; where the marker goes; which rows are wrong."""
    rows = _spread(labels.stated(predictive.mean.cpu(), truth)[0], most)
    part, truth = take(predictive, rows), truth[rows]
    draws = part.likelihood.mean(part.output, **part.noise).cpu().double()
    mean = part.mean.cpu().double()
    choice = labels.choice(mean)
    draws, mean = (labels.of_choice(each, choice) for each in (draws, mean))
    low, high = torch.quantile(draws, torch.tensor([0.05, 0.95], dtype=draws.dtype), dim=0)
    seen = mean if labels.judged_by_choice else truth.double()
    return torch.stack([low, high, mean]).numpy(), seen.numpy(), (choice != truth).numpy()
