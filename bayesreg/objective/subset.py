"""Curvature of the log-joint in some of the unknowns, the others held: no matrix over all of them is formed."""

from __future__ import annotations

import torch
from torch.func import hessian

from bayesreg import behaviour
from bayesreg.data.rows import Data
from bayesreg.objective.curvature import curvature_of_log_jacobian, noise_curvature, noisy_entries, row_loss
from bayesreg.objective.flat import LogJoint

_ENTRIES = 2**23  # of a derivative that are held at once
KINDS = ("ggn", "fisher", "hessian")


class Subset:
    """Some of the unknowns, the others held at a point.

    Args:
        log_joint: The objective.
        u: The point, (P,).
        index: Which, (n,).
    """

    def __init__(self, log_joint: LogJoint, u: torch.Tensor, index: torch.Tensor) -> None:
        self.log_joint, self.u, self.index = log_joint, u.detach(), index.to(u.device)
        self.values = self.u[self.index]

    def fill(self, v: torch.Tensor) -> torch.Tensor:
        """The whole vector, (P,), with these values, (n,)."""
        return self.u.index_copy(0, self.index, v)

    def outputs(self, v: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """The network's outputs, (B, K)."""
        return self.log_joint.model.forward(self.log_joint.layout.unflatten(self.fill(v)), x).reshape(len(x), -1)

    def jacobian(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """∂f/∂v of each row, (B, K, n), and the output in the likelihood's shape."""
        slopes, output = behaviour.output_jacobian(self.log_joint.model.behaviour, self.outputs, self.values, x)
        return slopes, output.reshape(len(x), *((-1,) if output.shape[1] > 1 else ()))

    def rows_at_once(self, width: int) -> int:
        """Rows whose derivatives in all these unknowns are held at once."""
        return max(1, min(1024, _ENTRIES // max(1, len(self.index) * width)))


def score(log_joint: LogJoint, u: torch.Tensor, output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """∂ log p(y | f)/∂f of each row, (B, K), rows being independent given the output."""
    noise = log_joint.model.noise(log_joint.layout.unflatten(u.detach()))
    slope = torch.func.grad(lambda f: log_joint.model.likelihood.log_prob_sum(f, y, **noise))(output.detach())
    return slope.reshape(len(y), -1)


def noise_score(log_joint: LogJoint, u: torch.Tensor, output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """∂ log p(y | f)/∂u of each row in the noise's own unknowns, (B, m)."""
    model, layout, noisy = log_joint.model, log_joint.layout, noisy_entries(log_joint).to(u.device)

    def rows(v: torch.Tensor) -> torch.Tensor:
        values = layout.unflatten(u.detach().index_copy(0, noisy, v))
        noise = {name: torch.as_tensor(value).to(output) for name, value in model.noise(values).items()}
        return model.likelihood.log_prob(output, y, **noise)

    return torch.func.jacfwd(rows)(u.detach()[noisy])


def likelihood_curvature(subset: Subset, data: Data, kind: str) -> torch.Tensor:
    """Minus the log-likelihood's curvature in these unknowns, summed over rows, (n, n).

    Args:
        subset: Which unknowns, and where.
        data: Prepared rows.
        kind: "ggn" (Σ JᵀHJ, and the noise's own second derivative), "fisher" (Σ ggᵀ of the rows' gradients) or "hessian".

    Returns:
        (n, n), symmetric.
    """
    log_joint, u, size = subset.log_joint, subset.u, len(subset.index)
    total = u.new_zeros(size, size)
    place, noisy = _noise_among(subset)
    noise = log_joint.model.noise(log_joint.layout.unflatten(u))
    likelihood = log_joint.model.likelihood
    for x, y in data.epoch(subset.rows_at_once(width_of(log_joint, u, data))):
        if kind == "hessian":
            columns = max(1, min(size, 32, _ENTRIES // (8 * len(x))))
            loss = row_loss(log_joint, x, y)
            stands = log_joint.model.behaviour
            total += behaviour.hessian(stands, lambda v, loss=loss: loss(subset.fill(v)), subset.values, columns)
            continue
        slopes, output = subset.jacobian(x)
        if kind == "fisher":
            rows = torch.einsum("bkp,bk->bp", slopes, score(log_joint, u, output, y))
            if len(place):
                rows[:, place] += noise_score(log_joint, u, output, y)[:, noisy]
            total += rows.mT @ rows
            continue
        total += torch.einsum("bkp,bkl,blq->pq", slopes, likelihood.output_curvature(output, y, **noise), slopes)
        if len(place):
            found = noise_curvature(log_joint, u, output, y, noisy_entries(log_joint).to(u.device))
            total[place[:, None], place] += found[noisy[:, None], noisy]
    return 0.5 * (total + total.mT)


def width_of(log_joint: LogJoint, u: torch.Tensor, data: Data) -> int:
    """K, the number of outputs of a row."""
    x, _ = next(data.epoch(1))
    with torch.no_grad():
        return log_joint.model.forward(log_joint.layout.unflatten(u), x[:1]).numel()


def _noise_among(subset: Subset) -> tuple[torch.Tensor, torch.Tensor]:
    """Places in a subset that are the noise's, and their numbers among the noise's unknowns."""
    noisy = noisy_entries(subset.log_joint).to(subset.index)
    both = torch.nonzero(subset.index[:, None] == noisy)
    return both[:, 0], both[:, 1]


def prior_curvature_among(subset: Subset) -> torch.Tensor:
    """−∂² log [p(θ(u)) |dθ/du|]/∂u∂uᵀ in these unknowns, (n, n); the log-Jacobian counts where it is not linear."""
    log_joint, u, size = subset.log_joint, subset.u, len(subset.index)
    total, number = u.new_zeros(size, size), torch.full((len(u),), -1, device=u.device)
    number[subset.index] = torch.arange(size, device=u.device)
    for group in log_joint.groups:
        own = number[group.slice]
        kept = own >= 0
        if not bool(kept.any()):
            continue
        block, place = group.curvature(u[group.slice]), own[kept]
        if block.dim() == 1:
            total[place, place] += block[kept]
        else:
            total[place[:, None], place] += block[kept][:, kept]
    if log_joint.linked:
        total = total + hessian(lambda v: log_joint.linked_energy(subset.fill(v)))(subset.values)
    for segment in log_joint.layout.in_order:
        if segment.transform is None or segment.latent.is_positive:
            continue
        own = number[segment.slice]
        kept = own >= 0
        total[own[kept], own[kept]] -= curvature_of_log_jacobian(segment.transform, u[segment.slice])[kept]
    return total
