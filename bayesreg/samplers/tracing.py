"""A sampler's step as a fixed sequence of tensor operations: traced, so that no Python but theirs is run, or compiled.

Traced, a step is what it was, random numbers included; on a small network it takes a fraction of the time. Compiled, it takes
less again, for some ten seconds of compiling. What cannot be traced runs as it is, with a note.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from bayesreg.objective.chains import Density

Step = Callable[[dict[str, torch.Tensor]], tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]]


def traced(step: Step, state: dict[str, torch.Tensor], obstacle: str, *, compile: bool, notes: list[str]) -> Step:
    """The same step, faster.

    Args:
        step: From a state to what changes in it, and what is told.
        state: An example.
        obstacle: What keeps the network from being traced, or an empty text.
        compile: Compile it too.
        notes: Where it is told.

    Returns:
        The step.
    """
    from torch.fx.experimental.proxy_tensor import make_fx

    if obstacle:
        notes.append(f"each step runs as written, since {obstacle}.")
        return step
    try:
        with torch.random.fork_rng(devices=_devices(state)):
            state = {name: value.clone() for name, value in state.items()}  # one tensor under two names would be one input
            graph: Any = make_fx(step)(dict(state))
            graph.graph.eliminate_dead_code()
            graph.recompile()
            if not _same(step, graph, _moved(state)):
                notes.append("each step runs as written, since it depends on numbers in another way than by tensor operations.")
                return step
            if not compile:
                return graph
            built = _compiled(graph, state)
            notes.append("compiled: one step a call.")
            return built
    except Exception as failure:  # tracing runs a person's module, and anything may come of it
        why = (str(failure).strip().splitlines() or [""])[0][:200]
        notes.append(f"each step runs as written: {type(failure).__name__}: {why}.")
        return step


def traced_density(density: Density, u: torch.Tensor, obstacle: str, *, compile: bool, notes: list[str]) -> Density:
    """The same density, faster; for a sampler whose step asks for it as often as the numbers want.

    Args:
        density: log π and its gradient.
        u: An example.
        obstacle: As for `traced`, with compile and notes.
        compile: Compile it too.
        notes: Where it is told.

    Returns:
        The density.
    """

    def step(state: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        value, gradient = density(state["u"])
        return {}, {"value": value, "gradient": gradient}

    made = traced(step, {"u": u}, obstacle, compile=compile, notes=notes)
    if made is step:
        return density

    def evaluate(u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        _, found = made({"u": u})
        return found["value"], found["gradient"]

    return evaluate


def _compiled(graph: Any, state: dict[str, torch.Tensor]) -> Step:
    """The traced step as compiled code; its random numbers are torch's own, so that it is the same chain, to rounding."""
    import torch._inductor
    from torch.fx.experimental.proxy_tensor import make_fx

    names, keys = list(state), [list(part) for part in graph(dict(state))]

    def of_list(*tensors: torch.Tensor) -> list[torch.Tensor]:
        return [value for part in graph(dict(zip(names, tensors, strict=True))) for value in part.values()]

    inputs: list[Any] = list(state.values())
    run: Any = torch._inductor.compile(make_fx(of_list)(*inputs), inputs, options={"fallback_random": True})

    def step(state: dict[str, torch.Tensor]) -> Any:
        taken = iter(run(*[state[name] for name in names]))
        return tuple({name: next(taken) for name in part} for part in keys)

    return step


def _same(step: Step, graph: Any, state: dict[str, torch.Tensor]) -> bool:
    """Whether a traced step does what the step does, at another state and with the same random numbers."""
    random = torch.get_rng_state()
    one = step(dict(state))
    torch.set_rng_state(random)
    two = graph(dict(state))
    pairs = [(part, other, name) for part, other in zip(one, two, strict=True) for name in part]
    return all(torch.allclose(part[name], other[name], rtol=1e-3, atol=1e-5, equal_nan=True) for part, other, name in pairs)


def _moved(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Another state: the chains a little further on, and in another order."""
    further = {name: value * 0.9 + 0.01 for name, value in state.items() if value.is_floating_point()}
    return {**state, **further, "u": state["u"].flip(0) * 0.9 + 0.01}


def _devices(state: dict[str, torch.Tensor]) -> list[int]:
    device = state["u"].device
    return [device.index or 0] if device.type == "cuda" else []
