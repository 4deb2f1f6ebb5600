"""Other starts of a fit than the module's own weights, as its layers draw them anew, and the best of the fits from them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from bayesreg.data.rows import Data
from bayesreg.layers.copying import copied
from bayesreg.model.model import BayesianModel
from bayesreg.objective.flat import LogJoint
from bayesreg.objective.whole import gradient_of, in_double
from bayesreg.solvers.batched import fit_many
from bayesreg.solvers.history import History
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
    return torch.stack([layout.flatten(_anew(model).start(x, y)) for _ in range(count)])


def best_of_many(
    log_joint: LogJoint,
    own: tuple[LogJoint, torch.Tensor],
    data: Data,
    count: int,
    batch_size: int | None,
    finish: Callable[[torch.Tensor], torch.Tensor] | None,
    history: History,
    report: ProgressCallback,
    *,
    num_steps: int | None,
    learning_rate: float | None,
    jacobian: bool,
) -> tuple[LogJoint, torch.Tensor, list[float]]:
    """The best of the fit from the module's own weights and of fits from other starts, and all their log-joints in nats.

    Each log-joint is with the fit's own running statistics, if there are any; every fit starts from those of the module.

    Args:
        log_joint: The objective, before any fit.
        own: The fit from the module's own weights.
        data: The rows, in memory.
        count: Fits, the own one among them.
        batch_size: Rows a step, or None.
        finish: From where steps ended to a mode, or None.
        history: Where it is noted.
        report: Hears of the steps.
        num_steps: Adam's steps; when None 2,000, or 30 epochs.
        learning_rate: Adam's first rate; 0.01 when None.
        jacobian: As for `MAP`.

    Returns:
        Objective and point of the best, and the log-joint of each.

    Raises:
        ValueError: If the model is none for many fits at once.
    """
    found, others, models = fit_many(
        log_joint,
        starts(log_joint, *next(data.epoch()), count - 1),
        data,
        num_steps=num_steps or max(2000, 30 * data.steps_an_epoch(batch_size)),
        learning_rate=learning_rate or 0.01,
        batch_size=batch_size,
        jacobian=jacobian,
        generator=torch.Generator().manual_seed(torch.initial_seed()),
        report=report,
        history=History(),
    )
    if finish is not None:
        found = torch.stack([finish(u) for u in found])
        others = [gradient_of(*in_double(log_joint, u, data), jacobian=jacobian)[0] for u in found]
    nats = [gradient_of(*in_double(*own, data), jacobian=jacobian)[0], *map(float, others)]
    best = max(range(len(nats)), key=nats.__getitem__)
    history.notes.append(
        f"{count} starts: number {best + 1} is the best; {max(nats) - min(nats):.3g} nats between the best and the worst."
    )
    return (*(own if best == 0 else (LogJoint(models[best - 1]), found[best - 1])), nats)


def _anew(model: BayesianModel) -> BayesianModel:
    """The same model with weights as `reset_parameters` draws them; other ones are shuffled, with random signs."""
    fresh = copied(model.module)
    drawn: set[int] = set()
    for module in fresh.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
            drawn |= {id(parameter) for parameter in module.parameters(recurse=False)}
    with torch.no_grad():
        for parameter in fresh.parameters():
            if id(parameter) not in drawn:
                _shuffle(parameter)
    return model.with_module(fresh)


def _shuffle(parameter: nn.Parameter) -> None:
    order = torch.randperm(parameter.numel()).to(parameter.device)
    signs = (2 * torch.randint(2, (parameter.numel(),)) - 1).to(parameter)
    parameter.copy_((parameter.reshape(-1)[order] * signs).view(parameter.shape))
