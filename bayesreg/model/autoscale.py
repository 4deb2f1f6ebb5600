"""`autoscale=True`: the scale of a linear model's prior in the units of its data, scale · sd(y)/sd(x) of each column.

Statistics of the training rows decide it when the model is bound to them. A standardised model's inputs and target have sd
one already, so that nothing changes there; a target that is a class has no sd, and one is taken.
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
    """sd(y)/sd(x) of each input column, in the units that the model works in.

    Args:
        module: The network.
        statistics: Of the training rows.
        standardize: Whether the model works on standardised data.
        likelihood: What is assumed about the noise. Where the network says it, the logarithms of its scales have no unit, and
            theirs is 1/sd(x).

    Returns:
        (D,), or (K, D) for K targets; (2K, D) where the network says the noise.

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
    """The prior of one tensor with its autoscale worked out.

    Args:
        resolved: As specified.
        ratio: (D,) or (K, D).

    Returns:
        The same record with a scale for each column; other priors as they are.

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
