"""Noise that the network says itself: scipy's density, the homoscedastic limit, its own units, and who must not take it."""

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from torch import nn

import bayesreg as br
from bayesreg import inference, likelihoods, priors
from bayesreg.metrics import variance_rows
from bayesreg.objective import LogJoint, affine_problem, diagonal, full_hessian, gauss_newton, gauss_newton_product
from bayesreg.posteriors import Dirac
from bayesreg.predictive import Predictive
from tests.conftest import network

BY_ROW = likelihoods.Gaussian("heteroscedastic")


def data(n=60, inputs=2, targets=1, seed=0):
    """y = 20 + 5 x₀ + noise of sd exp(0.5 + 0.6 x₀), x far from standardised."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, inputs))
    y = 20 + 5 * z[:, [0]] + np.exp(0.5 + 0.6 * z[:, [0]]) * rng.normal(size=(n, targets)) * (1 + np.arange(targets))
    return 7 + 3 * z, y[:, 0] if targets == 1 else y


def linear(inputs=2, targets=1, prior=None, **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = nn.Linear(inputs, 2 * targets).double()
    return br.BayesianModel(module, priors.Normal(1.0) if prior is None else prior, BY_ROW, **options)


# ── the density ──


@pytest.mark.parametrize("targets", [1, 3])
def test_density_is_scipy_s(targets):
    rng = np.random.default_rng(0)
    output, y = rng.normal(size=(9, 2 * targets)), rng.normal(size=(9, targets))
    expected = stats.norm.logpdf(y, output[:, :targets], np.exp(output[:, targets:])).sum(1)
    target = torch.tensor(y[:, 0] if targets == 1 else y)
    found = BY_ROW.log_prob(torch.tensor(output), target)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)
    np.testing.assert_allclose(float(BY_ROW.log_prob_sum(torch.tensor(output), target)), expected.sum(), rtol=1e-12)
    below = stats.norm.cdf(y, output[:, :targets], np.exp(output[:, targets:])).reshape(target.shape)
    np.testing.assert_allclose(BY_ROW.cdf(torch.tensor(output), target).numpy(), below, rtol=1e-12)


@pytest.mark.parametrize("targets", [1, 2])
def test_equal_log_scales_are_the_noise_of_one_size(targets):
    """Where the second half of the last layer gives one number, it is the Gaussian of that noise scale."""
    X, y = data(targets=targets)
    one = nn.Linear(2, targets).double()
    two = nn.Linear(2, 2 * targets).double()
    with torch.no_grad():
        two.weight[:targets], two.bias[:targets] = one.weight, one.bias
        two.weight[targets:], two.bias[targets:] = 0.0, np.log(0.6)
    options = {"priors": priors.Normal(1.0), "standardize": True}
    plain = br.BayesianModel(one, likelihood=likelihoods.Gaussian(0.6), **options).bind(X, y)
    by_row = br.BayesianModel(two, likelihood=BY_ROW, **options).bind(X, y)
    expected = plain.log_likelihood(plain.weights(), X, y)
    torch.testing.assert_close(by_row.log_likelihood(by_row.weights(), X, y), expected, rtol=1e-12, atol=1e-12)
    posteriors = [Dirac(model, None, LogJoint(model).layout.flatten(model.weights())) for model in (plain, by_row)]
    for read in ("mean", "variance", "aleatoric_variance", "epistemic_variance"):
        a, b = (getattr(posterior.predict(X), read) for posterior in posteriors)
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


# ── fits ──


def test_map_recovers_the_slope_of_the_log_scale():
    """Flat priors: the mode is the maximum of the likelihood, within four standard errors of the truth."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=4000)
    y = 1.0 - 2.0 * x + np.exp(-0.5 + 0.4 * x) * rng.normal(size=4000)
    for flat in (priors.Flat(), priors.Normal(100.0)):
        mode = br.fit(linear(1, prior=flat), x, y, method="map", seed=0)
        assert mode.certificate.converged, str(mode.certificate)
        log_joint = LogJoint(mode.model)
        rows = br.data.Data(len(x), *mode.model.prepare(x, y))
        errors = torch.linalg.inv(full_hessian(log_joint, mode.loc, rows)).diagonal().sqrt()
        truth = log_joint.layout.flatten({"weight": torch.tensor([[-2.0], [0.4]]), "bias": torch.tensor([1.0, -0.5])})
        assert float(((mode.loc - truth) / errors).abs().max()) < 4
        # Fisher information of s = a + b x is 2 Σ (1, x)ᵀ(1, x), whatever the noise
        slope = np.sqrt(np.linalg.inv(2 * np.array([[len(x), x.sum()], [x.sum(), x @ x]]))[1, 1])
        position = log_joint.layout.segments["weight"].start + 1
        assert float(errors[position]) == pytest.approx(slope, rel=0.1)


