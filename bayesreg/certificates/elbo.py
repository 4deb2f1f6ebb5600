"""Whether the ELBO of a variational fit has stopped rising."""

from __future__ import annotations

import torch

from bayesreg.certificates.certificate import Certificate
from bayesreg.certificates.outcome import Finding
from bayesreg.certificates.values import Elbo
from bayesreg.solvers.rising import trend


def rise(elbos: torch.Tensor) -> Certificate:
    """Whether an ELBO, one estimate a step in nats, has stopped rising, by its `trend`.

    The certificate is passed when the rise is below 1 nat or 2.5 standard errors.
    """
    found = trend(elbos)
    values = Elbo(len(elbos), found)
    if found is None:
        return Certificate(Finding.TOO_FEW_STEPS, elbo=values)
    rising = found.rise > max(1.0, 2.5 * found.error)
    return Certificate(Finding.ELBO_RISING if rising else Finding.ELBO_LEVEL, elbo=values)
