"""Figures of priors must draw the densities, penalties and modes that the priors say, and level lines that touch at the MAP."""

import contextlib
import io
import itertools
import math
import re
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
import torch
from scipy import integrate, optimize, stats

from bayesreg import _catalog, plots
from bayesreg.likelihoods import Bernoulli, Categorical, Gaussian
from bayesreg.plots import readings
from bayesreg.predictive import Predictive
from bayesreg.priors import (
    AbstractElementwisePrior,
    AbstractPrior,
    Cauchy,
    ElasticNet,
    Fixed,
    Flat,
    GeneralizedNormal,
    GroupHorseshoe,
    GroupLasso,
    HalfCauchy,
    HalfNormal,
    Horseshoe,
    Laplace,
    LogUniform,
    MultivariateNormal,
    Normal,
    RegularizedHorseshoe,
    SpikeSlab,
)
from bayesreg.reports import inline

SEEDS = (0, 1, 2)
DEFAULT = {"estimate": (1.3, 2.6), "precision": ((2.0, -1.0), (-1.0, 1.4))}  # the loss of level_sets


def functions(S=200, N=60, seed=0, K=None):
    """Draws of straight lines against x, in an order that is not that of x."""
    rng = np.random.default_rng(seed)
    x = rng.permutation(np.linspace(-2, 3, N))
    slope, height = rng.normal(size=(2, S, 1))
    output = torch.tensor(slope * x + height)
    return x, output if K is None else torch.stack([output * (k + 1) for k in range(K)], -1)


def regression(S=200, N=60, seed=0, K=None):
    x, output = functions(S, N, seed, K)
    noise = torch.tensor(np.random.default_rng(seed).uniform(0.2, 0.8, size=(S,) + (1,) * (output.dim() - 1)))
    return x, Predictive(Gaussian(), output, {"noise_scale": noise})


def everything():
    """One of each figure."""
    x, predictive = regression()
    return {
        "priors": plots.priors(Normal(1.0), Laplace(1.0), Flat()),
        "level sets": plots.level_sets(),
        "prior predictive": plots.prior_predictive(predictive, x),
        "prior predictive of classes": plots.prior_predictive(Predictive(Bernoulli(), functions()[1]), x),
    }


# ── one weight ──


def test_the_three_panels_are_density_penalty_and_prox():
    given = [Normal(0.5, loc=0.3), Laplace(2.0)]
    density, penalty, profile = plots.priors(*given, low=-2.0, high=4.0).axes
    theirs = [stats.norm(0.3, 0.5), stats.laplace(0, 2.0)]
    for i, (prior, reference) in enumerate(zip(given, theirs, strict=True)):
        w, p = density.lines[i].get_data()
        assert (w[0], w[-1]) == (-2.0, 4.0)
        np.testing.assert_allclose(p, reference.pdf(w), rtol=1e-12)
        w, energy = penalty.lines[i].get_data()
        np.testing.assert_allclose(energy, reference.logpdf(getattr(prior, "loc", 0.0)) - reference.logpdf(w), atol=1e-12)
        y, estimate = profile.lines[1 + i].get_data()
        np.testing.assert_allclose(estimate, prior.prox(torch.tensor(y), 1.0), atol=1e-12)
        for at in (10, 300, 590):  # and prox is what it should be: the best weight for this one observation
            cost = optimize.minimize_scalar(lambda v, at=at: 0.5 * (v - y[at]) ** 2 - reference.logpdf(v), (-9, 9))  # noqa: B023
            assert estimate[at] == pytest.approx(cost.x, abs=1e-6)
    diagonal = profile.lines[0].get_data()
    np.testing.assert_array_equal(diagonal[0], diagonal[1])
    assert profile.get_xlim() == profile.get_ylim()


