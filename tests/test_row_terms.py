"""Weights and offsets of rows, and the level about which a log link works: each an identity."""

import pickle

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.objective import LogJoint

sm = pytest.importorskip("statsmodels.api")
N, D = 120, 2
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, D)) * [1.0, 3.0] + [0.0, 5.0]
ETA = 0.4 + X @ [0.5, -0.1]
COUNTS = RNG.poisson(np.exp(ETA)).astype(float)
WEIGHT = RNG.integers(0, 4, N).astype(float)
OFFSET = RNG.normal(0, 0.7, N)
TARGETS = {
    "Gaussian": (likelihoods.Gaussian(), ETA + RNG.normal(0, 0.5, N), 1),
    "GaussianPerOutput": (likelihoods.GaussianPerOutput(), np.column_stack([ETA, -ETA]) + RNG.normal(0, 0.5, (N, 2)), 2),
    "HeteroscedasticGaussian": (likelihoods.HeteroscedasticGaussian(), ETA + RNG.normal(0, 0.5, N), 2),
    "StudentT": (likelihoods.StudentT(), ETA + RNG.standard_t(4, N), 1),
    "Bernoulli": (likelihoods.Bernoulli(), (ETA + RNG.logistic(size=N) > 0).astype(float), 1),
    "Categorical": (likelihoods.Categorical(), np.digitize(ETA, [0.0, 1.0]), 3),
    "Ordinal": (likelihoods.Ordinal(3), np.digitize(ETA + RNG.logistic(size=N), [0.0, 1.0]), 1),
    "Poisson": (likelihoods.Poisson(), COUNTS, 1),
    "NegativeBinomial": (likelihoods.NegativeBinomial(), COUNTS, 1),
    "Gamma": (likelihoods.Gamma(), RNG.gamma(2.0, 0.5 * np.exp(ETA)), 1),
    "LogNormal": (likelihoods.LogNormal(), np.exp(ETA + RNG.normal(0, 0.3, N)), 1),
}


def linear(likelihood, outputs=1, standardize=False, prior=None):
    rules = prior or {"weight": priors.Normal(1.0), "bias": priors.Normal(2.0)}
    return br.BayesianModel(nn.Linear(D, outputs).double(), rules, likelihood, standardize)


def test_the_table_holds_every_likelihood():
    assert set(TARGETS) == set(likelihoods.__all__) & {
        cls.__name__ for cls in br._catalog.concrete(likelihoods.AbstractLikelihood)
    }


