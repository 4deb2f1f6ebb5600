"""HMC and NUTS as methods: conjugate posteriors, quadrature, every kind of model, Ctrl-C, checkpoints, calibration."""

import math

import numpy as np
import pytest
import torch
from pyro.ops.stats import effective_sample_size
from scipy import stats
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.certificates import Finding
from bayesreg.inference import HMC, MCLMC, NUTS, MicrocanonicalEnsemble
from bayesreg.objective import LogJoint, Replicas
from bayesreg.samplers import Hamiltonian, NoUTurn, traced_density
from tests.conftest import linear_model, network
from tests.test_samplers import walk

F64 = torch.float64


def design(size, num_rows, seed=0):
    """Rows and targets; the singular values of the 20 columns lie between 30 and 0.3."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(num_rows, size))
    if size == 20:
        left, _, right = np.linalg.svd(X, full_matrices=False)
        X = left @ np.diag(np.geomspace(30, 0.3, size)) @ right
    return X, 0.5 * X @ rng.normal(size=size) + 0.5 * rng.normal(size=num_rows)


def assert_draws(post, expected, sds):
    """Means within three Monte Carlo errors, more where there are many, and sds within 3 %."""
    draws = post.chains.transpose(0, 1)
    error = post.std["weight"][0] / effective_sample_size(draws, chain_dim=1, sample_dim=0)[: draws.shape[2] - 1].sqrt()
    away = (post.mean["weight"][0] - expected).abs() / error
    assert float(away.max()) < max(3.0, stats.norm.isf(0.001 / len(away)))
    assert float((error / sds).max()) < 0.05
    assert float((post.std["weight"][0] / sds - 1).abs().max()) < 0.03


slow = pytest.mark.slow
SIZES = [(3, 60), pytest.param(20, 80, marks=pytest.mark.slow), pytest.param(200, 300, marks=slow)]
METHODS = {
    "hmc": {3: lambda: HMC(32, 100, 200, compile=False), 20: HMC, 200: lambda: HMC(num_samples=1000)},
    "nuts": {3: lambda: NUTS(num_samples=1500), 20: lambda: NUTS(num_samples=2000), 200: lambda: NUTS(num_samples=3500)},
}


@pytest.mark.parametrize("name", ["hmc", pytest.param("nuts", marks=slow)])
@pytest.mark.parametrize(("size", "num_rows"), SIZES)
def test_conjugate_regression(name, size, num_rows):
    X, y = design(size, num_rows)
    models = [linear_model(size, scale=1.0, noise=0.5, standardize=False) for _ in range(2)]
    post = br.fit(models[0], X, y, method=METHODS[name][size]())
    exact = br.fit(models[1], X, y, method="exact")
    assert post.certificate.converged, post.certificate
    assert_draws(post, exact.mean["weight"][0], exact.std["weight"][0])


@slow
@pytest.mark.parametrize(("size", "num_rows"), [(3, 60), (20, 80), (200, 300)])
@pytest.mark.parametrize(
    ("method", "within"),
    [
        (lambda: MCLMC(16, num_warmup=3000, num_samples=2500, thin=4, adjusted=True), 0.03),
        (MCLMC, 0.05),
        (MicrocanonicalEnsemble, 0.05),
    ],
    ids=["adjusted", "mclmc", "mile"],
)
def test_conjugate_regression_by_microcanonical_chains(method, within, size, num_rows):
    """Sds within 3 % by adjusted steps; within 5 % at the defaults of those that are not, in the root mean square."""
    X, y = design(size, num_rows)
    models = [linear_model(size, scale=1.0, noise=0.5, standardize=False) for _ in range(2)]
    post = br.fit(models[0], X, y, method=method())
    exact = br.fit(models[1], X, y, method="exact")
    assert post.certificate.converged, post.certificate
    off = post.std["weight"] / exact.std["weight"] - 1
    error = (2 * post.certificate.mixing.weights.ess_bulk) ** -0.5  # of an sd, by chance
    assert float(off.square().mean().sqrt()) < within
    assert float(off.abs().max()) < within + 3 * error
    away = (post.mean["weight"] - exact.mean["weight"]).abs() / exact.std["weight"]
    assert float(away.max()) < 0.02 + 4 * post.certificate.mixing.weights.error


@pytest.mark.parametrize("name", ["hmc", pytest.param("nuts", marks=slow)])
def test_logistic_regression_is_what_quadrature_says(name):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 1))
    y = (rng.random(40) < 1 / (1 + np.exp(-2 * X[:, 0] - 0.5))).astype(float)
    model = br.BayesianModel(nn.Linear(1, 1).double(), {"*": priors.Normal(1.5)}, likelihoods.Bernoulli())
    method = HMC(32, 100, 120, compile=False) if name == "hmc" else NUTS(num_samples=1500)
    post = br.fit(model, X, y, method=method)
    w, b = np.meshgrid(np.linspace(-4, 9, 400), np.linspace(-5, 6, 400), indexing="ij")
    logits = w[..., None] * X[:, 0] + b[..., None]
    log_p = (y * logits - np.logaddexp(0, logits)).sum(-1) - (w**2 + b**2) / (2 * 1.5**2)
    p = np.exp(log_p - log_p.max())
    p /= p.sum()
    mean = (p * w).sum()
    sd = math.sqrt((p * (w - mean) ** 2).sum())
    assert_draws(post, torch.tensor([mean]), torch.tensor([sd]))
    assert abs(float(post.mean["bias"]) - (p * b).sum()) < 4 * float(post.std["bias"]) / math.sqrt(1500)


def test_tempered_draws_are_narrower():
    """At temperature T the covariance of a normal posterior is T times its own, and the certificate says so."""
    X, y = design(3, 60)
    models = [linear_model(3, scale=1.0, noise=0.5, standardize=False) for _ in range(2)]
    post = br.fit(models[0], X, y, method=HMC(16, 60, 60, temperature=0.25, compile=False))
    exact = br.fit(models[1], X, y, method="exact")
    torch.testing.assert_close(post.std["weight"], 0.5 * exact.std["weight"], rtol=0.12, atol=0.0)
    assert post.certificate.mixing.temperature == 0.25
    assert "0.25" in post.certificate.sentence


class Looping(nn.Module):
    """What vmap cannot take: a branch on a number."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(3, 2)
        self.outer = nn.Linear(2, 1)

    def forward(self, x):
        hidden = self.inner(x)
        return self.outer(torch.tanh(hidden) if float(hidden.detach().sum()) > -1e9 else hidden)


