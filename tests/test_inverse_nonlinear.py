"""F(x) = b by autograd: a linear function given as a nonlinear one is the linear problem, and known answers beyond it."""

import math

import numpy as np
import pytest
import torch

import bayesreg as br
from bayesreg import inference, likelihoods, operators, priors


def pair(prior=None, noise=0.1):
    """The same linear problem, as a matrix and as a function."""
    rng = np.random.default_rng(0)
    A = torch.from_numpy(rng.normal(size=(12, 5)))
    b = A @ torch.from_numpy(rng.normal(size=5)) + noise * torch.from_numpy(rng.normal(size=12))
    maps = operators.Dense(A), operators.Nonlinear(lambda x: x @ A.mT.to(x), shape=(5,))
    return [br.BayesianModel(F, {"x": prior or priors.Normal(0.7)}, likelihoods.Gaussian(noise)) for F in maps], b


@pytest.mark.parametrize("method", ["map", "laplace", inference.MAP("lbfgs")])
def test_a_linear_function_is_the_linear_problem(method):
    models, b = pair()
    one, other = (br.fit(model, None, b, method="exact" if i == 0 else method) for i, model in enumerate(models))
    assert (one.mean["x"] - other.mean["x"]).abs().max() < 1e-5
    if method == "laplace":
        assert (one.std["x"] / other.std["x"] - 1).abs().max() < 1e-6
        assert abs(one.log_evidence - other.log_evidence) < 1e-6


def test_the_mode_of_exponential_decay_meets_its_conditions():
    """F(x) = x₀ exp(−x₁ t): at the mode the gradient vanishes, and the Laplace covariance is the inverse Hessian there."""
    t, noise = torch.linspace(0.0, 3.0, 30, dtype=torch.float64), 0.02
    truth = torch.tensor([2.0, 0.8], dtype=torch.float64)

    def decay(x):
        return x[..., :1] * (-x[..., 1:] * t.to(x)).exp()

    b = decay(truth) + noise * torch.randn(30, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = br.BayesianModel(operators.Nonlinear(decay, shape=(2,)), {"x": priors.Normal(3.0)}, likelihoods.Gaussian(noise))
    mode = br.fit(model, None, b, method=inference.MAP("lbfgs"))
    assert mode.certificate.converged

    def energy(x):
        return 0.5 * ((decay(x) - b) / noise).square().sum() + 0.5 * (x / 3.0).square().sum()

    x = mode.mean["x"]
    hessian = torch.func.hessian(energy)(x)
    gradient = torch.func.grad(energy)(x)
    assert float(gradient @ torch.linalg.solve(hessian, gradient)) < 1e-6
    laplace = br.fit(model, None, b, method=inference.LaplaceApproximation(mode=inference.MAP("lbfgs"), curvature="hessian"))
    assert torch.allclose(laplace.covariance, torch.linalg.inv(hessian), rtol=1e-4, atol=0)
    assert ((x - truth).abs() < 4 * laplace.std["x"]).all()


@pytest.mark.slow
def test_nuts_draws_a_posterior_that_is_not_normal():
    """b = x² with noise: two symmetric branches far apart or one; here x > 0 by its prior, against quadrature."""
    noise, b = 0.3, 1.0
    square = operators.Nonlinear(lambda x: x.square(), shape=(1,))
    model = br.BayesianModel(square, {"x": priors.HalfNormal(1.0)}, likelihoods.Gaussian(noise))
    post = br.fit(model, None, [b], method=inference.NUTS(2, 200, 500, compile=False), seed=0)
    grid = np.linspace(1e-6, 4, 20_001)
    weight = np.exp(-0.5 * ((grid**2 - b) / noise) ** 2 - 0.5 * grid**2)
    weight /= weight.sum()
    mean = float(weight @ grid)
    sd = math.sqrt(float(weight @ grid**2) - mean**2)
    error = 4 / math.sqrt(post.certificate.mixing.weights.ess_bulk)
    assert abs(float(post.mean["x"]) - mean) < error * sd
    assert abs(float(post.std["x"]) / sd - 1) < 2 * error
