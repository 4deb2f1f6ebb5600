"""What a person would try first: right by scikit-learn, with noise of rows left out, and scored like any posterior."""

import numpy as np
import pytest
import torch
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import PoissonRegressor, Ridge
from sklearn.model_selection import KFold
from sklearn.preprocessing import StandardScaler

import bayesreg as br
from bayesreg import likelihoods
from bayesreg.baselines import Beside, fit_baselines, verdict
from bayesreg.comparison import paired_difference
from bayesreg.reports import best_card, comparison_table, findings

SEEDS = pytest.mark.parametrize("seed", [0, 1, 2])


def rows(seed, count=120, noise=0.5):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(count, 4))
    return X, 10 + 3 * X[:, 0] - X[:, 1] + noise * rng.normal(size=count)


@pytest.fixture(scope="module")
def numbers():
    return fit_baselines(*rows(0))


@pytest.fixture(scope="module")
def classes():
    X, y = rows(0)
    return fit_baselines(X, (y > 10).astype(int), likelihoods.Bernoulli())


@pytest.fixture(scope="module")
def line():
    X, y = rows(0)
    model = br.BayesianModel(torch.nn.Linear(4, 1).double(), likelihood=likelihoods.Gaussian(0.2), standardize=True)
    return br.fit(model, X, y, method="exact")


class TestNumbers:
    def test_from_the_simplest_on(self, numbers, classes):
        assert list(numbers) == ["mean", "ridge", "boosting", "forest"]
        assert list(classes) == ["class shares", "logistic", "boosting", "forest"]

    def test_the_mean_is_the_mean(self, numbers):
        X, y = rows(0)
        found = numbers["mean"].predict(X[:3])
        torch.testing.assert_close(found.mean, torch.full((3,), y.mean(), dtype=torch.float64))

    def test_noise_is_that_of_rows_left_out(self, numbers):
        """By hand for the mean, whose residuals on the other folds are known."""
        X, y = rows(0)
        off = np.zeros(len(y))
        for train, rest in KFold(5, shuffle=True, random_state=0).split(X):
            off[rest] = y[rest] - y[train].mean()
        sd = float(numbers["mean"].predict(X[:1]).std)
        assert sd == pytest.approx(np.sqrt(np.mean(off**2)), rel=1e-12)
        assert sd > y.std()

    def test_trees_do_not_hide_their_noise(self, numbers):
        """A forest's training residuals are far smaller than the noise; its noise is not."""
        X, y = rows(0)
        for name, factor in (("forest", 2.0), ("boosting", 1.2)):
            training = float((numbers[name].predict(X).mean - torch.as_tensor(y)).std())
            assert float(numbers[name].predict(X[:1]).std) > factor * training

    @SEEDS
    def test_a_line_is_ridge_and_its_noise_the_noise(self, seed):
        X, y = rows(seed, 500)
        line = fit_baselines(X, y, seed=seed, names=["linear"])["ridge"]
        scaled = (X - X.mean(0)) / X.std(0)
        found = line.predict(X).mean.numpy()
        gaps = [np.abs(Ridge(a).fit(scaled, y).predict(scaled) - found).max() for a in np.logspace(-3, 5, 25)]
        assert min(gaps) < 1e-8
        assert float(line.predict(X[:1]).std) == pytest.approx(0.5, abs=5 * 0.5 / np.sqrt(2 * 500))

    def test_new_rows_are_scored_as_by_hand(self, numbers):
        X, y = rows(1)
        for post in numbers.values():
            found = post.predict(X)
            by_hand = torch.distributions.Normal(found.mean, found.std).log_prob(torch.as_tensor(y))
            torch.testing.assert_close(found.log_prob(y), by_hand)


