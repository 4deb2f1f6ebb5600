"""Where chains start, and whether compiling pays for them."""

from __future__ import annotations

from typing import Any

import torch

from bayesreg.data.rows import Data
from bayesreg.objective.flat import LogJoint
from bayesreg.samplers.options import ChainOptions
from bayesreg.solvers.compiled import no_compiler
from bayesreg.solvers.progress import ProgressCallback
from bayesreg.solvers.restarts import starts

_PAYS = 4000  # steps from which the seconds of compiling are won back: a step of a small model is all overhead otherwise


def chain_starts(log_joint: LogJoint, data: Data, options: ChainOptions, seed: int, report: ProgressCallback) -> torch.Tensor:
    """Where each chain starts, (C, P) unconstrained; see `ChainOptions.start`.

    Args:
        log_joint: The objective.
        data: The rows.
        options: The settings.
        seed: For the prior's draws, and the mode.
        report: Hears of the search for a mode.

    Returns:
        (C, P).

    Raises:
        ValueError: If a prior has no draws, or `start` is no place to start from.
    """
    model, layout, count = log_joint.model, log_joint.layout, options.num_chains
    start: Any = options.start
    if start == "prior":
        return torch.vmap(layout.flatten)(model.sample_prior(count, seed=seed)).to(model.like)
    x, y = next(data.epoch())
    if start == "weights":
        own = layout.flatten(model.start(x, y))[None]
        return own if count == 1 else torch.cat([own, starts(log_joint, x, y, count - 1)])
    if not callable(getattr(start, "run", None)):
        raise ValueError(f"start must be 'weights', 'prior' or a MAP, but {start!r} came; pass for example MAP().")
    mode = start.run(model, data, seed=seed, report=report)
    return mode.loc.detach().expand(count, -1).clone()


def pays_for_chains(log_joint: LogJoint, num_steps: int) -> bool:
    """Whether compiling each step pays: a long run, and a compiler is there."""
    return num_steps >= _PAYS and not no_compiler(log_joint.model.like.device)
