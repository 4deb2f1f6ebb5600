"""What ArviZ gets is the posterior, draw by draw; its leave-one-out is the closed form's; Pyro's own draws keep their rows."""

import math
import sys
import types
import warnings

import numpy as np
import pandas as pd
import pyro
import pytest
import torch
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.arviz import loo, to_arviz
from bayesreg.objective import LogJoint
from bayesreg.posteriors import Draws, Gaussian
from tests.conftest import network, textbook

N, CHAINS = 24, 4
SEEDS = (0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2)))
ITS_OWN_WARNINGS = [
    "ignore::matplotlib.MatplotlibDeprecationWarning",  # ArviZ 0.23 beside the Matplotlib and pandas of today
    "ignore:The inplace keyword",
    "ignore:overflow encountered in exp:RuntimeWarning",  # of weights that it then drops
    "ignore:Estimated shape parameter:UserWarning",  # its advice about few draws, and one
    "ignore:Your data appears to have a single value:UserWarning",
    "ignore:Attempting to set identical low and high xlims:UserWarning",
    "ignore:Degrees of freedom:RuntimeWarning",
    "ignore:invalid value encountered:RuntimeWarning",
]


def of_arviz_alone(test):
    """A test in which ArviZ warns."""
    for line in ITS_OWN_WARNINGS:
        test = pytest.mark.filterwarnings(line)(test)
    return test


@pytest.fixture(scope="module")
def az():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        import arviz
    return arviz


def data(columns=2, rows=N):
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    return X, X[:, 0].sin() + 0.3 * torch.randn(rows, generator=generator, dtype=torch.float64)


def sampled(posterior, num_draws, stats=True, seed=0):
    """Independent draws of a normal posterior as a sampler would hand them over."""
    draws = posterior.draw(CHAINS * num_draws, torch.Generator().manual_seed(seed)).reshape(CHAINS, num_draws, -1)
    found = {"diverging": torch.zeros(CHAINS, num_draws, dtype=torch.bool), "energy": torch.randn(CHAINS, num_draws)}
    found["diverging"][2, 3] = True
    return Draws(posterior.model, posterior.record, draws, stats=found if stats else None)


def quick(name):
    return {"mean-field": br.inference.MeanField(num_steps=300), "mc-dropout": br.inference.MCDropout(num_steps=200)}.get(
        name, name
    )


@pytest.fixture(scope="module")
def fits():
    """One of each kind, of a small network."""
    torch.manual_seed(0)
    X, y = data()

    def fit(net, method):
        model = br.BayesianModel(net.double(), priors.Normal(1.0), likelihoods.Gaussian(priors.HalfNormal(1.0)), False)
        return br.fit(model, X, y, method=method, progress=False)

    plain = network(2, 3, 1)
    dropped = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Dropout(0.3), nn.Linear(3, 1))
    normed = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 1))
    found = {name: fit(plain, quick(name)) for name in ("map", "laplace", "mean-field")}
    found["mc-dropout"] = fit(dropped, quick("mc-dropout"))
    found["mc-batchnorm"] = fit(normed, br.inference.MCBatchNorm(8, br.inference.MAP(num_steps=100), num_draws=60))
    found["draws"] = sampled(found["mean-field"], 30)
    return found, X, y


KINDS = ["map", "laplace", "mean-field", "mc-dropout", "mc-batchnorm", "draws"]


