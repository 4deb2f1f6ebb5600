"""Arrays, data frames, tensors and data sets as checked tensors; each refusal is one sentence."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from bayesreg import _check
from bayesreg._text import some

_PLAIN = (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.bool)
_PLAIN += (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def as_tensor(name: str, values: Any) -> torch.Tensor:
    """Any array of numbers as a checked tensor on the device it was on: NumPy, torch, pandas, nested lists.

    `name` is what an error calls it.

    Raises:
        ValueError: If it is not an array of real numbers, is empty, or holds NaN, infinite, missing or masked entries.

    >>> as_tensor("X", [[1, 2], [3, 4]]).shape
    torch.Size([2, 2])
    """
    if isinstance(values, (list, tuple)) and values and all(isinstance(v, torch.Tensor) for v in values):
        if len({v.shape for v in values}) > 1:
            _refuse_ragged(name)
        values = torch.stack([_dense(name, v) for v in values])
    tensor = _dense(name, values) if isinstance(values, torch.Tensor) else _from_array(name, values)
    if tensor.is_complex():
        raise ValueError(f"{name} must be real, but {tensor.dtype} came; pass real and imaginary part as columns.")
    if tensor.numel() == 0:
        raise ValueError(f"{name} must have at least one row and one column, but shape {tuple(tensor.shape)} came.")
    return _check.all_finite(name, tensor)


def as_inputs(X: Any, num_rows: int | None = None) -> torch.Tensor:
    """Inputs as a checked tensor, (N, ...) with at least one axis besides the rows'; `num_rows` is N, if the targets give it.

    Raises:
        ValueError: If it is no array of rows, or several arrays.
    """
    number = _arrays_among(X, num_rows)
    if number:
        raise ValueError(
            f"a network must take one tensor, but X holds {number} arrays; join them to one, for example "
            "np.column_stack([X1, X2]), and wrap the network in a module whose forward takes them apart: x[:, :2], x[:, 2:]."
        )
    tensor = as_tensor("X", X)
    if tensor.dim() == 0:
        raise ValueError("X must be an array with a row for each case, but a single number came; pass for example [[5.0]].")
    return tensor[:, None] if tensor.dim() == 1 else tensor


def as_targets(y: Any) -> torch.Tensor:
    """Targets as a checked tensor, (N,) also for one column, or (N, K); (N, T, K), a sequence a row, as (N, T·K).

    >>> as_targets([[[1, 2], [3, 4]]]).tolist()
    [[1, 2, 3, 4]]

    Raises:
        ValueError: If it is no array of rows, or has more axes.
    """
    tensor = as_tensor("y", y)
    if tensor.dim() == 0:
        raise ValueError("y must be an array with a target for each row, but a single number came; pass for example [5.0].")
    tensor = tensor.flatten(1) if tensor.dim() == 3 else tensor
    if tensor.dim() > 2:
        raise ValueError(
            f"y must have shape (N,), (N, K) or (N, T, K), but {tuple(tensor.shape)} came; pass y.reshape(len(y), -1), and let "
            "the network put out as many numbers a row."
        )
    return tensor[:, 0] if tensor.dim() == 2 and tensor.shape[1] == 1 else tensor


def pair_of(X: Any, y: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and targets as checked tensors of one length.

    Raises:
        ValueError: If they are no arrays, or their lengths differ.
    """
    inputs = as_inputs(X, _rows_in(y))
    targets = as_targets(y)
    if len(inputs) != len(targets):
        raise ValueError(
            f"X and y must have one row for each other, but X has {len(inputs):,} rows and y has {len(targets):,}; "
            "check that both come from the same split."
        )
    return inputs, targets


def names_of(values: Any) -> tuple[str, ...] | None:
    """The names of a data frame's columns (pandas, Polars, Arrow), or of a series; None for an array, which has none."""
    if values is None or isinstance(values, (torch.Tensor, np.ndarray, list, tuple, DataLoader, Dataset, int, float, str)):
        return None
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(values, pandas.DataFrame):
        return tuple(map(str, values.columns))
    if pandas is not None and isinstance(values, pandas.Series):
        return None if values.name is None else (str(values.name),)
    try:
        import narwhals
    except ImportError:
        return None
    frame = narwhals.from_native(values, pass_through=True, eager_only=True)
    return tuple(frame.columns) if isinstance(frame, narwhals.DataFrame) else None


