"""Every method on a GPU: the answer stays there, equals the CPU's where there is no chance in it, and is read anywhere."""

import numpy as np
import pytest
import torch
from pyro.infer import autoguide
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg._catalog import concrete
from bayesreg.inference import (
    HMC,
    MAP,
    MCLMC,
    NUTS,
    SGHMC,
    SVI,
    SWAG,
    Ensemble,
    Exact,
    FullRank,
    LaplaceApproximation,
    LowRank,
    MCBatchNorm,
    MCDropout,
    MeanField,
    MicrocanonicalEnsemble,
)
from tests.contracts.test_likelihoods import case

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.filterwarnings("ignore::bayesreg.ConvergenceWarning"),
    # no warning of PyTorch's own says anything about these tests, and versions differ in them
    pytest.mark.filterwarnings("default"),
]

FITS = {
    "map": lambda: MAP(),
    "map, 200 steps": lambda: MAP(num_steps=200, batch_size=16),
    "map, compiled": lambda: MAP(num_steps=200, compile=True),
    "exact": lambda: Exact(),
    "laplace": lambda: LaplaceApproximation(),
    "laplace, kron": lambda: LaplaceApproximation(structure="kron"),
    "laplace, diag": lambda: LaplaceApproximation(structure="diag"),
    "laplace, last layer": lambda: LaplaceApproximation(structure="last-layer"),
    "laplace, hessian's diagonal": lambda: LaplaceApproximation(structure="diag", curvature="hessian"),
    "laplace, fisher": lambda: LaplaceApproximation(curvature="fisher"),
    "laplace, subnetwork": lambda: LaplaceApproximation(structure="subnetwork"),
    "laplace, corners": lambda: LaplaceApproximation(),
    "laplace, evidence": lambda: LaplaceApproximation(tune="evidence"),
    "mean-field": lambda: MeanField(),
    "mean-field, 200 steps": lambda: MeanField(num_steps=200),
    "mean-field, ivon": lambda: MeanField(num_steps=200, optimizer="ivon"),
    "low-rank": lambda: LowRank(2, num_steps=200),
    "full-rank": lambda: FullRank(num_steps=200),
    "svi": lambda: SVI(num_steps=50),
    "mc-dropout": lambda: MCDropout(num_steps=200),
    "mc-batchnorm": lambda: MCBatchNorm(16, MAP(num_steps=200), num_draws=20),
    "ensemble": lambda: Ensemble(3, num_steps=200),
    "swag": lambda: SWAG(10, 20, 2, 5, batch_size=16, start=MAP(num_steps=100), num_draws=20),
    "nuts": lambda: NUTS(2, 10, 10, max_tree_depth=4),
    "hmc": lambda: HMC(2, 10, 10),
    "mclmc": lambda: MCLMC(num_samples=50, num_warmup=100, num_chains=2),
    "mile": lambda: MicrocanonicalEnsemble(2, 100, 50),
    "sghmc": lambda: SGHMC(num_samples=20, num_warmup=50, num_chains=2),
}


def rows(seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(64, 3))
    return X, np.sin(X[:, 0]) + 0.5 * X[:, 1] + 0.2 * rng.normal(size=64)


def problem(name):
    """A model that the method is for, in double precision."""
    linear = nn.Sequential(nn.Linear(3, 1))
    parts = {
        "exact": linear,
        "mc-dropout": nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Dropout(0.1), nn.Linear(8, 1)),
        "mc-batchnorm": nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 1)),
    }
    module = parts.get(name, nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1))).double()
    noise = 0.2 if name == "exact" else priors.HalfNormal(1.0)
    weights = priors.Laplace(0.1) if name == "laplace, corners" else priors.Normal(0.7)
    spec = {"*.weight": weights, "*.bias": priors.Normal(1.0)}
    return br.BayesianModel(module, spec, likelihoods.Gaussian(noise_scale=noise), standardize=True)


