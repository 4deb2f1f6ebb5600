"""Rules that say which tensor gets which prior, and the table of the resolved priors.

    {"*.weight": Normal(1.0, fan_in=True), "0.weight": Laplace(0.1), torch.nn.Conv2d: Normal(0.5), "@bias": Flat()}

From the most specific kind of rule to the least:

    exact name  >  callable  >  glob  >  module type  >  role (@norm > @weight, @bias)  >  default

Among globs the one with more literal characters wins ("*" has none and ranks just above the default), among types the
more derived; a later rule wins a tie. The same pattern twice is refused.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from bayesreg import _check
from bayesreg.behaviour import NORMALISING
from bayesreg.behaviour.invariance import SCALE_NOTE, SHIFT_NOTE, scale_invariant
from bayesreg.layers.fan_in import fan_ins, stored_note
from bayesreg.layers.sites import dotted, mask_notes
from bayesreg.model.prior_table import PriorRow, PriorTable, dimensions
from bayesreg.priors import AbstractPrior, Flat, Normal, from_dict
from bayesreg.priors.scaled import AbstractScaledPrior

Pattern = str | type[nn.Module] | Callable[[str, nn.Parameter], AbstractPrior | None]
Rules = Mapping[Any, AbstractPrior] | Sequence[tuple[Any, AbstractPrior]]

ROLES = ("@weight", "@bias", "@norm")
_EXACT, _CALLABLE, _GLOB, _TYPE, _ROLE, _DEFAULT = 5, 4, 3, 2, 1, 0


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One parameter of a module, with the properties that rules may use.

    Attributes:
        name: Dotted name, "0.weight".
        parameter: The parameter itself.
        owner: The module that holds it.
    """

    name: str
    parameter: nn.Parameter
    owner: nn.Module

    @property
    def role(self) -> str:
        """The tensor's role: "@norm" in a normalisation layer, else "@bias" for fewer than two axes, else "@weight"."""
        if isinstance(self.owner, NORMALISING):
            return "@norm"
        leaf = self.name.rpartition(".")[2]
        return "@bias" if "bias" in leaf or self.parameter.dim() < 2 else "@weight"


@dataclasses.dataclass(frozen=True)
class Resolved:
    """The prior of one tensor after all rules.

    Attributes:
        name: Dotted name of the tensor.
        shape: Its shape.
        specified: The prior as written in the rule.
        prior: The prior with every scale worked out for this tensor.
        source: The rule that it comes from, in words.
        inputs: Inputs that a unit sums over, see `layers.fan_in`; None for a vector.
        note: The assumption that `fan_in` makes about it.
    """

    name: str
    shape: torch.Size
    specified: AbstractPrior
    prior: AbstractPrior
    source: str
    inputs: float | None = None
    note: str = ""

    @property
    def flat_by_default(self) -> bool:
        """True for a normalisation layer's tensor to which no rule gave a prior."""
        return self.source == "default" and self.prior.flat


