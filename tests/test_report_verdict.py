"""The verdict must say what the numbers say, and say so when they are too few to tell."""

import dataclasses
import math
import re

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

from bayesreg.certificates import Agreement, Certificate, Finding, Mixing
from bayesreg.comparison import paired_difference
from bayesreg.likelihoods import Bernoulli, Categorical, Gaussian
from bayesreg.metrics import evaluate
from bayesreg.model import BayesianModel
from bayesreg.posteriors import Dirac, FitRecord
from bayesreg.predictive import Predictive
from bayesreg.reports import (
    best_card,
    confidence,
    confidence_card,
    confidences,
    convergence_card,
    coverage_card,
    epistemic_card,
    epistemic_shares,
    findings,
    noise_card,
    pit_finding,
    report,
)
from bayesreg.solvers import History
from tests.report_cases import D, compared, data, draws_of, normal, posteriors, texts

# ── the verdict: coverage ──


def coverage(predictives, y):
    comparison = compared(predictives, y)
    return coverage_card(comparison, findings(comparison, y))


def classes(predictives, y):
    return confidence_card(confidences(compared(predictives, y), y))


def test_narrow_intervals_are_overconfident_in_words_and_numbers():
    y = draws_of(1.0, 200)
    card = coverage({"MAP": normal(np.zeros(200), 0.5), "NUTS": normal(np.zeros(200), 1.0)}, y)
    inside = np.abs(y) <= 1.959964 * 0.5
    assert (card.topic, card.state, card.headline) == ("Calibration", "bad", "MAP is overconfident.")
    found = re.fullmatch(
        r"MAP: its 95 % intervals cover (\d+) % of the 200 test rows \(95 % CI (\d+)–(\d+) %\): too narrow\.", texts(card)[0]
    )
    exact = stats.binomtest(int(inside.sum()), 200).proportion_ci(method="wilson")
    assert found, texts(card)[0]
    assert [int(part) for part in found.groups()] == [round(100 * v) for v in (inside.mean(), exact.low, exact.high)]
    assert card.lines[0].state == "bad"


@pytest.mark.parametrize("N", [200, 2000])
def test_calibrated_intervals_cannot_be_told_apart_from_95(N):
    y = stats.norm.ppf((np.arange(N) + 0.5) / N)  # as calibrated as can be
    card = coverage({"exact": normal(np.zeros(N), 1.0)}, y)
    assert (card.state, card.headline) == ("good", "The 95 % intervals hold what they say.")
    assert texts(card)[0].endswith("cannot be told apart from 95 %.")
    assert f"the {N:,} test rows" in texts(card)[0]


def test_few_rows_are_said_to_be_too_few():
    card = coverage({"exact": normal(np.zeros(12), 1.0)}, 0.1 * np.arange(12))
    assert (card.state, card.headline) == ("neutral", "Too few test rows to judge the intervals by.")
    assert texts(card)[0] == (
        "exact: its 95 % intervals cover 100 % of the 12 test rows (95 % CI 76–100 %): "
        "too few rows to tell whether that is 95 % or 85 %."
    )


def test_wide_intervals_are_cautious_and_a_narrow_miss_only_looks_so():
    y = draws_of(1.0, 400)
    card = coverage({"wide": normal(np.zeros(400), 3.0)}, y)
    assert (card.state, card.headline) == ("neutral", "wide is too cautious.")
    away = stats.norm.ppf((np.arange(92) + 0.5) / 92).clip(-1.9, 1.9)
    missed = np.where(np.arange(92) % 8 == 0, np.sign(away) * 5.0, away)  # 80 of 92: 0.3 % of calibrated test sets do so
    card = coverage({"MAP": normal(np.zeros(92), 1.0)}, missed)
    assert card.headline == "MAP looks overconfident."


def test_what_three_in_a_hundred_calibrated_test_sets_do_is_chance_and_the_sentence_agrees_with_its_bounds():
    away = stats.norm.ppf((np.arange(92) + 0.5) / 92).clip(-1.9, 1.9)
    missed = np.where(np.arange(92) % 11 == 0, np.sign(away) * 5.0, away)  # 83 of 92
    card = coverage({"MAP": normal(np.zeros(92), 1.0)}, missed)
    assert card.headline == "Too few test rows to judge the intervals by."
    assert "(95 % CI 82–94.8 %)" in texts(card)[0]  # not "95 %", from which it differs