@pytest.mark.parametrize("name", FITS)
def test_a_fit_stays_on_the_device_and_reads_anywhere(name, tmp_path):
    X, y = rows()
    post = br.fit(problem(name), X, y, method=FITS[name](), device="cuda", progress=False)
    assert post.model.like.device.type == "cuda"
    assert {value.device.type for value in post.sample(3, seed=0).values()} == {"cuda"}
    new = rows(1)
    predicted = post.predict(new[0], num_samples=20, seed=0)
    assert bool(predicted.mean.isfinite().all())
    assert bool(predicted.std.isfinite().all())
    assert bool(predicted.log_prob(new[1]).isfinite().all())
    low, high = (torch.as_tensor(end) for end in predicted.interval(0.9))
    assert bool((low < high).all())
    str(br.compare({name: post}, *new, num_samples=20))
    br.save(post, tmp_path / "post.pt")
    read = br.load(tmp_path / "post.pt")
    again = read.predict(new[0], num_samples=20, seed=0)
    torch.testing.assert_close(again.mean.cpu(), predicted.mean.cpu(), rtol=0.5, atol=0.5)


@pytest.mark.parametrize("name", ["map", "exact", "laplace", "laplace, kron", "laplace, diag", "laplace, evidence"])
def test_the_answer_is_that_of_the_cpu(name):
    """Sums run in another order there: answers without chance agree to the search's own tolerance."""
    X, y = rows()
    torch.manual_seed(0)
    model = problem(name)
    here, there = (br.fit(model, X, y, method=FITS[name](), device=device, progress=False) for device in ("cpu", "cuda"))
    one, other = here.predict(X), there.predict(X)
    torch.testing.assert_close(other.mean.cpu(), one.mean.cpu(), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(other.std.cpu(), one.std.cpu(), rtol=1e-3, atol=1e-3)


def test_a_report(tmp_path):
    X, y = rows()
    posts = {name: br.fit(problem(name), X, y, method=FITS[name](), device="cuda") for name in ("map", "laplace", "mean-field")}
    br.report(posts, *rows(1), num_samples=50).save(tmp_path / "report.html")


def test_selection():
    X, y = rows()
    path = br.path(problem("map").to("cuda"), X, y, scales=[0.1, 1.0], num_steps=100, folds=2, progress=False)
    assert path.posterior(0).model.like.device.type == "cuda"
    lasso = br.BayesianModel(
        nn.Linear(3, 1).double(), {"weight": priors.Laplace(0.1)}, likelihoods.Gaussian(0.2), standardize=True
    )
    assert len(br.stability(lasso.to("cuda"), X, y, num_bootstraps=5, progress=False).to_frame()) == 3


@pytest.mark.parametrize("likelihood", concrete(likelihoods.AbstractLikelihood), ids=lambda cls: cls.__name__)
def test_every_likelihood(likelihood):
    noise, X = likelihood(), rows()[0]
    output, y, _ = case(noise)
    X, y = X[: len(y)], y.numpy()
    linear = nn.Linear(3, output[0].numel())
    model = br.BayesianModel(linear, {"*": priors.Normal(1.0)}, noise, standardize=True)
    for method in ("map", "laplace"):
        post = br.fit(model, X, y, method=method, sample_weight=np.full(len(y), 0.5), device="cuda", progress=False)
        predicted = post.predict(X, num_samples=20)
        assert predicted.mean.device.type == "cuda"
        assert bool(predicted.log_prob(y).isfinite().all())
        str(br.compare({method: post}, X, y, num_samples=20))


@pytest.mark.parametrize("guide", [autoguide.AutoMultivariateNormal, autoguide.AutoIAFNormal], ids=lambda cls: cls.__name__)
def test_guides_of_pyro(guide):
    X, y = rows()
    post = br.fit(problem("svi"), X, y, method=SVI(guide=guide, num_steps=30), device="cuda", progress=False)
    assert post.predict(X, num_samples=20).mean.device.type == "cuda"


def test_the_default_model():
    X, y = rows()
    post = br.fit(br.model.default_model(X, y), X, y, method="auto", device="cuda", progress=False)
    assert bool(post.predict(X, num_samples=20).log_prob(y).isfinite().all())


def test_classes():
    X, y = rows()
    model = br.BayesianModel(
        nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)),
        {"*": priors.Normal(1.0)},
        likelihoods.Bernoulli(),
        standardize=True,
    )
    for method in ("map", "laplace", "mean-field"):
        post = br.fit(model, X, (y > 0).astype(int), method=method, device="cuda", progress=False)
        predicted = post.predict(X)
        assert bool(((predicted.mean >= 0) & (predicted.mean <= 1)).all())
