"""The options and commands of `bayesreg`: a file goes in, a report comes out.

Everything that a person may have got wrong is checked before the first fit and reported in one line. PyTorch and other heavy
packages are imported inside the command that needs them.
"""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import typer

from bayesreg import __version__
from bayesreg.cli import options as o
from bayesreg.cli.interrupt import loaded
from bayesreg.cli.screen import Commands, columns, console, say

app = typer.Typer(
    cls=Commands,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """The command `bayesreg`."""
    app(prog_name="bayesreg")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"bayesreg {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.", show_default=False)
    ] = False,
) -> None:
    """Regularisers as priors: fit a network with a penalty, fit the posterior behind it, and read what the first one hid.

    A first look, under a minute:  bayesreg demo

    Your own file:  bayesreg report houses.csv --target price --save model.pt

    New rows:  bayesreg predict model.pt new.csv --out predictions.csv
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def report(
    file: o.File,
    target: o.Target,
    kind: o.Kind = None,
    drop: o.Drop = None,
    categorical: o.Categories = None,
    numeric: o.Numbers = None,
    transform: o.Transform = None,
    missing: o.Gaps = None,
    drop_missing: o.DropMissing = False,
    max_levels: o.MaxLevels = 50,
    test_fraction: o.TestFraction = None,
    test: o.TestFile = None,
    split: o.Split = None,
    na: o.Na = None,
    encoding: o.Encoding = None,
    separator: o.Separator = None,
    decimal: o.Decimal = None,
    dates: o.DateOrder = None,
    no_header: o.NoHeader = False,
    skip_lines: o.SkipLines = 0,
    sheet: o.Sheet = None,
    bad_rows: o.BadRows = "refuse",
    prior: o.Prior = None,
    priors_file: o.PriorsFile = None,
    likelihood: o.Likelihood = None,
    hidden: o.Hidden = None,
    activation: o.Activation = None,
    batchnorm: o.BatchNorm = False,
    dropout: o.Dropout = 0.0,
    method: o.Method = None,
    num_steps: o.NumSteps = None,
    batch_size: o.BatchSize = None,
    learning_rate: o.LearningRate = None,
    seed: o.Seed = 0,
    num_samples: o.NumSamples = None,
    out: o.Out = Path("report.html"),
    save: o.Save = None,
    no_baselines: o.NoBaselines = False,
    force: o.Force = False,
) -> None:
    """Fit a network to a file by several methods, compare them on held-out rows, and write a report."""
    job = _job()
    settings = job.Settings(out, force, seed, num_samples, save, not no_baselines)
    job.check(settings)
    network = _network(job, hidden, activation, batchnorm, dropout)
    said = {"num_steps": num_steps, "batch_size": batch_size, "learning_rate": learning_rate}
    methods = job.methods(method or ["map", "auto"], said)
    rules = job.rules(prior or [], priors_file)
    reading = job.reading_of(encoding, separator, decimal, dates, tuple(na or ()), not no_header, skip_lines, sheet, bad_rows)
    columns = map(tuple, (drop or (), categorical or (), numeric or (), transform or ()))
    gaps = job.missing_as(missing, drop_missing)
    asked = job.Asked(file, target, kind, *columns, gaps, max_levels, test_fraction, test, split, reading)
    case = job.read(asked, likelihood, seed)
    model = job.model(case, network, rules, seed)
    case = case if network else job.with_note(case, model)
    if not (network or method or prior or priors_file or any(said.values())):
        methods, case = job.by_default(methods, case, model)
    job.run(case, {name: job.Fit(model, how) for name, how in methods.items()}, settings)


@app.command()
def demo(
    out: o.Out = Path("report.html"),
    force: o.Force = False,
    seed: o.Seed = 0,
    method: o.DemoMethod = None,
    num_steps: o.NumSteps = None,
) -> None:
    """Fit one network to the diabetes data under two priors and by three methods, and write a report: under a minute."""
    job = _job()
    settings = job.Settings(out, force, seed)
    job.check(settings)
    case = job.demo(seed)
    normal, laplace = (
        job.model(case, job.DEMO, rules, seed) for rules in (job.rules([]), job.rules(["*.weight=Laplace(0.1)"]))
    )
    given = {
        "MAP, Normal": (normal, "map"),
        "MAP, Laplace": (laplace, "map"),
        "mean-field, Normal": (normal, "mean-field"),
        "Laplace approximation, Normal": (normal, "laplace"),
    }
    more = job.methods(method or [], {"num_steps": num_steps})
    fits = {name: job.Fit(model, job.methods([how])[how]) for name, (model, how) in given.items()}
    job.run(case, fits | {f"{name}, Normal": job.Fit(normal, how) for name, how in more.items()}, settings)


@app.command()
def priors(
    file: o.SomeFile = None,
    target: o.SomeTarget = None,
    kind: o.Kind = None,
    drop: o.Drop = None,
    categorical: o.Categories = None,
    numeric: o.Numbers = None,
    transform: o.Transform = None,
    missing: o.Gaps = None,
    drop_missing: o.DropMissing = False,
    max_levels: o.MaxLevels = 50,
    na: o.Na = None,
    encoding: o.Encoding = None,
    separator: o.Separator = None,
    decimal: o.Decimal = None,
    dates: o.DateOrder = None,
    no_header: o.NoHeader = False,
    skip_lines: o.SkipLines = 0,
    sheet: o.Sheet = None,
    bad_rows: o.BadRows = "refuse",
    prior: o.Prior = None,
    priors_file: o.PriorsFile = None,
    likelihood: o.Likelihood = None,
    hidden: o.Hidden = None,
    activation: o.Activation = None,
    batchnorm: o.BatchNorm = False,
    dropout: o.Dropout = 0.0,
    list_all: o.List = False,
) -> None:
    """Show what would be assumed about every tensor, before any fit; takes the model options of `bayesreg report`."""
    if list_all:
        _list_priors()
        return
    job = _job()
    rules = job.rules(prior or [], priors_file)
    network = _network(job, hidden if file else hidden or list(job.DEMO.hidden), activation, batchnorm, dropout)
    reading = job.reading_of(encoding, separator, decimal, dates, tuple(na or ()), not no_header, skip_lines, sheet, bad_rows)
    columns = map(tuple, (drop or (), categorical or (), numeric or (), transform or ()))
    gaps = job.missing_as(missing, drop_missing)
    case = job.read(job.Asked(file, target, kind, *columns, gaps, max_levels, reading=reading, whole=True), likelihood, 0)
    model = job.model(case, network, rules, 0)
    case = case if network else job.with_note(case, model)
    screen = console()
    job.say_data(screen, case)
    job.say_priors(screen, {"": model})


@app.command()
def predict(
    model: o.Model,
    file: o.NewFile,
    out: o.Predictions = Path("predictions.csv"),
    level: o.Level = 0.95,
    num_samples: o.SomeSamples = None,
    seed: o.Seed = 0,
    force: o.ForcePredictions = False,
) -> None:
    """Predict the rows of a file by a saved model: mean, sd and interval, or classes' probabilities, beside its columns."""
    from bayesreg.cli.models import predict as predict_rows

    loaded()
    predict_rows(model, file, out, level=level, num_samples=num_samples, seed=seed, force=force)