def test_optimality_conditions_hold_in_closed_form():
    """At the maximum Σ r/σ² = 0 and Σ (r²/σ² − 1) = 0: the bias's two equations, and the weights' by x."""
    X, y = data(300)
    X = (X - X.mean(0)) / X.std(0)
    mode = br.fit(linear(prior=priors.Flat()), X, y / 5, method="map", seed=0)
    predictive = mode.predict(X)
    r, sd = (torch.tensor(y / 5) - predictive.mean).numpy(), predictive.std.numpy()
    for column in (np.ones(len(y)), *X.T):
        assert abs(column @ (r / sd**2)) < 1e-5
        assert abs(column @ (r**2 / sd**2 - 1)) < 1e-5


@pytest.mark.parametrize("targets", [1, 2])
def test_standardised_is_standardised_by_hand(targets):
    X, y = data(targets=targets)
    x_mean, x_sd, y_mean, y_sd = X.mean(0), X.std(0), y.mean(0), y.std(0)
    ours = br.fit(linear(targets=targets, standardize=True), X, y, method="map", seed=0)
    hand = br.fit(linear(targets=targets), (X - x_mean) / x_sd, (y - y_mean) / y_sd, method="map", seed=0)
    new, seen = data(20, targets=targets, seed=1)
    a, b = ours.predict(new), hand.predict((new - x_mean) / x_sd)
    assert a.mean.shape == seen.shape
    np.testing.assert_allclose(a.mean.numpy(), y_mean + y_sd * b.mean.numpy(), rtol=1e-6)
    np.testing.assert_allclose(a.variance.numpy(), y_sd**2 * b.variance.numpy(), rtol=1e-6)
    jacobian = np.log(y_sd).sum()
    np.testing.assert_allclose(a.log_prob(seen).numpy(), b.log_prob((seen - y_mean) / y_sd).numpy() - jacobian, atol=1e-6)
    np.testing.assert_allclose(a.quantile(0.1).numpy(), y_mean + y_sd * b.quantile(0.1).numpy(), rtol=1e-6)
    assert ours.history.objective[-1] == pytest.approx(hand.history.objective[-1] - len(y) * jacobian, abs=1e-5)


# ── the mixture over draws ──


@pytest.mark.parametrize("targets", [1, 2])
def test_the_mixture_is_read_exactly(targets):
    generator = torch.Generator().manual_seed(0)
    output = torch.randn(7, 5, 2 * targets, generator=generator, dtype=torch.float64)
    predictive = Predictive(BY_ROW, output)
    loc, sd = output[..., :targets], output[..., targets:].exp()
    loc, sd = (loc[..., 0], sd[..., 0]) if targets == 1 else (loc, sd)
    assert predictive.mean_shape == predictive.mean.shape == loc.shape[1:]
    assert predictive.num_outputs == targets
    assert ("K=" in repr(predictive)) == (targets > 1)
    torch.testing.assert_close(predictive.mean, loc.mean(0))
    torch.testing.assert_close(predictive.aleatoric_variance, sd.square().mean(0))
    torch.testing.assert_close(predictive.epistemic_variance, loc.var(0, correction=0))
    y = torch.randn(loc.shape[1:], generator=generator, dtype=torch.float64)
    rows = stats.norm.logpdf(y.numpy(), loc.numpy(), sd.numpy())
    rows = rows.sum(-1) if targets > 1 else rows
    np.testing.assert_allclose(predictive.log_prob(y).exp().numpy(), np.exp(rows).mean(0), rtol=1e-10)
    torch.testing.assert_close(predictive.cdf(predictive.quantile(0.3)), torch.full_like(y, 0.3), rtol=0, atol=1e-9)
    drawn = predictive.sample(70_000, seed=0)
    assert drawn.shape == (70_000, *loc.shape[1:])
    error = (predictive.variance / len(drawn)).sqrt()
    assert float(((drawn.mean(0) - predictive.mean) / error).abs().max()) < 4.5
    assert np.isfinite(list(br.metrics.evaluate(predictive, y).metrics.values())).all()


