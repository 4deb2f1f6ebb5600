"""The interface of likelihoods: all that fits, predictions, metrics, reports and the command line ask of one.

    F(y) = Σ_{k <= y} p(k) for whole numbers;        H = −∂² log p(y | f)/∂f∂fᵀ

A new one needs only its `distribution`: every other method is derived from it, or refused in one sentence.
"""

from __future__ import annotations

import abc
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from bayesreg.priors import AbstractPrior

MAX_COUNT = 100_000  # terms of a sum over whole numbers
_WORDS = {1: "one", 2: "two", 3: "three"}


class AbstractLikelihood(abc.ABC):
    """How the target scatters around the network's output.

    A fit calls the distribution inside torch's transforms, so it is made with validate_args=False.

    Attributes:
        location_scale: True where the output is the target's location, so that the target may be standardised.
        log_concave: True where log p(y | f) is concave in f: a network that is linear in its weights then has a convex loss.
        outputs_per_target: Numbers that the network predicts for each target; several come in blocks, one block for each
            number.
        network_noise: Names of the noise parameters that the network predicts for each row, each with a note.
        squared_error_scale: Name of the noise parameter σ where log p = −(y − f)²/(2σ²) + a constant: least squares applies.
        normal_log_scale: True where y is normal about the first half of the outputs, with the last half as its log sd.
        is_default: True where it is the default for targets that it suits.
        log_link: True where the output is the logarithm of the target's mean or median.
        centre: What is added to the output before it is used, where a fit works about the targets' own level.
        weighted: Whether the rows of a fit bring weights, see `by_row`.
        unit_free: Names of the noise parameters that have not the target's unit, though it is the target's location.
    """

    location_scale: ClassVar[bool] = False
    log_concave: ClassVar[bool] = False
    outputs_per_target: ClassVar[int] = 1
    network_noise: ClassVar[Mapping[str, str]] = {}
    squared_error_scale: ClassVar[str | None] = None
    normal_log_scale: ClassVar[bool] = False
    is_default: ClassVar[bool] = False
    log_link: ClassVar[bool] = False
    weighted: bool = False
    centre: float | Sequence[float] = 0.0
    unit_free: ClassVar[frozenset[str]] = frozenset()

    @abc.abstractmethod
    def distribution(self, output: torch.Tensor, **noise: torch.Tensor) -> Any:
        """The Pyro distribution of the targets given the network's output, batch shape = rows."""

    @property
    def parameters(self) -> dict[str, float | AbstractPrior]:
        """The noise's own parameters by name: a number (in the model's units) if known, or a prior."""
        return {}

    @property
    def latents(self) -> dict[str, AbstractPrior]:
        """The noise's own unknowns and their priors; empty when there are none."""
        return {name: value for name, value in self.parameters.items() if isinstance(value, AbstractPrior)}

    @property
    def fixed(self) -> dict[str, float]:
        """The known noise parameters, in the units that the model works in; empty when there are none."""
        return {name: value for name, value in self.parameters.items() if not isinstance(value, AbstractPrior)}

    @property
    def target_scales(self) -> set[str]:
        """Names of the noise parameters that are a size in the target's unit, beside which the target's own can be held."""
        return {*self.latents, *self.fixed} - self.unit_free if self.location_scale else set()

    @property
    def heteroscedastic(self) -> bool:
        """True where the network also predicts each row's noise."""
        return bool(self.network_noise)

    @property
    def labels(self) -> AbstractLabels | None:
        """The same object where targets are classes, with the methods for classes; else None."""
        return None

    @property
    def plain(self) -> AbstractLikelihood:
        """The same likelihood without what a fit adds to it: a centre, and weights and offsets of rows; see `by_row`."""
        return self

    def brought(self, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """The targets, weights and offsets of the rows of a fit, which may bring these along."""
        return y, None, None

    def observed(self, y: torch.Tensor) -> torch.Tensor:
        """The targets alone of the rows of a fit."""
        return self.brought(y)[0]

    @property
    def kind(self) -> str:
        """The kind of target, in a word; log densities compare within a kind."""
        return "counts" if self.discrete else "regression"

    @property
    def support(self) -> Any:
        """Where a target may lie, a constraint of torch."""
        probe = torch.zeros(1) if self.outputs_per_target == 1 else torch.zeros(1, self.outputs_per_target)
        return self.entries(probe, **{name: torch.ones(()) for name in (*self.latents, *self.fixed)}).support

    @property
    def discrete(self) -> bool:
        """True where targets have probabilities and no density."""
        return bool(self.support.is_discrete)

    def suits(self, num_classes: int | None) -> bool:
        """Whether it suits a target with so many classes; None for numbers."""
        return num_classes is None

    def num_outputs(self, num_classes: int | None) -> int:
        """How many outputs the network needs for one target of so many classes; None for numbers."""
        return self.outputs_per_target

    def check_target(self, y: torch.Tensor) -> None:
        """Refuse targets that have no density.

        Raises:
            ValueError: If there are any.
        """
        support, name = self.support, type(self).__name__
        outside = ~support.check(y)
        if bool(outside.any()):
            least = getattr(support, "lower_bound", None)
            bound = "whole numbers >=" if support.is_discrete else "greater than"
            wanted = f"{bound} {least:g}" if least is not None else f"inside {support}"
            shown = ", ".join(f"{v:g}" for v in y[outside].unique()[:3].tolist())
            came = f"{int(outside.sum()):,} of {y.numel():,} are something else ({shown}, ...)"
            raise ValueError(f"{name} needs targets that are {wanted}, but {came}; correct them, or take another likelihood.")

    def target(self, y: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """The target in the type this likelihood computes with.

        Raises:
            ValueError: If the target does not fit.
        """
        self.check_target(y)
        return y.to(dtype)

    @property
    def output_axes(self) -> tuple[int, ...]:
        """How many axes the outputs of N rows may have: 1 for (N,), 2 for (N, K)."""
        return (1, 2) if self.outputs_per_target == 1 else (2,)

    def mean_shape(self, output_shape: torch.Size) -> torch.Size:
        """The shape of `mean` for an output of this shape; (..., N) for (..., N, m) where a target has m outputs."""
        width, m = output_shape[-1], self.outputs_per_target
        if m == 1:
            return output_shape
        return output_shape[:-1] if width == m else torch.Size((*output_shape[:-1], width // m))

    def target_shape(self, output_shape: torch.Size) -> torch.Size:
        """The shape of the targets of N rows, for an output (N, ...) of this shape."""
        return self.mean_shape(output_shape)

    def check_output(self, output: torch.Tensor, y: torch.Tensor) -> None:
        """Refuse an output (a few rows are enough) that does not fit the target (all rows).

        Raises:
            ValueError: If the trailing shapes do not fit.
        """
        width, m = y.shape[1] if y.dim() > 1 else 1, self.outputs_per_target
        same = output.shape[1:] == y.shape[1:] and output.dim() <= 2
        if not (same if m == 1 else output.dim() == 2 and output.shape[1] == m * width and y.dim() <= 2):
            name, outputs = type(self).__name__, ("output(s)" if m == 1 else "outputs")
            needs = f"{_WORDS.get(m, m)} network output{'s' if m > 1 else ''} for each target"
            came = f"a row's output has shape {tuple(output.shape[1:])} and its target {tuple(y.shape[1:])}"
            advice = f"give the last layer {m * width} {outputs}{self._other_advice(output, width)}"
            raise ValueError(f"{name} needs {needs}, but {came}; {advice}.")

    def _other_advice(self, output: torch.Tensor, width: int) -> str:
        """Further advice about an output that does not fit a target of this width, as the end of a sentence."""
        return ""

    def noise_in_units(self, name: str, value: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """A noise parameter for mean + scale · y, given the one for y; with K outputs scale is (K,) and value (..., 1)."""
        return value if name in self.unit_free else value * scale

    def wide_noise(self, name: str, value: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """The same for draws (...) of a noise parameter: (..., K) where the K targets' scales make it many."""
        found = self.noise_in_units(name, value[..., None] if scale.dim() else value, scale)
        return found[..., 0] if scale.dim() and found.shape[-1] == 1 else found

    def in_units(self, output: torch.Tensor, mean: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """The output for mean + scale · y, given the output for y; for location likelihoods."""
        return mean + scale * output

    def entries(self, output: torch.Tensor, **noise: torch.Tensor) -> Any:
        """The distribution target by target, (..., N) or (..., N, K)."""
        found = self.distribution(output, **noise)
        while isinstance(found, torch.distributions.Independent):
            found = found.base_dist
        return found

    def log_prob(self, output: torch.Tensor, y: torch.Tensor, **noise: torch.Tensor) -> torch.Tensor:
        """Log-density of each row, in nats, (..., N)."""
        rows = self.entries(output, **noise).log_prob(y)
        return rows.sum(-1) if y.dim() > 1 else rows

    def log_prob_sum(self, output: torch.Tensor, y: torch.Tensor, **noise: Any) -> torch.Tensor:
        """Log-density summed over rows, in nats; known noise may be a number. A class may override it with fewer operations."""
        return self.log_prob(output, y, **{name: torch.as_tensor(value).to(output) for name, value in noise.items()}).sum()

    def output_curvature(self, output: torch.Tensor, y: torch.Tensor, **noise: torch.Tensor) -> torch.Tensor:
        """−∂² log p(y | f)/∂f∂fᵀ of each row, (N, K, K) with K = 1 for a scalar output; always positive semidefinite.

        Where the second derivative can be indefinite a class gives its mean over y, the Fisher information; this default keeps
        the non-negative eigenvalues.
        """
        slope = torch.func.grad(lambda f: -self.log_prob_sum(f, y, **noise))
        width = output.shape[1] if output.dim() > 1 else 1
        ways = torch.eye(width, dtype=output.dtype, device=output.device)
        columns = [torch.func.jvp(slope, (output,), (way.expand(len(output), width).reshape(output.shape),))[1] for way in ways]
        found = torch.stack([column.reshape(len(output), width) for column in columns], -1)  # rows do not depend on each other
        if self.log_concave:
            return found
        values, vectors = torch.linalg.eigh(found)
        return vectors @ (values.clamp_min(0)[:, :, None] * vectors.mT)

    def curvature_root(self, output: torch.Tensor, y: torch.Tensor, **noise: torch.Tensor) -> torch.Tensor:
        """S with SᵀS = `output_curvature`, (N, K, K); a class writes its own where a square would lose digits."""
        values, vectors = torch.linalg.eigh(self.output_curvature(output, y, **noise))
        return values.clamp_min(0).sqrt()[:, :, None] * vectors.mT

    def start(self, output: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        """A first guess of the noise's own unknowns from a few rows."""
        return {name: output.new_ones(()) for name in self.latents}

    def mean(self, output: torch.Tensor, **noise: torch.Tensor) -> torch.Tensor:
        """E[y | output], in the output's shape or `mean_shape`; class probabilities for classification."""
        return self.entries(output, **noise).mean

    def variance(self, output: torch.Tensor, **noise: torch.Tensor) -> torch.Tensor:
        """Var[y | output], in the shape of `mean`: the aleatoric part."""
        return self.entries(output, **noise).variance

    def mean_label(self, output: int) -> str:
        """The axis label for the mean of one output, next to y."""
        return "function f(x), and y" if self.location_scale else "mean of y, and y"

    def cdf(self, output: torch.Tensor, y: torch.Tensor, **noise: torch.Tensor) -> torch.Tensor:
        """P(Y <= y | output), elementwise.

        Raises:
            ValueError: If the class has none, or the target is a class.
        """
        entries = self.entries(output, **noise)
        if not entries.support.is_discrete:
            try:
                return entries.cdf(y)
            except NotImplementedError:
                raise self._refused("cdf") from None
        found, most = torch.zeros_like(entries.mean + y), float(y.max())
        for k in range(self._lowest(entries, most), math.floor(most) + 1):
            found += entries.log_prob(y.new_tensor(float(k))).exp() * (k <= y)
        return found.clamp(max=1)

    def quantile(self, output: torch.Tensor, q: float, **noise: torch.Tensor) -> torch.Tensor:
        """The smallest y with P(Y <= y | output) >= q, elementwise.

        Raises:
            ValueError: If the class has none, or the target is a class.
        """
        entries = self.entries(output, **noise)
        if not entries.support.is_discrete:
            try:
                return entries.icdf(output.new_tensor(q))
            except NotImplementedError:
                raise self._refused("quantile") from None
        below = torch.zeros_like(entries.mean)
        found = torch.full_like(below, self._lowest(entries, 0.0))
        for k in itertools.count(self._lowest(entries, 0.0)):
            below += entries.log_prob(output.new_tensor(float(k))).exp()
            if not bool((below < q).any()):
                return found
            self._lowest(entries, k)
            found += below < q
        return found

    def _lowest(self, entries: Any, most: float) -> int:
        """The whole number at which a sum up to `most` begins.

        Raises:
            ValueError: If there is none, or there would be too many terms.
        """
        low = getattr(entries.support, "lower_bound", None)
        if low is None or most - float(low) > MAX_COUNT:
            came = "no least one came" if low is None else f"one up to {most:g} came"
            name = type(self).__name__
            needs = f"{name} sums over whole numbers, at most {MAX_COUNT:,} from the least"
            raise ValueError(f"{needs}, but {came}; write {name}.cdf and {name}.quantile.")
        return int(low)

    def _refused(self, what: str) -> ValueError:
        name = type(self).__name__
        return ValueError(f"{what} must be known for intervals, but the distribution of {name} has none; write {name}.{what}.")

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class AbstractLabels(AbstractLikelihood):
    """A likelihood of classes 0, 1, …, whose mean is their probabilities.

    Attributes:
        normaliser: The function from outputs to probabilities, "sigmoid" or "softmax"; empty where it is neither.
        whole_labels: True where targets are held as int64, class numbers that index.
        judged_by_choice: True where a row is judged by the probability of its most probable class; False where the mean is
            P(y = 1), and a row is judged by that.
    """

    normaliser: ClassVar[str]
    judged_by_choice: ClassVar[bool]
    whole_labels: ClassVar[bool] = True
    log_concave: ClassVar[bool] = True
    is_default: ClassVar[bool] = True

    @property
    def labels(self) -> AbstractLabels:
        """Itself."""
        return self

    @property
    def discrete(self) -> bool:
        """True."""
        return True

    def target_shape(self, output_shape: torch.Size) -> torch.Size:
        """One label a row."""
        return output_shape[:1]

    def cdf(self, output: torch.Tensor, y: torch.Tensor, **noise: torch.Tensor) -> torch.Tensor:
        """Refused.

        Raises:
            ValueError: Always.
        """
        raise ValueError(f"a CDF must be of a number, but {type(self).__name__} is about classes; use mean or log_prob.")

    def quantile(self, output: torch.Tensor, q: float, **noise: torch.Tensor) -> torch.Tensor:
        """Refused.

        Raises:
            ValueError: Always.
        """
        raise ValueError(f"a quantile must be of a number, but {type(self).__name__} is about classes; use mean or log_prob.")

    @abc.abstractmethod
    def class_probabilities(self, mean: torch.Tensor) -> torch.Tensor:
        """Every class's probability, (..., N, K), from `mean`."""

    def choice(self, mean: torch.Tensor) -> torch.Tensor:
        """The most probable class of each row, in a tie the smallest."""
        return self.class_probabilities(mean).argmax(-1)

    @property
    def stated_name(self) -> str:
        """The name of the probability that `stated` gives."""
        return "confidence" if self.judged_by_choice else "P(y = 1)"

    def stated(self, mean: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The probability that a row is judged by, and whether the event happened, in the mean's type."""
        if not self.judged_by_choice:
            return mean, y.to(mean.dtype)
        stated, label = mean.max(-1)
        return stated, (label == y).to(mean.dtype)

    def of_choice(self, mean: torch.Tensor, choice: torch.Tensor) -> torch.Tensor:
        """The probability that `stated` speaks about, of draws (..., N) or (..., N, K), where `choice` (N,) is predicted."""
        return mean.gather(-1, choice.expand(mean.shape[:-1])[..., None])[..., 0] if self.judged_by_choice else mean

    def brier(self, mean: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Each row's Σₖ (pₖ − 1{y = k})², or (P(y = 1) − y)²."""
        if not self.judged_by_choice:
            return (mean - y).square()
        return (mean - torch.nn.functional.one_hot(y, mean.shape[-1])).square().sum(-1)
