"""What a whole fit costs beside its steps: `br.fit` against the same number of bare PyTorch steps, in one run on one thread.

    python benchmarks/fit.py [--quick]
    python benchmarks/fit.py --splits DIR [--count 20] [--sets NAME ...]

Net 10-50-1, ReLU, its noise learned; N rows, mini-batches of 256 and, up to 10,000 rows, full batches; as many steps for both,
from the same weights. Bare is a loop over ready batches with fused Adam and a penalty by weight decay. Contestants take turns;
a row is the ratio of two of them round by round: median, minimum, maximum. `certify` says how far a fit is checked. The second
table has parts of a whole fit: its start (a fit of one step), its certificate, and a prediction of all rows beside it.

With --splits it counts instead how many default fits converge, what each takes and how it predicts: DIR holds folders as those
of the UCI sets with twenty splits (data.txt, index_features.txt, index_target.txt, index_train_0.txt, index_test_0.txt …); net
D-50-1, standardised.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.inference import MAP, AbstractMethod, LaplaceApproximation, MeanField

BATCH, COLUMNS = 256, 10
Data = tuple[torch.Tensor, torch.Tensor]


def generated(rows: int) -> Data:
    """Rows and a smooth function of them with noise."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, COLUMNS, generator=generator)
    f = torch.sin(x[:, 0] + 0.5 * x[:, 1]) + 0.5 * x[:, 2] * x[:, 3]
    return x, f + 0.3 * torch.randn(rows, generator=generator)


def network() -> nn.Sequential:
    """The same weights each time."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(COLUMNS, 50), nn.ReLU(), nn.Linear(50, 1))


def bare(data: Data, steps: int, batch: int | None) -> None:
    """A plain loop: Gaussian noise of learned size, fused Adam."""
    net, log_scale = network(), nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.Adam([*net.parameters(), log_scale], lr=0.01, weight_decay=1e-3, fused=True)
    generator, rows, order = torch.Generator().manual_seed(0), len(data[0]), None
    at = 0
    for _ in range(steps):
        x, y = data
        if batch is not None:
            if order is None or at + batch > rows:
                order, at = torch.randperm(rows, generator=generator), 0
            which = order[at : at + batch]
            x, y, at = x[which], y[which], at + batch
        optimizer.zero_grad()
        off = (y - net(x)[:, 0]) * (-log_scale).exp()
        loss = 0.5 * off.square().mean() + log_scale
        loss.backward()
        optimizer.step()


def ours(data: Data, method: AbstractMethod) -> Callable[[], br.AbstractPosterior]:
    """A whole call, from the network to the posterior."""

    def fit() -> br.AbstractPosterior:
        model = br.BayesianModel(network(), priors.Normal(1.0), likelihoods.Gaussian(priors.HalfNormal(1.0)))
        return br.fit(model, *data, method=method, progress=False)

    return fit


def in_turns(contestants: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    """Seconds a call, one number a round and contestant."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for r in range(-1, rounds):
        for name, call in contestants.items():
            started = time.perf_counter()
            call()
            if r >= 0:
                times[name].append(time.perf_counter() - started)
    return times


def compared(rows: int, steps: int, batch: int | None, rounds: int, full: bool) -> str:
    """Print the lines of one size; the line of the second table."""
    data = generated(rows)
    words: dict[str, Any] = {"optimizer": "adam", "num_steps": steps, "batch_size": batch or rows, "compile": False}
    methods: dict[str, MAP | MeanField] = {
        "MAP, certify=False": MAP(certify=False, **words),
        "MAP": MAP(**words),
    }
    if full:
        methods["MAP, certify='full'"] = MAP(certify="full", **words)
    methods["mean-field"] = MeanField(num_steps=steps, batch_size=batch or rows, compile=False)
    once = ours(data, MAP("adam", 1, batch_size=batch or rows, compile=False, certify=False))
    fitted = once()
    contestants: dict[str, Callable[[], Any]] = {"bare": lambda: bare(data, steps, batch)}
    contestants |= {name: ours(data, method) for name, method in methods.items()}
    contestants |= {"start": once, "predict": lambda: fitted.predict(data[0])}
    times = in_turns(contestants, rounds)
    aims = {"MAP, certify=False": "≤ 1.05", "MAP": "≤ 1.3"}
    how = f"{steps:,} steps of {'all' if batch is None else batch} rows"
    for name in methods:
        ratios = [a / b for a, b in zip(times[name], times["bare"], strict=True)]
        seen = f"{statistics.median(ratios):.2f} | {min(ratios):.2f} | {max(ratios):.2f}"
        print(f"| {rows:,} | {how} | {name} | {aims.get(name, '')} | {seen} |", flush=True)
    whole, unchecked, start, predict = (
        statistics.median(times[name]) for name in ("MAP", "MAP, certify=False", "start", "predict")
    )
    parts = (start / whole, (whole - unchecked) / whole, predict / whole)
    return f"| {rows:,} | {how} | {whole:.2f} s | {' | '.join(f'{max(0.0, part):.1%}' for part in parts)} |"


