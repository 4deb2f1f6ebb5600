"""SWAG: its covariance is that of the paper, its rate that which gives a posterior's typical width."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import integrate
from sklearn.linear_model import Ridge
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.inference import MAP, SWAG
from bayesreg.posteriors import AbstractNormal, LowRankGaussian, WithStatistics, moments_of_path

ROWS, INPUTS, NOISE, SCALE = 600, 4, 0.5, 0.7


def linear(seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(ROWS, INPUTS))
    y = X @ [2.0, -1.0, 0.5, 0.0] + NOISE * rng.normal(size=ROWS)
    return br.BayesianModel(nn.Linear(INPUTS, 1, bias=False).double(), priors.Normal(SCALE), likelihoods.Gaussian(NOISE)), X, y


@pytest.fixture(scope="module")
def fits():
    return [(br.fit(*linear(seed), method=SWAG(num_samples=300), seed=seed), *linear(seed)) for seed in range(3)]


def test_the_mean_is_the_ridge_solution(fits):
    for found, _, X, y in fits:
        exact = Ridge(alpha=NOISE**2 / SCALE**2, fit_intercept=False).fit(X, y).coef_
        assert found.certificate.converged, found.certificate
        error = found.certificate.details["largest error of the mean"]
        assert error < 0.01
        assert np.abs(found.mean["weight"].numpy()[0] - exact).max() < 4 * error


def test_its_rate_gives_a_quadratic_objective_the_typical_width_of_its_posterior(fits):
    ratios = [
        (found.std["weight"] / br.fit(model, X, y, method="exact").std["weight"]).log().mean() for found, model, X, y in fits
    ]
    assert abs(float(torch.stack(ratios).mean())) < math.log(1.35)  # momentum and a rank of 20 cost a little


def test_the_rate_is_that_of_a_brownian_bridge_an_epoch():
    """dx = −κ x dt + κ dW°: the mean over an epoch of the variance, by quadrature of the kernel, is 1 at κ = 3.44."""
    k = 3.44

    def noise(t):  # ∫g² − (∫g)², g(s) = κ exp(−κ(t − s))
        g = lambda s: k * math.exp(-k * (t - s))  # noqa: E731
        return integrate.quad(lambda s: g(s) ** 2, 0, t)[0] - integrate.quad(g, 0, t)[0] ** 2

    begin = noise(1.0) / (1 - math.exp(-2 * k))
    mean = integrate.quad(lambda t: begin * math.exp(-2 * k * t) + noise(t), 0, 1)[0]
    assert abs(mean - 1) < 0.01


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_the_covariance_is_that_of_the_paper(seed):
    path = np.random.default_rng(seed).normal(size=(50, 6))
    mean, sd, directions = (part.numpy() for part in moments_of_path(torch.tensor(path), 5))
    away = np.stack([path[i] - path[: i + 1].mean(0) for i in range(45, 50)])
    np.testing.assert_allclose(mean, path.mean(0), rtol=1e-12)
    expected = 0.5 * np.diag((path**2).mean(0) - path.mean(0) ** 2) + away.T @ away / (2 * 4)
    np.testing.assert_allclose(np.diag(sd**2) + directions @ directions.T, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_moments_are_those_of_the_draws(fits, seed):
    found, count = fits[0][0], 40_000
    draws = found.draw(count, torch.Generator().manual_seed(seed)).numpy()
    mean, sd = (part.numpy() for part in found.moments())
    assert (np.abs(draws.mean(0) - mean) < 4.5 * sd / np.sqrt(count)).all()
    covariance = found.covariance.numpy()
    error = np.sqrt((np.outer(np.diag(covariance), np.diag(covariance)) + covariance**2) / count)
    assert (np.abs(np.cov(draws.T) - covariance) < 4.5 * error).all()
    np.testing.assert_allclose(sd**2, np.diag(covariance), rtol=1e-12)
    loc, factor = found.as_normal()
    np.testing.assert_allclose(factor @ factor.mT, covariance, rtol=1e-12)
    assert torch.equal(loc, found.loc)
    from_factor = AbstractNormal.log_density(found, torch.tensor(draws[:20]))
    torch.testing.assert_close(found.log_density(torch.tensor(draws[:20])), from_factor)


def test_prediction_is_exact_where_the_network_is_linear(fits):
    found, _, X, _ = fits[0]
    predicted = found.predict(X[:9], num_samples=50, seed=0)
    np.testing.assert_allclose(predicted.mean, X[:9] @ found.loc.numpy(), rtol=1e-9)
    expected = np.einsum("np,pq,nq->n", X[:9], found.covariance.numpy(), X[:9])
    np.testing.assert_allclose(predicted.epistemic_variance, expected, rtol=1e-6)


def test_a_temperature_multiplies_the_covariance(fits):
    found, model, X, y = fits[0]
    warm = br.fit(model, X, y, method=SWAG(num_samples=300, temperature=4.0), seed=0)
    torch.testing.assert_close(warm.covariance, 4 * found.covariance)
    assert "Temperature 4" in str(warm.certificate)


def test_a_path_that_goes_somewhere_is_not_certified():
    model, X, y = linear()
    method = SWAG(num_warmup=0, num_samples=100, thin=2, learning_rate=1e-4, start=MAP("adam", num_steps=1))
    with pytest.warns(br.ConvergenceWarning, match=r"swag: The two halves of the path differ .* raise num_warmup"):
        found = br.fit(model, X, y, method=method, seed=0)
    assert found.certificate.details["drift"] > 4


def test_draws_of_a_network_with_batch_normalisation_have_statistics_and_come_back_in_a_new_process(tmp_path):
    _, X, y = linear()
    net = nn.Sequential(nn.Linear(INPUTS, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    model = br.BayesianModel(net, priors.Normal(1.0), likelihoods.Gaussian(priors.HalfNormal(1.0)))
    method = SWAG(20, 30, 2, 10, batch_size=60, start=MAP(num_steps=50), num_draws=15)
    found = br.fit(model, X, y, method=method, seed=0)
    assert isinstance(found, WithStatistics)
    assert isinstance(found.fitted, LowRankGaussian)
    assert found.batch_statistics == f"each draw's own statistics, over {ROWS} rows"
    x, weights = found.model.prepare(X), found.layout.unflatten(found.made_of[3])
    expected = (x @ weights["0.weight"].mT + weights["0.bias"]).mean(0)
    torch.testing.assert_close(found.statistics()["1.running_mean"][3], expected, rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    br.save(found, tmp_path / "own.pt")
    np.save(tmp_path / "X.npy", X)
    code = (
        f"import bayesreg as br, numpy as np, pathlib, torch; here = pathlib.Path({str(tmp_path)!r})\n"
        "torch.save(br.load(here / 'own.pt').predict(np.load(here / 'X.npy'), num_samples=9, seed=3).mean, here / 'mean')"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
    assert torch.equal(torch.load(tmp_path / "mean"), found.predict(X, num_samples=9, seed=3).mean)


def test_a_loader_brings_its_own_batches():
    model, X, y = linear()
    loader = DataLoader(TensorDataset(torch.tensor(X), torch.tensor(y)), batch_size=60, shuffle=True)
    found = br.fit(model, loader, method=SWAG(100, 40, 5, 10, start=MAP(num_steps=300)), seed=0)
    exact = br.fit(model, X, y, method="exact")
    assert float(((found.mean["weight"] - exact.mean["weight"]) / exact.std["weight"]).abs().max()) < 0.5


def test_what_is_no_path_is_refused():
    model, X, y = linear()
    with pytest.raises(ValueError, match=r"needs the noise of mini-batches, .* but batch_size=600 of N = 600 rows came"):
        br.fit(model, X, y, method=SWAG(batch_size=600))
    with pytest.raises(ValueError, match=r"num_samples must be at least 20, .* but 10 came"):
        SWAG(num_samples=10)
    with pytest.raises(ValueError, match=r"rank must be from 2 to num_samples=30, but 40 came"):
        SWAG(num_samples=30, rank=40)
    with pytest.raises(ValueError, match=r"start must be a MAP, .* but 'prior' came"):
        SWAG(start="prior")
    with pytest.raises(ValueError, match=r"validation_fraction holds some out"):
        SWAG(start=MAP(validation_fraction=0.1))
