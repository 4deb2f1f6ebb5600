"""Two weights: the level lines of loss and penalty, and the MAP where two of them touch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bayesreg._text import number
from bayesreg.plots.palette import INK, MUTED, PAPER, SERIES, styled
from bayesreg.plots.readings import loss, map_of_two, mean_of_two, named, own_mode, penalties, quadratic, settled
from bayesreg.plots.style import figure_legend, panels, short
from bayesreg.priors import AbstractElementwisePrior, AbstractPrior, Laplace, Normal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LOSS, _PENALTY = SERIES[0], SERIES[1]
_DASH = (0, (4, 1.5))
_POINTS = 161
_LEAST = 1e-9  # nats; a smaller penalty is that of the mode, rounded
_FRACTIONS = (1 / 3, 2 / 3, 1.0, 4 / 3, 5 / 3, 2.0)


@styled()
def level_sets(
    *priors: AbstractPrior | Mapping[str, AbstractPrior],
    estimate: Sequence[float] = (1.3, 2.6),
    precision: Sequence[Sequence[float]] = ((2.0, -1.0), (-1.0, 1.4)),
) -> Figure:
    """Level lines of a quadratic loss and of the penalty over two weights, with the MAP where they touch.

    The loss is ½(w − ŵ)ᵀA(w − ŵ), in nats: ellipses about the least-squares estimate ŵ. At the MAP no step lowers loss plus
    penalty, so the loss's level line through it and the penalty's only touch: anywhere else they would cross, and a step
    along one of them would lower the other. A round level line (L2) is touched off the axes, one with corners on the axes
    (L1) often at a corner, where a weight is exactly zero.

    A prior whose density has a pole (a horseshoe) has no MAP; its posterior mean is marked instead, and no lines touch there.

    Args:
        *priors: One to six priors of two weights, a panel each, or one mapping from names to priors; Normal(1.0) and
            Laplace(1.0), that is L2 and L1, when there are none.
        estimate: ŵ, where the loss is least.
        precision: A, its curvature; XᵀX/σ² for a linear regression on two columns X with noise sd σ.

    Returns:
        The figure.

    Raises:
        ValueError: If these are no priors of two weights, more than six, or estimate and precision define no convex quadratic;
            or if one with a pole joins the two weights or is improper.

    References:
        Tibshirani (1996), Regression shrinkage and selection via the lasso (figure 2).
    """
    given = {name: settled(name, prior, (2,)) for name, prior in named(priors or (Normal(1.0), Laplace(1.0))).items()}
    least, bowl = quadratic(estimate, precision)
    found = [_point(name, prior, estimate, precision) for name, prior in given.items()]
    window = _window(list(zip(given.values(), found, strict=True)), least)
    figure, all_axes = panels(len(given), 3, 3.3, 3.4)
    for axes, (name, prior), point in zip(all_axes, given.items(), found, strict=True):
        _panel(axes, prior, least, bowl, point, window)
        at = ", ".join(number(float(w), 2) for w in point)
        axes.set_title(f"{short(name)}\n{'MAP' if prior.bounded else 'no MAP; mean'} at ({at})", loc="left", fontsize=12)
    figure_legend(figure, _handles())
    return figure


def _point(name: str, prior: AbstractPrior, estimate: Any, precision: Any) -> torch.Tensor:
    """The MAP, or the posterior mean where there is none.

    Raises:
        ValueError: If there is none and the prior joins the two weights or is improper.
    """
    if prior.bounded:
        return map_of_two(prior, estimate=estimate, precision=precision)
    if not isinstance(prior, AbstractElementwisePrior) or not prior.proper:
        what = "joins the weights" if prior.proper else "is improper"
        raise ValueError(
            f"a prior with a pole must be elementwise and proper to be drawn, but {name} {what}; draw for example "
            "Horseshoe(1.0)."
        )
    return mean_of_two(prior, estimate=estimate, precision=precision)


def _window(pairs: list[tuple[AbstractPrior, torch.Tensor]], least: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Lower left and upper right corner of a square that holds ŵ and every level line of a penalty through a MAP."""
    corners = [torch.zeros(2, dtype=least.dtype), least]
    reach = 1.2 * float(torch.stack([least, *(mode for _, mode in pairs)]).abs().max())
    grid = torch.cartesian_prod(*2 * [torch.linspace(-reach, reach, 97, dtype=least.dtype)])
    for prior, mode in pairs:
        level, costs = float(prior.penalty(mode)), penalties(prior, grid)
        inside = grid[(costs <= level) & (costs < costs.max()) & prior.bounded]  # a flat prior has no level line
        corners += [mode, least + 0.4 * (least - mode), *([inside.amin(0), inside.amax(0)] if len(inside) else [])]
    low, high = torch.stack(corners).amin(0), torch.stack(corners).amax(0)
    middle, half = 0.5 * (low + high), 0.57 * float((high - low).max()) or 1.0  # 1: everything is at the origin
    return middle - half, middle + half


