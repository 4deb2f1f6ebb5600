"""A table's columns become inputs by what the training rows say, whatever the table came as; the rest is said or refused."""

from __future__ import annotations

import datetime

import numpy as np
import pandas as pd
import pytest
import torch

import bayesreg as br
from bayesreg.data import Encoder, TableError, columns_of, learning

RNG = np.random.default_rng(0)
N = 60


def frame_of(**columns) -> pd.DataFrame:
    return pd.DataFrame({"x": RNG.normal(size=N), **columns})


def inputs(frame, name, **options) -> dict[str, np.ndarray]:
    encoder = Encoder.fit(frame, **options)
    encoded = encoder.transform(frame)
    return {n: encoded[:, i] for i, n in enumerate(encoder.feature_names) if n.startswith(name)}


KINDS = {
    "number": [1.5, None, 3.0] * 20,
    "flag": [True, False, None] * 20,
    "word": ["b", None, "a"] * 20,
    "day": [datetime.date(2020, 1, 1 + i % 28) if i % 7 else None for i in range(N)],
    "text number": ["1", "2.5", None] * 20,
}


def test_pandas_polars_and_arrow_give_the_same_inputs():
    pl = pytest.importorskip("polars")
    pytest.importorskip("pyarrow")
    frames = [pd.DataFrame(KINDS), pd.DataFrame(KINDS).convert_dtypes(), pl.DataFrame(KINDS, strict=False)]
    frames.append(frames[-1].to_arrow())
    encoders = [Encoder.fit(frame, missing="impute") for frame in frames]
    expected = encoders[0].transform(frames[0])
    assert np.isfinite(expected).all()
    for encoder in encoders:
        assert encoder.to_dict() == encoders[0].to_dict()
        assert encoder.notes == encoders[0].notes
        for frame in frames:
            np.testing.assert_array_equal(encoder.transform(frame), expected)


def test_an_encoder_is_plain_values_and_back():
    frame = pd.DataFrame(KINDS)
    encoder = Encoder.fit(frame, missing="impute", transform={"number": "log"})
    again = Encoder.from_dict(encoder.to_dict())
    np.testing.assert_array_equal(again.transform(frame), encoder.transform(frame))
    assert (again.notes, again.feature_names) == (encoder.notes, encoder.feature_names)
    with pytest.raises(ValueError, match="an encoder must be what to_dict gave"):
        Encoder.from_dict({"features": []})
    with pytest.raises(ValueError, match="an encoder's feature must be one of number"):
        Encoder.from_dict({**encoder.to_dict(), "features": [{"kind": "tensor"}]})


def test_medians_and_levels_are_those_of_the_training_rows():
    train = pd.DataFrame({"x": [1.0, None, 3.0, 10.0] * 5, "c": ["a", "b"] * 10})
    new = pd.DataFrame({"c": ["b", "z", None], "x": [None, 7.0, 1e6], "more": 1})
    encoder = Encoder.fit(train, missing="impute")
    assert encoder.feature_names == ["x", "x missing", "c=a", "c=b", "c=other"]
    np.testing.assert_array_equal(encoder.transform(new), [[3, 1, 0, 1, 0], [7, 0, 0, 0, 1], [1e6, 0, 0, 0, 1]])


def test_rare_levels_are_pooled_and_new_ones_go_with_them():
    frame = frame_of(c=["a"] * 30 + ["b"] * 28 + ["c", "d"])
    big = pd.concat([frame] * 2, ignore_index=True).assign(c=["a"] * 60 + ["b"] * 58 + ["c", "d"])
    encoder = Encoder.fit(big)
    assert encoder.feature_names == ["x", "c=a", "c=b", "c=other"]
    assert "2 rare ones joined in 'c=other'" in encoder.notes[-1]
    new = pd.DataFrame({"x": 0.0, "c": ["c", "never seen", "a"]})
    np.testing.assert_array_equal(encoder.transform(new)[:, 1:], [[0, 0, 1], [0, 0, 1], [1, 0, 0]])
    assert "c=c" in Encoder.fit(frame).feature_names  # of few rows none is called rare


def test_the_most_frequent_levels_are_kept():
    frame = frame_of(c=[f"l{i}" for i in range(15)] + ["m"] * 25 + ["n"] * 20)
    assert Encoder.fit(frame, max_levels=2).feature_names == ["x", "c=m", "c=n", "c=other"]


