"""Many fits at once with batch normalisation: each has its own running statistics, those of a plain torch loop of its own."""

import copy
import importlib

import numpy as np
import pytest
import torch
from torch import nn

import bayesreg as br
from bayesreg import layers, likelihoods, priors
from bayesreg.inference import MAP, MCDropout
from bayesreg.objective import LogJoint, ReplicaBuffers, Replicas, check_replicable, gradient_of
from bayesreg.solvers import History, Schedule, Stepper, descend, fit_many, row_batches

SCALES = (0.2, 0.5, 2.0)
NOISE = 0.6
MEMBERS = 3


def mlp(**options):
    norm = nn.BatchNorm1d(5, **options)
    return nn.Sequential(nn.Linear(3, 5), norm, nn.ReLU(), nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1))


def conv(**options):
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3, **options), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(12, 1)
    )


class Own(nn.Module):
    """A forward that is no list of layers: it goes by vmap; one layer stands at two places."""

    def __init__(self):
        super().__init__()
        self.first, self.last, self.norm = nn.Linear(3, 3), nn.Linear(3, 1), nn.BatchNorm1d(3)

    def forward(self, x):
        return self.last(torch.relu(self.norm(self.first(self.norm(x))))).squeeze(-1)


NETWORKS = {
    "mlp": (mlp, {}),
    "mlp, cumulative": (mlp, {"momentum": None}),
    "mlp, momentum 0.3": (mlp, {"momentum": 0.3}),
    "mlp, no statistics": (mlp, {"track_running_stats": False}),
    "mlp, not affine": (mlp, {"affine": False}),
    "conv": (conv, {}),
    "conv, cumulative": (conv, {"momentum": None}),
    "conv, no statistics": (conv, {"track_running_stats": False}),
    "own forward": (Own, {}),
}


