"""Where a function's values are normal, p(y | x, data) has no Monte Carlo error: it equals formulas and integrals."""

import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from torch import nn

import bayesreg as br
from bayesreg.likelihoods import Bernoulli, Categorical, Gaussian
from bayesreg.metrics import evaluate, take
from bayesreg.posteriors import Gaussian as GaussianPosterior
from bayesreg.posteriors import Guide
from bayesreg.predictive import ClassProbabilities, Predictive
from bayesreg.priors import AbstractPrior, Flat, HalfNormal, Normal

SEEDS = (0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2)))


def data(seed=0, N=30, D=3, K=None, noise=0.3):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(N, D, generator=generator, dtype=torch.float64)
    shape = (N,) if K is None else (N, K)
    f = x @ torch.randn(D, *shape[1:], generator=generator, dtype=torch.float64)
    return x, f + noise * torch.randn(shape, generator=generator, dtype=torch.float64)


def fitted(x, y, method, likelihood, prior: AbstractPrior = Normal(1.0), **options) -> Any:  # noqa: B008 (frozen)
    width = 1 if y.dim() == 1 else y.shape[1]
    model = br.BayesianModel(nn.Linear(x.shape[1], width, bias=False).double(), prior, likelihood, **options)
    return br.fit(model, x, y, method=method, progress=False)


def conjugate(x, y, new, sigma, tau=1.0):
    """Mean and variance of f at new rows, by the textbook formula."""
    precision = x.mT @ x / sigma**2 + torch.eye(x.shape[1], dtype=x.dtype) / tau**2
    covariance = torch.linalg.inv(precision)
    return new @ covariance @ x.mT @ y / sigma**2, (new @ covariance * new).sum(1)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("method", ["exact", "laplace"])
