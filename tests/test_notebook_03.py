"""Chapter 03 runs. One file a chapter, so that chapters run side by side: a file is one worker's."""

from tests.notebook import runs_from_top_to_bottom


def test_runs_from_top_to_bottom():
    runs_from_top_to_bottom(3)
