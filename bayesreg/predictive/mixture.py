"""The predictive distribution p(y | x, data): a mixture with one component a draw, evaluated exactly and not by sampling y.

    p(y | x, data) = (1/S) Σₛ p(y | x, θₛ)

A mode is the case S = 1. Where the function's values are normal the integral over θ is known, and draws serve only for what is
joint over rows. Everything is in the data's own units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, final

import numpy as np
import torch

from bayesreg import _check
from bayesreg._memory import MAX_MEMORY, check_draws
from bayesreg._threads import drawing
from bayesreg.data.rows import as_tensor
from bayesreg.likelihoods import AbstractLikelihood
from bayesreg.predictive.drawn import Drawn, checked
from bayesreg.predictive.function import AbstractFunction
from bayesreg.predictive.quantiles import of_normals
from bayesreg.predictive.roots import root

# Entries of one block of rows (draws × rows × outputs): 2 MB in float64, so that temporaries stay in the cache. One row
# is the least that a block can hold.
_BLOCK = 2**18
_LEAST_Q = 1e-12


@final
class Predictive:
    """The mixture p(y | x, data) = (1/S) Σₛ p(y | outputₛ, noiseₛ), one component a draw from the posterior.

    Its mean, variance, density, distribution function and quantiles are those of the mixture itself, without
    Monte Carlo error beyond the S draws; only `sample` draws. The variance is the sum of two parts (law of total
    variance), with μₛ and vₛ the mean and the variance of component s:

        Var[y | x] = (1/S) Σₛ vₛ  +  (1/S) Σₛ (μₛ − μ̄)²
                     aleatoric       epistemic

    Args:
        likelihood: What is assumed about the noise; it makes a component from an output.
        output: The network's output for each draw, in the data's own units: (S, N) or (S, N, K). For `Bernoulli`
            and `Categorical` these are logits; for `HeteroscedasticGaussian` locations and log noise scales, (S, N, 2K).
            Or a `Drawn` with noise of its own, which makes them when they are first asked for.
        noise: The likelihood's own latents for each draw, name to a tensor that broadcasts against `output`, for
            example {"noise_scale": (S, 1)}; None when there are none.
        function: The same distribution row by row without Monte Carlo error, where the function's values are normal:
            everything but `sample` then uses it, and `output` are draws of the same function.

    Attributes:
        likelihood: As given.
        drawn: Outputs and noise, detached.
        function: As given.

    Raises:
        ValueError: If `output` has not the axes that the likelihood needs or no entry, if `output` or the noise is
            not finite, or if the noise does not fit.

    References:
        Depeweg, Hernández-Lobato, Doshi-Velez and Udluft (2018), Decomposition of uncertainty in Bayesian deep learning
        for efficient and risk-sensitive learning.

    >>> import torch
    >>> from bayesreg.likelihoods import Gaussian
    >>> predictive = Predictive(Gaussian(), torch.tensor([[0.0], [2.0]]), {"noise_scale": torch.tensor([[1.0], [3.0]])})
    >>> predictive
    Predictive(regression, S=2, N=1)
    >>> predictive.mean, predictive.aleatoric_variance, predictive.epistemic_variance, predictive.variance
    (tensor([1.]), tensor([5.]), tensor([1.]), tensor([6.]))
    """

    def __init__(
        self,
        likelihood: AbstractLikelihood,
        output: torch.Tensor | Drawn,
        noise: Mapping[str, torch.Tensor] | None = None,
        function: AbstractFunction | None = None,
    ) -> None:
        self.likelihood = likelihood
        self.drawn = output if isinstance(output, Drawn) else checked(likelihood, output, noise or {})
        self.function = function

    @property
    def output(self) -> torch.Tensor:
        """The network's output for each draw, (S, N) or (S, N, K); made now where nobody has asked for it before."""
        return self.drawn.output

    @property
    def noise(self) -> dict[str, torch.Tensor]:
        """The likelihood's own latents for each draw, with the axes of `output`."""
        return self.drawn.noise

    @property
    def like(self) -> torch.Tensor:
        """A tensor with the shape, type and device of `output`, for which no draw is made; its entries mean nothing."""
        return self.drawn.like

    @property
    def kind(self) -> str:
        """What is predicted: "regression", "counts", "binary" or "multiclass"."""
        return self.likelihood.kind

    @property
    def num_samples(self) -> int:
        """S, the number of components; 1 for a mode."""
        return self.like.shape[0]

    @property
    def num_components(self) -> int:
        """The components that are computed with: S, or the few of a closed form."""
        return self.num_samples if self.function is None else self.function.num_components

    @property
    def num_rows(self) -> int:
        """N, the number of rows of x."""
        return self.like.shape[1]

    @property
    def num_outputs(self) -> int:
        """K, the width of `mean`: targets of a regression, or classes; 1 where it has no such axis."""
        return self.mean_shape[1] if len(self.mean_shape) > 1 else 1

    @property
    def mean_shape(self) -> torch.Size:
        """The shape of `mean`, (N,) or (N, K), without its computation."""
        return self.likelihood.mean_shape(self.like.shape)[1:]

    @cached_property
    def mean(self) -> torch.Tensor:
        """E[y | x], (N,) or (N, K); for classes their probabilities: P(y = 1) (N,) or (N, K)."""
        if self.function is not None:
            return self.function.mean.to(self.like)
        return self._by_rows(lambda part: part._component_mean().mean(0))

    @cached_property
    def aleatoric_variance(self) -> torch.Tensor:
        """E[Var(y | x, θ)], the noise, which more data would not reduce, in the shape of `mean`."""
        if self.function is not None:
            return self.function.aleatoric_variance.to(self.like)
        return self._by_rows(lambda part: part.likelihood.variance(part.output, **part.noise).mean(0))

    @cached_property
    def epistemic_variance(self) -> torch.Tensor:
        """Var(E[y | x, θ]), the uncertainty about the function, in the shape of `mean`; zero for a mode."""
        if self.function is not None:
            return self.function.epistemic_variance.to(self.like)
        # about the mean, and not E[μ²] − E[μ]²: that one cancels when the mean is large beside the spread
        return self._by_rows(lambda part: part._component_mean().var(0, correction=0))

    @cached_property
    def variance(self) -> torch.Tensor:
        """Var[y | x] = aleatoric + epistemic, in the shape of `mean`."""
        return self.aleatoric_variance + self.epistemic_variance

    @cached_property
    def std(self) -> torch.Tensor:
        """√variance, in the shape of `mean` and the units of y."""
        return self.variance.sqrt()

    def quantile(self, q: float | Sequence[float]) -> torch.Tensor:
        """The q-quantile of the mixture: the root of F(y) = (1/S) Σₛ Fₛ(y) = q, entry by entry.

        For one component it is that component's own closed form. For several it is found in double precision: for normal
        ones by a series of order four, for others by Chandrupatla's method between their smallest and largest quantile.

        Args:
            q: A probability, or several of them, each between 1e-12 and 1 − 1e-12.

        Returns:
            (N,) or (N, K) in the units of y; with a leading axis len(q) when q is a sequence.

        Raises:
            ValueError: If this is no regression, or a q is out of its range.

        References:
            Chandrupatla (1997), A new hybrid quadratic/bisection algorithm for finding the zero of a nonlinear function
            without using derivatives.

        >>> import torch
        >>> from bayesreg.likelihoods import Gaussian
        >>> two = Predictive(Gaussian(), torch.tensor([[-5.0], [5.0]]), {"noise_scale": torch.tensor([[1.0], [1.0]])})
        >>> round(float(two.cdf(two.quantile(0.2))), 6), round(float(two.cdf(two.quantile([0.7])[0])), 6)
        (0.2, 0.7)
        """
        self._numbers_only("quantile(q)")
        single = isinstance(q, (int, float)) or np.ndim(q) == 0
        wanted = np.atleast_1d(np.asarray(q, dtype=float))
        inside = (wanted >= _LEAST_Q) & (wanted <= 1 - _LEAST_Q)  # nearer to the ends, double precision has no tail left
        if wanted.ndim != 1 or wanted.size == 0 or not inside.all():
            raise ValueError(
                f"q must be a probability with 0 < q < 1 ({_LEAST_Q:g} from both ends), or several, but {q!r} came; "
                "for the median pass 0.5."
            )
        found = self._by_rows(lambda part: part._quantiles(wanted.tolist())).movedim(1, 0)
        return found[0] if single else found

    def interval(self, level: float = 0.95) -> tuple[torch.Tensor, torch.Tensor]:
        """The central interval: the (1 − level)/2 and (1 + level)/2 quantiles of the mixture.

        Args:
            level: Probability inside, in (0, 1).

        Returns:
            Lower and upper end, each (N,) or (N, K) in the units of y.

        Raises:
            ValueError: If this is no regression, or the level is not in (0, 1).
        """
        self._numbers_only("interval(level)")
        lower, upper = self.quantile(tails(level))
        return lower, upper

    def cdf(self, y: Any) -> torch.Tensor:
        """F(y) = (1/S) Σₛ Fₛ(y), entry by entry: the probability integral transform (PIT) of y.

        Args:
            y: Targets (N,) or (N, K), in the data's own units.

        Returns:
            Probabilities in the shape of y; where y has a density uniform on (0, 1) when the y come from this predictive.

        Raises:
            ValueError: If this is no regression, or y does not fit.
        """
        self._numbers_only("cdf(y)")
        return self._by_rows(lambda part, target: part._cdf(target), self.target(y))

    def pit(self, y: Any, *, seed: int = 0) -> torch.Tensor:
        """F(y), and for whole numbers a number drawn evenly between F(y − 1) and F(y); arguments and errors as for `cdf`.

        Args:
            y: Targets (N,) or (N, K), in the data's own units.
            seed: Seed of what is drawn; the global random state is left as it was.

        Returns:
            Probabilities in the shape of y, uniform on (0, 1) when the y come from this predictive.

        References:
            Brockwell (2007), Universal residuals: a multivariate transformation.
        """
        if not self.likelihood.discrete or self.likelihood.labels is not None:
            return self.cdf(y)
        target = self.target(y)
        with drawing(_check.seed(seed)):
            share = torch.rand_like(target)

        return self._by_rows(lambda part, y, v: torch.lerp(part._cdf(y - 1), part._cdf(y), v), target, share)

    def log_prob(self, y: Any) -> torch.Tensor:
        """Log density of each row, log p(y | x, data) = logsumexpₛ log p(y | x, θₛ) − log S.

        Args:
            y: Targets in the data's own units: (N,) or (N, K), or class labels (N,).

        Returns:
            (N,), in nats; with K outputs it is the joint density of a row.

        Raises:
            ValueError: If y does not fit.

        >>> import torch
        >>> from bayesreg.likelihoods import Bernoulli
        >>> logits = torch.tensor([0.2, 0.6]).logit()[:, None]                    # P(y = 1) is 0.2 or 0.6, one row
        >>> round(float(Predictive(Bernoulli(), logits).log_prob([1]).exp()), 6)
        0.4
        """

        def mixture(part: Predictive, target: torch.Tensor) -> torch.Tensor:
            if part.function is not None:
                return part.function.log_prob(target.double()).to(part.like)
            rows = part.likelihood.log_prob(part.output, target, **part.noise)
            return torch.logsumexp(rows, 0) - math.log(part.num_samples)

        return self._by_rows(mixture, self.target(y))

    def sample(self, num_samples: int | None = None, *, seed: int = 0, max_memory: int = MAX_MEMORY) -> torch.Tensor:
        """Draws of y. Draw i comes from one component for all rows, so its rows belong to one function.

        The components are taken in turn, 0 … S − 1 and again from 0; when fewer than S draws are wanted they are taken
        at even distances.

        Args:
            num_samples: Number of draws; max(S, 1000) when None.
            seed: Seed of the draws; the global random state is left as it was.
            max_memory: Bytes that the draws may take.

        Returns:
            (num_samples, N) or (num_samples, N, K) in the data's own units; class labels (num_samples, N).

        Raises:
            ValueError: If num_samples is not a whole number >= 1, or the draws do not fit into `max_memory`.
        """
        number = max(self.num_samples, 1000) if num_samples is None else _check.count("num_samples", num_samples)
        check_draws(number, self.like[0].numel(), self.like, max_memory)
        turn = torch.arange(number, device=self.like.device)
        index = turn % self.num_samples if number >= self.num_samples else turn * self.num_samples // number
        noise = {name: value[index] for name, value in self.noise.items()}
        with torch.no_grad(), drawing(_check.seed(seed)):
            return self.likelihood.distribution(self.output[index], **noise).sample()

    def target(self, y: Any) -> torch.Tensor:
        """The observed y as a tensor that fits this predictive.

        Args:
            y: Anything array-like, in the data's own units: (N,), (N, 1), (N, K) or (N, T, K), or class labels.

        Returns:
            (N,) or (N, K), on the output's device and in the type that the likelihood computes with.

        Raises:
            ValueError: If it holds no numbers, the shape differs, an entry is not finite or a label is no class.
        """
        values = as_tensor("y", y).to(self.like.device)
        values = values.flatten(1) if values.dim() == 3 else values
        shape = self.likelihood.target_shape(self.like.shape[1:])
        if values.dim() == 2 and values.shape[1] == 1 and len(shape) == 1:  # one column, as the fit takes it too
            values = values[:, 0]
        if values.shape != shape:
            raise ValueError(
                f"y must have shape {tuple(shape)} as the prediction has, but {tuple(values.shape)} came; "
                "give the targets of the rows predicted, in the same order."
            )
        values = self.likelihood.target(values, self.like.dtype)
        self.likelihood.check_output(self.like[0], values)
        return values

    def split(self, width: int = 1) -> Iterator[tuple[slice, Predictive]]:
        """Blocks of rows, each a predictive of its own that shares memory, so that temporaries stay small.

        Args:
            width: Entries that the computation needs for each row and output, where more than S.

        Yields:
            The rows, and their predictive.
        """
        step = max(1, _BLOCK // (max(width, self.num_components) * self.like[0, 0].numel()))
        for start in range(0, self.num_rows, step):
            rows = slice(start, start + step)
            yield rows, self.rows(rows)

    def rows(self, index: Any) -> Predictive:
        """The prediction for some of the rows, by numbers or a slice."""
        function = None if self.function is None else self.function.rows(index)
        return Predictive(self.likelihood, self.drawn.rows(index), None, function)

    def mixed(self, draws: Any) -> Predictive:
        """The mixture of some of the draws alone.

        Args:
            draws: Their numbers, (S',), or a slice.

        Returns:
            A predictive of the same rows.
        """
        return Predictive(self.likelihood, self.drawn.draws(draws))

    def __repr__(self) -> str:
        outputs = f", K={self.num_outputs}" if len(self.mean_shape) > 1 else ""
        return f"Predictive({self.kind}, S={self.num_samples}, N={self.num_rows}{outputs})"

    def _by_rows(self, function: Callable[..., torch.Tensor], *targets: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return torch.cat([function(part, *(y[rows] for y in targets)) for rows, part in self.split()])

    def _component_mean(self) -> torch.Tensor:
        return self.likelihood.mean(self.output, **self.noise)

    def _cdf(self, y: torch.Tensor) -> torch.Tensor:
        if self.function is not None:
            return self.function.cdf(y.double()).to(y)
        return self.likelihood.cdf(self.output, y, **self.noise).mean(0)

    def _quantiles(self, wanted: Sequence[float]) -> torch.Tensor:
        # in double: where the density is low, a float32 CDF resolves y only coarsely
        double = self if self.function is not None else Predictive(self.likelihood, self.drawn.double())
        if self.likelihood.discrete:
            return torch.stack([double._count(q) for q in wanted], 1).to(self.like.dtype)
        components: Any = double.components
        if self.num_components == 1:
            found = [double._component_quantiles(q)[0] for q in wanted]
        elif isinstance(components, torch.distributions.Normal):
            return double._of_normals(components, wanted).movedim(0, 1).to(self.like.dtype)
        else:
            tolerance, found = 1e-11 * components.stddev.amin(0), []
            for q in wanted:
                each = double._component_quantiles(q)
                found.append(root(lambda y, q=q: double._cdf(y) - q, each.amin(0), each.amax(0), tolerance))
        return torch.stack(found, 1).to(self.like.dtype)

    def _of_normals(self, components: torch.distributions.Normal, wanted: Sequence[float]) -> torch.Tensor:
        loc, scale = components.loc, components.scale
        shape, same = loc.shape[1:], not any(scale.stride()[1:])  # one scale for all entries of a draw
        scale = scale.reshape(len(scale), -1)[:, :1] if same else scale.reshape(len(scale), -1)
        weight = loc.new_full((len(loc),), 1 / len(loc)) if self.function is None else self.function.weight
        return of_normals(loc.reshape(len(loc), -1), scale, weight, wanted).reshape(-1, *shape)

    def _component_quantiles(self, q: float) -> torch.Tensor:
        if self.function is not None:
            return self.function.normals.icdf(self.function.mean.new_tensor(q))
        return self.likelihood.quantile(self.output, q, **self.noise)

    def _count(self, q: float) -> torch.Tensor:
        """The least whole number with F(y) >= q, by halves between the least and the largest of the components'."""
        each = self._component_quantiles(q)
        low, high = each.amin(0) - 1, each.amax(0)  # F(low) < q <= F(high)
        while bool((high - low > 1).any()):
            middle = ((low + high) / 2).floor()
            enough = self._cdf(middle) >= q
            low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
        return high

    @property
    def components(self) -> torch.distributions.Distribution:
        """A regression's components entry by entry, (S, N) or (S, N, K); few and weighted where there is a closed form."""
        if self.function is not None:
            return self.function.normals
        return self.likelihood.entries(self.output, **self.noise)

    def _numbers_only(self, what: str) -> None:
        if self.likelihood.labels is not None:
            raise ValueError(
                f"{what} must be asked of a regression, but this predictive is of kind {self.kind!r}, whose y are "
                "class labels; use .mean for the class probabilities and .epistemic_variance for how unsure they are."
            )


def tails(level: float) -> tuple[float, float]:
    """The two probabilities that bound a central interval: (1 − level)/2 and (1 + level)/2.

    Raises:
        ValueError: If the level is not in (0, 1).

    >>> tails(0.5)
    (0.25, 0.75)
    """
    number = _check.finite("level", level)
    if not 0 < number < 1:
        raise ValueError(f"level must be a probability with 0 < level < 1, but {level!r} came; pass for example 0.95.")
    return 0.5 * (1 - number), 0.5 * (1 + number)
