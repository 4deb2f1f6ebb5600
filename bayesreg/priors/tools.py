"""The table of the λ dictionary: one row for each tool's penalty, read in both directions.

    tool's loss · factor = −log p(y | w),   penalty(w) = a Σ |w| + ½ c Σ w²,   Laplace scale β = 1/a, Normal sd τ = 1/√c

The factor converts the tool's loss to nats: N·K for a mean log loss over N rows of K values, N·K/(2σ²) for a mean squared
error, 1/(2σ²) for a residual sum of squares. So each number of a tool is a strength times a unit, and a strength is the number
over it.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

from bayesreg import _check

Part = Literal["a", "c", "a + c", "a / (a + c)", "none"]


@dataclasses.dataclass(frozen=True)
class Unit:
    """One nat in a tool's loss: factor · σ^noise / (N^rows K^outputs)."""

    factor: float = 1.0
    noise: int = 0
    rows: int = 0
    outputs: int = 0

    def of(self, N: float, sigma: float, K: int) -> float:
        """Its value; NaN where a quantity that it needs is not known."""
        return self.factor * sigma**self.noise / (N**self.rows * K**self.outputs)


NAT = Unit()
LOG, HALF_LOG, LOG_ROWS = Unit(rows=1, outputs=1), Unit(0.5, rows=1, outputs=1), Unit(rows=1)  # a mean log loss
MSE, HALF_MSE = Unit(2.0, 2, 1, 1), Unit(1.0, 2, 1, 1)  # a mean squared error
RSS, MEAN_RSS = Unit(noise=2), Unit(noise=2, rows=1)  # half a residual sum of squares, and one over 2N


@dataclasses.dataclass(frozen=True)
class Number:
    """A tool's number: (part · unit)^power.

    Attributes:
        name: Its name in the tool.
        part: The strength that it sets.
        unit: One nat in the tool's loss, halved where its Σ w² has no ½.
        power: −1 where the tool uses the inverse of a strength, ½ where its root.
    """

    name: str
    part: Part
    unit: Unit = NAT
    power: float = 1.0

    def write(self, a: float, c: float, N: float, sigma: float, K: int) -> float:
        """The tool's number for a prior's strengths."""
        parts = {"a": a, "c": c, "a + c": a + c, "a / (a + c)": a / (a + c), "none": 1.0}
        return (parts[self.part] * self.unit.of(N, sigma, K)) ** self.power

    def read(self, called: str, value: Any, N: float, sigma: float, K: int) -> float:
        """The scale for a tool's number: β = 1/a of a Laplace prior, τ = 1/√c of a normal one, 1/(a + c) of both together.

        Raises:
            ValueError: If it is not finite and > 0; the message names `Flat()` for no penalty.
        """
        if self.power < 0 and isinstance(value, float) and value == math.inf:
            raise ValueError(f"{called} must be finite, but {value!r} came: that is no penalty; use Flat().")
        if self.power > 0 and _check.finite(called, value) == 0:
            raise ValueError(f"{called} must be > 0, but {value!r} came: that is no penalty; use Flat().")
        number = _check.positive(called, value) if abs(self.power) == 1 else _check.squared(called, value)
        unit = self.unit.of(N, sigma, K)
        size = unit * number if self.power < 0 else unit / number ** (1 / self.power)
        return math.sqrt(size) if self.part == "c" else size


@dataclasses.dataclass(frozen=True)
class Tool:
    """One row: a penalty in one tool.

    Attributes:
        name: The tool, with its loss where it matters.
        write: What to write there, with placeholders for the numbers.
        formula: How they follow from the prior's scale.
        condition: Where it holds.
        numbers: The numbers; none where the tool has no such penalty.
    """

    name: str
    write: str
    formula: str
    condition: str
    numbers: tuple[Number, ...] = ()


_INTERCEPT = "Flat() on the intercept"
_LOGISTIC = "Bernoulli() or Categorical(); Flat() on the intercept"
_BIASES, _KERNEL = "decays biases too", "as kernel_regularizer"
_UNIT_XY, _UNIT_X = "x and y of unit sd", "x of unit sd"
_ALIKE = "x of unit sd; multinomial and poisson alike"
_NEAR = "weight_decay=0; zeros are not exact"
_DECAY, _ADDED = "weight_decay={weight_decay}", "loss + {l1} * w.abs().sum()"
_RATIO = Number("l1_ratio", "a / (a + c)")

