"""What every likelihood must be: its Pyro distribution's density, that density's curvature, and a judge of targets."""

import numpy as np
import pytest
import torch

from bayesreg import likelihoods, priors
from bayesreg._catalog import concrete
from bayesreg.likelihoods import AbstractLikelihood

N, K = 12, 3
CLASSES = concrete(AbstractLikelihood)


def case(likelihood, columns=1):
    """Outputs, targets and noise that fit the likelihood, float64."""
    generator = torch.Generator().manual_seed(0)
    if likelihood.kind == "multiclass":
        columns = K
    width = 2 * columns if likelihood.heteroscedastic else columns
    output = torch.randn(N, width, generator=generator, dtype=torch.float64)
    output = output[:, 0] if width == 1 else output
    noise = {name: torch.tensor(0.7, dtype=torch.float64) for name in [*likelihood.latents, *likelihood.fixed]}
    if likelihood.kind == "regression":
        y = likelihood.mean(output, **noise)
        y = y + torch.randn(y.shape, generator=generator, dtype=torch.float64)
    elif likelihood.kind == "binary":
        y = torch.arange(N).remainder(2).double()
    else:
        y = torch.arange(N).remainder(K)
    return output, likelihood.target(y, torch.float64), noise


BY_ROW = likelihoods.Gaussian("heteroscedastic")
CASES = [(cls(), 1) for cls in CLASSES] + [
    (likelihoods.Gaussian(0.7), 1),
    (likelihoods.Gaussian(), K),
    (BY_ROW, 1),
    (BY_ROW, K),
]
NODES, WEIGHTS = (torch.from_numpy(part) for part in np.polynomial.hermite_e.hermegauss(8))  # exact to degree 15


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
            else:  # by quadrature; an entry is a polynomial of degree 2 in the row's targets, all of which move together
                mean, sd = likelihood.mean(row, **noise), likelihood.variance(row, **noise).sqrt()
                expected = sum(w * hessian(row, mean + z * sd) for z, w in zip(NODES, WEIGHTS / WEIGHTS.sum(), strict=True))
            torch.testing.assert_close(found[i], expected, rtol=1e-9, atol=1e-12)
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
        mean, scale = torch.linspace(-3, 5, columns).double().squeeze(), torch.linspace(0.5, 4, columns).double().squeeze()
        wide = {name: value * scale for name, value in noise.items()}
        found = likelihood.log_prob(likelihood.in_units(output, mean, scale), mean + scale * y, **wide)
        expected = likelihood.log_prob(output, y, **noise) - scale.log().sum()
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)

    def test_moments_are_the_distribution_s(self, likelihood, columns):
        output, _, noise = case(likelihood, columns)
        distribution = likelihood.distribution(output, **noise)
        if likelihood.kind == "multiclass":
            torch.testing.assert_close(likelihood.mean(output), distribution.probs)
            torch.testing.assert_close(likelihood.variance(output), distribution.probs * (1 - distribution.probs))
        else:
            torch.testing.assert_close(likelihood.mean(output, **noise), distribution.mean)
            torch.testing.assert_close(likelihood.variance(output, **noise), distribution.variance)

    def test_is_said_by_its_text(self, likelihood, columns):
        assert repr(likelihoods.parse(repr(likelihood))) == repr(likelihood)

    def test_is_documented(self, likelihood, columns):
        assert "As a loss:" in type(likelihood).__doc__
        assert ">>>" in type(likelihood).__doc__


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
