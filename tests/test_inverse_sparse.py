"""Modes of A x = b under total variation, Laplace and positive priors, against other solvers and optimality conditions."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import lsq_linear, minimize, nnls

import bayesreg as br
from bayesreg import inference, likelihoods, operators, priors

KERNEL = np.exp(-0.5 * (np.arange(-6, 7) / 2.0) ** 2)
KERNEL /= KERNEL.sum()
SEEDS = (0, 1, 2)


def model_of(operator, prior, noise):
    return br.BayesianModel(operator, {"x": prior}, likelihoods.Gaussian(noise))


def steps_of(count):
    return np.diff(np.eye(count), axis=0)


def blocks(count=40):
    x = np.zeros(count)
    x[8:20], x[28:34] = 1.0, -1.0
    return x


@pytest.mark.parametrize("boundary", ["reflect", "zero"])
@pytest.mark.parametrize("seed", SEEDS)
def test_total_variation_meets_its_conditions(boundary, seed):
    """0 = Aᵀ(A x − b)/σ² + Dᵀp with |p| ≤ 1/s, and p = sign/s at each jump: p is the running sum of the residual's pull."""
    noise, scale = 0.02, 0.05
    operator = operators.Convolution1d(KERNEL, boundary=boundary, shape=(40,))
    b = operator.matrix().numpy() @ blocks() + noise * np.random.default_rng(seed).normal(size=40)
    mode = br.fit(model_of(operator, priors.TotalVariation(scale), noise), None, b, method="map")
    assert mode.certificate.converged
    assert mode.certificate.point.duality_gap < 1e-6
    x, A = mode.mean["x"].numpy(), operator.matrix().numpy()
    pull = A.T @ (A @ x - b) / noise**2
    p = np.cumsum(pull)
    assert abs(p[-1]) < 1e-6 / scale
    jumps = np.diff(x)
    assert np.abs(p).max() <= (1 + 1e-6) / scale
    assert (jumps == 0).sum() > 25  # piecewise constant, to the last digit
    assert np.abs(p[:-1] - np.sign(jumps) / scale)[jumps != 0].max() < 1e-6 / scale


def test_total_variation_against_an_independent_solver():
    """As bounded least squares: x = level + cumulative sums of u − v with u, v ≥ 0, by scipy."""
    count, noise, scale = 12, 0.1, 0.2
    rng = np.random.default_rng(0)
    A = rng.normal(size=(15, count))
    b = A @ np.repeat([0.0, 1.0, -0.5], 4) + noise * rng.normal(size=15)
    sums = np.tril(np.ones((count, count)))[:, 1:]
    B = np.concatenate([np.ones((count, 1)), sums, -sums], 1)
    G, weights = A @ B / noise, np.concatenate([[0.0], np.full(2 * (count - 1), 1 / scale)])

    def objective(z):
        r = G @ z - b / noise
        return 0.5 * r @ r + weights @ z, G.T @ r + weights

    bounds = [(None, None)] + [(0, None)] * (2 * (count - 1))
    options = {"maxiter": 20_000, "maxfun": 10**6, "ftol": 1e-15, "gtol": 1e-9}
    expected = B @ minimize(objective, np.zeros(2 * count - 1), jac=True, bounds=bounds, method="L-BFGS-B", options=options).x
    found = br.fit(model_of(operators.Dense(A), priors.TotalVariation(scale), noise), None, b, method="map")
    assert np.abs(found.mean["x"].numpy() - expected).max() < 1e-4
    ours = objective_of(A, b, noise, scale, found.mean["x"].numpy())
    assert ours <= objective_of(A, b, noise, scale, expected) + 1e-9
    assert found.certificate.point.duality_gap < 1e-6


def objective_of(A, b, noise, scale, x):
    return 0.5 * np.square(A @ x - b).sum() / noise**2 + np.abs(np.diff(x)).sum() / scale


def test_the_certificate_of_an_image_bounds_what_any_point_gains():
    noise, shape = 0.05, (12, 10)
    truth = torch.zeros(shape, dtype=torch.float64)
    truth[3:8, 2:6] = 1.0
    operator = operators.Convolution2d(np.outer(KERNEL, KERNEL)[4:9, 4:9], boundary="reflect", shape=shape)
    b = operator(truth) + noise * torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = model_of(operator, priors.TotalVariation(0.1), noise)
    mode = br.fit(model, None, b, method="map")
    point = mode.certificate.point
    assert mode.certificate.converged
    assert point.duality_gap <= 0.05 * point.tolerance
    assert mode.history.notes[1].startswith("primal–dual")
    value = float(model.bind(None, b).log_joint(mode.mean, None, b))
    assert abs(value - point.log_joint) < 1e-8 * abs(value)
    generator = torch.Generator().manual_seed(1)
    for size in (1e-3, 1e-2, 1e-1):
        other = mode.mean["x"] + size * torch.randn(shape, generator=generator, dtype=torch.float64)
        assert float(model.bind(None, b).log_joint({"x": other}, None, b)) <= value + point.duality_gap


