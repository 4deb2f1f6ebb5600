"""A file becomes arrays, exactly and with a record of how; what would need a guess is refused."""

from __future__ import annotations

import bz2
import dataclasses
import datetime
import decimal
import gzip
import io
import lzma
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bayesreg.data import Layout, Reading, Split, Table, Writing, load_breast_cancer, load_diabetes, load_uci, read_table

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
    assert table.feature_names == ["size", "waterfront", "color=blue", "color=green", "color=red", "color=other"]
    np.testing.assert_array_equal(table.X, [[80, 1, 0, 0, 1, 0], [60, 0, 1, 0, 0, 0], [70.5, 1, 0, 1, 0, 0]])
    np.testing.assert_array_equal(table.y, [1.5, 1.25, 2.0])
    assert table.X.dtype == table.y.dtype == np.float64
    assert (table.target, table.kind, table.classes, table.num_dropped) == ("price", "regression", None, 0)
    assert table.encoding == [
        "price: target, numeric",
        "1 numeric column, unchanged",
        "waterfront: boolean, 0/1",
        "color: categorical, 3 levels, one-hot (color=blue, color=green, color=red; new ones: color=other)",
    ]
    assert repr(table) == "Table(houses.csv: 3 rows, 6 features, regression on 'price')"


def packed(text: str, how: str) -> bytes:
    if how == "zip":
        inside = io.BytesIO()
        with zipfile.ZipFile(inside, "w") as archive:
            archive.writestr(zipfile.ZipInfo("folder/houses.csv"), text)  # the epoch, not the clock: it is in the test's name
        return inside.getvalue()
    if how == "gzip":
        return gzip.compress(text.encode(), mtime=0)
    return {"xz": lzma, "bz2": bz2}[how].compress(text.encode())


@pytest.mark.parametrize(
    "text",
    [
        HOUSES.replace(",", ";"),
        HOUSES.replace(",", "\t"),
        HOUSES.replace(",", "|"),
        HOUSES.replace(",", "  "),
        HOUSES.replace(",", ";").replace(".", ","),
        b"\xef\xbb\xbf" + HOUSES.encode(),
        HOUSES.encode("utf-16"),
        HOUSES.encode("utf-16-le"),
        HOUSES.encode("utf-32"),
        *(packed(HOUSES, how) for how in ("gzip", "xz", "bz2", "zip")),
        HOUSES.replace(",", ", ").replace("color", "color "),
        HOUSES.replace("\n", "\r\n"),
        HOUSES.replace("\n", "\r"),
        "\n" + HOUSES.replace("\n", "\n\n"),
        HOUSES + ",,,\n",
        HOUSES.replace("\n", ",\n"),
        HOUSES.replace("red", '"red"').replace("size", '"size"'),
        "sep=;\n" + HOUSES.replace(",", ";"),
    ],
    ids=str,
)
def test_the_same_table_however_csv_is_written(tmp_path, text):
    one, other = read(tmp_path, text), read(tmp_path, HOUSES)
    np.testing.assert_array_equal(one.X, other.X)
    np.testing.assert_array_equal(one.y, other.y)
    assert one.feature_names == other.feature_names


def test_the_same_table_in_feather_and_excel(tmp_path):
    pytest.importorskip("pyarrow")
    pytest.importorskip("openpyxl")
    frame = pd.read_csv(written(tmp_path, HOUSES))
    frame.to_feather(tmp_path / "houses.feather")
    frame.to_excel(tmp_path / "houses.xlsx", index=False)
    for name in ("houses.feather", "houses.xlsx"):
        assert_same(read_table(tmp_path / name, "price"), dataclasses.replace(read(tmp_path, HOUSES), source=name))


def test_an_excel_file_of_several_sheets(tmp_path):
    pytest.importorskip("openpyxl")
    frame = pd.read_csv(written(tmp_path, HOUSES))
    with pd.ExcelWriter(tmp_path / "a.xlsx") as book:
        frame.rename(columns={"price": "cost"}).to_excel(book, sheet_name="one", index=False)
        frame.to_excel(book, sheet_name="two", index=False)
    assert read_table(tmp_path / "a.xlsx", "price", reading=Reading(sheet="two")).X.shape == (3, 6)
    assert "sheet 'one', of 'one', 'two' (sheet= takes another)" in read_table(tmp_path / "a.xlsx", "cost").encoding
    with pytest.raises(ValueError, match="sheet must be one of 'one', 'two', but 'three' came"):
        read_table(tmp_path / "a.xlsx", "price", reading=Reading(sheet="three"))


