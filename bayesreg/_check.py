"""Argument checks: each refusal is one sentence that says what must hold, what came and what to do."""

from __future__ import annotations

import difflib
import math
import reprlib
import sys
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

MAX_MEMORY = 2**31  # bytes that draws may take unless a caller says otherwise
MAX_COUNT = 2**63 - 1  # the largest integer of 64 bits
MAX_STEPS = 10**8  # half a day of the fastest steps


class _Said(reprlib.Repr):
    """The text of a value in an error, kept short: a number of 400 digits, a list of lists a thousand deep."""

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


def fraction(name: str, value: Any) -> float:
    """Return `value` as a float strictly between 0 and 1.

    Raises:
        ValueError: If it is none.
    """
    number = positive(name, value)
    if number >= 1:
        raise ValueError(f"{name} must be below 1, but {value!r} came; pass for example 0.2.")
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
    """Return `value` as an int that is >= 1 and at most `most`.

    Raises:
        ValueError: If it is not.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name} must be a whole number >= 1, but {said(value)} came; pass for example {name}=100.")
    if value > most:
        raise ValueError(f"{name} must be at most {most:,}, but {said(value)} came; pass for example {name}=100.")
    return int(value)


def steps(name: str, value: Any) -> int:
    """Return `value` as a number of steps, an int from 1 to `MAX_STEPS`.

    Raises:
        ValueError: If it is not.
    """
    return count(name, value, MAX_STEPS)


def in_range(name: str, value: float, dtype: torch.dtype, *, power: int = 1) -> float:
    """Return `value` when its power is finite in this floating type and, where it is squared, not zero.

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


def flag(name: str, value: Any) -> bool:
    """Return `value` when it is True or False, NumPy's too: a text such as "False" would count as True.

    Raises:
        ValueError: If it is neither.

    >>> flag("adjusted", np.bool_(False))
    False
    """
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name} must be True or False, but {said(value)} came; write it without quotes.")
    return bool(value)


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


def distinct(what: str, names: list[str]) -> list[str]:
    """Return `names` when none comes twice.

    Raises:
        ValueError: If one does.
    """
    if repeated := [repr(name) for name, number in Counter(names).items() if number > 1]:
        more = f" and {len(repeated) - 20:,} more" if len(repeated) > 20 else ""
        raise ValueError(f"{what} must differ, but {', '.join(repeated[:20])}{more} came more than once; rename one of each.")
    return names


def all_finite(name: str, values: torch.Tensor) -> torch.Tensor:
    """Return `values` when every entry is finite.

    Raises:
        ValueError: If an entry is not; says how many and where the first one stands.
    """
    if not values.is_floating_point() or bool(torch.isfinite(values.sum())):  # one pass: no sum hides a NaN or an infinity
        return values
    all_there(name, ~torch.isfinite(values), "NaN or infinite")
    return values


def all_there(name: str, bad: torch.Tensor, what: str) -> None:
    """Refuse an array in which some entries are `bad`; `what` says what these are.

    Raises:
        ValueError: If there is one; says how many and where the first one stands.
    """
    number = int(bad.sum())
    if number:
        first = tuple(bad.nonzero()[0].tolist())
        where = f" (the first at row {first[0]}" if first else ""
        where += f", column {', '.join(map(str, first[1:]))}" if first[1:] else ""
        raise ValueError(
            f"{name} must be finite, but {number:,} of {bad.numel():,} entries are {what}{where}{')' if first else ''}; drop "
            "or impute these rows."
        )


def seed(value: Any) -> int:
    """Return `value` as a whole number that every generator takes, 0 <= seed < 2⁶⁴.

    Raises:
        ValueError: If it is none.

    >>> seed(np.uint64(2**64 - 1)) == 2**64 - 1
    True
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not 0 <= int(value) < 2**64:
        raise ValueError(f"seed must be a whole number >= 0 and below 2**64, but {value!r} came; pass for example seed=0.")
    return int(value)


def device(value: Any) -> torch.device:
    """Return `value` as a device that this machine has.

    Raises:
        ValueError: If it is not.
    """
    try:
        found = torch.device(value)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, TypeError) as error:  # AssertionError: torch built without CUDA
        raise ValueError(
            f"device must be one that this machine has, but {value!r} came; pass for example device='cpu'."
        ) from error
    if found.type == "meta":
        raise ValueError("device must be one that holds numbers, but 'meta' came; pass for example device='cpu'.")
    return found


def place(where: Any, dtype: Any) -> tuple[torch.device | None, torch.dtype | None]:
    """Return a device that this machine has and a floating type; None stays None.

    Raises:
        ValueError: If they are none.
    """
    if dtype is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
        raise ValueError(f"dtype must be a floating type, but {dtype!r} came; pass for example torch.float64.")
    return None if where is None else device(where), dtype


def fits_memory(what: str, count: int, width: int, like: torch.Tensor, max_memory: int = MAX_MEMORY) -> None:
    """Refuse `count` draws of `width` numbers each, of the type of `like`, that need more than `max_memory` bytes.

    Raises:
        ValueError: If they take more.
    """
    needed = count * width * like.element_size()
    if needed > max_memory:
        raise ValueError(
            f"{what} must fit into {max_memory:,} bytes, but {count:,} of {width:,} numbers need {needed:,}; lower num_samples."
        )


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