class TestClasses:
    def test_shares(self, classes):
        X, y = rows(0)
        share = ((y > 10).sum() + 1) / (len(y) + 2)
        assert float(classes["class shares"].predict(X[:1]).mean) == pytest.approx(share, rel=1e-9)

    def test_nothing_is_impossible(self, classes):
        X, y = rows(1, 2000)
        for post in classes.values():
            assert float(post.predict(X).log_prob((y > 10).astype(int)).min()) > np.log(1e-6) - 1e-6

    def test_a_class_that_few_rows_have(self):
        X, y = rows(0, 60)
        labels = np.where(y > 12, 2, (y > 10).astype(int))
        labels[:2] = 3
        found = fit_baselines(X, labels, likelihoods.Categorical())
        for post in found.values():
            p = post.predict(X[:5]).mean
            assert p.shape == (5, 4)
            torch.testing.assert_close(p.sum(1), torch.ones(5, dtype=torch.float64))
        dummy = DummyClassifier().fit(X, labels).class_prior_
        assert np.abs(found["class shares"].predict(X[:1]).mean.numpy()[0] - dummy).max() < 0.05


class TestCountsAndPositiveNumbers:
    @SEEDS
    def test_counts_are_negative_binomial_about_a_poisson_line(self, seed):
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(1500, 2))
        y = rng.poisson(np.exp(1 + 0.5 * X[:, 0]) * rng.gamma(2.0, 0.5, 1500)).astype(float)  # dispersion 1/2
        found = fit_baselines(X, y, likelihoods.NegativeBinomial(), seed=seed, names=["constant", "linear"])
        assert list(found) == ["mean", "poisson"]
        likelihood = found["poisson"].model.likelihood
        assert likelihood.fixed["dispersion"] == pytest.approx(0.5, rel=0.35)  # a grid, and about 5 % of sampling error
        means = found["poisson"].predict(np.array([[0.0, 0.0], [1.0, 0.0]])).mean
        torch.testing.assert_close(means, torch.tensor([1.0, 1.5]).double().exp(), rtol=0.15, atol=0)

    @SEEDS
    def test_positive_numbers_take_the_scale_that_fits(self, seed):
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(400, 2))
        logs = 3 + X[:, 0] + 0.5 * rng.normal(size=400)
        kinds = []
        for y in (np.exp(logs), 100 + logs):
            line = fit_baselines(X, y, likelihoods.LogNormal(), seed=seed, names=["linear"])["ridge"]
            kinds.append(type(line.model.likelihood).__name__)
            found = line.predict(X).log_prob(y)
            assert float(found.mean()) > float(fit_baselines(X, y, names=["constant"])["mean"].predict(X).log_prob(y).mean())
        assert kinds[0] == "LogNormal"


