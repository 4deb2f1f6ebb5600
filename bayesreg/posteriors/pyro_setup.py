"""From what a person passes as a guide (a class, a module, a function) to a module over the model's unknowns."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import autoguide
from pyro.infer.autoguide.effect import AutoMessenger
from pyro.infer.autoguide.initialization import InitMessenger, init_to_value
from pyro.nn import PyroModule
from pyro.poutine.messenger import Messenger
from torch import nn
from torch.distributions import transform_to
from torch.overrides import TorchFunctionMode

from bayesreg._threads import drawing, of_pyro
from bayesreg.behaviour import first_line
from bayesreg.model.model import BayesianModel
from bayesreg.model.program import prior_of

Program = Callable[..., Any]

_REFUSED = {
    autoguide.AutoLaplaceApproximation: "is a mode, and its normal is found afterwards; take method='laplace', which does both",
    autoguide.AutoDiscreteParallel: "is for discrete unknowns, and here all are continuous; take AutoNormal",
}
_FACTORY = (
    "pass a function that makes it, for example guide=lambda model: AutoNormalizingFlow(model, "
    "partial(affine_autoregressive, hidden_dims=[8]))"
)
_MAKE = "pass for example guide=AutoIAFNormal, guide=lambda model: AutoNormal(model), or a function that draws every unknown"


@contextmanager
def without_store() -> Iterator[None]:
    """Let modules of Pyro's keep their parameters to themselves, one thread at a time."""
    with of_pyro(), pyro.settings.context(module_local_params=True):
        yield


class Written(nn.Module):
    """A guide with `pyro.param` statements, whose parameters are those of this module instead of Pyro's store.

    Args:
        inner: A function that draws the unknowns, or a module that does.
    """

    def __init__(self, inner: Callable[..., Any]) -> None:
        super().__init__()
        self.inner, self.numbers = inner, nn.ParameterList()
        self.statements: dict[str, tuple[int, Any]] = {}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the guide returns."""
        with _Statements(self):
            return self.inner(*args, **kwargs)

    def value(self, name: str, start: Any = None, *, constraint: Any = None, **_: Any) -> torch.Tensor:
        """What the statement of this name gives; the first one says where it starts.

        Raises:
            ValueError: If it does not.
        """
        if name not in self.statements:
            if start is None:
                raise ValueError(f"pyro.param({name!r}) needs a tensor to start from, but none came; pass one.")
            first = torch.as_tensor(start() if callable(start) else start).detach()
            domain = dist.constraints.real if constraint is None else constraint
            self.statements[name] = len(self.numbers), domain
            self.numbers.append(nn.Parameter(transform_to(domain).inv(first).clone()))
        index, domain = self.statements[name]
        return transform_to(domain)(self.numbers[index])


class _Statements(Messenger):
    """Answers `pyro.param` from a module; a Pyro module's own parameters come by other messages."""

    def __init__(self, owner: Written) -> None:
        super().__init__()
        self.owner = owner

    def _pyro_param(self, msg: Any) -> None:
        if msg["fn"] == pyro.get_param_store().get_param:
            msg["value"], msg["done"] = self.owner.value(*msg["args"], **msg["kwargs"]), True


class typed(TorchFunctionMode):
    """Gives new tensors a type where none is said: what AutoGaussian and AutoStructured make is of torch's default."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.zeros, torch.empty) and kwargs.get("dtype") is None:
            kwargs = {**kwargs, "dtype": self.dtype}
        return func(*args, **kwargs)


class Typed(nn.Module):
    """A guide that makes tensors of torch's default type, for a model of another.

    Args:
        inner: The guide.
        dtype: The model's.
    """

    def __init__(self, inner: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.inner, self.dtype = inner, dtype

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the guide returns."""
        with typed(self.dtype):
            return self.inner(*args, **kwargs)