def order_by_name(what: str, came: tuple[str, ...] | None, fitted: tuple[str, ...] | None) -> list[int] | None:
    """Numbers of the columns in the order of the fit, or None where the order is right as it is.

    `came` and `fitted` are names, None for an array, which goes by position; `what` is "X" or "y", for the error.

    Raises:
        ValueError: If a name is missing, unknown or there twice.

    >>> order_by_name("X", ("c", "a", "b"), ("a", "b", "c"))
    [1, 2, 0]
    """
    if came is None or fitted is None or came == fitted:
        return None
    missing, unknown = [n for n in fitted if n not in came], [n for n in came if n not in fitted]
    twice = sorted({n for n in came if came.count(n) > 1})
    if missing or unknown or twice:
        faults = (("lacks", missing), ("has unknown", unknown), ("has twice", twice))
        said = ", ".join(f"it {verb} {some(map(repr, names), 6)}" for verb, names in faults if names)
        raise ValueError(
            f"the columns of {what} must be those of the fit, {some(map(repr, fitted), 6)}, but {said}; "
            "select them by name, or pass an array to go by position."
        )
    return [came.index(name) for name in fitted]


def _rows_in(y: Any) -> int | None:
    try:
        return len(y)
    except TypeError:
        return None


def _arrays_among(X: Any, num_rows: int | None) -> int:
    """How many arrays of rows X holds, 0 where it is one array."""
    if isinstance(X, Mapping) and len(X) > 1:
        return len(X)
    if not isinstance(X, (list, tuple)) or len(X) < 2 or len(X) == num_rows:
        return 0
    if not all(isinstance(v, (torch.Tensor, np.ndarray)) or names_of(v) is not None for v in X):
        return 0
    shapes = [np.shape(v) for v in X]
    if any(not shape for shape in shapes):
        return 0
    if num_rows is None:  # rows may come as a list of arrays, but then all have one shape
        return len(X) if len(set(shapes)) > 1 and len({shape[0] for shape in shapes}) == 1 else 0
    return len(X) if all(shape[0] == num_rows for shape in shapes) else 0


def _dense(name: str, values: torch.Tensor) -> torch.Tensor:
    """A plain tensor with the same numbers.

    Raises:
        ValueError: If it is of another kind.
    """
    usual = type(values) is torch.Tensor and values.dtype in _PLAIN and values.layout == torch.strided
    if usual and not (values.is_inference() or values.is_nested or values.device.type == "meta"):
        return values.detach()
    kinds = (
        (values.is_nested, "a nested one, of rows of several lengths", f"torch.nested.to_padded_tensor({name}, 0.0)"),
        (values.layout != torch.strided, f"one of layout {values.layout}", f"{name}.to_dense()"),
        (values.is_quantized, f"a quantised one ({values.dtype})", f"{name}.dequantize()"),
        (values.device.type == "meta", "one without numbers (device 'meta')", "the tensor itself"),
        (torch.masked.is_masked_tensor(values), "a masked one", "its numbers without the rows that are masked"),
    )
    for found, what, instead in kinds:
        if found:
            raise ValueError(f"{name} must be a dense tensor of numbers, but {what} came; pass {instead}.")
    values = values.detach()
    if values.is_inference():  # autograd does not support it
        with torch.inference_mode(False):
            values = values.clone()
    if values.dtype in _PLAIN or values.is_complex():
        return values
    if values.dtype == torch.uint64:  # beyond 2⁶³ a whole number would turn negative
        return _from_array(name, values.cpu().numpy()).to(values.device)
    return values.to(torch.float32 if values.is_floating_point() else torch.int64)


