"""Layers with noise: what is dropped, the moments, draws as functions, torch's own layers, and what is refused."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

import bayesreg as br
from bayesreg import layers, likelihoods, priors
from bayesreg.certificates import Certificate
from bayesreg.inference import MCDropout
from bayesreg.layers import mask_sites
from bayesreg.objective import FlatLayout
from bayesreg.posteriors import FitRecord, Masks, propagate
from bayesreg.solvers import History

SEEDS = pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
S = 20_000


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def unfitted(net, *row, prior=None, outputs=1):
    """The posterior that a network with noise has at its present weights, without a fit."""
    X, y = drawn(6, *row, seed=8), drawn(6, outputs, seed=9).squeeze(1)
    model = br.BayesianModel(net.double(), prior or priors.Normal(1.0), likelihoods.Gaussian(0.5)).bind(X, y)
    record = FitRecord("mc-dropout", 0, History("elbo"), Certificate.checked(True, "Not fitted."))
    return Masks(model, record, FlatLayout(model).flatten(model.weights()))


def propagated(post, noise, x):
    """The network's output for these draws of the noise."""
    return propagate.outputs(post.model.behaviour, post._through, [noise], len(noise), x, probe=noise[0])


def outputs_of(post, x, seed=0, count=S):
    """The network's output for draws of the noise, (S, N) or (S, N, K)."""
    return propagated(post, post._noise(count, torch.Generator().manual_seed(seed)), x)


def close(found, expected, error, times=4.5):
    """Within a multiple of the Monte Carlo error."""
    assert float(((found - expected).abs() / (error + 1e-12)).max()) < times


def moments_agree(draws, mean, variance, times=5.0):
    """Mean and variance of draws (S, ...) within their own Monte Carlo errors."""
    found, centred = draws.mean(0), draws - draws.mean(0)
    close(found, mean, (draws.var(0) / len(draws)).sqrt(), times)
    fourth = centred.pow(4).mean(0) - centred.square().mean(0).square()
    close(draws.var(0), variance, (fourth / len(draws)).sqrt() + 1e-9, times)


# ---- masks


@SEEDS
@pytest.mark.parametrize("rate", [0.0, 0.05, 0.5, 0.9])
def test_the_keep_rate(rate, seed):
    for z in (
        layers.Dropout(rate).multiplier(drawn(S, seed=seed)),
        layers.DropConnect(nn.Linear(200, 100), rate).multiplier(drawn(100, 200, seed=seed)).reshape(-1),
        layers.ChannelDropout(rate).multiplier(drawn(S, 1, 1, seed=seed)).reshape(-1),
    ):
        kept = float((z != 0).double().mean())
        assert abs(kept - (1 - rate)) <= 4 * math.sqrt(rate * (1 - rate) / S)
        assert float(z.max()) == pytest.approx(1 / (1 - rate))


@SEEDS
def test_dropout_drops_columns_and_drop_connect_entries(seed):
    net = nn.Sequential(nn.Linear(3, 40), nn.ReLU(), layers.Dropout(0.5), nn.Linear(40, 30))
    post = unfitted(net, 3, outputs=30)
    zeros = post.sample(200, seed=seed)["3.weight"] == 0  # (S, 30, 40)
    assert zeros.any()
    assert (zeros.all(1) == zeros.any(1)).all(), "a unit's whole column, or none of it"
    assert abs(float(zeros[:, 0].double().mean()) - 0.5) < 4 * math.sqrt(0.25 / (200 * 40))
    post = unfitted(nn.Sequential(nn.Linear(3, 40), layers.DropConnect(nn.Linear(40, 30), 0.5)), 3, outputs=30)
    zeros = post.sample(200, seed=seed)["1.layer.weight"] == 0
    assert not zeros.all(1).any()
    assert not zeros.all(2).any()
    assert abs(float(zeros.double().mean()) - 0.5) < 4 * math.sqrt(0.25 / zeros.numel())


