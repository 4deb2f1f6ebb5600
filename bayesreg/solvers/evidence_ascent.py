"""Ascent of the log evidence in the logarithms of scales: of the priors, and of a known noise.

    t = log scales,   t ← t + B⁻¹ ∂/∂t log p(y),   B = diag(2γ) at first (MacKay's update s² = Σw²/γ), then BFGS

At each t the mode is found anew, from the last one by a few Gauss–Newton steps, whose matrix then is the curvature.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from bayesreg import _check
from bayesreg.data.rows import Data
from bayesreg.model.model import BayesianModel
from bayesreg.model.rescaled import own_scale, with_known_noise, with_scales
from bayesreg.objective.affine import is_affine
from bayesreg.objective.curvature import likelihood_gauss_newton, prior_curvature, prior_hessian
from bayesreg.objective.curvature_products import diagonal
from bayesreg.objective.evidence import Slopes, known_noise, newton_step, products, pull, scaled, slopes
from bayesreg.objective.flat import LogJoint
from bayesreg.objective.identify import from_matrix
from bayesreg.objective.whole import in_double
from bayesreg.solvers.history import History
from bayesreg.solvers.last_steps import NEWTON_PARAMETERS
from bayesreg.solvers.quasi_newton import lbfgs

WHY = "tuned by the evidence"
_MOST = 50  # steps in the scales
_FURTHEST = 1.5  # change of a logarithm in one step
NOTHING = 0.01  # twice the nats up to which a scale that falls may still gain on its way to zero, where it is left
_VANISHING = 0.2  # curvature below which a scale that falls has no weight left that the data determine
_ENOUGH, _EXACT = 1e-5, 1e-9  # nats that a further step would gain, and by an exact second derivative
_ROUNDS, _FALLS, _CLOSE = 6, 2, 0.05  # MacKay's updates, turns in which the evidence may fall, and a change that ends them
_LAST, _LAST_ROUNDS, _LITTLE = 500, 4, 0.5  # steps to the mode itself in the last turns, how many, and the gain that ends them
_FEW = 60  # steps towards a mode between two of MacKay's updates
_STEPS, _HALVINGS = 100, 8  # steps to a mode, and halvings of one
_LOOSE = 1e-3  # nats left to gain where it still counts as a mode
_NEAR = 0.1  # the same where Newton's steps take over from Gauss and Newton's
_MODE = 1e-9  # nats left to gain at a mode

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What `tune="evidence"` tunes: `tune=Evidence(per="rule", noise=False)`.

    Every scale that was given as a number is tuned. What has a prior of its own (an unknown noise scale, an unknown scale of a
    prior) is inferred as before, and flat priors stay flat.

    Args:
        per: A scale for each "tensor", or for all tensors that one "rule" of the priors gave their scale.
        noise: Whether a known noise scale (`Gaussian(0.5)`) is tuned too.

    Raises:
        ValueError: If an argument is out of its range.
    """

    per: str = "tensor"
    noise: bool = True

    def __post_init__(self) -> None:
        _check.one_of("per", self.per, ("tensor", "rule"))
        _check.flag("noise", self.noise)