L2 = (
    Tool("Ridge", "Ridge(alpha={alpha})", "alpha = σ²/τ²", _INTERCEPT, (Number("alpha", "c", RSS),)),
    Tool(
        *("BayesianRidge", "lambda_={lambda_}, alpha_={alpha_}", "lambda_ = 1/τ², alpha_ = 1/σ²"),
        "estimated there, by the evidence",
        (Number("lambda_", "c"), Number("alpha_", "none", Unit(noise=-2))),
    ),
    Tool("LogisticRegression", "LogisticRegression(C={C})", "C = τ²", _LOGISTIC, (Number("C", "c", power=-1),)),
    Tool("lsqr, lsmr", "lsqr(A, b, damp={damp})", "damp = σ/τ", "no intercept", (Number("damp", "c", RSS, 0.5),)),
    Tool("torch SGD, Adam, mean log loss", _DECAY, "λ = 1/(NKτ²)", _BIASES, (Number("weight_decay", "c", LOG),)),
    Tool("torch SGD, Adam, MSELoss", _DECAY, "λ = 2σ²/(NKτ²)", _BIASES, (Number("weight_decay", "c", MSE),)),
    Tool("torch AdamW", "none", "its decay is not the gradient of a penalty", "take SGD or Adam"),
    Tool("torch, weight behind Dropout(p)", "weight_decay / (1 - p)", "E z² = 1/(1−p)", "see dropout_decay"),
    Tool("Keras, crossentropy", "L2({l2})", "l2 = 1/(2NKτ²)", _KERNEL, (Number("l2", "c", HALF_LOG),)),
    Tool("Keras, mse", "L2({l2})", "l2 = σ²/(NKτ²)", _KERNEL, (Number("l2", "c", HALF_MSE),)),
    Tool(
        *("glmnet, gaussian", "glmnet(x, y, alpha=0, lambda={lambda})", "lambda = σ²/(Nτ²)", _UNIT_XY),
        (Number("lambda", "c", MEAN_RSS),),
    ),
    Tool("glmnet, binomial", "alpha=0, lambda={lambda}", "lambda = 1/(Nτ²)", _ALIKE, (Number("lambda", "c", LOG_ROWS),)),
)
L1 = (
    Tool("Lasso", "Lasso(alpha={alpha})", "alpha = σ²/(Nβ)", _INTERCEPT, (Number("alpha", "a", MEAN_RSS),)),
    Tool(
        *("LogisticRegression", "LogisticRegression(C={C}, l1_ratio=1, solver='saga')", "C = β"),
        *(f"{_LOGISTIC}; before 1.8 penalty='l1'", (Number("C", "a", power=-1),)),
    ),
    Tool("torch, mean log loss", _ADDED, "λ = 1/(NKβ)", _NEAR, (Number("l1", "a", LOG),)),
    Tool("torch, MSELoss", _ADDED, "λ = 2σ²/(NKβ)", _NEAR, (Number("l1", "a", MSE),)),
    Tool("Keras, crossentropy", "L1({l1})", "l1 = 1/(NKβ)", _KERNEL, (Number("l1", "a", LOG),)),
    Tool("Keras, mse", "L1({l1})", "l1 = 2σ²/(NKβ)", _KERNEL, (Number("l1", "a", MSE),)),
    Tool(
        *("glmnet, gaussian", "glmnet(x, y, alpha=1, lambda={lambda})", "lambda = σ²/(Nβ)", _UNIT_X),
        (Number("lambda", "a", MEAN_RSS),),
    ),
    Tool("glmnet, binomial", "alpha=1, lambda={lambda}", "lambda = 1/(Nβ)", _ALIKE, (Number("lambda", "a", LOG_ROWS),)),
)
BOTH = (
    Tool(
        *("ElasticNet", "ElasticNet(alpha={alpha}, l1_ratio={l1_ratio})"),
        *("alpha = (1/β + 1/τ²)σ²/N, l1_ratio = 1/(1 + β/τ²)", _INTERCEPT),
        (Number("alpha", "a + c", MEAN_RSS), _RATIO),
    ),
    Tool(
        *("LogisticRegression", "LogisticRegression(C={C}, l1_ratio={l1_ratio}, solver='saga')"),
        *("C = 1/(1/β + 1/τ²), l1_ratio = 1/(1 + β/τ²)", f"{_LOGISTIC}; before 1.8 penalty='elasticnet'"),
        (Number("C", "a + c", power=-1), _RATIO),
    ),
    Tool(
        *("torch SGD, Adam, mean log loss", f"{_DECAY}, {_ADDED}", "1/(NKτ²) and 1/(NKβ)", _BIASES),
        (Number("weight_decay", "c", LOG), Number("l1", "a", LOG)),
    ),
    Tool(
        *("torch SGD, Adam, MSELoss", f"{_DECAY}, {_ADDED}", "2σ²/(NKτ²) and 2σ²/(NKβ)", _BIASES),
        (Number("weight_decay", "c", MSE), Number("l1", "a", MSE)),
    ),
    Tool(
        *("Keras, crossentropy", "L1L2({l1}, {l2})", "l1 = 1/(NKβ), l2 = 1/(2NKτ²)", _KERNEL),
        (Number("l1", "a", LOG), Number("l2", "c", HALF_LOG)),
    ),
    Tool(
        *("Keras, mse", "L1L2({l1}, {l2})", "l1 = 2σ²/(NKβ), l2 = σ²/(NKτ²)", _KERNEL),
        (Number("l1", "a", MSE), Number("l2", "c", HALF_MSE)),
    ),
    Tool(
        *("glmnet, gaussian", "glmnet(x, y, alpha={alpha}, lambda={lambda})"),
        *("lambda = (1/β + 1/τ²)σ²/N, alpha = 1/(1 + β/τ²)", _UNIT_XY),
        (Number("lambda", "a + c", MEAN_RSS), dataclasses.replace(_RATIO, name="alpha")),
    ),
    Tool(
        *("glmnet, binomial", "alpha={alpha}, lambda={lambda}", "lambda = (1/β + 1/τ²)/N, alpha = 1/(1 + β/τ²)", _ALIKE),
        (Number("lambda", "a + c", LOG_ROWS), dataclasses.replace(_RATIO, name="alpha")),
    ),
)
NONE = (
    Tool("LinearRegression", "LinearRegression()", "no penalty", ""),
    Tool("LogisticRegression", "LogisticRegression(C=np.inf)", "no penalty", "no mode where the classes can be separated"),
    Tool("lsqr, lsmr", "lsqr(A, b)", "no penalty", "of many solutions it takes the shortest"),
    Tool("torch", "weight_decay=0", "no penalty", "any optimizer"),
    Tool("Keras", "kernel_regularizer=None", "no penalty", ""),
    Tool("glmnet", "glmnet(x, y, lambda=0)", "no penalty", ""),
)
