"""Measures of a predictive distribution on observed data."""

from bayesreg._text import column, percent
from bayesreg.metrics.measures import (
    LEVELS,
    accuracy,
    auc,
    brier,
    calibration_error,
    coverage,
    crps,
    ece,
    evaluate,
    interval_score,
    mae,
    mean_width,
    mlpd,
    pit,
    r2,
    rmse,
)
from bayesreg.metrics.monte_carlo import log_density_error
from bayesreg.metrics.readings import take, variance_rows
from bayesreg.metrics.scores import Coverage, Scores

__all__ = [
    "LEVELS",
    "Coverage",
    "Scores",
    "accuracy",
    "auc",
    "brier",
    "calibration_error",
    "column",
    "coverage",
    "crps",
    "ece",
    "evaluate",
    "interval_score",
    "log_density_error",
    "mae",
    "mean_width",
    "mlpd",
    "percent",
    "pit",
    "r2",
    "rmse",
    "take",
    "variance_rows",
]
