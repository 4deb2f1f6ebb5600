"""Data sets and loaders: their pairs (x, y), all of their rows, and a pass in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    TensorDataset,
)

from bayesreg.data.arrays import as_inputs, pair_of


def unpack(batch: Any) -> tuple[Any, Any]:
    """Inputs and targets of a loader's batch.

    Raises:
        ValueError: If the batch is not a pair.
    """
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        raise ValueError(
            f"a loader must give pairs (x, y), but {type(batch).__name__} came; wrap the data set so that each item is a pair."
        )
    if isinstance(batch[1], torch.Tensor) and batch[1].dim() == 0:
        raise ValueError(
            "a loader must give batches of rows, but it gave a single row: with batch_size=None each item of the data set is "
            "taken for a batch; give it a batch_size, for example DataLoader(data_set, batch_size=256)."
        )
    return batch[0], batch[1]


def rows_of(X: Any, y: Any) -> tuple[torch.Tensor, torch.Tensor] | DataLoader:
    """The data that came as `X` and `y`: two checked tensors of one length, or a loader.

    A map-style `Dataset` is read into memory; `y` is None for a data set or loader.

    Raises:
        ValueError: If the lengths differ, or `y` is missing or not allowed.
    """
    if isinstance(X, (DataLoader, Dataset)) and y is not None:
        raise ValueError("y must be None when X is a Dataset or DataLoader, which brings its own targets.")
    if isinstance(X, DataLoader):
        return X
    if isinstance(X, Dataset):
        inputs, targets = _columns(X)
        return pair_of(inputs, targets)
    if y is None:
        raise ValueError("y must be given when X is an array; only a Dataset or DataLoader brings its own targets.")
    return pair_of(X, y)


def all_rows(X: Any, y: Any) -> tuple[Any, Any]:
    """Held-out inputs and targets; a loader or data set is read into memory, arrays are returned as they are.

    Raises:
        ValueError: If `y` is missing or not allowed.
    """
    if not isinstance(X, (DataLoader, Dataset)):
        if y is None:
            raise ValueError("y must be given when X is an array; only a Dataset or DataLoader brings its own targets.")
        return X, y
    came = rows_of(X, y)
    if isinstance(came, tuple):
        return came
    inputs, targets = zip(*(pair_of(*unpack(batch)) for batch in _once(came)), strict=True)
    return _joined(inputs), _joined(targets)


def all_inputs(X: DataLoader | Dataset) -> torch.Tensor:
    """The inputs of a loader or data set, whose items are pairs (x, y) or x alone, in the data set's order.

    Raises:
        ValueError: If it gives none, or rows of several shapes.
    """
    if not isinstance(X, DataLoader):
        return as_inputs(_columns(X, targets=False)[0])
    return _joined([as_inputs(_inputs_in(batch)) for batch in _once(X)])


def reading(batches: Any) -> Iterator[Any]:
    """A loader's batches; rows of several shapes are refused with a clear message.

    Raises:
        ValueError: If so.
        RuntimeError: If the data set fails in another way.
    """
    try:
        yield from batches
    except RuntimeError as error:
        if "equal size" not in str(error):
            raise
        raise ValueError(
            "each row that a loader gives must have the same shape, but they differ; pad or cut them in the data set, or join "
            "them by a collate_fn."
        ) from error


def refuse_empty() -> NoReturn:
    """Refuse a loader that gives nothing.

    Raises:
        ValueError: Always.
    """
    raise ValueError("a loader must give rows, but it gave no batch; check its batch_size, drop_last and data set.")


def batches_of(loader: DataLoader) -> Any:
    """The sampler of a map-style data set's batches; None where there is none, because its items are batches."""
    if loader.batch_sampler is None and isinstance(loader.sampler, BatchSampler):  # a data set that takes lists of numbers
        return loader.sampler
    return loader.batch_sampler


def in_order(loader: DataLoader, data: Any = None) -> DataLoader:
    """A loader like this one that gives every row of its data set, or of `data`, once and in order."""
    rows: Any = loader.dataset if data is None else data
    size = getattr(batches_of(loader), "batch_size", 256)
    by_list = BatchSampler(SequentialSampler(rows), size, False) if loader.batch_sampler is None else None
    return DataLoader(
        rows,
        batch_size=size if by_list is None else None,
        sampler=by_list,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
    )


def _once(loader: DataLoader) -> Iterator[Any]:
    """One pass over a loader, in the data set's order where it is shuffled; torch's random state is restored."""
    if isinstance(getattr(batches_of(loader), "sampler", None), RandomSampler):
        loader = in_order(loader)
    with torch.random.fork_rng(devices=[]):  # a loader draws a number even where nothing is random
        found = list(reading(loader))
    if not found:
        refuse_empty()
    return iter(found)


def _joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    if len({part.shape[1:] for part in parts}) > 1:
        shapes = sorted({tuple(part.shape[1:]) for part in parts})
        raise ValueError(f"each row that a loader gives must have the same shape, but {shapes} came; pad or cut them.")
    return torch.cat(list(parts))


def _columns(data: Dataset, targets: bool = True) -> tuple[Any, ...]:
    """Inputs and, if asked, targets of a map-style data set.

    Raises:
        ValueError: If it has no length, or no rows.
    """
    if isinstance(data, IterableDataset):
        raise ValueError("an IterableDataset must come inside a DataLoader, with num_data=N passed to fit.")
    if isinstance(data, TensorDataset) and (len(data.tensors) == 2 or not targets):
        return data.tensors
    try:
        number = len(data)  # pyright: ignore[reportArgumentType]
    except (TypeError, NotImplementedError):
        raise ValueError(
            "a Dataset must have a length, but this one has no __len__; put it into a DataLoader, and pass num_data=N to fit."
        ) from None
    if number == 0:
        raise ValueError("a Dataset must have rows, but this one is empty; check how it was split.")
    if not targets:
        return ([_inputs_in(data[i]) for i in range(number)],)
    return tuple(zip(*(_item(data[i]) for i in range(number)), strict=True))


def _inputs_in(item: Any) -> Any:
    """X of a pair (x, y), of (x,), or x itself."""
    return item[0] if isinstance(item, (tuple, list)) else item


def _item(item: Any) -> tuple[Any, Any]:
    if not isinstance(item, (tuple, list)) or len(item) != 2:
        raise ValueError(
            f"a data set must give pairs (x, y), but {type(item).__name__} came; wrap it so that each item is a pair."
        )
    return item[0], item[1]
