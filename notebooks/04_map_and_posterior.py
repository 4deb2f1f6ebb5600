# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # From the mode to the posterior
#
# A regularised fit is the highest point of a posterior. This chapter climbs from that point to the posterior itself, one
# network on every rung:
#
# | rung | method | what it keeps of the posterior |
# |---|---|---|
# | a mode | `MAP` | a point |
# | a normal about it | `LaplaceApproximation`, `SWAG`, `MeanField` | the width of one region |
# | many modes | `Ensemble` | how far regions lie apart |
# | one long run | `HMC`, `MCLMC`, `NUTS` | the shape; regions, if chains change them |
# | many modes, a run from each | `MicrocanonicalEnsemble` ("mile") | regions, and the shape of each |
#
# 1. A **curve with a gap**: what each rung does not know.
# 2. What **chains** say about themselves: weights that disagree, functions that agree.
# 3. **Held-out rows**: nats by rung, and where three quarters of a nat come from.
# 4. Where the **mode is enough**.
# 5. **Temperature**, and a run that was too short.
#
# Data are generated, or come with scikit-learn. Every claim is followed by a line that checks it.

# %%
import warnings

warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm, where Jupyter has no widgets

import arviz
import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import make_friedman1
from torch import nn

import bayesreg as br
from bayesreg import layers, likelihoods, priors
from bayesreg.arviz import to_arviz
from bayesreg.data import load_diabetes
from bayesreg.inference import HMC, MAP, SWAG, Ensemble, LaplaceApproximation, MeanField, MicrocanonicalEnsemble

warnings.filterwarnings("ignore", category=br.ConvergenceWarning)  # certificates are printed where they matter
plt.rcParams.update({"figure.dpi": 80, "figure.figsize": (9, 3.0), "axes.spines.top": False, "axes.spines.right": False})
BLUE, ORANGE, GREY = "#1f77b4", "#d95f02", "#999999"


def holds(claim, truth):
    """Print a claim that is true or false, and stop if it is false."""
    print(f"{claim}: {'yes' if truth else 'no'}")
    if not truth:
        raise AssertionError(claim)


# %% [markdown]
# ## 1. A curve with a gap
#
# Fifty points of a curve, none of them in the middle; twenty tanh units, 61 weights, a known noise. The posterior of this
# network is not simple, but small enough for Hamiltonian Monte Carlo with many chains (`HMC`), whose draws have no
# bias. It is the reference here.

# %%
NOISE = 0.15


def truth(x):
    return np.sin(2 * x) + 0.3 * x


rng = np.random.default_rng(3)
x = np.concatenate([rng.uniform(-3, -0.7, 25), rng.uniform(0.9, 3, 25)])
y = truth(x) + NOISE * rng.standard_normal(50)


def curve():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 20), nn.Tanh(), nn.Linear(20, 1)).double()
    rules = {"0.*": priors.Normal(2.0), "2.weight": priors.Normal(2.0, fan_in=True)}
    return br.BayesianModel(net, rules, likelihoods.Gaussian(NOISE))


rungs = {
    "MAP": MAP(),
    "Laplace": LaplaceApproximation(),
    "mean-field": MeanField(num_steps=2000),
    "ensemble": Ensemble(num_members=6, num_steps=1000),
    "mile": MicrocanonicalEnsemble(8, num_warmup=1500, num_samples=200, thin=10, energy_variance=(0.5, 0.002), compile=False),
    "HMC": HMC(num_chains=16, num_warmup=150, num_samples=200, compile=False),
}
fits = {name: br.fit(curve(), x[:, None], y, method=method, seed=0) for name, method in rungs.items()}

# %%
grid = np.linspace(-3.2, 3.2, 161)
found = {name: fit.predict(grid[:, None], num_samples=500, seed=0) for name, fit in fits.items()}
sd = {name: predictive.epistemic_variance.sqrt().numpy() for name, predictive in found.items()}