def unknowns_program(latents: Mapping[str, Any], like: torch.Tensor) -> Program:
    """The model's program without its data: a site for each unknown, and an observed one that depends on all of them.

    A guide that follows the model's dependencies (AutoStructured, AutoGaussian) then sees those of the posterior.
    """

    def program(*args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        values: dict[str, torch.Tensor] = {}
        for name, latent in latents.items():
            options = {"dtype": like.dtype, "device": like.device}
            values[name] = pyro.sample(name, prior_of(latent, latents, values, options))
        size = sum(latent.shape.numel() for latent in latents.values())
        total: Any = sum(value.sum() for value in values.values())
        targets: Any = dist.Normal(total, 1.0).expand([size])
        pyro.sample("y", targets.to_event(1), obs=like.new_zeros(size))
        return values

    return program


def prepared(given: Any, model: BayesianModel, start: Mapping[str, torch.Tensor], seed: int = 0) -> nn.Module:
    """A guide over a model's unknowns, set up from `start`; what was given is not changed.

    Args:
        given: A Pyro module, what makes one of a program (a class, a function), or a function that draws the unknowns.
        model: The model, bound to its data.
        start: Values of the unknowns, by which an autoguide that was not used yet begins.
        seed: Of what it draws for itself at the start, as a flow does.

    Returns:
        The guide.

    Raises:
        ValueError: If it is no guide, or cannot be set up.
    """
    return set_up(given, model.latents, start, model.like, seed)


def set_up(
    given: Any, latents: Mapping[str, Any], start: Mapping[str, torch.Tensor], like: torch.Tensor, seed: int = 0
) -> nn.Module:
    """The same for the model's unknowns, and a tensor of its type.

    Raises:
        ValueError: As for `prepared`.
    """
    begin = init_to_value(values={k: v.detach() for k, v in start.items()})
    program = InitMessenger(begin)(unknowns_program(latents, like))
    with without_store(), drawing(seed):
        guide = _made(given, program)
        parts: list[Any] = list(guide.modules())
        for kind, why in _REFUSED.items():
            if any(isinstance(part, kind) for part in parts):
                raise ValueError(f"{kind.__name__} {why}.")
        if any(isinstance(part, autoguide.AutoGaussian | autoguide.AutoStructured) for part in parts):
            guide = Typed(guide, like.dtype)
        try:
            for part in parts:
                if isinstance(part, AutoMessenger):
                    part._model, part.init_loc_fn = (unknowns_program(latents, like),), begin
                elif isinstance(given, nn.Module) and isinstance(part, autoguide.AutoGuide):
                    _give_program(part, program, latents)
            guide = _with_statements(guide)
        except Exception as error:  # a person's guide may raise anything
            raise ValueError(
                f"a guide must run over the model's unknowns, without data, but {name_of(guide)} raised "
                f"{first_line(error)}; {_hint(guide, latents)}"
            ) from error
        guide = guide.to(device=like.device, dtype=like.dtype).requires_grad_(True)
        for parameter in guide.parameters():
            parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)  # it may be expanded
        return guide


def _made(given: Any, program: Program) -> nn.Module:
    """A module that draws something; `given` itself is left as it is.

    Raises:
        ValueError: If it makes none.
    """
    if isinstance(given, nn.Module):
        return _copied(given)
    try:
        trial = Written(given)
        with poutine.block():
            traced: Any = poutine.trace(trial).get_trace(program)
        result = traced.nodes["_RETURN"]["value"]
    except Exception as error:  # a person's function may raise anything
        if not inspect.isclass(given) and _takes_data(given):
            return Written(_counted(given))
        made_by = getattr(given, "__name__", type(given).__name__)
        advice = _FACTORY if given is autoguide.AutoNormalizingFlow else _MAKE
        raise ValueError(f"a guide must be made of a program, but {made_by} raised {first_line(error)}; {advice}.") from error
    if isinstance(result, nn.Module):
        return result
    if any(node["type"] == "sample" for node in traced.nodes.values()):
        return Written(_counted(given))
    if callable(result):
        return Written(_counted(result))
    raise ValueError(
        "a guide must be a Pyro module, such as an AutoNormal, a function that makes one of a program, or one that draws every "
        f"unknown, but {type(result).__name__} came; {_MAKE}."
    )


