"""Many fits at once, each at its own best point on held-out rows."""

import pytest
import torch
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.objective import LogJoint
from bayesreg.solvers import History, fit_many_early, hold_out, starts


@pytest.fixture(scope="module", params=["plain", "batch normalisation"])
def fits(request):
    torch.manual_seed(0)
    X = torch.randn(60, 3, dtype=torch.float64)
    y = X[:, 0].sin() + 0.5 * torch.randn(60, dtype=torch.float64)
    norm = [nn.BatchNorm1d(12)] * (request.param != "plain")
    net = nn.Sequential(nn.Linear(3, 12), *norm, nn.Tanh(), nn.Linear(12, 1)).double()
    model, data = br.BayesianModel(net, priors.Normal(3.0), likelihoods.Gaussian(0.3)).ingest(X, y)
    fitted, rest, held = hold_out(model, data, 0.3, History())
    log_joint = LogJoint(fitted)
    begin = starts(log_joint, rest.x, rest.y, 3)
    found = fit_many_early(log_joint, begin, rest, held, num_steps=400, history=History())
    return log_joint, begin, rest, held, found


def score(model, u, held):
    layout = LogJoint(model).layout
    with torch.no_grad():
        total = LogJoint(model).log_likelihood(layout.unflatten(u), *held, len(held[0]))
    return float(total) / len(held[0]) + model.log_jacobian


def test_each_point_scores_what_is_said_of_it(fits):
    _, _, _, held, (u, scores, models) = fits
    for one, said, model in zip(u, scores, models, strict=True):
        assert abs(score(model, one, held) - float(said)) < 1e-9


def test_each_ends_where_it_would_have_ended_alone(fits):
    log_joint, begin, rest, held, (u, scores, _) = fits
    for r in (0, 2):
        alone, own, _ = fit_many_early(log_joint, begin[r : r + 1], rest, held, num_steps=400)
        torch.testing.assert_close(alone[0], u[r], rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(own[0], scores[r])


def test_a_fit_that_is_over_does_not_go_on_with_the_others(fits):
    log_joint, _, rest, held, _ = fits
    begin = starts(log_joint, rest.x, rest.y, 8)
    words = {"num_steps": 200, "learning_rate": 0.3, "patience": 2}  # restless, so that a better point often comes later
    u, scores, _ = fit_many_early(log_joint, begin, rest, held, **words)
    alone = [fit_many_early(log_joint, one[None], rest, held, **words) for one in begin]
    torch.testing.assert_close(torch.cat([one for one, _, _ in alone]), u, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(torch.cat([own for _, own, _ in alone]), scores)


def test_held_out_rows_find_it_better_than_the_end(fits):
    log_joint, begin, rest, held, (_, scores, _) = fits
    never = fit_many_early(log_joint, begin, rest, held, num_steps=400, patience=1000)[1]
    late = fit_many_early(log_joint, begin, rest, (rest.x, rest.y), num_steps=400, patience=1000)
    assert (never >= scores).all()
    at_the_end = torch.tensor([score(m, one, held) for one, m in zip(late[0], late[2], strict=True)])
    assert (scores > at_the_end + 0.05).all()  # which fits the rows that it sees, and no others
