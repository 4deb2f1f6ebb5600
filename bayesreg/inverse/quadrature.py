"""Sums over the spectrum of an operator that is too large to be taken apart, by Lanczos quadrature: all λ from one run.

    bᵀ f(K) b  ≈  ‖b‖² Σⱼ τⱼ² f(θⱼ),      tr f(K)  ≈  mean over probes z = ±1 of zᵀ f(K) z,      K = A (LᵀL)⁻¹ Aᵀ

θⱼ and τⱼ are the eigenvalues of a tridiagonal matrix and the first entries of its eigenvectors (Golub and Meurant 2010). The
first is exact to rounding once the Lanczos process has converged; the second has a Monte Carlo error, which is told.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import cached_property

import torch

from bayesreg.inverse.spectrum import Measured, Spectrum

PROBES = 4
_STEPS, _FEWER, _MANY = 400, 200, 100_000  # of the process; fewer above so many measurements
_CONVERGED = 0.01  # relative change of a sum over the last quarter of the steps


@dataclasses.dataclass(frozen=True, eq=False)
class Quadrature(Spectrum):
    """Nodes and weights in place of singular values: `values` are those seen from b; traces have nodes of their own.

    Attributes:
        nodes: θ of each probe, (P, K).
        weights: Their weights, (P, K); each row sums to M.
        weights_of_b: Squared coefficients of b, one for each of `values`.
        num_measurements: M.
        least: The smallest λ at which the sums have converged.
    """

    nodes: torch.Tensor
    weights: torch.Tensor
    weights_of_b: torch.Tensor
    num_measurements: int
    least: float

    @property
    def num_data(self) -> int:
        """M."""
        return self.num_measurements

    def traces(self, lam: torch.Tensor | float) -> torch.Tensor:
        """The degrees of freedom that each probe gives, (P, ...)."""
        return self._sum(lambda theta, at: theta / (theta + at), lam)

    def degrees_of_freedom(self, lam: torch.Tensor | float) -> torch.Tensor:
        """Mean over the probes."""
        return self.traces(lam).mean(0)

    def left_over(self, lam: torch.Tensor | float) -> torch.Tensor:
        """M − degrees of freedom."""
        return self._sum(lambda theta, at: at / (theta + at), lam).mean(0)

    def gain(self, lam: torch.Tensor | float) -> torch.Tensor:
        """log|I + K/λ|."""
        return self._sum(lambda theta, at: torch.log1p(theta / at), lam).mean(0)

    def _sum(self, what: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], lam: torch.Tensor | float) -> torch.Tensor:
        at = torch.as_tensor(lam, dtype=torch.float64)[..., None, None]
        return (what(self.nodes, at) * self.weights).sum(-1).movedim(-1, 0)


@dataclasses.dataclass(frozen=True, eq=False)
class Estimated(Measured):
    """Measurements of such an operator."""

    @cached_property
    def coefficients(self) -> torch.Tensor:
        """The roots of b's weights: their signs do not enter any sum."""
        spectrum = self.spectrum
        assert isinstance(spectrum, Quadrature)
        return spectrum.weights_of_b.sqrt()

    @cached_property
    def off_range(self) -> float:
        """Nothing: nodes near zero hold it."""
        return 0.0


def by_lanczos(product: Callable[[torch.Tensor], torch.Tensor], b: torch.Tensor, seed: int = 0) -> Quadrature:
    """Run the Lanczos process on K from b and from random signs, all at once.

    Args:
        product: K v for each of (S, M).
        b: (M,) float64.
        seed: Of the signs.

    Returns:
        The quadrature.

    >>> eigenvalues = torch.linspace(1.0, 2.0, 300, dtype=torch.float64)
    >>> found = by_lanczos(lambda v: v * eigenvalues, torch.ones(300, dtype=torch.float64))
    >>> exact = float((eigenvalues / (eigenvalues + 0.5)).sum())
    >>> bool(abs(float(found.degrees_of_freedom(0.5)) / exact - 1) < 1e-10)  # signs are exact for a diagonal K
    True
    """
    generator = torch.Generator().manual_seed(seed)
    signs = 2.0 * torch.randint(0, 2, (PROBES, len(b)), generator=generator).double() - 1.0
    size, diagonal, beside = _lanczos(product, torch.cat([b[None], signs]), min(_STEPS if len(b) <= _MANY else _FEWER, len(b)))
    nodes, weights = _rule(size, diagonal, beside)
    fewer = 3 * diagonal.shape[1] // 4
    least = _least((nodes, weights), _rule(size, diagonal[:, :fewer], beside[:, :fewer]))
    kept = nodes[0] > 1e-14 * nodes[0].max()
    # what b has where K is zero stays whole in every residual: it is kept as one tiny node
    theta = torch.where(kept, nodes[0], 1e-14 * nodes[0].max()).sort(descending=True)
    empty = b.new_zeros(0, 0)
    return Quadrature(
        theta.values.sqrt(), empty, empty, empty, empty, empty, empty,
        nodes[1:], weights[1:], weights[0][theta.indices], len(b), least,
    )  # fmt: skip


def _lanczos(
    product: Callable[[torch.Tensor], torch.Tensor], starts: torch.Tensor, steps: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Each start's norm, (S, 1), and its tridiagonal matrix: diagonal and what is beside it, (S, K).

    Without reorthogonalisation: copies of an eigenvalue share its weight, which no sum sees.
    """
    size = starts.norm(dim=1, keepdim=True)
    now, before = starts / size.clamp_min(1e-300), torch.zeros_like(starts)
    beta = starts.new_zeros(len(starts), 1)
    diagonal, beside = [], []
    for _ in range(steps):
        next_ = product(now) - beta * before
        alpha = (next_ * now).sum(1, keepdim=True)
        next_ = next_ - alpha * now
        diagonal.append(alpha[:, 0])
        beta = next_.norm(dim=1, keepdim=True)
        beta = torch.where(beta > 1e-13 * alpha.abs().maximum(beta.new_tensor(1e-300)), beta, 0.0)
        beside.append(beta[:, 0])
        before, now = now, torch.where(beta > 0, next_ / beta.clamp_min(1e-300), 0.0)
    return size, torch.stack(diagonal, 1), torch.stack(beside, 1)


def _rule(size: torch.Tensor, diagonal: torch.Tensor, beside: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Nodes and weights of each start, (S, K)."""
    off = beside[:, :-1]
    values, vectors = torch.linalg.eigh(torch.diag_embed(diagonal) + torch.diag_embed(off, 1) + torch.diag_embed(off, -1))
    return values.clamp_min(0), (size * vectors[:, 0]).square()


def _least(rule: tuple[torch.Tensor, torch.Tensor], fewer: tuple[torch.Tensor, torch.Tensor]) -> float:
    """The smallest λ at which residual and traces of both rules are alike, and at all larger ones."""
    lam = float(rule[0].max().clamp_min(1e-300)) * torch.logspace(-16, 2, 181, dtype=torch.float64)

    def sums(nodes: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        left = lam[:, None, None] / (nodes + lam[:, None, None])
        return torch.cat([(left[:, :1] ** 2 * weights[:1]).sum(-1), (left[:, 1:] * weights[1:]).sum(-1)], 1)

    one, other = sums(*rule), sums(*fewer)
    apart = ((one - other).abs() > _CONVERGED * one.abs()).any(1).nonzero()
    return float(lam[min(int(apart[-1, 0]) + 1, len(lam) - 1)]) if len(apart) else float(lam[0])
