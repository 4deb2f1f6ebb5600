"""Whether a mode is a mode, judged in nats: how much of the log-joint a Newton step would still gain.

    gain ≈ ½ gᵀ H⁻¹ g,   g the gradient of the log-joint, H minus its second derivative (or Gauss–Newton's)

A number that depends neither on the units of anything nor on a constant. The posterior's typical draw lies P/2 nats below
its mode, so that a gain of a hundredth of that does not matter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
from torch import nn

from bayesreg.data import Data
from bayesreg.flat import LogJoint
from bayesreg.inference.curvature import full_hessian, gauss_newton, output_jacobian, prior_curvature
from bayesreg.inference.training import gradient_of
from bayesreg.posterior import Certificate

FULL_CURVATURE = 1000  # unknowns up to which the whole matrix is formed; above, its diagonal from a sample of rows
_SAMPLE = 1024
KINKED = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ReLU6, nn.Hardtanh, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)


def has_kinks(log_joint: LogJoint) -> bool:
    """True where a mode may sit on a kink out of a proximal step's reach: a ReLU network's, an activation prior's."""
    return log_joint.kinked_outputs or any(isinstance(module, KINKED) for module in log_joint.model.module.modules())


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
    except RuntimeError:
        return log_joint, u, data
    return wide, u.double(), dataclasses.replace(data, x=x, y=y)


def certify(
    log_joint: LogJoint, u: torch.Tensor, start: torch.Tensor, data: Data, jacobian: bool, probe: Callable[[], torch.Tensor]
) -> Certificate:
    """Judge a candidate for a mode on all rows.

    Where a penalty has a kink, the proximal gradient step over its length stands for the gradient; it is zero at a kink
    that holds the mode. A piecewise linear network has modes where its pieces meet and no vanishing gradient there: what
    a further search gains is the judge then.

    Args:
        log_joint: The objective.
        u: The candidate, (P,).
        start: Where the fit began, (P,).
        data: All rows.
        jacobian: As for MAP.
        probe: A further search from the candidate; called for a piecewise linear network only.

    Returns:
        The certificate; `details` holds the numbers, in nats.
    """
    moved = not bool((u == start).all())
    log_joint, u, data = in_double(log_joint, u, data)
    value, gradient = gradient_of(log_joint, u, data, jacobian=jacobian)
    residual = stationarity(log_joint, u, gradient)
    gain, saddle = decrement(log_joint, u, residual, data, jacobian)
    enough = 0.005 * len(u)
    space = "unconstrained" if jacobian else "constrained"
    details: dict[str, float | str] = {"log joint": value, "nats to gain": gain, "tolerance": enough, "space": space}
    unbounded, arrived = _unbounded(log_joint, u, data, gain > enough)
    if unbounded:
        if arrived:  # nothing can be built on it; on the way there, a curvature still means something
            details["unbounded"] = unbounded
        return Certificate(False, f"Not a usable mode: {unbounded}.", details)
    if gain <= enough and not saddle:
        sentence = f"Converged to a mode: {_nats(gain)} are left to gain, below {enough:.2g} (1 % of P/2)."
        return Certificate(True, sentence, details)
    if not log_joint.model.is_deterministic:
        sentence = (
            "Not certified: batch normalisation or dropout make the objective of training another one than that of "
            f"evaluation, which could still gain {_nats(gain)}; judge this fit by held-out rows."
        )
        return Certificate(False, sentence, details)
    if not moved and not saddle:
        return Certificate(False, "Not a mode: the fit did not leave its start; raise learning_rate or num_steps.", details)
    if has_kinks(log_joint):
        more = max(0.0, gradient_of(log_joint, probe().to(u), data, jacobian=jacobian)[0] - value)
        details["nats gained by more steps"] = more
        if more <= max(0.1, enough):
            sentence = (
                f"Converged to a mode where pieces of the piecewise linear network meet: a further search gains {_nats(more)}, "
                f"below {max(0.1, enough):.2g} (1 % of P/2)."
            )
            return Certificate(True, sentence, details)
        gain = more
    why = (
        "the curvature is negative in some direction: a saddle, not a mode"
        if saddle
        else f"about {_nats(gain)} are left to gain"
    )
    return Certificate(False, f"Not converged: {why} (tolerance {enough:.2g}); raise num_steps.", details)


