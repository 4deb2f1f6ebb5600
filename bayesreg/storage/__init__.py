"""Files that are written completely or not at all, carry a checksum, and are checked when read."""

from bayesreg.storage.sealed import seal

__all__ = ["seal"]
