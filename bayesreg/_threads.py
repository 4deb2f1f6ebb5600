"""State that threads would share, and how each gets its own: a module's weights, torch's generator, other packages' settings.

Predictions may run side by side. `torch.func.functional_call` puts weights into a module for the time of a pass, so each
thread runs its own copy (`own`), and each prediction draws from its own generator (`drawing`). A fit draws from torch's
global generator, as dropout layers and loaders do. Seeding it takes one lock (`seeded`), so fits wait for each other.
Matplotlib's settings and the warning filters belong to the whole process too, and have a lock (`settings`).
"""

from __future__ import annotations

import copy
import os
import random
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

_LOCKS: dict[tuple[str, int], Any] = {}
_DRAWS: dict[Any, bool] = {}  # whether an operation of torch's draws random numbers


def _lock(name: str) -> Any:
    """This process's lock of a name. After a fork a new one is made: the child must not wait for a thread it does not have."""
    return _LOCKS.setdefault((name, os.getpid()), threading.RLock())


class _Copies(threading.local):
    """One thread's copies, by the id of the module that each stands for."""

    def __init__(self) -> None:
        self.found: dict[int, tuple[weakref.ref[nn.Module], nn.Module]] = {}


_COPIES = _Copies()


def own(module: nn.Module) -> nn.Module:
    """This thread's copy of a module, which shares its tensors: to be run in the module's place.

    The module itself is never run, so no thread finds another's weights in it. Its layers must not change afterwards; its
    numbers may, in place. The copy lives as long as the module and the thread; copying, pickling or saving a model leaves it
    out.

    >>> layer = nn.Linear(2, 1)
    >>> own(layer) is own(layer), own(layer) is layer, own(layer).weight is layer.weight
    (True, False, True)
    """
    key, found = id(module), _COPIES.found
    entry = found.get(key)
    if entry is not None and entry[0]() is module:
        return entry[1]
    made = sharing(module)
    found[key] = (weakref.ref(module, lambda _: found.pop(key, None)), made)
    return made


def sharing(module: nn.Module) -> nn.Module:
    """A copy of a module's structure around the very same tensors."""
    layers = list(module.modules())
    tensors = [value for layer in layers for value in vars(layer).values() if isinstance(value, torch.Tensor)]
    tensors += [
        value for layer in layers for value in (*layer._parameters.values(), *layer._buffers.values()) if value is not None
    ]
    with torch._C._DisableFuncTorch():  # a first pass may be one of vmap's, whose tensors must not stay in the copy
        return copy.deepcopy(module, {id(tensor): tensor for tensor in tensors})


@contextmanager
def settings() -> Iterator[None]:
    """Let one thread at a time change settings of the whole process (warnings, Matplotlib) and put them back."""
    with _lock("settings"):
        yield


@contextmanager
def of_pyro() -> Iterator[None]:
    """Let one thread at a time change Pyro's settings and its stack of handlers."""
    with _lock("pyro"):
        yield


@contextmanager
def importing() -> Iterator[None]:
    """Leave Python's own random state as it was: Rich, which scikit-learn loads, draws numbers at import."""
    before = random.getstate()
    try:
        yield
    finally:
        random.setstate(before)


@contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """Seed torch's global generators of the CPU and of `device` inside the block, and restore them after it.

    One thread at a time: others wait, and find the generators as they were.
    """
    # not torch.manual_seed: it would seed every device, also those whose state is not put back
    index = (torch.cuda.current_device() if device.index is None else device.index) if device.type == "cuda" else None
    with _lock("generator"), torch.random.fork_rng(devices=[] if index is None else [index]):
        torch.default_generator.manual_seed(seed)
        if index is not None:
            torch.cuda.default_generators[index].manual_seed(seed)
        yield


class drawing(TorchDispatchMode):
    """Seed every draw of this thread inside the block; torch's global generators are not touched.

    The numbers are those that `seeded` gives. Each operation inside costs some microseconds more. An operation that takes no
    generator draws from the global one, seeded for it alone. Entered again, the stream continues where it stopped.

    Args:
        seed: The seed.

    >>> before, generator = torch.get_rng_state(), torch.Generator().manual_seed(0)
    >>> with drawing(0):
    ...     inside = torch.rand(3)
    >>> torch.equal(inside, torch.rand(3, generator=generator)), torch.equal(before, torch.get_rng_state())
    (True, True)
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.seed, self.generators = seed, {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func not in _DRAWS:
            _DRAWS[func] = torch.Tag.nondeterministic_seeded in func.tags
        if not _DRAWS[func] or kwargs.get("generator") is not None:
            return func(*args, **kwargs)
        device = next((value.device for value in args if isinstance(value, torch.Tensor)), None)
        generator = self._of(torch.device(kwargs.get("device") or device or "cpu"))
        taking = _taking_generator(func)
        if taking is not None:
            place = [argument.name for argument in taking._schema.arguments].index("generator")
            if place < len(args):  # passed by position, as None
                return taking(*args[:place], generator, *args[place + 1 :], **kwargs)
            return taking(*args, **{**kwargs, "generator": generator})
        seed = int(torch.randint(2**62, (), generator=self._of(torch.device("cpu"))))
        with seeded(generator.device, seed):
            return func(*args, **kwargs)

    def _of(self, device: torch.device) -> torch.Generator:
        if device not in self.generators:
            self.generators[device] = torch.Generator(device).manual_seed(self.seed)
        return self.generators[device]


def _taking_generator(func: Any) -> Any:
    """The same operation with a generator among its arguments, or None where torch has none."""
    if any(argument.name == "generator" for argument in func._schema.arguments):
        return func
    packet, name = func.overloadpacket, func._schema.overload_name
    names = ("generator", f"{name}_generator", name.replace("low", "low_generator"))
    wanted = len(func._schema.arguments) + 1
    for other in names:
        if other in packet.overloads() and len(getattr(packet, other)._schema.arguments) == wanted:
            return getattr(packet, other)
    return None
