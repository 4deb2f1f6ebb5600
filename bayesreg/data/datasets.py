"""Data sets that ship with scikit-learn, and those that papers report on, as arrays for a network."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from bayesreg.data.tables import Split, Table


def load_diabetes() -> Table:
    """Disease progression of 442 diabetes patients by 10 measurements in their original units: regression.

    Returns:
        The table that scikit-learn carries, not standardised.

    References:
        Efron, B., Hastie, T., Johnstone, I. and Tibshirani, R. (2004). Least angle regression.

    >>> load_diabetes()
    Table(scikit-learn diabetes: 442 rows, 10 features, regression on 'progression')
    """
    return _bundled("diabetes", "progression", None)


def load_breast_cancer() -> Table:
    """Diagnosis of 569 tumours by 30 measurements of cell nuclei: binary, 0 malignant and 1 benign.

    Returns:
        The table that scikit-learn carries, with its own order of the classes.

    References:
        Street, W., Wolberg, W. and Mangasarian, O. (1993). Nuclear feature extraction for breast tumor diagnosis.

    >>> load_breast_cancer()
    Table(scikit-learn breast cancer: 569 rows, 30 features, binary on 'diagnosis')
    """
    return _bundled("breast cancer", "diagnosis", ["malignant", "benign"])


def load_uci(folder: str | os.PathLike[str], split: int) -> Split:
    r"""Read one train/test split of a regression set that papers on Bayesian neural networks report on.

    The folder holds `data.txt` (a row a line, white space between), and row or column numbers from 0 in
    `index_features.txt`, `index_target.txt`, `index_train_<i>.txt` and `index_test_<i>.txt`.

    Args:
        folder: The data set's folder.
        split: Number i of the split, from 0.

    Returns:
        X_train (N_train, D), y_train (N_train,), X_test (N_test, D), y_test (N_test,), in the data's own units.

    Raises:
        ValueError: If a file is not there or holds no numbers, an index is repeated or out of range, the target is not
            one column or is a feature, or a row is in both parts.

    References:
        Hernández-Lobato, J. M. and Adams, R. P. (2015). Probabilistic backpropagation for scalable learning of
        Bayesian neural networks.

    >>> import tempfile
    >>> files = dict(data="1 10\n2 20", index_features="0", index_target="1", index_train_0="1", index_test_0="0")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sizes = [Path(folder, f"{name}.txt").write_text(text) for name, text in files.items()]
    ...     load_uci(folder, 0).y_train
    array([20.])
    """
    root = Path(folder)
    data = _read_numbers(root / "data.txt")
    features, target = (_read_numbers(root / f"index_{n}.txt", data.shape[1]) for n in ("features", "target"))
    train, test = (_read_numbers(root / f"index_{n}_{split}.txt", len(data)) for n in ("train", "test"))
    shared = np.intersect1d(train, test).size
    if len(target) != 1 or target[0] in features or shared:
        must = "the target must be one column and no feature, and no row may be in both parts"
        raise ValueError(f"{must}, but columns {target.tolist()} and {shared:,} such rows came; correct the files.")
    x, y = data[:, features], data[:, target[0]]
    return Split(x[train], y[train], x[test], y[test])


def _bundled(name: str, target: str, classes: list[str] | None) -> Table:
    from sklearn import datasets

    bunch: Any = datasets.load_diabetes(scaled=False) if classes is None else datasets.load_breast_cancer()
    y, kind, what = bunch.target.astype(np.float64), "regression", "numeric, regression"
    if classes is not None:
        y, kind, what = y.astype(np.int64), "binary", f"binary, {classes[0]} = 0, {classes[1]} = 1"
    encoding = [f"{target}: target, {what}", f"{bunch.data.shape[1]} numeric columns, unchanged"]
    names = [str(feature) for feature in bunch.feature_names]
    return Table(bunch.data, y, names, target, kind, classes, encoding, f"scikit-learn {name}", 0)


def _read_numbers(file: Path, size: int | None = None) -> np.ndarray:
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
        values = np.loadtxt(lines if any(map(str.strip, lines)) else ["nothing"], ndmin=2)
        if size is None:  # otherwise the numbers are of rows or columns, of which there are so many
            return values
        if not np.isin(values, np.arange(size)).all() or len(np.unique(values)) < values.size:
            raise ValueError(f"other than different whole numbers from 0 to {size - 1}")
        return values.ravel().astype(np.int64)
    except (OSError, ValueError) as error:
        must = f"{file.name} must be in the folder and hold numbers"
        raise ValueError(f"{must}, but this came: {error}; check the folder, the split and the file.") from error
