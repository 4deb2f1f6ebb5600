"""The precision at a mode under a structure: dense over some unknowns, a diagonal, or a Kronecker product for each layer.

The precision is the likelihood's curvature, structured, plus the prior's; the noise's unknowns are a dense block of their own.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch

from bayesreg.data.rows import Data
from bayesreg.objective.conditioning import EPS, TRUSTED
from bayesreg.objective.curvature import noise_curvature, noise_over_rows, noisy_entries
from bayesreg.objective.curvature_products import prior_diagonal
from bayesreg.objective.factors import AbstractFactor, DenseFactor, DiagonalFactor, condition
from bayesreg.objective.flat import LogJoint
from bayesreg.objective.identify import Precision, Undetermined, from_matrix, undetermined
from bayesreg.objective.kron import kronecker_factor, kronecker_sums
from bayesreg.objective.layerwise import Layer, Root, Seen, layers_of, others, seen_by
from bayesreg.objective.precision import indefinite, pays
from bayesreg.objective.subset import (
    Subset,
    likelihood_curvature,
    noise_score,
    prior_curvature_among,
    score,
    width_of,
)

NAMES = {"ggn": "Gauss–Newton matrix", "fisher": "empirical Fisher matrix", "hessian": "Hessian"}
_PRODUCTS = 2**22  # entries of rows' own gradients that are held at once
_PRIOR = 1e-6  # how far a prior may be from what a Kronecker product takes exactly


@dataclasses.dataclass(frozen=True)
class Structured:
    """A covariance in blocks.

    Attributes:
        blocks: Factors, over unknowns that no two share.
        taken: The matrix they come from, in words.
        half_log_det: ½ log|precision|.
        condition: The condition number κ.
        error: About what part of a standard deviation is rounding.
        free: Unknowns on whose sum over classes no prediction depends, in words.
        notes: What else is to be said of it.
        values: The values of the first block's unknowns with what is free held at zero; None where nothing is.
    """

    blocks: tuple[AbstractFactor, ...]
    taken: str
    half_log_det: float
    condition: float = 1.0
    error: float = EPS
    free: str = ""
    notes: tuple[str, ...] = ()
    values: torch.Tensor | None = None

    @property
    def size(self) -> int:
        """The number of unknowns that vary."""
        return sum(len(block.index) for block in self.blocks)

    @property
    def digits(self) -> int:
        """Decimal digits that hold."""
        return max(0, math.floor(-math.log10(self.error))) if math.isfinite(self.error) else 0

    def moved(self, u: torch.Tensor) -> torch.Tensor:
        """The mode, (P,), with what is free held at zero."""
        return u if self.values is None else u.index_copy(0, self.blocks[0].index.to(u.device), self.values.to(u))


def of_precision(found: Precision, taken: str, index: torch.Tensor, u: torch.Tensor) -> Structured:
    """A dense precision of the unknowns at `index` as a structure of one block."""
    root, block = found.root, DenseFactor(index, found.factor)
    values = found.project(u[index].double()) if found.free.shape[1] else None
    return Structured((block,), taken, root.half_log_det, root.condition, root.error, found.names, values=values)


def _in_blocks(blocks: Sequence[AbstractFactor], taken: str, notes: Sequence[str] = ()) -> Structured:
    kappa = condition(tuple(blocks))
    half_log_det = -sum(block.log_det for block in blocks)
    return Structured(tuple(blocks), taken, half_log_det, kappa, EPS * kappa**2, notes=tuple(notes))


def root_of(log_joint: LogJoint, u: torch.Tensor, kind: str) -> Root:
    """Rows S (B, C, K) with SᵀS each row's curvature in the output: of the loss, or the score for the empirical Fisher."""
    likelihood, noise = log_joint.model.likelihood, log_joint.model.noise(log_joint.layout.unflatten(u.detach()))
    if kind == "fisher":
        return lambda output, y: score(log_joint, u, output, y)[:, None]
    return lambda output, y: likelihood.curvature_root(output, y, **noise)


# ── dense over some unknowns ──


