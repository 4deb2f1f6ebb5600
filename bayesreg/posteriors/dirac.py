"""A point mass: the mode that a regularised fit returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from bayesreg.model.model import BayesianModel
from bayesreg.posteriors.base import AbstractPosterior
from bayesreg.posteriors.record import FitRecord


class Dirac(AbstractPosterior):
    """All mass on one point: the mode that a regularised fit returns.

    Args:
        model: The model, bound to its training data.
        record: What the method says about the fit.
        loc: The point, (P,) unconstrained.
    """

    state_shapes: ClassVar = {"loc": "P"}
    is_mode: ClassVar[bool] = True

    def __init__(self, model: BayesianModel, record: FitRecord, loc: torch.Tensor) -> None:
        super().__init__(model, record)
        self.loc = loc.detach()

    @property
    def num_draws(self) -> int:
        """One."""
        return 1

    def draw(self, num_samples: int, generator: torch.Generator) -> torch.Tensor:
        """The point, `num_samples` times."""
        return self.loc.expand(num_samples, -1)

    def moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The point and zeros."""
        values = self.layout.unflatten(self.loc)
        flat = torch.cat([values[s.latent.name].reshape(-1) for s in self.layout.in_order])
        return flat, torch.zeros_like(flat)

    def draw_networks(self, num_samples: int, generator: torch.Generator) -> torch.Tensor:
        """Nothing: every draw's network is the same."""
        return self.loc.new_zeros(num_samples, 0)

    def forward_drawn(
        self, made_of: torch.Tensor, x: torch.Tensor, module: nn.Module, buffers: Mapping[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """The point's output."""
        return self.model.forward(self.layout.unflatten(self.loc), x, module, buffers)

    def unknowns_of(self, made_of: torch.Tensor) -> torch.Tensor:
        """The point, for each draw."""
        return self.loc.expand(len(made_of), -1)

    def state(self) -> dict[str, Any]:
        """The point."""
        return {"loc": self.loc}

    @classmethod
    def from_state(cls, model: BayesianModel, record: FitRecord, state: dict[str, Any]) -> Dirac:
        """The inverse of `state`."""
        return cls(model, record, state["loc"])
