"""What ill-conditioned designs leave of a posterior, against 80 digits."""

import mpmath as mp
import numpy as np
import pytest
import torch
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg._catalog import concrete
from bayesreg.inference import LaplaceApproximation
from bayesreg.objective import FlatLayout, Products, Root, Rows, entries
from bayesreg.priors import AbstractPrior


def oracle(design, y, root, noise, mean=0.0):
    """Mean, sds and log evidence of y = design w + noise, w ~ N(mean, (LᵀL)⁻¹), in 80 digits; None for an improper prior."""
    with mp.workdps(80):
        noise = mp.mpf(noise)
        B, L, t = (
            mp.matrix(design.tolist()),
            root if isinstance(root, mp.matrix) else mp.matrix(root.tolist()),
            mp.matrix(y.tolist()),
        )
        B, t = B / noise, (t - B * mp.matrix([mean] * design.shape[1])) / noise
        precision = B.T * B + L.T * L
        covariance = precision**-1
        shift = covariance * (B.T * t)
        rest = t - B * shift
        total = (rest.T * rest)[0] + ((L * shift).T * (L * shift))[0]
        sd = [float(mp.sqrt(covariance[i, i])) for i in range(design.shape[1])]
        count = len(y)
        evidence = None
        if L.rows == L.cols and mp.det(L) != 0:
            half = mp.log(abs(mp.det(L))) - mp.log(mp.det(precision)) / 2
            evidence = float(half - total / 2 - count * mp.log(2 * mp.pi * noise**2) / 2)
        return np.array([float(m + mean) for m in shift]), np.array(sd), evidence


def powers(degree, low, high, count=60, seed=0):
    x = np.random.default_rng(seed).uniform(low, high, count)
    return np.stack([x**k for k in range(degree + 1)], 1), x


def plain(width, prior=None, noise=0.5, outputs=1, **kwargs):
    module = nn.Linear(width, outputs, bias=False).double()
    return br.BayesianModel(module, prior or priors.Normal(1e4), likelihoods.Gaussian(noise), **kwargs)


@pytest.mark.parametrize("method", ["exact", LaplaceApproximation(), LaplaceApproximation("ggn")], ids=["exact", "auto", "ggn"])
@pytest.mark.parametrize(
    ("degree", "low", "high", "scale"), [(10, -9, -3, 1e4), (10, -9, -3, 1e6), (8, 2, 5, 1e3), (5, 20, 30, 10.0)]
)
def test_a_polynomial_in_raw_units(method, degree, low, high, scale):
    Phi, x = powers(degree, low, high)
    y = np.sin(x) + 0.5 * np.random.default_rng(1).standard_normal(len(x))
    mean, sd, evidence = oracle(Phi, y, np.eye(degree + 1) / scale, 0.5)
    post = br.fit(plain(degree + 1, priors.Normal(scale)), Phi, y, method=method, progress=False)
    np.testing.assert_allclose(post.std["weight"][0], sd, rtol=1e-6)
    np.testing.assert_allclose(post.mean["weight"][0].numpy() / sd, mean / sd, rtol=0, atol=1e-5)
    assert post.log_evidence == pytest.approx(evidence, abs=1e-6)
    stacked = np.vstack([Phi / 0.5, np.eye(degree + 1) / scale])
    condition = np.linalg.cond(stacked / np.linalg.norm(stacked, axis=0))
    assert post.certificate.converged
    assert post.certificate.details["condition number"] == pytest.approx(condition, rel=1e-2)
    assert f"condition number {condition:.2g}" in str(post.certificate)


GAUSSIAN = {
    "smooth": priors.Smooth(1, 0.3, level_scale=1e5),
    "curvature": priors.Smooth(2, 0.1, level_scale=1e4),
    "multivariate": priors.MultivariateNormal(1e6 * np.array([[0.9999999 ** abs(i - j) for j in range(6)] for i in range(6)])),
    "normal about 3": priors.Normal(1e4, loc=3.0),
}


def test_the_table_holds_every_gaussian_prior():
    found = {type(prior) for prior in GAUSSIAN.values()}
    assert found == {p for p in concrete(AbstractPrior) if p.gaussian is not AbstractPrior.gaussian} - {priors.Flat}


