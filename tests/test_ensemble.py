"""Ensembles: anchored ones are exact where the model is linear-Gaussian; each member carries what it was trained with."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.certificates import Finding
from bayesreg.inference import Ensemble
from bayesreg.layers import MLP
from bayesreg.objective import LogJoint
from bayesreg.posteriors import Draws, WithStatistics

MEMBERS, ROWS = 2000, 40


def regression(seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(ROWS, 3)) @ np.array([[1, 0.8, 0], [0, 0.6, 0], [0, 0, 2.0]])
    return X, X @ [1.0, -0.5, 0.2] + 0.3 + 0.6 * rng.normal(size=ROWS)


def linear(likelihood=None, rules=None):
    rules = {"weight": priors.Normal(0.5, loc=0.2), "bias": priors.Flat()} if rules is None else rules
    return br.BayesianModel(nn.Linear(3, 1).double(), rules, likelihood or likelihoods.Gaussian(0.6))


@pytest.fixture(scope="module")
def truth():
    X, y = regression()
    exact = br.fit(linear(), X, y, method="exact")
    return X, y, exact.loc.numpy(), exact.covariance.numpy()


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_anchored_members_are_draws_of_the_exact_posterior(truth, seed):
    X, y, loc, covariance = truth
    found = br.fit(linear(), X, y, method=Ensemble(MEMBERS, anchored=True), seed=seed)
    draws = found.draws.numpy()
    assert found.num_chains == 1
    assert found.certificate.converged
    for i in range(len(loc)):
        assert stats.kstest(draws[:, i], "norm", args=(loc[i], covariance[i, i] ** 0.5)).pvalue > 1e-3
    error = np.sqrt((np.outer(np.diag(covariance), np.diag(covariance)) + covariance**2) / MEMBERS)
    assert (np.abs(np.cov(draws.T) - covariance) < 4.5 * error).all()
    after = draws[1:] - loc  # and independent of each other
    lag = (after * (draws[:-1] - loc)).mean(0) / np.diag(covariance)
    assert (np.abs(lag) < 4.5 / MEMBERS**0.5).all()


def test_a_temperature_widens_them_about_the_same_mean(truth):
    X, y, loc, covariance = truth
    found = br.fit(linear(), X, y, method=Ensemble(MEMBERS, anchored=True, temperature=4.0), seed=1)
    sds = 2 * np.diag(covariance) ** 0.5
    assert (np.abs(found.draws.numpy().mean(0) - loc) < 4.5 * sds / MEMBERS**0.5).all()
    np.testing.assert_allclose(found.draws.numpy().std(0), sds, rtol=4.5 / (2 * MEMBERS) ** 0.5)
    assert found.certificate.details["temperature"] == 4.0
    assert "Temperature 4" in str(found.certificate)


def test_without_anchors_a_model_of_one_mode_has_one_member(truth):
    X, y, loc, _ = truth
    found = br.fit(linear(), X, y, method=Ensemble(3))
    np.testing.assert_allclose(found.draws.numpy(), np.tile(loc, (3, 1)), atol=1e-8)
    assert found.certificate.details["sd of outputs between members"] < 1e-8


def smooth_network(**options):
    torch.manual_seed(0)
    return br.BayesianModel(
        MLP(3, (4,), 1, activation="tanh", **options).double(), priors.Normal(1.0), likelihoods.Gaussian(0.5)
    )


@pytest.fixture(scope="module")
def with_statistics():
    X, y = regression()
    return X, br.fit(smooth_network(batchnorm=True), X, y, method=Ensemble(4, num_steps=30))


@pytest.fixture(scope="module")
def plain():
    X, y = regression()
    return X, y, br.fit(smooth_network(), X, y, method=Ensemble(4, num_steps=100))


@pytest.mark.slow
def test_each_member_of_a_deep_ensemble_is_a_mode(plain):
    X, y, found = plain
    assert found.certificate.converged, found.certificate
    _, data = smooth_network().ingest(X, y)
    log_joint = LogJoint(found.model)
    for u in found.draws:
        u = u.clone().requires_grad_()
        (slope,) = torch.autograd.grad(log_joint.prepared(u, data.x, data.y, ROWS), u)
        assert float(slope.abs().max()) < 1e-4
    outputs = found.predict(X, num_samples=4)
    assert (
        abs(float(outputs.epistemic_variance.mean()) * 4 / 3 - found.certificate.details["sd of outputs between members"] ** 2)
        < 0.02
    )


def test_members_with_batch_normalisation_carry_their_own_averages(with_statistics):
    X, found = with_statistics
    assert isinstance(found, WithStatistics)
    assert isinstance(found.base, Draws)
    assert found.batch_statistics == "running averages of training"
    for value in found.statistics().values():
        assert float(value.std(0).min()) > 0
    alone = [
        found.model.forward(
            found.layout.unflatten(found.made_of[r]),
            found.model.prepare(X),
            buffers={k: v[r] for k, v in found.statistics().items()},
        )
        for r in range(4)
    ]
    torch.testing.assert_close(found.predict(X, num_samples=4).mean, torch.stack(alone).mean(0).detach().double())


@pytest.mark.slow
def test_a_new_process_predicts_the_same(plain, with_statistics, tmp_path):
    X, y, members = plain
    anchored = br.fit(smooth_network(), X, y, method=Ensemble(2, anchored=True, num_steps=30))
    fits = {"plain": members, "anchored": anchored, "batch normalisation": with_statistics[1]}
    for name, found in fits.items():
        br.save(found, tmp_path / f"{name}.pt")
    np.save(tmp_path / "X.npy", X)
    code = (
        "import bayesreg as br, numpy as np, pathlib, torch\n"
        f"here = pathlib.Path({str(tmp_path)!r}); X = np.load(here / 'X.npy')\n"
        "means = {p.stem: br.load(p).predict(X, num_samples=9, seed=3).mean for p in here.glob('*.pt')}\n"
        "torch.save(means, here / 'means')"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)
    means = torch.load(tmp_path / "means")
    assert means.keys() == fits.keys()
    for name, found in fits.items():
        assert torch.equal(means[name], found.predict(X, num_samples=9, seed=3).mean)


def test_what_cannot_be_fitted_side_by_side_is_fitted_in_turn():
    X, y = regression()
    heard = []
    found = br.fit(
        smooth_network(dropout=0.1), X, y, method=Ensemble(2, num_steps=30), progress=lambda *what: heard.append(what[:2])
    )
    assert "one after the other" in " ".join(found.history.notes)
    assert len({tuple(u.tolist()) for u in found.draws}) == 2
    assert [step for step, _ in heard] == sorted(step for step, _ in heard)
    loader = DataLoader(TensorDataset(torch.tensor(X), torch.tensor(y)), batch_size=20)
    assert br.fit(smooth_network(), loader, method=Ensemble(2, num_steps=30)).num_draws == 2


def test_members_may_stop_early():
    X, y = regression()
    found = br.fit(smooth_network(), X, y, method=Ensemble(3, num_steps=200, validation_fraction=0.3))
    assert found.certificate.finding is Finding.STOPPED_EARLY
    assert found.num_data == ROWS - 12


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            lambda: linear(likelihoods.Gaussian()),
            r"perturbs targets by noise, which must be Gaussian of known scale, but Gaussian",
        ),
        (lambda: linear(likelihoods.Bernoulli()), r"must be Gaussian of known scale, but Bernoulli"),
        (lambda: linear(rules=priors.Laplace(1.0)), r"from a Gaussian prior of known scale, but weight has Laplace"),
        (lambda: linear(rules=priors.Normal(priors.HalfNormal(1.0))), r"unknown"),
    ],
)
def test_what_has_no_anchor_is_refused(model, message):
    X, y = regression()
    with pytest.raises(ValueError, match=message):
        br.fit(model(), X, (y > 0).astype(float), method=Ensemble(2, anchored=True))


def test_settings_that_exclude_each_other_are_refused():
    with pytest.raises(ValueError, match=r"temperature must be 1 where members are modes, .* but 2.0 came; take anchored=True"):
        Ensemble(temperature=2.0)
    with pytest.raises(ValueError, match=r"an anchored member must be the mode .* but validation_fraction came"):
        Ensemble(anchored=True, validation_fraction=0.1)
    with pytest.raises(ValueError, match=r"num_members"):
        Ensemble(0)
    loader = DataLoader(TensorDataset(*map(torch.tensor, regression())), batch_size=20)
    with pytest.raises(ValueError, match=r"an anchored ensemble needs all rows at once, but a DataLoader came"):
        br.fit(linear(), loader, method=Ensemble(2, anchored=True))


def test_centred_at_moves_gaussian_priors_only():
    model = linear().bind(*regression())
    moved = model.centred_at({"weight": torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64)})
    values = {"weight": torch.tensor([[1.0, 2.0, 3.0]], dtype=torch.float64), "bias": torch.zeros(1, dtype=torch.float64)}
    peak = -3 * np.log(0.5 * np.sqrt(2 * np.pi))
    assert abs(float(LogJoint(moved).log_prior(LogJoint(moved).layout.flatten(values))) - peak) < 1e-12
    with pytest.raises(ValueError, match=r"must be Normal or Flat, of known scale, .* but weight has Laplace"):
        linear(rules=priors.Laplace(1.0)).centred_at(values)
