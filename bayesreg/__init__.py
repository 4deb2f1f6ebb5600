"""A regulariser is a prior: declare it, fit its mode as fast as plain PyTorch, fit its posterior, read what the mode hid.

−log p(θ | data) = Σᵢ −log p(yᵢ | xᵢ, θ) + −log p(θ) + const        loss in nats + penalty in nats
"""

from bayesreg import inference, layers, likelihoods, metrics, priors
from bayesreg.batch_statistics import refresh_batchnorm
from bayesreg.compare import Comparison, compare
from bayesreg.equivalents import equivalents
from bayesreg.inference import ConvergenceWarning, fit
from bayesreg.io import load, save
from bayesreg.model import BayesianModel
from bayesreg.path import path
from bayesreg.path_result import Path
from bayesreg.posterior import AbstractPosterior
from bayesreg.predictive import Predictive
from bayesreg.report.build import Report, report
from bayesreg.spec import PriorSpec
from bayesreg.stability import Stability, stability

__version__ = "0.1.0"
__all__ = [
    "AbstractPosterior",
    "BayesianModel",
    "Comparison",
    "ConvergenceWarning",
    "Path",
    "Predictive",
    "PriorSpec",
    "Report",
    "Stability",
    "compare",
    "equivalents",
    "fit",
    "inference",
    "layers",
    "likelihoods",
    "load",
    "metrics",
    "path",
    "priors",
    "refresh_batchnorm",
    "report",
    "save",
    "stability",
]
