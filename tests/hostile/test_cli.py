"""Inputs to the command line that broke it, and their neighbours: one sentence, at once, with nothing left behind.

What takes long or has no end is held by a timeout, what was found too late by a fit that must not begin.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import bayesreg as br
from bayesreg import _check, likelihoods, priors
from bayesreg._catalog import concrete
from bayesreg.cli import job as job
from bayesreg.dictionary import equivalents
from bayesreg.model import rules_file
from tests.test_cli import PROCESS, QUICK, houses_in, invoke, refused, written

DIGITS = "9" * 400
PACKAGE = str(Path(br.__file__).parents[1])


def table(names, rows):
    """Parameters with short names: these rows make long ones."""
    return pytest.mark.parametrize(names, [pytest.param(*row, id=str(i)) for i, row in enumerate(rows)])


@pytest.fixture
def houses(tmp_path):
    return houses_in(tmp_path)


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for name in ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "TERMINAL_WIDTH", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def no_fit(monkeypatch):
    monkeypatch.setattr(job, "_fit", lambda *_: pytest.fail("a fit was begun"))


# ---- texts of priors and likelihoods

TOO_LARGE = "a whole number of some 400 digits is beyond 1.8e+308"
FORM = "write a class name and numbers in brackets"
TEXTS = [
    (f"Normal({DIGITS})", TOO_LARGE),
    (f"Normal(-{DIGITS})", TOO_LARGE),
    (f"Normal(loc={DIGITS})", TOO_LARGE),
    (f"StudentT(df={DIGITS})", TOO_LARGE),
    (f"Smooth(order={DIGITS})", TOO_LARGE),
    (f"Normal(HalfCauchy({DIGITS}))", TOO_LARGE),
    (f"MultivariateNormal(((1, 0), (0, {DIGITS})))", TOO_LARGE),
    (f"Normal(0x{'f' * 5000})", "a whole number of some 6021 digits is beyond"),  # Python does not write it out
    ("Normal(" + "9" * 5000 + ")", FORM),
    ("Normal(1e400)", "scale must be a finite number > 0, but inf came"),
    ("Normal(" + "-" * 3000 + "1)", FORM),
    ("Normal(" + "-" * 60000 + "1)", FORM),
    ("Normal(" + "not " * 3000 + "1)", FORM),
    ("Normal(" + "1+" * 5000 + "1)", FORM),
    ("Normal(" + "1**" * 5000 + "1)", FORM),
    ("Normal(" + "(" * 150 + "1" + ")" * 150 + ")", None),  # brackets around a number are no depth
    ("Normal(" + "[" * 100 + "1" + "]" * 100 + ")", "nested more than 30 deep"),
    ("Normal(" * 100 + "1" + ")" * 100, "nested more than 30 deep"),
    ("Normal(" + "a." * 5000 + "b)", FORM),
    ("f" + "()" * 5000, FORM),
    ("Normal(" + "lambda:" * 3000 + "1)", FORM),
    ("Normal(" + "1," * 5000 + ")", "Normal has too many positional arguments"),
    ("Normal(b'1')", "b'1' is neither a number nor a text"),
    ("Normal(1j)", "1j is neither a number nor a text"),
    ("Normal(...)", "Ellipsis is neither a number nor a text"),
    ("Normal({1: 2})", "{1: 2} is neither a number nor a text"),
    ("Normal({1})", "{1} is neither a number nor a text"),
    ("Normal(scale=1, scale=2)", "Normal has 'scale' twice among its arguments"),
    ("Normal(1, fan_in=True, fan_in=False)", "Normal has 'fan_in' twice among its arguments"),
    ("Normal(1, scale=2)", "multiple values for argument 'scale'"),
    ("Normal(HalfNormal(scale=1, scale=2))", "HalfNormal has 'scale' twice"),
    ("Normal(**{'scale': 1})", "Normal has two stars among its arguments"),
    ("Normal(*[1])", FORM),
    ("Normal(\0)", FORM),
    ("Normal\udc80(1)", FORM),
    (f"Fixed({DIGITS})", TOO_LARGE),
]


@table(("text", "message"), TEXTS)
def test_texts_of_priors(text, message):
    if message is None:
        assert "Normal(scale=1)" in invoke("priors", "--prior", f"*.weight={text}").stdout
        return
    told = refused("priors", "--prior", f"*.weight={text}")
    assert message in told
    assert len(told) < 900  # whatever came, the message can be read


NOISES = [
    (f"Gaussian({DIGITS})", TOO_LARGE),
    (f"Gaussian(HalfNormal({DIGITS}))", TOO_LARGE),
    ("Gaussian(b'1')", "b'1' is neither a number nor a text"),
    ("Gaussian(" + "-" * 5000 + "1)", FORM),
    ("Gaussian(noise_scale=1, noise_scale=2)", "Gaussian has 'noise_scale' twice"),
    ("Gaussian(1e-300)", "noise_scale must lie between 1e-154 and 1e+154 in size"),
    ("Gaussian(1e300)", "noise_scale must lie between 1e-154 and 1e+154 in size"),
    ("Gaussian(None)", "noise_scale must be a number, but None came"),
    ("a" * 100000, "is unknown"),
]


@table(("text", "message"), NOISES)
def test_texts_of_likelihoods(houses, no_fit, text, message):
    told = refused("report", houses, "--target", "price", "--drop", "id", *QUICK, "--likelihood", text)
    assert message in told
    assert len(told) < 900


@pytest.mark.parametrize("prior", ["*.weight=Smooth(1, 1e-200)", "noise"])
def test_numbers_that_leave_floating_point_within_a_fit(houses, prior):
    words = ["--likelihood", "Gaussian(HalfNormal(1e-300))"] if prior == "noise" else ["--prior", prior]
    told = invoke("report", houses, "--target", "price", "--drop", "id", *QUICK, "--method", "map", *words, code=2)
    assert "Error: map: the loss must stay finite" in told.stderr
    assert "Traceback" not in told.stderr
    assert "posterior" not in told.stderr  # an attribute helps nobody here


EQUIVALENTS = [
    (["Normal(1e-200)"], "tools' numbers must fit into floating point, but one of Normal(scale=1e-200) does not"),
    (["Normal(1e200)"], "must fit into floating point"),
    (["Normal(1e-160)"], "must fit into floating point"),
    (["Laplace(1e-310)"], "must fit into floating point"),
    (["ElasticNet(1e-200, 1e-200)"], "must fit into floating point"),
    (["ElasticNet(1, 1e200)"], "must fit into floating point"),
    (["Laplace(1e200)", "--noise-scale", "1e-100", "--num-data", "9"], "must fit into floating point"),  # alpha=0 is no lasso
    (["Normal(1)", "--noise-scale", "1e-200"], "--noise-scale must lie between 1e-154 and 1e+154 in size"),
    (["Laplace(1)", "--noise-scale", "1e200"], "--noise-scale must lie between 1e-154 and 1e+154 in size"),
    (["Normal(1)", "--noise-scale", "1e-320"], "--noise-scale must lie between 1e-154 and 1e+154 in size"),
    (["Normal(1)", "--noise-scale", DIGITS], "--noise-scale must be a finite number > 0, but inf came"),
    (
        ["Normal(1)", "--num-data", DIGITS],
        "--num-data must be at most 9,223,372,036,854,775,807, but a whole number of some 400",
    ),
    (["Normal(1)", "--num-outputs", DIGITS], "--num-outputs must be at most 9,223,372,036,854,775,807, but a whole number"),
    ([f"Normal({DIGITS})"], TOO_LARGE),
]


@table(("words", "message"), EQUIVALENTS)
def test_equivalents(words, message):
    assert message in refused("equivalents", *words)


def test_equivalents_near_the_edge_are_right():
    found = {row.tool: row.numbers for row in equivalents(priors.Normal(1e-150), noise_scale=1e-150).rows}
    assert found["Ridge"]["alpha"] == pytest.approx(1.0, rel=1e-12)  # σ²/τ²
    assert found["LogisticRegression"]["C"] == pytest.approx(1e-300, rel=1e-12)


@pytest.mark.parametrize("value", [10**400, -(10**400), 16**6000], ids=["400", "minus 400", "beyond what Python writes"])
def test_whole_numbers_beyond_floating_point_in_python(value):
    for make in (priors.Normal, likelihoods.Gaussian, priors.HalfCauchy):
        with pytest.raises(ValueError, match=r"a number that a computer's floating point holds, up to 1\.8e"):
            make(value)
    with pytest.raises(ValueError, match="must be at most 100,000,000, but a whole number of some"):
        br.inference.MAP(num_steps=abs(value))


STRANGE = [
    1e-320,
    1e-200,
    1e200,
    1e308,
    10**400,
    16**6000,
    b"1",
    "1",
    True,
    None,
    float("nan"),
    float("inf"),
    {},
    [],
    (),
    [[1], [1, 2]],
]


@pytest.mark.parametrize("kind", concrete(priors.AbstractPrior))
def test_every_argument_of_every_prior_is_taken_or_refused(kind):
    """No error but one of ours, whatever an argument is; what is taken can be shown and met by a tensor."""
    for field in dataclasses.fields(kind):
        for value in STRANGE:
            with contextlib.suppress(ValueError):
                made = kind(**{field.name: value})
                assert str(made)
                assert made.penalty_text
                made.resolve((4, 4))


@pytest.mark.parametrize("kind", [priors.Normal, priors.Laplace, priors.ElasticNet])
def test_every_way_back_from_another_tool_takes_or_refuses_its_arguments(kind):
    for name in filter(lambda name: name.startswith("from_"), dir(kind)):
        way = getattr(kind, name)
        needed = [p.name for p in inspect.signature(way).parameters.values() if p.default is p.empty]
        defaults = {name: 10 if "num" in name else 0.5 for name in needed}
        for argument in inspect.signature(way).parameters:
            for value in STRANGE:
                with contextlib.suppress(ValueError):
                    assert isinstance(way(**{**defaults, argument: value}), kind)


@pytest.mark.parametrize("value", [b"1", bytearray(b"1")])
def test_bytes_are_no_numbers(value):
    for make in (priors.Normal, likelihoods.Gaussian):
        with pytest.raises(ValueError, match="must be a number, but"):
            make(value)


@pytest.mark.parametrize("kind", [br.inference.MAP, br.inference.MeanField, br.inference.MCDropout])
def test_more_steps_than_memory_holds(kind):
    assert kind(num_steps=_check.MAX_STEPS).num_steps == 10**8
    with pytest.raises(ValueError, match="num_steps must be at most 100,000,000, but 10000000000000 came"):
        kind(num_steps=10**13)


def test_a_noise_is_as_small_as_its_type_allows():
    for dtype, scale in ((torch.float32, 1e-30), (torch.float32, 1e30)):
        net = torch.nn.Linear(2, 1).to(dtype)
        with pytest.raises(ValueError, match=r"or its square is no torch\.float32 number"):
            br.BayesianModel(net, likelihood=likelihoods.Gaussian(scale))
        br.BayesianModel(net.double(), likelihood=likelihoods.Gaussian(scale))


# ---- files of rules

HEAD = '[priors]\n"*.weight" = '
RULES = [
    (f'{HEAD}{{prior="Normal", scale={DIGITS}}}', "scale of Normal must be a number, a text or a list of numbers, but a whole"),
    (f'{HEAD}{{prior="Normal", scale={"9" * 5000}}}', "Exceeds the limit (4300 digits)"),
    (f'{HEAD}"Normal({DIGITS})"', TOO_LARGE),
    (HEAD + '{prior="Normal", scale=' * 3000 + "1" + "}" * 3000, "brackets are nested a hundred deep"),
    (HEAD + '{prior="Normal", scale=' * 40 + "1" + "}" * 40, "nested at most 30 deep"),
    (HEAD + "[" * 100_000 + "]" * 100_000, "brackets are nested a hundred deep"),
    (HEAD + "[" * 100 + "]" * 100, "must be a text or a mapping with its class under 'prior'"),
    (HEAD + '{prior="MultivariateNormal", covariance=' + "[" * 60 + "]" * 60 + "}", "is neither a number nor a text"),
    ("[priors]\n" + ".".join("a" * 50_000) + " = 1", "keys of at most 100 dots"),
    ("[priors." + ".".join("a" * 20_000) + "]\nx = 1", "keys of at most 100 dots"),
    ("[priors]\n" + ".".join("a" * 60) + " = 1", "must be a text or a mapping"),
    (f'{HEAD}{{prior="Normal", scale=1979-05-27}}', "datetime.date(1979, 5, 27) is neither a number nor a text"),
    ("[priors]\n" + "".join(f'"{i}.weight" = "Flat"\n' for i in range(2001)), "at most 2,000 rules, but 2,001 came"),
    ("[priors]\n" + "".join(f'"{i}.weight" = "Normal(1)"\n' for i in range(100_000)), "at most 1,000,000 bytes"),
    ('[priors]\n"' + "*a" * 60 + '*b" = "Flat"\n', "matches none"),
    ("\0", "must be TOML"),
    ("[[priors]]\na = 1", 'must hold lines of the form "pattern" = "prior"'),
]


@table(("text", "message"), RULES)
def test_files_of_rules(tmp_path, text, message):
    told = refused("priors", "--priors", written(tmp_path / "rules.toml", text))
    assert message in told
    assert len(told) < 900


def test_dots_that_are_no_keys(tmp_path):
    covariance = "[" + ", ".join("[" + ", ".join("1.0" if i == j else "0.5" for j in range(20)) + "]" for i in range(20)) + "]"
    text = f'# {"." * 200}\n[priors]\n"2.weight" = {{prior="MultivariateNormal", covariance={covariance}}}\n'
    assert "MultivariateNormal" in invoke("priors", "--priors", written(tmp_path / "rules.toml", text)).stdout


def test_a_mark_of_byte_order_is_no_part_of_a_file_of_rules():
    assert rules_file.loads('\ufeff[priors]\n"*" = "Flat"\n').priors.to_dict() == {"*": "Flat()"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no such files there")
@pytest.mark.parametrize("kind", ["pipe", "zero", "null", "link", "folder", "itself", "long"])
def test_what_is_no_ordinary_file_of_rules(tmp_path, kind):
    path = tmp_path / "rules.toml"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to("/dev/zero")
    elif kind == "itself":
        path.symlink_to(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path = {"zero": "/dev/zero", "null": "/dev/null", "long": "a" * 300}[kind]
    told = refused("priors", "--priors", path)
    assert "must be an ordinary file of rules" in told or "there must be a file of rules, but" in told


def test_too_many_rules_in_words():
    words = [word for i in range(2001) for word in ("--prior", f"{i}.weight=Flat")]
    assert "there must be at most 2,000 rules, but 2,001 came" in refused("priors", *words)


# ---- options

OPTIONS = [
    (["--num-steps", "10000000000000"], "--num-steps must be at most 100,000,000, but 10000000000000 came"),
    (["--num-steps", DIGITS], "but a whole number of some 400 digits came"),
    (["--num-steps", "9" * 5000], "Invalid value for '--num-steps'"),
    (["--hidden", "1000000000000"], "the network must fit into 2.1e+09 bytes, but"),
    (["--hidden", DIGITS], "the network must fit into 2.1e+09 bytes, but"),
    (["--hidden", "9223372036854775807"], "the network must fit into 2.1e+09 bytes, but"),
    (["--hidden", "20000", "--hidden", "20000"], "400"),
    (["--hidden", "3"] * 500, "--hidden must be said at most 100 times, but 500 came"),
    (["--seed", DIGITS], "--seed must be a whole number >= 0 and below 2**64"),
    (["--seed", str(2**64)], "--seed must be a whole number >= 0 and below 2**64"),
    (["--num-samples", DIGITS], "but a whole number of some 400 digits draws for"),
    (["--learning-rate", "1e400"], "--learning-rate must be a finite number > 0, but inf came"),
    (["--test-fraction", "nan"], "each part must have at least 2 rows"),
    (["--dropout", "nan"], "--dropout must be a rate"),
    (["--activation", "a" * 100_000], "--activation must be one of"),
    (["--method", "a" * 100_000], "method must be one of"),
    (["--out", "\udc80.html"], "--out must be a name in UTF-8"),
    (["--out", "a" * 251 + ".html"], "File name too long"),
    (["--out", "é" * 126 + ".html"], "File name too long"),
    (["--out", "a/" * 3000 + "r.html"], "File name too long"),
    (["--out", "/proc/r.html"], "no file can be made there"),
    (["--out", "houses.csv/r.html"], "the folder of 'houses.csv/r.html' must exist"),
    (["--out", "/dev/null/r.html"], "the folder of '/dev/null/r.html' must exist"),
    (["--out", ""], "--out must end in .html"),
]


@table(("words", "message"), OPTIONS)
def test_options(houses, no_fit, words, message):
    told = refused("report", houses, "--target", "price", "--drop", "id", *words)
    assert message in told
    assert len(told) < 900
    assert os.listdir(houses.parent) == ["houses.csv"]


@pytest.mark.parametrize("name", ["r.html", "r.json"])
def test_a_link_to_nowhere_is_a_file(houses, no_fit, name):
    link = houses.parent / name
    link.symlink_to("nowhere/else")
    told = refused("report", houses, "--target", "price", "--drop", "id", "--out", "r.html")
    assert f"{name!r} must not exist yet; pass --force" in told
    assert os.readlink(link) == "nowhere/else"


def test_a_full_disk_is_noticed_first(houses, no_fit, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    told = refused("report", houses, "--target", "price", "--drop", "id", "--out", "r.html")
    assert "No space left on device" in told
    assert os.listdir(houses.parent) == ["houses.csv"]


def test_no_memory_is_one_line(houses, monkeypatch):
    for error in (MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes")):

        def fail(*_, error=error):
            raise error

        monkeypatch.setattr(job, "read", fail)
        assert "must fit into memory" in refused("priors", houses, "--target", "price")


# ---- data

ROWS = "".join(f"{i},{i % 10}\n" for i in range(60))
MARKS = ["n/k", "missing", "none", "unknown", "#DIV/0!", "<0.1", "1.5%", "12 kg", "1e5x", "TRUE", "٣"]


@pytest.mark.parametrize("mark", MARKS)
def test_a_number_that_is_none_makes_no_classes(tmp_path, mark):
    file = written(tmp_path / "a.csv", f'x,y\n{ROWS}3,"{mark}"\n')
    told = refused("priors", file, "--target", "y")
    assert f"column 'y', row 61 (line 62): {mark!r} came where 60 of 61 cells are numbers; correct it, or pass --na " in told
    assert told.endswith("if it marks a missing value, or --kind classification to take every value as a class.")
    told = refused("priors", file, "--target", "y", "--kind", "regression")
    assert f"{mark!r} came where 60 of 61 cells are numbers" in told
    assert "--kind" not in told
    assert "11 classes" in invoke("priors", file, "--target", "y", "--kind", "classification").stdout
    assert (
        "1 row without 'y' left out, the first of them row 61" in invoke("priors", file, "--target", "y", "--na", mark).stdout
    )


@pytest.mark.parametrize("mark", ["?", "-", "."])
def test_what_only_marks_a_missing_value_among_numbers(tmp_path, mark):
    file = written(tmp_path / "a.csv", f'x,y\n{ROWS}3,"{mark}"\n')
    said = invoke("priors", file, "--target", "y").stdout
    assert f"{mark!r} taken as missing" in said
    assert "1 row without 'y' left out, the first of them row 61" in said


def test_labels_with_some_digits_are_classes(tmp_path):
    half = "".join(f"{i},{i % 3 if i % 2 else 'abc'[i % 3]}\n" for i in range(60))
    for rows in (half, "".join(f"{i},{'ab3'[i % 3]}\n" for i in range(60))):
        assert "classes, on 'y'" in invoke("priors", written(tmp_path / "a.csv", f"x,y\n{rows}"), "--target", "y").stdout


def column(cell: str, other: str = "{i}") -> str:
    return "x,y\n" + "".join(f"{cell.format(i=i)},{other.format(i=i)}\n" for i in range(10, 40))


HUGE = "came, where a finite number must stand; correct it"
TABLES = [
    (column("9" * 400 + "{i}"), f"column 'x', row 1 (line 2): '{'9' * 36}"),
    (column("{i}", "9" * 400 + "{i}"), "column 'y', row 1 (line 2): inf came, where the target must be finite"),
    (column("{i}") + "9" * 400 + ",1\n", HUGE),
    (column("1" * 5000 + "{i}"), HUGE),
    (column("1e400"), f"column 'x', row 1 (line 2): '1e400' {HUGE}"),
    (column("{i}e300"), "the largest entry of 'x' must lie between 1e-154 and 1e+154 in size"),
    (column("{i}", "{i}e300"), "the largest entry of target 'y' must lie between 1e-154 and 1e+154 in size"),
    (column("{i}", "{i}e30"), None),
    (column("{i}", "{i}e-40"), None),
    ("x,y\n" + ROWS + '3,"1,5"\n', None),
    ("x,y\n1,\0a\n2,b\n3,b\n4,b\n", "but a binary file came (NUL bytes in it)"),
    ("\0" * 1000, "but a binary file came (NUL bytes in it)"),
    ("x y\n", "rows of data must follow the names 'x', 'y', but none came"),
    ("x,y\n", "rows of data must follow the names 'x', 'y', but none came"),
    ("", "must hold a table, but it is empty (0 bytes)"),
    ("x,y\n1,2\n2,2\n", "target 'y' must vary, but 2 came in every row"),
    ("x,x,y\n1,2,3\n2,3,4\n", "column names must differ"),
    ('x,y\n"1,2\n2,3\n', "line 2 is none: a quote opens there and does not end"),
    ("x,y\n" + "a" * 200_000 + ",1\nb,2\nb,3\n", "field larger than field limit"),
    ("h" * 1_000_000 + ",y\n1,2\n2,3\n", "field larger than field limit"),
    ("price,x\n1,2\n3,4\n5,6\n", "target must name a column of the file, but 'y' came"),
    ("y\n1\n2\n3\n", "a feature besides the target must remain, but 'y' is the only column"),
    (column("{i}", "1"), "target 'y' must vary, but 1 came in every row"),
    (column("{i}", "NA"), "target 'y' must have values, but every one is missing"),
    (column("same"), "all are left out: x (it is the same in every row)"),
    ("x,y\n" + "".join(f"{i},2020-01-{i + 1:02}\n" for i in range(20)), "must hold numbers or classes, but dates came"),
]


@table(("text", "message"), TABLES)
def test_tables(tmp_path, text, message):
    if message is None:
        invoke("priors", written(tmp_path / "a.csv", text), "--target", "y")
        return
    told = refused("priors", written(tmp_path / "a.csv", text), "--target", "y")
    assert message in told
    assert len(told) < 900


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("x,y\né,2\nb,3\nb,4\n".encode("utf-16"), [], "3 rows"),
        ("x,y\né,2\nb,3\nb,4\n".encode("latin-1"), [], "read as cp1252, which gives 'é' in line 2 (--encoding takes another)"),
        ("x,y\né,2\nb,3\nb,4\n".encode("cp437"), ["--encoding", "cp437"], "x=é"),
        (b"x|y\n1|2\n2|3\n3|5\n", [], "fields are apart by bars"),
        (b"x y\n1 2\n2 3\n3 5\n", [], "fields are apart by blanks"),
        (b"x#y\n1#2\n2#3\n3#5\n", ["--separator", "#"], "3 rows"),
        ("x,y\n−1,2\n−2,3\n3,5\n".encode(), [], "with '−' as minus"),
        (b"x;y\n0,5;1,5\n1,5;2,5\n2,5;4,5\n", [], "with a decimal comma"),
    ],
)
def test_other_ways_to_write_a_table(tmp_path, text, options, said):
    file = tmp_path / "a.csv"
    file.write_bytes(text)
    assert said in invoke("priors", file, "--target", "y", *options).stdout


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no such files there")
def test_what_is_no_ordinary_table(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "zero.csv").symlink_to("/dev/zero")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "nowhere.csv").symlink_to("nowhere")
    for name in sorted(os.listdir(tmp_path)):
        assert "path must be a file that is there" in refused("priors", name, "--target", "y")


@pytest.mark.parametrize(("number", "classes", "held_out"), [(20, 20, 0), (10, 9, 1)])
def test_classes_of_one_row_each(tmp_path, no_fit, number, classes, held_out):
    file = written(tmp_path / "a.csv", "x,y\n" + "".join(f"{i},c{i % classes}\n" for i in range(number)))
    told = refused("report", file, "--target", "y", *QUICK)
    single = 2 * classes - number
    assert f"{single} classes of one row each came among {number} rows, which leaves {held_out} to hold out" in told


def test_one_hot_columns_that_no_memory_holds(tmp_path):
    rows = "".join(f"n{i},{i}\n" for i in range(20_000))
    file = written(tmp_path / "a.csv", f"x,y\n{rows}{rows}")
    words = ["--target", "y", "--categorical", "x"]
    assert "x: categorical, 0 levels" in invoke("priors", file, *words).stdout  # each is rare
    monkeys = f"x,y\n{rows * 5}"
    told = refused("priors", written(tmp_path / "b.csv", monkeys), *words, "--max-levels", 10**6)
    assert "the inputs must go into memory, but 20,001 inputs in 100,000 rows came" in told


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a name must be text")
def test_a_data_file_whose_name_is_no_text(tmp_path):
    file = written(tmp_path / "a\udc80.csv", "x,y\n" + ROWS)
    out = invoke("report", file, "--target", "y", *QUICK, "--method", "map").stdout
    assert "a?.csv: 60 rows" in out
    assert (tmp_path / "report.html").exists()


# ---- the terminal


WIDTHS = ["COLUMNS", "TERMINAL_WIDTH", "LINES"]
NO_WIDTHS = ["0", "1", "-5", "abc", "", "99999999999", "²"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param(name, value, marks=[] if (i - k) % 3 == 0 else pytest.mark.slow)
        for k, name in enumerate(WIDTHS)
        for i, value in enumerate(NO_WIDTHS)
    ],
)
def test_a_terminal_of_no_width(name, value):
    env = {name: value}
    for words in (["methods"], ["priors", "--list"], ["report", "--help"]):
        assert invoke(*words, env=env).stdout == invoke(*words).stdout
    assert "No such command 'reprot'" in refused("reprot", env=env)


def test_the_help_says_everything():
    """Every option's words, square brackets among them."""
    import typer.main

    from bayesreg.cli import app

    command = typer.main.get_command(app)
    for name, sub in command.commands.items():
        shown = "".join(invoke(name, "--help", env={"COLUMNS": "200"}).stdout.replace("│", "").split())
        for option in sub.params:
            help = (option.help or "").replace("\\[", "[")
            assert "".join(help.split()) in shown, f"{name} {option.name}"
    assert "[priors]" in "".join(invoke("report", "--help").stdout)
    assert "[outputs]" in "".join(invoke("report", "--help").stdout)