class TestWeightsAndOffsets:
    """Against scikit-learn's own fits to the same rows, to 1e-6."""

    @SEEDS
    def test_counts_have_rates_for_exposures(self, seed):
        """A line on twelve times the exposure is twelve times the mean; the rate is that of the Poisson regression."""
        rng = np.random.default_rng(seed)
        X, exposure = rng.normal(size=(400, 2)), rng.choice([0.1, 1.0, 12.0], 400)
        y = rng.poisson(exposure * np.exp(1 + 0.5 * X[:, 0])).astype(float)
        found = fit_baselines(X, y, likelihoods.Poisson(), offset=np.log(exposure), names=["constant", "linear"])
        one, twelve = (found["poisson"].predict(X, offset=np.full(400, np.log(o))).mean for o in (1.0, 12.0))
        torch.testing.assert_close(twelve, 12 * one)
        scaled = StandardScaler().fit(X, sample_weight=exposure).transform(X)
        fits = (PoissonRegressor(alpha=a, max_iter=1000).fit(scaled, y / exposure, exposure) for a in np.logspace(-4, 2, 7))
        assert min(np.abs(fit.predict(scaled) - one.numpy()).max() for fit in fits) < 1e-6
        assert float(found["mean"].predict(X[:1]).mean) == pytest.approx(y.sum() / exposure.sum(), rel=1e-9)

    def test_a_known_part_of_the_output_is_added_again(self):
        X, y = rows(0)
        y, known = np.round(1024 * y) / 1024, 100.0 * np.random.default_rng(1).integers(-2, 3, len(y))  # sums without rounding
        plain = fit_baselines(X, y, names=["linear", "forest"])
        given = fit_baselines(X, y + known, offset=known, names=["linear", "forest"])
        for name, one in given.items():
            torch.testing.assert_close(one.predict(X, offset=known).mean, plain[name].predict(X).mean + torch.as_tensor(known))
            assert float(one.predict(X[:1]).std) == pytest.approx(float(plain[name].predict(X[:1]).std), rel=1e-6)
        times = fit_baselines(X, np.exp(y / 10 + known / 100), likelihoods.LogNormal(), offset=known / 100, names=["linear"])
        torch.testing.assert_close(
            times["ridge"].predict(X).output[0], plain["ridge"].predict(X).mean / 10, rtol=1e-6, atol=1e-6
        )

    def test_rows_count_by_their_weights(self):
        """0 leaves a row out, 2 is the row twice."""
        X, y = rows(0)
        weight = np.random.default_rng(0).integers(0, 3, len(y))
        line = fit_baselines(X, y, sample_weight=weight, names=["constant", "linear"])
        twice = np.repeat(X, weight, axis=0), np.repeat(y, weight)
        scaler = StandardScaler().fit(twice[0])
        found = line["ridge"].predict(X).mean.numpy()
        fits = (Ridge(a).fit(scaler.transform(twice[0]), twice[1]) for a in np.logspace(-3, 5, 25))
        assert min(np.abs(fit.predict(scaler.transform(X)) - found).max() for fit in fits) < 1e-6
        assert float(line["mean"].predict(X[:1]).mean) == pytest.approx(np.average(y, weights=weight))
        shares = fit_baselines(X, (y > 10).astype(int), likelihoods.Bernoulli(), sample_weight=weight, names=["constant"])
        wanted = (weight[y > 10].sum() + 1) / (weight.sum() + 2)
        assert float(shares["class shares"].predict(X[:1]).mean) == pytest.approx(wanted, rel=1e-9)

    def test_a_comparison_says_what_they_were_not_told(self):
        rng = np.random.default_rng(0)
        X, exposure = rng.normal(size=(150, 2)), rng.choice([0.1, 1.0, 12.0], 150)
        y, weight = rng.poisson(exposure * np.exp(1 + 0.5 * X[:, 0])), rng.integers(1, 3, 150)
        model = br.BayesianModel(torch.nn.Linear(2, 1).double(), likelihood=likelihoods.Poisson())
        mode = br.fit(model, X, y, method="map", offset=np.log(exposure), sample_weight=weight, progress=False)
        kept = ["constant", "linear"]
        told = fit_baselines(X, y, likelihoods.Poisson(), sample_weight=weight, offset=np.log(exposure), names=kept)
        blind = fit_baselines(X, y, likelihoods.Poisson(), names=kept)
        ours = br.compare({"map": mode}, X, y, baselines=told, offset=np.log(exposure))
        assert ours.notes == br.compare({"map": mode}, X, y, offset=np.log(exposure)).notes
        theirs = br.compare({"map": mode}, X, y, baselines=blind, offset=np.log(exposure))
        assert theirs.notes[:2] == [
            "mean and poisson: without the offset that the fits have, so that they know less of each row.",
            "mean and poisson: each training row counts once, where the fits count it by sample_weight.",
        ]
        assert ours.baselines["poisson"].scores["mlpd"] > theirs.baselines["poisson"].scores["mlpd"] + 0.5
        labels = fit_baselines(X, y > 2, likelihoods.Bernoulli(), offset=np.log(exposure), names=["constant"])
        assert not labels["class shares"].model.module.offset


