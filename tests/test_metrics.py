"""Metrics against closed forms, SciPy, scikit-learn, examples by hand and what must hold of a calibrated predictive."""

import json
import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from sklearn import metrics as peers

from bayesreg import metrics
from bayesreg.likelihoods import Bernoulli, Categorical, Gaussian
from bayesreg.metrics import Coverage, Scores, evaluate
from bayesreg.predictive import Predictive

SEEDS = (0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2)))
REGRESSION = ("rmse", "r2", "mae", "crps", "interval_score", "coverage", "pit", "calibration_error")
CLASSES = ("accuracy", "brier", "ece")


def normal(loc, scale=1.0):
    """One component N(loc, scale²), a row an entry of `loc`."""
    return Predictive(Gaussian(), torch.as_tensor(loc, dtype=torch.float64)[None], {"noise_scale": torch.tensor(scale)})


def mixture(seed=0, S=20, N=400, K=None, spread=1.0):
    """A mixture, and y drawn from it row by row by NumPy."""
    rng = np.random.default_rng(seed)
    shape = (S, N) if K is None else (S, N, K)
    output = rng.normal(size=shape[1:]) * 3 + spread * rng.normal(size=shape)
    scale = rng.uniform(0.5, 1.5, size=(S,) + (1,) * (len(shape) - 1))
    chosen = rng.integers(S, size=shape[1:])
    y = np.take_along_axis(output, chosen[None], 0)[0] + scale.reshape(-1)[chosen] * rng.normal(size=shape[1:])
    return Predictive(Gaussian(), torch.tensor(output), {"noise_scale": torch.tensor(scale)}), y


def binary(p):
    return Predictive(Bernoulli(), torch.tensor(p, dtype=torch.float64).logit()[None])


def multiclass(p):
    return Predictive(Categorical(), torch.tensor(p, dtype=torch.float64).log()[None])


# ── points and densities ──


def test_rmse_and_mae_are_of_the_mean_over_all_entries():
    predictive, y = mixture(K=3)
    mean = predictive.mean.numpy()
    assert metrics.rmse(predictive, y) == pytest.approx(peers.root_mean_squared_error(y.ravel(), mean.ravel()), rel=1e-12)
    assert metrics.mae(predictive, y) == pytest.approx(np.abs(y - mean).mean(), rel=1e-12)


def test_mlpd_is_joint_over_outputs_and_minus_the_log_loss_for_classes():
    loc = np.array([[0.0, 1.0], [2.0, -1.0]])
    y = np.array([[0.5, 0.5], [2.5, 1.0]])
    assert metrics.mlpd(normal(loc), y) == pytest.approx(stats.norm(loc).logpdf(y).sum() / 2, rel=1e-12)
    p, labels = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]]), [0, 1]
    assert metrics.mlpd(multiclass(p), labels) == pytest.approx(-peers.log_loss(labels, p, labels=[0, 1, 2]), rel=1e-12)
    ones = [1, 0]
    assert metrics.mlpd(binary([0.7, 0.4]), ones) == pytest.approx(-peers.log_loss(ones, [0.7, 0.4]), rel=1e-12)


def test_log_density_carries_the_unit_of_y():
    """In a unit 100 times smaller, numbers are 100 times larger and densities 100 times smaller."""
    predictive, y = mixture()
    scaled = Predictive(Gaussian(), 100 * predictive.output, {"noise_scale": 100 * predictive.noise["noise_scale"]})
    assert metrics.mlpd(scaled, 100 * y) == pytest.approx(metrics.mlpd(predictive, y) - math.log(100), rel=1e-10)
    assert metrics.calibration_error(scaled, 100 * y) == pytest.approx(metrics.calibration_error(predictive, y))


# ── CRPS ──


def gaussian_crps(z):
    """Of N(0, 1) at z (Gneiting and Raftery 2007, equation 21)."""
    return z * (2 * stats.norm.cdf(z) - 1) + 2 * stats.norm.pdf(z) - 1 / math.sqrt(math.pi)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("num_samples", [2, 5, 1000])
def test_crps_of_a_gaussian_is_unbiased_for_any_number_of_draws(num_samples, seed):
    """With two draws an unfair estimator would be 0.56 too high, forty times the tolerance."""
    rows = 400_000 // num_samples
    z = np.linspace(-2, 2, rows)
    found = metrics.crps(normal(3 + 2 * z, 2.0), np.full(rows, 3.0), num_samples=num_samples, seed=seed)
    assert found == pytest.approx(2 * gaussian_crps(z).mean(), abs=4.5 * 2 / math.sqrt(400_000))


