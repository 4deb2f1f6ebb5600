"""The settings of a run of Markov chains, checked once."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any

from bayesreg import _check

STARTS = ("weights", "prior")


@dataclasses.dataclass(frozen=True)
class ChainOptions:
    """How many chains, and how long.

    Attributes:
        num_chains: C.
        num_warmup: Steps of each chain that tune the sampler and are thrown away.
        num_samples: D, draws that are kept of each chain.
        thin: Steps from one draw to the next: a chain takes num_warmup + num_samples · thin.
        temperature: T > 0: the density is that of the posterior to the power 1/T. 1 is the posterior; anything else is no
            posterior, and certificate and report say so.
        start: "weights", the module's own for the first chain and new ones, as its layers draw them, for the others; "prior",
            draws of it; or a `MAP`, whose mode all chains start from.

    Raises:
        ValueError: If a setting is out of its range.
    """

    num_chains: int = 4
    num_warmup: int = 1000
    num_samples: int = 1000
    thin: int = 1
    temperature: float = 1.0
    start: Any = "weights"

    def __post_init__(self) -> None:
        for name in ("num_chains", "num_samples", "thin"):
            object.__setattr__(self, name, _check.count(name, getattr(self, name)))
        none = not isinstance(self.num_warmup, bool) and self.num_warmup == 0
        object.__setattr__(self, "num_warmup", 0 if none else _check.count("num_warmup", self.num_warmup))
        object.__setattr__(self, "temperature", _check.positive("temperature", self.temperature))
        if isinstance(self.start, str):
            _check.one_of("start", self.start, STARTS)

    @property
    def num_steps(self) -> int:
        """Steps of each chain."""
        return self.num_warmup + self.num_samples * self.thin


def divided(made: type, num_steps: int) -> dict[str, int]:
    """Steps of a chain divided into warm-up and draws as a class's defaults are.

    Args:
        made: The class, with defaults of num_warmup, num_samples and thin.
        num_steps: num_warmup + num_samples · thin.

    Returns:
        The three by name.

    Raises:
        ValueError: If there are fewer than 20 steps, too few for a warm-up and draws.

    >>> class Chains:
    ...     def __init__(self, num_warmup=15_000, num_samples=100, thin=10): ...
    >>> divided(Chains, 1600), divided(Chains, 40)
    ({'num_warmup': 1500, 'num_samples': 100, 'thin': 1}, {'num_warmup': 20, 'num_samples': 20, 'thin': 1})
    """
    if _check.count("num_steps", num_steps) < 20:
        raise ValueError(f"num_steps must be at least 20 for a chain, warm-up and draws, but {num_steps} came; raise it.")
    warmup, draws, thin = (inspect.signature(made).parameters[name].default for name in ("num_warmup", "num_samples", "thin"))
    sampling = round(num_steps * draws * thin / (warmup + draws * thin))
    draws = min(draws, max(sampling, num_steps // 2))
    thin = max(1, sampling // draws)
    return {"num_warmup": num_steps - draws * thin, "num_samples": draws, "thin": thin}
