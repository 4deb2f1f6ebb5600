"""MC dropout on the UCI sets and their 20 published splits, beside published numbers: RMSE and log-likelihood.

    python benchmarks/uci.py --data DIR [--quick] [--epochs 1000] [--noise heteroscedastic]

DIR holds concrete, energy, wine-quality-red and yacht in the layout of `datasets.load_uci` (Hernández-Lobato and Adams 2015);
`--published FILE` is a CSV of set, split, rmse, log_likelihood with which splits are paired.

One hidden layer of 50, dropout before both weight layers, standardised, Adam with batches of 128: the protocol of Gal and
Ghahramani (2016) and its rerun of 2018. Their noise comes from a grid; here it is learned with the weights. The rate comes from
their grid, or the ELBO learns it; that is chosen for each split by the log-likelihood of the last fifth of its training rows,
after a fifth of the epochs. Then all training rows are fitted; splits that share a rate are fitted in one vmapped run.
"""

from __future__ import annotations

import argparse
import csv
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

import bayesreg as br
from bayesreg import layers, likelihoods, priors
from bayesreg.datasets import load_uci
from bayesreg.inference import MCDropout
from bayesreg.noisy import Noisy

LEARNED = 0.0  # stands for a rate that the ELBO learns, layer by layer (concrete dropout)
RATES = (0.005, 0.01, 0.05, 0.1, LEARNED)  # the published grid, and that
# mean ± standard error over 20 splits; RMSE, log-likelihood in nats a row
PUBLISHED = {
    "concrete": ("5.23 ± .12", "-3.04 ± .02"),
    "energy": ("1.66 ± .04", "-1.99 ± .02"),
    "wine-quality-red": ("0.62 ± .01", "-0.93 ± .01"),
    "yacht": ("1.11 ± .09", "-1.55 ± .03"),
}
Part = tuple[np.ndarray, np.ndarray]


def model(inputs: int, rate: float, noise: str, seed: int) -> br.BayesianModel:
    """Dropout before both weight layers; weights N(0, 9/fan-in), which says little."""
    torch.manual_seed(seed)
    first, second = (layers.ConcreteDropout(0.01) if rate == LEARNED else layers.Dropout(rate) for _ in range(2))
    width = 2 if noise == "heteroscedastic" else 1
    net = nn.Sequential(first, nn.Linear(inputs, 50), nn.ReLU(), second, nn.Linear(50, width))
    likelihood = likelihoods.Gaussian(noise_scale="heteroscedastic") if noise == "heteroscedastic" else None
    return br.BayesianModel(net, {"*.weight": priors.Normal(3.0, fan_in=True)}, likelihood, standardize=True)


def fitted(sets: list[Part], rate: float, noise: str, epochs: int) -> list[Noisy]:
    """All sets in one vmapped fit."""
    rows, inputs = sets[0][0].shape
    method = MCDropout(num_steps=epochs * max(1, rows // 128), batch_size=128)
    return method.fit_each([model(inputs, rate, noise, s) for s in range(len(sets))], sets, seed=0, progress=False)


def scores(posterior: Noisy, X: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """RMSE, mean log-likelihood and the coverage of 95 % intervals."""
    predicted, target = posterior.predict(X, num_samples=1000, seed=0), torch.as_tensor(y)
    low, high = predicted.interval(0.95)
    rmse = float((predicted.mean - target).square().mean().sqrt())
    return rmse, float(predicted.log_prob(target).mean()), float(((low <= target) & (target <= high)).double().mean())


def chosen(sets: list[Part], noise: str, epochs: int, rates: tuple[float, ...]) -> list[float]:
    """The rate of each split, by the last fifth of its training rows."""
    cut = len(sets[0][0]) * 4 // 5
    parts = [(X[:cut], y[:cut]) for X, y in sets]
    held_out = [
        [
            scores(posterior, X[cut:], y[cut:])[1]
            for posterior, (X, y) in zip(fitted(parts, rate, noise, epochs), sets, strict=True)
        ]
        for rate in rates
    ]
    return [rates[i] for i in np.argmax(held_out, 0)]


def paired(own: np.ndarray, theirs: list[float]) -> str:
    """Mean difference and its standard error over splits."""
    if not theirs:
        return "–"
    difference = own - np.array(theirs[: len(own)])
    error = difference.std(ddof=1) / len(own) ** 0.5 if len(own) > 1 else float("nan")
    return f"{difference.mean():+.3f} ± {error:.3f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the UCI sets")
    parser.add_argument("--published", type=Path, help="CSV with published numbers split by split")
    parser.add_argument("--epochs", type=int, default=1000)
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--sets", nargs="+", default=list(PUBLISHED))
    parser.add_argument("--noise", choices=("homoscedastic", "heteroscedastic"), default="homoscedastic")
    parser.add_argument("--quick", action="store_true", help="under 45 s: three splits of one set, one rate, 100 epochs")
    options = parser.parse_args()
    if options.data is None:
        print("Skipped: say --data DIR, the folder with the UCI sets.")
        return
    torch.set_num_threads(1)
    names, splits, epochs = options.sets, options.splits, options.epochs
    rates = RATES
    if options.quick:
        names, splits, epochs, rates = ["yacht"], 3, 100, (0.01,)
    published: dict[str, list[tuple[float, float]]] = {}
    if options.published:
        with options.published.open(encoding="utf-8") as file:
            for row in csv.DictReader(file):
                published.setdefault(row["set"], []).append((float(row["rmse"]), float(row["log_likelihood"])))
    print(f"{splits} split(s), {epochs} epochs, {options.noise} noise, one thread. 2016 took 400 epochs, 2018 4,000.\n")
    print(
        "| set | RMSE | 2016 | minus 2018, paired | LL | 2016 | minus 2018, paired | coverage | rates | converged | seconds |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    for name in names:
        started = time.perf_counter()
        loaded = [load_uci(options.data / name, split) for split in range(splits)]
        sets = [(X, y) for X, y, _, _ in loaded]
        best = chosen(sets, options.noise, max(1, epochs // 5), rates) if len(rates) > 1 else [rates[0]] * splits
        found: dict[int, Noisy] = {}
        for rate in sorted(set(best)):
            which = [split for split in range(splits) if best[split] == rate]
            found.update(zip(which, fitted([sets[split] for split in which], rate, options.noise, epochs), strict=True))
        rows = np.array([scores(found[split], *loaded[split][2:]) for split in range(splits)])
        theirs = published.get(name, [])
        said = ", ".join(f"{best.count(rate)} × {rate or 'learned'}" for rate in sorted(set(best)))
        print(
            f"| {name} | {rows[:, 0].mean():.3f} | {PUBLISHED[name][0]} | {paired(rows[:, 0], [r for r, _ in theirs])} "
            f"| {rows[:, 1].mean():.3f} | {PUBLISHED[name][1]} | {paired(rows[:, 1], [l for _, l in theirs])} "
            f"| {rows[:, 2].mean():.2f} | {said} "
            f"| {sum(found[s].certificate.converged for s in found)} | {time.perf_counter() - started:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