figure, axes = plt.subplots(2, 3, figsize=(9, 5.0), sharex=True, sharey=True, layout="constrained")
for axis, (name, predictive) in zip(axes.flat, found.items(), strict=True):
    mean = predictive.mean.numpy()
    axis.axvspan(-0.7, 0.9, color="#f2f2f2", lw=0)
    axis.fill_between(grid, mean - 2 * sd[name], mean + 2 * sd[name], color=BLUE, alpha=0.3, lw=0)
    axis.plot(grid, mean, color=BLUE, lw=2)
    axis.plot(grid, truth(grid), color=ORANGE, lw=1.2, ls="--")
    axis.plot(x, y, "k.", ms=2.5)
    axis.set(title=name, ylim=(-3, 3))
axes[0, 0].set_ylabel("y (grey: the gap; dashed: the truth)")
axes[1, 0].set_ylabel("band: ± 2 sd of the function")
plt.show()

gap, seen = (grid > -0.5) & (grid < 0.7), (np.abs(grid) > 1.2) & (np.abs(grid) < 2.8)
for name in fits:
    print(
        f"{name:>10}: sd of the function {sd[name][seen].mean():.3f} where the data are, {sd[name][gap].mean():.3f} in the gap"
    )
on_data, in_gap = ({name: sd[name][where].mean() / sd["HMC"][where].mean() for name in fits} for where in (seen, gap))
holds("the ensemble knows less than a fifth of the gap's sd", in_gap["ensemble"] < 0.2)
holds("mean-field says too much on the data, by more than a half", on_data["mean-field"] > 1.5)
holds(
    "Laplace knows the data, and misses some of the gap", abs(on_data["Laplace"] - 1) < 0.1 and 0.6 < in_gap["Laplace"] < 0.95
)
holds(
    "mile is within a tenth on the data and a sixth in the gap",
    abs(on_data["mile"] - 1) < 0.1 and abs(in_gap["mile"] - 1) < 1 / 6,
)

# %% [markdown]
# - **MAP** is one function, and says nothing about the gap.
# - The **ensemble** has several functions, and here they are nearly one: from every start the search finds the same smooth
#   curve. How far modes lie apart says nothing of how wide each is.
# - **Mean-field** has an sd for each weight and no correlations: twice as unsure as it should be where the data are, less
#   than it should be in the gap.
# - **Laplace** knows the gap by the curvature at one mode, and misses what is not normal about it. It is a good answer on a
#   small smooth network.
# - **mile** has the picture of **HMC**, in less time; and it goes on to networks that are too large for HMC. Its steps are not
#   corrected by a Metropolis rule, and are smaller here than by default, which would make the bands on the data 11 to 15 % too
#   wide (three seeds): `energy_variance` says how large an error by dimension a step may make.
#
# ## 2. What chains say about themselves
#
# Are these draws of the posterior? The usual test compares chains: $\hat R$ is how much wider all together are than each by
# itself, and 1 where they agree. On single weights of a network the test has to fail, or mean nothing: units may
# change places and signs may flip, without any change of the function, so that each chain lives in one of $20!\cdot2^{20}$
# copies. On *predictions* it is a fair test. The certificate does both, and says which is which.

# %%
for name in ("HMC", "mile"):
    print(f"{name}: {fits[name].certificate}\n")

# %%
mile = fits["mile"]
data = to_arviz(mile).posterior  # by chain and draw
weights = np.concatenate([np.asarray(data[name]).reshape(8, 200, -1) for name in ("0.weight", "0.bias", "2.weight")], axis=2)
outputs = mile.predict_drawn(mile.in_order(1600, 0), grid[::4, None]).output.numpy().reshape(8, 200, -1)
rhat = {
    name: np.array([float(arviz.rhat(values[:, :, j])) for j in range(values.shape[2])])
    for name, values in (("weights", weights), ("outputs", outputs))
}

