"""Training of a network together with the scales of its priors and its noise, to the highest evidence.

    s² ← s² · (γ + g)/γ,   σ² ← RSS/(N − γ)

after every few steps of the weights, in coordinates whitened by the curvature at hand. g is the slope of the evidence in log s;
at a fixed mode γ + g = Σ w²/s² (MacKay).

References:
    MacKay (1992), A practical Bayesian framework for backpropagation networks. Immer, Bauer, Fortuin, Rätsch and Khan (2021),
    Scalable marginal likelihood estimation for model selection in deep learning.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from bayesreg.solvers.evidence_ascent import At, Climbed, GaussNewton, Mode, climb, level
from bayesreg.solvers.history import History

_TURNS, _LEAST, _STEPS = 30, 6, 100  # updates at most and at least, and steps of the weights between two
_RATE, _SLOWEST, _SLOWER = 0.2, 0.02, 0.7  # of those steps in sds, and by what it falls in a turn that moves the scales little
_FURTHEST = 0.7  # change of a logarithm in one update
_SMALL = 0.1  # the same that counts as little
_CALM = 2  # turns in which an update gains little, one after the other, that end them
_LAST = 3  # updates after which the mode itself is found
_STEP, _MOST = 0.3, 6  # narrower priors in a last search: by what in the logarithm, and how often
_LITTLE, _NEARER = 0.5, 0.1  # nats that a step must gain, and the rate of the steps to a mode nearby
_GROWS, _SHRINKS = 1.2, 0.5  # of an update whose sign stays, or changes

Heard = Callable[[int, np.ndarray, At[Mode]], None]


def highest(search: GaussNewton, heard: Heard, history: History | None = None) -> Climbed[Mode] | None:
    """Where the evidence is highest, from the scales as they are.

    Where the mode can be found anew at each step in the scales their exact slopes are climbed. Else weights and scales are
    trained together, and the mode is found in the end.

    Args:
        search: The model, and a point near its mode or from which it can be trained.
        heard: Told each point.
        history: Where the objective of the last search for the mode is recorded.

    Returns:
        Where it ended; None where there is no evidence at the start.
    """
    t = np.log(search.scales.start)
    if search.follows:
        return climb(search.evaluated, t, heard)
    at, share, before, rate, calm = search.looked(t, search.u), np.ones(len(t)), np.zeros(len(t)), _RATE, 0
    if at is None:
        return None
    turn, best = 0, (t, at)
    while turn < _TURNS and calm < _CALM:
        heard(turn, t, at)
        move = _update(at)
        share = np.where(move * before < 0, share * _SHRINKS, np.minimum(share * _GROWS, 1.0))
        u = search.towards(t + share * move, at, rate, _STEPS)
        trial = None if u is None else search.looked(t + share * move, u)
        if trial is None:
            break
        t, at, before, turn = t + share * move, trial, move, turn + 1
        best = (t, at) if at.evidence > best[1].evidence else best
        calm = calm + 1 if turn >= _LEAST and _gain(at) < 0.1 * search.tolerance else 0
        if _gain(at) < search.tolerance or np.abs(share * move).max() < _SMALL:
            rate = max(_SLOWEST, rate * _SLOWER)
    history = history or History()
    found = _finished(search, t, at, turn, heard, history)
    if best[1].evidence > found.at.evidence + search.tolerance:  # higher on the way: is it so at the mode there?
        other = search.looked(best[0], search.settled(best[0], best[1].what.u, history))
        if other is not None and other.evidence > found.at.evidence:
            heard(found.steps + 1, best[0], other)
            found = Climbed(best[0], other, _gain(other), found.steps + 1)
    return _narrowed(search, found, heard, history)


def _finished(search: GaussNewton, t: np.ndarray, at: At[Mode], turn: int, heard: Heard, history: History) -> Climbed[Mode]:
    """The mode at the scales that were found, and last updates there."""
    there = t
    for _ in range(_LAST):
        found = search.looked(there, search.settled(there, at.what.u, history))
        if found is None:
            break
        t, at, turn = there, found, turn + 1
        heard(turn, t, at)
        if _gain(at) < search.tolerance:
            break
        there = t + _update(at)
    return Climbed(t, at, _gain(at), turn)


def _narrowed(search: GaussNewton, found: Climbed[Mode], heard: Heard, history: History) -> Climbed[Mode]:
    """Where narrower priors on all functions have a higher evidence, as long as they do.

    Slopes at a fixed point know nothing of how the curvature falls where the mode is simpler, and ask for more than the
    evidence does. So it is looked at itself, at modes that are found anew.
    """
    t, at, down = found.t, found.at, np.zeros(len(found.t))
    down[: len(search.scales.tensors)] = -_STEP
    if at.same.shape[1]:
        down = down - at.same @ np.linalg.lstsq(at.same, down, rcond=None)[0]
    for step in range(_MOST):
        there = t + down
        trial = _near(search, there, at)
        if trial is not None and search.scales.noise:
            there[-1] += _update(trial)[-1]
            trial = _near(search, there, trial)
        if trial is None or trial.evidence < at.evidence + _LITTLE:
            break
        t, at = there, trial
        heard(found.steps + step + 1, t, at)
    if at is found.at:
        return found
    last = search.looked(t, search.settled(t, at.what.u, history)) or at
    heard(found.steps + step + 1, t, last)
    along = np.column_stack([last.same, down])
    along = dataclasses.replace(last, same=along, slope=level(last.slope, last.size, along))
    return Climbed(t, last, _gain(along), found.steps + step + 1)


def _near(search: GaussNewton, t: np.ndarray, at: At[Mode]) -> At[Mode] | None:
    """The evidence at other scales after two rounds towards their mode."""
    for _ in range(2):
        u = search.towards(t, at, _NEARER, _STEPS)
        found = None if u is None else search.looked(t, u)
        if found is None:
            return None
        at = found
    return at


def _update(at: At[Mode]) -> np.ndarray:
    """What MacKay's update adds to the logarithms, less what would make no other distribution of functions, (S,)."""
    free = 0.5 * np.diag(at.bend)
    move = 0.5 * np.log(np.maximum(1 + at.slope / free, math.exp(-4 * _FURTHEST)))
    if at.same.shape[1]:
        move = move - at.same @ np.linalg.lstsq(at.same, move, rcond=None)[0]
    return np.clip(move, -_FURTHEST, _FURTHEST)


def _gain(at: At[Mode]) -> float:
    """Nats that an update gains, about."""
    return max(0.0, 0.5 * float(at.slope @ _update(at)))
