"""A likelihood in a person's own file is whole: it fits, predicts, compares, reports, is saved and is found by its name.

The class is made inside of a fixture, so that it is in the class tree for these tests alone.
"""

import gc
import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import optimize, stats
from torch import nn
from typer.testing import CliRunner

import bayesreg as br
from bayesreg import likelihoods, metrics, priors, report
from bayesreg.cli import app
from bayesreg.likelihoods import AbstractLikelihood
from bayesreg.predictive import Predictive

N, D = 120, 3


@pytest.fixture(scope="module")
def poisson():
    class Clicks(AbstractLikelihood):
        """Counts, y ~ Poisson(eᶠ), of which only the distribution is written."""

        log_concave = True

        def distribution(self, output):
            return dist.Poisson(output.exp(), validate_args=False)

    yield Clicks
    del Clicks
    gc.collect()


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2 * N, D))
    y = rng.poisson(np.exp(0.8 + X @ [0.6, -0.4, 0.0])).astype(float)
    return X[:N], y[:N], X[N:], y[N:]


@pytest.fixture(scope="module")
def model(poisson):
    return br.BayesianModel(nn.Linear(D, 1).double(), priors.Normal(1.0), poisson())


@pytest.fixture(scope="module")
def posteriors(model, data):
    X, y, *_ = data
    slow = br.inference.MeanField(num_steps=600)
    how = {"map": "map", "laplace": "laplace", "mean-field": slow}
    return {name: br.fit(model, X, y, method=method, seed=0) for name, method in how.items()}


@pytest.fixture(scope="module")
def predictive(posteriors, data):
    return posteriors["laplace"].predict(data[2], num_samples=200, seed=0)


def mixture(predictive):
    """SciPy's components, (S, N)."""
    return stats.poisson(predictive.output.double().exp().numpy())


def test_what_is_left_out_is_read_off_the_distribution(poisson):
    made = poisson()
    assert (made.kind, made.discrete, made.location_scale, made.labels) == ("counts", True, False, None)
    assert (made.latents, made.fixed, made.squared_error_scale, made.num_outputs(None)) == ({}, {}, None, 1)
    assert made.suits(None)
    assert not made.suits(2)
    assert not made.is_default
    assert repr(likelihoods.parse("Clicks")) == repr(likelihoods.Clicks()) == "Clicks()"
    f, y = torch.linspace(-3, 4, 9).double(), torch.arange(9.0).double()
    torch.testing.assert_close(made.output_curvature(f, y)[:, 0, 0], f.exp(), rtol=1e-12, atol=0)
    torch.testing.assert_close(made.curvature_root(f, y)[:, 0, 0].square(), f.exp(), rtol=1e-12, atol=0)
    np.testing.assert_allclose(made.cdf(f, y), stats.poisson(f.exp()).cdf(y), rtol=1e-12)
    for q in (1e-6, 0.025, 0.5, 0.975, 1 - 1e-9):
        np.testing.assert_array_equal(made.quantile(f, q), stats.poisson(f.exp()).ppf(q))
    two = made.log_prob(f[:8].reshape(4, 2), y[:8].reshape(4, 2))
    np.testing.assert_allclose(two, stats.poisson(f[:8].exp()).logpmf(y[:8]).reshape(4, 2).sum(1), rtol=1e-12)


@pytest.mark.parametrize(("y", "came"), [([0.0, 1.5], "1 of 2"), ([-1, 3], "1 of 2")])
def test_targets_that_are_no_counts_are_refused(model, y, came):
    with pytest.raises(ValueError, match=f"Clicks needs targets that are whole numbers >= 0, but {came} are something else"):
        br.fit(model, np.zeros((2, D)), np.array(y), method="map", seed=0)


def test_a_sum_that_would_not_end_is_refused(poisson):
    with pytest.raises(ValueError, match=r"Clicks sums over whole numbers, at most 100,000 .* write Clicks.cdf"):
        poisson().cdf(torch.zeros(1), torch.tensor([1e6]))


def test_the_mode_of_an_intercept_is_the_root(poisson, data):
    y, scale = data[1], 0.7
    net = nn.Linear(1, 1).double()
    rules = {"weight": priors.Fixed(0.0), "bias": priors.Normal(scale)}
    mode = br.fit(br.BayesianModel(net, rules, poisson(), standardize=False), np.zeros((N, 1)), y, method="map", seed=0)
    root = optimize.brentq(lambda b: y.sum() - N * math.exp(b) - b / scale**2, -5, 5, xtol=1e-13)
    assert mode.certificate.converged
    assert float(mode.mean["bias"]) == pytest.approx(root, abs=1e-7)
    laplace = br.fit(br.BayesianModel(net, rules, poisson(), standardize=False), np.zeros((N, 1)), y, method="laplace", seed=0)
    assert float(laplace.std["bias"]) == pytest.approx((N * math.exp(root) + 1 / scale**2) ** -0.5, rel=1e-6)


def test_every_fit_converges_and_agrees(posteriors):
    weights = {name: p.mean["weight"].double() for name, p in posteriors.items()}
    for name, p in posteriors.items():
        assert p.certificate.converged, (name, p.certificate.sentence)
        assert p.model.standardization is None or not p.model.likelihood.location_scale
        torch.testing.assert_close(weights[name], weights["map"], rtol=0, atol=0.1)


