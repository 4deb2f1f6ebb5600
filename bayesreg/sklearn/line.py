"""The coefficients of a model that is linear in its inputs, in the data's own units.

A = diag(sd y) W diag(1/sd x),        a = mean y + sd y b − A mean x        for f = W (x − mean x)/sd x + b
"""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import nn

from bayesreg.posteriors import AbstractPosterior


@dataclasses.dataclass(frozen=True)
class Line:
    """f(x) = A x + a.

    Attributes:
        slope: The posterior mean of A, (K, D).
        slope_std: The posterior sds of A, (K, D).
        intercept: The posterior mean of a, (K,).
    """

    slope: np.ndarray
    slope_std: np.ndarray
    intercept: np.ndarray


def line_of(posterior: AbstractPosterior) -> Line | None:
    """The coefficients; None where the model is no single linear layer."""
    module, prefix = posterior.model.module, ""
    while isinstance(module, nn.Sequential) and len(module) == 1:
        (name, module), *_ = module.named_children()
        prefix += f"{name}."
    if type(module) is not nn.Linear:
        return None
    held = dict(posterior.model.module.named_parameters())
    mean = {name: parameter.detach() for name, parameter in held.items()} | posterior.mean
    weight = mean[f"{prefix}weight"].double()
    bias = mean[f"{prefix}bias"].double() if module.bias is not None else weight.new_zeros(len(weight))
    std = posterior.std.get(f"{prefix}weight", torch.zeros_like(weight)).double()
    s = posterior.model.standardization
    if s is None:
        return Line(weight.numpy(), std.numpy(), bias.numpy())
    scale = s.y_scale.reshape(-1, 1) / s.x_scale
    slope = weight * scale
    intercept = s.y_mean.reshape(-1) + s.y_scale.reshape(-1) * bias - slope @ s.x_mean
    return Line(slope.numpy(), (std * scale).numpy(), intercept.numpy())
