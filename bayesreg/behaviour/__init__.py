"""How a module differs in training, which random numbers it draws, and how to differentiate it."""

from bayesreg.behaviour.base import PIECEWISE, Behaviour, Operations
from bayesreg.behaviour.batchnorm import by_batch as by_batch
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
from bayesreg.behaviour.kinds import NORMALISING, normalises, passes_on
from bayesreg.behaviour.outputs import UnlikeTensor, one_column
from bayesreg.behaviour.reasons import (
    AS_IT_STANDS,
    BATCH_STATISTICS,
    BY_ROWS,
    COMPILING,
    EACH_ROW,
    EVIDENCE,
    MANY_FITS,
    PREDICTION,
    ROW_WEIGHTS,
)
from bayesreg.behaviour.recompute import called
from bayesreg.behaviour.training import check_draws
from bayesreg.behaviour.trial import DOUBLE, FORWARD, VMAP, Model, first_line

__all__ = [
    "AS_IT_STANDS",
    "BATCH_STATISTICS",
    "BY_ROWS",
    "COMPILING",
    "DOUBLE",
    "EACH_ROW",
    "EVIDENCE",
    "FORWARD",
    "MANY_FITS",
    "NORMALISING",
    "PIECEWISE",
    "PREDICTION",
    "ROW_WEIGHTS",
    "VMAP",
    "Behaviour",
    "Model",
    "Operations",
    "UnlikeTensor",
    "called",
    "check_draws",
    "coupled_jacobian",
    "each",
    "first_line",
    "hessian",
    "normalises",
    "one_column",
    "output_jacobian",
    "passes_on",
    "product",
    "pulled_back",
    "pushed_forward",
    "together",
]
