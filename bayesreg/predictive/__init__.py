"""The predictive distribution p(y | x, data), evaluated as a mixture and not by sampling y."""

from bayesreg.predictive.mixture import Predictive, tails
from bayesreg.predictive.normal_function import NormalFunction
from bayesreg.predictive.probabilities import ClassProbabilities

__all__ = ["ClassProbabilities", "NormalFunction", "Predictive", "tails"]
