"""The command `bayesreg`; it begins in `start`, which loads the rest."""

from typing import Any


def __getattr__(name: str) -> Any:
    """Load the command line's own objects on first use: `--version` must not wait for PyTorch.

    Raises:
        AttributeError: If there is none of that name.
    """
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from bayesreg.cli.commands import app

    return app
