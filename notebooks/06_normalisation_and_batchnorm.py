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
# # Normalisation and batch normalisation
#
# Both subtract a mean and divide by an sd. **Data normalisation** does it to the columns of the data, once, with numbers of
# the training rows. **Batch normalisation** does it inside a network, at every step anew, with numbers of the rows at hand:
#
# $$y=a\,\frac{x-m}{\sqrt{v+\varepsilon}}+b,\qquad m,\,v:\ \text{mean and variance of a channel},\quad a,\,b:\ \text{learned}.$$
#
# The first makes a prior mean something. The second makes a prior mean *nothing*, for the weights just before it, and
# leaves a noise behind that can be read as uncertainty. This chapter says what each of them does:
#
# 1. **Data scaling**, and what it does to a prior.
# 2. Batch normalisation in **training** and at **inference**.
# 3. $m$ and $v$ are a **function of the weights**: each draw has its own.
# 4. Its noise as **uncertainty**.
# 5. Why a **prior on the weights before it** says nothing.
# 6. All of it, and dropout, in **one report**.
#
# Data are generated, or come with scikit-learn. Every claim is followed by a line that checks it.

# %%
import copy
import warnings

warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm, where Jupyter has no widgets

import matplotlib.pyplot as plt
import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import bayesreg as br
from bayesreg import layers, likelihoods, priors
from bayesreg.inference import MAP, MCBatchNorm, MCDropout, MeanField

plt.rcParams.update({"figure.dpi": 80, "figure.figsize": (9, 3.0), "axes.spines.top": False, "axes.spines.right": False})
BLUE, ORANGE, GREY = "#1f77b4", "#d95f02", "#999999"


def check(claim, found, expected, tolerance):
    """Print the relative gap between two arrays, and stop if it is above the tolerance."""
    found, expected = np.asarray(found, dtype=float), np.asarray(expected, dtype=float)
    gap = np.abs(found - expected).max() / np.abs(expected).max()
    print(f"{claim}: relative gap {gap:.0e}")
    if not gap <= tolerance:
        raise AssertionError(f"{claim}: {gap:.1e} is above {tolerance:.0e}")


def holds(claim, truth):
    """Print a claim that is true or false, and stop if it is false."""
    print(f"{claim}: {'yes' if truth else 'no'}")
    if not truth:
        raise AssertionError(claim)


# %% [markdown]
# ## 1. Data scaling
#
# Sixty bolts, their length and their weight. One line is fitted, `weight = w · length + c`, with the prior $N(0,1)$ on
# $w$ and on $c$. In millimetres this says: one more millimetre changes the weight by about a gram. In metres it says that
# one more *metre* does, which for bolts means that length has no effect at all. One number, two
# beliefs. With `standardize=True` it is a third one, which can be held before any data are seen and in any unit: one sd more of
# length changes the weight by about one sd.

# %%
rng = np.random.default_rng(0)
NOISE_G = 4.0
length = rng.uniform(50, 150, 60)[:, None]  # mm
weight = 0.5 * length[:, 0] + NOISE_G * rng.standard_normal(60)  # g
units = {"metres": length / 1000, "millimetres": length}


def line(noise, **options):
    torch.manual_seed(0)
    return br.BayesianModel(nn.Linear(1, 1).double(), priors.Normal(1.0), likelihoods.Gaussian(noise), **options)


lines = {name: br.fit(line(NOISE_G, standardize=False), X, weight, method="map") for name, X in units.items()}
relative = NOISE_G / weight.std()  # a standardised model's noise is in sds of the target
lines |= {
    f"{name}, standardised": br.fit(line(relative, standardize=True), X, weight, method="map") for name, X in units.items()
}

figure, axes = plt.subplots(1, 3, figsize=(9, 3.2), sharey=True, layout="constrained")
for axis, name in zip(axes, ("metres", "millimetres", "millimetres, standardised"), strict=True):
    fit, X = lines[name], units[name.split(",")[0]]
    at = np.linspace(0.4, 1.6, 50)[:, None] * X.mean()
    prior = fit.model.prior_predictive(at, num_samples=40, seed=1)
    axis.plot(at, prior.output.T, color=GREY, lw=0.6, alpha=0.6)
    axis.plot(X, weight, "k.", ms=3)
    axis.plot(at, fit.predict(at).mean, color=BLUE, lw=2)
    axis.set(title=name, xlabel=f"length ({'m' if name == 'metres' else 'mm'})", ylim=(-60, 160))
