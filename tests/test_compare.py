"""A comparison must say what its posteriors say one by one, and pair differences by row."""

import json
import math
import re

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from bayesreg import metrics
from bayesreg.certificates import Certificate
from bayesreg.comparison import METRICS, Comparison, compare, paired_difference
from bayesreg.likelihoods import Bernoulli, Categorical, Gaussian
from bayesreg.metrics import evaluate
from bayesreg.model import BayesianModel
from bayesreg.posteriors import Dirac, Draws, FitRecord
from bayesreg.solvers import History

N = 60


def data(kind="regression", seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N, 2))
    f = x @ [1.0, -2.0] + 0.5 * rng.normal(size=N)
    return x, {"regression": f, "binary": (f > 0).astype(int), "multiclass": np.digitize(f, [-1, 1])}[kind]


def posteriors(kind="regression"):
    """A mode at the truth, the same with a wrong slope, and draws about the truth."""
    x, y = data(kind, seed=9)
    likelihood = {"regression": Gaussian(0.5), "binary": Bernoulli(), "multiclass": Categorical()}[kind]
    weight = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    if kind == "multiclass":
        weight = torch.tensor([[-1.0], [0.0], [1.0]], dtype=torch.float64) * weight
    model = BayesianModel(nn.Linear(2, len(weight)).double(), likelihood=likelihood).bind(x, y)
    bias = torch.zeros(len(weight), dtype=torch.float64)

    def record(method, elapsed):
        return FitRecord(method, 0, History(), Certificate.checked(True, "as made"), elapsed)

    good, poor, many = Dirac(model, record("map", 0.25), bias), None, None
    point = good.layout.flatten({"weight": weight, "bias": bias})
    wrong = good.layout.flatten({"weight": -0.5 * weight, "bias": bias})
    good, poor = Dirac(model, record("map", 0.25), point), Dirac(model, record("map", 2.0), wrong)
    noise = torch.randn(50, len(point), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    many = Draws(model, record("nuts", 31.5), point + 0.05 * noise)
    return {"good": good, "poor": poor, "draws": many}


@pytest.fixture(scope="module", params=["regression", "binary", "multiclass"])
def case(request):
    x, y = data(request.param)
    given = posteriors(request.param)
    return given, x, y, compare(given, x, y, num_samples=40, seed=3)


def test_scores_are_those_of_each_posterior_alone(case):
    given, x, y, found = case
    assert list(found.scores) == list(found.predictives) == ["good", "poor", "draws"]
    for name, posterior in given.items():
        alone = posterior.predict(x, num_samples=40, seed=3)
        assert found.scores[name] == evaluate(alone, y, seed=3)
        assert torch.equal(found.predictives[name].output, alone.output)
        assert found.num_parameters[name] == posterior.model.num_parameters
    assert found.predictives["draws"].num_samples == 40
    assert found.methods == {"good": "map", "poor": "map", "draws": "nuts"}
    assert found.seconds == {"good": 0.25, "poor": 2.0, "draws": 31.5}
    assert (found.kind, found.num_data) == (given["good"].model.likelihood.kind, N)


def test_best_is_the_highest_log_density_and_differences_are_paired(case):
    _, _, y, found = case
    assert found.best == max(found.scores, key=lambda name: found.scores[name]["mlpd"]) != "poor"
    assert found.differences[found.best].sum == found.differences[found.best].sum_se == 0
    rows = (found.predictives["poor"].log_prob(y) - found.predictives[found.best].log_prob(y)).numpy()
    difference = found.differences["poor"]
    assert difference.sum == pytest.approx(rows.sum(), rel=1e-12)
    assert difference.mean == pytest.approx(found.scores["poor"]["mlpd"] - found.scores[found.best]["mlpd"], rel=1e-9)
    both = math.hypot(rows.std(ddof=1) / math.sqrt(N), difference.monte_carlo / N)
    assert difference.mean_se == pytest.approx(both, rel=1e-12)
    assert difference.sum_se == pytest.approx(N * difference.mean_se, rel=1e-12)
    assert difference.sum < 0


def test_pairing_takes_out_what_makes_a_row_hard():
    """Two models that differ by the same 0.1 nats in every row: no doubt, however much the rows differ."""
    hard = 100 * torch.randn(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = paired_difference(hard - 0.1, hard)
    assert (found.sum, found.mean) == (pytest.approx(-20.0), pytest.approx(-0.1))
    assert found.sum_se < 1e-10
    assert math.isnan(paired_difference(torch.zeros(1), torch.ones(1)).sum_se)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_standard_error_is_the_spread_over_test_sets(seed):
    generator = torch.Generator().manual_seed(seed)
    first, second = torch.randn(2, 2000, 50, generator=generator, dtype=torch.float64)
    found = [paired_difference(a, b) for a, b in zip(first, second, strict=True)]
    spread = np.std([difference.sum for difference in found])
    assert np.mean([difference.sum_se for difference in found]) == pytest.approx(spread, rel=0.08)


def test_text_is_an_aligned_table(case):
    *_, found = case
    head, rule, *rows = str(found).split("\n\n")[0].split("\n")
    assert set(rule) == {"─", " "}
    assert len(rows) == 3
    starts = [match.start() for match in re.finditer("─+", rule)]
    for row in rows:
        assert all(start == 0 or row[start - 2 : start] == "  " for start in starts if start < len(row))
    shown = {METRICS[name].head for name in found.scores["good"] if METRICS[name].headline}
    assert all(label in head for label in shown)
    assert "log density ↑" in head
    assert "Δ ± se" in head
    assert "60 rows. ↑ higher is better, ↓ lower is better, * the best." in str(found)
    assert repr(found) == str(found)


def test_the_best_of_each_column_is_marked_in_its_direction():
    x, y = data()
    found = compare(posteriors(), x, y)
    frame = found.to_frame()
    head, *rows = [re.split(r"\s{2,}", line.strip()) for line in str(found).split("\n\n")[0].split("\n") if "─" not in line]
    for label, column, best in (
        ("log density ↑", "mlpd", "idxmax"),
        ("RMSE ↓", "rmse", "idxmin"),
        ("CRPS ↓", "crps", "idxmin"),
    ):
        at = head.index(label) + 1  # the head of the names is blank
        marked = [row[0] for row in rows if row[at].endswith("*")]
        assert marked == [getattr(frame[column], best)()]
        for row in rows:
            assert float(row[at].rstrip("*")) == pytest.approx(frame.loc[row[0], column], rel=1e-2)
    assert "*" not in "".join(row[head.index("width 95%") + 1] for row in rows)


def test_a_coverage_that_misses_its_level_is_marked():
    x, y = data()
    given = posteriors()
    found = compare(given, x, y)
    cells = {line.split("  ")[0]: line.split()[-1] for line in str(found).split("\n\n")[0].split("\n")[2:]}
    for name in given:
        missed = not metrics.coverage(found.predictives[name], y).consistent
        assert cells[name].endswith("!") == missed
    assert cells["poor"].endswith("!")
    assert "has a coverage as far from its level" in str(found)
    assert "has a coverage as far from its level" not in str(compare({"good": given["good"]}, x, y))


def test_dict_is_json_and_frame_has_every_metric(case):
    *_, found = case
    plain = found.to_dict()
    assert json.loads(json.dumps(plain, allow_nan=False)) == plain
    assert plain["best"] == found.best
    assert plain["posteriors"]["poor"]["scores"]["metrics"]["mlpd"] == found.scores["poor"]["mlpd"]
    assert plain["posteriors"]["poor"]["log_density_difference"]["sum"] == found.differences["poor"].sum
    frame = found.to_frame()
    assert isinstance(frame, pd.DataFrame)
    assert list(frame.index) == ["good", "poor", "draws"]
    assert list(frame.columns[6:]) == list(found.scores["good"])
    assert frame.loc["draws", "log_density_difference_se"] == found.differences["draws"].sum_se


def test_every_metric_has_a_head(case):
    *_, found = case
    assert set(found.scores["good"]) <= set(METRICS)
    assert METRICS["mlpd"].head.endswith("↑")
    assert METRICS["ece"].head.endswith("↓")


def test_one_row_and_one_posterior():
    x, y = data()
    found = compare({"only": posteriors()["good"]}, x[:1], y[:1])
    assert found.best == "only"
    assert json.dumps(found.to_dict(), allow_nan=False)
    assert "only" in str(found)
    assert found.to_dict()["posteriors"]["only"]["log_density_difference"]["sum_se"] is None


def test_html_is_a_table_with_escaped_names():
    x, y = data()
    given = posteriors()
    found = compare({"<b>&": given["good"], "poor": given["poor"]}, x, y)._repr_html_()
    assert "&lt;b&gt;&amp;" in found
    assert "<b>&" not in found
    assert found.count('<th scope="row">') == 2
    assert found.count("<tr>") == 3
    assert re.search(r"<b>[\d.−-]+\*</b>", found)


def test_refusals():
    x, y = data()
    given = posteriors()
    with pytest.raises(ValueError, match="posteriors must be a mapping with one entry or more, but an empty one came; pass"):
        compare({}, x, y)
    with pytest.raises(ValueError, match="posteriors must be a mapping with one entry or more, but list came; pass names"):
        compare(list(given.values()), x, y)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"posteriors\['net'\] must be a posterior, but Linear came; pass names"):
        compare({**given, "net": nn.Linear(2, 1)}, x, y)  # pyright: ignore[reportArgumentType]
    mixed = {"a": given["good"], "b": posteriors("binary")["good"]}
    with pytest.raises(ValueError, match="of one likelihood kind, but 'a' is regression, 'b' is binary; compare those"):
        compare(mixed, x, y)
    with pytest.raises(ValueError, match=r"y must have shape \(60,\) as the prediction has, but \(59,\) came"):
        compare(given, x, y[1:])


def test_a_comparison_cannot_be_changed_and_the_random_state_is_kept(case):
    given, x, y, found = case
    before = torch.get_rng_state()
    assert compare(given, x, y, num_samples=40, seed=3).scores == found.scores
    assert torch.equal(torch.get_rng_state(), before)
    assert isinstance(found, Comparison)
    with pytest.raises(AttributeError):
        found.best = "poor"
