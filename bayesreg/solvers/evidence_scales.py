"""Which scales the evidence tunes: of the priors, and of the noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from bayesreg import _check
from bayesreg.model.model import BayesianModel
from bayesreg.model.rescaled import own_scale, with_known_noise, with_scales
from bayesreg.objective.evidence import Slopes, known_noise, scaled
from bayesreg.priors.base import AbstractPrior

WHY = "tuned by the evidence"


@dataclasses.dataclass(frozen=True)
class Evidence:
    """What `tune="evidence"` tunes: `tune=Evidence(per="rule", noise=False)`.

    Every scale that was given as a number is tuned. An unknown scale of a prior is inferred as before; flat priors stay flat.

    Args:
        per: A scale for each "tensor", or for all tensors that one "rule" of the priors gave their scale.
        noise: Whether the noise scale of squared errors is tuned too. It begins at the number that it has, or where a fit
            begins if it has a prior, whose density then counts as evidence. The joint mode of weights and noise overfits: it
            divides the squared residuals by N, the evidence by N − γ. Where False the noise stays known, or inferred.

    Raises:
        ValueError: If an argument is out of its range.
    """

    per: str = "tensor"
    noise: bool = True

    def __post_init__(self) -> None:
        _check.one_of("per", self.per, ("tensor", "rule"))
        _check.flag("noise", self.noise)


@dataclasses.dataclass(frozen=True)
class Scales:
    """The scales of a model that are tuned, in order.

    Attributes:
        tensors: Label to the tensors whose priors share the scale.
        noise: Name of the noise scale; empty where it is not tuned.
        start: Their values as written.
        noise_prior: The prior of the noise scale; None where it had none.
    """

    tensors: dict[str, tuple[str, ...]]
    noise: str
    start: tuple[float, ...]
    noise_prior: AbstractPrior | None = None

    @classmethod
    def of(cls, model: BayesianModel, settings: Evidence, noise_prior: AbstractPrior | None = None) -> Scales:
        """Those that the settings name; `noise_prior` is what a noise that now is a number had.

        Raises:
            ValueError: If there are none.
        """
        names = set(scaled(model))
        tensors: dict[str, tuple[str, ...]] = {}
        for r in model.resolved:
            if r.name in names:
                label = r.name if settings.per == "tensor" else f"{r.specified} of {r.source}"
                tensors[label] = (*tensors.get(label, ()), r.name)
        noise = (known_noise(model) or "") if settings.noise else ""
        if not tensors and not noise:
            raise ValueError(
                "tune='evidence' must have a scale to tune, but no prior has one that is a number and no noise scale is known; "
                "give a number: Normal(1.0). An unknown scale (HalfCauchy) is inferred, and needs no tuning."
            )
        start = [own_scale(model, some) for some in tensors.values()]
        return cls(tensors, noise, (*start, *([model.likelihood.fixed[noise]] if noise else [])), noise_prior)

    @property
    def labels(self) -> tuple[str, ...]:
        """Of each scale."""
        return (*self.tensors, *([self.noise] if self.noise else []))

    def values(self, t: np.ndarray) -> dict[str, float]:
        """The scales by label, to six digits, from their logarithms."""
        return {label: float(f"{value:.6g}") for label, value in zip(self.labels, np.exp(t), strict=True)}

    def model(self, model: BayesianModel, values: Mapping[str, float]) -> BayesianModel:
        """The model with these values, by label."""
        by_tensor = {name: values[label] for label, names in self.tensors.items() for name in names}
        found = with_known_noise(model, values[self.noise]) if self.noise else model
        return with_scales(found, by_tensor, WHY)

    def gather(self, found: Slopes, exact: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The derivative in each logarithm, (S,), minus its own one or MacKay's metric for it, (S, S), and γ, (S,)."""
        labels = [*self.tensors.values(), *([(self.noise,)] if self.noise else [])]
        which = np.array([[float(name in some) for name in found.names] for some in labels])
        bend = found.bend if exact else np.diag(found.metric.clip(1e-2))
        return which @ found.slope, which @ bend @ which.T, 0.5 * which @ found.metric
