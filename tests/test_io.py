"""Save and load: state only, everything comes back, nothing half-written stays."""

import os

import numpy as np
import pytest
import torch
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.inference import MAP, MeanField
from bayesreg.posteriors import Draws
from tests.conftest import linear_model


class Custom(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(10, 1)
        self.register_buffer("shift", torch.tensor([2.0]))

    def forward(self, x):
        return self.inner(x) + self.shift


@pytest.mark.parametrize("name", ["MAP", "Laplace", "mean-field"])
def test_a_sequential_comes_back_without_code(tmp_path, posteriors, name):
    fits, X, y = posteriors
    post, path = fits[name], tmp_path / "post.pt"
    rng = torch.get_rng_state()
    br.save(post, path)
    again = br.load(path)
    assert torch.get_rng_state().equal(rng)
    assert type(again) is type(post)
    for a, b in ((again.mean, post.mean), (again.std, post.std), (again.sample(5, seed=1), post.sample(5, seed=1))):
        assert a.keys() == b.keys()
        assert all(a[k].equal(b[k]) for k in a)
    ours, theirs = (p.predict(X, num_samples=20, seed=3) for p in (again, post))
    assert ours.mean.equal(theirs.mean)
    assert ours.log_prob(y).equal(theirs.log_prob(y))
    assert again.history == post.history
    assert again.certificate == post.certificate
    assert again.record == post.record
    assert again.model.prior_table() == post.model.prior_table()
    assert again.num_data == post.num_data
    torch.load(path, weights_only=True)  # state only: no code needed, none run


@pytest.mark.parametrize("likelihood", [likelihoods.Bernoulli(), likelihoods.Gaussian(priors.Gamma(3.0, 2.0))], ids=repr)
def test_buffers_and_likelihoods_come_back(tmp_path, breast_cancer, likelihood):
    X, y = breast_cancer
    net = nn.Sequential(nn.Linear(30, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.1), nn.Linear(4, 1))
    post = br.fit(br.BayesianModel(net, likelihood=likelihood), X, y, method=MAP(num_steps=50))
    br.save(post, tmp_path / "p")
    again = br.load(tmp_path / "p")
    assert repr(again.model.likelihood) == repr(likelihood)
    assert not again.model.module[1].running_mean.equal(torch.zeros(4))
    assert again.predict(X).mean.equal(post.predict(X).mean)


def test_every_ordinary_layer_is_built_again_from_its_description():
    from bayesreg.io import _ORDINARY, _build, _describe

    settings = {"Linear": (3, 2, False), "ELU": (3.0,), "GELU": ("tanh",), "LeakyReLU": (0.3,), "Softplus": (5.0, 10.0)}
    settings |= {f"BatchNorm{d}d": (3, 1e-3, None, False) for d in "123"}
    for name in _ORDINARY:
        layer = getattr(nn, name)(*settings.get(name, (0.3,) if "Dropout" in name else ()))
        assert repr(_build(_describe(layer))) == repr(layer)


@pytest.mark.parametrize("layer", [nn.ELU(3.0), nn.Softplus(5.0), nn.GELU("tanh"), nn.LeakyReLU(0.3)], ids=str)
def test_activations_come_back_with_their_settings(tmp_path, standard_diabetes, layer):
    X, y = standard_diabetes
    net = nn.Sequential()
    net.add_module("first", nn.Linear(10, 3))
    net.add_module("bend", layer)
    net.add_module("last", nn.Linear(3, 1))
    post = br.fit(br.BayesianModel(net, priors.Normal(np.logspace(-1, 1, 3)[1])), X, y, method=MAP(num_steps=30))
    br.save(post, tmp_path / "p")
    assert br.load(tmp_path / "p").predict(X).mean.equal(post.predict(X).mean)


def test_a_shared_layer_is_not_rebuilt_and_other_types_are_cast(tmp_path, standard_diabetes):
    X, y = standard_diabetes
    shared = nn.Linear(10, 10)
    net = nn.Sequential(shared, nn.Tanh(), shared, nn.Linear(10, 1)).double()
    post = br.fit(br.BayesianModel(net), X, y, method=MAP(num_steps=30))
    br.save(post, tmp_path / "p")
    with pytest.raises(ValueError, match=r"not a Sequential of ordinary layers"):
        br.load(tmp_path / "p")
    assert br.load(tmp_path / "p", module=net.float()).predict(X).mean.equal(post.predict(X).mean)


def test_a_module_of_one_s_own_is_passed(tmp_path, standard_diabetes):
    post = br.fit(br.BayesianModel(Custom()), *standard_diabetes, method="map")
    br.save(post, tmp_path / "p")
    with pytest.raises(ValueError, match=r"not a Sequential of ordinary layers; pass it: load\(path, module=net\)"):
        br.load(tmp_path / "p")
    fresh = Custom()
    before = fresh.inner.weight.clone()
    again = br.load(tmp_path / "p", module=fresh)
    assert fresh.inner.weight.equal(before)
    assert again.predict(standard_diabetes[0]).mean.equal(post.predict(standard_diabetes[0]).mean)
    with pytest.raises(
        ValueError, match=r"the module must have the saved parameters inner.weight, inner.bias .*, but bias, weight came"
    ):
        br.load(tmp_path / "p", module=nn.Linear(10, 1))


def test_draws_come_back(tmp_path, exact):
    draws = Draws(exact.model, exact.record, exact.draw(30, torch.Generator().manual_seed(0)))
    br.save(draws, tmp_path / "p")
    again = br.load(tmp_path / "p")
    assert again.draws.equal(draws.draws)
    np.testing.assert_allclose(again.std["weight"], draws.draws[:, :10].std(0, keepdim=True))
    assert again.sample(100, seed=0)["weight"].shape == (100, 1, 10)


def test_nothing_is_overwritten_or_left_behind(tmp_path, exact, monkeypatch):
    path = tmp_path / "post.pt"
    br.save(exact, path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"post.pt' must not exist yet; pass force=True"):
        br.save(exact, path)

    def fails(*args):
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", fails)
    with pytest.raises(OSError, match="disk full"):
        br.save(exact, path, force=True)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["post.pt"]
    with pytest.raises(ValueError, match=r"the folder of .* must exist"):
        br.save(exact, tmp_path / "no" / "post.pt")


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text").write_text("hello")
    torch.save({"format": 99}, tmp_path / "other")
    torch.save(nn.Linear(1, 1), tmp_path / "code")
    for name, message in (
        ("none", r"there must be a file to load, but .*none' does not exist"),
        ("text", r"text' must be a posterior written by bayesreg.save, but it is not one; check the path.$"),
        ("code", r"code' must be a posterior written by bayesreg.save, but it is not one, and holds what only code could read"),
        ("other", r"other' must be a posterior written by bayesreg.save, but it is in format 99 and this version .* format 3"),
    ):
        with pytest.raises(ValueError, match=message):
            br.load(tmp_path / name)
    with pytest.raises(ValueError, match=r"save takes a posterior, but dict came"):
        br.save({}, tmp_path / "x")


def test_standardisation_comes_back(tmp_path, diabetes):
    X, y = diabetes
    post = br.fit(linear_model(), X, y, method=MeanField(num_steps=100))
    br.save(post, tmp_path / "p")
    again = br.load(tmp_path / "p")
    assert again.model.standardization.x_mean.equal(post.model.standardization.x_mean)
    assert again.predict(X[:3], num_samples=3).mean.equal(post.predict(X[:3], num_samples=3).mean)


class Timed(nn.Module):
    """Looks rows up in a float64 table of times, in float32 weights; what it keeps besides is of every kind."""

    def __init__(self, persistent=True, tied=False):
        super().__init__()
        self.linear = nn.Linear(2, 1)
        self.register_buffer("times", 1.7e9 + torch.linspace(0, 1, 50, dtype=torch.float64), persistent=persistent)
        self.register_buffer("order", torch.arange(50).flip(0), persistent=persistent)
        self.register_buffer("mask", torch.arange(50) % 3 > 0, persistent=False)
        self.register_buffer("phase", torch.tensor([1j], dtype=torch.complex64), persistent=False)
        self.register_buffer("gain", torch.tensor([0.1], dtype=torch.float16))
        self.register_buffer("nothing", None)
        if tied:
            self.register_buffer("times_again", self.times)

    def forward(self, x):
        row = (x[:, 0].abs() * 10).long().clamp(max=49)
        since = (self.times[self.order[row]] - 1.7e9) * self.mask[row] * self.phase.imag
        return self.linear(torch.stack([since.to(x), x[:, 1] * self.gain.to(x)], 1))


@pytest.mark.parametrize(
    ("persistent", "tied", "dtype"),
    [
        (True, True, torch.float32),
        (False, True, torch.float64),
        (False, False, torch.float32),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                (True, True, torch.float64),
                (True, False, torch.float32),
                (True, False, torch.float64),
                (False, True, torch.float32),
                (False, False, torch.float64),
            )
        ),
    ],
)
def test_buffers_keep_their_own_type_whether_persistent_or_not(tmp_path, persistent, tied, dtype):
    torch.manual_seed(0)
    X = torch.randn(40, 2)
    net = Timed(persistent, tied)
    net.linear.to(dtype)
    net.times += 0.123  # not what the constructor puts there
    post = br.fit(br.BayesianModel(net), X, X[:, 0], method=MAP("adam", num_steps=20))
    br.save(post, tmp_path / "p")
    other = Timed(persistent, tied)  # in other types
    other.linear.to(torch.float16)
    other.times = other.times.to(torch.float32)
    again = br.load(tmp_path / "p", module=other)
    for name, buffer in post.model.module.named_buffers():
        found = again.model.module.get_buffer(name)
        assert found.dtype == buffer.dtype
        assert found.equal(buffer)
    assert again.model.module.nothing is None
    assert again.model.module.state_dict().keys() == post.model.module.state_dict().keys()
    assert not tied or again.model.module.times is again.model.module.times_again
    assert again.predict(X).mean.equal(post.predict(X).mean)
    with pytest.raises(ValueError, match=r"the module must have the saved buffers, but times_again is only in"):
        br.load(tmp_path / "p", module=Timed(persistent, not tied))


