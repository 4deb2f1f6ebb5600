"""A search that nobody gave a number of steps: it goes on until it has converged, and says why it ended."""

import dataclasses

import pytest
import torch
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.certificates import used_up
from bayesreg.inference import MAP
from bayesreg.objective import LogJoint, Replicas
from bayesreg.solvers import History, Problem, Schedule, SearchOptions, UntilFlat, can_settle, settle, settle_many, unheard
from tests.conftest import network


def rows_of(count=150, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return x, torch.sin(2 * x[:, 0]) + 0.3 * torch.randn(count, generator=generator, dtype=torch.float64)


def relu_model(noise=None):
    rules = {"*.weight": priors.Normal(1.0, fan_in=True), "*.bias": priors.Normal(1.0)}
    noise = noise or priors.HalfNormal(1.0)
    return br.BayesianModel(network(3, 8, 1, activation=nn.ReLU, dtype=torch.float64), rules, likelihoods.Gaussian(noise))


def value(model, point, x, y):
    bound, data = model.ingest(x, y)
    log_joint = LogJoint(bound)
    return float(log_joint.prepared(point, *data.full("a test"), data.num_data))


class TestSettle:
    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_a_quadratic_objective_ends_at_its_mode(self, seed):
        """A linear model with known noise and columns of very different size, against the closed form."""
        x, y = rows_of(60, seed)
        x = x * torch.tensor([1.0, 30.0, 0.01], dtype=torch.float64)
        model = br.BayesianModel(nn.Linear(3, 1).double(), priors.Normal(2.0), likelihoods.Gaussian(0.3))
        bound, data = model.ingest(x, y)
        log_joint = LogJoint(bound)
        exact = br.fit(model, x, y, method="exact")
        begun = exact.loc + 4 * torch.cat([exact.std["weight"].flatten(), exact.std["bias"]])
        end = settle(log_joint, begun, data, jacobian=False, history=History(), report=unheard)
        assert end.gain > 10
        assert value(model, exact.loc, x, y) - value(model, end.u, x, y) < 1e-3
        assert "a fall of the rate gained less" in end.why

    @pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
    def test_it_is_never_worse_than_its_start(self, seed):
        x, y = rows_of(seed=seed)
        model = relu_model()
        bound, data = model.ingest(x, y)
        log_joint = LogJoint(bound)
        begun = log_joint.layout.flatten(bound.start(*next(data.epoch())))
        history = History()
        end = settle(log_joint, begun, data, jacobian=False, history=history, report=unheard)
        again = settle(log_joint, end.u, data, jacobian=False, history=History(), report=unheard)
        assert history.objective == sorted(history.objective)
        assert again.value >= end.value > value(model, begun, x, y)
        assert again.gain < 2 * 0.005 * len(begun) * 12

    def test_many_fits_settle_as_each_does_alone(self):
        """On a quadratic, from near and far, where rounds end at different times."""
        x, y = rows_of(60)
        bound, data = br.BayesianModel(nn.Linear(3, 1).double(), priors.Normal(2.0), likelihoods.Gaussian(0.3)).ingest(x, y)
        log_joint, words = LogJoint(bound), {"history": History(), "report": unheard}
        begun = torch.tensor([0.01, 0.5])[:, None].double() * torch.randn(2, log_joint.layout.size, dtype=torch.float64)
        found = settle_many(Replicas([log_joint], data.x, data.y, 2), begun, data, **words)
        alone = settle(log_joint, begun[1], data, jacobian=False, **words).u
        torch.testing.assert_close(found[1], alone, rtol=1e-7, atol=1e-9)
        torch.testing.assert_close(found[0], alone, rtol=0, atol=1e-2)  # the mode: a hundredth of a nat about it

    @pytest.mark.slow
    def test_of_many_fits_none_is_worse_than_its_start(self):
        x, y = rows_of(40)
        bound, data = relu_model().ingest(x, y)
        log_joint, history = LogJoint(bound), History()
        begun = torch.randn(3, log_joint.layout.size, dtype=torch.float64)
        replicas = Replicas([log_joint], data.x, data.y, 3)
        found = settle_many(replicas, begun, data, history=history, report=unheard)
        assert bool((replicas.objectives(found) > replicas.objectives(begun) + 10).all())
        assert history.objective == sorted(history.objective)

    def test_it_follows_the_density_that_was_asked_for(self):
        """With few rows log σ + N log(1/σ) ends at a larger noise than N log(1/σ)."""
        x, y = rows_of(12)
        model = br.BayesianModel(nn.Linear(3, 1).double(), priors.Normal(1.0), likelihoods.Gaussian(priors.HalfNormal(1.0)))
        bound, data = model.ingest(x, y)
        log_joint = LogJoint(bound)
        begun = log_joint.layout.flatten(bound.start(*next(data.epoch())))
        words = {"history": History(), "report": unheard}
        found = [settle(log_joint, begun, data, jacobian=jacobian, **words).u for jacobian in (False, True)]
        exact = [br.fit(model, x, y, method=MAP("lbfgs", jacobian=jacobian)).loc for jacobian in (False, True)]
        assert all(torch.allclose(a, b, atol=2e-2) for a, b in zip(found, exact, strict=True))
        assert float((exact[0] - exact[1]).abs().max()) > 4e-2

    def test_where_it_is_in_place(self):
        x, y = rows_of(40)
        bound, data = relu_model().ingest(x, y)
        at = Problem(LogJoint(bound), data, None, SearchOptions())
        assert can_settle(at)
        assert not can_settle(dataclasses.replace(at, batch_size=10))
        dropout = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1)).double()
        assert not can_settle(Problem(LogJoint(br.BayesianModel(dropout).bind(x, y)), data))
        kinked = br.BayesianModel(network(3, 4, 1, activation=nn.ReLU, dtype=torch.float64), {"*.weight": priors.Laplace(1.0)})
        assert not can_settle(Problem(LogJoint(kinked.bind(x, y)), data))


