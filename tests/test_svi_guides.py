"""SVI takes every guide of Pyro's: each fits or is refused in words; of normal ones, predictions are in closed form."""

from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.distributions.transforms import affine_autoregressive
from pyro.infer import autoguide
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.inference import SVI

pytestmark = pytest.mark.filterwarnings("ignore::bayesreg.ConvergenceWarning")


def listed(program):
    """An autoguide for the weights, a function for the noise."""
    guide = autoguide.AutoGuideList(program)
    guide.append(autoguide.AutoMultivariateNormal(poutine.block(program, hide=["noise_scale"])))
    guide.append(of_the_noise)
    return guide


def of_the_noise(x=None, y=None, num_data=None):
    loc = pyro.param("loc", torch.tensor(-1.0))
    scale = pyro.param("scale", lambda: torch.tensor(0.1), constraint=dist.constraints.positive)
    pyro.sample("noise_scale", dist.LogNormal(loc, scale))


def joined(program):
    """Two autoguides, one without and one with a spread."""
    guide = autoguide.AutoGuideList(program)
    guide.append(autoguide.AutoDelta(poutine.block(program, expose=["bias"])))
    guide.append(autoguide.AutoMultivariateNormal(poutine.block(program, hide=["bias"])))
    return guide


def written(x, y):
    """A guide by hand, with statements; two arguments."""
    loc = pyro.param("all", torch.zeros(1, 3, dtype=torch.float64))
    pyro.sample("weight", dist.Normal(loc, 0.1).to_event(2))
    pyro.sample("bias", dist.Normal(loc.sum(1), 0.1).to_event(1))
    of_the_noise()


def flow(program):
    return autoguide.AutoNormalizingFlow(program, partial(affine_autoregressive, hidden_dims=[8]))


NORMAL = {  # known to be normal
    "AutoNormal": autoguide.AutoNormal,
    "AutoDiagonalNormal": autoguide.AutoDiagonalNormal,
    "AutoMultivariateNormal": autoguide.AutoMultivariateNormal,
    "AutoLowRankMultivariateNormal": autoguide.AutoLowRankMultivariateNormal,
    "AutoGaussian": autoguide.AutoGaussian,
    "AutoNormalMessenger": autoguide.AutoNormalMessenger,
    "AutoDelta": autoguide.AutoDelta,
    "AutoGuideList": joined,
}
OTHERS = {
    "AutoCallable": listed,
    "AutoNormalizingFlow": flow,
    "AutoIAFNormal": autoguide.AutoIAFNormal,
    "AutoStructured": autoguide.AutoStructured,
    "AutoHierarchicalNormalMessenger": autoguide.AutoHierarchicalNormalMessenger,
    "AutoRegressiveMessenger": autoguide.AutoRegressiveMessenger,
    "by hand": written,
}
REFUSED = {
    "AutoLaplaceApproximation": r"AutoLaplaceApproximation is a mode, .* take method='laplace'",
    "AutoDiscreteParallel": r"AutoDiscreteParallel is for discrete unknowns, .*; take AutoNormal",
    "AutoNormalizingFlow": r"AutoNormalizingFlow raised .*; pass a function that makes it, .* hidden_dims=\[8\]",
    "AutoCallable": r"AutoCallable raised .*; pass for example guide=AutoIAFNormal",
    "AutoMessenger": r"AutoMessenger raised .*; pass for example",
    "AutoGuide": r"AutoGuide raised .*; take for example",
    "AutoContinuous": r"AutoContinuous raised .*; take for example",
    "AutoGuideList": r"a guide must draw the model's sites, .* append to an AutoGuideList a guide for each",
}


@pytest.fixture(autouse=True)
def _clean_store():
    pyro.clear_param_store()
    yield
    assert len(pyro.get_param_store()) == 0
    pyro.clear_param_store()


@pytest.fixture(scope="module")
def rows():
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(30, 3, generator=generator, dtype=torch.float64)
    return 2 + X, 10 + 5 * (X.sum(1) + 0.3 * torch.randn(30, generator=generator, dtype=torch.float64))


def linear(noise=None):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Linear(3, 1).double()
    return br.BayesianModel(net, priors.Normal(1.0), noise, standardize=True)


@pytest.fixture(scope="module")
def fits(rows):
    """Ten steps by each guide of the tables, made when first asked for."""
    found = {}

    def fit(name):
        if name not in found:
            found[name] = br.fit(linear(), *rows, method=SVI({**NORMAL, **OTHERS}[name], num_steps=10, learning_rate=0.03))
        return found[name]

    return fit


def test_every_guide_that_pyro_has_is_in_a_table():
    names = {name for name in autoguide.__all__ if name.startswith("Auto")}
    assert names == {name for name in {**NORMAL, **OTHERS, **REFUSED} if name.startswith("Auto")}


# one of each kind: sites, lists, functions, structured ones, messengers
QUICK = ("AutoNormal", "AutoGuideList", "AutoCallable", "AutoStructured", "AutoNormalMessenger")