def test_a_mapping_gives_the_names_and_an_improper_prior_has_no_density():
    figure = plots.priors({"weight decay": Normal(1.0), "nothing": Flat()})
    said = [text.get_text() for text in figure.legends[0].get_texts()]
    assert said == ["weight decay", "nothing (improper: no density)"]
    assert np.isnan(figure.axes[0].lines[1].get_ydata()).all()
    y, estimate = figure.axes[2].lines[2].get_data()
    np.testing.assert_array_equal(y, estimate)  # no prior, no shrinkage


def test_a_prior_of_positive_values_is_drawn_from_zero():
    density, penalty, profile = plots.priors(HalfNormal(1.0)).axes
    w, p = density.lines[0].get_data()
    assert w[0] == 0
    assert p[0] == pytest.approx(math.sqrt(2 / math.pi))
    y, estimate = profile.lines[1].get_data()
    assert y[0] < 0
    assert (estimate[y < 0] == 0).all()
    assert penalty.lines[0].get_ydata().min() == 0


def test_a_window_where_a_prior_has_no_density_is_empty_and_no_error():
    figure = plots.priors(HalfNormal(1.0), low=-3.0, high=-1.0)
    assert (figure.axes[0].lines[0].get_ydata() == 0).all()
    assert not np.isfinite(figure.axes[1].lines[0].get_ydata()).any()
    figure.savefig(io.BytesIO())


def test_a_narrow_prior_beside_a_wide_one_is_cut_and_the_legend_says_so():
    figure = plots.priors(Normal(0.05), Normal(3.0))
    assert figure.axes[0].get_ylim()[1] < 0.3
    said = [text.get_text() for text in figure.legends[0].get_texts()]
    assert said == ["Normal(scale=0.05) (density up to 8)", "Normal(scale=3.0)"]


@pytest.mark.parametrize("noise_scale", [0.3, 1.0, 4.0])
def test_the_profile_shows_the_whole_zone_of_exact_zeros(noise_scale):
    prior = Laplace(0.05)
    y, estimate = plots.priors(prior, noise_scale=noise_scale).axes[2].lines[1].get_data()
    threshold = noise_scale**2 / 0.05
    np.testing.assert_array_equal(estimate == 0, np.abs(y) <= threshold)
    assert (np.abs(y) > threshold).mean() > 0.2


def test_lines_are_told_apart_without_colour():
    for axes in plots.priors(Normal(1.0), Laplace(1.0), HalfNormal(1.0), Flat()).axes:
        marks = [line.get_marker() for line in axes.lines if line.get_marker() != "None"]
        assert len(set(marks)) == len(marks) == 4


@pytest.mark.parametrize(
    ("prior", "wanted"),
    [
        (Normal(2.0, loc=-1.0), lambda y: -1 + (y + 1) * 4 / (4 + 0.25)),
        (Laplace(0.7, loc=0.5), None),
        (HalfNormal(1.5), None),
    ],
)
def test_posterior_mean_is_that_of_quadrature_and_of_the_closed_form(prior, wanted):
    y = np.array([-3.0, -0.4, 0.0, 0.9, 6.0])
    found = plots.posterior_mean(prior, y, 0.5)
    if wanted is not None:
        np.testing.assert_allclose(found, wanted(y), rtol=1e-9)
    low = 0.0 if isinstance(prior, HalfNormal) else -np.inf

    def joint(w, at):
        return float(torch.exp(prior.log_prob(torch.tensor(w, dtype=torch.float64)))) * stats.norm.pdf(at, w, 0.5)

    for at, mean in zip(y, found, strict=True):
        kink = [max(at - 9, low), 0.5, max(at, 0.6), max(at, 0.6) + 9]
        pieces = [p for p in itertools.pairwise(kink) if p[0] < p[1]]
        mass, first = (
            sum(integrate.quad(lambda w: w**k * joint(w, at), *piece, limit=200)[0] for piece in pieces)  # noqa: B023
            for k in (0, 1)
        )
        assert mean == pytest.approx(first / mass, abs=1e-6)


