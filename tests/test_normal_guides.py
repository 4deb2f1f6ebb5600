"""FullRank, LowRank and their guides: closed forms against Pyro's, gradients against autograd, fits against Exact."""

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.inference import FullRank, LowRank, pairs_by_copy
from bayesreg.objective import LogJoint, TrainingCopy
from bayesreg.posteriors import FullRankGuide, LowRankGuide, nearest
from tests.conftest import linear_model

KINDS = ["full", "low"]
RULES = {"0.weight": priors.StudentT(4.0, 1.0), "*.weight": priors.Normal(1.0), "*.bias": priors.Normal(1.0)}


@pytest.fixture(autouse=True)
def _clean_store():
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


def rows(seed=0, count=30, inputs=3):
    generator = torch.Generator().manual_seed(seed)
    X = torch.randn(count, inputs, generator=generator, dtype=torch.float64)
    return X, X[:, 0].sin() + 0.5 * torch.randn(count, generator=generator, dtype=torch.float64)


def bound(rules=RULES, seed=0):
    net = nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1)).double()
    return br.BayesianModel(net, rules, standardize=True).ingest(*rows(seed))


def guide_of(kind, layout, seed=0, size=0.2):
    """A guide off its start, of small standard deviations."""
    generator = torch.Generator().manual_seed(seed)
    P = layout.size
    normal = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    if kind == "full":
        factor = size * (torch.eye(P, dtype=torch.float64) + 0.3 * normal(P, P).tril(-1))
        guide = FullRankGuide(layout, 0.3 * normal(P), factor)
        moved = 0.1 * torch.cat([normal(P), normal(P, P).tril().reshape(-1)])
    else:
        guide = LowRankGuide(layout, 0.3 * normal(P), size * (0.5 + normal(P).abs()), size * normal(P, 3))
        moved = 0.1 * normal(len(guide.phi))
    with torch.no_grad():
        guide.phi.add_(moved)
    return guide


def normal_of(guide):
    loc, factor = guide.as_normal()
    return torch.distributions.MultivariateNormal(loc, factor @ factor.mT)


