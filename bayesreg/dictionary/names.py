"""The λ dictionary, outwards: one prior under the names that other tools have for it.

    penalty(w) = a Σ |w| + ½ c Σ w²,  a = 1/β of a Laplace prior, c = 1/τ² of a normal one

Each tool multiplies its loss by something else before it adds its penalty; dividing a and c by what makes that loss
−log p(y | w) gives the number to write there. `priors.Normal.from_ridge` and its like are the way back.
"""

from __future__ import annotations

import dataclasses
import html
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch

from bayesreg import _check
from bayesreg.layers.base import checked_rate
from bayesreg.priors import AbstractPrior, Flat, GeneralizedNormal, Laplace, Normal
from bayesreg.priors.base import replaced
from bayesreg.priors.dictionary import AbstractTools

if TYPE_CHECKING:
    import pandas
    from rich.table import Table

HEADS = ("tool", "write", "formula", "condition")


@dataclasses.dataclass(frozen=True)
class Equivalent:
    """The prior in one tool.

    Attributes:
        tool: The tool, with its loss where it matters.
        write: What to write there, or what is missing to say it.
        formula: How it comes from the prior's scale.
        condition: Where it holds.
        numbers: What `write` shows, by the tool's own names and with all digits; empty where something is missing.
    """

    tool: str
    write: str
    formula: str
    condition: str
    numbers: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Equivalents:
    """One prior under the names of other tools.

    Attributes:
        caption: The prior, its symbols and the numbers given, in one line; or that no tool has it.
        rows: One a tool; none where no tool has this penalty.
        notes: What N, σ and K are, where a row needs them.
    """

    caption: str
    rows: tuple[Equivalent, ...]
    notes: tuple[str, ...] = ()

    def to_dicts(self) -> list[dict[str, Any]]:
        """The rows as dictionaries: tool, write, formula, condition, numbers."""
        return [{**vars(row), "numbers": dict(row.numbers)} for row in self.rows]

    def to_frame(self) -> pandas.DataFrame:
        """The rows as a pandas data frame, columns as the keys of `to_dicts`."""
        import pandas

        return pandas.DataFrame(self.to_dicts(), columns=[field.name for field in dataclasses.fields(Equivalent)])

    def cells(self) -> list[tuple[str, str, str, str]]:
        """What the table shows, row by row."""
        return [(row.tool, row.write, row.formula, row.condition) for row in self.rows]

    def __str__(self) -> str:
        lines = [HEADS, *self.cells()] if self.rows else []
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines]
        return "\n".join([self.caption, *table, *self.notes])

    def __rich__(self) -> Table:
        from rich.table import Table
        from rich.text import Text

        table = Table(title=Text(self.caption), caption=Text("\n".join(self.notes), justify="left"))
        for head in HEADS if self.rows else ():
            table.add_column(head, overflow="fold")
        for cells in self.cells():
            table.add_row(*map(Text, cells))
        return table

    def _repr_html_(self) -> str:
        caption, *notes = (f"<p>{html.escape(line)}</p>" for line in (self.caption, *self.notes))
        if not self.rows:
            return caption
        head = "".join(f'<th scope="col">{cell}</th>' for cell in HEADS)
        body = ["<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>" for cells in self.cells()]
        return "\n".join([caption, f"<table><thead><tr>{head}</tr></thead><tbody>", *body, "</tbody></table>", *notes])


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
    if isinstance(prior, GeneralizedNormal) and prior.beta in (1, 2) and prior.hyperprior is None:
        exact = Laplace(prior.scale, prior.loc) if prior.beta == 1 else Normal(prior.scale / math.sqrt(2), prior.loc)
        prior = replaced(exact, **{name: getattr(prior, name) for name in ("fan_in", "autoscale", "relative_to_noise", "tag")})
    if isinstance(prior, Flat):
        return Equivalents(f"{prior!r} is no penalty.", _FLAT)
    if not isinstance(prior, AbstractTools):
        return Equivalents(
            f"{prior!r} has no counterpart in these tools: their penalties are Σ |w|, Σ w² or both, those of Laplace, Normal "
            "and ElasticNet.",
            (),
        )
    try:
        a, c = _settled(prior, sigma).strengths
        given = _Given(a, c, N, sigma, K)
        rows = tuple(rule.row(given) for rule in (_BOTH if a and c else _L1 if a else _L2))
        symbols = {"β": a and 1 / a, "τ": c and 1 / math.sqrt(c), "N": N, "σ": sigma, "K": K}
        shown = [f"{letter} = {number:.6g}" for letter, number in symbols.items() if number and not math.isnan(number)]
        held = all(sys.float_info.min <= n <= sys.float_info.max for row in rows for n in row.numbers.values())
    except ArithmeticError:  # Python's numbers do not run to infinity: they raise
        held = False
    if not held:
        raise ValueError(f"tools' numbers must fit into floating point, but one of {prior!r} does not; take another unit.")
    return Equivalents(f"{prior!r}: {', '.join(shown)}", rows, tuple(_notes(rows)))


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
    """The prior with a scale relative to the noise worked out.

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


@dataclasses.dataclass(frozen=True)
class _Given:
    """The strengths a and c, N rows, noise sd σ, K outputs; NaN where a number is not known."""

    a: float
    c: float
    N: float
    sigma: float
    K: int

    @property
    def nll(self) -> float:
        """A nat in a mean log loss."""
        return 1 / (self.N * self.K)

    @property
    def mse(self) -> float:
        """A nat in a mean squared error."""
        return 2 * self.sigma**2 / (self.N * self.K)

    @property
    def half_rss(self) -> float:
        """A nat in a residual sum of squares over 2N."""
        return self.sigma**2 / self.N

    @property
    def sum(self) -> float:
        """Both strengths together."""
        return self.a + self.c

    @property
    def ratio(self) -> float:
        """The share of L1."""
        return self.a / self.sum


@dataclasses.dataclass(frozen=True)
class _Rule:
    """How one tool's numbers come from the prior: `write` is filled with what `numbers` gives."""

    tool: str
    write: str
    numbers: Callable[[_Given], dict[str, float]]
    formula: str
    condition: str

    def row(self, given: _Given) -> Equivalent:
        numbers = self.numbers(given)
        if not any(map(math.isnan, numbers.values())):
            shown = self.write.format(**{name: f"{number:.6g}" for name, number in numbers.items()})
            return Equivalent(self.tool, shown, self.formula, self.condition, numbers)
        letters = {"N": given.N, "σ": given.sigma}
        needs = [letter for letter, number in letters.items() if math.isnan(number) and letter in self.formula]
        return Equivalent(self.tool, f"needs {' and '.join(needs)}", self.formula, self.condition, {})


