"""The numbers behind a verdict, by what was looked at; None where a number was not asked for."""

from __future__ import annotations

import dataclasses
import enum
import math

from bayesreg.solvers.rising import Trend


@dataclasses.dataclass(frozen=True)
class Source:
    """The matrix and the rows behind a curvature.

    Attributes:
        matrix: "Hessian", "Gauss–Newton matrix", and how it was differentiated where that is not exact; empty where kinks hold
            every unknown, so that none was needed.
        rows: How many it was summed over.
        num_data: Of how many.

    >>> print(Source("Hessian", 442, 442), Source("Hessian", 32, 100_000), Source("", 0, 442), sep="; ")
    Hessian, all 442 rows; Hessian, 32 of 100,000 rows; none needed: kinks hold every unknown
    """

    matrix: str
    rows: int
    num_data: int

    def __str__(self) -> str:
        if not self.matrix:
            return "none needed: kinks hold every unknown"
        rows = f"all {self.num_data:,} rows" if self.rows >= self.num_data else f"{self.rows:,} of {self.num_data:,} rows"
        return f"{self.matrix}, {rows}"


@dataclasses.dataclass(frozen=True)
class Point:
    """What was measured at a candidate for a mode; in nats unless said otherwise.

    Attributes:
        tolerance: What may be left to gain: 1 % of P/2.
        space: Of the mode, "constrained" or "unconstrained".
        log_joint: There.
        duality_gap: An upper bound of what is left to gain.
        climbed: Since the start.
        nats_to_gain: What is left: ½ gᵀH⁻¹g, or the duality gap.
        violation: The largest of the first-order conditions, in posterior sds.
        nonsmooth: Whether a penalty has a kink, so that these are the KKT conditions and not the gradient.
        source: The curvature that was used.
        smallest_eigenvalue: Of minus the second derivative, over the unknowns that no kink holds, in nats over the square of an
            unknown's unit: below zero at a saddle; for many unknowns Lanczos's upper bound of it.
        along_curvature: What a straight line in a direction of negative curvature gains.
        by_further_search: What more steps gain in a piecewise linear network.
    """

    tolerance: float
    space: str
    log_joint: float = math.nan
    duality_gap: float | None = None
    climbed: float | None = None
    nats_to_gain: float | None = None
    violation: float | None = None
    nonsmooth: bool = False
    source: Source | None = None
    smallest_eigenvalue: float | None = None
    along_curvature: float | None = None
    by_further_search: float | None = None


class Cause(enum.StrEnum):
    """Why a log-joint has no maximum, or next to none."""

    CONSTANT_TARGET = "constant target"
    PERFECT_FIT = "perfect fit"
    ROWS_WITHOUT_NOISE = "rows without noise"
    ROWS_USED_UP = "rows used up"
    SEPARATED = "separated"


@dataclasses.dataclass(frozen=True)
class NoMode:
    """Why there is no mode that could be used.

    Attributes:
        cause: Of what kind.
        arrived: True where the search has run into it, and nothing can be built on the point; on the way there, or where the
            prior holds it, a curvature still means something.
        name: The noise, or the tensor with a flat prior.
        target: What all targets are.
        weights: How many well-determined weights use up the rows.
        num_data: N.
    """

    cause: Cause
    arrived: bool
    name: str = ""
    target: float | None = None
    weights: float | None = None
    num_data: int | None = None


class Followed(enum.StrEnum):
    """What a trend is the trend of."""

    LOG_JOINT = "batches' log joint"
    LOG_LIKELIHOOD = "batches' log-likelihood"


@dataclasses.dataclass(frozen=True)
class Training:
    """How training differed from evaluation.

    Attributes:
        layers: What made it differ, "dropout"; none where the network does so by itself.
        trend: How what it followed ended; None where steps were too few to tell.
        followed: What that was.
    """

    layers: tuple[str, ...]
    trend: Trend | None
    followed: Followed


@dataclasses.dataclass(frozen=True)
class Elbo:
    """How an ELBO ended.

    Attributes:
        num_steps: Of the search.
        trend: How it ended; None where steps are too few to tell.
        nats_to_gain: What a natural-gradient step would still add.
        error: Its Monte Carlo error.
        tolerance: What does not matter of it.
        of_batches: True where batch normalisation by mini-batches made it another ELBO than that of all rows.
    """

    num_steps: int
    trend: Trend | None
    nats_to_gain: float | None = None
    error: float | None = None
    tolerance: float | None = None
    of_batches: bool = False


@dataclasses.dataclass(frozen=True)
class ClosedForm:
    """How many digits of a closed form hold.

    Attributes:
        condition: The condition number κ.
        digits: Decimal digits that hold.
        rounding: What rounding to the module's type moves the posterior by, in sds.
        dtype: That type, "float32".
    """

    condition: float
    digits: int
    rounding: float
    dtype: str


@dataclasses.dataclass(frozen=True)
class Covariance:
    """What is known of a covariance about a mode.

    Attributes:
        curvature: What it was made from, "Hessian".
        condition: The condition number κ.
        digits: Decimal digits that hold.
        free: Unknowns whose sum over classes no prediction and no prior depends on, in words; empty for none.
    """

    curvature: str
    condition: float
    digits: int
    free: str = ""


@dataclasses.dataclass(frozen=True)
class Restarts:
    """How many starts reached as much as the best one.

    Attributes:
        count: Of them.
        agree: How many.
        spread: From the best to the worst that is finite, in nats.
        tolerance: Nats by which one may stay below the best and still agree with it.
    """

    count: int
    agree: int
    spread: float
    tolerance: float


@dataclasses.dataclass(frozen=True)
class Length:
    """The norm of a scale-invariant tensor, at the start of a fit and at its end."""

    name: str
    before: float
    after: float


@dataclasses.dataclass(frozen=True)
class Lengths:
    """What became of lengths that no prediction depends on.

    Attributes:
        tensors: One each.
        held: True where each output unit was held at norm 1.
    """

    tensors: tuple[Length, ...]
    held: bool


@dataclasses.dataclass(frozen=True)
class Alike:
    """A point that predicts the same for every row.

    Attributes:
        other_starts: How many were tried and led no higher.
        weight: How much more the data weighed in these at first.
        name: The tensor whose prior shrinks most what its layer hands on; empty where none shrinks.
        prior: That prior.
        gain: What its layer makes of the size of its input.
    """

    other_starts: int
    weight: int
    name: str = ""
    prior: str = ""
    gain: float | None = None


@dataclasses.dataclass(frozen=True)
class VanishingNoise:
    """A learned noise on its way to zero.

    Attributes:
        name: Of it.
        ratio: What it is of the target's sd, or of its size where all targets are one number.
        target: That number; None where they vary.
    """

    name: str
    ratio: float
    target: float | None = None


@dataclasses.dataclass(frozen=True)
class Failure:
    """What somebody else's code said.

    Attributes:
        said: Its words.
        step: Steps done before, of a search that could not go on.
        module: The network that could not be judged.
    """

    said: str
    step: int = 0
    module: str = ""


@dataclasses.dataclass(frozen=True)
class OwnCheck:
    """A check that a method brings itself.

    Attributes:
        said: Its sentence.
        numbers: Those behind it, by name.
    """

    said: str
    numbers: dict[str, float | str] = dataclasses.field(default_factory=dict)