def test_a_line_is_broken_at_a_jump_and_only_there():
    x = np.linspace(-2, 2, 41)

    def hard(v):
        return np.where(np.abs(v) > 1.23, v, 0.0)

    def steep(v):
        return np.tanh(300 * v)

    drawn, height = readings._broken(x, hard(x), hard)
    assert np.isnan(height).sum() == 2
    for gap in np.flatnonzero(np.isnan(height)):
        assert np.abs(drawn[gap - 1 : gap + 2]) == pytest.approx(1.23, abs=1e-12)
        assert sorted(np.abs(height[[gap - 1, gap + 1]])) == pytest.approx([0, 1.23])
    assert not np.isnan(readings._broken(x, steep(x), steep)[1]).any()


@pytest.mark.slow  # quickly: level sets of such a prior, and its mean of two by quadrature
def test_a_prior_with_a_pole_is_shown_by_its_posterior_mean():
    prior = Horseshoe(0.5)
    figure = plots.priors(Normal(1.0), prior, low=-4.0, high=4.0)
    _, penalty, profile = figure.axes
    y, mean = profile.lines[2].get_data()
    assert profile.lines[2].is_dashed()
    assert not profile.lines[1].is_dashed()
    assert "dashed: posterior mean" in profile.texts[0].get_text()
    for at in (50, 300, 580):
        moments = []
        for k in (0, 1):
            joint = lambda w, k=k, at=at: w**k * math.exp(float(prior.log_prob(torch.tensor(w)))) * stats.norm.pdf(y[at], w)  # noqa: E731
            moments.append(sum(integrate.quad(joint, *ends, limit=400)[0] for ends in ((-15, 0), (0, 0.1), (0.1, 15))))
        assert mean[at] == pytest.approx(moments[1] / moments[0], abs=1e-6)
    said = [text.get_text() for text in figure.legends[0].get_texts()]
    assert said == ["Normal(scale=1.0)", "Horseshoe(scale=0.5) (density up to ∞)"]
    w, energy = penalty.lines[1].get_data()
    assert float(energy[np.abs(w - 0.5).argmin()]) == pytest.approx(0, abs=0.02)  # counted from |w| = scale
    assert penalty.texts[0].get_text() == "pole: to −∞"
    assert penalty.get_ylim()[0] < -1


def test_a_point_mass_and_an_improper_pole_show_what_they_have():
    figure = plots.priors(Fixed(0.5), LogUniform(), Normal(1.0))
    said = [text.get_text() for text in figure.legends[0].get_texts()]
    assert said[:2] == ["Fixed(value=0.5) (a point mass: no density)", "LogUniform() (improper: no density)"]
    profile = figure.axes[2]
    assert (profile.lines[1].get_ydata() == 0.5).all()
    assert np.isnan(profile.lines[2].get_ydata()).all()  # 1/w is not integrable at zero, nor is the posterior


def test_large_observations_are_left_alone_by_heavy_tails_and_not_by_others():
    y = np.array([30.0])
    left = {
        prior: 30 - readings.shrinkage(prior, y)[1][0] for prior in (Normal(1.0), Laplace(1.0), Cauchy(1.0), Horseshoe(1.0))
    }
    assert left[Normal(1.0)] == pytest.approx(15)
    assert left[Laplace(1.0)] == pytest.approx(1)
    assert left[Cauchy(1.0)] < 0.1
    assert left[Horseshoe(1.0)] < 0.1


# ── two weights ──


def test_map_of_two_is_the_closed_form_for_l2():
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        root, estimate = rng.normal(size=(2, 2)), rng.normal(size=2)
        A = root @ root.T + 0.1 * np.eye(2)
        found = plots.map_of_two(Normal(0.6, loc=0.4), estimate=estimate, precision=A)
        wanted = np.linalg.solve(A + np.eye(2) / 0.36, A @ estimate + 0.4 / 0.36)
        np.testing.assert_allclose(found, wanted, atol=1e-10)


