"""Other starts of a fit than the module's own weights: as its layers draw them anew."""

from __future__ import annotations

import copy

import torch
from torch import nn

from bayesreg.flat import LogJoint
from bayesreg.layers.copying import copied
from bayesreg.model import BayesianModel


def starts(log_joint: LogJoint, x: torch.Tensor, y: torch.Tensor, count: int) -> torch.Tensor:
    """Where each of several fits begins; random numbers come from torch's global generator.

    Args:
        log_joint: The objective.
        x: A few prepared inputs, for a first guess of the noise.
        y: Their targets.
        count: How many, R.

    Returns:
        (R, P) unconstrained.
    """
    model, layout = log_joint.model, log_joint.layout
    return torch.stack([layout.flatten(_anew(model).start(x, y)) for _ in range(count)])


def _anew(model: BayesianModel) -> BayesianModel:
    """The same model with weights as `reset_parameters` draws them; other ones are shuffled, with random signs."""
    fresh = copy.copy(model)
    fresh.module = copied(model.module)
    drawn: set[int] = set()
    for module in fresh.module.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
            drawn |= {id(parameter) for parameter in module.parameters(recurse=False)}
    with torch.no_grad():
        for parameter in fresh.module.parameters():
            if id(parameter) not in drawn:
                _shuffle(parameter)
    return fresh


def _shuffle(parameter: nn.Parameter) -> None:
    order = torch.randperm(parameter.numel()).to(parameter.device)
    signs = (2 * torch.randint(2, (parameter.numel(),)) - 1).to(parameter)
    parameter.copy_((parameter.reshape(-1)[order] * signs).view(parameter.shape))
