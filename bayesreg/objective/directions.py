"""A mode where some directions are no directions: rows of weights that a batch normalisation follows.

    f(x; r·v) = f(x; v)     so that a prior pulls the row v towards zero, and no data hold it: there is no mode along v

What is judged, or searched by `MAP(scale_invariant="unit-norm")`, is the log-joint as a function of the directions v/‖v‖.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from bayesreg.behaviour import BY_ROWS
from bayesreg.behaviour.invariance import Invariant, scale_invariant
from bayesreg.data.rows import Data
from bayesreg.model.model import BayesianModel
from bayesreg.objective.flat import FlatLayout, LogJoint, Segment, group_of
from bayesreg.objective.whole import of_rows

ROWS = 8192  # that go through the network together when a fit is judged, as elsewhere
ENTRIES = 10**8  # rows × unknowns up to which a fit of rows that depend on each other is judged


@dataclasses.dataclass(frozen=True)
class Rows:
    """A scale-invariant tensor in the flat vector: C output units, each a row v.

    Attributes:
        segment: Where it lies.
        found: How it is cut into rows.
    """

    segment: Segment
    found: Invariant

    @property
    def name(self) -> str:
        """The tensor's dotted name."""
        return self.found.weight

    @property
    def is_plain(self) -> bool:
        """True where the vector holds the weight itself, and its prior has no kink."""
        latent = self.segment.latent
        return self.segment.transform is None and not latent.parents and latent.prior.smooth

    def units(self, u: torch.Tensor) -> torch.Tensor:
        """The rows v, (C, n), from the flat vector."""
        return self.found.units(u[self.segment.slice].view(self.segment.latent.shape))

    def flat(self, units: torch.Tensor) -> torch.Tensor:
        """The tensor's stretch of the flat vector from its rows."""
        return self.found.from_units(units, self.segment.latent.shape).reshape(-1)

    def norm(self, u: torch.Tensor) -> float:
        """The length of the whole tensor in constrained space."""
        part = u[self.segment.slice]
        return float((part if self.segment.transform is None else self.segment.transform(part)).double().norm())


def scale_free(log_joint: LogJoint) -> list[Rows]:
    """The scale-invariant tensors among the unknowns, in the model's order."""
    model, segments = log_joint.model, log_joint.layout.segments
    found = scale_invariant(model.module, model.row_shape)
    return [Rows(segments[one.weight], one) for one in found if one.weight in segments]


# ── the certificate ──


def by_all_rows(log_joint: LogJoint, data: Data, batch_size: int | None) -> tuple[LogJoint, Data]:
    """What a fit of a network with batch normalisation followed, when it saw all rows at every step.

    Args:
        log_joint: The objective in evaluation mode.
        data: The rows.
        batch_size: Rows of a step; None for all.

    Returns:
        The log-joint of the network that normalises by all rows, and the rows, in one block; both as they came where a step saw
        some rows only, where something else differs in training too, or where there are too many of them.
    """
    model = log_joint.model
    other = not model.behaviour.normalising or model.behaviour.why_not(BY_ROWS) is not None
    if other or batch_size is not None or data.x is None or model.outputs:
        return log_joint, data
    if data.num_data > ROWS or data.num_data * log_joint.layout.size > ENTRIES:
        return log_joint, data
    made = of_rows(log_joint)
    return (made, dataclasses.replace(data, coupled=True)) if made.model.behaviour.deterministic else (log_joint, data)


class _HeldLayout(FlatLayout):
    """A layout whose rows have the length that they have at one point, whatever the vector says."""

    def __init__(self, model: BayesianModel, held: Sequence[tuple[Rows, torch.Tensor]]) -> None:
        super().__init__(model)
        self.held = held

    def unflatten(self, u: torch.Tensor) -> dict[str, torch.Tensor]:
        values = super().unflatten(u)
        for rows, lengths in self.held:
            units = rows.found.units(values[rows.name])
            held = units * (lengths / torch.linalg.vector_norm(units, dim=1, keepdim=True))
            values[rows.name] = rows.found.from_units(held, rows.segment.latent.shape)
        return values


