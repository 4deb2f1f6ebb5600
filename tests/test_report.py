"""A report must show what was found in one page that needs nothing else, and leave nothing half-written."""

import gc
import json
import math
import os
import re
import stat
from html.parser import HTMLParser
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from bayesreg import fit, plots, priors
from bayesreg.certificates import Certificate
from bayesreg.likelihoods import Gaussian
from bayesreg.model import BayesianModel
from bayesreg.posteriors import Dirac, FitRecord
from bayesreg.reports import AbstractSection, Card, Report, comparison_table, findings, pair_facts, report, worst_rows
from bayesreg.solvers import History
from tests.report_cases import D, N, compared, data, draws_of, normal, posteriors

SECTIONS = [
    "verdict",
    "data",
    "priors",
    "convergence",
    "comparison",
    "inputs",
    "parameters",
    "calibration",
    "uncertainty",
    "worst",
    "reading",
]


@pytest.fixture(scope="module", params=["regression", "outputs", "binary", "multiclass"])
def made(request):
    x, y = data(request.param)
    return request.param, report(posteriors(request.param), x, y, num_samples=50, source="a table", notes=["x is as it came."])


# ── the facts ──


def test_facts_are_json_and_say_what_was_fitted(made):
    kind, found = made
    assert isinstance(found, Report)
    assert json.loads(json.dumps(found.data, allow_nan=False)) == found.data
    facts = found.data
    assert facts["comparison"] == json.loads(json.dumps(found.comparison.to_dict()))
    assert (facts["data"]["num_test"], facts["data"]["source"], facts["data"]["notes"]) == (N, "a table", ["x is as it came."])
    assert [model["posteriors"] for model in facts["models"]] == [["MAP", "draws"]]
    assert facts["models"][0]["num_parameters"] == posteriors(kind)["MAP"].model.num_parameters
    fit = facts["fits"]["MAP"]
    assert (fit["method"], fit["seed"], fit["space"], fit["converged"]) == ("map", 3, "constrained", True)
    assert (fit["details"]["scaled gradient"], fit["details"]["nothing"]) == (1e-8, None)
    assert facts["fits"]["draws"]["log_evidence"] == -123.4
    assert set(facts["calibration"]) == {"MAP", "draws"}
    assert all(u["epistemic_sd"] == 0 for u in facts["uncertainty"] if u["posterior"] == "MAP")
    for u in facts["uncertainty"]:
        assert u["sd"] ** 2 == pytest.approx(u["aleatoric_sd"] ** 2 + u["epistemic_sd"] ** 2, rel=1e-6)


def test_pairs_compare_mean_and_mode_in_posterior_sds():
    given = posteriors()
    (pair,) = pair_facts(given, num_samples=200, seed=0)
    assert (pair["mode"], pair["posterior"], pair["hidden"]) == ("MAP", "draws", True)
    assert pair["figures"] == ["0.weight", "0.bias", "2.weight"]
    tensor = next(t for t in pair["tensors"] if t["tensor"] == "0.weight")
    point, mean, std = (p["0.weight"].numpy() for p in (given["MAP"].mean, given["draws"].mean, given["draws"].std))
    distance = np.abs(mean - point) / std
    assert tensor["distance_largest"] == pytest.approx(distance.max(), rel=1e-9)
    assert tensor["learned"] == pytest.approx(np.median(std) / 1.0, rel=0.1)  # Normal(1.0); the lower of two middle entries
    draws = given["draws"].sample(200, seed=0)["0.weight"].numpy()
    ends = np.quantile(draws, [0.025, 0.975], axis=0)
    clear = (ends[0] > 0) | (ends[1] < 0)
    assert tensor["excludes_zero"] == pytest.approx(clear.mean(), abs=1 / 12 + 1e-9)  # one entry may sit on the edge
    noise = next(t for t in pair["tensors"] if t["tensor"] == "noise_scale")
    assert noise["excludes_zero"] is None
    assert noise["scalar"]["mode"] == pytest.approx(float(given["MAP"].mean["noise_scale"]))
    prior_sd = math.sqrt(1 - 2 / math.pi)  # of HalfNormal(1)
    assert noise["learned"] == pytest.approx(noise["scalar"]["sd"] / prior_sd, rel=1e-9)


