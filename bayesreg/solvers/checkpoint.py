"""A fit's state on disk: written whole or not at all, under a seal, taken up only by the very fit that it belongs to."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bayesreg import _check
from bayesreg.data.rows import Data
from bayesreg.model import architecture
from bayesreg.objective.flat import LogJoint
from bayesreg.storage.files import check_place, locked, probe, replacing, sweep
from bayesreg.storage.schema import plain
from bayesreg.storage.sealed import seal, tensors_in, unseal

FORMAT = 2
PARTS: dict[str, Any] = {
    "step": int,
    "over": bool,
    "stepper": dict,
    "batches": dict,
    "random": torch.Tensor,
    "random of device": list,
    "history": dict,
    "watch": (dict, type(None)),
    "losses": torch.Tensor,
    "belongs to": str,
}


class Checkpoint:
    """One file that holds the last state of a running fit. `opened` makes it.

    Args:
        path: Where.
        every: Steps between two states, at least; None for a twentieth of the fit.
        key: Stands for the rows of a loader; None to read them.

    Attributes:
        last: The step of the last state.
        belongs_to: The fingerprint of the fit, once it is known.
        keep: Whether the file stays though there is a posterior: of a run that was stopped and may go on.
    """

    def __init__(self, path: Path, every: int | None, key: str | None) -> None:
        self.path, self.every, self.key = path, every, key
        self.belongs_to = ""
        self.last = 0
        self.keep = False
        self._warned = False

    def belong(self, log_joint: LogJoint, start: torch.Tensor, data: Data, settings: Any, seed: int, num_steps: int) -> None:
        """Say whose it is, before anything is read or written; arguments as for `fingerprint`.

        Args:
            log_joint: The objective.
            start: Where the fit starts.
            data: The rows.
            settings: The method's.
            seed: The seed.
            num_steps: Steps of the fit.

        Raises:
            ValueError: If a loader's rows cannot be read.
        """
        self.belongs_to = fingerprint(log_joint, start, data, repr(settings), seed, self.key)
        self.every = self.every or max(1, num_steps // 20)

    def is_due(self, step: int) -> bool:
        """True where enough steps have passed since the last state."""
        return step - self.last >= (self.every or 1)

    def check_room(self, state: Any) -> None:
        """Refuse a disk that has no room for two states beside each other; nothing is written.

        Args:
            state: Tensors of a state's size.

        Raises:
            ValueError: If so.
        """
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors_in(state)) + 2**16
        probe(self.path, force=True, room=size if self.path.exists() else 2 * size)

    def save(self, state: dict[str, Any], notes: list[str]) -> None:
        """Write a state; a process that dies meanwhile leaves the one before, and so does a disk that is full by now.

        Args:
            state: The state.
            notes: Where it is told, once, that a state could not be kept.
        """
        try:
            with replacing([self.path], force=True) as (handle,):
                seal(handle, "checkpoint", FORMAT, plain({**state, "belongs to": self.belongs_to}))
        except (OSError, ValueError) as error:  # the answer does not need it
            if not self._warned:
                why = getattr(error, "strerror", None) or str(error)
                said = f"the fit goes on, but its state could not be kept in {self.path} after step {state['step']:,} ({why})."
                notes.append(said)
                warnings.warn(said, stacklevel=2)
            self._warned = True
        else:
            self.last = state["step"]

    def load(self, device: torch.device, stepper: dict[str, Any] | None) -> dict[str, Any] | None:
        """The state on disk, or None where there is none.

        Args:
            device: Where its tensors go.
            stepper: A state of the stepper that will go on, whose tensors tell what those in the file must be; None where they
                grow on the way.

        Returns:
            The state.

        Raises:
            ValueError: If the file is no checkpoint, not as it was written, or that of another fit.
        """
        if not self.path.exists():
            return None
        found = unseal(self.path, "checkpoint", FORMAT, "a fit", "delete it, or give another path")
        if found.get("belongs to") != self.belongs_to:
            raise ValueError(
                f"a checkpoint must belong to the fit that takes it up, but {self.path} was written with other data, another "
                "model, other settings or another seed; delete the file, or give another path."
            )
        same = found.keys() == PARTS.keys() and all(isinstance(found[name], kind) for name, kind in PARTS.items())
        alike = stepper is None or _alike(found["stepper"], stepper)
        if not same or not alike or not _finite(found["stepper"]):
            raise ValueError(f"{str(self.path)!r} must hold the state of this fit, but parts are missing or odd; delete it.")
        return _moved(found, device)


@contextlib.contextmanager
def opened(path: str | os.PathLike[str], every: int | None, key: str | None) -> Iterator[Checkpoint]:
    """A checkpoint for as long as a fit runs: held against other fits, and gone when the fit has given its posterior.

    Args:
        path: Where.
        every: Steps between two states, at least; None for a twentieth of the fit.
        key: Stands for the rows of a loader; None to read them.

    Yields:
        The checkpoint.

    Raises:
        ValueError: If no file can be there, or another fit runs on it.
    """
    place = Path(path).absolute()
    if not place.parent.is_dir():
        raise ValueError(
            f"a checkpoint must lie in a folder that is there, but {place.parent} is none; make it, or give another path."
        )
    check_place(place, force=True)
    if place.is_symlink():
        raise ValueError(f"a checkpoint must be a file of its own, but {place} is a link; give the path that it points to.")
    taken = f"a checkpoint must be that of one fit at a time, but another fit is running on {place}; give each its own path."
    with locked(place, taken):
        sweep(place)
        found = Checkpoint(place, every, key)
        yield found
        if not found.keep:
            place.unlink(missing_ok=True)


def random_states(device: torch.device) -> dict[str, Any]:
    """The parts of a state that say where torch's generators stand, those of a GPU too where the fit is on one."""
    on_device = torch.cuda.get_rng_state_all() if device.type == "cuda" else []
    return {"random": torch.get_rng_state(), "random of device": on_device}


