"""Whether a module is affine in its weights, found numerically, and the least-squares problem that a model then is.

f(x; u) = offset(x) + J(x) u   for every u: J is the derivative anywhere, and the offset the output at u = 0
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from bayesreg.behaviour import VMAP
from bayesreg.data.rows import Data
from bayesreg.objective.curvature import output_jacobian
from bayesreg.objective.flat import LogJoint, Segment
from bayesreg.objective.whole import in_double

MAX_ENTRIES = 2 * 10**8  # of the design: 1.6 GB
MAX_GAUSSIAN = 10_000  # unknowns whose precision is formed as a matrix
_BLOCK = 2**24


@dataclasses.dataclass(frozen=True)
class AffineProblem:
    """A linear-Gaussian model and its data as least squares.

    Attributes:
        design: D, (N·K, P) float64 in Fortran order: the output's derivative over the noise scale.
        target: t, (N·K,) float64: what the output at u = 0 leaves of the targets, over the noise scale.
        dtype: The module's type; an answer is judged after rounding to it.
    """

    design: np.ndarray
    target: np.ndarray
    dtype: torch.dtype


def departure(
    log_joint: LogJoint,
    linear: Callable[[torch.Tensor], torch.Tensor],
    offset: torch.Tensor,
    x: torch.Tensor,
    size: float = 1.0,
) -> float:
    """By how much of its size the output at a random point departs from offset + J u.

    Args:
        log_joint: The model's flat log-joint.
        linear: u → J u, (P,) → (B, K).
        offset: (B, K).
        x: Prepared inputs (B, ...).
        size: Standard deviation of the point's entries.

    Returns:
        A number ≥ 0; rounding for an affine module, see `is_rounding`.
    """
    generator = torch.Generator().manual_seed(0)
    probe = size * torch.randn(log_joint.layout.size, generator=generator, dtype=torch.float64).to(x)
    with torch.no_grad():
        found = log_joint.model.forward(log_joint.layout.unflatten(probe), x).reshape(offset.shape)
        moved = linear(probe)
        scale = moved.abs().max() + offset.abs().max()
        return float((found - offset - moved).abs().max() / scale.clamp_min(torch.finfo(scale.dtype).tiny))


def is_rounding(error: float, x: torch.Tensor) -> bool:
    """True where a departure from affinity is no more than the rounding of the type of x."""
    return error < (1e-9 if x.dtype == torch.float64 else 1e-3)


def check_affine(
    log_joint: LogJoint, jacobian: torch.Tensor, output: torch.Tensor, x: torch.Tensor, *, who: str, instead: str
) -> None:
    """Refuse, for a method named `who`, a module whose output at x (B, ...) is not its derivative (B, K, P) times the weights.

    Raises:
        ValueError: If so; `instead` says which methods to take.
    """
    error = departure(log_joint, lambda u: jacobian @ u, output, x)
    if not is_rounding(error, x):
        raise ValueError(
            f"{who} needs a module that is linear in its weights, but its output departs from that by {error:.1e} of its size; "
            f"take {instead} for this model."
        )


def gaussian_of(segment: Segment) -> tuple[float, torch.Tensor] | None:
    """Mean and precision of an unknown whose prior is Gaussian or flat, else None."""
    return segment.latent.prior.gaussian(segment.latent.shape)


def affine_problem(log_joint: LogJoint, data: Data) -> AffineProblem | None:
    """The least-squares problem that a model is, if it is one.

    It is where the noise is Gaussian of known scale, every prior on a weight is convex and of known scale, outputs have no
    priors, evaluation is what training is, and the output is affine in the weights; that is found numerically.

    Args:
        log_joint: The objective.
        data: Prepared rows.

    Returns:
        The problem, or None.
    """
    model = log_joint.model
    sigma = model.likelihood.fixed.get(model.likelihood.squared_error_scale or "")
    if sigma is None or model.outputs or not model.behaviour.deterministic:
        return None
    if data.x is None or data.y is None or log_joint.linked or not data.x.is_floating_point():
        return None
    if any(s.transform is not None or not s.latent.prior.convex for s in log_joint.layout.in_order):
        return None
    if data.y.numel() * log_joint.layout.size > MAX_ENTRIES:
        return None
    gaussian = sum(s.stop - s.start for s in log_joint.layout.in_order if gaussian_of(s) is not None)
    if gaussian > MAX_GAUSSIAN:
        return None
    dtype = model.like.dtype
    wide, _, rows = in_double(log_joint, torch.zeros(log_joint.layout.size, dtype=dtype, device=model.like.device), data)
    if wide.model.like.dtype != torch.float64 or rows.x is None or rows.y is None:
        return None
    found = _design(wide, rows.x, 1 / sigma)
    if found is None:
        return None
    design, offset = found
    target = (rows.y.reshape(offset.shape) - offset).reshape(-1).cpu().numpy() / sigma
    return AffineProblem(design, target, dtype)


def _design(log_joint: LogJoint, x: torch.Tensor, factor: float) -> tuple[np.ndarray, torch.Tensor] | None:
    """`factor` · J in Fortran order and the output at zero, (N, K); None where the output is not affine."""
    model, layout = log_joint.model, log_joint.layout
    origin = x.new_zeros(layout.size)
    plain = type(model.module) is nn.Linear and model.module.out_features == 1 and "weight" in layout.segments and x.dim() == 2
    if (operator := model.linear_operator) is not None:
        return np.asfortranarray(operator.matrix()[x.reshape(-1).long()].numpy() * factor), x.new_zeros(len(x), 1)
    with torch.no_grad():
        offset = model.forward(layout.unflatten(origin), x[:1] if plain else x).reshape(1 if plain else len(x), -1)
    design = np.empty((len(x) * offset.shape[1], layout.size), order="F")
    if plain:  # a linear layer's derivative is its input, and its output at zero is the same for each row
        offset = offset.expand(len(x), 1)
        for name, segment in layout.segments.items():
            np.multiply(x.cpu().numpy() if name == "weight" else 1.0, factor, out=design[:, segment.slice])
        return design, offset
    # where each row takes a backward pass of its own, two forward passes on a few tell first
    if not model.behaviour.stands(VMAP) and not is_affine(log_joint, Data(len(x), x[:16], x[:16])):
        return None
    rows, done = max(1, min(1024, _BLOCK // design.shape[1] // offset.shape[1])), 0
    for part in x.split(rows):
        jacobian, _ = output_jacobian(log_joint, origin, part)
        if done == 0 and not is_rounding(departure(log_joint, lambda u, J=jacobian: J @ u, offset[: len(part)], part), x):
            return None
        block = jacobian.reshape(-1, layout.size)
        np.multiply(block.cpu().numpy(), factor, out=design[done : done + len(block)])
        done += len(block)

    def linear(u: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(design @ u.cpu().numpy() / factor).to(x).reshape(offset.shape)

    # a second, large point: a clipped output is affine near zero only
    return (design, offset) if is_rounding(departure(log_joint, linear, offset, x, size=30.0), x) else None


def is_affine(log_joint: LogJoint, data: Data) -> bool:
    """Whether the network's output is linear in its weights, up to a constant, found numerically on some rows.

    Args:
        log_joint: The model's flat log-joint.
        data: The rows.

    Returns:
        True where f(a) + f(b) = f(a + b) + f(0).
    """
    x, _ = next(data.epoch(16))
    layout, model = log_joint.layout, log_joint.model
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, layout.size, generator=generator, dtype=torch.float64).to(x.device, model.like.dtype)
    with torch.no_grad():
        fa, fb, fab, f0 = (model.forward(layout.unflatten(u), x).double() for u in (a, b, a + b, torch.zeros_like(a)))
    size = max(float(v.abs().max()) for v in (fa, fb, fab, f0))
    return float((fa + fb - fab - f0).abs().max()) <= (1e-9 if x.dtype == torch.float64 else 1e-4) * size