@pytest.mark.parametrize("kind", KINDS)
class TestEveryKind:
    def test_every_group_is_of_the_same_draws(self, kind, fits):
        """The density of each row, computed from what is exported as the weights: masks and noise included."""
        post, X, y = fits[0][kind], *fits[1:]
        found = to_arviz(post, X, y, num_samples=50, seed=3)
        wanted = {"map": (1, 1), "draws": (CHAINS, 30), "mc-batchnorm": (1, 60)}.get(kind, (1, 50))
        values = {name: torch.tensor(found.posterior[name].values).flatten(0, 1) for name in post.model.latents}
        assert found.posterior["0.weight"].shape == (*wanted, 3, 2)
        assert found.posterior_predictive["y"].shape == found.log_likelihood["y"].shape == (*wanted, N)
        np.testing.assert_array_equal(found.observed_data["y"], y)
        np.testing.assert_array_equal(found.constant_data["X"], X)
        prior = torch.stack([post.model.log_prior({k: v[s] for k, v in values.items()}) for s in range(math.prod(wanted))])
        np.testing.assert_allclose(sum(found.log_prior[name].values for name in found.log_prior).ravel(), prior, rtol=1e-10)
        each = found.log_likelihood["y"].values.reshape(-1, N)
        if kind == "laplace":  # whose network is linear about its mode, which is not the weights' own network
            u = post.in_order(50, 3)
            there, mirrored, middle = (post.predict_drawn(v, X).output for v in (u, 2 * post.loc - u, post.loc[None]))
            torch.testing.assert_close(there + mirrored, 2 * middle.expand_as(there), rtol=1e-9, atol=1e-9)
            rows = post.model.likelihood.log_prob(there, y, noise_scale=values["noise_scale"][:, None])
            np.testing.assert_allclose(each, rows, rtol=1e-9)
        elif kind == "mc-batchnorm":  # the same weights, other statistics
            assert (each.std(0) > 1e-6).all()
            assert (values["0.weight"] == values["0.weight"][0]).all()
        else:
            joint = [float(post.model.log_likelihood({k: v[s] for k, v in values.items()}, X, y)) for s in range(len(each))]
            np.testing.assert_allclose(each.sum(1), joint, rtol=1e-9)
        again = to_arviz(post, X, y, num_samples=50, seed=3)
        np.testing.assert_array_equal(again.posterior_predictive["y"], found.posterior_predictive["y"])

    @of_arviz_alone
    def test_arviz_takes_it(self, kind, fits, az):
        import matplotlib
        from matplotlib import pyplot

        matplotlib.use("Agg")
        post, X, y = fits[0][kind], *fits[1:]
        found = to_arviz(post, X, y, num_samples=60)
        table = az.summary(found, kind="stats")
        assert "0.weight[0, 1]" in table.index
        np.testing.assert_allclose(table["mean"]["noise_scale"], found.posterior["noise_scale"].mean(), atol=0.001)
        if kind != "map":
            other = to_arviz(fits[0]["draws"], X, y)
            assert np.isfinite(az.loo(found)["elpd_loo"])
            assert set(az.compare({"this": found, "other": other}).index) == {"this", "other"}
        az.plot_trace(found, var_names=["0.bias", "noise_scale"])
        az.plot_forest(found, var_names=["0.weight"])
        az.plot_ppc(found, num_pp_samples=1)
        pyplot.close("all")


def test_chains_go_out_as_they_are(fits, az):
    """All stored draws, in their order, with what the sampler said of them; R̂ and ESS are ArviZ's."""
    post = fits[0]["draws"]
    found = to_arviz(post, num_samples=7)
    where = post.layout.segments["0.weight"].slice
    np.testing.assert_array_equal(found.posterior["0.weight"].values.reshape(CHAINS, 30, -1), post.chains[:, :, where])
    assert sorted(found.sample_stats) == ["diverging", "energy"]
    assert found.sample_stats["diverging"].dtype == bool
    assert np.argwhere(found.sample_stats["diverging"].values).tolist() == [[2, 3]]
    assert set(found.groups()) == {"posterior", "log_prior", "sample_stats"}
    assert float(az.rhat(found)["0.bias"].max()) < 1.2
    assert found.posterior.attrs["method"] == "mean-field"


def linear(scale=0.7, noise=0.8, columns=3):
    X, y = data(columns, 80)
    model = br.BayesianModel(nn.Linear(columns, 1).double(), priors.Normal(scale), likelihoods.Gaussian(noise), False)
    return br.fit(model, X, y, method="exact"), X, y


