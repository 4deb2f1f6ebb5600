"""The options of the commands: their words, and under which heading the help shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

_DATA, _FILE, _MODEL, _FITS, _REPORT = "Data", "How the file is written", "Model", "Fits", "Report"


def _option(help: str, panel: str, *names: str, metavar: str | None = None, show_default: bool = False) -> Any:
    text = help.replace("[", r"\[")  # a section name such as [priors] is no markup
    return typer.Option(*names, help=text, rich_help_panel=panel, metavar=metavar, show_default=show_default)


File = Annotated[
    Path, typer.Argument(metavar="FILE", help="CSV (also .gz, .zip, .xz), Parquet, Feather or Excel, with named columns.")
]
SomeFile = Annotated[
    Path | None,
    typer.Argument(metavar="FILE", help="A file of data; the demo's data if none is given.", show_default=False),
]
Target = Annotated[str, _option("Column to predict.", _DATA, metavar="NAME")]
SomeTarget = Annotated[str | None, _option("Column to predict; needed with a FILE.", _DATA, metavar="NAME")]
Kind = Annotated[
    str | None,
    _option("regression or classification. If not given, the target's values decide, and it is said.", _DATA, metavar="KIND"),
]
Drop = Annotated[list[str] | None, _option("Column to leave out. Repeat for more.", _DATA, metavar="COLUMN")]
Categories = Annotated[
    list[str] | None,
    _option(
        "Column of categories, though they may look like numbers. Repeat.",
        _DATA,
        "--categorical",
        metavar="COLUMN",
    ),
]
Numbers = Annotated[
    list[str] | None,
    _option("Column of numbers; what is none in it is missing. Repeat.", _DATA, "--numeric", metavar="COLUMN"),
]
Transform = Annotated[
    list[str] | None,
    _option("Function of a column: log, log1p, sqrt, square or asinh, as log:price. Repeat.", _DATA, metavar="F:COLUMN"),
]
Gaps = Annotated[
    str | None,
    _option(
        "What missing values do: impute (numbers get the median of the training rows and an input that marks them, categories "
        "a level), drop (their rows are left out) or refuse. If not given: impute, and it is said. Rows without a target are "
        "left out.",
        _DATA,
        "--missing",
        metavar="HOW",
    ),
]
DropMissing = Annotated[bool, _option("The same as --missing drop.", _DATA, "--drop-missing")]
MaxLevels = Annotated[
    int,
    _option("Most levels of a category with an input each; most classes.", _DATA, metavar="L", show_default=True),
]
TestFraction = Annotated[
    float | None, _option("Share of the rows held out to judge by. If not given: 0.2.", _DATA, metavar="SHARE")
]
TestFile = Annotated[Path | None, _option("File of rows to judge by, not held-out ones.", _DATA, "--test", metavar="FILE")]
Split = Annotated[
    str | None,
    _option(
        "How rows are held out: time:COLUMN for the latest, group:COLUMN for whole groups. If not given: at random.",
        _DATA,
        "--split",
        metavar="HOW",
    ),
]
Na = Annotated[
    list[str] | None,
    _option("What marks a missing value, besides NA and its kin. Repeat.", _FILE, "--na", metavar="TEXT"),
]
Encoding = Annotated[str | None, _option("As utf-8, cp1252 or utf-16. If not given, found out.", _FILE, metavar="NAME")]
Separator = Annotated[
    str | None, _option("Character between fields; tab for a tab. If not given, found out.", _FILE, metavar="CHARACTER")
]
Decimal = Annotated[str | None, _option("Decimal mark, '.' or ','. If not given, found out.", _FILE, metavar="MARK")]
DateOrder = Annotated[
    str | None,
    _option("Order in dates like 3/4/2020: dmy or mdy. If not given, found out.", _FILE, "--dates", metavar="ORDER"),
]
NoHeader = Annotated[bool, _option("There is no line of names: columns are c1, c2, …", _FILE, "--no-header")]
SkipLines = Annotated[int, _option("Lines before the names.", _FILE, metavar="N", show_default=True)]
Sheet = Annotated[str | None, _option("Excel's sheet. If not given: the first.", _FILE, metavar="NAME")]
BadRows = Annotated[
    str, _option("Rows with another number of fields: refuse or drop.", _FILE, "--bad-rows", metavar="HOW", show_default=True)
]
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
        "'Gaussian(\"heteroscedastic\")' where it differs from row to row. If not given: what suits the target, and it is "
        "said; auto: the highest log density on training rows that are left out.",
        _MODEL,
        metavar="TEXT",
    ),
]
Hidden = Annotated[
    list[int] | None,
    _option(
        "Width of a hidden layer. Repeat for more; 0 for a linear model. If nothing is said of the network: a linear part and "
        "one hidden layer, by the size of the table; else one layer of 50.",
        _MODEL,
        metavar="WIDTH",
    ),
]
Activation = Annotated[
    str | None,
    _option("relu, tanh, sigmoid, gelu, silu, elu or softplus. If not given, relu for --hidden.", _MODEL, metavar="NAME"),
]
BatchNorm = Annotated[bool, _option("Batch normalisation before each activation.", _MODEL, "--batchnorm")]
Dropout = Annotated[
    float, _option("Rate of the units dropped after each activation.", _MODEL, metavar="RATE", show_default=True)
]
Method = Annotated[
    list[str] | None,
    _option(
        "How to fit. Repeat for more. If not given: auto, and often map. See: bayesreg methods",
        _FITS,
        metavar="NAME",
    ),
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
Force = Annotated[bool, _option("Replace a report (and a model) that is there.", _REPORT, "--force")]
NoBaselines = Annotated[
    bool, _option("Leave out what one would try first: the mean, a line, boosting, a forest.", _REPORT, "--no-baselines")
]
Save = Annotated[
    Path | None,
    _option("File for the fitted model, for bayesreg predict; of several methods the last.", _REPORT, "--save", metavar="FILE"),
]
Model = Annotated[Path, typer.Argument(metavar="MODEL", help="What bayesreg report --save has written.")]
NewFile = Annotated[Path, typer.Argument(metavar="FILE", help="Rows to predict, with the columns of the fit.")]
Predictions = Annotated[
    Path, typer.Option("--out", metavar="CSV", help="The predictions, beside the file's own columns.", show_default=True)
]
Level = Annotated[float, typer.Option(metavar="SHARE", help="Probability of the interval.", show_default=True)]
SomeSamples = Annotated[
    int | None,
    typer.Option(
        metavar="S",
        help="Draws from the posterior. If not given: 1,000, or each stored one once where there are fewer.",
        show_default=False,
    ),
]
TestRows = Annotated[Path, typer.Argument(metavar="FILE", help="Rows with the target, not used in the fits.")]
Models = Annotated[list[Path], typer.Argument(metavar="MODEL...", help="What bayesreg report --save has written, two or more.")]
ForcePredictions = Annotated[bool, typer.Option("--force", help="Replace a file that is there.", show_default=False)]
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
Problem = Annotated[
    str | None,
    typer.Argument(
        metavar="PROBLEM", help="A test problem: shaw, heat, deriv2, deblurring_1d, tomography and others.", show_default=False
    ),
]
ProblemSize = Annotated[int | None, _option("Unknowns of a test problem, or an image's side.", _DATA, "--size", metavar="N")]
Noise = Annotated[
    float, _option("Noise that is added to a test problem, relative to its data.", _DATA, metavar="SHARE", show_default=True)
]
Matrix = Annotated[Path | None, _option("NumPy file of A, (M, N).", _DATA, metavar="NPY")]
Measurements = Annotated[Path | None, _option("NumPy file of b, (M,).", _DATA, "--data", metavar="NPY")]
Truth = Annotated[Path | None, _option("NumPy file of x, where it is known.", _DATA, metavar="NPY")]
KnownNoise = Annotated[
    float | None, _option("Sd σ of the noise in b, where it is known.", _DATA, "--noise-scale", metavar="SIGMA")
]
PriorOfX = Annotated[
    list[str] | None,
    _option(
        "Gaussian prior of x: 'Smooth(order=2)', the default, or 'Normal(1.0)'. Its scale is chosen. Repeat to compare several "
        "by their evidence.",
        _MODEL,
        "--prior",
        metavar="PRIOR",
    ),
]
Rule = Annotated[
    str | None,
    _option(
        "Rule whose prior scale is fitted: gcv (default), l-curve, discrepancy, evidence, quasi-optimality.",
        _MODEL,
        metavar="RULE",
    ),
]
