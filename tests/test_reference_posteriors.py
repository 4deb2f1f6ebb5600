"""Published posteriors that our declarations must reproduce: the Bayesian lasso and the horseshoe on diabetes.

Sampled from our own log-joint of the unconstrained vector by Hamiltonian Monte Carlo, 32 chains in one vmapped step.
"""

import math

import pytest
import torch
from pyro.ops.stats import effective_sample_size, split_gelman_rubin
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.objective import LogJoint

CHAINS = 32
NAMES = ("age", "sex", "bmi", "map", "tc", "ldl", "hdl", "tch", "ltg", "glu")
# Park and Casella (2008), The Bayesian lasso, table 1 (lambda = 0.237); a Gibbs sampler of 60,000 draws of the same model
PARK_CASELLA = (-3.73, -214.55, 522.62, 307.56, -173.16, -1.50, -152.12, 90.43, 523.26, 62.47)
GIBBS = (-3.80, -213.37, 524.24, 307.69, -171.47, -2.88, -152.26, 92.87, 521.54, 62.87)
INTERVALS = {"age": (-113, 104), "bmi": (395, 653), "tc": (-578, 128), "ltg": (330, 728)}
# Horseshoe with half-Cauchy local and global scales relative to the noise, inputs of unit norm
HORSESHOE = (-1.17, -197.96, 535.29, 301.83, -136.36, -2.86, -157.96, 44.89, 532.44, 33.54)


def hamiltonian(log_joint, data, start, *, num_warmup, num_draws, seed, most_steps=20):
    """(draws, chains, P): leapfrog steps in the metric of all chains' pooled covariance, their number drawn anew each time."""
    generator = torch.Generator().manual_seed(seed)

    def potential(u):
        return -log_joint.prepared(u, *data, len(data[0]), jacobian=True)

    both = torch.vmap(torch.func.grad_and_value(potential))
    u = start + 0.1 * torch.randn(CHAINS, len(start), generator=generator, dtype=torch.float64)
    factor, log_step, kept = 0.1 * torch.eye(len(start), dtype=torch.float64), math.log(0.1), []
    gradient, value = both(u)
    for draw in range(num_warmup + num_draws):
        if draw in (40, 80, 140, 200) and draw < num_warmup:
            seen = torch.stack(kept[draw // 2 :]).reshape(-1, len(start))
            spread = torch.cov(seen.T) + 1e-6 * torch.eye(len(start), dtype=torch.float64)
            factor, log_step = torch.linalg.cholesky(spread), math.log(0.3)
        covariance = factor @ factor.T
        noise = torch.randn(u.shape, generator=generator, dtype=torch.float64)
        momentum = torch.linalg.solve_triangular(factor.T, noise.T, upper=True).T
        energy = value + 0.5 * ((momentum @ covariance) * momentum).sum(1)
        v, g, e, step = u, gradient, value, math.exp(log_step)
        for _ in range(int(torch.randint(4, most_steps, (), generator=generator))):
            momentum = momentum - 0.5 * step * g
            v = v + step * momentum @ covariance
            g, e = both(v)
            momentum = momentum - 0.5 * step * g
        change = energy - e - 0.5 * ((momentum @ covariance) * momentum).sum(1)
        chance = torch.where(change.isnan(), 0.0, change.clamp(max=0).exp())
        taken = torch.rand(CHAINS, generator=generator, dtype=torch.float64) < chance
        u, gradient, value = (
            torch.where(taken[:, None], v, u),
            torch.where(taken[:, None], g, gradient),
            torch.where(taken, e, value),
        )
        if draw < num_warmup:
            log_step += (float(chance.mean()) - 0.8) / math.sqrt(draw % 60 + 1)
        kept.append(u)
    return torch.stack(kept[num_warmup:]).detach()


def sampled(prior, diabetes_unit, start, **settings):
    X, y = diabetes_unit
    linear = nn.Linear(10, 1, bias=False).double()
    model = br.BayesianModel(linear, prior, likelihoods.Gaussian(priors.LogUniform())).bind(X, y)  # p(σ) ∝ 1/σ
    log_joint = LogJoint(model)
    weights = torch.linalg.solve(X.T @ X + 0.01 * torch.eye(10).double(), X.T @ y)
    values = {"weight": weights[None], "noise_scale": torch.tensor(54.0).double(), **start(weights)}
    u = hamiltonian(log_joint, model.prepare(X, y), log_joint.layout.flatten(values), **settings)
    w = torch.vmap(torch.vmap(log_joint.layout.unflatten))(u)["weight"][:, :, 0]
    assert float(split_gelman_rubin(w, chain_dim=1, sample_dim=0).max()) < 1.05
    size = effective_sample_size(w, chain_dim=1, sample_dim=0)
    flat = w.reshape(-1, 10)
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
    draws, error = sampled(prior, diabetes_unit, lambda w: {}, num_warmup=250, num_draws=250, seed=seed)
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

    def start(w):
        return {"weight.scale": (w.abs() / 54)[None].clamp_min(0.1), "weight.scale.scale": torch.tensor(1.0).double()}

    draws, error = sampled(prior, diabetes_unit, start, num_warmup=250, num_draws=500, seed=0, most_steps=50)
    check(draws, error, HORSESHOE)
