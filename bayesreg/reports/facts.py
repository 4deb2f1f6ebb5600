"""What the fits are, as plain values: data, models, priors, convergence."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyro
import torch

from bayesreg.behaviour.invariance import SCALE_NOTE
from bayesreg.comparison import Comparison
from bayesreg.data.rows import as_tensor
from bayesreg.metrics.measures import plain
from bayesreg.model.model import BayesianModel
from bayesreg.posteriors.base import AbstractPosterior


def versions() -> dict[str, str]:
    """Versions of this package and of what computed the numbers."""
    import bayesreg

    found = {"bayesreg": bayesreg.__version__, "torch": torch.__version__, "pyro": pyro.__version__}
    return {name: str(version) for name, version in found.items()} | {"python": platform.python_version()}


def data_facts(
    X: Any,
    comparison: Comparison,
    *,
    source: str | None,
    feature_names: Sequence[str] | None,
    target_name: str | None,
    classes: Sequence[str] | None,
    notes: Sequence[str],
) -> dict[str, Any]:
    """What is known about the data.

    Args:
        X: Test inputs.
        comparison: What `compare` found on them.
        source: Where they come from.
        feature_names: Names of the D inputs; a data frame brings its own.
        target_name: Name of the target.
        classes: Names of the classes.
        notes: How the data were encoded, one sentence each.

    Returns:
        Plain values.

    Raises:
        ValueError: If the names are no list, not as many as what they name or not different, or notes is one text.
    """
    shape = tuple(as_tensor("X", X).shape[1:])
    width = shape[0] if shape else 1
    names = _names(X)
    if feature_names is not None:
        names = listed("feature_names", feature_names, 'one name a column, for example ["age", "dose"]')
        if len(shape) > 1 or len(names) != width:
            raise ValueError(
                f"feature_names must name each input once, but {len(names)} names came for inputs of shape {shape or (1,)}; "
                "give one name a column, or leave them out."
            )
        distinct("feature_names", names)
    said = listed("notes", notes, "sentences")
    return {
        "source": None if source is None else str(source),
        "kind": comparison.kind,
        "num_test": comparison.num_data,
        "input_shape": list(shape) or [1],
        "features": names,
        "target": None if target_name is None else str(target_name),
        "num_outputs": _outputs(comparison),
        "classes": _classes(comparison, classes),
        "notes": said,
    }


def missing_facts(missing: Mapping[str, str] | None, posteriors: Mapping[str, AbstractPosterior]) -> dict[str, str]:
    """Fits that could not be had, by name, each with the reason.

    Raises:
        ValueError: If these are no names with reasons, or one of them is there.
    """
    for name, reason in ({} if missing is None else missing).items():
        if not isinstance(name, str) or not isinstance(reason, str) or name in posteriors:
            came = f"{name!r}: {reason!r} came" + " beside a posterior of that name" * (name in posteriors)
            raise ValueError(f"missing must hold names of fits that are not there, each with a reason, but {came}; correct it.")
    return dict(missing or {})


def listed(what: str, values: Any, of: str) -> list[str]:
    """A person's list of names or sentences; one text is none, though Python would take it letter by letter.

    Args:
        what: The argument's name.
        values: What came.
        of: What it must hold.

    Returns:
        The texts.

    Raises:
        ValueError: If it is no list.
    """
    if isinstance(values, (str, bytes)):
        raise ValueError(f"{what} must be a sequence of {of}, but one text came; write {what}=[{values[:30]!r}].")
    if isinstance(values, Mapping) or not isinstance(values, Iterable):
        raise ValueError(f"{what} must be a sequence of {of}, but {type(values).__name__} came; pass a list.")
    return [str(value) for value in values]


def distinct(what: str, names: Sequence[str]) -> None:
    """Refuse a name that comes twice.

    Raises:
        ValueError: If one does.
    """
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"{what} must differ, but {twice[0]!r} came more than once; rename one of them.")


def model_facts(posteriors: Mapping[str, AbstractPosterior], features: Sequence[str] | None) -> list[dict[str, Any]]:
    """Each distinct model once, with the posteriors that it belongs to.

    Args:
        posteriors: By name.
        features: Names of the inputs.

    Returns:
        Plain values.
    """
    found: list[dict[str, Any]] = []
    for name, posterior in posteriors.items():
        facts = _model(posterior.model, features)
        for other in found:
            if {**other, "posteriors": None} == {**facts, "posteriors": None}:
                other["posteriors"].append(name)
                break
        else:
            found.append({**facts, "posteriors": [name]})
    return found


def prior_facts(posteriors: Mapping[str, AbstractPosterior]) -> list[dict[str, Any]]:
    """Each distinct prior table once, with the posteriors that it belongs to.

    Args:
        posteriors: By name.

    Returns:
        Plain values: "posteriors", "rows", and "remarks", a sentence each that the table needs.
    """
    found: list[dict[str, Any]] = []
    for name, posterior in posteriors.items():
        table = posterior.model.prior_table()
        rows, said = table.to_dicts(), list(table.notes)
        for other in found:
            if other["rows"] == rows and other["remarks"][: len(said)] == said:
                other["posteriors"].append(name)
                break
        else:
            found.append({"posteriors": [name], "rows": rows, "remarks": said + _remarks(rows)})
    return found


def _remarks(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """What a note of the table is too short to say."""
    if not any(SCALE_NOTE in row["note"] for row in rows):
        return []
    return [
        "A weight that a batch normalisation follows is scale-invariant: each output unit's weights can be multiplied by any "
        "positive number and the network stays the same function. A Gaussian prior there does not restrict the function; it "
        "sets the weights' length, and with it the size of an optimizer's effective step (van Laarhoven, 2017, L2 "
        "regularization versus batch and weight normalization)."
    ]


def fit_facts(posteriors: Mapping[str, AbstractPosterior]) -> dict[str, dict[str, Any]]:
    """How each fit went.

    Args:
        posteriors: By name.

    Returns:
        Plain values by name.
    """
    return {name: _fit(posterior) for name, posterior in posteriors.items()}


def _fit(posterior: AbstractPosterior) -> dict[str, Any]:
    history, certificate = posterior.history, posterior.certificate
    return {
        "method": posterior.method,
        "seed": posterior.seed,
        "seconds": plain(posterior.elapsed),
        "num_data": posterior.num_data,
        "num_parameters": posterior.model.num_parameters,
        "converged": certificate.converged,
        "certificate": certificate.sentence,
        "details": {k: plain(v) if isinstance(v, (int, float)) else str(v) for k, v in certificate.details.items()},
        "objective": history.label,
        "steps": [int(step) for step in history.steps],
        "history": [plain(value) for value in history.objective],
        "notes": history.said,
        "space": posterior.space,
        "log_evidence": None if posterior.log_evidence is None else plain(posterior.log_evidence),
    }


def _model(model: BayesianModel, features: Sequence[str] | None) -> dict[str, Any]:
    s = model.standardization
    constant = () if s is None else s.constant
    return {
        "num_data": model.total(),
        "num_parameters": model.num_parameters,
        "likelihood": repr(model.likelihood),
        "standardize": model.standardize,
        "target_standardized": s is not None and model.likelihood.location_scale,
        "constant": [features[i] if features and i < len(features) else f"column {i}" for i in constant],
        "module": str(model.module),
    }


def _names(X: Any) -> list[str] | None:
    import pandas as pd

    return [str(name) for name in X.columns] if isinstance(X, pd.DataFrame) else None


def _outputs(comparison: Comparison) -> int:
    return comparison.predictives[comparison.best].num_outputs


def _classes(comparison: Comparison, classes: Sequence[str] | None) -> list[str] | None:
    if comparison.labels is None:
        if classes is not None:
            raise ValueError("classes must be left out for a regression, but names came; pass target_name instead.")
        return None
    width = comparison.labels.class_probabilities(comparison.predictives[comparison.best].mean[:1]).shape[-1]
    if classes is None:
        return [str(k) for k in range(width)]
    names = listed("classes", classes, "one name a class, in label order")
    if len(names) != width:
        raise ValueError(f"classes must name each of the {width} classes, but {classes!r} came; give them in label order.")
    distinct("classes", names)
    return names
