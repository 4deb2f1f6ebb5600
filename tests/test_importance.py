"""Importance weights of an approximation: the Pareto shape is ArviZ's, and the evidence that of the closed form."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.certificates import Certificate, Finding, Importance, of_draws, pareto_smoothed
from bayesreg.certificates import words_of_approximations as approximations
from bayesreg.objective import LogJoint


@pytest.fixture(scope="module")
def exact():
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(60, 10, generator=generator, dtype=torch.float64)
    y = X @ torch.linspace(-1, 1, 10, dtype=torch.float64) + 0.5 * torch.randn(60, generator=generator, dtype=torch.float64)
    model = br.BayesianModel(nn.Linear(10, 1).double(), priors.Normal(1.0), likelihoods.Gaussian(0.5))
    return br.fit(model, X, y, method="exact"), model.ingest(X, y)[1]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("df", [2.0, 5.0])
def test_the_shape_and_the_weights_are_arviz_s(seed, df):
    az = pytest.importorskip("arviz")
    generator = np.random.default_rng(seed)
    log_weights = np.log(np.abs(generator.standard_t(df, 2000)))
    smoothed, shape = pareto_smoothed(torch.from_numpy(log_weights))
    if hasattr(az, "psislw"):
        theirs, k = az.psislw(log_weights, 1.0)
    else:
        theirs, k = az.array_stats.psislw(log_weights, r_eff=1.0)
    assert shape == pytest.approx(float(k), abs=0.02)
    ours = smoothed - torch.logsumexp(smoothed, 0)
    np.testing.assert_allclose(np.sort(ours.numpy()), np.sort(theirs), atol=0.02)


def test_the_posterior_itself_has_constant_weights(exact):
    posterior, data = exact
    draws = posterior.draw(500, torch.Generator().manual_seed(1))
    log_q = torch.as_tensor(posterior.log_density(draws)).double()
    found = of_draws(LogJoint(posterior.model), draws, log_q.reshape(-1), data)
    assert found.shape <= 0 or found.reliable
    assert found.log_evidence == pytest.approx(posterior.log_evidence, abs=1e-6)
    assert found.error == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("width", [0.5, 1.2])
def test_too_narrow_is_found_and_too_wide_is_corrected(exact, seed, width):
    posterior, data = exact
    sd = posterior.covariance.diagonal().sqrt()
    q = torch.distributions.MultivariateNormal(posterior.loc, width**2 * posterior.covariance)
    noise = torch.randn(1000, len(sd), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    draws = posterior.loc + width * noise @ posterior.factor.mT
    found = of_draws(LogJoint(posterior.model), draws, q.log_prob(draws), data)
    if width > 1:
        assert found.reliable
        assert found.error is not None
        assert found.log_evidence == pytest.approx(posterior.log_evidence, abs=4 * found.error + 1e-9)
    else:
        assert not found.reliable


@pytest.mark.parametrize("spread", [1e-13, 1e-10, 1e-6, 1e-3, 1.0])
@pytest.mark.parametrize("behind", [660.0, 690.0, 700.0, 708.39, 800.0])
def test_one_weight_that_carries_all_has_no_finite_shape_or_a_large_one(behind, spread):
    weights = torch.linspace(0, spread, 1000, dtype=torch.float64) - behind
    weights[-1] = 0.0
    assert pareto_smoothed(weights)[1] > 5


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_weight_that_is_no_number_has_no_shape(bad):
    weights = torch.zeros(300)
    weights[7] = bad
    assert pareto_smoothed(weights)[1] == math.inf
    assert pareto_smoothed(torch.randn(20, generator=torch.Generator().manual_seed(0)))[1] == math.inf


@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (-math.inf, "is the posterior."),
        (0.2, "covers the posterior."),
        (0.6, "importance weights can correct it."),
        (0.9, "= 0.90 of 1,000 importance weights, above 0.67:"),
        (math.inf, "is infinite for 1,000"),
    ],
)
def test_a_certificate_says_it(shape, said):
    weights = Importance(shape, 1000, 2 / 3, -12.0, 0.5)
    found = Certificate(Finding.ELBO_LEVEL, importance=weights)
    assert found.converged
    assert said in approximations.covering(weights)
    assert found.details["Pareto k"] == shape
    assert found.details["log evidence by importance"] == -12.0
