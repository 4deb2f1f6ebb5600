"""What every prior must be: a normalised density, the penalty it claims, the prox of that penalty, and its own text."""

import dataclasses
import functools
import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats

from bayesreg import priors
from bayesreg._catalog import concrete
from bayesreg.priors import AbstractElementwisePrior, AbstractPrior, numeric, stack, stackable

VARIED = [
    priors.Fixed(2.0),
    priors.Normal(0.5, loc=-1.0),
    priors.Laplace(0.1, loc=2.0),
    priors.ElasticNet(0.2, 3.0),
    priors.ElasticNet(3.0, 0.2),
    priors.ElasticNet(0.01, 1.0),
    priors.StudentT(1.5, 0.3, loc=1.0),
    priors.Cauchy(3.0, loc=-2.0),
    priors.GeneralizedNormal(1.5, 0.3, loc=1.0),
    priors.GeneralizedNormal(3.0, 2.0),
    priors.ScaleMixture(2.0, 0.01, 0.2),
    priors.SpikeSlab(0.1, 3.0, 0.2),
    priors.Horseshoe(0.1),
    priors.RegularizedHorseshoe(0.1, slab_scale=0.5),
    priors.RegularizedHorseshoe(2.0, slab_scale=0.5),
    priors.HalfNormal(3.0),
    priors.HalfCauchy(0.2),
    priors.HalfStudentT(2.0, 0.3),
    priors.Exponential(4.0),
    priors.Gamma(1.0, 2.0),
    priors.Gamma(5.5, 0.5),
    priors.InverseGamma(0.7, 2.0),
    priors.LogNormal(-1.0, 0.3),
    priors.LogUniform(0.1, 10.0),
    priors.Uniform(-3.0, 1.0),
    priors.Positive(priors.Laplace(0.5)),
    priors.Positive(priors.Normal(1.0, loc=1.5)),
    priors.Positive(priors.StudentT(3.0, 1.0, loc=-0.5)),
    priors.Positive(priors.Flat()),
    priors.GroupLasso(0.3, per="row"),
    priors.GroupLasso(2.0, per="tensor"),
    priors.GroupHorseshoe(0.2, per="row"),
    priors.MultivariateNormal(((2.0, 0.5, 0.1), (0.5, 1.0, 0.0), (0.1, 0.0, 0.3)), loc=1.0, per="row"),
    priors.Smooth(2, 0.3, level_scale=2.0),
    priors.Smooth(1, 0.5, level_scale=1.0, per="row"),
    priors.Smooth(2, 0.3, per="row"),
    priors.TotalVariation(0.3, per="column"),
]
ALL = [cls() for cls in concrete(AbstractPrior)] + VARIED
ELEMENTWISE = [prior for prior in ALL if isinstance(prior, AbstractElementwisePrior)]
DENSITIES = [prior for prior in ELEMENTWISE if prior.proper and not isinstance(prior, priors.Fixed)]
TENSORS = [prior for prior in ALL if not isinstance(prior, AbstractElementwisePrior)]
SEEDS = (0, 1, 2)
SHAPES = [(2, 3), (2,), (4, 5), (5,), (3, 3)]


def tensor(value):
    return torch.as_tensor(value, dtype=torch.float64)


def low(prior):
    return numeric.ends(prior.support)[0]


def high(prior):
    return numeric.ends(prior.support)[1]


def log_density(prior):
    """Of each entry, from what the class writes."""
    return lambda w: prior.log_constant - prior.energy(w)


def density(prior, value):
    return math.exp(float(prior.log_prob(tensor(value))))


def cdf(prior, points):
    return numeric.cdf(log_density(prior), prior.support, float(prior.mode), tensor(points))


def fitting(prior):
    """The first shape that the prior can stand on."""
    for shape in SHAPES:
        try:
            prior.resolve(shape)
        except ValueError:
            continue
        return shape
    raise AssertionError(prior)


@functools.cache
def quantiles(prior, count):
    levels = np.linspace(0.02, 0.98, count)
    return numeric.quantiles(log_density(prior), prior.support, float(prior.mode), levels.tolist())


def points(prior, count=7):
    """Values spread over where the prior lives, float64."""
    if isinstance(prior, priors.Fixed):
        return torch.full((count,), prior.value, dtype=torch.float64)
    if not prior.proper:
        return torch.linspace(-3 if low(prior) < 0 else 0.1, 3, count, dtype=torch.float64)
    return tensor(quantiles(prior, 7) if count == 7 else np.interp(np.linspace(0, 6, count), range(7), quantiles(prior, 7)))


def values_for(prior, seed=0):
    """A tensor of a shape that the prior can stand on, inside its support."""
    shape = fitting(prior)
    if isinstance(prior, AbstractElementwisePrior):
        return points(prior, math.prod(shape)).reshape(shape)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("prior", ALL, ids=repr)
