"""Priors on what layers put out: a sum over rows beside the likelihood's, and nothing left on the module."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.model import activations
from bayesreg.objective import LogJoint, full_hessian, gauss_newton
from tests.conftest import network
from tests.contracts.test_log_joint import trace_sum, values_of

N = 40


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(N, 3, generator=generator, dtype=torch.float64)
    return X, X @ torch.tensor([1.0, 0.5, -2.0]).double() + 0.2 * torch.randn(N, generator=generator, dtype=torch.float64)


def net():
    return network(3, 4, 1, dtype=torch.float64)


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize(
    "outputs",
    [
        {"1": priors.Laplace(0.5)},
        {"0": priors.Normal(2.0), "2": priors.StudentT(3.0, 1.0)},
        {"1": priors.GroupLasso(0.5, per="tensor")},
        {"*": priors.Smooth(1, 0.5, level_scale=2.0), "2": priors.Flat()},
    ],
    ids=repr,
)
def test_log_joint_is_the_trace_s(data, outputs, standardize):
    X, y = data
    model = br.BayesianModel(net(), standardize=standardize, outputs=outputs).bind(X, y)
    values = values_of(model)
    log_joint = LogJoint(model)
    u = log_joint.layout.flatten(values)
    for rows in (slice(None), slice(10)):  # the whole set, and a batch that counts N/B times
        expected = trace_sum(model, values, X[rows], y[rows])
        torch.testing.assert_close(log_joint(u, X[rows], y[rows]), expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(model.log_joint(values, X[rows], y[rows]), expected, rtol=1e-10, atol=1e-10)
    plain = br.BayesianModel(net(), standardize=standardize).bind(X, y)
    difference = model.log_joint(values, X, y) - plain.log_joint(values, X, y)
    torch.testing.assert_close(difference, model.log_activity(values, X), rtol=1e-10, atol=1e-10)


def test_it_is_the_mean_over_rows_times_n(data):
    X, y = data
    model = br.BayesianModel(net(), outputs={"1": priors.Laplace(0.5)}).bind(X, y)
    values = values_of(model)
    hidden = torch.tanh(X @ values["0.weight"].T + values["0.bias"])
    rows = -hidden.abs().sum(1) / 0.5 - 4 * math.log(1.0)
    torch.testing.assert_close(model.log_activity(values, X), N * rows.mean())
    torch.testing.assert_close(model.log_activity(values, X[:10]), N * rows[:10].mean())


@pytest.fixture
def ridge_on_predictions(data):
    """A normal prior on a linear output: its model, and the posterior's mean and precision XᵀX (1/σ² + 1/τ²) + Λ."""
    X, y = data
    sigma, tau = 0.4, 0.7
    linear = nn.Sequential(nn.Linear(3, 1, bias=False)).double()
    model = br.BayesianModel(linear, priors.Normal(2.0), likelihoods.Gaussian(sigma), outputs={"0": priors.Normal(tau)})
    precision = X.T @ X * (sigma**-2 + tau**-2) + torch.eye(3, dtype=torch.float64) / 4
    return model, torch.linalg.solve(precision, X.T @ y / sigma**2), precision


def test_mode_and_laplace_have_the_closed_form(data, ridge_on_predictions):
    (X, y), (model, mean, precision) = data, ridge_on_predictions
    mode = br.fit(model, X, y, method="map")
    assert mode.certificate.converged
    torch.testing.assert_close(mode.mean["0.weight"][0], mean, rtol=1e-9, atol=1e-9)
    for curvature in ("hessian", "ggn"):
        laplace = br.fit(model, X, y, method=br.inference.LaplaceApproximation(curvature))
        torch.testing.assert_close(laplace.covariance, torch.linalg.inv(precision), rtol=1e-7, atol=1e-10)
        assert laplace.log_evidence is None  # the activations' prior is not normalised over weights
    adam = br.fit(model, X, y, method=br.inference.MAP("adam", num_steps=1000))
    torch.testing.assert_close(adam.mean["0.weight"][0], mean, rtol=1e-4, atol=1e-4)


