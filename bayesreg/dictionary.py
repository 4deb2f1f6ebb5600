"""The λ dictionary, from a prior to other tools: one prior under the names that they have for it.

`priors.tools` holds the table; `priors.Normal.from_ridge` and the like go the other way.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from bayesreg import _check
from bayesreg._text import AbstractTextTable
from bayesreg.layers.base import checked_rate
from bayesreg.priors import AbstractPrior
from bayesreg.priors.from_tools import AbstractTools
from bayesreg.priors.tools import NONE, Tool

if TYPE_CHECKING:
    import pandas

HEADS = ("tool", "write", "formula", "condition")


@dataclasses.dataclass(frozen=True)
class Equivalent:
    """The prior in one tool.

    Attributes:
        tool: The tool, with its loss where it matters.
        write: What to write there, or which number is missing.
        formula: How it follows from the prior's scale.
        condition: Where it holds.
        numbers: What `write` shows, by the tool's own names and with all digits; empty where something is missing.
    """

    tool: str
    write: str
    formula: str
    condition: str
    numbers: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Equivalents(AbstractTextTable):
    """One prior under the names of other tools.

    Attributes:
        caption: The prior, its symbols and the numbers given, in one line; or that no tool has it.
        rows: One a tool; none where no tool has this penalty.
        notes: What N, σ and K are, where a row needs them.
    """

    caption: str = dataclasses.field()
    rows: tuple[Equivalent, ...] = dataclasses.field()
    notes: tuple[str, ...] = ()

    @property
    def heads(self) -> tuple[str, ...]:
        """Tool, write, formula, condition."""
        return HEADS

    @property
    def cells(self) -> list[tuple[str, str, str, str]]:
        """What the table shows, row by row."""
        return [(row.tool, row.write, row.formula, row.condition) for row in self.rows]

    def to_dicts(self) -> list[dict[str, Any]]:
        """The rows as dictionaries: tool, write, formula, condition, numbers."""
        return [{**vars(row), "numbers": dict(row.numbers)} for row in self.rows]

    def to_frame(self) -> pandas.DataFrame:
        """The rows as a pandas data frame, columns as the keys of `to_dicts`."""
        import pandas

        return pandas.DataFrame(self.to_dicts(), columns=[*HEADS, "numbers"])


def equivalents(
    prior: AbstractPrior, *, num_data: int | None = None, noise_scale: float | None = None, num_outputs: int = 1
) -> Equivalents:
    """What to write in other tools to assume this prior.

        ridge: alpha = σ²/τ²,   lasso: alpha = σ²/(Nβ),   logistic: C = τ²,   weight decay: λ = 1/(NKτ²), ...

    A regularisation parameter is a ratio of the noise to the prior, scaled by whatever the tool divides its loss by. The
    numbers hold in the units in which the tool is run: standardised ones where the prior speaks about standardised data.

    Args:
        prior: `Normal` (L2, sd τ), `Laplace` (L1, scale β), `ElasticNet` (both) or `Flat` (none), with plain numbers.
        num_data: Training rows N.
        noise_scale: Noise sd σ, > 0, in the units of y.
        num_outputs: Values K in each row over which a mean loss runs: the outputs for a squared error and for binary labels, 1
            for the classes of a categorical cross-entropy.

    Returns:
        The table. A row that needs N or σ says so where it is not given; a prior with no counterpart has no rows.

    Raises:
        ValueError: If a number is out of its range, `prior` is not a prior, is not centred at zero, or its scale is not one
            number but depends on the tensor, the data or a hyperprior, or on a noise that is not given.

    >>> from bayesreg.priors import Normal
    >>> table = equivalents(Normal(0.5), num_data=442, noise_scale=54.0)
    >>> [(row.tool, row.write) for row in table.rows[:3]]
    [('Ridge', 'Ridge(alpha=11664)'), ('BayesianRidge', 'lambda_=4, alpha_=0.000342936'),
     ('LogisticRegression', 'LogisticRegression(C=0.25)')]
    >>> Normal.from_ridge(table.rows[0].numbers["alpha"], noise_scale=54.0)
    Normal(scale=0.5)
    """
    if not isinstance(prior, AbstractPrior):
        raise ValueError(
            f"prior must be a prior, but {prior!r} came; pass for example priors.Normal(0.5), or priors.parse('Normal(0.5)')."
        )
    N = math.nan if num_data is None else _check.count("num_data", num_data)
    sigma = math.nan if noise_scale is None else _check.squared("noise_scale", noise_scale)
    K = _check.count("num_outputs", num_outputs)
    prior = prior.simplified()
    if prior.flat:
        return Equivalents(f"{prior!r} is no penalty.", tuple(_row(tool, {}, {}) for tool in NONE))
    if not isinstance(prior, AbstractTools):
        return Equivalents(
            f"{prior!r} has no counterpart in these tools: their penalties are Σ |w|, Σ w² or both, those of Laplace, Normal "
            "and ElasticNet.",
            (),
        )
    try:
        a, c = _settled(prior, sigma).strengths
        symbols = {"β": a and 1 / a, "τ": c and 1 / math.sqrt(c), "N": N, "σ": sigma, "K": K}
        rows = tuple(_row(t, {n.name: n.write(a, c, N, sigma, K) for n in t.numbers}, symbols) for t in prior.tools)
        shown = [f"{letter} = {number:.6g}" for letter, number in symbols.items() if number and not math.isnan(number)]
        held = all(sys.float_info.min <= n <= sys.float_info.max for row in rows for n in row.numbers.values())
    except ArithmeticError:  # Python's floats raise instead of becoming infinite
        held = False
    if not held:
        raise ValueError(f"tools' numbers must fit into floating point, but one of {prior!r} does not; take another unit.")
    return Equivalents(f"{prior!r}: {', '.join(shown)}", rows, tuple(_notes(rows)))


def _row(tool: Tool, numbers: Mapping[str, float], symbols: Mapping[str, float]) -> Equivalent:
    """A tool's row with its numbers, or with what is missing for them."""
    if any(map(math.isnan, numbers.values())):
        needs = " and ".join(s for s, number in symbols.items() if math.isnan(number) and s in tool.formula)
        return Equivalent(tool.name, f"needs {needs}", tool.formula, tool.condition, {})
    write = tool.write.format(**{name: f"{number:.6g}" for name, number in numbers.items()})
    return Equivalent(tool.name, write, tool.formula, tool.condition, numbers)


