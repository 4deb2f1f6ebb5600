"""What a check may cost beside the search that it judges, and the look that comes first: do a few steps already gain too much?

    work of a backward pass over B rows ≈ C + B (P + R)       budget: a quarter of the search's steps

A check that is within the budget is made as ever. Else a few steps along conjugate directions of the preconditioned gradient
are tried, g/diag H: what they gain is left to gain at least, whatever the curvature and wherever pieces of a network meet.
Where not all rows can be seen, half of those that can find the steps and the other half judge them. Most short fits are judged
so, for a few passes. Only what is not refuted is looked at by curvature, as far as the budget goes.
"""

from __future__ import annotations

import dataclasses
import math

import torch

from bayesreg.data.rows import Data
from bayesreg.objective.curvature_products import diagonal, sample
from bayesreg.objective.flat import LogJoint
from bayesreg.objective.whole import gradient_of, value_of
from bayesreg.solvers.probe import STEPS

# in units of 10⁻¹⁰ s on one core: what a pass costs by itself, what a row costs beside its unknowns
_CALL, _ROW = 1.3e7, 3000
# multiples of a training step's rows, in double precision, and of its call
_VALUE, _GRADIENT, _PRODUCT, _DIAGONAL, _STEP = (0.8, 0.3), (2.5, 1.0), (9.0, 3.0), (35.0, 5.0), (2.0, 1.0)
SHARE = 0.25  # of the search
_FIRST = 0.5  # of that, for the first look
_GLIMPSE, _GLIMPSED = 0.04, 8192  # of that, for a value that nobody judges, and rows of it in any case
_BLOCK = 1024  # rows of one product
_PARTS = 8  # blocks of rows whose spread is the error of a gain
_ROUNDS, _MOST = 4, 30  # rounds of a look: of so many rows that there are at least these, and at most
_TRIED = 3  # lengths of a step that are tried, on average
_LEAST = 512  # rows below which a look says nothing
_FEW, _MANY = 24, 200  # products with a curvature, at least and at most
_SHORT = 50  # steps of a further search below which it says nothing


