"""A posterior made of stored draws."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import torch

from bayesreg._memory import among, chosen
from bayesreg.model.model import BayesianModel
from bayesreg.posteriors.base import AbstractPosterior
from bayesreg.posteriors.record import FitRecord


class Draws(AbstractPosterior):
    """Stored draws of the unconstrained vector, as from a sampler.

    Args:
        model: The model, bound to its training data.
        record: What the method says about the fit.
        draws: (S, P).
    """

    state_shapes: ClassVar = {"draws": "SP"}

    def __init__(self, model: BayesianModel, record: FitRecord, draws: torch.Tensor) -> None:
        super().__init__(model, record)
        self.draws = draws.detach()

    @property
    def num_draws(self) -> int:
        """S, the stored draws."""
        return len(self.draws)

    def draw(self, num_samples: int, generator: torch.Generator) -> torch.Tensor:
        """Stored draws, see `among`."""
        return self.draws[among(len(self.draws), num_samples, generator).to(self.draws.device)]

    def _draws(self, num_samples: int, seed: int) -> Iterator[torch.Tensor]:
        return chosen(self.draws, num_samples, seed, self.layout.size)

    def moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and sd over the stored draws, in constrained space."""
        values = torch.vmap(self.layout.unflatten)(self.draws)
        flat = torch.cat([values[s.latent.name].reshape(len(self.draws), -1) for s in self.layout.in_order], 1)
        return flat.mean(0), flat.std(0) if len(flat) > 1 else torch.zeros_like(flat[0])

    def state(self) -> dict[str, Any]:
        """The draws."""
        return {"draws": self.draws}

    @classmethod
    def from_state(cls, model: BayesianModel, record: FitRecord, state: dict[str, Any]) -> Draws:
        """The inverse of `state`."""
        return cls(model, record, state["draws"])
