"""The unknowns of a model and their hierarchy: a weight's scale may be an unknown too, and that one's scale again.

    noise_scale ─┐
    w.scale.scale → w.scale → w          each conditional on its parents: p(w | w.scale) p(w.scale | w.scale.scale) …

Parents come before their children, so that the model can be drawn from top to bottom.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch.distributions import constraints

from bayesreg.likelihoods import AbstractLikelihood
from bayesreg.model.spec import PriorRow, Resolved, dimensions
from bayesreg.priors import AbstractPrior
from bayesreg.priors.numeric import ends
from bayesreg.priors.scaled import AbstractScaledPrior, shared_shape


@dataclasses.dataclass(frozen=True)
class Latent:
    """One unknown of the model.

    Attributes:
        name: Dotted parameter name, the noise's name, or "<name>.scale" for the unknown scale of a prior.
        shape: Its shape.
        prior: Its prior; where it has parents, with an open scale.
        kind: "weight", "noise" or "scale".
        parents: Unknowns whose product, times `factor`, is the prior's scale.
        factor: A number.
        tag: Key of its part of the log-prior.
        child: The unknown whose prior's scale this one is; empty for none.
    """

    name: str
    shape: torch.Size
    prior: AbstractPrior
    kind: Literal["weight", "noise", "scale"] = "weight"
    parents: tuple[str, ...] = ()
    factor: float = 1.0
    tag: str = ""
    child: str = ""

    @property
    def is_noise(self) -> bool:
        """True for the likelihood's own unknowns."""
        return self.kind == "noise"

    @property
    def is_positive(self) -> bool:
        """True where it lives on the positive half line."""
        return self.prior.support is constraints.positive

    @property
    def centered(self) -> bool:
        """False where the unknown is searched as (value − origin)/scale."""
        return not self.parents or (isinstance(self.prior, AbstractScaledPrior) and self.prior.centered)

    @property
    def origin(self) -> Any:
        """The value that the scale does not move."""
        return self.prior.origin if isinstance(self.prior, AbstractScaledPrior) else 0.0

    def scale(self, values: Mapping[str, torch.Tensor]) -> Any:
        """The scale that the parents' values give, a tensor that broadcasts against the unknown."""
        product: Any = self.factor
        for parent in self.parents:
            product = product * values[parent]
        return product

    def given(self, values: Mapping[str, torch.Tensor]) -> Any:
        """The prior conditional on the parents' values, by name in constrained space."""
        return self.prior.given(self.scale(values)) if self.parents else self.prior  # pyright: ignore[reportAttributeAccessIssue]


def latents_of(resolved: Iterable[Resolved], likelihood: AbstractLikelihood) -> dict[str, Latent]:
    """Every unknown by name, parents before children; tensors with a `Fixed` prior are left out.

    The likelihood's own unknowns come last, or first where a prior's scale is relative to the noise.

    Raises:
        ValueError: If two unknowns would have one name, or a scale is relative to a noise that does not exist.
    """
    weights = [r for r in resolved if not r.prior.certain]
    noises = [
        latent
        for name, prior in likelihood.latents.items()
        for latent in _chain(name, torch.Size(), prior, "noise", likelihood, name)
    ]
    relative = any(p.relative_to_noise for r in weights for p in _scaled(r.prior))
    found: dict[str, Latent] = {latent.name: latent for latent in noises} if relative else {}
    for r in weights:
        for latent in _chain(r.name, r.shape, r.prior, "weight", likelihood, r.prior.tag or r.name):
            if latent.name in found or latent.name in likelihood.fixed or latent.name in likelihood.latents:
                raise ValueError(
                    f"each unknown must have a name of its own, but {latent.name} is the likelihood's or a scale's name and a "
                    "parameter's too; rename the module's parameter."
                )
            found[latent.name] = latent
    return found if relative else {**found, **{latent.name: latent for latent in noises}}