@dataclasses.dataclass(frozen=True)
class Effort:
    """What a check may cost.

    Attributes:
        unknowns: P.
        num_data: N.
        budget: In units of `work`.
    """

    unknowns: int
    num_data: int
    budget: float

    def cost(self, kind: tuple[float, float], rows: int, calls: float = 1.0) -> float:
        """Of a pass over so many rows in so many blocks."""
        return calls * kind[1] * _CALL + kind[0] * rows * (self.unknowns + _ROW)

    def product(self, rows: int) -> float:
        """Of one product with a curvature over so many rows."""
        return self.cost(_PRODUCT, rows, math.ceil(rows / _BLOCK))

    def matrix(self) -> float:
        """Of the whole matrix: P products side by side."""
        return self.cost(_DIAGONAL, self.num_data) + 1.0 * self.num_data * self.unknowns * (self.unknowns + _ROW)

    def within(self, kinks: bool, by_matrix: bool) -> bool:
        """Whether a check without a bound is within the budget; `kinks` where a network's pieces meet and it searches on."""
        n = self.num_data
        spent = self.cost(_GRADIENT, n) + 2 * self.cost(_VALUE, n)
        spent += self.matrix() if by_matrix else _MANY * self.product(n)
        return spent + kinks * (_MANY * self.product(n) + STEPS * self.cost(_STEP, n)) <= self.budget

    def glimpse(self) -> int:
        """Rows of a value that is told and not judged: a hundredth of the search, or one block."""
        rows = (_GLIMPSE * self.budget - self.cost(_VALUE, 0, _PARTS)) / self.cost(_VALUE, 1, 0)
        return int(min(self.num_data, max(_GLIMPSED, rows)))

    def look(self) -> tuple[int, int]:
        """Rows and rounds of the first look, within its part of the budget."""
        calls = self.cost(_GRADIENT, 0) + _TRIED * self.cost(_VALUE, 0, _PARTS)
        each = self.cost(_GRADIENT, 1, 0) + _TRIED * self.cost(_VALUE, 1, 0)
        left = _FIRST * self.budget - self.cost(_DIAGONAL, _LEAST)
        rows = self.num_data
        if calls + rows * each > left:
            rows = int(min(rows, max(_LEAST, (left / _ROUNDS - calls) / each)))
        return rows, int(min(_MOST, max(1, left / (calls + rows * each))))

    def rest(self, kinks: bool, passes: tuple[int, int]) -> Rest | None:
        """What curvature can be looked at after a first look at all rows; None where that is too little to tell.

        Args:
            kinks: Whether pieces of the network meet.
            passes: Gradients and values that the first look took.
        """
        (gradients, values), n = passes, self.num_data
        spent = self.cost(_DIAGONAL, _LEAST) + self.cost(_GRADIENT, n * gradients, gradients)
        spent += self.cost(_VALUE, n * values, _PARTS * values)
        left = (self.budget - spent) / (2 if kinks else 1)  # where pieces meet there are two looks, and a search
        rows = self.num_data
        least = lambda rows: (1 + kinks) * _FEW * self.product(rows) + self.cost(_DIAGONAL, rows)  # noqa: E731
        while rows > _LEAST and least(rows) > left:
            rows = max(_LEAST, rows // 2)
        if least(rows) > left:
            return None
        steps = int(left / self.cost(_STEP, self.num_data)) if kinks else STEPS
        if steps < _SHORT:
            return None
        products = int((left - self.cost(_DIAGONAL, rows)) / ((1 + kinks) * self.product(rows)))
        return Rest(min(_MANY, products), rows, min(STEPS, steps))


@dataclasses.dataclass(frozen=True)
class Rest:
    """How far a look at the curvature may go.

    Attributes:
        products: With it.
        rows: That it is summed over.
        steps: Of a further search.
    """

    products: int
    rows: int
    steps: int


def work(steps: int, rows: int, unknowns: int) -> float:
    """What so many training steps of so many rows cost, in the units of `Effort`."""
    return steps * (_CALL + rows * (unknowns + _ROW))


@dataclasses.dataclass(frozen=True)
class Look:
    """What a few steps gain.

    Attributes:
        value: The log-joint before them, in nats and the data's own units; an estimate where not all rows were seen.
        climbed: How far that is above the start.
        gain: What they gain, in nats.
        error: The gain's Monte Carlo error; zero where all rows were seen.
        rows: Rows that were seen.
        passes: Gradients and values that it took.
    """

    value: float
    climbed: float
    gain: float
    error: float
    rows: int
    passes: tuple[int, int] = (0, 2)

    @property
    def at_least(self) -> float:
        """Nats that are left to gain, almost surely."""
        return self.gain - 3 * self.error


def first_look(
    log_joint: LogJoint,
    u: torch.Tensor,
    start: torch.Tensor,
    data: Data,
    rows: int,
    rounds: int,
    *,
    jacobian: bool,
    enough: float,
) -> Look:
    """Steps along conjugate directions of g/diag H; found by half of some rows, judged by the others, or both by all N.

    Args:
        log_joint: The objective, best in float64.
        u: The candidate, (P,).
        start: Where the search began, (P,).
        data: All rows.
        rows: How many to see.
        rounds: Steps at most.
        jacobian: Of the density of `u`.
        enough: Nats above which no further step is tried.

    Returns:
        What they gain for sure.
    """
    seen = sample(data, rows)
    count = len(seen.x)  # pyright: ignore[reportArgumentType]
    whole = count >= data.num_data
    half = count if whole else count // 2
    found, judged = _part(seen, 0, half), _part(seen, 0 if whole else half, count)
    by_data, by_prior = diagonal(log_joint, u, sample(found, min(half, _LEAST)))
    metric = (by_data + by_prior.clamp_min(0)).clamp_min(1e-12 * float(by_data.max()))
    before = _Values.at(log_joint, u, judged, jacobian)
    best = Look(before.total, before.above(_Values.at(log_joint, start, judged, jacobian))[0], 0.0, 0.0, count)
    at, reached, direction, last, length = u, before, torch.zeros_like(u), None, 1.0
    values = 2
    for tried in range(1, rounds + 1):
        gradient = gradient_of(log_joint, at, found, jacobian=jacobian)[1]
        for group in log_joint.nonsmooth:  # what a kink holds at zero stays there
            gradient[group.slice] = torch.where(at[group.slice] == 0, 0.0, gradient[group.slice])
        newton = gradient / metric
        turned = 0.0 if last is None else max(0.0, float(newton @ (gradient - last[0])) / float(last[0] @ last[1]))
        direction, last = newton + turned * direction, (gradient, newton)
        while length > 1e-3:
            there, values = _Values.at(log_joint, at + length * direction, judged, jacobian), values + 1
            best = dataclasses.replace(best, passes=(tried, values))
            if there.above(reached)[0] > 0:
                break
            length *= 0.25
        else:
            break
        at, reached, length = at + length * direction, there, 2 * length
        gain, error = there.above(before)
        best = dataclasses.replace(best, gain=gain, error=0.0 if whole else error)
        if best.at_least > enough:
            break
    return best


def value_near(log_joint: LogJoint, u: torch.Tensor, data: Data, rows: int, *, jacobian: bool) -> float:
    """The log-joint in nats and the data's own units, estimated from so many rows, evenly apart, where these are not all.

    Args:
        log_joint: The objective.
        u: The point, (P,).
        data: All rows.
        rows: How many to see; all of them where they are streamed.
        jacobian: Of the density of `u`.
    """
    if data.x is None or data.y is None or data.coupled or rows >= len(data.x):
        return value_of(log_joint, u, data, jacobian=jacobian)
    apart = -(-len(data.x) // rows)
    return _Values.at(log_joint, u, dataclasses.replace(data, x=data.x[::apart], y=data.y[::apart]), jacobian).total


@dataclasses.dataclass(frozen=True)
class _Values:
    """The log-joint at a point, by blocks of some rows.

    Attributes:
        blocks: Sums over rows, and N over the number of rows.
        prior: The prior's part, with the constant of the data's units.
    """

    blocks: torch.Tensor
    share: float
    prior: float

    @classmethod
    @torch.no_grad()
    def at(cls, log_joint: LogJoint, u: torch.Tensor, data: Data, jacobian: bool) -> _Values:
        values, size = log_joint.layout.unflatten(u), len(data.x)  # pyright: ignore[reportArgumentType]
        prior = log_joint.log_prior(u, values) + (log_joint.layout.log_jacobian(u) if jacobian else 0.0)
        rows = data.epoch(max(1, -(-size // _PARTS)))
        blocks = torch.stack([log_joint.row_terms(values, x, y, len(x)).double() for x, y in rows])
        return cls(blocks, data.num_data / size, float(prior) + data.num_data * log_joint.model.log_jacobian)

    @property
    def total(self) -> float:
        """The log-joint in nats and the data's own units."""
        return self.share * float(self.blocks.sum()) + self.prior

    def above(self, other: _Values) -> tuple[float, float]:
        """How far this is above another, and the Monte Carlo error of that from so many rows."""
        change = self.blocks - other.blocks
        error = float(change.std()) * len(change) ** 0.5 if len(change) > 1 else math.inf
        return self.share * float(change.sum()) + self.prior - other.prior, self.share * error


def _part(data: Data, begin: int, end: int) -> Data:
    return dataclasses.replace(data, x=data.x[begin:end], y=data.y[begin:end])  # pyright: ignore[reportOptionalSubscript]
