"""An ensemble of modes, and from each a microcanonical Langevin chain: the posterior of a network."""

from __future__ import annotations

import os
from typing import ClassVar

import torch

from bayesreg import _check
from bayesreg.data.rows import Data
from bayesreg.inference.base import AbstractSampling
from bayesreg.model.model import BayesianModel
from bayesreg.objective.batched import is_replicable
from bayesreg.objective.flat import LogJoint
from bayesreg.posteriors.base import AbstractPosterior
from bayesreg.samplers.base import AbstractSampler
from bayesreg.samplers.microcanonical import Microcanonical
from bayesreg.samplers.options import ChainOptions
from bayesreg.samplers.starting import prior_scales
from bayesreg.solvers.batched import fit_many
from bayesreg.solvers.progress import ProgressCallback
from bayesreg.solvers.restarts import starts


class MicrocanonicalEnsemble(AbstractSampling):
    """Microcanonical Langevin ensembles: members from random starts, a short search for each, then a long chain for each.

    All members move in one batched gradient. A network's posterior has many regions which no chain goes between: each member
    explores its own, and the mixture of all is the answer. The warm-up is hot at first, with long steps whose energy errors
    carry a member out of its mode, and cools to steps of small bias. What the members differ by is in the certificate. Members
    that turn out to be in one region, as in a linear model, share what they learn of its sds, and take the small steps of
    `MCLMC`.

    Networks and priors that cannot be fitted many times at once (dropout, unknown scales) start at random weights, without a
    search. Batch normalisation takes the statistics of all rows.

    Args:
        num_members: C, members, each one chain.
        num_warmup: Steps of each chain that are thrown away; each is two gradients over all rows. This number decides how good
            the answer is.
        num_samples: D, draws that are kept of each member.
        thin: Steps from one draw to the next.
        temperature: T: the posterior density to the power 1/T; 1 is the posterior.
        num_steps: Adam's steps of the search before; few, so that no member starts in the depth of a mode.
        energy_variance: Mean square of a step's energy error by dimension at the start of the warm-up and at its end; it sets
            the step size.
        start: An earlier ensemble of the same network, fitted for example to a part of the rows: its members go on where they
            stopped, without another search.
        compile: True, False, or "auto" for runs that are long enough to win back the ten seconds.
        checkpoint: As for `MAP`, with checkpoint_every and checkpoint_key.
        checkpoint_every: Steps between two states.
        checkpoint_key: A text that names the data.

    Raises:
        ValueError: If an argument is out of its range.

    References:
        Sommer, Robnik, Nozadze, Seljak and Rügamer (2025), Microcanonical Langevin ensembles: advancing the sampling of
        Bayesian neural networks. Robnik and Seljak (2024), Fluctuation without dissipation: microcanonical Langevin Monte
        Carlo.
    """

    name: ClassVar[str] = "mile"
    when: ClassVar[str] = (
        "A network up to some 10⁵ weights, all rows in memory, and minutes of time: the best predictions and intervals here."
    )
    ensemble: ClassVar[bool] = True

    def __init__(
        self,
        num_members: int = 10,
        num_warmup: int = 15_000,
        num_samples: int = 100,
        thin: int = 10,
        temperature: float = 1.0,
        *,
        num_steps: int = 500,
        energy_variance: tuple[float, float] = (0.5, 0.05),
        start: AbstractPosterior | None = None,
        compile: bool | str = "auto",
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int | None = None,
        checkpoint_key: str | None = None,
    ) -> None:
        options = ChainOptions(_check.count("num_members", num_members), num_warmup, num_samples, thin, temperature)
        super().__init__(options, checkpoint, checkpoint_every, checkpoint_key, compile)
        self.num_steps, self.start = _check.count("num_steps", num_steps), start
        if start is not None and (start.num_chains or 0) != options.num_chains:
            raise ValueError(
                f"start must have num_members={options.num_chains} members, but {_check.said(start)} has "
                f"{start.num_chains or 'none'}; pass the posterior of an ensemble of as many."
            )
        try:
            begun, ended = energy_variance
        except (TypeError, ValueError):
            raise ValueError(
                "energy_variance must be two numbers, at the start and at the end of the warm-up, but "
                f"{energy_variance!r} came; pass for example (0.5, 0.05)."
            ) from None
        self.energy_variance = _check.positive("energy_variance", begun), _check.positive("energy_variance", ended)

    def sampler(self, log_joint: LogJoint) -> AbstractSampler:
        """See `AbstractSampling.sampler`."""
        return Microcanonical(self.energy_variance, prior_scales(log_joint))

    def starts(self, model: BayesianModel, data: Data, seed: int, report: ProgressCallback) -> torch.Tensor:
        """A few steps towards a mode from each of the layers' own random weights; see `AbstractSampling.starts`."""
        log_joint = LogJoint(model)
        if self.start is not None:
            return self._where_it_stopped(self.start, log_joint)
        begun = starts(log_joint, *next(data.epoch()), self.options.num_chains)
        if not is_replicable(log_joint):
            return begun
        generator = torch.Generator().manual_seed(seed)
        words = {"num_steps": self.num_steps, "jacobian": True, "generator": generator, "report": report}
        return fit_many(log_joint, begun, data, polish=False, **words)[0]  # steps to the mode itself would cost a chain's time

    def _where_it_stopped(self, earlier: AbstractPosterior, log_joint: LogJoint) -> torch.Tensor:
        """The last draw of each member, (C, P).

        Raises:
            ValueError: If it is of another network.
        """
        last = earlier.in_order(1, 0).reshape(self.options.num_chains, -1, earlier.layout.size)[:, -1]
        if [(s.latent.name, s.latent.shape) for s in earlier.layout.in_order] != [
            (s.latent.name, s.latent.shape) for s in log_joint.layout.in_order
        ]:
            raise ValueError("start must be of the same network, but its unknowns differ; pass an ensemble of this model.")
        return last.to(log_joint.model.like).clone()