@pytest.mark.parametrize("name", GAUSSIAN)
def test_every_gaussian_prior(name):
    Phi, x = powers(5, -9, -7)
    y = np.sin(x) + 0.5 * np.random.default_rng(1).standard_normal(len(x))
    prior = GAUSSIAN[name]
    with mp.workdps(80):
        if isinstance(prior, priors.Smooth):
            D = mp.matrix(np.diff(np.eye(6), n=prior.order, axis=0).tolist()) / mp.mpf(prior.scale)
            root = mp.cholesky(D.T * D + mp.eye(6) * mp.mpf(prior.level_scale) ** -2).T
        elif isinstance(prior, priors.MultivariateNormal):
            root = mp.cholesky(mp.matrix(np.asarray(prior.covariance).tolist()) ** -1).T
        else:
            root = mp.eye(6) / prior.scale
        mean, sd, evidence = oracle(Phi, y, root, 0.5, mean=getattr(prior, "loc", 0.0))
    post = br.fit(plain(6, prior), Phi, y, method="exact", progress=False)
    np.testing.assert_allclose(post.std["weight"][0], sd, rtol=1e-6)
    np.testing.assert_allclose(post.mean["weight"][0].numpy() / sd, mean / sd, rtol=0, atol=1e-5)
    assert post.log_evidence == pytest.approx(evidence, abs=1e-6)


def test_several_outputs_and_a_flat_intercept():
    Phi, x = powers(6, 1, 4)
    Y = np.stack([np.sin(x), np.cos(x)], 1)
    module = nn.Linear(6, 2).double()
    model = br.BayesianModel(module, {"weight": priors.Normal(1e4), "bias": priors.Flat()}, likelihoods.Gaussian(0.5))
    post = br.fit(model, Phi[:, 1:], Y, method="exact", progress=False)
    for k in range(2):
        mean, sd, _ = oracle(Phi, Y[:, k], np.diag([0.0] + [1e-4] * 6), 0.5)
        np.testing.assert_allclose(np.r_[post.std["bias"][k], post.std["weight"][k]], sd, rtol=1e-7)
        np.testing.assert_allclose(np.r_[post.mean["bias"][k], post.mean["weight"][k]] / sd, mean / sd, atol=1e-6)
    assert post.log_evidence is None


@pytest.mark.parametrize("slope", [priors.Normal(1.0), priors.Flat()], ids=str)
def test_inputs_with_a_huge_offset(slope):
    generator = np.random.default_rng(0)
    X = generator.standard_normal((103, 3)) + 1e9
    y = (X - 1e9) @ [0.3, 0.7, 1.0] + 0.5 * generator.standard_normal(103)
    model = br.BayesianModel(nn.Linear(3, 1).double(), {"weight": slope, "bias": priors.Flat()}, likelihoods.Gaussian(0.5))
    post = br.fit(model, X, y, method="exact", progress=False)
    root = np.diag([0.0] + [0.0 if isinstance(slope, priors.Flat) else 1.0] * 3)
    _, sd, _ = oracle(np.c_[np.ones(103), X], y, root, 0.5)
    np.testing.assert_allclose(np.r_[post.std["bias"], post.std["weight"][0]], sd, rtol=1e-5)
    assert post.certificate.converged


@pytest.mark.parametrize("offset", [1e15, 1e16, 1e18])
@pytest.mark.parametrize("bias", [priors.Flat(), priors.Normal(1e25)], ids=str)
def test_an_offset_beyond_double_is_named(offset, bias):
    X = np.random.default_rng(0).standard_normal((103, 3)) + offset
    rules, noise = {"weight": priors.Normal(1.0), "bias": bias}, likelihoods.Gaussian(0.5)
    model = br.BayesianModel(nn.Linear(3, 1).double(), rules, noise)
    message = r"is \S+ times as large as its spread.*centre or standardise"
    with pytest.raises(ValueError, match=message) as found:
        br.fit(model, X, X[:, 0] - offset, method="exact", progress=False)
    assert "flat" not in str(found.value)
    if offset > 1e15:
        return  # of the inputs' digits nothing is left to standardise
    model = br.BayesianModel(nn.Linear(3, 1).double(), rules, noise, standardize=True)
    post = br.fit(model, X, X[:, 0] - offset, method="exact", progress=False)
    assert post.certificate.converged


def test_between_trust_and_refusal_it_is_not_certified():
    X = np.random.default_rng(0).standard_normal((103, 3)) + 1e12
    model = br.BayesianModel(nn.Linear(3, 1).double(), priors.Normal(1e9), likelihoods.Gaussian(0.5))
    post = br.fit(model, X, X[:, 0] - 1e12, method="exact", progress=False)
    assert not post.certificate.converged
    assert "Not certified: closed form" in str(post.certificate)
    assert "standardise the inputs" in str(post.certificate)


