"""Files that are written whole or not at all, sealed, and checked before they are believed."""

from bayesreg.storage.sealed import seal

__all__ = ["seal"]
