"""The sections of a report, a file each: what stands here is on the page."""

from bayesreg import _catalog

_catalog.load_files(__name__, __path__)