def test_other_levels_are_named_when_they_are_clearly_off():
    """Heavy-tailed errors under a normal: 95 % may be right while the middle is far too wide."""
    y = np.r_[np.full(25, 2.5), np.linspace(-0.3, 0.3, 475)]
    card = coverage({"m": normal(np.zeros(500), 1.0)}, y)
    assert card.state == "neutral"
    assert card.headline == "The 95 % intervals hold what they say, but other levels of m do not."
    assert texts(card)[0].endswith("cannot be told apart from 95 %.")
    assert texts(card)[1] == "m: its 50 % intervals cover 95 % of the 500 test rows (95 % CI 93–97 %): wider than they need be."


def test_values_of_several_outputs_are_counted_with_their_assumption():
    y = np.random.default_rng(0).normal(size=(60, 3))
    card = coverage({"exact": normal(np.zeros((60, 3)), 1.0)}, y)
    assert "of the 180 test values" in texts(card)[0]
    assert texts(card)[-1] == "A row's 3 values are counted as independent; if they are not, the CIs are too narrow."


# ── the verdict: classes ──


def sure(p, N, kind="binary"):
    p = np.full(N, p)
    if kind == "binary":
        return Predictive(Bernoulli(), torch.tensor(p).logit()[None])
    return Predictive(Categorical(), torch.tensor(np.stack([p, 0.7 * (1 - p), 0.3 * (1 - p)], 1)).log()[None])


@pytest.mark.parametrize("kind", ["binary", "multiclass"])
def test_confidence_against_accuracy(kind):
    right = 1 if kind == "binary" else 0
    y = np.where(np.arange(300) < 240, right, 1 - right)  # right on 80 %
    for p, head, state in (
        (0.95, "m is overconfident.", "bad"),
        (0.6, "m is too cautious.", "neutral"),
        (0.8, "Classes are right as often as they are said to be.", "good"),
    ):
        card = classes({"m": sure(p, 300, kind)}, y)
        assert (card.headline, card.state) == (head, state)
        assert texts(card)[0].startswith("m: right on 80 % of 300 test rows (95 % CI 75–84 %), ")
        assert f"{100 * p:.0f} % by its own probabilities" in texts(card)[0]
    card = classes({"m": sure(0.8, 10, kind)}, y[232:242])
    assert (card.headline, card.state) == ("Too few test rows to judge the probabilities by.", "neutral")


def test_right_on_average_but_not_at_every_level_is_said():
    """Half of the rows said 0.95 and right on 0.75, half said 0.65 and right on 0.85: right in sum, wrong in each."""
    predictive = Predictive(Bernoulli(), torch.tensor(np.r_[np.full(400, 0.95), np.full(400, 0.65)]).logit()[None])
    y = np.r_[np.arange(400) < 300, np.arange(400) < 340].astype(int)
    card = classes({"m": predictive}, y)
    assert card.state == card.lines[0].state == "neutral"
    assert card.headline == "m: right as often as said over all rows, but not at every level of confidence."


@pytest.mark.parametrize("hits", [0, 17, 40])
def test_tails_of_equal_probabilities_are_binomial(hits):
    y = (np.arange(40) < hits).astype(int)
    found = confidence(sure(0.7, 40), y, 0.0)
    assert found.hits == hits
    assert found.at_most == pytest.approx(stats.binom.cdf(hits, 40, 0.7), abs=1e-12)
    assert found.at_least == pytest.approx(stats.binom.sf(hits - 1, 40, 0.7), abs=1e-12)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_ece_limit_is_passed_by_one_in_twenty_calibrated_test_sets(seed):
    rng = np.random.default_rng(seed)
    stated = rng.uniform(0.05, 0.95, size=150)
    predictive = Predictive(Bernoulli(), torch.tensor(stated).logit()[None])
    limit = confidence(predictive, np.zeros(150, int), 0.0, seed=seed).ece_limit
    errors = [evaluate(predictive, (rng.random(150) < stated).astype(int))["ece"] for _ in range(400)]
    share = np.mean(np.array(errors) > limit)
    assert abs(share - 0.05) < 4 * math.sqrt(0.05 * 0.95 * (1 / 400 + 1 / 4000))  # both are estimates


