"""The λ dictionary, from other tools to a prior: a tool's penalty as a prior. `equivalents` goes the other way."""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping
from typing import Any, ClassVar, Self

from bayesreg import _check
from bayesreg.priors.tools import BOTH, L1, L2, Tool

_TORCH = {"nll": "torch SGD, Adam, mean log loss", "mse": "torch SGD, Adam, MSELoss"}
_KERAS = {"crossentropy": "Keras, crossentropy", "mse": "Keras, mse"}


class AbstractTools(abc.ABC):
    """A prior whose penalty a Σ |w| + ½ c Σ w² exists in other tools too.

    Its `from_...` take the number, > 0, that is written in another tool, and give the prior of each weight. `num_data` is N,
    the rows of the whole data set; `noise_scale` σ, the noise sd in the units of y; `num_outputs` K, the values in each row
    over which a mean loss runs: the outputs for a squared error and for binary labels, 1 for the classes of a categorical
    cross-entropy. The tools do not penalise the intercept unless noted: give the bias `Flat()`. A ValueError refuses
    a number out of its range, and a noise scale that is missing for "mse" or given for a log loss, which includes it already.
    """

    tools: ClassVar[tuple[Tool, ...]]

    @property
    @abc.abstractmethod
    def strengths(self) -> tuple[float, float]:
        """(a, c), in nats a unit of |w| and a unit of w²/2."""

    @classmethod
    def _made(cls, *scales: float) -> Self:
        made: Any = cls
        return made(*scales)

    @classmethod
    def _read(
        cls, tool: str, name: str, value: Any, *, num_data: int = 1, noise_scale: float = 1.0, num_outputs: int = 1
    ) -> float:
        """The scale that `tool` means by its number, here called `name`."""
        (row,) = (row for row in cls.tools if row.name == tool)
        number = next((n for n in row.numbers if n.name == name.rstrip("_")), row.numbers[0])
        N, K = _check.count("num_data", num_data), _check.count("num_outputs", num_outputs)
        return number.read(name, value, N, _check.squared("noise_scale", noise_scale), K)

    @classmethod
    def _read_mean(
        cls, loss: str, tools: Mapping[str, str], name: str, value: Any, num_data: int, noise_scale: float | None, K: int
    ) -> float:
        """The same for a number that goes with a mean loss; `tools` has the rows of the table by loss.

        Raises:
            ValueError: If there is no such loss, or the noise scale is missing or in excess.
        """
        _check.one_of("loss", loss, tools)
        if loss == "mse" and noise_scale is None:
            raise ValueError(
                "noise_scale must be given with loss='mse', whose squares become nats only when divided by 2σ², but None came; "
                "pass the noise sd, for example noise_scale=1.0."
            )
        if loss != "mse" and noise_scale is not None:
            raise ValueError(
                f"noise_scale must be left out with loss={loss!r}, which is in nats already, but {noise_scale!r} came; leave "
                "it out, or say loss='mse'."
            )
        sigma = 1.0 if noise_scale is None else noise_scale
        return cls._read(tools[loss], name, value, num_data=num_data, noise_scale=sigma, num_outputs=K)