def test_an_encoding_is_found_out_and_said(tmp_path):
    text = HOUSES.replace("red", "röt")
    table = read(tmp_path, text.encode("cp1252"))
    assert "color=röt" in table.feature_names
    assert "not UTF-8: read as cp1252, which gives 'röt' in line 2 (encoding= takes another)" in table.encoding
    said = read(tmp_path, text.encode("cp850"), reading=Reading(Layout(encoding="cp850")))
    assert said.feature_names == table.feature_names
    with pytest.raises(ValueError, match=r"must be text in ascii, .* can't decode byte 0xc3"):
        read(tmp_path, text, reading=Reading(Layout(encoding="ascii")))


def test_a_delimiter_inside_quotes_or_fewer_times_in_the_header_does_not_split(tmp_path):
    table = read(tmp_path, 'a;"size, m2";price\n"x, y";1;2.5\nz;2;3\n')
    assert table.feature_names == ["a=x, y", "a=z", "a=other", "size, m2"]


def test_a_line_break_inside_quotes_is_no_row_and_lines_are_counted(tmp_path):
    text = 'a,b,price\n"x\ny",1,2\nz,2,3\nz,inf,4\n'
    with pytest.raises(ValueError, match=r"column 'b', row 3 \(line 5\): 'inf' came, where a finite number must stand"):
        read(tmp_path, text)


def test_a_decimal_comma_is_one_in_a_whole_file(tmp_path):
    text = "a;b;price\n1,234;1,5;2\n2,345;3;4\n"
    np.testing.assert_array_equal(read(tmp_path, text).X, [[1.234, 1.5], [2.345, 3]])
    text = 'a,b,price\n"1,234",5,2\n"2,345",3,4\n'
    with pytest.raises(ValueError, match=r"column 'a', row 1 \(line 2\): '1,234' came, which may be thousands or"):
        read(tmp_path, text)
    for mark, size in ((".", 1000), (",", 1)):
        table = read(tmp_path, text, reading=Reading(writing=Writing(decimal=mark)))
        np.testing.assert_allclose(table.X[:, 0], [1.234 * size, 2.345 * size])


def test_marks_of_missing_values(tmp_path):
    text = "a,b,price\n1,x,2\n-999,n/k,3\n3,y,n/k\n4,x,5\n"
    table = read(tmp_path, text, missing="impute", reading=Reading(writing=Writing(na=("-999", "n/k"))))
    assert table.feature_names == ["a", "a missing", "b=x", "b=other", "b=missing"]
    np.testing.assert_array_equal(table.y, [2, 3, 5])
    assert table.encoding[-1] == "1 row without 'price' left out, the first of them row 3"


def test_no_header_names_of_rows_and_lines_before(tmp_path):
    with pytest.raises(ValueError, match=r"must have the columns' names, but it holds values .* pass header=False"):
        read(tmp_path, "M,0.4,1\nF,0.5,2\n", "1")
    table = read(tmp_path, "M,0.4,1\nF,0.5,2\n", "c3", reading=Reading(Layout(header=False)))
    assert table.feature_names == ["c1=F", "c1=M", "c1=other", "c2"]
    rows = "".join(f'"r{i}" {i % 7} {i % 5}\n' for i in range(20))
    table = read(tmp_path, f'"a" "price"\n{rows}')
    assert table.feature_names == ["a"]
    assert any(note.startswith("row names: left out") for note in table.encoding)
    assert read(tmp_path, f"A title\n{HOUSES}", reading=Reading(Layout(skip_lines=1))).X.shape == (3, 6)
    assert read(tmp_path, "country,2019,2020,price\na,1,2,3\nb,2,3,4\n").feature_names[-1] == "2020"


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
        table = read_table(tmp_path / "houses.csv", target, missing="drop")
        for version in (frame, typed):
            file = parquet(tmp_path, {name: version[name] for name in version})
            assert_same(table, read_table(file, target, missing="drop"))
    assert table.num_dropped == 4
    assert table.encoding[-1] == "4 rows of 500 with missing values left out"
    assert "city=Oslo" not in table.feature_names  # a category that does not occur