@pytest.mark.parametrize("name", TARGETS)
def test_a_weight_of_two_is_the_row_twice(name):
    """The mode, in standardised units, and the curvature about it are those of the rows, repeated as often as they count."""
    likelihood, y, outputs = TARGETS[name]
    rows = np.repeat(np.arange(N), WEIGHT.astype(int))
    model = linear(likelihood, outputs, standardize=True)
    weighted = br.fit(model, X, y, method="laplace", seed=0, sample_weight=WEIGHT)
    repeated = br.fit(model, X[rows], y[rows], method="laplace", seed=0)
    for key in repeated.mean:
        torch.testing.assert_close(weighted.mean[key], repeated.mean[key], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(weighted.std[key], repeated.std[key], rtol=1e-4, atol=1e-5)
    assert weighted.history.objective[-1] == pytest.approx(repeated.history.objective[-1], abs=1e-4)
    assert "count by sample_weight, together" in " ".join(weighted.history.notes)


@pytest.mark.parametrize("name", TARGETS)
def test_the_log_joint_weighs_and_shifts_rows(name):
    """Σ w log p(y | f + o) + log p(θ), in the data's own units; for a location the offset is taken off the target."""
    likelihood, y, outputs = TARGETS[name]
    offset = OFFSET if outputs == 1 or likelihood.heteroscedastic else np.column_stack([OFFSET] * outputs)
    bound, data = linear(likelihood, outputs).ingest(X, y, sample_weight=WEIGHT, offset=offset)
    log_joint = LogJoint(bound)
    u = log_joint.layout.flatten(bound.start(data.x, data.y))
    values = log_joint.layout.unflatten(u)
    output, target = bound.forward(values, torch.tensor(X)), likelihood.target(torch.tensor(y), torch.float64)
    shift = torch.tensor(offset)[:, None] if likelihood.heteroscedastic else torch.tensor(offset)
    moved = likelihood.in_units(output, shift, torch.ones_like(shift)) if likelihood.location_scale else output + shift
    rows = torch.tensor(WEIGHT) * likelihood.log_prob(moved, target, **bound.noise(values))
    found = log_joint.prepared(u, data.x, data.y, N)
    torch.testing.assert_close(found, rows.sum() + bound.log_prior(values), rtol=1e-10, atol=1e-9)
    batch = log_joint.prepared(u, data.x[:40], data.y[:40], N) - bound.log_prior(values)
    torch.testing.assert_close(batch, 3 * rows[:40].sum(), rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("standardize", [False, True])
def test_the_closed_form_takes_weights(standardize):
    rows = np.repeat(np.arange(N), WEIGHT.astype(int))
    for y in (TARGETS["Gaussian"][1], TARGETS["GaussianPerOutput"][1]):
        model = linear(likelihoods.Gaussian(0.5), 1 if y.ndim == 1 else 2, standardize)
        weighted = br.fit(model, X, y, method="exact", sample_weight=WEIGHT)
        repeated = br.fit(model, X[rows], y[rows], method="exact")
        torch.testing.assert_close(weighted.mean["weight"], repeated.mean["weight"])
        torch.testing.assert_close(weighted.std["weight"], repeated.std["weight"])
        assert weighted.log_evidence == pytest.approx(repeated.log_evidence, rel=1e-10)
        torch.testing.assert_close(weighted.predict(X).quantile(0.1), repeated.predict(X).quantile(0.1))


def test_weights_are_scikit_learn_s():
    ridge = Ridge(alpha=0.7).fit(X, TARGETS["Gaussian"][1], sample_weight=WEIGHT)
    rules = {"weight": priors.Normal(0.5 / 0.7**0.5), "bias": priors.Flat()}  # τ² = σ²/α
    mode = br.fit(
        linear(likelihoods.Gaussian(0.5), 1, False, rules), X, TARGETS["Gaussian"][1], method="map", sample_weight=WEIGHT
    )
    np.testing.assert_allclose(mode.mean["weight"][0], ridge.coef_, atol=1e-6)
    y = TARGETS["Bernoulli"][1]
    logistic = LogisticRegression(C=2.0, tol=1e-10, max_iter=1000).fit(X, y, sample_weight=WEIGHT)
    rules["weight"] = priors.Normal(2.0**0.5)
    mode = br.fit(linear(likelihoods.Bernoulli(), 1, False, rules), X, y, method="map", sample_weight=WEIGHT)
    np.testing.assert_allclose(mode.mean["weight"][0], logistic.coef_[0], atol=1e-5)
    rules["weight"] = priors.Flat()
    poisson = PoissonRegressor(alpha=0, tol=1e-10, solver="newton-cholesky").fit(X, COUNTS, sample_weight=WEIGHT)
    mode = br.fit(linear(likelihoods.Poisson(), 1, False, rules), X, COUNTS, method="map", sample_weight=WEIGHT)
    np.testing.assert_allclose(mode.mean["weight"][0], poisson.coef_, atol=1e-6)


@pytest.mark.parametrize("standardize", [False, True])
def test_offsets_are_statsmodels_s(standardize):
    """Exposure of counts; and predictions at another exposure."""
    exposure = np.exp(OFFSET)
    y = np.random.default_rng(1).poisson(exposure * np.exp(ETA)).astype(float)
    theirs = sm.GLM(y, sm.add_constant(X), family=sm.families.Poisson(), exposure=exposure).fit(tol=1e-12)
    model = linear(likelihoods.Poisson(), 1, standardize, priors.Flat())
    mode = br.fit(model, X, y, method="map", seed=0, offset=OFFSET)
    if not standardize:
        np.testing.assert_allclose(np.r_[mode.mean["bias"], mode.mean["weight"][0]], theirs.params, atol=1e-6)
    found = mode.predict(X, offset=OFFSET)
    np.testing.assert_allclose(found.mean, theirs.fittedvalues, rtol=1e-6)
    np.testing.assert_allclose(found.mean, mode.predict(X).mean.numpy() * exposure, rtol=1e-10)
    np.testing.assert_allclose(found.output[0], np.log(theirs.fittedvalues), rtol=1e-5, atol=1e-6)
    assert "an offset was added to the network's output" in " ".join(mode.history.notes)
    scored = br.compare({"a": mode}, X, y, offset=OFFSET).scores["a"]
    assert scored["mlpd"] == pytest.approx(float(found.log_prob(y).mean()))
    assert scored["mlpd"] > br.compare({"a": mode}, X, y).scores["a"]["mlpd"]


def test_an_offset_of_a_location_is_taken_off_the_target():
    y = TARGETS["Gaussian"][1]
    shift = 100 * OFFSET
    for method in ("map", "laplace", "exact"):
        model = linear(likelihoods.Gaussian(0.5), 1, True)
        one = br.fit(model, X, y + shift, method=method, seed=0, offset=shift)
        other = br.fit(model, X, y, method=method, seed=0)
        torch.testing.assert_close(one.mean["weight"], other.mean["weight"])
        a, b = one.predict(X, offset=shift), other.predict(X)
        torch.testing.assert_close(a.mean, b.mean + torch.tensor(shift))
        torch.testing.assert_close(a.log_prob(y + shift), b.log_prob(y))
        torch.testing.assert_close(a.quantile(0.2), b.quantile(0.2) + torch.tensor(shift), atol=1e-7, rtol=1e-7)


def test_classes_and_logits_shift():
    likelihood, y, _ = TARGETS["Bernoulli"]
    post = br.fit(linear(likelihood), X, y, method="laplace", seed=0, offset=OFFSET)
    found = post.predict(X, offset=OFFSET, num_samples=300)
    torch.testing.assert_close(found.output, post.predict(X, num_samples=300).output + torch.tensor(OFFSET))
    torch.testing.assert_close(found.mean, found.output.sigmoid().mean(0))


@pytest.mark.parametrize(
    "method",
    [
        br.inference.MAP(batch_size=60, num_steps=600, compile=False),
        br.inference.MAP(validation_fraction=0.2, num_steps=200, compile=False),
        br.inference.Ensemble(2, num_steps=300),
        pytest.param(br.inference.MeanField(num_steps=1500), marks=pytest.mark.slow),
        pytest.param(br.inference.LowRank(num_steps=1500), marks=pytest.mark.slow),
        pytest.param(br.inference.HMC(num_chains=4, num_samples=100), marks=pytest.mark.slow),
        pytest.param(br.inference.SVI(num_steps=1500), marks=pytest.mark.slow),
    ],
    ids=lambda m: type(m).__name__,
)
@pytest.mark.filterwarnings("ignore::bayesreg.ConvergenceWarning")
def test_every_method_takes_them(method, tmp_path):
    """A method sees nothing but the log-joint: each comes near the mode of the weighted rows, and is saved and read back."""
    likelihood, y, _ = TARGETS["NegativeBinomial"]
    given = {"sample_weight": WEIGHT, "offset": OFFSET}
    mode = br.fit(linear(likelihood, 1, True), X, y, method="map", seed=0, **given)
    post = br.fit(linear(likelihood, 1, True), X, y, method=method, seed=0, progress=False, **given)
    assert float((post.mean["weight"] - mode.mean["weight"]).abs().max()) < 0.3
    br.save(post, tmp_path / "post.pt")
    again = br.load(tmp_path / "post.pt")
    one, other = (p.predict(X, num_samples=20, offset=OFFSET).mean for p in (post, again))
    torch.testing.assert_close(one, other)


# ── the level of a log link ──


@pytest.mark.parametrize("name", ["Poisson", "NegativeBinomial", "Gamma", "LogNormal"])
def test_outputs_are_about_the_targets_level(name, tmp_path):
    """Targets ten thousand times as large have the same fit about their level: no prior has to reach for it."""
    likelihood, y, _ = TARGETS[name]
    big = y * 10_000 if name in ("Gamma", "LogNormal") else np.random.default_rng(2).poisson(np.exp(ETA + 9)).astype(float)
    mode = br.fit(linear(likelihood, 1, True), X, big, method="map", seed=0)
    assert abs(float(mode.mean["bias"])) < 1
    assert "the network's output is log(mean of y / " in " ".join(mode.history.notes)
    predicted = mode.predict(X)
    assert float(predicted.mean.mean()) == pytest.approx(big.mean(), rel=0.1)
    prior = mode.model.prior_predictive(X, num_samples=500)
    assert 0.2 < float(prior.output.exp().median()) / big.mean() < 5
    if name in ("Gamma", "LogNormal"):
        small = br.fit(linear(likelihood, 1, True), X, y, method="map", seed=0)
        torch.testing.assert_close(small.mean["weight"], mode.mean["weight"], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(10_000 * small.predict(X).mean, predicted.mean, rtol=1e-5, atol=0)
    br.save(mode, tmp_path / "mode.pt")
    again = br.load(tmp_path / "mode.pt")
    torch.testing.assert_close(again.predict(X).log_prob(big), predicted.log_prob(big))
    torch.testing.assert_close(
        again.model.log_likelihood(mode.sample(1, units="model") and _first(mode), X, big), _sum(mode, big)
    )


def _first(mode):
    return {name: value[0] for name, value in mode.sample(1, units="model").items()}


def _sum(mode, y):
    return mode.predict(X).log_prob(y).sum()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"sample_weight": np.ones(3)}, r"sample_weight must have shape \(N,\) with N = 120 rows, but \(3,\) came"),
        ({"sample_weight": -np.ones(N)}, r"sample_weight must be >= 0 and not all 0, but 120 are negative"),
        ({"sample_weight": np.zeros(N)}, r"sample_weight must be >= 0 and not all 0, but all are 0"),
        ({"offset": np.ones((N, 2))}, r"offset must have one number for each output of a row, \(\), but \(2,\) came"),
        ({"offset": np.full(N, np.nan)}, r"offset"),
    ],
)
def test_refusals(given, message):
    with pytest.raises(ValueError, match=message):
        br.fit(linear(likelihoods.Poisson()), X, COUNTS, method="map", **given)


