"""Scikit-learn's interface: its own checks, and the numbers of its own models where they are the same model."""

import io
import json
import pickle

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from scipy import stats
from sklearn import config_context
from sklearn.base import clone
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.datasets import load_diabetes
from sklearn.linear_model import LogisticRegression, PoissonRegressor, Ridge
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_val_score, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn
from typer.testing import CliRunner

import bayesreg as br
from bayesreg.cli import app
from bayesreg.data import random_rows
from bayesreg.sklearn import AbstractBayes, AbstractNumbers, BayesClassifier, BayesCounts, BayesRegressor, log_score

NOISE, SCALE = 0.3, 0.7
CHEAP = [
    BayesRegressor(hidden=(), method="map", likelihood=f"Gaussian({NOISE})"),
    BayesClassifier(hidden=(), method="map"),
    BayesCounts(hidden=(), method="map", likelihood="Poisson()"),
]
ALL = pytest.mark.parametrize("estimator", CHEAP, ids=lambda e: type(e).__name__)


@parametrize_with_checks(CHEAP[:2])
def test_scikit_learn_finds_no_fault(estimator, check):
    check(estimator)


@pytest.mark.slow  # quickly by the two above: all that it adds to them is its likelihood
@parametrize_with_checks(CHEAP[2:])
def test_scikit_learn_finds_no_fault_with_counts(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def line():
    """X (60, 3) and y, with a line through them that was fitted exactly."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 3)) * [1.0, 5.0, 0.2] + 3
    y = X @ [2.0, 0.1, -3.0] + 0.5 * rng.normal(size=60)
    return X, y, exact(SCALE).fit(X, y)


def exact(scale):
    return BayesRegressor(hidden=(), method="exact", likelihood=f"Gaussian({NOISE})", prior=f"Normal({scale})")


def ridge(scale):
    """The same mode: α = σ²/τ², in units in which x and y have sd 1."""
    penalty = Ridge((NOISE / scale) ** 2)
    return make_pipeline(StandardScaler(), TransformedTargetRegressor(penalty, transformer=StandardScaler()))


def target(estimator, X):
    """A target of each estimator's kind."""
    score = X[:, 0] + X[:, 1]
    if isinstance(estimator, AbstractNumbers):
        return np.rint(np.exp(score / 2)) if isinstance(estimator, BayesCounts) else score
    return np.where(score > 0, "yes", "no")


@pytest.fixture(scope="module")
def columns():
    return np.random.default_rng(1).normal(size=(80, 2))


# the numbers


def test_a_line_is_ridge_regression(line):
    X, y, fitted = line
    np.testing.assert_allclose(fitted.predict(X), ridge(SCALE).fit(X, y).predict(X), rtol=1e-5)
    np.testing.assert_allclose(X @ fitted.coef_ + fitted.intercept_, fitted.predict(X), rtol=1e-5)


def test_a_line_has_the_uncertainty_of_the_conjugate_posterior(line):
    X, y, fitted = line
    z = (X - X.mean(0)) / X.std(0)
    covariance = np.linalg.inv(z.T @ z / NOISE**2 + np.eye(3) / SCALE**2)
    np.testing.assert_allclose(fitted.coef_std_, np.sqrt(np.diag(covariance)) * y.std() / X.std(0), rtol=1e-5)
    bias = 1 / (len(y) / NOISE**2 + 1)
    variance = np.einsum("nd,de,ne->n", z, covariance, z) + bias + NOISE**2
    mean, std = fitted.predict(X, return_std=True)
    np.testing.assert_allclose(std, np.sqrt(variance) * y.std(), rtol=1e-5)
    normal = stats.norm(mean, std)
    np.testing.assert_allclose(fitted.predict_interval(X, 0.8), np.stack(normal.interval(0.8), 1), rtol=1e-5)
    np.testing.assert_allclose(fitted.predict_quantiles(X, [0.3])[:, 0], normal.ppf(0.3), rtol=1e-5)
    assert fitted.log_score(X, y) == pytest.approx(normal.logpdf(y).mean(), rel=1e-5)


def test_a_search_over_the_prior_is_a_search_over_lambda(line):
    X, y, _ = line
    scales = [0.03, 0.1, 1.0]
    ours = GridSearchCV(exact(9.0), {"prior__scale": scales}, cv=4).fit(X, y)
    theirs = [cross_val_score(ridge(scale), X, y, cv=4).mean() for scale in scales]
    np.testing.assert_allclose(ours.cv_results_["mean_test_score"], theirs, rtol=1e-5)
    assert ours.best_params_ == {"prior__scale": scales[int(np.argmax(theirs))]}


def test_a_linear_classifier_is_logistic_regression(columns):
    z = StandardScaler().fit_transform(columns)
    y = np.where(z[:, 0] + np.random.default_rng(2).logistic(size=80) > 0, "b", "a")
    rules = {"*.weight": "Normal(0.8)", "*.bias": "Flat()"}
    ours = BayesClassifier(hidden=(), method="map", prior=rules).fit(columns, y)
    theirs = LogisticRegression(C=0.8**2, tol=1e-10).fit(z, y)
    np.testing.assert_allclose(ours.predict_proba(columns), theirs.predict_proba(z), atol=1e-6)
    np.testing.assert_allclose(ours.coef_ * columns.std(0), theirs.coef_, atol=1e-5)
    assert ours.classes_.tolist() == ["a", "b"]
    np.testing.assert_allclose(
        ours.log_score(columns, y), np.log(theirs.predict_proba(z)[np.arange(80), (y == "b") * 1]).mean()
    )


def test_linear_counts_are_poisson_regression(columns):
    y = np.random.default_rng(3).poisson(np.exp(columns[:, 0] + 0.3))
    z = StandardScaler().fit_transform(columns)
    rules = {"*.weight": "Normal(0.5)", "*.bias": "Flat()"}
    ours = BayesCounts(hidden=(), method="map", likelihood="Poisson()", prior=rules).fit(columns, y)
    theirs = PoissonRegressor(alpha=1 / (80 * 0.5**2), tol=1e-12, max_iter=1000).fit(z, y)
    np.testing.assert_allclose(ours.predict(columns), theirs.predict(z), rtol=1e-5)
    assert ours.score(columns, y) == pytest.approx(theirs.score(z, y), rel=1e-5)
    assert ours.log_score(columns, y) == pytest.approx(stats.poisson(theirs.predict(z)).logpmf(y).mean(), rel=1e-5)


def test_exposures_are_offsets(columns):
    exposure = np.random.default_rng(5).uniform(1, 9, 80)
    y = np.random.default_rng(6).poisson(exposure * np.exp(columns[:, 0]))
    rules = {"*.weight": "Flat()", "*.bias": "Flat()"}
    ours = BayesCounts(hidden=(), method="map", likelihood="Poisson()", prior=rules).fit(columns, y, offset=np.log(exposure))
    theirs = PoissonRegressor(alpha=0, tol=1e-12, max_iter=1000).fit(columns, y / exposure, sample_weight=exposure)
    np.testing.assert_allclose(ours.coef_, theirs.coef_, rtol=1e-4)
    np.testing.assert_allclose(ours.predict(columns, offset=np.log(exposure)), exposure * theirs.predict(columns), rtol=1e-4)


def test_ordered_categories_keep_their_order(columns):
    names = ["low", "mid", "high"]
    codes = np.digitize(columns[:, 0] + 0.3 * columns[:, 1], [-0.5, 0.5])
    y = pd.Series(pd.Categorical.from_codes(codes, categories=names, ordered=True))
    fitted = BayesClassifier(hidden=(), method="map").fit(columns, y)
    assert fitted.classes_.tolist() == names
    assert repr(fitted.model_.likelihood).startswith("Ordinal")
    assert fitted.predict_proba(columns).sum(1) == pytest.approx(1)
    assert fitted.score(columns, y) > 0.8


def test_importances_are_those_of_a_linear_function(line):
    X, _, fitted = line
    beta = stats.multivariate_normal(fitted.coef_, np.diag(fitted.coef_std_**2)).rvs(20_000, random_state=0)
    centred = X - X.mean(0)
    share = beta**2 * X.var(0) / np.einsum("nd,sd->sn", centred, beta).var(1)[:, None]
    assert fitted.feature_importances_ == pytest.approx(share.mean(0), rel=0.2)  # ten other rows for each of 60
    assert fitted.feature_importances_std_ == pytest.approx(share.std(0), rel=0.5)
    assert exact(SCALE).set_params(method="map").fit(X, X[:, 0]).feature_importances_std_.tolist() == [0, 0, 0]


def test_draws_scatter_as_the_distribution_says(line):
    X, _, fitted = line
    draws = fitted.sample_y(X[:5], 4000, random_state=1)
    mean, std = fitted.predict(X[:5], return_std=True)
    assert draws.shape == (5, 4000)
    assert np.abs(draws.mean(1) - mean).max() < 4 * std.max() / 4000**0.5
    assert np.abs(draws.std(1) / std - 1).max() < 4 / 8000**0.5


def test_several_targets_at_once(line):
    X, y, fitted = line
    both = exact(SCALE).fit(X, np.stack([y, -2 * y], 1))
    np.testing.assert_allclose(both.predict(X), np.stack([fitted.predict(X), -2 * fitted.predict(X)], 1), rtol=1e-5)
    assert both.coef_.shape == (2, 3)
    assert both.predict_interval(X).shape == (60, 2, 2)
    assert both.predict_quantiles(X, [0.1, 0.5, 0.9]).shape == (60, 2, 3)
    assert both.sample_y(X, 4).shape == (60, 2, 4)


@ALL
def test_a_weight_of_two_is_the_row_twice(estimator, columns):
    y, twice = target(estimator, columns), np.arange(80) % 3
    weighted = clone(estimator).set_params(hidden=()).fit(columns, y, sample_weight=twice)
    repeated = clone(estimator).fit(np.repeat(columns, twice, axis=0), np.repeat(y, twice))
    np.testing.assert_allclose(weighted.coef_, repeated.coef_, rtol=1e-4, atol=1e-5)
    assert weighted.log_score(columns, y) == pytest.approx(repeated.log_score(columns, y), rel=1e-4)
    assert weighted.log_score(columns, y, sample_weight=twice) == pytest.approx(
        repeated.log_score(np.repeat(columns, twice, axis=0), np.repeat(y, twice)), rel=1e-4
    )
    assert (pickle.loads(pickle.dumps(weighted)).predict(columns) == weighted.predict(columns)).all()


def both_ways(folder, options, method):
    """Held-out RMSE and mean log density, in nats, by the command line and by an estimator, of the same rows and seed."""
    frame = load_diabetes(as_frame=True, scaled=False).frame.iloc[:150]
    frame.to_csv(folder / "diabetes.csv", index=False)
    page = folder / "report.html"
    given = ["report", str(folder / "diabetes.csv"), "--target", "target", "--no-baselines", "--out", str(page), *options]
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 0, done.output
    (found,) = json.loads(page.with_suffix(".json").read_text())["comparison"]["posteriors"].values()
    theirs = found["scores"]["metrics"]
    frame = pd.read_csv(folder / "diabetes.csv")
    test = random_rows(len(frame), 0.2, seed=0)
    X, y = frame.drop(columns="target"), frame["target"]
    fitted = BayesRegressor(method=method).fit(X[~test], y[~test])
    rmse = np.sqrt(np.mean((fitted.predict(X[test]) - y[test]) ** 2))
    return (rmse, fitted.log_score(X[test], y[test])), (theirs["rmse"], theirs["mlpd"])


@pytest.mark.usefixtures("unrendered")
def test_the_command_line_has_the_same_numbers(tmp_path):
    ours, theirs = both_ways(tmp_path, ["--method", "map", "--num-steps", "30"], br.inference.MAP(num_steps=30))
    assert ours == pytest.approx(theirs, rel=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures("unrendered")
def test_the_command_line_has_the_same_numbers_by_itself(tmp_path):
    ours, theirs = both_ways(tmp_path, ["--method", "auto"], "auto")
    assert ours == pytest.approx(theirs, rel=1e-5)


@pytest.mark.slow
@parametrize_with_checks([made(method="laplace", hidden=(2,)) for made in (BayesRegressor, BayesClassifier, BayesCounts)])
def test_scikit_learn_finds_no_fault_in_networks(estimator, check):
    check(estimator)


# in scikit-learn's machinery


@ALL
@pytest.mark.usefixtures("unrendered")
def test_all_share_one_interface(estimator, columns):
    y = target(estimator, columns)
    fitted = clone(estimator).fit(columns, y)
    assert isinstance(fitted, AbstractBayes)
    assert fitted.posterior_.model is fitted.model_
    assert fitted.certificate_ is fitted.posterior_.certificate
    assert fitted.predict(columns).shape == y.shape
    assert fitted.sample_y(columns, 3).shape == (80, 3)
    assert fitted.predict_distribution(columns).num_rows == 80
    assert fitted.feature_importances_.shape == fitted.feature_importances_std_.shape == (2,)
    assert fitted.score(columns, y) > 0.6
    assert np.isfinite(fitted.log_score(columns, y))
    assert fitted.report(columns[:40], y[:40]).html.startswith("<!DOCTYPE html>")
    assert cross_val_predict(estimator, columns, y, cv=3).shape == (80,)
    assert str(fitted).endswith(str(fitted.model_.prior_table()))
    assert "<th>penalty</th>" in fitted._repr_html_().replace(' scope="col"', "")
    assert "penalty" not in str(estimator) + estimator._repr_html_()


@ALL
def test_files_and_copies_answer_the_same(estimator, columns):
    fitted = clone(estimator).fit(columns, target(estimator, columns))
    buffer = io.BytesIO()
    joblib.dump(fitted, buffer)
    buffer.seek(0)
    for other in (pickle.loads(pickle.dumps(fitted)), joblib.load(buffer)):
        assert (other.predict(columns) == fitted.predict(columns)).all()
    assert clone(fitted).get_params() == estimator.get_params()


@ALL
def test_random_states_are_left_alone(estimator, columns):
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    again = [clone(estimator).fit(columns, target(estimator, columns)).sample_y(columns, 2) for _ in range(2)]
    assert (again[0] == again[1]).all()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()


@pytest.fixture(scope="module")
def frame():
    rng, n = np.random.default_rng(4), 90
    made = pd.DataFrame({"size": rng.normal(size=n), "color": rng.choice(["red", "blue"], n)})
    made["day"] = pd.date_range("2020-01-01", periods=n, freq="D")
    made["gap"] = np.where(np.arange(n) % 9 == 0, np.nan, rng.normal(size=n))
    return made, 2 * made["size"] + (made["color"] == "red") + 0.1 * rng.normal(size=n)


def test_data_frames_go_through_the_encoder(frame):
    X, y = frame
    fitted = exact(SCALE).set_params(missing="impute").fit(X, y)
    assert fitted.inputs_.names[:4] == ["size", "color=blue", "color=red", "color=other"]
    assert fitted.feature_names_in_.tolist() == list(X)
    assert len(fitted.feature_importances_) == 4
    assert fitted.feature_importances_.argmax() == 0
    assert any("date" in note for note in fitted.notes_)
    polars = exact(SCALE).set_params(missing="impute").fit(pl.from_pandas(X), y)
    np.testing.assert_allclose(polars.predict(pl.from_pandas(X)), fitted.predict(X))
    dropped = exact(SCALE).set_params(missing="drop").fit(X, y)
    assert dropped.posterior_.num_data == 80
    with pytest.raises(ValueError, match="feature names should match"):
        fitted.predict(X.rename(columns={"size": "length"}))
    with pytest.raises(ValueError, match="row 1; pass missing='impute'"):
        exact(SCALE).set_params(missing="refuse").fit(X, y)
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        assert (fitted.predict(X.to_numpy(dtype=object)) == fitted.predict(X)).all()


def test_arrays_with_missing_values(columns):
    X = columns.copy()
    X[::10, 0] = np.nan
    with pytest.raises(ValueError, match="contains NaN"):
        exact(SCALE).set_params(missing="refuse").fit(X, columns[:, 1])
    fitted = exact(SCALE).fit(X, columns[:, 1])
    assert fitted.inputs_.names == ["x0", "x0 missing", "x1"]
    assert np.isfinite(fitted.predict(X)).all()


def test_inside_pipelines_and_column_transformers(frame):
    X, y = frame
    columns = ColumnTransformer([("one-hot", OneHotEncoder(), ["color"]), ("as it is", "passthrough", ["size"])])
    pipe = make_pipeline(columns, exact(1.0))
    search = GridSearchCV(pipe, {"bayesregressor__prior__scale": [0.01, 1.0]}, scoring=log_score, cv=3)
    assert search.fit(X, y).best_params_ == {"bayesregressor__prior__scale": 1.0}
    inner = search.best_estimator_[-1]
    assert log_score(search.best_estimator_, X, y) == inner.log_score(search.best_estimator_[:-1].transform(X), y)
    assert log_score(inner, columns.fit_transform(X), y) == inner.log_score(columns.fit_transform(X), y)


def test_weights_are_routed_through_pipelines(columns):
    y, weight = columns[:, 0] + 0.1 * columns[:, 1], np.arange(80) % 3
    with config_context(enable_metadata_routing=True):
        routed = exact(1.0).set_params(method="map").set_fit_request(sample_weight=True).set_score_request(sample_weight=True)
        pipe = make_pipeline(StandardScaler().set_fit_request(sample_weight=False), routed)
        made = pipe.fit(columns, y, sample_weight=weight)
        scores = cross_validate(pipe, columns, y, params={"sample_weight": weight}, cv=2)["test_score"]
    z = StandardScaler().fit_transform(columns)
    assert (made[-1].coef_ == clone(routed).fit(z, y, sample_weight=weight).coef_).all()
    assert np.isfinite(scores).all()


def test_a_module_of_ones_own(columns):
    made = BayesRegressor(module=nn.Linear(2, 1), method="map", prior="Normal(0.5)").fit(columns, columns[:, 0])
    assert made.coef_ == pytest.approx([1, 0], abs=0.1)
    wide = exact(1.0).set_params(
        hidden=None, method="map", module=lambda d, k: nn.Sequential(nn.Linear(d, 2), nn.Tanh(), nn.Linear(2, k))
    )
    assert wide.fit(columns, columns[:, 0]).score(columns, columns[:, 0]) > 0.8
    with pytest.raises(AttributeError, match=r"pass hidden=\(\)"):
        _ = wide.coef_
    with pytest.raises(ValueError, match="once, but module and hidden"):
        wide.set_params(hidden=(3,)).fit(columns, columns[:, 0])


# parameters and refusals


def test_settings_go_down_to_numbers():
    made = BayesRegressor(prior={"*.weight": "Laplace(1.0)"}, likelihood="Gaussian(HalfNormal(1.0))", method="map")
    made.set_params(**{"prior__*.weight__scale": 0.2, "likelihood__noise_scale__scale": 3.0})
    assert repr(made.prior["*.weight"]) == "Laplace(scale=0.2)"
    assert repr(made.likelihood) == "Gaussian(noise_scale=HalfNormal(scale=3.0))"
    assert made.get_params()["likelihood__noise_scale__scale"] == 3.0
    laplace = BayesRegressor(method=br.inference.LaplaceApproximation()).set_params(method__tune="evidence")
    assert laplace.method.tune is not None
    with pytest.raises(ValueError, match="needs a prior to change, but prior=None came; pass prior='Normal"):
        BayesRegressor().set_params(prior__scale=1.0)
    with pytest.raises(ValueError, match="did you mean 'scale'"):
        BayesRegressor(prior="Normal(1.0)").set_params(prior__scal=1.0)
    with pytest.raises(ValueError, match="scale"):
        BayesRegressor(prior="Normal(1.0)").set_params(prior__scale=-1.0)


def test_what_does_not_fit_is_refused(columns):
    y = columns[:, 0]
    with pytest.raises(ValueError, match="BayesRegressor needs a likelihood for numbers; take BayesClassifier"):
        BayesRegressor(likelihood="Bernoulli()").fit(columns, y)
    with pytest.raises(ValueError, match="BayesCounts needs a likelihood for counts; take BayesRegressor"):
        BayesCounts(likelihood="Gaussian()").fit(columns, y)
    with pytest.raises(ValueError, match="whole numbers >= 0"):
        BayesCounts(hidden=(), method="map").fit(columns, y)
    with pytest.raises(ValueError, match="BayesClassifier needs a likelihood for 3 classes; leave it out"):
        BayesClassifier(likelihood="Bernoulli()").fit(columns, np.arange(80) % 3)
    with pytest.raises(ValueError, match=r"two classes or more, but 1 class came \('a'\)"):
        BayesClassifier().fit(columns, ["a"] * 80)
    fitted = BayesClassifier(hidden=(), method="map").fit(columns, np.where(y > 0, "a", "b"))
    with pytest.raises(ValueError, match=r"classes of the fit \('a', 'b'\), but 'c' came"):
        fitted.log_score(columns, ["c"] * 80)
    for wrong, said in [
        ({"hidden": 5}, r"hidden must be the widths .* hidden=\(20,\)"),
        ({"hidden": None, "module": "net"}, "module must be a torch.nn.Module"),
        ({"likelihood": 3}, r"likelihood must be a likelihood or its text, but 3 came; pass for example 'Gaussian"),
        ({"missing": "fill"}, "missing must be one of 'drop'"),
        ({"categorical": ["z"]}, "must name a column, but 'z' came"),
    ]:
        with pytest.raises(ValueError, match=said):
            exact(1.0).set_params(**wrong).fit(columns, y)
    with pytest.raises(ValueError, match="needs a target that varies, but all 80 values of a column are 3; check"):
        exact(1.0).fit(columns, np.full(80, 3.0))
    with pytest.raises(ValueError, match="needs a target of numbers, but 'a' came; take BayesClassifier"):
        exact(1.0).fit(columns, ["a"] * 80)
    with pytest.raises(ValueError, match="a class in each row, but missing ones came"):
        BayesClassifier().fit(columns, pd.Series(np.where(y > 0, "a", None)))
    with pytest.raises(ValueError, match="column names must differ"):
        exact(1.0).fit(pd.DataFrame(columns, columns=["a", "a"]), y)
    with pytest.raises(AttributeError, match="needs a fit"):
        _ = BayesRegressor().coef_
