"""The numbers behind a verdict, one class for each kind of check; None where a number was not computed."""

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
        rows: Rows it was summed over.
        num_data: Rows in all.

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
        space: Space of the mode, "constrained" or "unconstrained".
        log_joint: The log-joint at the point.
        duality_gap: An upper bound of what is left to gain.
        climbed: Rise of the log-joint since the start.
        nats_to_gain: What is left: ½ gᵀH⁻¹g, or the duality gap.
        violation: The largest of the first-order conditions, in posterior sds.
        nonsmooth: Whether a penalty has a kink, so that these are the KKT conditions and not the gradient.
        source: The curvature that was used.
        smallest_eigenvalue: Of minus the second derivative, over the unknowns that no kink holds, in nats over the square of an
            unknown's unit: below zero at a saddle; for many unknowns Lanczos's upper bound of it.
        along_curvature: Gain along a straight line in a direction of negative curvature.
        by_further_search: Gain of more steps in a piecewise linear network.
        by_few_steps: What a few steps along the preconditioned gradient gain at least, where a check looked at that first.
        looked_rows: Rows that this look saw, and on which the other numbers rest where it decided.
        num_data: N, of which they are.
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
    by_few_steps: float | None = None
    looked_rows: int | None = None
    num_data: int | None = None


class Cause(enum.StrEnum):
    """Why a log-joint has no maximum, or next to none."""

    CONSTANT_TARGET = "constant target"
    PERFECT_FIT = "perfect fit"
    ROWS_WITHOUT_NOISE = "rows without noise"
    ROWS_USED_UP = "rows used up"
    SEPARATED = "separated"


@dataclasses.dataclass(frozen=True)
class NoMode:
    """Why there is no usable mode.

    Attributes:
        cause: The kind of reason.
        arrived: True where the search reached it, so that nothing can be built on the point; before that, or where the prior
            bounds the density, the curvature still means something.
        name: The noise, or the tensor with a flat prior.
        target: The one value of all targets.
        weights: Number of well-determined weights, which use up the rows.
        num_data: N.
    """

    cause: Cause
    arrived: bool
    name: str = ""
    target: float | None = None
    weights: float | None = None
    num_data: int | None = None


class Followed(enum.StrEnum):
    """The quantity that a trend describes."""

    LOG_JOINT = "batches' log joint"
    LOG_LIKELIHOOD = "batches' log-likelihood"


@dataclasses.dataclass(frozen=True)
class Training:
    """How training differed from evaluation.

    Attributes:
        layers: The layers that made it differ, "dropout"; none where the network's own code does.
        trend: Trend of the objective at the end; None for too few steps.
        followed: The quantity of the trend.
    """

    layers: tuple[str, ...]
    trend: Trend | None
    followed: Followed


@dataclasses.dataclass(frozen=True)
class Elbo:
    """The end of an ELBO's search.

    Attributes:
        num_steps: Steps of the search.
        trend: Its trend at the end; None for too few steps.
        nats_to_gain: What a natural-gradient step would still add.
        error: Its Monte Carlo error.
        tolerance: The gain that does not matter.
        of_batches: True where batch normalisation by mini-batches makes it differ from the ELBO of all rows.
        collapsed: Weights whose posterior is their prior.
        collapsible: Of how many; None where it was not counted.
        idle_units: Hidden units that the data say nothing of: the weights into them, or out of them, are their prior.
        units: Of how many; None where they were not counted.
    """

    num_steps: int
    trend: Trend | None
    nats_to_gain: float | None = None
    error: float | None = None
    tolerance: float | None = None
    of_batches: bool = False
    collapsed: int = 0
    collapsible: int | None = None
    idle_units: int = 0
    units: int | None = None


@dataclasses.dataclass(frozen=True)
class ClosedForm:
    """How many digits of a closed form hold.

    Attributes:
        condition: The condition number κ.
        digits: Decimal digits that hold.
        rounding: Shift of the posterior by rounding to the module's type, in sds.
        dtype: That type, "float32".
    """

    condition: float
    digits: int
    rounding: float
    dtype: str


@dataclasses.dataclass(frozen=True)
class Covariance:
    """The accuracy of a covariance about a mode.

    Attributes:
        curvature: The matrix it comes from, "Hessian".
        condition: The condition number κ.
        digits: Decimal digits that hold.
        free: Unknowns whose sum over classes no prediction and no prior depends on, in words; empty for none.
        structure: Its structure: "full", "kron", "diag", "last-layer" or "subnetwork".
    """

    curvature: str
    condition: float
    digits: int
    free: str = ""
    structure: str = "full"


@dataclasses.dataclass(frozen=True)
class Importance:
    """How well an approximation q covers the posterior, by the tail of the importance weights p(y, u)/q(u) of its draws.

    Attributes:
        shape: The Pareto shape k̂ of the largest weights; infinite where some have no finite logarithm.
        num_draws: Draws.
        limit: The k̂ up to which that many draws suffice, min(1 − 1/log₁₀ S, 0.7).
        log_evidence: Log p(y) in nats by the smoothed weights; None where a prior is improper.
        error: Its Monte Carlo error.
    """

    shape: float
    num_draws: int
    limit: float
    log_evidence: float | None = None
    error: float | None = None

    @property
    def reliable(self) -> bool:
        """Whether weighted draws of q can stand for the posterior's."""
        return self.shape <= self.limit


