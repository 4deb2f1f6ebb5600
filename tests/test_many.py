"""Many fits at once must be the fits one by one: other scales, other rows, other starts, whatever the network."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.objective import LogJoint, Replicas, full_hessian, gradient_of
from bayesreg.solvers import Stepper, fit_many, polish
from tests.conftest import network

SEEDS = (0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2)))


def problem(prior, *, seed=0, N=60, likelihood=None, activation=nn.Tanh, widths=(4, 6, 1), dtype=torch.float64):
    """Log-joints of one network under several priors on its first layer, and the rows."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(N, widths[0]))
    y = np.sin(X[:, 0]) + 0.3 * rng.normal(size=N)
    likelihood = likelihood or likelihoods.Gaussian(priors.HalfNormal(1.0))
    if isinstance(likelihood, likelihoods.Bernoulli):
        y = (y > 0).astype(float)
    if isinstance(likelihood, (likelihoods.Categorical, likelihoods.Ordinal)):
        y = (y > 0).astype(int) + (y > 1)
    if isinstance(likelihood, likelihoods.GaussianPerOutput):
        y = np.column_stack([y, -y])
    y = np.exp(y) if isinstance(likelihood, likelihoods.Gamma) else y
    net = network(*widths, seed=seed, activation=activation, dtype=dtype)
    models = [br.BayesianModel(net, {"0.weight": p, "*.weight": priors.Normal(0.7)}, likelihood) for p in prior]
    found = [model.ingest(X, y) for model in models]
    return [LogJoint(model) for model, _ in found], found[0][1]


def scattered(log_joint, data, count, seed=0):
    """(R, P), points about the start."""
    start = log_joint.layout.flatten(log_joint.model.start(data.x, data.y))
    noise = torch.randn(count, len(start), generator=torch.Generator().manual_seed(seed), dtype=start.dtype)
    return start + 0.1 * noise


PRIORS = {
    "Normal": [priors.Normal(s) for s in (0.1, 0.5, 2.0)],
    "Laplace": [priors.Laplace(s) for s in (0.1, 0.5, 2.0)],
    "fan_in": [priors.StudentT(3.0, s, fan_in=True) for s in (0.1, 0.5, 2.0)],
    "ElasticNet": [priors.ElasticNet(s, 2 * s) for s in (0.1, 0.5, 2.0)],
    "GroupLasso": [priors.GroupLasso(s, per="column") for s in (0.1, 0.5, 2.0)],
    "rows": [priors.GroupLasso(s, per="row") for s in (0.1, 0.5, 2.0)],
    "mixture": [priors.SpikeSlab()] * 3,
}
LIKELIHOODS = {
    "learned noise": (None, 1),
    "known noise": (likelihoods.Gaussian(0.4), 1),
    "Bernoulli": (likelihoods.Bernoulli(), 1),
    "Categorical": (likelihoods.Categorical(), 3),
    "Ordinal": (likelihoods.Ordinal(3), 1),
    "a noise each": (likelihoods.GaussianPerOutput(), 2),
    "Gamma": (likelihoods.Gamma(), 1),
}


@pytest.mark.parametrize("jacobian", [False, True])
@pytest.mark.parametrize("name", PRIORS)
def test_objective_and_gradient_are_those_of_each_log_joint(name, jacobian):
    joints, data = problem(PRIORS[name])
    u = scattered(joints[0], data, 3)
    replicas = Replicas(joints, data.x, data.y, 3, jacobian=jacobian)
    objectives, gradients = replicas.objectives(u), replicas.gradient(u)
    for r, log_joint in enumerate(joints):
        value, gradient = gradient_of(log_joint, u[r], data, jacobian=jacobian)
        assert float(objectives[r]) == pytest.approx(value, rel=1e-12)
        assert torch.allclose(-gradients[r], gradient, atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("name", LIKELIHOODS)
@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU, nn.Softmax])  # the last is no elementwise layer: it goes by vmap
def test_every_likelihood_and_network(name, activation):
    likelihood, outputs = LIKELIHOODS[name]
    layer = (lambda: nn.Softmax(-1)) if activation is nn.Softmax else activation
    joints, data = problem(PRIORS["Laplace"], likelihood=likelihood, activation=layer, widths=(4, 5, outputs))
    u = scattered(joints[0], data, 3)
    replicas = Replicas(joints, data.x, data.y, 3)
    assert (replicas.layers is None) == (activation is nn.Softmax)
    gradients = replicas.gradient(u)
    for r, log_joint in enumerate(joints):
        assert torch.allclose(-gradients[r], gradient_of(log_joint, u[r], data)[1], atol=1e-9, rtol=1e-9)
    rows = replicas.row_log_prob(u)
    values = joints[1].layout.unflatten(u[1])
    assert float(rows[1].sum()) == pytest.approx(float(joints[1].log_likelihood(values, data.x, data.y, data.num_data)))


