"""What a model does where nobody said how: raw units, noise that runs to zero, networks that say the same for every row."""

import math
import re

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes
from torch import nn
from torch.nn import functional as F

import bayesreg as br
from bayesreg import inference, likelihoods, priors
from tests.conftest import network

X, Y = load_diabetes(return_X_y=True, scaled=False)
Z, T = (X - X.mean(0)) / X.std(0), (Y - Y.mean()) / Y.std()
CANCER, LABELS = load_breast_cancer(return_X_y=True)
IMAGES = np.random.default_rng(0).uniform(size=(60, 1, 6, 6)).astype(np.float32)
CLASSES = np.arange(60) % 3


def net(inputs=10, outputs=1):
    return network(inputs, 20, outputs, dtype=torch.float64)


def conv():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))


def powers(degree):
    return np.vander(np.linspace(-9, -3, 50), degree + 1)


# ── standardize="auto" ──────────────────────────────────────────────────────────────────────────────────────────────────────
OUT_OF_REACH = {
    "raw x and y": (net(), None, None, X, Y, "half of the targets lie .* X is of size"),
    "raw y": (net(), None, None, Z, Y, "half of the targets"),
    "raw y in a linear model": (nn.Linear(10, 1), None, None, Z, Y, "half of the targets"),
    "an offset of y": (net(), None, None, Z, T + 1e6, "half of the targets"),
    "raw x": (net(), None, None, X, T, "sums are of size 8.*saturate"),
    "raw x, classes": (net(30), None, likelihoods.Bernoulli(), CANCER, LABELS, "X is of size 2.*saturate"),
    "one wide column": (net(), None, None, np.where(np.arange(10) == 3, 1e5 * Z, Z), T, "X is of size"),
    "tiny x": (net(), None, None, 1e-3 * Z, T, "differ by only"),
    "bytes": (conv(), None, likelihoods.Categorical(), 255 * IMAGES, CLASSES, "X is of size"),
    "an interval prior": (net(), priors.Laplace(0.1), None, X, Y, "half of the targets"),
    "a flat normalisation": (nn.Sequential(nn.LayerNorm(10), nn.Linear(10, 1)), None, None, X, Y, "half of the targets"),
    "two targets": (net(10, 2), None, None, Z, np.stack([Y, Y], 1), "half of the targets"),
}
WITHIN_REACH = {
    "standardised": (net(), None, None, Z, T),
    "wide priors on raw columns": (
        nn.Linear(11, 1).double(),
        priors.Normal(1e4),
        likelihoods.Gaussian(0.5),
        powers(10),
        T[:50],
    ),
    "flat priors": (nn.Linear(10, 1), priors.Flat(), None, X, Y),
    "a scale that follows the data": (nn.Linear(10, 1), {"weight": priors.Normal(autoscale=True)}, None, X, Y),
    "a network that normalises": (nn.Sequential(nn.LayerNorm(10), net().float()), None, None, X, T),
    "its first layer is normalised": (nn.Sequential(nn.Linear(10, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)), None, None, X, T),
    "a prior for raw x": (net(), {"0.weight": priors.Normal(0.001)}, None, X, T),
    "linear, classes": (nn.Linear(30, 1), None, likelihoods.Bernoulli(), CANCER, LABELS),
    "pixels": (conv(), None, likelihoods.Categorical(), IMAGES, CLASSES),
    "a tight prior": (net(), priors.Normal(0.001), likelihoods.Gaussian(0.1), Z, T),
}


@pytest.mark.parametrize("case", OUT_OF_REACH)
def test_data_that_no_prior_reaches_are_standardised(case):
    module, prior, likelihood, x, y, said = OUT_OF_REACH[case]
    model = br.BayesianModel(module, prior, likelihood).bind(x, y)
    assert model.standardize is True
    (note,) = model.unit_notes
    assert note.startswith("standardised by default: ")
    assert re.search(said, note)
    assert note in str(model.prior_table())


@pytest.mark.parametrize("case", WITHIN_REACH)
def test_data_within_reach_keep_their_units(case):
    model = br.BayesianModel(*WITHIN_REACH[case][:3]).bind(*WITHIN_REACH[case][3:])
    assert model.standardize is False
    assert model.standardization is None
    assert model.unit_notes == ()


def test_forgetting_to_standardise_costs_nothing():
    options = {"method": "map", "progress": False}
    forgot = br.fit(br.BayesianModel(net()), X[:300], Y[:300], **options)
    said = br.fit(br.BayesianModel(net(), standardize=True), X[:300], Y[:300], **options)
    torch.testing.assert_close(forgot.predict(X[300:]).mean, said.predict(X[300:]).mean)
    assert forgot.history.notes[0].startswith("standardised by default")
    assert forgot.model.standardize is True  # decided, also for whoever fits it again


