"""The default model and method on nineteen ordinary tables, beside class shares or the mean, a line, boosting and a forest.

    python benchmarks/tables.py --data DIR [--quick] [--only housing,Auto] [--splits 5] [--seconds 60]

DIR holds `tables/`, `uci/` and `airfoil.csv`; diabetes, breast cancer, wine and digits are scikit-learn's. Rows are divided by
five folds (of UCI sets, their first published splits), so that every row is tested once; nothing is chosen on test rows.
Baselines have the noise of their residuals on rows left out, see `bayesreg.baselines`.

Per table: log density a row of the default fit, of the best baseline and of the line; Δ to both, summed over all test rows,
± its standard error paired by row; coverage of 95 % intervals, marked ! where a calibrated one would be as far off once in
twenty; certificates that are passed; CPU seconds of a fit, median. At the end: on how many tables Δ to the best baseline is at
least −1 se, and on how many Δ to the line is below −2 se. Nothing is asserted.
"""

from __future__ import annotations

import argparse
import csv
import math
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import binom

import bayesreg as br
from bayesreg import likelihoods
from bayesreg.baselines import fit_baselines
from bayesreg.data import load_uci, read_table
from bayesreg.inference import Auto
from bayesreg.model import default_model, network_note

# target, columns that are left out, and what is predicted
TABLES: dict[str, tuple[str, tuple[str, ...], str | None]] = {
    "housing": ("price", (), None),
    "birthwt": ("low", ("bwt",), "classification"),
    "grouseticks": ("TICKS", ("INDEX",), None),
    "pbc": ("bili", ("id",), None),
    "Hitters": ("Salary", (), None),
    "OJ": ("Purchase", (), None),
    "Auto": ("mpg", ("name",), None),
    "Carseats": ("Sales", (), None),
    "prestige": ("prestige", (), None),
    "quine": ("Days", (), None),
}
BUNDLED = ("diabetes", "breast_cancer", "wine", "digits")
UCI = ("concrete", "energy", "wine-quality-red", "yacht")
NAMES = (*TABLES, *BUNDLED, *UCI, "airfoil")
Rows = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def loaded(name: str, data: Path) -> tuple[np.ndarray, np.ndarray, int | None]:
    """Inputs, target, and the number of classes or None; rows with missing values are left out."""
    if name in TABLES:
        target, drop, kind = TABLES[name]
        file: Any = data / "tables" / f"{name}.csv"
        words: Any = {"kind": kind, "drop": drop, "missing": "drop", "max_levels": 150}
        table = read_table(file, target, **words)
        return table.X, table.y, None if table.classes is None else len(table.classes)
    if name == "airfoil":
        with open(data / "airfoil.csv", encoding="utf-8") as stream:
            target = next(csv.reader(stream))[-1]
        table = read_table(data / "airfoil.csv", target)
        return table.X, table.y, None
    from sklearn import datasets

    found: Any = getattr(datasets, f"load_{name}")()
    return found.data, found.target, None if name == "diabetes" else len(found.target_names)


def splits(name: str, data: Path, count: int) -> Iterator[tuple[Rows, int | None]]:
    """Training and test rows."""
    if name in UCI:
        for i in range(count):
            one = load_uci(data / "uci" / name, i)
            yield (one.X_train, one.y_train, one.X_test, one.y_test), None
        return
    from sklearn.model_selection import KFold, StratifiedKFold

    X, y, classes = loaded(name, data)
    kind = KFold if classes is None else StratifiedKFold
    for train, test in [*kind(5, shuffle=True, random_state=0).split(X, y)][:count]:
        yield (X[train], y[train], X[test], y[test]), classes


@dataclass
class Result:
    """What is gathered over the splits of a table: log densities by row, and what is counted."""

    rows: dict[str, list[np.ndarray]] = field(default_factory=dict)
    inside: int = 0
    judged: int = 0
    certified: list[bool] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    baseline_seconds: float = 0.0
    method: str = ""

    def mean(self, name: str) -> float:
        """Log density a row."""
        return float(np.concatenate(self.rows[name]).mean())

    def against(self, name: str) -> tuple[float, float]:
        """Δ summed over all test rows, and its standard error."""
        off = np.concatenate(self.rows["default"]) - np.concatenate(self.rows[name])
        return float(off.sum()), float(off.std(ddof=1) * math.sqrt(len(off)))

    @property
    def calibrated(self) -> bool:
        """Whether as many rows are inside as in all but one of twenty calibrated test sets."""
        low, high = binom.interval(0.95, self.judged, 0.95)
        return bool(low <= self.inside <= high)

    @property
    def others(self) -> list[str]:
        """Names of the baselines."""
        return [name for name in self.rows if name != "default"]

    @property
    def linear(self) -> str:
        """Name of the line among them."""
        return next(name for name in self.rows if name in ("ridge", "poisson", "logistic"))

    @property
    def best(self) -> str:
        """The baseline of the highest log density over all splits."""
        return max(self.others, key=self.mean)