def test_prediction_is_the_mixture(predictive, data):
    y, truth = data[3], mixture(predictive)
    density = np.log(np.exp(truth.logpmf(y)).mean(0))
    np.testing.assert_allclose(predictive.log_prob(y), density, rtol=1e-9)
    np.testing.assert_allclose(predictive.cdf(y), truth.cdf(y).mean(0), rtol=1e-9)
    np.testing.assert_allclose(predictive.mean, truth.mean().mean(0), rtol=1e-9)
    np.testing.assert_allclose(predictive.aleatoric_variance, truth.var().mean(0), rtol=1e-9)
    np.testing.assert_allclose(predictive.epistemic_variance, truth.mean().var(0), rtol=1e-9)
    draws = predictive.sample(40_000, seed=1)
    torch.testing.assert_close(draws.var(0), predictive.variance, rtol=0.06, atol=0.02)
    for q in (0.025, 0.5, 0.975):
        found = predictive.quantile(q)
        assert (truth.cdf(found).mean(0) >= q - 1e-12).all()
        assert (truth.cdf(found - 1).mean(0) < q).all()
    lower, upper = predictive.interval(0.9)
    assert bool((lower <= predictive.mean).all() & (predictive.mean <= upper).all())
    assert repr(predictive) == f"Predictive(counts, S=200, N={N})"


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_pit_is_uniform_where_the_model_is_right(poisson, seed):
    rng = np.random.default_rng(seed)
    output = torch.tensor(rng.normal(0.5, 1, size=(2, 1500)))
    component = rng.integers(0, 2, 1500)
    y = rng.poisson(np.exp(output.numpy())[component, np.arange(1500)])
    found = Predictive(poisson(), output)
    u = found.pit(y, seed=seed)
    assert stats.kstest(u.numpy(), "uniform").pvalue > 0.01
    assert torch.equal(u, found.pit(y, seed=seed))
    assert bool((found.cdf(y) >= u).all())
    assert metrics.coverage(found, y, 0.8).consistent
    assert metrics.calibration_error(found, y) < 0.03


def test_scores_are_those_of_numbers(predictive, data):
    y, truth = data[3], mixture(predictive)
    scores = metrics.evaluate(predictive, y)
    assert (scores.kind, list(scores)[:5]) == ("counts", ["mlpd", "rmse", "r2", "mae", "crps"])
    assert all(math.isfinite(value) for value in (*scores.values(), *scores.errors.values()))
    k = np.arange(80)
    below = np.stack([truth.cdf(value).mean(0) for value in k])
    crps = ((below - (y <= k[:, None])) ** 2).sum(0).mean()
    assert scores["crps"] == pytest.approx(crps, rel=0.02)
    with pytest.raises(ValueError, match="accuracy must be asked of another kind of predictive, but one of kind 'counts' came"):
        metrics.accuracy(predictive, y)


def test_counts_and_densities_are_not_compared(posteriors, data):
    X, y, *_ = data
    other = br.fit(br.BayesianModel(nn.Linear(D, 1).double(), priors.Normal(1.0)), X, y, method="laplace", seed=0)
    with pytest.raises(ValueError, match="one likelihood kind, but 'a' is counts, 'b' is regression"):
        br.compare({"a": posteriors["map"], "b": other}, *data[2:])


@pytest.mark.usefixtures("unrendered")
def test_the_report_speaks_of_counts(posteriors, data, tmp_path):
    made = report(posteriors, *data[2:], num_samples=200, target_name="bikes")
    page, facts = made.save(tmp_path / "counts.html")
    assert page.stat().st_size > 10_000
    assert facts.stat().st_size > 1_000
    assert (made.data["data"]["kind"], made.data["data"]["classes"]) == ("counts", None)
    assert {fact["likelihood"] for fact in made.data["models"]} == {"Clicks()"}
    assert "bikes, counts" in made.html
    said = made.html.lower()
    for nonsense in ("classes", "accuracy", "noise scale", "noise_scale", "p(y = 1)", "class indicator"):
        assert nonsense not in said.partition("<svg")[0], nonsense
    assert "noise_scale" not in said
    assert [card["topic"] for card in made.data["verdict"]].count("Noise") == 0
    assert made.data["calibration"]["laplace"]["pit_counts"]


@pytest.mark.usefixtures("unrendered")
def test_a_good_fit_is_called_calibrated(posteriors, data):
    found = report({"laplace": posteriors["laplace"]}, *data[2:], num_samples=200).data
    calibration = next(card for card in found["verdict"] if card["topic"] == "Calibration")
    assert calibration["state"] != "bad", calibration


def test_it_is_saved_and_read_back(posteriors, data, tmp_path):
    kept = posteriors["laplace"]
    br.save(kept, tmp_path / "counts.pt")
    again = br.load(tmp_path / "counts.pt", nn.Linear(D, 1).double())
    assert repr(again.model.likelihood) == "Clicks()"
    one, other = (p.predict(data[2], num_samples=20, seed=3).mean for p in (kept, again))
    torch.testing.assert_close(one, other)


@pytest.mark.usefixtures("unrendered")
def test_the_command_line_finds_it(poisson, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = np.column_stack([data[0], data[1]])
    np.savetxt("bikes.csv", rows, delimiter=",", header="a,b,c,bikes", comments="", fmt=["%.4f"] * 3 + ["%d"])
    words = [
        "report",
        "bikes.csv",
        "--target",
        "bikes",
        "--likelihood",
        "Clicks",
        "--hidden",
        "0",
        "--num-samples",
        "50",
        "--no-baselines",
    ]
    done = CliRunner().invoke(app, [*words, "--method", "map", "--method", "laplace"])
    assert done.exit_code == 0, done.output
    assert "noise_scale" not in done.output
    assert (tmp_path / "report.html").is_file()
    shown = CliRunner().invoke(app, ["priors", "bikes.csv", "--target", "bikes", "--likelihood", "Clicks()"])
    assert shown.exit_code == 0, shown.output
    refused = CliRunner().invoke(app, ["priors", "bikes.csv", "--target", "bikes", "--likelihood", "Clics"])
    assert "did you mean 'Clicks'" in refused.output