def test_units_by_choice_are_kept_and_what_they_cost_is_said():
    post = br.fit(br.BayesianModel(net(), standardize=False), X[:50], Y[:50], method=inference.MAP(num_steps=5), progress=False)
    assert post.model.standardization is None
    assert post.history.notes[0].startswith("standardize=False, but half of the targets lie")
    facts = br.report({"MAP": post}, X[50:70], Y[50:70], num_samples=10).data["priors"][0]
    assert post.history.notes[0] in facts["remarks"]


def test_what_is_decided_holds_for_every_fold():
    model = br.BayesianModel(nn.Linear(10, 1).double(), {"weight": priors.Normal(1.0)}, likelihoods.Gaussian(0.7))
    found = br.path(model, X, Y, scales=[0.1, 1.0], folds=3)
    said = br.path(
        br.BayesianModel(nn.Linear(10, 1).double(), {"weight": priors.Normal(1.0)}, likelihoods.Gaussian(0.7), True),
        X,
        Y,
        scales=[0.1, 1.0],
        folds=3,
    )
    raw = model.bind(X, Y).standardize
    assert raw is False or torch.equal(found.coefficients["weight"], said.coefficients["weight"])


def test_auto_draws_nothing_from_the_global_state_and_refuses_other_words():
    before = torch.get_rng_state()
    br.BayesianModel(net()).bind(X, Y)
    assert torch.equal(before, torch.get_rng_state())
    with pytest.raises(ValueError, match="standardize must be True, False or 'auto', but 'yes' came"):
        br.BayesianModel(net(), standardize="yes")


# ── noise that runs to zero ─────────────────────────────────────────────────────────────────────────────────────────────────
@pytest.mark.parametrize(
    ("value", "method"),
    [
        (0.0, "map"),
        *(pytest.param(value, "map", marks=pytest.mark.slow) for value in (3.0, -1e-5)),
        (3.0, "mean-field"),
    ],
)
def test_a_constant_target_sends_the_noise_to_zero(value, method):
    model = br.BayesianModel(nn.Linear(10, 1).double(), likelihood=likelihoods.Gaussian())
    found = inference.MeanField(num_steps=800, learning_rate=0.05) if method == "mean-field" else method
    with pytest.warns(br.ConvergenceWarning, match="runs to zero, since all targets are"):
        post = br.fit(model, Z, np.full(len(Z), value), method=found)
    assert not post.certificate.converged
    assert all(math.isfinite(float(v.sum())) for v in post.mean.values())


def test_a_constant_target_is_no_mode_to_build_on():
    model = br.BayesianModel(nn.Linear(10, 1).double(), likelihood=likelihoods.Gaussian())
    with pytest.raises(ValueError, match="noise_scale runs to zero, since all targets are 3"):
        br.fit(model, Z, np.full(len(Z), 3.0), method="laplace")


def test_a_constant_target_that_noise_keeps_off_zero_is_fitted():
    kept = likelihoods.Gaussian(priors.LogNormal(0.0, 0.1))
    for likelihood in (kept, likelihoods.Gaussian(0.5)):
        post = br.fit(br.BayesianModel(nn.Linear(10, 1).double(), likelihood=likelihood), Z, np.full(len(Z), 3.0), method="map")
        assert post.certificate.converged
    bare = br.BayesianModel(nn.Linear(10, 1, bias=False).double(), priors.Normal(0.3))  # cannot say 3 for every row
    assert br.fit(bare, Z, np.full(len(Z), 3.0), method="map").certificate.converged


def test_noise_that_no_rows_are_left_to_judge_has_collapsed():
    rows = np.random.default_rng(0)
    x, y = rows.normal(size=(20, 6)), rows.normal(size=20)
    wide = br.BayesianModel(network(6, 30, 1, dtype=torch.float64), priors.Normal(1.5), standardize=True)
    with pytest.warns(br.ConvergenceWarning, match="noise"):
        post = br.fit(wide, x, y, method="map")
    assert not post.certificate.converged
    assert "no mode" in post.certificate.details


def test_the_share_of_rows_used_up_is_the_hat_matrix_s_trace():
    from bayesreg.certificates import used_up
    from bayesreg.objective import LogJoint

    rows = np.random.default_rng(1)
    x, y = rows.normal(size=(12, 20)), rows.normal(size=12)
    model, data = br.BayesianModel(nn.Linear(20, 1, bias=False).double(), priors.Normal(0.7), standardize=False).ingest(x, y)
    post = br.fit(model, x, y, method="map")
    noise = float(post.mean["noise_scale"])
    hat = x @ np.linalg.solve(x.T @ x + noise**2 / 0.7**2 * np.eye(20), x.T)
    assert used_up(LogJoint(model), post.loc, data) == pytest.approx(np.trace(hat) / 12, rel=1e-6)


# ── one answer for every row ────────────────────────────────────────────────────────────────────────────────────────────────
def shrinking(scale):
    rows = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    labels = (rows[:, 0] > 0).astype(int) + (rows[:, 1] > 0)
    layers = network(3, 8, 8, 3, activation=nn.ReLU)
    return br.BayesianModel(layers, priors.Normal(scale), likelihoods.Categorical()), rows, labels


