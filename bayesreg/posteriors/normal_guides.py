"""Guides with correlations: one normal over the whole flat vector, by a full factor of its covariance or by a low-rank one.

As Pyro programs they have an auxiliary site with the vector, and one site an unknown that follows from it, as Pyro's own
autoguides have.
"""

from __future__ import annotations

import abc
import copy
from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch

from bayesreg.behaviour import each
from bayesreg.objective.flat import FlatLayout, LogJoint
from bayesreg.posteriors.guides import AbstractFamily
from bayesreg.priors.values import HALF_LOG_2PI


def paired(noise: torch.Tensor) -> torch.Tensor:
    """The first half of some standard normal numbers, (S, M), with both signs, and the one that is left where S is odd."""
    half = noise[: len(noise) // 2]
    return torch.cat([half, -half, noise[2 * len(half) :]])


class AbstractCorrelated(AbstractFamily):
    """A normal family over u ∈ Rᴾ whose unknowns are not independent.

    What is learned is where the normal lies relative to the one it started from, in that one's units: near a good start every
    entry of `phi` is then of one size, and one learning rate suits all.

    The gradient of its ELBO leaves out the density's score, whose mean is zero: it vanishes draw by draw, not only on average,
    where q is the posterior.

    References:
        Roeder, Wu and Duvenaud (2017), Sticking the landing: simple, lower-variance gradient estimators for variational
        inference.
    """

    @abc.abstractmethod
    def log_density_at(self, phi: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        """Log q(u) as a pure function of `phi`, (P,) to a scalar or (S, P) to (S,), in nats."""

    @abc.abstractmethod
    def drawn(self, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The draws (S, P) of some noise (S, M) and their log q, (S,), detached: for a step, without a graph."""

    @abc.abstractmethod
    def pull_back(self, noise: torch.Tensor, slopes: torch.Tensor, each: float) -> None:
        """Add to `phi.grad` the gradient of a step in closed form.

        Args:
            noise: Of the draws uₛ, (S, M).
            slopes: Gradients of some f at them, (S, P).
            each: Factor e on the density: what is differentiated is the mean of f(uₛ) + e log q(uₛ), as in `divergence_at`.
        """

    @abc.abstractmethod
    def as_normal(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Location (P,) and a factor F of the covariance F Fᵀ, (P, M), detached."""

    @abc.abstractmethod
    def distribution(self) -> Any:
        """The Pyro distribution of the vector, event shape (P,)."""

    def divergence_at(self, phi: torch.Tensor, log_joint: LogJoint, u: torch.Tensor) -> torch.Tensor:
        """KL(q ‖ p) at the draw `u`, (P,): log q(u) − log p(u), a scalar in nats whose gradient is that of its mean."""
        prior = log_joint.log_prior(u) + log_joint.layout.log_jacobian(u)
        return self.log_density_at(phi.detach(), u) - prior

    def elbo_at(
        self, phi: torch.Tensor, noise: torch.Tensor, log_joint: LogJoint, x: torch.Tensor, y: torch.Tensor, num_data: Any
    ) -> torch.Tensor:
        """See `AbstractFamily.elbo_at`; the density of all draws is found at once."""
        draws = self.draws_at(phi, paired(noise))

        def at(u: torch.Tensor) -> torch.Tensor:
            return log_joint.prepared(u, x, y, num_data, jacobian=True)

        joint = at(draws[0])[None] if len(draws) == 1 else each(log_joint.model.behaviour, at, draws)
        return (joint - self.log_density_at(phi.detach(), draws)).mean()

    def log_density(self, u: torch.Tensor) -> torch.Tensor:
        """Log q(u) of the unconstrained vector, (P,) to a scalar or (S, P) to (S,), in nats, detached."""
        return self._as(u).log_density_at(self.phi.detach().to(u), u)

    def _as(self, like: torch.Tensor) -> AbstractCorrelated:
        """The same guide with numbers of this type."""
        return self if self.phi.dtype == like.dtype else copy.deepcopy(self).to(like.dtype)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        """The Pyro program: an auxiliary site with the vector, then each unknown; arguments are not used."""
        self.register()
        u = pyro.sample("_unconstrained", self.distribution(), infer={"is_auxiliary": True})
        values, found = self.layout.unflatten(u), {}
        for name, s in self.layout.segments.items():
            part, value = u[s.slice], values[name]
            inwards: Any = u.new_zeros(())  # log |du/dθ| of this unknown
            if s.transform is not None:
                inwards = inwards - s.transform.log_abs_det_jacobian(part, s.transform(part)).sum()
            if not s.latent.centered:
                inwards = inwards - s.latent.scale(values).log().expand(s.latent.shape).sum()
            found[name] = pyro.sample(name, dist.Delta(value, log_density=inwards, event_dim=value.dim()))
        return found

    def site(self, name: str, values: Any = None) -> Any:
        """None stands by itself: an unknown follows from the whole vector."""
        raise NotImplementedError(f"{name} is not independent of the other unknowns; call the guide, or take distribution().")


class FullRankGuide(AbstractCorrelated):
    """u ~ N(loc, L Lᵀ), L lower-triangular with a positive diagonal.

    With the start (c, C) it is loc = c + C a and L = C B; `phi` is a and then B by rows, with the logarithm of its diagonal.

    Args:
        layout: Where each unknown lies in the vector.
        loc: Mean to start from, (P,).
        factor: Lower-triangular factor of the covariance to start from, (P, P), with a positive diagonal.

    References:
        Kucukelbir, Tran, Ranganath, Gelman and Blei (2017), Automatic differentiation variational inference.
    """

    centre: torch.Tensor
    root: torch.Tensor

    def __init__(self, layout: FlatLayout, loc: torch.Tensor, factor: torch.Tensor) -> None:
        size = layout.size
        super().__init__(layout, loc.new_zeros(size + size * size))
        self.register_buffer("centre", loc.detach().clone())
        self.register_buffer("root", factor.detach().clone())

    @classmethod
    def blank(cls, layout: FlatLayout, like: torch.Tensor) -> FullRankGuide:
        """A standard normal."""
        return cls(layout, like.new_zeros(layout.size), torch.eye(layout.size, dtype=like.dtype, device=like.device))

    def _parts(self, phi: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The shift a (P,), B (P, P), and the logarithm of its diagonal."""
        size = self.layout.size
        shift, matrix = phi[:size], phi[size:].view(size, size)
        log_diagonal = matrix.diagonal()
        return shift, matrix.tril(-1) + log_diagonal.exp().diag(), log_diagonal

    def draws_at(self, phi: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Loc + L ε."""
        shift, inner, _ = self._parts(phi)
        return self.centre + (shift + noise @ inner.mT) @ self.root.mT

    def _factor(self, phi: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        shift, inner, _ = self._parts(phi)
        return self.centre + self.root @ shift, self.root @ inner

    def marginals_at(self, phi: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean, and the length of each row of L."""
        loc, factor = self._factor(phi)
        return loc, factor.norm(dim=1)

    def _half_log_det(self, log_diagonal: torch.Tensor) -> torch.Tensor:
        return log_diagonal.sum() + self.root.diagonal().log().sum()

    def entropy_at(self, phi: torch.Tensor) -> torch.Tensor:
        """Σ log Lᵢᵢ + P/2 log 2πe."""
        return self._half_log_det(self._parts(phi)[2]) + (HALF_LOG_2PI + 0.5) * self.layout.size

    def log_density_at(self, phi: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        """By two triangular systems."""
        shift, inner, log_diagonal = self._parts(phi)
        away = (u - self.centre).reshape(-1, self.layout.size).mT
        within = torch.linalg.solve_triangular(self.root, away, upper=False) - shift[:, None]
        noise = torch.linalg.solve_triangular(inner, within, upper=False)
        found = -0.5 * noise.square().sum(0) - self._half_log_det(log_diagonal) - HALF_LOG_2PI * self.layout.size
        return found.reshape(u.shape[:-1])

    @torch.no_grad()
    def drawn(self, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `AbstractCorrelated.drawn`; the upper triangle of `phi`'s matrix is zero, since no gradient enters it."""
        size = self.layout.size
        shift, matrix = self.phi[:size], self.phi[size:].view(size, size)
        log_diagonal = matrix.diagonal()
        inner = torch.addmm(shift, noise, matrix.mT) + noise * (log_diagonal.exp() - log_diagonal)
        log_q = -0.5 * noise.square().sum(1) - self._half_log_det(log_diagonal) - HALF_LOG_2PI * size
        return torch.addmm(self.centre, inner, self.root.mT), log_q

    @torch.no_grad()
    def pull_back(self, noise: torch.Tensor, slopes: torch.Tensor, each: float) -> None:
        """See `AbstractCorrelated.pull_back`: h = Cᵀ ∇f − e B⁻ᵀ ε for a, and the lower triangle of h εᵀ for B."""
        size, phi = self.layout.size, self.phi
        matrix = phi[size:].view(size, size).clone()
        diagonal = matrix.diagonal()
        diagonal.exp_()
        back = torch.linalg.solve_triangular(matrix.mT, noise.mT, upper=True)
        slope = torch.addmm(back.mT, slopes, self.root, beta=-each).div_(len(noise))
        phi.grad[:size].add_(slope.sum(0))  # pyright: ignore[reportOptionalSubscript]
        block = torch.mm(slope.mT, noise).tril_()
        block.diagonal().mul_(diagonal)
        phi.grad[size:].add_(block.view(-1))  # pyright: ignore[reportOptionalSubscript]

    def whitened(self, gradients: torch.Tensor) -> torch.Tensor:
        """By the Fisher information about q: 1 for a shift or a lower entry in its own units, 2 for a log-diagonal one."""
        size = self.layout.size
        _, inner, log_diagonal = (part.detach().to(gradients) for part in self._parts(self.phi))
        shift, matrix = gradients[:, :size], gradients[:, size:].reshape(-1, size, size)
        matrix = matrix.tril(-1) + torch.diag_embed(matrix.diagonal(dim1=1, dim2=2) / log_diagonal.exp())
        found = (inner.mT @ matrix).tril()
        found.diagonal(dim1=1, dim2=2).mul_(0.5**0.5)
        return torch.cat([shift @ inner, found.flatten(1)], 1)

    def as_normal(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Location and lower-triangular factor."""
        return self._factor(self.phi.detach())

    def distribution(self) -> Any:
        """A `MultivariateNormal`, with gradient."""
        loc, factor = self._factor(self.phi)
        return dist.MultivariateNormal(loc, scale_tril=factor)


class LowRankGuide(AbstractCorrelated):
    """u ~ N(loc, diag(d²) + V Vᵀ), V with K columns.

    With the start's mean c and units s it is loc = c + s∘a, V = s∘W and d = s∘exp(l); `phi` is a, l and then W by rows.

    Args:
        layout: Where each unknown lies in the vector.
        loc: Mean to start from, (P,).
        scale: What each entry has for itself at the start, d, (P,), > 0; the units too.
        directions: V at the start, (P, K). At zero it would stay there.

    References:
        Ong, Nott and Smith (2018), Gaussian variational approximation with a factor covariance structure.
    """

    centre: torch.Tensor
    units: torch.Tensor

    def __init__(self, layout: FlatLayout, loc: torch.Tensor, scale: torch.Tensor, directions: torch.Tensor) -> None:
        inner = directions / scale[:, None]
        super().__init__(layout, torch.cat([torch.zeros_like(loc), torch.zeros_like(loc), inner.reshape(-1)]))
        self.register_buffer("centre", loc.detach().clone())
        self.register_buffer("units", scale.detach().clone())

    @classmethod
    def blank(cls, layout: FlatLayout, like: torch.Tensor) -> LowRankGuide:
        """A standard normal, of rank 1."""
        return cls(layout, like.new_zeros(layout.size), like.new_ones(layout.size), like.new_zeros(layout.size, 1))

    @classmethod
    def like_state(cls, layout: FlatLayout, like: torch.Tensor, state: Mapping[str, torch.Tensor]) -> LowRankGuide:
        """Of the saved one's rank."""
        phi = state.get("phi")
        rank = max(1, phi.numel() // layout.size - 2) if isinstance(phi, torch.Tensor) else 1
        return cls(layout, like.new_zeros(layout.size), like.new_ones(layout.size), like.new_zeros(layout.size, rank))

    @property
    def rank(self) -> int:
        """K."""
        return len(self.phi) // self.layout.size - 2

    @property
    def noise_size(self) -> int:
        """P + K."""
        return self.layout.size + self.rank

    def _parts(self, phi: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The shift a and the logarithms l, both (P,), and W, (P, K)."""
        size = self.layout.size
        return phi[:size], phi[size : 2 * size], phi[2 * size :].view(size, -1)

    def draws_at(self, phi: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Loc + d∘ε + V η."""
        shift, log_own, inner = self._parts(phi)
        own, shared = noise[..., : self.layout.size], noise[..., self.layout.size :]
        return self.centre + self.units * (shift + own * log_own.exp() + shared @ inner.mT)

    def marginals_at(self, phi: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean, and √(d² + Σ V²)."""
        shift, log_own, inner = self._parts(phi)
        sd = ((2 * log_own).exp() + inner.square().sum(1)).sqrt()
        return self.centre + self.units * shift, self.units * sd

    def _normal(self, phi: torch.Tensor) -> Any:
        """Of the vector in the start's units."""
        shift, log_own, inner = self._parts(phi)
        return dist.LowRankMultivariateNormal(shift, inner, (2 * log_own).exp(), validate_args=False)

    def entropy_at(self, phi: torch.Tensor) -> torch.Tensor:
        """½ log|diag(d²) + V Vᵀ| + P/2 log 2πe."""
        return self._normal(phi).entropy() + self.units.log().sum()

    def log_density_at(self, phi: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        """By Woodbury's identity."""
        return self._normal(phi).log_prob((u - self.centre) / self.units) - self.units.log().sum()

    @torch.no_grad()
    def drawn(self, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `AbstractCorrelated.drawn`."""
        draws = self.draws_at(self.phi, noise)
        return draws, self.log_density_at(self.phi, draws)

    @torch.no_grad()
    def pull_back(self, noise: torch.Tensor, slopes: torch.Tensor, each: float) -> None:
        """See `AbstractCorrelated.pull_back`: h = s∘∇f − e S⁻¹ z, z = exp(l)∘ε + W η, for a; h∘ε∘exp(l) for l; h ηᵀ for W."""
        size = self.layout.size
        _, log_own, inner = self._parts(self.phi)
        own, (alone, shared) = log_own.exp(), noise.split([size, inner.shape[1]], 1)
        z, scaled = alone * own + shared @ inner.mT, inner / own.square()[:, None]
        gram = torch.addmm(torch.eye(inner.shape[1], dtype=inner.dtype, device=inner.device), inner.mT, scaled)
        inverse = z / own.square() - torch.linalg.solve(gram, (z @ scaled).mT).mT @ scaled.mT
        slope = (self.units * slopes - each * inverse) / len(noise)
        found = [slope.sum(0), (slope * alone).sum(0) * own, (slope.mT @ shared).view(-1)]
        self.phi.grad.add_(torch.cat(found))  # pyright: ignore[reportOptionalMemberAccess]

    def whitened(self, gradients: torch.Tensor) -> torch.Tensor:
        """By an upper bound of each block of the Fisher information, so that a gain is one at least.

        With S = diag(e²ˡ) + W Wᵀ that is S⁻¹ of the shift, 2 of the logarithms, and 2 S⁻¹ ⊗ (Wᵀ S⁻¹ W) of W.
        """
        size = self.layout.size
        log_own, inner = (part.detach().to(gradients) for part in self._parts(self.phi)[1:])
        of_shift, of_own, of_inner = gradients[:, :size], gradients[:, size : 2 * size], gradients[:, 2 * size :]
        of_inner = of_inner.reshape(len(gradients), size, -1)
        own = log_own.exp()
        identity = torch.eye(inner.shape[1], dtype=inner.dtype, device=inner.device)
        scaled = inner / own[:, None]
        gram = identity - torch.linalg.inv(identity + scaled.mT @ scaled) + 1e-3 * identity  # Wᵀ S⁻¹ W, kept from zero
        root = torch.linalg.inv(torch.linalg.cholesky(gram)).mT
        columns = torch.cat([inner.mT @ of_inner, own[:, None] * of_inner], 1) @ root
        return torch.cat([of_shift @ inner, of_shift * own, of_own * 0.5**0.5, columns.flatten(1) * 0.5**0.5], 1)

    def as_normal(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Location, and V beside diag(d), (P, K + P)."""
        shift, log_own, inner = self._parts(self.phi.detach())
        factor = torch.cat([inner, log_own.exp().diag()], 1)
        return self.centre + self.units * shift, self.units[:, None] * factor

    def times_factor(self, rows: torch.Tensor) -> torch.Tensor:
        """See `AbstractPosterior.times_factor`; without the (P, P) matrix."""
        _, log_own, inner = (part.to(rows) for part in self._parts(self.phi.detach()))
        scaled = rows * self.units.to(rows)
        return torch.cat([scaled @ inner, scaled * log_own.exp()], 1)

    def distribution(self) -> Any:
        """A `LowRankMultivariateNormal`, with gradient."""
        shift, log_own, inner = self._parts(self.phi)
        own = self.units * log_own.exp()
        return dist.LowRankMultivariateNormal(self.centre + self.units * shift, self.units[:, None] * inner, own.square())
