"""Output of the command line: text and tables for a narrow terminal or a pipe, and errors of one line.

Nothing from a file is read as markup, and no control character from it reaches the terminal.
"""

from __future__ import annotations

import ast
import contextlib
import io
import os
import re
import shlex
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import typer
import typer.core

from bayesreg.cli.interrupt import STOPPED

if TYPE_CHECKING:
    from rich.console import Console

    from bayesreg.certificates import Advice

_USAGE: Any = typer.BadParameter.__mro__[2]  # ClickException, which Typer does not export: some versions bring their own Click
_WHOLE = 13  # characters: a shorter cell is not broken
_UNBROKEN = 1000  # columns; a pipe has no edge to break lines at
_SIZES = range(20, 10_001)  # allowed range of COLUMNS: fewer are unreadable, more break no lines
_LONGEST = 300  # longest word in a message; the middle of a longer one (a number of 400 digits, a cell, a path) is left out
_TWICE = (  # words that occur together in a message, or differ from the argument's name
    ("leave kind=None", "leave --kind out"),
    ("force=True (--force)", "--force"),
    ("pass another fraction", "pass another --test-fraction"),
    (", or pass standardize=False", ""),
    ("; the error's `posterior` is the last good point", ""),
    ("write likelihoods.Gaussian(noise_scale=0.5)", "write --likelihood 'Gaussian(noise_scale=0.5)'"),
    ("at most max_parameters=", "at most "),
    (", a smaller network, or a larger max_parameters", " or a smaller network (--hidden)"),
    ("take layers.MLP(..., batchnorm=True), add nn.BatchNorm1d, or", "add --batchnorm, or"),
    ("add nn.Dropout(0.05) or one of bayesreg.layers, or", "add --dropout 0.05, or"),
)
# arguments in Python with an option of their own here, with the value in the message, if any
_PYTHON = re.compile(
    r"(?<![\w'\".-])(?:(?P<word>max_levels|kind|test_fraction|num_steps|batch_size|learning_rate|num_samples|seed|method)"
    r"(?P<value>=(?:\[[^]]*\]|'[^']*'|[\w.-]*\w))?(?![\w'\"])(?=[=,;:.)]| |$)"
    r"|(?P<name>drop|na|categorical|numeric|missing|decimal|dates|encoding|separator|sheet|header|target|bad_rows|transform)="
    r"(?P<given>\[[^]]*\]|'[^']*'|\w*))"
)
_NOTED = re.compile(r"(?<![\w'\"])(?P<name>categorical|numeric|drop|na|encoding|sheet)=(?P<given>\[[^]]*\]|(?= takes ))")
_ORDINARY = ("kind", "seed", "method")  # words that stand for themselves where no value follows


class Commands(typer.core.TyperGroup):
    """The commands. Foreseeable errors take one line, with exit code 2, or 130 after Ctrl-C."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the options before the command's name."""
        with _terminal(), _one_line():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Read the command's own options, and run it."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="replace")  # a terminal without σ shows a question mark and goes on
        with _terminal(), _one_line():
            return super().invoke(ctx)


@contextlib.contextmanager
def _terminal() -> Iterator[None]:
    """Ignore for a while a terminal size in the environment that is impossible."""
    said = {name: os.environ[name] for name in ("COLUMNS", "LINES", "TERMINAL_WIDTH") if name in os.environ}
    wrong = {name: text for name, text in said.items() if not (text.isdecimal() and len(text) < 9 and int(text) in _SIZES)}
    for name in wrong:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(wrong)


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise  # the reader of the pipe has closed it: Typer ends quietly
    except KeyboardInterrupt:
        _complain(STOPPED)
        raise typer.Exit(130) from None
    except _USAGE as error:
        context = getattr(error, "ctx", None)
        _complain(f"Error: {_full_stop(error.format_message())} See: {context.command_path if context else 'bayesreg'} --help")
        raise typer.Exit(2) from None
    except (ValueError, ImportError, OSError) as error:
        about = f"{error.strerror}: {error.filename}" if isinstance(error, OSError) and error.filename else str(error)
        _complain(f"Error: {in_options(about)}")
        raise typer.Exit(2) from None
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "allocate memory" not in str(error):  # what torch raises in its place
            raise
        _complain("Error: all that is computed must fit into memory, but it does not; take fewer --hidden, rows or draws.")
        raise typer.Exit(2) from None


