"""The results of metrics: coverage with the uncertainty of its count, and all metrics of one predictive."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, final


@final
@dataclass(frozen=True)
class Coverage:
    """How often central intervals of one level held the truth, with the uncertainty of that count.

    Attributes:
        level: Nominal probability.
        hits: Number of y inside, the ends included.
        num_data: N, or N·K with K outputs; when these depend on each other, the bounds are too narrow.
        rate: hits / num_data.
        lower: Lower end of the 95 % Wilson interval of the rate; `upper` is its upper end.
    """

    level: float
    hits: int
    num_data: int
    rate: float
    lower: float
    upper: float

    @property
    def consistent(self) -> bool:
        """True when chance explains the count, by the binomial's exact tails, two-sided at 5 %."""
        from scipy.special import bdtr, bdtrc

        below, above = bdtr(self.hits, self.num_data, self.level), bdtrc(self.hits - 1, self.num_data, self.level)
        return bool(min(below, above) >= 0.025)


@final
@dataclass(frozen=True, eq=False)
class Scores(Mapping[str, float]):
    """All metrics of one predictive that fit its kind, by name, in a fixed order.

    Attributes:
        kind: "regression", "counts", "binary" or "multiclass".
        num_data: N, the number of rows.
        metrics: Name to value; `scores["rmse"]` reads it.
        coverages: Coverage at 50, 80, 90 and 95 % with its bounds; empty for classes.
        errors: Monte Carlo error of each metric, by name; zero where nothing is drawn.
    """

    kind: str
    num_data: int
    metrics: Mapping[str, float]
    coverages: tuple[Coverage, ...] = ()
    errors: Mapping[str, float] = field(default_factory=dict)

    def __getitem__(self, name: str) -> float:
        return self.metrics[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.metrics)

    def __len__(self) -> int:
        return len(self.metrics)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain types, ready for JSON; a number that is not finite becomes None.

        Returns:
            Keys "kind", "num_data", "metrics", "coverages" and "errors".
        """
        metrics = {name: plain(value) for name, value in self.metrics.items()}
        coverages = [asdict(coverage) for coverage in self.coverages]
        errors = {name: plain(value) for name, value in self.errors.items()}
        found = {"kind": self.kind, "num_data": self.num_data, "metrics": metrics}
        return found | {"coverages": coverages, "errors": errors}


def plain(number: float) -> float | None:
    """A float for JSON, with None for NaN and infinity, which JSON lacks."""
    return float(number) if math.isfinite(number) else None
