"""What is to be said of an approximation to a posterior: where its covariance comes from, and how well it covers."""

from __future__ import annotations

import math

from bayesreg.certificates.values import Covariance, Elbo, Importance, Tuned

_OVER = {"last-layer": " of the last layer", "subnetwork": " of a subnetwork"}


def covariance(found: Covariance) -> str:
    """The matrix that a covariance comes from, and what it leaves free."""
    over = _OVER.get(found.structure, "")
    said = f"Covariance{over} from the {found.curvature}; condition number {found.condition:.2g}."
    if found.free:
        said += (
            f" No prediction and no prior depends on a sum over classes of {found.free}: it is held at zero, and standard "
            "deviations are those of the differences from it."
        )
    return said


def covering(found: Importance) -> str:
    """Whether the approximation can be believed, by the Pareto shape of its importance weights."""
    if found.shape == -math.inf:
        return f"All of {found.num_draws:,} importance weights are alike: the approximation is the posterior."
    size = f"= {found.shape:.2f} of" if math.isfinite(found.shape) else "is infinite for"
    said = f"Pareto k̂ {size} {found.num_draws:,} importance weights"
    if found.shape <= min(0.5, found.limit):
        return f"{said}: the approximation covers the posterior."
    if found.reliable:
        return f"{said}: the approximation is usable, and importance weights can correct it."
    return (
        f"{said}, above {found.limit:.2f}: the approximation misses much of the posterior of the weights, and neither its "
        "evidence nor weighted draws can be trusted; predictions may still be good. A sampler (HMC) tells."
    )


def collapsed(found: Elbo) -> str:
    """How many weights, and hidden units, the data said nothing of.

    >>> print(collapsed(Elbo(1000, None, collapsed=120, collapsible=401, idle_units=30, units=50)))
    The posterior of 120 of 401 weights is their prior. 30 of 50 hidden units are idle: so are the weights into or out of them.
    >>> print(collapsed(Elbo(1000, None, collapsed=3, collapsible=401, units=50)))
    The posterior of 3 of 401 weights is their prior.
    """
    said = f"The posterior of {found.collapsed:,} of {found.collapsible:,} weights is their prior."
    if not found.idle_units:
        return said
    if found.idle_units == found.units:
        return f"{said} All hidden units are idle: the network has learned nothing from its inputs."
    return f"{said} {found.idle_units:,} of {found.units:,} hidden units are idle: so are the weights into or out of them."


def tuned(found: Tuned) -> str:
    """How the search for the scales of the highest evidence ended."""
    at = " at a fixed mode (MacKay's updates)" if found.fixed else ""
    what = "ELBO" if found.bound else "evidence"
    if found.maximal:
        said = f"The {what} is highest at the tuned scales{at}: less than {found.tolerance:.2g} nats are left to gain."
    else:
        said = (
            f"Not converged: other scales of the priors would gain about {found.gain:.2g} nats of {what}{at}; write the "
            "tuned scales into the priors and fit again."
        )
    if found.vanishing:
        one = len(found.vanishing) == 1
        said += (
            f" Of {', '.join(found.vanishing)} the {what} is highest at scale zero: the data do not need "
            f"{'it' if one else 'them'}."
        )
    return said


def numbers(taken: Covariance | None, weights: Importance | None, scales: Tuned | None) -> dict[str, float | str | None]:
    """What is known of these under plain names."""
    found: dict[str, float | str | None] = {}
    if taken is not None:
        found |= {"structure": taken.structure, "curvature": taken.curvature, "condition number": taken.condition}
    if weights is not None:
        found |= {"Pareto k": weights.shape, "importance draws": float(weights.num_draws)}
        found |= {"log evidence by importance": weights.log_evidence}
        found |= {"log evidence by importance, Monte Carlo error": weights.error}
    if scales is not None:
        found |= {"nats of evidence to gain": scales.gain, "steps in the scales": float(scales.steps)}
    return found
