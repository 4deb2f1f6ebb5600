"""A report on a fit by dropout says which noise, at which rate, and how much uncertainty that noise alone makes."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import bayesreg as br
from bayesreg import layers, likelihoods, priors
from bayesreg.inference import MAP, LaplaceApproximation, MCDropout, MeanField
from bayesreg.reports import noise_facts, pair_facts, report, same_model, uncertainty_facts

rng = np.random.default_rng(0)
X = rng.normal(size=(60, 2))
y = X[:, 0] + 0.3 * rng.normal(size=60)
STEPS = MCDropout(num_steps=150)


def network(*parts, width=1):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), *parts, *([] if parts else [nn.Identity()]), nn.Linear(8, width))
    return br.BayesianModel(net, priors.Normal(1.0), likelihoods.Gaussian(0.3))


@pytest.fixture(scope="module")
def fits():
    model = network(nn.Dropout(0.1))
    return {"MAP": br.fit(model, X, y, method=MAP(num_steps=150)), "dropout": br.fit(model, X, y, method=STEPS)}


@pytest.fixture(scope="module")
def made(fits):
    return report(fits, X, y, num_samples=200)


def facts_of(model, target=y, seed=0):
    posterior = br.fit(model, X, target, method=STEPS)
    found = br.compare({"it": posterior}, X, target, num_samples=100, seed=seed)
    return noise_facts({"it": posterior}, uncertainty_facts(found))["it"]


def test_facts_name_the_layer_its_rate_and_who_chose_it(made):
    assert set(made.data["dropout"]) == {"dropout"}  # a mode has none
    layer = made.data["dropout"]["dropout"]["layers"][0]
    assert layer == {
        "layer": "2",
        "noise": "units dropped at rate 0.1",
        "rate": 0.1,
        "learned": False,
        "weights": ["3.weight"],
    }


def test_the_epistemic_sd_is_that_of_the_masks(fits, made):
    part = made.data["dropout"]["dropout"]["uncertainty"][0]
    predictive = fits["dropout"].predict(X, num_samples=200)
    assert part["epistemic_sd"] == pytest.approx(float(predictive.epistemic_variance.mean().sqrt()), rel=1e-5)
    # one hidden layer under unit noise, and a linear output: variance Σ (w h)² p/(1 − p) in closed form
    mean = fits["dropout"].mode.mean
    hidden = np.tanh(X @ mean["0.weight"].T.numpy() + mean["0.bias"].numpy())
    exact = ((hidden * mean["3.weight"].numpy()) ** 2).sum(1).mean() * 0.1 / 0.9
    assert part["epistemic_sd"] == pytest.approx(math.sqrt(exact), rel=0.15)
    assert part["sd"] ** 2 == pytest.approx(part["epistemic_sd"] ** 2 + 0.3**2, rel=1e-4)
    assert part["epistemic_share"] == pytest.approx(part["epistemic_sd"] ** 2 / part["sd"] ** 2, rel=1e-4)


def test_page_and_verdict_say_it_in_words(made):
    finding = made.data["dropout"]["dropout"]["finding"]
    assert finding.startswith("units dropped at rate 0.1 at layer 2: alone, this noise makes an epistemic sd of 0.")
    assert finding.endswith("A rate that is set by hand sets this number by hand.")
    card = next(card for card in made.data["verdict"] if card["topic"] == "Epistemic part")
    assert {"state": "neutral", "text": f"dropout: {finding}"} in card["lines"]
    assert made.html.count("units dropped at rate 0.1 at layer 2: alone") == 2  # verdict and fit
    assert "set by hand</dd>" in made.html
    assert "units dropped at rate 0.1 at layer 2: alone" in made._repr_html_()


def test_learned_rates_are_said_to_be_learned():
    facts = facts_of(network(layers.ConcreteDropout(0.1)))
    assert facts["layers"][0]["learned"]
    assert facts["layers"][0]["rate"] != pytest.approx(0.1, rel=1e-4)
    assert facts["finding"].endswith("How strong it is was learned with the weights.")


def test_a_rate_by_hand_beside_a_learned_one():
    facts = facts_of(network(layers.ConcreteDropout(0.1), nn.Linear(8, 8), nn.Tanh(), layers.GaussianDropout(0.2)))
    assert [layer["layer"] for layer in facts["layers"]] == ["2", "5"]
    assert facts["finding"].endswith("The rate of layer 5 was set by hand, and this number in part with it.")


def test_sparse_layers_show_their_sparsity_and_have_no_rate():
    model = network(layers.VariationalDropout(nn.Linear(8, 8)))
    posterior = br.fit(model, X, y, method=STEPS)
    page = report({"sparse": posterior}, X, y, num_samples=50)
    facts = page.data["dropout"]["sparse"]
    assert facts["layers"][0]["rate"] is None
    assert facts["sparsity"] == pytest.approx(posterior.sparsity())
    assert "Sparsity of <code>2.layer.weight</code>" in page.html


def test_several_outputs_are_told_as_a_range():
    facts = facts_of(network(nn.Dropout(0.2), width=2), np.stack([y, 2 * y], 1))
    assert len(facts["uncertainty"]) == 2
    assert "of the predictive variance, from output to output." in facts["finding"]


def test_a_mode_and_its_dropout_are_set_side_by_side(fits):
    assert set(br.compare(fits, X, y, num_samples=50).scores) == {"MAP", "dropout"}
    assert [(pair["mode"], pair["posterior"]) for pair in pair_facts(fits, num_samples=100, seed=0)] == [("MAP", "dropout")]


def test_a_learned_rate_makes_no_other_model():
    model = network(layers.ConcreteDropout(0.1))
    learned = br.fit(model, X, y, method=STEPS)
    assert same_model(learned.model, model.bind(X, y))
    other = network(layers.ConcreteDropout(0.1), nn.Tanh())
    assert not same_model(learned.model, other.bind(X, y))


def test_the_log_uniform_prior_is_not_measured_against_the_declared_one():
    model = network(layers.VariationalDropout(nn.Linear(8, 8)))
    fits = {"MAP": br.fit(model, X, y, method=MAP(num_steps=50)), "sparse": br.fit(model, X, y, method=STEPS)}
    ratios = {t["tensor"]: t["learned"] for t in pair_facts(fits, num_samples=100, seed=0)[0]["tensors"]}
    assert ratios["2.layer.weight"] is None
    assert ratios["0.weight"] is not None


@pytest.mark.parametrize("method", ["map", "laplace", "mean-field"])
@pytest.mark.parametrize(
    "pair",
    [
        (lambda: nn.Dropout(0.2), lambda: layers.Dropout(0.2)),
        (lambda: nn.Linear(8, 8), lambda: layers.DropConnect(nn.Linear(8, 8), 0.2)),
    ],
    ids=["units", "weights"],
)
def test_other_methods_take_these_layers_as_torchs_own(method, pair):
    mode = MAP(num_steps=60)
    takes = {
        "map": mode,
        "laplace": LaplaceApproximation(mode=mode),
        "mean-field": MeanField(num_steps=100, initial_scale=0.03),
    }
    found = []
    for part in pair:
        torch.manual_seed(1)
        model = network(part())
        found.append(br.fit(model, X, y, method=takes[method]).predict(X[:5], num_samples=20, seed=0).mean)
    assert all(bool(torch.isfinite(mean).all()) for mean in found)
    if method == "mean-field":  # its network stands in evaluation mode, where both are the same network
        torch.testing.assert_close(*found)


def test_prior_table_names_the_prior_that_dropout_puts_in_place_of_the_declared_one():
    parts = (layers.VariationalDropout(nn.Linear(8, 8)), layers.DropConnect(nn.Linear(8, 8), 0.1))
    model = network(*parts, layers.VariationalDropout(nn.Linear(8, 8), prior="declared"))
    notes = {row.tensor: row.note for row in model.prior_table().rows}
    assert notes["2.layer.weight"] == "MCDropout takes the log-uniform prior 1/|w| in its place"
    assert notes["3.layer.weight"] == "weights dropped at rate 0.1"
    assert notes["4.layer.weight"] == "under a learned normal noise"
    assert not any(notes[name] for name in ("0.weight", "2.layer.bias", "5.weight"))
    assert model.spec.table(model.module).rows == model.prior_table().rows[:-1]