@pytest.mark.parametrize("name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in {**NORMAL, **OTHERS}])
def test_it_fits_and_predicts(name, fits, rows):
    post = fits(name)
    draws = post.sample(50)
    assert draws["weight"].shape == (50, 1, 3)
    assert bool((draws["noise_scale"] > 0).all())
    assert bool(torch.isfinite(post.predict(rows[0], num_samples=20).std).all())
    assert all(bool(torch.isfinite(value).all()) for value in post.mean.values())


@pytest.mark.parametrize(
    "name",
    [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in {**NORMAL, **OTHERS} if n != "by hand"],
)
def test_one_that_is_there_but_was_never_used_fits_too(name, rows):
    """Built on the unbound model, whose program would ask for data."""
    model = linear()
    given = {**NORMAL, **OTHERS}[name](model.pyro_model)
    parts = [m for m in given.modules() if isinstance(m, autoguide.AutoGuide)]
    before = [(m.model, m.prototype_trace, m.master) for m in parts]
    post = br.fit(model, *rows, method=SVI(given, num_steps=1, learning_rate=1e-6))
    assert [(m.model, m.prototype_trace, m.master) for m in parts] == before
    at = post.sample(200)["weight"].mean(0)  # it begins at the module's own weights
    assert bool(((at - model.weights()["weight"]).abs() < 0.1).all()) or name in ("AutoNormalizingFlow", "AutoIAFNormal")


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_a_posterior_is_refused_with_what_to_do(name, rows):
    with pytest.raises(ValueError, match=REFUSED[name]):
        br.fit(linear(), *rows, method=SVI(getattr(autoguide, name), num_steps=1))


def test_a_guide_by_hand_learns_its_statements(rows):
    """With correlations, it reaches the conjugate posterior."""
    model = linear(likelihoods.Gaussian(0.5))

    def guide(x, y=None, num_data=None):
        loc = pyro.param("loc", torch.zeros(4, dtype=torch.float64))
        root = pyro.param("root", 0.1 * torch.eye(4, dtype=torch.float64), constraint=dist.constraints.lower_cholesky)
        u = pyro.sample("u", dist.MultivariateNormal(loc, scale_tril=root), infer={"is_auxiliary": True})
        pyro.sample("weight", dist.Delta(u[..., None, :3], event_dim=2))
        pyro.sample("bias", dist.Delta(u[..., 3:], event_dim=1))

    post = br.fit(model, *rows, method=SVI(guide, num_steps=400, learning_rate=0.03, num_particles=4))
    exact = br.fit(model, *rows, method="exact")
    for name in exact.mean:
        assert bool(((post.mean[name] - exact.mean[name]).abs() < 0.15 * exact.std[name]).all())
        torch.testing.assert_close(post.std[name], exact.std[name], rtol=0.15, atol=0)
    assert post.history.notes[0].startswith("test_a_guide_by_hand")


@pytest.mark.parametrize("name", NORMAL)
def test_the_normal_is_that_of_its_draws(name, fits):
    """Log q of each draw, by Pyro's trace, is the density by our mean and factor; moments are those of draws."""
    post = fits(name)
    loc, factor = post.as_normal()
    draws = post.draw(4000, torch.Generator().manual_seed(1))
    wide = factor.diag() if factor.dim() == 1 else factor
    covariance, count = wide @ wide.mT, len(draws)
    sd = covariance.diagonal().sqrt()
    assert bool(((draws.mean(0) - loc).abs() <= 5 * sd / count**0.5 + 1e-12).all())
    error = 6 * sd[:, None] * sd / count**0.5
    assert bool(((draws.mT.cov() - covariance).abs() <= error + 1e-12).all())
    weighed = post.guide.weighed(5, torch.Generator().manual_seed(2))
    if bool((sd > 0).all()):
        expected = torch.distributions.MultivariateNormal(loc, covariance).log_prob(weighed[0])
        torch.testing.assert_close(weighed[1], expected, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(post.log_density(weighed[0]), expected, rtol=1e-6, atol=1e-6)
    else:
        assert weighed is None
        assert post.log_density(draws) is None


@pytest.mark.parametrize("name", NORMAL)
def test_its_prediction_is_in_closed_form(name, fits, rows):
    """Mean, variance, quantiles and log density of a linear network, beside those of many draws."""
    post = fits(name)
    closed = post.predict(rows[0][:5])
    drawn = post.predict(rows[0][:5], num_samples=20_000, predictive="draws")
    drawn = br.Predictive(drawn.likelihood, drawn.drawn) if drawn.function is not None else drawn
    assert closed.function is not None
    scale = drawn.std
    torch.testing.assert_close(closed.mean / scale, drawn.mean / scale, atol=0.03, rtol=0)
    torch.testing.assert_close(closed.std, drawn.std, rtol=0.03, atol=0)
    torch.testing.assert_close(closed.quantile(0.9) / scale, drawn.quantile(0.9) / scale, atol=0.05, rtol=0)
    torch.testing.assert_close(closed.log_prob(rows[1][:5]), drawn.log_prob(rows[1][:5]), atol=0.05, rtol=0)


def test_a_guide_that_is_not_normal_predicts_by_draws(fits, rows):
    post = fits("AutoNormalizingFlow")
    assert post.as_normal() is None
    assert post.predict(rows[0], num_samples=10).function is None
