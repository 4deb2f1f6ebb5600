"""Markov chains: the density they walk on, the loop around them, what is kept, and what their certificate says."""

import functools
import math
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.certificates import Agreement, Certificate, Finding, Mixing, Outcome, agreement, of_chains
from bayesreg.inference import MAP, MCLMC, MicrocanonicalEnsemble
from bayesreg.objective import Chains, LogJoint
from bayesreg.posteriors import Draws
from bayesreg.samplers import ChainOptions, Microcanonical, sample_chains, traced
from bayesreg.solvers import FitError, History

SHORT = functools.partial(MCLMC, num_chains=3, num_warmup=60, num_samples=40, thin=2, compile=False)


def rows(count=30, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(count, 3))
    return X, X @ [1.0, -0.5, 0.2] + 0.3 * rng.normal(size=count)


class Alone(nn.Module):
    """A network that `vmap` cannot take: it looks at a number."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 1)

    def forward(self, x):
        found = self.linear(x)
        return found if float(found.detach().sum()) < 1e9 else 0 * found


def stack(activation, outputs=1):
    return nn.Sequential(nn.Linear(3, 5), activation(), nn.Linear(5, 4), activation(), nn.Linear(4, outputs))


LEARNED = likelihoods.Gaussian(priors.HalfNormal(1.0))
NETWORKS = {
    "relu": (lambda: stack(nn.ReLU), priors.Normal(1.0), LEARNED),
    "tanh": (lambda: stack(nn.Tanh), priors.StudentT(3.0), LEARNED),
    "sigmoid, known noise": (lambda: stack(nn.Sigmoid), priors.Normal(1.0), likelihoods.Gaussian(0.4)),
    "gelu": (lambda: stack(nn.GELU), priors.Normal(1.0), LEARNED),
    "by row": (lambda: stack(nn.Tanh, 2), priors.Normal(1.0), likelihoods.Gaussian("heteroscedastic")),
    "two layers in a row": (lambda: nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1, bias=False)), priors.Laplace(0.5), LEARNED),
    "frozen bias": (lambda: stack(nn.Tanh), {"*": priors.Normal(1.0), "0.bias": priors.Fixed(0.1)}, LEARNED),
    "positive weights": (lambda: nn.Linear(3, 1), {"weight": priors.HalfNormal(1.0)}, LEARNED),
    "unknown scale": (
        lambda: stack(nn.Tanh),
        {"*.weight": priors.Normal(priors.HalfCauchy(1.0), per="column"), "*": priors.Normal(1.0)},
        LEARNED,
    ),
    "batch normalisation": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1)),
        {"*": priors.Normal(1.0)},
        LEARNED,
    ),
    "dropout": (lambda: nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1)), priors.Normal(1.0), LEARNED),
    "convolution": (
        lambda: nn.Sequential(nn.Unflatten(1, (1, 3)), nn.Conv1d(1, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(4, 1)),
        priors.Normal(1.0),
        LEARNED,
    ),
    "no vmap": (Alone, priors.Normal(1.0), LEARNED),
}


def bound(name):
    make, prior, likelihood = NETWORKS[name]
    torch.manual_seed(0)
    return br.BayesianModel(make().double(), prior, likelihood, standardize=True).ingest(*rows())


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("name", NETWORKS)
def test_value_and_gradient_are_those_of_the_log_joint(name, temperature):
    model, data = bound(name)
    log_joint = LogJoint(model)
    density = Chains(log_joint, data, 4, temperature=temperature)
    u = 0.5 * torch.randn(4, log_joint.layout.size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    values, gradients = density(u)
    of_rows, found = density.log_joint, []
    for point in u:
        point = point.clone().requires_grad_()
        value = of_rows.prepared(point, data.x, data.y, data.num_data) / temperature + of_rows.layout.log_jacobian(point)
        found.append((value.detach(), torch.autograd.grad(value, point)[0]))
    torch.testing.assert_close(gradients, torch.stack([g for _, g in found]), rtol=1e-9, atol=1e-9)
    expected = torch.stack([v for v, _ in found]) + data.num_data * model.log_jacobian / temperature
    torch.testing.assert_close(density.nats(values), expected, rtol=1e-9, atol=1e-9)


def test_streamed_rows_are_refused():
    X, y = rows()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(y)), batch_size=10)
    model = br.BayesianModel(nn.Linear(3, 1).double())
    with pytest.raises(ValueError, match="all rows at each step needs all rows at once, but a DataLoader came"):
        br.fit(model, loader, method=SHORT())


SOON_TRACED = ("relu", "unknown scale", "dropout")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in SOON_TRACED else pytest.mark.slow)
        for name in NETWORKS
        if name not in ("no vmap", "batch normalisation")
    ],
)
def test_a_traced_step_is_the_step(name):
    """With the same random numbers: what is traced may not depend on the state that it was traced at."""
    model, data = bound(name)
    density, sampler = Chains(LogJoint(model), data, 3), Microcanonical()
    state = sampler.init(density, 0.3 * torch.randn(3, density.size, dtype=torch.float64), 30)
    notes = []
    fast = traced(lambda now: sampler.step(density, now), state, "", compile=False, notes=notes)
    assert not notes
    for seed in range(3):
        torch.manual_seed(seed)
        changed, told = sampler.step(density, state)
        torch.manual_seed(seed)
        again, said = fast(state)
        for one, two in ((changed, again), (told, said)):
            assert all(torch.equal(one[key], two[key]) for key in one)
        state = {**state, **changed}


def test_a_step_that_looks_at_numbers_is_not_traced():
    posterior = br.fit(br.BayesianModel(Alone().double()), *rows(), method=SHORT(num_warmup=150, num_samples=60))
    assert any("runs as written" in note for note in posterior.history.notes)


@pytest.mark.slow
def test_a_compiled_run_is_the_run():
    model = br.BayesianModel(stack(nn.Tanh).double(), priors.Normal(1.0), LEARNED)
    one, two = (br.fit(model, *rows(), method=SHORT(num_chains=2, compile=how), seed=1) for how in (True, False))
    assert any(note.startswith("compiled") for note in one.history.notes)
    torch.testing.assert_close(one.draws[:5], two.draws[:5], rtol=1e-3, atol=1e-4)  # the same chain, until rounding parts them


@pytest.fixture(scope="module")
def linear():
    torch.manual_seed(0)
    return br.BayesianModel(nn.Linear(3, 1).double(), priors.Normal(1.0), likelihoods.Gaussian(0.5))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_a_temperature_widens_the_posterior_as_it_should(linear, seed):
    """p^(1/T) of a normal has T times its variance."""
    X, y = rows()
    exact = br.fit(linear, X, y, method="exact")
    warm = br.fit(
        linear,
        X,
        y,
        method=MCLMC(num_chains=20, num_warmup=400, num_samples=100, thin=3, temperature=4.0, compile=False),
        seed=seed,
    )
    ratio = torch.cat([(warm.std[name] / exact.std[name]).flatten() for name in ("weight", "bias")])
    size = warm.certificate.mixing.weights.ess_bulk
    assert (ratio / 2 - 1).abs().max() < 0.02 + 4 / (2 * size) ** 0.5
    assert "Temperature 4: draws of the posterior density to the power 1/4, a warm posterior." in warm.certificate.sentence
    assert warm.certificate.details["temperature"] == 4.0


class TestStops:
    def method(self, **settings):
        return SHORT(num_warmup=40, num_samples=60, thin=1, **settings)

    def test_what_a_killed_run_left_is_taken_up_bit_for_bit(self, linear, tmp_path):
        whole = br.fit(linear, *rows(), method=self.method(), seed=3)
        for died_at in (20, 75):
            path = tmp_path / f"{died_at}.pt"

            def dies(step, total, nats, at=died_at):
                if step == at:
                    raise OSError("gone")

            method = self.method(checkpoint=path, checkpoint_every=10)
            with pytest.raises(OSError, match="gone"):
                br.fit(linear, *rows(), method=method, seed=3, progress=dies)
            assert path.exists()
            again = br.fit(linear, *rows(), method=method, seed=3)
            assert torch.equal(again.draws, whole.draws)
            assert all(torch.equal(again.stats[name], whole.stats[name]) for name in whole.stats)
            assert again.history.objective == whole.history.objective
            assert any(note.startswith("resumed from") for note in again.history.notes)
            assert not path.exists()

    def test_another_fit_refuses_it(self, linear, tmp_path):
        def dies(step, total, nats):
            if step == 50:
                raise OSError("gone")

        with pytest.raises(OSError, match="gone"):
            br.fit(linear, *rows(), method=self.method(checkpoint=tmp_path / "a.pt", checkpoint_every=10), progress=dies)
        with pytest.raises(ValueError, match="must belong to the fit that takes it up"):
            br.fit(linear, *rows(), method=self.method(checkpoint=tmp_path / "a.pt", temperature=2.0))

    @pytest.mark.parametrize(("stopped_at", "draws"), [(70, 30), pytest.param(30, 1, marks=pytest.mark.slow)])
    def test_ctrl_c_gives_what_there_is(self, linear, stopped_at, draws, tmp_path):
        def stops(step, total, nats):
            if step == stopped_at:
                raise KeyboardInterrupt

        path = tmp_path / "fit.pt"
        with pytest.warns(br.ConvergenceWarning, match=f"stopped by the user after {stopped_at} of 100 steps"):
            found = br.fit(linear, *rows(), method=self.method(checkpoint=path), seed=3, progress=stops)
        assert found.chains.shape == (3, draws, found.layout.size)
        assert found.certificate.finding is Finding.CUT_SHORT
        whole = br.fit(linear, *rows(), method=self.method(), seed=3)
        if draws > 1:
            assert torch.equal(found.chains, whole.chains[:, :draws])
        assert torch.equal(br.fit(linear, *rows(), method=self.method(checkpoint=path), seed=3).draws, whole.draws)

    def test_a_start_without_a_density_is_refused(self):
        model, data = bound("tanh")
        density = Chains(LogJoint(model), data, 2)
        start = torch.full((2, density.size), torch.inf, dtype=torch.float64)
        with pytest.raises(FitError, match="must be finite where a chain starts, but they are not in 2 of 2 chains"):
            sample_chains(
                Microcanonical(), density, start, ChainOptions(2, 5, 5), report=lambda *told: None, history=History("log joint")
            )


class TestStarts:
    def starts(self, **settings):
        model, data = bound("tanh")
        method = SHORT(num_chains=3, **settings)
        torch.manual_seed(0)
        return model, data, method.starts(model, data, 0, lambda *told: None)

    def test_the_first_chain_starts_at_the_modules_weights(self):
        model, data, found = self.starts()
        own = LogJoint(model).layout.flatten(model.start(data.x, data.y))
        assert torch.equal(found[0], own)
        assert len(found.unique(dim=0)) == 3

    def test_draws_of_the_prior(self):
        model, _, found = self.starts(start="prior")
        drawn = model.sample_prior(3, seed=0)
        assert torch.equal(torch.vmap(LogJoint(model).layout.unflatten)(found)["0.weight"], drawn["0.weight"])

    def test_a_mode(self):
        model, data, found = self.starts(start=MAP(num_steps=100))
        mode = MAP(num_steps=100).run(model, data, seed=0, report=lambda *told: None)
        assert torch.equal(found, mode.loc.expand(3, -1))

    def test_another_is_refused(self):
        with pytest.raises(ValueError, match="start must be one of"):
            SHORT(start="mode")
        with pytest.raises(
            ValueError, match=r"start must be 'weights', 'prior' or a MAP, but 3 came; pass for example MAP\(\)"
        ):
            self.starts(start=3)


def normal_chains(offset=0.0, chains=4, draws=500, size=3, seed=0):
    found = torch.randn(chains, draws, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return found + offset * torch.arange(chains, dtype=torch.float64)[:, None, None]


class TestCertificate:
    plain = Mixing(num_chains=4, num_draws=500, steps=1000, planned=1000, temperature=1.0)

    def test_it_is_arviz_that_is_asked(self):
        import arviz

        values = normal_chains()
        found, expected = agreement(values), arviz.convert_to_dataset({"x": values.numpy()})
        assert found.rhat == float(arviz.rhat(expected)["x"].max())
        assert found.ess_bulk == float(arviz.ess(expected)["x"].min())
        assert found.ess_tail == float(arviz.ess(expected, method="tail")["x"].min())

    def test_chains_that_agree(self):
        found = of_chains(self.plain, normal_chains(), normal_chains(seed=1))
        assert (found.finding, found.outcome, found.converged) == (Finding.MIXED, Outcome.CONVERGED, True)
        assert found.sentence.startswith("Converged: 4 chains of 500 draws agree; of 3 unknowns the largest R̂ is 1.00")

    def test_agreement_on_predictions_alone_is_an_outcome_of_its_own(self):
        found = of_chains(self.plain, normal_chains(5.0), normal_chains())
        assert (found.outcome, found.converged) == (Outcome.CONVERGED_IN_FUNCTION, True)
        assert found.sentence.startswith("Converged in function space, not in weights:")

    def test_chains_that_do_not_agree(self):
        found = of_chains(self.plain, normal_chains(5.0), normal_chains(2.0))
        assert (found.finding, found.converged) == (Finding.NOT_MIXED, False)
        assert found.mixing.between > 2 > found.mixing.within
        assert "raise num_samples or num_warmup" in found.sentence

    @pytest.mark.parametrize(("noise", "finding"), [(3.0, Finding.MIXED_IN_PREDICTION), (0.5, Finding.SEPARATE)])
    def test_members_of_an_ensemble_are_judged_by_what_they_predict(self, noise, finding):
        """Members whose functions differ by an sd do not matter under noise that is three times as large."""
        mean = normal_chains(0.5)
        words = {"ensemble": True, "moments": (mean, torch.full_like(mean, noise**2))}
        found = of_chains(self.plain, normal_chains(5.0), mean, **words)
        assert (found.finding, found.converged) == (finding, finding is Finding.MIXED_IN_PREDICTION)
        between, total = 0.25 * 5 / 4, noise**2 + 1 + 0.25 * 5 / 4  # of 0, ½, 1, 1½
        assert found.mixing.predictions.rhat == pytest.approx((total / (total - between)) ** 0.5, abs=0.02)
        assert found.mixing.predictions.error == pytest.approx((between * 4 / 3 / 4 / total) ** 0.5, abs=0.02)
        assert "Weights were not compared: hidden units may change places" in found.sentence
        assert of_chains(self.plain, normal_chains(), mean, **words).finding is Finding.MIXED  # they met all the same

    def test_a_noise_that_still_falls_is_seen(self):
        mean, falling = normal_chains(), torch.linspace(2, 1, 500, dtype=torch.float64)[None, :, None].expand(4, -1, 3) * 9
        words = {"ensemble": True, "moments": (mean, falling)}
        found = of_chains(self.plain, normal_chains(5.0), normal_chains(2.0), **words)
        assert found.finding is Finding.SEPARATE
        assert found.mixing.predictions.rhat < 1.05 > 1 + found.mixing.predictions.error
        assert found.mixing.predictions.drift == pytest.approx(0.5 * math.log((9 * 1.75 + 1) / (9 * 1.25 + 1)), abs=0.01)

    def test_too_few_draws_even_where_they_agree(self):
        assert of_chains(self.plain, normal_chains(draws=60), None).finding is Finding.NOT_MIXED  # 240 independent ones
        assert of_chains(self.plain, normal_chains(draws=5), None).finding is Finding.FEW_DRAWS

    def test_one_chain_is_judged_by_its_halves(self):
        drifting = normal_chains(chains=1) + torch.linspace(0, 3, 500, dtype=torch.float64)[None, :, None]
        assert agreement(normal_chains(chains=1)).rhat < 1.02
        assert agreement(drifting).rhat > 1.3

    def test_what_never_moves_is_left_out(self):
        values = normal_chains()
        values[..., 1] = 2.0
        assert agreement(values).count == 2
        assert agreement(0 * values) is None

    def test_divergences(self):
        import dataclasses

        run = dataclasses.replace(self.plain, divergences=40)
        found = of_chains(run, normal_chains(), None)
        assert found.finding is Finding.DIVERGING
        assert "40 diverging steps" in found.sentence

    def test_it_survives_a_file(self, linear, tmp_path):
        found = br.fit(linear, *rows(), method=SHORT())
        br.save(found, tmp_path / "post.pt")
        again = br.load(tmp_path / "post.pt")
        assert again.certificate == found.certificate
        assert isinstance(again.certificate.mixing.weights, Agreement)
        assert isinstance(again.certificate, Certificate)


@pytest.mark.slow
def test_saved_and_read_in_a_new_process_it_predicts_the_same(linear, tmp_path):
    X, y = rows()
    found = br.fit(linear, X, y, method=SHORT())
    br.save(found, tmp_path / "post.pt")
    np.save(tmp_path / "x.npy", X[:7])
    code = (
        "import sys, numpy, bayesreg as br; p = br.load(sys.argv[1] + '/post.pt');"
        "numpy.save(sys.argv[1] + '/y.npy', p.predict(numpy.load(sys.argv[1] + '/x.npy'), num_samples=120).mean.numpy());"
        "print(p.num_chains, *sorted(p.stats))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["3", *sorted(found.stats)]
    assert (np.load(tmp_path / "y.npy") == found.predict(X[:7], num_samples=120).mean.numpy()).all()


def test_a_state_that_is_none_is_refused(linear):
    found = br.fit(linear, *rows(), method=SHORT())
    state = found.state()
    for broken in (
        {"draws": state["draws"]},
        {**state, "draws": state["draws"][..., :2]},
        {**state, "stats": {"lp": state["draws"]}},
    ):
        with pytest.raises(ValueError, match="it was not written by this version"):
            Draws.from_state(found.model, found.record, broken)


def test_batch_normalisation_takes_all_rows_and_each_draw_has_its_own_statistics():
    model = br.BayesianModel(NETWORKS["batch normalisation"][0]().double(), priors.Normal(1.0), LEARNED, standardize=True)
    X, y = rows()
    found = br.fit(model, X, y, method=SHORT(num_samples=20))
    assert found.batch_statistics == "each draw's own statistics, over 30 rows"
    x, drawn = found.model.prepare(X), found.layout.unflatten(found.made_of[4])
    expected = (x @ drawn["0.weight"].mT + drawn["0.bias"]).mean(0)
    torch.testing.assert_close(found.statistics()["1.running_mean"][4], expected)


@pytest.mark.slow
def test_memory_stays_near_that_of_the_draws(tmp_path):
    """10 members × 1,000 draws of 10⁵ weights: sampling and predicting take less than twice their bytes beyond the start."""
    code = """
