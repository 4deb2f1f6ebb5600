"""What a person would try first, as posteriors that stand in a comparison: a constant, a line, boosted trees, a forest.

    y = f(x) + ε,   ε ~ N(0, σ²),   σ² = mean over rows of (y − f₋ᵢ(x))²,   f₋ᵢ fitted without the row's fold

Their noise is that of residuals on rows that were left out, never of training residuals, which trees bring to zero. Classes
have the probabilities (1 − λ) p(x) + λ · shares, where λ has the highest log score on rows that were left out: a leaf may say
that a class never occurs, and one row then decides the comparison. Counts are negative binomial about the mean of a Poisson
regression or of trees with that loss; positive numbers are normal or log-normal about fits of y or log y, as rows left out say.

Rows may count by weights. A known part o of the output, an offset, is taken off what is fitted, y − o or log y − o; of counts,
whose mean is exp(o) times the rate, y/exp(o) is fitted with weights exp(o), which is the same Poisson regression.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, final

import numpy as np
import torch
from torch import nn

from bayesreg import _check
from bayesreg._text import listing, plus_minus
from bayesreg.certificates.certificate import Certificate
from bayesreg.certificates.outcome import Finding
from bayesreg.data.row_terms import RowTerms
from bayesreg.data.rows import all_rows
from bayesreg.likelihoods import AbstractLikelihood, Bernoulli, Categorical, Gaussian, LogNormal, NegativeBinomial
from bayesreg.metrics.difference import Difference, paired_difference
from bayesreg.metrics.measures import Scores, evaluate, plain
from bayesreg.model import BayesianModel
from bayesreg.posteriors import AbstractPosterior, Dirac, FitRecord
from bayesreg.priors import Flat
from bayesreg.solvers.history import History

NAMES = ("constant", "linear", "boosting", "forest")
_FOLDS, _TREES = 5, 200
_ALPHAS = np.logspace(-3, 5, 25)
_DISPERSIONS = np.logspace(-4, 1.5, 45)
_STRENGTHS = np.logspace(-3, 3, 7)  # C of a logistic regression, a variance of its coefficients
_BLENDS = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
_LEAST = 1e-6  # of a probability
WORDS = {
    "regression": {"constant": "mean", "linear": "ridge", "boosting": "boosting", "forest": "forest"},
    "counts": {"constant": "mean", "linear": "poisson", "boosting": "boosting", "forest": "forest"},
    "classes": {"constant": "class shares", "linear": "logistic", "boosting": "boosting", "forest": "forest"},
}
_PLAIN = {
    "mean": "the mean",
    "class shares": "the class shares",
    "ridge": "a line (ridge)",
    "poisson": "a line (Poisson)",
    "logistic": "a line (logistic)",
}
Predict = Callable[[np.ndarray], np.ndarray]


@final
@dataclass(frozen=True)
class Beside:
    """A baseline on the rows of a comparison.

    Attributes:
        scores: All metrics.
        difference: Its log predictive density minus that of the comparison's best posterior, paired by row.
        seconds: Duration of its fit.
        offset: Whether it was fitted with the offset that the rows of the comparison have, if they have one.
        weighted: Whether its training rows count by weights.
    """

    scores: Scores
    difference: Difference
    seconds: float
    offset: bool = True
    weighted: bool = False

    @property
    def as_good(self) -> bool:
        """Whether these rows do not tell that it is worse: Δ >= −2 se."""
        return self.difference.sum >= -2 * self.difference.sum_se

    @property
    def ahead(self) -> bool:
        """Whether they tell that it is better: Δ > 2 se."""
        return self.difference.sum > 2 * self.difference.sum_se

    def to_dict(self) -> dict[str, Any]:
        """The same as plain types, ready for JSON."""
        found = {"seconds": plain(self.seconds), "log_density_difference": self.difference.to_dict()}
        return found | {"scores": self.scores.to_dict()}


def beside(
    baselines: Mapping[str, AbstractPosterior], X: Any, y: Any, best: torch.Tensor, *, seed: int = 0, offset: Any = None
) -> dict[str, Beside]:
    """Score baselines on the rows of a comparison, whose best posterior has these log densities, (N,)."""
    found = {}
    for name, baseline in baselines.items():
        module = baseline.model.module
        knows, weighted = (module.offset, module.weighted) if isinstance(module, Fitted) else (True, False)
        known = {"offset": offset} if knows and offset is not None else {}
        predictive, targets = baseline.predict(X, **known), baseline.model.targets(y)
        difference = paired_difference(predictive.log_prob(targets), best)
        scores = evaluate(predictive, targets, seed=seed)
        found[name] = Beside(scores, difference, baseline.elapsed, knows or offset is None, weighted)
    return found


def verdict(best: str, baselines: Mapping[str, Beside]) -> tuple[bool | None, str]:
    """One sentence on whether a fit is worth more than what is simpler.

    Args:
        best: Name of the fit.
        baselines: From the simplest on.

    Returns:
        True where it is ahead of all, False where something is ahead of it or the simplest does as well, None between; and
        the sentence.
    """
    ahead = {name: one for name, one in baselines.items() if one.ahead}
    if ahead:
        name, one = max(ahead.items(), key=lambda pair: pair[1].difference.sum)
        return False, f"{name} is ahead of {best}, by {plus_minus(one.difference.sum, one.difference.sum_se)} nats."
    for name, one in baselines.items():
        if one.as_good:
            what = _PLAIN.get(name, name)
            simplest = name in (words["constant"] for words in WORDS.values())
            verb = "do" if what.endswith("shares") else "does"
            near = one.difference.sum >= -one.difference.sum_se
            by = plus_minus(one.difference.sum, one.difference.sum_se)
            said = f"{verb} as well as {best} on these rows" if near else f"may do as well as {best}: {by} nats on these rows"
            return (False if simplest else None), f"{what[0].upper()}{what[1:]} {said}."
    return True, f"{best} is ahead of {listing(list(baselines))}."


class Fitted(nn.Module):
    """A fitted function as a module; its one parameter is the constant that is added to each output.

    Args:
        predict: From inputs (N, D) to outputs (N,) or (N, K), NumPy arrays.
        outputs: K, or 0 for outputs (N,).
        offset: Whether an offset was taken off, which predictions add again.
        weighted: Whether rows counted by weights.
    """

    def __init__(self, predict: Predict, outputs: int, offset: bool = False, weighted: bool = False) -> None:
        super().__init__()
        self.predict, self.offset, self.weighted = predict, offset, weighted
        self.constant = nn.Parameter(torch.zeros((outputs,) if outputs else (), dtype=torch.float64))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The function's values, plus the constant."""
        found = np.array(self.predict(x.detach().cpu().double().numpy()), dtype=np.float64)  # its own memory
        return torch.from_numpy(found).to(x) + self.constant.to(x)