def likelihood_of(classes: int | None, y: np.ndarray) -> likelihoods.AbstractLikelihood:
    """What suits the training targets."""
    return likelihoods.suiting(classes) if classes else likelihoods.choose(y).likelihood


def judged(result: Result, rows: Rows, classes: int | None, seconds: float, seed: int) -> None:
    """Fit and score one split."""
    X, y, X_test, y_test = rows
    noise = likelihood_of(classes, y)
    started = time.process_time()
    model = default_model(X, y, noise, seed=seed)
    posterior = br.fit(model, X, y, method=Auto(seconds), seed=seed, progress=False)
    predicted = posterior.predict(X_test, num_samples=1000, seed=seed)
    result.rows.setdefault("default", []).append(predicted.log_prob(y_test).double().numpy())
    result.seconds.append(time.process_time() - started)
    result.method = f"{posterior.method}, {network_note(model, len(y)).partition('; ')[2]}"
    result.certified.append(posterior.certificate.converged)
    if classes is None:
        low, high = predicted.interval(0.95)
        target = torch.as_tensor(y_test)
        result.inside += int(((low <= target) & (target <= high)).sum())
        result.judged += len(y_test)
    started = time.process_time()
    for name, baseline in fit_baselines(X, y, noise, seed=seed).items():
        result.rows.setdefault(name, []).append(baseline.predict(X_test).log_prob(y_test).double().numpy())
    result.baseline_seconds += time.process_time() - started


def line(name: str, r: Result) -> str:
    """A table's row."""
    linear = r.linear
    (best, best_se), (lin, lin_se) = r.against(r.best), r.against(linear)
    share = ""
    if r.judged:
        share = f"{r.inside / r.judged:.3f}{'' if r.calibrated else ' !'}"
    cells = [
        name,
        f"{len(np.concatenate(r.rows['default'])):,}",
        f"{r.mean('default'):.3f}",
        f"{r.best} {r.mean(r.best):.3f}",
        f"{best:+.1f} ± {best_se:.1f}{'' if best >= -best_se else ' ✗'}",
        f"{linear} {r.mean(linear):.3f}",
        f"{lin:+.1f} ± {lin_se:.1f}{'' if lin >= -2 * lin_se else ' ✗'}",
        share,
        f"{sum(r.certified)}/{len(r.certified)}",
        f"{np.median(r.seconds):.1f}",
        r.method,
    ]
    return "| " + " | ".join(cells) + " |"


def summary(found: dict[str, Result]) -> list[str]:
    """Wins in all."""
    best = [r.against(r.best) for r in found.values()]
    lines = [r.against(r.linear) for r in found.values()]
    covered = [r for r in found.values() if r.judged]
    right = sum(r.calibrated for r in covered)
    seconds = [s for r in found.values() for s in r.seconds]
    return [
        f"Δ to the best baseline ≥ −1 se on {sum(d >= -se for d, se in best)} of {len(best)} tables, > 0 on "
        f"{sum(d > 0 for d, _ in best)}.",
        f"Δ to the line < −2 se on {sum(d < -2 * se for d, se in lines)} of {len(lines)}.",
        f"Coverage of 95 % intervals within its binomial interval on {right} of {len(covered)}.",
        f"Certificates passed: {sum(sum(r.certified) for r in found.values())} of {len(seconds)}.",
        f"CPU seconds of a fit: median {np.median(seconds):.1f}, largest {max(seconds):.1f}.",
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--quick", action="store_true", help="prestige and wine, one split")
    parser.add_argument("--only", help="names, with commas between")
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=60.0, help="as for inference.Auto")
    asked = parser.parse_args()
    names = asked.only.split(",") if asked.only else ("prestige", "wine") if asked.quick else NAMES
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", br.ConvergenceWarning)
    heads = [
        "table",
        "test rows",
        "default",
        "best baseline",
        "Δ ± se",
        "line",
        "Δ ± se",
        "covered",
        "certified",
        "s",
        "method",
    ]
    print("| " + " | ".join(heads) + " |", "|" + "---|" * len(heads), sep="\n", flush=True)
    found: dict[str, Result] = {}
    for name in names:
        result = Result()
        for seed, (rows, classes) in enumerate(splits(name, asked.data, 1 if asked.quick else asked.splits)):
            judged(result, rows, classes, asked.seconds, seed)
        found[name] = result
        print(line(name, result), flush=True)
    print("", *summary(found), sep="\n")


if __name__ == "__main__":
    main()