@pytest.mark.parametrize("seed", SEEDS)
def test_crps_of_a_mixture_is_the_integral_of_the_squared_cdf(seed):
    predictive, y = mixture(seed, S=4, N=3, spread=2.0)
    truth = []
    for row in range(3):
        part = stats.norm(predictive.output[:, row].numpy(), predictive.noise["noise_scale"][:, 0].numpy())
        below = integrate.quad(lambda z, part=part: part.cdf(z).mean() ** 2, -40, y[row], limit=200)[0]
        above = integrate.quad(lambda z, part=part: part.sf(z).mean() ** 2, y[row], 40, limit=200)[0]
        truth.append(below + above)
    assert metrics.crps(predictive, y) == pytest.approx(np.mean(truth), rel=1e-6)
    n = 100_000
    found = metrics.crps(predictive, y, num_samples=n, seed=seed)
    assert found == pytest.approx(np.mean(truth), abs=4.5 * float(predictive.std.max()) / math.sqrt(3 * n))


def test_crps_by_sorting_is_the_double_sum_over_pairs():
    predictive, y = mixture(N=6, K=2)
    draws = predictive.sample(40, seed=9).numpy()
    pairs = np.abs(draws[:, None] - draws[None]).sum((0, 1)) / (2 * 40 * 39)
    assert metrics.crps(predictive, y, num_samples=40, seed=9) == pytest.approx(
        (np.abs(draws - y).mean(0) - pairs).mean(), rel=1e-12
    )


