"""What the estimators share: one way from a table to a posterior, and what is asked of it afterwards.

Columns, targets and posteriors are the same things as elsewhere in the package; here they have scikit-learn's names.
"""

from __future__ import annotations

import abc
import dataclasses
import html
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.pipeline import Pipeline
from sklearn.utils import check_random_state, estimator_html_repr
from sklearn.utils.validation import check_consistent_length, check_is_fitted
from torch import nn

from bayesreg import _check
from bayesreg._text import html_table
from bayesreg.data.arrays import names_of
from bayesreg.data.features import Missing
from bayesreg.inference import AbstractMethod
from bayesreg.inference.base import fit
from bayesreg.likelihoods import AbstractLikelihood
from bayesreg.metrics.importances import total_indices
from bayesreg.model import BayesianModel, PriorSpec, default_model, hidden_units, network_note
from bayesreg.predictive import Predictive
from bayesreg.priors import AbstractPrior
from bayesreg.reports import Report, report
from bayesreg.sklearn.inputs import learned
from bayesreg.sklearn.line import Line, line_of
from bayesreg.sklearn.settings import NESTED, changed, read, settings_of

Prior = AbstractPrior | str | Mapping[Any, AbstractPrior | str] | PriorSpec | None
_ROWS, _SEEN_BY = 100, 100  # rows and draws for importances


@dataclasses.dataclass(frozen=True)
class Target:
    """What is predicted.

    Attributes:
        values: (N,) or (N, K), as the likelihood takes them.
        likelihood: What is assumed about the noise.
        num_classes: The number of classes; None for numbers.
        notes: How the likelihood was chosen, a sentence each.
    """

    values: np.ndarray
    likelihood: AbstractLikelihood
    num_classes: int | None = None
    notes: tuple[str, ...] = ()