_INTERCEPT = "Flat() on the intercept"
_LOGISTIC = "Bernoulli() or Categorical(); Flat() on the intercept"
_BIASES = "decays biases too"
_KERNEL = "as kernel_regularizer"
_UNIT_XY = "x and y of unit sd"
_UNIT_X = "x of unit sd"
_ALIKE = "x of unit sd; multinomial and poisson alike"
_NEAR = "weight_decay=0; zeros are not exact"

_L2 = (
    _Rule("Ridge", "Ridge(alpha={alpha})", lambda g: {"alpha": g.sigma**2 * g.c}, "alpha = σ²/τ²", _INTERCEPT),
    _Rule(
        "BayesianRidge",
        "lambda_={lambda_}, alpha_={alpha_}",
        lambda g: {"lambda_": g.c, "alpha_": g.sigma**-2},
        "lambda_ = 1/τ², alpha_ = 1/σ²",
        "estimated there, by the evidence",
    ),
    _Rule("LogisticRegression", "LogisticRegression(C={C})", lambda g: {"C": 1 / g.c}, "C = τ²", _LOGISTIC),
    _Rule("lsqr, lsmr", "lsqr(A, b, damp={damp})", lambda g: {"damp": g.sigma * math.sqrt(g.c)}, "damp = σ/τ", "no intercept"),
    _Rule(
        "torch SGD, Adam, mean log loss",
        "weight_decay={weight_decay}",
        lambda g: {"weight_decay": g.c * g.nll},
        "λ = 1/(NKτ²)",
        _BIASES,
    ),
    _Rule(
        "torch SGD, Adam, MSELoss",
        "weight_decay={weight_decay}",
        lambda g: {"weight_decay": g.c * g.mse},
        "λ = 2σ²/(NKτ²)",
        _BIASES,
    ),
    _Rule("torch AdamW", "none", lambda g: {}, "its decay is not the gradient of a penalty", "take SGD or Adam"),
    _Rule("torch, weight behind Dropout(p)", "weight_decay / (1 - p)", lambda g: {}, "E z² = 1/(1−p)", "see dropout_decay"),
    _Rule("Keras, crossentropy", "L2({l2})", lambda g: {"l2": g.c * g.nll / 2}, "l2 = 1/(2NKτ²)", _KERNEL),
    _Rule("Keras, mse", "L2({l2})", lambda g: {"l2": g.c * g.mse / 2}, "l2 = σ²/(NKτ²)", _KERNEL),
    _Rule(
        "glmnet, gaussian",
        "glmnet(x, y, alpha=0, lambda={lambda})",
        lambda g: {"lambda": g.c * g.half_rss},
        "lambda = σ²/(Nτ²)",
        _UNIT_XY,
    ),
    _Rule("glmnet, binomial", "alpha=0, lambda={lambda}", lambda g: {"lambda": g.c / g.N}, "lambda = 1/(Nτ²)", _ALIKE),
)
_L1 = (
    _Rule("Lasso", "Lasso(alpha={alpha})", lambda g: {"alpha": g.a * g.half_rss}, "alpha = σ²/(Nβ)", _INTERCEPT),
    _Rule(
        "LogisticRegression",
        "LogisticRegression(C={C}, l1_ratio=1, solver='saga')",
        lambda g: {"C": 1 / g.a},
        "C = β",
        f"{_LOGISTIC}; before 1.8 penalty='l1'",
    ),
    _Rule(
        "torch, mean log loss",
        "loss + {l1} * w.abs().sum()",
        lambda g: {"l1": g.a * g.nll},
        "λ = 1/(NKβ)",
        _NEAR,
    ),
    _Rule(
        "torch, MSELoss",
        "loss + {l1} * w.abs().sum()",
        lambda g: {"l1": g.a * g.mse},
        "λ = 2σ²/(NKβ)",
        _NEAR,
    ),
    _Rule("Keras, crossentropy", "L1({l1})", lambda g: {"l1": g.a * g.nll}, "l1 = 1/(NKβ)", _KERNEL),
    _Rule("Keras, mse", "L1({l1})", lambda g: {"l1": g.a * g.mse}, "l1 = 2σ²/(NKβ)", _KERNEL),
    _Rule(
        "glmnet, gaussian",
        "glmnet(x, y, alpha=1, lambda={lambda})",
        lambda g: {"lambda": g.a * g.half_rss},
        "lambda = σ²/(Nβ)",
        _UNIT_X,
    ),
    _Rule("glmnet, binomial", "alpha=1, lambda={lambda}", lambda g: {"lambda": g.a / g.N}, "lambda = 1/(Nβ)", _ALIKE),
)
_BOTH = (
    _Rule(
        "ElasticNet",
        "ElasticNet(alpha={alpha}, l1_ratio={l1_ratio})",
        lambda g: {"alpha": g.sum * g.half_rss, "l1_ratio": g.ratio},
        "alpha = (1/β + 1/τ²)σ²/N, l1_ratio = 1/(1 + β/τ²)",
        _INTERCEPT,
    ),
    _Rule(
        "LogisticRegression",
        "LogisticRegression(C={C}, l1_ratio={l1_ratio}, solver='saga')",
        lambda g: {"C": 1 / g.sum, "l1_ratio": g.ratio},
        "C = 1/(1/β + 1/τ²), l1_ratio = 1/(1 + β/τ²)",
        f"{_LOGISTIC}; before 1.8 penalty='elasticnet'",
    ),
    _Rule(
        "torch SGD, Adam, mean log loss",
        "weight_decay={weight_decay}, loss + {l1} * w.abs().sum()",
        lambda g: {"weight_decay": g.c * g.nll, "l1": g.a * g.nll},
        "1/(NKτ²) and 1/(NKβ)",
        _BIASES,
    ),
    _Rule(
        "torch SGD, Adam, MSELoss",
        "weight_decay={weight_decay}, loss + {l1} * w.abs().sum()",
        lambda g: {"weight_decay": g.c * g.mse, "l1": g.a * g.mse},
        "2σ²/(NKτ²) and 2σ²/(NKβ)",
        _BIASES,
    ),
    _Rule(
        "Keras, crossentropy",
        "L1L2({l1}, {l2})",
        lambda g: {"l1": g.a * g.nll, "l2": g.c * g.nll / 2},
        "l1 = 1/(NKβ), l2 = 1/(2NKτ²)",
        _KERNEL,
    ),
    _Rule(
        "Keras, mse",
        "L1L2({l1}, {l2})",
        lambda g: {"l1": g.a * g.mse, "l2": g.c * g.mse / 2},
        "l1 = 2σ²/(NKβ), l2 = σ²/(NKτ²)",
        _KERNEL,
    ),
    _Rule(
        "glmnet, gaussian",
        "glmnet(x, y, alpha={alpha}, lambda={lambda})",
        lambda g: {"lambda": g.sum * g.half_rss, "alpha": g.ratio},
        "lambda = (1/β + 1/τ²)σ²/N, alpha = 1/(1 + β/τ²)",
        _UNIT_XY,
    ),
    _Rule(
        "glmnet, binomial",
        "alpha={alpha}, lambda={lambda}",
        lambda g: {"lambda": g.sum / g.N, "alpha": g.ratio},
        "lambda = (1/β + 1/τ²)/N, alpha = 1/(1 + β/τ²)",
        _ALIKE,
    ),
)
_FLAT = tuple(
    Equivalent(tool, write, "no penalty", condition, {})
    for tool, write, condition in (
        ("LinearRegression", "LinearRegression()", ""),
        ("LogisticRegression", "LogisticRegression(C=np.inf)", "no mode where the classes can be separated"),
        ("lsqr, lsmr", "lsqr(A, b)", "of many solutions it takes the shortest"),
        ("torch", "weight_decay=0", "any optimizer"),
        ("Keras", "kernel_regularizer=None", ""),
        ("glmnet", "glmnet(x, y, lambda=0)", ""),
    )
)