def test_parquet_types(tmp_path):
    columns = {
        "small": np.array([1, 2, 3, 4], dtype=np.float32),
        "money": [decimal.Decimal("1.10"), decimal.Decimal("2.20"), None, decimal.Decimal("4.40")],
        "flag": [True, None, False, True],
        "price": [1, 2, None, 4],
    }
    with pytest.raises(ValueError, match=r"1 of 3 rows came with missing ones \(flag 1\), the first in column 'flag', row 2"):
        read_table(parquet(tmp_path, columns), "price")
    table = read_table(parquet(tmp_path, {**columns, "flag": [True, True, False, False]}), "price", missing="drop")
    np.testing.assert_array_equal(table.X, [[1, 1.1, 1], [2, 2.2, 1], [4, 4.4, 0]])
    assert "flag: boolean, 0/1" in table.encoding
    np.testing.assert_array_equal(table.rows, [1, 2, 4])


def test_fifty_thousand_rows_and_a_type_that_changes_at_the_end(tmp_path):
    rng = np.random.default_rng(0)
    number = 50_000
    size, code = rng.normal(size=number).round(4), rng.integers(0, 5, number).astype(str).astype(object)
    code[-1] = "?"  # pandas by chunks would call all but the last thousands numbers, and warn
    frame = pd.DataFrame({"size": size, "code": code, **dict.fromkeys("abcd", size > 0), "price": size + 1})
    frame.to_csv(tmp_path / "big.csv", index=False)
    table = read_table(tmp_path / "big.csv", "price", missing="impute")
    assert table.feature_names == ["size", "code", "a"]  # b, c and d say the same
    np.testing.assert_allclose(table.X[:, 0], size, rtol=1e-15)
    np.testing.assert_array_equal(table.X[:-1, 1], code[:-1].astype(float))
    assert table.encoding[2].startswith("code: 1 missing one set to 2, the median; '?' taken as missing; few whole numbers")
    levels = read_table(tmp_path / "big.csv", "price", categorical=["code"])
    assert levels.feature_names[1:7] == [*(f"code={level}" for level in "01234"), "code=other"]
    np.testing.assert_array_equal(levels.X[:, 3] == 1, code == "2")


