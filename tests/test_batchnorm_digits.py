"""Batch normalisation beside dropout in a convolutional network on scikit-learn's digits: every method in one comparison."""

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.inference import MAP, LaplaceApproximation, MCBatchNorm, MCDropout, MeanField

pytestmark = [
    pytest.mark.slow,
    # in mini-batches no mode is certified, and a thousand steps are few for an ELBO
    pytest.mark.filterwarnings("ignore::bayesreg.ConvergenceWarning"),
]
SEARCH = MAP(batch_size=64, num_steps=1000)
METHODS = {
    "MAP": SEARCH,
    "mean-field": MeanField(batch_size=64, num_steps=2000),
    "Laplace": LaplaceApproximation("ggn", mode=SEARCH),
    "MC dropout": MCDropout(batch_size=64, num_steps=1000),
    "MC BatchNorm": MCBatchNorm(mode=SEARCH, num_draws=200),
}


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    X = (X / 16).reshape(-1, 1, 8, 8).astype("float32")
    return train_test_split(X, y, test_size=0.25, random_state=0, stratify=y)


def model(seed):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(
            *[nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)],
            *[nn.Conv2d(8, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2)],
            *[nn.Flatten(), nn.Dropout(0.1), nn.Linear(48, 10)],
        )
    return br.BayesianModel(net, {"@norm": priors.Normal(1.0)}, likelihoods.Categorical())


def buffers(fits):
    return {(name, key): value.clone() for name, fit in fits.items() for key, value in fit.model.module.named_buffers()}


def test_all_methods_in_one_comparison_and_report(digits):
    X, X_test, y, y_test = digits
    fits = {name: br.fit(model(0), X, y, method=method) for name, method in METHODS.items()}
    fits["mean-field, refreshed"] = br.refresh_batchnorm(fits["mean-field"], X, num_draws=100)
    before = buffers(fits)
    table = br.compare(fits, X_test, y_test, num_samples=100)
    report = br.report(fits, X_test, y_test, num_samples=100)
    after = buffers(fits)
    assert all(after[key].equal(value) for key, value in before.items())
    accuracy = {name: scores["accuracy"] for name, scores in table.scores.items()}
    assert accuracy["MAP"] >= 0.975
    assert min(accuracy.values()) > 0.95
    assert set(report.data["batchnorm"]) == set(fits)
    assert table.predictives["MC BatchNorm"].epistemic_variance.mean() > 0
    assert table.predictives["MAP"].num_samples == 1


@pytest.mark.parametrize("seed", [1, 2])
def test_the_mode_is_as_good_from_other_starts(digits, seed):
    X, X_test, y, y_test = digits
    mode = br.fit(model(seed), X, y, method=SEARCH, seed=seed)
    assert float((mode.predict(X_test).mean.argmax(1).numpy() == y_test).mean()) >= 0.975
