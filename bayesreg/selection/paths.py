"""One model fitted under many prior scales at once, with cross-validation and evidence to choose among them.

penalty weight λ = 1/scale (or 1/scale² for quadratic penalties):  scale → 0 shrinks all to zero, scale → ∞ is the plain fit.

Every scale, and every fold of the cross-validation under every scale, is one row of a stacked vector in a single search.
With batch normalisation each row has running statistics of its own, and each fold its own search, with batches from its rows.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from bayesreg import _check
from bayesreg.certificates.has_mode import check_has_mode
from bayesreg.data.rows import Data, rows_of
from bayesreg.inference.base import isolated
from bayesreg.model.model import BayesianModel
from bayesreg.model.rescaled import matched, with_scale
from bayesreg.objective.affine import affine_problem, is_affine
from bayesreg.objective.batched import Replicas, check_replicable
from bayesreg.objective.flat import LogJoint
from bayesreg.objective.whole import in_double
from bayesreg.posteriors.dirac import Dirac
from bayesreg.posteriors.record import stopped
from bayesreg.selection.model_size import degrees_of_freedom, log_evidence, no_evidence
from bayesreg.selection.path_result import Path
from bayesreg.selection.scales import default_scales, power
from bayesreg.solvers.batched import search_many
from bayesreg.solvers.batches import resolve_batch
from bayesreg.solvers.failures import FitError, rescuing
from bayesreg.solvers.history import History
from bayesreg.solvers.last_steps import finish
from bayesreg.solvers.linear_gaussian import solve_path
from bayesreg.solvers.progress import ProgressCallback, reporter

NUM_STEPS, LEARNING_RATE = 2000, 0.01
AUTO_EVIDENCE, MOST_EVIDENCE, MOST_FREEDOM = 1000, 5000, 2000  # unknowns up to which P × P matrices are formed
ACTIVATIONS = 5 * 10**7  # numbers that one step of all fits may hold; more fits are made in several searches


@dataclasses.dataclass(frozen=True)
class _Part:
    """The training rows of the fits of all scales: all rows, or all except a fold.

    Attributes:
        model: The model, bound to the training rows and with their statistics.
        data: All N rows, in the model's units.
        keep: Which of them it is trained on, (N,).
    """

    model: BayesianModel
    data: Data
    keep: torch.Tensor


def path(
    model: BayesianModel,
    X: Any,
    y: Any = None,
    *,
    scales: Any = None,
    rule: Any = "*.weight",
    folds: Any = 5,
    num_steps: int | None = None,
    learning_rate: float | None = None,
    batch_size: int | None = None,
    evidence: bool | str = "auto",
    seed: int = 0,
    progress: bool | ProgressCallback = True,
) -> Path:
    """Fit a model's mode under many prior scales at once, to choose one of them.

    A model that is linear in its weights ends at its modes to about ten digits, exact zeros included; a network starts at the
    module's weights under each scale. A network with batch normalisation ends with Adam's steps and has neither an evidence nor
    degrees of freedom; each fit keeps running statistics of its own. Cross-validation leaves out each fold in turn:
    `standardize=True` and `autoscale` use the statistics of the fold's own training rows, so that the left-out rows do not leak
    into the fit, and the score is in the data's own units.

    Args:
        model: The model; the scales of the matched priors are replaced.
        X: Inputs (N, ...), rows in memory.
        y: Targets.
        scales: Numbers > 0 for the field `scale` of the matched priors (fan_in and the like still apply; for `ElasticNet`
            l1_scale, and l2_scale² grows with it). When None 20 of them: in a linear model under penalties with a kink from
            where all weights are zero to 1,000 times that, else from 1/100 of the prior's own scale to 10 times it.
        rule: Which tensors' priors: a name, a glob, a role, a module type or a callable, as in `PriorSpec`.
        folds: Number of folds of the cross-validation, rows assigned at random; or a fold's number for each row, (N,), where
            rows belong together; None for no cross-validation.
        num_steps: Adam's steps; 2,000 when None, and none for a model that is linear in its weights.
        learning_rate: Adam's first rate; 0.01 when None.
        batch_size: Rows a step; when None as for `MAP`.
        evidence: Whether the log evidence of each scale is approximated (Laplace), which needs smooth and proper priors and a P
            × P matrix a scale: "auto" where possible with up to 1,000 unknowns, True (up to 5,000, refused where impossible),
            False.
        seed: Seed of folds and batches.
        progress: As for `fit`.

    Returns:
        The path; `best("cv")`, `best("1se")` and `best("evidence")` name a scale.

    Raises:
        ValueError: If the model, the data and these settings do not fit together; says what must hold and what to do.

    >>> from torch import nn
    >>> from bayesreg import likelihoods, priors
    >>> ridge = BayesianModel(nn.Linear(1, 1, bias=False), priors.Normal(1.0), likelihoods.Gaussian(1.0))
    >>> found = path(ridge, [[0.0], [1.0], [2.0]], [0.0, 1.0, 2.0], scales=[0.5, 1.0], rule="weight", folds=3)
    >>> [round(float(w), 4) for w in found.coefficients["weight"]]     # Σxy/(Σx² + λ), λ = 1/scale²: 5/9, 5/6
    [0.5556, 0.8333]
    """
    if not isinstance(model, BayesianModel):
        raise ValueError(f"model must be a BayesianModel, but {type(model).__name__} came; wrap it: BayesianModel(net, ...).")
    names = matched(model, rule)
    check_has_mode(model)
    given = None if scales is None else _checked_scales(scales)
    steps = None if num_steps is None else _check.steps("num_steps", num_steps)
    rate = LEARNING_RATE if learning_rate is None else _check.positive("learning_rate", learning_rate)
    batch_size = None if batch_size is None else _check.count("batch_size", batch_size)
    if evidence not in (True, False, "auto"):
        raise ValueError(f"evidence must be True, False or 'auto', but {evidence!r} came; take 'auto'.")
    seed = _check.seed(seed)
    with isolated(seed, model.like.device), reporter(progress, "path") as report:
        started = time.perf_counter()
        parts, fold = _parts(model, X, y, folds, seed)
        whole = parts[0]
        log_joint = LogJoint(whole.model)
        check_replicable(log_joint)
        affine = whole.model.likelihood.log_concave and whole.model.behaviour.deterministic and is_affine(log_joint, whole.data)
        found = default_scales(whole.model, names, whole.data, affine) if given is None else given
        joints = [[LogJoint(with_scale(part.model, names, float(s))) for s in found] for part in parts]
        batch = resolve_batch(batch_size, whole.data, log_joint)
        convex = all(latent.prior.convex or latent.is_noise for latent in whole.model.latents.values())
        if affine and convex and batch is None and steps is None:
            modes = _convex_path(parts, joints)
        else:
            modes, joints = _descents(parts, joints, steps or NUM_STEPS, rate, batch, seed, report)
        held_out = _held_out(parts, joints, modes) if fold is not None else None
        made = _described(whole, joints[0], modes[0], names, found, held_out, fold, evidence)
        return dataclasses.replace(made, seed=seed, elapsed=time.perf_counter() - started)


def _parts(model: BayesianModel, X: Any, y: Any, folds: Any, seed: int) -> tuple[list[_Part], torch.Tensor | None]:
    """All rows, then all but each fold; and each row's fold.

    Raises:
        ValueError: If rows are streamed.
    """
    came = rows_of(X, y)
    if not isinstance(came, tuple):
        raise ValueError("a path needs all rows at once, but a DataLoader came; pass X and y as arrays.")
    bound, data = model.ingest(X, y)
    X, y = came
    parts = [_Part(bound, data, torch.ones(data.num_data, dtype=torch.bool, device=model.like.device))]
    if folds is None:
        return parts, None
    fold = _folds(folds, data.num_data, seed)
    for k in range(int(fold.max()) + 1):
        keep = fold != k
        own, _ = bound.ingest(X[keep.to(X.device)], y[keep.to(y.device)])
        own = own.with_names(bound.feature_names, bound.target_names)
        # the same rows in the same units are one tensor, shared by all fits
        rows = Data(data.num_data, *own.prepare(X, y)) if bound.standardize else data
        parts.append(_Part(own, rows, keep.to(model.like.device)))
    return parts, fold


def _folds(folds: Any, num_rows: int, seed: int) -> torch.Tensor:
    """The number of each row's fold, (N,).

    Raises:
        ValueError: If it is neither a number of folds nor a fold for each row.
    """
    if isinstance(folds, (int, np.integer)) and not isinstance(folds, bool):
        if not 2 <= folds <= num_rows:
            raise ValueError(f"folds must be at least 2 and at most the {num_rows} rows, but {folds} came; take 5, or None.")
        fold = torch.arange(num_rows) % int(folds)
        return fold[torch.randperm(num_rows, generator=torch.Generator().manual_seed(seed))]
    given = np.asarray(folds)
    if given.shape != (num_rows,):
        raise ValueError(
            f"folds must be a whole number, None, or the fold of each of the {num_rows} rows, but {folds!r} came; take 5."
        )
    labels, fold = np.unique(given, return_inverse=True)
    if len(labels) < 2:
        raise ValueError("folds must name at least two folds, but all rows are in one; take folds=5.")
    return torch.from_numpy(fold)


def _checked_scales(scales: Any) -> torch.Tensor:
    """Increasing numbers > 0, (R,), float64.

    Raises:
        ValueError: If they are not.
    """
    found = torch.as_tensor(np.asarray(scales, dtype=float)).reshape(-1)
    if not len(found) or not bool((found > 0).all() & found.isfinite().all()) or len(found.unique()) < len(found):
        raise ValueError(
            f"scales must be different numbers > 0, but {scales!r} came; take for example np.geomspace(0.01, 10, 20)."
        )
    return found.sort().values


def _replicas(parts: Sequence[_Part], joints: Sequence[Sequence[LogJoint]]) -> Replicas:
    """The fits of several parts under all their scales, part by part."""
    flat = list(itertools.chain(*joints))
    counts = [len(row) for row in joints]
    each = [part for part, count in zip(parts, counts, strict=True) for _ in range(count)]
    own = any(part.data is not parts[0].data for part in parts)
    full = [part.data.full("a path") for part in (each if own else parts[:1])]
    x, y = (torch.stack(v) if own else v[0] for v in zip(*full, strict=True))
    weights = None if all(bool(part.keep.all()) for part in parts) else torch.stack([part.keep for part in each])
    return Replicas(flat, x, y, len(flat), weights=weights, own_rows=own)


def _only(part: _Part, which: torch.Tensor) -> _Part:
    """A part reduced to some of its rows, all for training."""
    x, y = part.data.full("a path")
    return dataclasses.replace(part, data=Data(int(which.sum()), x[which], y[which]), keep=torch.ones_like(which[which]))


def _convex_path(parts: list[_Part], joints: list[list[LogJoint]]) -> list[torch.Tensor]:
    """The modes of a model that is linear in its weights, (R, P) in float64 for each part.

    Least squares have solvers of their own, with warm starts from scale to scale; other likelihoods take Newton steps together.
    """
    found = []
    for part, row in zip(parts, joints, strict=True):
        problem = affine_problem(row[0], _only(part, part.keep).data)
        if problem is not None:
            modes = torch.stack([solution.u for solution in solve_path(problem, row)])
            found.append(modes.to(part.model.like.device))
            continue
        start = row[0].layout.flatten(part.model.start(*next(part.data.epoch())))
        replicas = _replicas([part], [row])
        starts = start.expand(len(row), -1).double()
        found.append(finish(replicas.double(), starts))
    return found


def _descents(
    parts: list[_Part],
    joints: list[list[LogJoint]],
    num_steps: int,
    rate: float,
    batch: int | None,
    seed: int,
    report: ProgressCallback,
) -> tuple[list[torch.Tensor], list[list[LogJoint]]]:
    """Modes by Adam and its final steps, (R, P) for each part, and the log-joints with each fit's running statistics.

    Many parts go together while memory allows; one by one where rows with weight 0 would enter batch statistics.
    """
    width = sum(s.latent.shape[0] for s in joints[0][0].layout.segments.values() if len(s.latent.shape) > 1)
    rows = batch or parts[0].data.num_data
    at_once = max(1, ACTIVATIONS // (rows * max(1, width) * len(joints[0])))
    if parts[0].model.behaviour.normalising:
        parts, at_once = [_only(part, part.keep) for part in parts], 1
    found: list[torch.Tensor] = []
    kept: list[list[LogJoint]] = []
    turns = range(0, len(parts), at_once)
    for turn, first in enumerate(turns):
        some, own = parts[first : first + at_once], joints[first : first + at_once]
        start = torch.cat(
            [
                row[0].layout.flatten(part.model.start(*next(part.data.epoch()))).expand(len(row), -1)
                for part, row in zip(some, own, strict=True)
            ]
        )
        replicas = _replicas(some, own)
        history = History()

        def rescued(failure: FitError, own: list[list[LogJoint]] = own, history: History = history) -> Dirac:
            model, u = own[0][-1].model, failure.state["parameter"][len(own[0]) - 1]  # under the widest scale
            return Dirac(model, stopped("path", seed, history, failure, "constrained"), u)

        with rescuing(rescued):
            u = search_many(
                replicas,
                start,
                num_steps=num_steps,
                learning_rate=rate,
                batch_size=None if batch is None or batch >= replicas.num_rows else batch,
                generator=torch.Generator().manual_seed(seed),
                report=_shifted(report, turn, len(turns)),
                history=history,
            )
        found += list(u.split([len(row) for row in own]))
        if replicas.buffers.values:
            own = [[LogJoint(replicas.buffers.carried(r, j.model)) for r, j in enumerate(row)] for row in own]
        kept += own
    return found, kept


def _shifted(report: ProgressCallback, turn: int, turns: int) -> Callable[[int, int, float], None]:
    return lambda step, total, objective: report(turn * total + step, turns * total, objective)


def _held_out(parts: list[_Part], joints: list[list[LogJoint]], modes: list[torch.Tensor]) -> torch.Tensor:
    """Mean log predictive density of the rows left out, in nats a row and the data's own units, (K, R)."""
    found = []
    for part, row, u in zip(parts[1:], joints[1:], modes[1:], strict=True):
        found.append(_replicas([_only(part, ~part.keep)], [row]).double().row_log_prob(u.double()).mean(1))
    return torch.stack(found).cpu()