def dense(log_joint: LogJoint, u: torch.Tensor, data: Data, index: torch.Tensor, curvature: str) -> tuple[Precision, str]:
    """The precision of some unknowns, the others held, and the name of the matrix it comes from.

    Args:
        log_joint: The objective, best in float64.
        u: The mode, (P,).
        data: Prepared rows.
        index: Which unknowns, (n,).
        curvature: "ggn", "fisher", "hessian", or "auto": the Hessian where it is positive definite, else Gauss–Newton.

    Returns:
        Both.

    Raises:
        ValueError: If the Hessian was asked for and is not positive definite.
        Undetermined: If neither data nor prior determine a direction.
    """
    subset = Subset(log_joint, u, index)
    prior, why = prior_curvature_among(subset), ""
    cheap = ("hessian", "ggn") if pays(len(index), data) else ("ggn",)
    for kind in cheap if curvature == "auto" else (curvature,):
        matrix = (likelihood_curvature(subset, data, kind) + prior).double()
        found = from_matrix(matrix, log_joint, u, data, index)
        if found is not None and (kind != "hessian" or found.root.error <= TRUSTED):
            return found, NAMES[kind] + why
        why = f" ({indefinite(matrix, curvature)})"
    lengths = matrix.diagonal().abs().sqrt().clamp_min(torch.finfo(torch.float64).tiny)
    values, vectors = torch.linalg.eigh(matrix / lengths[:, None] / lengths)
    direction = torch.zeros_like(u.double()).index_copy(0, index.to(u.device), vectors[:, 0])
    raise Undetermined(undetermined(log_joint, direction, float((values[-1] / values[0].abs()).sqrt())))


def over_some(log_joint: LogJoint, u: torch.Tensor, data: Data, index: torch.Tensor, curvature: str) -> Structured:
    """A dense block over some unknowns; see `dense`."""
    return of_precision(*dense(log_joint, u, data, index, curvature), index, u)


# ── a diagonal ──


def likelihood_diagonal(log_joint: LogJoint, u: torch.Tensor, data: Data, kind: str) -> torch.Tensor:
    """The exact diagonal of minus the log-likelihood's curvature, (P,), zero in the noise's own entries.

    Layers' products give it without a Jacobian; of other weights each row's derivative is taken.

    Args:
        log_joint: The objective.
        u: (P,).
        data: Prepared rows.
        kind: "ggn", "fisher" or "hessian", which takes all second derivatives.

    Returns:
        (P,).
    """
    total = torch.zeros_like(u)
    if kind == "hessian":
        everything = Subset(log_joint, u, torch.arange(len(u)))
        total = likelihood_curvature(everything, data, kind).diagonal().clone()
        total[noisy_entries(log_joint)] = 0.0
        return total
    root = root_of(log_joint, u, kind)
    layers = layers_of(log_joint, u, data, root)
    if layers:
        for seen in seen_by(log_joint, u, data, layers, root):
            for layer in layers:
                total[layer.index] += _squares(seen[layer.name])
    rest = others(log_joint, layers)
    total[rest] += diagonal_of_rest(log_joint, u, data, rest, root)
    return total


