"""The posterior of dropout: one point M and random masks on the network, W = M ∘ z(ε).

A draw is a network: one ε for all rows. The posterior of the weights follows from it: a unit's mask multiplies whole columns
of a weight, a weight's mask single entries.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from bayesreg import _check
from bayesreg._memory import MAX_MEMORY, blocks
from bayesreg._threads import own
from bayesreg.layers.base import AbstractMask
from bayesreg.layers.copying import copied
from bayesreg.layers.sites import dotted, effective, mask_layers, mask_sites, sampling, with_masks
from bayesreg.layers.variational import PRUNED
from bayesreg.model.model import BayesianModel
from bayesreg.posteriors import propagate
from bayesreg.posteriors.base import AbstractPosterior
from bayesreg.posteriors.dirac import Dirac
from bayesreg.posteriors.record import FitRecord
from bayesreg.predictive.mixture import Predictive
from bayesreg.predictive.offset import with_offset


class MaskedNetwork:
    """A model's network with ε of its masks as an argument.

    Args:
        model: The model, bound to its training data.

    Attributes:
        module: A private copy in evaluation mode whose dropout layers are `bayesreg.layers`.
        layers: Those layers, by dotted name.
        sites: Their places in the network.
        weights: The layer whose mask multiplies a weight, by the weight's name.
        size: Entries of one draw's ε.

    Raises:
        ValueError: If a layer's masks are of an unknown kind, or it is used twice in a pass.
    """

    def __init__(self, model: BayesianModel) -> None:
        self.model = model
        self.module = with_masks(model.module).eval()
        self.layers = mask_layers(self.module)
        row = torch.Size(model.row_shape or ())
        kind = torch.long if model.takes_integers else model.like.dtype
        x = torch.zeros(2, *row, dtype=kind, device=model.like.device)
        self.sites = mask_sites(self.module, lambda probe: model.forward(model.weights(), x, probe))
        self.weights = {weight: name for name, site in self.sites.items() for weight in site.weights}
        self.size = sum(site.draw.numel() for site in self.sites.values())

    def named(self, noise: torch.Tensor) -> dict[str, torch.Tensor]:
        """One draw's ε, (size,), as the layers' buffers."""
        return _parts(noise, {dotted(name, "noise"): site.draw for name, site in self.sites.items()})

    def row_size(self, batch: int) -> int:
        """Entries of ε that a training step on so many rows needs."""
        return sum(shape.numel() for shape in self._row_shapes(batch).values())

    def named_by_row(self, noise: torch.Tensor, batch: int) -> dict[str, torch.Tensor]:
        """A training step's ε, (row_size,), as the layers' buffers: one for each row, or one for all rows that share it."""
        return _parts(noise, self._row_shapes(batch))

    def _row_shapes(self, batch: int) -> dict[str, torch.Size]:
        return {
            dotted(name, "noise" if site.row is None else "row_noise"): site.rows(batch) for name, site in self.sites.items()
        }

    def effective(self, values: Mapping[str, torch.Tensor], noise: torch.Tensor) -> dict[str, torch.Tensor]:
        """The weights of one draw's network that differ from the point, by name."""
        found: dict[str, torch.Tensor] = {}
        parts = self.named(noise)
        for weight, name in self.weights.items():
            if weight in values:  # no constant
                changed = effective(self.layers[name], self.sites[name], parts[dotted(name, "noise")], values[weight])
                if changed is not None:
                    found[weight] = changed
        return found


def _parts(noise: torch.Tensor, shapes: Mapping[str, torch.Size]) -> dict[str, torch.Tensor]:
    """Consecutive parts of a vector by name, each in its shape."""
    parts = noise.split([shape.numel() for shape in shapes.values()])
    return {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}


