"""What rows of a fit bring along besides inputs and targets: how often they count, and a known part of the output.

w · log p(y | f(x) + o)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from bayesreg.data.arrays import as_tensor


@dataclass(frozen=True)
class RowTerms:
    """Weights and offsets of the N rows of a fit.

    Attributes:
        weight: (N,), >= 0, or None where each row counts once.
        offset: (N,) or (N, K), or None where nothing is known of the output.

    >>> rows = (torch.zeros(2, 1), torch.zeros(2))
    >>> bool(RowTerms.checked(rows, None, None)), RowTerms.checked(rows, [1.0, 2.0], None).weight.tolist()
    (False, [1.0, 2.0])
    """

    weight: torch.Tensor | None = None
    offset: torch.Tensor | None = None

    def __bool__(self) -> bool:
        return self.weight is not None or self.offset is not None

    @classmethod
    def checked(cls, came: Any, sample_weight: Any, offset: Any) -> RowTerms:
        """Weights and offsets that fit the rows, a pair (x, y) or a loader.

        Raises:
            ValueError: If they do not fit, or come with a loader.
        """
        if sample_weight is None and offset is None:
            return cls()
        if not isinstance(came, tuple):
            raise ValueError(
                "sample_weight and offset must come with rows in memory, but X is a DataLoader; pass X and y as arrays."
            )
        found = {}
        for name, values in (("sample_weight", sample_weight), ("offset", offset)):
            if values is None:
                found[name] = None
                continue
            tensor = as_tensor(name, values).double()
            tensor = tensor.flatten(1) if tensor.dim() == 3 and name == "offset" else tensor
            tensor = tensor[:, 0] if tensor.dim() == 2 and tensor.shape[1] == 1 else tensor
            if tensor.dim() not in ((1,) if name == "sample_weight" else (1, 2)) or len(tensor) != len(came[0]):
                wanted = "(N,)" if name == "sample_weight" else "(N,) or (N, K)"
                raise ValueError(
                    f"{name} must have shape {wanted} with N = {len(came[0]):,} rows, but {tuple(tensor.shape)} came; give one "
                    "number a row of X, in the same order."
                )
            found[name] = tensor
        weight = found["sample_weight"]
        if weight is not None and (bool((weight < 0).any()) or not bool((weight > 0).any())):
            came = f"{int((weight < 0).sum()):,} are negative" if bool((weight < 0).any()) else "all are 0"
            raise ValueError(f"sample_weight must be >= 0 and not all 0, but {came}; give how often each row is to count.")
        return cls(weight, found["offset"])

    def taken_off(self, came: tuple[torch.Tensor, torch.Tensor]) -> tuple[tuple[torch.Tensor, torch.Tensor], RowTerms]:
        """The rows with targets y − offset, for likelihoods of which the output is the location, and what is left.

        Raises:
            ValueError: If the shapes differ.
        """
        if self.offset is None:
            return came, self
        x, y = came
        if y.shape != self.offset.shape:
            raise ValueError(
                f"offset must have the shape of y, {tuple(y.shape)}, but {tuple(self.offset.shape)} came; give one for each."
            )
        return (x, y.double() - self.offset.to(y.device)), RowTerms(self.weight)

    def check_output(self, output: torch.Tensor) -> None:
        """Refuse offsets that do not fit the network's output, of which a few rows are enough.

        Raises:
            ValueError: If so.
        """
        if self.offset is not None and self.offset.shape[1:] != output.shape[1:]:
            raise ValueError(
                f"offset must have one number for each output of a row, {tuple(output.shape[1:])}, but "
                f"{tuple(self.offset.shape[1:])} came; it is added to the network's output."
            )

    def cast(self, like: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Both in the type and on the device of a tensor."""
        return tuple(None if part is None else part.to(like) for part in (self.weight, self.offset))  # pyright: ignore

    @property
    def notes(self) -> tuple[str, ...]:
        """What is to be known about them, one sentence each."""
        found = []
        if self.weight is not None:
            found.append(f"rows count by sample_weight, together {float(self.weight.sum()):,.6g} times.")
        if self.offset is not None:
            found.append("an offset was added to the network's output; predict(X, offset=...) adds it, else it is zero.")
        return tuple(found)
