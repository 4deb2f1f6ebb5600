"""From the options about the data to a case: arrays, a likelihood, and what was done, or all that is wrong in one message."""

from __future__ import annotations

import dataclasses
import math
import shlex
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

import bayesreg as br
from bayesreg import _check, likelihoods
from bayesreg._catalog import concrete
from bayesreg._text import counted, some
from bayesreg.data import (
    Columns,
    Encoder,
    File,
    Layout,
    Prepared,
    Reading,
    Split,
    Wanted,
    Writing,
    load_diabetes,
    prepare,
    read_file,
)
from bayesreg.data.splits import group_rows, latest_rows, random_rows, repeated_in
from bayesreg.data.targets import Target
from bayesreg.likelihoods import AbstractLikelihood
from bayesreg.model import default_model

FRACTION = 0.2


@dataclasses.dataclass(frozen=True)
class Asked:
    """What was asked about the data.

    Attributes:
        file: The file; None for the demo's data.
        target: Column to predict.
        kind: "regression" or "classification"; None where the values decide.
        drop: Columns to leave out.
        categorical: Columns of categories.
        numeric: Columns of numbers.
        transform: Functions of columns, as "log:price".
        missing: What missing values do; None for what is usual here, impute.
        max_levels: Most levels.
        test_fraction: Share of the rows held out; None for the usual one.
        test: File of test rows.
        split: "time:COLUMN" or "group:COLUMN"; None for at random.
        reading: How the file is written.
        whole: Whether all rows are used and none held out.
    """

    file: Path | None = None
    target: str | None = None
    kind: str | None = None
    drop: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    numeric: tuple[str, ...] = ()
    transform: tuple[str, ...] = ()
    missing: str | None = None
    max_levels: int = 50
    test_fraction: float | None = None
    test: Path | None = None
    split: str | None = None
    reading: Reading = dataclasses.field(default_factory=Reading)
    whole: bool = False

    def __post_init__(self) -> None:
        if self.kind is not None:
            _check.one_of("--kind", self.kind, ("regression", "classification"))
        if self.missing is not None:
            _check.one_of("--missing", self.missing, ("impute", "drop", "refuse"))
        _check.count("--max-levels", self.max_levels)
        if self.test is not None and (self.split is not None or self.test_fraction is not None):
            raise ValueError(
                "--test must come without --split and --test-fraction, since it has the rows to judge by; leave one out."
            )
        if self.split is not None and self.split.partition(":")[0] not in ("time", "group"):
            raise ValueError(f"--split must read time:COLUMN or group:COLUMN, but {self.split!r} came; write one of these.")
        for text in self.transform:
            if not all(text.partition(":")):
                raise ValueError(
                    f"--transform must read F:COLUMN, as log:price, but {text!r} came; write both sides of the ':'."
                )

    @property
    def wanted(self) -> Wanted:
        """What is asked of the table.

        Raises:
            ValueError: If no target was said.
        """
        if self.target is None:
            raise ValueError("a FILE needs the column to predict, but none was said; add --target NAME.")
        transform = {name: function for function, _, name in (text.partition(":") for text in self.transform)}
        if self.target in transform:
            raise ValueError(
                f"--transform must be of a feature, but {self.target!r} is the target; take a likelihood for its form, as "
                "--likelihood 'LogNormal()'."
            )
        classes = None if self.kind is None else self.kind == "classification"
        missing: Any = self.missing or "impute"
        unused = self.drop + ((self.divided_by,) if self.split is not None and self.split.startswith("group:") else ())
        return Wanted(self.target, classes, missing, unused, self.categorical, self.numeric, transform, self.max_levels)

    @property
    def divided_by(self) -> str:
        """The column that a split goes by; empty for one at random."""
        return (self.split or "").partition(":")[2]


def reading_of(
    encoding: str | None, separator: str | None, decimal: str | None, dates: str | None, na: tuple[str, ...], header: bool,
    skip_lines: int, sheet: str | None, bad_rows: str,
) -> Reading:  # fmt: skip
    """How a file is written, by the options.

    Raises:
        ValueError: If one is wrong.
    """
    separator = {"tab": "\t", "\\t": "\t"}.get(separator or "", separator)
    return Reading(Layout(encoding, separator, header, skip_lines, bad_rows), Writing(na, decimal, dates), sheet)


