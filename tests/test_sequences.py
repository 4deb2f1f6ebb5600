"""A sequence of targets a row, (N, T, K): the same as T·K targets a row."""

import numpy as np
import pytest
import torch
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors

N, T, K = 60, 4, 2
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, T, 3))
Y = X[..., :1] * [1.0, -0.5] + X.cumsum(1)[..., 1:2] * 0.3 + 0.1 * RNG.normal(size=(N, T, K)) + [5.0, -40.0]


class Steps(nn.Module):
    """A line at each step, and what it was fed so far."""

    def __init__(self, flat):
        super().__init__()
        self.line, self.flat = nn.Linear(6, K).double(), flat
        nn.init.zeros_(self.line.weight)

    def forward(self, x):
        found = self.line(torch.cat([x, x.cumsum(1)], -1))
        return found.flatten(1) if self.flat else found


@pytest.mark.parametrize("method", ["map", "laplace"])
def test_steps_are_targets_side_by_side(method):
    fits = []
    for flat in (False, True):
        model = br.BayesianModel(Steps(flat), priors.Normal(1.0), likelihoods.Gaussian(), True)
        fits.append(br.fit(model, X, Y.reshape(N, -1) if flat else Y, method=method, seed=0))
    one, other = (fit.predict(X, num_samples=50, seed=0) for fit in fits)
    assert one.mean.shape == (N, T * K)
    torch.testing.assert_close(one.mean, other.mean)
    torch.testing.assert_close(one.log_prob(Y), other.log_prob(Y.reshape(N, -1)))
    assert float((one.mean.reshape(N, T, K) - torch.tensor(Y)).square().mean().sqrt()) < 0.5
    found = br.compare({"a": fits[0]}, X, Y).scores["a"]
    assert found["rmse"] == pytest.approx(br.compare({"a": fits[1]}, X, Y.reshape(N, -1)).scores["a"]["rmse"])


def test_counts_in_sequence_and_their_exposure():
    y = RNG.poisson(np.exp(1 + X[..., :K])).astype(float)
    model = br.BayesianModel(Steps(False), priors.Normal(1.0), likelihoods.Poisson(), True)
    mode = br.fit(model, X, y, method="map", seed=0, offset=np.zeros((N, T, K)), sample_weight=np.ones(N))
    plain = br.fit(model, X, y, method="map", seed=0)
    torch.testing.assert_close(mode.mean["line.weight"], plain.mean["line.weight"], rtol=1e-5, atol=1e-6)


def test_four_axes_are_refused():
    model = br.BayesianModel(Steps(False))
    with pytest.raises(ValueError, match=r"y must have shape \(N,\), \(N, K\) or \(N, T, K\), but \(60, 4, 2, 1\) came"):
        br.fit(model, X, Y[..., None], method="map")