def _complain(message: str) -> None:
    """Say an error or a warning in one line; a list of problems has a line each."""
    screen = console(stderr=True)
    for line in message.splitlines():
        words = (word if len(word) <= _LONGEST else f"{word[:60]}…{word[-20:]}" for word in line.split())
        indent = " " * (len(line) - len(line.lstrip())) if line.lstrip()[:1].isdigit() else ""
        screen.print(indent + printable(" ".join(words)), style="red", soft_wrap=True)


def warn(message: str) -> None:
    """Say on stderr, in one line, what did not go as asked."""
    _complain(f"Warning: {message}")


def _full_stop(sentence: str) -> str:
    return sentence if sentence.endswith((".", "?", "!")) else f"{sentence}."


def in_options(message: str) -> str:
    """A message of the Python interface with options in place of arguments.

    >>> in_options("leave it out by drop=['id', 'a b'], missing='drop', or raise max_levels")
    "leave it out by --drop id --drop 'a b', --missing drop, or raise --max-levels"
    >>> in_options("raise num_steps; the column 'num_steps' stays, and so does what is kind.")
    "raise --num-steps; the column 'num_steps' stays, and so does what is kind."
    >>> in_options("it normalises; let it keep them, or take method='mean-field'")
    'it normalises; let it keep them, or take --method mean-field'
    """
    for said, option in _TWICE:
        message = message.replace(said, option)
    must, mark, advice = message.rpartition(";")
    for name, option in _methods().items():
        advice = re.sub(rf"(?<![\w.(]){name}(?![\w(])", option, advice)
    return _PYTHON.sub(_option, f"{must}{mark}{advice}")


def note_in_options(note: str) -> str:
    """The same for a note on a table, in which an input's name may look like an argument.

    >>> note_in_options("kind: one-hot (kind=a, kind=b); id: left out (numeric=['id'] keeps it)")
    'kind: one-hot (kind=a, kind=b); id: left out (--numeric id keeps it)'
    """
    return _NOTED.sub(lambda found: _with_value(found["name"], found["given"]), note)


def _methods() -> dict[str, str]:
    """The option that asks for a method, by its class's name; nothing before PyTorch is loaded."""
    loaded = sys.modules.get("bayesreg.inference.base")
    return {} if loaded is None else {cls.__name__: f"--method {name}" for name, cls in loaded.methods().items()}


def as_option(advice: Advice) -> str:
    """A certificate's advice in the words of the command line.

    >>> from bayesreg.certificates import Advice
    >>> as_option(Advice("num_steps")), as_option(Advice("method", "mean-field", "MeanField"))
    ('--num-steps', '--method mean-field')
    """
    return f"--{advice.argument.replace('_', '-')} {advice.value}".rstrip()


def _option(found: re.Match[str]) -> str:
    return _with_value(found["name"], found["given"]) if found["name"] else _as_option(found["word"], found["value"])


def _as_option(word: str, value: str | None) -> str:
    if word in _ORDINARY and value is None:
        return word
    if word == "method" and value is not None:
        return f"--method {value[2:-1]}"
    option = "--" + word.replace("_", "-")
    if value in (None, "=True"):
        return option
    return f"{option} {value[1:].strip(chr(39))}"


