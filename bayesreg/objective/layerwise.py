"""What a layer sees and what comes back to it: its inputs aᵣ and the gradients gᵣ at its outputs, row by row.

    ∂f/∂W = Σᵣ gᵣ aᵣᵀ

with r over the places where a layer's weights act: positions of a sequence or image, and repeated calls.

For Linear and convolutional layers the derivative of every row is this product, so that diagonals and Kronecker factors need no
Jacobian.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator

import torch
from torch import nn

from bayesreg.data.rows import Data
from bayesreg.objective.curvature import noisy_entries
from bayesreg.objective.flat import FlatLayout, LogJoint, Segment

_ENTRIES = 2**23  # numbers that the layers' inputs and gradients may take at once
_TRIED = 8  # rows on which a layer's product is compared with its derivative
_WRONG = 1e-3  # relative; float32 stays far below

Root = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""From outputs (B, K) in the likelihood's shape and targets to S (B, C, K), with SᵀS each row's curvature in its output."""


@dataclasses.dataclass(frozen=True)
class Layer:
    """A layer whose weights have their derivative by the product of gradients and inputs.

    Attributes:
        name: Its dotted name; empty for the network itself.
        weight: Where its weights lie, (O, ...); None where they are no unknowns.
        bias: Where its bias lies.
        outputs: O.
        inputs: I, of one place.
    """

    name: str
    weight: Segment
    bias: Segment | None
    outputs: int
    inputs: int

    @property
    def index(self) -> torch.Tensor:
        """Where (O, I) weights, with the bias as a last column, lie in the vector, row by row."""
        found = torch.arange(self.weight.start, self.weight.stop).reshape(self.outputs, -1)
        if self.bias is None:
            return found.reshape(-1)
        return torch.cat([found, torch.arange(self.bias.start, self.bias.stop)[:, None]], 1).reshape(-1)


@dataclasses.dataclass(frozen=True)
class Seen:
    """One layer over the rows of one batch.

    Attributes:
        inputs: (B, R, I), with a last column of ones where there is a bias.
        gradients: (C, B, R, O), one for each row of the root of the curvature in the output.
    """

    inputs: torch.Tensor
    gradients: torch.Tensor


def layers_of(log_joint: LogJoint, u: torch.Tensor, data: Data, root: Root) -> list[Layer]:
    """The layers of a network whose derivatives are such products, each compared with its derivative on a few rows.

    Linear, Conv1d and Conv2d (no groups, zero padding in numbers); weights that are used elsewhere too fail the comparison.
    """
    model, layout = log_joint.model, log_joint.layout
    found = []
    for name, module in model.to_run().named_modules():
        if not _is_plain(module):
            continue
        weight, bias = (_own(model.places.get(f"{name}.{part}" if name else part), layout) for part in ("weight", "bias"))
        if weight is not None:
            outputs = weight.latent.shape[0]
            found.append(Layer(name, weight, bias, outputs, weight.latent.shape[1:].numel()))
    x, y = next(data.epoch(_TRIED))
    return [layer for layer in found if _holds(log_joint, u, x, y, layer, root)]


def _own(name: str | None, layout: FlatLayout) -> Segment | None:
    """The segment of a weight that is no transform of the vector."""
    segment = None if name is None else layout.segments.get(name)
    if name is None or segment is None or segment.transform is not None or not segment.latent.centered:
        return None
    return segment


def _is_plain(module: nn.Module) -> bool:
    if type(module) is nn.Linear:
        return True
    if not isinstance(module, (nn.Conv1d, nn.Conv2d)) or type(module) not in (nn.Conv1d, nn.Conv2d):
        return False
    return module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str)


def _unfolded(module: nn.Module, value: torch.Tensor) -> torch.Tensor:
    """The inputs of a layer's places, (B, R, I)."""
    if isinstance(module, nn.Linear):
        return value.reshape(len(value), -1, value.shape[-1])
    options = {"dilation": module.dilation, "padding": module.padding, "stride": module.stride}
    if isinstance(module, nn.Conv1d):
        first = {"dilation": 1, "padding": 0, "stride": 1}
        options = {k: (first[k], v[0]) for k, v in options.items()}  # pyright: ignore[reportIndexIssue]
        return nn.functional.unfold(value[:, :, None], (1, module.kernel_size[0]), **options).mT  # pyright: ignore
    return nn.functional.unfold(value, module.kernel_size, **options).mT  # pyright: ignore


def _by_place(module: nn.Module, value: torch.Tensor) -> torch.Tensor:
    """The outputs of a layer's places, (B, R, O)."""
    if isinstance(module, nn.Linear):
        return value.reshape(len(value), -1, value.shape[-1])
    return value.flatten(2).mT


