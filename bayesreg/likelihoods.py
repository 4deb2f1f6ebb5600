"""What is assumed about the noise: the loss a network is trained on, under its Bayesian name.

    squared error = Gaussian        cross-entropy on two classes = Bernoulli        cross-entropy = Categorical

A new likelihood is one class here: a Pyro distribution, its row-wise log-density, mean and variance, and what a
target must look like.
"""

from __future__ import annotations

import abc
import math
from typing import Any, ClassVar, Literal

import pyro.distributions as dist
import torch
from torch.nn import functional as F

from bayesreg import _catalog, _check
from bayesreg.priors import AbstractPrior, AbstractScaledPrior, HalfNormal
from bayesreg.priors.numeric import above_zero

Kind = Literal["regression", "binary", "multiclass"]
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def parse(text: str) -> AbstractLikelihood:
    """Read a likelihood from its text, the inverse of `repr(likelihood)`.

    Args:
        text: For example "Gaussian(noise_scale=HalfNormal(1.0))" or "Bernoulli()".

    Returns:
        The likelihood.

    Raises:
        ValueError: If the text is not of that form, a name unknown or an argument wrong.

    >>> parse("Gaussian(noise_scale=HalfNormal(scale=2.0))")
    Gaussian(noise_scale=HalfNormal(scale=2.0))
    """
    return _catalog.parse(text, AbstractLikelihood, "a likelihood", "Gaussian(noise_scale=0.5)", AbstractPrior)


