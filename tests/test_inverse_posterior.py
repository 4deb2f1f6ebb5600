"""Modes and posteriors of A x = b with Gaussian priors: the lecture's examples, Tikhonov's closed form, and large problems."""

import math

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import lsqr

import bayesreg as br
from bayesreg import inference, likelihoods, operators, priors
from bayesreg.objective import InverseProblem, low_rank
from bayesreg.posteriors import MatrixFree
from bayesreg.solvers import conjugate_gradients

SEEDS = (0, 1, 2)


class Blur(operators.AbstractLinearOperator):
    """Periodic Gaussian blur, by the Fourier transform."""

    def __init__(self, shape, width):
        super().__init__()
        self.shape = self.output_shape = tuple(shape)
        parts = [torch.fft.fftfreq(n, dtype=torch.float64) for n in shape[:-1]]
        parts.append(torch.fft.rfftfreq(shape[-1], dtype=torch.float64))
        filters = torch.ones((), dtype=torch.float64)
        for part in parts:
            filters = filters[..., None] * (-2 * (math.pi * width * part) ** 2).exp()
        self.register_buffer("filters", filters)
        self.axes = tuple(range(-len(shape), 0))

    def forward(self, x):
        return torch.fft.irfftn(torch.fft.rfftn(x, dim=self.axes) * self.filters, s=self.shape, dim=self.axes)

    adjoint = forward


class Pick(operators.AbstractLinearOperator):
    """Some entries."""

    def __init__(self, shape, kept):
        super().__init__()
        self.shape, self.output_shape = tuple(shape), (len(kept),)
        self.register_buffer("kept", torch.as_tensor(kept))

    def forward(self, x):
        return x.flatten(-len(self.shape))[..., self.kept]

    def adjoint(self, b):
        made = b.new_zeros(*b.shape[:-1], math.prod(self.shape))
        return made.index_add(-1, self.kept, b).unflatten(-1, self.shape)


def model_of(operator, prior, noise=0.1):
    return br.BayesianModel(operator, {"x": prior}, likelihoods.Gaussian(noise))


class TestTheLecture:
    """Two unknowns, or one: when a solution exists, is unique, and what a prior repairs."""

    def test_one_unknown_measured_twice_is_least_squares(self):
        model = model_of(operators.Dense([[1.0], [1.0]]), priors.Flat(), 0.5)
        for method in ("map", "exact"):
            found = br.fit(model, None, [1.0, 4.0], method=method)
            assert abs(float(found.mean["x"]) - 2.5) < 1e-12
        assert abs(float(found.std["x"]) - 0.5 / math.sqrt(2)) < 1e-12

    def test_a_consistent_pair_is_met_exactly(self):
        model = model_of(operators.Dense([[1.0], [1.0]]), priors.Flat(), 0.5)
        assert abs(float(br.fit(model, None, [3.0, 3.0], method="map").mean["x"]) - 3.0) < 1e-12

    @pytest.mark.parametrize("method", ["map", "exact"])
    def test_one_equation_for_two_unknowns_is_not_unique(self, method):
        model = model_of(operators.Dense([[1.0, 1.0]]), priors.Flat())
        with pytest.raises(ValueError, match=r"null space of dimension 1 free.*give x a proper prior"):
            br.fit(model, None, [2.0], method=method)

    def test_the_prior_repairs_it_and_keeps_its_own_sd_along_the_null_space(self):
        noise, scale, b = 0.1, 0.7, 3.0
        found = br.fit(model_of(operators.Dense([[1.0, 1.0]]), priors.Normal(scale), noise), None, [b], method="exact")
        damped = b / (2 + (noise / scale) ** 2)
        assert torch.allclose(found.mean["x"], torch.full((2,), damped, dtype=torch.float64), atol=1e-12)
        along, across = torch.tensor([[1.0, -1.0], [1.0, 1.0]]).double() / math.sqrt(2)
        assert abs(float(along @ found.covariance @ along) - scale**2) < 1e-12
        assert abs(float(across @ found.covariance @ across) - 1 / (2 / noise**2 + scale**-2)) < 1e-12

    def test_without_damping_it_is_the_solution_of_least_norm(self):
        found = br.fit(model_of(operators.Dense([[1.0, 1.0]]), priors.Normal(1e4), 1e-3), None, [3.0], method="map")
        assert (found.mean["x"] - 1.5).abs().max() < 1e-10


@pytest.mark.parametrize("seed", SEEDS)
def test_tikhonov_is_the_mode_is_lsqr(seed):
    rng = np.random.default_rng(seed)
    A, noise, scale = rng.normal(size=(30, 24)), 0.2, 0.5
    b = A @ rng.normal(size=24)
    expected = lsqr(A, b, damp=noise / scale, atol=1e-14, btol=1e-14)[0]
    mode = br.fit(model_of(operators.Dense(A), priors.Normal(scale), noise), None, b, method="map")
    assert np.abs(mode.mean["x"].numpy() - expected).max() < 1e-8