def test_hessians_are_those_of_each_log_joint():
    joints, data = problem(PRIORS["Normal"])
    u = scattered(joints[0], data, 3)
    found = Replicas(joints, data.x, data.y, 3).hessians(u)
    for r, log_joint in enumerate(joints):
        assert torch.allclose(found[r], full_hessian(log_joint, u[r], data), atol=1e-8)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
def test_weighted_rows_are_those_rows(seed, activation):
    """0/1 weights leave rows out, counts repeat them: same objective, gradient and steps."""
    joints, data = problem([priors.Laplace(0.3)], seed=seed, activation=activation)
    counts = np.random.default_rng(seed).integers(0, 3, size=(2, data.num_data))
    u = scattered(joints[0], data, 2)
    together = Replicas(joints, data.x, data.y, 2, weights=torch.tensor(counts))
    objectives, gradients = together.objectives(u), together.gradient(u)
    for r in range(2):
        rows = torch.from_numpy(np.repeat(np.arange(data.num_data), counts[r]))
        alone = Replicas(joints, data.x[rows], data.y[rows], 1)
        assert float(objectives[r]) == pytest.approx(float(alone.objectives(u[r : r + 1])), rel=1e-12)
        assert torch.allclose(gradients[r], alone.gradient(u[r : r + 1])[0], atol=1e-10)


@pytest.mark.parametrize("name", ["Normal", "Laplace", "GroupLasso"])
def test_steps_of_many_are_the_steps_of_each(name):
    """The path of every replica is that of the fit alone, with batches; smooth ones are torch.optim.Adam's."""
    joints, data = problem(PRIORS[name])
    u = scattered(joints[0], data, 3)
    alone = [u[r : r + 1].clone() for r in range(3)]
    together = Stepper(Replicas(joints, data.x, data.y, 3), u)
    single = [Stepper(Replicas([j], data.x, data.y, 1), v) for j, v in zip(joints, alone, strict=True)]
    parameter = nn.Parameter(alone[1].clone())
    adam = torch.optim.Adam([parameter], lr=0.02)
    for rows in itertools.islice(itertools.cycle(torch.arange(60).split(20)), 40):
        for step in [together, *single]:
            step(0.02, rows)
        replica = single[1].replicas
        leaves = replica.leaves(parameter.detach())
        gradient = replica.leaves(torch.empty_like(parameter))
        replica.backward(leaves, gradient, rows)
        parameter.grad = torch.cat([gradient[s.latent.name].flatten(1) for s in joints[1].layout.in_order], 1)
        replica.add_slopes(parameter.grad, parameter.detach(), kinks=True)
        parameter.grad /= data.num_data
        adam.step()
    assert torch.allclose(u, torch.cat(alone), atol=1e-10)
    if name == "Normal":
        assert torch.allclose(u[1:2], parameter.detach(), atol=1e-10)
    else:
        assert bool((u[0] == 0).any()), "a proximal step lands on the kink"


