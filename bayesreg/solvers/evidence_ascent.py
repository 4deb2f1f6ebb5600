"""Ascent of the log evidence in the logarithms of scales: of the priors, and of a known noise.

    t = log scales,   t ← t + B⁻¹ ∂/∂t log p(y),   B = diag(2γ) at first (MacKay's update s² = Σw²/γ), then BFGS

At each t the mode is found anew, from the last one by a few Gauss–Newton steps, whose matrix then is the curvature.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from bayesreg.data.rows import Data
from bayesreg.model.model import BayesianModel
from bayesreg.objective.affine import is_affine
from bayesreg.objective.curvature import likelihood_gauss_newton, prior_curvature, prior_hessian
from bayesreg.objective.curvature_products import diagonal, gauss_newton_product
from bayesreg.objective.evidence import known_noise, newton_step, products, pull, slopes
from bayesreg.objective.flat import LogJoint
from bayesreg.objective.identify import from_matrix
from bayesreg.objective.pieces import is_nonsmooth
from bayesreg.objective.whole import in_double
from bayesreg.solvers.evidence_scales import Scales
from bayesreg.solvers.history import History
from bayesreg.solvers.progress import unheard
from bayesreg.solvers.quasi_newton import lbfgs
from bayesreg.solvers.whitened import LEAST, inverse_root, settle, stepped

_MOST = 50  # steps in the scales
_FURTHEST = 1.5  # change of a logarithm in one step
NOTHING = 0.01  # twice the nats up to which a scale that falls may still gain on its way to zero, where it is left
_VANISHING = 0.2  # curvature below which a scale that falls has no weight left that the data determine
_ENOUGH, _EXACT = 1e-5, 1e-9  # nats that a further step would gain, and by an exact second derivative
_LITTLE = 0.5  # nats of evidence that do not matter where the mode does not follow each step
_PARAMETERS = 60  # unknowns of a smooth network up to which its mode is found anew at each step in the scales
_SAME = 1e-7  # share of the curvature below which other scales leave the distribution of the functions as it is
_LOOK = 200  # steps that cost about as much as the curvature at a point
_DETERMINED = 0.05  # γ that an update counts at least
_LAST = 500  # steps to a mode whose curvature's diagonal is taken
_STEPS, _HALVINGS = 100, 8  # steps to a mode, and halvings of one
_LOOSE = 1e-3  # nats left to gain where it still counts as a mode
_NEAR = 0.1  # the same where Newton's steps take over from Gauss and Newton's
_MODE = 1e-9  # nats left to gain at a mode

T = TypeVar("T")


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
        same: Directions along which the scales make no other distribution of functions, (S, K).
    """

    evidence: float
    slope: np.ndarray
    bend: np.ndarray
    what: T
    size: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))
    exact: bool = False
    same: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 0)))


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


