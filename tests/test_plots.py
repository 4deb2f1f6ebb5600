"""Figures must draw the numbers that the metrics give, leave no setting changed, and be the same wherever they are drawn."""

import math
import re
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scipy import stats
from torch import nn

from bayesreg import metrics, plots
from bayesreg._text import number
from bayesreg.certificates import Certificate
from bayesreg.comparison import compare
from bayesreg.likelihoods import Bernoulli, Categorical, Gaussian
from bayesreg.metrics import readings as _readings
from bayesreg.model import BayesianModel
from bayesreg.posteriors import Dirac, Draws, FitRecord
from bayesreg.predictive import Predictive
from bayesreg.reports import THEME, inline
from bayesreg.solvers import History

SEEDS = (0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2)))


def mixture(seed=0, S=20, N=150, K=None):
    """A mixture, and y drawn from it."""
    rng = np.random.default_rng(seed)
    shape = (S, N) if K is None else (S, N, K)
    output = 3 * rng.normal(size=shape[1:]) + rng.normal(size=shape) * rng.uniform(0.1, 1.5, size=shape[1:])
    predictive = Predictive(Gaussian(), torch.tensor(output), {"noise_scale": torch.full((S,) + (1,) * len(shape[1:]), 0.7)})
    return predictive, predictive.sample(1, seed=seed)[0].numpy()


def classes(kind, seed=0, N=200):
    rng = np.random.default_rng(seed)
    shape = (15, N) if kind == "binary" else (15, N, 4)
    logits = 2 * rng.normal(size=shape[1:]) + 0.6 * rng.normal(size=shape)
    predictive = Predictive(Bernoulli() if kind == "binary" else Categorical(), torch.tensor(logits))
    return predictive, predictive.sample(1, seed=seed)[0].numpy()


