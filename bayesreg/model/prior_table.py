"""The prior table: what is assumed about every unknown, before any fit, as text, for a terminal, a notebook or pandas."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bayesreg._text import AbstractTextTable

if TYPE_CHECKING:
    import pandas


@dataclasses.dataclass(frozen=True)
class PriorRow:
    """One line of the prior table, as text.

    Attributes:
        tensor: Dotted name.
        shape: "50 × 10".
        prior: The prior as specified.
        scale: The scale that is used after fan-in, autoscale and the like; "–" where there is none.
        penalty: The corresponding penalty.
        source: Which rule, or default.
        note: A remark: an unknown scale, a flat affine weight of a normalisation layer.
    """

    tensor: str
    shape: str
    prior: str
    scale: str
    penalty: str
    source: str
    note: str = ""


@dataclasses.dataclass(frozen=True)
class PriorTable(AbstractTextTable):
    """What is assumed about every tensor, before any fit.

    Attributes:
        rows: One a tensor, in the module's order, an unknown scale under its tensor; then outputs, and the noise last.
        notes: Remarks on all rows, a sentence each, such as the units that the priors are in.
    """

    rows: tuple[PriorRow, ...]
    notes: tuple[str, ...] = ()

    @property
    def heads(self) -> list[str]:
        """The columns that hold something: notes only where there is one."""
        heads = [f.name for f in dataclasses.fields(PriorRow)]
        return heads if any(row.note for row in self.rows) else heads[:-1]

    @property
    def cells(self) -> list[list[str]]:
        """The text of each row, under `heads`."""
        return [[getattr(row, head) for head in self.heads] for row in self.rows]

    def to_dicts(self) -> list[dict[str, str]]:
        """The rows as dictionaries, notes included."""
        return [dataclasses.asdict(row) for row in self.rows]

    def to_frame(self) -> pandas.DataFrame:
        """The rows as a pandas data frame."""
        import pandas

        return pandas.DataFrame(self.cells, columns=pandas.Index(self.heads))


def dimensions(shape: Sequence[int]) -> str:
    """A shape as the table shows it.

    >>> dimensions((50, 10)), dimensions(())
    ('50 × 10', 'scalar')
    """
    return " × ".join(map(str, shape)) or "scalar"
