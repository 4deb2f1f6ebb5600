"""What the mode hides on the UCI sets: coverage of 95 % intervals by the plug-in mode and by a Laplace around it.

    python benchmarks/uci_coverage.py --data DIR [--quick]

DIR holds concrete, energy, wine-quality-red and yacht in the layout of `datasets.load_uci` (Hernández-Lobato and Adams
2015). One hidden layer of 50, learned noise, standardised; a table of means over splits.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path

import torch
from torch import nn

import bayesreg as br
from bayesreg.data import load_uci

SETS = ("concrete", "energy", "wine-quality-red", "yacht")


def network(inputs: int) -> nn.Sequential:
    """One hidden layer of 50."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(inputs, 50), nn.ReLU(), nn.Linear(50, 1))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the UCI sets")
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one split of one set")
    options = parser.parse_args()
    if options.data is None:
        print("Skipped: say --data DIR, the folder with the UCI sets.")
        return
    splits = 1 if options.quick else options.splits
    print(f"{splits} split(s); Laplace on the same network; LL is nats a row in the target's own units.\n")
    print("| set | RMSE mode | RMSE Laplace | LL mode | LL Laplace | coverage mode | coverage Laplace | converged | seconds |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name in SETS[-1:] if options.quick else SETS:
        rows: list[list[float]] = []
        for split in range(splits):
            X, y, X_test, y_test = load_uci(options.data / name, split)
            model = br.BayesianModel(network(X.shape[1]), standardize=True)
            started = time.perf_counter()
            fits = {m: br.fit(model, X, y, method=m) for m in ("map", "laplace")}
            taken = (time.perf_counter() - started) / 2
            scores = br.compare(fits, X_test, y_test).scores
            row = [scores[m][metric] for metric in ("rmse", "mlpd", "coverage_95") for m in fits]
            rows.append([*row, fits["map"].certificate.converged, taken])
        means = [statistics.fmean(column) for column in zip(*rows, strict=True)]
        print(f"| {name} | " + " | ".join(f"{m:.3f}" for m in means) + " |", flush=True)


if __name__ == "__main__":
    main()
