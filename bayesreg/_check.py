"""Argument checks: each refusal is one sentence that says what must hold, what came and what to do."""

from __future__ import annotations

import difflib
import math
import reprlib
import sys
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

MAX_COUNT = 2**63 - 1  # what a machine counts with
MAX_STEPS = 10**8  # half a day of the fastest ones


class _Said(reprlib.Repr):
    """The text of a value in an error, short whatever came: a number of 400 digits, a list of lists a thousand deep."""

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 120
        self.maxlong = 60

    def repr_int(self, x: int, level: int) -> str:
        bits = x.bit_length()  # Python itself refuses to write out a number of more than 4,300 digits
        return super().repr_int(x, level) if bits < 1100 else f"a whole number of some {bits * math.log10(2):.0f} digits"


said = _Said().repr


def positive(name: str, value: Any) -> float:
    """Return `value` as a float that is finite and > 0.

    Raises:
        ValueError: If it is not.

    >>> positive("scale", 2)
    2.0
    """
    number = _number(name, value)
    if not (math.isfinite(number) and number > 0):
        raise ValueError(f"{name} must be a finite number > 0, but {said(value)} came; pass for example {name}=1.0.")
    return number


def finite(name: str, value: Any) -> float:
    """Return `value` as a finite float.

    Raises:
        ValueError: If it is not.
    """
    number = _number(name, value)
    if not math.isfinite(number):
        raise ValueError(f"{name} must be a finite number, but {said(value)} came; pass for example {name}=0.0.")
    return number


def count(name: str, value: Any, most: int = MAX_COUNT) -> int:
    """Return `value` as an int that is >= 1 and at most what a machine counts with, or less.

    Raises:
        ValueError: If it is not.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name} must be a whole number >= 1, but {said(value)} came; pass for example {name}=100.")
    if value > most:
        raise ValueError(f"{name} must be at most {most:,}, but {said(value)} came; pass for example {name}=100.")
    return int(value)


def steps(name: str, value: Any) -> int:
    """Return `value` as a number of steps, each of which leaves a number behind: an int from 1 to `MAX_STEPS`.

    Raises:
        ValueError: If it is not.
    """
    return count(name, value, MAX_STEPS)


def in_range(name: str, value: float, dtype: torch.dtype, *, power: int = 1) -> float:
    """Return `value` when its power is a number of this floating type, neither infinite nor, where it is squared, zero.

    Raises:
        ValueError: If it is not.

    >>> in_range("noise_scale", 0.5, torch.float32, power=2)
    0.5
    """
    limits = torch.finfo(dtype)
    low, high = 0.0 if power == 1 else limits.tiny ** (1 / power), limits.max ** (1 / power)
    if not low <= abs(value) <= high:
        raise ValueError(
            f"{name} must lie between {low:.0e} and {high:.0e} in size, or its {'square' if power == 2 else 'value'} is no "
            f"{dtype} number, but {value:g} came; take another unit."
        )
    return value


def squared(name: str, value: Any) -> float:
    """Return `value` as a float that is > 0, as its square and one over its square are.

    Raises:
        ValueError: If it is not.
    """
    return in_range(name, positive(name, value), torch.float64, power=2)


def one_of(name: str, value: Any, choices: Iterable[str]) -> str:
    """Return `value` when it is one of `choices`.

    Raises:
        ValueError: If it is not; the closest choices are named.
    """
    choices = list(choices)
    if value not in choices:
        raise ValueError(
            f"{name} must be one of {', '.join(map(repr, choices))}, but {said(value)} came{closest(str(value), choices)}."
        )
    return value


def closest(name: str, choices: Iterable[str]) -> str:
    """Return '; did you mean ...?' for the nearest of `choices`, or an empty text.

    >>> closest("Laplase", ["Normal", "Laplace"])
    "; did you mean 'Laplace'"
    """
    found = difflib.get_close_matches(name[:200], list(choices), n=3, cutoff=0.5)
    return "; did you mean " + " or ".join(map(repr, found)) if found else ""


def all_finite(name: str, values: torch.Tensor) -> torch.Tensor:
    """Return `values` when every entry is finite.

    Raises:
        ValueError: If an entry is not; says how many and where the first one stands.
    """
    if not values.is_floating_point() or bool(torch.isfinite(values.sum())):  # one pass: no sum hides a NaN or an infinity
        return values
    bad = ~torch.isfinite(values)
    number = int(bad.sum())
    if number:
        first = tuple(bad.nonzero()[0].tolist())
        where = f"row {first[0]}" + (f", column {', '.join(map(str, first[1:]))}" if len(first) > 1 else "")
        raise ValueError(
            f"{name} must be finite, but {number:,} of {values.numel():,} entries are NaN or infinite (the first at "
            f"{where}); drop or impute these rows."
        )
    return values


def _number(name: str, value: Any) -> float:
    if isinstance(value, (str, bytes, bytearray, bool)) or value is None:
        raise ValueError(f"{name} must be a number, but {said(value)} came; pass for example {name}=1.0.")
    try:
        return float(value)
    except OverflowError:
        raise ValueError(
            f"{name} must be a number that a computer's floating point holds, up to {sys.float_info.max:.2g}, but "
            f"{said(value)} came; pass for example {name}=1.0."
        ) from None
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a number, but {type(value).__name__} came; pass for example {name}=1.0.") from None
