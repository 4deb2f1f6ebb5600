"""Empirical Bayes: the scales of the priors, and a known noise scale, at which the log evidence is highest."""

from __future__ import annotations

import copy
import dataclasses
import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from bayesreg.behaviour import EVIDENCE
from bayesreg.certificates.certificate import Certificate
from bayesreg.certificates.outcome import Finding
from bayesreg.certificates.solution import judged
from bayesreg.certificates.values import Tuned
from bayesreg.data.rows import Data
from bayesreg.inference.map import MAP
from bayesreg.model.model import BayesianModel
from bayesreg.model.rescaled import with_known_noise
from bayesreg.objective.evidence import expected_squares, updates
from bayesreg.objective.flat import LogJoint
from bayesreg.posteriors.dirac import Dirac
from bayesreg.posteriors.record import FitRecord
from bayesreg.priors.base import AbstractPrior
from bayesreg.solvers.base import Problem, Solution
from bayesreg.solvers.batches import resolve_batch
from bayesreg.solvers.evidence_ascent import NOTHING, At, GaussNewton
from bayesreg.solvers.evidence_scales import WHY, Evidence, Scales
from bayesreg.solvers.evidence_training import highest
from bayesreg.solvers.history import History
from bayesreg.solvers.options import SearchOptions
from bayesreg.solvers.progress import ProgressCallback

_TURNS, _STILL = 10, 0.02  # fits between M-steps, and the change of a scale's logarithm that ends them
_SHORT, _SEARCH = 1000, 1000  # steps of such a fit at least, and towards a mode
_LITTLE = 0.5  # nats of the ELBO that another M-step may gain
_DRAWS = 64  # of the residuals of a known noise


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


def tuned_mode(
    model: BayesianModel, mode: Dirac | None, data: Data, settings: Evidence, most: int, seed: int
) -> tuple[Dirac, Tuned]:
    """The mode at the scales of the highest evidence.

    Args:
        model: The model at the scales as they were written, bound to the data.
        mode: Its mode in unconstrained space, from which the search begins; None to begin where a fit of it does.
        data: Prepared rows.
        settings: What is tuned.
        most: Unknowns up to which the whole Gauss–Newton matrix is taken; above that its diagonal.
        seed: As for `fit`.

    Returns:
        The mode of the tuned model, with its own certificate, and how the search for the scales ended.

    Raises:
        ValueError: If nothing can be tuned, rows are streamed, or there is no evidence.
    """
    started, (x, y) = time.perf_counter(), data.full("tuning by the evidence")
    model = model if mode is None else mode.model
    if why := no_evidence(LogJoint(model)):
        raise ValueError(
            f"tune='evidence' must have an evidence, but {why}; take smooth priors on weights alone, or leave out tune."
        )
    values = model.start(x, y) if mode is None else LogJoint(model).layout.unflatten(mode.loc)
    model, noise_prior = _with_number(model, values) if settings.noise else (model, None)
    layout = LogJoint(model).layout
    history = History("log joint") if mode is None else copy.deepcopy(mode.history)
    scales = Scales.of(model, settings, noise_prior)
    history.scales.update({label: [] for label in scales.labels})

    def heard(step: int, t: np.ndarray, at: At[Any]) -> None:
        for label, value in zip(scales.labels, np.exp(t).tolist(), strict=True):
            history.scales[label].append(value)
        history.log_evidence.append(at.evidence)

    start = layout.flatten({name: values[name] for name in layout.segments})
    search = GaussNewton(model, start, data, scales, len(start) <= most)
    found = highest(search, heard, history)
    if found is None:
        raise ValueError(
            "tune='evidence' must have an evidence where it begins, but at the scales as written the curvature at the mode is "
            "singular; standardise the inputs, drop redundant ones, or begin at narrower priors."
        )
    values = scales.values(found.t)
    history.notes.extend(_notes(scales, values, model))
    if not search.dense:
        history.notes.append("the scales were tuned by the diagonal of the Gauss–Newton matrix.")
    model, u = scales.model(model, values), found.at.what.u.to(start)
    problem = Problem(LogJoint(model), data, options=SearchOptions(jacobian=True))
    start = problem.log_joint.layout.flatten(model.start(x, y))
    solution = Solution(u, model, steps=None if search.follows else search.num_steps)
    certificate = judged(problem, start, solution, None, None)
    weak = (found.at.slope <= 0) & (found.at.slope > -NOTHING) & (found.at.size < 0.1)
    vanishing = tuple(label for label, one in zip(scales.labels, weak.tolist(), strict=True) if one and label != scales.noise)
    fixed = not search.follows
    tuned = Tuned(found.steps, max(0.0, found.gain), search.tolerance, fixed, vanishing)
    elapsed = time.perf_counter() - started + (0.0 if mode is None else mode.elapsed)
    return Dirac(model, FitRecord("map", seed, history, certificate, elapsed, "unconstrained"), u), tuned


