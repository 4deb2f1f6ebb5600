"""Measures a candidate for a mode: the first-order conditions, and the curvature of the log-joint.

    gain       ½ gᵀH⁻¹g, what a Newton step would still add, in nats
    violation  maxᵢ √Hᵢᵢ |uᵢ − proxᵢ(uᵢ − gᵢ/Hᵢᵢ)|, in posterior sds; |gᵢ|/√Hᵢᵢ where nothing has a kink
    smallest   the smallest eigenvalue of H; below zero at a saddle

Neither of the first two depends on units. H is minus the log-joint's second derivative, or Gauss–Newton's matrix.
"""

from __future__ import annotations

import dataclasses

import torch

from bayesreg.behaviour import FORWARD, VMAP
from bayesreg.certificates.effort import Rest
from bayesreg.certificates.values import Source
from bayesreg.data.rows import Data
from bayesreg.objective.curvature import full_hessian, gauss_newton
from bayesreg.objective.curvature_products import (
    Ends,
    Product,
    diagonal,
    ends,
    gauss_newton_product,
    hessian_product,
    newton_gain,
    sample,
)
from bayesreg.objective.first_order import stationarity, violation
from bayesreg.objective.flat import LogJoint
from bayesreg.objective.whole import value_of

FULL_CURVATURE = 1000  # unknowns up to which the whole matrix is formed; above, products with it
LOOPED_CURVATURE = 200  # the same where its columns cannot be found side by side
WORK = 2**31  # rows × unknowns × products
MATRIX = 2**31  # the same for the matrix itself, which takes P products: cheaper ones, side by side
PRODUCTS = 100  # products for the smallest eigenvalue; twice as many where they are cheap
SMALL = 64  # free unknowns whose matrix is formed column by column


@dataclasses.dataclass(frozen=True)
class Curvature:
    """The curvature of the log-joint at a point, over the unknowns that are not held at a kink.

    Attributes:
        gain: What a Newton step would add, in nats.
        source: The matrix and the rows it comes from.
        smallest: The smallest eigenvalue; None where every unknown is held; Lanczos's upper bound where the matrix was not
            formed.
        largest: The largest, or a lower bound of it.
        direction: The eigenvector of the smallest eigenvalue, (P,); None where that cannot be negative.
        saddle: True where that eigenvalue is negative beyond rounding.
        metric: A positive diagonal, the Gauss–Newton matrix's and the prior's, (P,): one over the square of an sd.
    """

    gain: float
    source: Source
    smallest: float | None
    largest: float
    direction: torch.Tensor | None
    saddle: bool
    metric: torch.Tensor