@dataclasses.dataclass(frozen=True)
class Tuned:
    """The end of a search for the scales at which the evidence is highest.

    Attributes:
        steps: Steps that were taken in them.
        gain: Nats of evidence that another step would gain.
        tolerance: The gain that does not matter.
        fixed: True where it is the gain at a fixed mode (MacKay's updates), and not with the mode that follows the scales.
        vanishing: Names of scales that the evidence would have at zero.
        bound: True where it is the ELBO that was raised.
    """

    steps: int
    gain: float
    tolerance: float
    fixed: bool = False
    vanishing: tuple[str, ...] = ()
    bound: bool = False

    @property
    def maximal(self) -> bool:
        """Whether nothing that matters is left to gain."""
        return self.gain <= self.tolerance


@dataclasses.dataclass(frozen=True)
class Restarts:
    """How many starts reached the best one's log-joint, or ELBO.

    Attributes:
        count: Number of starts.
        agree: How many agree with the best.
        spread: From the best to the worst that is finite, in nats.
        tolerance: Nats by which one may stay below the best and still agree with it.
        elbo: True where these are ELBOs.
        unsettled: How many searches had not converged.
    """

    count: int
    agree: int
    spread: float
    tolerance: float
    elbo: bool = False
    unsettled: int = 0


@dataclasses.dataclass(frozen=True)
class Length:
    """The norm of a scale-invariant tensor, at the start of a fit and at its end."""

    name: str
    before: float
    after: float


@dataclasses.dataclass(frozen=True)
class Lengths:
    """Norms of weights whose scale no prediction depends on.

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
        other_starts: Number of other starts, none of which led higher.
        weight: Factor on the log-likelihood in their first steps.
        name: The tensor whose prior shrinks its layer's output most; empty where none shrinks.
        prior: That prior.
        gain: Size of its layer's output over that of its input.
    """

    other_starts: int
    weight: int
    name: str = ""
    prior: str = ""
    gain: float | None = None


@dataclasses.dataclass(frozen=True)
class VanishingNoise:
    """A learned noise scale that runs to zero.

    Attributes:
        name: Name of the noise scale.
        ratio: Its ratio to the target's sd, or to the target's size where all targets are equal.
        target: The one value of all targets; None where they vary.
    """

    name: str
    ratio: float
    target: float | None = None


@dataclasses.dataclass(frozen=True)
class Failure:
    """An error in other code.

    Attributes:
        said: The error's message.
        step: Steps before the error, of a search that stopped.
        module: The network that could not be judged.
    """

    said: str
    step: int = 0
    module: str = ""


@dataclasses.dataclass(frozen=True)
class OwnCheck:
    """A method's own check.

    Attributes:
        said: Its sentence.
        numbers: The numbers behind it, by name.
    """

    said: str
    numbers: dict[str, float | str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How far chains agree on some quantities, by ArviZ.

    Attributes:
        count: Quantities that were looked at.
        rhat: The largest rank-normalised split R̂ of them.
        ess_bulk: The smallest effective sample size, all chains together, for the middle of a distribution.
        ess_tail: That for its 5 % and 95 % quantiles.
    """

    count: int
    rhat: float
    ess_bulk: float
    ess_tail: float

    @property
    def error(self) -> float:
        """The largest Monte Carlo error of a mean, in posterior sds."""
        return self.ess_bulk**-0.5


@dataclasses.dataclass(frozen=True)
class Predictions:
    """How far members of an ensemble predict the same y, noise included, the worst of some rows.

    Attributes:
        count: Means of y that were looked at.
        rhat: √(Var[y | x] over all halves of chains / its mean within a half).
        error: The Monte Carlo error of E[y | x], from members that started apart, in sds of y given x.
        drift: By how much of itself the sd of y given x changed between the halves of the chains, root mean square over rows.
    """

    count: int
    rhat: float
    error: float
    drift: float


@dataclasses.dataclass(frozen=True)
class Mixing:
    """What is to be known of a run of Markov chains.

    Attributes:
        num_chains: C.
        num_draws: D of each chain.
        steps: Steps of each chain, warm-up included.
        planned: Steps that were to be done.
        temperature: T; 1 is the posterior.
        weights: Agreement on the unknowns; None for too few draws.
        function: Agreement on the network's outputs in training rows.
        predictions: How far members of an ensemble predict the same there.
        divergences: Diverging steps.
        acceptance: Mean acceptance probability, where steps are accepted or not.
        bfmi: The smallest Bayesian fraction of missing information of a chain, where there is an energy.
        energy_error: Mean square of a step's energy error by dimension, where steps are not accepted or rejected.
        within: Sd of the output within a chain, root mean square over rows, in the units that the model works in.
        between: Sd of the chains' mean outputs.
    """

    num_chains: int
    num_draws: int
    steps: int
    planned: int
    temperature: float
    weights: Agreement | None = None
    function: Agreement | None = None
    predictions: Predictions | None = None
    divergences: int | None = None
    acceptance: float | None = None
    bfmi: float | None = None
    energy_error: float | None = None
    within: float | None = None
    between: float | None = None
