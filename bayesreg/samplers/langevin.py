"""Langevin dynamics with momentum on gradients that may be noisy: stochastic gradient Hamiltonian Monte Carlo.

    p ← p + ½h g,   z ← z + ½h p,   p ← c p + σ ξ,   z ← z + ½h p,   g = ∇log π(z),   p ← p + ½h g;      u = s z

This order (BAOAB) has no discretisation error in the variances of a normal target, at any h that is stable, and one gradient a
step. Noise in g of variance V adds h²V(1 + c)²/4 to that of a step, which σ² = 1 − c² − h²V(1 + c)²/4 leaves out again.
At c = 0 the momentum is forgotten at each step: stochastic gradient Langevin dynamics, z ← z + ½h² g + ½h (ξ + ξ').

The warm-up finds s from the gradients' mean squares, whose expectation under π is the mean curvature; h from the largest
curvature in these units; and h and c from V, so that even its largest direction warms the chain by a tenth at most.

References:
    Chen, Fox and Guestrin (2014), Stochastic gradient Hamiltonian Monte Carlo. Leimkuhler and Matthews (2013), Rational
    construction of stochastic numerical methods for molecular sampling. Li, Chen, Carlson and Carin (2016), Preconditioned
    stochastic gradient Langevin dynamics.
"""

from __future__ import annotations

import math

import torch

from bayesreg.objective.chains import AbstractChains
from bayesreg.samplers.base import AbstractSampler, State, Told

STRIDE = 0.7  # h times the largest frequency; stable below 2
WARMING = 0.1  # of the variance, by gradient noise, in its largest direction and before it is corrected
HOT = 1.0  # the same on the way to where the chains belong
_WINDOWS = (0.1, 0.25, 0.5, 0.75)  # of the warm-up, after which the chain is tuned anew
_TURNS = 12  # products with the curvature that find its largest eigenvalue
_PAIRS = 64  # pairs of gradients, over all chains, that show their noise
_PROBES = 8
_PASSES = 3
_BLOW = 4.0  # kinetic energy, by that of the dynamics at their largest, beyond which a chain was thrown
_SHRUNK = 5.0  # draws that count for the typical curvature


