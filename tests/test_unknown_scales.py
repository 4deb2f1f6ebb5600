"""Priors whose scale is an unknown too: their densities, their Jacobians, and what may be asked of them."""

import math

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from scipy import integrate, stats
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.objective import LogJoint
from bayesreg.posteriors import MeanFieldGuide
from bayesreg.priors import numeric
from tests.conftest import network
from tests.contracts.test_log_joint import trace_sum

SEEDS = (0, 1, 2)
HIERARCHIES = {
    "global": priors.Normal(priors.HalfCauchy(1.0)),
    "ARD": priors.Normal(priors.HalfCauchy(1.0), per="column"),
    "ARD, non-centred": priors.Normal(priors.HalfCauchy(1.0), per="column", centered=False),
    "rows, fan-in": priors.Laplace(priors.Gamma(2.0, 3.0), per="row", fan_in=True, loc=0.5),
    "non-centred Laplace": priors.Laplace(priors.LogNormal(0.0, 1.0), per="row", fan_in=True, loc=0.5, centered=False),
    "elements": priors.StudentT(5.0, priors.InverseGamma(2.0, 1.0), per="element"),
    "horseshoe": priors.Horseshoe(priors.HalfCauchy(0.1)),
    "expanded horseshoe": priors.Horseshoe(priors.HalfCauchy(0.1)).expanded(),
    "expanded horseshoe, fan-in": priors.Horseshoe(0.5, fan_in=True).expanded(),
    "expanded horseshoe of the noise": priors.Horseshoe(priors.HalfCauchy(1.0), relative_to_noise=True).expanded(),
    "group lasso": priors.GroupLasso(priors.HalfNormal(1.0), per="column"),
    "group lasso, non-centred": priors.GroupLasso(priors.HalfNormal(1.0), per="column", centered=False),
    "smooth": priors.Smooth(1, priors.Exponential(2.0), level_scale=1.0),
    "of the noise": priors.Normal(0.3, relative_to_noise=True),
    "of the noise, and unknown": priors.Normal(priors.HalfCauchy(1.0), per="column", centered=False, relative_to_noise=True),
}


def build(prior, *, standardize=False, noise=priors.HalfNormal(1.0)):  # noqa: B008
    generator = torch.Generator().manual_seed(1)
    X = torch.randn(30, 3, generator=generator, dtype=torch.float64)
    y = X @ torch.tensor([1.0, 0.0, -2.0]).double() + 0.3 * torch.randn(30, generator=generator, dtype=torch.float64)
    likelihood = likelihoods.Gaussian(noise)
    net = network(3, 4, 1, dtype=torch.float64)
    model = br.BayesianModel(net, {"0.weight": prior, "*.bias": priors.Normal(2.0)}, likelihood, standardize)
    return model.bind(X, y), X, y


def values_of(model, seed=2):
    generator = torch.Generator().manual_seed(seed)
    values = {}
    for name, latent in model.latents.items():
        value = torch.randn(latent.shape, generator=generator, dtype=torch.float64)
        values[name] = value.abs() + 0.1 if latent.kind != "weight" else value
    return values


