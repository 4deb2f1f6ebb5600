"""The mode of a model that is affine in its weights, with Gaussian noise of known scale: penalised least squares.

    −log p(u | y)  =  ½‖t − D u‖²  +  Σ energies(u)  +  const,     D = J/σ,  t = (y − offset)/σ

Gaussian and flat priors have a closed form. Laplace and ElasticNet priors are the lasso's, solved by coordinates once the
Gaussian unknowns (an intercept) are eliminated. What else is convex goes to FISTA. All of it in float64, and judged by a
duality gap in nats: a proof of how much is left to gain.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from bayesreg.data.rows import Data
from bayesreg.objective.affine import AffineProblem, gaussian_of
from bayesreg.objective.first_order import exact_zeros, violation
from bayesreg.objective.flat import LogJoint
from bayesreg.objective.inverse import Improper, improper, num_free
from bayesreg.objective.whole import in_double
from bayesreg.priors import ElasticNet, GroupLasso, Laplace
from bayesreg.priors.groups import grouped
from bayesreg.priors.values import HALF_LOG_2PI
from bayesreg.solvers.accelerated import fista, top_of
from bayesreg.solvers.base import AbstractSolver, Problem, Solution, Unsuited
from bayesreg.solvers.columns import Columns
from bayesreg.solvers.coordinate_descent import lasso
from bayesreg.solvers.groupwise import Groups, group_lasso
from bayesreg.solvers.history import History
from bayesreg.solvers.least_squares import Elimination, Undetermined, ridge, root_of
from bayesreg.solvers.progress import ProgressCallback

_NO_LEAST_SQUARES = (
    "a network that is linear in its weights, Gaussian noise of known scale, convex penalties and all rows, but this model is "
    "another; take 'auto'."
)
MAX_ROWS = 65_536  # that are evaluated at once
_STEPS = 5000  # of FISTA where no duality gap says when to stop


@dataclasses.dataclass(frozen=True)
class LinearSolution:
    """The mode of an `AffineProblem`.

    Attributes:
        u: (P,) float64, in the layout's order, on the CPU; numbers that the module's type holds.
        gap: Nats that are at most left to gain; None where no dual point is known.
        note: How it was found, one sentence.
    """

    u: torch.Tensor
    gap: float | None
    note: str


class LinearGaussian(AbstractSolver):
    """Penalised least squares by its own conditions: closed form, coordinate descent with a duality gap, or FISTA."""

    name: ClassVar[str] = "least-squares"
    rank: ClassVar[int] = 10
    local: ClassVar[bool] = False

    def requires(self, problem: Problem) -> str | None:
        """A network that is linear in its weights, known Gaussian noise, convex penalties, and nothing to search by."""
        if asked := problem.asked_to_search:
            return f"no search, but {asked} came; leave it out, or take another optimizer."
        return None if problem.affine is not None else _NO_LEAST_SQUARES

    def suits(self, problem: Problem) -> str | None:
        """Whatever it can solve; its own note says how."""
        return ""

    def solve(self, problem: Problem, start: torch.Tensor, history: History, report: ProgressCallback) -> Solution:
        """Solve it; the start is of no account.

        Raises:
            ValueError: If the data do not determine a weight whose prior is flat; it is named.
            Unsuited: If the network is not linear where the answer is.
        """
        log_joint, affine = problem.log_joint, problem.affine
        if affine is None:
            raise Unsuited(f"optimizer='least-squares' needs {_NO_LEAST_SQUARES}")
        found, value, worst = _measured(affine, log_joint, problem.data)
        u = found.u.to(log_joint.model.like)
        history.record(1, value)
        history.notes.append(found.note)
        if log_joint.nonsmooth:
            history.notes.append(f"{exact_zeros(log_joint, u):,} weights are exactly zero.")
        report(1, 1, value)
        return Solution(u, log_joint.model, value=value, gap=found.gap, violation=worst, exact=True)


class _Penalty:
    """The priors of a log-joint, as arrays over the vector: which entries are Gaussian, and what holds the others.

    Attributes:
        smooth: True for a Gaussian or flat entry, (P,).
        groups: The group of each other entry, −1 for a Gaussian one, (P,): the entry itself for Laplace and ElasticNet.
        strength: a, one a group.
        l2: c, (P,).
        loc: Where the penalty is centred, (P,).
        kind: "coordinates" where every group is one entry, "groups", or "prox" where a prior is known by its prox alone.
    """

    def __init__(self, log_joint: LogJoint) -> None:
        size = log_joint.layout.size
        self.log_joint = log_joint
        self.segments = log_joint.layout.in_order
        self.smooth = np.zeros(size, dtype=bool)
        self.l2, self.loc = np.zeros(size), np.zeros(size)
        self.kind = "coordinates"
        ids, strengths, blocks, count = np.full(size, -1), [], [], 0
        for s in self.segments:
            prior, shape = s.latent.prior, s.latent.shape
            found = gaussian_of(s)
            if found is not None:
                self.smooth[s.slice], self.loc[s.slice] = True, found[0]
                blocks.append(found[1].double().cpu().numpy())
                continue
            own = np.arange(s.stop - s.start)
            if type(prior) is Laplace:
                strengths.append(1 / _entries(prior.scale, shape))
                self.loc[s.slice] = float(prior.loc)
            elif type(prior) is ElasticNet:
                strengths.append(1 / _entries(prior.l1_scale, shape))
                self.l2[s.slice] = _entries(prior.l2_scale, shape) ** -2
            elif type(prior) is GroupLasso:
                members = grouped(torch.arange(s.stop - s.start).view(shape), prior.per).numpy()
                own[members] = np.arange(len(members))[:, None]
                strengths.append(np.full(len(members), 1 / float(prior.scale)))
                self.kind = "groups" if self.kind == "coordinates" else self.kind
            else:
                self.kind = "prox"
                continue
            ids[s.slice] = count + own
            count += len(strengths[-1])
        self.groups, self.strength = ids, np.concatenate(strengths) if strengths else np.zeros(0)
        self.precision = _block_diagonal(blocks)
        self.mean = self.loc[self.smooth]

    @property
    def nonsmooth(self) -> np.ndarray:
        """Numbers of the entries that are not Gaussian."""
        return np.flatnonzero(~self.smooth)

    def same_gaussian(self, other: _Penalty) -> bool:
        """True where both have the same Gaussian part and centres, so that one elimination serves both."""
        return np.array_equal(self.loc, other.loc) and np.array_equal(self.precision, other.precision)

    def undetermined(self, direction: np.ndarray) -> ValueError:
        """What to say where a direction of the Gaussian unknowns, (k,), is free."""
        full = np.zeros(len(self.smooth))
        full[self.smooth] = np.abs(direction)
        free = full > 1e-9 * full.max()
        names = [s.latent.name for s in self.segments if free[s.slice].any() and not s.latent.prior.proper]
        names = names or [s.latent.name for s in self.segments if free[s.slice].any()]
        name = " and ".join(names)
        prior = self.log_joint.model.latents[names[0]].prior
        return ValueError(
            f"the mode must be one point, but the data do not determine {name}, whose prior {prior} leaves it free (more "
            "weights than rows, columns that are constant or repeat each other, or inputs so far above their spread that they "
            "are constants in double precision); give it a narrower proper prior, for example Normal(1.0), drop redundant "
            "inputs, or centre or standardise them."
        )


def _entries(scale: Any, shape: torch.Size) -> np.ndarray:
    return torch.as_tensor(scale, dtype=torch.float64).expand(shape).reshape(-1).cpu().numpy()


def _block_diagonal(blocks: Sequence[np.ndarray]) -> Any:
    """(k,) where every block is a diagonal, else (k, k)."""
    if all(block.ndim == 1 for block in blocks):
        return np.concatenate(blocks) if blocks else np.zeros(0)
    from scipy.linalg import block_diag

    return block_diag(*(np.diag(block) if block.ndim == 1 else block for block in blocks))


class _Reduced:
    """The problem in the entries with a kink alone: the Gaussian ones are at their best for any of them."""

    def __init__(self, problem: AffineProblem, penalty: _Penalty) -> None:
        self.problem, self.penalty, self.which = problem, penalty, penalty.nonsmooth
        self.elimination: Elimination | None = None
        D = problem.design
        # centred at the prior's own point, so that a kink stands at zero; other priors see the entries themselves
        centre = penalty.loc[self.which] if penalty.kind != "prox" else np.zeros(len(self.which))
        self.centre, self.kept = centre, problem.target - (D[:, self.which] @ centre if centre.any() else 0.0)
        first = int(self.which[0])
        block = slice(first, first + len(self.which))
        part = D[:, block] if int(self.which[-1]) == block.stop - 1 else D[:, self.which]
        if penalty.smooth.any():
            try:
                self.elimination = Elimination(D[:, penalty.smooth], penalty.mean, root_of(penalty.precision))
            except Undetermined as error:
                raise penalty.undetermined(error.direction) from None
            A, self.reached = self.elimination.project(part)
            t = self.elimination.target(self.kept)
        else:
            A, t = np.asfortranarray(part), self.kept
        self.columns = Columns(A, t)

    def complete(self, w: np.ndarray) -> np.ndarray:
        """The whole vector for w over the entries with a kink, counted from their centres."""
        u = np.empty(len(self.penalty.smooth))
        u[self.which] = self.centre + w
        if self.elimination is not None:
            u[self.penalty.smooth] = self.elimination.values(self.kept, self.reached @ w)
        return u

    def excess(self, u: np.ndarray, precision: np.ndarray) -> float:
        """What the Gaussian entries of u, which rounding has moved, leave to gain, in nats."""
        if self.elimination is None:
            return 0.0
        residual = self.problem.target - self.problem.design @ u
        shift = u[self.penalty.smooth] - self.penalty.mean
        pulled = precision * shift if precision.ndim == 1 else precision @ shift
        return self.elimination.excess(self.elimination.design.T @ residual - pulled)


def solve(problem: AffineProblem, log_joint: LogJoint) -> LinearSolution:
    """The mode.

    Args:
        problem: What `affine_problem` gave.
        log_joint: The model whose priors hold; its layout is that of the problem.

    Returns:
        The solution and its duality gap.

    Raises:
        ValueError: If the data do not determine a weight whose prior is flat; it is named.
    """
    return solve_path(problem, [log_joint])[0]


def solve_path(problem: AffineProblem, log_joints: Sequence[LogJoint]) -> list[LinearSolution]:
    """The modes of models that differ in their priors' scales alone, each begun from its neighbour with a larger penalty.

    Args:
        problem: What `affine_problem` gave for one of them.
        log_joints: The models, of one layout.

    Returns:
        One solution a model, in the order of `log_joints`.

    Raises:
        ValueError: As for `solve`.
    """
    penalties = [_Penalty(log_joint) for log_joint in log_joints]
    strengths = [_strength(penalty) for penalty in penalties]
    solutions: dict[int, LinearSolution] = {}
    reduced: _Reduced | None = None
    at = None
    for i in sorted(range(len(penalties)), key=lambda i: -strengths[i]):
        penalty = penalties[i]
        if not len(penalty.nonsmooth):
            solutions[i] = _closed_form(problem, penalty)
            continue
        if reduced is None or not reduced.penalty.same_gaussian(penalty):
            reduced = _Reduced(problem, penalty)
            if len(penalties) > 5:
                reduced.columns.form()
        at, solutions[i] = _nonsmooth(reduced, penalty, at)
    return [solutions[i] for i in range(len(penalties))]


def _strength(penalty: _Penalty) -> float:
    """A number that grows with the penalty: at a point away from every kink."""
    if penalty.kind != "prox":
        return float(penalty.strength.sum())
    point = torch.linspace(0.5, 1.0, len(penalty.smooth)).to(penalty.log_joint.model.like)
    return float(penalty.log_joint.energy(point))


def _closed_form(problem: AffineProblem, penalty: _Penalty) -> LinearSolution:
    try:
        u, excess = ridge(problem.design, problem.target, penalty.mean, penalty.precision)
    except Undetermined as error:
        if penalty.log_joint.model.linear_operator is not None:
            rows = np.concatenate([problem.design, root_of(penalty.precision)])
            raise Improper(improper(num_free(torch.from_numpy(rows)))) from None
        raise penalty.undetermined(error.direction) from None
    u = torch.from_numpy(u).to(problem.dtype).double().numpy()
    gap = excess(u)
    note = f"closed form: the model is linear-Gaussian; duality gap {gap:.1g} nats."
    return LinearSolution(torch.from_numpy(u), gap, note)


def _nonsmooth(reduced: _Reduced, penalty: _Penalty, start: np.ndarray | None) -> tuple[np.ndarray, LinearSolution]:
    which, columns = reduced.which, reduced.columns
    begin = None if start is None else start[which] - reduced.centre
    l2, groups = penalty.l2[which], Groups(penalty.groups[which], penalty.strength)
    if penalty.kind == "coordinates":
        w, gap, engine = lasso(columns, penalty.strength, l2, begin)
    elif penalty.kind == "groups":
        w, gap, engine = group_lasso(columns, groups, l2, begin)
    else:
        w, gap, engine = _by_prox(reduced, penalty, begin), None, "FISTA"
    exact = reduced.complete(w)
    u = torch.from_numpy(exact).to(reduced.problem.dtype).double().numpy()
    if gap is not None and not np.array_equal(u, exact):  # judged as it is given back
        w = u[which] - reduced.centre
        gap = groups.gap(columns, l2, w) + reduced.excess(u, penalty.precision)
    gap = None if gap is None else max(gap, 0.0)
    said = "" if gap is None else f"; duality gap {gap:.1g} nats"
    note = f"{engine}: the model is linear-Gaussian{said}."
    return exact, LinearSolution(torch.from_numpy(u), gap, note)


def _by_prox(reduced: _Reduced, penalty: _Penalty, start: np.ndarray | None) -> np.ndarray:
    """FISTA with the priors' own prox, until nothing moves any more."""
    columns = reduced.columns
    A, moment = torch.from_numpy(columns.design), torch.from_numpy(columns.moment)
    gram = torch.from_numpy(columns.gram) if A.shape[1] <= 3000 else None
    places = {int(entry): place for place, entry in enumerate(reduced.which)}
    parts = [
        (g, slice(places[g.start], places[g.start] + g.stop - g.start)) for g in penalty.log_joint.groups if g.start in places
    ]
    last = [torch.full_like(moment, torch.inf)]

    def product(v: torch.Tensor) -> torch.Tensor:
        return A.mT @ (A @ v) if gram is None else gram @ v

    def prox(v: torch.Tensor, t: Any) -> torch.Tensor:
        return torch.cat([group.prox(v[where], t) for group, where in parts])

    def done(v: torch.Tensor) -> bool:
        moved, last[0] = float((v - last[0]).abs().max()), v
        return moved <= 1e-12 * float(v.abs().max())

    step = 1 / top_of(lambda v: product(torch.from_numpy(v)).numpy(), len(moment))
    begin = torch.zeros_like(moment) if start is None else torch.from_numpy(start.copy())
    return fista(lambda v: product(v) - moment, prox, begin, step=step, num_steps=_STEPS, done=done).numpy()


