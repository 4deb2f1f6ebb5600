"""The page of an inverse problem: the answer beside the noise and the truth, and no section that would test fitted rows."""

import json
import re

import numpy as np
import pytest
import torch

import bayesreg as br
from bayesreg import inverse, likelihoods, operators, priors
from bayesreg.datasets import inverse as problems


@pytest.fixture(scope="module")
def case():
    problem = problems.phillips(24)
    b, sigma = problem.noisy(0.02, seed=0)
    model = br.BayesianModel(problem.operator, {"x": priors.Smooth(2, 0.1, level_scale=5.0)}, likelihoods.Gaussian(sigma))
    return problem, b, {"MAP": br.fit(model, None, b, method="map"), "exact": br.fit(model, None, b, method="exact")}


@pytest.fixture(scope="module")
def page(case):
    problem, b, fits = case
    return br.report(fits, None, b, truth=problem.x)


def test_facts_are_those_of_the_analysis_and_of_the_answers(case, page):
    problem, b, fits = case
    found, judged = page.data["inverse"], inverse.judge(fits["exact"], b, problem.x)
    sigma = float(fits["exact"].model.likelihood.fixed["noise_scale"])
    assert found["verdict"] == list(inverse.analyse(problem.operator, b, sigma).verdict)
    assert found["answers"]["exact"]["relative_error"] == pytest.approx(judged.relative_error)
    assert found["answers"]["exact"]["coverage"] == pytest.approx(judged.coverage)
    assert found["answers"]["MAP"]["coverage"] is None
    assert [row["rule"] for row in found["rules"]] == list(inverse.choose(fits["MAP"].model, b).chosen)
    assert json.loads(json.dumps(page.data)) == page.data


def test_sections_that_test_new_rows_are_left_out(page):
    shown = re.findall(r'<section id="([a-z]+)"', page.html)
    assert shown[:3] == ["verdict", "reconstruction", "data"]
    assert not {"calibration", "comparison", "uncertainty", "worst"} & set(shown)
    assert "measurements that were fitted do not test a prediction" in page.html
    assert "an inverse problem of 24 measurements" in page.html
    assert "test rows" not in page.html


def test_the_verdict_says_what_kind_of_problem_it_is(page):
    cards = {card["topic"]: card for card in page.data["verdict"]}
    assert cards["Residual"]["state"] == "good"
    assert cards["Truth"]["headline"].startswith("Relative error")  # mode and mean are one point
    assert cards["Penalty"]["headline"].startswith("Rules for λ take prior scales of")
    assert "the prior decides what the data do not" in cards["Problem"]["headline"]


def test_a_residual_that_is_not_noise_is_a_caution(case):
    problem, b, _ = case
    model = br.BayesianModel(problem.operator, {"x": priors.Smooth(2, 1e-3, level_scale=5.0)}, likelihoods.Gaussian(0.05))
    cards = {c["topic"]: c for c in br.report({"stiff": br.fit(model, None, b, method="map")}, None, b).data["verdict"]}
    assert cards["Residual"]["state"] == "bad"
    assert cards["Penalty"]["state"] == "bad"
    assert "Truth" not in cards


def test_without_a_quadratic_penalty_it_says_why_there_are_no_rules(case):
    problem, b, _ = case
    model = br.BayesianModel(problem.operator, {"x": priors.Laplace(0.2)}, likelihoods.Gaussian(0.05))
    page = br.report({"L1": br.fit(model, None, b, method="map")}, None, b)
    assert page.data["inverse"]["rules"] is None
    assert "No rule for λ: a rule for λ needs a quadratic penalty" in page.html


def test_an_image_is_on_the_page():
    rng = np.random.default_rng(0)
    operator = operators.Mask(rng.random((6, 5)) < 0.7)
    identity = operators.Convolution2d(np.ones((1, 1)), shape=(6, 5))  # whose measurements are an image too
    whole = br.BayesianModel(identity, {"x": priors.Smooth(1, 0.3, level_scale=2.0)}, likelihoods.Gaussian(0.1))
    assert br.compare({"exact": br.fit(whole, None, np.ones((6, 5)), method="exact")}, None, np.ones((6, 5))).num_data == 30
    b = operator(torch.ones(6, 5, dtype=torch.float64)).numpy() + 0.1 * rng.normal(size=operator.output_shape)
    model = br.BayesianModel(operator, {"x": priors.Smooth(1, 0.3, level_scale=2.0)}, likelihoods.Gaussian(0.1))
    page = br.report({"exact": br.fit(model, None, b, method="exact")}, None, b)
    images = re.findall(r'base64,([^"]*)"', page.html)
    assert len(images) >= 2
    assert not any(re.search(r"\s", image) for image in images)


def test_networks_have_no_truth():
    x = torch.linspace(-1, 1, 20)[:, None]
    model = br.BayesianModel(torch.nn.Linear(1, 1), likelihood=likelihoods.Gaussian(0.5))
    fits = {"exact": br.fit(model, x, x[:, 0], method="exact")}
    with pytest.raises(ValueError, match="truth must be the unknown of an inverse problem, but these are fits of a network"):
        br.report(fits, x, x[:, 0], truth=x)
    assert br.report(fits, x, x[:, 0]).data["inverse"] is None


def test_fits_of_one_inverse_problem_are_compared(case):
    _, b, fits = case
    found = br.compare(fits, None, b)
    assert set(found.scores) == {"MAP", "exact"}
    assert found.num_data == 24
    assert "These rows are the measurements that were fitted" in str(found)