class TestDefaultFit:
    @pytest.mark.parametrize("jacobian", [False, pytest.param(True, marks=pytest.mark.slow)])
    def test_it_goes_on_until_it_has_converged(self, jacobian):
        x, y = rows_of()
        short = br.fit(relu_model(), x, y, method=MAP("adam", num_steps=1000, jacobian=jacobian, compile=False))
        mode = br.fit(relu_model(), x, y, method=MAP(jacobian=jacobian, compile=False))
        assert mode.certificate.converged
        assert mode.certificate.point.log_joint >= short.certificate.point.log_joint
        assert "the search ended since a fall of the rate gained less than" in mode.history.notes[-1]
        assert mode.history.steps == sorted(mode.history.steps)

    def test_the_steps_that_were_said_are_taken(self):
        x, y = rows_of(60)
        mode = br.fit(relu_model(), x, y, method=MAP(num_steps=120, compile=False, certify=False))
        same = br.fit(relu_model(), x, y, method=MAP("adam", num_steps=120, compile=False, certify=False))
        assert mode.history.steps[-1] == 119
        assert torch.equal(mode.loc, same.loc)
        assert not any("ended" in note for note in mode.history.notes)

    def test_a_noise_that_collapses_ends_it(self):
        x = torch.linspace(-1, 1, 8, dtype=torch.float64)[:, None]
        net = network(1, 30, 1, activation=nn.ReLU, dtype=torch.float64)
        model = br.BayesianModel(net, priors.Normal(5.0), likelihoods.Gaussian(priors.HalfNormal(1.0)))
        bound, data = model.ingest(x, torch.sin(3 * x[:, 0]))
        log_joint = LogJoint(bound)
        begun = log_joint.layout.flatten(bound.start(*next(data.epoch())))
        end = settle(log_joint, begun, data, jacobian=False, history=History(), report=unheard)
        assert "the learned noise collapses" in end.why
        assert used_up(log_joint, end.u, data) > 0.9
        assert end.steps < 3600

    @pytest.mark.slow
    def test_other_starts_are_finished_too(self):
        x, y = rows_of(60)
        mode = br.fit(relu_model(0.3), x, y, method=MAP(num_restarts=3, compile=False))
        restarts = mode.certificate.restarts
        assert restarts.count == 3
        assert mode.certificate.converged

    @pytest.mark.slow
    def test_it_goes_on_from_a_checkpoint_to_the_same_answer(self, tmp_path):
        x, y = rows_of(60)
        whole = br.fit(relu_model(), x, y, method=MAP(compile=False, certify=False))
        path = tmp_path / "fit.ckpt"
        for stop in (300, 1300):  # among the first steps, and in the rounds after them
            with pytest.raises(KeyboardInterrupt):
                br.fit(
                    relu_model(), x, y, method=MAP(checkpoint=path, compile=False, certify=False), progress=interrupting(stop)
                )
        assert path.exists()
        found = br.fit(relu_model(), x, y, method=MAP(checkpoint=path, compile=False, certify=False))
        assert torch.equal(found.loc, whole.loc)


