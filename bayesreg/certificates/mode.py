"""Whether a candidate is a mode, judged in nats: how much of the log-joint a Newton step would still gain.

    gain ≈ ½ gᵀ H⁻¹ g,   g the gradient of the log-joint, H minus its second derivative (or Gauss–Newton's)

This number depends on no units and no constant. A typical draw of the posterior lies P/2 nats below its mode, so a gain of a
hundredth of that does not matter.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import torch

from bayesreg.behaviour import first_line
from bayesreg.certificates.certificate import Certificate
from bayesreg.certificates.collapse import CONSTANT, falls_to_zero, is_constant, size_of
from bayesreg.certificates.effort import Effort, Rest, first_look
from bayesreg.certificates.optimality import Curvature, climb, is_negative, measure, neighbouring, takes_matrix
from bayesreg.certificates.outcome import Finding
from bayesreg.certificates.values import Cause, Failure, Followed, NoMode, Point, Restarts, Training
from bayesreg.data.rows import Data
from bayesreg.objective.curvature_products import sample
from bayesreg.objective.directions import HeldLogJoint, Rows
from bayesreg.objective.flat import LogJoint
from bayesreg.objective.freedom import MOST, used_up
from bayesreg.objective.pieces import is_nonsmooth
from bayesreg.objective.whole import gradient_of, in_double, value_of
from bayesreg.solvers.probe import STEPS
from bayesreg.solvers.rising import Trend
from bayesreg.solvers.whitened import VANISHING

_AT_ONCE = 2**14  # rows that are in double precision in no time


def certify(
    log_joint: LogJoint,
    u: torch.Tensor,
    start: torch.Tensor,
    data: Data,
    jacobian: bool,
    probe: Callable[[int], torch.Tensor],
    *,
    restarts: Sequence[float] | None = None,
    gap: float | None = None,
    held: Sequence[Rows] = (),
    trend: Trend | None = None,
    effort: Effort | None = None,
) -> Certificate:
    """Judge a candidate for a mode on all rows.

    Where a penalty has a kink, the proximal gradient step divided by its length replaces the gradient; it is zero at a kink
    that is the mode. A piecewise linear network has modes where its pieces meet, with no vanishing gradient: there the gain of
    a further search decides. With few rows and very many unknowns, 1 % of P/2 may exceed all that the data can contribute; so
    the gain must also be below 1 % of what the search climbed, and a start never passes.

    Args:
        log_joint: The objective.
        u: The candidate, (P,).
        start: Where the fit began, (P,).
        data: All rows.
        jacobian: As for MAP.
        probe: A further search from the candidate, by so many steps; called for a piecewise linear network only.
        restarts: The log-joint that each restart reached, the best one's included.
        gap: An upper bound of the nats that are left to gain, from duality. Where it is below the tolerance it is a proof, and
            no curvature is formed.
        held: Scale-invariant tensors: the data do not determine their rows' lengths and a prior pulls these to zero. They are
            held fixed and all else is judged, see `scale_free.HeldLogJoint`.
        trend: Trend of the training objective, reported where that differs from this one (dropout, batch normalisation by
            mini-batches) and no mode can be certified.
        effort: What it may cost; no bound when None.

    Returns:
        The certificate; its `point` has the numbers.
    """
    enough = 0.005 * len(u)
    seen = _Seen(Point(enough, "unconstrained" if jacobian else "constrained"))
    try:
        found = _certified(log_joint, u, start, data, jacobian, probe, gap, held, trend, seen, effort)
    except Exception as error:  # a finished fit is never lost: the network may not support what is needed here
        found = Certificate(Finding.NOT_JUDGED, point=seen.point, failure=why_not_judged(log_joint, error))
    return found if restarts is None else with_restarts(found, restarts, max(0.1, enough))


@dataclasses.dataclass
class _Seen:
    """What has been measured so far, kept whatever fails next."""

    point: Point

    def verdict(self, finding: Finding) -> Certificate:
        """The certificate from what has been measured."""
        return Certificate(finding, point=self.point)


def _certified(
    log_joint: LogJoint,
    u: torch.Tensor,
    start: torch.Tensor,
    data: Data,
    jacobian: bool,
    probe: Callable[[int], torch.Tensor],
    gap: float | None,
    held: Sequence[Rows],
    trend: Trend | None,
    seen: _Seen,
    effort: Effort | None,
) -> Certificate:
    """`certify` without restarts; the numbers found go into `seen`."""
    moved, enough = not bool((u == start).all()), seen.point.tolerance
    alike, targets = log_joint.model.behaviour.deterministic, data.y
    brief = effort is not None and alike and gap is None and not effort.within(*_shape(log_joint, data))
    if brief and effort is not None and data.num_data > _AT_ONCE:
        data = sample(data, effort.look()[0])  # of many rows, those that nobody will see are not brought to double precision
    log_joint, u, data = in_double(log_joint, u, data)
    if held:
        log_joint = fixed = HeldLogJoint(log_joint, held, u)
        start, further = fixed.at_length(start.to(u)), probe
        probe = lambda steps: fixed.at_length(further(steps).to(u))  # noqa: E731
    rest = None
    if brief and effort is not None:
        decided = _briefly(log_joint, u, start.to(u), data, targets, jacobian, effort, seen)
        if isinstance(decided, Certificate):
            return decided
        rest = decided
    value, gradient = gradient_of(log_joint, u, data, jacobian=jacobian)
    seen.point = dataclasses.replace(seen.point, log_joint=value, duality_gap=None if gap is None else float(gap))
    if not (math.isfinite(value) and bool(torch.isfinite(gradient).all())):
        return seen.verdict(Finding.NOT_FINITE)
    if gap is not None and gap <= enough and _unbounded(log_joint, u, data, False) is None:
        return seen.verdict(Finding.CONVERGED_BY_DUALITY)
    climbed = value - value_of(log_joint, start.to(u), data, jacobian=jacobian)
    seen.point = dataclasses.replace(seen.point, climbed=climbed)
    candidate = _Candidate(log_joint, u, data, jacobian, moved, value, climbed, rest)
    return _judge(candidate, gradient, enough, probe, seen) if alike else _judge_unlike(candidate, trend, seen)


def _shape(log_joint: LogJoint, data: Data) -> tuple[bool, bool]:
    """What decides how dear a check is: whether pieces of the network meet, and whether the matrix is formed."""
    return is_nonsmooth(log_joint), takes_matrix(log_joint, data.num_data)


def _briefly(
    log_joint: LogJoint,
    u: torch.Tensor,
    start: torch.Tensor,
    data: Data,
    targets: torch.Tensor | None,
    jacobian: bool,
    effort: Effort,
    seen: _Seen,
) -> Certificate | Rest:
    """What can be said for a part of the search's work: a verdict, or how far the curvature may be looked at.

    `data` may be some of the rows, `targets` are those of all.
    """
    enough = seen.point.tolerance
    found = first_look(log_joint, u, start, data, *effort.look(), jacobian=jacobian, enough=max(0.1, enough))
    seen.point = dataclasses.replace(
        seen.point,
        log_joint=found.value,
        climbed=found.climbed,
        by_few_steps=max(0.0, found.at_least),
        looked_rows=found.rows,
        num_data=data.num_data,
    )
    if not math.isfinite(found.value):
        return seen.verdict(Finding.NOT_FINITE)
    if (no_mode := _unbounded(log_joint, u, data, found.at_least > enough, targets)) is not None:
        return _unusable(no_mode, seen)
    at = _Candidate(log_joint, u, data, jacobian, not bool((u == start).all()), found.value, found.climbed, None)
    if at.is_below:
        return seen.verdict(Finding.BELOW_START)
    if not at.moved:
        return seen.verdict(Finding.NOT_MOVED)
    if found.at_least > max(0.1, enough):
        return seen.verdict(Finding.NOT_CONVERGED)
    if at.is_short(found.at_least):
        return seen.verdict(Finding.CLIMB_UNFINISHED)
    rest = effort.rest(is_nonsmooth(log_joint), found.passes) if found.rows >= data.num_data else None
    return seen.verdict(Finding.NOT_LOOKED) if rest is None else rest


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
    rest: Rest | None

    def is_short(self, gain: float) -> bool:
        """True where the gain left is a large part of the whole climb, though small for so many unknowns."""
        few = 0.005 * min(len(self.u), self.data.num_data)
        return gain > max(few, 0.01 * (self.climbed + gain)) or self.is_below

    @property
    def is_below(self) -> bool:
        """True where the search ended lower than it began."""
        return self.climbed < -max(0.1, 0.005 * min(len(self.u), self.data.num_data))


def _judge(
    at: _Candidate, gradient: torch.Tensor, enough: float, probe: Callable[[int], torch.Tensor], seen: _Seen
) -> Certificate:
    """The certificate from the curvature."""
    log_joint, u, data = at.log_joint, at.u, at.data
    kinks = is_nonsmooth(log_joint)
    words = {"jacobian": at.jacobian, "kinks": kinks, "slack": 0.01 * enough, "rest": at.rest}
    curvature, broken = measure(log_joint, u, gradient, data, **words)
    gain = curvature.gain
    seen.point = dataclasses.replace(
        seen.point,
        nats_to_gain=gain,
        violation=broken,
        nonsmooth=bool(log_joint.nonsmooth),
        source=curvature.source,
        smallest_eigenvalue=curvature.smallest,
    )
    if (no_mode := _unbounded(log_joint, u, data, not gain <= enough)) is not None:
        return _unusable(no_mode, seen)
    saddle = curvature.saddle
    if gain <= enough and not saddle and not at.is_short(gain) and not (kinks and _leaves(at, curvature, seen)):
        return seen.verdict(Finding.CONVERGED)
    if at.is_below:
        return seen.verdict(Finding.BELOW_START)
    if saddle:
        return _judge_saddle(at, curvature, enough, seen)
    if seen.point.along_curvature is not None:
        return seen.verdict(Finding.SADDLE)
    if not at.moved:
        return seen.verdict(Finding.NOT_MOVED)
    if kinks:
        further = probe(STEPS if at.rest is None else at.rest.steps).to(u)
        gain = max(0.0, gradient_of(log_joint, further, data, jacobian=at.jacobian)[0] - at.value)
        seen.point = dataclasses.replace(seen.point, by_further_search=gain)
        if gain <= max(0.1, enough) and not at.is_short(gain):
            return seen.verdict(Finding.SADDLE if _leaves(at, curvature, seen) else Finding.CONVERGED_ON_KINK)
    return seen.verdict(Finding.NOT_CONVERGED if gain > enough else Finding.CLIMB_UNFINISHED)


def _unusable(found: NoMode, seen: _Seen) -> Certificate:
    """The certificate of a point where the log-joint has no maximum."""
    finding = Finding.UNBOUNDED if found.arrived else Finding.NEARLY_UNBOUNDED
    return dataclasses.replace(seen.verdict(finding), no_mode=found)


def _judge_unlike(at: _Candidate, trend: Trend | None, seen: _Seen) -> Certificate:
    """The case where training followed another objective than evaluation's, whose curvature says nothing about the search."""
    if (no_mode := _unbounded(at.log_joint, at.u, at.data, False)) is not None:
        return _unusable(dataclasses.replace(no_mode, arrived=True), seen)  # a curvature would mean nothing here
    # where an unknown's scale is unknown too, its log-prior goes through the same graph
    followed = Followed.LOG_JOINT if at.log_joint.linked else Followed.LOG_LIKELIHOOD
    training = Training(at.log_joint.model.behaviour.differing, trend, followed)
    return dataclasses.replace(seen.verdict(Finding.OTHER_OBJECTIVE), training=training)


