"""Posteriors and how their draws go through the network: three ways, one answer, bounded memory."""

import numpy as np
import pytest
import torch
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.inference import MAP, MeanField
from bayesreg.posteriors import Draws, LowRankGaussian, perceptron, propagate
from tests.conftest import linear_model, network


@pytest.fixture(scope="module")
def fitted(standard_diabetes):
    model = br.BayesianModel(network(10, 6, 1, dtype=torch.float64), standardize=True)
    return br.fit(model, *standard_diabetes, method=MeanField(num_steps=200))


def outputs(fitted, u, x, **options):
    def forward(u, x):
        return fitted.model.forward(fitted.layout.unflatten(u), x)

    return propagate.outputs(fitted.model.behaviour, forward, [u], len(u), x, probe=u[0], **options)


@pytest.mark.parametrize("rows", [1, 40, 300, 442])
def test_loop_and_vmap_are_one(fitted, standard_diabetes, monkeypatch, rows):
    x = fitted.model.prepare(standard_diabetes[0][:rows])
    u = fitted.draw(30, torch.Generator().manual_seed(0))
    expected = torch.stack([fitted.model.forward(fitted.layout.unflatten(v), x) for v in u]).detach()
    for limit in (0, 10_000):  # a loop over draws, and vmap
        monkeypatch.setattr(propagate, "_VMAP_ROWS", limit)
        found = outputs(fitted, u, x)
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        assert not found.requires_grad


