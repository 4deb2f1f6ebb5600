"""What every likelihood must be: its distribution's density, its curvature, F and its inverse, and a judge of targets."""

import copy

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import stats

from bayesreg import likelihoods, priors
from bayesreg._catalog import concrete
from bayesreg.likelihoods import AbstractLikelihood
from bayesreg.predictive import Predictive

N, K = 12, 3
CLASSES = concrete(AbstractLikelihood)


def case(likelihood, columns=1):
    """Outputs, targets and noise that fit the likelihood, float64."""
    generator = torch.Generator().manual_seed(0)
    if isinstance(likelihood, likelihoods.GaussianPerOutput):
        columns = 2
    width = likelihood.num_outputs(K) if likelihood.labels else columns * likelihood.outputs_per_target
    output = torch.randn(N, width, generator=generator, dtype=torch.float64)
    output = output[:, 0] if width == 1 else output
    noise = {
        name: torch.tensor(9.0 if name == "df" else 0.7, dtype=torch.float64)
        for name in [*likelihood.latents, *likelihood.fixed]
    }
    if likelihood.kind in ("regression", "counts"):
        y = torch.randn(likelihood.mean_shape(output.shape), generator=generator, dtype=torch.float64)
        y = (y + 1).exp() if likelihood.log_link else likelihood.mean(output, **noise) + (3 * y if "df" in noise else y)
        y = y.round() if likelihood.discrete else y
    elif likelihood.kind == "binary":
        y = torch.arange(N).remainder(2).double()
    else:
        y = torch.arange(N).remainder(K)
    return output, likelihood.target(y, torch.float64), noise


BY_ROW = likelihoods.Gaussian("heteroscedastic")
CASES = [(cls(), 1) for cls in CLASSES] + [
    (likelihoods.Gaussian(0.7), 1),
    (likelihoods.Gaussian(), K),
    (BY_ROW, K),
    *[(cls(), K) for cls in CLASSES if cls().output_axes == (1, 2)],
]
NODES, WEIGHTS = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(400))


