"""The λ dictionary, proved by fitting: each tool with its own number, and our mode under the prior it is said to be."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.sparse.linalg import lsqr
from sklearn import linear_model
from torch import nn
from torch.nn import functional as F

import bayesreg as br
from bayesreg import likelihoods
from bayesreg.priors import ElasticNet, Flat, Laplace, Normal

N, D, K, SIGMA = 80, 4, 3, 0.7


def rows(seed=0):
    """X (N, D) of correlated columns, Y (N, K), labels in {0, 1} (N, K) and classes (N,), all float64 but the last."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(N, D)) @ (np.eye(D) + 0.1)
    Y = X @ rng.normal(size=(D, K)) + 0.5 + SIGMA * rng.normal(size=(N, K))
    return X, Y, (rng.normal(size=(N, K)) < Y).astype(float), (Y + rng.gumbel(size=(N, K))).argmax(1)


FLAT = Flat()


def mode(prior, likelihood, X, y, *, bias=FLAT, outputs=1):
    """The MAP weights (outputs, D), and the biases (outputs,) where there are some; `bias` is their prior."""
    net = nn.Linear(X.shape[1], outputs, bias=bias is not None).double()
    rules = {"weight": prior} if bias is None else {"weight": prior, "bias": bias}
    steps = None if prior.smooth else 300  # at a kink Adam's search is only the way to the proximal steps that end it
    fit = br.fit(br.BayesianModel(net, rules, likelihood), X, y, method=br.inference.MAP(num_steps=steps))
    assert fit.certificate.converged
    return (fit.mean["weight"].numpy(), *([] if bias is None else [fit.mean["bias"].numpy()]))


def agree(ours, *theirs, tolerance=1e-6):
    """Weights and biases within 1e-6 of the other's, relative to the largest of them."""
    assert deviation(ours, theirs) <= tolerance


def deviation(ours, theirs):
    theirs = [np.asarray(other).reshape(one.shape) for one, other in zip(ours, theirs, strict=True)]
    return max(np.abs(one - other).max() for one, other in zip(ours, theirs, strict=True)) / np.abs(theirs[0]).max()


def numbers(prior, tool, **known):
    """What the table says is to be written in a tool."""
    (row,) = (row for row in br.equivalents(prior, **known).rows if row.tool == tool)
    return dict(row.numbers)


# ---- scikit-learn and SciPy


@pytest.mark.parametrize("alpha", [0.1, 30.0])
@pytest.mark.parametrize("sigma", [0.7, 54.0])
def test_ridge(standard_diabetes, alpha, sigma):
    X, y = standard_diabetes
    prior = Normal.from_ridge(alpha, sigma)
    theirs = linear_model.Ridge(alpha=alpha, solver="svd").fit(X, 10 + y)
    agree(mode(prior, likelihoods.Gaussian(sigma), X, 10 + y), theirs.coef_, theirs.intercept_)
    assert numbers(prior, "Ridge", noise_scale=sigma) == {"alpha": pytest.approx(alpha, rel=1e-12)}


def test_ridge_with_several_outputs_has_one_alpha():
    X, Y, _, _ = rows()
    theirs = linear_model.Ridge(alpha=5.0, solver="svd").fit(X, Y)
    agree(mode(Normal.from_ridge(5.0, SIGMA), likelihoods.Gaussian(SIGMA), X, Y, outputs=K), theirs.coef_, theirs.intercept_)


def test_a_scale_relative_to_the_noise_is_a_ridge_without_sigma():
    X, Y, _, _ = rows()
    prior = Normal(0.5, relative_to_noise=True)
    theirs = linear_model.Ridge(alpha=4.0, solver="svd").fit(X, Y[:, 0])
    agree(mode(prior, likelihoods.Gaussian(SIGMA), X, Y[:, 0]), theirs.coef_, theirs.intercept_)
    assert numbers(prior, "Ridge", noise_scale=SIGMA) == {"alpha": pytest.approx(4.0, rel=1e-12)}


def test_bayesian_ridge(diabetes):
    X, y = diabetes
    X = (X - X.mean(0)) / X.std(0)
    theirs = linear_model.BayesianRidge(tol=1e-10, max_iter=10_000).fit(X, y)
    prior, sigma = Normal(theirs.lambda_**-0.5), theirs.alpha_**-0.5
    agree(mode(prior, likelihoods.Gaussian(sigma), X, y), theirs.coef_, theirs.intercept_)
    assert numbers(prior, "BayesianRidge", noise_scale=sigma) == pytest.approx(
        {"lambda_": theirs.lambda_, "alpha_": theirs.alpha_}, rel=1e-12
    )
    (alpha,) = numbers(prior, "Ridge", noise_scale=sigma).values()
    assert alpha == pytest.approx(theirs.lambda_ / theirs.alpha_, rel=1e-12)


