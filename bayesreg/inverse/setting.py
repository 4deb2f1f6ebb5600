"""A model of A x = b with a Gaussian prior and Gaussian noise, as matrices; whatever else is refused with what to do."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from bayesreg import _check
from bayesreg.model.model import BayesianModel
from bayesreg.model.rescaled import with_known_noise
from bayesreg.model.spec import Resolved
from bayesreg.operators import AbstractLinearOperator, AbstractOperator, Dense, Observed
from bayesreg.operators.base import as_given
from bayesreg.priors.spectrum import Spectrum

MOST = 2_500  # unknowns or measurements, of which matrices are taken apart


@dataclasses.dataclass(frozen=True, eq=False)
class Setting:
    """An inverse problem as its model declares it.

    Attributes:
        model: The model.
        operator: A.
        matrix: A, (M, N) float64; None where it is too large to be taken apart.
        root: L of the prior's precision LᵀL at its own scale times that scale, (N,) or (q, N): that at scale 1; or None.
        mean: The prior's mean, (N,) or a scalar.
        scale: The number in its field `scale`; 1 where it has none.
        sigma: The noise's sd; None where it is unknown.
        b: (M,) float64, less A times the prior's mean.
        given: The measurements as they came.
        whole: The prior as an operator, where the problem is too large for matrices.
    """

    model: BayesianModel
    operator: AbstractLinearOperator
    matrix: torch.Tensor | None
    root: torch.Tensor | None
    mean: torch.Tensor
    scale: float
    sigma: float | None
    b: torch.Tensor
    given: Any
    whole: Spectrum | None = None

    def product(self, v: torch.Tensor) -> torch.Tensor:
        """A (LᵀL)⁻¹ Aᵀ v for each of (S, M), L the root at scale 1, of a setting whose prior is kept as an operator.

        Raises:
            ValueError: If it is kept as a matrix.
        """
        if self.whole is None:
            raise ValueError("a product needs the prior as an operator, but it is a matrix here; take `matrix` and `root`.")
        back = self.operator.adjoint(v.reshape(-1, *self.operator.output_shape))
        return self.operator(self.whole.inverse(back)).reshape(v.shape) / self.scale**2

    @property
    def prior(self) -> Any:
        """The prior of x, as it was written."""
        return self.model.resolved[0].specified

    def at(self, scale: float, noise_scale: float) -> BayesianModel:
        """The model with the whole prior stretched to this scale, and noise of this sd."""
        (resolved,) = self.model.resolved
        factor = scale / self.scale
        made = [dataclasses.replace(r, source=f"{resolved.source}, chosen") for r in self.model.resolved]
        made = [
            dataclasses.replace(r, specified=r.specified.stretched(factor), prior=r.prior.stretched(factor))  # pyright: ignore
            for r in made
        ]
        return with_known_noise(self.model.with_resolved(made), noise_scale)


def linear(operator: Any, what: str) -> AbstractLinearOperator:
    """The operator where it is linear; a matrix is one too.

    Raises:
        ValueError: If it is not linear, or its matrix holds numbers that are not finite, or are complex.
    """
    if isinstance(operator, BayesianModel) and isinstance(operator.module, Observed):
        operator = operator.module.operator
    if not isinstance(operator, AbstractOperator):
        values = as_given(operator)
        if values.is_complex():
            raise ValueError("A must be real, but complex numbers came; stack real and imaginary parts, in b too.")
        operator = Dense(_check.all_finite("A", values))
    if not isinstance(operator, AbstractLinearOperator):
        raise ValueError(
            f"{what} needs a linear operator, but {type(operator).__name__} came; take operators.Dense of its Jacobian at a "
            "point."
        )
    return operator


def measured(operator: AbstractOperator, b: Any) -> torch.Tensor:
    """Measurements, (M,) float64.

    Raises:
        ValueError: If they are complex, not finite or of another shape than the operator's.
    """
    return Observed(operator).measured(b).double()


def true_field(operator: AbstractOperator, truth: Any) -> torch.Tensor:
    """The truth as float64 in the unknown's shape.

    Raises:
        ValueError: If it has another number of entries.
    """
    x = as_given(truth).double()
    if x.numel() != operator.size:
        raise ValueError(f"truth must have the unknown's shape {operator.shape}, but {tuple(x.shape)} came; pass x itself.")
    return x.reshape(operator.shape)


def has_scale(resolved: Resolved) -> bool:
    """Whether a prior is known up to one number that stretches it."""
    return resolved.specified.hyperprior is None and not resolved.prior.flat and resolved.specified.stretched(1.0) is not None


def declared(model: Any, b: Any) -> Setting:
    """What a model declares.

    Args:
        model: A `BayesianModel` of a linear operator.
        b: Measurements.

    Returns:
        The setting.

    Raises:
        ValueError: If it is another model, its prior is not Gaussian of known form, its noise not one Gaussian scale, the
            problem too large, or b does not fit.
    """
    if not isinstance(model, BayesianModel) or not isinstance(model.module, Observed):
        raise ValueError(
            "the model must be one of an operator, but another came; write br.BayesianModel(operator, {'x': prior}, "
            "likelihood)."
        )
    operator = linear(model, "a rule for λ")
    if model.standardize is True:
        raise ValueError("a rule for λ needs b in its own units, but standardize=True came; leave it out.")
    (resolved,) = model.resolved
    prior, shape = resolved.prior, resolved.shape
    named = has_scale(resolved)
    large = max(operator.size, operator.num_data) > MOST
    whole = prior.spectrum(shape) if named and large else None
    found, root = (prior.gaussian(shape), prior.gaussian_root(shape)) if named and not large else (None, None)
    if whole is None and (found is None or root is None):
        raise ValueError(
            f"a rule for λ needs a quadratic penalty whose scale is a number, but x has {resolved.specified}; take Normal(1.0) "
            "or Smooth(order=2, scale=1.0), or compare fits by br.path."
        )
    name = model.likelihood.squared_error_scale
    if name is None:
        raise ValueError(f"a rule for λ needs Gaussian noise of one scale, but {model.likelihood} came; take Gaussian(0.1).")
    known = model.likelihood.fixed.get(name)
    scale = torch.as_tensor(1.0 if resolved.specified.path_scale is None else resolved.specified.path_scale)
    own = float(scale) if scale.numel() == 1 else 1.0
    if whole is not None and whole.num_free:
        raise ValueError(
            f"a rule for λ needs a proper prior where there are more than {MOST:,} unknowns or measurements, but "
            f"{resolved.specified} is flat in {whole.num_free} directions; give Smooth a level_scale."
        )
    A = None if large else _check.all_finite("A", operator.matrix())
    loc = torch.as_tensor(whole.loc if whole is not None else found[0] if found is not None else 0.0, dtype=torch.float64)
    with torch.no_grad():
        target = measured(operator, b) - operator(loc.expand(operator.shape)).reshape(-1)
    root = None if root is None else root.double() * own
    sigma = None if known is None else float(known)
    return Setting(model, operator, A, root, loc.reshape(-1) if loc.dim() else loc, own, sigma, target, b, whole)
