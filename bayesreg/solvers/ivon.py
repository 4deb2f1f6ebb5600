"""Natural-gradient steps of independent normals: the gradient in the metric of the guide, its precision learned on the way.

    h ← h (1 + x + x²/2),  x = ρ (ĥ − h)/h,     ĥ = (∂L/∂log σ + 1/N)/σ²,     σ² = 1/(N h)
    m ← m − rate · ḡ/h

L is minus the ELBO over N. Its derivative by log σ is σ² times the expected curvature, less 1/N of the entropy, so that ĥ is an
estimate of that curvature: g ε/σ for a draw by g, its gradient, and in closed form where the prior's part is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from bayesreg.data.rows import Batch
from bayesreg.solvers.stepper import AbstractStepper, NotFinite

_MOMENTUM = 0.9
_PACE = 0.1  # the precision's rate over that of the mean
_SAME = 1 + 1e-6  # rates that differ by less are one
_FARTHEST = 10.0  # sds that a mean moves in one step, at most


class EagerIvon(AbstractStepper):
    """The improved variational online Newton method on means and log-sds, phi = (m, log σ).

    Args:
        parameter: phi, (2P,), with a gradient buffer.
        backward: From a batch to the detached loss, minus the ELBO over N, its gradient added to the buffer.
        num_data: N.
        buffers: Tensors that a step changes too.
        pace: The precision's rate over that of the mean.

    References:
        Shen et al. (2024), Variational learning is effective for large deep networks. Lin, Schmidt and Khan (2020), Handling
        the positive-definite constraint in the Bayesian learning rule (the update of h, which keeps it positive).
    """

    def __init__(
        self,
        parameter: nn.Parameter,
        backward: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        *,
        num_data: int,
        buffers: Sequence[torch.Tensor] = (),
        pace: float = _PACE,
    ) -> None:
        self.parameter, self.backward, self.num_data, self.buffers = parameter, backward, num_data, buffers
        self._pace = pace
        self._momentum = torch.zeros_like(parameter.detach()[: len(parameter) // 2])
        self._count = 0

    def advance(self, batches: Sequence[Batch], rates: Sequence[float], keep: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        """One step; see `AbstractStepper.advance`.

        Raises:
            NotFinite: If the loss is not finite; the parameter is then as it was.
        """
        parameter: Any = self.parameter
        parameter.grad.zero_()
        loss = self.backward(*batches[0])
        if not math.isfinite(loss):
            raise NotFinite(0, float(loss), parameter.grad.detach().clone())
        before = parameter.detach().clone() if keep else None
        with torch.no_grad():
            self._step(rates[0])
        return loss.reshape(1), before

    def _step(self, rate: float) -> None:
        parameter: Any = self.parameter
        loc, log_scale = parameter.data.chunk(2)
        slope, by_scale = parameter.grad.chunk(2)
        precision = (-2 * log_scale).exp()
        self._count += 1
        self._momentum.lerp_(slope, 1 - _MOMENTUM)
        moved = self._momentum * (rate / (1 - _MOMENTUM**self._count) * self.num_data) / precision
        farthest = _FARTHEST / precision.sqrt()
        loc.sub_(moved.maximum(-farthest).minimum(farthest))
        x = (by_scale * (self.num_data * min(1.0, self._pace * rate))).clamp(-1, 1)  # (ĥ − h)/h = N ∂L/∂log σ
        log_scale.sub_(0.5 * (x + 0.5 * x.square()).log1p())

    def state(self) -> dict[str, Any]:
        """The parameter, the gradient's running mean and the module's buffers."""
        kept = {"parameter": self.parameter.detach().clone(), "momentum": self._momentum.clone()}
        return {**kept, "count": self._count, "buffers": [buffer.clone() for buffer in self.buffers]}

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        self.parameter.copy_(state["parameter"])
        self._momentum.copy_(state["momentum"])
        self._count = int(state["count"])
        for buffer, value in zip(self.buffers, state["buffers"], strict=True):
            buffer.copy_(value)


class SettledByIvon(AbstractStepper):
    """Another stepper's steps until the rate has fallen to a share of the largest, natural-gradient steps from there.

    A rate that suits a search which crosses the landscape keeps narrow unknowns in motion, by more than their sds, and as it
    falls wide ones stand still before they are where they belong; natural-gradient steps move each in its own units. Their rate
    is the share itself: 0.1 where the other's is a tenth of its largest.

    Args:
        stepper: Takes the steps at first.
        ivon: Takes the last ones, of the same parameter.
        share: Of the largest rate, at which they begin.
    """

    def __init__(self, stepper: AbstractStepper, ivon: EagerIvon, share: float) -> None:
        self._stepper, self._ivon, self._share = stepper, ivon, share
        self.parameter, self._fastest = ivon.parameter, 0.0

    def advance(self, batches: Sequence[Batch], rates: Sequence[float], keep: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        """One step; see `AbstractStepper.advance`."""
        self._fastest = max(self._fastest, *rates)
        if rates[0] > self._share * self._fastest * _SAME:
            return self._stepper.advance(batches, rates, keep)
        return self._ivon.advance(batches, [rates[0] / self._fastest], keep)

    def state(self) -> dict[str, Any]:
        """The states of both."""
        return {"stepper": self._stepper.state(), "ivon": self._ivon.state(), "rate": self._fastest}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        self._stepper.restore(state["stepper"])
        self._ivon.restore(state["ivon"])
        self._fastest = float(state["rate"])
