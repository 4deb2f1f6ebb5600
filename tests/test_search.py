"""The search by steps: compiled as eager, resumed as uninterrupted, stopped by held-out rows, and plain when it fails."""

import itertools
import math
import re
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.inference import MAP, FitError, LaplaceApproximation, MeanField
from bayesreg.objective import LogJoint, TrainingCopy
from bayesreg.solvers import CompiledAdam, EagerAdam, Schedule, starts, steps
from tests.conftest import network

RULES = {
    "smooth": {},
    "nonsmooth": {"0.weight": priors.GroupLasso(0.3, per="column"), "2.weight": priors.Laplace(0.2)},
    "transformed": {"0.weight": priors.HalfNormal(1.0), "2.bias": priors.Gamma(2.0, 3.0)},
}


def problem(rules, dtype=torch.float64, rows=60):
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(rows, 4, generator=generator, dtype=dtype)
    y = X[:, 0] + 0.1 * torch.randn(rows, generator=generator, dtype=dtype)
    return br.BayesianModel(network(4, 5, 1, dtype=dtype), rules).bind(X, y), X, y


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_adam_is_torch_s(seed):
    generator = torch.Generator().manual_seed(seed)
    u = torch.randn(30, generator=generator, dtype=torch.float64)
    theirs = nn.Parameter(u.clone())
    optimizer = torch.optim.Adam([theirs], lr=0.1)
    first, second = torch.zeros_like(u), torch.zeros_like(u)
    for count, rate in enumerate((0.1, 0.05, 0.02), 1):
        theirs.grad = torch.randn(30, generator=generator, dtype=torch.float64)
        u, first, second, _ = steps.adam(u, theirs.grad, first, second, steps.pace(count, rate))
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        torch.testing.assert_close(u, theirs.detach(), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", ["nonsmooth", "several"])
def test_a_proximal_step_is_the_minimum_in_adam_s_metric(name, seed):
    rules = (
        RULES["nonsmooth"] if name == "nonsmooth" else {"*.weight": priors.Laplace(0.2), "*.bias": priors.ElasticNet(0.3, 1.0)}
    )
    log_joint = LogJoint(problem(rules)[0])
    nonsmooth = [group for group in log_joint.groups if group.nonsmooth]
    generator = torch.Generator().manual_seed(seed)
    u = torch.randn(log_joint.layout.size, generator=generator, dtype=torch.float64)
    step = 0.3 * torch.rand(len(u), generator=generator, dtype=torch.float64) + 1e-3
    found = steps.proximal(u, step, nonsmooth)
    assert (found == 0).any()

    def cost(z):
        return sum(group.energy(z[group.slice]) for group in nonsmooth) + 0.5 * ((z - u).square() / step).sum()

    for size in (1e-1, 1e-3, 1e-5):  # convex: no neighbour is better
        for _ in range(50):
            assert cost(found + size * torch.randn(len(u), generator=generator, dtype=torch.float64)) >= cost(found)
    untouched = torch.ones(len(u), dtype=torch.bool)
    for group in nonsmooth:
        untouched[group.slice] = False
    assert found[untouched].equal(u[untouched])


@pytest.mark.slow
@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_compiled_steps_are_the_eager_ones(rules, monkeypatch):
    model, X, y = problem(rules)
    log_joint = LogJoint(model)
    start = log_joint.layout.flatten(model.start(X, y))
    copies = [TrainingCopy(log_joint, start, 60, proximal=True) for _ in range(2)]
    nonsmooth = [group for group in log_joint.groups if group.nonsmooth]
    options = {"nonsmooth": nonsmooth, "num_data": 60, "clip_norm": 1.5}
    eager = EagerAdam(copies[0].flat, copies[0].backward, **options)
    monkeypatch.setattr("bayesreg.solvers.compiled.STEPS_A_CALL", 3)  # compiles in seconds
    compiled = CompiledAdam(start, copies[1].pure_loss, (X[:20], y[:20]), **options)
    each = compiled.steps_a_call
    batches = [(X[i : i + 20], y[i : i + 20]) for i in (0, 20, 40)] * 4
    rates = [0.02 * (1 - i / 11) for i in range(11)]
    losses = torch.cat([eager.advance([batch], [rate], True)[0] for batch, rate in zip(batches, rates, strict=False)])
    found = [
        compiled.advance(batches[i : min(i + each, 11)], rates[i : i + each], True)[0] for i in range(0, 11, each)
    ]  # and a rest
    torch.testing.assert_close(torch.cat(found), losses, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(compiled.parameter, eager.parameter.detach(), rtol=1e-7, atol=1e-9)
    assert not nonsmooth or (compiled.parameter == 0).equal(eager.parameter == 0)


@pytest.mark.slow
def test_a_large_parameter_is_updated_in_place_and_gives_the_same():
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(32, 300, generator=generator, dtype=torch.float64)
    model = br.BayesianModel(network(300, 350, 1, dtype=torch.float64)).bind(X, X[:, 0])
    method = {"num_steps": 6, "batch_size": 16, "optimizer": "adam"}
    fits = [br.fit(model, X, X[:, 0], method=MAP(compile=flag, **method)) for flag in (True, False)]
    assert fits[0].history.notes[1] == "compiled: one step a call."
    torch.testing.assert_close(fits[0].loc, fits[1].loc, rtol=1e-8, atol=1e-10)
    assert fits[0].history.objective == pytest.approx(fits[1].history.objective, rel=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("particles", [1, 4])
def test_compiled_mean_field_reaches_the_eager_one(particles, standard_diabetes):
    X, y = standard_diabetes
    model = br.BayesianModel(nn.Linear(10, 1).double(), priors.Normal(0.3), likelihoods.Gaussian(0.7))
    fits = [
        br.fit(model, X, y, method=MeanField(num_steps=2000, num_particles=particles, compile=flag)) for flag in (True, False)
    ]
    exact = br.fit(model, X, y, method="exact")
    for fit in fits:
        error = (fit.mean["weight"] - exact.mean["weight"]) / exact.std["weight"]
        assert float(error.abs().max()) < 0.15
    torch.testing.assert_close(fits[0].std["weight"], fits[1].std["weight"], rtol=0.1, atol=0)


@pytest.mark.slow
def test_auto_compiles_where_it_pays_and_says_so():
    model, X, y = problem({}, torch.float32)
    fit = br.fit(model, X, y, method=MAP("adam", num_steps=50_000))
    assert re.match(r"compiled: \d+ steps a call, which pays from 50,000 steps on\.", fit.history.notes[1])
    assert not any("compiled" in note for note in br.fit(model, X, y, method=MAP("adam", num_steps=100)).history.notes)


class Branching(nn.Module):
    """A module whose operations depend on values."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 1)

    def forward(self, x):
        return self.linear(x) if float(self.linear.weight.sum()) < 1e9 else self.linear(-x)


def test_what_cannot_be_compiled_is_refused_with_the_reason():
    _, X, y = problem({}, torch.float32)
    branching = br.BayesianModel(Branching())
    with pytest.raises(ValueError, match=r"compile=True needs a module that can be traced and compiled, but .*leave compile=F"):
        br.fit(branching, X, y, method=MAP("adam", num_steps=100, compile=True))
    fit = br.fit(branching, X, y, method=MAP("adam", num_steps=50_000, validation_fraction=0.2, patience=1))
    assert any(note.startswith("not compiled: ") for note in fit.history.notes)
    dropout = br.BayesianModel(nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5), nn.Linear(3, 1)))
    with pytest.raises(ValueError, match=r"compile=True needs a step that can be compiled, but dropout changes or draws"):
        br.fit(dropout, X, y, method=MAP(compile=True))
    loader = DataLoader(TensorDataset(X, y), batch_size=10)
    with pytest.raises(ValueError, match=r"compile=True needs .*, but the rows are streamed"):
        br.fit(br.BayesianModel(nn.Linear(4, 1)), loader, method=MAP(compile=True))


def test_without_a_compiler_it_says_what_is_missing(monkeypatch):
    monkeypatch.setattr("bayesreg.solvers.compiled.shutil.which", lambda name: None)
    model, X, y = problem({}, torch.float32)
    with pytest.raises(ValueError, match=r"compile=True needs a C\+\+ compiler \(g\+\+ or clang\+\+\), but there is none here"):
        br.fit(model, X, y, method=MAP("adam", compile=True))
    br.fit(model, X, y, method=MAP("adam", num_steps=50_000, validation_fraction=0.2, patience=1))  # "auto" does without


@pytest.mark.slow
def test_warm_restarts_and_constant_rates():
    assert Schedule(100, 0.1, "constant").rate(99) == 0.1
    warm = Schedule(100, 0.1, num_cycles=4)
    assert [warm.rate(step) for step in (0, 25, 50, 75)] == pytest.approx([0.1] * 4)
    assert warm.rate(24) < 0.001
    _, X, y = problem({})
    model = br.BayesianModel(nn.Linear(4, 1).double())
    for options in ({"num_cycles": 3}, {"schedule": "constant", "learning_rate": 1e-3}):
        assert br.fit(model, X, y, method=MAP("adam", num_steps=3000, **options)).certificate.converged


def test_clipping_bounds_the_gradient():
    """With a tiny bound, Adam's steps are the same (it is invariant to scale), but its moments show the bound."""
    model, X, y = problem({})
    log_joint = LogJoint(model)
    start = log_joint.layout.flatten(model.start(X, y))
    copy = TrainingCopy(log_joint, start, 60)
    copy.backward(X, y)
    gradient = copy.flat.grad.clone()
    for bound in (0.5 * float(gradient.norm()), 2 * float(gradient.norm())):
        stepper = EagerAdam(copy.flat, copy.backward, clip_norm=bound)
        copy.flat.data.copy_(start)
        stepper.advance([(X, y)], [0.0], False)
        expected = gradient * min(1.0, bound / float(gradient.norm()))
        torch.testing.assert_close(stepper.state()["first"] * 10, expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_early_stopping_returns_the_best_point_on_held_out_rows(seed):
    """Nearly as many weights as rows and a wide prior: the mode overfits, the best point comes early."""
    generator = np.random.default_rng(seed)
    X = generator.normal(size=(120, 20))
    y = X[:, 0] + 0.5 * generator.normal(size=120)
    X_new = generator.normal(size=(500, 20))
    y_new = X_new[:, 0] + 0.5 * generator.normal(size=500)
    model = br.BayesianModel(network(20, 30, 1), priors.Normal(10.0), likelihoods.Gaussian(0.5))
    options = {"optimizer": "adam", "num_steps": 1500}
    rest = torch.randperm(120, generator=torch.Generator().manual_seed(seed))[30:].numpy()
    full = br.fit(model, X[rest], y[rest], method=MAP(**options), seed=seed)
    stopped = br.fit(model, X, y, method=MAP(validation_fraction=0.25, patience=8, **options), seed=seed)
    scores = [float(fit.predict(X_new).log_prob(y_new).mean()) for fit in (full, stopped)]
    assert scores[1] > scores[0]
    certificate = stopped.certificate
    assert certificate.converged or str(certificate).startswith("Stopped early: the best point on held-out rows")
    assert stopped.num_data == 90
    assert "30 rows are held out to stop early; the fit is about the other N = 90." in stopped.history.notes
    assert any(note.startswith("early stopping: the best of ") for note in stopped.history.notes)
    assert stopped.history.steps[-1] < 1499


INTERRUPTED = """
    import sys, time, torch
    torch.set_num_threads(1)
    import bayesreg as br
    from bayesreg import priors
    from bayesreg.inference import MAP
    from tests.test_search import interrupted_model
    model, X, y = interrupted_model(sys.argv[2])
    slow = lambda step, total, objective: time.sleep(0.02)
    br.fit(model, X, y, method=MAP(num_steps=400, batch_size=16, checkpoint=sys.argv[1]), seed=3, progress=slow)
"""


def interrupted_model(kind):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        X = torch.randn(200, 4)
        layers = {
            "plain": [nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 1)],
            "random": [nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.2), nn.Linear(6, 1)],
        }["random" if kind == "random" else "plain"]
        module = nn.Sequential(*layers)
    rules = {"0.weight": priors.Laplace(0.3)} if kind == "nonsmooth" else {}
    return br.BayesianModel(module, rules, standardize=True), X, X[:, 0].sin() + 0.1 * X[:, 1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "nonsmooth", "random"])
def test_a_killed_fit_goes_on_to_the_same_answer_bit_for_bit(kind, tmp_path):
    path = tmp_path / "fit.pt"
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(INTERRUPTED), str(path), kind])
    deadline = time.monotonic() + 120
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    model, X, y = interrupted_model(kind)
    method = {"num_steps": 400, "batch_size": 16}
    whole = br.fit(model, X, y, method=MAP(**method), seed=3)
    resumed = br.fit(model, X, y, method=MAP(checkpoint=path, **method), seed=3)
    assert any(note.startswith("resumed from fit.pt after step ") for note in resumed.history.notes)
    assert resumed.loc.equal(whole.loc)
    assert resumed.history.steps == whole.history.steps
    assert resumed.history.objective == whole.history.objective
    for name, buffer in whole.model.module.named_buffers():
        assert buffer.equal(resumed.model.module.get_buffer(name))
    assert not path.exists()  # the fit is done
    assert not list(tmp_path.iterdir())


