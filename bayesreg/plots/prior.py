"""Figures of what is assumed before any data: of one weight, and of the functions that all weights together make."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bayesreg import _check
from bayesreg._text import number
from bayesreg.data.rows import as_tensor
from bayesreg.metrics.readings import check_output
from bayesreg.plots.palette import GRID, INK, MARKERS, MUTED, PAPER, styled
from bayesreg.plots.readings import named, settled, shrinkage, weight_range
from bayesreg.plots.style import every, figure_legend, legend, one_panel, panels, series_color
from bayesreg.predictive.mixture import Predictive, tails
from bayesreg.priors import AbstractElementwisePrior

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_POINTS = 601
_SMALL: dict[str, Any] = {"color": MUTED, "fontsize": 10.5}
_TITLE: dict[str, Any] = {"loc": "left", "fontsize": 12}


@styled()
def priors(
    *priors: AbstractElementwisePrior | Mapping[str, AbstractElementwisePrior],
    low: float | None = None,
    high: float | None = None,
    noise_scale: float = 1.0,
) -> Figure:
    """Priors of one weight side by side: density, penalty, and their estimate from one observation.

    The third panel is the shrinkage profile: the weight was observed once, y ~ N(w, noise_scale²), and the MAP estimate is
    drawn against y. On the grey diagonal nothing is shrunk. A flat stretch is a set of observations that give exactly zero
    (soft thresholding, and hard where the line is broken by a jump); a line parallel to the diagonal is shrunk by a constant
    (L1), one of a smaller slope in proportion (L2), and one that returns to the diagonal leaves large weights alone. A prior
    whose density has a pole has no mode: its penalty is zero where the class says (for a horseshoe at |w| = scale) and falls to
    −∞, and the third panel shows its posterior mean instead, dashed. One that is also improper has no line.

    Args:
        *priors: One to six elementwise priors, or one mapping from names to them.
        low: Lower end of the weights drawn; chosen from the priors when None.
        high: Upper end, likewise.
        noise_scale: Sd of the noise of the one observation, in the weight's units.

    Returns:
        The figure, with three panels.

    Raises:
        ValueError: If these are no priors of one weight, more than six, low is not < high, or noise_scale not > 0.
    """
    given = {name: settled(name, prior, ()) for name, prior in named(priors).items()}
    _check.positive("noise_scale", noise_scale)
    chosen = weight_range(list(given.values()))
    low = chosen[0] if low is None else _check.finite("low", low)
    high = chosen[1] if high is None else _check.finite("high", high)
    if not low < high:
        raise ValueError(f"low must be < high, but low={low:g} and high={high:g} came; pass for example low=-3.0, high=3.0.")
    figure, (density, penalty, profile) = panels(3, 3, 3.2, 3.0)
    grid = _grid(low, high, [prior.mode for prior in given.values()])
    handles = _densities(density, given, grid)
    _penalties(penalty, given, grid)
    _profiles(profile, given, _observations(given, low, high, noise_scale), noise_scale)
    figure_legend(figure, handles)
    return figure


def _grid(low: float, high: float, centres: list[float]) -> np.ndarray:
    """An even grid, finer and finer towards each centre, where a density may have a kink, a spike or a pole."""
    near = (high - low) * np.logspace(-9, -1, 81)
    points = [np.linspace(low, high, _POINTS), *(c + s * near for c in centres for s in (-1, 1)), centres]
    found = np.unique(np.concatenate(points))
    return found[(found >= low) & (found <= high)]


def _energies(prior: AbstractElementwisePrior, grid: np.ndarray) -> np.ndarray:
    return prior.energy(torch.from_numpy(grid)).numpy()


def _line(axes: Axes, x: np.ndarray, y: np.ndarray, series: int, count: int, label: str = "_", dashed: bool = False) -> Any:
    """One prior's line; its few markers, at other places than any other's, distinguish it without colour."""
    wanted = x[0] + (x[-1] - x[0]) * (np.arange(5) + (series + 0.5) / count) / 5
    (line,) = axes.plot(
        x,
        y,
        color=series_color(series),
        linewidth=1.7,
        linestyle=(0, (4, 1.5)) if dashed else "-",
        marker=MARKERS[series],
        markersize=5,
        markeredgecolor=PAPER,
        markeredgewidth=0.6,
        markevery=[int(np.abs(x - at).argmin()) for at in wanted],
        label=label,
    )
    return line


def _has_density(prior: AbstractElementwisePrior) -> bool:
    return prior.proper and not prior.certain


def _densities(axes: Axes, given: Mapping[str, AbstractElementwisePrior], grid: np.ndarray) -> list[Any]:
    """The density lines, for the legend. A spike narrower than 3 % of the width is cut where it would flatten the rest."""
    lacking = {name: "improper" if not p.proper else "a point mass" for name, p in given.items() if not _has_density(p)}
    values = [None if n in lacking else np.exp(p.log_constant - _energies(p, grid)) for n, p in given.items()]
    even = np.linspace(grid[0], grid[-1], _POINTS)
    bodies = [min(v.max(), 2 * np.quantile(np.interp(even, grid, v), 0.97)) for v in values if v is not None]
    top = 1.08 * (max(bodies, default=0.0) or 1.0)
    handles = []
    for i, ((name, prior), density) in enumerate(zip(given.items(), values, strict=True)):
        if density is None:
            label, x, y = f"{name} ({lacking[name]}: no density)", grid[:1], np.full(1, np.nan)
        else:
            peak = density.max() if prior.bounded else math.inf
            label, x, y = name + (f" (density up to {number(peak, 2)})" if peak > top else ""), grid, density
        handles.append(_line(axes, x, y, i, len(given), label))
    axes.set_ylim(0, top)
    axes.set_xlim(grid[0], grid[-1])
    axes.set_xlabel("w")
    axes.set_ylabel("density p(w)")
    axes.set_title("What is assumed", **_TITLE)
    return handles


def _penalties(axes: Axes, given: Mapping[str, AbstractElementwisePrior], grid: np.ndarray) -> None:
    energies = [_energies(prior, grid) for prior in given.values()]
    for i, energy in enumerate(energies):
        _line(axes, grid, energy, i, len(energies))
    highest = [e[np.isfinite(e)].max(initial=0.0) for e in energies]
    top = min(max(highest), max(6.0, 3 * min((e for e in highest if e > 0), default=1.0)))  # a steep one is cut off
    bounded = all(prior.bounded for prior in given.values())
    axes.set_ylim((-0.03 if bounded else -0.4) * (top or 1.0), 1.03 * (top or 1.0))
    axes.set_xlim(grid[0], grid[-1])
    if not bounded:
        axes.text(0.98, 0.02, "pole: to −∞", transform=axes.transAxes, ha="right", va="bottom", **_SMALL)
    axes.set_xlabel("w")
    axes.set_ylabel("penalty (nats)")
    axes.set_title("What it costs", **_TITLE)


def _observations(given: Mapping[str, AbstractElementwisePrior], low: float, high: float, noise_scale: float) -> np.ndarray:
    """Observations about the priors' centre: the weights' range, four sd of the noise, and past every zone of exact zeros."""
    middle = float(np.mean([prior.mode for prior in given.values()]))
    reach = max(high - middle, middle - low, 4 * noise_scale)
    widest = reach
    for prior in given.values():
        for distance in reach * 2.0 ** np.arange(-1, 12):
            at = shrinkage(prior, np.array([middle, middle + distance]), noise_scale)[1]
            if abs(at[-1] - at[0]) > 1e-6 * distance:
                widest = max(widest, reach if distance < reach else 1.5 * distance)
                break
    return np.linspace(middle - widest, middle + widest, _POINTS)


def _profiles(axes: Axes, given: Mapping[str, AbstractElementwisePrior], y: np.ndarray, noise_scale: float) -> None:
    axes.plot(y[[0, -1]], y[[0, -1]], color=MUTED, linewidth=1)
    means = False
    for i, prior in enumerate(given.values()):
        at, estimate, is_map = shrinkage(prior, y, noise_scale)
        _line(axes, at, estimate, i, len(given), dashed=not is_map)
        means |= not is_map
    axes.set_xlim(y[0], y[-1])
    axes.set_ylim(y[0], y[-1])
    notes = ["grey: no shrinkage", *(["dashed: posterior mean"] if means else [])]
    axes.text(0.98, 0.02, "\n".join(notes), transform=axes.transAxes, ha="right", va="bottom", **_SMALL)
    axes.set_xlabel(f"observation, noise sd {number(noise_scale)}")
    axes.set_ylabel("estimate of w")
    axes.set_title("What it makes of data", **_TITLE)


@styled()
def prior_predictive(
    predictive: Predictive,
    x: Any,
    *,
    name: str = "x",
    output: int = 0,
    num_lines: int = 30,
    level: float = 0.95,
    series: int = 0,
) -> Figure:
    """Functions drawn from the prior against one input, before any data: the meaning of the priors on the weights.

    Thin lines are single draws; the bands hold the central 50 % and 95 % of all of them at each x. The outer band, with a
    dotted edge, is where y itself would lie, noise included. For classes a function is the probability of one class. A draw far
    from the bands leaves the picture instead of flattening the rest, and the legend counts these.

    Args:
        predictive: Drawn from the prior at the rows of x: S functions.
        x: The input that was varied, (N,) or (N, 1), in any order.
        name: What x is called, below its axis.
        output: Which of K outputs; of several classes, which class.
        num_lines: Functions drawn as lines; of more, every so-many-th.
        level: Probability inside the wide band and inside the outer one.
        series: Which colour of the palette.

    Returns:
        The figure.

    Raises:
        ValueError: If x has more than one column or other rows than the prediction, there is no such output, level is not
            in (0, 1), or num_lines is not a whole number >= 1.
    """
    order, x = _one_column(x, predictive)
    check_output(predictive, output)
    wide, inner = tails(level), tails(0.5)
    functions = predictive.likelihood.mean(predictive.output, **predictive.noise).cpu().double()
    functions = (functions if functions.dim() == 2 else functions[:, :, output])[:, order]
    figure, axes = one_panel()
    color, percent = series_color(series), f"{100 * level:g} %"
    numbers = predictive.likelihood.labels is None
    if numbers:
        bounds = [end.cpu().double() for end in predictive.interval(level)]
        outer = [(end if end.dim() == 1 else end[:, output])[order].numpy() for end in bounds]
        axes.fill_between(x, outer[0], outer[1], color=GRID, alpha=0.5, linewidth=0)
        for end, label in zip(outer, (f"{percent} with noise", "_"), strict=True):
            axes.plot(x, end, color=MUTED, linewidth=1.2, linestyle=(0, (1, 1.5)), label=label)
    if len(functions) > 1:
        for (low, high), alpha, label in ((wide, 0.16, percent), (inner, 0.3, "50 %")):
            ends = torch.quantile(functions, torch.tensor([low, high], dtype=functions.dtype), dim=0).numpy()
            axes.fill_between(x, ends[0], ends[1], color=color, alpha=alpha, linewidth=0, label=f"{label} of functions")
    axes.set_ylim(*(axes.get_ylim() if numbers else (-0.03, 1.03)))
    axes.set_autoscaley_on(len(functions) == 1)  # an extreme draw leaves the picture instead of flattening the rest
    drawn = functions[every(len(functions), num_lines)].numpy()
    (bottom, top), label = axes.get_ylim(), f"{len(drawn)} draws" if len(drawn) > 1 else "one draw"
    outside = ((drawn < bottom) | (drawn > top)).any(1).sum() if len(functions) > 1 else 0
    label += f" ({outside} cut off)" if outside else ""
    for i, line in enumerate(drawn):
        axes.plot(x, line, color=INK, linewidth=0.7, alpha=0.5, label="_" if i else label)
    axes.set_xlim(x[0], x[-1])
    axes.set_xlabel(name)
    axes.set_ylabel(predictive.likelihood.mean_label(output))
    legend(axes)
    return figure


def _one_column(x: Any, predictive: Predictive) -> tuple[torch.Tensor, np.ndarray]:
    """The order of x, and x in that order.

    Raises:
        ValueError: If it is not one column with the prediction's rows.
    """
    values = as_tensor("x", x).cpu().double()
    if values.dim() > 2 or (values.dim() == 2 and values.shape[1] != 1):
        raise ValueError(
            f"x must be one column, but shape {tuple(values.shape)} came; vary one column, hold the others at one value each, "
            "and pass the one that varies."
        )
    values = values.reshape(-1)
    if len(values) != predictive.num_rows:
        raise ValueError(
            f"x must have the {predictive.num_rows} rows of the prediction, but {len(values)} came; pass the x it was made at."
        )
    order = values.argsort(stable=True)
    return order, values[order].numpy()
