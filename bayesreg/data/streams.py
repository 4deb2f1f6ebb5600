"""What one pass over a user's loader gives: how many rows, in how many batches, how often each, and so the weight of a row.

    Σ over the N rows  ≈  N/R · Σ over the R rows of a pass,      and for a batch of a pass in m batches  N · m/R · its sum

N, R and m are decided here and nowhere else, before a search begins. A map-style data set is not read for that: its sampler
says which rows it will give. A loader without a sampler (an `IterableDataset`, a custom collate function) is counted in one
pass over the data, which the standardisation makes in any case.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

import torch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    WeightedRandomSampler,
    default_collate,
)

from bayesreg import _check
from bayesreg.data.arrays import as_targets
from bayesreg.data.loaders import batches_of, in_order, reading, refuse_empty, unpack

_PASSES = 50  # most passes of a random sampler that are examined
_EXPECTED = 10  # expected draws of each row in them, so that an uneven sampler shows
_CHANCE = 1e-9  # probability that an even sampler is refused
_ENDLESS = 10  # times N: a pass with more rows is taken to be endless


@dataclasses.dataclass(frozen=True)
class Stream:
    """A loader, and what a pass of it gives.

    Attributes:
        loader: The loader of the training steps.
        whole: A loader that gives each of the N rows once: the same one, unless it draws rows at random or repeats them.
        num_data: N.
        rows: R, rows in a pass of `loader`.
        batches: m, batches in it.
        least: Rows in its smallest batch.
        note: A sentence where N is not the length of the data set, or R not N; else empty.
    """

    loader: DataLoader
    whole: DataLoader
    num_data: int
    rows: int
    batches: int
    least: int
    note: str = ""

    def passed(self, rows: int, once: bool) -> None:
        """Refuse a pass with another number of rows than the first; `once` says whether it was one of `whole`.

        Raises:
            ValueError: If so.
        """
        expected = self.num_data if once else self.rows
        if rows == 0:
            raise ValueError(
                "a loader must give rows in every pass, but a pass gave none; let its data set's __iter__ start anew each "
                "time, and make it with drop_last=False."
            )
        if rows != expected:
            raise ValueError(
                f"a loader must give the same number of rows in every pass, but the first had {expected:,} and a later one "
                f"{rows:,}; let its data set's __iter__ start anew each time."
            )


class Census:
    """Counts the batches of a pass as they go by.

    Args:
        limit: Rows beyond which the pass is taken to be endless; None for no limit.

    Attributes:
        rows: So far.
        batches: So far.
        least: Rows in the smallest.
        done: Whether the pass came to its end.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.limit, self.rows, self.batches, self.least = limit, 0, 0, 0
        self.done = False

    def over(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The same batches, counted.

        Raises:
            ValueError: If a batch is no pair of batches, or they do not end.
        """
        for batch in reading(batches):
            number = len(as_targets(unpack(batch)[1]))
            self.rows, self.batches = self.rows + number, self.batches + 1
            self.least = number if self.batches == 1 else min(self.least, number)
            if self.limit is not None and self.rows > self.limit:
                raise ValueError(
                    f"a loader must give all N = {self.limit // _ENDLESS:,} rows in one pass, but it gave {self.rows:,} and "
                    "did not end; let its data set's __iter__ end after each row once (in every worker its own share)."
                )
            yield batch
        self.done = True
        if not self.batches:
            refuse_empty()


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is known of a loader before a row is read.

    Attributes:
        loader: The loader of the training steps.
        whole: A loader that gives each row once.
        said: N as given by `num_data`; None where it was not.
        expected: Rows that a pass of `whole` must give; None where unknown.
        counts: Whether rows must be counted in a pass.
        rows: R, where known.
        batches: m, where known.
        least: Rows in the smallest batch, where known.
        note: See `Stream`.
        own: Whether a custom collate function may make more or fewer rows than items.
    """

    loader: DataLoader
    whole: DataLoader
    said: int | None
    expected: int | None
    counts: bool
    rows: int = 0
    batches: int = 0
    least: int = 0
    note: str = ""
    own: bool = False

    def census(self) -> Census:
        """The counter for a pass of `whole`."""
        number = self.said or (None if self.own else self.expected)
        return Census(None if number is None else _ENDLESS * number)

    def settled(self, census: Census) -> Stream:
        """The stream, after the pass that counted `whole` where one was needed.

        Raises:
            ValueError: If N contradicts what was seen.
        """
        if not census.done:  # it need not be counted
            return Stream(self.loader, self.whole, self.expected or census.rows, self.rows, self.batches, self.least, self.note)
        number = self.said or (None if self.own else self.expected) or census.rows
        if census.rows != number:
            raise ValueError(
                f"a loader must give all N = {number:,} rows in one pass, but it gave {census.rows:,}; make it with "
                "drop_last=False, let every worker give its own share, and say num_data=N as it is."
            )
        items, note = self.expected or census.rows, self.note
        if items != census.rows:
            note = (
                f"N = {census.rows:,}: counted in a pass over the loader, whose sampler gives {items:,} items of its data set."
            )
        if self.whole is self.loader:
            return Stream(self.loader, self.whole, census.rows, census.rows, census.batches, census.least, note)
        rows = round(self.rows * census.rows / items)
        return Stream(self.loader, self.whole, census.rows, rows, self.batches, self.least, note)


def plan_of(loader: DataLoader, num_data: int | None) -> Plan:
    """Determine what a loader gives, as far as possible without reading a row; `num_data` is N where it was given.

    Raises:
        ValueError: If N is not known or contradicts the loader, or rows are left out or drawn unevenly.
    """
    said = None if num_data is None else _check.count("num_data", num_data)
    if isinstance(loader.dataset, IterableDataset):
        length = _length(loader.dataset)
        if said is None and length is None:
            _refuse_unknown()
        return Plan(loader, loader, said, said or length, counts=True)
    if batches_of(loader) is None:  # its items are batches already
        return Plan(loader, loader, said, said, counts=True)
    length = _length(loader.dataset)
    if length is None and said is None:
        _refuse_unknown()
    if length is None:
        return Plan(loader, loader, said, said, counts=True)
    plan = _known(loader, said, length) or _walked(loader, said, length)
    own = loader.collate_fn is not default_collate
    if said is not None and said != plan.expected and not own:
        raise ValueError(
            f"a loader must give all N = {said:,} rows in one pass, but it gave {plan.expected:,}; leave num_data out, or pass "
            "a loader over all rows."
        )
    return dataclasses.replace(plan, counts=own, own=own)


def _known(loader: DataLoader, said: int | None, length: int) -> Plan | None:
    """The plan for samplers of torch's own that say what they do; None for any other.

    Raises:
        ValueError: If rows are left out or drawn unevenly.
    """
    batches = batches_of(loader)
    if type(batches) is not BatchSampler:
        return None
    sampler, size, drop = batches.sampler, batches.batch_size, batches.drop_last
    source = getattr(sampler, "data_source", None)
    at_random = False
    if type(sampler) is WeightedRandomSampler:
        low, high = float(sampler.weights.min()), float(sampler.weights.max())
        if low != high or len(sampler.weights) != length:
            raise ValueError(
                "a loader must draw every row alike, since a row that comes more often counts for more, but a "
                f"WeightedRandomSampler with weights from {low:g} to {high:g} came; take shuffle=True: the posterior is that "
                "of the rows as they are."
            )
        rows, at_random = sampler.num_samples, True
    elif type(sampler) in (SequentialSampler, RandomSampler) and source is not None and _length(source) == length:
        rows = len(sampler)  # pyright: ignore[reportArgumentType]
        at_random = type(sampler) is RandomSampler and (sampler.replacement or rows != length)
    else:
        return None
    left = rows % size if drop else 0
    if left and not at_random:
        _refuse_left_out(left)
    rows -= left
    number = -(-rows // size)
    whole, note = loader, ""
    if at_random:
        whole, note = in_order(loader), _drawn(sampler, rows, length)
    return Plan(loader, whole, said, length, False, rows, number, rows - (number - 1) * size, note)


def _walked(loader: DataLoader, said: int | None, length: int) -> Plan:
    """The plan from the row numbers that a sampler gives, without reading the rows."""
    name, batches = _name(loader), batches_of(loader)
    if type(batches) is BatchSampler and batches.drop_last and (left := (_length(batches.sampler) or 0) % batches.batch_size):
        _refuse_left_out(left)
    first = list(_batches(loader, length))
    seen = Counter(index for batch in first for index in batch)
    rows = seen.total()
    if not rows:
        refuse_empty()
    number, least = len(first), min(map(len, first))
    again = seen if len(seen) == length == rows else Counter(_numbers(loader, length))
    if seen == again:
        often = set(seen.values())
        if len(often) > 1:
            _refuse_uneven(f"{name}, which gives some rows {min(often)} and others {max(often)} times in a pass")
        times = max(often)
        part = f"N = {len(seen):,}: {name} gives {len(seen):,} of the data set's {length:,} rows"
        part += "." if times == 1 else f", each {times} times a pass, so that it weighs 1/{times} there."
        note = "" if len(seen) == length == rows else part
        whole = loader if times == 1 else in_order(loader, Subset(loader.dataset, sorted(seen)))
        return Plan(loader, whole, said, len(seen), False, rows, number, least, note)
    for _ in range(_PASSES):
        if seen.total() >= _EXPECTED * length:
            break
        seen.update(_numbers(loader, length))
    if _is_uneven(seen, length):
        least_often = min(seen.values()) if len(seen) == length else 0
        _refuse_uneven(f"{name}, which in some passes gave one row {max(seen.values())} and another {least_often} times")
    return Plan(loader, in_order(loader), said, length, False, rows, number, least, _drawn(name, rows, length))


def _numbers(loader: DataLoader, length: int) -> Iterator[int]:
    for batch in _batches(loader, length):
        yield from batch


def _batches(loader: DataLoader, length: int) -> Iterator[Any]:
    """The row numbers of a pass, batch by batch.

    Raises:
        ValueError: If there is one pass only, or it does not end.
    """
    batches = batches_of(loader)
    if isinstance(batches, Iterator) or isinstance(getattr(batches, "sampler", None), Iterator):
        raise ValueError(
            "a loader must give rows in every pass, but its sampler is an iterator that ends with the first; pass an object "
            "whose __iter__ starts anew, for example a list of row numbers."
        )
    rows, limit = 0, max(1000, 100 * length)
    for numbers in batches:
        batch = [number.item() if isinstance(number, torch.Tensor) else number for number in numbers]
        rows += len(batch)
        if rows > limit:
            raise ValueError(
                f"a pass over a loader must end, but {_name(loader)} gave {rows:,} row numbers for {length:,} rows and went "
                "on; let its __iter__ end after each row once."
            )
        yield batch


def _is_uneven(seen: Counter, length: int) -> bool:
    """Whether rows came more unevenly than by chance, by Pearson's test."""
    from scipy.special import chdtrc

    mean = seen.total() / length
    squares = sum((times - mean) ** 2 for times in seen.values()) + (length - len(seen)) * mean**2
    return bool(chdtrc(length - 1, squares / mean) < _CHANCE)


def _length(data: Any) -> int | None:
    try:
        return len(data)
    except (TypeError, NotImplementedError):
        return None


def _name(loader: DataLoader) -> str:
    batches = batches_of(loader)
    return f"a {type(batches.sampler if type(batches) is BatchSampler else batches).__name__}"


def _drawn(sampler: Any, rows: int, length: int) -> str:
    name = sampler if isinstance(sampler, str) else f"a {type(sampler).__name__}"
    return f"N = {length:,}: {name} draws {rows:,} rows a pass at random; each weighs {length / rows:.3g}."


def _refuse_unknown() -> NoReturn:
    """Refuse a loader whose number of rows is not known.

    Raises:
        ValueError: Always.
    """
    raise ValueError(
        "N must be known, since it weighs the data against the prior, but the loader's data set has no length; "
        "pass num_data=N to fit."
    )


def _refuse_left_out(left: int) -> NoReturn:
    """Refuse a loader that leaves rows out.

    Raises:
        ValueError: Always.
    """
    raise ValueError(
        f"a loader must give every row in one pass, but drop_last=True leaves {left:,} out; make it with "
        "drop_last=False (a short last batch is weighed as it should be)."
    )


def _refuse_uneven(what: str) -> NoReturn:
    """Refuse a loader that draws rows unevenly.

    Raises:
        ValueError: Always.
    """
    raise ValueError(
        f"a loader must draw every row alike, since a row that comes more often counts for more, but it has {what}; take "
        "shuffle=True, and where rows shall count several times a Subset that lists them so."
    )
