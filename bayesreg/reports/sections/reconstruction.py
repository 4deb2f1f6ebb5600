"""The report's section on an inverse problem: what data can say, how strong the prior is, the answer beside the noise."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, final

import numpy as np

from bayesreg import plots
from bayesreg._text import listing, number, percent
from bayesreg.inverse import Analysis, Answer, Choice, analyse, choose, judge
from bayesreg.operators import AbstractLinearOperator
from bayesreg.reports.base import AbstractSection, Card, Drawn, Line, Material

_SURE = 0.05  # p-value below which a residual is doubted, as the answer's own notes do
_MOST_DIRECTIONS = 400  # unknowns of which every direction's sd is drawn


@final
class Reconstruction(AbstractSection):
    """An inverse problem's spectrum, rules for λ, answers and residuals."""

    id: ClassVar[str] = "reconstruction"
    title: ClassVar[str] = "Reconstruction"
    place: ClassVar[float] = 0.5
    template: ClassVar[str] = """<section id="reconstruction">
{% set inverse = data.inverse %}
<h2>Reconstruction</h2>
<p>The unknown is x in A x = b + noise; the rows of the model are the {{ "{:,}".format(data.data.num_test) }} measurements that were fitted. Scores of new rows, calibration, the parts of a prediction's variance and the worst rows are left out for that reason: measurements that were fitted do not test a prediction.</p>
{{ gallery(answers) }}
{% call sheet("Answers", "Each answer against the noise" ~ (" and the truth" if inverse.truth else ""), ["posterior", "residual", "σ√M", "df", "σ√(M − df)", "p of its size", "p of whiteness"] + (["relative error", "truth in %s intervals" % (inverse.level | percent)] if inverse.truth else [])) %}
{% for name, a in inverse.answers.items() %}
<tr><th scope="row">{{ dot(name) }}{{ name }}</th><td>{{ a.residual | number(3) }}</td><td>{{ a.noise_norm | number(3) }}</td><td>{{ a.degrees_of_freedom | number(3) }}</td><td>{{ a.expected_residual | number(3) }}</td><td>{{ a.p_size | number(2) }}</td><td>{{ a.p_white | number(2) }}</td>{% if inverse.truth %}<td>{{ a.relative_error | percent if a.relative_error is not none else "–" }}</td><td>{{ a.coverage | percent if a.coverage is not none else "–" }}</td>{% endif %}</tr>
{% endfor %}
{% endcall %}
<p>A p-value below 5 % comes once in twenty problems that are as the model says. Under a Gaussian prior it is that of the residuals that the model itself would leave; otherwise it is as if no degree of freedom had been used.</p>
<h3>What the data can say</h3>
<ul class="plain">
{% for sentence in inverse.verdict %}
<li>{{ sentence | words }}</li>
{% endfor %}
</ul>
{{ gallery(spectrum) }}
<h3>How strong the prior is</h3>
{% if inverse.rules %}
<p>λ = σ²/scale² of the prior {{ inverse.prior | words }}, in min ‖A x − b‖² + λ ‖L x‖². What was fitted has scale {{ inverse.scale | number(3) }}.</p>
{% call sheet("Rules for λ", "Each rule's λ and prior scale, and what it assumes", ["rule", "λ", "prior scale", "noise scale", "df", "residual", "assumes"], "text") %}
{% for r in inverse.rules %}
<tr><th scope="row">{{ r.rule }}</th><td>{{ r.lam | number(3) }}</td><td>{{ r.prior_scale | number(3) }}</td><td>{{ r.noise_scale | number(3) }}</td><td>{{ r.degrees_of_freedom | number(3) }}</td><td>{{ r.residual | number(3) }}</td><td class="note">{{ r.assumes }}{% if r.remark %} {{ r.remark | words }}{% endif %}</td></tr>
{% endfor %}
{% endcall %}
<p>{{ inverse.warning }}</p>
{{ gallery(weights) }}
{% else %}
<p>{{ inverse.no_rules | words }}</p>
{% endif %}
</section>"""
    words: ClassVar[Mapping[str, str]] = {
        "Picard plot": "coefficients uᵢᵀb of the data beside the singular values sᵢ. Where the coefficients level off while sᵢ "
        "falls on, they are noise, and dividing by sᵢ blows it up.",
        "Filter factor": "sᵢ²/(sᵢ² + λ): the share of direction i that the data decide; the prior decides the rest. Their sum is "
        "the number of degrees of freedom, df.",
        "Null space": "changes of x that leave A x as it is. No data speak about them: the posterior there is the prior.",
        "Well-posed": "a problem whose solution exists, is unique, and moves little when the data do (Hadamard, 1902).",
    }

    def facts(self, made: Material) -> dict[str, Any]:
        """Of an inverse problem; None of another."""
        if not made.inverse:
            return {"inverse": None}
        analysis, answers = made.once(_analysis), made.once(_answers)
        choice, why = made.once(_choice)
        first: Any = next(iter(made.posteriors.values())).model
        found: dict[str, Any] = {
            "verdict": [] if analysis is None else list(analysis.verdict),
            "answers": {name: _plain(answer) for name, answer in answers.items()},
            "level": next(iter(answers.values())).level,
            "truth": made.given["truth"] is not None,
            "prior": repr(first.resolved[0].specified),
            "rules": None,
            "no_rules": why,
            "scale": None,
        }
        if choice is not None:
            rows = choice.to_frame().rename(columns={"lambda": "lam"}).to_dict("records")
            rows = [{k: None if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()} for row in rows]
            found |= {"rules": rows, "scale": choice.setting.scale, "warning": _warning(choice)}
            found["log_evidence"] = {
                name: one.log_evidence for name, one in made.posteriors.items() if one.log_evidence is not None
            }
        return {"inverse": found}

    def cards(self, made: Material) -> Iterable[Card]:
        """Whether the problem is well-posed, whether the residual is noise, how strong the prior is, and the truth."""
        if not made.inverse:
            return
        analysis, answers = made.once(_analysis), made.once(_answers)
        if analysis is not None:
            yield _posed(analysis)
        yield _residuals(answers)
        choice, _ = made.once(_choice)
        if choice is not None:
            yield _strength(choice)
        if made.given["truth"] is not None:
            yield _truth(answers)

    def says(self, made: Material) -> bool:
        """Whether it is an inverse problem."""
        return made.inverse

    def shown(self, made: Material) -> dict[str, Any]:
        """Each answer, the spectrum, and the rules for λ."""
        return {"answers": [*_drawn(made)], "spectrum": [*_spectrum(made)], "weights": [*_weights(made)]}


