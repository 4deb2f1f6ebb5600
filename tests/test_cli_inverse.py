"""`bayesreg inverse`: a test problem or two files go in; the verdict, the rules and a page come out."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from bayesreg import inverse, likelihoods, priors
from bayesreg.cli import app
from bayesreg.datasets import inverse as problems
from bayesreg.model import BayesianModel

pytestmark = pytest.mark.usefixtures("unrendered")


@pytest.fixture(autouse=True)
def _own_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "400")


def run(*words):
    return CliRunner().invoke(app, ["inverse", *words])


def test_a_test_problem_is_solved_at_the_scale_of_gcv(tmp_path):
    done = run("deriv2", "--size", "16", "--noise", "0.02", "--prior", "Smooth(order=2)", "--seed", "3")
    assert done.exit_code == 0, done.output
    problem = problems.deriv2(16)
    b, sigma = problem.noisy(0.02, 3)
    choice = inverse.choose(BayesianModel(problem.operator, {"x": priors.Smooth(2)}, likelihoods.Gaussian(sigma)), b)
    assert f"The prior's scale is that of gcv: {choice['gcv'].prior_scale:.3g}." in done.output
    for said in (*inverse.analyse(problem.operator, b, sigma).verdict, "evidence-profiled", "true error", "gcv assumes"):
        assert said in done.output.replace("\n", " ")
    facts = json.loads((tmp_path / "inverse.json").read_text())
    assert facts["inverse"]["answers"]["posterior"]["relative_error"] == pytest.approx(
        choice.errors(problem.x)["gcv"], rel=1e-6
    )
    assert (tmp_path / "inverse.html").exists()
    again = run("deriv2", "--size", "16")
    assert again.exit_code == 2
    assert "--force" in again.output


def test_files_are_solved_and_priors_compared(tmp_path):
    rng = np.random.default_rng(0)
    A, x = np.tril(np.ones((20, 20))) / 20, np.sin(np.linspace(0, 3, 20))
    np.save("A.npy", A)
    np.save("b.npy", A @ x + 0.005 * rng.normal(size=20))
    np.save("x.npy", x)
    words = ["--matrix", "A.npy", "--data", "b.npy", "--truth", "x.npy", "--rule", "evidence", "--out", "page.html"]
    done = run(*words, "--prior", "Smooth(order=2, scale=1.0, level_scale=100.0)", "--prior", "Normal(1.0)")
    assert done.exit_code == 0, done.output
    assert "σ is not known" in done.output
    assert "discrepancy: left out" in done.output
    assert "log p(b) of each prior" in done.output
    assert json.loads((tmp_path / "page.json").read_text())["inverse"]["truth"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "a test problem, or --matrix A.npy with --data b.npy, must be given"),
        (["shaw", "--noise-scale", "0.1"], "a test problem brings its own"),
        (["shaws"], "the problem must be one of"),
        (["shaw", "--rule", "gvc"], "--rule must be one of"),
        (["shaw", "--prior", "Laplace(1.0)"], "needs a quadratic penalty"),
        (["shaw", "--noise", "0"], "--noise must be"),
        (["--matrix", "none.npy", "--data", "none.npy"], "--matrix must be a NumPy file of numbers"),
        (["shaw", "--out", "page.pdf"], "--out must end in .html"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(words, said, tmp_path):
    done = run(*words)
    assert done.exit_code == 2
    assert said in done.output.replace("\n", " ")
    assert not list(tmp_path.glob("*.html"))
