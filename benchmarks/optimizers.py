"""Four ways to one mode: Adam, proximal Adam, L-BFGS and Pyro's AutoDelta, from one start, on one thread.

    python benchmarks/optimizers.py [--quick]

Net 13-50-1 (tanh) on 500 rows, all of them at a step, float64. What is timed is the search alone, without the certificate.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import pyro
import torch
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.objective import LogJoint
from bayesreg.solvers import History, Lbfgs, Problem, SearchOptions, known_solvers


def searches(num_steps: int) -> tuple[dict[str, Callable[[], torch.Tensor]], Callable[[torch.Tensor], float]]:
    """The contestants, each from a start to a point of the flat vector, and what they are judged by."""
    generator = np.random.default_rng(0)
    X = generator.normal(size=(500, 13))
    y = X[:, 0] + np.sin(2 * X[:, 1]) + 0.5 * generator.normal(size=500)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(13, 50), nn.Tanh(), nn.Linear(50, 1)).double()
    model, data = br.BayesianModel(net, priors.Normal(0.15), likelihoods.Gaussian(0.4), standardize=True).ingest(X, y)
    log_joint = LogJoint(model)
    start = log_joint.layout.flatten(model.start(*data.full("a benchmark")))

    def silent(step: int, total: int, objective: float) -> None:
        """Progress that nobody reads."""

    def by_steps(optimizer: str) -> torch.Tensor:
        problem = Problem(log_joint, data, options=SearchOptions(optimizer, num_steps))
        return known_solvers()[optimizer].solve(problem, start, History(), silent).u

    def by_lbfgs() -> torch.Tensor:
        return Lbfgs().solve(Problem(log_joint, data), start, History(), silent).u

    def by_pyro() -> torch.Tensor:
        values = log_joint.layout.unflatten(start)
        guide = pyro.infer.autoguide.AutoDelta(model.pyro_model, init_loc_fn=pyro.infer.autoguide.init_to_value(values=values))
        steps = num_steps // 5  # ten times slower a step: a fifth of the steps, told in the table
        optimizer = pyro.optim.ClippedAdam({"lr": 0.01, "lrd": 0.01 ** (1 / steps)})
        machine = pyro.infer.SVI(model.pyro_model, guide, optimizer, pyro.infer.Trace_ELBO())
        pyro.clear_param_store()
        for _ in range(steps):
            machine.step(X, y)
        found = {name: value.detach() for name, value in guide.median().items()}
        pyro.clear_param_store()
        return log_joint.layout.flatten(found)

    contestants: dict[str, Callable[[], torch.Tensor]] = {
        f"Adam, {num_steps:,} steps": lambda: by_steps("adam"),
        f"prox-Adam, {num_steps:,} steps": lambda: by_steps("prox-adam"),
        "L-BFGS and Newton": by_lbfgs,
        f"Pyro AutoDelta, {num_steps // 5:,} steps": by_pyro,
    }
    return contestants, lambda u: float(log_joint(u, X, y))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under 45 s")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    num_steps, rounds = (2000, 3) if quick else (5000, 5)
    contestants, judged = searches(num_steps)
    times: dict[str, list[float]] = {name: [] for name in contestants}
    values: dict[str, float] = {}
    for _ in range(rounds):
        for name, fit in contestants.items():
            started = time.perf_counter()
            u = fit()
            times[name].append(time.perf_counter() - started)
            values[name] = judged(u)
    first = next(iter(contestants))
    print(f"Net 13-50-1, N = 500, one thread, torch {torch.__version__}. Aims: one log-joint to 0.1 %; L-BFGS ÷ Adam ≤ 0.1.\n")
    print("| search | log-joint, nats | time ÷ Adam: median | min | max |\n|---|---|---|---|---|")
    for name in contestants:
        ratios = [a / b for a, b in zip(times[name], times[first], strict=True)]
        print(f"| {name} | {values[name]:.2f} | {statistics.median(ratios):.2f} | {min(ratios):.2f} | {max(ratios):.2f} |")


if __name__ == "__main__":
    main()
