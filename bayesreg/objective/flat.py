"""One vector, one log-joint: the model of `pyro_model`, evaluated without re-tracing it.

    u ∈ Rᴾ  —bijection by segment→  θ  —functional_call→  f(x; θ)
    LogJoint(u) = N/B · Σ_batch log p(yᵢ | f(xᵢ; θ)) + Σ_groups log p(θ_group) + Σ_linked log p(θ | scale)   [+ log |dθ/du|]

A group is a stretch of unknowns whose priors are one expression; a linked unknown has a scale that is unknown too. Where such
a scale is non-centred, u holds (θ − origin)/scale: another coordinate, the same model.

A pure function of tensors: it can be differentiated to any order, vmapped over draws, chains or scales, and compiled.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

import torch
from torch.distributions import biject_to, constraints

from bayesreg.model.model import BayesianModel
from bayesreg.model.unknowns import Latent
from bayesreg.priors.base import AbstractElementwisePrior, stack, stackable
from bayesreg.priors.numeric import expected

_INTEGRATED = 2000  # entries whose expectations by quadrature cost no more than a small step


@dataclasses.dataclass(frozen=True)
class Segment:
    """Where one unknown lies in the flat vector.

    Attributes:
        latent: The unknown.
        start: First entry.
        stop: One past the last.
        transform: From the real line to the prior's support; None for the identity.
    """

    latent: Latent
    start: int
    stop: int
    transform: Any

    @property
    def slice(self) -> slice:
        """start:stop."""
        return slice(self.start, self.stop)


class FlatLayout:
    """Name ↔ slice of one unconstrained vector u ∈ Rᴾ.

    Unknowns whose priors are of one class lie side by side, so that each class is one expression in the log-prior.

    Args:
        model: The model whose unknowns are laid out.

    >>> from torch import nn
    >>> layout = FlatLayout(BayesianModel(nn.Linear(3, 1)))
    >>> layout.size, {name: (s.start, s.stop) for name, s in layout.segments.items()}
    (5, {'weight': (0, 3), 'bias': (3, 4), 'noise_scale': (4, 5)})
    """

    def __init__(self, model: BayesianModel) -> None:
        kinds = list(dict.fromkeys(_kind(latent) for latent in model.latents.values()))
        placed: dict[str, Segment] = {}
        offset = 0
        for latent in sorted(model.latents.values(), key=lambda latent: kinds.index(_kind(latent))):
            size = latent.shape.numel()
            real = latent.prior.support is constraints.real
            transform = None if real else biject_to(latent.prior.support)
            placed[latent.name] = Segment(latent, offset, offset + size, transform)
            offset += size
        self.size = offset
        self.segments = {name: placed[name] for name in model.latents}
        self._in_order = list(placed.values())
        self._sizes = [s.stop - s.start for s in self._in_order]
        # parents first, as the model has them: a child's scale must be known before the child
        self.non_centered = [s for s in self.segments.values() if not s.latent.centered]

    @property
    def in_order(self) -> list[Segment]:
        """The segments as they follow each other in the vector."""
        return self._in_order

    def unflatten(self, u: torch.Tensor) -> dict[str, torch.Tensor]:
        """Values by name, in constrained space and the unknown's shape.

        Args:
            u: (P,) unconstrained.

        Returns:
            One tensor a name, views of `u` where no transform is needed.
        """
        values = {
            s.latent.name: (part if s.transform is None else s.transform(part)).view(s.latent.shape)
            for s, part in zip(self._in_order, u.split(self._sizes), strict=True)
        }
        for s in self.non_centered:
            latent = s.latent
            values[latent.name] = latent.origin + latent.scale(values) * values[latent.name]
        return values

    def values(self, u: torch.Tensor, names: Iterable[str]) -> dict[str, torch.Tensor]:
        """`unflatten` of many vectors (S, P) for some of the names, (S, *shape) each."""
        found = {name: self.segments[name] for name in names}
        if not all(s.latent.centered for s in found.values()):
            every = torch.vmap(self.unflatten)(u)
            return {name: every[name] for name in found}
        parts = {name: u[:, s.slice] if s.transform is None else s.transform(u[:, s.slice]) for name, s in found.items()}
        return {name: part.reshape(len(u), *found[name].latent.shape) for name, part in parts.items()}

    def flatten(self, values: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The inverse of `unflatten`.

        Args:
            values: One tensor a name, in constrained space.

        Returns:
            (P,) unconstrained.
        """
        parts = []
        for s in self._in_order:
            latent, value = s.latent, values[s.latent.name]
            if not latent.centered:
                value = (value - latent.origin) / latent.scale(values)
            parts.append((value if s.transform is None else s.transform.inv(value)).reshape(-1))
        return torch.cat(parts)

    def log_jacobian(self, u: torch.Tensor) -> torch.Tensor:
        """Log |dθ/du|, a scalar.

        Args:
            u: (P,) unconstrained.

        Returns:
            Scalar; zero where every unknown lives on the real line and is centred.
        """
        total = u.new_zeros(())
        for s in self._in_order:
            if s.transform is not None:
                part = u[s.slice]
                total = total + s.transform.log_abs_det_jacobian(part, s.transform(part)).sum()
        return total + self.log_scales(u)

    def log_jacobian_of_linked(self, u: torch.Tensor) -> torch.Tensor:
        """The part of `log_jacobian` that belongs to unknowns whose scale is unknown too, a scalar."""
        total = u.new_zeros(()) + self.log_scales(u)
        for s in self._in_order:
            if s.transform is not None and s.latent.parents:
                part = u[s.slice]
                total = total + s.transform.log_abs_det_jacobian(part, s.transform(part)).sum()
        return total

    def log_scales(self, u: torch.Tensor) -> Any:
        """The part of `log_jacobian` that the non-centred unknowns' scales make, a scalar, 0 where there are none."""
        if not self.non_centered:
            return 0.0
        values = self.unflatten(u)
        return sum(s.latent.scale(values).log().expand(s.latent.shape).sum() for s in self.non_centered)


