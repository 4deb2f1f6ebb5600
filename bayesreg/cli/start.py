"""Where the command `bayesreg` starts: nothing heavy is loaded here, so that Ctrl-C is one line from the first moment on."""

from __future__ import annotations

import os
import signal

STOPPED = "Stopped; no report was written."


def main() -> None:
    """Run the command line."""
    signal.signal(signal.SIGINT, _stop)
    try:
        from bayesreg.cli.commands import main as run

        run()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # all is done: the interpreter's end is nobody's to interrupt in words


def loaded() -> None:
    """From now on Ctrl-C is an exception, as Python has it, so that what has begun is tidied up."""
    if signal.getsignal(signal.SIGINT) is _stop:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _stop(*_: object) -> None:
    """While modules are being loaded an exception would be turned into another, or lost, somewhere in their C parts."""
    try:  # noqa: SIM105 (an import in here could meet the same one half done)
        os.write(2, f"{STOPPED}\n".encode())
    except OSError:  # stderr is closed
        pass
    os._exit(130)