class Failing(Dataset):
    """Rows, one of which cannot be read while `broken`."""

    def __init__(self, X, y):
        self.X, self.y, self.broken, self.reads = X, y, False, 0

    def __len__(self):
        return len(self.X)

    def __getitem__(self, i):
        self.reads += 1
        if self.broken and self.reads > 700 and i == 37:
            raise OSError("disk gone")
        return self.X[i], self.y[i]


def test_a_loader_that_raises_names_the_batch_and_the_fit_goes_on_from_there(tmp_path):
    model, X, y = problem({}, torch.float32)
    rows = Failing(X, y)
    method = {"num_steps": 200, "optimizer": "adam"}
    loader = DataLoader(rows, batch_size=6, shuffle=True)
    whole = br.fit(model, loader, method=MAP(**method), seed=1)
    rows.broken, rows.reads, path = True, 0, tmp_path / "fit.pt"
    with pytest.raises(
        FitError, match=r"batch \d+ of epoch 1\d \(step 1\d\d\) raised OSError: disk gone; mend the loader"
    ) as error:
        br.fit(model, loader, method=MAP(checkpoint=path, checkpoint_every=20, **method), seed=1)
    assert "it goes on from fit.pt" in str(error.value)
    good = error.value.posterior
    assert 80 < error.value.step < 200
    assert good.loc.isfinite().all()
    assert not good.certificate.converged
    assert good.predict(X).mean.isfinite().all()
    rows.broken = False
    resumed = br.fit(model, loader, method=MAP(checkpoint=path, checkpoint_every=20, **method), seed=1)
    assert resumed.loc.equal(whole.loc)


