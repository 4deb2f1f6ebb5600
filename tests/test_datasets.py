"""A file becomes arrays, exactly and with a record of how; what would need a guess is refused."""

from __future__ import annotations

import datetime
import decimal
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bayesreg.data import Split, Table, load_breast_cancer, load_diabetes, load_uci, read_table

SEEDS = [0, 1, 2]
HOUSES = "size,waterfront,color,price\n80,True,red,1.5\n60,False,blue,1.25\n70.5,True,green,2\n"


def written(folder: Path, text: str | bytes, name: str = "houses.csv") -> Path:
    file = folder / name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def read(folder: Path, text: str | bytes, target: str = "price", **options) -> Table:
    return read_table(written(folder, text), target, **options)


def parquet(folder: Path, columns: dict) -> Path:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table(columns), folder / "houses.parquet")
    return folder / "houses.parquet"


def assert_same(one: Table, other: Table) -> None:
    np.testing.assert_allclose(one.X, other.X, rtol=1e-12)  # pandas before 3 reads 17 characters of a decimal
    np.testing.assert_allclose(one.y, other.y, rtol=1e-12)
    assert one.y.dtype == other.y.dtype
    for name in ("feature_names", "target", "kind", "classes", "encoding", "num_dropped"):
        assert getattr(one, name) == getattr(other, name), name


def classification(counts: list[int]) -> Table:
    y = np.repeat(np.arange(len(counts)), counts)
    y = y[np.random.default_rng(7).permutation(len(y))]
    names = [f"class {k}" for k in range(len(counts))]
    return Table(np.arange(float(len(y)))[:, None], y, ["row"], "y", "multiclass", names, [], "made.csv", 0)


def test_a_csv_by_hand(tmp_path):
    table = read(tmp_path, HOUSES)
    assert table.feature_names == ["size", "waterfront", "color=blue", "color=green", "color=red"]
    np.testing.assert_array_equal(table.X, [[80, 1, 0, 0, 1], [60, 0, 1, 0, 0], [70.5, 1, 0, 1, 0]])
    np.testing.assert_array_equal(table.y, [1.5, 1.25, 2.0])
    assert table.X.dtype == table.y.dtype == np.float64
    assert (table.target, table.kind, table.classes, table.num_dropped) == ("price", "regression", None, 0)
    assert table.encoding == [
        "price: target, numeric, regression",
        "1 numeric column, unchanged",
        "waterfront: boolean, 0/1",
        "color: categorical, 3 levels, one-hot (color=blue, color=green, color=red)",
    ]
    assert repr(table) == "Table(houses.csv: 3 rows, 5 features, regression on 'price')"


@pytest.mark.parametrize(
    "text",
    [
        HOUSES.replace(",", ";"),
        HOUSES.replace(",", "\t"),
        b"\xef\xbb\xbf" + HOUSES.encode(),
        HOUSES.replace(",", ", ").replace("color", "color "),
        HOUSES.replace("\n", "\r\n"),
        "\n" + HOUSES.replace("\n", "\n\n"),
        HOUSES.replace("red", '"red"').replace("size", '"size"'),
    ],
    ids=["semicolon", "tab", "byte-order-mark", "spaces", "windows", "blank-lines", "quotes"],
)
def test_the_same_table_however_csv_is_written(tmp_path, text):
    assert_same(read(tmp_path, text), read(tmp_path, HOUSES))


def test_a_delimiter_inside_quotes_or_fewer_times_in_the_header_does_not_split(tmp_path):
    table = read(tmp_path, 'a;"size, m2";price\n"x, y";1;2.5\nz;2;3\n')
    assert table.feature_names == ["a=x, y", "a=z", "size, m2"]


