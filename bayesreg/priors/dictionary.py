"""The λ dictionary, inwards: what another tool calls its penalty, as a prior. `equivalents` is the way back.

    tool's objective × factor = −log p(y | w) + a Σ |w| + ½ c Σ w² + const,      Laplace scale 1/a, Normal sd 1/√c

The factor is whatever makes the tool's loss a log-likelihood in nats: N·K for a mean log loss over N rows of K values,
N·K/(2σ²) for a mean squared error, 1/(2σ²) for a residual sum of squares. The rest is reading off a and c.
"""

from __future__ import annotations

import abc
import math
from typing import TYPE_CHECKING, Any, Self

from bayesreg import _check


class AbstractTools(abc.ABC):
    """A prior whose penalty a Σ |w| + ½ c Σ w² other tools have too."""

    @property
    @abc.abstractmethod
    def strengths(self) -> tuple[float, float]:
        """(a, c), in nats a unit of |w| and a unit of w²/2."""


class NormalTools(AbstractTools):
    """What gives `Normal` its names in other tools: L2, c = 1/scale²."""

    scale: Any
    if TYPE_CHECKING:

        def __init__(self, scale: float) -> None: ...

    @property
    def strengths(self) -> tuple[float, float]:
        """(0, 1/scale²)."""
        return 0.0, (1 / self.scale) ** 2

    @classmethod
    def from_ridge(cls, alpha: float, noise_scale: float) -> Self:
        """The prior of `sklearn.linear_model.Ridge(alpha)`: scale = σ/√α.

            ‖y − Xw‖² + α ‖w‖²,  over 2σ²:  scale² = σ²/α

        The sum of squares is not divided by N, so that α does not depend on the number of rows. Ridge's intercept has no
        penalty: give the bias `Flat()`.

        Args:
            alpha: Ridge's alpha, > 0.
            noise_scale: Noise sd σ, > 0, in the units of y.

        Returns:
            The prior of each weight.

        Raises:
            ValueError: If alpha or noise_scale is not > 0.

        References:
            Hoerl and Kennard (1970), Ridge regression.

        >>> import torch
        >>> from bayesreg.priors import Normal
        >>> prior, w = Normal.from_ridge(alpha=4.0, noise_scale=1.0), torch.tensor([1.0, -2.0])
        >>> prior, float(prior.penalty(w)) == 4.0 * (1 + 4) / (2 * 1.0**2)
        (Normal(scale=0.5), True)
        """
        return cls(_check.squared("noise_scale", noise_scale) / math.sqrt(strength("alpha", alpha)))

    @classmethod
    def from_damp(cls, damp: float, noise_scale: float) -> Self:
        """The prior of `scipy.sparse.linalg.lsqr(A, b, damp)`, of LSMR and of pylops: scale = σ/damp.

            ‖b − Ax‖² + damp² ‖x‖²,  over 2σ²:  scale = σ/damp

        It is Tikhonov's regularisation, and Ridge with alpha = damp².

        Args:
            damp: The solver's damp, > 0.
            noise_scale: Noise sd σ, > 0, in the units of b.

        Returns:
            The prior of each unknown.

        Raises:
            ValueError: If damp or noise_scale is not > 0.

        References:
            Paige and Saunders (1982), LSQR: an algorithm for sparse linear equations and sparse least squares.

        >>> from bayesreg.priors import Normal
        >>> Normal.from_damp(2.0, noise_scale=3.0) == Normal.from_ridge(2.0**2, noise_scale=3.0)
        True
        """
        return cls(_check.squared("noise_scale", noise_scale) / strength("damp", damp))

    @classmethod
    def from_logistic(cls, C: float) -> Self:
        """The prior of `sklearn.linear_model.LogisticRegression(C)` with its L2 penalty: scale = √C.

            C Σ nll + ½ ‖w‖²,  over C:  scale² = C

        The likelihood is `Bernoulli()`, or `Categorical()` for more classes. The intercept has no penalty: give the bias
        `Flat()`. The solver liblinear alone penalises it like a weight.

        Args:
            C: LogisticRegression's C, > 0: the inverse of a strength.

        Returns:
            The prior of each weight.

        Raises:
            ValueError: If C is not finite and > 0.

        >>> import torch
        >>> from bayesreg.priors import Normal
        >>> prior, w = Normal.from_logistic(0.25), torch.tensor([1.0, -2.0])
        >>> prior, float(prior.penalty(w)) == 0.5 * (1 + 4) / 0.25
        (Normal(scale=0.5), True)
        """
        return cls(math.sqrt(inverse_strength(C)))

    @classmethod
    def from_weight_decay(
        cls,
        decay: float,
        num_data: int,
        loss: str = "nll",
        noise_scale: float | None = None,
        num_outputs: int = 1,
        optimizer: str = "sgd",
    ) -> Self:
        """The prior of `torch.optim.SGD` or `Adam` with weight_decay = λ under a mean loss.

            log loss:  (1/NK) Σ nll + (λ/2) ‖w‖²,      times NK:        scale² = 1/(NKλ)
            MSELoss:   (1/NK) Σ (y − f)² + (λ/2) ‖w‖²,  times NK/(2σ²):  scale² = 2σ²/(NKλ)

        The decay acts on every parameter that the optimizer was given, biases too. N is the whole data set's, also when
        the steps see batches.

        Args:
            decay: The optimizer's weight_decay λ, > 0.
            num_data: Rows N of the training data.
            loss: "nll" for a mean log loss (CrossEntropyLoss, BCEWithLogitsLoss, GaussianNLLLoss), "mse" for MSELoss.
            noise_scale: Noise sd σ, > 0, in the units of y; for "mse" only, since a log loss holds it already.
            num_outputs: Values K over which the mean runs in each row: the outputs for MSELoss, GaussianNLLLoss and
                BCEWithLogitsLoss; 1 for CrossEntropyLoss however many classes there are, since its mean is over rows.
            optimizer: "sgd" or "adam". AdamW is refused: its decay stands beside the scaled gradient, not in it, so that full
                batches end at the fit without a penalty (while every λ|w| < 1), and mini-batches at an answer that depends
                on their noise.

        Returns:
            The prior of each weight.

        Raises:
            ValueError: If a number is out of its range, noise_scale is missing for "mse" or given for "nll", or the
                optimizer is not one whose decay is the gradient of a penalty.

        References:
            Loshchilov and Hutter (2019), Decoupled weight decay regularization.

        >>> import torch
        >>> from bayesreg.priors import Normal
        >>> Normal.from_weight_decay(0.04, num_data=100), Normal.from_weight_decay(0.08, 100, loss="mse", noise_scale=2.0)
        (Normal(scale=0.5), Normal(scale=1.0))

        A loss of ½ (w − 3)² a row with λ = 0.1 has its mode at 3/(1 + λ) = 2.73. AdamW ends at 3, as if there were no decay:

        >>> def fitted(optimizer, lr, steps, **settings):
        ...     w = torch.ones((), requires_grad=True)
        ...     running = optimizer([w], lr=lr, weight_decay=0.1, **settings)
        ...     for _ in range(steps):
        ...         w.grad = w.detach() - 3
        ...         _ = running.step()
        ...     return round(float(w.detach()), 2)
        >>> fitted(torch.optim.SGD, 0.1, 100), fitted(torch.optim.Adam, 0.01, 2000, betas=(0.9, 0.99))
        (2.73, 2.73)
        >>> fitted(torch.optim.AdamW, 0.01, 2000, betas=(0.9, 0.99))
        3.0
        >>> Normal.from_weight_decay(0.1, num_data=100, optimizer="adamw")
        Traceback (most recent call last):
        ValueError: optimizer must be 'sgd' or 'adam', but 'adamw' came: its decay is not the gradient of any penalty, ...
        """
        if optimizer == "adamw":
            raise ValueError(
                "optimizer must be 'sgd' or 'adam', but 'adamw' came: its decay is not the gradient of any penalty, so that no "
                "prior has its answer; train by Adam or SGD with weight_decay, or fit the prior by method='map'."
            )
        _check.one_of("optimizer", optimizer, ("sgd", "adam"))
        factor = mean_loss(loss, "nll", num_data, noise_scale, num_outputs)
        return cls(1 / math.sqrt(factor * strength("decay", decay)))

    @classmethod
    def from_keras(
        cls,
        l2: float,
        num_data: int,
        loss: str = "crossentropy",
        noise_scale: float | None = None,
        num_outputs: int = 1,
    ) -> Self:
        """The prior of `keras.regularizers.L2(l2)` on a kernel, under a mean loss.

            crossentropy:  (1/NK) Σ nll + l2 Σ w²,       times NK:        scale² = 1/(2NK·l2)
            mse:           (1/NK) Σ (y − f)² + l2 Σ w²,  times NK/(2σ²):  scale² = σ²/(NK·l2)

        There is no ½ before l2. The weight_decay of a Keras optimizer is decoupled, as AdamW's, and no prior.

        Args:
            l2: The regulariser's factor, > 0.
            num_data: Rows N of the training data.
            loss: "crossentropy" or "mse".
            noise_scale: Noise sd σ, > 0, in the units of y; for "mse" only.
            num_outputs: Values K over which the mean runs in each row: the outputs for mse and binary_crossentropy; 1 for
                the categorical crossentropies.

        Returns:
            The prior of each weight.

        Raises:
            ValueError: If a number is out of its range, or noise_scale is missing for "mse" or given for "crossentropy".

        >>> from bayesreg.priors import Normal
        >>> Normal.from_keras(0.02, num_data=100) == Normal.from_weight_decay(2 * 0.02, num_data=100)
        True
        """
        factor = mean_loss(loss, "crossentropy", num_data, noise_scale, num_outputs)
        return cls(1 / math.sqrt(2 * factor * strength("l2", l2)))

    @classmethod
    def from_glmnet(cls, lambda_: float, num_data: int, noise_scale: float) -> Self:
        """The prior of glmnet with alpha = 0, by its documented objective: scale = σ/√(Nλ).

            ‖y − Xw‖²/(2N) + (λ/2) ‖w‖²,  times N/σ²:  scale² = σ²/(Nλ)

        glmnet divides each column of x by its sd (denominator N) unless told standardize=FALSE: the prior is that of the
        standardised columns' weights. In the Gaussian family it divides y too, and takes λ over y's sd, which the
        documented objective does not say and which changes the L2 part: pass y of unit sd (denominator N) to both.

        Args:
            lambda_: glmnet's lambda, > 0.
            num_data: Rows N.
            noise_scale: Noise sd σ, > 0, in the units of y. For family = "binomial", "multinomial" or "poisson", whose
                loss is a mean log loss, pass 1.0.

        Returns:
            The prior of each weight.

        Raises:
            ValueError: If a number is out of its range.

        References:
            Friedman, Hastie and Tibshirani (2010), Regularization paths for generalized linear models.

        >>> from bayesreg.priors import Normal
        >>> Normal.from_glmnet(0.04, num_data=100, noise_scale=3.0) == Normal.from_ridge(100 * 0.04, noise_scale=3.0)
        True
        """
        return cls(1 / math.sqrt(half_mean_square(num_data, noise_scale) * strength("lambda_", lambda_)))