def test_a_checkpoint_of_another_fit_is_refused(tmp_path):
    model, X, y = problem({}, torch.float32)
    path = tmp_path / "fit.pt"
    rows = Failing(X, y)
    rows.broken = True
    with pytest.raises(FitError, match="disk gone"):
        br.fit(model, DataLoader(rows, batch_size=6), method=MAP("adam", num_steps=200, checkpoint=path))
    assert path.exists()
    rows.broken = False
    with pytest.raises(ValueError, match=r"a checkpoint must belong to the fit .* other settings or another seed; delete the"):
        br.fit(model, DataLoader(rows, batch_size=6), method=MAP("adam", num_steps=300, checkpoint=path))
    path.write_text("something else")
    with pytest.raises(ValueError, match=r"fit\.pt' must be a checkpoint written by a fit, but it is not one"):
        br.fit(model, X, y, method=MAP("adam", num_steps=300, checkpoint=path))
    assert path.read_text() == "something else"


@pytest.mark.parametrize("compile", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_loss_that_is_not_finite_names_batch_and_parameter(compile):
    """One row makes the square overflow; everything before was well."""
    _, X, y = problem({}, torch.float32)
    model = br.BayesianModel(network(4, 5, 1, activation=nn.Identity), likelihood=likelihoods.Gaussian(0.5))
    X = X.clone()
    X[37] = 1e30
    batch = torch.randperm(60, generator=torch.Generator().manual_seed(0)).tolist().index(37) // 6 + 1
    where = (
        rf"it is inf at step {batch}, batch {batch} of epoch 1; the gradient of 0\.weight.* is not finite there; lower learning"
    )
    with pytest.raises(FitError, match=where) as error:
        br.fit(model, X, y, method=MAP("adam", num_steps=20, batch_size=6, compile=compile))
    assert error.value.posterior.loc.isfinite().all()
    assert "the error's `posterior` is the last good point" in str(error.value)


@pytest.mark.slow  # quickly: contracts/test_solvers, where prox-adam reaches a lasso's mode
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_prox_adam_zeros_are_where_the_subgradient_condition_holds(seed):
    """Mini-batches of all rows in turn; the full gradient is then held against the penalty's own bound."""
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(400, 8, generator=generator, dtype=torch.float64)
    y = (X[:, 0] - X[:, 1]).tanh() + 0.3 * torch.randn(400, generator=generator, dtype=torch.float64)
    b, sigma = 0.05, 0.3
    model = br.BayesianModel(network(8, 6, 1, seed=seed, dtype=torch.float64), priors.Laplace(b), likelihoods.Gaussian(sigma))
    mode = br.fit(model, X, y, method=MAP("prox-adam", num_steps=4000, batch_size=None), seed=seed)
    weights = {k: v.clone().requires_grad_() for k, v in mode.mean.items()}
    residual = y - mode.model.forward(weights, X)
    gradients = torch.autograd.grad(-residual.square().sum() / (2 * sigma**2), list(weights.values()))
    w, g = (torch.cat([t.detach().flatten() for t in ts]) for ts in (weights.values(), gradients))
    assert 10 < int((w == 0).sum()) < len(w)
    assert float(g[w == 0].abs().max()) <= (1 + 1e-3) / b
    torch.testing.assert_close(g[w != 0], w[w != 0].sign() / b, rtol=2e-2, atol=0)
    assert mode.certificate.converged


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [50, None])
def test_adam_on_a_subgradient_has_no_zeros_where_prox_adam_has(batch_size):
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(400, 8, generator=generator)
    y = X[:, 0] + 0.3 * torch.randn(400, generator=generator)
    model = br.BayesianModel(network(8, 6, 1), {"0.weight": priors.GroupLasso(0.003)}, likelihoods.Gaussian(0.3))
    zeros = {}
    for optimizer in ("adam", "prox-adam"):
        mode = br.fit(model, X, y, method=MAP(optimizer, num_steps=3000, batch_size=batch_size))
        zeros[optimizer] = int((mode.mean["0.weight"] == 0).all(0).sum())
    assert zeros == {"adam": 0, "prox-adam": 5}