def interrupting(step):
    """A callback that ends a fit at a step."""

    def heard(done, total, objective):
        if done >= step:
            raise KeyboardInterrupt

    return heard


class TestUntilFlat:
    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_noise_about_a_level_is_flat_and_a_fall_beyond_it_is_not(self, seed):
        generator = torch.Generator().manual_seed(seed)
        noise, schedule = torch.randn(8000, generator=generator), UntilFlat(20_000, 0.1)
        ended = flat = schedule
        for done in range(1000, 8000, 200):
            flat = flat.after(noise[:done])
            ended = ended.after(noise[:done] - torch.arange(done) / 200)
        assert ended.turn is None
        assert flat.turn is not None
        assert flat.num_steps == flat.turn + flat.turn // 2
        assert flat.rate(flat.turn) == 0.1
        assert flat.rate(flat.num_steps - 1) < 1e-5

    def test_the_rate_falls_in_time_where_the_budget_ends(self):
        schedule = UntilFlat(1000, 0.1)
        for done in range(100, 1000, 100):
            schedule = schedule.after(-torch.arange(float(done)))
        assert (schedule.turn, schedule.num_steps) == (600, 1000)
        assert schedule.rate(999) < 1e-5
        assert "its budget of 1,000 steps" in schedule.said[0]

    def test_a_fixed_schedule_is_as_it_was(self):
        schedule = Schedule(10, 0.1)
        assert schedule.after(torch.zeros(5)) is schedule
        assert schedule.said == []

    def test_a_fit_by_batches_ends_before_its_budget_and_goes_on_from_a_checkpoint(self, tmp_path):
        x, y = rows_of(120)
        words = {"optimizer": "adam", "batch_size": 20, "compile": False, "certify": False}
        make = lambda: br.BayesianModel(network(3, 1, dtype=torch.float64), priors.Normal(1.0), likelihoods.Gaussian(0.5))  # noqa: E731
        whole = br.fit(make(), x, y, method=MAP(**words))
        assert "rose no more than its noise" in whole.history.notes[-1]
        assert whole.history.steps[-1] < 5000
        path = tmp_path / "fit.ckpt"
        with pytest.raises(KeyboardInterrupt):
            br.fit(make(), x, y, method=MAP(checkpoint=path, **words), progress=interrupting(whole.history.steps[-1] - 300))
        found = br.fit(make(), x, y, method=MAP(checkpoint=path, **words))
        assert torch.equal(found.loc, whole.loc)
        assert found.history.steps == whole.history.steps

    def test_a_fit_that_meets_its_budget_says_so(self, monkeypatch):
        monkeypatch.setattr("bayesreg.solvers.stepwise.MOST", 800)
        x, y = rows_of(60)
        words = {"optimizer": "adam", "learning_rate": 1e-4, "compile": False, "certify": False}
        slow = br.fit(relu_model(), x, y, method=MAP(**words))
        assert slow.history.steps[-1] == 799
        assert "budget of 800 steps" in slow.history.notes[-1]


def test_a_search_that_ended_early_by_itself_is_still_judged(diabetes):
    """A quarter of so short a search would not pay for a look at the curvature; what was saved does."""
    X, y = diabetes
    net = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 1))
    model = br.BayesianModel(net, {"*.weight": priors.Laplace(0.1)}, standardize=True)
    mode = br.fit(model, X[:354], y[:354], method=MAP(compile=False), progress=False)
    assert any("the search ended once its objective rose no more" in note for note in mode.history.notes)
    assert mode.certificate.finding != "not looked"
