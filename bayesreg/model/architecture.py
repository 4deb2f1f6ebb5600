"""A description of a module apart from its tensors, in plain text that can be stored and compared: layers, settings, code.

    for each place of a layer:  class · settings (its attributes) · a digest of the code that its forward reaches

For torch and other installed packages the name of a class or function represents its code. For a user's code the bytecode is
used, of `forward` and of every function, method, closure and constant that it refers to; so comments and names of local
variables make no difference. Bytecode depends on the Python version; between two versions code is not compared.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import hashlib
import inspect
import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from bayesreg.behaviour.inputs import on_a_copy
from bayesreg.layers import MLP, in_sequence
from bayesreg.model.model import BayesianModel

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}, optimize={sys.flags.optimize}"
CODE = "the code of the forward of"  # how such a difference begins
_CHANGES = "changes at each pass"  # replaces a setting that a pass through the network writes
_DEEPEST = 6  # objects within objects whose attributes are read
_LONGEST = 100  # longest setting that is kept unabridged
_INTERNAL = {*vars(nn.Module()), "inplace"}
_SET_UP = {"__init__", "__new__", "__repr__", "extra_repr", "__setstate__", "__getstate__", "__deepcopy__"}
_HOOKS = ("_forward_pre_hooks", "_forward_hooks")
_LIBRARIES = {*sys.stdlib_module_names, "torch", "numpy", "pyro", "bayesreg", "builtins"}

Description = dict[str, dict[str, Any]]


def describe(model: BayesianModel) -> Description:
    """A bound model's network in plain text, by dotted place: "class", "settings" by name, and "code", None for library code.

    A pass through a copy separates settings from attributes that a pass writes (a counter, a cache). The model is not changed.
    """
    found = described(model.module)
    if model.row_shape is None or all(layer["code"] is None for layer in found.values()):
        return found
    probe = copy.deepcopy(model.module)
    kind = torch.long if model.takes_integers else model.like.dtype
    try:
        with torch.no_grad():
            model.forward(model.weights(), torch.zeros(2, *model.row_shape, dtype=kind, device=model.like.device), probe)
    except Exception:  # a user's code may raise anything on zeros; that says nothing about settings
        return found
    after = described(probe)
    for place, layer in found.items():
        settings = after[place]["settings"] if place in after else {}
        for name in layer["settings"].keys() | settings.keys():
            if layer["settings"].get(name) != settings.get(name):
                layer["settings"][name] = _CHANGES
    return found


def differences(stored: Description, came: Description, python: str) -> list[str]:
    """What differs between a stored description, made under this version of Python, and another one, in words."""
    found = []
    for place in [*stored, *(place for place in came if place not in stored)]:
        said = place or "the network"
        if place not in came or place not in stored:
            found.append(f"{said} is {'missing' if place not in came else 'one too many'}")
            continue
        one, other = stored[place], came[place]
        if one["class"] != other["class"]:
            found.append(f"{said} was {one['class']} and is {other['class']}")
            continue
        ours, theirs = one["settings"].keys(), other["settings"].keys()
        # a setting that only one version of a library has is no difference
        for name in sorted(ours & theirs if one["code"] is None and other["code"] is None else ours | theirs):
            before, now = (layer["settings"].get(name, "not set") for layer in (one, other))
            if before != now and _CHANGES not in (before, now):
                found.append(f"{name} of {said} ({one['class']}) was {before} and is {now}")
        if python == PYTHON and one["code"] != other["code"]:
            found.append(f"{CODE} {said} ({one['class']}) has changed")
    return found


def digest(description: Description) -> str:
    """A hash of the whole description."""
    return hashlib.sha256(repr(description).encode()).hexdigest()


def described(module: nn.Module) -> Description:
    """A module in plain text, as it is now; see `describe`."""
    layers = dict(module.named_modules(remove_duplicate=False))
    own = {cls for layer in layers.values() for cls in type(layer).__mro__ if not _is_library(cls)}
    functions = [part for cls in own for name, part in vars(cls).items() if name not in _SET_UP]
    called = {name for part in functions if isinstance(part, types.FunctionType) for name in _instructions(part.__code__)[1]}
    return {place: _layer(layer, sorted({"forward", *called} - _SET_UP)) for place, layer in layers.items()}


def _layer(layer: nn.Module, called: list[str]) -> dict[str, Any]:
    kind = type(layer)
    hooks = {name.strip("_"): _text([hook for hook in vars(layer)[name].values() if hook is not on_a_copy]) for name in _HOOKS}
    if kind in (MLP, nn.Sequential):  # a network rebuilt from a file is a Sequential
        return {"class": "Sequential" if in_sequence(layer) else "MLP", "settings": hooks, "code": None}
    own = [cls for cls in kind.__mro__ if not _is_library(cls)]
    settings = {name: _text(value) for name, value in vars(layer).items() if _is_setting(name, value, bool(own))}
    settings.update(hooks)
    if kind.get_extra_state is not nn.Module.get_extra_state:
        settings["extra state"] = _text(layer.get_extra_state())
    roots = [vars(cls)[name] for name in called for cls in own if name in vars(cls)]
    return {"class": kind.__qualname__, "settings": settings, "code": _code_of(roots, kind) if own else None}


def _is_setting(name: str, value: Any, own: bool) -> bool:
    """True for an attribute that affects what a layer computes; a library's private ones follow from the others."""
    if name in _INTERNAL or _holds_parameters(value):
        return False
    return own or not (name.startswith("_") or isinstance(value, torch.Tensor))