@pytest.mark.parametrize(("likelihood", "columns"), CASES, ids=str)
class TestEveryLikelihood:
    def test_log_prob_is_the_distribution_s(self, likelihood, columns):
        output, y, noise = case(likelihood, columns)
        rows = likelihood.log_prob(output, y, **noise)
        assert rows.shape == (N,)
        torch.testing.assert_close(rows, likelihood.distribution(output, **noise).log_prob(y), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(likelihood.log_prob_sum(output, y, **noise), rows.sum(), rtol=1e-12, atol=1e-12)

    def test_draws_broadcast(self, likelihood, columns):
        output, y, noise = case(likelihood, columns)
        stacked = torch.stack([output, output + 1])
        noise = {name: value.expand(2, 1, *[1] * (output.dim() - 1)) for name, value in noise.items()}
        rows = likelihood.log_prob(stacked, y, **noise)
        assert rows.shape == (2, N)
        one = {name: value[1].squeeze() for name, value in noise.items()}
        torch.testing.assert_close(rows[1], likelihood.log_prob(output + 1, y, **one))
        shape = likelihood.mean_shape(stacked.shape)
        assert likelihood.mean(stacked, **noise).shape == likelihood.variance(stacked, **noise).shape == shape

    def test_output_curvature_is_the_second_derivative(self, likelihood, columns):
        """Itself where log p is concave in the output, elsewhere its mean over y."""
        output, y, noise = case(likelihood, columns)
        found = likelihood.output_curvature(output, y, **noise)
        width = found.shape[-1]

        def hessian(f, y):
            return torch.func.hessian(lambda f: -likelihood.log_prob_sum(f, y, **noise))(f).reshape(width, width)

        for i in range(N):
            row = output[i : i + 1]
            if likelihood.log_concave:
                expected = hessian(row, y[i : i + 1])
                torch.testing.assert_close(found[i], expected, rtol=1e-9, atol=1e-12)
            elif i < 2:  # E over y by quadrature, all of a row's targets moving together; the ends are where y -> ±infinity
                ys = torch.stack([likelihood.quantile(row, u, **noise) for u in (0.5 + 0.5 * NODES).tolist()])
                each = torch.vmap(lambda y, row=row: hessian(row, y))(ys)
                expected = torch.tensordot(0.5 * WEIGHTS, each, 1)
                torch.testing.assert_close(found[i], expected, rtol=2e-4, atol=2e-4)
        assert float(torch.linalg.eigvalsh(found).min()) >= -1e-12

    def test_concavity_is_what_it_says(self, likelihood, columns):
        output, y, noise = case(likelihood, columns)
        lowest = []
        for i in range(N):
            hessian = torch.func.hessian(lambda f, i=i: -likelihood.log_prob_sum(f, y[i : i + 1], **noise))(output[i : i + 1])
            width = output[i].numel()
            lowest.append(float(torch.linalg.eigvalsh(hessian.reshape(width, width)).min()))
        assert (min(lowest) >= -1e-12) == likelihood.log_concave

    def test_units_are_those_of_the_target(self, likelihood, columns):
        """The density of m + s·y under the output in its units is that of y over s."""
        if not likelihood.location_scale:
            pytest.skip("the target has no units")
        output, y, noise = case(likelihood, columns)
        columns = output.shape[-1] // likelihood.outputs_per_target if output.dim() > 1 else 1
        mean, scale = torch.linspace(-3, 5, columns).double().squeeze(), torch.linspace(0.5, 4, columns).double().squeeze()
        wide = {name: likelihood.noise_in_units(name, value, scale) for name, value in noise.items()}
        found = likelihood.log_prob(likelihood.in_units(output, mean, scale), mean + scale * y, **wide)
        expected = likelihood.log_prob(output, y, **noise) - scale.log().sum()
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)

    def test_moments_are_the_distribution_s(self, likelihood, columns):
        output, _, noise = case(likelihood, columns)
        distribution = likelihood.distribution(output, **noise)
        if likelihood.kind == "multiclass":
            torch.testing.assert_close(likelihood.mean(output, **noise), distribution.probs)
            torch.testing.assert_close(likelihood.variance(output, **noise), distribution.probs * (1 - distribution.probs))
        else:
            torch.testing.assert_close(likelihood.mean(output, **noise), distribution.mean)
            torch.testing.assert_close(likelihood.variance(output, **noise), distribution.variance)

    def test_moments_are_those_of_draws(self, likelihood, columns):
        output, _, noise = case(likelihood, columns)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            draws = likelihood.distribution(output, **noise).sample((20_000,)).double()
        if likelihood.kind == "multiclass":
            draws = torch.nn.functional.one_hot(draws.long(), K).double()
        mean, variance = likelihood.mean(output, **noise), likelihood.variance(output, **noise)
        assert float(((draws.mean(0) - mean) / (variance / len(draws)).sqrt()).abs().max()) < 4.5
        torch.testing.assert_close(draws.var(0), variance, rtol=0.08, atol=1e-3)

    def test_f_and_its_inverse_belong_together(self, likelihood, columns):
        output, y, noise = case(likelihood, columns)
        if likelihood.labels is not None:
            for ask in (lambda: likelihood.cdf(output, y), lambda: likelihood.quantile(output, 0.5)):
                with pytest.raises(ValueError, match="is about classes"):
                    ask()
            return
        for q in (1e-9, 0.025, 0.5, 0.9):
            found = likelihood.quantile(output, q, **noise)
            assert found.shape == likelihood.mean_shape(output.shape)
            at = likelihood.cdf(output, found, **noise)
            if likelihood.discrete:
                assert bool((at >= q - 1e-12).all() & (likelihood.cdf(output, found - 1, **noise) < q).all())
            else:
                torch.testing.assert_close(at, torch.full_like(at, q), rtol=1e-7, atol=0)

    def test_pit_is_uniform(self, likelihood, columns):
        if likelihood.labels is not None:
            pytest.skip("classes have no order")
        output, _, noise = case(likelihood, columns)
        predictive = Predictive(likelihood, torch.cat([output] * 100)[None], noise)
        for seed in range(3):
            u = predictive.pit(predictive.sample(1, seed=seed)[0], seed=seed)
            assert stats.kstest(u.numpy().ravel(), "uniform").pvalue > 1e-3

    def test_shapes_belong_together(self, likelihood, columns):
        output, y, noise = case(likelihood, columns)
        assert output.dim() in likelihood.output_axes
        assert likelihood.target_shape(output.shape) == y.shape
        assert likelihood.mean(output, **noise).shape == likelihood.mean_shape(output.shape)
        likelihood.check_output(output, y)
        likelihood.check_target(y)
        if columns == 1:
            suited = next(classes for classes in (None, 2, K) if likelihood.suits(classes))
            width = likelihood.num_outputs(K if likelihood.kind == "multiclass" else suited)
            assert width == (output.shape[1] if output.dim() > 1 else 1)

    def test_what_is_declared_is_what_the_distribution_says(self, likelihood, columns):
        assert likelihood.discrete == likelihood.support.is_discrete
        assert (likelihood.squared_error_scale or "") in {"", *likelihood.latents, *likelihood.fixed}
        if likelihood.squared_error_scale:
            output, y, noise = case(likelihood, columns)
            squares = (y - output).square() / (2 * noise[likelihood.squared_error_scale] ** 2)
            rest = likelihood.log_prob(output, y, **noise) + squares.reshape(N, -1).sum(1)
            torch.testing.assert_close(rest, rest[:1].expand(N), rtol=1e-10, atol=1e-10)

    def test_is_said_by_its_text(self, likelihood, columns):
        assert repr(likelihoods.parse(repr(likelihood))) == repr(likelihood)

    def test_is_documented(self, likelihood, columns):
        assert "As a loss:" in type(likelihood).__doc__
        assert ">>>" in type(likelihood).__doc__