class _AbstractOneTools(AbstractTools):
    """The common part of `Normal` and `Laplace`, whose penalty has one number."""

    scale: Any

    @classmethod
    def from_logistic(cls, C: float) -> Self:
        """The prior of `sklearn.linear_model.LogisticRegression(C)`, with its L2 penalty or with L1: scale² = C, scale = C.

            C Σ nll + ½ ‖w‖²  or  C Σ nll + ‖w‖₁,  over C

        The likelihood is `Bernoulli()`, or `Categorical()` for more classes. The solver liblinear alone penalises the
        intercept, like a weight.

        >>> import torch
        >>> from bayesreg.priors import Laplace, Normal
        >>> l2, l1, w = Normal.from_logistic(0.25), Laplace.from_logistic(0.25), torch.tensor([1.0, -2.0])
        >>> l2, float(l2.penalty(w)) == 0.5 * (1 + 4) / 0.25
        (Normal(scale=0.5), True)
        >>> l1, float(l1.penalty(w)) == (1 + 2) / 0.25
        (Laplace(scale=0.25), True)
        """
        return cls._made(cls._read("LogisticRegression", "C", C))

    @classmethod
    def from_keras(
        cls, factor: float, num_data: int, loss: str = "crossentropy", noise_scale: float | None = None, num_outputs: int = 1
    ) -> Self:
        """The prior of `keras.regularizers.L2(factor)`, or `L1(factor)`, on a kernel, under a mean loss.

            crossentropy:  (1/NK) Σ nll + l2 Σ w² + l1 Σ |w|:       scale² = 1/(2NK·l2),   scale = 1/(NK·l1)
            mse:           (1/NK) Σ (y − f)² + l2 Σ w² + l1 Σ |w|:  scale² = σ²/(NK·l2),   scale = 2σ²/(NK·l1)

        There is no ½ before l2. The same holds for l1 Σ |w| added to a mean loss by hand, in torch or elsewhere. The
        weight_decay of a Keras optimizer is decoupled, as AdamW's, and no prior.

        >>> from bayesreg.priors import Laplace, Normal
        >>> Normal.from_keras(0.02, num_data=100) == Normal.from_weight_decay(2 * 0.02, num_data=100)
        True
        >>> Laplace.from_keras(0.04, num_data=100), Laplace.from_keras(0.04, 100, loss="mse", noise_scale=2.0)
        (Laplace(scale=0.25), Laplace(scale=2.0))
        """
        name = "l1" if cls.tools is L1 else "l2"
        return cls._made(cls._read_mean(loss, _KERAS, name, factor, num_data, noise_scale, num_outputs))

    @classmethod
    def from_glmnet(cls, lambda_: float, num_data: int, noise_scale: float) -> Self:
        """The prior of glmnet with alpha = 0, or with alpha = 1 for L1, by its documented objective.

            ‖y − Xw‖²/(2N) + (λ/2) ‖w‖²  or  + λ ‖w‖₁,  times N/σ²:  scale² = σ²/(Nλ),  scale = σ²/(Nλ)

        glmnet divides each column of x by its sd (denominator N) unless told standardize=FALSE: the prior is that of the
        standardised columns' weights. In the Gaussian family it divides y too, and takes λ over y's sd, which the
        documented objective does not say and which changes the L2 part, not L1: pass y of unit sd (denominator N) to both.
        For family = "binomial", "multinomial" or "poisson", whose loss is a mean log loss, the noise scale is 1.0.

        References:
            Friedman, Hastie and Tibshirani (2010), Regularization paths for generalized linear models.

        >>> from bayesreg.priors import Laplace, Normal
        >>> Normal.from_glmnet(0.04, num_data=100, noise_scale=3.0) == Normal.from_ridge(100 * 0.04, noise_scale=3.0)
        True
        >>> Laplace.from_glmnet(0.5, 100, noise_scale=5.0) == Laplace.from_lasso(0.5, 100, noise_scale=5.0)
        True
        """
        return cls._made(cls._read("glmnet, gaussian", "lambda_", lambda_, num_data=num_data, noise_scale=noise_scale))


