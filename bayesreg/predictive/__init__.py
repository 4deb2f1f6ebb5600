"""The predictive distribution p(y | x, data), evaluated as a mixture and not by sampling y."""

from bayesreg.predictive.mixture import Predictive, tails
from bayesreg.predictive.normal_function import NormalFunction

__all__ = ["NormalFunction", "Predictive", "tails"]
