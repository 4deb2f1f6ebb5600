"""The class tree is the registry: tests, CLI and docs read from here what exists, and text is read back into objects."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import sys
from collections import Counter
from collections.abc import Iterable
from typing import Any, TypeVar

from bayesreg import _check

T = TypeVar("T")
MAX_DEPTH = 30  # brackets inside one another, in a text or a file: no prior needs five
_ADVICE = "write a class name and numbers in brackets"


def concrete(base: type[T]) -> list[type[T]]:
    """Every class below `base` that can be made, in order of definition.

    Classes whose name starts with an underscore are left out.

    >>> from bayesreg.priors import AbstractPrior
    >>> [cls.__name__ for cls in concrete(AbstractPrior)][:3]
    ['Normal', 'Laplace', 'StudentT']
    """
    found: dict[type[T], None] = {}
    for cls in base.__subclasses__():
        if not inspect.isabstract(cls) and not cls.__name__.startswith("_"):
            found[cls] = None
        found.update(dict.fromkeys(concrete(cls)))
    return list(found)


def named(module: str, base: type[T], name: str) -> type[T]:
    """The class below `base` of this name, for the `__getattr__` of the module that is named in the error.

    Raises:
        AttributeError: If there is none of that name.
    """
    for cls in concrete(base):
        if cls.__name__ == name:
            return cls
    raise AttributeError(f"module {module!r} has no attribute {name!r}")


def load_files(package: str, folders: Iterable[str]) -> None:
    """Import every file of a package, whose `__path__` is given, so that a class in a new file is found."""
    for found in pkgutil.iter_modules(folders):
        importlib.import_module(f"{package}.{found.name}")


def parse(text: str, base: type[T], what: str, example: str, *inner: type) -> T:
    """Read an object from its text, the inverse of `repr`. Nothing is executed: only class names and plain numbers.

    The object must be a `base`; its arguments may be objects of the classes `inner`. `what` and `example` serve the error.

    Raises:
        ValueError: If the text is not of that form, a name unknown (the closest are named) or an argument wrong.
    """
    form = f"{what} must read like {example}, but {_check.said(text)} came"
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, AttributeError, RecursionError, MemoryError):  # the last two for what is nested too deep
        raise ValueError(f"{form}; {_ADVICE}.") from None
    if _depth(node) > MAX_DEPTH:
        raise ValueError(f"{form}, nested more than {MAX_DEPTH} deep; {_ADVICE}.")
    built = _build(node, {cls.__name__: cls for cls in concrete(base)}, form, inner)
    if not isinstance(built, base):
        raise ValueError(f"{form}; {_ADVICE}.")
    return built


def _depth(node: ast.AST) -> int:
    """How deep an expression is nested."""
    deepest, layer = 0, [node]
    while layer:
        deepest, layer = deepest + 1, [child for parent in layer for child in ast.iter_child_nodes(parent)]
    return deepest


def _build(node: ast.expr, classes: dict[str, type], form: str, inner: tuple[type, ...]) -> Any:
    if isinstance(node, ast.Name):
        node = ast.Call(func=node, args=[], keywords=[])
    if isinstance(node, (ast.Tuple, ast.List)) and any(isinstance(entry, (ast.Call, ast.Name)) for entry in node.elts):
        return tuple(_build(entry, classes, form, inner) for entry in node.elts)
    if not isinstance(node, ast.Call):
        try:
            return plain(ast.literal_eval(node))
        except (ValueError, TypeError) as error:
            why = f": {error}" if isinstance(error, NotPlainError) else ""
            raise ValueError(f"{form}{why}; {_ADVICE}.") from None
    name = node.func.id if isinstance(node.func, ast.Name) else ast.unparse(node.func)
    if name not in classes:
        known = ", ".join(classes)
        raise ValueError(f"{form}: {_check.said(name)} is unknown{_check.closest(name, classes)}; known: {known}.")
    for word, times in Counter(keyword.arg for keyword in node.keywords).items():
        if word is None or times > 1:
            came = "two stars" if word is None else f"{_check.said(word)} twice"
            raise ValueError(f"{form}: {name} has {came} among its arguments; name each once.")
    signature = inspect.signature(classes[name])
    try:
        signature.bind(*node.args, **{str(keyword.arg): keyword.value for keyword in node.keywords})
    except TypeError as error:
        raise ValueError(f"{form}: {name} has {error}; its arguments are {signature}.") from None
    given = (*node.args, *(word.value for word in node.keywords))
    nested = any(isinstance(part, (ast.Call, ast.Name)) for value in given for part in (value, *getattr(value, "elts", ())))
    known = {cls.__name__: cls for base in inner for cls in concrete(base)} if nested else {}
    positional = [_build(arg, known, form, inner) for arg in node.args]
    named = {str(keyword.arg): _build(keyword.value, known, form, inner) for keyword in node.keywords}
    return classes[name](*positional, **named)


class NotPlainError(ValueError):
    """A value in a text or a file that no prior could have."""


def plain(value: Any, depth: int = 0) -> Any:
    """A value as a text or a file may give it, lists as tuples: a number in floating-point range, True, False, None, a text.

    Raises:
        NotPlainError: If it is anything else, or nested too deep.

    >>> plain([1, [2.5, "a"]])
    (1, (2.5, 'a'))
    """
    if isinstance(value, (list, tuple)) and depth < MAX_DEPTH:
        return tuple(plain(entry, depth + 1) for entry in value)
    if isinstance(value, (bool, float, str)) or value is None:
        return value
    if isinstance(value, int):
        if abs(value) > sys.float_info.max:
            raise NotPlainError(f"{_check.said(value)} is beyond {sys.float_info.max:.2g}, the largest number there is")
        return value
    raise NotPlainError(f"{_check.said(value)} is neither a number nor a text")