class AbstractNormalTools(_AbstractOneTools):
    """`Normal` from the penalties of other tools: L2, c = 1/scale²."""

    tools: ClassVar[tuple[Tool, ...]] = L2

    @property
    def strengths(self) -> tuple[float, float]:
        """(0, 1/scale²)."""
        return 0.0, (1 / self.scale) ** 2

    @classmethod
    def from_ridge(cls, alpha: float, noise_scale: float) -> Self:
        """The prior of `sklearn.linear_model.Ridge(alpha)`, whose α does not depend on the number of rows: scale = σ/√α.

            ‖y − Xw‖² + α ‖w‖²,  over 2σ²:  scale² = σ²/α

        References:
            Hoerl and Kennard (1970), Ridge regression.

        >>> import torch
        >>> from bayesreg.priors import Normal
        >>> prior, w = Normal.from_ridge(alpha=4.0, noise_scale=1.0), torch.tensor([1.0, -2.0])
        >>> prior, float(prior.penalty(w)) == 4.0 * (1 + 4) / (2 * 1.0**2)
        (Normal(scale=0.5), True)
        """
        return cls._made(cls._read("Ridge", "alpha", alpha, noise_scale=noise_scale))

    @classmethod
    def from_damp(cls, damp: float, noise_scale: float) -> Self:
        """The prior of `scipy.sparse.linalg.lsqr(A, b, damp)`, of LSMR and of pylops, Tikhonov's: scale = σ/damp.

            ‖b − Ax‖² + damp² ‖x‖²,  over 2σ²:  scale = σ/damp

        References:
            Paige and Saunders (1982), LSQR: an algorithm for sparse linear equations and sparse least squares.

        >>> from bayesreg.priors import Normal
        >>> Normal.from_damp(2.0, noise_scale=3.0) == Normal.from_ridge(2.0**2, noise_scale=3.0)
        True
        """
        return cls._made(cls._read("lsqr, lsmr", "damp", damp, noise_scale=noise_scale))

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

        The decay acts on every parameter that the optimizer was given, biases too.

        Args:
            decay: The optimizer's weight_decay λ, > 0.
            num_data: N, also when the steps see batches.
            loss: "nll" for a mean log loss (CrossEntropyLoss, BCEWithLogitsLoss, GaussianNLLLoss), "mse" for MSELoss.
            noise_scale: σ, for "mse" only.
            num_outputs: K; 1 for CrossEntropyLoss however many classes there are, since its mean is over rows.
            optimizer: "sgd" or "adam". AdamW is refused: its decay stands beside the scaled gradient, not in it, so that full
                batches end at the fit without a penalty (while every λ|w| < 1), and mini-batches at an answer that depends
                on their noise.

        Raises:
            ValueError: If the optimizer is not one whose decay is the gradient of a penalty.

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
        return cls._made(cls._read_mean(loss, _TORCH, "decay", decay, num_data, noise_scale, num_outputs))


class AbstractLaplaceTools(_AbstractOneTools):
    """`Laplace` from the penalties of other tools: L1, a = 1/scale."""

    tools: ClassVar[tuple[Tool, ...]] = L1

    @property
    def strengths(self) -> tuple[float, float]:
        """(1/scale, 0)."""
        return 1 / self.scale, 0.0

    @classmethod
    def from_lasso(cls, alpha: float, num_data: int, noise_scale: float) -> Self:
        """The prior of `sklearn.linear_model.Lasso(alpha)`, whose α does not grow with the rows: scale = σ²/(Nα).

            ‖y − Xw‖²/(2N) + α ‖w‖₁,  times N/σ²:  scale = σ²/(Nα)

        References:
            Tibshirani (1996), Regression shrinkage and selection via the lasso.

        >>> import torch
        >>> from bayesreg.priors import Laplace
        >>> prior, w = Laplace.from_lasso(0.5, num_data=100, noise_scale=5.0), torch.tensor([1.0, -2.0])
        >>> prior, float(prior.penalty(w)) == 0.5 * (1 + 2) * 100 / 5.0**2
        (Laplace(scale=0.5), True)
        """
        return cls._made(cls._read("Lasso", "alpha", alpha, num_data=num_data, noise_scale=noise_scale))