def _with_number(model: BayesianModel, values: Mapping[str, torch.Tensor]) -> tuple[BayesianModel, AbstractPrior | None]:
    """The model whose noise scale is the number that it is in `values`, and the prior that it had, if any."""
    name = model.likelihood.squared_error_scale
    latent = model.latents.get(name or "")
    if latent is None or latent.parents or not latent.prior.proper:
        return model, None
    return with_known_noise(model, float(values[latent.name])), latent.prior


def tuned_guide(method: Any, model: BayesianModel, data: Data, settings: Evidence, seed: int, report: ProgressCallback) -> Any:
    """A variational posterior at the scales of the highest ELBO: fits and M-steps take turns, from near the Laplace evidence's.

    Args:
        method: The method, whose fits are at fixed scales.
        model: The model, bound to the data.
        data: Prepared rows.
        settings: What is tuned.
        seed: As for `fit`.
        report: Told how far it is.

    Returns:
        The posterior of the tuned model.
    """
    started, scales = time.perf_counter(), Scales.of(model, settings)
    t, scores, path = _first(scales, model, data, seed), [], {label: [] for label in scales.labels}
    num_steps = method.schedule(data, resolve_batch(method.batch_size, data, LogJoint(model))).num_steps
    fixed, moved, turns = copy.copy(method), math.inf, 0
    fixed.tune = None
    while True:
        last = moved < _STILL or turns == _TURNS
        fixed.num_steps = method.num_steps if last else max(min(_SHORT, num_steps), num_steps // 5)
        values = scales.values(t)
        posterior = fixed.run(scales.model(model, values), data, seed=seed, report=report)
        slope, step = _m_step(scales, posterior, data)
        scores.append(posterior.history.objective[-1])
        for label, value in values.items():
            path[label].append(value)
        if last:
            break
        t, moved, turns = t + step, float(np.abs(np.where(slope > -NOTHING, step, 0.0)).max()), turns + 1
    history = posterior.history
    history.scales.update(path)
    history.log_evidence.extend(scores)
    history.notes.extend(_notes(scales, values, model))
    tuned = Tuned(turns, max(0.0, 0.5 * float(slope @ step)), _LITTLE, bound=True)
    certificate = with_tuned(posterior.certificate, tuned)
    elapsed = time.perf_counter() - started
    posterior.record = dataclasses.replace(posterior.record, certificate=certificate, elapsed=elapsed)
    return posterior


def _first(scales: Scales, model: BayesianModel, data: Data, seed: int) -> np.ndarray:
    """Logarithms to begin from: of the highest Laplace evidence by the curvature's diagonal, else as written."""
    t = np.log(scales.start)
    if data.x is None or no_evidence(LogJoint(model)):
        return t
    try:
        mode = MAP(num_steps=_SEARCH, jacobian=True, compile=False, certify=False).run(
            model, data, seed=seed, report=lambda *_: None
        )
        found = highest(GaussNewton(mode.model, mode.loc, data, scales, dense=False), lambda *_: None)
    except (ValueError, RuntimeError):  # no mode: a fit that can begin elsewhere is not given up
        return t
    return t if found is None else found.t


def _m_step(scales: Scales, posterior: Any, data: Data) -> tuple[np.ndarray, np.ndarray]:
    """The slope of the expected log-joint in each logarithm, and the step to where it is highest, both (S,)."""
    log_joint, (loc, sd) = LogJoint(posterior.model), posterior.unconstrained_moments()
    found = updates(log_joint, loc, sd)
    slope = [sum(found[name].slope for name in names) for names in scales.tensors.values()]
    step = [sum(found[name].step for name in names) / len(names) for names in scales.tensors.values()]
    if scales.noise:
        draws = posterior.draw(_DRAWS, torch.Generator().manual_seed(0))
        squares, count = expected_squares(log_joint, draws, data)
        fitted, _ = expected_squares(log_joint, loc[None], data)
        free = count - max(squares - fitted, 0.0)  # NK − γ
        slope.append(squares - count)
        step.append(0.5 * math.log(fitted / free) if free > 0.1 * count else 0.5 * math.log(squares / count))
    return np.array(slope), np.clip(np.array(step), -1.5, 1.5)


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


def _notes(scales: Scales, values: Mapping[str, float], model: BayesianModel) -> list[str]:
    """What was tuned, from where and to what, and what was not."""
    changes = [f"{label} {start:.3g} → {values[label]:.3g}" for label, start in zip(scales.labels, scales.start, strict=True)]
    said = [f"scales {WHY}: {', '.join(changes)}."]
    touched = {name for names in scales.tensors.values() for name in names}
    flat = [r.name for r in model.resolved if r.name in model.latents and r.name not in touched]
    if flat:
        said.append(f"not tuned, since their priors are flat or have no scale that is a number: {', '.join(flat)}.")
    said.append(
        f"an evidence at the scales at which it is highest is optimistic, by about half a nat a scale ({len(changes)})."
    )
    return said
