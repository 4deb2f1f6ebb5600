"""Which figures a report has, each with what it shows in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from bayesreg import plots
from bayesreg._text import counted, number, percent
from bayesreg.comparison import Comparison
from bayesreg.metrics import readings as _readings
from bayesreg.posteriors.base import AbstractPosterior
from bayesreg.reports.pairs import tensor_finding
from bayesreg.reports.rows import MAX_OUTPUTS, num_outputs
from bayesreg.reports.svg import inline

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_ROWS = 100


@final
@dataclass(frozen=True)
class Drawn:
    """One figure of the page.

    Attributes:
        title: What it is of.
        finding: What it shows, in words.
        label: Id of the words.
        svg: The element.
    """

    title: str
    finding: str
    label: str
    svg: str


class Gallery:
    """Draws figures and numbers them, so that ids on one page never clash."""

    def __init__(self) -> None:
        self.count = 0

    def draw(self, figure: Figure, title: str, finding: str) -> Drawn:
        """Put one figure on the page.

        Args:
            figure: The figure.
            title: What it is of.
            finding: What it shows.

        Returns:
            What the template needs.
        """
        self.count += 1
        label = f"figure-{self.count}"
        return Drawn(title, finding, label, inline(figure, f"f{self.count}", label))


def draw_all(
    posteriors: Mapping[str, AbstractPosterior], comparison: Comparison, y: Any, data: dict[str, Any]
) -> dict[str, Any]:
    """Every figure of the report by section.

    Args:
        posteriors: By name.
        comparison: What `compare` found for them.
        y: The targets that it scored.
        data: The report's facts.

    Returns:
        `Drawn`s: "history" by posterior, "parameters" by pair, "calibration", "parts" and "predictions" by output.
    """
    gallery, series = Gallery(), {name: i for i, name in enumerate(posteriors)}
    return {
        "history": {
            name: gallery.draw(plots.history(p, series=series[name]), p.history.label, _history(p))
            for name, p in posteriors.items()
            if len(p.history.steps) > 1
        },
        "parameters": [
            [
                gallery.draw(
                    plots.parameters(
                        posteriors[pair["mode"]], posteriors[pair["posterior"]], t["tensor"], series=series[pair["posterior"]]
                    ),
                    t["tensor"],
                    tensor_finding(t),
                )
                for t in pair["tensors"]
                if t["tensor"] in pair["figures"]
            ]
            for pair in data["pairs"]
        ],
        "calibration": _calibration(gallery, comparison, y, data, series),
        "parts": _parts(gallery, comparison),
        "predictions": _predictions(gallery, comparison, y, series),
    }


def _history(posterior: AbstractPosterior) -> str:
    history = posterior.history
    name = "log joint" if history.label == "log joint" else "ELBO, an estimate from a few draws at each step,"
    return (
        f"The {name} went from {number(history.objective[0])} nats at step {history.steps[0]:,} "
        f"to {number(history.objective[-1])} at step {history.steps[-1]:,}."
    )


def _calibration(
    gallery: Gallery, comparison: Comparison, y: Any, data: dict[str, Any], series: Mapping[str, int]
) -> list[Drawn]:
    facts = data["calibration"]
    if comparison.labels is not None:
        return [
            gallery.draw(plots.reliability(p, y, series=series[n]), n, facts[n]["finding"])
            for n, p in comparison.predictives.items()
        ]
    said = "; ".join(facts[name]["curve_finding"] for name in comparison.predictives)
    curve = gallery.draw(
        plots.coverage(comparison, y),
        "All: coverage of central intervals",
        f"{said}. By chance, a calibrated one leaves it at about 2.",
    )
    return [
        curve,
        *(gallery.draw(plots.pit(p, y, series=series[n]), n, facts[n]["finding"]) for n, p in comparison.predictives.items()),
    ]


def _shown_outputs(comparison: Comparison) -> list[int]:
    """Outputs that get figures: as many as make about a dozen of them."""
    width = num_outputs(comparison.predictives[comparison.best])
    return list(range(min(width, MAX_OUTPUTS, max(1, 12 // len(comparison.predictives)))))


def _titled(name: str, output: int, comparison: Comparison) -> str:
    return f"{name}, output {output}" if num_outputs(comparison.predictives[comparison.best]) > 1 else name


def _parts(gallery: Gallery, comparison: Comparison) -> list[list[Drawn]]:
    found: list[list[Drawn]] = []
    for k in _shown_outputs(comparison):
        rows = {name: _readings.variance_rows(p, k) for name, p in comparison.predictives.items()}
        top = max(_top(a + e) for a, e in rows.values())  # one axis for all, so that heights compare
        found.append([])
        for name, predictive in comparison.predictives.items():
            aleatoric, epistemic = rows[name]
            share = epistemic / (aleatoric + epistemic).clip(min=1e-300)
            finding = (
                "No epistemic part: a mode is one function."
                if predictive.num_samples == 1
                else f"The epistemic share of a row runs from {percent(float(share.min()))} to {percent(float(share.max()))}."
            )
            figure = plots.variance_parts(predictive, output=k, top=top)
            found[-1].append(gallery.draw(figure, _titled(name, k, comparison), finding))
    return found


def _top(variance: Any) -> float:
    import numpy as np

    groups = np.array_split(np.sort(variance), min(60, len(variance)))
    return float(groups[-1].mean())


def _predictions(gallery: Gallery, comparison: Comparison, y: Any, series: Mapping[str, int]) -> list[list[Drawn]]:
    found: list[list[Drawn]] = []
    for k in _shown_outputs(comparison):
        found.append([])
        for name, predictive in comparison.predictives.items():
            figure = plots.predictions(predictive, y, output=k, max_rows=MAX_ROWS, series=series[name])
            shown = f"{min(MAX_ROWS, predictive.num_rows)} of {counted(predictive.num_rows, 'row')}"
            if comparison.labels is None:
                truth = predictive.target(y)
                u = predictive.pit(truth) if truth.dim() == 1 else predictive.pit(truth)[:, k]
                outside = int(((u < 0.025) | (u > 0.975)).sum())
                finding = f"Outside their 95 % interval: {outside:,} of all {counted(len(u), 'row')} ({shown} drawn)."
            else:
                wrong = round((1 - comparison.scores[name]["accuracy"]) * predictive.num_rows)
                finding = f"Wrong class: {wrong:,} of all {counted(predictive.num_rows, 'row')} ({shown} drawn)."
            found[-1].append(gallery.draw(figure, _titled(name, k, comparison), finding))
    return found
