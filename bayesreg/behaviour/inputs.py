"""What a network does with its inputs: which columns its embeddings use as indices, and whether it writes into them."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from bayesreg._threads import drawing
from bayesreg.behaviour import kinds
from bayesreg.layers.copying import copied

_ENTRIES = 2**22  # rows in one pass when indices are looked for


@dataclasses.dataclass(frozen=True)
class Indices:
    """Which columns of the inputs (channels, of inputs with more axes) reach an embedding.

    Attributes:
        columns: Their numbers.
        sizes: Column to the smallest number of rows of the tables that it indexes directly; a column that is changed first is
            left out.
        names: Column to the name of that embedding.
        width: Number of all columns.
        cast: Whether the forward casts numbers to indices itself (`x[:, 0].long()`).
    """

    columns: tuple[int, ...]
    sizes: dict[int, int]
    names: dict[int, str]
    width: int
    cast: bool

    @property
    def all(self) -> bool:
        """True where every column is an index."""
        return len(self.columns) == self.width

    def check(self, x: torch.Tensor) -> None:
        """Refuse inputs (B, ...) with an invalid index.

        Raises:
            ValueError: If an entry is no row of its embedding.
        """
        if self.all and not self.cast and x.is_floating_point():
            raise ValueError(
                f"X must hold whole numbers where an embedding uses it directly, but {x.dtype} came; pass X.astype(int), "
                "or let the network's forward cast it, x.long()."
            )
        for column, size in self.sizes.items():
            part = x[:, column]
            bad = (part < 0) | (part >= size) | (part != part.floor() if part.is_floating_point() else False)
            if bool(bad.any()):
                first = bad.nonzero()[0].tolist()
                raise ValueError(
                    f"column {column} of X must hold whole numbers from 0 to {size - 1:,}, the rows of the embedding "
                    f"{self.names[column]!r}, but {part[tuple(first)].item():g} came (row {first[0]}); number the levels from "
                    "0, or make num_embeddings larger."
                )


def indices_of(module: nn.Module, row_shape: torch.Size, like: torch.Tensor) -> Indices | None:
    """Find the columns that are indices, by changing one column after the other and watching the embeddings' inputs.

    None where the network has no embedding or the trial fails. The network is not changed; `like` has its dtype and device.
    """
    if not has_embedding(module):
        return None
    for dtype in (like.dtype, torch.int64):
        try:
            return _listened(module, row_shape, like, dtype)
        except Exception:  # a user's module may raise anything here; the fit's own check reports it
            continue
    return None


def index_columns(module: nn.Module, found: Indices | None, x: torch.Tensor) -> tuple[int, ...]:
    """Numbers of the columns that are not standardised because embeddings use them as indices; `found` is from `indices_of`.

    Raises:
        ValueError: If they cannot be told from numbers, or the network casts no column itself.
    """
    if not has_embedding(module):
        return ()
    if found is None:
        if not x.is_floating_point():
            return tuple(range(x.shape[1]))
        raise ValueError(
            "standardize=True must tell indices from numbers, but it is not clear which columns of X the network's "
            "embedding uses; pass standardize=False, and put layers.Standardize before the numbers."
        )
    if not found.all and not found.cast:
        number = next(column for column in range(found.width) if column not in found.columns)
        raise ValueError(
            f"standardize=True makes fractions of the numbers in X (column {number}), but the network uses column "
            f"{found.columns[0]} directly as an index; let its forward cast it, x[:, {found.columns[0]}].long(), or "
            "pass standardize=False."
        )
    return found.columns


def has_embedding(module: nn.Module) -> bool:
    """True where a layer takes indices."""
    return any(isinstance(layer, (nn.Embedding, nn.EmbeddingBag)) for layer in module.modules())


def _listened(module: nn.Module, row_shape: torch.Size, like: torch.Tensor, dtype: torch.dtype) -> Indices:
    listening = _twin(module)
    heard: list[tuple[str, int, torch.Tensor]] = []
    for name, layer in listening.named_modules():
        if isinstance(layer, (nn.Embedding, nn.EmbeddingBag)):

            def hear(layer: Any, args: tuple[Any, ...], name: str = name) -> tuple[Any, ...]:
                heard.append((name, layer.num_embeddings, args[0]))
                return (torch.zeros_like(args[0], dtype=torch.int64), *args[1:])

            layer.register_forward_pre_hook(hear)
    width = row_shape[0]
    found: dict[int, tuple[int, str] | None] = {}
    cast = True
    for part in torch.arange(width).split(max(1, _ENTRIES // max(1, row_shape.numel()))):
        x = torch.ones(len(part) + 1, *row_shape, dtype=dtype, device=like.device)
        x[torch.arange(len(part)) + 1, part] = 2
        heard.clear()
        with torch.no_grad(), drawing(0):
            listening(x)
        for name, size, came in heard:
            cast = cast and not came.is_floating_point()
            rows = came.reshape(len(x), -1)
            for number, column in enumerate(part.tolist()):
                changed = rows[number + 1] != rows[0]
                if not bool(changed.any()):
                    continue
                as_it_is = bool((rows[0][changed] == 1).all() and (rows[number + 1][changed] == 2).all())
                known = found.get(column, (size, name))
                found[column] = min(known, (size, name)) if as_it_is and known is not None else None
    direct = {column: what for column, what in found.items() if what is not None}
    sizes, names = {c: what[0] for c, what in direct.items()}, {c: what[1] for c, what in direct.items()}
    return Indices(tuple(sorted(found)), sizes, names, width, cast and dtype != torch.int64)


def protect(module: nn.Module, x: torch.Tensor) -> None:
    """Let a network that writes into its inputs (a first layer that works in place) work on a copy of them from now on.

    One pass over two prepared rows tells whether it does. Other networks are left as they are, at no cost to their steps. The
    network is a private copy; copies of it are protected too.
    """
    if on_a_copy in module._forward_pre_hooks.values():
        return
    modes = [False]
    if any(kinds.draws(layer) and kinds.works_in_place(layer) for layer in module.modules()):
        modes.append(True)
    with torch.inference_mode(False), torch.no_grad(), drawing(0):
        for training in modes:
            rows = x[:2].clone()
            before = rows.clone()
            try:
                _twin(module).train(training)(rows)
            except Exception:  # the fit's own check reports it
                continue
            if rows._version or not torch.equal(rows, before):
                module.register_forward_pre_hook(on_a_copy)
                return


def on_a_copy(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """The pre-forward hook of `protect`."""
    return tuple(value.clone() if isinstance(value, torch.Tensor) else value for value in args)


def _twin(module: nn.Module) -> nn.Module:
    """A copy of a module that shares its parameters, so that it costs no memory; buffers and hooks are its own."""
    return copied(module, shared=module.parameters())
