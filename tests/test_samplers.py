"""Samplers on densities whose moments are known: a funnel, a banana, a mixture, ill-conditioned normals."""

import math

import pytest
import torch
from pyro.ops.stats import effective_sample_size
from scipy import integrate, stats

from bayesreg.samplers import AdjustedMicrocanonical, Hamiltonian, Microcanonical, NoUTurn, advance, directions, forgetting

SEEDS = (0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2)))
F64 = torch.float64
# how to make it, chains, draws of the warm-up, draws kept; a sampler with a Metropolis rule is added here by one line
SAMPLERS = {
    "hmc": (Hamiltonian, 64, 250, 300),
    "nuts": (NoUTurn, 4, 250, 400),
    "adjusted": (AdjustedMicrocanonical, 128, 4500, 1500),
}
# the No-U-Turn sampler takes its chains one by one, and half a minute for each of these
every_sampler = pytest.mark.parametrize(
    "name", ["hmc", *(pytest.param(n, marks=pytest.mark.slow) for n in ("adjusted", "nuts"))]
)


def walk(sampler, density, start, num_warmup, num_samples, *, seed=0, **state):
    """(D, C, P) and what was told of each draw, (D, C) by name; what is given by name stands for what would be tuned."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        now = {**sampler.init(density, start, num_warmup), **state}
        draws, said = [], []
        for step in range(num_warmup + num_samples):
            changed, told = sampler.step(density, now)
            after = {**now, **changed}
            now = sampler.warm_up(density, now, after, told, step, num_warmup) if step < num_warmup else after
            draws.append(now["u"])
            said.append(told)
    return torch.stack(draws[num_warmup:]), {name: torch.stack([t[name] for t in said[num_warmup:]]) for name in said[0]}


def sampled(name, density, size, *, seed=0, scale=1.0, **settings):
    made, chains, num_warmup, num_samples = SAMPLERS[name]
    start = scale * torch.randn(chains, size, generator=torch.Generator().manual_seed(100 + seed), dtype=F64)
    return walk(made(**settings), density, start, num_warmup, num_samples, seed=seed)


def assert_means(values, expected, *, error, multiple=3.5):
    """The mean of values (D, C, Q) is what is expected within Monte Carlo errors, which are below `error` sds."""
    of_mean = values.std((0, 1)) / effective_sample_size(values, chain_dim=1, sample_dim=0).sqrt()
    assert float((of_mean / values.std((0, 1))).max()) < error, "a test that cannot fail is none"
    away = (values.mean((0, 1)) - torch.as_tensor(expected, dtype=F64)).abs() / of_mean
    assert float(away.max()) < multiple, away


def with_gradient(log_density):
    def density(u):
        u = u.detach().requires_grad_()
        with torch.enable_grad():
            value = log_density(u)
            (gradient,) = torch.autograd.grad(value.sum(), u)
        return value.detach(), gradient

    return density


@every_sampler
@pytest.mark.parametrize("seed", SEEDS)
def test_a_banana(name, seed):
    """x ~ N(0, 1), y | x ~ N(x² − 1, ½²): means 0, variances 1 and 2¼, E[x² y] = 2."""

    def density(u):
        x, away = u[:, 0], u[:, 1] - u[:, 0].square() + 1
        return -0.5 * (x.square() + 4 * away.square()), torch.stack([8 * away * x - x, -4 * away], 1)

    draws, _ = sampled(name, density, 2, seed=seed)
    x, y = draws.unbind(2)
    values = torch.stack([x, y, x.square(), y.square(), x.square() * y], 2)
    assert_means(values, [0.0, 0.0, 1.0, 2.25, 2.0], error=0.1)


@every_sampler
@pytest.mark.parametrize("seed", SEEDS)
def test_the_weights_of_a_mixture(name, seed):
    """0.3 N(−1.5, 1) + 0.7 N(1.5, 1) along one axis of two, from a start that knows nothing of the weights."""
    log_weights = torch.tensor([0.3, 0.7], dtype=F64).log()
    means = torch.tensor([[-1.5, 0.0], [1.5, 0.0]], dtype=F64)

    def parts(u):
        return log_weights - 0.5 * (u[..., None, :] - means).square().sum(-1)

    def density(u):
        found = parts(u)
        return found.logsumexp(1), found.softmax(1) @ means - u

    draws, _ = sampled(name, density, 2, seed=seed)
    responsibility = parts(draws).softmax(-1)[..., :1]
    values = torch.cat([responsibility, draws, draws.square()], 2)
    assert_means(values, [0.3, 0.6, 0.0, 3.25, 1.0], error=0.1)


def funnel_quantile():
    """P(|x| < 1) for x ~ N(0, exp(v/2)²), v ~ N(0, 3²)."""
    return integrate.quad(lambda v: stats.norm.pdf(v, scale=3) * (2 * stats.norm.cdf(math.exp(-v / 2)) - 1), -30, 30)[0]


@every_sampler
@pytest.mark.parametrize("seed", SEEDS)
def test_neals_funnel_non_centred(name, seed):
    """v ~ N(0, 3²) and nine x = z exp(v/2), as a density of (v, z)."""
    sds = torch.tensor([3.0] + 9 * [1.0], dtype=F64)
    draws, _ = sampled(name, lambda u: (-0.5 * (u / sds).square().sum(1), -u / sds.square()), 10, seed=seed)
    v, x = draws[..., :1], draws[..., 1:] * (draws[..., :1] / 2).exp()
    values = torch.cat([v, v.square(), (x.abs() < 1).to(F64)], 2)
    assert_means(values, [0.0, 9.0] + 9 * [funnel_quantile()], error=0.05, multiple=4)


@pytest.mark.slow  # quickly: the funnel non-centred, and the rule of acceptance
@every_sampler
def test_neals_funnel_centred(name):
    """The density of (v, x) itself, v ~ N(0, 1): steps must shrink for its neck, which a diagonal metric cannot tell."""

    def density(u):
        v, x = u[:, :1], u[:, 1:]
        pull = x * (-v).exp()
        value = -0.5 * (v.square() + (x * pull).sum(1, keepdim=True) + x.shape[1] * v)
        return value[:, 0], torch.cat([0.5 * (x * pull).sum(1, keepdim=True) - v - 0.5 * x.shape[1], -pull], 1)

    draws, told = sampled(name, density, 4, scale=0.5, target_acceptance=0.9)
    v = draws[..., :1]
    assert_means(torch.cat([v, v.square(), (v < -1).to(F64)], 2), [0.0, 1.0, stats.norm.cdf(-1)], error=0.1, multiple=4)
    assert float(told["diverging"].mean()) < 1e-3


@every_sampler
@pytest.mark.parametrize("rotated", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_ill_conditioned_normal(name, rotated):
    """100 unknowns, sds from 0.01 to 10 along the axes, or from 0.1 to 2 along directions that no diagonal metric sees."""
    sds = torch.logspace(math.log10(0.1), math.log10(2.0), 100, dtype=F64) if rotated else torch.logspace(-2, 1, 100, dtype=F64)
    axes = torch.eye(100, dtype=F64)
    if rotated:
        axes = torch.linalg.qr(torch.randn(100, 100, generator=torch.Generator().manual_seed(5), dtype=F64))[0]
    precision = axes @ torch.diag(sds**-2) @ axes.T

    def density(u):
        pull = u @ precision
        return -0.5 * (u * pull).sum(1), -pull

    draws, _ = sampled(name, density, 100)
    along = draws @ axes / sds
    assert_means(torch.cat([along, along.square()], 2), [0.0] * 100 + [1.0] * 100, error=0.1, multiple=4.5)


QUARTIC = integrate.quad(lambda x: x * x * math.exp(-(x**4)), -9, 9)[0] / integrate.quad(lambda x: math.exp(-(x**4)), -9, 9)[0]


def of_coarse_steps(seed):
    """E[x²] of exp(−x⁴), whose steps of 0.6 are wrong by themselves: only the rule makes the draws right."""
    start = torch.zeros(256, 1, dtype=F64)
    coarse = {"step_size": torch.tensor(0.6, dtype=F64), "length": torch.tensor(3.0, dtype=F64)}
    density = lambda u: (-(u**4).sum(1), -4 * u**3)  # noqa: E731
    draws, told = walk(Hamiltonian(), density, start, 0, 300, seed=seed, **coarse)
    return draws.square(), told


@pytest.mark.parametrize("seed", SEEDS)
def test_the_rule_of_acceptance_is_exact(seed, monkeypatch):
    squares, told = of_coarse_steps(seed)
    assert 0.5 < float(told["acceptance_rate"].mean()) < 0.95
    assert_means(squares[10:], [QUARTIC], error=0.01)
    monkeypatch.setattr("bayesreg.samplers.hamiltonian.chances", lambda before, after: torch.ones_like(before))
    squares, _ = of_coarse_steps(seed)
    with pytest.raises(AssertionError):
        assert_means(squares[10:], [QUARTIC], error=math.inf, multiple=5)


@pytest.mark.parametrize("seed", SEEDS)
def test_microcanonical_trajectories_are_exact_by_their_rule(seed):
    """E[x²] of exp(−x⁴) by steps whose energy errors are large; without the rule they miss it."""
    density = lambda u: (-(u**4).sum(1), -4 * u**3)  # noqa: E731
    start = torch.randn(128, 3, generator=torch.Generator().manual_seed(seed), dtype=F64) / 2
    coarse = {"step_size": torch.full((128, 1), 1.1, dtype=F64), "length": torch.full((128, 1), 2.0, dtype=F64)}
    for exact in (1.0, 0.0):
        state = {**coarse, "exact": torch.tensor(exact, dtype=F64)}
        draws, told = walk(AdjustedMicrocanonical(), density, start, 0, 250, seed=seed, **state)
        values = draws[50:].square()
        error = values.std((0, 1)) / effective_sample_size(values, chain_dim=1, sample_dim=0).sqrt()
        away = float(((values.mean((0, 1)) - QUARTIC) / error).abs().max())
        assert away < 4 if exact else away > 6
        assert not exact or 0.3 < float(told["acceptance_rate"].mean()) < 0.97


def test_no_u_turn_on_a_correlated_normal():
    """The quick test of Pyro's kernel behind our density, momentum, metric and step size."""
    covariance = torch.tensor([[1.0, 1.6], [1.6, 4.0]], dtype=F64)
    precision = torch.linalg.inv(covariance)
    density = lambda u: (-0.5 * (u @ precision * u).sum(1), -u @ precision)  # noqa: E731
    start = torch.randn(2, 2, generator=torch.Generator().manual_seed(0), dtype=F64)
    draws, told = walk(NoUTurn(), density, start, 80, 120)
    x, y = draws.unbind(2)
    assert_means(torch.stack([x, y, x * x, x * y, y * y], 2), [0.0, 0.0, 1.0, 1.6, 4.0], error=0.25)
    assert bool((told["n_steps"] >= 1).all())
    assert abs(float(told["acceptance_rate"].mean()) - 0.8) < 0.12
    lp = density(draws.flatten(0, 1))[0]
    torch.testing.assert_close(told["lp"].flatten(), lp)
    kinetic = told["energy"][1:] + told["lp"][:-1]  # the energy is that of the start, with its fresh momentum
    assert abs(float(kinetic.mean()) - 1.0) < 5 / math.sqrt(kinetic.numel())


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_unadjusted_steps_have_a_small_bias(seed):
    """At their default the sds of 30 unknowns between 0.1 and 10 are right to three per cent; with long steps they are not."""
    sds = torch.logspace(-1, 1, 30, dtype=F64)

    def ratios(energy_variance):
        start = torch.randn(64, 30, generator=torch.Generator().manual_seed(seed), dtype=F64)
        sampler = Microcanonical((energy_variance, energy_variance))
        draws, _ = walk(sampler, lambda u: (-0.5 * (u / sds).square().sum(1), -u / sds.square()), start, 900, 300, seed=seed)
        return (draws / sds).square().mean((0, 1)).sqrt()

    assert float((ratios(5e-4) - 1).abs().mean()) < 0.03
    assert float((ratios(0.5) - 1).abs().mean()) > 0.05