def test_effective_weights_are_those_of_the_draws_network():
    """A net with these weights and no noise gives the draw's outputs: after Flatten, after a ReLU, and by channels."""
    convolutional = [nn.Conv2d(2, 4, 3), nn.ReLU(), layers.ChannelDropout(0.5), nn.Conv2d(4, 3, 2)]
    for net, row in (
        (nn.Sequential(*convolutional, layers.ChannelDropout(0.4), nn.Flatten(), nn.Linear(3 * 9, 1)), (2, 6, 6)),
        (nn.Sequential(layers.Dropout(0.3), nn.Flatten(), nn.Linear(12, 1)), (3, 4)),
        (nn.Sequential(nn.Linear(4, 9), layers.Dropout(0.5), nn.ReLU(), nn.Linear(9, 1)), (4,)),
        (nn.Sequential(nn.Linear(4, 9), nn.Tanh(), layers.VariationalDropout(nn.Linear(9, 1), 0.5)), (4,)),
        (nn.Sequential(nn.Conv1d(2, 3, 2), layers.DropConnect(nn.Conv1d(3, 2, 2)), nn.Flatten(), nn.Linear(8, 1)), (2, 6)),
    ):
        post, x = unfitted(net, *row), drawn(5, *row, seed=3)
        noise = post._noise(30, torch.Generator().manual_seed(1))
        names = set(post.masks.weights)
        values = post.layout.unflatten(post.loc)
        expected = propagated(post, noise, x)
        for one, wanted in zip(noise, expected, strict=True):
            changed = post.masks.effective(values, one)
            assert changed.keys() == names
            torch.testing.assert_close(post.model.forward({**values, **changed}, x), wanted)


def test_noise_that_can_be_negative_stops_at_a_relu():
    net = nn.Sequential(nn.Linear(4, 9), layers.GaussianDropout(0.8), nn.ReLU(), nn.Linear(9, 1))
    assert unfitted(net, 4).masks.weights == {}
    net[1] = layers.Dropout(0.8)
    assert set(unfitted(net, 4).masks.weights) == {"3.weight"}


def test_channels_of_a_convolution_are_dropped_whole():
    net = nn.Sequential(nn.Conv2d(2, 6, 3), layers.ChannelDropout(0.5), nn.Conv2d(6, 5, 3), nn.Flatten(), nn.Linear(5 * 4, 1))
    zeros = unfitted(net, 2, 6, 6).sample(300)["2.weight"] == 0  # (S, 5, 6, 3, 3)
    assert zeros.any()
    assert (zeros.amax((1, 3, 4)) == zeros.amin((1, 3, 4))).all()


def test_a_noise_that_no_weight_can_carry_leaves_the_weight():
    """One z a pixel before a convolution: the outputs vary, the reported weight does not."""
    post = unfitted(
        nn.Sequential(nn.Conv1d(2, 2, 3), layers.Dropout(0.5), nn.Conv1d(2, 1, 2), nn.Flatten(), nn.Linear(5, 1)), 2, 8
    )
    assert post.masks.weights == {"2.weight": "1"}
    assert float(post.sample(50)["2.weight"].std(0).max()) == float(post.std["2.weight"].max()) == 0
    assert float(outputs_of(post, drawn(3, 2, 8), count=50).std(0).min()) > 0


# ---- moments


@SEEDS
@pytest.mark.parametrize("kind", [layers.Dropout, layers.GaussianDropout, layers.DropConnect])
def test_a_linear_nets_mean_is_the_deterministic_pass_and_its_variance_the_closed_form(kind, seed):
    rate, linear, x = 0.3, nn.Linear(5, 1).double(), drawn(4, 5, seed=2)
    wrapped = kind is layers.DropConnect
    net = kind(linear, rate) if wrapped else nn.Sequential(kind(rate), linear)
    factor = rate / (1 - rate)  # of the Bernoulli's variance, and α
    variance = factor * x.square() @ linear.weight[0].detach().square()
    post = unfitted(net, 5)
    moments_agree(outputs_of(post, x, seed), linear(x).detach()[:, 0], variance)
    name = "layer.weight" if wrapped else "1.weight"
    moments_agree(post.sample(S, seed=seed)[name][:, 0], linear.weight[0].detach(), post.std[name][0].square())
    torch.testing.assert_close(post.std[name], linear.weight.detach().abs() * math.sqrt(factor))


