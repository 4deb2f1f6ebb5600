"""The λ dictionary, inwards, for penalties with an L1 part: lasso and elastic net under their names in other tools."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from bayesreg import _check
from bayesreg.priors.dictionary import AbstractTools, half_mean_square, inverse_strength, mean_loss, strength


class LaplaceTools(AbstractTools):
    """What gives `Laplace` its names in other tools: L1, a = 1/scale."""

    scale: Any
    if TYPE_CHECKING:

        def __init__(self, scale: float) -> None: ...

    @property
    def strengths(self) -> tuple[float, float]:
        """(1/scale, 0)."""
        return 1 / self.scale, 0.0

    @classmethod
    def from_lasso(cls, alpha: float, num_data: int, noise_scale: float) -> Self:
        """The prior of `sklearn.linear_model.Lasso(alpha)`: scale = σ²/(Nα).

            ‖y − Xw‖²/(2N) + α ‖w‖₁,  times N/σ²:  scale = σ²/(Nα)

        Unlike Ridge's, Lasso's sum of squares is divided by 2N, so that its α does not grow with the rows. The intercept
        has no penalty: give the bias `Flat()`.

        Args:
            alpha: Lasso's alpha, > 0.
            num_data: Rows N.
            noise_scale: Noise sd σ, > 0, in the units of y.

        Returns:
            The prior of each weight.

        Raises:
            ValueError: If a number is out of its range.

        References:
            Tibshirani (1996), Regression shrinkage and selection via the lasso.

        >>> import torch
        >>> from bayesreg.priors import Laplace
        >>> prior, w = Laplace.from_lasso(0.5, num_data=100, noise_scale=5.0), torch.tensor([1.0, -2.0])
        >>> prior, float(prior.penalty(w)) == 0.5 * (1 + 2) * 100 / 5.0**2
        (Laplace(scale=0.5), True)
        """
        return cls(1 / (half_mean_square(num_data, noise_scale) * strength("alpha", alpha)))

    @classmethod
    def from_logistic(cls, C: float) -> Self:
        """The prior of `sklearn.linear_model.LogisticRegression(C)` with an L1 penalty: scale = C.

            C Σ nll + ‖w‖₁,  over C:  scale = C

        The intercept has no penalty (`Flat()` on the bias), except under the solver liblinear, which penalises it.

        Args:
            C: LogisticRegression's C, > 0: the inverse of a strength.

        Returns:
            The prior of each weight.

        Raises:
            ValueError: If C is not finite and > 0.

        >>> import torch
        >>> from bayesreg.priors import Laplace
        >>> prior, w = Laplace.from_logistic(0.25), torch.tensor([1.0, -2.0])
        >>> prior, float(prior.penalty(w)) == (1 + 2) / 0.25
        (Laplace(scale=0.25), True)
        """
        return cls(inverse_strength(C))

    @classmethod
    def from_keras(
        cls,
        l1: float,
        num_data: int,
        loss: str = "crossentropy",
        noise_scale: float | None = None,
        num_outputs: int = 1,
    ) -> Self:
        """The prior of `keras.regularizers.L1(l1)` on a kernel, under a mean loss.

            crossentropy:  (1/NK) Σ nll + l1 Σ |w|,       times NK:        scale = 1/(NK·l1)
            mse:           (1/NK) Σ (y − f)² + l1 Σ |w|,  times NK/(2σ²):  scale = 2σ²/(NK·l1)

        The same holds for l1 Σ |w| added to a mean loss by hand, in torch or elsewhere.

        Args:
            l1: The regulariser's factor, > 0.
            num_data: Rows N of the training data.
            loss: "crossentropy" or "mse".
            noise_scale: Noise sd σ, > 0, in the units of y; for "mse" only.
            num_outputs: Values K over which the mean runs in each row; see `Normal.from_keras`.

        Returns:
            The prior of each weight.

        Raises:
            ValueError: If a number is out of its range, or noise_scale is missing for "mse" or given for "crossentropy".

        >>> from bayesreg.priors import Laplace
        >>> Laplace.from_keras(0.04, num_data=100), Laplace.from_keras(0.04, 100, loss="mse", noise_scale=2.0)
        (Laplace(scale=0.25), Laplace(scale=2.0))
        """
        factor = mean_loss(loss, "crossentropy", num_data, noise_scale, num_outputs)
        return cls(1 / (factor * strength("l1", l1)))

    @classmethod
    def from_glmnet(cls, lambda_: float, num_data: int, noise_scale: float) -> Self:
        """The prior of glmnet with alpha = 1, its default: scale = σ²/(Nλ), Lasso's on standardised columns.

            ‖y − Xw‖²/(2N) + λ ‖w‖₁,  times N/σ²:  scale = σ²/(Nλ)

        glmnet divides each column of x by its sd (denominator N) unless told standardize=FALSE: the prior is that of the
        standardised columns' weights. That it divides y too does not change an L1 penalty.

        Args:
            lambda_: glmnet's lambda, > 0.
            num_data: Rows N.
            noise_scale: Noise sd σ, > 0, in the units of y; 1.0 for the families with a log loss.

        Returns:
            The prior of each weight.

        Raises:
            ValueError: If a number is out of its range.

        References:
            Friedman, Hastie and Tibshirani (2010), Regularization paths for generalized linear models.

        >>> from bayesreg.priors import Laplace
        >>> Laplace.from_glmnet(0.5, 100, noise_scale=5.0) == Laplace.from_lasso(0.5, 100, noise_scale=5.0)
        True
        """
        return cls(1 / (half_mean_square(num_data, noise_scale) * strength("lambda_", lambda_)))


class ElasticNetTools(AbstractTools):
    """What gives `ElasticNet` its names in other tools: a = 1/l1_scale, c = 1/l2_scale²."""

    l1_scale: Any
    l2_scale: Any
    if TYPE_CHECKING:

        def __init__(self, l1_scale: float, l2_scale: float) -> None: ...

    @property
    def strengths(self) -> tuple[float, float]:
        """(1/l1_scale, 1/l2_scale²)."""
        return 1 / self.l1_scale, 1 / self.l2_scale**2

    @classmethod
    def from_sklearn(cls, alpha: float, l1_ratio: float, num_data: int, noise_scale: float) -> Self:
        """The prior of `sklearn.linear_model.ElasticNet(alpha, l1_ratio=ρ)`.

            ‖y − Xw‖²/(2N) + αρ ‖w‖₁ + ½ α(1 − ρ) ‖w‖²,  times N/σ²:  l1_scale = σ²/(Nαρ),  l2_scale² = σ²/(Nα(1 − ρ))

        The intercept has no penalty: give the bias `Flat()`.

        Args:
            alpha: ElasticNet's alpha, > 0.
            l1_ratio: ElasticNet's l1_ratio ρ, between 0 and 1, both excluded.
            num_data: Rows N.
            noise_scale: Noise sd σ, > 0, in the units of y.

        Returns:
            The prior of each weight.

        Raises:
            ValueError: If a number is out of its range; at l1_ratio 0 or 1 the other prior is named.

        References:
            Zou and Hastie (2005), Regularization and variable selection via the elastic net.

        >>> import torch
        >>> from bayesreg.priors import ElasticNet
        >>> prior, w = ElasticNet.from_sklearn(2.0, 0.5, num_data=100, noise_scale=5.0), torch.tensor([1.0, -2.0])
        >>> prior, float(prior.penalty(w)) == (2 * 0.5 * (1 + 2) + 0.5 * 2 * 0.5 * (1 + 4)) * 100 / 5.0**2
        (ElasticNet(l1_scale=0.25, l2_scale=0.5), True)
        """
        total = half_mean_square(num_data, noise_scale) * strength("alpha", alpha)
        return cls._mixed(total, "l1_ratio", l1_ratio, "Normal.from_ridge(alpha * num_data, ...)", "Laplace.from_lasso(...)")

    @classmethod
    def from_logistic(cls, C: float, l1_ratio: float) -> Self:
        """The prior of `sklearn.linear_model.LogisticRegression(C, l1_ratio=ρ, solver="saga")`.

            C Σ nll + ρ ‖w‖₁ + ½ (1 − ρ) ‖w‖²,  over C:  l1_scale = C/ρ,  l2_scale² = C/(1 − ρ)

        The intercept has no penalty: give the bias `Flat()`.

        Args:
            C: LogisticRegression's C, > 0: the inverse of a strength.
            l1_ratio: LogisticRegression's l1_ratio ρ, between 0 and 1, both excluded.

        Returns:
            The prior of each weight.

        Raises:
            ValueError: If a number is out of its range; at l1_ratio 0 or 1 the other prior is named.

        >>> from bayesreg.priors import ElasticNet
        >>> ElasticNet.from_logistic(0.125, l1_ratio=0.5)
        ElasticNet(l1_scale=0.25, l2_scale=0.5)
        """
        return cls._mixed(1 / inverse_strength(C), "l1_ratio", l1_ratio, "Normal.from_logistic(C)", "Laplace.from_logistic(C)")

    @classmethod
    def from_glmnet(cls, lambda_: float, alpha: float, num_data: int, noise_scale: float) -> Self:
        """The prior of glmnet(x, y, alpha, lambda), by its documented objective.

            ‖y − Xw‖²/(2N) + λ [α ‖w‖₁ + ½ (1 − α) ‖w‖²],  times N/σ²:  l1_scale = σ²/(Nλα),  l2_scale² = σ²/(Nλ(1 − α))

        What scikit-learn calls alpha is glmnet's lambda, and its l1_ratio glmnet's alpha. The prior is that of standardised
        columns' weights, and y must have unit sd: see `Normal.from_glmnet`.

        Args:
            lambda_: glmnet's lambda, > 0.
            alpha: glmnet's alpha, between 0 and 1, both excluded.
            num_data: Rows N.
            noise_scale: Noise sd σ, > 0, in the units of y; 1.0 for the families with a log loss.

        Returns:
            The prior of each weight.

        Raises:
            ValueError: If a number is out of its range; at alpha 0 or 1 the other prior is named.

        References:
            Friedman, Hastie and Tibshirani (2010), Regularization paths for generalized linear models.

        >>> from bayesreg.priors import ElasticNet
        >>> ElasticNet.from_glmnet(0.5, 0.2, 100, noise_scale=5.0) == ElasticNet.from_sklearn(0.5, 0.2, 100, noise_scale=5.0)
        True
        """
        total = half_mean_square(num_data, noise_scale) * strength("lambda_", lambda_)
        return cls._mixed(total, "alpha", alpha, "Normal.from_glmnet(...)", "Laplace.from_glmnet(...)")

    @classmethod
    def from_keras(
        cls,
        l1: float,
        l2: float,
        num_data: int,
        loss: str = "crossentropy",
        noise_scale: float | None = None,
        num_outputs: int = 1,
    ) -> Self:
        """The prior of `keras.regularizers.L1L2(l1, l2)` on a kernel, under a mean loss.

            crossentropy:  (1/NK) Σ nll + l1 Σ |w| + l2 Σ w²:       l1_scale = 1/(NK·l1),    l2_scale² = 1/(2NK·l2)
            mse:           (1/NK) Σ (y − f)² + l1 Σ |w| + l2 Σ w²:  l1_scale = 2σ²/(NK·l1),  l2_scale² = σ²/(NK·l2)

        Args:
            l1: The factor of Σ |w|, > 0.
            l2: The factor of Σ w², > 0.
            num_data: Rows N of the training data.
            loss: "crossentropy" or "mse".
            noise_scale: Noise sd σ, > 0, in the units of y; for "mse" only.
            num_outputs: Values K over which the mean runs in each row; see `Normal.from_keras`.

        Returns:
            The prior of each weight.

        Raises:
            ValueError: If a number is out of its range, or noise_scale is missing for "mse" or given for "crossentropy".

        >>> from bayesreg.priors import ElasticNet
        >>> ElasticNet.from_keras(0.04, 0.02, num_data=100)
        ElasticNet(l1_scale=0.25, l2_scale=0.5)
        """
        for name, value, other in (("l1", l1, "Normal.from_keras(l2, ...)"), ("l2", l2, "Laplace.from_keras(l1, ...)")):
            if _check.finite(name, value) == 0:
                raise ValueError(f"{name} must be > 0, but {value!r} came: one part alone is left; use {other}.")
        factor = mean_loss(loss, "crossentropy", num_data, noise_scale, num_outputs)
        return cls(1 / (factor * _check.positive("l1", l1)), (2 * factor * _check.positive("l2", l2)) ** -0.5)

    @classmethod
    def _mixed(cls, total: float, name: str, ratio: float, all_l2: str, all_l1: str) -> Self:
        """The prior of total · [ratio Σ |w| + ½ (1 − ratio) Σ w²].

        Raises:
            ValueError: If the ratio does not lie between 0 and 1.
        """
        number = _check.finite(name, ratio)
        if not 0 < number < 1:
            part = f" 0 is all L2, {all_l2}, and 1 all L1, {all_l1}."
            raise ValueError(f"{name} must lie between 0 and 1, both excluded, but {ratio!r} came;{part}")
        return cls(1 / (total * number), (total * (1 - number)) ** -0.5)
