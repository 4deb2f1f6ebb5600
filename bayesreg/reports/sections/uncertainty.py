"""The report's section on aleatoric and epistemic variance, and on the size of a learned noise scale."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, final

import numpy as np
import torch

from bayesreg import plots
from bayesreg._text import bounds, counted, listing, number, percent, plus_minus
from bayesreg.comparison import Comparison
from bayesreg.metrics import readings as _readings
from bayesreg.metrics.measures import plain
from bayesreg.posteriors.base import AbstractPosterior
from bayesreg.predictive.mixture import Predictive
from bayesreg.reports.base import AbstractSection, Card, Drawn, Line, Material, num_outputs
from bayesreg.reports.judged import judgements
from bayesreg.reports.scatter import scatter_card

MAX_OUTPUTS, MAX_ROWS = 6, 100
# A mode's noise scale is its whole predictive sd, so half of its error is too little; a posterior's is only the
# aleatoric part, too little at a tenth of the error where the predictive sd is at a half
COLLAPSED, SMALL = 0.1, 0.5
_FEW = 10
_NARROW = 0.9  # of another posterior's noise, below which a mode's sd says that its noise is too small


@final
class Uncertainty(AbstractSection):
    """The two parts of the variance."""

    id: ClassVar[str] = "uncertainty"
    title: ClassVar[str] = "Uncertainty"
    place: ClassVar[float] = 7
    tests: ClassVar[bool] = True
    template: ClassVar[str] = """<section id="uncertainty">
