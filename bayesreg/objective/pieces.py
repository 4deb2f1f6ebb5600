"""Whether a network is piecewise linear, so that a mode may sit where its pieces meet."""

from __future__ import annotations

import torch
from torch import nn

from bayesreg.behaviour import PIECEWISE, Operations
from bayesreg.model.model import BayesianModel
from bayesreg.objective.flat import LogJoint

KINKED = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.ReLU6, nn.Hardtanh, nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)


def is_nonsmooth(log_joint: LogJoint) -> bool:
    """True where a mode may sit on a kink out of a proximal step's reach: a ReLU network's, an activation prior's."""
    model = log_joint.model
    return (
        log_joint.nonsmooth_outputs
        or any(isinstance(module, KINKED) for module in model.module.modules())
        or _has_pieces(model)
    )


def _has_pieces(model: BayesianModel) -> bool:
    """True where a forward takes a piecewise linear operation by itself (`torch.relu`), which no layer tells."""
    if model.row_shape is None or all(type(module).__module__.startswith("torch.nn") for module in model.module.modules()):
        return False
    rows = torch.zeros(2, *model.row_shape, dtype=model.like.dtype, device=model.like.device)
    try:
        with torch.no_grad(), Operations() as heard:
            model.forward(model.weights(), rows)
    except Exception:  # indices of an embedding, for example
        return False
    return bool(heard.names & PIECEWISE)