axes[0].set_ylabel("weight in g (grey: the prior;\nblue: the fit)")
plt.show()

for name, X in units.items():
    A = np.column_stack([X[:, 0], np.ones(60)])
    ridge = np.linalg.solve(A.T @ A / NOISE_G**2 + np.eye(2), A.T @ weight / NOISE_G**2)
    check(f"in {name}: MAP = ridge on the raw columns", [lines[name].mean["weight"].item(), lines[name].mean["bias"].item()],
          ridge, 1e-6)  # fmt: skip
rms = {name: float((fit.predict(units[name.split(",")[0]]).mean - torch.as_tensor(weight)).square().mean().sqrt())
       for name, fit in lines.items()}  # fmt: skip
for name, value in rms.items():
    print(f"{name}: rms residual {value:.1f} g (the noise: {NOISE_G:.0f} g)")
holds("in metres the fit is lost to the prior", rms["metres"] > 3 * NOISE_G)
found = [fit.predict(units[name.split(",")[0]]).mean for name, fit in lines.items() if "standardised" in name]
check("standardised, the unit does not matter", found[0], found[1], 1e-6)

# %% [markdown]
# Left, in metres: the prior knows lines near zero only, and pulls the fit flat. Middle, in millimetres: it allows anything, so
# the fit is that of least squares. Right: it covers the data and not much more. So **standardise, then speak about priors**.
#
# What `standardize=True` does is what one would do by hand: subtract the training rows' mean, divide by their sd, the target
# alike, fit, and turn predictions back. Here for a small network with one column that does not vary, predicting rows
# that are far away.

# %%
train, new = rng.normal([100, -3, 7], [20, 0.01, 0], (80, 3)), rng.normal([200, -3, 7], [20, 0.01, 0], (30, 3))
target = 500 + 0.3 * (train[:, 0] - 100) ** 2 / 20 + 900 * (train[:, 1] + 3) + rng.standard_normal(80)


def small(*before, **options):
    torch.manual_seed(0)
    net = nn.Sequential(*before, layers.MLP(3, (6,), activation="tanh")).double()
    return br.BayesianModel(net, likelihood=likelihoods.Gaussian(0.2), **options)


fit = br.fit(small(standardize=True), train, target, method="map")
statistics = copy.deepcopy(fit.model.standardization)
predicted = fit.predict(new)

sd = np.where(train.std(0) < 1e-9, 1.0, train.std(0))  # a column that does not vary is centred, and keeps its scale
by_hand = br.fit(small(), (train - train.mean(0)) / sd, (target - target.mean()) / target.std(), method="map")
turned = by_hand.predict((new - train.mean(0)) / sd)
check("mean = by hand, in the target's own units", predicted.mean, turned.mean * target.std() + target.mean(), 1e-6)
check("variance too", predicted.variance, turned.variance * target.std() ** 2, 1e-6)

check("the statistics are those of the training rows", statistics.x_mean, train.mean(0), 1e-12)
now = fit.model.standardization
holds("predicting far away has not moved them", now.x_mean.equal(statistics.x_mean) and now.x_scale.equal(statistics.x_scale))
print("columns that do not vary:", statistics.constant)

layer = layers.Standardize.of(train)
with_layer = br.fit(small(layer), train, (target - target.mean()) / target.std(), method="map")
turned = with_layer.predict(new).mean * target.std() + target.mean()
check("layers.Standardize, inputs only = the same", predicted.mean, turned, 1e-6)
print("the layer says so as well:", layer)
holds("the third column is kept, as zeros", layer.constant == (2,) and bool((layer(torch.as_tensor(train))[:, 2] == 0).all()))

# %% [markdown]
# ## 2. Batch normalisation, in training and at inference
#
# The same formula inside a network cannot use fixed numbers: what reaches a hidden layer changes with every step. So $m$
# and $v$ are taken over the batch. At inference a row must not depend on the rows beside it, so training also keeps **running
# averages**, $m\leftarrow0.9\,m+0.1\,m_\text{batch}$ and likewise $v$, and these are used then. One detail: a batch
# is normalised by the biased variance ($1/n$), and the average follows the unbiased one ($1/(n-1)$).
#
# Torch's own layer, by hand, behind a linear layer that is held fixed:

# %%
torch.manual_seed(3)
rows = torch.randn(400, 5) * torch.tensor([0.2, 1.0, 3.0, 1.0, 1.0]) + torch.tensor([0.0, 2.0, 0.0, -1.0, 0.0])
linear, norm = nn.Linear(5, 3), nn.BatchNorm1d(3)
with torch.no_grad():
    before = linear(rows)
    m, v = torch.zeros(3), torch.ones(3)  # where torch's averages start
    means = [m]
    for batch in before[torch.randint(400, (60, 16))]:
        out = norm.train()(batch)
        by_formula = (batch - batch.mean(0)) / (batch.var(0, correction=0) + norm.eps).sqrt()  # a = 1, b = 0 as yet
        m, v = 0.9 * m + 0.1 * batch.mean(0), 0.9 * v + 0.1 * batch.var(0, correction=1)
        means.append(m)
    after = norm.eval()(before)
check("in training: the batch's own m and v", out, by_formula, 1e-5)
check("the averages: means", norm.running_mean, m, 1e-5)
check("the averages: variances, with n/(n − 1)", norm.running_var, v, 1e-5)
check("in evaluation: the averages", after, (before - m) / (v + norm.eps).sqrt(), 1e-5)

# %%
figure, axes = plt.subplots(1, 3, figsize=(9, 3.0), layout="constrained", gridspec_kw={"width_ratios": [1, 1, 1.3]})
for j, colour in enumerate((BLUE, ORANGE, "black")):
    for axis, values in zip(axes, (before, after), strict=False):
        axis.hist(values[:, j].numpy(), bins=np.linspace(-5, 5, 41), color=colour, histtype="step", lw=1.5)
    axes[2].plot([float(mean[j]) for mean in means], color=colour, lw=1.2)
    axes[2].axhline(float(before[:, j].mean()), color=colour, lw=0.8, ls="--")
axes[0].set(title="before", xlabel="what three units put out", yticks=[])
axes[1].set(title="after, in evaluation", xlabel="what three units put out", yticks=[])
axes[2].set(title="running means settle", xlabel="step", ylabel="m (dashed: of all rows)")
plt.show()

# %% [markdown]
# After some thirty steps the averages have forgotten where they started. They never come to rest: small batches, jagged
# averages.
#
# Who may write them? A training step, and nobody else. In this package each fit works on a copy: your module is what it was,
# and the averages are in the posterior's model. The data are those of [chapter 05](05_dropout_is_inference.ipynb), on the
# whole interval.

# %%
rng = np.random.default_rng(1)
NOISE = 0.15


def truth(x):
    return np.sin(1.5 * x) + 0.3 * x


def observed(n):
    x = rng.uniform(-3, 3, n)
    return x[:, None], truth(x) + NOISE * rng.standard_normal(n)


def network():
    torch.manual_seed(0)
    net = layers.MLP(1, (50, 50), 1, "tanh", batchnorm=True)
    return net, br.BayesianModel(net, likelihood=likelihoods.Gaussian(NOISE))


