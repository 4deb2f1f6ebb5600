"""Chapter 07 runs. One file a chapter, so that chapters run side by side: a file is one worker's."""

import pytest

from tests.notebook import runs_from_top_to_bottom


@pytest.mark.slow
def test_runs_from_top_to_bottom():
    runs_from_top_to_bottom(7)
