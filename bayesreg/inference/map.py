"""MAP: the mode of the posterior, which is what a regularised fit is. SVI with a Delta guide, without the tracing.

θ* = argmax log p(y | θ) + log p(θ)  =  argmin loss(θ) + penalty(θ)
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import torch

from bayesreg import _check
from bayesreg.data import Batch, Data
from bayesreg.flat import LogJoint
from bayesreg.inference.base import AbstractMethod, Report
from bayesreg.inference.certificate import certify, has_kinks, in_double
from bayesreg.inference.curvature import full_hessian
from bayesreg.inference.linear import certify_linear, fit_linear
from bayesreg.inference.proximal import polish
from bayesreg.inference.training import TrainingCopy, adam, gradient_of, resolve_batch
from bayesreg.model import BayesianModel
from bayesreg.posterior import Certificate, Dirac, FitRecord, History

NEWTON_PARAMETERS = 500  # up to here a full Hessian costs less than the search it finishes
OPTIMIZERS = ("auto", "adam", "lbfgs")
PROBE_STEPS = 300
PROBE_ENTRIES = 10**8  # rows × unknowns up to which a further search sees all rows at each step


class MAP(AbstractMethod):
    """The most probable point: SVI with a Delta guide (`pyro.infer.autoguide.AutoDelta`), same objective, same mode.

    Args:
        optimizer: "lbfgs" (full batch, smooth priors; finished by Newton steps for up to 500 unknowns), "adam", or "auto",
            which takes L-BFGS where it fits, ends Adam's search with proximal steps (exact zeros) where a penalty has a
            kink and all rows fit, and says what it took in `history.notes`.
        num_steps: Steps at most for "lbfgs" (2,000 when None), exactly for "adam" (5,000, or 30 epochs of mini-batches).
        learning_rate: Adam's first rate, falling to zero along a cosine; 0.01 when None.
        batch_size: Rows a step; when None all rows up to 10,000, or while rows × unknowns ≤ 10⁷, and 256 above. A loader
            brings its own batches.
        jacobian: False for the mode in constrained space, as Pyro's AutoDelta; True for the mode of the unconstrained
            density, which a Laplace approximation needs. They differ for positive unknowns only.

    Raises:
        ValueError: If an argument is out of its range, or L-BFGS is asked for where it does not fit.
    """

    name: ClassVar[str] = "map"
    when: ClassVar[str] = "You want the regularised fit itself, fast, and a first look at any prior."

    def __init__(
        self,
        optimizer: str = "auto",
        num_steps: int | None = None,
        learning_rate: float | None = None,
        batch_size: int | None = None,
        jacobian: bool = False,
    ) -> None:
        self.optimizer = _check.one_of("optimizer", optimizer, OPTIMIZERS)
        self.num_steps = None if num_steps is None else _check.count("num_steps", num_steps)
        self.learning_rate = None if learning_rate is None else _check.positive("learning_rate", learning_rate)
        self.batch_size = None if batch_size is None else _check.count("batch_size", batch_size)
        self.jacobian = bool(jacobian)

    def run(self, model: BayesianModel, data: Data, *, seed: int, report: Report) -> Dirac:
        """Fit; see `AbstractMethod.run`.

        Raises:
            ValueError: If the model has no mode: a prior's scale is unknown too, or a prior has a pole.
        """
        started = time.perf_counter()
        check_has_mode(model)
        log_joint = LogJoint(model)
        history = History("log joint")
        if (linear := self._linear(log_joint, data, history, report)) is not None:
            u, certificate = linear
            record = FitRecord(self.name, seed, history, certificate, time.perf_counter() - started, self._space)
            return Dirac(model, record, u)
        batch_size = resolve_batch(self.batch_size, data, log_joint.layout.size)
        optimizer = self._choose(log_joint, data, batch_size, history)
        start = log_joint.layout.flatten(model.start(*next(data.epoch())))
        if optimizer == "lbfgs":
            u, trained = self._lbfgs(log_joint, start, data, history, report), model
        else:
            u, trained = self._adam(log_joint, start, data, batch_size, history, report)
        log_joint = LogJoint(trained)
        certificate = certify(log_joint, u, start, data, self.jacobian, lambda: self._further(log_joint, u, data, batch_size))
        record = FitRecord(self.name, seed, history, certificate, time.perf_counter() - started, self._space)
        return Dirac(trained, record, u)

    @property
    def _space(self) -> str:
        return "unconstrained" if self.jacobian else "constrained"

    def _linear(
        self, log_joint: LogJoint, data: Data, history: History, report: Report
    ) -> tuple[torch.Tensor, Certificate] | None:
        """The mode of a linear-Gaussian model by its own solver, where nothing about the search was asked for."""
        if self.optimizer != "auto" or not (self.num_steps is self.learning_rate is self.batch_size is None):
            return None
        found = fit_linear(log_joint, data)
        if found is None:
            return None
        solution, value = found
        u = solution.u.to(log_joint.model.like)
        history.record(1, value)
        history.notes.append(solution.note)
        if any(group.kinked for group in log_joint.groups):
            zeros = sum(int((u[g.slice] == 0).sum()) for g in log_joint.groups if g.kinked)
            history.notes.append(f"{zeros:,} weights are exactly zero.")
        report(1, 1, value)
        certificate = certify_linear(solution, value, self._space)
        if certificate is None:
            certificate = certify(log_joint, u, torch.full_like(u, math.nan), data, self.jacobian, lambda: u)
        return u, certificate

    def _choose(self, log_joint: LogJoint, data: Data, batch_size: int | None, history: History) -> str:
        obstacle = None
        if data.x is None:
            obstacle = "the rows are streamed"
        elif batch_size is not None:
            obstacle = f"it sees {batch_size:,} of {data.num_data:,} rows at a step"
        elif not log_joint.smooth:
            obstacle = "a prior's penalty has a kink"
        elif not log_joint.model.is_deterministic:
            obstacle = "batch normalisation or dropout makes training differ from evaluation"
        if self.optimizer == "lbfgs" and obstacle:
            raise ValueError(
                f"optimizer='lbfgs' needs all rows, smooth penalties and a fixed network, but {obstacle}; take 'adam'."
            )
        if not obstacle and has_kinks(log_joint):
            obstacle = "the network is piecewise linear, and a line search stalls where the pieces meet"
        chosen = self.optimizer if self.optimizer != "auto" else "adam" if obstacle else "lbfgs"
        because = obstacle or "the objective is smooth and sees all rows"
        history.notes.append(f"{chosen}: " + ("asked for." if self.optimizer != "auto" else f"{because}."))
        return chosen

    def _adam(
        self,
        log_joint: LogJoint,
        start: torch.Tensor,
        data: Data,
        batch_size: int | None,
        history: History,
        report: Report,
    ) -> tuple[torch.Tensor, BayesianModel]:
        copy = self._copy(log_joint, start, data)
        batches = data.batches(batch_size, torch.Generator().manual_seed(torch.initial_seed()))
        steps = self.num_steps or max(5000, 30 * data.steps_an_epoch(batch_size))
        _descend(copy, batches, steps, self.learning_rate or 0.01, report, history)
        u, model = copy.flat.detach(), log_joint.model.with_buffers(copy.module)
        if self._can_polish(log_joint, batch_size, data) and self.optimizer == "auto":
            u = polish(*in_double(LogJoint(model), u, data), jacobian=self.jacobian).to(u.dtype)
            zeros = sum(int((u[g.slice] == 0).sum()) for g in log_joint.groups if g.kinked)
            history.notes.append(f"proximal steps at the end: {zeros:,} weights are exactly zero.")
        return u, model

    def _can_polish(self, log_joint: LogJoint, batch_size: int | None, data: Data) -> bool:
        """True where proximal steps end a search: a weight's penalty has a kink, no activation's has, all rows are there."""
        kinked = any(group.kinked for group in log_joint.groups) and not log_joint.kinked_outputs
        return kinked and batch_size is None and data.x is not None

    def _further(self, log_joint: LogJoint, u: torch.Tensor, data: Data, batch_size: int | None) -> torch.Tensor:
        """A further search from a candidate, by which the certificate judges it: all rows where that is affordable."""
        if self._can_polish(log_joint, batch_size, data):  # Adam only oscillates about a kink
            return polish(*in_double(log_joint, u, data), jacobian=self.jacobian, num_steps=PROBE_STEPS)
        if data.num_data * len(u) <= PROBE_ENTRIES:
            batch_size = None
        copy = self._copy(log_joint, u, data, training=False)
        batches = data.batches(batch_size, torch.Generator().manual_seed(0))
        _descend(copy, batches, PROBE_STEPS, 1e-3, lambda step, total, objective: None, History())
        return copy.flat.detach()

    def _copy(self, log_joint: LogJoint, start: torch.Tensor, data: Data, training: bool = True) -> TrainingCopy:
        return TrainingCopy(
            log_joint, start, data.num_data, jacobian=self.jacobian, training=training, rows_a_batch=data.rows_a_batch
        )

    def _lbfgs(self, log_joint: LogJoint, start: torch.Tensor, data: Data, history: History, report: Report) -> torch.Tensor:
        from scipy.optimize import minimize

        dtype = start.dtype
        log_joint, start, data = in_double(log_joint, start, data)
        x, y = data.full("L-BFGS")
        copy = self._copy(log_joint, start, data, training=False)
        total = self.num_steps or 2000
        best, kept = math.inf, start

        def loss_and_gradient(u: np.ndarray) -> tuple[float, np.ndarray]:
            nonlocal best, kept
            copy.flat.data.copy_(torch.from_numpy(u))
            copy.flat.grad.zero_()  # pyright: ignore[reportOptionalMemberAccess]
            value = -copy.objective(copy.backward(x, y)) / data.num_data
            gradient = copy.flat.grad.cpu().double().numpy().copy()  # pyright: ignore[reportOptionalMemberAccess]
            if not (math.isfinite(value) and np.isfinite(gradient).all()):
                return math.inf, np.zeros_like(gradient)
            if value < best:
                best, kept = value, copy.flat.detach().clone()
            return value, gradient

        steps = itertools.count(1)

        def heard(u: np.ndarray) -> None:
            step = next(steps)
            if step <= 20 or step % 10 == 0:
                history.record(step, -best * data.num_data)
            report(step, total, -best * data.num_data)

        options = {"maxiter": total, "maxfun": 2 * total, "maxcor": 30, "ftol": 0.0, "gtol": 1e-12}
        found = minimize(loss_and_gradient, start.cpu().numpy(), jac=True, method="L-BFGS-B", callback=heard, options=options)
        history.record(found.nit + 1, -best * data.num_data)
        history.notes.append(f"L-BFGS: {found.nit} steps, {found.nfev} evaluations; it stopped with {found.message!r}.")
        if log_joint.layout.size <= NEWTON_PARAMETERS:
            kept = newton(log_joint, kept, data, self.jacobian)
        return kept.to(dtype)


def check_has_mode(model: BayesianModel) -> None:
    """Refuse a model that has no mode.

    Args:
        model: The model.

    Raises:
        ValueError: If a prior's scale is unknown, or a density has a pole.
    """
    scales = [name for name, latent in model.latents.items() if latent.kind == "scale"]
    if scales:
        child = scales[0].removesuffix(".scale")
        raise ValueError(
            f"a joint mode over weights and their unknown scale runs to scale zero, so that MAP must have fixed scales, but "
            f"{child} has {model.latents[child].prior}; fix the scale (a number), marginalise it (StudentT is a Normal with an "
            "unknown scale integrated out), or take a posterior method such as MeanField."
        )
    for name, latent in model.latents.items():
        if latent.parents and not latent.prior.smooth:
            raise ValueError(
                f"a mode on a kink must have a known scale, but that of {name}, {latent.prior}, hangs on the unknown noise; "
                "fix noise_scale to a number, take Normal in its place, or a posterior method such as MeanField."
            )
        if not latent.prior.bounded and not latent.is_noise:
            raise ValueError(
                f"a mode must have a finite density, but {name} has {latent.prior}, whose density has a pole; "
                "take a bounded prior for MAP (Laplace, SpikeSlab, StudentT), or a posterior method such as MeanField."
            )


def _descend(
    copy: TrainingCopy, batches: Iterator[Batch], num_steps: int, learning_rate: float, report: Report, history: History
) -> None:
    adam(
        copy.flat,
        lambda: copy.backward(*next(batches)),
        num_steps=num_steps,
        learning_rate=learning_rate,
        report=report,
        history=history,
        objective=copy.objective,
    )


def newton(log_joint: LogJoint, u: torch.Tensor, data: Data, jacobian: bool, num_steps: int = 20) -> torch.Tensor:
    """Newton steps to the last digit, while the Hessian is positive definite and the gradient shrinks.

    Args:
        log_joint: The objective.
        u: Near a mode, (P,).
        data: All rows.
        jacobian: As for MAP.
        num_steps: At most.

    Returns:
        (P,), never a worse point than `u`.
    """
    value, gradient = gradient_of(log_joint, u, data, jacobian=jacobian)
    for _ in range(num_steps):
        factor, info = torch.linalg.cholesky_ex(full_hessian(log_joint, u, data, jacobian=jacobian))
        if int(info) != 0:
            break
        trial = u + torch.cholesky_solve(gradient[:, None], factor)[:, 0]
        trial_value, trial_gradient = gradient_of(log_joint, trial, data, jacobian=jacobian)
        slack = 10 * torch.finfo(u.dtype).eps * abs(value)
        if not (trial_gradient.norm() < gradient.norm() and trial_value >= value - slack):
            break
        u, gradient, value = trial, trial_gradient, trial_value
    return u
