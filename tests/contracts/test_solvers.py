"""What every solver promises: it says what it cannot do, and reaches the mode of what it can; a new one needs one class."""

import copy
from typing import ClassVar

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso, Ridge
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg._catalog import concrete
from bayesreg.inference import MAP
from bayesreg.objective import LogJoint, gradient_of
from bayesreg.solvers import AbstractSolver, History, Problem, SearchOptions, Solution, known_solvers

ROWS, NOISE = 60, 0.5
GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(ROWS, 4))
Y = X @ np.array([2.0, -1.0, 0.0, 0.0]) + NOISE * GENERATOR.normal(size=ROWS)
RIDGE, LASSO = priors.Normal(0.7), priors.Laplace(0.02)


class PlainDescent(AbstractSolver):
    """Gradient descent with a fixed step, as somebody outside would write it."""

    name: ClassVar[str] = "plain-descent"
    reads: ClassVar[tuple[str, ...]] = ("learning_rate",)

    def requires(self, problem):
        obstacle = problem.partial(self.reads) or (None if problem.log_joint.smooth else "a penalty has a kink")
        return obstacle and f"all rows and smooth penalties, but {obstacle}; take 'adam'."

    def solve(self, problem, start, history, report):
        rate, u = problem.options.learning_rate or 2e-3, start.clone()
        for step in range(problem.options.num_steps or 200):
            value, gradient = gradient_of(problem.log_joint, u, problem.data)
            u = u + rate * gradient
            if step % 10 == 0:
                history.record(step, value)
                report(step, 200, value)
        return Solution(u, problem.log_joint.model)


def model(prior=RIDGE, net=None, likelihood=None):
    torch.manual_seed(0)
    net = nn.Linear(4, 1, bias=False) if net is None else net
    return br.BayesianModel(net.double(), prior, likelihood or likelihoods.Gaussian(NOISE))


def fitted(prior, optimizer, **settings):
    return br.fit(model(prior), X, Y, method=MAP(optimizer, **settings), progress=False)


def closed_form():
    return Ridge(alpha=NOISE**2 / RIDGE.scale**2, fit_intercept=False).fit(X, Y).coef_


def problem_of(model, x=X, y=Y, batch_size=None, **options):
    bound, data = model.ingest(x, y)
    return Problem(LogJoint(bound), data, batch_size, SearchOptions(**options))


def test_a_foreign_solver_is_found_by_its_name():
    mode = fitted(RIDGE, "plain-descent")
    np.testing.assert_allclose(mode.mean["weight"].numpy().ravel(), closed_form(), rtol=1e-6)
    assert mode.certificate.converged
    assert mode.history.notes[0] == "plain-descent: asked for."
    assert len(mode.history.objective) == 20
    again = fitted(RIDGE, "plain-descent", learning_rate=1e-3)
    np.testing.assert_allclose(again.mean["weight"].numpy().ravel(), closed_form(), rtol=1e-6)


def test_a_foreign_solver_is_refused_what_it_cannot_do():
    with pytest.raises(ValueError, match="'plain-descent' needs all rows and smooth penalties, but a penalty has a kink"):
        fitted(LASSO, "plain-descent")
    with pytest.raises(ValueError, match="'plain-descent' finds its own steps, but clip_norm came, which it does not"):
        MAP("plain-descent", learning_rate=0.1, clip_norm=1.0)
    with pytest.raises(ValueError, match="'plain-descen' came; did you mean 'plain-descent'"):
        MAP("plain-descen")


def test_what_nobody_asked_for_is_not_taken():
    assert fitted(RIDGE, "auto").history.notes[0].startswith("closed form")


def test_every_solver_has_a_name_of_its_own():
    classes = concrete(AbstractSolver)
    assert len({cls.name for cls in classes}) == len(classes) == len(known_solvers())
    assert {"least-squares", "fista", "lbfgs", "prox-adam", "adam"} <= known_solvers().keys()


RELU = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 1))
BATCHNORM = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
CANNOT = {
    "a network": ("least-squares", lambda: problem_of(model(net=RELU)), "linear in its weights, .* but this model is another"),
    "learned noise": ("least-squares", lambda: problem_of(model(likelihood=likelihoods.Gaussian())), "this model is another"),
    "asked to search": (
        "least-squares",
        lambda: problem_of(model(), num_steps=7, clip_norm=1.0),
        "clip_norm and num_steps",
    ),
    "several starts": ("least-squares", lambda: problem_of(model(), num_restarts=2), "no search, but num_restarts came"),
    "batches": ("fista", lambda: problem_of(model(LASSO), batch_size=20), "it sees 20 of 60 rows at a step"),
    "training differs": ("fista", lambda: problem_of(model(net=BATCHNORM)), "batch normalisation or dropout makes training"),
    "a kink": ("lbfgs", lambda: problem_of(model(LASSO)), "but a prior's penalty has a kink; take 'prox-adam'"),
    "batches of the smooth": (
        "lbfgs",
        lambda: problem_of(model(), batch_size=20),
        "it sees 20 of 60 rows .* take 'adam'",
    ),
}


@pytest.mark.parametrize("case", CANNOT)
def test_a_solver_says_what_it_cannot_do(case):
    name, make, said = CANNOT[case]
    lacking = known_solvers()[name].requires(make())
    assert lacking is not None
    with pytest.raises(ValueError, match=said):
        raise ValueError(lacking)


OF_OPERATORS = {"krylov", "primal-dual"}  # see tests/test_inverse_posterior.py


@pytest.mark.parametrize("prior", [RIDGE, LASSO], ids=["ridge", "lasso"])
@pytest.mark.parametrize("name", known_solvers())
def test_a_solver_reaches_the_mode(name, prior):
    problem = problem_of(model(prior), num_steps=2000 if name in ("adam", "prox-adam") else None)
    solver = known_solvers()[name]
    before = copy.deepcopy(problem.log_joint.model.module.state_dict())
    if solver.requires(problem) is not None:
        assert (name, prior) in {("lbfgs", LASSO), ("plain-descent", LASSO)} or name in OF_OPERATORS
        return
    start = torch.zeros(4, dtype=torch.float64)
    found = solver.solve(problem, start, History(), lambda step, total, nats: None)
    if prior is RIDGE:
        expected = closed_form()
    else:
        alpha = NOISE**2 / (ROWS * prior.scale)
        expected = Lasso(alpha=alpha, fit_intercept=False, tol=1e-14, max_iter=100_000).fit(X, Y).coef_
        assert (expected == 0).any()
        if name != "adam":  # which takes a subgradient at a kink
            np.testing.assert_array_equal(found.u.numpy() == 0, expected == 0)
    np.testing.assert_allclose(found.u.numpy(), expected, atol=2e-3 if (name, prior) == ("adam", LASSO) else 1e-5)
    assert not start.any()
    assert all(bool((value == before[key]).all()) for key, value in problem.log_joint.model.module.state_dict().items())