@pytest.mark.usefixtures("unrendered")
def test_only_fits_of_one_model_are_paired_and_each_prior_table_is_shown_once():
    x, y = data()
    wide = posteriors(prior=priors.Normal(2.0))
    found = report({**posteriors(), "wide": wide["draws"]}, x, y, num_samples=20)
    assert [(pair["mode"], pair["posterior"]) for pair in found.data["pairs"]] == [("MAP", "draws")]
    assert [table["posteriors"] for table in found.data["priors"]] == [["MAP", "draws"], ["wide"]]
    assert found.html.count("<caption><span>Prior of ") == 2
    alone = report({"draws": posteriors()["draws"]}, x, y, num_samples=20)
    assert '<section id="parameters">' not in alone.html


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.usefixtures("unrendered")
def test_inputs_have_their_shares_of_a_linear_function(seed):
    """f = 3 a + b of independent inputs: their variances over that of f, to the error of ten shifts of 200 rows."""
    rng = np.random.default_rng(seed)
    x = np.column_stack([rng.normal(size=(200, 2)), np.zeros(200)])
    f = 3 * x[:, 0] + x[:, 1]
    y = f + 0.1 * rng.normal(size=200)
    post = fit(BayesianModel(nn.Linear(3, 1).double(), likelihood=Gaussian(0.1)), x, y, method="exact")
    found = report({"exact": post}, x, y, num_samples=20, feature_names=["a", "b", "c=1"])
    one, other, none = found.data["inputs"]["shares"]
    assert (one["input"], other["input"], none["input"], none["share"]) == ("a", "b", "c", 0.0)
    assert one["share"] == pytest.approx(9 * x[:, 0].var() / f.var(), abs=0.08)
    assert other["share"] == pytest.approx(x[:, 1].var() / f.var(), abs=0.03)
    assert 0 < one["sd"] < 0.02
    (card,) = (card for card in found.data["verdict"] if card["topic"] == "Inputs")
    assert card["headline"] == "Predictions go most by a and b."
    assert report({"exact": post}, x[:5], y[:5], num_samples=20).data["inputs"]["shares"] == []  # too few rows


def test_a_prior_table_that_is_nearly_the_first_shows_what_differs():
    first = posteriors()["MAP"]
    other = posteriors(prior={"0.weight": priors.Normal(2.0), "*": priors.Normal(1.0)})["draws"]
    found = report({"a": first, "b": other}, *data(), num_samples=20)
    assert "Prior of b: where it differs from that of a; the other tensors have the same" in found.html
    shown = found.html.partition("Prior of b")[2].partition("</table>")[0]
    assert (shown.count("<tr>"), "<code>0.weight</code>" in shown) == (2, True)  # the head and one tensor
    assert [len(table["rows"]) for table in found.data["priors"]] == [5, 5]  # the facts have both whole


def test_worst_rows_are_those_of_lowest_density():
    y = np.zeros(50)
    y[[7, 30, 12]] = [9.0, -7.0, 5.0]
    comparison = compared({"m": normal(np.zeros(50), 1.0, S=20, spread=0.1)}, y)
    found = worst_rows(comparison, y)
    assert [row["row"] for row in found[:3]] == [8, 31, 13]  # from 1
    assert len(found) == 5
    p = comparison.predictives["m"]
    assert found[1]["distance"] == pytest.approx(float((-7 - p.mean[30]) / p.std[30]))
    assert found[0]["log_density"] == pytest.approx(float(p.log_prob(y)[7]))
    two = compared({"m": normal(np.zeros((9, 2)), 1.0)}, np.stack([np.zeros(9), np.arange(9.0)], 1))
    assert worst_rows(two, np.stack([np.zeros(9), np.arange(9.0)], 1))[0] | {"log_density": 0} == {
        "row": 9, "log_density": 0, "inputs": [],
        "output": 1, "observed": 8.0, "predicted": 0.0, "lower": pytest.approx(-1.96, abs=1e-3),
        "upper": pytest.approx(1.96, abs=1e-3), "distance": 8.0,
    }  # fmt: skip


