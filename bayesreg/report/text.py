"""Numbers and lists as words that a colleague reads."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from bayesreg._readings import SUPERSCRIPT, number


def percent(share: float | None, apart: float | None = None) -> str:
    """A share as a percentage: whole per cent from 10 to 99, one decimal nearer to the ends.

    Args:
        share: The share.
        apart: Another share that it must not look equal to: decimals are added until it does not.

    Returns:
        The text.

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


def column(values: Sequence[float | None], digits: int = 4) -> list[str]:
    """Numbers of one column: as many decimals for each as give the largest about four digits.

    >>> column([-5.4, -15.25, None])
    ['−5.40', '−15.25', '–']
    """
    known = [abs(value) for value in values if value is not None and math.isfinite(value)]
    top = max(known, default=0.0)
    if top >= 1e8 or 0 < top < 1e-3:
        return ["–" if value is None else number(value) for value in values]
    decimals = 0 if top == 0 else min(max(digits - 1 - math.floor(math.log10(top)), 0), 4)
    return ["–" if value is None or math.isnan(value) else f"{value:,.{decimals}f}".replace("-", "−") for value in values]


def plus_minus(value: float, error: float) -> str:
    """A value and its standard error, two digits of the error and as many decimals of the value.

    >>> plus_minus(12.345, 5.123), plus_minus(1.2, 0.138), plus_minus(1234.5, 210.0)
    ('12.3 ± 5.1', '1.20 ± 0.14', '1,234 ± 210')
    """
    if not (math.isfinite(value) and math.isfinite(error) and error > 0) or not 1e-4 <= max(abs(value), error) < 1e8:
        return f"{number(value, 3)} ± {number(error, 3)}"
    decimals = min(max(1 - math.floor(math.log10(error)), 0), 4)
    return f"{value:,.{decimals}f} ± {error:,.{decimals}f}".replace("-", "−")


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
