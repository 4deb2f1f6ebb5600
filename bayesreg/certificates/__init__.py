"""Checks of a fit: whether its answer can be believed, and the numbers behind that."""

from bayesreg.certificates.certificate import Certificate
from bayesreg.certificates.effort import first_look
from bayesreg.certificates.elbo import maximal, rise, with_elbos
from bayesreg.certificates.elbo import with_collapse as with_collapse
from bayesreg.certificates.has_mode import check_has_mode
from bayesreg.certificates.importance import of_draws, pareto_smoothed
from bayesreg.certificates.mixing import agreement, bfmi, of_chains
from bayesreg.certificates.mode import certify
from bayesreg.certificates.optimality import measure
from bayesreg.certificates.outcome import Finding, Outcome
from bayesreg.certificates.values import (
    Agreement,
    Alike,
    Cause,
    Covariance,
    Elbo,
    Importance,
    Lengths,
    Mixing,
    NoMode,
    Point,
    Restarts,
    Training,
)
from bayesreg.certificates.words import ADDED, VERDICTS, Advice, sentence
from bayesreg.objective.freedom import used_up

__all__ = [
    "ADDED",
    "VERDICTS",
    "Advice",
    "Agreement",
    "Alike",
    "Cause",
    "Certificate",
    "Covariance",
    "Elbo",
    "Finding",
    "Importance",
    "Lengths",
    "Mixing",
    "NoMode",
    "Outcome",
    "Point",
    "Restarts",
    "Training",
    "agreement",
    "bfmi",
    "certify",
    "check_has_mode",
    "first_look",
    "maximal",
    "measure",
    "of_chains",
    "of_draws",
    "pareto_smoothed",
    "rise",
    "sentence",
    "used_up",
    "with_elbos",
]
