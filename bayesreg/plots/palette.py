"""One palette and one style for all figures, which end with the call."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from bayesreg._threads import settings

# Each hex is used for one role only, so that a report can put a colour of its theme in its place.
INK, MUTED, GRID, PAPER, BAD = "#1b2430", "#5b6775", "#dfe4ea", "#ffffff", "#b3261e"
ALEATORIC, EPISTEMIC = "#a9bcd3", "#d9622b"
SERIES = ("#1f6fb2", "#b35309", "#0f7f63", "#7d4fa6", "#8a6500", "#47566b")
MARKERS = "os^DvP"
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 1.5, 1, 1.5)), (0, (3, 1)), (0, (8, 3)))
STYLE: dict[str, Any] = {
    "font.size": 12,
    "figure.figsize": (340 / 72, 240 / 72),  # a viewBox of 340 × 240, so that a point is a pixel on a phone
    "figure.facecolor": PAPER,
    "figure.constrained_layout.use": True,
    "axes.facecolor": PAPER,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelsize": 12,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "text.parse_math": False,  # a name with dollar signs is no formula
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 11.5,
    "ytick.labelsize": 11.5,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 11.5,
    "legend.handlelength": 1.6,
    "legend.columnspacing": 1.0,
    "legend.handletextpad": 0.5,
    "legend.borderaxespad": 0.2,
}


@contextlib.contextmanager
def styled() -> Iterator[None]:
    """Matplotlib's defaults with this file's style inside the block, the user's settings after it; one thread at a time."""
    import matplotlib.style

    with settings(), matplotlib.style.context(["default", STYLE]):
        yield
