"""MAP: the mode that scikit-learn and Pyro find, and a certificate that knows when it is not one."""

import numpy as np
import pyro
import pytest
import torch
from sklearn.linear_model import Lasso, LogisticRegression, Ridge
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.inference import MAP
from bayesreg.objective import LogJoint
from bayesreg.posteriors import DeltaGuide, FlatELBO
from tests.conftest import network


@pytest.mark.parametrize(("sigma", "tau"), [(0.7, 0.3), (54.0, 2.0), (1.0, 100.0)])
@pytest.mark.parametrize("units", ["raw", "standard"])
def test_normal_is_ridge(diabetes, standard_diabetes, sigma, tau, units):
    X, y = diabetes if units == "raw" else standard_diabetes
    model = br.BayesianModel(
        nn.Linear(10, 1).double(), {"weight": priors.Normal(tau), "bias": priors.Flat()}, likelihoods.Gaussian(sigma)
    )
    mode = br.fit(model, X, y, method="map")
    ridge = Ridge(alpha=sigma**2 / tau**2, solver="svd").fit(X, y)
    np.testing.assert_allclose(mode.mean["weight"][0], ridge.coef_, rtol=1e-6)
    np.testing.assert_allclose(mode.mean["bias"][0], ridge.intercept_, rtol=1e-6, atol=1e-9)
    assert mode.certificate.converged
    assert mode.space == "constrained"


@pytest.mark.parametrize("tau", [0.1, 1.0, 3.0])
def test_normal_with_bernoulli_is_logistic_regression(breast_cancer, tau):
    X, y = breast_cancer
    rules = {"weight": priors.Normal(tau), "bias": priors.Flat()}
    mode = br.fit(br.BayesianModel(nn.Linear(30, 1).double(), rules, likelihoods.Bernoulli()), X, y, method="map")
    theirs = LogisticRegression(C=tau**2, solver="newton-cholesky", tol=1e-14, max_iter=1000).fit(X, y)
    np.testing.assert_allclose(mode.mean["weight"], theirs.coef_, rtol=1e-6)
    np.testing.assert_allclose(mode.mean["bias"], theirs.intercept_, rtol=1e-6)


@pytest.mark.slow
def test_pyro_svi_reaches_the_same_mode_both_ways(standard_diabetes):
    """FlatELBO with our guide, and Trace_ELBO with Pyro's AutoDelta, from one start."""
    X, y = standard_diabetes
    model = br.BayesianModel(network(10, 4, 1, dtype=torch.float64)).bind(X, y)
    log_joint = LogJoint(model)
    start = model.start(*model.prepare(X, y))

    def fit(guide, loss):
        pyro.clear_param_store()
        svi = pyro.infer.SVI(model.pyro_model, guide, pyro.optim.ClippedAdam({"lr": 0.02, "lrd": 0.01 ** (1 / 2500)}), loss)
        for _ in range(2500):
            svi.step(X, y)

    delta = DeltaGuide(log_joint.layout, log_joint.layout.flatten(start))
    auto = pyro.infer.autoguide.AutoDelta(model.pyro_model, init_loc_fn=pyro.infer.autoguide.init_to_value(values=start))
    try:
        fit(delta, FlatELBO())
        ours = log_joint.layout.unflatten(delta.loc.detach())
        fit(auto, pyro.infer.Trace_ELBO())
        theirs = auto.median()
    finally:
        pyro.clear_param_store()
    reference = br.fit(model, X, y, method=MAP()).certificate.details["log joint"]
    objectives = [float(model.log_joint(values, X, y)) for values in (ours, theirs)]
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name].detach(), rtol=1e-4, atol=1e-4)
    assert objectives[0] == pytest.approx(objectives[1], rel=1e-6)
    assert objectives[0] == pytest.approx(reference, rel=5e-3)  # the same basin or one as good


