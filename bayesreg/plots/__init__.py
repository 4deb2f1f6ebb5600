"""Figures, each a `matplotlib.figure.Figure` of its own: of priors, of a fit and of its predictions.

No pyplot, no window, no setting that outlives the call: a figure can be shown in a notebook, saved, or put into a report.
Colour never carries information alone: a marker's shape, its position or a word says the same.
"""

from bayesreg.plots.fits import coverage, history, parameters, pit, predictions, reliability, variance_parts
from bayesreg.plots.inverse_problems import filter_factors, l_curve, penalty_weights, picard
from bayesreg.plots.level import level_sets
from bayesreg.plots.palette import ALEATORIC, BAD, EPISTEMIC, GRID, INK, MUTED, PAPER, SERIES, styled
from bayesreg.plots.paths import path
from bayesreg.plots.prior import prior_predictive, priors
from bayesreg.plots.readings import map_of_two, posterior_mean
from bayesreg.plots.reconstructions import directions, reconstruction

__all__ = [
    "ALEATORIC",
    "BAD",
    "EPISTEMIC",
    "GRID",
    "INK",
    "MUTED",
    "PAPER",
    "SERIES",
    "coverage",
    "directions",
    "filter_factors",
    "history",
    "l_curve",
    "level_sets",
    "map_of_two",
    "parameters",
    "path",
    "penalty_weights",
    "picard",
    "pit",
    "posterior_mean",
    "predictions",
    "prior_predictive",
    "priors",
    "reconstruction",
    "reliability",
    "styled",
    "variance_parts",
]
