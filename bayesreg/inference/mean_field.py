"""Mean-field variational inference: one mean and one sd for each unknown, the KL in closed form where there is one."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterator
from typing import Any, ClassVar

import torch

from bayesreg import _check
from bayesreg.certificates.certificate import Certificate
from bayesreg.certificates.elbo import rise
from bayesreg.certificates.mode import why_not_judged
from bayesreg.certificates.outcome import Finding
from bayesreg.data.rows import Data
from bayesreg.inference.base import AbstractVariational
from bayesreg.model.model import BayesianModel
from bayesreg.objective.flat import LogJoint
from bayesreg.objective.training_copy import TrainingCopy
from bayesreg.objective.whole import of_rows
from bayesreg.posteriors.guide import Guide
from bayesreg.posteriors.guides import MeanFieldGuide
from bayesreg.posteriors.record import FitRecord, stopped
from bayesreg.solvers.batches import resolve_batch
from bayesreg.solvers.compiled import CompiledAdam, make_stepper
from bayesreg.solvers.failures import FitError, rescuing
from bayesreg.solvers.history import History
from bayesreg.solvers.loop import readable, run
from bayesreg.solvers.progress import ProgressCallback
from bayesreg.solvers.stepper import checked_compile


class MeanField(AbstractVariational):
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
    ) -> None:
        super().__init__(num_steps, learning_rate, batch_size, checkpoint, checkpoint_every, checkpoint_key)
        self.num_particles = _check.count("num_particles", num_particles)
        self.initial_scale = _check.positive("initial_scale", initial_scale)
        self.compile = checked_compile(compile)

    def run(self, model: BayesianModel, data: Data, *, seed: int, report: ProgressCallback) -> Guide:
        """Fit; see `AbstractMethod.run`."""
        started = time.perf_counter()
        log_joint = LogJoint(model)
        history = History("elbo")
        history.notes.extend([*_of_priors(model), *_of_layers(model)])
        history.of_statistics.extend(_of_statistics(model))
        start = log_joint.layout.flatten(model.start(*next(data.epoch())))
        guide = MeanFieldGuide(log_joint.layout, start, torch.full_like(start, self.initial_scale))
        guide.phi.grad = torch.zeros_like(guide.phi)
        batch_size = resolve_batch(self.batch_size, data, log_joint)
        batches = data.batches(batch_size, torch.Generator().manual_seed(torch.initial_seed()))
        num_data, constant = data.num_data, data.num_data * model.log_jacobian
        history.notes.append(f"adam: {self.num_particles} draw(s) a step, {batch_size or 'all'} rows.")

        # a training step normalises by its batch, and its draw's statistics go into the running averages
        copy = TrainingCopy(log_joint, start, num_data, noise=False, rows_a_batch=data.rows_a_batch)
        one_draw, normalised = self.num_particles == 1 and not copy.flat_path, bool(model.behaviour.normalising)
        pure = of_rows(log_joint)

        def backward(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            if one_draw:
                return one_draw_step(guide, copy, log_joint, x, y)
            loss = negative_elbo(guide, pure, data, x, y, self.num_particles) * (1 / num_data)
            loss.backward()
            if normalised:  # of one draw: the pass of all draws writes no statistics
                with torch.no_grad():
                    model.forward(log_joint.layout.unflatten(guide.rsample()), x, copy.module)
            return loss.detach()

        def pure_loss(phi: torch.Tensor, x: torch.Tensor, y: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, Any]:
            stands_for = num_data * len(x) / data.rows_a_batch(x)
            loss = guide.elbo_at(phi, noise.view(self.num_particles, -1), log_joint, x, y, stands_for) * (-1 / num_data)
            return loss, loss

        schedule = self.schedule(data, batch_size)
        stepper = make_stepper(
            self.compile,
            guide.phi,
            backward,
            pure_loss,
            lambda: next(data.epoch(batch_size or num_data)),
            obstacle=CompiledAdam.requires(log_joint, data),
            num_steps=schedule.num_steps,
            notes=history.notes,
            noise_size=self.num_particles * len(start),
            num_data=num_data,
            buffers=list(copy.module.buffers()),
        )

        def rescued(failure: FitError) -> Guide:
            stepper.restore(failure.state)
            guide.phi.data.copy_(stepper.parameter.detach())
            record = stopped(self.name, seed, history, failure)
            return Guide(model.with_buffers(copy.module), record, guide.requires_grad_(False))

        with rescuing(rescued):
            losses = run(
                stepper,
                batches,
                schedule,
                layout=log_joint.layout,
                report=report,
                history=history,
                objective=lambda loss, phi: constant - num_data * float(loss),
                checkpoint=self.keep(log_joint, guide.phi.detach(), data, schedule, batch_size, seed),
            )
            guide.phi.data.copy_(stepper.parameter.detach())
            certificate = _judged(constant - num_data * losses, guide, pure, data, readable(batches, len(losses), stepper))
        certificate = _of_batches(certificate) if model.behaviour.coupling and batch_size is not None else certificate
        record = FitRecord(self.name, seed, history, certificate, time.perf_counter() - started)
        return Guide(model.with_buffers(copy.module), record, guide.requires_grad_(False))


def _judged(elbos: torch.Tensor, guide: MeanFieldGuide, log_joint: LogJoint, data: Data, batches: Iterator) -> Certificate:
    try:
        return certify(elbos, *nats_to_gain(guide, log_joint, data, batches), enough=0.01 * len(guide.phi))
    except Exception as error:  # a finished fit is never lost
        return dataclasses.replace(rise(elbos), finding=Finding.NOT_JUDGED, failure=why_not_judged(log_joint, error))


def _of_batches(found: Certificate) -> Certificate:
    return found if found.elbo is None else dataclasses.replace(found, elbo=dataclasses.replace(found.elbo, of_batches=True))


def _of_priors(model: BayesianModel) -> list[str]:
    improper = [name for name, latent in model.latents.items() if not latent.prior.proper]
    return [f"flat prior on {', '.join(improper)}: the ELBO is defined up to a constant."] if improper else []


def _of_statistics(model: BayesianModel) -> list[str]:
    """Which statistics of normalisation layers a prediction uses, in words."""
    if model.behaviour.coupling:
        return [
            "batch normalisation: each step's draw is normalised by its batch, as in training; predictions take the running "
            "averages over draws, one set for all; refresh_batchnorm(posterior, X) gives each draw its own."
        ]
    if model.behaviour.normalising:
        return [
            "instance normalisation: each step's draw is normalised row by row, as in training; predictions take the running "
            "averages over draws, one set for all."
        ]
    return []


def _of_layers(model: BayesianModel) -> list[str]:
    """How layers that differ in training are treated, one sentence each."""
    return ["dropout is in evaluation mode; method='mc-dropout' fits it."] if model.behaviour.draw else []


def one_draw_step(
    guide: MeanFieldGuide, copy: TrainingCopy, log_joint: LogJoint, x: torch.Tensor, y: torch.Tensor
) -> torch.Tensor:
    """Minus the one-draw ELBO divided by N, detached; its gradient, that of `guide.elbo`, is added to `guide.phi.grad`.

    It costs less than `guide.elbo`. The draw is written into the buffer of `copy`, a training copy of the model, and the
    network's gradient is read from that copy; the guide's part is in closed form, or goes through a graph of a few operations.
    """
    if not log_joint.closed_divergence:
        return _by_graph(guide, copy, log_joint, x, y)
    phi, each = guide.phi.detach(), 1 / copy.num_data
    loc, log_scale = phi.chunk(2)
    scale, noise = log_scale.exp(), torch.randn_like(loc)
    torch.addcmul(loc, scale, noise, out=copy.flat.data)
    gradient: Any = copy.flat.grad
    gradient.zero_()
    loss = copy.likelihood_loss(x, y)
    loss.backward()
    with torch.no_grad():
        divergence = guide.divergence(log_joint, loc, scale, log_scale, loc)  # no draw needed: every part is in closed form
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


def _by_graph(guide: MeanFieldGuide, copy: TrainingCopy, log_joint: LogJoint, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The same where autograd must differentiate the guide's part."""
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


