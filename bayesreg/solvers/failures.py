"""What a fit that cannot go on leaves behind: the last good point, handed on to whoever can make a posterior of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bayesreg.solvers.base import Solution


class FitError(ValueError):
    """A fit that could not go on: a loss that is not finite, a loader that raised.

    Attributes:
        step: Steps done before.
        state: The optimizer's state when all was well last.
        solution: The last good point and its model, where a solver searched for a mode.
        posterior: The last good point as a posterior, not certified: of the method's own kind, or the mode that it rests on.
            None where `step` is 0 and there was none.
    """

    def __init__(self, message: str, step: int, state: dict[str, Any]) -> None:
        super().__init__(message)
        self.step, self.state = step, state
        self.solution: Solution | None = None
        self.posterior: Any = None


def rescuing(made: Callable[[FitError], Any]) -> contextlib.AbstractContextManager[None]:
    """A `FitError` from inside takes with it the posterior that `made` makes of it.

    Args:
        made: From the error, whose `state` is the last good one, to a posterior; where it fails, that of the error stays.

    Returns:
        What surrounds the search.
    """
    return _taking("posterior", made)


def keeping(made: Callable[[FitError], Solution]) -> contextlib.AbstractContextManager[None]:
    """The same inside a solver, which knows no posteriors: the error takes the last good point with it.

    Args:
        made: From the error to the point; where it fails, that of the error stays.

    Returns:
        What surrounds the search.
    """
    return _taking("solution", made)


@contextlib.contextmanager
def _taking(what: str, made: Callable[[FitError], Any]) -> Iterator[None]:
    """A `FitError` from inside takes with it, as its attribute `what`, what `made` makes of it.

    Raises:
        FitError: The one that came.
    """
    try:
        yield
    except FitError as failure:
        with contextlib.suppress(Exception):  # the network that failed may fail again
            setattr(failure, what, made(failure))
        raise
