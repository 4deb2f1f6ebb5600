"""A path must be the fits that it stands for, its scores those of a plain loop, its choices those of the textbook."""

import math

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import norm
from sklearn.linear_model import Lasso, LogisticRegression, Ridge, lasso_path
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, plots, priors
from bayesreg.inference import LaplaceApproximation
from tests.conftest import network, textbook

SEEDS = (0, 1, 2)
NOISE = 0.7
SCALES = np.geomspace(0.003, 1.0, 6)


def linear(prior, *, inputs=10, standardize=False, bias=None, likelihood=None, dtype=torch.float64):
    likelihood = likelihood or likelihoods.Gaussian(NOISE)
    return br.BayesianModel(
        nn.Linear(inputs, 1).to(dtype), {"weight": prior, "bias": bias or priors.Normal(1.0)}, likelihood, standardize
    )


@pytest.fixture(scope="module")
def ridge(diabetes):
    return br.path(linear(priors.Normal(1.0), standardize=True), *diabetes, scales=SCALES, progress=False)


@pytest.fixture(scope="module")
def lasso(standard_diabetes):
    return br.path(linear(priors.Laplace(1.0), bias=priors.Flat()), *standard_diabetes, folds=3, progress=False)


def test_ridge_is_the_closed_form_with_its_evidence(ridge, standard_diabetes):
    X, y = standard_diabetes
    for i, scale in enumerate(SCALES):
        mean, _, evidence = textbook(X, y, scale=scale, noise=NOISE)
        assert np.abs(ridge.coefficients["weight"][i, 0].numpy() - mean[:-1]).max() < 1e-6
        assert float(ridge.coefficients["bias"][i]) == pytest.approx(mean[-1], abs=1e-6)
        design = np.column_stack([X, np.ones(len(X))])
        gram = design.T @ design / NOISE**2
        trace = np.trace(gram @ np.linalg.inv(gram + np.diag(np.r_[np.full(10, scale**-2), 1.0])))
        assert float(ridge.degrees_of_freedom[i]) == pytest.approx(trace, rel=1e-8)
        assert float(ridge.lambdas[i]) == pytest.approx(scale**-2)
        in_own_units = evidence - len(y) * ridge.models[0].standardization.y_scale.log()
        assert float(ridge.log_evidence[i]) == pytest.approx(float(in_own_units), abs=1e-5)


def test_each_fit_is_the_single_fit(ridge, diabetes):
    exact = br.fit(linear(priors.Normal(float(SCALES[2])), standardize=True), *diabetes, method="exact")
    assert float(ridge.log_evidence[2]) == pytest.approx(exact.log_evidence, abs=1e-6)
    mode = br.fit(linear(priors.Normal(float(SCALES[2])), standardize=True), *diabetes, method="map")
    ours = ridge.fit(SCALES[2])
    assert torch.allclose(ours.mean["weight"], mode.mean["weight"], atol=1e-8)
    assert ours.certificate.converged
    assert float(ridge.log_joint[2]) == pytest.approx(float(mode.certificate.details["log joint"]), abs=1e-8)
    X, y = diabetes
    assert torch.allclose(ours.predict(X).log_prob(y), mode.predict(X).log_prob(y), atol=1e-7)


def test_lasso_is_scikit_learns_with_its_zeros(lasso, standard_diabetes):
    X, y = standard_diabetes
    alphas = NOISE**2 / (len(y) * lasso.scales.numpy())
    _, reference, _ = lasso_path(X, y, alphas=alphas, tol=1e-14, max_iter=10**6)
    found = lasso.coefficients["weight"][:, 0].numpy().T
    assert np.abs(found - reference).max() < 1e-6
    assert ((found == 0) == (reference == 0)).all()
    assert len(lasso) == 20
    assert int(lasso.zeros[0]) == 10
    nonzero = (found != 0).sum(0)
    assert np.allclose(lasso.degrees_of_freedom.numpy(), nonzero + 1, atol=1e-8), "their number, and the free intercept"
    # just above the scale where all is zero, something is not: λ_max = max |Xᵀy|/σ²
    top = np.abs(X.T @ y).max() / NOISE**2
    assert float(lasso.lambdas[0]) == pytest.approx(top / 0.999, rel=1e-6)


