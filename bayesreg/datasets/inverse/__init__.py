"""Test problems A x = b with a known truth, each by its name in the literature."""

from collections.abc import Callable

from bayesreg.datasets.inverse.images import deblurring_1d, deblurring_2d, shepp_logan, tomography
from bayesreg.datasets.inverse.integral_equations import (
    baart,
    deriv2,
    foxgood,
    gravity,
    heat,
    i_laplace,
    phillips,
    shaw,
)
from bayesreg.datasets.inverse.problem import InverseProblem

__all__ = [
    "PROBLEMS",
    "InverseProblem",
    "baart",
    "deblurring_1d",
    "deblurring_2d",
    "deriv2",
    "foxgood",
    "gravity",
    "heat",
    "i_laplace",
    "phillips",
    "shaw",
    "shepp_logan",
    "tomography",
]

# by name, each with defaults of its own
PROBLEMS: dict[str, Callable[..., InverseProblem]] = {
    made.__name__: made
    for made in (
        *(shaw, gravity, heat, deriv2, phillips, baart, foxgood, i_laplace),
        *(deblurring_1d, deblurring_2d, tomography),
    )
}
