"""`bayesreg` on the command line; `start` is where it begins, and loads the rest."""

from typing import Any


def __getattr__(name: str) -> Any:
    """The command line's own objects, loaded when they are asked for: `--version` must not wait for PyTorch.

    Raises:
        AttributeError: If there is none of that name.
    """
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from bayesreg.cli.commands import app

    return app
