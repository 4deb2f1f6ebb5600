"""The answer of a fit, one interface for all: a mode is a Dirac posterior.

Dirac     a point                       Gaussian  N(loc, covariance) over the unconstrained vector
Guide     a variational family          Draws     what a sampler left behind
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from bayesreg import _check, propagate
from bayesreg._catalog import concrete
from bayesreg.flat import FlatLayout
from bayesreg.guides import AbstractGuide
from bayesreg.layers import batchnorm
from bayesreg.model import BayesianModel
from bayesreg.predictive import Predictive
from bayesreg.prior_predictive import in_data_units
from bayesreg.record import Certificate, FitRecord, History

_DRAWS = 10_000  # behind moments that have no closed form: their Monte Carlo error is a hundredth of an sd


class AbstractPosterior(abc.ABC):
    """p(θ | data), in the form that a method gives it.

    Weights live in the space that the model works in (standardised data when it standardises); the noise scale, like
    every prediction, comes back in the data's own units.

    Args:
        model: The model, bound to its training data.
        record: What the method says about the fit.
    """

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
        return self.record.batch_statistics or batchnorm.described(self.model.module)

    @property
    def mean(self) -> dict[str, torch.Tensor]:
        """E[θ | data] by name, in each unknown's shape; the point itself for a mode."""
        return self._named(self.moments()[0])

    @property
    def std(self) -> dict[str, torch.Tensor]:
        """sd[θ | data] by name, in each unknown's shape; zero for a mode."""
        return self._named(self.moments()[1])

    def sample(self, num_samples: int = 1000, *, seed: int = 0, units: str = "data") -> dict[str, torch.Tensor]:
        """Draws of every unknown.

        Args:
            num_samples: S.
            seed: Same seed, same draws; the global random state is not touched.
            units: "data" for the noise in the data's own units; "model" for every value as the model's sites and
                `model.log_joint` take it, which differs when the model standardises.

        Returns:
            By name, (S, *shape), in constrained space.

        Raises:
            ValueError: If num_samples is not a whole number >= 1, or units is neither of the two.
        """
        seed = _check.seed(seed)
        _check.one_of("units", units, ("data", "model"))
        draws = self.draw(_check.count("num_samples", num_samples), torch.Generator().manual_seed(seed))
        values = torch.vmap(self.layout.unflatten)(draws)
        return values if units == "model" else self.to_data_units(values)

    def predict(self, x: Any, *, num_samples: int = 1000, seed: int = 0, max_memory: int = propagate.MAX_MEMORY) -> Predictive:
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
        batchnorm.check_statistics(self.model.module)
        u = self._draw_for_prediction(count, torch.Generator().manual_seed(seed))
        inputs = self.model.prepare(x)
        out = propagate.outputs(self.model, self.layout, u, inputs, linearize_at=self._linearize_at(), max_memory=max_memory)
        return self._in_data_units(out, u)

    # a draw's network: what it is made of, which need not be the unknowns, and a pass through it

    @property
    def _network(self) -> nn.Module:
        """The module that a draw's network is made from."""
        return self.model.module

    def _networks(self, num_samples: int, generator: torch.Generator) -> torch.Tensor:
        """What each draw's network is made of, (S, Q)."""
        return self._draw_for_prediction(num_samples, generator)

    def _forward(
        self, made_of: torch.Tensor, x: torch.Tensor, module: nn.Module, buffers: Mapping[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """One draw's output, (B,) or (B, K), at prepared rows, in a module of `_network`'s structure."""
        return self.model.forward(self.layout.unflatten(made_of), x, module, buffers)

    def _unknowns(self, made_of: torch.Tensor) -> torch.Tensor:
        """The unknowns of each draw, (S, P), from what its network is made of."""
        return made_of

    def _in_data_units(self, out: torch.Tensor, u: torch.Tensor) -> Predictive:
        """Outputs (S, N, ...) and the draws that they come from, (S, P), as a predictive."""
        noise = torch.vmap(lambda v: self.model.noise(self.layout.unflatten(v)))(u)
        return in_data_units(self.model.likelihood, self.model.standardization, out, noise)

    def _linearize_at(self) -> torch.Tensor | None:
        return None

    def _draw_for_prediction(self, num_samples: int, generator: torch.Generator) -> torch.Tensor:
        return self.draw(num_samples, generator)

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
        names = tuple(self.model.likelihood.latents.keys() | self.model.likelihood.fixed.keys())
        noise = {k for k in values if k in names or k.startswith(tuple(f"{name}.scale" for name in names))}  # its scale too
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

    def __init__(self, model: BayesianModel, record: FitRecord, loc: torch.Tensor) -> None:
        super().__init__(model, record)
        self.loc = loc.detach()

    def draw(self, num_samples: int, generator: torch.Generator) -> torch.Tensor:
        """The point, `num_samples` times."""
        return self.loc.expand(num_samples, -1)

    def moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The point and zeros."""
        values = self.layout.unflatten(self.loc)
        flat = torch.cat([values[s.latent.name].reshape(-1) for s in self.layout.in_order])
        return flat, torch.zeros_like(flat)

    def _networks(self, num_samples: int, generator: torch.Generator) -> torch.Tensor:
        return self.loc.new_zeros(num_samples, 0)

    def _forward(
        self, made_of: torch.Tensor, x: torch.Tensor, module: nn.Module, buffers: Mapping[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        return self.model.forward(self.layout.unflatten(self.loc), x, module, buffers)

    def _unknowns(self, made_of: torch.Tensor) -> torch.Tensor:
        return self.loc.expand(len(made_of), -1)

    def state(self) -> dict[str, Any]:
        """The point."""
        return {"loc": self.loc}

    @classmethod
    def from_state(cls, model: BayesianModel, record: FitRecord, state: dict[str, Any]) -> Dirac:
        """The inverse of `state`."""
        return cls(model, record, state["loc"])


def _quadrature(transform: Any, loc: torch.Tensor, sd: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and sd of a transformed normal, by Gauss–Hermite quadrature."""
    nodes, weights = (torch.as_tensor(part).to(loc) for part in np.polynomial.hermite_e.hermegauss(64))
    values, weights = transform(loc + sd * nodes[:, None]), (weights / weights.sum())[:, None]
    mean = (weights * values).sum(0)
    return mean, (weights * (values - mean).square()).sum(0).sqrt()


class _NormalMoments(AbstractPosterior):
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
                loc[s.slice], sd[s.slice] = _quadrature(s.transform, loc[s.slice], sd[s.slice])
        if self.layout.non_centered:
            draws = self.draw(_DRAWS, torch.Generator().manual_seed(0))
            values = torch.vmap(self.layout.unflatten)(draws)
            for s in self.layout.non_centered:
                found = values[s.latent.name].reshape(_DRAWS, -1)
                loc[s.slice], sd[s.slice] = found.mean(0), found.std(0)
        return loc, sd


class Gaussian(_NormalMoments):
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

    def _draw_for_prediction(self, num_samples: int, generator: torch.Generator) -> torch.Tensor:
        # pairs loc ± step: the mean of a (linearised) network's output then has no Monte Carlo error at all
        if num_samples % 2:
            return self.draw(num_samples, generator)
        half = self.draw(num_samples // 2, generator)
        return torch.cat([half, 2 * self.loc - half])

    def unconstrained_moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and sd of each entry."""
        return self.loc, self.factor.norm(dim=1)

    def _linearize_at(self) -> torch.Tensor | None:
        return self.loc if self.linearize else None

    def state(self) -> dict[str, Any]:
        """Location, factor and the way of predicting."""
        return {"loc": self.loc, "factor": self.factor, "linearize": torch.tensor(self.linearize)}

    @classmethod
    def from_state(cls, model: BayesianModel, record: FitRecord, state: dict[str, Any]) -> Gaussian:
        """The inverse of `state`."""
        return cls(model, record, state["loc"], state["factor"], bool(state["linearize"]))


class Guide(_NormalMoments):
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


class Draws(AbstractPosterior):
    """Draws of the unconstrained vector, as a sampler leaves them.

    Args:
        model: The model, bound to its training data.
        record: What the method says about the fit.
        draws: (S, P).
    """

    def __init__(self, model: BayesianModel, record: FitRecord, draws: torch.Tensor) -> None:
        super().__init__(model, record)
        self.draws = draws.detach()

    def draw(self, num_samples: int, generator: torch.Generator) -> torch.Tensor:
        """Stored draws, see `among`."""
        return self.draws[among(len(self.draws), num_samples, generator).to(self.draws.device)]

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


def among(stored: int, num_samples: int, generator: torch.Generator) -> torch.Tensor:
    """Numbers of stored draws, (num_samples,): without replacement while there are enough, with replacement beyond."""
    if num_samples <= stored:
        return torch.randperm(stored, generator=generator)[:num_samples]
    return torch.randint(stored, (num_samples,), generator=generator)


def restored(model: BayesianModel, kind: str, record: dict[str, Any], state: dict[str, Any]) -> AbstractPosterior:
    """A posterior from what was stored of it.

    Args:
        model: Its model.
        kind: Name of its class.
        record: Its record, as `dataclasses.asdict` gave it.
        state: As its `state` gave it.
    """
    kinds = {cls.__name__: cls for cls in concrete(AbstractPosterior)}
    return kinds[kind].from_state(model, FitRecord.from_dict(record), state)
