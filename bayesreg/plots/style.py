"""What all figures share: one palette, one style that ends with the call, axes, legends and bars."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from bayesreg import _check
from bayesreg._readings import number
from bayesreg.threads import settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Each hex is used for one role only, so that a report can put a colour of its theme in its place.
INK, MUTED, GRID, PAPER, BAD = "#1b2430", "#5b6775", "#dfe4ea", "#ffffff", "#b3261e"
ALEATORIC, EPISTEMIC = "#a9bcd3", "#d9622b"
SERIES = ("#1f6fb2", "#b35309", "#0f7f63", "#7d4fa6", "#8a6500", "#47566b")
MARKERS = "os^DvP"
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 1.5, 1, 1.5)), (0, (3, 1)), (0, (8, 3)))
STYLE: dict[str, Any] = {
    "font.size": 12,
    "figure.figsize": (340 / 72, 240 / 72),  # a viewBox of 340 × 240, so that a point is a pixel on a phone
    "figure.facecolor": PAPER,
    "figure.constrained_layout.use": True,
    "axes.facecolor": PAPER,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelsize": 12,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "text.parse_math": False,  # a name with dollar signs is a name
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 11.5,
    "ytick.labelsize": 11.5,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 11.5,
    "legend.handlelength": 1.6,
    "legend.columnspacing": 1.0,
    "legend.handletextpad": 0.5,
    "legend.borderaxespad": 0.2,
}


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Matplotlib's own defaults and this file's style inside, the person's settings again outside; one thread at a time.

    Yields:
        Nothing.
    """
    import matplotlib.style

    with settings(), matplotlib.style.context(["default", STYLE]):
        yield


def one_panel() -> tuple[Figure, Axes]:
    """A figure with one pair of axes, whose numbers a person reads."""
    from bayesreg.plots.figure import Figure  # not above: it loads Matplotlib

    figure = Figure()
    axes = figure.add_subplot()
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(ticks())
    axes.locator_params(nbins=5)
    return figure, axes


def panels(count: int, columns: int, width: float, height: float) -> tuple[Figure, list[Axes]]:
    """A figure with several pairs of axes, row by row.

    Args:
        count: How many.
        columns: In a row, at most.
        width: Of one, in inches.
        height: Of one, in inches; the legend's place comes on top.

    Returns:
        The figure and its axes.
    """
    from bayesreg.plots.figure import Figure

    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(columns * width, rows * height))
    found = [figure.add_subplot(rows, columns, i + 1) for i in range(count)]
    for axes in found:
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(ticks())
        axes.locator_params(nbins=6)
    return figure, found


def figure_legend(figure: Figure, handles: list[Any]) -> None:
    """One legend for all panels, above them, in as many columns as fit; the figure grows for its rows."""
    labels = [short(str(handle.get_label()), 80) for handle in handles]
    width, height = figure.get_size_inches()
    fitting = (c for c in range(len(labels), 1, -1) if sum(_widths(labels, c)) <= 72 * width - 20)
    columns = next(fitting, 1)
    figure.set_size_inches(width, height + (0.1 + 17 * -(-len(labels) // columns)) / 72)
    figure.legend(handles, labels, loc="outside upper left", ncols=columns, borderpad=0.1)


def ticks() -> Any:
    """A formatter: thousands apart, a true minus, no trailing zeros."""
    from matplotlib.ticker import FuncFormatter

    return FuncFormatter(lambda value, _: number(value, 7))


def percent_axes(axes: Axes, x: str, y: str) -> None:
    """Both axes in per cent, with their labels."""
    from matplotlib.ticker import PercentFormatter

    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=" %"))
    axes.set_xlabel(x)
    axes.set_ylabel(y)


def legend(axes: Axes) -> None:
    """Above the axes, in as many columns as fit; a figure with many lines grows for them."""
    handles, labels = axes.get_legend_handles_labels()
    fitting = (c for c in range(len(labels), 1, -1) if sum(_widths(labels, c)) <= 310)  # pixels of 340
    columns = next(fitting, 1)
    rows = -(-len(labels) // columns)
    if rows > 2:
        figure = axes.figure.get_figure(root=True)
        width, height = figure.get_size_inches()
        figure.set_size_inches(width, height + (rows - 2) * 16 / 72)
    axes.legend(handles, labels, loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderpad=0.1)


def _widths(labels: list[str], columns: int) -> list[float]:
    return [6.2 * max(map(len, part)) + 34 for part in np.array_split(labels, columns)]


def series_color(series: int) -> str:
    """The colour of a series; after the last the first comes again."""
    return SERIES[series % len(SERIES)]


def short(name: str, most: int = 30) -> str:
    """A name that fits a legend."""
    return name if len(name) <= most else name[: most - 1] + "…"


def bars(axes: Axes, low: Any, high: Any, color: str, width: float, label: str, *, alpha: float, at: Any = None) -> None:
    """Vertical bars as one line with gaps, a tenth of what a collection takes in a file."""
    at = np.arange(len(low)) if at is None else at
    gap = np.full(len(low), np.nan)
    x, y = np.stack([at, at, gap], 1).ravel(), np.stack([low, high, gap], 1).ravel()
    axes.plot(x, y, color=color, linewidth=width, alpha=alpha, solid_capstyle="butt", label=label or "_")


def every(size: int, most: int) -> np.ndarray:
    """Numbers of at most `most` of `size` things, at even distances, both ends among them."""
    return np.linspace(0, size - 1, min(size, _check.count("the most that is drawn", most))).round().astype(int)
