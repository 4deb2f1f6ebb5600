"""Natural-gradient steps reach the optimum of the ELBO: exact on a linear model, with prior and noise of any kind."""

import pytest
import torch
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.inference import MeanField
from tests.conftest import linear_model


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_the_conjugate_optimum(standard_diabetes, seed):
    """The exact mean, and sd² = 1/diag(precision)."""
    post = br.fit(linear_model(), *standard_diabetes, method=MeanField(2000, optimizer="ivon"), seed=seed)
    exact = br.fit(linear_model(), *standard_diabetes, method="exact")
    factor = exact.as_normal()[1]
    precision = torch.linalg.inv(factor @ factor.mT).diagonal()
    loc, scale = post.guide.moments()
    assert post.certificate.converged
    assert bool(((loc - exact.as_normal()[0]).abs() < 0.05 * factor.norm(dim=1)).all())
    torch.testing.assert_close(scale.square() * precision, torch.ones_like(scale), rtol=0, atol=0.05)


def test_it_starts_far_away_and_arrives_where_adam_does(standard_diabetes):
    X, y = standard_diabetes
    rules = {"weight": priors.Laplace(0.2), "bias": priors.Normal(1.0)}
    model = br.BayesianModel(nn.Linear(10, 1).double(), rules, likelihoods.Gaussian(priors.HalfNormal(1.0)))
    one, other = (br.fit(model, X, y, method=MeanField(1500, initial_scale=0.03, optimizer=name)) for name in ("ivon", "adam"))
    for name in one.mean:
        assert bool(((one.mean[name] - other.mean[name]).abs() < 0.3 * other.std[name]).all())
        torch.testing.assert_close(one.std[name], other.std[name], rtol=0.15, atol=0)


def test_settings_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="compile=True needs optimizer='adam', but 'ivon' came"):
        MeanField(optimizer="ivon", compile=True)
    with pytest.raises(ValueError, match=r"optimizer must be one of 'adam', 'ivon', but 'sgd' came"):
        MeanField(optimizer="sgd")
