"""Scores where draws, tails and units are unkind."""

import importlib
import math
import re

import numpy as np
import pytest
import torch
from torch import nn

import bayesreg as br
from bayesreg.comparison import paired_difference
from bayesreg.likelihoods import Categorical, Gaussian
from bayesreg.metrics import column, log_density_error, percent
from bayesreg.posteriors import Gaussian as GaussianPosterior
from bayesreg.predictive import NormalFunction, Predictive
from bayesreg.priors import Normal
from bayesreg.reports import comparison_table, findings
from tests.report_cases import compared, normal

HEAVY = {
    "one row of 40,000 nats": (torch.cat([torch.full((69,), 0.05), torch.tensor([-40_658.0])]), True),
    "one row against all others": (torch.cat([torch.full((199,), -0.1), torch.tensor([900.0])]), True),
    "Cauchy": (torch.distributions.Cauchy(0.0, 1.0).icdf((torch.arange(400) + 0.5) / 400), True),
    "normal": (torch.distributions.Normal(0.0, 1.0).icdf((torch.arange(400) + 0.5) / 400), False),
    "a wider predictive": (1.0 - torch.distributions.Normal(0.0, 1.0).icdf((torch.arange(400) + 0.5) / 400).square(), False),
    "all alike": (torch.full((50,), -0.1), False),
    "no difference": (torch.zeros(50), False),
    "three rows": (torch.tensor([0.0, 0.0, -100.0]), False),
    "one row": (torch.tensor([-100.0]), False),
}


@pytest.mark.parametrize(("rows", "heavy"), HEAVY.values(), ids=HEAVY)
def test_a_difference_that_a_few_rows_make_is_heavy_tailed(rows, heavy):
    found = paired_difference(rows, torch.zeros(len(rows)))
    assert found.heavy_tailed == heavy
    assert found.median == pytest.approx(float(rows.double().quantile(0.5)), abs=1e-12)
    assert (found.num_better, found.num_worse) == (int((rows > 0).sum()), int((rows < 0).sum()))
    again = paired_difference(1e150 * rows.double(), torch.zeros(len(rows)))
    assert again.heavy_tailed == heavy


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_normal_differences_are_never_heavy_tailed_and_lognormal_ones_of_sd_3_are(seed):
    generator = torch.Generator().manual_seed(seed)
    for n in (10, 50, 200):
        rows = torch.randn(300, n, generator=generator)
        zero = torch.zeros(n)
        assert sum(paired_difference(r, zero).heavy_tailed for r in rows) <= 1
    rows = torch.randn(100, 200, generator=generator).mul(3).exp()
    assert sum(paired_difference(-r, torch.zeros(200)).heavy_tailed for r in rows) > 80


def test_the_sign_test_is_the_binomial_one():
    rows = torch.cat([torch.full((15,), 1.0), torch.full((5,), -1e6), torch.zeros(4)])
    found = paired_difference(rows, torch.zeros(24))
    assert found.share == 0.75
    assert found.sign_test == pytest.approx(2 * sum(math.comb(20, k) for k in range(6)) / 2**20, rel=1e-9)
    assert paired_difference(torch.zeros(3), torch.zeros(3)).sign_test == 1.0
    assert math.isnan(paired_difference(torch.zeros(3), torch.zeros(3)).share)


def test_monte_carlo_error_is_added_in_quadrature():
    rows = torch.tensor([0.0, 2.0, 4.0])
    alone, both = paired_difference(rows, torch.zeros(3)), paired_difference(rows, torch.zeros(3), 8.0)
    assert both.sum_se == pytest.approx(math.hypot(alone.sum_se, 8.0), rel=1e-12)
    assert both.mean_se == pytest.approx(both.sum_se / 3, rel=1e-12)
    assert both.sum == alone.sum


# ── Monte Carlo error ──


def linear(ratio, N, S, seed, pairs=False, D=5):
    """y = x·w + ε, w ~ N(0, τ²), noise sd 1: a predictive of draws, targets, and the log density that is true."""
    generator = torch.Generator().manual_seed(seed)
    options = {"generator": generator, "dtype": torch.float64}
    tau = ratio / math.sqrt(D)
    x = torch.randn(N, D, **options)
    y = x @ (tau * torch.randn(D, **options)) + torch.randn(N, **options)
    half = tau * torch.randn(S // 2 if pairs else S, D, **options)
    w = torch.cat([half, -half]) if pairs else half
    truth = torch.distributions.Normal(0.0, (1 + tau**2 * x.square().sum(1)).sqrt()).log_prob(y)
    return Predictive(Gaussian(), w @ x.mT, {"noise_scale": torch.ones(len(w), 1)}), y, float(truth.sum())


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize(
    ("ratio", "S"),
    [(3.0, 1000), (70.0, 1000), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((0.3, 500), (20.0, 1000)))],
)
def test_the_monte_carlo_error_covers_what_the_score_is_off_by(ratio, S, pairs):
    """At ratio 70 some rows have no draw within many noise sds, and the density is off by dozens of nats."""
    off = []  # in errors
    for seed in range(100):
        predictive, y, truth = linear(ratio, 60, S, seed, pairs)
        error = log_density_error(predictive, y)
        off.append(abs(float(predictive.log_prob(y).sum()) - truth) / error.error)
        assert error.num_samples == S
    assert sum(value <= 3 for value in off) >= 95
    if ratio < 1:  # neither is it too large: half of its size is often not enough
        assert 0.75 < math.sqrt(sum(value**2 for value in off) / 100) < 1.25


