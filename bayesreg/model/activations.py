"""Priors on a layer's outputs: −log p(activation) is an activity regulariser.

    log-joint  +=  N/B · Σ_batch log p(aᵢ),   aᵢ the named module's output at row i

The penalty is averaged over the rows of a batch and weighted as the data are. It is an assumption about the function at the
training inputs: given these, it multiplies the prior of the weights, and the product is not normalised.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

from bayesreg import _check
from bayesreg.model.spec import PriorRow, checked_rules, describe, match_name
from bayesreg.priors import AbstractElementwisePrior, AbstractPrior
from bayesreg.priors.scaled import AbstractScaledPrior


@dataclasses.dataclass(frozen=True)
class Output:
    """A layer whose output has a prior.

    Attributes:
        name: Dotted module name, "2".
        prior: Its prior, over one row's activation.
        source: The rule that it comes from, in words.
    """

    name: str
    prior: AbstractPrior
    source: str

    @property
    def row(self) -> PriorRow:
        """Its line in the prior table."""
        scale = self.prior.scale_text((), self.name) if isinstance(self.prior, AbstractScaledPrior) else "–"
        return PriorRow(
            f"{self.name} (output)",
            "per row",
            str(self.prior),
            scale,
            self.prior.penalty_text,
            self.source,
            "mean over rows × N",
        )


def resolve(rules: Any, module: nn.Module) -> tuple[Output, ...]:
    """One record for each module whose output gets a prior, in the module's order.

    A pattern is a module's dotted name, a glob, or a module type. The most specific rule wins, and among equals a later one.

    Raises:
        ValueError: If a rule matches no module, or a prior cannot be on an output.
    """
    given = checked_rules(rules or {}, "outputs", "{'2': priors.Laplace(1.0)}")
    names = [name for name, _ in module.named_modules(remove_duplicate=False) if name]
    best: dict[str, tuple[tuple[int, int], Output]] = {}
    used: set[int] = set()
    for i, (pattern, prior) in enumerate(given.items()):
        _check_prior(pattern, prior)
        for name in names:
            rank = _rank(pattern, name, module.get_submodule(name))
            if rank is None:
                continue
            used.add(i)
            if name not in best or rank >= best[name][0]:
                best[name] = (rank, Output(name, prior, describe(pattern)))
    for i, pattern in enumerate(given):
        if i not in used:
            shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
            near = _check.closest(pattern, names) if isinstance(pattern, str) else ""
            raise ValueError(
                f"a rule of outputs must match a module, but {describe(pattern)} matches none{near}; the modules are "
                f"{shown or 'none: the network is a single layer, put it into a Sequential'}."
            )
    return tuple(best[name][1] for name in names if name in best)


def _rank(pattern: Any, name: str, module: nn.Module) -> tuple[int, int] | None:
    if isinstance(pattern, type):
        return (2, len(pattern.__mro__)) if isinstance(module, pattern) else None
    return match_name(pattern, name)


def _check_prior(pattern: Any, prior: Any) -> None:
    if not isinstance(prior, AbstractPrior):
        raise ValueError(
            f"the rule of outputs for {describe(pattern)} must give a prior, but {prior!r} came; write for example "
            "priors.Laplace(1.0)."
        )
    if prior.certain:
        raise ValueError(
            f"a prior on an output must be a density, but {describe(pattern)} has {prior}: an output is no unknown that "
            "could be fixed; take a narrow Normal."
        )
    open_scale = isinstance(prior, AbstractScaledPrior) and (
        prior.hyperprior is not None or prior.fan_in or prior.autoscale or prior.relative_to_noise
    )
    if open_scale or not prior.bounded:
        why = "its scale is no plain number" if open_scale else "its density has a pole"
        raise ValueError(
            f"a prior on an output must be bounded and have plain numbers, but {describe(pattern)} has {prior}: {why}; "
            "write for example priors.Laplace(1.0)."
        )
    if isinstance(pattern, str) and pattern.startswith("@"):
        raise ValueError(f"a pattern of outputs must be a module's name, a glob or a module type, but {pattern!r} is a role.")


@contextlib.contextmanager
def captured(module: nn.Module, outputs: tuple[Output, ...]) -> Iterator[dict[str, list[torch.Tensor]]]:
    """Yields the outputs of the named modules while the block runs, by name, one for each call; hooks are removed afterwards.

    Yields:
        Name to its outputs, one a call.
    """
    found: dict[str, list[torch.Tensor]] = {output.name: [] for output in outputs}
    handles = []
    try:
        for name, seen in found.items():
            handles.append(module.get_submodule(name).register_forward_hook(lambda m, x, out, seen=seen: seen.append(out)))
        yield found
    finally:
        for handle in handles:
            handle.remove()


def log_prob(outputs: tuple[Output, ...], found: Mapping[str, list[torch.Tensor]], num_rows: int) -> torch.Tensor:
    """Log-density of each row's activations as `captured` found them, summed over layers, (B,), in nats.

    Raises:
        ValueError: If a module did not run, or its output is no tensor with one entry a row.
    """
    total: Any = 0.0
    for output in outputs:
        if not found[output.name]:
            raise ValueError(f"a module whose output has a prior must run in each pass, but {output.name} did not.")
        for value in found[output.name]:
            if not isinstance(value, torch.Tensor) or value.dim() == 0 or len(value) != num_rows:
                came = tuple(value.shape) if isinstance(value, torch.Tensor) else type(value).__name__
                raise ValueError(
                    f"an output that has a prior must be a tensor with one entry a row, but {output.name} gave {came} for "
                    f"{num_rows} rows; put the prior on another module."
                )
            try:
                total = total + _rows(output.prior, value)
            except ValueError as error:
                raise ValueError(f"the output of {output.name}, {tuple(value.shape[1:])} a row: {error}") from None
    return total


def check_support(outputs: tuple[Output, ...], found: Mapping[str, list[torch.Tensor]]) -> None:
    """Refuse activations outside the support of their prior: no search could begin there.

    Raises:
        ValueError: If an activation lies outside its prior's support.
    """
    for output in outputs:
        for value in found[output.name]:
            if not bool(torch.isfinite(_rows(output.prior, value)).all()):
                raise ValueError(
                    f"an output must lie in the support of its prior, but {output.name} gave values from "
                    f"{float(value.min()):.3g} to {float(value.max()):.3g} under {output.prior}; take a prior on the real "
                    "line, for example Laplace(1.0), or put this one behind a layer with such outputs (ReLU)."
                )


def _rows(prior: AbstractPrior, value: torch.Tensor) -> torch.Tensor:
    if isinstance(prior, AbstractElementwisePrior):
        return prior.log_normaliser(value.shape[1:]) - prior.energy(value).reshape(len(value), -1).sum(1)
    return torch.vmap(prior.log_prob)(value)


def curvature(prior: AbstractPrior, value: torch.Tensor) -> torch.Tensor:
    """Minus the second derivative of the log-density in each row's activation (B, A), clamped to be positive semidefinite.

    It is a diagonal, (B, A), for an elementwise prior, whose activations come laid flat; else (B, A, A).
    """
    if isinstance(prior, AbstractElementwisePrior):
        with torch.enable_grad():
            value = value.detach().requires_grad_()
            (first,) = torch.autograd.grad(prior.energy(value).sum(), value, create_graph=True)
            if not first.requires_grad:
                return torch.zeros_like(value)
            (second,) = torch.autograd.grad(first.sum(), value, allow_unused=True)
        return torch.zeros_like(value) if second is None else second.clamp_min(0)
    size = value[0].numel()
    full = torch.vmap(torch.func.hessian(prior.penalty))(value).reshape(len(value), size, size)
    levels, vectors = torch.linalg.eigh(full.detach())
    return vectors * levels.clamp_min(0)[:, None, :] @ vectors.mT
