"""A Pyro distribution over the whole tensor for a prior, where Pyro has none of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pyro.distributions.torch_distribution import TorchDistribution
from torch.distributions import constraints

if TYPE_CHECKING:
    from bayesreg.priors.base import AbstractPrior


class PriorDistribution(TorchDistribution):
    """A prior's density and draws, with the tensor as one event.

    Args:
        prior: The prior, with every number computed.
        shape: The tensor's shape, which becomes the event shape.
        options: dtype and device of the draws.
        batch_shape: Shape of independent copies.
    """

    arg_constraints: ClassVar[dict[str, Any]] = {}  # pyright: ignore[reportIncompatibleMethodOverride]
    has_rsample = False

    def __init__(
        self, prior: AbstractPrior, shape: torch.Size, options: dict[str, Any], batch_shape: Sequence[int] = ()
    ) -> None:
        self.prior, self.options = prior, options
        super().__init__(torch.Size(batch_shape), torch.Size(shape), validate_args=False)

    @property
    def support(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The prior's support, over the whole event."""
        return constraints.independent(self.prior.support, len(self.event_shape))

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> PriorDistribution:
        """Independent copies in a batch of this shape."""
        return PriorDistribution(self.prior, self.event_shape, self.options, batch_shape)

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Log-density of each event in nats, in the batch's shape."""
        batch = value.shape[: value.dim() - len(self.event_shape)]
        if not batch:
            return self.prior.log_prob(value)
        return torch.vmap(self.prior.log_prob)(value.reshape(-1, *self.event_shape)).reshape(batch)

    def sample(self, sample_shape: Sequence[int] = ()) -> torch.Tensor:
        """Draws from torch's global generator: sample, batch and event axes.

        Raises:
            ValueError: If the prior is improper and has no draws.
        """
        if not self.prior.proper:
            raise ValueError(
                f"a draw must come from a proper prior, but {self.prior} has no draws; start from a value "
                "(init_loc_fn=init_to_value(...)) or give this tensor a proper prior, for example Normal(10.0)."
            )
        leading = torch.Size((*sample_shape, *self.batch_shape))
        with torch.no_grad():
            return self.prior.draw(self.event_shape, leading.numel(), self.options).reshape(leading + self.event_shape)
