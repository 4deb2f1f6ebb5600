"""Who may write batch normalisation's statistics: a training step, and nobody else; each kind of layer, each method."""

import copy
import re

import pyro
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg._catalog import concrete
from bayesreg.behaviour import Behaviour
from bayesreg.inference import (
    MAP,
    SVI,
    SWAG,
    AbstractMethod,
    AbstractSampling,
    Ensemble,
    FullRank,
    LaplaceApproximation,
    LowRank,
    MCBatchNorm,
    MCDropout,
    MeanField,
)
from bayesreg.objective import LogJoint, TrainingCopy
from bayesreg.posteriors import FlatELBO, MeanFieldGuide

NUM_STEPS, BATCH = 50, 16
FITTED = {
    "map": lambda: MAP(num_steps=NUM_STEPS, batch_size=BATCH),
    "laplace": lambda: LaplaceApproximation(mode=MAP(num_steps=NUM_STEPS, batch_size=BATCH)),
    "mean-field": lambda: MeanField(num_steps=NUM_STEPS, batch_size=BATCH),
    "low-rank": lambda: LowRank(2, num_steps=NUM_STEPS, batch_size=BATCH),
    "full-rank": lambda: FullRank(num_steps=NUM_STEPS, batch_size=BATCH),
    "svi": lambda: SVI(num_steps=NUM_STEPS, batch_size=BATCH),
    "mc-dropout": lambda: MCDropout(num_steps=NUM_STEPS, batch_size=BATCH),
    "mc-batchnorm": lambda: MCBatchNorm(BATCH, MAP(num_steps=NUM_STEPS), num_draws=20),
    "ensemble": lambda: Ensemble(2, num_steps=NUM_STEPS, batch_size=BATCH),
    "swag": lambda: SWAG(10, 20, 2, 5, batch_size=BATCH, start=MAP(num_steps=NUM_STEPS, batch_size=BATCH), num_draws=20),
}
TWICE = {"swag": 2, "low-rank": 2, "full-rank": 2}  # a path after a mode; two draws a step


class Block(nn.Module):
    """A layer inside a layer, with a forward of its own."""

    def __init__(self):
        super().__init__()
        self.inner = nn.ModuleDict({"norm": nn.BatchNorm1d(4)})

    def forward(self, x):
        return torch.tanh(self.inner["norm"](x))


def small(*parts, width):
    return nn.Sequential(*parts, nn.Flatten(), nn.Tanh(), nn.Dropout(0.1), nn.Linear(width, 1))


