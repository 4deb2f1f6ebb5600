"""Draws with their own statistics for batch normalisation: a function of each draw's weights, or of a random batch.

    f_s(x) = f(x; w_s, m(w_s), v(w_s)),      m, v over all training rows, or over one random batch of them for each draw s

Over all rows a draw is the network with weights w_s as full-batch training defines it. With one batch each, at a single point,
the draws vary as the network did in mini-batch training: Monte Carlo batch normalisation.

References:
    Maddox et al. (2019), A simple baseline for Bayesian uncertainty in deep learning (refreshing for each draw).
    Teye, Azizpour and Smith (2018), Bayesian uncertainty estimation for batch normalized deep networks.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from bayesreg import _check
from bayesreg._memory import MAX_MEMORY, among, chosen
from bayesreg._threads import drawing
from bayesreg.behaviour import BATCH_STATISTICS, VMAP
from bayesreg.behaviour.batchnorm import buffer_shapes, by_batch, carry, rows_at_once, statistics, tracking, widest
from bayesreg.model.model import BayesianModel
from bayesreg.posteriors.base import AbstractPosterior
from bayesreg.posteriors.dirac import Dirac
from bayesreg.posteriors.gaussian import AbstractAboutAMode
from bayesreg.posteriors.record import FitRecord, Refreshed
from bayesreg.posteriors.restore import restored
from bayesreg.predictive.mixture import Predictive
from bayesreg.predictive.offset import with_offset
from bayesreg.storage.schema import check_tensors, refuse

_TOGETHER = 20_000  # rows × draws that go through the network at once


class WithStatistics(AbstractPosterior):
    """Stored draws of a posterior's networks, each with batch normalisation's statistics of its own.

    Other methods of the posterior (a guide's `guide`, dropout's `sparsity` and `prune`) are those of `base`. `sample` draws
    unknowns anew.

    Args:
        base: The posterior that they are drawn from, with its unknowns, means and sds.
        record: Its record, which says which statistics these are.
        made_of: The parameters of each draw's network, (S, Q).
        found: Each draw's statistics, (S, V): `names` side by side.

    Attributes:
        base: The posterior.
        shapes: The statistics' shapes by the buffers' dotted names.
    """

    def __init__(self, base: AbstractPosterior, record: FitRecord, made_of: torch.Tensor, found: torch.Tensor) -> None:
        super().__init__(base.model, record)
        self.base, self.made_of, self.found = base, made_of.detach(), found.detach()
        self.shapes = buffer_shapes(base.model.module)
        self._module = tracking(base.draw_module).eval()

    @property
    def num_draws(self) -> int:
        """S, how many draws are stored."""
        return len(self.found)

    @property
    def at_a_point(self) -> bool:
        """True where the weights are the same in every draw, so that only the statistics differ."""
        return self.base.at_a_point

    @property
    def fitted(self) -> AbstractPosterior:
        """`base`."""
        return self.base

    def statistics(self) -> dict[str, torch.Tensor]:
        """Mean and variance of each batch normalisation in each stored draw, (S, C), by the buffers' dotted names."""
        return _split(self.found, self.shapes)

    def draw(self, num_samples: int, generator: torch.Generator) -> torch.Tensor:
        """Draws of the unknowns, (S, P)."""
        return self.base.draw(num_samples, generator)

    def moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Those of `base`."""
        return self.base.moments()

    def predict(
        self,
        x: Any,
        *,
        num_samples: int | None = None,
        seed: int = 0,
        max_memory: int = MAX_MEMORY,
        predictive: str | None = None,
        link: str = "quadrature",
        offset: Any = None,
    ) -> Predictive:
        """p(y | x, data) at new inputs, see `AbstractPosterior.predict`.

        Args:
            x: Inputs (N, ...), in the data's own units.
            num_samples: S, the number of draws that are mixed; None for `usual_draws`.
            seed: Same seed, same draws; the global random state is not touched.
            max_memory: Bytes that the stored outputs may take.
            predictive: None or "draws".
            link: Not used, since no logit is known to be normal.
            offset: As for `AbstractPosterior.predict`.

        Returns:
            The predictive, in the data's own units.

        Raises:
            ValueError: If the inputs do not fit the model, or the outputs not into `max_memory`.
        """
        self._expanded_about(None, predictive)
        count, seed = self._count(num_samples), _check.seed(seed)
        stored = self.in_order(count, seed)
        drawn = chosen(stored, count, seed, self.layout.size)
        return with_offset(self.predict_blocks(drawn, count, stored[0], x, max_memory=max_memory), offset)

    # a network is given by the number of its draw, so that its parameters are not copied again

    @property
    def draw_module(self) -> nn.Module:
        """The network that takes a draw's statistics."""
        return self._module

    def in_order(self, num_samples: int, seed: int) -> torch.Tensor:
        """The numbers of all stored draws, (S,)."""
        return torch.arange(self.num_draws, device=self.found.device)

    def draw_networks(self, num_samples: int, generator: torch.Generator) -> torch.Tensor:
        """Numbers of stored draws, (S,), see `among`."""
        return among(self.num_draws, num_samples, generator).to(self.found.device)

    def forward_drawn(
        self, made_of: torch.Tensor, x: torch.Tensor, module: nn.Module, buffers: Mapping[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """The output of one stored draw, by its number, with its own statistics."""
        carried = {**_split(self.found[made_of], self.shapes), **(buffers or {})}
        return self.base.forward_drawn(self.made_of[made_of], x, module, carried)

    def unknowns_of(self, made_of: torch.Tensor) -> torch.Tensor:
        """Those of `base`."""
        return self.base.unknowns_of(self.made_of[made_of])

    def effective(self, made_of: torch.Tensor) -> torch.Tensor:
        """Those of `base`."""
        return self.base.effective(self.made_of[made_of])

    def check_statistics(self) -> None:
        """Each draw has its own."""

    def state(self) -> dict[str, Any]:
        """The base's kind and state, and the stored draws with their statistics."""
        kind = type(self.base).__name__
        record = dataclasses.asdict(self.base.record)
        return {"kind": kind, "base": self.base.state(), "record": record, "made_of": self.made_of, "found": self.found}

    @classmethod
    def from_state(cls, model: BayesianModel, record: FitRecord, state: dict[str, Any]) -> WithStatistics:
        """The inverse of `state`."""
        if set(state) != {"kind", "base", "record", "made_of", "found"} or state["kind"] == cls.__name__:
            refuse("a state of draws with statistics", "a dict of kind, base, record, made_of, found", ", ".join(state))
        base = restored(model, state["kind"], state["record"], state["base"])
        width = base.draw_networks(1, torch.Generator().manual_seed(0)).shape[1]
        sizes = {"Q": width, "V": sum(shape.numel() for shape in buffer_shapes(model.module).values())}
        tensors = {name: state[name] for name in ("made_of", "found")}
        check_tensors(tensors, {"made_of": "SQ", "found": "SV"}, sizes, "a saved posterior's state")
        return cls(base, record, state["made_of"], state["found"])


def refresh_batchnorm(
    posterior: AbstractPosterior,
    X: Any,
    *,
    batch_size: int | None = None,
    num_draws: int = 1000,
    seed: int = 0,
    max_memory: int = MAX_MEMORY,
) -> AbstractPosterior:
    """The same posterior with batch normalisation's statistics recomputed over training inputs, for each draw.

    Args:
        posterior: A fit of a network with batch normalisation. A mode, or a Laplace approximation (whose network is linearised
            at one point), gets one set over all rows.
        X: Training inputs (N, ...), as for `fit`, in the data's own units; a `Dataset` or `DataLoader` of pairs too.
        batch_size: None for the statistics of all rows; B for those of B random rows, without replacement, at each draw.
        num_draws: S, how many draws are stored with their statistics; one pass over the rows for each.
        seed: Same seed, same draws and batches; the global random state is not touched.
        max_memory: Bytes that the stored draws may take.

    Returns:
        A new posterior of the same unknowns; `batch_statistics` says which statistics it uses.

    Raises:
        ValueError: If the network has no batch normalisation, X does not fit, `batch_size` is not within 2 … N, or the draws do
            not fit into `max_memory`.

    >>> import bayesreg as br
    >>> x = torch.arange(40.0).reshape(20, 2) % 7
    >>> net = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 1))
    >>> mode = br.fit(br.BayesianModel(net), x, x[:, 0], method=br.inference.MAP(num_steps=300, batch_size=10))
    >>> mode.batch_statistics
    'running averages of training'
    >>> again = refresh_batchnorm(mode, x)
    >>> again.batch_statistics, bool(torch.allclose(again.model.module[0].running_mean, x.mean(0)))
    ('the statistics of 20 rows, at the mode', True)
    >>> refresh_batchnorm(mode, x, batch_size=5).batch_statistics
    'the statistics of one random batch of 5 out of 20 rows, for each draw'
    """
    if not isinstance(posterior, AbstractPosterior):
        raise ValueError(f"posterior must be what fit returned, but {type(posterior).__name__} came; fit the model first.")
    base = posterior.base if isinstance(posterior, WithStatistics) else posterior
    if why := base.model.behaviour.why_not(BATCH_STATISTICS):
        raise ValueError(
            f"refreshing needs a network with batch normalisation, but {why}; predict with the posterior as it is."
        )
    with drawing(_check.seed(seed)):  # a loader draws the seed of its own random numbers
        x = base.model.prepare(X)
    return with_statistics(base, x, batch_size=batch_size, num_draws=num_draws, seed=seed, max_memory=max_memory)


def with_statistics(
    base: AbstractPosterior,
    x: torch.Tensor,
    *,
    batch_size: int | None,
    num_draws: int,
    seed: int,
    max_memory: int = MAX_MEMORY,
) -> AbstractPosterior:
    """`refresh_batchnorm` over prepared inputs.

    Raises:
        ValueError: If `batch_size` is not within 2 … N, or the draws do not fit into `max_memory`.
    """
    count, size = _check.count("num_draws", num_draws), _rows_a_batch(batch_size, len(x))
    generator = torch.Generator().manual_seed(_check.seed(seed))
    if size is None and (isinstance(base, Dirac) or (isinstance(base, AbstractAboutAMode) and base.linearize)):
        made = copy.copy(base)
        found = _statistics_of(Dirac(base.model, base.record, base.loc), base.loc.new_zeros(1, 0), x, None, generator)
        carried = carry(base.model.module, _split(found[0], buffer_shapes(base.model.module))).eval()
        made.model = base.model.with_module(carried)
        made.record = _recorded(base, Refreshed(len(x), None, at_mode=True))
        return made
    if isinstance(base, AbstractAboutAMode) and base.linearize:
        raise ValueError(
            "a random batch at each draw needs a posterior that predicts by its draws' networks, but a linearised Laplace "
            "approximation came, whose network is one point; refresh the mode in its place, or leave batch_size out."
        )
    with torch.no_grad():
        check_memory(base.model, count, base.draw_networks(1, torch.Generator().manual_seed(0)).shape[1], max_memory)
        made_of = base.draw_networks(count, generator)
        found = _statistics_of(base, made_of, x, size, generator)
    return WithStatistics(base, _recorded(base, Refreshed(len(x), size, at_mode=False)), made_of, found)


def with_running_averages(base: AbstractPosterior, draws: torch.Tensor, models: Sequence[BayesianModel]) -> AbstractPosterior:
    """Stored draws that were trained each by itself, with the running averages of each one's training.

    Args:
        base: The posterior of these draws.
        draws: They themselves, (S, P).
        models: The trained model of each.

    Returns:
        `WithStatistics`; `base` itself where the network keeps no statistics.

    Raises:
        ValueError: If a layer keeps statistics that are none of batch normalisation.
    """
    behaviour = base.model.behaviour
    if not behaviour.statistics:
        return base
    if behaviour.statistics.keys() != behaviour.coupling.keys():
        raise ValueError(
            f"each draw must carry the statistics that it was trained with, but {behaviour.normalises_by} came, of which only "
            "those of batch normalisation can be stored; take layers without running statistics (track_running_stats=False)."
        )
    names = list(buffer_shapes(base.model.module))
    found = torch.stack([torch.cat([model.module.get_buffer(name).reshape(-1) for name in names]) for model in models])
    return WithStatistics(base, base.record, draws, found.to(draws))


def check_memory(model: BayesianModel, num_draws: int, size: int = 0, max_memory: int = MAX_MEMORY) -> None:
    """Refuse more stored draws than fit into `max_memory` bytes; `size` is Q, the numbers of a draw besides its statistics.

    Raises:
        ValueError: If they do not fit.
    """
    width = size + sum(shape.numel() for shape in buffer_shapes(model.module).values())
    needed = num_draws * width * model.like.element_size()
    if needed > max_memory:
        raise ValueError(
            f"stored draws must fit into {max_memory:,} bytes, but {num_draws:,} draws of {width:,} numbers need {needed:,}; "
            "lower num_draws (or raise max_memory of refresh_batchnorm)."
        )


def _recorded(base: AbstractPosterior, found: Refreshed) -> FitRecord:
    """The fit's record for other statistics; notes about the earlier ones are removed."""
    notes = []
    if base.history.of_statistics and isinstance(base, AbstractAboutAMode):
        notes.append("batch normalisation: the curvature uses the running averages from the mode's training.")
    history = dataclasses.replace(base.history, of_statistics=notes)
    return dataclasses.replace(base.record, batch_statistics=found, history=history)


def _rows_a_batch(batch_size: int | None, num_rows: int) -> int | None:
    if batch_size is None:
        return None
    size = _check.count("batch_size", batch_size)
    if not 2 <= size <= num_rows:
        raise ValueError(
            f"batch_size must be between 2, since one row has no variance, and the {num_rows:,} rows, but {size:,} came; pass "
            "for example 32."
        )
    return size


def _statistics_of(
    base: AbstractPosterior, made_of: torch.Tensor, x: torch.Tensor, size: int | None, generator: torch.Generator
) -> torch.Tensor:
    """(S, V): the statistics of each draw's network over all rows, or over a random batch."""
    module = by_batch(base.draw_module).eval()

    def one(made_of: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        found = statistics(module, lambda part: base.forward_drawn(made_of, part, module), rows, entries)
        return torch.cat([value.reshape(-1) for value in found.values()])

    few, done = size or len(x), []
    with torch.no_grad():
        entries = widest(module, lambda part: base.forward_drawn(made_of[0], part, module), x[:2])
        together = max(1, min(_TOGETHER, rows_at_once(entries)) // few)
        for part in made_of.split(together):
            if size is None:
                rows, axis = x, None
            else:
                rows = torch.stack([x[torch.randperm(len(x), generator=generator)[:size].to(x.device)] for _ in part])
                axis = 0
            if together == 1 or not base.model.behaviour.stands(VMAP):
                done.append(torch.stack([one(own, rows if axis is None else rows[s]) for s, own in enumerate(part)]))
            else:
                done.append(torch.vmap(one, in_dims=(0, axis))(part, rows))
    return torch.cat(done)


def _split(flat: torch.Tensor, shapes: dict[str, torch.Size]) -> dict[str, torch.Tensor]:
    """Statistics that are concatenated in the last axis, by name."""
    return dict(zip(shapes, flat.split([shape.numel() for shape in shapes.values()], -1), strict=True))