def fits():
    """A mode and draws about it, of one linear model."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 30))
    y = x[:, 0] + 0.5 * rng.normal(size=60)
    model = BayesianModel(nn.Linear(30, 1).double(), likelihood=Gaussian()).bind(x, y)
    point = torch.tensor(rng.normal(size=32))
    history = History(steps=list(range(20)), objective=[-900.0, *(-90.0 + 0.5 * i for i in range(19))])
    record = FitRecord("map", 0, history, Certificate.checked(True, "as made"), 0.1)
    noise = torch.tensor(rng.normal(size=(300, 32)))
    return {"mode": Dirac(model, record, point), "draws": Draws(model, record, point + 0.1 * noise)}, x, y


@pytest.fixture(scope="module")
def compared():
    posteriors, x, y = fits()
    return compare(posteriors, x, y, num_samples=50), y


def everything(compared):
    """One of each figure."""
    (predictive, y), (binary, labels), (several, numbers) = mixture(), classes("binary"), classes("multiclass")
    posteriors = fits()[0]
    comparison, target = compared
    return {
        "history": plots.history(posteriors["mode"]),
        "coverage": plots.coverage(comparison, target),
        "coverage levels": plots.coverage(comparison),
        "pit": plots.pit(predictive, y),
        "reliability": plots.reliability(binary, labels),
        "reliability several": plots.reliability(several, numbers),
        "parts": plots.variance_parts(predictive),
        "predictions": plots.predictions(predictive, y),
        "predictions binary": plots.predictions(binary, labels),
        "predictions several": plots.predictions(several, numbers),
        "parameters": plots.parameters(posteriors["mode"], posteriors["draws"], "weight"),
    }


# ── what is drawn ──


def test_history_is_the_recorded_objective():
    mode = fits()[0]["mode"]
    axes = plots.history(mode).axes[0]
    assert axes.lines[0].get_ydata().tolist() == mode.history.objective
    assert axes.get_ylabel() == "log joint (nats)"
    assert axes.get_ylim()[0] > -900  # the far-off start is cut, and said
    assert axes.texts[0].get_text() == "starts at −900"


def test_coverage_lines_are_the_metric_at_every_level(compared):
    comparison, y = compared
    axes = plots.coverage(comparison, y).axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    for name, predictive in comparison.predictives.items():
        wanted = [metrics.coverage(predictive, y, level).rate for level in _readings.LEVELS]
        np.testing.assert_allclose(lines[name].get_ydata(), wanted, atol=1e-12)
    four = plots.coverage(comparison).axes[0]
    drawn = [line.get_ydata().tolist() for line in four.lines if len(line.get_ydata()) == 4]
    assert [c.rate for c in comparison.scores["mode"].coverages] in drawn


def test_pit_bars_are_shares_of_the_pit_values():
    for K in (None, 2):
        predictive, y = mixture(K=K)
        bars = [bar.get_height() for bar in plots.pit(predictive, y, num_bins=8).axes[0].patches]
        u = metrics.pit(predictive, y).numpy().ravel()
        np.testing.assert_allclose(bars, np.histogram(u, 8, (0, 1))[0] / u.size)
        assert sum(bars) == pytest.approx(1)


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
@pytest.mark.parametrize("seed", SEEDS)
def test_reliability_bins_make_up_the_expected_calibration_error(kind, seed):
    predictive, y = classes(kind, seed)
    stated, observed, count = _readings.reliability_bins(predictive, y, 15)
    assert (count * np.abs(stated - observed)).sum() / count.sum() == pytest.approx(metrics.ece(predictive, y), rel=1e-9)
    drawn = plots.reliability(predictive, y, num_bins=15).axes[0].collections[-1].get_offsets()
    np.testing.assert_allclose(drawn, np.stack([stated, observed], 1))


@pytest.mark.parametrize("N", [7, 150])
def test_variance_parts_keep_the_totals(N):
    predictive, _ = mixture(N=N, K=3)
    for k in range(3):
        noise, total, _line = (p.get_data() for p in plots.variance_parts(predictive, output=k).axes[0].patches)
        width = np.diff(noise.edges)
        assert (noise.values * width).sum() == pytest.approx(float(predictive.aleatoric_variance[:, k].mean()), rel=1e-9)
        assert (total.values * width).sum() == pytest.approx(float(predictive.variance[:, k].mean()), rel=1e-9)
        assert (np.diff(total.values) >= 0).all()


def test_variance_of_classes_is_summed_over_them():
    predictive, _ = classes("multiclass")
    aleatoric, epistemic = _readings.variance_rows(predictive)
    gini = 1 - predictive.mean.square().sum(-1)  # variance of a one-hot vector, summed
    np.testing.assert_allclose(aleatoric + epistemic, gini, rtol=1e-9)


def test_predictions_draw_the_intervals_and_cross_out_what_lies_outside():
    predictive, y = mixture(N=80)
    axes = plots.predictions(predictive, y).axes[0]
    lower, upper = predictive.interval(0.95)
    order = predictive.mean.argsort()
    bars = axes.lines[0].get_ydata().reshape(-1, 3)
    np.testing.assert_allclose(bars[:, 0], lower[order])
    np.testing.assert_allclose(bars[:, 1], upper[order])
    crosses = next(line for line in axes.lines if line.get_label() == "outside")
    outside = (torch.tensor(y) < lower) | (torch.tensor(y) > upper)
    assert len(crosses.get_ydata()) == int(outside.sum()) > 0


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_predictions_of_classes_cross_out_the_wrong_ones(kind):
    predictive, y = classes(kind, N=90)
    axes = plots.predictions(predictive, y).axes[0]
    marks = {line.get_label(): len(line.get_ydata()) for line in axes.lines}
    assert marks["right"] == round(90 * metrics.accuracy(predictive, y))
    assert marks["right"] + marks["wrong"] == 90


def test_long_figures_are_thinned_out():
    predictive, y = mixture(N=900, S=4)
    axes = plots.predictions(predictive, y, max_rows=40).axes[0]
    assert len(axes.lines[0].get_ydata()) == 3 * 40
    posteriors = fits()[0]
    axes = plots.parameters(posteriors["mode"], posteriors["draws"], "weight", max_entries=12).axes[0]
    assert len(axes.lines[-1].get_ydata()) == 12


def test_parameters_are_mean_and_sd_against_the_mode():
    mode, draws = fits()[0].values()
    axes = plots.parameters(mode, draws, "weight").axes[0]
    x, mean = axes.lines[-1].get_xdata(), axes.lines[-1].get_ydata()
    np.testing.assert_allclose(x, mode.mean["weight"][0])
    np.testing.assert_allclose(mean, draws.mean["weight"][0])
    bars = axes.lines[-2].get_ydata().reshape(-1, 3)
    np.testing.assert_allclose(bars[:, 1] - bars[:, 0], 2 * draws.std["weight"][0])


# ── readings ──


@pytest.mark.parametrize(("hits", "count"), [(0, 5), (3, 10), (92, 92), (400, 1000)])
def test_wilson_is_that_of_the_metrics(hits, count):
    predictive = Predictive(Gaussian(1.0), torch.zeros(1, count), {"noise_scale": torch.ones(1, 1)})
    found = metrics.coverage(predictive, [0.0] * hits + [9.0] * (count - hits), 0.9)
    np.testing.assert_allclose(_readings.wilson(hits, count), (found.lower, found.upper), atol=1e-12)


@pytest.mark.parametrize("count", [1, 20, 500])
def test_binomial_band_holds_95_percent_level_by_level(count):
    levels = np.linspace(0.05, 0.95, 19)
    low, high = _readings.binomial_band(count, levels)
    inside = stats.binom.cdf(np.rint(high * count), count, levels) - stats.binom.cdf(np.rint(low * count) - 1, count, levels)
    assert (inside >= 0.95 - 1e-9).all()


def test_take_predicts_the_same_for_its_rows():
    for K in (None, 2):
        predictive, y = mixture(K=K)
        part = _readings.take(predictive, [4, 0, 77])
        torch.testing.assert_close(part.log_prob(y[[4, 0, 77]]), predictive.log_prob(y)[[4, 0, 77]])


def test_numbers_read_well():
    shown = {0: "0", 1234567.8: "1,234,568", -5.40: "−5.4", 0.00012345: "0.0001234", 4.2e11: "4.2 × 10¹¹", math.inf: "∞"}
    assert {value: number(value) for value in shown} == shown
    assert number(math.nan) == "–"


# ── manners ──


def test_no_setting_is_changed_and_the_persons_own_do_not_matter(compared):
    with mpl.rc_context({"font.size": 30, "axes.facecolor": "black", "lines.linewidth": 9, "text.usetex": False}):
        before = dict(mpl.rcParams)
        styled = {name: inline(figure, "f", "l") for name, figure in everything(compared).items()}
        assert dict(mpl.rcParams) == before
    before = dict(mpl.rcParams)
    plain = {name: inline(figure, "f", "l") for name, figure in everything(compared).items()}
    assert dict(mpl.rcParams) == before
    assert styled == plain


def test_matplotlib_loads_when_first_used_and_pyplot_never():
    code = (
        "import sys, torch, bayesreg.reports; from bayesreg import plots; from bayesreg.predictive import Predictive;"
        "from bayesreg.likelihoods import Gaussian;"
        "heavy = [m for m in ('matplotlib', 'jinja2', 'pandas') if m in sys.modules]; assert not heavy, heavy;"
        "p = Predictive(Gaussian(), torch.zeros(1, 9), {'noise_scale': torch.ones(1, 1)});"
        "f = plots.pit(p, torch.zeros(9)); assert 'matplotlib.pyplot' not in sys.modules; print(type(f).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "Figure", done.stderr


def test_figures_become_svg_that_follows_the_theme(compared):
    for name, figure in everything(compared).items():
        assert isinstance(figure, Figure)
        svg = inline(figure, "f7", "words")
        assert svg.startswith('<svg viewBox="0 0 340 240" role="img" aria-labelledby="words">')
        assert re.search(r"#[0-9a-f]{6}\b", svg) is None, name  # every colour is a variable
        assert set(re.findall(r"var\(--([a-z0-9-]+)\)", svg)) <= set(THEME)
        assert "<text" in svg
        assert not any(word in svg for word in ("font-family", "<style", "metadata", "http", "xlink", "<image", "\n"))
        ids = re.findall(r' id="([^"]+)"', svg)
        assert len(ids) == len(set(ids))
        assert all(found.startswith("f7-") for found in ids)
        assert set(re.findall(r'(?:url\(|href=")#([^")]+)', svg)) == set(ids)
        assert len(svg) < 40_000, name


def test_a_name_in_a_figure_is_text():
    posteriors, x, y = fits()
    comparison = compare({"<b>$x$&": posteriors["mode"], "名": posteriors["draws"]}, x, y, num_samples=5)
    svg = inline(plots.coverage(comparison, y), "f", "l")
    assert "&lt;b&gt;$x$&amp;" in svg
    assert "<b>" not in svg
    assert "名" in svg  # no warning either, though Matplotlib's font lacks it


def test_long_names_get_a_legend_of_more_rows_and_the_axes_keep_their_place():
    posteriors, x, y = fits()
    many = {f"posterior number {i}, with a long name": posteriors["mode"] for i in range(7)}
    svg = inline(plots.coverage(compare(many, x, y), y), "f", "l")  # would warn if no room were left for the axes
    assert svg.count("posterior number ") == 7
    height = float(svg.split('viewBox="0 0 340 ')[1].split('"')[0])
    assert height == pytest.approx(240 + 5 * 17, abs=1)


def test_no_legend_is_cut_or_leaves_its_figure():
    """The whole of each name, however many and long, inside the figure by the widths of the font it was laid out with."""
    posteriors, x, y = fits()
    long = "A name that says which prior, which likelihood, how many hidden layers of which width, and when, no. {}"
    many = compare({long.format(i): posteriors["mode"] for i in range(9)}, x, y)
    drawn = [plots.coverage(many, y), plots.variance_parts(many.predictives[long.format(0)]), plots.coverage(many)]
    drawn.append(plots.predictions(many.predictives[long.format(0)], y))
    for figure in drawn:
        figure.draw_without_rendering()
        (legend,) = figure.legends
        box, page = legend.get_window_extent(), figure.bbox
        assert box.x0 >= page.x0 - 1
        assert box.x1 <= page.x1 + 1
        assert box.y1 <= page.y1 + 1
        assert figure.axes[0].get_window_extent().height > 90
    said = [text.get_text().replace("\n", " ") for text in drawn[0].legends[0].get_texts()]
    assert said == [long.format(i) for i in range(9)]


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    r, g, b = (p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


@pytest.mark.parametrize("mode", [0, 1], ids=["light", "dark"])
def test_theme_has_contrast(mode):
    paper = luminance(THEME["paper"][mode])
    for name, pair in THEME.items():
        ratio = (max(paper, luminance(pair[mode])) + 0.05) / (min(paper, luminance(pair[mode])) + 0.05)
        if name in ("ink", "muted", "bad") or name.startswith("series"):
            assert ratio >= 4.5, name
        elif name == "epistemic":
            assert ratio >= 3, name
    assert len({pair[0] for pair in THEME.values()}) == len(THEME)  # one role a colour


# ── refusals ──


def test_refusals(compared):
    (predictive, y), (binary, labels) = mixture(K=2), classes("binary")
    posteriors = fits()[0]
    record = FitRecord("exact", 0, History(), Certificate.checked(True, "closed"), 0.1)
    with pytest.raises(ValueError, match="a history must have steps, but method 'exact' recorded none"):
        plots.history(Dirac(posteriors["mode"].model, record, posteriors["mode"].loc))
    with pytest.raises(ValueError, match="reliability must be asked of a classification, but a regression came"):
        plots.reliability(predictive, y)
    with pytest.raises(ValueError, match=r"cdf\(y\) must be asked of a regression"):
        plots.pit(binary, labels)
    with pytest.raises(ValueError, match="output must be a number from 0 to 1, but 2 came"):
        plots.variance_parts(predictive, output=2)
    with pytest.raises(ValueError, match="output must be a number from 0 to 1, but 5 came"):
        plots.predictions(predictive, y, output=5)
    with pytest.raises(ValueError, match="the most that is drawn must be a whole number >= 1, but 0 came"):
        plots.predictions(predictive, y, max_rows=0)
    with pytest.raises(ValueError, match="num_bins must be a whole number >= 1, but 0 came"):
        plots.pit(predictive, y, num_bins=0)
    with pytest.raises(
        ValueError, match="name must be one of 'weight', 'bias', 'noise_scale', but 'wieght' came; did you mean"
    ):
        plots.parameters(posteriors["mode"], posteriors["draws"], "wieght")
    comparison = compare({"p": _binary_posterior()}, np.zeros((4, 1)), [0, 1, 0, 1])
    with pytest.raises(ValueError, match="coverage must be drawn of a regression, but kind 'binary' came; draw reliability"):
        plots.coverage(comparison)


def _binary_posterior():
    x, y = np.zeros((4, 1)), np.array([0, 1, 0, 1])
    model = BayesianModel(nn.Linear(1, 1).double(), likelihood=Bernoulli()).bind(x, y)
    record = FitRecord("map", 0, History(), Certificate.checked(True, "as made"), 0.1)
    return Dirac(model, record, torch.zeros(2, dtype=torch.float64))
