"""A multilayer perceptron, its layers in the conventional order: Linear → BatchNorm → activation → dropout; beside it a line.

f(x) = A x + W₂ a(W₁ x + b₁) + b₂        with `skip=True`, of one hidden layer
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from bayesreg import _check

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "elu": nn.ELU,
    "softplus": nn.Softplus,
}

_SKIP = "skip"


class MLP(nn.Sequential):
    """Linear → BatchNorm → activation → dropout for each hidden layer, and a linear layer at the end.

    A linear layer directly before a batch normalisation has no bias: subtracting the batch mean would cancel it, the data would
    say nothing about it, and its posterior would be its prior. The BatchNorm's own shift b replaces it.

    In training a BatchNorm uses mean and variance of the batch and updates its running averages; in evaluation it uses these.
    Only the learned scale a and shift b are the same in both. See `behaviour.batchnorm`.

    Args:
        inputs: D, the number of columns.
        hidden: Widths of the hidden layers; () for a linear model.
        outputs: K; for a network that also predicts the noise of each row, 2K.
        activation: A name ("relu", "tanh", "sigmoid", "gelu", "silu", "elu", "softplus"), or a function that makes a layer
            (`nn.Mish`).
        batchnorm: Normalise before each activation.
        dropout: Rate of the units dropped after each activation, none at 0; or a function that makes a layer
            (`layers.ConcreteDropout`).
        skip: Add a linear function of the inputs, `skip.weight` without a bias of its own: where the hidden layers' weights
            have a narrow prior the network then falls back to linear or logistic regression, and not to a constant.

    Raises:
        ValueError: If a width is no whole number >= 1, an activation is unknown, a rate is out of its range, or a line is to
            stand beside a network that is one.

    References:
        Ioffe and Szegedy (2015), Batch normalization: accelerating deep network training by reducing internal covariate shift.

    >>> [type(layer).__name__ for layer in MLP(3, (8,), batchnorm=True, dropout=0.1)]
    ['Linear', 'BatchNorm1d', 'ReLU', 'Dropout', 'Linear']
    >>> [name for name, _ in MLP(3, (8,), skip=True).named_parameters()]
    ['0.weight', '0.bias', '2.weight', '2.bias', 'skip.weight']
    >>> MLP(3, (8,), batchnorm=True)[0].bias is None, MLP(3, (8,))[0].bias is None
    (True, False)
    """

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int] = (50,),
        outputs: int = 1,
        activation: str | Callable[[], nn.Module] = "relu",
        batchnorm: bool = False,
        dropout: float | Callable[[], nn.Module] = 0.0,
        skip: bool = False,
    ) -> None:
        if not isinstance(hidden, Sequence) or isinstance(hidden, str):
            raise ValueError(f"hidden must be the widths of the hidden layers, but {hidden!r} came; pass for example (50, 50).")
        widths = [_check.count("a width", width) for width in (inputs, *hidden)]
        if isinstance(activation, str):
            activation = ACTIVATIONS[_check.one_of("activation", activation, ACTIVATIONS)]
        batchnorm, made = _check.flag("batchnorm", batchnorm), list[nn.Module]()
        for width, following in itertools.pairwise(widths):
            made.append(nn.Linear(width, following, bias=not batchnorm))
            made += [nn.BatchNorm1d(following)] if batchnorm else []
            made += [activation(), *_dropped(dropout)]
        super().__init__(*made, nn.Linear(widths[-1], _check.count("outputs", outputs)))
        if _check.flag("skip", skip):
            if not made:
                raise ValueError("skip=True needs a hidden layer, but hidden=() came, a linear model already; leave skip out.")
            self.add_module(_SKIP, nn.Linear(widths[0], outputs, bias=False))

    @classmethod
    def beside_a_line(cls, layers: Iterable[tuple[str, nn.Module]]) -> MLP:
        """The network of these layers by name, `skip` among them, as it stood in a file."""
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        for name, layer in layers:
            made.add_module(name, layer)
        return made

    @property
    def line(self) -> nn.Linear | None:
        """What is linear beside the layers; None where nothing is."""
        found: Any = self._modules.get(_SKIP)
        return found

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """The layers in sequence, and what is linear beside them."""
        if self.line is None:
            return super().forward(input)
        line, x = self.line(input), input  # first: the layer that runs last is the network's last
        for layer in self._modules.values():
            x = x if layer is self.line else layer(x)  # pyright: ignore
        return x + line

    def __getitem__(self, index: Any) -> Any:
        """A layer, or a `Sequential` of some: a part of the network is no network of its own with inputs and outputs."""
        if isinstance(index, slice):
            return nn.Sequential(OrderedDict(list(self._modules.items())[index]))  # pyright: ignore
        return super().__getitem__(index)


def in_sequence(module: nn.Module) -> bool:
    """Whether a pass through a module is one through each of its children in order, and nothing else.

    >>> in_sequence(MLP(3)), in_sequence(MLP(3, skip=True)), in_sequence(nn.Linear(3, 1))
    (True, False, False)
    """
    if type(module) is MLP:
        return module.line is None
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _dropped(dropout: float | Callable[[], nn.Module]) -> list[nn.Module]:
    if callable(dropout):
        return [dropout()]
    rate = _check.finite("dropout", dropout)
    if not 0 <= rate < 1:
        raise ValueError(f"dropout must be a rate, 0 <= dropout < 1, but {dropout!r} came; pass for example 0.05.")
    return [nn.Dropout(rate)] if rate else []
