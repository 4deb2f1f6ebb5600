"""Kinds of posterior: a point, a Gaussian, a guide, draws, masks; and how draws become predictions."""

from typing import Any

from bayesreg import _catalog
from bayesreg.posteriors.base import AbstractPosterior
from bayesreg.posteriors.dirac import Dirac
from bayesreg.posteriors.draws import Draws
from bayesreg.posteriors.gaussian import AbstractNormal, Gaussian
from bayesreg.posteriors.guide import Guide
from bayesreg.posteriors.guides import AbstractGuide, DeltaGuide, FlatELBO, MeanFieldGuide
from bayesreg.posteriors.low_rank import LowRankGaussian, moments_of_path, nearest
from bayesreg.posteriors.masks import Masks
from bayesreg.posteriors.matrix_free import MatrixFree
from bayesreg.posteriors.normal_guides import AbstractCorrelated, FullRankGuide, LowRankGuide
from bayesreg.posteriors.propagate import outputs
from bayesreg.posteriors.pyro_guide import PyroGuide
from bayesreg.posteriors.record import FitRecord, stopped
from bayesreg.posteriors.refreshed import WithStatistics, refresh_batchnorm
from bayesreg.posteriors.structured import BlockGaussian

__all__ = [
    "AbstractCorrelated",
    "AbstractGuide",
    "AbstractNormal",
    "AbstractPosterior",
    "BlockGaussian",
    "DeltaGuide",
    "Dirac",
    "Draws",
    "FitRecord",
    "FlatELBO",
    "FullRankGuide",
    "Gaussian",
    "Guide",
    "LowRankGaussian",
    "LowRankGuide",
    "Masks",
    "MatrixFree",
    "MeanFieldGuide",
    "PyroGuide",
    "WithStatistics",
    "moments_of_path",
    "nearest",
    "outputs",
    "refresh_batchnorm",
    "stopped",
]

_catalog.load_files(__name__, __path__)


def __getattr__(name: str) -> Any:
    """A kind of answer from a file that is not named above."""
    return _catalog.named(__name__, AbstractPosterior, name)
