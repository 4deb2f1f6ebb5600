"""A fit that cannot go on: whatever the method, the error carries the last good point as a posterior that predicts."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.inference import MAP, LaplaceApproximation, MCBatchNorm, MCDropout, MeanField
from bayesreg.solvers import FitError

X = torch.randn(103, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = X.sum(1)
ADAM = MAP(optimizer="adam", num_steps=200)
KINDS = {  # method, batch normalisation, dropout, kind of the last good point
    "map": (ADAM, False, False, "Dirac"),
    "map, batch normalisation": (MAP(num_steps=200, batch_size=20), True, False, "Dirac"),
    "laplace": (LaplaceApproximation(mode=ADAM), False, False, "Dirac"),
    "mean-field": (MeanField(num_steps=200, initial_scale=0.03), False, False, "Guide"),
    "mean-field, batch normalisation": (MeanField(num_steps=200, batch_size=20, initial_scale=0.03), True, False, "Guide"),
    "mc-dropout": (MCDropout(num_steps=200), False, True, "Masks"),
    "mc-batchnorm": (MCBatchNorm(20, ADAM, num_draws=10), True, False, "WithStatistics"),
}


class Breaking(nn.Module):
    """A network that turns NaN, or raises, in pass number 120, or from then on; copies count together."""

    def __init__(self, batchnorm=False, dropout=False, raises=False, counted=None):
        super().__init__()
        extra = [nn.BatchNorm1d(4)] * batchnorm + [nn.Dropout(0.1)] * dropout
        self.net = nn.Sequential(nn.Linear(3, 4), *extra, nn.Tanh(), nn.Linear(4, 1)).double()
        self.raises, self.counted = raises, counted or {"passes": 0, "from": 120, "most": 1}

    def __deepcopy__(self, memo):
        made = Breaking(raises=self.raises, counted=self.counted)
        made.net = copy.deepcopy(self.net, memo)
        return made.train(self.training)

    def forward(self, x):
        self.counted["passes"] += 1
        output = self.net(x)
        if 0 <= self.counted["passes"] - self.counted["from"] < self.counted["most"]:
            if self.raises:
                raise ArithmeticError("the sensor is gone")
            return output * float("nan")
        return output


def model_of(net):
    return br.BayesianModel(net, priors.Normal(0.3), likelihoods.Gaussian(0.5))


def check(failure, kind, said, net=None):
    post = failure.posterior
    if net is not None:
        net.counted["from"] = 10**9  # it works again
    assert type(post).__name__ == kind
    assert failure.step > 0
    assert not post.certificate.converged
    assert "Stopped: the last good point" in str(post.certificate) or kind == "WithStatistics"
    assert all(bool(value.isfinite().all()) for value in post.mean.values())
    assert all(bool(value.isfinite().all()) for value in post.model.module.state_dict().values())
    assert bool(post.predict(X[:9], num_samples=20).mean.isfinite().all())
    assert said in str(failure)


@pytest.mark.parametrize("raises", [False, True], ids=["nan", "raises"])
@pytest.mark.parametrize("name", KINDS)
def test_a_network_that_breaks(name, raises):
    method, batchnorm, dropout, kind = KINDS[name]
    net, said = Breaking(batchnorm, dropout, raises), "raised ArithmeticError: the sensor is gone"
    with pytest.raises(FitError, match=said if raises else "loss must stay finite") as found:
        br.fit(model_of(net), X, Y, method=method, progress=False)
    check(found.value, kind, "posterior` is the last good point", net)


@pytest.mark.parametrize("name", ["mc-dropout", "mc-batchnorm"])
def test_a_network_that_stays_broken_leaves_the_mode(name):
    method, batchnorm, dropout, _ = KINDS[name]
    net = Breaking(batchnorm, dropout, raises=True)
    net.counted["most"] = 10**9
    with pytest.raises(FitError, match="raised ArithmeticError: the sensor is gone") as found:
        br.fit(model_of(net), X, Y, method=method, progress=False)
    check(found.value, "Dirac", "posterior` is the last good point", net)


class Ending(IterableDataset):
    """Rows that end with an error after so many."""

    def __init__(self, most):
        self.most, self.read = most, 0

    def __iter__(self):
        for row in zip(X, Y, strict=True):
            self.read += 1
            if self.read > self.most:
                raise OSError("the disk is gone")
            yield row


@pytest.mark.parametrize("name", ["map", "laplace", "mean-field", "mean-field from a mode", "mc-dropout"])
def test_a_loader_that_raises(name):
    kinds = {**KINDS, "mean-field from a mode": (MeanField(num_steps=200), False, False, "Dirac")}  # as far as it came
    method, batchnorm, dropout, kind = kinds[name]
    net, rows = Breaking(batchnorm, dropout).net, DataLoader(Ending(103 * 20 + 21), 20)
    with pytest.raises(FitError, match=r"batch \d of epoch \d+ .* raised OSError: the disk is gone") as found:
        br.fit(model_of(net), rows, num_data=103, method=method, progress=False)
    check(found.value, kind, "mend the loader")


def test_a_search_by_lbfgs():
    net = Breaking(raises=True)
    net.counted["from"] = 60
    with pytest.raises(FitError, match="every pass through the network must succeed") as found:
        br.fit(model_of(net), X, Y, method=MAP(optimizer="lbfgs"), progress=False)
    check(found.value, "Dirac", "the sensor is gone", net)


def test_nothing_is_lost_before_the_first_step():
    net = Breaking(raises=True)
    net.counted |= {"from": 1, "most": 10**9}
    with pytest.raises(ValueError, match=r"the module must accept rows .* it failed on them: .*the sensor is gone"):
        br.fit(model_of(net), X, Y, method=ADAM, progress=False)