class PriorSpec:
    """Rules over the tensors of a module.

    Args:
        rules: Pattern → prior. A pattern is an exact name, a glob ("*.weight"; a leading "*." also matches no prefix),
            a module type, a role ("@weight", "@bias", "@norm"), or a callable (name, parameter) → prior or None; for a
            callable the prior beside it is not used and may be None. A single prior stands for {"*": prior}; pairs
            (pattern, prior) are taken too.

    Raises:
        ValueError: If a pattern or a prior is not of these kinds, or a pattern comes twice.

    >>> from torch import nn
    >>> spec = PriorSpec({"*.weight": Normal(0.5)})
    >>> [(r.name, str(r.prior), r.source) for r in spec.resolve(nn.Linear(2, 1))]
    [('weight', 'Normal(scale=0.5)', "glob '*.weight'"), ('bias', 'Normal(scale=1.0)', 'default')]
    """

    def __init__(self, rules: Rules | AbstractPrior | PriorSpec | None = None) -> None:
        given: Any = rules.rules if isinstance(rules, PriorSpec) else rules or {}
        if isinstance(given, AbstractPrior):
            given = {"*": given}
        self.rules: dict[Any, AbstractPrior | None] = checked_rules(given, "priors", "{'*.weight': priors.Normal(1.0)}")
        for pattern, prior in self.rules.items():
            _check_rule(pattern, prior)

    def resolve(self, module: nn.Module) -> list[Resolved]:
        """The prior of every trainable tensor of `module`.

        Args:
            module: Any module; parameters with requires_grad=False are constants and have no prior.

        Returns:
            One record a tensor, in the module's order.

        Raises:
            ValueError: If a rule matches no tensor, or a prior does not fit its tensor's shape.
        """
        tensors, inputs = list(trainable(module)), fan_ins(module)
        used: set[int] = set()
        resolved = []
        for tensor in tensors:
            rank, prior, source = (_DEFAULT, 0), _default(tensor), "default"
            for i, (pattern, given) in enumerate(self.rules.items()):
                found = _match(pattern, given, tensor)
                if found is None:
                    continue
                used.add(i)
                if found[0] >= rank:
                    (rank, prior), source = found, describe(pattern)
            number = inputs.get(id(tensor.parameter))
            try:
                concrete = settled(prior, tensor.parameter.shape, number)
            except ValueError as error:
                raise ValueError(f"{tensor.name}, {source}: {error}") from None
            note = stored_note(tensor.owner) if isinstance(prior, AbstractScaledPrior) and prior.fan_in is True else ""
            resolved.append(Resolved(tensor.name, tensor.parameter.shape, prior, concrete, source, number, note))
        for i, pattern in enumerate(self.rules):
            if i not in used:
                raise ValueError(_unmatched(pattern, tensors))
        return resolved

    def table(self, module: nn.Module) -> PriorTable:
        """The resolved priors of `module` as a table."""
        resolved = self.resolve(module)
        notes = layer_notes(module, resolved)
        return PriorTable(tuple(row(r, notes.get(r.name, "")) for r in resolved))

    def __and__(self, other: Any) -> PriorSpec:
        """The rules of both.

        Args:
            other: A specification or a mapping of rules.

        Returns:
            A new specification, the other's rules after this one's.

        Raises:
            ValueError: If both have a rule for one pattern.

        >>> (PriorSpec({"*.bias": Flat()}) & {"*.weight": Normal(0.5)}).to_dict()
        {'*.bias': 'Flat()', '*.weight': 'Normal(scale=0.5)'}
        """
        return PriorSpec([*self.rules.items(), *PriorSpec(other).rules.items()])  # pyright: ignore[reportArgumentType]

    def to_dict(self) -> dict[str, str]:
        """The rules as plain text, pattern → prior.

        Returns:
            A dictionary that `from_dict` reads.

        Raises:
            ValueError: If a rule is a module type or a callable, which text cannot carry.

        >>> PriorSpec.from_dict(PriorSpec({"*.weight": Normal(0.5)}).to_dict()).to_dict()
        {'*.weight': 'Normal(scale=0.5)'}
        """
        for pattern in self.rules:
            if not isinstance(pattern, str):
                raise ValueError(
                    f"a rule must be a name, glob or role to be written as text, but {describe(pattern)} came; "
                    "write it as a glob, or keep the specification in Python."
                )
        return {pattern: repr(prior) for pattern, prior in self.rules.items()}

    @classmethod
    def from_dict(cls, rules: Mapping[str, Any]) -> PriorSpec:
        """Rules from plain values.

        Args:
            rules: Pattern → prior, as text ("Normal(scale=0.5)") or as a mapping ({"prior": "Normal", "scale": 0.5}).

        Returns:
            The specification.

        Raises:
            ValueError: If a prior or one of its keys is unknown, or a number out of its range.
        """
        if not isinstance(rules, Mapping):
            raise ValueError(
                f"rules must be a mapping from patterns to priors, but {type(rules).__name__} came; write for example "
                "{'*.weight': 'Normal(scale=0.5)'}."
            )
        return cls({pattern: from_dict(prior) for pattern, prior in rules.items()})

    def __repr__(self) -> str:
        return f"PriorSpec({self.rules!r})"