def test_logistic_regressions_are_scikit_learns(breast_cancer):
    X, y = breast_cancer
    scales = [0.05, 0.3, 2.0]
    joints = [
        LogJoint(
            br.BayesianModel(
                nn.Linear(30, 1).double(), {"weight": priors.Normal(s), "bias": priors.Flat()}, likelihoods.Bernoulli()
            ).bind(X, y)
        )
        for s in scales
    ]
    data = joints[0].model.ingest(X, y)[1]
    u, *_ = fit_many(joints, torch.zeros(3, 31, dtype=torch.float64), data, num_steps=0)
    for row, s in zip(u, scales, strict=True):
        ref = LogisticRegression(C=s**2, tol=1e-10, max_iter=10_000).fit(X, y)
        assert np.abs(row[:30].numpy() - ref.coef_[0]).max() < 1e-5
        assert float(row[30]) == pytest.approx(float(ref.intercept_[0]), abs=1e-5)


@pytest.mark.parametrize(
    "name", ["Normal", *(pytest.param(name, marks=pytest.mark.slow) for name in ("Laplace", "GroupLasso"))]
)
def test_ends_of_networks_are_modes(name):
    """Adam, then Newton's and proximal steps: a certified mode from each start, at which a single polish finds nothing."""
    joints, data = problem([PRIORS[name][1]], likelihood=likelihoods.Gaussian(0.4))
    history = br.solvers.History()
    u, nats, models = fit_many(joints, scattered(joints[0], data, 2), data, num_steps=400, history=history)
    assert all(model is joints[0].model for model in models)  # nothing was learned beside the weights
    assert len(history.steps) > 50
    for v, value in zip(u, nats, strict=True):
        assert gradient_of(joints[0], v, data)[0] == pytest.approx(float(value), rel=1e-12)
        better = polish(joints[0], v, data)
        assert gradient_of(joints[0], better, data)[0] - float(value) < 1e-6
        if name == "Normal":  # and none of the package's own steps: what a Newton step would gain, by the matrix itself
            slope, bend = gradient_of(joints[0], v, data)[1], full_hessian(joints[0], v, data)
            assert float(torch.linalg.eigvalsh(bend)[0]) > 0
            assert 0 <= float(0.5 * slope @ torch.linalg.solve(bend, slope)) < 1e-6


def test_batches_need_a_generator_and_leave_the_global_one_alone():
    joints, data = problem([priors.Normal(0.5)])
    starts = scattered(joints[0], data, 2)
    state = torch.get_rng_state()
    runs = [
        fit_many(joints, starts, data, num_steps=30, batch_size=16, generator=torch.Generator().manual_seed(s))[0]
        for s in (0, 0, 1)
    ]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])
    assert torch.equal(torch.get_rng_state(), state)


def test_refusals():
    joints, data = problem([priors.Normal(0.5)])
    starts = scattered(joints[0], data, 2)
    for weights, match in (
        (torch.ones(2, 3), r"weights must be \(R, N\) = \(2, 60\), but \(2, 3\) came"),
        (-torch.ones(2, 60), "weights must be numbers >= 0"),
        (torch.zeros(2, 60), "not all zero"),
    ):
        with pytest.raises(ValueError, match=match):
            fit_many(joints, starts, data, weights=weights)
    with pytest.raises(ValueError, match=r"starts must be \(R, P\) with P = 38"):
        fit_many(joints, starts[:, :3], data)
    with pytest.raises(ValueError, match="one for each of the 2 starts, but 3 came"):
        fit_many(joints * 3, starts, data)
    with pytest.raises(ValueError, match="lower learning_rate"):
        fit_many(joints, starts, data, learning_rate=1e300, num_steps=20)
    for module, prior, match in (
        (
            nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.1), nn.Linear(3, 1)),
            priors.Normal(1.0),
            "dropout would have to draw masks of each",
        ),
        (nn.Linear(4, 1), priors.Normal(priors.HalfCauchy(1.0)), "scale is unknown"),
    ):
        model, data = br.BayesianModel(module, {"*.weight": prior}).ingest(np.ones((5, 4)) + np.eye(5, 4), np.arange(5.0))
        with pytest.raises(ValueError, match=match):
            fit_many(LogJoint(model), torch.zeros(1, model.num_parameters), data)
    both = [problem([p])[0][0] for p in (priors.GroupLasso(0.3, per="row"), priors.GroupLasso(0.3, per="column"))]
    x, y = problem([priors.Normal(0.5)])[1].full("x")
    with pytest.raises(ValueError, match="differ in their numbers alone"):
        Replicas(both, x, y, 2)