# shape of a row, and a network around the layer
KINDS = {
    "1d": ((3,), lambda: small(nn.Linear(3, 4), nn.BatchNorm1d(4), width=4)),
    "1d of sequences": ((2, 5), lambda: small(nn.Conv1d(2, 3, 2), nn.BatchNorm1d(3), width=12)),
    "2d": ((2, 3, 3), lambda: small(nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), width=12)),
    "3d": ((1, 3, 3, 3), lambda: small(nn.Conv3d(1, 2, 2), nn.BatchNorm3d(2), width=16)),
    "nested": ((3,), lambda: small(nn.Linear(3, 4), nn.Sequential(Block(), nn.Linear(4, 4)), nn.BatchNorm1d(4), width=4)),
    "cumulative": ((3,), lambda: small(nn.Linear(3, 4), nn.BatchNorm1d(4, momentum=None), width=4)),
    "not affine": ((3,), lambda: small(nn.Linear(3, 4), nn.BatchNorm1d(4, affine=False), width=4)),
    "synchronised": ((3,), lambda: small(nn.Linear(3, 4), nn.SyncBatchNorm(4), width=4)),
    "no statistics": ((3,), lambda: small(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False), width=4)),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def problem(kind, num_rows=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shape, make = KINDS[kind]
    x = 2 + 3 * torch.randn(num_rows, *shape, generator=generator, dtype=torch.float64)
    y = torch.randn(num_rows, generator=generator, dtype=torch.float64)
    module = make().double()
    rules = {"@norm": priors.Normal(1.0)} if any(layer.affine for layer in Behaviour(module).coupling.values()) else {}
    return module, br.BayesianModel(module, rules, likelihoods.Gaussian(0.7)), x, y


def state(module):
    return {k: v.clone() for k, v in module.state_dict().items()}, {n: m.training for n, m in module.named_modules()}


def assert_same(before, module):
    tensors, modes = state(module)
    assert tensors.keys() == before[0].keys()
    assert all(value.equal(before[0][name]) for name, value in tensors.items())
    assert modes == before[1]


class TestNobodyElseWrites:
    @pytest.mark.filterwarnings("ignore:batch normalisation at")
    @every_kind
    def test_before_any_fit(self, kind):
        """Set-up, tracing, Pyro's own guides, prior draws and densities, with the person's module in training mode."""
        module, model, x, y = problem(kind)
        module.train()
        before, inner = state(module), state(model.module)
        bound = model.bind(x, y)
        bound.prior_predictive(x, num_samples=3)
        bound.sample_prior(3)
        str(bound.prior_table())
        with pyro.poutine.trace() as traced:
            bound.pyro_model(x, y)
        assert bool(torch.isfinite(traced.trace.log_prob_sum()))
        bound.pyro_model(x)
        AutoNormal(bound.pyro_model)(x, y)
        log_joint = LogJoint(bound)
        u = log_joint.layout.flatten(bound.start(x, y))
        log_joint(u, x, y)
        guide = MeanFieldGuide(log_joint.layout, u, torch.full_like(u, 0.1))
        FlatELBO().loss(bound.pyro_model, guide, x, y)
        torch.vmap(lambda v: log_joint(v, x, y))(u.expand(3, -1))
        pyro.clear_param_store()
        for changed in (model, bound):
            assert_same(inner, changed.module)
        assert_same(before, module)

    @pytest.mark.filterwarnings("ignore::bayesreg.ConvergenceWarning")
    @pytest.mark.parametrize(
        ("kind", "method"),
        [
            pytest.param(kind, method, marks=[] if kind == "1d" or method == "map" else pytest.mark.slow)
            for kind in KINDS
            for method in FITTED
        ],
    )
    def test_after_the_fit(self, kind, method, tmp_path):
        module, model, x, y = problem(kind)
        before, inner = state(module), state(model.module)
        if not Behaviour(module).row_by_row and method == "laplace":
            with pytest.raises(ValueError, match=r"needs a network that sees each row by itself, .* take method='mean-field'"):
                br.fit(model, x, y, method=method)
            return
        post = br.fit(model, x, y, method=FITTED[method]())
        assert_same(before, module)
        assert_same(inner, model.module)
        for name, layer in post.model.behaviour.coupling.items():
            if layer.num_batches_tracked is not None:  # the fit's own steps wrote, each of them once
                assert int(layer.num_batches_tracked) == NUM_STEPS * TWICE.get(method, 1)
                assert not layer.running_mean.equal(inner[0][f"{name}.running_mean"])
        if not post.model.behaviour.row_by_row and method not in ("mc-batchnorm", "swag"):  # these two bring each draw its own
            with pytest.raises(ValueError, match=r"must not depend on the rows beside it, .*refresh_batchnorm\(posterior, X\)"):
                post.predict(x)
            post = br.refresh_batchnorm(post, x, num_draws=10)
        fitted = state(post.model.module)
        # rows unlike those of the fit: who normalised by them would show it
        predicted = post.predict(x + 100, num_samples=5)
        assert bool(predicted.mean.isfinite().all())
        torch.testing.assert_close(post.predict(x[:3] + 100, num_samples=5).mean, predicted.mean[:3], rtol=1e-9, atol=1e-9)
        br.compare({method: post}, x, y, num_samples=5)
        post.sample(3)
        br.save(post, tmp_path / "post.pt")
        assert_same(fitted, post.model.module)
        assert_same(before, module)

    @pytest.mark.filterwarnings("ignore::bayesreg.ConvergenceWarning")
    @pytest.mark.usefixtures("unrendered")
    @pytest.mark.parametrize("methods", [("map", "mean-field"), pytest.param(tuple(FITTED), marks=pytest.mark.slow)], ids=len)
    def test_a_report_of_methods(self, methods):
        _, model, x, y = problem("1d")
        posts = {method: br.fit(model, x, y, method=FITTED[method]()) for method in methods}
        posts["refreshed"] = br.refresh_batchnorm(posts["mean-field"], x, num_draws=20)
        before = {name: state(post.model.module) for name, post in posts.items()}
        br.report(posts, x, y, num_samples=10)
        for name, post in posts.items():
            assert_same(before[name], post.model.module)

    @pytest.mark.filterwarnings("ignore::bayesreg.ConvergenceWarning")
    def test_held_out_looks_write_nothing(self):
        """The point that is kept has the statistics of its own step: each step wrote once, and no look did."""
        _, model, x, y = problem("1d")
        method = MAP(num_steps=NUM_STEPS, batch_size=BATCH, validation_fraction=0.25, patience=1000)
        post = br.fit(model, x, y, method=method)
        (note,) = [note for note in post.history.notes if note.startswith("early stopping")]
        kept = int(re.search(r"came after step (\d+)", note)[1])
        assert int(post.model.module[1].num_batches_tracked) == kept

    @pytest.mark.filterwarnings("ignore::bayesreg.ConvergenceWarning")
    def test_a_laplace_approximation_claims_no_evidence(self):
        """Its curvature is that of fixed statistics, at a point that is no mode of them."""
        _, model, x, y = problem("1d")
        post = br.fit(model, x, y, method=FITTED["laplace"]())
        assert post.log_evidence is None
        assert any("there is no evidence" in note for note in post.history.said)

    def test_every_method_is_here(self):
        chains = {cls.name for cls in concrete(AbstractSampling)}  # none of their steps is one of training
        assert set(FITTED) | chains | {"exact", "gibbs", "auto"} == {cls.name for cls in concrete(AbstractMethod)}
        with pytest.raises(ValueError, match="linear in its weights"):
            br.fit(*problem("1d")[1:], method="exact")


def torch_loop(module, model, x, y, num_steps, batches):
    """Plain torch: each step's output, gradients and buffers after it, with the penalty written out."""
    net = copy.deepcopy(module).train()
    for layer in net.modules():
        layer.training = not isinstance(layer, nn.Dropout)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.02, momentum=0.9)
    scales = {r.name: r.prior.scale for r in model.resolved}
    for i in range(num_steps):
        rows = batches[i % len(batches)]
        optimizer.zero_grad()
        output = net(x[rows])[:, 0]
        penalty = sum((p / scales[name]).square().sum() for name, p in net.named_parameters()) / 2
        loss = (output - y[rows]).square().sum() / (2 * 0.7**2) / len(rows) + penalty / len(x)
        loss.backward()
        optimizer.step()
        yield output.detach(), {name: p.grad.clone() for name, p in net.named_parameters()}, state(net)[0]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
