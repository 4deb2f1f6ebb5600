"""Operators: A x and its adjoint, and models whose unknown is the x of A x = b."""

import numpy as np
import pytest
import torch
from scipy import ndimage

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


NDIMAGE = {"reflect": "reflect", "mirror": "mirror", "nearest": "nearest", "zero": "constant", "periodic": "wrap"}


@pytest.mark.parametrize("boundary", NDIMAGE)
@pytest.mark.parametrize("size", [1, 2, 3, 6, 25])
@pytest.mark.parametrize("length", [3, 8])
def test_convolution_along_a_line_is_scipys(boundary, size, length):
    rng = np.random.default_rng(size)
    kernel, x = rng.normal(size=size), rng.normal(size=(2, length))
    found = operators.Convolution1d(kernel, boundary, shape=length)(torch.as_tensor(x)).numpy()
    np.testing.assert_allclose(found, ndimage.convolve1d(x, kernel, mode=NDIMAGE[boundary]), atol=1e-12)


@pytest.mark.parametrize("boundary", NDIMAGE)
@pytest.mark.parametrize("sizes", [(3, 3), (2, 5), (4, 4), (7, 1)])
def test_convolution_of_an_image_is_scipys(boundary, sizes):
    rng = np.random.default_rng(sizes[0])
    kernel, x = rng.normal(size=sizes), rng.normal(size=(6, 9))
    found = operators.Convolution2d(kernel, boundary, shape=(6, 9))(torch.as_tensor(x)).numpy()
    np.testing.assert_allclose(found, ndimage.convolve(x, kernel, mode=NDIMAGE[boundary]), atol=1e-12)


def test_a_constant_stays_where_the_kernel_sums_to_one():
    for boundary in ("reflect", "mirror", "nearest", "periodic"):
        A = operators.Convolution2d(operators.gaussian_kernel(1.5, 2), boundary, shape=(10, 20))
        assert (A(torch.ones(10, 20, dtype=torch.float64)) - 1).abs().max() < 1e-12


