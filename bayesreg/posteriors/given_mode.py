"""Whether a mode that is fitted already is one of a model and its data."""

from __future__ import annotations

import math

import torch

from bayesreg.model.model import BayesianModel
from bayesreg.posteriors.base import AbstractPosterior


def check_mode(mode: AbstractPosterior, model: BayesianModel) -> None:
    """Refuse a mode that is not one of this model's unconstrained density.

    Raises:
        ValueError: If it is none.
    """
    if mode.space != "unconstrained" and any(s.transform is not None for s in mode.layout.in_order):
        named = next(s.latent.name for s in mode.layout.in_order if s.transform is not None)
        raise ValueError(
            f"a Laplace approximation needs the mode of the unconstrained density, but that of {mode.space} space came, which "
            f"differs for {named}; fit MAP(jacobian=True)."
        )
    own, others = _described(mode.model), _described(model)
    different = [name for name in own if own[name] != others[name]]
    if different:
        raise ValueError(
            f"mode must be of the model that is fitted, but its {different[0]} differ: {_shortened(own[different[0]])} "
            f"against {_shortened(others[different[0]])}; fit the mode anew, or pass mode=MAP()."
        )


def _shortened(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:197]}..."


def _described(model: BayesianModel) -> dict[str, str]:
    """What makes two bound models one, in words."""
    scale = model.standardization
    units = (
        ()
        if scale is None
        else tuple(torch.as_tensor(v).tolist() for v in (scale.x_mean, scale.x_scale, scale.y_mean, scale.y_scale))
    )
    latents = [f"{latent.name} {tuple(latent.shape)} {latent.prior!r}" for latent in model.latents.values()]
    return {
        "priors": "; ".join(latents),
        "likelihoods": repr(model.likelihood),
        "numbers of rows": str(model.total()),
        "units": str(units),
        "networks": type(model.module).__name__,
    }


def check_rows(mode: AbstractPosterior, value: float) -> None:
    """Refuse a mode that was fitted to other data: the log-joint there is another one.

    Raises:
        ValueError: If so.
    """
    point = mode.certificate.point
    known = math.nan if point is None else point.log_joint
    if math.isfinite(known) and abs(known - value) > 1e-3 * (1 + abs(known)):
        raise ValueError(
            f"mode must have been fitted to these data, but its log-joint was {known:.6g} nats and is {value:.6g} on them; fit "
            "the mode anew, or pass mode=MAP()."
        )