def test_csv_and_parquet_give_the_same_table(tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "size": rng.normal(size=500) * 1e3,
            "rooms": rng.integers(0, 9, 500),
            "garden": rng.random(500) < 0.3,
            "city": rng.choice(["Köln", "Aachen", "Zürich", "new york"], 500),
            "price": rng.normal(size=500),
        }
    )
    frame.loc[[3, 77], "size"] = np.nan
    frame.loc[[77, 200, 201], "city"] = None
    frame.to_csv(tmp_path / "houses.csv", index=False)
    typed = frame.assign(city=pd.Categorical(frame["city"], ["Zürich", "new york", "Oslo", "Köln", "Aachen"]))
    for target in ("price", "city", "garden"):
        table = read_table(tmp_path / "houses.csv", target, drop_missing=True)
        for version in (frame, typed):
            file = parquet(tmp_path, {name: version[name] for name in version})
            assert_same(table, read_table(file, target, drop_missing=True))
    assert table.num_dropped == 4
    assert table.encoding[-1] == "4 of 500 rows dropped for missing values (city 3, size 2)"
    assert "city=Oslo" not in table.feature_names  # a category that does not occur


def test_parquet_types(tmp_path):
    columns = {
        "small": np.array([1, 2, 3], dtype=np.float32),
        "money": [decimal.Decimal("1.10"), decimal.Decimal("2.20"), None],
        "flag": [True, None, False],
        "price": [1, 2, None],
    }
    with pytest.raises(ValueError, match=r"2 of 3 rows came with missing ones \(money 1, flag 1, price 1\)"):
        read_table(parquet(tmp_path, columns), "price")
    columns = {**columns, "price": [1, 2, 3], "flag": [True, True, False]}
    table = read_table(parquet(tmp_path, columns), "price", drop_missing=True)
    np.testing.assert_array_equal(table.X, [[1, 1.1, 1], [2, 2.2, 1]])
    assert "flag: boolean, 0/1, constant (1), kept" in table.encoding


def test_two_hundred_thousand_rows_and_a_type_that_changes_at_the_end(tmp_path):
    rng = np.random.default_rng(0)
    number = 200_000
    size, code = rng.normal(size=number).round(4), rng.integers(0, 5, number).astype(str).astype(object)
    code[-1] = "?"  # pandas by chunks would call the first hundred thousand numbers, and warn
    frame = pd.DataFrame({"size": size, "code": code, **dict.fromkeys("abcd", size > 0), "price": size + 1})
    frame.to_csv(tmp_path / "big.csv", index=False)
    table = read_table(tmp_path / "big.csv", "price")
    assert table.feature_names == ["size", *(f"code={level}" for level in "01234?"), *"abcd"]
    np.testing.assert_allclose(table.X[:, 0], size, rtol=1e-15)
    np.testing.assert_array_equal(table.X[:, 1:7].sum(1), np.ones(number))
    np.testing.assert_array_equal(table.X[:, 3] == 1, code == "2")
    assert table.encoding[2].endswith("; all are numbers but '?'")


def test_constant_columns_are_kept_and_said(tmp_path):
    table = read(tmp_path, "lot,color,size,price\n3.5,red,1,2.5\n3.5,red,2,3\n")
    np.testing.assert_array_equal(table.X, [[3.5, 1, 1], [3.5, 1, 2]])
    assert table.encoding[2:] == [
        "lot: numeric, constant (3.5), kept",
        "color: categorical, 1 level, constant, one-hot (color=red)",
    ]


INTEGER = "integer, regression (kind='classification' takes its values as classes)"


@pytest.mark.parametrize(
    ("values", "options", "kind", "classes", "y", "sentence"),
    [
        ("no yes yes", {}, "binary", ["no", "yes"], [0, 1, 1], "binary, no = 0, yes = 1"),
        ("True False True", {}, "binary", ["False", "True"], [1, 0, 1], "binary, False = 0, True = 1"),
        ("b c a", {}, "multiclass", ["a", "b", "c"], [1, 2, 0], "3 classes, a = 0, b = 1, c = 2"),
        ("10 2 10", {}, "regression", None, [10.0, 2.0, 10.0], INTEGER),
        ("10 2 10", {"kind": "regression"}, "regression", None, [10.0, 2.0, 10.0], "integer, regression"),
        ("10 2 10", {"kind": "classification"}, "binary", ["2", "10"], [1, 0, 1], "binary, 2 = 0, 10 = 1"),
        ("10 2 3.0", {"kind": "classification"}, "multiclass", ["2", "3", "10"], [2, 0, 1], None),
        ("True False True", {"kind": "regression"}, "regression", None, [1.0, 0.0, 1.0], "boolean as 0/1, regression"),
    ],
)
def test_the_target_decides_unless_kind_does(tmp_path, values, options, kind, classes, y, sentence):
    table = read(tmp_path, "a,price\n" + "".join(f"{i},{v}\n" for i, v in enumerate(values.split())), **options)
    assert (table.kind, table.classes) == (kind, classes)
    np.testing.assert_array_equal(table.y, y)
    assert table.y.dtype == (np.float64 if kind == "regression" else np.int64)
    assert sentence is None or table.encoding[0] == f"price: target, {sentence}"


