"""Every rung of the ladder against a long run of NUTS, on a posterior of 31 unknowns: how far its means and sds are off.

    python benchmarks/rungs.py [--quick] [--only laplace,mean-field] [--seed 0]

Logistic regression of scikit-learn's breast-cancer data (569 rows, 30 standardised and strongly correlated columns, weights
N(0, 1)). Means are given in the posterior's sds (root mean square and largest over the unknowns), sds by their ratio to those
of NUTS (geometric mean, smallest and largest), with the Pareto k̂ of the approximation where there is one. The Monte Carlo error
of NUTS itself stands in the first row. `--quick` takes HMC, which is many times faster, for NUTS, and leaves the samplers out.
"""

from __future__ import annotations

import argparse
import math
import time
import warnings

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer
from torch import nn

import bayesreg as br
from bayesreg import inference, likelihoods, priors
from bayesreg._catalog import concrete

RUNGS = ("map", "laplace", "mean-field", "low-rank", "full-rank", "svi", "swag", "ensemble", "hmc", "mclmc", "sghmc")
_SAMPLERS = ("swag", "ensemble", "hmc", "mclmc", "sghmc")


def moments(posterior: br.AbstractPosterior) -> tuple[np.ndarray, np.ndarray]:
    """Mean and sd of every unknown, (31,)."""
    mean, sd = posterior.mean, posterior.std
    return tuple(np.concatenate([v.double().numpy().ravel() for v in each.values()]) for each in (mean, sd))  # pyright: ignore[reportReturnType]


def row(name: str, posterior: br.AbstractPosterior, seconds: float, truth: tuple[np.ndarray, np.ndarray]) -> str:
    """One line of the table."""
    (mean, sd), (at, width) = moments(posterior), truth
    off, wide = np.abs(mean - at) / width, sd / width
    weights, evidence = posterior.certificate.importance, posterior.log_evidence
    cells = [
        name,
        f"{math.sqrt((off**2).mean()):.3f}",
        f"{off.max():.3f}",
        f"{math.exp(np.log(wide).mean()):.3f} ({wide.min():.2f}-{wide.max():.2f})" if sd.any() else "0",
        "" if weights is None else f"{weights.shape:.2f}",
        "" if evidence is None else f"{evidence:.2f}",
        posterior.certificate.outcome.value,
        f"{seconds:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="HMC for NUTS, no samplers; under 45 s on one thread")
    parser.add_argument("--only", help="names of methods, separated by commas")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    warnings.simplefilter("ignore", br.ConvergenceWarning)
    torch.set_num_threads(1)
    X, y = (np.asarray(part) for part in load_breast_cancer(return_X_y=True))
    X = (X - X.mean(0)) / X.std(0)
    model = br.BayesianModel(nn.Linear(30, 1).double(), priors.Normal(1.0), likelihoods.Bernoulli())
    reference = inference.HMC(compile=False) if given.quick else inference.NUTS(4, 500, 2000)
    started = time.perf_counter()
    nuts = br.fit(model, X, y, method=reference, seed=given.seed)
    mixing = nuts.certificate.mixing
    error = float("nan") if mixing is None or mixing.weights is None else mixing.weights.error
    print("| method | means off (rms, sds) | largest | sd ÷ theirs (range) | Pareto k̂ | log evidence | certificate | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    said = nuts.certificate.outcome.value
    print(f"| {reference.name}, Monte Carlo error | | {error:.3f} | | | | {said} | {time.perf_counter() - started:.1f} |")
    truth = moments(nuts)
    known = {method.name for method in concrete(inference.AbstractMethod)}
    wanted = given.only.split(",") if given.only else [name for name in RUNGS if not (given.quick and name in _SAMPLERS)]
    for name in (name for name in wanted if name in known):
        started = time.perf_counter()
        posterior = br.fit(model, X, y, method=name, seed=given.seed)
        print(row(name, posterior, time.perf_counter() - started, truth), flush=True)


if __name__ == "__main__":
    main()