def test_levels_named_as_ours_are_told_apart():
    found = inputs(frame_of(c=["other", "missing", None] * 20), "c", missing="impute")
    assert list(found) == ["c=missing", "c=other", "c=(other)", "c=(missing)"]
    assert [column.sum() for column in found.values()] == [20, 20, 0, 20]


def test_codes_keep_their_zeros():
    frame = frame_of(c=["01", "02", "11"] * 20)
    assert list(inputs(frame, "c", categorical=["c"])) == ["c=01", "c=02", "c=11", "c=other"]
    assert list(inputs(frame, "c")) == ["c"]


def test_a_date_is_elapsed_time_and_what_comes_back():
    when = pd.date_range("2020-01-06 06:00", periods=N * 2, freq="5D")  # a Monday
    frame = pd.DataFrame({"d": when, "x": RNG.normal(size=2 * N)})
    found = inputs(frame, "d")
    assert list(found) == [f"d {part}" for part in ("days", "sin of year", "cos of year", "sin of week", "cos of week")]
    np.testing.assert_allclose(found["d days"], 5.0 * np.arange(2 * N))
    angle = 2 * np.pi * ((5 * np.arange(2 * N) + 0.25) % 7) / 7
    np.testing.assert_allclose(found["d sin of week"], np.sin(angle), atol=1e-12)
    np.testing.assert_allclose(found["d cos of week"], np.cos(angle), atol=1e-12)
    year = (when - pd.to_datetime(when.year.astype(str) + "-01-01")) / pd.Timedelta(days=365.2425)
    np.testing.assert_allclose(found["d sin of year"], np.sin(2 * np.pi * year), atol=1e-12)
    assert list(inputs(frame.assign(d=when.astype(str)), "d")) == list(found)


@pytest.mark.parametrize(
    ("cells", "day"),
    [
        (["2020-02-03", "2020/2/3", "03.02.2020", "3 Feb 2020", "Feb 3, 2020", "03-Feb-20"], "2020-02-03"),
        (["3/2/2020", "3/2/20", "25/2/2020", "3-2-2020"], "2020-02-03"),
        (["2/3/2020", "2/3/20", "2/25/2020", "2-3-2020"], "2020-02-03"),
        (["2020-02-03T10:30:00Z", "2020-02-03 10:30", "2020-02-03T12:30+02:00", "20200203T103000"], "2020-02-03T10:30"),
    ],
)
def test_dates_in_many_forms(cells, day):
    column = columns_of(pd.DataFrame({"d": cells}))["d"]
    assert column.kind == "dates"
    rest = [value for value, cell in zip(column.values, cells, strict=True) if "25" not in cell]
    assert set(rest) == {np.datetime64(day, "us")}


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1", "2.5", "-3e2", " 4 "], [1, 2.5, -300, 4]),
        (["1,5", "3", "1.234,5"], [1.5, 3, 1234.5]),
        (["1,234.5", "2"], [1234.5, 2]),
        (["1,234", "2.5"], [1234, 2.5]),
        (["1 234", "1\u202f234,5"], [1234, 1234.5]),
        (["$3.50", "$1,000"], [3.5, 1000]),
        (["5%", "7.5 %"], [5, 7.5]),
        (["−3", "4"], [-3, 4]),
        (["1", "?", "3"], [1, np.nan, 3]),
        (["1", "N/A", "", "-"], [1, np.nan, np.nan, np.nan]),
        (["12:30", "1:15"], [12.5, 1.25]),
    ],
)
def test_numbers_as_people_write_them(cells, values):
    column = columns_of(pd.DataFrame({"a": cells}))["a"]
    assert column.kind == "numbers"
    np.testing.assert_array_equal(column.values, values)


def test_yes_and_no_are_one_input():
    found = inputs(frame_of(a=["yes", "No"] * 30, b=["y", "n"] * 30, c=["A", "N"] * 30), ("a", "b", "c"))
    assert list(found) == ["a", "c=A", "c=N", "c=other"]  # b says the same as a
    np.testing.assert_array_equal(found["a"], [1, 0] * 30)


