"""A report of what people have: names that are none, data frames of all sorts, methods that cannot be had."""

import csv
import json
import re

import numpy as np
import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from bayesreg.cli import app
from bayesreg.comparison import compare
from bayesreg.reports import inputs_of, report, row_names
from tests.report_cases import N, data, posteriors

pytestmark = pytest.mark.usefixtures("unrendered")


def made(x, y, **options):
    return report({"MAP": posteriors()["MAP"]}, x, y, num_samples=20, **options)


NAMES = [
    ({1: "post"}, {}, r"each posterior must have a name, a text, but 1 came; pass names with posteriors"),
    ({None: "post"}, {}, r"each posterior must have a name, a text, but None came"),
    ({" ": "post"}, {}, r"each posterior must have a name, a text, but ' ' came"),
    (None, {"feature_names": "abc"}, r"feature_names must be a sequence of one name .* one text came; write .*\['abc'\]"),
    (None, {"feature_names": b"abc"}, r"feature_names must be a sequence of one name a column, .* one text came"),
    (None, {"feature_names": 3}, r"feature_names must be a sequence of one name a column, .* but int came; pass a list"),
    (None, {"feature_names": {"a": 1, "b": 2, "c": 3}}, r"feature_names must be a sequence of .* but dict came; pass a list"),
    (None, {"feature_names": ["a", "b"]}, r"feature_names must name each input once, but 2 names came"),
    (None, {"feature_names": ["a", "b", "a"]}, r"feature_names must differ, but 'a' came more than once; rename one"),
    (None, {"notes": 5}, r"notes must be a sequence of sentences, but int came; pass a list"),
    (None, {"row_names": "r" * N}, r"row_names must be a sequence of one name a row, but 'r+' came"),
    (None, {"row_names": [1, 2]}, rf"row_names must name each row, but 2 came for {N} rows"),
    (None, {"missing": {"MAP": "why"}}, r"missing must hold names of .*, though a posterior has that name"),
    (None, {"missing": {"laplace": 3}}, r"missing must hold names of fits that failed, each with a reason"),
]  # fmt: skip


@pytest.mark.parametrize(("names", "options", "told"), NAMES)
def test_names_that_are_none_get_one_sentence(names, options, told):
    x, y = data()
    post = posteriors()["MAP"]
    with pytest.raises(ValueError, match=told) as error:
        report({"MAP": post} if names is None else dict.fromkeys(names, post), x, y, num_samples=20, **options)
    assert str(error.value).count("\n") == 0
    if names is not None:
        with pytest.raises(ValueError, match=told):
            compare(dict.fromkeys(names, post), x, y)


@pytest.mark.parametrize(
    ("names", "told"),
    [("ab", r"classes must be a sequence .* one text came"), (["a", "a"], "classes must differ, but 'a' came more than once")],
)
def test_class_names(names, told):
    x, y = data("binary")
    with pytest.raises(ValueError, match=told):
        report(posteriors("binary"), x, y, num_samples=20, classes=names)


# ── worst rows ──


def spoiled(y, at, by=40.0):
    y = y.copy()
    y[at] += by
    return y


INDICES = {
    "numbers of a file": (range(100, 100 + N), [107]),
    "shuffled": (np.random.default_rng(0).permutation(N), None),
    "names": ([f"patient {i}" for i in range(N)], ["patient 7"]),
    "dates": (pd.date_range("2026-01-01", periods=N), ["2026-01-08 00:00:00"]),
    "two levels": (pd.MultiIndex.from_product([["a"], range(N)]), ["('a', 7)"]),
    "twice the same": ([5] * N, [5]),
}


@pytest.mark.parametrize("kind", INDICES)
def test_rows_of_a_data_frame_are_called_as_it_calls_them(kind):
    index, wanted = INDICES[kind]
    names, sentence = row_names(pd.DataFrame({"age": np.zeros(N)}, index=index), N)
    assert names[7] == (int(index[7]) if wanted is None else wanted[0])
    assert json.loads(json.dumps(names)) == names
    assert sentence == "Rows are called as in the data frame's index."


def test_worst_rows_are_called_as_the_data_frame_calls_them_and_show_its_inputs():
    x, y = data()
    frame = pd.DataFrame(x, columns=["age", "dose", "site"], index=range(100, 100 + N))
    found = made(frame, spoiled(y, 7))
    worst = found.data["worst_rows"][0]
    assert (worst["row"], worst["inputs"]) == (107, [[name, pytest.approx(x[7, k])] for k, name in enumerate(frame.columns)])
    assert "Rows are called as in the data frame&#39;s index." in found.html
    assert ">107</th>" in found.html
    assert re.search(r"age = −?[\d.]+,</span>", found.html)