def test_pyro_svi_takes_the_mean_field_guide_under_its_own_elbo_too(standard_diabetes):
    from bayesreg.posteriors import MeanFieldGuide

    X, y = standard_diabetes
    model = br.BayesianModel(nn.Linear(10, 1).double(), priors.Normal(0.3), likelihoods.Gaussian(0.7)).bind(X, y)
    layout = LogJoint(model).layout
    guide = MeanFieldGuide(layout, torch.zeros(11).double(), torch.full((11,), 0.05).double())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ours = [FlatELBO().loss(model.pyro_model, guide, X, y) for _ in range(200)]
        theirs = [pyro.infer.TraceMeanField_ELBO().loss(model.pyro_model, guide, X, y) for _ in range(200)]
    pyro.clear_param_store()
    error = np.hypot(np.std(ours), np.std(theirs)) / 200**0.5
    assert abs(np.mean(ours) - np.mean(theirs)) < 4 * error
    assert np.std(ours) == pytest.approx(np.std(theirs), rel=0.3)


def test_adam_and_lbfgs_find_one_mode(standard_diabetes):
    model = br.BayesianModel(nn.Linear(10, 1).double(), priors.Normal(0.3))
    searches = {"adam": MAP("adam", num_steps=2000), "lbfgs": MAP("lbfgs")}
    modes = {name: br.fit(model, *standard_diabetes, method=search) for name, search in searches.items()}
    torch.testing.assert_close(modes["adam"].mean["weight"], modes["lbfgs"].mean["weight"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(modes["adam"].mean["noise_scale"], modes["lbfgs"].mean["noise_scale"], rtol=1e-5, atol=0)


def test_mini_batches_reach_the_full_batch_mode(standard_diabetes, exact):
    X, y = standard_diabetes
    model = br.BayesianModel(nn.Linear(10, 1).double(), priors.Normal(0.3), likelihoods.Gaussian(0.7))
    full = br.fit(model, X, y, method="map")
    mini = br.fit(model, X, y, method=MAP(batch_size=64, num_steps=3000))
    sd = br.fit(model, X, y, method="exact").std["weight"]
    assert float(((mini.mean["weight"] - full.mean["weight"]).abs() / sd).max()) < 0.05
    assert "64 of 442 rows" in mini.history.notes[0]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_constrained_and_unconstrained_modes_of_a_noise_scale(seed):
    """With flat weights fixed: d/ds [−N log s − S/(2s²)] + prior = 0, and with the Jacobian −(N−1) log s."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randn(40, generator=generator, dtype=torch.float64)
    net = nn.Linear(1, 1).double().requires_grad_(False)
    nn.init.zeros_(net.weight)
    nn.init.zeros_(net.bias)
    rate = 2.0
    model = br.BayesianModel(net, likelihood=likelihoods.Gaussian(priors.Exponential(rate)))
    X, squares = torch.zeros(40, 1), float(y.square().sum())
    for jacobian, power in ((False, 40), (True, 39)):
        mode = br.fit(model, X, y, method=MAP(jacobian=jacobian))
        s = float(mode.mean["noise_scale"])
        assert -power / s + squares / s**3 - rate == pytest.approx(0, abs=1e-6)
        assert mode.space == ("unconstrained" if jacobian else "constrained")


def test_certificate_refuses_what_is_not_a_mode(standard_diabetes):
    model = br.BayesianModel(network(10, 8, 1), standardize=True)
    early = br.fit(model, *standard_diabetes, method=MAP(optimizer="adam", num_steps=20))
    assert not early.certificate.converged
    assert "Not converged" in str(early.certificate)
    assert "raise num_steps" in str(early.certificate)
    late = br.fit(model, *standard_diabetes, method="map")
    assert late.certificate.converged
    assert late.history.objective[-1] > early.history.objective[-1]


@pytest.mark.slow
def test_certificate_refuses_an_early_relu_network(standard_diabetes):
    model = br.BayesianModel(network(10, 20, 1, activation=nn.ReLU), standardize=True)
    for steps in (20, 100):
        early = br.fit(model, *standard_diabetes, method=MAP(num_steps=steps))
        assert not early.certificate.converged
    late = br.fit(model, *standard_diabetes, method="map")
    assert late.certificate.converged
    assert "piecewise linear" in late.history.notes[0]


def test_certificate_names_a_noise_scale_that_runs_to_zero():
    X = torch.linspace(-1, 1, 5, dtype=torch.float64)[:, None]
    model = br.BayesianModel(nn.Linear(1, 1).double(), priors.Flat())
    mode = br.fit(model, X, 2 * X[:, 0], method="map")
    assert not mode.certificate.converged
    assert "noise_scale ran to zero" in str(mode.certificate)


@pytest.mark.parametrize("b", [0.01, 0.02, 0.05])
def test_laplace_is_the_lasso_with_its_zeros(standard_diabetes, b):
    X, y = standard_diabetes
    rules = {"weight": priors.Laplace(b), "bias": priors.Flat()}
    model = br.BayesianModel(nn.Linear(10, 1).double(), rules, likelihoods.Gaussian(0.7))
    mode = br.fit(model, X, y, method="map")
    lasso = Lasso(alpha=0.7**2 / (len(y) * b), tol=1e-14, max_iter=100_000).fit(X, y)
    w = mode.mean["weight"][0].numpy()
    np.testing.assert_allclose(w, lasso.coef_, atol=1e-6)
    assert ((w == 0) == (lasso.coef_ == 0)).all()
    assert 0 < (w == 0).sum() < 10
    assert mode.certificate.converged
    assert f"{(w == 0).sum()} weights are exactly zero" in mode.history.notes[1]


@pytest.mark.slow
def test_laplace_mode_of_a_network_meets_the_subgradient_condition(standard_diabetes):
    X, y = standard_diabetes
    b, sigma = 0.1, 0.7
    model = br.BayesianModel(network(10, 5, 1, dtype=torch.float64), priors.Laplace(b), likelihoods.Gaussian(sigma))
    mode = br.fit(model, X, y, method="map")
    weights = {k: v.clone().requires_grad_() for k, v in mode.mean.items()}
    residual = torch.tensor(y) - mode.model.forward(weights, torch.tensor(X))
    gradients = torch.autograd.grad(-residual.square().sum() / (2 * sigma**2), list(weights.values()))
    w, g = (torch.cat([t.detach().flatten() for t in ts]) for ts in (weights.values(), gradients))
    assert 5 < int((w == 0).sum()) < len(w) - 5
    assert float(g[w == 0].abs().max()) <= 1 / b * (1 + 1e-3)
    torch.testing.assert_close(g[w != 0], w[w != 0].sign() / b, rtol=1e-2, atol=0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MAP(optimizer="adamw"), r"'adamw' decouples its decay, which is the gradient of no penalty"),
        (lambda: MAP(num_steps=0), r"num_steps must be a whole number >= 1, but 0 came"),
        (lambda: MAP(learning_rate=-1), r"learning_rate must be a finite number > 0"),
        (lambda: MAP(batch_size=2.5), r"batch_size must be a whole number >= 1, but 2.5 came"),
    ],
)
def test_refused_settings(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_lbfgs_is_refused_where_it_does_not_fit(standard_diabetes):
    model = br.BayesianModel(nn.Linear(10, 1).double(), priors.Laplace(0.3))
    with pytest.raises(
        ValueError, match=r"optimizer='lbfgs' needs all rows, smooth .*, but a prior's penalty has a kink; take 'prox-adam'"
    ):
        br.fit(model, *standard_diabetes, method=MAP(optimizer="lbfgs"))


def test_a_loss_that_explodes_says_what_to_do(diabetes):
    X, y = diabetes
    model = br.BayesianModel(network(10, 8, 1), likelihood=likelihoods.Gaussian(1e-12), standardize=False)
    with pytest.raises(ValueError, match=r"the loss must stay finite, but it is .* at step .*; lower learning_rate"):
        br.fit(model, X * 1e12, y * 1e12, method=MAP(optimizer="adam", learning_rate=10.0, num_steps=50))
