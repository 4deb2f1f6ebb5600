"""The fast loop is the slow one, step by step: same gradient as autograd through the flat log-joint, same buffers as torch."""

import pytest
import torch
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.inference import one_draw_step
from bayesreg.objective import LogJoint, TrainingCopy
from bayesreg.posteriors import MeanFieldGuide
from bayesreg.solvers import EagerAdam
from tests.conftest import network

RULES = [
    {},
    {"0.weight": priors.Laplace(0.3), "2.bias": priors.Flat()},
    {"0.weight": priors.HalfNormal(1.0), "2.weight": priors.Normal(0.4, loc=0.2)},
    {"0.bias": priors.Gamma(2.0, 3.0)},
]
NOISE = [likelihoods.Gaussian(0.6), likelihoods.Gaussian(priors.HalfCauchy(0.5)), likelihoods.Gaussian(priors.Gamma(2.0))]


def case(rules, likelihood, rows=30):
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(100, 4, generator=generator, dtype=torch.float64)
    y = torch.randn(100, generator=generator, dtype=torch.float64)
    model = br.BayesianModel(network(4, 5, 1, dtype=torch.float64), rules, likelihood).bind(X, y)
    log_joint = LogJoint(model)
    start = log_joint.layout.flatten(model.start(X, y))
    return log_joint, start, X[:rows], y[:rows]


@pytest.mark.parametrize("jacobian", [False, True])
@pytest.mark.parametrize("likelihood", NOISE, ids=repr)
@pytest.mark.parametrize("rules", RULES, ids=str)
def test_gradient_and_objective_are_the_log_joint_s(rules, likelihood, jacobian):
    log_joint, start, x, y = case(rules, likelihood)
    copy = TrainingCopy(log_joint, start, 100, jacobian=jacobian)
    loss = copy.backward(x, y)
    u = start.clone().requires_grad_()
    value = log_joint(u, x, y, 100, jacobian=jacobian)
    value.backward()
    torch.testing.assert_close(copy.flat.grad, -u.grad / 100, rtol=1e-10, atol=1e-12)
    assert copy.objective(loss) == pytest.approx(float(value.detach()), rel=1e-12)


@pytest.mark.parametrize("likelihood", NOISE, ids=repr)
@pytest.mark.parametrize("rules", [RULES[0], RULES[1], {"2.bias": priors.Normal(2.0)}], ids=str)
def test_mean_field_step_is_the_guide_s_elbo(rules, likelihood):
    log_joint, start, x, y = case(rules, likelihood)
    results = []
    for way in ("quick", "plain"):
        guide = MeanFieldGuide(log_joint.layout, start, torch.full_like(start, 0.2))
        guide.phi.grad = torch.zeros_like(guide.phi)
        with torch.random.fork_rng():
            torch.manual_seed(5)
            if way == "quick":
                copy = TrainingCopy(log_joint, start, 100, training=False)
                loss = one_draw_step(guide, copy, log_joint, x, y)
            else:
                loss = guide.elbo(log_joint, x, y, 100) * (-1 / 100)
                loss.backward()
        results.append((loss.detach(), guide.phi.grad))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-10, atol=1e-12)


def test_fifty_steps_are_torch_s_own_batch_norm_included():
    """MAP's loop against a plain torch loop with the penalty written out, on the same batches."""
    generator = torch.Generator().manual_seed(0)
    X, y = torch.randn(64, 4, generator=generator).double(), torch.randn(64, generator=generator).double()
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 1)).double()
    model = br.BayesianModel(net, priors.Normal(0.5), likelihoods.Gaussian(0.7)).bind(X, y)
    log_joint = LogJoint(model)
    copy = TrainingCopy(log_joint, log_joint.layout.flatten(model.start(X, y)), 64)
    ours = torch.optim.SGD([copy.flat], lr=0.05, momentum=0.9)
    theirs = torch.optim.SGD(net.train().parameters(), lr=0.05, momentum=0.9)
    for i in range(50):
        rows = slice(16 * (i % 4), 16 * (i % 4 + 1))
        copy.flat.grad.zero_()
        copy.backward(X[rows], y[rows])
        ours.step()
        theirs.zero_grad()
        penalty = sum(p.square().sum() for p in net.parameters()) / (2 * 0.5**2)
        (nn.functional.mse_loss(net(X[rows])[:, 0], y[rows], reduction="sum") / (2 * 0.7**2) / 16 + penalty / 64).backward()
        theirs.step()
        for name, value in net.state_dict().items():
            torch.testing.assert_close(copy.module.state_dict()[name], value, rtol=1e-6, atol=1e-9)
    assert model.module[1].running_mean.equal(torch.zeros(6).double())  # only the training copy moved


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
@pytest.mark.parametrize(
    "rules", [{}, {"*.weight": priors.Normal(0.3), "*.bias": priors.Flat()}, {"0.*": priors.Fixed(0.1)}], ids=str
)
def test_a_large_network_s_split_step_is_the_flat_step(rules, seed):
    """Weight decay in the fused kernel is the zero-mean Gaussian prior's gradient; an unused tensor still feels its prior."""
    generator = torch.Generator().manual_seed(seed)
    X, y = (torch.randn(40, *shape, generator=generator, dtype=torch.float64) for shape in ((3,), ()))
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    net.register_parameter("unused", nn.Parameter(torch.ones(2, dtype=torch.float64)))
    model = br.BayesianModel(net, rules).bind(X, y)
    log_joint = LogJoint(model)
    start = log_joint.layout.flatten(model.start(X, y))
    copies = [TrainingCopy(log_joint, start, 40) for _ in range(2)]
    pieces = copies[1].split()
    assert sorted(i for piece in pieces for i in range(piece.slice.start, piece.slice.stop)) == list(range(len(start)))
    flat, split = EagerAdam(copies[0].flat, copies[0].backward), EagerAdam(copies[1].flat, copies[1].backward, pieces=pieces)
    for step in range(30):
        losses = [stepper.advance([(X, y)], [0.05], False)[0] for stepper in (flat, split)]
        torch.testing.assert_close(*losses, rtol=1e-12, atol=0, msg=str(step))
    torch.testing.assert_close(copies[0].flat, copies[1].flat, rtol=1e-10, atol=1e-12)
    kept = split.state()
    split.advance([(X, y)], [0.05], False)
    after = copies[1].flat.detach().clone()
    split.restore(kept)
    split.advance([(X, y)], [0.05], False)
    torch.testing.assert_close(copies[1].flat.detach(), after, rtol=0, atol=0)


def test_no_split_where_a_prior_is_no_weight_decay():
    X, y = torch.randn(9, 3), torch.randn(9)
    for rules in ({"weight": priors.Laplace(1.0)}, {"weight": priors.Normal(1.0, loc=0.5)}):
        log_joint = LogJoint(br.BayesianModel(nn.Linear(3, 1), rules).bind(X, y))
        assert TrainingCopy(log_joint, torch.zeros(5), 9).split() == []