@SEEDS
def test_gaussian_dropout_before_a_linear_layer_predicts_the_closed_form(seed):
    linear, x, alpha = nn.Linear(6, 1).double(), drawn(5, 6, seed=4), 0.25
    post = unfitted(nn.Sequential(layers.GaussianDropout(0.2), linear), 6)
    pred = post.predict(x, num_samples=S, seed=seed)
    variance = alpha * x.square() @ linear.weight[0].detach().square()
    close(pred.mean, linear(x).detach()[:, 0], (variance / S).sqrt())
    close(pred.epistemic_variance, variance, variance * math.sqrt(2 / S))
    torch.testing.assert_close(pred.aleatoric_variance, torch.full((5,), 0.25, dtype=torch.float64))


@SEEDS
@pytest.mark.parametrize("convolution", [False, True])
def test_local_reparameterisation_has_the_law_of_the_weights(convolution, seed):
    inner = nn.Conv2d(2, 3, 2, stride=2, padding=1) if convolution else nn.Linear(5, 3)
    layer = layers.VariationalDropout(inner, 0.3).double()
    with torch.no_grad():
        layer.log_variance += drawn(*layer.log_variance.shape, seed=7)
    x = drawn(2, 2, 3, 3, seed=5) if convolution else drawn(2, 5, seed=5)
    mean = inner(x).detach()
    rows, weights = drawn(S, *mean.shape, seed=seed), drawn(S, *inner.weight.shape, seed=seed + 10)
    with torch.no_grad():
        by_row = torch.vmap(lambda noise: layer.perturbed_by_row(x, noise))(rows)
        by_draw = torch.vmap(lambda noise: layer.perturbed(x, noise))(weights)
        sd = layer.spread(inner.weight)
        square = x.square()
        variance = functional.conv2d(square, sd**2, None, 2, 1) if convolution else square @ (sd**2).T
    for draws in (by_row, by_draw):
        moments_agree(draws, mean, variance)


def test_concrete_dropout_becomes_the_step():
    noise = drawn(50_000)
    concrete, step = layers.ConcreteDropout(0.3, temperature=1e-7).double(), layers.Dropout(0.3)
    soft = layers.ConcreteDropout(0.3, temperature=1e-7)
    assert soft.logit_rate.dtype == torch.float32
    concrete.logit_rate.fill_(math.log(0.3 / 0.7))
    torch.testing.assert_close(concrete.multiplier(noise), step.multiplier(noise), rtol=1e-12, atol=1e-12)
    warm = layers.ConcreteDropout(0.3, temperature=0.1).double().multiplier(noise)
    assert float(warm.mean()) == pytest.approx(1.0, abs=0.02)  # the relaxation's own bias is of order t²
    assert bool(((warm > 0.01) & (warm < 1.4)).any()), "at t = 0.1 it is soft"


# ---- draws are functions


def wide(*more):
    return nn.Sequential(nn.Linear(3, 8), nn.Tanh(), *more, nn.Linear(8, 1))


def test_vmapped_draws_are_the_loop_over_draws():
    sparse = layers.VariationalDropout(nn.Linear(8, 8), 0.2)
    net = wide(nn.Dropout(0.2), nn.Linear(8, 8), nn.AlphaDropout(0.2), sparse, nn.Tanh(), layers.GaussianDropout(0.4))
    post, x = unfitted(net, 3), drawn(7, 3)
    noise = post._noise(20, torch.Generator().manual_seed(3))
    values = post.layout.unflatten(post.loc)
    with torch.no_grad():
        loop = torch.stack([post.model.forward(values, x, post.masks.module, post.masks.named(one)) for one in noise])
    torch.testing.assert_close(propagated(post, noise, x), loop, rtol=1e-12, atol=1e-12)
    many = drawn(300, 3)  # beyond the rows that are vmapped
    torch.testing.assert_close(propagated(post, noise, many)[:, :100], propagated(post, noise, many[:100]))


