"""Posteriors and predictions made by hand, for the tests of the report: nothing is fitted."""

import math

import numpy as np
import torch
from torch import nn

from bayesreg import priors
from bayesreg.certificates import Certificate
from bayesreg.comparison import Comparison, paired_difference
from bayesreg.likelihoods import Bernoulli, Categorical, Gaussian
from bayesreg.metrics import evaluate
from bayesreg.model import BayesianModel
from bayesreg.posteriors import Dirac, Draws, FitRecord
from bayesreg.predictive import Predictive
from bayesreg.solvers import History

N, D = 40, 3


def data(kind="regression", N=N, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(N, D))
    f = x @ [1.0, -2.0, 0.0] + 0.5 * rng.normal(size=N)
    outputs = np.stack([f, 10 * f + rng.normal(size=N)], 1)
    return x, {"regression": f, "outputs": outputs, "binary": (f > 0).astype(int), "multiclass": np.digitize(f, [-1, 1])}[kind]


def posteriors(kind="regression", prior=None, converged=True, standardize=False):
    """A mode and draws about it; nothing is fitted."""
    x, y = data(kind, seed=9)
    likelihood = {"binary": Bernoulli(), "multiclass": Categorical()}.get(kind, Gaussian())
    width = {"outputs": 2, "multiclass": 3}.get(kind, 1)
    module = nn.Sequential(nn.Linear(D, 4), nn.Tanh(), nn.Linear(4, width)).double()
    model = BayesianModel(module, prior or priors.Normal(1.0), likelihood, standardize).bind(x, y)
    size = model.num_parameters
    point = 0.3 * torch.randn(size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    noise = torch.randn(200, size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    history = History("log joint", [0, 20, 40], [-90.0, -70.0, -69.5], ["lbfgs: asked for."])
    sentence = "Converged to a mode: the scaled gradient is 1.0e-08." if converged else "Not converged: raise num_steps."
    details = {"scaled gradient": 1e-8, "space": "constrained", "nothing": math.nan}
    mode = FitRecord("map", 3, history, Certificate.checked(converged, sentence, details), 0.25, "constrained")
    drawn = FitRecord("nuts", 4, History("elbo"), Certificate.checked(True, "as made"), 75.0, None, -123.4)
    return {"MAP": Dirac(model, mode, point), "draws": Draws(model, drawn, point + 0.2 * noise)}


def normal(loc, scale, S=1, spread=0.0, seed=0):
    """S components N(loc + spread·ε, scale²)."""
    loc = torch.as_tensor(loc, dtype=torch.float64)
    shift = spread * torch.randn(S, *loc.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return Predictive(Gaussian(), loc + shift, {"noise_scale": torch.full((S,) + (1,) * loc.dim(), scale)})


def compared(predictives, y):
    """A comparison of predictives without posteriors."""
    scores = {name: evaluate(p, y) for name, p in predictives.items()}
    best = max(scores, key=lambda name: scores[name]["mlpd"])
    rows = {name: p.log_prob(y) for name, p in predictives.items()}
    differences = {name: paired_difference(r, rows[best]) for name, r in rows.items()}
    blank = dict.fromkeys(predictives, 1)
    return Comparison(
        scores, predictives, differences, dict.fromkeys(predictives, "made"), blank, dict.fromkeys(predictives, 1.0), best
    )


def draws_of(scale, N, seed=0):
    return scale * np.random.default_rng(seed).normal(size=N)


def texts(card):
    return [line.text for line in card.lines]