class TestEveryPrior:
    def test_is_said_by_its_text_and_by_plain_values(self, prior):
        assert priors.parse(repr(prior)) == prior
        assert priors.from_dict(priors.to_dict(prior)) == prior
        assert priors.from_dict(repr(prior)) == prior

    def test_is_documented(self, prior):
        doc = type(prior).__doc__
        assert "regulariser:" in doc
        assert ">>>" in doc
        assert prior.regulariser
        assert prior.penalty_text

    def test_log_prob_is_the_distribution_s(self, prior):
        value = values_for(prior)
        found = prior.log_prob(value)
        assert found.shape == ()
        distribution = prior.distribution(value.shape, dtype=torch.float64)
        assert distribution.event_shape == value.shape
        torch.testing.assert_close(found, distribution.log_prob(value), rtol=1e-12, atol=1e-12)
        batch = torch.stack([value, value])
        torch.testing.assert_close(distribution.log_prob(batch), torch.stack([found, found]), rtol=1e-12, atol=1e-12)

    def test_log_prob_is_normaliser_minus_penalty(self, prior):
        value = values_for(prior)
        expected = prior.log_normaliser(value.shape) - prior.penalty(value)
        torch.testing.assert_close(prior.log_prob(value), tensor(expected), rtol=1e-12, atol=1e-12)

    def test_penalty_and_log_prob_have_one_gradient(self, prior):
        value = values_for(prior).requires_grad_()
        by_penalty = torch.autograd.grad(prior.penalty(value), value)[0]
        by_density = torch.autograd.grad(-prior.log_prob(value), value)[0]
        torch.testing.assert_close(by_penalty, by_density, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(prior.penalty_gradient(value.detach()), by_penalty, rtol=1e-10, atol=1e-12)

    def test_gradient_is_the_finite_difference(self, prior):
        if isinstance(prior, priors.Fixed):
            pytest.skip("a point has no neighbours")
        value = values_for(prior)
        step = 1e-6 * torch.randn(value.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
        by_difference = prior.penalty(value + step) - prior.penalty(value - step)
        by_gradient = 2 * (prior.penalty_gradient(value) * step).sum()
        # float64 leaves about 1e-10 of a difference; a kink or pole within a step of a point would be bad luck
        torch.testing.assert_close(by_difference, by_gradient, rtol=1e-4, atol=1e-9)

    def test_float64_keeps_its_digits(self, prior):
        value = values_for(prior)
        single = prior.distribution(value.shape, dtype=torch.float32).log_prob(value.float())
        double = prior.distribution(value.shape, dtype=torch.float64).log_prob(value)
        assert single.dtype == torch.float32
        assert double.dtype == torch.float64
        torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-4)

    def test_can_be_vmapped(self, prior):
        value = values_for(prior)
        many = torch.stack([value, value])
        found = torch.vmap(prior.log_prob)(many)
        torch.testing.assert_close(found, prior.log_prob(value).expand(2), rtol=1e-12, atol=1e-12)

    def test_draws_have_the_shape_or_are_refused(self, prior):
        shape = fitting(prior)
        distribution = prior.distribution(shape, dtype=torch.float64)
        if not prior.proper:
            with pytest.raises(ValueError, match=r"a draw must come from a proper prior"):
                distribution.sample()
            return
        draw = distribution.sample((3,))
        assert draw.shape == (3, *shape)
        assert draw.dtype == torch.float64
        assert bool(torch.isfinite(distribution.log_prob(draw)).all())
        assert prior.distribution(shape, dtype=torch.float32).sample().dtype == torch.float32

    def test_takes_a_tag(self, prior):
        tagged = dataclasses.replace(prior, tag="inputs")
        assert "tag='inputs'" in repr(tagged)
        assert priors.parse(repr(tagged)) == tagged


@pytest.mark.parametrize("prior", ELEMENTWISE, ids=repr)
class TestEveryElementwisePrior:
    def test_energy_gradient_is_the_derivative(self, prior):
        value = points(prior).requires_grad_()
        expected = torch.autograd.grad(prior.energy(value).sum(), value)[0]
        torch.testing.assert_close(prior.energy_gradient(value.detach()), expected, rtol=1e-10, atol=1e-12)

    def test_penalty_is_zero_at_the_mode_and_nowhere_below(self, prior):
        if not prior.bounded:
            assert float(prior.energy(tensor([1e-12 if low(prior) < 0 else 1e-300])[0])) < 0  # a pole: no mode to be zero at
            return
        assert float(prior.penalty(tensor(prior.mode))) == pytest.approx(0, abs=1e-12)
        grid = torch.cat([points(prior, 401), tensor([0.0, 1e-12, 1e-3])])
        grid = grid[(grid >= low(prior)) & (grid <= high(prior))]
        assert prior.energy(grid).min() >= -1e-12

    @pytest.mark.parametrize("step", [0.1, 2.0])
    def test_prox_is_the_brute_force_minimum(self, prior, step):
        values = torch.cat([points(prior, 5) * 2, tensor([-0.7, 0.0, 0.4])])
        if not prior.bounded:
            with pytest.raises(ValueError, match=r"a prox must have a minimum, but .* has a pole"):
                prior.prox(values, step)
            return
        for value, got in zip(values.tolist(), prior.prox(values, step).tolist(), strict=True):

            def cost(z, value=value):
                return step * prior.energy(tensor(z)) + 0.5 * (tensor(z) - value) ** 2

            reach = abs(value - float(prior.mode)) + 1
            grid = torch.linspace(max(low(prior), value - reach), min(high(prior), value + reach), 4001, dtype=torch.float64)
            grid = torch.cat([grid, tensor([value, float(prior.mode)])]).clamp(low(prior), high(prior)).unique()
            at = int(cost(grid).argmin())
            fine = optimize.minimize_scalar(
                lambda z: float(cost(z)),
                bounds=(max(low(prior), float(grid[at]) - reach / 2000), min(high(prior), float(grid[at]) + reach / 2000)),
                method="bounded",
                options={"xatol": 1e-11},
            )
            best = min((float(fine.fun), float(fine.x)), (float(cost(grid[at])), float(grid[at])))
            assert float(cost(got)) <= best[0] + 1e-9
            second = cost(grid[(grid - best[1]).abs() > 1e-2]).min() if len(grid) > 2 else math.inf
            if float(second) > best[0] + 1e-6:  # where two minima do not tie, it is this one
                assert got == pytest.approx(best[1], abs=1e-6)

    def test_stacked_over_tensors_it_is_the_sum(self, prior):
        if not stackable(prior):
            pytest.skip("holds another prior")
        numbers = {f.name for f in dataclasses.fields(prior) if isinstance(getattr(prior, f.name), float)}
        grown = {n: getattr(prior, n) * (1.0 if n in ("weight", "inclusion_probability") else 1.5) for n in numbers}
        bounds_of_its_own = math.isfinite(high(prior))  # such priors are stacked with their equals only
        other = prior if bounds_of_its_own else dataclasses.replace(prior, **grown)
        a, b = points(prior, 4), points(other, 3)
        both = stack([prior, other], [(4,), (3,)], a)
        torch.testing.assert_close(both.energy(torch.cat([a, b])).sum(), prior.energy(a).sum() + other.energy(b).sum())
        if prior.bounded:
            apart = torch.cat([prior.prox(a, 0.7), other.prox(b, 0.7)])
            torch.testing.assert_close(both.prox(torch.cat([a, b]), 0.7), apart, rtol=1e-9, atol=1e-12)

    def test_expected_energy_is_the_gauss_hermite_sum(self, prior):
        nodes, weights = np.polynomial.hermite_e.hermegauss(101)
        loc, scale = tensor([-0.8, 0.3]), tensor([0.4, 1.1])
        found = prior.expected_energy(loc, scale)
        if found is None:
            pytest.skip("no closed form; it is sampled")
        u = loc + scale * tensor(nodes)[:, None]
        value = u if low(prior) < 0 else u.exp()
        weight = tensor(weights / weights.sum())[:, None]
        rough = 2e-2 if not prior.smooth else 1e-9  # a kink limits the quadrature, not the closed form
        torch.testing.assert_close(found, (weight * prior.energy(value)).sum(0), rtol=rough, atol=rough)

    @pytest.mark.parametrize(("loc", "scale"), [(0.3, 0.02), (-0.4, 0.9)])
    def test_expectation_by_quadrature_is_scipy_s(self, prior, loc, scale):
        """E[energy] and its slopes, E[energy ε]/scale and E[energy (ε² − 1)]/scale, by SciPy's adaptive rule."""
        line = prior.support is torch.distributions.constraints.real
        if prior.certain or (scale > 0.5 and not prior.quick):
            pytest.skip("there is nothing to expect, or it takes seconds")
        if not line and not prior.smooth and float(prior.mode) > 0:
            pytest.skip("a kink inside the half line: it is sampled")
        transform = None if line else torch.distributions.biject_to(prior.support)
        given = prior.energy, prior.mode, prior.bounded
        found = [float(part) for part in numeric.expected(*given, tensor([loc]), tensor([scale]), transform)]
        closed = prior.expected_energy(tensor([loc]), tensor([scale]))
        if closed is not None:
            assert found[0] == pytest.approx(float(closed), rel=1e-6, abs=1e-6)
            return
        at = (float(prior.mode) - loc) / scale if line else 0.0  # the one kink or pole
        ends = [e for e in sorted({-9.0, 9.0, at, *(at + s * 10.0**-k for s in (-1, 1) for k in range(6))}) if -9 <= e <= 9]

        def integral(factor):
            def density(e):
                u = tensor([loc + scale * e])
                return float(prior.energy(u if line else transform(u))) * factor(e) * math.exp(-0.5 * e * e)

            parts = [integrate.quad(density, a, b, epsabs=1e-10, limit=60)[0] for a, b in itertools.pairwise(ends)]
            return sum(parts) / math.sqrt(2 * math.pi)

        assert found[0] == pytest.approx(integral(lambda e: 1.0), rel=1e-6, abs=1e-6)
        if prior.quick:
            assert found[1] == pytest.approx(integral(lambda e: e) / scale, rel=1e-6, abs=1e-6)
            assert found[2] == pytest.approx(integral(lambda e: e * e - 1) / scale, rel=1e-6, abs=1e-6)


# dear to integrate: one of each class is enough where nobody waits
HORSESHOES = [prior for prior in VARIED if isinstance(prior, priors.Horseshoe | priors.RegularizedHorseshoe)]


@pytest.mark.parametrize(
    "prior", [pytest.param(p, marks=pytest.mark.slow if p in HORSESHOES else [], id=repr(p)) for p in DENSITIES]
)
def test_integrates_to_one(prior):
    """By SciPy's adaptive quadrature near the mode and far out, which knows nothing of ours."""
    inner = sorted({float(prior.mode), *quantiles(prior, 7)})
    ends = [low(prior), *[w for w in inner if low(prior) < w < high(prior)], high(prior)]
    parts = [
        integrate.quad(functools.partial(density, prior), a, b, epsabs=1e-10, epsrel=1e-10, limit=200)[0]
        for a, b in itertools.pairwise(ends)
    ]
    assert sum(parts) == pytest.approx(1, abs=1e-8)
    assert float(cdf(prior, [inner[-1]])) == pytest.approx(sum(parts[:-1]), abs=1e-8)  # ours, which the draws are held to


@pytest.mark.parametrize("prior", DENSITIES, ids=repr)
class TestEveryDensity:
    def test_draws_follow_the_density(self, prior):
        """Kolmogorov–Smirnov against the density's own distribution function, three seeds, 1 % level over the three."""
        grid = np.unique(points(prior, 41).numpy())
        expected = cdf(prior, grid).numpy()
        number = 20_000
        for seed in SEEDS:
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                draws = prior.distribution((number,), dtype=torch.float64).sample().numpy()
            assert draws.shape == (number,)
            # on a grid the statistic is at most the true one, whose 1 − 0.01/3 quantile is 1.79/√n
            gap = np.abs((draws[:, None] <= grid).mean(0) - expected).max()
            assert gap < 1.79 / math.sqrt(number)

    def test_entries_are_independent_draws(self, prior):
        """Each entry has its own local scale, label and sign: |w| of two entries is not correlated, nor are signs."""
        number = 20_000
        with torch.random.fork_rng():
            torch.manual_seed(0)
            draws = prior.distribution((2, 2), dtype=torch.float64).sample((number,)).reshape(number, 4)
        ranks = stats.spearmanr(draws.abs().numpy()).statistic[np.triu_indices(4, 1)]
        assert np.abs(ranks).max() < 4.5 / math.sqrt(number)
        if low(prior) < 0:
            signs = np.corrcoef(np.sign(draws.numpy() - float(prior.mode)).T)[np.triu_indices(4, 1)]
            assert np.abs(signs).max() < 4.5 / math.sqrt(number)

    def test_is_zero_outside_its_support(self, prior):
        outside = [edge for edge in (low(prior) - 1, high(prior) + 1) if math.isfinite(edge)]
        if not outside:
            pytest.skip("lives everywhere")
        for edge in outside:
            assert prior.log_prob(tensor([float(points(prior, 3)[1]), edge])) == -math.inf


@pytest.mark.parametrize("prior", TENSORS, ids=repr)
class TestEveryTensorPrior:
    def test_penalty_is_zero_at_the_mode_and_nowhere_below(self, prior):
        shape = fitting(prior)
        value = values_for(prior)
        mode = torch.zeros(shape, dtype=torch.float64) + (prior.loc if isinstance(prior, priors.MultivariateNormal) else 0.0)
        if not prior.bounded:
            assert prior.penalty(1e-9 * value) < 0
            return
        assert float(prior.penalty(mode)) == 0
        assert prior.penalty(value) > 0
        assert bool(torch.isfinite(prior.penalty_gradient(mode)).all())

    @pytest.mark.parametrize("step", [0.1, 2.0])
    @pytest.mark.parametrize("seed", SEEDS)
    def test_prox_beats_every_neighbour(self, prior, step, seed):
        """The cost of a convex penalty is strongly convex: 1e-6 from its minimum it is 5e-13 higher, along every direction."""
        value = 2 * values_for(prior, seed)
        if not prior.bounded:
            with pytest.raises(ValueError, match=r"a prox must have a minimum, but .* has a pole"):
                prior.prox(value, step)
            return
        found = prior.prox(value, step)

        def cost(z):
            return step * prior.penalty(z) + 0.5 * (z - value).square().sum()

        assert found.shape == value.shape
        generator = torch.Generator().manual_seed(seed)
        best = float(cost(found))
        directions = [*torch.eye(value.numel(), dtype=torch.float64).reshape(-1, *value.shape)]
        directions += [torch.randn(value.shape, generator=generator, dtype=torch.float64) for _ in range(50)]
        directions += [torch.ones_like(value), value, found]
        for direction in directions:
            for size in (1e-4, -1e-4, 1e-6, -1e-6):
                moved = size * direction / direction.norm().clamp_min(1e-12)
                # strong convexity: cost(z* + h) ≥ cost(z*) + ½‖h‖²
                assert float(cost(found + moved)) >= best + 0.4 * float(moved.square().sum()) - 1e-14

    def test_prox_is_the_smooth_minimum_of_a_search(self, prior):
        if not (prior.smooth and prior.bounded):
            pytest.skip("has a kink: see above")
        value = 2 * values_for(prior)

        def cost(z):
            z = tensor(z).reshape(value.shape)
            return float(0.7 * prior.penalty(z) + 0.5 * (z - value).square().sum())

        searched = optimize.minimize(cost, np.zeros(value.numel()), method="BFGS", options={"gtol": 1e-9}).x
        torch.testing.assert_close(prior.prox(value, 0.7).reshape(-1), tensor(searched), rtol=1e-5, atol=1e-6)

    def test_integrates_to_one_by_monte_carlo(self, prior):
        """E_t[p/t] = 1 under a t distribution that covers it, 3 seeds, within 4.5 Monte Carlo errors."""
        if not prior.proper or not prior.bounded:
            pytest.skip("improper, or with a pole, where the ratio has no variance: see the radial quadrature below")
        shape = fitting(prior)
        size, number = math.prod(shape), 200_000
        for seed in SEEDS:
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                own = prior.distribution(shape, dtype=torch.float64).sample((4000,)).reshape(4000, size)
                location = own.median(0).values
                spread = torch.quantile((own - location).abs(), 0.6, dim=0)
                scale = (
                    torch.randn(number, 1, dtype=torch.float64).square() + torch.randn(number, 1, dtype=torch.float64).square()
                )
                # a multivariate t with 2 degrees of freedom, whose tails cover the group's
                normal = torch.randn(number, size, dtype=torch.float64)
                draws = location + spread * normal / (scale / 2).sqrt()
            z = ((draws - location) / spread).square().sum(1)
            logs = math.lgamma((2 + size) / 2) - math.lgamma(1) - size / 2 * math.log(2 * math.pi) - spread.log().sum()
            logs = logs - (2 + size) / 2 * torch.log1p(z / 2)
            ratio = (prior.distribution(shape, dtype=torch.float64).log_prob(draws.reshape(-1, *shape)) - logs).exp()
            error = float(ratio.std()) / math.sqrt(number)
            assert abs(float(ratio.mean()) - 1) < 4.5 * error
            assert error < 0.05  # a test that cannot fail is none

    def test_draws_have_the_penalty_of_the_density(self, prior):
        """The penalty of draws follows the law of the penalty under the density, found by importance weights."""
        if not prior.proper:
            pytest.skip("improper")
        laws = {
            # penalty(w) of: a Gaussian is χ²/2; ‖w_g‖/scale of a multivariate Laplace is Gamma(d, 1)
            priors.GroupLasso: lambda shape: stats.gamma(math.prod(shape)),
            priors.MultivariateNormal: lambda shape: stats.gamma(math.prod(shape) / 2),
            priors.Smooth: lambda shape: stats.gamma(math.prod(shape) / 2),
        }
        law = laws.get(type(prior))
        if law is None:
            pytest.skip("its law has a test of its own")
        shape = fitting(prior)
        for seed in SEEDS:
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                draws = prior.distribution(shape, dtype=torch.float64).sample((5000,))
            penalties = torch.vmap(prior.penalty)(draws).numpy()
            assert stats.kstest(penalties, law(shape).cdf).pvalue > 0.01 / 3

    def test_gaussian_is_its_own_precision(self, prior):
        shape = fitting(prior)
        found = prior.gaussian(shape)
        if found is None:
            assert not isinstance(prior, (priors.MultivariateNormal, priors.Smooth))
            return
        value = values_for(prior).reshape(-1) - found[0]
        torch.testing.assert_close(0.5 * value @ found[1] @ value, prior.penalty(values_for(prior)), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 3, 10])
