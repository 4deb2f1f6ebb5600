"""One log-joint with the face of `Replicas`, R = 1: for models that many fits at once refuse, and for rows in blocks."""

from __future__ import annotations

import torch

from bayesreg.data.rows import Data
from bayesreg.objective.curvature import full_hessian
from bayesreg.objective.flat import LogJoint
from bayesreg.objective.groups import ReplicaGroup
from bayesreg.objective.whole import gradient_of


class Alone:
    """What the last steps to a mode ask of an objective, as `Replicas` answer it.

    Args:
        log_joint: The objective, best in float64.
        data: The rows.
        jacobian: Follow the density of the unconstrained vector.
    """

    def __init__(self, log_joint: LogJoint, data: Data, *, jacobian: bool = False) -> None:
        self.log_joint, self.data, self.jacobian = log_joint, data, jacobian
        self.num_data = log_joint.model.like.new_tensor([float(data.num_data)])
        self.nonsmooth = [ReplicaGroup((group,), {}) for group in log_joint.nonsmooth]

    def part(self, rows: torch.Tensor) -> Alone:
        """Itself: there are no others."""
        return self

    @torch.no_grad()
    def parts(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Replicas.parts`."""
        penalty = self._penalty(u)
        return self._loss(u) - penalty, penalty

    def gradient(self, u: torch.Tensor, *, kinks: bool) -> torch.Tensor:
        """See `Replicas.gradient`."""
        u = u.detach().requires_grad_()
        total = self._loss(u) if kinks else self._loss(u) - self._penalty(u)
        return torch.autograd.grad(total.sum(), u)[0]

    def falling(self, u: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See `Replicas.falling`; in blocks of rows."""
        value, gradient = gradient_of(self.log_joint, u[0], self.data, jacobian=self.jacobian)
        return torch.tensor([-value], dtype=torch.float64, device=u.device), -gradient[None]

    def hessians(self, u: torch.Tensor) -> torch.Tensor:
        """See `Replicas.hessians`; in blocks of rows."""
        return full_hessian(self.log_joint, u[0], self.data, jacobian=self.jacobian)[None]

    def _loss(self, u: torch.Tensor) -> torch.Tensor:
        x, y = self.data.full("a proximal search")
        return -self.log_joint.prepared(u[0], x, y, self.data.num_data, jacobian=self.jacobian)[None]

    def _penalty(self, u: torch.Tensor) -> torch.Tensor:
        return sum((group.energy(u[:, group.first.slice]) for group in self.nonsmooth), u.new_zeros(1))
