"""Whether the noise scale of a mode collapsed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import torch

from bayesreg.certificates.certificate import Certificate
from bayesreg.certificates.outcome import Finding
from bayesreg.certificates.values import VanishingNoise
from bayesreg.data.rows import Data
from bayesreg.model.model import BayesianModel
from bayesreg.objective.flat import FlatLayout
from bayesreg.priors import AbstractPrior

CONSTANT = 1e-3  # of the target's size: a smaller noise, with a target that does not vary, is running to zero
_NEARLY = 1e-2  # the same for what is not a mode, whose search stops earlier
_ROWS = 256


def is_constant(y: torch.Tensor) -> bool:
    """True where a target does not vary, (N,) or (N, K)."""
    return bool((y == y[:1]).all())


def size_of(y: torch.Tensor) -> float:
    """The size to compare a noise with: the target's sd; where it does not vary its absolute size, or one for a zero target."""
    spread = 0.0 if is_constant(y) else float(y.double().std(correction=0))
    return max(spread or float(y.abs().max()) or 1.0, 1e-300)


def falls_to_zero(prior: AbstractPrior, num_targets: int) -> bool:
    """True where, under a perfect fit, noise → 0 gains more from the data than its prior costs.

    >>> from bayesreg.priors import HalfNormal, LogNormal
    >>> falls_to_zero(HalfNormal(1.0), 10), falls_to_zero(LogNormal(0.0, 0.1), 10)
    (True, False)
    """
    far, near = (prior.log_prob(torch.tensor(value, dtype=torch.float64)) for value in (1e-8, 1e-4))
    return float(far - near) + num_targets * math.log(1e4) > 0


def with_noise(
    found: Certificate, model: BayesianModel, layout: FlatLayout, point: Callable[[], torch.Tensor], data: Data
) -> Certificate:
    """The certificate, not passed where the learned noise runs to zero, so that no search can end.

    `point` gives the means of the posterior in constrained space, (P,).
    """
    noises = [s for s in layout.in_order if s.latent.is_noise]
    if not noises or data.y is None or model.likelihood.squared_error_scale is None or found.no_mode is not None:
        return found
    flat = is_constant(data.y)
    if found.converged and not flat:
        return found
    means = point()
    ratio = min(float(means[s.slice].min()) for s in noises) / size_of(data.y)
    if not (ratio < _NEARLY and falls_to_zero(noises[0].latent.prior, data.y.numel())):
        return found
    if flat and _residual(model, layout, means, data) > _NEARLY * size_of(data.y):
        return found
    target = float(data.y.flatten()[0]) if flat else None
    noise = VanishingNoise(noises[0].latent.name, ratio, target)
    return dataclasses.replace(found.overrule(Finding.NOISE_VANISHING), noise=noise)


def _residual(model: BayesianModel, layout: FlatLayout, point: torch.Tensor, data: Data) -> float:
    """The largest distance of a target from the network's output over the first rows, at a point in constrained space."""
    x, y = next(data.epoch(_ROWS))
    values = {name: point[s.slice].reshape(s.latent.shape) for name, s in layout.segments.items()}
    with torch.no_grad():
        output = model.likelihood.mean(model.forward(values, x[:_ROWS]), **model.noise(values))
    return float((output - y[:_ROWS]).abs().max())