def test_linearised_outputs_are_the_first_taylor_terms(fitted, standard_diabetes):
    x = fitted.model.prepare(standard_diabetes[0])
    centre = fitted.guide.moments()[0]
    near = centre + 1e-5 * torch.randn(20, len(centre), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    linear = outputs(fitted, near, x, linearize_at=centre)
    exact = outputs(fitted, near, x)
    torch.testing.assert_close(linear, exact, rtol=1e-7, atol=1e-8)
    far = centre + torch.randn(2, len(centre), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    linear = outputs(fitted, far, x, linearize_at=centre)
    base = outputs(fitted, centre[None], x)
    half = outputs(fitted, (far + centre) / 2, x, linearize_at=centre)
    torch.testing.assert_close(half - base, (linear - base) / 2, rtol=1e-9, atol=1e-12)


def test_memory_is_bounded(fitted, standard_diabetes):
    with pytest.raises(
        ValueError, match=r"must fit into max_memory=1,000,000 bytes, but 1,000 draws × 442 rows need 3,536,000"
    ):
        fitted.predict(standard_diabetes[0], num_samples=1000, max_memory=1_000_000)


def test_a_mode_predicts_by_itself(standard_diabetes):
    X, y = standard_diabetes
    mode = br.fit(linear_model(), X, y, method="map")
    pred = mode.predict(X[:9], num_samples=500)
    assert pred.output.shape == (1, 9)
    assert float(pred.epistemic_variance.abs().max()) == 0
    assert all(float(sd.abs().max()) == 0 for sd in mode.std.values())
    assert mode.sample(4)["weight"].shape == (4, 1, 10)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_moments_are_the_draws_moments(fitted, seed):
    number = 40_000
    draws = fitted.sample(number, seed=seed)
    for name, mean in fitted.mean.items():
        sd = fitted.std[name]
        assert float(((draws[name].mean(0) - mean).abs() / sd).max()) < 5 / number**0.5
        torch.testing.assert_close(draws[name].std(0), sd, rtol=5 / (2 * number) ** 0.5, atol=0)


def test_draws_are_a_posterior_like_any_other(exact, diabetes):
    X, _ = diabetes
    stored = Draws(exact.model, exact.record, exact.draw(2000, torch.Generator().manual_seed(0)))
    np.testing.assert_allclose(stored.mean["weight"], exact.mean["weight"], atol=5 * float(exact.std["weight"].max()) / 44)
    ours, theirs = stored.predict(X[:20], num_samples=2000), exact.predict(X[:20], num_samples=2000, seed=9)
    np.testing.assert_allclose(ours.std, theirs.std, rtol=0.1)
    few = stored.sample(5, seed=1)["weight"]
    assert len(few.flatten(1).unique(dim=0)) == 5  # without replacement


def test_stored_draws_are_each_mixed_once_unless_more_are_asked_for(exact, diabetes):
    """300 stored draws: the mean over all of them, by itself; of 1,000 draws none is there twice more than another."""
    X, _ = diabetes
    stored = Draws(exact.model, exact.record, exact.draw(300, torch.Generator().manual_seed(0)))
    found = stored.predict(X[:20])
    assert (stored.usual_draws, found.num_samples, len(stored.sample()["weight"])) == (300, 300, 300)
    every = stored.predict_drawn(stored.in_order(300, 0), X[:20])
    torch.testing.assert_close(found.mean, every.mean)
    torch.testing.assert_close(found.output.sort(0).values, every.output.sort(0).values)
    assert torch.equal(stored.sample_function(X[:20]), found.output)
    many = stored.sample(1000)["weight"].flatten(1).unique(dim=0, return_counts=True)[1]
    assert (len(many), int(many.min()), int(many.max())) == (300, 3, 4)
    assert exact.usual_draws == exact.predict(X[:20]).num_samples == 1000


def test_noise_comes_back_in_the_data_s_units(diabetes):
    X, y = diabetes
    model = br.BayesianModel(nn.Linear(10, 1).double(), priors.Flat(), standardize=True)
    mode = br.fit(model, X, y, method="map")
    residual = y - mode.predict(X).mean.numpy()
    # a half-normal prior on the standardised scale moves the maximum-likelihood value by a hair
    assert float(mode.mean["noise_scale"]) == pytest.approx(np.sqrt(np.mean(residual**2)), rel=2e-3)
    assert float(mode.sample(2)["noise_scale"][0]) == pytest.approx(float(mode.mean["noise_scale"]))
    both = br.BayesianModel(nn.Linear(10, 2).double(), standardize=True)
    two = br.fit(both, X, np.column_stack([y, 10 * y]), method="map").mean["noise_scale"]
    assert two.shape == (2,)
    assert float(two[1] / two[0]) == pytest.approx(10)


def test_values_in_the_model_s_units_go_into_its_log_joint(diabetes):
    X, y = diabetes
    model = br.BayesianModel(nn.Linear(10, 1).double(), standardize=True)
    mode = br.fit(model, X, y, method="map")
    values = {name: value[0] for name, value in mode.sample(1, units="model").items()}
    assert float(mode.model.log_joint(values, X, y)) == pytest.approx(mode.certificate.details["log joint"])
    assert float(mode.mean["noise_scale"] / values["noise_scale"]) == pytest.approx(y.std())
    with pytest.raises(ValueError, match=r"units must be one of 'data', 'model', but 'own' came"):
        mode.sample(1, units="own")


def test_shared_layers_and_tied_weights_are_one_unknown(standard_diabetes):
    """The same layer twice, and one parameter in two layers: prediction uses the fitted value in every place."""
    X, y = standard_diabetes
    shared, tied = nn.Linear(10, 10), nn.Linear(10, 10)
    tied.weight = shared.weight
    net = nn.Sequential(shared, nn.Tanh(), shared, nn.Tanh(), tied, nn.Tanh(), nn.Linear(10, 1)).double()
    model = br.BayesianModel(net)
    assert list(model.latents) == ["0.weight", "0.bias", "4.bias", "6.weight", "6.bias", "noise_scale"]
    mode = br.fit(model, X, y, method=MAP(num_steps=50))
    with torch.no_grad():
        for name, value in mode.mean.items():
            if name != "noise_scale":
                net.get_parameter(name).copy_(value)
        torch.testing.assert_close(mode.predict(X).mean, net(torch.tensor(X))[:, 0], rtol=1e-10, atol=1e-12)
    assert all(isinstance(p, nn.Parameter) for p in mode.model.module.parameters())
    assert isinstance(mode.model.module[0].weight, nn.Parameter)


def test_counts_are_checked(exact):
    with pytest.raises(ValueError, match=r"num_samples must be a whole number >= 1, but 0 came"):
        exact.sample(0)
    with pytest.raises(ValueError, match=r"X must be finite, but 1 of 10 entries"):
        exact.predict([[float("nan")] + [0.0] * 9])


@pytest.mark.parametrize("width", [1, 3])
def test_images_of_a_small_convolutional_network(width):
    generator = torch.Generator().manual_seed(0)
    X, y = torch.randn(40, 2, 6, 6, generator=generator), torch.arange(40).remainder(3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(2, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Flatten(), nn.Linear(16 * width, 3))
    model = br.BayesianModel(net, likelihood=likelihoods.Categorical(), standardize=True)
    post = br.fit(model, X, y, method=MAP(num_steps=30, batch_size=16))
    assert post.predict(X).mean.shape == (40, 3)
    torch.testing.assert_close(post.predict(X).mean.sum(1), torch.ones(40))


def test_rows_times_the_factor_give_the_covariance_of_a_linear_function(exact):
    """(J F)(J F)ᵀ = J Σ Jᵀ for every kind of normal; a posterior that is none has no factor."""
    rows = torch.randn(3, exact.layout.size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    parts = torch.randn(2, exact.layout.size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    low = LowRankGaussian(exact.model, exact.record, exact.loc, torch.ones_like(exact.loc), parts.mT)
    for post in (exact, low):
        root = post.times_factor(rows)
        torch.testing.assert_close(root @ root.mT, rows @ post.covariance @ rows.mT, rtol=1e-12, atol=1e-12)
    assert Draws(exact.model, exact.record, parts).times_factor(rows) is None


class Squeezed(torch.nn.Linear):
    """A linear layer with a forward of its own, so that a network with it is no plain perceptron."""

    def forward(self, x):
        return super().forward(x) * 1.0


@pytest.mark.parametrize("rows", [3, 400])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("outputs", [1, 3])
def test_a_perceptron_predicts_by_products_what_each_draw_predicts(rows, bias, outputs, monkeypatch):
    """Also with weights that are certain, with positive ones, with a scale that is unknown, and in small blocks."""
    generator = torch.Generator().manual_seed(0)
    X, y = (torch.randn(20, n, generator=generator, dtype=torch.float64) for n in (3, outputs))
    new = torch.randn(rows, 3, generator=generator, dtype=torch.float64)
    weight = priors.Normal(priors.HalfNormal(1.0), centered=False) if outputs == 1 else priors.Normal(1.0)
    rules = {"*": priors.Normal(1.0), "0.weight": weight, "2.weight": priors.HalfNormal(1.0)}
    rules |= {"4.bias": priors.Fixed(0.3)} if bias else {"4.weight": priors.Fixed(0.5)}
    u, found = None, {}
    for kind in (torch.nn.Linear, Squeezed):
        layers = [kind(3, 5, bias), torch.nn.ReLU(), kind(5, 4, bias), torch.nn.Tanh(), kind(4, outputs, bias)]
        model = br.BayesianModel(torch.nn.Sequential(*layers).double(), rules, standardize=True)
        post = br.fit(model, X, y, method=MeanField(num_steps=3, compile=False), progress=False)
        u = torch.randn(7, post.layout.size, generator=generator, dtype=torch.float64) if u is None else u
        draws = Draws(post.model, post.record, u)
        found[kind] = draws.predict(new, num_samples=7)
        assert (perceptron.perceptron_of(post.model, post.layout, post.model.prepare(new)) is None) == (kind is Squeezed)
        if kind is torch.nn.Linear:
            monkeypatch.setattr(perceptron, "_BLOCK", 30)
            monkeypatch.setattr(perceptron, "_ROWS", 35)
            torch.testing.assert_close(draws.predict(new, num_samples=7).output, found[kind].output, rtol=1e-12, atol=1e-12)
    plain, other = found.values()
    torch.testing.assert_close(plain.output, other.output, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(plain.noise, other.noise, rtol=1e-12, atol=1e-12)