@dataclass(frozen=True)
class _Task:
    """Training rows and how they are divided; `offset` is that of counts, of other numbers it has been taken off."""

    X: np.ndarray
    y: np.ndarray
    num_classes: int | None
    seed: int
    counts: bool = False
    weight: np.ndarray | None = None
    offset: np.ndarray | None = None
    with_offset: bool = False

    def trained(self, model: Any, rows: Any = slice(None)) -> Any:
        """A model fitted to some of the rows."""
        if self.offset is None:
            return _trained(model, self.X[rows], self.y[rows], None if self.weight is None else self.weight[rows])
        exposure = np.exp(self.offset[rows])
        weight = exposure if self.weight is None else exposure * self.weight[rows]
        return _trained(model, self.X[rows], self.y[rows] / exposure, weight)

    def average(self, values: np.ndarray) -> float:
        """Over rows as they count."""
        return float(np.average(values, weights=self.weight))

    def folds(self) -> Iterable[tuple[np.ndarray, np.ndarray]]:
        from sklearn.model_selection import KFold, StratifiedKFold

        count = min(_FOLDS, len(self.y))
        if self.num_classes is not None and np.bincount(self.y).min() >= count:
            return StratifiedKFold(count, shuffle=True, random_state=self.seed).split(self.X, self.y)
        return KFold(count, shuffle=True, random_state=self.seed).split(self.X)

    def left_out(self, make: Callable[[], Any]) -> np.ndarray:
        """Predictions of each row by a fit to the other folds: means (N,), or probabilities (N, K)."""
        found = np.zeros(len(self.y) if self.num_classes is None else (len(self.y), self.num_classes))
        for train, rest in self.folds():
            found[rest] = self.predicting(self.trained(make(), train))(self.X[rest])
        return found

    def judged(self, name: str) -> tuple[np.ndarray, Predict]:
        """Predictions of rows that were left out, and those of a fit to all rows.

        A forest needs no folds: each row is predicted by the trees whose bootstrap sample lacks it.
        """
        make = _makers(self)[name]
        model = self.trained(make())
        if name != "forest":
            return self.left_out(make), self.predicting(model)
        found = model.oob_prediction_ if self.num_classes is None else np.zeros((len(self.y), self.num_classes))
        if self.num_classes is not None:
            found[:, model.classes_] = model.oob_decision_function_
        return found, self.predicting(model)

    def predicting(self, model: Any) -> Predict:
        """A fitted model's means, or probabilities of all classes, also of those that its rows lacked."""
        if self.num_classes is None:
            return lambda X: model.predict(X)

        def probabilities(X: np.ndarray) -> np.ndarray:
            found = np.zeros((len(X), self.num_classes or 0))
            found[:, model.classes_] = model.predict_proba(X)
            return found

        return probabilities

    def shares(self) -> np.ndarray:
        """Of the classes, with one row more for each, so that none is impossible."""
        counts = np.bincount(self.y, self.weight, self.num_classes or 0) + 1.0
        return counts / counts.sum()