GAPS = "age,rooms,sea,price\n1,,True,1\n,NA,,2\n3,4,False,3\n4,5,True,\n5,6,True,5.5\n"


def test_missing_values_are_counted_by_row_and_column(tmp_path):
    message = r"every cell must .* 3 of 5 rows came with missing ones \(rooms 2, age 1, sea 1, price 1\)"
    with pytest.raises(ValueError, match=message + "; .* pass drop_missing=True or --drop-missing"):
        read(tmp_path, GAPS)


def test_rows_with_missing_values_are_dropped_when_asked(tmp_path):
    table = read(tmp_path, GAPS, drop_missing=True)
    np.testing.assert_array_equal(table.X, [[3, 4, 0], [5, 6, 1]])
    np.testing.assert_array_equal(table.y, [3, 5.5])
    assert table.num_dropped == 3
    assert table.encoding[1:] == [
        "2 numeric columns, unchanged",
        "sea: boolean, 0/1",
        "3 of 5 rows dropped for missing values (rooms 2, age 1, sea 1, price 1)",
    ]
    assert read(tmp_path, GAPS, drop_missing=True, drop_columns=["age", "rooms"]).num_dropped == 2


def test_integer_classes_survive_missing_values(tmp_path):
    gap = "a,price\n1,0\n2,\n3,1\n"  # makes pandas read 0.0 and 1.0
    assert read(tmp_path, gap, kind="classification", drop_missing=True).classes == ["0", "1"]


def test_the_first_infinite_row_is_the_files_own_row(tmp_path):
    text = "a,price\n,1\n1,2\ninf,3\n-inf,4\n5,5\n"
    with pytest.raises(ValueError, match=r"'a' must be finite, but 2 of 4 values came infinite, the first in row 3"):
        read(tmp_path, text, drop_missing=True)


def test_an_identifier_is_named_and_can_be_left_out(tmp_path):
    text = "name,a,price\n" + "".join(f"house {i},{i % 7},{i / 8}\n" for i in range(1030))
    message = r"column 'name' must have at most 50 levels, but 1,030 came in 1,030 rows \(an identifier column\?\)"
    with pytest.raises(ValueError, match=message + r"; leave it out by drop_columns=\['name'\]"):
        read(tmp_path, text)
    assert read(tmp_path, text, drop_columns=["name"]).feature_names == ["a"]
    assert read(tmp_path, text, drop_columns="name").feature_names == ["a"]
    assert read(tmp_path, text, max_levels=1030).X.shape == (1030, 1031)