def split(folder: Path, number: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """The training rows of one split, and its test rows."""
    table = np.loadtxt(folder / "data.txt", dtype=np.float32)
    features = np.loadtxt(folder / "index_features.txt").astype(int)
    target = int(np.loadtxt(folder / "index_target.txt"))
    rows = [table[np.loadtxt(folder / f"index_{part}_{number}.txt").astype(int)] for part in ("train", "test")]
    return [(part[:, features], part[:, target]) for part in rows]


def counted(place: Path, count: int, sets: list[str] | None) -> None:
    """How many default fits converge on so many splits of each set, their seconds, and their log-likelihood on test rows."""
    methods: dict[str, AbstractMethod] = {
        "MAP()": MAP(),
        "LaplaceApproximation()": LaplaceApproximation(),
        "MeanField()": MeanField(),
    }
    print("| set | default fit | converged | findings | seconds of CPU: median | max | test log-likelihood, nats a row |")
    print("|---|---|---|---|---|---|---|")
    folders = sorted(path.parent for path in place.glob("*/data.txt") if sets is None or path.parent.name in sets)
    for folder, (name, method) in itertools.product(folders, methods.items()):
        found, seconds, scores = [], [], []
        for number in range(count):
            (x, y), test = split(folder, number)
            torch.manual_seed(number)
            net = nn.Sequential(nn.Linear(x.shape[1], 50), nn.ReLU(), nn.Linear(50, 1))
            rules = {"*.weight": priors.Normal(1.0, fan_in=True), "*.bias": priors.Normal(1.0)}
            model = br.BayesianModel(net, rules, likelihoods.Gaussian(priors.HalfNormal(1.0)), standardize=True)
            started = time.process_time()
            posterior = br.fit(model, x, y, method=method, seed=number, progress=False)
            seconds.append(time.process_time() - started)
            found.append(posterior.certificate)
            scores.append(float(posterior.predict(test[0], seed=number).log_prob(test[1]).mean()))
        passed = sum(certificate.converged for certificate in found)
        kinds = collections.Counter(str(certificate.finding) for certificate in found)
        said = ", ".join(f"{number} {kind}" for kind, number in kinds.most_common())
        error = statistics.stdev(scores) / len(scores) ** 0.5 if len(scores) > 1 else float("nan")
        line = f"{statistics.median(seconds):.1f} | {max(seconds):.1f} | {statistics.mean(scores):.2f} ± {error:.2f}"
        print(f"| {folder.name} | {name} | {passed} of {count} | {said} | {line} |", flush=True)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under 45 s: fewer sizes and rounds")
    parser.add_argument("--splits", type=Path, help="a folder of data sets with splits: count the default fits that converge")
    parser.add_argument("--count", type=int, default=20, help="splits of each set")
    parser.add_argument("--sets", nargs="+", help="names of the folders; all when left out")
    given = parser.parse_args()
    quick = given.quick
    warnings.simplefilter("ignore", br.ConvergenceWarning)  # these fits are short on purpose
    torch.set_num_threads(1)
    print(f"One thread, torch {torch.__version__}.\n")
    if given.splits is not None:
        counted(given.splits, given.count, given.sets)
        return
    print("| N | how | whole fit ÷ bare steps | aim | median | min | max |\n|---|---|---|---|---|---|---|")
    parts = [
        compared(rows, 500, BATCH, 2 if quick else 7, rows <= 10_000 and not quick)
        for rows in ((1000, 10_000) if quick else (1000, 10_000, 100_000, 1_000_000))
    ]
    parts += [compared(rows, 3000, None, 3, False) for rows in (() if quick else (1000, 10_000))]
    print("\n| N | how | MAP | start | certificate | predict |\n|---|---|---|---|---|---|", *parts, sep="\n")


if __name__ == "__main__":
    main()
