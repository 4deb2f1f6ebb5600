"""A known part of the output, added to a prediction."""

from __future__ import annotations

from typing import Any

import torch

from bayesreg.data.rows import as_tensor
from bayesreg.predictive.drawn import Drawn, Parts
from bayesreg.predictive.mixture import Predictive
from bayesreg.predictive.normal_function import NormalFunction


def with_offset(predictive: Predictive, offset: Any) -> Predictive:
    """The prediction whose outputs are larger by a known part of each row's, as `fit(..., offset=...)` adds it.

    Args:
        predictive: The prediction of N rows.
        offset: (N,), or (N, K) for K outputs, in the data's own units; None for none.

    Returns:
        A predictive.

    Raises:
        ValueError: If the shape does not fit.

    >>> from bayesreg.likelihoods import Poisson
    >>> hour = Predictive(Poisson(), torch.zeros(1, 2))
    >>> with_offset(hour, torch.tensor([1.0, 24.0]).log()).mean
    tensor([ 1., 24.])
    """
    if offset is None:
        return predictive
    likelihood, like = predictive.likelihood, predictive.like
    added, shape = as_tensor("offset", offset).to(like.device), like.shape[1:]
    added = added.flatten(1) if added.dim() == 3 else added
    shape = likelihood.mean_shape(shape) if likelihood.location_scale else shape
    added = added[:, 0] if added.dim() == 2 and added.shape[1] == 1 and len(shape) == 1 else added
    if added.shape != shape:
        raise ValueError(
            f"offset must have shape {tuple(shape)}, one for each output of the rows predicted, but {tuple(added.shape)} came; "
            "give it in the order of the rows."
        )

    def make() -> Parts:
        output, noise = predictive.output, predictive.noise
        part = added.to(output)
        part = part[:, None] if output.dim() - 1 > part.dim() else part  # one target a row, of several outputs
        moved = likelihood.in_units(output, part, torch.ones_like(part)) if likelihood.location_scale else output + part
        return moved, noise

    function = predictive.function  # that of classes does not keep the logits, from which it was made
    known = function.in_units(added, torch.ones(())) if isinstance(function, NormalFunction) else None
    return Predictive(likelihood, Drawn(like, make), None, known)
