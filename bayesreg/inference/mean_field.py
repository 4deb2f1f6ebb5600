"""Mean-field variational inference: one mean and one sd for each unknown, the KL in closed form where there is one."""

from __future__ import annotations

import os
from typing import Any, ClassVar

import torch

from bayesreg.data.rows import Data
from bayesreg.inference.empirical_bayes import Evidence, checked_tune, tuned_guide
from bayesreg.inference.variational import AbstractGuided, one_draw_by_graph
from bayesreg.model.model import BayesianModel
from bayesreg.objective.flat import LogJoint
from bayesreg.objective.training_copy import TrainingCopy
from bayesreg.posteriors.guide import Guide
from bayesreg.posteriors.guides import MeanFieldGuide
from bayesreg.solvers.progress import ProgressCallback


class MeanField(AbstractGuided):
    """Bayes by backprop: maximise ELBO = E_q[log p(y | θ)] − KL(q ‖ p) over independent normals.

    On a linear-Gaussian model the optimum has the exact mean and sd² = 1/diag(precision): it is too narrow wherever the
    posterior is correlated, and has no correlations.

    Args:
        num_steps: Steps; 5,000, or 50 epochs of mini-batches, when None.
        learning_rate: Adam's first rate, falling to zero along a cosine; 0.01 when None.
        batch_size: Rows a step; when None all rows up to 10,000, or while rows × unknowns ≤ 10⁷, and 256 above. A loader
            brings its own batches.
        num_particles: Draws a step, averaged, in antithetic pairs; more draws, smaller Monte Carlo error.
        initial_scale: Standard deviation of every unknown at the start.
        compile: True to compile the whole step, optimizer included; False not to; "auto" where it pays: for 50,000 steps or
            more of a small model.
        checkpoint: A file where a running fit keeps its state, to continue from it to the same answer; as for `MAP`.
        checkpoint_every: Steps between two states, a hundredth of the fit at least; a twentieth when None.
        checkpoint_key: A text that names a loader's data, in place of reading it.
        tune: "evidence" to tune the scales of the priors, and a known noise scale, to the highest ELBO, as for
            `LaplaceApproximation`: shorter fits and updates of the scales take turns before the fit itself.

    Raises:
        ValueError: If an argument is out of its range.

    References:
        Graves (2011), Practical variational inference for neural networks. Blundell et al. (2015), Weight uncertainty in
        neural networks.
    """

    name: ClassVar[str] = "mean-field"
    when: ClassVar[str] = "Many weights and many rows, in mini-batches; an sd for each weight, without correlations."

    def __init__(
        self,
        num_steps: int | None = None,
        learning_rate: float | None = None,
        batch_size: int | None = None,
        num_particles: int = 1,
        initial_scale: float = 0.03,
        *,
        compile: bool | str = "auto",
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int | None = None,
        checkpoint_key: str | None = None,
        tune: str | Evidence | None = None,
    ) -> None:
        super().__init__(
            num_steps,
            learning_rate,
            batch_size,
            num_particles,
            initial_scale,
            compile,
            checkpoint,
            checkpoint_every,
            checkpoint_key,
        )
        self.tune = checked_tune(tune)
        if self.tune is not None and checkpoint is not None:
            raise ValueError("tune='evidence' makes several fits, of which a checkpoint keeps one; leave out one of the two.")

    def run(self, model: BayesianModel, data: Data, *, seed: int, report: ProgressCallback) -> Guide:
        """Fit; see `AbstractMethod.run`."""
        if self.tune is not None:
            return tuned_guide(self, model, data, self.tune, seed, report)
        return super().run(model, data, seed=seed, report=report)

    def guide(self, log_joint: LogJoint, loc: torch.Tensor, scale: torch.Tensor) -> MeanFieldGuide:
        """See `AbstractGuided.guide`."""
        return MeanFieldGuide(log_joint.layout, loc, scale)

    def one_draw_step(
        self, guide: Any, copy: TrainingCopy, log_joint: LogJoint, x: torch.Tensor, y: torch.Tensor
    ) -> torch.Tensor:
        """See `AbstractGuided.one_draw_step`; the guide's part in closed form where the priors allow."""
        return one_draw_step(guide, copy, log_joint, x, y)


def one_draw_step(
    guide: MeanFieldGuide, copy: TrainingCopy, log_joint: LogJoint, x: torch.Tensor, y: torch.Tensor
) -> torch.Tensor:
    """Minus the one-draw ELBO divided by N, detached; its gradient, that of `guide.elbo`, is added to `guide.phi.grad`.

    It costs less than `guide.elbo`. The draw is written into the buffer of `copy`, a training copy of the model, and the
    network's gradient is read from that copy; the guide's part is in closed form, or goes through a graph of a few operations.
    """
    if not log_joint.closed_divergence:
        return one_draw_by_graph(guide, copy, log_joint, x, y)
    phi, each = guide.phi.detach(), 1 / copy.num_data
    loc, log_scale = phi.chunk(2)
    scale, noise = log_scale.exp(), torch.randn_like(loc)
    torch.addcmul(loc, scale, noise, out=copy.flat.data)
    gradient: Any = copy.flat.grad
    gradient.zero_()
    loss = copy.likelihood_loss(x, y)
    loss.backward()
    with torch.no_grad():
        divergence = guide.divergence_at(guide.phi, log_joint, loc)  # no draw needed: every part is in closed form
        by_scale = gradient * noise
        for group in log_joint.groups:
            where = group.slice
            to_loc, to_scale = group.prior.expected_slopes(loc[where], scale[where])
            gradient[where].add_(to_loc, alpha=each)
            by_scale[where].add_(to_scale, alpha=each)
        for s in log_joint.layout.in_order:
            if s.transform is not None:  # the log-Jacobian of exp
                gradient[s.slice].sub_(each)
        into_loc, into_scale = guide.phi.grad.chunk(2)  # pyright: ignore[reportOptionalMemberAccess]
        into_loc.add_(gradient)
        into_scale.add_(by_scale.mul_(scale).sub_(each))  # the entropy contributes −1/N
        return loss.detach() + divergence * each