@pytest.mark.parametrize("scale", [0.1, 0.5, 1.0, 5.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_map_of_two_satisfies_the_subgradient_condition_of_l1(scale, seed):
    rng = np.random.default_rng(seed)
    root, estimate = rng.normal(size=(2, 2)), 2 * rng.normal(size=2)
    A = root @ root.T + 0.1 * np.eye(2)
    w = plots.map_of_two(Laplace(scale), estimate=estimate, precision=A).numpy()
    pull = -A @ (w - estimate) * scale  # must be the sign where w is not zero, and within ±1 where it is
    np.testing.assert_allclose(pull[w != 0], np.sign(w[w != 0]), atol=1e-9)
    assert (np.abs(pull[w == 0]) <= 1 + 1e-9).all()


def test_the_lectures_picture_l2_off_the_axes_and_l1_on_one_exactly():
    l2, l1 = (plots.map_of_two(prior, **DEFAULT) for prior in (Normal(1.0), Laplace(1.0)))
    assert bool((l2.abs() > 0.3).all())
    assert float(l1[0]) == 0.0
    assert float(l1[1]) == pytest.approx(2.6 - (1.3 + 1) / 1.4, abs=1e-12)
    drawn = [axes.get_title(loc="left").split("\n")[1] for axes in plots.level_sets().axes]
    assert drawn == ["MAP at (0.38, 1.1)", "MAP at (0, 0.96)"]


def strong(axes):
    """Vertices of the thick lines of a panel: penalty, loss."""
    thick = [c for c in axes.collections if len(np.atleast_1d(c.get_linewidths())) and c.get_linewidths()[0] == 2.2]
    return [np.concatenate([path.vertices for path in c.get_paths()]) for c in thick]


def test_the_strong_lines_are_level_lines_through_the_map_that_touch_there():
    for prior, axes in zip((Normal(1.0), Laplace(1.0)), plots.level_sets().axes, strict=True):
        mode = plots.map_of_two(prior, **DEFAULT)
        estimate, A = (torch.tensor(DEFAULT[key], dtype=torch.float64) for key in ("estimate", "precision"))
        penalty, loss = map(torch.tensor, strong(axes))
        away, at_mode = loss - estimate, mode - estimate
        np.testing.assert_allclose(((away @ A) * away).sum(1), at_mode @ A @ at_mode, rtol=2e-2)
        costs = torch.stack([prior.penalty(w) for w in penalty])
        np.testing.assert_allclose(costs, prior.penalty(mode), rtol=1e-2)
        for line in (penalty, loss):
            assert float((line - mode).norm(dim=1).min()) < 1e-9  # both pass through the MAP itself
        # they touch and do not cross: along the loss's line no point has a smaller penalty, beyond what its chords cut off
        assert float(torch.stack([prior.penalty(w) for w in loss]).min()) >= float(prior.penalty(mode)) - 1e-3


def test_the_gradients_are_opposite_at_a_smooth_map():
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        root, estimate = rng.normal(size=(2, 2)), torch.tensor(3 * rng.normal(size=2))
        A = torch.tensor(root @ root.T + 0.1 * np.eye(2))
        mode = plots.map_of_two(Normal(0.8), estimate=estimate, precision=A).requires_grad_()
        loss = torch.autograd.grad(readings.loss(mode, estimate, A), mode)[0]
        penalty = torch.autograd.grad(Normal(0.8).penalty(mode), mode)[0]
        np.testing.assert_allclose(loss, -penalty, atol=1e-9)


def test_corners_lie_on_the_axes():
    outline = strong(plots.level_sets(Laplace(1.0)).axes[0])[0]
    reach = float(plots.map_of_two(Laplace(1.0), **DEFAULT)[1])
    for corner in ((0, reach), (reach, 0), (0, -reach), (-reach, 0)):
        assert np.abs(outline - corner).sum(1).min() < 1e-9


def test_points_are_marked_apart_and_named():
    axes = plots.level_sets(Laplace(1.0)).axes[0]
    marks = {line.get_marker(): line.get_xydata()[0].tolist() for line in axes.lines if line.get_marker() in "oD"}
    assert marks["D"] == [1.3, 2.6]
    assert marks["o"] == pytest.approx([0, 2.6 - 2.3 / 1.4], abs=1e-12)
    assert {text.get_text() for text in axes.texts} == {"MAP", "least squares"}
    flat = plots.level_sets(Flat()).axes[0]
    assert [text.get_text() for text in flat.texts] == ["least squares = MAP"]


def brute_force(prior):
    """The best weights on a grid of steps of 0.01."""
    estimate, A = (torch.tensor(DEFAULT[key], dtype=torch.float64) for key in ("estimate", "precision"))
    grid = torch.cartesian_prod(*2 * [torch.linspace(-1, 4, 501, dtype=torch.float64)])
    return grid[(readings.loss(grid, estimate, A) + readings.penalties(prior, grid)).argmin()], estimate, A


@pytest.mark.parametrize(
    "prior",
    [
        Cauchy(0.5),
        Cauchy(0.2),
        pytest.param(GeneralizedNormal(0.5, 1.0), marks=pytest.mark.slow),
        GeneralizedNormal(1.5, 0.5),
        ElasticNet(1.0, 0.7),
        pytest.param(SpikeSlab(0.5, 3.0, 0.5), marks=pytest.mark.slow),
        GroupLasso(0.5, per="tensor"),
        MultivariateNormal(((1.0, 0.9), (0.9, 1.0))),
    ],
    ids=repr,
)
def test_map_of_two_is_the_best_of_all_also_where_the_penalty_is_not_convex(prior):
    near, estimate, A = brute_force(prior)
    found = plots.map_of_two(prior, **DEFAULT)
    assert float((found - near).abs().max()) < 0.02

    def total(w):
        return float(readings.loss(w, estimate, A) + prior.penalty(w))

    assert total(found) <= total(near) + 1e-12
    for direction in torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1], [1, 1], [-1, 1]], dtype=torch.float64):
        assert total(found + 1e-4 * direction) >= total(found)