def _takes_data(given: Any) -> bool:
    """Whether a function takes more arguments than the program that a guide is made of."""
    try:
        needed = [p for p in inspect.signature(given).parameters.values() if p.default is p.empty and p.kind < p.VAR_POSITIONAL]
    except (TypeError, ValueError):
        return False
    return len(needed) != 1


def _counted(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, called with as many of the model's arguments (x, y, num_data) as it takes."""
    kinds = [p.kind for p in inspect.signature(function).parameters.values()]
    if any(kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD) for kind in kinds):
        return function
    count = sum(kind < inspect.Parameter.VAR_POSITIONAL for kind in kinds)

    @functools.wraps(function)
    def called(x: Any = None, y: Any = None, num_data: Any = None) -> Any:
        return function(*(x, y, num_data)[:count])

    return called


def _with_statements(guide: nn.Module) -> nn.Module:
    """The guide after its first run, in a `Written` where it has `pyro.param` statements of its own."""
    if isinstance(guide, Written):
        guide(None, None)
        return guide
    outer = Written(guide)
    outer(None, None)
    return outer if outer.statements else guide


def _give_program(part: Any, program: Program, latents: Mapping[str, Any]) -> None:
    """Let an autoguide that was never used begin by the program's values; its own may need the data."""
    if part.prototype_trace is not None or isinstance(part, autoguide.AutoCallable):
        return
    recorded = poutine.trace()
    try:
        with poutine.block(), recorded:
            part.model(None, None)
    except Exception:  # its unknowns come before its data
        pass
    drawn = [name for name in latents if name in recorded.trace.nodes]

    def hidden(msg: Any) -> bool:
        return msg["name"] not in drawn and not msg["is_observed"]

    part._model = (poutine.block(program, hide_fn=hidden),)
    if isinstance(part, autoguide.AutoGaussian | autoguide.AutoStructured):
        part._original_model = part._model


def unwrapped(guide: Any) -> Any:
    """The module or function that a person passed or made."""
    while isinstance(guide, Written | Typed):
        guide = guide.inner
    return guide


def name_of(guide: nn.Module) -> str:
    """What that is called."""
    inner = unwrapped(guide)
    return type(inner).__name__ if isinstance(inner, nn.Module) else getattr(inner, "__qualname__", "a function")


def _hint(guide: nn.Module, latents: Mapping[str, Any]) -> str:
    nested = [a for a in latents for b in latents if b.startswith(f"{a}.")]
    by_name = f"it holds a parameter by each site's name, and {nested[0]} begins another; " if nested else ""
    return f"{by_name}take for example AutoDiagonalNormal, or call it once with the model's data before."


def _copied(guide: nn.Module) -> nn.Module:
    """A copy: Pyro's own way to copy an autoguide takes the model from the original."""

    def automatic(module: nn.Module) -> list[Any]:
        return [m for m in module.modules() if isinstance(m, autoguide.AutoGuide | AutoMessenger)]

    kept = [(m, m._model, m.master if isinstance(m, autoguide.AutoGuide) else None) for m in automatic(guide)]
    try:
        made = copy.deepcopy(guide, {id(model[0]): model[0] for _, model, _ in kept if model is not None})
        for m, (_, model, _) in zip(automatic(made), kept, strict=True):
            m._model = model
        for m in made.modules():
            if isinstance(m, PyroModule) and "param_state" not in vars(m._pyro_context):  # made where the store was used
                m._pyro_context.param_state = {"params": {}, "constraints": {}}
        return made
    finally:
        for m, model, master in kept:
            m._model = model
            if isinstance(m, autoguide.AutoGuide):
                m.master = master