def test_prior_predictive_has_the_moments_of_its_log_normal():
    """One bias s ~ N(0, 0.3²) with no weights: Var y = E e²ˢ + E f² = e^(2·0.09) + 1, in y's units times sd(y)²."""
    X, y = data()
    rules = {"weight": priors.Fixed(0.0), "bias": priors.Normal(1.0)}
    model = br.BayesianModel(nn.Linear(2, 2).double(), rules, BY_ROW, standardize=True).bind(X, y)
    found = model.prior_predictive(X[:3], num_samples=20_000)
    expected = y.std() ** 2 * (np.exp(2.0) + 1)
    assert found.mean.shape == (3,)
    np.testing.assert_allclose(found.epistemic_variance.numpy(), y.std() ** 2, rtol=0.05)
    # E e⁴ˢ is large: the mean of e²ˢ is compared through its logarithm's median, e⁰
    sd = found.likelihood.variance(found.output).sqrt()
    assert float(sd.median()) == pytest.approx(y.std(), rel=0.03)
    assert expected > float(found.variance.min()) * 0.5


# ── posteriors ──


def test_curvature_is_the_fisher_information():
    """Linear in the weights: Σ xxᵀ/σ² for f, 2 Σ xxᵀ for s, nothing between them; as matrix, product and diagonal."""
    X, y = data(40)
    model = linear(standardize=True, prior=priors.Normal(2.0)).bind(X, y)
    rows = br.data.Data(len(X), *model.prepare(X, y))
    log_joint = LogJoint(model)
    u = torch.linspace(-0.5, 0.5, 6, dtype=torch.float64)
    matrix = gauss_newton(log_joint, u, rows)
    x = torch.cat([rows.x, torch.ones(len(X), 1, dtype=torch.float64)], 1)
    s = model.forward(log_joint.layout.unflatten(u), rows.x)[:, 1]
    order = {name: segment.start for name, segment in log_joint.layout.segments.items()}
    at = lambda k: [order["weight"] + 2 * k, order["weight"] + 2 * k + 1, order["bias"] + k]  # noqa: E731
    prior = torch.eye(3, dtype=torch.float64) / 4
    torch.testing.assert_close(matrix[at(0)][:, at(0)], (x / (2 * s).exp()[:, None]).mT @ x + prior)
    torch.testing.assert_close(matrix[at(1)][:, at(1)], 2 * x.mT @ x + prior)
    assert float(matrix[at(0)][:, at(1)].abs().max()) < 1e-12
    v = torch.linspace(1, 2, 6, dtype=torch.float64)
    torch.testing.assert_close(gauss_newton_product(log_joint, u, rows, v), matrix @ v)
    torch.testing.assert_close(sum(diagonal(log_joint, u, rows)), matrix.diagonal())


@pytest.mark.slow
def test_laplace_is_the_posterior_by_quadrature():
    """Two unknowns, f = a and s = b: the posterior's moments on a grid, which Laplace meets to a few per cent at N = 200."""
    y = np.random.default_rng(0).normal(1.0, 0.5, size=200)
    model = br.BayesianModel(nn.Linear(1, 2).double(), {"weight": priors.Fixed(0.0), "bias": priors.Normal(2.0)}, BY_ROW)
    X = np.zeros((200, 1))

    def density(b, a):
        prior = stats.norm.logpdf([a, b], 0, 2).sum()
        return np.exp(stats.norm.logpdf(y, a, np.exp(b)).sum() + prior - top)

    top = 0.0
    top = np.log(density(np.log(y.std()), y.mean()))
    box = [y.mean() - 0.3, y.mean() + 0.3, np.log(y.std()) - 0.4, np.log(y.std()) + 0.4]
    mass = integrate.dblquad(density, *box, epsabs=1e-8)[0]
    mean = integrate.dblquad(lambda b, a: b * density(b, a), *box, epsabs=1e-8)[0] / mass
    second = integrate.dblquad(lambda b, a: b * b * density(b, a), *box, epsabs=1e-8)[0] / mass
    for curvature in ("hessian", "ggn"):
        post = br.fit(model, X, y, method=inference.LaplaceApproximation(curvature=curvature), seed=0)
        assert float(post.mean["bias"][1]) == pytest.approx(mean, abs=0.0075)  # 1.5/N: the mode is 1/N below the mean
        assert float(post.std["bias"][1]) == pytest.approx(np.sqrt(second - mean**2), rel=0.03)
        assert post.log_evidence == pytest.approx(np.log(mass) + top, abs=0.02)


