"""Markov chains on the log-joint: many in one batched gradient, each sampler a short file."""

from bayesreg import _catalog
from bayesreg.samplers.adaptation import DualAveraging, Moments
from bayesreg.samplers.base import AbstractSampler, State, Told
from bayesreg.samplers.chain_loop import Sampled, sample_chains
from bayesreg.samplers.hamiltonian import Hamiltonian
from bayesreg.samplers.langevin import Langevin
from bayesreg.samplers.microcanonical import AdjustedMicrocanonical, Microcanonical, advance, directions, forgetting
from bayesreg.samplers.no_u_turn import NoUTurn
from bayesreg.samplers.options import STARTS, ChainOptions
from bayesreg.samplers.tracing import traced, traced_density

__all__ = [
    "STARTS",
    "AbstractSampler",
    "AdjustedMicrocanonical",
    "ChainOptions",
    "DualAveraging",
    "Hamiltonian",
    "Langevin",
    "Microcanonical",
    "Moments",
    "NoUTurn",
    "Sampled",
    "State",
    "Told",
    "advance",
    "directions",
    "forgetting",
    "sample_chains",
    "traced",
    "traced_density",
]

_catalog.load_files(__name__, __path__)