@pytest.mark.parametrize("cls", [priors.GroupLasso, priors.GroupHorseshoe])
def test_group_density_integrates_to_one_over_its_norm(cls, size):
    """∫ S_d r^(d−1) p(r) dr = 1 with S_d = 2π^(d/2)/Γ(d/2): exact where Monte Carlo only sees a thousandth."""
    prior = cls(0.3, per="tensor")
    surface = 2 * math.pi ** (size / 2) / math.gamma(size / 2)

    def radial(r):
        point = torch.zeros(size, dtype=torch.float64)
        point[0] = r
        return surface * r ** (size - 1) * math.exp(float(prior.log_prob(point)))

    parts = [integrate.quad(radial, a, b, limit=400)[0] for a, b in itertools.pairwise([0.0, 1e-3, 0.1, 1.0, 10.0, math.inf])]
    assert sum(parts) == pytest.approx(1, abs=1e-7)


@pytest.mark.parametrize("per", ["row", "column", "tensor"])
@pytest.mark.parametrize("seed", SEEDS)
def test_group_horseshoe_draws_have_one_local_scale_a_group(per, seed):
    """‖w_g‖²/χ²: given the norms, w_g/‖w_g‖ is uniform and ‖w_g‖ follows the radial density; groups are independent."""
    prior, shape, number = priors.GroupHorseshoe(0.3, per=per), (2, 3), 20_000
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        draws = prior.distribution(shape, dtype=torch.float64).sample((number,))
    norms = torch.vmap(prior._norms)(draws)
    size = math.prod(shape) // norms.shape[1]
    surface = 2 * math.pi ** (size / 2) / math.gamma(size / 2)
    single = priors.GroupHorseshoe(0.3, per="tensor")

    def radial(r):
        point = torch.zeros(size, dtype=torch.float64)
        point[0] = r
        return surface * r ** (size - 1) * math.exp(float(single.log_prob(point)))

    whole = sum(integrate.quad(radial, a, b, limit=400)[0] for a, b in itertools.pairwise([0.0, 0.01, 0.3, 10.0, math.inf]))
    assert whole == pytest.approx(1, abs=1e-8)
    grid = np.quantile(norms.numpy(), [0.1, 0.3, 0.5, 0.7, 0.9])
    cdf = np.cumsum([integrate.quad(radial, a, b, limit=400)[0] for a, b in itertools.pairwise([0.0, *grid])])
    gap = np.abs((norms.numpy().reshape(-1, 1) <= grid).mean(0) - cdf).max()
    assert gap < 1.79 / math.sqrt(norms.numel())
    if norms.shape[1] > 1:
        assert abs(stats.spearmanr(norms[:, 0], norms[:, 1]).statistic) < 4.5 / math.sqrt(number)


