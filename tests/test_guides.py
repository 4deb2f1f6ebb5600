"""Guides are Pyro guides: real sites, no shared store, and an ELBO that says what it cannot read."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.objective import LogJoint
from bayesreg.posteriors import DeltaGuide, FlatELBO, MeanFieldGuide
from tests.conftest import network


@pytest.fixture
def bound(standard_diabetes):
    X, y = standard_diabetes
    return br.BayesianModel(network(10, 3, 1, dtype=torch.float64)).bind(X[:50], y[:50]), X[:50], y[:50]


@pytest.fixture(autouse=True)
def _clean_store():
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


def guides(model):
    layout = LogJoint(model).layout
    start = torch.full((layout.size,), 0.1, dtype=torch.float64)
    return {"delta": DeltaGuide(layout, start), "mean-field": MeanFieldGuide(layout, start, start)}


@pytest.mark.parametrize("name", ["delta", "mean-field"])
def test_sites_are_the_model_s(bound, name):
    model, X, y = bound
    guide = guides(model)[name]
    with torch.random.fork_rng():
        trace = poutine.trace(guide).get_trace(X, y)
    sites = {k: site["value"] for k, site in trace.nodes.items() if site["type"] == "sample"}
    assert list(sites) == list(model.latents)
    assert all(sites[k].shape == latent.shape for k, latent in model.latents.items())
    assert float(sites["noise_scale"].detach()) > 0


def test_mean_field_has_real_normal_sites_and_a_closed_form_kl(bound):
    model = bound[0]
    guide = guides(model)["mean-field"]
    site = guide.site("0.weight")
    assert isinstance(site.base_dist, dist.Normal)
    prior = model.latents["0.weight"].prior.distribution((3, 10), dtype=torch.float64)
    kl = torch.distributions.kl_divergence(site, prior)
    own = model.latents["0.weight"].prior
    loc, scale = (part[guide.layout.segments["0.weight"].slice] for part in guide.moments())
    entropy = scale.log().sum() + 30 * 0.5 * torch.log(torch.tensor(2 * torch.pi * torch.e, dtype=torch.float64))
    ours = own.expected_energy(loc, scale).sum() - 30 * own.log_constant - entropy
    torch.testing.assert_close(ours, kl, rtol=1e-12, atol=1e-12)


def test_two_guides_never_share_parameters(bound):
    model, X, y = bound
    first, second = guides(model)["delta"], guides(model)["delta"]
    svi = pyro.infer.SVI(model.pyro_model, first, pyro.optim.Adam({"lr": 0.1}), loss=FlatELBO())
    for _ in range(5):
        svi.step(X, y)
    assert not first.loc.equal(second.loc)
    before = second.loc.detach().clone()
    FlatELBO().loss(model.pyro_model, second, X, y)
    assert second.loc.equal(before)
    assert len(pyro.get_param_store()) == 2


def test_a_fit_leaves_another_s_store_alone(bound):
    model, X, y = bound
    pyro.param("mine", torch.tensor(3.0))
    br.fit(model, X, y, method=br.inference.MeanField(num_steps=50))
    assert list(pyro.get_param_store().keys()) == ["mine"]


def test_losses_are_minus_the_log_joint_in_nats_over_all_rows(bound):
    model, X, y = bound
    guide = guides(model)["delta"]
    values = guide.layout.unflatten(guide.loc.detach())
    assert FlatELBO().loss(model.pyro_model, guide, X, y) == pytest.approx(-float(model.log_joint(values, X, y)))
    batch = FlatELBO().loss(model.pyro_model, guide, X[:10], y[:10], num_data=50)
    assert batch == pytest.approx(-float(model.log_joint(values, X[:10], y[:10], 50)))


def test_more_particles_have_less_noise(bound):
    model, X, y = bound
    guide = guides(model)["mean-field"]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        one, many = (
            torch.tensor([FlatELBO(number).loss(model.pyro_model, guide, X, y) for _ in range(200)]) for number in (1, 64)
        )
    assert float(many.std()) < 0.5 * float(one.std())
    assert abs(float(one.mean() - many.mean())) < 4 * float((one.var() / 200 + many.var() / 200).sqrt())


def test_what_it_cannot_read_is_refused(bound):
    model, X, y = bound
    guide = guides(model)["delta"]
    with pytest.raises(ValueError, match=r"FlatELBO needs model.pyro_model of a BayesianModel, .* take pyro.infer.Trace_ELBO"):
        FlatELBO().loss(lambda x, y: None, guide, X, y)
    with pytest.raises(ValueError, match=r"FlatELBO needs a guide of bayesreg.posteriors, but AutoDelta came"):
        FlatELBO().loss(model.pyro_model, pyro.infer.autoguide.AutoDelta(model.pyro_model), X, y)


@pytest.mark.slow
def test_pyro_s_nuts_takes_the_program(standard_diabetes):
    """A Pyro user can take the model anywhere: NUTS on the plain program meets the closed form."""
    X, y = standard_diabetes[0][:60, :2], standard_diabetes[1][:60]
    model = br.BayesianModel(network(2, 1, dtype=torch.float64), priors.Normal(0.5), likelihoods.Gaussian(0.7))
    exact = br.fit(model, X, y, method="exact")
    bound = model.bind(X, y)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        start = {k: v.detach().clone() for k, v in bound.start(*bound.prepare(X, y)).items()}
        kernel = pyro.infer.NUTS(bound.pyro_model, init_strategy=pyro.infer.autoguide.init_to_value(values=start))
        mcmc = pyro.infer.MCMC(kernel, num_samples=300, warmup_steps=100, disable_progbar=True)
        mcmc.run(torch.tensor(X), torch.tensor(y))
    draws = mcmc.get_samples()["0.weight"].reshape(300, 2)
    error = exact.std["0.weight"][0] / 10  # at least a hundred effective draws of the three hundred
    assert bool(((draws.mean(0) - exact.mean["0.weight"][0]).abs() < 4 * error).all())