# ── the verdict: the others ──


def test_best_says_whether_the_difference_exceeds_its_error():
    y = draws_of(1.0, 200)
    good, same, poor = normal(np.zeros(200), 1.0), normal(np.full(200, 0.02), 1.0), normal(np.zeros(200), 0.3)
    card = best_card(compared({"good": good, "poor": poor}, y), y)
    assert (card.state, card.headline) == ("good", "good predicts best.")
    d = paired_difference(poor.log_prob(y), good.log_prob(y))
    assert f"{d.sum / d.sum_se:.1f}".lstrip("-") + " times its standard error, more than chance explains." in texts(card)[1]
    comparison = compared({"good": good, "same": same}, y)
    card, (other,) = best_card(comparison, y), {"good", "same"} - {comparison.best}
    assert (card.state, card.headline) == ("neutral", f"{comparison.best} is ahead, but 200 rows cannot tell it from {other}.")
    assert texts(card)[1].endswith("which chance may explain.")
    comparison = compared({"good": good, "same": same, "poor": poor}, y)
    wanted = f"{comparison.best} predicts better than poor; it cannot be told apart from {other}."
    assert best_card(comparison, y).headline == wanted
    assert best_card(compared({"good": good}, y), y).headline == "Only good is here: nothing to compare it with."
    assert (
        "one row gives no standard error"
        in texts(best_card(compared({"a": normal([0.0], 1.0), "b": normal([0.0], 2.0)}, [0.0]), [0.0]))[1]
    )
    assert "it predicts the same" in texts(best_card(compared({"a": good, "b": good}, y), y))[1]


def test_names_that_a_sentence_would_take_apart_are_quoted():
    y = draws_of(1.0, 100)
    made = {f"MAP, {i}": normal(np.full(100, 0.01 * i), 1.0) for i in range(2)}
    comparison = compared(made, y)
    (other,) = set(made) - {comparison.best}
    assert best_card(comparison, y).headline == f"“{comparison.best}” is ahead, but 100 rows cannot tell it from “{other}”."
    many = compared({f"m{i}": normal(np.full(100, 0.01 * i), 1.0) for i in range(5)}, y)
    assert best_card(many, y).headline.endswith("cannot tell it from the others.")


def test_epistemic_share_is_of_the_variance_and_of_the_tenth_that_is_least_sure():
    spread = np.r_[np.full(90, 0.0), np.full(10, 3.0)]
    predictive = normal(np.zeros(100), 1.0, S=4000, spread=torch.tensor(spread))
    epistemic, aleatoric = predictive.epistemic_variance, predictive.aleatoric_variance
    found = epistemic_shares(predictive)
    assert found[0] == pytest.approx(float(epistemic.sum() / (epistemic + aleatoric).sum()), rel=1e-9)
    assert found == (pytest.approx(90 / 190, abs=0.03), pytest.approx(0.9, abs=0.02))
    card = epistemic_card({"MAP": normal(np.zeros(100), 1.0), "NUTS": predictive})
    assert card.headline == "The mode hid 47 % of the predictive variance."
    assert texts(card) == [
        "NUTS: 47 % on average, 90 % on the most uncertain tenth of the rows.",
        "MAP: none, since it is one function.",
    ]
    card = epistemic_card({"MAP": normal(np.zeros(100), 0.5), "NUTS": predictive})  # .25/(1 + .1·9)
    assert card.headline == "The mode's predictive variance is 13 % of that of NUTS."
    assert texts(card)[-1] == "the predictive sd of MAP is 0.5 over all rows, where that of NUTS is 1.38."
    assert epistemic_card({"NUTS": predictive}).headline == "47 % of the predictive variance is epistemic."
    assert epistemic_card({"MAP": normal([0.0], 1.0)}).headline.startswith("Only modes are here")


