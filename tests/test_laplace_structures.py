"""Structured curvature against dense matrices by autograd, and the posteriors that it makes."""

import numpy as np
import pytest
import torch
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.inference import HMC, MAP, LaplaceApproximation
from bayesreg.objective import (
    Chains,
    KroneckerFactor,
    LogJoint,
    MappedChains,
    Subset,
    kronecker_blocks,
    layers_of,
    likelihood_curvature,
    likelihood_diagonal,
    root_of,
)
from bayesreg.posteriors import BlockGaussian, Gaussian
from tests.conftest import linear_model, network


class Twice(nn.Module):
    """A layer that is called twice, one whose weight two layers share, and a sequence axis."""

    def __init__(self):
        super().__init__()
        self.inner, self.out, self.tied = nn.Linear(3, 3), nn.Linear(3, 2), nn.Linear(3, 3)
        self.again = nn.Linear(3, 3, bias=False)
        self.again.weight = self.tied.weight

    def forward(self, x):
        h = x.reshape(len(x), 2, 3)
        h = torch.tanh(self.inner(torch.tanh(self.inner(h))))
        h = torch.tanh(self.again(torch.tanh(self.tied(h))))
        return self.out(h.mean(1))


class Normalised(nn.Sequential):
    """Batch normalisation with statistics of its own, in evaluation, and a layer normalisation."""

    def __init__(self):
        super().__init__(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.ReLU(inplace=True), nn.LayerNorm(4), nn.Linear(4, 2))
        self[1].running_mean.uniform_(-1, 1)
        self[1].running_var.uniform_(0.5, 2)
        self.eval()


NETS = {
    "linear": lambda: nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2)),
    "conv2d": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 2, 2, padding=1, stride=(1, 2)), nn.Tanh(), nn.Flatten(), nn.Linear(12, 2)
    ),
    "conv1d": lambda: nn.Sequential(
        nn.Unflatten(1, (2, 3)), nn.Conv1d(2, 3, 2), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(6, 2)
    ),
    "normalised": Normalised,
    "shared": Twice,
}
LIKELIHOODS = {
    "gaussian": lambda: likelihoods.Gaussian(priors.HalfNormal(1.0)),
    "categorical": likelihoods.Categorical,
    "negative binomial": likelihoods.NegativeBinomial,
    "gamma": likelihoods.Gamma,
    "a noise each": likelihoods.GaussianPerOutput,
}


def problem(net, likelihood="gaussian", rows=9):
    """The log-joint, a point of it, and its rows, all in double precision."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, 6, generator=generator, dtype=torch.float64)
    y = torch.randn(rows, 2, generator=generator, dtype=torch.float64)
    y = (y[:, 0] > 0).long() if likelihood == "categorical" else y
    y = y.exp() if likelihood == "gamma" else y.exp().round() if likelihood == "negative binomial" else y
    model = br.BayesianModel(NETS[net]().double(), {"*": priors.Normal(0.7)}, LIKELIHOODS[likelihood]())
    model, data = model.ingest(x, y)
    log_joint = LogJoint(model)
    u = torch.randn(log_joint.layout.size, generator=generator, dtype=torch.float64) / 2
    return log_joint, u, data


def dense_gauss_newton(log_joint, u, data):
    """Jᵀ H J with J by forward mode and H by autograd's Hessian of the loss in the output."""
    model, layout = log_joint.model, log_joint.layout
    f = lambda v: model.forward(layout.unflatten(v), data.x)  # noqa: E731
    slopes = torch.func.jacfwd(f)(u)
    noise = model.noise(layout.unflatten(u))
    loss = lambda out, y: -model.likelihood.log_prob_sum(out[None], y[None], **noise)  # noqa: E731
    curved = torch.stack([torch.func.hessian(loss)(out, y) for out, y in zip(f(u), data.y, strict=True)])
    return torch.einsum("nkp,nkl,nlq->pq", slopes, curved, slopes)


