"""Entry point of the command `bayesreg`. Nothing heavy is loaded here, so that Ctrl-C gives one line from the start."""

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
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # all is done: an interrupt now needs no message