@every_kind
def test_fifty_steps_are_a_plain_torch_loop_s(kind, seed):
    """Output, gradients and every buffer, step by step, on the same batches."""
    module, model, x, y = problem(kind, seed=seed)
    for layer in module.modules():
        layer.p = 0.0 if isinstance(layer, nn.Dropout) else getattr(layer, "p", None)
    model = br.BayesianModel(module, model.spec.rules, model.likelihood).bind(x, y)
    log_joint = LogJoint(model)
    ours = TrainingCopy(log_joint, log_joint.layout.flatten(model.start(x, y)), len(x))
    optimizer = torch.optim.SGD([ours.flat], lr=0.02, momentum=0.9)
    heard = []
    ours.module.register_forward_hook(lambda layer, inputs, output: heard.append(output.detach()[:, 0]))
    batches = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)).split(BATCH)
    for i, (output, gradients, buffers) in enumerate(torch_loop(module, model, x, y, 50, batches)):
        rows = batches[i % len(batches)]
        ours.flat.grad.zero_()
        ours.backward(x[rows], y[rows])
        torch.testing.assert_close(heard[-1], output, rtol=1e-6, atol=1e-9)
        for name, gradient in gradients.items():
            found = ours.flat.grad[log_joint.layout.segments[name].slice].view_as(gradient)
            torch.testing.assert_close(found, gradient, rtol=1e-6, atol=1e-9)
        optimizer.step()
        for name, value in ours.module.state_dict().items():
            torch.testing.assert_close(value, buffers[name], rtol=1e-6, atol=1e-9)


