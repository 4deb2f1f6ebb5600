"""What many fits at once cost: a step of a λ path and of an ensemble against bare PyTorch, a whole path against single fits.

    python benchmarks/path.py [--quick] [--device cuda]

Net 13-50-50-1, batch 100, one thread. The contestants take turns in short rounds, so that a machine whose speed drifts slows
all of them alike; a row is the ratio of two contestants round by round: median, minimum, maximum.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings

import numpy as np
import torch
from step import NOISE, SMALL, Step, bare, measure, network, show

import bayesreg as br
from bayesreg import inference, likelihoods, priors
from bayesreg.objective import LogJoint, Replicas
from bayesreg.solvers import Stepper

TITLE, WIDTHS, ROWS, BATCH = SMALL
NUM_SCALES, MEMBERS = 20, 10


def together(models: list[br.BayesianModel], X: torch.Tensor, y: torch.Tensor, count: int) -> Step:
    """One step of all fits, on batches of rows that all share."""
    log_joints = [LogJoint(model.bind(X, y)) for model in models]
    x, target = log_joints[0].model.prepare(X, y)
    start = log_joints[0].layout.flatten(log_joints[0].model.start(x, target))
    u = start + 0.01 * torch.randn(count, len(start), generator=torch.Generator().manual_seed(0)).to(start)
    take = Stepper(Replicas(log_joints, x, target, count), u)
    rows = list(torch.arange(len(x), device=x.device).split(BATCH))

    def step(i: int) -> None:
        take(1e-3, rows[i % len(rows)])

    return step, 1


def whole_paths(X: torch.Tensor, y: torch.Tensor, rounds: int, num_steps: int) -> dict[str, list[float]]:
    """Seconds of a path of 20 fits and of 20 single fits with as many steps, the two taking turns.

    Both work on batches and end with Adam's last step. A single fit's time holds its certificate, which a path makes only
    when one of its fits is asked for.
    """
    scales = np.geomspace(0.1, 3.0, NUM_SCALES)
    net = network(WIDTHS, X.device)
    method = inference.MAP("adam", num_steps=num_steps, batch_size=BATCH)
    times: dict[str, list[float]] = {"path": [], "single fits": []}
    for _ in range(rounds):
        started = time.perf_counter()
        model = br.BayesianModel(net, {"*.weight": priors.Normal(1.0, fan_in=True)}, likelihoods.Gaussian(NOISE))
        br.path(model, X, y, scales=scales, folds=None, num_steps=num_steps, batch_size=BATCH, evidence=False, progress=False)
        times["path"].append(time.perf_counter() - started)
        started = time.perf_counter()
        some = scales[:: max(1, len(scales) // 4)]  # each with its certificate, which is most of it: a few stand for all
        for scale in some:
            prior = priors.Normal(float(scale), fan_in=True)
            with warnings.catch_warnings():  # so few steps reach no mode, and are not meant to
                warnings.simplefilter("ignore", br.ConvergenceWarning)
                one = br.BayesianModel(net, {"*.weight": prior}, likelihoods.Gaussian(NOISE))
                br.fit(one, X, y, method=method, progress=False)
        times["single fits"].append((time.perf_counter() - started) * len(scales) / len(some))
    return times


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under 45 s")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(options.device)
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(ROWS, WIDTHS[0], generator=generator).to(device)
    y = torch.randn(ROWS, generator=generator).to(device)
    net = network(WIDTHS, device)

    def model(prior: priors.AbstractPrior, noise: float | priors.AbstractPrior = NOISE) -> br.BayesianModel:
        return br.BayesianModel(
            net, {"0.weight": prior, "*.weight": priors.Normal(1.0, fan_in=True)}, likelihoods.Gaussian(noise)
        )

    scales = np.geomspace(0.05, 5.0, NUM_SCALES).tolist()
    ridge = [priors.Normal(s, fan_in=True) for s in scales]
    contestants = {
        "bare PyTorch": bare(network(WIDTHS, device), list(zip(X.split(BATCH), y.split(BATCH), strict=True))),
        "path of 20": together([model(prior) for prior in ridge], X, y, NUM_SCALES),
        "path of 20, learned noise": together([model(prior, priors.HalfNormal(1.0)) for prior in ridge], X, y, NUM_SCALES),
        "path of 20, Laplace on one layer": together([model(priors.Laplace(s)) for s in scales], X, y, NUM_SCALES),
        "path of 20, GroupLasso on one layer": together([model(priors.GroupLasso(s)) for s in scales], X, y, NUM_SCALES),
        "ensemble of 10": together([model(priors.Normal(1.0, fan_in=True))], X, y, MEMBERS),
    }
    times = measure(contestants, 10 if options.quick else 40, 0.05)
    aims = {"path of 20": "≤ 5", "ensemble of 10": "≤ 3"}
    pairs = [(name, "bare PyTorch", aims.get(name, "")) for name in contestants if name != "bare PyTorch"]
    paths = whole_paths(X, y, *((2, 150) if options.quick else (5, 1000)))
    pairs.append(("path", "single fits", ""))
    times |= paths
    print(f"Net {TITLE}, batch {BATCH}, {device.type}, one thread, torch {torch.__version__}.")
    print(f"A bare step took {1e3 * statistics.median(times['bare PyTorch']):.2f} ms here.")
    print("The path takes turns with single fits, each of which brings its certificate.\n")
    show(times, pairs)


if __name__ == "__main__":
    main()
