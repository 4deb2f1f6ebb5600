"""Operators: A x and its adjoint, and models whose unknown is the x of A x = b."""

import numpy as np
import pytest
import torch

import bayesreg as br
from bayesreg import likelihoods, operators, priors


def problem(rows=40, size=30, seed=0):
    rng = np.random.default_rng(seed)
    A, x = rng.normal(size=(rows, size)), rng.normal(size=size)
    return A, A @ x + 0.1 * rng.normal(size=rows)


@pytest.mark.parametrize("method", ["map", "exact", "laplace"])
def test_the_mode_of_a_gaussian_inverse_problem_is_tikhonovs(method):
    A, b = problem()
    model = br.BayesianModel(operators.Dense(A), {"x": priors.Normal(0.5)}, likelihoods.Gaussian(0.1))
    expected = np.linalg.solve(A.T @ A / 0.1**2 + np.eye(30) / 0.5**2, A.T @ b / 0.1**2)
    found = br.fit(model, None, b, method=method)
    assert found.mean["x"].shape == (30,)
    assert np.abs(found.mean["x"].numpy() - expected).max() < 1e-8
    assert np.abs(found.predict(None).mean.numpy() - A @ expected).max() < 1e-8


def test_a_dense_operator_passes_the_dot_test():
    assert operators.Dense(problem()[0]).check_adjoint() < 1e-12


class Wrong(operators.Dense):
    def adjoint(self, b):
        return 2 * super().adjoint(b)


def test_a_wrong_adjoint_is_refused():
    with pytest.raises(ValueError, match="<A x, b> = <x, A' b>"):
        Wrong(problem()[0]).check_adjoint()


@pytest.mark.parametrize(
    ("b", "said"),
    [(np.ones(3), r"shape of what the operator gives, \(40,\), but \(3,\)"), (np.ones(40) * 1j, "b must be real")],
)
def test_measurements_that_do_not_fit_are_refused(b, said):
    model = br.BayesianModel(operators.Dense(problem()[0]), {"x": priors.Normal(0.5)}, likelihoods.Gaussian(0.1))
    with pytest.raises(ValueError, match=said):
        br.fit(model, None, b, method="map")


def test_a_matrix_has_two_axes():
    with pytest.raises(ValueError, match=r"A must be a matrix \(M, N\), but shape \(4,\)"):
        operators.Dense(torch.ones(4))
