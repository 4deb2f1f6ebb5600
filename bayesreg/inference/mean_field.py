"""Mean-field variational inference: one mean and one sd for each unknown, the KL in closed form where there is one."""

from __future__ import annotations

import time
from typing import ClassVar

import torch

from bayesreg import _check
from bayesreg.data import Data
from bayesreg.flat import LogJoint
from bayesreg.guides import MeanFieldGuide
from bayesreg.inference.base import AbstractMethod, Report
from bayesreg.inference.training import TrainingCopy, adam, resolve_batch
from bayesreg.model import BayesianModel
from bayesreg.posterior import Certificate, FitRecord, Guide, History


class MeanField(AbstractMethod):
    """Bayes by backprop: maximise ELBO = E_q[log p(y | θ)] − KL(q ‖ p) over independent normals.

    On a linear-Gaussian model the optimum has the exact mean and sd² = 1/diag(precision): it is too narrow wherever the
    posterior is correlated, and says nothing about directions.

    Args:
        num_steps: Steps; 5,000, or 50 epochs of mini-batches, when None.
        learning_rate: Adam's first rate, falling to zero along a cosine; 0.01 when None.
        batch_size: Rows a step; all rows up to 10,000 when None, then 256. A loader brings its own batches.
        num_particles: Draws a step, averaged, in antithetic pairs; more draws, less noise in the answer.
        initial_scale: Standard deviation of every unknown at the start.

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
    ) -> None:
        self.num_steps = None if num_steps is None else _check.count("num_steps", num_steps)
        self.learning_rate = None if learning_rate is None else _check.positive("learning_rate", learning_rate)
        self.batch_size = None if batch_size is None else _check.count("batch_size", batch_size)
        self.num_particles = _check.count("num_particles", num_particles)
        self.initial_scale = _check.positive("initial_scale", initial_scale)

    def run(self, model: BayesianModel, data: Data, *, seed: int, report: Report) -> Guide:
        """Fit; see `AbstractMethod.run`."""
        started = time.perf_counter()
        log_joint = LogJoint(model)
        history = History("elbo")
        improper = [name for name, latent in model.latents.items() if not latent.prior.proper]
        if improper:
            history.notes.append(f"flat prior on {', '.join(improper)}: the ELBO is defined up to a constant.")
        if not model.is_deterministic:
            history.notes.append("batch normalisation and dropout stand in evaluation mode; running statistics stay.")
        start = log_joint.layout.flatten(model.start(*next(data.epoch())))
        guide = MeanFieldGuide(log_joint.layout, start, torch.full_like(start, self.initial_scale))
        guide.phi.grad = torch.zeros_like(guide.phi)
        batch_size = resolve_batch(self.batch_size, data)
        batches = data.batches(batch_size, torch.Generator().manual_seed(torch.initial_seed()))
        epochs = 50 * data.num_data // batch_size if batch_size else 0
        num_data, constant = data.num_data, data.num_data * model.log_jacobian
        history.notes.append(f"adam: {self.num_particles} draw(s) a step, {batch_size or 'all'} rows.")

        copy = TrainingCopy(log_joint, start, num_data, training=False)
        one_draw = self.num_particles == 1 and copy.in_place

        def backward() -> torch.Tensor:
            batch = next(batches)
            if one_draw:
                return one_draw_step(guide, copy, log_joint, *batch)
            loss = guide.elbo(log_joint, *batch, num_data, self.num_particles) * (-1 / num_data)
            loss.backward()
            return loss.detach()

        losses = adam(
            guide.phi,
            backward,
            num_steps=self.num_steps or max(5000, epochs),
            learning_rate=self.learning_rate or 0.01,
            report=report,
            history=history,
            objective=lambda loss: constant - num_data * float(loss),
        )
        certificate = certify(constant - num_data * losses)
        record = FitRecord(self.name, seed, history, certificate, time.perf_counter() - started)
        return Guide(model, record, guide.requires_grad_(False))


def one_draw_step(
    guide: MeanFieldGuide, copy: TrainingCopy, log_joint: LogJoint, x: torch.Tensor, y: torch.Tensor
) -> torch.Tensor:
    """The gradient of minus the one-draw ELBO divided by N, as `guide.elbo` gives it, at less cost.

    The draw is written into the training copy's buffer, the network's gradient is read out of its own, and only the
    few operations of the guide go through a graph.

    Args:
        guide: Whose `phi.grad` is added to.
        copy: A training copy of the same model.
        log_joint: The model's flat log-joint.
        x: Prepared inputs (B, ...).
        y: Prepared targets.

    Returns:
        Minus the ELBO estimate divided by N, a detached scalar.
    """
    loc, log_scale = guide.phi.chunk(2)
    scale = log_scale.exp()
    u = torch.addcmul(loc, scale, torch.randn_like(loc))
    copy.flat.data.copy_(u.detach())
    gradient = copy.flat.grad
    gradient.zero_()  # pyright: ignore[reportOptionalMemberAccess]
    loss = copy.likelihood_loss(x, y)
    loss.backward()
    divergence = guide.divergence(log_joint, loc, scale, log_scale, u) * (1 / copy.num_data)
    torch.autograd.backward((u, divergence), (gradient, None))  # pyright: ignore[reportArgumentType]
    return loss.detach() + divergence.detach()


def certify(elbos: torch.Tensor) -> Certificate:
    """Whether the ELBO has stopped rising: its mean over the last tenth of the steps against steps 70–80 %.

    Args:
        elbos: One estimate a step, in nats, (num_steps,).

    Returns:
        The certificate; passed when the rise is below 1 nat or below 2.5 Monte Carlo standard errors.
    """
    tenth = len(elbos) // 10
    if tenth < 10:
        return Certificate(False, f"Not converged: {len(elbos)} steps are too few to tell; raise num_steps to 1,000 or more.")
    early, late = (elbos[start : start + tenth].double() for start in (7 * tenth, len(elbos) - tenth))
    rise = float(late.mean() - early.mean())
    error = float(((late.var() + early.var()) / tenth).sqrt())
    details: dict[str, float | str] = {"elbo": float(late.mean()), "rise": rise, "Monte Carlo error": error}
    if rise > max(1.0, 2.5 * error):
        return Certificate(
            False,
            f"Not converged: the ELBO still rose by {rise:.1f} nats (Monte Carlo error {error:.1f}) over the last fifth of the "
            "steps; raise num_steps.",
            details,
        )
    return Certificate(
        True,
        f"Converged: the ELBO changed by {rise:+.1f} nats (Monte Carlo error {error:.1f}) over the last fifth.",
        details,
    )
