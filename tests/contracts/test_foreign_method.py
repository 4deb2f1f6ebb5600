"""A method and its posterior in a person's own file are whole: bagging, written here, imports faces only and is one file.

Both classes are made inside of a fixture, so that they are in the class tree for these tests alone.
"""

import gc
import time
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import nn
from typer.testing import CliRunner

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.certificates import Certificate, check_has_mode
from bayesreg.cli import app
from bayesreg.inference import AbstractMethod
from bayesreg.objective import LogJoint
from bayesreg.posteriors import AbstractPosterior, FitRecord
from bayesreg.solvers import Follow, History, Problem, SearchOptions, fit_many, searched

ROWS, INPUTS, NOISE, SCALE = 120, 4, 0.5, 0.7


def written():
    class Bagged(AbstractPosterior):
        """As many points as there were bootstrap samples of the rows, each as probable as the others."""

        state_shapes: ClassVar = {"points": "SP"}

        def __init__(self, model, record, points):
            super().__init__(model, record)
            self.points = points.detach()

        @property
        def num_draws(self):
            return len(self.points)

        def draw(self, num_samples, generator):
            return self.points[torch.randint(len(self.points), (num_samples,), generator=generator)]

        def moments(self):
            values = torch.stack([torch.cat([v.reshape(-1) for v in self.layout.unflatten(u).values()]) for u in self.points])
            return values.mean(0), values.std(0)

        def state(self):
            return {"points": self.points}

        @classmethod
        def from_state(cls, model, record, state):
            return cls(model, record, **state)

    class Bagging(AbstractMethod):
        """Bagging (Breiman 1996): the mode of each of some bootstrap samples."""

        name = "bagging-in-a-test"
        when = "To see how far the mode moves with the rows."

        def __init__(self, num_samples=200):
            self.num_samples = num_samples

        def run(self, model, data, *, seed, report):
            started = time.perf_counter()
            check_has_mode(model)
            history, log_joint = History("log joint"), LogJoint(model)
            x, y = data.full("bagging")
            rows = torch.randint(len(x), (self.num_samples, len(x)))
            counts = torch.zeros(rows.shape).scatter_add(1, rows, torch.ones(rows.shape))
            start = log_joint.layout.flatten(model.start(x, y)).expand(self.num_samples, -1)
            points, nats, _ = fit_many(log_joint, start, data, num_steps=0, weights=counts)
            history.record(0, float(nats.mean()))
            history.notes.append(f"{self.num_samples} bootstrap samples.")
            report(1, 1, float(nats.mean()))
            spread = float(nats.std())
            enough = self.num_samples >= 20
            said = f"{self.num_samples} samples" + (", enough for an sd." if enough else "; raise num_samples.")
            certificate = Certificate.checked(enough, said, {"sd of log joints": spread})
            record = FitRecord(self.name, seed, history, certificate, time.perf_counter() - started)
            return Bagged(model, record, points)

    return SimpleNamespace(Bagging=Bagging, Bagged=Bagged)


@pytest.fixture(scope="module")
def bagging():
    made = written()
    yield made
    vars(made).clear()
    gc.collect()


def linear(seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(ROWS, INPUTS))
    y = X @ [2.0, -1.0, 0.5, 0.0] + NOISE * rng.normal(size=ROWS)
    torch.manual_seed(seed)
    net = nn.Linear(INPUTS, 1, bias=False).double()
    return br.BayesianModel(net, priors.Normal(SCALE), likelihoods.Gaussian(NOISE), standardize=False), X, y


@pytest.fixture(scope="module")
def fitted(bagging):
    model, X, y = linear()
    return br.fit(model, X, y, method=bagging.Bagging(), seed=0), X, y


def test_it_is_found_by_its_name(bagging):
    model, X, y = linear()
    posterior = br.fit(model, X, y, method="bagging-in-a-test", seed=0)
    assert (posterior.method, type(posterior)) == ("bagging-in-a-test", bagging.Bagged)
    assert br.inference.Bagging is bagging.Bagging
    shown = CliRunner().invoke(app, ["methods"])
    assert shown.exit_code == 0, shown.output
    assert "bagging-in-a-test" in shown.output
    with pytest.raises(ValueError, match="did you mean 'bagging-in-a-test'"):
        br.fit(model, X, y, method="bagging-in-a-tes")


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_its_points_are_ridge_solutions_of_samples(bagging, seed):
    model, X, y = linear(seed)
    posterior = br.fit(model, X, y, method=bagging.Bagging(), seed=seed)
    exact = Ridge(alpha=NOISE**2 / SCALE**2, fit_intercept=False).fit(X, y).coef_
    sds = posterior.std["weight"].numpy()[0]
    assert (np.abs(posterior.mean["weight"].numpy()[0] - exact) < 0.5 * sds).all()
    np.testing.assert_allclose(sds, NOISE * np.diag(np.linalg.inv(X.T @ X)) ** 0.5, rtol=0.4)  # the sandwich's, roughly