def fit_baselines(
    X: Any,
    y: Any,
    likelihood: AbstractLikelihood | None = None,
    *,
    sample_weight: Any = None,
    offset: Any = None,
    seed: int = 0,
    names: Iterable[str] = NAMES,
) -> dict[str, AbstractPosterior]:
    """The mean or class shares, ridge or logistic regression, gradient boosting and a random forest, each fitted and judged.

    Each is a point with a likelihood, so that `compare` scores it by the same code as any posterior: log density, RMSE, CRPS,
    coverage. Strengths of penalties, noise and blends come from five-fold cross-validation inside these rows.

    Args:
        X: Training inputs (N, D), numbers without missing values.
        y: Training targets (N,).
        likelihood: What the posteriors beside them assume, which says what is predicted; Gaussian when None.
        sample_weight: How often each row counts, (N,), >= 0.
        offset: A known part of each row's output, (N,), as for `fit`; classes have baselines without it.
        seed: Of folds and trees.
        names: Which: some of "constant", "linear", "boosting", "forest".

    Returns:
        Posteriors by name, from the simplest on: "mean", "ridge", "boosting", "forest", or "class shares", "logistic", ….

    Raises:
        ValueError: If there is more than one target, a name is unknown, or weights or offsets do not fit the rows.

    References:
        Hastie, Tibshirani and Friedman (2009), The elements of statistical learning, chapters 3, 4, 10 and 15.

    >>> X, y = np.arange(20.0)[:, None], np.tile([0.0, 2.0], 10)
    >>> mean = fit_baselines(X, y, names=["constant"])["mean"]
    >>> float(mean.predict(X).mean[0])
    1.0
    """
    wanted = [_check.one_of("a baseline's name", name, NAMES) for name in names]
    X, y = (np.asarray(part.detach().cpu() if isinstance(part, torch.Tensor) else part) for part in all_rows(X, y))
    y = y[:, 0] if y.ndim == 2 and y.shape[1] == 1 else y
    if X.ndim != 2 or y.ndim != 1:
        came = f"inputs {X.shape} and targets {y.shape} came"
        raise ValueError(f"baselines need a table (N, D) and one target (N,), but {came}; compare without baselines.")
    labels = None if likelihood is None else likelihood.labels
    classes = None if labels is None else max(2, int(y.max()) + 1)
    counts = likelihood is not None and likelihood.discrete and not classes
    y = y.astype(np.int64 if classes else np.float64)
    positive = likelihood is not None and likelihood.log_link and not counts
    given = RowTerms.checked((torch.as_tensor(X), torch.as_tensor(y)), sample_weight, offset)
    weight, known = (None if part is None else part.cpu().numpy() for part in (given.weight, given.offset))
    known = None if classes or known is None else known
    if known is not None and known.ndim > 1:
        raise ValueError(f"baselines need one offset a row, (N,), but {known.shape} came; compare without baselines.")
    task = _Task(X.astype(np.float64), y, classes, _check.seed(seed) % 2**32, counts, weight, known, known is not None)
    if weight is not None and not weight.all():
        kept = weight > 0
        known = None if known is None else known[kept]
        task = replace(task, X=task.X[kept], y=y[kept], weight=weight[kept], offset=known)
    if known is not None and not counts and not positive:
        task = replace(task, y=task.y - known, offset=None)
    words = WORDS["classes" if classes else "counts" if counts else "regression"]
    fit = _of_classes if classes else _of_counts if counts else _of_positive if positive else _of_numbers
    return {words[name]: fit(task, name, words[name]) for name in wanted}