def left_out(X, y, scale=0.7, noise=0.8):
    """Log p(yᵢ | y₋ᵢ) of each row in closed form, by refitting without it."""
    X, y, found = np.asarray(X), np.asarray(y), []
    for i in range(len(y)):
        rest = np.arange(len(y)) != i
        mean, cov, _ = textbook(X[rest], y[rest], scale=scale, noise=noise, bias_scale=scale)
        row = np.r_[X[i], 1.0]
        variance = row @ cov @ row + noise**2
        found.append(-0.5 * (y[i] - row @ mean) ** 2 / variance - 0.5 * math.log(2 * math.pi * variance))
    return np.array(found)


def error_of(exact, X, y, num_samples):
    """The Monte Carlo error of each row's value with so many draws of the posterior; at worst they add up."""
    terms = to_arviz(exact, X, y, num_samples=20_000, seed=9).log_likelihood["y"].values[0]
    inverse = np.exp(-terms)
    return inverse.std(0) / inverse.mean(0) / math.sqrt(num_samples)


class TestLeaveOneOut:
    def test_joint_over_approximation_is_the_evidence_where_it_is_exact(self):
        exact, X, y = linear()
        found = to_arviz(exact, X, y, num_samples=40)
        joint = found.log_likelihood["y"].sum("row") + sum(found.log_prior[name] for name in found.log_prior)
        np.testing.assert_allclose(joint - found.sample_stats["log_q"], exact.log_evidence, rtol=1e-9)

    @pytest.mark.parametrize("seed", SEEDS)
    def test_of_the_posterior_s_own_draws(self, seed):
        exact, X, y = linear()
        truth, error = left_out(X, y), error_of(exact, X, y, 4000)
        for post in (exact, sampled(exact, 1000, stats=False, seed=seed)):
            found = loo(post, X, y, seed=seed)
            assert abs(found["elpd_loo"] - truth.sum()) < error.sum()
            assert (abs(found["loo_i"].values - truth) < 5 * error).all()
            assert found["pareto_k"].max() < found["good_k"]

    @of_arviz_alone
    @pytest.mark.parametrize("seed", SEEDS)
    def test_an_approximation_is_corrected(self, seed, az):
        """A normal that is off by half an sd, and a third too wide: ArviZ's own answer is off, the corrected one is not."""
        exact, X, y = linear()
        sd = exact.factor.norm(dim=1)
        wrong = Gaussian(exact.model, exact.record, exact.loc + 0.5 * sd, 1.3 * exact.factor)
        truth, error = left_out(X, y), error_of(exact, X, y, 4000)
        found = loo(wrong, X, y, seed=seed)
        plain = az.loo(to_arviz(wrong, X, y, num_samples=4000, seed=seed), pointwise=True)
        assert abs(plain["elpd_loo"] - truth.sum()) > 10 * error.sum()
        assert abs(found["elpd_loo"] - truth.sum()) < error.sum()
        assert (abs(found["loo_i"].values - truth) < 5 * error).all()
        assert "Pareto k diagnostic" in str(found)
        assert found["loo_i"].values.sum() == pytest.approx(found["elpd_loo"])
        assert set(az.compare({"a": found, "b": loo(exact, X, y)}).index) == {"a", "b"}

    @pytest.mark.parametrize(
        ("kind", "rows", "message"),
        [
            (
                "map",
                N,
                r"needs the spread of a posterior, .* but a mode came, .* take its log score on test rows",
            ),
            ("laplace", 10, r"needs the 24 rows of the fit, all of them, but 10 with targets came"),
            ("mc-dropout", N, r"needs the log-density of its draws, but a posterior by 'mc-dropout' has none"),
            ("mc-batchnorm", N, r"needs the log-density of its draws, but a posterior by 'mc-batchnorm' has none"),
        ],
    )
    def test_refuses(self, kind, rows, message, fits):
        post, X, y = fits[0][kind], *fits[1:]
        with pytest.raises(ValueError, match=message):
            loo(post, X[:rows], y[:rows], num_samples=20)


