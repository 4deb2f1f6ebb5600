"""The No-U-Turn sampler: Pyro's own kernel on the density of `objective.Chains`, one chain at a time.

The kernel makes a transition; sds and step size are tuned outside it, over all chains, so that the state between two draws is a
handful of tensors.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import pyro
import torch
from pyro.infer import NUTS
from pyro.infer.mcmc.nuts import _TreeInfo

from bayesreg.objective.chains import Density
from bayesreg.samplers.base import State, Told
from bayesreg.samplers.hamiltonian import AbstractHamiltonian, energies, leapfrogs

_SITE = "u"
_SITES = (_SITE,)


class NoUTurn(AbstractHamiltonian):
    """Trajectories that double until they turn back, one chain after the other.

    Args:
        target_acceptance: Mean acceptance along the trajectories.
        max_tree_depth: Doublings of a trajectory, at most.

    References:
        Hoffman and Gelman (2014), The No-U-Turn sampler.
        Betancourt (2017), A conceptual introduction to Hamiltonian Monte Carlo.
    """

    chains_at_once: ClassVar[int | None] = 1
    gradients: ClassVar[int] = 15

    def __init__(self, target_acceptance: float = 0.8, max_tree_depth: int = 10) -> None:
        super().__init__(target_acceptance)
        self.max_tree_depth = max_tree_depth

    def evaluate(self, density: Density, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Values and gradients of all chains, one by one."""
        values, gradients = zip(*(density(one) for one in u.split(1)), strict=True)
        return torch.cat(values), torch.cat(gradients)

    def step(self, density: Density, state: State) -> tuple[State, Told]:
        """See `AbstractSampler.step`."""
        kernel = _Kernel(density, state["scale"], float(state["step_size"]), self.max_tree_depth)
        parts = (state[name].split(1) for name in ("u", "value", "gradient"))
        found = [kernel.move(*one) for one in zip(*parts, strict=True)]
        u, value, gradient = (torch.cat(part) for part in list(zip(*found, strict=True))[:3])
        told = {name: value.new_tensor([one[3][name] for one in found]) for name in found[0][3]}
        told = {"lp": value, **told, "step_size": state["step_size"].expand_as(value)}
        return {"u": u, "value": value, "gradient": gradient}, told

    def acceptance(self, told: Told) -> torch.Tensor:
        """The mean."""
        return told["acceptance_rate"].mean()


class _Kernel(NUTS):
    """Pyro's kernel with a leapfrog of our own, whose gradient comes with the value, and with scales that are given to it.

    Positions and gradients are (1, P), momenta in units of 1/s.

    Args:
        density: log π and its gradient.
        scale: sds of the unknowns (1, P).
        step_size: ε.
        max_tree_depth: Doublings, at most.
    """

    def __init__(self, density: Density, scale: torch.Tensor, step_size: float, max_tree_depth: int) -> None:
        size: Any = step_size  # Pyro's annotation says int
        self.density, self.scale, self.calls, self.started = density, scale, 0, math.nan
        super().__init__(
            potential_fn=lambda sites: -density(sites[_SITE])[0][0],
            step_size=size,
            adapt_step_size=False,
            adapt_mass_matrix=False,
            max_tree_depth=max_tree_depth,
        )
        self._warmup_steps = 0
        self.mass_matrix_adapter.inverse_mass_matrix = {_SITES: torch.ones_like(scale[0])}

    def move(self, u: torch.Tensor, value: torch.Tensor, gradient: torch.Tensor) -> tuple[Any, Any, Any, dict[str, float]]:
        """One draw of a chain from u (1, P): position, log density, its gradient, and what is told of it."""
        self.calls, self._t, self._mean_accept_prob, self._divergences = 0, 0, 0.0, []
        self._cache({_SITE: u}, -value[0], {_SITE: gradient})
        with pyro.validation_enabled(False):
            self.sample({})
        found: Any = self._fetch_from_cache()
        sites, potential, slopes = found
        told = {"energy": self.started - float(value), "acceptance_rate": self._mean_accept_prob}
        told |= {"diverging": float(bool(self._divergences)), "n_steps": float(self.calls)}
        return sites[_SITE], -potential[None], slopes[_SITE], told

    def _sample_r(self, name: str) -> tuple[Any, Any]:
        """A fresh momentum, whose energy is noted."""
        momentum = torch.randn_like(self.scale)
        self.started = float(0.5 * momentum.square().sum())
        return {_SITE: momentum}, {_SITES: momentum[0]}

    def _build_basetree(
        self, z: Any, r: Any, z_grads: Any, log_slice: Any, direction: int, energy_current: torch.Tensor
    ) -> _TreeInfo:
        """One leapfrog."""
        self.calls += 1
        step = self.step_size if direction == 1 else -self.step_size
        there, turned, value, gradient = leapfrogs(self.density, z[_SITE], r[_SITE], z_grads[_SITE], self.scale, step, 1)
        energy = energies(value, turned)[0].nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf)
        error = energy - energy_current
        sites, momenta, slopes, unscaled = {_SITE: there}, {_SITE: turned}, {_SITE: gradient}, {_SITES: turned[0]}
        end = (sites, momenta, unscaled, slopes)
        diverging, chance = bool(error > self._max_sliced_energy), (-error).exp().clamp(max=1.0)
        return _TreeInfo(*end, *end, sites, -value[0], slopes, unscaled, -error, False, diverging, chance, 1)
