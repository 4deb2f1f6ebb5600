"""Effective sample sizes of short traces, by ArviZ, for what samplers tune by them."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from bayesreg._threads import importing, settings


def effective_sizes(traces: torch.Tensor) -> torch.Tensor:
    """The mean effective sample size over quantities of each chain alone, (C,).

    Args:
        traces: (C, D, Q).

    Returns:
        (C,), float64; between 1 and what antithetic draws can reach. Quantities that do not move count for 1.
    """
    with importing():
        import arviz
    moving = traces.double().cpu()
    with settings(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of quantities that do not move
        sizes: list[Any] = [
            arviz.ess(arviz.convert_to_dataset({"x": chain[None].numpy()}), method="mean")["x"].values for chain in moving
        ]
    return torch.stack([torch.as_tensor(one).nan_to_num(1.0).mean() for one in sizes])
