"""A sampler: how R chains are set up, tuned, and moved by one step, all in one call.

State in, state out: nothing is kept between two calls and nothing is changed in place, so that a run can stop at any
moment, be written to disk, and go on; and a step whose operations do not depend on numbers can be traced and compiled.
"""

from __future__ import annotations

import abc
from typing import ClassVar

import torch

from bayesreg.objective.chains import Density

State = dict[str, torch.Tensor]  # "u" (R, P), and whatever else the next step needs
Told = dict[str, torch.Tensor]  # what a step says of each chain, (R,) each


def under(part: str, tensors: State) -> State:
    """Tensors as one part of a state, "part.name"; `part_of` gives them back.

    >>> state = under("tuning", {"count": torch.ones(())})
    >>> list(state), list(part_of("tuning", state))
    (['tuning.count'], ['count'])
    """
    return {f"{part}.{name}": value for name, value in tensors.items()}


def part_of(part: str, state: State) -> State:
    """The inverse of `under`."""
    return {name.removeprefix(f"{part}."): value for name, value in state.items() if name.startswith(f"{part}.")}


def chances(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Acceptance probabilities from energies before and after; 0 where one is not a number.

    >>> chances(torch.tensor([1.0, 1.0, 1.0]), torch.tensor([0.0, 2.0, float("nan")]))
    tensor([1.0000, 0.3679, 0.0000])
    """
    return (before - after).nan_to_num(nan=-float("inf")).clamp(max=0.0).exp()


class AbstractSampler(abc.ABC):
    """R Markov chains that move together. Random numbers come from torch's global generator, which a fit seeds.

    `density` gives log π and its gradient at (R, P), see `objective.Chains`. A step tells "lp", the log density of each chain,
    and whatever else there is to know, by ArviZ's names: "diverging", "energy", "acceptance_rate", "step_size".

    Attributes:
        traceable: Whether a step is a fixed sequence of tensor operations; where it is not, the density is traced by itself.
        chains_at_once: Chains whose density a step asks for in one call; None for all.
        gradients: Calls of the density in a step, roughly; by them it is told whether compiling pays.
    """

    traceable: ClassVar[bool] = True
    chains_at_once: ClassVar[int | None] = None
    gradients: ClassVar[int] = 2

    @abc.abstractmethod
    def init(self, density: Density, u: torch.Tensor, num_warmup: int) -> State:
        """The state before the first step.

        Args:
            density: What is sampled.
            u: Where the chains start, (R, P).
            num_warmup: Steps of the warm-up that follows.

        Returns:
            Tensors by name, among them "u".
        """

    @abc.abstractmethod
    def step(self, density: Density, state: State) -> tuple[State, Told]:
        """One step.

        Args:
            density: What is sampled.
            state: The state before.

        Returns:
            What changes in the state, and what is to be said of the step. With `traceable` it is a fixed sequence of tensor
            operations, whatever the numbers.
        """

    @abc.abstractmethod
    def warm_up(self, density: Density, before: State, state: State, told: Told, step: int, num_warmup: int) -> State:
        """What a step of the warm-up changes in how later ones are made.

        Args:
            density: What is sampled, for a sampler that measures it.
            before: The state before the step.
            state: The state after it.
            told: What was said of it.
            step: Steps done before it.
            num_warmup: Steps of the warm-up.

        Returns:
            The state to go on from, with tensors of the same names and shapes.
        """
