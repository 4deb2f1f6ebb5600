"""ArviZ, which takes seconds to import and warns of what cannot be judged, and effective sample sizes by it."""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from bayesreg._threads import importing, settings


def load_arviz() -> Any:
    """ArviZ, imported when it is first asked for, without a word: 0.23 announces 1.0.

    Raises:
        ImportError: If it is not installed.
    """
    with importing(), settings(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return importlib.import_module("arviz")


@contextlib.contextmanager
def quiet_arviz() -> Iterator[Any]:
    """ArviZ, which says nothing inside the block, as of quantities that do not move: their numbers are not finite.

    Yields:
        The module.
    """
    arviz = load_arviz()
    with settings(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield arviz


def effective_sizes(traces: torch.Tensor) -> torch.Tensor:
    """The mean effective sample size over quantities of each chain alone, (C,).

    Args:
        traces: (C, D, Q).

    Returns:
        (C,), float64; between 1 and what antithetic draws can reach. Quantities that do not move count for 1.
    """
    with quiet_arviz() as arviz:
        alone = [arviz.convert_to_dataset({"x": chain[None].double().cpu().numpy()}) for chain in traces]
        sizes = [arviz.ess(one, method="mean")["x"].values for one in alone]
    return torch.stack([torch.as_tensor(one).nan_to_num(1.0).mean() for one in sizes])
