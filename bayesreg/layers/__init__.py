"""Layers for networks: dropout in all its variants, each a variational posterior with its KL; and `MLP`.

W = M ∘ z(ε)   by units: Dropout, ChannelDropout, GaussianDropout, ConcreteDropout   by weights: DropConnect, VariationalDropout
"""

from typing import Any

from bayesreg import _catalog
from bayesreg.layers.base import AbstractNoise, AbstractUnitNoise, AbstractWeightNoise, independent
from bayesreg.layers.base import bernoulli_entropy as bernoulli_entropy
from bayesreg.layers.base import normal_energy as normal_energy
from bayesreg.layers.base import normal_entropy as normal_entropy
from bayesreg.layers.base import two_points as two_points
from bayesreg.layers.copying import copied as copied
from bayesreg.layers.dropout import AlphaDropout, ChannelDropout, ConcreteDropout, DropConnect, Dropout, GaussianDropout
from bayesreg.layers.dropout import relaxed_moments as relaxed_moments
from bayesreg.layers.fan_in import fan_ins as fan_ins
from bayesreg.layers.mlp import MLP
from bayesreg.layers.sites import noise_layers, noisy, sampling
from bayesreg.layers.sites import noise_sites as noise_sites
from bayesreg.layers.standardize import Standardize
from bayesreg.layers.variational import VariationalDropout
from bayesreg.layers.variational import log_uniform_kl as log_uniform_kl

__all__ = [
    "MLP",
    "AbstractNoise",
    "AbstractUnitNoise",
    "AbstractWeightNoise",
    "AlphaDropout",
    "ChannelDropout",
    "ConcreteDropout",
    "DropConnect",
    "Dropout",
    "GaussianDropout",
    "Standardize",
    "VariationalDropout",
    "independent",
    "noise_layers",
    "noisy",
    "sampling",
]

_catalog.load_files(__name__, __path__)


def __getattr__(name: str) -> Any:
    """A layer from a file that is not named above."""
    return _catalog.named(__name__, AbstractNoise, name)