def strength(name: str, value: Any) -> float:
    """Return a penalty's factor as a float that is finite and > 0.

    Args:
        name: What the tool calls it, for an error.
        value: The factor.

    Returns:
        The factor.

    Raises:
        ValueError: If it is not; zero is told to be `Flat()`.
    """
    if _check.finite(name, value) == 0:
        raise ValueError(f"{name} must be > 0, but {value!r} came: that is no penalty; use Flat().")
    return _check.positive(name, value)


def inverse_strength(C: Any) -> float:
    """Return LogisticRegression's C as a float that is finite and > 0.

    Args:
        C: The inverse of a penalty's factor.

    Returns:
        C.

    Raises:
        ValueError: If it is not; infinity is told to be `Flat()`.
    """
    if isinstance(C, float) and C > 0 and math.isinf(C):
        raise ValueError(f"C must be finite, but {C!r} came: that is no penalty; use Flat().")
    return _check.positive("C", C)


def mean_loss(loss: str, log_loss: str, num_data: int, noise_scale: float | None, num_outputs: int) -> float:
    """What makes a mean loss over N rows of K values −log p(y | w): N·K, and N·K/(2σ²) for a squared error.

    Args:
        loss: "mse", or the name of a log loss.
        log_loss: That name in this tool.
        num_data: Rows N.
        noise_scale: Noise sd σ, for "mse" only.
        num_outputs: Values K in each row over which the mean runs.

    Returns:
        The factor.

    Raises:
        ValueError: If an argument is out of its range, missing or in excess.
    """
    _check.one_of("loss", loss, (log_loss, "mse"))
    terms = _check.count("num_data", num_data) * _check.count("num_outputs", num_outputs)
    if loss == "mse":
        if noise_scale is None:
            raise ValueError(
                "noise_scale must be given with loss='mse', whose squares become nats only when divided by 2σ², but None came; "
                "pass the noise sd, for example noise_scale=1.0."
            )
        return terms / (2 * _check.squared("noise_scale", noise_scale) ** 2)
    if noise_scale is not None:
        raise ValueError(
            f"noise_scale must be left out with loss={log_loss!r}, which is in nats already, but {noise_scale!r} came; leave "
            "it out, or say loss='mse'."
        )
    return float(terms)


def half_mean_square(num_data: int, noise_scale: float) -> float:
    """What makes a residual sum of squares over 2N −log p(y | w): N/σ².

    Args:
        num_data: Rows N.
        noise_scale: Noise sd σ.

    Returns:
        The factor.
    """
    return _check.count("num_data", num_data) / _check.squared("noise_scale", noise_scale) ** 2