def model_of(*layers, prior=None, likelihood=None):
    net = nn.Sequential(nn.Linear(3, 4), *layers, nn.Tanh(), nn.Linear(4, 1))
    return br.BayesianModel(net, prior or priors.Normal(1.0), likelihood or likelihoods.Gaussian(0.5))


def of_scale(centered):
    return priors.Normal(priors.HalfCauchy(1.0, centered=centered), per="column", centered=centered)


MODELS = {
    "batch normalisation": lambda: model_of(nn.BatchNorm1d(4), prior={"@norm": priors.Normal(1.0)}),
    "dropout": lambda: model_of(nn.Dropout(0.3)),
    "unknown scales, centred": lambda: model_of(prior={"*.weight": of_scale(True)}),
    "unknown scales, non-centred": lambda: model_of(prior={"*.weight": of_scale(False)}),
    "horseshoe": lambda: model_of(prior={"*.weight": priors.Horseshoe(priors.HalfCauchy(1.0))}),
    "horseshoe, its scales as unknowns": lambda: model_of(prior={"*.weight": priors.Horseshoe(0.5).expanded()}),
    "noise by row": lambda: br.BayesianModel(network(3, 4, 2), likelihood=likelihoods.HeteroscedasticGaussian()),
    "no vmap": lambda: br.BayesianModel(Looping(), priors.Normal(1.0), likelihoods.Gaussian(0.5)),
}