@pytest.mark.parametrize(
    ("prior", "theirs"),
    [
        (priors.Normal(0.5, loc=1.0), stats.norm(1.0, 0.5)),
        (priors.Laplace(0.5, loc=1.0), stats.laplace(1.0, 0.5)),
        (priors.StudentT(3.0, 0.5, loc=1.0), stats.t(3.0, 1.0, 0.5)),
        (priors.Cauchy(0.5, loc=1.0), stats.cauchy(1.0, 0.5)),
        (priors.GeneralizedNormal(0.7, 0.5, loc=1.0), stats.gennorm(0.7, 1.0, 0.5)),
        (priors.GeneralizedNormal(3.0, 0.5), stats.gennorm(3.0, 0.0, 0.5)),
        (priors.HalfNormal(2.0), stats.halfnorm(scale=2.0)),
        (priors.HalfCauchy(2.0), stats.halfcauchy(scale=2.0)),
        (priors.Exponential(2.0), stats.expon(scale=0.5)),
        (priors.Gamma(3.0, 2.0), stats.gamma(3.0, scale=0.5)),
        (priors.Gamma(1.0, 2.0), stats.gamma(1.0, scale=0.5)),
        (priors.InverseGamma(3.0, 2.0), stats.invgamma(3.0, scale=2.0)),
        (priors.LogNormal(0.5, 2.0), stats.lognorm(2.0, scale=math.exp(0.5))),
        (priors.LogUniform(0.05, 20.0), stats.loguniform(0.05, 20.0)),
        (priors.Uniform(-1.0, 7.0), stats.uniform(-1.0, 8.0)),
        (priors.Positive(priors.Normal(1.0, loc=2.0)), stats.truncnorm(-2.0, np.inf, loc=2.0)),
    ],
    ids=lambda value: repr(value) if isinstance(value, AbstractPrior) else value.dist.name,
)
def test_density_is_scipy_s(prior, theirs):
    value = tensor([0.1, 1.7, 6.0])
    assert float(prior.log_prob(value)) == pytest.approx(theirs.logpdf(value.numpy()).sum(), rel=1e-11)


