"""The same model under other scales of its priors, or of its known noise: what a path varies and the evidence tunes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from bayesreg.model.autoscale import adjusted
from bayesreg.model.model import BayesianModel
from bayesreg.model.spec import PriorSpec, Resolved, settled
from bayesreg.priors import Normal


def matched(model: BayesianModel, rule: Any) -> list[str]:
    """Names of the tensors that a rule of `PriorSpec` matches, refused where their priors have no scale to vary.

    Raises:
        ValueError: If the rule matches nothing, or a prior that it matches has no scale that is a number.
    """
    found = [r.name for r in PriorSpec({rule: Normal(1.0)}).resolve(model.module) if r.source != "default"]
    norms = [r.name for r in model.resolved if r.flat_by_default]
    found = [name for name in found if name not in norms] or found  # a normalisation layer's tensor without a prior of its own
    for r in model.resolved:
        if r.name in found and r.specified.path_scale is None:
            raise ValueError(
                f"each prior on a path must have a scale that is a number, but {r.name} has {r.specified}; give it for example "
                "Normal(1.0) or Laplace(1.0), or a rule that does not match it."
            )
    return found


def own_scale(model: BayesianModel, names: Sequence[str]) -> float:
    """The scale that the first of these tensors' priors was written with."""
    prior: Any = next(r.specified for r in model.resolved if r.name in names)
    return float(prior.path_scale)


def with_scale(model: BayesianModel, names: Sequence[str], scale: float) -> BayesianModel:
    """A new model with this `path_scale`, > 0, in some tensors' priors; fan_in and autoscale still apply.

    The model may be bound to data or not.
    """
    return with_scales(model, dict.fromkeys(names, scale))


def with_scales(model: BayesianModel, scales: Mapping[str, float], why: str = "") -> BayesianModel:
    """A new model with these scales in its tensors' priors, by name; fan_in and autoscale still apply.

    Args:
        model: The model, bound to data or not.
        scales: The `path_scale`, > 0, of each tensor's prior that is to have another.
        why: Said in the prior table behind the rule that the prior comes from.

    Returns:
        A new model; this one is unchanged.

    >>> from torch import nn
    >>> tuned = with_scales(BayesianModel(nn.Linear(4, 1)), {"weight": 3.0}, "tuned")
    >>> [(r.name, str(r.specified), str(r.prior), r.source) for r in tuned.resolved][0]
    ('weight', 'Normal(scale=3.0, fan_in=True)', 'Normal(scale=1.5)', 'default, tuned')
    """
    return model.with_resolved([_rescaled(r, scales[r.name], model, why) if r.name in scales else r for r in model.resolved])


def _rescaled(resolved: Resolved, scale: float, model: BayesianModel, why: str) -> Resolved:
    prior, source = resolved.specified.with_path_scale(scale), resolved.source
    if why and not source.endswith(why):
        source = f"{source}, {why}"
    found = dataclasses.replace(resolved, specified=prior, prior=settled(prior, resolved.shape, resolved.inputs), source=source)
    return found if model.autoscale is None else adjusted(found, model.autoscale.to(model.like))


def with_known_noise(model: BayesianModel, scale: float) -> BayesianModel:
    """A new model whose noise scale is this number, > 0, in the units that the model works in; it may have had a prior.

    >>> from torch import nn
    >>> from bayesreg.likelihoods import Gaussian
    >>> with_known_noise(BayesianModel(nn.Linear(2, 1), likelihood=Gaussian(1.0)), 0.5).likelihood
    Gaussian(noise_scale=0.5)
    """
    (name,) = model.likelihood.fixed or [model.likelihood.squared_error_scale or "noise_scale"]
    return model.with_likelihood(type(model.likelihood)(**{name: scale}))
