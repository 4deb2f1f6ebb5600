"""What every linear operator must be: its own matrix, the adjoint of that, differentiable, on any leading axes, in a model."""

import copy

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.sparse.linalg import aslinearoperator

import bayesreg as br
from bayesreg import likelihoods, operators, priors
from bayesreg._catalog import concrete
from bayesreg.operators import AbstractLinearOperator, AbstractOperator

rng = np.random.default_rng(0)
PLAIN = operators.Dense(rng.normal(size=(3, 5)))
EXAMPLES = [
    PLAIN,
    operators.Dense(rng.normal(size=(4, 1))),
    operators.Identity((2, 3)),
    *(
        operators.Convolution1d(rng.normal(size=size), boundary, shape=shape)
        for boundary in ("reflect", "mirror", "nearest", "zero", "periodic")
        for size, shape in ((3, 7), (4, (2, 5)), (9, 4))
    ),
    *(operators.Convolution1d(rng.normal(size=5), boundary, shape=300) for boundary in ("reflect", "zero", "periodic")),
    operators.Convolution2d(np.outer([1.0, 2.0], [0.5, 1.0, -2.0]), "mirror", shape=(2, 4, 5)),
    *(
        operators.Convolution2d(rng.normal(size=(3, 2)), boundary, shape=shape)
        for boundary in ("reflect", "mirror", "nearest", "zero", "periodic")
        for shape in ((4, 5), (2, 3, 3))
    ),
    operators.Mask(rng.random((4, 3)) < 0.5),
    operators.Mask([False, True]),
    operators.Difference(shape=5),
    operators.Difference(2, 0, shape=(4, 3)),
    operators.Difference(3, 1, shape=(2, 5, 3)),
    operators.Stack([PLAIN, operators.Difference(shape=5)]),
    operators.Stack([operators.Difference(axis=axis, shape=(3, 4)) for axis in (0, 1)]),
    operators.FromLinearOperator(sparse.random_array((6, 4), density=0.5, rng=rng)),
    operators.FromLinearOperator(aslinearoperator(rng.normal(size=(6, 4))), shape=(2, 2), output_shape=(3, 2)),
    operators.Radon(np.linspace(0, np.pi, 5), shape=(3, 4)),
    operators.Radon([0.3], shape=(2, 2), detectors=3),
    PLAIN.T,
    operators.Difference(2, 0, shape=(4, 3)).T,
    PLAIN @ operators.Difference(shape=6),
    PLAIN + 2 * operators.Dense(rng.normal(size=(3, 5))),
    PLAIN - 0.5 * PLAIN,
    -operators.Convolution1d([1.0, 2.0], shape=4),
]
FIRST = list({type(A): A for A in reversed(EXAMPLES)}.values())
SEEDS = (0, 1, 2)
first = pytest.mark.parametrize("A", FIRST, ids=lambda A: type(A).__name__)
each = pytest.mark.parametrize("A", EXAMPLES, ids=lambda A: f"{type(A).__name__} {A.shape}")


