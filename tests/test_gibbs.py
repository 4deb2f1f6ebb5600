"""Gibbs sampling of unknown noise and prior scales: against quadrature, and by simulation-based calibration."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

import bayesreg as br
from bayesreg import inference, likelihoods, operators, priors

SIZE = 6


def problem(seed=0):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(20, SIZE))
    return A, A @ (0.7 * rng.normal(size=SIZE)) + 0.3 * rng.normal(size=20)


def by_quadrature(A, b):
    """Means and sds of σ, τ and x under HalfNormal(1) priors of both scales, on a grid of their logarithms."""
    values, left = np.linalg.eigh(A @ A.T)
    turned, log = left.T @ b, np.linspace(-3.5, 2.0, 120)
    sigma, tau = np.exp(log)[:, None], np.exp(log)[None]
    spread = sigma[..., None] ** 2 + tau[..., None] ** 2 * values.clip(0)
    nats = -0.5 * np.log(spread).sum(-1) - 0.5 * (turned**2 / spread).sum(-1) - (sigma**2 + tau**2) / 2 + np.log(sigma * tau)
    weight = np.exp(nats - nats.max())
    weight /= weight.sum()
    x = (tau[..., None] ** 2 * (turned / spread)) @ (left.T @ A)
    mean = lambda v: float((weight * v).sum())  # noqa: E731
    sds = [math.sqrt(mean(v**2) - mean(v) ** 2) for v in (sigma, tau)]
    return (mean(sigma), mean(tau)), sds, (weight[..., None] * x).sum((0, 1))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_scales_and_weights_are_those_of_quadrature(seed):
    A, b = problem(seed)
    prior = {"x": priors.Normal(priors.HalfNormal(1.0))}
    model = br.BayesianModel(operators.Dense(A), prior, likelihoods.Gaussian(priors.HalfNormal(1.0)))
    post = br.fit(model, None, b, method="gibbs", seed=seed)
    assert post.certificate.converged
    means, sds, x = by_quadrature(A, b)
    error = 4 / math.sqrt(post.certificate.mixing.weights.ess_bulk)
    for name, mean, sd in zip(("noise_scale", "x.scale"), means, sds, strict=True):
        assert abs(float(post.mean[name]) - mean) < error * sd
        assert abs(float(post.std[name]) / sd - 1) < 3 * error
    assert ((post.mean["x"].numpy() - x) / post.std["x"].numpy() < error).all()


def test_known_scales_give_the_exact_posterior():
    A, b = problem()
    model = br.BayesianModel(operators.Dense(A), {"x": priors.Normal(0.7)}, likelihoods.Gaussian(0.3))
    exact = br.fit(model, None, b, method="exact")
    drawn = br.fit(model, None, b, method=inference.Gibbs(10, 1, 200)).draws.reshape(-1, SIZE)
    z = torch.linalg.solve_triangular(torch.linalg.cholesky(exact.covariance), (drawn - exact.loc).mT, upper=False)
    assert abs(float(z.square().mean()) - 1) < 4 * math.sqrt(2 / z.numel())
    assert float(z.mean(1).abs().max()) < 4 / math.sqrt(z.shape[1])


def test_a_smoothness_scale_is_learned_beside_a_network():
    """Another unknown than x, a bias and a standardised target: what the method takes is any linear model."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 4))
    y = 3.0 + X @ np.array([1.0, -2.0, 0.5, 0.0]) + 0.4 * rng.normal(size=60)
    rules = {"weight": priors.Normal(priors.HalfCauchy(1.0)), "bias": priors.Flat()}
    model = br.BayesianModel(torch.nn.Linear(4, 1).double(), rules, likelihoods.Gaussian(priors.HalfNormal(1.0)), True)
    post = br.fit(model, X, y, method="gibbs", seed=0)
    assert post.certificate.converged
    assert abs(float(post.mean["noise_scale"]) - 0.4) < 0.12
    walk = operators.Dense(np.eye(30))
    truth = np.cumsum(0.2 * rng.normal(size=30))
    smooth = br.BayesianModel(
        walk, {"x": priors.Smooth(1, priors.HalfNormal(1.0))}, likelihoods.Gaussian(priors.HalfNormal(1.0))
    )
    found = br.fit(smooth, None, truth + 0.05 * rng.normal(size=30), method="gibbs", seed=0)
    assert 0.1 < float(found.mean["x.scale"]) < 0.4


def test_what_is_not_linear_and_gaussian_is_refused():
    A, b = problem()
    with pytest.raises(ValueError, match="Gibbs needs Gaussian or Flat priors on weights, but x has Laplace"):
        br.fit(br.BayesianModel(operators.Dense(A), {"x": priors.Laplace(1.0)}), None, b, method="gibbs")
    net = torch.nn.Sequential(torch.nn.Linear(SIZE, 2), torch.nn.Tanh(), torch.nn.Linear(2, 1))
    with pytest.raises(ValueError, match="linear in its weights"):
        br.fit(br.BayesianModel(net), A, b, method="gibbs")
    with pytest.raises(ValueError, match="Gibbs needs a Gaussian likelihood with one noise scale, but Bernoulli"):
        br.fit(br.BayesianModel(torch.nn.Linear(SIZE, 1), likelihood=likelihoods.Bernoulli()), A, b > 0, method="gibbs")


@pytest.mark.slow
def test_simulation_based_calibration():
    """Scales and x drawn from the prior, b from these: the rank of each among posterior draws is uniform."""
    A, rng, ranks = problem()[0], np.random.default_rng(0), []
    prior = {"x": priors.Normal(priors.HalfNormal(1.0))}
    model = br.BayesianModel(operators.Dense(A), prior, likelihoods.Gaussian(priors.HalfNormal(1.0)))
    method = inference.Gibbs(32, 6, 1)  # one draw a chain, so that draws are independent
    for seed in range(60):
        sigma, tau = np.abs(rng.normal(size=2))
        x = tau * rng.normal(size=SIZE)
        with pytest.warns(br.ConvergenceWarning):  # a draw a chain is too few to be judged
            post = br.fit(model, None, A @ x + sigma * rng.normal(size=20), method=method, seed=seed)
        drawn = {name: value.numpy() for name, value in post.sample(32).items()}
        ranks.append([(drawn["noise_scale"] < sigma).sum(), (drawn["x.scale"] < tau).sum(), (drawn["x"][:, 0] < x[0]).sum()])
    for column in np.array(ranks).T:
        counts = np.histogram(column, bins=[0, 7, 14, 20, 27, 33])[0]
        expected = len(ranks) * np.array([7, 7, 6, 7, 6]) / 33
        assert stats.chisquare(counts, expected).pvalue > 1e-3
