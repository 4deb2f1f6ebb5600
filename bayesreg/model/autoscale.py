"""`autoscale=True`: the scale of a linear model's prior in the units of its data, scale · sd(y)/sd(x) of each column.

The statistics of the training rows determine it when the model is bound to them. A standardised model's inputs and target have
sd one already, so nothing changes there; for a class target sd(y) is taken as one.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import nn

from bayesreg.data.rows import Standardization
from bayesreg.likelihoods import AbstractLikelihood
from bayesreg.model.spec import Resolved
from bayesreg.priors.scaled import AbstractScaledPrior


def ratio_of(module: nn.Module, statistics: Standardization, standardize: bool, likelihood: AbstractLikelihood) -> torch.Tensor:
    """sd(y)/sd(x) of each input column, in the units that the model works in: (D,), or (K, D) for K targets.

    Where the network predicts the noise it is (2K, D): the logarithms of its scales have no unit, and their ratio is 1/sd(x).

    Raises:
        ValueError: If the module is not one linear layer over the input columns.
    """
    leaves = [m for m in module.modules() if not list(m.children())]
    linear = [m for m in leaves if isinstance(m, nn.Linear)]
    plain = all(isinstance(m, (nn.Linear, nn.Identity, nn.Flatten)) for m in leaves)
    x_scale = statistics.x_scale.reshape(-1)
    if not plain or len(linear) != 1 or linear[0].in_features != len(x_scale):
        raise ValueError(
            f"autoscale=True needs a linear model, one nn.Linear over the {len(x_scale)} input columns, but the module has "
            f"{', '.join(type(m).__name__ for m in leaves)}; take fan_in=True with standardize=True for a network."
        )
    if standardize:
        return torch.ones_like(x_scale)
    y_scale = statistics.y_scale
    if likelihood.outputs_per_target > 1:
        further = torch.ones_like(y_scale.reshape(-1)).repeat(likelihood.outputs_per_target - 1)
        y_scale = torch.cat([y_scale.reshape(-1), further])
    return y_scale[..., None] / x_scale


def adjusted(resolved: Resolved, ratio: torch.Tensor) -> Resolved:
    """The record with autoscale applied, a scale for each column, from the ratio (D,) or (K, D); other priors are unchanged.

    Raises:
        ValueError: If the tensor is no weight over the input columns.
    """
    prior = resolved.specified
    if not isinstance(prior, AbstractScaledPrior) or not prior.autoscale:
        return resolved
    if len(resolved.shape) != 2 or resolved.shape[1] != ratio.shape[-1]:
        raise ValueError(
            f"autoscale=True must meet a weight (outputs, inputs), but {resolved.name} has shape {tuple(resolved.shape)}; "
            "give this tensor a plain scale, for example '*.bias': Flat()."
        )
    scale = (prior.given_scale * ratio).expand(resolved.shape)
    return dataclasses.replace(resolved, prior=prior.given(scale))