@pytest.mark.parametrize("rows", [2, 600])
@pytest.mark.parametrize("layer", [nn.Dropout(0.5), layers.GaussianDropout(0.5), layers.ConcreteDropout(0.5)], ids=str)
def test_one_mask_for_all_rows_or_one_a_row(layer, rows):
    """Two equal rows: the same output in each draw, or not, with the same marginal moments."""
    post, x = unfitted(wide(layer), 3), drawn(1, 3).expand(rows, 3)
    draw, row = (post.predict(x, num_samples=500, masks=masks) for masks in ("draw", "row"))
    for pred, equal in ((draw, True), (row, False)):
        same = bool((pred.mean[0] - pred.mean[1]).abs() < 1e-12)
        assert same is equal
    sd = (draw.epistemic_variance[0] / 500).sqrt()
    close(row.mean[0], draw.mean[0], math.sqrt(2) * sd)
    with pytest.raises(ValueError, match=r"masks must be one of 'draw', 'row', but 'none' came"):
        post.predict(x, masks="none")


def test_a_functional_call_leaves_no_noise_behind():
    net = wide(layers.Dropout(0.5)).double()
    x, noise = drawn(4, 3), torch.full((8,), -9.0, dtype=torch.float64)
    out = torch.func.functional_call(net, {"2.noise": noise}, (x,))
    torch.testing.assert_close(out, net[3].bias.expand(4, 1), msg="all units dropped")
    assert net[2].noise is None
    with pytest.raises(RuntimeError):
        torch.func.functional_call(net, {"2.noise": noise}, (drawn(4, 5),))
    assert net[2].noise is None
    assert "noise" not in str(list(net.state_dict()))
    post = unfitted(wide(layers.Dropout(0.5)), 3)
    post.predict(x, num_samples=4)
    post.predict(x, num_samples=4, masks="row")
    assert all(layer.noise is None and layer.row_noise is None for layer in post.masks.layers.values())


def test_outside_of_a_draw_a_layer_behaves_as_torchs_own():
    x = drawn(50, 40)
    for layer in (layers.Dropout(0.5), layers.GaussianDropout(0.5), layers.AlphaDropout(0.5), layers.ConcreteDropout(0.5)):
        assert layer.eval()(x) is x
        rows = layer.train()(x) / x
        assert not rows[0].equal(rows[1]), "fresh noise for each row"
    shared = layers.DropConnect(nn.Linear(40, 3), 0.5).double().train()(x[:1].expand(2, 40))
    assert shared[0].equal(shared[1])
    sparse = layers.VariationalDropout(nn.Linear(40, 3), 0.5).double()
    assert sparse.eval()(x).equal(sparse.layer(x))
    assert not sparse.train()(x).equal(sparse.layer(x))


# ---- torch's own layers


TORCHS = {
    nn.Dropout: (20, 6),
    nn.Dropout1d: (20, 4, 5),
    nn.Dropout2d: (20, 4, 3, 3),
    nn.Dropout3d: (20, 4, 2, 2, 2),
    nn.AlphaDropout: (20, 6),
    nn.FeatureAlphaDropout: (20, 4, 3, 3),
}


@SEEDS
@pytest.mark.parametrize("kind", TORCHS, ids=lambda kind: kind.__name__)
def test_torchs_own_layers_have_the_same_law(kind, seed):
    """Mean and variance of each entry over draws, and whether the entries of a channel fall together."""
    torch.manual_seed(seed)
    x = drawn(*TORCHS[kind]) + 1
    theirs = kind(0.3).train()
    ours = layers.with_masks(theirs)
    draws = [torch.stack([layer(x) for _ in range(4000)]) for layer in (theirs, ours)]
    error = (draws[0].var(0) * 2 / 4000).sqrt()
    close(draws[1].mean(0), draws[0].mean(0), error, 5.0)
    fourth = (draws[0] - draws[0].mean(0)).pow(4).mean(0) - draws[0].var(0).square()
    close(draws[1].var(0), draws[0].var(0), (fourth * 2 / 4000).sqrt(), 5.5)
    dropped = ours.perturbed(x, torch.tensor(-9.0))
    for kept in [((draw - dropped).abs() > 1e-9).flatten(3) for draw in draws] if x.dim() > 2 else []:
        assert kept.any()
        assert (kept.all(-1) == kept.any(-1)).all(), "the entries of a channel fall together"
    assert ours.eval()(x).equal(x)


