"""The report says what dropout alone makes of a prediction, and the prior table which prior it takes."""

import numpy as np
import pytest
from torch import nn

import bayesreg as br
from bayesreg import layers
from bayesreg.inference import MAP, MCDropout


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(150, 3))
    y = X[:, 0] + 0.3 * rng.normal(size=150)
    net = nn.Sequential(
        layers.VariationalDropout(nn.Linear(3, 8)), nn.Tanh(), nn.Dropout(0.05), nn.Linear(8, 8), nn.Tanh(),
        layers.ConcreteDropout(0.1), nn.Linear(8, 1),
    )  # fmt: skip
    model = br.BayesianModel(net)
    fits = {
        "dropout": br.fit(model, X[:100], y[:100], method=MCDropout(num_steps=1500)),
        "mode": br.fit(model, X[:100], y[:100], method=MAP("adam", num_steps=300)),
    }
    report = br.report(fits, X[100:], y[100:], num_samples=100)
    path = tmp_path_factory.mktemp("report") / "report.html"
    report.save(path)
    return model, fits, report, path.read_text(encoding="utf-8")


@pytest.mark.filterwarnings("ignore::bayesreg.ConvergenceWarning")
def test_each_noise_is_told_with_its_rate_and_what_it_makes(written):
    _, fits, report, page = written
    told = report.data["dropout"]
    assert list(told) == ["dropout"]
    assert [layer["layer"] for layer in told["dropout"]["layers"]] == ["0", "2", "5"]
    assert told["dropout"]["layers"][1]["rate"] == 0.05
    assert told["dropout"]["layers"][2]["learned"]
    assert told["dropout"]["layers"][1]["weights"] == ["3.weight"]
    assert told["dropout"]["sparsity"] == pytest.approx(fits["dropout"].sparsity())
    (part,) = told["dropout"]["uncertainty"]
    assert 0 < part["epistemic_sd"] < part["sd"]
    assert f"{100 * part['epistemic_share']:.0f}"[:1] in told["dropout"]["finding"]
    assert "The rate of layer 2 was set by hand" in told["dropout"]["finding"]
    assert "The rate of layer 2 was set by hand" in page
    assert "Sparsity of <code>0.layer.weight</code>" in page


def test_the_prior_table_says_which_prior_dropout_takes(written):
    assert "MCDropout takes the log-uniform prior 1/|w| in its place" in str(written[0].prior_table())