def measure(
    log_joint: LogJoint,
    u: torch.Tensor,
    gradient: torch.Tensor,
    data: Data,
    *,
    jacobian: bool = False,
    kinks: bool = False,
    slack: float = 0.0,
    rest: Rest | None = None,
) -> tuple[Curvature, float]:
    """The curvature at a point, and the violation of the first-order conditions there.

    Up to `FULL_CURVATURE` unknowns the matrix is formed. Above, Lanczos finds the smallest eigenvalue, also with every unknown
    scaled by its own sd, where a negative one shows sooner, and conjugate gradients find the gain: on all rows while rows ×
    unknowns allow. Otherwise both use a sample of rows: a negative eigenvalue is then recomputed over all rows in the direction
    found, and the gain is that of the diagonal.

    `kinks` says that the network is piecewise linear; then the curvature is Gauss–Newton's, since the Hessian of one piece says
    nothing about the next. A gain of `slack` nats does not matter. `rest` bounds the work; the matrix then is not formed.
    """
    products, rows = _budget(len(u), data.num_data, rest)
    seen = sample(data, rows)
    data_part, prior_part = diagonal(log_joint, u, seen)
    metric = data_part + prior_part.clamp_min(0)
    metric = metric.clamp_min(1e-12 * float(metric.max())).clamp_min(torch.finfo(metric.dtype).tiny)
    broken = violation(log_joint, u, gradient, data_part, metric)
    residual = stationarity(log_joint, u, gradient, data_part)
    free = _free(log_joint, u, residual)
    if not bool(free.any()):
        return Curvature(0.0, Source("", 0, data.num_data), None, 0.0, None, False, metric), broken
    behaviour = log_joint.model.behaviour
    kind = "Gauss–Newton matrix" if kinks else f"Hessian{behaviour.approximately}"
    if rest is None and takes_matrix(log_joint, data.num_data):
        source = Source(kind, data.num_data, data.num_data)
        return _whole(log_joint, u, residual, data, free, metric, jacobian, kinks, source), broken

    def product(v: torch.Tensor) -> torch.Tensor:
        times = gauss_newton_product if kinks else hessian_product
        return times(log_joint, u, seen, _spread(v, free), jacobian=jacobian)[free]

    g, at = residual[free], metric[free]
    whole = len(seen.x) >= data.num_data if seen.x is not None else False
    rounding = _rounding(log_joint, u)
    low, high, v, saddle = _lowest(product, at, products, rounding)
    if not whole and saddle and not kinks:  # a sample may curve more than all rows: only these decide that it is a saddle
        spread = _spread(v, free)
        low = float(spread @ hessian_product(log_joint, u, data, spread, jacobian=jacobian))
        saddle = low < -rounding * high if behaviour.approximately else low < 0
    source = Source(kind, data.num_data if whole else len(seen.x), data.num_data)  # pyright: ignore[reportArgumentType]
    gain = 0.5 * float((g.square() / at).sum())
    if whole and low > 0:
        enough = (2 * low * max(slack, 1e-12)) ** 0.5  # a residual r hides at most ½‖r‖²/λ nats
        steps = int(min(2 * PRODUCTS, max(40, WORK // (10 * len(u) * data.num_data)))) if rest is None else products // 2
        exact, settled = newton_gain(product, g, at, enough, steps)
        gain = exact if settled else max(gain, exact)
    direction = None if kinks else _spread(v, free)
    return Curvature(gain, source, low, high, direction, saddle and not kinks, metric), broken


def _lowest(
    product: Product, metric: torch.Tensor, num_products: int, rounding: float
) -> tuple[float, float, torch.Tensor, bool]:
    """The smallest vᵀHv/vᵀv found, the largest eigenvalue, v, and whether it is negative beyond rounding."""
    if len(metric) <= min(SMALL, num_products):
        found = smallest_end(product, metric, num_products)
        return found.smallest, found.largest, found.direction, is_negative(found, rounding)
    own = smallest_end(product, metric, num_products // 2)
    root = metric.sqrt()
    scaled = smallest_end(lambda v: product(v / root) / root, metric, num_products // 2)
    v = scaled.direction / root
    length = float(v.square().sum())
    low = scaled.smallest / length
    if is_negative(scaled, rounding) or low < own.smallest:
        return low, own.largest, v / length**0.5, is_negative(scaled, rounding)
    return own.smallest, own.largest, own.direction, is_negative(own, rounding)


def is_negative(found: Ends, rounding: float) -> bool:
    """True where the smallest eigenvalue is below zero by more than this part of the largest."""
    return found.smallest < -rounding * found.largest


def _rounding(log_joint: LogJoint, u: torch.Tensor) -> float:
    """Relative to the largest eigenvalue, the error that a smallest one may have."""
    return max(1e-6, log_joint.model.behaviour.curvature_error(u.dtype))


def neighbouring(
    log_joint: LogJoint, u: torch.Tensor, data: Data, metric: torch.Tensor, *, jacobian: bool, rest: Rest | None = None
) -> tuple[torch.Tensor, Ends]:
    """The Hessian's extreme eigenvalues a thousandth of an sd away from a point, on one piece of a piecewise linear network.

    Where units are dead by symmetry (all weights zero) every derivative vanishes; next to it they do not. `metric` is 1/sd² of
    each unknown, (P,). Returned are the neighbouring point, (P,), and the eigenvalues there.
    """
    noise = torch.randn(len(u), generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(u)
    for group in log_joint.nonsmooth:  # a weight that is exactly zero stays so
        noise[group.slice] = torch.where(u[group.slice] == 0, 0.0, noise[group.slice])
    beside = u + 1e-3 * noise / metric.sqrt()
    products, rows = _budget(len(u), data.num_data, rest)
    seen = sample(data, rows)
    return beside, smallest_end(lambda v: hessian_product(log_joint, beside, seen, v, jacobian=jacobian), u, products)


def climb(
    log_joint: LogJoint, u: torch.Tensor, direction: torch.Tensor, data: Data, metric: torch.Tensor, *, jacobian: bool
) -> float:
    """The log-joint reached along a line through `u`, in nats, at least its value there: both ways, by steps that double.

    `metric` is 1/sd² of each unknown, (P,).
    """
    first = 1e-2 / float((direction.square() * metric).sum()) ** 0.5
    start = best = value_of(log_joint, u, data, jacobian=jacobian)
    for sign in (1.0, -1.0):
        step, last = first, start
        for _ in range(30):
            value = value_of(log_joint, u + sign * step * direction, data, jacobian=jacobian)
            if not value > last:
                break
            step, last = 2 * step, value
        best = max(best, last)
    return best


def smallest_end(product: Product, like: torch.Tensor, num_products: int) -> Ends:
    """`ends` of v ↦ H v by at most `num_products`, or from the whole matrix where that has no more columns."""
    if len(like) > min(SMALL, num_products):
        return ends(product, like, num_products)
    matrix = torch.stack([product(v) for v in torch.eye(len(like), dtype=like.dtype, device=like.device)]).double()
    values, vectors = torch.linalg.eigh(0.5 * (matrix + matrix.mT))
    return Ends(float(values[0]), vectors[:, 0].to(like), float(values[-1]))


def _whole(
    log_joint: LogJoint,
    u: torch.Tensor,
    residual: torch.Tensor,
    data: Data,
    free: torch.Tensor,
    metric: torch.Tensor,
    jacobian: bool,
    kinks: bool,
    source: Source,
) -> Curvature:
    """The curvature from the matrix."""
    g, low, high, direction = residual[free].double(), 0.0, 0.0, None
    if not kinks:
        matrix = full_hessian(log_joint, u, data, jacobian=jacobian).nan_to_num(0.0)[free][:, free].double()
        values = torch.linalg.eigvalsh(matrix)
        low, high = float(values[0]), float(values[-1])
        factor, info = torch.linalg.cholesky_ex(matrix)
        direction = torch.zeros_like(u)
        if int(info) == 0:
            gain = 0.5 * float(g @ torch.cholesky_solve(g[:, None], factor)[:, 0])
            return Curvature(gain, source, low, high, direction, False, metric)
        direction = _spread(torch.linalg.eigh(matrix)[1][:, 0].to(u), free)
    matrix = gauss_newton(log_joint, u, data, jacobian=jacobian).nan_to_num(0.0)[free][:, free].double()
    # neither data nor prior determine a direction without curvature; its gradient is rounding
    values, vectors = torch.linalg.eigh(matrix)
    held = values > 1e-12 * values[-1]
    gain = 0.5 * float(((vectors.mT @ g)[held].square() / values[held]).sum())
    if kinks:
        low, high = float(values[0]), float(values[-1])
    saddle = direction is not None and is_negative(Ends(low, direction, high), _rounding(log_joint, u))
    return Curvature(gain, source, low, high, direction, saddle, metric)


def takes_matrix(log_joint: LogJoint, num_data: int) -> bool:
    """Whether the whole matrix is formed, where nothing bounds the work."""
    size = log_joint.layout.size
    most = FULL_CURVATURE if log_joint.model.behaviour.stands(VMAP, FORWARD) else LOOPED_CURVATURE
    return size <= most and num_data * size**2 <= MATRIX


def _budget(unknowns: int, rows: int, rest: Rest | None) -> tuple[int, int]:
    """How many products, and over how many rows."""
    if rest is not None:
        return rest.products, rest.rows
    seen = min(rows, max(32, WORK // (PRODUCTS * unknowns)))
    return int(min(2 * PRODUCTS, max(24, WORK // (seen * unknowns)))), seen


def _free(log_joint: LogJoint, u: torch.Tensor, residual: torch.Tensor) -> torch.Tensor:
    """The unknowns that are not held at a kink: at a kink that is the mode the residual is exactly zero."""
    free = torch.ones_like(residual, dtype=torch.bool)
    for group in log_joint.nonsmooth:
        free[group.slice] = (residual[group.slice] != 0) | (group.elementwise & (u[group.slice] != 0))
    return free


def _spread(v: torch.Tensor, free: torch.Tensor) -> torch.Tensor:
    whole = torch.zeros(len(free), dtype=v.dtype, device=v.device)
    whole[free] = v
    return whole
