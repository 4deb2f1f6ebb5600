"""A normal distribution of the unconstrained vector: by a factor of its covariance, or entry by entry."""

from __future__ import annotations

import abc
from collections.abc import Iterator
from typing import Any, ClassVar

import torch

from bayesreg._memory import blocks
from bayesreg.data.moments import Moments, of_transformed
from bayesreg.model.model import BayesianModel
from bayesreg.posteriors import closed_form
from bayesreg.posteriors.base import AbstractPosterior
from bayesreg.posteriors.dirac import Dirac
from bayesreg.posteriors.record import FitRecord

_DRAWS = 10_000  # draws for moments without a closed form: their Monte Carlo error is a hundredth of an sd


class AbstractNormal(AbstractPosterior):
    """Posteriors that are normal in each entry of the unconstrained vector: moments in closed form."""

    @abc.abstractmethod
    def unconstrained_moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and sd of each entry of `u`, both (P,)."""

    def _normal(self) -> closed_form.Normal | None:
        if self.times_factor(torch.zeros(1, self.layout.size).to(self.model.like)) is None:
            return None
        centre = self._linearize_at()
        centre = self.unconstrained_moments()[0] if centre is None else centre
        return closed_form.Normal(centre, self.times_factor, self.draw)

    def moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and sd in constrained space: of the normal itself, or of the log-normal where the unknown is positive.

        On an interval they are found by quadrature; where an unknown is searched over its unknown scale, from draws.
        """
        loc, sd = (part.clone() for part in self.unconstrained_moments())
        for s in self.layout.in_order:
            if s.transform is None:
                continue
            if s.latent.is_positive:
                variance = sd[s.slice].square()
                mean = (loc[s.slice] + variance / 2).exp()
                sd[s.slice] = mean * variance.expm1().sqrt()
                loc[s.slice] = mean
            else:
                loc[s.slice], sd[s.slice] = of_transformed(s.transform, loc[s.slice], sd[s.slice])
        if self.layout.non_centered:
            found = [(s, Moments()) for s in self.layout.non_centered]
            for block in self._draws(_DRAWS, 0):
                values = torch.vmap(self.layout.unflatten)(block)
                for s, moments in found:
                    moments.add(values[s.latent.name].reshape(len(block), -1))
            for s, moments in found:
                loc[s.slice], sd[s.slice] = (part.to(loc) for part in moments.finish())
        return loc, sd


class AbstractAboutAMode(AbstractNormal):
    """A normal about a mode, whose predictions may be those of the network linearised there.

    Args:
        model: The model, bound to its training data.
        record: What the method says about the fit.
        loc: (P,).
        linearize: Predict by the network linearised at `loc` (the model for which a Gauss–Newton Laplace approximation is
            exact; Immer, Korzepa and Bauer 2021) instead of by the network itself.
    """

    def __init__(self, model: BayesianModel, record: FitRecord, loc: torch.Tensor, linearize: bool = False) -> None:
        super().__init__(model, record)
        self.loc, self.linearize = loc.detach(), linearize

    @abc.abstractmethod
    def from_noise(self, noise: torch.Tensor) -> torch.Tensor:
        """Draws (S, P) from standard normal noise (S, Q), Q being the number of unknowns that vary."""

    @abc.abstractmethod
    def times_factor(self, rows: torch.Tensor) -> torch.Tensor:
        """See `AbstractPosterior.times_factor`."""

    @property
    def width(self) -> int:
        """Q, the number of unknowns that vary."""
        return len(self.loc)

    def noise(self, num_samples: int, generator: torch.Generator) -> torch.Tensor:
        """Standard normal noise, (S, Q)."""
        return torch.randn(num_samples, self.width, generator=generator, dtype=self.loc.dtype).to(self.loc.device)

    def draw(self, num_samples: int, generator: torch.Generator) -> torch.Tensor:
        """Draws, (S, P)."""
        return self.from_noise(self.noise(num_samples, generator))

    def draw_networks(self, num_samples: int, generator: torch.Generator) -> torch.Tensor:
        """Draws of the unknowns, (S, P), in pairs."""
        # antithetic pairs loc ± step: the mean of a linearised network's output then has no Monte Carlo error
        if num_samples % 2:
            return self.draw(num_samples, generator)
        half = self.draw(num_samples // 2, generator)
        return torch.cat([half, 2 * self.loc - half])

    def in_order(self, num_samples: int, seed: int) -> torch.Tensor:
        """Independent draws, (S, P)."""
        return self.draw(num_samples, torch.Generator().manual_seed(seed))

    def _draws_for_prediction(self, num_samples: int, seed: int) -> Iterator[torch.Tensor]:
        half, odd = divmod(num_samples, 2)
        if odd:
            yield from self._draws(num_samples, seed)
        elif next(blocks(half, self.layout.size)) == half:
            yield self.draw_networks(num_samples, torch.Generator().manual_seed(seed))
        else:
            yield from self._draws(half, seed)
            yield from (2 * self.loc - block for block in self._draws(half, seed))  # both moments from the same draws

    @property
    def centre(self) -> AbstractPosterior:
        """See `AbstractPosterior.centre`."""
        return Dirac(self.model, self.record, self.loc) if self.linearize else self

    def _linearize_at(self) -> torch.Tensor | None:
        return self.loc if self.linearize else None


class Gaussian(AbstractAboutAMode):
    """N(loc, covariance) over the unconstrained vector, covariance = factor · factorᵀ.

    `layout.segments["0.weight"].slice` says where an unknown lies in the vector.

    Args:
        model: The model, bound to its training data.
        record: What the method says about the fit.
        loc: (P,).
        factor: Any (P, P) matrix whose product with its transpose is the covariance.
        linearize: As for `AbstractAboutAMode`.
    """

    state_shapes: ClassVar = {"loc": "P", "factor": "PP", "linearize": ""}

    def __init__(
        self,
        model: BayesianModel,
        record: FitRecord,
        loc: torch.Tensor,
        factor: torch.Tensor,
        linearize: bool = False,
    ) -> None:
        super().__init__(model, record, loc, linearize)
        self.factor = factor.detach()

    @property
    def covariance(self) -> torch.Tensor:
        """(P, P), of the unconstrained vector in the layout's order."""
        return self.factor @ self.factor.mT

    def from_noise(self, noise: torch.Tensor) -> torch.Tensor:
        """See `AbstractAboutAMode.from_noise`."""
        return self.loc + noise @ self.factor.mT

    def times_factor(self, rows: torch.Tensor) -> torch.Tensor:
        """See `AbstractPosterior.times_factor`."""
        return rows @ self.factor.to(rows)

    def unconstrained_moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and sd of each entry."""
        return self.loc, self.factor.norm(dim=1)

    def as_normal(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Location and factor."""
        return self.loc, self.factor

    def state(self) -> dict[str, Any]:
        """Location, factor and the way of predicting."""
        return {"loc": self.loc, "factor": self.factor, "linearize": torch.tensor(self.linearize)}

    @classmethod
    def from_state(cls, model: BayesianModel, record: FitRecord, state: dict[str, Any]) -> Gaussian:
        """The inverse of `state`."""
        return cls(model, record, state["loc"], state["factor"], bool(state["linearize"]))
