"""Several sets fitted in one vmapped run: the answers of single fits, and what cannot be fitted together is refused."""

import numpy as np
import pytest
import torch
from torch import nn

import bayesreg as br
from bayesreg import layers, priors
from bayesreg.inference import MCDropout

METHOD = MCDropout(num_steps=400, learning_rate=0.02)


def data(seed, rows=60):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, 3))
    return X, (2 + seed) * X[:, 0] + 0.2 * rng.normal(size=rows)


def model(seed, *parts, prior=None):
    torch.manual_seed(seed)
    noise = parts or (layers.Dropout(0.0),)
    net = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), *noise, nn.Linear(6, 1)).double()
    return br.BayesianModel(net, prior, standardize=True)


@pytest.fixture(autouse=True)
def _kept():
    with torch.random.fork_rng():
        yield


@pytest.mark.slow
def test_without_noise_each_fit_is_the_single_one():
    """At rate zero all is determined: same start, same rows, same steps; every set has its own standardisation."""
    sets, models = [data(seed) for seed in range(3)], [model(seed) for seed in range(3)]
    together = METHOD.fit_each(models, sets, seed=4, progress=False)
    for found, one, (X, y) in zip(together, models, sets, strict=True):
        alone = METHOD.fit(one, X, y, seed=4)
        for name, value in alone.mean.items():
            torch.testing.assert_close(found.mean[name], value, rtol=1e-7, atol=1e-9)
        assert found.history.objective[-1] == pytest.approx(alone.history.objective[-1], rel=1e-9)
        torch.testing.assert_close(found.predict(X, num_samples=1).mean, alone.predict(X, num_samples=1).mean)
        assert found.certificate.converged is alone.certificate.converged
        assert found.method == "mc-dropout"


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_each_set_learns_its_own_rate(seed):
    """Learned numbers go to their own member: units that only scatter are dropped where the noise drowns the rest."""
    X, y = data(1)
    noisy = y + 6 * np.random.default_rng(9).normal(size=len(y))
    rates = [
        float(post.model.module[2].rate)
        for post in MCDropout(num_steps=1500).fit_each(
            [model(seed, layers.ConcreteDropout(0.1)) for _ in range(2)], [(X, y), (X, noisy)], seed=seed, progress=False
        )
    ]
    assert rates[1] > 2 * rates[0]


@pytest.mark.parametrize(
    ("models", "sets", "message"),
    [
        ([model(0)], [data(0), data(1)], r"each set needs a model of its own, but 1 models and 2 sets came"),
        ([], [], r"each set needs a model of its own, but 0 models and 0 sets came"),
        (
            [model(0), model(1)],
            [data(0), data(1, 50)],
            r"arrays with equally many rows, .*, but 50, 60 rows came; fit them one",
        ),
        (
            [model(0), model(1, prior=priors.Normal(0.5))],
            [data(0), data(1)],
            r"must have the same tensors and priors, but 60 rows came and models that differ; fit them one by one",
        ),
        ([model(0, nn.Identity())], [data(0)], r"MCDropout needs a network with dropout, but it has no dropout layer"),
    ],
)
def test_what_cannot_be_fitted_together_is_refused(models, sets, message):
    with pytest.raises(ValueError, match=message):
        METHOD.fit_each(models, sets, progress=False)


def test_fits_that_are_not_done_warn_once_and_say_how_many():
    sets, models = [data(seed) for seed in range(2)], [model(seed) for seed in range(2)]
    with pytest.warns(br.ConvergenceWarning, match=r"mc-dropout: 2 of 2 fits; the first of them: \w.*num_steps") as told:
        MCDropout(num_steps=30, learning_rate=1e-3).fit_each(models, sets, progress=False)
    assert len(told) == 1
    assert told[0].filename == __file__