def rows_gradients(log_joint, u, data):
    """∂ log p(yᵢ | θ)/∂u of each row, one backward pass a row."""
    layout = log_joint.layout
    one = lambda v, i: log_joint.row_terms(layout.unflatten(v), data.x[i : i + 1], data.y[i : i + 1], 1)  # noqa: E731
    return torch.stack([torch.func.grad(lambda v, i=i: one(v, i))(u) for i in range(len(data.x))])


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("net", NETS)
def test_the_diagonal_is_that_of_the_dense_matrix(net, likelihood):
    log_joint, u, data = problem(net, likelihood)
    dense = dense_gauss_newton(log_joint, u, data).diagonal()
    torch.testing.assert_close(likelihood_diagonal(log_joint, u, data, "ggn"), dense, rtol=1e-9, atol=1e-10)
    weights = [i for s in log_joint.layout.in_order if not s.latent.is_noise for i in range(s.start, s.stop)]
    scores = rows_gradients(log_joint, u, data)
    found = likelihood_diagonal(log_joint, u, data, "fisher")
    torch.testing.assert_close(found[weights], scores.square().sum(0)[weights], rtol=1e-9, atol=1e-10)


def test_products_are_used_where_they_hold_and_nowhere_else():
    used = {net: {layer.name for layer in layers_of(*one, root_of(*one[:2], "ggn"))} for net in NETS for one in [problem(net)]}
    assert used == {
        "linear": {"0", "2"},
        "conv2d": {"1", "4"},
        "conv1d": {"1", "4"},
        "normalised": {"0", "4"},
        "shared": {"inner", "out"},
    }


@pytest.mark.parametrize("kind", ["ggn", "fisher", "hessian"])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_a_subset_s_curvature_is_the_block_of_the_dense_matrix(likelihood, kind):
    log_joint, u, data = problem("linear", likelihood)
    index = torch.arange(3, len(u))
    found = likelihood_curvature(Subset(log_joint, u, index), data, kind)
    if kind == "ggn":
        dense = dense_gauss_newton(log_joint, u, data)
    elif kind == "fisher":
        dense = rows_gradients(log_joint, u, data).mT @ rows_gradients(log_joint, u, data)
    else:
        dense = torch.func.hessian(lambda v: -log_joint.row_terms(log_joint.layout.unflatten(v), data.x, data.y, 9))(u)
    kept = [i for s in log_joint.layout.in_order for i in range(s.start, s.stop) if kind != "ggn" or not s.latent.is_noise]
    kept = [i for i in kept if i >= 3]
    place = [i - 3 for i in kept]
    torch.testing.assert_close(found[place][:, place], dense[kept][:, kept], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_kronecker_products_are_exact_for_one_row(likelihood):
    """A layer's block of (Σ JᵀHJ + prior)⁻¹, the bias included, where a layer acts at one place."""
    log_joint, u, data = problem("linear", likelihood, rows=1)
    dense = dense_gauss_newton(log_joint, u, data)
    check_blocks(kronecker_blocks(log_joint, u, data, "ggn"), dense, 1 / 0.49)


def check_blocks(found, dense, prior):
    layers = [block for block in found.blocks if isinstance(block, KroneckerFactor)]
    assert layers
    for block in layers:
        root = block.rows(torch.eye(len(block.index), dtype=torch.float64))
        wanted = dense[block.index][:, block.index] + prior * torch.eye(len(block.index), dtype=torch.float64)
        torch.testing.assert_close(root @ root.mT, torch.linalg.inv(wanted), rtol=1e-7, atol=1e-9)
        assert block.log_det == pytest.approx(-0.5 * float(torch.linalg.slogdet(wanted)[1]), abs=1e-9)


def test_kronecker_products_are_exact_for_deep_linear_networks():
    """Gaussian noise, and gradients that no row changes: every layer's block is exact (Bernacchia et al. 2018)."""
    net = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3), nn.Linear(3, 2)).double()
    x, y = torch.randn(20, 6, dtype=torch.float64), torch.randn(20, 2, dtype=torch.float64)
    model, data = br.BayesianModel(net, {"*": priors.Normal(0.7)}, likelihoods.Gaussian(0.5)).ingest(x, y)
    log_joint = LogJoint(model)
    u = torch.randn(log_joint.layout.size, dtype=torch.float64)
    check_blocks(kronecker_blocks(log_joint, u, data, "ggn"), dense_gauss_newton(log_joint, u, data), 1 / 0.49)


