"""Operators: A x and its adjoint, and models whose unknown is the x of A x = b."""

import copy
import itertools

import numpy as np
import pytest
import torch
from scipy import ndimage, optimize, sparse

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


@pytest.mark.parametrize("rows", [[0, 40], [-1.0], [0.5], [[0.0, 1.0]], [float("nan")]])
def test_numbers_of_measurements_that_are_none_are_refused(rows):
    A, b = problem()
    model = br.BayesianModel(operators.Dense(A), {"x": priors.Normal(0.5)}, likelihoods.Gaussian(0.1))
    mode = br.fit(model, None, b, method="map")
    assert mode.predict([0, 39]).mean.tolist() == mode.predict(None).mean[[0, 39]].tolist()
    with pytest.raises(ValueError, match=r"whole ones from 0 to 39, but shape .* came; .* br\.fit\(model, None, b\)"):
        mode.predict(rows)
    with pytest.raises(ValueError, match=r"br\.fit\(model, None, b\)"):
        br.fit(model, b, method="map")


class Wrong(operators.Dense):
    def adjoint(self, b):
        return 2 * super().adjoint(b)


def test_a_wrong_adjoint_is_refused():
    with pytest.raises(ValueError, match="<A x, b> = <x, A' b>"):
        Wrong(problem()[0]).check_adjoint()


@pytest.mark.parametrize(
    ("b", "said"),
    [
        (np.where(np.arange(40) < 2, np.nan, 1.0), r"b must be finite, but 2 of 40 .*operators.Mask\(observed\) @ A"),
        (np.ones(3), r"shape of what the operator gives, \(40,\), but \(3,\)"),
        (np.ones(40) * 1j, "b must be real"),
    ],
)
def test_measurements_that_do_not_fit_are_refused(b, said):
    model = br.BayesianModel(operators.Dense(problem()[0]), {"x": priors.Normal(0.5)}, likelihoods.Gaussian(0.1))
    with pytest.raises(ValueError, match=said):
        br.fit(model, None, b, method="map")


def test_lists_keep_their_digits():
    assert operators.Dense([[0.1]]).matrix().item() == 0.1
    assert operators.Radon([np.pi / 3], (2, 2)).angles == (np.pi / 3,)
    assert operators.Observed(operators.Identity(1)).measured([0.1]).item() == 0.1


def test_an_array_that_cannot_be_written_to_is_taken():
    A, b = problem(6, 4)
    A.flags.writeable = b.flags.writeable = False
    model = br.BayesianModel(operators.Dense(A), {"x": priors.Normal(0.5)}, likelihoods.Gaussian(0.1))
    assert br.fit(model, None, b, method="exact").mean["x"].shape == (4,)


def test_a_matrix_has_two_axes():
    with pytest.raises(ValueError, match=r"A must be a matrix \(M, N\), but shape \(4,\)"):
        operators.Dense(torch.ones(4))


NDIMAGE = {"reflect": "reflect", "mirror": "mirror", "nearest": "nearest", "zero": "constant", "periodic": "wrap"}


@pytest.mark.parametrize("boundary", NDIMAGE)
@pytest.mark.parametrize("size", [1, 2, 3, 6, 25])
@pytest.mark.parametrize("length", [3, 8, 300])  # which is long enough for an FFT
def test_convolution_along_a_line_is_scipys(boundary, size, length):
    rng = np.random.default_rng(size)
    kernel, x = rng.normal(size=size), rng.normal(size=(2, length))
    found = operators.Convolution1d(kernel, boundary, shape=length)(torch.as_tensor(x)).numpy()
    np.testing.assert_allclose(found, ndimage.convolve1d(x, kernel, mode=NDIMAGE[boundary]), atol=1e-12)


@pytest.mark.parametrize("boundary", NDIMAGE)
@pytest.mark.parametrize("sizes", [(3, 3), (2, 5), (4, 4), (7, 1)])
@pytest.mark.parametrize("separable", [True, False])
def test_convolution_of_an_image_is_scipys(boundary, sizes, separable):
    rng = np.random.default_rng(sizes[0])
    kernel, x = rng.normal(size=sizes), rng.normal(size=(6, 9))
    kernel = kernel[:1] * kernel[:, :1] if separable else kernel
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
        (operators.Convolution1d(operators.gaussian_kernel(2.0), shape=300), "dct"),
        (operators.Convolution2d([[0.0, 1.0, 0.0], [1.0, 4.0, 1.0], [0.0, 1.0, 0.0]], shape=(6, 9)), "dct"),
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
        (lambda: operators.Mask([1.0, 0.0]), "observed must be an array of truth values, but torch.float64"),
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