@pytest.mark.parametrize("width", [0.7, 2.0])
def test_the_gaussian_kernel_is_scipys(width):
    impulse = np.eye(1, 41, 20)[0]
    kernel = operators.gaussian_kernel(width).numpy()
    expected = ndimage.gaussian_filter1d(impulse, width, mode="constant")
    np.testing.assert_allclose(kernel, expected[20 - len(kernel) // 2 :][: len(kernel)], atol=1e-15)


@pytest.mark.parametrize(
    ("A", "exact"),
    [
        (operators.Convolution1d(operators.gaussian_kernel(1.0), shape=12), "dct"),
        (operators.Convolution1d(operators.gaussian_kernel(9.0), shape=12), "dct"),
        (operators.Convolution2d(operators.gaussian_kernel(1.0, 2), shape=(6, 9)), "dct"),
        (3 * operators.Convolution2d(operators.gaussian_kernel(1.0, 2), shape=(6, 9)), "dct"),
        (operators.Convolution1d([1.0, 2.0, 4.0], "periodic", shape=12), "fft"),
        (operators.Difference(axis=0, shape=(6, 4)), "dct"),
        (operators.Stack([operators.Difference(shape=8), operators.Convolution1d([1.0, 2.0, 1.0], shape=8)]), "dct"),
        (operators.Convolution1d([1.0, 2.0, 4.0], shape=12), None),
        (operators.Convolution1d([1.0, 1.0], shape=12), None),
        (operators.Convolution1d([1.0, 2.0, 1.0], "zero", shape=12), None),
        (operators.Difference(2, shape=6), None),
        (operators.Stack([operators.Difference(shape=8), operators.Convolution1d([1.0, 2.0], "periodic", shape=8)]), None),
    ],
)
def test_the_transform_that_diagonalises_is_told(A, exact):
    found = A.spectrum()
    assert (found and found[0]) == exact
    if found is not None:
        norm = torch.linalg.matrix_norm(A.matrix(), 2)
        assert float(found[1].max()) == pytest.approx(float(norm) ** 2)
        assert float(found[1].sum()) == pytest.approx(float(A.matrix().square().sum()))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_differences_are_numpys(order):
    x = np.random.default_rng(0).normal(size=(5, 6))
    for axis in (0, 1, -1, -2):
        found = operators.Difference(order, axis, shape=(5, 6))(torch.as_tensor(x)).numpy()
        np.testing.assert_allclose(found, np.diff(x, order, axis), atol=1e-14)


def test_algebra_is_that_of_matrices():
    A, B = (operators.Dense(problem(4, 3, seed)[0]) for seed in (0, 1))
    a, b = A.matrix(), B.matrix()
    for found, expected in ((A + B, a + b), (A - B, a - b), (2.5 * A, 2.5 * a), (A * 2, 2 * a), (-A, -a), (A.T, a.T)):
        torch.testing.assert_close(found.matrix(), expected)
    torch.testing.assert_close((A.T @ B).matrix(), a.T @ b)
    torch.testing.assert_close((A @ B.T).T.matrix(), b @ a.T)
    assert A.T.T is A


dense = operators.Dense(np.ones((2, 3)))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: operators.Dense([[np.nan, 1.0]]), "A must be finite, but 1 of 2 entries are NaN or infinite; correct them"),
        (lambda: operators.Dense(np.ones((2, 2)) * 1j), "A must be real, but complex numbers came; stack real"),
        (lambda: operators.Dense(np.ones((0, 2))), r"A must have at least one entry, but shape \(0, 2\)"),
        (lambda: operators.Dense([["a"]]), "A must be an array of numbers, but list came"),
        (lambda: operators.Convolution1d([np.inf], shape=3), "kernel must be finite, but 1 of 1"),
        (lambda: operators.Convolution1d([1j], shape=3), "kernel must be real"),
        (lambda: operators.Convolution1d([], shape=3), "kernel must have at least one entry"),
        (lambda: operators.Convolution1d(np.ones((2, 2)), shape=3), r"along, 1, but shape \(2, 2\) came; .*Convolution2d"),
        (lambda: operators.Convolution2d(np.ones(3), shape=(3, 3)), r"along, 2, but shape \(3,\) came; .*Convolution1d"),
        (lambda: operators.Convolution2d(np.ones((3, 3)), shape=9), r"at least the axes of the kernel, 2, but \(9,\)"),
        (lambda: operators.Convolution1d([1.0], "reflekt", shape=3), "boundary must be one of .*did you mean 'reflect'"),
        (lambda: operators.Convolution1d([1.0], shape=0), "shape must be a whole number >= 1"),
        (lambda: operators.Mask([1.0, 0.0]), "observed must be an array of truth values, but torch.float32"),
        (lambda: operators.Mask([False, False]), "observed must be true somewhere, but none of 2"),
        (lambda: operators.Difference(2, shape=2), "longer than the order of the difference, but 2 and 2"),
        (lambda: operators.Difference(axis=2, shape=(3, 3)), r"axis must be one of the 2 of shape \(3, 3\), but 2"),
        (lambda: operators.Stack([]), "a stack must be of linear operators, but none"),
        (lambda: operators.Stack([dense, torch.nn.Linear(3, 2)]), "but Dense, Linear came"),
        (lambda: operators.Stack([dense, operators.Identity(2)]), r"on the same unknown, but shapes \(3,\), \(2,\)"),
        (lambda: dense @ dense, r"A takes \(3,\) and B gives \(2,\)"),
        (lambda: dense + operators.Identity(3), "same shapes, .*operators.Stack"),
        (lambda: dense @ torch.ones(3), "linear operators, but Tensor came; for the product with a field write A"),
        (lambda: dense * float("nan"), "factor must be a finite number"),
    ],
)
def test_what_is_no_operator_is_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()
