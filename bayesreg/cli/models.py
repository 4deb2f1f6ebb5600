"""A fitted model with what makes its inputs, in one file; predictions for the rows of another file, and comparisons by them."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

import bayesreg as br
from bayesreg import _check
from bayesreg._text import counted, some
from bayesreg.cli.screen import columns, console, say
from bayesreg.cli.tables import Case
from bayesreg.data import Columns, Encoder, Layout, Reading, TableError, Writing, read_file, stream_file
from bayesreg.data.targets import Target, match_target
from bayesreg.io import FORMAT, content_of, posterior_of
from bayesreg.predictive import Predictive
from bayesreg.storage.files import probe, replacing
from bayesreg.storage.schema import plain
from bayesreg.storage.sealed import seal, unseal

if TYPE_CHECKING:
    from bayesreg.metrics import Scores

_WRITTEN_BY = "bayesreg report --save"
_BLOCK = 10_000  # rows


@dataclasses.dataclass(frozen=True, eq=False)
class Fitted:
    """A model that was fitted to a table.

    Attributes:
        posterior: The posterior.
        encoder: What makes its inputs.
        target: The target's name and classes; its values are not kept.
        reading: How the table was written.
        source: The table's name.
    """

    posterior: br.AbstractPosterior
    encoder: Encoder
    target: Target
    reading: Reading
    source: str


def save_model(posterior: br.AbstractPosterior, case: Case, path: Path, *, force: bool) -> None:
    """Write a model to a file, completely or not at all.

    Raises:
        ValueError: If it could not be loaded again, or the file exists and `force` is not given.
    """
    table = {
        "encoder": case.prepared.encoder.to_dict(),
        "target": {"name": case.target.name, "classes": case.classes, "said": case.target.said},
        "reading": dataclasses.asdict(case.reading),
        "source": case.prepared.source,
    }
    content = {"posterior": content_of(posterior), "table": plain(table)}
    with replacing([path], force=force) as (handle,):
        seal(handle, "model", FORMAT, content)


def load_model(path: Path) -> Fitted:
    """Read a model that `save_model` wrote.

    Raises:
        ValueError: If the file is not one.
    """
    content = unseal(path, "model", FORMAT, _WRITTEN_BY)
    try:
        table, posterior = content["table"], posterior_of(content["posterior"])
        target = Target(table["target"]["name"], np.empty(0), table["target"]["classes"], table["target"]["said"])
        reading, encoder = table["reading"], Encoder.from_dict(table["encoder"])
        writing = {**reading["writing"], "na": tuple(reading["writing"]["na"])}
        how = Reading(Layout(**reading["layout"]), Writing(**writing), reading["sheet"])
    except (KeyError, TypeError) as error:
        raise ValueError(f"{str(path)!r} must be a model written by {_WRITTEN_BY}, but {error!r} came; fit again.") from None
    return Fitted(posterior, encoder, target, how, table["source"])


def predict(model: Path, file: Path, out: Path, *, level: float, num_samples: int | None, seed: int, force: bool) -> None:
    """Write predictions for the rows of a file beside its own columns; say what was done.

    Raises:
        ValueError: If the model or the file is refused; then nothing is written.
        TableError: If the file is not like that of the fit, with all problems.
    """
    _check.fraction("--level", level)
    if num_samples is not None:
        _check.count("--num-samples", num_samples)
    if out.suffix.lower() != ".csv":
        raise ValueError(f"--out must end in .csv, but {str(out)!r} came; choose another name.")
    probe(out, force=force)
    fitted = load_model(model)
    tally = _Tally()
    with replacing([out], force=force) as (handle,):
        text = io.TextIOWrapper(handle, encoding="utf-8", newline="")
        writer = csv.writer(text, lineterminator="\n")
        for block in stream_file(file, fitted.reading, _BLOCK, texts=fitted.encoder.categories):
            heads, cells = _predictions(fitted, block.columns, level, num_samples, seed, tally)
            if not tally.rows:
                writer.writerow([*block.cells, *_apart(heads, block.cells)])
            tally.rows += block.columns.num_rows
            own = zip(*block.cells.values(), strict=True)
            writer.writerows([*mine, *made] for mine, made in zip(own, cells, strict=True))
        if not tally.rows:
            raise TableError(file.name, [f"{file.name} must have rows to predict, but none came; check the file."])
        text.flush()
        text.detach()
    screen = console()
    say(screen, f"{out}: {counted(tally.rows, 'row')} of {file.name} with predictions of {fitted.target.name!r}", style="bold")
    say(screen, *_what(fitted, level), *tally.notes(), indent=2)


@dataclasses.dataclass
class _Tally:
    """What is to be said of all blocks.

    Attributes:
        rows: So far.
        gaps: Of them, those without a prediction.
        imputed: Of them, those where a value was missing and filled in.
        new: Levels without an input of their own, by column: how many rows, and one of them.
    """

    rows: int = 0
    gaps: int = 0
    imputed: int = 0
    new: dict[str, tuple[int, str]] = dataclasses.field(default_factory=dict)

    def notes(self) -> Iterator[str]:
        """What is to be said, a sentence each."""
        if self.gaps:
            yield f"{counted(self.gaps, 'row')} with missing values: no prediction (the model was fitted with --missing drop)"
        if self.imputed:
            yield f"{counted(self.imputed, 'row')} with missing values: filled in as in training"
        for name, (rows, level) in self.new.items():
            yield f"{name}: {counted(rows, 'row')} with a level that has no input of its own, such as {level!r}"


def _predictions(
    fitted: Fitted, found: Columns, level: float, num_samples: int | None, seed: int, tally: _Tally
) -> tuple[list[str], list[list[str]]]:
    """Heads and cells of the predictions; cells are empty for rows that have none."""
    encoder, number = fitted.encoder, found.num_rows
    complete = encoder.complete(found)
    keep = complete if encoder.missing == "drop" else np.ones(number, dtype=bool)
    tally.gaps += int((~keep).sum())
    tally.imputed += int((~complete).sum()) if encoder.missing == "impute" else 0
    for name, new in encoder.new_levels(found).items():
        rows, first = tally.new.get(name, (0, new[0]))
        tally.new[name] = (rows + len(new), first)
    inputs = encoder.transform(found.take(keep))
    if not len(inputs):
        inputs_of_one = np.zeros((1, len(encoder.feature_names)))
        heads, _ = _columns_of(fitted, fitted.posterior.predict(inputs_of_one, num_samples=2, seed=seed), level)
        return heads, [[""] * len(heads) for _ in range(number)]
    predictive = fitted.posterior.predict(inputs, num_samples=num_samples, seed=seed)
    heads, values = _columns_of(fitted, predictive, level)
    made = iter(values.tolist())
    shown = ([f"{v:.6g}" if isinstance(v, float) else v for v in next(made)] if there else [""] * len(heads) for there in keep)
    return heads, list(shown)


def _columns_of(fitted: Fitted, predictive: Predictive, level: float) -> tuple[list[str], np.ndarray]:
    """Heads and (N, number of heads) values of a predictive."""
    name, classes = fitted.target.name, fitted.target.classes
    mean = predictive.mean.double().cpu()
    if classes is None:
        low, high = (bound.double().cpu() for bound in predictive.interval(level))
        values = torch.stack([mean, predictive.std.double().cpu(), low, high], dim=-1).numpy()
        ends = (f"{100 * share:g} %" for share in ((1 - level) / 2, (1 + level) / 2))
        return [f"{name} mean", f"{name} sd", *(f"{name} {end}" for end in ends)], values
    shares = torch.stack([1 - mean, mean], dim=-1) if mean.dim() == 1 else mean
    best = np.array(classes, dtype=object)[shares.argmax(-1).numpy()]
    heads = [f"{name} predicted", *(f"P({name}={one})" for one in classes)]
    return heads, np.column_stack([best, shares.numpy().astype(object)])


def _apart(heads: Sequence[str], own: Mapping[str, Any]) -> list[str]:
    """Names that the file's own columns do not have."""
    return [head if head not in own else f"{head} (predicted)" for head in heads]


