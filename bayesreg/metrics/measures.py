"""Scores of a predictive distribution on observed data: pure functions of (predictive, y), y in the data's own units.

A score is proper when its expectation is best for the true distribution: the log density (`mlpd`), `crps`, `interval_score` and
`brier` are. `coverage`, `pit`, `calibration_error` and `ece` measure calibration, `mean_width` sharpness. With K outputs a
regression metric is the mean over all N·K entries; only `mlpd` takes the joint density of a row.

References:
    Brier (1950), Verification of forecasts expressed in terms of probability. Dawid (1984), Statistical theory: the
    prequential approach. Ferro (2014), Fair scores for ensemble forecasts. Gneiting and Raftery (2007), Strictly proper
    scoring rules, prediction, and estimation. Guo, Pleiss, Sun and Weinberger (2017), On calibration of modern neural
    networks. Kuleshov, Fenner and Ermon (2018), Accurate uncertainties for deep learning using calibrated regression.
    Wilson (1927), Probable inference, the law of succession, and statistical inference. Zamo and Naveau (2018),
    Estimation of the continuous ranked probability score with limited information.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.distributions import Normal

from bayesreg import _check
from bayesreg.likelihoods import AbstractLabels
from bayesreg.metrics.monte_carlo import batch_errors, interval_errors, log_density_error
from bayesreg.metrics.readings import wilson
from bayesreg.metrics.scores import Coverage, Scores
from bayesreg.metrics.scores import plain as plain
from bayesreg.predictive.mixture import Predictive, tails
from bayesreg.predictive.normal_function import crps_of_normals

LEVELS = (0.50, 0.80, 0.90, 0.95)
_FEW = 40  # with so few components, all pairs cost no more than a thousand draws
_REGRESSION = "mlpd, rmse, r2, mae, crps, interval_score, mean_width, coverage, pit, calibration_error"
_CLASSIFICATION = "mlpd, accuracy, brier, ece, auc"


def evaluate(predictive: Predictive, y: Any, *, seed: int = 0) -> Scores:
    """Every metric that fits the kind of the predictive.

    Args:
        predictive: The prediction for N rows.
        y: What was observed there: (N,) or (N, K), or class labels (N,).
        seed: Seed of the draws behind `crps`, the only metric that draws.

    Returns:
        The scores.

    Raises:
        ValueError: If y does not fit the predictive.

    >>> from bayesreg.likelihoods import Bernoulli
    >>> scores = evaluate(Predictive(Bernoulli(), torch.tensor([[2.0, -2.0]])), [1, 1])
    >>> {name: round(value, 3) for name, value in scores.items()}
    {'mlpd': -1.127, 'accuracy': 0.5, 'brier': 0.395, 'ece': 0.5, 'auc': nan}
    """
    y, seed = predictive.target(y), _check.seed(seed)
    errors = {"mlpd": log_density_error(predictive, y).error / predictive.num_rows}
    if predictive.likelihood.labels is not None:
        measures = (accuracy, brier, ece, *([auc] if predictive.mean.dim() == 1 else []))
        values = {metric.__name__: metric(predictive, y) for metric in (mlpd, *measures)}
        errors |= batch_errors(predictive, lambda part: {metric.__name__: metric(part, y) for metric in measures})
        return Scores(predictive.kind, predictive.num_rows, values, (), errors)
    u = pit(predictive, y)
    lower, upper = predictive.interval(0.95)
    coverages = tuple(_coverage(u, level) for level in LEVELS)

    def of_part(part: Predictive) -> dict[str, float]:
        u, draws = pit(part, y), None if _has_exact_crps(part) or part.num_samples == 1 else part.num_samples
        found = {metric.__name__: metric(part, y) for metric in (rmse, r2, mae)}
        found |= {"crps": crps(part, y, num_samples=draws, seed=seed), "calibration_error": _calibration_error(u)}
        return found | {f"coverage_{round(100 * level)}": _coverage(u, level).rate for level in LEVELS}

    errors |= batch_errors(predictive, of_part) | interval_errors(predictive, lower, upper, y, 0.95)
    values = {metric.__name__: metric(predictive, y) for metric in (mlpd, rmse, r2, mae)} | {
        "crps": crps(predictive, y, seed=seed),
        "interval_score": _interval_score(lower, upper, y, 0.95),
        "mean_width": _mean(upper - lower),
        "calibration_error": _calibration_error(u),
    }
    values |= {f"coverage_{round(100 * coverage.level)}": coverage.rate for coverage in coverages}
    return Scores(predictive.kind, predictive.num_rows, values, coverages, errors)


def mlpd(predictive: Predictive, y: Any) -> float:
    """Mean log predictive density: (1/N) Σᵢ log p(yᵢ | xᵢ, data), in nats a row; higher is better.

    For classes it is minus the log loss; with K outputs the density is the joint one of a row.

    Args:
        predictive: The prediction for N rows, of any kind.
        y: Targets (N,) or (N, K), or class labels (N,).

    Returns:
        The mean, in nats.

    Raises:
        ValueError: If y does not fit the predictive.

    >>> from bayesreg.likelihoods import Categorical
    >>> round(mlpd(Predictive(Categorical(), torch.zeros(1, 3, 4)), [0, 1, 3]), 6) == round(-math.log(4), 6)
    True
    """
    return _mean(predictive.log_prob(y))


def rmse(predictive: Predictive, y: Any) -> float:
    """Root mean squared error of the predictive mean: √((1/NK) Σ (y − E[y | x])²); lower is better.

    Args:
        predictive: A regression's prediction for N rows.
        y: Targets (N,) or (N, K).

    Returns:
        The error, in the units of y.

    Raises:
        ValueError: If this is no regression, or y does not fit.

    >>> from bayesreg.likelihoods import Gaussian
    >>> round(rmse(Predictive(Gaussian(), torch.zeros(1, 2), {"noise_scale": torch.ones(1, 1)}), [1.0, 7.0]), 6)
    5.0
    """
    return math.sqrt(_mean((_target("rmse", predictive, y) - predictive.mean).double().square()))


def r2(predictive: Predictive, y: Any) -> float:
    """Share of these targets' variance that the predictive mean explains; higher is better, below 0 worse than their mean.

        R² = 1 − Σ (y − E[y | x])² / Σ (y − ȳ)²,   for K outputs the mean of theirs

    Args:
        predictive: A regression's prediction for N rows.
        y: Targets (N,) or (N, K).

    Returns:
        The share, at most 1; NaN or −∞ where all targets are the same.

    Raises:
        ValueError: If this is no regression, or y does not fit.
    """
    y = _target("r2", predictive, y).double()
    left = (y - predictive.mean.double()).square().sum(0) / (y - y.mean(0)).square().sum(0)
    return _mean(1 - left)


def mae(predictive: Predictive, y: Any) -> float:
    """Mean absolute error of the predictive mean (not the median): (1/NK) Σ |y − E[y | x]|; lower is better.

    Args:
        predictive: A regression's prediction for N rows.
        y: Targets (N,) or (N, K).

    Returns:
        The error, in the units of y.

    Raises:
        ValueError: If this is no regression, or y does not fit.
    """
    return _mean((_target("mae", predictive, y) - predictive.mean).abs())


def crps(predictive: Predictive, y: Any, *, num_samples: int | None = None, seed: int = 0) -> float:
    """Continuous ranked probability score, ∫ (F(z) − 1{z >= y})² dz = E|Y − y| − ½ E|Y − Y′|; lower is better.

    Up to 40 components (a mode, a closed form) it is exact, see `normal_function.crps_of_normals`. For more, or where
    num_samples is given, it is estimated from n draws of each entry by the fair ("PWM", probability weighted moments)
    estimator, which does not depend on n in the mean; with the draws in order, d₍₁₎ <= … <= d₍ₙ₎:

        (1/n) Σᵢ |dᵢ − y|  −  1/(n(n−1)) Σᵢ (2i − n − 1) d₍ᵢ₎

    For a mode (S = 1) the draws are independent and the estimator is unbiased. For S components the draws take them in
    turn: with n a multiple of S the bias lies between −E|Y − Y′|/(2(n − 1)) and 0, below the Monte Carlo error.

    Args:
        predictive: A regression's prediction for N rows.
        y: Targets (N,) or (N, K).
        num_samples: n, at least 2; none, or the first multiple of S from 1000 on, when None.
        seed: Seed of the draws; the global random state is left as it was.

    Returns:
        The mean over all entries, in the units of y.

    Raises:
        ValueError: If this is no regression, y does not fit, or num_samples is less than 2.

    >>> from bayesreg.likelihoods import Gaussian
    >>> standard = Predictive(Gaussian(), torch.zeros(1, 1), {"noise_scale": torch.ones(1, 1)})
    >>> exact = (math.sqrt(2) - 1) / math.sqrt(math.pi)                    # of N(0, 1) at its centre
    >>> abs(crps(standard, [0.0], num_samples=100_000) - exact) < 0.01, abs(crps(standard, [0.0]) - exact) < 1e-6
    (True, True)
    """
    y, seed = _target("crps", predictive, y), _check.seed(seed)
    if num_samples is None and _has_exact_crps(predictive):
        return sum(float(_crps_rows(part, y[rows]).sum()) for rows, part in predictive.split()) / y.numel()
    number = predictive.num_samples * math.ceil(1000 / predictive.num_samples)
    number = number if num_samples is None else _check.count("num_samples", num_samples)
    _check.fits_memory("draws", number, 1, y)
    if number < 2:
        raise ValueError("num_samples must be at least 2, because draws are compared, but 1 came; pass for example 1000.")
    weight = (2 * torch.arange(1, number + 1, dtype=torch.float64, device=y.device) - number - 1) / (number - 1)
    total = 0.0
    for rows, part in predictive.split(number):
        draws = part.sample(number, seed=(seed + rows.start) % 2**64).double() - y[rows].double()  # about y: nothing cancels
        draws = draws.movedim(0, -1).contiguous()
        error = draws.abs().mean(-1)
        total += float((error - (draws.sort(-1).values @ weight) / number).sum())
    return total / y.numel()


def interval_score(predictive: Predictive, y: Any, level: float = 0.95) -> float:
    """Interval score of the central interval (l, u), α = 1 − level; lower is better.

        (u − l)  +  (2/α) max(l − y, 0)  +  (2/α) max(y − u, 0)

    Args:
        predictive: A regression's prediction for N rows.
        y: Targets (N,) or (N, K).
        level: Probability inside the interval, in (0, 1).

    Returns:
        The mean over all entries, in the units of y.

    Raises:
        ValueError: If this is no regression, y does not fit, or the level is not in (0, 1).

    >>> from bayesreg.likelihoods import Gaussian
    >>> standard = Predictive(Gaussian(), torch.zeros(1, 1), {"noise_scale": torch.ones(1, 1)})
    >>> round(interval_score(standard, [0.0], 0.95), 3), round(interval_score(standard, [3.0], 0.95), 3)
    (3.92, 45.521)
    """
    y = _target("interval_score", predictive, y)
    return _interval_score(*predictive.interval(level), y, level)


def mean_width(predictive: Predictive, level: float = 0.95) -> float:
    """Sharpness: the mean width of the central intervals. Narrower is better only where the coverage is right.

    Args:
        predictive: A regression's prediction for N rows.
        level: Probability inside the interval, in (0, 1).

    Returns:
        The mean over all entries, in the units of y.

    Raises:
        ValueError: If this is no regression, or the level is not in (0, 1).
    """
    _fits("mean_width", predictive)
    lower, upper = predictive.interval(level)
    return _mean(upper - lower)


def coverage(predictive: Predictive, y: Any, level: float = 0.95) -> Coverage:
    """How many y lie in the central interval of this level, with a 95 % Wilson interval for the rate.

    y lies inside when its PIT value lies in [(1 − level)/2, (1 + level)/2]. With z = Φ⁻¹(0.975), r hits of n:

        (r + z²/2 ± z √(r(n − r)/n + z²/4)) / (n + z²)

    Args:
        predictive: A regression's prediction for N rows.
        y: Targets (N,) or (N, K).
        level: Probability inside the interval, in (0, 1).

    Returns:
        Level, hits, number of y, rate and the bounds of the rate.

    Raises:
        ValueError: If this is no regression, y does not fit, or the level is not in (0, 1).
    """
    return _coverage(predictive.pit(_target("coverage", predictive, y)), level)


def pit(predictive: Predictive, y: Any) -> torch.Tensor:
    """Probability integral transform, uniform on (0, 1) when the predictive is calibrated; see `Predictive.pit`.

    Args:
        predictive: A regression's prediction for N rows.
        y: Targets (N,) or (N, K).

    Returns:
        (N,) or (N, K).

    Raises:
        ValueError: If this is no regression, or y does not fit.
    """
    return predictive.pit(_target("pit", predictive, y))


def calibration_error(predictive: Predictive, y: Any) -> float:
    """Mean distance between nominal and observed coverage of central intervals; lower is better.

    Over the 19 levels p = 0.05, 0.10, …, 0.95, with u the PIT values of all entries:

        (1/19) Σₚ | mean(|2u − 1| <= p) − p |

    A calibrated predictive does not give zero but about 0.3/√n with n values, the noise of n counts; the most is 0.5.

    Args:
        predictive: A regression's prediction for N rows.
        y: Targets (N,) or (N, K).

    Returns:
        A probability between 0 and 0.5.

    Raises:
        ValueError: If this is no regression, or y does not fit.
    """
    return _calibration_error(predictive.pit(_target("calibration_error", predictive, y)))


def accuracy(predictive: Predictive, y: Any) -> float:
    """Share of rows whose most probable class (in a tie the smallest) is the observed one; higher is better.

    Args:
        predictive: A classification's prediction for N rows.
        y: Class labels (N,).

    Returns:
        The share.

    Raises:
        ValueError: If this is no classification, or y does not fit.
    """
    y, labels = _classes("accuracy", predictive, y)
    return _mean(labels.choice(predictive.mean) == y)


def brier(predictive: Predictive, y: Any) -> float:
    """Brier score: mean of (P(y = 1) − y)² for two classes, of Σₖ (pₖ − 1{y = k})² for K; lower is better.

    The K-class form lies in [0, 2]; on two classes it is twice the binary form.

    Args:
        predictive: A classification's prediction for N rows.
        y: Class labels (N,).

    Returns:
        The mean over rows.

    Raises:
        ValueError: If this is no classification, or y does not fit.
    """
    y, labels = _classes("brier", predictive, y)
    return _mean(labels.brier(predictive.mean, y))


def auc(predictive: Predictive, y: Any) -> float:
    """Area under the ROC curve, P(a row of class 1 has a higher P(y = 1) than one of class 0), ties half; higher is better.

    Args:
        predictive: A prediction of two classes for N rows.
        y: Class labels (N,).

    Returns:
        A probability, 0.5 by chance; NaN where only one class came.

    Raises:
        ValueError: If this is no classification of two classes, or y does not fit.
    """
    y, _ = _classes("auc", predictive, y)
    if predictive.mean.dim() > 1:
        raise ValueError(f"auc must be asked of two classes, but {predictive.mean.shape[-1]} came; take accuracy or mlpd.")
    from scipy.stats import rankdata

    ones, ranks = y.cpu().numpy() == 1, rankdata(predictive.mean.cpu().double().numpy())
    above, pairs = ranks[ones].sum() - ones.sum() * (ones.sum() + 1) / 2, ones.sum() * (~ones).sum()
    return float(above / pairs) if pairs else math.nan


def ece(predictive: Predictive, y: Any, *, num_bins: int = 15) -> float:
    """Expected calibration error: Σ_b (n_b/N) |observed share − mean probability| over equal bins; lower is better.

    For two classes the probability is P(y = 1) and the observed share that of ones (a reliability diagram). For K
    classes the probability is that of the most probable class and the observed share the accuracy. Bins are
    (0, 1/B], …, ((B − 1)/B, 1], a probability of 0 goes to the first. A calibrated predictive does not give zero.

    Args:
        predictive: A classification's prediction for N rows.
        y: Class labels (N,).
        num_bins: B.

    Returns:
        A probability.

    Raises:
        ValueError: If this is no classification, y does not fit, or num_bins is not a whole number >= 1.
    """
    y, labels = _classes("ece", predictive, y)
    _check.count("num_bins", num_bins)
    stated, observed = labels.stated(predictive.mean.double(), y)
    index = ((stated * num_bins).ceil().long() - 1).clamp(0, num_bins - 1)
    gaps = torch.zeros(num_bins, dtype=torch.float64, device=stated.device).index_add_(0, index, observed - stated)
    return float(gaps.abs().sum()) / len(stated)


def _has_exact_crps(predictive: Predictive) -> bool:
    count = predictive.num_samples if predictive.function is None else predictive.function.num_components
    return count <= _FEW and isinstance(next(iter(predictive.split()))[1].components, Normal)


def _crps_rows(predictive: Predictive, y: torch.Tensor) -> torch.Tensor:
    normals: Any = predictive.components
    count = len(normals.mean)
    weight = torch.full((count,), 1 / count) if predictive.function is None else predictive.function.weight
    return crps_of_normals(y.double(), Normal(normals.loc.double(), normals.scale.double(), validate_args=False), weight)


def _mean(values: torch.Tensor) -> float:
    return float(values.double().mean())


def _fits(name: str, predictive: Predictive) -> None:
    fitting = _REGRESSION if predictive.likelihood.labels is None else _CLASSIFICATION
    if name not in fitting.split(", "):
        came = f"one of kind {predictive.kind!r} came; its metrics are {fitting}."
        raise ValueError(f"{name} must be asked of another kind of predictive, but {came}")


def _target(name: str, predictive: Predictive, y: Any) -> torch.Tensor:
    _fits(name, predictive)
    return predictive.target(y)


def _classes(name: str, predictive: Predictive, y: Any) -> tuple[torch.Tensor, AbstractLabels]:
    y, labels = _target(name, predictive, y), predictive.likelihood.labels
    assert labels is not None  # or it was refused
    return y, labels


def _interval_score(lower: torch.Tensor, upper: torch.Tensor, y: torch.Tensor, level: float) -> float:
    outside = (lower - y).clamp(min=0) + (y - upper).clamp(min=0)
    return _mean(upper - lower) + 2 / (1 - level) * _mean(outside)


def _coverage(u: torch.Tensor, level: float) -> Coverage:
    low, high = tails(level)
    hits, n = int(((u >= low) & (u <= high)).sum()), u.numel()
    lower, upper = (float(end) for end in wilson(hits, n))
    return Coverage(level, hits, n, hits / n, lower, upper)


def _calibration_error(u: torch.Tensor) -> float:
    levels = torch.arange(1, 20, dtype=torch.float64, device=u.device) / 20
    needed = (2 * u.double() - 1).abs().flatten().sort().values  # the level at which the interval reaches y
    observed = torch.searchsorted(needed, levels, right=True).double() / needed.numel()
    return _mean((observed - levels).abs())