def test_mixed_types_frozen_layers_and_what_the_model_knows_of_its_data_come_back(tmp_path):
    torch.manual_seed(0)
    X = torch.randn(30, 3).double()
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1)).double()
    net[0].requires_grad_(False)
    post = br.fit(br.BayesianModel(net, None, likelihoods.Gaussian(0.5), True), X, X[:, 0], method="exact")
    br.save(post, tmp_path / "p")
    other = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    other[0].requires_grad_(False)
    again = br.load(tmp_path / "p", module=other)
    assert again.predict(X).mean.equal(post.predict(X).mean)
    assert again.model.standardize is True
    for name in ("num_data", "row_shape"):
        assert getattr(again.model, name) == getattr(post.model, name)
    br.save(again, tmp_path / "q")  # and once more
    assert br.load(tmp_path / "q", module=other).predict(X).mean.equal(post.predict(X).mean)


def test_another_type_for_a_model_is_for_its_floating_tensors_alone():
    moved = br.BayesianModel(Timed()).to(dtype=torch.float64).module
    assert {name: buffer.dtype for name, buffer in moved.named_buffers()} == {
        "times": torch.float64,
        "order": torch.int64,
        "mask": torch.bool,
        "phase": torch.complex64,
        "gain": torch.float64,
    }
    assert moved.phase.equal(torch.tensor([1j], dtype=torch.complex64))