@pytest.mark.slow  # quickly: a mean-field guide's mean and width on the conjugate model in test_mean_field, without activations
def test_mean_field_has_the_closed_form(data, ridge_on_predictions):
    (X, y), (model, mean, precision) = data, ridge_on_predictions
    guide = br.fit(model, X, y, method=br.inference.MeanField(num_steps=1000, num_particles=16))
    sd = precision.diagonal().rsqrt()
    assert bool(((guide.mean["0.weight"][0] - mean).abs() < 0.1 * sd).all())
    torch.testing.assert_close(guide.std["0.weight"][0], sd, rtol=0.05, atol=0)


def test_gauss_newton_is_the_hessian_of_a_linear_network(data):
    X, y = data
    linear = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1).requires_grad_(False)).double()
    outputs = {"0": priors.MultivariateNormal(np.diag([1.0, 2.0, 3.0, 4.0]) + 0.1), "1": priors.Normal(0.3)}
    model, rows = br.BayesianModel(linear, likelihood=likelihoods.Gaussian(0.5), outputs=outputs).ingest(X, y)
    log_joint = LogJoint(model)
    u = torch.randn(log_joint.layout.size, dtype=torch.float64)
    torch.testing.assert_close(gauss_newton(log_joint, u, rows), full_hessian(log_joint, u, rows), rtol=1e-9, atol=1e-9)


@pytest.mark.slow  # quickly: the log-joint of such priors, and their mode in closed form
def test_sparse_activations(data):
    """An L1 prior on the hidden layer makes its activations smaller, and a nonsmooth mode is judged honestly."""
    X, y = data

    def hidden(outputs):
        model = br.BayesianModel(net(), likelihood=likelihoods.Gaussian(0.3), outputs=outputs)
        mode = br.fit(model, X, y, method=br.inference.MAP(num_steps=800) if outputs else "map")
        with activations.captured(mode.model.to_run(), (activations.Output("1", priors.Flat(), ""),)) as found:
            mode.model.forward(mode.mean, X)
        return mode, float(found["1"][0].abs().mean())

    _, free = hidden(None)
    mode, sparse = hidden({"1": priors.Laplace(0.2)})
    assert sparse < 0.7 * free
    assert mode.history.notes[0].startswith("adam: a prior's penalty has a kink")


def test_keras_activity_regulariser_is_this_prior(data):
    """Keras adds l1·mean_rows Σ|a| to a mean loss; times N that is Laplace(1/(N·l1)) here."""
    X, y = data
    l1 = 0.01
    model = br.BayesianModel(net(), likelihood=likelihoods.Gaussian(1.0), outputs={"1": priors.Laplace(1 / l1)}).bind(X, y)
    values = values_of(model)
    hidden = torch.tanh(X @ values["0.weight"].T + values["0.bias"])
    difference = model.log_activity(values, X) + N * l1 * hidden.abs().sum(1).mean()
    assert float(difference) == pytest.approx(-N * 4 * math.log(2 / l1))  # a constant


def test_nothing_is_left_on_the_module(data):
    X, y = data
    module = net()
    model = br.BayesianModel(module, outputs={"1": priors.Laplace(0.5)})
    post = br.fit(model, X, y, method=br.inference.MAP(num_steps=20))
    post.predict(X)
    for m in (*module.modules(), *model.module.modules(), *post.model.module.modules()):
        assert not m._forward_hooks
    with pytest.raises(RuntimeError), activations.captured(module, model.outputs):
        module(torch.zeros(2, 9, dtype=torch.float64))
    assert not any(m._forward_hooks for m in module.modules())


def test_rules_are_matched_as_for_weights():
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
    outputs = {nn.ReLU: priors.Exponential(1.0), "3": priors.Laplace(2.0), "*": priors.Normal(5.0)}
    found = {output.name: (output.prior, output.source) for output in activations.resolve(outputs, module)}
    assert found["1"] == (priors.Exponential(1.0), "type ReLU")
    assert found["3"] == (priors.Laplace(2.0), "name '3'")
    assert found["0"] == (priors.Normal(5.0), "glob '*'")
    model = br.BayesianModel(module, outputs=outputs)
    row = next(row for row in model.prior_table().rows if row.tensor == "3 (output)")
    assert (row.shape, row.prior, row.note) == ("per row", "Laplace(scale=2.0)", "mean over rows × N")


