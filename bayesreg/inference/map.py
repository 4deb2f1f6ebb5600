"""MAP: the mode of the posterior, which is what a regularised fit is. SVI with a Delta guide, without the tracing.

θ* = argmax log p(y | θ) + log p(θ)  =  argmin loss(θ) + penalty(θ)
"""

from __future__ import annotations

import copy
import dataclasses
import os
import time
from typing import Any, ClassVar, Self

from bayesreg.certificates.constant import escaped
from bayesreg.certificates.has_mode import check_has_mode
from bayesreg.certificates.solution import judged
from bayesreg.data.rows import Data
from bayesreg.inference.base import AbstractMethod
from bayesreg.model.model import BayesianModel
from bayesreg.objective.flat import LogJoint
from bayesreg.posteriors.dirac import Dirac
from bayesreg.posteriors.record import FitRecord, stopped
from bayesreg.solvers.base import Problem, Solution
from bayesreg.solvers.batches import resolve_batch
from bayesreg.solvers.choice import check_choice, searched
from bayesreg.solvers.early_stopping import hold_out
from bayesreg.solvers.failures import FitError, rescuing
from bayesreg.solvers.history import History
from bayesreg.solvers.options import SearchOptions
from bayesreg.solvers.progress import ProgressCallback
from bayesreg.solvers.restarts import best_of_many, check_restarts


