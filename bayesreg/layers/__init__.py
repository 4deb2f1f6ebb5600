"""Layers for networks: dropout in all its variants, each a variational posterior with its KL; and `MLP`.

W = M ∘ z(ε)   by units: Dropout, ChannelDropout, GaussianDropout, ConcreteDropout   by weights: DropConnect, VariationalDropout
"""

from typing import Any

from bayesreg import _catalog
from bayesreg.layers.base import AbstractMask, AbstractUnitMask, AbstractWeightMask, independent
from bayesreg.layers.base import bernoulli_entropy as bernoulli_entropy
from bayesreg.layers.base import normal_energy as normal_energy
from bayesreg.layers.base import normal_entropy as normal_entropy
from bayesreg.layers.base import two_points as two_points
from bayesreg.layers.copying import copied as copied
from bayesreg.layers.dropout import AlphaDropout, ChannelDropout, ConcreteDropout, DropConnect, Dropout, GaussianDropout
from bayesreg.layers.dropout import relaxed_moments as relaxed_moments
from bayesreg.layers.fan_in import fan_ins as fan_ins
from bayesreg.layers.mlp import MLP
from bayesreg.layers.mlp import in_sequence as in_sequence
from bayesreg.layers.sites import mask_layers, sampling, with_masks
from bayesreg.layers.sites import mask_sites as mask_sites
from bayesreg.layers.standardize import Standardize
from bayesreg.layers.variational import VariationalDropout
from bayesreg.layers.variational import log_uniform_kl as log_uniform_kl

__all__ = [
    "MLP",
    "AbstractMask",
    "AbstractUnitMask",
    "AbstractWeightMask",
    "AlphaDropout",
    "ChannelDropout",
    "ConcreteDropout",
    "DropConnect",
    "Dropout",
    "GaussianDropout",
    "Standardize",
    "VariationalDropout",
    "independent",
    "mask_layers",
    "sampling",
    "with_masks",
]

_catalog.load_files(__name__, __path__)


def __getattr__(name: str) -> Any:
    """A layer from a file that is not named above."""
    return _catalog.named(__name__, AbstractMask, name)
