"""Whether a fit can be believed: a verdict, and the numbers behind it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

from bayesreg.certificates import words
from bayesreg.certificates.outcome import Finding, Outcome
from bayesreg.certificates.values import (
    Alike,
    ClosedForm,
    Covariance,
    Elbo,
    Failure,
    Importance,
    Lengths,
    Mixing,
    NoMode,
    OwnCheck,
    Point,
    Restarts,
    Training,
    Tuned,
    VanishingNoise,
)


@dataclasses.dataclass(frozen=True)
class Certificate:
    """Whether a fit can be believed, and why. Values decide; `sentence` and `details` are made from them, for people.

    Attributes:
        finding: What the check found.
        overruled: Findings that a later look overruled, the first one first.
        point: What was measured at a mode.
        no_mode: Why there is no usable mode.
        training: How training differed from evaluation.
        elbo: How the ELBO's trend ended.
        closed_form: How many digits of a closed form hold.
        failure: What went wrong.
        check: The method's own check.
        restarts: How many starts agree.
        lengths: Norms of weights whose scale no prediction depends on.
        alike: Set where the prediction is the same for every row.
        covariance: The accuracy of the covariance about a mode.
        importance: How well an approximation covers the posterior.
        tuned: How the search for the scales of the highest evidence ended.
        noise: Set where a learned noise scale runs to zero.
        mixing: How well Markov chains mixed.
    """

    finding: Finding
    overruled: tuple[Finding, ...] = ()
    point: Point | None = None
    no_mode: NoMode | None = None
    training: Training | None = None
    elbo: Elbo | None = None
    closed_form: ClosedForm | None = None
    failure: Failure | None = None
    check: OwnCheck | None = None
    restarts: Restarts | None = None
    lengths: Lengths | None = None
    alike: Alike | None = None
    covariance: Covariance | None = None
    importance: Importance | None = None
    tuned: Tuned | None = None
    noise: VanishingNoise | None = None
    mixing: Mixing | None = None

    @classmethod
    def checked(cls, passed: bool, said: str, numbers: Mapping[str, float | str] | None = None) -> Certificate:
        """The certificate of a method with a check of its own: what it found in one sentence, with advice where not passed.

        Args:
            passed: Whether the fit passed it.
            said: What it found, one sentence, and what to do where it was not passed.
            numbers: Those behind it, by name.

        Returns:
            The certificate.

        >>> print(Certificate.checked(True, "Accepted 43% of the steps.", {"rate": 0.43}))
        Accepted 43% of the steps.
        """
        return cls(Finding.CHECK_PASSED if passed else Finding.CHECK_FAILED, check=OwnCheck(said, dict(numbers or {})))

    @property
    def outcome(self) -> Outcome:
        """The verdict: the kind that `finding` is of."""
        return self.finding.outcome

    @property
    def converged(self) -> bool:
        """Whether the check was passed; for chains, at least of their predictions."""
        return self.outcome in {Outcome.CONVERGED, Outcome.CONVERGED_IN_FUNCTION}

    @property
    def nats_left(self) -> float | None:
        """What is still to gain, in nats: by a Newton step at a mode, by a step along its gradient for an ELBO."""
        where = self.point or self.elbo
        return None if where is None else where.nats_to_gain

    @property
    def usable(self) -> bool:
        """True where the point is finite and the density bounded there, so that something can be built on it."""
        found = self.point is None or math.isfinite(self.point.log_joint)
        return found and not (self.no_mode is not None and self.no_mode.arrived)

    @property
    def sentence(self) -> str:
        """The verdict in words; says what to do when it was not passed."""
        return words.sentence(self)

    @property
    def details(self) -> dict[str, float | str]:
        """The numbers by their names in words, as a report shows them."""
        return words.numbers(self)

    def overrule(self, by: Finding) -> Certificate:
        """The same certificate under the verdict of a later check; the earlier verdict is kept."""
        return dataclasses.replace(self, finding=by, overruled=(*self.overruled, self.finding))

    def __str__(self) -> str:
        return self.sentence