class AbstractBayes(BaseEstimator, abc.ABC):
    """A Bayesian network for a table, as a scikit-learn estimator.

    Args:
        method: How to fit: a name ("auto", "map", "laplace", "mile", ...) or a method.
        prior: What is assumed about the weights, as a text ("Laplace(0.1)") or object; the bias keeps its default, as penalties
            leave the intercept alone. Or rules, {"*.weight": "Normal(1.0, fan_in=True)", "*.bias": "Flat()"}. None for the
            default. Priors speak about standardised data.
        likelihood: What is assumed about the noise, as a text or object; None for what the target's values ask for.
        hidden: Widths of the hidden layers; () for a linear model; None for one layer whose width follows the table.
        module: A `torch.nn.Module` in place of a network of `hidden`, or a function of (inputs, outputs) that makes one.
        missing: What a missing value does: "impute" the median or a level, with an input that marks it, "drop" its row from the
            fit, or "refuse" the table.
        categorical: Columns of a data frame whose values are categories, whatever they look like.
        numeric: Columns of a data frame that are numbers, never row numbers or identifiers.
        num_samples: Draws of the posterior that a prediction mixes; None for 1,000, or each one once where fewer are stored.
        dtype: "float64", as the command line; or "float32", with half the memory and up to twice the speed: the seventh digit
            of a row's prediction then depends on the rows beside it.
        random_state: Of first weights, fit and draws: a whole number for the same answer each time.

    Attributes:
        posterior_: The posterior; see `bayesreg.fit`.
        certificate_: Whether the fit can be believed, and why.
        model_: The model, `model_.prior_table()` included.
        inputs_: How X becomes inputs; `inputs_.encoder` for a data frame.
        notes_: What was chosen and done, a sentence each.
        n_features_in_: Columns of X.
        feature_names_in_: Their names, where X has names.
    """

    def __init__(
        self,
        method: str | AbstractMethod = "auto",
        prior: Prior = None,
        likelihood: str | AbstractLikelihood | None = None,
        hidden: Sequence[int] | None = None,
        module: nn.Module | Callable[[int, int], nn.Module] | None = None,
        missing: Missing = "impute",
        categorical: Collection[str] = (),
        numeric: Collection[str] = (),
        num_samples: int | None = None,
        dtype: str = "float64",
        random_state: Any = 0,
    ) -> None:
        self.method = method
        self.prior = prior
        self.likelihood = likelihood
        self.hidden = hidden
        self.module = module
        self.missing = missing
        self.categorical = categorical
        self.numeric = numeric
        self.num_samples = num_samples
        self.dtype = dtype
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = self.missing != "refuse"
        tags.target_tags.required = True
        return tags

    # parameters

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Parameters by name; with `deep` also the settings of prior, likelihood and method, as prior__scale."""
        found = super().get_params(deep=False)
        if not deep:
            return found
        inner = {what: settings_of(what, found[what]) for what in NESTED if found[what] is not None}
        return found | {f"{what}__{name}": value for what, known in inner.items() for name, value in known.items()}

    def set_params(self, **params: Any) -> Self:
        """Set parameters by name, down to the numbers inside a prior, a likelihood or a method, as prior__scale.

        Raises:
            ValueError: If there is no such parameter or setting.

        >>> from bayesreg.sklearn import BayesRegressor
        >>> BayesRegressor(prior="Laplace(1.0)").set_params(prior__scale=0.1).prior
        Laplace(scale=0.1)
        """
        inside = {name: value for name, value in params.items() if name.partition("__")[0] in NESTED and "__" in name}
        super().set_params(**{name: value for name, value in params.items() if name not in inside})
        for name, value in inside.items():
            what, _, path = name.partition("__")
            setattr(self, what, changed(what, getattr(self, what), path, value))
        return self

    # fit

    @abc.abstractmethod
    def _target(self, y: Any) -> Target:
        """The target, checked."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None, offset: Any = None) -> Self:
        """Fit the posterior.

        Args:
            X: A data frame, whose columns may be numbers, categories, dates and texts, or an array (N, D) of numbers.
            y: Targets (N,).
            sample_weight: How often each row counts, (N,), >= 0: two is the row twice, 0 leaves it out.
            offset: A known part of the network's output for each row, (N,), in the data's own units: log exposure for counts.

        Returns:
            Itself.

        Raises:
            ValueError: If the table or the target cannot be used, or a parameter is out of its range; says what to do.
        """
        if y is None:
            name = type(self).__name__
            raise ValueError(f"This {name} estimator requires y to be passed, but the target y is None; call fit(X, y).")
        missing: Any = _check.one_of("missing", self.missing, ("drop", "impute", "refuse"))
        weight = None if sample_weight is None else _weights(X, y, sample_weight)
        inputs, x, keep = learned(self, X, missing, self.categorical, self.numeric, None if weight is None else weight > 0)
        check_consistent_length(keep, y, offset)
        target, seed = self._target(y if keep.all() else _taken(y, keep)), self._seed()
        weight, known = (None if part is None else np.asarray(part, dtype=np.float64)[keep] for part in (weight, offset))
        self.inputs_ = inputs
        self.notes_ = [*target.notes, *([] if inputs.encoder is None else inputs.encoder.notes)]
        model = self._model(x, target, len(x) if weight is None else round(float(weight.sum())), seed)
        options: dict[str, Any] = {"method": self.method, "seed": seed, "progress": False}
        self.posterior_ = fit(model, x, target.values, sample_weight=weight, offset=known, **options)
        self.model_, self.certificate_ = self.posterior_.model, self.posterior_.certificate
        rows = np.random.default_rng(seed).permutation(len(x))[:_ROWS]
        self._seen, self._importances = x[rows], None
        return self

    def _model(self, x: np.ndarray, target: Target, num_rows: int, seed: int) -> BayesianModel:
        """The model, not fitted; its size is that for so many rows.

        Raises:
            ValueError: If a network is given twice, or is none.
        """
        rules, noise, y = self._rules(), target.likelihood, target.values
        dtype = {"float64": torch.float64, "float32": torch.float32}[_check.one_of("dtype", self.dtype, ("float32", "float64"))]
        outputs = noise.num_outputs(target.num_classes) * (y.shape[1] if y.ndim == 2 else 1)
        if self.module is None:
            widths = (hidden_units(num_rows, x.shape[1], outputs),) if self.hidden is None else self._widths()
            made = default_model(x, y, noise, hidden=widths, priors=rules, seed=seed)
            self.notes_.append(network_note(made, len(x)))
            return made.to(dtype=dtype)
        if self.hidden is not None:
            raise ValueError(f"the network must be given once, but module and hidden={self.hidden!r} came; leave one out.")
        if not callable(self.module):
            came = (
                f"module must be a torch.nn.Module, or a function of (inputs, outputs) that makes one, but {self.module!r} came"
            )
            raise ValueError(f"{came}; pass for example module=torch.nn.Linear.")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = self.module if isinstance(self.module, nn.Module) else self.module(x.shape[1], outputs)
        return BayesianModel(module, rules, noise, standardize=True).to(dtype=dtype)

    def _widths(self) -> tuple[int, ...]:
        if not isinstance(self.hidden, (Sequence, np.ndarray)) or isinstance(self.hidden, str):
            example = "hidden=(20,), or hidden=() for a linear model"
            raise ValueError(
                f"hidden must be the widths of the hidden layers, but {self.hidden!r} came; pass for example {example}."
            )
        return tuple(self.hidden)

    def _rules(self) -> Any:
        given = read("prior", self.prior)
        return {"@weight": given} if isinstance(given, AbstractPrior) else given

    def _seed(self) -> int:
        state = self.random_state
        if isinstance(state, (int, np.integer)):
            return _check.seed(int(state))
        return int(check_random_state(state).randint(2**31 - 1))

    # what is asked of the posterior

    def predict_distribution(self, X: Any, offset: Any = None) -> Predictive:
        """p(y | x, data) of each row: mean, std, quantile, interval, log_prob, sample, and the parts of its variance.

        Args:
            X: Rows.
            offset: A known part of each row's output, (N,), as in `fit`; zero when None.

        Raises:
            ValueError: If X has other columns than at the fit, or values that it cannot have.
        """
        check_is_fitted(self)
        options: dict[str, Any] = {"num_samples": self.num_samples, "seed": self.posterior_.seed}
        return self.posterior_.predict(self.inputs_.of(self, X), offset=offset, **options)

    def sample_y(self, X: Any, n_samples: int = 1, random_state: Any = 0) -> np.ndarray:
        """Draws of y, (N, n_samples), or (N, K, n_samples) for K targets; of class labels for classes.

        Raises:
            ValueError: As for `predict_distribution`.
        """
        seed = int(check_random_state(random_state).randint(2**31 - 1))
        draws = self.predict_distribution(X).sample(n_samples, seed=seed)
        return self._named(np.moveaxis(draws.numpy(), 0, -1))

    def log_score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Mean (by weights) log predictive density of y, in nats a row: higher is better.

        As a scorer of searches, also of pipelines: `scoring=bayesreg.sklearn.log_score`.

        Raises:
            ValueError: As for `predict_distribution`, or if y holds what the likelihood has no density for.
        """
        found = self.predict_distribution(X).log_prob(self._encoded(y)).double().numpy()
        return float(np.average(found, weights=None if sample_weight is None else _weights(X, y, sample_weight)))

    def report(
        self, X: Any, y: Any, train: tuple[Any, ...] | None = None, title: str = "What the mode hid", offset: Any = None
    ) -> Report:
        """A page that explains the fit and shows how good it is; `.save("report.html")` writes it.

        Args:
            X: Rows that were not used in the fit.
            y: Their targets.
            train: The training rows and their targets, for baselines beside it: a line, boosting, a forest; with sample_weight
                and offset as third and fourth where the fit had them.
            title: Heading of the page.
            offset: A known part of each row's output, (N,), as in `fit`.

        Raises:
            ValueError: As for `log_score`.
        """
        check_is_fitted(self)
        x, names = self.inputs_.of(self, X), self.inputs_.names
        options: dict[str, Any] = {"feature_names": names, "classes": self._class_names, "notes": self.notes_}
        named = {self.posterior_.method: self.posterior_}
        if train is not None:
            options["baselines"] = self.inputs_.of(self, train[0]), self._encoded(train[1]), *train[2:]
        options |= {"seed": self.posterior_.seed, "title": title, "target_name": _name(y), "offset": offset}
        return report(named, x, self._encoded(y), **options)

    @property
    def feature_importances_(self) -> np.ndarray:
        """How much the function depends on each column of X, (D,): see `bayesreg.metrics.importances`."""
        return self._drawn_importances().mean(0)

    @property
    def feature_importances_std_(self) -> np.ndarray:
        """Sds of `feature_importances_` over draws of the posterior, (D,): 0 for a mode, which knows no other function."""
        return self._drawn_importances().std(0)

    @property
    def coef_(self) -> np.ndarray:
        """Posterior means of a linear model's coefficients, in the data's own units, (D,) or (K, D), by `inputs_.names`."""
        return self._shaped(self._line().slope)

    @property
    def coef_std_(self) -> np.ndarray:
        """Posterior sds of `coef_`."""
        return self._shaped(self._line().slope_std)

    @property
    def intercept_(self) -> Any:
        """The posterior mean of a linear model's output where all inputs are 0, a number or (K,)."""
        found = self._shaped(self._line().intercept)
        return float(found) if found.ndim == 0 else found

    def _drawn_importances(self) -> np.ndarray:
        self._check_fitted("feature_importances_")
        if self._importances is None:
            options = (min(_SEEN_BY, self.num_samples or self.posterior_.usual_draws), self.posterior_.seed)
            self._importances = total_indices(self.posterior_, self._seen, self.inputs_.groups, *options)
        return self._importances

    def _line(self) -> Line:
        self._check_fitted("coef_")
        found = line_of(self.posterior_)
        if found is None:
            raise AttributeError("coef_ and intercept_ need a model that is linear in x, but a network came; pass hidden=().")
        return found

    def _check_fitted(self, name: str) -> None:
        if "posterior_" not in vars(self):
            raise AttributeError(f"{name} needs a fit, but none was made; call fit(X, y).")

    def _shaped(self, values: np.ndarray) -> np.ndarray:
        """(K, ...) as scikit-learn has it."""
        return values if self.posterior_.model.likelihood.labels is not None or len(values) > 1 else values[0]

    @property
    def _class_names(self) -> list[str] | None:
        return None

    def _named(self, y: np.ndarray) -> np.ndarray:
        """The targets as they were given."""
        return y

    @abc.abstractmethod
    def _encoded(self, y: Any) -> np.ndarray:
        """The targets as the likelihood takes them."""

    # how it is shown

    def __str__(self) -> str:
        if "posterior_" not in vars(self):
            return repr(self)
        return "\n".join([repr(self), f"{self.posterior_.method}: {self.certificate_}", str(self.model_.prior_table())])

    def _html_repr(self) -> str:
        page = estimator_html_repr(self)
        if "posterior_" not in vars(self):
            return page
        table, said = self.model_.prior_table(), html.escape(f"{self.posterior_.method}: {self.certificate_}")
        return f"{page}\n<p>{said}</p>\n{html_table(table.heads, table.cells)}"


