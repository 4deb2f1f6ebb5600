"""What is assumed about the noise: the loss a network is trained on, under its Bayesian name.

    squared error = Gaussian        cross-entropy on two classes = Bernoulli        cross-entropy = Categorical
    deviance of counts = Poisson, NegativeBinomial        of positive numbers = Gamma, LogNormal        robust = StudentT

A new likelihood is one class, here or in a user's file: its Pyro distribution, and those methods of `AbstractLikelihood` that
have a better answer than the default, which is derived from that distribution.
"""

from __future__ import annotations

from typing import Any

from bayesreg import _catalog
from bayesreg.likelihoods.base import AbstractLabels, AbstractLikelihood
from bayesreg.likelihoods.choice import Choice, choose
from bayesreg.likelihoods.counts import AbstractCounts
from bayesreg.likelihoods.gamma import Gamma
from bayesreg.likelihoods.gaussian import Gaussian
from bayesreg.likelihoods.gaussian_per_output import GaussianPerOutput
from bayesreg.likelihoods.heteroscedastic import HeteroscedasticGaussian
from bayesreg.likelihoods.labels import Bernoulli, Categorical
from bayesreg.likelihoods.log_normal import LogNormal
from bayesreg.likelihoods.negative_binomial import NegativeBinomial
from bayesreg.likelihoods.ordinal import Ordinal
from bayesreg.likelihoods.poisson import Poisson
from bayesreg.likelihoods.student_t import StudentT
from bayesreg.priors import AbstractPrior

__all__ = [
    "AbstractCounts",
    "AbstractLabels",
    "AbstractLikelihood",
    "Bernoulli",
    "Categorical",
    "Choice",
    "Gamma",
    "Gaussian",
    "GaussianPerOutput",
    "HeteroscedasticGaussian",
    "LogNormal",
    "NegativeBinomial",
    "Ordinal",
    "Poisson",
    "StudentT",
    "choose",
    "parse",
    "suiting",
]


def parse(text: str) -> AbstractLikelihood:
    """Read a likelihood from its text, the inverse of `repr(likelihood)`.

    Args:
        text: For example "Gaussian(noise_scale=HalfNormal(1.0))" or "Bernoulli()".

    Returns:
        The likelihood.

    Raises:
        ValueError: If the text is not of that form, a name unknown or an argument wrong.

    >>> parse("Gaussian(noise_scale=HalfNormal(scale=2.0))")
    Gaussian(noise_scale=HalfNormal(scale=2.0))
    """
    return _catalog.parse(text, AbstractLikelihood, "a likelihood", "Gaussian(noise_scale=0.5)", AbstractPrior)


def suiting(num_classes: int | None) -> AbstractLikelihood:
    """The default likelihood of a target.

    Args:
        num_classes: Classes of the target; None for numbers.

    Returns:
        The likelihood.

    >>> suiting(None), suiting(2), suiting(3)
    (Gaussian(noise_scale=HalfNormal(scale=1.0)), Bernoulli(), Categorical())
    """
    found: list[Any] = _catalog.concrete(AbstractLikelihood)
    return next(made for made in (cls() for cls in found if cls.is_default) if made.suits(num_classes))


_catalog.load_files(__name__, __path__)


def __getattr__(name: str) -> Any:
    """A likelihood from a file that is not imported above."""
    return _catalog.named(__name__, AbstractLikelihood, name)
