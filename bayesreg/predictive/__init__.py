"""Draws of p(y | x, data), read exactly and not by sampling."""

from bayesreg.predictive.mixture import Predictive, tails
from bayesreg.predictive.normal_function import NormalFunction

__all__ = ["NormalFunction", "Predictive", "tails"]