GAUSSIAN = {
    "independent": (priors.Normal(1.0), (40,)),
    "level": (priors.Smooth(1, 0.3, 2.0), (40,)),
    "curvature": (priors.Smooth(2, 0.3, 2.0), (40,)),
    "free": (priors.Smooth(2, 0.3), (40,)),
    "image": (priors.Smooth(2, 0.5, 1.0), (8, 9)),
    "free image": (priors.Smooth(1, 0.5), (8, 9)),
    "rows": (priors.Smooth(1, 0.5, 1.0, per="row"), (5, 8)),
}


def closed_form(operator, prior, b, noise):
    A = operator.matrix().numpy()
    matrix = prior.gaussian(operator.shape)[1].numpy()
    H = A.T @ A / noise**2 + (np.diag(matrix) if matrix.ndim == 1 else matrix)
    return np.linalg.solve(H, A.T @ b.reshape(-1) / noise**2), H


@pytest.mark.parametrize("kind", GAUSSIAN)
def test_small_and_matrix_free_are_the_closed_form(kind):
    prior, shape = GAUSSIAN[kind]
    operator = Blur(shape, 1.0)
    b = np.random.default_rng(0).normal(size=shape)
    mean, H = closed_form(operator, prior, b, 0.1)
    model, covariance = model_of(operator, prior), np.linalg.inv(H)
    small = br.fit(model, None, b, method="exact")
    assert np.abs(small.mean["x"].numpy().reshape(-1) - mean).max() < 1e-8
    assert np.abs(small.covariance.numpy() - covariance).max() < 1e-8
    large = br.fit(model, None, b, method=inference.Exact(matrix_free=True))
    assert isinstance(large, MatrixFree)
    assert large.certificate.converged
    off = large.mean["x"].numpy().reshape(-1) - mean
    assert math.sqrt(off @ H @ off / len(off)) < 1e-5  # posterior sds, as the certificate says
    mode = br.fit(model, None, b, method=inference.MAP("krylov"))
    assert torch.equal(mode.mean["x"], large.mean["x"])
    gap = 0.5 * off @ H @ off
    assert gap <= mode.certificate.point.duality_gap * (1 + 1e-6) + 1e-12
    other = br.fit(model, None, b, method="map")
    assert abs(other.certificate.point.log_joint - mode.certificate.point.log_joint) < 1e-6


@pytest.mark.parametrize("kind", ["independent", "free", "image"])
@pytest.mark.parametrize("seed", SEEDS)
def test_draws_by_randomise_then_optimise_have_the_closed_forms_covariance(kind, seed):
    prior, shape = GAUSSIAN[kind]
    operator = Blur(shape, 1.0)
    b = np.random.default_rng(seed).normal(size=shape)
    mean, H = closed_form(operator, prior, b, 0.1)
    count = 2000
    large = br.fit(model_of(operator, prior), None, b, method=inference.Exact(matrix_free=True), seed=seed)
    drawn = large.sample(count, seed=seed)["x"].reshape(count, -1).numpy()
    z = (drawn - mean) @ np.linalg.cholesky(H)  # independent standard normals
    assert abs((z**2).mean() - 1) < 4 * math.sqrt(2 / z.size)
    assert np.abs(z.mean(0)).max() < 5 / math.sqrt(count)
    assert np.abs(z.T @ z / count - np.eye(len(H))).max() < 7 / math.sqrt(count)
    found = large.std["x"].reshape(-1).numpy() / np.sqrt(np.linalg.inv(H).diagonal())
    assert math.sqrt(((found - 1) ** 2).mean()) < 3 * large.spread.error


