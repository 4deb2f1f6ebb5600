"""What a verdict says of predictions that are calibrated by construction, and of those that are wrong by a known amount.

Data sets are drawn from a linear-Gaussian model's own prior and noise, so its exact posterior predictive is calibrated. All of
its test rows share the error of the weights: with few training rows they lean to one side together.
"""

import numpy as np
import pytest
import torch
from scipy import stats

from bayesreg.likelihoods import Bernoulli, Gaussian
from bayesreg.metrics import Coverage
from bayesreg.predictive import Predictive
from bayesreg.reports import (
    AHEAD,
    CALIBRATION,
    adjusted,
    best_card,
    binomial_tails,
    calibration_card,
    confidences,
    findings,
    leads,
    ranked,
)
from tests.report_cases import compared, draws_of, normal, texts

SIGMA, D, S = 0.5, 4, 200


def linear_gaussian(seed, num_train, num_test, *, shift=0.0, factor=1.0):
    """Exact posterior predictive and MAP of y = Xw + σε, w ~ N(0, I), and the test targets."""
    rng = np.random.default_rng(seed)

    def rows(n):
        x = np.c_[np.ones(n), rng.normal(size=(n, D - 1))]
        return x, x @ w + SIGMA * rng.normal(size=n)

    w = rng.normal(size=D)
    (x, y), (x_new, y_new) = rows(num_train), rows(num_test)
    covariance = np.linalg.inv(np.eye(D) + x.T @ x / SIGMA**2)
    mean = covariance @ x.T @ y / SIGMA**2
    draws = mean + rng.normal(size=(S, D)) @ np.linalg.cholesky(covariance).T
    made = {
        name: Predictive(Gaussian(), torch.as_tensor(each @ x_new.T), {"noise_scale": torch.full((1, 1), factor * SIGMA)})
        for name, each in (("MAP", mean[None]), ("exact", draws))
    }
    return made, y_new + shift * SIGMA


def logistic(seed, num_test):
    """Labels drawn from one of the functions that a posterior of S functions holds."""
    rng = np.random.default_rng(seed)
    x, w = rng.normal(size=(num_test, D)), rng.normal(size=(S + 1, D))
    logits = x @ w.T + 1.0
    y = (rng.random(num_test) < 1 / (1 + np.exp(-logits[:, -1]))).astype(int)
    return {"exact": Predictive(Bernoulli(), torch.as_tensor(logits[:, :-1].T.copy()))}, y


def wrong(found):
    """Whether anything is said against a regression's predictions."""
    return found.shifted or any(said in ("overconfident", "cautious") for said in found.judgements.values())


def false_alarms(num_sets, num_test, num_train):
    alarms = ahead = 0
    for seed in range(num_sets):
        predictives, y = linear_gaussian(seed, num_train, num_test)
        comparison = compared(predictives, y)
        found = findings(comparison, y, seed=seed)
        alarms += wrong(found["exact"])
        ahead += comparison.best == "MAP" and leads(comparison, y, seed=seed)["exact"].kind == "clear"
        card = calibration_card(comparison, found)
        assert wrong(found["exact"]) == any(line.text.startswith("exact") and line.state != "good" and "few" not in line.text
                                            for line in card.lines)  # fmt: skip
    return alarms, ahead


def at_most(share, num_sets):
    """As many as a rate of `share` gives in all but one in a thousand runs."""
    return int(stats.binom.ppf(0.999, num_sets, share))


@pytest.mark.parametrize(
    ("num_train", "num_test"),
    [(8, 50), (200, 3), *(pytest.param(*sizes, marks=pytest.mark.slow) for sizes in ((8, 3), (8, 11), (200, 11), (200, 50)))],
)
def test_false_alarms_about_a_calibrated_model(num_test, num_train):
    alarms, _ = false_alarms(10, num_test, num_train)
    assert alarms <= at_most(CALIBRATION, 10)


@pytest.mark.slow
@pytest.mark.parametrize("num_train", [30, 300])
@pytest.mark.parametrize("num_test", [10, 50, 200])
def test_at_most_one_strip_in_twenty_is_wrong_about_a_calibrated_model(num_test, num_train):
    alarms, ahead = false_alarms(200, num_test, num_train)
    print(f"N_train={num_train}, N_test={num_test}: {alarms} false alarms, MAP ahead of the oracle {ahead} times, of 200")
    assert alarms <= 10
    assert ahead <= at_most(AHEAD, 200)


@pytest.mark.parametrize(("shift", "factor"), [(0.5, 1.0), pytest.param(-0.5, 1.0, marks=pytest.mark.slow), (0.0, 0.5)])
def test_half_a_noise_sd_of_shift_and_half_of_the_noise_are_seen(shift, factor):
    for seed in range(5):
        predictives, y = linear_gaussian(seed, 500, 200, shift=shift, factor=factor)
        comparison = compared(predictives, y)
        card = calibration_card(comparison, findings(comparison, y))
        side = "low" if shift > 0 else "high"
        wanted = f"MAP and exact predict too {side} on average." if shift else "MAP and exact are overconfident."
        assert (card.headline, card.state) == (wanted, "bad")


@pytest.mark.slow
@pytest.mark.parametrize("num_train", [50, 500])
@pytest.mark.parametrize(("shift", "factor"), [(0.5, 1.0), (0.0, 0.5)])
def test_power_at_two_hundred_test_rows(shift, factor, num_train):
    """The shift of all rows that an exact posterior expects of itself, ± σ √(1/200 + 1/N), is what a shift must exceed."""
    seen = {"MAP": 0, "exact": 0}
    for seed in range(40):
        predictives, y = linear_gaussian(seed, num_train, 200, shift=shift, factor=factor)
        for name, found in findings(compared(predictives, y), y, seed=seed).items():
            seen[name] += found.shifted if shift else found.judgement == "overconfident"
    print(f"N_train={num_train}, shift {shift} sd, noise {factor}: {seen} of 40")
    assert min(seen.values()) >= (38 if num_train == 500 or not shift else 20)


