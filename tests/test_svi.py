"""SVI: a guide of Pyro's becomes a posterior, by the same ELBO, without Pyro's store, and what was passed stays as it was."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import autoguide
from pyro.nn import PyroModule, PyroParam
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.inference import SVI
from bayesreg.objective import LogJoint

pytestmark = pytest.mark.filterwarnings("ignore::bayesreg.ConvergenceWarning")
GUIDES = {
    "low rank": None,
    "normal": autoguide.AutoNormal,
    "diagonal": autoguide.AutoDiagonalNormal,
    "full": autoguide.AutoMultivariateNormal,
    "flow": lambda program: autoguide.AutoIAFNormal(program, hidden_dim=[8], num_transforms=2),
    "point": autoguide.AutoDelta,
}
# one of ours, one of independent normals, one that is none: the others take the same way
SOON = [pytest.param(n, marks=[] if n in ("low rank", "normal", "flow") else pytest.mark.slow) for n in GUIDES]


@pytest.fixture(autouse=True)
def _clean_store():
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


def rows(seed=0, count=30):
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return 2 + X, 10 + 5 * (X.sum(1) + 0.3 * torch.randn(count, generator=generator, dtype=torch.float64))


def linear(noise=0.5):
    known = None if noise is None else likelihoods.Gaussian(noise)
    return br.BayesianModel(nn.Linear(3, 1).double(), priors.Normal(1.0), known, standardize=True)


@pytest.mark.parametrize("name", SOON)
def test_any_autoguide_fits_predicts_and_is_saved(name, tmp_path):
    X, y = rows()
    post = br.fit(linear(None), X, y, method=SVI(GUIDES[name], num_steps=30))
    assert isinstance(post.guide.module, nn.Module)
    assert bool(torch.isfinite(post.predict(X, num_samples=20).std).all())
    assert float(post.mean["noise_scale"]) > 0
    assert (float(post.std["weight"].sum()) == 0) is (name == "point")
    assert len(pyro.get_param_store()) == 0
    br.save(post, tmp_path / "post.pt")
    again = br.load(tmp_path / "post.pt")
    assert all(a.equal(b) for a, b in zip(again.sample(3).values(), post.sample(3).values(), strict=True))
    with torch.random.fork_rng():
        drawn = pyro.infer.Predictive(post.model.pyro_model, guide=post.guide, num_samples=2)(X)
    assert drawn["y"].shape == (2, len(X))


@pytest.mark.parametrize("name", SOON)
def test_the_elbo_is_pyro_s(name):
    X, y = rows()
    post = br.fit(linear(None), X, y, method=SVI(GUIDES[name], num_steps=5, learning_rate=1e-3))
    model, log_joint = post.model, LogJoint(post.model)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        loss = pyro.infer.Trace_ELBO()
        theirs = torch.tensor([-loss.loss(model.pyro_model, post.guide, X, y) for _ in range(40)])
        one = lambda: post.guide.elbo(log_joint, *model.prepare(X, y), len(X), 1)  # noqa: E731
        ours = torch.stack([one() for _ in range(100)]) + len(X) * model.log_jacobian
    error = float((theirs.var() / 40 + ours.var() / 100).sqrt())
    assert abs(float(theirs.mean() - ours.mean())) < 4 * error + 1e-4


def test_log_q_of_its_draws_is_the_density_of_the_vector():
    X, y = rows()
    post = br.fit(linear(None), X, y, method=SVI(autoguide.AutoDiagonalNormal, num_steps=20))
    draws, log_q = post.guide.weighed(5, torch.Generator().manual_seed(3))
    module = post.guide.module
    values = torch.vmap(post.layout.unflatten)(draws)
    order = [values[name].reshape(5, -1) for name in post.model.latents]  # Pyro's vector has the program's order
    vector = torch.cat([v.log() if name == "noise_scale" else v for name, v in zip(post.model.latents, order, strict=True)], 1)
    expected = dist.Normal(module.loc, module.scale).log_prob(vector).sum(1).detach()
    torch.testing.assert_close(log_q, expected)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_a_full_normal_of_pyro_s_finds_the_conjugate_posterior(seed):
    X, y = rows(seed)
    method = SVI(autoguide.AutoMultivariateNormal, num_steps=800, learning_rate=0.03, num_particles=4)
    post = br.fit(linear(), X, y, method=method, seed=seed)
    exact = br.fit(linear(), X, y, method="exact")
    assert post.certificate.converged
    assert post.certificate.importance.reliable
    assert post.certificate.importance.log_evidence == pytest.approx(exact.log_evidence, abs=0.02)
    for name in exact.mean:
        assert bool(((post.mean[name] - exact.mean[name]).abs() < 0.15 * exact.std[name]).all())
        torch.testing.assert_close(post.std[name], exact.std[name], rtol=0.15, atol=0)


def test_a_fit_that_is_on_its_way_is_not_called_converged():
    X, y = rows()
    found = br.fit(linear(), X, y, method=SVI(autoguide.AutoNormal, num_steps=150, learning_rate=3e-3)).certificate
    assert not found.converged
    assert found.nats_left > 1


def test_a_guide_that_is_there_already_is_copied_and_goes_on_from_its_parameters():
    X, y = rows()
    model = linear()
    fresh = autoguide.AutoNormal(model.pyro_model, init_scale=0.02)
    br.fit(model, X, y, method=SVI(fresh, num_steps=10))
    assert fresh.prototype_trace is None
    assert fresh.model is not None
    assert not list(fresh.parameters())

    bound = model.bind(X, y)
    used = autoguide.AutoNormal(bound.pyro_model)
    with torch.random.fork_rng():
        used(X, y)
    with torch.no_grad():
        used.locs.weight.fill_(7.0)
    pyro.clear_param_store()
    post = br.fit(model, X, y, method=SVI(used, num_steps=1, learning_rate=1e-6))
    torch.testing.assert_close(post.mean["weight"], torch.full((1, 3), 7.0, dtype=torch.float64), atol=0.01, rtol=0)
    assert bool((used.locs.weight == 7.0).all())


class Own(PyroModule):
    """A guide of one's own, whose draws cannot be made at once."""

    def __init__(self):
        super().__init__()
        self.loc = PyroParam(torch.zeros(1, 3, dtype=torch.float64))
        self.scale = PyroParam(torch.ones(1, 3, dtype=torch.float64), dist.constraints.positive)

    def forward(self, x=None, y=None, num_data=None):
        loc = self.loc.reshape(1, 3)
        weight = pyro.sample("weight", dist.Normal(loc, self.scale).to_event(2))
        assert weight.shape == (1, 3)  # as a person's code may insist
        pyro.sample("bias", dist.Delta(weight.sum(1), event_dim=1))