@pytest.mark.usefixtures("unrendered")
def test_convergence_and_noise_cast_doubt_first():
    assert convergence_card(posteriors()).headline == "Both fits converged."
    failed = posteriors(converged=False)
    card = convergence_card(failed)
    assert (card.state, card.headline) == ("bad", "MAP cannot be trusted: the fit did not pass its check.")
    assert texts(card) == ["MAP: Not converged: raise num_steps."]
    x, y = data()
    assert report(failed, x, y, num_samples=20).data["verdict"][0]["topic"] == "Convergence"
    small = posteriors()
    at = small["MAP"].layout.segments["noise_scale"].slice
    small["MAP"].loc = small["MAP"].loc.clone()
    small["MAP"].loc[at] = math.log(1e-3)
    first = report(small, x, y, num_samples=20).data["verdict"][0]
    assert (first["topic"], first["state"]) == ("Noise", "bad")
    assert first["headline"].startswith("The noise scale of MAP has collapsed")
    assert "MAP: noise scale 0.001 against a test RMSE of" in first["lines"][0]["text"]


@pytest.mark.usefixtures("unrendered")
@pytest.mark.parametrize(
    ("finding", "state", "badge"),
    [
        (Finding.MIXED, "good", "Converged"),
        (Finding.MIXED_IN_FUNCTION, "good", "Converged in function space"),
        (
            Finding.SEPARATE,
            "neutral",
            "Not certified",
        ),  # as an ensemble's members may be: their mixture is judged by held-out rows
        (Finding.CUT_SHORT, "bad", "Not certified"),
        (Finding.NOT_MIXED, "bad", "Not converged"),
    ],
)
def test_the_verdict_on_chains_is_a_badge_of_its_own(finding, state, badge):
    x, y = data()
    fits = posteriors()
    agreed = Agreement(9, 1.5, 30.0, 40.0)
    mixing = Mixing(4, 50, 100, 200, 0.5, weights=agreed, function=agreed, energy_error=0.001)
    history = History("log joint", [10, 20, 30, 40], [-900.0, -80.0, -82.0, -84.0])
    record = dataclasses.replace(fits["draws"].record, certificate=Certificate(finding, mixing=mixing), history=history)
    fits["draws"].record = record
    card = convergence_card(fits)
    assert card.state == state
    made = report(fits, x, y, num_samples=20)
    assert made.data["fits"]["draws"]["verdict"] == badge
    article = made.html.partition('id="convergence"')[2].partition("</section>")[0].replace("\xa0", " ").replace("\u2060", "")
    assert f"{badge}</span>" in article
    assert "Temperature 0.5" in article
    assert "was −83 nats, sd 1.4" in article  # of the second half
    assert "effective sample size" in made.html


@pytest.mark.usefixtures("unrendered")
def test_noise_that_is_known_has_no_card():
    x, y = data()
    model = BayesianModel(nn.Linear(D, 1).double(), likelihood=Gaussian(0.5)).bind(x, y)
    record = FitRecord("map", 0, History(), Certificate.checked(True, "as made"), 0.1)
    only = {"MAP": Dirac(model, record, torch.zeros(D + 1, dtype=torch.float64))}
    comparison = compared({"MAP": only["MAP"].predict(x)}, y)
    assert noise_card(only, comparison, y, findings(comparison, y)) is None
    assert "Noise" not in {card["topic"] for card in report(only, x, y).data["verdict"]}


@pytest.mark.parametrize(("scale", "shift", "wanted"), [
    (0.5, 0.0, r"(3\d|4\d) % of the values lie in the outermost 10 % of their predictive, more than chance: too narrow\."),
    (3.0, 0.0, r"(0|under 0\.1) % of the .* predictive, fewer than chance: too wide\."),
    (1.0, 0.0, r".* as chance allows\."),
    (1.0, 1.0, r".* Predictions are too low on average: the truths lie at the 7\d % point of their predictives, "
               r"1\d\.\d standard errors from the middle\."),
])  # fmt: skip
def test_pit_in_words_says_what_the_verdict_says(scale, shift, wanted):
    y = shift + stats.norm.ppf((np.arange(200) + 0.5) / 200)
    comparison = compared({"m": normal(np.zeros(200), scale)}, y)
    (found,) = findings(comparison, y).values()
    u = stats.norm.cdf(y / scale)
    assert re.fullmatch(wanted, pit_finding(float(((u < 0.05) | (u > 0.95)).mean()), found))