@pytest.mark.parametrize(
    "prior",
    [
        ElasticNet(1.0, 1.0),
        *(pytest.param(prior, marks=pytest.mark.slow) for prior in (GeneralizedNormal(0.5, 1.0), SpikeSlab(0.5, 3.0, 0.5))),
    ],
    ids=repr,
)
def test_kinks_on_the_axes_give_exact_zeros(prior):
    w = plots.map_of_two(prior, **DEFAULT)
    assert float(w[0]) == 0.0
    assert float(w[1]) > 0.5


def test_group_lasso_is_a_round_corner_at_zero_only():
    prior = GroupLasso(1.0, per="tensor")
    estimate, A = (torch.tensor(DEFAULT[key], dtype=torch.float64) for key in ("estimate", "precision"))
    w = plots.map_of_two(prior, **DEFAULT)
    np.testing.assert_allclose((w - estimate) @ A, -w / w.norm(), atol=1e-9)
    assert plots.map_of_two(GroupLasso(0.2, per="tensor"), **DEFAULT).tolist() == [0.0, 0.0]
    assert plots.level_sets(prior).axes[0].get_title(loc="left").startswith("GroupLasso(scale=1.0")


def test_mean_of_two_is_the_closed_form_for_l2_and_quadrature_for_a_pole():
    estimate, A = np.array(DEFAULT["estimate"]), np.array(DEFAULT["precision"])
    found = readings.mean_of_two(Normal(0.7, loc=-0.5), **DEFAULT)
    wanted = np.linalg.solve(A + np.eye(2) / 0.49, A @ estimate - 0.5 / 0.49)
    np.testing.assert_allclose(found, wanted, atol=1e-8)
    edges = np.concatenate([-np.geomspace(12, 1e-10, 1500), np.geomspace(1e-10, 12, 1500)])
    w, width = 0.5 * (edges[1:] + edges[:-1]), np.diff(edges)  # midpoints, dense at the pole
    for prior in (Horseshoe(1.0), RegularizedHorseshoe(0.3, slab_scale=2.0)):
        p = width * np.exp(prior.log_constant - prior.energy(torch.tensor(w)).numpy())
        away = [w - c for c in estimate]
        loss = 0.5 * (A[0, 0] * away[0][:, None] ** 2 + 2 * A[0, 1] * np.outer(*away) + A[1, 1] * away[1] ** 2)
        joint = np.exp(-loss) * p[:, None] * p
        wanted = np.array([joint.sum(1) @ w, joint.sum(0) @ w]) / joint.sum()
        np.testing.assert_allclose(readings.mean_of_two(prior, **DEFAULT), wanted, atol=1e-3)


