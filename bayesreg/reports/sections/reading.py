"""The report's glossary, for readers who are new to the words."""

from __future__ import annotations

from typing import Any, ClassVar, final

from bayesreg.reports.base import AbstractSection, Material, all_sections

GLOSSARY: dict[str, str] = {
    "Posterior": "what is known about every unknown after the data: a distribution. A regularised fit is its highest "
    "point, the mode.",
    "Prior": "what was assumed before the data. A penalty of the loss is a prior: −log prior = penalty, in nats.",
    "Nat": "the unit of log probability with the natural logarithm. One nat more: the data were e ≈ 2.7 times as probable.",
    "Aleatoric": "the part of a prediction's variance that is noise; more data would not remove it.",
    "Epistemic": "the part from uncertainty about the function; more data near a row would reduce it. A mode has none, "
    "by construction.",
    "Coverage": "how often intervals of a stated level held the truth. With few rows the count itself is uncertain: "
    "the 95 % CI (Wilson) says by how much.",
    "PIT": "probability integral transform, where the truth fell inside its own predictive distribution, from lowest to "
    "highest; evenly spread when the predictive is calibrated.",
    "Chance": "random variation, which a verdict must exceed. All statements together are wrong about calibrated predictions "
    "on at most one test set in twenty. An error of the function that all rows share counts as chance too.",
    "Calibrated": "of all statements made with 80 % confidence, 80 % come true.",
    "Calibration error": "mean distance between nominal and observed coverage over 19 levels. It is never zero: calibrated "
    "predictions give about 0.3/√n by chance, with n values.",
    "Standard error, paired": "how far a difference in score would move with another test set of this size. Both are scored "
    "on the same rows, so what makes a row hard cancels.",
    "Log evidence": "log p(training targets | model), in nats: how probable the model and its prior made the data before "
    "seeing them. It compares models on the same targets.",
    "ELBO": "a lower bound on the log evidence, which variational methods raise. Its distance from the evidence is not known.",
    "Certificate": "a method's check of its own fit: a vanishing gradient for a mode, an ELBO that stopped rising, "
    "chains that agree.",
    "Constrained space": "a mode depends on the coordinates: in “constrained” ones a positive unknown is itself, in "
    "“unconstrained” ones its logarithm. A Laplace approximation needs the second.",
}


@final
class Reading(AbstractSection):
    """The glossary, with the entries of other sections."""

    id: ClassVar[str] = "reading"
    title: ClassVar[str] = "Words"
    place: ClassVar[float] = 100
    template: ClassVar[str] = """<section id="reading">
<h2>How to read this</h2>
<details><summary>Words used on this page</summary>
<dl class="words">
{% for word, meaning in glossary.items() %}
<dt>{{ word }}</dt><dd>{{ meaning }}</dd>
{% endfor %}
</dl>
</details>
</section>"""

    def facts(self, made: Material) -> dict[str, Any]:
        """None."""
        return {}

    def shown(self, made: Material) -> dict[str, Any]:
        """The words."""
        return {"glossary": GLOSSARY | {word: text for section in all_sections() for word, text in section.words.items()}}