@pytest.mark.slow
def test_optimizers_agree_on_one_objective():
    """From one start; Pyro's AutoDelta is held to the same number in `test_map`."""
    generator = np.random.default_rng(0)
    X = generator.normal(size=(500, 13))
    y = X[:, 0] + np.sin(2 * X[:, 1]) + 0.5 * generator.normal(size=500)
    net = network(13, 50, 1, dtype=torch.float64)
    model = br.BayesianModel(net, priors.Normal(0.15), likelihoods.Gaussian(0.4), standardize=True)
    found = {
        name: br.fit(model, X, y, method=MAP(name, num_steps=steps)).certificate.details["log joint"]
        for name, steps in (("adam", 3000), ("prox-adam", 3000), ("lbfgs", None), ("fista", 4000))
    }
    assert max(found.values()) - min(found.values()) < 1e-3 * abs(found["lbfgs"])


def test_the_loop_leaves_no_trace(tmp_path):
    model, X, y = problem(RULES["nonsmooth"], torch.float32)
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    state = torch.get_rng_state()
    br.fit(model, X, y, method=MAP(num_steps=50, checkpoint=tmp_path / "fit.pt"))
    assert torch.get_rng_state().equal(state)
    assert all(value.equal(before[name]) for name, value in model.module.state_dict().items())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": "linear"}, r"schedule must be one of 'cosine', 'constant', but 'linear' came"),
        ({"compile": "always"}, r"compile must be one of 'auto', but 'always' came"),
        ({"validation_fraction": 1.0}, r"validation_fraction must be below 1, but 1.0 came"),
        ({"clip_norm": 0}, r"clip_norm must be a finite number > 0"),
        ({"patience": 0}, r"patience must be a whole number >= 1"),
        ({"patience": 3}, r"patience must come with validation_fraction, the rows that it watches, but it came alone"),
        ({"checkpoint_every": 3}, r"checkpoint_every must come with checkpoint, the file"),
        ({"num_cycles": 3, "schedule": "constant"}, r"num_cycles must come with schedule='cosine'"),
        (
            {"optimizer": "lbfgs", "clip_norm": 1.0},
            r"optimizer='lbfgs' finds its own steps, but clip_norm came, which it does no",
        ),
        ({"optimizer": "fista", "learning_rate": 0.1, "compile": True}, r"but learning_rate and compile=True came"),
        (
            {"optimizer": "AdamW"},
            r"'AdamW' decouples its decay, which is the gradient of no penalty, .*Normal.from_weight_decay",
        ),
    ],
)
def test_refused_settings(options, message):
    with pytest.raises(ValueError, match=message):
        MAP(**options)


