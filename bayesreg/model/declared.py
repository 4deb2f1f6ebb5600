"""A model before it has data: a private copy of a module, a prior on each of its tensors, and a likelihood.

    log p(θ) = Σ log p(θⱼ)        f(x; θ)        noise        all in the units that the model works in

A model never changes: a change returns a new model that shares everything else.
"""

from __future__ import annotations

import abc
import copy
import dataclasses
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Literal, NoReturn, Self

import torch
from torch import nn

from bayesreg import _check
from bayesreg._threads import own
from bayesreg.behaviour import Behaviour, called, one_column
from bayesreg.layers.copying import bare, copied, evaluated
from bayesreg.layers.sites import dotted
from bayesreg.likelihoods import AbstractLikelihood, Gaussian
from bayesreg.model import activations
from bayesreg.model.autoscale import adjusted
from bayesreg.model.spec import PriorSpec, Resolved, Rules
from bayesreg.model.unknowns import Latent, latents_of
from bayesreg.operators import AbstractLinearOperator, AbstractOperator, Observed
from bayesreg.priors import AbstractPrior, AbstractScaledPrior

Values = Mapping[str, torch.Tensor]


class AbstractModel(abc.ABC):
    """A module × priors × likelihood without data; see `BayesianModel`.

    Attributes:
        spec: The rules.
        resolved: The resolved prior of each tensor.
        likelihood: What is assumed about the noise.
        standardize: Whether the model works on standardised data; "auto" until it is bound.
        outputs: Layers whose output has a prior.
        autoscale: sd(y)/sd(x) of each column, where a prior's scale depends on it; once the model is bound.
        module: The network, a private copy.
        behaviour: The network's behaviour beyond its forward pass; complete once the model is bound.
        latents: The unknowns by name.
        constants: Weights that are certain, by name.
        places: Every place of a tensor in the module, to the tensor's name; tied weights have several.
        other_types: Floating types of the places that do not have the model's own.
    """

    spec: PriorSpec
    resolved: list[Resolved]
    likelihood: AbstractLikelihood
    standardize: bool | Literal["auto"]
    outputs: tuple[Any, ...]
    autoscale: torch.Tensor | None = None
    module: nn.Module
    behaviour: Behaviour
    latents: dict[str, Latent]
    constants: dict[str, torch.Tensor]
    places: dict[str, str]
    other_types: dict[str, torch.dtype]
    _known_noise: dict[str, torch.Tensor]

    def __init__(
        self,
        module: nn.Module,
        priors: Rules | AbstractPrior | PriorSpec | None = None,
        likelihood: AbstractLikelihood | None = None,
        standardize: bool | Literal["auto"] = "auto",
        *,
        outputs: Rules | None = None,
    ) -> None:
        if isinstance(module, AbstractOperator):
            module, standardize = Observed(module), _unscaled(standardize)
        if not isinstance(module, nn.Module):
            raise ValueError(
                f"module must be a torch.nn.Module, but {type(module).__name__} came; wrap the function in a module."
            )
        if likelihood is not None and not isinstance(likelihood, AbstractLikelihood):
            raise ValueError(
                f"likelihood must be one of bayesreg.likelihoods, but {likelihood!r} came; write for example "
                "likelihoods.Gaussian(noise_scale=priors.HalfNormal(1.0))."
            )
        module = bare(module)
        if next(module.parameters(), None) is None:
            raise ValueError(
                "a model must have something to learn, but the module has no parameter; give it a layer with weights (a "
                "quantised layer has none)."
            )
        assumed: AbstractLikelihood = likelihood or Gaussian()
        if standardize not in (True, False, "auto"):
            raise ValueError(f"standardize must be True, False or 'auto', but {standardize!r} came; leave it out for 'auto'.")
        spec, private = PriorSpec(priors), evaluated(module)
        resolved = spec.resolve(module)
        # every place of a tensor: torch's parameter swapping meets a tied one at each of them
        names = {id(module.get_parameter(r.name)): r.name for r in resolved}
        places = {
            dotted(prefix, leaf): names[id(parameter)]
            for prefix, owner in module.named_modules()
            for leaf, parameter in owner.named_parameters(recurse=False)
            if id(parameter) in names
        }
        vars(self).update(
            spec=spec,
            resolved=resolved,
            likelihood=assumed,
            standardize=standardize if standardize == "auto" else bool(standardize),
            outputs=activations.resolve(outputs, module),
            module=private,
            behaviour=Behaviour(private),
            places=places,
            latents=latents_of(resolved, assumed),
        )
        like = self.like
        types = {place: private.get_parameter(place).dtype for place in places}
        vars(self).update(
            other_types={place: dtype for place, dtype in types.items() if dtype != like.dtype},
            _known_noise={
                name: like.new_tensor(_check.in_range(name, value, like.dtype, power=2))
                for name, value in assumed.fixed.items()
            },
            constants={
                r.name: like.new_full(r.shape, _check.in_range(r.name, r.prior.mode, like.dtype))
                for r in resolved
                if r.prior.certain
            },
        )
        if not self.latents:
            raise ValueError("a model must have something to learn, but every parameter is fixed; give one of them a prior.")

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f"a model must not be changed, but {name} was set; take model.bind, model.to or model.with_... .")

    def __delattr__(self, name: str) -> NoReturn:
        raise AttributeError(
            f"a model must not be changed, but {name} was deleted; take model.bind, model.to or model.with_... ."
        )

    def _changed(self, **fields: Any) -> Self:
        """Another model that shares everything but these attributes."""
        made = copy.copy(self)
        vars(made).update(fields)
        return made

    @cached_property  # `to` clears it: nothing else changes it
    def like(self) -> torch.Tensor:
        """An empty tensor with the module's dtype and device."""
        first = next(self.module.parameters())
        return torch.empty(0, dtype=first.dtype, device=first.device)

    @property
    def linear_operator(self) -> AbstractLinearOperator | None:
        """A, where the model is the inverse problem A x = b; None for a network, and for F(x) = b that is not linear."""
        operator = self.module.operator if isinstance(self.module, Observed) else None
        return operator if isinstance(operator, AbstractLinearOperator) else None

    @property
    def num_parameters(self) -> int:
        """P, the number of unknowns, the noise included."""
        return sum(latent.shape.numel() for latent in self.latents.values())

    @property
    def improper(self) -> tuple[str, ...]:
        """The unknowns whose prior does not integrate to one."""
        return tuple(name for name, latent in self.latents.items() if not latent.prior.proper)

    @property
    def has_evidence(self) -> bool:
        """True where p(y) is a number: every prior is proper, and none is on outputs, where its constant is unknown."""
        return not self.improper and not self.outputs

    @property
    def waits_for_scale(self) -> bool:
        """True where a prior's scale is decided by the data's (`autoscale=True`)."""
        return any(isinstance(r.specified, AbstractScaledPrior) and r.specified.autoscale for r in self.resolved)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """A new model with its module on another device or in another floating type; None keeps the present one."""
        device, dtype = _check.place(device, dtype)
        module = copied(self.module).to(device=device)
        if dtype is not None:  # as torch does, but complex numbers stay complex
            module._apply(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor)
        moved = self.with_module(module)._changed(other_types=self.other_types if dtype is None else {})
        vars(moved).pop("like", None)
        vars(moved).update(
            _known_noise={name: value.to(moved.like) for name, value in self._known_noise.items()},
            constants={name: value.to(moved.like) for name, value in self.constants.items()},
        )
        return moved

    def with_buffers(self, module: nn.Module) -> Self:
        """A new model with the buffers of a training copy (batch normalisation's running statistics)."""
        found = dict(module.named_buffers())
        if not found:
            return self
        made = copied(self.module)
        for name, buffer in made.named_buffers():
            buffer.copy_(found[name])
        return self.with_module(made)

    def with_module(self, module: nn.Module) -> Self:
        """The same model over another module of the same structure, which is not copied; this one is unchanged."""
        return self._changed(module=module, behaviour=self.behaviour.over(module))

    def with_resolved(self, resolved: list[Resolved]) -> Self:
        """The same model with other priors on the same tensors, in the same order; this one is unchanged."""
        spec = PriorSpec({r.name: r.specified for r in resolved})
        return self._changed(resolved=resolved, latents=latents_of(resolved, self.likelihood), spec=spec)

    def with_likelihood(self, likelihood: AbstractLikelihood) -> Self:
        """The same model with a likelihood of the same kind whose known noise has other numbers; this one is unchanged."""
        known = {name: self.like.new_tensor(value) for name, value in likelihood.fixed.items()}
        return self._changed(likelihood=likelihood, latents=latents_of(self.resolved, likelihood), _known_noise=known)

    def centred_at(self, values: Mapping[str, torch.Tensor]) -> Self:
        """The same model with each unknown's prior about another mean; its prior table stays as it is.

        Args:
            values: The means by name, in each unknown's shape; of some unknowns, or of all.

        Returns:
            The other one.

        Raises:
            ValueError: If such a prior is neither Gaussian nor flat, or its scale is unknown.
        """
        latents = dict(self.latents)
        for name, value in values.items():
            latent = latents[name]
            prior = None if latent.parents else latent.prior.centred_at(value)
            if prior is None:
                raise ValueError(
                    f"a prior must be Normal or Flat, of known scale, to have another mean, but {name} has {latent.prior!r}; "
                    "give it Normal(scale)."
                )
            latents[name] = dataclasses.replace(latent, prior=prior)
        return self._changed(latents=latents)

    def with_sources(self, priors: Mapping[str, str], outputs: Mapping[str, str]) -> Self:
        """A new model with other rules named as sources in its prior table, by tensor and by layer."""
        return self._changed(
            resolved=[dataclasses.replace(r, source=priors[r.name]) for r in self.resolved],
            outputs=tuple(dataclasses.replace(output, source=outputs[output.name]) for output in self.outputs),
        )

    def autoscaled(self, ratio: torch.Tensor) -> Self:
        """The same model with its `autoscale` priors applied, given sd(y)/sd(x) in its own units; this one is unchanged."""
        resolved = [adjusted(r, ratio.to(self.like)) for r in self.resolved]
        return self._changed(autoscale=ratio, resolved=resolved, latents=latents_of(resolved, self.likelihood))

    def forward(
        self,
        values: Values,
        x: torch.Tensor,
        module: nn.Module | None = None,
        buffers: Values | None = None,
    ) -> torch.Tensor:
        """The network's output at prepared inputs, with these weights.

        Args:
            values: Weights by dotted name; noise parameters may be among them.
            x: Prepared inputs (B, ...).
            module: Another module of the same structure that only this thread runs, for a training copy.
            buffers: Buffers that differ from the module's own, by dotted name.

        Returns:
            (B,) for one output a row, else (B, K), or (B, 2K) where the network also predicts the noise.
        """
        known = {**self.constants, **values}
        tensors = {place: known[name] for place, name in self.places.items()} | dict(buffers or {})
        tensors |= {place: tensors[place].to(dtype) for place, dtype in self.other_types.items()}
        output = called(self.to_run(module), tensors, x, recomputes=self.behaviour.recomputes)
        return one_column(output).to(self.like.dtype)

    def to_run(self, module: nn.Module | None = None) -> nn.Module:
        """The module that a pass runs: the one given, or this thread's copy of the model's own, which itself is never run."""
        return own(self.module) if module is None or module is self.module else module

    def forward_with_activity(
        self, values: Values, x: torch.Tensor, module: nn.Module | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The output at prepared inputs, (B,) or (B, K), and the log-density of each row's activations, (B,) in nats.

        Only activations with a prior count. `module` is as for `forward`.
        """
        module = self.to_run(module)
        return self.watched(lambda: self.forward(values, x, module), module, len(x))

    def watched(self, call: Callable[[], torch.Tensor], module: nn.Module, num_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The same for any `call` that runs `module` once on so many rows: its result, and (B,) in nats."""
        with activations.captured(module, self.outputs) as found:
            output = call()
        return output, activations.log_prob(self.outputs, found, num_rows)

    def noise(self, values: Values) -> dict[str, torch.Tensor]:
        """The noise parameters, learned or known, in the units that the model works in."""
        return {**self._known_noise, **{name: values[name] for name in self.likelihood.latents}}

    def check_activity(self, x: torch.Tensor) -> None:
        """Refuse activations outside the support of their prior, on a few prepared rows at the module's present weights."""
        if self.outputs:
            with torch.no_grad(), activations.captured(self.to_run(), self.outputs) as found:
                self.forward(self.weights(), x)
            activations.check_support(self.outputs, found)

    def weights(self) -> dict[str, torch.Tensor]:
        """The module's present weights that are unknowns, by name, detached."""
        dtype = self.like.dtype
        return {r.name: self.module.get_parameter(r.name).detach().to(dtype) for r in self.resolved if r.name in self.latents}

    def log_prior(self, values: Values) -> torch.Tensor:
        """Log p(θ), a scalar in nats, at every unknown by name in constrained space."""
        return sum(self.log_prior_by_tag(values).values(), self.like.new_zeros(()))

    def log_prior_by_tag(self, values: Values) -> dict[str, torch.Tensor]:
        """Log p(θ) in parts, one scalar in nats for each tag, so that groups of priors can be examined.

        Args:
            values: Every unknown by name, in constrained space.

        Returns:
            Tag (`Normal(1.0, tag="inputs")`), or the tensor's own name where its prior has none, to nats. An unknown scale
            counts with its tensor.
        """
        parts: dict[str, torch.Tensor] = {}
        for name, latent in self.latents.items():
            part = latent.given(values).log_prob(values[name])
            parts[latent.tag] = parts[latent.tag] + part if latent.tag in parts else part
        return parts


def _unscaled(standardize: bool | str) -> bool:
    """What `standardize` says of an inverse problem: its numbers stay in their own units.

    Raises:
        ValueError: If it is True.
    """
    if standardize is True:
        raise ValueError(
            "an inverse problem must stay in the units of x and b, but standardize=True came; leave it out, and give the prior "
            "of x and the noise the scales that they have."
        )
    return False
