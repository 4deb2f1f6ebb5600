"""Several targets whose noise the network predicts: closed forms against integrals over locations and log noise scales."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import bayesreg as br
from bayesreg.likelihoods import Gaussian
from bayesreg.posteriors import Gaussian as GaussianPosterior
from bayesreg.predictive import Predictive
from bayesreg.priors import Normal

NODES = np.linspace(-9, 9, 2001)
WEIGHTS = stats.norm.pdf(NODES) * (NODES[1] - NODES[0])


def rows(seed, count, targets):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    noise = torch.randn(count, targets, generator=generator, dtype=torch.float64)
    return x, 3 + 2 * (x[:, :1] + noise)


def about(targets, seed=0, spread=0.2, standardize=False) -> Any:
    """A network linearised about a made-up normal; its outputs' moments at four rows by dense derivatives."""
    x, y = rows(seed, 20, targets)
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2 * targets)).double()
    model = br.BayesianModel(net, Normal(1.0), Gaussian("heteroscedastic"), standardize=standardize).bind(x, y)
    simple = br.BayesianModel(nn.Linear(3, 1).double(), Normal(1.0), Gaussian(0.3))
    record, size = br.fit(simple, x, y[:, 0], method="exact").record, model.num_parameters
    loc, factor = (torch.randn(n, generator=generator, dtype=torch.float64) for n in ((size,), (size, size)))
    posterior = GaussianPosterior(model, record, loc, spread * factor / math.sqrt(size), linearize=True)
    new = rows(seed + 10, 4, targets)[0]

    def f(u):
        return model.forward(posterior.layout.unflatten(u), model.prepare(new))

    slopes = torch.autograd.functional.jacobian(f, loc)
    return posterior, new, f(loc).detach(), slopes @ posterior.covariance @ slopes.mT


def joint_density(loc, covariance, t):
    """Log p(t) of one row: the sum over a grid of all log scales of the normal density of the targets given them."""
    k = len(t)
    across = covariance[:k, k:] @ np.linalg.inv(covariance[k:, k:])
    rest = covariance[:k, :k] - across @ covariance[k:, :k]
    ends = {2: (8, 161), 3: (7, 71)}[k]
    line = np.linspace(-ends[0], ends[0], ends[1])
    z = np.stack(np.meshgrid(*[line] * k, indexing="ij"), -1).reshape(-1, k)
    log_weight = stats.norm.logpdf(z).sum(1) + k * math.log(line[1] - line[0])
    away = z @ np.linalg.cholesky(covariance[k:, k:]).T
    total = rest + np.exp(2 * (loc[k:] + away))[:, :, None] * np.eye(k)
    gap = t - loc[:k] - away @ across.T
    square = np.einsum("ij,ij->i", gap, np.linalg.solve(total, gap[:, :, None])[:, :, 0])
    each = -0.5 * (square + np.linalg.slogdet(total)[1] + k * math.log(2 * math.pi))
    most = (each + log_weight).max()
    return most + math.log(np.exp(each + log_weight - most).sum())


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize(("targets", "seed"), [(2, 0), (2, 1), (2, 2), pytest.param(3, 0, marks=pytest.mark.slow)])
def test_the_joint_density_of_a_row_is_an_integral_over_all_log_scales(targets, seed, standardize):
    posterior, new, loc, covariance = about(targets, seed, standardize=standardize)
    scale = posterior.model.standardization
    mean, width = (0.0, np.ones(targets)) if scale is None else (scale.y_mean.numpy(), scale.y_scale.numpy())
    found = posterior.predict(new)
    assert found.function is not None
    for row in range(2 if targets == 3 else 4):
        for distance in (0.0, 1.5, 4.0):
            target = found.mean + distance * found.std
            t = (target[row].numpy() - mean) / width
            truth = joint_density(loc[row].numpy(), covariance[row].numpy(), t) - np.log(width).sum()
            assert float(found.log_prob(target)[row]) == pytest.approx(truth, abs=1e-4 if distance < 4 else 5e-3)


@pytest.mark.parametrize("targets", [2, 5])
def test_each_target_has_the_moments_and_the_quantiles_of_its_own_integral(targets):
    posterior, new, loc, covariance = about(targets, standardize=True)
    mean, width = posterior.model.standardization.y_mean, posterior.model.standardization.y_scale
    found = posterior.predict(new)
    m, c = loc.numpy(), covariance.numpy()
    for k in range(targets):
        f, s, mu, by = m[:, k], m[:, targets + k], float(mean[k]), float(width[k])
        between, variance, sd = c[:, k, targets + k], c[:, k, k], np.sqrt(c[:, targets + k, targets + k])
        np.testing.assert_allclose(found.mean[:, k], mu + by * f, rtol=1e-9)
        np.testing.assert_allclose(found.epistemic_variance[:, k], by**2 * variance, rtol=1e-9)
        np.testing.assert_allclose(found.aleatoric_variance[:, k], by**2 * np.exp(2 * s + 2 * sd**2), rtol=1e-9)
        q = found.quantile(0.9)[:, k].numpy()
        for row in range(4):
            at = f[row] + between[row] / sd[row] * NODES
            spread = np.sqrt(variance[row] - (between[row] / sd[row]) ** 2 + np.exp(2 * (s[row] + sd[row] * NODES)))
            assert float(WEIGHTS @ stats.norm.cdf((q[row] - mu) / by, at, spread)) == pytest.approx(0.9, abs=1e-6)


def test_draws_say_the_same():
    posterior, new, *_ = about(2)
    found = posterior.predict(new, num_samples=50_000, seed=1)
    draws = Predictive(found.likelihood, found.output, found.noise)
    np.testing.assert_allclose(found.epistemic_variance, draws.epistemic_variance, rtol=0.05)
    np.testing.assert_allclose(found.aleatoric_variance, draws.aleatoric_variance, rtol=0.05)
    np.testing.assert_allclose(found.log_prob(found.mean), draws.log_prob(found.mean), atol=0.02)


def test_rows_and_scores_of_it():
    """A part of the rows is that of the whole; CRPS and interval go by the entries."""
    posterior, new, *_ = about(2, standardize=True)
    found, few = posterior.predict(new), posterior.predict(new[1:3])
    target = found.mean + 0.7 * found.std
    np.testing.assert_allclose(few.log_prob(target[1:3]), found.log_prob(target)[1:3], rtol=1e-9)
    np.testing.assert_allclose(found.function.rows(slice(1, 3)).log_prob(target[1:3]), few.log_prob(target[1:3]), rtol=1e-9)
    low, high = found.interval(0.9)
    assert bool(((low < found.mean) & (found.mean < high)).all())
    assert math.isfinite(br.metrics.crps(found, target))


def test_six_targets_and_little_memory_go_by_draws():
    posterior, new, *_ = about(6)
    assert posterior.predict(new, num_samples=10).function is None
    posterior, new, *_ = about(2)
    assert posterior.predict(new, num_samples=10, max_memory=20_000).function is None
