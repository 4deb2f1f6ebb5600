"""One step of an optimizer as pure functions of tensors: they can be compiled, and vmapped over fits.

m ← β₁m + (1−β₁)g,   v ← β₂v + (1−β₂)g²,   s = rate/(√v̂ + ε),   u ← prox_{s·penalty}(u − s·m̂)

s is Adam's own metric, one step length an entry. A penalty with a kink is not in g: its prox in that same metric takes its
place, so that a step can land on the kink and stay there, which Adam on a subgradient never does.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from bayesreg.flat import Group

BETAS = (0.9, 0.999)
EPSILON = 1e-8


def adam_moments(gradient: torch.Tensor, first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Adam's running means of the gradient and its square after one more gradient, in the gradient's shape."""
    return torch.lerp(first, gradient, 1 - BETAS[0]), torch.lerp(second, gradient.square(), 1 - BETAS[1])


def metric(second: torch.Tensor, correction: torch.Tensor | float, rate: torch.Tensor | float) -> torch.Tensor:
    """Adam's step length of each entry, rate/(√v̂ + ε), in the shape of `second`.

    Args:
        second: Running mean of the squared gradient.
        correction: 1 − β₂ᵗ, what that mean has seen of its whole.
        rate: The learning rate.
    """
    return rate / ((second / correction).sqrt() + EPSILON)


def shared(step: torch.Tensor, kinked: Sequence[Group]) -> torch.Tensor:
    """The same step lengths, but the shortest of theirs for groups whose prox knows one step only, (P,)."""
    for group in kinked:
        if not group.prior.prox_by_entry:
            common = step[group.slice].amin().expand(group.stop - group.start)
            step = torch.cat([step[: group.start], common, step[group.stop :]])
    return step


def adam(
    u: torch.Tensor,
    gradient: torch.Tensor,
    first: torch.Tensor,
    second: torch.Tensor,
    count: torch.Tensor,
    rate: torch.Tensor | float,
    kinked: Sequence[Group] = (),
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """One step of Adam (Kingma and Ba 2015), as `torch.optim.Adam` takes it.

    Args:
        u: (P,).
        gradient: Of the objective without what the prox will treat, (P,).
        first: Running mean of the gradient, (P,).
        second: Running mean of its square, (P,).
        count: Steps taken, this one included, a scalar.
        rate: The learning rate.
        kinked: Groups that a prox will follow, see `shared`.

    Returns:
        The new u, first and second, and the metric in which the step was taken.
    """
    first, second = adam_moments(gradient, first, second)
    step = shared(metric(second, 1 - BETAS[1] ** count, rate), kinked)
    return u - step * first / (1 - BETAS[0] ** count), first, second, step


def proximal(u: torch.Tensor, step: torch.Tensor, kinked: Sequence[Group]) -> torch.Tensor:
    """argmin_z Σ energy(z) + ½ Σᵢ (zᵢ − uᵢ)²/stepᵢ over the groups with a kink; the rest of u stays.

    Args:
        u: (P,).
        step: Step length of each entry, (P,).
        kinked: The groups.

    Returns:
        (P,).
    """
    parts, done = [], 0
    for group in sorted(kinked, key=lambda group: group.start):
        parts += [u[done : group.start], group.prox(u[group.slice], step[group.slice])]
        done = group.stop
    return torch.cat([*parts, u[done:]])