def test_comparison_table_marks_the_best_in_its_direction():
    y = draws_of(1.0, 300)
    comparison = compared({"good": normal(np.zeros(300), 1.0), "poor": normal(np.ones(300), 0.3)}, y)
    table = comparison_table(comparison, findings(comparison, y))
    good, poor = ({h: c["mark"] for h, c in zip(table["heads"], row[1:], strict=True)} for row in table["rows"])
    for head in ("log density ↑", "RMSE ↓", "CRPS ↓"):
        assert (good[head], poor[head]) == ("best", "")
    assert (good["coverage 95%"], poor["coverage 95%"]) == ("", "off")
    assert good["width 95%"] == poor["width 95%"] == ""


# ── the page ──


class Page(HTMLParser):
    """Tags in order, ids, links and what is shown as text; refuses tags that are not closed in order."""

    VOID = ("meta", "link", "path", "use", "wbr")

    def __init__(self, html):
        super().__init__()
        self.tags, self.ids, self.links, self.text, self.open = [], [], [], [], []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        found = dict(attrs)
        self.ids += [found["id"]] if "id" in found else []
        self.links += [found[key] for key in ("href", "src", "aria-labelledby") if key in found]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if not self.open or self.open[-1] != "style":
            self.text.append(data)


def test_page_is_one_file_in_order_and_well_formed(made):
    _, found = made
    page = Page(found.html)
    assert [i for i in page.ids if i in SECTIONS] == SECTIONS
    assert len(page.ids) == len(set(page.ids))
    assert not {"script", "img", "iframe", "object", "image"} & set(page.tags)
    for link in page.links:
        assert link == "data:," or link.removeprefix("#") in page.ids, link
    assert set(re.findall(r"url\(([^)]*)\)", found.html)) <= {f"#{i}" for i in page.ids}
    assert not any(word in found.html for word in ("http:", "https:", "@import", "javascript:"))
    assert page.tags.count("figure") == page.tags.count("figcaption") == page.tags.count("svg") > 6
    assert page.tags.count("table") == page.tags.count("caption")
    assert len(found.html) < 1_500_000
    text = " ".join(page.text)
    assert "nan" not in re.findall(r"[a-z]+", text)
    for card in found.data["verdict"]:
        assert card["headline"] in text.replace("\u00a0", " ")
    assert "not identifiable" in text


def test_whatever_a_person_writes_is_shown_as_text():
    x, y = data("multiclass")
    evil = "<script>alert(1)</script>"
    given = {f"{evil} {name}": posterior for name, posterior in posteriors("multiclass").items()}
    found = report(
        given, x, y, num_samples=20, title=evil, notes=[evil], source=evil, target_name=evil,
        feature_names=[evil, "b", "c"], classes=[evil, "b", "c"],
    )  # fmt: skip
    assert "<script" not in found.html
    assert "<script" not in found._repr_html_()
    assert found.html.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 8
    assert "script" not in Page(found.html).tags


@pytest.mark.parametrize(
    "made",
    [*(pytest.param(kind, marks=pytest.mark.slow) for kind in ("regression", "outputs", "binary")), "multiclass"],
    indirect=True,
)
def test_same_inputs_same_page_but_for_its_date(made):
    kind, found = made
    x, y = data(kind)
    given, before = posteriors(kind), torch.get_rng_state()
    again = report(given, x, y, num_samples=50, source="a table", notes=["x is as it came."])
    assert torch.equal(torch.get_rng_state(), before)

    def undated(one):
        return one.html.replace(one.data["created"], "")

    assert undated(again) == undated(found)
    assert {**again.data, "created": ""} == {**found.data, "created": ""}
    assert found.html.count(found.data["created"]) == 1


