"""The posterior that a variational method leaves: a fitted guide."""

from __future__ import annotations

from typing import Any

import torch

from bayesreg._catalog import concrete
from bayesreg.flat import FlatLayout
from bayesreg.guides import AbstractGuide, MeanFieldGuide
from bayesreg.model import BayesianModel
from bayesreg.posterior import NormalMoments
from bayesreg.record import FitRecord


class Guide(NormalMoments):
    """A fitted guide, which stays a Pyro guide: `posterior.guide` goes anywhere Pyro takes one.

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

    def unconstrained_moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and sd of each entry."""
        return self.guide.moments()

    def _normal(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        return self.guide.moments() if isinstance(self.guide, MeanFieldGuide) else None

    def state(self) -> dict[str, Any]:
        """The guide's family and parameters."""
        return {"family": type(self.guide).__name__, **self.guide.state_dict()}

    @classmethod
    def from_state(cls, model: BayesianModel, record: FitRecord, state: dict[str, Any]) -> Guide:
        """The inverse of `state`."""
        family = {guide.__name__: guide for guide in concrete(AbstractGuide)}[state["family"]]
        guide = family.blank(FlatLayout(model), model.like)
        guide.load_state_dict({name: value for name, value in state.items() if name != "family"})
        return cls(model, record, guide)