def _judge_saddle(at: _Candidate, curvature: Curvature, enough: float, seen: _Seen) -> Certificate:
    """The case of negative curvature: a saddle, even where one climb from it gains little, since it may lead on."""
    if curvature.gain <= enough and curvature.direction is not None:
        rise = climb(at.log_joint, at.u, curvature.direction, at.data, curvature.metric, jacobian=at.jacobian) - at.value
        seen.point = dataclasses.replace(seen.point, along_curvature=max(0.0, rise))
    return seen.verdict(Finding.SADDLE)


def _leaves(at: _Candidate, curvature: Curvature, seen: _Seen) -> bool:
    """True where a piecewise linear network rises along a direction of negative curvature near the candidate."""
    beside, found = neighbouring(at.log_joint, at.u, at.data, curvature.metric, jacobian=at.jacobian, rest=at.rest)
    if not is_negative(found, max(1e-6, at.log_joint.model.behaviour.curvature_error(at.u.dtype))):
        return False
    rise = climb(at.log_joint, beside, found.direction, at.data, curvature.metric, jacobian=at.jacobian) - at.value
    few = 0.005 * min(len(at.u), at.data.num_data)
    rounding = 100 * torch.finfo(at.u.dtype).eps * abs(at.value)
    if rise <= max(0.1, few, 0.01 * at.climbed, rounding):
        return False
    seen.point = dataclasses.replace(seen.point, along_curvature=rise)
    return True


