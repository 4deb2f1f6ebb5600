"""Ensembles: many modes from random starts, fitted at once; anchored, draws of the posterior where it is linear-Gaussian."""

from __future__ import annotations

import dataclasses
import time
from typing import Any, ClassVar

import torch

from bayesreg import _check
from bayesreg.certificates.certificate import Certificate
from bayesreg.certificates.has_mode import check_has_mode
from bayesreg.certificates.members import of_members
from bayesreg.certificates.outcome import Finding
from bayesreg.certificates.solution import judged
from bayesreg.data.rows import Data
from bayesreg.inference.base import AbstractMethod
from bayesreg.inference.map import MAP
from bayesreg.model.model import BayesianModel
from bayesreg.objective.affine import affine_problem
from bayesreg.objective.batched import is_replicable
from bayesreg.objective.flat import LogJoint
from bayesreg.objective.pieces import is_nonsmooth
from bayesreg.posteriors.base import AbstractPosterior
from bayesreg.posteriors.draws import Draws
from bayesreg.posteriors.record import FitRecord
from bayesreg.posteriors.refreshed import with_running_averages
from bayesreg.solvers.base import Problem, Solution
from bayesreg.solvers.batched import fit_many
from bayesreg.solvers.batched_early import fit_many_early
from bayesreg.solvers.batches import resolve_batch
from bayesreg.solvers.early_stopping import hold_out
from bayesreg.solvers.history import History
from bayesreg.solvers.progress import ProgressCallback
from bayesreg.solvers.restarts import fresh, starts
from bayesreg.solvers.stepwise import SETTLED
from bayesreg.solvers.whitened import can_settle

_JUDGED = 3  # members that are held against the conditions of a mode
_ROWS = 50  # training rows in which members are compared


