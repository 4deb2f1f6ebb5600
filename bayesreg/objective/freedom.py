"""How many of N rows the weights use up, and how many are left to estimate a noise from.

γ = tr[K (K + σ² I)⁻¹],  K = J A⁻¹ Jᵀ:   the well-determined weights; J is the outputs' derivative, A the prior's curvature

The residual variance is estimated with N − γ degrees of freedom. Where γ reaches N the network passes through every target, and
only the prior bounds the density at the mode: it is unbounded, or nearly so.
"""

from __future__ import annotations

import torch

from bayesreg.data.rows import Data
from bayesreg.objective.curvature import output_jacobian, prior_curvature, unheld
from bayesreg.objective.flat import LogJoint

MOST = 0.9  # share of the rows that well-determined weights may use up
_ENTRIES = 2**26  # of the derivative of all outputs
_OUTPUTS = 3000
_BLOCK = 2**22


def used_up(log_joint: LogJoint, u: torch.Tensor, data: Data) -> float | None:
    """The share γ/N of the targets, 0 … 1, that well-determined weights use up at the mode `u`, (P,), with a learned noise.

    None where the noise is known or part of the network's output, where there are fewer than `MOST` · N weights, which cannot
    use them up, or where the matrices would be too large.

    References:
        MacKay (1992), Bayesian interpolation.
    """
    model, layout = log_joint.model, log_joint.layout
    noises = [s for s in layout.in_order if s.latent.is_noise]
    if model.likelihood.squared_error_scale is None or len(noises) != 1 or data.x is None or data.y is None:
        return None
    targets = data.num_data * data.y[0].numel()
    if len(u) < MOST * targets or targets > _OUTPUTS or targets * len(u) > _ENTRIES:
        return None
    curvature = prior_curvature(log_joint, u).double()
    free = unheld(log_joint, u)
    if int(free.sum()) < MOST * targets:
        return None
    curvature = curvature[free].clamp_min(1e-9 * float(curvature[free].amax().clamp_min(1e-300)))
    slopes = []
    for x, _ in data.epoch(max(1, _BLOCK // len(u))):
        slopes.append(output_jacobian(log_joint, u, x)[0].reshape(-1, len(u))[:, free].double() * curvature.rsqrt())
    scaled = torch.cat(slopes)
    sizes = torch.linalg.eigvalsh(scaled @ scaled.mT).clamp_min(0)
    variance = float(noises[0].transform(u[noises[0].slice]).double().square().min())
    return float((sizes / (sizes + variance)).sum()) / targets