def test_batches_are_dealt_as_before():
    """Every epoch a permutation, one gather for many batches; a copy goes on where another stands."""
    model, X, y = problem({}, torch.float32)
    _, data = model.ingest(X, y)
    batches = data.batches(7, torch.Generator().manual_seed(0))
    seen = [next(batches) for _ in range(8)]
    assert len({tuple(row.tolist()) for x, _ in seen for row in x}) == 56
    for _ in range(5):
        next(batches)
    state = batches.state()
    rest = [next(batches)[0] for _ in range(20)]
    again = data.batches(7, torch.Generator().manual_seed(9))
    again.restore(state)
    for x, (other, _) in zip(rest, itertools.islice(again, 20), strict=True):
        assert x.equal(other)
    assert math.isclose(again.epoch, batches.epoch)


@pytest.mark.slow
def test_more_starts_are_never_worse_and_the_certificate_tells_how_they_agree():
    generator = np.random.default_rng(0)
    X = generator.normal(size=(60, 3))
    y = np.sin(2 * X[:, 0]) + X[:, 1] ** 2 + 0.3 * generator.normal(size=60)
    model = br.BayesianModel(network(3, 4, 1), standardize=True)
    single = br.fit(model, X, y, method=MAP())
    several = [br.fit(model, X, y, method=MAP(num_restarts=3, num_steps=500), seed=seed) for seed in (0, 0)]
    values = [fit.certificate.details["log joint"] for fit in (single, *several)]
    assert min(values[1:]) >= values[0] - 1e-9
    assert several[0].loc.equal(several[1].loc)
    details = several[0].certificate.details
    assert details["restarts"] == 3
    assert 1 <= details["restarts that agree"] <= 3
    assert details["spread over restarts"] >= 0
    assert "restarts" in str(several[0].certificate)
    assert any(note.startswith("3 starts: number ") for note in several[0].history.notes)


