"""The KL of every noise, against Monte Carlo, quadrature and the literature's integrals; the decay that it is."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from torch import nn

import bayesreg as br
from bayesreg import layers, priors
from bayesreg.dictionary import dropout_decay, equivalents
from bayesreg.inference import MCDropout
from bayesreg.layers import bernoulli_entropy, log_uniform_kl, normal_energy, normal_entropy, relaxed_moments, two_points
from bayesreg.priors import Flat, Horseshoe, Laplace, Normal, StudentT

SEEDS = pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
PRIORS = pytest.mark.parametrize(
    ("prior", "law"),
    [
        (Normal(0.7), stats.norm(0, 0.7)),
        (Normal(0.7, loc=0.3), stats.norm(0.3, 0.7)),
        (Laplace(0.4), stats.laplace(0, 0.4)),
        (StudentT(3.0, 0.5), stats.t(3, 0, 0.5)),
    ],
    ids=["normal", "shifted", "laplace", "student"],
)
NORMAL_CONSTANT = 0.5 * math.log(2 * math.pi)


def entries(n=24):
    return torch.linspace(-2, 2, n, dtype=torch.float64)


# ---- z = 0 or 1/(1 − p)


@SEEDS
@PRIORS
@pytest.mark.parametrize("rate", [0.1, 0.5])
def test_two_points_is_the_expectation_over_masks(prior, law, rate, seed):
    """10⁶ masks of 24 weights; −log p by SciPy, whose two values an entry are looked up, not computed 10⁶ times."""
    weight = entries()
    rng = np.random.default_rng(seed)
    kept = rng.binomial(1_000_000, 1 - rate, size=24) / 1_000_000  # the share of draws in which an entry is kept
    drawn = -(kept * law.logpdf(weight.numpy() / (1 - rate)) + (1 - kept) * law.logpdf(0.0)).sum()
    found = float(two_points(prior, weight, rate))
    assert found == pytest.approx(drawn, rel=1e-3)
    tensor = two_points(prior, weight, torch.tensor(rate, dtype=torch.float64))
    assert float(tensor) == pytest.approx(found, rel=1e-12)
    assert float(layers.Dropout(rate).expected_energy(prior, weight)) == found
    assert float(layers.DropConnect(torch.nn.Linear(1, 1), rate).expected_energy(prior, weight)) == found


@PRIORS
def test_without_dropout_it_is_the_priors_density(prior, law):
    weight = entries()
    for layer in (layers.Dropout(0.0), layers.GaussianDropout(0.0)):
        assert float(layer.expected_energy(prior, weight)) == pytest.approx(-law.logpdf(weight.numpy()).sum(), rel=1e-9)
        assert layer.entropy(7) == 0


@SEEDS
def test_the_constant_left_out_depends_on_nothing(seed):
    """Gal and Ghahramani's mixture (1−p) N(m, s² I) + p N(0, s² I): its KL to the prior, by Monte Carlo, less another's."""
    S, K, s, tau = 200_000, 5, 0.02, 0.8

    def kl(m, p):
        rng = np.random.default_rng(seed)  # the same numbers for both: only what differs is left
        w = (rng.random(S) > p)[:, None] * m + s * rng.normal(size=(S, K))

        def log_normal(at, sd):
            return -0.5 * ((w - at) ** 2).sum(1) / sd**2 - K * (math.log(sd) + NORMAL_CONSTANT)

        return np.logaddexp(math.log1p(-p) + log_normal(m, s), math.log(p) + log_normal(0, s)) - log_normal(0, tau)

    def ours(m, p):
        """M is 1 − p times m where what is kept is divided by 1 − p."""
        return float(two_points(Normal(tau), torch.as_tensor(m * (1 - p)), p)) - bernoulli_entropy(p, 1)

    directions = np.random.default_rng(seed + 10).normal(size=(2, K)) + 1.0
    for (m, p), (n, q) in (
        ((directions[0], 0.3), (directions[1], 0.3)),  # other weights
        ((directions[0], 0.2), (directions[0], 0.6)),  # another rate
        ((directions[0], 0.05), (directions[1], 0.5)),  # both
    ):
        difference = kl(m, p) - kl(n, q)
        error = difference.std() / math.sqrt(S)
        assert abs(difference.mean() - (ours(m, p) - ours(n, q))) < 4 * error
        assert error < 0.02


def test_concrete_dropout_counts_with_its_entropy():
    layer, weight = layers.ConcreteDropout(0.2).double(), entries()
    p = float(layer.rate)
    assert float(layer.expected_energy(Laplace(0.4), weight)) == pytest.approx(float(two_points(Laplace(0.4), weight, p)))
    assert float(layer.entropy(9)) == pytest.approx(9 * stats.bernoulli(p).entropy())


@pytest.mark.parametrize("rate", [0.0, 1e-6, 0.1, 0.5, 0.99])
def test_the_entropy_of_a_bernoulli(rate):
    expected = 5 * stats.bernoulli(rate).entropy()
    assert float(bernoulli_entropy(rate, 5)) == pytest.approx(expected, rel=1e-9, abs=1e-15)
    assert float(bernoulli_entropy(torch.tensor(rate, dtype=torch.float64), 5)) == pytest.approx(expected, rel=1e-9, abs=1e-15)
    assert layers.Dropout(rate).entropy(5) == bernoulli_entropy(rate, 5)


# ---- normal weights


@PRIORS
@pytest.mark.parametrize("scale", [0.01, 0.3, 1.0, 5.0])
@pytest.mark.parametrize("loc", [0.0, 0.4, -3.0])
def test_the_energy_under_a_normal(prior, law, loc, scale):
    kinks = [k for k in (0.0,) if abs(k - loc) < 12 * scale]

    def integrand(w):
        return -law.logpdf(w) * math.exp(-0.5 * ((w - loc) / scale) ** 2 - NORMAL_CONSTANT) / scale

    expected = integrate.quad(integrand, loc - 12 * scale, loc + 12 * scale, points=kinks or None, limit=400, epsabs=1e-11)[0]
    found = normal_energy(prior, *(torch.tensor([v], dtype=torch.float64) for v in (loc, scale)))
    assert float(found) == pytest.approx(expected, rel=1e-3, abs=1e-3)


def test_gaussian_dropout_has_the_energy_of_its_normals():
    weight, rate = entries(), 0.2
    expected = normal_energy(Laplace(0.4), weight, weight.abs() * 0.5)  # √(0.2/0.8)
    assert float(layers.GaussianDropout(rate).expected_energy(Laplace(0.4), weight)) == pytest.approx(float(expected))
    # and under a normal prior the same decay as Bernoulli dropout at its rate
    gaussian = layers.GaussianDropout(rate).expected_energy(Normal(0.7), weight)
    assert float(gaussian) == pytest.approx(float(two_points(Normal(0.7), weight, rate)), rel=1e-12)


def test_the_kl_between_normals():
    loc, scale, tau = entries(9), torch.linspace(0.05, 3, 9, dtype=torch.float64), 0.6
    closed = torch.distributions.kl_divergence(
        torch.distributions.Normal(loc, scale), torch.distributions.Normal(0.0, torch.tensor(tau, dtype=torch.float64))
    ).sum()
    found = normal_energy(Normal(tau), loc, scale) - normal_entropy(scale.log())
    torch.testing.assert_close(found, closed, rtol=1e-12, atol=1e-12)
    layer = layers.VariationalDropout(torch.nn.Linear(9, 1), 0.3, prior="declared").double()
    layer.log_variance.copy_(2 * scale.log()[None])
    whole = layer.expected_energy(Normal(tau), loc[None]) - layer.entropy(9)
    torch.testing.assert_close(whole, closed, rtol=1e-12, atol=1e-12)


# ---- the log-uniform prior


def exact_log_uniform_kl(log_alpha):
    """−½ log α + E log|1 + √α ε| − E log|ε|: KL(N(1, α) ‖ 1/|w|) with the constant that makes it 0 for α → ∞."""
    sd = math.exp(log_alpha / 2)
    pole = [-1 / sd] if sd > 1 / 12 else None

    def integrand(e):
        return math.log(abs(1 + sd * e) + 1e-300) * math.exp(-e * e / 2) / math.sqrt(2 * math.pi)

    value = integrate.quad(integrand, -12, 12, points=pole, limit=2000, epsabs=1e-12, epsrel=1e-11)[0]
    return value - log_alpha / 2 + (math.log(2) + np.euler_gamma) / 2


def test_the_published_approximation_is_within_a_hundredth_of_its_integral():
    grid = np.linspace(-8, 8, 161)
    exact = np.array([exact_log_uniform_kl(a) for a in grid])
    found = np.array([float(log_uniform_kl(torch.tensor(a, dtype=torch.float64))) for a in grid])
    error = np.abs(found - exact)
    assert error.max() < 0.0095  # 0.0094 at log α = −3.5
    assert error.max() > 0.009
    assert grid[error.argmax()] == pytest.approx(-3.5, abs=0.15)
    assert (np.diff(found) < 0).all(), "more noise, less KL"
    assert exact[-1] < 2e-4, "the constant is that of α → ∞"


def test_far_from_zero_the_approximation_neither_overflows_nor_turns():
    ends = torch.tensor([-80.0, 80.0], requires_grad=True)
    log_uniform_kl(ends).backward()
    assert ends.grad.tolist() == pytest.approx([-0.5, 0.0], abs=1e-6)
    both = log_uniform_kl(torch.tensor([[0.5], [-1.0]]))
    assert float(both) == pytest.approx(sum(float(log_uniform_kl(torch.tensor(v))) for v in (0.5, -1.0)))


def test_sparse_dropout_takes_the_log_uniform_prior_in_place_of_the_declared_one():
    layer = layers.VariationalDropout(torch.nn.Linear(4, 2), 0.3).double()
    weight = layer.layer.weight.detach()
    found = {float(layer.expected_energy(prior, weight)) for prior in (Normal(0.1), Laplace(3.0))}
    assert found == {float(log_uniform_kl(layer.log_alpha.detach()))}
    assert layer.entropy(8) == 0
    torch.testing.assert_close(layer.log_alpha, (layer.spread(weight).square() / weight.square()).log(), rtol=1e-4, atol=1e-4)


# ---- what is refused


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        (priors.GroupLasso(1.0), r"a weight under dropout needs a prior with independent entries, but GroupLasso"),
        (Horseshoe(1.0), r"must be finite, but Horseshoe\(scale=1\.0\) has no finite log-density at 0"),
    ],
)
def test_priors_to_which_there_is_no_kl(prior, message):
    weight = torch.ones(3, 3, dtype=torch.float64)
    for layer in (layers.Dropout(0.1), layers.GaussianDropout(0.1), layers.DropConnect(torch.nn.Linear(3, 3), 0.1)):
        with pytest.raises(ValueError, match=message):
            layer.check(prior, weight)
    layers.VariationalDropout(torch.nn.Linear(3, 3)).check(prior, weight)  # its own prior takes the place
    layers.Dropout(0.1).check(Flat(), weight)


# ---- the decay


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.5])
def test_the_decay_is_the_gradient_of_the_energy(rate):
    """In the loss (1/N) Σ ½(y − f)² + λ Σ M² a nat counts σ²/N; for both ways to write the mask."""
    length, N, sigma = 2.5, 300, 0.4
    prior, weight = Normal(1 / length), entries(6).requires_grad_()
    (gradient,) = torch.autograd.grad(two_points(prior, weight, rate), weight)
    decay = dropout_decay(rate, length, N, sigma)
    torch.testing.assert_close(2 * decay * weight.detach(), gradient * sigma**2 / N, rtol=1e-12, atol=1e-12)
    kept = weight * (1 - rate)  # what an un-rescaled mask calls M is 1/(1 − p) times torch's
    (gradient,) = torch.autograd.grad(two_points(prior, kept, rate), weight)
    decay = dropout_decay(rate, length, N, sigma, inverted=False)
    torch.testing.assert_close(2 * decay * weight.detach(), gradient * sigma**2 / N, rtol=1e-12, atol=1e-12)
    assert decay == pytest.approx(length**2 * (1 - rate) / (2 * N * sigma**-2))  # Gal and Ghahramani (2016), equation 7


def test_the_decay_at_rate_0_is_that_of_the_table():
    table = {row.tool: row for row in equivalents(Normal(0.4), num_data=300, noise_scale=0.5).rows}
    mse = table["torch SGD, Adam, MSELoss"].numbers["weight_decay"]
    assert mse == pytest.approx(4 * dropout_decay(0.0, 1 / 0.4, 300, 0.5))
    assert table["torch, weight behind Dropout(p)"].write == "weight_decay / (1 - p)"
    assert dropout_decay(0.2, 2.5, 300, 0.5) == pytest.approx(mse / 4 / (1 - 0.2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1.0, 1.0, 10, 1.0), r"rate must be the share that is dropped, 0 <= rate < 1, but 1\.0 came"),
        ((0.1, 0.0, 10, 1.0), r"length_scale must be a finite number > 0, but 0\.0 came"),
        ((0.1, 1.0, 0, 1.0), r"num_data must be a whole number >= 1, but 0 came"),
        ((0.1, 1.0, 10, -1.0), r"noise_scale must be a finite number > 0, but -1\.0 came"),
    ],
)
def test_a_decay_that_is_none(arguments, message):
    with pytest.raises(ValueError, match=message):
        dropout_decay(*arguments)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
@pytest.mark.parametrize("temperature", [1e-4, 0.1, 0.5, 1.0, 3.0])
@pytest.mark.parametrize("rate", [0.05, 0.4, 0.9])
def test_concrete_dropout_s_moments_are_those_of_its_draws(rate, temperature, seed):
    net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), layers.ConcreteDropout(rate, temperature), nn.Linear(4, 1)).double()
    X = torch.randn(20, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    post = br.fit(br.BayesianModel(net), X, X[:, 0], method=MCDropout(num_steps=2), seed=seed, progress=False)
    count = 20_000
    drawn = post.sample(count, seed=seed)["3.weight"]
    error = drawn.std(0) / count**0.5
    assert bool(((post.mean["3.weight"] - drawn.mean(0)).abs() <= 5 * error + 1e-12).all())
    fourth = (drawn - drawn.mean(0)).pow(4).mean(0)
    error_of_sd = ((fourth - drawn.var(0).square()) / count).clamp_min(0).sqrt() / (2 * drawn.std(0))
    assert bool(((post.std["3.weight"] - drawn.std(0)).abs() <= 5 * error_of_sd + 1e-12).all())


@pytest.mark.parametrize("temperature", [0.03, 0.7, 1.0, 1.3, 20.0])
def test_relaxed_moments_by_adaptive_quadrature(temperature):
    logit = math.log(0.3 / 0.7)
    z = lambda x: special.expit((x - logit) / temperature) / 0.7  # noqa: E731
    density = lambda x: special.expit(x) * special.expit(-x)  # noqa: E731
    first, second = (
        integrate.quad(lambda x, k=k: z(x) ** k * density(x), -60, 60, points=[logit], limit=500, epsabs=1e-13)[0]
        for k in (1, 2)
    )
    mean, sd = relaxed_moments(logit, temperature)
    assert mean == pytest.approx(first, rel=1e-9)
    assert sd == pytest.approx(math.sqrt(second - first**2), rel=1e-8)


def test_what_gaussian_dropout_leaves_out_of_its_kl_is_the_length_of_a_column():
    """One entry a column: W ~ N(M, α M²), and KL = E[−log p] − ½ log 2πeα − log|M| by quadrature."""
    layer, prior = layers.GaussianDropout(0.4), priors.StudentT(4.0, 0.7)
    for m in (0.05, 0.8, 3.0):
        sd = math.sqrt(layer.alpha) * m
        q = stats.norm(m, sd)
        log_p = lambda w: float(prior.log_prob(torch.tensor(w, dtype=torch.float64)))  # noqa: E731
        whole = integrate.quad(lambda w: q.pdf(w) * (q.logpdf(w) - log_p(w)), m - 12 * sd, m + 12 * sd, limit=400)[0]  # noqa: B023
        taken = float(layer.expected_energy(prior, torch.tensor([m], dtype=torch.float64)))
        assert whole == pytest.approx(taken - 0.5 * math.log(2 * math.pi * math.e * layer.alpha) - math.log(m), abs=2e-3)
    assert "log‖M_column‖" in str(type(layer).__doc__)
