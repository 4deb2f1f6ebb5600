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

_DRAWS = 200  # of the prior, for its scales
_PAYS = 8000  # gradients from which the seconds of compiling are won back: a step of a small model is all overhead otherwise


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


def pays_for_chains(log_joint: LogJoint, num_gradients: int) -> bool:
    """Whether compiling pays: a long run, by the calls of the density, and a compiler is there."""
    return num_gradients >= _PAYS and not no_compiler(log_joint.model.like.device)


def prior_scales(log_joint: LogJoint) -> torch.Tensor:
    """The sd that a normal prior with the same quartiles would have, of each unknown in the flat vector, (P,).

    From draws, so that any prior has one; 1 for an improper prior, which has none.
    """
    model, layout = log_joint.model, log_joint.layout
    try:
        drawn = torch.vmap(layout.flatten)(model.sample_prior(_DRAWS, seed=0)).double()
    except ValueError:
        return torch.ones(layout.size, dtype=torch.float64, device=model.like.device)
    found, quartiles = torch.ones_like(drawn[0]), drawn.new_tensor([0.25, 0.75])
    for s in layout.in_order:  # the draws of one tensor together: their scale is that of its prior
        low, high = torch.quantile(drawn[:, s.slice], quartiles, dim=0)
        found[s.slice] = ((high - low) / 1.349).log().mean().exp()
    return torch.where(found.isfinite() & (found > 0), found, torch.ones_like(found))
