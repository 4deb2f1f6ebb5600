"""Directions that curvature leaves free: a posterior that is improper, or a coordinate that no prediction depends on.

A softmax does not see a number that is added to all classes. Where the prior does not see it either (flat biases of the last
layer), the vector has a coordinate without meaning: its covariance is taken in the complement, Σ = (I − VVᵀ) A⁺ (I − VVᵀ) with
V the free directions, which leaves every prediction as it is for any choice of that coordinate.
"""

from __future__ import annotations

import dataclasses
import math

import torch

from bayesreg.data.rows import Data
from bayesreg.objective.conditioning import EPS, WORST, Root, Rows, entries, root_of_matrix
from bayesreg.objective.curvature import output_jacobian
from bayesreg.objective.flat import LogJoint
from bayesreg.objective.whole import gradient_of

_ROWS = 64
_NULL = 1e-13  # a singular value, in columns of length one, that is zero up to rounding


class Undetermined(ValueError):
    """The posterior is improper, or double precision does not hold it."""


@dataclasses.dataclass(frozen=True)
class Precision:
    """A posterior's precision in a form that can be inverted.

    Attributes:
        root: Its root; that of the complement where directions are free.
        free: V, (P, m), orthonormal directions on which neither the prior nor any prediction depends.
        names: The unknowns in them, in words.
    """

    root: Root
    free: torch.Tensor
    names: str = ""

    def project(self, columns: torch.Tensor) -> torch.Tensor:
        """The part of each column, (P, ...), in the complement of what is free."""
        return columns - self.free @ (self.free.mT @ columns)

    @property
    def factor(self) -> torch.Tensor:
        """A (P, P) matrix whose product with its transpose is the covariance."""
        return self.project(self.root.inverse) if self.free.shape[1] else self.root.inverse


def from_matrix(
    matrix: torch.Tensor, log_joint: LogJoint, u: torch.Tensor, data: Data, among: torch.Tensor | None = None
) -> Precision | None:
    """The precision that a symmetric matrix says; None where it is indefinite or leaves a direction undetermined.

    Args:
        matrix: (P, P), float64.
        log_joint: The objective.
        u: The mode, (P,).
        data: Prepared rows.
        among: Numbers of the unknowns that it is about, (n,), where it is (n, n).
    """
    root = root_of_matrix(matrix)
    if root is not None and root.error <= 1e-6:
        return Precision(root, matrix[:, :0])
    lengths = matrix.diagonal().abs().sqrt()
    lengths = torch.where(lengths > 0, lengths, 1.0)
    values, vectors = torch.linalg.eigh(matrix / lengths[:, None] / lengths)
    tolerance = 10 * EPS * max(len(values), 100) * float(values[-1])
    if values[0] < -tolerance:
        return None
    null = vectors[:, values < tolerance]
    if not null.shape[1]:
        return None if root is None else Precision(root, null)
    free = torch.linalg.qr(null / lengths[:, None]).Q
    whole = free if among is None else free.new_zeros(len(u), free.shape[1]).index_copy(0, among, free)
    if _seen(log_joint, u, data, whole) is not None:
        return None
    level = (free.square() * matrix.diagonal()[:, None]).sum(0).max()
    root = root_of_matrix(matrix + level * free @ free.mT)
    return None if root is None else Precision(root, free, entries(log_joint.layout, whole.norm(dim=1)))


def from_rows(rows: Rows, log_joint: LogJoint, u: torch.Tensor, data: Data) -> Precision:
    """The precision that rows say; arguments as for `from_matrix`.

    Raises:
        Undetermined: If a direction is free of which predictions are not.
    """
    root = rows.solve()[0]
    if root.error < WORST:
        return Precision(root, root.factor[:, :0])
    _, values, vectors = torch.linalg.svd(root.factor)
    null = vectors.mT[:, values < max(_NULL, EPS / WORST) * values[0]]
    free = torch.linalg.qr(null / root.lengths[:, None]).Q
    seen = _seen(log_joint, u, data, free)
    if seen is not None:
        raise Undetermined(undetermined(log_joint, root.lengths * seen, root.condition))
    level = (free * root.lengths[:, None]).norm(dim=0).max()
    rows.add(level * free.mT)
    root = rows.solve()[0]
    if not root.error < WORST:
        raise Undetermined(undetermined(log_joint, root.weakest, root.condition))
    return Precision(root, free, entries(log_joint.layout, free.norm(dim=1)))


