"""The Laplace approximation: exact where the posterior is Gaussian, and honest about what its curvature is."""

import numpy as np
import pytest
import torch
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.inference import MAP, LaplaceApproximation
from bayesreg.objective import LogJoint, full_hessian, gauss_newton
from tests.conftest import linear_model, network


@pytest.mark.parametrize("curvature", ["hessian", "ggn"])
def test_is_exact_on_a_linear_gaussian_model(diabetes, exact, curvature):
    post = br.fit(linear_model(), *diabetes, method=LaplaceApproximation(curvature))
    np.testing.assert_allclose(post.loc, exact.loc, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(post.covariance, exact.covariance, rtol=1e-6, atol=1e-12)
    assert post.log_evidence == pytest.approx(exact.log_evidence, rel=1e-9)
    pred, reference = (p.predict(diabetes[0][:50], num_samples=20_000) for p in (post, exact))
    np.testing.assert_allclose(pred.epistemic_variance, reference.epistemic_variance, rtol=0.1)


@pytest.fixture
def smooth(standard_diabetes):
    X, y = standard_diabetes
    model = br.BayesianModel(network(10, 3, 1, dtype=torch.float64), likelihood=likelihoods.Gaussian(priors.HalfCauchy(1.0)))
    return model.ingest(X[:150], y[:150])


def test_hessian_is_autograd_s_whole(smooth):
    model, data = smooth
    log_joint = LogJoint(model)
    u = torch.randn(log_joint.layout.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 2
    whole = torch.func.hessian(lambda v: -log_joint.prepared(v, data.x, data.y, 150, jacobian=True))(u)
    torch.testing.assert_close(full_hessian(log_joint, u, data), whole, rtol=1e-9, atol=1e-9)


def test_gauss_newton_is_the_hessian_of_the_linearised_network(smooth):
    model, data = smooth
    log_joint = LogJoint(model)
    u = torch.randn(log_joint.layout.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 2

    def linearised(v):
        f = lambda w: model.forward(log_joint.layout.unflatten(w), data.x)  # noqa: E731
        base, slope = torch.func.jvp(f, (u,), (v - u,))
        noise = model.noise(log_joint.layout.unflatten(v))
        return -model.likelihood.log_prob_sum(base + slope, data.y, **noise) + log_joint.energy(v)

    whole = torch.func.hessian(linearised)(u)
    noise = log_joint.layout.segments["noise_scale"].start
    found = gauss_newton(log_joint, u, data)
    keep = [i for i in range(len(u)) if i != noise]
    torch.testing.assert_close(found[keep][:, keep], whole[keep][:, keep], rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(found[noise, noise], whole[noise, noise], rtol=1e-8, atol=1e-8)
    assert float(torch.linalg.eigvalsh(found)[0]) > 0


@pytest.mark.parametrize("likelihood", [likelihoods.Bernoulli(), likelihoods.Categorical()], ids=str)
def test_gauss_newton_is_the_hessian_of_a_linear_classifier(breast_cancer, likelihood):
    X, y = breast_cancer
    width = 2 if likelihood.kind == "multiclass" else 1
    model, data = br.BayesianModel(nn.Linear(30, width).double(), likelihood=likelihood).ingest(X, y)
    log_joint = LogJoint(model)
    u = torch.randn(log_joint.layout.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64) / 5
    torch.testing.assert_close(gauss_newton(log_joint, u, data), full_hessian(log_joint, u, data), rtol=1e-9, atol=1e-9)


def test_linearised_prediction_is_the_closed_form(standard_diabetes):
    """Var f = J Σ Jᵀ, with J by finite differences."""
    X, y = standard_diabetes
    model = br.BayesianModel(network(10, 3, 1, dtype=torch.float64), likelihood=likelihoods.Gaussian(0.7))
    post = br.fit(model, X, y, method="laplace")
    x = torch.tensor(X[:20])
    f = lambda u: post.model.forward(post.layout.unflatten(u), x)  # noqa: E731
    steps = 1e-5 * torch.eye(len(post.loc), dtype=torch.float64)
    jacobian = torch.stack([(f(post.loc + s) - f(post.loc - s)) / 2e-5 for s in steps], 1)
    variance = torch.einsum("np,pq,nq->n", jacobian, post.covariance, jacobian)
    pred = post.predict(X[:20], num_samples=20_000)
    torch.testing.assert_close(pred.epistemic_variance, variance.detach(), rtol=6 * (2 / 20_000) ** 0.5, atol=0)


def test_predictions_by_draws_are_those_of_the_network_itself(standard_diabetes):
    X, y = (part[:100] for part in standard_diabetes)
    model = br.BayesianModel(network(10, 3, 1, dtype=torch.float64), likelihood=likelihoods.Gaussian(0.7))
    posterior = br.fit(model, X, y, method=LaplaceApproximation(predictive="draws"))
    draws = posterior.predict(X, num_samples=200, seed=1)
    assert draws.function is None
    torch.testing.assert_close(draws.mean, posterior.predict(X, num_samples=200, seed=1, predictive="draws").mean)
    linear = posterior.predict(X, predictive="linearised")
    assert linear.function is not None
    assert not torch.allclose(linear.mean, draws.mean, rtol=1e-6)
    with pytest.raises(ValueError, match="predictive must be one of"):
        LaplaceApproximation(predictive="mean")


def test_float32_keeps_its_digits_on_raw_units():
    generator = np.random.default_rng(0)
    year = generator.integers(1990, 2021, 2000).astype(float)
    X = np.c_[year, year**2 / 1000, generator.normal(size=2000)]
    y = X @ [0.1, 0.01, 1.0] + generator.normal(size=2000)
    model = br.BayesianModel(nn.Linear(3, 1), priors.Normal(10.0), likelihoods.Gaussian(1.0))
    laplace = br.fit(model, X, y, method="laplace")
    wide = br.fit(model.to(dtype=torch.float64), X, y, method="exact")
    np.testing.assert_allclose(laplace.std["weight"], wide.std["weight"], rtol=1e-3)
    assert laplace.log_evidence == pytest.approx(wide.log_evidence, abs=0.05)


def test_covers_what_the_mode_does_not(posteriors):
    fits, X, y = posteriors
    mode, laplace = (fits[name].predict(X) for name in ("MAP", "Laplace"))
    assert bool((laplace.epistemic_variance > 0).all())
    assert float(mode.epistemic_variance.abs().max()) == 0
    assert br.metrics.coverage(laplace, y, 0.95).rate >= br.metrics.coverage(mode, y, 0.95).rate


def test_auto_says_which_curvature_it_took(standard_diabetes):
    X, y = standard_diabetes
    model = br.BayesianModel(network(10, 20, 1, activation=nn.ReLU), standardize=True)
    post = br.fit(model, X, y, method=LaplaceApproximation(mode=MAP(num_steps=500)))
    assert "Gauss–Newton matrix (the Hessian's smallest eigenvalue is -" in str(post.certificate)
    with pytest.raises(ValueError, match=r"the Hessian must be positive definite at a mode, but its smallest eigenvalue is -"):
        br.fit(model, X, y, method=LaplaceApproximation("hessian", mode=MAP(num_steps=500)))


@pytest.mark.slow
def test_a_collapsed_mode_is_not_approximated():
    X = torch.linspace(-1, 1, 8, dtype=torch.float64)[:, None]
    model = br.BayesianModel(network(1, 20, 1, dtype=torch.float64), priors.Normal(10.0))
    with pytest.raises(ValueError, match=r"needs a mode: Not a usable mode: noise_scale ran to zero, where the network passes"):
        br.fit(model, X, torch.sin(5 * X[:, 0]), method="laplace")


def test_refusals(standard_diabetes):
    X, y = standard_diabetes
    lasso = br.BayesianModel(nn.Linear(10, 1), {"weight": priors.Laplace()})
    with pytest.raises(
        ValueError, match=r"two derivatives at the mode, but weight has Laplace\(scale=1.0\), whose mode sits on its"
    ):
        br.fit(lasso, X, y, method=LaplaceApproximation(structure="kron"))
    with pytest.raises(
        ValueError, match=r"at most max_parameters=10 unknowns, but there are 12, a matrix of 0.0 GB; take .*'kron' or"
    ):
        br.fit(br.BayesianModel(nn.Linear(10, 1)), X, y, method=LaplaceApproximation(structure="full", max_parameters=10))
    with pytest.raises(
        ValueError, match=r"structure='kron' needs a curvature that is a sum over rows of squares, but .*'hessian' came"
    ):
        LaplaceApproximation("hessian", structure="kron")
    with pytest.raises(ValueError, match=r"mode must be a MAP or the mode that one fitted, but 'map' came"):
        LaplaceApproximation(mode="map")
    with pytest.raises(ValueError, match=r"subnetwork must name tensors that are unknowns, but '2.weight' matches none"):
        br.fit(lasso, X, y, method=LaplaceApproximation(structure="subnetwork", subnetwork="2.weight"))
    flat = br.BayesianModel(nn.Linear(20, 1).double(), priors.Flat(), likelihoods.Gaussian(1.0))
    with pytest.raises(ValueError, match=r"the posterior must be proper, but the curvature at its mode is singular"):
        br.fit(flat, np.column_stack([X, X])[:15], y[:15], method=LaplaceApproximation("ggn", mode=MAP("lbfgs")))
    with pytest.raises(ValueError, match=r"the mode must be one point, but the data do not determine weight"):
        br.fit(flat, np.column_stack([X, X])[:15], y[:15], method=LaplaceApproximation("ggn"))
    with pytest.raises(ValueError, match=r"curvature must be one of 'auto', 'hessian', 'ggn', 'fisher', but 'diag' came"):
        LaplaceApproximation("diag")
