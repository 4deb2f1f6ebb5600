"""How a search is followed from outside: a person's function, a bar on the terminal, or nothing."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Iterator

from bayesreg._threads import importing

ProgressCallback = Callable[..., None]  # steps done, steps in all, the objective in nats, and what else there is to say of them


def unheard(step: int, total: int, objective: float, said: str = "") -> None:
    """Where nobody follows."""


@contextlib.contextmanager
def reporter(progress: bool | ProgressCallback, title: str) -> Iterator[ProgressCallback]:
    """The function that a search reports (step, number of steps, objective) to: the user's, a bar on stderr, or none.

    `progress` is as for `fit`; `title` stands before the bar. A user's function that has a parameter `said` hears as its fourth
    argument what else there is to say, say the acceptance of a sampler.

    Yields:
        A function of (step, of how many, objective).
    """
    if callable(progress):
        tell = progress
        yield tell if _hears(tell) else lambda step, total, objective, said="": tell(step, total, objective)
        return
    if not progress or not sys.stderr.isatty():
        yield lambda step, total, objective, said="": None
        return
    with importing():
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[shown]}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None, shown="")
        yield lambda step, total, objective, said="": bar.update(
            task, completed=step, total=total, shown=f"{step}/{total}  {objective:,.1f} nats  {said}".rstrip()
        )


def _hears(tell: ProgressCallback) -> bool:
    """Whether a user's function takes what else there is to say."""
    try:
        return "said" in inspect.signature(tell).parameters
    except ValueError:  # a built-in one, without a signature
        return False
