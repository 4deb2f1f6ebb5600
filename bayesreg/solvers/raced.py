"""Several rates and starts for the first steps of a search; the one that came furthest goes on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from bayesreg.data.rows import Batch
from bayesreg.solvers.stepper import AbstractStepper

_LAST = 4  # the last part of a lane, one in so many of its steps, is what counts


class Raced(AbstractStepper):
    """Another stepper's steps at shares of the rate in turn, each from a start; then at the best from where that came.

    An objective with many local optima, as an ELBO of a network, is not for one rate: a large one leaves poor optima behind in
    one problem and loses what the data say in another. The objective itself tells, the mean loss of a lane's last quarter.

    Args:
        stepper: Takes the steps.
        shares: Of the rate; each has a lane.
        steps: Of one lane.
        starts: Where each begins, in the parameter's shape; where it stands, for all, when None.
    """

    def __init__(
        self, stepper: AbstractStepper, shares: Sequence[float], steps: int, starts: Sequence[torch.Tensor] | None = None
    ) -> None:
        self._stepper, self._shares, self._steps = stepper, shares, steps
        self.parameter = stepper.parameter
        self._start = self._best = stepper.state()
        self._points = torch.stack([*(starts or [self.parameter.detach()] * len(shares))])
        self._taken, self._sums = 0, [0.0] * len(shares)

    @property
    def share(self) -> float:
        """The share of the best lane so far, and at last that which goes on."""
        return self._shares[self._leader(max(1, self._taken // self._steps))]

    def _leader(self, lanes: int) -> int:
        return min(range(min(lanes, len(self._sums))), key=self._sums.__getitem__)

    def advance(self, batches: Sequence[Batch], rates: Sequence[float], keep: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Steps of the other; see `AbstractStepper.advance`."""
        lane, at = divmod(self._taken, self._steps)
        if lane >= len(self._shares):
            return self._stepper.advance(batches, [rate * self.share for rate in rates], keep)
        if at == 0 and lane:
            self._stepper.restore(self._start)
        if at == 0:
            self.parameter.data.copy_(self._points[lane])
        found = self._stepper.advance(batches, [rate * self._shares[lane] for rate in rates], keep)
        if at >= self._steps - self._steps // _LAST:
            self._sums[lane] += float(found[0].mean())
        self._taken += 1
        if at == self._steps - 1:
            if self._leader(lane + 1) == lane:
                self._best = self._stepper.state()
            if lane == len(self._shares) - 1:
                self._stepper.restore(self._best)
        return found

    def state(self) -> dict[str, Any]:
        """The other's state, and how the race stands."""
        race = {
            "start": self._start,
            "points": self._points,
            "best": self._best,
            "taken": self._taken,
            "sums": list(self._sums),
        }
        return {"stepper": self._stepper.state(), **race}

    def restore(self, state: dict[str, Any]) -> None:
        """Go back to a state."""
        self._stepper.restore(state["stepper"])
        self._start, self._points, self._best = state["start"], state["points"], state["best"]
        self._taken, self._sums = int(state["taken"]), list(state["sums"])