def test_alpha_dropout_is_torchs_formula_and_keeps_mean_0_and_variance_1():
    x, noise = drawn(1, 200_000), drawn(200_000, seed=1)
    for rate in (0.1, 0.5):
        layer = layers.AlphaDropout(rate)
        kept = (noise > layer.quantile).double()
        floor = -1.0507009873554805 * 1.6732632423543772
        a = ((1 - rate) * (1 + rate * floor**2)) ** -0.5
        out = layer.perturbed(x, noise)
        torch.testing.assert_close(out, a * (x * kept + floor * (1 - kept)) - a * rate * floor, rtol=1e-12, atol=1e-12)
        assert abs(float(out.mean())) < 5 / math.sqrt(200_000)
        assert float(out.var()) == pytest.approx(1.0, abs=0.02)


def test_noisy_keeps_names_modes_and_the_module():
    net = nn.Sequential(
        nn.Linear(3, 4), nn.Sequential(nn.Dropout(0.2), nn.BatchNorm1d(4)), nn.AlphaDropout(0.1), nn.Linear(4, 1)
    )
    net.train()
    net[1][0].eval()
    before = copy.deepcopy(net)
    made = layers.with_masks(net)
    assert str(net) == str(before)
    assert [name for name, _ in made.named_parameters()] == [name for name, _ in net.named_parameters()]
    assert {n: m.training for n, m in made.named_modules()} == {n: m.training for n, m in net.named_modules()}
    assert list(layers.mask_layers(made)) == ["1.0", "2"]
    assert made[0].weight is not net[0].weight
    assert layers.mask_layers(layers.with_masks(made)).keys() == {"1.0", "2"}


def test_torchs_layer_that_stands_at_two_places_becomes_two():
    drop = nn.Dropout(0.5)
    net = nn.Sequential(nn.Linear(3, 4), drop, nn.Linear(4, 4), drop, nn.Linear(4, 1))
    made = layers.with_masks(net)
    assert made[1] is not made[3]
    assert unfitted(net, 3).masks.weights == {"2.weight": "1", "4.weight": "3"}


def test_sampling_moves_layers_with_noise_alone_and_restores_modes():
    net = nn.Sequential(nn.BatchNorm1d(3), layers.Dropout(0.5), nn.Linear(3, 1)).train()
    net[2].eval()
    modes = [m.training for m in net.modules()]

    def broken():
        with layers.sampling(net):
            assert [m.training for m in net.modules()] == [False, False, True, False]
            raise KeyError

    with pytest.raises(KeyError):
        broken()
    assert [m.training for m in net.modules()] == modes


def test_weights_that_are_constants_stay():
    net = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 1), nn.Dropout(0.2), nn.Linear(1, 1))
    net[4].weight.requires_grad_(False)
    post = unfitted(net, 3, prior={"2.weight": priors.Fixed(2.0), "@bias": priors.Normal(1.0)})
    assert set(post.masks.weights) == {"2.weight", "4.weight"}
    assert post.sample(3).keys() == post.std.keys() == post.layout.segments.keys()
    assert float(outputs_of(post, drawn(4, 3), count=30).std(0).min()) > 0


# ---- what is refused


@pytest.mark.parametrize("kind", [layers.Dropout, layers.ChannelDropout, layers.AlphaDropout, layers.GaussianDropout])
@pytest.mark.parametrize(
    ("rate", "message"),
    [
        (1, r"rate must be the share that is dropped, 0 <= rate < 1, but 1 came; pass for example 0\.1"),
        (-0.1, r"0 <= rate < 1, but -0\.1 came"),
        (1.5, r"0 <= rate < 1, but 1\.5 came"),
        ("x", r"rate must be a number, but 'x' came"),
        (math.nan, r"rate must be a finite number, but nan came"),
    ],
)
def test_rates_that_are_none(kind, rate, message):
    with pytest.raises(ValueError, match=message):
        kind(rate)
    with pytest.raises(ValueError, match=message):
        layers.ConcreteDropout(rate)
    with pytest.raises(ValueError, match=message):
        layers.DropConnect(nn.Linear(1, 1), rate)


