"""Model selection: many prior scales at once, the evidence, the effective number of weights, and bootstrap stability."""

from bayesreg.selection.bootstrap import Stability, stability
from bayesreg.selection.path_result import Path
from bayesreg.selection.paths import path
from bayesreg.selection.scales import with_scale

__all__ = ["Path", "Stability", "path", "stability", "with_scale"]
