"""The certificate of a mode: it depends on no units, it passes true modes, and it fails what is none."""

import numpy as np
import pytest
import torch
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.flat import LogJoint
from bayesreg.inference import MAP
from bayesreg.inference.optimality import measure
from bayesreg.inference.training import gradient_of
from tests.conftest import network


@pytest.mark.parametrize("offset", [0.0, 0.3])
def test_the_gain_is_the_log_joint_s_own_on_a_quadratic(standard_diabetes, offset):
    X, y = standard_diabetes
    model, data = br.BayesianModel(nn.Linear(10, 1).double(), priors.Normal(0.3), likelihoods.Gaussian(0.7)).ingest(X, y)
    log_joint = LogJoint(model)
    exact = br.fit(model, X, y, method="exact")
    u = exact.loc + offset * torch.linspace(-1, 1, 11, dtype=torch.float64) * exact.moments()[1]
    value, gradient = gradient_of(log_joint, u, data)
    best, _ = gradient_of(log_joint, exact.loc, data)
    found, _ = measure(log_joint, u, gradient, data)
    assert found.gain == pytest.approx(best - value, rel=1e-6, abs=1e-9)
    assert not found.saddle


@pytest.mark.parametrize("units", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_units_do_not_matter(diabetes, units, dtype):
    X, y = diabetes
    rules = {"weight": priors.Normal(100 * units), "bias": priors.Flat()}
    make = lambda: br.BayesianModel(nn.Linear(10, 1).to(dtype), rules, likelihoods.Gaussian(54 * units))  # noqa: E731
    short = br.fit(make(), X, y * units, method=MAP("adam", num_steps=100))
    assert not short.certificate.converged
    mode = br.fit(make(), X, y * units, method="map")
    assert mode.certificate.converged
    assert mode.certificate.details["nats to gain"] < 1e-3


def test_many_rows_and_few_unknowns_take_all_rows_and_reach_the_mode():
    generator = np.random.default_rng(0)
    X = np.zeros((100_000, 2))
    X[:, 0], X[:3, 1] = generator.normal(size=100_000), 1  # three rows alone speak about the second weight
    y = X @ [1.0, 8.0] + generator.normal(size=100_000)
    model = br.BayesianModel(nn.Linear(2, 1), priors.Normal(10.0), likelihoods.Gaussian(1.0))
    mode = br.fit(model, X, y, method="map")
    exact = br.fit(model, X, y, method="exact")
    assert float(((mode.mean["weight"] - exact.mean["weight"]) / exact.std["weight"]).abs().max()) < 0.01
    assert mode.certificate.converged
    noisy = br.fit(model, X, y, method=MAP(batch_size=256, num_steps=2000))
    assert not noisy.certificate.converged
    assert "nats are left to gain" in str(noisy.certificate)


@pytest.mark.parametrize(("likelihood", "width"), [(likelihoods.Bernoulli(), 1), (likelihoods.Categorical(), 2)], ids=str)
def test_separable_classes_have_no_mode_under_a_flat_prior(likelihood, width):
    generator = np.random.default_rng(0)
    X = np.r_[-1 - generator.random((20, 1)), 1 + generator.random((20, 1))]
    y = (X[:, 0] > 0).astype(int)
    model = br.BayesianModel(nn.Linear(1, width).double(), priors.Flat(), likelihood)
    mode = br.fit(model, X, y, method="map")
    assert not mode.certificate.converged
    assert "every row is fitted with certainty, and the flat prior on weight lets the weights grow" in str(mode.certificate)
    with pytest.raises(ValueError, match=r"needs a mode: Not a usable mode: every row is fitted with certainty"):
        br.fit(model, X, y, method="laplace")
    proper = br.BayesianModel(nn.Linear(1, width).double(), priors.Normal(1.0), likelihood)
    assert br.fit(proper, X, y, method="map").certificate.converged


def test_a_far_offset_is_no_collapse():
    generator = np.random.default_rng(0)
    X = generator.normal(size=(500, 2))
    y = 300 + X @ [0.5, -0.3] + 0.1 * generator.normal(size=500)
    mode = br.fit(br.BayesianModel(nn.Linear(2, 1), {"bias": priors.Flat()}), X, y, method="map")
    assert mode.certificate.converged
    assert float(mode.mean["noise_scale"]) == pytest.approx(0.1, rel=0.1)


def test_on_the_way_to_a_collapse_laplace_says_so_and_goes_on():
    """A network that is about to fit every row: the fit is not certified, but a curvature there still widens intervals."""
    generator = np.random.default_rng(0)
    X, new = generator.normal(size=(60, 2)), generator.normal(size=(300, 2))
    truth = lambda x: np.sin(2 * x[:, 0]) + x[:, 1]  # noqa: E731
    model = br.BayesianModel(network(2, 50, 1, activation=nn.ReLU), priors.Normal(3.0), standardize=True)
    fits = {name: br.fit(model, X, truth(X), method=name) for name in ("map", "laplace")}
    assert all("noise_scale ran to zero" in str(fit.certificate) for fit in fits.values())
    mode, laplace = (br.metrics.coverage(fit.predict(new), truth(new), 0.95).rate for fit in fits.values())
    assert mode < 0.5 < laplace


def test_a_saddle_is_no_mode():
    """All weights zero: the gradient of a tanh network vanishes there by symmetry, and nothing is learned."""
    X = torch.linspace(-1, 1, 40, dtype=torch.float64)[:, None]
    net = network(1, 3, 1, dtype=torch.float64)
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    model = br.BayesianModel(net, priors.Normal(3.0), likelihoods.Gaussian(0.1))
    mode = br.fit(model, X, X[:, 0], method="map")
    assert float(mode.mean["0.weight"].abs().max()) == 0
    assert not mode.certificate.converged
    assert "a saddle, not a mode" in str(mode.certificate)


def test_training_noise_has_its_own_sentence(standard_diabetes):
    net = nn.Sequential(nn.Linear(10, 5), nn.Tanh(), nn.Dropout(0.3), nn.Linear(5, 1))
    mode = br.fit(br.BayesianModel(net), *standard_diabetes, method=MAP(num_steps=500))
    assert "batch normalisation or dropout make the objective of training another one" in str(mode.certificate)


def test_more_unknowns_than_the_matrix_takes(standard_diabetes):
    """Above `FULL_CURVATURE` the curvature is a diagonal; a mode passes, an early point does not."""
    X, y = standard_diabetes
    model = br.BayesianModel(network(10, 100, 1), likelihood=likelihoods.Gaussian(0.7))
    assert model.num_parameters > 1000
    assert br.fit(model, X, y, method="map").certificate.converged
    assert not br.fit(model, X, y, method=MAP("adam", num_steps=30)).certificate.converged