def _fill(module: nn.Module, values: Mapping[str, torch.Tensor]) -> None:
    """Write weights into a private module."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name in values:
                parameter.copy_(values[name])


class Masks(AbstractPosterior):
    """A point times random masks, as `MCDropout` fits it; learned rates and variances are buffers of `model.module`.

    Args:
        model: The model, bound to its training data, with what was learned in its module's buffers.
        record: What the method says about the fit.
        loc: The point, (P,) unconstrained.
    """

    state_shapes: ClassVar = {"loc": "P"}

    def __init__(self, model: BayesianModel, record: FitRecord, loc: torch.Tensor) -> None:
        super().__init__(model, record)
        self.loc = loc.detach()
        self.masks = MaskedNetwork(model)
        # a layer's description of itself uses these weights
        _fill(self.masks.module, {**model.constants, **self.layout.unflatten(self.loc)})

    @property
    def noises(self) -> dict[str, str]:
        """The distribution of each layer's mask, in words, by the layer's name."""
        return {name: self.masks.layers[name].text for name in self.masks.sites}

    def draw(self, num_samples: int, generator: torch.Generator) -> torch.Tensor:
        """Draws of the effective weights, (S, P): a draw's network is the point's network with these."""
        return self.effective(self._noise(num_samples, generator))

    def moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Each weight's mean and standard deviation under its mask, both (P,)."""
        values = self.layout.unflatten(self.loc)
        flat = torch.cat([values[s.latent.name].reshape(-1) for s in self.layout.in_order])
        sd = torch.zeros_like(flat)
        probe = self.masks.effective(values, flat.new_zeros(self.masks.size))
        for name in probe:
            layer = self.masks.layers[self.masks.weights[name]]
            where = self.layout.segments[name].slice
            flat[where], sd[where] = layer.average(values[name]).reshape(-1), layer.spread(values[name]).reshape(-1)
        return flat.detach(), sd.detach()

    def predict(
        self,
        x: Any,
        *,
        num_samples: int | None = None,
        seed: int = 0,
        max_memory: int = MAX_MEMORY,
        predictive: str | None = None,
        link: str = "quadrature",
        masks: str = "draw",
        offset: Any = None,
    ) -> Predictive:
        """p(y | x, data) at new inputs, see `AbstractPosterior.predict`.

        Args:
            x: Inputs (N, ...), in the data's own units.
            num_samples: S, the number of draws that are mixed; None for `usual_draws`.
            seed: Same seed, same draws; the global random state is not touched.
            max_memory: Bytes that the stored outputs may take.
            predictive: None or "draws".
            link: Not used, since no logit is known to be normal.
            masks: "draw" for one mask for all rows, so that a draw is a function; "row" for one a row, as in training: the same
                marginal at each row, without correlation between rows.
            offset: As for `AbstractPosterior.predict`.

        Returns:
            The predictive, in the data's own units.

        Raises:
            ValueError: If the inputs do not fit the model, or the outputs not into `max_memory`.
        """
        seed = _check.seed(seed)
        self._expanded_about(None, predictive)
        count, inputs = self._count(num_samples), self.model.prepare(x)
        self.check_statistics()
        if _check.one_of("masks", masks, ("draw", "row")) == "row":
            by_row = self.loc.new_zeros(count, 0)
            with sampling(own(self.masks.module), seed):
                return with_offset(self._mixture([by_row], count, inputs, by_row[0], max_memory), offset)
        generator, probe = torch.Generator().manual_seed(seed), self.loc.new_zeros(self.masks.size)
        noise = (self._noise(size, generator) for size in blocks(count, self.masks.size))
        return with_offset(self._mixture(noise, count, inputs, probe, max_memory), offset)

    @property
    def draw_module(self) -> nn.Module:
        """The network with its masks."""
        return self.masks.module

    def draw_networks(self, num_samples: int, generator: torch.Generator) -> torch.Tensor:
        """Each draw's ε, (S, Q)."""
        return self._noise(num_samples, generator)

    def forward_drawn(
        self, made_of: torch.Tensor, x: torch.Tensor, module: nn.Module, buffers: Mapping[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """The output with one draw's masks."""
        noise = self.masks.named(made_of) if len(made_of) else {}  # no ε: the layers draw a mask for each row themselves
        return self.model.forward(self.layout.unflatten(self.loc), x, module, {**noise, **(buffers or {})})

    def unknowns_of(self, made_of: torch.Tensor) -> torch.Tensor:
        """The point, for each draw."""
        return self.loc.expand(len(made_of), -1)

    def effective(self, made_of: torch.Tensor) -> torch.Tensor:
        """The point times each draw's masks."""
        values = self.layout.unflatten(self.loc)
        u = self.loc.repeat(len(made_of), 1)
        for name, weights in torch.vmap(lambda noise: self.masks.effective(values, noise))(made_of).items():
            u[:, self.layout.segments[name].slice] = weights.reshape(len(made_of), -1)
        return u.detach()

    def _through(self, noise: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return self.forward_drawn(noise, x, own(self.masks.module))

    def _mixture(
        self, noise: Iterable[torch.Tensor], count: int, x: torch.Tensor, probe: torch.Tensor, max_memory: int
    ) -> Predictive:
        options: dict[str, Any] = {"probe": probe, "unknowns": self.unknowns_of, "max_memory": max_memory}
        return propagate.mixture(self.model, self.layout, noise, count, x, forward=self._through, **options)

    def _noise(self, num_samples: int, generator: torch.Generator) -> torch.Tensor:
        drawn = torch.randn(num_samples, self.masks.size, generator=generator, dtype=self.loc.dtype)
        return drawn.to(self.loc.device)

    @property
    def mode(self) -> Dirac:
        """The point without its masks: the network in evaluation mode."""
        return Dirac(self.model, self.record, self.loc)

    def sparsity(self, log_alpha: float = PRUNED) -> dict[str, float]:
        """The share of each sparse layer's weights with log α above `log_alpha`, by the weight's name; 3: mean below sd/4."""
        return {name: float((pruned == 0).double().mean()) for name, pruned in self._pruned(log_alpha)}

    def prune(self, log_alpha: float = PRUNED) -> Dirac:
        """A mode that predicts without masks: the point with exact zeros for weights with log α above `log_alpha`.

        `compressed` gives it as a plain network.

        Raises:
            ValueError: If no layer has a noise for each weight.
        """
        found = list(self._pruned(log_alpha))
        if not found:
            raise ValueError(
                "pruning needs weights with a learned sd each, but no layer is a layers.VariationalDropout; wrap "
                "the layers to be pruned in it."
            )
        u = self.loc.clone()
        for name, pruned in found:
            u[self.layout.segments[name].slice] = pruned.reshape(-1)
        return Dirac(self.model, self.record, u)

    def compressed(self, log_alpha: float = PRUNED) -> nn.Module:
        """The pruned network in evaluation mode, of torch's own layers: no masks, exact zeros, inputs in the model's units."""
        module = copied(self.masks.module)
        _fill(module, self.layout.unflatten(self.prune(log_alpha).loc))
        if isinstance(module, AbstractMask):
            return module.without()
        for parent in list(module.modules()):
            for name, child in list(parent._modules.items()):
                if isinstance(child, AbstractMask):
                    setattr(parent, name, child.without())
        return module

    def _pruned(self, log_alpha: float) -> Iterator[tuple[str, torch.Tensor]]:
        """Weights that can be pruned, by name."""
        values = self.layout.unflatten(self.loc)
        for weight, name in self.masks.weights.items():
            pruned = self.masks.layers[name].pruned(values[weight], log_alpha) if weight in values else None
            if pruned is not None:
                yield weight, pruned

    def state(self) -> dict[str, Any]:
        """The point; what was learned beside it is among the module's buffers."""
        return {"loc": self.loc}

    @classmethod
    def from_state(cls, model: BayesianModel, record: FitRecord, state: dict[str, Any]) -> Masks:
        """The inverse of `state`."""
        return cls(model, record, state["loc"])
