"""Mean-field VI meets the optimum that theory gives it on a linear-Gaussian model: exact mean, sd² = 1/diag(precision)."""

import numpy as np
import pytest
import torch
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.certificates import rise, with_collapse
from bayesreg.inference import MeanField
from bayesreg.objective import LogJoint
from bayesreg.posteriors import MeanFieldGuide
from bayesreg.solvers import Schedule
from tests.conftest import linear_model


@pytest.mark.slow
def test_reaches_the_mean_field_optimum(diabetes, exact):
    method = MeanField(num_steps=6000, num_particles=128, learning_rate=0.005)
    post = br.fit(linear_model(), *diabetes, method=method)
    loc, scale = post.guide.moments()
    assert float(((loc - exact.loc).abs() / exact.covariance.diagonal().sqrt()).max()) < 1e-2
    precision = torch.linalg.inv(exact.covariance)
    torch.testing.assert_close(scale.square() * precision.diagonal(), torch.ones_like(scale), rtol=0.02, atol=0)
    assert post.certificate.converged
    # ELBO = log evidence − KL(q ‖ p), the KL between two normals in closed form
    kl = 0.5 * float((precision.diagonal() / precision.diagonal()).sum() - len(loc)) + 0.5 * float(
        torch.logdet(exact.covariance) + precision.diagonal().log().sum()
    )
    details = post.certificate.details
    assert details["elbo"] == pytest.approx(exact.log_evidence - kl, abs=0.1 + 4 * details["Monte Carlo error"])


@pytest.mark.parametrize(
    ("prior", "particles"),
    [
        pytest.param(prior, count, marks=[] if count == soon else pytest.mark.slow, id=f"{prior}-{count}")
        for prior, soon in ((priors.Normal(0.5), None), (priors.Laplace(0.5), 4), (priors.HalfCauchy(0.5), 1))
        for count in (1, 4, 5)
    ],
)
def test_elbo_is_log_joint_plus_entropy_on_average(standard_diabetes, prior, particles):
    """The closed-form parts agree with plain Monte Carlo: E[log p(y, θ) + log |dθ/du|] + entropy."""
    X, y = standard_diabetes[0][:40], standard_diabetes[1][:40]
    model = br.BayesianModel(nn.Linear(10, 1).double(), {"weight": prior}).bind(X, y)
    log_joint = LogJoint(model)
    size = log_joint.layout.size
    generator = torch.Generator().manual_seed(0)
    loc = 0.3 * torch.randn(size, generator=generator, dtype=torch.float64)
    guide = MeanFieldGuide(log_joint.layout, loc, torch.full_like(loc, 0.2))
    x, t = model.prepare(X, y)
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(1)
        ours = torch.stack([guide.elbo(log_joint, x, t, 40, particles) for _ in range(500)])
    u = guide.draw(20_000, generator)
    entropy = float(size * (np.log(0.2) + 0.5 * np.log(2 * np.pi * np.e)))
    plain = torch.vmap(lambda v: log_joint.prepared(v, x, t, 40, jacobian=True), chunk_size=2000)(u) + entropy
    error = float((ours.var() / len(ours) + plain.var() / len(plain)).sqrt())
    assert abs(float(ours.mean() - plain.mean())) < 4 * error


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_defaults_reach_the_mean_field_optimum(diabetes, exact, seed):
    post = br.fit(linear_model(), *diabetes, method=MeanField(compile=False), seed=seed)
    loc, scale = post.guide.moments()
    assert float(((loc - exact.loc).abs() / exact.covariance.diagonal().sqrt()).max()) < 0.02
    precision = torch.linalg.inv(exact.covariance).diagonal()
    torch.testing.assert_close(scale.square() * precision, torch.ones_like(scale), rtol=0.02, atol=0)
    assert post.certificate.converged


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_kl_weighs_against_all_rows_not_a_batch(diabetes, seed):
    """A KL divided by the batch instead of N would shrink the posterior sd by √(N/B)."""
    X, y = diabetes
    full = br.fit(linear_model(), X, y, method=MeanField(num_steps=3000, num_particles=8), seed=seed)
    mini = br.fit(linear_model(), X, y, method=MeanField(num_steps=4000, num_particles=8, batch_size=64), seed=seed)
    ratio = mini.std["weight"] / full.std["weight"]
    assert float(ratio.min()) > 0.8
    assert float(ratio.max()) < 1.25