def test_a_linear_gaussian_model_predicts_by_the_textbook_formula(method, seed):
    x, y = data(seed)
    new, target = data(seed, N=40)
    mean, variance = conjugate(x, y, new, 0.3)
    for count in (1, 2, 7, 1000):  # so many draws or so few: the numbers are the same
        found = fitted(x, y, method, Gaussian(0.3)).predict(new, num_samples=count)
        normal: Any = stats.norm(mean, (variance + 0.3**2).sqrt())
        np.testing.assert_allclose(found.log_prob(target), normal.logpdf(target), rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(found.mean, mean, rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(found.epistemic_variance, variance, rtol=1e-7)
        np.testing.assert_allclose(found.aleatoric_variance, np.full(40, 0.09), rtol=1e-12)
        np.testing.assert_allclose(found.cdf(target), normal.cdf(target), rtol=1e-7, atol=1e-12)
        np.testing.assert_allclose(found.quantile(0.9), normal.ppf(0.9), rtol=1e-6, atol=1e-8)
        assert found.num_samples == count


@pytest.mark.parametrize("seed", SEEDS)
def test_several_outputs_have_the_joint_density_of_a_row(seed):
    """Outputs share features of an earlier layer, so that their functions are correlated."""
    x, y = data(seed, K=2)
    module = nn.Sequential(nn.Linear(3, 2, bias=False), nn.Tanh(), nn.Linear(2, 2)).double()
    model = br.BayesianModel(module, Normal(1.0), Gaussian(0.3))
    posterior: Any = br.fit(model, x, y, method="laplace", progress=False)
    new, target = data(seed, N=5, K=2)
    found = posterior.predict(new, num_samples=2)

    def f(u):
        return model.forward(posterior.layout.unflatten(u), new)

    jacobian = torch.autograd.functional.jacobian(f, posterior.loc)
    total = jacobian @ posterior.covariance @ jacobian.mT + 0.09 * torch.eye(2, dtype=torch.float64)
    truth = [
        stats.multivariate_normal(m, c).logpdf(t) for m, c, t in zip(f(posterior.loc).detach(), total, target, strict=True)
    ]
    np.testing.assert_allclose(found.log_prob(target), truth, rtol=1e-9)
    assert float(total[:, 0, 1].abs().max()) > 1e-3
    np.testing.assert_allclose(found.variance, total.diagonal(dim1=1, dim2=2), rtol=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("N", [4, 30])
def test_an_unknown_noise_is_integrated(N, seed):
    """Against SciPy's integral over the log noise, with the function's mean moving with it; also far out in the tail."""
    x, y = data(seed, N=N)
    posterior = fitted(x, y, "laplace", Gaussian(HalfNormal(1.0)))
    new = data(seed + 10, N=4)[0]
    u, covariance = posterior.loc.numpy(), posterior.covariance.numpy()
    s = posterior.layout.segments["noise_scale"].start
    w = posterior.layout.segments["weight"].slice
    sd = math.sqrt(covariance[s, s])
    rest = covariance[w, w] - np.outer(covariance[w, s], covariance[s, w]) / covariance[s, s]
    found = posterior.predict(new, num_samples=2)
    z = np.linspace(-12, 12, 4001)
    for row, features in enumerate(new.numpy()):
        mean = features @ u[w] + features @ covariance[w, s] / sd * z
        scale = np.sqrt(features @ rest @ features + np.exp(2 * (u[s] + sd * z)))
        for distance in (0.0, 2.0, 15.0):
            target = found.mean.clone()
            target[row] += distance * math.exp(u[s])
            density = integrate.simpson(stats.norm.pdf(float(target[row]), mean, scale) * stats.norm.pdf(z), x=z)
            assert float(found.log_prob(target)[row]) == pytest.approx(math.log(density), abs=1e-4 if distance > 5 else 1e-7)
    noise = math.exp(2 * u[s] + 2 * sd**2)  # E[σ²] of a log-normal
    np.testing.assert_allclose(found.aleatoric_variance, noise, rtol=1e-9)
    np.testing.assert_allclose(found.epistemic_variance, np.einsum("np,pq,nq->n", new, covariance[w, w], new), rtol=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_draws_agree_with_the_closed_form_and_belong_to_one_function(seed):
    x, y = data(seed)
    found = fitted(x, y, "laplace", Gaussian()).predict(data(seed, N=6)[0], num_samples=40_000, seed=seed)
    draws = Predictive(found.likelihood, found.output, found.noise)
    assert draws.function is None
    error = 4.5 / math.sqrt(20_000)
    np.testing.assert_allclose(found.epistemic_variance, draws.epistemic_variance, rtol=1.5 * error)
    np.testing.assert_allclose(found.aleatoric_variance, draws.aleatoric_variance, rtol=2 * error)
    np.testing.assert_allclose(found.log_prob(found.mean), draws.log_prob(found.mean), atol=error)
    rows = found.sample(40_000, seed=1)
    covariance = np.cov(rows.numpy().T)
    function = np.cov(found.output.numpy().T, bias=True)
    off = ~np.eye(6, dtype=bool)
    np.testing.assert_allclose(covariance[off], function[off], atol=6 * float(rows.var()) / math.sqrt(40_000))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("K", [None, 2])
def test_the_closed_form_stands_in_the_units_of_the_data(K, dtype):
    x, y = data(K=K)
    width = torch.tensor(1.0 if K is None else [1.0, 1000.0], dtype=torch.float64)
    model = lambda standardize: br.BayesianModel(  # noqa: E731
        nn.Linear(3, K or 1).to(dtype), Normal(1.0), Gaussian(0.3), standardize=standardize
    )
    far = br.fit(model(True), x, 1e6 + 100 * width * y, method="exact", progress=False)
    near = br.fit(model(True), x, width * y, method="exact", progress=False)
    a, b = far.predict(x[:9]), near.predict(x[:9])
    assert a.function is not None
    rtol = 1e-4 if dtype == torch.float32 else 1e-7
    logs = math.log(100) * (K or 1)
    np.testing.assert_allclose(
        a.log_prob(1e6 + 100 * width * y[:9]), b.log_prob((width * y)[:9]) - logs, rtol=10 * rtol, atol=10 * rtol
    )
    np.testing.assert_allclose(a.std, 100 * b.std, rtol=10 * rtol)
    np.testing.assert_allclose(a.epistemic_variance, 1e4 * b.epistemic_variance, rtol=100 * rtol)


@pytest.mark.parametrize("seed", SEEDS)
def test_mean_field_of_a_linear_model_takes_it_and_of_a_network_does_not(seed):
    x, y = data(seed, N=20)
    linear = fitted(x, y, br.inference.MeanField(num_steps=300), Gaussian(0.3))
    assert isinstance(linear, Guide)
    found = linear.predict(x, num_samples=3)
    loc, scale = linear.guide.moments()
    normal: Any = stats.norm(x @ loc, (x.square() @ scale.square() + 0.09).sqrt())
    np.testing.assert_allclose(found.log_prob(y), normal.logpdf(y), rtol=1e-9)
    for layer in (nn.Tanh(), nn.ReLU()):
        module = nn.Sequential(nn.Linear(3, 4), layer, nn.Linear(4, 1)).double()
        network = br.fit(
            br.BayesianModel(module, Normal(1.0), Gaussian(0.3)),
            x,
            y,
            method=br.inference.MeanField(num_steps=20),
            progress=False,
        )
        assert network.predict(x, num_samples=20).function is None


class Clipped(nn.Module):
    """Linear near zero and nowhere else."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1).double()

    def forward(self, x):
        return self.layer(x).clamp(-0.2, 0.2)


@pytest.mark.filterwarnings("ignore::bayesreg.inference.ConvergenceWarning")
def test_what_has_no_closed_form_keeps_its_draws():
    x, y = data()
    clipped = br.fit(
        br.BayesianModel(Clipped(), Normal(1.0), Gaussian(0.3)),
        x,
        y,
        method=br.inference.MeanField(num_steps=20),
        progress=False,
    )
    assert clipped.predict(x, num_samples=10).function is None
    by_row = br.BayesianModel(nn.Linear(3, 12).double(), Normal(1.0), Gaussian("heteroscedastic"))
    targets = torch.stack([y, y.flip(0)] * 3, 1)  # six: no rule is that large
    assert br.fit(by_row, x, targets, method="laplace", progress=False).predict(x, num_samples=10).function is None
    assert fitted(x, y, "map", Gaussian(0.3)).predict(x).function is None
    few = fitted(x, y, "exact", Gaussian(0.3)).predict(x, num_samples=10, max_memory=30 * 8 * 10)
    assert few.function is not None
    with pytest.raises(ValueError, match="max_memory"):
        fitted(x, y, "exact", Gaussian(0.3)).predict(x, num_samples=10, max_memory=100)


class Loop(nn.Module):
    """A branch on a number, which vmap does not stand."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1).double()

    def forward(self, x):
        output = self.layer(x)
        return output if output.sum().item() > -1e9 else -output


def test_a_network_that_vmap_does_not_stand_is_differentiated_by_backward_passes():
    x, y = data()
    model = br.BayesianModel(Loop(), Normal(1.0), Gaussian(0.3)).bind(x, y)
    plain = fitted(x, y, "exact", Gaussian(0.3))
    record = plain.record
    loc, factor = torch.randn(4, dtype=torch.float64), torch.randn(4, 4, dtype=torch.float64)
    loop = GaussianPosterior(model, record, loc, factor, linearize=True).predict(x, num_samples=500)
    other = br.BayesianModel(nn.Linear(3, 1).double(), Normal(1.0), Gaussian(0.3)).bind(x, y)
    layer = GaussianPosterior(other, record, loc, factor, linearize=True).predict(x, num_samples=500)
    np.testing.assert_allclose(loop.log_prob(y), layer.log_prob(y), rtol=1e-9)
    np.testing.assert_allclose(loop.output, layer.output, rtol=1e-9, atol=1e-12)


def test_rows_and_scores_of_a_closed_form():
    x, y = data(N=300)
    posterior = fitted(x, y, "laplace", Gaussian(), prior=Flat())
    whole, part = posterior.predict(x), posterior.predict(x[7:9])
    for found in (take(whole, [7, 8]), next(p for _, p in whole.split())):
        rows = slice(None) if found.num_rows == 2 else slice(7, 9)
        np.testing.assert_allclose(
            found.log_prob(y[7:9] if found.num_rows == 2 else y[: found.num_rows])[rows], part.log_prob(y[7:9])
        )
    scores = [evaluate(posterior.predict(x, num_samples=n, seed=n), y, seed=n) for n in (2, 1000)]
    assert dict(scores[0]) == pytest.approx(dict(scores[1]), rel=1e-12)  # no score has a Monte Carlo error


def counted(posterior, monkeypatch):
    """How often the posterior has drawn for a prediction."""
    calls, draws = [], type(posterior)._draws_for_prediction
    monkeypatch.setattr(type(posterior), "_draws_for_prediction", lambda *a: calls.append(1) or draws(*a))
    return calls


def test_nothing_is_drawn_before_it_is_asked_for(monkeypatch):
    x, y = data()
    posterior = fitted(x, y, "laplace", Gaussian())
    calls = counted(posterior, monkeypatch)
    found = posterior.predict(x, num_samples=50, seed=3)
    assert (found.num_samples, found.num_rows, found.mean_shape, repr(found)) == (
        50,
        30,
        (30,),
        "Predictive(regression, S=50, N=30)",
    )
    evaluate(found, y)
    found.interval(0.5), found.variance, found.pit(y), take(found, [1, 2]).mean
    assert not calls
    rows = take(found, [1, 2])
    assert rows.output.shape == (50, 2)
    assert found.sample(7).shape == (7, 30)
    assert found.mixed(torch.arange(3)).num_samples == 3
    again = pickle.loads(pickle.dumps(found))
    assert calls == [1]
    assert torch.equal(again.output, found.output)
    assert torch.equal(again.mean, found.mean)


def test_the_draws_behind_a_closed_form_are_those_of_the_seed():
    """They have the type of the outputs that were announced, and are the linearised network at the posterior's own draws."""
    for dtype, far in ((torch.float32, 0.0), (torch.float32, 1e5), (torch.float64, 0.0)):
        x, y = data()
        net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).to(dtype)
        model = br.BayesianModel(net, Normal(1.0), Gaussian(0.3), standardize=True)
        posterior: Any = br.fit(model, x, y + far, method="laplace", progress=False)
        found = posterior.predict(x, num_samples=8, seed=5)
        assert found.like.dtype == found.mean.dtype == found.output.dtype == (torch.float64 if far else dtype)
        assert found.like.shape == found.output.shape == (8, 30)
        half = posterior.draw(4, torch.Generator().manual_seed(5))
        u = torch.cat([half, 2 * posterior.loc - half]).double()
        scale, wide = posterior.model.standardization, posterior.model.module.double()
        inputs = posterior.model.prepare(x).double()

        def f(u, bound=posterior, wide=wide, inputs=inputs):
            return bound.model.forward(bound.layout.unflatten(u), inputs, wide)

        loc = posterior.loc.double()
        linear = torch.stack([torch.stack(torch.func.jvp(f, (loc,), (one - loc,))).sum(0) for one in u]).double()
        truth = scale.y_mean.double() + scale.y_scale.double() * linear
        rtol = 1e-9 if dtype == torch.float64 else 2e-5
        np.testing.assert_allclose(found.output.double() - far, truth - far, rtol=rtol, atol=10 * rtol)


# ── classes, and noise that the network predicts ──


def about(likelihood, outputs, seed=0, spread=0.4, **options) -> Any:
    """A network with a made-up normal about a point, and its outputs' moments at rows by dense derivatives."""
    x, y = data(seed)
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, outputs)).double()
    target = (y > 0).long() if likelihood.labels else y if outputs == likelihood.outputs_per_target else torch.stack([y, -y], 1)
    model = br.BayesianModel(net, Normal(1.0), likelihood, **options).bind(x, target)
    record, size = fitted(x, y, "exact", Gaussian(0.3)).record, model.num_parameters
    loc, factor = (torch.randn(n, generator=generator, dtype=torch.float64) for n in ((size,), (size, size)))
    posterior = GaussianPosterior(model, record, loc, spread * factor / math.sqrt(size), linearize=True)
    new = data(seed + 10, N=4)[0]

    def f(u):
        return posterior.model.forward(posterior.layout.unflatten(u), posterior.model.prepare(new)).reshape(4, -1)

    slopes = torch.autograd.functional.jacobian(f, loc)
    return posterior, new, f(loc).detach(), slopes @ posterior.covariance @ slopes.mT


NODES = np.linspace(-9, 9, 3001)
WEIGHTS = stats.norm.pdf(NODES) * (NODES[1] - NODES[0])


@pytest.mark.parametrize("spread", [0.2, 1.0, 5.0])
@pytest.mark.parametrize("seed", SEEDS)
def test_two_classes_by_the_integral_over_the_logit(seed, spread):
    posterior, new, loc, covariance = about(Bernoulli(), 1, seed, spread)
    logits = loc[:, 0].numpy() + np.sqrt(covariance[:, 0, 0].numpy()) * NODES[:, None]
    p = special.expit(logits)
    one = WEIGHTS @ p
    found = posterior.predict(new)
    assert found.mean.shape == (4,)
    np.testing.assert_allclose(found.mean, one, rtol=1e-9)
    np.testing.assert_allclose(found.epistemic_variance, WEIGHTS @ (p - one) ** 2, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(found.aleatoric_variance, WEIGHTS @ (p * (1 - p)), rtol=1e-8)
    np.testing.assert_allclose(found.variance, one * (1 - one), rtol=1e-9)
    np.testing.assert_allclose(found.log_prob([0, 1, 0, 1]).exp(), np.where([0, 1, 0, 1], one, 1 - one), rtol=1e-9)
    probit = posterior.predict(new, link="probit")
    known = special.expit((loc[:, 0] / (1 + math.pi / 8 * covariance[:, 0, 0]).sqrt()).numpy())
    np.testing.assert_allclose(probit.mean, known, rtol=1e-12)
    assert np.abs(known - one).max() < 0.02  # MacKay's formula is that good


@pytest.mark.parametrize("m", [0.0, 3.0, -20.0, -80.0])
def test_a_probability_keeps_its_digits_whatever_the_logit(m):
    for s in (1e-3, 0.99, 1.01, 4.0, 100.0):
        z = np.linspace(-60, 60, 200_001)
        log = special.logsumexp(special.log_expit(m + s * z) - z**2 / 2) + math.log((z[1] - z[0]) / math.sqrt(2 * math.pi))
        both = ClassProbabilities.of(torch.full((1, 1), m).double(), torch.full((1, 1, 1), s**2).double(), "quadrature")
        assert float(both.log_prob(torch.ones(1))) == pytest.approx(log, abs=2e-6)
        assert float(both.each.sum()) == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("seed", SEEDS)
def test_three_classes_by_the_integral_over_the_logits(seed):
    posterior, new, loc, covariance = about(Categorical(), 3, seed, 1.0)
    z, w = np.polynomial.hermite_e.hermegauss(60)
    grid = np.stack([part.ravel() for part in np.meshgrid(z, z, z)], 1)
    weight = (w[:, None, None] * w[:, None] * w).ravel() / w.sum() ** 3
    root = np.linalg.cholesky(covariance.numpy() + 1e-12 * np.eye(3))
    p = special.softmax(loc.numpy() + np.einsum("nkq,jq->jnk", root, grid), -1)
    mean = np.einsum("j,jnk->nk", weight, p)
    spread = np.einsum("j,jnk->nk", weight, (p - mean) ** 2)
    found = posterior.predict(new)
    np.testing.assert_allclose(found.mean, mean, atol=2e-3)
    np.testing.assert_allclose(found.epistemic_variance, spread, atol=2e-3)
    np.testing.assert_allclose(found.variance, found.mean * (1 - found.mean), rtol=1e-9)
    np.testing.assert_allclose(found.log_prob([0, 1, 2, 0]).exp(), found.mean[range(4), [0, 1, 2, 0]], rtol=1e-9)
    for link, most in (("probit", 0.1), ("bridge", 0.5)):
        other = posterior.predict(new, link=link)
        assert 1e-5 < np.abs(other.mean.numpy() - mean).max() < most
        np.testing.assert_allclose(other.mean.sum(1), np.ones(4), rtol=1e-12)
        assert bool((other.epistemic_variance >= 0).all() & (other.aleatoric_variance >= 0).all())
    with pytest.raises(ValueError, match="link"):
        posterior.predict(new, link="logit")


@pytest.mark.parametrize("link", ["quadrature", "probit", "bridge"])
def test_two_of_two_classes_are_one_logit(link):
    """Softmax of (0, f) is sigmoid of f, and no link sees a number that is added to all logits."""
    loc, variance = torch.tensor([[0.7], [-2.0]]).double(), torch.tensor([0.5, 6.0]).double()
    one = ClassProbabilities.of(loc, variance[:, None, None], link)
    both, wide = torch.cat([torch.zeros_like(loc), loc], 1), torch.zeros(2, 2, 2).double()
    wide[:, 1, 1] = variance
    for added in (0.0, 3.0):
        two = ClassProbabilities.of(both + added, wide + added, link)
        np.testing.assert_allclose(two.mean[:, 1], one.mean, atol=1e-3 if link == "quadrature" else 1e-12)
        np.testing.assert_allclose(two.epistemic_variance[:, 1], one.epistemic_variance, atol=1e-3)


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_predicted_noise_is_integrated(seed, standardize):
    """Location and log noise scale are jointly normal: against an integral over both, in the units of the data."""
    posterior, new, loc, covariance = about(Gaussian("heteroscedastic"), 2, seed, 0.2, standardize=standardize)
    scale = posterior.model.standardization
    mean, width = (0.0, 1.0) if scale is None else (float(scale.y_mean), float(scale.y_scale))
    found = posterior.predict(new)
    for row in range(4):
        m, c = loc[row].numpy(), covariance[row].numpy()
        s = m[1] + math.sqrt(c[1, 1]) * NODES
        f = m[0] + c[0, 1] / math.sqrt(c[1, 1]) * NODES
        rest = c[0, 0] - c[0, 1] ** 2 / c[1, 1]
        noise = math.exp(2 * m[1] + 2 * c[1, 1])  # of a log-normal
        assert float(found.mean[row]) == pytest.approx(mean + width * m[0], rel=1e-9)
        assert float(found.epistemic_variance[row]) == pytest.approx(width**2 * c[0, 0], rel=1e-9)
        assert float(found.aleatoric_variance[row]) == pytest.approx(width**2 * noise, rel=1e-9)
        for distance in (0.0, 1.5, 4.0):
            target = found.mean + distance * found.std
            t = (float(target[row]) - mean) / width
            density = WEIGHTS @ stats.norm.pdf(t, f, np.sqrt(rest + np.exp(2 * s)))
            log, most = math.log(density / width), 1e-5 if distance < 2 else 1e-3
            assert float(found.log_prob(target)[row]) == pytest.approx(log, abs=most)
            below = WEIGHTS @ stats.norm.cdf(t, f, np.sqrt(rest + np.exp(2 * s)))
            assert float(found.cdf(target)[row]) == pytest.approx(below, abs=1e-6)
    q = found.quantile([0.025, 0.6])
    np.testing.assert_allclose([found.cdf(each) for each in q], np.broadcast_to([[0.025], [0.6]], (2, 4)), atol=1e-9)


@pytest.mark.parametrize(
    ("likelihood", "outputs"),
    [(Gaussian(0.5), 1), (Gaussian(0.5), 2), (Gaussian("heteroscedastic"), 2), (Bernoulli(), 1), (Categorical(), 3)],
    ids=repr,
)
def test_two_hundred_thousand_draws_say_the_same(likelihood, outputs):
    posterior, new, *_ = about(likelihood, outputs, spread=0.2 if likelihood.heteroscedastic else 0.7)
    found = posterior.predict(new, num_samples=200_000, seed=1)
    assert found.function is not None
    draws = Predictive(found.likelihood, found.output, found.noise)
    means = likelihood.mean(draws.output, **draws.noise)
    error = 5 * means.std(0) / math.sqrt(200_000) + (2e-3 if outputs == 3 else 1e-9)
    assert bool(((found.mean - draws.mean).abs() <= error).all())
    np.testing.assert_allclose(found.epistemic_variance, draws.epistemic_variance, rtol=0.02, atol=1e-3)
    np.testing.assert_allclose(found.aleatoric_variance, draws.aleatoric_variance, rtol=0.02, atol=1e-3)
    y = torch.tensor([0, 1, 1, 0]) if likelihood.labels else found.mean
    np.testing.assert_allclose(found.log_prob(y), draws.log_prob(y), atol=0.02)
    assert found.mean.dtype == found.variance.dtype == found.log_prob(y).dtype == found.output.dtype


def test_a_prediction_may_be_asked_for_in_the_other_way():
    posterior, new, loc, _ = about(Gaussian(0.5), 1)
    network, line = posterior.predict(new, predictive="draws", num_samples=64), posterior.predict(new, predictive="linearised")
    assert network.function is None
    assert torch.equal(line.mean, posterior.predict(new).mean)
    posterior.linearize = False
    assert torch.equal(posterior.predict(new, num_samples=64).output, network.output)
    assert torch.equal(posterior.predict(new, predictive="linearised").mean, line.mean)
    np.testing.assert_allclose(line.mean, loc[:, 0], rtol=1e-12)
    x, y = data()
    with pytest.raises(ValueError, match="linearised prediction needs"):
        fitted(x, y, "map", Gaussian(0.3)).predict(x, predictive="linearised")
    with pytest.raises(ValueError, match="predictive"):
        posterior.predict(new, predictive="linear")


# ── the posterior over functions ──


@pytest.mark.parametrize(("likelihood", "outputs"), [(Gaussian(0.5), 1), (Gaussian(0.5), 2), (Categorical(), 3)], ids=repr)
def test_the_covariance_of_the_function_is_that_of_its_derivatives(likelihood, outputs):
    posterior, new, _, within = about(likelihood, outputs)

    def f(u):
        return posterior.model.forward(posterior.layout.unflatten(u), posterior.model.prepare(new)).reshape(-1)

    slopes = torch.autograd.functional.jacobian(f, posterior.loc)
    truth = slopes @ posterior.covariance @ slopes.mT
    found = posterior.function_covariance(new)
    assert found.shape == ((4, 4) if outputs == 1 else (4, outputs, 4, outputs))
    np.testing.assert_allclose(found.reshape(truth.shape), truth, rtol=1e-9, atol=1e-12)
    same = torch.stack([found.reshape(4, outputs, 4, outputs)[n, :, n] for n in range(4)])
    np.testing.assert_allclose(same, within, rtol=1e-9, atol=1e-12)
    draws = posterior.sample_function(new, 40_000, seed=1).reshape(40_000, -1)
    assert torch.equal(draws, posterior.predict(new, num_samples=40_000, seed=1).output.reshape(40_000, -1))
    sd = truth.diagonal().sqrt()
    np.testing.assert_allclose(draws.mT.cov(correction=0) / sd[:, None] / sd, truth / sd[:, None] / sd, atol=0.04)
    with pytest.raises(ValueError, match="max_memory"):
        posterior.function_covariance(new, max_memory=100)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("standardize", [False, True])
def test_a_linear_model_is_a_gaussian_process(seed, standardize):
    """Its covariance after the data is K** − K*x (Kxx + σ² I)⁻¹ Kx* with the kernel τ² x·x′, in the units of the data."""
    x, y = data(seed)
    new = data(seed + 5, N=6)[0]
    posterior = fitted(x, 50 * y, "exact", Gaussian(0.3), standardize=standardize)
    scale = posterior.model.standardization
    a, b, width = x, new, 1.0
    if scale is not None:
        a, b, width = posterior.model.prepare(x), posterior.model.prepare(new), float(scale.y_scale)
    gain = torch.linalg.solve(a @ a.mT + 0.09 * torch.eye(30, dtype=torch.float64), a @ b.mT)
    truth = width**2 * (b @ b.mT - b @ a.mT @ gain)
    found = posterior.function_covariance(new)
    np.testing.assert_allclose(found, truth, rtol=1e-6, atol=1e-9 * width**2)
    np.testing.assert_allclose(found.diagonal(), posterior.predict(new).epistemic_variance, rtol=1e-9)


def test_other_posteriors_give_the_covariance_of_their_draws():
    posterior, new, *_ = about(Gaussian(0.5), 2)
    found = posterior.function_covariance(new, predictive="draws", num_samples=500, seed=2)
    drawn = posterior.predict(new, predictive="draws", num_samples=500, seed=2)
    np.testing.assert_allclose(found.reshape(8, 8).diagonal(), drawn.epistemic_variance.reshape(-1), rtol=1e-9)
    np.testing.assert_allclose(found.reshape(8, 8), np.cov(drawn.output.reshape(500, 8).T, bias=True), rtol=1e-9)
    x, y = data()
    mode = fitted(x, y, "map", Gaussian(0.3))
    assert torch.equal(mode.function_covariance(x), torch.zeros(30, 30, dtype=torch.float64))
    assert mode.sample_function(x, 5).shape == (1, 30)


def test_a_predicted_noise_has_its_covariance_in_the_units_of_the_data():
    posterior, new, _, within = about(Gaussian("heteroscedastic"), 2, standardize=True)
    width = float(posterior.model.standardization.y_scale)
    found = posterior.function_covariance(new)
    np.testing.assert_allclose(found[1, :, 1], within[1] * torch.tensor([[width**2, width], [width, 1.0]]), rtol=1e-6)
    draws = posterior.sample_function(new, 20_000)
    np.testing.assert_allclose(np.cov(draws[:, 1].T), found[1, :, 1], rtol=0.1, atol=0.03 * float(found[1, 0, 1, 0]))
