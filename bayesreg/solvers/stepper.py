"""Who takes the steps: Adam on one flat parameter, eagerly.

gradient by the training copy's buffers  →  fused Adam  (→ prox)  (→ back to length one)
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim.adam import adam as torch_adam

from bayesreg import _check
from bayesreg.data.rows import Batch
from bayesreg.objective.directions import Rows, along_sphere, on_sphere
from bayesreg.objective.flat import Group
from bayesreg.objective.training_copy import Piece
from bayesreg.solvers import steps


class NotFinite(Exception):
    """A loss that is not finite.

    Attributes:
        index: Which step of the call.
        loss: What it was.
        gradient: At that step or the last point known to be good, in the parameter's shape.
    """

    def __init__(self, index: int, loss: float, gradient: torch.Tensor) -> None:
        self.index, self.loss, self.gradient = index, loss, gradient


class AbstractStepper(abc.ABC):
    """Takes steps of an optimizer on one flat parameter.

    Attributes:
        parameter: What is learned, one vector.
        steps_a_call: How many steps `advance` likes to take at once.
    """

    parameter: torch.Tensor
    steps_a_call: int = 1

    @property
    def answer(self) -> torch.Tensor:
        """What the search has come to, in the parameter's shape, detached: the point where it stands."""
        return self.parameter.detach()

    @abc.abstractmethod
    def advance(self, batches: Sequence[Batch], rates: Sequence[float], keep: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        """One step a batch.

        Args:
            batches: As many as steps.
            rates: Learning rates, as many.
            keep: Whether the point before the last step is asked for, and a loss that is not finite to be told.

        Returns:
            The losses, (k,), each at the point before its step; and that point of the last one, or None.

        Raises:
            NotFinite: If a loss is not finite.
        """

    @abc.abstractmethod
    def state(self) -> dict[str, Any]:
        """Copies of everything that the next step depends on, for `restore`."""

    @abc.abstractmethod
    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a state."""


class EagerAdam(AbstractStepper):
    """Adam on a parameter whose gradient buffer `backward` adds to.

    Args:
        parameter: With a gradient buffer.
        backward: From a batch to a detached loss, its gradient added to the buffer.
        nonsmooth: Groups whose penalty is left to a prox; `backward` must leave it out.
        num_data: N, by which the objective is divided.
        clip_norm: Largest norm of the gradient; None for no bound.
        buffers: Tensors that a step changes too (batch normalisation's statistics).
        pieces: What the parameter is made of where each tensor has a gradient of its own, see `TrainingCopy.split`.
        held: Tensors whose rows stay at length one: a step sees the gradient across them only and brings them back after it.
    """

    def __init__(
        self,
        parameter: nn.Parameter,
        backward: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        *,
        nonsmooth: Sequence[Group] = (),
        num_data: int = 1,
        clip_norm: float | None = None,
        buffers: Sequence[torch.Tensor] = (),
        pieces: Sequence[Piece] = (),
        held: Sequence[Rows] = (),
    ) -> None:
        self.parameter, self.backward, self.held = parameter, backward, held
        self.nonsmooth, self.num_data, self.clip_norm, self.buffers = nonsmooth, num_data, clip_norm, buffers
        # where a look at the loss stalls nothing, it is looked at every step, so that the batch can be named
        self._always = parameter.device.type == "cpu"
        self._split = bool(pieces)
        self._pieces = sorted(pieces, key=lambda piece: piece.slice.start) or [Piece(slice(None), parameter, 0.0)]
        self._counts = [torch.zeros((), dtype=torch.float32, device=parameter.device) for _ in self._pieces]
        self._taken = 0  # the same where the device need not be asked
        self._first, self._second = torch.zeros_like(parameter), torch.zeros_like(parameter)
        self._fused = parameter.device.type in ("cpu", "cuda")
        lengths = {rows.segment.start for rows in held}  # a decay of theirs would change a length only, and Adam's moments
        decays = [0.0 if self._split and piece.slice.start in lengths else piece.weight_decay for piece in self._pieces]
        views = lambda moments: [moments[piece.slice].view(piece.tensor.shape) for piece in self._pieces]  # noqa: E731
        columns = [piece.tensor for piece in self._pieces], views(self._first), views(self._second), self._counts
        self._groups = []  # one call for the tensors of one decay
        for decay in dict.fromkeys(decays):
            own = [i for i, other in enumerate(decays) if other == decay]
            self._groups.append((decay, *([column[i] for i in own] for column in columns)))

    def advance(self, batches: Sequence[Batch], rates: Sequence[float], keep: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        """One step; see `AbstractStepper.advance`.

        Raises:
            NotFinite: If the loss is not finite; the parameter is then as it was.
        """
        parameter: Any = self.parameter
        self._clear()
        loss = self.backward(*batches[0])
        if (self._always or keep) and not math.isfinite(loss):
            raise NotFinite(0, float(loss), self._gradient())
        before = parameter.detach().clone() if keep else None
        for rows in self.held:
            along_sphere(parameter, self._gradient_at(rows), rows)
        if self.clip_norm is not None:
            parameter.grad.mul_((self.clip_norm / parameter.grad.norm()).clamp_max(1.0))
        self._move(rates[0])
        if self.nonsmooth:
            self._proximal(rates[0])
        if self.held:
            on_sphere(parameter, self.held)
        return loss.reshape(1), before

    @torch.no_grad()
    def _move(self, rate: float) -> None:
        """What `torch.optim.Adam.step()` does, without its hooks and its grouping: these cost a quarter of a small step."""
        shared = {"beta1": steps.BETAS[0], "beta2": steps.BETAS[1], "eps": steps.EPSILON, "amsgrad": False, "maximize": False}
        for decay, tensors, first, second, counts in self._groups:
            state = tensors, [tensor.grad for tensor in tensors], first, second, [], counts
            if self._fused:
                torch._foreach_add_(counts, 1)  # pyright: ignore[reportPrivateImportUsage]
                torch._fused_adam_(*state, lr=rate, weight_decay=decay, **shared)  # pyright: ignore[reportPrivateImportUsage]
            else:
                torch_adam(*state, foreach=False, fused=False, lr=rate, weight_decay=decay, **shared)

    def _clear(self) -> None:
        if not self._split:
            self.parameter.grad.zero_()  # pyright: ignore[reportOptionalMemberAccess]
            return
        for piece in self._pieces:
            piece.tensor.grad = None  # autograd's own buffer takes the place

    def _gradient(self) -> torch.Tensor:
        """A copy of the whole gradient, (P,)."""
        return torch.cat([piece.tensor.grad.reshape(-1) for piece in self._pieces])

    def _gradient_at(self, rows: Rows) -> torch.Tensor:
        """A tensor's own gradient, in its shape, in place."""
        where = rows.segment
        if not self._split:
            return self.parameter.grad[where.slice].view(where.latent.shape)  # pyright: ignore[reportOptionalSubscript]
        return next(piece.tensor.grad for piece in self._pieces if piece.slice.start == where.start)

    @torch.no_grad()
    def _proximal(self, rate: float) -> None:
        """The prox after a fused step, on the nonsmooth stretches alone."""
        self._taken += 1
        ahead, floor, whole = steps.pace(self._taken, rate)
        for group in self.nonsmooth:
            where = group.slice
            step = steps.metric(self._second[where], ahead, floor)
            if not group.prior.separable_prox:  # the fused step moved each entry by its own step: take that back
                common = step.amin()
                self.parameter[where] += (step - common) * self._first[where] * whole
                step = common.expand_as(step)
            self.parameter[where] = group.prox(self.parameter[where], step / self.num_data)

    def _kept(self) -> dict[str, torch.Tensor]:
        return {"parameter": self.parameter, "first": self._first, "second": self._second}

    def state(self) -> dict[str, Any]:
        """The parameter, Adam's moments and the module's buffers."""
        found: dict[str, Any] = {name: value.detach().clone() for name, value in self._kept().items()}
        return {**found, "count": self._counts[0].clone(), "buffers": [buffer.clone() for buffer in self.buffers]}

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        for name, tensor in self._kept().items():
            tensor.copy_(state[name])
        for count in self._counts:
            count.copy_(state["count"])
        self._taken = int(state["count"])
        for buffer, value in zip(self.buffers, state["buffers"], strict=True):
            buffer.copy_(value)


def checked_compile(compile: Any) -> bool | str:
    """True, False or "auto".

    Raises:
        ValueError: If it is none of them.
    """
    return compile if isinstance(compile, bool) else _check.one_of("compile", compile, ("auto",))
