"""What methods that climb an ELBO share: the settings of the search, and whether it has stopped rising."""

from __future__ import annotations

import torch

from bayesreg.certificates.certificate import Certificate
from bayesreg.solvers.rising import trend


def rise(elbos: torch.Tensor) -> Certificate:
    """Whether an ELBO has stopped rising, by its `trend`.

    Args:
        elbos: One estimate a step, in nats, (num_steps,).

    Returns:
        The certificate; passed when the rise is below 1 nat or 2.5 standard errors.
    """
    found = trend(elbos)
    if found is None:
        return Certificate(False, f"Not converged: {len(elbos)} steps are too few to tell; raise num_steps to 1,000 or more.")
    gained, error, details = found.rise, found.error, found.details("elbo")
    if gained > max(1.0, 2.5 * error):
        sentence = (
            f"Not converged: the ELBO still rose by {gained:.1f} nats (Monte Carlo error {error:.1f}) over the last fifth of "
            "the steps; raise num_steps."
        )
        return Certificate(False, sentence, details)
    sentence = f"Converged: the ELBO changed by {gained:+.1f} nats (Monte Carlo error {error:.1f}) over the last fifth."
    return Certificate(True, sentence, details)
