"""Whether a model has a mode at all: a density that is finite everywhere, and no scale to run to zero."""

from __future__ import annotations

from bayesreg.model.model import BayesianModel


def check_has_mode(model: BayesianModel) -> None:
    """Refuse a model that has no mode.

    Raises:
        ValueError: If a prior's scale is unknown, or a density has a pole.
    """
    scaled = [latent.child for latent in model.latents.values() if latent.child]
    if scaled:
        child = scaled[0]
        raise ValueError(
            f"a joint mode over weights and their unknown scale runs to scale zero, so that MAP must have fixed scales, but "
            f"{child} has {model.latents[child].prior}; fix the scale (a number), tune that number by the evidence "
            "(LaplaceApproximation(tune='evidence')), marginalise it (StudentT is a Normal with an unknown scale integrated "
            "out), or take a posterior method such as MeanField."
        )
    for name, latent in model.latents.items():
        if latent.parents and not latent.prior.smooth:
            raise ValueError(
                f"a mode on a kink must have a known scale, but that of {name}, {latent.prior}, depends on the unknown noise; "
                "fix noise_scale to a number, take Normal in its place, or a posterior method such as MeanField."
            )
        if not latent.prior.bounded and not latent.is_noise:
            raise ValueError(
                f"a mode must have a finite density, but {name} has {latent.prior}, whose density has a pole; "
                "take a bounded prior for MAP (Laplace, SpikeSlab, StudentT), or a posterior method such as MeanField."
            )