LEFT_OUT = {
    "id": (np.arange(1000, 1000 + N)[::-1], "row numbers or an identifier"),
    "nth": (np.arange(N), "row numbers or an identifier"),
    "patient_id": (np.arange(N) // 2 + 7000, "row numbers or an identifier"),
    "name": ([f"n{i}" for i in range(N)], "60 different texts in 60 rows, an identifier or free text"),
    "note": ([f"it was a day like number {i}" for i in range(N)], "free text"),
    "same": (np.full(N, 3.5), "it is the same in every row"),
    "word": (["a"] * N, "it is the same in every row"),
    "empty": ([None] * N, "every value is missing"),
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_is_of_no_use_is_left_out_and_said(name):
    values, why = LEFT_OUT[name]
    encoder = Encoder.fit(frame_of(**{name: values}))
    assert encoder.feature_names == ["x"]
    assert why in encoder.left_out[name]
    assert any(why in note and note.startswith(name) for note in encoder.notes)


def test_what_only_looks_like_it_is_kept():
    frame = frame_of(year=1950 + np.arange(N), size=RNG.permutation(10 * N)[:N], store_id=np.arange(N) % 5)
    assert Encoder.fit(frame).feature_names == ["x", "year", "size", "store_id"]
    assert Encoder.fit(frame_of(id=np.arange(N)), numeric="id").feature_names == ["x", "id"]


def test_copies_are_left_out():
    x, c = RNG.normal(size=N), np.array(["a", "b", "c"] * 20)
    frame = pd.DataFrame({"x": x, "twice": x, "line": 32 + 1.8 * x, "minus": -x, "near": x + 1e-3 * RNG.normal(size=N)})
    frame = frame.assign(c=c, renamed=np.char.add("level ", c))
    encoder = Encoder.fit(frame)
    assert encoder.columns == ["x", "near", "c"]
    assert encoder.left_out["twice"] == "the same as 'x'"
    assert encoder.left_out["line"] == encoder.left_out["minus"] == "a straight line of 'x'"
    assert encoder.left_out["renamed"] == "its levels go with those of 'c', one by one"


def test_columns_that_miss_the_same_rows_are_marked_once():
    a, b = RNG.normal(size=N), RNG.normal(size=N)
    a[::3] = b[::3] = np.nan
    assert Encoder.fit(frame_of(a=a, b=b), missing="impute").feature_names == ["x", "a", "a missing", "b"]


def test_rows_with_gaps_are_refused_or_left_out():
    frame = frame_of(a=[None, *RNG.normal(size=N - 1)], b=["u", "v", None] * 20, unused=np.arange(N))
    told = r"21 of 60 rows came with missing ones \(b 20, a 1\), the first in column 'a', row 1; pass missing='impute' .*"
    with pytest.raises(TableError, match=told + r"or missing='drop' to leave these rows out\."):
        Encoder.fit(frame)
    encoder = Encoder.fit(frame, missing="drop")
    keep = encoder.complete(frame)
    assert keep.sum() == encoder.num_rows == 39
    assert np.isfinite(encoder.transform(frame[keep])).all()
    with pytest.raises(TableError, match=r"keep the rows of encoder.complete\(frame\)"):
        encoder.transform(frame)
    with pytest.raises(TableError, match="a row without missing values must be left, but 60 of 60 rows"):
        Encoder.fit(frame.assign(a=[None] * 30 + [1, 2] * 15, b=["u", "v"] * 15 + [None] * 30), missing="drop")


def test_all_problems_come_at_once():
    frame = frame_of(
        mixed=[*map(str, range(N - 1)), "<0.1"], big=[np.inf, *range(N - 1)], day=["3/4/2020", "5/6/2020"] * 30, deep=[[1]] * N
    )
    with pytest.raises(TableError) as caught:
        Encoder.fit(frame, drop=["colour"], categorical="x", numeric="x")
    said = "\n".join(caught.value.problems)
    assert "column 'mixed', row 60: '<0.1' came where 59 of 60 cells are numbers" in said
    assert "na=['<0.1']" in said
    assert "column 'day', row 1: '3/4/2020' came, whose day and month cannot be told apart" in said
    assert "column 'deep', row 1: values of type list came" in said
    assert "drop= must name a column, but 'colour' came" in said
    assert "column 'x' must be either categorical or a number" in said
    assert str(caught.value).startswith("the table has 6 problems:\n  1. ")
    assert "column 'big', row 1: inf came, where a finite number must stand" in said


def test_transforms():
    frame = frame_of(a=np.exp(RNG.normal(size=N)))
    np.testing.assert_allclose(inputs(frame, "log a", transform={"a": "log"})["log a"], np.log(frame["a"]))
    with pytest.raises(TableError, match=r"column 'x', row \d+: −.* came, where log needs a number > 0"):
        Encoder.fit(frame, transform={"x": "log"})
    with pytest.raises(TableError, match="must be one of log, log1p, sqrt, square, asinh, but 'ln' came"):
        Encoder.fit(frame, transform={"x": "ln"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": "a"}, "column 'x', row 1: 'a' came, where a number must stand"),
        ({"flag": "perhaps"}, "column 'flag', row 1: 'perhaps' came, where 'no' or 'yes' must stand"),
        ({"day": "soon"}, "column 'day', row 1: 'soon' came, where a date must stand; write it as 2020-01-01"),
        ({"x": np.inf}, "column 'x', row 1: inf came, where a finite number"),
        ({"x": None}, "60 of 60 rows came with missing ones"),
    ],
)
def test_a_new_table_must_hold_what_the_first_did(change, message):
    frame = frame_of(flag=["yes", "no"] * 30, day=pd.date_range("2020-01-01", periods=N).astype(str))
    with pytest.raises(TableError, match=message):
        Encoder.fit(frame).transform(frame.assign(**change))


def test_a_new_table_must_have_the_columns():
    frame = frame_of(size=RNG.normal(size=N))
    with pytest.raises(TableError, match="but 'size' did not come; did you mean 'siz'"):
        Encoder.fit(frame).transform(frame.rename(columns={"size": "siz"}))


def test_nothing_left_is_refused():
    with pytest.raises(TableError, match=r"a column to predict from must remain, but all are left out: id \(row numbers"):
        Encoder.fit(pd.DataFrame({"id": np.arange(N)}))


def test_hundred_thousand_levels_take_a_moment():
    many = pd.DataFrame({"x": np.arange(2e5) % 17, "c": [f"l{i % 100_000}" for i in range(200_000)]})
    assert Encoder.fit(many).feature_names == ["x"]
    encoder = Encoder.fit(many, categorical=["c"], max_levels=3)
    assert encoder.feature_names == ["x", "c=other"]


def test_numbers_at_the_ends_of_floating_point():
    ends = pd.DataFrame({"a": [1e308, -1e308] * 30, "b": [5e-324, 0.0] * 30, "c": RNG.normal(size=N)})
    encoder = Encoder.fit(ends)
    assert encoder.feature_names == ["a", "c"]  # b goes up and down with a
    assert np.isfinite(encoder.transform(ends)).all()


def test_inputs_that_do_not_go_into_memory_name_the_widest_column(monkeypatch):
    monkeypatch.setattr(learning, "MAX_MEMORY", 8 * N * 10)
    frame = frame_of(code=[f"c{i % 12}" for i in range(N)])
    told = r"the inputs must go into memory, but 14 inputs in 60 rows came, 13 of them of column 'code'; lower max_levels, or"
    with pytest.raises(TableError, match=told + r" pass drop=\['code'\]"):
        Encoder.fit(frame)


@pytest.mark.parametrize("kind", ["pandas", "category", "polars", "arrow"])
def test_a_data_frame_with_texts_says_which_lines_make_numbers_of_it(kind):
    """And these lines, run as they stand, do."""
    frame = pd.DataFrame({"size": [80.0, 60.0, 75.0, 90.0] * 5, "color": ["red", "blue", "red", "blue"] * 5})
    frames = {
        "pandas": lambda: frame,
        "category": lambda: frame.astype({"color": "category"}),
        "polars": lambda: pytest.importorskip("polars").from_pandas(frame),
        "arrow": lambda: pytest.importorskip("pyarrow").Table.from_pandas(frame),
    }
    X = frames[kind]()
    wanted = (
        "X must be an array of numbers, but 'red' came in column 'color' of the .*, row 1; three lines make numbers of texts"
    )
    with pytest.raises(ValueError, match=wanted) as caught:
        br.fit(br.BayesianModel(torch.nn.Linear(2, 1)), X, np.arange(20.0), method="map")
    with pytest.raises(ValueError, match="three lines"):
        br.BayesianModel(torch.nn.Linear(2, 1)).bind(X, np.arange(20.0))
    names = {"bayesreg": br, "X": X, "X_new": X}
    for line in str(caught.value).splitlines()[1:]:
        exec(line.strip(), names)
    np.testing.assert_array_equal(names["X"], names["X_new"])
    assert names["X"].shape == (20, 4)
    if kind == "pandas":
        with pytest.raises(ValueError, match=r"'red' came in row 1 of the Series; classes have numbers by: classes, y = numpy"):
            br.BayesianModel(torch.nn.Linear(1, 1)).bind(frame[["size"]], frame["color"])
        with pytest.raises(ValueError, match=r"'red' came in row 1 of the ndarray; pass a data frame to data.Encoder"):
            br.BayesianModel(torch.nn.Linear(2, 1)).bind(frame.to_numpy(), np.arange(20.0))
