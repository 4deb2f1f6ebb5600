"""Numbers and lists as words that a colleague reads."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bayesreg.metrics.readings import SUPERSCRIPT, number
from bayesreg.metrics.readings import percent as percent
from bayesreg.metrics.readings import plus_minus as plus_minus


def bounds(lower: float, upper: float, apart: float | None = None) -> str:
    """The ends of an interval of a share.

    Args:
        lower: One end.
        upper: The other.
        apart: As for `percent`.

    Returns:
        The text.

    >>> bounds(0.661, 0.812), bounds(0.661, 0.948, apart=0.95)
    ('66–81 %', '66–94.8 %')
    """
    return f"{percent(lower, apart).removesuffix(' %')}–{percent(upper, apart)}"


def name_of(name: str) -> str:
    """A posterior's name inside a sentence: in quotes where it would be taken apart.

    >>> name_of("MAP"), name_of("MAP, Normal")
    ('MAP', '“MAP, Normal”')
    """
    return f"“{name}”" if re.search("[,;:]", name) else name


def listing(names: Sequence[str], last: str = "and") -> str:
    """Names in a row.

    >>> listing(["MAP", "Laplace", "NUTS"])
    'MAP, Laplace and NUTS'
    """
    shown = [name_of(name) for name in names]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} {last} {shown[-1]}"


def plural(count: int, word: str, many: str | None = None) -> str:
    """A count with its noun.

    >>> plural(1, "row"), plural(1200, "row")
    ('1 row', '1,200 rows')
    """
    return f"{count:,} {word if count == 1 else many or word + 's'}"


def seconds(value: float) -> str:
    """A duration.

    >>> seconds(0.5), seconds(131.0)
    ('0.5 s', '2 min 11 s')
    """
    if value < 60:
        return f"{number(value, 2)} s"
    return f"{value // 60:,.0f} min {value % 60:.0f} s"


def unbroken(sentence: str) -> str:
    r"""The same as a page sets it: units held to their numbers at a line's end, minus signs and powers of ten in print.

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