def _described(
    whole: _Part,
    joints: list[LogJoint],
    modes: torch.Tensor,
    names: list[str],
    scales: torch.Tensor,
    held_out: torch.Tensor | None,
    fold: torch.Tensor | None,
    evidence: bool | str,
) -> Path:
    """Summaries of the fits to all rows.

    Raises:
        ValueError: If the evidence was asked for and is impossible.
    """
    replicas = _replicas([whole], [joints])
    size = modes.shape[1]
    why = (
        "it was not asked for"
        if evidence is False
        else no_evidence(joints[0], AUTO_EVIDENCE if evidence == "auto" else MOST_EVIDENCE)
    )
    if evidence is True and why:
        raise ValueError(
            f"evidence=True must have an evidence to approximate, but {why}; take evidence='auto', or choose by 'cv'."
        )
    log_evidences = None if why else _evidences(replicas.double(), joints, whole.data, modes.double())
    freedom = None
    if size <= MOST_FREEDOM and not replicas.normalised:
        wide = [in_double(j, u.to(whole.model.like), whole.data) for j, u in zip(joints, modes, strict=True)]
        freedom = torch.tensor([degrees_of_freedom(*problem) for problem in wide], dtype=torch.float64)
    return Path(
        models=tuple(j.model for j in joints),
        data=whole.data,
        names=tuple(names),
        scales=scales,
        power=power(whole.model, names),
        modes=modes.to(whole.model.like),
        log_joint=replicas.double().objectives(modes.double()).cpu(),
        degrees_of_freedom=freedom,
        held_out=held_out,
        fold=fold,
        log_evidence=log_evidences,
        no_evidence=why,
    )


def _evidences(replicas: Replicas, joints: list[LogJoint], data: Data, modes: torch.Tensor) -> torch.Tensor:
    """Laplace's approximation at the modes of the unconstrained density, (R,); NaN where there is none."""
    if any(s.transform is not None for s in joints[0].layout.in_order):
        density = replicas.of_density()
        modes = finish(density, modes)

    def each() -> Iterator[float]:
        for log_joint, u in zip(joints, modes, strict=True):
            try:
                yield log_evidence(*in_double(log_joint, u.to(log_joint.model.like), data))
            except ValueError:  # singular: no proper posterior
                yield math.nan

    return torch.tensor(list(each()), dtype=torch.float64)
