"""The posterior over functions: how the network's outputs at different rows vary together.

    Cov[f(x), f(x′)] = J(x) Σ J(x′)ᵀ      where f is linear in unknowns with covariance Σ: the kernel of a Gaussian process

References:
    Khan, Immer, Abedi and Korzepa (2019), Approximate inference turns deep networks into Gaussian processes.
"""

from __future__ import annotations

import torch

from bayesreg._memory import check_room
from bayesreg.model.model import BayesianModel
from bayesreg.objective.flat import FlatLayout
from bayesreg.objective.jacobian import jacobians
from bayesreg.posteriors.closed_form import Normal


def of_linear(model: BayesianModel, layout: FlatLayout, normal: Normal, x: torch.Tensor, max_memory: int) -> torch.Tensor:
    """J Σ Jᵀ at prepared rows, (N, N) or (N, K, N, K), in the data's own units and float64.

    Raises:
        ValueError: If it does not fit into `max_memory` bytes.
    """

    def f(u: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return model.forward(layout.unflatten(u), x)

    with torch.no_grad():
        first = f(normal.centre, x[:1])
        width = first[0].numel()
        _check(len(x) * width, normal.times_factor(first.new_zeros(1, layout.size)).shape[1], max_memory)
        roots = [
            normal.times_factor(part.reshape(-1, layout.size)).double()
            for _, _, part in jacobians(model.behaviour, f, normal.centre, x)
        ]
        root = torch.cat(roots) * _slopes(model, first).repeat(len(x))[:, None]
        return (root @ root.mT).reshape(*x.shape[:1], *first.shape[1:], *x.shape[:1], *first.shape[1:])


def of_draws(output: torch.Tensor, max_memory: int) -> torch.Tensor:
    """The covariance of draws (S, N) or (S, N, K) of the outputs, over S as an epistemic variance is, in float64.

    Raises:
        ValueError: If it does not fit into `max_memory` bytes.

    >>> of_draws(torch.tensor([[0.0, 1.0], [2.0, 5.0]]), 1000).tolist()
    [[1.0, 2.0], [2.0, 4.0]]
    """
    shape = output.shape[1:]
    _check(shape.numel(), len(output), max_memory)
    flat = output.reshape(len(output), -1).double()
    flat = flat - flat.mean(0)
    return (flat.mT @ flat / len(flat)).reshape(*shape, *shape)


def _check(entries: int, columns: int, max_memory: int) -> None:
    advice = "ask for fewer rows, or raise max_memory"
    needed = 8 * entries * (entries + 2 * columns)
    check_room(needed, max_memory, "the covariance of the function", f"{entries:,} outputs with each other", advice)


def _slopes(model: BayesianModel, output: torch.Tensor) -> torch.Tensor:
    """What each output of a row, (1,) or (1, K), is multiplied by to be in the data's own units: (K,), float64."""
    ones, scale = torch.ones_like(output, dtype=torch.float64), model.standardization
    if scale is not None and model.likelihood.location_scale:
        mean, width = scale.y_mean.double(), scale.y_scale.double()
        ones = model.likelihood.in_units(ones, 0 * mean, width) - model.likelihood.in_units(0 * ones, 0 * mean, width)
    return ones.reshape(-1)
