"""Which inputs a sparse fit keeps, and how often bootstrap refits keep them, all refits at once.

frequency_j = (1/B) Σ_b 1[input j has a weight that is not zero in the mode under the rows' counts w_b]
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import torch

from bayesreg import _check
from bayesreg.behaviour import ROW_WEIGHTS
from bayesreg.certificates.has_mode import check_has_mode
from bayesreg.data.rows import rows_of
from bayesreg.inference.base import isolated
from bayesreg.model.model import BayesianModel
from bayesreg.objective.affine import is_affine
from bayesreg.objective.flat import LogJoint
from bayesreg.posteriors.dirac import Dirac
from bayesreg.posteriors.record import stopped
from bayesreg.priors.base import AbstractElementwisePrior
from bayesreg.selection.paths import NUM_STEPS
from bayesreg.solvers.batched import fit_many
from bayesreg.solvers.batches import resolve_batch
from bayesreg.solvers.failures import FitError, rescuing
from bayesreg.solvers.history import History
from bayesreg.solvers.progress import ProgressCallback, reporter

if TYPE_CHECKING:
    import pandas as pd


@dataclasses.dataclass(frozen=True, repr=False, eq=False)
class Stability:
    """Which inputs a sparse fit keeps, and how often bootstrap refits keep them.

    Attributes:
        names: Name of each input, (D,): a data frame's columns, else "x0", "x1", ….
        tensor: The weight that the inputs enter.
        kept: Whether the fit to all rows keeps the input, (D,).
        size: Euclidean norm of the input's weights in that fit, (D,), in the units that the model works in.
        frequency: Share of the bootstrap refits that keep it, (D,).
        num_bootstraps: Number of refits.
    """

    names: tuple[str, ...]
    tensor: str
    kept: torch.Tensor
    size: torch.Tensor
    frequency: torch.Tensor
    num_bootstraps: int

    def stable(self, threshold: float = 0.9) -> list[str]:
        """Names of the inputs that at least this share of the refits keeps.

        Args:
            threshold: Between 0 and 1.

        Returns:
            The names, in the order of the inputs.

        Raises:
            ValueError: If the threshold is out of its range.
        """
        if not 0 < _check.finite("threshold", threshold) <= 1:
            raise ValueError(f"threshold must lie above 0 and be at most 1, but {threshold!r} came; take 0.9.")
        return [name for name, share in zip(self.names, self.frequency.tolist(), strict=True) if share >= threshold]

    def to_frame(self) -> pd.DataFrame:
        """One row an input: input, kept, size, frequency."""
        import pandas as pd

        columns = {"kept": self.kept, "size": self.size, "frequency": self.frequency}
        return pd.DataFrame({"input": self.names, **{name: v.cpu().numpy() for name, v in columns.items()}})

    def __str__(self) -> str:
        wide = max(5, *map(len, self.names))
        rows = [
            f"{name:<{wide}}  {'kept' if kept else 'dropped':<7}  {size:>7.3g}  {100 * share:>9.0f} %"
            for name, kept, size, share in zip(
                self.names, self.kept.tolist(), self.size.tolist(), self.frequency.tolist(), strict=True
            )
        ]
        head = (
            f"{int(self.kept.sum())} of {len(self.names)} inputs kept by {self.tensor}; {self.num_bootstraps} bootstrap refits"
        )
        return "\n".join([head, f"{'input':<{wide}}  {'fit':<7}  {'size':>7}  {'in refits':>11}", *rows])

    def __repr__(self) -> str:
        return f"Stability({int(self.kept.sum())} of {len(self.names)} inputs kept, {self.num_bootstraps} bootstraps)"


def stability(
    model: BayesianModel,
    X: Any,
    y: Any = None,
    *,
    tensor: str | None = None,
    num_bootstraps: int = 50,
    num_steps: int | None = None,
    learning_rate: float = 0.01,
    batch_size: int | None = None,
    seed: int = 0,
    progress: bool | ProgressCallback = True,
) -> Stability:
    """Find the inputs that a mode with exact zeros keeps, and the share of bootstrap refits that keep them.

    An input is dropped where all weights that leave it are exactly zero: one coefficient of a linear model under `Laplace`, a
    column of the first layer under `GroupLasso(per="column")`. A refit gives each row a count drawn as rows are drawn with
    replacement; all refits and the fit to all rows are one search. Standardisation is that of all rows.

    The penalty that predicts best keeps some irrelevant inputs. They vary between refits; the relevant ones stay.

    Args:
        model: The model, with the prior's scale as wanted (`path` helps to find it).
        X: Inputs (N, D); a data frame's column names name the inputs.
        y: Targets.
        tensor: Dotted name of the weight that the inputs enter, (K, D); when None the only weight of that shape whose prior has
            a kink.
        num_bootstraps: Number of refits.
        num_steps: Adam's steps; 2,000 when None, and none for a model that is linear in its weights.
        learning_rate: Adam's first rate.
        batch_size: Rows a step; when None as for `MAP`.
        seed: Seed of the counts.
        progress: As for `fit`.

    Returns:
        Kept inputs and frequencies; `stable(0.9)` names those that stay.

    Raises:
        ValueError: If no prior on the inputs makes exact zeros, the network has batch normalisation (whose batch statistics do
            not support counts of rows), or the data do not fit.

    References:
        Bach (2008), Bolasso: model consistent Lasso estimation through the bootstrap. Meinshausen and Bühlmann (2010),
        Stability selection.

    >>> import numpy as np
    >>> from torch import nn
    >>> from bayesreg import likelihoods, priors
    >>> X = np.random.default_rng(0).normal(size=(100, 3))
    >>> sparse = BayesianModel(nn.Linear(3, 1), {"weight": priors.Laplace(0.02)}, likelihoods.Gaussian(0.5))
    >>> stability(sparse, X, 2 * X[:, 1], num_bootstraps=20).stable()
    ['x1']
    """
    if not isinstance(model, BayesianModel):
        raise ValueError(f"model must be a BayesianModel, but {type(model).__name__} came; wrap it: BayesianModel(net, ...).")
    check_has_mode(model)
    count = _check.count("num_bootstraps", num_bootstraps)
    steps = None if num_steps is None else _check.steps("num_steps", num_steps)
    rate, seed = _check.positive("learning_rate", learning_rate), _check.seed(seed)
    came = rows_of(X, y)
    if not isinstance(came, tuple):
        raise ValueError("bootstrap refits need all rows at once, but a DataLoader came; pass X and y as arrays.")
    with isolated(seed, model.like.device), reporter(progress, "stability") as report:
        model, data = model.ingest(X, y)
        names = _names(X, came[0])
        if why := model.behaviour.why_not(ROW_WEIGHTS):
            raise ValueError(f"bootstrap refits count rows several times, but {why}, or standardize=True alone.")
        name = _input_weight(model, len(names)) if tensor is None else _checked_weight(model, tensor, len(names))
        log_joint = LogJoint(model)
        batch = resolve_batch(_check.count("batch_size", batch_size) if batch_size else None, data, log_joint)
        if steps is None:
            convex = batch is None and model.likelihood.log_concave and is_affine(log_joint, data)
            steps = 0 if convex else NUM_STEPS
        drawn = torch.randint(data.num_data, (count, data.num_data))
        counts = torch.zeros(count, data.num_data).scatter_add_(1, drawn, torch.ones(drawn.shape))
        weights = torch.cat([torch.ones(1, data.num_data), counts]).to(model.like)
        start = log_joint.layout.flatten(model.start(*next(data.epoch())))
        history = History()

        def rescued(failure: FitError) -> Dirac:  # the fit to the rows as they came
            return Dirac(model, stopped("stability", seed, history, failure, "constrained"), failure.state["parameter"][0])

        with rescuing(rescued):
            u, *_ = fit_many(
                log_joint,
                start.expand(count + 1, -1),
                data,
                num_steps=steps,
                learning_rate=rate,
                batch_size=batch,
                weights=weights,
                generator=torch.Generator().manual_seed(seed),
                report=report,
                history=history,
            )
    segment = log_joint.layout.segments[name]
    found = u[:, segment.slice].unflatten(1, segment.latent.shape)
    kept = (found != 0).any(1)
    return Stability(names, name, kept[0], torch.linalg.vector_norm(found[0], dim=0), kept[1:].double().mean(0), count)


def _names(X: Any, rows: torch.Tensor) -> tuple[str, ...]:
    """Names of the inputs.

    Raises:
        ValueError: If a row is no list of inputs.
    """
    if rows.dim() != 2:
        raise ValueError(f"each row of X must be a list of inputs, but X has shape {tuple(rows.shape)}; pass columns.")
    columns = getattr(X, "columns", None)
    return tuple(f"x{j}" for j in range(rows.shape[1])) if columns is None else tuple(map(str, columns))


def _input_weight(model: BayesianModel, width: int) -> str:
    """The only weight that takes the inputs and whose prior gives exact zeros.

    Raises:
        ValueError: If there is none, or several.
    """
    found = [
        name
        for name, latent in model.latents.items()
        if len(latent.shape) == 2 and latent.shape[1] == width and _zeroes(latent.prior)
    ]
    if len(found) != 1:
        came = " and ".join(found) if found else "none does"
        raise ValueError(
            f"one weight of shape (outputs, {width}) must have a prior with exact zeros, but {came}; give the first layer "
            "GroupLasso(0.1, per='column'), a linear model Laplace(0.1), or name the weight: tensor='0.weight'."
        )
    return found[0]


def _checked_weight(model: BayesianModel, name: str, width: int) -> str:
    """The name of a weight that takes the inputs.

    Raises:
        ValueError: If it is no such weight, or its prior gives no zeros.
    """
    _check.one_of("tensor", name, model.latents)
    latent = model.latents[name]
    if len(latent.shape) != 2 or latent.shape[1] != width or not _zeroes(latent.prior):
        raise ValueError(
            f"tensor must be a weight of shape (outputs, {width}) whose prior makes exact zeros, but {name} has shape "
            f"{tuple(latent.shape)} and {latent.prior}; give it GroupLasso(0.1, per='column') or Laplace(0.1)."
        )
    return name


def _zeroes(prior: Any) -> bool:
    """True where the mode under a prior has exact zeros: its prox maps a small value to zero, but not every value."""
    if prior.smooth or not prior.bounded or not prior.separable_prox:
        return False
    return not isinstance(prior, AbstractElementwisePrior) or bool(torch.as_tensor(prior.mode == 0).all())
