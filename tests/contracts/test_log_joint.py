"""One model, two evaluations: the flat log-joint is the log-probability sum of the Pyro program's trace, for every pair."""

import contextlib
import math

import pyro
import pytest
import torch
from pyro import poutine
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg._catalog import concrete
from bayesreg.likelihoods import AbstractLikelihood
from bayesreg.objective import LogJoint
from bayesreg.priors import AbstractPrior, ends
from tests.conftest import network

N, B, D, K = 50, 20, 4, 3
LIKELIHOODS = [cls() for cls in concrete(AbstractLikelihood)]
# the log-joint is a prior's part and a likelihood's: each prior beside Gaussian and each likelihood beside Normal find what is
# wrong with either, and Gaussian's noise is the one that a prior may be relative to; the other pairs are in the slow suite
EVERY_PAIR = [
    pytest.param(
        prior,
        likelihood,
        id=f"{prior}-{likelihood}",
        marks=[] if type(likelihood) is likelihoods.Gaussian or type(prior) is priors.Normal else pytest.mark.slow,
    )
    for likelihood in LIKELIHOODS
    for prior in (cls() for cls in concrete(AbstractPrior))
]
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def fitting(prior):
    """Inputs and units of a first layer on which the prior can stand."""
    for inputs, units in ((D, 5), (2, 5), (2, 1)):
        with contextlib.suppress(ValueError):
            prior.resolve((units, inputs))
            return inputs, units
    raise AssertionError(prior)


def build(prior, likelihood, dtype, standardize, columns=1, **options):
    generator = torch.Generator().manual_seed(1)
    inputs, units = fitting(prior)
    X = 3 * torch.randn(N, inputs, generator=generator, dtype=torch.float64) + 10
    columns = 2 if isinstance(likelihood, likelihoods.GaussianPerOutput) else columns
    numbers = torch.randn(N, columns, generator=generator, dtype=torch.float64)
    y = {
        "regression": numbers.exp() if likelihood.log_link else 5 * numbers + 40,
        "counts": (numbers + 1).exp().round(),
        "binary": torch.arange(N).remainder(2),
        "multiclass": torch.arange(N).remainder(K),
    }[likelihood.kind]
    width = likelihood.num_outputs(K) if likelihood.labels else columns * likelihood.outputs_per_target
    rules = {"0.weight": prior, "*.bias": priors.Normal(2.0)}
    model = br.BayesianModel(network(inputs, units, width, dtype=dtype), rules, likelihood, standardize, **options).bind(X, y)
    return model, X, y


def values_of(model, seed=2):
    """A point inside every support."""
    generator = torch.Generator().manual_seed(seed)
    values = {}
    for name, latent in model.latents.items():
        value = torch.randn(latent.shape, generator=generator, dtype=torch.float64)
        low, high = ends(latent.prior.support)
        value = value if low == -math.inf else value.abs() + 0.1 if high == math.inf else low + (high - low) * value.sigmoid()
        values[name] = value.to(model.like.dtype)
    return values


def trace_sum(model, values, *data):
    return poutine.trace(poutine.condition(model.pyro_model, data=values)).get_trace(*data).log_prob_sum()


