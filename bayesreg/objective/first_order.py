"""How far a point is from the first-order conditions of a mode, kinks included."""

from __future__ import annotations

import torch

from bayesreg.objective.flat import Group, LogJoint
from bayesreg.priors.groups import AbstractGroupPrior, grouped


def stationarity(log_joint: LogJoint, u: torch.Tensor, gradient: torch.Tensor, data_part: torch.Tensor) -> torch.Tensor:
    """The gradient, with a short proximal gradient step over its length in place of it where the penalty has a kink.

    Args:
        log_joint: The objective.
        u: Where, (P,).
        gradient: Of the log-joint, (P,).
        data_part: The diagonal of the data's curvature, (P,): a step is a hundredth of Newton's, so that units do not matter.

    Returns:
        (P,), zero at a mode.
    """
    residual = gradient.clone()
    for group in log_joint.nonsmooth:
        part, ascent, bend = _smooth_part(group, u, gradient, data_part)
        reach = 1e-2 / bend
        residual[group.slice] = (group.prox(part + reach * ascent, reach) - part) / reach
    return residual


def _smooth_part(
    group: Group, u: torch.Tensor, gradient: torch.Tensor, data_part: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A nonsmooth group's stretch, the ascent of what has no kink, and its curvature: a number where entries depend."""
    part, own = u[group.slice].detach(), data_part[group.slice]
    bend = own.clamp_min(torch.finfo(u.dtype).eps * float(data_part.max())).clamp_min(torch.finfo(u.dtype).tiny)
    return part, gradient[group.slice] + group.slope(part), bend if group.elementwise else bend.amax()


def violation(
    log_joint: LogJoint, u: torch.Tensor, gradient: torch.Tensor, data_part: torch.Tensor, metric: torch.Tensor
) -> float:
    """How many posterior sds an unknown would move if the others stood still: the largest over all unknowns.

    A proximal Newton step of each unknown alone. At a kink it is the distance of minus the smooth part's slope from the
    subdifferential, over √H, which is zero where the kink holds the mode; away from kinks it is |gradient|/√H. A group of a
    group lasso moves as one, and its length counts.

    Args:
        log_joint: The objective.
        u: Where, (P,).
        gradient: Of the log-joint, (P,).
        data_part: The diagonal of the data's curvature, (P,).
        metric: The same with the prior's, positive, (P,).

    Returns:
        A number without units; 0 at a mode.
    """
    found = gradient.abs() / metric.sqrt()
    for group in log_joint.nonsmooth:
        part, ascent, bend = _smooth_part(group, u, gradient, data_part)
        where = group.slice
        scale = metric[where].sqrt() if group.elementwise else bend.sqrt().expand_as(part)
        moved = (group.prox(part + ascent / bend, 1 / bend) - part) * scale
        if isinstance(group.prior, AbstractGroupPrior):
            lengths = torch.linalg.vector_norm(grouped(moved.view(group.shape), group.prior.grouping), dim=1)
            found[where] = lengths.max()
        else:
            found[where] = moved.abs()
    return float(found.max())


def exact_zeros(log_joint: LogJoint, u: torch.Tensor) -> int:
    """How many weights whose penalty has a kink stand on it at a point, (P,)."""
    return sum(int((u[g.slice] == 0).sum()) for g in log_joint.nonsmooth)
