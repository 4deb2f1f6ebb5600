"""A mode that predicts the same for every row: how it is recognised, what caused it, and other starts.

A prior whose sd times √fan_in is far below one shrinks a layer's output; after a few layers nothing is left for the data to
act on, and all weights at zero are a mode. There may be a higher one. It is found by a start with more weight on the data:
log p(θ) + T · log p(y | θ) with T = 10, and from there with T = 1.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math

import torch

from bayesreg._memory import together
from bayesreg.certificates.certificate import Certificate
from bayesreg.certificates.values import Alike
from bayesreg.data.rows import Data
from bayesreg.model import prior_predictive
from bayesreg.model.model import BayesianModel
from bayesreg.objective.affine import is_affine
from bayesreg.objective.flat import LogJoint
from bayesreg.objective.whole import gradient_of, in_double
from bayesreg.solvers.base import AbstractSolver, Problem, Solution
from bayesreg.solvers.choice import Searched
from bayesreg.solvers.failures import FitError
from bayesreg.solvers.history import History
from bayesreg.solvers.restarts import starts
from bayesreg.solvers.stepwise import Adam

_ROWS = 256
_ALIKE = 1e-6  # of the outputs' own size, or of one where they are smaller
_WEIGHT = 10  # T


def says_the_same(log_joint: LogJoint, u: torch.Tensor, data: Data) -> bool:
    """True where at the point `u`, (P,), the outputs of the first rows are equal, though inputs and targets differ."""
    x, y = next(data.epoch(_ROWS))
    x, y = x[:_ROWS], y[:_ROWS]
    if len(x) < 2 or bool((x == x[:1]).all()) or bool((y == y[:1]).all()):
        return False
    with torch.no_grad():
        output = log_joint.model.forward(log_joint.layout.unflatten(u), x).double()
    return bool(((output - output[:1]).abs() <= _ALIKE * output.abs().amax().clamp_min(1.0)).all())


def escaped(searched: Searched, history: History) -> tuple[Solution, int | None]:
    """The best of a search that ended with equal outputs and of two that start elsewhere, and how many these are.

    They start where the first one did and at a fresh draw, each after steps with more weight on the data; `history` notes them.
    Returned are the best and the number of the others: none where the mode is known to be unique. None in its place where
    outputs are not equal, or where the search was not for a mode.
    """
    problem, solver, start, own = searched
    options, data = problem.options, problem.data
    first = LogJoint(own.model)
    if own.exact or options.num_restarts > 1 or problem.held_out is not None or not says_the_same(first, own.u, data):
        return own, None
    convex = first.model.likelihood.log_concave and is_affine(first, data)
    if data.x is None or not solver.local or convex:
        return own, 0
    quiet = dataclasses.replace(problem, options=dataclasses.replace(options, checkpoint=None, compile=False))
    heavier = dataclasses.replace(quiet, data=dataclasses.replace(data, num_data=_WEIGHT * data.num_data))

    def again(way: AbstractSolver, problem: Problem, begun: torch.Tensor) -> Solution:
        return way.solve(problem, begun, History(), lambda step, total, nats: None)

    def value(found: Solution) -> float:
        return gradient_of(*in_double(LogJoint(found.model), found.u, data), jacobian=options.jacobian)[0]

    found, nats = [own], [value(own)]
    for begun in (start, starts(first, *next(data.epoch()), 1)[0]):
        with contextlib.suppress(FitError):
            found.append(again(solver, quiet, again(Adam(), heavier, begun).u))
            nats.append(value(found[-1]))
    best = max(range(len(nats)), key=nats.__getitem__)
    rise = nats[best] - nats[0]
    best = best if rise > max(0.1, 0.005 * len(start)) else 0
    taken = f"the best is {rise:.3g} nats higher and is taken" if best else "none leads higher"
    history.notes.append(
        f"the search ended where the prediction is the same for every row; {len(found) - 1} other starts were tried: {taken}."
    )
    return found[best], len(found) - 1


def with_word(certificate: Certificate, model: BayesianModel, tried: int) -> Certificate:
    """The certificate of a point that predicts the same for every row, with `alike`: the prior that causes it.

    `tried` is the number of other starts that led no higher.
    """
    found = Alike(tried, _WEIGHT)
    if (narrow := narrowest(model)) is not None:
        name, gain = narrow
        prior = next(r for r in model.resolved if r.name == name).specified
        found = Alike(tried, _WEIGHT, name, str(prior), gain)
    return dataclasses.replace(certificate, alike=found)


def narrowest(model: BayesianModel) -> tuple[str, float] | None:
    """The weight whose prior shrinks its layer's output most, by sd · √fan_in, and that factor; None where none shrinks."""
    drawn = {name: latent for name, latent in model.latents.items() if latent.prior.proper and not latent.parents}
    values = together(prior_predictive.in_blocks(drawn, model.like, 16, 0))
    gains = {
        name: float(v.double().square().mean().sqrt()) * math.sqrt(v[0].numel() / len(v[0]))
        for name, v in values.items()
        if v.dim() > 2  # two axes or more, besides that of the draws
    }
    name = min(gains, key=gains.__getitem__, default=None)
    return None if name is None or gains[name] >= 1 else (name, gains[name])
