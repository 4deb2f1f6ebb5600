"""Gaussian priors as operators: the same precision, root, inverse and variance as their matrices."""

import pytest
import torch

from bayesreg import priors

KINDS = {
    "normal": (priors.Normal(0.5), (4, 3)),
    "flat": (priors.Flat(), (4,)),
    "multivariate": (priors.MultivariateNormal([[2.0, 0.5], [0.5, 1.0]], loc=0.3, per="row"), (3, 2)),
    "line": (priors.Smooth(1, 0.3, 2.0), (6,)),
    "curve": (priors.Smooth(2, 0.3), (7,)),
    "plane": (priors.Smooth(2, 0.3, 2.0), (5, 4)),
    "free plane": (priors.Smooth(2, 0.3), (5, 4)),
    "rows": (priors.Smooth(1, 0.3, 2.0, per="row"), (3, 5)),
    "columns": (priors.Smooth(2, 0.3, 2.0, per="column"), (5, 3)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_spectrum_is_the_precision_matrix(kind):
    prior, shape = KINDS[kind]
    loc, matrix = prior.gaussian(shape)
    matrix = torch.diag(matrix) if matrix.dim() == 1 else matrix
    found, size = prior.spectrum(shape), len(matrix)
    units = torch.eye(size, dtype=torch.float64).reshape(-1, *shape)
    flat = lambda values: values.reshape(-1, size)  # noqa: E731
    assert float(torch.as_tensor(found.loc).max()) == float(torch.as_tensor(loc).max())
    assert torch.allclose(flat(found.times(units)), matrix, atol=1e-10)
    assert torch.allclose(flat(found.back(found.into(units))), flat(units), atol=1e-12)
    root = flat(found.root(units))
    assert torch.allclose(root.mT @ root, matrix, atol=1e-10)
    inverse = torch.linalg.pinv(matrix, hermitian=True)
    assert torch.allclose(flat(found.inverse(units)), inverse, atol=1e-10)
    drawn = flat(found.inverse_root(units))
    assert torch.allclose(drawn.mT @ drawn, inverse, atol=1e-10)
    assert torch.allclose(flat(found.inverse_root_adjoint(units)), drawn.mT, atol=1e-10)
    free = flat(found.free)
    assert found.num_free == len(free) == size - int(torch.linalg.matrix_rank(matrix, hermitian=True))
    assert torch.allclose(matrix @ free.mT, torch.zeros(size, len(free), dtype=torch.float64), atol=1e-10)
    if not found.num_free:
        assert torch.allclose(found.variance.reshape(-1), inverse.diagonal(), atol=1e-10)
        assert abs(found.half_log_det - 0.5 * float(torch.logdet(matrix))) < 1e-9


def test_a_prior_that_is_not_gaussian_has_no_spectrum():
    assert priors.Laplace(1.0).spectrum((3,)) is None