def test_group_lasso_counts_the_curvature_of_its_norm(standard_diabetes):
    """On an orthonormal design df = Σ_groups 1 + (d − 1)(1 − λ/‖ŵ_ls‖), Yuan and Lin (2006)."""
    rng = np.random.default_rng(0)
    X = np.linalg.qr(rng.normal(size=(60, 4)))[0]
    Y = X @ np.array([[3.0, -2.0, 1.0], [0.5, 0.4, 0.0], [0.0, 0.1, 0.1], [2.0, 2.0, 2.0]]) + 0.1 * rng.normal(size=(60, 3))
    model = br.BayesianModel(
        nn.Linear(4, 3, bias=False).double(), {"weight": priors.GroupLasso(1.0, per="column")}, likelihoods.Gaussian(1.0)
    )
    found = br.path(model, X, Y, scales=[1.0], folds=None, progress=False)
    size = np.linalg.norm(X.T @ Y, axis=1)
    kept = size > 1
    assert kept.tolist() == (found.coefficients["weight"][0].norm(dim=0) != 0).tolist()
    assert not kept.all()
    assert float(found.degrees_of_freedom[0]) == pytest.approx((1 + 2 * (1 - 1 / size[kept])).sum(), rel=1e-8)


@pytest.mark.parametrize("prior", [priors.Normal(1.0), priors.Laplace(1.0)], ids=["L2", "L1"])
def test_logistic_path(breast_cancer, prior):
    X, y = breast_cancer
    scales = [0.02, 0.2, 1.0]
    model = linear(prior, inputs=30, bias=priors.Flat(), likelihood=likelihoods.Bernoulli())
    found = br.path(model, X, y, scales=scales, folds=None, progress=False)
    for i, s in enumerate(scales):
        weight, bias = found.coefficients["weight"][i, 0].numpy(), float(found.coefficients["bias"][i])
        assert found.posterior(i).certificate.converged
        if isinstance(prior, priors.Normal):
            ref = LogisticRegression(C=s**2, tol=1e-10, max_iter=10_000).fit(X, y).coef_
            assert np.abs(weight - ref[0]).max() < 1e-5
        else:  # the subgradient condition: −∂loss is the sign over the scale where a weight is not zero, and less elsewhere
            slope = X.T @ (y - 1 / (1 + np.exp(-(X @ weight + bias)))) * s
            assert np.abs(slope[weight != 0] - np.sign(weight[weight != 0])).max() < 1e-6
            assert np.abs(slope).max() <= 1 + 1e-6
    if isinstance(prior, priors.Laplace):
        assert int(found.zeros[0]) > int(found.zeros[-1])


@pytest.mark.parametrize("standardize", [True, False])
def test_held_out_scores_are_those_of_a_loop(diabetes, standard_diabetes, standardize):
    """Fold by fold with br.fit, and with scikit-learn's Ridge on rows standardised by hand: nothing leaks."""
    X, y = diabetes if standardize else standard_diabetes
    model = linear(priors.Normal(1.0), standardize=standardize, bias=priors.Flat())
    found = br.path(model, X, y, scales=[0.05, 0.5], folds=4, seed=3, progress=False)
    fold = found.fold.numpy()
    assert np.bincount(fold).tolist() == [111, 111, 110, 110]
    for k in range(4):
        train, test = fold != k, fold == k
        x_mean, x_sd, y_mean, y_sd = X[train].mean(0), X[train].std(0), y[train].mean(), y[train].std()
        if not standardize:
            x_mean, x_sd, y_mean, y_sd = 0.0, 1.0, 0.0, 1.0
        for i, s in enumerate((0.05, 0.5)):
            hand = Ridge(alpha=(NOISE / s) ** 2).fit((X[train] - x_mean) / x_sd, (y[train] - y_mean) / y_sd)
            mean = hand.predict((X[test] - x_mean) / x_sd) * y_sd + y_mean
            score = norm.logpdf(y[test], mean, NOISE * y_sd).mean()
            assert float(found.held_out[k, i]) == pytest.approx(score, abs=1e-7)
            single = br.fit(
                linear(priors.Normal(s), standardize=standardize, bias=priors.Flat()), X[train], y[train], method="map"
            )
            assert float(single.predict(X[test]).log_prob(y[test]).mean()) == pytest.approx(score, abs=1e-6)
    assert torch.allclose(found.score, found.held_out.mean(0))
    assert torch.allclose(found.standard_error, found.held_out.std(0) / 2)


