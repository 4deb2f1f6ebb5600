"""From whatever a person has (arrays, data frames, tensors, loaders) to tensors, and their standardisation.

x → (x − mean)/sd,  y → (y − mean)/sd,   statistics of the training rows only, sd with denominator N;
log p(y) = log p(standardised y) − log sd(y):  a density carries its Jacobian.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from bayesreg import _check
from bayesreg.moments import Moments

Batch = tuple[torch.Tensor, torch.Tensor]
_GATHERED = 8192  # rows that are put into a new order at once


@dataclasses.dataclass(frozen=True)
class Standardization:
    """Location and scale of the training inputs and, for a location likelihood, of the target.

    Attributes:
        x_mean: (D,), or (C, 1, ...) for inputs with a channel axis.
        x_scale: Same shape; 1 where a column is constant.
        y_mean: () or (K,); 0 when the target is not standardised.
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

    @classmethod
    def of(cls, batches: Iterator[Batch], target: bool) -> Standardization:
        """Statistics over batches, in one pass and in float64 (Chan, Golub and LeVeque 1983).

        Args:
            batches: Pairs of raw inputs and targets.
            target: Whether the target is standardised too.

        Returns:
            The statistics, float64 on the CPU.

        Raises:
            ValueError: If the target is constant.
        """
        x_moments, y_moments = Moments(), Moments()
        x_shape, y_shape = (), ()
        for x, y in batches:
            x_moments.add_channels(x)
            y_moments.add(y.reshape(len(y), -1))
            x_shape = x.shape[1:2] + (1,) * (x.dim() - 2)
            y_shape = y.shape[1:]
        x_mean, x_scale, constant = x_moments.standardizing(x_shape)
        y_mean, y_scale = y_moments.finish()
        if not target:
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
        num_data: N, the number of rows the posterior is about.
        x: Inputs (N, ...) when all rows are in memory, else None.
        y: Targets (N,) or (N, K) when all rows are in memory, else None.
        loader: The person's loader when rows are streamed, else None.
        prepare: What turns a streamed raw batch into a prepared one.
        coupled: Whether an output depends on other rows too (batch normalisation by the rows at hand), so that a pass must see
            all of them: they are one block then, and no part of them stands for the rest.
    """

    num_data: int
    x: torch.Tensor | None
    y: torch.Tensor | None
    loader: DataLoader | None = None
    prepare: Any = None
    coupled: bool = False

    def full(self, why: str) -> Batch:
        """All rows at once.

        Args:
            why: What needs them, for the error.

        Returns:
            Prepared inputs and targets.

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
        """Batches without end, see `Batches`.

        Args:
            batch_size: Rows a batch; None for all rows, or for the loader's own batches.
            generator: Where the permutations come from.

        Returns:
            An iterator over prepared inputs and targets.
        """
        return Batches(self, batch_size, generator)

    def _stream(self) -> Iterator[Any]:
        if self.loader is None:  # asking for its truth would ask for its length, which it may not have
            raise RuntimeError("Data holds neither rows nor a loader")
        empty = True
        for batch in self.loader:
            empty = False
            yield batch
        if empty:
            raise ValueError(
                "a loader must give rows in every pass, but a pass gave none; let its data set's __iter__ start anew each "
                "time, and make it with drop_last=False."
            )

    def rows_a_batch(self, x: torch.Tensor) -> float:
        """What a batch's rows are divided by so that each row counts alike over an epoch: their mean number.

        A loader's last batch may be short; by its own length its rows would count for more than the others.

        Args:
            x: The batch's inputs.

        Returns:
            B in memory; N over the number of batches for a loader that knows it.
        """
        batches = self._batches_a_pass
        return self.num_data / batches if batches else len(x)

    def steps_an_epoch(self, batch_size: int | None) -> int:
        """Batches an epoch, 0 where every step sees all rows or nobody knows.

        Args:
            batch_size: Rows a batch, or None.

        Returns:
            A whole number.
        """
        return self._batches_a_pass or (self.num_data // batch_size if batch_size else 0)

    @property
    def _batches_a_pass(self) -> int:
        """Of a loader that knows its length, else 0."""
        if self.loader is None:
            return 0
        try:
            return len(self.loader)
        except TypeError:
            return 0

    def epoch(self, batch_size: int = 8192) -> Iterator[Batch]:
        """Every row once, in order.

        Args:
            batch_size: Rows a block when all rows are in memory; all of them where they are coupled.

        Yields:
            Prepared inputs and targets.

        Raises:
            ValueError: If a loader gives another number of rows than N.
        """
        if self.x is None or self.y is None:
            rows = 0
            for batch in self._stream():
                x, y = self.prepare(*unpack(batch))
                rows += len(x)
                yield x, y
            if rows != self.num_data:
                raise ValueError(
                    f"a loader must give all N = {self.num_data:,} rows in one pass, but it gave {rows:,}; make it with "
                    "drop_last=False, or say num_data=N as it is."
                )
        else:
            batch_size = max(1, len(self.x)) if self.coupled else batch_size
            yield from zip(self.x.split(batch_size), self.y.split(batch_size), strict=True)


class Batches:
    """Batches without end: every epoch is a fresh permutation, and a last short batch is dropped.

    It can say where it stands, and another one can go on from there with the same rows in the same order.

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
        self._own = getattr(data.loader, "generator", None)  # a loader may have been given one
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
            for batch in self.data._stream():
                yield self.data.prepare(*unpack(batch))
            return
        order = torch.randperm(len(x), generator=self._generator).to(x.device)[: len(x) // size * size]
        for block in order.split(size * max(1, _GATHERED // size)):  # one gather for many batches, whose slices are views
            yield from zip(x[block].split(size), y[block].split(size), strict=True)

    def state(self) -> dict[str, Any]:
        """Where it stands, for a checkpoint."""
        return {"epoch": self.epoch, "position": self.position, "begun": self._begun, "own begun": self._own_begun}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from where `state` was taken; the generator ends where the next batch finds it."""
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


def unpack(batch: Any) -> tuple[Any, Any]:
    """Inputs and targets of a loader's batch.

    Raises:
        ValueError: If the batch is not a pair.
    """
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise ValueError(
            f"a loader must give pairs (x, y), but {type(batch).__name__} came; wrap the data set so that each item is a pair."
        )
    return batch[0], batch[1]


def as_tensor(name: str, values: Any) -> torch.Tensor:
    """Any array of numbers as a tensor, checked: NumPy, torch, pandas, nested lists.

    Args:
        name: What it is called in an error.
        values: The array.

    Returns:
        A tensor of the same numbers, on the device it was on.

    Raises:
        ValueError: If it is not an array of real numbers, is empty, or holds NaN or infinite entries.

    >>> as_tensor("X", [[1, 2], [3, 4]]).shape
    torch.Size([2, 2])
    """
    if isinstance(values, torch.Tensor):
        tensor = values.detach()
    else:
        array = np.asarray(values)
        if array.dtype.kind in "mM":
            raise ValueError(f"{name} must be an array of numbers, but {array.dtype} came; encode dates as numbers first.")
        if array.dtype.kind in "fiu":  # what torch has no type for: other byte orders, long doubles, unsigned integers
            kind = {"f": np.float64 if array.dtype.itemsize > 8 else None, "u": np.int64 if array.dtype.itemsize > 1 else None}
            array = array.astype(kind.get(array.dtype.kind) or array.dtype.newbyteorder("="), copy=False)
        if array.dtype.kind not in "fiubc":
            try:
                array = array.astype(np.float64)
            except (TypeError, ValueError):
                raise ValueError(
                    f"{name} must be an array of numbers, but {type(values).__name__} with entries of type "
                    f"{array.dtype} came; encode text and dates as numbers first (bayesreg report does so for files)."
                ) from None
        tensor = torch.from_numpy(np.require(array, requirements=["C", "W"]))  # a data frame's array is read-only
    if tensor.is_complex():
        raise ValueError(f"{name} must be real, but {tensor.dtype} came; pass real and imaginary part as columns.")
    if tensor.numel() == 0:
        raise ValueError(f"{name} must have at least one row and one column, but shape {tuple(tensor.shape)} came.")
    return _check.all_finite(name, tensor)


def rows_of(X: Any, y: Any) -> tuple[torch.Tensor, torch.Tensor] | DataLoader:
    """What came as `X` and `y`: two checked tensors of one length, or a loader.

    A map-style `Dataset` is read into memory.

    Args:
        X: Array-like, `Dataset` or `DataLoader`.
        y: Array-like; None when `X` is a data set or loader.

    Returns:
        The pair, or the loader.

    Raises:
        ValueError: If the lengths differ, or `y` is missing or one too many.
    """
    if isinstance(X, (DataLoader, Dataset)):
        if y is not None:
            raise ValueError("y must be None when X is a Dataset or DataLoader, which brings its own targets.")
        if isinstance(X, Dataset):
            if isinstance(X, torch.utils.data.IterableDataset):
                raise ValueError("an IterableDataset must come inside a DataLoader, with num_data=N said beside it.")
            items = [unpack(X[i]) for i in range(len(X))]  # pyright: ignore[reportArgumentType]
            X, y = (torch.stack([torch.as_tensor(v) for v in column]) for column in zip(*items, strict=True))
        else:
            return X
    if y is None:
        raise ValueError("y must be given when X is an array; only a Dataset or DataLoader brings its own targets.")
    X, y = as_tensor("X", X), as_tensor("y", y)
    if X.dim() == 1:
        X = X[:, None]
    if y.dim() == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if X.dim() < 2 or y.dim() < 1 or len(X) != len(y):
        raise ValueError(
            f"X and y must have one row for each other, but X has {len(X):,} rows and y has "
            f"{len(y) if y.dim() else 0:,}; check that both come from the same split."
        )
    return X, y


def length_of(loader: DataLoader, num_data: int | None) -> int:
    """N for a loader: what was said, else the length of its data set.

    Raises:
        ValueError: If neither is known.
    """
    if loader.drop_last and loader.batch_size:
        left = 0
        with contextlib.suppress(TypeError):
            left = len(loader.dataset) % loader.batch_size  # pyright: ignore[reportArgumentType]
        if left:
            raise ValueError(
                f"a loader must give every row in one pass, but drop_last=True leaves {left:,} out; make it with "
                "drop_last=False (a short last batch is weighed as it should be)."
            )
    if num_data is not None:
        return _check.count("num_data", num_data)
    try:
        return len(loader.dataset)  # pyright: ignore[reportArgumentType]
    except TypeError:
        raise ValueError(
            "N must be known, since it weighs the data against the prior, but the loader's data set has no length; "
            "pass num_data=N to fit."
        ) from None