class Ensemble(AbstractMethod):
    """Modes from random starts, side by side; with `anchored`, each about its own prior draw and on data of its own.

    A deep ensemble mixes the networks that training from several random starts finds. It says how far modes lie apart, not how
    wide each is, so that it is no posterior: a model with one mode gives the same member again and again.

    Anchored, member r is argmin Σᵢ (yᵢ + ε_ri − f(xᵢ; w))²/(2σ²) + Σ (w − a_r)²/(2τ²),  ε_r ~ N(0, σ²), a_r from the prior.
    Where f is linear in w these are independent, exact draws of the posterior (randomise, then optimise); elsewhere an
    approximation that keeps the widths of directions which the data leave to the prior.

    Args:
        num_members: R.
        anchored: Perturb prior and data of each member. It needs Gaussian noise of known scale and Normal or flat priors.
        num_steps: Adam's steps; when None 1,000 and then rounds until each member has converged, as in `MAP`, or 2,000 or 30
            epochs of mini-batches where there are no such rounds. A linear-Gaussian model needs none.
        learning_rate: Adam's first rate, falling to zero along half a cosine; 0.01 when None.
        batch_size: Rows a step; when None as for `MAP`.
        validation_fraction: Part of the rows that is held out; each member is its point with their best log-density.
        patience: Checks without improvement after which a member is done; 10 when None.
        temperature: T of an anchored ensemble, whose perturbations are √T as large; a mode has none.

    Raises:
        ValueError: If an argument is out of its range, or two of them exclude each other.

    References:
        Lakshminarayanan, Pritzel and Blundell (2017), Simple and scalable predictive uncertainty estimation using deep
        ensembles. Pearce, Leibfried, Brintrup, Zaki and Neely (2020), Uncertainty in neural networks: approximately Bayesian
        ensembling. Bardsley, Solonen, Haario and Laine (2014), Randomize-then-optimize.

    >>> import bayesreg as br
    >>> x, y = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([0.0, 1.0, 2.0])
    >>> net = torch.nn.Linear(1, 1, bias=False)
    >>> model = br.BayesianModel(net, br.priors.Normal(1.0), br.likelihoods.Gaussian(1.0))
    >>> draws = br.fit(model, x, y, method=Ensemble(num_members=4000, anchored=True))   # N(5/6, 1/6)
    >>> abs(float(draws.mean["weight"]) - 5 / 6) < 0.03, abs(float(draws.std["weight"]) * 6**0.5 - 1) < 0.05
    (True, True)
    """

    name: ClassVar[str] = "ensemble"
    when: ClassVar[str] = (
        "A network that trains in seconds: a few members are the strongest cheap answer. Anchored, for linear-Gaussian models, "
        "independent exact draws."
    )

    def __init__(
        self,
        num_members: int = 10,
        anchored: bool = False,
        num_steps: int | None = None,
        learning_rate: float | None = None,
        batch_size: int | None = None,
        *,
        validation_fraction: float | None = None,
        patience: int | None = None,
        temperature: float = 1.0,
    ) -> None:
        self.num_members, self.anchored = _check.count("num_members", num_members), _check.flag("anchored", anchored)
        self.temperature = _check.positive("temperature", temperature)
        if self.temperature != 1.0 and not self.anchored:
            raise ValueError(
                f"temperature must be 1 where members are modes, the same at every one, but {temperature!r} came; take "
                "anchored=True, or a sampler."
            )
        if self.anchored and validation_fraction is not None:
            raise ValueError(
                "an anchored member must be the mode of its perturbed data, but validation_fraction came, which stops before "
                "it; leave one of the two out."
            )
        words: dict[str, Any] = {"num_steps": num_steps, "learning_rate": learning_rate, "batch_size": batch_size}
        self.alone = MAP(**words, validation_fraction=validation_fraction, patience=patience)  # checks them too
        self.options = self.alone.options

    def run(self, model: BayesianModel, data: Data, *, seed: int, report: ProgressCallback) -> AbstractPosterior:
        """Fit; see `AbstractMethod.run`.

        Raises:
            ValueError: If the model has no mode, is none that can be anchored, or an anchored one's rows are streamed.
            FitError: If a member's loss stops being finite.
        """
        started, history = time.perf_counter(), History("log joint")
        check_has_mode(model)
        models, targets = self._perturbed(model, data)
        exact = affine_problem(LogJoint(model), data) is not None
        together = is_replicable(LogJoint(model)) and data.x is not None
        if together:
            members = self._together(model, data, models, targets, exact, history, report)
        else:
            members = self._one_by_one(models, data, targets, seed, history, report)
        u, nats, trained, certificates = members
        what = "modes from random starts"
        if self.anchored:
            what = "independent exact draws" if exact else "draws that are exact only where the network is linear"
        outputs = _outputs(u, trained, data)
        nats = None if self.anchored else nats
        certificate = of_members(certificates, nats, outputs, what=what, temperature=self.temperature)
        how = "side by side" if together else "one after the other"
        history.notes.append(f"{self.num_members:,} members, fitted {how}{', anchored' * self.anchored}.")
        record = FitRecord(self.name, seed, history, certificate, time.perf_counter() - started)
        base = trained[0] if not self.anchored else model.with_module(trained[0].module)
        return with_running_averages(Draws(base, record, u), u, trained)

    def _perturbed(self, model: BayesianModel, data: Data) -> tuple[list[BayesianModel], torch.Tensor | None]:
        """The model of each member, one where they are alike, and their prepared targets, (R, N) or (R, N, K).

        Raises:
            ValueError: If the model cannot be anchored, or rows are streamed.
        """
        if not self.anchored:
            return [model], None
        _, y = data.full("an anchored ensemble")
        sigma = model.likelihood.fixed.get(model.likelihood.squared_error_scale or "")
        if sigma is None:
            raise ValueError(
                f"anchored=True perturbs targets by noise, which must be Gaussian of known scale, but {model.likelihood!r} "
                "came; give its scale as a number, likelihoods.Gaussian(0.5), or take anchored=False."
            )
        if model.outputs:
            raise ValueError(
                "anchored=True perturbs priors on weights, but a prior on a layer's output came; leave one of them out."
            )
        width, count = self.temperature**0.5, self.num_members
        anchors: dict[str, torch.Tensor] = {}
        for name, latent in model.latents.items():
            known = None if latent.parents else latent.prior.gaussian(latent.shape)
            if known is None:
                raise ValueError(
                    f"anchored=True draws each member's prior mean from a Gaussian prior of known scale, but {name} has "
                    f"{latent.prior!r}; give it Normal(scale), or take anchored=False."
                )
            if bool((known[1] > 0).any()):  # what is flat has no mean to be drawn
                options = {"dtype": model.like.dtype, "device": model.like.device}
                drawn = latent.prior.draw(latent.shape, count, options)
                anchors[name] = known[0] + width * (drawn - known[0])
        noise = width * model.noise({})[str(model.likelihood.squared_error_scale)]
        targets = y + noise * torch.randn(count, *y.shape, dtype=y.dtype, device=y.device)
        return [model.centred_at({name: value[r] for name, value in anchors.items()}) for r in range(count)], targets

    def _together(
        self,
        model: BayesianModel,
        data: Data,
        models: list[BayesianModel],
        targets: torch.Tensor | None,
        exact: bool,
        history: History,
        report: ProgressCallback,
    ) -> tuple[torch.Tensor, torch.Tensor, list[BayesianModel], list[Certificate]]:
        """All members in one batched run: points, log-joints, models, and certificates of some."""
        o, held_out = self.options, None
        if o.validation_fraction is not None:
            model, data, held_out = hold_out(model, data, o.validation_fraction, history)
            models, exact = [model], False
        joints = [LogJoint(one) for one in models]
        begin = starts(joints[0], *next(data.epoch()), 1 if exact else self.num_members).expand(self.num_members, -1)
        size = resolve_batch(o.batch_size, data, joints[0])
        settles = not exact and held_out is None and o.num_steps is None and can_settle(Problem(joints[0], data, size, o))
        steps = o.num_steps or (SETTLED if settles else max(2000, 30 * data.steps_an_epoch(size)))
        words: dict[str, Any] = {
            "learning_rate": o.learning_rate or 0.01,
            "batch_size": o.batch_size,
            "generator": torch.Generator().manual_seed(torch.initial_seed()),
            "report": report,
            "history": history,
        }
        if held_out is not None:
            early = {**words, "num_steps": steps, "patience": o.patience or 10}
            u, nats, trained = fit_many_early(joints[0], begin, data, held_out, **early)
            return u, nats, trained, [Certificate(Finding.STOPPED_EARLY)] * self.num_members
        smooth = exact or not is_nonsmooth(joints[0])
        how = {"num_steps": 0 if exact else steps, "polish": smooth, "settles": settles, "targets": targets}
        u, nats, trained = fit_many(joints, begin, data, **how, **words)
        if exact:
            report(1, 1, float(nats.max()))
        found = []
        for r in range(min(_JUDGED, self.num_members)):
            rows = data if targets is None else dataclasses.replace(data, y=targets[r])
            problem = Problem(joints[r % len(joints)], rows, size, self.options)
            found.append(judged(problem, begin[r], Solution(u[r], trained[r]), None, None))
        return u, nats, trained, found

    def _one_by_one(
        self,
        models: list[BayesianModel],
        data: Data,
        targets: torch.Tensor | None,
        seed: int,
        history: History,
        report: ProgressCallback,
    ) -> tuple[torch.Tensor, torch.Tensor | None, list[BayesianModel], list[Certificate]]:
        """The same by `MAP`, from each start in turn: dropout, unknown noise of a kind of its own, streamed rows."""
        points, trained, certificates, count = [], [], [], self.num_members
        for r in range(count):
            begin = models[r % len(models)]
            rows = data if targets is None else dataclasses.replace(data, y=targets[r])
            told = lambda step, total, nats, r=r: report(r * total + step, count * total, nats)  # noqa: E731
            mode = self.alone.run(fresh(begin), rows, seed=seed, report=told)
            points.append(mode.loc)
            trained.append(mode.model)
            certificates.append(mode.certificate)
            history.record(r, mode.history.objective[-1])
        return torch.stack(points), None, trained, certificates


def _outputs(u: torch.Tensor, models: list[BayesianModel], data: Data) -> torch.Tensor:
    """Each member's outputs in some training rows, (R, Q)."""
    x, _ = next(data.epoch())
    x, layout = x[:: max(1, len(x) // _ROWS)][:_ROWS], LogJoint(models[0]).layout
    with torch.no_grad():
        return torch.stack([model.forward(layout.unflatten(one), x).reshape(-1) for one, model in zip(u, models, strict=True)])