@pytest.mark.parametrize("kind", KINDS)
def test_density_entropy_marginals_and_draws_are_those_of_one_normal(kind):
    model, _ = bound()
    guide = guide_of(kind, LogJoint(model).layout)
    reference = normal_of(guide)
    u = reference.sample((4,))
    torch.testing.assert_close(guide.log_density(u), reference.log_prob(u))
    torch.testing.assert_close(guide.log_density(u[0]), reference.log_prob(u[0]))
    torch.testing.assert_close(guide.entropy_at(guide.phi).detach(), reference.entropy())
    mean, sd = guide.moments()
    torch.testing.assert_close(mean, reference.mean)
    torch.testing.assert_close(sd, reference.variance.sqrt())
    own = guide.distribution()
    torch.testing.assert_close(own.covariance_matrix.detach(), reference.covariance_matrix)
    torch.testing.assert_close(own.mean.detach(), reference.mean)
    drawn, log_q = guide.drawn(torch.randn(5, guide.noise_size, dtype=torch.float64))
    torch.testing.assert_close(log_q, reference.log_prob(drawn))
    many = guide.draw(40_000, torch.Generator().manual_seed(1))
    torch.testing.assert_close(torch.cov(many.mT), reference.covariance_matrix, atol=0.02 * float(sd.max()) ** 2, rtol=0.1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("linked", [False, True])
def test_its_program_has_the_model_s_sites_and_the_density_of_the_unknowns(kind, linked):
    """Positive unknowns and non-centred ones bring their Jacobian."""
    rules = {**RULES, "2.weight": priors.Normal(priors.HalfNormal(1.0))} if linked else RULES
    model, _ = bound(rules)
    layout = LogJoint(model).layout
    guide = guide_of(kind, layout)
    with torch.random.fork_rng():
        trace = poutine.trace(guide).get_trace(*rows())
    sites = {name: node["value"] for name, node in trace.nodes.items() if node["type"] == "sample"}
    u = sites.pop("_unconstrained")
    assert list(sites) == list(model.latents)
    torch.testing.assert_close(layout.flatten(sites), u)
    expected = guide.log_density(u) - layout.log_jacobian(u)
    torch.testing.assert_close(trace.log_prob_sum(), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_pyro_evaluates_its_elbo_and_predicts_with_it(kind):
    X, y = rows()
    model = br.BayesianModel(nn.Linear(3, 1).double(), priors.Normal(0.5), likelihoods.Gaussian(0.7)).bind(X, y)
    log_joint = LogJoint(model)
    guide = guide_of(kind, log_joint.layout)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        theirs = torch.tensor([-pyro.infer.Trace_ELBO().loss(model.pyro_model, guide, X, y) for _ in range(100)])
        ours = torch.stack([guide.elbo(log_joint, *model.prepare(X, y), len(X), 1) for _ in range(100)])
        drawn = pyro.infer.Predictive(model.pyro_model, guide=guide, num_samples=3)(X)
    error = float((theirs.var() / 100 + ours.var() / 100).sqrt())
    assert abs(float(theirs.mean() - ours.mean())) < 4 * error
    assert drawn["y"].shape == (3, len(X))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("num_particles", [1, 2, 3])
def test_the_step_s_gradient_is_autograd_s(kind, num_particles):
    model, data = bound()
    log_joint = LogJoint(model)
    guide = guide_of(kind, log_joint.layout)
    guide.phi.grad = torch.zeros_like(guide.phi)
    x, y = data.full("a test")
    copy = TrainingCopy(log_joint, guide.moments()[0], len(x), noise=False)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        loss = pairs_by_copy(guide, copy, log_joint, x, y, num_particles)
        torch.manual_seed(3)
        expected = -guide.elbo(log_joint, x, y, len(x), num_particles) / len(x)
    (gradient,) = torch.autograd.grad(expected, guide.phi)
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(guide.phi.grad, gradient)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_the_elbo_with_its_entropy_in_closed_form(kind):
    """The score that is left out has mean zero."""
    model, data = bound()
    log_joint = LogJoint(model)
    guide = guide_of(kind, log_joint.layout, size=0.05)
    x, y = data.full("a test")
    noise = torch.randn(20_000, guide.noise_size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ours = torch.autograd.grad(guide.elbo_at(guide.phi, noise, log_joint, x, y, len(x)), guide.phi)[0]
    draws = guide.draws_at(guide.phi, torch.cat([noise[:10_000], -noise[:10_000]]))
    joint = torch.vmap(lambda u: log_joint.prepared(u, x, y, len(x), jacobian=True))(draws).mean()
    plain = torch.autograd.grad(joint + guide.entropy_at(guide.phi), guide.phi)[0]
    away = guide.whitened((ours - plain)[None])[0]
    assert float(away.square().mean().sqrt()) < 0.02  # each entry's Monte Carlo error is 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_whitened_gradients_are_those_of_the_fisher_information(kind):
    """gᵀF⁻¹g of any attainable gradient g = F v; for a low rank a bound from below."""
    model, _ = bound({"*": priors.Normal(1.0)})
    guide = guide_of(kind, LogJoint(model).layout)
    loc, covariance = normal_of(guide).mean, normal_of(guide).covariance_matrix

    def divergence(phi):
        identity = torch.eye(guide.noise_size, dtype=torch.float64)
        mean = guide.draws_at(phi, identity[0] * 0)
        factor = guide.draws_at(phi, identity) - mean
        moved = torch.distributions.MultivariateNormal(mean, factor.mT @ factor)
        return torch.distributions.kl_divergence(torch.distributions.MultivariateNormal(loc, covariance), moved)

    fisher = torch.autograd.functional.hessian(divergence, guide.phi.detach())
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        direction = torch.randn(len(guide.phi), generator=generator, dtype=torch.float64)
        gradient = fisher @ direction
        gained, ours = float(direction @ gradient), float(guide.whitened(gradient[None]).square().sum())
        if kind == "full":
            assert ours == pytest.approx(gained, rel=1e-6)
        else:
            assert 0.2 * gained < ours < gained


@pytest.mark.parametrize("rank", [1, 2, 8])
def test_the_nearest_normal_of_a_rank_is_stationary(rank):
    """No small change of it lowers KL(N(0, S) ‖ N(0, Σ))."""
    generator = torch.Generator().manual_seed(rank)
    half = torch.randn(8, 8, generator=generator, dtype=torch.float64)
    sigma = half @ half.mT + 0.5 * torch.eye(8, dtype=torch.float64)
    own, directions = nearest(sigma, rank, num_rounds=400)
    own, directions = own.log().requires_grad_(), directions.requires_grad_()
    s = (2 * own).exp().diag() + directions @ directions.mT
    kl = 0.5 * (torch.linalg.solve(sigma, s).trace() - torch.logdet(s) + torch.logdet(sigma) - 8)
    slopes = torch.autograd.grad(kl, (own, directions))
    assert max(float(slope.abs().max()) for slope in slopes) < 1e-3
    assert float(kl.detach()) < (1e-9 if rank == 8 else 10)


METHODS = {"full": lambda: FullRank(num_steps=300), "low": lambda: LowRank(rank=40, num_steps=300)}


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_posterior_of_a_linear_model_of_two_outputs(kind, seed):
    X, _ = rows(seed, 40)
    X = X @ (torch.eye(3, dtype=torch.float64) + 0.6)  # correlated inputs
    y = X @ torch.tensor([[1.0, 0.0], [0.5, -1.0], [0.0, 2.0]], dtype=torch.float64) + 0.3
    model = br.BayesianModel(nn.Linear(3, 2).double(), priors.Normal(1.0), likelihoods.Gaussian(0.5), standardize=True)
    post, exact = (br.fit(model, X, y, method=m, seed=seed) for m in (METHODS[kind](), "exact"))
    assert post.certificate.converged
    for name in exact.mean:
        assert bool(((post.mean[name] - exact.mean[name]).abs() < 0.01 * exact.std[name]).all())
        torch.testing.assert_close(post.std[name], exact.std[name], rtol=0.01, atol=0)
    factor = post.as_normal()[1]
    reference = exact.as_normal()[1]
    scale = reference.norm(dim=1)
    away = (factor @ factor.mT - reference @ reference.mT) / scale[:, None] / scale
    assert float(away.abs().max()) < 0.01
    bound, data = model.ingest(X, y)
    log_joint = LogJoint(bound)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        elbo = post.guide.elbo(log_joint, *data.full("a test"), len(X), 200) + len(X) * bound.log_jacobian
    assert float(elbo) == pytest.approx(exact.log_evidence, abs=1e-3)
    ours, theirs = post.predict(X[:5]), exact.predict(X[:5])
    torch.testing.assert_close(ours.mean, theirs.mean, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(ours.std, theirs.std, atol=0, rtol=0.01)
    torch.testing.assert_close(ours.log_prob(y[:5]), theirs.log_prob(y[:5]), atol=0.02, rtol=0)


@pytest.mark.parametrize("kind", ["full", pytest.param("low", marks=pytest.mark.slow)])
def test_its_draws_cover_a_posterior_that_is_nearly_normal(kind):
    X, y = rows(count=60)
    model = br.BayesianModel(nn.Linear(3, 1).double(), priors.Normal(1.0), standardize=True)
    method = FullRank(num_steps=1000) if kind == "full" else LowRank(rank=2, num_steps=1000)
    found = br.fit(model, X, y, method=method).certificate
    assert found.converged
    assert found.importance.reliable
    laplace = br.fit(model, X, y, method="laplace")
    assert found.importance.log_evidence == pytest.approx(laplace.log_evidence, abs=0.3)


def test_a_low_rank_bounds_the_evidence_from_below_and_more_so_the_lower_it_is(standard_diabetes):
    X, y = standard_diabetes
    model = linear_model()
    exact = br.fit(model, X, y, method="exact").log_evidence
    elbos = [
        np.mean(br.fit(model, X, y, method=LowRank(rank=rank, num_steps=200)).history.objective[-5:]) for rank in (1, 3, 11)
    ]
    assert elbos[0] < elbos[1] < elbos[2] < exact + 1e-3
    assert elbos[2] > exact - 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_one_draws_the_same(kind, tmp_path):
    X, y = rows()
    model = br.BayesianModel(nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 1)), RULES)
    post = br.fit(model, X.float(), y.float(), method=FullRank(num_steps=20) if kind == "full" else LowRank(4, num_steps=20))
    br.save(post, tmp_path / "post.pt")
    again = br.load(tmp_path / "post.pt")
    assert type(again.guide) is type(post.guide)
    assert again.sample(3)["0.weight"].equal(post.sample(3)["0.weight"])


def test_without_a_laplace_approximation_it_starts_from_the_module_s_weights():
    X, y = rows()
    model = br.BayesianModel(nn.Linear(3, 1).double(), {"weight": priors.Horseshoe(0.1), "bias": priors.Normal(1.0)})
    for method in (FullRank(num_steps=30), LowRank(2, num_steps=30)):
        with pytest.warns(br.ConvergenceWarning):
            notes = br.fit(model, X, y, method=method).history.notes
        assert any(note.startswith("no Laplace approximation to start from:") for note in notes)


def test_too_many_unknowns_are_refused_and_another_method_named():
    model = br.BayesianModel(nn.Linear(3, 1), priors.Normal(1.0))
    with pytest.raises(ValueError, match=r"FullRank takes at most max_parameters=4 .* has 5, .*; take LowRank or MeanField"):
        br.fit(model, *rows(), method=FullRank(max_parameters=4))
    with pytest.raises(ValueError, match="rank must be a whole number >= 1"):
        LowRank(rank=0)
