"""How a chapter of the course is executed and read, for its own test file and for what all chapters have in common."""

import os
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"
SCRIPTS = sorted(FOLDER.glob("*.py"))
HOW = "write it again with `make notebooks`"


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def stored(script):
    """The script's .ipynb, as it lies in the folder."""
    return nbformat.read(script.with_suffix(".ipynb"), as_version=4)


def kinds(notebook):
    """What kinds of output each cell has."""
    return [{output.output_type for output in cell.outputs} for cell in code(notebook)]


def runs_from_top_to_bottom(number):
    """Execute the chapter with this number; fail where a cell does, or where the .ipynb is another run's."""
    script = next(path for path in SCRIPTS if path.stem.startswith(f"{number:02d}_"))
    notebook = jupytext.read(script)
    # the kernel is a process of its own: warnings are not errors there, and its pictures go into the notebook
    environment = {
        **os.environ,
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(FOLDER.parent),  # this checkout's package, wherever another one is installed
    }
    NotebookClient(
        notebook,
        timeout=300,  # seconds for one cell; all of them take under 90 on two cores
        startup_timeout=120,
        kernel_name="python3",
        resources={"metadata": {"path": str(FOLDER)}},
    ).execute(env=environment)
    assert any(cell.outputs for cell in code(notebook)), "nothing was printed: the check below would compare nothing"
    assert kinds(stored(script)) == kinds(notebook), HOW