import resource, torch, numpy as np, bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.inference import MCLMC
from torch import nn
net = nn.Sequential(nn.Linear(100, 900), nn.Tanh(), nn.Linear(900, 10), nn.Tanh(), nn.Linear(10, 1))
model = br.BayesianModel(net, priors.Normal(1.0), likelihoods.Gaussian(0.5))
X, y = np.random.default_rng(0).normal(size=(20, 100)), np.zeros(20)
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
br.fit(model, X, y, method=MCLMC(num_chains=10, num_warmup=3, num_samples=10, thin=1, compile=False))
before = peak()
post = br.fit(model, X, y, method=MCLMC(num_chains=10, num_warmup=3, num_samples=1000, thin=1, compile=False))
post.predict(X, num_samples=2000), post.std
print((peak() - before) / (post.draws.numel() * post.draws.element_size()), post.draws.numel())
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    ratio, size = map(float, done.stdout.split())
    assert size > 0.99 * 10 * 1000 * 1e5
    assert ratio < 2, ratio


def test_a_signal_is_such_a_stop(linear):
    """Ctrl-C of a terminal, in the midst of a step."""
    told = []

    def listens(step, total, nats):
        if not told:
            threading.Timer(0.1, lambda: signal.raise_signal(signal.SIGINT)).start()
        told.append(step)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have told its background jobs to ignore it
    try:
        with pytest.warns(br.ConvergenceWarning, match="stopped by the user"):
            found = br.fit(linear, *rows(), method=SHORT(num_warmup=50, num_samples=20_000, compile=False), progress=listens)
    finally:
        signal.signal(signal.SIGINT, before)
    assert 3 <= found.num_draws < 3 * 20_000


