"""A likelihood as a fit meets it: about a centre, and with a weight and an offset that each row brings along.

    log p(y | f)  →  w · log p(y | f + c + o)            rows of a target: [y, w, o] side by side, where w or o came

Whatever goes over the rows of a target, slices and batches them, needs to know nothing of it. Where a target comes without
weights and offsets, it counts once and at offset zero: so do predictions.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch

from bayesreg.likelihoods.base import AbstractLikelihood


def centred(likelihood: AbstractLikelihood, centre: float | Sequence[float]) -> AbstractLikelihood:
    """The same likelihood of outputs from which a number was taken off, one for all or one for each of K outputs.

    >>> from bayesreg.likelihoods.poisson import Poisson
    >>> f, y = torch.tensor([1.0]), torch.tensor([3.0])
    >>> torch.equal(centred(Poisson(), 2.0).log_prob(f, y), Poisson().log_prob(f + 2.0, y))
    True
    """
    none = centre == 0 if isinstance(centre, (int, float)) else not any(centre)
    return likelihood.plain if none else _made(likelihood.plain, centre=centre)


def with_rows(
    likelihood: AbstractLikelihood,
    y: torch.Tensor,
    weight: torch.Tensor | None,
    offset: torch.Tensor | None,
    log_jacobian: float = 0.0,
) -> tuple[AbstractLikelihood, torch.Tensor]:
    """The likelihood of rows with weights (N,) and offsets (N,) or (N, K), and the targets that bring them along.

    To each row's log-density `log_jacobian` is to be added, for a density of y in its own units; it is weighted too.

    >>> from bayesreg.likelihoods.poisson import Poisson
    >>> f, y, w = torch.zeros(2), torch.tensor([3.0, 1.0]), torch.tensor([2.0, 0.0])
    >>> made, rows = with_rows(Poisson(), y, w, None)
    >>> torch.equal(made.log_prob(f, rows), w * Poisson().log_prob(f, y)), made.observed(rows).tolist()
    (True, [3.0, 1.0])
    """
    parts = [part if part.dim() > 1 else part[:, None] for part in (y, weight, offset) if part is not None]
    kind = offset.dtype if offset is not None else y.dtype if weight is None else weight.dtype
    made = _made(
        likelihood.plain,
        centre=likelihood.centre,
        num_targets=0 if y.dim() == 1 else y.shape[1],
        weighted=weight is not None,
        log_jacobian=log_jacobian,
        offsets=-1 if offset is None else 0 if offset.dim() == 1 else offset.shape[1],
    )
    return made, torch.cat([part.to(kind) for part in parts], 1)


def _made(plain: AbstractLikelihood, **fields: Any) -> AbstractLikelihood:
    made: Any = object.__new__(_class(type(plain)))
    vars(made).update(vars(plain))
    vars(made).update({"_plain": plain, "num_targets": 0, "weighted": False, "offsets": -1, "log_jacobian": 0.0} | fields)
    return made


@functools.cache
def _class(kind: type) -> type:
    return type(f"_{kind.__name__}", (_ByRow, kind), {})


class _ByRow:
    """What is asked of a likelihood with a target beside it; everything else is as for the class that this is mixed into.

    Attributes:
        centre: What is added to the output, one number or one for each.
        num_targets: K, 0 for targets (N,).
        weighted: Whether rows bring weights.
        log_jacobian: What is added to each row's log-density by others.
        offsets: Columns of offsets; 0 for one that is (N,), −1 for none.
    """

    _plain: Any
    centre: Any
    num_targets: int
    weighted: bool
    log_jacobian: float
    offsets: int

    @property
    def plain(self) -> Any:
        """The likelihood without centre, weights and offsets."""
        return self._plain

    @property
    def squared_error_scale(self) -> str | None:
        """None where rows differ: what is known of least squares holds for rows that count alike."""
        return None if self.weighted or self.offsets >= 0 else self.plain.squared_error_scale

    def brought(self, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """Targets, weights and offsets of rows; none where they do not bring them along."""
        targets, offsets = max(self.num_targets, 1), 0 if self.offsets < 0 else max(self.offsets, 1)
        if not (self.weighted or offsets) or y.dim() < 2 or y.shape[-1] != targets + self.weighted + offsets:
            return y, None, None
        target = y[..., 0] if self.num_targets == 0 else y[..., :targets]
        if self.plain.labels is not None and self.plain.whole_labels:
            target = target.long()
        weight = y[..., targets] if self.weighted else None
        offset = None if not offsets else y[..., -1] if self.offsets == 0 else y[..., -offsets:]
        return target, weight, offset

    def observed(self, y: torch.Tensor) -> torch.Tensor:
        """The targets alone."""
        return self.brought(y)[0]

    def _at(self, output: torch.Tensor, offset: torch.Tensor | None = None) -> torch.Tensor:
        centre = output.new_tensor(self.centre) if isinstance(self.centre, (tuple, list)) else self.centre
        return output + centre if offset is None else output + centre + offset

    def log_prob(self, output: torch.Tensor, y: torch.Tensor, **noise: Any) -> torch.Tensor:
        target, weight, offset = self.brought(y)
        rows = self.plain.log_prob(self._at(output, offset), target, **noise)
        return rows if weight is None else rows * weight + self.log_jacobian * (weight - 1)

    def log_prob_sum(self, output: torch.Tensor, y: torch.Tensor, **noise: Any) -> torch.Tensor:
        target, weight, offset = self.brought(y)
        if weight is None:
            return self.plain.log_prob_sum(self._at(output, offset), target, **noise)
        return self.log_prob(output, y, **{name: torch.as_tensor(value).to(output) for name, value in noise.items()}).sum()

    def output_curvature(self, output: torch.Tensor, y: torch.Tensor, **noise: Any) -> torch.Tensor:
        target, weight, offset = self.brought(y)
        found = self.plain.output_curvature(self._at(output, offset), target, **noise)
        return found if weight is None else found * weight[:, None, None]

    def curvature_root(self, output: torch.Tensor, y: torch.Tensor, **noise: Any) -> torch.Tensor:
        target, weight, offset = self.brought(y)
        found = self.plain.curvature_root(self._at(output, offset), target, **noise)
        return found if weight is None else found * weight.sqrt()[:, None, None]

    def start(self, output: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        target, weight, offset = self.brought(y)
        output = self._at(output, offset)
        if weight is not None and bool((weight > 0).any()):
            output, target = output[weight > 0], target[weight > 0]
        return self.plain.start(output, target)

    def distribution(self, output: torch.Tensor, **noise: Any) -> Any:
        return self.plain.distribution(self._at(output), **noise)

    def entries(self, output: torch.Tensor, **noise: Any) -> Any:
        return self.plain.entries(self._at(output), **noise)

    def mean(self, output: torch.Tensor, **noise: Any) -> torch.Tensor:
        return self.plain.mean(self._at(output), **noise)

    def variance(self, output: torch.Tensor, **noise: Any) -> torch.Tensor:
        return self.plain.variance(self._at(output), **noise)

    def cdf(self, output: torch.Tensor, y: torch.Tensor, **noise: Any) -> torch.Tensor:
        return self.plain.cdf(self._at(output), y, **noise)

    def quantile(self, output: torch.Tensor, q: float, **noise: Any) -> torch.Tensor:
        return self.plain.quantile(self._at(output), q, **noise)

    def __repr__(self) -> str:
        return repr(self._plain)

    def __reduce__(self) -> Any:
        fields = {name: vars(self)[name] for name in ("centre", "num_targets", "weighted", "log_jacobian", "offsets")}
        return _remade, (self.plain, fields)


def _remade(plain: AbstractLikelihood, fields: dict[str, Any]) -> AbstractLikelihood:
    return _made(plain, **fields)
