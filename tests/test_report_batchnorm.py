"""A report says by which statistics batch normalisation predicted, and what random batches alone make of a prediction."""

import re

import numpy as np
import pytest
import torch
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.inference import MAP, MCBatchNorm, MeanField

pytestmark = pytest.mark.filterwarnings("ignore::bayesreg.ConvergenceWarning")


@pytest.fixture(scope="module")
def fits():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 2))
    y = X[:, 0] + 0.3 * rng.normal(size=60)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1))
    model = br.BayesianModel(net, {"@norm": priors.Normal(1.0)}, likelihoods.Gaussian(0.3))
    search = MAP(num_steps=100)
    found = {
        "MAP": br.fit(model, X, y, method=search),
        "mean-field": br.fit(model, X, y, method=MeanField(num_steps=100)),
        "batches": br.fit(model, X, y, method=MCBatchNorm(10, search, num_draws=50)),
        "plain": br.fit(br.BayesianModel(nn.Linear(2, 1)), X, y, method="map"),
    }
    found["refreshed"] = br.refresh_batchnorm(found["mean-field"], X, num_draws=50)
    return found, X, y


@pytest.fixture(scope="module")
def made(fits):
    posteriors, X, y = fits
    return br.report(posteriors, X, y, num_samples=50)


def test_says_which_statistics_each_prediction_took(made):
    facts = made.data["batchnorm"]
    assert {name: part["finding"] for name, part in facts.items()} == {
        "MAP": "predicts by running averages of training.",
        "mean-field": "predicts by running averages of training, one set for all draws; "
        "bayesreg.refresh_batchnorm gives each draw its own.",
        "batches": "predicts by the statistics of one random batch of 10 out of 60 rows, for each draw.",
        "refreshed": "predicts by each draw's own statistics, over 60 rows.",
    }
    assert all(part["layers"] == ["1"] for part in facts.values())
    for part in facts.values():
        assert part["finding"].replace("'", "&#39;") in made.html.replace("\u00a0", " ")


def test_sets_no_point_against_a_point(made):
    """In Monte Carlo batch normalisation the weights are those of the mode: nothing is to be compared one by one."""
    assert {pair["posterior"] for pair in made.data["pairs"]} == {"mean-field", "refreshed"}


def test_says_what_the_batches_alone_make(fits, made):
    posteriors, X, _ = fits
    said = made.data["batchnorm"]["batches"]["noise"]
    predictive = posteriors["batches"].predict(X, num_samples=50)
    share = float(predictive.epistemic_variance.mean() / predictive.variance.mean())
    found = re.search(r"an epistemic sd of ([\d.]+) of ([\d.]+) in all \((\d+) % of the variance\)", said)
    assert float(found[1]) == pytest.approx(float(predictive.epistemic_variance.mean().sqrt()), rel=0.06)
    assert float(found[3]) == pytest.approx(100 * share, abs=1.0)
    assert "set by hand, and this number with it" in said
    assert not any(part["noise"] for name, part in made.data["batchnorm"].items() if name != "batches")
    (card,) = [card for card in made.data["verdict"] if any("random batch" in line["text"] for line in card["lines"])]
    assert any(line["text"].startswith("batches: A draw takes the statistics of one") for line in card["lines"])
