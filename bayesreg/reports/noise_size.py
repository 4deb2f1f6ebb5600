"""A learned noise scale beside what the fit misses its training rows and new rows by, a mean shift taken apart."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, final

import torch

from bayesreg._text import number, plus_minus
from bayesreg.posteriors.base import AbstractPosterior
from bayesreg.predictive.mixture import Predictive

# A mode's noise scale is all of its predictive sd, so half of its error is already too little; a posterior's is only the
# aleatoric part, and is too little at a tenth where the whole predictive sd is at a half
COLLAPSED, SMALL = 0.1, 0.5
_FEW = 10


@final
@dataclass(frozen=True)
class NoiseScale:
    """A noise scale, judged.

    Attributes:
        small: Whether it is far below what new rows are missed by, a shift of all of them left aside.
        sentence: That in words, with the cause as far as the numbers tell it.
    """

    small: bool
    sentence: str


def noise_scale(posterior: AbstractPosterior, predictive: Predictive, y: Any, shifted: bool) -> NoiseScale | None:
    """The noise scale of the output where it is least beside the error.

    Args:
        posterior: The fit.
        predictive: Its prediction for the N test rows.
        y: What was observed there.
        shifted: Whether the truths lie to one side of the predictions, by more than chance.

    Returns:
        What is said of it; None where no noise scale is learned, or said by the network.
    """
    by_row = posterior.model.likelihood.heteroscedastic
    name = posterior.model.likelihood.squared_error_scale
    if [key for key, latent in posterior.model.latents.items() if latent.is_noise] != [name] and not by_row:
        return None
    missed = (predictive.target(y) - predictive.mean).double().cpu().reshape(predictive.num_rows, -1)
    rmse, bias = missed.square().mean(0).sqrt(), missed.mean(0)
    error = (missed - bias).square().mean(0).sqrt() if shifted else rmse
    if by_row:  # one number for all rows, as the error is
        noise = _root_mean(predictive.aleatoric_variance)
    else:
        noise = posterior.mean[str(name)].double().cpu().reshape(-1).expand(error.shape)
    ratio = torch.where(error > 0, noise / error, math.inf)
    k = int(ratio.argmin())
    stated = float(_root_mean(predictive.variance)[k] / error[k]) if error[k] > 0 else math.inf
    limit = SMALL if predictive.num_samples == 1 else COLLAPSED
    small = float(ratio[k]) < limit and stated < SMALL and predictive.num_rows >= _FEW
    where = f" (output {k})" if len(error) > 1 else ""
    what = "noise scale (root mean square over the test rows)" if by_row else "noise scale"
    text = f"{what} {number(float(noise[k]), 3)} against a test RMSE of {number(float(rmse[k]), 3)}{where}"
    if shifted and abs(float(bias[k])) > float(error[k]) / math.sqrt(predictive.num_rows):
        shift = plus_minus(float(bias[k]), float(error[k]) / math.sqrt(predictive.num_rows))
        text += f", of which a shift of all rows is {shift} and their scatter about it {number(float(error[k]), 3)}"
    return NoiseScale(small, f"{text}{_cause(posterior, float(noise[k]), k) if small else ''}.")


def _cause(posterior: AbstractPosterior, noise: float, output: int) -> str:
    """What the training rows say: whether they are missed by as little as the scale says."""
    missed = posterior.record.training_rmse
    if missed is None or output >= len(missed):
        return ": it is not what new rows are missed by"
    said = f"its training rows are missed by {number(missed[output], 3)}"
    if noise < SMALL * missed[output]:
        return f": {said}, so it is too small for those too, and its prior or an unfinished fit holds it down"
    return f": {said}, so the fit followed their noise, or new rows are of another kind"


def _root_mean(variance: torch.Tensor) -> torch.Tensor:
    return variance.double().mean(0).sqrt().cpu().reshape(-1)