@pytest.mark.parametrize("apart", [pytest.param(0.0, marks=pytest.mark.slow), 8.0])
def test_chains_share_their_sds_where_they_meet(apart):
    """Of one normal they learn its sds, 0.05 to 1, and take small steps; of two far apart each keeps its scale."""
    sds = torch.tensor([0.05, 0.2, 1.0], dtype=F64)
    away = apart * torch.tensor([1.0, -1.0] * 4, dtype=F64)[:, None] * sds  # half of the chains in either region

    def density(u):
        off = (u - away) / sds
        return -0.5 * off.square().sum(1), -off / sds

    sampler = Microcanonical((0.5, 0.05), scale=torch.ones(3, dtype=F64))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        now, wide = sampler.init(density, away.clone(), 1500), []
        for step in range(1500):
            changed, told = sampler.step(density, now)
            now = sampler.warm_up(density, now, {**now, **changed}, told, step, 1500)
            wide.append(told["energy_error"].mean())
    if apart:
        assert now["scale"].eq(1).all()
        assert 0.02 < float(torch.stack(wide[-200:]).mean()) < 0.12
    else:
        torch.testing.assert_close(now["scale"][0], sds, rtol=0.25, atol=0)
        assert float(torch.stack(wide[-200:]).mean()) < 2e-3


