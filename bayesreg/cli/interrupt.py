"""Ctrl-C is one line from the first moment on, while modules are being loaded too."""

from __future__ import annotations

import os
import signal

STOPPED = "Stopped; no report was written."


def loaded() -> None:
    """From now on Ctrl-C is an exception, as Python has it, so that what has begun is tidied up."""
    if signal.getsignal(signal.SIGINT) is stop:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def stop(*_: object) -> None:
    """End at once: while modules are being loaded, an exception could be lost somewhere in their C parts."""
    try:  # noqa: SIM105 (an import in here could meet the same one half done)
        os.write(2, f"{STOPPED}\n".encode())
    except OSError:  # stderr is closed
        pass
    os._exit(130)