def undetermined(log_joint: LogJoint, direction: torch.Tensor, condition: float) -> str:
    """What to say where the curvature at a mode leaves a direction, (P,) in units of its columns, to nobody."""
    where = entries(log_joint.layout, direction)
    if not log_joint.model.improper:
        return (
            f"the curvature at the mode must tell {where} apart, but its condition number is {condition:.1g}, more than double "
            "precision holds; drop redundant inputs, standardise them, or narrow these priors."
        )
    separated = "" if log_joint.model.likelihood.labels is None else ", tell a class from the others without error"
    return (
        f"the posterior must be proper, but the curvature at its mode is singular: the data do not determine {where} (flat "
        f"priors, and inputs that are constant, repeat each other{separated} or are large beside their spread); give these "
        "weights Normal priors, drop redundant inputs, or standardise them."
    )


def check_separated(log_joint: LogJoint, u: torch.Tensor, data: Data, precision: Precision) -> None:
    """Refuse a mode at infinity: flat priors, and inputs that tell a class from the others without error.

    There the curvature vanishes with the gradient: the sd of a row's logit is far above the logit, and however far a search has
    gone, the next Newton step adds one to it.

    Args:
        log_joint: The objective.
        u: The mode, (P,).
        data: Prepared rows.
        precision: The precision there.

    Raises:
        Undetermined: If so.
    """
    flat = torch.zeros(len(u), dtype=torch.bool, device=u.device)
    for s in log_joint.layout.in_order:
        flat[s.slice] = not s.latent.prior.proper
    if log_joint.model.likelihood.labels is None or not bool(flat.any()):
        return
    x, _ = next(data.epoch(1024))
    slopes, output = output_jacobian(log_joint, u, x)
    slopes, factor = slopes.double(), precision.factor
    if output.shape[1] > 1:  # softmax sees differences alone
        slopes, output = slopes - slopes.mean(1, keepdim=True), output - output.mean(1, keepdim=True)
    loose = (slopes @ factor).norm(dim=-1) > 30 * (1 + output.abs())
    if not bool(loose.any()):
        return
    step = factor @ (factor.mT @ gradient_of(log_joint, u, data, jacobian=True)[1].double())
    if bool(((slopes @ step).abs()[loose] > 0.1).any()):
        size = torch.where(flat, factor.norm(dim=1) * slopes.square().sum((0, 1)).sqrt(), 0.0)
        raise Undetermined(
            "the posterior must be proper, but the inputs tell a class from the others without error, and flat priors let "
            f"{entries(log_joint.layout, size)} run to infinity; give them Normal priors."
        )


def _seen(log_joint: LogJoint, u: torch.Tensor, data: Data, free: torch.Tensor) -> torch.Tensor | None:
    """A direction among `free`, (P, m), on which the prior or a prediction depends; None where none does.

    Judged on inputs that are not the data's: what the data's own rows do not see, others may. An unknown that moves no output
    at all is no coordinate of a prediction, but one that the data leave undetermined.
    """
    if data.x is None or data.y is None:
        return free[:, 0]
    generator = torch.Generator().manual_seed(0)
    x, y = _elsewhere(data.x[:_ROWS], generator), data.y[:_ROWS]
    y = y[torch.randperm(len(y), generator=generator)]
    model, layout = log_joint.model, log_joint.layout

    def look(v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        values = layout.unflatten(v)
        output = model.forward(values, x)
        noise = {name: torch.as_tensor(value).to(output) for name, value in model.noise(values).items()}
        said = torch.cat([model.likelihood.log_prob(output, y, **noise).reshape(-1), log_joint.log_prior(v).reshape(1)])
        return said.double(), output.double().reshape(-1)

    with torch.no_grad():
        said, output = look(u)
        looks = [look(u + direction.to(u)) for direction in free.mT]
    shifts = torch.stack([found[0] - said for found in looks], 1)
    moves = torch.stack([found[1] - output for found in looks], 1)
    rounding = 1e4 * torch.finfo(u.dtype).eps * max(1.0, float(moves.abs().max()), float(output.abs().max()))
    if not bool(torch.isfinite(shifts).all()):
        return free[:, 0]
    _, sizes, ways = torch.linalg.svd(shifts, full_matrices=False)
    if sizes[0] > rounding * math.sqrt(len(shifts)):
        return free @ ways[0]
    _, sizes, ways = torch.linalg.svd(moves)
    return free @ ways[-1] if len(sizes) < len(ways) or sizes[-1] <= rounding else None


def _elsewhere(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Inputs of the same kind that are not the data's: numbers moved at random, codes shuffled within their columns."""
    if x.is_floating_point():
        spread = x.std(0, correction=0).clamp_min(0.1)
        return x + spread * torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)
    order = torch.rand(x.shape, generator=generator).argsort(0).to(x.device)
    return x.gather(0, order)
