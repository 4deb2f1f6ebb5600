"""Each chapter's .ipynb is what its .py says, executed; that it still runs is said by a test file of its own."""

import re
from pathlib import Path

import jupytext
import pytest

from tests.notebook import FOLDER, HOW, SCRIPTS, code, stored

MAX_BYTES = 500_000

by_chapter = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)


def texts(cell):
    """What a cell wrote or showed as text, without pictures."""
    for output in cell.outputs:
        yield output.get("text", "")
        for kind, content in output.get("data", {}).items():
            if kind.startswith("text/"):
                yield content


def test_there_is_a_course_and_all_of_it_is_run():
    assert SCRIPTS, f"no script in {FOLDER.name}/"
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == {path.stem for path in SCRIPTS}, HOW
    files = sorted(path.name for path in Path(__file__).parent.glob("test_notebook_*.py"))
    assert files == [f"test_notebook_{path.stem[:2]}.py" for path in SCRIPTS], "each chapter needs its test file"


@by_chapter
def test_pair_has_the_same_cells(script):
    expected = [(cell.cell_type, cell.source) for cell in jupytext.read(script).cells]
    assert [(cell.cell_type, cell.source) for cell in stored(script).cells] == expected, HOW
    header = jupytext.read(script).metadata
    assert header["jupytext"]["formats"] == "ipynb,py:percent"
    assert header["kernelspec"]["name"] == stored(script).metadata["kernelspec"]["name"] == "python3"


@by_chapter
def test_pair_was_executed_once_in_order(script):
    cells = code(stored(script))
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), HOW
    kinds = [output.output_type for cell in cells for output in cell.outputs]
    assert "error" not in kinds
    assert not [o.text for cell in cells for o in cell.outputs if o.get("name") == "stderr"], "a cell wrote on stderr"


@by_chapter
def test_pair_is_small_and_names_no_machine(script):
    assert script.with_suffix(".ipynb").stat().st_size < MAX_BYTES
    shown = "\n".join(text for cell in code(stored(script)) for text in texts(cell))
    assert not re.search(r"(?<![\w.])/(home|root|Users|tmp|work|usr|opt|mnt|var)/|[A-Z]:\\", shown)
