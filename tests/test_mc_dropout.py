"""MCDropout: its limits, what it leaves untouched, what comes back from a file, pruning, learned rates."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bayesreg as br
from bayesreg import layers, likelihoods, priors
from bayesreg.inference import MAP, MCDropout
from bayesreg.layers import VariationalDropout

SEEDS = pytest.mark.parametrize("seed", [0, 1, 2])
SLOW_SEEDS = pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])


def model_of(*parts, likelihood=None, prior=None, dtype=torch.float64):
    net = nn.Sequential(*parts).to(dtype)
    return br.BayesianModel(net, prior or priors.Normal(1.0), likelihood or likelihoods.Gaussian(0.5))


def rows(n=80, d=3, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    return X, np.sin(X[:, 0]) + 0.5 * X[:, 1] + 0.1 * rng.normal(size=n)


def small(*between, seed=0, **options):
    torch.manual_seed(seed)
    first, last = nn.Linear(3, 8), nn.Linear(8, 1)  # made here, so that what stands between does not change where they start
    return model_of(first, nn.Tanh(), *between, last, **options)


def quick(model, data=None, seed=0, **options):
    return br.fit(model, *(data or rows()), method=MCDropout(**{"num_steps": 60, **options}), seed=seed)


def log_joint(post, X, y):
    return float(post.model.log_joint(post.mean, X, y))


# ---- the limit of rate 0


@pytest.mark.parametrize("rate", [0.0, pytest.param(1e-12, marks=pytest.mark.slow)])
def test_at_rate_0_it_is_the_mode_of_a_linear_model(standard_diabetes, rate):
    X, y = standard_diabetes
    options = {"prior": priors.Normal(0.3), "likelihood": likelihoods.Gaussian(0.7)}
    exact = br.fit(model_of(nn.Linear(10, 1), **options), X, y, method="exact")
    found = br.fit(model_of(layers.Dropout(rate), nn.Linear(10, 1), **options), X, y, method=MCDropout(1400, 0.05))
    sds = (found.mean["1.weight"] - exact.mean["0.weight"]).abs() / exact.std["0.weight"]
    assert float(sds.max()) < 1e-2
    assert float(found.std["1.weight"].max()) < 1e-5


@pytest.mark.slow  # quickly: the linear model above
@SLOW_SEEDS
def test_at_rate_0_it_is_the_mode_of_a_network_from_the_same_start(seed):
    X, y = rows(seed=seed)
    mode = br.fit(small(seed=seed, prior=priors.Normal(0.5)), X, y, method=MAP(num_steps=600, optimizer="adam"))
    zero = small(layers.Dropout(0.0), seed=seed, prior=priors.Normal(0.5))
    found = br.fit(zero, X, y, method=MCDropout(num_steps=600))
    assert log_joint(found, X, y) == pytest.approx(log_joint(mode, X, y), abs=0.02)
    assert found.history.objective[-1] == pytest.approx(log_joint(found, X, y), abs=0.02), "the ELBO is the log joint"
    torch.testing.assert_close(found.mean["3.weight"], mode.mean["2.weight"], rtol=0, atol=1e-3)


@pytest.mark.slow
def test_more_dropout_is_more_decay(standard_diabetes):
    """One linear layer: the mode under Gaussian and Bernoulli dropout is ridge with λ and X'X both inflated, in closed form."""
    X, y = standard_diabetes
    rate, tau, sigma = 0.3, 0.3, 0.7
    for layer in (layers.Dropout(rate), layers.GaussianDropout(rate)):
        model = model_of(layer, nn.Linear(10, 1, bias=False), prior=priors.Normal(tau), likelihood=likelihoods.Gaussian(sigma))
        found = br.fit(model, X, y, method=MCDropout(num_steps=6000), seed=1).mean["1.weight"][0].numpy()
        gram = X.T @ X + rate / (1 - rate) * np.diag((X**2).sum(0))  # E[(Xz)'(Xz)]
        expected = np.linalg.solve(gram + sigma**2 / tau**2 / (1 - rate) * np.eye(10), X.T @ y)
        sd = sigma / np.sqrt(np.diag(gram))
        assert (np.abs(found - expected) / sd).max() < 0.3  # the masks' noise at the last steps


# ---- what is left untouched