@dataclasses.dataclass(frozen=True)
class Group:
    """Unknowns side by side in the vector whose priors are one expression of them alone.

    Attributes:
        start: First entry.
        stop: One past the last.
        prior: One prior over the whole stretch (see `priors.base.stack`), or that of one tensor whose entries depend on
            each other.
        shape: Of what the prior is on: the stretch, or that tensor.
        constant: Sum of the log-normalisers, in nats.
        transform: From the real line to the support; None for the identity.
    """

    start: int
    stop: int
    prior: Any
    shape: torch.Size
    constant: float
    transform: Any

    @property
    def slice(self) -> slice:
        """start:stop."""
        return slice(self.start, self.stop)

    @property
    def elementwise(self) -> bool:
        """True where entries are independent under the prior."""
        return isinstance(self.prior, AbstractElementwisePrior)

    @property
    def nonsmooth(self) -> bool:
        """True where the penalty has a kink at which a mode may sit; a transform has none inside the support."""
        return not self.prior.smooth and self.transform is None

    def energy(self, part: torch.Tensor) -> torch.Tensor:
        """The group's penalty in nats at its own stretch of the vector, a scalar."""
        value = part if self.transform is None else self.transform(part)
        return self.prior.energy(value).sum() if self.elementwise else self.prior.penalty(value.view(self.shape))

    def slope(self, part: torch.Tensor, *, jacobian: bool = False) -> torch.Tensor:
        """The derivative of `energy`, minus that of the log-Jacobian if asked, in one stretch, detached.

        Args:
            part: The group's own stretch of the vector.
            jacobian: Whether the objective is a density of the vector.

        Returns:
            Same shape.
        """
        part = part.detach()
        if self.transform is None:
            if self.elementwise:
                return self.prior.energy_gradient(part)
            return self.prior.penalty_gradient(part.view(self.shape)).reshape(-1)
        if self.prior.support is constraints.positive:  # exp: its derivative is its value, and its log-Jacobian linear
            value = part.exp()
            slope = self.prior.penalty_gradient(value.view(self.shape)).reshape(-1) * value
            return slope - 1 if jacobian else slope
        with torch.enable_grad():
            part = part.requires_grad_()
            total = self.energy(part)
            if jacobian:
                total = total - self.transform.log_abs_det_jacobian(part, self.transform(part)).sum()
            return torch.autograd.grad(total, part)[0]

    def prox(self, part: torch.Tensor, step: float | torch.Tensor) -> torch.Tensor:
        """argmin_z energy(z) + ½ Σᵢ (zᵢ − partᵢ)²/stepᵢ, for a group on the real line.

        Args:
            part: The group's own stretch of the vector.
            step: A number, or one for each entry; a prior that knows one step only takes the shortest.

        Returns:
            Same shape.
        """
        if isinstance(step, torch.Tensor) and step.dim():
            step = step.view(self.shape) if self.prior.separable_prox else step.amin()
        return self.prior.prox(part.view(self.shape), step).reshape(-1)

    @cached_property
    def integrable(self) -> bool:
        """True where `expected_energy` has no closed form, and one-dimensional quadrature at each step is cheap."""
        few = self.elementwise and self.prior.quick and self.stop - self.start <= _INTEGRATED
        if not few or (self.transform is not None and not self.prior.smooth):  # the rule there is for analytic functions
            return False
        return self.prior.expected_energy(*torch.ones(2, self.stop - self.start)) is None

    def expected_energy(self, loc: torch.Tensor, scale: torch.Tensor) -> torch.Tensor | None:
        """E[energy] under independent N(loc, scale²), a scalar with first derivatives; None where it takes a draw."""
        if self.integrable:
            found, to_loc, to_scale = (part.to(loc) for part in self.integral(loc, scale))
            # in loc and scale this is the tangent of the expectation, whose value and slope are those of the quadrature
            return found.sum() + (to_loc * (loc - loc.detach())).sum() + (to_scale * (scale - scale.detach())).sum()
        found = self.prior.expected_energy(loc, scale) if self.elementwise else None
        return None if found is None else found.sum()

    def integral(self, loc: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """E[energy] of each entry by quadrature, and its derivatives in loc and scale, (n,) each, detached, in float64."""
        return expected(self.prior.energy, self.prior.mode, self.prior.bounded, loc, scale, self.transform)

    def expected_with_slopes(
        self, loc: torch.Tensor, scale: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
        """E[energy], a scalar, and its derivatives in loc and scale, detached; None where a class has no derivatives for it."""
        if self.integrable:
            found, *slopes = self.integral(loc, scale)
            return found.sum().to(loc), slopes[0].to(loc), slopes[1].to(loc)
        slopes = self.prior.expected_slopes(loc, scale) if self.elementwise else None
        return None if slopes is None else (self.prior.expected_energy(loc, scale).sum(), *slopes)

    def curvature(self, part: torch.Tensor) -> torch.Tensor:
        """The second derivative of `energy`: (n,) for an elementwise prior, whose matrix is diagonal, else (n, n)."""
        part = part.detach()
        if not self.elementwise:
            return torch.func.hessian(self.energy)(part)
        part = part.requires_grad_()
        (gradient,) = torch.autograd.grad(self.energy(part), part, create_graph=True)
        if not gradient.requires_grad:
            return torch.zeros_like(part)
        (second,) = torch.autograd.grad(gradient.sum(), part, allow_unused=True)
        return torch.zeros_like(part) if second is None else second


class LogJoint:
    """log p(y, θ | x) of a model as a pure function of one unconstrained vector.

    Args:
        model: The model; bound to data when `num_data` is not passed at each call.

    >>> from torch import nn
    >>> model = BayesianModel(nn.Linear(2, 1)).bind([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], [0.0, 1.0, 3.0])
    >>> log_joint = LogJoint(model)
    >>> values = {"weight": torch.ones(1, 2), "bias": torch.zeros(1), "noise_scale": torch.tensor(0.5)}
    >>> data = ([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]], [0.0, 1.0, 3.0])
    >>> flat = log_joint(log_joint.layout.flatten(values), *data)
    >>> bool(torch.isclose(flat, model.log_joint(values, *data)))
    True
    """

    def __init__(self, model: BayesianModel) -> None:
        self.model = model
        self.layout = FlatLayout(model)
        self.groups = list(_groups(self.layout, model.like))
        self.nonsmooth = [group for group in self.groups if group.nonsmooth]
        self.linked = [latent for latent in model.latents.values() if latent.parents]
        self.log_prior_constant = sum(group.constant for group in self.groups)

    def __call__(self, u: torch.Tensor, x: Any, y: Any, num_data: int | None = None, *, jacobian: bool = False) -> torch.Tensor:
        """The log-joint over data in their own units.

        Args:
            u: (P,) unconstrained.
            x: Inputs (B, ...) in their own units.
            y: Targets in their own units.
            num_data: N; what the model was bound to when None.
            jacobian: Add log |dθ/du|, so that it is a density of `u`.

        Returns:
            Scalar, in nats, summed over the data set.
        """
        total = self.model.total(num_data)
        x, y = self.model.prepare(x, y)
        return self.prepared(u, x, y, total, jacobian=jacobian) + total * self.model.log_jacobian

    def prepared(
        self, u: torch.Tensor, x: torch.Tensor, y: torch.Tensor, num_data: int, *, jacobian: bool = False
    ) -> torch.Tensor:
        """The log-joint over prepared data; it lacks the constant N · `model.log_jacobian`."""
        values = self.layout.unflatten(u)
        joint = self.row_terms(values, x, y, num_data) + self.log_prior(u, values)
        return joint + self.layout.log_jacobian(u) if jacobian else joint

    def row_terms(self, values: Mapping[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor, num_data: int) -> torch.Tensor:
        """What is a sum over rows, N/B · Σ [log p(yᵢ | f(xᵢ; θ)) + log p(aᵢ)] over prepared data, a scalar."""
        model = self.model
        if not model.outputs:
            return self.log_likelihood(values, x, y, num_data)
        output, activations = model.forward_with_activity(values, x)
        return (self.of_output(output, y, values) + activations.sum()) * (num_data / len(x))

    def of_output(self, output: torch.Tensor, y: torch.Tensor, values: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Σ log p(yᵢ | output) of the rows of one batch, a scalar: no network is run."""
        return self.model.likelihood.log_prob_sum(output, y, **self.model.noise(values))

    def log_likelihood(
        self, values: Mapping[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor, num_data: int
    ) -> torch.Tensor:
        """N/B · Σ log p(yᵢ | f(xᵢ; θ)) over prepared data, a scalar."""
        return self.of_output(self.model.forward(values, x), y, values) * (num_data / len(x))

    def log_prior(self, u: torch.Tensor, values: Mapping[str, torch.Tensor] | None = None) -> torch.Tensor:
        """Log p(θ(u)), a scalar, without Jacobian; `values` are those at `u`, where they are there already."""
        return self.log_prior_constant - self.energy(u, values)

    def energy(self, u: torch.Tensor, values: Mapping[str, torch.Tensor] | None = None) -> torch.Tensor:
        """The penalty, −log p(θ(u)) up to its constant, a scalar."""
        total = self.linked_energy(u, values)
        for group in self.groups:
            total = total + group.energy(u[group.slice])
        return total

    def linked_energy(self, u: torch.Tensor, values: Mapping[str, torch.Tensor] | None = None) -> Any:
        """−log p(θ | scale) of the unknowns whose scale is unknown too, a scalar, normalisers included."""
        if not self.linked:
            return 0.0
        values = self.layout.unflatten(u) if values is None else values
        return -sum(latent.given(values).log_prob(values[latent.name]) for latent in self.linked)

    def expected_energy(self, loc: torch.Tensor, scale: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        """E[penalty] under u ~ N(loc, diag scale²), a scalar: in closed form, by quadrature, or else at the draw `u`."""
        total = self.linked_energy(u)
        for group in self.groups:
            part = group.expected_energy(loc[group.slice], scale[group.slice])
            total = total + (group.energy(u[group.slice]) if part is None else part)
        return total

    def expected_log_jacobian(self, loc: torch.Tensor, u: torch.Tensor) -> Any:
        """E[log |dθ/du|] under u ~ N(loc, ·): exact where the transform is exp, whose log-Jacobian is u, else at the draw."""
        total = self.layout.log_scales(u)
        for s in self.layout.in_order:
            if s.transform is None:
                continue
            if s.latent.is_positive:
                total = total + loc[s.slice].sum()
            else:
                part = u[s.slice]
                total = total + s.transform.log_abs_det_jacobian(part, s.transform(part)).sum()
        return total

    @property
    def smooth(self) -> bool:
        """True where every log-prior has two derivatives, those of activations included."""
        linked = all(latent.prior.smooth for latent in self.linked)
        return linked and not self.nonsmooth and not self.nonsmooth_outputs

    @cached_property
    def closed_divergence(self) -> bool:
        """True where the KL of independent normals to the prior, and its gradient, need no draw, group by group."""
        elementwise = all(
            group.integrable
            or (group.elementwise and type(group.prior).expected_slopes is not AbstractElementwisePrior.expected_slopes)
            for group in self.groups
        )
        positive = all(s.transform is None or s.latent.is_positive for s in self.layout.in_order)
        return elementwise and positive and not self.linked

    @property
    def nonsmooth_outputs(self) -> bool:
        """True where a prior on an activation has a kink: no proximal step reaches it through the network."""
        return any(not output.prior.smooth for output in self.model.outputs)


def _kind(latent: Latent) -> tuple[Any, ...]:
    """Unknowns of one kind lie side by side and are one group."""
    prior = latent.prior
    if latent.parents or not stackable(prior):
        return (latent.name,)
    real = prior.support is constraints.real
    return type(prior), real or prior.support is constraints.positive or repr(prior)


def _groups(layout: FlatLayout, like: torch.Tensor) -> Any:
    run: list[Segment] = []
    for segment in [*layout.in_order, None]:
        if run and (segment is None or _kind(segment.latent) != _kind(run[0].latent)):
            if not run[0].latent.parents:
                yield group_of(run, like)
            run = []
        if segment is not None:
            run.append(segment)


def group_of(run: list[Segment], like: torch.Tensor) -> Group:
    """The group of segments side by side whose priors are of one class."""
    priors: list[Any] = [s.latent.prior for s in run]
    shapes = [s.latent.shape for s in run]
    constant = math.fsum(float(p.log_normaliser(shape)) for p, shape in zip(priors, shapes, strict=True))
    start, stop = run[0].start, run[-1].stop
    if stackable(priors[0]):
        return Group(start, stop, stack(priors, shapes, like), torch.Size([stop - start]), constant, run[0].transform)
    return Group(start, stop, priors[0], shapes[0], constant, run[0].transform)