@contextlib.contextmanager
def _heard(modules: dict[str, nn.Module]) -> Iterator[dict[str, list[tuple[torch.Tensor, torch.Tensor]]]]:
    """Yields what goes in and out of each module while the block runs, a pair a call; hooks are removed afterwards.

    Yields:
        Name to pairs.
    """
    found: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {name: [] for name in modules}
    handles = []
    try:
        for name, seen in found.items():

            def hook(_: nn.Module, given: tuple, output: torch.Tensor, seen: list = seen) -> torch.Tensor:
                seen.append((given[0].detach(), output))
                return output.clone()  # what comes next may work in place

            handles.append(modules[name].register_forward_hook(hook))
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _run(
    log_joint: LogJoint, u: torch.Tensor, x: torch.Tensor, y: torch.Tensor, layers: list[Layer], root: Root, first: int | None
) -> tuple[dict[str, Seen], torch.Tensor, torch.Tensor, torch.Tensor]:
    """What the layers see, a leaf at u, the output (B, K) as a function of it, and the root (B, C, K).

    Only the first so many rows have an output's gradient, all when None.
    """
    model = log_joint.model
    modules = dict(model.to_run().named_modules())
    with torch.enable_grad(), _heard({layer.name: modules[layer.name] for layer in layers}) as heard:
        w = u.detach().requires_grad_()
        output = model.forward(log_joint.layout.unflatten(w), x)
        flat = output.reshape(len(x), -1)
    slopes = root(output.detach(), y)
    if first is not None:
        slopes = torch.cat([slopes[:first], torch.zeros_like(slopes[first:])])
    outputs = [out for calls in heard.values() for _, out in calls]
    pulled = [
        torch.autograd.grad(flat, outputs, slopes[:, c], retain_graph=True, allow_unused=True) for c in range(slopes.shape[1])
    ]
    found, start = {}, 0
    for layer in layers:
        module, calls = modules[layer.name], heard[layer.name]
        inputs = torch.cat([_unfolded(module, given) for given, _ in calls], 1)
        if layer.bias is not None:
            inputs = torch.cat([inputs, inputs.new_ones(*inputs.shape[:2], 1)], 2)
        gradients = []
        for of_one in pulled:
            own = [
                _by_place(module, torch.zeros_like(out) if g is None else g)
                for (_, out), g in zip(calls, of_one[start : start + len(calls)], strict=True)
            ]
            gradients.append(torch.cat(own, 1))
        found[layer.name] = Seen(inputs, torch.stack(gradients))
        start += len(calls)
    return found, w, flat, slopes


def _holds(log_joint: LogJoint, u: torch.Tensor, x: torch.Tensor, y: torch.Tensor, layer: Layer, root: Root) -> bool:
    """Whether gradients times inputs are a layer's derivative, and a row's gradient is at that row's place."""
    first = (len(x) + 1) // 2
    try:
        seen, w, flat, slopes = _run(log_joint, u, x, y, [layer], root, first)
        (whole,) = torch.autograd.grad(flat, w, slopes.sum(1))
        one = seen[layer.name]
        product = torch.einsum("cbro,bri->oi", one.gradients, one.inputs).reshape(-1)
    except (RuntimeError, ValueError, IndexError):  # a layer whose input is no batch of rows, or that was not called
        return False
    exact = whole[layer.index.to(whole.device)]
    size = float(exact.abs().max())
    if one.inputs.shape[0] != len(x) or float((product - exact).abs().max()) > _WRONG * size:
        return False
    return len(x) == 1 or not bool(one.gradients[:, first:].any())


def seen_by(log_joint: LogJoint, u: torch.Tensor, data: Data, layers: list[Layer], root: Root) -> Iterator[dict[str, Seen]]:
    """What the layers see of all rows, batch after batch, by name.

    Args:
        log_joint: The objective.
        u: (P,).
        data: Prepared rows.
        layers: From `layers_of`.
        root: Of the curvature in the output.

    Yields:
        Name to what it saw.
    """
    x, y = next(data.epoch(1))
    trial = _run(log_joint, u, x[:1], y[:1], layers, root, None)[0]
    width = sum(one.inputs.numel() + one.gradients.numel() for one in trial.values())
    for x, y in data.epoch(max(1, min(1024, _ENTRIES // max(1, width)))):
        yield _run(log_joint, u, x, y, layers, root, None)[0]


def others(log_joint: LogJoint, layers: list[Layer]) -> torch.Tensor:
    """Numbers of the unknowns of the network that belong to none of these layers."""
    rest = torch.ones(log_joint.layout.size, dtype=torch.bool)
    rest[noisy_entries(log_joint)] = False
    for layer in layers:
        rest[layer.index] = False
    return torch.nonzero(rest)[:, 0]