# ---- processes


def with_torch(tmp_path, body: str) -> dict[str, str]:
    """An environment in which `import torch` does something else."""
    (tmp_path / "fake" / "torch").mkdir(parents=True)
    written(tmp_path / "fake" / "torch" / "__init__.py", body)
    return {**PROCESS, "PYTHONPATH": os.pathsep.join([str(tmp_path / "fake"), PACKAGE])}


def run(*words, env, **options):
    command = [sys.executable, "-m", "bayesreg", *map(str, words)]
    return subprocess.run(command, check=False, capture_output=True, encoding="utf-8", env=env, timeout=60, **options)


@pytest.mark.parametrize("words", [["--version"], ["--help"], ["report", "--help"]])
def test_words_about_the_command_need_no_torch(tmp_path, words):
    found = run(*words, env=with_torch(tmp_path, "raise SystemExit('torch was loaded')"))
    assert (found.returncode, found.stderr) == (0, "")
    assert "bayesreg" in found.stdout


def test_wrong_words_need_no_torch(tmp_path):
    env = with_torch(tmp_path, "raise SystemExit('torch was loaded')")
    for words in (["reprot"], ["report", "a.csv", "--target", "y", "--seed", "x"]):
        found = run(*words, env=env)
        assert found.returncode == 2
        assert found.stderr.startswith("Error: ")
        assert found.stderr.count("\n") == 1


