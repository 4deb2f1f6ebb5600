"""Modes and draws of inverse problems: ours, dense NumPy, SciPy's lsqr, PyLops and CUQIpy, in one run on one thread.

    python benchmarks/inverse.py [--quick]

The same Tikhonov problem for all. "error" is how far a mode is from the exact one in posterior sds, root mean square over the
unknowns, or for draws the median ratio of their sds to the exact ones. A row's ratio is of CPU times round by round: median,
minimum, maximum; the first contestant is ours. PyLops and CUQIpy are left out where they are missing.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.sparse.linalg import lsqr

import bayesreg as br
from bayesreg import inference, likelihoods, operators, priors
from bayesreg.datasets import inverse

Contestants = dict[str, Callable[[], np.ndarray]]
Error = Callable[[np.ndarray], float]


def shaw() -> tuple[Contestants, Error]:
    """The mode of a small image restoration problem under a normal prior."""
    made, noise = inverse.shaw(32), 0.01
    A = made.operator.matrix().numpy()
    b = A @ np.asarray(made.x) + noise * np.random.default_rng(0).normal(size=32)
    model = br.BayesianModel(made.operator, {"x": priors.Normal(1.0)}, likelihoods.Gaussian(noise))
    H = A.T @ A / noise**2 + np.eye(32)
    exact = np.linalg.solve(H, A.T @ b / noise**2)
    contestants: Contestants = {
        "ours, MAP": lambda: br.fit(model, None, b, method="map").mean["x"].numpy(),
        "ours, Exact": lambda: br.fit(model, None, b, method="exact").mean["x"].numpy(),
        "SciPy lsqr(damp=σ/τ)": lambda: lsqr(A, b, damp=noise, atol=1e-10, btol=1e-10)[0],
        "NumPy, dense": lambda: np.linalg.solve(A.T @ A / noise**2 + np.eye(32), A.T @ b / noise**2),
    }
    return contestants, lambda x: in_sds(x - exact, H)


def in_sds(off: np.ndarray, H: np.ndarray) -> float:
    """Root mean square distance in posterior sds."""
    return float(np.sqrt(off @ H @ off / len(off)))


def deconvolution(draws: int) -> tuple[Contestants, Error]:
    """Draws of the posterior of a deconvolution in 128 unknowns, their solver included."""
    size, noise = 128, 0.05
    operator = operators.Convolution1d(operators.gaussian_kernel(3.0, 1), "zero", shape=(size,))
    A = operator.matrix().numpy()
    rng = np.random.default_rng(0)
    b = A @ rng.normal(size=size) + noise * rng.normal(size=size)
    model = br.BayesianModel(operator, {"x": priors.Normal(1.0)}, likelihoods.Gaussian(noise))
    H = A.T @ A / noise**2 + np.eye(size)
    sds = np.sqrt(np.linalg.inv(H).diagonal())

    def sampled(method: Any) -> np.ndarray:
        return br.fit(model, None, b, method=method).sample(draws)["x"].numpy()

    def by_numpy() -> np.ndarray:
        precision = A.T @ A / noise**2 + np.eye(size)
        factor = np.linalg.cholesky(precision)
        mean = np.linalg.solve(precision, A.T @ b / noise**2)
        return mean + np.linalg.solve(factor.T, rng.normal(size=(size, draws))).T

    contestants: Contestants = {
        f"ours, Exact + {draws} draws": lambda: sampled("exact"),
        "ours, matrix-free": lambda: sampled(inference.Exact(matrix_free=True)),
        "NumPy, dense": by_numpy,
    }
    for steps in (10, 200):
        if (made := by_cuqi(A, b, noise, draws, steps)) is not None:
            contestants[f"CUQIpy LinearRTO, maxit={steps}"] = made
    return contestants, lambda x: float(np.median(x.std(0) / sds))


def by_cuqi(A: np.ndarray, b: np.ndarray, noise: float, draws: int, steps: int) -> Callable[[], np.ndarray] | None:
    """Draws by CUQIpy's LinearRTO with so many inner steps; None where it is not installed."""
    try:
        import cuqi
    except ImportError:
        return None
    x = cuqi.distribution.Gaussian(np.zeros(A.shape[1]), 1.0, name="x")
    y = cuqi.distribution.Gaussian(cuqi.model.LinearModel(A)(x), noise**2, name="y")
    posterior = cuqi.distribution.JointDistribution(x, y)(y=b)

    def made() -> np.ndarray:
        sampler = cuqi.sampler.LinearRTO(posterior, maxit=steps)
        with contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            sampler.sample(draws)
        return sampler.get_samples().samples.T

    return made


