"""A regulariser is a prior: declare it, fit its mode as fast as plain PyTorch, fit its posterior, read what the mode hid.

−log p(θ | data) = Σᵢ −log p(yᵢ | xᵢ, θ) + −log p(θ) + const        loss in nats + penalty in nats

A name is loaded when it is first used, so that `import bayesreg` costs milliseconds and `bayesreg --help` no PyTorch.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as type checkers read it; `typing` itself would take half of the time that this import takes
if TYPE_CHECKING:
    from typing import Any

    from bayesreg import datasets, inference, inverse, layers, likelihoods, metrics, operators, priors
    from bayesreg.comparison import Comparison, compare
    from bayesreg.dictionary import equivalents
    from bayesreg.inference import ConvergenceWarning, fit
    from bayesreg.io import load, save
    from bayesreg.model import BayesianModel, PriorSpec
    from bayesreg.posteriors import AbstractPosterior, refresh_batchnorm
    from bayesreg.predictive import Predictive
    from bayesreg.reports import Report, report
    from bayesreg.selection import Path, Stability, path, stability

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
    "datasets",
    "equivalents",
    "fit",
    "inference",
    "inverse",
    "layers",
    "likelihoods",
    "load",
    "metrics",
    "operators",
    "path",
    "priors",
    "refresh_batchnorm",
    "report",
    "save",
    "stability",
]
_HOMES = {  # the file that each other name comes from
    "AbstractPosterior": "posteriors",
    "BayesianModel": "model",
    "Comparison": "comparison",
    "ConvergenceWarning": "inference",
    "Path": "selection",
    "Predictive": "predictive",
    "PriorSpec": "model",
    "Report": "reports",
    "Stability": "selection",
    "compare": "comparison",
    "equivalents": "dictionary",
    "fit": "inference",
    "load": "io",
    "path": "selection",
    "refresh_batchnorm": "posteriors",
    "report": "reports",
    "save": "io",
    "stability": "selection",
}


def __getattr__(name: str) -> Any:
    """Load a name on its first use.

    Raises:
        AttributeError: If there is none of that name.
    """
    import importlib.util

    home = _HOMES.get(name)
    if home is not None:
        found = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    elif not name.startswith("_") and importlib.util.find_spec(f"{__name__}.{name}") is not None:
        found = importlib.import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