def test_a_step_of_the_dynamics_is_reversible_and_of_second_order():
    """Back with the direction turned around; and a step's energy error falls like the cube of its length."""
    generator = torch.Generator().manual_seed(0)
    sds = torch.tensor([0.5, 1.0, 2.0], dtype=F64)
    density = lambda u: (-0.5 * (u / sds).square().sum(1), -u / sds.square())  # noqa: E731
    start = torch.randn(50, 3, generator=generator, dtype=F64)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = Microcanonical().init(density, start, 10)
    after, change = advance(density, state, torch.full((50, 1), 0.2, dtype=F64))
    back, undone = advance(density, {**after, "n": -after["n"]}, torch.full((50, 1), 0.2, dtype=F64))
    torch.testing.assert_close(back["u"], start, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(-back["n"], state["n"], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(undone, -change, rtol=1e-8, atol=1e-10)
    _, less = advance(density, state, torch.full((50, 1), 0.1, dtype=F64))
    assert 6 < float((change.abs() / less.abs()).median()) < 11


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_direction_is_forgotten_over_its_length(seed):
    """E[n·n'] = exp(−step/length) for many unknowns, and speed stays one."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        n = directions(torch.zeros(200, 400, dtype=F64))
        after = forgetting(n, torch.full((200, 1), 0.7, dtype=F64), torch.full((200, 1), 2.0, dtype=F64))
    kept = (n * after).sum(1)
    assert abs(float(kept.mean()) - math.exp(-0.35)) < 4 * float(kept.std()) / 200**0.5 + 1 / 400
    torch.testing.assert_close(after.norm(dim=1), torch.ones(200, dtype=F64))


def test_one_unknown_has_no_direction():
    with pytest.raises(ValueError, match="at least 2 unknowns, since a direction turns, but 1 came; take method='hmc'"):
        Microcanonical().init(lambda u: (-u.square().sum(1), -2 * u), torch.zeros(2, 1), 10)
