"""Figures of an inverse problem's spectrum and of the rules for λ: Picard, filter factors, rules on one axis, L-curve."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bayesreg._text import number
from bayesreg.inverse import Analysis, Choice
from bayesreg.plots.palette import DASHES, INK, MARKERS, MUTED, PAPER, styled
from bayesreg.plots.style import figure_legend, one_panel, panels, powers, series_color, ticks

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_BELOW = 1e-18  # of the largest, which a logarithmic axis does not show


@styled()
def picard(analysis: Analysis) -> Figure:
    """Singular values, coefficients |uᵢᵀb| and their ratio: where the coefficients level off, noise begins.

    Args:
        analysis: What `inverse.analyse(operator, b)` found.

    Returns:
        The figure.
    """
    from matplotlib.ticker import LogLocator

    s, c = analysis.singular_values.numpy(), analysis.coefficients.abs().numpy()
    figure, axes = one_panel()
    index = np.arange(1, len(s) + 1)
    lines = [(s, "sᵢ", "-", ""), (c, "|uᵢᵀb|", "", "o"), (c / s, "|uᵢᵀb|/sᵢ, its part of x", "", "x")]
    axes.set_yscale("log")
    for i, (values, label, line, marker) in enumerate(lines):
        style: dict[str, Any] = {"linestyle": line, "marker": marker, "markersize": 4, "linewidth": 1.6}
        axes.plot(index, np.maximum(values, _BELOW * values.max()), color=series_color(i), label=label, **style)
    if analysis.noise_scale is not None:
        axes.axhline(analysis.noise_scale, color=INK, linewidth=1, linestyle=DASHES[1], label="σ: noise in each |uᵢᵀb|")
    axes.yaxis.set_major_locator(LogLocator(numticks=6))
    axes.yaxis.set_major_formatter(powers())
    axes.set_xlabel("i, singular values from the largest")
    figure_legend(figure, axes.get_legend_handles_labels()[0], spare=2)
    return figure


@styled()
def filter_factors(choice: Choice) -> Figure:
    """Filter factors fᵢ of each rule's λ: 1 where the data decide a direction, 0 where the prior does; their sum are the df.

    Args:
        choice: What `inverse.choose` found.

    Returns:
        The figure.
    """
    figure, axes = one_panel()
    index = np.arange(1, len(choice.data.spectrum.values) + 1)
    for i, (name, found) in enumerate(choice.chosen.items()):
        if math.isnan(found.lam):
            continue
        label = f"{name}: {number(found.degrees_of_freedom, 3)} df"
        factors = choice.data.spectrum.filters(found.lam).numpy()
        style: dict[str, Any] = {"marker": MARKERS[i % 6], "markersize": 3.5, "linestyle": DASHES[i % 6], "linewidth": 1.2}
        axes.plot(index, factors, color=series_color(i), label=label, **style)
    axes.set_ylim(-0.03, 1.05)
    axes.set_xlabel("i, directions from the best measured")
    axes.set_ylabel("share decided by the data")
    figure_legend(figure, axes.get_legend_handles_labels()[0], spare=2)
    return figure


@styled()
def penalty_weights(choice: Choice, truth: Any = None) -> Figure:
    """Every rule over λ, below, and over the prior's scale, above: what each minimises, the residual, and the error if known.

    Each rule's curve is drawn between its lowest point, which is marked, and its height at the ends; only its shape counts.

    Args:
        choice: What `inverse.choose` found.
        truth: x, for a panel with the true relative error; it has none where the operator was not taken apart.

    Returns:
        The figure.
    """
    lam = choice.lambdas.numpy()
    shown, truth = _window(choice), truth if choice.exact else None
    figure, axes = panels(3 if truth is not None else 2, 1, 420 / 72, 165 / 72)
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + 44 / 72)
    for panel in axes:
        panel.set_xscale("log")
        panel.set_xlim(*shown)
        panel.xaxis.set_major_formatter(powers())
        for i, found in enumerate(choice.chosen.values()):
            if not math.isnan(found.lam):
                panel.axvline(found.lam, color=series_color(i), linewidth=1.3, linestyle=DASHES[i % 6], zorder=1)
    inside = (lam >= shown[0]) & (lam <= shown[1])
    for i, (name, curve) in enumerate(choice.curves.items()):
        _shape(axes[0], lam[inside], curve.numpy()[inside], choice.chosen[name].lam, i)
    axes[0].set_ylim(-0.06, 1.06)
    axes[0].set_yticks([])
    axes[0].set_ylabel("what is minimised")
    sigma = choice.noise_scale
    ratio = (choice.data.residual_squares(choice.lambdas).numpy() / len(choice.data.b)) ** 0.5 / sigma
    axes[1].plot(lam, ratio, color=INK, linewidth=1.5)
    axes[1].axhline(1, color=MUTED, linewidth=1)
    top = float(np.max(ratio[inside]))
    axes[1].set_ylim(0, min(1.08 * top, 4.0))
    axes[1].set_ylabel("residual/σ√M")
    if truth is not None:
        _error(axes[2], choice, truth)
    for panel in axes[:-1]:
        panel.tick_params(labelbottom=False)
    axes[-1].set_xlabel("λ = σ²/scale²   (right: strong penalty)")
    _scales_above(axes[0], sigma, choice.setting.sigma is not None)
    _names(figure, choice)
    return figure


@styled()
def l_curve(choice: Choice) -> Figure:
    """Size of the answer against size of the residual, both in logs, with each rule's point, and the curvature over λ.

    Args:
        choice: What `inverse.choose` found.

    Returns:
        The figure.
    """
    from matplotlib.ticker import LogLocator

    lam = choice.lambdas
    residual = choice.data.residual_squares(lam).sqrt().numpy()
    size = choice.data.penalty_squares(lam).sqrt().numpy()
    figure, axes = panels(2, 1, 420 / 72, 190 / 72)
    low, high = _window(choice)
    inside = ((lam >= low) & (lam <= high)).numpy()
    axes[0].loglog(residual[inside], size[inside], color=INK, linewidth=1.5)
    for axis in (axes[0].xaxis, axes[0].yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
        axis.set_major_formatter(ticks())
        axis.set_minor_formatter("")
    axes[0].set_xlabel("residual ‖A x − b‖")
    axes[0].set_ylabel("‖L x‖")
    axes[1].semilogx(lam[inside], choice.curvature.numpy()[inside], color=INK, linewidth=1.5)
    axes[1].xaxis.set_major_formatter(powers())
    axes[1].axhline(0, color=MUTED, linewidth=1)
    axes[1].set_xlabel("λ   (right: strong penalty)")
    axes[1].set_ylabel("curvature")
    for i, found in enumerate(choice.chosen.values()):
        if math.isnan(found.lam):
            continue
        at = torch.tensor([found.lam], dtype=torch.float64)
        point = float(choice.data.residual_squares(at).sqrt()), float(choice.data.penalty_squares(at).sqrt())
        axes[0].plot(*point, color=series_color(i), marker=MARKERS[i % 6], markersize=7, markeredgecolor=PAPER, linestyle="")
        axes[1].axvline(found.lam, color=series_color(i), linewidth=1.3, linestyle=DASHES[i % 6], zorder=1)
    _names(figure, choice)
    return figure


def _window(choice: Choice) -> tuple[float, float]:
    """The λ that are drawn: two powers of ten about all answers."""
    found = [c.lam for c in choice.chosen.values() if not math.isnan(c.lam)] or [float(choice.lambdas.median())]
    low, high = float(choice.lambdas[0]), float(choice.lambdas[-1])
    return max(low, min(found) / 100), min(high, max(found) * 100)


def _shape(axes: Axes, lam: np.ndarray, curve: np.ndarray, chosen: float, i: int) -> None:
    """One rule's curve between its lowest point and its ends, with the answer marked."""
    finite = np.where(np.isfinite(curve), curve, np.nan)
    positive = np.nanmin(finite) > 0
    drawn = np.log(finite) if positive else finite
    low = np.nanmin(drawn)
    high = max(min(drawn[0], drawn[-1]), np.nanquantile(drawn, 0.6))
    drawn = (drawn - low) / max(high - low, 1e-300)
    axes.plot(lam, np.minimum(drawn, 1.2), color=series_color(i), linewidth=1.5, linestyle=DASHES[i % 6])
    if not math.isnan(chosen) and np.isfinite(drawn).all():
        at = min(float(np.interp(math.log(chosen), np.log(lam), drawn)), 1.0)
        axes.plot(chosen, at, color=series_color(i), marker=MARKERS[i % 6], markersize=7, markeredgecolor=PAPER)


