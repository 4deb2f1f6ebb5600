"""Full-rank variational inference: one normal with every correlation, from the Laplace approximation upwards."""

from __future__ import annotations

import abc
import math
import os
from typing import Any, ClassVar

import torch

from bayesreg import _check
from bayesreg.behaviour import first_line
from bayesreg.data.rows import Data
from bayesreg.inference.guided import AbstractGuided, Step
from bayesreg.inference.laplace import LaplaceApproximation
from bayesreg.inference.map import MAP
from bayesreg.model.model import BayesianModel
from bayesreg.objective.flat import LogJoint
from bayesreg.objective.training_copy import TrainingCopy
from bayesreg.objective.whole import values_of
from bayesreg.posteriors.guide import Guide
from bayesreg.posteriors.guides import AbstractFamily
from bayesreg.posteriors.normal_guides import AbstractCorrelated, FullRankGuide, paired
from bayesreg.solvers.failures import FitError
from bayesreg.solvers.history import History
from bayesreg.solvers.progress import ProgressCallback

_WIDTHS, _DRAWS = (1.0, 0.5, 0.25, 0.125, 0.0625), 16


class AbstractFromLaplace(AbstractGuided):
    """A variational method whose normal starts from the Laplace approximation, where the model has one of that size."""

    draws_by_copy: ClassVar[int] = 4
    start_parameters: ClassVar[int]  # up to so many unknowns the covariance at the mode is looked for

    @abc.abstractmethod
    def from_normal(self, log_joint: LogJoint, loc: torch.Tensor, factor: torch.Tensor) -> AbstractFamily:
        """The guide of this family nearest to N(loc, factor · factorᵀ), factor (P, P)."""

    def one_draw(self, guide: Any, copy: TrainingCopy, x: torch.Tensor, history: History) -> tuple[Step, list]:
        """See `AbstractGuided.one_draw`; a step of `num_particles` draws."""
        return (lambda x, y: pairs_by_copy(guide, copy, copy.log_joint, x, y, self.num_particles)), []

    def first_guide(
        self,
        log_joint: LogJoint,
        data: Data,
        batch_size: int | None,
        num_steps: int,
        seed: int,
        history: History,
        report: ProgressCallback,
    ) -> AbstractFamily:
        """The Laplace approximation, as wide as is best; the start of `MeanField` where there is none."""
        found = None
        if self.initial_scale is None and log_joint.layout.size <= self.start_parameters:
            found = self._laplace(log_joint, data, num_steps, seed, history, report)
        return found or super().first_guide(log_joint, data, batch_size, num_steps, seed, history, report)

    def _laplace(
        self, log_joint: LogJoint, data: Data, num_steps: int, seed: int, history: History, report: ProgressCallback
    ) -> AbstractFamily | None:
        def searching(step: int, total: int, nats: float, said: str = "") -> None:
            report(0, num_steps, nats, said or f"search for a start, {step}/{total}")

        laplace = LaplaceApproximation(mode=MAP(num_steps=self.num_steps), max_parameters=self.start_parameters)
        try:
            found = laplace.run(log_joint.model, data, seed=seed, report=searching)
            normal = found.as_normal()
        except FitError:  # what breaks there breaks here
            raise
        except Exception as error:  # a fit that can begin elsewhere is not given up
            history.notes.append(f"no Laplace approximation to start from: {first_line(error)}")
            return None
        if normal is None or normal[1].dim() != 2 or normal[1].shape[1] != log_joint.layout.size:
            return None
        loc, factor = normal
        width = _best_width(log_joint, loc, factor, data)
        history.notes.append(f"starts from the Laplace approximation{'' if width == 1 else f', {width:g} times as wide'}.")
        return self.from_normal(log_joint, loc, width * factor)


def pairs_by_copy(
    guide: AbstractCorrelated, copy: TrainingCopy, log_joint: LogJoint, x: torch.Tensor, y: torch.Tensor, num_particles: int
) -> torch.Tensor:
    """Minus the ELBO of a few draws divided by N, detached; its gradient, that of `guide.elbo`, is added to `guide.phi.grad`.

    As in `guided.one_draw_by_graph`, the network's gradient is read from a training copy, draw by draw; that of the prior
    and of the guide is in closed form.
    """
    each, phi = 1 / copy.num_data, guide.phi
    noise = paired(torch.randn(num_particles, guide.noise_size, dtype=phi.dtype, device=phi.device))
    draws, log_q = guide.drawn(noise)
    slopes, total, gradient = torch.empty_like(draws), log_q.mean() * each, copy.flat.grad
    for u, slope in zip(draws, slopes, strict=True):
        copy.flat.data.copy_(u)
        gradient.zero_()  # pyright: ignore[reportOptionalMemberAccess]
        loss = copy.likelihood_loss(x, y)
        loss.backward()
        with torch.no_grad():
            slope.copy_(gradient)  # pyright: ignore[reportArgumentType]
            for group in log_joint.groups:
                slope[group.slice].add_(group.slope(u[group.slice], jacobian=True), alpha=each)
            prior = log_joint.log_prior(u) + log_joint.layout.log_jacobian(u)
            total = total + (loss.detach() - prior * each) / num_particles
    guide.pull_back(noise, slopes, each)
    return total


