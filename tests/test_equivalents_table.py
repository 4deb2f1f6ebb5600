"""The λ dictionary as a table, what it refuses, and its command; `test_equivalents` proves the formulas."""

from __future__ import annotations

import html
import io
import math

import pytest
import rich.console
import torch
from typer.testing import CliRunner

import bayesreg as br
from bayesreg import priors
from bayesreg._catalog import concrete
from bayesreg.cli import app
from bayesreg.priors import AbstractTools, ElasticNet, Flat, Laplace, Normal
from tests.test_equivalents import numbers

# ---- the table


def test_the_table_is_what_the_classmethods_undo():
    known = {"num_data": 442, "noise_scale": 54.0}
    mse = {**known, "loss": "mse", "num_outputs": 3}
    for prior, back in [
        (Normal(0.3), {"Ridge": lambda n: Normal.from_ridge(n["alpha"], 54.0)}),
        (Normal(0.3), {"lsqr, lsmr": lambda n: Normal.from_damp(n["damp"], 54.0)}),
        (Normal(0.3), {"torch SGD, Adam, MSELoss": lambda n: Normal.from_weight_decay(n["weight_decay"], **mse)}),
        (Normal(0.3), {"Keras, mse": lambda n: Normal.from_keras(n["l2"], **mse)}),
        (Laplace(0.3), {"Lasso": lambda n: Laplace.from_lasso(n["alpha"], **known)}),
        (Laplace(0.3), {"Keras, mse": lambda n: Laplace.from_keras(n["l1"], **mse)}),
        (ElasticNet(0.3, 2.0), {"ElasticNet": lambda n: ElasticNet.from_sklearn(n["alpha"], n["l1_ratio"], **known)}),
        (ElasticNet(0.3, 2.0), {"LogisticRegression": lambda n: ElasticNet.from_logistic(n["C"], n["l1_ratio"])}),
        (ElasticNet(0.3, 2.0), {"glmnet, gaussian": lambda n: ElasticNet.from_glmnet(n["lambda"], n["alpha"], **known)}),
        (ElasticNet(0.3, 2.0), {"Keras, mse": lambda n: ElasticNet.from_keras(n["l1"], n["l2"], **mse)}),
    ]:
        ((tool, inverse),) = back.items()
        found = inverse(numbers(prior, tool, **known, num_outputs=3))
        assert type(found) is type(prior)
        assert found.strengths == pytest.approx(prior.strengths, rel=1e-12)


def test_the_table_says_what_is_missing():
    table = br.equivalents(Normal(0.5))
    written = {row.tool: row.write for row in table.rows}
    assert written["Ridge"] == "needs σ"
    assert written["torch SGD, Adam, mean log loss"] == "needs N"
    assert written["Keras, mse"] == "needs N and σ"
    assert written["LogisticRegression"] == "LogisticRegression(C=0.25)"
    assert [note.partition(" ")[0] for note in table.notes] == ["N", "σ", "K"]
    assert "give num_data" in str(table)
    full = br.equivalents(Normal(0.5), num_data=442, noise_scale=54)
    assert [note.partition(" ")[0] for note in full.notes] == ["K"]
    assert "needs" not in str(full)


def test_adamw_has_a_row_that_says_there_is_none():
    (row,) = (row for row in br.equivalents(Normal(0.5), num_data=9).rows if row.tool == "torch AdamW")
    assert (row.write, dict(row.numbers)) == ("none", {})
    assert "not the gradient of a penalty" in row.formula


@pytest.mark.parametrize("prior", [Normal(0.5), Laplace(0.5), ElasticNet(0.5, 2.0), Flat()], ids=repr)
def test_the_table_in_all_its_forms(prior):
    table = br.equivalents(prior, num_data=442)
    dicts = table.to_dicts()
    assert list(dicts[0]) == ["tool", "write", "formula", "condition", "numbers"]
    frame = table.to_frame()
    assert frame["write"].tolist() == [row.write for row in table.rows]
    page = table._repr_html_()
    console = rich.console.Console(width=400, record=True, file=io.StringIO())
    console.print(table)
    shown = console.export_text()
    for text in (str(table), shown):
        assert table.caption in text
        assert all(row.write in text and row.formula in text for row in table.rows)
    assert page.count("<tr>") == len(table.rows) + 1
    assert all(html.escape(row.write) in page for row in table.rows)