@pytest.mark.parametrize("damp", [0.3, 9.0])
def test_lsqr(damp):
    X, Y, _, _ = rows()
    prior = Normal.from_damp(damp, SIGMA)
    theirs = lsqr(X, Y[:, 0], damp=damp, atol=0, btol=0, conlim=0, iter_lim=1000)[0]
    agree(mode(prior, likelihoods.Gaussian(SIGMA), X, Y[:, 0], bias=None), theirs)
    assert numbers(prior, "lsqr, lsmr", noise_scale=SIGMA) == {"damp": pytest.approx(damp, rel=1e-12)}


@pytest.mark.parametrize("alpha", [0.02, 0.2])
def test_lasso(standard_diabetes, alpha):
    X, y = standard_diabetes
    prior = Laplace.from_lasso(alpha, len(y), SIGMA)
    theirs = linear_model.Lasso(alpha=alpha, tol=1e-14, max_iter=100_000).fit(X, 1 + y)
    ours = mode(prior, likelihoods.Gaussian(SIGMA), X, 1 + y)
    agree(ours, theirs.coef_, theirs.intercept_)
    assert ((ours[0] == 0) == (theirs.coef_ == 0)).all()
    assert 0 < (theirs.coef_ == 0).sum() < 10
    assert numbers(prior, "Lasso", noise_scale=SIGMA, num_data=len(y)) == {"alpha": pytest.approx(alpha, rel=1e-12)}


@pytest.mark.parametrize(("alpha", "l1_ratio"), [(0.1, 0.5), (0.3, 0.1), (0.03, 0.9)])
def test_elastic_net(standard_diabetes, alpha, l1_ratio):
    X, y = standard_diabetes
    prior = ElasticNet.from_sklearn(alpha, l1_ratio, len(y), SIGMA)
    theirs = linear_model.ElasticNet(alpha=alpha, l1_ratio=l1_ratio, tol=1e-14, max_iter=100_000).fit(X, 1 + y)
    agree(mode(prior, likelihoods.Gaussian(SIGMA), X, 1 + y), theirs.coef_, theirs.intercept_)
    found = numbers(prior, "ElasticNet", noise_scale=SIGMA, num_data=len(y))
    assert found == pytest.approx({"alpha": alpha, "l1_ratio": l1_ratio}, rel=1e-12)


@pytest.mark.parametrize("C", [0.01, 1.0])
def test_logistic_regression_l2(breast_cancer, C):
    X, y = breast_cancer
    prior = Normal.from_logistic(C)
    theirs = linear_model.LogisticRegression(C=C, solver="newton-cholesky", tol=1e-14, max_iter=1000).fit(X, y)
    agree(mode(prior, likelihoods.Bernoulli(), X, y), theirs.coef_, theirs.intercept_)
    assert numbers(prior, "LogisticRegression") == {"C": pytest.approx(C, rel=1e-12)}


def test_logistic_regression_with_three_classes():
    X, _, _, classes = rows()
    theirs = linear_model.LogisticRegression(C=0.3, solver="newton-cholesky", tol=1e-14, max_iter=1000, fit_intercept=False)
    ours = mode(Normal.from_logistic(0.3), likelihoods.Categorical(), X, classes, bias=None, outputs=K)
    agree(ours, theirs.fit(X, classes).coef_)


def logistic(C, l1_ratio, solver, **more):
    """LogisticRegression by penalty: as a word before scikit-learn 1.8, as l1_ratio alone since."""
    since = linear_model.LogisticRegression().penalty == "deprecated"
    words = {} if since else {"penalty": "elasticnet" if l1_ratio < 1 else "l1"}
    return linear_model.LogisticRegression(C=C, l1_ratio=l1_ratio, solver=solver, tol=1e-14, random_state=0, **words, **more)


@pytest.mark.parametrize("C", [0.2, 0.5])
def test_logistic_regression_l1(C):
    X, _, labels, _ = rows()
    prior = Laplace.from_logistic(C)
    theirs = logistic(C, 1.0, "liblinear", fit_intercept=False, max_iter=100_000).fit(X, labels[:, 0])
    ours = mode(prior, likelihoods.Bernoulli(), X, labels[:, 0], bias=None)
    agree(ours, theirs.coef_)
    assert ((ours[0] == 0) == (theirs.coef_ == 0)).all()
    assert numbers(prior, "LogisticRegression") == {"C": pytest.approx(C, rel=1e-12)}