def _operator(made: Material) -> Any:
    first: Any = next(iter(made.posteriors.values())).model
    return first.module.operator


def _analysis(made: Material) -> Analysis | None:
    """The analysis of the operator; None where it is not linear."""
    operator = _operator(made)
    noise = next(iter(made.once(_answers).values())).noise_scale
    return analyse(operator, made.y, noise) if isinstance(operator, AbstractLinearOperator) else None


def _answers(made: Material) -> dict[str, Answer]:
    return {name: judge(one, made.y, made.given["truth"], seed=made.seed) for name, one in made.posteriors.items()}


def _choice(made: Material) -> tuple[Choice | None, str]:
    """The rules for the first model that has a quadratic penalty, or why there are none."""
    why = ""
    for posterior in made.posteriors.values():
        try:
            return choose(posterior.model, made.y), ""
        except ValueError as error:
            why = why or f"No rule for λ: {error}"
    return None, why


def _plain(answer: Answer) -> dict[str, Any]:
    sigma = answer.noise_scale
    return {
        "residual": float(answer.residual.norm()),
        "noise_norm": None if sigma is None else sigma * math.sqrt(answer.residual.numel()),
        "degrees_of_freedom": answer.degrees_of_freedom,
        "expected_residual": answer.expected_residual,
        "p_size": answer.p_size,
        "p_white": answer.p_white,
        "relative_error": answer.relative_error,
        "coverage": answer.coverage,
    }


def _posed(analysis: Analysis) -> Card:
    well = bool(analysis.exists is not False and analysis.unique and analysis.stable)
    lacks = ["has no exact solution"] * (analysis.exists is False) + ["has many solutions"] * (analysis.unique is False)
    lacks += ["is not stable"] * (not analysis.stable)
    if not lacks and not analysis.complete:
        head = "The operator is too large for a full analysis: its largest singular values alone are known."
    else:
        head = "The problem is well-posed." if well else _lacking(lacks)
    lines = tuple(Line("neutral", sentence) for sentence in analysis.verdict)
    return Card("Problem", "good" if well else "neutral", head, lines, "reconstruction", 1)


def _lacking(lacks: list[str]) -> str:
    return f"A x = b {listing(lacks)}: the prior decides what the data do not."