def test_full_diagonal_and_thin_densities(fits):
    full, diagonal = fits[0]["laplace"], fits[0]["mean-field"]
    u = full.draw(5, torch.Generator().manual_seed(0))
    theirs = torch.distributions.MultivariateNormal(full.loc, full.covariance).log_prob(u)
    torch.testing.assert_close(full.log_density(u), theirs, rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(diagonal.log_density(u), torch.distributions.Normal(*diagonal.as_normal()).log_prob(u).sum(1))
    wide = Gaussian(full.model, full.record, full.loc, torch.cat([0.6 * full.factor, 0.8 * full.factor], 1))
    torch.testing.assert_close(wide.log_density(u), full.log_density(u))
    assert Gaussian(full.model, full.record, full.loc, full.factor[:, :-1]).log_density(u) is None
    assert fits[0]["map"].log_density(u) is None


def test_axes_have_names():
    """Columns of a frame, targets, units of a layer; an unknown scale takes those axes of its tensor that it has."""
    X, y = data()
    frame = pd.DataFrame(X.numpy(), columns=["age", "dose"])
    targets = pd.DataFrame({"pulse": y.numpy(), "weight": 3 * y.numpy() + 1})
    rules = {"0.weight": priors.Normal(priors.HalfNormal(1.0), per="column"), "*": priors.Normal(1.0)}
    model = br.BayesianModel(network(2, 3, 2, dtype=torch.float64), rules, likelihoods.Gaussian(priors.HalfNormal(1.0)), True)
    post = br.fit(model, frame, targets, method=br.inference.MeanField(num_steps=50), progress=False)
    found = to_arviz(post, frame[["dose", "age"]], targets, num_samples=5)
    assert found.posterior["0.weight"].dims == ("chain", "draw", "0.unit", "column")
    assert found.posterior["0.bias"].dims == ("chain", "draw", "0.unit")
    assert found.posterior["0.weight.scale"].dims == ("chain", "draw", "0.weight.scale_dim_0", "column")
    assert found.posterior["2.weight"].dims == ("chain", "draw", "target", "2.input")
    assert found.posterior["noise_scale"].dims == ("chain", "draw", "target")
    assert found.posterior["column"].values.tolist() == ["age", "dose"]
    assert found.posterior["target"].values.tolist() == ["pulse", "weight"]
    np.testing.assert_array_equal(found.constant_data["X"].sel(column="dose"), frame["dose"])
    np.testing.assert_array_equal(found.observed_data["y"].sel(target="weight"), targets["weight"])
    assert found.log_likelihood["y"].dims == ("chain", "draw", "row")
    assert found.posterior_predictive["y"].dims == ("chain", "draw", "row", "target")
    width = post.model.standardization.y_scale.numpy()
    plain = post.sample(5, units="model")["noise_scale"]
    np.testing.assert_allclose(found.posterior["noise_scale"][0], plain[:, None].numpy() * width)


def test_classes_and_a_loader(az):
    X, y = data()
    model = br.BayesianModel(network(2, 3, 3, dtype=torch.float64), priors.Normal(1.0), likelihoods.Categorical())
    labels = (y > 0).long() + (y > 0.5).long()
    rows = torch.utils.data.TensorDataset(X, labels)
    post = br.fit(model, rows, method="laplace")
    found = to_arviz(post, rows, num_samples=20)
    assert found.posterior["2.bias"].dims == ("chain", "draw", "class")
    assert set(np.unique(found.posterior_predictive["y"])) <= {0, 1, 2}
    np.testing.assert_array_equal(found.observed_data["y"], labels)
    groups = to_arviz(post, X, num_samples=3).groups()
    assert "posterior_predictive" in groups
    assert not {"observed_data", "log_likelihood"} & set(groups)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, X, y: to_arviz(p.model), "posterior must be what fit returned, but BayesianModel came"),
        (lambda p, X, y: to_arviz(p, y=y), "y must come with the X that it belongs to"),
        (lambda p, X, y: to_arviz(p, X, y, num_samples=0), "num_samples must"),
        (lambda p, X, y: to_arviz(p, X, y, max_memory=100), "must fit into max_memory=100 bytes"),
        (lambda p, X, y: to_arviz(p, X, y[:3]), "rows"),
    ],
)
def test_refuses_what_it_cannot_export(call, message, fits):
    with pytest.raises(ValueError, match=message):
        call(fits[0]["laplace"], *fits[1:])