def test_text_among_numbers_is_shown_in_the_refusal(tmp_path):
    text = "a,price\n" + "".join(f"{i},{i / 8}\n" for i in range(60)) + "unknown,3\n"
    with pytest.raises(ValueError, match=r"an identifier column\?; all are numbers but 'unknown'"):
        read(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("a,prices\n1,2\n", {}, "target must name a column of the file, but 'price' came; did you mean 'prices'"),
        ("a,b\n1,2\n", {}, "its columns are 'a', 'b'"),
        (HOUSES, {"drop_columns": ["colour"]}, "drop_columns must name .* 'colour' came; did you mean 'color'"),
        (HOUSES, {"drop_columns": ["price"]}, "target must name a column of the file, but 'price' came"),
        ("a,price\n1,2\n", {"drop_columns": ["a"]}, "a feature besides the target, .* 1 row of 'price' came"),
        ("price\n1\n2\n", {}, "a feature besides the target, .* must remain, but 2 rows of 'price' came"),
        ("a,price\n", {}, "rows of data, must remain, but 0 rows of 'a', 'price' came"),
        ("a, a,price\n1,2,3\n", {}, "column names must differ, but 'a' came more than once"),
        (",a,price\n0,1,2\n1,3,4\n", {}, r"'Unnamed: 0' came without one, .* drop_columns=\['Unnamed: 0'\]"),
        ("a,price,\n1,2,\n", {}, "every column must have a name, but 'Unnamed: 2'"),
        ("a,price\n1,2,\n3,4,\n", {}, "as many fields in each row, but this came: 3 fields in row 1, 2 in the header"),
        ("a,price\n1,2\n3,4,5\n", {}, "Expected 2 fields in line 3, saw 3"),
        ('a,price\n1,2\n"3,4\n', {}, "as many fields in each row, but this came: .*EOF inside string"),
        ("a,price\n1,7\n2,7\n", {}, "target 'price' must vary, but 7 came in every row"),
        ("a,price\n1,yes\n2,yes\n", {}, "target 'price' must vary, but yes came in every row"),
        ("a,price\n1,\n,2\n", {"drop_missing": True}, r"a row without .* 2 of 2 rows .*\(a 1, price 1\); .* emptiest"),
        ("a,price\n1,inf\n2,2\n", {}, "'price' must be finite, but 1 of 2 values came infinite, the first in row 1"),
        ("a,price\n1,x\n2,y\n", {"kind": "regression"}, r"must hold numbers for regression, but text came \('x'\)"),
        ("a,price\n1,1.5\n2,2\n", {"kind": "classification"}, "must hold text or whole numbers .* fractions came"),
        ("a,price\n1,1\n2,2\n", {"kind": "binary"}, "kind must be one of 'regression', 'classification', but 'binary'"),
        (HOUSES, {"max_levels": 0}, "max_levels must be a whole number >= 1"),
        ("a,price\n1,x\n2,y\n3,z\n", {"max_levels": 2}, "'price' must have at most 2 classes, but 3 came; raise max"),
        ("a,price\n1,1\n2,2\n3,3\n", {"max_levels": 2, "kind": "classification"}, "at most 2 classes, but 3 came"),
        ("a=b,a,price\n1,b,2\n2,c,3\n", {}, "feature names after one-hot encoding must differ, but 'a=b' came"),
        ('a,price\n"1,5",1\n"3",2\n', {}, r"column 'a' must .* numbers with a comma came \('1,5'\); convert it"),
        ("a;price\n1;1,5\n2;2,5\n", {}, r"column 'price' must .* numbers with a comma came \('1,5'\)"),
        (HOUSES.encode("utf-16"), {}, "must be UTF-8 text"),
        ("a,price\nKöln,1\nBonn,2\n".encode("latin-1"), {}, "must be UTF-8 text .* can't decode byte"),
        ("", {}, "names in its first line .* but this came: no line with text"),
        (" \n\n", {}, "but this came: no line with text"),
    ],
)
def test_csv_refusals(tmp_path, text, options, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, text, **options)


@pytest.mark.parametrize(
    "day",
    ["2024-01-3{}", "2024/1/3{}", "3{}.01.2024", "1/3{}/24", "2024-01-3{}T12:30:00Z", "2024013{}T000000", "1{}:45"],
)
def test_dates_written_as_text_are_refused(tmp_path, day):
    text = f"sold,price\n{day.format(0)},1\n{day.format(1)},2\n"
    with pytest.raises(ValueError, match=r"'sold' must hold .* dates or times came \('.*'\); convert it \(dates to days"):
        read(tmp_path, text)


