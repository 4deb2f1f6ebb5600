"""`prior__scale`: one number inside a prior, a likelihood or a method, reached by name, so that a search can vary it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from bayesreg import _check, likelihoods, priors
from bayesreg._text import some
from bayesreg.inference import AbstractMethod
from bayesreg.inference.base import resolve
from bayesreg.likelihoods import AbstractLikelihood
from bayesreg.model.spec import PriorSpec
from bayesreg.priors import AbstractPrior

_READ: dict[str, Any] = {"prior": priors.parse, "likelihood": likelihoods.parse, "method": resolve}
NESTED = tuple(_READ)  # parameters of an estimator that have settings of their own
_EXAMPLE = {
    "prior": "prior='Normal(1.0, fan_in=True)'",
    "likelihood": "likelihood='Gaussian(1.0)'",
    "method": "method=inference.MAP()",
}
_JOIN = "__"


def read(what: str, given: Any) -> Any:
    """An object from its text or name; rules with each prior as an object; anything else as it is.

    >>> read("prior", {"*.weight": "Normal(2.0)"})
    {'*.weight': Normal(scale=2.0)}
    """
    if isinstance(given, str):
        return _READ[what](given)
    if isinstance(given, Mapping):
        return {pattern: read(what, prior) for pattern, prior in given.items()}
    return dict(given.rules) if isinstance(given, PriorSpec) else given


def settings_of(what: str, given: Any) -> dict[str, Any]:
    """Every setting inside a parameter, by the name that `set_params` takes, without the parameter's own.

    >>> settings_of("prior", "Normal(2.0)")["scale"], list(settings_of("likelihood", "Gaussian(HalfNormal(1.0))"))[:2]
    (2.0, ['noise_scale', 'noise_scale__scale'])
    """
    found = {}
    try:
        known = _inside(read(what, given))
    except ValueError:  # a text that names nothing, which is told by whoever uses it
        return {}
    for name, value in known.items():
        found[name] = value
        found |= {f"{name}{_JOIN}{rest}": inner for rest, inner in settings_of(what, value).items()} if _has(value) else {}
    return {name: value for name, value in found.items() if name.rpartition(_JOIN)[2] != "tag"}


def changed(what: str, given: Any, path: str, value: Any) -> Any:
    """The parameter with one setting changed, as a new object.

    Args:
        what: The parameter: "prior", "likelihood" or "method".
        given: What it is.
        path: The setting's name; for rules the pattern comes first: "*.weight__scale".
        value: The setting's new value.

    Raises:
        ValueError: If there is no such setting.

    >>> changed("prior", "Normal(1.0, fan_in=True)", "scale", 0.5)
    Normal(scale=0.5, fan_in=True)
    >>> changed("prior", {"*.weight": "Laplace(1.0)"}, "*.weight__scale", 0.5)
    {'*.weight': Laplace(scale=0.5)}
    """
    if given is None:
        raise ValueError(f"{what}{_JOIN}{path} needs a {what} to change, but {what}=None came; pass {_EXAMPLE[what]}.")
    made = read(what, given)
    known = _inside(made)
    name = max((n for n in known if path == n or path.startswith(n + _JOIN)), key=len, default="")
    if not name:
        named = some([f"{what}{_JOIN}{n}" for n in settings_of(what, made)]) or "none of its own"
        near = _check.closest(path, known)
        raise ValueError(f"{what}{_JOIN}{path} must name a setting of {made!r} ({named}), but it is none{near}; correct it.")
    rest = path[len(name) + len(_JOIN) :]
    new = {**known, name: changed(what, known[name], rest, value) if rest else value}
    return new if isinstance(made, Mapping) else type(made)(**new)


def _has(value: Any) -> bool:
    return isinstance(value, (AbstractPrior, AbstractLikelihood, AbstractMethod, Mapping))


def _inside(given: Any) -> dict[str, Any]:
    """An object's arguments by name, none where it does not keep them; rules by their pattern."""
    if isinstance(given, Mapping):
        return {pattern: prior for pattern, prior in given.items() if isinstance(pattern, str)}
    if not _has(given):
        return {}
    names, held = inspect.signature(type(given)).parameters, vars(given)
    return {name: held[name] for name in names} if all(name in held for name in names) else {}
