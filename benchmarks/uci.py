"""MC dropout on the UCI sets and their 20 published splits, beside published numbers: RMSE and log-likelihood.

    python benchmarks/uci.py --data DIR [--quick] [--steps 5000] [--noise heteroscedastic]
    python benchmarks/uci.py --method mc-batchnorm --data DIR [--quick]

DIR holds concrete, energy, wine-quality-red and yacht in the layout of `datasets.load_uci` (Hernández-Lobato and Adams 2015);
`--published FILE` is a CSV of set, split, rmse, log_likelihood with which splits are paired.

One hidden layer of 50, dropout before both weight layers, standardised, Adam with batches of 128: the protocol of Gal and
Ghahramani (2016) and its rerun of 2018. Their noise comes from a grid; here it is learned with the weights, one for all rows or
by the network's second output. The rate comes from their grid and a smaller one, or the ELBO learns it. It is chosen for each
split by the log-likelihood of the last fifth of its training rows, after a share of the steps; with `--noise chosen` so is
the noise, with several `--scales` the prior's. Then all training rows are fitted; splits that chose alike are fitted in one
vmapped run. Sets are fitted side by side, one thread each.

`--method mc-batchnorm` is another table, by the protocol of Teye, Azizpour and Smith (2018); `uci_batchnorm.py` says how.
"""

from __future__ import annotations

import argparse
import csv
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import uci_batchnorm
from torch import nn

import bayesreg as br
from bayesreg import layers, likelihoods, priors
from bayesreg.data import load_uci
from bayesreg.inference import MCDropout
from bayesreg.posteriors import Masks

LEARNED = 0.0  # stands for a rate that the ELBO learns, layer by layer (concrete dropout)
RATES = (0.001, 0.005, 0.01, 0.05, 0.1, LEARNED)  # the published grid, a smaller one for sets with little noise, and that
NOISES = ("homoscedastic", "heteroscedastic")
SHARE = 0.4  # of the steps, after which noise and rate are chosen
# mean ± standard error over 20 splits; RMSE, log-likelihood in nats a row
PUBLISHED = {
    "concrete": ("5.23 ± .12", "-3.04 ± .02"),
    "energy": ("1.66 ± .04", "-1.99 ± .02"),
    "wine-quality-red": ("0.62 ± .01", "-0.93 ± .01"),
    "yacht": ("1.11 ± .09", "-1.55 ± .03"),
}
Part = tuple[np.ndarray, np.ndarray]
Choice = tuple[str, float, float]  # noise, prior scale and rate


def model(inputs: int, choice: Choice, seed: int) -> br.BayesianModel:
    """Dropout before both weight layers; weights N(0, scale²/fan-in)."""
    noise, scale, rate = choice
    torch.manual_seed(seed)
    first, second = (layers.ConcreteDropout(0.01) if rate == LEARNED else layers.Dropout(rate) for _ in range(2))
    width = 2 if noise == "heteroscedastic" else 1
    net = nn.Sequential(first, nn.Linear(inputs, 50), nn.ReLU(), second, nn.Linear(50, width))
    likelihood = likelihoods.Gaussian(noise_scale="heteroscedastic") if noise == "heteroscedastic" else None
    return br.BayesianModel(net, {"*.weight": priors.Normal(scale, fan_in=True)}, likelihood, standardize=True)


def fitted(sets: list[Part], choice: Choice, steps: int) -> list[Masks]:
    """All sets in one vmapped fit."""
    models = [model(sets[0][0].shape[1], choice, s) for s in range(len(sets))]
    return MCDropout(num_steps=steps, batch_size=128).fit_each(models, sets, seed=0, progress=False)