def _squares(one: Seen) -> torch.Tensor:
    """Σ over rows, and rows of the root, of the squared entries of Σᵣ g aᵀ, (O · I,)."""
    inputs, gradients = one.inputs, one.gradients
    if inputs.shape[1] == 1:
        return (gradients[:, :, 0].square().sum(0).mT @ inputs[:, 0].square()).reshape(-1)
    size = inputs.shape[2] * gradients.shape[3]
    total = inputs.new_zeros(size)
    step = max(1, _PRODUCTS // size)
    for way in gradients:
        for g, a in zip(way.split(step), inputs.split(step), strict=True):
            total += (g.mT @ a).square().sum(0).reshape(-1)
    return total


def diagonal_of_rest(log_joint: LogJoint, u: torch.Tensor, data: Data, rest: torch.Tensor, root: Root) -> torch.Tensor:
    """The diagonal in these weights by each row's derivative, (n,)."""
    total = u.new_zeros(len(rest))
    if not len(rest):
        return total
    subset = Subset(log_joint, u, rest)
    for x, y in data.epoch(subset.rows_at_once(width_of(log_joint, u, data))):
        slopes, output = subset.jacobian(x)
        total += (root(output, y) @ slopes).square().sum((0, 1))
    return total


def _noise_factor(log_joint: LogJoint, u: torch.Tensor, data: Data, kind: str) -> DenseFactor | None:
    """The noise's own unknowns, by their exact second derivative (or the empirical Fisher matrix); None where there are none.

    Raises:
        Undetermined: If they are not determined.
    """
    noisy = noisy_entries(log_joint).to(u.device)
    if not len(noisy):
        return None
    added = _squared_scores if kind == "fisher" else noise_curvature
    total = prior_curvature_among(Subset(log_joint, u, noisy)) + noise_over_rows(log_joint, u, data, added)
    found = from_matrix(0.5 * (total + total.mT).double(), log_joint, u, data, noisy)
    if found is None:
        raise Undetermined(undetermined(log_joint, torch.zeros_like(u).index_fill(0, noisy.to(u.device), 1.0), float("inf")))
    return DenseFactor(noisy, found.factor)


def _squared_scores(
    log_joint: LogJoint, u: torch.Tensor, output: torch.Tensor, y: torch.Tensor, _noisy: torch.Tensor
) -> torch.Tensor:
    """Σ ggᵀ of the rows' scores in the noise's own unknowns, (n, n)."""
    rows = noise_score(log_joint, u, output, y)
    return rows.mT @ rows


def _independent(log_joint: LogJoint, index: torch.Tensor, precision: torch.Tensor) -> DiagonalFactor:
    """Independent unknowns with this precision, (n,).

    Raises:
        Undetermined: If it is not positive everywhere.
    """
    precision = precision.double()
    if not bool((precision > 0).all()):
        direction = torch.zeros(log_joint.layout.size, dtype=torch.float64).to(precision.device)
        direction[index] = (precision <= 0).double()
        raise Undetermined(undetermined(log_joint, direction, float("inf")))
    return DiagonalFactor(index, precision.rsqrt())


def diagonal_blocks(log_joint: LogJoint, u: torch.Tensor, data: Data, index: torch.Tensor, curvature: str) -> Structured:
    """Independent weights, and the noise's block: the inverse of the precision's diagonal; arguments as for `dense`.

    "auto" is Gauss–Newton. Where the prior's curvature is negative it counts as zero.
    """
    kind = "ggn" if curvature == "auto" else curvature
    noise = _noise_factor(log_joint, u, data, kind)
    kept = torch.zeros(len(u), dtype=torch.bool).index_fill(0, index.cpu(), True)
    kept[noisy_entries(log_joint)] = False
    weights = torch.nonzero(kept)[:, 0].to(u.device)
    precision = likelihood_diagonal(log_joint, u, data, kind) + prior_diagonal(log_joint, u, jacobian=True).clamp_min(0)
    blocks = (_independent(log_joint, weights, precision[weights]), *(() if noise is None else (noise,)))
    return _in_blocks(blocks, f"{NAMES[kind]}'s diagonal")


# ── Kronecker products ──


def kronecker_blocks(log_joint: LogJoint, u: torch.Tensor, data: Data, curvature: str, sharing: str = "expand") -> Structured:
    """A Kronecker product for each layer that has one, a diagonal for the other weights, and the noise's block.

    Args:
        log_joint: The objective, best in float64.
        u: The mode, (P,).
        data: Prepared rows.
        curvature: "ggn" (or "auto") or "fisher".
        sharing: As for `kronecker_sums`.

    Returns:
        The blocks.

    Raises:
        Undetermined: If neither data nor prior determine a direction.
    """
    kind = "ggn" if curvature == "auto" else curvature
    root = root_of(log_joint, u, kind)
    layers = layers_of(log_joint, u, data, root)
    prior = prior_diagonal(log_joint, u, jacobian=True)
    blocks: list[AbstractFactor] = []
    farthest, sums = 0.0, kronecker_sums(log_joint, u, data, layers, root, sharing) if layers else {}
    for layer in layers:
        found = kronecker_factor(layer, sums[layer.name], prior[layer.index].reshape(layer.outputs, -1))
        if found is None:
            direction = torch.zeros_like(u).index_fill(0, layer.index.to(u.device), 1.0)
            raise Undetermined(undetermined(log_joint, direction, float("inf")))
        blocks.append(found[0])
        farthest = max(farthest, found[1])
    rest = others(log_joint, layers).to(u.device)
    if len(rest):
        precision = diagonal_of_rest(log_joint, u, data, rest, root) + prior[rest].clamp_min(0)
        blocks.append(_independent(log_joint, rest, precision))
    noise = _noise_factor(log_joint, u, data, kind)
    blocks += [] if noise is None else [noise]
    taken = f"{NAMES[kind]}'s Kronecker products"
    return _in_blocks(blocks, taken, _said(log_joint, layers, rest, farthest))


def _said(log_joint: LogJoint, layers: list[Layer], rest: torch.Tensor, farthest: float) -> list[str]:
    """What a reader of the notes needs to know of Kronecker products."""
    said = [f"Kronecker products for {len(layers)} layers, each bias with its layer's weights."]
    if len(rest):
        number = set(rest.tolist()) if len(rest) < 10**5 else None
        names = [s.latent.name for s in log_joint.layout.in_order if number is None or s.start in number]
        shown = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "")
        said.append(f"an exact diagonal for the {len(rest):,} weights of other kinds of layers ({shown}).")
    if farthest > _PRIOR:
        said.append(
            "the prior's curvature is no product of one number a row and one a column, and counts by its means over both: "
            f"up to {farthest:.2g} of its largest entry off."
        )
    return said