def _panel(
    axes: Axes,
    prior: AbstractPrior,
    least: torch.Tensor,
    bowl: torch.Tensor,
    mode: torch.Tensor,
    window: tuple[torch.Tensor, torch.Tensor],
) -> None:
    grid, x, y = _points(window, [mode.new_zeros(2), mode])
    height, cost = (v.reshape(len(x), len(y)).T.numpy() for v in (loss(grid, least, bowl), penalties(prior, grid)))
    axes.grid(False)
    for line in (axes.axhline, axes.axvline):
        line(0, color=MUTED, linewidth=0.8)
    at_mode, same = float(prior.penalty(mode)), torch.allclose(mode, least, rtol=0, atol=1e-9)
    own = own_mode(prior)
    costs = penalties(prior, _ray(own, mode if at_mode > _LEAST or not prior.bounded else least)).tolist()
    heights = loss(_ray(least, own if same else mode), least, bowl).tolist()
    for values, levels, color, dash in ((cost, costs, _PENALTY, _DASH), (height, heights, _LOSS, "-")):
        axes.contour(x, y, values, _apart(levels), colors=color, linewidths=0.9, linestyles=[dash], alpha=0.75)
    if prior.bounded and at_mode > _LEAST:
        axes.contourf(x, y, cost, [-math.inf, at_mode], colors=_PENALTY, alpha=0.14)
        axes.contour(x, y, cost, [at_mode], colors=_PENALTY, linewidths=2.2)
    if prior.bounded and not same:
        axes.contour(x, y, height, [float(loss(mode, least, bowl))], colors=_LOSS, linewidths=2.2)
    (left, bottom), (right, top) = (end.tolist() for end in window)
    if not same:
        marker, text = ("o", "MAP") if prior.bounded else ("s", "mean")
        before = bool(mode[0] < least[0])  # the label goes on the side away from the other point
        _mark(axes, mode, marker, text, (-9 if before else 9, 0), "right" if before else "left", "center")
    place = (float(least[0]) - left) / (right - left)
    across = "left" if place < 0.25 else "right" if place > 0.75 else "center"
    above = bool(least[1] >= mode[1])
    text = "least squares = MAP" if same else "least squares"
    _mark(axes, least, "D", text, (0, 8 if above else -8), across, "bottom" if above else "top")
    axes.set_xlim(left, right)
    axes.set_ylim(bottom, top)
    axes.set_aspect("equal")
    axes.set_xlabel("w₁")
    axes.set_ylabel("w₂")


def _ray(start: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
    """Points from one point towards the other and beyond, at even distances: one for each level line."""
    return torch.stack([start + fraction * (end - start) for fraction in _FRACTIONS])


def _points(
    window: tuple[torch.Tensor, torch.Tensor], through: list[torch.Tensor]
) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """A grid (M, 2) over the window with its two axes; some points lie on it exactly, so that corners stay corners."""
    low, high = window
    axes = []
    for i in range(2):
        exact = [float(point[i]) for point in through]
        even = np.linspace(float(low[i]), float(high[i]), _POINTS)
        near = np.abs(even[:, None] - np.array(exact)).min(1) < 0.2 * (even[1] - even[0])  # no two of them nearly equal
        axes.append(np.unique([*even[~near], *exact]))
    return torch.cartesian_prod(*map(torch.from_numpy, axes)), axes[0], axes[1]


def _apart(levels: list[float]) -> list[float]:
    """Increasing levels, of nearly equal ones only the first."""
    found: list[float] = []
    for level in sorted(level for level in levels if math.isfinite(level)):
        if level != 0 and (not found or level > found[-1] + 1e-6 * abs(level)):
            found.append(level)
    return found


def _mark(axes: Axes, point: torch.Tensor, marker: str, text: str, offset: tuple[int, int], across: str, up: str) -> None:
    """A point and its label, at a distance in points, with a white outline that keeps it off the lines."""
    from matplotlib.patheffects import withStroke

    x, y = point.tolist()
    axes.plot([x], [y], marker, color=INK, markersize=7, markeredgecolor=PAPER, markeredgewidth=1, zorder=5)
    seam = [withStroke(linewidth=3, foreground=PAPER)]
    axes.annotate(text, (x, y), offset, textcoords="offset points", ha=across, va=up, fontsize=11, zorder=6, path_effects=seam)


def _handles() -> list[Any]:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    return [
        Line2D([], [], color=_LOSS, label="loss"),
        Line2D([], [], color=_PENALTY, linestyle=_DASH, label="penalty"),
        Line2D([], [], color=INK, linewidth=2.2, label="through the MAP"),
        Patch(facecolor=_PENALTY, alpha=0.25, label="smaller penalty"),
    ]
