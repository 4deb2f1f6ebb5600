"""A model bound to data: whether these fit it, the units that it works in, and the number of rows N."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, Self

import torch
from torch.utils.data import DataLoader, Dataset

from bayesreg import _check
from bayesreg._text import some
from bayesreg._threads import drawing
from bayesreg.behaviour import Behaviour, UnlikeTensor, first_line
from bayesreg.behaviour.inputs import Indices, has_embedding, index_columns, indices_of
from bayesreg.behaviour.link import checked_link
from bayesreg.data.row_terms import RowTerms
from bayesreg.data.rows import (
    Data,
    Standardization,
    all_inputs,
    as_inputs,
    as_targets,
    names_of,
    order_by_name,
    pair_of,
    plan_of,
    rows_of,
    unpack,
)
from bayesreg.likelihoods.by_row import centred, with_rows
from bayesreg.model import reach
from bayesreg.model.autoscale import ratio_of
from bayesreg.model.declared import AbstractModel
from bayesreg.operators import Observed

BOUND = ("unit_notes", "num_data", "row_shape", "feature_names", "target_names")  # set by binding to data


class AbstractBoundModel(AbstractModel):
    """The part of a model that checks data, converts their units and keeps N; `bind` and `fit` set these.

    Attributes:
        standardization: The training statistics, once the model is bound.
        unit_notes: The choice of units and its reason, a sentence each, once the model is bound.
        num_data: N, once the model is bound.
        row_shape: Shape of one prepared row, once the model is bound.
        feature_names: Names of the input columns, where a data frame was fitted; others are matched to them by name.
        target_names: Names of the targets, where a data frame of several was fitted.
    """

    standardization: Standardization | None = None
    unit_notes: tuple[str, ...] = ()
    num_data: int | None = None
    row_shape: torch.Size | None = None
    feature_names: tuple[str, ...] | None = None
    target_names: tuple[str, ...] | None = None

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """A new model with its module on another device or in another floating type; None keeps the present one."""
        moved = super().to(device, dtype)
        if self.standardization is None:
            return moved
        return moved._changed(standardization=self.standardization.to(moved.like.device))

    def with_rows(self, num_data: int) -> Self:
        """The same model for N rows of the same data; this one is unchanged."""
        return self._changed(num_data=num_data)

    def with_names(self, features: tuple[str, ...] | None, targets: tuple[str, ...] | None) -> Self:
        """The same model with names for its input columns and its targets; this one is unchanged."""
        return self._changed(feature_names=features, target_names=targets)

    def with_binding(self, known: Mapping[str, Any], standardization: Standardization | None) -> Self:
        """The same model with the data attributes in `BOUND`, and the standardisation, of another; this one is unchanged."""
        return self._in_units(standardization)._changed(**{name: known[name] for name in BOUND})

    def _in_units(self, statistics: Standardization | None) -> Self:
        """The same model in these units; under a log link its outputs are taken about the targets' level."""
        link = statistics is not None and self.likelihood.log_link
        assumed = centred(self.likelihood, statistics.y_mean.tolist()) if link else self.likelihood.plain  # pyright: ignore
        return self._changed(standardization=statistics, likelihood=assumed)

    def bind(self, X: Any, y: Any = None, *, num_data: int | None = None) -> Self:
        """The same model, knowing N and, when it standardises, the training statistics. `fit` calls this.

        Args:
            X: Training inputs, as for `fit`.
            y: Training targets, as for `fit`.
            num_data: N, where a loader cannot tell.

        Returns:
            A new model; this one is unchanged.
        """
        with drawing(0):  # a loader draws the seed of its own random numbers
            return self.ingest(X, y, num_data=num_data)[0]

    def ingest(
        self, X: Any, y: Any = None, *, num_data: int | None = None, sample_weight: Any = None, offset: Any = None
    ) -> tuple[Self, Data]:
        """Check the training data, bind the model to them, and prepare them.

        Args:
            X: Training inputs: NumPy array, tensor, data frame, `Dataset` or `DataLoader`.
            y: Training targets; None for a data set or loader.
            num_data: N, where a loader cannot tell.
            sample_weight: How often each row counts, (N,), >= 0.
            offset: What is added to the network's output, (N,) or (N, K), in the data's own units.

        Returns:
            The bound model and the prepared rows.

        Raises:
            ValueError: If the data are not finite numbers of one length that fit the module and the likelihood.
        """
        X, y = self.all_measurements(X, y)
        came = rows_of(X, y)
        several = names_of(y) if len(names_of(y) or ()) > 1 else None
        bound = self._in_units(None)._changed(row_shape=None, feature_names=names_of(X), target_names=several)
        vars(bound).pop("_indices", None)
        given = RowTerms.checked(came, sample_weight, offset)
        if isinstance(came, tuple):
            rows = len(came[0])
            if num_data not in (None, rows):
                raise ValueError(
                    f"num_data must be the number of rows, but {num_data} came for {rows} rows; "
                    "leave it out, or pass a DataLoader when these rows are only a part."
                )
            if bound.likelihood.location_scale:  # y − offset has the network's output for its location
                came, given = given.taken_off(came)
            bound, batch = bound._changed(num_data=rows)._measured([came], weight=given.weight)
            x, targets = bound.prepare(*batch)
            given.check_output(bound._check_forward(x, targets))
            bound = bound._met(x)
            return bound.with_rows_of(given, targets, Data(rows, x, targets))
        plan = plan_of(came, num_data)
        census = plan.census()
        bound, batch = bound._measured(census.over(plan.whole), plan.counts)
        stream = plan.settled(census)
        first = bound.prepare(*unpack(batch))
        output = bound._check_forward(*first)
        bound = bound._changed(num_data=stream.num_data)._met(first[0])

        def prepare(x: Any, y: Any) -> Any:
            x, y = bound.prepare(x, y)
            self.likelihood.check_output(output, y)
            return x, y

        return bound, Data(stream.num_data, None, None, stream, prepare)

    def with_rows_of(self, given: RowTerms, y: torch.Tensor, data: Data) -> tuple[Self, Data]:
        """The model of a fit and its rows, with the weights and offsets that these bring along, if any."""
        if not given:
            return self, data
        assumed, brought = with_rows(self.likelihood, y, *given.cast(self.like), self.log_jacobian)
        model = self._changed(likelihood=assumed, unit_notes=(*self.unit_notes, *given.notes))
        return model, dataclasses.replace(data, y=brought)

    def _measured(self, raw: Iterable[Any], whole: bool = False, weight: torch.Tensor | None = None) -> tuple[Self, Any]:
        """The model with the shape of a row and, where needed, the statistics from one pass over the raw pairs; the first pair.

        `whole` asks for the pass over all of them in any case; `weight` is that of a single pair's rows.

        Raises:
            ValueError: If they do not fit.
        """
        raw = iter(raw)
        first = next(raw)  # there is a first pair: empty data are refused before
        one = self._checked(*unpack(first))
        model = self._changed(row_shape=one[0].shape[1:])._decided(*one)

        def checked() -> Iterator[Any]:
            for batch in itertools.chain([first], raw):
                x, y = model._checked(*unpack(batch))
                model._check_row(x)
                yield x, y

        if not (model.standardize or model.waits_for_scale):
            for _ in checked() if whole else ():
                pass
            return model, first
        assumed = model.likelihood
        statistics = Standardization.of(checked(), assumed.location_scale, log_link=assumed.log_link, weight=weight)
        statistics = statistics.to(model.like.device)
        if model.standardize:
            try:
                known = statistics.keeping(index_columns(model.module, model._indices, one[0]))
                model = model._in_units(known)
                if assumed.log_link:
                    levels = some((f"{value:.3g}" for value in known.y_mean.exp().flatten().tolist()), 4)
                    note = f"the network's output is log(mean of y / {levels}), about the training targets' own mean."
                    model = model._changed(unit_notes=(*model.unit_notes, note))
            except ValueError as error:
                if self.standardize is True:
                    raise
                model = model._changed(standardize=False, unit_notes=(f"not standardised by default: {error}",))
        if not model.waits_for_scale:
            return model, first
        return model.autoscaled(ratio_of(model.module, statistics, bool(model.standardize), model.likelihood)), first

    def _decided(self, x: torch.Tensor, y: torch.Tensor) -> Self:
        """The model with `standardize="auto"` decided by the first checked pair, and a note on that choice or its consequences.

        Raises:
            ValueError: If the rows fit neither module nor likelihood.
        """
        if self.standardize is True:
            return self._changed(unit_notes=())
        plain = self._changed(standardize=False, standardization=None, unit_notes=())
        apart = 1 if self.takes_integers else -(-len(x) // reach.ROWS)  # so that an index out of range is reported with its row
        if isinstance(self.module, Observed) and self.standardize is False:
            return plain  # its priors speak about x, whatever the size of b
        some = plain.prepare(x[::apart], y[::apart])
        plain._check_forward(*some)
        about_y, about_x = reach.out_of_reach(plain, *some)
        if self.standardize is False:
            note = f"standardize=False, but {about_y}; take standardize=True, or priors as wide as the targets."
            return plain._changed(unit_notes=(note,) if about_y else ())
        if self.likelihood.location_scale and bool((y == y[:1]).all()):  # a constant target has no sd
            note = f"all targets are equal and cannot be standardised, but {about_y}; check the target column."
            return plain._changed(unit_notes=(note,) if about_y else ())
        why = "; ".join(filter(None, (about_y, about_x)))
        note = (
            f"standardised by default: {why}; priors speak about standardised data (standardize=False keeps the data's own "
            "units)."
        )
        return plain._changed(standardize=bool(why), unit_notes=(note,) if why else ())

    def _met(self, x: torch.Tensor) -> Self:
        """The model after its network was tried on a few of the first rows, checked before a search."""
        model = self._changed(behaviour=self._behaviour_at(x))
        weights, rows = model.weights(), x[:8]
        scaled = lambda factor: model.forward({k: factor * w for k, w in weights.items()}, rows.clone())  # noqa: E731
        notes = model.unit_notes + checked_link(model.likelihood, scaled)
        return model._changed(unit_notes=notes)

    def prepare(self, x: Any, y: Any = None) -> Any:
        """Data in the model's dtype, on its device, and in the units that it works in.

        Args:
            x: Inputs (B, ...) in their own units; a data frame's columns are matched by name to those of the fit. Without y
                a `Dataset` or `DataLoader` too, whose inputs are taken in the data set's order.
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
        x, y = self.all_measurements(x, y)
        order = order_by_name("X", names_of(x), self.feature_names)
        if y is None and isinstance(x, (DataLoader, Dataset)):
            x = all_inputs(x)
        x, y = self._checked(x, self.targets(y))
        x = x if order is None else x[:, order]
        self._check_row(x)
        indices = self._indices if self.takes_integers and self.row_shape is not None else None
        if indices is not None:
            indices.check(x)
        if self.standardization is not None:
            # in float64 first: an offset of 10⁶ sds would use up the digits of float32
            only_indices = self.takes_integers and (indices is None or indices.all)
            x = x if only_indices else self.standardization.x(x.double())
            y = y if y is None or not self.likelihood.location_scale else self.standardization.y(y)
        x = self._cast(x)
        self.behaviour.protect(x)
        if self.row_shape is not None and x.shape[1:] != self.row_shape:
            self._check_size(x)
        return x if y is None else (x, self._cast(y))

    def all_measurements(self, x: Any, y: Any) -> tuple[Any, Any]:
        """For an inverse problem whose x is None: the numbers of all measurements, and these in one line; else what came."""
        if not isinstance(self.module, Observed):
            return x, y
        if x is None:
            return self.module.rows(), y if y is None else self.module.measured(y)
        return x if isinstance(x, (DataLoader, Dataset)) else self.module.numbered(x), y

    def targets(self, y: Any) -> Any:
        """Targets in the order of the fit: a data frame's columns are matched by name, everything else stays as it is.

        Args:
            y: Targets, or None.

        Raises:
            ValueError: If a name is missing or unknown.
        """
        order = order_by_name("y", names_of(y), self.target_names)
        return y if order is None else as_targets(y)[:, order]

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
    def takes_integers(self) -> bool:
        """True where the network uses its inputs as indices (an embedding), so that they are whole numbers."""
        return has_embedding(self.module)

    @cached_property  # of a bound model; `ingest` forgets it
    def _indices(self) -> Indices | None:
        return None if self.row_shape is None else indices_of(self.module, self.row_shape, self.like)

    def _check_row(self, x: torch.Tensor) -> None:
        if self.row_shape is not None and (x.dim() != len(self.row_shape) + 1 or x.shape[1] != self.row_shape[0]):
            raise ValueError(
                f"each row of X must have shape {tuple(self.row_shape)}, as in the fit, but {tuple(x.shape[1:])} came; pass "
                "the same columns, and a single row as an array of shape (1, ...)."
            )

    def _check_size(self, x: torch.Tensor) -> None:
        """Refuse images of a size that the network does not take.

        Raises:
            ValueError: If so.
        """
        try:
            with torch.no_grad():
                self.forward(self.weights(), x[:1])
        except RuntimeError as error:
            raise ValueError(
                f"each row of X must have a shape that the network takes, as {tuple(self.row_shape or ())} in the fit, but it "
                f"fails on {tuple(x.shape[1:])}; bring the rows to the size of the fit."
            ) from error

    def _cast(self, values: torch.Tensor) -> torch.Tensor:
        """In the model's dtype, but whole numbers stay whole: class labels, and indices of an embedding."""
        return values.to(self.like.dtype) if values.is_floating_point() else values

    def _checked(self, x: Any, y: Any) -> Any:
        """Checked tensors on the model's device, in the data's own units and type; x floating unless it holds indices.

        Raises:
            ValueError: If the rows do not match, or the target does not fit the likelihood.
        """
        device = self.like.device
        x, y = (as_inputs(x), None) if y is None else pair_of(x, y)
        x = x.to(device)
        x = x if self.takes_integers or x.is_floating_point() else x.double()
        if y is not None:
            y = y.to(device)
            y = self.likelihood.target(y if y.is_floating_point() else y.long(), torch.float64)
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

    def _behaviour_at(self, x: torch.Tensor) -> Behaviour:
        """The network's behaviour, tried on two of these rows.

        Raises:
            ValueError: If its output has no gradient, it draws numbers that belong to no layer, or it computes its hidden
                layers again where these have priors.
        """
        found = self.behaviour.met(self, x)
        if found.recomputes and self.outputs:
            raise ValueError(
                f"a prior on outputs needs activations that are kept, but {type(self.module).__name__} recomputes parts of "
                "itself in its backward pass (activation checkpointing); remove the checkpoints, or leave `outputs` out."
            )
        return found
