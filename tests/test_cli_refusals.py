"""What the command line refuses: in one line, in its own words, before anybody waits, and leaving nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import zipfile

import pytest
from typer.testing import CliRunner

import bayesreg as br
from bayesreg.cli import app, screen
from bayesreg.cli import job as job
from tests.test_cli import PROCESS, QUICK, houses_in, invoke, process, refused, written


@pytest.fixture
def houses(tmp_path):
    return houses_in(tmp_path)


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # the checkout may hold a report.html of its own
    for name in ("COLUMNS", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


TEXT = "--prior must read PATTERN=PRIOR"
REFUSALS = [
    (["--prior", "Laplace"], TEXT),
    (["--prior", "Laplace(scale=0.1)"], TEXT),
    (["--prior", "=Laplace"], TEXT),
    (["--prior", "*.weight="], TEXT),
    (["--prior", "*.weight=Laplase(0.1)"], "'Laplase' is unknown; did you mean 'Laplace'"),
    (["--prior", "*.weight=Laplace(scal=0.1)"], "Laplace has got an unexpected keyword argument 'scal'"),
    (["--prior", "*.weight=Laplace(scale=-1)"], "scale must be a finite number > 0, but -1 came"),
    (["--prior", "3.weight=Laplace(0.1)"], "name '3.weight' matches none; did you mean '2.weight'"),
    (["--prior", "[bold]*=Flat"], "glob '[bold]*' matches none"),
    (["--prior", "*.weight=Flat", "--prior", "*.weight=Normal(1.0)"], "'*.weight' came twice"),
    (["--prior", "noise_scale=HalfNormal(2.0)"], "--likelihood 'Gaussian(noise_scale=HalfNormal(2.0))'"),
    (["--likelihood", "Gausian"], "'Gausian' is unknown; did you mean 'Gaussian'"),
    (["--likelihood", "Bernoulli"], "--likelihood Bernoulli is for binary and 'price' holds numbers (regression)"),
    (["--method", "mapp"], "'mapp' came; did you mean 'map'"),
    (["--method", "map", "--method", "map"], "each --method must be given once, but 'map' came twice"),
    (["--method", "exact"], "exact: Exact needs a Gaussian likelihood whose noise_scale is a number"),
    (["--num-steps", "0"], "num_steps must be a whole number >= 1, but 0 came"),
    (["--num-steps", "many"], "Invalid value for '--num-steps'"),
    (["--batch-size", "-3"], "batch_size must be a whole number >= 1, but -3 came"),
    (["--num-samples", "0"], "--num-samples must be a whole number >= 1, but 0 came"),
    (["--num-samples", "1000000000"], "pass at most --num-samples "),
    (["--seed", "-1"], "--seed must be a whole number >= 0 and below 2**64, but -1 came"),
    (["--test-fraction", "1.5"], "--test-fraction 1.5 of 60 rows came"),
    (["--hidden", "-2"], "--hidden -2 came"),
    (["--hidden", "5", "--hidden", "0"], "--hidden 5 --hidden 0 came"),
    (["--activation", "rely"], "--activation must be one of"),
    (["--kind", "regresion"], "did you mean 'regression'"),
    (["--kind", "classification"], "but fractions came"),
    (["--drop", "sise"], "--drop must name a column, but 'sise' came; did you mean 'size'"),
    (["--max-levels", "0"], "--max-levels must be a whole number >= 1, but 0 came"),
    (["--missing", "guess"], "--missing must be one of 'impute', 'drop', 'refuse', but 'guess' came"),
    (["--missing", "impute", "--drop-missing"], "--drop-missing is --missing drop, but --missing impute came too"),
    (["--split", "size"], "--split must read time:COLUMN or group:COLUMN, but 'size' came"),
    (["--split", "time:sise"], "--split must name a column besides the target, but 'sise' came; did you mean 'size'"),
    (["--split", "time:[red]color[/red]"], "--split time: needs dates or numbers, but '[red]color[/red]' holds text"),
    (
        ["--test", "houses.csv", "--split", "time:size"],
        "--test must come without --split and --test-fraction, since it has the rows",
    ),
    (["--transform", "log"], "--transform must read F:COLUMN, as log:price, but 'log' came"),
    (["--transform", "ln:size"], "transform of 'size' must be one of log, log1p, sqrt, square, asinh, but 'ln' came"),
    (["--transform", "log:flag"], "column 'flag', row 2 (line 3): 0 came, where log needs a number > 0"),
    (["--transform", "log:price"], "'price' is the target; take a likelihood for its form"),
    (["--separator", "::"], "separator must be one character, but '::' came"),
    (["--encoding", "klingon"], "encoding must be one that Python knows, but 'klingon' came"),
    (["--encoding", "utf-16"], "houses.csv must be text in utf-16, but this came"),
    (["--categorical", "size", "--numeric", "size"], "column 'size' must be either categorical or a number, but both came"),
    (["--save", "no/such/model.pt"], "the folder of 'no/such/model.pt' must exist"),
    (["--save", "report.html"], "--save must be another file than the report"),
    (["--out", "no/such/report.html"], "the folder of 'no/such/report.html' must exist"),
    (["--out", "report.pdf"], "--out must end in .html"),
    (["--bogus"], "No such option: --bogus"),
    (["another.csv"], "unexpected extra argument"),
]


@pytest.mark.parametrize(("words", "message"), REFUSALS)
def test_what_report_refuses(houses, monkeypatch, words, message):
    monkeypatch.chdir(houses.parent)
    monkeypatch.setattr(job, "_fit", lambda *_: pytest.fail("a fit was begun"))
    told = refused("report", houses, "--target", "price", "--drop", "id", "--drop", "kind", "--drop", "sort", *words)
    if message.startswith("num_steps") or message.startswith("batch_size"):
        message = "--" + message.replace("_", "-", 1)
    assert message.lower() in told.lower()
    assert os.listdir(houses.parent) == ["houses.csv"]


GAP = "x,price\n,2\n" + "".join(f"{i % 7},{i % 5}\n" for i in range(11))
FILES = [
    ("nowhere.csv", None, [], "path must be a file that is there, but"),
    ("houses.xlsx", "x", [], "houses.xlsx must be an Excel file, but it begins with b'x'"),
    ("empty.csv", "", [], "empty.csv must hold a table, but it is empty (0 bytes)"),
    ("blank.csv", " \n\n", [], "must have a line with the columns' names, but there is no line with text"),
    ("broken.parquet", "PAR", [], "broken.parquet must be a Parquet file"),
    ("a.csv", '{"x": [1, 2]}', [], "but JSON came; save the table as CSV"),
    ("a.csv", "x,y\n1,2\n2,3\n3,4\n4,5\n", [], "target must name a column of the file, but 'price' came"),
    (
        "a.csv",
        GAP,
        ["--missing", "refuse"],
        "1 of 12 rows came with missing ones (x 1), the first in column 'x', row 1 ",
    ),
    ("a.csv", GAP, ["--missing", "refuse"], "pass --missing impute to fill in medians and mark them, a level of their own for"),
    ("a.csv", GAP, ["--missing", "refuse"], "categories, or --missing drop to leave these rows out."),
    ("a.csv", "x,price\n1,2\n2,2\n3,2\n", [], "must vary, but 2"),
    (
        "a.csv",
        GAP,
        ["--split", "time:x"],
        "--split needs a value in every row, but none came in column 'x', row 1 (line 2); fill it in, or pass --missing drop",
    ),
    (
        "a.csv",
        "x,z,price\n1,,2\n" + "".join(f"{i},{i % 3},{i % 5}\n" for i in range(11)),
        ["--split", "group:z"],
        "none came in column 'z', row 1 (line 2); fill it in.",
    ),
    (
        "a.csv",
        GAP,
        ["--kind", "classification", "--max-levels", "3"],
        "target 'price' must have at most 3 classes, but 5 came; raise --max-levels.",
    ),
    ("a.csv", 'x,price\n1,2\n"2"3,4\n', [], "a.csv must be a table of text, but line 3 is none: a quote ends within a field"),
    ("a.csv", "ARROW1", [], "a.csv must be a Feather file, but this came: "),
    ("a.csv", "x,price\n1,a\n2,b\n", [], "each part must have at least 2 rows"),
]


@pytest.mark.parametrize(("name", "text", "words", "message"), FILES)
def test_a_file_that_cannot_be_used(tmp_path, name, text, words, message):
    file = tmp_path / name if text is None else written(tmp_path / name, text)
    told = refused("report", file, "--target", "price", "--out", tmp_path / "report.html", *words)
    assert message in told
    assert not (tmp_path / "report.html").exists()


def test_an_identifier_is_left_out_in_the_words_of_the_command_line(tmp_path):
    file = written(tmp_path / "a.csv", "x,who,price\n" + "".join(f"{i % 9},n{i},{i}\n" for i in range(60)))
    said = invoke("priors", file, "--target", "price").stdout
    assert "who: left out: 60 different texts in 60 rows, an identifier or free text (--categorical who keeps the most" in said


def test_all_problems_of_a_file_come_at_once_a_line_each(tmp_path):
    rows = "".join(f"{i / 3:.3f},{i},3/4/2020,{i % 7}\n" for i in range(40))
    file = written(tmp_path / "a.csv", f"x,x,day,price\n{rows}1,2\n")
    result = invoke("report", file, "--target", "price", "--drop", "colour", "--out", tmp_path / "report.html", code=2)
    first, *problems = result.stderr.splitlines()
    assert first == "Error: a.csv has 4 problems:"
    for number, (problem, told) in enumerate(zip(problems, [
        "column names must differ, but 'x' came more than once, in columns 1 and 2; rename one of each, or pass --drop x",
        "every row must have 4 fields as the names do, but row 41 (line 42) has 2; correct them",
        "--drop must name a column, but 'colour' came",
        "column 'day', row 1 (line 2): '3/4/2020' came, whose day and month cannot be told apart",
    ], strict=True), 1):  # fmt: skip
        assert problem.startswith(f"  {number}. {told}")
    assert "pass --bad-rows drop" in problems[1]
    assert "pass --dates dmy or --dates mdy" in problems[3]
    assert os.listdir(tmp_path) == ["a.csv"]
    words = ["--drop", "x", "--bad-rows", "drop", "--dates", "dmy"]
    assert "'day'" not in invoke("priors", file, "--target", "price", *words, code=2).stdout


def test_an_existing_report_is_kept_unless_forced(houses):
    for name in ("report.html", "report.json"):
        mine = written(houses.parent / name, "mine")
        words = ["report", houses, "--target", "price", "--out", houses.parent / "report.html"]
        told = refused(*words)
        assert f"{str(mine)!r} must not exist yet; pass --force" in told
        assert "must not exist yet" in refused("demo", "--out", houses.parent / "report.html")
        assert mine.read_text() == "mine"
        mine.unlink()


def test_a_folder_cannot_be_replaced(houses):
    (houses.parent / "report.json").mkdir()
    told = refused("report", houses, "--target", "price", "--out", houses.parent / "report.html", "--force")
    assert "report.json" in told


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["reprot"], "No such command 'reprot'."),
        (["--bogus"], "No such option: --bogus"),
        (["report"], "Missing argument 'FILE'. See: bayesreg report --help"),
        (["report", "a.csv"], "Missing option '--target'"),
        (["priors", "a.csv"], "add --target NAME"),
        (["priors", "--target", "price"], "need a FILE"),
        (["demo", "--seed", "x"], "Invalid value for '--seed'"),
    ],
)
def test_wrong_words_are_one_line_too(words, message):
    assert message in refused(*words, prog_name="bayesreg")


def test_missing_optional_software_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    monkeypatch.setitem(sys.modules, "polars", None)
    told = refused("priors", written(tmp_path / "a.parquet", "PAR1"), "--target", "y")
    assert "pip install bayesreg[parquet]" in told


def test_excel_without_its_package_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with zipfile.ZipFile(tmp_path / "a.xlsx", "w") as book:
        book.writestr("xl/workbook.xml", "")
    told = refused("priors", tmp_path / "a.xlsx", "--target", "y")
    assert "needs openpyxl: pip install bayesreg[excel], or save as CSV" in told


def test_test_rows_without_a_target_or_with_a_new_class_are_named(houses):
    rows = houses.read_text().splitlines()
    words = ["priors", houses, "--drop", "id", "--drop", "sort"]
    blind = written(houses.parent / "blind.csv", "\n".join(",".join(row.split(",")[:3]) for row in rows[:9]))
    report = ["report", *words[1:], "--out", houses.parent / "r.html", "--test"]
    told = refused(*report, blind, "--target", "price")
    assert "the test rows must have the target, but 'price' is not among its columns 'size', " in told
    new = written(houses.parent / "new.csv", "\n".join(rows[:5]).replace("cheap", "middling"))
    told = refused(*report, new, "--target", "kind", "--drop", "price")
    assert re.search(r"column 'kind', row \d+ \(line \d\): 'middling' came, a class that was not in training", told)
    assert not (houses.parent / "r.html").exists()


def test_numbers_that_leave_what_floating_point_holds_are_one_line(houses, monkeypatch):
    def overflow(*_, **__):
        raise OverflowError("math range error")

    monkeypatch.setattr(br, "fit", overflow)
    told = refused("report", houses, "--target", "price", "--method", "map", "--out", houses.parent / "r.html")
    assert "map: every number of the fit must stay within what floating point holds, but math range error came; take" in told


def test_an_error_of_the_system_is_one_line(houses, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device", "report.html")

    monkeypatch.setattr(job, "read", full)
    assert refused("priors", houses, "--target", "price") == "Error: No space left on device: report.html"


def test_a_bug_is_not_hidden(monkeypatch):
    monkeypatch.setattr(job, "rules", lambda *_: 1 / 0)
    result = CliRunner().invoke(app, ["priors"])
    assert result.exit_code == 1
    assert isinstance(result.exception, ZeroDivisionError)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("pass missing='drop', or drop= or header=False", "pass --missing drop, or --drop or --no-header"),
        ("raise num_steps to 1,000 or more.", "raise --num-steps to 1,000 or more."),
        ("drop=['a b', 'c']", "--drop 'a b' --drop c"),
        ("(kind='classification' takes", "(--kind classification takes"),
        ("leave kind=None.", "leave --kind out."),
        ("seed=0, of a kind", "--seed 0, of a kind"),
        ("my_num_steps, num_steps_2, 'num_steps' and x.num_steps", "my_num_steps, num_steps_2, 'num_steps' and x.num_steps"),
    ],
)
def test_messages_name_options(said, told):
    assert screen.in_options(said) == told


def test_a_failing_fit_leaves_nothing(houses, monkeypatch):
    def diverge(*_):
        raise ValueError("the loss must stay finite, but it is nan at step 3; lower learning_rate.")

    monkeypatch.setattr(job, "_fit", diverge)
    result = invoke("report", houses, "--target", "price", "--drop", "id", "--out", houses.parent / "r.html", *QUICK, code=2)
    assert "the loss must stay finite" in result.stderr
    assert os.listdir(houses.parent) == ["houses.csv"]


@pytest.mark.usefixtures("unrendered")
def test_a_failing_save_leaves_nothing(houses, monkeypatch):
    from bayesreg.reports import Report

    def full(self, path, *, force=False):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Report, "save", full)
    words = ["--target", "price", "--drop", "id", "--method", "map", "--out", houses.parent / "r.html"]
    result = invoke("report", houses, *words, *QUICK, code=2)
    assert result.stderr == "Error: [Errno 28] No space left on device\n"
    assert os.listdir(houses.parent) == ["houses.csv"]


def test_an_interrupt_is_one_line(houses, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(job, "_fit", stop)
    result = invoke("report", houses, "--target", "price", "--drop", "id", "--out", houses.parent / "r.html", *QUICK, code=130)
    assert result.stderr == "Stopped; no report was written.\n"
    assert os.listdir(houses.parent) == ["houses.csv"]


@pytest.mark.slow  # quickly: `test_a_backend_that_is_none` is such a process, and all refusals are met in this one
def test_a_process_that_fails(tmp_path):
    found = process("report", tmp_path / "nowhere.csv", "--target", "y", module=False)
    assert found.returncode == 2
    assert found.stdout == ""
    assert found.stderr.startswith("Error: path must be a file that is there")
    assert found.stderr.count("\n") == 1


@pytest.mark.slow  # quickly: `test_an_interrupt_is_one_line` and hostile/test_cli's signal while modules load
@pytest.mark.skipif(os.name == "nt", reason="signals are sent otherwise there")
def test_control_c_in_a_process(houses):
    words = [
        "report",
        houses,
        "--target",
        "price",
        "--drop",
        "id",
        "--num-steps",
        "10000000",
        "--hidden",
        "3",
        "--out",
        "r.html",
    ]
    command = [sys.executable, "-m", "bayesreg", *map(str, words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "encoding": "utf-8"}
    with subprocess.Popen(command, cwd=houses.parent, env=PROCESS, **pipes) as running:
        for line in running.stdout:
            if line.startswith("The fits"):
                break
        running.send_signal(signal.SIGINT)
        _, told = running.communicate(timeout=60)
    assert running.returncode == 130
    assert told == "Stopped; no report was written.\n"
    assert os.listdir(houses.parent) == ["houses.csv"]
