"""Value and gradient of the log-joint over all rows, and the same problem in double precision."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from bayesreg.behaviour import VMAP
from bayesreg.data.rows import Data
from bayesreg.objective.flat import LogJoint

_ROWS, _DRAWS = 1024, 20  # of many points in one pass: small enough for a cache


def gradient_of(log_joint: LogJoint, u: torch.Tensor, data: Data, *, jacobian: bool = False) -> tuple[float, torch.Tensor]:
    """The log-joint over all rows, in the data's own units, and its gradient in `u`; in evaluation mode, in blocks.

    Args:
        log_joint: The objective.
        u: (P,) unconstrained.
        data: Prepared rows; fewer than N are scaled to N.
        jacobian: Add log |dθ/du|.

    Returns:
        Nats, and (P,).
    """
    u = u.detach().requires_grad_()
    value = log_joint.log_prior(u) + (log_joint.layout.log_jacobian(u) if jacobian else 0.0)
    value.backward()
    gradient: Any = u.grad
    of_prior, total, seen = gradient.clone(), 0.0, 0
    for x, y in data.epoch():
        part = log_joint.row_terms(log_joint.layout.unflatten(u), x, y, len(x))
        part.backward()
        total, seen = total + float(part.detach()), seen + len(x)
    if seen != data.num_data:
        gradient, total = torch.lerp(of_prior, gradient, data.num_data / seen), total * (data.num_data / seen)
    return total + float(value.detach()) + data.num_data * log_joint.model.log_jacobian, gradient


def value_of(log_joint: LogJoint, u: torch.Tensor, data: Data, *, jacobian: bool = False) -> float:
    """The log-joint over all rows in nats and the data's own units, as `gradient_of` gives it, without its gradient."""
    with torch.no_grad():
        values = log_joint.layout.unflatten(u)
        total = float(log_joint.log_prior(u, values)) + data.num_data * log_joint.model.log_jacobian
        if jacobian:
            total += float(log_joint.layout.log_jacobian(u))
        return total + sum(float(log_joint.row_terms(values, x, y, len(x))) for x, y in data.epoch())


def values_of(log_joint: LogJoint, draws: torch.Tensor, data: Data, *, jacobian: bool = False) -> torch.Tensor:
    """The log-joint over all rows at many points, in the data's own units; in evaluation mode, in blocks.

    Args:
        log_joint: The objective.
        draws: (S, P) unconstrained.
        data: Prepared rows.
        jacobian: Add log |dθ/du|.

    Returns:
        (S,) float64, in nats.
    """

    def prior(u: torch.Tensor) -> torch.Tensor:
        return log_joint.log_prior(u) + (log_joint.layout.log_jacobian(u) if jacobian else 0.0)

    def rows(u: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return log_joint.row_terms(log_joint.layout.unflatten(u), x, y, len(x))

    at_once = log_joint.model.behaviour.stands(VMAP)
    with torch.no_grad():
        total = torch.vmap(prior)(draws).double() + data.num_data * log_joint.model.log_jacobian
        for x, y in data.epoch(_ROWS):
            if at_once:
                total += torch.vmap(rows, (0, None, None), chunk_size=_DRAWS)(draws, x, y)
            else:
                total += torch.stack([rows(u, x, y) for u in draws])
    return total


def of_rows(log_joint: LogJoint) -> LogJoint:
    """The log-joint whose batch normalisation takes the statistics of the rows it is given, as a training step does.

    It writes nothing, and is the same one where there is no such layer.

    Args:
        log_joint: The objective.

    Returns:
        The other one, over the same vector.
    """
    model = log_joint.model
    return LogJoint(model.with_module(model.behaviour.by_rows())) if model.behaviour.normalising else log_joint


def in_double(log_joint: LogJoint, u: torch.Tensor, data: Data) -> tuple[LogJoint, torch.Tensor, Data]:
    """The same problem in float64, where two values of the log-joint can be told apart down to the mode.

    A module that insists on its own floating type keeps it, and so do streamed rows.

    Args:
        log_joint: The objective.
        u: A point, (P,).
        data: The rows.

    Returns:
        The three in float64.
    """
    if data.x is None or data.y is None or u.dtype == torch.float64:
        return log_joint, u, data
    wide = LogJoint(log_joint.model.to(dtype=torch.float64))
    x, y = (v.double() if v.is_floating_point() else v for v in (data.x, data.y))
    try:
        gradient_of(wide, u.double(), dataclasses.replace(data, num_data=2, x=x[:2], y=y[:2]))
    except Exception:  # a module that mixes types may raise anything
        return log_joint, u, data
    return wide, u.double(), dataclasses.replace(data, x=x, y=y)
