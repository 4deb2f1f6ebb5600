"""Microcanonical Langevin dynamics: a particle of constant speed whose direction turns along the gradient, and forgets.

    dx = n dt,   dn = (I − n nᵀ) ∇log π/(P − 1) dt  + noise on the sphere;   the marginal of x is π

A step is a minimal-norm splitting with two gradients. Its energy error is what discretisation breaks: its mean square by
dimension sets the step size ε, and the length L after which a direction is forgotten follows from the posterior's sds, then
from the autocorrelation of the warm-up.

References:
    Robnik, De Luca, Silverstein and Seljak (2023), Microcanonical Hamiltonian Monte Carlo. Robnik and Seljak (2024),
    Fluctuation without dissipation: microcanonical Langevin Monte Carlo.
"""

from __future__ import annotations

import math

import torch

from bayesreg.objective.chains import Density
from bayesreg.samplers.adaptation import DualAveraging, Moments
from bayesreg.samplers.base import AbstractSampler, State, Told, chances, part_of, under
from bayesreg.samplers.diagnostics import effective_sizes

_OUTER = 0.1931833275037836  # of McLachlan's minimal-norm splitting B A B A B: outer, ½, 1 − 2 · outer, ½, outer
_TRUST = 1.5  # how far off an energy error may be, in powers of e⁶, to count for the step size
_REMEMBERED = 150  # steps over which energy errors are averaged
_FORGET = 0.4  # L over the length of one independent draw
_SMALL = 5e-4  # energy error by dimension whose bias is below a per cent
_COOLED = 0.9  # part of the warm-up after which the energy error is that of sampling
_FIRST = 0.005  # step size at the start: a long first step would heat a chain for good, since energy is kept
_MET = 0.2  # variance between chains over that within, an R̂ of 1.1: below it they are in one region
_MOST = 200  # steps of a trajectory
_TRACED = 32  # unknowns whose autocorrelation is looked at
_LOST = 1e4  # an energy error by dimension beyond which a particle is lost
_TRACE = 500  # and draws of each chain


