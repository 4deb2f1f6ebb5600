"""What an operator lets data say: Hadamard's three questions, on the lecture's three matrices and on ill-posed problems."""

import io

import numpy as np
import pytest
import torch

import bayesreg as br
from bayesreg import inverse, operators, priors
from bayesreg.datasets import inverse as problems


def test_two_measurements_of_one_unknown_have_no_solution_but_one_least_squares_answer():
    found = inverse.analyse([[1.0], [1.0]], [1.0, 2.0])
    assert (found.exists, found.unique, found.stable) == (False, True, True)
    assert found.minimum_norm.tolist() == pytest.approx([1.5])
    assert found.off_range == pytest.approx(np.sqrt(0.5))
    assert found.null_space.shape == (1, 0)
    assert "No exact solution exists" in str(found)
    assert "The least-squares solution is unique" in str(found)


def test_one_measurement_of_two_unknowns_has_many_solutions():
    found = inverse.analyse([[1.0, 1.0]], [2.0])
    assert (found.exists, found.unique) == (True, False)
    assert found.minimum_norm.tolist() == pytest.approx([1.0, 1.0])
    assert (found.null_space[:, 0] @ torch.tensor([1.0, -1.0], dtype=torch.float64)).abs() == pytest.approx(np.sqrt(2))
    assert found.in_null_space([3.0, -1.0]) == pytest.approx(0.8)
    assert found.resolution().flatten().tolist() == pytest.approx([0.5] * 4)
    assert "not unique: 1 direction of x does not change A x" in str(found)


def test_nearly_equal_rows_are_not_stable():
    found = inverse.analyse([[1.0, 1.0], [1.0, 1.0001]], [2.0, 2.0], noise_scale=0.01)
    assert (found.exists, found.unique, found.stable) == (True, True, False)
    assert found.condition == pytest.approx(np.linalg.cond([[1.0, 1.0], [1.0, 1.0001]]))
    assert "It is not stable: condition number 40,002: up to 4.6 digits" in str(found)


def test_a_well_posed_problem_is_said_to_be_one():
    found = inverse.analyse(np.eye(3), [1.0, 2.0, 3.0], noise_scale=0.01)
    assert (found.exists, found.unique, found.stable, found.above_noise) == (True, True, True, 3)
    assert "no digits" in str(found)


def test_numbers_are_those_of_the_definitions():
    problem = problems.deriv2(24)
    b, sigma = problem.noisy(0.01, seed=1)
    A, lam = problem.operator.matrix().numpy(), 3e-4
    found = inverse.analyse(problem.operator, b, sigma)
    U, s, _ = np.linalg.svd(A)
    smoother = np.linalg.solve(A.T @ A + lam * np.eye(24), A.T)
    assert np.allclose(found.singular_values, s, rtol=1e-10)
    assert np.allclose(found.coefficients.abs(), np.abs(U.T @ b), rtol=1e-6)
    assert found.degrees_of_freedom(lam) == pytest.approx(np.trace(A @ smoother), rel=1e-10)
    assert np.allclose(found.resolution(lam), smoother @ A, atol=1e-12)
    assert np.allclose(found.minimum_norm, np.linalg.pinv(A) @ b, rtol=1e-8)
    assert 0 < found.above_noise < 24


@pytest.mark.parametrize("prior", [priors.Normal(0.3), priors.Smooth(order=2, scale=0.1), priors.Smooth(order=1, scale=2.0)])
def test_filter_factors_under_a_prior_are_what_the_data_decide(prior):
    """The trace of the influence matrix A (AᵀA/σ² + Λ)⁻¹ Aᵀ/σ²."""
    problem, sigma = problems.phillips(20), 0.05
    A, precision = problem.operator.matrix(), prior.gaussian((20,))[1]
    precision = torch.diag(precision) if precision.dim() == 1 else precision
    influence = A @ torch.linalg.solve(A.mT @ A / sigma**2 + precision, A.mT) / sigma**2
    spectrum = inverse.analyse(problem.operator).under(prior)
    assert float(spectrum.degrees_of_freedom(sigma**2)) == pytest.approx(float(influence.trace()), rel=1e-8)


def test_noise_explains_what_is_off_the_range_or_not():
    rng = np.random.default_rng(0)
    A = rng.normal(size=(60, 20))
    b = A @ rng.normal(size=20) + 0.1 * rng.normal(size=60)
    assert "what noise of sd 0.1 leaves there" in str(inverse.analyse(A, b, 0.1))
    assert "σ is larger, or A is not what made b" in str(inverse.analyse(A, b, 0.01))


def test_of_a_large_operator_the_largest_singular_values_are_found():
    rng = np.random.default_rng(0)
    A = rng.normal(size=(3000, 8)) @ np.diag(10.0 ** -np.arange(8)) @ rng.normal(size=(8, 200))
    found = inverse.analyse(A)
    assert not found.complete
    assert np.allclose(found.singular_values[:5], np.linalg.svd(A, compute_uv=False)[:5], rtol=1e-6)
    assert "by a Krylov method" in str(found)
    assert (found.unique, found.exists) == (None, None)
    with pytest.raises(ValueError, match=r"the null space needs all singular values, but the operator is too large"):
        _ = found.null_space