def has_kronecker(log_joint: LogJoint, u: torch.Tensor, data: Data) -> bool:
    """Whether Kronecker products would hold most of the weights."""
    layers = layers_of(log_joint, u, data, root_of(log_joint, u, "ggn"))
    return 2 * sum(len(layer.index) for layer in layers) > len(u)


# ── which weights ──


def last_layer(log_joint: LogJoint, u: torch.Tensor, data: Data) -> tuple[torch.Tensor, str]:
    """The unknowns of the layer that runs last, with the noise's, and its name; layers without unknowns do not count.

    Raises:
        ValueError: If no layer has unknowns.
    """
    model, layout = log_joint.model, log_joint.layout
    network, called = model.to_run(), []
    owned: dict[str, list[str]] = {}
    for place, name in model.places.items():
        if name in layout.segments:
            owned.setdefault(place.rpartition(".")[0], []).append(name)
    handles = [
        network.get_submodule(owner).register_forward_hook(lambda *_, owner=owner: called.append(owner)) for owner in owned
    ]
    try:
        x, _ = next(data.epoch(1))
        with torch.no_grad():
            model.forward(layout.unflatten(u), x[:1])
    finally:
        for handle in handles:
            handle.remove()
    # a module that wraps others ends after them, with weights of its own: the last to end that wraps none
    leaves = [
        owner for owner in called if not any(other != owner and other.startswith(f"{owner}." * bool(owner)) for other in owned)
    ]
    if not leaves:
        raise ValueError(
            "structure='last-layer' needs a layer whose weights are unknowns, but none runs; take structure='diag'."
        )
    segments = [layout.segments[name] for name in owned[leaves[-1]]]
    index = torch.cat([torch.arange(s.start, s.stop) for s in segments] + [noisy_entries(log_joint)])
    return index.unique().to(u.device), leaves[-1]


def widest(log_joint: LogJoint, u: torch.Tensor, data: Data, active: torch.Tensor, number: int, kind: str) -> torch.Tensor:
    """So many weights with the largest marginal variance by the diagonal, and the noise's unknowns, in the vector's order.

    References:
        Daxberger, Nalisnick, Allingham, Antorán and Hernández-Lobato (2021), Bayesian deep learning via subnetwork inference.
    """
    noisy = noisy_entries(log_joint).to(u.device)
    found = diagonal_blocks(log_joint, u, data, active, kind).blocks[0]
    order = found.variance.argsort(descending=True, stable=True)[:number]
    return torch.cat([found.index[order], noisy]).sort().values
