"""Roots of many increasing functions at once."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

_STEPS = 200


def root(
    function: Callable[[torch.Tensor], torch.Tensor], lower: torch.Tensor, upper: torch.Tensor, tolerance: torch.Tensor
) -> torch.Tensor:
    """Entry-wise root of an increasing function between lower and upper, to `tolerance` or the last bit (Chandrupatla).

    The function must be below zero at `lower` and above it at `upper`. Inverse quadratic interpolation through the last three
    points where these suit it, bisection where not.

    >>> round(float(root(lambda x: x**3 - 8, torch.zeros(1), torch.full((1,), 9.0), torch.tensor([1e-6]))), 4)
    2.0
    """
    a, b = lower, upper
    at_a, at_b = function(a), function(b)
    step, found = torch.full_like(a, 0.5), torch.full_like(a, math.nan)
    for _ in range(_STEPS):
        x = a + step * (b - a)
        at_x = function(x)
        same = (at_x > 0) == (at_a > 0)
        c, at_c = torch.where(same, a, b), torch.where(same, at_a, at_b)
        b, at_b = torch.where(same, b, a), torch.where(same, at_b, at_a)
        a, at_a = x, at_x
        best = torch.where(at_a.abs() < at_b.abs(), a, b)
        least = (tolerance + 2 * torch.finfo(a.dtype).eps * best.abs()) / (b - a).abs()
        done = (least > 0.5) | (at_a == 0)
        found = torch.where(found.isnan() & done, best, found)
        if not bool(found.isnan().any()):
            break
        xi, phi = (a - b) / (c - b), (at_a - at_b) / (at_c - at_b)
        quadratic = at_a / (at_b - at_a) * at_c / (at_b - at_c)
        quadratic = quadratic + (c - a) / (b - a) * at_a / (at_c - at_a) * at_b / (at_c - at_b)
        step = torch.where((phi.square() < xi) & ((1 - phi).square() < 1 - xi), quadratic, 0.5)
        step = torch.minimum(torch.maximum(step, least), 1 - least)
    return torch.where(found.isnan(), best, found)