@pytest.mark.filterwarnings("ignore:batch normalisation at")
@pytest.mark.parametrize("name", MODELS)
def test_every_kind_of_model_is_sampled(name):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30, 3)).astype(np.float32)
    y = (np.sin(X[:, 0]) + 0.3 * rng.normal(size=30)).astype(np.float32)
    post = br.fit(MODELS[name](), X, y, method=HMC(3, 30, 6, max_leapfrogs=6, compile=False))
    assert bool(post.predict(X, num_samples=18).mean.isfinite().all())
    assert all(bool(value.isfinite().all()) for value in post.sample(18).values())
    if name == "batch normalisation":  # its draws come with statistics of their own
        assert post.record.batch_statistics
        return
    assert post.chains.shape[:2] == (3, 6)
    assert bool((post.chains[:, 1:] != post.chains[:, :-1]).any((1, 2)).all()), "each chain moves"
    x, t = post.model.prepare(torch.as_tensor(X), torch.as_tensor(y))  # what was sampled is the log-joint of the vector
    found = float(LogJoint(post.model).prepared(post.chains[1, 3], x, t, 30, jacobian=True))
    assert float(post.stats["lp"][1, 3]) == pytest.approx(found + 30 * post.model.log_jacobian, rel=1e-4, abs=1e-3)


class Stop(Exception):
    """What interrupts a fit here."""


def at(step, error):
    def stop(done, total, objective):
        if done == step:
            raise error

    return stop


SHORT = {
    "hmc": lambda **more: HMC(3, 12, 12, max_leapfrogs=6, compile=False, **more),
    "nuts": lambda **more: NUTS(2, 6, 10, max_tree_depth=3, compile=False, **more),
}


def same(one, other):
    return one.draws.equal(other.draws) and all(one.stats[name].equal(other.stats[name]) for name in one.stats)


@pytest.mark.parametrize("name", SHORT)
class TestInterrupted:
    @pytest.mark.parametrize("step", [pytest.param(5, marks=pytest.mark.slow), 14])  # in the warm-up, and later
    def test_goes_on_bit_for_bit(self, name, step, tmp_path):
        X, y = design(3, 60)
        model, path = linear_model(3, standardize=False), tmp_path / "fit.pt"
        whole = br.fit(model, X, y, method=SHORT[name](), seed=1)
        method = SHORT[name](checkpoint=path, checkpoint_every=3)
        with pytest.raises(Stop):
            br.fit(model, X, y, method=method, seed=1, progress=at(step, Stop))
        assert path.exists()
        resumed = br.fit(model, X, y, method=method, seed=1)
        assert any(note.startswith("resumed from fit.pt after step") for note in resumed.history.notes)
        assert same(resumed, whole)
        assert not path.exists()

    def test_ctrl_c_gives_the_draws_so_far(self, name, tmp_path):
        X, y = design(3, 60)
        model = linear_model(3, standardize=False)
        whole = br.fit(model, X, y, method=SHORT[name]())
        method = SHORT[name](checkpoint=tmp_path / "fit.pt")
        part = br.fit(model, X, y, method=method, progress=at(15, KeyboardInterrupt))
        count = 15 - method.options.num_warmup
        assert part.chains.equal(whole.chains[:, :count])
        assert part.certificate.finding is Finding.CUT_SHORT
        assert same(br.fit(model, X, y, method=method), whole)


def test_options_are_checked():
    for made, match in (
        (lambda: HMC(target_acceptance=1.0), "target_acceptance must be below 1, but 1.0 came"),
        (lambda: HMC(max_leapfrogs=0), "max_leapfrogs must be a whole number >= 1, but 0 came"),
        (lambda: NUTS(target_acceptance=0), "target_acceptance must be a finite number > 0"),
        (lambda: NUTS(max_tree_depth=1.5), "max_tree_depth must be a whole number"),
        (lambda: NUTS(num_chains=0), "num_chains must be a whole number >= 1, but 0 came"),
        (lambda: HMC(start="mode"), "start must be one of 'weights', 'prior', but 'mode' came"),
        (lambda: HMC(num_warmup=None), "num_warmup must be a whole number.*but None came"),
        (lambda: HMC(num_warmup=False), "num_warmup must be a whole number.*but False came"),
    ):
        with pytest.raises(ValueError, match=match):
            made()