def field(shape, seed=0, dtype=torch.float64, lead=()):
    return torch.randn(*lead, *shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_every_class_has_examples():
    ours = {cls for cls in concrete(AbstractOperator) if cls.__module__.startswith("bayesreg.")}
    assert {cls for cls in ours if cls.linear} == {type(A) for A in EXAMPLES}
    assert all(issubclass(cls, AbstractLinearOperator) == cls.linear for cls in ours)


@each
def test_dot_test(A):
    for seed in SEEDS:
        assert A.check_adjoint(seed) < 1e-14


@each
def test_it_is_its_matrix(A):
    matrix = A.matrix()
    assert matrix.dtype == torch.float64
    assert matrix.shape == (A.num_data, A.size)
    x, b = field(A.shape), field(A.output_shape, 1)
    torch.testing.assert_close(A(x).reshape(-1), matrix @ x.reshape(-1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(A.adjoint(b).reshape(-1), matrix.T @ b.reshape(-1), rtol=1e-12, atol=1e-12)
    scipys = A.to_linear_operator()
    np.testing.assert_allclose(scipys @ x.reshape(-1).numpy(), (matrix @ x.reshape(-1)).numpy(), atol=1e-12)
    np.testing.assert_allclose(scipys.rmatvec(b.reshape(-1).numpy()), (matrix.T @ b.reshape(-1)).numpy(), atol=1e-12)


@each
@pytest.mark.parametrize("lead", [(1,), (2, 3)], ids=str)
def test_leading_axes(A, lead):
    for product, into, out in ((A, A.shape, A.output_shape), (A.adjoint, A.output_shape, A.shape)):
        x = field(into, lead=lead)
        one_by_one = torch.stack([product(part) for part in x.reshape(-1, *into)]).reshape(*lead, *out)
        torch.testing.assert_close(product(x), one_by_one, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(torch.vmap(product)(x), one_by_one, rtol=1e-12, atol=1e-13)
        last = torch.vmap(product, in_dims=-1, out_dims=-1)(x.movedim(0, -1))
        torch.testing.assert_close(last.movedim(-1, 0), one_by_one, rtol=1e-12, atol=1e-13)


@each
def test_the_type_of_numbers_is_that_of_what_comes(A):
    for product, into in ((A, A.shape), (A.adjoint, A.output_shape)):
        x = field(into)
        single = product(x.float())
        assert single.dtype == torch.float32
        torch.testing.assert_close(single.double(), product(x), rtol=1e-4, atol=1e-5)
        assert product(x.half()).dtype == torch.float16
        torch.testing.assert_close(product(x.round().long()), product(x.round()))


@each
def test_its_gradient_is_its_adjoint(A):
    x, b = field(A.shape).requires_grad_(), field(A.output_shape, 1).requires_grad_()
    torch.testing.assert_close(torch.autograd.grad((A(x) * b).sum(), x)[0], A.adjoint(b).detach(), rtol=1e-12, atol=1e-12)
    for jacobian in (torch.func.jacrev, torch.func.jacfwd):
        torch.testing.assert_close(jacobian(A)(x.detach()).reshape(A.num_data, A.size), A.matrix(), rtol=1e-12, atol=1e-12)


@first
def test_it_is_differentiable_in_every_way(A):
    x, b = field(A.shape).requires_grad_(), field(A.output_shape, 1).requires_grad_()
    assert torch.autograd.gradcheck(A, x, check_forward_ad=True)
    assert torch.autograd.gradcheck(A.adjoint, b, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda v: A(v).square(), x)


@each
def test_its_spectrum_is_that_of_its_normal_matrix(A):
    if (found := A.spectrum()) is not None:
        assert_spectrum(A, *found)


def assert_spectrum(A, transform, values):
    from scipy import fft

    x = field(A.shape).numpy()
    along = {"dct": (lambda v: fft.dctn(v, norm="ortho"), lambda v: fft.idctn(v, norm="ortho")), "fft": (fft.fftn, fft.ifftn)}
    into, back = along[transform]
    assert values.shape == A.shape
    assert values.dtype == torch.float64
    np.testing.assert_allclose(back(values.numpy() * into(x)), A.adjoint(A(torch.as_tensor(x))).numpy(), atol=1e-12)


@each
def test_wrong_fields_are_refused(A):
    for product, name, into in ((A, "x", A.shape), (A.adjoint, "b", A.output_shape)):
        shape = str(into).replace("(", r"\(").replace(")", r"\)")
        for wrong in (torch.zeros(*into[:-1], into[-1] + 1), torch.zeros(())):
            with pytest.raises(ValueError, match=f"the last axes of {name} must be {shape}, but shape .* came; reshape it"):
                product(wrong)
        with pytest.raises(ValueError, match=f"{name} must be real, but complex numbers came; stack real and imaginary"):
            product(torch.zeros(into, dtype=torch.complex128))


@each
def test_a_copy_is_the_same(A):
    x = field(A.shape)
    assert torch.equal(copy.deepcopy(A)(x), A(x))
    assert str(A.output_shape if "->" in repr(A) else A.shape) in repr(A)


@first
def test_a_model_of_it_is_fitted_saved_and_loaded(A, tmp_path):
    model = br.BayesianModel(A, {"x": priors.Normal(0.5)}, likelihoods.Gaussian(0.1))
    b = A(field(A.shape)).numpy()
    found = br.fit(model, None, b, method="exact")
    matrix = A.matrix().numpy()
    precision = matrix.T @ matrix / 0.1**2 + np.eye(A.size) / 0.5**2
    expected = np.linalg.solve(precision, matrix.T @ b.reshape(-1) / 0.1**2)
    np.testing.assert_allclose(found.mean["x"].reshape(-1).numpy(), expected, atol=1e-8)
    np.testing.assert_allclose(found.std["x"].reshape(-1).numpy() ** 2, np.diag(np.linalg.inv(precision)), rtol=1e-6)
    br.save(found, tmp_path / "post.pt")
    again = br.load(tmp_path / "post.pt", module=A)
    assert torch.equal(again.mean["x"], found.mean["x"])
    assert torch.equal(again.predict(None).mean, found.predict(None).mean)