def dropout_decay(rate: float, length_scale: float, num_data: int, noise_scale: float, *, inverted: bool = True) -> float:
    """The decay λ that the prior N(0, 1/l²) is for a weight behind dropout, with the loss (1/N) Σ ½(y − f)² + λ Σ M².

        λ = σ²l²/(2N(1−p)), inverted: z ∈ {0, 1/(1−p)};   λ = σ²l²(1−p)/(2N), published, with 1/σ² for τ: z ∈ {0, 1}

    W = M z, so that E[−log p(W)] = ½ l² E[z²] Σ M², in nats, and σ²/N is a nat in this loss. torch's and Keras' layers are
    inverted; the published M is 1/(1−p) times theirs. torch's `weight_decay` is 2λ for this loss and 4λ for MSELoss.

    Args:
        rate: Share p that is dropped.
        length_scale: l, the inverse of the prior's sd.
        num_data: Training rows N.
        noise_scale: Noise sd σ, in the units of y.
        inverted: Whether what is kept is divided by 1 − p in training.

    Raises:
        ValueError: If a number is out of its range.

    References:
        Gal and Ghahramani (2016), Dropout as a Bayesian approximation, equation 7.

    >>> [dropout_decay(0.5, 2.0, 10, 1.0, inverted=way) for way in (True, False)]  # 2²/(20 · 0.5), 2² · 0.5/20
    [0.4, 0.1]
    """
    p, precision = checked_rate(rate), _check.positive("length_scale", length_scale) ** 2
    sigma = _check.squared("noise_scale", noise_scale)
    return sigma**2 * precision / (2 * _check.count("num_data", num_data)) * ((1 - p) ** -1 if inverted else 1 - p)


def _notes(rows: Iterable[Equivalent]) -> Iterator[str]:
    lacking = " ".join(row.write for row in rows if not row.numbers)
    if "N" in lacking:
        yield "N is the number of training rows: give num_data."
    if "σ" in lacking:
        yield "σ is the sd of the noise, in the units of y: give noise_scale."
    yield (
        "K is how many values a mean loss runs over in each row: give num_outputs for several outputs or labels, but not for "
        "the classes of CrossEntropyLoss or categorical_crossentropy."
    )


def _settled(prior: Any, sigma: float) -> Any:
    """The prior with a scale relative to the noise made absolute.

    Raises:
        ValueError: If the penalty is not one number times Σ |w| or Σ w².
    """
    values = {field.name: getattr(prior, field.name) for field in dataclasses.fields(prior)}
    example = f"for example {type(prior).__name__}(0.5)"
    for name, value in values.items():
        if isinstance(value, (AbstractPrior, torch.Tensor)):
            raise ValueError(
                f"{name} must be one number to be a penalty in another tool, but {value!r} came; pass the number that is to be "
                f"compared, {example}."
            )
        if value and name in ("fan_in", "autoscale"):
            raise ValueError(
                f"the scale must be one number to be a penalty in another tool, but {name}={value!r} came, which makes it "
                f"depend on the tensor; read it in model.prior_table() and pass it, {example}."
            )
        if name == "loc" and value != 0:
            raise ValueError(
                f"loc must be 0, since these tools shrink towards zero, but {value!r} came; in a linear model take y − X·loc "
                "as the target, whose weights are w − loc."
            )
    if not values.get("relative_to_noise"):
        return prior
    if math.isnan(sigma):
        raise ValueError(
            f"noise_scale must be given for a prior relative to the noise, but None came with {prior!r}; pass the noise "
            "sd, or give the prior a scale in the units of the weights."
        )
    return dataclasses.replace(prior, scale=values["scale"] * sigma, relative_to_noise=False)
