"""Other starts of a fit than the module's own weights, as its layers draw them anew, and the best of the fits from them."""

from __future__ import annotations

import torch
from torch import nn

from bayesreg.data.rows import Data
from bayesreg.layers.copying import copied
from bayesreg.model.model import BayesianModel
from bayesreg.objective.batched import check_replicable
from bayesreg.objective.flat import LogJoint
from bayesreg.objective.whole import gradient_of, in_double
from bayesreg.solvers.base import Solution
from bayesreg.solvers.batched import fit_many
from bayesreg.solvers.choice import Searched
from bayesreg.solvers.failures import keeping
from bayesreg.solvers.history import History
from bayesreg.solvers.options import SearchOptions
from bayesreg.solvers.progress import ProgressCallback


def starts(log_joint: LogJoint, x: torch.Tensor, y: torch.Tensor, count: int) -> torch.Tensor:
    """Where each of several fits begins; random numbers come from torch's global generator.

    Args:
        log_joint: The objective.
        x: A few prepared inputs, for a first guess of the noise.
        y: Their targets.
        count: How many, R.

    Returns:
        (R, P) unconstrained.
    """
    model, layout = log_joint.model, log_joint.layout
    return torch.stack([layout.flatten(fresh(model).start(x, y)) for _ in range(count)])


def check_restarts(log_joint: LogJoint, data: Data, options: SearchOptions) -> None:
    """Refuse several starts before the first search, not after it.

    Args:
        log_joint: The objective.
        data: The rows.
        options: The settings.

    Raises:
        ValueError: If the model or the settings are none for many fits at once.
    """
    given = [name for name in ("validation_fraction", "checkpoint") if getattr(options, name) is not None]
    if given:
        raise ValueError(
            f"num_restarts={options.num_restarts} compares searches by their log-joint on all rows, but {given[0]} came too; "
            "leave one of the two out."
        )
    check_replicable(log_joint)
    data.full("a fit from several starts")


def best_of_many(searched: Searched, own: Solution, history: History, report: ProgressCallback) -> tuple[Solution, list[float]]:
    """The best of the fit from the module's own weights and of fits from other starts, and all their log-joints in nats.

    Each log-joint is with the fit's own running statistics, if there are any; every fit starts from those of the module.
    Where the solver finishes, the others go on to their own mode by it, so that they can be told apart.

    Args:
        searched: What was solved, and how.
        own: The fit from the module's own weights.
        history: Where it is noted.
        report: Hears of the steps.

    Returns:
        The best, and the log-joint of each.

    Raises:
        ValueError: If the model is none for many fits at once.
        FitError: If one of them cannot go on; the fit from the module's own weights is in it.
    """
    problem, solver, _, _ = searched
    log_joint, data, options = problem.log_joint, problem.data, problem.options
    value = lambda one, u: gradient_of(*in_double(one, u, data), jacobian=options.jacobian)[0]  # noqa: E731
    with keeping(lambda failure: own):
        found, others, models = fit_many(
            log_joint,
            starts(log_joint, *next(data.epoch()), options.num_restarts - 1),
            data,
            num_steps=options.num_steps or max(2000, 30 * data.steps_an_epoch(problem.batch_size)),
            learning_rate=options.learning_rate or 0.01,
            batch_size=problem.batch_size,
            jacobian=options.jacobian,
            generator=torch.Generator().manual_seed(torch.initial_seed()),
            report=report,
            history=History(),
        )
        ended = [end for u in found if (end := solver.finish(problem, u)) is not None]
        if ended:
            found = torch.stack(ended)
            others = [value(log_joint, u) for u in found]
    nats = [value(LogJoint(own.model), own.u), *map(float, others)]
    best = max(range(len(nats)), key=nats.__getitem__)
    history.notes.append(
        f"{len(nats)} starts: number {best + 1} is the best; {max(nats) - min(nats):.3g} nats between the best and the worst."
    )
    return own if best == 0 else Solution(found[best - 1], models[best - 1], own.trend), nats


def fresh(model: BayesianModel) -> BayesianModel:
    """The same model with weights as `reset_parameters` draws them; other ones are shuffled, with random signs."""
    made = copied(model.module)
    drawn: set[int] = set()
    for module in made.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
            drawn |= {id(parameter) for parameter in module.parameters(recurse=False)}
    with torch.no_grad():
        for parameter in made.parameters():
            if id(parameter) not in drawn:
                _shuffle(parameter)
    return model.with_module(made)


def _shuffle(parameter: nn.Parameter) -> None:
    order = torch.randperm(parameter.numel()).to(parameter.device)
    signs = (2 * torch.randint(2, (parameter.numel(),)) - 1).to(parameter)
    parameter.copy_((parameter.reshape(-1)[order] * signs).view(parameter.shape))
