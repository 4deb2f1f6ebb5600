"""MAP: the mode of the posterior, which is what a regularised fit is. SVI with a Delta guide, without the tracing.

θ* = argmax log p(y | θ) + log p(θ)  =  argmin loss(θ) + penalty(θ)
"""

from __future__ import annotations

import copy
import dataclasses
import os
import time
from collections.abc import Callable
from typing import Any, ClassVar

import torch

from bayesreg import _check
from bayesreg.certificates.certificate import Certificate
from bayesreg.certificates.constant import Again, Found, escaped, says_the_same, with_word
from bayesreg.certificates.has_mode import check_has_mode
from bayesreg.certificates.linear_gaussian import certify_linear
from bayesreg.certificates.mode import certify, has_kinks
from bayesreg.certificates.norms import with_norms
from bayesreg.certificates.outcome import Outcome
from bayesreg.data.rows import Data
from bayesreg.inference.base import AbstractMethod
from bayesreg.model.model import BayesianModel
from bayesreg.objective.affine import is_affine
from bayesreg.objective.batched import check_replicable
from bayesreg.objective.directions import Rows, by_all_rows, held_rows, on_sphere, scale_free
from bayesreg.objective.flat import LogJoint
from bayesreg.objective.training_copy import TrainingCopy
from bayesreg.objective.whole import in_double
from bayesreg.posteriors.base import Dirac
from bayesreg.posteriors.record import FitRecord, stopped
from bayesreg.solvers.checkpoint import check_options
from bayesreg.solvers.history import History
from bayesreg.solvers.linear_gaussian import fit_linear
from bayesreg.solvers.loop import SCHEDULES, FitError, Schedule, rescuing, run
from bayesreg.solvers.nonsmooth import exact_zeros, polish
from bayesreg.solvers.progress import ProgressCallback
from bayesreg.solvers.quasi_newton import lbfgs
from bayesreg.solvers.restarts import best_of_many
from bayesreg.solvers.rising import Trend
from bayesreg.solvers.search import Search, SearchOptions, hold_out
from bayesreg.solvers.stepper import EagerAdam, checked_compile
from bayesreg.solvers.training import resolve_batch

OPTIMIZERS = ("auto", "adam", "prox-adam", "lbfgs", "fista")
PROBE_STEPS = 300
PROBE_ENTRIES = 10**8  # rows × unknowns up to which a further search sees all rows at each step