@pytest.mark.usefixtures("unrendered")
def test_another_seed_is_another_page():
    x, y = data()
    one, other = (report(posteriors(), x, y, num_samples=50, seed=seed) for seed in (0, 1))
    assert one.html.replace(one.data["created"], "") != other.html.replace(other.data["created"], "")


@pytest.mark.usefixtures("unrendered")
def test_data_frames_bring_their_names_and_constant_columns_are_named():
    x, y = data()
    x[:, 2] = 4.0
    frame = pd.DataFrame(x, columns=["age", "dose", "site"])
    model = BayesianModel(nn.Linear(D, 1).double(), likelihood=Gaussian(0.5), standardize=True).bind(frame, y)
    record = FitRecord("map", 0, History(), Certificate.checked(True, "as made"), 0.1)
    found = report({"MAP": Dirac(model, record, torch.zeros(D + 1, dtype=torch.float64))}, frame, y)
    assert found.data["data"]["features"] == ["age", "dose", "site"]
    assert found.data["models"][0]["constant"] == ["site"]
    assert "age, dose, site" in found.html


@pytest.mark.usefixtures("unrendered")
def test_class_names_stand_in_the_worst_rows():
    x, y = data("binary")
    found = report(posteriors("binary"), x, y, num_samples=20, classes=["benign", "malign"])
    assert {row["observed"] for row in found.data["worst_rows"]} <= {"benign", "malign"}
    assert found.data["data"]["classes"] == ["benign", "malign"]


@pytest.mark.usefixtures("unrendered")
def test_one_row_is_enough():
    x, y = data()
    found = report(posteriors(), x[:1], y[:1], num_samples=20)
    assert json.dumps(found.data, allow_nan=False)
    assert "1 test row" in found.html


def test_summary_for_a_notebook_is_its_verdict(made):
    _, found = made
    summary = found._repr_html_()
    Page(summary)
    assert all(card["headline"] in summary.replace("\u00a0", " ").replace("&#39;", "'") for card in found.data["verdict"])
    assert len(summary) < 8000
    assert repr(found) == "Report('What the mode hid', MAP, draws; 40 rows)"


# ── saving ──


@pytest.fixture(scope="module")
def small():
    x, y = data()
    return report({"MAP": posteriors()["MAP"]}, x, y)


def test_save_writes_page_and_facts(small, tmp_path):
    page, facts = small.save(tmp_path / "report.html")
    assert (page, facts) == (tmp_path / "report.html", tmp_path / "report.json")
    assert page.read_text(encoding="utf-8") == small.html
    assert json.loads(facts.read_text(encoding="utf-8")) == small.data
    assert sorted(p.name for p in tmp_path.iterdir()) == ["report.html", "report.json"]
    page.write_text("old")
    small.save(str(page), force=True)
    assert page.read_text(encoding="utf-8") == small.html


@pytest.mark.parametrize("there", ["report.html", "report.json"])
def test_save_refuses_to_replace_either_file_and_writes_neither(small, tmp_path, there):
    (tmp_path / there).write_text("mine")
    with pytest.raises(ValueError, match=rf"{there}' must not exist yet; pass force=True"):
        small.save(tmp_path / "report.html")
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [(there, "mine")]


def test_save_refuses_what_is_no_place_for_a_report(small, tmp_path):
    with pytest.raises(ValueError, match=r"must be a file ending in \.html, but '.*report\.json' came; write report\.html"):
        small.save(tmp_path / "report.json")
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(ValueError, match=r"must be a file ending in \.html, but '.*folder\.html' came"):
        small.save(tmp_path / "folder.html", force=True)
    (tmp_path / "taken.json").mkdir()
    with pytest.raises(ValueError, match=r"taken\.json' must be free for the facts, but it is a folder"):
        small.save(tmp_path / "taken.html", force=True)
    with pytest.raises(ValueError, match=r"the folder of '.*nowhere/report\.html' must exist; make it first"):
        small.save(tmp_path / "nowhere" / "report.html")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder.html", "taken.json"]