@pytest.mark.parametrize(("C", "l1_ratio"), [(0.1, 0.5), (1.0, 0.9)])
def test_logistic_regression_elastic_net(C, l1_ratio):
    X, _, labels, _ = rows()
    prior = ElasticNet.from_logistic(C, l1_ratio)
    theirs = logistic(C, l1_ratio, "saga", max_iter=100_000).fit(X, labels[:, 0])
    agree(mode(prior, likelihoods.Bernoulli(), X, labels[:, 0]), theirs.coef_, theirs.intercept_)
    assert numbers(prior, "LogisticRegression") == pytest.approx({"C": C, "l1_ratio": l1_ratio}, rel=1e-12)


# ---- torch


OPTIMIZERS = {
    "sgd": lambda parameters, decay: torch.optim.SGD(parameters, lr=0.3, momentum=0.9, weight_decay=decay),
    "adam": lambda parameters, decay: torch.optim.Adam(parameters, lr=0.05, weight_decay=decay),
}


def trained(optimizer, loss, X, Y, decay, *, outputs, steps=800):
    """Weights and biases after full-batch steps."""
    net = nn.Linear(X.shape[1], outputs).double()
    X, Y = torch.as_tensor(X), torch.as_tensor(Y)
    running = OPTIMIZERS[optimizer](net.parameters(), decay)
    for _ in range(steps):
        running.zero_grad()
        loss(net(X), Y).backward()
        running.step()
    return net.weight.detach().numpy(), net.bias.detach().numpy()


def gaussian_nll(f, y):
    return nn.GaussianNLLLoss(full=True)(f, y, torch.full_like(y, SIGMA**2))


def our_mode(kind, prior, bias):
    """The mode for K targets; three binary labels are three models, since nothing ties their weights."""
    X, Y, labels, classes = rows()
    if kind == "labels":
        parts = [mode(prior, likelihoods.Bernoulli(), X, column, bias=bias) for column in labels.T]
        return [np.concatenate(part) for part in zip(*parts, strict=True)]
    likelihood, y = (likelihoods.Categorical(), classes) if kind == "classes" else (likelihoods.Gaussian(SIGMA), Y)
    return mode(prior, likelihood, X, y, bias=bias, outputs=K)


TARGETS = dict(zip(("values", "labels", "classes"), rows()[1:], strict=True))
LOG_LOSSES = {"values": (gaussian_nll, K), "labels": (nn.BCEWithLogitsLoss(), K), "classes": (nn.CrossEntropyLoss(), 1)}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("kind", LOG_LOSSES)
def test_weight_decay_with_a_mean_log_loss(optimizer, kind):
    loss, outputs = LOG_LOSSES[kind]
    prior = Normal.from_weight_decay(0.05, N, num_outputs=outputs, optimizer=optimizer)
    theirs = trained(optimizer, loss, rows()[0], TARGETS[kind], 0.05, outputs=K)
    agree(our_mode(kind, prior, prior), *theirs)  # the biases decay too
    found = numbers(prior, "torch SGD, Adam, mean log loss", num_data=N, num_outputs=outputs)
    assert found == {"weight_decay": pytest.approx(0.05, rel=1e-12)}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("outputs", [1, K])
def test_weight_decay_with_a_mean_squared_error(optimizer, outputs):
    X, Y, _, _ = rows()
    Y = Y[:, :outputs]
    prior = Normal.from_weight_decay(0.2, N, loss="mse", noise_scale=SIGMA, num_outputs=outputs)
    theirs = trained(optimizer, nn.MSELoss(), X, Y, 0.2, outputs=outputs)
    agree(mode(prior, likelihoods.Gaussian(SIGMA), X, Y, bias=prior, outputs=outputs), *theirs)
    found = numbers(prior, "torch SGD, Adam, MSELoss", num_data=N, noise_scale=SIGMA, num_outputs=outputs)
    assert found == {"weight_decay": pytest.approx(0.2, rel=1e-12)}