def siddons(image, angle, offset):
    """The integral along one line, by its crossings with the edges of pixels, each in its turn."""
    height, width = image.shape
    normal, along = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    crossings = [-1e3, 1e3]
    for edges, axis in ((np.arange(width + 1) - width / 2, 0), (np.arange(height + 1) - height / 2, 1)):
        if abs(along[axis]) > 1e-12:
            crossings += list((edges - offset * normal[axis]) / along[axis])
    crossings, total = np.sort(crossings), 0.0
    for start, stop in itertools.pairwise(crossings):
        x, y = offset * normal + (start + stop) / 2 * along
        column, row = int(np.floor(x + width / 2)), int(np.floor(height / 2 - y))
        if 0 <= column < width and 0 <= row < height:
            total += (stop - start) * image[row, column]
    return total


@pytest.mark.parametrize(("shape", "detectors"), [((5, 7), 9), ((6, 4), 4), ((8, 8), 12)])
def test_projections_are_siddons(shape, detectors):
    rng = np.random.default_rng(0)
    image, angles = rng.random(shape), np.append(rng.uniform(-np.pi, np.pi, 6), [np.pi / 4, 0.0, -np.pi / 2])
    found = operators.Radon(angles, shape, detectors)(torch.as_tensor(image)).numpy()
    for i, angle in enumerate(angles):
        on_edge = i > 6 and (detectors + shape[i - 7 == 0]) % 2  # where Siddon's ray runs along edges
        for k in range(detectors if not on_edge else 0):
            assert found[i, k] == pytest.approx(siddons(image, angle, k - (detectors - 1) / 2), abs=1e-9)


def test_a_ray_along_an_edge_is_shared():
    image = torch.tensor([[1.0, 2.0], [3.0, 4.0]], dtype=torch.float64)
    A = operators.Radon([0.0, np.pi / 2], (2, 2), 3)
    assert A(image).tolist() == [pytest.approx([2.0, 5.0, 3.0], abs=1e-6), pytest.approx([3.5, 5.0, 1.5], abs=1e-6)]


