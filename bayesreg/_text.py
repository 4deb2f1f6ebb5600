"""Numbers, names and tables as text, formatted in one way wherever a person reads them."""

from __future__ import annotations

import abc
import html
import math
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Group

SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def number(value: float, digits: int = 4) -> str:
    """A number as a person reads it: significant digits, thousands apart, no exponent unless it is far from one.

    >>> number(12345.6), number(-0.01234), number(2.5e-7), number(3.0)
    ('12,346', '−0.01234', '2.5 × 10⁻⁷', '3')
    """
    if not math.isfinite(value):
        return "–" if math.isnan(value) else "∞" if value > 0 else "−∞"
    if value != 0 and not 1e-4 <= abs(value) < 1e8:
        mantissa, _, exponent = f"{value:.{max(digits - 2, 0)}e}".partition("e")
        raised = str(int(exponent)).translate(SUPERSCRIPT)
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        return f"{mantissa} × 10{raised}".replace("-", "−")
    decimals = max(digits - 1 - math.floor(math.log10(abs(value))), 0) if value else 0
    text = f"{value:,.{decimals}f}"
    return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", "−")


def column(values: Sequence[float | None], digits: int = 3) -> list[str]:
    """Numbers of one column: as many decimals as give the smallest ordinary one its `digits`, four at most; None is "–".

    A much larger number has fewer decimals, at most six digits in all; one that four decimals would hide has an exponent.

    >>> column([-5.4, -15.25, None]), column([-33018.0, -2.7182, 2e-7])
    (['−5.40', '−15.25', '–'], ['−33,018.0', '−2.72', '2.0 × 10⁻⁷'])
    >>> column([0.5, 12345.6]), column([0.0, 0.0123])
    (['0.500', '12,345.6'], ['0.0000', '0.0123'])
    """
    known = [abs(value) for value in values if value is not None and math.isfinite(value)]
    ordinary = [value for value in known if 1e-3 <= value < 1e8]
    common = min(max(digits - 1 - math.floor(math.log10(min(ordinary))), 0), 4) if ordinary else 0
    texts = []
    for value in values:
        if value is None or not math.isfinite(value):
            texts.append("–" if value is None else number(value))
        elif value != 0 and not 1e-3 <= abs(value) < 1e8:
            mantissa, _, exponent = f"{value:.{digits - 2}e}".partition("e")
            texts.append(f"{mantissa} × 10{str(int(exponent)).translate(SUPERSCRIPT)}".replace("-", "−"))
        else:
            most = 5 - math.floor(math.log10(abs(value))) if value else common
            texts.append(f"{value:,.{max(min(common, most), 0)}f}".replace("-", "−"))
    return texts


def plus_minus(value: float, error: float) -> str:
    """A value and its standard error, two digits of the error and as many decimals of the value.

    >>> plus_minus(12.345, 5.123), plus_minus(1.2, 0.138), plus_minus(1234.5, 210.0)
    ('12.3 ± 5.1', '1.20 ± 0.14', '1,234 ± 210')
    """
    if not (math.isfinite(value) and math.isfinite(error) and error > 0) or not 1e-4 <= max(abs(value), error) < 1e8:
        return f"{number(value, 3)} ± {number(error, 3)}"
    decimals = min(max(1 - math.floor(math.log10(error)), 0), 4)
    return f"{value:,.{decimals}f} ± {error:,.{decimals}f}".replace("-", "−")


def percent(share: float | None, apart: float | None = None) -> str:
    """A share as a percentage: whole per cent from 10 to 99, one decimal nearer to the ends.

    `apart` is another share that it must not look equal to: decimals are added until it does not.

    >>> percent(0.7412), percent(0.0312), percent(0.997), percent(1.0), percent(0.0002)
    ('74 %', '3.1 %', '99.7 %', '100 %', 'under 0.1 %')
    >>> percent(0.948, apart=0.95)
    '94.8 %'
    """
    if share is None or not math.isfinite(share):
        return "–"
    if 0 < share < 0.0005:
        return "under 0.1 %"
    if 0.9995 < share < 1:
        return "over 99.9 %"
    if apart is not None and share != apart and percent(share) == percent(apart):
        decimals = next((d for d in range(1, 6) if f"{100 * share:.{d}f}" != f"{100 * apart:.{d}f}"), 6)
        return f"{100 * share:.{decimals}f} %"
    near = share < 0.0995 or 0.99 < share < 1
    text = f"{100 * share:.1f}" if near and share > 0 else f"{100 * share:.0f}"
    return text.removesuffix(".0") + " %"


def bounds(lower: float, upper: float, apart: float | None = None) -> str:
    """The ends of an interval of a share; `apart` as for `percent`.

    >>> bounds(0.661, 0.812), bounds(0.661, 0.948, apart=0.95)
    ('66–81 %', '66–94.8 %')
    """
    return f"{percent(lower, apart).removesuffix(' %')}–{percent(upper, apart)}"


def name_of(name: str) -> str:
    """A posterior's name inside a sentence: in quotes where it could be misread.

    >>> name_of("MAP"), name_of("MAP, Normal")
    ('MAP', '“MAP, Normal”')
    """
    return f"“{name}”" if re.search("[,;:]", name) else name