@pytest.mark.slow
def test_too_few_steps_are_not_called_converged(diabetes):
    assert not br.fit(linear_model(), *diabetes, method=MeanField(num_steps=50)).certificate.converged
    short = br.fit(linear_model(), *diabetes, method=MeanField(300, 2e-3, num_particles=8, initial_scale=0.03))
    assert "the ELBO still rose by" in str(short.certificate) or "would still gain" in str(short.certificate)
    for steps, rate in ((2000, 1e-5), (1000, 1e-4), (200, None)):
        assert not br.fit(linear_model(), *diabetes, method=MeanField(steps, rate, initial_scale=0.03)).certificate.converged


@pytest.mark.slow
def test_noise_is_log_normal_and_in_the_data_s_units(diabetes):
    X, y = diabetes
    model = br.BayesianModel(nn.Linear(10, 1).double(), priors.Normal(0.3), likelihoods.Gaussian(), standardize=True)
    post = br.fit(model, X, y, method=MeanField(num_steps=3000, num_particles=4))
    draws = post.sample(200_000, seed=0)["noise_scale"]
    assert float(draws.min()) > 0
    assert float(post.mean["noise_scale"]) == pytest.approx(
        float(draws.mean()), rel=4 * float(draws.std() / draws.mean()) / 447
    )
    assert float(post.std["noise_scale"]) == pytest.approx(float(draws.std()), rel=0.01)
    assert 50 < float(post.mean["noise_scale"]) < 60  # least squares: 54.15


def test_what_is_left_to_gain_is_said_whatever_the_trend():
    """A gradient that does not vanish is named before a rise, and its numbers stand in every verdict."""
    from bayesreg.certificates import maximal

    flat, rising = torch.zeros(1000), torch.linspace(0.0, 1e4, 1000)
    for elbos in (flat, rising):
        short = maximal(elbos, gain=5.0, gain_error=0.1, enough=0.5)
        assert "would still gain about 5 nats" in short.sentence
    for elbos, converged in ((flat, True), (rising, False)):
        found = maximal(elbos, gain=0.1, gain_error=0.1, enough=0.5)
        assert found.converged is converged
        assert found.details["nats to gain"] == 0.1
    assert "the ELBO still rose by" in found.sentence


def test_an_unknown_scale_is_climbed_by_adam_alone():
    """Natural-gradient steps estimate the curvature from single draws; under an unknown scale these have no bound."""
    model = br.BayesianModel(
        nn.Linear(3, 1).double(), priors={"weight": priors.Normal(priors.HalfCauchy(0.3), per="column", centered=False)}
    )
    for found, settled in ((model, False), (br.BayesianModel(nn.Linear(3, 1).double()), True)):
        X, y = torch.randn(20, 3, generator=torch.Generator().manual_seed(0)), torch.arange(20.0)
        bound, data = found.ingest(X, y)
        assert MeanField().settled(MeanField().climb(LogJoint(bound), data, None)) is settled
        assert type(MeanField(num_steps=50).climb(LogJoint(bound), data, None)) is Schedule


def idle(weights):
    """The certificate of layers 3-4-2-1 whose posterior is as near to the prior as a normal can be, but for some entries."""
    net = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2), nn.Tanh(), nn.Linear(2, 1)).double()
    rules = {"0.weight": priors.Normal(1.2), "2.weight": priors.StudentT(4.0), "4.weight": priors.Laplace(0.957)}
    model = br.BayesianModel(net, {**rules, "*.bias": priors.Normal(1.0)}).bind(
        torch.zeros(5, 3).double(), torch.arange(5.0).double()
    )
    log_joint = LogJoint(model)
    loc, scale = torch.zeros(log_joint.layout.size).double(), torch.full((log_joint.layout.size,), 1.2).double()
    for name, where in weights:
        segment = log_joint.layout.segments[name]
        for part, value in ((loc, 3.0), (scale, 0.1)):
            part[segment.slice].view(segment.latent.shape)[where] = value
    return with_collapse(rise(torch.zeros(1000)), log_joint, loc, scale)


@pytest.mark.parametrize(
    ("weights", "units"),
    [
        ([], 6),
        ([("0.weight", (1, 2))], 6),  # the unit has no way out
        ([("0.weight", (1, 2)), ("2.weight", (0, 1))], 5),  # its own layer is met, the next one's unit has no way out
        ([("0.weight", (1, 2)), ("2.weight", (0, 1)), ("4.weight", (0, 0))], 4),
        ([("0.weight", (slice(None), 0)), ("2.weight", (slice(None), slice(None))), ("4.weight", (0, slice(None)))], 0),
    ],
)
def test_a_hidden_unit_is_idle_where_nothing_is_known_before_or_behind_it(weights, units):
    found = idle(weights).elbo
    assert (found.idle_units, found.units) == (units, 6)
