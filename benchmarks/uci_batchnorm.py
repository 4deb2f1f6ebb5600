"""MC BatchNorm on the UCI sets: its CRPS between one variance for all rows (0 %) and the best variance of each row (100 %).

    python benchmarks/uci.py --method mc-batchnorm --data DIR [--quick] [--splits 20] [--sets concrete energy wine-quality-red]

Protocol of Teye, Azizpour and Smith (2018): 2 × 50 ReLU with batch normalisation, standardised; weight decay (here the prior's
scale), rows a batch and epochs by 5-fold cross-validation in the training rows, over `GRIDS`; T = 500 passes, each with the
statistics of one random training batch. A row is predicted by N(m, v + c): mean and variance of its passes, and a constant c.

    % = (CRPS of MC BatchNorm − CRPS of N(m, c')) / (CRPS with the best variance of each row − CRPS of N(m, c'))

What is 0 %: the paper's CUBN. In its authors' code (github.com/icml-mcbn/mcbn, "MCBN const") that is MC BatchNorm's own mean m
with a constant variance c', so that only the variances differ; the columns "plain" put the plain network's mean in evaluation
(statistics of all training rows) in its place, from the same fit. What is 100 %: N(m, (y − m)²/log 2), MC BatchNorm's mean with
the variance of least CRPS at each row; for the log-likelihood (PLL) N(m, (y − m)²).

c and c' are tuned by one rule, each for least CRPS: "CV" on the rows held out in cross-validation, the rule that can be used
and the one in the authors' code, and so the column to compare with the published number; "test" on the test rows themselves,
which gives the constant all that a constant can have. Log-likelihoods take the same c and c'.

Training is Adam with half a cosine from 0.01, of so many epochs whatever the batch; chosen is what has the least CRPS of MC
BatchNorm on the held-out rows, c tuned there. Theirs differ: 0.001 throughout and early stopping up to 2,000 epochs, the choice
by RMSE on the held-out rows, and 5 splits with a fifth of all rows for the test, 5 runs each. `GRIDS` were settled on the
held-out rows of split 0 alone. All folds of all splits under all scales are one vmapped run; percentages are means of the
splits' own, with standard errors over splits.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.special import ndtr

import bayesreg as br
from bayesreg import layers, priors
from bayesreg.certificates import Certificate
from bayesreg.data import load_uci
from bayesreg.objective import LogJoint, Replicas
from bayesreg.posteriors import Dirac, FitRecord
from bayesreg.solvers import History, search_many

PASSES, FOLDS, RATE = 500, 5, 0.01
COLUMNS = (
    *("CRPS % (CV)", "published", "CRPS % (test)", "plain: CRPS % (CV)", "plain: CRPS % (test)", "PLL % (CV)"),
    *("CRPS", "RMSE", "RMSE plain", "LL", "LL constant"),
    *("chosen: rows, epochs, scale", "seconds"),
)
Part = tuple[np.ndarray, np.ndarray]


class Grid(NamedTuple):
    """What cross-validation chooses from, and what was published."""

    published: str
    batches: tuple[int, ...]
    epochs: tuple[int, ...]
    scales: tuple[float, ...]


GRIDS = {
    "concrete": Grid("3.9", (64, 128, 256), (600,), (1.0, 3.0)),
    "energy": Grid("5.8", (128, 256, 512), (600,), (1.0, 3.0)),
    "wine-quality-red": Grid("0.3", (32, 64, 128), (30, 100), (0.3, 1.0)),
}
QUICK = Grid("5.8", (256,), (100,), (1.0,))


class Choice(NamedTuple):
    """Rows a batch, epochs, and the prior's scale."""

    batch: int
    epochs: int
    scale: float


class Predicted(NamedTuple):
    """Errors of MC BatchNorm's mean and of the plain network, and the variance of the passes, each (N,)."""

    error: np.ndarray
    plain: np.ndarray
    variance: np.ndarray


class Constants(NamedTuple):
    """What is added to the variances of the passes, and the constant variance about the same and the plain mean."""

    added: float
    alone: float
    plain: float