def test_half_student_and_multivariate_normal_are_scipy_s():
    value = tensor([0.1, 1.7, 6.0])
    theirs = stats.t(3.0, scale=2.0).logpdf(value.numpy()).sum() + 3 * math.log(2)
    assert float(priors.HalfStudentT(3.0, 2.0).log_prob(value)) == pytest.approx(theirs, rel=1e-12)
    covariance = np.array([[2.0, 0.5, 0.1], [0.5, 1.0, 0.0], [0.1, 0.0, 0.3]])
    theirs = stats.multivariate_normal([1.0] * 3, covariance).logpdf(value.numpy())
    assert float(priors.MultivariateNormal(covariance, loc=1.0).log_prob(value)) == pytest.approx(theirs, rel=1e-12)


W = tensor([0.3, -2.0, 1e-6, 15.0])


@pytest.mark.parametrize(
    ("prior", "limit", "tolerance"),
    [
        (priors.ElasticNet(0.5, 1e9), priors.Laplace(0.5), 1e-9),
        (priors.ElasticNet(1e9, 0.5), priors.Normal(0.5), 1e-8),
        (priors.StudentT(1e10, 0.5), priors.Normal(0.5), 1e-6),
        (priors.StudentT(1.0, 0.5), priors.Cauchy(0.5), 1e-13),
        (priors.GeneralizedNormal(1.0, 0.5), priors.Laplace(0.5), 1e-13),
        (priors.GeneralizedNormal(2.0, 0.5), priors.Normal(0.5 / math.sqrt(2)), 1e-13),
        (priors.RegularizedHorseshoe(0.5, slab_scale=1e9), priors.Horseshoe(0.5), 1e-9),
        (priors.ScaleMixture(1.0, 0.999999, 0.4), priors.Normal(1.0), 1e-3),
        (priors.SpikeSlab(0.4, 1.0, 0.999999), priors.Laplace(1.0), 1e-4),
    ],
    ids=repr,
)
def test_limits(prior, limit, tolerance):
    torch.testing.assert_close(prior.log_prob(W), limit.log_prob(W), rtol=tolerance, atol=tolerance)