@dataclasses.dataclass(frozen=True)
class Scales:
    """The scales of a model that are tuned, in order.

    Attributes:
        tensors: Label to the tensors whose priors share the scale.
        noise: Name of the known noise scale; empty where it is not tuned.
        start: Their values as written.
    """

    tensors: dict[str, tuple[str, ...]]
    noise: str
    start: tuple[float, ...]

    @classmethod
    def of(cls, model: BayesianModel, settings: Evidence) -> Scales:
        """Those that the settings name.

        Raises:
            ValueError: If there are none.
        """
        names = set(scaled(model))
        tensors: dict[str, tuple[str, ...]] = {}
        for r in model.resolved:
            if r.name in names:
                label = r.name if settings.per == "tensor" else f"{r.specified} of {r.source}"
                tensors[label] = (*tensors.get(label, ()), r.name)
        noise = (known_noise(model) or "") if settings.noise else ""
        if not tensors and not noise:
            raise ValueError(
                "tune='evidence' must have a scale to tune, but no prior has one that is a number and no noise scale is known; "
                "give a number: Normal(1.0). An unknown scale (HalfCauchy) is inferred, and needs no tuning."
            )
        start = [own_scale(model, some) for some in tensors.values()]
        return cls(tensors, noise, (*start, *([model.likelihood.fixed[noise]] if noise else [])))

    @property
    def labels(self) -> tuple[str, ...]:
        """Of each scale."""
        return (*self.tensors, *([self.noise] if self.noise else []))

    def values(self, t: np.ndarray) -> dict[str, float]:
        """The scales by label, to six digits, from their logarithms."""
        return {label: float(f"{value:.6g}") for label, value in zip(self.labels, np.exp(t), strict=True)}

    def model(self, model: BayesianModel, values: Mapping[str, float]) -> BayesianModel:
        """The model with these values, by label."""
        by_tensor = {name: values[label] for label, names in self.tensors.items() for name in names}
        found = with_known_noise(model, values[self.noise]) if self.noise else model
        return with_scales(found, by_tensor, WHY)

    def gather(self, found: Slopes, exact: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The derivative in each logarithm, (S,), minus its own one or MacKay's metric for it, (S, S), and γ, (S,)."""
        labels = [*self.tensors.values(), *([(self.noise,)] if self.noise else [])]
        which = np.array([[float(name in some) for name in found.names] for some in labels])
        bend = found.bend if exact else np.diag(found.metric.clip(1e-2))
        return which @ found.slope, which @ bend @ which.T, 0.5 * which @ found.metric


@dataclasses.dataclass(frozen=True)
class At(Generic[T]):
    """The log evidence at some scales.

    Attributes:
        evidence: In nats, up to a constant where a prior is flat.
        slope: Its derivative in the logarithms of the scales, (S,).
        bend: About minus its second derivative, (S, S).
        what: What was fitted there.
        size: γ of each scale, (S,).
        exact: Whether `bend` is that, but for the change of the curvature with the mode; else it is learned on the way.
    """

    evidence: float
    slope: np.ndarray
    bend: np.ndarray
    what: T
    size: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))
    exact: bool = False


@dataclasses.dataclass(frozen=True)
class Climbed(Generic[T]):
    """Where the ascent in the logarithms of the scales ended.

    Attributes:
        t: Logarithms, (S,).
        at: The evidence there.
        gain: Nats that a further step would gain.
        steps: How many were taken.
    """

    t: np.ndarray
    at: At[T]
    gain: float
    steps: int


def climb(
    evaluate: Callable[[np.ndarray, At[T] | None], At[T] | None],
    t: np.ndarray,
    heard: Callable[[int, np.ndarray, At[T]], None],
) -> Climbed[T] | None:
    """Ascend the log evidence in the logarithms of the scales by Newton's or BFGS steps, halved until they gain.

    Args:
        evaluate: The evidence at a point, told the last one's; None where there is none.
        t: Where to begin, (S,).
        heard: Told each point.

    Returns:
        Where it ended; None where there is no evidence at the start.

    References:
        Nocedal and Wright (2006), Numerical optimization, procedure 18.2 (damped updates).

    >>> parabola = lambda t, _: At(float(-(t @ t)), -2 * t, 2 * np.eye(2), None)
    >>> found = climb(parabola, np.array([1.0, -3.0]), lambda *_: None)
    >>> found.t.round(6).tolist(), found.steps
    ([0.0, 0.0], 2)
    """
    now = evaluate(t, None)
    if now is None:
        return None
    heard(0, t, now)
    gain, step, bend = math.inf, 0, now.bend
    for step in range(_MOST + 1):
        move = _uphill(now.slope, bend)
        gain = float(0.5 * now.slope @ move)
        if gain <= (_EXACT if now.exact else _ENOUGH) or step == _MOST:
            break
        for _ in range(_HALVINGS):
            trial = evaluate(t + move, now)
            if trial is not None and trial.evidence >= now.evidence - 1e-9 * abs(now.evidence):
                break
            move = 0.5 * move
        else:
            break
        assert trial is not None
        bend = trial.bend if trial.exact else _updated(bend, move, now.slope - trial.slope)
        t, now = t + move, trial
        heard(step + 1, t, now)
    return Climbed(t, now, gain, step)


def _uphill(slope: np.ndarray, bend: np.ndarray) -> np.ndarray:
    """A Newton step, in directions of the wrong curvature as long as if it were the right one."""
    unit = np.sqrt(np.abs(np.diag(bend)) + 1e-8)
    values, vectors = np.linalg.eigh(bend / np.outer(unit, unit))
    move = vectors @ ((vectors.T @ (slope / unit)) / np.maximum(np.abs(values), 0.1)) / unit
    falls = (slope < 0) & (unit**2 < _VANISHING)
    move = np.where(falls, np.where(slope > -NOTHING, 0.0, -_FURTHEST), move)
    return np.clip(move, -_FURTHEST, _FURTHEST)