def test_given_folds_and_autoscale(standard_diabetes):
    X, y = standard_diabetes
    fold = np.arange(len(y)) // 150
    model = linear(priors.Normal(0.5, autoscale=True), bias=priors.Flat())
    found = br.path(model, 3 * X, y, scales=[0.1, 0.5], folds=fold, progress=False)
    assert found.held_out.shape == (3, 2)
    single = br.fit(
        linear(priors.Normal(0.1, autoscale=True), bias=priors.Flat()), 3 * X[fold != 1], y[fold != 1], method="map"
    )
    assert float(single.predict(3 * X[fold == 1]).log_prob(y[fold == 1]).mean()) == pytest.approx(
        float(found.held_out[1, 0]), abs=1e-6
    )


def test_rules_of_choice(ridge):
    score, error = ridge.score.numpy(), ridge.standard_error.numpy()
    top = score.argmax()
    assert ridge.best("cv") == float(ridge.scales[top])
    simplest = min(i for i in range(len(ridge)) if score[i] >= score[top] - error[top])
    assert ridge.best("1se") == float(ridge.scales[simplest])
    assert ridge.best("1se") <= ridge.best("cv")
    assert ridge.best("evidence") == float(ridge.scales[int(ridge.log_evidence.argmax())])
    assert ridge.marks() == {rule: ridge.index(ridge.best(rule)) for rule in ("cv", "1se", "evidence")}
    frame = ridge.to_frame()
    assert list(frame) == [
        "scale", "penalty_weight", "zeros", "degrees_of_freedom", "log_joint", "held_out", "held_out_se", "log_evidence",
    ]  # fmt: skip
    text = str(ridge)
    assert len(text.splitlines()) == 2 + len(ridge)
    assert "1/scale²" in text
    assert "6 scales 0.003 … 1" in repr(ridge)


def test_elastic_net_keeps_its_share_and_fan_in_applies(standard_diabetes):
    from sklearn.linear_model import ElasticNet

    X, y = standard_diabetes
    prior = priors.ElasticNet.from_sklearn(0.1, 0.4, num_data=len(y), noise_scale=NOISE)
    found = br.path(
        linear(prior, bias=priors.Flat()), X, y, scales=[prior.l1_scale, 4 * prior.l1_scale], folds=None, progress=False
    )
    for i, alpha in enumerate((0.1, 0.025)):
        ref = ElasticNet(alpha=alpha, l1_ratio=0.4, tol=1e-14, max_iter=10**6).fit(X, y).coef_
        assert np.abs(found.coefficients["weight"][i, 0].numpy() - ref).max() < 1e-8
    layered = br.path(
        linear(priors.Laplace(1.0, fan_in=True), bias=priors.Flat()), X, y, scales=[0.1], folds=None, progress=False
    )
    ref = Lasso(alpha=NOISE**2 * math.sqrt(10) / (len(y) * 0.1), tol=1e-14, max_iter=10**6).fit(X, y).coef_
    assert np.abs(layered.coefficients["weight"][0, 0].numpy() - ref).max() < 1e-8


@pytest.mark.slow
def test_evidence_of_a_network_is_that_of_laplace_at_its_modes():
    """With a learned noise too: the approximation stands at the mode of the unconstrained density."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(80, 3))
    y = np.tanh(X[:, 0]) + 0.2 * rng.normal(size=80)
    net = network(3, 4, 1, dtype=torch.float64)
    found = br.path(br.BayesianModel(net), X, y, scales=[0.3, 1.0], folds=None, num_steps=800, progress=False)
    assert not bool(found.log_evidence.isnan().any())
    for i, s in enumerate((0.3, 1.0)):
        with torch.no_grad():
            for name, value in found.posterior(i).mean.items():
                if name != "noise_scale":
                    net.get_parameter(name).copy_(value)
        model = br.BayesianModel(net, {"*.weight": priors.Normal(s, fan_in=True)})
        single = br.fit(model, X, y, method=LaplaceApproximation())
        assert float(found.log_evidence[i]) == pytest.approx(single.log_evidence, abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_network_drops_exactly_the_inputs_that_do_not_matter(seed, activation):
    """10-50-1, group lasso on the first layer: at the path's own 1se scale seven of ten inputs are exactly zero."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(300, 10))
    y = 3 * np.tanh(X[:, 0] / 2) + X[:, 1] - 1.5 * X[:, 2] + rng.normal(size=300)
    net = network(10, 50, 1, seed=seed, activation=activation)
    model = br.BayesianModel(net, {"0.weight": priors.GroupLasso(1.0, per="column")}, likelihoods.Gaussian(1.0))
    scales = np.geomspace(0.002, 0.1, 8)
    found = br.path(model, X, y, rule="0.weight", scales=scales, num_steps=300, evidence=False, progress=False)
    weight = found.fit(found.best("1se")).mean["0.weight"]
    assert (weight != 0).any(0).tolist() == [True] * 3 + [False] * 7
    assert found.no_evidence == "it was not asked for"