@pytest.mark.skipif(os.name == "nt", reason="signals are sent otherwise there")
@pytest.mark.parametrize(
    "words",
    ["report a.csv --target y", *(pytest.param(w, marks=pytest.mark.slow) for w in ("priors --list", "equivalents Flat"))],
)
def test_control_c_while_modules_load(tmp_path, words):
    sleep = "try:\n    time.sleep(60)\nexcept BaseException as error:\n    raise ImportError('of another kind') from error\n"
    body = f"import time\nprint('loading', flush=True)\n{sleep}"
    command = [sys.executable, "-m", "bayesreg", *words.split()]
    env = with_torch(tmp_path, body)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8", env=env) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "loading\n"
        running.send_signal(signal.SIGINT)
        out, told = running.communicate(timeout=60)
    assert (running.returncode, out, told) == (130, "", "Stopped; no report was written.\n")


def test_a_backend_that_is_none(houses):
    words = ["report", houses, "--target", "price", "--drop", "id", *QUICK]
    found = run(*words, env={**PROCESS, "PYTHONPATH": PACKAGE, "MPLBACKEND": "bogus"})
    assert (found.returncode, found.stdout) == (2, "")
    assert "Matplotlib must load, but it says: " in found.stderr
    assert "unset MPLBACKEND" in found.stderr
    assert found.stderr.count("\n") == 1
    assert os.listdir(houses.parent) == ["houses.csv"]


@pytest.mark.skipif(os.name == "nt", reason="streams are closed otherwise there")
@pytest.mark.parametrize("streams", [">&-", "| head -1"])
def test_streams_that_are_closed(tmp_path, streams):
    env = with_torch(tmp_path, "raise SystemExit('torch was loaded')")
    command = f"{sys.executable} -m bayesreg --help {streams}"
    found = subprocess.run(command, shell=True, check=False, capture_output=True, encoding="utf-8", env=env, timeout=60)
    assert "Traceback" not in found.stderr
    assert "Exception ignored" not in found.stderr
