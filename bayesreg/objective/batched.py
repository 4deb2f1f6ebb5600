"""R fits of one model at once: their log-joints on a stacked vector (R, P), with priors, rows and starts of their own.

    F_r(u_r) = −Σᵢ w_ri log p(y_ri | f(x_ri; u_r)) − log p_r(u_r),   r = 1 … R

The replicas are independent, so that one ordinary backward pass through Σ_r F_r gives every gradient. That costs less than a
`vmap` of gradients: what is small (a network's layers) becomes one batched product, what is elementwise one operation.

Batch normalisation has running statistics of each fit: a training step writes them, everything else reads them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import nn

from bayesreg.behaviour import FORWARD, MANY_FITS, ROW_WEIGHTS, VMAP, hessian, together
from bayesreg.behaviour.stacked import normalised, stacks
from bayesreg.layers import MLP, in_sequence
from bayesreg.model.model import BayesianModel
from bayesreg.objective.batched_buffers import ReplicaBuffers
from bayesreg.objective.flat import LogJoint
from bayesreg.objective.groups import ReplicaGroup, stacked

HESSIAN_ENTRIES = 2**24  # of what is differentiated at once
ELEMENTWISE = (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.ELU, nn.LeakyReLU, nn.Softplus, nn.Softsign, nn.Identity)


class Replicas:
    """R log-joints of one shape, evaluated together.

    Args:
        log_joints: One for all replicas, or R; their models may differ in their priors' numbers, their data and batch
            normalisation's statistics alone.
        x: Prepared inputs, (N, ...) shared or (R, N, ...).
        y: Prepared targets, (N,), (N, K) shared or with a leading R.
        num_replicas: R.
        weights: How often each row counts, (R, N), >= 0; once when None.
        own_rows: Whether x and y have a leading R.
        jacobian: Follow the density of the unconstrained vector.

    Attributes:
        buffers: Batch normalisation's statistics, of each replica its own: at first those of its model. `losses`, `loss_sum`
            and `backward` with `training=True` write them, nothing else does.

    Raises:
        ValueError: If the model is none that can be fitted many times at once, or rows have weights where there is batch
            normalisation.
    """

    def __init__(
        self,
        log_joints: Sequence[LogJoint],
        x: torch.Tensor,
        y: torch.Tensor,
        num_replicas: int,
        *,
        weights: torch.Tensor | None = None,
        own_rows: bool = False,
        jacobian: bool = False,
    ) -> None:
        self.log_joint, self.x, self.y = log_joints[0], x, y
        self.num_replicas, self.own_rows, self.jacobian = num_replicas, own_rows, jacobian
        check_replicable(self.log_joint)
        self.normalised = bool(self.model.behaviour.normalising)
        if weights is not None and (why := self.model.behaviour.why_not(ROW_WEIGHTS)):
            raise ValueError(f"each row must count once, but weights came, as bootstrap refits have them, and {why}.")
        self.buffers = ReplicaBuffers([j.model.module for j in log_joints] if self.normalised else [], num_replicas)
        self.num_rows = x.shape[1] if own_rows else len(x)
        like = self.model.like
        self.weights = None if weights is None else weights.to(like)
        total = like.new_full((num_replicas,), self.num_rows) if self.weights is None else self.weights.sum(1)
        self.num_data = total.to(like)
        self.groups = [stacked(tuple(groups), like) for groups in zip(*(j.groups for j in log_joints), strict=True)]
        self.nonsmooth = [group for group in self.groups if group.first.nonsmooth]
        each = [(j.log_prior_constant, j.model.log_jacobian) for j in log_joints]
        each = each * num_replicas if len(each) == 1 else each
        constants = torch.tensor(each, dtype=torch.float64, device=like.device)
        self.log_prior_constant, self.log_jacobian = constants.unbind(1)
        self.layers = plain_layers(self.model, x.dim() - own_rows)
        self.line = None if self.layers is None else line_beside(self.model)
        dims = 0 if own_rows else None
        axes = (0, dims, dims, None if weights is None else 0)
        self._terms = torch.vmap(self._terms_of_output, in_dims=(0, 0, *axes[2:]))
        self._outputs = self._vmapped(None)

    @property
    def model(self) -> BayesianModel:
        """The first replica's model, which stands for the forward map and the likelihood of all."""
        return self.log_joint.model

    def _vmapped(self, module: nn.Module | None) -> Callable[..., torch.Tensor]:
        """The outputs of all replicas as a function of values, inputs and buffers, whatever the network."""

        def one(values: Any, x: torch.Tensor, buffers: Any) -> torch.Tensor:
            return self.model.forward(values, x, module, buffers)

        return together(self.model.behaviour, one, (0, 0 if self.own_rows else None, self.buffers.axes))

    @cached_property
    def _trained_outputs(self) -> Callable[..., torch.Tensor]:
        """The same in training mode; each tensor that is written there is one of `buffers`."""
        return self._vmapped(self.model.behaviour.training_copy())

    def double(self) -> Replicas:
        """The same problems in float64."""
        if self.model.like.dtype == torch.float64:
            return self
        log_joint = LogJoint(self.model.to(dtype=torch.float64))
        return self._changed(log_joint, slice(None), torch.float64)

    def part(self, rows: slice | torch.Tensor) -> Replicas:
        """Some of the replicas."""
        return self._changed(self.log_joint, rows, self.model.like.dtype)

    def _changed(self, log_joint: LogJoint, rows: Any, dtype: torch.dtype) -> Replicas:
        def cast(values: torch.Tensor) -> torch.Tensor:
            return values.to(dtype) if values.is_floating_point() else values

        count = len(range(self.num_replicas)[rows] if isinstance(rows, slice) else rows)
        x, y = (cast(v[rows] if self.own_rows else v) for v in (self.x, self.y))
        weights = None if self.weights is None else self.weights[rows]
        options: Any = {"weights": weights, "own_rows": self.own_rows, "jacobian": self.jacobian}
        made = Replicas([log_joint], x, y, count, **options)
        own = [g.groups[rows] if isinstance(rows, slice) and len(g.groups) > 1 else g.groups for g in self.groups]
        if not isinstance(rows, slice):
            own = [tuple(g.groups[int(r)] for r in rows) if len(g.groups) > 1 else g.groups for g in self.groups]
        made.groups = [
            ReplicaGroup(groups, {k: v[rows].to(dtype) for k, v in g.fields.items()})
            for groups, g in zip(own, self.groups, strict=True)
        ]
        made.nonsmooth = [group for group in made.groups if group.first.nonsmooth]
        made.buffers = self.buffers.part(rows, dtype)
        made.log_prior_constant, made.log_jacobian = self.log_prior_constant[rows], self.log_jacobian[rows]
        return made

    def of_density(self) -> Replicas:
        """The same problems with the log-Jacobian in the objective."""
        made = copy.copy(self)
        made.jacobian, made.buffers = True, self.buffers.part(slice(None), self.model.like.dtype)
        return made

    def at(self, x: torch.Tensor, y: torch.Tensor) -> Replicas:
        """The same problems on other rows, each replica's own, (R, B, ...); the likelihood's part is that of these rows."""
        made = copy.copy(self)
        made.x, made.y, made.num_rows = x, y, x.shape[1]
        return made

    def leaves(self, u: torch.Tensor) -> dict[str, torch.Tensor]:
        """Views of (R, P), one an unknown, (R, *shape), unconstrained and ready to be differentiated."""
        segments = self.log_joint.layout.segments
        u = u.detach()
        return {name: u[:, s.slice].unflatten(1, s.latent.shape or (1,)).requires_grad_() for name, s in segments.items()}

    def losses(
        self, leaves: dict[str, torch.Tensor], rows: torch.Tensor | None = None, *, training: bool = False
    ) -> torch.Tensor:
        """−Σᵢ w_ri log p(y_ri | f) of each replica over all rows or a batch of them, in nats, (R,), with gradient.

        Args:
            leaves: As `leaves` gives them.
            rows: Numbers of the batch's rows; all when None.
            training: Whether it is a training step: batch normalisation works on the batch, and writes `buffers`.

        Returns:
            (R,), a batch scaled by N/B.
        """
        x, y, weights = self._batch(rows)
        values = self.constrained(leaves)
        noise = {name: values[name] for name in self.model.likelihood.latents}
        found = self._terms(self._output(values, x, training), noise, y, weights)
        return found if rows is None else found * (self.num_rows / len(rows))

    def loss_sum(
        self, leaves: dict[str, torch.Tensor], rows: torch.Tensor | None = None, *, training: bool = False
    ) -> torch.Tensor:
        """The sum of `losses`, a scalar; where all replicas have one noise, their rows are one batch of R · B."""
        if self.weights is not None or self.model.likelihood.latents:
            return self.losses(leaves, rows, training=training).sum()
        x, y, _ = self._batch(rows)
        output = self._output(self.constrained(leaves), x, training).flatten(0, 1)
        y = y if self.own_rows else y.expand(self.num_replicas, *y.shape)
        found = -self.model.likelihood.log_prob_sum(output, y.flatten(0, 1), **self.model.noise({}))
        return found if rows is None else found * (self.num_rows / len(rows))

    def _batch(self, rows: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Inputs, targets and weights of a batch."""
        x, y, weights = self.x, self.y, self.weights
        if rows is None:
            return x, y, weights
        x, y = (v[:, rows] if self.own_rows else v[rows] for v in (x, y))
        return x, y, None if weights is None else weights[:, rows]

    def _output(self, values: dict[str, torch.Tensor], x: torch.Tensor, training: bool = False) -> torch.Tensor:
        """(R, B) or (R, B, K)."""
        if self.layers is not None:
            return self._forward(values, x, training)
        outputs = self._trained_outputs if training and self.normalised else self._outputs
        return outputs(values, x, self.buffers.values)

    def constrained(self, leaves: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Values by name, (R, *shape), in constrained space."""
        found = {}
        for name, s in self.log_joint.layout.segments.items():
            value = leaves[name] if s.transform is None else s.transform(leaves[name])
            found[name] = value if s.latent.shape else value[:, 0]
        return found

    def terms(self, output: torch.Tensor, noise: dict[str, torch.Tensor]) -> torch.Tensor:
        """Minus the log-likelihoods over all rows, (R,), from all outputs and the noise's values in constrained space."""
        return self._terms(output, noise, self.y, self.weights)

    def _terms_of_output(self, output: torch.Tensor, noise: Any, y: torch.Tensor, weights: Any) -> torch.Tensor:
        """Minus the log-likelihood of one replica from its output, a scalar."""
        known = self.model.noise(noise)
        likelihood = self.model.likelihood
        if weights is None:
            return -likelihood.log_prob_sum(output, y, **known)
        return -(likelihood.log_prob(output, y, **known) @ weights)

    def _forward(self, values: dict[str, torch.Tensor], x: torch.Tensor, training: bool) -> torch.Tensor:
        """A network of linear and elementwise layers as batched products; `vmap` would not fuse the bias."""
        known: dict[str, Any] = {**self.model.constants, **values}

        def tensor(name: str, dim: int) -> torch.Tensor:
            return _expanded(known[self.model.places[name]], self.num_replicas, dim)

        fresh = False
        x = x if self.own_rows else x.expand(self.num_replicas, *x.shape)
        beside = None if self.line is None else torch.bmm(x, tensor(f"{self.line}weight", 3).mT)
        for place, layer in self.layers or []:
            if isinstance(layer, nn.Linear):
                weight = tensor(f"{place}weight", 3)
                if layer.bias is None:
                    x = torch.bmm(x, weight.mT)
                else:
                    x = torch.baddbmm(tensor(f"{place}bias", 2)[:, None], x, weight.mT)
            elif stacks(layer):
                own: Any = layer
                affine = (tensor(f"{place}weight", 2), tensor(f"{place}bias", 2)) if own.affine else None
                x = normalised(own, x, affine, self.buffers.values, place, training=training)
            else:  # nobody else reads what a product has just written
                x = torch.relu_(x) if fresh and type(layer) is nn.ReLU else layer(x)
            fresh = isinstance(layer, nn.Linear)
        x = x if beside is None else x + beside
        return x[..., 0] if x.shape[-1] == 1 else x

    def outputs(self, u: torch.Tensor) -> torch.Tensor:
        """The network's output in every row, (R, N) or (R, N, K), detached."""
        with torch.no_grad():
            return self._output(self.constrained(self.leaves(u)), self.x)

    def row_log_prob(self, u: torch.Tensor) -> torch.Tensor:
        """Log-density of each row's target in the data's own units, (R, N), detached."""
        output = self.outputs(u)
        with torch.no_grad():
            values = self.constrained(self.leaves(u))
            noise = {name: values[name] for name in self.model.likelihood.latents}

            def one(output: torch.Tensor, noise: Any, y: torch.Tensor) -> torch.Tensor:
                return self.model.likelihood.log_prob(output, y, **self.model.noise(noise))

            found = torch.vmap(one, in_dims=(0, 0, 0 if self.own_rows else None))(output, noise, self.y)
        return found + self.log_jacobian.to(found)[:, None]

    def gradient(self, u: torch.Tensor, *, kinks: bool = True) -> torch.Tensor:
        """The gradient of F, (R, P), detached; `kinks` says whether penalties with a kink are in it."""
        found = torch.empty_like(u)
        leaves = self.leaves(u)
        self.backward(leaves, self.leaves(found))
        self.add_slopes(found, u, kinks=kinks)
        return found

    def backward(
        self,
        leaves: dict[str, torch.Tensor],
        into: dict[str, torch.Tensor],
        rows: torch.Tensor | None = None,
        *,
        training: bool = False,
    ) -> torch.Tensor:
        """Write the gradient of the likelihood's part of F, a batch scaled by N/B.

        Args:
            leaves: Views of u, as `leaves` gives them.
            into: Such views of where the gradient goes.
            rows: The batch; all rows when None.
            training: As for `losses`.

        Returns:
            `loss_sum`, detached.
        """
        total = self.loss_sum(leaves, rows, training=training)
        slopes = torch.autograd.grad(total, list(leaves.values()), materialize_grads=True)
        with torch.no_grad():
            torch._foreach_copy_(list(into.values()), slopes)  # pyright: ignore[reportPrivateImportUsage]
        return total.detach()

    def add_slopes(self, gradient: torch.Tensor, u: torch.Tensor, *, kinks: bool) -> None:
        """Add the gradient of the penalties, (R, P), to one of the likelihood's part."""
        for group in self.groups:
            if kinks or not group.first.nonsmooth:
                part = group.first.slice
                gradient[:, part].add_(group.slope(u[:, part], self.jacobian))

    def energies(self, u: torch.Tensor, *, kinks: bool | None = None) -> torch.Tensor:
        """The penalties in nats, (R,): all, those with a kink (True) or those without (False); log-Jacobian off if asked."""
        total = u.new_zeros(len(u))
        for group in self.groups:
            if kinks is None or group.first.nonsmooth == kinks:
                total = total + group.energy(u[:, group.first.slice])
        if self.jacobian and not kinks:
            total = total - torch.vmap(self.log_joint.layout.log_jacobian)(u)
        return total

    def objectives(self, u: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
        """The log-joints in nats, summed over each replica's rows, in the data's own units, (R,), float64.

        Of a batch it is an estimate.
        """
        with torch.no_grad():
            found = -(self.losses(self.leaves(u), rows) + self.energies(u)).double()
        return found + self.log_prior_constant + self.num_data.double() * self.log_jacobian

    @torch.no_grad()
    def parts(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """F in two parts, (R,) and (R,): what is smooth, and the penalties with a kink."""
        return self.losses(self.leaves(u)) + self.energies(u, kinks=False), self.energies(u, kinks=True)

    def falling(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Minus the log-joints, (R,) float64, and their gradient, (R, P)."""
        return -self.objectives(u), self.gradient(u)

    def hessians(self, u: torch.Tensor) -> torch.Tensor:
        """∂²F/∂u∂uᵀ of each replica, (R, P, P); entries at a group's kink may be NaN."""
        layout, groups = self.log_joint.layout, self.groups

        def one(v: torch.Tensor, fields: list, x: torch.Tensor, y: torch.Tensor, weights: Any, buffers: Any) -> torch.Tensor:
            values = layout.unflatten(v)
            total = self._terms_of_output(self.model.forward(values, x, buffers=buffers), values, y, weights)
            for group, own in zip(groups, fields, strict=True):
                total = total + group.alone(own, v[group.first.slice])
            return total - layout.log_jacobian(v) if self.jacobian else total

        dims = 0 if self.own_rows else None
        axes = (0, 0, dims, dims, None if self.weights is None else 0, self.buffers.axes)
        stands, rest = self.model.behaviour, ([g.fields for g in groups], self.x, self.y, self.weights, self.buffers.values)
        if stands.stands(VMAP, FORWARD):
            chunk = max(1, HESSIAN_ENTRIES // (u.shape[1] * max(u.shape[1], self.num_rows)))
            found = torch.vmap(torch.func.hessian(one), in_dims=axes, chunk_size=chunk)(u.detach(), *rest)
        else:
            each = together(stands, lambda v, *own: hessian(stands, lambda w: one(w, *own), v), axes)
            found = each(u.detach(), *rest)
        return 0.5 * (found + found.mT).detach()


def check_replicable(log_joint: LogJoint) -> None:
    """Refuse a model that cannot be fitted many times at once.

    Args:
        log_joint: Its log-joint.

    Raises:
        ValueError: If its training step draws masks or is another one by the network's own code, an unknown's scale is unknown,
            or an output has a prior.
    """
    if obstacle := log_joint.model.behaviour.why_not(MANY_FITS) or _joined(log_joint):
        raise ValueError(
            f"many fits at once need a fixed network and priors with known scales, but {obstacle}; fit them one by one with "
            "bayesreg.fit."
        )


def is_replicable(log_joint: LogJoint) -> bool:
    """True where R log-joints can be evaluated at once, in evaluation mode, by `Replicas`."""
    return not log_joint.model.behaviour.why_not(MANY_FITS) and not _joined(log_joint)


def _joined(log_joint: LogJoint) -> str:
    """What keeps unknowns from being side by side, or an empty text."""
    model = log_joint.model
    if log_joint.linked or log_joint.layout.non_centered:
        return "a prior's scale is unknown or relative to an unknown noise"
    return f"the output of {model.outputs[0].name} has a prior" if model.outputs else ""


def _expanded(value: torch.Tensor, count: int, dim: int) -> torch.Tensor:
    """A tensor that is certain, once for each replica."""
    return value if value.dim() == dim else value.expand(count, *value.shape)


def line_beside(model: BayesianModel) -> str | None:
    """The prefix of the linear part that stands beside a perceptron's `plain_layers`; None where nothing does."""
    module: Any = model.module
    names = [name for name, child in module._modules.items() if type(module) is MLP and child is module.line]
    return f"{names[0]}." if names else None


def plain_layers(model: BayesianModel, row_dim: int) -> list[tuple[str, nn.Module]] | None:
    """The layers of a plain multilayer perceptron with the prefix of their names, or None for any other network.

    What is linear beside them (`line_beside`) is not among them.
    """
    line = line_beside(model)
    found: list[tuple[str, nn.Module]] = []

    def add(module: nn.Module, prefix: str) -> bool:
        if module._forward_hooks or module._forward_pre_hooks:
            return False
        if type(module) in (nn.Sequential, MLP) and (in_sequence(module) or module is model.module):
            inside = {f"{prefix}{name}.": child for name, child in module._modules.items() if child is not None}
            return all(add(child, name) for name, child in inside.items() if name != line)
        found.append((prefix, module))
        return type(module) in (nn.Linear, *ELEMENTWISE) or stacks(module)

    plain = row_dim == 2 and add(model.module, "") and any(isinstance(layer, nn.Linear) for _, layer in found)
    # a frozen parameter has no place among the unknowns, and neither has the second place of a layer that stands twice
    places = [f"{prefix}{leaf}" for prefix, layer in found for leaf, _ in layer.named_parameters(recurse=False)]
    places += [] if line is None else [f"{line}weight"]
    held = {name for name, _ in model.module.named_buffers()}
    buffers = [f"{prefix}{leaf}" for prefix, layer in found for leaf, _ in layer.named_buffers(recurse=False)]
    whole = all(place in model.places for place in places) and held.issuperset(buffers)
    return found if plain and whole else None
