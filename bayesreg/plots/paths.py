"""The figure of a path: weights, how many the data decide, and held-out scores, over penalty weight and prior scale."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bayesreg.plots.palette import DASHES, GRID, INK, MARKERS, MUTED, PAPER, styled
from bayesreg.plots.style import every, figure_legend, panels, series_color, short
from bayesreg.priors.groups import grouped
from bayesreg.selection.path_result import Path

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LINES = 60
_NAMED = 12  # lines that are named at their end
_WORDS = {"cv": "cv: best score", "1se": "1se: strongest within 1 se of it", "evidence": "evidence: highest"}


@styled()
def path(path: Path, *, names: Sequence[str] | None = None, max_lines: int = _LINES) -> Figure:
    """Weights, degrees of freedom with exact zeros, and held-out score ± one standard error, in three panels.

    The strongest penalty is on the left: below is the prior's scale, above the penalty's weight. Under a group prior a line is
    the norm of a group. Vertical lines are the scales that `best` chooses.

    Args:
        path: The result of `bayesreg.path`.
        names: Names of the lines of the first panel, for up to 12: the inputs of a linear model or of a first layer under
            GroupLasso(per="column").
        max_lines: Lines drawn; of more weights, every so-many-th.

    Returns:
        The figure.

    Raises:
        ValueError: If the path has one scale only, or there are not as many names as lines.
    """
    if len(path) < 2:
        raise ValueError(f"a path must have at least two scales to be drawn, but {len(path)} came; pass several scales.")
    lines, what = _lines(path)
    if names is not None and len(names) != lines.shape[1]:
        raise ValueError(f"names must be one a line, but {len(names)} came for {lines.shape[1]}; leave them out.")
    shown = [_weights, _freedom] + ([_score] if path.held_out is not None else [])
    figure, axes = panels(len(shown), 1, 420 / 72, 165 / 72)
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 44 / 72)
    marks = path.marks()
    for panel in axes:
        panel.set_xscale("log")
        for i, at in enumerate(marks.values()):
            dash = DASHES[(i + 1) % len(DASHES)]
            panel.axvline(float(path.scales[at]), color=series_color(i + 1), linewidth=1.4, linestyle=dash, zorder=1)
        panel.set_xlim(float(path.scales[0]) / 1.05, float(path.scales[-1]) * 1.05)
    _weights(axes[0], path.scales.numpy(), lines[:, every(lines.shape[1], max_lines)], what, names)
    _freedom(axes[1], path)
    if path.held_out is not None:
        _score(axes[2], path)
    for panel in axes[:-1]:
        panel.tick_params(labelbottom=False)
    _twin(axes[0], path)
    axes[-1].set_xlabel("prior scale   (left: strong penalty)")
    _name_marks(figure, marks)
    return figure


def _lines(path: Path) -> tuple[np.ndarray, str]:
    """The lines, (R, L), and what they show."""
    found, parts, norms = path.coefficients, [], False
    for name in path.names:
        prior: Any = path.models[0].latents[name].prior
        value = found[name].cpu().double()
        if prior.shrinks_groups:
            value, norms = torch.stack([torch.linalg.vector_norm(grouped(v, prior.per), dim=1) for v in value]), True
        parts.append(value.flatten(1))
    return torch.cat(parts, 1).numpy(), "norm of a group" if norms else "weight"


def _weights(axes: Axes, scales: np.ndarray, lines: np.ndarray, what: str, names: Sequence[str] | None) -> None:
    few = lines.shape[1] <= _NAMED
    axes.axhline(0, color=MUTED, linewidth=1)
    for i, line in enumerate(lines.T):
        style: dict[str, Any] = {"color": series_color(i), "linestyle": DASHES[i // 6 % len(DASHES)]} if few else {"color": INK}
        axes.plot(scales, line, linewidth=1.5 if few else 0.7, alpha=1.0 if few else 0.5, **style)
    axes.set_ylabel(what)
    if names is None or not few:
        return
    low, high = axes.get_ylim()
    order, gap = np.argsort(lines[-1]), 0.085 * (high - low)
    at = lines[-1][order].astype(float)
    for i in range(1, len(at)):  # names that would overlap move apart
        at[i] = max(at[i], at[i - 1] + gap)
    at[-1] = min(at[-1], high)
    for i in range(len(at) - 2, -1, -1):
        at[i] = min(at[i], at[i + 1] - gap)
    for y, i in zip(at, order, strict=True):
        name = short(str(names[i]), 14)
        axes.annotate(name, (1.01, y), xycoords=("axes fraction", "data"), color=series_color(int(i)), fontsize=10, va="center")


def _freedom(axes: Axes, path: Path) -> None:
    scales, place = path.scales.numpy(), 0.9
    style: dict[str, Any] = {
        "xycoords": "axes fraction",
        "fontsize": 11,
        "bbox": {"facecolor": PAPER, "linewidth": 0, "pad": 1},
    }
    if path.degrees_of_freedom is not None:
        axes.plot(scales, path.degrees_of_freedom, color=series_color(0), marker=MARKERS[0], markersize=3.5, linewidth=1.5)
        axes.annotate("degrees of freedom", (0.02, place), color=series_color(0), **style)
        place -= 0.14
    total = sum(path.models[0].latents[name].shape.numel() for name in path.names)
    left = total - path.zeros.cpu().numpy()
    if (left < total).any():
        axes.step(scales, left, color=series_color(1), linewidth=1.3, linestyle=DASHES[1], where="mid")
        axes.annotate("weights that are not zero", (0.02, place), color=series_color(1), **style)
    axes.set_ylim(0, None)
    axes.set_ylabel("number")


def _score(axes: Axes, path: Path) -> None:
    scales, score, error = path.scales.numpy(), path.score.numpy(), path.standard_error.numpy()
    axes.fill_between(scales, score - error, score + error, color=GRID, linewidth=0)
    axes.plot(scales, score, color=INK, marker=MARKERS[0], markersize=3.5, markeredgecolor=PAPER, linewidth=1.5)
    top = int(score.argmax())
    axes.axhline(score[top] - error[top], color=MUTED, linewidth=1, linestyle=(0, (1, 1.5)))
    span = max(score[top] - np.quantile(score, 0.25), 4 * error[top])
    if score.min() < score[top] - 2.5 * span:  # the loss of the strongest penalties would flatten all the rest
        axes.set_ylim(score[top] - 2 * span, score[top] + error[top] + 0.15 * span)
    axes.set_ylabel("held out\n(nats a row)")
    axes.annotate("band: ± 1 se", (0.98, 0.08), xycoords="axes fraction", ha="right", color=MUTED, fontsize=11)


def _twin(axes: Axes, path: Path) -> None:
    """The penalty's weight above the first panel."""
    power = path.power

    def weight(scale: Any) -> Any:
        with np.errstate(divide="ignore", invalid="ignore"):  # Matplotlib asks for the ends of an empty axis first
            return np.asarray(scale, dtype=float) ** -power

    def scale(weight: Any) -> Any:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(weight, dtype=float) ** (-1 / power)

    twin = axes.secondary_xaxis("top", functions=(weight, scale))
    twin.set_xlabel(
        "penalty weight λ = 1/scale² (nats per ½w²)" if power == 2 else "penalty weight λ = 1/scale (nats per unit)"
    )
    twin.tick_params(colors=MUTED, length=0)


def _name_marks(figure: Figure, marks: dict[str, int]) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=series_color(i + 1), linewidth=1.4, linestyle=DASHES[(i + 1) % len(DASHES)], label=_WORDS[rule])
        for i, rule in enumerate(marks)
    ]
    if handles:
        figure_legend(figure, handles, "outside lower center")
