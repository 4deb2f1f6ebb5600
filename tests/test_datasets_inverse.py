"""The test problems of inverse theory: published numbers, and the integrals that their matrices stand for."""

import dataclasses

import numpy as np
import pytest
from scipy import integrate, ndimage, stats

import bayesreg as br
from bayesreg import datasets, likelihoods, priors
from bayesreg.datasets import inverse


def matrix(problem):
    return problem.operator.matrix().numpy()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("shaw", {"s1": 2.99333, "x": 5.646736, "b": 13.187358, "sum": 68.08962683}),
        ("deriv2", {"b": 0.045985, "sum": -2.66666667}),
        ("heat", {"s1": 0.358271, "b": 0.263116}),
    ],
)
def test_published_numbers(name, expected):
    problem = inverse.PROBLEMS[name](32)
    A = matrix(problem)
    found = {"s1": np.linalg.norm(A, 2), "x": np.linalg.norm(problem.x), "b": np.linalg.norm(problem.b), "sum": A.sum()}
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, abs=0.6 * 10.0 ** -len(str(value).split(".")[1])), key


def phillips_data(s):
    inside = (6 - abs(s)) * (1 + 0.5 * np.cos(np.pi * s / 3)) + 9 / (2 * np.pi) * np.sin(np.pi * abs(s) / 3)
    return np.where(abs(s) <= 6, inside, 0.0)


# name: the kernel, f, g, the interval of s and of t, all in closed form
EQUATIONS = {
    "gravity": (
        lambda s, t: 0.25 / (0.25**2 + (s - t) ** 2) ** 1.5,
        lambda t: np.sin(np.pi * t) + 0.5 * np.sin(2 * np.pi * t),
        None,
        (0, 1),
        (0, 1),
    ),
    "shaw": (
        lambda s, t: ((np.cos(s) + np.cos(t)) * np.sinc(np.sin(s) + np.sin(t))) ** 2,
        lambda t: 2 * np.exp(-6 * (t - 0.8) ** 2) + np.exp(-2 * (t + 0.5) ** 2),
        None,
        (-np.pi / 2, np.pi / 2),
        (-np.pi / 2, np.pi / 2),
    ),
    "deriv2": (
        lambda s, t: np.where(s < t, s * (t - 1), t * (s - 1)),
        lambda t: t,
        lambda s: (s**3 - s) / 6,
        (0, 1),
        (0, 1),
    ),
    "phillips": (
        lambda s, t: np.where(abs(s - t) < 3, 1 + np.cos(np.pi * (s - t) / 3), 0.0),
        lambda t: np.where(abs(t) < 3, 1 + np.cos(np.pi * t / 3), 0.0),
        phillips_data,
        (-6, 6),
        (-6, 6),
    ),
    "baart": (
        lambda s, t: np.exp(s * np.cos(t)),
        np.sin,
        lambda s: 2 * np.sinh(s) / s,
        (0, np.pi / 2),
        (0, np.pi),
    ),
    "foxgood": (np.hypot, lambda t: t, lambda s: ((1 + s**2) ** 1.5 - s**3) / 3, (0, 1), (0, 1)),
}
GALERKIN = {"deriv2", "phillips", "baart"}


def middles(interval, n):
    start, stop = interval
    width = (stop - start) / n
    return start + width * (np.arange(n) + 0.5), width


def box_means(function, points, width):
    nodes, weights = np.polynomial.legendre.leggauss(8)
    return sum(w / 2 * function(points + width / 2 * z) for z, w in zip(nodes, weights, strict=True))


@pytest.mark.parametrize("name", EQUATIONS)
def test_the_matrix_is_that_of_its_integral(name):
    kernel, f, _, over_s, over_t = EQUATIONS[name]
    problem = inverse.PROBLEMS[name](24)
    (s, height), (t, width) = middles(over_s, 24), middles(over_t, 24)
    if name in GALERKIN:
        expected = np.array([[box_means(lambda b, a=a: kernel(a, b), t, width) for a in s + height / 2 * z] for z in NODES])
        expected = np.tensordot(WEIGHTS, expected, 1) * np.sqrt(width * height)
        x, tolerance = np.sqrt(width) * box_means(f, t, width), 2e-3  # the kernel bends inside boxes
    else:
        expected, x, tolerance = width * kernel(s[:, None], t), f(t), 1e-12
    assert np.abs(matrix(problem) - expected).max() < tolerance * np.abs(expected).max()
    assert np.abs(problem.x - x).max() < tolerance * np.abs(x).max()


NODES, WEIGHTS = np.polynomial.legendre.leggauss(24)
WEIGHTS = WEIGHTS / 2


@pytest.mark.parametrize("name", EQUATIONS)
def test_the_measurements_converge_to_the_integral(name):
    kernel, f, g, over_s, over_t = EQUATIONS[name]
    errors = []
    for n in (16, 64):
        s, height = middles(over_s, n)

        def data(points):
            if g is not None:
                return g(points)
            return np.array([integrate.quad(lambda t, p=p: kernel(p, t) * f(t), *over_t)[0] for p in points])

        expected = np.sqrt(height) * box_means(data, s, height) if name in GALERKIN else data(s)
        errors.append(np.abs(inverse.PROBLEMS[name](n).b - expected).max() / np.abs(expected).max())
    assert errors[0] < 0.02
    assert errors[1] < max(errors[0] / 10, 1e-12)  # of second order: a sixteenth


def test_the_laplace_transform_is_exact():
    problem, s = inverse.i_laplace(100), 10 * np.arange(1, 101) / 100
    assert np.abs(problem.b - 1 / (s + 0.5)).max() < 1e-12
    assert np.isfinite(matrix(inverse.i_laplace(300))).all()


