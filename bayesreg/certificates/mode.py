"""Whether a mode is a mode, judged in nats: how much of the log-joint a Newton step would still gain.

    gain ≈ ½ gᵀ H⁻¹ g,   g the gradient of the log-joint, H minus its second derivative (or Gauss–Newton's)

A number that depends neither on the units of anything nor on a constant. The posterior's typical draw lies P/2 nats below
its mode, so that a gain of a hundredth of that does not matter.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import torch

from bayesreg.behaviour import first_line
from bayesreg.certificates.certificate import Certificate
from bayesreg.certificates.collapse import CONSTANT, MOST, falls_to_zero, is_constant, size_of, used_up
from bayesreg.certificates.optimality import Curvature, climb, is_negative, measure, neighbouring, value_of
from bayesreg.data.rows import Data
from bayesreg.objective.directions import HeldLogJoint, Rows
from bayesreg.objective.flat import LogJoint
from bayesreg.objective.pieces import has_kinks
from bayesreg.objective.whole import gradient_of, in_double
from bayesreg.solvers.rising import Trend


def certify(
    log_joint: LogJoint,
    u: torch.Tensor,
    start: torch.Tensor,
    data: Data,
    jacobian: bool,
    probe: Callable[[], torch.Tensor],
    *,
    restarts: Sequence[float] | None = None,
    gap: float | None = None,
    held: Sequence[Rows] = (),
    trend: Trend | None = None,
) -> Certificate:
    """Judge a candidate for a mode on all rows.

    Where a penalty has a kink, the proximal gradient step over its length stands for the gradient; it is zero at a kink
    that holds the mode. A piecewise linear network has modes where its pieces meet and no vanishing gradient there: what
    a further search gains is the judge then. A tolerance of 1 % of P/2 is more than all that few rows can say about very many
    unknowns; what is left must then also be below 1 % of what the search climbed, so that a start never passes.

    The numbers in `details`, in nats unless said otherwise:

    - "log joint", "nats to gain" (½ gᵀH⁻¹g), "tolerance" (1 % of P/2), "space" (of the mode), "nats climbed" (since the start);
    - "largest gradient in posterior sds", or "largest KKT violation in posterior sds" where a penalty has a kink: see
      `optimality.violation`; without units;
    - "smallest eigenvalue" of minus the second derivative, over the unknowns that no kink holds, in nats over the square of an
      unknown's unit: below zero at a saddle; above `FULL_CURVATURE` unknowns Lanczos's upper bound of it;
    - "curvature from": which matrix, and how many rows;
    - "nats gained along it": what a straight line in a direction of negative curvature gains, where there is one;
    - "nats gained by more steps", of a piecewise linear network; "duality gap" where one came;
    - "restarts", "restarts that agree", "spread over restarts", where restarts came.

    Args:
        log_joint: The objective.
        u: The candidate, (P,).
        start: Where the fit began, (P,).
        data: All rows.
        jacobian: As for MAP.
        probe: A further search from the candidate; called for a piecewise linear network only.
        restarts: The log-joint that each restart reached, the best one's included.
        gap: An upper bound of the nats that are left to gain, from duality. Where it is below the tolerance it is a proof,
            and no curvature is formed.
        held: Scale-invariant tensors, whose rows' lengths no data hold and a prior pulls to zero: they are taken as they are,
            and all else is judged, see `scale_free.HeldLogJoint`.
        trend: How what training followed ended; told where that is another objective than this one, as dropout and batch
            normalisation by mini-batches make it, and no certificate of a mode.

    Returns:
        The certificate.
    """
    enough = 0.005 * len(u)
    details: dict[str, float | str] = {
        "log joint": math.nan,
        "tolerance": enough,
        "space": "unconstrained" if jacobian else "constrained",
    }
    try:
        found = _certified(log_joint, u, start, data, jacobian, probe, gap, held, trend, details)
    except Exception as error:  # a fit that is done is never lost: the network may lack whatever is asked of it here
        found = Certificate(False, f"Not certified: {because(log_joint, error)}", details)
    return found if restarts is None else with_restarts(found, restarts, max(0.1, enough))


def _certified(
    log_joint: LogJoint,
    u: torch.Tensor,
    start: torch.Tensor,
    data: Data,
    jacobian: bool,
    probe: Callable[[], torch.Tensor],
    gap: float | None,
    held: Sequence[Rows],
    trend: Trend | None,
    details: dict[str, float | str],
) -> Certificate:
    """`certify` without restarts; the numbers found go into `details`."""
    moved, enough = not bool((u == start).all()), float(details["tolerance"])
    log_joint, u, data = in_double(log_joint, u, data)
    if held:
        log_joint = fixed = HeldLogJoint(log_joint, held, u)
        start, further = fixed.at_length(start.to(u)), probe
        probe = lambda: fixed.at_length(further().to(u))  # noqa: E731
    value, gradient = gradient_of(log_joint, u, data, jacobian=jacobian)
    details["log joint"] = value
    if gap is not None:
        details["duality gap"] = float(gap)
    if not (math.isfinite(value) and bool(torch.isfinite(gradient).all())):
        sentence = (
            "Not a mode: the log-joint or its gradient is not a finite number where the search ended; standardise the data, or "
            "lower learning_rate and raise num_steps."
        )
        return Certificate(False, sentence, details)
    if gap is not None and gap <= enough and not _unbounded(log_joint, u, data, False)[0]:
        sentence = (
            f"Converged to a mode: by the duality gap at most {_nats(gap)} are left to gain, below {enough:.2g} (1 % of P/2)."
        )
        return Certificate(True, sentence, details)
    details["nats climbed"] = climbed = value - value_of(log_joint, start.to(u), data, jacobian=jacobian)
    candidate = _Candidate(log_joint, u, data, jacobian, moved, value, climbed)
    alike = log_joint.model.behaviour.deterministic
    return _judge(candidate, gradient, enough, probe, details) if alike else _judge_unlike(candidate, trend, details)


@dataclasses.dataclass(frozen=True)
class _Candidate:
    """A point that may be a mode, and where it came from."""

    log_joint: LogJoint
    u: torch.Tensor
    data: Data
    jacobian: bool
    moved: bool
    value: float
    climbed: float

    def is_short(self, gain: float) -> bool:
        """True where what is left is a good part of all that there was, though it is little for so many unknowns."""
        few = 0.005 * min(len(self.u), self.data.num_data)
        return gain > max(few, 0.01 * (self.climbed + gain)) or self.is_below

    @property
    def is_below(self) -> bool:
        """True where the search ended lower than it began."""
        return self.climbed < -max(0.1, 0.005 * min(len(self.u), self.data.num_data))


def _judge(
    at: _Candidate, gradient: torch.Tensor, enough: float, probe: Callable[[], torch.Tensor], details: dict[str, float | str]
) -> Certificate:
    """The certificate from the curvature."""
    log_joint, u, data = at.log_joint, at.u, at.data
    kinks = has_kinks(log_joint)
    curvature, broken = measure(log_joint, u, gradient, data, jacobian=at.jacobian, kinks=kinks, slack=0.01 * enough)
    gain = details["nats to gain"] = curvature.gain
    what = "KKT violation" if log_joint.kinked else "gradient"
    details[f"largest {what} in posterior sds"] = broken
    details["curvature from"] = curvature.source
    if curvature.smallest is not None:
        details["smallest eigenvalue"] = curvature.smallest
    unbounded, arrived = _unbounded(log_joint, u, data, not gain <= enough)
    if unbounded:
        details["no mode"] = unbounded
        if arrived:  # nothing can be built on it; on the way there, a curvature still means something
            details["unbounded"] = unbounded
        return Certificate(False, f"Not a usable mode: {unbounded}.", details)
    saddle = curvature.saddle
    if gain <= enough and not saddle and not at.is_short(gain) and not (kinks and _leaves(at, curvature, details)):
        sentence = f"Converged to a mode: {_nats(gain)} are left to gain, below {enough:.2g} (1 % of P/2)."
        return Certificate(True, sentence, details)
    if at.is_below:
        sentence = (
            f"Not converged: the search ended {_nats(-at.climbed)} below its start; lower learning_rate, and raise num_steps "
            "or batch_size."
        )
        return Certificate(False, sentence, details)
    if saddle:
        return _judge_saddle(at, curvature, enough, details)
    if "nats gained along it" in details:
        return Certificate(False, _saddle(gain, enough, details), details)
    if not at.moved:
        return Certificate(False, "Not a mode: the fit did not leave its start; raise learning_rate or num_steps.", details)
    if kinks:
        gain = max(0.0, gradient_of(log_joint, probe().to(u), data, jacobian=at.jacobian)[0] - at.value)
        details["nats gained by more steps"] = gain
        if gain <= max(0.1, enough) and not at.is_short(gain):
            if _leaves(at, curvature, details):
                return Certificate(False, _saddle(gain, enough, details), details)
            sentence = (
                f"Converged to a mode where pieces of the piecewise linear network meet: a further search gains {_nats(gain)}, "
                f"below {max(0.1, enough):.2g} (1 % of P/2)."
            )
            return Certificate(True, sentence, details)
    why = (
        f"tolerance {enough:.2g}"
        if gain > enough
        else f"more than 1 % of the {max(0.0, at.climbed):.3g} climbed since the start"
    )
    return Certificate(False, f"Not converged: about {_nats(gain)} are left to gain ({why}); raise num_steps.", details)


def _judge_unlike(at: _Candidate, trend: Trend | None, details: dict[str, float | str]) -> Certificate:
    """Where training followed another objective than that of evaluation, whose curvature would say nothing about the search."""
    unbounded, _ = _unbounded(at.log_joint, at.u, at.data, False)
    if unbounded:
        details["no mode"] = details["unbounded"] = unbounded
        return Certificate(False, f"Not a usable mode: {unbounded}.", details)
    why = at.log_joint.model.behaviour.differences
    said = f"Not certified: in training, {why} made another objective than is evaluated; judge this fit by held-out rows."
    if trend is not None:
        # where an unknown's scale is unknown too, its log-prior goes through the same graph
        what = "batches' log joint" if at.log_joint.linked else "batches' log-likelihood"
        change = f"changed by {trend.rise:+.1f} nats (Monte Carlo error {trend.error:.1f})"
        said += f" Over the last fifth of the steps the {what} {change}."
        details = {**details, **trend.details(what)}
    return Certificate(False, said, details)


def _judge_saddle(at: _Candidate, curvature: Curvature, enough: float, details: dict[str, float | str]) -> Certificate:
    """Where the curvature is negative somewhere: a saddle, also where one climb from it gains little: it may lead on."""
    gain = curvature.gain
    if gain <= enough and curvature.direction is not None:
        rise = climb(at.log_joint, at.u, curvature.direction, at.data, curvature.metric, jacobian=at.jacobian) - at.value
        details["nats gained along it"] = max(0.0, rise)
    return Certificate(False, _saddle(gain, enough, details), details)


def _leaves(at: _Candidate, curvature: Curvature, details: dict[str, float | str]) -> bool:
    """True where a piecewise linear network rises along a direction of negative curvature beside the candidate."""
    beside, found = neighbouring(at.log_joint, at.u, at.data, curvature.metric, jacobian=at.jacobian)
    if not is_negative(found, max(1e-6, at.log_joint.model.behaviour.curvature_error(at.u.dtype))):
        return False
    rise = climb(at.log_joint, beside, found.direction, at.data, curvature.metric, jacobian=at.jacobian) - at.value
    few = 0.005 * min(len(at.u), at.data.num_data)
    rounding = 100 * torch.finfo(at.u.dtype).eps * abs(at.value)
    if rise <= max(0.1, few, 0.01 * at.climbed, rounding):
        return False
    details["nats gained along it"] = rise
    return True


def _saddle(gain: float, enough: float, details: dict[str, float | str]) -> str:
    """The sentence for a point with negative curvature."""
    if gain > enough:
        return (
            f"Not converged: about {_nats(gain)} are left to gain (tolerance {enough:.2g}), and the curvature is negative in "
            "some direction: a saddle, not a mode; raise num_steps."
        )
    rise = float(details["nats gained along it"])
    return (
        f"Not converged: the curvature is negative in some direction, along which {_nats(rise)} are gained: a saddle, not a "
        f"mode (tolerance {enough:.2g}); start from other weights, random ones and not all zero or equal, or raise num_steps."
    )


def with_restarts(certificate: Certificate, restarts: Sequence[float], tolerance: float) -> Certificate:
    """The same certificate with a word on how many restarts reached as much as the best one.

    Args:
        certificate: Of the best restart.
        restarts: The log-joint that each reached, in nats; what is not finite counts as a restart that failed.
        tolerance: Nats by which a restart may stay below the best and still agree with it.

    Returns:
        The certificate, with "restarts", "restarts that agree" and "spread over restarts" in its details.

    Raises:
        ValueError: If there is no restart.

    >>> print(with_restarts(Certificate(True, "Converged."), [-10.0, -10.05, -17.0], 0.1))
    Converged. 2 of 3 restarts agree to 0.1 nats.
    >>> print(with_restarts(Certificate(True, "Converged."), [-10.0, -11.0, -17.0], 0.1))
    Converged. It is the best of 3 restarts; no other came within 0.1 nats.
    """
    if not restarts:
        raise ValueError("restarts must hold the log-joint of at least one fit, but none came; leave it out for a single fit.")
    reached = [float(value) for value in restarts if math.isfinite(value)]
    best = max(reached, default=math.nan)
    agree, count = sum(best - value <= tolerance for value in reached), len(restarts)
    details = {
        **certificate.details,
        "restarts": float(count),
        "restarts that agree": float(agree),
        "spread over restarts": best - min(reached, default=math.nan),
    }
    word = ""
    if count > 1 and agree > 1:
        word = f" {agree} of {count} restarts agree to {tolerance:.2g} nats."
    elif count > 1:
        word = f" It is the best of {count} restarts; no other came within {tolerance:.2g} nats."
    return dataclasses.replace(certificate, sentence=certificate.sentence + word, details=details)


def _unbounded(log_joint: LogJoint, u: torch.Tensor, data: Data, rising: bool) -> tuple[str, bool]:
    """Why the log-joint has no maximum here, or an empty text; and whether the search has already run into it."""
    model = log_joint.model
    why, arrived = _no_noise(log_joint, u, data, rising)
    if why:
        return why, arrived
    # not only while it rises: beside rows of such a weight, what the others bend by is lost in rounding
    if model.likelihood.heteroscedastic and _least_noise(log_joint, u, data) < 1e-6:
        why = (
            "the noise of some rows ran to zero, where the network passes through their targets and these decide everything; "
            "give the weights a tighter prior, shrink the network, or take a noise of one size"
        )
        return why, True
    improper = [name for name, latent in model.latents.items() if not latent.prior.proper]
    if improper and model.likelihood.discrete:  # its log p is at most zero
        with torch.no_grad():
            values = log_joint.layout.unflatten(u)
            fitted = sum(float(log_joint.log_likelihood(values, x, y, len(x))) for x, y in data.epoch())
            further = u.clone()
            for name in improper:
                further[log_joint.layout.segments[name].slice] *= 2
            values = log_joint.layout.unflatten(further)
            beyond = sum(float(log_joint.log_likelihood(values, x, y, len(x))) for x, y in data.epoch())
        if fitted > -1e-2 and beyond >= fitted:
            why = (
                f"every row is fitted with certainty, and the flat prior on {improper[0]} lets the weights grow without bound; "
                "give them a proper prior, for example Normal(1.0)"
            )
            return why, True
    return "", False


def because(log_joint: LogJoint, error: Exception) -> str:
    """Why there is no certificate, and what to do instead."""
    return (
        f"{type(log_joint.model.module).__name__} could not be judged ({first_line(error)}); judge this fit by held-out rows, "
        "or by whether more steps raise its objective."
    )


def _no_noise(log_joint: LogJoint, u: torch.Tensor, data: Data, rising: bool) -> tuple[str, bool]:
    """Why a learned noise has no mode above zero, or an empty text; and whether the search has already run into it."""
    remedy = "fix the noise scale, give it a prior that keeps it from zero (LogNormal), "
    for name, segment in log_joint.layout.segments.items():
        if not segment.latent.is_noise or data.y is None:
            continue
        noise, y = float(segment.transform(u[segment.slice]).min()), data.y.double()
        if is_constant(y):
            if noise < CONSTANT * size_of(y) and falls_to_zero(segment.latent.prior, y.numel()):
                why = f"{name} runs to zero, since all targets are {float(y.flatten()[0]):g} and the density is unbounded there"
                return f"{why}; check the target column, or {remedy.removesuffix(', ')}", True
            continue
        ratio = noise / size_of(y)
        if ratio < 1e-6 or (rising and ratio < 5e-3):
            why = (
                f"{name} ran to zero, where the network passes through every target and the density is unbounded; {remedy}"
                "give the weights a tighter prior, or shrink the network"
            )
            return why, ratio < 1e-6
    share = used_up(log_joint, u, data)
    if share is not None and share > MOST:
        why = (
            f"the noise collapsed: {share * data.num_data:,.0f} well-determined weights use up the N = {data.num_data:,} rows, "
            f"so that nothing is left to judge it by and the density is all but unbounded; {remedy}give the weights a tighter "
            "prior, shrink the network, or take a posterior method such as MeanField"
        )
        return why, False
    return "", False


def _nats(value: float) -> str:
    return "less than 1e-6 nats" if value < 1e-6 else f"{value:.2g} nats"


def _least_noise(log_joint: LogJoint, u: torch.Tensor, data: Data) -> float:
    """The smallest noise sd that the network says of a row, over the target's sd."""
    model, values = log_joint.model, log_joint.layout.unflatten(u)
    with torch.no_grad():
        outputs, targets = zip(*((model.forward(values, x), y) for x, y in data.epoch()), strict=True)
        noise = model.likelihood.variance(torch.cat(outputs).double(), **model.noise(values)).sqrt()
    return float((noise / torch.cat(targets).double().std(0, correction=0).clamp_min(1e-300)).min())