def _with_value(name: str, given: str) -> str:
    """An option with the value that the Python argument has, said once for each of a list."""
    option = "--" + name.replace("_", "-")
    if (name, given) == ("header", "False"):
        return "--no-header"
    if not given:
        return option
    try:
        values = ast.literal_eval(given)
    except (SyntaxError, ValueError):
        values = given
    return " ".join(f"{option} {shlex.quote(str(value))}" for value in (values if isinstance(values, list) else [values]))


def printable(text: str) -> str:
    r"""The text with control characters escaped, line breaks excepted, so that a file's cell cannot steer the terminal.

    >>> printable("a\x1b[31mb")
    'a\\x1b[31mb'
    """
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def console(*, stderr: bool = False) -> Console:
    """A console that prints text as it is: no markup, no emoji, no colour unless asked for.

    It is as wide as the terminal, and of unlimited width where the output is no terminal. With `stderr`, for messages and
    progress.
    """
    from rich.console import Console

    made = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = _UNBROKEN
    return made


def say(screen: Console, *lines: str, style: str | None = None, indent: int = 0) -> None:
    """Print paragraphs, in a style where there are colours, with `indent` blanks before each line."""
    room = max(20, screen.width - indent)
    for line in lines:
        parts = textwrap.wrap(printable(line), room, break_long_words=False, break_on_hyphens=False) or [""]
        for part in parts:
            screen.print(" " * indent + part, style=style)


def columns(
    screen: Console, heads: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = False, style: str = ""
) -> None:
    """Print a table whose cells break at the terminal's edge.

    There is one head a column; none are shown when all are empty. With `numbers`, all columns but the first are numbers.
    `style` is that of the last column, where there are colours.
    """
    from rich.align import Align
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    shown = any(heads)
    cells = [[printable(cell) for cell in row] for row in (heads, *rows)]
    table = Table(
        box=SIMPLE_HEAD if shown else None,
        show_header=shown,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1 if shown else 2, 0, 0),
    )
    for i, width in enumerate(_widths(cells, screen.width)):
        side, last = "right" if numbers and i else "left", i == len(heads) - 1
        head = Align(cells[0][i], side, vertical="bottom")
        table.add_column(head, justify=side, overflow="fold", width=width, style=style if last else "")
    for row in cells[1:]:
        table.add_row(*row)
    screen.print(table)


def _widths(cells: Sequence[Sequence[str]], room: int) -> list[int] | list[None]:
    """Widths of columns: those of their cells or, where there is no room, narrower by breaking cells between words.

    >>> _widths([["a", "one two three four"]], 80), _widths([["a", "one two three four"]], 10)
    ([1, 18], [1, 7])
    """
    columns = list(zip(*cells, strict=True))
    widths = [max(map(len, column)) for column in columns]
    least = [
        max(len(part) for cell in column for part in ([cell] if len(cell) <= _WHOLE else cell.split())) for column in columns
    ]
    while sum(widths) + 2 * (len(widths) - 1) > room:
        slack = [width - word for width, word in zip(widths, least, strict=True)]
        if max(slack) <= 0:
            return [None] * len(widths)  # words must break too: that is Rich's to decide
        widths[slack.index(max(slack))] -= 1
    return widths


@contextlib.contextmanager
def progress(name: str) -> Iterator[Callable[..., None]]:
    """A bar on stderr while a fit runs, if that is a terminal; it is removed afterwards.

    Yields:
        What `fit` calls with (step, of how many, objective, what else there is to say).
    """
    screen = console(stderr=True)
    if not screen.is_terminal:
        yield lambda step, total, objective, said="": None
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    parts = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[shown]}", markup=False),
        TimeRemainingColumn(),
    )
    with Progress(*parts, console=screen, transient=True, expand=True) as bar:
        task = bar.add_task(printable(name), total=None, shown="")

        def update(step: int, total: int, objective: float, said: str = "") -> None:
            shown = f"{step:,}/{total:,}  {objective:,.1f} nats  {said}".rstrip()
            bar.update(task, completed=step, total=total, shown=shown)

        yield update