def test_pairs_of_draws_are_not_taken_for_independent():
    """Where the function is all that is unknown a pair cancels, and the error is far below that of as many single draws."""
    single, paired = (log_density_error(*linear(0.05, 60, 1000, 0, pairs)[:2]) for pairs in (False, True))
    assert paired.error < 0.3 * single.error


def test_draws_of_one_seed_move_together():
    predictive, y, _ = linear(1.0, 60, 1000, 0)
    wider = Predictive(Gaussian(), predictive.output, {"noise_scale": torch.full((1000, 1), 1.1)})
    other = linear(1.0, 60, 1000, 1)[0]
    a, b, c = (log_density_error(p, y) for p in (predictive, wider, other))
    assert a.against(a) < 0.2 * a.error
    assert a.against(b) < 0.3 * math.hypot(a.error, b.error)
    assert a.against(c) == pytest.approx(math.hypot(a.spread, c.spread), rel=0.3)
    fewer = log_density_error(linear(1.0, 60, 500, 2)[0], y)
    assert a.against(fewer) >= math.hypot(a.spread, fewer.spread)


def test_modes_and_closed_forms_have_none():
    one = Predictive(Gaussian(), torch.zeros(1, 3), {"noise_scale": torch.ones(1, 1)})
    assert log_density_error(one, torch.zeros(3)).error == 0.0
    closed = Predictive(
        Gaussian(),
        torch.zeros(5, 3),
        {"noise_scale": torch.ones(5, 1)},
        NormalFunction(torch.zeros(1, 3), torch.ones(3), torch.ones(1, 1), torch.ones(1)),
    )
    assert log_density_error(closed, torch.zeros(3)).error == 0.0