def trainable(module: nn.Module) -> Iterator[Tensor]:
    """Every parameter of `module` that is to be learned, each once, in the module's order.

    Raises:
        ValueError: If a parameter is not real floating-point, or holds no numbers.
    """
    seen: set[int] = set()
    for prefix, owner in module.named_modules():
        for leaf, parameter in owner.named_parameters(recurse=False):
            name = dotted(prefix, leaf)
            if isinstance(parameter, nn.parameter.UninitializedParameter):
                raise ValueError(f"every parameter must have its shape, but {name} is lazy; run one batch through first.")
            if parameter.is_meta:
                raise ValueError(
                    f"every parameter must hold numbers, but {name} is on the meta device; module.to_empty(device='cpu') "
                    "and load or draw its weights first."
                )
            if parameter.dtype in (torch.float16, torch.bfloat16):
                raise ValueError(
                    f"every parameter must be float32 or float64, but {name} is {parameter.dtype}, whose three digits cannot "
                    "hold a log-density; convert it: module.float()."
                )
            if not parameter.is_floating_point():
                raise ValueError(
                    f"every parameter must be floating-point, but {name} is {parameter.dtype}; a prior is a density over "
                    "real numbers: make it a buffer (register_buffer) or convert it."
                )
            if id(parameter) not in seen and parameter.requires_grad:
                seen.add(id(parameter))
                yield Tensor(name, parameter, owner)


def settled(prior: AbstractPrior, shape: torch.Size, inputs: float | None) -> AbstractPrior:
    """The prior with every number computed for a tensor of this shape with so many inputs to a unit."""
    return (prior.counted(inputs) if isinstance(prior, AbstractScaledPrior) else prior).resolve(shape)


def layer_notes(module: nn.Module, resolved: Sequence[Resolved], row_shape: torch.Size | None = None) -> dict[str, str]:
    """Notes on tensors' priors by name, from the layers around them: masks on a weight, a batch normalisation after it.

    `resolved` are the tensors with their priors, of which fixed ones are left out; `row_shape` is that of one row, where known.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    >>> layer_notes(net, PriorSpec().resolve(net))["0.bias"]
    'shift-invariant: a BatchNorm follows'
    """
    unknown = {r.name for r in resolved if not r.prior.certain}
    found = mask_notes(module)
    for one in scale_invariant(module, row_shape):
        found |= {name: note for name, note in ((one.weight, SCALE_NOTE), (one.bias, SHIFT_NOTE)) if name in unknown}
    return found


def row(resolved: Resolved, note: str = "") -> PriorRow:
    """One resolved prior as the table shows it, with a note of the layer that it belongs to."""
    prior = resolved.prior
    scaled = isinstance(prior, AbstractScaledPrior)
    own = "normalisation layer: flat by default" if resolved.flat_by_default else "hierarchical" if prior.hyperprior else ""
    return PriorRow(
        tensor=resolved.name,
        shape=dimensions(resolved.shape),
        prior=str(resolved.specified),
        scale=prior.scale_text(resolved.shape, resolved.name) if scaled else "–",
        penalty=prior.penalty_text,
        source=resolved.source,
        note="; ".join(text for text in (own, resolved.note, note) if text),
    )


def checked_rules(given: Any, what: str, example: str) -> dict[Any, Any]:
    """Rules from a mapping or pairs as a dictionary, not yet checked one by one; `what` and `example` serve the error.

    Raises:
        ValueError: If it is neither, or a pattern comes twice.
    """
    pairs = given.items() if isinstance(given, Mapping) else given
    if isinstance(pairs, str) or not (isinstance(given, Mapping) or _is_pairs(pairs)):
        raise ValueError(
            f"{what} must be a mapping from patterns to priors, but {type(given).__name__} came; write for example {example}."
        )
    rules: dict[Any, Any] = {}
    for pattern, prior in pairs:
        if pattern in rules:
            raise ValueError(
                f"each rule must have a pattern of its own, but {describe(pattern)} came twice, with {rules[pattern]} and "
                f"{prior}; leave one out, or name the tensors apart."
            )
        rules[pattern] = prior
    return rules


def _is_pairs(given: Any) -> bool:
    return isinstance(given, Sequence) and all(isinstance(pair, Sequence) and len(pair) == 2 for pair in given)


def _default(tensor: Tensor) -> AbstractPrior:
    return {"@norm": Flat(), "@bias": Normal(1.0), "@weight": Normal(1.0, fan_in=True)}[tensor.role]


