"""What every method must be: right on the conjugate model, repeatable, without side effects, and strict about its input."""

import inspect

import numpy as np
import pandas
import pyro
import pytest
import torch
from pyro.infer.autoguide import AutoMultivariateNormal
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg._catalog import concrete
from bayesreg.certificates import Certificate
from bayesreg.inference import (
    HMC,
    MAP,
    MCLMC,
    NUTS,
    SGHMC,
    SVI,
    SWAG,
    AbstractMethod,
    Ensemble,
    FullRank,
    LaplaceApproximation,
    LowRank,
    MCBatchNorm,
    MCDropout,
    MeanField,
    MicrocanonicalEnsemble,
    resolve,
)
from bayesreg.posteriors import Draws
from tests.conftest import linear_model, network

ALL = 10**6  # more rows than any test has


def by_all_rows(num_steps):
    return MCBatchNorm(batch_size=ALL, mode=MAP(num_steps=num_steps), num_draws=20)


QUICK = {
    "mean-field": lambda: MeanField(num_steps=300),
    "svi": lambda: SVI(num_steps=150, num_particles=2, learning_rate=0.05),
    "low-rank": lambda: LowRank(3, num_steps=100),
    "full-rank": lambda: FullRank(num_steps=100),
    "mc-dropout": lambda: MCDropout(num_steps=300),
    "mc-batchnorm": lambda: by_all_rows(300),
    "ensemble": lambda: Ensemble(8, anchored=True, num_steps=100),
    "swag": lambda: SWAG(num_warmup=50, num_samples=40, thin=5, rank=5, start=MAP(num_steps=500)),
    "sghmc": lambda: SGHMC(num_warmup=200, num_samples=50, thin=2),
    # a sampler's steps are the same early and late; whether it samples is asked in test_finds_the_conjugate_mean
    "hmc": lambda: HMC(2, 10, 10, max_leapfrogs=8, compile=False),
    "nuts": lambda: NUTS(2, 5, 8, max_tree_depth=3, compile=False),
    "mclmc": lambda: MCLMC(2, 30, 20, thin=1, compile=False),
    "mile": lambda: MicrocanonicalEnsemble(2, 30, 20, thin=1, num_steps=30, compile=False),
}
METHODS = {cls.name: QUICK.get(cls.name, cls) for cls in concrete(AbstractMethod)}
SHORT = {  # where it is asked whether two fits are one, not where they end
    **METHODS,
    "mean-field": lambda: MeanField(num_steps=30),
    "svi": lambda: SVI(num_steps=10),
    "low-rank": lambda: LowRank(3, num_steps=10),
    "full-rank": lambda: FullRank(num_steps=10),
    "mc-dropout": lambda: MCDropout(num_steps=30),
    "mc-batchnorm": lambda: by_all_rows(30),
    "ensemble": lambda: Ensemble(8, anchored=True, num_steps=10),
    "swag": lambda: SWAG(num_warmup=0, num_samples=20, thin=1, rank=5),
    "sghmc": lambda: SGHMC(num_warmup=10, num_samples=10, thin=1),
    "mile": lambda: MicrocanonicalEnsemble(2, num_warmup=10, num_samples=10, thin=1, num_steps=2, compile=False),
    "hmc": lambda: HMC(2, 5, 5, max_leapfrogs=4, compile=False),
    "nuts": lambda: NUTS(2, 3, 4, max_tree_depth=2, compile=False),
    "mclmc": lambda: MCLMC(2, 10, 10, thin=1, compile=False),
}
every_method = pytest.mark.parametrize("method", METHODS)