<h2>Aleatoric and epistemic parts</h2>
<p>Variance of a prediction = aleatoric (noise, which stays) + epistemic (uncertainty about the function, which more data would reduce). A mode shows only the first.</p>
{% call sheet("Parts of the variance", "Over the test rows; sds are roots of mean variances" ~ (", in target units" if regression else " of the class indicator") ~ ("; the first %d of %d outputs" % (max_outputs, data.data.num_outputs) if regression and data.data.num_outputs > max_outputs else ""), ["posterior", "predictive sd", "aleatoric sd", "epistemic sd", "epistemic share", "on the most uncertain 10 %", "largest of a row"]) %}
{% set sds = data.uncertainty | map(attribute="sd") | column %}
{% set aleatoric = data.uncertainty | map(attribute="aleatoric_sd") | column %}
{% set epistemic = data.uncertainty | map(attribute="epistemic_sd") | column %}
{% for u in data.uncertainty %}
<tr><th scope="row">{{ u.posterior }}{% if u.output is not none %}, output {{ u.output }}{% endif %}</th><td>{{ sds[loop.index0] }}</td><td>{{ aleatoric[loop.index0] }}</td><td>{{ epistemic[loop.index0] }}</td><td>{{ u.epistemic_share | percent }}</td><td>{{ u.epistemic_share_top | percent }}</td><td>{{ u.largest_share | percent }}</td></tr>
{% endfor %}
{% endcall %}
{% if regression and parts | length < data.data.num_outputs %}
<p>Figures show the first {{ parts | length }} of {{ data.data.num_outputs }} outputs.</p>
{% endif %}
<h3>Test rows from the least to the most uncertain</h3>
{% for group in parts %}
{{ gallery(group) }}
{% endfor %}
<h3>Predictions against observations</h3>
{% for group in predictions %}
{{ gallery(group) }}
{% endfor %}
</section>"""

    def facts(self, made: Material) -> dict[str, Any]:
        """One record for each posterior and output."""
        return {"uncertainty": made.once(parts)}

    def cards(self, made: Material) -> Iterable[Card]:
        """The uncertainty about the function, and whether a learned noise scale has collapsed."""
        noises = {name: part["finding"] for name, part in made.data["dropout"].items()}
        noises |= {name: part["noise"] for name, part in made.data["batchnorm"].items() if part["noise"]}
        yield epistemic_card(made.comparison.predictives, noises)
        if (noise := noise_card(made.posteriors, made.comparison, made.y, made.once(judgements))) is not None:
            yield noise
        if (scatter := scatter_card(made.comparison, made.y)) is not None:
            yield scatter

    def shown(self, made: Material) -> dict[str, Any]:
        """Both parts by row, and predictions against observations, by output."""
        width = num_outputs(made.comparison.predictives[made.comparison.best])
        outputs = range(min(width, MAX_OUTPUTS, max(1, 12 // len(made.posteriors))))  # about a dozen figures
        return {
            "parts": [_parts(made, k) for k in outputs],
            "predictions": [_predictions(made, k) for k in outputs],
            "max_outputs": MAX_OUTPUTS,
        }


def parts(made: Material) -> list[dict[str, Any]]:
    """As `uncertainty_facts`."""
    return uncertainty_facts(made.comparison)


def uncertainty_facts(comparison: Comparison) -> list[dict[str, Any]]:
    """The two parts of the variance, one record for each posterior and output."""
    found = []
    for name, predictive in comparison.predictives.items():
        for k in range(min(num_outputs(predictive), MAX_OUTPUTS)):
            aleatoric, epistemic = _readings.variance_rows(predictive, k)
            total = aleatoric + epistemic
            order = np.argsort(-total, kind="stable")[: math.ceil(0.1 * len(total))]
            known = max(total.sum(), 1e-300)
            found.append(
                {
                    "posterior": name,
                    "output": k if num_outputs(predictive) > 1 else None,
                    "mode": predictive.num_samples == 1,
                    "sd": plain(math.sqrt(total.mean())),
                    "aleatoric_sd": plain(math.sqrt(aleatoric.mean())),
                    "epistemic_sd": plain(math.sqrt(epistemic.mean())),
                    "epistemic_share": plain(epistemic.sum() / known),
                    "epistemic_share_top": plain(epistemic[order].sum() / max(total[order].sum(), 1e-300)),
                    "largest_share": plain((epistemic / np.maximum(total, 1e-300)).max()),
                }
            )
    return found


def epistemic_shares(predictive: Predictive) -> tuple[float, float]:
    """Share of the predictive variance that is epistemic: of all rows, and of the tenth with the largest variance.

        Σᵢ epistemicᵢ / Σᵢ (aleatoricᵢ + epistemicᵢ)

    With K outputs of a regression it is the mean of their shares, and a row's variance is measured in each output's mean.
    """
    parts = [_readings.variance_rows(predictive, k) for k in range(num_outputs(predictive))]
    total = sum((a + e) / max((a + e).mean(), 1e-300) for a, e in parts)
    top = np.argsort(-np.asarray(total), kind="stable")[: math.ceil(0.1 * predictive.num_rows)]

    def share(rows: Any) -> float:
        return float(np.mean([e[rows].sum() / max((a + e)[rows].sum(), 1e-300) for a, e in parts]))

    return share(slice(None)), share(top)


def epistemic_card(predictives: Mapping[str, Predictive], noises: Mapping[str, str] | None = None) -> Card:
    """The share of the predictive variance from uncertainty about the function, which a mode leaves out."""
    modes = [name for name, p in predictives.items() if p.num_samples == 1]
    shares = {name: epistemic_shares(p) for name, p in predictives.items() if name not in modes}
    lines = [
        Line("neutral", f"{name}: {percent(all_rows)} on average, {percent(top)} on the most uncertain tenth of the rows.")
        for name, (all_rows, top) in shares.items()
    ]
    if modes:
        none = "it is one function" if len(modes) == 1 else "each is one function"
        lines.append(Line("neutral", f"{listing(modes)}: none, since {none}."))
    lines += [Line("neutral", f"{name}: {words}") for name, words in (noises or {}).items()]
    if not shares:
        head = "Only modes are here: what is not known about the function does not show."
        return Card("Epistemic part", "neutral", head, tuple(lines), "uncertainty", 3)
    ends = [min(part[0] for part in shares.values()), max(part[0] for part in shares.values())]
    alike = percent(ends[0]) == percent(ends[1])
    part = f"{percent(ends[0]) if alike else bounds(*ends)} of the predictive variance"
    head = f"The mode hid {part}." if modes else f"{part} is epistemic."
    if narrow := _narrow(predictives, modes, list(shares)):
        head, line = narrow
        lines.append(Line("neutral", line))
    return Card("Epistemic part", "neutral", head, tuple(lines), "uncertainty", 3)


def _narrow(predictives: Mapping[str, Predictive], modes: list[str], others: list[str]) -> tuple[str, str] | None:
    """Headline and line where a mode's variance is so much smaller that the epistemic part is not what sets them apart."""
    if any(predictive.likelihood.labels is not None or num_outputs(predictive) > 1 for predictive in predictives.values()):
        return None
    sds = {name: math.sqrt(float(predictive.variance.double().mean())) for name, predictive in predictives.items()}
    noises = {name: math.sqrt(float(predictives[name].aleatoric_variance.double().mean())) for name in others}
    mode, other = min(modes, key=lambda name: sds[name], default=""), min(others, key=lambda name: sds[name])
    if not mode or not sds[mode] < _NARROW * noises[other]:
        return None
    line = f"the predictive sd of {mode} is {number(sds[mode], 3)} over all rows, where that of {other} is {number(sds[other], 3)}."
    return f"The mode's predictive variance is {percent((sds[mode] / sds[other]) ** 2)} of that of {other}.", line


def noise_card(
    posteriors: Mapping[str, AbstractPosterior], comparison: Comparison, y: Any, found: Mapping[str, Any]
) -> Card | None:
    """Whether a learned noise scale has collapsed: far below the error on new targets."""
    if comparison.labels is not None:
        return None
    scales = {name: noise_scale(p, comparison.predictives[name], y, found[name].shifted) for name, p in posteriors.items()}
    known = {name: scale for name, scale in scales.items() if scale is not None}
    if not known:
        return None
    lines = tuple(Line("bad" if scale.small else "good", f"{name}: {scale.sentence}") for name, scale in known.items())
    small = [name for name, scale in known.items() if scale.small]
    if not small:
        return Card("Noise", "good", "The noise scale has not collapsed.", lines, "uncertainty", 4)
    head = f"The noise scale of {listing(small)} has collapsed: new rows are missed by far more than it says."
    return Card("Noise", "bad", head, lines, "uncertainty", 0)


