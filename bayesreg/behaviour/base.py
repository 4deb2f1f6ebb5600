"""How a network behaves beyond its forward pass: in training, with random numbers, and under transforms of torch.func.

    vmap             many weights, or many rows' gradients, in one pass
    forward-mode     J v with f in one pass, and H v by it
    double backward  H v by differentiating vᵀ∇L

Only a backward pass is required. Where a module does not support a transform, `derivatives` takes a slower way.
"""

from __future__ import annotations

import copy
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from bayesreg.behaviour import batchnorm, inputs, kinds, reasons, training
from bayesreg.behaviour.rows_at_hand import ByBatch
from bayesreg.behaviour.trial import DOUBLE, FEATURES, FORWARD, VMAP, Model, Trial, check_backward, check_rows, widest
from bayesreg.layers.copying import copied

PIECEWISE = {"relu", "relu_", "leaky_relu", "prelu", "threshold", "hardtanh", "hardsigmoid", "hardswish", "abs", "maximum"}
PIECEWISE |= {"minimum", "clamp", "clamp_min", "clamp_max", "max_pool2d_with_indices", "softshrink", "hardshrink", "max", "min"}


class Operations(TorchDispatchMode):
    """Records which operations run inside the block, and the floating types of their results.

    Attributes:
        names: Names of the operations.
        types: Floating types of their results.
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
    """How one network behaves beyond its forward pass: the one place to ask, instead of looking at the network's layers.

    What its layers do is known at once. What other code in a network does is tried on rows: until it has seen any, only a
    backward pass is assumed, and the same function in training as in evaluation.

    Args:
        module: The network; only `protect` changes it.

    Attributes:
        known: Whether all its layers are ordinary ones, so that nothing has to be tried.
        recomputes: Whether its backward pass runs parts of it again.
        own_code: Whether its own code, apart from its layers, computes another function in training.

    >>> net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Dropout(0.1))
    >>> found = Behaviour(net)
    >>> found.deterministic, found.differences, found.why_not("vmap") is None
    (False, 'batch normalisation and dropout', True)
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.known = all(kinds.is_known(layer) for layer in module.modules())
        self.recomputes = self.own_code = self._protected = False
        self._reasons: dict[str, str | None] = {}
        self._model: Model | None = None
        self._rows: torch.Tensor | None = None

    def over(self, module: nn.Module) -> Behaviour:
        """The behaviour of the same network with other buffers or some layers replaced; what was tried is kept."""
        found = copy.copy(self)
        found.module = module
        for name in ("normalising", "coupling", "draw"):
            vars(found).pop(name, None)
        return found

    # ── training ──

    @cached_property
    def normalising(self) -> dict[str, Any]:
        """The layers that normalise by the current rows in training, by name: batch norms, and instance norms with statistics.

        A layer that keeps statistics and that the network holds in evaluation mode is left out: it is a fixed affine map.
        """
        return training.moving(self.module)

    @property
    def normalises_by(self) -> str:
        """The name of these layers: "batch normalisation", "instance normalisation", or both; empty where there is none."""
        return " and ".join(dict.fromkeys(map(kinds.name_of, self.normalising.values())))

    @cached_property
    def coupling(self) -> dict[str, Any]:
        """The normalising layers that use the other rows of the batch: batch normalisation."""
        return training.batchnorms(self.module)

    @property
    def statistics(self) -> dict[str, Any]:
        """The normalising layers that keep running statistics, which training updates."""
        return {name: layer for name, layer in self.normalising.items() if layer.running_mean is not None}

    @cached_property
    def draw(self) -> dict[str, Any]:
        """The layers that draw random masks in training, by dotted name."""
        return training.in_training(self.module, kinds.draws)

    @property
    def deterministic(self) -> bool:
        """True where training and evaluation are one function: no random masks, no batch statistics, no updated buffers."""
        return not (self.normalising or self.draw or self.own_code)

    @property
    def differing(self) -> tuple[str, ...]:
        """The kinds of layers that differ between training and evaluation; the network's own code has no name."""
        return (self.normalises_by,) * bool(self.normalising) + ("dropout",) * bool(self.draw)

    @property
    def differences(self) -> str:
        """What differs between training and evaluation, in words; empty where nothing does.

        >>> Behaviour(nn.InstanceNorm1d(2, track_running_stats=True)).differences, Behaviour(nn.InstanceNorm1d(2)).differences
        ('instance normalisation', '')
        """
        return " and ".join(self.differing) or "the network itself" * self.own_code

    def training_copy(self, *, noise: bool = True) -> nn.Module:
        """A private copy in training mode; without `noise`, only the normalising layers are in training mode: no dropout."""
        made = copied(self.module)
        return made.train() if noise else training.normalising(made)

    # ── evaluation ──

    @property
    def row_by_row(self) -> bool:
        """True where in evaluation each row's output is a function of that row alone."""
        return not batchnorm.stateless(self.module) and not any(isinstance(layer, ByBatch) for layer in self.module.modules())

    @property
    def untrained(self) -> list[str]:
        """Names of the layers whose running statistics no training step, or hardly one, has updated."""
        return batchnorm.untrained(self.module)

    @property
    def predicts_by(self) -> str | None:
        """The statistics that batch normalisation uses at prediction, in words; None where there is no batch normalisation."""
        return batchnorm.described(self.module)

    def check_statistics(self) -> None:
        """Refuse a prediction that would depend on the other rows, and warn where statistics are still the initial ones.

        Raises:
            ValueError: If a batch normalisation keeps no statistics.

        Warns:
            UserWarning: If its statistics are still the initial ones.
        """
        batchnorm.check_statistics(self.module)

    def evaluation(self) -> nn.Module:
        """The network for predictions; it normalises by the current rows while its running statistics are not trained.

        It may be the network itself: do not change it.
        """
        return batchnorm.by_batch(self.module) if self.untrained else self.module

    def at_start(self, num_rows: int) -> nn.Module:
        """The network as the first training step on `num_rows` rows sees it, whatever statistics it came with."""
        return batchnorm.at_start(self.module, num_rows)

    def by_rows(self) -> nn.Module:
        """A copy that normalises by the rows it is given, as a training step does, and updates no buffer.

        Raises:
            ValueError: If a normalisation has a forward of its own.
        """
        return batchnorm.by_batch(self.module)

    def tracking(self) -> nn.Module:
        """A copy in which every batch normalisation has buffers for statistics, also layers made without them."""
        return batchnorm.tracking(self.module)

    def protect(self, x: torch.Tensor) -> None:
        """Make sure, once, that the network does not write into its inputs; one pass over two prepared rows tells."""
        if not self._protected:
            self._protected = True
            if not self.known or any(map(kinds.works_in_place, self.module.modules())):
                inputs.protect(self.module, x)

    # ── transforms ──

    def met(self, model: Model, x: torch.Tensor) -> Behaviour:
        """The behaviour of the same network, tried on these prepared rows, of which two are kept.

        It knows whether the backward pass runs the network again; everything else is tried when it is first asked for.

        Raises:
            ValueError: If the output has no gradient with respect to any weight, the backward pass fails, the network fails on
                another number of rows, or it draws numbers that belong to no layer.
        """
        found = Behaviour(model.module)
        found._protected = self._protected
        if not found.known:
            check_rows(model, x)
        found.meet(model, x)
        return found

    def meet(self, model: Model, x: torch.Tensor) -> None:
        """Take two of these prepared rows to try the network on, where there were none yet, as in a loaded model.

        Raises:
            ValueError: As for `met`.
        """
        if self.known or self._rows is not None:
            return
        self.recomputes, self.own_code = check_backward(model, x[:2]), training.own_code(model, x)
        self._reasons.clear()
        self._model, self._rows = model, x[:2]
        vars(self).pop("_trial", None)
        vars(self).pop("_heard", None)
        vars(self).pop("_eps", None)

    def why_not(self, feature: str) -> str | None:
        """Why something cannot be done with the network, in words, or None where it can.

        `feature` is one of `FEATURES`, a transform that is tried when first asked for, or one of `reasons.REASONS`, which
        follows from the layers.
        """
        if feature in reasons.REASONS:
            return reasons.REASONS[feature](self)
        if feature not in self._reasons:
            self._reasons[feature] = self._tried(feature)
        return self._reasons[feature]

    def stands(self, *features: str) -> bool:
        """True where the network supports all these features."""
        return all(self.why_not(feature) is None for feature in features)

    @property
    def transforms(self) -> dict[str, str | None]:
        """Each transform with the reason why the network does not support it, or None."""
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
        """The operations of one pass, in double precision where the network supports it."""
        heard = Operations()
        if self._model is not None and self._rows is not None:
            model, x = widest(self._model, self._rows)
            with torch.no_grad(), heard:
                model.forward(model.weights(), x)
        return heard

    @cached_property
    def _eps(self) -> float:
        """The coarsest rounding inside the network, also where everything outside it is in double precision."""
        types = {torch.float64} if self.known else self._heard.types
        return max((torch.finfo(dtype).eps for dtype in types), default=torch.finfo(torch.float64).eps)

    def eps(self, dtype: torch.dtype) -> float:
        """The relative rounding of outputs and gradients where the weights are of this type."""
        return max(torch.finfo(dtype).eps, self._eps)

    def curvature_error(self, dtype: torch.dtype) -> float:
        """The relative error of a second derivative: of rounding, or of the finite differences in its place."""
        eps = self.eps(dtype)
        return 100 * (eps ** (2 / 3) if self.approximately else eps)

    @property
    def approximately(self) -> str:
        """How second derivatives are approximated, as words after their name; empty where they are exact."""
        return "" if self.stands(DOUBLE) or self.stands(FORWARD) else " by differences of gradients"
