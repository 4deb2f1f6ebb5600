"""The posterior of a variational method: a fitted guide."""

from __future__ import annotations

from typing import Any

import torch

from bayesreg._catalog import concrete
from bayesreg.model.model import BayesianModel
from bayesreg.objective.flat import FlatLayout
from bayesreg.posteriors.gaussian import AbstractNormal
from bayesreg.posteriors.guides import AbstractGuide
from bayesreg.posteriors.record import FitRecord
from bayesreg.storage.schema import check_tensors, refuse


class Guide(AbstractNormal):
    """A fitted guide, which stays a Pyro guide: `posterior.guide` can be used wherever Pyro takes one.

    Args:
        model: The model, bound to its training data.
        record: What the method says about the fit.
        guide: The guide.
    """

    def __init__(self, model: BayesianModel, record: FitRecord, guide: AbstractGuide) -> None:
        super().__init__(model, record)
        self.guide = guide

    def draw(self, num_samples: int, generator: torch.Generator) -> torch.Tensor:
        """Draws, (S, P)."""
        return self.guide.draw(num_samples, generator)

    def moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """See `AbstractPosterior.moments`; from draws where the guide is not normal."""
        return self.guide.constrained_moments() or super().moments()

    def unconstrained_moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and sd of each entry."""
        return self.guide.moments()

    def as_normal(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Location and factor, or scale of a guide without correlations; None where it is not normal."""
        return self.guide.as_normal()

    def times_factor(self, rows: torch.Tensor) -> torch.Tensor | None:
        """See `AbstractPosterior.times_factor`."""
        found = self.guide.times_factor(rows)
        return super().times_factor(rows) if found is None else found

    def log_density(self, u: torch.Tensor) -> torch.Tensor | None:
        """See `AbstractPosterior.log_density`."""
        found = self.guide.log_density(u)
        return super().log_density(u) if found is None else found

    def state(self) -> dict[str, Any]:
        """The guide's family and parameters."""
        return {"family": type(self.guide).__name__, **self.guide.saved()}

    @classmethod
    def from_state(cls, model: BayesianModel, record: FitRecord, state: dict[str, Any]) -> Guide:
        """The inverse of `state`."""
        families = {guide.__name__: guide for guide in concrete(AbstractGuide)}
        name = state.get("family")
        if name not in families:
            refuse("a saved guide's family", f"one of {', '.join(families)}", repr(name))
        guide = families[name].like_state(FlatLayout(model), model.like, state)
        found = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
        check_tensors(found, {k: tuple(v.shape) for k, v in guide.state_dict().items()}, {}, "a saved guide's state")
        guide.load_state_dict(found)
        return cls(model, record, guide)