def test_what_is_not_determined_is_named():
    X = np.random.default_rng(0).standard_normal((50, 4))
    X[:, 3] = X[:, 1]
    with pytest.raises(ValueError, match=r"every weight that has a flat prior: weight\[0, 1\] and weight\[0, 3\] can move"):
        br.fit(plain(4, priors.Flat()), X, X[:, 0], method="exact", progress=False)
    with pytest.raises(ValueError, match=r"Exact must tell weight\[0, 1\] and weight\[0, 3\] apart, but the condition number"):
        br.fit(plain(4, priors.Normal(1e20)), X, X[:, 0], method="exact", progress=False)


def test_float32_says_what_rounding_costs():
    X = (np.random.default_rng(0).standard_normal((60, 2)) + 1e5).astype(np.float32)
    y = np.sin(X[:, 0] - np.float32(1e5))
    model = br.BayesianModel(nn.Linear(2, 1), {"weight": priors.Normal(1.0), "bias": priors.Flat()}, likelihoods.Gaussian(0.5))
    post = br.fit(model, X, y, method="exact", progress=False)
    _, sd, _ = oracle(np.c_[np.ones(60), X], y, np.diag([0.0, 1.0, 1.0]), 0.5)
    np.testing.assert_allclose(np.r_[post.std["bias"], post.std["weight"][0]], sd, rtol=1e-6)
    assert not post.certificate.converged
    assert "rounding to float32 moves the posterior by" in str(post.certificate)
    wide = br.fit(model.to(dtype=torch.float64), X, y, method="exact", progress=False)
    assert wide.certificate.converged


def test_products_and_rows_agree():
    generator = torch.Generator().manual_seed(0)
    B, t = torch.randn(40, 5, generator=generator).double(), torch.randn(40, generator=generator).double()
    found = []
    for rows in (Products(torch.ones(5, dtype=torch.float64)), Rows(torch.ones(5, dtype=torch.float64))):
        for part, target in zip(B.split(7), t.split(7), strict=True):
            rows.add(part, target)
        found.append(rows.solve())
    (a, v, rest), (b, w, other) = found
    torch.testing.assert_close(v, w, rtol=1e-12, atol=0)
    assert rest == pytest.approx(other, rel=1e-12)
    assert a.half_log_det == pytest.approx(b.half_log_det, rel=1e-12)
    torch.testing.assert_close(a.inverse @ a.inverse.mT, torch.linalg.inv(B.mT @ B + torch.eye(5)), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("size", [5, 250])
def test_condition_and_weakest_direction(size):
    matrix = torch.triu(torch.randn(size, size, generator=torch.Generator().manual_seed(0)).double()) / size + torch.eye(size)
    matrix[3, 3] = 1e-9
    root = Root(matrix, torch.ones(size, dtype=torch.float64))
    assert root.condition == pytest.approx(float(torch.linalg.cond(matrix)), rel=0.02)
    _, _, vectors = torch.linalg.svd(matrix)
    assert float((root.weakest @ vectors[-1]).abs() / root.weakest.norm()) == pytest.approx(1, abs=1e-6)


def test_entries_are_named_by_their_share():
    layout = FlatLayout(br.BayesianModel(nn.Linear(3, 2), likelihood=likelihoods.Categorical()))
    assert entries(layout, torch.tensor([0.0, 0, 0, 0, 1.0, 0, 0.001, -1.0])) == "weight[1, 1] and bias[1]"
    assert entries(layout, torch.ones(8)) == "weight[0, 0], weight[0, 1], weight[0, 2], weight[1, 0] and 4 more"


@pytest.mark.parametrize(("degree", "count", "scale"), [(10, 60, 1e4), (8, 5, 1e4), (12, 9, 1e2), (6, 3, 1e8)])
def test_the_mode_is_the_same_algebra(degree, count, scale):
    """Fewer rows than unknowns too: there the other normal equations, n × n, lose their digits."""
    Phi, x = powers(degree, -9, -3, count)
    mean, sd, _ = oracle(Phi, np.sin(x), np.eye(degree + 1) / scale, 0.5)
    mode = br.fit(plain(degree + 1, priors.Normal(scale)), Phi, np.sin(x), method="map", progress=False)
    np.testing.assert_allclose(mode.mean["weight"][0].numpy() / sd, mean / sd, rtol=0, atol=1e-3)
    exact = br.fit(plain(degree + 1, priors.Normal(scale)), Phi, np.sin(x), method="exact", progress=False)
    np.testing.assert_allclose(exact.std["weight"][0], sd, rtol=1e-4)