def test_crps_of_a_point_is_the_absolute_error_and_the_seed_decides():
    sharp = normal([0.0, 1.0], 1e-9)
    assert metrics.crps(sharp, [2.0, -3.0]) == pytest.approx(3.0, abs=1e-8)
    predictive, y = mixture()
    drawn = [metrics.crps(predictive, y, num_samples=1000, seed=seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    with pytest.raises(ValueError, match="num_samples must be at least 2"):
        metrics.crps(predictive, y, num_samples=1)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("score", ["crps", "interval_score"])
def test_the_truth_has_the_best_score(score, seed):
    predictive, y = mixture(seed, N=2000)
    best = getattr(metrics, score)(predictive, y)
    for factor, shift in ((2.5, 0.0), (0.4, 0.0), (1.0, 1.0)):
        wrong = Predictive(
            Gaussian(),
            predictive.mean + factor * (predictive.output - predictive.mean) + shift,
            {"noise_scale": factor * predictive.noise["noise_scale"]},
        )
        assert getattr(metrics, score)(wrong, y) > best


# ── intervals ──


def test_interval_score_by_hand():
    z = stats.norm.ppf(0.9)  # the central 80 % interval is (−z, z), and 2/α is 10
    y = [0.0, 3.0, -2.0]
    wanted = 2 * z + 10 * ((3 - z) + (2 - z)) / 3
    assert metrics.interval_score(normal([0.0, 0.0, 0.0]), y, 0.8) == pytest.approx(wanted, rel=1e-9)
    assert metrics.mean_width(normal([0.0, 5.0], 3.0), 0.8) == pytest.approx(6 * z, rel=1e-7)


def test_interval_score_is_the_pinball_loss_of_both_ends():
    predictive, y = mixture(K=2)
    lower, upper = (end.numpy().ravel() for end in predictive.interval(0.9))
    pinball = peers.mean_pinball_loss(y.ravel(), lower, alpha=0.05) + peers.mean_pinball_loss(y.ravel(), upper, alpha=0.95)
    assert metrics.interval_score(predictive, y, 0.9) == pytest.approx(2 / 0.1 * pinball, rel=1e-9)


@pytest.mark.parametrize(("hits", "n"), [(0, 5), (5, 5), (3, 7), (88, 100)])
def test_coverage_counts_and_has_the_wilson_interval(hits, n):
    y = np.where(np.arange(n) < hits, 0.1, 9.0)
    found = metrics.coverage(normal(np.zeros(n)), y, 0.9)
    wilson = stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert (found.level, found.hits, found.num_data, found.rate) == (0.9, hits, n, hits / n)
    assert (found.lower, found.upper) == pytest.approx((wilson.low, wilson.high), abs=1e-12)
    tails = stats.binom.cdf(found.hits, found.num_data, 0.9), stats.binom.sf(found.hits - 1, found.num_data, 0.9)
    assert found.consistent == (min(tails) >= 0.025)


def test_coverage_is_what_the_interval_holds():
    predictive, y = mixture(K=2)
    for level in (0.5, 0.95):
        lower, upper = (end.numpy() for end in predictive.interval(level))
        assert metrics.coverage(predictive, y, level).hits == int(((lower <= y) & (y <= upper)).sum())
    with pytest.raises(ValueError, match="level must be a probability with 0 < level < 1, but 95 came"):
        metrics.coverage(predictive, y, 95)


# ── calibration ──


@pytest.mark.parametrize("seed", SEEDS)
def test_pit_is_uniform_for_data_from_the_predictive_and_only_then(seed):
    predictive, y = mixture(seed, N=1000)
    assert stats.kstest(metrics.pit(predictive, y), "uniform").pvalue > 1e-3
    for level in metrics.LEVELS:
        assert metrics.coverage(predictive, y, level).rate == pytest.approx(
            level, abs=4 * math.sqrt(level * (1 - level) / 1000)
        )
    timid = Predictive(Gaussian(), predictive.output, {"noise_scale": 2 * predictive.noise["noise_scale"]})
    assert stats.kstest(metrics.pit(timid, y), "uniform").pvalue < 1e-6


def test_calibration_error_by_hand():
    levels = np.arange(1, 20) / 20
    at = stats.norm.ppf
    assert metrics.calibration_error(normal(np.zeros(4)), np.zeros(4)) == pytest.approx(0.5)  # all in every interval
    assert metrics.calibration_error(normal(np.zeros(4)), np.full(4, 9.0)) == pytest.approx(0.5)  # all in none
    u = np.array([0.1, 0.4, 0.55, 0.98])  # enter the central intervals at the levels 0.8, 0.2, 0.1, 0.96
    rates = np.array([np.mean(np.abs(2 * u - 1) <= p + 1e-12) for p in levels])
    found = metrics.calibration_error(normal(np.zeros(4)), at(u + 1e-9 * np.sign(0.5 - u)))
    assert found == pytest.approx(np.abs(rates - levels).mean(), abs=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_calibration_error_of_the_truth_is_the_noise_of_the_counts(seed):
    u = np.random.default_rng(seed).uniform(size=(40, 1000))
    found = [metrics.calibration_error(normal(np.zeros(1000)), stats.norm.ppf(row)) for row in u]
    assert np.mean(found) == pytest.approx(0.3 / math.sqrt(1000), rel=0.3)


# ── classes ──


def test_accuracy_and_its_ties():
    assert metrics.accuracy(binary([0.9, 0.2, 0.4, 0.7]), [1, 1, 0, 1]) == 0.75
    assert metrics.accuracy(binary([0.5]), [0]) == 1.0
    assert metrics.accuracy(binary([0.5]), [1]) == 0.0
    assert metrics.accuracy(multiclass([[0.4, 0.4, 0.2], [0.1, 0.2, 0.7]]), [0, 2]) == 1.0


def test_brier_has_two_forms():
    p, y = [0.9, 0.2, 0.6], [1, 0, 0]
    assert metrics.brier(binary(p), y) == pytest.approx(peers.brier_score_loss(y, p), rel=1e-12)
    both = multiclass([[1 - q, q] for q in p])
    assert metrics.brier(both, y) == pytest.approx(2 * metrics.brier(binary(p), y), rel=1e-12)
    assert metrics.brier(multiclass([[0.5, 0.3, 0.2]]), [1]) == pytest.approx(0.25 + 0.49 + 0.04, rel=1e-12)


def test_ece_by_hand():
    # bins of width 1/2: (0.1, 0.3 | y 0, 1) and (0.8, 0.9, 0.7 | y 1, 0, 1)
    p, y = [0.1, 0.3, 0.8, 0.9, 0.7], [0, 1, 1, 0, 1]
    wanted = (2 * abs(0.5 - 0.2) + 3 * abs(2 / 3 - 0.8)) / 5
    assert metrics.ece(binary(p), y, num_bins=2) == pytest.approx(wanted, rel=1e-12)
    # top classes 0.6 right, 0.9 wrong, 0.5 right: with 2 bins (0.5) and (0.6, 0.9)
    q = [[0.6, 0.3, 0.1], [0.05, 0.9, 0.05], [0.5, 0.25, 0.25]]
    wanted = (abs(1 - 0.5) + 2 * abs(0.5 - 0.75)) / 3
    assert metrics.ece(multiclass(q), [0, 2, 0], num_bins=2) == pytest.approx(wanted, rel=1e-9)
    assert metrics.ece(binary([0.3, 0.3]), [0, 1], num_bins=1) == pytest.approx(0.2)
    with pytest.raises(ValueError, match="num_bins must be a whole number >= 1, but 0 came"):
        metrics.ece(binary(p), y, num_bins=0)


@pytest.mark.parametrize("seed", SEEDS)
def test_ece_of_true_probabilities_is_small_and_of_overconfident_ones_not(seed):
    rng = np.random.default_rng(seed)
    p = rng.uniform(0.02, 0.98, size=20_000)
    y = rng.uniform(size=p.size) < p
    assert metrics.ece(binary(p), y) < 0.02
    logit = np.log(p / (1 - p))
    assert metrics.ece(binary(1 / (1 + np.exp(-3 * logit))), y) > 0.1


# ── what does not fit ──


@pytest.mark.parametrize("name", REGRESSION)
@pytest.mark.parametrize("predictive", [binary([0.5]), multiclass([[0.5, 0.5]])], ids=["binary", "multiclass"])
def test_metrics_of_numbers_refuse_classes(name, predictive):
    with pytest.raises(ValueError, match=f"{name} must be .* '{predictive.kind}' came; its metrics are mlpd, accuracy"):
        getattr(metrics, name)(predictive, [1])


@pytest.mark.parametrize("name", CLASSES)
def test_metrics_of_classes_refuse_numbers(name):
    with pytest.raises(ValueError, match=f"{name} must be .* 'regression' came; its metrics are mlpd, rmse, r2, mae, crps"):
        getattr(metrics, name)(normal([0.0]), [1.0])


def test_mean_width_refuses_classes():
    with pytest.raises(ValueError, match="mean_width must be asked of another kind"):
        metrics.mean_width(binary([0.5]))


@pytest.mark.parametrize("name", ["mlpd", *REGRESSION])
def test_wrong_length_and_nan_are_refused(name):
    metric = getattr(metrics, name)
    with pytest.raises(ValueError, match=r"y must have shape \(2,\) as the prediction has, but \(3,\) came"):
        metric(normal([0.0, 1.0]), [1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="y must be finite, but 1 of 2 entries are NaN"):
        metric(normal([0.0, 1.0]), [1.0, math.nan])


@pytest.mark.parametrize("name", ["mlpd", *CLASSES])
def test_wrong_length_and_wrong_labels_are_refused(name):
    metric = getattr(metrics, name)
    with pytest.raises(ValueError, match=r"y must have shape \(2,\) as the prediction has, but \(1,\) came"):
        metric(binary([0.5, 0.1]), [1])
    with pytest.raises(ValueError, match="Bernoulli needs targets 0 or 1"):
        metric(binary([0.5, 0.1]), [1, 2])
    with pytest.raises(ValueError, match="Categorical needs class numbers"):
        metric(multiclass([[0.5, 0.5]]), [-1])


# ── all of them ──


def test_evaluate_a_regression():
    predictive, y = mixture(K=2)
    scores = evaluate(predictive, y, seed=4)
    names = ["mlpd", "rmse", "r2", "mae", "crps", "interval_score", "mean_width", "calibration_error"]
    assert list(scores) == [*names, "coverage_50", "coverage_80", "coverage_90", "coverage_95"]
    for name in ("mlpd", "rmse", "r2", "mae", "interval_score", "calibration_error"):
        assert scores[name] == getattr(metrics, name)(predictive, y)
    assert scores["crps"] == metrics.crps(predictive, y, seed=4)
    assert scores["mean_width"] == metrics.mean_width(predictive)
    assert scores.coverages == tuple(metrics.coverage(predictive, y, level) for level in (0.5, 0.8, 0.9, 0.95))
    assert scores["coverage_90"] == scores.coverages[2].rate
    assert (scores.kind, scores.num_data, scores.coverages[0].num_data) == ("regression", 400, 800)


@pytest.mark.parametrize("predictive", [binary([0.7, 0.4]), multiclass([[0.5, 0.5], [0.2, 0.8]])], ids=["binary", "multi"])
def test_evaluate_classes(predictive):
    scores = evaluate(predictive, np.array([1, 1]))
    wanted = {n: getattr(metrics, n)(predictive, [1, 1]) for n in ("mlpd", "accuracy", "brier", "ece")}
    found = dict(scores)
    assert math.isnan(found.pop("auc", math.nan))  # of one class only; not asked of several
    assert found == wanted
    assert scores.coverages == ()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_explained_variance_and_the_area_under_the_curve_are_scikit_learns(seed):
    predictive, y = mixture(seed, K=2)
    assert metrics.r2(predictive, y) == pytest.approx(peers.r2_score(y, predictive.mean.numpy()), rel=1e-12)
    rng = np.random.default_rng(seed)
    p = rng.integers(1, 10, 200) / 10  # ties
    labels = (rng.uniform(size=200) < p).astype(int)
    assert metrics.auc(binary(p), labels) == pytest.approx(peers.roc_auc_score(labels, p), rel=1e-12)
    assert math.isnan(metrics.auc(binary([0.5, 0.1]), [1, 1]))
    with pytest.raises(ValueError, match="auc must be asked of two classes, but 3 came; take accuracy or mlpd"):
        metrics.auc(multiclass([[0.5, 0.25, 0.25]]), [1])
    with pytest.raises(ValueError, match="auc must be asked of another kind"):
        metrics.auc(normal([0.0]), [1.0])


def test_scores_go_to_json_and_back():
    predictive, y = mixture()
    found = evaluate(predictive, y).to_dict()
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["metrics"]["rmse"] == metrics.rmse(predictive, y)
    assert Coverage(**found["coverages"][3]).level == 0.95
    assert Scores("regression", 1, {"mlpd": -math.inf, "rmse": math.nan}).to_dict()["metrics"] == {
        "mlpd": None,
        "rmse": None,
    }


def test_arrays_and_tensors_score_alike_and_no_random_state_is_touched():
    predictive, y = mixture()
    before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
    assert evaluate(predictive, y) == evaluate(predictive, torch.tensor(y)) == evaluate(predictive, y.tolist())
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)


# ── Monte Carlo error ──


@pytest.mark.parametrize("seed", SEEDS)
def test_every_score_says_its_monte_carlo_error(seed):
    """It is the spread over independent sets of draws: each of 30 predictives of 400 draws of one and the same posterior."""
    generator = torch.Generator().manual_seed(seed)
    loc, step = torch.randn(2, 50, generator=generator, dtype=torch.float64)
    y = loc + step + torch.randn(50, generator=generator, dtype=torch.float64)
    found = []
    for _ in range(30):
        draws = torch.randn(400, 1, generator=generator, dtype=torch.float64)
        noise = {"noise_scale": torch.rand(400, 1, generator=generator, dtype=torch.float64) + 0.5}
        found.append(evaluate(Predictive(Gaussian(), loc + draws * step, noise), y, seed=int(draws[0].abs() * 1e6)))
    assert set(found[0].errors) == set(found[0])
    for name in ("mlpd", "rmse", "mae", "crps", "interval_score", "mean_width", "calibration_error", "coverage_50"):
        spread = np.std([scores[name] for scores in found], ddof=1)
        said = np.sqrt(np.mean([scores.errors[name] ** 2 for scores in found]))
        assert 0.6 * spread < said < 1.9 * spread, name


def test_a_mode_and_classes_say_theirs_too():
    assert set(evaluate(normal([0.0, 1.0], 1.0), [0.5, 0.5]).errors.values()) == {0.0}
    logits = torch.randn(200, 30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores = evaluate(Predictive(Bernoulli(), logits), torch.arange(30) % 2)
    assert set(scores.errors) == set(scores) == set(scores.to_dict()["errors"])
    assert all(0 < scores.errors[name] < 0.1 for name in ("mlpd", "brier"))
    few = evaluate(Predictive(Bernoulli(), logits[:3]), torch.ones(30))
    assert math.isnan(few.errors["brier"])
    assert few.to_dict()["errors"]["brier"] is None
