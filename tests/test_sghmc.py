"""SGHMC: its stationary law against that of its discretisation, and posteriors on all rows, on batches and from a loader."""

import numpy as np
import pytest
import torch
from scipy.linalg import solve_discrete_lyapunov
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.certificates import Finding, Outcome
from bayesreg.inference import MAP, SGHMC
from bayesreg.layers import MLP
from bayesreg.objective import AbstractChains, Chains, ChainsOfBatches, LogJoint
from bayesreg.posteriors import WithStatistics
from bayesreg.samplers import Langevin

CHAINS = 4000


class Normal(AbstractChains):
    """Independent normals of given precisions, whose gradient has noise of a given variance."""

    def __init__(self, precision, noise=0.0):
        self.precision, self.noise = torch.tensor(precision, dtype=torch.float64), noise
        self.share = 1.0 if noise == 0 else 0.5

    def __call__(self, u):
        gradient = -self.precision * u + self.noise**0.5 * torch.randn_like(u)
        return -0.5 * (self.precision * u.square()).sum(1), gradient

    def again(self, u):
        return 0 * u[:, 0], -self.precision * u


def stationary(precision, h, c, noise, sigma):
    """Variance of z under the written-out linear map of (z, p, g), with noise of variance `noise` in each g."""
    z, p, g = np.eye(3)
    fresh, kick = np.zeros((3, 2)), np.array([1.0, 0.0])  # columns: ξ of the momentum, noise of the gradient
    rows = {"z": (z, fresh[0]), "p": (p, fresh[1]), "g": (g, fresh[2])}
    add = lambda a, k, b: (a[0] + k * b[0], a[1] + k * b[1])  # noqa: E731
    rows["p"] = add(rows["p"], h / 2, rows["g"])
    rows["z"] = add(rows["z"], h / 2, rows["p"])
    rows["p"] = (c * rows["p"][0], c * rows["p"][1] + sigma * kick)
    rows["z"] = add(rows["z"], h / 2, rows["p"])
    rows["g"] = (-precision * rows["z"][0], -precision * rows["z"][1] + np.array([0.0, noise**0.5]))
    rows["p"] = add(rows["p"], h / 2, rows["g"])
    A, B = (np.stack([rows[name][i] for name in "zpg"]) for i in (0, 1))
    return solve_discrete_lyapunov(A, B @ B.T)[0, 0]


def run(density, sampler, steps, kick=None, start=1.0):
    torch.manual_seed(0)
    state = sampler.init(density, start * torch.randn(CHAINS, len(density.precision), dtype=torch.float64), 0)
    if kick is not None:
        state["kick"] = torch.full_like(state["kick"], kick)
    state["scale"] = torch.ones_like(state["scale"])
    for _ in range(steps):
        changed, _ = sampler.step(density, state)
        state = {**state, **changed}
    return state["u"]


@pytest.mark.parametrize("friction", [0.2, 1.0])
@pytest.mark.parametrize("h", [0.5, 1.2])
def test_with_exact_gradients_the_variances_of_a_normal_are_exact(friction, h):
    for precision in (0.3, 1.0, 2.5):
        c = 1 - friction
        assert abs(stationary(precision, h, c, 0.0, (1 - c**2) ** 0.5) * precision - 1) < 1e-9
    density = Normal([0.3, 1.0, 2.5])
    found = run(density, Langevin(friction, h), 150).var(0)
    np.testing.assert_allclose(found, 1 / density.precision, rtol=4.5 * (2 / CHAINS) ** 0.5)


@pytest.mark.parametrize("friction", [0.3, 1.0])
def test_noise_of_gradients_widens_by_what_is_then_left_out(friction):
    c, h, noise, precision = 1 - friction, 0.3, 4.0, 1.0
    plain, corrected = (1 - c**2) ** 0.5, (1 - c**2 - noise * (h * (1 + c) / 2) ** 2) ** 0.5
    wide, right = (stationary(precision, h, c, noise, sigma) for sigma in (plain, corrected))
    assert wide > 1 + 0.9 * noise * h**2 * (1 + c) / (4 * (1 - c))
    assert abs(right - 1) < 0.02  # up to terms of the next order in h
    density = Normal([precision] * 3, noise)
    error = 4.5 * (2 / (3 * CHAINS)) ** 0.5
    assert abs(float(run(density, Langevin(friction, h), 150, kick=0.0).var()) / wide - 1) < error
    assert abs(float(run(density, Langevin(friction, h), 150, kick=noise).var()) / right - 1) < error