def negative_elbo(
    guide: MeanFieldGuide, log_joint: LogJoint, data: Data, x: torch.Tensor, y: torch.Tensor, num_particles: int
) -> torch.Tensor:
    """Minus the ELBO estimated from one batch, a scalar with gradient, in nats, each row counting alike over an epoch."""
    stands_for = data.num_data * len(x) / data.rows_a_batch(x)
    return -guide.elbo(log_joint, x, y, stands_for, num_particles)  # pyright: ignore[reportArgumentType]


def nats_to_gain(
    guide: MeanFieldGuide, log_joint: LogJoint, data: Data, batches: Iterator, repeats: int = 30, num_particles: int = 8
) -> tuple[float, float]:
    """The gain in nats of a natural-gradient step, ½ gᵀF⁻¹g, which may be negative by chance, and its Monte Carlo error.

    F is the guide's Fisher information, 1/scale² for a mean and 2 for a log-sd. The gradient is a mean over repeats, each from
    `num_particles` draws; the square of its Monte Carlo error is subtracted.
    """
    gradients = []
    for _ in range(repeats):
        x, y = next(batches)
        loss = negative_elbo(guide, log_joint, data, x, y, num_particles)
        gradients.append(torch.autograd.grad(loss, guide.phi)[0])
    found = torch.stack(gradients).double()
    scale = guide.moments()[1].double()
    inverse = torch.cat([scale.square(), torch.full_like(scale, 0.5)])
    noise = found.var(0) / repeats * inverse
    gain = 0.5 * float((found.mean(0).square() * inverse - noise).sum())
    return gain, 0.5 * float((2 * noise.square()).sum().sqrt())


def certify(elbos: torch.Tensor, gain: float, gain_error: float, enough: float) -> Certificate:
    """Whether the ELBO is at its maximum: it has stopped rising, and its gradient vanishes within Monte Carlo error.

    It passes when the mean of `elbos` over the last tenth of the steps is above that over steps 70–80 % by less than 1 nat or
    2.5 standard errors, and the gain of a natural-gradient step is below `enough` nats plus 3 standard errors.
    """
    found = rise(elbos)
    if found.elbo is None or found.elbo.trend is None:  # too few steps to tell
        return found
    finding = found.finding
    if gain > enough + 3 * gain_error:
        finding = Finding.ELBO_SLOPE
    elif found.converged:
        finding = Finding.ELBO_MAXIMAL
    elbo = dataclasses.replace(found.elbo, nats_to_gain=gain, error=gain_error, tolerance=enough)
    return Certificate(finding, elbo=elbo)