def test_noise_by_row_has_a_spelling():
    made = likelihoods.Gaussian("heteroscedastic")
    assert type(made) is likelihoods.HeteroscedasticGaussian
    for text in ("Gaussian(noise_scale='heteroscedastic')", "HeteroscedasticGaussian()"):
        assert repr(likelihoods.parse(text)) == repr(made)
    assert repr(copy.deepcopy(likelihoods.Gaussian(0.5))) == "Gaussian(noise_scale=0.5)"


class _NoFormula(AbstractLikelihood):
    """y ~ Student(3, f, 1), whose F torch does not know."""

    def distribution(self, output):
        return dist.StudentT(3.0, output, 1.0, validate_args=False)


def test_what_nobody_wrote_is_refused():
    made, zero = _NoFormula(), torch.zeros(2, dtype=torch.float64)
    for what, ask in (("cdf", lambda: made.cdf(zero, zero)), ("quantile", lambda: made.quantile(zero, 0.5))):
        with pytest.raises(ValueError, match=f"{what} must be known for intervals, .* write _NoFormula.{what}"):
            ask()


def test_the_default_curvature_is_never_indefinite():
    made, y = _NoFormula(), torch.linspace(-4, 4, 9, dtype=torch.float64)
    f = torch.zeros(9, dtype=torch.float64)
    second = torch.func.vmap(torch.func.hessian(lambda f, y: -made.log_prob(f[None], y[None])[0]))(f, y)
    assert float(second.min()) < 0
    torch.testing.assert_close(made.output_curvature(f, y)[:, 0, 0], second.clamp_min(0))


def test_cdf_keeps_its_digits_far_out():
    from scipy import stats

    gaussian = likelihoods.Gaussian(1.0)
    z = torch.tensor([-30.0, -9.0, 0.0, 5.0], dtype=torch.float64)
    found = gaussian.cdf(torch.zeros(4, dtype=torch.float64), z, noise_scale=torch.tensor(1.0, dtype=torch.float64))
    np.testing.assert_allclose(found.numpy(), stats.norm.cdf(z.numpy()), rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: likelihoods.Gaussian(-1.0), r"noise_scale must be a finite number > 0, but -1.0 came"),
        (lambda: likelihoods.Gaussian("by row"), r"a prior on positive values or 'heteroscedastic', but 'by row' came"),
        (lambda: BY_ROW.check_output(torch.zeros(2), torch.zeros(5)), r"two network outputs .* give the last layer 2 outputs"),
        (
            lambda: BY_ROW.check_output(torch.zeros(2, 2), torch.zeros(5, 2)),
            r"two network outputs .* give the last layer 4 outp",
        ),
        (lambda: BY_ROW.check_output(torch.zeros(2, 3), torch.zeros(5)), r"two network outputs for each target.* shape \(3,\)"),
        (
            lambda: BY_ROW.log_prob(torch.zeros(2, 2), torch.zeros(2), noise_scale=torch.ones(())),
            r"noise_scale came too; leave",
        ),
        (lambda: likelihoods.Gaussian().mean(torch.zeros(2)), r"needs the noise's sd, but none came"),
        (
            lambda: likelihoods.Gaussian().check_output(torch.zeros(2, 2), torch.zeros(5)),
            r"give the last layer 1 output\(s\), or say noise_scale='heteroscedastic' where the last 1 of them",
        ),
        (lambda: likelihoods.Gaussian(priors.Normal(1.0)), r"noise_scale must have a prior on positive values"),
        (lambda: likelihoods.Bernoulli().target(torch.tensor([0.0, 2.0, -1.0]), torch.float32), r"targets 0 or 1, but 2 of 3"),
        (lambda: likelihoods.Bernoulli().target(torch.zeros(3, 2), torch.float32), r"target of shape \(N,\), but \(3, 2\)"),
        (
            lambda: likelihoods.Categorical().target(torch.tensor([0.5]), torch.float32),
            r"class numbers 0, 1, ..., but fractions",
        ),
        (lambda: likelihoods.Categorical().target(torch.tensor([-1]), torch.float32), r"fractions or negative numbers came"),
        (
            lambda: likelihoods.Categorical().target(torch.zeros(3, 2), torch.float32),
            r"target of shape \(N,\) with class numbers",
        ),
        (
            lambda: likelihoods.Categorical().check_output(torch.zeros(2, 3), torch.tensor([3])),
            r"below the number of logits, 3",
        ),
        (lambda: likelihoods.Categorical().check_output(torch.zeros(2), torch.tensor([0])), r"K >= 2 logits a row"),
        (lambda: likelihoods.Bernoulli().check_output(torch.zeros(2, 2), torch.zeros(2)), r"one logit a row"),
        (lambda: likelihoods.Gaussian().check_output(torch.zeros(2, 2), torch.zeros(5)), r"one network output for each target"),
        (lambda: likelihoods.Bernoulli().cdf(torch.zeros(2), torch.zeros(2)), r"Bernoulli is about classes"),
        (lambda: likelihoods.parse("Gausian(1.0)"), r"'Gausian' is unknown; did you mean 'Gaussian'"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()