def test_the_same_seed_is_the_same_answer(bagging):
    model, X, y = linear()
    before = torch.get_rng_state()
    one, two, other = (br.fit(model, X, y, method=bagging.Bagging(20), seed=seed) for seed in (1, 1, 2))
    assert torch.get_rng_state().equal(before)
    assert torch.equal(one.points, two.points)
    assert not torch.equal(one.points, other.points)
    assert torch.equal(one.sample(3, seed=5)["weight"], two.sample(3, seed=5)["weight"])


def test_its_certificate_is_a_warning_where_it_is_not_passed(bagging):
    model, X, y = linear()
    with pytest.warns(br.ConvergenceWarning, match="bagging-in-a-test: 5 samples; raise num_samples"):
        posterior = br.fit(model, X, y, method=bagging.Bagging(5), seed=0)
    assert not posterior.certificate.converged


@pytest.mark.usefixtures("unrendered")
def test_it_is_compared_and_reported(fitted, tmp_path):
    posterior, X, y = fitted
    exact = br.fit(*linear(), method="exact")
    both = {"exact": exact, "bagging": posterior}
    shown = br.compare(both, X, y)
    assert "bagging" in str(shown)
    assert abs(shown.scores["bagging"]["mlpd"] - shown.scores["exact"]["mlpd"]) < 0.1
    made = br.report(both, X, y)
    page, facts = made.save(tmp_path / "bagged.html")
    assert page.stat().st_size > 10_000
    assert facts.stat().st_size > 1_000
    assert "bagging-in-a-test" in made.html
    assert posterior.certificate.sentence.rstrip(".") in made.html


def test_it_is_saved_and_read_back(fitted, tmp_path):
    posterior, X, _ = fitted
    br.save(posterior, tmp_path / "bagged.pt")
    again = br.load(tmp_path / "bagged.pt")
    assert type(again) is type(posterior)
    assert again.certificate == posterior.certificate
    for one, two in zip(posterior.state().values(), again.state().values(), strict=True):
        assert torch.equal(one, two)
    assert torch.equal(posterior.predict(X, num_samples=20).mean, again.predict(X, num_samples=20).mean)


@pytest.mark.usefixtures("unrendered")
def test_the_command_line_fits_by_it(bagging, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, X, y = linear()
    np.savetxt("rows.csv", np.column_stack([X, y]), delimiter=",", header="a,b,c,d,y", comments="")
    words = ["report", "rows.csv", "--target", "y", "--hidden", "0", "--num-samples", "50", "--no-baselines"]
    done = CliRunner().invoke(app, [*words, "--method", "map", "--method", "bagging-in-a-test"])
    assert done.exit_code == 0, done.output
    assert "bagging-in-a-test" in (tmp_path / "report.html").read_text()


def problem(follow, **options):
    model, X, y = linear()
    bound, data = model.ingest(X, y)
    return Problem(LogJoint(bound), data, None, SearchOptions(**options), follow=follow)


def silent(step, total, nats):
    """A report to nobody."""


def test_the_points_on_the_way_are_those_of_the_search():
    seen = {}
    follow = Follow(lambda step, u: seen.update({step: u.clone()}), every=30)
    found = searched(problem(follow, num_steps=100, schedule="constant"), History(), silent)
    assert found.solver.name == "adam"  # nobody else shows its points
    assert list(seen) == [30, 60, 90]
    for step in (30, 90):  # at a constant rate, looking changes nothing
        alone = problem(None, optimizer="adam", num_steps=step, schedule="constant")
        assert torch.equal(searched(alone, History(), silent).solution.u, seen[step])


def test_steps_that_are_compiled_together_are_told_with_the_last_of_them():
    seen = []
    follow = Follow(lambda step, u: seen.append(step), every=25)
    for step in range(10, 110, 10):
        follow.after(step, 10, torch.zeros(1))
    assert seen == [30, 50, 80, 100]


@pytest.mark.parametrize("name", ["least-squares", "fista", "lbfgs"])
def test_who_takes_no_steps_of_its_own_cannot_be_followed(name):
    with pytest.raises(ValueError, match=f"'{name}' needs .* but (follow came|the points on its way are followed)"):
        searched(problem(Follow(print), optimizer=name), History(), silent)


def test_a_path_has_no_beginning_where_a_checkpoint_left_it():
    with pytest.raises(ValueError, match="must be seen from its start, but a checkpoint came"):
        problem(Follow(print), checkpoint="fit.pt")