class MAP(AbstractMethod):
    """The most probable point: SVI with a Delta guide (`pyro.infer.autoguide.AutoDelta`), same objective, same mode.

    `optimizer="auto"` says which optimizer it chose, and why, in `history.notes`:

    | the model and its data | optimizer |
    |---|---|
    | some rows at a step, or a network that differs in training | "adam", and "prox-adam" where a penalty has a kink |
    | all rows, linear in the weights, known Gaussian noise | closed form, or coordinate descent with a duality gap |
    | all rows, linear in the weights, a kink, other likelihoods | "fista", finished by Newton steps on what is not zero |
    | all rows, smooth | "lbfgs", finished by Newton steps up to 500 unknowns |
    | all rows, a ReLU network | "adam", finished in coordinates whitened by the Gauss–Newton matrix up to 2,000 unknowns |
    | all rows, a kink (Laplace, ElasticNet, GroupLasso) | "prox-adam", ended by "fista": exact zeros |

    Args:
        optimizer: "auto", or one of "adam" (a subgradient at a kink: no exact zeros), "prox-adam" (proximal steps in Adam's own
            metric: exact zeros, also from mini-batches), "lbfgs" (all rows, smooth), "fista" (all rows; for convex problems
            with a kink), "least-squares" (linear in the weights, known Gaussian noise); or the name of any other
            `AbstractSolver`.
        num_steps: Steps at most for "lbfgs" and "fista" (2,000 when None), exactly for the others. None lets these go on until
            they have converged: the rate is constant while the objective rises more than its noise, then falls to zero along
            half a cosine over a third of all steps (10,000 at most, or 30 epochs of mini-batches). Where "auto" finishes in
            whitened coordinates these are 1,000 steps, and rounds of 300 (twelve at most) until a fall of the rate gains no
            more than the certificate's tolerance. `history.notes` says why it ended. With schedule="constant", several cycles
            or validation_fraction None is 5,000 steps, or 30 epochs.
        learning_rate: Adam's first rate; 0.01 when None.
        batch_size: Rows a step; when None all rows up to 10,000, or while rows × unknowns ≤ 10⁷, and 256 above. A loader brings
            its own batches.
        jacobian: False for the mode in constrained space, as Pyro's AutoDelta; True for the mode of the unconstrained density,
            which a Laplace approximation needs. They differ for positive unknowns only.
        compile: True to compile the whole step, optimizer included; False not to; "auto" where it pays: for 50,000 steps or
            more of a small model. Compiling takes some ten seconds.
        schedule: "cosine", the rate falling to zero along half a cosine, or "constant".
        num_cycles: More than one starts the cosine anew: warm restarts.
        clip_norm: Largest norm of the gradient of the log-joint divided by N; None for no bound.
        validation_fraction: Part of the rows that is held out; the point with their best log-density is returned, and the
            search stops when `patience` checks in a row have found no better one (there are a hundred in a fit). Such a point
            is no mode, and its certificate says so.
        patience: Checks; 10 when None.
        num_restarts: Starts: the module's own weights, and others as its layers draw them anew, whose fits run side by side as
            one. The best is kept, and how far the others came is in the certificate.
        checkpoint: A file where a running fit keeps its state. If it exists when the fit starts, the fit continues from it, to
            the same answer as without the interruption; it is deleted once there is a posterior. One fit at a time may use it.
            A fit with other data, settings or code refuses it; a loader is read once for that check.
        checkpoint_every: Steps between two states, a hundredth of the fit at least; a twentieth when None.
        checkpoint_key: A text that names a loader's data, in place of reading it: other data need another text.
        scale_invariant: How to treat weights that a BatchNorm follows. It cancels their length, f(x; c·v) = f(x; v) for each
            output unit v and every c > 0, so that a Gaussian prior on them does not restrict the function: it only shrinks v,
            and the shorter v, the further a step turns it (van Laarhoven 2017; Hoffer et al. 2018). "free" leaves them so, and
            the certificate reports the lengths; "unit-norm" holds each output unit at norm 1, where such a prior is a constant;
            for "adam", and "prox-adam" without a kink on them.
        certify: How far to check that the answer is a mode. "full" spends on it what it takes; "auto" a quarter of the search
            at most, where the search is one by steps (of 3,000, where it ended by itself before them), and says so where that
            does not suffice; False does not look, and estimates the log-joint of many rows from some.

    Raises:
        ValueError: If an argument is out of its range, or an optimizer is asked for where it does not fit.

    References:
        Kingma and Ba (2015), Adam. Yun, Lozano and Yang (2021), Adaptive proximal gradient methods for structured neural
        networks. Beck and Teboulle (2009), A fast iterative shrinkage-thresholding algorithm for linear inverse problems.
        van Laarhoven (2017), L2 regularization versus batch and weight normalization. Hoffer, Banner, Golan and Soudry (2018),
        Norm matters: efficient and accurate normalization schemes in deep networks. Amari (1998), Natural gradient works
        efficiently in learning.
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
        certify: str | bool = "auto",
    ) -> None:
        self.keep_in(checkpoint, checkpoint_every, checkpoint_key)
        self.options = SearchOptions(
            optimizer=optimizer,
            num_steps=num_steps,
            learning_rate=learning_rate,
            batch_size=batch_size,
            jacobian=jacobian,
            compile=compile,
            schedule=schedule,
            num_cycles=num_cycles,
            clip_norm=clip_norm,
            validation_fraction=validation_fraction,
            patience=patience,
            num_restarts=num_restarts,
            checkpoint=checkpoint,
            scale_invariant=scale_invariant,
            certify=certify,
        )
        check_choice(self.options)

    def __getattr__(self, name: str) -> Any:
        """A setting by its name, as other methods have them: `MAP(num_steps=5).num_steps`.

        Raises:
            AttributeError: If there is none of that name.
        """
        if name != "options" and name in SearchOptions.__dataclass_fields__:
            return getattr(self.options, name)
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def but(self, **changed: Any) -> Self:
        """The same method with other settings, `mode.but(jacobian=True)`; see `SearchOptions`."""
        made = copy.copy(self)
        made.options = dataclasses.replace(self.options, **changed)
        return made

    def eager(self) -> Self:
        """See `AbstractMethod.eager`."""
        return self.but(compile=False)

    def run(self, model: BayesianModel, data: Data, *, seed: int, report: ProgressCallback) -> Dirac:
        """Fit; see `AbstractMethod.run`.

        Raises:
            ValueError: If the model has no mode: a prior's scale is unknown too, or a prior has a pole.
            FitError: If the loss stops being finite or a loader raises; its `posterior` is the last good point.
        """
        started = time.perf_counter()
        check_has_mode(model)
        history, held_out = History("log joint"), None
        options = dataclasses.replace(self.options, checkpoint=self.checkpoint)
        if options.validation_fraction is not None:
            model, data, held_out = hold_out(model, data, options.validation_fraction, history)
        log_joint, restarts = LogJoint(model), None
        if options.num_restarts > 1:
            check_restarts(log_joint, data, options)
        batch_size = resolve_batch(options.batch_size, data, log_joint)
        problem = Problem(log_joint, data, batch_size, options, seed, held_out)
        space = "unconstrained" if options.jacobian else "constrained"

        def rescued(failure: FitError) -> Dirac | None:
            good: Solution | None = failure.solution
            return good and Dirac(good.model, stopped(self.name, seed, history, failure, space), good.u)

        with rescuing(rescued):
            search = searched(problem, history, report)
            found, tried = escaped(search, history)
            if options.num_restarts > 1:
                found, restarts = best_of_many(search, found, history, report)
        certificate = judged(search.problem, search.start, found, restarts, tried)
        record = FitRecord(self.name, seed, history, certificate, time.perf_counter() - started, space)
        return Dirac(found.model, record, found.u)
