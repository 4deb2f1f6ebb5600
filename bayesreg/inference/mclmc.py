"""Microcanonical Langevin Monte Carlo: many chains in one batched gradient, no draw rejected, or exact by Metropolis."""

from __future__ import annotations

import os
from typing import Any, ClassVar

from bayesreg.inference.base import AbstractSampling
from bayesreg.samplers.base import AbstractSampler
from bayesreg.samplers.microcanonical import Microcanonical
from bayesreg.samplers.options import ChainOptions


class MCLMC(AbstractSampling):
    """Microcanonical Langevin Monte Carlo."""

    name: ClassVar[str] = "mclmc"
    when: ClassVar[str] = "Many unknowns and one posterior: long, cheap chains whose bias is below their Monte Carlo error."

    def __init__(
        self,
        num_chains: int = 4,
        num_warmup: int = 2000,
        num_samples: int = 1000,
        thin: int = 5,
        temperature: float = 1.0,
        start: Any = "weights",
        *,
        compile: bool | str = "auto",
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int | None = None,
        checkpoint_key: str | None = None,
    ) -> None:
        options = ChainOptions(num_chains, num_warmup, num_samples, thin, temperature, start)
        super().__init__(options, checkpoint, checkpoint_every, checkpoint_key, compile)

    def sampler(self) -> AbstractSampler:
        """See `AbstractSampling.sampler`."""
        return Microcanonical()