def test_members_of_mile_go_on_where_they_stopped():
    model, data = br.BayesianModel(nn.Linear(3, 1), likelihood=likelihoods.Gaussian(0.3), standardize=False).ingest(*rows())
    short = MicrocanonicalEnsemble(2, 8, 8, 1, num_steps=2, compile=False)
    first = short.run(model, data, seed=0, report=lambda *told: None)
    on = MicrocanonicalEnsemble(2, 8, 8, 1, start=first)
    assert on.starts(model, data, 0, lambda *told: None).equal(first.chains[:, -1])
    with pytest.raises(ValueError, match=r"start must have num_members=3 members, but Draws.* has 2"):
        MicrocanonicalEnsemble(3, start=first)
    other, data = br.BayesianModel(nn.Linear(3, 1, bias=False), standardize=False).ingest(*rows())
    with pytest.raises(ValueError, match="start must be of the same network, but its unknowns differ"):
        on.starts(other, data, 0, lambda *told: None)


def test_members_of_mile_start_short_of_their_modes():
    X, y = rows()
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    model, data = br.BayesianModel(net, likelihood=likelihoods.Gaussian(0.3), standardize=False).ingest(X, y)
    found = []
    for steps in (1, 2):
        torch.manual_seed(1)
        found.append(MicrocanonicalEnsemble(3, num_steps=steps).starts(model, data, 0, lambda *told: None))
    assert 0 < float((found[1] - found[0]).abs().max()) < 0.05  # Adam's steps are 0.01, and nothing follows them