def test_a_mode_that_says_the_same_for_every_row_is_told_with_the_prior_at_its_root():
    model, rows, labels = shrinking(0.1)
    post = br.fit(model, rows, labels, method=inference.MAP(num_steps=300), progress=False)
    output = post.predict(rows).mean
    assert float((output - output[:1]).abs().max()) < 1e-6
    assert "It predicts the same for every row. 2 other starts" in post.certificate.sentence
    assert "Under the prior of 0.weight, Normal(scale=0.1), a layer's output has 0.1" in post.certificate.sentence
    assert post.certificate.details["predicts the same for every row"] == 1.0


def test_other_starts_are_tried_and_the_best_is_taken():
    model, rows, labels = shrinking(0.35)
    with torch.no_grad():
        for parameter in model.module.parameters():
            parameter.zero_()  # a start from which no search by itself can leave
    post = br.fit(model, rows, labels, method=inference.MAP(num_steps=300), progress=False)
    output = post.predict(rows).mean
    assert float((output - output[:1]).abs().max()) > 0.1
    assert any("other starts were tried: the best is" in note for note in post.history.notes)


def test_an_ordinary_fit_tries_no_other_start():
    post = br.fit(br.BayesianModel(net()), Z[:40], T[:40], method=inference.MAP(num_steps=5), progress=False)
    assert not any("other starts" in note for note in post.history.notes)


# ── a last layer that makes probabilities ───────────────────────────────────────────────────────────────────────────────────
class Ends(nn.Module):
    def __init__(self, function, outputs):
        super().__init__()
        self.linear, self.function = nn.Linear(10, outputs), function

    def forward(self, x):
        return self.function(self.linear(x))


TWICE = {
    "Softmax": (nn.Sequential(nn.Linear(10, 3), nn.Softmax(-1)), "softmax"),
    "Sigmoid": (nn.Sequential(nn.Linear(10, 1), nn.Sigmoid()), "sigmoid"),
    "Sigmoid, flattened": (nn.Sequential(nn.Linear(10, 1), nn.Sigmoid(), nn.Flatten(0)), "sigmoid"),
    "LogSigmoid": (nn.Sequential(nn.Linear(10, 1), nn.LogSigmoid()), "logsigmoid"),
    "Hardsigmoid": (nn.Sequential(nn.Linear(10, 1), nn.Hardsigmoid()), "hardsigmoid"),
    "Softmin": (nn.Sequential(nn.Linear(10, 3), nn.Softmin(-1)), "softmax"),
    "functional softmax": (Ends(lambda z: F.softmax(z, -1), 3), "softmax"),
    "functional sigmoid": (Ends(lambda z: torch.sigmoid(z)[:, 0], 1), "a function.*"),
    "by hand": (Ends(lambda z: z.exp() / z.exp().sum(-1, keepdim=True), 3), "a division by its sum"),
    "one over one plus": (Ends(lambda z: 1 / (1 + (-z).exp()), 1), "a function with values between 0 and 1"),
    "sigmoids for classes": (Ends(torch.sigmoid, 3), "sigmoid"),
}


@pytest.mark.parametrize("case", TWICE)
def test_probabilities_are_not_made_twice(case):
    module, said = TWICE[case]
    binary = module(torch.zeros(2, 10)).numel() == 2
    likelihood = likelihoods.Bernoulli() if binary else likelihoods.Categorical()
    labels = np.arange(len(Z)) % (2 if binary else 3)
    name = type(likelihood).__name__
    with pytest.raises(ValueError, match=rf"{name} needs logits, .* the network ends with ({said}), .* leave the last"):
        br.BayesianModel(module.double(), likelihood=likelihood).bind(Z, labels)


def test_a_last_log_softmax_is_read_as_logits():
    labels, plain = np.arange(len(Z)) % 3, nn.Linear(10, 3).double()
    ended = nn.Sequential(plain, nn.LogSoftmax(-1))
    model = br.BayesianModel(ended, likelihood=likelihoods.Categorical()).bind(Z, labels)
    assert model.unit_notes == ("the network ends with log_softmax, which Categorical's own softmax leaves as it is.",)
    other = br.BayesianModel(plain, likelihood=likelihoods.Categorical()).bind(Z, labels)
    ours = model.log_likelihood({f"0.{k}": v for k, v in other.weights().items()}, Z, labels)
    torch.testing.assert_close(ours, other.log_likelihood(other.weights(), Z, labels))


def test_a_bounded_output_is_a_location_like_any_other():
    model = br.BayesianModel(nn.Sequential(nn.Linear(10, 1), nn.Sigmoid()).double(), likelihood=likelihoods.Gaussian())
    assert model.bind(Z, np.linspace(0, 1, len(Z))).num_data == len(Z)