@pytest.mark.parametrize("standardize", [False, True], ids=["raw", "standardized"])
@pytest.mark.parametrize("prior", HIERARCHIES.values(), ids=HIERARCHIES)
def test_log_joint_is_the_trace_s(prior, standardize):
    model, X, y = build(prior, standardize=standardize)
    values = values_of(model)
    log_joint = LogJoint(model)
    u = log_joint.layout.flatten(values)
    for rows in (slice(None), slice(10)):
        expected = trace_sum(model, values, X[rows], y[rows])
        torch.testing.assert_close(log_joint(u, X[rows], y[rows]), expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(model.log_joint(values, X[rows], y[rows]), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("prior", HIERARCHIES.values(), ids=HIERARCHIES)
def test_layout_goes_back_and_forth_and_knows_its_jacobian(prior):
    model, *_ = build(prior)
    layout = LogJoint(model).layout
    values = values_of(model)
    u = layout.flatten(values)
    back = layout.unflatten(u)
    for name, value in values.items():
        torch.testing.assert_close(back[name], value, rtol=1e-12, atol=0)

    def constrained(u):
        found = layout.unflatten(u)
        return torch.cat([found[s.latent.name].reshape(-1) for s in layout.in_order])

    jacobian = torch.func.jacrev(constrained)(u)
    torch.testing.assert_close(layout.log_jacobian(u), torch.linalg.slogdet(jacobian)[1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("centered", [True, False])
def test_unconstrained_density_integrates_to_the_evidence(centered):
    """∫∫ exp LogJoint(u) du over two unknowns = ∫ N(y; 0, s² xxᵀ + σ²I) p(s) ds, by quadrature that knows nothing of u."""
    x, y = np.array([0.5, -1.0, 2.0]), np.array([0.4, -0.9, 1.7])
    linear = nn.Linear(1, 1, bias=False).double()
    prior = priors.Normal(priors.HalfCauchy(0.7), centered=centered)
    model = br.BayesianModel(linear, prior, likelihoods.Gaussian(0.5)).bind(x, y)

    def over_scale(s):
        return stats.multivariate_normal(np.zeros(3), s * s * np.outer(x, x) + 0.25 * np.eye(3)).pdf(y) * stats.halfcauchy(
            scale=0.7
        ).pdf(s)

    expected = sum(integrate.quad(over_scale, a, b, epsabs=1e-14)[0] for a, b in [(0, 1), (1, 10), (10, math.inf)])
    log_joint = LogJoint(model)
    assert list(log_joint.layout.segments) == ["weight.scale", "weight"]
    # w where the likelihood lives; in the non-centred coordinate that is z = w/s, which the prior bounds
    scales = torch.linspace(-18, 18, 3001, dtype=torch.float64)
    parts = torch.linspace(-40, 40, 20_001, dtype=torch.float64) if not centered else torch.linspace(-3, 5, 4001).double()
    data = model.prepare(x, y)
    rows = log_joint.layout.segments["weight.scale"].slice, log_joint.layout.segments["weight"].slice

    def inner(log_s):
        def at(v):
            u = torch.zeros(2, dtype=torch.float64)
            u = torch.cat([v[None], log_s[None]]) if rows[1].start == 0 else torch.cat([log_s[None], v[None]])
            return log_joint.prepared(u, *data, 3, jacobian=True)

        grid = parts
        if centered:  # as s → 0, w's density is a spike of width s
            grid = torch.cat([parts, log_s.exp() * torch.linspace(-40, 40, 8001, dtype=torch.float64)]).sort().values
        return torch.trapezoid(torch.vmap(at)(grid).exp(), grid)

    found = float(torch.trapezoid(torch.stack([inner(s) for s in scales[::20]]), scales[::20]))
    assert found == pytest.approx(expected, rel=2e-4)


def test_scale_relative_to_the_noise_has_the_conjugate_mean():
    """Under w | σ ~ N(0, σ²τ²) and p(σ) ∝ 1/σ the posterior mean of w is ridge with penalty 1/τ², whatever σ is."""
    x, y = torch.tensor([[0.5], [-1.0], [2.0], [0.3]]).double(), torch.tensor([0.4, -0.9, 1.7, 0.8]).double()
    linear = nn.Linear(1, 1, bias=False).double()
    model = br.BayesianModel(
        linear, priors.Normal(0.8, relative_to_noise=True), likelihoods.Gaussian(priors.LogUniform())
    ).bind(x, y)
    ridge = float((x[:, 0] @ y) / (x.square().sum() + 0.8**-2))
    log_joint = LogJoint(model)
    weight, noise = (log_joint.layout.segments[name].start for name in ("weight", "noise_scale"))
    w, v = torch.linspace(ridge - 30, ridge + 30, 3001, dtype=torch.float64), torch.linspace(-6, 4, 401, dtype=torch.float64)

    grid = torch.cartesian_prod(w, v) if weight < noise else torch.cartesian_prod(w, v).flip(1)
    data = model.prepare(x, y)
    density = torch.vmap(lambda u: log_joint.prepared(u, *data, 4, jacobian=True))(grid).exp().reshape(len(w), -1).sum(1)
    assert float((density * w).sum() / density.sum()) == pytest.approx(ridge, rel=1e-3)
    mode = br.fit(model, x, y, method="map")
    assert mode.certificate.converged
    assert float(mode.mean["weight"]) == pytest.approx(ridge, abs=1e-8)
    squares = float((y - x[:, 0] * ridge).square().sum()) + ridge**2 / 0.8**2
    assert float(mode.mean["noise_scale"]) == pytest.approx(math.sqrt(squares / (4 + 1 + 1)), rel=1e-8)


def test_scale_relative_to_a_known_noise_is_a_number():
    model = br.BayesianModel(network(3, 1), {"0.weight": priors.Normal(0.5, relative_to_noise=True)}, likelihoods.Gaussian(4.0))
    assert model.latents["0.weight"].prior == priors.Normal(2.0)
    assert not model.latents["0.weight"].parents


@pytest.mark.parametrize("centered", [pytest.param(True, marks=pytest.mark.slow), False])
def test_guide_is_a_pyro_guide_of_the_same_posterior(centered):
    """Our ELBO and Pyro's Trace_ELBO, both on one guide: one number within Monte Carlo error, three seeds."""
    model, X, y = build(priors.Normal(priors.HalfCauchy(1.0), per="column", centered=centered))
    log_joint = LogJoint(model)
    generator = torch.Generator().manual_seed(0)
    loc = 0.3 * torch.randn(log_joint.layout.size, generator=generator, dtype=torch.float64)
    guide = MeanFieldGuide(log_joint.layout, loc, torch.full_like(loc, 0.1))
    data = model.prepare(X, y)
    for seed in SEEDS:
        torch.manual_seed(seed)
        with torch.no_grad():
            ours = torch.stack([guide.elbo(log_joint, *data, 30) for _ in range(80)])
            theirs = []
            for _ in range(80):
                drawn = poutine.trace(guide).get_trace()
                joint = poutine.trace(poutine.replay(model.pyro_model, trace=drawn)).get_trace(X, y)
                theirs.append(joint.log_prob_sum() - drawn.log_prob_sum())
        theirs = torch.stack(theirs)
        error = float((ours.var() + theirs.var()).sqrt()) / math.sqrt(80)
        assert abs(float(ours.mean() - theirs.mean())) < 4.5 * error
    pyro.clear_param_store()


@pytest.mark.slow
def test_guide_draws_are_its_sites():
    """The flat draws and the Pyro program draw w from one law, also where it is scale × z."""
    model, *_ = build(priors.Normal(priors.HalfCauchy(1.0), per="column", centered=False))
    layout = LogJoint(model).layout
    loc = torch.linspace(-1, 1, layout.size, dtype=torch.float64)
    guide = MeanFieldGuide(layout, loc, torch.full_like(loc, 0.3))
    for seed in SEEDS:
        torch.manual_seed(seed)
        with torch.no_grad():
            by_site = torch.stack([guide()["0.weight"] for _ in range(1000)])[:, 0, 0]
        flat = guide.draw(2000, torch.Generator().manual_seed(seed + 10))
        by_vector = torch.vmap(layout.unflatten)(flat)["0.weight"][:, 0, 0]
        assert stats.ks_2samp(by_site.numpy(), by_vector.numpy()).pvalue > 0.01 / 3
    pyro.clear_param_store()


@pytest.mark.parametrize(("centered", "noise"), [(True, 0.5), (False, 5.0)])
@pytest.mark.slow
def test_mean_field_bounds_the_evidence(centered, noise):
    """ELBO ≤ log evidence, by quadrature; and it is close where two unknowns are left nearly independent."""
    x, y = np.array([[0.5], [-1.0], [2.0]]), np.array([0.4, -0.9, 1.7])
    model = br.BayesianModel(
        nn.Linear(1, 1, bias=False).double(),
        priors.Normal(priors.HalfNormal(1.0), centered=centered),
        likelihoods.Gaussian(noise),
    )

    def over_scale(s):
        covariance = s * s * np.outer(x, x) + noise**2 * np.eye(3)
        return stats.multivariate_normal(np.zeros(3), covariance).pdf(y) * stats.halfnorm.pdf(s)

    evidence = math.log(integrate.quad(over_scale, 0, math.inf)[0])
    post = br.fit(model, x, y, method=br.inference.MeanField(num_steps=3000, num_particles=8))
    log_joint = LogJoint(post.model)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        elbos = torch.stack([post.guide.elbo(log_joint, *post.model.prepare(x, y), 3, 500) for _ in range(20)])
    error = float(elbos.std()) / math.sqrt(20)
    assert float(elbos.mean()) < evidence + 3 * error
    assert float(elbos.mean()) > evidence - 0.3 - 3 * error
    draws = post.sample(20_000, seed=1)["weight"].reshape(-1)
    assert float(post.mean["weight"]) == pytest.approx(float(draws.mean()), abs=5 * float(draws.std()) / 100)
    assert float(post.std["weight"]) == pytest.approx(float(draws.std()), rel=0.05)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
@pytest.mark.parametrize(
    "scale", [pytest.param(0.3, id="known", marks=pytest.mark.slow), pytest.param(priors.HalfCauchy(0.3), id="unknown")]
)
def test_expanded_horseshoe_is_the_horseshoe(seed, scale):
    """Draws through the local scales follow the density with the local scales integrated out."""
    model = br.BayesianModel(nn.Linear(2, 2, bias=False).double(), priors.Horseshoe(scale).expanded())
    drawn = model.sample_prior(2000, seed=seed)
    w = drawn["weight"].reshape(-1)
    if isinstance(scale, priors.HalfCauchy):
        w = (drawn["weight"] / drawn["weight.scale.scale"][:, None, None]).reshape(-1)
        scale = 1.0
    prior = priors.Horseshoe(scale)
    grid = np.quantile(w.numpy(), np.linspace(0.02, 0.98, 21))
    cdf = numeric.cdf(lambda v: prior.log_constant - prior.energy(v), prior.support, 0.0, torch.as_tensor(grid)).numpy()
    assert np.abs((w.numpy()[:, None] <= grid).mean(0) - cdf).max() < 1.79 / math.sqrt(len(w))


def test_names_shapes_and_table():
    model, *_ = build(priors.Horseshoe(priors.HalfCauchy(0.1)).expanded())
    assert {name: tuple(latent.shape) for name, latent in model.latents.items()} == {
        "0.weight.scale.scale": (),
        "0.weight.scale": (4, 3),
        "0.weight": (4, 3),
        "0.bias": (4,),
        "2.weight": (1, 4),
        "2.bias": (1,),
        "noise_scale": (),
    }
    rows = {row.tensor: row for row in model.prior_table().rows}
    assert list(rows)[:3] == ["0.weight", "0.weight.scale", "0.weight.scale.scale"]
    assert rows["0.weight"].note == "hierarchical"
    assert rows["0.weight"].scale == "0.weight.scale"
    assert rows["0.weight.scale"].note == "unknown scale"
    assert rows["0.weight.scale"].source == "hyperprior of 0.weight"
    assert rows["0.weight.scale"].shape == "4 × 3"


def test_parts_of_the_log_prior_by_tag():
    rules = {
        "0.weight": priors.Normal(priors.HalfCauchy(1.0), per="column", tag="inputs"),
        "0.bias": priors.Normal(1.0, tag="inputs"),
        "2.weight": priors.Laplace(0.5, tag="output layer"),
    }
    model = br.BayesianModel(network(3, 4, 1, dtype=torch.float64), rules)
    values = values_of(model)
    parts = model.log_prior_by_tag(values)
    assert list(parts) == ["inputs", "output layer", "2.bias", "noise_scale"]
    torch.testing.assert_close(sum(parts.values()), model.log_prior(values))
    expected = (
        priors.Normal(1.0).log_prob(values["0.bias"])
        + priors.HalfCauchy(1.0).log_prob(values["0.weight.scale"])
        + priors.Normal().given(values["0.weight.scale"]).log_prob(values["0.weight"])
    )
    torch.testing.assert_close(parts["inputs"], expected)


def test_goes_through_a_file(tmp_path):
    model, X, y = build(priors.Normal(priors.HalfCauchy(1.0), per="column", centered=False))
    post = br.fit(model, X, y, method=br.inference.MeanField(num_steps=50))
    br.save(post, tmp_path / "post.pt")
    again = br.load(tmp_path / "post.pt")
    assert again.mean["0.weight"].equal(post.mean["0.weight"])
    assert again.sample(3)["0.weight.scale"].equal(post.sample(3)["0.weight.scale"])
    assert again.model.latents == post.model.latents


@pytest.mark.parametrize(
    ("prior", "method", "message"),
    [
        (
            HIERARCHIES["ARD"],
            "map",
            r"a joint mode over weights and their unknown scale runs to scale zero.*0.weight has Normal",
        ),
        (HIERARCHIES["ARD"], "laplace", r"a joint mode over weights and their unknown scale runs to scale zero"),
        (HIERARCHIES["ARD"], "exact", r"Exact needs"),
        (
            priors.Horseshoe(0.1),
            "map",
            r"a mode must have a finite density, but 0.weight has Horseshoe\(scale=0.1\)",
        ),
        (priors.GroupHorseshoe(0.1), "map", r"a mode must have a finite density"),
        (priors.Laplace(0.3, relative_to_noise=True), "map", r"a mode on a kink must have a known scale, but that of 0.weight"),
    ],
)
def test_what_has_no_mode_is_refused(prior, method, message):
    model, X, y = build(prior)
    with pytest.raises(ValueError, match=message):
        br.fit(model, X, y, method=method)


@pytest.mark.parametrize(
    ("rules", "likelihood", "message"),
    [
        (
            {"0.bias": priors.Normal(priors.HalfCauchy(1.0), per="column")},
            None,
            r"0.bias, name '0.bias': per='column' must meet a tensor that has a column axis .* 'tensor', 'row', 'element'",
        ),
        (
            {"0.weight": priors.Normal(1.0, relative_to_noise=True)},
            likelihoods.Bernoulli(),
            r"relative_to_noise=True needs a likelihood with a noise_scale of its own, but 0.weight has .* under Bernoulli\(\)",
        ),
    ],
)
def test_refusals(rules, likelihood, message):
    with pytest.raises(ValueError, match=message):
        br.BayesianModel(network(3, 4, 1), rules, likelihood)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: priors.Normal(priors.HalfCauchy(1.0, fan_in=True)),
            r"the prior of a scale must not follow a layer or the data",
        ),
        (lambda: priors.Normal(priors.HalfCauchy(1.0, autoscale=True)), r"give fan_in=True to Normal, or a plain number"),
        (lambda: likelihoods.Gaussian(priors.HalfNormal(autoscale=True)), r"the noise's prior must have a scale of its own"),
    ],
)
def test_scales_that_nothing_would_decide_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_noise_s_scale_is_in_the_units_of_the_noise():
    X, y = torch.randn(30, 3).double(), 1000 * torch.randn(30).double()
    model = br.BayesianModel(
        nn.Linear(3, 1).double(), likelihood=likelihoods.Gaussian(priors.HalfNormal(priors.HalfCauchy(1.0))), standardize=True
    )
    post = br.fit(model, X, y, method=br.inference.MeanField(num_steps=200))
    own, data = post.sample(5, units="model"), post.sample(5)
    for name in ("noise_scale", "noise_scale.scale"):
        torch.testing.assert_close(data[name], own[name] * y.std(correction=0))
    torch.testing.assert_close(data["weight"], own["weight"])


def test_laplace_says_what_is_missing_first():
    for prior, message in [
        (priors.Horseshoe(0.1), r"a mode must have a finite density, but 0.weight has Horseshoe"),
        (priors.Laplace(priors.HalfNormal(1.0)), r"a joint mode over weights and their unknown scale"),
    ]:
        model, X, y = build(prior)
        with pytest.raises(ValueError, match=message):
            br.fit(model, X, y, method="laplace")


@pytest.mark.usefixtures("unrendered")
def test_a_report_tells_models_apart_and_survives_scales_of_the_noise():
    from bayesreg.reports import prior_std, same_model

    X, y = torch.randn(30, 3), torch.randn(30)

    def model(rules=None, **options):
        return br.BayesianModel(nn.Linear(3, 1), rules, **options).bind(X, y)

    assert same_model(model(), model())
    assert not same_model(model({"bias": priors.Fixed(0.0)}), model({"bias": priors.Fixed(5.0)}))
    deep = [br.BayesianModel(nn.Sequential(nn.Linear(3, 1)), outputs=outputs) for outputs in (None, {"0": priors.Laplace(0.1)})]
    assert not same_model(*deep)
    auto = {"weight": priors.Normal(autoscale=True)}
    scaled = [br.BayesianModel(nn.Linear(3, 1), auto).bind(x, y) for x in (X * torch.tensor([1.0, 2.0, 3.0]), X)]
    assert not same_model(*scaled)
    relative = model({"weight": priors.Normal(1.0, relative_to_noise=True)})
    posteriors = {method: br.fit(relative, X, y, method=method) for method in ("map", "laplace")}
    assert "weight" not in prior_std(posteriors["laplace"])
    assert "weight" in br.report(posteriors, X, y, num_samples=20).html


def test_noise_may_have_an_unknown_scale():
    model, X, y = build(priors.Normal(1.0), noise=priors.HalfNormal(priors.HalfCauchy(1.0)))
    assert "noise_scale.scale" in model.latents
    values = values_of(model)
    u = LogJoint(model).layout.flatten(values)
    torch.testing.assert_close(LogJoint(model)(u, X, y), trace_sum(model, values, X, y), rtol=1e-10, atol=1e-10)


@pytest.mark.usefixtures("unrendered")
def test_is_compared_and_reported(diabetes):
    """Unknown scales, a prior on an output and a fixed tensor in one report beside a plain mode."""
    X, y = diabetes
    net = network(10, 4, 1)
    plain = br.BayesianModel(net, {"0.weight": priors.GroupLasso(0.5)}, standardize=True)
    rules = {"0.weight": priors.Normal(priors.HalfCauchy(0.5), per="column", centered=False), "2.bias": priors.Fixed(0.0)}
    ard = br.BayesianModel(net, rules, standardize=True, outputs={"1": priors.Normal(1.0)})
    posteriors = {
        "mode": br.fit(plain, X, y, method=br.inference.MAP("adam", num_steps=100)),
        "ARD": br.fit(ard, X, y, method=br.inference.MeanField(num_steps=100)),
    }
    assert "0.weight.scale" in posteriors["ARD"].mean
    assert "2.bias" not in posteriors["ARD"].mean
    made = br.report(posteriors, X, y, num_samples=50)
    for text in (
        "0.weight.scale",
        "hyperprior of 0.weight",
        "unknown scale",
        "1 (output)",
        "mean over rows × N",
        "Fixed(value=0.0)",
    ):
        assert text in made.html


@pytest.mark.slow  # quickly: an interval so wide that it is none, and the log-joint of such a noise
@pytest.mark.parametrize(
    "noise", [pytest.param(priors.LogUniform(0.01, 10.0), marks=pytest.mark.slow), priors.Uniform(0.05, 2.0)], ids=repr
)
def test_a_noise_on_an_interval(noise):
    """Under every method; the posterior's mean and sd are those of its draws, and stay inside."""
    model, X, y = build(priors.Normal(1.0), noise=noise)
    low, high = numeric.ends(noise.support)
    for method in ("map", "laplace", br.inference.MeanField(num_steps=300)):
        post = br.fit(model, X, y, method=method)
        found, sd = float(post.mean["noise_scale"]), float(post.std["noise_scale"])
        assert low < found < high
        draws = post.sample(4000, seed=1)["noise_scale"]
        assert low <= float(draws.min()) <= float(draws.max()) <= high
        assert found == pytest.approx(float(draws.mean()), abs=5 * float(draws.std()) / math.sqrt(4000) + 1e-9)
        assert sd == pytest.approx(float(draws.std()), rel=0.1, abs=1e-9)


def test_a_wide_interval_is_no_interval():
    """Jeffreys' prior of a noise scale, and the same cut at both far ends, have one Laplace approximation."""
    _, X, y = build(priors.Normal(1.0))
    fits = [
        br.fit(br.BayesianModel(nn.Linear(3, 1).double(), likelihood=likelihoods.Gaussian(noise)), X, y, method="laplace")
        for noise in (priors.LogUniform(), priors.LogUniform(1e-5, 1e5))
    ]
    torch.testing.assert_close(fits[0].mean["weight"], fits[1].mean["weight"], rtol=1e-3, atol=1e-4)
    assert float(fits[0].std["noise_scale"]) == pytest.approx(float(fits[1].std["noise_scale"]), rel=1e-2)
    torch.testing.assert_close(fits[0].std["weight"], fits[1].std["weight"], rtol=1e-2, atol=0)