def test_a_guide_of_one_s_own():
    X, y = rows()
    given = Own()
    post = br.fit(linear(), X, y, method=SVI(given, num_steps=400, learning_rate=0.03))
    assert bool((given.loc == 0).all())
    draws = post.sample(10)
    torch.testing.assert_close(draws["bias"], draws["weight"].sum(2))
    with pytest.raises(ValueError, match=r"a saved guide must be one of AutoDelta, .*, but Own came; keep the posterior"):
        br.save(post, "nowhere.pt")


def test_what_is_no_guide_of_the_model_is_refused():
    X, y = rows()
    with pytest.raises(ValueError, match=r"guide must be a guide of Pyro's, or a class or function that makes one, but 3 came"):
        SVI(3)
    with pytest.raises(ValueError, match=r"a guide must be a Pyro module, .*, but int came; pass for example"):
        br.fit(linear(), X, y, method=SVI(lambda program: 3))
    with pytest.raises(ValueError, match=r"a guide must draw the model's sites, .*'noise_scale': \(\)}, but .* came"):
        br.fit(linear(None), X, y, method=SVI(Own()))
    hyper = br.BayesianModel(nn.Linear(3, 1).double(), {"weight": priors.Normal(priors.HalfNormal(1.0))})
    with pytest.raises(ValueError, match=r"AutoNormal raised .*; it holds a parameter by each site's name, and weight begins"):
        br.fit(hyper, X, y, method=SVI(autoguide.AutoNormal))
    assert "weight.scale" in br.fit(hyper, X, y, method=SVI(autoguide.AutoDiagonalNormal, num_steps=10)).mean


def test_two_posteriors_of_one_class_do_not_meet():
    """Pyro's store would hold both under one name."""
    X, y = rows()
    one, other = (br.fit(linear(), X, y, method=SVI(autoguide.AutoNormal, num_steps=50), seed=seed) for seed in (0, 1))
    before = one.sample(3)["weight"]
    other.predict(X, num_samples=5)
    assert one.sample(3)["weight"].equal(before)
    assert not other.sample(3)["weight"].equal(before)
