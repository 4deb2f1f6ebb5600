"""Axes, legends and bars that all figures share."""

from __future__ import annotations

import math
import re
import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from bayesreg import _check
from bayesreg._text import number
from bayesreg.plots.palette import SERIES, STYLE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


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
    """A figure with `count` pairs of axes, at most `columns` in a row, each of this size in inches; the legend adds height."""
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
    """One legend outside all panels, in as many columns as fit; the figure grows for its rows, and no name is cut.

    The figure must use constrained layout. `spare` is the number of rows for which it has room already.
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
    """The whole label, in as many lines as it needs."""
    characters = max(8, int(room / max(_width(label) / max(len(label), 1), 1)))
    return "\n".join(textwrap.wrap(label, characters)) or " "


def _width(text: str) -> float:
    """Width in points, by the font of the figure's layout; a page's own fonts are narrower."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    plain = re.sub("[^ -~]", "W", text)  # a letter that the font lacks is as wide as its widest
    return TextToPath().get_text_width_height_descent(plain, FontProperties(size=STYLE["legend.fontsize"]), ismath=False)[0]


def ticks() -> Any:
    """A formatter: thousands apart, a true minus, no trailing zeros."""
    from matplotlib.ticker import FuncFormatter

    return FuncFormatter(lambda value, _: number(value, 7))


def powers() -> Any:
    """A formatter of a logarithmic axis: powers of ten as a person writes them."""
    from matplotlib.ticker import FuncFormatter

    raised = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

    def text(value: float, _: Any) -> str:
        power = math.log10(value) if value > 0 else 0.5
        if abs(power - round(power)) > 1e-6:
            return ""
        return number(value, 3) if -3 <= round(power) <= 3 else "10" + str(round(power)).translate(raised)

    return FuncFormatter(text)


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
    """The colour of a series; after the last one they repeat."""
    return SERIES[series % len(SERIES)]


def short(name: str, most: int = 30) -> str:
    """A name that fits a legend."""
    return name if len(name) <= most else name[: most - 1] + "…"


def bars(axes: Axes, low: Any, high: Any, color: str, width: float, label: str, *, alpha: float, at: Any = None) -> None:
    """Vertical bars as one line with gaps, a tenth of a collection's size in the file."""
    at = np.arange(len(low)) if at is None else at
    gap = np.full(len(low), np.nan)
    x, y = np.stack([at, at, gap], 1).ravel(), np.stack([low, high, gap], 1).ravel()
    axes.plot(x, y, color=color, linewidth=width, alpha=alpha, solid_capstyle="butt", label=label or "_")


def every(size: int, most: int) -> np.ndarray:
    """At most `most` indices out of `size`, evenly spaced, both ends included."""
    return np.linspace(0, size - 1, min(size, _check.count("the most that is drawn", most))).round().astype(int)