class Broken(nn.Module):
    """Identity until it is told to fail: an exception in the middle of the forward."""

    failing = False  # of the class, since each thread runs a copy of its own

    def forward(self, x):
        if Broken.failing:
            raise KeyError("in the middle")
        return x


NORMS = {
    "1d": ((3,), lambda: [nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(0.3), Broken(), nn.Linear(6, 1)]),
    "2d": (
        (2, 4, 4),
        lambda: [nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.Dropout2d(0.3), Broken(), nn.Flatten(), nn.Linear(27, 1)],
    ),
    "3d": (
        (2, 3, 3, 3),
        lambda: [nn.Conv3d(2, 3, 2), nn.BatchNorm3d(3), nn.Dropout3d(0.3), Broken(), nn.Flatten(), nn.Linear(24, 1)],
    ),
    "nested": (
        (3,),
        lambda: [nn.Linear(3, 6), nn.Sequential(nn.BatchNorm1d(6), nn.Sequential(nn.Dropout(0.3), Broken())), nn.Linear(6, 1)],
    ),
}


@pytest.mark.parametrize("kind", NORMS)
@pytest.mark.parametrize("num_rows", [5, 400])
def test_predicting_leaves_batch_norm_and_modes_as_they_were(kind, num_rows, monkeypatch):
    row, parts = NORMS[kind]
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, *row)), rng.normal(size=40)
    model = model_of(*parts())
    post = quick(model, (X, y), num_steps=30, batch_size=20)

    def state():
        modules = (post.model.module, post.masks.module, model.module)
        buffers = [{k: b.clone() for k, b in m.named_buffers()} for m in modules]
        return buffers, [[m.training for m in module.modules()] for module in modules]

    def same(before, after):
        assert all(a[k].equal(b[k]) for a, b in zip(before[0], after[0], strict=True) for k in a)
        assert all(a.keys() == b.keys() for a, b in zip(before[0], after[0], strict=True))
        assert before[1] == after[1]

    before = state()
    assert any(float(b.double().abs().sum()) > 0 for k, b in before[0][0].items() if "running_mean" in k), "it was trained"
    assert all(float(b.double().abs().sum()) == 0 for k, b in before[0][2].items() if "running_mean" in k), "the person's not"
    new = rng.normal(size=(num_rows, *row)) + 100
    for masks in ("draw", "row"):
        pred = post.predict(new, num_samples=8, masks=masks)
        assert float(pred.epistemic_variance.min()) > 0
        same(before, state())
    for masks in ("draw", "row"):
        monkeypatch.setattr(Broken, "failing", True)
        with pytest.raises(KeyError, match="in the middle"):
            post.predict(new, num_samples=8, masks=masks)
        monkeypatch.setattr(Broken, "failing", False)
        same(before, state())
    post.masks.module[0].train()  # a mode that somebody set stays too
    before = state()
    post.predict(new, num_samples=4, masks="row")
    same(before, state())


@SLOW_SEEDS
def test_seeds_and_the_random_state(seed):
    rng = torch.get_rng_state()
    a, b, c = (quick(small(nn.Dropout(0.2)), seed=s) for s in (seed, seed, seed + 1))
    X = rows()[0]
    assert a.mean["3.weight"].equal(b.mean["3.weight"])
    assert not a.mean["3.weight"].equal(c.mean["3.weight"])
    torch.set_rng_state(rng)
    assert a.sample(5, seed=3)["3.weight"].equal(b.sample(5, seed=3)["3.weight"])
    assert not a.sample(5, seed=3)["3.weight"].equal(a.sample(5, seed=4)["3.weight"])
    for masks in ("draw", "row"):
        one, two, other = (a.predict(X, num_samples=7, seed=s, masks=masks).mean for s in (3, 3, 4))
        assert one.equal(two)
        assert not one.equal(other)
    assert torch.get_rng_state().equal(rng)


# ---- a posterior like any other


