"""Bounds on memory: how much may be stored, and how many draws are made at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from bayesreg import _check

MAX_MEMORY = 2**31  # bytes that what is stored may take unless a caller says otherwise
_ENTRIES = 2**22  # numbers of the draws that are held at once
_COPIED = 2**19  # numbers of stored draws that are copied at once: a network finds them in the cache
_SIXTEEN = 16
_LEARNT = 2**25 - 2**13  # bytes: the largest block that glibc learns from, less its header and alignment


def keep_freed(device: torch.device) -> None:
    """Let the C library keep blocks that are freed, up to 64 MB, so that a step finds its memory where the last one left it.

    glibc returns freed memory to the system above a bound that it sets by the largest block freed so far, 32 MB at most. Until
    a process has freed such a block, each gradient of a batched network takes its pages anew: a quarter of its time.
    """
    if device.type == "cpu":
        torch.empty(_LEARNT, dtype=torch.uint8)  # never written, so that it takes no memory


def blocks(count: int, width: int) -> Iterator[int]:
    """Sizes of the blocks in which `count` draws of `width` numbers each are made.

    A block's size depends on the size of a draw alone, so that one seed gives the same draws whatever the memory. Where
    possible it is a multiple of sixteen: then torch's normal numbers in blocks are those of a single call.

    Yields:
        Sizes, which sum to S.

    >>> list(blocks(10, 3)), list(blocks(100, 2**17))
    ([10], [32, 32, 32, 4])
    """
    most = max(1, _ENTRIES // max(1, width))
    most = most // _SIXTEEN * _SIXTEEN or most
    for done in range(0, count, most):
        yield min(most, count - done)


def check_room(needed: int, max_memory: Any, what: str, came: str, advice: str) -> None:
    """Refuse, before it is made, what needs more bytes than allowed.

    Raises:
        ValueError: If it does not fit.
    """
    most = _check.count("max_memory", max_memory)
    if needed > most:
        raise ValueError(f"{what} must fit into max_memory={most:,} bytes, but {came} need {needed:,}; {advice}.")


def check_draws(count: int, width: int, like: torch.Tensor, max_memory: Any = MAX_MEMORY) -> None:
    """Refuse more draws than may be stored.

    Raises:
        ValueError: If they do not fit.
    """
    came = f"{count:,} draws of {width:,} numbers"
    advice = "lower num_samples, or raise max_memory"
    check_room(count * width * like.element_size(), max_memory, "the draws", came, advice)


def together(blocks: Iterable[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Blocks of draws by name, joined."""
    found = list(blocks)
    return dict(found[0]) if len(found) == 1 else {name: torch.cat([block[name] for block in found]) for name in found[0]}


def among(stored: int, num_samples: int, generator: torch.Generator) -> torch.Tensor:
    """Numbers of stored draws, (num_samples,): each at most once while there are enough; beyond, none twice more than another.

    >>> among(3, 7, torch.Generator().manual_seed(0)).bincount().sort().values.tolist()
    [2, 2, 3]
    """
    turns = [torch.randperm(stored, generator=generator) for _ in range(-(-num_samples // stored))]
    return torch.cat(turns)[:num_samples]


def chosen(stored: torch.Tensor, num_samples: int, seed: int, width: int) -> Iterator[torch.Tensor]:
    """Stored draws (stored, ...) that `among` picks, in blocks (s, ...); `width` is the numbers in a draw.

    Yields:
        (s, ...).
    """
    index = among(len(stored), num_samples, torch.Generator().manual_seed(seed)).to(stored.device)
    for part in index.split(max(1, min(num_samples, _COPIED // max(1, width)))):
        yield stored.index_select(0, part)  # whole rows at once; indexing copies them number by number
