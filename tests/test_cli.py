"""The command line: what it shows, what it refuses before anybody waits, and what it leaves behind."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg._catalog import concrete
from bayesreg.cli import app
from bayesreg.cli import job as job
from bayesreg.inference import AbstractMethod
from bayesreg.likelihoods import AbstractLikelihood

QUICK = ["--num-steps", "20", "--num-samples", "20", "--hidden", "3", "--no-baselines"]
PROCESS = {**os.environ, "OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
for name in ("COLUMNS", "FORCE_COLOR", "NO_COLOR", "PYTHONIOENCODING"):
    PROCESS.pop(name, None)


pytestmark = pytest.mark.usefixtures("unrendered")  # what a process writes has its figures: see "real processes"


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # the checkout may hold a report.html of its own
    for name in ("COLUMNS", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


def houses_in(folder: Path) -> Path:
    """A file with numbers, text, booleans, and names that look like markup."""
    rng = np.random.default_rng(0)
    size, color, pool = rng.normal(100, 30, 60), rng.choice(["red", "green", "[bold]blue"], 60), rng.random(60) < 0.3
    price = 2 * size + 40 * (color == "red") + 60 * pool + rng.normal(0, 10, 60)
    kind, sort = np.where(price > 230, "dear", "cheap"), np.digitize(price, [180, 250])
    lines = ["size,[red]color[/red],pool,price,kind,sort,id,flag"]
    rows = zip(size, color, pool, price, kind, sort, range(60), rng.integers(0, 2, 60), strict=True)
    lines += [f"{a:.3f},{b},{c},{d:.3f},{e},s{f},n{g},{h}" for a, b, c, d, e, f, g, h in rows]
    return written(folder / "houses.csv", "\n".join(lines) + "\n")


@pytest.fixture
def houses(tmp_path):
    return houses_in(tmp_path)


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def invoke(*words, code=0, **options):
    result = CliRunner().invoke(app, [str(word) for word in words], **options)
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def refused(*words, code=2, **options):
    """The one line of an error, with nothing said before it."""
    result = invoke(*words, code=code, **options)
    assert isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    return result.stderr.strip()


def process(*words, module=True, **options):
    command = [sys.executable, "-m", "bayesreg"] if module else [str(Path(sys.executable).with_name("bayesreg"))]
    settings = {"env": PROCESS, "capture_output": True, "text": True, "encoding": "utf-8", "timeout": 120, **options}
    return subprocess.run([*command, *map(str, words)], check=False, **settings)


def rows_of(output: str, start: str) -> list[str]:
    return [line for line in output.splitlines() if line.startswith(start)]


# ---- what it shows


def test_version_and_help():
    assert invoke("--version").stdout.strip().startswith("bayesreg 0.")
    for words in (["--help"], ["-h"], []):
        output = invoke(*words).stdout
        assert all(command in output for command in ("demo", "report", "priors", "methods"))
    output = invoke("report", "--help").stdout
    options = [
        "target",
        "prior",
        "likelihood",
        "method",
        "hidden",
        "activation",
        "test-fraction",
        "seed",
        "num-steps",
        "batch-size",
        "num-samples",
    ]
    assert all(f"--{option} " in output for option in [*options, "drop", "drop-missing", "kind", "out", "force", "max-levels"])
    more = ["missing", "categorical", "numeric", "transform", "test", "split", "na", "encoding", "separator", "decimal", "save"]
    assert all(f"--{option} " in output for option in more)


def test_methods_come_from_the_class_tree():
    output = invoke("methods").stdout
    for cls in concrete(AbstractMethod):
        (line,) = rows_of(output, f"{cls.name} ")
        assert cls.__name__ in line
        assert line.endswith(cls.when) or cls.when in line


def test_the_list_of_priors_comes_from_the_class_tree():
    output = invoke("priors", "--list").stdout
    for cls in concrete(priors.AbstractPrior):
        (line,) = rows_of(output, f"{cls.__name__}(")
        assert cls().regulariser in line
        assert cls().penalty_text in line
    assert "any number" in rows_of(output, "Laplace(")[0]
    assert "positive" in rows_of(output, "HalfNormal(")[0]


def test_priors_from_a_file(tmp_path):
    rules = written(tmp_path / "priors.toml", '[priors]\n"0.weight" = "GroupLasso(0.5)"\n[outputs]\n"1" = "Laplace(2.0)"\n')
    output = invoke("priors", "--priors", rules, "--prior", "*.bias=Flat").stdout
    assert "GroupLasso(scale=0.5)" in rows_of(output, "0.weight")[0]
    assert "Laplace(scale=2.0)" in rows_of(output, "1 (output)")[0]
    assert "Flat()" in rows_of(output, "0.bias")[0]


@pytest.mark.parametrize(
    ("text", "more", "told"),
    [
        ('[prior]\n"0.weight" = "Flat"', (), "must have sections [priors] and [outputs] only, but 'prior' came; did you mean"),
        ('[priors]\n"9.weight" = "Flat"', (), "a rule must match a trainable tensor, but name '9.weight' matches none"),
        (
            '[priors]\n"0.weight" = "Flat"',
            ("--prior", "0.weight=Normal(1)"),
            "name '0.weight' came twice, with Flat() and Normal",
        ),
        (None, (), "there must be a file of rules, but"),
    ],
)
def test_a_file_of_priors_is_refused_in_one_line(tmp_path, text, more, told):
    path = tmp_path / "priors.toml"
    if text is not None:
        written(path, text)
    result = invoke("priors", "--priors", path, *more, code=2)
    assert told in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


def test_the_priors_of_the_demo():
    output = invoke("priors").stdout
    assert "scikit-learn diabetes: 442 rows" in output
    assert [line.split()[0] for line in output.splitlines()[-5:]] == [
        "0.weight",
        "0.bias",
        "2.weight",
        "2.bias",
        "noise_scale",
    ]
    assert "20 × 10" in rows_of(output, "0.weight")[0]
    assert "0.3162" in rows_of(output, "0.weight")[0]  # 1/√10


def test_the_priors_of_a_file_follow_the_rules_and_the_network(houses):
    words = ["priors", houses, "--target", "price", "--drop", "id", "--drop", "kind", "--hidden", 7, "--hidden", 4]
    output = invoke(*words, "--prior", "*.weight=Laplace(scale=0.25)", "--prior", "@bias=Normal(2.0)").stdout
    assert "7 × 11" in rows_of(output, "0.weight")[0]
    assert "4 × 7" in rows_of(output, "2.weight")[0]
    assert "Laplace(scale=0.25)" in rows_of(output, "0.weight")[0]
    assert "glob '*.weight'" in rows_of(output, "4.weight")[0]
    assert "role '@bias'" in rows_of(output, "4.bias")[0]
    linear = invoke(*words[:8], "--hidden", 0).stdout
    assert "1 × 11" in rows_of(linear, "0.weight")[0]
    assert not rows_of(linear, "2.weight")


@pytest.mark.parametrize(
    ("target", "options", "shape"),
    [
        ("price", [], "1 × 50"),
        ("kind", [], "1 × 50"),
        ("kind", ["--likelihood", "Categorical()"], "2 × 50"),
        ("sort", [], "3 × 50"),
        ("flag", [], "1 × 50"),
        ("flag", ["--kind", "regression"], "1 × 50"),
        ("flag", ["--kind", "classification", "--likelihood", "Categorical"], "2 × 50"),
    ],
)
def test_the_last_layer_follows_the_target(houses, target, options, shape):
    output = invoke("priors", houses, "--target", target, "--drop", "id", "--hidden", 50, *options).stdout
    assert shape in rows_of(output, "2.weight")[0]
    assert bool(rows_of(output, "noise_scale")) is (target == "price" or "regression" in options)


def test_a_table_decides_the_network_of_which_nothing_is_said(houses):
    words = ["priors", houses, "--target", "price", "--drop", "id"]
    output = invoke(*words).stdout
    assert "network: a linear part and one hidden layer of 8 tanh units, about √N for 60 rows of 14 inputs" in output
    assert "InverseGamma" in rows_of(output, "noise_scale")[0]
    assert "1 × 14" in rows_of(output, "skip.weight")[0]
    ruled = invoke(*words, "--prior", "skip.weight=Laplace(0.5)").stdout
    assert "Laplace(scale=0.5)" in rows_of(ruled, "skip.weight")[0]
    assert not rows_of(invoke(*words, "--activation", "tanh").stdout, "skip.weight")


def test_noise_by_row_takes_a_second_output(houses):
    words = ["--target", "price", "--drop", "id", "--likelihood", 'Gaussian("heteroscedastic")']
    output = invoke("priors", houses, *words).stdout
    assert "2 × " in rows_of(output, "2.weight")[0]
    assert "network's" in rows_of(output, "noise_scale")[0]


def test_a_known_noise_is_shown(houses):
    output = invoke("priors", houses, "--target", "price", "--drop", "id", "--likelihood", "Gaussian(noise_scale=0.5)").stdout
    assert "known" in rows_of(output, "noise_scale")[0]


def test_markup_in_a_file_is_text(houses):
    output = invoke("priors", houses, "--target", "price", "--drop", "id").stdout
    assert "[red]color[/red]: categorical, 3 levels, one-hot ([red]color[/red]=[bold]blue" in output
    assert "[red]colour" in refused("priors", houses, "--target", "[red]colour")


def test_control_characters_do_not_reach_the_terminal(tmp_path):
    file = written(tmp_path / "a.csv", "x\x1b[31m,t,y\n1,\x07a,1\n2,b,3\n3,b,4\n")
    output = invoke("priors", file, "--target", "y").stdout
    assert "\x1b" not in output
    assert "\x07" not in output
    assert "\\x07a" in output
    assert "\x1b" not in refused("priors", file, "--target", "x\x1b[31mm")


def test_a_narrow_terminal_gets_narrow_tables(houses):
    for words in (["methods"], ["priors", "--list"], ["priors", houses, "--target", "price", "--drop", "id", "--hidden", 9]):
        output = invoke(*words, env={"COLUMNS": "80"}).stdout
        assert max(map(len, output.splitlines())) <= 80
    assert "Normal(scale=1.0," in output  # cells break between words, none is cut
    assert "…" not in output


def test_colours_only_where_they_are_wanted(houses):
    words = ["priors", houses, "--target", "prize"]
    assert "\x1b" not in invoke(*words, code=2).stderr
    loud = invoke(*words, code=2, env={"FORCE_COLOR": "1"}).stderr
    assert loud.startswith("\x1b[31mError: ")
    assert "\x1b[31m" not in invoke(*words, code=2, env={"FORCE_COLOR": "1", "NO_COLOR": "1"}).stderr


# ---- what a job is made of


@pytest.mark.parametrize(("said", "threads"), [(None, 1), ("2", 2)])
def test_small_fits_take_one_thread_unless_the_environment_says_otherwise(houses, monkeypatch, said, threads):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if said:
        monkeypatch.setenv("OMP_NUM_THREADS", said)
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        monkeypatch.setattr(job, "_run", lambda *_: seen.append(torch.get_num_threads()))
        invoke("report", houses, "--target", "price", "--drop", "id", "--out", houses.parent / "r.html")
        assert seen == [threads]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_settings_reach_the_methods_that_take_them():
    found = job.methods(["map", "mean-field", "laplace", "exact"], {"num_steps": 7, "batch_size": 5, "learning_rate": None})
    assert (found["map"].num_steps, found["map"].batch_size) == (7, 5)
    assert (found["mean-field"].num_steps, found["mean-field"].batch_size) == (7, 5)
    assert (found["laplace"].mode.options.num_steps, found["laplace"].mode.options.batch_size) == (7, 5)
    assert list(found) == ["map", "mean-field", "laplace", "exact"]
    assert found["map"].learning_rate is None
    assert job.methods(["laplace"], {"learning_rate": 0.5})["laplace"].mode.options.learning_rate == 0.5
    with pytest.raises(ValueError, match="num_steps came for exact"):
        job.methods(["exact"], {"num_steps": 7})


def test_steps_of_a_sampler_are_those_of_each_chain():
    found = job.methods(["mile", "nuts", "swag", "ensemble"], {"num_steps": 1600})
    options = found["mile"].options
    assert (options.num_warmup, options.num_samples, options.thin) == (1500, 100, 1)
    assert found["mile"].num_steps == 500  # its search is not what takes the time
    assert [found[name].options.num_steps for name in ("mile", "nuts")] == [1600, 1600]
    assert found["swag"].num_warmup + found["swag"].num_samples * found["swag"].thin == 1600
    assert found["ensemble"].alone.options.num_steps == 1600
    with pytest.raises(ValueError, match=r"num_steps must be at least 20 for a chain, .* 7 came"):
        job.methods(["hmc"], {"num_steps": 7})


def test_the_bar_hears_of_a_samplers_health():
    heard = []
    model = br.BayesianModel(torch.nn.Linear(1, 1), likelihood=likelihoods.Gaussian(1.0))
    rows, short = (np.arange(6.0)[:, None], np.arange(6.0)), job.methods(["mclmc"], {"num_steps": 20})["mclmc"]
    for tell in (lambda step, total, nats, said="": heard.append(said), lambda *told: heard.append(len(told))):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", br.ConvergenceWarning)
            br.fit(model, *rows, method=short.eager(), progress=tell)
    assert heard[0].startswith("energy error")
    assert heard[-1] == 3


def test_every_method_can_be_named():
    for cls in concrete(AbstractMethod):
        assert isinstance(job.methods([cls.name])[cls.name], cls)


def test_every_likelihood_suits_some_target():
    assert all(any(cls().suits(classes) for classes in (None, 2, 3)) for cls in concrete(AbstractLikelihood))
    assert [likelihoods.suiting(classes).kind for classes in (None, 2, 3)] == ["regression", "binary", "multiclass"]


def test_networks_are_seeded_and_leave_the_random_state_alone():
    before = torch.get_rng_state()
    one, same, other = (job.Network((4, 3), "tanh").build(2, 1, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one[0].weight, same[0].weight)
    assert not torch.equal(one[0].weight, other[0].weight)
    assert [type(layer).__name__ for layer in one] == ["Linear", "Tanh", "Linear", "Tanh", "Linear"]
    assert len(job.Network((0,)).build(2, 1, 0)) == 1


def test_networks_have_the_layers_that_are_asked_for():
    net = job.Network((4,), "tanh", batchnorm=True, dropout=0.2).build(2, 1, 0)
    assert [type(layer).__name__ for layer in net] == ["Linear", "BatchNorm1d", "Tanh", "Dropout", "Linear"]
    assert net[3].p == 0.2
    with pytest.raises(ValueError, match=r"--dropout must be a rate, 0 <= RATE < 1, but 1 came"):
        job.Network((4,), dropout=1.0)


# ---- the whole way


def made(houses, *words, out="report.html"):
    before = torch.get_rng_state()
    target = houses.parent / out
    result = invoke("report", houses, "--drop", "id", "--out", target, *QUICK, *words)
    assert torch.equal(torch.get_rng_state(), before)
    return result, json.loads(target.with_suffix(".json").read_text(encoding="utf-8"))


def test_a_regression(houses):
    words = ["--target", "price", "--drop", "kind", "--drop", "sort", "--test-fraction", "0.25"]
    result, data = made(houses, *words, "--method", "map", "--method", "mean-field")
    out = houses.parent / "report.html"
    assert "houses.csv: 60 rows, 45 to fit and 15 held out at random; 7 inputs; regression, on 'price'" in result.stdout
    assert "Laplace" not in rows_of(result.stdout, "0.weight")[0]
    lines = result.stdout.splitlines()
    for name in ("map", "mean-field"):
        (place,) = [i for i, line in enumerate(lines) if line.startswith(f"{name}, ")]
        assert lines[place].endswith(" s")
        assert lines[place + 1].endswith("in units of price.")
        assert data["fits"][name]["method"] == name
    assert "raise --num-steps to" in result.stdout
    assert rows_of(result.stdout, "RMSE")
    assert f"Report: {out}, with its numbers in {out.with_suffix('.json')}" in result.stdout
    assert result.stderr == ""
    assert "\x1b" not in result.stdout
    assert data["seed"] == 0
    assert data["data"]["target"] == "price"
    assert data["data"]["num_test"] == 15
    page = out.read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert "[red]color[/red]" in page
    assert sorted(os.listdir(houses.parent)) == ["houses.csv", "report.html", "report.json"]


@pytest.mark.parametrize(("target", "classes"), [("kind", ["cheap", "dear"]), ("sort", ["s0", "s1", "s2"])])
def test_a_classification(houses, target, classes):
    result, data = made(houses, "--target", target, "--method", "laplace", "--activation", "tanh")
    assert f"{len(classes)} classes, on {target!r}" in result.stdout
    assert data["data"]["classes"] == classes
    assert list(data["fits"]) == ["laplace"]
    assert rows_of(result.stdout, "accuracy")


def test_the_noise_is_in_the_units_of_the_target(tmp_path):
    x = np.linspace(-1, 1, 200)
    y = 5000 + 900 * x + np.random.default_rng(0).normal(0, 100, 200)
    file = written(tmp_path / "a.csv", "x,y\n" + "".join(f"{a:.6f},{b:.3f}\n" for a, b in zip(x, y, strict=True)))
    words = ["report", file, "--target", "y", "--hidden", 0, "--method", "map", "--num-samples", 20]
    result = invoke(*words, "--out", tmp_path / "report.html", "--no-baselines")
    noise = float(result.stdout.partition("noise_scale = ")[2].partition(",")[0])
    assert noise == pytest.approx(100, rel=4 / np.sqrt(2 * 160))  # the sd of a sd from 160 rows is σ/√(2·160)


def test_a_closed_form_is_fitted_once(houses, monkeypatch):
    count = []
    fit = job.br.fit
    monkeypatch.setattr(job.br, "fit", lambda *a, **k: count.append(k["method"].name) or fit(*a, **k))
    words = ["--method", "exact", "--method", "map", "--likelihood", "Gaussian(noise_scale=0.4)"]
    target = houses.parent / "report.html"
    invoke(
        "report",
        houses,
        "--drop",
        "id",
        "--target",
        "price",
        "--out",
        target,
        "--hidden",
        0,
        *words,
        "--num-samples",
        20,
        "--no-baselines",
    )
    assert count == ["exact", "map", "map"]  # a rehearsal each, and the fit that takes steps


def test_the_seed_decides(houses):
    words = ["--target", "price", "--method", "map"]
    (_, one), (_, same), (_, other) = (
        made(houses, *words, "--seed", seed, out=f"{i}.html") for i, seed in enumerate([0, 0, 1])
    )
    scores = [data["comparison"]["posteriors"]["map"]["scores"]["metrics"]["rmse"] for data in (one, same, other)]
    assert scores[0] == scores[1] != scores[2]


def test_force_replaces_both_files(houses):
    for name in ("report.html", "report.json"):
        written(houses.parent / name, "mine")
    _, data = made(houses, "--target", "price", "--method", "map", "--force")
    assert data["seed"] == 0
    assert "mine" not in (houses.parent / "report.html").read_text(encoding="utf-8")


def test_missing_rows_are_dropped_when_asked(tmp_path):
    text = "x,price\n" + "".join(f"{i},{i % 7}\n" for i in range(30)) + ",3\n"
    file = written(tmp_path / "a.csv", text)
    result = invoke(
        "report", file, "--target", "price", "--drop-missing", "--out", tmp_path / "r.html", *QUICK, "--method", "map"
    )
    assert "1 row of 31 with missing values left out" in result.stdout
    assert "a.csv: 30 rows, 24 to fit and 6 held out" in result.stdout


def test_the_comparison_fits_a_narrow_terminal(houses):
    result = invoke(
        "report", houses, "--target", "price", "--drop", "id", "--out", houses.parent / "r.html", *QUICK,
        "--method", "map", "--method", "mean-field", "--method", "laplace", env={"COLUMNS": "60"},
    )  # fmt: skip
    assert max(map(len, result.stdout.splitlines())) <= max(60, len(str(houses)) + 60)
    assert len(rows_of(result.stdout, "RMSE")) == 2  # two columns, and the third below


def test_the_demo(tmp_path, monkeypatch):
    methods = job.methods
    monkeypatch.setattr(job, "methods", lambda names, _=None: methods(names, {"num_steps": 30} if names else {}))
    result = invoke("demo", "--out", tmp_path / "demo.html", "--seed", 1)
    data = json.loads((tmp_path / "demo.json").read_text(encoding="utf-8"))
    names = ["MAP, Normal", "MAP, Laplace", "mean-field, Normal", "Laplace approximation, Normal"]
    assert list(data["fits"]) == names
    assert [data["fits"][name]["method"] for name in names] == ["map", "map", "mean-field", "laplace"]
    assert len(rows_of(result.stdout, "0.weight")) == 2  # one table a prior, not a fit
    assert "Laplace(scale=0.1)" in rows_of(result.stdout, "0.weight")[1]
    assert rows_of(result.stdout, "MAP, Laplace, ")
    assert data["seed"] == 1


# ---- real processes


def test_the_script_says_its_version():
    for module in (True, False):
        found = process("--version", module=module)
        assert (found.returncode, found.stderr) == (0, "")
        assert found.stdout == invoke("--version").stdout


@pytest.mark.slow
def test_a_process_the_whole_way(houses):
    words = [
        "report",
        houses,
        "--target",
        "price",
        "--drop",
        "id",
        *QUICK,
        "--method",
        "map",
        "--prior",
        "*.weight=Laplace(1.0)",
    ]
    found = process(*words, cwd=houses.parent)
    assert (found.returncode, found.stderr) == (0, "")
    assert "\x1b" not in found.stdout
    assert "Report: report.html, with its numbers in report.json" in found.stdout
    assert sorted(os.listdir(houses.parent)) == ["houses.csv", "report.html", "report.json"]


def test_a_terminal_without_greek_letters():
    found = process("priors", "--list", env={**PROCESS, "PYTHONIOENCODING": "ascii"})
    assert found.returncode == 0
    assert "? |w| / 1" in found.stdout


def test_nothing_heavy_is_imported_for_the_help():
    code = "import sys, bayesreg; before = set(sys.modules); import bayesreg.cli.commands; print(*set(sys.modules) - before)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, env=PROCESS
    ).stdout.split()
    roots = {name.partition(".")[0] for name in loaded}
    assert not roots & {"pandas", "matplotlib", "scipy", "sklearn", "arviz", "jinja2"}
    assert "bayesreg.cli.job" not in loaded


@pytest.mark.skipif(os.name == "nt", reason="there are no pseudo-terminals there")
@pytest.mark.slow
def test_a_terminal_sees_progress_and_a_pipe_does_not(houses):
    import pty

    ours, theirs = pty.openpty()
    words = ["report", houses, "--target", "price", "--drop", "id", "--out", houses.parent / "r.html", *QUICK]
    command, env = [sys.executable, "-m", "bayesreg", *map(str, words)], {**PROCESS, "TERM": "xterm-256color"}
    seen = b""
    with (
        (houses.parent / "out.txt").open("wb") as out,
        subprocess.Popen(command, stdout=out, stderr=theirs, env=env) as running,
    ):
        os.close(theirs)
        with contextlib.suppress(OSError):  # how Linux says that the other side has closed
            while part := os.read(ours, 4096):
                seen += part
    os.close(ours)
    assert running.returncode == 0
    assert b"map" in seen
    assert b"\x1b" in seen
    assert b"\x1b" not in (houses.parent / "out.txt").read_bytes()


@pytest.mark.slow
def test_the_real_demo_takes_less_than_a_minute(tmp_path):
    found = process("demo", "--out", tmp_path / "report.html", timeout=60)
    assert (found.returncode, found.stderr) == (0, "")
    data = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert all(fit["converged"] for fit in data["fits"].values())
