"""The closed form against the textbook, written with the other matrix inverse: N × N instead of P × P."""

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors
from tests.conftest import linear_model, network, textbook


def test_posterior_and_evidence_are_the_textbook_s(standard_diabetes):
    X, y = standard_diabetes
    post = br.fit(linear_model(standardize=False), X, y, method="exact")
    mean, covariance, evidence = textbook(X, y, scale=0.3, noise=0.7)
    found = np.r_[post.mean["weight"][0], post.mean["bias"]]
    np.testing.assert_allclose(found, mean, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(post.covariance, covariance, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(post.std["weight"][0], np.sqrt(np.diag(covariance)[:10]), rtol=1e-8)
    assert post.log_evidence == pytest.approx(evidence, abs=1e-8 * abs(evidence))


def test_evidence_is_a_density_of_y_in_its_own_units(diabetes):
    """Standardising changes log p(y) by the Jacobian −N log sd(y), no more."""
    X, y = diabetes
    post = br.fit(linear_model(), X, y, method="exact")
    _, _, evidence = textbook((X - X.mean(0)) / X.std(0), (y - y.mean()) / y.std(), scale=0.3, noise=0.7)
    assert post.log_evidence == pytest.approx(evidence - len(y) * np.log(y.std()), rel=1e-10)


def test_evidence_is_the_product_of_predictives(standard_diabetes):
    """log p(y₁..y₆) = Σ log p(yᵢ | y₁..yᵢ₋₁): the predictive is tied to the evidence."""
    X, y = standard_diabetes[0][:6], standard_diabetes[1][:6]
    total = 0.0
    for i in range(6):
        design, noise = np.column_stack([X, np.ones(6)]), 0.7
        prior = np.diag(np.r_[np.full(10, 0.3**2), 1.0])
        if i:
            mean, covariance, _ = textbook(X[:i], y[:i], scale=0.3, noise=noise)
        else:
            mean, covariance = np.zeros(11), prior
        total += stats.norm.logpdf(y[i], design[i] @ mean, np.sqrt(design[i] @ covariance @ design[i] + noise**2))
    post = br.fit(linear_model(standardize=False), X, y, method="exact")
    assert post.log_evidence == pytest.approx(total, rel=1e-10)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_predictive_is_the_closed_form_within_monte_carlo_error(standard_diabetes, seed):
    X, y = standard_diabetes
    post = br.fit(linear_model(standardize=False), X[:200], y[:200], method="exact")
    mean, covariance, _ = textbook(X[:200], y[:200], scale=0.3, noise=0.7)
    design = np.column_stack([X[200:], np.ones(242)])
    epistemic = np.einsum("nd,de,ne->n", design, covariance, design)
    draws = 4000
    pred = post.predict(X[200:], num_samples=draws, seed=seed)
    np.testing.assert_allclose(pred.mean, design @ mean, rtol=1e-9, atol=1e-10)  # draws come in pairs loc ± step
    np.testing.assert_allclose(pred.epistemic_variance, epistemic, rtol=6 * np.sqrt(2 / draws))
    np.testing.assert_allclose(pred.aleatoric_variance, 0.49, rtol=1e-12)


def test_fixed_features_under_a_linear_layer_qualify(standard_diabetes):
    X, y = standard_diabetes
    features = nn.Sequential(network(10, 7, 5, dtype=torch.float64).requires_grad_(False), nn.Linear(5, 1).double())
    model = br.BayesianModel(features, priors.Normal(1.0), likelihoods.Gaussian(0.7))
    post = br.fit(model, X, y, method="exact")
    with torch.no_grad():
        hidden = features[0](torch.tensor(X)).numpy()
    mean, _, evidence = textbook(hidden, y, scale=1.0, noise=0.7)
    np.testing.assert_allclose(post.mean["1.weight"][0], mean[:5], rtol=1e-8)
    assert post.log_evidence == pytest.approx(evidence, rel=1e-10)
    assert list(post.mean) == ["1.weight", "1.bias"]  # what is frozen has no prior and no posterior


def test_flat_priors_give_least_squares_and_no_evidence(standard_diabetes):
    X, y = standard_diabetes
    post = br.fit(br.BayesianModel(nn.Linear(10, 1).double(), priors.Flat(), likelihoods.Gaussian(0.7)), X, y, method="exact")
    solution = np.linalg.lstsq(np.column_stack([X, np.ones(442)]), y, rcond=None)[0]
    np.testing.assert_allclose(post.mean["weight"][0], solution[:10], rtol=1e-8)
    assert post.log_evidence is None


def test_several_outputs_share_the_noise(standard_diabetes):
    X, y = standard_diabetes
    both = np.column_stack([y, y**2])
    model = br.BayesianModel(nn.Linear(10, 2).double(), priors.Normal(1.0), likelihoods.Gaussian(0.7), standardize=True)
    post = br.fit(model, X, both, method="exact")
    for k in range(2):
        z = (both[:, k] - both[:, k].mean()) / both[:, k].std()
        mean, _, _ = textbook(X, z, scale=1.0, noise=0.7)
        np.testing.assert_allclose(post.mean["weight"][k], mean[:10], rtol=1e-8)
    pred = post.predict(X[:4], num_samples=10)
    assert pred.mean.shape == (4, 2)
    np.testing.assert_allclose(pred.aleatoric_variance[0], (0.7 * both.std(0)) ** 2, rtol=1e-10)


@pytest.mark.parametrize(
    ("module", "rules", "likelihood", "message"),
    [
        (
            nn.Linear(10, 1),
            priors.Laplace(1.0),
            likelihoods.Gaussian(0.7),
            r"needs Gaussian or Flat priors with known scales, but weight has Laplace",
        ),
        (nn.Linear(10, 1), None, likelihoods.Gaussian(), r"noise_scale is a number, but Gaussian\(noise_scale=HalfNormal"),
        (nn.Linear(10, 1), None, likelihoods.Bernoulli(), r"Gaussian likelihood whose noise_scale is a number, but Bernoulli"),
        (network(10, 4, 1), None, likelihoods.Gaussian(0.7), r"linear in its weights, but its output departs from that by"),
    ],
)
def test_refusals(standard_diabetes, module, rules, likelihood, message):
    X, y = standard_diabetes
    with pytest.raises(ValueError, match=message):
        br.fit(br.BayesianModel(module, rules, likelihood), X, (y > 0) * 1.0, method="exact")


def test_an_improper_posterior_is_refused(standard_diabetes):
    X, y = standard_diabetes
    twice = np.column_stack([X, X])
    model = br.BayesianModel(nn.Linear(20, 1).double(), priors.Flat(), likelihoods.Gaussian(0.7))
    with pytest.raises(ValueError, match=r"the posterior must be proper, but the data do not determine every weight"):
        br.fit(model, twice[:15], y[:15], method="exact")
