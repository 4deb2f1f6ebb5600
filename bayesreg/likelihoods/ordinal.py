"""Classes in an order: a number that is only seen to lie between two thresholds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, final

import pyro.distributions as dist
import torch
from torch.nn import functional as F

from bayesreg import _check
from bayesreg.likelihoods.base import AbstractLabels
from bayesreg.likelihoods.special import number_or_prior
from bayesreg.priors import AbstractPrior, Gamma, Normal
from bayesreg.priors.numeric import ends


@final
class Ordinal(AbstractLabels):
    """K classes in order, y ∈ {0, …, K−1}, with thresholds c₁ < … < c_{K−1}:  P(y <= k) = sigmoid(c_{k+1} − f).

    A larger output makes higher classes more probable, and every step of the order by the same odds (proportional odds). The
    first threshold is an unknown, and so is the gap from each to the next, which is positive: the thresholds are in order by
    themselves. A bias in the network's last layer and the first threshold move the same; their priors tell them apart.

    As a loss: minus log[sigmoid(c_{y+1} − f) − sigmoid(c_y − f)], with c₀ = −∞ and c_K = ∞.

    Args:
        num_classes: K >= 2.
        threshold: Prior of the first threshold c₁.
        gap: Prior of each gap c_{k+1} − c_k, on positive values.

    Raises:
        ValueError: If num_classes is not a whole number >= 2, or a prior does not fit.

    References:
        McCullagh (1980), Regression models for ordinal data.

    >>> import torch
    >>> one = torch.ones(())
    >>> made = Ordinal(3)
    >>> p = made.mean(torch.zeros(1), threshold_1=0 * one, gap_2=one)  # sigmoid(0), sigmoid(1) − sigmoid(0), 1 − sigmoid(1)
    >>> [round(v, 4) for v in p[0].tolist()]
    [0.5, 0.2311, 0.2689]
    """

    normaliser: ClassVar[str] = ""
    judged_by_choice: ClassVar[bool] = True
    is_default: ClassVar[bool] = False

    def __init__(
        self,
        num_classes: int = 3,
        threshold: AbstractPrior = Normal(3.0),  # noqa: B008 (frozen)
        gap: AbstractPrior = Gamma(2.0, 1.0),  # noqa: B008 (frozen)
    ) -> None:
        self.num_classes = _check.count("num_classes", num_classes)
        if self.num_classes < 2:
            raise ValueError("num_classes must be at least 2, but 1 came; an order needs two classes.")
        for name, prior, real in (("threshold", threshold, True), ("gap", gap, False)):
            if not isinstance(prior, AbstractPrior):
                raise ValueError(
                    f"{name} must be a prior, but {prior!r} came; pass for example priors.{Normal(3.0) if real else Gamma()}."
                )
            if real and ends(prior.support)[0] >= 0:
                raise ValueError(
                    f"threshold must have a prior on all numbers, but {prior} came; pass for example priors.Normal(3.0)."
                )
        self.threshold, self.gap = threshold, number_or_prior("gap", gap, "priors.Gamma(2.0, 1.0)")

    @property
    def parameters(self) -> dict[str, float | AbstractPrior]:
        """The first threshold, and the gaps to the others."""
        gaps: Any = {f"gap_{k}": self.gap for k in range(2, self.num_classes)}
        return {"threshold_1": self.threshold, **gaps}

    @property
    def kind(self) -> str:
        """Several classes."""
        return "multiclass"

    @property
    def output_axes(self) -> tuple[int, ...]:
        """One output a row."""
        return (1,)

    def suits(self, num_classes: int | None) -> bool:
        """As many classes."""
        return num_classes == self.num_classes

    def mean_shape(self, output_shape: torch.Size) -> torch.Size:
        """A probability for each class."""
        return torch.Size((*output_shape, self.num_classes))

    def mean_label(self, output: int) -> str:
        """The probability of one class."""
        return f"P(y = {output})"

    def class_probabilities(self, mean: torch.Tensor) -> torch.Tensor:
        """The mean itself."""
        return mean

    def thresholds(self, noise: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """c₁, …, c_{K−1} from the unknowns by name."""
        found = [noise["threshold_1"]]
        for k in range(2, self.num_classes):
            found.append(found[-1] + noise[f"gap_{k}"])
        return found

    def _logs(self, output: torch.Tensor, noise: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The classes' log P(y = k) = log sigmoid(c_{k+1} − f) + log sigmoid(f − c_k) + log(1 − e^−gap), (..., K)."""
        at = [c - output for c in self.thresholds(noise)]
        found = [F.logsigmoid(at[0])]
        for k in range(2, self.num_classes):
            between = torch.log(-torch.expm1(-noise[f"gap_{k}"]))
            found.append(F.logsigmoid(at[k - 1]) + F.logsigmoid(-at[k - 2]) + between)
        return torch.stack([*found, F.logsigmoid(-at[-1])], -1)

    def distribution(self, output: torch.Tensor, **noise: torch.Tensor) -> Any:
        """Categorical with the classes' probabilities."""
        return dist.Categorical(logits=self._logs(output, noise), validate_args=False)

    def log_prob(self, output: torch.Tensor, y: torch.Tensor, **noise: torch.Tensor) -> torch.Tensor:
        """The logarithm of the observed class's probability."""
        logs = self._logs(output, noise)
        return logs.gather(-1, y.unsqueeze(-1).expand(*logs.shape[:-1], 1)).squeeze(-1)

    def output_curvature(self, output: torch.Tensor, y: torch.Tensor, **noise: torch.Tensor) -> torch.Tensor:
        """s(c_{y+1} − f) + s(c_y − f), with s = sigmoid (1 − sigmoid), zero at the ends."""
        at = torch.stack([c - output for c in self.thresholds(noise)], -1)
        slope = F.pad(at.sigmoid() * (-at).sigmoid(), (1, 1))  # of c₀, …, c_K
        found = slope.gather(-1, y[:, None]) + slope.gather(-1, y[:, None] + 1)
        return found[:, :, None]

    def start(self, output: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        """Thresholds at which the classes have their shares of the rows, about the outputs' mean."""
        edges = torch.arange(1, self.num_classes, device=y.device)
        below = (y[:, None] < edges).sum(0) + edges / self.num_classes  # as if each class had one row more, in parts
        cuts = torch.logit(below.to(output) / (len(y) + 1)) + output.mean()
        gaps = cuts.diff().clamp_min(0.05)
        return {"threshold_1": cuts[0], **{f"gap_{k + 2}": gap for k, gap in enumerate(gaps)}}

    def mean(self, output: torch.Tensor, **noise: torch.Tensor) -> torch.Tensor:
        """Class probabilities, (..., N, K)."""
        return self._logs(output, noise).exp()

    def variance(self, output: torch.Tensor, **noise: torch.Tensor) -> torch.Tensor:
        """The variance p (1 − p) of each class indicator, (..., N, K)."""
        p = self.mean(output, **noise)
        return p * (1 - p)

    def target(self, y: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Class numbers as int64.

        Raises:
            ValueError: If the target holds anything else.
        """
        self.check_target(y)
        return y.to(torch.int64)

    def check_target(self, y: torch.Tensor) -> None:
        """Class numbers 0, …, K−1 in the order, (N,).

        Raises:
            ValueError: If the target holds anything else.
        """
        if y.dim() != 1:
            raise ValueError(
                f"Ordinal needs a target of shape (N,) with class numbers, but {tuple(y.shape)} came; pass one column."
            )
        wrong = (
            (y < 0)
            | (y >= self.num_classes)
            | (y != y.round() if y.is_floating_point() else torch.zeros_like(y, dtype=torch.bool))
        )
        if bool(wrong.any()):
            shown = ", ".join(f"{v:g}" for v in y[wrong].unique()[:3].tolist())
            raise ValueError(
                f"Ordinal needs class numbers 0, ..., {self.num_classes - 1}, but {int(wrong.sum()):,} of {len(y):,} are not "
                f"({shown}, ...); number the classes in their order, or give their number: Ordinal(num_classes=K)."
            )

    def check_output(self, output: torch.Tensor, y: torch.Tensor) -> None:
        """One output a row.

        Raises:
            ValueError: If not.
        """
        if output.dim() != 1:
            raise ValueError(
                f"Ordinal needs one output a row, but a row's output has shape {tuple(output.shape[1:])}; "
                "give the last layer 1 output, or use Categorical."
            )

    def __repr__(self) -> str:
        return f"Ordinal(num_classes={self.num_classes}, threshold={self.threshold!r}, gap={self.gap!r})"