class TestMeanFieldStep:
    @pytest.mark.filterwarnings("ignore::bayesreg.ConvergenceWarning")
    @pytest.mark.parametrize("num_particles", [1, 2])
    def test_normalises_by_its_batch(self, num_particles):
        """A guide without width takes the steps of the network in training mode, whatever its first statistics are."""
        _, model, x, y = problem("1d")
        found = []
        for shift in (0.0, 50.0):
            moved = model.with_module(copy.deepcopy(model.module))
            moved.module[1].running_mean += shift
            method = MeanField(num_steps=20, batch_size=BATCH, num_particles=num_particles, initial_scale=1e-9)
            found.append(br.fit(moved, x, y, method=method))
        for name, value in found[0].mean.items():
            torch.testing.assert_close(found[1].mean[name], value, rtol=1e-9, atol=1e-12)
        means = [post.model.module[1].running_mean for post in found]
        torch.testing.assert_close(means[1] - means[0], torch.full_like(means[0], 50 * 0.9**20), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("method", [MAP, MeanField, MCDropout], ids=lambda method: method.name)
class TestABatchOfOne:
    def test_is_refused(self, method):
        _, model, x, y = problem("1d")
        with pytest.raises(ValueError, match=r"two rows at least where batch normalisation .* but batch_size=1 came; pass for"):
            br.fit(model, x, y, method=method(num_steps=10, batch_size=1))

    def test_is_refused_at_a_loader_s_end(self, method):
        _, model, x, y = problem("1d", num_rows=33)
        loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=BATCH)
        with pytest.raises(ValueError, match="but a loader whose smallest batch has 1 came"):
            br.fit(model, loader, method=method(num_steps=10))

    @pytest.mark.filterwarnings("ignore::bayesreg.ConvergenceWarning")
    def test_is_enough_where_a_row_has_many_places(self, method):
        _, model, x, y = problem("2d")
        post = br.fit(model, x, y, method=method(num_steps=10, batch_size=1))
        assert bool(post.predict(x, num_samples=3).mean.isfinite().all())


@pytest.mark.parametrize("way", ["restarts", "path", "sets"])
def test_a_batch_of_one_is_refused_in_many_fits_too(way):
    _, model, x, y = problem("1d")
    if way != "sets":  # many fits at once draw no masks
        model = br.BayesianModel(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).double())
    fits = {
        "restarts": lambda: br.fit(model, x, y, method=MAP(num_steps=10, batch_size=1, num_restarts=2)),
        "path": lambda: br.path(model, x, y, scales=[0.5, 1.0], num_steps=10, batch_size=1),
        "sets": lambda: MCDropout(num_steps=10, batch_size=1).fit_each([model, model], [(x, y), (x, y)], progress=False),
    }
    with pytest.raises(ValueError, match=r"two rows at least where batch normalisation .* but batch_size=1 came; pass for"):
        fits[way]()