def test_goes_through_a_file(data, tmp_path):
    X, y = data
    post = br.fit(br.BayesianModel(net(), outputs={nn.Tanh: priors.Laplace(0.5)}), X, y, method=br.inference.MAP(num_steps=20))
    br.save(post, tmp_path / "post.pt")
    again = br.load(tmp_path / "post.pt")
    assert again.model.outputs == post.model.outputs
    assert str(again.model.prior_table()) == str(post.model.prior_table())


class TwoWays(nn.Module):
    """A module whose parts do not run, or give no tensor of rows."""

    def __init__(self):
        super().__init__()
        self.used, self.unused, self.pool = nn.Linear(3, 1), nn.Linear(3, 1), nn.LSTM(3, 2)

    def forward(self, x):
        self.pool(x)
        return self.used(x)


@pytest.mark.parametrize(
    ("module", "outputs", "message"),
    [
        (
            net(),
            {"tanh": priors.Laplace(1.0)},
            r"a rule of outputs must match a module, but name 'tanh' matches none; the modules are",
        ),
        (net(), {nn.ReLU: priors.Laplace(1.0)}, r"but type ReLU matches none"),
        (nn.Linear(3, 1), {"0": priors.Laplace(1.0)}, r"the network is a single layer, put it into a Sequential"),
        (net(), {"@weight": priors.Laplace(1.0)}, r"a pattern of outputs must be a module's name, a glob or a module type"),
        (net(), {"1": 0.5}, r"the rule of outputs for name '1' must give a prior, but 0.5 came"),
        (
            net(),
            {"1": priors.Horseshoe(1.0)},
            r"must be bounded and have plain numbers, but name '1' has Horseshoe.*has a pole",
        ),
        (net(), {"1": priors.Normal(priors.HalfCauchy(1.0))}, r"its scale is no plain number"),
        (
            net(),
            [("1", priors.Flat()), ("1", priors.Laplace(1.0))],
            r"each rule must have a pattern of its own, but name '1' came",
        ),
        (net(), priors.Laplace(1.0), r"outputs must be a mapping from patterns to priors, but Laplace came"),
    ],
)
def test_refusals(module, outputs, message):
    with pytest.raises(ValueError, match=message):
        br.BayesianModel(module, outputs=outputs)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("unused", r"a module whose output has a prior must run in each pass, but unused did not"),
        ("pool", r"must be a tensor with one entry a row, but pool gave tuple for 2 rows"),
    ],
)
def test_outputs_that_are_no_rows_are_refused_at_the_first_pass(data, name, message):
    X, y = data
    with pytest.raises(ValueError, match=message):
        br.fit(br.BayesianModel(TwoWays().double(), outputs={name: priors.Laplace(1.0)}), X, y, method="map")


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        (
            priors.HalfNormal(1.0),
            r"an output must lie in the support of its prior, but 1 gave values from -0.* under HalfNormal",
        ),
        (priors.Uniform(0.0, 1.0), r"an output must lie in the support of its prior, but 1 gave values from"),
        (priors.GroupLasso(1.0), r"the output of 1, \(4,\) a row: per='column' must meet a tensor that has a column axis"),
        (priors.MultivariateNormal(), r"the output of 1, \(4,\) a row: covariance must be 4 × 4"),
    ],
)
@pytest.mark.parametrize("method", ["map", "mean-field"])
def test_outputs_outside_the_support_are_refused_at_the_first_pass(data, prior, message, method):
    with pytest.raises(ValueError, match=message):
        br.fit(br.BayesianModel(net(), outputs={"1": prior}), *data, method=method)


def test_a_certain_output_is_refused():
    with pytest.raises(ValueError, match=r"a prior on an output must be a density, but name '1' has Fixed\(value=0.0\)"):
        br.BayesianModel(net(), outputs={"1": priors.Fixed(0.0)})


def test_exact_and_a_kinked_laplace_are_refused(data):
    X, y = data
    linear = nn.Sequential(nn.Linear(3, 1)).double()
    with pytest.raises(ValueError, match=r"Exact needs priors on weights alone, but the output of 0 has one"):
        br.fit(
            br.BayesianModel(linear, likelihood=likelihoods.Gaussian(1.0), outputs={"0": priors.Normal(1.0)}),
            X,
            y,
            method="exact",
        )
    with pytest.raises(ValueError, match=r"needs priors with two derivatives, but the output of 0 has one with a kink"):
        br.fit(br.BayesianModel(linear, outputs={"0": priors.Laplace(1.0)}), X, y, method="laplace")