def with_restarts(certificate: Certificate, restarts: Sequence[float], tolerance: float) -> Certificate:
    """The certificate of the best restart, with how many of all restarts came within `tolerance` nats of it.

    `restarts` are the log-joints reached; one that is not finite counts as failed.

    Raises:
        ValueError: If there is no restart.

    >>> print(with_restarts(Certificate.checked(True, "Converged."), [-10.0, -10.05, -17.0], 0.1))
    Converged. 2 of 3 restarts agree to 0.1 nats.
    >>> print(with_restarts(Certificate.checked(True, "Converged."), [-10.0, -11.0, -17.0], 0.1))
    Converged. It is the best of 3 restarts; no other came within 0.1 nats.
    """
    if not restarts:
        raise ValueError("restarts must hold the log-joint of at least one fit, but none came; leave it out for a single fit.")
    reached = [float(value) for value in restarts if math.isfinite(value)]
    best = max(reached, default=math.nan)
    agree, count = sum(best - value <= tolerance for value in reached), len(restarts)
    found = Restarts(count, agree, best - min(reached, default=math.nan), tolerance)
    return dataclasses.replace(certificate, restarts=found)


def _unbounded(
    log_joint: LogJoint, u: torch.Tensor, data: Data, rising: bool, targets: torch.Tensor | None = None
) -> NoMode | None:
    """Why the log-joint has no maximum here, or None where it has one; `targets` of all rows, where `data` are some."""
    model = log_joint.model
    if (found := _no_noise(log_joint, u, data, rising, data.y if targets is None else targets)) is not None:
        return found
    # not only while it rises: rounding of such a weight's rows hides the curvature of the others
    if model.likelihood.heteroscedastic and _least_noise(log_joint, u, data) < 1e-6:
        return NoMode(Cause.ROWS_WITHOUT_NOISE, arrived=True)
    improper = model.improper
    if improper and model.likelihood.discrete:  # its log p is at most zero
        with torch.no_grad():
            further = u.clone()
            for name in improper:
                further[log_joint.layout.segments[name].slice] *= 2
            share = 1.0 if data.x is None else data.num_data / len(data.x)
            fitted, beyond = (
                share * sum(float(log_joint.log_likelihood(values, x, y, len(x))) for x, y in data.epoch())
                for values in map(log_joint.layout.unflatten, (u, further))
            )
        if fitted > -1e-2 and beyond >= fitted:
            return NoMode(Cause.SEPARATED, arrived=True, name=improper[0])
    return None