@pytest.mark.parametrize(
    ("values", "options", "kind", "classes", "y", "sentence"),
    [
        ("no yes yes", {}, "binary", ["no", "yes"], [0, 1, 1], "binary, no = 0, yes = 1"),
        ("True False True", {}, "binary", ["False", "True"], [1, 0, 1], "binary, False = 0, True = 1"),
        ("b c a", {}, "multiclass", ["a", "b", "c"], [1, 2, 0], "3 classes, a = 0, b = 1, c = 2"),
        ("10 2 10", {}, "regression", None, [10.0, 2.0, 10.0], "integer"),
        ("10 2 10", {"kind": "regression"}, "regression", None, [10.0, 2.0, 10.0], "integer"),
        ("10 2 10", {"kind": "classification"}, "binary", ["2", "10"], [1, 0, 1], "binary, 2 = 0, 10 = 1"),
        ("10 2 3.0", {"kind": "classification"}, "multiclass", ["2", "3", "10"], [2, 0, 1], None),
        ("True False True", {"kind": "regression"}, "regression", None, [1.0, 0.0, 1.0], "boolean as 0/1"),
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
    message = (
        r"every cell must .* 2 of 4 rows came with missing ones \(rooms 2, age 1, sea 1\), the first in column 'rooms', row 1 "
    )
    with pytest.raises(
        ValueError, match=message + r"\(line 2\); pass missing='impute' .*, or missing='drop' to leave these rows out"
    ):
        read(tmp_path, GAPS)


def test_rows_with_missing_values_are_dropped_when_asked(tmp_path):
    table = read(tmp_path, GAPS, missing="drop")
    np.testing.assert_array_equal(table.X, [[3, 4, 0], [5, 6, 1]])
    np.testing.assert_array_equal(table.y, [3, 5.5])
    assert table.num_dropped == 3
    assert table.encoding[1:] == [
        "2 numeric columns, unchanged",
        "sea: boolean, 0/1",
        "1 row without 'price' left out, the first of them row 4",
        "2 rows of 4 with missing values left out",
    ]
    table = read(tmp_path, GAPS, missing="drop", drop=["age", "rooms"])
    assert (table.num_dropped, table.encoding[2]) == (2, "age, rooms: left out: as asked")


def test_integer_classes_survive_missing_values(tmp_path):
    gap = "a,price\n1,0\n2,\n3,1\n"  # makes pandas read 0.0 and 1.0
    assert read(tmp_path, gap, kind="classification", missing="drop").classes == ["0", "1"]


def test_the_first_infinite_row_is_the_files_own_row(tmp_path):
    text = "a,price\n,1\n1,2\ninf,3\n-inf,4\n5,5\n"
    with pytest.raises(ValueError, match=r"column 'a', row 3 \(line 4\): 'inf' came, where a finite number must stand"):
        read(tmp_path, text, missing="drop")


def test_an_identifier_is_left_out_and_can_be_kept(tmp_path):
    text = "name,a,price\n" + "".join(f"house {i},{i % 7},{i / 8}\n" for i in range(1030))
    table = read(tmp_path, text)
    assert table.feature_names == ["a"]
    assert any("1,030 different texts in 1,030 rows, an identifier or free text" in note for note in table.encoding)
    assert read(tmp_path, text, drop="name").feature_names == ["a"]


def test_text_among_numbers_is_shown_in_the_refusal(tmp_path):
    text = "a,price\n" + "".join(f"{i % 50},{i / 8}\n" for i in range(60)) + "unknown,3\n"
    with pytest.raises(ValueError, match=r"column 'a', row 61 \(line 62\): 'unknown' came where 60 of 61 cells are numbers"):
        read(tmp_path, text)
    assert read(tmp_path, text, numeric="a", missing="drop").num_dropped == 1
    assert len(read(tmp_path, text, categorical="a").feature_names) == 51


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("a,prices\n1,2\n", {}, "target must name a column of the file, but 'price' came; did you mean 'prices'"),
        ("a,b\n1,2\n", {}, "its columns are 'a', 'b'"),
        (HOUSES, {"drop": ["colour"]}, "drop= must name a column, but 'colour' came; did you mean 'color'"),
        (HOUSES, {"drop": ["price"]}, "target must name a column of the file, but 'price' came"),
        (
            HOUSES,
            {"drop": ["size", "waterfront", "color"]},
            "a feature besides the target must remain, but 'price' is the only",
        ),
        ("price\n1\n2\n", {}, "a feature besides the target must remain, but 'price' is the only column"),
        ("a,price\n", {}, "rows of data must follow the names 'a', 'price', but none came"),
        ("a, a,price\n1,2,3\n", {}, "column names must differ, but 'a' came more than once, in columns 1 and 2; rename one"),
        ("a,price\n1,2\n3,4,5\n6\n", {}, r"every row must have 2 fields .* row 2 \(line 3\) has 3, row 3 \(line 4\) has 1"),
        ('a,price\n1,2\n"3,4\n', {}, "line 3 is none: a quote opens there and does not end"),
        ('a,price\n1,2\n"3"x,4\n', {}, "line 3 is none: a quote ends within a field there"),
        ("a,price\n1,7\n2,7\n", {}, "target 'price' must vary, but 7 came in every row"),
        ("a,price\n1,yes\n2,yes\n", {}, "target 'price' must vary, but yes came in every row"),
        ("a,price\n1,\n2,NA\n", {}, "target 'price' must have values, but every one is missing; choose another"),
        ("a,price\n,1\n,2\n", {}, r"a column to predict from must remain, but all are left out: a \(every value is missing\)"),
        ("a,price\n1,inf\n2,2\n", {}, r"column 'price', row 1 \(line 2\): inf came, where the target must be finite"),
        ("a,price\n1,x\n2,y\n", {"kind": "regression"}, r"must hold numbers for regression, but text came \('x' in row 1\)"),
        ("a,price\n1,1.5\n2,2\n", {"kind": "classification"}, "must hold text or whole numbers .* fractions came"),
        ("a,price\n1,1\n2,2\n", {"kind": "binary"}, "kind must be one of 'regression', 'classification', but 'binary'"),
        ("a,price\n1,2020-01-01\n2,2020-01-02\n", {}, r"must hold numbers or classes, but dates came \(2020-01-01\)"),
        (HOUSES, {"max_levels": 0}, "max_levels must be a whole number >= 1"),
        ("a,price\n1,x\n2,y\n3,z\n", {"max_levels": 2}, "'price' must have at most 2 classes, but 3 came; raise max"),
        ("a,price\n1,1\n2,2\n3,3\n", {"max_levels": 2, "kind": "classification"}, "at most 2 classes, but 3 came"),
        ("a=b,a,price\n1,b,2\n2,c,3\n", {}, "names of inputs must differ, but 'a=b' came"),
        ('a,price\n"1,234",1\n"3,456",2\n', {}, "'1,234' came, which may be thousands or a decimal comma; pass decimal='.'"),
        ("a,price\n1/2/2020,1\n3/4/2020,2\n", {}, r"cannot be told apart \(no day is above 12\); pass dates='dmy' or"),
        ("a,price\n2020-02-30,1\n2020-02-01,2\n", {}, "'2020-02-30' came, a day that there is not"),
        ("", {}, r"must hold a table, but it is empty \(0 bytes\)"),
        (" \n\n", {}, "must have a line with the columns' names, but there is no line with text"),
        (b"\x89PNG\r\n\0\0\0", {}, "but a binary file came"),
        (b"\xd0\xcf\x11\xe0\xa1", {}, r"an Excel file of before 2007 \(.xls\) came; save it as .xlsx or .csv"),
        ('{"a": [1, 2]}', {}, "JSON came; save the table as CSV"),
        (
            gzip.compress(HOUSES.encode() * 99, mtime=0)[:-9],
            {},
            "must be a file that can be read to its end, but this came",
        ),
    ],
    ids=str,
)
def test_csv_refusals(tmp_path, text, options, message):
    with pytest.raises(ValueError, match=message):
        read(tmp_path, text, **options)


