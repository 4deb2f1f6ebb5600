"""A model that was fitted to a table predicts another one: beside its own columns, by the training rows' medians and levels."""

from __future__ import annotations

import csv
import os
import warnings

import numpy as np
import pytest

import bayesreg as br
from bayesreg.cli import job as job
from bayesreg.cli import models as models
from tests.test_cli import QUICK, invoke, refused, written

pytestmark = pytest.mark.usefixtures("unrendered")
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
    """Lines are not wrapped, however long the paths are."""
    monkeypatch.setenv("COLUMNS", "400")


def table(number=60, **changed) -> str:
    """A file with numbers, gaps, levels, a date and an id."""
    size, kind = RNG.normal(100, 30, number), RNG.choice(["a", "b", "c"], number)
    price = 2 * size + 40 * (kind == "a") + RNG.normal(0, 10, number)
    cells = {
        "id": [f"n{i}" for i in range(number)],
        "size": [f"{v:.4f}" if i % 7 else "" for i, v in enumerate(size)],
        "kind": kind,
        "day": [f"2020-01-{1 + i % 28:02}" for i in range(number)],
        "price": [f"{v:.4f}" for v in price],
        "dear": np.where(price > 200, "yes", "no"),
    } | changed
    rows = zip(*cells.values(), strict=True)
    return "\n".join([",".join(cells), *(",".join(map(str, row)) for row in rows)]) + "\n"


