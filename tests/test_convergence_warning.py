"""The warning of a fit that did not converge: once, at the caller's line, with the certificate's own sentence."""

import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.inference import MAP, LaplaceApproximation, MeanField
from tests.conftest import network

SHORT = {
    "map": lambda: MAP("adam", num_steps=5),
    "laplace": lambda: LaplaceApproximation(mode=MAP("adam", num_steps=5)),
    "mean-field": lambda: MeanField(num_steps=20),
}


@pytest.mark.parametrize("method", SHORT)
@pytest.mark.parametrize("call", ["function", "method"])
def test_a_short_fit_warns_once_at_the_caller_s_line(standard_diabetes, method, call):
    model = br.BayesianModel(network(10, 4, 1), likelihood=likelihoods.Gaussian(0.7))
    fitter = SHORT[method]()
    by = fitter.fit if call == "method" else lambda *given: br.fit(*given, method=fitter)
    with pytest.warns(br.ConvergenceWarning) as heard:
        fit = by(model, *standard_diabetes)
    assert not fit.certificate.converged
    (warning,) = [w for w in heard if w.category is br.ConvergenceWarning]  # a first import has warnings of its own
    assert str(warning.message) == f"{method}: {fit.certificate.sentence}"
    assert re.search("raise num_steps", str(warning.message))
    assert Path(warning.filename) == Path(__file__)


@pytest.mark.parametrize("method", ["map", "exact", "laplace"])
def test_a_converged_fit_does_not_warn(standard_diabetes, method):
    model = br.BayesianModel(nn.Linear(10, 1).double(), priors.Normal(0.3), likelihoods.Gaussian(0.7))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert br.fit(model, *standard_diabetes, method=method).certificate.converged


@pytest.mark.slow
def test_it_is_a_user_warning_that_python_shows_by_itself():
    assert issubclass(br.ConvergenceWarning, UserWarning)
    code = (
        "import torch, bayesreg as br; from bayesreg.inference import MAP\n"
        "x = torch.linspace(-1, 1, 20)[:, None]\n"
        "br.fit(br.BayesianModel(torch.nn.Linear(1, 1)), x, 3 * x[:, 0] + x[:, 0].sin(), method=MAP('adam', num_steps=3))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "ConvergenceWarning: map: Not converged" in done.stderr
    assert done.stdout == ""


@pytest.mark.slow
def test_the_command_line_shows_the_sentence_and_no_python_warning(tmp_path):
    rows = torch.linspace(-1, 1, 60)
    (tmp_path / "t.csv").write_text("x,y\n" + "\n".join(f"{float(x)},{float(x)}" for x in rows))  # no noise: it runs to zero
    command = [sys.executable, "-m", "bayesreg", "report", str(tmp_path / "t.csv"), "--target", "y", "--method", "map"]
    done = subprocess.run([*command, "--out", str(tmp_path / "r.html")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "ConvergenceWarning" not in done.stderr + done.stdout
    assert "noise_scale ran to zero" in done.stdout.replace("\n", " ")