figure, axes = plt.subplots(1, 3, figsize=(9, 3.0), layout="constrained")
colours = plt.get_cmap("tab10")
for axis, values, title in (
    (axes[0], weights[:, :, 40], "a weight of the last layer"),
    (axes[1], outputs[:, :, len(grid[::4]) // 2], "the function at 0"),
):
    for c in range(8):
        axis.plot(values[c], color=colours(c), lw=0.8)
    axis.set(title=title, xlabel="draw of each chain")
for place, values in enumerate(rhat.values()):
    axes[2].plot(values, place + np.random.default_rng(0).uniform(-0.2, 0.2, len(values)), ".", color=(ORANGE, BLUE)[place])
axes[2].axvline(1.05, color=GREY, lw=1, ls=":")
axes[2].set(title="R̂ of each", yticks=[0, 1], yticklabels=list(rhat), xscale="log")
axes[2].set_xticks([1.05, 1.2, 1.5, 2], ["1.05", "1.2", "1.5", "2"])
axes[2].minorticks_off()
plt.show()
print(f"median R̂: weights {np.median(rhat['weights']):.2f}, outputs {np.median(rhat['outputs']):.3f}")
holds("chains agree on functions better than on weights", np.median(rhat["outputs"]) < np.median(rhat["weights"]))

# %% [markdown]
# Left, each chain wanders slowly and has a place of its own; in the middle, all chains cover the same ground within a few
# draws. So: **read predictions, not weights.** The mean of a weight over these chains is an average over copies, and
# means nothing.
#
# ## 3. Held-out rows
#
# Friedman's function of five inputs (a sixth does nothing), 300 rows, little noise; a network of two ReLU
# layers whose noise scale is learned. Little noise is where a network is worth having, and where its posterior is far
# from a point.

# %%
X, target = make_friedman1(1300, n_features=6, noise=0.5, random_state=0)
train, test = slice(0, 300), slice(300, 1300)


def network():
    torch.manual_seed(0)
    net = layers.MLP(6, [16, 16], 1, "relu")
    return br.BayesianModel(net, priors.Normal(1.0), likelihoods.Gaussian(), standardize=True)


ladder = {
    "MAP": MAP(num_steps=2000),
    "mean-field": MeanField(num_steps=2000),
    "Laplace": LaplaceApproximation(mode=MAP(num_steps=2000)),
    "SWAG": SWAG(start=MAP(num_steps=2000)),
    "ensemble": Ensemble(num_members=8, num_steps=1000),
    "mile": MicrocanonicalEnsemble(num_members=8, num_warmup=3000, num_samples=50, thin=10, compile=False),
}
answers = {name: br.fit(network(), X[train], target[train], method=method, seed=0) for name, method in ladder.items()}
scores = br.compare(answers, X[test], target[test])
scores

# %%
figure, axis = plt.subplots(figsize=(9, 2.6))
nats = {name: scores.scores[name]["mlpd"] for name in ladder}
for place, (name, value) in enumerate(nats.items()):
    off = value < -2.2  # far to the left of the picture
    at = -2.15 if off else value
    axis.plot(at, place, "<" if off else "o", color=ORANGE if name == "mile" else BLUE, ms=8)
    axis.text(at, place - 0.25, f"{value:.2f}", ha="center", va="bottom", fontsize=9)
axis.set(yticks=range(len(nats)), yticklabels=list(nats), xlabel="log density of a held-out row, nats", xlim=(-2.3, -0.9))
axis.invert_yaxis()
axis.margins(y=0.15)
plt.show()
print(answers["mile"].certificate)
cheap = {name: value for name, value in nats.items() if name != "mile"}
best = max(cheap, key=cheap.get)
print(f"the best cheap answer is {best}; mile is {nats['mile'] - cheap[best]:.2f} nats a row ahead")
holds("mile is ahead of every other rung by a quarter of a nat", nats["mile"] > cheap[best] + 0.25)
rmse = {name: scores.scores[name]["rmse"] for name in ladder}
holds("and its error is a quarter below the mode's", rmse["mile"] < 0.75 * rmse["MAP"])

# %% [markdown]
# The mode's log density is no misprint: 402 weights fit 300 rows too well, the noise scale that the mode learns is far too
# small, and its "95 %" intervals hold a third of the new rows. Each rung mends something. A normal about the mode has intervals
# that are wide enough, but hardly a better mean: many of its draws are poor functions. The ensemble has a better mean, and
# intervals that are too narrow. The chains have both.
#
# ### The three quarters of a nat
#
# On NASA's airfoil noise data (1,202 rows to fit, 301 held out; a 16-16-16-16 network; all standardised) the same
# ladder was measured as `benchmarks/airfoil.py` does, in nats a row, beside published numbers for the same split:
#
# | | RMSE | log density |
# |---|---|---|
# | MAP, one noise scale | .207 | −.02 |
# | MAP, a noise scale for each row | .231 | .02 |
# | Laplace | .214 | .13 |
# | mean-field | .288 | −.10 |
# | MC dropout | .252 | .18 |
# | deep ensemble (published) | .365 | −.18 |
# | microcanonical Langevin ensemble, ours, 50,000 steps of warm-up, one seed | .1196 | .919 |
# | microcanonical Langevin ensemble (published, scikit-learn package `sklearn-contrib-bde`) | .1215 | .913 |
#
# From the best of the cheap answers to the sampler it is **three quarters of a nat a row**: what was observed was twice
# as probable. It is not only a matter of wider intervals. The error itself halves: the mean over the posterior is a better
# function than its highest point, since the mode of a flexible network follows the noise, and draws that follow it in
# different ways cancel.
#
# ## 4. Where the mode is enough
#
# Many rows for each unknown, noise that is large, a function that is simple. A linear model of the 442 diabetes patients: the
# exact posterior against its mode.

# %%
split = load_diabetes().train_test_split(0.2, seed=0)


def linear():
    return br.BayesianModel(nn.Linear(10, 1).double(), priors.Normal(1.0), likelihoods.Gaussian(0.7), standardize=True)


both = {name: br.fit(linear(), split.X_train, split.y_train, method=name) for name in ("map", "exact")}
line = br.compare(both, split.X_test, split.y_test)
gain = line.scores["exact"]["mlpd"] - line.scores["map"]["mlpd"]
print(
    f"a linear model's whole posterior gains {gain:+.3f} nats a row; on Friedman's function {nats['mile'] - nats['MAP']:+.2f}"
)
holds("two hundredths of a nat at most", abs(gain) < 0.02)

# %% [markdown]
# Eleven unknowns, 354 rows: a posterior costs each row about $P/(2N)$ nats, here a hundredth or two. The rule of
# thumb: **the mode is enough where rows are many times the unknowns that the data can tell apart.** It misleads where a
# network has more freedom than the rows pin down, and away from the rows (section 1), whatever their number.
#
# ## 5. Temperature, and a run that was too short
#
# `temperature=T` samples the density to the power $1/T$. A cold posterior, $T<1$, is nearer to the mode; it is sometimes ahead
# on held-out rows, which says that the prior or the noise model is off. It is no posterior, and the certificate says so. It
# also says when a run is too short to be believed.

# %%
for what, method in {
    "cold": HMC(num_chains=16, num_warmup=100, num_samples=50, temperature=0.1, compile=False),
    "too short": HMC(num_chains=4, num_warmup=10, num_samples=10, compile=False),
}.items():
    fit = br.fit(curve(), x[:, None], y, method=method, seed=0)
    spread = fit.predict(grid[:, None], num_samples=500, seed=0).epistemic_variance.sqrt().numpy()[gap].mean()
    print(
        f"{what}: sd in the gap {spread:.2f}, {spread / sd['HMC'][gap].mean():.0%} of the posterior's.\n  {fit.certificate}\n"
    )

# %% [markdown]
# ## To take away
#
# 1. A mode is a point of a posterior; a Laplace approximation knows the width of its region, an ensemble that there are others.
# 2. A sampler knows both, and its certificate says whether to believe it: predictions first, weights hardly ever.
# 3. For a network and rows in memory, take `mile`; for a small model `hmc`; `nuts` to check either; `sghmc` for mini-batches.
# 4. On rough functions with little noise this is worth tenths of a nat a row and half of the error. On a linear
#    model with many rows it is worth nothing, and the mode is done in milliseconds.
#
# Try it: give section 3 a noise of 3 in place of 0.5, and see the ladder shrink; or 3,000 rows. On the command line:
# `bayesreg report FILE --target y --method map --method mile`.