def test_a_zip_of_two_files_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in ("a.csv", "b.csv"):
            archive.writestr(name, HOUSES)
    with pytest.raises(ValueError, match=r"a.zip must hold one file, but 2 came \(a.csv, b.csv\); unpack it"):
        read_table(tmp_path / "a.zip", "price")


def test_text_with_digits_is_not_a_date(tmp_path):
    assert len(read(tmp_path, "code,price\n1.2.3,1\n12-3,2\n98-765-4,3\n").feature_names) == 4


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([[1.0, 2.0], [3.0]], "values of type list came"),
        ([b"a", b"b"], "values of type bytes came"),
    ],
)
@pytest.mark.parametrize("target", ["price", "column"])
def test_parquet_types_that_are_refused(tmp_path, column, message, target):
    with pytest.raises(ValueError, match=f"column 'column', row 1: {message}"):
        read_table(parquet(tmp_path, {"column": column, "price": [1.0, 2.5]}), target)


def test_dates_and_durations_in_parquet(tmp_path):
    days = [datetime.datetime(2024, 1, 1), datetime.datetime(2024, 1, 3)]
    table = read_table(
        parquet(tmp_path, {"d": days, "e": [datetime.timedelta(1.5), datetime.timedelta(3)], "price": [1, 2]}), "price"
    )
    assert table.feature_names == ["d days", "e"]
    np.testing.assert_array_equal(table.X, [[0, 1.5], [2, 3]])


def test_a_frames_unnamed_index_in_parquet_is_left_out_and_a_named_one_is_a_column(tmp_path):
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame({"a": [1, 2], "price": [1.5, 2.5]}, index=pd.Index([4, 9]))
    frame.to_parquet(tmp_path / "index.parquet")
    table = read_table(tmp_path / "index.parquet", "price")
    assert table.feature_names == ["a"]
    assert "'__index_level_0__', the rows' numbers of a data frame, left out" in table.encoding
    frame.rename_axis("year").assign(a=[1, 1]).to_parquet(tmp_path / "index.parquet")
    assert read_table(tmp_path / "index.parquet", "price").feature_names == ["year"]


def test_parquet_files_that_are_refused(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "twice.parquet"
    pq.write_table(pa.table([[1], [2], [3]], names=["a", "a", "price"]), file)
    with pytest.raises(ValueError, match="column names must differ, but 'a' came more than once"):
        read_table(file, "price")
    with pytest.raises(ValueError, match=r"houses.parquet must be a Parquet file, but it begins with b'size'"):
        read_table(written(tmp_path, HOUSES, "houses.parquet"), "price")
    with pytest.raises(ValueError, match=r"houses.parquet must be a Parquet file, but this came"):
        read_table(written(tmp_path, "PAR1", "houses.parquet"), "price")


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(ImportError, match=r"pip install bayesreg\[parquet\]"):
        read_table(written(tmp_path, b"PAR1", "houses.parquet"), "price")


def test_paths_that_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"path must be a file that is there, but '.*absent.csv' came"):
        read_table(tmp_path / "absent.csv", "price")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(ValueError, match="path must be a file that is there, but the folder"):
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