def fitted(model, X, y, method):
    """A fit that does not warn: what its certificate says is printed instead."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", br.ConvergenceWarning)
        return br.fit(model, X, y, method=method, seed=0)


def state(module):
    return {name: buffer.clone() for name, buffer in module.named_buffers()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


x, y = observed(512)
x_new, y_new = observed(400)
net, model = network()
net.train()
mine = copy.deepcopy(net.state_dict())
mode = fitted(model, x, y, MAP(num_steps=1500, batch_size=32))
print(mode.certificate, "\n")

after = state(mode.model.module)
holds("the module that I gave is untouched", same(mine, net.state_dict()) and net.training)
holds("the posterior's own buffers have moved", not torch.equal(mine["1.running_mean"], after["1.running_mean"]))
holds("once a step", int(after["1.num_batches_tracked"]) == 1500)
mode.predict(x + 100)
holds("predicting, far away too, has left every buffer bit-identical", same(after, state(mode.model.module)))
alone = torch.cat([mode.predict(x[i : i + 1]).mean for i in range(20)])
check("a row alone = the row among others", alone, mode.predict(x).mean[:20], 1e-5)
print("it predicts by:", mode.batch_statistics)

# %% [markdown]
# Two things in that certificate come up again. *Not certified*: every step's batch made a network of its own, so that what was
# trained is not quite what is evaluated (section 4). *Scale-invariant*: section 5.
#
# ## 3. Each draw has statistics of its own
#
# $m$ and $v$ are a function of the rows **and of the weights before them**. For a mode this is a detail. A posterior is about
# many weights, and each draw $w_s$ belongs with its own $m(w_s)$ and $v(w_s)$:
#
# $$f_s(x)=f\bigl(x;\ w_s,\ m(w_s),\ v(w_s)\bigr).$$
#
# The running averages are one set for all of them, an average over the draws that training happened to take.
# `br.refresh_batchnorm(posterior, X)` passes the training inputs through each drawn network and stores what it finds.

# %%
one_set = fitted(network()[1], x, y, MeanField(num_steps=2000, learning_rate=0.02, initial_scale=0.03))
own = br.refresh_batchnorm(one_set, x, num_draws=500)
print(one_set.certificate, "\n")
print("the fit predicts by:", one_set.batch_statistics)
print("refreshed, by:", own.batch_statistics, "\n")

grid = np.linspace(-3, 3, 121)
figure, axes = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained", gridspec_kw={"width_ratios": [1, 1.3, 1.3]})
drawn = own.statistics()["1.running_var"]  # (500 draws, 50 units)
averages = one_set.model.module.get_buffer("1.running_var")
axes[0].hist((drawn / averages).numpy().ravel(), bins=np.geomspace(0.05, 20, 40), color=BLUE)
axes[0].axvline(1, color=ORANGE)
axes[0].set(title="own v / the one v", xscale="log", yticks=[], xlabel="50 units, 500 draws")
axes[0].set_xticks([0.1, 1, 10], ["0.1", "1", "10"])
for axis, fit, title in zip(axes[1:], (one_set, own), ("one set for all draws", "each draw's own"), strict=True):
    predictive = fit.predict(grid[:, None], num_samples=500)
    axis.plot(grid, predictive.output[:15].T, color=BLUE, lw=0.5, alpha=0.5)
    axis.plot(grid, predictive.mean, color=BLUE, lw=2)
    axis.plot(grid, truth(grid), color=ORANGE, lw=1.2, ls="--")
    axis.set(title=title, ylim=(-3, 3), xlabel="x")
plt.show()

found = {name: fit.predict(x_new, num_samples=500) for name, fit in {"one set": one_set, "own": own}.items()}
density = {name: float(predictive.log_prob(y_new).mean()) for name, predictive in found.items()}
sds = {name: float(predictive.epistemic_variance.mean().sqrt()) for name, predictive in found.items()}
ideal = -np.log(NOISE * np.sqrt(2 * np.pi)) - 0.5
for name in found:
    print(f"{name}: log density of new rows {density[name]:.2f}, epistemic sd {sds[name]:.2f}")
print(f"(log density by the truth itself: {ideal:.2f})")
holds("own statistics gain more than 0.3 nats a row", density["own"] > density["one set"] + 0.3)
holds("with half the epistemic sd", sds["own"] < sds["one set"] / 2)
holds("and the weights are the same", all(own.mean[name].equal(one_set.mean[name]) for name in own.mean))
second_moment = (one_set.mean["0.weight"] ** 2 + one_set.std["0.weight"] ** 2)[:, 0]
check("with one input a unit's v is w²·var(x); here on average over draws", drawn.mean(0), second_moment * x.var(), 0.3)

# %% [markdown]
# The fit is not finished, as its certificate says; but it is one and the same fit. Same weights, same posterior, only $m$ and
# $v$ differ, by factors of up to ten (left). With one set most of the band is an artefact, and so is the mean that stays below
# the peaks: draws that were normalised by other draws' numbers. So for a posterior that predicts by draws, **refresh before
# you predict**. (A Laplace approximation is linearised at its mode and has one network; refreshing gives it one set, over all
# rows.)
#
# ## 4. Its noise as uncertainty
#
# In training, a row's output depends on which rows came with it. This noise is on every layer's shift and scale, and was
# there for each step of the fit. **Monte Carlo batch normalisation** (Teye et al. 2018) keeps it at prediction: a draw is
# the mode, normalised by the statistics of one random training batch. `MCBatchNorm(B)` is exactly this, and
# `refresh_batchnorm(mode, X, batch_size=B)` makes it from a mode that is there already.

# %%
method = MCBatchNorm(32, MAP(num_steps=1500))
batches = fitted(network()[1], x, y, method)
refreshed = br.refresh_batchnorm(mode, x, batch_size=32)
check("the method = the mode, refreshed", batches.predict(x).mean, refreshed.predict(x).mean, 1e-6)

grid, sizes = np.linspace(-6, 6, 241), (8, 32, 128, 512)
whole = br.refresh_batchnorm(mode, x)
figure, axes = plt.subplots(1, 4, figsize=(9, 2.8), sharey=True, layout="constrained")
epistemic, density, at_grid = [], {}, {}
for axis, B in zip(axes, sizes, strict=True):
    fit = br.refresh_batchnorm(mode, x, batch_size=B)
    at_grid[B] = fit.predict(grid[:, None], num_samples=1000)
    axis.axvspan(-3, 3, color="#f2f2f2", lw=0)
    axis.plot(grid, at_grid[B].output[:15].T, color=BLUE, lw=0.5, alpha=0.5)
    axis.plot(grid, at_grid[B].mean, color=BLUE, lw=2)
    axis.plot(grid, truth(grid), color=ORANGE, lw=1.2, ls="--")
    axis.set(title=f"B = {B}" + (", all rows" if len(x) == B else ""), ylim=(-3, 3), xlabel="x")
    epistemic.append(float(fit.predict(x, num_samples=1000).epistemic_variance.mean().sqrt()))
    density[B] = float(fit.predict(x_new, num_samples=1000).log_prob(y_new).mean())
axes[0].set_ylabel("y (grey: where the data are;\ndashed: the truth)")
plt.show()

for B, value in zip(sizes, epistemic, strict=True):
    print(f"B = {B:3d}: epistemic sd {value:.3f}, log density of new rows {density[B]:.2f}")
holds("with all rows there is no noise", float(at_grid[512].epistemic_variance.max()) < 1e-12)
check("and it is the network with the statistics of all rows", at_grid[512].mean, whole.predict(grid[:, None]).mean, 1e-5)
plain = np.sqrt(1 / np.array(sizes[:3]) - 1 / 512)
holds("a small batch lowers the peak of the mean", float(at_grid[8].mean.max()) < 0.8 * float(at_grid[512].mean.max()))
holds("held-out rows choose all rows, which is no noise", max(density, key=lambda B: density[B]) == 512)
check("the sd is proportional to √(1/B − 1/N)", np.array(epistemic[:3]) / plain, np.full(3, epistemic[1] / plain[1]), 0.15)

# %% [markdown]
# A mean over $B$ of $N$ rows, drawn without replacement, has the sd $\sqrt{1/B-1/N}$ times that of a row, about $1/\sqrt B$. So
# the band has a width that **you** set, by $B$. Like dropout's rate it does not come from the data. Does it know where the data
# are, or how many?
#
# With one input we can say what it is. The first layer computes $\pm a\,(x-m)/\sqrt v+b$ in each unit, so that another batch
# **shifts and stretches the input**, by $\delta m$ and $\delta s/s$. To first order the output moves by the slope times that:
#
# $$\mathrm{sd}(x)\approx|f'(x)|\;s\,\sqrt{\tfrac1B-\tfrac1N}\;\sqrt{1+\tfrac{\kappa-1}4\,\tfrac{(x-\bar x)^2}{s^2}},\qquad
# \kappa=1.8\text{ for uniform data},$$
#
# with $\bar x$ and $s$ the mean and sd of the data.

# %%
found = at_grid[128].epistemic_variance.sqrt().numpy()
slope = np.gradient(whole.predict(grid[:, None]).mean.numpy(), grid)
mean, sd = x.mean(), x.std()
by_slope = np.abs(slope) * sd * np.sqrt(1 / 128 - 1 / 512) * np.sqrt(1 + 0.2 * ((grid - mean) / sd) ** 2)

rows_of, by_rows = (128, 512, 2048), []
for n in rows_of:
    X, Y = observed(n)
    fit = fitted(network()[1], X, Y, method)
    by_rows.append(float(fit.predict(x_new, num_samples=1000).epistemic_variance.mean().sqrt()))

figure, axes = plt.subplots(1, 3, figsize=(9, 3.0), layout="constrained", gridspec_kw={"width_ratios": [1, 1.6, 1]})
axes[0].plot(sizes[:3], epistemic[:3], "o", color=BLUE)
curve = np.geomspace(6, 300, 50)
axes[0].plot(curve, np.sqrt(1 / curve - 1 / 512) * epistemic[1] / plain[1], color=GREY, lw=1, label="∝ √(1/B − 1/N)")
axes[0].set(xscale="log", yscale="log", xlabel="B, set by hand", ylabel="epistemic sd", title="B sets the answer")
axes[0].set_xticks(sizes[:3], sizes[:3])
axes[0].set_yticks([0.1, 0.2, 0.5], ["0.1", "0.2", "0.5"])
axes[0].minorticks_off()
axes[0].legend(frameon=False, loc="lower left")
axes[1].axvspan(-3, 3, color="#f2f2f2", lw=0)
axes[1].plot(grid, found, color=BLUE, label="found, B = 128")
axes[1].plot(grid, by_slope, color=ORANGE, lw=1.2, ls="--", label="from the slope of f")
axes[1].set(xlabel="x (grey: where the data are)", ylim=(0, 0.55), title="where is it unsure?")
axes[1].legend(frameon=False, loc="upper right")
axes[2].plot(rows_of, by_rows, "o-", color=BLUE)
axes[2].set(xscale="log", xlabel="rows of data", ylim=(0, 0.45), title="more data, B = 32")
axes[2].set_xticks(rows_of, rows_of)
axes[2].minorticks_off()
plt.show()

inside, outside = np.abs(grid) < 3, np.abs(grid) > 4.5
print(f"correlation with what the slope predicts: {np.corrcoef(found, by_slope)[0, 1]:.2f}")
print(f"epistemic sd at B = 128: {found[inside].mean():.3f} on the data, {found[outside].mean():.3f} beyond them")
print("epistemic sd at B = 32:", ", ".join(f"{value:.3f} of {n} rows" for n, value in zip(rows_of, by_rows, strict=True)))
holds("it follows the slope", np.corrcoef(found, by_slope)[0, 1] > 0.9)
holds("it is less unsure far from the data than on them", found[outside].mean() < 0.5 * found[inside].mean())
holds("sixteen times the data do not make it smaller", by_rows[2] > 0.9 * by_rows[0])

# %% [markdown]
# No, twice. Its spread is large where the function is **steep**, data or not (what is left between the two curves comes from
# the second layer, and from curvature). Beyond the data the tanh units saturate, the function flattens, and the draws *agree*
# where they should not. And it does not shrink with more data. At small $B$ the draws also blur the mean: the peak gets lower.
# Held-out rows may choose $B$; here they choose all rows, that is, no noise.
# So read it as: how much a prediction would change if the batch had been another. It costs nothing but the mode, and is no
# substitute for a posterior over weights.
#
# ## 5. Why a prior on the weights before it says nothing
#
# Let $w$ be the weights of one unit before a batch normalisation. With $c\,w$ in their place, $m$ becomes $c\,m$ and $\sqrt v$
# becomes $c\sqrt v$, and $c$ cancels:
#
# $$f(x;\ c\,w)=f(x;\ w)\quad\text{for every }c>0,\qquad\text{and so}\qquad
# \nabla_w f(x;\ c\,w)=\tfrac1c\,\nabla_w f(x;\ w),$$
#
# up to $\varepsilon$, which keeps a little of the length.
#
# So the length of $w$ is nothing that data can tell, and a prior $N(0,\tau^2)$ on it restricts no function. The
# network normalised by all rows, with the first layer's units multiplied by numbers from 1/10 to 10 each:

# %%
rng = np.random.default_rng(2)


def surface(X):
    return np.sin(2 * X[:, 0]) + 0.5 * X[:, 1] * X[:, 2]


X, X_new = rng.standard_normal((200, 3)), rng.standard_normal((1000, 3))
Y, Y_new = surface(X) + 0.3 * rng.standard_normal(200), torch.as_tensor(surface(X_new))


def three(batchnorm=True, scale=1.0):
    torch.manual_seed(0)
    rules = {"0.weight": priors.Normal(scale)} | ({"@norm": priors.Normal(1.0)} if batchnorm else {})
    return br.BayesianModel(layers.MLP(3, (8,), 1, "tanh", batchnorm), rules, likelihoods.Gaussian(0.3))


net = copy.deepcopy(three().module).double().train()  # in training mode: by the rows at hand, here all of them
net[1].eps = 1e-12
inputs = torch.as_tensor(X)
outputs, gradients = [], []
factors = torch.logspace(-1, 1, 8, dtype=torch.float64)[:, None]
for by in (1.0, factors):
    with torch.no_grad():
        net[0].weight.mul_(by)
    net.zero_grad()
    (net(inputs)[:, 0] - torch.as_tensor(Y)).square().mean().backward()
    outputs.append(net(inputs).detach())
    gradients.append(net[0].weight.grad.clone())
check("f(x; c·w) = f(x; w)", outputs[1], outputs[0], 1e-6)
check("its gradient is 1/c of the other", gradients[1] * factors, gradients[0], 1e-6)
radial = (gradients[0] * (net[0].weight.detach() / factors)).sum(1).abs().max() / gradients[0].norm()
holds("and has no part along w", float(radial) < 1e-6)

three().prior_table()

# %% [markdown]
# The table marks such a tensor. What the prior does instead (van Laarhoven 2017; Hoffer et al. 2018): nothing
# holds $w$ against the pull towards zero, so it gets shorter; and the shorter it is, the further one step of the same size
# *turns* it. The prior's scale is a setting of the optimizer, and the fit ends at no particular length.
#
# `MAP(scale_invariant="unit-norm")` takes the length out of the game: each unit is held at norm 1, where the prior is a
# constant. A certificate judges directions only, in either case: along $w$ there is no mode.

# %%
free = fitted(three(), X, Y, MAP("adam", num_steps=3000, learning_rate=0.02))
longer = fitted(three(), X, Y, MAP("adam", num_steps=6000, learning_rate=0.02))
held = fitted(three(), X, Y, MAP("adam", num_steps=3000, learning_rate=0.02, scale_invariant="unit-norm"))
for name, fit in {"free": free, "free, twice as long": longer, "unit norm": held}.items():
    print(f"{name}:\n{fit.certificate}\n")

one, other = (br.refresh_batchnorm(fit, X).predict(X_new).mean for fit in (longer, held))
apart = float((one - other).square().mean().sqrt() / other.std())
print(f"free and held apart by {apart:.1%} of the function's sd on new rows")
holds("one function, found twice (up to ε)", apart < 0.02)
norms = held.mean["0.weight"].norm(dim=1)
check("held: every unit at norm 1", norms, np.ones(8), 1e-6)
holds(
    "free: the norm still falls after the function is found",
    longer.mean["0.weight"].norm() < 0.9 * free.mean["0.weight"].norm(),
)

# %%
scales, steps, norms = (0.03, 0.3, 3.0), (50, 100, 200, 400, 800, 1600), {}
for scale in scales:
    norms[scale] = [float(three().module[0].weight.detach().norm())]
    for n in steps:
        fit = fitted(three(scale=scale), X, Y, MAP("adam", n, 0.01, schedule="constant"))
        norms[scale].append(float(fit.mean["0.weight"].norm()))

kinds = {"no batch normalisation": (False, "free"), "batch normalisation": (True, "free"), "and unit norm": (True, "unit-norm")}
wide, errors = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0), {name: [] for name in kinds}
for name, (batchnorm, how) in kinds.items():
    for scale in wide:
        fit = fitted(three(batchnorm, scale), X, Y, MAP("adam", 1500, 0.02, scale_invariant=how))
        errors[name].append(float((fit.predict(X_new).mean - Y_new).square().mean().sqrt()))

figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
for (scale, values), colour in zip(norms.items(), ("#9ecae1", "#4292c6", "#08306b"), strict=True):
    axes[0].plot((0, *steps), values, "o-", ms=4, color=colour, label=f"Normal({scale:g})")
axes[0].set(yscale="log", xlabel="steps", title="norm of the first weights, by their prior", ylim=(0.04, 3))
axes[0].set_xscale("symlog", linthresh=50, linscale=0.3)
axes[0].set_xlim(-5, 2000)
axes[0].set_xticks((0, *steps), ("start", *steps))
axes[0].set_yticks([0.1, 0.3, 1, 2], ["0.1", "0.3", "1", "2"])
axes[0].minorticks_off()
axes[0].legend(frameon=False, ncols=3, loc="lower center")
for (name, values), colour in zip(errors.items(), (GREY, ORANGE, BLUE), strict=True):
    axes[1].plot(wide, values, "o-", ms=4, color=colour, label=name)
axes[1].set(xscale="log", xlabel="scale of the prior on the first weights", ylim=(0, None), title="rms error on new rows")
axes[1].set_xticks(wide, wide)
axes[1].minorticks_off()
axes[1].legend(frameon=False)
plt.show()

for name, values in errors.items():
    print(f"{name}: rms error " + ", ".join(f"{value:.3f}" for value in values))
span = {name: max(values) / min(values) for name, values in errors.items()}
holds(
    "without it, a tight prior makes a poor fit",
    errors["no batch normalisation"][0] > 2.5 * min(errors["no batch normalisation"]),
)
holds("with it, it does not", span["batch normalisation"] < 1.5)
holds("with unit norm, no scale makes any difference", span["and unit norm"] < 1.001)

# %% [markdown]
# Left: three priors, three lengths, none of which settles. Right: without batch normalisation a tight prior flattens the fit.
# With it the same prior does hardly anything; what is left is the search, whose steps turn short weights too far to come to
# rest. With unit norm it does nothing at all.
#
# So, before a batch normalisation: do not tune a decay and call it regularisation. Where you want a prior that speaks, put it
# on $a$ and $b$ (`"@norm"`), or on weights that no batch normalisation follows.
#
# It also explains section 3. Data say nothing about the length of $w$, so that draws differ in it freely. This means nothing
# to a network with its own statistics ($v$ was $w^2$ times a constant there), and something false to one with another's.
#
# ## 6. Together with dropout, in one report
#
# Handwritten digits and a convolutional network with both. Chapter 05 showed the trick of predicting in training mode, which
# puts batch normalisation into training mode too. Here every method leaves every buffer alone.

# %%
pixels, digits = load_digits(return_X_y=True)
pixels = (pixels / 16).reshape(-1, 1, 8, 8).astype(np.float32)
X, X_new, t, t_new = train_test_split(pixels, digits, test_size=0.3, random_state=0, stratify=digits)

torch.manual_seed(0)
net = nn.Sequential(
    nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(8, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(), nn.MaxPool2d(2),
    nn.Flatten(), nn.Dropout(0.1), nn.Linear(48, 10),
)  # fmt: skip
model = br.BayesianModel(net, likelihood=likelihoods.Categorical())
search = {"num_steps": 1000, "batch_size": 64}
fits = {
    "MAP": fitted(model, X, t, MAP(**search)),
    "mean field": fitted(model, X, t, MeanField(initial_scale=0.03, **search)),
    "MC dropout": fitted(model, X, t, MCDropout(**search)),
    "MC batch norm": fitted(model, X, t, MCBatchNorm(mode=MAP(**search), num_draws=200)),
}
fits["refreshed"] = br.refresh_batchnorm(fits["mean field"], X, num_draws=100)

before = {name: state(fit.model.module) for name, fit in fits.items()}
comparison = br.compare(fits, X_new, t_new, num_samples=100)
report = br.report(fits, X_new, t_new, num_samples=100)
after = {name: state(fit.model.module) for name, fit in fits.items()}
print(comparison, "\n")
for name, facts in report.data["batchnorm"].items():
    print(f"{name}: {facts['finding']}")
print("\nMC batch norm:", report.data["batchnorm"]["MC batch norm"]["noise"])
print("\nMC dropout:", report.data["dropout"]["MC dropout"]["finding"], "\n")

holds("every buffer of every fit is bit-identical after all that", all(same(before[name], after[name]) for name in fits))
scores = comparison.to_frame()
holds("MAP knows 98 % of the digits and more", scores.loc["MAP", "accuracy"] > 0.98)
holds("refreshing helps mean field", scores.loc["refreshed", "mlpd"] > scores.loc["mean field", "mlpd"] + 0.03)
holds(
    "random batches of 64 change next to nothing", abs(scores.loc["MC batch norm", "mlpd"] - scores.loc["MAP", "mlpd"]) < 0.01
)

# %% [markdown]
# The mode is best here, and Monte Carlo batch normalisation is level with it: its noise is far smaller than dropout's. Mean
# field after so few steps is worse, and better refreshed than not. The statistics are part of the answer, and the report
# names them for each fit.
#
# To take along: standardise data with numbers of the training rows, then a prior means something. Batch normalisation's
# statistics belong to the weights: each draw has its own, and only a training step writes the averages. Its noise is as wide
# as the batch is small, and knows nothing about where the data are. A prior on the weights before it is a setting of the
# optimizer.