@pytest.mark.parametrize("seed", SEEDS)
def test_l1_deblurring_finds_the_spikes(seed):
    count, spikes = 100, [10, 35, 60, 82]
    operator = operators.Convolution1d(KERNEL[3:10] / KERNEL[3:10].sum(), boundary="reflect", shape=(count,))
    x = np.zeros(count)
    x[spikes] = [1.0, -1.5, 2.0, 1.0]
    clean = operator.matrix().numpy() @ x
    noise = 0.01 * np.abs(clean).max()
    b = clean + noise * np.random.default_rng(seed).normal(size=count)
    mode = br.fit(model_of(operator, priors.Laplace(noise / 2), noise), None, b, method="map")
    found = np.flatnonzero(np.abs(mode.mean["x"].numpy()) > 0.1)
    assert found.tolist() == spikes
    other = br.fit(model_of(operator, priors.Laplace(noise / 2), noise), None, b, method=inference.MAP("primal-dual"))
    nats = [fit.certificate.point.log_joint for fit in (mode, other)]
    assert abs(nats[0] - nats[1]) <= other.certificate.point.duality_gap + 1e-6
    assert np.flatnonzero(np.abs(other.mean["x"].numpy()) > 0.1).tolist() == spikes


def test_a_total_variation_mode_can_be_of_rows_and_a_prox_is_the_mode_of_denoising():
    rng = np.random.default_rng(0)
    for prior, shape in ((priors.TotalVariation(0.3), (18, 17)), (priors.TotalVariation(0.3, per="row"), (3, 20))):
        b = rng.normal(size=shape)
        mode = br.fit(model_of(operators.Identity(shape), prior, 1.0), None, b, method="map").mean["x"]
        prox = prior.prox(torch.from_numpy(b), 1.0)
        value = lambda z: 0.5 * float((z - torch.from_numpy(b)).square().sum()) + float(prior.penalty(z))  # noqa: B023, E731
        assert abs(value(mode) - value(prox)) < 2.1e-4 * b.size
        assert value(prox) <= value(mode) + 1e-6
        assert int((prox.diff(1, -1) == 0).sum()) > 0


def test_a_level_that_no_measurement_sees_is_refused():
    model = model_of(operators.Dense(steps_of(6)), priors.TotalVariation(0.3), 0.1)
    with pytest.raises(ValueError, match="null space of dimension 1 free"):
        br.fit(model, None, np.ones(5), method="map")


class TestPositive:
    """Nonnegative unknowns: the modes of existing searches, against nonnegative least squares."""

    @staticmethod
    def problem(seed=0):
        rng = np.random.default_rng(seed)
        A = np.abs(rng.normal(size=(30, 10)))
        x = np.maximum(rng.normal(size=10), 0.05)
        return A, A @ x + 0.05 * rng.normal(size=30)

    @pytest.mark.parametrize(("prior", "power"), [(priors.HalfNormal(0.5), 2), (priors.Exponential(2.0), 1)])
    def test_the_mode_is_nonnegative_least_squares(self, prior, power):
        A, b = self.problem()
        noise = 0.05
        if power == 2:
            expected = nnls(np.concatenate([A / noise, np.eye(10) / 0.5]), np.concatenate([b / noise, np.zeros(10)]))[0]
        else:
            weights = (
                -np.asarray(prior.log_prob(torch.ones(10).double()) - prior.log_prob(torch.zeros(10).double() + 1e-12)) / 10
            )
            shift = np.linalg.lstsq(A.T @ A, noise**2 * weights * np.ones(10), rcond=None)[0]
            expected = lsq_linear(A, b - A @ shift, bounds=(0, np.inf), tol=1e-14).x  # the linear term completes the square
        found = br.fit(model_of(operators.Dense(A), prior, noise), None, b, method="map").mean["x"].numpy()
        assert (found >= 0).all()
        assert np.abs(found - expected).max() < 2e-3 * max(1.0, math.sqrt(float((expected**2).sum())))
