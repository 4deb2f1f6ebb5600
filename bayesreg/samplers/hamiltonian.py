"""Hamiltonian Monte Carlo: R particles that roll over −log π with fresh momenta, and a rule that accepts where they end.

    H(z, p) = −log π(u) + ½‖p‖²,   z = u/s;     dz/dt = p,  dp/dt = s ∇log π;     accepted with min(1, exp(H − H'))

s are the unknowns' sds, so that ½‖p‖² is the energy of a diagonal mass matrix 1/s². They come from the draws of all chains in
the warm-up, and so does the step size ε, by dual averaging. What is tuned stays as it is from the first draw that is kept: each
kernel then leaves π as it is, whatever the tuning.

References:
    Duane, Kennedy, Pendleton and Roweth (1987), Hybrid Monte Carlo. Neal (2011), MCMC using Hamiltonian dynamics.
"""

from __future__ import annotations

import abc
import math
from typing import ClassVar

import torch

from bayesreg.objective.chains import Density
from bayesreg.samplers.adaptation import DualAveraging, Moments
from bayesreg.samplers.base import AbstractSampler, State, Told, chances, part_of, under

DIVERGING = 1000.0  # an error of the energy, in nats, that no step of a healthy size makes
_WINDOWS = (0.15, 0.3, 0.5, 0.75)  # shares of the warm-up after which the sds are found anew
_AFAR, _FIRST = 10, 3  # steps of a trajectory, at most, on the way to the typical set, and where the ascent begins
_PRICE = 0.5  # the criterion is divided by the length to this power
_RATE, _FORGET, _SLOWER = 0.05, 0.95, 20  # of the ascent by which a length is found; its rate falls after so many draws
_FEW = 20  # draws that sds cannot be had of
_RECENT = 20  # draws of each chain over which the centre is averaged