def test_starts_are_drawn_anew_and_differ():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.gain = nn.Linear(3, 1), nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))

        def forward(self, x):
            return self.linear(x * self.gain)

    model = br.BayesianModel(Scaled())
    X = torch.randn(20, 3)
    bound = model.bind(X, X[:, 0])
    found = starts(LogJoint(bound), *bound.prepare(X, X[:, 0]), 4)
    assert len({tuple(row.tolist()) for row in found}) == 4
    where = LogJoint(bound).layout.segments["gain"].slice
    assert found[:, where].abs().sort(1).values.equal(torch.tensor([1.0, 2.0, 3.0]).expand(4, 3))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"validation_fraction": 0.2},
            r"num_restarts=3 compares searches by their log-joint on all rows, but validation_fract",
        ),
        ({"checkpoint": "fit.pt"}, r"but checkpoint came too; leave one of the two out"),
    ],
)
def test_several_starts_refuse_what_does_not_go_with_them(options, message):
    model, X, y = problem({})
    with pytest.raises(ValueError, match=message):
        br.fit(model, X, y, method=MAP(num_restarts=3, **options))
    dropout = br.BayesianModel(nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5), nn.Linear(3, 1)))
    with pytest.raises(ValueError, match=r"many fits at once need a fixed network"):
        br.fit(dropout, X.float(), y.float(), method=MAP(num_restarts=3))