@pytest.mark.slow  # quickly: test_search, where AdamW is refused with this reason
def test_adamw_ends_at_the_fit_without_a_penalty():
    X, Y, _, _ = rows()
    X = X - X.mean(0)
    prior = Normal.from_weight_decay(0.2, N, num_outputs=K)
    ours, _ = mode(prior, likelihoods.Gaussian(SIGMA), X, Y, outputs=K, bias=prior)
    least_squares = np.linalg.lstsq(X, Y - Y.mean(0), rcond=None)[0].T
    net, steps = nn.Linear(D, K).double(), 3000
    running = torch.optim.AdamW(net.parameters(), lr=0.02, weight_decay=0.2, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.ExponentialLR(running, 1e-4 ** (1 / steps))
    for _ in range(steps):
        running.zero_grad()
        gaussian_nll(net(torch.as_tensor(X)), torch.as_tensor(Y)).backward()
        running.step()
        schedule.step()
    theirs = net.weight.detach().numpy()
    assert np.abs(theirs - least_squares).max() < 1e-5
    assert np.abs(ours - least_squares).max() > 0.05


# ---- tools that are not installed here: their documented objectives, minimised


def minimum(loss, shape, l1=0.0, l2=0.0, biases=0):
    """argmin loss(W, b) + l1 Σ |W| + l2 Σ W², with W = P − Q split into two non-negative parts."""
    size = math.prod(shape)

    def objective(u):
        u = torch.tensor(u, requires_grad=True)
        p, q, b = u[:size].reshape(shape), u[size : 2 * size].reshape(shape), u[2 * size :]
        value = loss(p - q, b) + l1 * (p + q).sum() + l2 * (p - q).square().sum()
        return value.item(), torch.autograd.grad(value, u)[0].numpy()

    bounds = [(0, None)] * (2 * size) + [(None, None)] * biases
    options = {"ftol": 0, "gtol": 1e-13, "maxiter": 20_000, "maxfun": 20_000, "maxcor": 50}
    u = minimize(objective, np.full(2 * size + biases, 0.1), jac=True, method="L-BFGS-B", bounds=bounds, options=options).x
    return (u[:size] - u[size : 2 * size]).reshape(shape), u[2 * size :]


def keras_loss(name):
    """Keras' losses as their pages define them: the mean over the last axis, then over the rows."""
    X, Y, labels, _ = (torch.as_tensor(part) for part in rows())

    def mse(W, b):
        return (Y - X @ W.T - b).square().mean(-1).mean()

    def binary_crossentropy(W, b):
        return F.binary_cross_entropy_with_logits(X @ W.T + b, labels, reduction="none").mean(-1).mean()

    def categorical_crossentropy(W, b):
        return -(X @ W.T + b).log_softmax(-1)[torch.arange(N), TARGETS["classes"]].mean()

    return {"values": mse, "labels": binary_crossentropy, "classes": categorical_crossentropy}[name]


KERAS = {
    "Normal": (lambda **known: Normal.from_keras(0.02, N, **known), {"l2": 0.02}),
    "Laplace": (lambda **known: Laplace.from_keras(0.03, N, **known), {"l1": 0.03}),
    "ElasticNet": (lambda **known: ElasticNet.from_keras(0.03, 0.02, N, **known), {"l1": 0.03, "l2": 0.02}),
}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(name, kind, marks=[] if i == k else pytest.mark.slow)
        for i, name in enumerate(KERAS)
        for k, kind in enumerate(("values", "labels", "classes"))
    ],
)
def test_keras(name, kind):
    make, factors = KERAS[name]
    known = {"num_outputs": 1 if kind == "classes" else K} | ({"noise_scale": SIGMA} if kind == "values" else {})
    prior = make(loss="mse" if kind == "values" else "crossentropy", **known)
    bias = Normal(0.3)  # the same on both sides, since a softmax does not know its biases without a prior
    nats = N * known["num_outputs"] / (2 * SIGMA**2 if kind == "values" else 1)
    loss = keras_loss(kind)
    theirs = minimum(lambda W, b: loss(W, b) + b.square().sum() / (2 * 0.3**2 * nats), (K, D), biases=K, **factors)
    agree(our_mode(kind, prior, bias), *theirs)
    tool = "Keras, mse" if kind == "values" else "Keras, crossentropy"
    assert numbers(prior, tool, num_data=N, **known) == pytest.approx(factors, rel=1e-12)


