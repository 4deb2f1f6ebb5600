"""Mean-field variational inference: one mean and one sd for each unknown, the KL in closed form where there is one."""

from __future__ import annotations

import os
from typing import Any, ClassVar

import torch

from bayesreg import _check
from bayesreg.data.rows import Data
from bayesreg.inference.empirical_bayes import Evidence, checked_tune, tuned_guide
from bayesreg.inference.guided import ENOUGH, AbstractGuided, Race, Step
from bayesreg.model.model import BayesianModel
from bayesreg.objective.flat import LogJoint
from bayesreg.objective.local_draws import LocalDraws
from bayesreg.objective.training_copy import TrainingCopy
from bayesreg.posteriors.guide import Guide
from bayesreg.posteriors.guides import MeanFieldGuide
from bayesreg.solvers.history import History
from bayesreg.solvers.progress import ProgressCallback
from bayesreg.solvers.schedules import AbstractSchedule, Settling

_RATE, _FAST = 0.02, 0.05  # of Adam: for mini-batches, for all rows
_TURN, _FALL, _SHARE = 1000, 600, 0.1  # when it begins to fall, for how long, and to what share; natural steps follow
_SETTLE = 1000  # of them, at least
# Of a network's optima those of noise that is fitted, with narrow sds, lie near a mode, those of idle units far from it.
_RACE = Race((1.0, 0.6), (300, 1000), 500)
_MOST, _LONGEST = 6000, 12_000  # steps where the ELBO rises all the way: with natural ones, and by Adam alone
_IVON = 0.1  # rate of natural-gradient steps
_FIRST = 1500  # steps before anybody asks: what a draw changes hides a slow rise
_LEAST = 1.0  # nats, a rise over a quarter of the steps that no longer matters


