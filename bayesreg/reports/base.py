"""The base of a report's sections: one file has a section's facts, its part of the verdict, figures, words and template."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar, final

from bayesreg._catalog import concrete
from bayesreg.comparison import Comparison
from bayesreg.operators import Observed
from bayesreg.posteriors.base import AbstractPosterior
from bayesreg.predictive.mixture import Predictive
from bayesreg.reports.svg import inline

if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = TypeVar("T")
State = Literal["good", "neutral", "bad"]
WORDS: dict[State, tuple[str, str]] = {"good": ("✓", "Good"), "neutral": ("i", "Note"), "bad": ("!", "Caution")}


@final
@dataclass(frozen=True)
class Line:
    """One sentence and its state."""

    state: State
    text: str


@final
@dataclass(frozen=True)
class Card:
    """One question with its answer.

    Attributes:
        topic: The question, in a word or two.
        state: "good", "neutral" or "bad".
        headline: The answer.
        lines: Its evidence, one sentence each.
        section: Id of the section that shows more.
        order: Its place in the verdict; 0 for a card that casts doubt on all the others.
    """

    topic: str
    state: State
    headline: str
    lines: tuple[Line, ...]
    section: str
    order: int = 9

    def to_dict(self) -> dict[str, Any]:
        """The same as plain types."""
        return {key: value for key, value in asdict(self).items() if key != "order"} | {"lines": [*map(asdict, self.lines)]}


@final
@dataclass(frozen=True)
class Drawn:
    """One figure of the page.

    Attributes:
        title: Subject of the figure.
        finding: Its content, in words.
        label: Id of the element with these words.
        svg: The element.
    """

    title: str
    finding: str
    label: str
    svg: str


@dataclass
class Material:
    """The input of a report, and the facts of its sections so far.

    Attributes:
        posteriors: By name.
        comparison: Their comparison, from `compare`.
        X: Test inputs, columns in the order of the fit.
        y: The targets that were scored.
        given: Other arguments of `report`: "source", "feature_names", "target_name", "classes", "notes", "row_names",
            "rows_are", "num_samples", "truth".
        seed: Seed of all draws.
        data: The facts so far, as plain values.
    """

    posteriors: Mapping[str, AbstractPosterior]
    comparison: Comparison
    X: Any
    y: Any
    given: Mapping[str, Any]
    seed: int = 0
    data: dict[str, Any] = field(default_factory=dict)
    _found: dict[Callable[..., Any], Any] = field(default_factory=dict)
    _figures: int = 0

    @property
    def regression(self) -> bool:
        """Whether numbers are predicted, and no classes."""
        return self.comparison.labels is None

    @property
    def inverse(self) -> bool:
        """Whether these are answers to an inverse problem, whose rows are the measurements that were fitted."""
        return all(isinstance(one.model.module, Observed) for one in self.posteriors.values())

    @property
    def series(self) -> dict[str, int]:
        """The number of each posterior, for its colour."""
        return {name: i for i, name in enumerate(self.posteriors)}

    def once(self, what: Callable[[Material], T]) -> T:
        """A value that several sections need, computed once."""
        if what not in self._found:
            self._found[what] = what(self)
        return self._found[what]

    def draw(self, figure: Figure, title: str, finding: str) -> Drawn:
        """Put one figure on the page, numbered so that ids never clash."""
        self._figures += 1
        label = f"figure-{self._figures}"
        return Drawn(title, finding, label, inline(figure, f"f{self._figures}", label))


class AbstractSection(abc.ABC):
    """One section of the page; every subclass appears on it.

    Attributes:
        id: Id of the element.
        title: Title in the list of sections.
        place: Sections are ordered by it.
        template: Jinja text; it gets the facts as `data`, the values of `shown`, and the macros of `macros.html`.
        words: This section's entries of the glossary.
        tests: Whether it judges predictions of rows that were not fitted: an inverse problem has none.
    """

    id: ClassVar[str]
    title: ClassVar[str]
    place: ClassVar[float]
    template: ClassVar[str]
    words: ClassVar[Mapping[str, str]] = {}
    tests: ClassVar[bool] = False

    @abc.abstractmethod
    def facts(self, made: Material) -> dict[str, Any]:
        """Plain values for the report's JSON, by keys of their own."""

    def cards(self, made: Material) -> Iterable[Card]:
        """Its part of the verdict, once all facts are known."""
        return ()

    def says(self, made: Material) -> bool:
        """Whether there is anything to show, once all facts are known; otherwise the section is left out."""
        return True

    def shown(self, made: Material) -> dict[str, Any]:
        """Other values for its template: figures, tables."""
        return {}


def all_sections() -> list[AbstractSection]:
    """Every section, in order."""
    kinds: Sequence[Any] = concrete(AbstractSection)
    return sorted((kind() for kind in kinds), key=lambda section: section.place)


def num_outputs(predictive: Predictive) -> int:
    """K of a regression with several outputs, else 1: class probabilities are treated together."""
    return predictive.num_outputs if predictive.likelihood.labels is None else 1
