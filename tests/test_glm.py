"""Modes of generalised linear models against scikit-learn and statsmodels, found by `fit` with nothing but defaults."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import GammaRegressor, PoissonRegressor
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors

sm = pytest.importorskip("statsmodels.api")
N, D = 300, 3
MLE = priors.Positive(priors.Flat())


@pytest.fixture(scope="module")
def X():
    return np.random.default_rng(0).normal(size=(N, D)) * [1.0, 3.0, 0.5]


@pytest.fixture(scope="module")
def eta(X):
    return 0.7 + X @ [0.5, -0.2, 0.0]


def fitted(likelihood, X, y, prior=None, bias=True, **options):
    rules = {"weight": prior or priors.Flat()} | ({"bias": priors.Flat()} if bias else {})
    model = br.BayesianModel(nn.Linear(D, 1, bias=bias).double(), rules, likelihood, standardize=False)
    mode = br.fit(model, X, y, method="map", seed=0, **options)
    assert mode.certificate.converged, str(mode.certificate)
    return mode


def close(mode, coef, intercept=None, tolerance=1e-6):
    np.testing.assert_allclose(mode.mean["weight"].numpy()[0], coef, atol=tolerance, rtol=tolerance)
    if intercept is not None:
        np.testing.assert_allclose(mode.mean["bias"].numpy(), [intercept], atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("alpha", [0.0, 0.03])
def test_poisson_regressor(X, eta, alpha):
    """It minimises half the mean deviance + α‖w‖²/2, so that N(0, τ²) with τ² = 1/(Nα) has its mode."""
    y = np.random.default_rng(1).poisson(np.exp(eta)).astype(float)
    theirs = PoissonRegressor(alpha=alpha, tol=1e-10, solver="newton-cholesky").fit(X, y)
    prior = priors.Normal((N * alpha) ** -0.5) if alpha else None
    close(fitted(likelihoods.Poisson(), X, y, prior), theirs.coef_, theirs.intercept_)
    if not alpha:
        found = sm.GLM(y, sm.add_constant(X), family=sm.families.Poisson()).fit(tol=1e-12)
        close(fitted(likelihoods.Poisson(), X, y), found.params[1:], found.params[0])


@pytest.mark.parametrize("alpha", [0.0, 0.03])
def test_gamma_regressor(X, eta, alpha):
    """The deviance counts 1/(2φ) in the log-density, so that τ² = φ/(Nα)."""
    phi = 0.4
    y = np.random.default_rng(2).gamma(1 / phi, phi * np.exp(eta))
    theirs = GammaRegressor(alpha=alpha, tol=1e-10, solver="newton-cholesky").fit(X, y)
    prior = priors.Normal((phi / (N * alpha)) ** 0.5) if alpha else None
    close(fitted(likelihoods.Gamma(phi), X, y, prior), theirs.coef_, theirs.intercept_)
    if not alpha:  # the dispersion learned: the same coefficients, and the maximum over φ
        mode = fitted(likelihoods.Gamma(MLE), X, y)
        close(mode, theirs.coef_, theirs.intercept_)
        mean = theirs.predict(X)
        k = 1 / float(mode.mean["dispersion"])
        score = np.log(k) + 1 - torch.digamma(torch.tensor(k)).item() + np.mean(np.log(y / mean) - y / mean)
        assert abs(score) < 1e-6


def test_negative_binomial(X, eta):
    y = np.random.default_rng(3).negative_binomial(1 / 0.6, 1 / (1 + 0.6 * np.exp(eta))).astype(float)
    theirs = sm.NegativeBinomial(y, sm.add_constant(X)).fit(disp=0, method="newton", maxiter=200, tol=1e-12)
    mode = fitted(likelihoods.NegativeBinomial(MLE), X, y)
    close(mode, theirs.params[1:4], theirs.params[0])
    assert float(mode.mean["dispersion"]) == pytest.approx(theirs.params[4], rel=1e-6)
    known = sm.GLM(y, sm.add_constant(X), family=sm.families.NegativeBinomial(alpha=0.6)).fit(tol=1e-12)
    close(fitted(likelihoods.NegativeBinomial(0.6), X, y), known.params[1:], known.params[0])


def test_log_normal_is_least_squares_of_the_logarithm(X, eta):
    y = np.exp(eta + np.random.default_rng(4).normal(0, 0.3, N))
    theirs = sm.OLS(np.log(y), sm.add_constant(X)).fit()
    mode = fitted(likelihoods.LogNormal(MLE), X, y)
    close(mode, theirs.params[1:], theirs.params[0])
    assert float(mode.mean["noise_scale"]) == pytest.approx(np.sqrt(np.mean(theirs.resid**2)), rel=1e-6)


def test_student_t_is_iteratively_reweighted_least_squares(X, eta):
    """EM of Lange, Little and Taylor: w = (ν + 1)/(ν + z²), then weighted least squares and s² = mean of w r²."""
    y = eta + 0.5 * np.random.default_rng(5).standard_t(4.0, N)
    mode = fitted(likelihoods.StudentT(4.0, MLE), X, y)
    A, beta, s = sm.add_constant(X), np.zeros(D + 1), 1.0
    for _ in range(300):
        r = y - A @ beta
        w = 5 / (4 + (r / s) ** 2)
        beta = np.linalg.solve(A.T * w @ A, A.T * w @ y)
        s = np.sqrt(np.mean(w * (y - A @ beta) ** 2))
    close(mode, beta[1:], beta[0])
    assert float(mode.mean["noise_scale"]) == pytest.approx(s, rel=1e-6)


def test_ordered_model(X, eta):
    """Proportional odds with flat priors: statsmodels' thresholds come as the first one and the logarithms of the gaps."""
    from statsmodels.miscmodels.ordinal_model import OrderedModel

    y = np.digitize(eta + np.random.default_rng(6).logistic(size=N), [-1.0, 0.5, 1.5])
    theirs = OrderedModel(y, X, distr="logit").fit(method="newton", disp=0, maxiter=100, tol=1e-12)
    mode = fitted(likelihoods.Ordinal(4, priors.Flat(), MLE), X, y, bias=False)
    close(mode, theirs.params[:D])
    cuts = mode.model.likelihood.thresholds({name: v for name, v in mode.mean.items() if name != "weight"})
    expected = theirs.params[D] + np.r_[0, np.exp(theirs.params[D + 1 :]).cumsum()]
    np.testing.assert_allclose([float(c) for c in cuts], expected, rtol=1e-6)
    np.testing.assert_allclose(mode.predict(X).mean.numpy(), theirs.predict(X), atol=1e-6)


def test_two_targets_have_a_noise_each(X, eta):
    """Two regressions in one: the coefficients of least squares, and each residual's root mean square, in its own units."""
    y = np.column_stack([eta, 100 - 40 * eta]) + np.random.default_rng(7).normal(0, [0.3, 25.0], (N, 2))
    for standardize in (False, True):
        both = likelihoods.Gaussian((MLE, MLE))
        model = br.BayesianModel(nn.Linear(D, 2).double(), priors.Flat(), both, standardize)
        mode = br.fit(model, X, y, method="map", seed=0)
        residuals = sm.OLS(y, sm.add_constant(X)).fit().resid
        found = [float(mode.mean[f"noise_scale_{k}"]) for k in (1, 2)]
        np.testing.assert_allclose(found, np.sqrt((residuals**2).mean(0)), rtol=1e-6)
        np.testing.assert_allclose(mode.predict(X).std[0].numpy(), found, rtol=1e-6)
        np.testing.assert_allclose((y - mode.predict(X).mean.numpy()), residuals, atol=1e-5)
