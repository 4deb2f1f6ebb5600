"""Matplotlib's figure with a picture of itself, so that a notebook shows it also where pyplot was never imported."""

from __future__ import annotations

import io

import matplotlib.figure

from bayesreg.plots.style import styled


class Figure(matplotlib.figure.Figure):
    """A figure that a notebook shows; pyplot, where it is in use, does so in its own way."""

    def _repr_png_(self) -> bytes:
        stream = io.BytesIO()
        with styled():
            self.savefig(stream, format="png", bbox_inches="tight")
        return stream.getvalue()
