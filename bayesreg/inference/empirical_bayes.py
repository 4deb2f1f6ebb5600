"""Empirical Bayes: the scales of the priors, and a known noise scale, at which the log evidence is highest."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from bayesreg.behaviour import EVIDENCE
from bayesreg.certificates.certificate import Certificate
from bayesreg.certificates.outcome import Finding
from bayesreg.certificates.solution import judged
from bayesreg.certificates.values import Tuned
from bayesreg.data.rows import Data
from bayesreg.model.model import BayesianModel
from bayesreg.objective.flat import LogJoint
from bayesreg.posteriors.dirac import Dirac
from bayesreg.solvers.base import Problem, Solution
from bayesreg.solvers.evidence_ascent import NOTHING, WHY, At, Evidence, GaussNewton, Scales
from bayesreg.solvers.options import SearchOptions


def checked_tune(tune: Any) -> Evidence | None:
    """The settings that `tune` stands for; None where nothing is tuned.

    Raises:
        ValueError: If it is neither None, nor "evidence", nor `Evidence(...)`.
    """
    if tune is None or isinstance(tune, Evidence):
        return tune
    if tune != "evidence":
        raise ValueError(f"tune must be None, 'evidence' or inference.Evidence(...), but {tune!r} came; take 'evidence'.")
    return Evidence()


def tuned_mode(mode: Dirac, data: Data, settings: Evidence, most: int) -> tuple[Dirac, Tuned]:
    """The mode at the scales of the highest evidence.

    Args:
        mode: The mode at the scales as they were written, in unconstrained space.
        data: Prepared rows.
        settings: What is tuned.
        most: Unknowns up to which the whole Gauss–Newton matrix is taken; above that its diagonal.

    Returns:
        The mode of the tuned model, with its own certificate, and how the search for the scales ended.

    Raises:
        ValueError: If nothing can be tuned, rows are streamed, or there is no evidence.
    """
    x, y = data.full("tuning by the evidence")
    if why := no_evidence(LogJoint(mode.model)):
        raise ValueError(
            f"tune='evidence' must have an evidence, but {why}; take smooth priors on weights alone, or leave out tune."
        )
    history, scales = copy.deepcopy(mode.history), Scales.of(mode.model, settings)
    history.scales.update({label: [] for label in scales.labels})

    def heard(step: int, t: np.ndarray, at: At[Any]) -> None:
        for label, value in zip(scales.labels, np.exp(t).tolist(), strict=True):
            history.scales[label].append(value)
        history.log_evidence.append(at.evidence)

    search = GaussNewton(mode.model, mode.loc, data, scales, len(mode.loc) <= most)
    found = search.climb(heard)
    if found is None:
        raise ValueError(
            "tune='evidence' must have an evidence where it begins, but at the scales as written the curvature at the mode is "
            "singular; standardise the inputs, drop redundant ones, or begin at narrower priors."
        )
    values = {label: float(f"{value:.6g}") for label, value in zip(scales.labels, np.exp(found.t), strict=True)}
    model, u = scales.model(mode.model, values), found.at.what.u.to(mode.loc)
    history.notes.extend(_notes(scales, values, mode.model, search))
    problem = Problem(LogJoint(model), data, options=SearchOptions(jacobian=True))
    start = problem.log_joint.layout.flatten(model.start(x, y))
    certificate = judged(problem, start, Solution(u, model), None, None)
    weak = (found.at.slope <= 0) & (found.at.slope > -NOTHING) & (found.at.size < 0.1)
    vanishing = tuple(label for label, one in zip(scales.labels, weak.tolist(), strict=True) if one and label != scales.noise)
    fixed = not search.follows
    tuned = Tuned(found.steps, max(0.0, found.gain), 0.5 if fixed else 0.01, fixed, vanishing)
    return Dirac(model, dataclasses.replace(mode.record, history=history, certificate=certificate), u), tuned


def no_evidence(log_joint: LogJoint) -> str:
    """Why the scales of a model's priors cannot be tuned by a Laplace evidence, one clause; empty where they can."""
    if log_joint.nonsmooth:
        return f"{log_joint.nonsmooth[0].prior} has a kink where the mode may sit"
    if log_joint.model.outputs:
        return f"the output of {log_joint.model.outputs[0].name} has a prior of its own"
    return log_joint.model.behaviour.why_not(EVIDENCE) or ""


def with_tuned(certificate: Certificate, tuned: Tuned | None) -> Certificate:
    """The certificate with what is to be said of tuned scales, which may overrule its verdict."""
    if tuned is None:
        return certificate
    found = certificate if tuned.maximal or not certificate.converged else certificate.overrule(Finding.EVIDENCE_RISING)
    return dataclasses.replace(found, tuned=tuned)


def _notes(scales: Scales, values: Mapping[str, float], model: BayesianModel, search: GaussNewton) -> list[str]:
    """What was tuned, from where and to what, and what was not."""
    changes = [f"{label} {start:.3g} → {values[label]:.3g}" for label, start in zip(scales.labels, scales.start, strict=True)]
    said = [f"scales {WHY}: {', '.join(changes)}."]
    if not search.dense:
        said.append("they were tuned by the diagonal of the Gauss–Newton matrix.")
    touched = {name for names in scales.tensors.values() for name in names}
    flat = [r.name for r in model.resolved if r.name in model.latents and r.name not in touched]
    if flat:
        said.append(f"not tuned, since their priors are flat or have no scale that is a number: {', '.join(flat)}.")
    said.append(
        f"an evidence at the scales at which it is highest is optimistic, by about half a nat a scale ({len(changes)})."
    )
    return said
