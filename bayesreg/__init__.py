"""A regulariser is a prior: declare it, fit its mode as fast as plain PyTorch, fit its posterior, read what the mode hid.

−log p(θ | data) = Σᵢ −log p(yᵢ | xᵢ, θ) + −log p(θ) + const        loss in nats + penalty in nats

A name is loaded when it is first used, so that `import bayesreg` costs milliseconds and `bayesreg --help` no PyTorch.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # as type checkers read it; `typing` itself would take half of the time that this import takes
if TYPE_CHECKING:
    from typing import Any

    from bayesreg import inference, layers, likelihoods, metrics, priors
    from bayesreg.batch_statistics import refresh_batchnorm
    from bayesreg.compare import Comparison, compare
    from bayesreg.equivalents import equivalents
    from bayesreg.inference import ConvergenceWarning, fit
    from bayesreg.io import load, save
    from bayesreg.model import BayesianModel
    from bayesreg.path import path
    from bayesreg.path_result import Path
    from bayesreg.posterior import AbstractPosterior
    from bayesreg.predictive import Predictive
    from bayesreg.report.build import Report, report
    from bayesreg.spec import PriorSpec
    from bayesreg.stability import Stability, stability

__version__ = "0.1.0"
__all__ = [
    "AbstractPosterior",
    "BayesianModel",
    "Comparison",
    "ConvergenceWarning",
    "Path",
    "Predictive",
    "PriorSpec",
    "Report",
    "Stability",
    "compare",
    "equivalents",
    "fit",
    "inference",
    "layers",
    "likelihoods",
    "load",
    "metrics",
    "path",
    "priors",
    "refresh_batchnorm",
    "report",
    "save",
    "stability",
]
_HOMES = {  # where what is no module of its own comes from
    "AbstractPosterior": "posterior",
    "BayesianModel": "model",
    "Comparison": "compare",
    "ConvergenceWarning": "inference",
    "Path": "path_result",
    "Predictive": "predictive",
    "PriorSpec": "spec",
    "Report": "report.build",
    "Stability": "stability",
    "compare": "compare",
    "equivalents": "equivalents",
    "fit": "inference",
    "load": "io",
    "path": "path",
    "refresh_batchnorm": "batch_statistics",
    "report": "report.build",
    "save": "io",
    "stability": "stability",
}


class _Package(type(sys)):
    """This package: its names on first use, and a function kept where a file has the same name."""

    def __getattr__(self, name: str) -> Any:
        import importlib.util

        home = _HOMES.get(name)
        if home is not None:
            found = getattr(importlib.import_module(f"{__name__}.{home}"), name)
        elif not name.startswith("_") and importlib.util.find_spec(f"{__name__}.{name}") is not None:
            found = importlib.import_module(f"{__name__}.{name}")
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        setattr(self, name, found)
        return found

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _HOMES and isinstance(value, type(sys)):
            return  # importing the file `compare` would put itself where the function is looked for
        super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


sys.modules[__name__].__class__ = _Package
