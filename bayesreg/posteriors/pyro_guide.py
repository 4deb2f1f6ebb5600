"""A guide of Pyro's own, over the model's sites: what it draws becomes the flat vector, without Pyro's parameter store."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import pyro
import torch
from pyro import poutine
from pyro.infer import autoguide
from torch import nn
from torch.func import functional_call

from bayesreg._memory import blocks
from bayesreg._threads import drawing
from bayesreg.behaviour import each
from bayesreg.data.moments import Moments
from bayesreg.objective.flat import FlatLayout, LogJoint
from bayesreg.posteriors.guides import AbstractGuide
from bayesreg.posteriors.pyro_normals import normal_of
from bayesreg.posteriors.pyro_setup import name_of, set_up, without_store

_DRAWS = 10_000  # draws for moments without a closed form: their Monte Carlo error is a hundredth of an sd
_SAVED = (
    "AutoDelta",
    "AutoNormal",
    "AutoDiagonalNormal",
    "AutoMultivariateNormal",
    "AutoLowRankMultivariateNormal",
    "AutoIAFNormal",
)


class _Trace(nn.Module):
    """What a guide draws, as the forward pass of a module, so that its parameters can be put in for one call."""

    def __init__(self, guide: nn.Module) -> None:
        super().__init__()
        self.guide = guide

    def forward(self, count: int | None) -> Any:
        """A trace with log densities: of so many draws at once, or of one when None."""
        if count is None:
            trace = poutine.trace(self.guide).get_trace(None, None)
        else:
            with pyro.plate("_draws", count):
                trace = poutine.trace(self.guide).get_trace(None, None)
        trace.compute_log_prob()
        return trace


class PyroGuide(AbstractGuide):
    """A Pyro module that draws the model's sites: an autoguide, a normalising flow, or a guide of one's own.

    Args:
        layout: Where each unknown lies in the vector.
        module: The guide; `prepared` makes one that suits a model.

    Raises:
        ValueError: If it does not draw the model's sites.
    """

    normal: ClassVar[bool] = False

    def __init__(self, layout: FlatLayout, module: nn.Module) -> None:
        super().__init__(layout)
        self.module = module.eval()
        self._at_once = self._check()

    @classmethod
    def blank(cls, layout: FlatLayout, like: torch.Tensor) -> PyroGuide:
        """A guide without correlations."""
        return cls.like_state(layout, like, {"autoguide": "AutoDiagonalNormal"})

    @classmethod
    def like_state(cls, layout: FlatLayout, like: torch.Tensor, state: Mapping[str, Any]) -> PyroGuide:
        """Of the saved one's class and sizes.

        Raises:
            ValueError: If the class is none that can be saved.
        """
        name = state.get("autoguide")
        if name not in _SAVED:
            raise ValueError(f"a saved guide's autoguide must be one of {', '.join(_SAVED)}, but {name!r} came; fit again.")
        settings = {key: state[key] for key in ("rank", "hidden_dim", "num_transforms") if key in state}
        latents = {name: s.latent for name, s in layout.segments.items()}
        start = layout.unflatten(like.new_zeros(layout.size))
        return cls(layout, set_up(lambda program: getattr(autoguide, name)(program, **settings), latents, start, like))

    def saved(self) -> dict[str, Any]:
        """See `AbstractGuide.saved`.

        Raises:
            ValueError: If the guide is not of a class that can be made again.
        """
        kind, settings = name_of(self.module), {}
        known = kind in _SAVED and getattr(autoguide, kind) is type(self.module)
        if known and kind == "AutoIAFNormal":
            made: Any = self.module._init_transform_fn
            settings = {"num_transforms": made.args[0], "hidden_dim": made.keywords["hidden_dims"]}
            known = isinstance(made, functools.partial) and set(made.keywords) == {"hidden_dims"}
        if known and kind == "AutoLowRankMultivariateNormal":
            settings = {"rank": self.module.rank}
        if not known:
            raise ValueError(
                f"a saved guide must be one of {', '.join(_SAVED)} with their usual settings, but {kind} came; keep the "
                "posterior in Python, or save its draws, posterior.sample(1000)."
            )
        tensors = {k: v if v.is_floating_point() else v.double() for k, v in self.state_dict().items()}
        return {"autoguide": kind, **{k: v for k, v in settings.items() if v is not None}, **tensors}

    # ── draws ──

    def parts(self) -> dict[str, torch.Tensor]:
        """All that is learned, by name."""
        return dict(self.module.named_parameters())

    def flat(self) -> nn.Parameter:
        """All of it as one vector for an optimizer, with a gradient buffer."""
        found = nn.Parameter(torch.cat([part.detach().reshape(-1) for part in self.parts().values()]))
        found.grad = torch.zeros_like(found)
        return found

    def split(self, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        """The inverse of `flat`, by name, as views."""
        own = self.parts()
        pieces = flat.split([part.numel() for part in own.values()])
        return {name: piece.view(part.shape) for (name, part), piece in zip(own.items(), pieces, strict=True)}

    def holding(self, flat: torch.Tensor) -> PyroGuide:
        """The guide itself, with these numbers and without gradient."""
        found = self.split(flat.detach())
        for name, part in self.parts().items():
            part.data.copy_(found[name])
        self.requires_grad_(False)
        return self

    def drawn(self, count: int, parts: Mapping[str, torch.Tensor] | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Draws (S, P) of the vector from torch's generator, and log q of each as a density of the unknowns, (S,), in nats.

        `parts` are used in place of the guide's own parameters; gradients go through them.
        """
        given = {f"guide.{name}": value for name, value in (self.parts() if parts is None else parts).items()}
        call = functools.partial(functional_call, _Trace(self.module), given)
        with without_store():
            if self._at_once:
                return self._read(call((count,)), (count,))
            one = [self._read(call((None,)), ()) for _ in range(count)]
        return torch.stack([u for u, _ in one]), torch.stack([log_q for _, log_q in one])

    def _read(self, trace: Any, batch: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
        sites = {
            name: s for name, s in trace.nodes.items() if s["type"] == "sample" and name != "_draws" and not s["is_observed"]
        }
        values = {name: sites[name]["value"] for name in self.layout.segments}
        u = torch.vmap(self.layout.flatten)(values) if batch else self.layout.flatten(values)
        return u, sum((site["log_prob"] for site in sites.values()), u.new_zeros(batch))

    def _check(self) -> bool:
        """Whether many draws can be made at once.

        Raises:
            ValueError: If the guide does not draw the model's sites.
        """
        wanted = {name: tuple(s.latent.shape) for name, s in self.layout.segments.items()}
        with without_store(), drawing(0), torch.no_grad():
            trace = _Trace(self.module)(None)
            sites = {
                name: tuple(site["value"].shape)
                for name, site in trace.nodes.items()
                if site["type"] == "sample" and not site["is_observed"] and not site["infer"].get("is_auxiliary")
            }
            if sites != wanted:
                raise ValueError(
                    f"a guide must draw the model's sites, {wanted}, but {sites} came; build it on model.pyro_model, and "
                    "append to an AutoGuideList a guide for each."
                )
            try:
                nodes = _Trace(self.module)(2).nodes
                drawn = [(nodes[name], shape) for name, shape in wanted.items()]
                return all(s["value"].shape == (2, *shape) and s["log_prob"].shape == (2,) for s, shape in drawn)
            except Exception:  # a person's guide may raise anything where it is vectorised
                return False

    def elbo_at(
        self,
        parts: Mapping[str, torch.Tensor],
        log_joint: LogJoint,
        x: torch.Tensor,
        y: torch.Tensor,
        num_data: Any,
        count: int,
    ) -> torch.Tensor:
        """The ELBO over prepared data from so many draws, a scalar in nats, with gradient in `parts`."""
        draws, log_q = self.drawn(count, parts)

        def at(u: torch.Tensor) -> torch.Tensor:
            return log_joint.prepared(u, x, y, num_data)

        joint = at(draws[0])[None] if count == 1 else each(log_joint.model.behaviour, at, draws)
        return (joint - log_q).mean()

    def elbo(
        self, log_joint: LogJoint, x: torch.Tensor, y: torch.Tensor, num_data: int, num_particles: int = 1
    ) -> torch.Tensor:
        """See `AbstractGuide.elbo`."""
        return self.elbo_at(self.parts(), log_joint, x, y, num_data, num_particles)

    def rsample(self) -> torch.Tensor:
        """One draw, (P,), with gradient."""
        return self.drawn(1)[0][0]

    def _weighed(self, num_samples: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad(), drawing(int(torch.randint(2**62, (), generator=generator))):
            draws, log_q = self.drawn(num_samples)
        return draws, log_q + torch.vmap(self.layout.log_jacobian)(draws)

    def weighed(self, num_samples: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Draws (S, P), and log q of each as a density of the vector, (S,); None where an unknown does not vary."""
        draws, log_q = self._weighed(num_samples, generator)
        return None if num_samples > 1 and bool((draws == draws[0]).all(0).any()) else (draws, log_q)

    def draw(self, num_samples: int, generator: torch.Generator) -> torch.Tensor:
        """Draws, (S, P)."""
        return self._weighed(num_samples, generator)[0]

    def as_normal(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """See `AbstractPosterior.as_normal`; for a guide that is known to be normal."""
        found = normal_of(self.module, self.layout)
        return None if found is None else found.as_normal()

    def times_factor(self, rows: torch.Tensor) -> torch.Tensor | None:
        """See `AbstractPosterior.times_factor`."""
        found = normal_of(self.module, self.layout)
        return None if found is None else found.times_factor(rows)

    def moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and sd of each entry of `u`; from draws where it is not normal."""
        found = normal_of(self.module, self.layout)
        return self._moments(lambda draws: draws) if found is None else found.moments()

    def constrained_moments(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Mean and sd of each unknown in constrained space, flat, from draws; None where the vector is normal."""
        if normal_of(self.module, self.layout) is not None:
            return None
        names = [s.latent.name for s in self.layout.in_order]

        def flat(u: torch.Tensor) -> torch.Tensor:
            values = self.layout.unflatten(u)
            return torch.cat([values[name].reshape(-1) for name in names])

        return self._moments(torch.vmap(flat))

    def _moments(self, what: Callable[[torch.Tensor], torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        generator, found, like = torch.Generator().manual_seed(0), Moments(), next(iter(self.parts().values()))
        for size in blocks(_DRAWS if self._at_once else _DRAWS // 10, self.layout.size):
            found.add(what(self.draw(size, generator)))
        mean, sd = (part.to(like) for part in found.finish())
        return mean, sd

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The guide's own Pyro program."""
        return self.module(*args, **kwargs)

    def site(self, name: str, values: Any = None) -> Any:
        """None stands by itself."""
        raise NotImplementedError(f"{name} is drawn by the whole guide; call it.")
