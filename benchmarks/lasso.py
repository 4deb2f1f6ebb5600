"""What a lasso costs here and in scikit-learn, side by side in one run on one thread.

    python benchmarks/lasso.py [--quick]

`br.fit(..., method="map")` is timed whole: checks of the data, the design taken from the module, the solver, the certificate.
scikit-learn's tolerance is set so that its duality gap is about as small as ours, or along a path larger (both are printed).
Contestants take turns; a row is the ratio of processor seconds round by round, so that a busy machine slows both alike.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import numpy as np
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Lasso, lasso_path
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.objective import LogJoint
from bayesreg.solvers import affine_problem, solve_path

TOLERANCE = 1e-14  # of scikit-learn's gap, relative to ‖y‖²
WIDE_TOLERANCE = 1e-8  # along a path of more columns than rows, where it would take minutes to be level with ours


def problem(rows: int, columns: int, correlation: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Inputs whose neighbours are correlated, a target of 30 of them, and the strength at which every weight is zero."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(rows, columns))
    for j in range(1, columns):
        X[:, j] = correlation * X[:, j - 1] + (1 - correlation**2) ** 0.5 * X[:, j]
    weights = np.zeros(columns)
    weights[rng.permutation(columns)[:30]] = rng.normal(size=30)
    y = X @ weights + rng.normal(size=rows)
    return X, y, float(np.abs(X.T @ (y - y.mean())).max())


def model(inputs: int, b: float) -> br.BayesianModel:
    """The lasso with an intercept and unit noise."""
    rules = {"weight": priors.Laplace(b), "bias": priors.Flat()}
    return br.BayesianModel(nn.Linear(inputs, 1).double(), rules, likelihoods.Gaussian(1.0))


def measure(ours: Callable[[], object], theirs: Callable[[], object], seconds: float) -> list[float]:
    """Ratios of processor time, one a round, after one round that does not count."""
    ratios, started = [], time.perf_counter()
    ours(), theirs()
    while len(ratios) < 3 or time.perf_counter() - started < seconds:
        marks = [time.process_time()]
        for run in (ours, theirs):
            run()
            marks.append(time.process_time())
        ratios.append((marks[1] - marks[0]) / (marks[2] - marks[1]))
    return ratios


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under 45 s")
    seconds = 1.5 if parser.parse_args().quick else 8.0
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ConvergenceWarning)
    print("| processor seconds, ours ÷ scikit-learn | aim | median | min | max | our gap, nats | its gap, nats |")
    print("|---|---|---|---|---|---|---|")
    for rows, columns in ((500, 2000), (5000, 500)):
        for correlation in (0.0, 0.9):
            X, y, largest = problem(rows, columns, correlation)
            where = f"n={rows}, p={columns}, correlation {correlation:g}"
            b = 10 / largest
            bayes = model(columns, b)
            reference = Lasso(alpha=1 / (rows * b), tol=TOLERANCE, max_iter=100_000)
            ratios = measure(
                lambda m=bayes, X=X, y=y: br.fit(m, X, y, method="map"), lambda m=reference, X=X, y=y: m.fit(X, y), seconds
            )
            gap = br.fit(bayes, X, y, method="map").certificate.details["duality gap"]
            line(f"MAP, {where}", "≤ 1.5", ratios, float(gap), reference.dual_gap_ * rows)
    for rows, columns, tolerance in ((500, 2000, WIDE_TOLERANCE), (5000, 500, TOLERANCE)):
        X, y, largest = problem(rows, columns, 0.5)
        scales = np.geomspace(1, 100, 100) / largest
        models = [model(columns, float(b)).bind(X, y) for b in scales]
        data = models[0].ingest(X, y)[1]
        log_joints = [LogJoint(m) for m in models]
        alphas = 1 / (rows * scales)

        def ours(first: LogJoint = log_joints[0], data: object = data, all_of_them: list = log_joints) -> list:
            found = affine_problem(first, data)  # pyright: ignore[reportArgumentType]
            return solve_path(found, all_of_them)  # pyright: ignore[reportArgumentType]

        def theirs(X: np.ndarray = X, y: np.ndarray = y, alphas: np.ndarray = alphas, tol: float = tolerance) -> tuple:
            return lasso_path(X - X.mean(0), y - y.mean(), alphas=alphas, tol=tol, max_iter=100_000)

        ratios = measure(ours, theirs, seconds)
        gaps = max(solution.gap or 0.0 for solution in ours())
        line(f"a path of 100 scales, n={rows}, p={columns}", "≤ 1.5", ratios, gaps, float(theirs()[2].max()) * rows)


def line(what: str, aim: str, ratios: list[float], ours: float, theirs: float) -> None:
    """One row of the table."""
    numbers = f"{statistics.median(ratios):.2f} | {min(ratios):.2f} | {max(ratios):.2f}"
    print(f"| {what} | {aim} | {numbers} | {ours:.0e} | {theirs:.0e} |", flush=True)


if __name__ == "__main__":
    main()