def _posterior(task: _Task, predict: Predict, likelihood: AbstractLikelihood, name: str, started: float) -> AbstractPosterior:
    outputs = task.num_classes if (task.num_classes or 0) > 2 else 0
    fitted = Fitted(predict, outputs or 0, task.with_offset, task.weight is not None)
    model = BayesianModel(fitted, Flat(), likelihood, standardize=False)
    bound, _ = model.ingest(task.X, task.y)
    history = History("log joint", notes=["fitted by scikit-learn, its settings and noise by five-fold cross-validation."])
    record = FitRecord(name, task.seed, history, Certificate(Finding.UNCHECKED), time.perf_counter() - started)
    return Dirac(bound, record, torch.zeros(outputs or 1, dtype=torch.float64))


def _of_numbers(task: _Task, name: str, word: str) -> AbstractPosterior:
    started = time.perf_counter()
    left_out, predict = task.judged(name)
    return _posterior(task, predict, Gaussian(_rms(task, left_out)), word, started)


def _rms(task: _Task, left_out: np.ndarray) -> float:
    """Of residuals; where there are none a billionth of the target."""
    return max(task.average((task.y - left_out) ** 2) ** 0.5, 1e-9 * float(np.abs(task.y).max()) or 1e-9)


def _of_positive(task: _Task, name: str, word: str) -> AbstractPosterior:
    """Normal about a fit of y, or log-normal about one of log y, which alone takes an offset."""
    started, known = time.perf_counter(), 0.0 if task.offset is None else task.offset
    logs = replace(task, y=np.log(task.y) - known, offset=None)
    of_logs, predict_logs = logs.judged(name)
    sd_of_logs = _rms(logs, of_logs)
    if task.offset is None:
        left_out, predict = task.judged(name)
        sd = _rms(task, left_out)
        if np.log(sd) <= np.log(sd_of_logs) + logs.average(logs.y):  # both at their maximum: −log sd − ½ log 2πe, and −log y
            return _posterior(task, predict, Gaussian(sd), word, started)
    return _posterior(task, predict_logs, LogNormal(sd_of_logs), word, started)