class TestComparison:
    def test_they_stand_below_the_posteriors(self, line, numbers):
        X, y = rows(1)
        found = br.compare({"exact": line}, X, y, baselines=numbers)
        assert list(found.scores) == ["exact"]
        assert list(found.baselines) == list(numbers)
        delta = numbers["mean"].predict(X).log_prob(y).sum() - line.predict(X).log_prob(y).sum()
        assert found.baselines["mean"].difference.sum == pytest.approx(float(delta))
        lines = str(found).splitlines()
        assert [text.split()[:2] for text in lines[2:7]] == [["exact", "exact"], *([name, "baseline"] for name in numbers)]
        assert "A line (ridge) does as well as exact on these rows." in lines
        assert found.to_dict()["baselines"]["mean"]["log_density_difference"]["sum"] == pytest.approx(float(delta))

    def test_the_star_is_over_all_rows_of_the_table(self, numbers):
        """The fit's noise is a fifteenth of the truth, so that trees are ahead of it."""
        X, y = rows(1)
        model = br.BayesianModel(torch.nn.Linear(4, 1).double(), likelihood=likelihoods.Gaussian(0.01), standardize=True)
        line = br.fit(model, *rows(0), method="exact")
        found = br.compare({"exact": line}, X, y, baselines=numbers)
        densities = {
            name: float(one.predict(X).log_prob(y).double().mean()) for name, one in {"exact": line, **numbers}.items()
        }
        assert found.highest == max(densities, key=lambda name: densities[name]) != "exact"
        assert found.best == "exact"
        head, *cells = found.table()
        starred = {row[0] for row in cells if row[head.index("log density ↑ ")].endswith("*")}
        assert starred == {found.highest}
        assert "* the best of all, baselines included." in str(found)
        page = comparison_table(found, findings(found, y))
        marks = {row[0]: row[1]["mark"] for row in (*page["rows"], *page["baselines"])}
        assert {name for name, mark in marks.items() if mark == "best"} == {found.highest}
        card = best_card(found, y)
        assert card.headline == "Only exact is here: it stands beside baselines only."
        assert card.lines[-1].text == f"Of all rows of the table, {found.highest} has the highest log density."
        assert br.compare({"exact": line}, X, y).highest == "exact"

    @pytest.mark.slow
    def test_training_rows_are_enough(self, line, numbers):
        found = br.compare({"exact": line}, *rows(1), baselines=rows(0))
        again = br.compare({"exact": line}, *rows(1), baselines=numbers)
        assert str(found).partition("\n\n")[2] == str(again).partition("\n\n")[2]

    @pytest.mark.slow  # quickly: their places in a comparison and the verdict's sentences
    def test_a_report_shows_them_and_says_what_does_as_well(self, line, numbers):
        found = br.report({"exact": line}, *rows(1), baselines=numbers)
        (card,) = (card for card in found.data["verdict"] if card["topic"] == "Baselines")
        assert card["headline"] == "A line (ridge) does as well as exact on these rows."
        assert all(f"{name} (baseline)" in found.html for name in numbers)
        assert found.data["comparison"]["baselines"].keys() == numbers.keys()
        without = br.report({"exact": line}, *rows(1))
        assert "baseline)" not in without.html
        assert not any(card["topic"] == "Baselines" for card in without.data["verdict"])

    @pytest.mark.parametrize(
        ("deltas", "good", "sentence"),
        [
            ([-9.0, -8.0], True, "fit is ahead of mean and ridge."),
            ([-9.0, -1.0], None, "A line (ridge) does as well as fit on these rows."),
            ([-1.0, -1.0], False, "The mean does as well as fit on these rows."),
            ([-9.0, -1.5], None, "A line (ridge) may do as well as fit: −1.5 ± 1.0 nats on these rows."),
            ([-9.0, 9.0], False, "ridge is ahead of fit, by 9.0 ± 1.0 nats."),
        ],
    )
    def test_verdict(self, deltas, good, sentence):
        z = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(50) / 10 * (99 / 100) ** 0.5
        found = {
            name: Beside(None, paired_difference(z + d / 100, torch.zeros(100)), 0.0)
            for name, d in zip(("mean", "ridge"), deltas, strict=True)
        }
        assert verdict("fit", found) == (good, sentence)


@pytest.mark.parametrize(
    ("X", "y", "names", "message"),
    [
        (np.zeros((4, 2, 2)), np.arange(4.0), ["constant"], r"baselines need a table \(N, D\) and one target \(N,\), but"),
        (np.zeros((4, 2)), np.zeros((4, 2)), ["constant"], r"baselines need a table"),
        (np.zeros((4, 2)), np.arange(4.0), ["tree"], r"a baseline's name must be one of .*, but 'tree' came"),
    ],
)
def test_what_is_refused(X, y, names, message):
    with pytest.raises(ValueError, match=message):
        fit_baselines(X, y, names=names)