@pytest.mark.parametrize("num_test", [3, 11, 20, 50, 92, 200])
@pytest.mark.parametrize("level", [0.5, 0.95])
def test_one_count_is_said_to_be_too_low_or_too_high_with_at_most_its_probability(num_test, level):
    """By the binomial's own probabilities, summed over the counts about which something is said."""
    low = high = 0.0
    for hits in range(num_test + 1):
        lower, upper = stats.binomtest(hits, num_test).proportion_ci(method="wilson")
        if not Coverage(level, hits, num_test, hits / num_test, lower, upper).consistent:
            low += stats.binom.pmf(hits, num_test, level) * (hits < level * num_test)
            high += stats.binom.pmf(hits, num_test, level) * (hits > level * num_test)
    assert max(low, high) <= 0.025
    assert low + high > 0.005 or num_test < 11  # not by saying nothing


@pytest.mark.parametrize("num_sets", [20, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["one", "many"])
def test_probabilities_of_labels_from_one_of_its_own_functions_are_no_false_alarm(kind, num_sets):
    alarms = 0
    for seed in range(num_sets):
        predictives, y = logistic(seed, 60)
        if kind == "one":  # independent rows
            p = predictives["exact"].mean.clamp(1e-6, 1 - 1e-6)
            predictives = {"exact": Predictive(Bernoulli(), p.logit()[None])}
            y = (np.random.default_rng(seed).random(60) < p.numpy()).astype(int)
        (found,) = confidences(compared(predictives, y), y, seed=seed).values()
        alarms += found.judgement in ("overconfident", "cautious") or found.uneven
    assert alarms <= at_most(CALIBRATION, num_sets)


@pytest.mark.parametrize("num_sets", [20, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("num_models", "num_test"), [(2, 5), (5, 5), (4, 30)])
def test_none_of_several_equals_is_said_to_be_best(num_models, num_test, num_sets):
    """Predictions that are off by independent errors of one size: in expectation none is ahead."""
    heads = 0
    for seed in range(num_sets):
        rng = np.random.default_rng(seed)
        y = rng.normal(size=num_test)
        made = {f"m{i}": normal(0.3 * rng.normal(size=num_test), 1.0) for i in range(num_models)}
        heads += best_card(compared(made, y), y).state == "good"
    assert heads <= at_most(AHEAD, num_sets)


def test_holm_with_equal_weights_is_the_textbook_and_weights_move_the_level():
    p = {"a": 0.01, "b": 0.03, "c": 0.04}
    assert adjusted({k: (v, 1.0) for k, v in p.items()}) == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06})
    assert adjusted({"a": (0.01, 3.0), "b": (0.03, 1.0)}) == pytest.approx({"a": 0.04 / 3, "b": 0.03})
    assert adjusted({"a": (0.9, 1.0), "b": (0.8, 1.0)}) == {"a": 1.0, "b": 1.0}


def test_ranks_among_draws_are_exchangeable_and_their_tail_goes_on_as_a_normal():
    draws = np.random.default_rng(0).normal(size=999)
    p = np.array([ranked(float(value), np.delete(draws, i)) for i, value in enumerate(draws)])
    assert np.sort(p) == pytest.approx(np.arange(1, 1000) / 999, abs=2e-3)
    assert ranked(-8.0, draws) < 1e-9
    assert binomial_tails(3, 10, 0.4).p == pytest.approx(2 * stats.binom.cdf(3, 10, 0.4))


def test_several_outputs_are_no_more_evidence_than_their_dependence_allows():
    """One output given twice: counted as independent, 100 rows would be 200 values."""
    alarms, num_sets = 0, 25
    for seed in range(num_sets):
        y = np.random.default_rng(seed).normal(size=100)
        twice = np.stack([y] * 4, 1)
        comparison = compared({"exact": normal(np.zeros((100, 4)), 1.0)}, twice)
        alarms += wrong(findings(comparison, twice)["exact"])
    assert alarms <= at_most(CALIBRATION, num_sets)


def test_a_shifted_output_is_named():
    y = np.random.default_rng(0).normal(size=(100, 3)) + np.array([0.0, 0.0, 1.0])
    comparison = compared({"m": normal(np.zeros((100, 3)), 1.0)}, y)
    card = calibration_card(comparison, findings(comparison, y))
    assert card.headline == "m predicts too low on average."
    assert any("Predictions are too low on average (output 2)" in line.text for line in card.lines)


def test_a_shift_is_not_called_overconfidence_unless_the_scatter_about_it_is_too_wide_as_well():
    y = draws_of(1.0, 200)
    for scale, also in ((1.0, False), (0.4, True)):
        made = {"m": normal(np.zeros(200), scale)}
        card = calibration_card(compared(made, y + 2.0), findings(compared(made, y + 2.0), y + 2.0))
        wanted = "m predicts too low on average." + " m is overconfident." * also
        assert (card.headline, card.state) == (wanted, "bad")
        assert texts(card)[0].endswith("too narrow." if also else "too narrow, because of a shift.")


def test_intervals_that_are_far_too_narrow_are_not_called_a_shift():
    """Their PIT values lie at both ends, and the mean of 0s and 1s scatters more than that of uniform values."""
    shifted = 0
    for seed in range(40):
        y = draws_of(1.0, 30, seed)
        shifted += findings(compared({"m": normal(np.zeros(30), 0.01)}, y), y)["m"].shifted
    assert shifted <= at_most(CALIBRATION, 40)