def test_projections_converge_to_those_of_an_ellipse():
    a, b, tilt, x0, y0 = 0.5, 0.3, 0.4, 0.1, -0.2
    angles, errors = np.linspace(0, np.pi, 12, endpoint=False), []
    for n in (32, 128):
        fine = (np.arange(4 * n) + 0.5) / (2 * n) - 1
        x, y = fine[None] - x0, -fine[:, None] - y0
        turned = (x * np.cos(tilt) + y * np.sin(tilt)) / a, (y * np.cos(tilt) - x * np.sin(tilt)) / b
        image = (turned[0] ** 2 + turned[1] ** 2 <= 1).astype(float).reshape(n, 4, n, 4).mean((1, 3))
        A = operators.Radon(angles, (n, n))
        s = (np.arange(A.output_shape[1]) - (A.output_shape[1] - 1) / 2) * 2 / n
        half = np.sqrt((a * np.cos(angles - tilt)) ** 2 + (b * np.sin(angles - tilt)) ** 2)[:, None]
        off = s - (x0 * np.cos(angles) + y0 * np.sin(angles))[:, None]
        expected = 2 * a * b * np.sqrt(np.clip(half**2 - off**2, 0, None)) / half**2
        found = A(torch.as_tensor(image)).numpy() * 2 / n
        errors.append(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    assert errors[0] < 0.05
    assert errors[1] < errors[0] / 2.5


def test_a_projection_keeps_the_mass():
    image = torch.as_tensor(np.random.default_rng(0).random((40, 40)))
    sums = operators.Radon(np.linspace(0, np.pi, 7), (40, 40))(image).sum(1)
    assert (sums / image.sum() - 1).abs().max() < 0.01


@pytest.mark.parametrize("matrix", [sparse.csr_matrix, sparse.coo_array, sparse.linalg.aslinearoperator, lambda A: A])
def test_operators_of_scipy_are_taken(matrix):
    A = problem(6, 4)[0]
    found = operators.FromLinearOperator(matrix(A), shape=(2, 2), output_shape=(3, 2))
    np.testing.assert_allclose(found.matrix().numpy(), A, atol=1e-14)
    assert found.check_adjoint() < 1e-14


def test_a_lambda_without_matmat_is_taken():
    A = problem(6, 4)[0]
    source = sparse.linalg.LinearOperator(A.shape, matvec=lambda v: A @ v.ravel(), rmatvec=lambda v: A.T @ v.ravel())
    np.testing.assert_allclose(operators.FromLinearOperator(source).matrix().numpy(), A, atol=1e-14)


@pytest.mark.parametrize("method", ["map", "exact", "laplace"])
def test_an_operator_outside_torch_is_fitted_by_every_kind_of_method(method):
    A, b = problem(12, 4)
    model = br.BayesianModel(
        operators.FromLinearOperator(sparse.csr_array(A)), {"x": priors.Normal(0.5)}, likelihoods.Gaussian(0.1)
    )
    post = br.fit(model, None, b, method=method)
    precision = A.T @ A / 0.1**2 + np.eye(4) / 0.5**2
    away = (post.mean["x"].numpy() - np.linalg.solve(precision, A.T @ b / 0.1**2)) / np.sqrt(np.diag(np.linalg.inv(precision)))
    assert np.abs(away).max() < 1e-6


def test_a_copy_shares_the_sparse_matrix():
    A = operators.Radon([0.3], (4, 4))
    assert copy.deepcopy(A).products is A.products


def test_another_matrix_is_not_that_of_the_fit(tmp_path):
    A, b = problem(6, 4)
    model = br.BayesianModel(
        operators.FromLinearOperator(sparse.csr_array(A)), {"x": priors.Normal(0.5)}, likelihoods.Gaussian(0.1)
    )
    br.save(br.fit(model, None, b, method="exact"), tmp_path / "post.pt")
    other = br.BayesianModel(operators.FromLinearOperator(sparse.csr_array(2 * A)), {"x": priors.Normal(0.5)})
    with pytest.raises(ValueError, match=r"digest of operator .*was"):
        br.load(tmp_path / "post.pt", module=other.module)


def test_a_linear_function_is_the_linear_operator():
    A, b = problem(12, 4)
    tensor = torch.as_tensor(A)
    answers = []
    for operator in (operators.Dense(A), operators.Nonlinear(lambda x: tensor @ x, 4)):
        model = br.BayesianModel(operator, {"x": priors.Normal(0.5)}, likelihoods.Gaussian(0.1))
        answers.append(br.fit(model, None, b, method="laplace"))
    for name in ("mean", "std"):
        one, other = (getattr(answer, name)["x"].numpy() for answer in answers)
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_a_nonlinear_mode_is_that_of_least_squares():
    t = torch.linspace(0, 4, 20, dtype=torch.float64)
    F = operators.Nonlinear(lambda x: x[0] * (-x[1].exp() * t).exp(), 2)
    truth = torch.tensor([2.0, -0.5], dtype=torch.float64)
    b = F(truth).numpy() + 0.05 * np.random.default_rng(0).standard_normal(20)
    model = br.BayesianModel(F, {"x": priors.Normal(3.0)}, likelihoods.Gaussian(0.05))
    found = br.fit(model, None, b, method="map").mean["x"].numpy()

    def missed(x):
        return np.append((F(torch.as_tensor(x)).numpy() - b) / 0.05, x / 3.0)

    np.testing.assert_allclose(found, optimize.least_squares(missed, truth.numpy(), xtol=1e-14).x, atol=1e-5)


def test_a_module_is_a_map_whose_weights_stay():
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Dropout(0.5), torch.nn.Linear(8, 5))
    F = operators.Nonlinear(net, 3)
    assert all(p.requires_grad and p.dtype == torch.float32 for p in net.parameters())
    assert net.training
    x = torch.randn(4, 3)
    torch.testing.assert_close(F(x), net.eval()(x))
    model = br.BayesianModel(F, {"x": priors.Normal(1.0)}, likelihoods.Gaussian(0.1))
    assert list(model.latents) == ["x"]
    assert br.fit(model, None, F(x[0]).numpy(), method="map").mean["x"].shape == (3,)