def log_score(estimator: Any, X: Any, y: Any) -> float:
    """Mean log predictive density in nats a row of an estimator, or of a pipeline that ends in one: a scorer for searches.

    Args:
        estimator: A fitted `BayesRegressor`, `BayesClassifier` or `BayesCounts`, or a `Pipeline` with one as its last step.
        X: Rows.
        y: Their targets.

    >>> from sklearn.model_selection import GridSearchCV
    >>> from bayesreg.sklearn import BayesRegressor, log_score
    >>> X = np.random.default_rng(0).normal(size=(40, 3))
    >>> line = BayesRegressor(hidden=(), method="exact", likelihood="Gaussian(0.1)", prior="Normal(1.0)")
    >>> search = GridSearchCV(line, {"prior__scale": [0.01, 1.0]}, scoring=log_score, cv=3)
    >>> search.fit(X, X[:, 0]).best_params_
    {'prior__scale': 1.0}
    """
    if isinstance(estimator, Pipeline):
        X = X if len(estimator) == 1 else estimator[:-1].transform(X)
        estimator = estimator[-1]
    return estimator.log_score(X, y)


def _weights(X: Any, y: Any, sample_weight: Any) -> np.ndarray:
    """Weights of the rows, (N,).

    Raises:
        ValueError: If they are not one number >= 0 for each row, some of them > 0.
    """
    check_consistent_length(X, y, sample_weight)
    given = np.asarray(sample_weight, dtype=np.float64)
    if given.ndim != 1 or not np.isfinite(given).all() or (given < 0).any() or not (given > 0).any():
        came = f"shape {given.shape} came" if given.ndim != 1 else f"numbers from {given.min():g} to {given.max():g} came"
        must = "sample_weight must be one number >= 0 for each row, and not all of them zero"
        raise ValueError(f"{must}, but {came}; give how often each row counts.")
    return given


def _taken(y: Any, keep: np.ndarray) -> Any:
    """Some of the rows of a target, which stays a category where it is one."""
    pandas = sys.modules.get("pandas")
    return y[keep] if pandas is not None and isinstance(y, pandas.Series) else np.asarray(y)[keep]


def _name(y: Any) -> str | None:
    names = names_of(y)
    return None if names is None else names[0]