def _residuals(answers: Mapping[str, Answer]) -> Card:
    lines, doubted = [], []
    for name, answer in answers.items():
        bad = any(p is not None and p < _SURE for p in (answer.p_size, answer.p_white))
        doubted += [name] if bad else []
        size, expected = float(answer.residual.norm()), answer.expected_residual
        said = f"{name}: residual {number(size, 3)}"
        said += "" if expected is None else f", {number(expected, 3)} expected of the noise"
        lines.append(Line("bad" if bad else "good" if answer.p_size is not None else "neutral", f"{said}."))
        if bad:
            lines += [Line("bad", note) for note in answer.notes]
    head = (
        f"The residual of {listing(doubted)} is not what noise leaves." if doubted else "Residuals are what the noise leaves."
    )
    return Card("Residual", "bad" if doubted else "good", head, tuple(lines), "reconstruction", 2)


def _strength(choice: Choice) -> Card:
    found = {name: c.prior_scale for name, c in choice.chosen.items() if not c.remark}
    own, scales = choice.setting.scale, list(found.values())
    if not scales:
        return Card("Penalty", "neutral", "No rule has an answer that it can be trusted with.", (), "reconstruction", 3)
    inside = min(scales) / 2 <= own <= 2 * max(scales)
    ends = f"{number(min(scales), 2)} to {number(max(scales), 2)}"
    side = "" if inside else " It is outside: look at what each rule assumes, or take choose(...).model(rule)."
    head = f"Rules for λ take prior scales of {ends}; {number(own, 3)} was fitted."
    lines = tuple(Line("neutral", f"{name}: {number(scale, 3)}.") for name, scale in found.items())
    return Card("Penalty", "good" if inside else "bad", head + side, lines, "reconstruction", 3)


def _truth(answers: Mapping[str, Answer]) -> Card:
    lines = []
    for name, a in answers.items():
        held = "" if a.coverage is None else f"; {percent(a.level)} intervals hold {percent(a.coverage)} of the entries"
        lines.append(Line("neutral", f"{name}: relative error {percent(a.relative_error)}{held}."))
    best = min(answers, key=lambda name: answers[name].relative_error or math.inf)
    errors = {percent(a.relative_error) for a in answers.values()}
    alike = len(errors) == 1
    head = (
        f"Relative error {errors.pop()}."
        if alike
        else f"{best} is nearest to the truth: relative error {percent(answers[best].relative_error)}."
    )
    return Card("Truth", "neutral", head, tuple(lines), "reconstruction", 4)


def _warning(choice: Choice) -> str:
    return choice.warning or "Rules that agree are no proof of the prior: compare priors by inverse.compare_priors."


def _drawn(made: Material) -> Iterable[Drawn]:
    answers, truth = made.once(_answers), made.given["truth"]
    for name, posterior in made.posteriors.items():
        answer = answers[name]
        if answer.mean.dim() > 2:
            continue
        figure = plots.reconstruction(posterior, made.y, truth, level=answer.level, series=made.series[name])
        what = "The mode: a single point, without a band" if answer.sd is None else "The mean with its pointwise band"
        if answer.mean.dim() == 2 and answer.sd is not None:
            what = f"The mean and the sd, {number(float(answer.sd.min()), 2)} to {number(float(answer.sd.max()), 2)}"
        held = "" if answer.coverage is None else f", which holds {percent(answer.coverage)} of the truth"
        yield made.draw(figure, f"{name}: x", f"{what}{held}.")


def _spectrum(made: Material) -> Iterable[Drawn]:
    analysis = made.once(_analysis)
    if analysis is None:
        return
    above = analysis.above_noise
    said = "Coefficients that level off are noise" + ("." if above is None else f"; {above} stand above it.")
    yield made.draw(plots.picard(analysis), "Picard plot", said)
    drawable = [p for p in made.posteriors.values() if not p.at_a_point and not p.model.improper]
    if drawable and analysis.complete and analysis.operator.size <= _MOST_DIRECTIONS:
        lost = analysis.operator.size - analysis.rank
        said = f"{lost} directions are not measured: there both are the same." if lost else "The lower, the more the data say."
        yield made.draw(plots.directions(analysis, drawable[0], seed=made.seed), "Sd along singular vectors", said)


def _weights(made: Material) -> Iterable[Drawn]:
    choice, _ = made.once(_choice)
    if choice is None:
        return
    truth = made.given["truth"]
    x = None if truth is None else np.asarray(truth, dtype=float)
    answered = {name: c for name, c in choice.chosen.items() if not math.isnan(c.lam)}
    said = "; ".join(f"{name}: scale {number(c.prior_scale, 2)}" for name, c in answered.items())
    yield made.draw(plots.penalty_weights(choice, x), "Rules over λ and the prior's scale", f"{said}.")
    if choice.exact:
        yield made.draw(plots.filter_factors(choice), "Filter factors", "Their sums are the degrees of freedom.")
    yield made.draw(plots.l_curve(choice), "L-curve and its curvature", "The corner is where the curvature is largest.")
