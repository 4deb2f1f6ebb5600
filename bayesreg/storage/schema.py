"""Checks of a file's content before it is used: fields and their types, tensors and their shapes."""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
import torch


def plain(value: Any) -> Any:
    """A value as it is stored: builtin numbers and containers, and tensors of their own on the CPU.

    It is equal to the value, without subclasses and shared memory.

    Raises:
        ValueError: If it holds anything else, which only code could restore.

    >>> plain({"a": (np.float64(0.5), [True, None])})
    {'a': (0.5, [True, None])}
    """
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        return value.clone()  # strides stay: products of other strides round otherwise
    if isinstance(value, Mapping):
        return {plain(key): plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return (tuple if isinstance(value, tuple) else list)(plain(part) for part in value)
    if isinstance(value, np.generic):
        value = value.item()
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    if value is None or isinstance(value, bytes):
        return value
    raise ValueError(
        f"what is stored must be tensors, numbers, texts and lists of them, but {type(value).__name__} came; turn it into one "
        "of these first."
    )


def check_fields(kind: type, given: Any, what: str) -> None:
    """Refuse a dict that does not fit a dataclass; fields that are dataclasses are dicts too. `what` is its name in errors.

    Raises:
        ValueError: If keys are missing or too many, or a value is not of its field's type.
    """
    hints = typing.get_type_hints(kind)
    names = [field.name for field in dataclasses.fields(kind)]
    if not isinstance(given, dict) or set(given) != set(names):
        came = given if isinstance(given, dict) else {}
        missing, extra = [n for n in names if n not in came], [str(n) for n in came if n not in names]
        told = [f"{', '.join(part)} {word}" for part, word in ((missing, "missing"), (extra, "unknown")) if part]
        refuse(what, f"a dict of {', '.join(names)}", " and ".join(told) or type(given).__name__)
    for name in names:
        if dataclasses.is_dataclass(hints[name]):
            check_fields(hints[name], given[name], f"{what}'s {name}")  # pyright: ignore[reportArgumentType]
        elif dataclasses.is_dataclass(one := _inside(hints[name])) and given[name] is not None:
            check_fields(one, given[name], f"{what}'s {name}")  # pyright: ignore[reportArgumentType]
        elif not is_of(given[name], hints[name]):
            refuse(f"{what}'s {name}", f"of type {_said(hints[name])}", type(given[name]).__name__)


def built(kind: Any, given: Any) -> Any:
    """The object of type `kind` from what `dataclasses.asdict` and `plain` made of it, which is checked already."""
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return kind(**{name: built(hints[name], value) for name, value in given.items()})  # pyright: ignore
    if origin in (types.UnionType, typing.Union):
        return built(next(one for one in inside if is_of(given, one)), given)
    if origin in (tuple, list):
        return origin(built(inside[0], part) for part in given)
    return kind(given) if _is_enum(kind) else given


def check_tensors(given: Any, shapes: Mapping[str, str | tuple[int, ...]], sizes: Mapping[str, int], what: str) -> None:
    """Refuse tensors that are missing, of the wrong shape, or not finite.

    A shape is sizes, or a letter for each axis, the same letter for the same size; `sizes` has those that are known. `what` is
    for errors.

    Raises:
        ValueError: If so.

    >>> check_tensors({"loc": torch.zeros(3)}, {"loc": "P"}, {"P": 2}, "a state")
    Traceback (most recent call last):
    ValueError: a state's loc must be a tensor of shape (2,), but (3,) came; it was not written by this version: fit again.
    """
    if not isinstance(given, dict) or set(given) != set(shapes):
        came = ", ".join(map(str, given)) if isinstance(given, dict) else type(given).__name__
        refuse(what, f"a dict of {', '.join(shapes)}", came or "nothing")
    known = dict(sizes)
    for name, shape in shapes.items():
        value = given[name]
        if not isinstance(value, torch.Tensor):
            refuse(f"{what}'s {name}", "a tensor", type(value).__name__)
        if len(shape) == value.dim() and isinstance(shape, str):
            wanted = tuple(known.setdefault(letter, size) for letter, size in zip(shape, value.shape, strict=True))
        else:
            wanted = tuple(known.get(letter, letter) for letter in shape) if isinstance(shape, str) else shape
        if tuple(value.shape) != wanted:
            refuse(f"{what}'s {name}", f"a tensor of shape {wanted}", str(tuple(value.shape)))
        is_number = value.is_floating_point() if wanted else not value.is_complex()
        if not is_number or not bool(value.isfinite().all()):
            came = "NaN or an infinite number" if is_number else str(value.dtype)
            refuse(f"{what}'s {name}", "finite real numbers", came)


def is_of(value: Any, hint: Any) -> bool:
    """True where a value is what a type hint says; a whole number is a float too.

    >>> is_of([1, 2.0], list[float]), is_of({"a": "b"}, dict[str, int]), is_of(None, int | None)
    (True, False, True)
    """
    origin, inside = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return True
    if origin in (types.UnionType, typing.Union):
        return any(is_of(value, one) for one in inside)
    if origin is typing.Literal:
        return value in inside
    if origin is dict:
        return isinstance(value, dict) and all(is_of(k, inside[0]) and is_of(v, inside[1]) for k, v in value.items())
    if origin is list:
        return isinstance(value, list) and all(is_of(part, inside[0]) for part in value)
    if origin is tuple:
        if not isinstance(value, tuple) or (inside[-1] is not Ellipsis and len(value) != len(inside)):
            return False
        each = [inside[0]] * len(value) if inside[-1] is Ellipsis else inside
        return all(is_of(part, one) for part, one in zip(value, each, strict=True))
    if dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        return isinstance(value, dict) and value.keys() == hints.keys() and all(is_of(value[k], hints[k]) for k in hints)
    if _is_enum(hint):
        return isinstance(value, str) and value in set(hint)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, type(None) if hint is None else hint)


def refuse(what: str, must: str, came: str) -> NoReturn:
    """Refuse content that this version did not write.

    Raises:
        ValueError: Always.
    """
    raise ValueError(f"{what} must be {must}, but {came} came; it was not written by this version: fit again.") from None


def is_plain(hint: Any) -> bool:
    """True for a type hint of numbers, texts and containers of them alone.

    >>> is_plain(tuple[int, ...] | None), is_plain(dict[str, torch.Tensor]), is_plain(Any)
    (True, False, False)
    """
    if typing.get_origin(hint) is typing.Literal or hint is Ellipsis:
        return True
    inside = typing.get_args(hint)
    return all(map(is_plain, inside)) if inside else hint in (bool, int, float, str, type(None), torch.Size)


def _is_enum(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, enum.StrEnum)


def _inside(hint: Any) -> Any:
    """A type that may be None, without the None."""
    parts = [part for part in typing.get_args(hint) if part is not type(None)]
    return parts[0] if isinstance(hint, types.UnionType) and len(parts) == 1 else hint


def _said(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint)
