"""By which statistics batch normalisation predicts, and what a random batch alone makes of a prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bayesreg.behaviour.batchnorm import lacking
from bayesreg.posteriors.base import AbstractPosterior, Dirac
from bayesreg.posteriors.refreshed import WithStatistics
from bayesreg.reports.noise import makes


def batchnorm_facts(
    posteriors: Mapping[str, AbstractPosterior], parts: Sequence[Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """The statistics behind each fit's predictions.

    Args:
        posteriors: By name.
        parts: What `uncertainty_facts` found for them.

    Returns:
        Plain values by name, of networks with batch normalisation only: "layers", "statistics" in words, "finding", the same
        as a sentence, and "noise", what the batches alone make of a prediction, empty where they are not random.
    """
    found = {}
    for name, posterior in posteriors.items():
        statistics = posterior.batch_statistics
        if statistics is None:
            continue
        # at one point, only the batches differ from draw to draw
        alone = isinstance(posterior, WithStatistics) and posterior.at_a_point
        mine = [part for part in parts if part["posterior"] == name]
        taken = posterior.record.batch_statistics
        noise = (
            f"A draw takes {taken.of_a_draw}: {makes(mine)}. How many rows a batch has was set by hand, and this number with "
            "it."
            if alone and taken is not None
            else ""
        )
        # running averages; a point has one draw
        shared = taken is None and lacking(posterior.model.module) is None and not isinstance(posterior, Dirac)
        better = ", one set for all draws; bayesreg.refresh_batchnorm gives each draw its own" if shared else ""
        found[name] = {
            "layers": list(posterior.model.behaviour.coupling),
            "statistics": statistics,
            "finding": f"predicts by {statistics}{better}.",
            "noise": noise,
        }
    return found