class AbstractElasticNetTools(AbstractTools):
    """`ElasticNet` from the penalties of other tools: a = 1/l1_scale, c = 1/l2_scale²; a ratio excludes 0 and 1."""

    tools: ClassVar[tuple[Tool, ...]] = BOTH
    l1_scale: Any
    l2_scale: Any

    @property
    def strengths(self) -> tuple[float, float]:
        """(1/l1_scale, 1/l2_scale²)."""
        return 1 / self.l1_scale, 1 / self.l2_scale**2

    @classmethod
    def from_sklearn(cls, alpha: float, l1_ratio: float, num_data: int, noise_scale: float) -> Self:
        """The prior of `sklearn.linear_model.ElasticNet(alpha, l1_ratio=ρ)`.

            ‖y − Xw‖²/(2N) + αρ ‖w‖₁ + ½ α(1 − ρ) ‖w‖²,  times N/σ²:  l1_scale = σ²/(Nαρ),  l2_scale² = σ²/(Nα(1 − ρ))

        References:
            Zou and Hastie (2005), Regularization and variable selection via the elastic net.

        >>> import torch
        >>> from bayesreg.priors import ElasticNet
        >>> prior, w = ElasticNet.from_sklearn(2.0, 0.5, num_data=100, noise_scale=5.0), torch.tensor([1.0, -2.0])
        >>> prior, float(prior.penalty(w)) == (2 * 0.5 * (1 + 2) + 0.5 * 2 * 0.5 * (1 + 4)) * 100 / 5.0**2
        (ElasticNet(l1_scale=0.25, l2_scale=0.5), True)
        """
        size = cls._read("ElasticNet", "alpha", alpha, num_data=num_data, noise_scale=noise_scale)
        return cls._mixed(size, "l1_ratio", l1_ratio, "Normal.from_ridge(alpha * num_data, ...)", "Laplace.from_lasso(...)")

    @classmethod
    def from_logistic(cls, C: float, l1_ratio: float) -> Self:
        """The prior of `sklearn.linear_model.LogisticRegression(C, l1_ratio=ρ, solver="saga")`.

            C Σ nll + ρ ‖w‖₁ + ½ (1 − ρ) ‖w‖²,  over C:  l1_scale = C/ρ,  l2_scale² = C/(1 − ρ)

        >>> from bayesreg.priors import ElasticNet
        >>> ElasticNet.from_logistic(0.125, l1_ratio=0.5)
        ElasticNet(l1_scale=0.25, l2_scale=0.5)
        """
        size = cls._read("LogisticRegression", "C", C)
        return cls._mixed(size, "l1_ratio", l1_ratio, "Normal.from_logistic(C)", "Laplace.from_logistic(C)")

    @classmethod
    def from_glmnet(cls, lambda_: float, alpha: float, num_data: int, noise_scale: float) -> Self:
        """The prior of glmnet(x, y, alpha, lambda), by its documented objective; on y and columns see `Normal.from_glmnet`.

            ‖y − Xw‖²/(2N) + λ [α ‖w‖₁ + ½ (1 − α) ‖w‖²],  times N/σ²:  l1_scale = σ²/(Nλα),  l2_scale² = σ²/(Nλ(1 − α))

        What scikit-learn calls alpha is glmnet's lambda, and its l1_ratio glmnet's alpha.

        >>> from bayesreg.priors import ElasticNet
        >>> ElasticNet.from_glmnet(0.5, 0.2, 100, noise_scale=5.0) == ElasticNet.from_sklearn(0.5, 0.2, 100, noise_scale=5.0)
        True
        """
        size = cls._read("glmnet, gaussian", "lambda_", lambda_, num_data=num_data, noise_scale=noise_scale)
        return cls._mixed(size, "alpha", alpha, "Normal.from_glmnet(...)", "Laplace.from_glmnet(...)")

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
        """The prior of `keras.regularizers.L1L2(l1, l2)` on a kernel: that of `Laplace.from_keras` and that of `Normal`'s.

        Raises:
            ValueError: If a factor is zero: the other prior is named.

        >>> from bayesreg.priors import ElasticNet
        >>> ElasticNet.from_keras(0.04, 0.02, num_data=100)
        ElasticNet(l1_scale=0.25, l2_scale=0.5)
        """
        scales = []
        for name, value, other in (("l1", l1, "Normal.from_keras(l2, ...)"), ("l2", l2, "Laplace.from_keras(l1, ...)")):
            if _check.finite(name, value) == 0:
                raise ValueError(f"{name} must be > 0, but {value!r} came: one part alone is left; use {other}.")
            scales.append(cls._read_mean(loss, _KERAS, name, value, num_data, noise_scale, num_outputs))
        return cls._made(*scales)

    @classmethod
    def _mixed(cls, size: float, name: str, ratio: float, all_l2: str, all_l1: str) -> Self:
        """The prior of [ratio Σ |w| + ½ (1 − ratio) Σ w²] / size.

        Raises:
            ValueError: If the ratio does not lie between 0 and 1.
        """
        number = _check.finite(name, ratio)
        if not 0 < number < 1:
            part = f" 0 is all L2, {all_l2}, and 1 all L1, {all_l1}."
            raise ValueError(f"{name} must lie between 0 and 1, both excluded, but {ratio!r} came;{part}")
        return cls._made(size / number, math.sqrt(size / (1 - number)))
