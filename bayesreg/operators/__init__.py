"""Forward maps of inverse problems: b = F(x) + noise, each linear one with its adjoint."""

from bayesreg.operators.base import AbstractLinearOperator, AbstractOperator, Observed
from bayesreg.operators.dense import Dense

__all__ = ["AbstractLinearOperator", "AbstractOperator", "Dense", "Observed"]
