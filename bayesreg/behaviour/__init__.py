"""What a module stands: which ways of differentiating it, found out before a fit, and the ways round what it does not stand."""

from bayesreg.behaviour.base import PIECEWISE, Behaviour, Operations
from bayesreg.behaviour.batchnorm import batchnorms as batchnorms
from bayesreg.behaviour.batchnorm import by_batch as by_batch
from bayesreg.behaviour.batchnorm import stateless as stateless
from bayesreg.behaviour.derivatives import (
    coupled_jacobian,
    each,
    hessian,
    output_jacobian,
    product,
    pulled_back,
    pushed_forward,
    together,
)
from bayesreg.behaviour.invariance import SCALE_NOTE as SCALE_NOTE
from bayesreg.behaviour.invariance import SHIFT_NOTE as SHIFT_NOTE
from bayesreg.behaviour.invariance import scale_invariant as scale_invariant
from bayesreg.behaviour.outputs import UnlikeTensor, one_column
from bayesreg.behaviour.recompute import called
from bayesreg.behaviour.trial import DOUBLE, FORWARD, VMAP, Model, first_line

__all__ = [
    "DOUBLE",
    "FORWARD",
    "PIECEWISE",
    "VMAP",
    "Behaviour",
    "Model",
    "Operations",
    "UnlikeTensor",
    "called",
    "coupled_jacobian",
    "each",
    "first_line",
    "hessian",
    "one_column",
    "output_jacobian",
    "product",
    "pulled_back",
    "pushed_forward",
    "together",
]