class Functional(nn.Module):
    """Functional dropout beside a layer's: in training mode only, or always on."""

    def __init__(self, always):
        super().__init__()
        self.first, self.drop, self.last, self.always = nn.Linear(3, 8), nn.Dropout(0.2), nn.Linear(8, 1), always

    def forward(self, x):
        return self.last(functional.dropout(self.drop(self.first(x)), 0.5, True if self.always else self.training))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.drop, self.last = nn.Linear(3, 8), layers.Dropout(0.2), nn.Linear(8, 1)

    def forward(self, x):
        return self.last(self.drop(self.first(self.drop(x))))


class Other(nn.Dropout):
    pass


def plain(*more):
    return wide(*(more or (nn.Dropout(0.1),)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: layers.ConcreteDropout(0.0), r"rate must be above 0 where it is learned, but 0 came"),
        (lambda: layers.ConcreteDropout(0.1, temperature=0), r"temperature must be a finite number > 0, but 0 came"),
        (lambda: layers.DropConnect(nn.ReLU()), r"DropConnect needs a Linear or a convolution to wrap, but ReLU came"),
        (lambda: layers.VariationalDropout(nn.ReLU()), r"VariationalDropout needs a Linear or a convolution to wrap, but ReLU"),
        (
            lambda: layers.VariationalDropout(nn.Linear(1, 1), -1.0),
            r"initial_scale must be a finite number > 0, but -1\.0 came",
        ),
        (lambda: layers.VariationalDropout(nn.Linear(1, 1), prior="flat"), r"prior must be one of 'log-uniform', 'declared'"),
        (lambda: layers.with_masks(plain(Other(0.1))), r"a dropout layer must be of a known kind, but Other came"),
        (lambda: layers.with_masks(plain(nn.Dropout(1.0))), r"rate must be the share .* but 1\.0 came"),
        (lambda: mask_sites(Twice(), lambda net: net(torch.zeros(2, 3))), r"used once in a pass, but drop is used twice"),
        (lambda: unfitted(Twice(), 3), r"a dropout layer must be used once in a pass, but drop is used twice"),
        (
            lambda: unfitted(nn.Sequential(nn.Dropout(0.1), layers.DropConnect(nn.Linear(3, 1))), 3),
            r"a weight must be under one mask, but 1\.layer\.weight is under two",
        ),
    ],
)
def test_what_is_no_layer(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("net", "options", "message"),
    [
        (nn.Linear(3, 1), {}, r"MCDropout needs a network with dropout, but it has no dropout layer; add nn\.Dropout\(0\.05\)"),
        (Functional(always=False), {}, r"the forward of Functional draws numbers of its own .*put an nn\.Dropout in its place"),
        (Functional(always=True), {}, r"the forward of Functional draws numbers of its own .*put an nn\.Dropout in its place"),
        (
            plain(),
            {"priors": {"3.weight": priors.Normal(priors.HalfNormal(1.0))}},
            r"MCDropout needs fixed scales, .* runs to scale zero, but that of 3\.weight is unknown",
        ),
        (
            plain(),
            {"priors": {"3.weight": priors.HalfNormal(1.0)}},
            r"a weight under dropout must be allowed to be 0, but the prior of 3\.weight, HalfNormal\(scale=1\.0\), has only",
        ),
        (
            plain(),
            {"priors": {"3.weight": priors.GroupLasso(1.0)}},
            r"dropout needs a prior with independent entries, but Group",
        ),
        (plain(), {"priors": {"3.weight": priors.Horseshoe(1.0)}}, r"has no finite log-density at 0, where dropped weights"),
        (
            plain(),
            {"outputs": {"1": priors.Laplace(1.0)}},
            r"MCDropout needs priors on weights only, but a prior on outputs came",
        ),
    ],
)
def test_models_that_have_no_bound(net, options, message):
    model = br.BayesianModel(net.double(), **options)
    rng = torch.get_rng_state()
    with pytest.raises(ValueError, match=message):
        br.fit(model, drawn(9, 3), drawn(9), method=MCDropout(num_steps=5))
    assert torch.get_rng_state().equal(rng)


@pytest.mark.parametrize(("warmup", "message"), [(1.0, "0 <= warmup < 1, but 1.0 came"), (-0.1, "but -0.1 came")])
def test_a_warmup_that_is_none(warmup, message):
    with pytest.raises(ValueError, match=message):
        MCDropout(warmup=warmup)
