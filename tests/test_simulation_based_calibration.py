"""Simulation-based calibration: with parameters drawn from the prior, their rank among posterior draws is uniform.

Talts, Betancourt, Simpson, Vehtari and Gelman (2018). It sees any error that a posterior makes on average: a wrong scale of
the likelihood against the prior, a forgotten Jacobian, a wrong covariance.
"""

import numpy as np
import pytest
import torch
from scipy import stats

import bayesreg as br
from bayesreg import likelihoods, priors
from tests.conftest import network

REPEATS, DRAWS = 300, 99


def simulate(model, generator, inputs):
    """One data set from the prior: noise sd 0.5 is known, weights and bias are N(0, 0.8²)."""
    X = generator.normal(size=(25, inputs)) * [1.0, 5.0, 0.2]
    weights, bias = 0.8 * generator.normal(size=inputs), 0.8 * generator.normal()
    return X, X @ weights + bias + 0.5 * generator.normal(size=25), np.r_[weights, bias]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("method", ["exact", "laplace"])
def test_ranks_are_uniform(method, seed):
    generator = np.random.default_rng(seed)
    model = br.BayesianModel(network(3, 1, dtype=torch.float64), priors.Normal(0.8), likelihoods.Gaussian(0.5))
    ranks = []
    for i in range(REPEATS):
        X, y, truth = simulate(model, generator, 3)
        draws = br.fit(model, X, y, method=method).sample(DRAWS, seed=i)
        flat = torch.cat([draws["0.weight"].reshape(DRAWS, -1), draws["0.bias"]], 1).numpy()
        ranks.append((flat < truth).sum(0))
    for rank in np.array(ranks).T:
        counts = np.histogram(rank, bins=10, range=(0, DRAWS + 1))[0]
        assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.slow
def test_it_sees_a_posterior_that_is_too_narrow():
    """The test above has the power to fail: a wrong noise scale, 0.35 for 0.5, is found."""
    generator = np.random.default_rng(0)
    model = br.BayesianModel(network(3, 1, dtype=torch.float64), priors.Normal(0.8), likelihoods.Gaussian(0.35))
    ranks = []
    for i in range(REPEATS):
        X, y, truth = simulate(model, generator, 3)
        draws = br.fit(model, X, y, method="exact").sample(DRAWS, seed=i)
        ranks.append((draws["0.weight"].reshape(DRAWS, -1).numpy() < truth[:3]).sum(0))
    pvalues = [stats.chisquare(np.histogram(r, bins=10, range=(0, DRAWS + 1))[0]).pvalue for r in np.array(ranks).T]
    assert min(pvalues) < 1e-4