def test_half_priors_are_the_positive_part_of_the_whole():
    value = tensor([0.1, 1.7, 6.0])
    for whole, half in [
        (priors.Normal(2.0), priors.HalfNormal(2.0)),
        (priors.Cauchy(2.0), priors.HalfCauchy(2.0)),
        (priors.StudentT(3.0, 2.0), priors.HalfStudentT(3.0, 2.0)),
        (priors.Laplace(2.0), priors.Exponential(0.5)),
    ]:
        torch.testing.assert_close(priors.Positive(whole).log_prob(value), half.log_prob(value), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("per", "shape"), [("column", (1, 4)), ("row", (4, 1))])
def test_group_of_one_is_the_elementwise_prior(per, shape):
    w = W.reshape(shape)
    torch.testing.assert_close(priors.GroupLasso(0.5, per=per).log_prob(w), priors.Laplace(0.5).log_prob(w), rtol=1e-13, atol=0)
    group = priors.GroupLasso(0.5, per=per).prox(w, 0.7)
    torch.testing.assert_close(group, priors.Laplace(0.5).prox(w, 0.7), rtol=1e-14, atol=0)
    assert int((group == 0).sum()) == 2
    grouped, single = priors.GroupHorseshoe(0.5, per=per), priors.Horseshoe(0.5)
    torch.testing.assert_close(grouped.log_prob(w), single.log_prob(w), rtol=1e-12, atol=0)


def test_horseshoe_is_exponential_integral():
    from scipy.special import exp1

    for scale in (0.1, 2.0):
        w = tensor([1e-12, 1e-6, 0.01, 0.3, 2.0, 30.0]) * scale
        x = (w / scale).square().numpy() / 2
        exact = np.exp(np.minimum(x, 500)) * exp1(np.minimum(x, 500)) / (scale * math.sqrt(2 * math.pi**3))
        found = torch.stack([priors.Horseshoe(scale).log_prob(v) for v in w]).exp().numpy()
        np.testing.assert_allclose(found, exact, rtol=1e-11)


def test_horseshoe_in_the_far_tail_is_two_over_x():
    """e^x E₁(x) → 1/x: a float of E₁ would be zero there."""
    found = priors.Horseshoe(1.0).log_prob(tensor(1e6)).exp()
    assert float(found) == pytest.approx(2 / (1e12 * math.sqrt(2 * math.pi**3)), rel=1e-9)


def test_spike_and_slab_tells_what_is_included():
    prior = priors.SpikeSlab(0.2, 1.0, 0.01)
    w = tensor([0.0, 0.05, 1.0])
    slab, spike = 0.2 * stats.laplace(scale=1.0).pdf(w), 0.8 * stats.laplace(scale=0.01).pdf(w)
    torch.testing.assert_close(prior.inclusion(w), tensor(slab / (slab + spike)), rtol=1e-12, atol=1e-12)
    mixture = priors.ScaleMixture(1.0, 0.01, 0.2)
    slab, spike = 0.2 * stats.norm(scale=1.0).pdf(w), 0.8 * stats.norm(scale=0.01).pdf(w)
    torch.testing.assert_close(mixture.inclusion(w), tensor(slab / (slab + spike)), rtol=1e-12, atol=1e-12)


def test_smooth_with_a_level_is_the_multivariate_normal_of_its_precision():
    for prior, shape in [(priors.Smooth(1, 0.3, level_scale=2.0), (6,)), (priors.Smooth(2, 0.3, level_scale=2.0), (4, 5))]:
        size = math.prod(shape)
        matrices = []
        for axis, length in enumerate(shape):
            D = np.diff(np.eye(length), prior.order, axis=0)
            factors = [np.eye(n) if i != axis else D.T @ D for i, n in enumerate(shape)]
            matrices.append(functools.reduce(np.kron, factors))
        precision = sum(matrices) / 0.3**2 + np.eye(size) / 2.0**2
        value = values_for(priors.Normal(1.0)).new_tensor(np.random.default_rng(0).normal(size=shape))
        theirs = stats.multivariate_normal(np.zeros(size), np.linalg.inv(precision)).logpdf(value.numpy().ravel())
        assert float(prior.log_prob(value)) == pytest.approx(theirs, rel=1e-9)
        torch.testing.assert_close(prior.gaussian(shape)[1], tensor(precision), rtol=1e-10, atol=1e-10)


def test_smooth_without_a_level_does_not_see_a_line():
    line = torch.arange(6, dtype=torch.float64)
    assert float(priors.Smooth(1, 0.5).penalty(line + 7)) == float(priors.Smooth(1, 0.5).penalty(line)) == 5 / (2 * 0.25)
    assert float(priors.Smooth(2, 0.5).penalty(3 * line + 7)) == 0
    assert not priors.Smooth(2, 0.5).proper


def test_total_variation_of_a_line_is_the_density_of_its_differences():
    w = tensor([0.0, 1.0, -2.0, -2.0, 0.5])
    torch.testing.assert_close(
        priors.TotalVariation(0.7).log_prob(w), priors.Laplace(0.7).log_prob(w.diff()), rtol=1e-13, atol=0
    )
    table = torch.stack([w, -w])
    by_row = priors.TotalVariation(0.7, per="row").log_prob(table)
    torch.testing.assert_close(by_row, 2 * priors.TotalVariation(0.7).log_prob(w), rtol=1e-13, atol=0)


@pytest.mark.parametrize("shape", [(60,), (7, 8), (500,)])
def test_total_variation_prox_meets_its_optimality_condition(shape):
    """v − z = t Dᵀp with |p| ≤ 1 and p = sign where z jumps; in one dimension p is the running sum of v − z."""
    value = tensor(np.random.default_rng(0).normal(size=shape).cumsum(0))
    t = 0.7 / 0.5
    z = priors.TotalVariation(0.5).prox(value, 0.7)
    if len(shape) == 1:
        dual = -(value - z).cumsum(0)[:-1] / t
        jumps = z.diff()
        assert bool((dual.abs() <= 1 + 1e-9).all())
        assert bool(((dual - jumps.sign()).abs()[jumps != 0] < 1e-8).all())
        assert int((jumps == 0).sum()) > 10  # flat pieces are flat to the last digit
    assert float(value.sum()) == pytest.approx(float(z.sum()), abs=1e-9)


