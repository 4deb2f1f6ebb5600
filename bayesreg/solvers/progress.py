"""How a search is followed from outside."""

from __future__ import annotations

from collections.abc import Callable

ProgressCallback = Callable[[int, int, float], None]  # steps done, steps in all, the objective in nats