def _error(axes: Axes, choice: Choice, truth: Any) -> None:
    x = torch.tensor(np.asarray(truth), dtype=torch.float64).reshape(-1)
    errors = [float((choice.data.solution(lam) - x).norm() / x.norm()) for lam in choice.lambdas.tolist()]
    axes.semilogx(choice.lambdas, errors, color=INK, linewidth=1.5)
    best = int(np.argmin(errors))
    axes.plot(float(choice.lambdas[best]), errors[best], color=INK, marker="*", markersize=9)
    axes.xaxis.set_major_formatter(powers())
    axes.set_xlim(*_window(choice))
    axes.set_ylim(0, min(1.1, 6 * errors[best] + 0.05))
    axes.set_ylabel("true error")


def _scales_above(axes: Axes, sigma: float, known: bool) -> None:
    """The prior's scale σ/√λ above a panel."""

    def over(value: Any) -> Any:
        with np.errstate(divide="ignore", invalid="ignore"):  # Matplotlib asks for the ends of an empty axis first
            return sigma / np.sqrt(np.asarray(value, dtype=float))

    def back(value: Any) -> Any:
        with np.errstate(divide="ignore", invalid="ignore"):
            return (sigma / np.asarray(value, dtype=float)) ** 2

    twin = axes.secondary_xaxis("top", functions=(over, back))
    twin.xaxis.set_major_formatter(powers())
    twin.set_xlabel("prior scale" if known else f"prior scale, at σ = {number(sigma, 3)}")
    twin.tick_params(colors=MUTED, length=0)


def _names(figure: Figure, choice: Choice) -> None:
    from matplotlib.lines import Line2D

    handles = []
    for i, (name, found) in enumerate(choice.chosen.items()):
        style: dict[str, Any] = {"linestyle": DASHES[i % 6], "marker": MARKERS[i % 6], "markersize": 6}
        label = f"{name}: none" if math.isnan(found.lam) else f"{name}: λ = {number(found.lam, 2)}"
        handles.append(Line2D([], [], color=series_color(i), linewidth=1.4, label=label, **style))
    figure_legend(figure, handles, "outside lower center")