def missing_as(missing: str | None, drop_missing: bool) -> str | None:
    """What missing values do, by `--missing` and the older `--drop-missing`.

    Raises:
        ValueError: If they contradict each other.
    """
    if drop_missing and missing not in (None, "drop"):
        raise ValueError(f"--drop-missing is --missing drop, but --missing {missing} came too; leave one out.")
    return "drop" if drop_missing else missing


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """Data with a likelihood.

    Attributes:
        prepared: The arrays and what made them.
        likelihood: What suits the target.
        said: Why, in sentences: what was chosen and what was not.
        how: How the rows to judge by were held out.
        reading: How the file is written.
    """

    prepared: Prepared
    likelihood: AbstractLikelihood
    said: tuple[str, ...]
    how: str
    reading: Reading = dataclasses.field(default_factory=Reading)

    @property
    def split(self) -> Split:
        """The arrays."""
        return self.prepared.split

    @property
    def target(self) -> Target:
        """The target."""
        return self.prepared.target

    @property
    def classes(self) -> list[str] | None:
        """The classes; None for numbers."""
        return self.prepared.target.classes

    @property
    def feature_names(self) -> list[str]:
        """Names of the inputs."""
        return self.prepared.encoder.feature_names


def demo(seed: int) -> Case:
    """The demo's data."""
    import pandas as pd

    table = load_diabetes()
    split = table.train_test_split(FRACTION, seed)
    rows = dataclasses.replace(table, X=np.arange(1.0, len(table.y) + 1)[:, None]).train_test_split(FRACTION, seed)
    encoder = Encoder.fit(pd.DataFrame(table.X, columns=table.feature_names), numeric=table.feature_names)
    numbers = (rows.X_train[:, 0].astype(int), rows.X_test[:, 0].astype(int))
    target = Target(table.target, table.y, None, table.encoding[0])
    prepared = Prepared(split, encoder, target, table.encoding, table.source, numbers, 0)
    return Case(prepared, likelihoods.suiting(None), (), "held out at random")


def read(asked: Asked, likelihood: str | None, seed: int) -> Case:
    """The case of a file.

    Raises:
        ValueError: With all problems of the file, if it cannot be used.
    """
    if asked.file is None:
        if asked != Asked(max_levels=asked.max_levels, whole=asked.whole):
            raise ValueError("options about the data need a FILE, but none came; write: bayesreg priors FILE --target NAME.")
        return demo(seed)
    wanted = asked.wanted
    scored = likelihood == "auto"
    given = None if likelihood is None or scored else likelihoods.parse(likelihood)
    file = read_file(asked.file, asked.reading, texts=asked.categorical, drop=asked.drop)
    test = None if asked.test is None else read_file(asked.test, file.reading, texts=asked.categorical, drop=asked.drop)

    def decide(values: Any) -> bool:
        if given is None:
            return _choice(values).likelihood.labels is not None
        numbers = getattr(values, "dtype", None) == np.float64
        return not numbers or (
            given.labels is not None and len(set(values.tolist())) <= wanted.max_levels and not np.any(values % 1)
        )

    def hold_out(features: Columns, target: Target) -> np.ndarray:
        return _held_out(file, features, target, asked, seed)

    prepared = prepare(file, wanted, decide=decide, hold_out=None if asked.whole or test is not None else hold_out, test=test)
    how = "at random" if asked.split is None else f"by {asked.split}"
    how = f"held out {how}" if test is None else f"of {test.columns.name}"
    gaps = () if asked.missing is not None else _gaps_said(prepared)
    if asked.split is None and test is None and not asked.whole:
        gaps += _groups_said(file.columns.without([prepared.target.name]))
    if given is not None:
        return Case(prepared, given, gaps, how, file.reading)
    chosen, said = _chosen(file.columns, prepared)
    if scored and prepared.target.classes is None:
        chosen, said = _by_score(prepared.split, chosen, seed)
    return Case(prepared, chosen, gaps + said, how, file.reading)


def _choice(values: Any) -> likelihoods.Choice:
    with np.errstate(all="ignore"):  # numbers whose squares overflow are refused later
        return likelihoods.choose(values)