def rows(net, N=48, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape = (1, 6, 6) if isinstance(net[0] if isinstance(net, nn.Sequential) else None, nn.Conv2d) else (3,)
    x = 1 + 2 * torch.randn(N, *shape, generator=generator, dtype=torch.float64)
    return x, torch.sin(x.flatten(1)[:, 0]) + 0.3 * torch.randn(N, generator=generator, dtype=torch.float64)


def problem(net, scales=SCALES, **options):
    x, y = rows(net)
    net = net.double()
    found = [
        br.BayesianModel(net, {"*.weight": priors.Normal(s), "*": priors.Normal(1.0)}, likelihoods.Gaussian(NOISE)).ingest(x, y)
        for s in scales
    ]
    return [LogJoint(model) for model, _ in found], found[0][1]


def scattered(log_joint, data, count=MEMBERS):
    start = log_joint.layout.flatten(log_joint.model.start(data.x, data.y))
    noise = torch.randn(count, len(start), generator=torch.Generator().manual_seed(1), dtype=start.dtype)
    return start + 0.2 * noise


def loaded(log_joint, u):
    """A plain torch network at this point, in training mode."""
    net = copy.deepcopy(log_joint.model.module).train()
    with torch.no_grad():
        for name, value in log_joint.layout.unflatten(u).items():
            net.get_parameter(name).copy_(value)
    return net


def statistics(module):
    return {name: buffer.clone() for name, buffer in module.named_buffers()}


def by_hand(net, scale, x, y, num_data):
    """F/N of a batch, as anybody would write it in torch."""
    loss = (net(x).reshape(-1) - y).square().sum() / (2 * NOISE**2) + len(x) * np.log(NOISE * np.sqrt(2 * np.pi))
    penalty = sum(
        p.square().sum() / (2 * (scale if name.endswith("weight") else 1.0) ** 2) for name, p in net.named_parameters()
    )
    return loss / len(x), penalty / num_data


@pytest.mark.parametrize(
    ("name", "own_rows"),
    [
        ("mlp", True),
        ("conv, cumulative", False),
        ("own forward", True),
        *(pytest.param(name, False, marks=pytest.mark.slow) for name in NETWORKS if name != "conv, cumulative"),
        pytest.param("conv, cumulative", True, marks=pytest.mark.slow),
    ],
)
def test_fifty_steps_of_each_are_a_torch_loop_of_its_own(name, own_rows):
    """Loss, gradient and running statistics at every step, and the weights that follow, on the same batches."""
    make, options = NETWORKS[name]
    joints, data = problem(make(**options))
    before = [statistics(j.model.module) for j in joints]
    u = scattered(joints[0], data)
    nets = [loaded(j, v) for j, v in zip(joints, u, strict=True)]
    optimizers = [torch.optim.Adam(net.parameters(), lr=0.02) for net in nets]
    x, y = data.x, data.y
    if own_rows:
        x, y = (torch.stack([v.roll(r, 0) * (1 + r) for r in range(MEMBERS)]) for v in (x, y))
    together = Replicas(joints, x, y, MEMBERS, own_rows=own_rows)
    assert (together.layers is None) is (name.startswith(("conv", "own")))
    take, layout, N = Stepper(together, u), joints[0].layout, data.num_data
    batches = row_batches(N, 16, torch.Generator().manual_seed(0), u.device)
    for _ in range(50):
        index = next(batches)
        total = take(0.02, index)
        losses = []
        for r, (net, optimizer) in enumerate(zip(nets, optimizers, strict=True)):
            optimizer.zero_grad()
            own = (x[r, index], y[r, index]) if own_rows else (x[index], y[index])
            loss, penalty = by_hand(net, SCALES[r], *own, N)
            (loss + penalty).backward()
            losses.append(N * float(loss.detach()))
            slopes = layout.flatten({n: p.grad for n, p in net.named_parameters()})
            torch.testing.assert_close(take.gradient[r], slopes, rtol=1e-6, atol=1e-9)
            optimizer.step()
            ours = {n: v if together.buffers.axes[n] is None else v[r] for n, v in together.buffers.values.items()}
            theirs = dict(net.named_buffers())
            assert ours.keys() == theirs.keys()
            for leaf, value in theirs.items():
                torch.testing.assert_close(ours[leaf], value, rtol=1e-6, atol=1e-9)
            torch.testing.assert_close(u[r], layout.flatten(dict(net.named_parameters())).detach(), rtol=1e-6, atol=1e-9)
        assert float(total) == pytest.approx(sum(losses), rel=1e-9)
    for log_joint, was in zip(joints, before, strict=True):
        assert not log_joint.model.module.training
        for leaf, value in log_joint.model.module.named_buffers():
            assert torch.equal(value, was[leaf])


@pytest.mark.parametrize("name", ["mlp", "conv", "mlp, cumulative"])
def test_what_is_no_training_step_reads_each_member_s_statistics_and_writes_none(name):
    """Objectives, gradients, rows' log-densities, Hessians and looks on the way are those of each member's own model."""
    make, options = NETWORKS[name]
    joints, data = problem(make(**options))
    replicas = Replicas(joints, data.x, data.y, MEMBERS)
    batches = row_batches(48, 16, torch.Generator().manual_seed(0), data.x.device)
    u = descend(
        replicas, scattered(joints[0], data), Schedule(30, 0.02), batches, lambda step, total, best: None, History("log joint")
    )
    seen = replicas.buffers.values["1.num_batches_tracked"]
    assert int(seen) == 30  # a look at each step, and yet one batch a step
    models = [replicas.buffers.carried(r, j.model) for r, j in enumerate(joints)]
    before = {n: v.clone() for n, v in replicas.buffers.values.items()}
    means = [dict(model.module.named_buffers())["1.running_mean"] for model in models]
    assert not torch.allclose(means[0], means[1], rtol=1e-2)
    for many in (replicas, replicas.part(torch.tensor([0, 1, 2])), replicas.part(slice(0, 3)), replicas.of_density()):
        nats, slopes, outputs, by_row = many.objectives(u), many.gradient(u), many.outputs(u), many.row_log_prob(u)
        for r, model in enumerate(models):
            own = LogJoint(model)
            value, slope = gradient_of(own, u[r], data)
            assert float(nats[r]) == pytest.approx(value, rel=1e-12)
            torch.testing.assert_close(-slopes[r], slope, rtol=1e-9, atol=1e-9)
            values = own.layout.unflatten(u[r])
            torch.testing.assert_close(outputs[r], model.forward(values, data.x).detach(), rtol=1e-10, atol=1e-10)
            alone = model.likelihood.log_prob(model.forward(values, data.x), data.y, **model.noise(values))
            torch.testing.assert_close(by_row[r], alone.detach(), rtol=1e-10, atol=1e-10)
    again = Replicas([LogJoint(model) for model in models], data.x, data.y, MEMBERS)  # statistics that models bring
    torch.testing.assert_close(again.objectives(u), replicas.objectives(u), rtol=1e-12, atol=0)
    hessian = replicas.hessians(u)[1]
    wanted = torch.func.hessian(lambda v: -LogJoint(models[1]).prepared(v, data.x, data.y, 48))(u[1])
    torch.testing.assert_close(hessian, wanted, rtol=1e-8, atol=1e-8)
    for many in (replicas.part(slice(0, 3)), replicas.of_density()):  # copies have statistics of their own
        many.losses(many.leaves(u), training=True)
    for leaf, value in before.items():
        assert torch.equal(replicas.buffers.values[leaf], value)


def test_float32_has_statistics_of_its_type_and_objectives_in_float64():
    joints, data = problem(mlp())
    models = [j.model.to(dtype=torch.float32) for j in joints]
    replicas = Replicas([LogJoint(m) for m in models], data.x.float(), data.y.float(), MEMBERS)
    u = scattered(joints[0], data).float()
    Stepper(replicas, u)(0.01, None)
    assert replicas.buffers.values["1.running_var"].dtype == torch.float32
    torch.testing.assert_close(replicas.double().objectives(u.double()), replicas.objectives(u), rtol=1e-5, atol=0)


def test_fits_end_with_adam_s_steps_and_say_each_model():
    joints, data = problem(mlp())
    start = scattered(joints[0], data)
    state = torch.get_rng_state()
    runs = [fit_many(joints, start, data, num_steps=40, batch_size=16) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), state)
    (u, nats, models), again = runs
    assert torch.equal(u, again[0])
    replicas = Replicas(joints, data.x, data.y, MEMBERS)
    batches = row_batches(48, 16, torch.Generator().manual_seed(0), u.device)
    quiet = (lambda step, total, best: None, History("log joint"))
    assert torch.equal(u, descend(replicas, start.clone(), Schedule(40, 0.01), batches, *quiet))
    full = fit_many(joints, start, data, num_steps=40)[0]  # nor is a fit on all rows polished
    replicas = Replicas(joints, data.x, data.y, MEMBERS)
    batches = row_batches(48, None, torch.Generator(), u.device)
    assert torch.equal(full, descend(replicas, start.clone(), Schedule(40, 0.01), batches, *quiet))
    for r, model in enumerate(models):
        assert model.latents["0.weight"].prior == joints[r].model.latents["0.weight"].prior
        assert gradient_of(LogJoint(model), u[r], data)[0] == pytest.approx(float(nats[r]), rel=1e-12)
        for leaf, value in model.module.named_buffers():
            assert torch.equal(value, dict(again[2][r].module.named_buffers())[leaf])
    assert float(joints[0].model.module[1].running_mean.abs().max()) == 0