class Undropped(nn.Linear):
    """A linear layer whose inputs are dropped at rate zero."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.drop = nn.Dropout(0.0)

    def forward(self, x):
        return super().forward(self.drop(x))


class Renormed(nn.Linear):
    """A linear layer whose inputs are normalised by all rows: those that are standardised already stay what they are."""

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.norm = nn.BatchNorm1d(sizes[0], affine=False, eps=1e-12)

    def forward(self, x):
        return super().forward(self.norm(x))


LINEAR = {"mc-dropout": Undropped, "mc-batchnorm": Renormed}  # what a method needs, and what leaves the model what it is


def linear_for(method):
    """The conjugate model with the layer that the method needs."""
    model = linear_model()
    if method not in LINEAR:
        return model
    with torch.random.fork_rng():
        module = LINEAR[method](10, 1).double()
    module.load_state_dict(model.module.state_dict(), strict=False)
    return br.BayesianModel(module, model.spec.rules, model.likelihood, model.standardize)


def state_of(module):
    tensors = {k: v.clone() for k, v in module.state_dict().items()}
    return tensors, {n: m.training for n, m in module.named_modules()}, {n: p.grad for n, p in module.named_parameters()}


def assert_same(before, after):
    assert before[0].keys() == after[0].keys()
    assert all(before[0][k].equal(after[0][k]) for k in before[0])
    assert before[1:] == after[1:]


@pytest.fixture
def few(standard_diabetes):
    X, y = standard_diabetes
    return X[:60], y[:60]


@every_method
class TestEveryMethod:
    def test_has_a_name_and_a_purpose(self, method):
        cls = next(c for c in concrete(AbstractMethod) if c.name == method)
        assert isinstance(resolve(method), cls)
        assert cls.when.endswith(".")
        assert cls.__doc__

    def test_a_switch_is_true_or_false(self, method):
        """A text such as "False" would count as True, and 1 is no answer to a yes or no."""
        cls = next(c for c in concrete(AbstractMethod) if c.name == method)
        for name, parameter in inspect.signature(cls).parameters.items():
            for bad in ("False", 1, None) if parameter.annotation == "bool" else ():
                with pytest.raises(ValueError, match=rf"{name} must be True or False, but .* came; write it without quotes"):
                    cls(**{name: bad})
            if "compile" in name:
                with pytest.raises(ValueError, match="compile must be one of 'auto'"):
                    cls(**{name: "False"})

    def test_leaves_everything_as_it_was(self, method, few):
        """Module, Pyro's store and torch's random state: after fit, predict, sample, compare, save."""
        module = nn.Sequential(LINEAR.get(method, nn.Linear)(10, 1), nn.Dropout(0.0)).double()
        model = br.BayesianModel(module, priors.Normal(0.3), likelihoods.Gaussian(0.7), standardize=True)
        before, inner, rng = state_of(module), state_of(model.module), torch.get_rng_state()
        numpy_state = np.random.get_state()[1].copy()
        dtype, store = torch.get_default_dtype(), dict(pyro.get_param_store().items())
        post = br.fit(model, *few, method=SHORT[method]())
        fitted = state_of(post.model.module)
        post.predict(few[0], num_samples=20)
        post.sample(3, seed=1)
        br.compare({method: post}, *few, num_samples=20)
        str(model.prior_table())
        assert_same(before, state_of(module))
        assert_same(inner, state_of(model.module))
        assert_same(fitted, state_of(post.model.module))
        assert torch.get_rng_state().equal(rng)
        assert (np.random.get_state()[1] == numpy_state).all()
        assert torch.get_default_dtype() == dtype
        assert dict(pyro.get_param_store().items()) == store

    def test_same_seed_same_answer(self, method, few):
        """Twice the same fit, from arrays and from a dataset, once heard and once unheard; another seed is another one."""
        heard, dataset = [], TensorDataset(*map(torch.tensor, few))
        a = br.fit(linear_for(method), *few, method=SHORT[method](), seed=0, progress=lambda *what: heard.append(what))
        b = br.fit(linear_for(method), dataset, method=SHORT[method](), seed=0)
        assert a.mean["weight"].equal(b.mean["weight"])
        if method == "mean-field":
            other = br.fit(linear_for(method), *few, method=SHORT[method](), seed=1)
            assert not a.mean["weight"].equal(other.mean["weight"])
        assert a.sample(4, seed=3)["weight"].equal(b.sample(4, seed=3)["weight"])
        if method not in ("map", "mc-dropout", "mc-batchnorm"):  # at rate zero a point too, and by all rows
            assert not a.sample(4, seed=3)["weight"].equal(a.sample(4, seed=4)["weight"])
        if method != "exact":
            steps = [step for step, _, _ in heard]
            assert steps == sorted(steps)
            assert all(np.isfinite(objective) for _, _, objective in heard)

    def test_shapes_and_units(self, method, diabetes):
        X, y = diabetes[0][:80], diabetes[1][:80]
        post = br.fit(linear_for(method), X, y, method=SHORT[method]())
        assert post.mean["weight"].shape == post.std["weight"].shape == (1, 10)
        assert post.sample(7)["weight"].shape == (7, 1, 10)
        pred = post.predict(X[:5], num_samples=50)
        assert pred.mean.shape == (5,)
        # the noise was known as 0.7 standard deviations of the target
        torch.testing.assert_close(pred.aleatoric_variance, torch.full((5,), (0.7 * y.std()) ** 2, dtype=torch.float64))
        assert y.min() - 100 < float(pred.mean.mean()) < y.max() + 100
        assert post.num_data == 80
        assert post.seed == 0
        assert post.elapsed > 0
        assert isinstance(post.certificate, Certificate)
        assert str(post.certificate) == post.certificate.sentence
        assert post.history.label in ("log joint", "elbo")
        assert post.history.notes

    def test_a_loader_is_streamed_or_refused(self, method, few):
        """A search by batches of a loader ends where the closed form is, or nearly; a method of all rows says so."""
        loader = DataLoader(TensorDataset(torch.tensor(few[0]), torch.tensor(few[1])), batch_size=20, shuffle=True)
        rng = torch.get_rng_state()
        steps = {
            "map": lambda: MAP(num_steps=1000),
            "laplace": lambda: LaplaceApproximation(mode=MAP(num_steps=1000)),
            "sghmc": lambda: SGHMC(num_warmup=100, num_samples=30, thin=1),
            "low-rank": lambda: LowRank(3, num_steps=250),
            "full-rank": lambda: FullRank(num_steps=250),
        }
        try:
            post = br.fit(linear_for(method), loader, method=steps.get(method, METHODS[method])())
        except ValueError as error:
            assert "needs all rows at once, but a DataLoader came" in str(error)  # noqa: PT017
        else:
            assert post.num_data == 60
            expected = br.fit(linear_model(), *few, method="exact")
            sds = (post.mean["weight"] - expected.mean["weight"]).abs() / expected.std["weight"]
            mixing = post.certificate.mixing  # a short chain on batches: what it says of its own Monte Carlo error
            error = 0.0 if mixing is None else 4 * mixing.weights.error
            assert float(sds.max()) < max(error, 0.5 if method in QUICK else 0.1)
        assert torch.get_rng_state().equal(rng)

    def test_works_where_gradients_are_off_and_with_a_module_that_squeezes(self, method, few):
        class Squeezing(nn.Module):
            def __init__(self):
                super().__init__()
                self.linear = LINEAR.get(method, nn.Linear)(10, 1).double()

            def forward(self, x):
                return self.linear(x).squeeze()

        model = br.BayesianModel(Squeezing(), priors.Normal(0.3), likelihoods.Gaussian(0.7))
        with torch.inference_mode():
            post = br.fit(model, *few, method=SHORT[method](), seed=np.int64(1))
        assert post.predict(few[0][:1], num_samples=4).mean.shape == (1,)

    @pytest.mark.parametrize("bad", [np.nan, np.inf])
    def test_refuses_data_that_are_not_finite(self, method, few, bad):
        X, y = few[0].copy(), few[1].copy()
        X[7, 3] = X[9, 1] = bad
        with pytest.raises(
            ValueError, match=r"X must be finite, but 2 of 600 entries are NaN or infinite \(the first at row 7, col"
        ):
            br.fit(linear_for(method), X, y, method=method)
        y[3] = bad
        with pytest.raises(ValueError, match=r"y must be finite, but 1 of 60 entries .* \(the first at row 3\)"):
            br.fit(linear_for(method), few[0], y, method=method)

    def test_refuses_what_does_not_fit(self, method, few):
        X, y = few
        with pytest.raises(ValueError, match=r"X has 60 rows and y has 59"):
            br.fit(linear_for(method), X, y[:-1], method=method)
        with pytest.raises(ValueError, match=r"the module must accept rows of shape \(9,\), but it failed on them"):
            br.fit(linear_for(method), X[:, :9], y, method=method)
        with pytest.raises(ValueError, match=r"one network output for each target, .* give the last layer 2 output"):
            br.fit(linear_for(method), X, np.column_stack([y, y]), method=method)
        with pytest.raises(ValueError, match=r"a target must vary to be standardised, but all 60 values are 1"):
            br.fit(linear_for(method), X, np.ones(60), method=method)

    def test_a_failed_fit_leaves_the_random_state(self, method, few):
        rng = torch.get_rng_state()
        with pytest.raises(ValueError, match="must be finite"):
            br.fit(linear_for(method), few[0] * np.nan, few[1], method=method)
        assert torch.get_rng_state().equal(rng)


@pytest.mark.parametrize("method", ["exact", "map", "laplace"])
def test_any_array_gives_the_same_fit(method, few):
    """Each kind of array, by methods that cost nothing: `fit` reads them for all methods alike."""
    X, y = few
    kinds = [
        (torch.tensor(X), torch.tensor(y)),
        (pandas.DataFrame(X), pandas.Series(y)),
        (pandas.DataFrame(X), pandas.DataFrame({"y": y})),
        (X.tolist(), y.tolist()),
    ]
    expected = br.fit(linear_for(method), X, y, method=SHORT[method]()).mean["weight"]
    for data in kinds:
        assert br.fit(linear_for(method), *data, method=SHORT[method]()).mean["weight"].equal(expected)


# each of these has a proof of its own: test_mean_field, test_svi, test_mc_dropout, test_sampling, test_sghmc, test_samplers
PROVED = ("mean-field", "svi", "mc-dropout", "hmc", "nuts", "mclmc", "mile", "sghmc")


@pytest.mark.parametrize("method", [pytest.param(m, marks=pytest.mark.slow) if m in PROVED else m for m in METHODS])
def test_finds_the_conjugate_mean(method, standard_diabetes, exact):
    longer = {
        "mean-field": lambda: MeanField(num_steps=2000, num_particles=2),
        "svi": lambda: SVI(AutoMultivariateNormal, num_steps=1000, learning_rate=0.03, num_particles=4),
        "mc-dropout": lambda: MCDropout(num_steps=2000),
        "mc-batchnorm": lambda: by_all_rows(2000),
        "ensemble": lambda: Ensemble(400, anchored=True),
        "swag": lambda: SWAG(num_samples=1000, thin=2),
        "sghmc": lambda: SGHMC(num_chains=20, num_warmup=300, num_samples=60, thin=5),
        "hmc": lambda: HMC(8, 60, 60, compile=False),
        "nuts": NUTS,
        "mclmc": lambda: MCLMC(8, 300, 60, thin=4, compile=False),
        "mile": lambda: MicrocanonicalEnsemble(8, 300, 60, thin=4, num_steps=50, compile=False),
    }
    fitter = longer.get(method, METHODS[method])()
    post = br.fit(linear_for(method), *standard_diabetes, method=fitter)
    expected = br.fit(linear_model(), *standard_diabetes, method="exact")
    sds = (post.mean["weight"] - expected.mean["weight"]).abs() / expected.std["weight"]
    sampled = isinstance(post, Draws) or method in ("swag", "svi")
    assert float(sds.max()) < (0.3 if sampled else 1e-2)  # a sampler has its Monte Carlo error


def test_methods_are_found_by_name():
    with pytest.raises(
        ValueError, match=r"method must be one of .*'exact', .*, but 'mean-feild' came; did you mean 'mean-field'"
    ):
        br.fit(linear_model(), [[0.0] * 10], [0.0], method="mean-feild")
    with pytest.raises(ValueError, match=r"model must be a BayesianModel, but Linear came; wrap the network"):
        br.fit(nn.Linear(1, 1), [[0.0]], [0.0], method="map")
    with pytest.raises(ValueError, match=r"seed must be a whole number >= 0 and below 2\*\*64, but -1 came"):
        br.fit(linear_model(), [[0.0] * 10], [0.0], method="map", seed=-1)


@pytest.mark.parametrize("likelihood", ["gaussian", "bernoulli", "categorical"])
@pytest.mark.parametrize("method", ["map", "laplace", "mean-field"])
def test_every_likelihood_can_be_fitted(method, likelihood, breast_cancer):
    X, y = breast_cancer[0][:200, :5], breast_cancer[1][:200]
    kind = {
        "gaussian": br.likelihoods.Gaussian(),
        "bernoulli": likelihoods.Bernoulli(),
        "categorical": likelihoods.Categorical(),
    }
    model = br.BayesianModel(network(5, 4, 2 if likelihood == "categorical" else 1), likelihood=kind[likelihood])
    quick = {"map": MAP(), "laplace": "laplace", "mean-field": MeanField(num_steps=200)}[method]
    pred = br.fit(model, X, y, method=quick).predict(X, num_samples=100)
    assert pred.mean.shape == ((200, 2) if likelihood == "categorical" else (200,))
    guess = pred.mean.argmax(1) if likelihood == "categorical" else pred.mean > 0.5
    assert float((guess.int().numpy() == y).mean()) > 0.85
