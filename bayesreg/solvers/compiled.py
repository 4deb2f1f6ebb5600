"""The whole step compiled, optimizer included, with several steps in one call: the same Adam as a pure function of tensors.

Tracing runs the Python code once on real tensors and keeps the tensor operations, so that any module will do whose
operations do not depend on values. TorchInductor compiles what was traced, called by itself (`torch._inductor.compile`, no
public name): `torch.compile` on the same graph checks its guards at every call, and a step of a 13-50-1 network took 1.2 to 1.4
times as long (143 µs against 106 with 32 rows, 208 against 168 with 500; 103 against 69 where the calls are compiled too).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from bayesreg.behaviour import COMPILING
from bayesreg.data.rows import Batch, Data
from bayesreg.objective.directions import Rows
from bayesreg.objective.flat import Group, LogJoint
from bayesreg.objective.training_copy import Piece
from bayesreg.solvers import steps
from bayesreg.solvers.stepper import AbstractStepper, EagerAdam, NotFinite

STEPS_A_CALL = 10  # in one compiled graph, at most: more of them compile longer and gain little
OPERATIONS_A_CALL = 1200  # that many are compiled in a quarter of a minute
PAYS = 50_000  # steps from which "auto" compiles: they save half a minute where compiling costs a quarter of one
NATIVE_PAYS = 400_000  # steps from which the calls between kernels are compiled too: a third less a step, 16 s more to compile
SMALL = 100_000  # unknowns up to which the cost of a call is worth sharing between steps

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class CompiledAdam(AbstractStepper):
    """The whole step as one compiled function.

    Args:
        start: Where the parameter begins.
        example: A batch, by which it is decided how many steps make a call.
        loss: From (parameter, x, y, noise) to what is minimised and what `advance` gives back, two scalars; a pure function of
            tensors, without what a prox will treat.
        noise_size: Standard normal numbers that a step needs, 0 for none.
        nonsmooth: Groups whose penalty is left to a prox.
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
        nonsmooth: Sequence[Group] = (),
        num_data: int = 1,
        clip_norm: float | None = None,
        notes: list[str] | None = None,
        native: bool = False,
    ) -> None:
        self.parameter = start.detach().clone()
        self._loss, self._noise_size = loss, noise_size
        self._nonsmooth, self._num_data, self._clip_norm = nonsmooth, num_data, clip_norm
        self._first, self._second = torch.zeros_like(start), torch.zeros_like(start)
        self._count = 0
        self._made: dict[Any, Callable[..., Any]] = {}
        self._notes = notes
        self._native = native and not start.is_cuda
        self._small = start.numel() <= SMALL
        self.steps_a_call = min(STEPS_A_CALL, max(1, OPERATIONS_A_CALL // self._operations(example))) if self._small else 1

    @staticmethod
    def requires(log_joint: LogJoint, data: Data) -> str:
        """Why a whole step on a log-joint cannot be compiled, or an empty text.

        Args:
            log_joint: The objective.
            data: The rows.
        """
        if data.x is None:
            return "the rows are streamed by a loader"
        if why := log_joint.model.behaviour.why_not(COMPILING):
            return why
        whole = [group.prior for group in log_joint.nonsmooth if not group.prior.separable_prox]
        return f"the prox of {whole[0]} is found outside of torch" if whole else ""

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
            u, first, second, step = steps.adam(u, gradient, first, second, paces[i], self._nonsmooth)
            if self._nonsmooth:
                u = steps.proximal(u, step / self._num_data, self._nonsmooth)
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
    nonsmooth: Sequence[Group] = (),
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
        nonsmooth: Groups whose penalty is left to a prox.
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
    common: dict[str, Any] = {"nonsmooth": nonsmooth, "num_data": num_data, "clip_norm": clip_norm}
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
    pieces = split() if parameter.numel() > SMALL and not nonsmooth and clip_norm is None else ()
    return EagerAdam(parameter, backward, buffers=buffers, pieces=pieces, held=held, **common)


def no_compiler(device: torch.device) -> str:
    """What a compiled step lacks on this device, or an empty text."""
    if device.type == "cuda":
        from importlib.util import find_spec

        return "" if find_spec("triton") else "Triton"
    return "" if any(map(shutil.which, ("g++", "clang++", "c++"))) else "a C++ compiler (g++ or clang++)"