def test_text_with_digits_is_not_a_date(tmp_path):
    assert len(read(tmp_path, "code,price\n1.2.3,1\n12-3,2\n98-765-4,3\n").feature_names) == 3


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([datetime.datetime(2024, 1, 1), datetime.datetime(2024, 1, 2)], "datetime64 values came; convert it"),
        ([datetime.date(2024, 1, 1), datetime.date(2024, 1, 2)], "date values came; convert it"),
        ([datetime.timedelta(1), datetime.timedelta(2)], "timedelta64 values came"),
        ([[1.0, 2.0], [3.0]], "mixed values came"),
        ([b"a", b"b"], "bytes values came"),
    ],
)
@pytest.mark.parametrize("target", ["price", "column"])
def test_parquet_types_that_are_refused(tmp_path, column, message, target):
    with pytest.raises(ValueError, match=f"column 'column' must hold numbers, booleans or text, but {message}"):
        read_table(parquet(tmp_path, {"column": column, "price": [1.0, 2.5]}), target)


def test_a_frames_unnamed_index_in_parquet_is_refused_and_a_named_one_is_a_column(tmp_path):
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame({"a": [1, 2], "price": [1.5, 2.5]}, index=pd.Index([4, 9]))
    frame.to_parquet(tmp_path / "index.parquet")
    with pytest.raises(ValueError, match="'__index_level_0__' came without one"):
        read_table(tmp_path / "index.parquet", "price")
    frame.rename_axis("year").to_parquet(tmp_path / "index.parquet")
    assert sorted(read_table(tmp_path / "index.parquet", "price").feature_names) == ["a", "year"]


def test_parquet_files_that_are_refused(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "twice.parquet"
    pq.write_table(pa.table([[1], [2], [3]], names=["a", "a", "price"]), file)
    with pytest.raises(ValueError, match="column names must differ, but 'a' came more than once"):
        read_table(file, "price")
    with pytest.raises(ValueError, match=r"houses.parquet must be a Parquet file, but this came"):
        read_table(written(tmp_path, HOUSES, "houses.parquet"), "price")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ImportError, match=r"pip install bayesreg\[parquet\]"):
        read_table(written(tmp_path, b"PAR1", "houses.parquet"), "price")


def test_paths_that_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"path must be a file that is there, but '.*absent.csv' came"):
        read_table(tmp_path / "absent.csv", "price")
    with pytest.raises(ValueError, match=r"path must end in .csv, .tsv, .txt, .parquet, but 'houses.xlsx' came"):
        read_table(written(tmp_path, "x", "houses.xlsx"), "price")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ValueError, match="path must be a file that is there"):
        read_table(str(tmp_path / "folder.csv"), "price")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_split_is_a_partition_and_follows_its_seed(seed):
    x = np.arange(101.0)[:, None]
    table = Table(x, -x[:, 0], ["row"], "y", "regression", None, [], "made.csv", 0)
    state = np.random.get_state()[1].copy()
    split = table.train_test_split(0.2, seed)
    assert isinstance(split, Split)
    assert len(split.y_test) == 20
    np.testing.assert_array_equal(np.sort(np.concatenate([split.X_train, split.X_test]), axis=0), x)
    np.testing.assert_array_equal(split.y_train, -split.X_train[:, 0])
    np.testing.assert_array_equal(split.y_test, -split.X_test[:, 0])
    np.testing.assert_array_equal(split.X_test, table.train_test_split(0.2, seed).X_test)
    assert not np.array_equal(split.X_test, table.train_test_split(0.2, seed + 1).X_test)
    np.testing.assert_array_equal(state, np.random.get_state()[1])


@pytest.mark.parametrize("seed", SEEDS)
def test_a_split_for_classification_keeps_the_shares(seed):
    split = classification([500, 300, 200]).train_test_split(0.2, seed)
    np.testing.assert_array_equal(np.bincount(split.y_test), [100, 60, 40])
    np.testing.assert_array_equal(np.bincount(split.y_train), [400, 240, 160])
    assert not np.array_equal(split.X_test, classification([500, 300, 200]).train_test_split(0.2, seed + 1).X_test)


@pytest.mark.parametrize("seed", SEEDS)
def test_rare_classes_are_in_both_parts_and_single_rows_are_trained_on(seed):
    split = classification([95, 2, 1, 2]).train_test_split(0.2, seed)
    np.testing.assert_array_equal(np.bincount(split.y_test, minlength=4), [19, 1, 0, 1])
    np.testing.assert_array_equal(np.bincount(split.y_train, minlength=4), [76, 1, 1, 1])
    most = classification([90, 2, 8]).train_test_split(0.9, seed)
    np.testing.assert_array_equal(np.bincount(most.y_train), [9, 1, 1])


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.2, 1.5, float("nan"), 0.1, 0.95])
def test_a_split_that_leaves_no_part_is_refused(fraction):
    with pytest.raises(ValueError, match=f"each part must have at least 2 rows, but test_fraction={fraction} of 10 rows"):
        classification([5, 5]).train_test_split(fraction)