def _updated(bend: np.ndarray, move: np.ndarray, change: np.ndarray) -> np.ndarray:
    """The BFGS update of minus the second derivative, damped so that it stays positive definite."""
    pushed = bend @ move
    expected, seen = float(move @ pushed), float(move @ change)
    if expected <= 0:
        return bend
    share = 1.0 if seen >= 0.2 * expected else 0.8 * expected / (expected - seen)
    change = share * change + (1 - share) * pushed
    return bend - np.outer(pushed, pushed) / expected + np.outer(change, change) / float(move @ change)


@dataclasses.dataclass(frozen=True)
class Mode:
    """A mode with its curvature.

    Attributes:
        u: (P,), float64.
        likelihood: The likelihood's Gauss–Newton matrix there, (P, P), or its diagonal, (P,).
    """

    u: torch.Tensor
    likelihood: torch.Tensor


class GaussNewton:
    """The Laplace evidence of a model under other scales, by the Gauss–Newton matrix at its mode.

    Args:
        model: The model, bound to the data.
        u: Near its mode, (P,) unconstrained.
        data: Prepared rows.
        scales: What is tuned.
        dense: Whether the whole matrix is taken, and not its diagonal.
    """

    def __init__(self, model: BayesianModel, u: torch.Tensor, data: Data, scales: Scales, dense: bool = True) -> None:
        wide, self.u, self.data = in_double(LogJoint(model), u, data)
        self.model, self.scales, self.dense = wide.model, scales, dense
        self.known = known_noise(model) or ""
        squared = dense and bool(self.known) and not model.outputs and data.x is not None and data.x.is_floating_point()
        self.linear = squared and is_affine(wide, self.data)  # then the likelihood's matrix changes with the noise alone

    def log_joint(self, t: np.ndarray) -> LogJoint:
        """The objective at some scales."""
        return LogJoint(self.scales.model(self.model, dict(zip(self.scales.labels, np.exp(t).tolist(), strict=True))))

    def climb(self, heard: Callable[[int, np.ndarray, At[Mode]], None]) -> Climbed[Mode] | None:
        """Where the evidence is highest, from the scales as they are; None where there is no evidence at the start.

        Beyond some hundreds of unknowns of a network, where MacKay's updates end, or the best they came by: one after every few
        steps to the mode, and the last ones near the mode itself.
        """
        t = np.log(self.scales.start)
        if self.follows:
            return climb(self.evaluated, t, heard)
        best, falls, u = None, 0, self.u
        for turn in range(_ROUNDS):
            here = self._turn(t, u, _FEW if turn else 0, turn)
            if here is None:
                break
            heard(turn, t, here[0].at)
            rises = best is None or here[0].at.evidence > best.at.evidence
            best, falls = (here[0], 0) if best is None or rises else (best, falls + 1)
            moved, u = here[1] - t, here[0].at.what.u
            if falls == _FALLS or np.abs(moved).max() < _CLOSE:
                break
            t = t + np.clip(moved, -_FURTHEST, _FURTHEST)
        if best is None:
            return None
        t, steps = best.t, best.steps
        for turn in range(steps + 1, steps + 1 + _LAST_ROUNDS):  # what was found on the way is no mode yet
            here = self._turn(t, best.at.what.u, _LAST, turn)
            if here is None:
                break
            heard(turn, t, here[0].at)
            best, t = here[0], t + np.clip(here[1] - t, -_FURTHEST, _FURTHEST)
            if best.gain < self.tolerance:
                break
        return best

    def _turn(self, t: np.ndarray, u: torch.Tensor, num_steps: int, turn: int) -> tuple[Climbed[Mode], np.ndarray] | None:
        """The evidence at some scales after so many steps to their mode, and MacKay's update of the scales at that point."""
        log_joint = self.log_joint(t)
        settings: Any = {"jacobian": True, "num_steps": num_steps, "history": History(), "report": lambda *_: None}
        mode = self._curved(log_joint, lbfgs(log_joint, u, self.data, **settings) if num_steps else u)
        at = self._at(log_joint, mode, follows=False)
        if at is None:
            return None
        move = _uphill(at.slope, at.bend)
        return Climbed(t, at, float(0.5 * at.slope @ move), turn), t + move

    @property
    def tolerance(self) -> float:
        """Nats of evidence that are too few to matter: as at a mode 1 % of P/2, where the mode does not follow each step."""
        return 0.01 if self.follows else max(_LITTLE, 0.005 * len(self.u))

    @property
    def follows(self) -> bool:
        """Whether the mode is found anew at each step in the scales."""
        return self.linear or (self.dense and len(self.u) <= NEWTON_PARAMETERS)

    def _value(self, log_joint: LogJoint, u: torch.Tensor) -> float:
        """The density of the vector, in nats and the data's own units."""
        x, y = self.data.full("the evidence")
        with torch.no_grad():
            value = float(log_joint.prepared(u, x, y, self.data.num_data, jacobian=True))
        return value + self.data.num_data * log_joint.model.log_jacobian

    def evaluated(self, t: np.ndarray, last: At[Mode] | None) -> At[Mode] | None:
        """The evidence at some scales and the mode there, from the last one; None where there is none."""
        log_joint = self.log_joint(t)
        found = self._mode(log_joint, self.u if last is None else last.what.u, last and last.what)
        return found and self._at(log_joint, found)

    def _at(self, log_joint: LogJoint, mode: Mode, follows: bool = True) -> At[Mode] | None:
        """The evidence with the mode's curvature, which the noise alone changes where the mode does not follow."""
        u, found = mode.u, self._inverse(log_joint, mode)
        if found is None:
            return None
        covariance, half_log_det = found
        value = self._value(log_joint, u)
        evidence = value + 0.5 * len(u) * math.log(2 * math.pi) - half_log_det
        moving = None if self.linear or not follows else pull(log_joint, u, self.data, covariance)
        found = slopes(log_joint, u, self.data, covariance, moving, follows)
        exact = self.linear or not follows
        slope, bend, size = self.scales.gather(found, exact)
        return At(evidence, slope, bend, mode, size, exact)

    def _inverse(self, log_joint: LogJoint, mode: Mode) -> tuple[torch.Tensor, float] | None:
        """The covariance, or the variances, and ½ log|H|; None where H is not positive definite."""
        matrix = self._matrix(log_joint, mode)
        if not self.dense:
            return (1 / matrix, 0.5 * float(matrix.log().sum())) if bool((matrix > 0).all()) else None
        factor, info = torch.linalg.cholesky_ex(matrix)
        if int(info) == 0:
            return torch.cholesky_inverse(factor), float(factor.diagonal().log().sum())
        precision = from_matrix(matrix, log_joint, mode.u, self.data)
        return None if precision is None else (precision.factor @ precision.factor.mT, precision.root.half_log_det)

    def _matrix(self, log_joint: LogJoint, mode: Mode) -> torch.Tensor:
        likelihood = mode.likelihood
        if self.known:
            likelihood = likelihood / float(log_joint.model.noise({})[self.known]) ** 2
        if not self.dense:
            return likelihood + prior_curvature(log_joint, mode.u)
        matrix = likelihood + prior_hessian(log_joint, mode.u, jacobian=True)
        return 0.5 * (matrix + matrix.mT)

    def _curved(self, log_joint: LogJoint, u: torch.Tensor, known: Mode | None = None) -> Mode:
        """The point with the likelihood's matrix there, at unit noise where that is known."""
        if self.linear and known is not None:
            return dataclasses.replace(known, u=u)
        found = (
            likelihood_gauss_newton(log_joint, u, self.data)
            if self.dense
            else diagonal(log_joint, u, self.data)[0].clamp_min(0)
        )
        return Mode(u, found * float(log_joint.model.noise({})[self.known]) ** 2 if self.known else found)

    def _mode(self, log_joint: LogJoint, u: torch.Tensor, known: Mode | None = None) -> Mode | None:
        """The mode of the unconstrained density from near it; None where there is none.

        Gauss–Newton steps, halved until they gain so that they stay at this mode, and Newton's as soon as it is near.
        """
        here, gain = self._curved(log_joint, u, known), math.inf
        for _ in range(_STEPS):
            factor, info = torch.linalg.cholesky_ex(self._matrix(log_joint, here))
            if int(info):  # a direction that nothing determines is held
                precision = from_matrix(self._matrix(log_joint, here), log_joint, u, self.data)
                if precision is None:
                    return None
                solve = lambda v, f=precision.factor: f @ (f.mT @ v)  # noqa: E731
            else:
                solve = lambda v, f=factor: torch.cholesky_solve(v[:, None], f)[:, 0]  # noqa: E731
            value, gradient, times = products(log_joint, u, self.data)
            move = solve(gradient)
            gain = float(0.5 * gradient @ move)
            if not gain > _MODE:
                break
            if gain < _NEAR and not self.linear:
                move = newton_step(times, gradient, solve)
            for _ in range(_HALVINGS):
                if self._value(log_joint, u + move) > value:
                    break
                move = 0.5 * move
            else:
                break
            u = u + move
            here = self._curved(log_joint, u, here)
        return here if gain < _LOOSE else None