@pytest.mark.usefixtures("unrendered")
@pytest.mark.parametrize(
    "method", ["laplace", *(pytest.param(method, marks=pytest.mark.slow) for method in ("map", "mean-field"))]
)
@pytest.mark.parametrize("targets", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_every_method_goes_the_whole_way(method, targets, tmp_path):
    """Fit, predict, compare, report, save and load; sds follow the noise in the data."""
    X, y = data(400, targets=targets)
    net = network(2, 6, 2 * targets)
    model = br.BayesianModel(net, priors.Normal(0.7), BY_ROW, standardize=True)
    post = br.fit(model, X, y, method=method, seed=0, progress=False)
    new, seen = data(80, targets=targets, seed=1)
    predictive = post.predict(new, num_samples=100)
    truth = torch.tensor(np.exp(0.5 + 0.6 * (new[:, 0] - 7) / 3))
    sds = predictive.aleatoric_variance.sqrt().reshape(80, -1)
    for k in range(targets):
        assert float(torch.corrcoef(torch.stack([sds[:, k].log().double(), truth.log()]))[0, 1]) > 0.9
        assert 0.7 < float((sds[:, k] / truth / (1 + k)).median()) < 1.4
    assert "noise_scale" not in post.mean
    comparison = br.compare({"a": post}, new, seen)
    assert np.isfinite(list(comparison.scores["a"].metrics.values())).all()
    br.save(post, tmp_path / "post.pt")
    again = br.load(tmp_path / "post.pt")
    assert again.model.likelihood.heteroscedastic
    assert torch.equal(again.predict(new, num_samples=100).mean, predictive.mean)
    report = br.report({"a": post}, new, seen)
    assert "noise scale (root mean square over the test rows)" in report.html
    assert report.data["data"]["num_outputs"] == targets
    with pytest.raises(ValueError, match=rf"output must be a number from 0 to {targets - 1}, but {targets} came"):
        variance_rows(predictive, targets)


@pytest.mark.slow
def test_mini_batches_and_restarts_come_to_the_mode():
    X, y = data(200)
    model = linear(standardize=True)
    full = br.fit(model, X, y, method="map", seed=0)
    batched = br.fit(model, X, y, method=inference.MAP(batch_size=50, num_steps=2000), seed=0)
    torch.testing.assert_close(full.loc, batched.loc, rtol=0, atol=0.05)
    several = br.fit(model, X, y, method=inference.MAP(num_restarts=3), seed=0)
    torch.testing.assert_close(full.loc, several.loc, rtol=0, atol=1e-3)


@pytest.mark.slow
def test_a_path_is_single_fits():
    """Each scale's log-joint and each left-out fold's score are those of a fit by itself."""
    X, y = data(120)
    fold = np.arange(120) % 3
    path = br.path(linear(standardize=True), X, y, scales=[0.1, 1.0], folds=fold)
    for r, scale in enumerate((0.1, 1.0)):
        rules = {"weight": priors.Normal(scale), "bias": priors.Normal(1.0)}
        single = br.fit(linear(standardize=True, prior=rules), X, y, method="map", seed=0)
        assert float(path.log_joint[r]) == pytest.approx(single.history.objective[-1], abs=1e-4)
        for k in range(3):
            part = br.fit(linear(standardize=True, prior=rules), X[fold != k], y[fold != k], method="map", seed=0)
            score = float(part.predict(X[fold == k]).log_prob(y[fold == k]).mean())
            assert float(path.held_out[k, r]) == pytest.approx(score, abs=1e-4)


# ── who must not take it ──


def test_exact_refuses_and_the_linear_solvers_stay_away():
    X, y = data()
    model = linear(standardize=True)
    with pytest.raises(
        ValueError, match=r"Exact needs a Gaussian likelihood whose noise_scale is a number, but Heteroscedastic"
    ):
        br.fit(model, X, y, method="exact")
    bound, rows = model.ingest(X, y)
    assert affine_problem(LogJoint(bound), rows) is None
    for prior in (priors.Normal(1.0), priors.Laplace(1.0)):
        method = "map" if prior.smooth else inference.MAP(num_steps=2000)
        mode = br.fit(linear(standardize=True, prior=prior), X, y, method=method, seed=0)
        assert mode.certificate.converged
        assert mode.history.notes[0].startswith("lbfgs:" if prior.smooth else "prox-adam:")


def test_many_fits_do_not_take_the_loss_for_convex(monkeypatch):
    """A linear network, but log p is not concave in its outputs: a path and bootstraps start with Adam's steps."""
    X, y = data()
    steps = []

    def stop(*_, num_steps=0, **__):
        steps.append(num_steps)
        raise InterruptedError

    for module, name in (("paths", "_convex_path"), ("paths", "search_many"), ("bootstrap", "fit_many")):
        monkeypatch.setattr(f"bayesreg.selection.{module}.{name}", stop)
    with pytest.raises(InterruptedError):
        br.path(linear(standardize=True), X, y, scales=[1.0], folds=None)
    with pytest.raises(InterruptedError):
        br.stability(linear(standardize=True, prior={"weight": priors.Laplace(0.3)}), X, y, num_bootstraps=2)
    assert len(steps) == 2
    assert min(steps) > 0


def test_a_scale_relative_to_the_noise_is_refused():
    with pytest.raises(
        ValueError, match=r"relative_to_noise=True needs a likelihood with a noise_scale of its own, .*Heteroscedastic"
    ):
        linear(prior=priors.Normal(1.0, relative_to_noise=True))


def test_shapes_are_refused_by_what_the_network_must_give():
    X, y = data()
    with pytest.raises(ValueError, match=r"two network outputs for each target, .* give the last layer 2 outputs"):
        br.BayesianModel(nn.Linear(2, 1), likelihood=BY_ROW).bind(X, y)
    with pytest.raises(ValueError, match=r"output must have shape \(S, N, 2K\)"):
        Predictive(BY_ROW, torch.zeros(3, 4))
    with pytest.raises(ValueError, match=r"output must have shape \(S, N, 2K\)"):
        Predictive(BY_ROW, torch.zeros(3, 4, 3))
    with pytest.raises(ValueError, match=r"y must have shape \(4,\) as the prediction has, but \(4, 2\) came"):
        Predictive(BY_ROW, torch.zeros(3, 4, 2)).log_prob(torch.zeros(4, 2))


@pytest.mark.slow
def test_noise_that_runs_to_zero_is_said():
    """Six rows and a network that can pass through them: a few rows of noise near zero decide everything."""
    X, y = data(6)
    net = network(2, 20, 2, dtype=torch.float64)
    with pytest.warns(br.ConvergenceWarning):
        mode = br.fit(
            br.BayesianModel(net, priors.Flat(), BY_ROW, standardize=True), X, y, method=inference.MAP(num_steps=3000), seed=0
        )
    assert "the noise of some rows ran to zero" in str(mode.certificate)


# ── what a person reads ──


def test_the_prior_table_says_where_the_noise_comes_from():
    row = linear().prior_table().rows[-1]
    assert (row.tensor, row.shape, row.prior, row.source) == ("noise_scale", "each row", "the network's output", "likelihood")
    assert "priors on their weights" in row.note
    assert repr(BY_ROW) == "HeteroscedasticGaussian()"
    assert likelihoods.parse('Gaussian("heteroscedastic")').heteroscedastic


@pytest.mark.parametrize("targets", [1, 2])
def test_autoscale_gives_log_scales_no_unit_of_the_target(targets):
    X, y = data(targets=targets)
    rules = {"weight": priors.Normal(2.0, autoscale=True), "bias": priors.Flat()}
    model = br.BayesianModel(nn.Linear(2, 2 * targets).double(), rules, BY_ROW).bind(X, y)
    found = model.latents["weight"].prior.given_scale
    expected = np.r_[np.outer(np.atleast_1d(y.std(0)), 2 / X.std(0)), np.outer(np.ones(targets), 2 / X.std(0))]
    np.testing.assert_allclose(np.asarray(found), expected, rtol=1e-10)