def test_a_loader_brings_no_weights():
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(COUNTS)), batch_size=40)
    with pytest.raises(ValueError, match=r"sample_weight and offset must come with rows in memory, but X is a DataLoader"):
        br.fit(linear(likelihoods.Poisson()), loader, method="map", sample_weight=WEIGHT)


# ── the whole way ──


@pytest.fixture(scope="module")
def laplaces():
    """A Laplace approximation of each kind of target that has no test of its own elsewhere, standardised."""
    names = ("GaussianPerOutput", "StudentT", "Ordinal", "NegativeBinomial", "Gamma", "LogNormal")
    kinds = {name: TARGETS[name] for name in names}
    return {n: br.fit(linear(kind, k, True), X, y, method="laplace", seed=0) for n, (kind, y, k) in kinds.items()}


@pytest.mark.parametrize("name", ["GaussianPerOutput", "StudentT", "Ordinal", "NegativeBinomial", "Gamma", "LogNormal"])
def test_every_likelihood_is_scored_saved_and_drawn_from(laplaces, name, tmp_path):
    post, y = laplaces[name], TARGETS[name][1]
    scores = br.compare({"a": post}, X, y).scores["a"]
    assert np.isfinite(list(scores.metrics.values())).all()
    assert repr(post.model.likelihood) == repr(TARGETS[name][0])
    br.save(post, tmp_path / "post.pt")
    again = br.load(tmp_path / "post.pt")
    one, other = (p.predict(X, num_samples=50, seed=1) for p in (post, again))
    torch.testing.assert_close(one.log_prob(y), other.log_prob(y))
    drawn = one.sample(200, seed=0)
    assert drawn.shape == (200, *np.shape(y))
    assert pickle.loads(pickle.dumps(post.model.likelihood)).centre == post.model.likelihood.centre


