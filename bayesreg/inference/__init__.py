"""Ways from a model and data to a posterior. Each is one file; the class tree is the registry."""

from typing import Any

from bayesreg import _catalog
from bayesreg.inference.base import AbstractMethod, ConvergenceWarning, fit
from bayesreg.inference.batchnorm import MCBatchNorm
from bayesreg.inference.dropout import MCDropout
from bayesreg.inference.exact import Exact
from bayesreg.inference.laplace import LaplaceApproximation
from bayesreg.inference.loop import FitError
from bayesreg.inference.map import MAP
from bayesreg.inference.mean_field import MeanField

__all__ = [
    "MAP",
    "AbstractMethod",
    "ConvergenceWarning",
    "Exact",
    "FitError",
    "LaplaceApproximation",
    "MCBatchNorm",
    "MCDropout",
    "MeanField",
    "fit",
]

_catalog.load_files(__name__, __path__)


def __getattr__(name: str) -> Any:
    """A method from a file that is not named above."""
    return _catalog.named(__name__, AbstractMethod, name)
