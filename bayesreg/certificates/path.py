"""Whether a path of steps at a constant rate is at rest: its two halves have one mean."""

from __future__ import annotations

import torch

from bayesreg.certificates.certificate import Certificate

_BLOCKS = 10
_DRIFT = 4.0  # standard errors


def settled(path: torch.Tensor, temperature: float = 1.0) -> Certificate:
    """The certificate of a path whose moments are taken: on the way to somewhere its halves have two means.

    Args:
        path: Points in their order, (S, P), at least 20.
        temperature: By which the covariance was multiplied.

    Returns:
        Passed where the halves' means differ by less than 4 standard errors, by batch means, in root mean square.

    >>> torch.manual_seed(0).seed
    <...>
    >>> still, going = torch.randn(100, 5), torch.randn(100, 5) + torch.linspace(0, 9, 100)[:, None]
    >>> settled(still).converged, settled(going).converged
    (True, False)
    """
    each = len(path) // (2 * _BLOCKS)
    halves = path[: 2 * _BLOCKS * each].double().reshape(2, _BLOCKS, each, -1).mean(2)
    error = (halves.var(1) / _BLOCKS).sum(0).sqrt() + 1e-6 * path.double().abs().amax(0) + 1e-12
    drift = float(((halves[1].mean(0) - halves[0].mean(0)) / error).square().mean().sqrt())
    said = f"The two halves of the path differ by {drift:.1f} standard errors"
    said += ", as at rest." if drift < _DRIFT else "; raise num_warmup and num_samples."
    if temperature != 1.0:
        said += f" Temperature {temperature:g}: the path's covariance times {temperature:g}."
    numbers: dict[str, float | str] = {"drift": drift, "largest error of the mean": float(error.max()) / 2}
    return Certificate.checked(drift < _DRIFT, said, {**numbers, "temperature": temperature})