class MAP(AbstractMethod):
    """The most probable point: SVI with a Delta guide (`pyro.infer.autoguide.AutoDelta`), same objective, same mode.

    `optimizer="auto"` says what it took, and why, in `history.notes`:

    | the model and its data | optimizer |
    |---|---|
    | some rows at a step, or a network that differs in training | "adam", and "prox-adam" where a penalty has a kink |
    | all rows, linear in the weights, known Gaussian noise | closed form, or coordinate descent with a duality gap |
    | all rows, linear in the weights, a kink, other likelihoods | "fista", finished by Newton steps on what is not zero |
    | all rows, smooth | "lbfgs", finished by Newton steps up to 500 unknowns; "adam" for a ReLU network |
    | all rows, a kink (Laplace, ElasticNet, GroupLasso) | "prox-adam", ended by "fista": exact zeros |

    Args:
        optimizer: "auto", or one of "adam" (a subgradient at a kink: no exact zeros), "prox-adam" (proximal steps in Adam's own
            metric: exact zeros, also from mini-batches), "lbfgs" (all rows, smooth), "fista" (all rows; for convex problems
            with a kink).
        num_steps: Steps at most for "lbfgs" and "fista" (2,000 when None), exactly for the others (5,000, or 30 epochs of
            mini-batches).
        learning_rate: Adam's first rate; 0.01 when None.
        batch_size: Rows a step; when None all rows up to 10,000, or while rows × unknowns ≤ 10⁷, and 256 above. A loader
            brings its own batches.
        jacobian: False for the mode in constrained space, as Pyro's AutoDelta; True for the mode of the unconstrained
            density, which a Laplace approximation needs. They differ for positive unknowns only.
        compile: True to compile the whole step, optimizer included; False not to; "auto" where it pays: for 50,000 steps or
            more of a small model. Compiling takes some ten seconds.
        schedule: "cosine", the rate falling to zero along half a cosine, or "constant".
        num_cycles: More than one starts the cosine anew: warm restarts.
        clip_norm: Largest norm of the gradient of the log-joint divided by N; None for no bound.
        validation_fraction: Part of the rows that is held out; the point with their best log-density is returned, and the
            search stops when `patience` looks in a row have found no better one (there are a hundred in a fit). Such a point
            is no mode, and its certificate says so.
        patience: Looks; 10 when None.
        num_restarts: Starts: the module's own weights, and others as its layers draw them anew, whose fits run side by side as
            one. The best is kept, and how far the others came is in the certificate.
        checkpoint: A file where a running fit keeps its state. If it is there when the fit starts, the fit goes on from it, to
            the same answer as without the interruption; it is deleted once there is a posterior. One fit at a time runs on it.
            A fit with other data, settings or code does not take it up; a loader is read once for that.
        checkpoint_every: Steps between two states, a hundredth of the fit at least; a twentieth when None.
        checkpoint_key: A text that names a loader's data, in place of reading it: other data must have another.
        scale_invariant: What is done with weights that a BatchNorm follows. It divides their length away again, f(x; c·v) =
            f(x; v) for each output unit v and every c > 0, so that a Gaussian prior on them does not restrict the function: it
            only pulls v to zero, and the shorter v, the further a step turns it (van Laarhoven 2017; Hoffer et al. 2018).
            "free" lets that be and tells in the certificate what became of the lengths; "unit-norm" holds each output unit at
            norm 1, where such a prior is a constant; for "adam", and "prox-adam" without a kink on them.

    Raises:
        ValueError: If an argument is out of its range, or an optimizer is asked for where it does not fit.

    References:
        Kingma and Ba (2015), Adam. Yun, Lozano and Yang (2021), Adaptive proximal gradient methods for structured neural
        networks. Beck and Teboulle (2009), A fast iterative shrinkage-thresholding algorithm for linear inverse problems.
        van Laarhoven (2017), L2 regularization versus batch and weight normalization. Hoffer, Banner, Golan and Soudry (2018),
        Norm matters: efficient and accurate normalization schemes in deep networks.
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
        *,
        compile: bool | str = "auto",
        schedule: str = "cosine",
        num_cycles: int = 1,
        clip_norm: float | None = None,
        validation_fraction: float | None = None,
        patience: int | None = None,
        num_restarts: int = 1,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int | None = None,
        checkpoint_key: str | None = None,
        scale_invariant: str = "free",
    ) -> None:
        if str(optimizer).lower() in ("adamw", "nadamw", "lion"):
            raise ValueError(
                f"optimizer must minimise loss + penalty, but {optimizer!r} decouples its decay, which is the gradient of no "
                "penalty, so that its answer belongs to no prior; take 'adam' and say the decay as a prior: "
                "Normal.from_weight_decay."
            )
        self.optimizer = _check.one_of("optimizer", optimizer, OPTIMIZERS)
        self.num_steps = None if num_steps is None else _check.steps("num_steps", num_steps)
        self.learning_rate = None if learning_rate is None else _check.positive("learning_rate", learning_rate)
        self.batch_size = None if batch_size is None else _check.count("batch_size", batch_size)
        self.jacobian = bool(jacobian)
        self.compile = checked_compile(compile)
        self.schedule = _check.one_of("schedule", schedule, SCHEDULES)
        self.num_cycles = _check.count("num_cycles", num_cycles)
        self.clip_norm = None if clip_norm is None else _check.positive("clip_norm", clip_norm)
        self.validation_fraction = (
            None if validation_fraction is None else _check.fraction("validation_fraction", validation_fraction)
        )
        self.patience = 10 if patience is None else _check.count("patience", patience)
        self.num_restarts = _check.count("num_restarts", num_restarts)
        check_options(checkpoint, checkpoint_every, checkpoint_key)
        self.checkpoint, self.checkpoint_every, self.checkpoint_key = checkpoint, checkpoint_every, checkpoint_key
        self.scale_invariant = _check.one_of("scale_invariant", scale_invariant, ("free", "unit-norm"))
        for alone, name, needed in (
            (patience is not None and validation_fraction is None, "patience", "validation_fraction, the rows that it watches"),
            (self.num_cycles > 1 and schedule != "cosine", "num_cycles", "schedule='cosine', which starts anew"),
        ):
            if alone:
                raise ValueError(f"{name} must come with {needed}, but it came alone; give both, or neither.")
        if self.num_restarts > 1 and self.scale_invariant != "free":
            raise ValueError(
                f"num_restarts={self.num_restarts} runs fits side by side, which hold no norm, but scale_invariant="
                f"{self.scale_invariant!r} came too; leave one of the two out."
            )
        if self.optimizer in ("lbfgs", "fista") and self._of_steps():
            raise ValueError(
                f"optimizer={self.optimizer!r} finds its own steps, but {self._of_steps()} came, which it does not read; leave "
                "it out, or take 'adam' or 'prox-adam'."
            )

    def _of_steps(self) -> str:
        """The settings that only a search by steps reads, of those that were given; an empty text for none."""
        given = {
            "learning_rate": self.learning_rate is not None,
            "clip_norm": self.clip_norm is not None,
            "compile=True": self.compile is True,
            "schedule": self.schedule != "cosine",
            "num_cycles": self.num_cycles > 1,
            "validation_fraction": self.validation_fraction is not None,
            "checkpoint": self.checkpoint is not None,
            f"scale_invariant={self.scale_invariant!r}": self.scale_invariant != "free",
        }
        return " and ".join(name for name, is_given in given.items() if is_given)

    def in_space(self, jacobian: bool) -> MAP:
        """The same search for the constrained mode (False) or the unconstrained one (True)."""
        found = copy.copy(self)
        found.jacobian = jacobian
        return found

    def run(self, model: BayesianModel, data: Data, *, seed: int, report: ProgressCallback) -> Dirac:
        """Fit; see `AbstractMethod.run`.

        Raises:
            ValueError: If the model has no mode: a prior's scale is unknown too, or a prior has a pole.
            FitError: If the loss stops being finite or a loader raises; its `posterior` is the last good point.
        """
        started = time.perf_counter()
        check_has_mode(model)
        history, held_out = History("log joint"), None
        if self.validation_fraction is not None:
            model, data, held_out = hold_out(model, data, self.validation_fraction, history)
        log_joint = LogJoint(model)
        if self.num_restarts > 1:
            self._check_restarts(log_joint, data)
        if (linear := self._linear(log_joint, data, history, report)) is not None:
            u, certificate = linear
            record = FitRecord(self.name, seed, history, certificate, time.perf_counter() - started, self._space)
            return Dirac(model, record, u)
        batch_size = resolve_batch(self.batch_size, data, log_joint)
        optimizer = self._choose(log_joint, data, batch_size, history)
        start, invariant = log_joint.layout.flatten(model.start(*next(data.epoch()))), scale_free(log_joint)
        held = self._held(invariant, optimizer, history)
        on_sphere(start, held)
        searched = self._search(optimizer, log_joint, start, data, batch_size, seed, history, held, report, held_out)
        u, trained, trend = searched
        log_joint, tried = LogJoint(trained), None
        if self.num_restarts == 1 and held_out is None and says_the_same(log_joint, u, data):
            again = None if optimizer == "fista" else self._again(optimizer, model, batch_size, seed, held)
            (u, trained, trend), tried = escaped(searched, start, data, again, self.jacobian, history)
            log_joint = LogJoint(trained)
        restarts = None
        if self.num_restarts > 1:
            own = log_joint, u
            log_joint, u, restarts = self._best_of_many(LogJoint(model), own, data, batch_size, optimizer, history, report)
        certificate = self._certified(log_joint, u, start, data, batch_size, restarts, invariant, trend)
        if held_out is not None and not certificate.converged:
            certificate = certificate.overrule(Outcome.STOPPED_EARLY)
        certificate = with_norms(certificate, invariant, start, u, bool(held))
        if tried is not None and says_the_same(log_joint, u, data):
            certificate = with_word(certificate, model, tried)
        record = FitRecord(self.name, seed, history, certificate, time.perf_counter() - started, self._space)
        return Dirac(log_joint.model, record, u)

    def _again(self, optimizer: str, model: BayesianModel, batch_size: int | None, seed: int, held: list[Rows]) -> Again:
        """The same search from other points, which keeps, compiles and tells nothing."""
        quiet, rest = copy.copy(self), (batch_size, seed, History(), held, lambda step, total, nats: None, None)
        quiet.checkpoint, quiet.compile = None, False
        return lambda way, u, rows: quiet._search(way or optimizer, LogJoint(model), u, rows, *rest)

    def _search(
        self,
        optimizer: str,
        log_joint: LogJoint,
        start: torch.Tensor,
        data: Data,
        batch_size: int | None,
        seed: int,
        history: History,
        held: list[Rows],
        report: ProgressCallback,
        held_out: Any,
    ) -> Found:
        """One search from a start: where it ended, the model with its statistics, and how what training followed ended."""
        if optimizer == "lbfgs":
            return self._lbfgs(log_joint, start, data, history, report), log_joint.model, None
        if optimizer == "fista":
            return self._fista(log_joint, start, data, history), log_joint.model, None
        search = Search(self._options(), log_joint, start, data, batch_size, optimizer == "prox-adam", seed, history, held)

        def rescued(point: torch.Tensor, model: BayesianModel, failure: FitError) -> Dirac:
            return Dirac(model, stopped(self.name, seed, history, failure, self._space), point)

        u, trained = search.run(report, held_out, rescued)
        by_steps, log_joint = self.optimizer == "auto" and held_out is None, LogJoint(trained)
        if by_steps and self._can_polish(log_joint, batch_size, data):
            u = polish(*in_double(log_joint, u, data), jacobian=self.jacobian).to(u.dtype)
            history.notes.append(f"fista: the last stretch; {exact_zeros(log_joint, u):,} weights are exactly zero.")
        return u, trained, search.trend

    def _certified(
        self,
        log_joint: LogJoint,
        u: torch.Tensor,
        start: torch.Tensor,
        data: Data,
        batch_size: int | None,
        restarts: list[float] | None,
        invariant: list[Rows],
        trend: Trend | None,
    ) -> Certificate:
        """The certificate by what was followed: where it can be, of the network that normalises by all rows."""
        whole, rows = by_all_rows(log_joint, data, batch_size)
        options: dict[str, Any] = {"restarts": restarts, "trend": trend}
        if rows.coupled:
            probe = lambda: self.further(whole, u, rows, batch_size)  # noqa: E731
            return certify(whole, u, start, rows, self.jacobian, probe, held=invariant, **options)
        probe = lambda: self.further(log_joint, u, data, batch_size)  # noqa: E731
        return certify(log_joint, u, start, data, self.jacobian, probe, **options)

    def _rescue(
        self, model: BayesianModel, history: History, own: torch.Tensor | None = None
    ) -> Callable[[FitError], Dirac | None]:
        """From an error to the fit that is at hand: the one given, or the search's last good point."""

        def made(failure: FitError) -> Dirac | None:
            u = failure.state.get("parameter") if own is None else own
            record = stopped(self.name, torch.initial_seed(), history, failure, self._space)
            return None if u is None else Dirac(model, record, u)

        return made

    @property
    def _space(self) -> str:
        return "unconstrained" if self.jacobian else "constrained"

    def _linear(
        self, log_joint: LogJoint, data: Data, history: History, report: ProgressCallback
    ) -> tuple[torch.Tensor, Certificate] | None:
        """The mode of a linear-Gaussian model by its own solver, where nothing about the search was asked for."""
        asked = self._of_steps() or self.num_steps is not None or self.batch_size is not None
        if self.optimizer != "auto" or self.num_restarts > 1 or asked:
            return None
        found = fit_linear(log_joint, data)
        if found is None:
            return None
        solution, value = found
        u = solution.u.to(log_joint.model.like)
        history.record(1, value)
        history.notes.append(solution.note)
        if log_joint.kinked:
            history.notes.append(f"{exact_zeros(log_joint, u):,} weights are exactly zero.")
        report(1, 1, value)
        certificate = certify_linear(solution, value, self._space)
        if certificate is None:
            start = log_joint.layout.flatten(log_joint.model.start(*next(data.epoch())))
            certificate = certify(log_joint, u, start, data, self.jacobian, lambda: u)
        return u, certificate

    def _check_restarts(self, log_joint: LogJoint, data: Data) -> None:
        """Refuse several starts before the first search, not after it.

        Raises:
            ValueError: If the model or the settings are none for many fits at once.
        """
        given = [name for name in ("validation_fraction", "checkpoint") if getattr(self, name) is not None]
        if given:
            raise ValueError(
                f"num_restarts={self.num_restarts} compares searches by their log-joint on all rows, but {given[0]} came too; "
                "leave one of the two out."
            )
        check_replicable(log_joint)
        data.full("a fit from several starts")

    def _held(self, invariant: list[Rows], optimizer: str, history: History) -> list[Rows]:
        """The tensors whose rows are held at norm 1.

        Raises:
            ValueError: If they are asked for, and there is none or a prior is in the way.
        """
        if self.scale_invariant == "free":
            return []
        held = held_rows(invariant, optimizer == "prox-adam")
        history.notes.append(f"unit-norm: each output unit of {', '.join(rows.name for rows in held)} is held at norm 1.")
        return held

    def _choose(self, log_joint: LogJoint, data: Data, batch_size: int | None, history: History) -> str:
        partial, fixed, kinked = None, log_joint.model.behaviour.deterministic, bool(log_joint.kinked)
        if data.x is None:
            partial = "the rows are streamed"
        elif batch_size is not None:
            partial = f"it sees {batch_size:,} of {data.num_data:,} rows at a step"
        elif not fixed:
            partial = "batch normalisation or dropout makes training differ from evaluation"
        elif self._of_steps():
            partial = f"{self._of_steps()} asks for a search by steps"
        obstacle = partial or (None if log_joint.smooth else "a prior's penalty has a kink")
        if self.optimizer == "lbfgs" and obstacle:
            raise ValueError(
                f"optimizer='lbfgs' needs all rows, smooth penalties and a fixed network, but {obstacle}; take "
                f"{'prox-adam' if kinked else 'adam'!r}."
            )
        if self.optimizer == "fista" and (partial or log_joint.kinked_outputs):
            raise ValueError(
                "optimizer='fista' needs all rows, a fixed network and no kinked prior on an output, but "
                f"{partial or 'an output has one'}; take 'prox-adam' or 'adam'."
            )
        if self.optimizer != "auto":
            history.notes.append(f"{self.optimizer}: asked for.")
            return self.optimizer
        if not obstacle and has_kinks(log_joint):
            obstacle = "the network is piecewise linear, and a line search stalls where the pieces meet"
        chosen = ("prox-adam" if kinked else "adam") if obstacle else "lbfgs"
        known = not log_joint.model.likelihood.latents and not log_joint.kinked_outputs
        known = known and log_joint.model.likelihood.log_concave
        if kinked and known and not partial and is_affine(log_joint, data):
            chosen, obstacle = "fista", "the network is linear in its weights, and a prior's penalty has a kink"
        history.notes.append(f"{chosen}: {obstacle or 'the objective is smooth and sees all rows'}.")
        return chosen

    def _best_of_many(
        self,
        log_joint: LogJoint,
        own: tuple[LogJoint, torch.Tensor],
        data: Data,
        batch_size: int | None,
        optimizer: str,
        history: History,
        report: ProgressCallback,
    ) -> tuple[LogJoint, torch.Tensor, list[float]]:
        """See `restarts.best_of_many`; smooth objectives go on to their own mode, so that they can be told apart."""
        to_mode = lambda u: self._lbfgs(log_joint, u, data, History(), lambda step, total, nats: None)  # noqa: E731
        options = {"num_steps": self.num_steps, "learning_rate": self.learning_rate, "jacobian": self.jacobian}
        finish = to_mode if optimizer == "lbfgs" else None
        with rescuing(self._rescue(own[0].model, history, own[1])):
            return best_of_many(log_joint, own, data, self.num_restarts, batch_size, finish, history, report, **options)

    def _lbfgs(
        self, log_joint: LogJoint, start: torch.Tensor, data: Data, history: History, report: ProgressCallback
    ) -> torch.Tensor:
        options = {"jacobian": self.jacobian, "num_steps": self.num_steps, "history": history, "report": report}
        with rescuing(self._rescue(log_joint.model, history)):
            return lbfgs(log_joint, start, data, **options)

    def _fista(self, log_joint: LogJoint, start: torch.Tensor, data: Data, history: History) -> torch.Tensor:
        wide = in_double(log_joint, start, data)
        u = polish(*wide, jacobian=self.jacobian, num_steps=self.num_steps or 2000).to(start.dtype)
        history.notes.append(f"fista: {exact_zeros(log_joint, u):,} weights are exactly zero.")
        return u

    def _can_polish(self, log_joint: LogJoint, batch_size: int | None, data: Data) -> bool:
        """True where proximal steps end a search: a weight's penalty has a kink, no activation's has, all rows are there."""
        kinked = bool(log_joint.kinked) and not log_joint.kinked_outputs
        return kinked and batch_size is None and data.x is not None and log_joint.model.behaviour.deterministic

    def further(self, log_joint: LogJoint, u: torch.Tensor, data: Data, batch_size: int | None) -> torch.Tensor:
        """A further search from a candidate, by which the certificate judges it: all rows where that is affordable."""
        if self._can_polish(log_joint, batch_size, data):  # Adam only oscillates about a kink
            return polish(*in_double(log_joint, u, data), jacobian=self.jacobian, num_steps=PROBE_STEPS)
        if data.num_data * len(u) <= PROBE_ENTRIES:
            batch_size = None
        options = {"jacobian": self.jacobian, "training": False, "rows_a_batch": data.rows_a_batch}
        training = TrainingCopy(log_joint, u, data.num_data, **options)
        run(
            EagerAdam(training.flat, training.backward),
            data.batches(batch_size, torch.Generator().manual_seed(0)),
            Schedule(PROBE_STEPS, 1e-3),
            layout=log_joint.layout,
            report=lambda step, total, objective: None,
            history=History(),
            objective=training.objective,
        )
        return training.flat.detach()

    def _options(self) -> SearchOptions:
        return SearchOptions(**{field.name: getattr(self, field.name) for field in dataclasses.fields(SearchOptions)})
