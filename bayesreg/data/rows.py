"""The rows of a fit: their standardisation, whole passes over them, and an endless stream of batches.

x → (x − mean)/sd,  y → (y − mean)/sd,   statistics of the training rows only, sd with denominator N;
log p(y) = log p(standardised y) − log sd(y):  a density carries its Jacobian.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

from bayesreg.data.arrays import as_inputs as as_inputs
from bayesreg.data.arrays import as_targets as as_targets
from bayesreg.data.arrays import as_tensor as as_tensor
from bayesreg.data.arrays import names_of as names_of
from bayesreg.data.arrays import order_by_name as order_by_name
from bayesreg.data.arrays import pair_of as pair_of

# re-exported: callers import from this file only
from bayesreg.data.loaders import all_inputs as all_inputs
from bayesreg.data.loaders import all_rows as all_rows
from bayesreg.data.loaders import reading
from bayesreg.data.loaders import rows_of as rows_of
from bayesreg.data.loaders import unpack as unpack
from bayesreg.data.moments import Moments
from bayesreg.data.streams import Stream
from bayesreg.data.streams import plan_of as plan_of

Batch = tuple[torch.Tensor, torch.Tensor]
_GATHERED = 8192  # rows that are permuted at once


@dataclasses.dataclass(frozen=True)
class Standardization:
    """Location and scale of the training inputs and, for a location likelihood, of the target.

    Attributes:
        x_mean: (D,), or (C, 1, ...) for inputs with a channel axis.
        x_scale: Same shape; 1 where a column is constant.
        y_mean: () or (K,); 0 when the target is not standardised; for a log link the logarithm of its mean, which is a level
            of outputs.
        y_scale: Same shape; 1 when the target is not standardised.
        constant: Numbers of the input columns that are constant; they are centred and kept.
    """

    x_mean: torch.Tensor
    x_scale: torch.Tensor
    y_mean: torch.Tensor
    y_scale: torch.Tensor
    constant: tuple[int, ...] = ()

    def x(self, x: torch.Tensor) -> torch.Tensor:
        """Inputs in standardised units, (B, ...)."""
        return (x - self.x_mean) / self.x_scale

    def y(self, y: torch.Tensor) -> torch.Tensor:
        """Targets in standardised units, (B,) or (B, K)."""
        return (y - self.y_mean) / self.y_scale

    @property
    def log_jacobian(self) -> float:
        """Log |d standardised y / d y| of one row, in nats: −Σ log sd(y)."""
        return -float(self.y_scale.log().sum())

    def to(self, device: torch.device) -> Standardization:
        """The same numbers on another device, still float64."""
        x_mean, x_scale, y_mean, y_scale = (v.to(device) for v in (self.x_mean, self.x_scale, self.y_mean, self.y_scale))
        return Standardization(x_mean, x_scale, y_mean, y_scale, self.constant)

    def keeping(self, columns: tuple[int, ...]) -> Standardization:
        """The same with these input columns (channels), by number, not standardised."""
        if not columns:
            return self
        mean, scale, kept = self.x_mean.clone(), self.x_scale.clone(), list(columns)
        mean[kept], scale[kept] = 0.0, 1.0
        constant = tuple(column for column in self.constant if column not in columns)
        return dataclasses.replace(self, x_mean=mean, x_scale=scale, constant=constant)

    @classmethod
    def of(
        cls, batches: Iterable[Batch], target: bool, *, log_link: bool = False, weight: torch.Tensor | None = None
    ) -> Standardization:
        """Statistics over batches of raw pairs, in one pass and in float64 on the CPU (Chan, Golub and LeVeque 1983).

        `target` says whether the target is standardised too. With `log_link` it is not, and `y_mean` is the logarithm of its
        mean, about which outputs are taken. `weight` (N,) goes with a single batch.

        Raises:
            ValueError: If the target is constant.
        """
        x_moments, y_moments = Moments(), Moments()
        x_shape, y_shape = (), ()
        for x, y in batches:
            x_moments.add_channels(x, weight)
            y_moments.add(y.reshape(len(y), -1), weight)
            x_shape = x.shape[1:2] + (1,) * (x.dim() - 2)
            y_shape = y.shape[1:]
        x_mean, x_scale, constant = x_moments.standardizing(x_shape)
        y_mean, y_scale = y_moments.finish()
        if log_link:
            y_mean, y_scale = torch.where(y_mean > 0, y_mean, 1.0).log(), torch.ones_like(y_scale)
        elif not target:
            y_mean, y_scale = torch.zeros_like(y_mean[:1]), torch.ones_like(y_scale[:1])
            y_shape = torch.Size()
        elif bool((y_scale == 0).any()):
            raise ValueError(
                f"a target must vary to be standardised, but all {y_moments.count:,} values are {float(y_mean[0]):g}; "
                "check the target column, or pass standardize=False."
            )
        return cls(x_mean, x_scale, y_mean.reshape(y_shape), y_scale.reshape(y_shape), constant)


@dataclasses.dataclass(frozen=True)
class Data:
    """Training rows, prepared: checked, standardised, in the model's dtype and on its device.

    Attributes:
        num_data: N, the number of training rows.
        x: Inputs (N, ...) when all rows are in memory, else None.
        y: Targets (N,) or (N, K) when all rows are in memory, else None.
        stream: The user's loader and what a pass of it gives, when rows are streamed; else None.
        prepare: Prepares a streamed raw batch.
        coupled: Whether an output depends on other rows too (batch normalisation by the rows at hand), so that all of them must
            go through in one block; no sample can represent them.
    """

    num_data: int
    x: torch.Tensor | None
    y: torch.Tensor | None
    stream: Stream | None = None
    prepare: Any = None
    coupled: bool = False

    @property
    def loader(self) -> DataLoader | None:
        """The user's loader when rows are streamed, else None."""
        return None if self.stream is None else self.stream.loader

    @property
    def notes(self) -> list[str]:
        """What is to be known about the rows, one sentence each."""
        return [self.stream.note] if self.stream is not None and self.stream.note else []

    def full(self, why: str) -> Batch:
        """All prepared rows at once; `why` says what needs them, for the error.

        Raises:
            ValueError: If the rows are streamed by a loader.
        """
        if self.x is None or self.y is None:
            raise ValueError(
                f"{why} needs all rows at once, but a DataLoader came; pass X and y as arrays, or take a method that "
                "works on mini-batches (MAP or MeanField with a batch_size)."
            )
        return self.x, self.y

    def batches(self, batch_size: int | None, generator: torch.Generator) -> Batches:
        """Prepared batches without end, see `Batches`; a batch_size of None means all rows, or the loader's own batches."""
        return Batches(self, batch_size, generator)

    def _stream(self, once: bool = False) -> Iterator[Batch]:
        """A pass over a loader: as training goes over the rows, or each of the N rows once."""
        stream: Any = self.stream
        rows = 0
        for batch in reading(stream.whole if once else stream.loader):
            x, y = self.prepare(*unpack(batch))
            rows += len(x)
            yield x, y
        stream.passed(rows, once)

    def rows_a_batch(self, x: torch.Tensor) -> float:
        """The divisor of a batch's sum with which each row counts alike over an epoch: the mean number of rows in a batch.

        A loader's last batch may be short; divided by its own length, its rows would count for more than the others. Where a
        pass has R rows for N, each weighs N/R: N times the mean over batches of the divided sums. It is B in memory, and R over
        the number of batches for a loader.
        """
        return len(x) if self.stream is None else self.stream.rows / self.stream.batches

    def steps_an_epoch(self, batch_size: int | None) -> int:
        """Batches an epoch, 0 where every step sees all rows."""
        if self.stream is not None:
            return self.stream.batches
        return self.num_data // batch_size if batch_size else 0

    def least_batch(self, batch_size: int | None) -> int:
        """Rows in the smallest batch of an epoch."""
        return self.stream.least if self.stream is not None else batch_size or self.num_data

    def epoch(self, batch_size: int = 8192) -> Iterator[Batch]:
        """Every one of the N rows once, prepared, also where a loader's sampler draws them at random.

        In memory a block has so many rows, or all of them where rows are coupled.

        Yields:
            Prepared inputs and targets.

        Raises:
            ValueError: If a loader gives another number of rows than N.
        """
        if self.x is None or self.y is None:
            yield from self._stream(once=True)
        else:
            batch_size = max(1, len(self.x)) if self.coupled else batch_size
            for at in range(0, len(self.x), batch_size):  # lazily: whoever wants the first block pays for one
                yield self.x[at : at + batch_size], self.y[at : at + batch_size]


