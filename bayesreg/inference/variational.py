"""What variational methods share: settings, and the loop in which a family of guides climbs its ELBO.

ELBO(phi) = E_q[log p(y | θ)] − KL(q ‖ p);   for each step:  batch → draws → gradient of phi → Adam
"""

from __future__ import annotations

import abc
import dataclasses
import os
import time
from collections.abc import Iterator
from typing import Any, ClassVar

import torch

from bayesreg import _check
from bayesreg.certificates.certificate import Certificate
from bayesreg.certificates.elbo import gain_of, maximal, rise
from bayesreg.certificates.importance import num_draws, of_draws
from bayesreg.certificates.mode import why_not_judged
from bayesreg.certificates.outcome import Finding
from bayesreg.data.rows import Data
from bayesreg.inference.base import AbstractMethod
from bayesreg.model.model import BayesianModel
from bayesreg.objective.flat import LogJoint
from bayesreg.objective.training_copy import TrainingCopy
from bayesreg.objective.whole import in_double, of_rows
from bayesreg.posteriors.guide import Guide
from bayesreg.posteriors.guides import AbstractFamily
from bayesreg.posteriors.record import FitRecord, stopped
from bayesreg.solvers.batches import resolve_batch
from bayesreg.solvers.compiled import CompiledAdam, make_stepper
from bayesreg.solvers.failures import FitError, rescuing
from bayesreg.solvers.history import History
from bayesreg.solvers.loop import Schedule, readable, run
from bayesreg.solvers.progress import ProgressCallback
from bayesreg.solvers.stepper import AbstractStepper, checked_compile


class AbstractVariational(AbstractMethod):
    """A method that maximises an ELBO by Adam.

    Args:
        num_steps: Steps; 5,000, or 50 epochs of mini-batches, when None.
        learning_rate: Adam's first rate, falling to zero along a cosine; 0.01 when None.
        batch_size: Rows a step; when None all rows up to 10,000, or while rows × unknowns ≤ 10⁷, and 256 above. A loader
            brings its own batches.
        checkpoint: As for `MAP`, with checkpoint_every and checkpoint_key.
        checkpoint_every: Steps between two states.
        checkpoint_key: A text that names a loader's data.

    Raises:
        ValueError: If an argument is out of its range.
    """

    def __init__(
        self,
        num_steps: int | None,
        learning_rate: float | None,
        batch_size: int | None,
        checkpoint: str | os.PathLike[str] | None,
        checkpoint_every: int | None,
        checkpoint_key: str | None,
    ) -> None:
        self.num_steps = None if num_steps is None else _check.steps("num_steps", num_steps)
        self.learning_rate = None if learning_rate is None else _check.positive("learning_rate", learning_rate)
        self.batch_size = None if batch_size is None else _check.count("batch_size", batch_size)
        self.keep_in(checkpoint, checkpoint_every, checkpoint_key)

    def schedule(self, data: Data, batch_size: int | None) -> Schedule:
        """How many steps, and the learning rate of each, for batches of so many rows, None for all."""
        return Schedule(self.num_steps or max(5000, 50 * data.steps_an_epoch(batch_size)), self.learning_rate or 0.01)

    def keep(
        self, log_joint: LogJoint, start: torch.Tensor, data: Data, schedule: Schedule, batch_size: int | None, seed: int
    ) -> Any:
        """The open checkpoint, with the fit that it belongs to; None where none was asked for."""
        if self.checkpoint is not None:
            streamed = None if data.loader is None else (data.loader.batch_size, type(data.loader.sampler).__name__)
            settings = (self.name, self.deciding, schedule, batch_size, streamed)
            self.checkpoint.belong(log_joint, start, data, settings, seed, schedule.num_steps)
        return self.checkpoint


