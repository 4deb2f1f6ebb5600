"""Sparse variational dropout beside a dense network: error and how many weights are left.

    python benchmarks/sparse.py [--data DIR] [--quick] [--epochs 100]

DIR holds mnist_train.npz and mnist_test.npz; without it scikit-learn's digits are taken, every fifth one held out. The network
is 784-300-100-10 (64-300-100-10), every layer with noise of its own for each weight under the log-uniform prior. Published for
MNIST: error 1.92 %, 68 times fewer weights (Molchanov, Ashukha and Vetrov 2017).
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

import bayesreg as br
from bayesreg import layers, likelihoods, priors
from bayesreg.inference import MAP, MCDropout


def loaded(folder: Path | None) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows of pixels in [0, 1] and labels, for training and for the test."""
    if folder is None:
        from sklearn.datasets import load_digits

        X, y = load_digits(return_X_y=True)
        test = np.arange(len(y)) % 5 == 4
        X = (X / 16).astype(np.float32)
        return X[~test], y[~test], X[test], y[test]
    parts = []
    for name in ("train", "test"):
        with np.load(folder / f"mnist_{name}.npz") as file:
            images, labels = sorted((file[key] for key in file.files), key=lambda part: -part.ndim)
            parts += [images.reshape(len(images), -1).astype(np.float32) / 255, labels.astype(np.int64)]
    return parts[0], parts[1], parts[2], parts[3]


def network(inputs: int, sparse: bool) -> nn.Sequential:
    """The same weights each time."""
    torch.manual_seed(0)
    made: list[nn.Module] = []
    for a, b in itertools.pairwise((inputs, 300, 100, 10)):
        layer = nn.Linear(a, b)
        made += [layers.VariationalDropout(layer, initial_scale=0.02) if sparse else layer, nn.ReLU()]
    return nn.Sequential(*made[:-1])


def error(posterior: br.AbstractPosterior, X: np.ndarray, y: np.ndarray) -> float:
    """Share of wrong labels."""
    return float((posterior.predict(X, num_samples=1).mean.argmax(1).numpy() != y).mean())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with MNIST's npz files")
    parser.add_argument(
        "--epochs", type=int, default=None, help="100 on MNIST, 360 on the digits; the dense network takes 30 at most on MNIST"
    )
    parser.add_argument("--rate", type=float, default=3e-3, help="Adam's learning rate")
    parser.add_argument("--warmup", type=float, default=None, help="of the KL; 0.3 on MNIST, 0.7 on the digits' few rows")
    parser.add_argument("--quick", action="store_true", help="under 45 s: the digits, a tenth of the epochs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    X, y, X_test, y_test = loaded(None if options.quick else options.data)
    few = len(X) < 10_000
    batch = 128 if few else 256
    epochs = options.epochs or (360 if few else 100)
    warmup = options.warmup if options.warmup is not None else (0.7 if few else 0.3)
    steps = (epochs // 10 if options.quick else epochs) * (len(X) // batch)
    print(f"{len(X):,} rows, {X.shape[1]} pixels, {steps:,} steps of {batch} rows, one thread.\n")
    print("| fit | test error | weights left | fewer by | seconds |\n|---|---|---|---|---|")
    # the default N(0, 1/fan-in) would outweigh few rows, and its mode be no network to compare with
    dense = br.BayesianModel(network(X.shape[1], False), priors.Normal(1.0), likelihoods.Categorical())
    started = time.perf_counter()
    of_dense = steps if few else min(steps, 30 * (len(X) // batch))  # more would only fit it closer
    mode = br.fit(dense, X, y, method=MAP("adam", num_steps=of_dense, batch_size=batch, learning_rate=1e-3), progress=False)
    total = sum(p.numel() for name, p in dense.module.named_parameters() if name.endswith("weight"))
    print(
        f"| dense, MAP | {error(mode, X_test, y_test):.2%} | {total:,} | 1 | {time.perf_counter() - started:.0f} |", flush=True
    )
    model = br.BayesianModel(network(X.shape[1], True), likelihood=likelihoods.Categorical())
    started = time.perf_counter()
    method = MCDropout(num_steps=steps, batch_size=batch, learning_rate=options.rate, warmup=warmup)
    posterior = method.fit(model, X, y)
    pruned = posterior.prune()
    left = sum(int((value != 0).sum()) for name, value in pruned.mean.items() if name.endswith("weight"))
    shares = ", ".join(f"{name} {share:.1%} zero" for name, share in posterior.sparsity().items())
    print(
        f"| sparse, pruned | {error(pruned, X_test, y_test):.2%} | {left:,} | {total / max(1, left):.0f} "
        f"| {time.perf_counter() - started:.0f} |\n\n{shares}. {posterior.certificate}"
    )


if __name__ == "__main__":
    main()
