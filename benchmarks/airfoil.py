"""One network by every rung, from the mode to the sampler, beside sklearn-contrib-bde: airfoil, or bike sharing by the hour.

    python benchmarks/airfoil.py [--data DIR] [--set bike] [--seeds 5] [--warmup 5000 15000] [--peer PYTHON] [--quick]

DIR holds airfoil.csv (UCI airfoil self-noise, target in the last column) and bike_hour.csv (UCI bike sharing by the hour; of
its columns casual, registered, instant and dteday are left out, and cnt is the target). Protocol of Arvanitis, Aslanidis,
Sommer and Rügamer (2026): one split, `train_test_split(test_size=0.2, random_state=0)`, inputs and target scaled by the
training rows, scores in scaled units; four hidden layers of 16 ReLU units with two outputs, standard normal priors, ten
members. Our second output is the logarithm of the sd, that of bde goes through softplus.

nll is that of a normal with the predictive mean and sd, mixture that of the predictive distribution itself; coverage is of
mean ± 1.96 sd. Every contestant has one core, the same, each in its turn; seconds are whole fits, compiling counted. The
sampler and its peer run at several budgets of warm-up, which gives nll against seconds of both. bde runs at its published
settings, the warm-up but for the last row; it and JAX stand in an interpreter of their own, see jax_peer.py.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from jax_peer import Peer, stay_on
from scipy.special import logsumexp
from scipy.stats import norm
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

import bayesreg as br
from bayesreg import layers, likelihoods, priors
from bayesreg.inference import (
    MAP,
    SGHMC,
    SWAG,
    AbstractMethod,
    Ensemble,
    LaplaceApproximation,
    MCDropout,
    MeanField,
    MicrocanonicalEnsemble,
)

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"
HIDDEN, MEMBERS, SAMPLES, THIN = (16, 16, 16, 16), 10, 100, 10
PUBLISHED = {"airfoil": ".1215 ± .0042, nll −.913 ± .013, 240 s", "bike": ".2261 ± .0016, nll −.732 ± .009, 2,550 s"}
# with 50,000 steps of warm-up; 1,000 further steps of which every tenth is kept
BDE = {"epochs": 1000, "patience": 20, "validation_split": 0.15, "lr": 1e-3, "weight_decay": 1e-4}
BDE |= {"desired_energy_var_start": 0.5, "desired_energy_var_end": 0.1, "hidden_layers": list(HIDDEN)}
COLUMNS = ("RMSE", "nll", "mixture", "coverage", "seconds")
Part = tuple[np.ndarray, np.ndarray]
Scores = tuple[float, ...]  # in the order of COLUMNS


def read(folder: Path, name: str, rows: int | None) -> tuple[Part, Part]:
    """Training and test rows, scaled by the former."""
    if name == "airfoil":
        table = pd.read_csv(folder / "airfoil.csv")
        target = table.columns[-1]
    else:
        table = pd.read_csv(folder / "bike_hour.csv").drop(columns=["casual", "registered", "instant", "dteday"])
        target = "cnt"
    X, y = table.drop(columns=target).to_numpy(float), table[[target]].to_numpy(float)
    X, X_test, y, y_test = train_test_split(X, y, test_size=0.2, random_state=0)
    X, y = X[:rows], y[:rows]
    inputs, outputs = StandardScaler().fit(X), StandardScaler().fit(y)

    def scaled(X: np.ndarray, y: np.ndarray) -> Part:
        return inputs.transform(X).astype("float32"), outputs.transform(y)[:, 0].astype("float32")

    return scaled(X, y), scaled(X_test, y_test)


def scores(mean: np.ndarray, sd: np.ndarray, y: np.ndarray, log_density: np.ndarray, seconds: float) -> Scores:
    """In the order of COLUMNS; log densities are those of the mixture, row by row."""
    covered = np.mean(np.abs(y - mean) < norm.ppf(0.975) * sd)
    rmse = np.sqrt(np.mean((y - mean) ** 2))
    return float(rmse), float(-norm.logpdf(y, mean, sd).mean()), float(-log_density.mean()), float(covered), seconds


def fitted(make: Callable[[int], br.BayesianModel], method: AbstractMethod, seed: int, train: Part, test: Part) -> Scores:
    """A fit of ours."""
    model, started = make(seed), time.perf_counter()
    posterior = br.fit(model, *train, method=method, seed=seed, progress=False)
    seconds = time.perf_counter() - started
    found = posterior.predict(test[0], num_samples=getattr(posterior, "num_draws", None) or 1000, seed=seed)
    y = test[1].astype(float)
    mean, sd = (part.double().numpy() for part in (found.mean, found.std))
    return scores(mean, sd, y, found.log_prob(test[1]).double().numpy(), seconds)


def theirs(peer: Peer, words: dict[str, Any], seed: int, train: Part, test: Part) -> Scores:
    """A fit of BdeRegressor."""
    told = peer.ask("bde", {"x": train[0], "y": train[1], "x_test": test[0]}, **words, seed=seed)
    y, raw = test[1].astype(float), told["raw"].astype(float).reshape(-1, len(test[1]), 2)
    each = norm.logpdf(y, raw[..., 0], np.logaddexp(0, raw[..., 1]) + 1e-6)
    mean, sd = (told[name].astype(float) for name in ("mean", "sd"))
    return scores(mean, sd, y, logsumexp(each, 0) - np.log(len(each)), told["seconds"])


def network(inputs: int, outputs: int, dropout: float = 0.0) -> Callable[[int], br.BayesianModel]:
    """The model with fresh weights of a seed; two outputs for noise by row, one for noise of one size."""

    def make(seed: int) -> br.BayesianModel:
        torch.manual_seed(seed)
        net = layers.MLP(inputs, HIDDEN, outputs, dropout=dropout)
        likelihood = likelihoods.Gaussian("heteroscedastic") if outputs == 2 else likelihoods.Gaussian()
        return br.BayesianModel(net, priors.Normal(1.0), likelihood)

    return make


def rungs(inputs: int, large: bool, quick: bool) -> dict[str, tuple[Callable[[int], br.BayesianModel], AbstractMethod]]:
    """What comes before the sampler, each with its defaults but for `--quick`."""
    one, by_row, dropped = network(inputs, 1), network(inputs, 2), network(inputs, 2, dropout=0.02)
    short: dict[str, Any] = {"num_steps": 300} if quick else {}
    mode = MAP(optimizer="adam", **short) if quick else MAP()
    found: dict[str, tuple[Callable[[int], br.BayesianModel], AbstractMethod]] = {
        "MAP, noise of one size": (one, mode),
        "MAP": (by_row, mode),
        "Laplace, noise of one size": (one, LaplaceApproximation(mode=mode)),
        "mean-field": (by_row, MeanField(**short)),
        "MC dropout": (dropped, MCDropout(**short)),
        "SWAG": (by_row, SWAG(num_samples=30 if quick else 200, start=mode)),
        "Ensemble": (by_row, Ensemble(**short)),
        "Ensemble, early-stopped": (by_row, Ensemble(validation_fraction=0.15, **short)),
    }
    if large:
        words = {"num_warmup": 300, "num_samples": 30} if quick else {"num_warmup": 20_000, "thin": 100}
        found["SGHMC, batches of 256"] = (by_row, SGHMC(num_chains=MEMBERS, batch_size=256, **words))
    return found


def budgets(peer: Peer, options: argparse.Namespace, inputs: int) -> dict[str, Callable[[int, Part, Part], Scores]]:
    """The sampler and its peer, budget by budget."""
    found: dict[str, Callable[[int, Part, Part], Scores]] = {}
    by_row, samples, members = network(inputs, 2), SAMPLES, MEMBERS
    if options.quick:
        samples, members = 10, 3
    for warmup in options.warmup:
        method = MicrocanonicalEnsemble(members, warmup, samples, THIN, num_steps=100 if options.quick else 500)
        found[f"MicrocanonicalEnsemble, {warmup:,} + {samples * THIN:,} steps"] = lambda seed, train, test, m=method: fitted(
            by_row, m, seed, train, test
        )
        words: dict[str, Any] = {**BDE, "n_members": members, "warmup_steps": warmup}
        words |= {"n_samples": samples * THIN, "n_thinning": THIN}
        words |= {"epochs": 20} if options.quick else {}
        if not peer.missing:
            found[f"bde, {warmup:,} + {samples * THIN:,} steps"] = lambda seed, train, test, w=words: theirs(
                peer, w, seed, train, test
            )
    return found


def said(name: str, found: list[Scores]) -> str:
    """A line of the table: means, and sds over seeds where there are several."""
    cells = []
    for column, values in zip(COLUMNS, zip(*found, strict=True), strict=True):
        digits = {"seconds": 1, "coverage": 3}.get(column, 4)
        spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
        cells.append(f"{statistics.mean(values):.{digits}f}{spread}")
    return f"| {name} | {' | '.join(cells)} |"


def table(title: str, contestants: dict[str, Callable[[int, Part, Part], Scores]], seeds: int, train: Part, test: Part) -> None:
    """Run them in turns, seed by seed, and print a table. What fails is told in its line, and the others go on."""
    found: dict[str, list[Scores]] = {name: [] for name in contestants}
    failed: dict[str, str] = {}
    for seed in range(seeds):
        for name, run in contestants.items():
            try:
                found[name].append(run(seed, train, test))
                print(f"seed {seed}: {said(name, found[name][-1:])}", file=sys.stderr, flush=True)
            except (ValueError, RuntimeError, br.FitError) as failure:
                failed[name] = f"| {name} | {str(failure).splitlines()[0]} |"
    print(f"\n{title}\n\n| fit | {' | '.join(COLUMNS)} |\n|{'---|' * (len(COLUMNS) + 1)}")
    for name, lines in found.items():
        print(said(name, lines) if lines else failed[name], flush=True)
    for name in failed.keys() & {name for name, lines in found.items() if lines}:
        print(f"\nWithout {seeds - len(found[name])} of {seeds} seeds: {failed[name]}")


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=BESIDE, help="folder with airfoil.csv and bike_hour.csv")
    parser.add_argument("--set", choices=("airfoil", "bike"), default="airfoil")
    parser.add_argument("--seeds", type=int, help="of weights and chains on the one split; 5, or 1 with --quick")
    parser.add_argument("--warmup", type=int, nargs="+", help="budgets of warm-up; bde's published one is 50000")
    parser.add_argument("--only", choices=("rungs", "budgets"), help="one of the two tables")
    parser.add_argument("--peer", help="an interpreter with sklearn-contrib-bde; this one when left out")
    parser.add_argument("--core", type=int, help="the core on which everything runs; the last one when left out")
    parser.add_argument("--quick", action="store_true", help="under 45 s: few rows and steps; shows that it runs, not how well")
    options = parser.parse_args()
    options.seeds = options.seeds or (1 if options.quick else 5)
    options.warmup = options.warmup or ([200] if options.quick else [5000, 15_000, 50_000])
    return options


def main() -> None:
    """Print the tables."""
    options = arguments()
    file = options.data / {"airfoil": "airfoil.csv", "bike": "bike_hour.csv"}[options.set]
    if not file.exists():
        print(f"Skipped: {file.name} is not in {options.data}; pass the folder that has it, --data DIR.")
        return
    warnings.simplefilter("ignore", br.ConvergenceWarning)  # most networks' searches end before they settle
    stay_on(options.core)
    torch.set_num_threads(1)
    train, test = read(options.data, options.set, 300 if options.quick else None)
    peer = Peer(options.peer, "jax", "bde")
    size = f"{len(train[1]):,} + {len(test[1]):,} rows, {options.seeds} seed(s), one core"
    print(f"{options.set}, {size}, torch {torch.__version__}; {peer.missing or peer.versions}", flush=True)
    print(f"Published for bde on ten cores: RMSE {PUBLISHED[options.set]}.")
    inputs = train[0].shape[1]
    try:
        if options.only != "rungs":
            table("The sampler and its peer, by budget.", budgets(peer, options, inputs), options.seeds, train, test)
        if options.only != "budgets":
            each = {
                name: (lambda seed, train, test, way=way: fitted(*way, seed, train, test))
                for name, way in rungs(inputs, options.set == "bike", options.quick).items()
            }
            table("The rungs before it.", each, options.seeds, train, test)
    finally:
        peer.close()


if __name__ == "__main__":
    main()