@pytest.mark.parametrize("sharing", ["expand", "reduce"])
def test_shared_weights_are_exact_in_the_setting_of_each_kind(sharing):
    """Deep linear networks on sequences, whose losses are one a place ("expand") or one of the mean ("reduce")."""

    class Sequence(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(3, 4), nn.Linear(4, 1)

        def forward(self, x):
            out = self.two(self.one(x.reshape(len(x), 2, 3)))
            return out[..., 0] if sharing == "expand" else out.mean(1)[:, 0]

    x = torch.randn(20, 6, dtype=torch.float64)
    y = torch.randn(20, 2, dtype=torch.float64) if sharing == "expand" else torch.randn(20, dtype=torch.float64)
    model, data = br.BayesianModel(Sequence().double(), {"*": priors.Normal(0.7)}, likelihoods.Gaussian(0.5)).ingest(x, y)
    log_joint = LogJoint(model)
    u = torch.randn(log_joint.layout.size, dtype=torch.float64)
    slopes = torch.func.jacfwd(lambda v: model.forward(log_joint.layout.unflatten(v), data.x).reshape(20, -1))(u)
    dense = 4 * torch.einsum("nkp,nkq->pq", slopes, slopes)
    check_blocks(kronecker_blocks(log_joint, u, data, "ggn", sharing), dense, 1 / 0.49)


def test_a_single_layer_s_kronecker_product_is_the_exact_posterior(standard_diabetes):
    """Linear regression: KFAC with the bias in the layer's product is the conjugate posterior, and its evidence."""
    X, y = standard_diabetes
    post = br.fit(linear_model(standardize=False), X, y, method=LaplaceApproximation(structure="kron"))
    exact = br.fit(linear_model(standardize=False), X, y, method="exact")
    np.testing.assert_allclose(post.covariance, exact.covariance, rtol=1e-6, atol=1e-12)
    assert post.log_evidence == pytest.approx(exact.log_evidence, abs=1e-6)
    assert post.certificate.importance.shape < 0.1 or post.certificate.importance.shape == -np.inf
    assert post.certificate.importance.log_evidence == pytest.approx(exact.log_evidence, abs=1e-3)


@pytest.fixture(scope="module")
def mode(standard_diabetes):
    model = br.BayesianModel(network(10, 4, 1, dtype=torch.float64))
    return model, br.fit(model, *standard_diabetes, method=MAP(jacobian=True))


@pytest.mark.parametrize("structure", ["full", "kron", "diag", "last-layer", "subnetwork"])
@pytest.mark.parametrize("curvature", ["ggn", "fisher"])
def test_a_fitted_mode_is_taken_as_it_is_and_every_structure_keeps_its_word(
    mode, standard_diabetes, tmp_path, structure, curvature
):
    model, point = mode
    notes = list(point.history.notes)
    post = br.fit(model, *standard_diabetes, method=LaplaceApproximation(curvature, point, structure=structure, subnetwork=20))
    assert point.history.notes == notes
    assert bool((post.loc == point.loc).all())
    assert isinstance(post, Gaussian if structure == "full" else BlockGaussian)
    assert structure in {"subnetwork"} or np.isfinite(post.log_evidence)
    assert post.certificate.covariance.structure == structure
    assert post.certificate.covariance.curvature.startswith("empirical Fisher" if curvature == "fisher" else "Gauss")
    draws = post.draw(20_000, torch.Generator().manual_seed(1))
    torch.testing.assert_close(draws.std(0), post.unconstrained_moments()[1], rtol=6 / 40_000**0.5, atol=1e-12)
    rows = torch.randn(4, len(post.loc), dtype=torch.float64)
    root = post.times_factor(rows)
    torch.testing.assert_close(root @ root.mT, rows @ post.covariance @ rows.mT, rtol=1e-9, atol=1e-12)
    br.save(post, tmp_path / "post.pt")
    again = br.load(tmp_path / "post.pt")
    assert again.draw(3, torch.Generator().manual_seed(0)).equal(post.draw(3, torch.Generator().manual_seed(0)))
    assert bool((post.predict(standard_diabetes[0][:5], num_samples=50).epistemic_variance > 0).all())
    if structure in ("kron", "diag"):
        normal = torch.distributions.MultivariateNormal(post.loc, post.covariance)
        torch.testing.assert_close(post.log_density(draws[:5]), normal.log_prob(draws[:5]), rtol=1e-8, atol=1e-8)


def test_a_mode_of_something_else_is_refused(mode, standard_diabetes):
    model, point = mode
    X, y = standard_diabetes
    other = br.BayesianModel(network(10, 4, 1, dtype=torch.float64), priors.Normal(2.0))
    with pytest.raises(ValueError, match=r"mode must be of the model that is fitted, but its priors differ: .*Normal"):
        br.fit(other, X, y, method=LaplaceApproximation(mode=point))
    with pytest.raises(ValueError, match=r"mode must have been fitted to these data, but its log-joint was"):
        br.fit(model, X, y + 1.0, method=LaplaceApproximation(mode=point))
    constrained = br.fit(model, X, y, method=MAP())
    with pytest.raises(
        ValueError, match=r"mode of the unconstrained density, but that of constrained space came, which differs for "
    ):
        br.fit(model, X, y, method=LaplaceApproximation(mode=constrained))


def test_zero_weights_stay_zero_and_the_others_have_the_dense_formula(standard_diabetes):
    """The lasso: the covariance of what is not zero is (XᵀX/σ² + prior)⁻¹ of those columns."""
    X, y = standard_diabetes
    net = nn.Linear(10, 1).double()
    model = br.BayesianModel(net, {"weight": priors.Laplace(0.03), "bias": priors.Normal(1.0)}, likelihoods.Gaussian(0.7))
    for structure in ("full", "diag", "last-layer"):
        post = br.fit(model, X, y, method=LaplaceApproximation(structure=structure))
        weight, sd = post.mean["weight"][0], post.std["weight"][0]
        active = (weight != 0).numpy()
        assert 0 < active.sum() < 10
        assert float(sd[~active].abs().max()) == 0
        assert float(post.sample(50)["weight"][:, 0, ~active].abs().max()) == 0
        design = np.column_stack([X[:, active], np.ones(len(X))])
        precision = design.T @ design / 0.49
        precision[-1, -1] += 1.0
        wanted = 1 / np.diag(precision) if structure == "diag" else np.diag(np.linalg.inv(precision))
        np.testing.assert_allclose(np.r_[sd[active], post.std["bias"]], wanted**0.5, rtol=1e-6)
        assert post.log_evidence is None
        assert any("are not held at a kink" in note for note in post.history.notes)


def test_the_last_layer_is_the_conjugate_posterior_on_the_features(standard_diabetes):
    X, y = standard_diabetes
    model = br.BayesianModel(network(10, 4, 1, dtype=torch.float64), priors.Normal(1.0), likelihoods.Gaussian(0.7))
    post = br.fit(model, X, y, method=LaplaceApproximation(structure="last-layer"))
    with torch.no_grad():
        values = post.layout.unflatten(post.loc)
        features = torch.tanh(torch.tensor(X) @ values["0.weight"].T + values["0.bias"])
    head = br.BayesianModel(nn.Linear(4, 1).double(), priors.Normal(1.0), likelihoods.Gaussian(0.7))
    exact = br.fit(head, features, y, method="exact")
    np.testing.assert_allclose(post.std["2.weight"], exact.std["weight"], rtol=1e-6)
    np.testing.assert_allclose(post.mean["2.weight"], exact.mean["weight"], rtol=1e-3, atol=1e-3)
    assert float(post.std["0.weight"].abs().max()) == 0
    assert post.log_evidence == pytest.approx(exact.log_evidence, abs=1e-2)


def test_the_widest_weights_make_the_subnetwork(mode, standard_diabetes):
    model, point = mode
    few = br.fit(model, *standard_diabetes, method=LaplaceApproximation("ggn", point, structure="subnetwork", subnetwork=7))
    wide = br.fit(model, *standard_diabetes, method=LaplaceApproximation("ggn", point, structure="diag"))
    noise = few.layout.segments["noise_scale"].start
    sd = wide.unconstrained_moments()[1].clone()
    sd[noise] = np.inf
    chosen = torch.nonzero(few.unconstrained_moments()[1])[:, 0]
    assert set(chosen.tolist()) == set(sd.argsort(descending=True)[:8].tolist())
    named = br.fit(
        model, *standard_diabetes, method=LaplaceApproximation("ggn", point, structure="subnetwork", subnetwork=["2.*"])
    )
    assert {name for name, value in named.std.items() if float(value.max()) > 0} == {"2.weight", "2.bias", "noise_scale"}


def test_auto_takes_products_where_a_dense_matrix_would_be_too_large(standard_diabetes):
    X, y = standard_diabetes
    few = MAP(num_steps=20, compile=False)
    with pytest.warns(br.ConvergenceWarning):
        post = br.fit(br.BayesianModel(network(10, 4, 1)), X, y, method=LaplaceApproximation(mode=few, max_parameters=30))
    assert post.certificate.covariance.structure == "kron"
    assert "structure: 'kron', since 50 unknowns are more than max_parameters=30." in post.history.notes
    embedded = nn.Sequential(nn.Embedding(20, 3), nn.Flatten(), nn.Linear(6, 1))
    codes = torch.randint(20, (40, 2), generator=torch.Generator().manual_seed(0))
    with pytest.warns(br.ConvergenceWarning):
        post = br.fit(
            br.BayesianModel(embedded), codes, codes[:, 0] / 10, method=LaplaceApproximation(mode=few, max_parameters=30)
        )
    assert post.certificate.covariance.structure == "diag"


@pytest.mark.parametrize("structure", [pytest.param("full", marks=pytest.mark.slow), "diag"])
def test_refined_draws_are_the_posterior_s(standard_diabetes, structure):
    """Linear regression: from a Gaussian that is right, and from one without correlations, whose sds are too small."""
    X, y = standard_diabetes
    method = LaplaceApproximation(structure=structure, refine=HMC(16, 60, 60, compile=False))
    post = br.fit(linear_model(standardize=False), X, y, method=method)
    exact = br.fit(linear_model(standardize=False), X, y, method="exact")
    assert post.num_draws == 16 * 60
    error = post.certificate.mixing.weights.error
    assert float(((post.mean["weight"] - exact.mean["weight"]) / exact.std["weight"]).abs().max()) < 5 * error
    torch.testing.assert_close(post.std["weight"], exact.std["weight"], rtol=5 * error, atol=0)
    assert post.log_evidence == pytest.approx(exact.log_evidence, abs=1e-6 if structure == "full" else 50)
    with pytest.raises(ValueError, match=r"refine needs a Gaussian over all unknowns, but structure='last-layer' holds"):
        LaplaceApproximation(structure="last-layer", refine=10)


@pytest.mark.parametrize("structure", ["full", "kron"])
def test_chains_in_the_gaussian_s_coordinates_have_its_gradient(mode, standard_diabetes, structure):
    model, point = mode
    post = br.fit(model, *standard_diabetes, method=LaplaceApproximation("ggn", point, structure=structure))
    _, data = model.ingest(*standard_diabetes)
    density = MappedChains(Chains(LogJoint(post.model), data, 2), post.from_noise, post.times_factor)
    z = torch.randn(2, post.width, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) / 2
    way = torch.randn(2, post.width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ahead, behind = (density(z + sign * 1e-5 * way)[0] for sign in (1.0, -1.0))
    torch.testing.assert_close((ahead - behind) / 2e-5, (density(z)[1] * way).sum(1), rtol=1e-6, atol=1e-5)
