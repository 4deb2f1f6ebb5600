"""The sections of a report, one file each; every file here appears on the page."""

from bayesreg import _catalog

_catalog.load_files(__name__, __path__)
