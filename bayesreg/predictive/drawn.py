"""The components of a predictive, outputs and noise of S draws: given, or made when they are first asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, final

import torch

from bayesreg.likelihoods import AbstractLikelihood

Parts = tuple[torch.Tensor, dict[str, torch.Tensor]]


@final
class Drawn:
    """Outputs (S, N) or (S, N, K) with the noise of each draw.

    Args:
        like: A tensor with the outputs' shape, type and device; its entries are never read.
        make: Gives the outputs, and the noise by name with the outputs' axes; called once at most.

    >>> calls = []
    >>> drawn = Drawn(torch.empty(()).expand(2, 3), lambda: (calls.append(1) or torch.ones(2, 3), {}))
    >>> part = drawn.rows(slice(1, 3))
    >>> part.like.shape, len(calls)
    (torch.Size([2, 2]), 0)
    >>> part.output.shape, drawn.output.shape, len(calls)
    (torch.Size([2, 2]), torch.Size([2, 3]), 1)
    """

    def __init__(self, like: torch.Tensor, make: Callable[[], Parts]) -> None:
        self.like, self._make = like, make

    @classmethod
    def given(cls, output: torch.Tensor, noise: Mapping[str, torch.Tensor]) -> Drawn:
        """What is there already, and has been checked."""
        return cls(output, lambda: (output, dict(noise)))

    @cached_property
    def _made(self) -> Parts:
        made = self._make()
        self._make = lambda: made  # and with the old one, what it stood on is freed
        return made

    @property
    def output(self) -> torch.Tensor:
        """(S, N) or (S, N, K)."""
        return self._made[0]

    @property
    def noise(self) -> dict[str, torch.Tensor]:
        """By name, with the axes of `output`; the first is S, the others may be one."""
        return self._made[1]

    def rows(self, index: Any) -> Drawn:
        """The same for some rows, by numbers or a slice."""

        def part() -> Parts:
            return self.output[:, index], {n: v[:, index] if v.shape[1] > 1 else v for n, v in self.noise.items()}

        return Drawn(self.like[:, index], part)

    def draws(self, index: Any) -> Drawn:
        """Some of the draws, by numbers or a slice."""
        return Drawn.given(self.output[index], {name: value[index] for name, value in self.noise.items()})

    def double(self) -> Drawn:
        """In float64."""
        noise = {name: value.double() for name, value in self.noise.items()}
        return Drawn.given(self.output.double(), noise)

    def __getstate__(self) -> dict[str, Any]:
        return {"made": self._made}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(vars(Drawn.given(*state["made"])))


def checked(likelihood: AbstractLikelihood, output: torch.Tensor, noise: Mapping[str, torch.Tensor]) -> Drawn:
    """Outputs and noise that are what the likelihood's predictive needs, detached.

    Raises:
        ValueError: If the axes do not fit, there is no entry, or an entry is not finite.
    """
    axes, m = likelihood.output_axes, likelihood.outputs_per_target
    if output.dim() - 1 not in axes or output.numel() == 0 or output.shape[-1] % m:
        wanted = " or ".join("(S, N)" if n == 1 else f"(S, N, {'' if m == 1 else m}K)" for n in axes)
        raise ValueError(
            f"output must have shape {wanted} with one entry or more for {type(likelihood).__name__}, but "
            f"{tuple(output.shape)} came; put the draws on the first axis, also when there is only one."
        )
    output = finite("output", output.detach())
    return Drawn.given(output, {name: _fitting(name, value, output) for name, value in noise.items()})


def _fitting(name: str, value: torch.Tensor, output: torch.Tensor) -> torch.Tensor:
    value = torch.as_tensor(value, dtype=output.dtype, device=output.device).detach()
    shape = (1,) * (output.dim() - value.dim()) + tuple(value.shape)
    if len(shape) > output.dim() or any(n not in (1, m) for n, m in zip(shape, output.shape, strict=True)):
        raise ValueError(
            f"{name} must broadcast against output of shape {tuple(output.shape)}, but shape "
            f"{tuple(value.shape)} came; give one value a draw and a 1 for each further axis, for example (S, 1)."
        )
    return finite(name, value).reshape(shape).expand(len(output), *shape[1:])


def finite(name: str, values: torch.Tensor) -> torch.Tensor:
    """The same values.

    Raises:
        ValueError: If one is not finite.
    """
    if bool(torch.isfinite(values.sum())):  # one pass; a sum of finite numbers that overflows is looked at again
        return values
    bad = int((~torch.isfinite(values)).sum())
    if bad:
        raise ValueError(
            f"{name} must be finite, but {bad:,} of {values.numel():,} entries are NaN or infinite; "
            "the fit has diverged, or x lies where the network overflows: see the posterior's certificate."
        )
    return values
