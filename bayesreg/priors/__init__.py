"""Priors of one tensor. Every class here is a regulariser under its Bayesian name."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from bayesreg import _catalog, _check
from bayesreg.priors.base import AbstractElementwisePrior, AbstractPrior, AbstractTensorPrior, fields_of
from bayesreg.priors.base import shown as shown
from bayesreg.priors.base import stack as stack
from bayesreg.priors.base import stackable as stackable
from bayesreg.priors.densities import ElasticNet, Fixed, Flat, Laplace, Normal
from bayesreg.priors.fields import Smooth, TotalVariation
from bayesreg.priors.from_tools import AbstractTools as AbstractTools
from bayesreg.priors.groups import GroupHorseshoe, GroupLasso, MultivariateNormal
from bayesreg.priors.heavy_tailed import Cauchy, GeneralizedNormal, StudentT
from bayesreg.priors.numeric import ends as ends
from bayesreg.priors.positive import Exponential, Gamma, HalfCauchy, HalfNormal, HalfStudentT
from bayesreg.priors.ranges import InverseGamma, LogNormal, LogUniform, Uniform
from bayesreg.priors.scaled import AbstractScaledElementwisePrior, AbstractScaledPrior
from bayesreg.priors.sparse import Horseshoe, RegularizedHorseshoe, ScaleMixture, SpikeSlab
from bayesreg.priors.truncated import Positive
from bayesreg.priors.values import log as log

__all__ = [
    "AbstractElementwisePrior",
    "AbstractPrior",
    "AbstractScaledElementwisePrior",
    "AbstractScaledPrior",
    "AbstractTensorPrior",
    "Cauchy",
    "ElasticNet",
    "Exponential",
    "Fixed",
    "Flat",
    "Gamma",
    "GeneralizedNormal",
    "GroupHorseshoe",
    "GroupLasso",
    "HalfCauchy",
    "HalfNormal",
    "HalfStudentT",
    "Horseshoe",
    "InverseGamma",
    "Laplace",
    "LogNormal",
    "LogUniform",
    "MultivariateNormal",
    "Normal",
    "Positive",
    "RegularizedHorseshoe",
    "ScaleMixture",
    "Smooth",
    "SpikeSlab",
    "StudentT",
    "TotalVariation",
    "Uniform",
    "from_dict",
    "parse",
    "to_dict",
]


def parse(text: str) -> AbstractPrior:
    """Read a prior from its text, the inverse of `repr(prior)`.

    Only a class name of this package with plain numbers is read; nothing is executed.

    Args:
        text: For example "Laplace(scale=0.1)", "Normal(1.0, fan_in=True)" or "Flat".

    Returns:
        The prior.

    Raises:
        ValueError: If the text is not of that form, the name unknown (the closest are named) or an argument wrong.

    >>> parse("Normal(1.0, fan_in=True)")
    Normal(scale=1.0, fan_in=True)
    """
    return _catalog.parse(text, AbstractPrior, "a prior", "Normal(0.5) or Laplace(scale=0.1)", AbstractPrior)


def to_dict(prior: AbstractPrior) -> dict[str, Any]:
    """A prior as plain values, for a TOML or JSON file; the inverse of `from_dict`.

    Args:
        prior: Any prior whose numbers are plain.

    Returns:
        Its class's name under "prior", and the fields that differ from their defaults.

    >>> to_dict(Normal(HalfCauchy(1.0), per="column"))
    {'prior': 'Normal', 'scale': {'prior': 'HalfCauchy', 'scale': 1.0}, 'per': 'column'}
    """
    values = {f.name: getattr(prior, f.name) for f in fields_of(prior) if getattr(prior, f.name) != f.default}
    plain = {name: to_dict(value) if isinstance(value, AbstractPrior) else value for name, value in values.items()}
    return {"prior": type(prior).__name__, **plain}


def from_dict(values: str | Mapping[str, Any]) -> AbstractPrior:
    """A prior from plain values, as a TOML or JSON file has them.

    Args:
        values: The prior's text, or {"prior": class name, field: value, ...}, where a value may be such a mapping again.

    Returns:
        The prior.

    Raises:
        ValueError: If the class or a key is unknown (the closest are named), or a value out of its range.

    >>> from_dict({"prior": "Normal", "scale": {"prior": "HalfCauchy", "scale": 1.0}, "per": "column"})
    Normal(scale=HalfCauchy(scale=1.0), per='column')
    """
    return _from_dict(values, 0)


def _from_dict(values: Any, depth: int) -> AbstractPrior:
    if isinstance(values, AbstractPrior):
        return values
    if isinstance(values, str):
        return parse(values)
    if not isinstance(values, Mapping) or not isinstance(values.get("prior"), str) or depth > _catalog.MAX_DEPTH:
        raise ValueError(
            f"a prior must be a text or a mapping with its class under 'prior', nested at most {_catalog.MAX_DEPTH} deep, but "
            f"{_check.said(values)} came; write for example 'Normal(scale=0.5)' or {{'prior': 'Normal', 'scale': 0.5}}."
        )
    classes: dict[str, Any] = {cls.__name__: cls for cls in _catalog.concrete(AbstractPrior)}
    name = _check.one_of("a prior", values["prior"], classes)
    known = list(inspect.signature(classes[name]).parameters)
    fields = {}
    for key, value in values.items():
        if key != "prior" and key not in known:
            near = _check.closest(str(key), known)
            raise ValueError(f"{name} must have keys among {', '.join(known)}, but {_check.said(key)} came{near}; correct it.")
        if key != "prior":
            fields[key] = _from_dict(value, depth + 1) if isinstance(value, Mapping) else _plain(name, key, value)
    return classes[name](**fields)


def _plain(name: str, key: str, value: Any) -> Any:
    try:
        return _catalog.plain(value) if not isinstance(value, AbstractPrior) else value
    except _catalog.NotPlainError as error:
        raise ValueError(f"{key} of {name} must be a number, a text or a list of numbers, but {error}; correct it.") from None


_catalog.load_files(__name__, __path__)


def __getattr__(name: str) -> Any:
    """A prior from a file that is not imported above."""
    return _catalog.named(__name__, AbstractPrior, name)
