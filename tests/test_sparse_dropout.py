"""Sparse variational dropout on real digits: twenty times fewer weights, and no worse than the dense network."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import bayesreg as br
from bayesreg import layers, likelihoods, priors
from bayesreg.inference import MAP, MCDropout


def network(sparse):
    torch.manual_seed(0)
    made = []
    for a, b in itertools.pairwise((64, 300, 100, 10)):
        layer = nn.Linear(a, b)
        made += [layers.VariationalDropout(layer, initial_scale=0.02) if sparse else layer, nn.ReLU()]
    return nn.Sequential(*made[:-1])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::bayesreg.ConvergenceWarning")  # stopped where the error no longer moves
def test_twenty_times_fewer_weights_at_the_dense_network_s_error():
    X, y = load_digits(return_X_y=True)
    X, test = (X / 16).astype(np.float32), np.arange(len(y)) % 5 == 4
    dense = br.BayesianModel(network(False), priors.Normal(1.0), likelihoods.Categorical())
    mode = br.fit(dense, X[~test], y[~test], method=MAP("adam", num_steps=1500, batch_size=128, learning_rate=1e-3))
    method = MCDropout(num_steps=4000, batch_size=128, learning_rate=3e-3, warmup=0.7)
    model = br.BayesianModel(network(True), likelihood=likelihoods.Categorical())
    pruned = br.fit(model, X[~test], y[~test], method=method).prune()
    errors = [float((fit.predict(X[test]).mean.argmax(1).numpy() != y[test]).mean()) for fit in (mode, pruned)]
    weights = [value for name, value in pruned.mean.items() if name.endswith("weight")]
    assert sum(w.numel() for w in weights) >= 20 * sum(int((w != 0).sum()) for w in weights)
    assert errors[0] < 0.05
    assert errors[1] <= errors[0] + 0.005
