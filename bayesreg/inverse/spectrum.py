"""An inverse problem under a quadratic penalty, taken apart once so that every penalty weight λ is cheap.

    x_λ = argmin ‖A x − b‖² + λ ‖L x‖² = W diag(fᵢ/sᵢ) Uᵀb + what L leaves free,      fᵢ = sᵢ²/(sᵢ² + λ)

sᵢ are the singular values of A L⁻¹ (where L has a null space, of A L⁺ off what A makes of it: Eldén 1977). λ = σ²/s² for
noise of sd σ and a prior of precision LᵀL/s².
"""

from __future__ import annotations

import dataclasses
import math
from functools import cached_property

import torch

_EPS = torch.finfo(torch.float64).eps


@dataclasses.dataclass(frozen=True, eq=False)
class Spectrum:
    """Directions in which data meet a quadratic penalty, the best measured first.

    Attributes:
        values: sᵢ > 0, (R,) decreasing; what is zero to the last digit is left out.
        measured: U, (M, R): orthonormal directions of the measurements.
        unknown: W, (N, R): those of the unknown, LW orthonormal.
        free: Basis of the null space of L, (N, D), which the penalty leaves to the data.
        images: Q of A · free = Q T, (M, D).
        triangle: T, (D, D).
        operator: A, (M, N).
    """

    values: torch.Tensor
    measured: torch.Tensor
    unknown: torch.Tensor
    free: torch.Tensor
    images: torch.Tensor
    triangle: torch.Tensor
    operator: torch.Tensor

    @classmethod
    def of(cls, A: torch.Tensor, root: torch.Tensor) -> Spectrum:
        """Take A x under ‖L x‖² apart.

        Args:
            A: (M, N) float64.
            root: L, (N,) for a diagonal or (q, N), float64.

        Returns:
            The spectrum.

        Raises:
            ValueError: If neither A nor L determines a direction of x; says how many there are.
        """
        back, free = _inverse_root(root)
        images, triangle = torch.linalg.qr(A @ free)
        free_values = torch.linalg.svdvals(triangle)
        size = torch.linalg.matrix_norm(A, 2) if free.shape[1] else torch.ones(())
        lost = int((free_values <= max(A.shape) * _EPS * size).sum()) + max(0, free.shape[1] - len(free_values))
        if lost:
            raise ValueError(
                f"the posterior must be proper, but {lost} direction{'s' * (lost > 1)} of x {'are' if lost > 1 else 'is'} "
                "neither measured nor restricted by the prior, which is flat there; give Smooth a level_scale, or take "
                "Normal(1.0)."
            )
        whitened = A @ back if back.dim() == 2 else A * back
        whitened = whitened - images @ (images.mT @ whitened)
        U, s, V = torch.linalg.svd(whitened, full_matrices=False)
        kept = s > max(A.shape) * _EPS * s[:1]
        unknown = back @ V[kept].mT if back.dim() == 2 else back[:, None] * V[kept].mT
        return cls(s[kept], U[:, kept], unknown, free, images, triangle, A)

    @property
    def num_data(self) -> int:
        """M."""
        return len(self.measured)

    @property
    def num_free(self) -> int:
        """D, directions that the prior leaves free."""
        return self.free.shape[1]

    def filters(self, lam: torch.Tensor | float) -> torch.Tensor:
        """Filter factors fᵢ = sᵢ²/(sᵢ² + λ): how much of direction i comes from the data, (..., R) for λ of (...)."""
        return self.values**2 / (self.values**2 + torch.as_tensor(lam, dtype=torch.float64)[..., None])

    def degrees_of_freedom(self, lam: torch.Tensor | float) -> torch.Tensor:
        """Σ fᵢ and the free directions: how many unknowns the data decide, (...)."""
        return self.filters(lam).sum(-1) + self.num_free

    def left_over(self, lam: torch.Tensor | float) -> torch.Tensor:
        """M − degrees of freedom, without loss of digits where it is small."""
        lam = torch.as_tensor(lam, dtype=torch.float64)[..., None]
        return (lam / (self.values**2 + lam)).sum(-1) + (self.num_data - len(self.values) - self.num_free)

    def gain(self, lam: torch.Tensor | float) -> torch.Tensor:
        """Σ log(1 + sᵢ²/λ): twice the nats that the data tell."""
        return torch.log1p(self.values**2 / torch.as_tensor(lam, dtype=torch.float64)[..., None]).sum(-1)


