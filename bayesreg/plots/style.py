"""What all figures share: one palette, one style that ends with the call, axes, legends and bars."""

from __future__ import annotations

import contextlib
import re
import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from bayesreg import _check
from bayesreg._threads import settings
from bayesreg.metrics.readings import number

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


def figure_legend(figure: Figure, handles: list[Any], loc: Any = "outside upper left", spare: int = 0) -> None:
    """One legend beside all panels, in as many columns as fit; the figure grows for its rows, and no name is cut.

    Args:
        figure: The figure, laid out by constraints.
        handles: What stands for each line, with its label.
        loc: Where, "outside" the panels.
        spare: Rows for which the figure has room as it is.
    """
    width, height = figure.get_size_inches()
    room = 72 * width - 12
    labels = [_wrapped(str(handle.get_label()), room - 40) for handle in handles]
    sizes = [max(map(_width, label.split("\n"))) + 40 for label in labels]
    fitting = (c for c in range(len(labels), 1, -1) if sum(max(part) for part in np.array_split(sizes, c)) <= room)
    columns = next(fitting, 1)
    lines = [label.count("\n") + 1 for label in labels]
    rows = max(sum(part) for part in np.array_split(lines, columns))
    if rows > spare:
        figure.set_size_inches(width, height + (0.1 + 17 * (rows - spare)) / 72)
    figure.legend(handles, labels, loc=loc, ncols=columns, borderpad=0.1)


def _wrapped(label: str, room: float) -> str:
    """The label in as many lines as it takes, and whole."""
    characters = max(8, int(room / max(_width(label) / max(len(label), 1), 1)))
    return "\n".join(textwrap.wrap(label, characters)) or " "


def _width(text: str) -> float:
    """In points, by the font that the figure is laid out with; a page's own fonts are narrower."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    plain = re.sub("[^ -~]", "W", text)  # a letter that the font lacks is as wide as its widest
    return TextToPath().get_text_width_height_descent(plain, FontProperties(size=STYLE["legend.fontsize"]), ismath=False)[0]


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
    """Above the axes, see `figure_legend`."""
    figure_legend(axes.figure.get_figure(root=True), axes.get_legend_handles_labels()[0], spare=2)


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
