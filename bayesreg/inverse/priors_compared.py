"""Several priors of one inverse problem, each at its best scale, by how probable they make the measurements."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from bayesreg import _check
from bayesreg._text import AbstractTextTable, number
from bayesreg.inverse.choice import Choice, choose
from bayesreg.model.model import BayesianModel


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class PriorComparison(AbstractTextTable):
    """Log evidence of each model at the prior scale where it is highest, best first.

    Attributes:
        log_evidence: In nats, by name, highest first.
        choices: Each model's choice by the evidence.
    """

    log_evidence: dict[str, float]
    choices: dict[str, Choice]

    caption = "log p(b) of each prior at its likeliest scale, in nats"
    notes = (
        "A difference of 3 nats is 20 to 1. The best of several wrong priors is still wrong: the evidence ranks what was "
        "given to it, and a scale fitted to the data is counted as if it were known.",
    )

    @property
    def best(self) -> str:
        """The name of the highest."""
        return next(iter(self.log_evidence))

    def model(self, name: str | None = None) -> BayesianModel:
        """A model at its likeliest scale; the best one when no name is given."""
        name = self.best if name is None else _check.one_of("name", name, self.choices)
        return self.choices[name].model("evidence")

    @property
    def heads(self) -> Sequence[str]:
        """Heads of the columns."""
        return ["", "log evidence", "to the best", "prior", "scale", "noise scale", "df"]

    @property
    def cells(self) -> Sequence[Sequence[str]]:
        """A row a model."""
        top, rows = self.log_evidence[self.best], []
        for name, value in self.log_evidence.items():
            choice = self.choices[name]
            found = choice["evidence"]
            cells = [name, number(value, 5), number(value - top, 3), str(choice.setting.prior)]
            rows.append([*cells, *(number(v, 3) for v in (found.prior_scale, found.noise_scale, found.degrees_of_freedom))])
        return rows

    def __repr__(self) -> str:
        return f"PriorComparison({', '.join(f'{name}: {value:.1f}' for name, value in self.log_evidence.items())})"


def compare_priors(models: Mapping[str, BayesianModel], b: Any) -> PriorComparison:
    """Rank priors by the evidence, each at the scale (and noise scale, where it is unknown) that maximises it.

    Args:
        models: Name to model, of the same measurements.
        b: Measurements.

    Returns:
        The comparison; `.model()` is the best model at its scale.

    Raises:
        ValueError: If no model came, a prior is improper (its evidence has no constant), or as for `choose`.

    References:
        MacKay (1992), Bayesian interpolation.

    >>> import torch, bayesreg as br
    >>> A, t = torch.eye(40, dtype=torch.float64), torch.linspace(0, 6, 40, dtype=torch.float64)
    >>> b = t.sin() + 0.1 * torch.randn(40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> def model(prior):
    ...     return br.BayesianModel(br.operators.Dense(A), {"x": prior}, br.likelihoods.Gaussian(0.1))
    >>> smooth = br.priors.Smooth(order=2, scale=1.0, level_scale=100.0)
    >>> compare_priors({"independent": model(br.priors.Normal(1.0)), "smooth": model(smooth)}, b).best
    'smooth'
    """
    if not models:
        raise ValueError("models must hold at least one, but none came; pass {'independent': model, 'smooth': other}.")
    choices = {}
    for name, model in models.items():
        if isinstance(model, BayesianModel) and model.improper:
            raise ValueError(
                f"priors can be compared by the evidence only where they are proper, but {name} has one that is flat in some "
                "directions; give Smooth a level_scale."
            )
        choices[name] = choose(model, b, ["evidence"])
    values = {name: _highest(choice) for name, choice in choices.items()}
    order = sorted(values, key=lambda name: -values[name])
    return PriorComparison({name: values[name] for name in order}, {name: choices[name] for name in order})


def _highest(choice: Choice) -> float:
    found = choice["evidence"]
    return float(choice.data.log_evidence(found.lam, found.noise_scale))