def _what(fitted: Fitted, level: float) -> Iterator[str]:
    made = f"{fitted.posterior.method}, fitted to {fitted.source}"
    if fitted.target.classes is None:
        yield f"mean, sd and {100 * level:g} % interval by {made}"
    else:
        yield f"the most probable class and the probability of each by {made}"
    if fitted.encoder.left_out:
        yield f"not used: {some(fitted.encoder.left_out)}"


def compare_models(file: Path, models: Sequence[Path], *, num_samples: int | None, seed: int) -> None:
    """Print how well saved models predict the rows of a file that has the target.

    Raises:
        ValueError: If the models are not of one target, or the file is refused.
    """
    if len(models) < 2:
        raise ValueError(f"there must be two models to compare, but one came; name another that {_WRITTEN_BY} has written.")
    stems = [path.stem for path in models]
    found = {stem if stems.count(stem) == 1 else str(path): load_model(path) for stem, path in zip(stems, models, strict=True)}
    first = next(iter(found.values()))
    for name, fitted in found.items():
        if (fitted.target.name, fitted.target.classes) != (first.target.name, first.target.classes):
            came = f"{name} predicts {fitted.target.name!r} and {next(iter(found))} {first.target.name!r}"
            raise ValueError(f"models to compare must have one target with the same classes, but {came}; leave one out.")
    rows: dict[str, torch.Tensor] = {}
    scores: dict[str, Scores] = {}
    tables = {name: _with_target(file, fitted) for name, fitted in found.items()}
    usable = [f.encoder.complete(tables[name][0]) | (f.encoder.missing == "impute") for name, f in found.items()]
    keep = np.all(usable, axis=0)
    for name, fitted in found.items():
        part, y = tables[name]
        target = fitted.posterior.model.targets(torch.as_tensor(y[keep]))
        predictive = fitted.posterior.predict(fitted.encoder.transform(part.take(keep)), num_samples=num_samples, seed=seed)
        rows[name], scores[name] = predictive.log_prob(target).double(), br.metrics.evaluate(predictive, target, seed=seed)
    _say_scores(rows, scores, file, first.target.name)


