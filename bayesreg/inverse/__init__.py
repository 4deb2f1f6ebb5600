"""Inverse problems: what data can say of x, and how strong the penalty should be."""

from bayesreg.inverse.analysis import Analysis, analyse
from bayesreg.inverse.answer import Answer, judge
from bayesreg.inverse.choice import Choice, choose
from bayesreg.inverse.priors_compared import PriorComparison, compare_priors
from bayesreg.inverse.rules import AbstractRule
from bayesreg.inverse.setting import MOST
from bayesreg.inverse.spectrum import Measured, Spectrum

__all__ = [
    "MOST",
    "AbstractRule",
    "Analysis",
    "Answer",
    "Choice",
    "Measured",
    "PriorComparison",
    "Spectrum",
    "analyse",
    "choose",
    "compare_priors",
    "judge",
]