def _measured(problem: AffineProblem, log_joint: LogJoint, data: Data) -> tuple[LinearSolution, float, float]:
    """The solution, the log-joint there in nats and the data's own units, and the largest violation of its conditions.

    Raises:
        Unsuited: If the module itself says otherwise there: affine at two random points is not yet affine at the answer.
    """
    found, model = solve(problem, log_joint), log_joint.model
    wide, u, rows = in_double(log_joint, found.u.to(model.like), data)
    with torch.no_grad():
        likelihood = sum(float(wide.log_likelihood(wide.layout.unflatten(u), x, y, len(x))) for x, y in rows.epoch(MAX_ROWS))
        value = likelihood + float(wide.log_prior(u)) + data.num_data * model.log_jacobian
    residual = problem.target - problem.design @ found.u.numpy()
    loss = 0.5 * float(np.square(residual).sum())
    sigma = model.likelihood.fixed[str(model.likelihood.squared_error_scale)]
    constant = len(problem.target) * (math.log(float(sigma)) + HALF_LOG_2PI)
    if not abs(likelihood + loss + constant) <= 1e-6 * (abs(likelihood) + loss + abs(constant)):
        raise Unsuited(f"optimizer='least-squares' needs {_NO_LEAST_SQUARES}")
    return found, value, _violation(wide, u, problem.design, residual)


def _violation(log_joint: LogJoint, u: torch.Tensor, design: np.ndarray, residual: np.ndarray) -> float:
    """The largest violation of the optimality conditions, from the design alone: no network is differentiated."""
    ascent = torch.from_numpy(design.T @ residual).to(u)
    bend = torch.from_numpy(np.einsum("ij,ij->j", design, design)).to(u)
    metric = bend.clone()
    for group in log_joint.groups:
        part = u[group.slice]
        ascent[group.slice] -= group.slope(part)
        if group.elementwise:
            metric[group.slice] += group.curvature(part)
    tiny = torch.finfo(u.dtype).tiny
    return violation(log_joint, u, ascent, bend.clamp_min(tiny), metric.clamp_min(tiny))
