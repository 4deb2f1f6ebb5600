"""What samplers tune while they warm up: a step size by dual averaging, and scales of the unknowns by running moments.

Functions from a state to a state, over dictionaries of tensors, as the samplers' own.
"""

from __future__ import annotations

import math

import torch

from bayesreg.samplers.base import State


class DualAveraging:
    """A step size ε whose mean acceptance is δ, by stochastic approximation of log ε.

        log ε_{t+1} = μ − √t/γ · H̄_t,   H̄_t the running mean of δ − α_t;   the last one is a weighted mean of all.

    Args:
        target: δ.

    References:
        Hoffman and Gelman (2014), The No-U-Turn Sampler, section 3.2; γ = 0.05, t₀ = 10, κ = 0.75.

    >>> tuning = DualAveraging(0.8)
    >>> state = tuning.init(torch.tensor(1.0))
    >>> for _ in range(2000):                                  # acceptance exp(−ε): the target is met at ε = −log 0.8
    ...     state = tuning.update(state, (-tuning.now(state)).exp())
    >>> round(float(tuning.final(state)), 3), round(-math.log(0.8), 3)
    (0.22..., 0.223)
    """

    def __init__(self, target: float) -> None:
        self.target = target

    def init(self, step_size: torch.Tensor, optimism: float = 10.0) -> State:
        """The state that starts from a step size, a tensor of any shape, and is drawn towards `optimism` times as much."""
        log = step_size.log()
        zero = torch.zeros_like(log)
        far = log + math.log(optimism)
        return {"log_step": log, "mean_log_step": zero, "shrunk_to": far, "short": zero, "count": zero.clone()}

    def update(self, state: State, acceptance: torch.Tensor) -> State:
        """The state after a step with this acceptance probability; one that is not a number counts as 0."""
        count = state["count"] + 1
        miss = self.target - acceptance.nan_to_num(0.0).clamp(0.0, 1.0)
        short = state["short"] + (miss - state["short"]) / (count + 10.0)
        log = state["shrunk_to"] - count.sqrt() / 0.05 * short
        weight = count**-0.75
        mean = weight * log + (1 - weight) * state["mean_log_step"]
        return {**state, "log_step": log, "mean_log_step": mean, "short": short, "count": count}

    @staticmethod
    def now(state: State) -> torch.Tensor:
        """The step size to try next."""
        return state["log_step"].exp()

    @staticmethod
    def final(state: State) -> torch.Tensor:
        """The step size for sampling."""
        return torch.where(state["count"] > 0, state["mean_log_step"], state["log_step"]).exp()


class Moments:
    """Running mean and variance over draws and chains (Welford 1962), pulled towards one sd as Stan does."""

    @staticmethod
    def init(like: torch.Tensor) -> State:
        """Nothing seen yet; `like` is (P,), or (R, P) for moments of each chain."""
        return {"seen": like.new_zeros(()), "mean": torch.zeros_like(like), "square": torch.zeros_like(like)}

    @staticmethod
    def update(state: State, draws: torch.Tensor) -> State:
        """With one draw of each chain more, (R, P); into moments over all chains where the state is (P,)."""
        pooled = state["mean"].dim() < draws.dim()
        count = len(draws) if pooled else 1
        own, within = (draws.mean(0), draws.var(0, correction=0) * count) if pooled else (draws, 0.0)
        seen, away = state["seen"] + count, own - state["mean"]
        mean = state["mean"] + away * (count / seen)
        square = state["square"] + within + away.square() * (count * state["seen"] / seen)
        return {"seen": seen, "mean": mean, "square": square}

    @staticmethod
    def pooled(state: State) -> State:
        """Moments over draws and chains, of moments of each chain; here mean and variance of 1, 2, 3, 6.

        >>> state, draws = Moments.init(torch.zeros(2, 1)), torch.tensor([[[1.0], [2.0]], [[3.0], [6.0]]])
        >>> for draw in draws:
        ...     state = Moments.update(state, draw)
        >>> whole = Moments.pooled(state)
        >>> float(whole["seen"]), float(whole["mean"]), float(whole["square"] / whole["seen"])
        (4.0, 3.0, 3.5)
        """
        mean = state["mean"].mean(0)
        square = (state["square"] + state["seen"] * (state["mean"] - mean).square()).sum(0)
        return {"seen": state["seen"] * len(state["mean"]), "mean": mean, "square": square}

    @staticmethod
    def apart(state: State) -> float:
        """Variance of the chains' means over the mean of their variances, the largest of all unknowns; inf for one chain.

        >>> Moments.apart({"seen": torch.tensor(2.0), "mean": torch.tensor([[0.0], [2.0]]), "square": torch.ones(2, 1)})
        2.0
        """
        if len(state["mean"]) < 2 or float(state["seen"]) < 2:
            return math.inf
        within = (state["square"].mean(0) / (state["seen"] - 1)).clamp_min(torch.finfo(state["square"].dtype).tiny)
        return float((state["mean"].var(0) / within).max())

    @staticmethod
    def variance(state: State) -> torch.Tensor:
        """The variances, (n s² + 5 · 10⁻³ s̄²)/(n + 5), s̄² their geometric mean; 1 while nothing was seen.

        >>> state = Moments.init(torch.zeros(1))
        >>> for draw in torch.tensor([[[1.0]], [[3.0]]]):
        ...     state = Moments.update(state, draw)
        >>> float(state["mean"]), float(state["square"] / (state["seen"] - 1))
        (2.0, 2.0)
        """
        seen = state["seen"]
        if float(seen) < 2:
            return torch.ones_like(state["square"])
        raw = state["square"] / (seen - 1)
        typical = raw.clamp_min(torch.finfo(raw.dtype).tiny).log().mean(-1, keepdim=True).exp()
        return (seen * raw + 5e-3 * typical) / (seen + 5)