def test_what_batch_normalisation_cannot_do_in_many_fits_is_refused():
    joints, data = problem(mlp())
    start = scattered(joints[0], data)
    with pytest.raises(
        ValueError, match=r"each row must count once, but weights came, .* has batch normalisation, .*; take nn.LayerNorm in"
    ):
        fit_many(joints, start, data, weights=torch.ones(3, 48))
    with pytest.raises(ValueError, match=r"num_steps must be at least 1 where .* batch normalisation, .* but 0 came; take for"):
        fit_many(joints, start, data, num_steps=0)
    sparse = br.BayesianModel(mlp().double(), {"0.weight": priors.GroupLasso(0.1, per="column")})
    with pytest.raises(ValueError, match="bootstrap refits count rows several times, but the network has batch norm"):
        br.stability(sparse, *rows(mlp()), num_bootstraps=2, num_steps=3, progress=False)
    both = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.1), nn.Linear(4, 1)).double()
    with pytest.raises(ValueError, match=r"many fits at once need a fixed network .* dropout would have to draw masks of each"):
        check_replicable(problem(both)[0][0])
    older = mlp()
    older[1].num_batches_tracked += 3
    with pytest.raises(ValueError, match=r"the same whole numbers in their buffers, but those of 1.num_batches_tracked differ"):
        ReplicaBuffers([mlp(), older], 2)


