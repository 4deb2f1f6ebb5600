"""Helpers for numbers that may also be tensors, where many scales are stacked: logarithms, types, shares."""

from __future__ import annotations

import math
from typing import Any

import torch

from bayesreg import _check

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def wide(value: torch.Tensor) -> torch.Tensor:
    """The value in float64, whose range holds squares and ratios of any float32."""
    return value if value.device.type == "mps" else value.double()  # a device without float64


def log(value: Any) -> Any:
    """The logarithm of a number, or of a tensor where scales are stacked."""
    return value.log() if isinstance(value, torch.Tensor) else math.log(value)


def tensors(options: dict[str, Any], *numbers: Any) -> list[torch.Tensor]:
    """Numbers as scalar tensors of the wanted dtype and device: Pyro would make float32 of a Python float."""
    return [torch.as_tensor(number, **options) for number in numbers]


def mass_of(mass: Any) -> float:
    """A probability strictly between 0 and 1.

    Raises:
        ValueError: If it is not.
    """
    number = _check.finite("mass", mass)
    if not 0 < number < 1:
        raise ValueError(f"mass must lie between 0 and 1, but {mass!r} came; pass for example mass=0.9.")
    return number