def _best_width(log_joint: LogJoint, loc: torch.Tensor, factor: torch.Tensor, data: Data) -> float:
    """By what a normal's factor is best multiplied, by a few draws of the ELBO: far from a mode a network is another one."""
    noise = torch.randn(_DRAWS // 2, factor.shape[1], dtype=loc.dtype, device=loc.device)
    away = torch.cat([noise, -noise]) @ factor.mT
    elbos = [
        float(values_of(log_joint, loc + width * away, data, jacobian=True).mean()) + len(loc) * math.log(width)
        for width in _WIDTHS
    ]
    found = [elbo if math.isfinite(elbo) else -math.inf for elbo in elbos]
    return _WIDTHS[found.index(max(found))]


class FullRank(AbstractFromLaplace):
    """A normal with a full covariance over the unconstrained vector, where its ELBO is largest.

    On a linear-Gaussian model the optimum is the posterior itself, and the ELBO the log evidence. It starts from the Laplace
    approximation and differs from it where the posterior is not normal: it looks at the posterior's bulk, not at the curvature
    of one point, and its predictions go through the network itself.

    Args:
        num_steps: Steps; 5,000, or 50 epochs of mini-batches, when None.
        learning_rate: Adam's first rate, in units of the start's standard deviations, falling to zero along a cosine; 0.01 when
            None.
        batch_size: Rows a step, as for `MeanField`.
        num_particles: Draws a step, averaged, in pairs of opposite noise.
        initial_scale: Sd of every unknown at the start, about the module's own weights; None to start from the Laplace
            approximation, or as `MeanField` where there is none.
        max_parameters: Refuse more unknowns than this: a step takes P² operations, and Adam 32·P² bytes.
        compile: As for `MeanField`.
        checkpoint: As for `MAP`.
        checkpoint_every: Steps between two states.
        checkpoint_key: A text that names a loader's data.
        num_restarts: Starts: the module's own weights, and others as its layers draw them anew. The fit of the highest ELBO is
            kept, and the certificate says how far apart their ELBOs lie.

    Raises:
        ValueError: If an argument is out of its range.

    References:
        Kucukelbir, Tran, Ranganath, Gelman and Blei (2017), Automatic differentiation variational inference. Roeder, Wu and
        Duvenaud (2017), Sticking the landing.

    >>> import bayesreg as br
    >>> x = torch.linspace(-1, 1, 20, dtype=torch.float64)[:, None]
    >>> net = torch.nn.Linear(1, 1).double()
    >>> model = br.BayesianModel(net, br.priors.Normal(1.0), br.likelihoods.Gaussian(0.5))
    >>> fit = lambda method: br.fit(model, x, 2 * x[:, 0] + 1, method=method)
    >>> full, exact = fit(FullRank(num_steps=200)), fit("exact")
    >>> abs(full.history.objective[-1] - exact.log_evidence) < 1e-3
    True
    """

    name: ClassVar[str] = "full-rank"
    when: ClassVar[str] = "Up to some hundred weights: correlations, by the posterior's bulk and not only at its mode."
    start_parameters: ClassVar[int] = 2000

    def __init__(
        self,
        num_steps: int | None = None,
        learning_rate: float | None = None,
        batch_size: int | None = None,
        num_particles: int = 2,
        initial_scale: float | None = None,
        max_parameters: int = 2000,
        *,
        compile: bool | str = "auto",
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int | None = None,
        checkpoint_key: str | None = None,
        num_restarts: int = 1,
    ) -> None:
        kept = (checkpoint, checkpoint_every, checkpoint_key, num_restarts)
        super().__init__(num_steps, learning_rate, batch_size, num_particles, initial_scale, compile, *kept)
        self.max_parameters = _check.count("max_parameters", max_parameters)

    def once(self, model: BayesianModel, data: Data, *, seed: int, report: ProgressCallback) -> Guide:
        """See `AbstractRestarted.once`.

        Raises:
            ValueError: If the model has too many unknowns.
        """
        if (count := model.num_parameters) > self.max_parameters:
            raise ValueError(
                f"FullRank takes at most max_parameters={self.max_parameters:,} unknowns, but the model has {count:,}, a "
                f"factor of {8e-9 * count**2:.1f} GB; take LowRank or MeanField, a smaller network, or a larger max_parameters."
            )
        return super().once(model, data, seed=seed, report=report)

    def guide(self, log_joint: LogJoint, loc: torch.Tensor, scale: torch.Tensor) -> FullRankGuide:
        """See `AbstractGuided.guide`."""
        return FullRankGuide(log_joint.layout, loc, scale.diag())

    def from_normal(self, log_joint: LogJoint, loc: torch.Tensor, factor: torch.Tensor) -> Any:
        """That normal, by its triangular factor."""
        root = torch.linalg.qr(factor.double().mT, mode="r").R.mT
        root = root * root.diagonal().sign()  # F Fᵀ = R Rᵀ for any signs of R's columns
        return FullRankGuide(log_joint.layout, loc, root.to(loc))
