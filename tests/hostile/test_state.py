"""No global state: what a person's process has set is what it was after every method and every public function."""

import contextlib
import random
import threading
import warnings

import matplotlib
import numpy as np
import pyro
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bayesreg as br
from bayesreg import inference, likelihoods, plots, priors
from bayesreg.inference import methods

X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = X @ torch.tensor([0.3, 0.7, 1.0], dtype=torch.float64) + 0.1 * X[:, 0].sin()
LABELS = (Y > 0).long()


def state():
    """Everything that belongs to the whole process."""
    return {
        "random": random.getstate(),
        "numpy": [value.tolist() if isinstance(value, np.ndarray) else value for value in np.random.get_state()],
        "torch": torch.get_rng_state().tolist(),
        "default dtype": torch.get_default_dtype(),
        "threads": torch.get_num_threads(),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "warnings": list(warnings.filters),
        "numpy's errors": np.geterr(),
        "numpy's print": str(np.get_printoptions()),
        "matplotlib": dict(matplotlib.rcParams.items()),
        "pyro": list(pyro.get_param_store().keys()),
    }


@contextlib.contextmanager
def unchanged():
    """The state of the whole process, unusual where it can be, is the same afterwards."""
    random.seed(11)
    np.random.seed(12)
    torch.manual_seed(13)
    before = state()
    yield
    after = state()
    assert [name for name in before if before[name] != after[name]] == []


@torch.random.fork_rng(devices=[])
def linear(prior=None, likelihood=None):
    net = nn.Linear(3, 1, bias=False).double()  # whose first weights are drawn
    return br.BayesianModel(net, prior or priors.Normal(0.3), likelihood or likelihoods.Gaussian(0.5))


@torch.random.fork_rng(devices=[])
def network(*extra):
    net = nn.Sequential(nn.Linear(3, 4), *extra, nn.Tanh(), nn.Linear(4, 1)).double()
    return br.BayesianModel(net, priors.Normal(0.3), likelihoods.Gaussian(0.5))


def fit(model, method, X=X, y=Y, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", br.ConvergenceWarning)
        return br.fit(model, X, y, method=method, progress=False, **options)


FITS = {
    "exact": lambda: fit(linear(), "exact"),
    "gibbs": lambda: fit(linear(), inference.Gibbs(4, 2, 10)),
    "map, least squares": lambda: fit(linear(), "map"),
    "map, lasso": lambda: fit(linear(priors.Laplace(0.05)), "map"),
    "map, elastic net": lambda: fit(linear(priors.ElasticNet(0.05, 0.3)), "map"),
    "map, group lasso": lambda: fit(linear(priors.GroupLasso(0.05, per="column")), "map"),
    "map, fista": lambda: fit(linear(priors.Laplace(0.3)), inference.MAP(optimizer="fista")),
    "map, lbfgs": lambda: fit(network(), inference.MAP(optimizer="lbfgs", num_steps=30)),
    "map, adam": lambda: fit(network(), inference.MAP(optimizer="adam", num_steps=30)),
    "map, restarts": lambda: fit(network(), inference.MAP(optimizer="adam", num_steps=30, num_restarts=3)),
    "map, batch normalisation": lambda: fit(network(nn.BatchNorm1d(4)), inference.MAP(num_steps=30, batch_size=10)),
    "map, dropout": lambda: fit(network(nn.Dropout(0.1)), inference.MAP(num_steps=30)),
    "map, a loader": lambda: fit(network(), inference.MAP(num_steps=30), loader(), None),
    "laplace": lambda: fit(network(), inference.LaplaceApproximation(mode=inference.MAP(num_steps=300))),
    "auto": lambda: fit(linear(), inference.Auto()),
    "mean-field": lambda: fit(network(), inference.MeanField(num_steps=30)),
    "low-rank": lambda: fit(network(), inference.LowRank(2, num_steps=30)),
    "full-rank": lambda: fit(network(), inference.FullRank(num_steps=30)),
    "svi": lambda: fit(network(), inference.SVI(num_steps=30)),
    "mc-dropout": lambda: fit(network(nn.Dropout(0.1)), inference.MCDropout(num_steps=30)),
    "mc-batchnorm": lambda: fit(
        network(nn.BatchNorm1d(4)), inference.MCBatchNorm(10, inference.MAP(num_steps=30), num_draws=20)
    ),
    "nuts": lambda: fit(network(), inference.NUTS(2, 4, 8, max_tree_depth=3)),
    "hmc": lambda: fit(network(), inference.HMC(2, 40, 20, max_leapfrogs=4)),
    "mclmc": lambda: fit(network(), inference.MCLMC(2, 40, 20, thin=1)),
    "mclmc, compiled": lambda: fit(linear(), inference.MCLMC(2, 30, 20, thin=1, adjusted=True, compile=True)),
    "mile": lambda: fit(network(), inference.MicrocanonicalEnsemble(2, 30, 20, thin=1, num_steps=5)),
    "ensemble": lambda: fit(network(), inference.Ensemble(2, num_steps=20)),
    "ensemble, anchored": lambda: fit(linear(), inference.Ensemble(5, anchored=True)),
    "swag": lambda: fit(network(nn.BatchNorm1d(4)), inference.SWAG(20, 20, thin=1, rank=3, start=inference.MAP(num_steps=30))),
    "sghmc": lambda: fit(network(), inference.SGHMC(2, 20, 20, thin=1, batch_size=10)),
}


def loader():
    return DataLoader(TensorDataset(X, Y), 10, shuffle=True)


def test_every_method_is_in_the_table():
    assert set(methods()) <= {name.split(",")[0] for name in FITS}


# of the chains nuts is quick: all of them keep, draw and leave through `AbstractSampling` and `Draws`
SLOW = ("mclmc, compiled", "hmc", "mclmc", "mile", "sghmc")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in FITS])
def test_a_fit_and_its_posterior(name, tmp_path):
    with unchanged():
        use(FITS[name], tmp_path)


