"""Laplace where the curvature leaves a direction free: softmax's own coordinate is held, anything else is refused by name."""

import numpy as np
import pytest
import torch
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.inference import MAP, LaplaceApproximation, MeanField
from bayesreg.objective import LogJoint, gauss_newton, output_jacobian
from tests.conftest import network

LOGISTIC = {"weight": priors.Normal(1.0), "bias": priors.Flat()}


def three_classes(count=200, seed=0):
    """Overlapping classes in two dimensions."""
    generator = np.random.default_rng(seed)
    y = generator.integers(0, 3, count)
    return generator.standard_normal((count, 2)) + np.array([[0, 0], [1, 0.5], [-0.5, 1]])[y], y


def differences(post, x):
    """The covariance of each row's logits, less those of the last class, under a linearised Gaussian: (N, K−1, K−1)."""
    J, _ = output_jacobian(LogJoint(post.model), post.loc, torch.as_tensor(x))
    D = J[:, :-1] - J[:, -1:]
    return D @ post.covariance @ D.mT


def with_one_class_fixed(post, x, names):
    """The same with the last class's entries of these tensors fixed: the coding of a textbook."""
    model, layout = post.model, post.layout
    log_joint = LogJoint(model)
    held = torch.ones(layout.size, dtype=torch.bool)
    for name in names:
        segment = layout.segments[name]
        index = torch.arange(segment.start, segment.stop).reshape(segment.latent.shape)
        held[index[-1].reshape(-1)] = False
    matrix = gauss_newton(log_joint, post.loc, model.ingest(*post.rows)[1])[held][:, held]
    J, _ = output_jacobian(log_joint, post.loc, torch.as_tensor(x))
    D = (J[:, :-1] - J[:, -1:])[:, :, held]
    return D @ torch.linalg.inv(matrix) @ D.mT


@pytest.mark.parametrize("curvature", ["auto", "hessian", "ggn"])
@pytest.mark.parametrize(("rules", "names"), [(LOGISTIC, ["bias"]), (priors.Flat(), ["bias", "weight"])], ids=["bias", "all"])
def test_predictions_are_those_of_one_class_fixed(curvature, rules, names):
    X, y = three_classes()
    model = br.BayesianModel(nn.Linear(2, 3).double(), rules, likelihoods.Categorical())
    post = br.fit(model, X, y, method=LaplaceApproximation(curvature), progress=False)
    new = np.random.default_rng(1).standard_normal((20, 2)) * 3
    post.rows = (X, y)
    torch.testing.assert_close(differences(post, new), with_one_class_fixed(post, new, names), rtol=1e-8, atol=0)
    assert "No prediction and no prior depends on" in str(post.certificate)
    assert "bias[0], bias[1] and bias[2]" in str(post.certificate) or len(names) == 2
    assert post.certificate.converged
    assert float(post.mean["bias"].sum()) == pytest.approx(0, abs=1e-9)
    assert float(post.sample(5, seed=0)["bias"].sum(-1).abs().max()) < 1e-9


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_no_start_and_no_type_decides(dtype):
    """The mode's free coordinate is wherever the start put it; nothing of the answer is."""
    X, y = three_classes()
    found = []
    for seed in range(4):
        model = br.BayesianModel(nn.Linear(2, 3).to(dtype), LOGISTIC, likelihoods.Categorical())
        found.append(br.fit(model, X, y, method="laplace", seed=seed, progress=False))
    for post in found[1:]:
        torch.testing.assert_close(post.std["bias"], found[0].std["bias"], rtol=1e-3, atol=0)
        torch.testing.assert_close(post.mean["bias"], found[0].mean["bias"], rtol=0, atol=1e-3)


@pytest.mark.parametrize("curvature", ["auto", "ggn"])
def test_a_deep_network_with_a_flat_last_bias(curvature):
    X, y = three_classes(100)
    net = network(2, 4, 3, dtype=torch.float64)
    rules = {"*": priors.Normal(1.0), f"{len(net) - 1}.bias": priors.Flat()}
    post = br.fit(br.BayesianModel(net, rules, likelihoods.Categorical()), X, y, method=LaplaceApproximation(curvature))
    post.rows = (X, y)
    name = f"{len(net) - 1}.bias"
    assert f"{name}[0], {name}[1] and {name}[2]: it is held at zero" in str(post.certificate)
    assert 0.05 < float(post.std[name].min()) <= float(post.std[name].max()) < 5
    if curvature == "ggn":
        torch.testing.assert_close(differences(post, X), with_one_class_fixed(post, X, [name]), rtol=1e-7, atol=0)


def test_integer_inputs():
    generator = np.random.default_rng(0)
    codes, y = generator.integers(0, 4, (150, 1)), generator.integers(0, 3, 150)
    net = nn.Sequential(nn.Embedding(4, 3), nn.Flatten()).double()
    post = br.fit(br.BayesianModel(net, priors.Flat(), likelihoods.Categorical()), codes, y, method="laplace", progress=False)
    counts = np.array([[((codes[:, 0] == c) & (y == k)).sum() for k in range(3)] for c in range(4)])
    sd = np.sqrt(1 / counts[:, 0] + 1 / counts[:, 1])  # of a log-odds from a table of counts
    weight = post.sample(40_000, seed=0)["0.weight"]
    np.testing.assert_allclose((weight[..., 0] - weight[..., 1]).std(0), sd, rtol=0.02)


