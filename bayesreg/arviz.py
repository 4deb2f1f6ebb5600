"""Posteriors for ArviZ: its groups, its leave-one-out cross-validation, and its two generations.

    elpd_loo = Σᵢ log p(yᵢ | y₋ᵢ),      p(yᵢ | y₋ᵢ) = Σₛ wₛᵢ p(yᵢ | θₛ),      wₛᵢ ∝ r(θₛ)/p(yᵢ | θₛ)

r = 1 where draws are the posterior's own, as a sampler's; r(θ) = p(θ, y)/q(θ) where they are an approximation's. The weights
are smoothed by ArviZ, and R̂ and effective sample sizes are ArviZ's functions on what `to_arviz` gives.

References:
    Vehtari, Gelman and Gabry (2017), Practical Bayesian model evaluation using leave-one-out cross-validation and WAIC.
    Yao, Vehtari, Simpson and Gelman (2018), Yes, but did it work? Evaluating variational inference.
    Magnusson, Andersen, Jonasson and Vehtari (2019), Bayesian leave-one-out cross-validation for large data.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from bayesreg import _check
from bayesreg._memory import MAX_MEMORY, check_draws
from bayesreg.data.rows import all_rows, as_inputs, names_of, order_by_name, pair_of
from bayesreg.layers.copying import copied
from bayesreg.layers.sites import dotted
from bayesreg.model.model import BayesianModel
from bayesreg.model.unknowns import heir
from bayesreg.posteriors.base import AbstractPosterior
from bayesreg.samplers.diagnostics import load_arviz

Groups = dict[str, dict[str, np.ndarray]]


def to_arviz(
    posterior: AbstractPosterior,
    X: Any = None,
    y: Any = None,
    *,
    num_samples: int = 1000,
    seed: int = 0,
    max_memory: int = MAX_MEMORY,
) -> Any:
    """A posterior, and what it says about rows, as ArviZ takes it.

    Groups: `posterior` (units as of `posterior.sample`), `log_prior` (nats, by unknown), `sample_stats` (what a sampler said of
    each draw; `log_q` for a normal family, the log-density of its unconstrained draws); with X also `posterior_predictive` and
    `constant_data`; with y also `observed_data` and `log_likelihood` (nats a row, in the data's own units). All are of the same
    draws. Axes have the names of layers, input columns and targets.

    Args:
        posterior: What `fit` returned. A sampler's stored draws go out chain by chain, all of them, and so do stored draws with
            statistics of their own; a mode is one draw; any other posterior draws anew, as one chain.
        X: Rows (N, ...) in their own units, those of the fit or others; a `Dataset` or `DataLoader` brings its y.
        y: Their targets.
        num_samples: S, where draws are made anew.
        seed: Same seed, same draws; the global random state is not touched.
        max_memory: Bytes that the draws, and the outputs, may take.

    Returns:
        `InferenceData` of ArviZ 0.x, or the `DataTree` of ArviZ 1.x, whichever is installed.

    Raises:
        ValueError: If it is no posterior, y came without X, rows do not fit the model, or something not into `max_memory`.

    >>> import bayesreg as br
    >>> x = torch.arange(12.0).reshape(6, 2) % 5
    >>> model = br.BayesianModel(nn.Linear(2, 1), br.priors.Normal(1.0), br.likelihoods.Gaussian(0.5))
    >>> data = to_arviz(br.fit(model, x, x.sum(1), method="exact"), x, x.sum(1), num_samples=50)
    >>> data.posterior["weight"].dims, data.log_likelihood["y"].shape
    (('chain', 'draw', 'target', 'column'), (1, 50, 6))
    """
    _check_posterior(posterior)
    groups, _ = _exported(posterior, X, y, num_samples, seed, max_memory)
    return _made(posterior, groups)


def loo(
    posterior: AbstractPosterior,
    X: Any,
    y: Any = None,
    *,
    num_samples: int = 4000,
    seed: int = 0,
    max_memory: int = MAX_MEMORY,
) -> Any:
    """Leave-one-out cross-validation by Pareto-smoothed importance sampling, corrected where a posterior is an approximation.

    A sampler's draws are given to ArviZ's `loo`. Those of a normal family (Laplace, mean-field) are also weighted by
    p(θ, y)/q(θ), so that the answer is that of the posterior and not of its approximation; ArviZ's Pareto shapes say for each
    row whether the two are close enough for that.

    Args:
        posterior: What `fit` returned.
        X: The training rows, all of them, in their own units.
        y: Their targets.
        num_samples: S, where draws are made anew.
        seed: Same seed, same draws; the global random state is not touched.
        max_memory: Bytes that the draws, and the outputs, may take.

    Returns:
        ArviZ's ELPDData with values for each row; `arviz.compare` takes it.

    Raises:
        ValueError: If the posterior is a mode or has no density, or the rows are not those of the fit.

    >>> import bayesreg as br
    >>> x = torch.arange(12.0).reshape(6, 2) % 5
    >>> model = br.BayesianModel(nn.Linear(2, 1), br.priors.Normal(1.0), br.likelihoods.Gaussian(2.0))
    >>> found = loo(br.fit(model, x, x.sum(1), method="exact"), x, x.sum(1))
    >>> -12 < found["elpd_loo"] < -9 and int(found["n_data_points"])
    6
    """
    _check_posterior(posterior)
    if posterior.is_mode:
        raise ValueError(
            "leave-one-out needs the spread of a posterior, which says how a row moves the fit, but a mode came, one point "
            "that has seen every row; take its log score on test rows, or of K folds (br.compare, br.path)."
        )
    groups, u = _exported(posterior, X, y, num_samples, seed, max_memory)
    rows = groups["observed_data"]["y"] if "observed_data" in groups else ()
    if len(rows) != posterior.num_data:
        raise ValueError(
            f"leave-one-out needs the {posterior.num_data:,} rows of the fit, all of them, but {len(rows):,} with targets "
            "came; pass the X and y that were fitted (for new rows take br.compare)."
        )
    data = _made(posterior, groups)
    if posterior.num_chains is not None:
        with np.errstate(over="ignore"):  # as in `_corrected`
            return load_arviz().loo(data, pointwise=True)
    log_q = groups.get("sample_stats", {}).get("log_q")
    if log_q is None:
        raise ValueError(
            f"leave-one-out of an approximation needs the log-density of its draws, but a posterior by {posterior.method!r} "
            "has none; fit by laplace, mean-field or a sampler, or take br.compare on test rows."
        )
    log_p = groups["log_likelihood"]["y"].sum(-1) + sum(groups["log_prior"].values())
    with torch.no_grad():
        log_p = log_p + torch.vmap(posterior.layout.log_jacobian)(u).double().cpu().numpy()
        if posterior.model.outputs:
            inputs = torch.as_tensor(groups["constant_data"]["X"])
            draws = (posterior.layout.unflatten(one) for one in u)
            log_p = log_p + np.array([[float(posterior.model.log_activity(values, inputs)) for values in draws]])
    return _corrected(data, log_p, log_q)


def _check_posterior(posterior: Any) -> None:
    if not isinstance(posterior, AbstractPosterior):
        raise ValueError(f"posterior must be what fit returned, but {type(posterior).__name__} came; fit the model first.")


def _exported(
    posterior: AbstractPosterior, X: Any, y: Any, num_samples: int, seed: int, max_memory: int
) -> tuple[Groups, torch.Tensor]:
    """The groups as arrays with leading axes (C, D), and the draws of the unconstrained vector, (S, P).

    Raises:
        ValueError: As for `to_arviz`.
    """
    model, layout = posterior.model, posterior.layout
    if X is None and y is not None:
        raise ValueError("y must come with the X that it belongs to, but X is None; pass both, or neither.")
    for name in ("X", "y"):
        if name in model.latents:
            raise ValueError(f"{name!r} must be the name of rows alone, but a parameter has it; rename the module's parameter.")
    count = posterior.num_draws or _check.count("num_samples", num_samples)
    check_draws(count, layout.size, model.like, max_memory)
    with torch.no_grad():
        networks = posterior.in_order(count, seed)
        u = posterior.effective(networks)
        values = torch.vmap(layout.unflatten)(u)
        densities = {
            name: torch.vmap(lambda values, latent=latent: latent.given(values).log_prob(values[latent.name]))(values)
            for name, latent in model.latents.items()
        }
        stats = {name: value.reshape(-1) for name, value in posterior.stats.items()}
        log_q = posterior.log_density(u)
        if log_q is not None:
            stats["log_q"] = log_q
        found = {"posterior": posterior.to_data_units(values), "log_prior": densities, "sample_stats": stats}
        fixed: dict[str, dict[str, torch.Tensor]] = {}
        if X is not None:
            X, y, fixed["constant_data"] = _rows(model, X, y)
            predictive = posterior.predict_drawn(networks, X, max_memory=max_memory)
            found["posterior_predictive"] = {"y": predictive.sample(len(u), seed=seed, max_memory=max_memory)}
            if y is not None:
                target = predictive.target(y)
                rows = predictive.likelihood.log_prob(predictive.output, target, **predictive.noise)
                fixed["observed_data"], found["log_likelihood"] = {"y": target}, {"y": rows}
    chains = posterior.num_chains or 1
    groups = {
        group: {name: _array(value, group).reshape(chains, -1, *value.shape[1:]) for name, value in variables.items()}
        for group, variables in found.items()
    }
    groups |= {group: {name: _array(value, group) for name, value in variables.items()} for group, variables in fixed.items()}
    return {group: variables for group, variables in groups.items() if variables}, u


def _array(value: torch.Tensor, group: str) -> np.ndarray:
    array = value.detach().cpu().numpy()
    return array.astype(np.float64) if group in ("log_likelihood", "log_prior") else array  # sums of float32 would lose nats


def _rows(model: BayesianModel, X: Any, y: Any) -> tuple[Any, Any, dict[str, torch.Tensor]]:
    """Inputs and targets in the order of the fit, and the inputs as a group."""
    if isinstance(X, (Dataset, DataLoader)):
        X, y = all_rows(X, y)
    order = order_by_name("X", names_of(X), model.feature_names)
    if y is None:
        inputs = as_inputs(X)
    else:
        inputs, y = pair_of(X, model.targets(y))
    return X, y, {"X": inputs if order is None else inputs[:, order]}


# --- names of axes ---


def _named(posterior: AbstractPosterior, groups: Groups) -> tuple[dict[str, list[str]], dict[str, Any]]:
    """Names of each variable's axes, and of the places on them."""
    model = posterior.model
    dims, coords = {"y": ["row"], "X": ["row"]}, {}
    sizes: dict[str, int] = {}
    rows = groups.get("constant_data", {}).get("X")
    if rows is not None:
        sizes["row"] = len(rows)
        if rows.ndim == 2:
            dims["X"] = ["row", "column"]
    if model.row_shape is not None and len(model.row_shape) == 1:
        coords["column"] = list(model.feature_names or range(model.row_shape[0]))
        sizes["column"] = model.row_shape[0]
    targets = groups.get("posterior_predictive", {}).get("y")
    if targets is not None and targets.ndim == 4:
        dims["y"] = ["row", "target"]
        sizes["target"] = targets.shape[-1]
    ends = _ends(model)
    for name, values in groups["posterior"].items():
        found = [dim if sizes.setdefault(dim, size) == size else "" for dim, size in _axes(model, name, values.shape[2:], ends)]
        if all(found):
            dims[name] = found
    if model.target_names is not None and sizes.get("target") == len(model.target_names):
        coords["target"] = list(model.target_names)
    return dims, {name: places for name, places in coords.items() if any(name in used for used in dims.values())}


def _axes(model: BayesianModel, name: str, shape: tuple[int, ...], ends: Mapping[str, str]) -> list[tuple[str, int]]:
    """Name and length of each axis of an unknown; a name of its own where the axis belongs to no layer's."""
    owner = heir(name, model.latents)
    layer, _, leaf = owner.rpartition(".")
    full = model.latents[owner].shape
    unit, column = (ends.get(dotted(layer, end), dotted(layer, end)) for end in ("unit", "input"))
    known = {1: [unit], 2: [unit, column]}.get(len(full), []) if leaf in ("weight", "bias") else []
    if not full and len(shape) == 1:  # the noise, in the data's own units: one number for each target
        return [("target", shape[0])]
    own = [f"{name}_dim_{i}" for i in range(len(shape))]
    if len(shape) != len(full) or not known:
        return list(zip(own, shape, strict=True))
    return [(known[i] if n == full[i] else own[i], n) for i, n in enumerate(shape)]


def _ends(model: BayesianModel) -> dict[str, str]:
    """Axes of linear layers that are the input columns, or the network's outputs, found by a pass of two rows."""
    shape = model.row_shape
    if shape is None or len(shape) != 1 or model.takes_integers:
        return {}
    module, seen = copied(model.module), {}

    def heard(layer: str) -> Any:
        return lambda _, given, output: seen.update({layer: (given[0].clone(), output.clone())})

    for layer, child in module.named_modules():
        if isinstance(child, nn.Linear):
            child.register_forward_hook(heard(layer))
    rows = torch.randn((2, *shape), generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(model.like)
    with torch.no_grad():
        result = model.forward(model.weights(), rows.clone(), module)
    last = "class" if model.likelihood.labels is not None else "target" if model.likelihood.outputs_per_target == 1 else ""
    found = {}
    for layer, (given, output) in seen.items():
        if given.shape == rows.shape and given.equal(rows):
            found[dotted(layer, "input")] = "column"
        if last and output.reshape(2, -1).equal(result.reshape(2, -1)):
            found[dotted(layer, "unit")] = last
    return found


# --- ArviZ's two generations: nothing else of this package knows which one is installed ---


def _nested() -> bool:
    """True for ArviZ 1.x, which takes groups in one dictionary and gives a tree."""
    return int(load_arviz().__version__.split(".")[0]) >= 1


def _made(posterior: AbstractPosterior, groups: Groups) -> Any:
    az, (dims, coords) = load_arviz(), _named(posterior, groups)
    attrs = {
        "inference_library": "bayesreg",
        "method": posterior.method,
        "sampling_time": posterior.elapsed,
        "seed": posterior.seed,
    }
    prior = {"log_prior": groups["log_prior"]}
    others: dict[str, Any] = {group: found for group, found in groups.items() if group not in prior}
    if _nested():
        # one table of axes for all groups, but an unknown's log-density has none of the unknown's
        bare = {name: [] for name in prior["log_prior"]}
        made = az.from_dict(others, dims=dims, coords=coords, attrs={"/": attrs})
        made["log_prior"] = az.from_dict(prior, dims=bare)["log_prior"]
        return made
    made = az.from_dict(**others, dims=dims, coords=coords)
    made.add_groups({"log_prior": az.dict_to_dataset(groups["log_prior"])})
    for group in made.groups():
        made[group].attrs.update(attrs)
    return made


def _corrected(data: Any, log_p: np.ndarray, log_q: np.ndarray) -> Any:
    """Leave-one-out with draws of q for those of p: both log-densities, up to constants, (1, S)."""
    az = load_arviz()
    if _nested():
        return az.loo_approximate_posterior(data, log_p.ravel(), log_q.ravel(), pointwise=True, var_name="y")
    # ArviZ's own object, so that `compare` and `plot_khat` take it, with the numbers of the corrected weights
    terms = data.log_likelihood["y"].values[0]
    ratio = (log_p - log_q)[0]
    # ArviZ lets weights of its grid overflow to infinity on purpose
    with np.errstate(over="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about the weights that are replaced here
        found = az.loo(data, pointwise=True, reff=1.0, scale="log")
        weights, shapes = az.psislw((ratio[:, None] - terms).T, 1.0)
        whole = az.psislw(ratio[None], 1.0)[0]
    rows = np.logaddexp.reduce(weights + terms.T, axis=1)
    found["elpd_loo"], found["se"] = rows.sum(), (len(rows) * rows.var()) ** 0.5
    found["p_loo"] = np.logaddexp.reduce(whole + terms.T, axis=1).sum() - rows.sum()
    found["loo_i"], found["pareto_k"] = found["loo_i"].copy(data=rows), found["pareto_k"].copy(data=shapes)
    found["warning"] = bool((shapes > found["good_k"]).any())
    if found["warning"]:
        warnings.warn(
            f"{int((shapes > found['good_k']).sum())} of {len(rows)} rows have a Pareto shape above {found['good_k']:.2f}: "
            "there the approximation is too far from the posterior without the row; take a sampler, or the K-fold score.",
            stacklevel=3,
        )
    return found
