"""Whether a network for classes ends with softmax or sigmoid, which its likelihood would apply a second time.

Bernoulli: P(y = 1) = sigmoid(f),   Categorical: P(y = k) = softmax(f)ₖ;   f are logits, any real numbers.
softmax(log_softmax(f)) = softmax(f), so that a last LogSoftmax changes nothing; softmax and sigmoid do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bayesreg.likelihoods import AbstractLikelihood

_SOFTMAX = {"_softmax": "softmax", "softmax": "softmax", "_safe_softmax": "softmax"}
_LOG_SOFTMAX = {"_log_softmax": "log_softmax", "log_softmax": "log_softmax"}
_SIGMOID = {"sigmoid": "sigmoid", "sigmoid_": "sigmoid", "hardsigmoid": "hardsigmoid", "hardsigmoid_": "hardsigmoid"}
_LOG_SIGMOID = {"log_sigmoid_forward": "logsigmoid"}
_NAMES = _SOFTMAX | _LOG_SOFTMAX | _SIGMOID | _LOG_SIGMOID
_SAME_VALUES = {
    "view",
    "_unsafe_view",
    "reshape",
    "squeeze",
    "unsqueeze",
    "alias",
    "detach",
    "clone",
    "_to_copy",
    "t",
    "flatten",
}


class _Makers(TorchDispatchMode):
    """Records which operation made each tensor, seen through operations that only change shape or type."""

    def __init__(self) -> None:
        super().__init__()
        self._made: dict[int, str] = {}
        self._alive: list[torch.Tensor] = []  # an id is unique only while its tensor lives

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        first = made[0] if isinstance(made, tuple) and made else made
        if isinstance(first, torch.Tensor):
            name: str = str(func.overloadpacket.__name__)
            if name in _SAME_VALUES and args and isinstance(args[0], torch.Tensor):
                name = self._made.get(id(args[0])) or name
            self._made[id(first)] = name
            self._alive.append(first)
        return made

    def of(self, tensor: torch.Tensor) -> str:
        """The operation's name; an empty text where it is not known."""
        return self._made.get(id(tensor), "")


def checked_link(likelihood: AbstractLikelihood, forward: Callable[[float], torch.Tensor]) -> tuple[str, ...]:
    """Refuse a network that already ends with probabilities, where the likelihood makes them from logits.

    `forward(c)` is the output of a few rows, (B,) or (B, K), with the weights times c. Returned is a note where the network
    ends with a LogSoftmax, which changes nothing; else nothing.

    Raises:
        ValueError: If the network ends with probabilities.
    """
    if likelihood.labels is None or not likelihood.labels.normaliser:
        return ()
    own, name = likelihood.labels.normaliser, type(likelihood).__name__
    found = normaliser(forward, own == "sigmoid")
    if found == "log_softmax" and own == "softmax":
        return (f"the network ends with log_softmax, which {name}'s own softmax leaves as it is.",)
    if found:
        raise ValueError(
            f"{name} needs logits, to which it applies {own} itself, but the network ends with {found}, which gives "
            f"probabilities; leave the last {found if found in ('softmax', 'sigmoid') else 'step'} out."
        )
    return ()


def normaliser(forward: Callable[[float], torch.Tensor], binary: bool) -> str:
    """The last step of a network that gives probabilities: "softmax", "sigmoid", …, or an empty text.

    `forward` is as for `checked_link`; `binary` says that there is one logit a row.
    """
    with torch.no_grad():
        with _Makers() as heard:
            output = forward(1.0)
        if found := _NAMES.get(heard.of(output), ""):
            return found
        outputs = torch.stack([output, forward(-3.0)]).double()  # logits change their sign, probabilities do not
    if not binary and outputs.dim() == 3 and bool((outputs >= 0).all() & ((outputs.sum(-1) - 1).abs() < 1e-5).all()):
        return "a division by its sum"
    inside = bool(((outputs > 0) & (outputs < 1)).all()) and outputs[0].numel() > 1
    if binary and inside and not bool((outputs[0] == outputs[0].flatten()[0]).all()):
        return "a function with values between 0 and 1"
    return ""