def _with_target(file: Path, fitted: Fitted) -> tuple[Columns, np.ndarray]:
    read = read_file(file, fitted.reading, texts=fitted.encoder.categories)
    if read.problems:
        raise TableError(read.columns.name, read.problems)
    if fitted.target.name not in read.columns:
        near = _check.closest(fitted.target.name, read.columns)
        came = f"{fitted.target.name!r} did not come{near}"
        raise ValueError(f"{file.name} must have the target to compare by, but {came}; add it.")
    has, y = match_target(fitted.target, read.columns)
    return read.columns.take(has), y


def _say_scores(rows: Mapping[str, torch.Tensor], scores: Mapping[str, Scores], file: Path, target: str) -> None:
    best = max(rows, key=lambda name: float(rows[name].mean()))
    number = len(rows[best])
    screen = console()
    say(screen, f"{file.name}: {counted(number, 'row')} with {target!r}", style="bold")
    order = sorted(rows, key=lambda name: -float(rows[name].mean()))
    deltas = []
    for name in order:
        apart = rows[name] - rows[best]
        error = float(apart.std(unbiased=True)) * number**0.5 if number > 1 else float("nan")
        deltas.append("0" if name == best else f"{float(apart.sum()):.2f} ± {error:.2f}")
    measures = [measure for measure in scores[best].metrics if not measure.startswith("coverage_") or measure == "coverage_95"]
    lines = [("Δ ± se", *deltas)]
    lines += [(measure, *(f"{scores[name][measure]:.4g}" for name in order)) for measure in measures]
    columns(screen, ("", *order), lines, numbers=True)
    told = "Δ: log density summed over the rows minus that of the best, ± its standard error, paired by row."
    say(screen, "", f"mlpd: mean log density, in nats a row. {told}")
