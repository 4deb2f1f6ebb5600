"""How much is held at once: a bound on what is stored, and the blocks in which draws are made."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch

from bayesreg import _check

MAX_MEMORY = 2**31  # bytes that what is stored may take unless a caller says otherwise
_ENTRIES = 2**22  # numbers of the draws that are held at once
_SIXTEEN = 16


def blocks(count: int, width: int) -> Iterator[int]:
    """How many draws are made at once, block by block.

    A block hangs on the size of a draw alone, so that one seed gives the same draws whatever memory there is. It is made of
    whole sixteens where it can be: of so many, torch's normal numbers in blocks are those of a single call.

    Args:
        count: S.
        width: Numbers that a draw is made of.

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
    """Refuse what would not fit before it is made.

    Args:
        needed: Bytes.
        max_memory: Bytes that there may be.
        what: What must fit.
        came: What it is made of.
        advice: What to do.

    Raises:
        ValueError: If it does not fit.
    """
    most = _check.count("max_memory", max_memory)
    if needed > most:
        raise ValueError(f"{what} must fit into max_memory={most:,} bytes, but {came} need {needed:,}; {advice}.")


def check_draws(count: int, width: int, like: torch.Tensor, max_memory: Any = MAX_MEMORY) -> None:
    """Refuse more draws than may be stored.

    Args:
        count: S.
        width: Numbers that each has.
        like: Of the type that they have.
        max_memory: Bytes that there may be.

    Raises:
        ValueError: If they do not fit.
    """
    came = f"{count:,} draws of {width:,} numbers"
    advice = "lower num_samples, or raise max_memory"
    check_room(count * width * like.element_size(), max_memory, "the draws", came, advice)


def together(blocks: Iterable[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Blocks of draws by name as one."""
    found = list(blocks)
    return dict(found[0]) if len(found) == 1 else {name: torch.cat([block[name] for block in found]) for name in found[0]}


def among(stored: int, num_samples: int, generator: torch.Generator) -> torch.Tensor:
    """Numbers of stored draws, (num_samples,): without replacement while there are enough, with replacement beyond."""
    if num_samples <= stored:
        return torch.randperm(stored, generator=generator)[:num_samples]
    return torch.randint(stored, (num_samples,), generator=generator)


def chosen(stored: torch.Tensor, num_samples: int, seed: int, width: int) -> Iterator[torch.Tensor]:
    """Stored draws by `among`, in blocks.

    Args:
        stored: Draws, or what stands for each, (stored, ...).
        num_samples: S.
        seed: Same seed, same draws.
        width: Numbers that a draw is made of.

    Yields:
        (s, ...).
    """
    index = among(len(stored), num_samples, torch.Generator().manual_seed(seed)).to(stored.device)
    for part in index.split(next(blocks(num_samples, width))):
        yield stored[part]
