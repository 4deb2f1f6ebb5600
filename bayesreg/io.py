"""Save and load a posterior: its state only, as tensors and plain values, readable with `weights_only=True`."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import os
import tempfile
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bayesreg import batch_statistics, layers, likelihoods, noisy  # noqa: F401 (the kinds of posterior that a file may hold)
from bayesreg.data import Standardization
from bayesreg.inputs import protect
from bayesreg.layers.batchnorm import tracking
from bayesreg.model import BayesianModel
from bayesreg.posterior import AbstractPosterior, restored
from bayesreg.priors import parse

FORMAT = 1
# what a module of a Sequential is built from; everything else needs the module itself to be loaded
_BUILT_FROM: dict[str, tuple[str, ...]] = {
    "Linear": ("in_features", "out_features", "bias"),
    "Flatten": ("start_dim", "end_dim"),
    "Dropout": ("p",),
    "LeakyReLU": ("negative_slope",),
    "ELU": ("alpha",),
    "GELU": ("approximate",),
    "Softplus": ("beta", "threshold"),
    **dict.fromkeys(
        ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d"), ("num_features", "eps", "momentum", "affine", "track_running_stats")
    ),
    **dict.fromkeys(("Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "FeatureAlphaDropout"), ("p",)),
    **dict.fromkeys(("ReLU", "Tanh", "Sigmoid", "SiLU"), ()),
}
# the same for layers of this package; what they learn is among the buffers, and where it started does not matter
_OWN: dict[str, tuple[str, ...]] = {
    "layers.AlphaDropout": ("rate", "channels"),
    "layers.ConcreteDropout": ("temperature",),
    "layers.DropConnect": ("layer", "rate"),
    "layers.VariationalDropout": ("layer", "prior"),
    "layers.Standardize": ("mean", "scale", "constant"),
    **dict.fromkeys(("layers.Dropout", "layers.ChannelDropout", "layers.GaussianDropout"), ("rate",)),
}


def save(posterior: AbstractPosterior, path: str | os.PathLike[str], *, force: bool = False) -> None:
    """Write a posterior to a file. Nothing is left behind when it fails.

    Stored are the posterior's own tensors, the priors and likelihood as text, the standardisation, the module's buffers
    and constants, and the fit's record; of the module's code, nothing.

    Args:
        posterior: What to write.
        path: Where to; "post.pt".
        force: Replace an existing file.

    Raises:
        ValueError: If it is not a posterior, or the file exists and `force` is not given.

    >>> import tempfile, torch, bayesreg as br
    >>> model = br.BayesianModel(nn.Linear(1, 1), likelihood=likelihoods.Gaussian(1.0))
    >>> post = br.fit(model, [[0.0], [1.0]], [0.0, 1.0], method="exact")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(post, folder + "/post.pt")
    ...     again = load(folder + "/post.pt")
    >>> bool(torch.equal(again.mean["weight"], post.mean["weight"]))
    True
    """
    if not isinstance(posterior, AbstractPosterior):
        raise ValueError(f"save takes a posterior, but {type(posterior).__name__} came; pass what fit returned.")
    model = posterior.model
    trained = {r.name for r in model.resolved}
    constants = {k: v for k, v in model.module.state_dict().items() if k not in trained}
    if model.standardization is None:
        standardization = None
    else:
        s = model.standardization
        standardization = {f.name: getattr(s, f.name) for f in dataclasses.fields(s)}
        standardization["constant"] = list(s.constant)
    content = {
        "format": FORMAT,
        "kind": type(posterior).__name__,
        "state": posterior.state(),
        "record": dataclasses.asdict(posterior.record),
        "priors": {r.name: [list(r.shape), repr(r.specified), repr(r.prior), r.source] for r in model.resolved},
        "outputs": {output.name: [repr(output.prior), output.source] for output in model.outputs},
        "autoscale": model.autoscale,
        "likelihood": repr(model.likelihood),
        "standardize": model.standardize,
        "standardization": standardization,
        "num_data": model.num_data,
        "feature_names": None if model.feature_names is None else list(model.feature_names),
        "target_names": None if model.target_names is None else list(model.target_names),
        "row_shape": None if model.row_shape is None else list(model.row_shape),
        "constants": constants,
        "architecture": _describe(model.module),
        "dtype": str(model.like.dtype).removeprefix("torch."),
    }
    with replacing(path, force) as temporary:
        torch.save(content, temporary)


def load(path: str | os.PathLike[str], module: nn.Module | None = None) -> AbstractPosterior:
    """Read a posterior that `save` wrote. No code from the file is run.

    Args:
        path: The file.
        module: The network, of the same structure; not needed when it was a `Sequential` of ordinary layers (Linear,
            activations, BatchNorm1d, dropout layers, Flatten), which is rebuilt. Its own weights are not used, and it is not
            changed.

    Returns:
        The posterior, on the CPU.

    Raises:
        ValueError: If the file is not there or not of this kind, or the module is missing or does not fit.
    """
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
    except FileNotFoundError:
        raise ValueError(f"there must be a file to load, but {os.fspath(path)!r} does not exist; check the path.") from None
    except Exception as error:  # torch raises many kinds for a file that is none of its own
        raise ValueError(
            f"{os.fspath(path)!r} must be a posterior written by bayesreg.save, but it cannot be read: {error}"
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise ValueError(
            f"{os.fspath(path)!r} must be a posterior of format {FORMAT} written by bayesreg.save; "
            "write it anew with this version."
        )
    model = _rebuild(content, module)
    return restored(model, content["kind"], content["record"], content["state"])


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str], force: bool) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place when the block succeeds, and vanishes when it fails.

    Args:
        path: The file that is wanted.
        force: Replace an existing one.

    Yields:
        The temporary file's path.

    Raises:
        ValueError: If the file exists and `force` is not given, or its folder is not there.
    """
    target = Path(path)
    if target.exists() and not force:
        raise ValueError(f"{os.fspath(path)!r} must not exist yet; pass force=True (--force) to replace it, or another name.")
    if not target.parent.is_dir():
        raise ValueError(f"the folder of {os.fspath(path)!r} must exist; make it first, or choose another place.")
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    try:
        yield Path(name)
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _rebuild(content: dict[str, Any], module: nn.Module | None) -> BayesianModel:
    if module is None:
        if content["architecture"] is None:
            raise ValueError(
                "this posterior's network is not a Sequential of ordinary layers; pass it: load(path, module=net)."
            )
        module = _build(content["architecture"])
    module = copy.deepcopy(module).to(device="cpu", dtype=getattr(torch, content["dtype"]))
    missing = content["constants"].keys() - module.state_dict().keys()
    if any(name.endswith("running_mean") for name in missing):  # refreshed: they were made to keep statistics
        module = tracking(module)
    names = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    saved = content["priors"]
    shapes = {name: list(p.shape) for name, p in module.named_parameters()}
    if names != set(saved) or any(shapes[name] != saved[name][0] for name in names):
        raise ValueError(
            f"the module must have the saved parameters {', '.join(saved)} with their shapes, but "
            f"{', '.join(sorted(names))} came; build it as it was at the fit."
        )
    priors = {name: parse(entry[1]) for name, entry in saved.items()}
    outputs = {name: (parse(text), source) for name, (text, source) in content.get("outputs", {}).items()}
    rules = {name: prior for name, (prior, _) in outputs.items()}
    model = BayesianModel(module, priors, likelihoods.parse(content["likelihood"]), content["standardize"], outputs=rules)
    model.outputs = tuple(dataclasses.replace(output, source=outputs[output.name][1]) for output in model.outputs)
    model.module.load_state_dict(content["constants"], strict=False)
    model.resolved = [dataclasses.replace(r, source=saved[r.name][3]) for r in model.resolved]
    if content.get("autoscale") is not None:
        model = model.autoscaled(content["autoscale"])
    model.num_data = content["num_data"]
    model.row_shape = None if content["row_shape"] is None else torch.Size(content["row_shape"])
    if content["standardization"] is not None:
        numbers = dict(content["standardization"])
        numbers["constant"] = tuple(numbers["constant"])
        model.standardization = Standardization(**numbers)
    if model.row_shape is not None:
        protect(model.module, torch.zeros(2, *model.row_shape, dtype=model.like.dtype))
    model.feature_names, model.target_names = (_names(content.get(f"{part}_names")) for part in ("feature", "target"))
    return model