@pytest.mark.parametrize("kind", ["classes", "outputs", "noise by row"])
def test_other_kinds_have_an_error_too(kind):
    draws = torch.randn(400, 30, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    likelihood = {"classes": Categorical(), "outputs": Gaussian(1.0), "noise by row": Gaussian("heteroscedastic")}[kind]
    noise = {"noise_scale": torch.ones(400, 1, 1)} if kind == "outputs" else {}
    y = {"classes": torch.zeros(30), "outputs": torch.zeros(30, 4), "noise by row": torch.zeros(30, 2)}[kind]
    whole = Predictive(likelihood, draws, noise)
    parts = [Predictive(likelihood, draws[i::20], {n: v[i::20] for n, v in noise.items()}) for i in range(20)]
    sums = torch.tensor([float(part.log_prob(y).sum()) for part in parts], dtype=torch.float64)
    assert log_density_error(whole, y).spread == pytest.approx(float(sums.std()) / math.sqrt(20), rel=0.5)


# ── comparisons ──


def conjugate(seed, noise, ratio=70.0, N=5, T=200, D=20):
    """Training and test rows where the function is known to 70 noise sds, models with the true noise and another, truth."""
    generator = torch.Generator().manual_seed(seed)
    options = {"generator": generator, "dtype": torch.float64}
    tau = ratio * noise / math.sqrt(D)
    x = torch.randn(N + T, D, **options)
    y = x @ (tau * torch.randn(D, **options)) + noise * torch.randn(N + T, **options)
    models, truth = {}, {}
    for name, sigma in (("true", noise), ("wrong", 33 * noise)):
        models[name] = br.BayesianModel(nn.Linear(D, 1, bias=False).double(), Normal(tau), Gaussian(sigma))
        covariance = torch.linalg.inv(x[:N].mT @ x[:N] / sigma**2 + torch.eye(D, dtype=torch.float64) / tau**2)
        mean = x[N:] @ covariance @ x[:N].mT @ y[:N] / sigma**2
        sd = ((x[N:] @ covariance * x[N:]).sum(1) + sigma**2).sqrt()
        truth[name] = float(torch.distributions.Normal(mean, sd).log_prob(y[N:]).sum())
    return (x[:N], y[:N]), (x[N:], y[N:]), models, truth


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
@pytest.mark.parametrize("method", ["exact", "laplace"])
def test_a_function_known_to_seventy_noise_sds_is_scored_without_error(method, seed):
    train, test, models, truth = conjugate(seed, 0.1)
    found = br.compare({n: br.fit(m, *train, method=method, progress=False) for n, m in models.items()}, *test)
    assert found.best == max(truth, key=lambda name: truth[name])
    for name, value in truth.items():
        assert 200 * found.scores[name]["mlpd"] == pytest.approx(value, abs=1e-4)
        assert found.errors[name].error == 0.0
    worse = min(truth, key=lambda name: truth[name])
    assert found.differences[worse].sum == pytest.approx(-abs(truth["true"] - truth["wrong"]), abs=1e-3)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
@pytest.mark.parametrize("ratio", [3.0, 70.0])
def test_draws_are_raised_until_their_error_does_not_matter_or_it_is_said(ratio, seed, monkeypatch):
    """The same posteriors by draws alone, as of a network that has no closed form."""
    monkeypatch.setattr(GaussianPosterior, "_normal", lambda self: None)
    monkeypatch.setattr(importlib.import_module("bayesreg.comparison"), "_ENTRIES", 2**18)
    train, test, models, truth = conjugate(seed, 0.1, ratio, T=50)
    posteriors = {n: br.fit(m, *train, method="exact", progress=False) for n, m in models.items()}
    found = br.compare(posteriors, *test)
    assert ratio < 10 or max(p.num_samples for p in found.predictives.values()) > 1000
    (other,) = (d for name, d in found.differences.items() if name != found.best)
    said = [note for note in found.notes if "draws" in note]
    assert other.monte_carlo <= 0.1 * other.sampling_se or said
    for name, value in truth.items():
        assert abs(50 * found.scores[name]["mlpd"] - value) <= 3.5 * found.errors[name].error
    assert other.sum_se == pytest.approx(math.hypot(other.sampling_se, other.monte_carlo), rel=1e-9)
    fixed = br.compare(posteriors, *test, num_samples=100)
    assert {p.num_samples for p in fixed.predictives.values()} == {100}
    assert "its log density rests on 100 draws and may be off by" in str(fixed)
    plain = fixed.to_dict()["posteriors"]["true"]
    assert (plain["num_samples"], plain["closed_form"]) == (100, False)
    assert plain["monte_carlo_error"] == fixed.errors["true"].error


def test_draws_of_ordinary_fits_are_not_raised():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, 2, generator=generator)
    y = x.sin().sum(1) + 0.3 * torch.randn(200, generator=generator).clamp(-2, 2)  # no row that few draws carry
    net = nn.Sequential(nn.Linear(2, 5), nn.Tanh(), nn.Linear(5, 1))
    model = br.BayesianModel(net, Normal(1.0), Gaussian(0.3))
    mode = br.fit(model, x[:100], y[:100], method="map", progress=False)
    field = br.fit(model, x[:100], y[:100], method=br.inference.MeanField(num_steps=300), progress=False)
    found = br.compare({"MAP": mode, "mean-field": field}, x[100:], y[100:])
    assert found.predictives["mean-field"].num_samples <= 8000
    assert found.predictives["mean-field"].function is None
    assert "draws" not in str(found)


# ── how it is said ──


def test_one_collapsed_posterior_does_not_cost_the_others_their_digits():
    y = np.random.default_rng(0).normal(size=70)
    y[0] = 30.0
    made = {"collapsed": normal(np.zeros(70), 0.005), "a": normal(np.zeros(70), 4.0), "b": normal(np.zeros(70), 4.02)}
    found = compared(made, y)
    text = str(found)
    for name in ("a", "b"):
        assert f"{found.scores[name]['mlpd']:.3f}" in next(line for line in text.split("\n") if line.startswith(name))
    cells = {row[0]: row[1]["text"] for row in comparison_table(found, findings(found, y))["rows"]}
    assert cells["a"] == f"{found.scores['a']['mlpd']:.3f}".replace("-", "−")
    assert re.fullmatch(r"−[\d,]+", cells["collapsed"])
    assert "collapsed: a few rows make its Δ, and ± says little; in the median row it is" in text
    assert f"and collapsed is better than {found.best} on {percent(found.differences['collapsed'].share)} of the rows." in text
    assert found.notes == found.to_dict()["notes"]


COLUMNS = {
    "huge": ([-33018.0, -2.7182, -2.6999], ["−33,018.0", "−2.72", "−2.70"]),
    "tiny": ([3.14159, 2.71828, 2e-7], ["3.14", "2.72", "2.0 × 10⁻⁷"]),
    "both": ([1e12, 0.5, 1e-12], ["1.0 × 10¹²", "0.500", "1.0 × 10⁻¹²"]),
    "not a number": ([math.nan, 0.5, None, math.inf, -math.inf], ["–", "0.500", "–", "∞", "−∞"]),
    "zeros": ([0.0, -0.0], ["0", "−0"]),
    "ordinary": ([0.0123, 0.456, 12.5], ["0.0123", "0.4560", "12.5000"]),
}


@pytest.mark.parametrize(("values", "texts"), COLUMNS.values(), ids=COLUMNS)
def test_no_number_of_a_column_costs_another_its_digits(values, texts):
    assert column(values) == texts
