"""Why something cannot be done with a network that differs in training, or whose rows depend on each other: a clause each."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from bayesreg.behaviour.batchnorm import lacking, stateless
from bayesreg.behaviour.training import unlike_torch

if TYPE_CHECKING:
    from bayesreg.behaviour.base import Behaviour

EVIDENCE = "evidence"  # by a Laplace approximation
COMPILING = "compiling"  # a whole training step
ROW_WEIGHTS = "row weights"  # rows with counts other than one
MANY_FITS = "many fits"  # at once
EACH_ROW = "each row by itself"  # in evaluation
BATCH_STATISTICS = "batch statistics"  # taken anew over rows
BY_ROWS = "by the rows at hand"  # normalisation by the current rows in every mode
AS_IT_STANDS = "as it stands"  # the same function whatever rows come
PREDICTION = "prediction"


def _evidence(of: Behaviour) -> str | None:
    if of.deterministic:
        return None
    verb = "make" if " and " in of.differences else "makes"
    return f"{of.differences} {verb} training follow another objective, so that no fit ends at a mode of this model"


def _compiling(of: Behaviour) -> str | None:
    if not of.deterministic:
        return f"{of.differences} changes or draws something at each step"
    return None if of.traceable else f"{type(of.module).__name__} has steps that cannot be traced"


def _row_weights(of: Behaviour) -> str | None:
    if not of.normalising:
        return None
    return f"the network has {of.normalises_by}, whose statistics do not support row weights; take nn.LayerNorm in its place"


def _many_fits(of: Behaviour) -> str | None:
    if of.draw:
        return "dropout would have to draw masks of each"
    if of.own_code:
        return f"the network's own code makes {type(of.module).__name__} another function in training"
    return None


def _each_row(of: Behaviour) -> str | None:
    if of.row_by_row:
        return None
    names = stateless(of.module)
    where = f" (track_running_stats=False at {names[0] or 'the network'})" if names else ""
    return f"a batch normalisation that keeps no statistics{where} normalises by the other rows"


def _batch_statistics(of: Behaviour) -> str | None:
    return None if of.coupling else f"{type(of.module).__name__} has none that training updates"


def _by_rows(of: Behaviour) -> str | None:
    names = unlike_torch(of.module)
    return f"the normalisation at {names[0] or 'the network'} has a forward of its own" if names else None


def _as_it_stands(of: Behaviour) -> str | None:
    return f"its {of.normalises_by or 'batch normalisation'} has no statistics" if of.untrained or not of.row_by_row else None


def _prediction(of: Behaviour) -> str | None:
    found = lacking(of.module)
    return None if found is None else f"the normalisation at {found[1]} lacks {found[0]}"


REASONS: dict[str, Callable[[Behaviour], str | None]] = {
    EVIDENCE: _evidence,
    COMPILING: _compiling,
    ROW_WEIGHTS: _row_weights,
    MANY_FITS: _many_fits,
    EACH_ROW: _each_row,
    BATCH_STATISTICS: _batch_statistics,
    BY_ROWS: _by_rows,
    AS_IT_STANDS: _as_it_stands,
    PREDICTION: _prediction,
}