def test_level_sets_say_that_a_pole_has_no_map():
    axes = plots.level_sets(Horseshoe(1.0)).axes[0]
    mean = readings.mean_of_two(Horseshoe(1.0), **DEFAULT)
    assert axes.get_title(loc="left").split("\n")[1].startswith("no MAP; mean at (")
    square = next(line for line in axes.lines if line.get_marker() == "s")
    np.testing.assert_allclose(square.get_xydata()[0], mean)
    assert strong(axes) == []  # nothing touches there
    assert {text.get_text() for text in axes.texts} == {"mean", "least squares"}


# numerical steps at each point make these slow to draw; the tests above draw a pole and a kink, the others here all else
SLOWLY_DRAWN = (
    *("GeneralizedNormal", "Horseshoe", "InverseGamma", "LogNormal", "Positive", "RegularizedHorseshoe"),
    *("ScaleMixture", "SpikeSlab", "Cauchy", "HalfCauchy", "HalfStudentT", "StudentT"),
)


@pytest.mark.parametrize(
    "cls",
    [
        pytest.param(cls, marks=pytest.mark.slow if cls.__name__ in SLOWLY_DRAWN else [], id=cls.__name__)
        for cls in _catalog.concrete(AbstractPrior)
    ],
)
def test_every_prior_there_is_can_be_drawn_or_is_refused_with_what_to_do(cls):
    prior = cls()
    if isinstance(prior, AbstractElementwisePrior):
        for axes in plots.priors(prior).axes:
            assert np.isfinite(axes.get_ylim()).all()
        if prior.bounded or prior.proper:
            assert len(plots.level_sets(prior).axes) == 1
    else:
        with pytest.raises(ValueError, match=rf"must be elementwise, but {cls.__name__}\(.*draw it with plots.level_sets"):
            plots.priors(prior)
        with contextlib.suppress(ValueError):  # groups that two weights do not make; their own tests say why
            plots.level_sets(prior)


# ── functions ──


@pytest.mark.parametrize("K", [None, 2])
def test_prior_predictive_draws_the_functions_and_their_quantiles(K):
    x, predictive = regression(K=K)
    axes = plots.prior_predictive(predictive, x[:, None], output=0 if K is None else 1, name="years", num_lines=7).axes[0]
    order, output = np.argsort(x), predictive.output.numpy() if K is None else predictive.output[..., 1].numpy()
    lines = [line for line in axes.lines if line.get_linewidth() == 0.7]
    assert len(lines) == 7
    np.testing.assert_array_equal(lines[0].get_xdata(), np.sort(x))
    np.testing.assert_array_equal(lines[0].get_ydata(), output[0, order])
    np.testing.assert_array_equal(lines[-1].get_ydata(), output[-1, order])
    for band, level in zip(axes.collections[1:], (0.95, 0.5), strict=True):
        wanted = np.quantile(output, [(1 - level) / 2, (1 + level) / 2], axis=0)
        box = band.get_datalim(axes.transData)
        assert (box.y0, box.y1) == pytest.approx((wanted.min(), wanted.max()))
    edges = [line.get_ydata() for line in axes.lines[:2]]
    for edge, end in zip(edges, predictive.interval(0.95), strict=True):
        np.testing.assert_allclose(edge, (end if K is None else end[:, 1])[order])
    assert axes.get_xlabel() == "years"