@pytest.mark.parametrize(
    "cls",
    [
        priors.Normal,
        priors.Laplace,
        priors.StudentT,
        priors.Cauchy,
        priors.GeneralizedNormal,
        priors.HalfNormal,
        priors.HalfCauchy,
        priors.HalfStudentT,
        priors.Exponential,
        priors.Gamma,
        priors.InverseGamma,
        priors.LogNormal,
        priors.LogUniform,
        priors.Uniform,
        priors.Horseshoe,
        priors.ElasticNet,
    ],
)
@pytest.mark.parametrize("mass", [0.5, 0.9])
def test_from_interval_holds_its_mass(cls, mass):
    positive = cls().support is not priors.Normal().support and cls not in (priors.Uniform,)
    single = cls in (priors.HalfNormal, priors.HalfCauchy, priors.HalfStudentT, priors.Exponential)
    centred = cls in (priors.Horseshoe, priors.ElasticNet)
    lower, upper = (0.0, 3.0) if single else (-2.0, 2.0) if centred else (0.5, 2.0) if positive else (-1.0, 3.0)
    prior = cls.from_interval(lower, upper, mass=mass)
    below, above = cdf(prior, [lower, upper]).tolist()
    assert above - below == pytest.approx(mass, abs=1e-9)
    assert below == pytest.approx(0 if single else (1 - mass) / 2, abs=1e-9)


@pytest.mark.parametrize(
    ("reach", "mass", "slab"),
    [
        pytest.param(*case, marks=pytest.mark.slow)  # its refusal is among those below
        for case in ((0.1, 0.5, 2.0), (1, 0.5, 2.0), (1, 0.9, 2.0), (5, 0.9, 50.0))
    ],
)
def test_from_interval_of_a_horseshoe_with_a_slab(reach, mass, slab):
    """The slab stays: it is no scale family, and some intervals cannot be had."""
    prior = priors.RegularizedHorseshoe.from_interval(-reach, reach, mass, slab_scale=slab)
    below, above = cdf(prior, [-reach, reach]).tolist()
    assert prior.slab_scale == slab
    assert above - below == pytest.approx(mass, abs=1e-8)
    with pytest.raises(ValueError, match=r"the slab must reach beyond the interval, but a normal of sd 2 alone holds 0.988"):
        priors.RegularizedHorseshoe.from_interval(-5, 5, 0.9)


def test_numbers_and_switches_of_other_libraries_keep_their_type():
    assert repr(priors.Smooth(np.int64(2), scale=np.float64(1.0))) == "Smooth(order=2, scale=1.0)"
    assert repr(priors.Smooth(torch.tensor(2), torch.tensor(0.5))) == "Smooth(order=2, scale=0.5)"
    switched = priors.Normal(np.float32(0.5), fan_in=np.bool_(True))
    assert priors.parse(repr(switched)) == switched == priors.Normal(0.5, fan_in=True)
    for given in ("false", 0, None):
        with pytest.raises(ValueError, match=r"fan_in must be True or False, but .* came; write it without quotes"):
            priors.from_dict({"prior": "Normal", "fan_in": given})


