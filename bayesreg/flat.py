"""One vector, one log-joint: the model of `pyro_model`, evaluated without re-tracing it.

    u ∈ Rᴾ  —bijection by segment→  θ  —functional_call→  f(x; θ)
    LogJoint(u) = N/B · Σ_batch log p(yᵢ | f(xᵢ; θ)) + Σ_groups log p(θ_group)   [+ log |dθ/du|]

A pure function of tensors: it can be differentiated to any order, vmapped over draws, chains or scales, and compiled.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch.distributions import biject_to, constraints

from bayesreg.model import BayesianModel, Latent
from bayesreg.priors.base import AbstractElementwisePrior, stack


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
        classes = list(dict.fromkeys(type(latent.prior) for latent in model.latents.values()))
        ordered = sorted(model.latents.values(), key=lambda latent: classes.index(type(latent.prior)))
        placed: dict[str, Segment] = {}
        offset = 0
        for latent in ordered:
            size = latent.shape.numel()
            real = latent.prior.support is constraints.real
            transform = None if real else biject_to(latent.prior.support)
            placed[latent.name] = Segment(latent, offset, offset + size, transform)
            offset += size
        self.size = offset
        self.segments = {name: placed[name] for name in model.latents}
        self._in_order = list(placed.values())

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
        parts = u.split([s.stop - s.start for s in self._in_order])
        values = {
            s.latent.name: (part if s.transform is None else s.transform(part)).view(s.latent.shape)
            for s, part in zip(self._in_order, parts, strict=True)
        }
        return values

    def flatten(self, values: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The inverse of `unflatten`.

        Args:
            values: One tensor a name, in constrained space.

        Returns:
            (P,) unconstrained.
        """
        return torch.cat(
            [
                (value if s.transform is None else s.transform.inv(value)).reshape(-1)
                for s in self._in_order
                for value in [values[s.latent.name]]
            ]
        )

    def log_jacobian(self, u: torch.Tensor) -> torch.Tensor:
        """Log |dθ/du|, a scalar.

        Args:
            u: (P,) unconstrained.

        Returns:
            Scalar; zero where every unknown lives on the real line.
        """
        total = u.new_zeros(())
        for s in self._in_order:
            if s.transform is not None:
                part = u[s.slice]
                total = total + s.transform.log_abs_det_jacobian(part, s.transform(part)).sum()
        return total


@dataclasses.dataclass(frozen=True)
class Group:
    """Unknowns side by side in the vector whose priors are of one class.

    Attributes:
        start: First entry.
        stop: One past the last.
        prior: One prior over the whole stretch (see `priors.base.stack`).
        constant: Sum of the log-normalisers, in nats.
        transform: From the real line to the support; None for the identity.
    """

    start: int
    stop: int
    prior: AbstractElementwisePrior
    constant: float
    transform: Any

    @property
    def slice(self) -> slice:
        """start:stop."""
        return slice(self.start, self.stop)

    def energy(self, u: torch.Tensor) -> torch.Tensor:
        """The group's penalty in nats at its own stretch of the vector, a scalar."""
        return self.prior.energy(u if self.transform is None else self.transform(u)).sum()


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
        joint = self.log_likelihood(values, x, y, num_data) + self.log_prior(u)
        return joint + self.layout.log_jacobian(u) if jacobian else joint

    def log_likelihood(
        self, values: Mapping[str, torch.Tensor], x: torch.Tensor, y: torch.Tensor, num_data: int
    ) -> torch.Tensor:
        """N/B · Σ log p(yᵢ | f(xᵢ; θ)) over prepared data, a scalar."""
        model = self.model
        rows = model.likelihood.log_prob_sum(model.forward(values, x), y, **model.noise(values))
        return rows * (num_data / len(x))

    def log_prior(self, u: torch.Tensor) -> torch.Tensor:
        """Log p(θ(u)), a scalar, without Jacobian."""
        return self.log_prior_constant - self.energy(u)

    def energy(self, u: torch.Tensor) -> torch.Tensor:
        """The penalty, −log p(θ(u)) up to its constant, a scalar."""
        total = self.groups[0].energy(u[self.groups[0].slice])
        for group in self.groups[1:]:
            total = total + group.energy(u[group.slice])
        return total

    def expected_energy(self, loc: torch.Tensor, scale: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        """E[penalty] under u ~ N(loc, diag scale²), a scalar: closed form where there is one, else at the draw `u`."""
        total = None
        for group in self.groups:
            part = group.prior.expected_energy(loc[group.slice], scale[group.slice])
            part = group.energy(u[group.slice]) if part is None else part.sum()
            total = part if total is None else total + part
        return total  # pyright: ignore[reportReturnType]

    def expected_log_jacobian(self, loc: torch.Tensor) -> torch.Tensor | float:
        """E[log |dθ/du|] under u ~ N(loc, ·): exact, because the only transform is exp and its log-Jacobian is u."""
        return sum((loc[g.slice].sum() for g in self.groups if g.transform is not None), 0.0)

    @property
    def smooth(self) -> bool:
        """True where every prior's log-density has two derivatives."""
        return all(group.prior.smooth for group in self.groups)


def _groups(layout: FlatLayout, like: torch.Tensor) -> Any:
    run: list[Segment] = []
    for segment in [*layout.in_order, None]:
        if run and (segment is None or type(segment.latent.prior) is not type(run[0].latent.prior)):
            priors = [s.latent.prior for s in run]
            sizes = [s.stop - s.start for s in run]
            stacked = stack(priors, sizes, like)  # pyright: ignore[reportArgumentType]
            constant = math.fsum(p.log_constant * n for p, n in zip(priors, sizes, strict=True))  # pyright: ignore
            yield Group(run[0].start, run[-1].stop, stacked, constant, run[0].transform)
            run = []
        if segment is not None:
            run.append(segment)
