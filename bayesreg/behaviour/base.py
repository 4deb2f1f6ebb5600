"""Which ways of differentiating a module stands, found on two rows before a fit, with numbers that are compared.

    vmap             many weights, or many rows' gradients, in one pass
    forward-mode     J v beside f in one pass, and H v by it
    double backward  H v by differentiating vᵀ∇L

A backward pass is all that is asked for. What else a module lacks is gone round: see `derivatives`.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from bayesreg.behaviour.batchnorm import ByBatch
from bayesreg.behaviour.trial import DOUBLE, FEATURES, FORWARD, VMAP, Model, Trial, check_backward, check_rows, widest
from bayesreg.layers import MLP, AbstractNoise, Standardize

# layers that stand all of them, which a test holds; of other modules it is found out
KNOWN: tuple[type[nn.Module], ...] = (
    nn.Sequential,
    MLP,
    Standardize,
    nn.Linear,
    nn.Bilinear,
    nn.Flatten,
    nn.Unflatten,
    nn.Identity,
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.AvgPool1d,
    nn.AvgPool2d,
    nn.MaxPool1d,
    nn.MaxPool2d,
    nn.AdaptiveAvgPool2d,
    nn.BatchNorm1d,
    nn.BatchNorm2d,
    nn.BatchNorm3d,
    ByBatch,
    nn.LayerNorm,
    nn.GroupNorm,
    nn.Dropout,
    nn.Dropout2d,
    nn.Embedding,
    nn.Tanh,
    nn.ReLU,
    nn.ReLU6,
    nn.Sigmoid,
    nn.SiLU,
    nn.GELU,
    nn.Softplus,
    nn.Softsign,
    nn.ELU,
    nn.LeakyReLU,
)


PIECEWISE = {"relu", "relu_", "leaky_relu", "prelu", "threshold", "hardtanh", "hardsigmoid", "hardswish", "abs", "maximum"}
PIECEWISE |= {"minimum", "clamp", "clamp_min", "clamp_max", "max_pool2d_with_indices", "softshrink", "hardshrink", "max", "min"}


class Operations(TorchDispatchMode):
    """Hears which operations run inside, and in which floating types.

    Attributes:
        names: Of the operations.
        types: Of what they give.
    """

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()
        self.types: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self.names.add(func.overloadpacket.__name__)
        for value in found if isinstance(found, (tuple, list)) else [found]:
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                self.types.add(value.dtype)
        return found


class Behaviour:
    """What one network does beside its forward pass; asked of this face, not of the network's layers.

    Until it has met rows, an unknown network is taken to stand nothing but a backward pass.

    Args:
        module: The network.

    >>> Behaviour(nn.Linear(3, 1)).why_not("vmap") is None
    True
    """

    def __init__(self, module: nn.Module) -> None:
        self.known = all(is_known(layer) for layer in module.modules())
        self.recomputes = False
        self._reasons: dict[str, str | None] = {}
        self._model: Model | None = None
        self._rows: torch.Tensor | None = None

    def met(self, model: Model, x: torch.Tensor) -> Behaviour:
        """The same network's behaviour with these rows to find it out on.

        Args:
            model: The model that the network is in.
            x: Prepared rows; two of them are kept.

        Returns:
            A new one, which knows whether the backward pass runs the network again; the rest is found when it is asked for.

        Raises:
            ValueError: If the output has no gradient with respect to any weight, the backward pass fails, or the network
                fails on another number of rows.
        """
        found = Behaviour(model.module)
        if not found.known:
            check_rows(model, x)
        found.meet(model, x)
        return found

    def meet(self, model: Model, x: torch.Tensor) -> None:
        """Take these rows to find the network out on, where there were none yet, as in a model that was loaded.

        Args:
            model: The model that the network is in.
            x: Prepared rows; two of them are kept.

        Raises:
            ValueError: As for `met`.
        """
        if self.known or self._rows is not None:
            return
        self.recomputes = check_backward(model, x[:2])
        self._reasons.clear()
        self._model, self._rows = model, x[:2]
        vars(self).pop("_trial", None)
        vars(self).pop("_heard", None)
        vars(self).pop("_eps", None)

    def why_not(self, feature: str) -> str | None:
        """Why the network does not stand a transform, in words, or None where it does; tried when it is first asked.

        Args:
            feature: One of `FEATURES`.

        Returns:
            The reason.
        """
        if feature not in self._reasons:
            self._reasons[feature] = self._tried(feature)
        return self._reasons[feature]

    def stands(self, *features: str) -> bool:
        """True where the network stands all of them."""
        return all(self.why_not(feature) is None for feature in features)

    @property
    def transforms(self) -> dict[str, str | None]:
        """Each transform with the reason why the network does not stand it, or None."""
        return {feature: self.why_not(feature) for feature in FEATURES}

    @property
    def traceable(self) -> bool:
        """True where gradients can be taken by a transform, as a compiled step takes them."""
        return not self.recomputes and (self.stands(VMAP) or self.stands(FORWARD))

    def _tried(self, feature: str) -> str | None:
        if self.known:
            return None
        return "the network has not met any rows yet" if self._trial is None else self._trial.why_not(feature)

    @cached_property
    def _trial(self) -> Trial | None:
        if self._model is None or self._rows is None:
            return None
        return Trial(self._model, self._rows, self._eps, bool(self._heard.names & PIECEWISE))

    @cached_property
    def _heard(self) -> Operations:
        """The operations of one pass in double precision, where the network has it."""
        heard = Operations()
        if self._model is not None and self._rows is not None:
            model, x = widest(self._model, self._rows)
            with torch.no_grad(), heard:
                model.forward(model.weights(), x)
        return heard

    @cached_property
    def _eps(self) -> float:
        """The coarsest rounding inside the network, also where everything around it is in double precision."""
        types = {torch.float64} if self.known else self._heard.types
        return max((torch.finfo(dtype).eps for dtype in types), default=torch.finfo(torch.float64).eps)

    def eps(self, dtype: torch.dtype) -> float:
        """The relative rounding of outputs and gradients where the weights are of this type."""
        return max(torch.finfo(dtype).eps, self._eps)

    def curvature_error(self, dtype: torch.dtype) -> float:
        """The relative error of a second derivative: of rounding, or of the differences that stand for it."""
        eps = self.eps(dtype)
        return 100 * (eps ** (2 / 3) if self.approximately else eps)

    @property
    def approximately(self) -> str:
        """How second derivatives are found where they are approximate, to be said after their name; else an empty text."""
        return "" if self.stands(DOUBLE) or self.stands(FORWARD) else " by differences of gradients"


def is_known(layer: nn.Module) -> bool:
    """True for a layer of a type that stands everything, as it left its factory: without hooks or a forward of its own."""
    hooks = layer._forward_hooks or layer._forward_pre_hooks or layer._backward_hooks
    if isinstance(layer, nn.Embedding) and (layer.sparse or layer.max_norm is not None):
        return False
    return (type(layer) in KNOWN or isinstance(layer, AbstractNoise)) and not hooks and "forward" not in vars(layer)
