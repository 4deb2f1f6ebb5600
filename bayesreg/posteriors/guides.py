"""Guides over the flat vector, which are Pyro guides with the model's own sites, and an ELBO evaluated on that vector.

ELBO = E_q[log p(y | θ)] − KL(q ‖ p)   in nats, N rows;   for a Delta guide it is the log-joint: MAP is SVI.
"""

from __future__ import annotations

import abc
import uuid
from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import ELBO
from torch import nn

from bayesreg.behaviour import each
from bayesreg.model.model import BayesianModel
from bayesreg.objective.flat import FlatLayout, LogJoint
from bayesreg.objective.training_copy import TrainingCopy
from bayesreg.priors.values import HALF_LOG_2PI


class AbstractGuide(nn.Module, abc.ABC):
    """A variational family over u ∈ Rᴾ. Calling it is a Pyro program with one site for each unknown.

    It holds its own parameters and uses Pyro's parameter store only inside `pyro.infer.SVI`, under a name unique to the
    instance, so that two guides never share parameters.

    Args:
        layout: Where each unknown lies in the vector.
    """

    def __init__(self, layout: FlatLayout) -> None:
        super().__init__()
        self.layout = layout
        self._key = f"bayesreg.{type(self).__name__}.{uuid.uuid4().hex}"

    @classmethod
    @abc.abstractmethod
    def blank(cls, layout: FlatLayout, like: torch.Tensor) -> AbstractGuide:
        """A guide of this family whose parameters are to be overwritten."""

    @classmethod
    def like_state(cls, layout: FlatLayout, like: torch.Tensor, state: Mapping[str, torch.Tensor]) -> AbstractGuide:
        """A `blank` guide of the sizes that a saved state says, where the layout does not tell them."""
        return cls.blank(layout, like)

    def saved(self) -> dict[str, Any]:
        """The parameters, and what else `like_state` must know, for a file."""
        return self.state_dict()

    @abc.abstractmethod
    def rsample(self) -> torch.Tensor:
        """One reparametrised draw, (P,)."""

    @abc.abstractmethod
    def draw(self, num_samples: int, generator: torch.Generator) -> torch.Tensor:
        """Detached draws, (S, P), on the guide's device."""

    @abc.abstractmethod
    def elbo(
        self, log_joint: LogJoint, x: torch.Tensor, y: torch.Tensor, num_data: int, num_particles: int = 1
    ) -> torch.Tensor:
        """An estimate of the ELBO over prepared data from `num_particles` draws, a scalar in nats."""

    @abc.abstractmethod
    def moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and sd of each entry of `u`, both (P,), detached."""

    def constrained_moments(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Mean and sd of each unknown in constrained space, flat, both (P,); None where the vector is normal, which tells."""
        return None

    def weighed(self, num_samples: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Independent draws (S, P) and their log q, (S,), in nats; None where there is no density."""
        draws = self.draw(num_samples, generator)
        log_q = self.log_density(draws)
        return None if log_q is None else (draws, log_q)

    def as_normal(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """See `AbstractPosterior.as_normal`."""
        return None

    def times_factor(self, rows: torch.Tensor) -> torch.Tensor | None:
        """See `AbstractPosterior.times_factor`, where it costs less than by `as_normal`; else None."""
        return None

    def log_density(self, u: torch.Tensor) -> torch.Tensor | None:
        """Log q(u) of unconstrained draws (S, P), (S,) in nats, where it costs less than by `as_normal`; else None."""
        return None

    @abc.abstractmethod
    def site(self, name: str, values: Mapping[str, torch.Tensor] | None = None) -> Any:
        """The Pyro distribution of one unknown, in constrained space.

        `values` are those of the unknowns that its scale depends on, where it is searched relative to that scale.
        """

    def register(self) -> None:
        """Register the parameters with Pyro, so that `pyro.infer.SVI` optimises them."""
        for name, parameter in self._parameters.items():  # what `pyro.module` does, without walking the module
            pyro.param(f"{self._key}$$${name}", parameter)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        """The Pyro program: the drawn values by site; arguments are the model's and are not used."""
        self.register()
        values: dict[str, torch.Tensor] = {}
        for name in self.layout.segments:  # parents first
            values[name] = pyro.sample(name, self.site(name, values))
        return values


class DeltaGuide(AbstractGuide):
    """A point: q(θ) = δ(θ − θ*). Its ELBO is the log-joint in constrained space, without Jacobian.

    Args:
        layout: Where each unknown lies in the vector.
        loc: Where to start, (P,) unconstrained.
    """

    def __init__(self, layout: FlatLayout, loc: torch.Tensor) -> None:
        super().__init__(layout)
        self.loc = nn.Parameter(loc.detach().clone())

    @classmethod
    def blank(cls, layout: FlatLayout, like: torch.Tensor) -> DeltaGuide:
        """A point at zero."""
        return cls(layout, like.new_zeros(layout.size))

    def rsample(self) -> torch.Tensor:
        """The point itself, (P,)."""
        return self.loc

    def draw(self, num_samples: int, generator: torch.Generator) -> torch.Tensor:
        """The point, `num_samples` times, (S, P)."""
        return self.loc.detach().expand(num_samples, -1)

    def elbo(
        self, log_joint: LogJoint, x: torch.Tensor, y: torch.Tensor, num_data: int, num_particles: int = 1
    ) -> torch.Tensor:
        """The log-joint over prepared data; a point has no Monte Carlo error."""
        return log_joint.prepared(self.loc, x, y, num_data)

    def moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The point and zeros."""
        return self.loc.detach(), torch.zeros_like(self.loc)

    def site(self, name: str, values: Mapping[str, torch.Tensor] | None = None) -> Any:
        """A Delta of the unknown's shape."""
        value = self.layout.unflatten(self.loc)[name]
        return dist.Delta(value, event_dim=value.dim())


class AbstractFamily(AbstractGuide):
    """A family that is learned: its draws are a smooth function of one vector `phi` and of standard normal numbers.

    A subclass says its draws, its marginals and its entropy; the ELBO follows. What has no marginals that are normal overrides
    `divergence_at`. The loop that fits it is `inference.variational.AbstractGuided`.

    Args:
        layout: Where each unknown lies in the vector.
        phi: All that is learned, one vector: one optimizer update.
    """

    def __init__(self, layout: FlatLayout, phi: torch.Tensor) -> None:
        super().__init__(layout)
        self.phi = nn.Parameter(phi.detach().clone())

    @property
    def noise_size(self) -> int:
        """Standard normal numbers that one draw needs, M."""
        return self.layout.size

    @abc.abstractmethod
    def draws_at(self, phi: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Draws as a pure function of `phi` and of standard normal numbers: (M,) to (P,), or (S, M) to (S, P)."""

    @abc.abstractmethod
    def marginals_at(self, phi: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and sd of each entry of `u`, both (P,), a pure function of `phi`."""

    @abc.abstractmethod
    def entropy_at(self, phi: torch.Tensor) -> torch.Tensor:
        """The entropy of `u`, a scalar in nats, a pure function of `phi`."""

    @abc.abstractmethod
    def whitened(self, gradients: torch.Tensor) -> torch.Tensor:
        """Gradients of the ELBO, (R, len(phi)), times F^−½, F the Fisher information: a natural step gains half the square."""

    @abc.abstractmethod
    def log_density(self, u: torch.Tensor) -> torch.Tensor:
        """Log q(u) of unconstrained draws (S, P), (S,) in nats, detached."""

    def divergence_at(self, phi: torch.Tensor, log_joint: LogJoint, u: torch.Tensor) -> torch.Tensor:
        """KL(q ‖ p), a scalar in nats: in closed form wherever the prior has one, else at the draw `u`, (P,)."""
        loc, scale = self.marginals_at(phi)
        energy = log_joint.expected_energy(loc, scale, u)
        return energy - log_joint.log_prior_constant - self.entropy_at(phi) - log_joint.expected_log_jacobian(loc, u)

    def elbo_at(
        self, phi: torch.Tensor, noise: torch.Tensor, log_joint: LogJoint, x: torch.Tensor, y: torch.Tensor, num_data: Any
    ) -> torch.Tensor:
        """The ELBO as a pure function of `phi` and of standard normal numbers, (num_particles, M).

        Of several particles the first half counts, with both signs.
        """

        def at(u: torch.Tensor) -> torch.Tensor:
            fit = log_joint.row_terms(self.layout.unflatten(u), x, y, num_data)
            return fit - self.divergence_at(phi, log_joint, u)

        if len(noise) == 1:
            return at(self.draws_at(phi, noise[0]))
        half = noise[: len(noise) // 2]
        draws = self.draws_at(phi, torch.cat([half, -half, noise[2 * len(half) :]]))
        return each(log_joint.model.behaviour, at, draws).mean()

    def elbo(
        self, log_joint: LogJoint, x: torch.Tensor, y: torch.Tensor, num_data: int, num_particles: int = 1
    ) -> torch.Tensor:
        """E_q[log-likelihood] from draws minus the KL, a scalar in nats; the KL is in closed form wherever the prior has one.

        Draws go in one vmapped pass and come in pairs of opposite noise, which cancels every odd term of the error: on a linear
        model the gradient of a normal's mean is then exact.
        """
        noise = torch.randn(num_particles, self.noise_size, dtype=self.phi.dtype, device=self.phi.device)
        return self.elbo_at(self.phi, noise, log_joint, x, y, num_data)

    def rsample(self) -> torch.Tensor:
        """One reparametrised draw, (P,)."""
        return self.draws_at(self.phi, torch.randn(self.noise_size, dtype=self.phi.dtype, device=self.phi.device))

    def draw(self, num_samples: int, generator: torch.Generator) -> torch.Tensor:
        """Independent draws, (S, P)."""
        noise = torch.randn(num_samples, self.noise_size, generator=generator, dtype=self.phi.dtype).to(self.phi.device)
        return self.draws_at(self.phi.detach(), noise)

    def moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Means and standard deviations."""
        return self.marginals_at(self.phi.detach())


class MeanFieldGuide(AbstractFamily):
    """Independent normals on the unconstrained vector: q(u) = Π N(uᵢ; locᵢ, scaleᵢ²).

    Sites are real Normals (log-normals for positive unknowns), so that a KL to a Normal prior is in closed form, here and
    in `pyro.infer.TraceMeanField_ELBO` alike. `phi` is the means and then the log-sds, (2P,).

    Args:
        layout: Where each unknown lies in the vector.
        loc: Means to start from, (P,).
        scale: Standard deviations to start from, (P,), > 0.

    References:
        Graves (2011), Practical variational inference for neural networks. Blundell et al. (2015), Weight uncertainty in
        neural networks.
    """

    def __init__(self, layout: FlatLayout, loc: torch.Tensor, scale: torch.Tensor) -> None:
        super().__init__(layout, torch.cat([loc.detach(), scale.detach().log()]))

    @classmethod
    def blank(cls, layout: FlatLayout, like: torch.Tensor) -> MeanFieldGuide:
        """Standard normals."""
        return cls(layout, like.new_zeros(layout.size), like.new_ones(layout.size))

    def marginals_at(self, phi: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Location and scale, both (P,)."""
        loc, log_scale = phi.chunk(2)
        return loc, log_scale.exp()

    def draws_at(self, phi: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Loc + scale·ε."""
        loc, scale = self.marginals_at(phi)
        return torch.addcmul(loc, scale, noise)

    def entropy_at(self, phi: torch.Tensor) -> torch.Tensor:
        """Σ log scale + P/2 log 2πe."""
        loc, log_scale = phi.chunk(2)
        return log_scale.sum() + (HALF_LOG_2PI + 0.5) * len(loc)

    def whitened(self, gradients: torch.Tensor) -> torch.Tensor:
        """By the Fisher information 1/scale² of a mean and 2 of a log-sd."""
        loc, scale = gradients.chunk(2, 1)
        return torch.cat([loc * self.moments()[1].to(loc), scale * 0.5**0.5], 1)

    def log_density(self, u: torch.Tensor) -> torch.Tensor:
        """Σ log N(uᵢ; locᵢ, scaleᵢ²)."""
        loc, scale = self.moments()
        return dist.Normal(loc.to(u), scale.to(u), validate_args=False).log_prob(u).sum(-1)

    def as_normal(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Means and standard deviations."""
        return self.moments()

    def site(self, name: str, values: Mapping[str, torch.Tensor] | None = None) -> Any:
        """A Normal of the unknown's shape; a log-normal where it is positive; times its scale where it is non-centred."""
        segment = self.layout.segments[name]
        loc, scale = (part[segment.slice].view(segment.latent.shape) for part in self.marginals_at(self.phi))
        normal = dist.Normal(loc, scale)
        transforms = [] if segment.transform is None else [segment.transform]
        if not segment.latent.centered:
            scale = segment.latent.scale(values or {})
            transforms.append(dist.transforms.AffineTransform(segment.latent.origin, scale))
        return (dist.TransformedDistribution(normal, transforms) if transforms else normal).to_event(loc.dim())


class FlatELBO(ELBO):
    """A `pyro.infer.ELBO` that evaluates a bayesreg model and guide on the flat vector instead of tracing them.

    Use it as `pyro.infer.SVI(model.pyro_model, guide, optim, loss=FlatELBO())` and call `svi.step(x, y)` with the
    arguments of `pyro_model`. The loss, as for every Pyro ELBO, is minus the ELBO, in nats, summed over the data set.

    Args:
        num_particles: Draws a step, averaged.

    Raises:
        ValueError: At the first step, if the model is not the `pyro_model` of a `BayesianModel` or the guide not one of
            `bayesreg.posteriors`.
    """

    def __init__(self, num_particles: int = 1) -> None:
        super().__init__(num_particles=num_particles)
        self._log_joint: LogJoint | None = None
        self._copy: TrainingCopy | None = None

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Minus the ELBO as a scalar with gradient, in nats, summed over the data set.

        `model` is the `pyro_model` of a `BayesianModel`, the other arguments are as for `pyro_model`.
        """
        log_joint = self._read(model, guide)
        x, y, total = _arguments(*args, **kwargs)
        owner = log_joint.model
        guide.register()
        num_data = owner.total(total)
        batch = owner.prepare(x, y)
        return -(guide.elbo(log_joint, *batch, num_data, self.num_particles) + num_data * owner.log_jacobian)

    def loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Minus the ELBO, a number in nats; arguments as for `differentiable_loss`."""
        with torch.no_grad():
            return self.differentiable_loss(model, guide, *args, **kwargs).item()

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """Minus the ELBO, with gradients accumulated; arguments as for `differentiable_loss`."""
        if type(guide) is DeltaGuide:
            return self._at_a_point(model, guide, *args, **kwargs)
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        loss.backward()
        return loss.item()

    def _at_a_point(self, model: Any, guide: DeltaGuide, *args: Any, **kwargs: Any) -> float:
        """The same for a point, by a training copy: the gradient costs as much as in a plain training loop."""
        log_joint = self._read(model, guide)
        x, y, total = _arguments(*args, **kwargs)
        guide.register()
        num_data = log_joint.model.total(total)
        if self._copy is None or self._copy.log_joint is not log_joint or self._copy.num_data != num_data:
            self._copy = TrainingCopy(log_joint, guide.loc, num_data, training=False)
        copy, point = self._copy, guide.loc.detach()
        gradient: Any = copy.flat.grad
        copy.flat.data.copy_(point)
        gradient.zero_()
        loss = copy.backward(*log_joint.model.prepare(x, y))
        found = gradient * num_data
        guide.loc.grad = found if guide.loc.grad is None else guide.loc.grad.add_(found)
        return -copy.objective(loss, point)

    def _get_trace(self, model: Any, guide: Any, args: Any, kwargs: Any) -> Any:
        """Nothing is traced here; Pyro's base class wants the method."""
        raise NotImplementedError

    def _read(self, model: Any, guide: Any) -> LogJoint:
        owner = getattr(model, "__self__", None)
        if not isinstance(owner, BayesianModel) or model != owner.pyro_model:
            raise ValueError(
                f"FlatELBO needs model.pyro_model of a BayesianModel, but {model!r} came; "
                "for any other program take pyro.infer.Trace_ELBO."
            )
        if not isinstance(guide, AbstractGuide):
            raise ValueError(
                f"FlatELBO needs a guide of bayesreg.posteriors, but {type(guide).__name__} came; "
                "for a guide of Pyro's take pyro.infer.Trace_ELBO."
            )
        if self._log_joint is None or self._log_joint.model is not owner:
            self._log_joint = LogJoint(owner)
        return self._log_joint


def _arguments(x: Any, y: Any, num_data: int | None = None) -> tuple[Any, Any, int | None]:
    return x, y, num_data
