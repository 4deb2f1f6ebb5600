"""Monte Carlo batch normalisation: a mode, with the randomness of mini-batch statistics as its posterior."""

from __future__ import annotations

import dataclasses
import time
from typing import Any, ClassVar

import torch

from bayesreg import _check
from bayesreg.behaviour import BATCH_STATISTICS
from bayesreg.behaviour.batchnorm import statistics
from bayesreg.data.rows import Data
from bayesreg.inference.base import AbstractMethod
from bayesreg.inference.map import MAP
from bayesreg.model.model import BayesianModel
from bayesreg.posteriors.base import AbstractPosterior
from bayesreg.posteriors.refreshed import WithStatistics, check_memory, with_statistics
from bayesreg.solvers.failures import FitError, rescuing
from bayesreg.solvers.progress import ProgressCallback

BATCH_SIZE = 32


class MCBatchNorm(AbstractMethod):
    """Fit the mode in mini-batches; each draw then predicts by the statistics of one random training batch.

    In mini-batch training each row is normalised by the mean and variance of a random batch. This randomness of every layer's
    scale and shift is, at prediction, an approximate posterior: the fewer rows in a batch, the wider; with all rows it
    vanishes, and the draws are the mode. The weights are the same point in every draw.

    Args:
        batch_size: B, rows a training step and rows whose statistics a draw takes; 32 when None, or what `mode` says. All rows
            where there are fewer. This number sets how uncertain the answer is.
        mode: How the mode is found, a `MAP`, under any prior; its defaults when None.
        num_draws: How many draws of statistics are stored with the posterior.

    Raises:
        ValueError: If an argument is out of its range, `mode` names another batch size, or holds rows out.

    References:
        Teye, Azizpour and Smith (2018), Bayesian uncertainty estimation for batch normalized deep networks.
    """

    name: ClassVar[str] = "mc-batchnorm"
    when: ClassVar[str] = "A network with batch normalisation, trained in mini-batches: error bars at the price of its mode."

    def __init__(self, batch_size: int | None = None, mode: MAP | None = None, num_draws: int = 1000) -> None:
        own = None if mode is None else mode.options.batch_size
        if batch_size is not None and own is not None and batch_size != own:
            raise ValueError(
                f"a draw must take a batch as training saw it, but batch_size={batch_size!r} and a mode with "
                f"batch_size={own} came; give it in one place."
            )
        given = own if batch_size is None else batch_size
        self.batch_size = BATCH_SIZE if given is None else _check.count("batch_size", given)
        if self.batch_size < 2:
            raise ValueError("batch_size must be at least 2, since one row has no variance, but 1 came; pass for example 32.")
        self.mode = mode or MAP()
        if self.mode.options.validation_fraction is not None:
            raise ValueError(
                "a draw must take its batch from the rows that training saw, but the mode's validation_fraction="
                f"{self.mode.options.validation_fraction:g} holds some out; leave it out, or fit the mode by itself and call "
                "bayesreg.refresh_batchnorm(mode, X, batch_size=B) with its rows."
            )
        self.num_draws = _check.count("num_draws", num_draws)

    def run(self, model: BayesianModel, data: Data, *, seed: int, report: ProgressCallback) -> WithStatistics:
        """Fit; see `AbstractMethod.run`.

        Raises:
            ValueError: If the network has no batch normalisation, or rows are streamed.
        """
        started = time.perf_counter()
        if why := model.behaviour.why_not(BATCH_STATISTICS):
            raise ValueError(
                f"MCBatchNorm needs a network with batch normalisation, but {why}; take "
                "layers.MLP(..., batchnorm=True), add nn.BatchNorm1d, or fit by method='map'."
            )
        x, _ = data.full("Monte Carlo batch normalisation")
        with torch.no_grad():  # refused now rather than after the search
            module = model.behaviour.by_rows().eval()
            statistics(module, lambda rows: model.forward(model.weights(), rows, module), x[:64])
        check_memory(model, self.num_draws)
        size = min(self.batch_size, data.num_data)
        search = self.mode.but(batch_size=size)

        def rescued(failure: FitError) -> AbstractPosterior:
            mode: Any = failure.posterior  # the time of the search
            return with_statistics(mode, x, batch_size=size, num_draws=self.num_draws, seed=seed)

        with rescuing(rescued):
            mode = search.run(model, data, seed=seed, report=report)
        note = f"mc-batchnorm: each draw takes the statistics of {size:,} random rows out of {data.num_data:,}."
        mode.history.notes.append(note)
        found = with_statistics(mode, x, batch_size=size, num_draws=self.num_draws, seed=seed)
        found.record = dataclasses.replace(found.record, method=self.name, elapsed=time.perf_counter() - started, space=None)
        return found  # pyright: ignore[reportReturnType]
