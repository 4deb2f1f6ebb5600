"""Densities, distribution functions and quantiles of every likelihood against `scipy.stats`, to ten digits."""

import numpy as np
import pytest
import torch
from scipy import stats

from bayesreg import likelihoods, priors

F = np.linspace(-4, 7, 23)


def negative_binomial(f, dispersion):
    return stats.nbinom(1 / dispersion, 1 / (1 + dispersion * np.exp(f)))


CASES = [
    ("Poisson", {}, lambda f: stats.poisson(np.exp(f))),
    *[("NegativeBinomial", {"dispersion": a}, negative_binomial) for a in (1e-3, 0.03, 0.05, 0.7, 4.0)],
    *[
        ("Gamma", {"dispersion": a}, lambda f, dispersion: stats.gamma(1 / dispersion, scale=dispersion * np.exp(f)))
        for a in (1e-4, 0.039, 0.041, 0.7, 4.0)
    ],
    *[
        ("LogNormal", {"noise_scale": a}, lambda f, noise_scale: stats.lognorm(noise_scale, scale=np.exp(f)))
        for a in (0.01, 0.7)
    ],
    *[
        ("StudentT", {"df": df, "noise_scale": 2.3}, lambda f, df, noise_scale: stats.t(df, f, noise_scale))
        for df in (0.7, 4.0, 300.0)
    ],
    ("Gaussian", {"noise_scale": 2.3}, lambda f, noise_scale: stats.norm(f, noise_scale)),
]


@pytest.mark.parametrize(("name", "noise", "make"), CASES, ids=lambda v: str(v) if not callable(v) else "")
def test_is_scipy_s(name, noise, make):
    made, known = getattr(likelihoods, name)(), {k: torch.tensor(v, dtype=torch.float64) for k, v in noise.items()}
    truth, f = make(F, **noise), torch.tensor(F)
    for q in (1e-9, 1e-3, 0.2, 0.5, 0.93, 1 - 1e-6):
        y = truth.ppf(q)
        at = torch.tensor(y)
        np.testing.assert_allclose(made.quantile(f, q, **known).numpy(), y, rtol=1e-9)
        np.testing.assert_allclose(made.cdf(f, at, **known).numpy(), truth.cdf(y), rtol=1e-9)
        log = truth.logpmf(y) if made.discrete else truth.logpdf(y)
        np.testing.assert_allclose(made.log_prob(f, at, **known).numpy(), log, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(made.log_prob_sum(f, at, **known).numpy(), log.sum(), rtol=1e-10)
    if noise.get("df", 3.0) > 2:
        np.testing.assert_allclose(made.mean(f, **known).numpy(), truth.mean(), rtol=1e-10)
        np.testing.assert_allclose(made.variance(f, **known).expand(len(F)).numpy(), truth.var(), rtol=1e-8)
    if made.discrete:
        np.testing.assert_array_equal(made.cdf(f, -torch.ones(len(F)).double(), **known).numpy(), 0)


def test_limits():
    """Without extra scatter counts are Poisson's, and with many degrees of freedom Student's noise is normal."""
    f, y = torch.linspace(-3, 6, 10).double(), torch.arange(10.0).double() ** 2
    tiny = torch.tensor(1e-13, dtype=torch.float64)
    poisson, found = likelihoods.Poisson().log_prob(f, y), likelihoods.NegativeBinomial().log_prob(f, y, dispersion=tiny)
    torch.testing.assert_close(found, poisson, rtol=1e-9, atol=1e-9)
    one = torch.ones((), dtype=torch.float64)
    normal = likelihoods.Gaussian().log_prob(f, f + 1, noise_scale=one)
    torch.testing.assert_close(
        likelihoods.StudentT().log_prob(f, f + 1, df=1e7 * one, noise_scale=one), normal, rtol=1e-6, atol=0
    )


@pytest.mark.parametrize(
    ("make", "y", "message"),
    [
        (likelihoods.Poisson, [0.0, 1.5], r"Poisson needs targets that are whole numbers >= 0, but 1 of 2 are something else"),
        (likelihoods.NegativeBinomial, [0.0, -1.0], r"targets that are whole numbers >= 0, but 1 of 2"),
        (likelihoods.Gamma, [0.0, 1.0], r"Gamma needs targets that are greater than 0, but 1 of 2"),
        (likelihoods.LogNormal, [-3.0, 1.0], r"LogNormal needs targets that are greater than 0, but 1 of 2"),
    ],
)
def test_targets_outside_of_the_support_are_refused(make, y, message):
    with pytest.raises(ValueError, match=message):
        make().target(torch.tensor(y), torch.float64)


def test_heavy_tails_have_a_variance():
    for df in (2.0, 0.7, priors.Gamma(2.0, 0.1), priors.Uniform(1.0, 9.0)):
        with pytest.raises(ValueError, match="df must be > 2, or the variance of y is infinite"):
            likelihoods.StudentT(df)
    assert list(likelihoods.StudentT(priors.Uniform(2.0, 50.0)).latents) == ["df", "noise_scale"]


@pytest.mark.parametrize("name", ["NegativeBinomial", "Gamma", "LogNormal", "StudentT"])
def test_noise_is_a_number_or_a_positive_prior(name):
    with pytest.raises(ValueError, match=r"must be a finite number > 0, but -1.0 came"):
        getattr(likelihoods, name)(-1.0)
    with pytest.raises(ValueError, match=r"must have a prior on positive values, but Normal"):
        likelihoods.parse(f"{name}(Normal(1.0))")


CHOICES = {
    "Gaussian": (
        [0.5, -1.0, 3.2, 0.0],
        np.random.default_rng(0).normal(30, 2, 200),
        np.arange(100.0)[:, None] @ np.ones((1, 2)),
    ),
    "Bernoulli": ([0, 1, 1], [True, False], ["yes", "no", None], np.array(["a", "b"])),
    "Categorical": (["a", "b", "c"], np.array(["x", "y", "z"], dtype=object)),
    "Poisson": ([0, 1, 1, 2, 0, 1, 2, 1], np.random.default_rng(0).poisson(3.0, 300)),
    "NegativeBinomial": ([0, 3, 1, 0, 2, 9, 0, 1, 1, 0], np.random.default_rng(0).negative_binomial(1, 0.1, 300).astype(float)),
    "LogNormal": (np.random.default_rng(0).lognormal(11, 0.8, 500),),
    "Gamma": (np.random.default_rng(0).gamma(1.5, 20.0, 500),),
}


@pytest.mark.parametrize("name", CHOICES)
def test_a_target_says_its_likelihood(name):
    for y in CHOICES[name]:
        found = likelihoods.choose(y)
        assert type(found.likelihood).__name__ == name, found
        assert found.said.startswith(f"{name}: ")
        assert all(sentence.endswith(".") for sentence in (found.said, *found.rejected))


@pytest.mark.parametrize(
    ("y", "why"),
    [
        ([3, 5, 6, 4, 6, 5, 7], "no value is below 3"),
        ([0, 50, 100, 50, 0, 150, 0, 50], "multiples of 50"),
        ([-1, 0, 1, 2], "the least value is -1"),
        (list(range(40)), "40 of 40 values are different"),
        ([0.5, 1.0, 2.0], "there are fractions"),
    ],
)
def test_what_was_rejected_has_a_reason(y, why):
    found = likelihoods.choose(y)
    assert isinstance(found.likelihood, likelihoods.Gaussian)
    assert any(why in sentence for sentence in found.rejected), found


def test_a_target_without_values_is_refused():
    with pytest.raises(ValueError, match="must have values to choose a likelihood by, but none came"):
        likelihoods.choose([None, None])