def test_prior_predictive_of_classes_is_a_probability():
    x, logits = functions()
    axes = plots.prior_predictive(Predictive(Bernoulli(), logits), x).axes[0]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), stats.logistic.cdf(logits[0].numpy()[np.argsort(x)]))
    assert axes.get_ylabel() == "P(y = 1)"
    x, logits = functions(K=3)
    axes = plots.prior_predictive(Predictive(Categorical(), logits), x, output=2).axes[0]
    np.testing.assert_allclose(axes.lines[0].get_ydata(), logits[0].softmax(-1)[np.argsort(x), 2])
    assert axes.get_ylabel() == "P(y = 2)"


def test_a_wild_draw_leaves_the_picture_and_is_counted():
    x, predictive = regression()
    predictive.output[0] *= 1e6
    axes = plots.prior_predictive(predictive, x).axes[0]
    assert np.abs(axes.get_ylim()).max() < 100
    said = [text.get_text() for text in axes.figure.legends[0].get_texts()]
    assert any(re.fullmatch(r"30 draws \([1-9] cut off\)", text) for text in said)


def test_one_draw_is_a_line_without_bands():
    x, predictive = regression(S=1)
    axes = plots.prior_predictive(predictive, x).axes[0]
    assert len(axes.collections) == 1  # the interval of y
    assert [text.get_text() for text in axes.figure.legends[0].get_texts()] == ["95 % with noise", "one draw"]


# ── manners ──


@pytest.mark.slow
def test_no_setting_is_changed_and_the_persons_own_do_not_matter():
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "black", "lines.linewidth": 9, "axes.grid": True}):
        before = dict(mpl.rcParams)
        styled = {name: inline(figure, "f", "l") for name, figure in everything().items()}
        assert dict(mpl.rcParams) == before
    assert styled == {name: inline(figure, "f", "l") for name, figure in everything().items()}


def test_every_colour_is_one_of_the_palette_and_becomes_the_themes():
    for name, figure in everything().items():
        svg = inline(figure, "f", "l")
        assert re.search(r"#[0-9a-f]{6}\b", svg) is None, name
        assert "<image" not in svg
        assert len(svg) < 120_000, name