def regression(kind, size, rows, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, size))
    if kind == "ill-conditioned":
        X = X @ np.linalg.cholesky(0.9 * np.ones((size, size)) + 0.1 * np.eye(size)).T * np.logspace(-1, 1, size)
    return X, X @ (0.3 * rng.normal(size=size)) + 0.5 * rng.normal(size=rows)


def linear(size):
    return br.BayesianModel(nn.Linear(size, 1, bias=False).double(), priors.Normal(1.0), likelihoods.Gaussian(0.5))


def compared(found, exact):
    sds = (found.std["weight"] / exact.std["weight"] - 1).abs()
    means = (found.mean["weight"] - exact.mean["weight"]).abs() / exact.std["weight"]
    return float(sds.max()), float(means.max())


CASES = [("plain", 3, 100), ("ill-conditioned", 20, 400), ("plain", 200, 600)]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_conjugate_posterior_at_its_defaults(case, seed):
    X, y = regression(*case)
    model = linear(case[1])
    exact = br.fit(model, X, y, method="exact")
    sds, means = compared(br.fit(model, X, y, method="sghmc", seed=seed), exact)
    assert sds < 0.1
    assert means < 0.2


@pytest.fixture(scope="module")
def batches():
    X, y = regression("plain", 3, 600)
    method = SGHMC(num_chains=40, num_warmup=600, num_samples=60, thin=20, batch_size=100)
    return X, y, br.fit(linear(3), X, y, method=method, seed=0), br.fit(linear(3), X, y, method="exact")


def test_batches_give_the_conjugate_posterior(batches):
    _, _, found, exact = batches
    sds, means = compared(found, exact)
    assert sds < 0.1
    assert means < 0.2
    assert found.chains.shape == (40, 60, 3)


def test_a_batch_is_unbiased_and_each_chain_has_its_own(batches):
    X, y, _, _ = batches
    model, data = linear(3).ingest(X, y)
    u = torch.tensor([[0.3, -0.2, 0.1]] * 500, dtype=torch.float64)
    torch.manual_seed(1)
    whole, some = Chains(LogJoint(model), data, 500), ChainsOfBatches(LogJoint(model), data, 500, 50)
    (value, gradient), (values, gradients) = whole(u), some(u)
    assert values.unique().numel() == 500
    assert ((gradients.mean(0) - gradient[0]).abs() < 4.5 * gradients.std(0) / 500**0.5).all()
    assert abs(float(values.mean() - value[0])) < 4.5 * float(values.std()) / 500**0.5
    again = some.again(u)
    assert torch.equal(again[1], gradients)
    stacked = MLP(3, (5,), 1, activation="tanh").double()
    other = br.BayesianModel(stacked, priors.Normal(1.0), likelihoods.Gaussian()).ingest(X, y)[0]
    log_joint = LogJoint(other)
    points = torch.randn(2, log_joint.layout.size, dtype=torch.float64)
    on_batches = ChainsOfBatches(log_joint, data, 2, 600)  # a batch's rows, through each path
    value, gradient = on_batches(points)
    rows = on_batches.last
    for r in range(2):
        v = points[r].clone().requires_grad_()
        joint = log_joint.prepared(v, rows[0][r], rows[1][r], 600, jacobian=True)
        torch.testing.assert_close(gradient[r], torch.autograd.grad(joint, v)[0])
        nats = joint.detach() + 600 * log_joint.model.log_jacobian
        torch.testing.assert_close(on_batches.nats(value)[r], nats)