@pytest.mark.slow
@pytest.mark.usefixtures("unrendered")
@pytest.mark.parametrize("name", ["GaussianPerOutput", "StudentT", "Ordinal", "NegativeBinomial", "Gamma", "LogNormal"])
def test_every_likelihood_is_reported(laplaces, name):
    found = br.report({"a": laplaces[name]}, X, TARGETS[name][1], num_samples=100)
    assert type(TARGETS[name][0]).__name__ in found.html


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", [name for name, (kind, *_) in TARGETS.items() if kind.labels is None])
def test_what_a_likelihood_draws_is_calibrated(name, seed):
    """PIT values of draws stay inside the simultaneous 99.9 % band about the diagonal (Dvoretzky, Kiefer, Wolfowitz)."""
    likelihood, _, outputs = TARGETS[name]
    generator = torch.Generator().manual_seed(seed)
    output = torch.randn(1, 1500, outputs, generator=generator, dtype=torch.float64).squeeze(-1) * 0.7
    noise = {key: torch.tensor(5.0 if key == "df" else 0.6) for key in [*likelihood.latents, *likelihood.fixed]}
    found = br.predictive.Predictive(likelihood, output, noise)
    u = np.sort(found.pit(found.sample(1, seed=seed)[0], seed=seed + 10).numpy().ravel())
    grid = np.arange(1, len(u) + 1) / len(u)
    assert np.abs(u - grid).max() < np.sqrt(np.log(2 / 1e-3) / (2 * len(u))) + 1 / len(u)