class NewArviZ(types.ModuleType):
    """ArviZ 1.x as far as it is called: one nested dictionary, and its own correction."""

    __version__ = "1.2.0"

    def from_dict(self, data, *, coords=None, dims=None, attrs=None):
        assert all(isinstance(variables, dict) for variables in data.values())
        for name, axes in (dims or {}).items():
            for group, variables in data.items():
                lead = 0 if group in ("observed_data", "constant_data") else 2
                whole = group != "log_likelihood"  # whose variables lack the event's axes
                assert name not in variables or not whole or variables[name].ndim - lead == len(axes)
        return dict(data)

    def loo_approximate_posterior(self, data, log_p, log_q, pointwise, var_name):
        return data, log_p - log_q


@pytest.mark.parametrize("outputs", [None, {"0": priors.Laplace(0.7)}], ids=["weights", "activations"])
def test_ratio_is_of_densities_of_the_vector_that_is_drawn(outputs, fits, monkeypatch):
    """Log p(θ, y) − log q(θ) with the Jacobian of a positive unknown, an unknown scale, units, and priors on activations."""
    X, y = fits[1:]
    rules = {"0.weight": priors.Normal(priors.HalfNormal(1.0), centered=False), "*": priors.Normal(1.0)}
    net = network(2, 3, 1, dtype=torch.float64)
    model = br.BayesianModel(net, rules, likelihoods.Gaussian(), True, outputs=outputs).bind(X, y)
    log_joint = LogJoint(model)
    loc = log_joint.layout.flatten(model.start(*model.prepare(X, y)))
    post = Gaussian(model, fits[0]["mean-field"].record, loc, 0.1 * torch.eye(len(loc), dtype=torch.float64))
    monkeypatch.setitem(sys.modules, "arviz", NewArviZ("arviz"))
    _, ratio = loo(post, X, y, num_samples=8)
    u = post.in_order(8, 0)
    wanted = torch.stack([log_joint(one, X, y, jacobian=True) for one in u]) - post.log_density(u)
    np.testing.assert_allclose(ratio, wanted, rtol=1e-10)


def test_the_newer_arviz_gets_one_nested_dictionary(monkeypatch):
    exact, X, y = linear()
    monkeypatch.setitem(sys.modules, "arviz", NewArviZ("arviz"))
    assert set(to_arviz(exact, X, y)) >= {"posterior", "log_prior", "log_likelihood", "sample_stats", "constant_data"}
    tree, ratio = loo(exact, X, y, num_samples=30)
    assert tree["log_likelihood"]["y"].shape == (1, 30, 80)
    np.testing.assert_allclose(ratio, exact.log_evidence, rtol=1e-9)


def test_pyro_s_own_draws_keep_the_likelihood_of_their_rows(az):
    X, y = data()
    rules = {"0.weight": priors.Normal(priors.HalfNormal(1.0)), "*": priors.Normal(1.0)}
    model = br.BayesianModel(network(2, 3, 1, dtype=torch.float64), rules, likelihoods.Gaussian()).bind(X, y)
    kernel = pyro.infer.NUTS(model.pyro_model, max_tree_depth=3)
    mcmc = pyro.infer.MCMC(kernel, num_samples=8, warmup_steps=8, disable_progbar=True)
    mcmc.run(X, y)
    found = az.from_pyro(mcmc)
    assert found.log_likelihood["y"].shape == (1, 8, N)
    draws = mcmc.get_samples()
    alone = [float(model.log_likelihood({k: v[s] for k, v in draws.items()}, X, y)) for s in range(8)]
    np.testing.assert_allclose(found.log_likelihood["y"].sum("y_dim_0")[0], alone, rtol=1e-10)
