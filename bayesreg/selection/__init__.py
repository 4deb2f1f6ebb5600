"""Model selection: many prior scales at once, the evidence, the effective number of weights, and bootstrap stability."""

from bayesreg.model.rescaled import with_scale
from bayesreg.selection.bootstrap import Stability, stability
from bayesreg.selection.path_result import Path
from bayesreg.selection.paths import path

__all__ = ["Path", "Stability", "path", "stability", "with_scale"]