def save_fit(file, path, target, **options):
    """What `bayesreg report --save` does, without its report."""
    case = job.read(job.Asked(file, target, **options), None, 0)
    model = job.model(case, job.Network((3,)), job.rules([]), 0)
    method = br.inference.MAP(num_steps=20, compile=False, certify=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", br.ConvergenceWarning)
        posterior = br.fit(model, case.split.X_train, case.split.y_train, method=method, progress=False)
    models.save_model(posterior, case, path, force=False)
    return case


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A folder with a file and models of its price and of its class."""
    folder = tmp_path_factory.mktemp("fitted")
    file = written(folder / "houses.csv", table())
    for target, drop in (("price", "dear"), ("dear", "price")):
        case = save_fit(file, folder / f"{target}.pt", target, drop=(drop,))
        assert "in 1 column of the training rows: imputed (--missing drop leaves such rows out" in case.said[0]
    return folder


def test_a_report_saves_its_model(tmp_path):
    file = written(tmp_path / "houses.csv", table())
    words = ["report", file, "--target", "price", *QUICK, "--method", "map", "--out", tmp_path / "r.html"]
    out = invoke(*words, "--save", tmp_path / "m.pt").stdout
    assert f"Model: {tmp_path / 'm.pt'}, of map; predict new rows by: bayesreg predict" in out
    invoke("predict", tmp_path / "m.pt", file, "--out", tmp_path / "p.csv")
    assert "m.pt' must not exist yet; pass --force" in refused(*words[:-1], tmp_path / "q.html", "--save", tmp_path / "m.pt")


def rows_in(path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_predictions_stand_beside_the_files_own_columns(fitted, tmp_path):
    new = written(tmp_path / "new.csv", table(25))
    out = invoke("predict", fitted / "price.pt", new, "--out", tmp_path / "p.csv", "--level", 0.9).stdout
    made, own = rows_in(tmp_path / "p.csv"), rows_in(new)
    assert [{key: row[key] for key in own[0]} for row in made] == own
    assert list(made[0])[-4:] == ["price mean", "price sd", "price 5 %", "price 95 %"]
    saved = models.load_model(fitted / "price.pt")
    posterior = br.load(fitted / "price.pt")
    predictive = posterior.predict(saved.encoder.transform(br.data.read_file(new).columns), seed=0)
    np.testing.assert_allclose([float(row["price mean"]) for row in made], predictive.mean.double().numpy(), rtol=1e-5)
    np.testing.assert_allclose([float(row["price sd"]) for row in made], predictive.std.double().numpy(), rtol=1e-5)
    low, high = predictive.interval(0.9)
    np.testing.assert_allclose([float(row["price 5 %"]) for row in made], low.double().numpy(), rtol=1e-5)
    np.testing.assert_allclose([float(row["price 95 %"]) for row in made], high.double().numpy(), rtol=1e-5)
    assert "p.csv: 25 rows of new.csv with predictions of 'price'" in out
    assert "4 rows with missing values: filled in as in training" in out
    assert "not used: id" in out


def test_classes_have_their_probabilities(fitted, tmp_path):
    new = written(tmp_path / "new.csv", table(9))
    invoke("predict", fitted / "dear.pt", new, "--out", tmp_path / "p.csv")
    for row in rows_in(tmp_path / "p.csv"):
        shares = {name: float(row[f"P(dear={name})"]) for name in ("no", "yes")}
        assert sum(shares.values()) == pytest.approx(1.0, abs=1e-5)
        assert row["dear predicted"] == max(shares, key=shares.get)


def test_blocks_of_rows_are_predicted_as_all_of_them_are(fitted, tmp_path, monkeypatch):
    new = written(tmp_path / "new.csv", table(23))
    invoke("predict", fitted / "price.pt", new, "--out", tmp_path / "one.csv")
    monkeypatch.setattr(models, "_BLOCK", 5)
    invoke("predict", fitted / "price.pt", new, "--out", tmp_path / "many.csv")
    assert (tmp_path / "one.csv").read_text() == (tmp_path / "many.csv").read_text()


def test_the_order_of_columns_and_the_way_of_writing_do_not_matter(fitted, tmp_path):
    text = table(12)
    new = written(tmp_path / "new.csv", text)
    invoke("predict", fitted / "price.pt", new, "--out", tmp_path / "p.csv")
    swapped = "\n".join(";".join(reversed(line.split(","))) for line in text.strip().split("\n"))
    (tmp_path / "other.csv").write_bytes(swapped.encode("utf-16"))
    invoke("predict", fitted / "price.pt", tmp_path / "other.csv", "--out", tmp_path / "q.csv")
    for one, other in zip(rows_in(tmp_path / "p.csv"), rows_in(tmp_path / "q.csv"), strict=True):
        assert one == other


def test_new_levels_are_said(fitted, tmp_path):
    new = written(tmp_path / "new.csv", table(12, kind=["a", "z", "b"] * 4))
    out = invoke("predict", fitted / "price.pt", new, "--out", tmp_path / "p.csv").stdout
    assert "kind: 4 rows with a level that has no input of its own, such as 'z'" in out


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"size": ["big"] * 12}, "column 'size', row 1 (line 2): 'big' came, where a number must stand; correct it, or leave"),
        ({"size": [*["1"] * 11, "1e400"]}, "column 'size', row 12 (line 13): '1e400' came, where a finite number must stand"),
        ({"day": ["soon"] * 12}, "column 'day', row 1 (line 2): 'soon' came, where a date must stand; write it as 2020-01-01"),
    ],
)
def test_a_cell_of_another_type_is_refused_and_nothing_written(fitted, tmp_path, monkeypatch, changed, told):
    monkeypatch.setattr(models, "_BLOCK", 5)
    new = written(tmp_path / "new.csv", table(12, **changed))
    assert told in refused("predict", fitted / "price.pt", new, "--out", tmp_path / "p.csv")
    assert os.listdir(tmp_path) == ["new.csv"]


def test_what_predict_refuses(fitted, tmp_path):
    new = written(tmp_path / "new.csv", table(12).replace("size", "sise", 1))
    words = ["predict", fitted / "price.pt", new, "--out", tmp_path / "p.csv"]
    told = "must have the columns of the fit, 'size', 'kind', 'day', but 'size' did not come; did you mean 'sise'"
    assert told in refused(*words)
    assert "--out must end in .csv" in refused(*words[:3], "--out", "p.xlsx")
    assert "--level must be below 1" in refused(*words, "--level", 1.5)
    assert "path must be a file that is there" in refused(*words[:2], tmp_path / "nowhere.csv", "--out", tmp_path / "p.csv")
    assert "there must be a file to load" in refused("predict", tmp_path / "no.pt", new, "--out", tmp_path / "p.csv")
    assert "must be a model written by bayesreg report --save" in refused("predict", new, new, "--out", tmp_path / "p.csv")
    empty = written(tmp_path / "empty.csv", table(12).split("\n")[0] + "\n")
    told = refused(*words[:2], empty, "--out", tmp_path / "p.csv")
    assert "empty.csv must have rows to predict, but none came; check the file." in told
    mine = written(tmp_path / "mine.csv", "mine")
    assert "must not exist yet; pass --force" in refused(*words[:3], "--out", mine)
    posterior = br.load(fitted / "price.pt")
    br.save(posterior, tmp_path / "post.pt")
    words[1] = tmp_path / "post.pt"
    assert "but it is a posterior; pass another file" in refused(*words)
    assert mine.read_text() == "mine"
    assert sorted(os.listdir(tmp_path)) == ["empty.csv", "mine.csv", "new.csv", "post.pt"]


def test_dropped_rows_have_no_prediction(tmp_path):
    file = written(tmp_path / "houses.csv", table())
    save_fit(file, tmp_path / "m.pt", "price", missing="drop")
    out = invoke("predict", tmp_path / "m.pt", file, "--out", tmp_path / "p.csv").stdout
    empty = [row["price mean"] == "" for row in rows_in(tmp_path / "p.csv")]
    assert empty == [i % 7 == 0 for i in range(60)]
    assert "9 rows with missing values: no prediction (the model was fitted with --missing drop)" in out


def test_models_are_compared_on_new_rows(fitted, tmp_path):
    new = written(tmp_path / "new.csv", table(40))
    save_fit(fitted / "houses.csv", tmp_path / "blind.pt", "price", drop=("dear", "size"))
    out = invoke("compare", new, fitted / "price.pt", tmp_path / "blind.pt").stdout
    assert "new.csv: 40 rows with 'price'" in out
    assert "price" in out.splitlines()[1]
    assert "there must be two models to compare" in refused("compare", new, fitted / "price.pt")
    blind = written(tmp_path / "blind.csv", table(12).replace("price", "prize"))
    told = refused("compare", blind, fitted / "price.pt", tmp_path / "blind.pt")
    assert "blind.csv must have the target to compare by, but 'price' did not come; did you mean 'prize'" in told
    told = refused("compare", new, fitted / "price.pt", fitted / "dear.pt")
    assert "models to compare must have one target with the same classes, but dear predicts 'dear' and price 'price'" in told


def test_a_split_by_time_or_by_group_and_a_file_of_its_own(tmp_path):
    file = written(tmp_path / "houses.csv", table(60, day=[f"2020-{1 + i // 28:02}-{1 + i % 28:02}" for i in range(60)]))
    late = job.read(job.Asked(file, "price", split="time:day", test_fraction=0.25), None, 0)
    np.testing.assert_array_equal(late.prepared.rows[1], np.arange(46, 61))
    assert late.how == "held out by time:day"
    group = job.read(job.Asked(file, "price", split="group:kind"), None, 0)
    kinds = np.array([row["kind"] for row in rows_in(file)])
    assert not set(kinds[group.prepared.rows[0] - 1]) & set(kinds[group.prepared.rows[1] - 1])
    assert "kind: left out: as asked" in group.prepared.notes
    test = written(tmp_path / "test.csv", table(13, kind=["z"] * 13))
    other = job.read(job.Asked(file, "price", test=test), None, 0)
    assert (len(other.split.y_train), len(other.split.y_test), other.how) == (60, 13, "of test.csv")
    assert other.split.X_test[:, other.feature_names.index("kind=other")].all()


def test_medians_and_levels_are_the_training_rows(tmp_path):
    sizes = [f"{i}" if i % 3 else "" for i in range(60)]
    file = written(
        tmp_path / "houses.csv", table(60, size=sizes, day=[f"2020-{1 + i // 28:02}-{1 + i % 28:02}" for i in range(60)])
    )
    case = job.read(job.Asked(file, "price", split="time:day"), None, 0)
    known = [float(size) for size in sizes[:48] if size]
    assert case.split.X_test[0, case.feature_names.index("size missing")] == 1.0
    assert case.split.X_test[0, case.feature_names.index("size")] == np.median(known)


def test_rows_with_missing_values_leave_before_the_others_are_divided(tmp_path):
    """A third has no size: the test part is a fifth of what is left, the same rows as of a file that never had the others."""
    file = table(90)
    gaps = [line.replace(line.split(",")[1], "", 1) if i and i % 3 == 0 else line for i, line in enumerate(file.splitlines())]
    whole = [line for line in gaps if ",," not in line]
    cases = [
        job.read(
            job.Asked(written(tmp_path / name, "\n".join(lines)), "price", drop=("dear", "id", "day"), missing="drop"), None, 0
        )
        for name, lines in (("gaps.csv", gaps), ("whole.csv", whole))
    ]
    assert len(whole) - 1 < 65
    for one, other in zip(*(case.split for case in cases), strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(cases[0].split.y_test) == round(0.2 * (len(whole) - 1))
    assert f"{90 - (len(whole) - 1)} rows of 90 with missing values left out" in cases[0].prepared.notes


def test_groups_and_codes_are_pointed_out(tmp_path):
    rng = np.random.default_rng(0)
    patient = np.repeat(np.arange(40), 3)
    sex, race = rng.choice(["f", "m"], 40)[patient], rng.integers(1, 4, 120)
    rows = zip(patient, sex, race, rng.integers(20, 70, 120), rng.normal(size=120), strict=True)
    file = written(
        tmp_path / "visits.csv", "patient,sex,race,age,y\n" + "".join(",".join(map(str, row)) + "\n" for row in rows)
    )
    case = job.read(job.Asked(file, "y"), None, 0)
    (said,) = (note for note in case.said if "repeated" in note)
    assert said.startswith("rows may be repeated measurements, by patient (40 values): held out at random, rows are judged")
    assert said.endswith("--split group:patient holds out whole groups.")
    assert "race: few whole numbers, taken as amounts (categorical= takes codes of categories as these)" in case.prepared.notes
    case = job.read(job.Asked(file, "y", split="group:patient", categorical=("race",)), None, 0)
    assert not any("repeated" in note or "amounts" in note for note in (*case.said, *case.prepared.notes))
    assert not {*patient[case.prepared.rows[0] - 1]} & {*patient[case.prepared.rows[1] - 1]}


def test_the_likelihood_follows_the_target_and_is_said(tmp_path):
    counts = RNG.negative_binomial(2, 0.3, 60)
    file = written(tmp_path / "houses.csv", table(60, price=counts))
    out = invoke("priors", file, "--target", "price").stdout
    assert "NegativeBinomial" in out
    assert "dispersion" in out
    assert "dispersion" not in invoke("priors", file, "--target", "price", "--likelihood", "Poisson()").stdout


def test_what_the_first_file_showed_holds_for_the_next(tmp_path):
    rows = "".join(f"{1 + i % 28}/{1 + i % 12}/2020;{1000 + i},{i % 10};{i % 5},5\n" for i in range(60))
    file = written(tmp_path / "a.csv", f"day;size;price\n{rows}")
    invoke(
        "report",
        file,
        "--target",
        "price",
        *QUICK,
        "--method",
        "map",
        "--out",
        tmp_path / "r.html",
        "--save",
        tmp_path / "m.pt",
    )
    reading = models.load_model(tmp_path / "m.pt").reading
    assert (reading.writing.decimal, reading.writing.dates) == (",", "dmy")
    new = written(tmp_path / "new.csv", "day;size\n3/4/2020;1,234\n")  # either could be read in two ways
    invoke("predict", tmp_path / "m.pt", new, "--out", tmp_path / "p.csv")
    assert len(rows_in(tmp_path / "p.csv")) == 1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_likelihood_by_its_score_on_training_rows(tmp_path, seed):
    rng = np.random.default_rng(seed)
    size = rng.normal(0, 1, 300)
    cases = {"StudentT": 2 * size + 0.3 * rng.standard_t(1.5, 300), "LogNormal": np.exp(size + rng.normal(0, 1, 300))}
    for name, y in cases.items():
        rows = "".join(f"{a:.6f},{b:.6f}\n" for a, b in zip(size, y, strict=True))
        case = job.read(job.Asked(written(tmp_path / "a.csv", f"x,y\n{rows}"), "y"), "auto", seed)
        assert type(case.likelihood).__name__ == name
        assert case.said[0].startswith(f"{name}: the highest log density on 48 training rows left out")


def test_what_tells_the_target_and_what_may_be_missing_is_asked(tmp_path):
    score = RNG.normal(size=60).round(3)
    income = [-999 if i % 9 == 0 else 100 + i % 7 for i in range(60)]
    text = table(60, score=score, low=np.where(score > 0.1, "yes", "no"), income=income)
    notes = job.read(job.Asked(written(tmp_path / "a.csv", text), "low"), None, 0).prepared.notes
    assert "score: tells 'low' by itself, without error; is it known only afterwards? (drop=['score'])" in notes
    assert any(note.startswith("income: -999 came ") and "a missing value? (na=['-999'])" in note for note in notes)
    said = invoke("priors", tmp_path / "a.csv", "--target", "low").stdout
    assert "(--drop score)" in said
    assert "(--na -999)" in said
    assert "income missing" in str(job.read(job.Asked(tmp_path / "a.csv", "low", reading=na("-999")), None, 0).feature_names)


def na(*marks):
    return job.reading_of(None, None, None, None, marks, True, 0, None, "refuse")
