"""The possible verdicts on a fit."""

from __future__ import annotations

import enum


class Outcome(enum.StrEnum):
    """The verdict on a fit."""

    CONVERGED = "converged"  # the check was passed
    CONVERGED_IN_FUNCTION = "converged in function space"  # predictions can be believed, single weights need not
    SADDLE = "saddle"  # a direction leads higher though the gradient vanishes
    UNBOUNDED = "unbounded"  # the density has no maximum where the search went, or the learned noise vanishes
    STOPPED_EARLY = "stopped early"  # the best point on held-out rows, which need not be a mode
    NOT_CONVERGED = "not converged"  # something is left to gain
    NOT_CERTIFIED = "not certified"  # what was fitted cannot be judged by what is evaluated, or too little was seen
    FAILED = "failed"  # the last good point of a search that could not go on


class Finding(enum.StrEnum):
    """What exactly a check found; `words` has a sentence for each, `outcome` says what kind of verdict it is."""

    CONVERGED = "converged"  # to a mode: a Newton step would gain next to nothing
    CONVERGED_ON_KINK = "converged on a kink"  # to a mode where pieces of the network meet: a further search gains nothing
    CONVERGED_BY_DUALITY = "converged by duality"  # to the mode, proved by the duality gap
    ELBO_LEVEL = "elbo level"  # the ELBO stopped rising
    ELBO_MAXIMAL = "elbo maximal"  # it stopped rising, and its gradient vanishes
    EXACT = "exact"  # a closed form, with digits enough
    CHECK_PASSED = "check passed"  # by the method's own check
    NOT_CONVERGED = "not converged"  # a Newton step or a further search still gains
    CLIMB_UNFINISHED = "climb unfinished"  # the gain left is small for so many unknowns, but large beside the whole climb
    GAP_OPEN = "gap open"  # a linear problem whose duality gap is above the tolerance
    BELOW_START = "below start"
    NOT_MOVED = "not moved"
    NOT_FINITE = "not finite"  # the log-joint or its gradient is not a number
    SADDLE = "saddle"
    UNBOUNDED = "unbounded"  # the search ran to where the density has no maximum
    NEARLY_UNBOUNDED = "nearly unbounded"  # the search is going there, or only the prior bounds it
    NOISE_VANISHING = "noise vanishing"  # a later check: the learned noise runs to zero
    OTHER_OBJECTIVE = "other objective"  # training followed another objective than evaluation's
    NOT_LOOKED = "not looked"  # a check that would tell costs more than it may
    UNCHECKED = "unchecked"  # nobody asked for a check
    NOT_JUDGED = "not judged"  # the network does not support what the check needs
    STOPPED_EARLY = "stopped early"  # at the best point on held-out rows
    FAILED = "failed"  # the last good point of a search that could not go on
    TOO_FEW_STEPS = "too few steps"
    ELBO_RISING = "elbo rising"
    ELBO_SLOPE = "elbo slope"  # a step along its gradient still gains
    FEW_DIGITS = "few digits"  # too few digits of a closed form hold
    ROUNDED = "rounded"  # rounding to the module's type changes a closed form
    COVARIANCE_LOOSE = "covariance loose"  # a later check: too few digits of the covariance about a mode hold
    EVIDENCE_RISING = "evidence rising"  # a later check: other scales of the priors still have a higher evidence
    CHECK_FAILED = "check failed"
    MIXED = "mixed"  # chains agree, with draws enough
    MIXED_IN_FUNCTION = "mixed in function space"  # on predictions, not on single weights, which have symmetric modes
    MIXED_IN_PREDICTION = "mixed in prediction"  # members of an ensemble predict the same y, noise included
    NOT_MIXED = "not mixed"
    SEPARATE = "separate"  # members of an ensemble of chains, each in a region of its own that predicts otherwise
    DIVERGING = "diverging"  # steps of a sampler that left the level of the density
    FEW_DRAWS = "few draws"  # too few to be judged
    CUT_SHORT = "cut short"  # a sampler that was stopped

    @property
    def outcome(self) -> Outcome:
        """The kind of verdict that it is."""
        return _KINDS.get(self, Outcome.NOT_CONVERGED)


_KINDS = {
    **dict.fromkeys((Finding.CONVERGED, Finding.CONVERGED_ON_KINK, Finding.CONVERGED_BY_DUALITY), Outcome.CONVERGED),
    **dict.fromkeys((Finding.ELBO_LEVEL, Finding.ELBO_MAXIMAL, Finding.EXACT, Finding.CHECK_PASSED), Outcome.CONVERGED),
    Finding.SADDLE: Outcome.SADDLE,
    **dict.fromkeys((Finding.UNBOUNDED, Finding.NEARLY_UNBOUNDED, Finding.NOISE_VANISHING), Outcome.UNBOUNDED),
    Finding.STOPPED_EARLY: Outcome.STOPPED_EARLY,
    **dict.fromkeys((Finding.OTHER_OBJECTIVE, Finding.NOT_JUDGED, Finding.TOO_FEW_STEPS), Outcome.NOT_CERTIFIED),
    **dict.fromkeys((Finding.NOT_LOOKED, Finding.UNCHECKED), Outcome.NOT_CERTIFIED),
    **dict.fromkeys((Finding.FAILED, Finding.NOT_FINITE), Outcome.FAILED),
    Finding.MIXED: Outcome.CONVERGED,
    **dict.fromkeys((Finding.MIXED_IN_FUNCTION, Finding.MIXED_IN_PREDICTION), Outcome.CONVERGED_IN_FUNCTION),
    **dict.fromkeys((Finding.FEW_DRAWS, Finding.CUT_SHORT, Finding.SEPARATE), Outcome.NOT_CERTIFIED),
}