class Averaged(Own):
    """Keeps a mean of its own beside batch normalisation, which no copy could be given back."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, x):
        if self.training:
            self.seen = 0.9 * self.seen + 0.1 * x.mean(0)
        return super().forward(x - self.seen)


class Masked(Own):
    def forward(self, x):
        return super().forward(nn.functional.dropout(x, 0.3, self.training))


def test_what_a_module_does_in_training_by_itself_is_found_beside_batch_normalisation():
    x, y = rows(mlp())
    model, _ = br.BayesianModel(Own().double()).ingest(x, y)
    assert not model.behaviour.own_code
    model, _ = br.BayesianModel(Averaged().double()).ingest(x, y)
    assert model.behaviour.own_code
    with pytest.raises(
        ValueError, match=r"many fits .* fixed network .* own code makes Averaged another function in training; fit"
    ):
        check_replicable(LogJoint(model))
    with pytest.raises(ValueError, match="the forward of Masked draws numbers of its own"):
        br.BayesianModel(Masked().double()).ingest(x, y)


@pytest.mark.parametrize(
    ("name", "poor"),
    [
        ("mlp", False),
        ("conv", True),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("mlp", True), ("conv", False))),
        *(pytest.param("mlp, cumulative", poor, marks=pytest.mark.slow) for poor in (False, True)),
    ],
)
def test_the_best_of_several_starts_keeps_its_own_statistics(name, poor):
    """The answer's log-joint is reached with the buffers that came along; the single fit's is among the restarts'."""
    make, options = NETWORKS[name]
    net = make(**options).double()
    x, y = rows(net)
    with torch.no_grad():
        net[-1].weight.mul_(100 if poor else 1)
    model, before = br.BayesianModel(net, priors.Normal(1.0)), statistics(net)
    options = {"num_steps": 50, "batch_size": 16}
    found, again = (br.fit(model, x, y, method=MAP(num_restarts=2, **options), seed=1, progress=False) for _ in range(2))
    alone = br.fit(model, x, y, method=MAP(**options), seed=1, progress=False)
    assert torch.equal(found.loc, again.loc)
    details, single = found.certificate.details, alone.certificate.details["log joint"]
    value = gradient_of(LogJoint(found.model), found.loc, model.ingest(x, y)[1])[0]
    assert details["log joint"] == pytest.approx(value, rel=1e-10)
    assert int(found.model.module[1].num_batches_tracked) == 50  # no fit goes on where another one ended
    for leaf, buffer in again.model.module.named_buffers():
        assert torch.equal(found.model.module.get_buffer(leaf), buffer)
    if poor:
        assert "number 2 is the best" in " ".join(found.history.notes)
        assert value - details["spread over restarts"] == pytest.approx(single, rel=1e-9)
    worst = value - details["spread over restarts"]
    assert single == pytest.approx(value, rel=1e-9) or single == pytest.approx(worst, rel=1e-9)
    for module in (net, model.module):
        for leaf, buffer in module.named_buffers():
            assert torch.equal(buffer, before[leaf])
    assert not model.module.training


@pytest.mark.parametrize("standardize", [pytest.param(False, marks=pytest.mark.slow), True])
def test_each_point_of_a_path_and_each_fold_has_its_own_statistics(standardize):
    """A fit of the path is the fit of that scale alone; what a fold leaves out is in no batch of its fits."""
    net = mlp().double()
    x, y = rows(net)
    y = 3 * y + 7
    rules = {"0.weight": priors.Normal(1.0), "*": priors.Normal(1.0)}
    model = br.BayesianModel(net, rules, likelihoods.Gaussian(NOISE), standardize)
    fold = np.arange(48) % 3
    options = {"scales": [0.2, 1.0], "rule": "0.weight", "num_steps": 40, "progress": False}
    found = br.path(model, x, y, folds=fold, **options)
    assert (found.degrees_of_freedom, found.log_evidence) == (None, None)
    with pytest.raises(
        ValueError,
        match=r"best\('evidence'\) must have evidences .*, but batch normalisation makes training follow another objective",
    ):
        found.best("evidence")
    with pytest.raises(ValueError, match=r"evidence=True must have .* batch normalisation makes .*; take evidence='auto'"):
        br.path(model, x, y, folds=None, evidence=True, **options)
    for i, scale in enumerate(found.scales.tolist()):
        rules = {"0.weight": priors.Normal(scale), "*": priors.Normal(1.0)}
        one = br.BayesianModel(net, rules, likelihoods.Gaussian(NOISE), standardize)
        score = []
        for k in (None, 0, 1, 2):
            keep = fold != k if k is not None else fold >= 0
            bound, data = one.ingest(x[keep], y[keep])
            start = LogJoint(bound).layout.flatten(bound.start(data.x, data.y))[None]
            u, nats, (alone,) = fit_many(LogJoint(bound), start, data, num_steps=40)
            if k is not None:
                values = LogJoint(alone).layout.unflatten(u[0])
                left = alone.log_likelihood(values, x[~keep], y[~keep], num_data=int((~keep).sum()))
                score.append(float(left) / int((~keep).sum()))
                continue
            post = found.posterior(i)
            torch.testing.assert_close(post.loc, u[0], rtol=1e-7, atol=1e-9)
            assert float(found.log_joint[i]) == pytest.approx(float(nats[0]), rel=1e-9)
            for leaf, value in alone.module.named_buffers():
                torch.testing.assert_close(post.model.module.get_buffer(leaf), value, rtol=1e-7, atol=1e-9)
            assert post.certificate.details["log joint"] == pytest.approx(float(nats[0]), rel=1e-9)
        assert found.held_out[:, i].tolist() == pytest.approx(score, rel=1e-6)
    assert not torch.equal(*(m.module[1].running_mean for m in found.models))
    assert float(model.module[1].running_mean.abs().max()) == 0
    assert "df" not in str(found).splitlines()[1]


