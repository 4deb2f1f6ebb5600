"""Save and load a posterior: only its state, as tensors and plain values with a checksum, readable with `weights_only=True`."""

from __future__ import annotations

import dataclasses
import inspect
import os
import typing
from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from bayesreg import _check, layers, likelihoods
from bayesreg._catalog import concrete
from bayesreg._threads import seeded
from bayesreg.behaviour import Behaviour
from bayesreg.data.rows import Standardization
from bayesreg.layers.copying import bare, copied
from bayesreg.model import architecture
from bayesreg.model.model import BayesianModel
from bayesreg.model.units import BOUND
from bayesreg.operators import AbstractOperator, Observed
from bayesreg.posteriors.base import AbstractPosterior
from bayesreg.posteriors.restore import restored
from bayesreg.priors import parse
from bayesreg.storage.files import replacing
from bayesreg.storage.schema import check_fields, is_of, plain, refuse
from bayesreg.storage.sealed import seal, tensors_in, unseal

FORMAT = 3
_SMALL = 10**6  # most weights that are made before the state is checked
# the attributes of a model that come from binding to data; the others have entries of their own
_BOUND = {name: typing.get_type_hints(BayesianModel)[name] for name in BOUND}
# layers of a Sequential that is rebuilt, besides those of this package; any other network must be passed to load
_ORDINARY = (
    *("Linear", "Flatten", "ReLU", "Tanh", "Sigmoid", "SiLU", "LeakyReLU", "ELU", "GELU", "Softplus"),
    *("BatchNorm1d", "BatchNorm2d", "BatchNorm3d"),
    *("Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "FeatureAlphaDropout"),
)
_UNTOLD = {"args", "kwargs", "inplace", "device", "dtype", "initial_scale"}  # which change no answer, or come with the tensors


@dataclasses.dataclass(frozen=True)
class _Saved:
    """The content of a file.

    Attributes:
        format: Format of the file.
        kind: Name of the posterior's class.
        state: The posterior's `state`.
        record: The fit's record.
        priors: By unknown tensor: shape, dtype, the prior as written and as resolved, and the rule that it came from.
        outputs: By layer: the prior of its output, and the rule.
        autoscale: sd(y)/sd(x), for scales that depend on it.
        likelihood: As text.
        standardize: Whether the model standardises.
        standardization: The statistics of the standardisation.
        bound: Other attributes from binding to data.
        constants: Parameters that are no unknowns.
        buffers: Each with whether it is persistent, and the first name of a tied tensor.
        architecture: Layers and arguments of a Sequential of ordinary layers.
        modules: Description that the network must match.
        python: The version of Python that this was written by.
    """

    format: int
    kind: str
    state: dict[str, Any]
    record: dict[str, Any]
    priors: dict[str, tuple[tuple[int, ...], str, str, str, str]]
    outputs: dict[str, tuple[str, str]]
    autoscale: torch.Tensor | None
    likelihood: str
    standardize: bool
    standardization: dict[str, Any] | None
    bound: dict[str, Any]
    constants: dict[str, torch.Tensor]
    buffers: dict[str, tuple[torch.Tensor, bool, str]]
    architecture: list[Any] | None
    modules: dict[str, dict[str, Any]]
    python: str


def save(posterior: AbstractPosterior, path: str | os.PathLike[str], *, force: bool = False) -> None:
    """Write a posterior to a file. A failed save leaves no file.

    Stored are the posterior's own tensors, the priors and likelihood as text, the standardisation, the module's buffers
    and constants, the names and settings of its layers, and the fit's record; of the module's code, only a digest. A SHA-256 of
    all of it is in the file, and `load` gives back exactly this or an error.

    Args:
        posterior: What to write.
        path: Where to write, "post.pt". A link is replaced, not followed.
        force: Replace an existing file.

    Raises:
        ValueError: If it is not a posterior or holds what could not be loaded, or the file exists and `force` is not given.

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
    content = content_of(posterior)
    with replacing([path], force=force) as (handle,):
        seal(handle, "posterior", FORMAT, content)


def content_of(posterior: AbstractPosterior) -> dict[str, Any]:
    """What is stored of a posterior, plain values that `posterior_of` takes.

    Raises:
        ValueError: If it could not be loaded again.
    """
    model = posterior.model
    parameters = {r.name: model.module.get_parameter(r.name) for r in model.resolved}
    persistent, first = model.module.state_dict().keys(), {}
    units = model.standardization
    found = _Saved(
        format=FORMAT,
        kind=type(posterior).__name__,
        state=posterior.state(),
        record=dataclasses.asdict(posterior.record),
        priors={
            r.name: (tuple(r.shape), _name(parameters[r.name].dtype), repr(r.specified), repr(r.prior), r.source)
            for r in model.resolved
        },
        outputs={output.name: (repr(output.prior), output.source) for output in model.outputs},
        autoscale=model.autoscale,
        likelihood=repr(model.likelihood),
        standardize=typing.cast(bool, model.standardize),
        standardization=None if units is None else {f.name: getattr(units, f.name) for f in dataclasses.fields(units)},
        bound={name: getattr(model, name) for name in _BOUND},
        constants={name: value for name, value in model.module.named_parameters() if name not in model.latents},
        buffers={
            name: (value, name in persistent, first.setdefault(id(value), name))
            for name, value in model.module.named_buffers(remove_duplicate=False)
        },
        architecture=None,
        modules=architecture.describe(model),
        python=architecture.PYTHON,
    )
    found = dataclasses.replace(found, architecture=_description_of(model.module, found))
    content = plain({field.name: getattr(found, field.name) for field in dataclasses.fields(found)})
    check_fields(_Saved, content, "a saved posterior")  # refuse now what load would refuse later
    restored(model, content["kind"], content["record"], content["state"])
    likelihoods.parse(content["likelihood"])
    for entry in content["priors"].values():
        parse(entry[2])
    return content


def load(
    path: str | os.PathLike[str], module: nn.Module | None = None, *, allow_changed_code: bool = False
) -> AbstractPosterior:
    """Read a posterior that `save` wrote, exactly as it was. No code from the file is run.

    Args:
        path: The file; also one that `bayesreg report --save` wrote.
        module: The network, as it was built for the fit; not needed when it was a `Sequential` of ordinary layers (Linear,
            activations, BatchNorm1d, dropout layers, Flatten), which is rebuilt. Its own weights and buffers are not used, and
            it is not changed. Its layers, their settings and the code of its forward are compared with those of the fit; code
            only where this is the version of Python that wrote the file.
        allow_changed_code: Take the module's forward although its code has changed since: you then vouch that it computes the
            same, and a note in `history` says so.

    Returns:
        The posterior, on the CPU.

    Raises:
        ValueError: If the file is not there, not of this kind or format or not as it was written; or the module is missing or
            is another than that of the fit.
    """
    allow_changed_code = _check.flag("allow_changed_code", allow_changed_code)
    try:
        content = unseal(path, "posterior", FORMAT, "bayesreg.save", also="model")
        return posterior_of(content.get("posterior", content), module, allow_changed_code)
    except RecursionError:
        refuse("a saved posterior", "nested a few levels", "thousands of them")


def posterior_of(content: Any, module: nn.Module | None = None, allow_changed_code: bool = False) -> AbstractPosterior:
    """The posterior that `content_of` described; for the other arguments see `load`."""
    check_fields(_Saved, content, "a saved posterior")
    saved = _Saved(**content)
    module = Observed(module) if isinstance(module, AbstractOperator) else module
    made = _build_all(saved) if module is None else _fitting(module, saved)
    model = _rebuild(saved, made)
    posterior = restored(model, saved.kind, saved.record, saved.state)
    _compare(saved, model, posterior, allow_changed_code)
    return posterior


def _compare(saved: _Saved, model: BayesianModel, posterior: AbstractPosterior, allow_changed_code: bool) -> None:
    """Refuse a module that is not the one of the fit, and note what could not be compared.

    Raises:
        ValueError: If so; names up to three differences.
    """
    found = architecture.differences(saved.modules, architecture.describe(model), saved.python)
    code = [difference for difference in found if difference.startswith(architecture.CODE)]
    if allow_changed_code and code:
        posterior.history.notes.append(f"loaded into changed code: {'; '.join(code)}.")
        found = [difference for difference in found if difference not in code]
    if found:
        more = f"; and {len(found) - 3} more" if len(found) > 3 else ""
        advice = ", or pass allow_changed_code=True if it still computes the same" if len(found) == len(code) else ""
        raise ValueError(
            f"the module must be that of the fit, but {'; '.join(found[:3])}{more}; build it as it was at the fit{advice}."
        )
    if saved.python != architecture.PYTHON and any(layer.get("code") for layer in saved.modules.values()):
        posterior.history.notes.append(
            f"the code of the module's forward was not compared with that of the fit: it was saved by Python {saved.python}."
        )


def _fitting(module: nn.Module, saved: _Saved) -> nn.Module:
    """A copy of the user's module with the saved parameters' types and the saved constants.

    Raises:
        ValueError: If its tensors are not those that were saved.
    """
    module = copied(bare(module)).to(device="cpu")
    lost = saved.buffers.keys() - dict(module.named_buffers(remove_duplicate=False)).keys()
    if any(name.endswith("running_mean") for name in lost):  # refreshed layers got buffers for statistics
        module = Behaviour(module).tracking()
    _check_tensors(module, saved)
    return module


def _check_tensors(module: nn.Module, saved: _Saved) -> None:
    """Refuse a module whose tensors are not those that were saved.

    Raises:
        ValueError: If so.
    """
    parameters = dict(module.named_parameters())
    names = {name for name, parameter in parameters.items() if parameter.requires_grad}
    shapes = {**{name: entry[0] for name, entry in saved.priors.items()}, **_shapes(saved.constants)}
    same = names == set(saved.priors) and parameters.keys() == shapes.keys()
    if not same or any(tuple(parameters[name].shape) != shapes[name] for name in shapes):
        raise ValueError(
            f"the module must have the saved parameters {', '.join(saved.priors)} with their shapes, but "
            f"{', '.join(sorted(names))} came; build it as it was at the fit."
        )
    buffers = dict(module.named_buffers(remove_duplicate=False))
    if buffers.keys() != saved.buffers.keys():
        odd = sorted(buffers.keys() ^ saved.buffers.keys())
        raise ValueError(
            f"the module must have the saved buffers, but {', '.join(odd)} {'is' if len(odd) == 1 else 'are'} only "
            f"{'in it' if odd[0] in buffers else 'in the file'}; build it as it was at the fit."
        )


def _shapes(tensors: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _build_all(saved: _Saved) -> nn.Module:
    """The network of a file that describes it; memory is allocated only if its sizes agree with the saved tensors.

    Raises:
        ValueError: If the file does not describe it, or its parts contradict each other.
    """
    if saved.architecture is None:
        raise ValueError("this posterior's network is not a Sequential of ordinary layers; pass it: load(path, module=net).")
    try:
        module = _build(saved.architecture)
        _check_tensors(module, saved)
    except (TypeError, ValueError, RuntimeError, KeyError, RecursionError) as error:
        refuse("a saved posterior's architecture", "that of its tensors", str(error).split(";")[0])
    size = sum(p.numel() for name, p in module.named_parameters() if name not in saved.constants)
    if size > max(_SMALL, sum(tensor.numel() for tensor in tensors_in(saved.state))):
        refuse("a saved posterior's architecture", "that of its tensors", f"{size:,} weights")
    with seeded(torch.device("cpu"), 0):
        module.to_empty(device="cpu")
        for layer in module.modules():
            reset = getattr(layer, "reset_parameters", None)
            if callable(reset):  # a fit of the loaded model starts from here
                reset()
    return module


def _rebuild(saved: _Saved, module: nn.Module) -> BayesianModel:
    """The model, bound as it was, over a private module that gets its types, constants and buffers here."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name in saved.constants:
                parameter.data = saved.constants[name].clone()
            if name in saved.priors:
                parameter.data = parameter.data.to(_dtype(saved.priors[name][1]))
    placed: dict[str, torch.Tensor] = {}  # tied tensors stay tied
    for name, (value, is_persistent, first) in saved.buffers.items():
        owner, _, leaf = name.rpartition(".")
        value = placed.setdefault(first, value.clone())
        module.get_submodule(owner).register_buffer(leaf, value, persistent=is_persistent)
    priors = {name: parse(entry[2]) for name, entry in saved.priors.items()}
    outputs = {name: parse(text) for name, (text, _) in saved.outputs.items()}
    model = BayesianModel(module, priors, likelihoods.parse(saved.likelihood), saved.standardize, outputs=outputs)
    sources = {name: entry[4] for name, entry in saved.priors.items()}
    model = model.with_sources(sources, {name: source for name, (_, source) in saved.outputs.items()})
    if saved.autoscale is not None:
        model = model.autoscaled(saved.autoscale)
    if saved.bound.keys() != _BOUND.keys():
        refuse("a saved posterior's data", f"a dict of {', '.join(_BOUND)}", ", ".join(saved.bound))
    known = dict(saved.bound)
    if is_of(known["row_shape"], tuple[int, ...]):
        known["row_shape"] = torch.Size(known["row_shape"])
    for name, value in known.items():
        if not is_of(value, _BOUND[name]):
            refuse(f"a saved posterior's {name}", f"of type {_BOUND[name]}", type(value).__name__)
    if saved.standardization is not None:
        check_fields(Standardization, saved.standardization, "a saved posterior's standardization")
    units = None if saved.standardization is None else Standardization(**saved.standardization)
    return model.with_binding(known, units)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        refuse("a saved posterior's parameters", "of a floating type", name)
    return found


def _description_of(module: nn.Module, saved: _Saved) -> list[Any] | None:
    """The description a module can be rebuilt from; None where the copy would differ (a hook, a buffer of its own)."""
    description = _describe(module)
    if description is not None:
        built = _build(description)
        try:
            _check_tensors(built, saved)
        except ValueError:
            return None
        if architecture.differences(saved.modules, architecture.described(built), saved.python):
            return None
    return description


def _describe(module: nn.Module) -> list[Any] | None:
    """[class name, its arguments], nested for a Sequential; None where the module cannot be described so."""
    name = type(module).__name__
    if type(module) in (nn.Sequential, layers.MLP):
        children = [[key, _describe(child)] for key, child in module._modules.items() if child is not None]
        shared = len({id(child) for child in module.children()}) < len(module._modules)
        kind = "Sequential" if layers.in_sequence(module) else "MLP"
        return None if shared or any(child is None for _, child in children) else [kind, children]
    kinds = _kinds()
    if kinds.get(name := _kind_name(type(module))) is not type(module):
        return None
    untold = _UNTOLD | ({"bias"} if name.startswith("BatchNorm") else set())  # of newer versions of torch only
    untold |= {"rate"} if getattr(module, "learned", False) else set()  # saved among the buffers
    arguments: dict[str, Any] = {
        key: getattr(module, key) for key in inspect.signature(type(module)).parameters if key not in untold
    }
    for key, value in arguments.items():
        if key == "bias":
            arguments[key] = value is not None
        elif key == "layer":
            arguments[key] = _describe(value)
        elif isinstance(value, torch.Tensor):
            arguments[key] = value.tolist()
    frozen = any(not parameter.requires_grad for parameter in module.parameters())
    return None if frozen or arguments.get("layer", ...) is None else [name, arguments]


def _kinds() -> dict[str, type[nn.Module]]:
    """The layers that can be rebuilt, by their names in a file."""
    own = (*concrete(layers.AbstractMask), layers.Standardize)
    kinds = [*(getattr(nn, name) for name in _ORDINARY), *(kind for kind in own if kind.__module__.startswith("bayesreg."))]
    return {_kind_name(kind): kind for kind in kinds}


def _kind_name(kind: type) -> str:
    return f"{'layers.' if kind.__module__.startswith('bayesreg.') else ''}{kind.__name__}"


def _build(description: list[Any]) -> nn.Module:
    name, inside = description
    if name == "Sequential":
        return nn.Sequential(OrderedDict((key, _build(child)) for key, child in inside))
    if name == "MLP":
        return layers.MLP.beside_a_line((key, _build(child)) for key, child in inside)
    kind = _kinds().get(name)
    if kind is None:
        raise ValueError(f"the file names a layer {name!r} that bayesreg does not rebuild; pass module=.")
    arguments = {key: _build(value) if key == "layer" else value for key, value in inside.items()}
    return kind(**arguments, **({"device": "meta"} if name.startswith(("Linear", "BatchNorm")) else {}))