def every_layer():
    return [
        nn.Linear(3, 6), nn.Tanh(), layers.Dropout(0.1), nn.Linear(6, 6), layers.GaussianDropout(0.1), nn.Linear(6, 6),
        layers.ConcreteDropout(0.2, temperature=0.2), nn.Linear(6, 6), nn.Tanh(), layers.AlphaDropout(0.1),
        layers.DropConnect(nn.Linear(6, 6), 0.1), nn.Tanh(), nn.Dropout(0.1), nn.Linear(6, 6),
        VariationalDropout(nn.Linear(6, 6), prior="declared"), nn.Tanh(), VariationalDropout(nn.Linear(6, 1, bias=False)),
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_file_brings_all_of_it_back(tmp_path, dtype):
    post = quick(model_of(*every_layer(), dtype=dtype), num_steps=40)
    fresh = dict(model_of(*every_layer(), dtype=dtype).module.named_buffers())
    learned = dict(post.model.module.named_buffers())
    assert {"6.logit_rate", "14.log_variance", "16.log_variance"} == learned.keys()
    assert not any(learned[k].equal(fresh[k]) for k in learned), "the layers have learned"
    br.save(post, tmp_path / "post.pt")
    X = rows()[0]
    for again in (br.load(tmp_path / "post.pt"), br.load(tmp_path / "post.pt", model_of(*every_layer()).module)):
        assert type(again) is type(post)
        assert [type(m) for m in again.model.module.modules()] == [type(m) for m in post.model.module.modules()]
        assert all(again.model.module.get_buffer(k).equal(v) for k, v in learned.items())
        assert again.noises == post.noises
        for masks in ("draw", "row"):
            assert again.predict(X, num_samples=9, masks=masks).mean.equal(post.predict(X, num_samples=9, masks=masks).mean)
        drawn, wanted = again.sample(3, seed=2), post.sample(3, seed=2)
        assert all(drawn[k].equal(wanted[k]) for k in wanted)
        assert all(again.std[k].equal(v) for k, v in post.std.items())
        assert again.record == post.record


def test_every_layer_of_this_package_is_built_again_from_its_description():
    from bayesreg._catalog import concrete
    from bayesreg.io import _build, _describe

    made = {layers.DropConnect: (nn.Linear(3, 2), 0.3), layers.VariationalDropout: (nn.Linear(3, 2), 0.01, "declared")}
    made |= {layers.Standardize: ([1.0], [2.0]), layers.ConcreteDropout: (0.1, 0.7), layers.AlphaDropout: (0.3, True)}
    for cls in (*concrete(layers.AbstractMask), layers.Standardize):
        layer = cls(*made.get(cls, (0.3,)))
        again = _build(_describe(layer))
        assert (type(again), again.extra_repr()) == (cls, layer.extra_repr())


def test_a_network_that_no_file_can_describe_needs_its_module(tmp_path):
    conv = [nn.Unflatten(1, (1, 3)), layers.DropConnect(nn.Conv1d(1, 2, 2), 0.1), nn.Flatten(), nn.Linear(4, 1)]
    post = quick(model_of(*conv), num_steps=5)
    br.save(post, tmp_path / "post.pt")
    with pytest.raises(ValueError, match="pass it: load"):
        br.load(tmp_path / "post.pt")
    again = br.load(tmp_path / "post.pt", model_of(*copy.deepcopy(conv)).module)
    assert again.predict(rows()[0], num_samples=5).mean.equal(post.predict(rows()[0], num_samples=5).mean)


@pytest.mark.slow  # quickly: test_report_dropout's pages
@pytest.mark.usefixtures("unrendered")
def test_compare_and_report_take_it(tmp_path):
    X, y = rows()
    fits = {"dropout": quick(small(nn.Dropout(0.1)), num_steps=100), "MAP": br.fit(small(), X, y, method=MAP(num_steps=100))}
    assert "dropout" in str(br.compare(fits, X, y, num_samples=50))
    br.report(fits, X, y).save(tmp_path / "report.html")
    assert "mc-dropout" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert fits["dropout"].noises == {"2": "units dropped at rate 0.1"}
    assert float(fits["dropout"].mode.predict(X).epistemic_variance.max()) == 0


def test_a_loader_a_convolution_classes_and_both_float_types():
    X, y = rows(90)
    loader = DataLoader(TensorDataset(torch.tensor(X), torch.tensor(y)), batch_size=40, shuffle=True)  # a last one of 10
    streamed = br.fit(small(nn.Dropout(0.1)), loader, method=MCDropout(num_steps=200))
    whole = quick(small(nn.Dropout(0.1)), (X, y), num_steps=200)
    assert log_joint(streamed, X, y) == pytest.approx(log_joint(whole, X, y), abs=25)
    for dtype in (torch.float32, torch.float64):
        post = quick(small(nn.Dropout(0.1), dtype=dtype), num_steps=20)
        assert post.mean["3.weight"].dtype == post.predict(X, num_samples=3).mean.dtype == dtype
    images = np.random.default_rng(0).normal(size=(120, 1, 5, 5))
    digits = (images.mean((1, 2, 3)) > 0).astype(int) + (images[:, 0, 0, 0] > 0)
    conv = [nn.Conv2d(1, 6, 2), nn.ReLU(), nn.Dropout2d(0.1), nn.Conv2d(6, 6, 2), nn.ReLU(), nn.Flatten()]
    model = model_of(*conv, layers.DropConnect(nn.Linear(54, 3), 0.1), likelihood=likelihoods.Categorical())
    pred = quick(model, (images, digits), num_steps=250).predict(images, num_samples=100)
    assert pred.mean.shape == (120, 3)
    assert float((pred.mean.argmax(1).numpy() == digits).mean()) > 0.9


# ---- sparse


@pytest.mark.slow  # quickly: the compressed network, which is the pruned one
@SLOW_SEEDS
def test_sparse_dropout_prunes_what_the_data_do_not_show(seed):
    """A weight is pruned by its t statistic in least squares; the columns are nearly orthogonal, so that each is for itself."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(300, 12))
    y = 2 * X[:, 0] - X[:, 3] + 0.3 * rng.normal(size=300)
    model = model_of(VariationalDropout(nn.Linear(12, 1)), likelihood=likelihoods.Gaussian(0.3))
    post = br.fit(model, X, y, method=MCDropout(num_steps=2000, warmup=0.2), seed=seed)
    ((name, share),) = post.sparsity().items()
    assert name == "0.layer.weight"
    pruned = post.prune()
    weight, variance = post.mean[name], post.model.module[0].log_variance
    log_alpha = variance - (weight**2 + 1e-8).log()
    assert (pruned.mean[name] == 0).equal(log_alpha > 3)
    assert share == float((log_alpha > 3).double().mean())
    design = np.column_stack([X, np.ones(300)])
    t = np.linalg.lstsq(design, y, rcond=None)[0] / (0.3 * np.sqrt(np.diag(np.linalg.inv(design.T @ design))))
    t = torch.tensor(np.abs(t[:12]))
    assert (log_alpha[0, t < 0.75] > 3).all()
    assert (log_alpha[0, t > 1.3] < 3).all()
    assert (log_alpha[0, t > 50] < -7).all()
    assert share > 0
    kept = pruned.mean[name] != 0
    assert pruned.mean[name][kept].equal(weight[kept])
    assert post.prune(-50.0).mean[name].count_nonzero() == 0
    assert post.prune(50.0).mean[name].equal(weight)
    plain = post.compressed()
    assert not layers.mask_layers(plain)
    assert isinstance(plain[0], nn.Linear)
    torch.testing.assert_close(plain(torch.tensor(X))[:, 0].detach(), pruned.predict(X).mean)
    assert float(pruned.mean[name][0, 0]) == pytest.approx(2.0, abs=0.1)


def test_the_compressed_network_is_plain_and_predicts_what_the_pruned_mode_does():
    parts = [nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Dropout(0.1), nn.Linear(6, 6), nn.AlphaDropout(0.1)]
    model = model_of(*parts, nn.Sequential(VariationalDropout(nn.Linear(6, 6), 0.5)), nn.Tanh(), nn.Linear(6, 1))
    post = quick(model, num_steps=200)
    plain = post.compressed(1.0)
    assert not plain.training
    assert not layers.mask_layers(plain)
    assert not any(isinstance(m, nn.modules.dropout._DropoutNd) for m in plain.modules())
    X = rows()[0]
    torch.testing.assert_close(plain(torch.tensor(X))[:, 0].detach(), post.prune(1.0).predict(X).mean)
    assert (plain[5][0].weight == 0).sum() == round(post.sparsity(1.0)["5.0.layer.weight"] * 36)
    with pytest.raises(ValueError, match="pruning needs weights with a learned sd each"):
        quick(small(nn.Dropout(0.1)), num_steps=5).prune()
    assert quick(small(nn.Dropout(0.1)), num_steps=5).sparsity() == {}
    bare = br.BayesianModel(VariationalDropout(nn.Linear(3, 1)).double())
    assert type(quick(bare, num_steps=5).compressed()) is nn.Linear


# ---- learned rates


def learned_rate(n, seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 2))
    y = np.sin(2 * X[:, 0]) + 0.5 * X[:, 1] + rng.normal(size=n)
    torch.manual_seed(seed)
    parts = [nn.Linear(2, 50), nn.Tanh(), layers.ConcreteDropout(0.1), nn.Linear(50, 1)]
    model = model_of(*parts, likelihood=likelihoods.Gaussian(1.0))
    post = br.fit(model, X, y, method=MCDropout(3000, 0.01, batch_size=min(n, 200)), seed=seed)
    return float(post.model.module[2].rate)


@pytest.mark.slow
@SEEDS
def test_more_data_teach_a_smaller_rate(seed):
    few, more, many = (learned_rate(n, seed) for n in (100, 1000, 10_000))
    assert few > 0.1 > more > many  # it began at 0.1
    assert many < 0.01


def test_a_rate_is_learned_and_shown():
    post = quick(small(layers.ConcreteDropout(0.3)), num_steps=200)
    rate = float(post.model.module[2].rate)
    assert abs(rate - 0.3) > 0.02
    assert post.noises["2"] == f"units dropped at learned rate {rate:.3g}"
    share = post.std["3.weight"] / post.mean["3.weight"].abs()  # below a Bernoulli mask's, since the relaxed one is between
    torch.testing.assert_close(share, share[:1, :1].expand_as(share))
    assert 0 < float(share[0, 0]) < math.sqrt(rate / (1 - rate))


# ---- the search


def test_batches_estimate_the_same_bound():
    """E over batches of the loss is the loss of all rows: N/B is right, and the KL counts once."""
    from bayesreg.inference import DropoutBound
    from bayesreg.objective import LogJoint

    X, y = rows(80)
    bound_model, data = small(layers.Dropout(0.0), nn.Linear(8, 8)).ingest(X, y)
    bound = DropoutBound(LogJoint(bound_model), data)
    phi = bound.flatten(bound.log_joint.layout.flatten(bound_model.weights()))
    x, t = next(data.epoch())
    losses = [
        bound.loss(phi, x[i : i + 20], t[i : i + 20], torch.zeros(bound.network.row_size(20)))[0] for i in range(0, 80, 20)
    ]
    whole = bound.loss(phi, x, t, torch.zeros(bound.network.row_size(80)))[0]
    torch.testing.assert_close(torch.stack(losses).mean(), whole)
    assert float(-80 * whole) == pytest.approx(float(bound_model.log_joint(bound_model.weights(), X, y)))


def test_the_search_does_not_depend_on_what_carries_no_noise():
    """Notes say what the ELBO is made of, layer by layer."""
    notes = quick(small(nn.Dropout(0.1)), num_steps=5).history.notes
    assert "2: units dropped at rate 0.1, on 3.weight." in notes
    assert any("known up to a constant" in note for note in notes)


@pytest.mark.slow
@pytest.mark.parametrize("middle", [layers.Dropout(0.1), layers.ConcreteDropout(0.1), layers.GaussianDropout(0.1)], ids=str)
def test_the_compiled_step_is_the_eager_one(middle):
    X, y = rows()
    sparse = [
        VariationalDropout(nn.Linear(8, 8), prior="declared"),
        nn.Tanh(),
        layers.DropConnect(nn.Linear(8, 8), 0.1),
        nn.Tanh(),
    ]

    def fitted(compile):
        model = small(middle, nn.Linear(8, 8), *copy.deepcopy(sparse))
        return br.fit(model, X, y, method=MCDropout(num_steps=2000, compile=compile))

    eager, compiled = fitted(False), fitted(True)
    assert any("compiled" in note for note in compiled.history.notes)
    tails = [np.array(post.history.objective[-10:]) for post in (eager, compiled)]
    error = math.sqrt(sum(tail.var() / len(tail) for tail in tails))
    assert abs(tails[0].mean() - tails[1].mean()) < 5 * error + 2


@pytest.mark.parametrize(
    ("parts", "options", "message"),
    [
        ([nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.1), nn.Linear(4, 1)], {}, "batch normalisation changes its buffers"),
        ([nn.Dropout(0.1), nn.Linear(3, 1)], {"warmup": 0.3}, "the KL's weight changes from step to step"),
    ],
)
def test_what_cannot_be_compiled(parts, options, message):
    with pytest.raises(ValueError, match=message):
        quick(model_of(*parts), compile=True, **options)
