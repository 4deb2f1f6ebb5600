"""What a check of a fit can come to."""

from __future__ import annotations

import enum


class Outcome(enum.StrEnum):
    """The verdict on a fit; `words` has a sentence for each.

    The first ones pass, as `converged` says; all others do not.
    """

    CONVERGED = "converged"  # to a mode: a Newton step would gain next to nothing
    CONVERGED_ON_KINK = "converged on a kink"  # to a mode where pieces of the network meet: a further search gains nothing
    CONVERGED_BY_DUALITY = "converged by duality"  # to the mode, proved by the duality gap
    ELBO_LEVEL = "elbo level"  # the ELBO stopped rising
    ELBO_MAXIMAL = "elbo maximal"  # it stopped rising, and its gradient vanishes
    EXACT = "exact"  # a closed form, with digits enough
    CHECK_PASSED = "check passed"  # of a method that brings a check of its own
    NOT_CONVERGED = "not converged"  # a Newton step or a further search still gains
    CLIMB_UNFINISHED = "climb unfinished"  # it gains little for so many unknowns, but a good part of what was climbed
    GAP_OPEN = "gap open"  # a linear problem whose duality gap is above the tolerance
    BELOW_START = "below start"
    NOT_MOVED = "not moved"
    NOT_FINITE = "not finite"  # the log-joint or its gradient is not a number
    SADDLE = "saddle"
    UNBOUNDED = "unbounded"  # the search ran to where the density has no maximum
    NEARLY_UNBOUNDED = "nearly unbounded"  # it is on its way there, or nothing but the prior holds it
    NOISE_VANISHING = "noise vanishing"  # a later look: the learned noise is on its way to zero
    OTHER_OBJECTIVE = "other objective"  # training followed another one than is evaluated
    NOT_JUDGED = "not judged"  # the network lacks what a check asks of it
    STOPPED_EARLY = "stopped early"  # at the best point on held-out rows
    FAILED = "failed"  # the last good point of a search that could not go on
    TOO_FEW_STEPS = "too few steps"
    ELBO_RISING = "elbo rising"
    ELBO_SLOPE = "elbo slope"  # a step along its gradient still gains
    FEW_DIGITS = "few digits"  # too few digits of a closed form hold
    ROUNDED = "rounded"  # the module's type moves a closed form
    COVARIANCE_LOOSE = "covariance loose"  # a later look: too few digits of the covariance about a mode hold
    CHECK_FAILED = "check failed"

    @property
    def converged(self) -> bool:
        """Whether the check was passed."""
        return self in _PASSED


_PASSED = frozenset(
    (
        Outcome.CONVERGED,
        Outcome.CONVERGED_ON_KINK,
        Outcome.CONVERGED_BY_DUALITY,
        Outcome.ELBO_LEVEL,
        Outcome.ELBO_MAXIMAL,
        Outcome.EXACT,
        Outcome.CHECK_PASSED,
    )
)