def test_diabetes_comes_in_its_own_units():
    from sklearn import datasets

    table, scaled = load_diabetes(), datasets.load_diabetes()
    assert table.X.shape == (442, 10)
    assert set(np.unique(table.X[:, table.feature_names.index("sex")])) == {1.0, 2.0}
    spread = table.X - table.X.mean(0)
    np.testing.assert_allclose(spread / np.sqrt((spread**2).sum(0)), scaled.data, atol=1e-12)
    np.testing.assert_array_equal(table.y, scaled.target)
    assert (table.y.dtype, table.kind, table.classes) == (np.float64, "regression", None)
    assert table.encoding == ["progression: target, numeric, regression", "10 numeric columns, unchanged"]


def test_breast_cancer_keeps_its_classes():
    from sklearn import datasets

    table, bunch = load_breast_cancer(), datasets.load_breast_cancer()
    np.testing.assert_array_equal(table.X, bunch.data)
    np.testing.assert_array_equal(np.array(table.classes)[table.y], bunch.target_names[bunch.target])
    assert (table.y.dtype, table.kind, table.feature_names[0]) == (np.int64, "binary", "mean radius")
    assert table.encoding[0] == "diagnosis: target, binary, malignant = 0, benign = 1"


UCI = {
    "data": "1 2  9 4\n5 6 8 7\n.5\t1e1 7 0\n3 3 6 3\n",
    "index_features": "0\n3\n1\n",
    "index_target": "2\n",
    "index_train_0": "3\n0\n",
    "index_test_0": "1\n",
    "index_train_1": "1.0000e+00\n2.0000e+00\n3.0000e+00\n",
    "index_test_1": "0.0000e+00\n",
}


def uci(folder: Path, **changed: str) -> Path:
    for name, text in {**UCI, **changed}.items():
        written(folder, text, f"{name}.txt")
    return folder


def test_uci_splits_by_hand(tmp_path):
    split = load_uci(uci(tmp_path), 0)
    np.testing.assert_array_equal(split.X_train, [[3, 3, 3], [1, 4, 2]])
    np.testing.assert_array_equal(split.y_train, [6, 9])
    np.testing.assert_array_equal(split.X_test, [[5, 7, 6]])
    np.testing.assert_array_equal(split.y_test, [8])
    np.testing.assert_array_equal(load_uci(str(tmp_path), 1).X_train, [[5, 7, 6], [0.5, 0, 10], [3, 3, 3]])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"data": ""}, "data.txt must be in the folder and hold numbers, but this came"),
        ({"data": "1 2\n3\n"}, "data.txt must .* number of columns changed"),
        ({"index_test_0": "4"}, "index_test_0.txt must .* other than different whole numbers from 0 to 3"),
        ({"index_test_0": "-1"}, "index_test_0.txt must .* other than different whole numbers"),
        ({"index_train_0": "0.5"}, "index_train_0.txt must .* other than different whole numbers"),
        ({"index_train_0": "2 2"}, "index_train_0.txt must .* other than different whole numbers"),
        ({"index_features": "4"}, "index_features.txt must .* other than different whole numbers from 0 to 3"),
        ({"index_target": "1"}, r"the target must be one column and no feature, .* columns \[1\] and 0 such rows came"),
        ({"index_target": "2 0"}, r"the target must be one column and no feature, .* columns \[2, 0\]"),
        ({"index_test_0": "1 3 0"}, "no row may be in both parts, .* 2 such rows came"),
    ],
)
def test_uci_refusals(tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        load_uci(uci(tmp_path, **changed), 0)


def test_a_uci_split_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"index_train_20.txt must be in the folder .* No such file"):
        load_uci(uci(tmp_path), 20)
