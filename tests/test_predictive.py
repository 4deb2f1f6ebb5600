"""The mixture's moments, density, CDF and quantiles against SciPy and quadrature; draws against all of these."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import integrate, special, stats

from bayesreg.likelihoods import Bernoulli, Categorical, Gaussian
from bayesreg.predictive import Predictive, tails
from bayesreg.predictive import mixture as module

SEEDS = (0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2)))
PROBABILITIES = (1e-6, 0.025, 0.2, 0.5, 0.9, 0.975, 1 - 1e-6)


def gaussian(seed=0, S=7, N=5, K=None, dtype=torch.float64, spread=2.0):
    """Components whose locations lie about `spread` noise scales apart, with a noise scale of their own each."""
    generator = torch.Generator().manual_seed(seed)
    shape = (S, N) if K is None else (S, N, K)
    output = 3.0 + spread * torch.randn(shape, generator=generator, dtype=torch.float64)
    scale = 0.5 + torch.rand((S,) + (1,) * (len(shape) - 1), generator=generator, dtype=torch.float64)
    return Predictive(Gaussian(), output.to(dtype), {"noise_scale": scale.to(dtype)})


def components(predictive):
    """Frozen SciPy normals, broadcast to the shape of the output."""
    return stats.norm(predictive.output.numpy(), predictive.noise["noise_scale"].numpy())


def classes(kind, seed=0, S=6, N=8, K=4):
    generator = torch.Generator().manual_seed(seed)
    shape = (S, N) if kind == "binary" else (S, N, K)
    logits = 2 * torch.randn(shape, generator=generator, dtype=torch.float64)
    return Predictive(Bernoulli() if kind == "binary" else Categorical(), logits)


# ── one component: the closed forms ──


@pytest.mark.parametrize("K", [None, 3])
def test_one_component_is_its_own_closed_form(K):
    predictive = gaussian(S=1, K=K)
    truth = stats.norm(predictive.output[0].numpy(), predictive.noise["noise_scale"][0].numpy())
    y = torch.linspace(0, 6, predictive.output[0].numel(), dtype=torch.float64).reshape(predictive.output[0].shape)
    density = truth.logpdf(y.numpy())
    np.testing.assert_allclose(predictive.mean, predictive.output[0], rtol=0)
    np.testing.assert_allclose(predictive.std, truth.std() * np.ones(y.shape), rtol=1e-14)
    np.testing.assert_allclose(predictive.cdf(y), truth.cdf(y.numpy()), rtol=1e-13, atol=1e-16)
    np.testing.assert_allclose(predictive.log_prob(y), density if K is None else density.sum(-1), rtol=1e-12)
    for q in PROBABILITIES:
        np.testing.assert_allclose(predictive.quantile(q), truth.ppf(q), rtol=1e-10)


def test_a_mode_has_no_epistemic_part():
    assert torch.equal(gaussian(S=1).epistemic_variance, torch.zeros(5, dtype=torch.float64))
    assert torch.equal(classes("multiclass", S=1).epistemic_variance, torch.zeros(8, 4, dtype=torch.float64))


# ── the mixture against SciPy and quadrature ──


@pytest.mark.parametrize("seed", SEEDS)
def test_density_and_cdf_are_those_of_the_mixture(seed):
    predictive = gaussian(seed)
    y = torch.linspace(-3, 8, 5, dtype=torch.float64)
    truth = components(predictive)
    log_prob = special.logsumexp(truth.logpdf(y.numpy()), axis=0) - math.log(7)
    np.testing.assert_allclose(predictive.log_prob(y), log_prob, rtol=1e-12)
    np.testing.assert_allclose(predictive.cdf(y), truth.cdf(y.numpy()).mean(0), rtol=1e-12)


def test_with_k_outputs_the_density_is_joint_and_the_cdf_is_not():
    predictive = gaussian(K=3)
    y = torch.linspace(-1, 7, 15, dtype=torch.float64).reshape(5, 3)
    truth = components(predictive)
    joint = special.logsumexp(truth.logpdf(y.numpy()).sum(-1), axis=0) - math.log(7)
    np.testing.assert_allclose(predictive.log_prob(y), joint, rtol=1e-12)
    marginal = (special.logsumexp(truth.logpdf(y.numpy()), axis=0) - math.log(7)).sum(-1)
    assert np.abs(joint - marginal).max() > 0.1  # a mixture's outputs depend on each other
    np.testing.assert_allclose(predictive.cdf(y), truth.cdf(y.numpy()).mean(0), rtol=1e-12)


def test_two_components_against_numerical_integration():
    output = torch.tensor([[-1.0], [2.0]], dtype=torch.float64)
    predictive = Predictive(Gaussian(), output, {"noise_scale": torch.tensor([[0.5], [1.5]], dtype=torch.float64)})

    def density(y):
        return math.exp(float(predictive.log_prob([y])))

    def integral(f, upper=20.0):
        return integrate.quad(f, -20, upper, points=[-1, 2] if upper > 2 else None, epsabs=1e-12, limit=200)[0]

    assert integral(density) == pytest.approx(1, abs=1e-10)
    mean = integral(lambda y: y * density(y))
    assert float(predictive.mean) == pytest.approx(mean, abs=1e-9)
    assert float(predictive.variance) == pytest.approx(integral(lambda y: (y - mean) ** 2 * density(y)), abs=1e-9)
    q10 = float(predictive.quantile(0.1))
    assert integral(density, upper=q10) == pytest.approx(0.1, abs=1e-9)


# ── variance decomposition ──


@pytest.mark.parametrize("predictive", [gaussian(K=3), classes("binary"), classes("multiclass")], ids=repr)
def test_aleatoric_plus_epistemic_is_the_variance(predictive):
    assert torch.equal(predictive.aleatoric_variance + predictive.epistemic_variance, predictive.variance)
    assert (predictive.aleatoric_variance > 0).all()
    assert (predictive.epistemic_variance > 0).all()
    assert predictive.variance.shape == predictive.mean.shape == predictive.std.shape


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_for_classes_the_total_is_p_one_minus_p_of_the_mean(kind):
    predictive = classes(kind)
    p = predictive.mean
    np.testing.assert_allclose(predictive.variance, p * (1 - p), rtol=1e-12)
    if kind == "multiclass":
        np.testing.assert_allclose(p.sum(-1), np.ones(8), rtol=1e-14)


def test_variance_does_not_cancel_far_from_zero():
    near = gaussian(spread=1e-3)
    far = Predictive(Gaussian(), near.output + 2.0**26, near.noise)  # a shift; squares would lose all but a digit
    np.testing.assert_allclose(far.epistemic_variance, near.epistemic_variance, rtol=1e-4)


# ── quantiles ──


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("K", [None, 2])
def test_cdf_of_quantile_is_the_probability(seed, K):
    predictive = gaussian(seed, S=23, N=9, K=K)
    found = predictive.quantile(PROBABILITIES)
    assert found.shape == (7, *predictive.mean.shape)
    for q, y in zip(PROBABILITIES, found, strict=True):
        np.testing.assert_allclose(predictive.cdf(y), np.full(y.shape, q), rtol=1e-9)
    assert (found.diff(dim=0) > 0).all()


def test_quantiles_of_hard_mixtures():
    """A far narrow component beside a wide one, and many orders of magnitude between scales."""
    output = torch.tensor([[0.0], [100.0], [100.001], [-5e4]], dtype=torch.float64)
    scale = torch.tensor([[1.0], [1e-6], [1e-3], [1e3]], dtype=torch.float64)
    predictive = Predictive(Gaussian(), output, {"noise_scale": scale})
    probabilities = (0.001, 0.2, 0.3, 0.49, 0.6, 0.8, 0.999)
    for q, y in zip(probabilities, predictive.quantile(probabilities), strict=True):
        assert float(predictive.cdf(y)) == pytest.approx(q, abs=1e-8)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("spread", [0.1, 1.0, 30.0])
def test_quantiles_of_skewed_mixtures_with_a_noise_of_each_row(seed, spread):
    """Many components, gaps between them, noise scales of every size: F is q at each, in double and in single precision."""
    generator = torch.Generator().manual_seed(seed)
    shape = (300, 8)
    loc = spread * torch.randn(shape, generator=generator, dtype=torch.float64).exp()
    log_scale = 0.7 * torch.randn(shape, generator=generator, dtype=torch.float64)
    predictive = Predictive(Gaussian("heteroscedastic"), torch.stack([loc, log_scale], -1))
    truth = stats.norm(loc.numpy(), log_scale.exp().numpy())
    for q, y in zip(PROBABILITIES, predictive.quantile(PROBABILITIES), strict=True):
        np.testing.assert_allclose(truth.cdf(y.numpy()).mean(0), np.full(8, q), rtol=1e-9)
    single = Predictive(Gaussian("heteroscedastic"), torch.stack([loc, log_scale], -1).float())
    np.testing.assert_allclose(single.quantile(0.3), predictive.quantile(0.3), rtol=1e-5, atol=1e-5)


def test_equal_components_have_the_closed_form_quantile():
    one = gaussian(S=1)
    many = Predictive(Gaussian(), one.output.expand(9, -1), one.noise)
    np.testing.assert_allclose(many.quantile(0.975), one.quantile(0.975), rtol=1e-13)
    np.testing.assert_allclose(many.std, one.std, rtol=1e-13)


def test_single_precision_quantiles_are_as_good_as_single_precision():
    double, single = gaussian(S=50, N=20), gaussian(S=50, N=20, dtype=torch.float32)
    for q in (0.001, 0.5, 0.999):
        error = (single.quantile(q).double() - double.quantile(q)).abs() / double.std
        assert float(error.max()) < 1e-6
    assert single.quantile(0.5).dtype == torch.float32


def test_interval_is_central_and_shapes_follow_q():
    predictive = gaussian(K=2)
    lower, upper = predictive.interval(0.8)
    torch.testing.assert_close(torch.stack([lower, upper]), predictive.quantile([0.1, 0.9]), rtol=0, atol=1e-12)
    assert predictive.quantile(0.3).shape == (5, 2)
    assert predictive.quantile(np.array([0.3])).shape == (1, 5, 2)
    assert tails(0.8) == pytest.approx((0.1, 0.9))


def test_blocks_of_rows_change_nothing(monkeypatch):
    predictive, other = gaussian(S=11, N=50, K=2), gaussian(S=11, N=50, K=2)
    y = predictive.mean + 0.3
    monkeypatch.setattr(module, "_BLOCK", 100)
    blocks = list(other.split())
    assert len(blocks) == 13  # 4 rows of 11 draws × 2 outputs
    assert max(part.output.numel() for _, part in blocks) <= 100
    assert torch.equal(torch.cat([y[rows] for rows, _ in blocks]), y)
    pieces = [other.mean, other.variance, other.quantile(0.9), other.cdf(y), other.log_prob(y)]
    monkeypatch.undo()
    whole = [predictive.mean, predictive.variance, predictive.quantile(0.9), predictive.cdf(y), predictive.log_prob(y)]
    for piece, all_at_once in zip(pieces, whole, strict=True):
        torch.testing.assert_close(piece, all_at_once, rtol=1e-12, atol=1e-12)


# ── noise ──


def test_noise_of_every_broadcastable_shape():
    output = gaussian(K=3).output
    y = output[0] + 1
    scale = torch.linspace(0.5, 2, 7, dtype=torch.float64)[:, None, None]
    wide = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    for noise in (scale, scale * wide, torch.tensor(0.7), wide, (scale * wide).expand(7, 5, 3)):
        predictive = Predictive(Gaussian(), output, {"noise_scale": noise})
        truth = stats.norm(output.numpy(), noise.numpy() * np.ones(output.shape))
        joint = special.logsumexp(truth.logpdf(y.numpy()).sum(-1), axis=0) - math.log(7)
        np.testing.assert_allclose(predictive.log_prob(y), joint, rtol=1e-7 if noise.dtype == torch.float32 else 1e-12)
        aleatoric = (truth.std() ** 2).mean(0)
        np.testing.assert_allclose(predictive.aleatoric_variance, aleatoric, rtol=1e-7)
        assert predictive.sample(14).shape == (14, 5, 3)


def test_noise_of_each_row_goes_with_its_rows(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    output = torch.randn(3, 20, 2, generator=generator, dtype=torch.float64)
    noise = 0.5 + torch.rand(3, 20, 2, generator=generator, dtype=torch.float64)
    monkeypatch.setattr(module, "_BLOCK", 12)  # two rows a block
    predictive = Predictive(Gaussian(), output, {"noise_scale": noise})
    np.testing.assert_allclose(predictive.aleatoric_variance, noise.square().mean(0), rtol=1e-13)
    cdf = stats.norm(output.numpy(), noise.numpy()).cdf(0.3).mean(0)
    np.testing.assert_allclose(predictive.cdf(torch.full((20, 2), 0.3)), cdf, rtol=1e-7)


def test_everything_is_detached():
    output = torch.zeros(3, 2, requires_grad=True)
    predictive = Predictive(Gaussian(), output, {"noise_scale": torch.ones(3, 1, requires_grad=True)})
    for value in (predictive.mean, predictive.variance, predictive.quantile(0.4), predictive.log_prob([0.0, 1.0])):
        assert not value.requires_grad


# ── draws ──


@pytest.mark.parametrize("seed", SEEDS)
def test_draws_have_the_moments_of_the_mixture(seed):
    predictive = gaussian(S=4, N=3)
    n = 40_000
    draws = predictive.sample(n, seed=seed)
    assert draws.shape == (n, 3)
    error = (draws.mean(0) - predictive.mean).abs() / (predictive.std / math.sqrt(n))
    assert float(error.max()) < 4.5
    scale = predictive.noise["noise_scale"][:, 0].numpy()
    for row in range(3):
        values = draws[:4000, row].numpy()[:, None]
        u = stats.norm(predictive.output[:, row].numpy(), scale).cdf(values).mean(1)
        assert stats.kstest(u, "uniform").pvalue > 1e-3


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_drawn_classes_have_the_stated_frequencies(kind, seed):
    predictive = classes(kind, S=5, N=4)
    n = 20_000
    draws = predictive.sample(n, seed=seed)
    assert draws.shape == (n, 4)
    share = draws.mean(0) if kind == "binary" else torch.nn.functional.one_hot(draws, 4).double().mean(0)
    error = (share - predictive.mean).abs() / (predictive.std / math.sqrt(n))
    assert float(error.max()) < 4.5


def test_draws_take_the_components_in_turn():
    output = torch.arange(5.0)[:, None].expand(5, 3)
    predictive = Predictive(Gaussian(), output, {"noise_scale": torch.tensor(1e-3)})
    taken = predictive.sample(12).round()
    assert torch.equal(taken[:, 0], torch.tensor([0.0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]))
    assert torch.equal(taken[:, 0], taken[:, 2])  # a draw is one function
    assert torch.equal(predictive.sample(2).round()[:, 0], torch.tensor([0.0, 2]))  # spread, and not the first two
    assert predictive.sample().shape == (1000, 3)


def test_seed_decides_and_the_global_state_stays():
    predictive = gaussian()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = predictive.sample(20, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    assert torch.equal(predictive.sample(20, seed=3), first)
    assert not torch.equal(predictive.sample(20, seed=4), first)


# ── classes ──


def test_log_prob_of_classes_is_the_log_of_the_mean_probability():
    binary, multi = classes("binary"), classes("multiclass")
    y = torch.tensor([0, 1, 1, 0, 1, 0, 0, 1])
    np.testing.assert_allclose(binary.log_prob(y).exp(), torch.where(y == 1, binary.mean, 1 - binary.mean), rtol=1e-12)
    labels = torch.tensor([0, 1, 2, 3, 3, 2, 1, 0])
    np.testing.assert_allclose(multi.log_prob(labels).exp(), multi.mean[torch.arange(8), labels], rtol=1e-12)


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_classes_have_no_quantiles(kind):
    predictive = classes(kind)
    message = f"must be asked of a regression, but this predictive is of kind '{kind}'.*use .mean"
    with pytest.raises(ValueError, match=r"quantile\(q\) " + message):
        predictive.quantile(0.5)
    with pytest.raises(ValueError, match=r"interval\(level\) " + message):
        predictive.interval()
    with pytest.raises(ValueError, match=r"cdf\(y\) " + message):
        predictive.cdf(torch.zeros(8))


# ── what is refused ──


@pytest.mark.parametrize("q", [0, 1, -0.1, 1.5, 1e-17, math.nan, [], [0.5, 1.0], [[0.5]]])
def test_quantile_refuses_what_is_no_probability(q):
    with pytest.raises(ValueError, match="q must be a probability with 0 < q < 1"):
        gaussian().quantile(q)


@pytest.mark.parametrize("level", [0, 1, 95, -0.5])
def test_interval_refuses_what_is_no_level(level):
    with pytest.raises(ValueError, match="level must be a probability with 0 < level < 1, but"):
        gaussian().interval(level)


@pytest.mark.parametrize("number", [0, -1, 2.5, True])
def test_sample_refuses_what_is_no_count(number):
    with pytest.raises(ValueError, match="num_samples must be a whole number >= 1"):
        gaussian().sample(number)


def test_constructor_refuses_what_is_no_mixture():
    with pytest.raises(ValueError, match=r"output must have shape \(S, N\) or \(S, N, K\).*\(4,\) came"):
        Predictive(Gaussian(), torch.zeros(4), {"noise_scale": torch.tensor(1.0)})
    with pytest.raises(ValueError, match=r"output must have shape \(S, N\) .* for Bernoulli, but \(2, 3, 1\) came"):
        Predictive(Bernoulli(), torch.zeros(2, 3, 1))
    with pytest.raises(ValueError, match=r"output must have shape \(S, N, K\) .* for Categorical, but \(2, 3\) came"):
        Predictive(Categorical(), torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"one entry or more.*\(0, 3\) came"):
        Predictive(Bernoulli(), torch.zeros(0, 3))
    with pytest.raises(ValueError, match=r"output must be finite, but 1 of 6 entries are NaN.*certificate"):
        Predictive(Bernoulli(), torch.tensor([[0.0, 1, 2], [3, math.nan, 5]]))
    with pytest.raises(ValueError, match=r"noise_scale must be finite, but 1 of 2"):
        Predictive(Gaussian(), torch.zeros(2, 3), {"noise_scale": torch.tensor([[1.0], [math.inf]])})
    for shape in ((3, 1), (2, 2), (2, 1, 1)):
        with pytest.raises(ValueError, match=r"noise_scale must broadcast against output of shape \(2, 3\), but shape"):
            Predictive(Gaussian(), torch.zeros(2, 3), {"noise_scale": torch.ones(shape)})


def test_target_takes_any_array_and_refuses_what_does_not_fit():
    predictive = gaussian(N=3)
    wanted = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    for y in ([1, 2, 3], np.array([1, 2, 3], dtype=np.int32), wanted.float(), np.array([[1.0], [2.0], [3.0]])):
        assert torch.equal(predictive.target(y), wanted)
    with pytest.raises(ValueError, match=r"y must have shape \(3,\) as the prediction has, but \(4,\) came"):
        predictive.log_prob([1, 2, 3, 4])
    with pytest.raises(ValueError, match=r"y must have shape \(5, 2\) as the prediction has, but \(5,\) came"):
        gaussian(K=2).cdf(torch.zeros(5))
    with pytest.raises(ValueError, match="y must be finite, but 1 of 3 entries are NaN"):
        predictive.cdf([1.0, math.nan, 2.0])
    with pytest.raises(ValueError, match="y must be an array of numbers"):
        predictive.log_prob(["a", "b", "c"])
    with pytest.raises(ValueError, match="Bernoulli needs targets 0 or 1"):
        classes("binary", N=2).log_prob([1, 2])
    with pytest.raises(ValueError, match="Categorical needs class numbers below the number of logits, 4, but class 4"):
        classes("multiclass", N=2).log_prob([1, 4])


def test_target_takes_a_column_of_a_data_frame():
    frame = pd.DataFrame({"y": [1.0, 2.0, 3.0]})
    assert torch.equal(gaussian(N=3).target(frame["y"]), gaussian(N=3).target(frame))


def test_repr_is_short():
    assert repr(gaussian()) == "Predictive(regression, S=7, N=5)"
    assert repr(classes("multiclass")) == "Predictive(multiclass, S=6, N=8, K=4)"