def test_stability_keeps_what_matters_and_names_it(standard_diabetes):
    X, y = standard_diabetes
    columns = ["age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6"]
    scale = NOISE**2 / (len(y) * 0.05)
    model = linear(priors.Laplace(scale), bias=priors.Flat())
    found = br.stability(model, pd.DataFrame(X, columns=columns), y, num_bootstraps=20, progress=False)
    reference = Lasso(alpha=0.05, tol=1e-14).fit(X, y).coef_
    assert found.names == tuple(columns)
    assert found.kept.tolist() == (reference != 0).tolist()
    assert {"bmi", "s5"} <= set(found.stable(1.0))
    assert found.to_frame()["frequency"].between(0, 1).all()
    again = br.stability(model, X, y, num_bootstraps=20, progress=False)
    assert torch.equal(again.frequency, found.frequency)
    assert not torch.equal(br.stability(model, X, y, num_bootstraps=20, seed=1, progress=False).frequency, found.frequency)
    assert again.names[2] == "x2"
    assert "bmi" in str(found)
    assert "dropped" in str(found)
    # a refit is a lasso on the rows that were drawn
    torch.manual_seed(0)
    drawn = torch.randint(len(y), (20, len(y)))
    kept = [Lasso(alpha=0.05, tol=1e-12, max_iter=10**5).fit(X[r], y[r]).coef_ != 0 for r in drawn.numpy()]
    assert np.allclose(found.frequency.numpy(), np.mean(kept, 0))


def test_refusals(standard_diabetes):
    X, y = standard_diabetes
    model = linear(priors.Laplace(1.0))
    for options, match in (
        ({"rule": "2.weight"}, "a rule must match a trainable tensor"),
        ({"scales": [0.1, -1.0]}, "scales must be different numbers > 0"),
        ({"scales": [0.1, 0.1]}, "scales must be different numbers > 0"),
        ({"scales": []}, "scales must be different numbers > 0"),
        ({"folds": 1}, "folds must be at least 2"),
        ({"folds": np.zeros(len(y))}, "at least two folds"),
        ({"folds": [0, 1]}, "the fold of each of the 442 rows"),
        ({"evidence": "yes"}, "evidence must be True, False or 'auto'"),
        ({"evidence": True}, r"Laplace\(scale=0\.1\) has a kink"),
        ({"num_steps": 0}, "num_steps"),
    ):
        with pytest.raises(ValueError, match=match):
            br.path(model, X, y, **{"scales": [0.1], "folds": None, "progress": False, **options})
    with pytest.raises(ValueError, match=r"weight has Flat\(\); give it for example"):
        br.path(linear(priors.Flat()), X, y)
    with pytest.raises(ValueError, match="scale that is a number, but weight has Normal"):
        br.path(linear(priors.Normal(priors.HalfNormal(1.0))), X, y)
    with pytest.raises(ValueError, match="model must be a BayesianModel"):
        br.path(nn.Linear(10, 1), X, y)
    with pytest.raises(ValueError, match="rows at once"):
        br.path(model, torch.utils.data.DataLoader([(1, 2)]))
    found = br.path(model, X, y, scales=[0.1, 0.2], folds=None, progress=False)
    with pytest.raises(ValueError, match="must have folds"):
        found.best("cv")
    with pytest.raises(ValueError, match=r"but a Laplace approximation needs .* take 'cv'"):
        found.best("evidence")
    with pytest.raises(ValueError, match=r"the nearest is 0\.2"):
        found.fit(0.3)
    with pytest.raises(ValueError, match="index must be a whole number from 0 to 1"):
        found.posterior(2)
    with pytest.raises(ValueError, match="one weight of shape"):
        br.stability(linear(priors.Normal(1.0)), X, y)
    with pytest.raises(ValueError, match="tensor must be a weight of shape"):
        br.stability(model, X, y, tensor="bias")