@final
@dataclass(frozen=True)
class NoiseScale:
    """A noise scale and the verdict on it.

    Attributes:
        small: Whether it is far below the error on new rows, a common shift excluded.
        sentence: The verdict in words, with the cause as far as the numbers show it.
    """

    small: bool
    sentence: str


def noise_scale(posterior: AbstractPosterior, predictive: Predictive, y: Any, shifted: bool) -> NoiseScale | None:
    """The noise scale of the output where it is smallest relative to the error."""
    by_row = posterior.model.likelihood.heteroscedastic
    name = posterior.model.likelihood.plain.squared_error_scale
    if [key for key, latent in posterior.model.latents.items() if latent.is_noise] != [name] and not by_row:
        return None
    missed = (predictive.target(y) - predictive.mean).double().cpu().reshape(predictive.num_rows, -1)
    rmse, bias = missed.square().mean(0).sqrt(), missed.mean(0)
    error = (missed - bias).square().mean(0).sqrt() if shifted else rmse
    if by_row:  # one number for all rows, like the error
        noise = _root_mean(predictive.aleatoric_variance)
    else:
        noise = posterior.mean[str(name)].double().cpu().reshape(-1).expand(error.shape)
    ratio = torch.where(error > 0, noise / error, math.inf)
    k = int(ratio.argmin())
    stated = float(_root_mean(predictive.variance)[k] / error[k]) if error[k] > 0 else math.inf
    limit = SMALL if predictive.num_samples == 1 else COLLAPSED
    small = float(ratio[k]) < limit and stated < SMALL and predictive.num_rows >= _FEW
    where = f" (output {k})" if len(error) > 1 else ""
    what = "noise scale (root mean square over the test rows)" if by_row else "noise scale"
    text = f"{what} {number(float(noise[k]), 3)} against a test RMSE of {number(float(rmse[k]), 3)}{where}"
    if shifted and abs(float(bias[k])) > float(error[k]) / math.sqrt(predictive.num_rows):
        shift = plus_minus(float(bias[k]), float(error[k]) / math.sqrt(predictive.num_rows))
        text += f", of which a shift of all rows is {shift} and their scatter about it {number(float(error[k]), 3)}"
    return NoiseScale(small, f"{text}{_cause(posterior, float(noise[k]), k) if small else ''}.")


def _cause(posterior: AbstractPosterior, noise: float, output: int) -> str:
    """The evidence of the training rows: whether their error is as small as the noise scale."""
    missed = posterior.record.training_rmse
    if missed is None or output >= len(missed):
        return ": it is not what new rows are missed by"
    said = f"its training rows are missed by {number(missed[output], 3)}"
    if noise < SMALL * missed[output]:
        return f": {said}, so it is too small for those too, and its prior or an unfinished fit holds it down"
    return f": {said}, so the fit followed their noise, or new rows are of another kind"


def _root_mean(variance: torch.Tensor) -> torch.Tensor:
    return variance.double().mean(0).sqrt().cpu().reshape(-1)


def _titled(name: str, output: int, comparison: Comparison) -> str:
    return f"{name}, output {output}" if num_outputs(comparison.predictives[comparison.best]) > 1 else name


def _parts(made: Material, k: int) -> list[Drawn]:
    rows = {name: _readings.variance_rows(p, k) for name, p in made.comparison.predictives.items()}
    top = max(_top(a + e) for a, e in rows.values())  # one axis for all, so that heights compare
    found = []
    for name, predictive in made.comparison.predictives.items():
        aleatoric, epistemic = rows[name]
        share = epistemic / (aleatoric + epistemic).clip(min=1e-300)
        finding = (
            "No epistemic part: a mode is one function."
            if predictive.num_samples == 1
            else f"The epistemic share of a row runs from {percent(float(share.min()))} to {percent(float(share.max()))}."
        )
        figure = plots.variance_parts(predictive, output=k, top=top)
        found.append(made.draw(figure, _titled(name, k, made.comparison), finding))
    return found


def _top(variance: np.ndarray) -> float:
    return float(np.array_split(np.sort(variance), min(60, len(variance)))[-1].mean())


def _predictions(made: Material, k: int) -> list[Drawn]:
    found = []
    for name, predictive in made.comparison.predictives.items():
        figure = plots.predictions(predictive, made.y, output=k, max_rows=MAX_ROWS, series=made.series[name])
        if made.regression:
            u = predictive.pit(predictive.target(made.y))
            u = u if u.dim() == 1 else u[:, k]
            what, hits = "Outside their 95 % interval", int(((u < 0.025) | (u > 0.975)).sum())
        else:
            what, hits = "Wrong class", round((1 - made.comparison.scores[name]["accuracy"]) * predictive.num_rows)
        rows = counted(predictive.num_rows, "row")
        finding = f"{what}: {hits:,} of all {rows} ({min(MAX_ROWS, predictive.num_rows)} of {rows} drawn)."
        found.append(made.draw(figure, _titled(name, k, made.comparison), finding))
    return found