class MeanField(AbstractGuided):
    """Bayes by backprop: maximise ELBO = E_q[log p(y | θ)] − KL(q ‖ p) over independent normals.

    The KL is in closed form, or by quadrature for up to 2,000 independent weights under one class of prior; `history.notes`
    says which priors are met at a draw instead.

    On a linear-Gaussian model the optimum has the exact mean and sd² = 1/diag(precision): it is too narrow wherever the
    posterior is correlated, and has no correlations.

    A step draws what Linear and Conv layers put out, for each row by itself, in place of their weights where that leaves the
    ELBO as it is (`history.notes` says which layers): less noise for the same number of steps. The answer is the mean of the
    points at which the rate had nearly fallen.

    Args:
        num_steps: Steps. When None, all rows make a batch and the KL takes no draw: 500 of Adam from each of two starts, 600 as
            the rate of the one with the higher ELBO falls to a tenth, and 1,000 natural-gradient steps ("ivon"), or more while
            the ELBO rises: 6,000 at most. Elsewhere the rate is constant while the ELBO rises more than its noise, falls to a
            tenth, and stays there for a third of all steps or while the ELBO rises: 12,000 or 50 epochs at most.
        learning_rate: Adam's first rate; when None 0.01, or where num_steps is None 0.05 and 0.03 in the first case, 0.02 in
            the second. It falls to zero along a cosine where num_steps is said.
        batch_size: Rows a step; when None all rows up to 10,000, or while rows × unknowns ≤ 10⁷, and 256 above. A loader
            brings its own batches.
        num_particles: Draws a step, averaged, in antithetic pairs; more draws, smaller Monte Carlo error.
        initial_scale: Standard deviation of every unknown at the start, about the module's own weights. When None the fit
            starts at a mode, with scales from the curvature's diagonal, at most 0.1 where the network normalises by batches;
            where there is no mode, as with 0.03.
        optimizer: "adam"; or "ivon", natural-gradient steps in the guide's own metric, whose precisions are estimates of the
            curvature: no step length to tune where unknowns differ in scale. Its learning_rate is 0.1 when None.
        compile: True to compile the whole step, optimizer included; False not to; "auto" where it pays: for 50,000 steps or
            more of a small model.
        checkpoint: A file where a running fit keeps its state, to continue from it to the same answer; as for `MAP`.
        checkpoint_every: Steps between two states, a hundredth of the fit at least; a twentieth when None.
        checkpoint_key: A text that names a loader's data, in place of reading it.
        num_restarts: Starts: the module's own weights, and others as its layers draw them anew. The fit of the highest ELBO is
            kept, and the certificate says how far apart their ELBOs lie.
        tune: "evidence" to tune the scales of the priors, and a known noise scale, to the highest ELBO, as for
            `LaplaceApproximation`: shorter fits and updates of the scales take turns before the fit itself.

    Raises:
        ValueError: If an argument is out of its range.

    References:
        Graves (2011), Practical variational inference for neural networks. Blundell et al. (2015), Weight uncertainty in
        neural networks. Kingma, Salimans and Welling (2015), Variational dropout and the local reparameterization trick. Wen et
        al. (2018), Flipout: efficient pseudo-independent weight perturbations on mini-batches. Shen et al. (2024), Variational
        learning is effective for large deep networks.
    """

    name: ClassVar[str] = "mean-field"
    when: ClassVar[str] = "Many weights and many rows, in mini-batches; an sd for each weight, without correlations."

    def __init__(
        self,
        num_steps: int | None = None,
        learning_rate: float | None = None,
        batch_size: int | None = None,
        num_particles: int = 1,
        initial_scale: float | None = None,
        *,
        optimizer: str = "adam",
        compile: bool | str = "auto",
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int | None = None,
        checkpoint_key: str | None = None,
        num_restarts: int = 1,
        tune: str | Evidence | None = None,
    ) -> None:
        self.optimizer = _check.one_of("optimizer", optimizer, ("adam", "ivon"))
        if self.optimizer == "ivon" and compile is True:
            raise ValueError("compile=True needs optimizer='adam', but 'ivon' came; leave compile out.")
        super().__init__(
            num_steps,
            _IVON if learning_rate is None and self.optimizer == "ivon" else learning_rate,
            batch_size,
            num_particles,
            initial_scale,
            compile,
            checkpoint,
            checkpoint_every,
            checkpoint_key,
            num_restarts,
        )
        self.tune = checked_tune(tune)
        if self.tune is not None and checkpoint is not None:
            raise ValueError("tune='evidence' makes several fits, of which a checkpoint keeps one; leave out one of the two.")
        if self.tune is not None and num_restarts > 1:
            raise ValueError(
                f"tune='evidence' makes several fits, and so does num_restarts={num_restarts}; leave out one of the two."
            )

    def once(self, model: BayesianModel, data: Data, *, seed: int, report: ProgressCallback) -> Guide:
        """See `AbstractRestarted.once`."""
        if self.tune is not None:
            return tuned_guide(self, model, data, self.tune, seed, report)
        return super().once(model, data, seed=seed, report=report)

    def schedule(self, data: Data, batch_size: int | None) -> AbstractSchedule:
        """As many steps as were said; else until the ELBO is flat within its noise."""
        if self.num_steps is not None:
            return super().schedule(data, batch_size)
        most = max(_LONGEST, 50 * data.steps_an_epoch(batch_size))
        return Settling(most // 2, self.learning_rate or _RATE, most, share=_SHARE, least=_LEAST / data.num_data, first=_FIRST)

    def climb(self, log_joint: LogJoint, data: Data, batch_size: int | None) -> AbstractSchedule:
        """As `schedule`; on all rows it ends with natural-gradient steps, where the prior's part of them is in closed form.

        From single draws under heavy tails, as of an unknown scale, their estimates of the curvature run away.
        """
        eager = self.optimizer == "adam" and self.compile is not True and self.num_steps is None
        if not eager or batch_size is not None or data.loader is not None or not log_joint.closed_divergence:
            return self.schedule(data, batch_size)
        rate, num_steps = self.learning_rate or _FAST, _TURN + _FALL + _SETTLE
        least = max(_LEAST, ENOUGH * log_joint.layout.size)
        return Settling(num_steps, rate, _MOST, _TURN, _SHARE, least / data.num_data, fall=_FALL)

    def steps_to_start(self, log_joint: LogJoint, data: Data, batch_size: int | None, num_steps: int) -> int:
        """See `AbstractGuided.steps_to_start`; few where the ascent has long steps of its own."""
        settled = self.settled(self.climb(log_joint, data, batch_size))
        return _RACE.searches[0] if settled else super().steps_to_start(log_joint, data, batch_size, num_steps)

    def race(self, schedule: AbstractSchedule) -> Race | None:
        """See `AbstractGuided.race`: a short search and long steps, a long search and shorter ones."""
        return _RACE if self.settled(schedule) and self.learning_rate is None else None

    def settled(self, schedule: AbstractSchedule) -> bool:
        """See `AbstractGuided.settled`."""
        return isinstance(schedule, Settling) and not schedule.first

    def guide(self, log_joint: LogJoint, loc: torch.Tensor, scale: torch.Tensor) -> MeanFieldGuide:
        """See `AbstractGuided.guide`."""
        return MeanFieldGuide(log_joint.layout, loc, scale)

    def one_draw(self, guide: Any, copy: TrainingCopy, x: torch.Tensor, history: History) -> tuple[Step, list]:
        """See `AbstractGuided.one_draw`; row by row where layers allow, the KL in closed form where priors do."""
        local = LocalDraws(copy, x)
        if local.found:
            history.notes.append(f"drawn row by row: {', '.join(name or type(copy.module).__name__ for name in local.found)}.")
        return (lambda x, y: one_draw_step(guide, copy, copy.log_joint, x, y, local)), [local.noise.taken]


def one_draw_step(
    guide: MeanFieldGuide,
    copy: TrainingCopy,
    log_joint: LogJoint,
    x: torch.Tensor,
    y: torch.Tensor,
    local: LocalDraws | None = None,
) -> torch.Tensor:
    """Minus the one-draw ELBO divided by N, detached; its gradient, that of `guide.elbo`, is added to `guide.phi.grad`.

    It costs less than `guide.elbo`. The draw is written into the buffer of `copy`, a training copy of the model, and the
    network's gradient is read from that copy; the guide's part is in closed form, or goes through a graph of a few operations.

    Args:
        guide: The guide.
        copy: A training copy of the model.
        log_joint: Its log-joint.
        x: A prepared batch.
        y: Its targets.
        local: Layers of the copy whose weights are drawn row by row; None where all weights are drawn.

    Returns:
        A scalar.
    """
    loc, log_scale = guide.phi.detach().chunk(2)
    scale, each = log_scale.exp(), 1 / copy.num_data
    gradient: Any = copy.flat.grad
    gradient.zero_()
    if local is None:
        noise = torch.randn_like(loc)
        torch.addcmul(loc, scale, noise, out=copy.flat.data)
    else:
        local.noise.begin()
        noise = local.noise.normal(len(loc))
        local.set(scale, noise)
        torch.addcmul(loc, scale, noise * local.drawn, out=copy.flat.data)
    loss = copy.likelihood_loss(x, y)
    loss.backward()
    by_scale = gradient * noise
    by_scale.mul_(scale)
    if local is not None:
        by_scale.mul_(local.drawn).add_(local.by_log_scale())
    into_loc, into_scale = guide.phi.grad.chunk(2)  # pyright: ignore[reportOptionalMemberAccess]
    into_loc.add_(gradient)
    into_scale.add_(by_scale)
    if not log_joint.closed_divergence:
        u = guide.draws_at(guide.phi, noise)
        divergence = guide.divergence_at(guide.phi, log_joint, u) * each
        divergence.backward()
        return loss.detach() + divergence.detach()
    with torch.no_grad():
        total = -log_joint.log_prior_constant - guide.entropy_at(guide.phi.detach()) - log_joint.expected_log_jacobian(loc, loc)
        for group in log_joint.groups:
            where = group.slice
            energy, to_loc, to_scale = group.expected_with_slopes(loc[where], scale[where])  # pyright: ignore[reportGeneralTypeIssues]
            total += energy
            into_loc[where].add_(to_loc, alpha=each)
            into_scale[where].addcmul_(to_scale, scale[where], value=each)
        for s in log_joint.layout.in_order:
            if s.transform is not None:  # the log-Jacobian of exp
                into_loc[s.slice].sub_(each)
        into_scale.sub_(each)  # the entropy
        return loss.detach() + total * each
