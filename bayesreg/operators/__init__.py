"""Forward maps of inverse problems: b = F(x) + noise, each linear one with its adjoint."""

from typing import Any

from bayesreg import _catalog
from bayesreg.operators.base import AbstractLinearOperator, AbstractOperator, Composition, Scaled, Sum, Transposed
from bayesreg.operators.convolution import Convolution1d, Convolution2d, gaussian_kernel
from bayesreg.operators.dense import Dense
from bayesreg.operators.difference import Difference
from bayesreg.operators.identity import Identity
from bayesreg.operators.mask import Mask
from bayesreg.operators.nonlinear import Nonlinear
from bayesreg.operators.observed import Observed
from bayesreg.operators.outside import FromLinearOperator
from bayesreg.operators.radon import Radon
from bayesreg.operators.stack import Stack

__all__ = [
    "AbstractLinearOperator",
    "AbstractOperator",
    "Composition",
    "Convolution1d",
    "Convolution2d",
    "Dense",
    "Difference",
    "FromLinearOperator",
    "Identity",
    "Mask",
    "Nonlinear",
    "Observed",
    "Radon",
    "Scaled",
    "Stack",
    "Sum",
    "Transposed",
    "gaussian_kernel",
]

_catalog.load_files(__name__, __path__)


def __getattr__(name: str) -> Any:
    """An operator from a file that is not named above."""
    return _catalog.named(__name__, AbstractOperator, name)
