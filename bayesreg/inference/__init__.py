"""Methods that fit a posterior to a model and data. Each is one file; the class tree is the registry."""

from typing import Any

from bayesreg import _catalog
from bayesreg.inference.auto import Auto
from bayesreg.inference.base import AbstractMethod, AbstractSampling, ConvergenceWarning, fit
from bayesreg.inference.base import methods as methods
from bayesreg.inference.base import resolve as resolve
from bayesreg.inference.ensemble import Ensemble
from bayesreg.inference.exact import Exact
from bayesreg.inference.full_rank import FullRank
from bayesreg.inference.full_rank import pairs_by_copy as pairs_by_copy
from bayesreg.inference.gibbs import Gibbs
from bayesreg.inference.guided import AbstractGuided
from bayesreg.inference.hmc import HMC
from bayesreg.inference.laplace import LaplaceApproximation
from bayesreg.inference.linear_part import divided as divided
from bayesreg.inference.linear_part import line_of as line_of
from bayesreg.inference.linear_part import log_scores as log_scores
from bayesreg.inference.linear_part import with_scale_by_folds as with_scale_by_folds
from bayesreg.inference.low_rank import LowRank
from bayesreg.inference.map import MAP
from bayesreg.inference.mc_batchnorm import MCBatchNorm
from bayesreg.inference.mc_dropout import DropoutBound as DropoutBound
from bayesreg.inference.mc_dropout import MCDropout
from bayesreg.inference.mclmc import MCLMC
from bayesreg.inference.mean_field import MeanField
from bayesreg.inference.mean_field import one_draw_step as one_draw_step
from bayesreg.inference.mile import MicrocanonicalEnsemble
from bayesreg.inference.nuts import NUTS
from bayesreg.inference.sghmc import SGHMC
from bayesreg.inference.svi import SVI
from bayesreg.inference.swag import SWAG
from bayesreg.inference.variational import AbstractVariational
from bayesreg.solvers.evidence_scales import Evidence
from bayesreg.solvers.failures import FitError

__all__ = [
    "HMC",
    "MAP",
    "MCLMC",
    "NUTS",
    "SGHMC",
    "SVI",
    "SWAG",
    "AbstractGuided",
    "AbstractMethod",
    "AbstractSampling",
    "AbstractVariational",
    "Auto",
    "ConvergenceWarning",
    "Ensemble",
    "Evidence",
    "Exact",
    "FitError",
    "FullRank",
    "Gibbs",
    "LaplaceApproximation",
    "LowRank",
    "MCBatchNorm",
    "MCDropout",
    "MeanField",
    "MicrocanonicalEnsemble",
    "fit",
]

_catalog.load_files(__name__, __path__)


def __getattr__(name: str) -> Any:
    """A method from a file that is not imported above."""
    return _catalog.named(__name__, AbstractMethod, name)