@pytest.mark.parametrize(
    ("dtype", "standardize"),
    [
        pytest.param(dtype, standardize, marks=[] if (dtype == torch.float64) is standardize else pytest.mark.slow)
        for dtype in (torch.float32, torch.float64)
        for standardize in (False, True)
    ],
)
@pytest.mark.parametrize(("prior", "likelihood"), EVERY_PAIR, ids=str)
def test_log_joint_is_the_trace_s(prior, likelihood, dtype, standardize):
    model, X, y = build(prior, likelihood, dtype, standardize)
    values = values_of(model)
    log_joint = LogJoint(model)
    u = log_joint.layout.flatten(values)
    for rows in (slice(None), slice(B)):  # the whole set, and a batch that counts N/B times
        expected = trace_sum(model, values, X[rows], y[rows])
        tolerance = TOLERANCE[dtype]
        torch.testing.assert_close(log_joint(u, X[rows], y[rows]), expected, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(model.log_joint(values, X[rows], y[rows]), expected, rtol=tolerance, atol=tolerance)


def test_batches_sum_to_the_whole():
    model, X, y = build(priors.Normal(0.5), likelihoods.Gaussian(), torch.float64, True)
    u = LogJoint(model).layout.flatten(values_of(model))
    log_joint = LogJoint(model)
    prior = log_joint.log_prior(u)
    parts = [log_joint(u, X[i : i + 10], y[i : i + 10]) - prior for i in range(0, N, 10)]
    torch.testing.assert_close(sum(parts) / 5 + prior, log_joint(u, X, y), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("likelihood", [likelihoods.Gaussian(), likelihoods.Gaussian("heteroscedastic")], ids=str)
def test_several_outputs_and_their_jacobian(likelihood):
    model, X, y = build(priors.Laplace(0.5), likelihood, torch.float64, True, columns=2)
    values = values_of(model)
    log_joint = LogJoint(model)
    u = log_joint.layout.flatten(values)
    torch.testing.assert_close(log_joint(u, X, y), trace_sum(model, values, X, y), rtol=1e-10, atol=1e-10)


def test_a_density_carries_its_jacobian():
    """The standardised model's log-likelihood is the density of y itself: it integrates to one over y."""
    X = torch.linspace(0, 9, 10, dtype=torch.float64)[:, None]
    y = 30 + 7 * torch.sin(X[:, 0])
    model = br.BayesianModel(nn.Linear(1, 1).double(), likelihood=likelihoods.Gaussian(0.4), standardize=True).bind(X, y)
    values = values_of(model)
    grid = torch.linspace(-300, 300, 4001, dtype=torch.float64)
    density = torch.stack([model.log_likelihood(values, X[:1], v[None], num_data=1) for v in grid]).exp()
    assert float(torch.trapezoid(density, grid)) == pytest.approx(1, abs=1e-9)


def test_unconstrained_density_has_its_jacobian():
    """exp(LogJoint(u, jacobian=True)) integrates over u to what exp(LogJoint) integrates to over the noise scale."""
    X, y = torch.zeros(3, 1, dtype=torch.float64), torch.tensor([0.3, -1.0, 0.7], dtype=torch.float64)
    net = nn.Linear(1, 1).double().requires_grad_(False)
    model = br.BayesianModel(net, likelihood=likelihoods.Gaussian(priors.HalfCauchy(2.0))).bind(X, y)
    log_joint = LogJoint(model)
    u = torch.linspace(-8, 8, 40_001, dtype=torch.float64)
    over_u = torch.vmap(lambda v: log_joint(v[None], X, y, jacobian=True))(u)
    scale = torch.linspace(1e-6, 400, 4_000_001, dtype=torch.float64)
    over_scale = torch.vmap(lambda s: log_joint(s.log()[None], X, y), chunk_size=500_000)(scale)
    assert float(torch.trapezoid(over_u.exp(), u)) == pytest.approx(float(torch.trapezoid(over_scale.exp(), scale)), rel=1e-5)


def test_is_a_pure_function_that_can_be_vmapped_and_differentiated_twice():
    model, X, y = build(priors.Normal(0.5), likelihoods.Gaussian(), torch.float64, True)
    log_joint = LogJoint(model)
    us = torch.stack([log_joint.layout.flatten(values_of(model, seed)) for seed in range(4)])
    together = torch.vmap(lambda u: log_joint.prepared(u, *model.prepare(X, y), N))(us)
    alone = torch.stack([log_joint.prepared(u, *model.prepare(X, y), N) for u in us])
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-12)
    assert torch.func.hessian(lambda u: log_joint.prepared(u, *model.prepare(X, y), N))(us[0]).isfinite().all()


def test_pyro_takes_the_model_anywhere():
    """Prior draws, Pyro's own Predictive and a subsampled plate work on the plain program."""
    model, X, y = build(priors.Normal(0.5), likelihoods.Gaussian(), torch.float64, True)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        draws = pyro.infer.Predictive(model.pyro_model, num_samples=5)(X[:7])
    assert draws["y"].shape == (5, 7)
    assert draws["0.weight"].shape[-2:] == (5, D)
    plate = poutine.trace(model.pyro_model).get_trace(X[:B], y[:B]).nodes["y"]
    assert plate["scale"] == N / B


def beside(model, values, *data):
    """One trace of several draws, each site with an axis for them and one for the plate: the axes of vectorised particles."""
    count = len(next(iter(values.values())))
    conditioned = poutine.condition(model.pyro_model, data={k: v[:, None] for k, v in values.items()})
    with pyro.plate("draws", count, dim=-2):
        return poutine.trace(conditioned).get_trace(*data)


PAIRS = [(cls(), LIKELIHOODS[0]) for cls in concrete(AbstractPrior)] + [
    (prior, likelihood)
    for likelihood in LIKELIHOODS
    for prior in (
        priors.Normal(priors.HalfCauchy(priors.HalfNormal(1.0)), per="column"),
        priors.Laplace(priors.HalfNormal(1.0), centered=False),
    )
]


@pytest.mark.parametrize(("prior", "likelihood"), PAIRS, ids=str)
def test_draws_side_by_side_are_each_alone(prior, likelihood):
    """The program with many draws at once: the sum of their log-joints, and for stored draws each row's own density."""
    model, X, y = build(prior, likelihood, torch.float64, True)
    each = [values_of(model, seed) for seed in range(3)]
    values = {name: torch.stack([one[name] for one in each]) for name in each[0]}
    for rows in (slice(None), slice(B)):
        expected = sum(trace_sum(model, one, X[rows], y[rows]) for one in each)
        together = beside(model, values, X[rows], y[rows]).log_prob_sum()
        torch.testing.assert_close(together, expected, rtol=1e-10, atol=1e-10)
    if not all(latent.prior.proper for latent in model.latents.values()):
        return  # Pyro's Predictive draws from the prior, to see the sites
    stored = pyro.infer.Predictive(model.pyro_model, values).get_vectorized_trace(X, y).nodes["y"]
    alone = [model.log_likelihood(one, X[:1], y[:1], num_data=1) for one in each]
    torch.testing.assert_close(stored["fn"].log_prob(stored["value"])[:, 0], torch.stack(alone), rtol=1e-10, atol=1e-10)


def test_draws_side_by_side_of_several_outputs_and_activations():
    model, X, y = build(priors.Normal(0.5), likelihoods.Gaussian(), torch.float64, True, 2, outputs={"0": priors.Laplace(0.7)})
    each = [values_of(model, seed) for seed in range(3)]
    values = {name: torch.stack([one[name] for one in each]) for name in each[0]}
    expected = sum(trace_sum(model, one, X, y) for one in each)
    torch.testing.assert_close(beside(model, values, X, y).log_prob_sum(), expected, rtol=1e-10, atol=1e-10)
    drawn = pyro.infer.Predictive(model.pyro_model, values, parallel=True)(X[:7])["y"]
    assert drawn.shape == (3, 7, 2)


@pytest.mark.parametrize("likelihood", LIKELIHOODS, ids=str)
def test_parallel_draws_are_the_sequential_ones_in_law(likelihood):
    """Under known weights: the means of y by Pyro's parallel and by its sequential prediction agree, draw by draw."""
    model, X, _ = build(priors.Normal(priors.HalfNormal(1.0)), likelihood, torch.float64, True)
    each = [values_of(model, seed) for seed in range(2)]
    values = {name: torch.stack([one[name] for one in each]).repeat_interleave(50, 0) for name in each[0]}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = pyro.infer.Predictive(model.pyro_model, values, parallel=True)(X[:5])["y"].double().unflatten(0, (2, 50))
        again = pyro.infer.Predictive(model.pyro_model, values)(X[:5])["y"].double().unflatten(0, (2, 50))
        fresh = pyro.infer.Predictive(model.pyro_model, num_samples=4, parallel=True)(X[:5])
    error = ((drawn.var(1) + again.var(1)) / 50).sqrt() + 1e-9
    assert bool(((drawn.mean(1) - again.mean(1)).abs() < 5 * error).all())
    assert fresh["0.weight"].squeeze(1).shape == (4, *model.latents["0.weight"].shape)
    assert fresh["y"].shape[:2] == (4, 5)


def test_vectorised_particles_have_the_gradient_of_single_ones():
    """Trace_ELBO with all particles at once, at a point where each is the same: one number, one gradient."""
    model, X, y = build(priors.Normal(0.5), likelihoods.Gaussian(), torch.float64, True)
    start = values_of(model)
    losses, gradients = [], []
    for options in ({}, {"num_particles": 4, "vectorize_particles": True}):
        pyro.clear_param_store()
        guide = pyro.infer.autoguide.AutoDelta(model.pyro_model, init_loc_fn=pyro.infer.autoguide.init_to_value(values=start))
        loss = pyro.infer.Trace_ELBO(**options).differentiable_loss(model.pyro_model, guide, X, y)
        loss.backward()
        losses.append(loss.detach())
        gradients.append(torch.cat([p.grad.reshape(-1) for p in guide.parameters()]))
    pyro.clear_param_store()
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(gradients[1], gradients[0], rtol=1e-10, atol=1e-10)


def test_draws_must_leave_an_axis_to_the_plate():
    model, X, y = build(priors.Normal(0.5), likelihoods.Gaussian(), torch.float64, True)
    values = {name: value.expand(2, 3, *value.shape) for name, value in values_of(model).items()}
    with pytest.raises(ValueError, match=r"draws of 0.weight must leave the last axis before its own to the plate 'data'"):
        poutine.condition(model.pyro_model, data=values)(X, y)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda m, X, y: m.log_joint({}, X, y),
            r"must know its training statistics, but it has seen no data; call model = model.bind",
        ),
        (lambda m, X, y: m.total(), r"N must be known, since it weighs the data against the prior"),
    ],
)
def test_an_unbound_model_says_so(call, message):
    with pytest.raises(ValueError, match=message):
        call(br.BayesianModel(network(D, 1), standardize=True), torch.zeros(3, D), torch.zeros(3))
