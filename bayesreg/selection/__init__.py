"""Which model: many prior scales at once, the evidence, how many weights the data decide, and what a bootstrap keeps."""

from bayesreg.selection.bootstrap import Stability, stability
from bayesreg.selection.path_result import Path
from bayesreg.selection.paths import path
from bayesreg.selection.scales import with_scale

__all__ = ["Path", "Stability", "path", "stability", "with_scale"]
