"""What a network does beside its forward pass: in training, with random numbers, and under which transforms of a derivative.

    vmap             many weights, or many rows' gradients, in one pass
    forward-mode     J v beside f in one pass, and H v by it
    double backward  H v by differentiating vᵀ∇L

A backward pass is all that is asked for. What else a module lacks is gone round: see `derivatives`.
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

    What its layers do is seen at once. What else an unknown network does is found on rows: until it has met any, it is taken
    to stand nothing but a backward pass, and to be in training what it is in evaluation.

    Args:
        module: The network; it is not changed, but for `protect`.

    Attributes:
        known: Whether all its layers are ordinary ones, about which nothing has to be found out.
        recomputes: Whether its backward pass runs parts of it again.
        own_code: Whether its own code makes another network of it in training, beside its layers.

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
        """That of the same network with other buffers, or with others of its layers in place of some; what was found stays."""
        found = copy.copy(self)
        found.module = module
        for name in ("normalising", "coupling", "draw"):
            vars(found).pop(name, None)
        return found

    # ── training ──

    @cached_property
    def normalising(self) -> dict[str, Any]:
        """The layers that normalise by the rows at hand while they are trained, by name: batch, instance with statistics.

        Those that the network keeps in evaluation mode are left out where they keep statistics: they are fixed affine maps.
        """
        return training.moving(self.module)

    @property
    def normalises_by(self) -> str:
        """What they are called: "batch normalisation", "instance normalisation", or both; an empty text where none is."""
        return " and ".join(dict.fromkeys(map(kinds.name_of, self.normalising.values())))

    @cached_property
    def coupling(self) -> dict[str, Any]:
        """Those of them that normalise a row by the rows beside it: batch normalisation."""
        return training.batchnorms(self.module)

    @property
    def statistics(self) -> dict[str, Any]:
        """Those of them that keep running statistics, which training writes."""
        return {name: layer for name, layer in self.normalising.items() if layer.running_mean is not None}

    @cached_property
    def draw(self) -> dict[str, Any]:
        """The layers that draw noise in training, by dotted name."""
        return training.in_training(self.module, kinds.draws)

    @property
    def deterministic(self) -> bool:
        """True where training is the same function as evaluation: nothing drawn, written, or normalised by the rows at hand."""
        return not (self.normalising or self.draw or self.own_code)

    @property
    def differing(self) -> tuple[str, ...]:
        """The kinds of layers that make training another function than evaluation; the network's own code has no name."""
        return (self.normalises_by,) * bool(self.normalising) + ("dropout",) * bool(self.draw)

    @property
    def differences(self) -> str:
        """What makes training another function than evaluation, in words; an empty text where nothing does.

        >>> Behaviour(nn.InstanceNorm1d(2, track_running_stats=True)).differences, Behaviour(nn.InstanceNorm1d(2)).differences
        ('instance normalisation', '')
        """
        return " and ".join(self.differing) or "the network itself" * self.own_code

    def training_copy(self, *, noise: bool = True) -> nn.Module:
        """A private copy in training mode.

        Args:
            noise: Otherwise everything but what normalises stands in evaluation mode: no dropout.

        Returns:
            The copy.
        """
        made = copied(self.module)
        return made.train() if noise else training.normalising(made)

    # ── evaluation ──

    @property
    def row_by_row(self) -> bool:
        """True where in evaluation each row's output is a function of that row alone."""
        return not batchnorm.stateless(self.module) and not any(isinstance(layer, ByBatch) for layer in self.module.modules())

    @property
    def untrained(self) -> list[str]:
        """Names of the layers whose running statistics no training has written, or hardly."""
        return batchnorm.untrained(self.module)

    @property
    def predicts_by(self) -> str | None:
        """By which statistics batch normalisation predicts, in words; None where there is none."""
        return batchnorm.described(self.module)

    def check_statistics(self) -> None:
        """Refuse to predict a row from the others beside it, and warn where statistics have never been taken.

        Raises:
            ValueError: If a batch normalisation keeps no statistics.

        Warns:
            UserWarning: If its statistics are those it was made with.
        """
        batchnorm.check_statistics(self.module)

    def evaluation(self) -> nn.Module:
        """The network that a prediction goes through: by the rows at hand where its statistics are not written yet.

        It may be the network itself, and is not to be changed.
        """
        return batchnorm.by_batch(self.module) if self.untrained else self.module

    def at_start(self, num_rows: int) -> nn.Module:
        """The network as a first training step on so many rows meets it, whatever statistics it came with."""
        return batchnorm.at_start(self.module, num_rows)

    def by_rows(self) -> nn.Module:
        """A copy that normalises by the rows it is given, as a training step does, and writes nothing.

        Raises:
            ValueError: If a normalisation has a forward of its own.
        """
        return batchnorm.by_batch(self.module)

    def tracking(self) -> nn.Module:
        """A copy in which every batch normalisation has a place for statistics, also those made without it."""
        return batchnorm.tracking(self.module)

    def protect(self, x: torch.Tensor) -> None:
        """See to it that the network leaves its inputs as they are, from now on; found out once.

        Args:
            x: Prepared rows.
        """
        if not self._protected:
            self._protected = True
            if not self.known or any(map(kinds.works_in_place, self.module.modules())):
                inputs.protect(self.module, x)

    # ── transforms ──

    def met(self, model: Model, x: torch.Tensor) -> Behaviour:
        """The same network's behaviour with these rows to find it out on.

        Args:
            model: The model that the network is in.
            x: Prepared rows; two of them are kept.

        Returns:
            A new one, which knows whether the backward pass runs the network again; the rest is found when it is asked for.

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
        """Take these rows to find the network out on, where there were none yet, as in a model that was loaded.

        Args:
            model: The model that the network is in.
            x: Prepared rows; two of them are kept.

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

        Args:
            feature: A transform, one of `FEATURES`, which is tried when it is first asked; or one of `reasons.REASONS`, told
                by what the layers do.

        Returns:
            The reason.
        """
        if feature in reasons.REASONS:
            return reasons.REASONS[feature](self)
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
