"""Whether a fit can be believed: a verdict, and the numbers behind it."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Certificate:
    """Whether a fit can be believed, and why.

    Attributes:
        converged: True when the check below was passed.
        sentence: The verdict in words; says what to do when it is not.
        details: The numbers behind it.
    """

    converged: bool
    sentence: str
    details: dict[str, float | str] = dataclasses.field(default_factory=dict)

    def __str__(self) -> str:
        return self.sentence