def test_heat_flows_through_the_rod():
    """The kernel is the density of the time at which a Brownian motion first gets through, of Lévy's law."""
    for n, tolerance in ((50, 1e-2), (200, 1e-3)):
        step = matrix(inverse.heat(n)).sum(1)
        assert np.abs(step - stats.levy.cdf((np.arange(n) + 1) / n, scale=0.5)).max() < tolerance


def test_truth_of_heat_is_a_pulse():
    x = inverse.heat(200).x
    assert x.max() == pytest.approx(1.0)
    assert np.argmax(x) == 24  # at a time of 0.125
    assert (x[100:] == 0).all()


@pytest.mark.parametrize("name", ["shaw", "gravity", "deriv2", "phillips", "foxgood"])
def test_symmetric_ones_are(name):
    A = matrix(inverse.PROBLEMS[name](17))
    assert np.abs(A - A.T).max() < 1e-15 * np.abs(A).max()


@pytest.mark.parametrize("name", inverse.PROBLEMS)
def test_each_problem_says_what_it_is(name):
    problem = inverse.PROBLEMS[name]()
    assert problem.name == name
    assert problem.x.shape == problem.operator.shape
    assert problem.b.shape == problem.operator.output_shape
    assert problem.x.dtype == problem.b.dtype == np.float64
    assert len(problem.source) > 20
    with pytest.raises(dataclasses.FrozenInstanceError):
        problem.x = 0


def test_the_phantom_is_that_of_the_literature():
    image = inverse.shepp_logan(256)
    assert image.min() == 0.0
    assert image.max() == 1.0
    at = {
        (0.0, 0.9): 1.0,
        (0.0, 0.0): 0.2,
        (0.22, 0.0): 0.0,
        (-0.22, 0.0): 0.0,
        (0.0, 0.35): 0.3,
        (0.0, 0.08): 0.3,
        (0.95, 0.0): 0.0,
    }
    for (x, y), grey in at.items():
        assert image[int((1 - y) * 128), int((1 + x) * 128)] == pytest.approx(grey, abs=1e-9), (x, y)
    area = np.pi * sum(grey * a * b for grey, a, b, *_ in TOFT)
    assert image.mean() * 4 == pytest.approx(area, rel=2e-3)


TOFT = [(1, 0.69, 0.92), (-0.8, 0.6624, 0.874), (-0.2, 0.11, 0.31), (-0.2, 0.16, 0.41), (0.1, 0.21, 0.25)]
TOFT += [(0.1, 0.046, 0.046)] * 2 + [(0.1, 0.046, 0.023), (0.1, 0.023, 0.023), (0.1, 0.023, 0.046)]


def test_projections_of_the_phantom_have_its_mass():
    problem = inverse.tomography(64, 30)
    np.testing.assert_allclose(problem.b.sum(1), problem.x.sum(), rtol=5e-3)
    np.testing.assert_allclose(problem.b[0][13:-14].sum(), problem.x.sum())  # rays through pixels


def test_signals_are_what_they_are_called():
    blocks, spikes, smooth = (inverse.deblurring_1d(200, signal=name).x for name in ("blocks", "spikes", "smooth"))
    assert (np.diff(blocks) != 0).sum() == 5
    assert (spikes != 0).sum() == 5
    assert np.abs(np.diff(smooth, 2)).max() < 0.01


@pytest.mark.parametrize("make", [inverse.deblurring_1d, inverse.deblurring_2d])
def test_blurred_ones_are_scipys(make):
    problem = make(40, width=1.5)
    expected = ndimage.gaussian_filter(problem.x, 1.5, mode="reflect")
    assert np.abs(problem.b - expected).max() < 1e-12
    assert problem.operator.spectrum()[0] == "dct"


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_noise_is_white_and_of_the_size_that_was_said(seed):
    problem = inverse.phillips(3000)
    b, scale = problem.noisy(0.05, seed)
    noise = (b - problem.b) / scale
    assert scale == pytest.approx(0.05 * np.linalg.norm(problem.b) / 3000**0.5)
    assert abs(noise.mean()) < 4 / 3000**0.5
    assert abs(noise.var() - 1) < 4 * (2 / 3000) ** 0.5
    np.testing.assert_array_equal(b, problem.noisy(0.05, seed)[0])


def test_a_problem_is_fitted_at_once():
    problem = datasets.inverse.shaw(32)
    b, scale = problem.noisy(1e-2, 0)
    model = br.BayesianModel(problem.operator, {"x": priors.Smooth(2, 0.1, level_scale=10.0)}, likelihoods.Gaussian(scale))
    found = br.fit(model, None, b, method="exact").mean["x"].numpy()
    assert np.linalg.norm(found - problem.x) < 0.3 * np.linalg.norm(problem.x)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: inverse.shaw(0), "n must be a whole number >= 1, but 0"),
        (lambda: inverse.i_laplace(301), "n must be at most 300"),
        (lambda: inverse.gravity(8, depth=-1), "depth must be a finite number > 0"),
        (lambda: inverse.deblurring_1d(8, signal="spike"), "signal must be one of .*did you mean 'spikes'"),
        (lambda: inverse.deblurring_2d(8, image="blob"), "image must be one of .*did you mean 'blobs'"),
        (lambda: inverse.deblurring_2d(8, width=0), "width must be a finite number > 0"),
        (lambda: inverse.tomography(8, 0), "num_angles must be a whole number >= 1"),
        (lambda: inverse.shaw(8).noisy(0), "level must be a finite number > 0"),
    ],
)
def test_refusals(call, said):
    with pytest.raises(ValueError, match=said):
        call()
