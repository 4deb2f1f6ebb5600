"""The answer of a fit, one interface for all: a mode is a Dirac posterior.

Dirac     a point                       Gaussian  N(loc, covariance) over the unconstrained vector
Draws     what a sampler left behind    Guide     a variational family, in `guide_posterior`
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from bayesreg import _check
from bayesreg._memory import MAX_MEMORY, among, blocks, check_draws, chosen, together
from bayesreg.certificates.certificate import Certificate
from bayesreg.data.moments import Moments, of_transformed
from bayesreg.model.model import BayesianModel
from bayesreg.model.unknowns import heir
from bayesreg.objective.flat import FlatLayout
from bayesreg.posteriors import closed_form, propagate
from bayesreg.posteriors.record import FitRecord
from bayesreg.predictive.mixture import Predictive
from bayesreg.solvers.history import History

_DRAWS = 10_000  # behind moments that have no closed form: their Monte Carlo error is a hundredth of an sd


class AbstractPosterior(abc.ABC):
    """p(θ | data), in the form that a method gives it.

    Weights live in the space that the model works in (standardised data when it standardises); the noise scale, like
    every prediction, comes back in the data's own units.

    Args:
        model: The model, bound to its training data.
        record: What the method says about the fit.

    Attributes:
        state_shapes: Shapes of the tensors in `state`, a letter for an axis, P the unknowns; None where `from_state` checks.
    """

    state_shapes: ClassVar[Mapping[str, str] | None] = None

    def __init__(self, model: BayesianModel, record: FitRecord) -> None:
        self.model = model
        self.record = record
        self.layout = FlatLayout(model)

    @abc.abstractmethod
    def draw(self, num_samples: int, generator: torch.Generator) -> torch.Tensor:
        """Draws of the unconstrained vector, (S, P)."""

    @abc.abstractmethod
    def moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and sd of each unknown in constrained space and the model's units, flat, both (P,)."""

    @abc.abstractmethod
    def state(self) -> dict[str, Any]:
        """The tensors (and plain values) that make this posterior, for `save`."""

    @classmethod
    @abc.abstractmethod
    def from_state(cls, model: BayesianModel, record: FitRecord, state: dict[str, Any]) -> AbstractPosterior:
        """The inverse of `state`."""

    @property
    def method(self) -> str:
        """The method's name."""
        return self.record.method

    @property
    def seed(self) -> int:
        """The seed of the fit."""
        return self.record.seed

    @property
    def history(self) -> History:
        """How the fit went."""
        return self.record.history

    @property
    def certificate(self) -> Certificate:
        """Whether the fit can be believed, and why."""
        return self.record.certificate

    @property
    def elapsed(self) -> float:
        """Seconds that the fit took."""
        return self.record.elapsed

    @property
    def num_draws(self) -> int | None:
        """How many draws there are to mix: 1 for a mode, those that a sampler left; None where more can be made."""
        return None

    @property
    def space(self) -> str | None:
        """The space in which a mode was taken, None where there is no mode."""
        return self.record.space

    @property
    def log_evidence(self) -> float | None:
        """Log p(y | x) in nats, in the data's own units, where the method knows it."""
        return self.record.log_evidence

    @property
    def num_data(self) -> int:
        """N, the number of training rows."""
        return self.model.total()

    @property
    def batch_statistics(self) -> str | None:
        """By which statistics batch normalisation predicts, in words; None where the network has none."""
        found = self.record.batch_statistics
        return self.model.behaviour.predicts_by if found is None else str(found)

    @property
    def mean(self) -> dict[str, torch.Tensor]:
        """E[θ | data] by name, in each unknown's shape; the point itself for a mode."""
        return self._named(self.moments()[0])

    @property
    def std(self) -> dict[str, torch.Tensor]:
        """sd[θ | data] by name, in each unknown's shape; zero for a mode."""
        return self._named(self.moments()[1])

    def sample(
        self, num_samples: int = 1000, *, seed: int = 0, units: str = "data", max_memory: int = MAX_MEMORY
    ) -> dict[str, torch.Tensor]:
        """Draws of every unknown.

        Args:
            num_samples: S.
            seed: Same seed, same draws; the global random state is not touched.
            units: "data" for the noise in the data's own units; "model" for every value as the model's sites and
                `model.log_joint` take it, which differs when the model standardises.
            max_memory: Bytes that the draws may take.

        Returns:
            By name, (S, *shape), in constrained space.

        Raises:
            ValueError: If num_samples is not a whole number >= 1, units is neither of the two, or the draws do not fit into
                `max_memory`.
        """
        seed = _check.seed(seed)
        _check.one_of("units", units, ("data", "model"))
        check_draws(count := _check.count("num_samples", num_samples), self.layout.size, self.model.like, max_memory)
        values = together(torch.vmap(self.layout.unflatten)(block) for block in self._draws(count, seed))
        return values if units == "model" else self.to_data_units(values)

    def predict(self, x: Any, *, num_samples: int = 1000, seed: int = 0, max_memory: int = MAX_MEMORY) -> Predictive:
        """p(y | x, data) at new inputs.

        Args:
            x: Inputs (N, ...), in the data's own units.
            num_samples: S, the number of draws that are mixed; one is enough for a mode, and one is taken.
            seed: Same seed, same draws; the global random state is not touched.
            max_memory: Bytes that the stored outputs may take.

        Returns:
            The predictive, in the data's own units.

        Raises:
            ValueError: If the inputs do not fit the model, or the outputs not into `max_memory`.
        """
        seed = _check.seed(seed)
        count = 1 if isinstance(self, Dirac) else _check.count("num_samples", num_samples)
        self.model.behaviour.check_statistics()
        inputs = self.model.prepare(x)
        draws, probe = self._draws_for_prediction(count, seed), self.draw(1, torch.Generator().manual_seed(seed))[0]
        options: dict[str, Any] = {"probe": probe, "linearize_at": self._linearize_at(), "max_memory": max_memory}
        found, normal = propagate.mixture(self.model, self.layout, draws, count, inputs, **options), self._normal()
        if normal is None:
            return found
        linear, layout = self._linearize_at() is not None, self.layout
        return closed_form.with_function(found, self.model, layout, normal, inputs, linear=linear, max_memory=max_memory)

    # a draw's network: what it is made of, which need not be the unknowns, and a pass through it

    @property
    def draw_module(self) -> nn.Module:
        """The module that a draw's network is made from."""
        return self.model.module

    def draw_networks(self, num_samples: int, generator: torch.Generator) -> torch.Tensor:
        """What each draw's network is made of, (S, Q)."""
        return self.draw(num_samples, generator)

    def forward_drawn(
        self, made_of: torch.Tensor, x: torch.Tensor, module: nn.Module, buffers: Mapping[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """One draw's output, (B,) or (B, K), at prepared rows, in a module of `draw_module`'s structure."""
        return self.model.forward(self.layout.unflatten(made_of), x, module, buffers)

    def unknowns_of(self, made_of: torch.Tensor) -> torch.Tensor:
        """The unknowns of each draw, (S, P), from what its network is made of."""
        return made_of

    def _draws(self, num_samples: int, seed: int) -> Iterator[torch.Tensor]:
        """Draws of the unconstrained vector in blocks, (s, P) each: never more at once than fit."""
        generator = torch.Generator().manual_seed(seed)
        for size in blocks(num_samples, self.layout.size):
            yield self.draw(size, generator)

    def _draws_for_prediction(self, num_samples: int, seed: int) -> Iterator[torch.Tensor]:
        return self._draws(num_samples, seed)

    def _linearize_at(self) -> torch.Tensor | None:
        return None

    def _normal(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Mean of the unconstrained vector and a factor of its covariance, or the diagonal of one, where it is normal."""
        return None

    def _named(self, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        named = {name: flat[s.slice].reshape(s.latent.shape) for name, s in self.layout.segments.items()}
        return self.to_data_units(named)

    def to_data_units(self, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The same values with the noise in the data's own units; with K outputs it gains their axis.

        Args:
            values: By name, in the units that the model works in, with any leading axes.

        Returns:
            By name.
        """
        scale = self.model.standardization
        if scale is None or not self.model.likelihood.location_scale:
            return values
        names = self.model.likelihood.latents.keys() | self.model.likelihood.fixed.keys()
        noise = {k for k in values if heir(k, self.model.latents) in names}  # its scale too
        width = scale.y_scale.to(next(iter(values.values())).dtype)
        return {k: v if k not in noise else (v[..., None] * width if width.dim() else v * width) for k, v in values.items()}

    def __repr__(self) -> str:
        return f"{type(self).__name__}(method={self.method!r}, P={self.layout.size}, N={self.num_data})"


class Dirac(AbstractPosterior):
    """All mass on one point: what a regularised fit returns.

    Args:
        model: The model, bound to its training data.
        record: What the method says about the fit.
        loc: The point, (P,) unconstrained.
    """

    state_shapes: ClassVar = {"loc": "P"}

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


class AbstractNormal(AbstractPosterior):
    """Posteriors that are normal in each entry of the unconstrained vector: moments in closed form."""

    @abc.abstractmethod
    def unconstrained_moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and sd of each entry of `u`, both (P,)."""

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


class Gaussian(AbstractNormal):
    """N(loc, covariance) over the unconstrained vector, covariance = factor · factorᵀ.

    `layout.segments["0.weight"].slice` says where an unknown lies in the vector.

    Args:
        model: The model, bound to its training data.
        record: What the method says about the fit.
        loc: (P,).
        factor: Any (P, P) matrix whose product with its transpose is the covariance.
        linearize: Predict by the network linearised at `loc` (the model for which a Gauss–Newton Laplace approximation is
            exact; Immer, Korzepa and Bauer 2021) instead of by the network itself.
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
        super().__init__(model, record)
        self.loc, self.factor, self.linearize = loc.detach(), factor.detach(), linearize

    @property
    def covariance(self) -> torch.Tensor:
        """(P, P), of the unconstrained vector in the layout's order."""
        return self.factor @ self.factor.mT

    def draw(self, num_samples: int, generator: torch.Generator) -> torch.Tensor:
        """Draws, (S, P)."""
        noise = torch.randn(num_samples, len(self.loc), generator=generator, dtype=self.loc.dtype).to(self.loc.device)
        return self.loc + noise @ self.factor.mT

    def draw_networks(self, num_samples: int, generator: torch.Generator) -> torch.Tensor:
        """Draws of the unknowns, (S, P), in pairs."""
        # pairs loc ± step: the mean of a (linearised) network's output then has no Monte Carlo error at all
        if num_samples % 2:
            return self.draw(num_samples, generator)
        half = self.draw(num_samples // 2, generator)
        return torch.cat([half, 2 * self.loc - half])

    def _draws_for_prediction(self, num_samples: int, seed: int) -> Iterator[torch.Tensor]:
        half, odd = divmod(num_samples, 2)
        if odd:
            yield from self._draws(num_samples, seed)
        elif next(blocks(half, self.layout.size)) == half:
            yield self.draw_networks(num_samples, torch.Generator().manual_seed(seed))
        else:
            yield from self._draws(half, seed)
            yield from (2 * self.loc - block for block in self._draws(half, seed))  # the same numbers once more

    def unconstrained_moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and sd of each entry."""
        return self.loc, self.factor.norm(dim=1)

    def _linearize_at(self) -> torch.Tensor | None:
        return self.loc if self.linearize else None

    def _normal(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.loc, self.factor

    def state(self) -> dict[str, Any]:
        """Location, factor and the way of predicting."""
        return {"loc": self.loc, "factor": self.factor, "linearize": torch.tensor(self.linearize)}

    @classmethod
    def from_state(cls, model: BayesianModel, record: FitRecord, state: dict[str, Any]) -> Gaussian:
        """The inverse of `state`."""
        return cls(model, record, state["loc"], state["factor"], bool(state["linearize"]))


class Draws(AbstractPosterior):
    """Draws of the unconstrained vector, as a sampler leaves them.

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
