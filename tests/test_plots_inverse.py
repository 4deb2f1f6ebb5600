"""Figures of inverse problems draw the numbers of the analysis, of the rules and of the answer."""

import numpy as np
import pytest
import torch

import bayesreg as br
from bayesreg import inverse, likelihoods, operators, plots, priors
from bayesreg.datasets import inverse as problems


@pytest.fixture(scope="module")
def case():
    problem = problems.phillips(24)
    b, sigma = problem.noisy(0.02, seed=0)
    model = br.BayesianModel(problem.operator, {"x": priors.Smooth(2, 0.1, level_scale=5.0)}, likelihoods.Gaussian(sigma))
    return problem, b, sigma, inverse.choose(model, b), br.fit(model, None, b, method="exact")


def lines(axes):
    return {line.get_label(): line for line in axes.get_lines()}


def test_picard_draws_coefficients_and_the_noise(case):
    problem, b, sigma, *_ = case
    found = inverse.analyse(problem.operator, b, sigma)
    drawn = lines(plots.picard(found).axes[0])
    assert np.allclose(drawn["sᵢ"].get_ydata(), found.singular_values)
    assert np.allclose(drawn["|uᵢᵀb|"].get_ydata(), found.coefficients.abs())
    assert drawn["σ: noise in each |uᵢᵀb|"].get_ydata()[0] == sigma
    assert "σ: noise in each |uᵢᵀb|" not in lines(plots.picard(inverse.analyse(problem.operator, b)).axes[0])


def test_filter_factors_sum_to_the_degrees_of_freedom(case):
    choice = case[3]
    drawn = plots.filter_factors(choice).axes[0].get_lines()
    for line, found in zip(drawn, choice.chosen.values(), strict=True):
        assert sum(line.get_ydata()) == pytest.approx(found.degrees_of_freedom)


def test_every_rule_is_marked_on_twin_axes(case):
    problem, _, sigma, choice, _ = case
    figure = plots.penalty_weights(choice, problem.x)
    assert len(figure.axes) == 3
    for panel in figure.axes:
        upright = {line.get_xdata()[0] for line in panel.get_lines() if len(set(line.get_xdata())) == 1}
        assert {c.lam for c in choice.chosen.values()} <= upright
    (twin,) = figure.axes[0].child_axes
    figure.draw_without_rendering()
    assert np.allclose(sorted(twin.get_xlim()), sorted(sigma / np.sqrt(figure.axes[0].get_xlim())))
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(labels) == len(choice.chosen)
    assert labels[0].startswith("gcv: λ = ")


def test_a_rule_without_an_answer_is_named(case):
    problem, b, *_ = case
    model = br.BayesianModel(problem.operator, {"x": priors.Normal(1.0)}, likelihoods.Gaussian(100.0))
    choice = inverse.choose(model, b, ["gcv", "discrepancy"])
    for figure in (plots.penalty_weights(choice), plots.l_curve(choice)):
        assert [text.get_text() for text in figure.legends[0].get_texts()][1] == "discrepancy: none"


def test_the_l_curve_and_its_curvature(case):
    choice = case[3]
    top, below = plots.l_curve(choice).axes
    residual, size = top.get_lines()[0].get_data()
    assert (np.diff(residual) >= 0).all()
    assert (np.diff(size) <= 0).all()
    lam, curvature = below.get_lines()[0].get_data()
    assert lam[np.argmax(curvature)] == pytest.approx(choice["l-curve"].lam, rel=0.3)


def test_a_curve_has_its_band(case):
    problem, b, _, _, post = case
    figure = plots.reconstruction(post, b, problem.x, level=0.5)
    drawn = lines(figure.axes[0])
    assert np.allclose(drawn["mean"].get_ydata(), post.mean["x"])
    assert np.allclose(drawn["truth"].get_ydata(), problem.x)
    edges = figure.axes[0].collections[0].get_paths()[0].vertices[:, 1]
    assert edges.max() == pytest.approx(float((post.mean["x"] + 0.6744898 * post.std["x"]).max()), rel=1e-6)
    mode = br.fit(post.model, None, b, method="map")
    assert not plots.reconstruction(mode, b).axes[0].collections


def test_an_image_has_a_map_of_its_sd():
    class Image(operators.AbstractLinearOperator):
        shape, output_shape = (3, 4), (12,)

        def forward(self, x):
            return x.reshape(*x.shape[:-2], 12)

        def adjoint(self, b):
            return b.reshape(*b.shape[:-1], 3, 4)

    b = np.arange(12.0)
    model = br.BayesianModel(Image(), {"x": priors.Normal(1.0)}, likelihoods.Gaussian(0.5))
    post = br.fit(model, None, b, method="exact")
    figure = plots.reconstruction(post, b, b.reshape(3, 4))
    shown = {axes.get_title(): axes.get_images()[0].get_array() for axes in figure.axes if axes.get_images()}
    assert list(shown) == ["truth", "mean", "sd"]
    assert np.allclose(shown["sd"], post.std["x"])
    assert figure.axes[0].get_images()[0].get_clim() == figure.axes[1].get_images()[0].get_clim()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_posterior_sd_along_the_null_space_is_the_priors(seed):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(5, 12))
    model = br.BayesianModel(operators.Dense(A), {"x": priors.Normal(0.7)}, likelihoods.Gaussian(0.1))
    found = inverse.analyse(model)
    post = br.fit(model, None, rng.normal(size=5), method="exact")
    drawn = lines(plots.directions(found, post, seed=seed).axes[0])
    error = 1 / np.sqrt(2 * 2000)
    assert np.allclose(drawn["posterior"].get_ydata()[5:], 0.7, rtol=4 * error)
    expected = (found.singular_values.numpy() ** 2 / 0.1**2 + 0.7**-2) ** -0.5
    assert np.allclose(drawn["posterior"].get_ydata()[:5], expected, rtol=4 * error)


def test_what_cannot_be_drawn_is_refused(case):
    problem, b, _, _, post = case
    found = inverse.analyse(problem.operator)
    with pytest.raises(ValueError, match="a mode has none; take method='exact'"):
        plots.directions(found, br.fit(post.model, None, b, method="map"))
    free = br.BayesianModel(problem.operator, {"x": priors.Smooth()}, likelihoods.Gaussian(0.1))
    with pytest.raises(ValueError, match="the prior must be proper to have an sd"):
        plots.directions(found, br.fit(free, None, b, method="exact"))
    linear = br.BayesianModel(torch.nn.Linear(1, 1), likelihood=likelihoods.Gaussian(0.1))
    with pytest.raises(ValueError, match="the posterior must be one of an operator"):
        plots.reconstruction(br.fit(linear, np.ones((3, 1)), np.ones(3), method="exact"), np.ones(3))