@pytest.mark.slow
def test_a_temperature_widens_and_is_said(batches):
    X, y, _, exact = batches
    method = SGHMC(num_chains=40, num_warmup=300, num_samples=50, thin=10, temperature=4.0)
    found = br.fit(linear(3), X, y, method=method, seed=0)
    np.testing.assert_allclose(found.std["weight"] / exact.std["weight"], 2.0, rtol=0.1)
    assert "Temperature 4" in str(found.certificate)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        *(pytest.param(options, marks=pytest.mark.slow) for options in ({"friction": 1.0}, {"step_size": 0.4})),
        {"cyclical": True},
        {"precondition": False},
    ],
    ids=str,
)
def test_its_variants_have_the_same_posterior(batches, options):
    X, y, _, exact = batches
    method = SGHMC(num_chains=40, num_warmup=200, num_samples=40, thin=15, **options)
    sds, means = compared(br.fit(linear(3), X, y, method=method, seed=0), exact)
    assert sds < 0.1
    assert means < 0.2


@pytest.mark.slow
def test_a_loader_gives_each_chain_its_own_batches(batches):
    X, y, _, exact = batches
    loader = DataLoader(TensorDataset(torch.tensor(X), torch.tensor(y)), batch_size=150, shuffle=True)
    method = SGHMC(num_chains=2, num_warmup=100, num_samples=40, thin=4, start=MAP(num_steps=100))
    found = br.fit(linear(3), loader, method=method, seed=0)
    assert compared(found, exact)[1] < 0.6
    assert not torch.equal(found.chains[0], found.chains[1])


def test_draws_of_a_network_with_batch_normalisation_carry_statistics():
    X, y = regression("plain", 3, 60)
    net = MLP(3, (4,), 1, batchnorm=True).double()
    model = br.BayesianModel(net, priors.Normal(1.0), likelihoods.Gaussian(0.5))
    found = br.fit(model, X, y, method=SGHMC(2, 50, 10, 2, batch_size=20))
    assert isinstance(found, WithStatistics)
    assert len(found.found) == 20
    loader = DataLoader(TensorDataset(torch.tensor(X), torch.tensor(y)), batch_size=20)
    with pytest.raises(ValueError, match=r"takes the statistics of all rows, but a DataLoader came; pass X and y as arrays"):
        br.fit(model, loader, method=SGHMC(2, 50, 10, 2))


def test_it_stops_at_ctrl_c_and_goes_on_bit_for_bit(batches, tmp_path):
    X, y, _, _ = batches
    model = linear(3)
    words = {"num_chains": 2, "num_warmup": 40, "num_samples": 30, "thin": 2, "batch_size": 50}
    whole = br.fit(model, X, y, method=SGHMC(**words), seed=3)

    def stop(step, total, *_):
        if step >= 70:
            raise KeyboardInterrupt

    kept = {"checkpoint": tmp_path / "run.pt", "checkpoint_every": 10}
    part = br.fit(model, X, y, method=SGHMC(**words, **kept), seed=3, progress=stop)
    assert part.certificate.finding is Finding.CUT_SHORT
    assert part.certificate.outcome is Outcome.NOT_CERTIFIED
    assert 0 < part.chains.shape[1] < 30
    rest = br.fit(model, X, y, method=SGHMC(**words, **kept), seed=3)
    assert torch.equal(rest.draws, whole.draws)


def test_settings_that_are_none_are_refused(batches, tmp_path):
    X, y, *_ = batches
    with pytest.raises(ValueError, match=r"thin must be at least 2 with cyclical=True, .* but 1 came"):
        SGHMC(thin=1, cyclical=True)
    with pytest.raises(ValueError, match=r"friction must be .* but 1.5 came"):
        SGHMC(friction=1.5)
    loader = DataLoader(TensorDataset(torch.tensor(X), torch.tensor(y)), batch_size=150)
    with pytest.raises(ValueError, match=r"a checkpoint must find each chain's next batch again, but a DataLoader came"):
        br.fit(linear(3), loader, method=SGHMC(2, 10, 10, 1, checkpoint=tmp_path / "a.pt"))