def test_the_bound_is_above_what_is_left_to_gain():
    for kind in ("level", "free", "free image"):
        prior, shape = GAUSSIAN[kind]
        operator = Blur(shape, 1.0)
        problem = InverseProblem(operator, 0.1, None, prior.spectrum(shape))
        _, H = closed_form(operator, prior, np.zeros(shape), 0.1)
        g = torch.randn(5, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        exact = 0.5 * (g.flatten(1).numpy() * np.linalg.solve(H, g.flatten(1).numpy().T).T).sum(1)
        assert (problem.left(g).numpy() >= exact * (1 - 1e-9)).all()
        assert np.allclose(problem.times(g).flatten(1).numpy(), g.flatten(1).numpy() @ H)


def test_a_low_rank_posterior_states_its_error():
    prior, shape = priors.Smooth(2, 0.05, 1.0), (60,)
    operator = Blur(shape, 4.0)
    problem = InverseProblem(operator, 0.1, None, prior.spectrum(shape))
    _, H = closed_form(operator, prior, np.zeros(shape), 0.1)
    variance = torch.from_numpy(np.linalg.inv(H).diagonal().copy())
    for rank in (5, 30):
        found = low_rank(problem, rank)
        excess = found.variance - variance
        assert (excess > -1e-8).all()
        assert (excess <= found.error * problem.prior.variance + 1e-8).all()
    large = br.fit(model_of(operator, prior), None, np.zeros(60), method=inference.Exact(True))
    assert large.spread.how == "low rank"
    assert ((large.std["x"] / variance.sqrt() - 1).abs() < 0.01).all()


def test_a_matrix_free_posterior_is_refused_where_it_is_improper():
    prior, shape = priors.Smooth(1, 0.3), (6, 8)
    one = Pick(shape, [3])
    found = br.fit(model_of(one, prior), None, [1.0], method=inference.Exact(True))
    assert torch.allclose(found.mean["x"], torch.ones(shape, dtype=torch.float64), atol=1e-4)
    with pytest.raises(ValueError, match="null space of dimension 3 free"):
        br.fit(model_of(one, priors.Smooth(2, 0.3)), None, [1.0], method=inference.Exact(True))
    with pytest.raises(ValueError, match="null space of dimension 3 free"):
        br.fit(model_of(one, priors.Smooth(2, 0.3)), None, [1.0], method="map")


def test_a_subset_of_the_measurements_can_be_fitted_and_a_posterior_saved(tmp_path):
    prior, shape = GAUSSIAN["level"]
    operator, rows = operators.Dense(Blur(shape, 1.0).matrix()), torch.tensor([3, 7, 20])
    b = torch.tensor([1.0, 2.0, 3.0])
    model = model_of(operator, prior)
    small, large = (br.fit(model, rows.double(), b, method=inference.Exact(how)) for how in (False, True))
    assert (small.mean["x"] - large.mean["x"]).abs().max() < 1e-4
    br.save(large, tmp_path / "x.pt")
    again = br.load(tmp_path / "x.pt", module=operator)
    assert torch.equal(again.sample(3, seed=1)["x"], large.sample(3, seed=1)["x"])
    assert large.predict(rows.double(), num_samples=50).mean.shape == (3,)


def test_a_solver_that_does_not_arrive_says_so():
    shape = (40,)
    problem = InverseProblem(Blur(shape, 1.0), 1e-3, None, priors.Normal(1.0).spectrum(shape))
    right = problem.noise(2, torch.Generator().manual_seed(0))
    few, many = (conjugate_gradients(problem, right, 1e-4, num_steps=steps) for steps in (2, 1000))
    assert few.error > 1e-4 > many.error


def test_a_large_problem_is_solved_without_a_matrix():
    shape = (48, 48)
    operator, truth = Blur(shape, 1.5), torch.zeros(48, 48).double()
    truth[10:30, 20:40] = 1.0
    b = operator(truth) + 0.01 * torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = model_of(operator, priors.Smooth(2, 0.3, 1.0), 0.01)
    mode = br.fit(model, None, b, method="map")
    assert "no matrix is formed" in mode.history.notes[0]
    post = br.fit(model, None, b, method="exact")
    assert isinstance(post, MatrixFree)
    assert torch.equal(post.mean["x"], mode.mean["x"])
    assert (mode.mean["x"] - truth).norm() < 0.8 * (b - truth).norm()


@pytest.mark.parametrize("how", [1.5, "yes"])
def test_matrix_free_is_a_choice(how):
    with pytest.raises(ValueError, match="matrix_free must be True, False or None"):
        inference.Exact(how)


def test_an_inverse_problem_keeps_its_units():
    with pytest.raises(ValueError, match="must stay in the units of x and b"):
        br.BayesianModel(operators.Dense([[1.0]]), {"x": priors.Normal(1.0)}, likelihoods.Gaussian(1.0), standardize=True)


@pytest.mark.slow
@pytest.mark.parametrize("kind", GAUSSIAN)
def test_bands_cover_what_they_say(kind):
    """Over 500 draws of x from the prior, 90 % bands hold 90 ± 2 % of its entries."""
    prior, shape = GAUSSIAN[kind]
    if not prior.proper:
        pytest.skip("an improper prior has no draws")
    operator, inside = Blur(shape, 1.0), []
    model = model_of(operator, prior)
    generator = torch.Generator().manual_seed(0)
    truth = prior.draw(shape, 500, {"dtype": torch.float64})
    for x in truth:
        b = operator(x) + 0.1 * torch.randn(shape, generator=generator, dtype=torch.float64)
        post = br.fit(model, None, b, method="exact")
        inside.append((x - post.mean["x"]).abs() <= 1.6448536 * post.std["x"])
    assert abs(float(torch.stack(inside).double().mean()) - 0.9) < 0.02
