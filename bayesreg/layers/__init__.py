"""Layers that a network is built from: dropout in all its variants, each a variational posterior with its KL; and `MLP`.

W = M ∘ z(ε)   by units: Dropout, ChannelDropout, GaussianDropout, ConcreteDropout   by weights: DropConnect, VariationalDropout
"""

from bayesreg.layers.base import AbstractNoise
from bayesreg.layers.dropout import AlphaDropout, ChannelDropout, ConcreteDropout, DropConnect, Dropout, GaussianDropout
from bayesreg.layers.mlp import MLP
from bayesreg.layers.standardize import Standardize
from bayesreg.layers.structure import noise_layers, noisy, sampling
from bayesreg.layers.variational import VariationalDropout

__all__ = [
    "MLP",
    "AbstractNoise",
    "AlphaDropout",
    "ChannelDropout",
    "ConcreteDropout",
    "DropConnect",
    "Dropout",
    "GaussianDropout",
    "Standardize",
    "VariationalDropout",
    "noise_layers",
    "noisy",
    "sampling",
]