def test_each_leading_field_is_mapped_by_itself():
    F = operators.Nonlinear(lambda x: x.sum() * x.T, (2, 3))
    x = torch.randn(4, 5, 2, 3, dtype=torch.float64)
    assert F.output_shape == (3, 2)
    torch.testing.assert_close(F(x), x.sum((-1, -2), keepdim=True) * x.mT)
    torch.testing.assert_close(torch.vmap(F)(x[0]), F(x[0]))
    assert torch.autograd.gradcheck(F, x[0, 0].requires_grad_())


no_adjoint = sparse.linalg.LinearOperator((3, 3), matvec=lambda v: v)
wrong_adjoint = sparse.linalg.LinearOperator((3, 3), matvec=lambda v: v, rmatvec=lambda v: 2 * v)
without_numbers = sparse.linalg.LinearOperator((3, 3), matvec=lambda v: v * np.nan, rmatvec=lambda v: v)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: operators.FromLinearOperator(no_adjoint), "must have an adjoint, but it has none .*rmatvec="),
        (lambda: operators.FromLinearOperator(wrong_adjoint), "<A x, b> = <x, A' b>"),
        (lambda: operators.FromLinearOperator(without_numbers), "A must give finite numbers"),
        (lambda: operators.FromLinearOperator(sparse.eye_array(3) * 1j), "A must be real, but complex128 came; stack"),
        (lambda: operators.FromLinearOperator(sparse.csr_array([[np.nan, 1.0]])), "A must be finite, but 1 of its entries"),
        (lambda: operators.FromLinearOperator(lambda x: x), "SciPy LinearOperator or a sparse matrix, but function came"),
        (lambda: operators.FromLinearOperator(sparse.csr_array((0, 3))), "A's size must be a whole number >= 1"),
        (lambda: operators.FromLinearOperator(sparse.eye_array(4), (2, 3)), r"shape must have 4 entries .*but \(2, 3\)"),
        (lambda: operators.FromLinearOperator(sparse.eye_array(4), None, 3), r"output_shape must have 4 entries"),
        (lambda: operators.Radon([90.0], (4, 4)), "radians within ±2π, .*np.deg2rad"),
        (lambda: operators.Radon([[0.1]], (4, 4)), r"angles must be a line of radians .*\(1, 1\)"),
        (lambda: operators.Radon([np.nan], (4, 4)), "angles must be finite"),
        (lambda: operators.Radon([0.1], 4), r"shape must be that of an image, \(H, W\), but \(4,\)"),
        (lambda: operators.Radon([0.1], (4, 4), 0), "detectors must be a whole number >= 1"),
        (lambda: operators.Nonlinear(3, 4), "function must be callable, but int came"),
        (
            lambda: operators.Nonlinear(lambda x: x @ torch.ones(7), 4),
            r"take an x of shape \(4,\), but for zeros it failed",
        ),
        (lambda: operators.Nonlinear(lambda x: x * 1j, 4), "must give a real tensor with entries, but torch.complex128"),
        (lambda: operators.Nonlinear(lambda x: x[:0], 4), r"but torch.float64 of shape \(0,\) came"),
        (lambda: operators.Nonlinear(lambda x: x.numpy(), 4), "must give a real tensor with entries, but ndarray"),
        (lambda: operators.Nonlinear(lambda x: x, 4, 5), r"must give output_shape, but 5 and \(4,\)"),
    ],
)
def test_what_is_no_operator_from_elsewhere_is_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_operators_of_pylops_are_taken():
    pylops = pytest.importorskip("pylops")
    kernel = np.array([1.0, 2.0, 3.0])
    theirs = pylops.signalprocessing.Convolve1D(12, kernel, offset=1)
    found = operators.FromLinearOperator(theirs)
    torch.testing.assert_close(found.matrix(), operators.Convolution1d(kernel, "zero", shape=12).matrix())