@pytest.mark.parametrize("tau", [1.0, *(pytest.param(tau, marks=pytest.mark.slow) for tau in (30.0, 1e3)), 1e5])
def test_what_equivalents_recommends_works(tau):
    """Flat intercepts under `LogisticRegression(C=τ²)`: its mode, and a posterior by each method."""
    from sklearn.linear_model import LogisticRegression

    X, y = three_classes()
    assert "Flat() on the intercept" in str(br.equivalents(priors.Normal(tau), num_data=len(X)))
    model = br.BayesianModel(
        nn.Linear(2, 3).double(), {"weight": priors.Normal(tau), "bias": priors.Flat()}, likelihoods.Categorical()
    )
    reference = LogisticRegression(C=tau**2, tol=1e-10, max_iter=10_000).fit(X, y)
    for method in (MAP(), LaplaceApproximation()):
        post = br.fit(model, X, y, method=method, progress=False)
        bias = post.mean["bias"] - post.mean["bias"].mean()
        np.testing.assert_allclose(bias, reference.intercept_ - reference.intercept_.mean(), atol=2e-4)
        np.testing.assert_allclose(post.mean["weight"] - post.mean["weight"].mean(0), reference.coef_, atol=2e-4)
        np.testing.assert_allclose(post.predict(X[:5], num_samples=10_000).mean.sum(-1), 1, rtol=1e-9)
        assert post.certificate.converged
    if tau > 1:
        return
    variational = br.fit(model, X, y, method=MeanField(num_steps=300), progress=False)
    laplace = br.fit(model, X, y, method="laplace", progress=False)
    at = X[:20]
    difference = variational.predict(at, num_samples=4000).mean - laplace.predict(at, num_samples=4000).mean
    assert float(difference.abs().max()) < 0.1


@pytest.mark.parametrize("kind", ["multiclass", "binary"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_inputs_that_repeat_each_other_are_no_coordinate(kind, dtype):
    X, y = three_classes()
    likelihood, width = (likelihoods.Categorical(), 3) if kind == "multiclass" else (likelihoods.Bernoulli(), 1)
    module = nn.Linear(3, width).to(dtype)
    model = br.BayesianModel(module, {"weight": priors.Flat(), "bias": priors.Normal(1.0)}, likelihood)
    with pytest.raises(ValueError, match=r"curvature at its mode is singular: the data do not determine weight\[\d, [02]\]"):
        br.fit(model, np.c_[X, X[:, 0]], np.minimum(y, 2 if width == 3 else 1), method="laplace", progress=False)


@pytest.mark.parametrize("dtype", [pytest.param(torch.float32, marks=pytest.mark.slow), torch.float64], ids=str)
@pytest.mark.parametrize("kind", ["multiclass", "binary"])
def test_separated_classes_under_flat_priors_are_refused(iris_classes, kind, dtype):
    X, y = iris_classes
    likelihood, width = (likelihoods.Categorical(), 3) if kind == "multiclass" else (likelihoods.Bernoulli(), 1)
    y = y if width == 3 else (y == 0) * 1.0
    model = br.BayesianModel(nn.Linear(4, width).to(dtype), priors.Flat(), likelihood)
    with pytest.raises(
        ValueError, match=r"tell a class from the others without error|every row is fitted with certainty, and the flat prior"
    ):
        br.fit(model, X, y, method="laplace", progress=False)


@pytest.fixture
def iris_classes():
    from sklearn.datasets import load_iris

    X, y = load_iris(return_X_y=True)
    return (X - X.mean(0)) / X.std(0), y


@pytest.mark.parametrize("tau", [1.0, pytest.param(30.0, marks=pytest.mark.slow), 1e3])
def test_separated_classes_under_a_proper_prior_are_not(iris_classes, tau):
    X, y = iris_classes
    rules = {"weight": priors.Normal(tau), "bias": priors.Flat()}
    post = br.fit(
        br.BayesianModel(nn.Linear(4, 3).double(), rules, likelihoods.Categorical()), X, y, method="laplace", progress=False
    )
    assert post.certificate.converged
    assert 0.1 * tau < float(post.std["bias"].max()) < 2 * tau


def test_rows_of_the_root_are_the_curvature():
    """SᵀS = diag(p) − p pᵀ, whatever p: near one too, where 1 − p is rounding."""
    import mpmath as mp

    logits = torch.tensor([[0.0, 1.0, 2.0], [40.0, 0.0, 1.0], [0.0, 80.0, 0.0]], dtype=torch.float64)
    likelihood, y = likelihoods.Categorical(), torch.zeros(3, dtype=torch.int64)
    root, curvature = likelihood.curvature_root(logits, y), likelihood.output_curvature(logits, y)
    torch.testing.assert_close(root.mT @ root, curvature, rtol=1e-12, atol=0)
    with mp.workdps(60):
        for row, found in zip(logits.tolist(), curvature, strict=True):
            e = [mp.exp(v) for v in row]
            p = [v / sum(e) for v in e]
            exact = [[float(p[i] * (i == j) - p[i] * p[j]) for j in range(3)] for i in range(3)]
            np.testing.assert_allclose(found, exact, rtol=1e-12)


def test_default_root_of_a_likelihood():
    likelihood = likelihoods.Bernoulli()
    f = torch.tensor([-3.0, 0.0, 30.0], dtype=torch.float64)
    root = likelihood.curvature_root(f, torch.zeros(3))
    torch.testing.assert_close(root.mT @ root, likelihood.output_curvature(f, torch.zeros(3)), rtol=1e-14, atol=0)
