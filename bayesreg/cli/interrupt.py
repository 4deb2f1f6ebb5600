"""Ctrl-C gives one line at any moment, also while modules are being loaded."""

from __future__ import annotations

import os
import signal

STOPPED = "Stopped; no report was written."


def loaded() -> None:
    """From now on Ctrl-C raises an exception, as usual in Python, so that unfinished work is cleaned up."""
    if signal.getsignal(signal.SIGINT) is stop:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def stop(*_: object) -> None:
    """End at once: while modules are being loaded, an exception could be lost in their C code."""
    try:  # noqa: SIM105 (an import in here could meet the same one half done)
        os.write(2, f"{STOPPED}\n".encode())
    except OSError:  # stderr is closed
        pass
    os._exit(130)