def deblurring(n: int) -> tuple[Contestants, Error]:
    """The mode of a deblurred image under a smoothness prior, ours and by PyLops in as many steps as it takes to be as near."""
    noise, scale, level = 0.01, 0.05, 1.0
    kernel = operators.gaussian_kernel(2.0, 2)
    operator = operators.Convolution2d(kernel, "zero", shape=(n, n))
    rng = np.random.default_rng(0)
    x = inverse.shepp_logan(n)
    b = operator(torch.as_tensor(x)).numpy() + noise * rng.normal(size=(n, n))
    model = br.BayesianModel(operator, {"x": priors.Smooth(2, scale, level)}, likelihoods.Gaussian(noise))
    mode = br.fit(model, None, b, method="map").mean["x"]
    prior = priors.Smooth(2, scale, level).spectrum((n, n))

    def slope(values: np.ndarray) -> float:
        at = torch.as_tensor(values).reshape(1, n, n)
        missed = operator.adjoint(operator(at) - torch.as_tensor(b)) / noise**2 + prior.times(at)
        return float(missed.norm() / (operator.adjoint(torch.as_tensor(b)).norm() / noise**2))

    contestants: Contestants = {"ours, MAP": lambda: br.fit(model, None, b, method="map").mean["x"].numpy()}
    try:
        import pylops
        from pylops.signalprocessing import Convolve2D
    except ImportError:
        return contestants, slope
    theirs = Convolve2D((n, n), kernel.numpy(), offset=(kernel.shape[0] // 2,) * 2)
    curvature = [pylops.SecondDerivative((n, n), axis=axis, edge=False) for axis in (0, 1)]
    parts = [(1 / noise) * theirs, *((1 / scale) * part for part in curvature), (1 / level) * pylops.Identity(n * n)]
    stack = pylops.VStack(parts)
    right = np.concatenate([b.ravel() / noise, np.zeros(3 * n * n)])

    def solved(steps: int) -> np.ndarray:
        return lsqr(stack, right, iter_lim=steps, atol=0, btol=0, conlim=0)[0]

    steps, least = 50, slope(mode.numpy())
    while steps < 1600 and slope(solved(steps)) > least:
        steps *= 2
    contestants[f"PyLops operators, lsqr, {steps} steps"] = lambda: solved(steps)
    return contestants, slope


def large_draws(n: int, draws: int) -> tuple[Contestants, Error]:
    """Draws of an image's posterior: what a hundred cost follows from a few."""
    operator = operators.Convolution2d(operators.gaussian_kernel(2.0, 2), "reflect", shape=(n, n))
    b = operator(torch.as_tensor(inverse.shepp_logan(n))).numpy()
    model = br.BayesianModel(operator, {"x": priors.Smooth(2, 0.05, 1.0)}, likelihoods.Gaussian(0.01))
    posterior: Any = br.fit(model, None, b + 0.01 * np.random.default_rng(0).normal(size=(n, n)), method="exact")
    made = {f"ours, {draws} draws": lambda: posterior.sample(draws)["x"].numpy()}
    return made, lambda x: float(np.median(x.std(0)) / np.median(np.sqrt(posterior.problem.variance_of_preconditioner)))


def measured(contestants: Contestants, rounds: int) -> tuple[dict[str, list[float]], dict[str, np.ndarray]]:
    """CPU seconds of each contestant, round by round after one that warms up, and its answer."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    answers: dict[str, np.ndarray] = {}
    for _ in range(rounds + 1):
        for name, contestant in contestants.items():
            started = time.process_time()
            answers[name] = contestant()
            times[name].append(time.process_time() - started)
    return {name: seconds[1:] for name, seconds in times.items()}, answers


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small image, few draws and rounds")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # a peer's
    n = 128 if quick else 512
    tasks = {
        "shaw(32), mode": (shaw, 10),
        "deconvolution of 128, draws": (lambda: deconvolution(50 if quick else 1000), 2),
        f"deblurring {n} × {n}, mode": (lambda: deblurring(n), 1),
        f"deblurring {n} × {n}, draws": (lambda: large_draws(n, 10), 1),
    }
    print("| task | contestant | ms | CPU time / ours: median | min | max | error |\n|---|---|---|---|---|---|---|")
    for task, (make, rounds) in tasks.items():
        contestants, error = make()
        times, answers = measured(contestants, rounds if quick else 2 * rounds)
        first = next(iter(times.values()))
        for name, seconds in times.items():
            ratios = [one / own for one, own in zip(seconds, first, strict=True)]
            middle = f"{statistics.median(ratios):.2f} | {min(ratios):.2f} | {max(ratios):.2f}"
            print(
                f"| {task} | {name} | {1e3 * statistics.median(seconds):.2f} | {middle} | {error(answers[name]):.2g} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