def model(inputs: int, scale: float, seed: int) -> br.BayesianModel:
    """2 × 50 with batch normalisation; weights N(0, scale²/fan-in)."""
    torch.manual_seed(seed)
    net = layers.MLP(inputs, (50, 50), 1, "relu", batchnorm=True)
    rules = {"@weight": priors.Normal(scale, fan_in=True), "@norm": priors.Normal(1.0)}
    return br.BayesianModel(net, rules, standardize=True)


def fitted(parts: Sequence[Part], scales: Sequence[float], batch: int, epochs: int) -> list[Dirac]:
    """The mode of each part, all of as many rows, under its scale, in one vmapped run."""
    bound = [
        model(X.shape[1], scale, seed).ingest(X, y) for seed, ((X, y), scale) in enumerate(zip(parts, scales, strict=True))
    ]
    joints, rows = [LogJoint(m) for m, _ in bound], [data.full("many fits at once") for _, data in bound]
    start = torch.stack([j.layout.flatten(j.model.start(*own)) for j, own in zip(joints, rows, strict=True)])
    x, y = (torch.stack(own) for own in zip(*rows, strict=True))
    replicas = Replicas(joints, x, y, len(joints), own_rows=True)
    u = search_many(
        replicas,
        start,
        num_steps=epochs * (x.shape[1] // batch),
        learning_rate=RATE,
        batch_size=batch,
        generator=torch.Generator().manual_seed(0),
        report=lambda *_: None,
        history=History(),
    )
    record = FitRecord("map", 0, History(), Certificate.checked(False, "Adam's steps, all of them taken."))
    return [Dirac(replicas.buffers.carried(r, m), record, u[r]) for r, (m, _) in enumerate(bound)]


def predicted(mode: Dirac, train: Part, test: Part, batch: int) -> Predicted:
    """What one fit says of rows that it has not seen."""
    X, y = test
    plain = br.refresh_batchnorm(mode, train[0]).predict(X).mean.numpy()
    passes = br.refresh_batchnorm(mode, train[0], batch_size=batch, num_draws=PASSES).predict(X, num_samples=PASSES)
    return Predicted(y - passes.mean.numpy(), y - plain, passes.epistemic_variance.numpy().astype(np.float64))


def crps(error: np.ndarray, variance: np.ndarray | float) -> float:
    """Mean CRPS of normal predictions."""
    sd = np.sqrt(variance)
    z = error / sd
    each = sd * (z * (2 * ndtr(z) - 1) + np.sqrt(2 / np.pi) * np.exp(-z * z / 2) - 1 / np.sqrt(np.pi))
    return float(np.mean(each))


def log_likelihood(error: np.ndarray, variance: np.ndarray | float) -> float:
    """Mean log-density of normal predictions, nats a row."""
    return float(np.mean(-0.5 * (np.log(2 * np.pi * variance) + error**2 / variance)))


def least(error: np.ndarray, variance: np.ndarray | float = 0.0) -> float:
    """The constant that makes the mean CRPS least when it is added to the variances."""
    grid = np.geomspace(1e-5, 10.0, 25) * np.mean(error**2)
    for _ in range(4):
        best = int(np.argmin([crps(error, variance + c) for c in grid]))
        found = float(grid[best])
        grid = np.geomspace(grid[max(0, best - 1)], grid[min(24, best + 1)], 25)
    return found


def constants(seen: Predicted) -> Constants:
    """All three tuned on these rows by one rule."""
    return Constants(least(seen.error, seen.variance), least(seen.error), least(seen.plain))


def chosen(sets: list[Part], grid: Grid) -> list[tuple[Choice, Constants]]:
    """The choice of each split and its constants, from the held-out rows of 5 folds of its training rows."""
    dealt = [np.random.default_rng(split).permutation(len(y))[: len(y) // FOLDS * FOLDS] for split, (_, y) in enumerate(sets)]
    folds = [rows.reshape(FOLDS, -1) for rows in dealt]
    best: list[tuple[float, Choice, Constants]] = [(np.inf, Choice(0, 0, 0.0), Constants(0.0, 0.0, 0.0))] * len(sets)
    jobs = list(itertools.product(range(len(sets)), grid.scales, range(FOLDS)))
    held_out = [folds[split][k] for split, _, k in jobs]
    kept = [np.delete(folds[split], k, 0).ravel() for split, _, k in jobs]
    parts = [(sets[split][0][rows], sets[split][1][rows]) for (split, _, _), rows in zip(jobs, kept, strict=True)]
    others = [(sets[split][0][rows], sets[split][1][rows]) for (split, _, _), rows in zip(jobs, held_out, strict=True)]
    for batch, epochs in itertools.product(grid.batches, grid.epochs):
        modes = fitted(parts, [scale for _, scale, _ in jobs], batch, epochs)
        seen = [predicted(*each, batch) for each in zip(modes, parts, others, strict=True)]
        for first in range(0, len(jobs), FOLDS):
            split, scale, _ = jobs[first]
            pooled = Predicted(*(np.concatenate(part) for part in zip(*seen[first : first + FOLDS], strict=True)))
            tuned = constants(pooled)
            score = crps(pooled.error, pooled.variance + tuned.added)
            if score < best[split][0]:
                best[split] = score, Choice(batch, epochs, scale), tuned
    return [(choice, tuned) for _, choice, tuned in best]


def percent(score: float, zero: float, hundred: float) -> float:
    """Where a score lies between two others."""
    return 100 * (score - zero) / (hundred - zero)


def scores(seen: Predicted, tuned: Constants) -> list[float]:
    """One split's line: percentages by the constants of cross-validation and of the test rows, then the scores themselves."""
    error, variance = seen.error, seen.variance
    optimum = crps(error, error**2 / np.log(2))
    found = []
    for own in (tuned, constants(seen)):
        score = crps(error, variance + own.added)
        found += [percent(score, crps(e, c), optimum) for e, c in ((error, own.alone), (seen.plain, own.plain))]
    own, alone = log_likelihood(error, variance + tuned.added), log_likelihood(error, tuned.alone)
    found = [found[0], found[2], found[1], found[3], percent(own, alone, log_likelihood(error, error**2))]
    roots = [float(np.sqrt(np.mean(e**2))) for e in (error, seen.plain)]
    return [*found, crps(error, variance + tuned.added), *roots, own, alone]


def row(name: str, folder: Path, splits: int, grid: Grid) -> str:
    """One set's line of the table."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    loaded = [load_uci(folder / name, split) for split in range(splits)]
    train, test = [(X, y) for X, y, _, _ in loaded], [(X, y) for _, _, X, y in loaded]
    best = chosen(train, grid)
    lines: list[list[float]] = []
    for batch, epochs in sorted({choice[:2] for choice, _ in best}):
        which = [split for split in range(splits) if best[split][0][:2] == (batch, epochs)]
        modes = fitted([train[s] for s in which], [best[s][0].scale for s in which], batch, epochs)
        for split, mode in zip(which, modes, strict=True):
            lines.append(scores(predicted(mode, train[split], test[split], batch), best[split][1]))
    own = np.array(lines)
    error = own.std(0, ddof=1) / splits**0.5 if splits > 1 else np.full(own.shape[1], np.nan)
    cells = [f"{m:.{d}f} ± {e:.{d}f}" for m, e, d in zip(own.mean(0), error, [1] * 5 + [3] * 5, strict=True)]
    said = ", ".join(f"{n} × ({c.batch}, {c.epochs}, {c.scale:g})" for c, n in Counter(c for c, _ in best).most_common())
    return " | ".join([f"| {name}", cells[0], grid.published, *cells[1:], said, f"{time.perf_counter() - started:.0f} |"])


def jobs(folder: Path, names: Sequence[str], splits: int, quick: bool) -> list[tuple[Any, ...]]:
    """The calls that give the table's lines; prints its head."""
    grids = {name: GRIDS[name] for name in names}
    if quick:
        splits, grids = 2, {"energy": QUICK}
    print(f"{splits} split(s), {PASSES} passes, {FOLDS} folds. ± is the standard error over splits.\n")
    print(f"| set | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 1)}", flush=True)
    return [(row, name, folder, splits, grid) for name, grid in grids.items()]