def _check_rule(pattern: Any, prior: Any) -> None:
    is_type = isinstance(pattern, type) and issubclass(pattern, nn.Module)
    if not (isinstance(pattern, str) or is_type or (callable(pattern) and not isinstance(pattern, type))):
        raise ValueError(
            f"a pattern must be a name, a glob, a role, a module type or a callable, but {pattern!r} came; "
            "write for example '*.weight' or torch.nn.Linear."
        )
    if isinstance(pattern, str) and pattern.startswith("@"):
        _check.one_of("a role", pattern, ROLES)
    by_callable = callable(pattern) and not is_type
    if not isinstance(prior, AbstractPrior) and not (by_callable and prior is None):
        raise ValueError(
            f"the rule for {describe(pattern)} must give a prior, but {prior!r} came; write for example priors.Normal(1.0)."
        )


def _match(pattern: Any, prior: Any, tensor: Tensor) -> tuple[tuple[int, int], AbstractPrior] | None:
    """The rule's rank and prior for this tensor, or None.

    Raises:
        ValueError: If a callable gives something else than a prior or None.
    """
    if isinstance(pattern, str):
        rank = _match_text(pattern, tensor)
    elif isinstance(pattern, type):
        rank = (_TYPE, len(pattern.__mro__)) if isinstance(tensor.owner, pattern) else None
    else:
        found = pattern(tensor.name, tensor.parameter)
        if found is not None and not isinstance(found, AbstractPrior):
            raise ValueError(
                f"a callable rule must return a prior or None, but {found!r} came for {tensor.name}; "
                "return for example priors.Normal(1.0)."
            )
        return None if found is None else ((_CALLABLE, 0), found)
    return None if rank is None else (rank, prior)


def _match_text(pattern: str, tensor: Tensor) -> tuple[int, int] | None:
    if pattern.startswith("@"):
        if pattern == tensor.role:
            return (_ROLE, 1 if pattern == "@norm" else 0)
        # a normalisation layer's tensors also are weights and biases, less specifically
        leaf = tensor.name.rpartition(".")[2]
        return (_ROLE, 0) if tensor.role == "@norm" and pattern == f"@{leaf}" else None
    return match_name(pattern, tensor.name)


def match_name(pattern: str, name: str) -> tuple[int, int] | None:
    """How specifically a name or glob matches a dotted name, a rank of which the higher wins; None where it does not.

    >>> match_name("0.weight", "0.weight") > match_name("*.weight", "0.weight") > match_name("*", "0.weight")
    True
    """
    if pattern == name:
        return (_EXACT, 0)
    globs = [pattern, pattern[2:]] if pattern.startswith("*.") else [pattern]
    if any(c in pattern for c in "*?[") and any(fnmatch.fnmatchcase(name, glob) for glob in globs):
        literal = sum(c not in "*?[]" for c in pattern)  # "*" is specific to no tensor: it ranks just above the default
        return (_GLOB, literal) if literal else (_DEFAULT, 1)
    return None


def describe(pattern: Any) -> str:
    """A pattern in words: "glob '*.weight'"."""
    if isinstance(pattern, str):
        return f"{'role' if pattern.startswith('@') else 'glob' if set('*?[') & set(pattern) else 'name'} {pattern!r}"
    name = getattr(pattern, "__name__", repr(pattern))
    return f"type {name}" if isinstance(pattern, type) else f"callable {name}"


def _unmatched(pattern: Any, tensors: list[Tensor]) -> str:
    head, names = f"a rule must match a trainable tensor, but {describe(pattern)} matches none", [t.name for t in tensors]
    if isinstance(pattern, str) and not pattern.startswith("@"):
        return f"{head}{_check.closest(pattern, names)}; the names are {', '.join(names[:12] + ['...'] * (len(names) > 12))}."
    if isinstance(pattern, str):
        return f"{head}; the roles in this module are {', '.join(sorted({t.role for t in tensors}))}."
    if isinstance(pattern, type):
        return f"{head}; the types that hold tensors here are {', '.join(sorted({type(t.owner).__name__ for t in tensors}))}."
    return f"{head}; let it return a prior for one name at least, or take it out."
