"""SWAG: a normal distribution from the path of a search that goes on at a constant rate."""

from __future__ import annotations

import dataclasses
import time
from typing import Any, ClassVar

import torch

from bayesreg import _check
from bayesreg.behaviour import BATCH_STATISTICS
from bayesreg.certificates.path import settled
from bayesreg.data.rows import Data
from bayesreg.inference.base import AbstractMethod
from bayesreg.inference.map import MAP
from bayesreg.model.model import BayesianModel
from bayesreg.objective.curvature_products import diagonal
from bayesreg.objective.flat import LogJoint
from bayesreg.posteriors.base import AbstractPosterior
from bayesreg.posteriors.low_rank import LowRankGaussian, moments_of_path
from bayesreg.posteriors.record import FitRecord
from bayesreg.posteriors.refreshed import check_memory, with_statistics
from bayesreg.samplers.options import divided
from bayesreg.solvers.base import Problem
from bayesreg.solvers.history import History
from bayesreg.solvers.loop import Follow
from bayesreg.solvers.options import SearchOptions
from bayesreg.solvers.progress import ProgressCallback
from bayesreg.solvers.stepwise import Adam

_BATCH, _PARTS = 256, 50  # rows a step: at most, and that part of the data
# κ at which dx = −κ x dt + κ dW°, W° a Brownian bridge over each epoch t ∈ [0, 1], has variance 1; 2 for independent batches
SPREAD = 3.44