class AbstractLikelihood(abc.ABC):
    """How the target scatters around the network's output.

    Attributes:
        kind: What is predicted: "regression", "binary" or "multiclass".
        location_scale: True where the output is the target's location, so that the target may be standardised.
    """

    kind: ClassVar[Kind]
    location_scale: ClassVar[bool] = False

    @property
    def latents(self) -> dict[str, AbstractPrior]:
        """The noise's own unknowns and their priors; empty when there are none."""
        return {}

    @property
    def fixed(self) -> dict[str, float]:
        """The noise's known numbers, in the units that the model works in; empty when there are none."""
        return {}

    @abc.abstractmethod
    def distribution(self, output: torch.Tensor, **noise: torch.Tensor) -> Any:
        """The Pyro distribution of the targets given the network's output, batch shape = rows."""

    @abc.abstractmethod
    def log_prob(self, output: torch.Tensor, y: torch.Tensor, **noise: torch.Tensor) -> torch.Tensor:
        """Log-density of each row, in nats, (..., N)."""

    def log_prob_sum(self, output: torch.Tensor, y: torch.Tensor, **noise: Any) -> torch.Tensor:
        """Log-density summed over rows, in nats; known noise may be a number, and a class may say it in fewer operations."""
        return self.log_prob(output, y, **{name: torch.as_tensor(value).to(output) for name, value in noise.items()}).sum()

    @abc.abstractmethod
    def output_curvature(self, output: torch.Tensor, y: torch.Tensor, **noise: torch.Tensor) -> torch.Tensor:
        """−∂² log p(y | f)/∂f∂fᵀ of each row, (N, K, K) with K = 1 for a scalar output."""

    def start(self, output: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        """A first guess of the noise's own unknowns from a few rows."""
        return {}

    @abc.abstractmethod
    def mean(self, output: torch.Tensor, **noise: torch.Tensor) -> torch.Tensor:
        """E[y | output], in the output's shape; class probabilities for classification."""

    @abc.abstractmethod
    def variance(self, output: torch.Tensor, **noise: torch.Tensor) -> torch.Tensor:
        """Var[y | output], in the output's shape: the aleatoric part."""

    def cdf(self, output: torch.Tensor, y: torch.Tensor, **noise: torch.Tensor) -> torch.Tensor:
        """P(Y <= y | output), elementwise.

        Raises:
            ValueError: If the target is a class.
        """
        raise ValueError(f"a CDF must be of a number, but {type(self).__name__} is about classes; use mean or log_prob.")

    @abc.abstractmethod
    def target(self, y: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """The target in the type this likelihood computes with.

        Raises:
            ValueError: If the target does not fit.
        """

    @abc.abstractmethod
    def check_output(self, output: torch.Tensor, y: torch.Tensor) -> None:
        """Refuse an output (a few rows are enough) that does not fit the target (all rows).

        Raises:
            ValueError: If the trailing shapes do not fit.
        """

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class Gaussian(AbstractLikelihood):
    """y = f(x) + ε, ε ~ N(0, noise_scale²):  log p = −Σ (y − f)²/(2σ²) − N·K log(σ √2π).

    As a loss: the squared error, weighed against the penalty by 1/(2σ²). With K outputs all share one noise scale
    (in standardised units when the model standardises).

    Args:
        noise_scale: The noise's sd, in the units that the model works in: a number > 0 when known, or a prior of a
            positive quantity when it is to be learned.

    Raises:
        ValueError: If noise_scale is neither a number > 0 nor a prior on positive values.

    >>> import torch
    >>> row = Gaussian(2.0).log_prob(torch.zeros(1), torch.ones(1), noise_scale=torch.tensor(2.0))
    >>> torch.allclose(row, torch.distributions.Normal(0.0, 2.0).log_prob(torch.ones(1)))
    True
    """

    kind: ClassVar[Kind] = "regression"
    location_scale: ClassVar[bool] = True

    def __init__(self, noise_scale: float | AbstractPrior = HalfNormal(1.0)) -> None:  # noqa: B008 (frozen)
        if isinstance(noise_scale, AbstractPrior):
            if isinstance(noise_scale, AbstractScaledPrior) and (
                noise_scale.fan_in or noise_scale.autoscale or noise_scale.relative_to_noise
            ):
                raise ValueError(
                    f"the noise's prior must have a scale of its own, but {noise_scale} came; give a number: HalfNormal(1.0) "
                    "with standardize=True, where the target has sd one."
                )
            if not above_zero(noise_scale.support):
                raise ValueError(
                    f"noise_scale must have a prior on positive values, but {noise_scale} came; pass for example "
                    "priors.HalfNormal(1.0), or a number > 0 when the noise is known."
                )
        else:
            noise_scale = _check.positive("noise_scale", noise_scale)
        self.noise_scale = noise_scale

    @property
    def latents(self) -> dict[str, AbstractPrior]:
        """The noise scale with its prior, unless it is known."""
        return {"noise_scale": self.noise_scale} if isinstance(self.noise_scale, AbstractPrior) else {}

    @property
    def fixed(self) -> dict[str, float]:
        """The noise scale, when it is known."""
        return {} if isinstance(self.noise_scale, AbstractPrior) else {"noise_scale": self.noise_scale}

    def distribution(self, output: torch.Tensor, *, noise_scale: torch.Tensor) -> Any:
        """Normal(output, noise_scale); a row with K outputs is one event."""
        normal = dist.Normal(output, noise_scale)
        return normal.to_event(1) if output.dim() > 1 else normal

    def log_prob(self, output: torch.Tensor, y: torch.Tensor, *, noise_scale: torch.Tensor) -> torch.Tensor:
        """−(y − f)²/(2σ²) − log(σ √2π), summed over a row's K outputs when y has them."""
        rows = -0.5 * ((y - output) / noise_scale).square() - torch.log(noise_scale) - _HALF_LOG_2PI
        return rows.sum(-1) if y.dim() > 1 else rows

    def log_prob_sum(self, output: torch.Tensor, y: torch.Tensor, *, noise_scale: Any) -> torch.Tensor:
        """The same, summed over rows; a known noise_scale may be a number."""
        count = y.numel()
        squares = F.mse_loss(output, y, reduction="sum")
        if isinstance(noise_scale, float):  # known: two operations less a step
            return squares * (-0.5 / noise_scale**2) - count * (math.log(noise_scale) + _HALF_LOG_2PI)
        logs = noise_scale.log() * -count - count * _HALF_LOG_2PI
        return torch.addcdiv(logs, squares, noise_scale.square(), value=-0.5)

    def output_curvature(self, output: torch.Tensor, y: torch.Tensor, *, noise_scale: torch.Tensor) -> torch.Tensor:
        """I/σ²."""
        width = output.shape[-1] if output.dim() > 1 else 1
        eye = torch.eye(width, dtype=output.dtype, device=output.device)
        return (eye / noise_scale.square()).expand(len(output), width, width)

    def start(self, output: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        """The root mean square of the residuals."""
        rms = (y - output).square().mean().sqrt()
        return {"noise_scale": rms.clamp_min(1e-3)}

    def mean(self, output: torch.Tensor, *, noise_scale: torch.Tensor) -> torch.Tensor:
        """The output itself."""
        return output

    def variance(self, output: torch.Tensor, *, noise_scale: torch.Tensor) -> torch.Tensor:
        """σ² for each entry."""
        return noise_scale.square().expand_as(output)

    def cdf(self, output: torch.Tensor, y: torch.Tensor, *, noise_scale: torch.Tensor) -> torch.Tensor:
        """Φ((y − f)/σ)."""
        return 0.5 * torch.erfc((output - y) / (math.sqrt(2) * noise_scale))  # keeps its digits in the lower tail

    def target(self, y: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Real numbers, (N,) or (N, K); integers and booleans are converted."""
        return y.to(dtype)

    def check_output(self, output: torch.Tensor, y: torch.Tensor) -> None:
        """Output and target must have one shape.

        Raises:
            ValueError: If not.
        """
        if output.shape[1:] != y.shape[1:] or output.dim() > 2:
            raise ValueError(
                f"Gaussian needs one network output for each target, but a row's output has shape "
                f"{tuple(output.shape[1:])} and its target {tuple(y.shape[1:])}; give the last layer {_width(y)} output(s)."
            )

    def __repr__(self) -> str:
        return f"Gaussian(noise_scale={self.noise_scale!r})"


class Bernoulli(AbstractLikelihood):
    """Two classes, y ∈ {0, 1}, P(y = 1) = sigmoid(f):  log p = Σ y f − log(1 + eᶠ).

    As a loss: binary cross-entropy with logits, summed.

    >>> import torch
    >>> Bernoulli().log_prob(torch.zeros(1), torch.ones(1)).exp()
    tensor([0.5000])
    """

    kind: ClassVar[Kind] = "binary"

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

    def target(self, y: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
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
        return y.to(dtype)

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


class Categorical(AbstractLikelihood):
    """K classes, y ∈ {0, …, K−1}, P(y = k) = softmax(f)ₖ:  log p = Σ f_y − log Σₖ e^{fₖ}.

    As a loss: cross-entropy with logits, summed.

    >>> import torch
    >>> Categorical().log_prob(torch.zeros(1, 4), torch.tensor([2])).exp()
    tensor([0.2500])
    """

    kind: ClassVar[Kind] = "multiclass"

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
        return torch.diag_embed(p) - p[:, :, None] * p[:, None, :]

    def mean(self, output: torch.Tensor) -> torch.Tensor:
        """Class probabilities, (..., N, K)."""
        return output.softmax(-1)

    def variance(self, output: torch.Tensor) -> torch.Tensor:
        """The variance p (1 − p) of each class indicator, (..., N, K)."""
        p = output.softmax(-1)
        return p * (1 - p)

    def target(self, y: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Class numbers 0, 1, …, (N,), as int64.

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


def _width(y: torch.Tensor) -> int:
    return y.shape[1] if y.dim() > 1 else 1