def test_rows_without_names_are_numbered_from_one():
    x, y = data()
    found = made(torch.as_tensor(x), spoiled(y, 0))
    assert (found.data["worst_rows"][0]["row"], found.data["worst_rows"][0]["inputs"][0][0]) == (1, "1")
    assert "Rows are numbered from 1" in found.html
    assert row_names(x.tolist(), N)[0] == list(range(1, N + 1))
    assert row_names(x, N, np.arange(N) + 500)[0][0] == 500


def test_of_many_inputs_the_most_unusual_are_shown():
    x = np.random.default_rng(0).normal(size=(50, 300))
    x[4, [17, 250]] = [30.0, -40.0]
    ((*shown,),) = inputs_of(x, [4], None)
    assert len(shown) == 6
    assert [pair for pair in shown if abs(pair[1]) > 10] == [["18", 30.0], ["251", -40.0]]
    assert inputs_of(np.zeros((5, 1, 8, 8)), [0, 1], None) == [[], []]


# ── the command line ──


def table(folder, columns, rows=60, blank=()):
    """The target is the first input, but for row 41, counted from 1, which is far off; some rows have an empty cell."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, columns))
    y = x[:, 0] + 0.1 * rng.normal(size=rows)
    path = folder / "table.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow([*(f"c{k}" for k in range(columns)), "y"])
        for i in range(rows):
            cells = [*map(str, x[i]), str(y[i])]
            writer.writerow(["" if i + 1 in blank and k == 1 else cell for k, cell in enumerate(cells)])
    return path, x, y


def command(file, folder, *words):
    quick = ["--target", "y", "--num-steps", "5", "--num-samples", "20", "--out", str(folder / "r.html")]
    return CliRunner().invoke(app, ["report", str(file), *quick, *words])


def test_worst_rows_have_the_numbers_of_the_file(tmp_path):
    file, x, y = table(tmp_path, 2, blank=(1, 2, 30))
    result = command(file, tmp_path, "--drop-missing", "--hidden", "0", "--method", "map")
    assert result.exit_code == 0, result.output
    facts = json.loads((tmp_path / "r.json").read_text())
    assert facts["data"]["notes"][-2:] == [
        "46 rows to fit, 11 held out at random; seed 0.", "Row numbers count the file's rows of data from 1."
    ]  # fmt: skip
    worst = facts["worst_rows"]
    assert len(worst) == 5
    for row in worst:
        at = row["row"] - 1
        assert row["observed"] == pytest.approx(y[at], rel=1e-5)
        assert [value for _, value in row["inputs"]] == pytest.approx(list(x[at]), rel=1e-5)
        assert at + 1 not in (1, 2, 30)


@pytest.mark.parametrize(
    ("words", "left", "out", "told"),
    [
        pytest.param(["--method", "map", "--method", "full-rank", "--hidden", "700"], ["map"], ["full-rank"],
         "takes at most 2,000 unknowns, but the model has .*; take ", marks=pytest.mark.slow),
        (["--method", "mc-dropout", "--method", "map", "--method", "exact"], ["map"], ["mc-dropout", "exact"],
         "add --dropout 0.05, or fit by --method map"),
        pytest.param(["--method", "mc-batchnorm", "--method", "map"], ["map"], ["mc-batchnorm"],
         "add --batchnorm, or fit by --method map", marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_a_method_that_cannot_be_had_is_left_out_and_named(tmp_path, words, left, out, told):
    file, *_ = table(tmp_path, 6)
    result = command(file, tmp_path, *words)
    assert result.exit_code == 0, result.output
    warnings = result.stderr.splitlines()
    assert [line.split()[1] for line in warnings] == out
    assert all(line.startswith("Warning: ") and "is left out of the report: " in line for line in warnings)
    assert re.search(told, result.stderr)
    facts, page = json.loads((tmp_path / "r.json").read_text()), (tmp_path / "r.html").read_text()
    assert (list(facts["fits"]), list(facts["missing"])) == (left, out)
    (card,) = (card for card in facts["verdict"] if card["topic"] == "Convergence")
    assert "could not be fitted." in card["headline"]
    assert page.count("Not fitted") == len(out)


def test_where_no_method_can_be_had_there_is_no_report(tmp_path):
    file, *_ = table(tmp_path, 6)
    result = command(file, tmp_path, "--method", "mc-dropout", "--method", "mc-batchnorm")
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: mc-dropout: MCDropout needs a network with dropout")
    assert result.stderr.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["table.csv"]
