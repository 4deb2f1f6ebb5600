"""Fits of every kind end at the numbers that are recorded in `recorded_fits.json`."""

import pytest

from tests import recorded_fits

RECORD = recorded_fits.recorded()
OTHER = recorded_fits.other_torch(RECORD)


def test_every_fit_is_recorded():
    assert list(RECORD["fits"]) == list(recorded_fits.CASES), "write the record anew: python -m tests.recorded_fits"
    assert recorded_fits.FILE.stat().st_size < 60_000


@pytest.mark.usefixtures("unrendered")  # no number of a report is read off its figures
@pytest.mark.skipif(bool(OTHER), reason=OTHER)
@pytest.mark.parametrize("name", RECORD["fits"])
def test_fit_ends_at_its_recorded_numbers(name):
    differences = recorded_fits.too_far(name, RECORD["fits"][name])
    assert not differences, "\n".join(differences)
