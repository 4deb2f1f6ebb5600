"""One step of an optimizer as pure functions of tensors: they can be compiled, and vmapped over fits.

m ← β₁m + (1−β₁)g,   v ← β₂v + (1−β₂)g²,   s = rate/(√v̂ + ε),   u ← prox_{s·penalty}(u − s·m̂)

s is Adam's own metric, one step length an entry. A penalty with a kink is not in g: its prox in that same metric takes its
place, so that a step can land on the kink and stay there, which Adam on a subgradient never does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from bayesreg.objective.flat import Group

BETAS = (0.9, 0.999)
EPSILON = 1e-8


def move_moments(gradient: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> None:
    """Adam's running means of the gradient and its square after one more gradient, in place, in the gradient's shape."""
    first.lerp_(gradient, 1 - BETAS[0])
    second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])


def pace(count: int, rate: float) -> tuple[float, float, float]:
    """The numbers of a step that are no tensors, reckoned before it: a power for each entry would cost as much as the step.

    Args:
        count: Steps taken, this one included.
        rate: The learning rate.

    Returns:
        a = rate·√c₂, b = ε·√c₂ and 1/c₁, with cᵢ = 1 − βᵢᵗ what the running means have seen of their whole: the metric
        rate/(√(v/c₂) + ε) is a/(√v + b).

    >>> a, b, _ = pace(3, 0.1)
    >>> v, c = 0.7, 1 - 0.999**3
    >>> abs(a / (v**0.5 + b) - 0.1 / ((v / c) ** 0.5 + EPSILON)) < 1e-15
    True
    """
    root = math.sqrt(1 - BETAS[1] ** count)
    return rate * root, EPSILON * root, 1 / (1 - BETAS[0] ** count)


def metric(second: torch.Tensor, ahead: torch.Tensor | float, floor: torch.Tensor | float) -> torch.Tensor:
    """Adam's step length of each entry, rate/(√v̂ + ε), in the shape of `second`.

    Args:
        second: Running mean of the squared gradient.
        ahead: The first number of `pace`.
        floor: The second.
    """
    return ahead / (second.sqrt() + floor)


def shared(step: torch.Tensor, nonsmooth: Sequence[Group]) -> torch.Tensor:
    """The same step lengths, but the shortest of theirs for groups whose prox knows one step only, (P,)."""
    for group in nonsmooth:
        if not group.prior.separable_prox:
            common = step[group.slice].amin().expand(group.stop - group.start)
            step = torch.cat([step[: group.start], common, step[group.stop :]])
    return step


def adam(
    u: torch.Tensor,
    gradient: torch.Tensor,
    first: torch.Tensor,
    second: torch.Tensor,
    numbers: Sequence[torch.Tensor | float] | torch.Tensor,
    nonsmooth: Sequence[Group] = (),
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """One step of Adam (Kingma and Ba 2015), as `torch.optim.Adam` takes it.

    Args:
        u: (P,).
        gradient: Of the objective without what the prox will treat, (P,).
        first: Running mean of the gradient, (P,).
        second: Running mean of its square, (P,).
        numbers: What `pace` says of this step.
        nonsmooth: Groups that a prox will follow, see `shared`.

    Returns:
        The new u, first and second, and the metric in which the step was taken.
    """
    first, second = torch.lerp(first, gradient, 1 - BETAS[0]), torch.lerp(second, gradient.square(), 1 - BETAS[1])
    step = shared(metric(second, numbers[0], numbers[1]), nonsmooth)
    return u - step * first * numbers[2], first, second, step


def proximal(u: torch.Tensor, step: torch.Tensor, nonsmooth: Sequence[Group]) -> torch.Tensor:
    """argmin_z Σ energy(z) + ½ Σᵢ (zᵢ − uᵢ)²/stepᵢ over the groups with a kink; the rest of u stays.

    Args:
        u: (P,).
        step: Step length of each entry, (P,).
        nonsmooth: The groups.

    Returns:
        (P,).
    """
    parts, done = [], 0
    for group in sorted(nonsmooth, key=lambda group: group.start):
        parts += [u[done : group.start], group.prox(u[group.slice], step[group.slice])]
        done = group.stop
    return torch.cat([*parts, u[done:]])
