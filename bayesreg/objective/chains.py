"""The density that Markov chains walk on, with its gradient, for R chains at once.

    log π_r(u_r) = (log p(y | x, θ(u_r)) + log p(θ(u_r)))/T + log |dθ/du|,   r = 1 … R;  T = 1 is the posterior.

A multilayer perceptron goes through a backward pass of its own, `stack.Stack`: three batched products a layer. Any other
network that can be fitted many times at once goes through `Replicas`, any other model through its log-joint, vmapped or in
a loop. All give the same numbers, to rounding.
"""

from __future__ import annotations

import abc
from collections.abc import Callable

import torch

from bayesreg import _check
from bayesreg.behaviour import BATCH_STATISTICS, together
from bayesreg.data.rows import Data
from bayesreg.objective.batched import Replicas, is_replicable
from bayesreg.objective.flat import LogJoint
from bayesreg.objective.stack import stack_of
from bayesreg.objective.whole import of_rows

Map = Callable[[torch.Tensor], torch.Tensor]
Density = Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


class AbstractChains(abc.ABC):
    """log π and its gradient for R chains, up to a constant: what samplers walk on.

    Attributes:
        log_joint: The objective that is evaluated.
        num_chains: R.
        num_data: N.
        size: P.
        temperature: T.
        constant: What the value lacks of the log-joint in nats and the data's own units.
        x: Prepared inputs of training rows: all of them, or some of a loader's.
        by_rows: Whether batch normalisation takes the statistics of the rows that are evaluated.
        share: B/N, the part of the rows that an evaluation sees.
        traceable: Whether an evaluation is a fixed sequence of tensor operations.
    """

    x: torch.Tensor
    share: float = 1.0
    traceable: bool = True

    def __init__(self, log_joint: LogJoint, data: Data, num_chains: int, temperature: float) -> None:
        self.temperature = _check.positive("temperature", temperature)
        self.num_chains, self.num_data, self.size = num_chains, data.num_data, log_joint.layout.size
        self.by_rows = not log_joint.model.behaviour.why_not(BATCH_STATISTICS)
        self.log_joint = of_rows(log_joint) if self.by_rows else log_joint
        self.constant = data.num_data * log_joint.model.log_jacobian
        self._replicas: Replicas | None = None

    @abc.abstractmethod
    def __call__(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Values (R,) and gradients (R, P), detached, at u (R, P)."""

    def again(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The same at another point, on the rows that were drawn last."""
        return self(u)

    def nats(self, values: torch.Tensor) -> torch.Tensor:
        """Values as log-densities in nats and the data's own units, float64; at T = 1 log-joints with the log-Jacobian."""
        return values.double() + self.constant / self.temperature

    def _stacked(self, x: torch.Tensor, y: torch.Tensor, *, own_rows: bool = False) -> None:
        """Evaluate all chains side by side on these rows, which lacks the constant of the priors."""
        sharp = self.temperature == 1.0
        self._replicas = Replicas([self.log_joint], x, y, self.num_chains, own_rows=own_rows, jacobian=sharp)
        self._stack = stack_of(self._replicas)
        self.constant += self.log_joint.log_prior_constant

    def _of_log_joint(
        self, u: torch.Tensor, x: torch.Tensor, y: torch.Tensor, rows: int | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Values and gradients, whatever the model; `rows` is 0 where each chain has rows of its own."""
        log_joint = self.log_joint

        def one(v: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            joint = log_joint.prepared(v, x, y, self.num_data)
            return joint / self.temperature + log_joint.layout.log_jacobian(v)

        each = together(log_joint.model.behaviour, one, (0, rows, rows))
        return _with_gradient(lambda v: each(v, x, y), u)


class Chains(AbstractChains):
    """log π and its gradient for R chains on all rows, up to a constant.

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
        super().__init__(log_joint, data, num_chains, temperature)
        self.x, self.y = data.full("a sampler that sees all rows at each step")
        if not self.by_rows and is_replicable(log_joint):
            self._stacked(self.x, self.y)

    def __call__(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Values (R,) and gradients (R, P), detached, at u (R, P)."""
        if self._replicas is None:
            return self._of_log_joint(u, self.x, self.y)
        losses, gradient = _of_rows(self._replicas, u) if self._stack is None else self._stack(u)
        return _penalised(self._replicas, u, losses, gradient, self.temperature)


class MappedChains(AbstractChains):
    """The same density in other coordinates z, u = m + F z, up to the constant log |det F|.

    Args:
        inner: The density of u.
        forth: From z (R, Q) to u (R, P).
        back: Rows (R, P) times F, (R, Q).
    """

    def __init__(self, inner: AbstractChains, forth: Map, back: Map) -> None:
        vars(self).update(vars(inner))  # all that is to be known of it is the same
        self._inner, self._forth, self._back = inner, forth, back

    def __call__(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Values (R,) and gradients (R, Q), detached, at z (R, Q)."""
        value, gradient = self._inner(self._forth(u))
        return value, self._back(gradient)


class ChainsOfBatches(AbstractChains):
    """The same on a batch of rows at each call, which stands for all N: unbiased in value and gradient.

    Each chain has a batch of its own, so that chains stay independent: B rows drawn with replacement from torch's global
    generator, or the next batch of a loader, R of them a call. Batch normalisation takes the statistics of the batch.

    Args:
        log_joint: The objective.
        data: The rows.
        num_chains: R.
        batch_size: B; None for the batches of a loader, of which short ones are left out.
        temperature: T > 0.

    Attributes:
        last: Inputs and targets of the last batches, (R, B, ...) each; None before the first.

    Raises:
        ValueError: If the temperature is not > 0, or a network with batch normalisation meets a loader.
    """

    def __init__(
        self, log_joint: LogJoint, data: Data, num_chains: int, batch_size: int | None, *, temperature: float = 1.0
    ) -> None:
        super().__init__(log_joint, data, num_chains, temperature)
        self._rows = None if data.x is None or data.y is None else (data.x, data.y)
        if self._rows is None:
            if self.by_rows:
                raise ValueError(
                    "each draw of a network with batch normalisation takes the statistics of all rows, but a DataLoader came; "
                    "pass X and y as arrays."
                )
            self._batches = data.batches(None, torch.Generator())
            x, y = next(self._batches)
            self.traceable = False
        else:
            x, y = self._rows
        self.x, self.batch_size = x, len(x) if batch_size is None else batch_size
        self.share = self.batch_size / data.num_data
        self.last: tuple[torch.Tensor, torch.Tensor] | None = None
        if not self.by_rows and is_replicable(log_joint):
            wide = (x.expand(num_chains, *x.shape), y.expand(num_chains, *y.shape))
            self._stacked(*wide, own_rows=True)

    def __call__(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Values (R,) and gradients (R, P), detached, at u (R, P), on fresh batches."""
        self.last = self._drawn()
        return self.again(u)

    def again(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The same on the batches that were drawn last."""
        x, y = self.last or self._drawn()
        if self._replicas is None:
            return self._of_log_joint(u, x, y, 0)
        rows = self._replicas.at(x, y)
        losses, gradient = _of_rows(rows, u) if self._stack is None else self._stack.over(rows)(u)
        return _penalised(rows, u, losses / self.share, gradient / self.share, self.temperature)

    def _drawn(self) -> tuple[torch.Tensor, torch.Tensor]:
        """A batch of each chain, (R, B, ...) and (R, B, ...)."""
        if self._rows is not None:
            x, y = self._rows
            rows = torch.randint(len(x), (self.num_chains, self.batch_size), device=x.device)
            return x[rows], y[rows]
        found: list[tuple[torch.Tensor, torch.Tensor]] = []
        while len(found) < self.num_chains:
            x, y = next(self._batches)
            if len(x) == self.batch_size:
                found.append((x, y))
        x, y = (torch.stack(part) for part in zip(*found, strict=True))
        return x, y


def _penalised(
    replicas: Replicas, u: torch.Tensor, losses: torch.Tensor, gradient: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log π and its gradient, from minus the log-likelihoods (R,) and their gradient (R, P), which is changed."""
    with torch.no_grad():
        replicas.add_slopes(gradient, u, kinks=True)
        values = losses + replicas.energies(u)
    if temperature == 1.0:
        return -values, gradient.neg_()
    values, gradient = values / -temperature, gradient / -temperature
    layout = replicas.log_joint.layout
    if any(s.transform is not None for s in layout.in_order):
        more, slopes = _with_gradient(torch.vmap(layout.log_jacobian), u)
        values, gradient = values + more, gradient + slopes
    return values, gradient


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
