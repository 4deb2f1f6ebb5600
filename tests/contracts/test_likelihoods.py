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
    output = torch.randn(N, columns, generator=generator, dtype=torch.float64)
    output = output[:, 0] if columns == 1 else output
    noise = {name: torch.tensor(0.7, dtype=torch.float64) for name in [*likelihood.latents, *likelihood.fixed]}
    if likelihood.kind == "regression":
        y = output + torch.randn(output.shape, generator=generator, dtype=torch.float64)
    elif likelihood.kind == "binary":
        y = torch.arange(N).remainder(2).double()
    else:
        y = torch.arange(N).remainder(K)
    return output, likelihood.target(y, torch.float64), noise


CASES = [(cls(), 1) for cls in CLASSES] + [(likelihoods.Gaussian(0.7), 1), (likelihoods.Gaussian(), K)]


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
        assert likelihood.mean(stacked, **noise).shape == likelihood.variance(stacked, **noise).shape == stacked.shape

    def test_output_curvature_is_the_second_derivative(self, likelihood, columns):
        output, y, noise = case(likelihood, columns)
        found = likelihood.output_curvature(output, y, **noise)
        for i in range(N):
            hessian = torch.func.hessian(lambda f, i=i: -likelihood.log_prob_sum(f, y[i : i + 1], **noise))(output[i : i + 1])
            width = found.shape[-1]
            torch.testing.assert_close(found[i], hessian.reshape(width, width), rtol=1e-9, atol=1e-12)

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