def listing(names: Sequence[str], last: str = "and") -> str:
    """Names joined by commas and a last word.

    >>> listing(["MAP", "Laplace", "NUTS"])
    'MAP, Laplace and NUTS'
    """
    shown = [name_of(name) for name in names]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} {last} {shown[-1]}"


def counted(count: int, word: str, many: str | None = None) -> str:
    """A count with its noun.

    >>> counted(1, "row"), counted(1200, "row"), counted(2, "class", "classes")
    ('1 row', '1,200 rows', '2 classes')
    """
    return f"{count:,} {word if count == 1 else many or word + 's'}"


def some(words: Iterable[str], limit: int = 20) -> str:
    """The first words of a list, and how many more there are.

    >>> some("abcd", 3)
    'a, b, c and 1 more'
    """
    words = list(words)
    return ", ".join(words[:limit]) + (f" and {len(words) - limit:,} more" if len(words) > limit else "")


def seconds(value: float) -> str:
    """A duration.

    >>> seconds(0.5), seconds(131.0)
    ('0.5 s', '2 min 11 s')
    """
    if value < 60:
        return f"{number(value, 2)} s"
    return f"{value // 60:,.0f} min {value % 60:.0f} s"


def unbroken(sentence: str) -> str:
    r"""The same sentence typeset: units kept with their numbers at a line's end, minus signs and powers of ten in print.

    >>> unbroken("74 % of 92 rows") == "74\u00a0% of 92 rows"
    True
    >>> unbroken("at most 2e-06, not -1.6").replace("\u00a0", " ")
    'at most 2 × 10⁻⁶, not −1.6'
    """

    def power(found: re.Match[str]) -> str:
        return f"{found[1]} × 10{str(int(found[2])).translate(SUPERSCRIPT)}"

    text = re.sub(r"\b(\d+(?:\.\d+)?)e([+-]\d+)\b", power, sentence)
    text = re.sub(r"(?<![\w\u00a0)-])-(?=\d)", "−", text)
    return re.sub(r"(?<=\d) (?=%|s\b|min\b|nats?\b|×|±)|(?<=[±×]) (?=\d)", "\u00a0", text)


def aligned(rows: Sequence[Sequence[str]], sides: str = "", *, rule: bool = False) -> list[str]:
    """Lines of a table, the heads first; `sides` has "<" or ">" for each column, `rule` draws a line under the heads.

    >>> aligned([["a", "n"], ["bc", "1.5"]], "<>", rule=True)
    ['a     n', '──  ───', 'bc  1.5']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    if rule:
        rows = [rows[0], ["─" * width for width in widths], *rows[1:]]
    sides = sides.ljust(len(widths), "<")
    return ["  ".join(f"{cell:{side}{w}}" for cell, side, w in zip(row, sides, widths, strict=True)).rstrip() for row in rows]


def html_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table for a notebook; a cell that ends in * is the best of its column.

    >>> html_table(["", "n"], [["a", "<1*"]]).splitlines()[2]
    '<tr><th scope="row">a</th><td><b>&lt;1*</b></td></tr>'
    """
    head = "".join(f'<th scope="col">{html.escape(head.strip())}</th>' for head in heads)
    lines = ["<table>", f"<thead><tr>{head}</tr></thead>"]
    for name, *cells in ([html.escape(cell.strip()) for cell in row] for row in rows):
        body = "".join(f"<td>{f'<b>{cell}</b>' if cell.endswith('*') else cell}</td>" for cell in cells)
        lines.append(f'<tr><th scope="row">{name}</th>{body}</tr>')
    return "\n".join([*lines, "</table>"])


class AbstractTextTable(abc.ABC):
    """What is shown as a table: as text, in a terminal, in a notebook.

    Attributes:
        caption: Stands above it; none where empty.
        notes: Stand below it.
    """

    caption: str = ""
    notes: tuple[str, ...] = ()

    @property
    @abc.abstractmethod
    def heads(self) -> Sequence[str]:
        """The heads of the columns."""

    @property
    @abc.abstractmethod
    def cells(self) -> Sequence[Sequence[str]]:
        """The text of each row, under `heads`; no rows, no table."""

    def __str__(self) -> str:
        caption = [self.caption] if self.caption else []
        return "\n".join([*caption, *(aligned([self.heads, *self.cells]) if self.cells else ()), *self.notes])

    def _repr_html_(self) -> str:
        caption, *notes = (f"<p>{html.escape(line)}</p>" for line in (self.caption, *self.notes))
        table = [html_table(self.heads, self.cells)] if self.cells else []
        return "\n".join([*([caption] if self.caption else ()), *table, *notes])

    def __rich__(self) -> Group:
        from rich.box import SIMPLE_HEAD
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
        for head in self.heads:
            table.add_column(head, overflow="fold")
        for cells in self.cells:
            table.add_row(*map(Text, cells))  # as text: a tensor's name may hold brackets
        return Group(*([Text(self.caption)] if self.caption else ()), *([table] if self.cells else ()), *map(Text, self.notes))