def _scaled(prior: AbstractPrior | None) -> Iterator[AbstractScaledPrior]:
    """The prior, its scale's prior, and so on, as far as they have scales."""
    while isinstance(prior, AbstractScaledPrior):
        yield prior
        prior = prior.hyperprior


def _chain(
    name: str, shape: torch.Size, prior: Any, kind: Any, likelihood: AbstractLikelihood, tag: str, child: str = ""
) -> Iterator[Latent]:
    """The unknown and, before it, those that its scale depends on.

    Raises:
        ValueError: If a scale is relative to a noise that does not exist.
    """
    parents: list[str] = []
    factor = 1.0
    if isinstance(prior, AbstractScaledPrior):
        factor = prior.factor(shape)
        if prior.hyperprior is not None:
            above = f"{name}.scale"
            higher = prior.hyperprior
            yield from _chain(
                above, shared_shape(shape, prior.sharing), higher, "scale", likelihood, higher.tag or tag, child=name
            )
            parents.append(above)
        if prior.relative_to_noise:
            noise = likelihood.plain.squared_error_scale
            if kind == "noise" or noise is None:
                raise ValueError(
                    f"relative_to_noise=True needs a likelihood with a noise_scale of its own, but {name} has {prior} under "
                    f"{likelihood}; take a plain scale."
                )
            if noise in likelihood.latents:
                parents.append(noise)
            factor *= likelihood.fixed.get(noise, 1.0)
        if parents and prior.hyperprior is None:
            factor *= prior.given_scale
        elif not parents and prior.relative_to_noise:
            prior = prior.given(prior.given_scale * factor)
    yield Latent(name, shape, prior, kind, tuple(parents), factor, tag, child)


def heir(name: str, latents: Mapping[str, Latent]) -> str:
    """The weight or noise whose scale this unknown is, over any number of scales in between; itself where it is none."""
    while name in latents and latents[name].child:
        name = latents[name].child
    return name


def check_sites(latents: Iterable[str], own: Iterable[str]) -> None:
    """Refuse a Pyro program in which a parameter would share its name with one of the program's own sites.

    Raises:
        ValueError: If there is one.
    """
    taken = sorted(set(latents) & set(own))
    if taken:
        raise ValueError(
            f"each site of pyro_model must have a name of its own, but {taken[0]!r} is a parameter's name and that of the "
            "targets, their plate or their factor too; rename the module's parameter (fit and predict do without the program)."
        )


def rows_of_scales(name: str, latents: Mapping[str, Latent]) -> Iterator[PriorRow]:
    """The prior table's lines for the unknown scales above one tensor, the nearest first.

    Yields:
        One line a scale, the nearest first.
    """
    above = {latent.child: latent for latent in latents.values() if latent.child}
    while name in above:
        latent = above[name]
        yield PriorRow(
            tensor=latent.name,
            shape=dimensions(latent.shape),
            prior=str(latent.prior),
            scale=_scale_text(latent),
            penalty=latent.prior.penalty_text,
            source=f"hyperprior of {name}",
            note="unknown scale",
        )
        name = latent.name


def _scale_text(latent: Latent) -> str:
    if isinstance(latent.prior, AbstractScaledPrior):
        return latent.prior.scale_text(latent.shape, latent.name)
    return "–"


def inside(prior: AbstractPrior, value: torch.Tensor) -> torch.Tensor:
    """The value, or the nearest one well inside the prior's support."""
    low, high = ends(prior.support)
    if low == -math.inf:
        return value.clone()
    if bool(((value > low) & (value < high)).all()):
        return value.clone()
    margin = 1e-3 if high == math.inf else 1e-3 * (high - low)
    return (value.abs() if low == 0 else value).clamp(low + margin, high - margin)


def root_mean_square(value: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """The root mean square of a tensor over the axes that `shape` has shrunk, at least 10⁻³."""
    axes = [i for i, n in enumerate(value.shape) if not shape or shape[i] != n]
    mean = value.square().mean(axes, keepdim=bool(shape)) if axes else value.square()
    return mean.sqrt().clamp_min(1e-3).reshape(shape)
