"""The report says which likelihood to take where test rows scatter otherwise than the one that was fitted."""

import numpy as np
import pytest
import torch

import bayesreg as br
from bayesreg import likelihoods
from bayesreg.predictive import Predictive
from bayesreg.reports import scatter_card

N = 300


class Alone:
    """What the card asks of a comparison."""

    best = "one"

    def __init__(self, likelihood, output, **noise):
        made = {name: torch.tensor(value, dtype=torch.float64) for name, value in noise.items()}
        self.predictives = {"one": Predictive(likelihood, torch.tensor(output)[None], made)}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_errors_that_follow_the_prediction_are_seen(seed):
    rng = np.random.default_rng(seed)
    f = rng.uniform(5, 50, N)
    even, grown, shrunk = rng.normal(f, 3.0), rng.normal(f, 0.1 * f), rng.normal(f, 20 / f)
    assert scatter_card(Alone(likelihoods.Gaussian(), f, noise_scale=3.0), even) is None
    found = scatter_card(Alone(likelihoods.Gaussian(), f, noise_scale=3.0), grown)
    assert found is not None
    assert found.headline == "Errors grow with the prediction."
    assert "heteroscedastic" in found.lines[1].text
    assert ("LogNormal()" in found.lines[1].text) == (grown.min() > 0)
    assert scatter_card(Alone(likelihoods.Gaussian(), f, noise_scale=3.0), shrunk).headline.startswith("Errors shrink")
    by_row = np.column_stack([f, np.log(0.1 * f)])
    assert scatter_card(Alone(likelihoods.HeteroscedasticGaussian(), by_row), grown) is None


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_counts_that_scatter_more_are_seen(seed):
    rng = np.random.default_rng(seed)
    f = rng.uniform(0, 3, N)
    wide = rng.negative_binomial(2, 2 / (2 + np.exp(f))).astype(float)
    assert scatter_card(Alone(likelihoods.Poisson(), f), rng.poisson(np.exp(f)).astype(float)) is None
    assert "NegativeBinomial()" in scatter_card(Alone(likelihoods.Poisson(), f), wide).lines[1].text
    assert scatter_card(Alone(likelihoods.NegativeBinomial(), f, dispersion=0.5), wide) is None


@pytest.mark.usefixtures("unrendered")
def test_it_is_a_card_of_the_report():
    rng = np.random.default_rng(0)
    X = rng.uniform(1, 10, (200, 1))
    y = rng.normal(X[:, 0], 0.3 * X[:, 0])
    model = br.BayesianModel(torch.nn.Linear(1, 1).double(), likelihood=likelihoods.Gaussian(), standardize=True)
    found = br.report({"mode": br.fit(model, X, y, method="map", seed=0)}, X, y)
    assert [card["headline"] for card in found.data["verdict"] if card["topic"] == "Scatter"] == [
        "Errors grow with the prediction."
    ]
