"""Published posteriors that our declarations must reproduce: the Bayesian lasso and the horseshoe on diabetes.

Sampled by Hamiltonian Monte Carlo from the module's own weights, which are nowhere near the posterior.
"""

import math

import pytest
import torch
from pyro.ops.stats import effective_sample_size, split_gelman_rubin
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.inference import HMC

NAMES = ("age", "sex", "bmi", "map", "tc", "ldl", "hdl", "tch", "ltg", "glu")
# Park and Casella (2008), The Bayesian lasso, table 1 (lambda = 0.237); a Gibbs sampler of 60,000 draws of the same model
PARK_CASELLA = (-3.73, -214.55, 522.62, 307.56, -173.16, -1.50, -152.12, 90.43, 523.26, 62.47)
GIBBS = (-3.80, -213.37, 524.24, 307.69, -171.47, -2.88, -152.26, 92.87, 521.54, 62.87)
INTERVALS = {"age": (-113, 104), "bmi": (395, 653), "tc": (-578, 128), "ltg": (330, 728)}
# Horseshoe with half-Cauchy local and global scales relative to the noise, inputs of unit norm
HORSESHOE = (-1.17, -197.96, 535.29, 301.83, -136.36, -2.86, -157.96, 44.89, 532.44, 33.54)


def sampled(prior, diabetes_unit, seed=0, **settings):
    """Draws of the weights (S, 10), and the Monte Carlo errors of their medians."""
    X, y = diabetes_unit
    linear = nn.Linear(10, 1, bias=False).double()
    model = br.BayesianModel(linear, prior, likelihoods.Gaussian(priors.LogUniform()), standardize=False)  # p(σ) ∝ 1/σ
    post = br.fit(model, X, y, method=HMC(compile=True, **settings), seed=seed)
    flat = torch.vmap(post.layout.unflatten)(post.draws)["weight"][:, 0]
    w = flat.reshape(post.num_chains, -1, 10)
    assert float(split_gelman_rubin(w, chain_dim=0, sample_dim=1).max()) < 1.05
    size = effective_sample_size(w, chain_dim=0, sample_dim=1)
    # of a median: √(π/2) sd/√n for a normal; the density at the median of these posteriors is not below a normal's
    return flat, math.sqrt(math.pi / 2) * flat.std(0) / size.sqrt()


@pytest.fixture(scope="module")
def diabetes_unit():
    """Inputs centred with unit norm, target centred."""
    from sklearn.datasets import load_diabetes

    X, y = load_diabetes(return_X_y=True)
    return torch.as_tensor(X), torch.as_tensor(y - y.mean())


def check(draws, error, reference):
    median = draws.median(0).values
    for name, found, within, expected in zip(NAMES, median, error, reference, strict=True):
        assert abs(float(found) - expected) < 3 * float(within) + 0.01 * abs(expected), name
    assert float((error / draws.std(0)).max()) < 0.05  # a test that cannot fail is none


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_bayesian_lasso(diabetes_unit, seed):
    prior = priors.Laplace(1 / 0.237, relative_to_noise=True)
    draws, error = sampled(prior, diabetes_unit, seed, num_warmup=200, num_samples=400)
    check(draws, error, PARK_CASELLA)
    check(draws, error, GIBBS)
    for name, (low, high) in INTERVALS.items():
        found = torch.quantile(draws[:, NAMES.index(name)], torch.tensor([0.025, 0.975]).double())
        sd = float(draws[:, NAMES.index(name)].std())
        assert abs(float(found[0]) - low) < 0.12 * sd
        assert abs(float(found[1]) - high) < 0.12 * sd


@pytest.mark.slow
def test_horseshoe(diabetes_unit):
    prior = priors.Horseshoe(priors.HalfCauchy(1.0), relative_to_noise=True).expanded()
    draws, error = sampled(prior, diabetes_unit, num_warmup=250, num_samples=150)
    check(draws, error, HORSESHOE)
