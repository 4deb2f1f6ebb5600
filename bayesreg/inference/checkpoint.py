"""A fit's state on disk: written whole or not at all, taken up only by the very fit that it belongs to."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import torch

from bayesreg.data import Data
from bayesreg.flat import LogJoint


class Checkpoint:
    """One file that holds the last state of a running fit, and goes when the fit is done.

    Args:
        path: Where.
        every: Steps between two states, at least.
        belongs_to: The fingerprint of the fit, see `fingerprint`.

    Raises:
        ValueError: If its folder is not there.
    """

    def __init__(self, path: str | os.PathLike[str], every: int, belongs_to: str) -> None:
        self.path, self.every, self.belongs_to = Path(path), every, belongs_to
        self.last = 0
        if not self.path.absolute().parent.is_dir():
            raise ValueError(
                f"a checkpoint must lie in a folder that is there, but {self.path.absolute().parent} is none; make it, or give "
                "another path."
            )

    def is_due(self, step: int) -> bool:
        """True where enough steps have passed since the last state."""
        return step - self.last >= self.every

    def save(self, state: dict[str, Any]) -> None:
        """Write a state; a process that dies meanwhile leaves the one before."""
        beside = self.path.with_name(f"{self.path.name}.{os.getpid()}.part")
        try:
            torch.save({**state, "belongs to": self.belongs_to}, beside)
            os.replace(beside, self.path)
        finally:
            beside.unlink(missing_ok=True)
        self.last = state["step"]

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """The state on disk, or None where there is none.

        Args:
            device: Where its tensors go.

        Raises:
            ValueError: If the file is no checkpoint, or that of another fit.
        """
        if not self.path.exists():
            return None
        try:
            found = torch.load(self.path, map_location=device, weights_only=True)
            owner = found["belongs to"]
        except Exception as failure:
            raise ValueError(
                f"checkpoint must be a file that a fit has written, but {self.path} is not one ({type(failure).__name__}); "
                "give another path, or delete the file."
            ) from failure
        if owner != self.belongs_to:
            raise ValueError(
                f"a checkpoint must belong to the fit that takes it up, but {self.path} was written with other data, another "
                "model, other settings or another seed; delete the file, or give another path."
            )
        return found

    def done(self) -> None:
        """The fit is over: its state is needed no more."""
        self.path.unlink(missing_ok=True)


def fingerprint(log_joint: LogJoint, start: torch.Tensor, data: Data, settings: str, seed: int) -> str:
    """What two fits must have in common for one to go on where the other stopped.

    Args:
        log_joint: The objective.
        start: Where the fit starts, (P,).
        data: The rows; a loader's are not read.
        settings: The method's.
        seed: The seed.

    Returns:
        A hexadecimal digest.
    """
    model = log_joint.model
    found = hashlib.sha256()
    unknowns = [(name, tuple(latent.shape), str(latent.prior)) for name, latent in model.latents.items()]
    outputs = [(output.name, str(output.prior)) for output in model.outputs]
    certain = model.module.state_dict()  # buffers and frozen parameters among them
    plain = (settings, seed, data.num_data, unknowns, outputs, str(model.likelihood), str(model.module), str(start.dtype))
    found.update(repr(plain).encode())
    for tensor in (start, data.x, data.y, *certain.values(), *model.constants.values()):
        if tensor is not None:
            found.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
