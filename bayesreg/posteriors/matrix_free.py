"""The posterior of a large linear inverse problem: a normal distribution whose covariance is never formed.

x | b ~ N(x̂, H⁻¹):     a draw is x̂ + H⁻¹ξ, ξ ~ N(0, H), by conjugate gradients
"""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any, ClassVar

import torch

from bayesreg.model.model import BayesianModel
from bayesreg.objective.inverse import InverseProblem, LowRank, low_rank, of_model, with_prior
from bayesreg.posteriors.base import AbstractPosterior
from bayesreg.posteriors.record import FitRecord
from bayesreg.solvers.krylov import OF_DRAW, conjugate_gradients

_AT_ONCE = 2**20  # numbers of the draws that are solved for at once
_RANK, _ENOUGH = 50, 0.01  # directions that are tried, and what the others may add to a variance
_DRAWS = 48


@dataclasses.dataclass(frozen=True, eq=False)
class Spread:
    """Marginal sds and where they come from.

    Attributes:
        sd: (P,).
        error: Their relative error, root mean square over the unknowns: a bound for "low rank", a standard error for "draws".
        how: Which of the two.
        number: Directions, or draws.
    """

    sd: torch.Tensor
    error: float
    how: str
    number: int

    def __str__(self) -> str:
        of = "directions" if self.how == "low rank" else "draws"
        return f"sds by {self.how} ({self.number} {of}), relative error {self.error:.1g}"


class MatrixFree(AbstractPosterior):
    """N(x̂, (AᵀA/σ² + Λ)⁻¹) by products with A and Aᵀ.

    Each draw solves a linear system until it is at most 1e-3 posterior sds off, root mean square over the unknowns; where that
    cannot be reached, there is an error and no draw.

    Args:
        model: The model, bound to its training data.
        record: What the method says about the fit.
        loc: x̂, (P,).
        rows: The numbers of the measurements, (m,); empty for all.
    """

    state_shapes: ClassVar = {"loc": "P", "rows": "M"}

    def __init__(self, model: BayesianModel, record: FitRecord, loc: torch.Tensor, rows: torch.Tensor) -> None:
        super().__init__(model, record)
        self.loc, self.rows = loc.detach(), rows

    @cached_property
    def problem(self) -> InverseProblem:
        """The inverse problem whose posterior this is.

        Raises:
            ValueError: If the model is of another kind.
        """
        found = with_prior(of_model(self.model, self.rows if len(self.rows) else None), self.model)
        if found is None:
            raise ValueError(
                "a matrix-free posterior must be of a linear operator with a Gaussian prior, but this model is not."
            )
        return found

    def draw(self, num_samples: int, generator: torch.Generator) -> torch.Tensor:
        """Draws, (S, P), independent.

        Raises:
            ValueError: If rounding keeps the solver from its accuracy.
        """
        return torch.cat([self.loc + x.flatten(1).to(self.loc) for x, _ in self._perturbed(num_samples, generator)])

    def _perturbed(self, num_samples: int, generator: torch.Generator) -> Any:
        """Draws about zero, block by block, and the fields ξ that they were solved for.

        Raises:
            ValueError: As `draw` does.
        """
        most = max(1, _AT_ONCE // len(self.loc))
        for done in range(0, num_samples, most):
            right = self.problem.noise(min(most, num_samples - done), generator)
            solved = conjugate_gradients(self.problem, right, OF_DRAW)
            if not solved.error <= OF_DRAW:
                raise ValueError(
                    f"a draw must be solved to {OF_DRAW:g} posterior sds, but after {solved.steps} steps it is known to "
                    f"be within {solved.error:.2g}; narrow the prior, or take Exact(matrix_free=False) where the matrix fits."
                )
            yield solved.x, right

    def low_rank(self, rank: int = _RANK, *, seed: int = 0) -> LowRank:
        """What the data say about the best-determined directions; see `objective.inverse.low_rank`."""
        return low_rank(self.problem, rank, seed=seed)

    @cached_property
    def spread(self) -> Spread:
        """Marginal sds: by low rank where a few directions hold what the data say, else by draws."""
        if self.problem.prior.num_free == 0:
            found = self.low_rank(min(_RANK, len(self.loc)))
            if found.error <= _ENOUGH or len(found.gains) == len(self.loc):
                sd = found.variance.clamp_min(0).sqrt().reshape(-1)
                worst = found.error * (self.problem.prior.variance / found.variance.clamp_min(1e-300)).square().mean().sqrt()
                if float(worst) <= _ENOUGH:
                    return Spread(sd.to(self.loc), 0.5 * float(worst), "low rank", len(found.gains))
        return self._by_draws(_DRAWS)

    def _by_draws(self, count: int) -> Spread:
        """Var[x] = E[x²], with E[x y] = diag M for y = M ξ as a control variate, M the preconditioner: y is nearly x."""
        known = self.problem.variance_of_preconditioner
        squares, crossed = (torch.zeros(3, *known.shape, dtype=torch.float64) for _ in range(2))
        for x, right in self._perturbed(count, torch.Generator().manual_seed(0)):
            a, b = x.square(), x * self.problem.precondition(right)
            squares += torch.stack([a.sum(0), a.square().sum(0), (a * b).sum(0)])
            crossed[:2] += torch.stack([b.sum(0), b.square().sum(0)])
        mean, other = squares[0] / count, crossed[0] / count
        of_a, of_b = squares[1] / count - mean.square(), crossed[1] / count - other.square()
        both = squares[2] / count - mean * other
        share = float(both.sum() / of_b.sum().clamp_min(1e-300))
        variance = mean - share * (other - known)
        variance = torch.where(variance > 0.1 * mean, variance, mean)
        error = ((of_a - 2 * share * both + share**2 * of_b).clamp_min(0) / (count - 1)).sqrt() / variance
        relative = 0.5 * float(error.square().mean().sqrt())
        return Spread(variance.sqrt().reshape(-1).to(self.loc), relative, "draws", count)

    def moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and sd of each unknown, both (P,); `spread` says how exact the sds are."""
        return self.loc, self.spread.sd

    def state(self) -> dict[str, Any]:
        """The mean and which measurements there were."""
        return {"loc": self.loc, "rows": self.rows.double()}

    @classmethod
    def from_state(cls, model: BayesianModel, record: FitRecord, state: dict[str, Any]) -> MatrixFree:
        """The inverse of `state`."""
        return cls(model, record, state["loc"], state["rows"].long())