@app.command()
def compare(
    file: o.TestRows,
    models: o.Models,
    num_samples: o.SomeSamples = None,
    seed: o.Seed = 0,
) -> None:
    """Compare saved models by how well they predict the rows of a file that none of them has seen."""
    from bayesreg.cli.models import compare_models

    loaded()
    compare_models(file, models, num_samples=num_samples, seed=seed)


@app.command()
def inverse(
    problem: o.Problem = None,
    size: o.ProblemSize = None,
    noise: o.Noise = 0.01,
    matrix: o.Matrix = None,
    data: o.Measurements = None,
    truth: o.Truth = None,
    noise_scale: o.KnownNoise = None,
    prior: o.PriorOfX = None,
    rule: o.Rule = None,
    out: o.Out = Path("inverse.html"),
    seed: o.Seed = 0,
    force: o.Force = False,
) -> None:
    """Solve A x = b: say whether it is well-posed, choose the prior's scale by every rule, and write a report."""
    from bayesreg.cli.problems import Asked, solve_problem

    loaded()
    asked = Asked(problem, size, noise, matrix, data, truth, noise_scale)
    solve_problem(asked, prior or [], rule, out=out, seed=seed, force=force)


@app.command()
def methods() -> None:
    """List the ways to fit, and when to use which."""
    from bayesreg.inference.base import methods

    rows = [(name, cls.__name__, cls.when) for name, cls in methods().items()]
    columns(console(), ("method", "class", "when to use it"), rows)


@app.command()
def equivalents(
    prior: o.SomePrior, num_data: o.NumData = None, noise_scale: o.NoiseScale = None, num_outputs: o.NumOutputs = 1
) -> None:
    """Say what to write in scikit-learn, torch, Keras, glmnet or lsqr to assume a prior."""
    from bayesreg import _check
    from bayesreg.dictionary import equivalents as table_of
    from bayesreg.priors import parse

    if num_data is not None:
        _check.count("--num-data", num_data)
    if noise_scale is not None:
        _check.squared("--noise-scale", noise_scale)
    _check.count("--num-outputs", num_outputs)
    table = table_of(parse(prior), num_data=num_data, noise_scale=noise_scale, num_outputs=num_outputs)
    screen = console()
    say(screen, table.caption)
    if not table.rows:
        return
    say(screen, "")
    columns(screen, table.heads, table.cells)
    say(screen, "", *(re.sub(r"num_data|noise_scale|num_outputs", _as_option, note) for note in table.notes))


def _job() -> ModuleType:
    """Import the module that does the work, which takes seconds."""
    from bayesreg.cli import job as _cli_job

    loaded()
    return _cli_job


def _network(job: ModuleType, hidden: list[int] | None, activation: str | None, batchnorm: bool, dropout: float) -> Any:
    """The network that was asked for; None where nothing was."""
    if hidden is None and activation is None and not batchnorm and dropout == 0:
        return None
    return job.Network(tuple(hidden or [50]), activation or "relu", batchnorm, dropout)


def _as_option(word: re.Match[str]) -> str:
    return "--" + word[0].replace("_", "-")


def _list_priors() -> None:
    from torch.distributions import constraints

    from bayesreg._catalog import concrete
    from bayesreg.priors import AbstractPrior

    words = {constraints.real: "any number", constraints.positive: "positive"}
    kinds: list[Any] = concrete(AbstractPrior)
    found = [kind() for kind in kinds]
    rows = [(repr(p), p.regulariser, p.penalty_text, words.get(p.support, str(p.support))) for p in found]
    screen = console()
    columns(screen, ("prior", "as a regulariser", "penalty", "support"), rows)
    say(screen, "", "Numbers may be changed; left out, they are these. Use one as --prior '*.weight=Laplace(scale=0.1)'.")


if __name__ == "__main__":
    main()
