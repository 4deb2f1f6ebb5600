"""Early stopping: rows that are held out of a fit, and the point that they find best."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import torch

from bayesreg.data.row_terms import RowTerms
from bayesreg.data.rows import Data
from bayesreg.model.model import BayesianModel
from bayesreg.solvers.history import History
from bayesreg.solvers.stepper import AbstractStepper


class EarlyStopping:
    """Keeps the point with the best held-out score, and stops when `patience` looks in a row have brought no better one.

    Args:
        score: Mean log-density of a held-out row at the optimizer's present point, in nats.
        patience: Looks without improvement; there are about a hundred looks in a fit.
    """

    def __init__(self, score: Callable[[], float], patience: int) -> None:
        self.score, self.patience = score, patience
        self.best, self.step, self.since = -math.inf, 0, 0
        self.state: dict[str, Any] | None = None

    def stops(self, step: int, stepper: AbstractStepper) -> bool:
        """Look once; True when it is enough.

        Args:
            step: Steps done.
            stepper: Whose state is kept where it is the best so far.
        """
        found = self.score()
        if found > self.best:
            self.best, self.step, self.since, self.state = found, step, 0, stepper.state()
        else:
            self.since += 1
        return self.since >= self.patience


def hold_out(model: BayesianModel, data: Data, fraction: float, history: History) -> tuple[BayesianModel, Data, Any]:
    """The model and its rows without those that are held out, and these; statistics are those of the rows that are left.

    Raises:
        ValueError: If no row is left, or rows are streamed.
    """
    if data.x is None or data.y is None:
        raise ValueError("validation_fraction needs all rows in memory, but a DataLoader came; pass X and y as arrays.")
    x, y = data.x, data.y
    count = max(1, round(fraction * len(x)))
    if count >= len(x):
        raise ValueError(
            f"validation_fraction must leave rows to fit, but {fraction:g} of {len(x):,} came; pass a smaller one."
        )
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(torch.initial_seed())).to(x.device)
    held, rest = order[:count], order[count:]
    history.notes.append(f"{count:,} rows are held out to stop early; the fit is about the other N = {len(rest):,}.")
    units = model.standardization
    if units is None and not model.waits_for_scale:
        fitted = model.with_rows(len(rest))
        return fitted, dataclasses.replace(data, num_data=len(rest), x=x[rest], y=y[rest]), (x[held], y[held])
    y, weight, offset = model.likelihood.brought(y)
    if units is not None:  # back to the data's own units
        x = x if not x.is_floating_point() else x.double() * units.x_scale + units.x_mean
        y = y.double() * units.y_scale + units.y_mean if model.likelihood.location_scale else y
    kept, left = ([None if v is None else v[part] for v in (weight, offset)] for part in (rest, held))
    fitted, rows = model.ingest(x[rest], y[rest], sample_weight=kept[0], offset=kept[1])
    fitted = fitted.with_names(model.feature_names, model.target_names)
    seen, targets = fitted.prepare(x[held], y[held])
    _, aside = fitted.with_rows_of(RowTerms(*left), targets, Data(len(held), seen, targets))
    return fitted, rows, aside.full("early stopping")
