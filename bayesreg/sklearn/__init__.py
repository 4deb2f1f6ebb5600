"""Scikit-learn's interface: a table in, numbers with their uncertainty out.

BayesRegressor     numbers: Gaussian, StudentT, LogNormal, Gamma, ...
BayesClassifier    classes: Bernoulli, Categorical, Ordinal
BayesCounts        whole numbers >= 0: Poisson, NegativeBinomial
"""

from bayesreg.sklearn.base import AbstractBayes, log_score
from bayesreg.sklearn.estimators import AbstractNumbers, BayesClassifier, BayesCounts, BayesRegressor

__all__ = ["AbstractBayes", "AbstractNumbers", "BayesClassifier", "BayesCounts", "BayesRegressor", "log_score"]
