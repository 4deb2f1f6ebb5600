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
from bayesreg.cli.interrupt import loaded
from bayesreg.cli.screen import Commands, columns, console, say

app = typer.Typer(
    cls=Commands,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_DATA, _MODEL, _FITS, _REPORT = "Data", "Model", "Fits", "Report"


def _option(help: str, panel: str, *names: str, metavar: str | None = None, show_default: bool = False) -> Any:
    text = help.replace("[", r"\[")  # a section name such as [priors] is no markup
    return typer.Option(*names, help=text, rich_help_panel=panel, metavar=metavar, show_default=show_default)


File = Annotated[Path, typer.Argument(metavar="FILE", help="A CSV or Parquet file with named columns.")]
SomeFile = Annotated[
    Path | None,
    typer.Argument(metavar="FILE", help="A CSV or Parquet file; the demo's data if none is given.", show_default=False),
]
Target = Annotated[str, _option("Column to predict.", _DATA, metavar="NAME")]
SomeTarget = Annotated[str | None, _option("Column to predict; needed with a FILE.", _DATA, metavar="NAME")]
Kind = Annotated[
    str | None,
    _option(
        "regression or classification. If not given: regression for numbers, classification for text.", _DATA, metavar="KIND"
    ),
]
Drop = Annotated[list[str] | None, _option("Column to leave out, say an identifier. Repeat for more.", _DATA, metavar="COLUMN")]
DropMissing = Annotated[
    bool, _option("Leave out rows with missing values. If not given, a file that has some is refused.", _DATA, "--drop-missing")
]
MaxLevels = Annotated[int, _option("Most levels that a text column may have.", _DATA, metavar="L", show_default=True)]
TestFraction = Annotated[float, _option("Share of the rows held out to judge by.", _DATA, metavar="SHARE", show_default=True)]
Prior = Annotated[
    list[str] | None,
    _option(
        "What is assumed about the tensors whose names match, for example '*.weight=Laplace(scale=0.1)'. Repeat for more. "
        "If not given: normal priors that suit each layer's width. See: bayesreg priors --list",
        _MODEL,
        metavar="PATTERN=PRIOR",
    ),
]
PriorsFile = Annotated[
    Path | None,
    _option(
        "A TOML file with such rules, in a section [priors], and for layers' outputs in [outputs].",
        _MODEL,
        "--priors",
        metavar="TOML",
    ),
]
Likelihood = Annotated[
    str | None,
    _option(
        "What is assumed about the noise, for example 'Gaussian(noise_scale=HalfNormal(1.0))', or "
        "'Gaussian(\"heteroscedastic\")' where it differs from row to row. If not given: what suits the target, Gaussian, "
        "Bernoulli or Categorical.",
        _MODEL,
        metavar="TEXT",
    ),
]
Hidden = Annotated[
    list[int] | None,
    _option(
        "Width of a hidden layer. Repeat for more; 0 for a linear model. If not given: one of 50.", _MODEL, metavar="WIDTH"
    ),
]
Activation = Annotated[
    str, _option("relu, tanh, sigmoid, gelu, silu, elu or softplus.", _MODEL, metavar="NAME", show_default=True)
]
BatchNorm = Annotated[bool, _option("Batch normalisation before each activation.", _MODEL, "--batchnorm")]
Dropout = Annotated[
    float, _option("Rate of the units dropped after each activation.", _MODEL, metavar="RATE", show_default=True)
]
Method = Annotated[
    list[str] | None,
    _option("How to fit. Repeat for more. If not given: map and mean-field. See: bayesreg methods", _FITS, metavar="NAME"),
]
DemoMethod = Annotated[
    list[str] | None,
    _option("One more way to fit, say mile, which takes two minutes more, or less by --num-steps.", _FITS, metavar="NAME"),
]
NumSteps = Annotated[
    int | None,
    _option(
        "Steps of each fit that takes steps; of each chain, warm-up and draws, for a sampler. If not given: what suits the "
        "method and the data.",
        _FITS,
        metavar="N",
    ),
]
BatchSize = Annotated[int | None, _option("Rows a step. If not given: all rows up to 10,000, then 256.", _FITS, metavar="B")]
LearningRate = Annotated[
    float | None, _option("Adam's first rate; it falls to zero along the fit. If not given: 0.01.", _FITS, metavar="RATE")
]
Seed = Annotated[int, _option("Same seed, same machine, same answer.", _FITS, metavar="SEED", show_default=True)]
NumSamples = Annotated[
    int | None,
    _option(
        "Draws from each posterior for its predictions; as many as their comparison needs if not given.", _REPORT, metavar="S"
    ),
]
Out = Annotated[Path, _option("The report; its numbers go next to it as .json.", _REPORT, metavar="HTML", show_default=True)]
Force = Annotated[bool, _option("Replace a report that is there.", _REPORT, "--force")]
SomePrior = Annotated[
    str, typer.Argument(metavar="PRIOR", help="Normal, Laplace, ElasticNet or Flat, for example 'Normal(0.5)'.")
]
NumData = Annotated[int | None, typer.Option(help="Training rows N.", metavar="N", show_default=False)]
NoiseScale = Annotated[
    float | None, typer.Option(help="Sd σ of the noise, in the units of the target.", metavar="SIGMA", show_default=False)
]
NumOutputs = Annotated[
    int, typer.Option(help="Values K in each row over which a mean loss runs: outputs, or binary labels.", metavar="K")
]
List = Annotated[bool, typer.Option("--list", help="Every prior there is, and nothing else.", show_default=False)]


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

    Your own file:  bayesreg report houses.csv --target price
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def report(
    file: File,
    target: Target,
    kind: Kind = None,
    drop: Drop = None,
    drop_missing: DropMissing = False,
    max_levels: MaxLevels = 50,
    test_fraction: TestFraction = 0.2,
    prior: Prior = None,
    priors_file: PriorsFile = None,
    likelihood: Likelihood = None,
    hidden: Hidden = None,
    activation: Activation = "relu",
    batchnorm: BatchNorm = False,
    dropout: Dropout = 0.0,
    method: Method = None,
    num_steps: NumSteps = None,
    batch_size: BatchSize = None,
    learning_rate: LearningRate = None,
    seed: Seed = 0,
    num_samples: NumSamples = None,
    out: Out = Path("report.html"),
    force: Force = False,
) -> None:
    """Fit a network to a file by several methods, compare them on held-out rows, and write a report."""
    job = _job()
    settings = job.Settings(out, force, test_fraction, seed, num_samples)
    job.check(settings)
    network = job.Network(tuple(hidden or [50]), activation, batchnorm, dropout)
    said = {"num_steps": num_steps, "batch_size": batch_size, "learning_rate": learning_rate}
    methods = job.methods(method or ["map", "mean-field"], said)
    rules = job.rules(prior or [], priors_file)
    table = job.read(file, target, kind, drop or [], drop_missing, max_levels)
    model = job.model(table, network, rules, likelihood, seed)
    job.run(table, {name: job.Fit(model, how) for name, how in methods.items()}, settings)


@app.command()
def demo(
    out: Out = Path("report.html"),
    force: Force = False,
    seed: Seed = 0,
    method: DemoMethod = None,
    num_steps: NumSteps = None,
) -> None:
    """Fit one network to the diabetes data under two priors and by three methods, and write a report: under a minute."""
    job = _job()
    settings = job.Settings(out, force, seed=seed)
    job.check(settings)
    table = job.load_diabetes()
    normal, laplace = (
        job.model(table, job.DEMO, rules, None, seed) for rules in (job.rules([]), job.rules(["*.weight=Laplace(0.1)"]))
    )
    given = {
        "MAP, Normal": (normal, "map"),
        "MAP, Laplace": (laplace, "map"),
        "mean-field, Normal": (normal, "mean-field"),
        "Laplace approximation, Normal": (normal, "laplace"),
    }
    more = job.methods(method or [], {"num_steps": num_steps})
    fits = {name: job.Fit(model, job.methods([how])[how]) for name, (model, how) in given.items()}
    job.run(table, fits | {f"{name}, Normal": job.Fit(normal, how) for name, how in more.items()}, settings)


@app.command()
def priors(
    file: SomeFile = None,
    target: SomeTarget = None,
    kind: Kind = None,
    drop: Drop = None,
    drop_missing: DropMissing = False,
    max_levels: MaxLevels = 50,
    prior: Prior = None,
    priors_file: PriorsFile = None,
    likelihood: Likelihood = None,
    hidden: Hidden = None,
    activation: Activation = "relu",
    batchnorm: BatchNorm = False,
    dropout: Dropout = 0.0,
    list_all: List = False,
) -> None:
    """Show what would be assumed about every tensor, before any fit; takes the model options of `bayesreg report`."""
    if list_all:
        _list_priors()
        return
    job = _job()
    rules = job.rules(prior or [], priors_file)
    network = job.Network(tuple(hidden or ([50] if file else job.DEMO.hidden)), activation, batchnorm, dropout)
    table = job.read(file, target, kind, drop or [], drop_missing, max_levels)
    model = job.model(table, network, rules, likelihood, seed=0)
    screen = console()
    job.say_data(screen, table)
    job.say_priors(screen, {"": model})


@app.command()
def methods() -> None:
    """List the ways to fit, and when to use which."""
    from bayesreg.inference.base import methods

    rows = [(name, cls.__name__, cls.when) for name, cls in methods().items()]
    columns(console(), ("method", "class", "when to use it"), rows)


@app.command()
def equivalents(
    prior: SomePrior, num_data: NumData = None, noise_scale: NoiseScale = None, num_outputs: NumOutputs = 1
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