class HeldLogJoint(LogJoint):
    """The log-joint as a function of the rows' directions, minus ½ Σ n (‖v‖/r − 1)², which holds each length ‖v‖ at r.

    Its gradient is the log-joint's across the rows and nothing along them; so is its curvature, but for n/r² along a row v of
    n entries: as if these were N(0, r²/n).

    Args:
        log_joint: The objective.
        rows: The tensors that are held; those with a row of zeros, or that the vector does not hold as they are, stay free.
        u: The point whose lengths are kept, (P,).
    """

    def __init__(self, log_joint: LogJoint, rows: Sequence[Rows], u: torch.Tensor) -> None:
        super().__init__(log_joint.model)
        lengths = [torch.linalg.vector_norm(one.units(u.detach()), dim=1, keepdim=True) for one in rows]
        pairs = zip(rows, lengths, strict=True)
        self.held = [(one, length) for one, length in pairs if one.is_plain and bool((length > 0).all())]
        self.layout = _HeldLayout(self.model, self.held)
        names = {one.name for one, _ in self.held}
        own = [s for s in self.layout.in_order if s.latent.name not in names and not s.latent.parents]
        self.groups = [group_of([s], self.model.like) for s in own]
        self.nonsmooth = [group for group in self.groups if group.nonsmooth]
        # a density of what `unflatten` gives, not of the stretch itself, as where a scale is unknown
        self.linked = [s.latent for s in self.layout.in_order if s.latent.name in names or s.latent.parents]
        self.log_prior_constant = sum(group.constant for group in self.groups)

    def linked_energy(self, u: torch.Tensor, values: Any = None) -> Any:
        """See `LogJoint.linked_energy`; and what holds the lengths."""
        total = super().linked_energy(u, values)
        for rows, lengths in self.held:
            units = rows.units(u)
            stretch = torch.linalg.vector_norm(units, dim=1, keepdim=True) / lengths - 1
            total = total + 0.5 * units.shape[1] * stretch.square().sum()
        return total

    def at_length(self, u: torch.Tensor) -> torch.Tensor:
        """The same directions with the lengths that are kept, (P,)."""
        found = u.detach().clone()
        for rows, lengths in self.held:
            units = rows.units(found)
            found[rows.segment.slice] = rows.flat(units * (lengths / torch.linalg.vector_norm(units, dim=1, keepdim=True)))
        return found


# ── the search at length one ──


def held_rows(rows: Sequence[Rows], proximal: bool) -> list[Rows]:
    """The tensors whose rows `MAP(scale_invariant="unit-norm")` holds.

    Args:
        rows: The scale-invariant tensors.
        proximal: Whether nonsmooth penalties are left to a prox.

    Returns:
        All of them.

    Raises:
        ValueError: If there is none, or a prior does not let its rows be turned freely.
    """
    if not rows:
        raise ValueError(
            "scale_invariant='unit-norm' needs a weight that a BatchNorm follows, but no tensor of this model is followed by a "
            "BatchNorm; leave it out."
        )
    for one in rows:
        latent = one.segment.latent
        if one.segment.transform is not None or latent.parents:
            raise ValueError(
                f"scale_invariant='unit-norm' needs rows that can be turned freely, but {one.name} has {latent.prior}; take a "
                "prior over the whole real line with a known scale there, for example Normal(1.0)."
            )
        if proximal and not latent.prior.smooth:
            raise ValueError(
                f"scale_invariant='unit-norm' needs smooth priors on the rows it holds, but {one.name} has {latent.prior}, "
                "whose kink a prox would meet at another length than one; take Normal there, or optimizer='adam'."
            )
    return list(rows)


@torch.no_grad()
def on_sphere(u: torch.Tensor, rows: Sequence[Rows]) -> torch.Tensor:
    """Bring each row to length one, in place; a row of zeros has no direction and takes equal entries.

    Args:
        u: The flat vector, (P,).
        rows: The tensors that are held.

    Returns:
        `u` itself.
    """
    for one in rows:
        units = one.units(u)
        lengths = torch.linalg.vector_norm(units, dim=1, keepdim=True)
        even = torch.full_like(units, units.shape[1] ** -0.5)
        u[one.segment.slice] = one.flat(torch.where(lengths > 0, units / lengths.clamp_min(_tiny(u)), even))
    return u


@torch.no_grad()
def along_sphere(u: torch.Tensor, gradient: torch.Tensor, rows: Rows) -> None:
    """Take from a gradient, in place, what would change a row's length: g − (g·v)v/‖v‖².

    Args:
        u: The flat vector, (P,).
        gradient: The tensor's own gradient, in its shape.
        rows: The tensor.
    """
    v, g = rows.units(u), rows.found.units(gradient)
    share = (g * v).sum(1, keepdim=True) / v.square().sum(1, keepdim=True).clamp_min(_tiny(u))
    gradient.sub_(rows.found.from_units(share * v, gradient.shape))


def _tiny(like: torch.Tensor) -> float:
    return torch.finfo(like.dtype).tiny