def test_every_other_prior_has_a_sentence():
    others = [cls() for cls in concrete(priors.AbstractPrior) if not issubclass(cls, AbstractTools) and cls is not Flat]
    assert others
    for prior in others:
        table = br.equivalents(prior, num_data=10, noise_scale=1.0)
        assert table.rows == ()
        assert str(table).startswith(f"{prior!r} has no counterpart in these tools")
        assert table.to_frame().empty
        assert "<table" not in table._repr_html_()


def test_the_classes_of_the_dictionary_are_no_priors():
    assert {cls.__name__ for cls in concrete(priors.AbstractPrior)}.isdisjoint(
        {"AbstractTools", "AbstractNormalTools", "AbstractLaplaceTools", "AbstractElasticNetTools"}
    )


# ---- what is refused


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Normal.from_ridge(0.0, 1.0), r"alpha must be > 0, but 0.0 came: that is no penalty; use Flat\(\)"),
        (lambda: Normal.from_ridge(-1.0, 1.0), r"alpha must be a finite number > 0, but -1.0 came"),
        (lambda: Normal.from_ridge(1.0, 0.0), r"noise_scale must be a finite number > 0, but 0.0 came"),
        (lambda: Normal.from_damp(0, 1.0), r"damp must be > 0, but 0 came: that is no penalty"),
        (lambda: Normal.from_logistic(math.inf), r"C must be finite, but inf came: that is no penalty; use Flat\(\)"),
        (lambda: Laplace.from_logistic(0.0), r"C must be a finite number > 0, but 0.0 came"),
        (lambda: Normal.from_weight_decay(0, 10), r"decay must be > 0, but 0 came: that is no penalty; use Flat\(\)"),
        (lambda: Normal.from_weight_decay(1, 10.0), r"num_data must be a whole number >= 1, but 10.0 came"),
        (lambda: Normal.from_weight_decay(1, 10, num_outputs=0), r"num_outputs must be a whole number >= 1, but 0 came"),
        (lambda: Normal.from_weight_decay(1, 10, loss="mae"), r"loss must be one of 'nll', 'mse', but 'mae' came"),
        (lambda: Normal.from_weight_decay(1, 10, loss="mse"), r"noise_scale must be given with loss='mse'.* but None came"),
        (lambda: Normal.from_weight_decay(1, 10, noise_scale=2.0), r"noise_scale must be left out with loss='nll'.* 2.0 came"),
        (
            lambda: Normal.from_weight_decay(1, 10, optimizer="adamw"),
            r"optimizer must be 'sgd' or 'adam', but 'adamw' came: its decay is not the gradient of any penalty",
        ),
        (lambda: Normal.from_weight_decay(1, 10, optimizer="lion"), r"optimizer must be one of 'sgd', 'adam', but 'lion' came"),
        (lambda: Normal.from_keras(0.0, 10), r"l2 must be > 0, but 0.0 came: that is no penalty"),
        (lambda: Laplace.from_keras(0.1, 10, loss="nll"), r"loss must be one of 'crossentropy', 'mse', but 'nll' came"),
        (lambda: Laplace.from_lasso(0.0, 10, 1.0), r"alpha must be > 0, but 0.0 came: that is no penalty"),
        (lambda: Laplace.from_glmnet(0.1, True, 1.0), r"num_data must be a whole number >= 1, but True came"),
        (lambda: ElasticNet.from_sklearn(1.0, 0.0, 10, 1.0), r"l1_ratio must lie between 0 and 1.* all L2, Normal.from_ridge"),
        (lambda: ElasticNet.from_sklearn(1.0, 1.0, 10, 1.0), r"l1_ratio must lie between .* 1 all L1, Laplace.from_lasso"),
        (lambda: ElasticNet.from_sklearn(0.0, 0.5, 10, 1.0), r"alpha must be > 0, but 0.0 came: that is no penalty"),
        (lambda: ElasticNet.from_glmnet(1.0, 1.0, 10, 1.0), r"alpha must lie between 0 and 1, both excluded, but 1.0 came"),
        (lambda: ElasticNet.from_logistic(1.0, -0.5), r"l1_ratio must lie between 0 and 1, both excluded, but -0.5 came"),
        (lambda: ElasticNet.from_keras(0.0, 0.1, 10), r"l1 must be > 0, but 0.0 came: .* use Normal.from_keras\(l2"),
        (lambda: ElasticNet.from_keras(0.1, 0.0, 10), r"l2 must be > 0, but 0.0 came: .* use Laplace.from_keras\(l1"),
        (lambda: br.equivalents("Normal(0.5)"), r"prior must be a prior, but 'Normal\(0.5\)' came; pass for example"),
        (lambda: br.equivalents(Normal(1.0, loc=0.5)), r"loc must be 0, since these tools shrink towards zero, but 0.5 came"),
        (lambda: br.equivalents(Laplace(1.0, fan_in=True)), r"the scale must be one number .* fan_in=True came"),
        (lambda: br.equivalents(Normal(autoscale=True)), r"the scale must be one number .* autoscale=True came"),
        (lambda: br.equivalents(Normal(priors.HalfCauchy(2.0))), r"scale must be one number .* HalfCauchy\(scale=2.0\) came"),
        (lambda: br.equivalents(Normal().given(torch.ones(2))), r"scale must be one number .* tensor\(\[1., 1.\]\) came"),
        (
            lambda: br.equivalents(Laplace(0.5, relative_to_noise=True)),
            r"noise_scale must be given for a prior relative to the noise, but None came with Laplace",
        ),
        (lambda: br.equivalents(Normal(1.0), num_data=0), r"num_data must be a whole number >= 1, but 0 came"),
        (lambda: br.equivalents(Normal(1.0), noise_scale=-1), r"noise_scale must be a finite number > 0, but -1 came"),
        (lambda: br.equivalents(Normal(1.0), num_outputs=1.5), r"num_outputs must be a whole number >= 1, but 1.5 came"),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ---- on the command line


