"""A Matplotlib figure that a notebook can show also where pyplot was never imported."""

from __future__ import annotations

import io

import matplotlib.figure

from bayesreg.plots.palette import styled


class Figure(matplotlib.figure.Figure):
    """A figure that a notebook shows; where pyplot is in use, it shows figures in its own way."""

    def _repr_png_(self) -> bytes:
        from PIL import Image

        drawn, packed = io.BytesIO(), io.BytesIO()
        with styled():
            self.savefig(drawn, format="png", bbox_inches="tight", dpi=self.dpi)
        # 256 colours, all that lines and words need, take a third of the bytes in the notebook's file
        Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(packed, format="png", optimize=True)
        return packed.getvalue()
