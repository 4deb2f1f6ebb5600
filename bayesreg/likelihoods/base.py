"""What every likelihood must be: a Pyro distribution, its row-wise log-density, its moments, and a judge of targets."""

from __future__ import annotations

import abc
from typing import Any, ClassVar, Literal

import torch

from bayesreg.priors import AbstractPrior

Kind = Literal["regression", "binary", "multiclass"]


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

    @property
    def heteroscedastic(self) -> bool:
        """True where the network says each row's noise too, so that a row has more outputs than targets."""
        return False

    @property
    def log_concave(self) -> bool:
        """True where log p(y | f) is concave in f: a network that is linear in its weights then has a convex loss."""
        return True

    def mean_shape(self, output_shape: torch.Size) -> torch.Size:
        """The shape of `mean`, and of a regression's targets, for an output of this shape."""
        return output_shape

    def in_units(self, output: torch.Tensor, mean: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """The output that says about mean + scale · y what `output` says about y; for location likelihoods."""
        return mean + scale * output

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
        """−∂² log p(y | f)/∂f∂fᵀ of each row, (N, K, K) with K = 1 for a scalar output; never indefinite.

        Where the second derivative can be indefinite it is that derivative's mean over y, the Fisher information.
        """

    def curvature_root(self, output: torch.Tensor, y: torch.Tensor, **noise: torch.Tensor) -> torch.Tensor:
        """S with SᵀS = `output_curvature`, (N, K, K); a class writes its own where a square would lose digits."""
        values, vectors = torch.linalg.eigh(self.output_curvature(output, y, **noise))
        return values.clamp_min(0).sqrt()[:, :, None] * vectors.mT

    def start(self, output: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        """A first guess of the noise's own unknowns from a few rows."""
        return {}

    @abc.abstractmethod
    def mean(self, output: torch.Tensor, **noise: torch.Tensor) -> torch.Tensor:
        """E[y | output], in the output's shape or `mean_shape`; class probabilities for classification."""

    @abc.abstractmethod
    def variance(self, output: torch.Tensor, **noise: torch.Tensor) -> torch.Tensor:
        """Var[y | output], in the shape of `mean`: the aleatoric part."""

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