def scores(posterior: Masks, X: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """RMSE, mean log-likelihood and the coverage of 95 % intervals."""
    predicted, target = posterior.predict(X, num_samples=1000, seed=0), torch.as_tensor(y)
    low, high = predicted.interval(0.95)
    rmse = float((predicted.mean - target).square().mean().sqrt())
    return rmse, float(predicted.log_prob(target).mean()), float(((low <= target) & (target <= high)).double().mean())


def chosen(sets: list[Part], choices: list[Choice], steps: int) -> list[Choice]:
    """The choice of each split, by the last fifth of its training rows."""
    cut = len(sets[0][0]) * 4 // 5
    parts = [(X[:cut], y[:cut]) for X, y in sets]
    held_out = [
        [scores(posterior, X[cut:], y[cut:])[1] for posterior, (X, y) in zip(fitted(parts, choice, steps), sets, strict=True)]
        for choice in choices
    ]
    return [choices[i] for i in np.argmax(held_out, 0)]


def paired(own: np.ndarray, theirs: list[float]) -> str:
    """Mean difference and its standard error over splits."""
    if not theirs:
        return "–"
    difference = own - np.array(theirs[: len(own)])
    error = difference.std(ddof=1) / len(own) ** 0.5 if len(own) > 1 else float("nan")
    return f"{difference.mean():+.3f} ± {error:.3f}"


def row(name: str, folder: Path, splits: int, steps: int, choices: list[Choice], published: list[tuple[float, float]]) -> str:
    """One set's line of the table."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", br.ConvergenceWarning)  # the table says how many converged
    started = time.perf_counter()
    loaded = [load_uci(folder / name, split) for split in range(splits)]
    sets = [(X, y) for X, y, _, _ in loaded]
    best = chosen(sets, choices, int(SHARE * steps)) if len(choices) > 1 else choices * splits
    found: dict[int, Masks] = {}
    for choice in sorted(set(best)):
        which = [split for split in range(splits) if best[split] == choice]
        found.update(zip(which, fitted([sets[split] for split in which], choice, steps), strict=True))
    own = np.array([scores(found[split], *loaded[split][2:]) for split in range(splits)])
    said = ", ".join(f"{best.count(c)} × {c[0][:-9]} {c[1]:g} {c[2] or 'learned'}" for c in sorted(set(best)))
    return (
        f"| {name} | {steps / max(1, len(sets[0][0]) // 128):.0f} "
        f"| {own[:, 0].mean():.3f} | {PUBLISHED[name][0]} | {paired(own[:, 0], [r for r, _ in published])} "
        f"| {own[:, 1].mean():.3f} | {PUBLISHED[name][1]} | {paired(own[:, 1], [l for _, l in published])} "
        f"| {own[:, 2].mean():.2f} | {said} "
        f"| {sum(found[s].certificate.converged for s in found)} | {time.perf_counter() - started:.0f} |"
    )


def side_by_side(workers: int, jobs: list[tuple[Any, ...]]) -> None:
    """Print the lines that these calls return, in their order."""
    started = time.perf_counter()
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for job in [pool.submit(*call) for call in jobs]:
            print(job.result(), flush=True)
    print(f"\n{time.perf_counter() - started:.0f} s for all.")


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=("mc-dropout", "mc-batchnorm"), default="mc-dropout")
    parser.add_argument("--data", type=Path, help="folder with the UCI sets")
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--sets", nargs="+", choices=list(PUBLISHED), help="default: all that the method's table has")
    parser.add_argument("--workers", type=int, default=2, help="sets fitted side by side")
    parser.add_argument("--quick", action="store_true", help="under 45 s: a few splits of one set, one rate, few steps")
    dropout = parser.add_argument_group("mc-dropout alone")
    dropout.add_argument("--published", type=Path, help="CSV with published numbers split by split")
    dropout.add_argument("--steps", type=int, default=5000, help="of each fit, whatever the number of rows")
    dropout.add_argument("--noise", choices=(*NOISES, "chosen"), default="homoscedastic", help="default: as published")
    dropout.add_argument("--scales", type=float, nargs="+", default=[3.0], help="of the prior; several are chosen among too")
    options = parser.parse_args()
    known = list(PUBLISHED) if options.method == "mc-dropout" else list(uci_batchnorm.GRIDS)
    options.sets = options.sets or known
    if not set(options.sets) <= set(known):
        parser.error(f"--sets must be among {', '.join(known)} for --method {options.method}.")
    return options


def main() -> None:
    """Print the table."""
    options = arguments()
    if options.data is None:
        print("Skipped: say --data DIR, the folder with the UCI sets.")
        return
    if options.method == "mc-batchnorm":
        side_by_side(options.workers, uci_batchnorm.jobs(options.data, options.sets, options.splits, options.quick))
        return
    names, splits, steps = options.sets, options.splits, options.steps
    noises = [noise for noise in NOISES if options.noise in ("chosen", noise)]
    choices = [(noise, scale, rate) for noise in noises for scale in options.scales for rate in RATES]
    if options.quick:
        names, splits, steps, choices = ["yacht"], 3, 200, choices[:1]
    published: dict[str, list[tuple[float, float]]] = {}
    if options.published:
        with options.published.open(encoding="utf-8") as file:
            for line in csv.DictReader(file):
                published.setdefault(line["set"], []).append((float(line["rmse"]), float(line["log_likelihood"])))
    print(f"{splits} split(s), {steps:,} steps a fit, {options.workers} sets at once. 2016 took 400 epochs, 2018 4,000.\n")
    print(
        "| set | epochs | RMSE | 2016 | minus 2018, paired | LL | 2016 | minus 2018, paired | coverage | chosen | converged "
        "| seconds |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|---|", flush=True)
    side_by_side(
        options.workers, [(row, name, options.data, splits, steps, choices, published.get(name, [])) for name in names]
    )


if __name__ == "__main__":
    main()