def use(fitted, folder):
    post = fitted()
    predictive = post.predict(X[:5], num_samples=20)
    predictive.sample(7)
    _ = post.mean, post.std, predictive.mean, predictive.interval() if predictive.kind == "regression" else None
    post.sample(5)
    br.save(post, folder / "post.pt")
    br.load(folder / "post.pt").predict(X[:5], num_samples=3)
    if hasattr(post, "noises"):
        post.predict(X[:5], num_samples=3, masks="row")
    with pytest.raises(ValueError, match="one row for each other"):  # nor a call that fails
        fit(linear(), "exact", X, Y[:3])


@torch.random.fork_rng(devices=[])
def hierarchical():
    return br.BayesianModel(
        nn.Linear(3, 1).double(), {"weight": priors.Normal(priors.HalfCauchy(1.0)), "bias": priors.Normal(1.0)}
    )


CALLS = {
    "a model": lambda: print_free(network().prior_table()),
    "a prior predictive": lambda: hierarchical().prior_predictive(X, num_samples=5),
    "draws of a prior": lambda: hierarchical().sample_prior(5),
    "a binding": lambda: network(nn.Dropout(0.1)).bind(X, Y),
    "a binding to a loader": lambda: network().bind(loader()),
    "a path": lambda: br.path(linear(priors.Laplace(0.3)), X, Y, rule="weight", folds=3, progress=False),
    "a path of an elastic net": lambda: br.path(
        linear(priors.ElasticNet(0.05, 0.3)), X, Y, rule="weight", folds=None, progress=False
    ),
    "a path of a network": lambda: br.path(network(), X, Y, scales=[0.1, 1.0], folds=2, num_steps=20, progress=False),
    "a path's fit": lambda: br.path(linear(), X, Y, rule="weight", scales=[0.1, 1.0], folds=2, progress=False).fit(0.1),
    "stability": lambda: br.stability(linear(priors.Laplace(0.3)), X, Y, num_bootstraps=5, progress=False),
    "refreshed statistics": lambda: br.refresh_batchnorm(
        fit(network(nn.BatchNorm1d(4)), inference.MeanField(num_steps=20)), loader(), batch_size=10, num_draws=5
    ),
    "a comparison": lambda: str(br.compare({"a": FITS["exact"](), "b": FITS["map, lasso"]()}, X, Y)),
    "a report": lambda: br.report({"a": FITS["exact"](), "b": FITS["mean-field"]()}, X, Y).html,
    "a report of classes": lambda: (
        br.report(
            {
                "a": fit(
                    linear(None, likelihoods.Bernoulli()),
                    "laplace",
                    X,
                    LABELS,
                )
            },
            X,
            LABELS,
        ).html
    ),
    "figures": lambda: (
        plots.history(FITS["map, adam"]())._repr_png_(),
        plots.pit(FITS["exact"]().predict(X), Y)._repr_png_(),
    ),
    "a prior's figure": lambda: plots.priors(priors.HalfCauchy(1.0)),
}


def print_free(table):
    return str(table)


@pytest.mark.parametrize("name", CALLS)
def test_a_public_function(name, capsys):
    with unchanged():
        CALLS[name]()
    assert capsys.readouterr() == ("", "")


def test_two_reports_in_threads_leave_matplotlib_as_it_was():
    posts = {"a": FITS["exact"]()}
    wanted, found = br.report(posts, X, Y).html, []
    with unchanged():
        threads = [threading.Thread(target=lambda: found.append(br.report(posts, X, Y).html)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 2
    assert [len(html) for html in found] == [len(wanted)] * 2