@pytest.mark.parametrize("failing", [1, 2])
@pytest.mark.parametrize("old", [False, True])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_save_leaves_what_was_there_when_it_fails(small, tmp_path, monkeypatch, failing, old, error):
    if old:
        (tmp_path / "report.html").write_text("old page")
        (tmp_path / "report.json").write_text("old facts")
    real, calls = os.replace, []

    def replace(source, target):
        calls.append(target)
        if len(calls) == failing:
            raise error("disk full")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(error, match="disk full"):
        small.save(tmp_path / "report.html", force=old)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == (
        {"report.html": "old page", "report.json": "old facts"} if old else {}
    )


def test_save_leaves_the_umask_alone_and_follows_it(small, tmp_path, monkeypatch):
    before = os.umask(0o027)
    try:
        monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("a umask belongs to all threads"))
        written = small.save(tmp_path / "report.html")
    finally:
        monkeypatch.undo()
        os.umask(before)
    assert [stat.S_IMODE(path.stat().st_mode) for path in written] == [0o640, 0o640]


@pytest.mark.usefixtures("unrendered")
def test_a_name_with_half_a_character_can_be_saved(tmp_path):
    x, y = data()
    made = report({"MAP": posteriors()["MAP"]}, x, y, source=b"caf\xe9.csv".decode(errors="surrogateescape"))
    page, facts = made.save(tmp_path / "report.html")
    assert "caf\\udce9.csv" in page.read_text(encoding="utf-8")
    assert json.loads(facts.read_text(encoding="utf-8"))["data"]["source"] == "caf\udce9.csv"


# ── refusals ──


def test_refusals():
    x, y = data()
    given = posteriors()
    with pytest.raises(ValueError, match="posteriors must be a mapping with one entry or more"):
        report({}, x, y)
    with pytest.raises(ValueError, match=r"y must have shape \(40,\) as the prediction has, but \(39,\) came"):
        report(given, x, y[1:])
    with pytest.raises(
        ValueError, match=r"feature_names must name each input once, but 2 names came for inputs of shape \(3,\)"
    ):
        report(given, x, y, feature_names=["a", "b"])
    with pytest.raises(ValueError, match="notes must be a sequence of sentences, but one text came; write notes="):
        report(given, x, y, notes="x is as it came.")
    with pytest.raises(ValueError, match="classes must be left out for a regression, but names came"):
        report(given, x, y, classes=["a"])
    x, y = data("multiclass")
    with pytest.raises(ValueError, match=r"classes must name each of the 3 classes, but \['a', 'b'\] came; give them in label"):
        report(posteriors("multiclass"), x, y, classes=["a", "b"])


@pytest.mark.usefixtures("unrendered")
def test_a_section_is_one_file():
    given = posteriors()

    class Rows(AbstractSection):
        """What a person may write in a file of their own."""

        id, title, place = "rows", "Rows", 4.5
        template = '<section id="rows"><p>{{ data.rows | number }} {{ word }}</p>{{ gallery(figures) }}</section>'
        words: ClassVar[dict[str, str]] = {"Row": "one case."}

        def facts(self, made):
            return {"rows": made.comparison.num_data}

        def cards(self, made):
            yield Card("Rows", "neutral", f"{made.data['rows']} rows.", (), "rows")

        def shown(self, made):
            figure = plots.history(made.posteriors["MAP"], series=0)
            return {"word": "rows", "figures": [made.draw(figure, "MAP", "went up")]}

    found = report(given, *data())
    assert found.data["rows"] == N
    assert found.data["verdict"][-1]["headline"] == f"{N} rows."
    for piece in ('<a href="#rows">Rows</a>', f"<p>{N} rows</p>", "<dt>Row</dt><dd>one case.</dd>", "went up"):
        assert piece in found.html
    assert found.html.index('id="comparison"') < found.html.index('id="rows"') < found.html.index('id="parameters"')
    del Rows
    gc.collect()  # the class tree is the registry
    assert "rows" not in report(given, *data()).data