def glmnet(X, y, lambda_, alpha):
    """glmnet's Gaussian family as its manual has it: x and y standardised within, λ divided by y's sd, weights scaled back."""
    x, sd = torch.as_tensor((X - X.mean(0)) / X.std(0)), y.std()
    target = torch.as_tensor((y - y.mean()) / sd)
    l1, l2 = lambda_ / sd * alpha, lambda_ / sd * (1 - alpha) / 2
    W, _ = minimum(lambda W, _: (target - x @ W[0]).square().mean() / 2, (1, X.shape[1]), l1, l2)
    return W * sd / X.std(0)


GLMNET = {
    0.0: lambda lambda_, sigma: Normal.from_glmnet(lambda_, N, sigma),
    0.3: lambda lambda_, sigma: ElasticNet.from_glmnet(lambda_, 0.3, N, sigma),
    1.0: lambda lambda_, sigma: Laplace.from_glmnet(lambda_, N, sigma),
}


@pytest.mark.parametrize("alpha", GLMNET)
def test_glmnet_gaussian(alpha):
    X, Y, _, _ = rows()
    x, y = (X - X.mean(0)) / X.std(0), (Y[:, 0] - Y[:, 0].mean()) / Y[:, 0].std()
    prior = GLMNET[alpha](0.2, SIGMA)
    w, _ = mode(prior, likelihoods.Gaussian(SIGMA), x, y)
    agree([w / X.std(0)], glmnet(X, y, 0.2, alpha))
    found = numbers(prior, "glmnet, gaussian", num_data=N, noise_scale=SIGMA)
    assert found == pytest.approx({"lambda": 0.2} | ({"alpha": alpha} if 0 < alpha < 1 else {}), rel=1e-12)


def test_glmnet_divides_lambda_by_the_sd_of_y_in_its_l2_part_only():
    X, Y, _, _ = rows()
    x, y = (X - X.mean(0)) / X.std(0), 5 * Y[:, 0]
    lasso, ridge = (GLMNET[alpha](0.2, SIGMA) for alpha in (1.0, 0.0))
    agree([mode(lasso, likelihoods.Gaussian(SIGMA), x, y)[0] / X.std(0)], glmnet(X, y, 0.2, 1.0))
    ours = mode(ridge, likelihoods.Gaussian(SIGMA), x, y)[0] / X.std(0)
    agree([ours], glmnet(X, y, 0.2 * y.std(), 0.0))
    assert np.abs(ours / glmnet(X, y, 0.2, 0.0) - 1).min() > 0.01


@pytest.mark.parametrize("alpha", GLMNET)
def test_glmnet_binomial(alpha):
    X, _, labels, _ = rows()
    x, y = (X - X.mean(0)) / X.std(0), labels[:, 0]
    prior = GLMNET[alpha](0.05, 1.0)
    x_, y_ = torch.as_tensor(x), torch.as_tensor(y)

    def loss(W, b):
        return F.binary_cross_entropy_with_logits(x_ @ W[0] + b, y_)

    theirs = minimum(loss, (1, D), l1=0.05 * alpha, l2=0.05 * (1 - alpha) / 2, biases=1)
    agree(mode(prior, likelihoods.Bernoulli(), x, y), *theirs)
    found = numbers(prior, "glmnet, binomial", num_data=N)
    assert found == pytest.approx({"lambda": 0.05} | ({"alpha": alpha} if 0 < alpha < 1 else {}), rel=1e-12)


@pytest.mark.parametrize(("tool", "loss"), [("torch, mean log loss", gaussian_nll), ("torch, MSELoss", nn.MSELoss())])
def test_l1_added_to_a_loss_by_hand(tool, loss):
    X, Y, _, _ = (torch.as_tensor(part) for part in rows())
    prior = Laplace(0.05)
    (l1,) = numbers(prior, tool, num_data=N, noise_scale=SIGMA, num_outputs=K).values()
    theirs = minimum(lambda W, b: loss(X @ W.T + b, Y), (K, D), l1=l1, biases=K)
    agree(our_mode("values", prior, FLAT), *theirs)


@pytest.mark.parametrize(("tool", "loss"), [("mean log loss", gaussian_nll), ("MSELoss", nn.MSELoss())])
def test_weight_decay_beside_l1_added_by_hand(tool, loss):
    X, Y, _, _ = (torch.as_tensor(part) for part in rows())
    prior = ElasticNet(0.05, 0.2)
    found = numbers(prior, f"torch SGD, Adam, {tool}", num_data=N, noise_scale=SIGMA, num_outputs=K)
    theirs = minimum(lambda W, b: loss(X @ W.T + b, Y), (K, D), found["l1"], found["weight_decay"] / 2, biases=K)
    agree(our_mode("values", prior, FLAT), *theirs)