class Batches:
    """Batches without end: every epoch is a fresh permutation, and a last short batch is dropped.

    Its state can be saved and restored, and continues with the same rows in the same order.

    Args:
        data: The rows.
        batch_size: Rows a batch; None for all rows, or for the loader's own batches.
        generator: Where the permutations come from; a loader's come from torch's global generator.

    Attributes:
        epoch: Number of the epoch, from 1.
        position: Batches taken from it.
    """

    def __init__(self, data: Data, batch_size: int | None, generator: torch.Generator) -> None:
        self.data, self.batch_size = data, batch_size
        self.streamed = data.x is None
        self.whole = data.x is not None and (batch_size is None or batch_size >= len(data.x))
        # a loader draws its order from the global generator, which a network's dropout uses too
        self._generator = torch.default_generator if self.streamed else generator
        self.epoch, self.position = 1, 0
        self._begun: torch.Tensor | None = None  # the generator's state when the epoch began
        self._own = getattr(data.loader, "generator", None)  # a generator of the loader's own
        self._own_begun: torch.Tensor | None = None
        self._rest: Iterator[Batch] | None = None

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> Batch:
        if self.whole:
            self.position += 1
            return self.data.x, self.data.y  # pyright: ignore[reportReturnType]
        while True:
            if self._rest is None:
                self._begun = self._generator.get_state()
                self._own_begun = None if self._own is None else self._own.get_state()
                self._rest = self._pass()
            batch = next(self._rest, None)
            if batch is not None:
                self.position += 1
                return batch
            self.epoch, self.position, self._rest = self.epoch + 1, 0, None

    def _pass(self) -> Iterator[Batch]:
        x, y, size = self.data.x, self.data.y, self.batch_size
        if x is None or y is None or size is None:
            yield from self.data._stream()
            return
        order = torch.randperm(len(x), generator=self._generator).to(x.device)[: len(x) // size * size]
        for block in order.split(size * max(1, _GATHERED // size)):  # one gather for many batches, whose slices are views
            yield from zip(x[block].split(size), y[block].split(size), strict=True)

    def state(self) -> dict[str, Any]:
        """Its position, for a checkpoint."""
        return {"epoch": self.epoch, "position": self.position, "begun": self._begun, "own begun": self._own_begun}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a saved `state`; the generator ends where the next batch needs it."""
        self.epoch, self.position, self._begun = state["epoch"], state["position"], state["begun"]
        if self._begun is None or self.whole:
            return
        self._own_begun = state["own begun"]
        self._generator.set_state(self._begun.cpu())
        if self._own is not None and self._own_begun is not None:
            self._own.set_state(self._own_begun.cpu())
        self._rest = self._pass()
        for _ in range(self.position):
            next(self._rest)