def turned(n: torch.Tensor, gradient: torch.Tensor, step: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The direction after turning along a constant gradient, and the kinetic energy that it gains.

    Args:
        n: Unit vectors, (R, P).
        gradient: Of log π, (R, P).
        step: (R, 1).

    Returns:
        (R, P) and (R,).

    >>> n, gradient = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 3.0]])
    >>> after, _ = turned(n, gradient, torch.tensor([[0.1]]))      # dn/dt = (I − n nᵀ) g/(P − 1): an angle θ, θ' = 3 cos θ
    >>> torch.allclose(torch.asinh(after[:, 1] / after[:, 0]), torch.tensor([0.3]))
    True
    """
    size = n.shape[1]
    norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True).clamp_min(torch.finfo(n.dtype).tiny)
    towards = gradient / norm
    delta = step * norm / (size - 1)
    along, fade = (towards * n).sum(1, keepdim=True), (-delta).exp()
    after = towards * ((1 - fade) * (1 + fade + along * (1 - fade))) + (2 * fade) * n
    gained = (delta - math.log(2) + (1 + along + (1 - along) * fade.square()).log()) * (size - 1)
    return after / torch.linalg.vector_norm(after, dim=1, keepdim=True), gained[:, 0]


def advance(density: Density, state: State, step: torch.Tensor) -> tuple[State, torch.Tensor]:
    """One step of the dynamics without noise, of length (R, 1), and the change of energy (R,)."""
    u, n, value, gradient, scale = (state[name] for name in ("u", "n", "value", "gradient", "scale"))
    n, gained = turned(n, gradient * scale, _OUTER * step)
    u = u + (0.5 * step) * n * scale
    _, gradient = density(u)
    n, more = turned(n, gradient * scale, (1 - 2 * _OUTER) * step)
    u = u + (0.5 * step) * n * scale
    there, gradient = density(u)
    n, most = turned(n, gradient * scale, _OUTER * step)
    return {**state, "u": u, "n": n, "value": there, "gradient": gradient}, gained + more + most - (there - value)


def forgetting(n: torch.Tensor, step: torch.Tensor, length: torch.Tensor) -> torch.Tensor:
    """Directions (R, P) with the noise of a step (R, 1), whose memory fades over a length (R, 1)."""
    size = n.shape[1]
    spread = ((torch.expm1(2 * step / length)) / size).sqrt()
    after = n + spread * torch.randn_like(n)
    return after / torch.linalg.vector_norm(after, dim=1, keepdim=True)


def directions(like: torch.Tensor) -> torch.Tensor:
    """Unit vectors, uniform, (R, P)."""
    n = torch.randn_like(like)
    return n / torch.linalg.vector_norm(n, dim=1, keepdim=True)


class Microcanonical(AbstractSampler):
    """Unadjusted steps: no draw is rejected, and the bias is what the energy error says.

    Args:
        energy_variance: Mean square of a step's energy error by dimension, at the start of the warm-up and at its end, falling
            by the same factor at each step.
        scale: What each unknown is measured in, (P,), for chains that stay in regions of their own; when None, its sd over all
            chains, which the warm-up finds together with the length L. Chains that turn out to be in one region share their sds
            in any case, and then take steps of small bias.
    """

    def __init__(self, energy_variance: tuple[float, float] = (_SMALL, _SMALL), scale: torch.Tensor | None = None) -> None:
        self.energy_variance, self.scale = energy_variance, scale

    def init(self, density: Density, u: torch.Tensor, num_warmup: int) -> State:
        """See `AbstractSampler.init`."""
        value, gradient = _begun(density, u)
        one = u.new_ones(len(u), 1)
        traced = min(_TRACED, u.shape[1])
        return {
            **{"u": u, "n": directions(u), "value": value, "gradient": gradient},
            "scale": torch.ones_like(u[:1]) if self.scale is None else self.scale.to(u)[None],
            **_steps(one),
            "length": math.sqrt(u.shape[1]) * one,
            **under("moments", Moments.init(u)),
            "shared": u.new_tensor(1.0 if self.scale is None else 0.0, device="cpu"),
            "trace": u.new_zeros(len(u), min(_TRACE, num_warmup // 3), traced),
        }

    def step(self, density: Density, state: State) -> tuple[State, Told]:
        """See `AbstractSampler.step`."""
        step, length, size = state["step_size"], state["length"], state["u"].shape[1]
        begun = {**state, "n": forgetting(state["n"], 0.5 * step, length)}
        after, change = advance(density, begun, step)
        after["n"] = forgetting(after["n"], 0.5 * step, length)
        good = change.isfinite() & after["gradient"].isfinite().all(1) & (change.abs() < _LOST * size)
        before = {**state, "n": -state["n"]}  # a lost particle goes back where it came from
        moved = {}
        for name in ("u", "n", "value", "gradient"):
            fits = good[:, None] if state[name].dim() == 2 else good
            moved[name] = torch.where(fits, after[name], before[name])
        change = torch.where(good, change, torch.full_like(change, math.nan))
        told = {"lp": moved["value"], "energy_error": change.square() / size, "step_size": step[:, 0]}
        return moved, {**told, "diverging": (~good).to(step)}

    def warm_up(self, density: Density, before: State, state: State, told: Told, step: int, num_warmup: int) -> State:
        """See `AbstractSampler.warm_up`: a third for the step size, a third for the sds, a third for the length L."""
        begun, ended = self.energy_variance
        third = num_warmup // 3
        shared = self.scale is None or (step >= 2 * third and bool(state["shared"] > 0))
        progress = min(1.0, step / (_COOLED * num_warmup))
        wanted = begun * (ended / begun) ** progress
        state = _tuned(before, state, told["energy_error"], wanted if self.scale is None or not shared else min(wanted, _SMALL))
        if third <= step < 2 * third:
            return self._learning(state, step - third, third)
        return self._tracing(state, step - 2 * third, num_warmup - 2 * third) if shared and step >= 2 * third else state

    def _learning(self, state: State, step: int, steps: int) -> State:
        """Sds of the unknowns, in which L is √P; chains in regions of their own keep their scale."""
        moments = part_of("moments", state)
        if step < steps // 4:  # the way to the typical set
            return state
        moments = Moments.update(moments, state["u"])
        state = {**state, **under("moments", moments)}
        if step + 1 < steps or (self.scale is not None and Moments.apart(moments) > _MET):
            return state
        scale = Moments.variance(Moments.pooled(moments)).sqrt()[None]
        shrunk = (scale / state["scale"]).log().mean().exp()
        shared = torch.ones_like(state["shared"])
        return {**state, "scale": scale, "shared": shared, **_steps(state["step_size"] / shrunk, begun=1.0)}

    def _tracing(self, state: State, step: int, steps: int) -> State:
        """The length, from the autocorrelation of a few unknowns."""
        trace = state["trace"]
        every = max(1, steps // max(1, trace.shape[1]))
        place, left = divmod(step, every)
        if left == 0 and place < trace.shape[1]:
            which = torch.linspace(0, state["u"].shape[1] - 1, trace.shape[2]).round().long()
            trace = trace.clone()
            trace[:, place] = state["u"][:, which]
        state = {**state, "trace": trace}
        if step + 1 < steps or trace.shape[1] < 50:
            return state
        sizes = effective_sizes(trace)
        independent = every * trace.shape[1] / sizes.clamp_min(1.0)  # steps for one draw, by chain
        length = _FORGET * state["step_size"] * independent.to(trace)[:, None]
        return {**state, "length": length.clamp(state["length"] * 0.25, state["length"] * 4)}


def _tuned(before: State, state: State, error: torch.Tensor, wanted: float) -> State:
    """The step size for an energy error by dimension (R,): that is proportional to ε⁶, and late errors count more."""
    step, good = before["step_size"], error.isfinite()[:, None]
    ratio = error.nan_to_num(0.0)[:, None] / wanted + 1e-8
    trust = (-0.5 * (ratio.log() / (6 * _TRUST)).square()).exp() * good
    keep = (_REMEMBERED - 1) / (_REMEMBERED + 1)
    weighted = keep * before["weighted"] + trust * ratio / step**6
    weight = keep * before["weight"] + trust
    longest = torch.where(good, before["longest"], 0.8 * step)
    fresh = torch.where(weight > 0, (weighted / weight.clamp_min(1e-30)).clamp_min(1e-30) ** (-1 / 6), step)
    fresh = torch.minimum(torch.where(good, fresh, 0.8 * step), longest)
    return {**state, "step_size": fresh, "longest": longest, "weighted": weighted, "weight": weight}


class AdjustedMicrocanonical(AbstractSampler):
    """Trajectories of the noiseless dynamics, each accepted with probability min(1, exp(−energy change)): exact.

    A step moves every chain once; a chain whose trajectory is over decides, and sets out in a fresh direction. Lengths are
    random and independent of where a chain stands, so that the draws at fixed times have the law of the density. In the first
    two thirds of the warm-up everything is accepted, so that chains find the typical set and its sds; the step size of the last
    third is that of a mean acceptance.

    Args:
        target_acceptance: δ.

    References:
        Robnik, Cohn-Gordon and Seljak (2025), Metropolis adjusted microcanonical Hamiltonian Monte Carlo.
    """

    def __init__(self, target_acceptance: float = 0.9) -> None:
        self.tuning = DualAveraging(target_acceptance)

    def init(self, density: Density, u: torch.Tensor, num_warmup: int) -> State:
        """See `AbstractSampler.init`."""
        value, gradient = _begun(density, u)
        one, none = u.new_ones(len(u), 1), u.new_zeros(len(u))
        return {
            **{"u": u, "lp": value, "slope": gradient, "at": u, "n": directions(u), "value": value, "gradient": gradient},
            **{"change": none, "left": one[:, 0], "acceptance": none, "scale": torch.ones_like(u[:1])},
            **{"length": math.sqrt(u.shape[1]) * one, "exact": u.new_tensor(0.0 if num_warmup else 1.0)},
            **{"heard": none - 1, "accepted": none},
            **_steps(one),
            **under("tuning", self.tuning.init(u.new_tensor(0.25))),
            **under("moments", Moments.init(u[0])),
        }

    def step(self, density: Density, state: State) -> tuple[State, Told]:
        """See `AbstractSampler.step`."""
        moving = {**state, "u": state["at"]}
        after, each = advance(density, moving, state["step_size"])
        exact = state["exact"] > 0  # before, every step is taken, and a direction is forgotten little by little
        change, left = state["change"] + each, state["left"] - 1
        over = (left <= 0) | ~exact
        chance = chances(torch.zeros_like(change), change)
        sound = change.isfinite() & after["gradient"].isfinite().all(1)
        taken = (over & sound & ((torch.rand_like(chance) < chance) | ~exact))[:, None]
        u = torch.where(taken, after["u"], state["u"])
        lp = torch.where(taken[:, 0], after["value"], state["lp"])
        slope = torch.where(taken, after["gradient"], state["slope"])
        turning = torch.where(sound[:, None], forgetting(after["n"], state["step_size"], state["length"]), -state["n"])
        fresh, many = over[:, None], (state["length"] / state["step_size"])[:, 0]
        steps = (2 * many * torch.rand_like(many)).ceil().clamp(1, _MOST)
        changed = {
            **{"u": u, "lp": lp, "slope": slope, "at": torch.where(fresh, u, after["u"])},
            "n": torch.where(exact, torch.where(fresh, directions(u), after["n"]), turning),
            "value": torch.where(over, lp, after["value"]),
            "gradient": torch.where(fresh, slope, after["gradient"]),
            "change": torch.where(over, torch.zeros_like(change), change),
            "left": torch.where(over, steps, left),
            "acceptance": torch.where(over, chance, state["acceptance"]),
        }
        told = {"lp": lp, "acceptance_rate": changed["acceptance"], "step_size": state["step_size"][:, 0]}
        lost = over & ~(change.abs() < _LOST * u.shape[1])
        return changed, {**told, "diverging": lost.to(u), "decided": over.to(u), "energy_error": each.square() / u.shape[1]}

    def warm_up(self, density: Density, before: State, state: State, told: Told, step: int, num_warmup: int) -> State:
        """See `AbstractSampler.warm_up`: a third for the typical set, a third for the sds, a third for the acceptance."""
        third = num_warmup // 3
        tuned = step < 2 * third
        state = _tuned(before, state, told["energy_error"], _SMALL) if tuned else self._listening(state, told)
        if third <= step < 2 * third:
            state = {**state, **under("moments", Moments.update(part_of("moments", state), state["u"]))}
        if step + 1 == 2 * third:
            scale = Moments.variance(part_of("moments", state)).sqrt()[None]
            typical = state["step_size"].log().mean().exp() / (scale / state["scale"]).log().mean().exp()
            tuning = self.tuning.init(typical, optimism=1.0)  # it is near already, and a trajectory takes long to tell
            state = {**state, "scale": scale, "exact": 1 + 0 * state["exact"], **under("tuning", tuning)}
            state = _afresh({**state, "step_size": typical + 0 * state["step_size"]})
        if step + 1 == num_warmup:
            state = {**state, "step_size": self.tuning.final(part_of("tuning", state)) + 0 * state["step_size"]}
        return state

    def _listening(self, state: State, told: Told) -> State:
        """The step size changes once every chain has told of a whole trajectory of it, and all set out afresh.

        Changed at each decision, it would be blamed for trajectories that an older one began, and fall without end.
        """
        decided, heard = told["decided"] > 0, state["heard"]
        accepted = torch.where(decided & (heard == 0), told["acceptance_rate"], state["accepted"])
        heard = torch.where(decided, (heard + 1).clamp(max=1), heard)  # the first after a change is of one step
        state = {**state, "heard": heard, "accepted": accepted}
        if not bool((heard > 0).all()):
            return state
        tuning = self.tuning.update(part_of("tuning", state), accepted.mean())
        changed = self.tuning.now(tuning) + 0 * state["step_size"]
        return _afresh({**state, **under("tuning", tuning), "step_size": changed})


def _afresh(state: State) -> State:
    """All chains at the start of a trajectory."""
    there = {"at": state["u"], "n": directions(state["u"]), "value": state["lp"], "gradient": state["slope"]}
    none = {name: 0 * state[name] for name in ("left", "change")}
    return {**state, **there, **none, "heard": 0 * state["heard"] - 1}


def _begun(density: Density, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Value and gradient where chains start.

    Raises:
        ValueError: If there is one unknown, whose direction cannot turn.
    """
    if u.shape[1] < 2:
        raise ValueError(
            "microcanonical dynamics need at least 2 unknowns, since a direction turns, but 1 came; take method='hmc'."
        )
    return density(u)


def _steps(one: torch.Tensor, begun: float = _FIRST) -> State:
    """What `_tuned` keeps of step sizes (R, 1)."""
    return {"step_size": begun * one, "longest": 1e30 * one, "weighted": 0 * one, "weight": 0 * one}