def _inverse_root(root: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """L⁺, (N,) or (N, p) with p its rank, and a basis of the null space of L, (N, D)."""
    if root.dim() == 1 and bool((root > 0).all()):
        return 1 / root, root.new_zeros(len(root), 0)
    full = torch.diag(root) if root.dim() == 1 else root
    # an SVD of R of L = QR: L may have many more rows than columns
    _, l, V = torch.linalg.svd(torch.linalg.qr(full, mode="r").R, full_matrices=True)
    rank = int((l > max(full.shape) * _EPS * l[:1]).sum()) if len(l) else 0
    return V[:rank].mT / l[:rank], V[rank:].mT


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
    """A spectrum with measurements: what each λ gives, for one λ or (R,) of them.

    Attributes:
        spectrum: The directions.
        b: Measurements less A times the prior's mean, (M,).
        mean: The prior's mean, (N,) or a scalar.
    """

    spectrum: Spectrum
    b: torch.Tensor
    mean: torch.Tensor

    @cached_property
    def coefficients(self) -> torch.Tensor:
        """Uᵀb, (R,)."""
        return self.spectrum.measured.mT @ self.b

    @cached_property
    def off_range(self) -> float:
        """‖b‖² of the part that no x explains."""
        s = self.spectrum
        rest = self.b - s.images @ (s.images.mT @ self.b)
        rest = rest - s.measured @ (s.measured.mT @ rest)
        return float(rest.square().sum())

    def _left(self, lam: torch.Tensor | float) -> torch.Tensor:
        """1 − fᵢ without loss of digits."""
        lam = torch.as_tensor(lam, dtype=torch.float64)[..., None]
        return lam / (self.spectrum.values**2 + lam)

    def residual_squares(self, lam: torch.Tensor | float) -> torch.Tensor:
        """‖A x_λ − b‖²."""
        return (self._left(lam) * self.coefficients).square().sum(-1) + self.off_range

    def penalised_squares(self, lam: torch.Tensor | float) -> torch.Tensor:
        """‖A x_λ − b‖² + λ ‖L x_λ‖², which is bᵀ(I + A(LᵀL)⁻¹Aᵀ/λ)⁻¹b."""
        return (self._left(lam) * self.coefficients.square()).sum(-1) + self.off_range

    def penalty_squares(self, lam: torch.Tensor | float) -> torch.Tensor:
        """‖L x_λ‖²."""
        return self.contributions(lam).square().sum(-1)

    def contributions(self, lam: torch.Tensor | float) -> torch.Tensor:
        """fᵢ uᵢᵀb/sᵢ, the answer in coordinates in which the penalty is a sum of squares, (..., R)."""
        s = self.spectrum.values
        return s * self.coefficients / (s**2 + torch.as_tensor(lam, dtype=torch.float64)[..., None])

    def left_over(self, lam: torch.Tensor | float) -> torch.Tensor:
        """M − degrees of freedom, without loss of digits where it is small."""
        return self.spectrum.left_over(lam)

    def noise_scale(self, lam: torch.Tensor | float) -> torch.Tensor:
        """√(‖residual‖²/(M − df)): the noise that the residual shows (Wahba 1983)."""
        return (self.residual_squares(lam) / self.left_over(lam).clamp_min(_EPS)).sqrt()

    def log_evidence(self, lam: torch.Tensor | float, sigma: torch.Tensor | float) -> torch.Tensor:
        """Log p(b | λ, σ) in nats; with free directions the restricted likelihood, up to a constant.

        It is −½ Σ log(1 + sᵢ²/λ) − ‖·‖²/(2σ²) − (M − D) log σ√2π, ‖·‖² of `penalised_squares`.
        """
        lam = torch.as_tensor(lam, dtype=torch.float64)
        sigma = torch.as_tensor(sigma, dtype=torch.float64)
        count = self.spectrum.num_data - self.spectrum.num_free
        constant = count * (sigma.log() + 0.5 * math.log(2 * math.pi))
        return -0.5 * self.spectrum.gain(lam) - self.penalised_squares(lam) / (2 * sigma**2) - constant

    def likeliest_noise_scale(self, lam: torch.Tensor | float) -> torch.Tensor:
        """The σ at which the evidence of this λ is highest."""
        return (self.penalised_squares(lam) / (self.spectrum.num_data - self.spectrum.num_free)).sqrt()

    def solution(self, lam: float) -> torch.Tensor:
        """x_λ, (N,)."""
        s = self.spectrum
        x = s.unknown @ self.contributions(lam)
        if s.num_free:
            left = s.images.mT @ (self.b - s.operator @ x)
            x = x + s.free @ torch.linalg.solve_triangular(s.triangle, left[:, None], upper=True)[:, 0]
        return self.mean + x