def level(slope: np.ndarray, size: np.ndarray, along: np.ndarray) -> np.ndarray:
    """The slopes where those along some directions are known to be zero, since the mode moves along itself with the scales.

    Args:
        slope: At a fixed point, (S,).
        size: γ of each scale, (S,); γ + slope = Σ w²/s² is what the prior resists such a move by.
        along: The directions, (S, K).
    """
    if not along.shape[1]:
        return slope
    resisted = np.maximum(size + slope, 1e-3)[:, None] * along
    return slope - resisted @ np.linalg.solve(along.T @ resisted, along.T @ slope)


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
        self.narrow, self.rows, self.num_steps = model, data, 0
        wide, self.u, self.data = in_double(LogJoint(model), u, data)
        self.model, self.scales, self.dense = wide.model, scales, dense
        self.known = known_noise(model) or ""
        squared = dense and bool(self.known) and not model.outputs and data.x is not None and data.x.is_floating_point()
        self.linear = squared and is_affine(wide, self.data)  # then the likelihood's matrix changes with the noise alone

    def log_joint(self, t: np.ndarray) -> LogJoint:
        """The objective at some scales."""
        return LogJoint(self.scales.model(self.model, dict(zip(self.scales.labels, np.exp(t).tolist(), strict=True))))

    @property
    def tolerance(self) -> float:
        """Nats of evidence that are too few to matter: as at a mode 1 % of P/2, where the mode does not follow each step."""
        return 0.01 if self.follows else max(_LITTLE, 0.005 * len(self.u))

    @property
    def follows(self) -> bool:
        """Whether the mode is found anew at each step in the scales, and their exact slopes are climbed."""
        return self.linear or (self.dense and len(self.u) <= _PARAMETERS and not is_nonsmooth(LogJoint(self.model)))

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

    def _at(self, log_joint: LogJoint, mode: Mode) -> At[Mode] | None:
        u, found = mode.u, self._inverse(log_joint, mode)
        if found is None:
            return None
        covariance, half_log_det = found
        moving = None if self.linear else pull(log_joint, u, self.data, covariance)
        found = slopes(log_joint, u, self.data, covariance, moving)
        slope, bend, size = self.scales.gather(found, self.linear)
        return self._with_noise(log_joint, At(self._evidence(log_joint, u, half_log_det), slope, bend, mode, size, self.linear))

    def _evidence(self, log_joint: LogJoint, u: torch.Tensor, half_log_det: float) -> float:
        return self._value(log_joint, u) + 0.5 * len(u) * math.log(2 * math.pi) - half_log_det

    def looked(self, t: np.ndarray, u: torch.Tensor) -> At[Mode] | None:
        """The evidence at some scales by the curvature at a point near their mode, with MacKay's slopes there.

        The slopes are those at a fixed point, but for the scales that make no other distribution of functions: of ReLU layers
        that follow each other one may be narrower and the other wider, and the mode moves with them. The slopes along those are
        zero; what that says of the others is taken into account.

        Args:
            t: Logarithms of the scales, (S,).
            u: The point, (P,).

        Returns:
            As `evaluated`; `bend` is 2γ.
        """
        self.num_steps += _LOOK
        log_joint = self.log_joint(t)
        mode = self._curved(log_joint, u)
        inverse = self._inverse(log_joint, mode)
        if inverse is None:
            return None
        found = slopes(log_joint, u, self.data, inverse[0], follows=False)
        slope, _, size = self.scales.gather(found, exact=False)
        same = self._same(log_joint, mode)
        slope = level(slope, size, same)
        at = At(self._evidence(log_joint, u, inverse[1]), slope, 2 * np.diag(size.clip(_DETERMINED)), mode, size, same=same)
        return self._with_noise(log_joint, at)

    def _same(self, log_joint: LogJoint, mode: Mode) -> np.ndarray:
        """Directions in the logarithms along which the scales make no other distribution of functions, (S, K).

        They move each tensor along itself; the outputs' derivative along the sum of such moves then vanishes.
        """
        names = list(self.scales.tensors.values())
        along = torch.zeros(len(mode.u), len(names)).to(mode.u)
        for j, some in enumerate(names):
            for part in (log_joint.layout.segments[name] for name in some):
                prior: Any = part.latent.prior
                along[part.slice, j] = mode.u[part.slice] - (float(prior.origin) if part.transform is None else 0.0)
        if self.dense:
            pushed = mode.likelihood @ along
            sizes = (mode.likelihood.diagonal()[:, None] * along.square()).sum(0)
        else:
            prior_part = prior_curvature(log_joint, mode.u)
            pushed = [gauss_newton_product(log_joint, mode.u, self.data, v) - prior_part * v for v in along.mT]
            pushed, sizes = torch.stack(pushed, 1), (mode.likelihood[:, None] * along.square()).sum(0)
        unit = sizes.clamp_min(torch.finfo(sizes.dtype).tiny).rsqrt()
        matrix = unit[:, None] * (along.mT @ pushed) * unit
        matrix = torch.where(torch.diag(sizes > 0), matrix, matrix + torch.diag((sizes <= 0).to(matrix)))
        values, vectors = torch.linalg.eigh(0.5 * (matrix + matrix.mT))
        found = (unit[:, None] * vectors)[:, values < _SAME]
        found = found / found.abs().amax(0).clamp_min(1e-300) if found.shape[1] else found
        return np.pad(found.cpu().numpy(), ((0, len(self.scales.labels) - len(names)), (0, 0)))

    def _with_noise(self, log_joint: LogJoint, at: At[Mode]) -> At[Mode]:
        """With the density of the noise's logarithm, where the noise has a prior."""
        if self.scales.noise_prior is None:
            return at
        sigma = torch.tensor(math.log(float(log_joint.model.likelihood.fixed[self.scales.noise])), dtype=torch.float64)
        sigma.requires_grad_()
        value = self.scales.noise_prior.log_prob(sigma.exp()) + sigma
        (first,) = torch.autograd.grad(value, sigma)
        slope = at.slope.copy()
        slope[-1] += float(first)
        return dataclasses.replace(at, evidence=at.evidence + float(value.detach()), slope=slope)

    def towards(self, t: np.ndarray, at: At[Mode], rate: float, num_steps: int) -> torch.Tensor | None:
        """A round of steps towards the mode at some scales, from a point and by its curvature, (P,); None where it fails."""
        log_joint = self.log_joint(t)
        matrix = self._matrix(log_joint, at.what)
        root = inverse_root(matrix) if self.dense else matrix.clamp_min(torch.finfo(matrix.dtype).tiny).rsqrt()
        if root is None:
            return None
        narrow = LogJoint(self.scales.model(self.narrow, self.scales.values(t)))
        words: Any = {"jacobian": True, "report": unheard, "num_steps": num_steps}
        found = stepped(narrow, at.what.u.to(self.narrow.like), root, self.rows, rate, **words)
        self.num_steps += num_steps
        return None if found is None else found.to(self.u)

    def settled(self, t: np.ndarray, u: torch.Tensor, history: History) -> torch.Tensor:
        """The mode at some scales from near it, (P,)."""
        narrow = LogJoint(self.scales.model(self.narrow, self.scales.values(t)))
        start = u.to(self.narrow.like)
        if self.dense:
            found = settle(narrow, start, self.rows, jacobian=True, history=history, report=unheard, rate=LEAST)
            self.num_steps += found.steps
            return found.u.to(self.u)
        words: Any = {"jacobian": True, "num_steps": _LAST, "history": History(), "report": unheard}
        return lbfgs(self.log_joint(t), u, self.data, **words)

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
