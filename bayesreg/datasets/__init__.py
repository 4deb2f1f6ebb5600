"""Test problems whose truth is known."""

from bayesreg.datasets import inverse

__all__ = ["inverse"]
