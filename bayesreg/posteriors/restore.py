"""A posterior from its stored state, which is checked first."""

from __future__ import annotations

from typing import Any

from bayesreg._catalog import concrete
from bayesreg.model.model import BayesianModel
from bayesreg.posteriors.base import AbstractPosterior
from bayesreg.posteriors.record import FitRecord
from bayesreg.storage.schema import check_fields, check_tensors, refuse


def restored(model: BayesianModel, kind: str, record: dict[str, Any], state: dict[str, Any]) -> AbstractPosterior:
    """A posterior of the class `kind` from its record and its `state` as they were stored.

    Raises:
        ValueError: If any of it is not what such a posterior has.
    """
    kinds = {cls.__name__: cls for cls in concrete(AbstractPosterior)}
    if kind not in kinds:
        refuse("a saved posterior's kind", f"one of {', '.join(kinds)}", repr(kind))
    check_fields(FitRecord, record, "a saved posterior's record")
    found = kinds[kind]
    if found.state_shapes is not None:
        unknowns = sum(latent.shape.numel() for latent in model.latents.values())
        check_tensors(state, found.state_shapes, {"P": unknowns}, "a saved posterior's state")
    return found.from_state(model, FitRecord.from_dict(record), state)
