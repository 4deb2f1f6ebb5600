"""A normal distribution whose covariance has blocks: dense, diagonal, or a Kronecker product for the weights of a layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from bayesreg.model.model import BayesianModel
from bayesreg.objective.factors import KINDS, AbstractFactor, kind_of
from bayesreg.posteriors.gaussian import AbstractAboutAMode
from bayesreg.posteriors.record import FitRecord
from bayesreg.priors.values import HALF_LOG_2PI
from bayesreg.storage.schema import check_tensors, refuse

_ENTRIES = 10**8  # of a factor that is written out


class BlockGaussian(AbstractAboutAMode):
    """N(loc, Σ) over the unconstrained vector, Σ block-diagonal; unknowns that are in no block stay at `loc` exactly.

    Args:
        model: The model, bound to its training data.
        record: What the method says about the fit.
        loc: (P,).
        blocks: Factors of the blocks, over unknowns that no two of them share.
        linearize: As for `Gaussian`.
    """

    state_shapes: ClassVar = None

    def __init__(
        self,
        model: BayesianModel,
        record: FitRecord,
        loc: torch.Tensor,
        blocks: Sequence[AbstractFactor],
        linearize: bool = False,
    ) -> None:
        super().__init__(model, record, loc, linearize)
        self.blocks = tuple(block.to(self.loc) for block in blocks)

    @property
    def width(self) -> int:
        """Q, the number of unknowns that vary."""
        return sum(len(block.index) for block in self.blocks)

    def from_noise(self, noise: torch.Tensor) -> torch.Tensor:
        """See `AbstractAboutAMode.from_noise`."""
        drawn = self.loc.repeat(len(noise), 1)
        for block, own in zip(self.blocks, noise.split([len(block.index) for block in self.blocks], 1), strict=True):
            drawn[:, block.index] += block.times(own)
        return drawn

    def unconstrained_moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and sd of each entry; the sd is 0 where an unknown does not vary."""
        sd = torch.zeros_like(self.loc)
        for block in self.blocks:
            sd[block.index] = block.variance.sqrt()
        return self.loc, sd

    def times_factor(self, rows: torch.Tensor) -> torch.Tensor:
        """See `AbstractPosterior.times_factor`; block by block, for any number of unknowns."""
        return torch.cat([block.rows(rows[:, block.index]) for block in self.blocks], 1)

    def as_normal(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Location and factor, (P, Q) or a diagonal (P,); None where the factor is too large to be written out."""
        if all(kind_of(block) == "diagonal" for block in self.blocks):
            return self.unconstrained_moments()
        if len(self.loc) * self.width > _ENTRIES:
            return None
        return self.loc, self.times_factor(torch.eye(len(self.loc)).to(self.loc))

    @property
    def covariance(self) -> torch.Tensor:
        """(P, P), of the unconstrained vector in the layout's order; for some thousand unknowns."""
        factor = self.times_factor(torch.eye(len(self.loc)).to(self.loc))
        return factor @ factor.mT

    def log_density(self, u: torch.Tensor) -> torch.Tensor | None:
        """See `AbstractPosterior.log_density`; block by block. None where some unknown does not vary."""
        if self.width < len(self.loc):
            return None
        away = u.double() - self.loc.double()
        square = torch.stack([block.whitened(away[:, block.index]).square().sum(1) for block in self.blocks]).sum(0)
        return -0.5 * square - sum(block.log_det for block in self.blocks) - len(self.loc) * HALF_LOG_2PI

    def state(self) -> dict[str, Any]:
        """Location, the way of predicting, and the tensors of each block under "number.kind.name"."""
        blocks = {}
        for number, block in enumerate(self.blocks):
            for name, tensor in {"index": block.index, **block.tensors}.items():
                blocks[f"{number}.{kind_of(block)}.{name}"] = tensor
        return {"loc": self.loc, "linearize": torch.tensor(self.linearize), "blocks": blocks}

    @classmethod
    def from_state(cls, model: BayesianModel, record: FitRecord, state: dict[str, Any]) -> BlockGaussian:
        """The inverse of `state`.

        Raises:
            ValueError: If it is not what such a posterior has.
        """
        what, unknowns = "a saved posterior's state", sum(latent.shape.numel() for latent in model.latents.values())
        if set(state) != {"loc", "linearize", "blocks"} or not isinstance(state["blocks"], dict) or not state["blocks"]:
            refuse(what, "loc, linearize and blocks, by name", ", ".join(map(str, state)) or "nothing")
        check_tensors({k: state[k] for k in ("loc", "linearize")}, {"loc": "P", "linearize": ""}, {"P": unknowns}, what)
        named: dict[tuple[str, str], dict[str, torch.Tensor]] = {}
        for key, tensor in state["blocks"].items():
            number, _, rest = str(key).partition(".")
            kind, _, name = rest.partition(".")
            named.setdefault((number, kind), {})[name] = tensor
        blocks = [_block(kind, tensors, unknowns) for (_, kind), tensors in named.items()]
        counted = torch.cat([block.index for block in blocks])
        if len(counted.unique()) < len(counted):
            refuse("a saved posterior's blocks", "of different unknowns", "one in two of them")
        return cls(model, record, state["loc"], blocks, bool(state["linearize"]))


def _block(kind: str, tensors: dict[str, torch.Tensor], unknowns: int) -> AbstractFactor:
    """A block from its stored tensors, which are checked.

    Raises:
        ValueError: If they are not what such a block has.
    """
    what = "a saved posterior's block"
    index = tensors.pop("index", None)
    if kind not in KINDS or not isinstance(index, torch.Tensor) or index.dtype != torch.int64 or index.dim() != 1:
        refuse(what, f"one of {', '.join(KINDS)} over numbered unknowns", kind or "nothing")
    if not len(index) or int(index.min()) < 0 or int(index.max()) >= unknowns:
        refuse(what, f"over unknowns from 0 to {unknowns - 1}", "other numbers")
    check_tensors(tensors, KINDS[kind].shapes, {"n": len(index)}, what)
    if kind == "kronecker" and tensors["scale"].numel() != len(index):
        refuse(what, f"of {len(index)} unknowns", str(tuple(tensors["scale"].shape)))
    return KINDS[kind](index, **tensors)
