"""Private copies of modules: without wrappers such as torch.compile, and also where torch's own deepcopy fails."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, TypeVar

import torch
from torch import nn

M = TypeVar("M", bound=nn.Module)

_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def bare(module: nn.Module) -> nn.Module:
    """The module without wrappers: `torch.compile` and `DataParallel` run the same function under longer names.

    It is the module itself where there is no wrapper inside; else the wrapped one, or a copy with wrappers inside replaced.

    Raises:
        ValueError: If the module, or one inside, is scripted or traced: its weights cannot be replaced.
    """
    module = _unwrapped(module)
    for name, layer in module.named_modules():
        if isinstance(layer, torch.jit.ScriptModule):
            which = f"{name} is" if name else "it is"
            raise ValueError(
                f"a module must let its weights be replaced, but {which} a {type(layer).__name__} (torch.jit.script or trace), "
                "which holds them; pass the module that it was made from."
            )
    if all(_unwrapped(layer) is layer for layer in module.modules()):
        return module
    module = copied(module)
    for parent in list(module.modules()):
        for name, child in list(parent._modules.items()):
            if child is not None and _unwrapped(child) is not child:
                setattr(parent, name, _unwrapped(child))
    return module


def _unwrapped(module: nn.Module) -> nn.Module:
    inside = module
    while inside is not None:
        module = inside
        # by name: importing the compiler for this check takes seconds
        inside = module._modules.get("_orig_mod") if type(module).__name__ == "OptimizedModule" else None
        inside = module.module if isinstance(module, _PARALLEL) else inside
    return module


def copied(module: M, shared: Iterable[torch.Tensor] = ()) -> M:
    """A deep copy, also of a module that holds tensors with a history, as the hooks of old weight normalisations leave them.

    Such a tensor was computed from parameters, and is recomputed at the next pass; the copy holds its numbers. Tensors in
    `shared` are not copied.
    """
    known: dict[int, Any] = {id(tensor): tensor for tensor in shared}
    for owner in module.modules():
        for value in [*vars(owner).values(), *owner._buffers.values()]:
            for tensor in value if isinstance(value, (list, tuple)) else [value]:
                if isinstance(tensor, torch.Tensor) and not _is_plain(tensor):
                    known[id(tensor)] = _numbers(tensor)
    return copy.deepcopy(module, known)


def evaluated(module: M) -> M:
    """A copy in evaluation mode.

    Recurrent layers without dropout are the same in both modes, and stay in training mode: cuDNN supports their backward pass
    in no other.
    """
    made = copied(module).eval()
    for layer in made.modules():
        if isinstance(layer, nn.RNNBase) and not layer.dropout:
            layer.train()
    return made


def _is_plain(tensor: torch.Tensor) -> bool:
    return tensor.is_leaf and not torch._C._functorch.is_functorch_wrapped_tensor(tensor)  # pyright: ignore[reportAttributeAccessIssue]


def _numbers(tensor: torch.Tensor) -> torch.Tensor:
    try:
        return tensor.detach().clone()
    except RuntimeError:  # a hook ran under vmap and left a dead tensor behind
        return torch.empty(0)
