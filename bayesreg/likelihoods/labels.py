"""Targets that are classes: cross-entropy, under its Bayesian names."""

from __future__ import annotations

from typing import Any, ClassVar, final

import pyro.distributions as dist
import torch
from torch.nn import functional as F

from bayesreg.likelihoods.base import AbstractLabels


@final
class Bernoulli(AbstractLabels):
    """Two classes, y ∈ {0, 1}, P(y = 1) = sigmoid(f):  log p = Σ y f − log(1 + eᶠ).

    As a loss: binary cross-entropy with logits, summed.

    >>> import torch
    >>> Bernoulli().log_prob(torch.zeros(1), torch.ones(1)).exp()
    tensor([0.5000])
    """

    normaliser: ClassVar[str] = "sigmoid"
    whole_labels: ClassVar[bool] = False
    judged_by_choice: ClassVar[bool] = False

    @property
    def kind(self) -> str:
        """Two classes."""
        return "binary"

    @property
    def output_axes(self) -> tuple[int, ...]:
        """One logit a row."""
        return (1,)

    def suits(self, num_classes: int | None) -> bool:
        """Two classes."""
        return num_classes == 2

    def mean_label(self, output: int) -> str:
        """The probability."""
        return self.stated_name

    def class_probabilities(self, mean: torch.Tensor) -> torch.Tensor:
        """1 − p and p."""
        return torch.stack([1 - mean, mean], -1)

    def distribution(self, output: torch.Tensor) -> Any:
        """Bernoulli with the output as logit."""
        return dist.Bernoulli(logits=output)

    def log_prob(self, output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Y f − log(1 + eᶠ)."""
        return y * output - F.softplus(output)

    def log_prob_sum(self, output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The same, summed over rows."""
        return -F.binary_cross_entropy_with_logits(output, y, reduction="sum")

    def output_curvature(self, output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The variance p (1 − p)."""
        return self.variance(output)[:, None, None]

    def mean(self, output: torch.Tensor) -> torch.Tensor:
        """The probability of y = 1."""
        return output.sigmoid()

    def variance(self, output: torch.Tensor) -> torch.Tensor:
        """The variance p (1 − p)."""
        return output.sigmoid() * (-output).sigmoid()

    def check_target(self, y: torch.Tensor) -> None:
        """Zeros and ones, (N,).

        Raises:
            ValueError: If the target holds anything else.
        """
        if y.dim() != 1:
            raise ValueError(f"Bernoulli needs a target of shape (N,), but {tuple(y.shape)} came; pass one column of 0/1.")
        wrong = (y != 0) & (y != 1)
        if bool(wrong.any()):
            shown = ", ".join(f"{v:g}" for v in y[wrong].unique()[:3].tolist())
            raise ValueError(
                f"Bernoulli needs targets 0 or 1, but {int(wrong.sum()):,} of {len(y):,} are something else ({shown}, ...); "
                "recode the classes as 0/1, or use Categorical for several classes and Gaussian for numbers."
            )

    def check_output(self, output: torch.Tensor, y: torch.Tensor) -> None:
        """One logit a row.

        Raises:
            ValueError: If not.
        """
        if output.dim() != 1:
            raise ValueError(
                f"Bernoulli needs one logit a row, but a row's output has shape {tuple(output.shape[1:])}; "
                "give the last layer 1 output, or use Categorical."
            )


@final
class Categorical(AbstractLabels):
    """K classes, y ∈ {0, …, K−1}, P(y = k) = softmax(f)ₖ:  log p = Σ f_y − log Σₖ e^{fₖ}.

    As a loss: cross-entropy with logits, summed.

    >>> import torch
    >>> Categorical().log_prob(torch.zeros(1, 4), torch.tensor([2])).exp()
    tensor([0.2500])
    """

    normaliser: ClassVar[str] = "softmax"
    judged_by_choice: ClassVar[bool] = True

    @property
    def kind(self) -> str:
        """Several classes."""
        return "multiclass"

    @property
    def output_axes(self) -> tuple[int, ...]:
        """K logits a row."""
        return (2,)

    def suits(self, num_classes: int | None) -> bool:
        """Two classes or more."""
        return num_classes is not None

    def num_outputs(self, num_classes: int | None) -> int:
        """One a class."""
        return num_classes or 0

    def mean_label(self, output: int) -> str:
        """The probability of one class."""
        return f"P(y = {output})"

    def class_probabilities(self, mean: torch.Tensor) -> torch.Tensor:
        """The mean itself."""
        return mean

    def distribution(self, output: torch.Tensor) -> Any:
        """Categorical with the outputs as logits."""
        return dist.Categorical(logits=output)

    def log_prob(self, output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Logit of the observed class minus the log of the normaliser."""
        index = y.unsqueeze(-1).expand(*output.shape[:-1], 1)
        return output.gather(-1, index).squeeze(-1) - output.logsumexp(-1)

    def log_prob_sum(self, output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """The same, summed over rows."""
        return -F.cross_entropy(output, y, reduction="sum")

    def output_curvature(self, output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """diag(p) − p pᵀ."""
        p = output.softmax(-1)
        return torch.diag_embed(p * _others(p)) - _without_diagonal(p[:, :, None] * p[:, None, :])

    def curvature_root(self, output: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """(I − √p √pᵀ) diag(√p): its rows sum to zero, because softmax does not see a number added to all classes."""
        p = output.softmax(-1)
        root = p.sqrt()
        return torch.diag_embed(root * _others(p)) - _without_diagonal(root[:, :, None] * p[:, None, :])

    def mean(self, output: torch.Tensor) -> torch.Tensor:
        """Class probabilities, (..., N, K)."""
        return output.softmax(-1)

    def variance(self, output: torch.Tensor) -> torch.Tensor:
        """The variance p (1 − p) of each class indicator, (..., N, K)."""
        p = output.softmax(-1)
        return p * (1 - p)

    def check_target(self, y: torch.Tensor) -> None:
        """Class numbers 0, 1, …, (N,).

        Raises:
            ValueError: If the target holds anything else.
        """
        if y.dim() != 1:
            raise ValueError(
                f"Categorical needs a target of shape (N,) with class numbers, but {tuple(y.shape)} came; "
                "pass argmax of a one-hot target."
            )
        if (y.is_floating_point() and bool((y != y.round()).any())) or bool((y < 0).any()):
            raise ValueError(
                "Categorical needs class numbers 0, 1, ..., but fractions or negative numbers came; "
                "recode the classes, or use Gaussian for numbers."
            )

    def target(self, y: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Class numbers as int64.

        Raises:
            ValueError: If the target holds anything else.
        """
        self.check_target(y)
        return y.to(torch.int64)

    def check_output(self, output: torch.Tensor, y: torch.Tensor) -> None:
        """K logits a row.

        Raises:
            ValueError: If there are fewer than two, or fewer than the target's classes.
        """
        if output.dim() != 2 or output.shape[1] < 2:
            raise ValueError(
                f"Categorical needs K >= 2 logits a row, but a row's output has shape {tuple(output.shape[1:])}; "
                "give the last layer one output a class, or use Bernoulli for two classes."
            )
        if int(y.max()) >= output.shape[1]:
            raise ValueError(
                f"Categorical needs class numbers below the number of logits, {output.shape[1]}, but class "
                f"{int(y.max())} came; number the classes from 0 and give the last layer {int(y.max()) + 1} outputs."
            )


def _without_diagonal(matrix: torch.Tensor) -> torch.Tensor:
    return matrix - torch.diag_embed(matrix.diagonal(dim1=-2, dim2=-1))


def _others(p: torch.Tensor) -> torch.Tensor:
    """1 − pₖ as the sum of the other probabilities: near p = 1 the difference would be rounding."""
    return _without_diagonal(p[:, None, :].expand(*p.shape, p.shape[-1])).sum(-1)