@pytest.mark.parametrize("target", ["standardize", "autoscale"])
def test_held_out_rows_leak_into_no_statistic(target):
    """Whatever stands in the held-out rows, the path of the fit is the same; only where it stops may differ."""
    generator = np.random.default_rng(0)
    X, seed = generator.normal(size=(100, 3)), 5
    y = X[:, 0] + 0.1 * generator.normal(size=100)
    held = torch.randperm(100, generator=torch.Generator().manual_seed(seed))[:30].numpy()
    rest = np.setdiff1d(np.arange(100), held)
    other = X.copy()
    other[held] *= 50
    prior = priors.Normal(autoscale=True) if target == "autoscale" else priors.Normal(1.0)
    model = br.BayesianModel(nn.Linear(3, 1).double(), {"weight": prior}, standardize=target == "standardize")
    fits = [
        br.fit(model, x, y, method=MAP("adam", num_steps=50, validation_fraction=0.3, patience=99), seed=seed)
        for x in (X, other)
    ]
    assert fits[0].history.objective == pytest.approx(fits[1].history.objective, rel=1e-9)
    if target == "standardize":
        np.testing.assert_allclose(fits[1].model.standardization.x_mean, X[rest].mean(0), rtol=1e-9)


def interrupted_at(model, X, y, path, **options):
    """A fit that is stopped by Ctrl-C after its first states."""

    def stop(step, total, objective):
        if step >= 60:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        br.fit(model, X, y, method=MAP(num_steps=200, checkpoint=path, checkpoint_every=20, **options), progress=stop)
    assert path.exists()


class Buffered(nn.Module):
    def __init__(self, k):
        super().__init__()
        self.linear, self.frozen = nn.Linear(4, 1), nn.Linear(4, 4)
        self.frozen.requires_grad_(False)
        self.register_buffer("k", torch.tensor(k))

    def forward(self, x):
        return self.linear(self.k * self.frozen(x))


