"""How much a fitted function depends on each column: permutation in function space, draw by draw.

    Iⱼ = ½ E[(f(x) − f(x with xⱼ of another row))²] / Var[f(x)]

The share of the function's variance that is gone when column j is not known (Sobol's total index, by Jansen's formula): 0 where
f does not depend on it. For a linear function of independent columns it is βⱼ² Var[xⱼ] / Var[f], with sum one. Each draw of the
posterior has its own, so that the mean over draws has an sd that says how well the data determine it.

Jansen (1999), Analysis of variance designs for model output. Fisher, Rudin and Dominici (2019), All models are wrong, but many
are useful: learning a variable's importance by studying an entire class of prediction models simultaneously.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from bayesreg.posteriors import AbstractPosterior

_ENTRIES = 2 * 10**7  # of outputs at once
_SHIFTS = 10  # other rows for each row


def total_indices(
    posterior: AbstractPosterior, x: np.ndarray, groups: Sequence[Sequence[int]], num_samples: int, seed: int
) -> np.ndarray:
    """Iⱼ of each draw and group of inputs, (S, G).

    Args:
        posterior: Whose function it is.
        x: Rows, (N, D), N >= 2, in an order of no meaning.
        groups: Numbers of the inputs that are changed together; none gives 0.
        num_samples: S; one for a mode.
        seed: Of the draws.

    >>> import bayesreg as br
    >>> x = np.random.default_rng(0).normal(size=(200, 2))
    >>> model = br.BayesianModel(torch.nn.Linear(2, 1), likelihood=br.likelihoods.Gaussian(1.0))
    >>> mode = br.fit(model, x, 3 * x[:, 0], method="map", seed=0)
    >>> total_indices(mode, x, [[0], [1]], 1, 0).round(1).tolist()
    [[1.0, 0.0]]
    """
    turns = sorted({1 + shift * (len(x) - 1) // _SHIFTS for shift in range(_SHIFTS)})

    def function(rows: np.ndarray) -> torch.Tensor:
        found = posterior.sample_function(rows, num_samples, seed=seed).double()
        return found.reshape(*found.shape[:2], -1)

    here, parts = function(x), []
    variance = here.var(1, correction=0).sum(-1)
    at_once = max(1, _ENTRIES // here.numel())
    moved = [(group, turn) for group in groups if len(group) for turn in turns]
    for start in range(0, len(moved), at_once):
        block = moved[start : start + at_once]
        there = function(np.concatenate([_with(x, group, turn) for group, turn in block]))
        away = there.reshape(len(there), len(block), *here.shape[1:]) - here[:, None]
        parts.append(0.5 * away.square().sum(-1).mean(-1))
    found = torch.zeros(len(here), len(groups), dtype=torch.float64)
    if parts:
        used = [number for number, group in enumerate(groups) if len(group)]
        found[:, used] = torch.cat(parts, 1).reshape(len(here), len(used), len(turns)).mean(-1)
    return (found / variance.clamp_min(torch.finfo(torch.float64).tiny)[:, None]).numpy()


def _with(x: np.ndarray, group: Sequence[int], turn: int) -> np.ndarray:
    """The rows, a group of their inputs those of the row `turn` places further."""
    made = x.copy()
    made[:, list(group)] = np.roll(x[:, list(group)], turn, 0)
    return made
