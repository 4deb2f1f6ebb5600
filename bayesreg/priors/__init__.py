"""What may be assumed about one tensor. Every class here is a regulariser under its Bayesian name."""

from __future__ import annotations

from typing import Any

from bayesreg import _catalog
from bayesreg.priors.base import AbstractElementwisePrior, AbstractPrior
from bayesreg.priors.densities import Flat, Laplace, Normal
from bayesreg.priors.positive import Exponential, Gamma, HalfCauchy, HalfNormal

__all__ = [
    "AbstractElementwisePrior",
    "AbstractPrior",
    "Exponential",
    "Flat",
    "Gamma",
    "HalfCauchy",
    "HalfNormal",
    "Laplace",
    "Normal",
    "parse",
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
    return _catalog.parse(text, AbstractPrior, "a prior", "Normal(0.5) or Laplace(scale=0.1)")


_catalog.load_files(__name__, __path__)


def __getattr__(name: str) -> Any:
    """A prior from a file that is not named above."""
    return _catalog.named(__name__, AbstractPrior, name)
