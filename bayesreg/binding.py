"""How a model meets data: what fits it, in which units it works, and how many rows N it knows of."""

from __future__ import annotations

import abc
import copy
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Literal, Self

import torch
from torch import nn

from bayesreg import _check, reach
from bayesreg.autoscale import ratio_of
from bayesreg.behaviour import Behaviour, UnlikeTensor, first_line
from bayesreg.data import Data, Standardization, as_tensor, length_of, rows_of, unpack
from bayesreg.layers import MLP, Standardize
from bayesreg.layers.copying import copied
from bayesreg.layers.structure import dropouts, is_norm
from bayesreg.likelihoods import AbstractLikelihood
from bayesreg.link import normaliser
from bayesreg.threads import drawing


class AbstractBinding(abc.ABC):
    """The part of a model that checks data, brings them into its units and keeps N; `bind` and `fit` make it know them.

    Attributes:
        module: The network, a private copy.
        behaviour: What the network stands; it knows once the model is bound.
        constants: Weights that are certain, by name.
        outputs: Layers whose output has a prior.
        likelihood: What is assumed about the noise.
        standardize: Whether the model works on standardised data; "auto" until the data have decided it.
        unit_notes: What was decided about units, and why, a sentence each, once the model is bound.
        standardization: The training statistics, once the model is bound.
        num_data: N, once the model is bound.
        row_shape: Shape of one prepared row, once the model is bound.
    """

    module: nn.Module
    behaviour: Behaviour
    constants: dict[str, torch.Tensor]
    outputs: tuple[Any, ...]
    likelihood: AbstractLikelihood
    standardize: bool | Literal["auto"]
    standardization: Standardization | None = None
    unit_notes: tuple[str, ...] = ()  # why the model standardises, or why it should
    num_data: int | None = None
    row_shape: torch.Size | None = None
    differs_in_training: bool = False  # found when the model is bound; `is_deterministic` counts it in

    @property
    @abc.abstractmethod
    def waits_for_scale(self) -> bool:
        """True where a prior's scale is decided by the data's."""

    @abc.abstractmethod
    def autoscaled(self, ratio: torch.Tensor) -> Self:
        """The same model with such scales settled."""

    @abc.abstractmethod
    def forward_with_activity(self, values: Mapping[str, torch.Tensor], x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The network's output and the log-density of its activations."""

    @abc.abstractmethod
    def check_activity(self, x: torch.Tensor) -> None:
        """Refuse activations outside the support of their prior, at the module's present weights."""

    @property
    @abc.abstractmethod
    def is_deterministic(self) -> bool:
        """False where training differs from evaluation."""

    @abc.abstractmethod
    def forward(self, values: Mapping[str, torch.Tensor], x: torch.Tensor, module: nn.Module | None = None) -> torch.Tensor:
        """The network's output."""

    @abc.abstractmethod
    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """The same model with its module on another device, or in another floating type."""

    @abc.abstractmethod
    def weights(self) -> dict[str, torch.Tensor]:
        """The module's present weights that are unknowns, by name."""

    @cached_property  # `to` forgets it
    def like(self) -> torch.Tensor:
        """An empty tensor with the module's dtype and device."""
        first = next(self.module.parameters())
        return torch.empty(0, dtype=first.dtype, device=first.device)

    def bind(self, X: Any, y: Any = None, *, num_data: int | None = None) -> Self:
        """The same model, knowing N and, when it standardises, the training statistics. `fit` calls this.

        Args:
            X: Training inputs, as for `fit`.
            y: Training targets, as for `fit`.
            num_data: N, where a loader cannot tell.

        Returns:
            A new model; this one is unchanged.
        """
        with drawing(0):  # a loader draws where its own numbers begin
            return self.ingest(X, y, num_data=num_data)[0]

    def ingest(self, X: Any, y: Any = None, *, num_data: int | None = None) -> tuple[Self, Data]:
        """Check the training data, bind the model to them, and prepare them.

        Args:
            X: Training inputs: NumPy array, tensor, data frame, `Dataset` or `DataLoader`.
            y: Training targets; None for a data set or loader.
            num_data: N, where a loader cannot tell.

        Returns:
            The bound model and the prepared rows.

        Raises:
            ValueError: If the data are not finite numbers of one length that fit the module and the likelihood.
        """
        came = rows_of(X, y)
        bound = copy.copy(self)
        streamed = not isinstance(came, tuple)
        raw = came if streamed else [came]
        if streamed:
            rows = length_of(came, num_data)
        else:
            rows = len(came[0])
            if num_data not in (None, rows):
                raise ValueError(
                    f"num_data must be the number of rows, but {num_data} came for {rows} rows; "
                    "leave it out, or pass a DataLoader when these rows are only a part."
                )
        bound.num_data = rows
        bound._decide_units(raw)
        if bound.standardize:
            bound.standardization = self._statistics(raw)
        if self.waits_for_scale:
            ratio = ratio_of(self.module, self._statistics(raw), bool(bound.standardize), self.likelihood)
            bound = bound.autoscaled(ratio)
        batch = next(iter(raw), None)
        if batch is None:
            raise ValueError("a loader must give rows, but it gave no batch; check its batch_size, drop_last and data set.")
        first = bound.prepare(*unpack(batch))
        bound.row_shape = first[0].shape[1:]
        output = bound._check_forward(*first)
        bound.behaviour = bound._met(first[0])
        bound._check_link(first[0][:8])
        bound.differs_in_training = bound._check_training(first[0])
        if streamed:

            def prepare(x: Any, y: Any) -> Any:
                x, y = bound.prepare(x, y)
                self.likelihood.check_output(output, y)
                return x, y

            return bound, Data(rows, None, None, came, prepare)
        return bound, Data(rows, *first)

    def _decide_units(self, raw: Any) -> None:
        """Settle `standardize="auto"` by the first rows, and say what was decided, or what a choice costs.

        Raises:
            ValueError: If the rows fit neither module nor likelihood.
        """
        self.unit_notes = ()
        batch = next(iter(raw), None)
        if self.standardize is True or batch is None:
            return
        plain = copy.copy(self)
        plain.standardize, plain.standardization, plain.row_shape = False, None, None
        x, y = plain.prepare(*unpack(batch))
        plain._check_forward(x, y)
        about_y, about_x = reach.out_of_reach(plain, x, y)  # pyright: ignore[reportArgumentType]
        if self.standardize == "auto" and self.likelihood.location_scale and bool((y == y[:1]).all()):
            self.standardize = False  # what does not vary has no sd
            if about_y:
                self.unit_notes = (
                    f"all targets are equal and cannot be standardised, but {about_y}; check the target column.",
                )
        elif self.standardize == "auto":
            self.standardize = bool(about_y or about_x)
            why = "; ".join(filter(None, (about_y, about_x)))
            if why:
                self.unit_notes = (
                    f"standardised by default: {why}; priors speak about standardised data (standardize=False keeps the data's "
                    "own units).",
                )
        elif about_y:
            self.unit_notes = (f"standardize=False, but {about_y}; take standardize=True, or priors as wide as the targets.",)

    def _statistics(self, raw: Any) -> Standardization:
        pairs = (self._checked(*unpack(batch)) for batch in raw)
        return Standardization.of(pairs, self.likelihood.location_scale).to(self.like.device)

    def prepare(self, x: Any, y: Any = None) -> Any:
        """Data in the model's dtype, on its device, and in the units that it works in.

        Args:
            x: Inputs (B, ...) in their own units.
            y: Targets in their own units, or None.

        Returns:
            Prepared x, or the pair of prepared x and y when y is given.

        Raises:
            ValueError: If the model standardises but has not seen training data, or the data do not fit.
        """
        if self.standardize is True and self.standardization is None:
            raise ValueError(
                "a model with standardize=True must know its training statistics, but it has seen no data; "
                "call model = model.bind(X, y) first (fit does so)."
            )
        x, y = self._checked(x, y)
        if self.row_shape is not None and (x.dim() != len(self.row_shape) + 1 or x.shape[1] != self.row_shape[0]):
            raise ValueError(
                f"each row of X must have shape {tuple(self.row_shape)}, as in the fit, but {tuple(x.shape[1:])} came; pass "
                "the same columns, and a single row as an array of shape (1, ...)."
            )
        if self.standardization is not None:
            # in float64, and only then in the model's type: an offset of 10⁶ sds would eat a float32's digits
            x = x if self._takes_integers else self.standardization.x(x.double())
            y = y if y is None or not self.likelihood.location_scale else self.standardization.y(y)
        return self._cast(x) if y is None else (self._cast(x), self._cast(y))

    @property
    def log_jacobian(self) -> float:
        """What standardisation adds to the log-density of one row, in nats."""
        if self.standardization is None or not self.likelihood.location_scale:
            return 0.0
        return self.standardization.log_jacobian

    def total(self, num_data: int | None = None) -> int:
        """N: what is given, else what the model is bound to.

        Raises:
            ValueError: If neither is known; a batch cannot tell.
        """
        if num_data is None and self.num_data is None:
            raise ValueError(
                "N must be known, since it weighs the data against the prior, but the model has seen no data; pass num_data=N, "
                "or call model = model.bind(X, y) first."
            )
        return self.num_data if num_data is None else _check.count("num_data", num_data)  # pyright: ignore

    @cached_property  # a model's copies have modules of the same kinds
    def _takes_integers(self) -> bool:
        return any(isinstance(m, (nn.Embedding, nn.EmbeddingBag)) for m in self.module.modules())

    def _cast(self, values: torch.Tensor) -> torch.Tensor:
        """In the model's dtype, but whole numbers stay whole: class labels, and indices of an embedding."""
        return values.to(self.like.dtype) if values.is_floating_point() else values

    def _checked(self, x: Any, y: Any) -> Any:
        """Checked tensors on the model's device, in the data's own units and type; x floating unless it holds indices.

        Raises:
            ValueError: If the rows do not match, or the target does not fit the likelihood.
        """
        device = self.like.device
        x = as_tensor("X", x)
        x = (x[:, None] if x.dim() == 1 else x).to(device)
        x = x if self._takes_integers or x.is_floating_point() else x.double()
        if y is not None:
            y = as_tensor("y", y).to(device)
            y = y[:, 0] if y.dim() == 2 and y.shape[1] == 1 else y
            y = self.likelihood.target(y if y.is_floating_point() else y.long(), torch.float64)
            if len(x) != len(y):
                raise ValueError(f"X and y must have one row for each other, but {len(x):,} and {len(y):,} rows came.")
        return x, y

    def _check_forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        values = self.weights()
        try:
            with torch.no_grad():
                output = self.forward(values, x[:2])
        except UnlikeTensor:
            raise
        except Exception as error:  # a module may raise anything
            advice = "check the first layer's number of inputs" if isinstance(error, RuntimeError) else "see module(X[:2])"
            raise ValueError(
                f"the module must accept rows of shape {tuple(x.shape[1:])}, but it failed on them: {first_line(error)}; "
                f"{advice}."
            ) from error
        if self.outputs:
            self.forward_with_activity(values, x[:2])
        if len(output) != len(x[:2]):
            raise ValueError(f"the module must give one output a row, but {len(x[:2])} rows gave {tuple(output.shape)}.")
        self.likelihood.check_output(output, y)
        self.check_activity(x[:1024])
        return _check.all_finite("the network's output at its first weights", output)

    def _check_link(self, x: torch.Tensor) -> None:
        """Refuse a network for classes that makes probabilities itself, where the likelihood would do so again.

        Raises:
            ValueError: If so; a last LogSoftmax is none, and is noted.
        """
        if self.likelihood.kind == "regression":
            return
        weights, binary = self.weights(), self.likelihood.kind == "binary"
        found = normaliser(lambda factor: self.forward({k: factor * w for k, w in weights.items()}, x.clone()), binary)
        likelihood, own = type(self.likelihood).__name__, "sigmoid" if binary else "softmax"
        if found == "log_softmax" and not binary:
            self.unit_notes += (f"the network ends with log_softmax, which {likelihood}'s own softmax leaves as it is.",)
        elif found:
            raise ValueError(
                f"{likelihood} needs logits, of which its own {own} makes probabilities, but the network ends with {found}, so "
                f"that they would be squeezed twice; leave the last {found if found in ('softmax', 'sigmoid') else 'step'} out."
            )

    def _met(self, x: torch.Tensor) -> Behaviour:
        """The network's behaviour, to be found out on two of these rows.

        Raises:
            ValueError: If its output has no gradient, or computes its hidden layers again where these have priors.
        """
        found = self.behaviour.met(self, x)
        if found.recomputes and self.outputs:
            raise ValueError(
                f"a prior on outputs needs activations that stay, but {type(self.module).__name__} computes parts of itself "
                "again in its backward pass (activation checkpointing); take the checkpoints out, or leave `outputs` out."
            )
        return found

    def _check_training(self, x: torch.Tensor) -> bool:
        """True where the module gives something else in training mode, or changes a buffer, though no layer of torch's does.

        Batch normalisation stands in evaluation mode here, so that what is left is the module's own doing.

        Raises:
            ValueError: If its forward draws random numbers of its own.
        """
        if dropouts(self.module) or all(type(layer) in _PLAIN or is_norm(layer) for layer in self.module.modules()):
            return False
        values, rows, module = self.weights(), x[:8], copied(self.module).train()
        for layer in filter(is_norm, module.modules()):
            layer.eval()
        before = {name: buffer.clone() for name, buffer in module.named_buffers()}
        if draws_numbers(lambda: self.forward(values, rows, copied(module))):
            raise ValueError(
                f"randomness in training must be that of a layer (nn.Dropout), but the forward of {type(self.module).__name__} "
                "draws numbers of its own (functional dropout?), which no fit could switch; put an nn.Dropout in its place."
            )
        with torch.no_grad(), drawing(0):
            trained, settled = self.forward(values, rows, module), self.forward(values, rows)
        moved = any(not torch.equal(buffer, before[name]) for name, buffer in module.named_buffers())
        return moved or not torch.allclose(trained, settled, rtol=1e-5, atol=1e-7)


def draws_numbers(call: Callable[[], torch.Tensor]) -> bool:
    """True where a pass through a network depends on the random state.

    Args:
        call: One pass, which changes nothing; torch's random state is as it was afterwards.
    """
    with torch.no_grad(), drawing(0):
        return not torch.equal(call(), call())


# layers that are in training what they are in evaluation
_PLAIN = (
    nn.Sequential,
    MLP,
    Standardize,
    nn.Linear,
    nn.Flatten,
    nn.Identity,
    nn.Conv1d,
    nn.Conv2d,
    nn.Tanh,
    nn.ReLU,
    nn.Sigmoid,
    nn.SiLU,
    nn.GELU,
    nn.Softplus,
    nn.ELU,
    nn.LeakyReLU,
    nn.LayerNorm,
    nn.Embedding,
)
