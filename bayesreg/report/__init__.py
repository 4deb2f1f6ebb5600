"""One self-contained page on what was assumed, what was found and what a mode hid."""

from bayesreg.report.build import Report, report

__all__ = ["Report", "report"]
