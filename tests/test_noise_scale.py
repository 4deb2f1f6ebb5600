"""A noise scale that is called collapsed must have collapsed: a shift of the rows, or a wide posterior, is something else."""

import dataclasses
import math
import re
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.inference import MAP, LaplaceApproximation, MeanField
from bayesreg.reports import findings, noise_card, noise_scale
from tests.report_cases import compared, posteriors


def linear(seed=0, rows=300):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, 3))
    return x, x @ [1.0, -2.0, 0.5] + 0.5 * rng.normal(size=rows)


def fitted(x, y, method="map", **options):
    model = br.BayesianModel(nn.Linear(3, 1).double(), priors.Normal(1.0), likelihoods.Gaussian(priors.HalfNormal(1.0)))
    return br.fit(model, x, y, method=method, progress=False, **options)


def judged(posterior, x, y):
    comparison = compared({"MAP": posterior.predict(x)}, y)
    found = findings(comparison, y)
    return noise_card({"MAP": posterior}, comparison, y, found), found["MAP"]


@pytest.mark.parametrize("shift", [2.0, -2.0, 40.0])
def test_a_mean_shift_of_the_test_rows_is_no_collapsed_noise(shift):
    (x, y), (x_new, y_new) = linear(0), linear(1, 100)
    card, found = judged(fitted(x, y), x_new, y_new + shift)
    assert (card.state, card.headline) == ("good", "The noise scale has not collapsed.")
    text = card.lines[0].text
    pattern = r"RMSE of ([\d.]+), of which a shift of all rows is (−?[\d.]+) ± ([\d.]+) and their scatter about it ([\d.]+)\.$"
    told = re.search(pattern, text)
    rmse, bias, error, scatter = (float(part.replace("−", "-")) for part in told.groups())
    assert bias == pytest.approx(shift, abs=4 * error + 0.05)
    assert error == pytest.approx(0.05, rel=0.3)
    assert scatter == pytest.approx(0.5, rel=0.3)
    assert rmse == pytest.approx(math.hypot(bias, scatter), rel=0.02)
    assert found.shifted


@pytest.mark.parametrize("shift", [0.0, pytest.param(3.0, marks=pytest.mark.slow)])
def test_a_network_that_followed_the_noise_of_its_rows_has_collapsed_shifted_or_not(shift):
    (x, y), (x_new, y_new) = linear(0, 24), linear(1, 100)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 60), nn.Tanh(), nn.Linear(60, 1)).double()
    model = br.BayesianModel(net, priors.Normal(10.0), likelihoods.Gaussian(priors.HalfNormal(1.0)))
    with pytest.warns(br.ConvergenceWarning):
        posterior = br.fit(model, x, y, method=MAP(num_steps=400), progress=False)
    card, _ = judged(posterior, x_new, y_new + shift)
    assert card.state == "bad"
    missed = posterior.record.training_rmse[0]
    assert missed < 0.1
    assert float(posterior.mean["noise_scale"]) > 0.5 * missed
    assert "so the fit followed their noise, or new rows are of another kind." in card.lines[0].text


def test_a_scale_below_its_own_training_residuals_is_blamed_on_the_prior_or_the_fit():
    (x, y), (x_new, y_new) = linear(0), linear(1, 100)
    posterior = fitted(x, y)
    posterior.loc = posterior.loc.clone()
    posterior.loc[posterior.layout.segments["noise_scale"].slice] = math.log(0.01)
    card, _ = judged(posterior, x_new, y_new)
    assert card.state == "bad"
    assert "so it is too small for those too, and its prior or an unfinished fit holds it down." in card.lines[0].text
    posterior.record = dataclasses.replace(posterior.record, training_rmse=None)
    card, _ = judged(posterior, x_new, y_new)
    assert card.lines[0].text.endswith(": it is not what new rows are missed by.")


def test_a_small_noise_under_a_posterior_that_is_wide_enough_has_not_collapsed():
    """Where little is known of the function, new rows are missed by far more than the noise, as the posterior says."""
    functions = 2.0 * torch.randn(400, 60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    predictive = br.Predictive(likelihoods.Gaussian(0.01), functions, {"noise_scale": torch.full((1, 1), 0.01)})
    y = predictive.sample(1, seed=3)[0]
    small = _Small(posteriors()["draws"])
    assert not noise_scale(small, predictive, y, False).small
    assert noise_scale(small, predictive, 10 * y, False).small


class _Small:
    """Of a posterior what is asked here: its model, its record, and a small noise scale."""

    def __init__(self, posterior):
        self.model, self.record, self.mean = posterior.model, posterior.record, {"noise_scale": torch.tensor(0.01)}


@pytest.mark.parametrize("method", [MAP(), MeanField(num_steps=50), LaplaceApproximation()], ids=repr)
@pytest.mark.parametrize("standardize", [False, True])
def test_training_rows_are_missed_by_what_a_prediction_of_them_misses(method, standardize):
    x, y = linear(0, 80)
    for target in (y, np.stack([y, 10 * y], 1)):
        width = 1 if target.ndim == 1 else 2
        model = br.BayesianModel(nn.Linear(3, width).double(), priors.Normal(1.0), likelihoods.Gaussian(priors.HalfNormal(1.0)),
                                 standardize=standardize)  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", br.ConvergenceWarning)
            posterior = br.fit(model, x, target, method=method, progress=False)
        wanted = (posterior.predict(x, num_samples=20, seed=0).mean.numpy() - target).reshape(80, -1)
        assert posterior.record.training_rmse == pytest.approx(np.sqrt((wanted**2).mean(0)), rel=1e-6)
    known = br.BayesianModel(nn.Linear(3, 1).double(), priors.Normal(1.0), likelihoods.Gaussian(0.5))
    assert br.fit(known, x, y, method="map", progress=False).record.training_rmse is None