class Langevin(AbstractSampler):
    """Chains of the dynamics above.

    Args:
        friction: 1 − c, the part of the momentum that a step forgets, in (0, 1].
        step_size: h, in units of s; tuned when None.
        precondition: Whether each unknown has a scale s of its own; one for all otherwise.
        period: Steps of a cycle along which each step shrinks from h to 0 by half a cosine; 0 for none.
    """

    def __init__(
        self, friction: float = 0.1, step_size: float | None = None, precondition: bool = True, period: int = 0
    ) -> None:
        self.friction, self.step_size, self.precondition, self.period = friction, step_size, precondition, period

    def init(self, density: AbstractChains, u: torch.Tensor, num_warmup: int) -> State:  # pyright: ignore[reportIncompatibleMethodOverride]
        """See `AbstractSampler.init`."""
        value, gradient = density(u)
        number = lambda of: u.new_tensor(of)  # noqa: E731
        state = {
            **{"u": u.clone(), "p": torch.randn_like(u), "gradient": gradient, "value": value},
            **{"scale": torch.ones_like(u[0]), "kick": torch.zeros_like(u[0]), "square": torch.zeros_like(u[0])},
            **{"step_size": number(0.0), "keep": number(1 - self.friction), "clock": number(0.0), "seen": number(0.0)},
        }
        return self._tuned(density, state, HOT)

    def step(self, density: AbstractChains, state: State) -> tuple[State, Told]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """See `AbstractSampler.step`; a step to where the density is not finite is not taken, and no momentum is a blow."""
        u, scale, keep, h = state["u"], state["scale"], state["keep"], state["step_size"]
        if self.period:
            h = h * 0.5 * (1 + (math.pi * (state["clock"] % self.period + 0.5) / self.period).cos())
        half = 0.5 * h * scale
        p, struck = _softened(state["p"] + half * state["gradient"])
        there = u + half * p
        variance = 1 - keep.square() - state["kick"] * (h * (1 + keep) / 2).square()
        p = keep * p + variance.clamp_min(0).sqrt() * torch.randn_like(p)
        there = there + half * p
        value, gradient = density(there)
        p, again = _softened(p + half * gradient)
        good = value.isfinite() & gradient.isfinite().all(1)
        keeps = good[:, None]
        changed = {
            "u": torch.where(keeps, there, u),
            "p": torch.where(keeps, p, 0.0),
            "gradient": torch.where(keeps, gradient, state["gradient"]),
            "value": torch.where(good, value, state["value"]),
            "clock": state["clock"] + 1,
        }
        return changed, {"lp": changed["value"], "diverging": ~good | struck | again, "step_size": h.expand_as(value)}

    def warm_up(self, density: AbstractChains, before: State, state: State, told: Told, step: int, num_warmup: int) -> State:  # pyright: ignore[reportIncompatibleMethodOverride]
        """See `AbstractSampler.warm_up`."""
        square = state["square"] + state["gradient"].square().mean(0)
        state = {**state, "square": square, "seen": state["seen"] + 1, "clock": torch.zeros_like(state["clock"])}
        if step + 1 in {max(2, round(part * num_warmup)) for part in _WINDOWS}:
            state = self._tuned(density, state, WARMING if step + 1 >= num_warmup // 2 else HOT)
            state |= {"square": torch.zeros_like(square), "seen": torch.zeros_like(state["seen"])}
        return state

    def _tuned(self, density: AbstractChains, state: State, warming: float) -> State:
        """With scales, step size and friction that suit where the chains are; `warming` is what batch noise may add."""
        u, scale = state["u"], state["scale"]
        noise = gradient_noise(density, u)
        variance = noise.square().mean(0)
        if warming == HOT:  # on the way, where gradients say how far it is
            for _ in range(_PASSES):
                bend = _shrunk(_diagonal(density, u, scale), _PROBES * len(u))
                scale = bend.rsqrt()
        else:
            # by Fisher's identity a row's gradient varies as it curves, so that B/N · V is the likelihood's curvature
            bend = torch.maximum(state["square"] / state["seen"] - variance, variance * density.share)
            scale = _shrunk(bend, float(state["seen"]) * len(u)).rsqrt()
        if not self.precondition:
            scale = scale.log().mean().exp().expand_as(scale).clone()
        keep = u.new_tensor(1 - self.friction)
        if self.step_size is not None:
            h = u.new_tensor(self.step_size)
        else:
            h = STRIDE * steepest(density, u, scale).rsqrt()
            room = warming / (top_variance(noise * scale) * h.square() / 4)
            h = h * room.clamp_max(1.0).sqrt()
            keep = torch.minimum(keep, 1 - 2 / (room.clamp_min(1.0) + 1))
        return {**state, "scale": scale, "kick": variance * scale.square(), "step_size": h, "keep": keep}


def _softened(p: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Momenta (R, P) no longer than any that belong to the dynamics, ‖p‖² = P ± √(2P), and which were (R,).

    Where a network's predicted noise is small, one batch's gradient can throw a chain so far that it never comes back.
    """
    size = p.shape[1]
    most = _BLOW * (size + 10 * math.sqrt(2 * size))
    length = p.square().sum(1, keepdim=True)
    longer = length > most
    return torch.where(longer, p * (most / length.clamp_min(1e-30)).sqrt(), p), longer[:, 0]


def _shrunk(bend: torch.Tensor, count: float) -> torch.Tensor:
    """Curvatures from so many draws, (P,), pulled towards their geometric mean."""
    bend = bend.clamp_min(torch.finfo(bend.dtype).tiny)
    return (count * bend + _SHRUNK * bend.log().mean().exp()) / (count + _SHRUNK)


def gradient_noise(density: AbstractChains, u: torch.Tensor) -> torch.Tensor:
    """Differences of gradients on two batches over √2, whose mean square is the variance of one, (n, P); zeros on all rows."""
    if density.share >= 1:
        return torch.zeros_like(u[:2])
    pairs = range(max(2, -(-_PAIRS // len(u))))
    return torch.cat([(density(u)[1] - density(u)[1]) / 2**0.5 for _ in pairs]).nan_to_num(0.0, 0.0, 0.0)


def top_variance(noise: torch.Tensor) -> torch.Tensor:
    """The largest variance of rows (n, P) along any direction: each half's direction is judged by the other half's rows."""
    found = noise.square().mean()
    halves = noise[::2], noise[1::2]
    for one, other in (halves, halves[::-1]):
        _, vectors = torch.linalg.eigh(one @ one.mT)
        direction = vectors[:, -1] @ one
        along = other @ (direction / direction.norm().clamp_min(torch.finfo(noise.dtype).tiny))
        found = torch.maximum(found, along.square().mean())
    return found


def steepest(density: AbstractChains, u: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The largest curvature of −log π at any chain, in units of `scale`, by power iteration; a scalar."""
    _, gradient = density(u)
    v = torch.randn_like(u)
    size = torch.ones_like(u[:, :1])
    for _ in range(_TURNS):
        v = v / torch.linalg.vector_norm(v, dim=1, keepdim=True).clamp_min(torch.finfo(u.dtype).tiny)
        v = _product(density, u, gradient, v, scale)
        size = torch.linalg.vector_norm(v, dim=1, keepdim=True)
    found = size[size.isfinite()]
    return found.max() if len(found) and float(found.max()) > 0 else u.new_tensor(1.0)


def _product(
    density: AbstractChains, u: torch.Tensor, gradient: torch.Tensor, v: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """S H S v of each chain by a difference of gradients on the batch that was drawn last."""
    size = 1e-3 if u.dtype == torch.float64 else 1e-2
    _, there = density.again(u + size * scale * v)
    return ((gradient - there) * scale / size).nan_to_num(0.0, 0.0, 0.0)


def _diagonal(density: AbstractChains, u: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The curvature's diagonal at the chains, by random signs in units of `scale` (Hutchinson 1990), in size, (P,)."""
    total = torch.zeros_like(u[0])
    for _ in range(_PROBES):
        _, gradient = density(u)
        signs = torch.randint(2, u.shape, device=u.device).to(u) * 2 - 1
        total = total + (signs * _product(density, u, gradient, signs, scale)).mean(0)
    return (total / _PROBES).abs() / scale.square()
