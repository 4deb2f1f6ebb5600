"""Newton's method where a penalty has a kink: each step solves the lasso that the objective looks like from where it stands.

    u ← argmin_z −gᵀ(z − u) + ½ (z − u)ᵀH(z − u) + Σ energies(z),   g and H the log-likelihood's slope and Gauss–Newton matrix

H is never indefinite. Near a mode it doubles the digits at each step and finds the support exactly; a logistic regression with
L1 needs about five steps.
"""

from __future__ import annotations

import math

import torch

from bayesreg.data.rows import Data
from bayesreg.objective.affine import AffineProblem
from bayesreg.objective.curvature import likelihood_gauss_newton
from bayesreg.objective.flat import LogJoint
from bayesreg.solvers.linear_gaussian import solve

MAX_PARAMETERS = 500
STEPS = 30


def fits(log_joint: LogJoint, data: Data) -> bool:
    """True where the penalty is convex and on the weights alone, all rows are there and the matrix is small."""
    convex = all(s.transform is None and s.latent.prior.convex for s in log_joint.layout.in_order)
    small = log_joint.layout.size <= MAX_PARAMETERS
    return convex and small and not log_joint.linked and not log_joint.model.outputs and data.x is not None


def proximal_newton(log_joint: LogJoint, u: torch.Tensor, data: Data) -> torch.Tensor:
    """The mode by Newton steps on the likelihood with the penalty as it is.

    Args:
        log_joint: The objective, in float64, one that `fits`.
        u: Where to begin, (P,).
        data: All rows in memory.

    Returns:
        (P,), never a worse point than `u`.

    References:
        Lee, Sun and Saunders (2014), Proximal Newton-type methods for minimizing composite functions.
    """
    value = _value(log_joint, u, data)
    for _ in range(STEPS):
        aim = _step(log_joint, u, data)
        if aim is None:
            break
        length, better = 1.0, -math.inf
        while length > 1e-4:
            trial = aim if length == 1.0 else u + length * (aim - u)
            better = _value(log_joint, trial, data)
            if better >= value:
                break
            length *= 0.5
        if not better >= value:
            break
        gained, moved = better - value, float((trial - u).abs().max())
        u, value = trial, better
        if gained <= 1e-14 * abs(value) and moved <= 1e-9 * max(1.0, float(u.abs().max())):
            break
    return u


def _value(log_joint: LogJoint, u: torch.Tensor, data: Data) -> float:
    x, y = data.full("a proximal Newton step")
    with torch.no_grad():
        return float(log_joint.prepared(u, x, y, data.num_data))


def _step(log_joint: LogJoint, u: torch.Tensor, data: Data) -> torch.Tensor | None:
    """The minimiser of the quadratic model of the likelihood plus the penalty; None where it has none."""
    x, y = data.full("a proximal Newton step")
    at = u.detach().requires_grad_()
    (slope,) = torch.autograd.grad(log_joint.row_terms(log_joint.layout.unflatten(at), x, y, data.num_data), at)
    matrix = likelihood_gauss_newton(log_joint, u, data)
    if not bool(torch.isfinite(matrix).all()):
        return None
    values, vectors = torch.linalg.eigh(matrix)
    held = values > 1e-13 * values[-1].clamp_min(0)
    if not bool(held.any()):
        return None
    root, basis = values[held].sqrt(), vectors[:, held]
    # the quadratic as least squares: D = Λ^½Vᵀ, t = D u + Λ^−½Vᵀg
    design = root[:, None] * basis.mT
    target = design @ u.detach() + (basis.mT @ slope) / root
    numbers = (torch.clone(design.mT.contiguous()).cpu().numpy().T, target.cpu().numpy())
    try:
        return solve(AffineProblem(*numbers, torch.float64), log_joint, u).u.to(u)
    except ValueError:  # a flat direction that the data do not determine from here
        return None