class SWAG(AbstractMethod):
    """From a mode, Adam goes on at a constant rate on mini-batches; moments of its path are the posterior.

    Σ = ½ diag(variances of the path) + 1/(2(K − 1)) Σ over the last K points of (u − ū)(u − ū)ᵀ

    The width of the path is the rate's: with independent batches of B of N rows Adam's stationary variance is about
    ½ η √(N/B)/√H_ii for a curvature H, and less where an epoch is a permutation, along which the batches' noise cancels. By
    default η = 3.44 √(B/N) · the geometric mean of 1/√H_ii at the mode, which then makes the typical variance 1/H_ii, that of
    the posterior along a coordinate.

    Args:
        num_warmup: Steps of the path that are left out.
        num_samples: Points of the path, 20 or more.
        thin: Steps from one point to the next.
        rank: K, the directions of the covariance.
        learning_rate: η; as above when None.
        batch_size: B; a fiftieth of the rows, 256 at most, when None. A loader brings its own batches.
        temperature: By which the covariance is multiplied.
        start: The `MAP` that finds the mode; its defaults when None.
        num_draws: Draws that are stored with statistics of their own where the network has batch normalisation.

    Raises:
        ValueError: If an argument is out of its range.

    References:
        Maddox, Garipov, Izmailov, Vetrov and Wilson (2019), A simple baseline for Bayesian uncertainty in deep learning. Mandt,
        Hoffman and Blei (2017), Stochastic gradient descent as approximate Bayesian inference (the rate).

    >>> import bayesreg as br
    >>> x = torch.linspace(-1, 1, 200)[:, None]
    >>> y = 2 * x[:, 0] + 0.5 * torch.randn(200, generator=torch.Generator().manual_seed(0))
    >>> net = torch.nn.Linear(1, 1, bias=False)
    >>> model = br.BayesianModel(net, br.priors.Normal(1.0), br.likelihoods.Gaussian(0.5))
    >>> posterior = br.fit(model, x, y, method=SWAG(num_warmup=200, num_samples=100))
    >>> exact = br.fit(model, x, y, method="exact")
    >>> 0.5 < float(posterior.std["weight"] / exact.std["weight"]) < 1.5
    True
    """

    name: ClassVar[str] = "swag"
    when: ClassVar[str] = "A network trained by mini-batches and too large for a sampler: a normal at twice its price."

    def __init__(
        self,
        num_warmup: int = 500,
        num_samples: int = 200,
        thin: int = 10,
        rank: int = 20,
        learning_rate: float | None = None,
        batch_size: int | None = None,
        *,
        temperature: float = 1.0,
        start: MAP | None = None,
        num_draws: int = 200,
    ) -> None:
        self.num_warmup = 0 if num_warmup == 0 else _check.count("num_warmup", num_warmup)
        self.num_samples, self.thin = _check.count("num_samples", num_samples), _check.count("thin", thin)
        self.rank, self.num_draws = _check.count("rank", rank), _check.count("num_draws", num_draws)
        if self.num_samples < 20:
            raise ValueError(f"num_samples must be at least 20, for moments of a path, but {num_samples} came; take 200.")
        if not 2 <= self.rank <= self.num_samples:
            raise ValueError(f"rank must be from 2 to num_samples={num_samples}, but {rank} came; take for example 20.")
        self.learning_rate = None if learning_rate is None else _check.positive("learning_rate", learning_rate)
        self.batch_size = None if batch_size is None else _check.count("batch_size", batch_size)
        self.temperature = _check.positive("temperature", temperature)
        if start is not None and not isinstance(start, MAP):
            raise ValueError(f"start must be a MAP, from whose mode the path goes on, but {start!r} came; pass MAP().")
        self.start = start or MAP()
        if self.start.options.validation_fraction is not None:
            raise ValueError(
                "a path must see the rows that its mode saw, but start's validation_fraction holds some out; leave it out."
            )

    @classmethod
    def lengths(cls, num_steps: int) -> dict[str, int]:
        """Of the path, in the default's proportions; see `AbstractMethod.lengths`."""
        return divided(cls, num_steps)

    def run(self, model: BayesianModel, data: Data, *, seed: int, report: ProgressCallback) -> AbstractPosterior:
        """Fit; see `AbstractMethod.run`.

        Raises:
            ValueError: If the model has no mode, or a step sees all rows, so that the path comes to rest.
            FitError: If the loss stops being finite.
        """
        started, history = time.perf_counter(), History("log joint")
        size = self._batch(data)
        refreshes = not model.behaviour.why_not(BATCH_STATISTICS)
        if refreshes and data.x is not None:
            check_memory(model, self.num_draws, LogJoint(model).layout.size)
        before = [0]

        def searching(step: int, total: int, *told: Any) -> None:
            before[0] = step
            report(step, total, *told)

        mode = self.start.run(model, data, seed=seed, report=searching)
        log_joint, steps = LogJoint(mode.model), self.num_warmup + self.num_samples * self.thin
        rate = self.learning_rate or self._rate(log_joint, mode.loc, data, size)
        points: list[torch.Tensor] = []
        tell = lambda step, u: points.append(u.clone()) if step > self.num_warmup else None  # noqa: E731
        options = SearchOptions(Adam.name, steps, rate, size, schedule="constant")
        problem = Problem(log_joint, data, size, options, seed, follow=Follow(tell, self.thin))
        told = lambda step, total, *nats: report(before[0] + step, before[0] + total, *nats)  # noqa: E731
        found = Adam().solve(problem, mode.loc, history, told)
        path = torch.stack(points)
        history.notes[:0] = [
            *mode.history.notes,
            f"swag: {steps:,} steps from the mode at the rate {rate:.3g}; {len(path):,} points of the path, rank {self.rank}.",
        ]
        record = FitRecord(self.name, seed, history, settled(path, self.temperature), time.perf_counter() - started)
        loc, sd, directions = (part.to(found.u) for part in moments_of_path(path.double(), min(self.rank, len(path))))
        wide = self.temperature**0.5
        posterior = LowRankGaussian(found.model, record, loc, wide * sd, wide * directions)
        if not refreshes:
            return posterior
        if data.x is None:
            history.notes.append("draws use the running averages of the path's end; refresh_batchnorm gives each its own.")
            return posterior
        made = with_statistics(posterior, data.x, batch_size=None, num_draws=self.num_draws, seed=seed)
        made.record = dataclasses.replace(made.record, elapsed=time.perf_counter() - started)
        return made

    def _batch(self, data: Data) -> int | None:
        """Rows a step; None for a loader's own batches.

        Raises:
            ValueError: If they are all rows.
        """
        if data.loader is not None:
            return None
        size = self.batch_size or max(1, min(_BATCH, data.num_data // _PARTS))
        if size >= data.num_data:
            raise ValueError(
                f"SWAG needs the noise of mini-batches, without which a path comes to rest, but batch_size={size} of "
                f"N = {data.num_data} rows came; pass a fiftieth of them, for example."
            )
        return max(size, 2) if data.num_data > 2 else size

    def _rate(self, log_joint: LogJoint, u: torch.Tensor, data: Data, size: int | None) -> float:
        """The rate at which the typical variance of the path is that of the posterior along a coordinate."""
        bend = sum(diagonal(log_joint, u, data), torch.zeros_like(u))
        bend = bend[bend > 0].double()
        rows = size or next(iter(data.epoch()))[0].shape[0]
        typical = float(bend.log().mean().mul(-0.5).exp()) if len(bend) else 1.0
        return SPREAD * (rows / data.num_data) ** 0.5 * typical
