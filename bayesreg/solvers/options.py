"""The settings of a search for a mode, checked once."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

from bayesreg import _check
from bayesreg.solvers.schedules import SCHEDULES
from bayesreg.solvers.stepper import checked_compile

NO_PRIOR = ("adamw", "nadamw", "lion")


@dataclasses.dataclass(frozen=True)
class SearchOptions:
    """How a search goes; see `MAP` for what each means.

    Raises:
        ValueError: If a setting is out of its range, or two of them exclude each other.
    """

    step_settings: ClassVar[tuple[str, ...]] = (
        *("learning_rate", "clip_norm", "compile", "schedule", "num_cycles", "validation_fraction", "checkpoint"),
        "scale_invariant",
    )

    optimizer: str = "auto"
    num_steps: int | None = None
    learning_rate: float | None = None
    batch_size: int | None = None
    jacobian: bool = False
    compile: bool | str = "auto"
    schedule: str = "cosine"
    num_cycles: int = 1
    clip_norm: float | None = None
    validation_fraction: float | None = None
    patience: int | None = None
    num_restarts: int = 1
    checkpoint: Any = None
    scale_invariant: str = "free"
    certify: str | bool = "auto"

    def __post_init__(self) -> None:
        if str(self.optimizer).lower() in NO_PRIOR:
            raise ValueError(
                f"optimizer must minimise loss + penalty, but {self.optimizer!r} decouples its decay, which is the gradient of "
                "no penalty, so that its answer belongs to no prior; take 'adam' and say the decay as a prior: "
                "Normal.from_weight_decay."
            )
        self._checked(
            jacobian=_check.flag("jacobian", self.jacobian),
            compile=checked_compile(self.compile),
            schedule=_check.one_of("schedule", self.schedule, SCHEDULES),
            num_cycles=_check.count("num_cycles", self.num_cycles),
            num_restarts=_check.count("num_restarts", self.num_restarts),
            scale_invariant=_check.one_of("scale_invariant", self.scale_invariant, ("free", "unit-norm")),
            certify=False if self.certify is False else _check.one_of("certify", self.certify, ("auto", "full")),
        )
        for name, check in (
            ("num_steps", _check.steps),
            ("learning_rate", _check.positive),
            ("batch_size", _check.count),
            ("clip_norm", _check.positive),
            ("validation_fraction", _check.fraction),
            ("patience", _check.count),
        ):
            value = getattr(self, name)
            if value is not None:
                self._checked(**{name: check(name, value)})
        for alone, name, needed in (
            (
                self.patience is not None and self.validation_fraction is None,
                "patience",
                "validation_fraction, the rows that it watches",
            ),
            (self.num_cycles > 1 and self.schedule != "cosine", "num_cycles", "schedule='cosine', which starts anew"),
        ):
            if alone:
                raise ValueError(f"{name} must come with {needed}, but it came alone; give both, or neither.")
        if self.num_restarts > 1 and self.scale_invariant != "free":
            raise ValueError(
                f"num_restarts={self.num_restarts} runs fits side by side, which hold no norm, but scale_invariant="
                f"{self.scale_invariant!r} came too; leave one of the two out."
            )

    def _checked(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def of_steps(self) -> dict[str, str]:
        """Settings that only a search by steps reads, of those that were given: each name, and how it is written."""
        given = [name for name in self.step_settings if getattr(self, name) != _DEFAULTS[name]]
        given = [name for name in given if name != "compile" or self.compile is True]
        written = {"compile": "compile=True", "scale_invariant": f"scale_invariant={self.scale_invariant!r}"}
        return {name: written.get(name, name) for name in given}

    def deciding(self) -> dict[str, Any]:
        """What decides the answer: all but where the state is kept, and how it is judged."""
        names = [field.name for field in dataclasses.fields(self) if field.name not in ("checkpoint", "certify")]
        return {name: getattr(self, name) for name in names}


_DEFAULTS = {field.name: field.default for field in dataclasses.fields(SearchOptions)}
