"""Figures of an answer to A x = b: a curve with its band, an image with its sd, and how much data narrowed each direction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bayesreg._text import percent
from bayesreg.inverse import Analysis, judge
from bayesreg.plots.palette import DASHES, EPISTEMIC, GRID, INK, MUTED, styled
from bayesreg.plots.style import figure_legend, one_panel, panels, powers, series_color
from bayesreg.posteriors.base import AbstractPosterior

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DRAWS = 2000


@styled()
def reconstruction(posterior: AbstractPosterior, b: Any, truth: Any = None, *, level: float = 0.9, series: int = 0) -> Figure:
    """The answer with its uncertainty: of a vector a curve with a band, of an image the mean and, beside it, the sd.

    The band is pointwise: a central interval of each entry by itself. A mode has none.

    Args:
        posterior: A fit of a model of an operator.
        b: The measurements.
        truth: x, drawn beside it.
        level: Of the band.
        series: Which colour of the palette.

    Returns:
        The figure.

    Raises:
        ValueError: If the unknown is neither a vector nor an image, or as for `inverse.judge`.
    """
    found = judge(posterior, b, truth, level=level)
    x = None if truth is None else np.asarray(truth, dtype=float).reshape(found.mean.shape)
    if found.mean.dim() == 2:
        return _images(found, x)
    if found.mean.dim() != 1:
        raise ValueError(f"what is drawn must be a vector or an image, but {tuple(found.mean.shape)} came; draw a slice of it.")
    figure, axes = one_panel()
    at = np.arange(len(found.mean))
    if found.lower is not None and found.upper is not None:
        label = f"{percent(level)} band"
        axes.fill_between(at, found.lower, found.upper, color=series_color(series), alpha=0.25, linewidth=0, label=label)
    if x is not None:
        axes.plot(at, x, color=INK, linewidth=1.3, linestyle=DASHES[1], label="truth")
    axes.plot(at, found.mean, color=series_color(series), linewidth=1.6, label="mode" if found.sd is None else "mean")
    axes.set_xlabel("entry of x")
    figure_legend(figure, axes.get_legend_handles_labels()[0], spare=2)
    return figure


def _images(found: Any, truth: np.ndarray | None) -> Figure:
    """Truth, mean and sd as images; the first two on one scale of grey."""
    shown = [] if truth is None else [("truth", truth)]
    shown += [("mode" if found.sd is None else "mean", found.mean.numpy())]
    shown += [] if found.sd is None else [("sd", found.sd.numpy())]
    figure, axes = panels(len(shown), 3, 240 / 72, 215 / 72)
    values = np.concatenate([image.ravel() for name, image in shown if name != "sd"])
    low, high = np.quantile(values, [0.001, 0.999])
    for panel, (name, image) in zip(axes, shown, strict=True):
        ends = {} if name == "sd" else {"vmin": low, "vmax": high}
        drawn = panel.imshow(image, cmap="cividis" if name == "sd" else "gray", interpolation="nearest", **ends)
        figure.colorbar(drawn, ax=panel, shrink=0.85)
        panel.set_title(name, fontsize=12)
        panel.set_xticks([])
        panel.set_yticks([])
        panel.grid(visible=False)
    return figure


@styled()
def directions(analysis: Analysis, posterior: AbstractPosterior, *, seed: int = 0, max_directions: int = 60) -> Figure:
    """Prior and posterior sd along A's singular vectors, the null space last: where A says nothing they are the same.

    Args:
        analysis: What `inverse.analyse(operator)` found.
        posterior: A fit under a proper prior, by a method that gives draws of the whole.
        seed: Of the draws: 2,000 of each, so that an sd is known to 1.6 %.
        max_directions: Directions that are drawn; of more, every so-many-th.

    Returns:
        The figure.

    Raises:
        ValueError: If the posterior is a mode or its prior improper.
    """
    if posterior.at_a_point:
        raise ValueError("a posterior must have an sd to be drawn, but a mode has none; take method='exact'.")
    if posterior.model.improper:
        raise ValueError(
            "the prior must be proper to have an sd, but it is flat in some directions; give Smooth a level_scale."
        )
    basis = torch.cat([analysis.right, analysis.null_space], 1)
    rank, total = analysis.rank, basis.shape[1]
    kept = np.unique(np.linspace(0, total - 1, min(total, max_directions)).round().astype(int))
    basis = basis[:, kept]
    after = posterior.sample(_DRAWS, seed=seed)["x"].reshape(_DRAWS, -1).double() @ basis
    model: Any = posterior.model
    before = model.sample_prior(_DRAWS, seed=seed)["x"].reshape(_DRAWS, -1).double() @ basis
    figure, axes = one_panel()
    if rank < total:
        axes.axvspan(rank + 0.5, total + 0.5, color=GRID, linewidth=0)
        axes.annotate("null space:\nprior's sd", (0.98, 0.06), xycoords="axes fraction", ha="right", color=MUTED, fontsize=11)
    axes.semilogy(kept + 1, before.std(0), color=INK, linestyle=DASHES[1], marker="s", markersize=3, linewidth=1, label="prior")
    axes.semilogy(kept + 1, after.std(0), color=EPISTEMIC, marker="o", markersize=3.5, linewidth=1.4, label="posterior")
    axes.yaxis.set_major_formatter(powers())
    axes.set_xlabel("i, singular vectors vᵢ from the best measured")
    axes.set_ylabel("sd along vᵢ")
    figure_legend(figure, axes.get_legend_handles_labels()[0], spare=2)
    return figure