def test_from_interval_keeps_the_shape_that_is_given():
    assert priors.StudentT.from_interval(-1, 3, df=7.0).df == 7.0
    assert priors.StudentT.from_interval(-1, 3).loc == 1.0
    assert priors.GeneralizedNormal.from_interval(-1, 1, beta=1.0).scale == pytest.approx(
        priors.Laplace.from_interval(-1, 1).scale, rel=1e-9
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: priors.Normal(-1.0), r"scale must be a finite number > 0, but -1.0 came"),
        (lambda: priors.Normal(float("nan")), r"scale must be a finite number > 0, but nan came"),
        (lambda: priors.Normal("1"), r"scale must be a number, but '1' came"),
        (lambda: priors.Laplace(0.0), r"scale must be a finite number > 0, but 0.0 came"),
        (lambda: priors.Laplace(1.0, loc=math.inf), r"loc must be a finite number, but inf came"),
        (lambda: priors.Fixed(math.nan), r"value must be a finite number, but nan came"),
        (lambda: priors.ElasticNet(1.0, -1.0), r"l2_scale must be a finite number > 0"),
        (lambda: priors.StudentT(0.0), r"df must be a finite number > 0"),
        (lambda: priors.GeneralizedNormal(-1.0), r"beta must be a finite number > 0"),
        (lambda: priors.ScaleMixture(0.1, 1.0), r"narrow must be below wide, but 1.0 and 0.1 came; swap them"),
        (lambda: priors.ScaleMixture(1.0, 0.1, 1.0), r"weight must lie between 0 and 1, but 1.0 came"),
        (lambda: priors.SpikeSlab(0.0), r"inclusion_probability must lie between 0 and 1, but 0.0 came"),
        (lambda: priors.RegularizedHorseshoe(slab_scale=0.0), r"slab_scale must be a finite number > 0"),
        (lambda: priors.RegularizedHorseshoe.from_relevant(9, 9, 100), r"num_relevant must be below num_inputs, but 9 of 9"),
        (
            lambda: priors.RegularizedHorseshoe.from_interval(-5, 5, 0.9),
            r"the slab must reach beyond the interval, but a normal of sd 2 alone holds 0.988",
        ),
        (lambda: priors.HalfNormal(-2), r"scale must be a finite number > 0"),
        (lambda: priors.HalfCauchy(0), r"scale must be a finite number > 0"),
        (lambda: priors.HalfStudentT(-1.0), r"df must be a finite number > 0"),
        (lambda: priors.Exponential(-0.5), r"rate must be a finite number > 0"),
        (lambda: priors.Gamma(0.5), r"concentration must be >= 1, but 0.5 came: below 1 the density is unbounded"),
        (lambda: priors.InverseGamma(-1.0), r"concentration must be a finite number > 0"),
        (lambda: priors.LogNormal(0.0, 0.0), r"scale must be a finite number > 0"),
        (lambda: priors.LogUniform(0.1), r"LogUniform must have both ends or none, but LogUniform\(lower=0.1\) came"),
        (lambda: priors.LogUniform(-1.0, 2.0), r"lower must be a finite number > 0"),
        (lambda: priors.Uniform(1.0, 1.0), r"upper must be above lower, but \[1.0, 1.0\] came"),
        (lambda: priors.Positive(priors.HalfNormal(1.0)), r"Positive must wrap a bounded elementwise prior on the real line"),
        (lambda: priors.Positive(priors.Horseshoe(1.0)), r"Positive must wrap a bounded elementwise prior"),
        (lambda: priors.Positive(priors.Normal(0.1, loc=-1.0)), r"Positive must keep a part of the prior"),
        (lambda: priors.GroupLasso(per="layer"), r"per must be one of 'row', 'column', 'tensor', but 'layer' came"),
        (
            lambda: priors.GroupLasso(per="column").log_prob(torch.zeros(3)),
            r"per='column' must meet a tensor that has a column axis \(axis 1\), but shape \(3,\) came; for this tensor "
            r"take per= one of 'tensor', 'row', 'element'",
        ),
        (
            lambda: priors.MultivariateNormal(((1.0, 2.0), (2.0, 1.0))),
            r"covariance must be a symmetric positive definite matrix, but one of shape \(2, 2\) came that is not",
        ),
        (lambda: priors.MultivariateNormal().log_prob(torch.zeros(3)), r"covariance must be 3 × 3 for per='tensor'"),
        (lambda: priors.Smooth(3), r"order must be 1 or 2, but 3 came"),
        (lambda: priors.Smooth(2).log_prob(torch.zeros(2)), r"must meet a field with more than 2 entries along an axis"),
        (lambda: priors.TotalVariation().penalty(torch.zeros(())), r"must meet a field with more than 1 entries"),
        (lambda: priors.Normal(per="layer"), r"per must be one of 'tensor', 'row', 'column', 'element', but 'layer' came"),
        (
            lambda: priors.Normal(1.0, fan_in=True).log_prob(torch.zeros(3)),
            r"fan_in=True must meet a tensor of two or more axes",
        ),
        (lambda: priors.Normal(autoscale=True, fan_in=True), r"autoscale=True must stand alone"),
        (
            lambda: priors.Normal(autoscale=True).log_prob(torch.zeros(3)),
            r"waits for sd\(y\)/sd\(x\); let the model meet its data",
        ),
        (lambda: priors.Normal(priors.Normal(1.0)), r"a scale must have a proper prior on positive values, but Normal"),
        (lambda: priors.Normal(priors.LogUniform()), r"a scale must have a proper prior on positive values, but LogUniform"),
        (
            lambda: priors.Normal(priors.HalfCauchy(1.0)).log_prob(torch.zeros(3)),
            r"must be a number here, but that of Normal\(scale=HalfCauchy\(scale=1.0\)\) is decided by another unknown",
        ),
        (lambda: priors.Normal(1.0, relative_to_noise=True).penalty(torch.zeros(3)), r"is decided by another unknown"),
        (lambda: priors.Normal(1.0, tag=""), r"tag must be a text, but '' came"),
        (lambda: priors.Flat().distribution((2,)).sample(), r"a draw must come from a proper prior, but Flat\(\) has no draws"),
        (lambda: priors.Normal.from_interval(1, 1), r"upper must be above lower, but \[1, 1\] came"),
        (lambda: priors.Normal.from_interval(0, 1, mass=1.0), r"mass must lie between 0 and 1, but 1.0 came"),
        (lambda: priors.HalfCauchy.from_interval(1, 2), r"the interval of HalfCauchy must start at 0"),
        (lambda: priors.Horseshoe.from_interval(0, 2), r"the interval of Horseshoe must be symmetric about 0"),
        (lambda: priors.Exponential.from_interval(1, 2), r"the interval of Exponential must start at 0"),
        (lambda: priors.Gamma.from_interval(1e-6, 1e6), r"must be narrow enough for a concentration >= 1"),
        (lambda: priors.LogNormal.from_interval(-1, 2), r"the interval of LogNormal must lie above 0"),
        (lambda: priors.ScaleMixture.from_interval(-1, 2), r"ScaleMixture must be given by its own numbers"),
        (lambda: priors.parse("Laplase(0.1)"), r"'Laplase' is unknown; did you mean 'Laplace'"),
        (lambda: priors.parse("Normal(scal=0.1)"), r"Normal has got an unexpected keyword argument 'scal'"),
        (lambda: priors.parse("__import__('os')"), r"'__import__' is unknown"),
        (lambda: priors.parse("Normal("), r"write a class name and numbers in brackets"),
        (
            lambda: priors.from_dict({"prior": "Normal", "scal": 1.0}),
            r"Normal must have keys among .*'scal' came; did you mean 'scale'",
        ),
        (lambda: priors.from_dict({"prior": "Norml"}), r"a prior must be one of .*but 'Norml' came; did you mean 'Normal'"),
        (lambda: priors.from_dict({"scale": 1.0}), r"a prior must be a text or a mapping with its class under 'prior'"),
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
    assert priors.GroupLasso(1.0, fan_in=True).resolve((50, 16)).scale == 0.25


def test_an_open_scale_can_be_given():
    w = torch.randn(4, 3, dtype=torch.float64)
    scales = torch.rand(1, 3, dtype=torch.float64) + 0.1
    found = priors.Normal(priors.HalfCauchy(1.0), per="column").given(scales).log_prob(w)
    columns = [priors.Normal(float(s)).log_prob(w[:, i]) for i, s in enumerate(scales[0])]
    torch.testing.assert_close(found, sum(columns), rtol=1e-12, atol=1e-12)
    assert priors.Normal(autoscale=True).scale == 2.5
    assert priors.Normal().scale == 1.0


@pytest.mark.slow
def test_a_regularised_horseshoe_with_a_slab_so_wide_that_it_is_none_is_the_horseshoe():
    wide = priors.RegularizedHorseshoe.from_interval(-1, 1, slab_scale=1e6)
    assert wide.scale == pytest.approx(priors.Horseshoe.from_interval(-1, 1).scale, rel=1e-4)
