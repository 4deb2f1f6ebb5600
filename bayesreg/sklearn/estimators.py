"""The three estimators: numbers, classes, counts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.metrics import d2_tweedie_score
from sklearn.utils import assert_all_finite, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_is_fitted

from bayesreg import likelihoods
from bayesreg._text import some
from bayesreg.likelihoods import AbstractLikelihood, Gaussian, NegativeBinomial
from bayesreg.sklearn.base import AbstractBayes, Target
from bayesreg.sklearn.settings import read

_FOR_NUMBERS = "numbers; take BayesClassifier for classes"
_FOR_COUNTS = "counts; take BayesRegressor for numbers, BayesClassifier for classes"


class AbstractNumbers(AbstractBayes):
    """An estimator whose target are numbers."""

    def predict(self, X: Any, return_std: bool = False, offset: Any = None) -> Any:
        """E[y | x], (N,) or (N, K), and with `return_std` also sd[y | x], that of a new observation.

        `offset` is as for `predict_distribution`, whose result has everything else.

        Raises:
            ValueError: As for `predict_distribution`.
        """
        found = self.predict_distribution(X, offset)
        return (_array(found.mean), _array(found.std)) if return_std else _array(found.mean)

    def predict_interval(self, X: Any, level: float = 0.95) -> np.ndarray:
        """Lower and upper end of the central interval that holds y with this probability, (N, 2) or (N, K, 2).

        Raises:
            ValueError: As for `predict_distribution`, or if the level is not in (0, 1).
        """
        return np.stack([_array(end) for end in self.predict_distribution(X).interval(level)], -1)

    def predict_quantiles(self, X: Any, quantiles: Sequence[float] = (0.05, 0.5, 0.95)) -> np.ndarray:
        """The quantiles of y, (N, Q) or (N, K, Q).

        Raises:
            ValueError: As for `predict_distribution`, or if a quantile is not in (0, 1).
        """
        return np.moveaxis(_array(self.predict_distribution(X).quantile(list(quantiles))), 0, -1)

    def _encoded(self, y: Any) -> np.ndarray:
        numbers: Any = np.float64
        try:
            return check_array(y, ensure_2d=False, dtype=numbers, input_name="y", estimator=self)
        except ValueError as error:
            if "could not convert" not in str(error):
                raise
            name, came = type(self).__name__, str(error).rpartition(": ")[2]
            raise ValueError(f"{name} needs a target of numbers, but {came} came; take BayesClassifier for classes.") from None


class BayesRegressor(RegressorMixin, AbstractNumbers):
    """Bayesian regression: a network, what is assumed about it, and the distribution of y that follows.

    The likelihood follows the target where none is given: Gaussian, LogNormal or Gamma where y is positive and skewed, Poisson
    or NegativeBinomial for counts. Several targets, (N, K), are Gaussian.

    >>> import numpy as np
    >>> from bayesreg.sklearn import BayesRegressor
    >>> X = np.arange(20.0)[:, None]
    >>> line = BayesRegressor(hidden=(), method="exact", likelihood="Gaussian(0.1)").fit(X, 3 * X[:, 0] + 1)
    >>> line.coef_.round(2), round(line.intercept_, 2)
    (array([3.]), 1.01)
    >>> line.predict_interval(X[:2], level=0.9).shape
    (2, 2)
    """

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _target(self, y: Any) -> Target:
        values = self._encoded(y)
        if not np.ptp(values, axis=0).all():
            came = f"all {len(values):,} values of a column are {values.flat[0]:g}"
            raise ValueError(f"BayesRegressor needs a target that varies, but {came}; check that y is what is to be predicted.")
        return _numbers(self, values, Gaussian(), lambda noise: noise.labels is None, _FOR_NUMBERS)


class BayesCounts(AbstractNumbers):
    """Bayesian regression of whole numbers >= 0: a network for the logarithm of their mean.

    Poisson where they scatter as a Poisson's do, NegativeBinomial where they scatter more, unless the likelihood is given. To
    scikit-learn it is no "regressor", since that must take fractions too.

    >>> import numpy as np
    >>> from bayesreg.sklearn import BayesCounts
    >>> X = np.repeat([[0.0], [1.0]], 50, axis=0)
    >>> y = np.where(X[:, 0] == 1, 4, 2)
    >>> mode = BayesCounts(hidden=(), method="map", likelihood="Poisson()", prior="Flat()").fit(X, y)
    >>> mode.predict([[0.0], [1.0]]).round(1)
    array([2., 4.])
    """

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.positive_only = True
        return tags

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """D² of the Poisson deviance: the share of the deviance of the mean that the prediction takes away; 1 is best."""
        return float(d2_tweedie_score(y, self.predict(X), sample_weight=sample_weight, power=1))

    def _target(self, y: Any) -> Target:
        values = column_or_1d(self._encoded(y), warn=True)
        return _numbers(self, values, NegativeBinomial(), lambda noise: noise.kind == "counts", _FOR_COUNTS)


class BayesClassifier(ClassifierMixin, AbstractBayes):
    """Bayesian classification: class probabilities that know how little the data may say.

    Two classes are Bernoulli, more are Categorical, the levels of an ordered pandas category are Ordinal, unless the likelihood
    is given. Labels may be anything that can be sorted.

    Attributes:
        classes_: The labels, K.

    >>> import numpy as np
    >>> from bayesreg.sklearn import BayesClassifier
    >>> X = np.linspace(-2, 2, 40)[:, None]
    >>> fitted = BayesClassifier(hidden=(), method="laplace").fit(X, np.where(X[:, 0] > 0, "yes", "no"))
    >>> fitted.predict([[-1.0], [1.0]])
    array(['no', 'yes'], dtype='<U3')
    """

    def predict_proba(self, X: Any) -> np.ndarray:
        """P(y = k | x, data) for each class of `classes_`, (N, K).

        Raises:
            ValueError: As for `predict_distribution`.
        """
        found = self.predict_distribution(X)
        labels: Any = found.likelihood.labels
        p = labels.class_probabilities(found.mean.double()).numpy()
        return p / p.sum(1, keepdims=True)

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Logarithms of `predict_proba`, (N, K)."""
        return np.log(self.predict_proba(X))

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of each row, (N,).

        Raises:
            ValueError: As for `predict_distribution`.
        """
        most = self.predict_proba(X).argmax(1)
        return self.classes_[most]

    def _target(self, y: Any) -> Target:
        self.classes_, codes, ordered = _levels(self, y)
        number = len(self.classes_)
        if number < 2:
            came = f"1 class came ({self.classes_.tolist()[0]!r})"
            raise ValueError(f"BayesClassifier needs a target of two classes or more, but {came}; add rows of another class.")
        if self.likelihood is None and ordered:
            choice = likelihoods.choose(y)
            return Target(codes, choice.likelihood, number, (choice.said, *choice.rejected))
        noise = likelihoods.suiting(number) if self.likelihood is None else _likelihood(self.likelihood)
        needs = f"{number} classes; leave it out, or take BayesRegressor for numbers"
        _check_kind(self, noise, noise.labels is not None and noise.suits(number), needs)
        return Target(codes, noise, number)

    def _encoded(self, y: Any) -> np.ndarray:
        check_is_fitted(self)
        values = np.asarray(y).ravel()
        index = {label: number for number, label in enumerate(self.classes_.tolist())}
        found = [index.get(label, -1) for label in values.tolist()]
        if -1 in found:
            came, known = values.tolist()[found.index(-1)], some(map(repr, self.classes_.tolist()))
            raise ValueError(f"y must hold classes of the fit ({known}), but {came!r} came; correct or leave out these rows.")
        return np.array(found, dtype=np.int64)

    def _named(self, y: np.ndarray) -> np.ndarray:
        return self.classes_[y.astype(np.int64)]

    @property
    def _class_names(self) -> list[str] | None:
        return list(map(str, self.classes_))


def _numbers(
    estimator: Any, values: np.ndarray, fallback: AbstractLikelihood, fits: Callable[[Any], bool], needs: str
) -> Target:
    """A target of numbers, with the likelihood that was asked for, or the one of its choice where that fits.

    Raises:
        ValueError: If the likelihood does not fit.
    """
    if estimator.likelihood is not None:
        noise = _likelihood(estimator.likelihood)
        _check_kind(estimator, noise, fits(noise), needs)
        return Target(values, noise)
    choice = likelihoods.choose(values)
    if fits(choice.likelihood):
        return Target(values, choice.likelihood, None, (choice.said, *choice.rejected))
    said = f"{type(fallback).__name__}: by its values alone the target would be for {choice.likelihood!r}."
    return Target(values, fallback, None, (said,))


def _check_kind(estimator: Any, noise: Any, fits: bool, needs: str) -> None:
    """Refuse a likelihood of another kind of target.

    Raises:
        ValueError: If it does not fit.
    """
    if not fits:
        raise ValueError(f"{type(estimator).__name__} needs a likelihood for {needs}, but {noise!r} came.")


def _likelihood(given: Any) -> AbstractLikelihood:
    """A likelihood from its text, or itself.

    Raises:
        ValueError: If it is none.
    """
    found = read("likelihood", given)
    if not isinstance(found, AbstractLikelihood):
        raise ValueError(f"likelihood must be a likelihood or its text, but {given!r} came; pass for example 'Gaussian(0.5)'.")
    return found


def _levels(estimator: Any, y: Any) -> tuple[np.ndarray, np.ndarray, bool]:
    """The classes of a target in order, each row's number (N,), and whether their order means something.

    Raises:
        ValueError: If it is no column of classes.
    """
    dtype: Any = getattr(y, "dtype", None)
    values = column_or_1d(y, warn=True)
    if values.dtype.kind == "O" and any(label is None or label != label for label in values.tolist()):
        raise ValueError("y must have a class in each row, but missing ones came; leave these rows out.")
    if values.dtype.kind in "fc":
        assert_all_finite(values, input_name="y", estimator_name=type(estimator).__name__)
    check_classification_targets(y)
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(dtype, pandas.CategoricalDtype) and dtype.ordered:
        codes = dtype.categories.get_indexer(values)
        if (codes < 0).any():
            raise ValueError(f"y must have a class in each row, but row {int((codes < 0).argmax()) + 1} came without; drop it.")
        return np.asarray(dtype.categories), codes.astype(np.int64), True
    classes, codes = np.unique(values, return_inverse=True)
    return classes, codes.astype(np.int64), False


def _array(values: torch.Tensor) -> np.ndarray:
    return values.double().cpu().numpy()