@pytest.mark.slow  # quickly: the path just above
def test_a_path_of_a_linear_network_with_batch_normalisation_is_trained_not_solved(monkeypatch):
    """In evaluation it is linear in its weights, and yet no closed form is its fit; batches may be larger than a fold."""
    net = nn.Sequential(nn.Linear(3, 1), nn.BatchNorm1d(1, affine=False)).double()
    x, y = rows(mlp())
    model = br.BayesianModel(net, priors.Normal(1.0), likelihoods.Gaussian(NOISE))
    options = {"scales": [0.5, 1.0], "rule": "0.weight", "num_steps": 20, "progress": False}
    found = br.path(model, x, y, folds=3, batch_size=40, **options)
    assert [int(m.module[1].num_batches_tracked) for m in found.models] == [20, 20]
    assert bool(found.held_out.isfinite().all())
    again = br.path(model, x, y, folds=3, batch_size=40, **options)
    assert torch.equal(found.modes, again.modes)
    monkeypatch.setattr(importlib.import_module("bayesreg.selection.paths"), "NUM_STEPS", 20)
    found = br.path(model, x, y, folds=None, **options | {"num_steps": None})
    assert [int(m.module[1].num_batches_tracked) for m in found.models] == [20, 20]


@pytest.mark.parametrize(
    ("momentum", "rate"),
    [(0.1, 0.0), (None, 0.3), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((None, 0.0), (0.1, 0.3)))],
)
def test_dropout_fits_of_several_sets_have_statistics_of_each(rate, momentum):
    """At rate 0 each is a plain torch loop of its own; at any rate each has seen its own set alone."""
    sets, models, steps = [], [], 30
    for seed in range(MEMBERS):
        torch.manual_seed(seed)
        # no shift before a layer that takes means away: Adam would make steps of a gradient that is rounding
        norms = nn.BatchNorm1d(3, momentum=momentum, affine=False), nn.BatchNorm1d(5, momentum=momentum)
        parts = norms[0], nn.Linear(3, 5), norms[1], nn.ReLU(), layers.Dropout(rate), nn.Linear(5, 1)
        x, y = rows(mlp(), seed=seed)
        sets.append(((1 + seed) * x, y))
        models.append(br.BayesianModel(nn.Sequential(*parts).double(), {"*": priors.Normal(0.7)}, likelihoods.Gaussian(NOISE)))
    method = MCDropout(num_steps=steps, learning_rate=0.02)
    with pytest.warns(br.ConvergenceWarning):
        found = method.fit_each(models, sets, progress=False)
    schedule = Schedule(steps, 0.02)
    for model, post, (x, y) in zip(models, found, sets, strict=True):
        of_inputs, of_units = post.model.module[0], post.model.module[2]
        assert int(of_units.num_batches_tracked) == steps
        assert not model.module.training
        assert float(model.module[2].running_mean.abs().max()) == 0
        share = 1.0 if momentum is None else 1 - (1 - momentum) ** steps
        torch.testing.assert_close(of_inputs.running_mean, share * x.mean(0), rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(of_inputs.running_var, 1 + share * (x.var(0) - 1), rtol=1e-9, atol=1e-12)
        if rate:
            continue
        net = copy.deepcopy(model.module).train()
        optimizer = torch.optim.Adam(net.parameters(), lr=0.02)
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate(step)
            optimizer.zero_grad()
            loss = (net(x)[:, 0] - y).square().sum() / (2 * NOISE**2)
            penalty = sum(p.square().sum() / (2 * 0.7**2) for p in net.parameters())
            ((loss + penalty) / len(x)).backward()
            optimizer.step()
        for name, value in net.named_parameters():
            torch.testing.assert_close(post.mean[name], value.detach(), rtol=1e-6, atol=1e-9)
        for leaf in ("running_mean", "running_var"):
            torch.testing.assert_close(of_units.get_buffer(leaf), net[2].get_buffer(leaf), rtol=1e-6, atol=1e-9)