@pytest.fixture(autouse=True)
def _plain_terminal(monkeypatch):
    for name in ("COLUMNS", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)


def invoke(*words, code=0, **options):
    result = CliRunner().invoke(app, ["equivalents", *words], **options)
    assert result.exit_code == code, result.output
    return result


def test_the_command():
    output = invoke("Normal(0.5)", "--num-data", "442", "--noise-scale", "54").stdout
    assert output.startswith("Normal(scale=0.5): τ = 0.5, N = 442, σ = 54, K = 1\n")
    for row in br.equivalents(Normal(0.5), num_data=442, noise_scale=54).rows:
        (line,) = (line for line in output.splitlines() if line.startswith(f"{row.tool} "))
        assert row.write in line
        assert row.formula in line
    assert "alpha=11664" in output


def test_the_command_says_which_options_are_missing():
    output = invoke("ElasticNet(0.5, 2.0)", "--num-outputs", "3").stdout
    assert "needs N and σ" in output
    for option in ("--num-data", "--noise-scale", "--num-outputs"):
        assert f"give {option}" in output
    assert max(map(len, invoke("Laplace(0.5)", env={"COLUMNS": "80"}).stdout.splitlines())) <= 80


def test_the_command_for_a_prior_without_a_counterpart():
    assert invoke("HalfCauchy(2.0)").stdout.startswith("HalfCauchy(scale=2.0) has no counterpart in these tools")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["Normall(0.5)"], "'Normall' is unknown; did you mean 'Normal'"),
        (["Normal(1.0, fan_in=True)"], "the scale must be one number"),
        (["Normal(0.5)", "--num-data", "0"], "--num-data must be a whole number >= 1, but 0 came"),
        (["Normal(0.5)", "--noise-scale", "0"], "--noise-scale must be a finite number > 0, but 0.0 came"),
        (["Normal(0.5)", "--num-outputs", "0"], "--num-outputs must be a whole number >= 1, but 0 came"),
        ([], "Missing argument"),
    ],
)
def test_the_command_refuses_in_one_line(words, message):
    result = invoke(*words, code=2)
    assert result.stdout == ""
    assert result.stderr.startswith("Error: ")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_generalised_normal_of_exponent_one_or_two_has_the_names_of_its_limits():
    numbers = {"num_data": 10, "noise_scale": 2.0}
    table = br.equivalents(priors.GeneralizedNormal(2.0, 1.0), **numbers)
    assert [row.write for row in table.rows] == [row.write for row in br.equivalents(Normal(0.5**0.5), **numbers).rows]
    table = br.equivalents(priors.GeneralizedNormal(1.0, 0.3), **numbers)
    assert [row.write for row in table.rows] == [row.write for row in br.equivalents(Laplace(0.3), **numbers).rows]
    assert not br.equivalents(priors.GeneralizedNormal(0.5, 0.3), **numbers).rows