def test_nothing_outlives_the_call(standard_diabetes):
    X, y = standard_diabetes
    model = linear(priors.Laplace(1.0))
    before = {name: v.clone() for name, v in model.module.state_dict().items()}
    state, table = torch.get_rng_state(), str(model.prior_table())
    br.path(model, X, y, scales=[0.1, 0.2], folds=3, progress=False)
    br.stability(model, X, y, num_bootstraps=3, progress=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(v, before[name]) for name, v in model.module.state_dict().items())
    assert str(model.prior_table()) == table


def test_the_figure_draws_the_path(ridge, lasso):
    settings = {k: v for k, v in mpl.rcParams.items() if k != "backend"}
    figure = plots.path(lasso, names=list("abcdefghij"))
    assert {k: v for k, v in mpl.rcParams.items() if k != "backend"} == settings
    weights, number, score = figure.axes
    lines = [line for line in weights.lines if len(line.get_xdata()) == len(lasso)]
    assert np.allclose(np.stack([line.get_ydata() for line in lines]).T, lasso.coefficients["weight"][:, 0])
    assert {t.get_text() for t in weights.texts} == set("abcdefghij")
    assert any(np.allclose(line.get_ydata(), lasso.degrees_of_freedom) for line in number.lines if len(line.get_xdata()) == 20)
    assert any(np.allclose(line.get_ydata(), lasso.score) for line in score.lines if len(line.get_xdata()) == 20)
    (twin,) = weights.child_axes
    assert "λ = 1/scale (" in twin.get_xlabel()
    low, high = weights.get_xlim()
    figure.draw_without_rendering()
    assert sorted(twin.get_xlim()) == pytest.approx([1 / high, 1 / low])
    marked = {float(line.get_xdata()[0]) for line in score.lines if len(set(line.get_xdata())) == 1}
    assert marked == {lasso.best("cv"), lasso.best("1se")}
    labels = [text.get_text() for text in plots.path(ridge).legends[0].get_texts()]
    assert [label.split(":")[0] for label in labels] == ["cv", "1se", "evidence"]
    with pytest.raises(ValueError, match="names must be one a line, but 1 came for 10"):
        plots.path(ridge, names=["a"])


def test_a_weight_held_at_its_kink_is_no_degree_of_freedom_wherever_the_kink_is(standard_diabetes):
    """So tight a Laplace about 1 holds every weight there: the flat bias alone is free."""
    rules = {"weight": priors.Laplace(1e-4, loc=1.0), "bias": priors.Flat()}
    model = br.BayesianModel(nn.Linear(10, 1).double(), rules, likelihoods.Gaussian(0.7))
    found = br.path(model, *standard_diabetes, scales=[1e-4], rule="weight", folds=None)
    assert bool((found.coefficients["weight"] == 1).all())
    assert float(found.degrees_of_freedom[0]) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("prior", [priors.TotalVariation(0.02), priors.Laplace(0.002, loc=1.0), priors.Normal(1.0)], ids=repr)
def test_stability_wants_a_prior_whose_kink_is_zero(standard_diabetes, prior):
    model = br.BayesianModel(nn.Linear(10, 1).double(), {"weight": prior}, likelihoods.Gaussian(0.7))
    with pytest.raises(
        ValueError, match=r"one weight of shape \(outputs, 10\) must have a prior with exact zeros, but none does"
    ):
        br.stability(model, *standard_diabetes, num_bootstraps=2)
    with pytest.raises(ValueError, match=r"tensor must be a weight of shape \(outputs, 10\) whose prior makes exact zeros"):
        br.stability(model, *standard_diabetes, tensor="weight", num_bootstraps=2)


def test_a_learned_noise_is_no_degree_of_freedom(standard_diabetes):
    X, y = standard_diabetes
    found = br.path(
        linear(priors.Normal(1.0), likelihood=likelihoods.Gaussian(priors.HalfNormal(1.0))),
        X,
        y,
        scales=[0.2],
        folds=None,
        progress=False,
    )
    noise = float(found.posterior(0).mean["noise_scale"])
    design = np.column_stack([X, np.ones(len(X))])
    gram = design.T @ design / noise**2
    trace = np.trace(gram @ np.linalg.inv(gram + np.diag(np.r_[np.full(10, 0.2**-2), 1.0])))
    assert float(found.degrees_of_freedom[0]) == pytest.approx(trace, rel=1e-6)