def restore_random(state: dict[str, Any]) -> None:
    """Set torch's generators as `random_states` found them."""
    torch.set_rng_state(state["random"].cpu())
    if state["random of device"]:
        torch.cuda.set_rng_state_all([one.cpu() for one in state["random of device"]])


def check_options(checkpoint: Any, checkpoint_every: Any, checkpoint_key: Any) -> None:
    """Refuse what a method's arguments of these names cannot be.

    Raises:
        ValueError: If so.
    """
    if checkpoint is not None and not isinstance(checkpoint, (str, os.PathLike)):
        raise ValueError(f"checkpoint must be a file's path, but {checkpoint!r} came; pass for example 'fit.pt'.")
    if checkpoint_every is not None:
        _check.count("checkpoint_every", checkpoint_every)
    if checkpoint_key is not None and not isinstance(checkpoint_key, str):
        raise ValueError(f"checkpoint_key must be a text that names the data, but {checkpoint_key!r} came; pass 'sales 2024'.")
    for name, value in (("checkpoint_every", checkpoint_every), ("checkpoint_key", checkpoint_key)):
        if value is not None and checkpoint is None:
            raise ValueError(f"{name} must come with checkpoint, the file, but it came alone; give both, or neither.")


def fingerprint(log_joint: LogJoint, start: torch.Tensor, data: Data, settings: str, seed: int, key: str | None = None) -> str:
    """What two fits must have in common for one to go on where the other stopped.

    Args:
        log_joint: The objective.
        start: Where the fit starts, (P,).
        data: The rows. A loader's are read in one pass, in whatever order they come; that leaves no trace in random states.
        settings: The method's.
        seed: The seed.
        key: Stands for a loader's rows, which are then not read.

    Returns:
        A hexadecimal digest.

    Raises:
        ValueError: If a loader's rows cannot be read.
    """
    model = log_joint.model
    unknowns = [(name, tuple(latent.shape), str(latent.prior)) for name, latent in model.latents.items()]
    outputs = [(output.name, str(output.prior)) for output in model.outputs]
    certain = [*model.module.named_buffers(), *model.module.named_parameters()]
    tensors = [("start", start), *certain, *model.constants.items()]
    if data.loader is None:
        tensors += [(name, rows) for name, rows in (("x", data.x), ("y", data.y)) if rows is not None]
        rows = ""
    else:
        rows = f"key {key}" if key is not None else _rows_of(data)
    plain = (
        *(settings, seed, data.num_data, unknowns, outputs, str(model.likelihood), rows),
        architecture.digest(architecture.describe(model)),
        [(name, tuple(tensor.shape), str(tensor.dtype), architecture.hash_of(tensor)) for name, tensor in tensors],
    )
    return hashlib.sha256(repr(plain).encode()).hexdigest()


def _rows_of(data: Data) -> str:
    """A digest of a loader's rows that does not depend on their order: the sum of the digests of each.

    Raises:
        ValueError: If they cannot be read.
    """
    total, count = 0, 0
    with _without_trace(data.loader):
        try:
            for x, y in data.epoch():
                parts = [part.detach().cpu().contiguous().reshape(len(part), -1) for part in (x, y)]
                rows = np.hstack([part.view(torch.uint8).numpy() for part in parts])
                for row in rows:
                    total += int.from_bytes(hashlib.sha256(row).digest())
                count += len(rows)
        except ValueError:
            raise
        except Exception as error:  # the person's loader: whatever it raises
            raise ValueError(
                f"every row must be readable, so that a checkpoint can tell other rows from these, but after {count:,} rows "
                f"the loader raised {type(error).__name__}: {error}; mend it, or give checkpoint_key, a text that names them."
            ) from error
    return f"{count} rows {total % 2**256:064x}"


@contextlib.contextmanager
def _without_trace(loader: Any) -> Iterator[None]:
    """Every random state that a pass over a loader may use is afterwards as it was."""
    owned = [getattr(part, "generator", None) for part in (loader, loader.sampler, loader.batch_sampler)]
    kept = [(found, found.get_state()) for found in owned if isinstance(found, torch.Generator)]
    before, numpys = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(before)
        np.random.set_state(numpys)
        for found, state in kept:
            found.set_state(state)


def _alike(found: Any, own: Any) -> bool:
    """True where two nested states have the same parts, and the one's tensors the other's shapes and types."""
    if isinstance(own, torch.Tensor):
        return isinstance(found, torch.Tensor) and found.shape == own.shape and found.dtype == own.dtype
    if isinstance(own, dict):
        return isinstance(found, dict) and found.keys() == own.keys() and all(_alike(found[key], own[key]) for key in own)
    if isinstance(own, list):
        return isinstance(found, list) and len(found) == len(own) and all(map(_alike, found, own))
    return type(found) is type(own)


def _finite(found: dict[str, Any]) -> bool:
    """True where what is learned is finite; buffers may hold infinities."""
    learned = {name: value for name, value in found.items() if name != "buffers"}
    return all(bool(tensor.isfinite().all()) for tensor in tensors_in(learned))


def _moved(content: Any, device: torch.device) -> Any:
    if isinstance(content, torch.Tensor):
        return content.to(device)
    if isinstance(content, dict):
        return {key: _moved(value, device) for key, value in content.items()}
    return [_moved(value, device) for value in content] if isinstance(content, list) else content