def _holds_parameters(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(_holds_parameters(part) for part in value)
    return isinstance(value, nn.Parameter)


def _text(value: Any) -> str:
    text = "".join(_words(value, _DEEPEST, set()))
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}… ({hashlib.sha256(text.encode()).hexdigest()[:16]})"


def _words(value: Any, depth: int, seen: set[int]) -> Iterator[str]:
    """A value as text that is the same for equal values in every process."""
    if value is None or isinstance(value, (bool, int, float, complex, str, bytes, torch.dtype, torch.Size, torch.layout)):
        yield repr(value)
    elif isinstance(value, np.generic):
        yield repr(value.item())
    elif isinstance(value, (torch.Tensor, np.ndarray)):
        yield f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)} {hash_of(value)[:16]}"
    elif depth == 0 or id(value) in seen:
        yield type(value).__qualname__
    elif isinstance(value, (list, tuple, set, frozenset, dict)):
        parts = value.items() if isinstance(value, dict) else value
        each = ["".join(_words(part, depth - 1, seen | {id(value)})) for part in parts]
        yield f"{type(value).__name__}({', '.join(sorted(each) if isinstance(value, (set, frozenset)) else each)})"
    elif isinstance(value, functools.partial):
        yield from _words((value.func, value.args, value.keywords), depth, seen | {id(value)})
    elif isinstance(value, types.MethodType):
        yield from _words((value.__func__, type(value.__self__).__qualname__), depth, seen | {id(value)})
    elif isinstance(value, (type, types.FunctionType, types.BuiltinFunctionType)):
        yield value.__qualname__ + ("" if _is_library(value) else f" {_code_of([value], None, seen)}")
    else:
        yield type(value).__qualname__
        yield from _words(getattr(value, "__dict__", None), depth - 1, seen | {id(value)})


def hash_of(tensor: Any) -> str:
    """SHA-256 of a tensor's or array's numbers."""
    if isinstance(tensor, np.ndarray):
        return hashlib.sha256(repr(tensor.tolist()).encode() if tensor.dtype == object else tensor.tobytes()).hexdigest()
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
        return hashlib.sha256(str(tensor).encode()).hexdigest()
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return hashlib.sha256(flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b"").hexdigest()


def _is_library(thing: Any) -> bool:
    """True for code of an installed package, not of the user."""
    name = getattr(thing, "__module__", None) or "builtins"
    if name.split(".")[0] in _LIBRARIES:
        return True
    file = getattr(sys.modules.get(name), "__file__", None) or ""
    return "site-packages" in file or "dist-packages" in file


def _code_of(roots: list[Any], owner: type | None, seen: set[int] | None = None) -> str:
    """A digest of functions' code and of the code that they refer to; of a class, of all its functions."""
    seen = set() if seen is None else seen
    text = "".join(word for root in roots for word in _reached(root, owner, seen))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _reached(thing: Any, owner: type | None, seen: set[int]) -> Iterator[str]:
    if isinstance(thing, (staticmethod, classmethod)):
        thing = thing.__func__
    if isinstance(thing, property):
        thing = thing.fget
    if id(thing) in seen or thing is None or _is_library(thing):
        return
    seen.add(id(thing))
    if isinstance(thing, type):
        for name in sorted(vars(thing)):
            if not issubclass(thing, nn.Module) and name not in ("__dict__", "__weakref__", "__doc__"):
                yield name
                yield from _part(vars(thing)[name], thing, seen)
    elif isinstance(thing, types.FunctionType):
        yield from _function(thing, owner, seen)


def _function(function: types.FunctionType, owner: type | None, seen: set[int]) -> Iterator[str]:
    code, names = _instructions(function.__code__, function.__doc__)
    yield code
    yield from _words((function.__defaults__, function.__kwdefaults__), 3, seen)
    for cell in function.__closure__ or ():
        with contextlib.suppress(ValueError):  # an empty cell
            yield from _named(cell.cell_contents, names, seen)
    for name in names:
        if name in function.__globals__:
            yield from _named(function.__globals__[name], names, seen)
        for cls in () if owner is None else owner.__mro__:
            if name in vars(cls) and not _is_library(cls):
                yield from _part(vars(cls)[name], owner, seen)


def _part(part: Any, owner: type | None, seen: set[int]) -> Iterator[str]:
    """A class attribute: code, or a constant."""
    is_code = isinstance(part, (types.FunctionType, staticmethod, classmethod, property, type))
    yield from _reached(part, owner, seen) if is_code else _words(part, 3, seen)


def _named(value: Any, names: list[str], seen: set[int]) -> Iterator[str]:
    """The object that a name in a function's code refers to."""
    if isinstance(value, types.ModuleType):
        if not _is_library(types.SimpleNamespace(__module__=value.__name__)):
            for name in names:
                yield from _named(vars(value).get(name), [], seen)
    elif isinstance(value, (type, types.FunctionType)):
        yield value.__qualname__
        yield from _reached(value, None, seen)
    elif value is not None:
        yield from _words(value, 3, seen)


def _instructions(code: types.CodeType, doc: str | None = None) -> tuple[str, list[str]]:
    """Bytecode with its constants, and the names in it, of functions within too."""
    text, names = (
        [code.co_code.hex(), repr((code.co_argcount, code.co_kwonlyargcount, code.co_flags & ~inspect.CO_NESTED))],
        list(code.co_names),
    )
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            inner, more = _instructions(constant)
            text.append(inner)
            names += more
        else:  # without a docstring its place holds None
            text.extend(_words(None if constant == doc else constant, 3, set()))
    return "".join([*text, repr(names)]), list(dict.fromkeys(names))
