"""Variational inference with a guide of Pyro's: its parameters climb the ELBO here, and it becomes a posterior."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import torch
from pyro.infer.autoguide import AutoLowRankMultivariateNormal
from torch import nn

from bayesreg import _check
from bayesreg._threads import drawing
from bayesreg.certificates.certificate import Certificate
from bayesreg.certificates.elbo import maximal, rise
from bayesreg.certificates.mode import why_not_judged
from bayesreg.certificates.outcome import Finding
from bayesreg.data.rows import Batch, Data
from bayesreg.inference.variational import AbstractRestarted, Ascent
from bayesreg.model.model import BayesianModel
from bayesreg.objective.flat import LogJoint
from bayesreg.objective.training_copy import TrainingCopy
from bayesreg.objective.whole import of_rows
from bayesreg.posteriors.guide import Guide
from bayesreg.posteriors.pyro_guide import PyroGuide
from bayesreg.posteriors.pyro_setup import name_of, prepared
from bayesreg.posteriors.record import FitRecord
from bayesreg.solvers.progress import ProgressCallback
from bayesreg.solvers.stepper import EagerAdam

_REPEATS, _PARTICLES, _DRAWS, _MOVE = 30, 8, 200, 1e-4


class SVI(AbstractRestarted):
    """Stochastic variational inference with any guide of Pyro's over the model's unknowns.

    The guide may be a class (`AutoIAFNormal`), a function that makes one of a program (`lambda model: AutoIAFNormal(model,
    num_transforms=2)`), one that is there already (`AutoIAFNormal(model.pyro_model)`, an `AutoGuideList`), also with parameters
    of its own, or a function that draws every unknown, with `pyro.param` statements. An autoguide begins at the module's own
    weights, not at medians of the prior. It climbs the same ELBO as by `pyro.infer.SVI`, on the flat log-joint and without
    Pyro's parameter store. `posterior.guide` is a Pyro guide of `model.pyro_model`. Where it is normal (AutoNormal,
    AutoDiagonalNormal, AutoMultivariateNormal, AutoLowRankMultivariateNormal, AutoGaussian, AutoNormalMessenger, AutoDelta, and
    lists of them) its moments are exact, and so are predictions of a network that is linear, or linearised.

    Args:
        guide: The guide; AutoLowRankMultivariateNormal when None. What is passed is not changed.
        num_steps: Steps; 5,000, or 50 epochs of mini-batches, when None.
        learning_rate: Adam's first rate, falling to zero along a cosine; 0.01 when None.
        batch_size: Rows a step, as for `MeanField`.
        num_particles: Draws a step, averaged.
        checkpoint: As for `MAP`.
        checkpoint_every: Steps between two states.
        checkpoint_key: A text that names a loader's data.
        num_restarts: Starts: the module's own weights, and others as its layers draw them anew. The fit of the highest ELBO is
            kept, and the certificate says how far apart their ELBOs lie.

    Raises:
        ValueError: If an argument is out of its range, or the guide is none.

    References:
        Bingham et al. (2019), Pyro: deep universal probabilistic programming. Kingma et al. (2016), Improved variational
        inference with inverse autoregressive flow.

    >>> import bayesreg as br
    >>> from pyro.infer.autoguide import AutoMultivariateNormal
    >>> x = torch.linspace(-1, 1, 20, dtype=torch.float64)[:, None]
    >>> model = br.BayesianModel(torch.nn.Linear(1, 1).double(), br.priors.Normal(1.0), br.likelihoods.Gaussian(0.5))
    >>> fit = lambda method: br.fit(model, x, 2 * x[:, 0] + 1, method=method)
    >>> flow, exact = fit(SVI(AutoMultivariateNormal, num_steps=500, learning_rate=0.05, num_particles=4)), fit("exact")
    >>> bool((flow.mean["weight"] - exact.mean["weight"]).abs() < 0.2 * exact.std["weight"])
    True
    """

    name: ClassVar[str] = "svi"
    when: ClassVar[str] = "You have a guide of Pyro's, a flow for example, and want it as a posterior beside the others."

    def __init__(
        self,
        guide: Any = None,
        num_steps: int | None = None,
        learning_rate: float | None = None,
        batch_size: int | None = None,
        num_particles: int = 1,
        *,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int | None = None,
        checkpoint_key: str | None = None,
        num_restarts: int = 1,
    ) -> None:
        super().__init__(num_steps, learning_rate, batch_size, checkpoint, checkpoint_every, checkpoint_key, num_restarts)
        self.num_particles = _check.count("num_particles", num_particles)
        if guide is not None and not callable(guide):
            raise ValueError(
                f"guide must be a guide of Pyro's, or a class or function that makes one, but {guide!r} came; pass for example "
                "pyro.infer.autoguide.AutoIAFNormal."
            )
        self.guide = AutoLowRankMultivariateNormal if guide is None else guide

    @property
    def deciding(self) -> dict[str, Any]:
        """See `AbstractMethod.deciding`; a guide by its name, since where it lies in memory decides nothing."""
        kind = type(self.guide) if isinstance(self.guide, nn.Module) else self.guide
        return {**super().deciding, "guide": getattr(kind, "__qualname__", type(kind).__qualname__)}

    def once(self, model: BayesianModel, data: Data, *, seed: int, report: ProgressCallback) -> Guide:
        """See `AbstractRestarted.once`.

        Raises:
            ValueError: If the guide does not draw the model's unknowns.
        """
        ascent = Ascent.of(model, data, self.batch_size, seed, report)
        log_joint, history, batch_size, num_data = ascent.log_joint, ascent.history, ascent.batch_size, data.num_data
        values = model.start(*next(data.epoch()))
        own_seed = int(torch.randint(2**62, ()))
        guide = PyroGuide(log_joint.layout, prepared(self.guide, model, values, own_seed))
        history.notes.append(
            f"{name_of(guide.module)} by adam: {self.num_particles} draw(s) a step, {batch_size or 'all'} rows."
        )
        copy = TrainingCopy(log_joint, log_joint.layout.flatten(values), num_data, noise=False)
        pure, phi = of_rows(log_joint), guide.flat()

        def elbo(x: torch.Tensor, y: torch.Tensor, count: int) -> torch.Tensor:
            return guide.elbo_at(guide.split(phi), pure, x, y, num_data * len(x) / data.rows_a_batch(x), count)

        def backward(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            loss = elbo(x, y, self.num_particles) * (-1 / num_data)
            loss.backward()
            if model.behaviour.normalising:  # of one draw: the pass of all draws writes no statistics
                with torch.no_grad():
                    model.forward(log_joint.layout.unflatten(guide.drawn(1, guide.split(phi))[0][0]), x, copy.module)
            return loss.detach()

        def posterior(flat: torch.Tensor, record: FitRecord) -> Guide:
            return Guide(model.with_buffers(copy.module), record, guide.holding(flat))

        def judge(flat: torch.Tensor, elbos: torch.Tensor, batches: Iterator[Batch]) -> Certificate:
            return _judged(elbos, guide, phi, lambda count: elbo(*next(batches), count), pure)

        stepper = EagerAdam(phi, backward, num_data=num_data, buffers=list(copy.module.buffers()))
        return self.ascend(ascent, phi.detach(), stepper, self.schedule(data, batch_size), posterior, judge)


def _judged(
    elbos: torch.Tensor, guide: PyroGuide, phi: torch.Tensor, elbo: Callable[[int], torch.Tensor], log_joint: LogJoint
) -> Certificate:
    try:
        gain = gain_along(guide, phi, elbo)
    except Exception as error:  # a finished fit is never lost
        return dataclasses.replace(rise(elbos), finding=Finding.NOT_JUDGED, failure=why_not_judged(log_joint, error))
    return rise(elbos) if gain is None else maximal(elbos, *gain, enough=0.02 * guide.layout.size)


def gain_along(guide: PyroGuide, phi: torch.Tensor, elbo: Callable[[int], torch.Tensor]) -> tuple[float, float] | None:
    """What a step along Adam's direction would still gain at least, in nats, and its Monte Carlo error; None for a point.

    The ELBO's gradient is estimated in two halves: d = mean/rms of the first half's gradients is the direction, g the second
    half's slope along it. A step t moves the draws by t J d; where q is the posterior, the ELBO falls by t²/2 · E‖J d/sd‖², so
    that with a slope of g the best step gains g²/(2 E‖J d/sd‖²).

    Args:
        guide: The guide.
        phi: Its parameters, one vector.
        elbo: An estimate of the ELBO from so many draws, with gradient in `phi`.
    """
    gradients = torch.stack([torch.autograd.grad(elbo(_PARTICLES), phi)[0] for _ in range(2 * _REPEATS)]).double()
    first, second = gradients.chunk(2)
    size = first.square().mean(0).sqrt()
    direction = (first.mean(0) / size.clamp_min(torch.finfo(size.dtype).tiny)).to(phi)
    slopes = second @ direction.double()
    with torch.no_grad():
        at = []
        for moved in (phi, phi + _MOVE * direction):
            with drawing(0):  # the same noise
                at.append(guide.drawn(_DRAWS, guide.split(moved))[0].double())
    sd = at[0].std(0)
    if not bool((sd > 0).all()):
        return None
    curvature = float(((at[1] - at[0]) / sd / _MOVE).square().sum(1).mean())
    if curvature == 0.0:
        return 0.0, 0.0
    slope, error = float(slopes.mean()), float(slopes.std()) / _REPEATS**0.5
    gain = (slope * abs(slope) - error**2) / (2 * curvature)
    return gain, (4 * slope**2 * error**2 + 2 * error**4) ** 0.5 / (2 * curvature)