# ---- calibration: a truth from the prior is a draw of the posterior of its own data, and a chain that starts there has draws
# of that posterior for ever; so where it ends is again distributed as the prior (Geweke 2004; Talts et al. 2018). Ranks of the
# truth among draws, the usual way, would ask chains to change between the network's symmetric modes, which none does.

REPEATS = 320
X_SIMULATED = torch.linspace(-2, 2, 12, dtype=F64)[:, None]


def simulated(seed):
    """The log-joint of a 2-unit tanh network of 7 weights, truths from its prior N(0, 1), and targets with noise sd 0.5."""
    model = br.BayesianModel(network(1, 2, 1, dtype=F64), {"*": priors.Normal(1.0)}, likelihoods.Gaussian(0.5), False)
    log_joint = LogJoint(model.bind(X_SIMULATED, X_SIMULATED[:, 0]))
    torch.manual_seed(seed)
    truth = torch.randn(REPEATS, log_joint.layout.size, dtype=F64)
    clean = torch.vmap(lambda u: log_joint.model.forward(log_joint.layout.unflatten(u), X_SIMULATED))(truth).flatten(1)
    return log_joint, truth, clean + 0.5 * torch.randn_like(clean)


def own_rows(log_joint, targets, *, narrower=0.0):
    """The density of many data sets at once, each chain its own; a prior that is too narrow where asked."""
    count = len(targets)
    many = Replicas([log_joint], X_SIMULATED.expand(count, -1, -1), targets, count, own_rows=True, jacobian=True)

    def density(u):
        value, gradient = many.objectives(u).detach().to(u), -many.gradient(u)
        return value - 0.5 * narrower * u.square().sum(1), gradient - narrower * u

    return traced_density(density, torch.zeros(count, log_joint.layout.size, dtype=F64), "", compile=False, notes=[])


def least_p(u):
    """The smallest p-value of: each weight is N(0, 1), their sum of squares is χ²."""
    each = [stats.kstest(column, "norm").pvalue for column in u.T.numpy()]
    return min(*each, stats.kstest(u.square().sum(1).numpy(), stats.chi2(u.shape[1]).cdf).pvalue)


def ends(log_joint, truth, targets, seed, **wrong):
    """Where chains end that start at the truth, by trajectories that know nothing of it."""
    fixed = {"step_size": torch.tensor(0.12, dtype=F64), "length": torch.tensor(1.5, dtype=F64)}
    return walk(Hamiltonian(), own_rows(log_joint, targets, **wrong), truth, 0, 30, seed=seed + 1, **fixed)[0][-1]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_hmc_is_calibrated(seed):
    log_joint, truth, targets = simulated(seed)
    end = ends(log_joint, truth, targets, seed)
    assert float((end - truth).abs().mean()) > 0.3  # they went somewhere
    assert least_p(end) > 1e-4


@pytest.mark.slow
def test_calibration_sees_a_prior_that_is_too_narrow():
    assert least_p(ends(*simulated(0), 0, narrower=1.0)) < 1e-4


@pytest.mark.slow
def test_nuts_is_calibrated():
    log_joint, truth, targets = simulated(0)
    step = {"step_size": torch.tensor(0.35, dtype=F64)}
    found = [
        walk(NoUTurn(), own_rows(log_joint, y[None]), u[None], 0, 4, seed=i, **step)[0][-1]
        for i, (u, y) in enumerate(zip(truth, targets, strict=True))
    ]
    end = torch.cat(found)
    assert float((end - truth).abs().mean()) > 0.3
    assert least_p(end) > 1e-4
