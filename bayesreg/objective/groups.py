"""One group of the flat vector over many fits at once: its prior's numbers broadcast where they differ between the fits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch.distributions import constraints

from bayesreg.objective.flat import Group
from bayesreg.priors.base import replaced
from bayesreg.priors.groups import grouped, ungrouped


@dataclasses.dataclass(frozen=True)
class ReplicaGroup:
    """One group of the flat vector over all replicas, with the numbers of its prior that differ between them.

    Attributes:
        groups: The group in each replica, (R of them, or one for all).
        fields: Field of the prior to (R, n) or (R, 1) for an elementwise prior, (R,) for one that joins a tensor's entries.
    """

    groups: tuple[Group, ...]
    fields: dict[str, torch.Tensor]

    @property
    def first(self) -> Group:
        """The group of the first replica; all have its place and kind."""
        return self.groups[0]

    @cached_property
    def prior(self) -> Any:
        """The prior whose numbers broadcast over (R, n)."""
        return replaced(self.first.prior, **self.fields)

    def _value(self, part: torch.Tensor) -> torch.Tensor:
        return part if self.first.transform is None else self.first.transform(part)

    def _each(self, function: Callable, *parts: torch.Tensor) -> torch.Tensor:
        """`function(prior, *parts)` of each replica, by vmap."""

        def one(fields: dict[str, torch.Tensor], *own: torch.Tensor) -> torch.Tensor:
            return function(replaced(self.first.prior, **fields), *own)

        return torch.vmap(one)(self.fields, *parts)

    def energy(self, part: torch.Tensor) -> torch.Tensor:
        """The penalty in nats of each replica, (R, n) to (R,)."""
        value = self._value(part)
        if self.first.elementwise:
            return self.prior.energy(value).sum(1)
        return self._each(lambda prior, own: prior.penalty(own), value.view(-1, *self.first.shape))

    def slope(self, part: torch.Tensor, jacobian: bool) -> torch.Tensor:
        """The derivative of `energy`, minus that of the log-Jacobian if asked, (R, n), detached."""
        part = part.detach()
        transform = self.first.transform
        if self.first.elementwise and transform is None:
            return self.prior.energy_gradient(part)
        if self.first.elementwise and self.first.prior.support is constraints.positive:
            value = transform(part)
            slope = self.prior.energy_gradient(value) * value
            return slope - 1 if jacobian else slope
        with torch.enable_grad():
            part = part.requires_grad_()
            total = self.energy(part).sum()
            if jacobian and transform is not None:
                total = total - transform.log_abs_det_jacobian(part, transform(part)).sum()
            return torch.autograd.grad(total, part)[0]

    def prox(self, part: torch.Tensor, step: torch.Tensor) -> torch.Tensor:
        """argmin_z energy(z) + ½ Σ (z − part)²/step of each replica.

        Args:
            part: (R, n).
            step: Positive, (R, n) as `common` makes them, or (R, 1).

        Returns:
            (R, n).
        """
        if self.first.elementwise:
            return self.prior.prox(part, step)
        if self.first.prior.shrinks_groups:
            groups, scale = self._by_group(part), torch.as_tensor(self.prior.scale).reshape(-1, 1, 1)
            step = step[..., None] if step.shape[1] == 1 else self._by_group(step)[..., :1]
            norms = torch.linalg.vector_norm(groups, dim=2, keepdim=True)
            shrunk = (1 - step / (scale * norms.clamp_min(torch.finfo(part.dtype).tiny))).clamp_min(0)
            return self._from_groups(groups * shrunk)
        # other proxes may search with steps that depend on the numbers, which vmap cannot follow
        own = self.groups if len(self.groups) == len(part) else self.groups * len(part)
        return torch.stack([g.prox(p, t[0]) for g, p, t in zip(own, part, step, strict=True)])

    def common(self, step: torch.Tensor) -> torch.Tensor:
        """Step lengths (R, n) such that all entries which the prox joins have one, the shortest of theirs: a closed form."""
        if self.first.elementwise:
            return step
        if self.first.prior.shrinks_groups:
            groups = self._by_group(step)
            return self._from_groups(groups.amin(2, keepdim=True).expand_as(groups))
        return step.amin(1, keepdim=True).expand_as(step)

    def _by_group(self, part: torch.Tensor) -> torch.Tensor:
        """(R, n) as (R, G, d), one line a group of the prior."""
        return torch.vmap(grouped, in_dims=(0, None))(part.reshape(-1, *self.first.shape), self.first.prior.per)

    def _from_groups(self, groups: torch.Tensor) -> torch.Tensor:
        """The inverse of `_by_group`."""
        return ungrouped(groups, self.first.shape, self.first.prior.per).flatten(1)

    def alone(self, fields: dict[str, torch.Tensor], part: torch.Tensor) -> torch.Tensor:
        """The energy of one replica, for a vmapped function: its own stretch (n,) to a scalar."""
        group = self.first
        value, prior = self._value(part), replaced(group.prior, **fields)
        return prior.energy(value).sum() if group.elementwise else prior.penalty(value.view(group.shape))


def stacked(groups: tuple[Group, ...], like: torch.Tensor) -> ReplicaGroup:
    """The group over all replicas.

    Args:
        groups: That of each replica.
        like: A tensor with the dtype and device wanted.

    Returns:
        One group; numbers that all replicas share stay numbers.

    Raises:
        ValueError: If the priors differ in more than numbers.
    """
    first = groups[0].prior
    fields: dict[str, torch.Tensor] = {}
    for field in dataclasses.fields(first):
        values = [getattr(group.prior, field.name) for group in groups]
        if all(value is values[0] for value in values):
            continue
        numbers = all(isinstance(v, (int, float, torch.Tensor)) and not isinstance(v, bool) for v in values)
        if numbers:
            parts = [torch.as_tensor(v, dtype=like.dtype, device=like.device) for v in values]
            if all(bool((part == parts[0]).all()) for part in parts) and not isinstance(values[0], torch.Tensor):
                continue
            shape = torch.broadcast_shapes(*(part.shape for part in parts))
            shape = (1,) if groups[0].elementwise and not shape else shape
            fields[field.name] = torch.stack([part.expand(shape) for part in parts])
        elif any(type(v) is not type(values[0]) or v != values[0] for v in values):
            raise ValueError(
                f"replicas must have priors that differ in their numbers alone, but {first} and others differ in {field.name}; "
                "fit them one by one."
            )
    return ReplicaGroup(groups if fields else groups[:1], fields)