def stationarity(log_joint: LogJoint, u: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """The gradient, with the proximal gradient step over its length in place of it where the penalty has a kink.

    Args:
        log_joint: The objective.
        u: Where, (P,).
        gradient: Of the log-joint, (P,).

    Returns:
        (P,), zero at a mode.
    """
    residual = gradient.clone()
    reach = 1e-2 / max(1.0, float(gradient.abs().max()))
    for group in log_joint.groups:
        if group.kinked:
            part = u[group.slice].detach()
            smooth_part = gradient[group.slice] + group.slope(part)
            residual[group.slice] = (group.prox(part + reach * smooth_part, reach) - part) / reach
    return residual


def decrement(
    log_joint: LogJoint, u: torch.Tensor, residual: torch.Tensor, data: Data, jacobian: bool = False
) -> tuple[float, bool]:
    """½ gᵀH⁻¹g over the coordinates that a kink does not hold, and whether the curvature is negative somewhere.

    Args:
        log_joint: The objective.
        u: Where, (P,).
        residual: The gradient there, (P,).
        data: All rows.
        jacobian: As for MAP.

    Returns:
        Nats, and True at a saddle (told for a smooth network of up to `FULL_CURVATURE` unknowns only).
    """
    free = torch.ones_like(residual, dtype=torch.bool)
    for group in log_joint.groups:
        if group.kinked:  # at a kink that holds the mode the residual is zero, and the coordinate cannot move
            free[group.slice] = residual[group.slice] != 0
    if not bool(free.any()):
        return 0.0, False
    g = residual[free].double()
    if len(u) > FULL_CURVATURE:
        diagonal = _curvature_diagonal(log_joint, u, data)[free].double()
        return 0.5 * float((g.square() / diagonal.clamp_min(torch.finfo(g.dtype).tiny)).sum()), False
    saddle = False
    if not has_kinks(log_joint):
        matrix = full_hessian(log_joint, u, data, jacobian=jacobian)[free][:, free].double()
        factor, info = torch.linalg.cholesky_ex(matrix)
        if int(info) == 0:
            return 0.5 * float(g @ torch.cholesky_solve(g[:, None], factor)[:, 0]), False
        ends = torch.linalg.eigvalsh(matrix)[[0, -1]]
        saddle = float(ends[0]) < -1e-6 * float(ends[1].abs())
    matrix = gauss_newton(log_joint, u, data, jacobian=jacobian)[free][:, free].double()
    # a direction without curvature is one that neither data nor prior speak about; its gradient is rounding
    values, vectors = torch.linalg.eigh(matrix)
    held = values > 1e-12 * values[-1]
    return 0.5 * float(((vectors.mT @ g)[held].square() / values[held]).sum()), saddle


def _curvature_diagonal(log_joint: LogJoint, u: torch.Tensor, data: Data) -> torch.Tensor:
    """The Gauss–Newton matrix's diagonal, from the first rows, scaled to all of them."""
    model, seen = log_joint.model, 0
    total = torch.zeros_like(u)
    noise = model.noise(log_joint.layout.unflatten(u))
    rows = max(1, min(_SAMPLE, 2**24 // len(u)))
    for x, y in data.epoch(rows):
        jacobian, output = output_jacobian(log_joint, u, x)
        output = output.reshape(len(x), *((-1,) if output.shape[1] > 1 else ()))
        total += torch.einsum("bkp,bkl,blp->p", jacobian, model.likelihood.output_curvature(output, y, **noise), jacobian)
        seen += len(x)
        if seen >= _SAMPLE:
            break
    total = total * (data.num_data / seen) + prior_curvature(log_joint, u).clamp_min(0)
    for segment in log_joint.layout.in_order:
        if segment.latent.is_noise:  # Fisher information of a log-scale
            total[segment.slice] += 2 * data.num_data
    return total


def _unbounded(log_joint: LogJoint, u: torch.Tensor, data: Data, rising: bool) -> tuple[str, bool]:
    """Why the log-joint has no maximum here, or an empty text; and whether the search has already run into it."""
    model = log_joint.model
    for name, segment in log_joint.layout.segments.items():
        if segment.latent.is_noise and data.y is not None:
            ratio = float(segment.transform(u[segment.slice]).min()) / max(float(data.y.double().std(correction=0)), 1e-300)
            if ratio < 1e-6 or (rising and ratio < 5e-3):
                why = (
                    f"{name} ran to zero, where the network passes through every target and the density is unbounded; fix the "
                    "noise scale, give the weights a tighter prior, or shrink the network"
                )
                return why, ratio < 1e-6
    improper = [name for name, latent in model.latents.items() if not latent.prior.proper]
    if improper and model.likelihood.kind != "regression":
        with torch.no_grad():
            values = log_joint.layout.unflatten(u)
            fitted = sum(float(log_joint.log_likelihood(values, x, y, len(x))) for x, y in data.epoch())
        if fitted > -1e-2:
            why = (
                f"every row is fitted with certainty, and the flat prior on {improper[0]} lets the weights grow without bound; "
                "give them a proper prior, for example Normal(1.0)"
            )
            return why, True
    return "", False


def _nats(value: float) -> str:
    return "less than 1e-6 nats" if value < 1e-6 else f"{value:.2g} nats"