def _of_counts(task: _Task, name: str, word: str) -> AbstractPosterior:
    """Negative binomial, its dispersion by the rows left out."""
    started, y, least = time.perf_counter(), torch.as_tensor(task.y), 0.5 / len(task.y)
    left_out, predict = task.judged(name)

    def logs(mean: np.ndarray) -> np.ndarray:
        return np.log(np.maximum(mean, least))

    output = torch.as_tensor(logs(left_out) + (0.0 if task.offset is None else task.offset))
    tried = (NegativeBinomial().log_prob(output, y, dispersion=output.new_tensor(d)) for d in _DISPERSIONS)
    best = float(_DISPERSIONS[int(np.argmax([task.average(rows.numpy()) for rows in tried]))])
    return _posterior(task, lambda X: logs(predict(X)), NegativeBinomial(best), word, started)


def _of_classes(task: _Task, name: str, word: str) -> AbstractPosterior:
    started, shares = time.perf_counter(), task.shares()
    if name == "constant":
        return _posterior(task, _logits(lambda X: np.tile(shares, (len(X), 1)), task), _labels(task), word, started)
    rows = np.arange(len(task.y))

    def score(p: np.ndarray) -> float:
        return task.average(np.log(np.maximum(p[rows, task.y], _LEAST)))

    if name == "linear":
        found = [(score(task.left_out(make := _logistic(c))), make) for c in _STRENGTHS]
        make, blend = max(found, key=lambda one: one[0])[1], 0.0
        inner = task.predicting(task.trained(make()))
    else:
        p, inner = task.judged(name)
        blend = max(_BLENDS, key=lambda share: score((1 - share) * p + share * shares))
    return _posterior(task, _logits(lambda X: (1 - blend) * inner(X) + blend * shares, task), _labels(task), word, started)


def _labels(task: _Task) -> AbstractLikelihood:
    return Bernoulli() if task.num_classes == 2 else Categorical()


def _logits(probabilities: Predict, task: _Task) -> Predict:
    """Logarithms of probabilities; for two classes the logit of the second."""

    def found(X: np.ndarray) -> np.ndarray:
        logs = np.log(np.maximum(probabilities(X), _LEAST))
        return logs[:, 1] - logs[:, 0] if task.num_classes == 2 else logs

    return found


def _logistic(strength: float) -> Callable[[], Any]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def make() -> Any:
        made = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))
        return _Quiet(made)

    return make


class _Quiet:
    """A classifier that keeps to itself that its last digits were not reached."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def fit(self, X: np.ndarray, y: np.ndarray, sample_weight: np.ndarray | None = None) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _trained(self.model, X, y, sample_weight)


def _trained(model: Any, X: np.ndarray, y: np.ndarray, weight: np.ndarray | None) -> Any:
    """A fitted model; every step of a pipeline gets the weights."""
    from sklearn.pipeline import Pipeline

    if weight is None:
        return model.fit(X, y)
    steps = [f"{step}__" for step, _ in model.steps] if isinstance(model, Pipeline) else [""]
    return model.fit(X, y, **{f"{step}sample_weight": weight for step in steps})


def _makers(task: _Task) -> dict[str, Callable[[], Any]]:
    """An unfitted model of each name."""
    from sklearn import ensemble
    from sklearn.dummy import DummyRegressor
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    boosting = ensemble.HistGradientBoostingRegressor if task.num_classes is None else ensemble.HistGradientBoostingClassifier
    forest = ensemble.RandomForestRegressor if task.num_classes is None else ensemble.RandomForestClassifier
    of_counts: dict[str, Any] = {"loss": "poisson"} if task.counts else {}
    return {
        "constant": DummyRegressor,
        "linear": lambda: make_pipeline(StandardScaler(), _poisson() if task.counts else RidgeCV(_ALPHAS)),
        "boosting": lambda: boosting(random_state=task.seed, **of_counts),
        "forest": lambda: forest(_TREES, random_state=task.seed, oob_score=True),
    }


def _poisson() -> Any:
    """A Poisson regression, its penalty by cross-validation."""
    from sklearn.linear_model import PoissonRegressor
    from sklearn.model_selection import GridSearchCV

    return GridSearchCV(PoissonRegressor(max_iter=1000), {"alpha": np.logspace(-4, 2, 7)}, scoring="neg_mean_poisson_deviance")
