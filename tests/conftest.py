"""Data and fits that many tests read, made once."""

import itertools
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy loads: its BLAS's threads would spin beside each other's tests

import numpy as np
import pytest
import torch
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors

torch.set_num_threads(1)  # the tests' problems are small: a second thread costs more than it brings


@pytest.hookimpl(tryfirst=True)  # before `-m` chooses among them
def pytest_collection_modifyitems(items):
    """Of a test's several seeds the first is in the quick suite, the others are in the slow one."""
    for item in items:
        if isinstance(item, pytest.Function) and "callspec" in vars(item) and item.callspec.indices.get("seed", 0) > 0:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _seeded():
    """Modules that a test makes have the same first weights at each run; the global random state is kept."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # torch.manual_seed notes its stack for each device that is not there
        yield


@pytest.fixture
def unrendered(monkeypatch):
    """A report's figures are made, but not written as SVG: most of a report's time, which words and numbers do not need."""

    def inline(figure, prefix, label):
        return f'<svg role="img" aria-labelledby="{label}"></svg>'

    monkeypatch.setattr("bayesreg.reports.base.inline", inline)


@pytest.fixture(scope="session")
def diabetes():
    """scikit-learn's diabetes in its own units: X (442, 10), y (442,)."""
    from sklearn.datasets import load_diabetes

    return load_diabetes(return_X_y=True, scaled=False)


@pytest.fixture(scope="session")
def standard_diabetes(diabetes):
    X, y = diabetes
    return (X - X.mean(0)) / X.std(0), (y - y.mean()) / y.std()


@pytest.fixture(scope="session")
def breast_cancer():
    """Standardised X (569, 30), y in {0, 1}."""
    from sklearn.datasets import load_breast_cancer

    X, y = load_breast_cancer(return_X_y=True)
    return (X - X.mean(0)) / X.std(0), y


def linear_model(inputs=10, *, scale=0.3, noise=0.7, standardize=True, dtype=torch.float64):
    """A linear-Gaussian model: every posterior method has a closed form to meet."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        linear = nn.Linear(inputs, 1).to(dtype)
    return br.BayesianModel(linear, {"weight": priors.Normal(scale)}, likelihoods.Gaussian(noise), standardize)


def network(*widths, seed=0, dtype=torch.float32, activation=nn.Tanh):
    """A multilayer perceptron with seeded weights; the global random state is kept."""
    layers = []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for inputs, outputs in itertools.pairwise(widths):
            layers += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*layers[:-1]).to(dtype)


def textbook(X, y, *, scale, noise, bias_scale=1.0):
    """Posterior mean and covariance over (weight, bias), and log evidence, by the N × N Gaussian marginal."""
    design = np.column_stack([X, np.ones(len(X))])
    prior = np.diag(np.r_[np.full(X.shape[1], scale**2), bias_scale**2])
    marginal = design @ prior @ design.T + noise**2 * np.eye(len(X))
    gain = prior @ design.T @ np.linalg.inv(marginal)
    _sign, log_det = np.linalg.slogdet(marginal)
    evidence = -0.5 * (len(y) * np.log(2 * np.pi) + log_det + y @ np.linalg.solve(marginal, y))
    return gain @ y, prior - gain @ design @ prior, evidence


@pytest.fixture(scope="session")
def exact(diabetes):
    return br.fit(linear_model(), *diabetes, method="exact")


@pytest.fixture(scope="session")
def posteriors(diabetes):
    """A small network on diabetes under three methods, fitted on 354 rows; the other 88 are for testing."""
    X, y = diabetes
    order = np.random.default_rng(0).permutation(len(X))
    train, test = order[:354], order[354:]
    model = br.BayesianModel(network(10, 8, 1), standardize=True)
    methods = {"MAP": "map", "Laplace": "laplace", "mean-field": br.inference.MeanField(num_steps=800)}
    fits = {name: br.fit(model, X[train], y[train], method=method) for name, method in methods.items()}
    return fits, X[test], y[test]
