"""How wide independent normals near a mode are, and which noise belongs to them: a start for variational inference."""

from __future__ import annotations

import math

import torch

from bayesreg.data.rows import Data
from bayesreg.objective.curvature_products import diagonal
from bayesreg.objective.flat import LogJoint

_ROUNDS, _LEAST = 100, 1e-12
_FLAT = 1e-2  # precision where neither data nor prior bend


def widened(log_joint: LogJoint, u: torch.Tensor, data: Data) -> tuple[torch.Tensor, torch.Tensor]:
    """Means and standard deviations, both (P,), that the ELBO would have near a mode, by the curvature's diagonal d + p.

    A learned noise is smaller at a mode than on average over weights, whose spread misses targets too. With sd² = 1/(d/k + p)
    the variance of the noise that belongs to it is k times the mode's, where k = 1 + Σ sd² d/N: it is put there.

    Args:
        log_joint: The objective.
        u: A mode of the unconstrained density, (P,).
        data: Its rows.

    Returns:
        The point, whose noise is another, and the standard deviations.
    """
    likelihood, by_data, by_prior = log_joint.model.likelihood, *diagonal(log_joint, u, data)
    by_prior, k = by_prior.clamp_min(0), 1.0
    noises = [s for s in log_joint.layout.in_order if s.latent.is_noise and s.latent.is_positive]
    if noises and likelihood.squared_error_scale is not None:
        _, y = next(data.epoch())
        most = min(float(y.double().var(correction=0) / s.transform(u[s.slice]).double().square().max()) for s in noises)
        weights = torch.ones_like(by_data)
        for s in noises:
            weights[s.slice] = 0.0
        share = weights * by_data / (data.num_data * y[0].numel())
        for _ in range(_ROUNDS):
            k = min(1 + float((share / (by_data / k + by_prior).clamp_min(_LEAST)).sum()), max(most, 1.0))
        u = u.clone()
        for s in noises:
            u[s.slice] += 0.5 * math.log(k)
            by_data[s.slice] *= k
    return u, (by_data / k + by_prior).clamp_min(_FLAT).rsqrt()
