"""What every prior must be: a normalised density, the penalty it claims, the prox of that penalty, and its own text."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats
from torch.distributions import constraints

from bayesreg import priors
from bayesreg._catalog import concrete
from bayesreg.priors.base import AbstractElementwisePrior, AbstractPrior, stack

VARIED = [
    priors.Normal(0.5, loc=-1.0),
    priors.Laplace(0.1, loc=2.0),
    priors.HalfNormal(3.0),
    priors.HalfCauchy(0.2),
    priors.Exponential(4.0),
    priors.Gamma(1.0, 2.0),
    priors.Gamma(5.5, 0.5),
]
ALL = [cls() for cls in concrete(AbstractPrior)] + VARIED
PROPER = [prior for prior in ALL if prior.proper]
SEEDS = (0, 1, 2)


def lower(prior):
    return -math.inf if prior.support is constraints.real else 0.0


def density(prior, value):
    return math.exp(float(prior.log_prob(torch.tensor(value, dtype=torch.float64))))


def points(prior, count=7):
    """Values spread over where the prior lives, float64."""
    if not prior.proper:
        return torch.linspace(-3, 3, count, dtype=torch.float64)
    draws = torch.linspace(0.02, 0.98, count, dtype=torch.float64)
    quantile = {
        "Normal": lambda p: stats.norm.ppf(draws, p.loc, p.scale),
        "Laplace": lambda p: stats.laplace.ppf(draws, p.loc, p.scale),
        "HalfNormal": lambda p: stats.halfnorm.ppf(draws, scale=p.scale),
        "HalfCauchy": lambda p: stats.halfcauchy.ppf(draws, scale=p.scale),
        "Exponential": lambda p: stats.expon.ppf(draws, scale=1 / p.rate),
        "Gamma": lambda p: stats.gamma.ppf(draws, p.concentration, scale=1 / p.rate),
    }.get(type(prior).__name__)
    if quantile is None:
        return torch.linspace(0.1, 3, count, dtype=torch.float64)
    return torch.as_tensor(quantile(prior))


@pytest.mark.parametrize("prior", ALL, ids=repr)
class TestEveryPrior:
    def test_is_said_by_its_text(self, prior):
        assert priors.parse(repr(prior)) == prior

    def test_is_documented(self, prior):
        doc = type(prior).__doc__
        assert "regulariser:" in doc
        assert ">>>" in doc
        assert prior.regulariser
        assert prior.penalty_text

    def test_log_prob_is_the_distribution_s(self, prior):
        value = points(prior, 6).reshape(2, 3)
        found = prior.log_prob(value)
        assert found.shape == ()
        distribution = prior.distribution((2, 3), dtype=torch.float64)
        assert distribution.event_shape == (2, 3)
        torch.testing.assert_close(found, distribution.log_prob(value), rtol=1e-12, atol=1e-12)

    def test_penalty_and_log_prob_have_one_gradient(self, prior):
        value = points(prior).requires_grad_()
        by_penalty = torch.autograd.grad(prior.penalty(value), value)[0]
        by_density = torch.autograd.grad(-prior.log_prob(value), value, allow_unused=True)[0]
        torch.testing.assert_close(by_penalty, by_density, rtol=1e-12, atol=1e-12)

    def test_energy_gradient_is_the_derivative(self, prior):
        if not isinstance(prior, AbstractElementwisePrior):
            pytest.skip("only elementwise priors have it")
        value = points(prior).requires_grad_()
        expected = torch.autograd.grad(prior.energy(value).sum(), value)[0]
        torch.testing.assert_close(prior.energy_gradient(value.detach()), expected, rtol=1e-12, atol=1e-12)

    def test_penalty_is_zero_at_the_mode_and_nowhere_below(self, prior):
        grid = torch.cat([points(prior, 2001), torch.tensor([0.0, 1e-12, 1e-3])]).double()
        grid = grid[grid >= lower(prior)]
        penalties = torch.stack([prior.penalty(value) for value in grid])
        assert penalties.min() >= 0
        at = optimize.minimize_scalar(
            lambda v: float(prior.penalty(torch.tensor(v, dtype=torch.float64))),
            bounds=(max(lower(prior), float(grid.min()) - 1), float(grid.max())),
            method="bounded",
            options={"xatol": 1e-12},
        )
        assert min(at.fun, float(penalties.min())) < 1e-5

    @pytest.mark.parametrize("step", [0.1, 2.0])
    def test_prox_is_the_brute_force_minimum(self, prior, step):
        values = torch.cat([points(prior, 5) * 2, torch.tensor([-0.7, 0.0])]).double()
        found = prior.prox(values, step)
        low = lower(prior)
        for value, got in zip(values, found, strict=True):

            def cost(z, value=float(value)):
                penalty = float(prior.penalty(torch.tensor(z, dtype=torch.float64)))
                return step * penalty + 0.5 * (z - value) ** 2

            reach = abs(float(value)) + 5 * step + 5
            grid = np.linspace(max(low, -reach), reach, 4001)
            best = grid[np.argmin([cost(z) for z in grid])]
            width = grid[1] - grid[0]
            fine = optimize.minimize_scalar(
                cost, bounds=(max(low, best - width), best + width), method="bounded", options={"xatol": 1e-10}
            )
            assert cost(float(got)) <= min(fine.fun, cost(max(low, 0.0))) + 1e-9
            if type(prior) is not priors.HalfCauchy:  # not convex: two minima may tie
                assert float(got) == pytest.approx(fine.x, abs=1e-6)

    def test_stacked_over_tensors_it_is_the_sum(self, prior):
        if not isinstance(prior, AbstractElementwisePrior):
            pytest.skip("only elementwise priors are stacked")
        numbers = {f.name for f in dataclasses.fields(prior) if isinstance(getattr(prior, f.name), float)}
        other = dataclasses.replace(prior, **{n: getattr(prior, n) * 1.5 for n in numbers})
        a, b = points(prior, 4), points(other, 3)
        both = stack([prior, other], [4, 3], a)
        torch.testing.assert_close(both.energy(torch.cat([a, b])).sum(), prior.energy(a).sum() + other.energy(b).sum())
        apart = torch.cat([prior.prox(a, 0.7), other.prox(b, 0.7)])
        torch.testing.assert_close(both.prox(torch.cat([a, b]), 0.7), apart, rtol=1e-9, atol=1e-12)

    def test_expected_energy_is_the_gauss_hermite_sum(self, prior):
        if not isinstance(prior, AbstractElementwisePrior):
            pytest.skip("only elementwise priors have it")
        nodes, weights = np.polynomial.hermite_e.hermegauss(101)
        loc, scale = torch.tensor([-0.8, 0.3], dtype=torch.float64), torch.tensor([0.4, 1.1], dtype=torch.float64)
        found = prior.expected_energy(loc, scale)
        if found is None:
            pytest.skip("no closed form; it is sampled")
        u = loc + scale * torch.as_tensor(nodes)[:, None]
        value = u if prior.support is constraints.real else u.exp()
        weight = torch.as_tensor(weights / weights.sum())[:, None]
        rough = 2e-2 if not prior.smooth else 1e-9  # a kink limits the quadrature, not the closed form
        torch.testing.assert_close(found, (weight * prior.energy(value)).sum(0), rtol=rough, atol=rough)


@pytest.mark.parametrize("prior", PROPER, ids=repr)
class TestEveryProperPrior:
    def test_integrates_to_one(self, prior):
        centre = float(points(prior, 3)[1])
        below = integrate.quad(lambda v: density(prior, v), lower(prior), centre, epsabs=1e-11, limit=400)[0]
        above = integrate.quad(lambda v: density(prior, v), centre, math.inf, epsabs=1e-11, limit=400)[0]
        assert below + above == pytest.approx(1, abs=1e-8)

    @pytest.mark.parametrize("seed", SEEDS)
    def test_draws_follow_the_density(self, prior, seed):
        number = 20_000
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            draws = prior.distribution((number,), dtype=torch.float64).sample()
        assert draws.shape == (number,)
        for point in points(prior, 5):
            mass = integrate.quad(lambda v: density(prior, v), lower(prior), float(point), limit=400)[0]
            error = math.sqrt(mass * (1 - mass) / number)
            assert abs(float((draws <= point).double().mean()) - mass) < 4.5 * error

    def test_is_zero_outside_its_support(self, prior):
        if prior.support is constraints.real:
            pytest.skip("lives everywhere")
        assert prior.log_prob(torch.tensor([1.0, -1.0])) == -math.inf

    def test_float64_keeps_its_digits(self, prior):
        value = points(prior, 3)
        single = prior.distribution((3,), dtype=torch.float32).log_prob(value.float())
        double = prior.distribution((3,), dtype=torch.float64).log_prob(value)
        assert single.dtype == torch.float32
        assert double.dtype == torch.float64
        torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("prior", "theirs"),
    [
        (priors.Normal(0.5, loc=1.0), stats.norm(1.0, 0.5)),
        (priors.Laplace(0.5, loc=1.0), stats.laplace(1.0, 0.5)),
        (priors.HalfNormal(2.0), stats.halfnorm(scale=2.0)),
        (priors.HalfCauchy(2.0), stats.halfcauchy(scale=2.0)),
        (priors.Exponential(2.0), stats.expon(scale=0.5)),
        (priors.Gamma(3.0, 2.0), stats.gamma(3.0, scale=0.5)),
        (priors.Gamma(1.0, 2.0), stats.gamma(1.0, scale=0.5)),
    ],
    ids=repr,
)
def test_density_is_scipy_s(prior, theirs):
    value = torch.tensor([0.1, 1.7, 6.0], dtype=torch.float64)
    assert float(prior.log_prob(value)) == pytest.approx(theirs.logpdf(value.numpy()).sum(), rel=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: priors.Normal(-1.0), r"scale must be a finite number > 0, but -1.0 came"),
        (lambda: priors.Normal(float("nan")), r"scale must be a finite number > 0, but nan came"),
        (lambda: priors.Normal("1"), r"scale must be a number, but '1' came"),
        (lambda: priors.Laplace(0.0), r"scale must be a finite number > 0, but 0.0 came"),
        (lambda: priors.Laplace(1.0, loc=math.inf), r"loc must be a finite number, but inf came"),
        (lambda: priors.HalfNormal(-2), r"scale must be a finite number > 0"),
        (lambda: priors.HalfCauchy(0), r"scale must be a finite number > 0"),
        (lambda: priors.Exponential(-0.5), r"rate must be a finite number > 0"),
        (lambda: priors.Gamma(0.5), r"concentration must be >= 1, but 0.5 came: below 1 the density is unbounded"),
        (
            lambda: priors.Normal(1.0, fan_in=True).log_prob(torch.zeros(3)),
            r"fan_in=True must meet a tensor of two or more axes",
        ),
        (lambda: priors.Flat().distribution((2,)).sample(), r"a draw must come from a proper prior, but Flat\(\) has no draws"),
        (lambda: priors.parse("Laplase(0.1)"), r"'Laplase' is unknown; did you mean 'Laplace'"),
        (lambda: priors.parse("Normal(scal=0.1)"), r"Normal has got an unexpected keyword argument 'scal'"),
        (lambda: priors.parse("__import__('os')"), r"'__import__' is unknown"),
        (lambda: priors.parse("Normal("), r"write a class name and numbers in brackets"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_fan_in_is_the_scale_over_the_root_of_the_inputs():
    weight = torch.randn(50, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    scaled = priors.Normal(1.0, fan_in=True)
    assert scaled.log_prob(weight) == priors.Normal(0.25).log_prob(weight)
    assert scaled.prox(weight, 1.0).equal(priors.Normal(0.25).prox(weight, 1.0))
    assert priors.Laplace(1.0, fan_in=True).resolve((8, 3, 5, 5)).scale == pytest.approx(1 / math.sqrt(75))