class AbstractGuided(AbstractVariational):
    """A variational method that fits a family of guides; a subclass says with which guide it starts.

    Args:
        num_steps: As for `AbstractVariational`, with learning_rate, batch_size and the arguments of checkpoints.
        learning_rate: Adam's first rate.
        batch_size: Rows a step.
        num_particles: Draws a step, averaged, in pairs of opposite noise.
        initial_scale: Standard deviation of every unknown at the start.
        compile: True, False or "auto".
        checkpoint: As for `MAP`.
        checkpoint_every: Steps between two states.
        checkpoint_key: A text that names a loader's data.

    Raises:
        ValueError: If an argument is out of its range.
    """

    draws_by_copy: ClassVar[int] = 1  # up to so many draws a step `one_draw_step` costs less than a pass of all at once

    def __init__(
        self,
        num_steps: int | None,
        learning_rate: float | None,
        batch_size: int | None,
        num_particles: int,
        initial_scale: float,
        compile: bool | str,
        checkpoint: str | os.PathLike[str] | None,
        checkpoint_every: int | None,
        checkpoint_key: str | None,
    ) -> None:
        super().__init__(num_steps, learning_rate, batch_size, checkpoint, checkpoint_every, checkpoint_key)
        self.num_particles = _check.count("num_particles", num_particles)
        self.initial_scale = _check.positive("initial_scale", initial_scale)
        self.compile = checked_compile(compile)

    @abc.abstractmethod
    def guide(self, log_joint: LogJoint, loc: torch.Tensor, scale: torch.Tensor) -> AbstractFamily:
        """The guide to start with: of these means and about these standard deviations, both (P,)."""

    def first_guide(
        self,
        log_joint: LogJoint,
        data: Data,
        start: torch.Tensor,
        history: History,
        *,
        seed: int,
        report: ProgressCallback,
    ) -> AbstractFamily:
        """Where the ascent begins; `start`, (P,), is what a fit starts from that knows no better."""
        return self.guide(log_joint, start, torch.full_like(start, self.initial_scale))

    def one_draw_step(
        self, guide: AbstractFamily, copy: TrainingCopy, log_joint: LogJoint, x: torch.Tensor, y: torch.Tensor
    ) -> torch.Tensor:
        """Minus the one-draw ELBO divided by N, detached; its gradient is added to `guide.phi.grad`."""
        return one_draw_by_graph(guide, copy, log_joint, x, y)

    def run(self, model: BayesianModel, data: Data, *, seed: int, report: ProgressCallback) -> Guide:
        """Fit; see `AbstractMethod.run`."""
        started = time.perf_counter()
        log_joint = LogJoint(model)
        history = History("elbo")
        history.notes.extend([*_of_priors(model), *_of_layers(model)])
        history.of_statistics.extend(_of_statistics(model))
        start = log_joint.layout.flatten(model.start(*next(data.epoch())))
        guide = self.first_guide(log_joint, data, start, history, seed=seed, report=report)
        guide.phi.grad = torch.zeros_like(guide.phi)
        batch_size = resolve_batch(self.batch_size, data, log_joint)
        batches = data.batches(batch_size, torch.Generator().manual_seed(torch.initial_seed()))
        num_data, constant = data.num_data, data.num_data * model.log_jacobian
        history.notes.append(f"adam: {self.num_particles} draw(s) a step, {batch_size or 'all'} rows.")
        # a training step normalises by its batch, and its draw's statistics go into the running averages
        copy = TrainingCopy(log_joint, start, num_data, noise=False, rows_a_batch=data.rows_a_batch)
        pure = of_rows(log_joint)
        schedule = self.schedule(data, batch_size)
        stepper = self._stepper(guide, copy, pure, data, schedule.num_steps, batch_size, history)

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
        fitted = model.with_buffers(copy.module)
        seen = len(losses) * self.num_particles * (batch_size or num_data)
        certificate = _with_importance(certificate, fitted, guide.requires_grad_(False), data, seen, history)
        record = FitRecord(self.name, seed, history, certificate, time.perf_counter() - started)
        return Guide(fitted, record, guide)

    def _stepper(
        self,
        guide: AbstractFamily,
        copy: TrainingCopy,
        pure: LogJoint,
        data: Data,
        num_steps: int,
        batch_size: int | None,
        history: History,
    ) -> AbstractStepper:
        log_joint, num_data = copy.log_joint, data.num_data
        model = log_joint.model
        one_draw = self.num_particles <= self.draws_by_copy and not copy.flat_path
        normalised = bool(model.behaviour.normalising)

        def backward(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            if one_draw:
                return self.one_draw_step(guide, copy, log_joint, x, y)
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

        return make_stepper(
            self.compile,
            guide.phi,
            backward,
            pure_loss,
            lambda: next(data.epoch(batch_size or num_data)),
            obstacle=CompiledAdam.requires(log_joint, data),
            num_steps=num_steps,
            notes=history.notes,
            noise_size=self.num_particles * guide.noise_size,
            num_data=num_data,
            buffers=list(copy.module.buffers()),
        )


def one_draw_by_graph(
    guide: AbstractFamily, copy: TrainingCopy, log_joint: LogJoint, x: torch.Tensor, y: torch.Tensor
) -> torch.Tensor:
    """Minus the one-draw ELBO divided by N, detached; its gradient, that of `guide.elbo`, is added to `guide.phi.grad`.

    It costs less than `guide.elbo`. The draw is written into the buffer of `copy`, a training copy of the model, and the
    network's gradient is read from that copy; autograd differentiates the guide's part only.
    """
    u = guide.rsample()
    copy.flat.data.copy_(u.detach())
    gradient: Any = copy.flat.grad
    gradient.zero_()
    loss = copy.likelihood_loss(x, y)
    loss.backward()
    divergence = guide.divergence_at(guide.phi, log_joint, u) * (1 / copy.num_data)
    torch.autograd.backward((u, divergence), (gradient, None))  # pyright: ignore[reportArgumentType]
    return loss.detach() + divergence.detach()


def negative_elbo(
    guide: AbstractFamily, log_joint: LogJoint, data: Data, x: torch.Tensor, y: torch.Tensor, num_particles: int
) -> torch.Tensor:
    """Minus the ELBO estimated from one batch, a scalar with gradient, in nats, each row counting alike over an epoch."""
    stands_for = data.num_data * len(x) / data.rows_a_batch(x)
    return -guide.elbo(log_joint, x, y, stands_for, num_particles)  # pyright: ignore[reportArgumentType]


def nats_to_gain(
    guide: AbstractFamily, log_joint: LogJoint, data: Data, batches: Iterator, repeats: int = 30, num_particles: int = 8
) -> tuple[float, float]:
    """The gain in nats of a natural-gradient step, which may be negative by chance, and its Monte Carlo error.

    The gradient is a mean over repeats, each from `num_particles` draws.
    """
    gradients = []
    for _ in range(repeats):
        x, y = next(batches)
        loss = negative_elbo(guide, log_joint, data, x, y, num_particles)
        gradients.append(torch.autograd.grad(loss, guide.phi)[0])
    return gain_of(guide.whitened(torch.stack(gradients).double()))


def _judged(elbos: torch.Tensor, guide: AbstractFamily, log_joint: LogJoint, data: Data, batches: Iterator) -> Certificate:
    try:
        return maximal(elbos, *nats_to_gain(guide, log_joint, data, batches), enough=0.02 * guide.layout.size)
    except Exception as error:  # a finished fit is never lost
        return dataclasses.replace(rise(elbos), finding=Finding.NOT_JUDGED, failure=why_not_judged(log_joint, error))


def _with_importance(
    certificate: Certificate, model: BayesianModel, guide: AbstractFamily, data: Data, seen: int, history: History
) -> Certificate:
    """The certificate with k̂ where that costs less than the search, which passed `seen` rows forwards and backwards."""
    log_joint = LogJoint(model)
    count = num_draws(log_joint, data)
    if model.behaviour.coupling or not count or 2 * count * data.num_data > seen:
        why = "its batches make another objective" if model.behaviour.coupling else "all rows under many draws cost too much"
        history.notes.append(f"importance weights (k̂) were not looked at: {why}.")
        return certificate
    try:
        draws = guide.draw(count, torch.Generator().manual_seed(0))
        wide, _, rows = in_double(log_joint, draws[0], data)
        found = of_draws(wide, draws.double(), guide.log_density(draws.double()), rows)
    except Exception as error:  # a finished fit is never lost
        history.notes.append(f"importance weights (k̂) could not be found: {error}")
        return certificate
    return dataclasses.replace(certificate, importance=found)


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