def test_it_is_shown_in_a_notebook_and_a_terminal():
    from rich.console import Console

    found = inverse.analyse(problems.shaw(16).operator, problems.shaw(16).b)
    assert "<table" in found._repr_html_()
    console = Console(record=True, width=200, file=io.StringIO())
    console.print(found)
    assert "Hadamard" in console.export_text()
    assert repr(found).startswith("Analysis(16 × 16")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: inverse.analyse([[1.0, float("nan")]]), "A must"),
        (lambda: inverse.analyse(np.ones((2, 2)) * 1j), "A must be real, but complex"),
        (lambda: inverse.analyse(np.zeros((2, 2))), "A must not be zero"),
        (lambda: inverse.analyse(np.ones(3)), r"A must be a matrix \(M, N\)"),
        (lambda: inverse.analyse(np.eye(2), [1.0, float("inf")]), "b must"),
        (lambda: inverse.analyse(np.eye(2), [1.0, 1j]), "b must be real"),
        (lambda: inverse.analyse(np.eye(2), [1.0]), r"b must have the shape of what the operator gives, \(2,\)"),
        (lambda: inverse.analyse(np.eye(2), [1.0, 1.0], 0.0), "noise_scale must"),
        (lambda: inverse.analyse(np.eye(2)).minimum_norm, "b must be known"),
        (lambda: inverse.analyse(np.eye(2)).in_null_space([1.0]), "x must have 2 entries"),
        (lambda: inverse.analyse([[1.0, 1.0]]).under(priors.Flat()), "1 direction of x is neither measured nor restricted"),
        (lambda: inverse.analyse([[1.0, -1.0]]).under(priors.Smooth()), "1 direction|restricted"),
        (lambda: inverse.analyse(np.eye(2)).under(priors.Laplace(1.0)), "filter factors need a quadratic penalty"),
    ],
)
def test_what_makes_no_sense_is_refused(make, said):
    if said == "1 direction|restricted":  # (1, −1) is what A measures, (1, 1) what Smooth leaves free
        said = "1 direction of x is neither"
    with pytest.raises(ValueError, match=said):
        make()


def test_a_nonlinear_operator_is_refused():
    class Square(operators.AbstractOperator):
        linear = False
        shape = output_shape = (2,)

        def forward(self, x):
            return x.square()

    with pytest.raises(ValueError, match=r"an analysis needs a linear operator, but Square came; take operators\.Dense of its"):
        inverse.analyse(Square())


def test_a_model_stands_for_its_operator():
    model = br.BayesianModel(operators.Dense([[1.0, 2.0]]), {"x": priors.Normal(1.0)})
    assert inverse.analyse(model).singular_values.tolist() == pytest.approx([np.sqrt(5)])


def drawn_from(model, seed):
    """A truth and measurements from the model itself."""
    x = model.sample_prior(1, seed=seed)["x"][0]
    noise = torch.from_numpy(np.random.default_rng(seed).normal(size=model.module.operator.output_shape))
    return x, model.module.operator(x) + float(model.likelihood.fixed["noise_scale"]) * noise


@pytest.fixture(scope="module", params=[25, pytest.param(400, marks=pytest.mark.slow)])
def judged(request):
    """Answers to problems that the model itself made."""
    operator = problems.deriv2(24).operator
    model = br.BayesianModel(operator, {"x": priors.Smooth(1, 1.0, level_scale=4.0)}, br.likelihoods.Gaussian(0.02))
    found = []
    for seed in range(request.param):
        x, b = drawn_from(model, seed)
        found.append(inverse.judge(br.fit(model, None, b, method="exact"), b, x, seed=seed))
    return found


@pytest.mark.parametrize("name", ["p_size", "p_white"])
@pytest.mark.parametrize("level", [0.05, 0.5])
def test_the_residuals_tests_keep_their_level(judged, name, level):
    share = np.mean([getattr(answer, name) <= level for answer in judged])
    assert abs(share - level) < 3.5 * np.sqrt(level * (1 - level) / len(judged))


def test_bands_hold_the_truth_as_often_as_they_say(judged):
    shares = np.array([answer.coverage for answer in judged])
    assert abs(shares.mean() - 0.9) < 4 * shares.std() / np.sqrt(len(judged))


def test_an_answer_that_leaves_structure_is_said_to():
    problem = problems.shaw(64)
    b, sigma = problem.noisy(0.01, seed=0)
    model = br.BayesianModel(problem.operator, {"x": priors.Smooth(2, 5e-4, level_scale=2.0)}, br.likelihoods.Gaussian(sigma))
    found = inverse.judge(br.fit(model, None, b, method="map"), b, problem.x)
    assert (found.lower, found.coverage) == (None, None)
    assert found.p_white < 0.05
    assert "The residual is not white" in str(found)
    assert "The residual is larger than the noise leaves" in str(found)
    assert found.relative_error == pytest.approx(
        float((found.mean - torch.tensor(problem.x)).norm()) / np.linalg.norm(problem.x)
    )


def test_an_answer_of_another_prior_is_judged_approximately():
    problem = problems.deriv2(16)
    b, sigma = problem.noisy(0.05, seed=0)
    model = br.BayesianModel(problem.operator, {"x": priors.Laplace(0.3)}, br.likelihoods.Gaussian(sigma))
    found = inverse.judge(br.fit(model, None, b, method="map"), b)
    assert found.degrees_of_freedom is None
    assert "as if no degree of freedom had been used" in str(found)