@pytest.mark.parametrize("change", ["batch_size", "optimizer", "buffer", "frozen"])
def test_whatever_makes_another_fit_is_refused_by_the_checkpoint(change, tmp_path):
    _, X, y = problem({}, torch.float32)
    options, other, path = {"optimizer": "adam", "batch_size": 20}, {}, tmp_path / "fit.pt"
    torch.manual_seed(0)
    module = Buffered(1.0)
    interrupted_at(br.BayesianModel(module), X, y, path, **options)
    if change == "buffer":
        module.k.mul_(5)
    elif change == "frozen":
        module.frozen.weight.data.mul_(5)
    else:
        other = {"batch_size": 10} if change == "batch_size" else {"optimizer": "prox-adam"}
    method = MAP(num_steps=200, checkpoint=path, checkpoint_every=20, **{**options, **other})
    with pytest.raises(ValueError, match="a checkpoint must belong to the fit that takes it up"):
        br.fit(br.BayesianModel(module), X, y, method=method)


def test_a_checkpoint_needs_a_folder(tmp_path):
    model, X, y = problem({}, torch.float32)
    with pytest.raises(ValueError, match=r"a checkpoint must lie in a folder that is there, but .*nowhere is none"):
        br.fit(model, X, y, method=MAP("adam", num_steps=50, checkpoint=tmp_path / "nowhere" / "fit.pt"))


class Functional(nn.Module):
    """Behaves in training as it likes."""

    def __init__(self, kind):
        super().__init__()
        self.a, self.b, self.kind = nn.Linear(4, 6), nn.Linear(6, 1), kind

    def forward(self, x):
        hidden = torch.tanh(self.a(x))
        if self.kind == "dropout":
            hidden = nn.functional.dropout(hidden, 0.5, self.training)
        elif self.training:
            hidden = 2 * hidden
        return self.b(hidden)


def test_functional_dropout_is_refused_and_other_training_behaviour_is_not_compiled_away():
    _, X, y = problem({}, torch.float32)
    with pytest.raises(
        ValueError, match=r"the forward of Functional draws numbers of its own .*put an nn\.Dropout in its place"
    ):
        br.fit(br.BayesianModel(Functional("dropout")), X, y, method="map")
    doubled = br.BayesianModel(Functional("doubled"))
    with pytest.raises(ValueError, match=r"compile=True needs a step that can be compiled, but the network itself changes"):
        br.fit(doubled, X, y, method=MAP(compile=True))
    assert br.fit(doubled, X, y, method=MAP(num_steps=50)).history.notes[0].startswith("adam: ")


def test_a_functional_relu_is_as_piecewise_linear_as_a_layer():
    class Forward(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 20), nn.Linear(20, 1)

        def forward(self, x):
            return self.b(torch.relu(self.a(x)))

    _, X, y = problem({}, torch.float32)
    layers = network(4, 20, 1, activation=nn.ReLU)
    forward = Forward()
    forward.a.load_state_dict(layers[0].state_dict())
    forward.b.load_state_dict(layers[2].state_dict())
    fits = [br.fit(br.BayesianModel(module), X, y, method=MAP(num_steps=300)) for module in (layers, forward)]
    assert fits[0].history.notes == fits[1].history.notes
    assert str(fits[0].certificate) == str(fits[1].certificate)


def test_a_loader_with_a_generator_of_its_own_goes_on_with_the_same_rows(tmp_path):
    model, X, y = problem({}, torch.float32)

    def loader():
        rows = TensorDataset(X, y)
        return DataLoader(rows, batch_size=6, shuffle=True, generator=torch.Generator().manual_seed(7))

    def stop(step, total, objective):
        if step >= 70:
            raise KeyboardInterrupt

    whole = br.fit(model, loader(), method=MAP("adam", num_steps=200))
    method = MAP("adam", num_steps=200, checkpoint=tmp_path / "fit.pt", checkpoint_every=20)
    with pytest.raises(KeyboardInterrupt):
        br.fit(model, loader(), method=method, progress=stop)
    assert br.fit(model, loader(), method=method).loc.equal(whole.loc)


def test_an_eager_method_compiles_nothing_and_the_first_stays():
    method = LaplaceApproximation(mode=MAP(compile=True, num_steps=7))
    eager = method.eager()
    assert eager.mode.options.compile is False
    assert eager.mode.options.num_steps == 7
    assert method.mode.options.compile is True