def _chosen(columns: Columns, prepared: Prepared) -> tuple[AbstractLikelihood, tuple[str, ...]]:
    """The likelihood by the training rows' targets; for classes by their names, which all rows give."""
    from bayesreg.data.targets import values_of

    target = prepared.target
    if target.classes is None:
        choice = _choice(prepared.split.y_train)
        if choice.likelihood.labels is not None:  # few different numbers in training, or numbers as asked
            return likelihoods.suiting(None), ()
    else:
        choice = _choice(values_of(columns[target.name]))
        if choice.likelihood.labels is None:  # classes as asked
            return likelihoods.suiting(len(target.classes)), ()
    return choice.likelihood, (choice.said, *choice.rejected)


def _by_score(split: Split, chosen: AbstractLikelihood, seed: int) -> tuple[AbstractLikelihood, tuple[str, ...]]:
    """The likelihood whose linear model gives the highest log density to training rows that were left out of its fit."""
    y = split.y_train
    late = random_rows(len(y), FRACTION, seed)
    x = split.X_train[~late]
    scores: dict[str, tuple[float, AbstractLikelihood]] = {}
    kinds: list[Any] = concrete(AbstractLikelihood)
    for kind in kinds:
        tried = kind()
        if tried.labels is not None or tried.discrete != chosen.discrete or not tried.suits(None):
            continue
        try:
            tried.check_target(torch.as_tensor(y))
            model = default_model(x, y[~late], tried, hidden=(), seed=seed)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", br.ConvergenceWarning)
                mode = br.fit(model, x, y[~late], method=br.inference.MAP(certify=False), seed=seed, progress=False)
            predictive = mode.predict(split.X_train[late])
            score = float(predictive.log_prob(model.targets(torch.as_tensor(y[late]))).double().mean())
        except ValueError:  # it does not suit these targets
            continue
        if math.isfinite(score):
            scores[kind.__name__] = (score, tried)
    if not scores:
        return chosen, ()
    order = sorted(scores, key=lambda name: -scores[name][0])
    listed = ", ".join(f"{name} {scores[name][0]:.4g}" for name in order)
    how = f"the highest log density on {late.sum():,} training rows left out, of linear models, in nats a row"
    said = f"{order[0]}: {how}: {listed}."
    return scores[order[0]][1], (said,)


def _held_out(file: File, features: Columns, target: Target, asked: Asked, seed: int) -> np.ndarray:
    fraction = FRACTION if asked.test_fraction is None else asked.test_fraction
    if asked.split is None:
        return random_rows(len(target.y), fraction, seed, None if target.classes is None else target.y)
    name = asked.divided_by
    if name not in features:
        near = _check.closest(name, features)
        raise ValueError(f"--split must name a column besides the target, but {name!r} came{near}; correct its name.")
    column = features[name]
    if column.missing.any():
        place = int(np.argmax(column.missing))
        drop = ", or pass --missing drop to leave such rows out" if asked.split.startswith("time:") else ""
        raise ValueError(f"--split needs a value in every row, but none came in {features.at(name, place)}; fill it in{drop}.")
    if asked.split.startswith("group:"):
        return group_rows(column.as_texts(), fraction, seed)
    if column.kind not in ("dates", "numbers"):
        raise ValueError(f"--split time: needs dates or numbers, but {name!r} holds {column.kind}; take another column.")
    return latest_rows(column.values, fraction)


def _gaps_said(prepared: Prepared) -> tuple[str, ...]:
    """What was done about missing values without being asked; nothing where there were none."""
    counts = prepared.encoder.gaps
    if not counts:
        return ()
    cells = counted(sum(counts.values()), "missing value")
    return (
        f"{cells} in {counted(len(counts), 'column')} of the training rows: imputed (--missing drop leaves such rows out, "
        "--missing refuse stops).",
    )


def _groups_said(features: Columns) -> tuple[str, ...]:
    """That rows seem to come in groups, which a random split takes apart; nothing where they do not."""
    found = repeated_in(features)
    if not found:
        return ()
    listed = some([f"{name} ({count:,} values)" for name, count in found.items()], 3)
    coarsest = shlex.quote(f"group:{next(iter(found))}")
    return (
        f"rows may be repeated measurements, by {listed}: held out at random, rows are judged beside others of their group; "
        f"--split {coarsest} holds out whole groups.",
    )


__all__ = ["Asked", "Case", "demo", "missing_as", "read", "reading_of"]
