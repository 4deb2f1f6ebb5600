"""Where the command `bayesreg` starts: nothing heavy is loaded here, so that Ctrl-C is one line from the first moment on."""

from __future__ import annotations

import signal

from bayesreg.cli.interrupt import stop


def main() -> None:
    """Run the command line."""
    signal.signal(signal.SIGINT, stop)
    try:
        from bayesreg.cli.commands import main as run

        run()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # all is done: the interpreter's end is nobody's to interrupt in words
