"""Which of Pyro's guides are normal distributions of the unconstrained vector, and what their means and covariances are.

u ~ N(loc, diag(own²) + V Vᵀ)
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from operator import attrgetter
from typing import Any

import pyro.distributions as dist
import torch
from pyro.infer import autoguide
from pyro.infer.autoguide.gaussian import AutoGaussianDense
from torch import nn

from bayesreg.objective.flat import FlatLayout
from bayesreg.posteriors.pyro_setup import typed, unwrapped, without_store


@dataclasses.dataclass(frozen=True, eq=False)
class NormalBlock:
    """Some entries of the vector, independent of the others.

    Attributes:
        index: Which, (p,).
        loc: Their mean, (p,).
        own: What each varies by itself, its sd, ≥ 0, (p,).
        shared: V, (p, K), K ≥ 0.
    """

    index: torch.Tensor
    loc: torch.Tensor
    own: torch.Tensor
    shared: torch.Tensor


@dataclasses.dataclass(frozen=True, eq=False)
class BlockNormal:
    """A normal vector of independent blocks; no matrix is larger than a block's.

    Attributes:
        size: P.
        blocks: Each entry lies in one.

    >>> one = NormalBlock(torch.tensor([1, 0]), torch.ones(2), torch.zeros(2), torch.tensor([[1.0], [2.0]]))
    >>> BlockNormal(2, (one,)).times_factor(torch.eye(2)).tolist()
    [[2.0], [1.0]]
    """

    size: int
    blocks: tuple[NormalBlock, ...]

    def moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and sd of each entry, both (P,)."""
        loc = self.blocks[0].loc.new_empty(self.size)
        sd = torch.empty_like(loc)
        for b in self.blocks:
            loc[b.index], sd[b.index] = b.loc, (b.own.square() + b.shared.square().sum(1)).sqrt()
        return loc, sd

    def times_factor(self, rows: torch.Tensor) -> torch.Tensor:
        """Rows (M, P) times F, (M, Q), F Fᵀ the covariance."""
        found = []
        for b in self.blocks:
            mine = rows[:, b.index]
            found += [mine @ b.shared.to(rows)] if b.shared.shape[1] else []
            found += [mine * b.own.to(rows)] if bool((b.own > 0).any()) or not b.shared.shape[1] else []
        return torch.cat(found, 1)

    def as_normal(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean (P,) and F, (P, Q), or (P,) where it is diagonal."""
        loc, sd = self.moments()
        if all(b.shared.shape[1] == 0 for b in self.blocks):
            return loc, sd
        return loc, self.times_factor(torch.eye(self.size, dtype=loc.dtype, device=loc.device))


def normal_of(module: nn.Module, layout: FlatLayout) -> BlockNormal | None:
    """The distribution of the vector under a guide, detached; None where it is not normal or not known to be.

    It is not where an unknown is searched relative to its unknown scale: the vector then holds a ratio of two of its sites.
    """
    if layout.non_centered:
        return None
    with without_store(), torch.no_grad():
        blocks = _blocks(unwrapped(module), layout)
    return None if blocks is None else BlockNormal(layout.size, tuple(blocks))


def _blocks(guide: Any, layout: FlatLayout) -> list[NormalBlock] | None:
    """By the guide's exact class: a subclass may draw otherwise."""
    kind = type(guide)
    if kind is autoguide.AutoGuideList:
        parts = [_blocks(part, layout) for part in guide]
        return None if any(part is None for part in parts) else [block for part in parts for block in part or ()]
    if kind in (autoguide.AutoDiagonalNormal, autoguide.AutoMultivariateNormal, autoguide.AutoLowRankMultivariateNormal):
        return [_block(list(guide._unconstrained_shapes), layout, *_of_distribution(guide.get_posterior()))]
    if kind is autoguide.AutoNormalMessenger:
        return [_by_site(list(layout.segments), layout, guide.locs, guide.scales)]
    if kind is AutoGaussianDense:
        return [_of_gaussian(guide, layout)]
    if kind not in (autoguide.AutoNormal, autoguide.AutoDelta):
        return None
    names = [name for name, _ in guide.prototype_trace.iter_stochastic_nodes()]
    if kind is autoguide.AutoNormal:
        return [_by_site(names, layout, guide.locs, guide.scales)]
    loc = _unconstrained({name: attrgetter(name)(guide) for name in names}, layout)
    return [_block(names, layout, loc, torch.zeros_like(loc))]


def _flat(names: list[str], of: Any) -> torch.Tensor:
    return torch.cat([attrgetter(name)(of).reshape(-1) for name in names])


def _by_site(names: list[str], layout: FlatLayout, locs: Any, scales: Any) -> NormalBlock:
    return _block(names, layout, _flat(names, locs), _flat(names, scales))


def _of_gaussian(guide: Any, layout: FlatLayout) -> NormalBlock:
    """Loc + scale ∘ z, z normal with the precision that is learned."""
    names = list(guide._dense_shapes)
    loc, scale = _flat(names, guide.locs), _flat(names, guide.scales)
    with typed(loc.dtype):
        inner = guide._dense_get_mvn()
    return _block(names, layout, loc + scale * inner.loc, torch.zeros_like(loc), scale[:, None] * inner.scale_tril)


def _of_distribution(found: Any) -> tuple[torch.Tensor, ...]:
    """Mean, own sd and shared directions of one of Pyro's normals."""
    base = found.base_dist if isinstance(found, dist.Independent) else found
    if isinstance(base, dist.Normal):
        return base.loc, base.scale
    if isinstance(base, dist.MultivariateNormal):
        return base.loc, torch.zeros_like(base.loc), base.scale_tril
    return base.loc, base.cov_diag.sqrt(), base.cov_factor


def _unconstrained(values: Mapping[str, torch.Tensor], layout: FlatLayout) -> torch.Tensor:
    found = []
    for name, value in values.items():
        transform = layout.segments[name].transform
        found.append((value if transform is None else transform.inv(value)).reshape(-1))
    return torch.cat(found)


def _block(
    names: Iterable[str], layout: FlatLayout, loc: torch.Tensor, own: torch.Tensor, shared: torch.Tensor | None = None
) -> NormalBlock:
    """These sites' entries, in the guide's order."""
    places = [torch.arange(layout.segments[name].start, layout.segments[name].stop, device=loc.device) for name in names]
    shared = loc.new_zeros(len(loc), 0) if shared is None else shared
    return NormalBlock(torch.cat(places), *(part.detach().clone() for part in (loc, own, shared)))
