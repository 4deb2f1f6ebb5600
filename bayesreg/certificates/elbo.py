"""Whether the ELBO of a variational fit has stopped rising, and what its gradient would still gain."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from bayesreg.certificates.certificate import Certificate
from bayesreg.certificates.outcome import Finding
from bayesreg.certificates.values import Elbo, Restarts
from bayesreg.objective.flat import Group, LogJoint
from bayesreg.priors.values import HALF_LOG_2PI
from bayesreg.solvers.history import History
from bayesreg.solvers.rising import trend

_WIDEST, _HALVINGS, _MANY = 20.0, 30, 2000  # range of a log sd, steps of a bisection, entries for which it is made
SAME = 0.01  # nats from its prior up to which a weight's posterior counts as the same


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


def gain_of(whitened: torch.Tensor) -> tuple[float, float]:
    """The gain in nats of a natural-gradient step, ½ gᵀF⁻¹g, which may be negative by chance, and its Monte Carlo error.

    Args:
        whitened: Estimates of F^−½ g, (R, D), independent of each other.

    Returns:
        The gain, from which the square of its mean's Monte Carlo error is subtracted, and its own error.
    """
    noise = whitened.var(0) / len(whitened)
    gain = 0.5 * float((whitened.mean(0).square() - noise).sum())
    return gain, 0.5 * float((2 * noise.square()).sum().sqrt())


def maximal(elbos: torch.Tensor, gain: float, gain_error: float, enough: float) -> Certificate:
    """Whether an ELBO is at its maximum: it has stopped rising, and its gradient vanishes within Monte Carlo error.

    It passes when the mean of `elbos` over the last tenth of the steps is above that over steps 70–80 % by less than 1 nat,
    `enough` nats or 2.5 standard errors, and the gain of a natural-gradient step is below `enough` nats plus 3 standard errors.
    """
    found = rise(elbos)
    if found.elbo is None or found.elbo.trend is None:  # too few steps to tell
        return found
    finding = found.finding
    if gain > enough + 3 * gain_error:
        finding = Finding.ELBO_SLOPE
    elif found.converged or found.elbo.trend.rise <= enough:
        finding = Finding.ELBO_MAXIMAL
    elbo = dataclasses.replace(found.elbo, nats_to_gain=gain, error=gain_error, tolerance=enough)
    return Certificate(finding, elbo=elbo)


def with_collapse(found: Certificate, log_joint: LogJoint, loc: torch.Tensor, scale: torch.Tensor) -> Certificate:
    """The certificate with the count of weights and hidden units that the data said nothing of: their posterior is their prior.

    A hidden unit counts where the weights into it, or those out of it, are on average within `SAME` nats of their prior.

    Args:
        found: The certificate.
        log_joint: The objective.
        loc: Means of the unknowns, (P,).
        scale: Their standard deviations, (P,).

    Returns:
        The certificate; as it was where no prior has its KL in closed form or by quadrature.
    """
    apart = divergences(log_joint, loc, scale)
    counted = apart.isfinite()
    if found.elbo is None or not bool(counted.any()):
        return found
    same, units = int((apart[counted] < SAME).sum()), _units(log_joint, apart)
    elbo = dataclasses.replace(found.elbo, collapsed=same, collapsible=int(counted.sum()))
    if len(units):
        elbo = dataclasses.replace(elbo, idle_units=int(units.sum()), units=len(units))
    return dataclasses.replace(found, elbo=elbo)


def divergences(log_joint: LogJoint, loc: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """KL(N(loc, scale²) ‖ prior) of each unknown, above that of the normal nearest to its prior, (P,), in nats.

    NaN where it takes a draw, off the real line, where a prior is improper, and where a prior's own scale is unknown.
    """
    apart = torch.full(loc.shape, torch.nan, dtype=torch.float64, device=loc.device)
    loc, scale = loc.double(), scale.double()
    for group in log_joint.groups:
        where, prior = group.slice, group.prior
        if not (group.elementwise and group.transform is None and prior.proper):
            continue
        part = loc[where], scale[where]
        energy = group.integral(*part)[0] if group.integrable else prior.expected_energy(*part)
        if energy is not None:
            apart[where] = energy - part[1].log() - _nearest(group)
    return apart


def _nearest(group: Group) -> Any:
    """The least E[energy] − log scale of any normal about the mode, of each entry: the data have no part in it."""
    prior, count = group.prior, group.stop - group.start
    if not group.integrable and ((prior.convex and prior.smooth) or count > _MANY):
        return prior.log_constant + HALF_LOG_2PI + 0.5
    mode = torch.as_tensor(prior.mode, dtype=torch.float64).expand(count)
    low, high = torch.full((2, count), _WIDEST, dtype=torch.float64).mul_(torch.tensor([[-1.0], [1.0]])).unbind()
    for _ in range(_HALVINGS):  # scale · dE/dscale grows with the scale, and is one at the least
        middle = 0.5 * (low + high)
        wide = group.integral(mode, middle.exp())[2] * middle.exp() > 1
        low, high = torch.where(wide, low, middle), torch.where(wide, middle, high)
    return group.integral(mode, low.exp())[0] - low


def _units(log_joint: LogJoint, apart: torch.Tensor) -> torch.Tensor:
    """Which hidden units the data say nothing of, True for each: rows of every layer's weights but the last one's."""
    found, segments, module = [], log_joint.layout.segments, log_joint.model.module
    weights = [
        apart[segments[name].slice].view(segments[name].latent.shape).flatten(1)
        for layer, own in module.named_modules()
        if isinstance(own, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))
        and (name := f"{layer}.weight" if layer else "weight") in segments
    ]
    for into, out in itertools.pairwise(weights):
        idle = into.mean(1) < SAME
        if out.shape[1] == len(into):  # each unit is a column of the next layer
            idle = idle | (out.mean(0) < SAME)
        if bool(into.isfinite().all()):
            found.append(idle)
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.bool)


def level(found: Certificate, history: History) -> float:
    """The ELBO that a fit reached, in nats: its mean over the last tenth of the steps; of too few, the last recorded."""
    at = None if found.elbo is None else found.elbo.trend
    return (history.objective[-1] if history.objective else -math.inf) if at is None else at.level


def with_elbos(found: Certificate, elbos: Sequence[float], unsettled: int) -> Certificate:
    """The certificate of the best start with the spread of all starts' ELBOs, in nats, `unsettled` of them not converged.

    Two agree where they differ by no more than the gain that does not matter and three of their Monte Carlo errors.

    >>> one = Certificate(Finding.ELBO_LEVEL, elbo=rise(torch.zeros(1000)).elbo)
    >>> print(with_elbos(one, [-10.0, -10.05, -17.0], 0))
    Converged: ... Several optima: the ELBOs of 3 restarts lie 7 nats apart; 2 of them agree with the best to 0.1 nats.
    """
    best = max(elbos)
    error = found.elbo.trend.error if found.elbo is not None and found.elbo.trend is not None else 0.0
    enough = (found.elbo.tolerance if found.elbo is not None else None) or 0.0
    tolerance = max(0.1, enough, 3 * error)
    agree, apart = sum(best - nats <= tolerance for nats in elbos), best - min(elbos)
    return dataclasses.replace(found, restarts=Restarts(len(elbos), agree, apart, tolerance, elbo=True, unsettled=unsettled))