@pytest.fixture(scope="module")
def fresh():
    """What a new process says: one word a question."""
    code = (
        "import sys, torch; from bayesreg import plots, priors; assert 'matplotlib' not in sys.modules;"
        "before = torch.get_rng_state(); plots.priors(priors.Normal(1.0)); figure = plots.level_sets();"
        "assert torch.get_rng_state().equal(before); assert 'matplotlib.pyplot' not in sys.modules; print('ok');"
        "from IPython.core.formatters import DisplayFormatter;"
        "picture = DisplayFormatter().format(figure)[0]['image/png'];"
        "assert 'matplotlib.pyplot' not in sys.modules; print(picture[1:4].decode())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return done.stdout.split(), done.stderr


@pytest.mark.slow
def test_a_notebook_shows_a_figure_without_pyplot(fresh):
    said, errors = fresh
    assert said[1:] == ["PNG"], errors


@pytest.mark.slow  # quickly: test_plots asks it of the other figures, which load the same way
def test_pyplot_is_never_imported_and_no_random_state_moves(fresh):
    said, errors = fresh
    assert said[:1] == ["ok"], errors


# ── refusals ──


def test_refusals_of_priors():
    with pytest.raises(ValueError, match=r"what is drawn must be a prior, but 'Laplace' came; pass for example"):
        plots.priors("Laplace")
    with pytest.raises(ValueError, match="the priors of one figure must be 1 to 6, but 7 came; draw several figures"):
        plots.priors(*(Normal(float(s)) for s in range(1, 8)))
    with pytest.raises(ValueError, match="must be 1 to 6, but 0 came"):
        plots.priors()
    with pytest.raises(ValueError, match=r"Normal\(scale=1.0, fan_in=True\): fan_in=True must meet a tensor"):
        plots.priors(Normal(1.0, fan_in=True))
    with pytest.raises(ValueError, match=r"Normal\(scale=HalfCauchy\(scale=1.0\)\): the scale must be a number here"):
        plots.priors(Normal(HalfCauchy(1.0)))
    with pytest.raises(ValueError, match="low must be < high, but low=2 and high=1 came"):
        plots.priors(Normal(1.0), low=2.0, high=1.0)
    with pytest.raises(ValueError, match="noise_scale must be a finite number > 0, but 0 came"):
        plots.priors(Normal(1.0), noise_scale=0)


def test_refusals_of_level_sets():
    with pytest.raises(ValueError, match="what is drawn must be a prior, but 3 came"):
        plots.level_sets(3)
    with pytest.raises(ValueError, match=r"estimate must be two finite numbers, but \(1.0, 2.0, 3.0\) came"):
        plots.level_sets(estimate=(1.0, 2.0, 3.0))
    with pytest.raises(ValueError, match=r"estimate must be two finite numbers, but \(1.0, nan\) came"):
        plots.level_sets(estimate=(1.0, math.nan))
    with pytest.raises(ValueError, match="precision must be a symmetric 2 × 2 matrix"):
        plots.level_sets(precision=((1.0, 0.5), (0.0, 1.0)))
    with pytest.raises(ValueError, match="both eigenvalues > 0 and within a factor of 10000, but 0 and 2 came"):
        plots.level_sets(precision=((1.0, 1.0), (1.0, 1.0)))
    with pytest.raises(ValueError, match="fan_in=True must meet a tensor of two or more axes"):
        plots.level_sets(Normal(1.0, fan_in=True))
    with pytest.raises(ValueError, match=r"must be elementwise and proper to be drawn, but GroupHorseshoe\("):
        plots.level_sets(GroupHorseshoe(1.0, per="tensor"))
    with pytest.raises(ValueError, match=r"estimate must lie within about 100 noise sds .* but 1\d\d\d came; there the prior"):
        plots.level_sets(Horseshoe(1.0), estimate=(1000.0, 0.0))
    with pytest.raises(ValueError, match=r"but LogUniform\(\) is improper; draw for example"):
        plots.level_sets(LogUniform())
    with pytest.raises(ValueError, match=r"a prior of one weight must be elementwise, but GroupLasso\("):
        plots.priors(GroupLasso(1.0))


def test_refusals_of_prior_predictive():
    x, predictive = regression()
    with pytest.raises(ValueError, match=r"x must be one column, but shape \(60, 2\) came; vary one column, hold the others"):
        plots.prior_predictive(predictive, np.stack([x, x], 1))
    with pytest.raises(ValueError, match="x must have the 60 rows of the prediction, but 59 came"):
        plots.prior_predictive(predictive, x[1:])
    with pytest.raises(ValueError, match="x must be finite, but 1 of 60 entries are NaN"):
        plots.prior_predictive(predictive, np.where(x == x[3], np.nan, x))
    with pytest.raises(ValueError, match="output must be a number from 0 to 0, but 1 came"):
        plots.prior_predictive(predictive, x, output=1)
    with pytest.raises(ValueError, match=r"level must be a probability with 0 < level < 1, but 1\.5 came"):
        plots.prior_predictive(predictive, x, level=1.5)
    with pytest.raises(ValueError, match="the most that is drawn must be a whole number >= 1, but 0 came"):
        plots.prior_predictive(predictive, x, num_lines=0)
