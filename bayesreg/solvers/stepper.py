"""Who takes the steps: Adam on one flat parameter, eagerly, or the whole step compiled with several steps in one call.

    eager      gradient by the training copy's buffers  →  fused Adam  (→ prox)
    compiled   the same as one pure function of tensors: traced once, compiled by TorchInductor, optimizer included

Tracing runs the Python code once on real tensors and keeps the tensor operations, so that any module will do whose
operations do not depend on values.
"""

from __future__ import annotations

import abc
import math
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from bayesreg import _check
from bayesreg.data.rows import Batch
from bayesreg.objective.directions import Rows, along_sphere, on_sphere
from bayesreg.objective.flat import Group
from bayesreg.objective.training_copy import Piece
from bayesreg.solvers import steps

STEPS_A_CALL = 10  # in one compiled graph, at most: more of them compile longer and gain little
OPERATIONS_A_CALL = 1200  # that many are compiled in a quarter of a minute
PAYS = 50_000  # steps from which "auto" compiles: they save half a minute where compiling costs a quarter of one
NATIVE_PAYS = 400_000  # steps from which the calls between kernels are compiled too: a third less a step, 16 s more to compile
SMALL = 100_000  # unknowns up to which the cost of a call is worth sharing between steps


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
        kinked: Groups whose penalty is left to a prox; `backward` must leave it out.
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
        kinked: Sequence[Group] = (),
        num_data: int = 1,
        clip_norm: float | None = None,
        buffers: Sequence[torch.Tensor] = (),
        pieces: Sequence[Piece] = (),
        held: Sequence[Rows] = (),
    ) -> None:
        self.parameter, self.backward, self.held = parameter, backward, held
        self.kinked, self.num_data, self.clip_norm, self.buffers = kinked, num_data, clip_norm, buffers
        # where a look at the loss stalls nothing, it is looked at every step, so that the batch can be named
        self._always = parameter.device.type == "cpu"
        self._split = bool(pieces)
        self._pieces = sorted(pieces, key=lambda piece: piece.slice.start) or [Piece(slice(None), parameter, 0.0)]
        self._counts = [torch.zeros((), dtype=torch.float32, device=parameter.device) for _ in self._pieces]
        self._taken = 0  # the same where the device need not be asked
        self._first, self._second = torch.zeros_like(parameter), torch.zeros_like(parameter)
        self._optimizer = torch.optim.Adam(
            [{"params": [piece.tensor], "weight_decay": piece.weight_decay} for piece in self._pieces],
            betas=steps.BETAS,
            eps=steps.EPSILON,
            fused=parameter.device.type in ("cpu", "cuda"),
        )
        lengths = {rows.segment.start for rows in held}  # a decay of theirs would change a length only, and Adam's moments
        for piece, settings in zip(self._pieces, self._optimizer.param_groups, strict=True):
            settings["weight_decay"] *= not (self._split and piece.slice.start in lengths)
        for piece, count in zip(self._pieces, self._counts, strict=True):
            first, second = (moment[piece.slice].view(piece.tensor.shape) for moment in (self._first, self._second))
            self._optimizer.state[piece.tensor] = {"step": count, "exp_avg": first, "exp_avg_sq": second}

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
        for settings in self._optimizer.param_groups:
            settings["lr"] = rates[0]
        self._optimizer.step()
        if self.kinked:
            self._proximal(rates[0])
        if self.held:
            on_sphere(parameter, self.held)
        return loss.reshape(1), before

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
        """The prox after a fused step, on the kinked stretches alone."""
        self._taken += 1
        ahead, floor, whole = steps.pace(self._taken, rate)
        for group in self.kinked:
            where = group.slice
            step = steps.metric(self._second[where], ahead, floor)
            if not group.prior.prox_by_entry:  # the fused step moved each entry by its own step: take that back
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


Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class CompiledAdam(AbstractStepper):
    """The whole step as one compiled function.

    Args:
        start: Where the parameter begins.
        example: A batch, by which it is decided how many steps make a call.
        loss: From (parameter, x, y, noise) to what is minimised and what `advance` gives back, two scalars; a pure function of
            tensors, without what a prox will treat.
        noise_size: Standard normal numbers that a step needs, 0 for none.
        kinked: Groups whose penalty is left to a prox.
        num_data: N, by which the objective is divided.
        clip_norm: Largest norm of the gradient; None for no bound.
        notes: Where it is told that a step cannot be compiled and runs uncompiled; None to refuse it.
        native: Compile what calls the kernels too (C++ instead of Python), which takes three times as long.
    """

    def __init__(
        self,
        start: torch.Tensor,
        loss: Loss,
        example: Batch,
        *,
        noise_size: int = 0,
        kinked: Sequence[Group] = (),
        num_data: int = 1,
        clip_norm: float | None = None,
        notes: list[str] | None = None,
        native: bool = False,
    ) -> None:
        self.parameter = start.detach().clone()
        self._loss, self._noise_size = loss, noise_size
        self._kinked, self._num_data, self._clip_norm = kinked, num_data, clip_norm
        self._first, self._second = torch.zeros_like(start), torch.zeros_like(start)
        self._count = 0
        self._made: dict[Any, Callable[..., Any]] = {}
        self._notes = notes
        self._native = native and not start.is_cuda
        self._small = start.numel() <= SMALL
        self.steps_a_call = min(STEPS_A_CALL, max(1, OPERATIONS_A_CALL // self._operations(example))) if self._small else 1

    def advance(self, batches: Sequence[Batch], rates: Sequence[float], keep: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Several steps; see `AbstractStepper.advance`.

        Raises:
            NotFinite: If a loss is not finite.
        """
        shared = all(x is batches[0][0] for x, _ in batches)
        rows = list(batches[0]) if shared else [tensor for batch in batches for tensor in batch]
        inputs = self._inputs(rows, rates)
        noise = inputs[4]
        if len(batches) == self.steps_a_call:
            key = (shared, tuple((tuple(row.shape), row.dtype) for row in rows))
            if key not in self._made:
                self._made[key] = self._compile(inputs)
            found = self._made[key](*inputs)
        else:  # the last few steps, or a short batch
            found = self._call(*inputs)
        *new, losses, before = found
        if (keep or self.parameter.device.type == "cpu") and not bool(losses.isfinite().all()):
            index = int((~losses.isfinite()).nonzero()[0, 0])
            x, y = batches[index]
            gradient = torch.func.grad(lambda u: self._loss(u, x, y, noise[index])[0])(self.parameter)
            raise NotFinite(index, float(losses[index]), gradient)
        if new:  # a CUDA graph writes its results over at the next call
            new = [value.clone() for value in new] if self.parameter.is_cuda else new
            self.parameter, self._first, self._second = new
        self._count += len(batches)
        return losses, before

    def _inputs(self, rows: Sequence[torch.Tensor], rates: Sequence[float]) -> list[torch.Tensor]:
        noise = torch.randn(len(rates), self._noise_size, dtype=self.parameter.dtype, device=self.parameter.device)
        paces = [steps.pace(self._count + i, rate) for i, rate in enumerate(rates, 1)]
        pace = torch.tensor(paces, dtype=self.parameter.dtype).to(self.parameter.device)
        return [self.parameter, self._first, self._second, pace, noise, *rows]

    def _operations(self, example: Batch) -> int:
        """Tensor operations of one step; one more than are compiled in a call where it cannot be traced."""
        with torch.random.fork_rng(devices=[]):
            inputs = self._inputs(example, [0.0])
        try:
            return len(_traced(self._call, inputs).graph.nodes)
        except Exception:  # it is told when a step is compiled
            return OPERATIONS_A_CALL + 1

    def _call(self, u: Any, first: Any, second: Any, paces: Any, noise: Any, *rows: Any) -> tuple[Any, ...]:
        losses, before = [], u
        gradient_of = torch.func.grad(self._loss, has_aux=True)
        for i in range(len(paces)):
            x, y = (rows[0], rows[1]) if len(rows) == 2 else rows[2 * i : 2 * i + 2]
            before = u
            gradient, loss = gradient_of(u, x, y, noise[i])
            if self._clip_norm is not None:
                gradient = gradient * (self._clip_norm / gradient.norm()).clamp_max(1.0)
            u, first, second, step = steps.adam(u, gradient, first, second, paces[i], self._kinked)
            if self._kinked:
                u = steps.proximal(u, step / self._num_data, self._kinked)
            losses.append(loss)
        return u, first, second, torch.stack(losses), before

    def _compile(self, inputs: list[torch.Tensor]) -> Callable[..., Any]:
        """The call as compiled code for inputs of these shapes.

        Raises:
            ValueError: If it cannot be.
        """
        import torch._inductor

        def in_place(u: Any, first: Any, second: Any, *rest: Any) -> tuple[Any, ...]:
            *new, losses, before = self._call(u, first, second, *rest)
            before = before.clone()  # before its place is written over
            for kept, value in zip((u, first, second), new, strict=True):
                kept.copy_(value)
            return losses, before

        # new tensors for a large parameter would cost more than the arithmetic
        function = self._call if self._small else in_place
        options = {"triton.cudagraphs": self.parameter.is_cuda and self._small, "cpp_wrapper": self._native}
        try:
            graph = _traced(function, inputs)
            for node in graph.graph.find_nodes(op="placeholder"):
                node.meta.clear()  # traced each with a fake mode of its own, which a native call does not take
            return torch._inductor.compile(graph, inputs, options=options)  # pyright: ignore
        except Exception as failure:  # tracing runs a person's module, and anything may come of it
            why = f"{type(failure).__name__}: {str(failure).strip().splitlines()[0][:200] if str(failure).strip() else ''}"
            if self._notes is None:
                raise ValueError(
                    f"compile=True needs a module that can be traced and compiled, but {why}; leave compile=False."
                ) from failure
            self._notes.append(f"not compiled: {why}.")
            return self._call

    def state(self) -> dict[str, Any]:
        """The parameter and Adam's moments."""
        kept = {"parameter": self.parameter, "first": self._first, "second": self._second}
        return {**{name: value.clone() for name, value in kept.items()}, "count": self._count}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        self.parameter, self._first, self._second = (state[name].clone() for name in ("parameter", "first", "second"))
        self._count = int(state["count"])


def _traced(function: Callable[..., Any], inputs: Sequence[torch.Tensor]) -> Any:
    """The tensor operations that a function does on inputs of these shapes."""
    from torch.fx.experimental.proxy_tensor import make_fx

    with torch.no_grad():
        return make_fx(function)(*[tensor.clone() for tensor in inputs])


def checked_compile(compile: Any) -> bool | str:
    """True, False or "auto".

    Raises:
        ValueError: If it is none of them.
    """
    return compile if isinstance(compile, bool) else _check.one_of("compile", compile, ("auto",))


def make_stepper(
    compile: bool | str,
    parameter: nn.Parameter,
    backward: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    loss: Loss,
    example: Callable[[], Batch],
    *,
    obstacle: str,
    num_steps: int,
    notes: list[str],
    noise_size: int = 0,
    kinked: Sequence[Group] = (),
    num_data: int = 1,
    clip_norm: float | None = None,
    buffers: Sequence[torch.Tensor] = (),
    split: Callable[[], Sequence[Piece]] = tuple,
    held: Sequence[Rows] = (),
) -> AbstractStepper:
    """The stepper that `compile` asks for; "auto" compiles where it pays.

    The choice depends on what is fitted and never on a measured time: the same fit gives the same answer.

    Args:
        compile: True, False or "auto".
        parameter: With a gradient buffer.
        backward: For `EagerAdam`.
        loss: For `CompiledAdam`, the same objective.
        example: Gives a batch, for `CompiledAdam`.
        obstacle: Why the step cannot be compiled, or an empty text.
        num_steps: Steps of the fit.
        notes: Where the choice is told.
        noise_size: Standard normal numbers that a step needs.
        kinked: Groups whose penalty is left to a prox.
        num_data: N.
        clip_norm: Largest norm of the gradient; None for no bound.
        buffers: Tensors that a step changes too.
        split: `TrainingCopy.split`, for an eager step of a large network.
        held: For `EagerAdam`; what follows a batch normalisation is never compiled.

    Returns:
        The stepper.

    Raises:
        ValueError: If compiling is asked for and cannot be.
    """
    common: dict[str, Any] = {"kinked": kinked, "num_data": num_data, "clip_norm": clip_norm}
    missing = no_compiler(parameter.device)
    if compile is True and (obstacle or missing):
        what = f"a step that can be compiled, but {obstacle}" if obstacle else f"{missing}, but there is none here"
        raise ValueError(f"compile=True needs {what}; leave compile=False.")
    pays = num_steps >= PAYS and parameter.numel() <= SMALL and not obstacle and not missing
    if compile is True or (compile == "auto" and pays):
        stepper = CompiledAdam(
            parameter,
            loss,
            example(),
            noise_size=noise_size,
            notes=None if compile is True else notes,
            native=num_steps >= NATIVE_PAYS,
            **common,
        )
        each = f"{stepper.steps_a_call} steps" if stepper.steps_a_call > 1 else "one step"
        notes.append(f"compiled: {each} a call{'' if compile is True else f', which pays from {PAYS:,} steps on'}.")
        return stepper
    pieces = split() if parameter.numel() > SMALL and not kinked and clip_norm is None else ()
    return EagerAdam(parameter, backward, buffers=buffers, pieces=pieces, held=held, **common)


def no_compiler(device: torch.device) -> str:
    """What a compiled step lacks on this device, or an empty text."""
    if device.type == "cuda":
        from importlib.util import find_spec

        return "" if find_spec("triton") else "Triton"
    return "" if any(map(shutil.which, ("g++", "clang++", "c++"))) else "a C++ compiler (g++ or clang++)"
