"""The density that Markov chains walk on, with its gradient, for R chains at once.

    log π_r(u_r) = (log p(y | x, θ(u_r)) + log p(θ(u_r)))/T + log |dθ/du|,   r = 1 … R;  T = 1 is the posterior.

A multilayer perceptron goes through a backward pass of its own, `stack.Stack`: three batched products a layer. Any other
network that can be fitted many times at once goes through `Replicas`, any other model through its log-joint, vmapped or in
a loop. All give the same numbers, to rounding.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from bayesreg import _check
from bayesreg.behaviour import BATCH_STATISTICS, together
from bayesreg.data.rows import Data
from bayesreg.objective.batched import Replicas, is_replicable
from bayesreg.objective.flat import LogJoint
from bayesreg.objective.stack import Stack, stack_of
from bayesreg.objective.whole import of_rows

Density = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class Chains:
    """log π and its gradient for R chains, up to a constant.

    Batch normalisation takes the statistics of all rows, a function of the weights, so that there is one posterior whatever
    the module's running averages are; `by_rows` says so.

    Args:
        log_joint: The objective.
        data: The rows, in memory.
        num_chains: R.
        temperature: T > 0; below 1 the posterior is narrowed ("cold"), above widened.

    Attributes:
        constant: What the value lacks of the log-joint in nats and the data's own units.

    Raises:
        ValueError: If rows are streamed, or the temperature is not > 0.

    >>> from torch import nn
    >>> from bayesreg import BayesianModel, likelihoods, priors
    >>> model = BayesianModel(nn.Linear(1, 1, bias=False), priors.Normal(1.0), likelihoods.Gaussian(1.0))
    >>> model, data = model.ingest([[0.0], [1.0], [2.0]], [0.0, 1.0, 2.0])
    >>> value, gradient = Chains(LogJoint(model), data, 2)(torch.tensor([[0.0], [5 / 6]]))
    >>> [round(slope, 4) for slope in gradient.flatten().tolist()], round(float(value[1] - value[0]), 4)    # −½ 6 (w − 5/6)²
    ([5.0, 0.0], 2.0833)
    """

    def __init__(
        self,
        log_joint: LogJoint,
        data: Data,
        num_chains: int,
        *,
        temperature: float = 1.0,
    ) -> None:
        self.temperature = _check.positive("temperature", temperature)
        self.num_chains, self.num_data, self.size = num_chains, data.num_data, log_joint.layout.size
        self.x, self.y = data.full("a sampler that sees all rows at each step")
        self.by_rows = not log_joint.model.behaviour.why_not(BATCH_STATISTICS)
        self.log_joint = log_joint = of_rows(log_joint) if self.by_rows else log_joint
        self.constant = data.num_data * log_joint.model.log_jacobian
        if not self.by_rows and is_replicable(log_joint):
            replicas = Replicas([log_joint], self.x, self.y, num_chains, jacobian=self.temperature == 1.0)
            self._evaluate: Density = self._tempered(replicas, stack_of(replicas))
            self.constant += log_joint.log_prior_constant
        else:
            self._evaluate = self._of_log_joint

    def __call__(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Values (R,) and gradients (R, P), detached, at u (R, P)."""
        return self._evaluate(u)

    def nats(self, values: torch.Tensor) -> torch.Tensor:
        """Values as log-densities in nats and the data's own units, float64; at T = 1 log-joints with the log-Jacobian."""
        return values.double() + self.constant / self.temperature

    def _tempered(self, replicas: Replicas, stack: Stack | None) -> Density:
        layout, cold = self.log_joint.layout, self.temperature
        bent = any(s.transform is not None for s in layout.in_order)

        def evaluate(u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            losses, gradient = _of_rows(replicas, u) if stack is None else stack(u)
            with torch.no_grad():
                replicas.add_slopes(gradient, u, kinks=True)
                values = losses + replicas.energies(u)
            if cold == 1.0:
                return -values, gradient.neg_()
            values, gradient = values / -cold, gradient / -cold
            if bent:
                more, slopes = _with_gradient(torch.vmap(layout.log_jacobian), u)
                values, gradient = values + more, gradient + slopes
            return values, gradient

        return evaluate

    def _of_log_joint(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        log_joint, x, y = self.log_joint, self.x, self.y

        def one(v: torch.Tensor) -> torch.Tensor:
            joint = log_joint.prepared(v, x, y, self.num_data)
            return joint / self.temperature + log_joint.layout.log_jacobian(v)

        return _with_gradient(together(log_joint.model.behaviour, one, (0,)), u)


def _of_rows(replicas: Replicas, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Minus the log-likelihoods (R,), and their gradient (R, P)."""
    leaves = replicas.leaves(u)
    losses = replicas.losses(leaves)
    slopes = torch.autograd.grad(losses.sum(), list(leaves.values()), materialize_grads=True)
    gradient = torch.empty_like(u)
    for name, slope in zip(leaves, slopes, strict=True):
        gradient[:, replicas.log_joint.layout.segments[name].slice] = slope.flatten(1)
    return losses.detach(), gradient


def _with_gradient(f: Callable[[torch.Tensor], torch.Tensor], u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Values of R independent functions, (R,), and their gradients, (R, P), detached."""
    u = u.detach().requires_grad_()
    values = f(u)
    (gradient,) = torch.autograd.grad(values.sum(), u)
    return values.detach(), gradient
