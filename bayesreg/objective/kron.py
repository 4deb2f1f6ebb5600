"""KFAC: the curvature of a layer's weights as a Kronecker product, and the sum of two such products by their eigenvalues.

    Σₙ Jₙᵀ Hₙ Jₙ  ≈  A ⊗ B,     A = 1/(N R) Σ a aᵀ over rows and places,     B = Σ g gᵀ over rows, places and rows of Hₙ's root

The bias is a last column of the weights, its input 1. B takes the whole output curvature (a backward pass an output), not
sampled labels. The prior D ⊗ E is added exactly: with A = T Λ Tᵀ, D = T Δ Tᵀ and B = S M Sᵀ, E = S Ε Sᵀ the sum is
(T ⊗ S)(Λ ⊗ M + Δ ⊗ Ε)(T ⊗ S)ᵀ.
"""

from __future__ import annotations

import torch

from bayesreg.data.rows import Data
from bayesreg.objective.factors import KroneckerFactor
from bayesreg.objective.flat import LogJoint
from bayesreg.objective.layerwise import Layer, Root, Seen, seen_by

SHARING = ("expand", "reduce")

Pair = tuple[torch.Tensor, torch.Tensor]


def kronecker_sums(
    log_joint: LogJoint, u: torch.Tensor, data: Data, layers: list[Layer], root: Root, sharing: str = "expand"
) -> dict[str, Pair]:
    """The factors A (I, I) and B (O, O) of each layer over all rows, by its name, in float64.

    Args:
        log_joint: The objective.
        u: The mode, (P,).
        data: Prepared rows.
        layers: From `layers_of`.
        root: Of the curvature in the output.
        sharing: Where a layer's weights act at R places of a row, "expand" counts each place as a row of its own; "reduce"
            takes the mean of the inputs and the sum of the gradients over a row's places first.

    Returns:
        Name to (A, B); one is exact for a single row and place, and both are where a row's gradient does not depend on the row
        (a network that is linear in its inputs, and Gaussian noise).

    References:
        Martens and Grosse (2015), Optimizing neural networks with Kronecker-factored approximate curvature. Grosse and Martens
        (2016), A Kronecker-factored approximate Fisher matrix for convolution layers. Eschenhagen, Immer, Turner, Schneider and
        Hennig (2023), Kronecker-factored approximate curvature for modern neural network architectures.
    """
    sums: dict[str, Pair] = {}
    counts = dict.fromkeys((layer.name for layer in layers), 0)
    for seen in seen_by(log_joint, u, data, layers, root):
        for name, one in seen.items():
            inputs, gradients = _places(one, sharing)
            found = (inputs.mT @ inputs).double(), (gradients.mT @ gradients).double()
            before = sums.get(name)
            sums[name] = found if before is None else (before[0] + found[0], before[1] + found[1])
            counts[name] += len(inputs)
    return {name: (a / counts[name], b) for name, (a, b) in sums.items()}


def _places(one: Seen, sharing: str) -> Pair:
    """Inputs (n, I) and gradients (m, O) of what counts as a row."""
    if sharing == "reduce":
        return one.inputs.mean(1), one.gradients.sum(2).flatten(0, 1)
    return one.inputs.flatten(0, 1), one.gradients.flatten(0, 2)


def kronecker_factor(layer: Layer, curvature: Pair, prior: torch.Tensor) -> tuple[KroneckerFactor, float] | None:
    """The covariance of a layer's weights, (A ⊗ B + prior)⁻¹, by a factor.

    The prior's curvature counts as eₒ dᵢ, which independent normals with one scale, with one for the weights and another for
    the bias, or with scales by row or column are exactly; of another one its means over rows and over columns are taken.

    Args:
        layer: The layer.
        curvature: A and B.
        prior: Curvature of the prior in each weight, (O, I), the bias last; below zero it counts as zero.

    Returns:
        The factor, and how far the prior is from eₒ dᵢ, relative to its largest entry; None where a direction is left free.

    >>> layer = Layer("", None, None, 2, 2)
    >>> a, b = torch.tensor([[2.0, 1.0], [1.0, 2.0]]).double(), torch.tensor([[3.0, 0.0], [0.0, 1.0]]).double()
    >>> prior = torch.tensor([[1.0, 5.0], [1.0, 5.0]]).double()
    >>> factor, off = kronecker_factor(layer, (a, b), prior)
    >>> root = factor.rows(torch.eye(4).double())
    >>> bool(torch.allclose(torch.linalg.inv(root @ root.T), torch.kron(b, a) + torch.diag(prior.reshape(-1)))), round(off, 9)
    (True, 0.0)
    """
    held = prior.clamp_min(0).double()
    level = held.mean()
    rows = held.mean(1) / level if float(level) > 0 else torch.ones_like(held[:, 0])
    columns = held.mean(0)
    off = float((rows[:, None] * columns - held).abs().max() / held.max()) if float(level) > 0 else 0.0
    inside, outside = _together(curvature[0], columns), _together(curvature[1], rows)
    if inside is None or outside is None:
        return None
    (right, of_inputs, d), (left, of_outputs, e) = inside, outside
    precision = of_outputs[:, None] * of_inputs + e[:, None] * d
    if not bool((precision > 0).all()) or not bool(precision.isfinite().all()):
        return None
    index = layer.index if layer.weight is not None else torch.arange(precision.numel())
    return KroneckerFactor(index, left, right, precision.rsqrt()), off


def _together(matrix: torch.Tensor, diagonal: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
    """T⁻ᵀ with matrix = T Λ Tᵀ and the diagonal matrix = T Δ Tᵀ, and Λ and Δ; None where both are singular in one direction."""
    sizes = [float(part.max()) for part in (matrix.diagonal(), diagonal)]
    one, two = (part / (size if size > 0 else 1.0) for part, size in zip((matrix, diagonal), sizes, strict=True))
    whole = one + torch.diag(two)
    lengths = whole.diagonal().clamp_min(0).sqrt()
    if not bool((lengths > 0).all()):
        return None
    root, info = torch.linalg.cholesky_ex(whole / lengths[:, None] / lengths)
    if int(info) != 0:
        return None
    root = lengths[:, None] * root
    inner = torch.linalg.solve_triangular(root, torch.linalg.solve_triangular(root, one, upper=False).mT, upper=False)
    levels, vectors = torch.linalg.eigh(0.5 * (inner + inner.mT))
    levels = levels.clamp(0, 1)
    back = torch.linalg.solve_triangular(root.mT, vectors, upper=True)
    return back, levels * sizes[0], (1 - levels) * sizes[1]
