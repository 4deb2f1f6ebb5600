"""A method and its posterior in a person's own file are whole: SWAG, written here, imports faces only and touches nothing else.

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
from bayesreg.posteriors import AbstractNormal, FitRecord
from bayesreg.solvers import Adam, Follow, History, Problem, SearchOptions, resolve_batch, searched

ROWS, INPUTS, NOISE, SCALE = 120, 4, 0.5, 0.7


def written():
    class LowRankGaussian(AbstractNormal):
        """N(loc, diag(sd²) + V Vᵀ) over the unconstrained vector, V (P, K)."""

        state_shapes: ClassVar = {"loc": "P", "sd": "P", "directions": "PK"}

        def __init__(self, model, record, loc, sd, directions):
            super().__init__(model, record)
            self.loc, self.sd, self.directions = loc, sd, directions

        def draw(self, num_samples, generator):
            sizes = self.directions.shape[::-1]
            noise = [torch.randn(num_samples, size, generator=generator, dtype=torch.float64).to(self.loc) for size in sizes]
            return self.loc + noise[0] @ self.directions.mT + noise[1] * self.sd

        def unconstrained_moments(self):
            return self.loc, (self.sd.square() + self.directions.square().sum(1)).sqrt()

        def as_normal(self):
            return self.loc, torch.cat([self.directions, self.sd.diag()], 1)

        def state(self):
            return {"loc": self.loc, "sd": self.sd, "directions": self.directions}

        @classmethod
        def from_state(cls, model, record, state):
            return cls(model, record, **state)

    class Swag(AbstractMethod):
        """Stochastic weight averaging, Gaussian (Maddox et al. 2019): moments of the path of a search at a constant rate."""

        name = "swag-in-a-test"
        when = "A network that is trained by steps anyway: the path of the last of them is the posterior."

        def __init__(self, num_steps=2000, learning_rate=0.01, batch_size=None, rank=10, every=10):
            self.options = SearchOptions(Adam.name, num_steps, learning_rate, batch_size, schedule="constant")
            self.rank, self.every = rank, every

        def run(self, model, data, *, seed, report):
            started = time.perf_counter()
            check_has_mode(model)
            history, log_joint = History("log joint"), LogJoint(model)
            batch_size, points = resolve_batch(self.options.batch_size, data, log_joint), []
            follow = Follow(lambda step, u: points.append(u.clone()) if 2 * step > self.options.num_steps else None, self.every)
            problem = Problem(log_joint, data, batch_size, self.options, seed, follow=follow)
            found = searched(problem, history, report).solution
            path = torch.stack(points).double()
            record = FitRecord(self.name, seed, history, settled(path), time.perf_counter() - started)
            return LowRankGaussian(found.model, record, *(part.to(found.u) for part in moments(path, self.rank)))

    return SimpleNamespace(Swag=Swag, LowRankGaussian=LowRankGaussian)


@pytest.fixture(scope="module")
def swag():
    made = written()
    yield made
    vars(made).clear()
    gc.collect()


def moments(path, rank):
    """Mean, sd by entry and directions of points on the way, (S, P): SWAG takes half of its covariance from each."""
    mean = path.mean(0)
    so_far = path.cumsum(0) / torch.arange(1.0, len(path) + 1)[:, None]
    away = (path - so_far)[-rank:]
    return mean, (path.var(0, correction=0) / 2).sqrt(), away.mT / (2 * (rank - 1)) ** 0.5


def settled(path):
    """Whether the two halves of the path have one mean, by batch means: on the way to somewhere they have two."""
    halves = [part.reshape(10, -1, path.shape[1]).mean(1) for part in path[: len(path) // 20 * 20].chunk(2)]
    error = sum(half.var(0) / 10 for half in halves).sqrt() + 1e-6 * path.abs().amax(0) + 1e-12
    drift = float(((halves[1].mean(0) - halves[0].mean(0)) / error).square().mean().sqrt())
    said = f"The two halves of the path differ by {drift:.1f} standard errors"
    said += ", as at rest." if drift < 4 else "; raise num_steps."
    return Certificate.checked(drift < 4, said, {"drift": drift, "largest error of the mean": float(error.max()) / 2})


def linear(seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(ROWS, INPUTS))
    y = X @ [2.0, -1.0, 0.5, 0.0] + NOISE * rng.normal(size=ROWS)
    torch.manual_seed(seed)
    net = nn.Linear(INPUTS, 1, bias=False).double()
    return br.BayesianModel(net, priors.Normal(SCALE), likelihoods.Gaussian(NOISE), standardize=False), X, y


@pytest.fixture(scope="module")
def fitted(swag):
    model, X, y = linear()
    return br.fit(model, X, y, method=swag.Swag(batch_size=30), seed=0), X, y


def test_it_is_found_by_its_name(swag):
    model, X, y = linear()
    posterior = br.fit(model, X, y, method="swag-in-a-test", seed=0)
    assert (posterior.method, type(posterior)) == ("swag-in-a-test", swag.LowRankGaussian)
    assert br.inference.Swag is swag.Swag
    shown = CliRunner().invoke(app, ["methods"])
    assert shown.exit_code == 0, shown.output
    assert "swag-in-a-test" in shown.output
    with pytest.raises(ValueError, match="did you mean 'swag-in-a-test'"):
        br.fit(model, X, y, method="swag-in-a-tes")


@pytest.mark.parametrize("seed", range(3))
def test_the_mean_is_the_ridge_solution(swag, seed):
    model, X, y = linear(seed)
    posterior = br.fit(model, X, y, method=swag.Swag(6_000, batch_size=30, rank=20), seed=seed)
    exact = Ridge(alpha=NOISE**2 / SCALE**2, fit_intercept=False).fit(X, y).coef_
    assert posterior.certificate.converged, posterior.certificate.sentence
    error = posterior.certificate.details["largest error of the mean"]  # by batch means: neighbours on a path are alike
    assert error < 0.01
    assert np.abs(posterior.mean["weight"].numpy()[0] - exact).max() < 4 * error


@pytest.mark.parametrize("seed", range(3))
def test_moments_are_those_of_the_draws(fitted, seed):
    posterior, count = fitted[0], 40_000
    draws = posterior.draw(count, torch.Generator().manual_seed(seed)).numpy()
    mean, sd = (part.numpy() for part in posterior.moments())
    assert (np.abs(draws.mean(0) - mean) < 4.5 * sd / np.sqrt(count)).all()
    np.testing.assert_allclose(draws.std(0), sd, rtol=4.5 / np.sqrt(2 * count))
    V, D = posterior.directions.numpy(), np.diag(posterior.sd.numpy() ** 2)
    covariance = D + V @ V.T
    error = np.sqrt((np.outer(np.diag(covariance), np.diag(covariance)) + covariance**2) / count)
    assert (np.abs(np.cov(draws.T) - covariance) < 4.5 * error).all()
    np.testing.assert_allclose(sd**2, np.diag(covariance), rtol=1e-12)
    loc, factor = posterior.as_normal()
    np.testing.assert_allclose(factor @ factor.mT, covariance, rtol=1e-12)
    assert torch.equal(loc, posterior.loc)


@pytest.mark.parametrize("seed", range(3))
def test_the_covariance_is_that_of_the_paper(seed):
    path = np.random.default_rng(seed).normal(size=(50, 6))
    mean, sd, directions = (part.numpy() for part in moments(torch.tensor(path), 5))
    away = np.stack([path[i] - path[: i + 1].mean(0) for i in range(45, 50)])
    np.testing.assert_allclose(mean, path.mean(0), rtol=1e-12)
    expected = 0.5 * np.diag((path**2).mean(0) - path.mean(0) ** 2) + away.T @ away / (2 * 4)
    np.testing.assert_allclose(np.diag(sd**2) + directions @ directions.T, expected, rtol=1e-10, atol=1e-12)


def test_prediction_is_exact_where_the_network_is_linear(fitted):
    posterior, X, _ = fitted
    found = posterior.predict(X[:9], num_samples=50, seed=0)
    covariance = np.diag(posterior.sd.numpy() ** 2) + posterior.directions.numpy() @ posterior.directions.numpy().T
    np.testing.assert_allclose(found.mean, X[:9] @ posterior.loc.numpy(), rtol=1e-9)
    np.testing.assert_allclose(found.epistemic_variance, np.einsum("np,pq,nq->n", X[:9], covariance, X[:9]), rtol=1e-6)


def test_the_same_seed_is_the_same_answer(swag):
    model, X, y = linear()
    before = torch.get_rng_state()
    method = swag.Swag(num_steps=400, batch_size=30)
    one, two, other = (br.fit(model, X, y, method=method, seed=seed) for seed in (1, 1, 2))
    assert torch.get_rng_state().equal(before)
    assert torch.equal(one.directions, two.directions)
    assert not torch.equal(one.directions, other.directions)
    assert torch.equal(one.sample(3, seed=5)["weight"], two.sample(3, seed=5)["weight"])


def test_its_certificate_refuses_a_path_that_goes_somewhere(swag):
    model, X, y = linear()
    with pytest.warns(br.ConvergenceWarning, match="swag-in-a-test: The two halves of the path differ .* raise num_steps"):
        posterior = br.fit(model, X, y, method=swag.Swag(num_steps=400, learning_rate=1e-4, rank=3, every=2), seed=0)
    assert not posterior.certificate.converged
    assert posterior.certificate.details["drift"] > 4


def test_it_is_compared_and_reported(fitted, tmp_path):
    posterior, X, y = fitted
    exact = br.fit(*linear(), method="exact")
    both = {"exact": exact, "SWAG": posterior}
    shown = br.compare(both, X, y)
    assert "SWAG" in str(shown)
    assert abs(shown.scores["SWAG"]["mlpd"] - shown.scores["exact"]["mlpd"]) < 0.1
    made = br.report(both, X, y)
    page, facts = made.save(tmp_path / "swag.html")
    assert page.stat().st_size > 10_000
    assert facts.stat().st_size > 1_000
    assert "swag-in-a-test" in made.html
    assert posterior.certificate.sentence.rstrip(".") in made.html


def test_it_is_saved_and_read_back(fitted, tmp_path):
    posterior, X, _ = fitted
    br.save(posterior, tmp_path / "swag.pt")
    again = br.load(tmp_path / "swag.pt")
    assert type(again) is type(posterior)
    assert again.certificate == posterior.certificate
    for one, two in zip(posterior.state().values(), again.state().values(), strict=True):
        assert torch.equal(one, two)
    assert torch.equal(posterior.predict(X, num_samples=20).mean, again.predict(X, num_samples=20).mean)


def test_the_command_line_fits_by_it(swag, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, X, y = linear()
    np.savetxt("rows.csv", np.column_stack([X, y]), delimiter=",", header="a,b,c,d,y", comments="")
    words = ["report", "rows.csv", "--target", "y", "--hidden", "0", "--num-samples", "50"]
    done = CliRunner().invoke(app, [*words, "--method", "map", "--method", "swag-in-a-test"])
    assert done.exit_code == 0, done.output
    assert "swag-in-a-test" in (tmp_path / "report.html").read_text()


def test_draws_of_a_network_with_batchnorm_get_statistics_of_their_own(swag, tmp_path):
    _, X, y = linear()
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(INPUTS, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    model = br.BayesianModel(net, priors.Normal(1.0), likelihoods.Gaussian(priors.HalfNormal(1.0)))
    posterior = br.fit(model, X, y, method=swag.Swag(num_steps=1500, batch_size=30, rank=5), seed=0)
    assert posterior.loc.dtype == torch.float32
    assert not torch.equal(posterior.model.module[1].running_mean, net[1].running_mean)  # trained beside the path
    own = br.refresh_batchnorm(posterior, X, num_draws=20, seed=0)
    assert own.batch_statistics == f"each draw's own statistics, over {ROWS} rows"
    found = own.statistics()["1.running_mean"]
    assert found.std(0).min() > 0
    x = own.model.prepare(X)
    weights = own.layout.unflatten(own.made_of[3])
    torch.testing.assert_close(found[3], (x @ weights["0.weight"].mT + weights["0.bias"]).mean(0), rtol=1e-4, atol=1e-5)
    br.save(own, tmp_path / "own.pt")
    again = br.load(tmp_path / "own.pt")
    torch.testing.assert_close(again.predict(X, num_samples=20).mean, own.predict(X, num_samples=20).mean)
    assert br.compare({"own": own, "running averages": posterior}, X, y).scores["own"]["rmse"] < 0.7
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


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