def leapfrogs(
    density: Density,
    u: torch.Tensor,
    momentum: torch.Tensor,
    gradient: torch.Tensor,
    scale: torch.Tensor,
    step: float,
    count: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Leapfrog steps: half a kick, then a drift and a kick each, the last one halved.

    Args:
        density: log π and its gradient.
        u: (R, P).
        momentum: (R, P), in units of 1/s.
        gradient: At u, (R, P).
        scale: s, (1, P).
        step: ε.
        count: How many.

    Returns:
        Positions, momenta, values (R,), gradients.

    >>> bowl = lambda u: (-0.5 * u.square().sum(1), -u)
    >>> u, p = torch.tensor([[1.0]]), torch.tensor([[0.5]])
    >>> there, back, _, gradient = leapfrogs(bowl, u, p, -u, torch.ones(1, 1), 0.3, 7)
    >>> again, _, _, _ = leapfrogs(bowl, there, -back, gradient, torch.ones(1, 1), 0.3, 7)      # time runs backwards
    >>> torch.allclose(again, u, atol=1e-6)
    True
    """
    by = step * scale
    momentum = torch.addcmul(momentum, by, gradient, value=0.5)
    for i in range(count):
        u = torch.addcmul(u, by, momentum)
        value, gradient = density(u)
        momentum = torch.addcmul(momentum, by, gradient, value=1.0 if i + 1 < count else 0.5)
    return u, momentum, value, gradient


def energies(value: torch.Tensor, momentum: torch.Tensor) -> torch.Tensor:
    """H of each chain, (R,)."""
    return 0.5 * momentum.square().sum(1) - value


def van_der_corput(index: int) -> float:
    """The index-th number, from 1 on, of a sequence that fills (0, 1) evenly: the index' binary digits mirrored at the point.

    >>> [van_der_corput(i) for i in (1, 2, 3, 4, 5)]
    [0.5, 0.25, 0.75, 0.125, 0.625]
    """
    value, part = 0.0, 0.5
    while index:
        value, index, part = value + part * (index & 1), index >> 1, part / 2
    return value


class AbstractHamiltonian(AbstractSampler):
    """What samplers of Hamiltonian dynamics share: sds of the unknowns and a step size, tuned over all chains.

    The density is traced, not the step, whose number of gradients differs from draw to draw.

    Args:
        target_acceptance: Acceptance that the step size is tuned for, in (0, 1).
    """

    traceable: ClassVar[bool] = False
    gradients: ClassVar[int] = 10

    def __init__(self, target_acceptance: float) -> None:
        self.tuning = DualAveraging(target_acceptance)

    def init(self, density: Density, u: torch.Tensor, num_warmup: int) -> State:
        """See `AbstractSampler.init`."""
        value, gradient = self.evaluate(density, u)
        scale = torch.ones_like(u[:1])
        state = {"u": u, "value": value, "gradient": gradient, "scale": scale}
        step = torch.tensor(self._first_step(density, state), dtype=u.dtype, device=u.device)
        state = {**state, "step_size": step, **under("tuning", self.tuning.init(step))}
        return {**state, **under("moments", Moments.init(u[0]))}

    def evaluate(self, density: Density, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Values and gradients of all chains."""
        return density(u)

    @abc.abstractmethod
    def acceptance(self, told: Told) -> torch.Tensor:
        """The acceptance of a step over all chains that the step size is tuned by."""

    def warm_up(self, density: Density, before: State, state: State, told: Told, step: int, num_warmup: int) -> State:
        """See `AbstractSampler.warm_up`: the step size at every step, the sds at the end of a few windows."""
        tuning = self.tuning.update(part_of("tuning", state), self.acceptance(told))
        state = {**state, **under("tuning", tuning), "step_size": self.tuning.now(tuning)}
        ends = [round(share * num_warmup) for share in _WINDOWS]
        if step < ends[-1]:
            if step >= ends[0] // 2:  # the way to the typical set
                moments = Moments.update(part_of("moments", state), state["u"])
                state = {**state, **under("moments", moments)}
            if step + 1 in ends:
                state = self._rescaled(state)
        if step + 1 == num_warmup:
            state = {**state, "step_size": self.tuning.final(part_of("tuning", state))}
        return state

    def _rescaled(self, state: State) -> State:
        """With the sds of the window that ends, and a step size that is sought again from where it is in the new units."""
        moments = part_of("moments", state)
        if float(moments["seen"]) < _FEW or not bool((moments["square"] > 0).all()):
            return state  # chains that did not move tell nothing
        scale = Moments.variance(moments).sqrt()[None]
        smaller = (state["scale"] / scale).log().mean().exp()
        step = self.tuning.final(part_of("tuning", state)) * smaller
        fresh = {**under("tuning", self.tuning.init(step)), **under("moments", Moments.init(scale[0]))}
        return {**state, **fresh, "scale": scale, "step_size": step}

    def _first_step(self, density: Density, state: State) -> float:
        """A step size whose acceptance, averaged over the chains, crosses 0.8, by doubling or halving it from 1."""
        u, value, gradient, scale = (state[name] for name in ("u", "value", "gradient", "scale"))
        step, grows = 1.0, None
        while 1e-7 < step < 1e7:
            momentum = torch.randn_like(u)
            there = u + step * scale * (momentum + 0.5 * step * scale * gradient)
            ended, slope = self.evaluate(density, there)
            after = energies(ended, momentum + 0.5 * step * scale * (gradient + slope))
            good = bool(chances(energies(value, momentum), after).mean() > 0.8)
            if grows is not None and good != grows:
                return step
            grows = good
            step *= 2.0 if good else 0.5
        return step


class Hamiltonian(AbstractHamiltonian):
    """All chains in one batched gradient, with trajectories of one length, found by ChEES and drawn anew for each draw.

    The number of leapfrogs is ⌈h T/ε⌉, h from a sequence that fills (0, 1) evenly; T ascends, in the warm-up, the change of the
    squared distance from the centre, ¼ E[(‖z' − c‖² − ‖z − c‖²)²], which is a long way for every unknown at once; over √T,
    since beyond the first turn nothing is won by longer ways.

    Args:
        target_acceptance: Harmonic mean of the chains' acceptance; 0.651 is the best for many unknowns.
        max_leapfrogs: Leapfrogs of a draw, at most.

    References:
        Hoffman, Radul and Sountsov (2021), An adaptive-MCMC scheme for setting trajectory lengths in Hamiltonian Monte Carlo.
    """

    def __init__(self, target_acceptance: float = 0.651, max_leapfrogs: int = 1000) -> None:
        super().__init__(target_acceptance)
        self.max_leapfrogs = max_leapfrogs

    def init(self, density: Density, u: torch.Tensor, num_warmup: int) -> State:
        """See `AbstractSampler.init`."""
        state = super().init(density, u, num_warmup)
        zero, length = torch.zeros_like(state["step_size"]), _AFAR * state["step_size"]
        ascent = {"slope": zero, "square": zero, "count": zero, "steps": zero, "mean": length.log(), "centre": u.mean(0)}
        return {**state, "length": length, "index": torch.zeros((), dtype=torch.long), **under("ascent", ascent)}

    def step(self, density: Density, state: State) -> tuple[State, Told]:
        """See `AbstractSampler.step`."""
        u, value, gradient, scale = (state[name] for name in ("u", "value", "gradient", "scale"))
        index, step, length = int(state["index"]) + 1, float(state["step_size"]), float(state["length"])
        share = van_der_corput(index)
        count = max(1, min(self.max_leapfrogs, math.ceil(share * length / step)))
        momentum = torch.randn_like(u)
        begun = energies(value, momentum)
        proposal, turned, there, slope = leapfrogs(density, u, momentum, gradient, scale, step, count)
        ended = energies(there, turned)
        chance = torch.where(slope.isfinite().all(1), chances(begun, ended), 0.0)
        taken = torch.rand_like(chance) < chance
        moved = {
            "u": torch.where(taken[:, None], proposal, u),
            "value": torch.where(taken, there, value),
            "gradient": torch.where(taken[:, None], slope, gradient),
            "index": state["index"] + 1,
            "ascent.slope": _climb(u, proposal, turned, state["ascent.centre"], scale, chance, count * step),
        }
        told = {"lp": moved["value"], "energy": torch.where(taken, ended, begun), "acceptance_rate": chance}
        told["diverging"] = (~((ended - begun) < DIVERGING)).to(chance)
        return moved, {**told, "step_size": torch.full_like(chance, step), "n_steps": torch.full_like(chance, count)}

    def acceptance(self, told: Told) -> torch.Tensor:
        """The harmonic mean, which a single chain that is stuck pulls down."""
        return 1 / (1 / told["acceptance_rate"].clamp_min(1e-10)).mean()

    def warm_up(self, density: Density, before: State, state: State, told: Told, step: int, num_warmup: int) -> State:
        """See `AbstractSampler.warm_up`: the length too, by one step of Adam on log T without momentum."""
        scale = state["scale"]
        state = super().warm_up(density, before, state, told, step, num_warmup)
        ascent, shortest = part_of("ascent", state), state["step_size"]
        if step < round(_WINDOWS[0] * num_warmup):  # chains that come from afar shrink together, whatever their length
            length = (_AFAR if step + 1 < round(_WINDOWS[0] * num_warmup) else _FIRST) * shortest
            return {**state, "length": length, "ascent.mean": length.log(), "ascent.centre": state["u"].mean(0)}
        shrunk, slope = (scale / state["scale"]).log().mean(), ascent["slope"]
        if not scale.equal(state["scale"]):  # slopes in other units, and on the way to the typical set, are no measure
            ascent = {**ascent, "square": 0 * slope, "count": 0 * slope}
        count = ascent["count"] + 1
        square = _FORGET * ascent["square"] + (1 - _FORGET) * slope.square()
        rate = _RATE * (_SLOWER / state["ascent.steps"].clamp_min(_SLOWER)).sqrt()
        rise = rate * slope / ((square / (1 - _FORGET**count)).sqrt() + 1e-30)
        length = (state["length"] * (rise + shrunk).exp()).clamp(shortest, self.max_leapfrogs * shortest)
        weight = count**-0.75
        mean = weight * length.log() + (1 - weight) * (ascent["mean"] + shrunk)
        centre = ascent["centre"] + (state["u"].mean(0) - ascent["centre"]) / count.clamp_max(_RECENT)
        steps = ascent["steps"] + 1
        ascent = {"slope": slope, "square": square, "count": count, "steps": steps, "mean": mean, "centre": centre}
        return {**state, **under("ascent", ascent), "length": mean.exp() if step + 1 == num_warmup else length}


def _climb(
    u: torch.Tensor,
    proposal: torch.Tensor,
    momentum: torch.Tensor,
    centre: torch.Tensor,
    scale: torch.Tensor,
    chance: torch.Tensor,
    time: float,
) -> torch.Tensor:
    """How the criterion over √T rises with log T, up to a factor, averaged over proposals by their acceptance."""
    before, after = (u - centre) / scale, (proposal - centre) / scale
    change = after.square().sum(1) - before.square().sum(1)
    rises = time * change * (after * momentum).sum(1) - 0.25 * _PRICE * change.square()
    rises = torch.where(chance > 0, rises, 0.0)
    return ((chance * rises).sum() / chance.sum().clamp_min(1e-10)).nan_to_num(0.0, 0.0, 0.0)