def why_not_judged(log_joint: LogJoint, error: Exception) -> Failure:
    """Which transforms a check needed that the network does not support."""
    return Failure(first_line(error), module=type(log_joint.model.module).__name__)


def _no_noise(log_joint: LogJoint, u: torch.Tensor, data: Data, rising: bool, targets: torch.Tensor | None) -> NoMode | None:
    """Why a learned noise has no mode above zero, or None where it has one."""
    model = log_joint.model
    for name, segment in log_joint.layout.segments.items():
        if name not in model.likelihood.target_scales or data.y is None:
            continue
        noise, y = float(segment.transform(u[segment.slice]).min()), model.likelihood.observed(data.y).double()
        if targets is not None and is_constant(model.likelihood.observed(targets)):
            if noise < CONSTANT * size_of(y) and falls_to_zero(segment.latent.prior, data.num_data * y[0].numel()):
                return NoMode(Cause.CONSTANT_TARGET, arrived=True, name=name, target=float(y.flatten()[0]))
            continue
        ratio = noise / size_of(y)
        if ratio < 1e-6 or (rising and ratio < VANISHING):
            return NoMode(Cause.PERFECT_FIT, arrived=ratio < 1e-6, name=name)
    share = used_up(log_joint, u, data)
    if share is not None and share > MOST:
        return NoMode(Cause.ROWS_USED_UP, arrived=False, weights=share * data.num_data, num_data=data.num_data)
    return None


def _least_noise(log_joint: LogJoint, u: torch.Tensor, data: Data) -> float:
    """The smallest noise sd that the network predicts for a row, over the target's sd."""
    model, values = log_joint.model, log_joint.layout.unflatten(u)
    with torch.no_grad():
        outputs, targets = zip(
            *((model.forward(values, x), model.likelihood.observed(y)) for x, y in data.epoch()), strict=True
        )
        noise = model.likelihood.variance(torch.cat(outputs).double(), **model.noise(values)).sqrt()
    return float((noise / torch.cat(targets).double().std(0, correction=0).clamp_min(1e-300)).min())
