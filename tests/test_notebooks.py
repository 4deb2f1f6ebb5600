"""The course runs from top to bottom, and each chapter's .ipynb is what its .py says, executed."""

import os
import re
from pathlib import Path

import jupytext
import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "notebooks"
SCRIPTS = sorted(FOLDER.glob("*.py"))
HOW = "write it again with `make notebooks`"
MAX_BYTES = 500_000

by_chapter = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def texts(cell):
    """What a cell wrote or showed as text, without pictures."""
    for output in cell.outputs:
        yield output.get("text", "")
        for kind, content in output.get("data", {}).items():
            if kind.startswith("text/"):
                yield content


@pytest.fixture(scope="module")
def stored():
    """The .ipynb of each script, as it lies in the folder."""
    return {path.stem: nbformat.read(path, as_version=4) for path in FOLDER.glob("*.ipynb")}


def test_there_is_a_course():
    assert SCRIPTS, f"no script in {FOLDER.name}/"
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == {path.stem for path in SCRIPTS}, HOW


@by_chapter
def test_runs_from_top_to_bottom(script, stored):
    notebook = jupytext.read(script)
    # the kernel is a process of its own: warnings are not errors there, and its pictures go into the notebook
    environment = {**os.environ, "MPLBACKEND": "module://matplotlib_inline.backend_inline", "OMP_NUM_THREADS": "1"}
    NotebookClient(
        notebook,
        timeout=300,  # seconds for one cell; all of them take under 90 on two cores
        startup_timeout=120,
        kernel_name="python3",
        resources={"metadata": {"path": str(FOLDER)}},
    ).execute(env=environment)
    assert any(cell.outputs for cell in code(notebook)), "nothing was printed: the check below would compare nothing"
    shown = [{output.output_type for output in cell.outputs} for cell in code(notebook)]
    assert [{output.output_type for output in cell.outputs} for cell in code(stored[script.stem])] == shown, HOW


@by_chapter
def test_pair_has_the_same_cells(script, stored):
    expected = [(cell.cell_type, cell.source) for cell in jupytext.read(script).cells]
    assert [(cell.cell_type, cell.source) for cell in stored[script.stem].cells] == expected, HOW
    header = jupytext.read(script).metadata
    assert header["jupytext"]["formats"] == "ipynb,py:percent"
    assert header["kernelspec"]["name"] == stored[script.stem].metadata["kernelspec"]["name"] == "python3"


@by_chapter
def test_pair_was_executed_once_in_order(script, stored):
    cells = code(stored[script.stem])
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), HOW
    kinds = [output.output_type for cell in cells for output in cell.outputs]
    assert "error" not in kinds
    assert not [o.text for cell in cells for o in cell.outputs if o.get("name") == "stderr"], "a cell wrote on stderr"


@by_chapter
def test_pair_is_small_and_names_no_machine(script, stored):
    assert script.with_suffix(".ipynb").stat().st_size < MAX_BYTES
    shown = "\n".join(text for cell in code(stored[script.stem]) for text in texts(cell))
    assert not re.search(r"(?<![\w.])/(home|root|Users|tmp|work|usr|opt|mnt|var)/|[A-Z]:\\", shown)