def _names(saved: list[str] | None) -> tuple[str, ...] | None:
    return None if saved is None else tuple(saved)


def _describe(module: nn.Module) -> list[Any] | None:
    """[class name, its arguments], nested for a Sequential; None where the module cannot be said so."""
    name = type(module).__name__
    if type(module) in (nn.Sequential, layers.MLP):
        children = [[key, _describe(child)] for key, child in module._modules.items() if child is not None]
        shared = len({id(child) for child in module.children()}) < len(module._modules)
        return None if shared or any(child is None for _, child in children) else ["Sequential", children]
    if isinstance(module, (layers.AbstractNoise, layers.Standardize)):
        return _describe_own(module)
    if name not in _BUILT_FROM or type(module) is not getattr(nn, name):
        return None
    arguments = {key: getattr(module, key) for key in _BUILT_FROM[name]}
    if "bias" in arguments:
        arguments["bias"] = arguments["bias"] is not None
    frozen = any(not parameter.requires_grad for parameter in module.parameters())
    return None if frozen else [name, arguments]


def _describe_own(module: nn.Module) -> list[Any] | None:
    name = f"layers.{type(module).__name__}"
    if name not in _OWN or type(module) is not getattr(layers, type(module).__name__):
        return None
    arguments: dict[str, Any] = {key: getattr(module, key) for key in _OWN[name]}
    arguments = {key: value.tolist() if isinstance(value, torch.Tensor) else value for key, value in arguments.items()}
    if "layer" in arguments:
        arguments["layer"] = _describe(arguments["layer"])
        if arguments["layer"] is None:
            return None
    return [name, arguments]


def _build(description: list[Any]) -> nn.Module:
    name, inside = description
    if name == "Sequential":
        return nn.Sequential(OrderedDict((key, _build(child)) for key, child in inside))
    if name in _OWN:
        arguments = {key: _build(value) if key == "layer" else value for key, value in inside.items()}
        return getattr(layers, name.removeprefix("layers."))(**arguments)
    if name not in _BUILT_FROM:
        raise ValueError(f"the file names a layer {name!r} that bayesreg does not rebuild; pass module=.")
    return nn.utils.skip_init(getattr(nn, name), **inside) if name == "Linear" else getattr(nn, name)(**inside)