def _from_array(name: str, values: Any) -> torch.Tensor:
    if values is None:
        raise ValueError(f"{name} must be an array of numbers, but None came; pass an array, a tensor or a data frame.")
    _refuse_masked(name, values)
    sparse = sys.modules.get("scipy.sparse")
    if sparse is not None and sparse.issparse(values):
        raise ValueError(f"{name} must be dense, but a SciPy {type(values).__name__} came; pass {name}.toarray().")
    try:
        array = np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:
        if "inhomogeneous" in str(error):
            _refuse_ragged(name)
        raise ValueError(
            f"{name} must be an array of numbers, but {type(values).__name__} came, which is none: {error}; pass a NumPy array."
        ) from error
    if array.dtype.kind in "mM":
        raise ValueError(f"{name} must be an array of numbers, but {array.dtype} came; encode dates as numbers first.")
    if array.dtype == np.uint64 and array.size and array.max() > np.iinfo(np.int64).max:
        array = array.astype(np.float64)  # as a whole number of torch's it would turn negative
    if array.dtype.kind in "fiu":  # what torch has no type for: other byte orders, long doubles, unsigned integers
        kind = {"f": np.float64 if array.dtype.itemsize > 8 else None, "u": np.int64 if array.dtype.itemsize > 1 else None}
        array = array.astype(kind.get(array.dtype.kind) or array.dtype.newbyteorder("="), copy=False)
    if array.dtype.kind not in "fiubc":
        array = _numbers(name, values, array)
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))  # a data frame's array is read-only


def _numbers(name: str, values: Any, array: np.ndarray) -> np.ndarray:
    """Objects as floats; what a data frame calls missing as NaN.

    Raises:
        ValueError: If an entry is no number.
    """
    pandas = sys.modules.get("pandas")
    if pandas is not None and array.dtype.kind == "O":
        array = np.where(np.asarray(pandas.isna(array), dtype=bool), np.nan, array)
    try:
        return array.astype(np.float64)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be an array of numbers, but {_no_number(name, values, array)}") from None


def _no_number(name: str, values: Any, array: np.ndarray) -> str:
    """Where the first entry that is no number stands, and what to do, as the end of a message."""
    place = next((at for at, entry in np.ndenumerate(array) if not _is_number(entry)), None)
    what, names = type(values).__name__, names_of(values)
    if place is None:
        return f"{what} with entries of type {array.dtype} came; pass numbers."
    entry = array[place].item() if isinstance(array[place], np.generic) else array[place]
    if array.ndim == 2 and names is not None:
        where = f"{_check.said(entry)} came in column {names[place[1]]!r} of the {what}, row {place[0] + 1:,}"
        lines = (f"encoder = bayesreg.data.Encoder.fit({name}, missing='impute')", f"{name} = encoder.transform({name})")
        new = "X_new = encoder.transform(X_new)  # rows to predict"
        return "\n    ".join([f"{where}; three lines make numbers of texts, categories and dates:", *lines, new])
    where = f"{_check.said(entry)} came in row {place[0] + 1:,} of the {what}" if array.ndim else what
    if array.ndim == 1:
        return f"{where}; classes have numbers by: classes, {name} = numpy.unique({name}, return_inverse=True)."
    return f"{where}; pass a data frame to data.Encoder, which makes numbers of texts, categories and dates."


def _is_number(entry: Any) -> bool:
    try:
        float(entry)
    except (TypeError, ValueError):
        return False
    return True


def _refuse_masked(name: str, values: Any) -> None:
    parts = values if isinstance(values, (list, tuple)) else [values]
    if any(isinstance(part, np.ma.MaskedArray) and np.ma.getmaskarray(part).any() for part in parts):
        masks = [np.ma.getmaskarray(np.ma.asarray(part)) for part in parts]
        if len({mask.shape for mask in masks}) > 1:
            _refuse_ragged(name)
        bad = torch.from_numpy(np.asarray(masks))
        _check.all_there(name, bad if parts is values else bad[0], "masked")


def _refuse_ragged(name: str) -> NoReturn:
    """Refuse rows of several shapes.

    Raises:
        ValueError: Always.
    """
    raise ValueError(f"each row of {name} must have the same shape, but they differ; pad or cut the rows to one length.")
