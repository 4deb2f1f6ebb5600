"""A posterior made of stored draws."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch

from bayesreg._memory import among, blocks, chosen
from bayesreg.model.model import BayesianModel
from bayesreg.posteriors.base import AbstractPosterior
from bayesreg.posteriors.record import FitRecord
from bayesreg.storage.schema import check_tensors, refuse


class Draws(AbstractPosterior):
    """Stored draws of the unconstrained vector, as from a sampler.

    Args:
        model: The model, bound to its training data.
        record: What the method says about the fit.
        draws: (S, P), or (C, D, P) from C chains of D draws each.
        stats: What the sampler says of each draw, by ArviZ's names ("diverging", "energy", "step_size", "acceptance_rate"),
            each (C, D).

    Attributes:
        draws: (S, P), chain by chain.
    """

    def __init__(
        self,
        model: BayesianModel,
        record: FitRecord,
        draws: torch.Tensor,
        *,
        stats: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        super().__init__(model, record)
        self._num_chains = len(draws) if draws.dim() == 3 else 1
        self.draws = draws.detach().reshape(-1, draws.shape[-1])
        self.stats = dict(stats or {})

    @property
    def num_draws(self) -> int:
        """S, the stored draws."""
        return len(self.draws)

    @property
    def num_chains(self) -> int:
        """C."""
        return self._num_chains

    @property
    def chains(self) -> torch.Tensor:
        """The draws as (C, D, P), a view."""
        return self.draws.view(self.num_chains, -1, self.draws.shape[1])

    def draw(self, num_samples: int, generator: torch.Generator) -> torch.Tensor:
        """Stored draws, see `among`."""
        return self.draws[among(len(self.draws), num_samples, generator).to(self.draws.device)]

    def in_order(self, num_samples: int, seed: int) -> torch.Tensor:
        """All of them, chain by chain, (S, P)."""
        return self.draws

    def _draws(self, num_samples: int, seed: int) -> Iterator[torch.Tensor]:
        return chosen(self.draws, num_samples, seed, self.layout.size)

    def moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and sd over the stored draws, in constrained space; in blocks, so that no second copy of the draws is made."""
        count, pivot = len(self.draws), self._constrained(self.draws[:1])[0].double()
        total, square = torch.zeros_like(pivot), torch.zeros_like(pivot)
        for part in self.draws.split(next(blocks(count, self.layout.size))):
            away = self._constrained(part).double() - pivot
            total, square = total + away.sum(0), square + away.square().sum(0)
        variance = (square - total.square() / count).clamp_min(0) / max(1, count - 1)
        return (pivot + total / count).to(self.draws), variance.sqrt().to(self.draws)

    def _constrained(self, draws: torch.Tensor) -> torch.Tensor:
        """(s, P) in constrained space, in the vector's order."""
        values = torch.vmap(self.layout.unflatten)(draws)
        return torch.cat([values[s.latent.name].reshape(len(draws), -1) for s in self.layout.in_order], 1)

    def state(self) -> dict[str, Any]:
        """The draws by chain, and what the sampler said of them."""
        return {"draws": self.chains, "stats": self.stats}

    @classmethod
    def from_state(cls, model: BayesianModel, record: FitRecord, state: dict[str, Any]) -> Draws:
        """The inverse of `state`.

        Raises:
            ValueError: If it is not what such a posterior has.
        """
        what, unknowns = "a saved posterior's state", sum(latent.shape.numel() for latent in model.latents.values())
        if set(state) != {"draws", "stats"} or not isinstance(state["stats"], dict):
            refuse(what, "draws and their statistics, by name", ", ".join(map(str, state)) or "nothing")
        check_tensors({"draws": state["draws"]}, {"draws": "CDP"}, {"P": unknowns}, what)
        sizes = dict(zip("CD", state["draws"].shape, strict=False))
        check_tensors(state["stats"], dict.fromkeys(state["stats"], "CD"), sizes, "a saved sampler's statistics")
        return cls(model, record, state["draws"], stats=state["stats"])
