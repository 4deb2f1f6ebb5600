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
# # Dropout is inference
#
# Dropout multiplies by random zeros during training. Seen from the weights, training with it fits a distribution over
# networks, a posterior of a certain shape:
#
# $$W = M\circ z,\qquad z\in\{0,\ \tfrac1{1-p}\},\quad P(z=0)=p .$$
#
# The point $M$ is learned, the noise $z$ is what remains unknown. This chapter is about what one gets for taking that
# seriously, and what one does not get:
#
# 1. Two variants: drop **units** or drop **weights**.
# 2. The **ELBO**, which makes it inference.
# 3. Uncertainty away from the data.
# 4. What the **rate** means, and a rate that is learned.
# 5. Dropout beside batch normalisation.
# 6. Noise for every weight: **sparse** variational dropout.
# 7. How a report says all this.
#
# All data are generated. Every claim is followed by a line that checks it.

# %%
import copy
import warnings

warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm, where Jupyter has no widgets

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn

import bayesreg as br
from bayesreg import layers, likelihoods, priors
from bayesreg.dictionary import dropout_decay
from bayesreg.inference import MCDropout

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
# ## 1. Two variants
#
# Dropping a **unit** (torch's `nn.Dropout`) multiplies everything that leaves it by one number: a whole *column* of the next
# weight matrix is lost. **DropConnect** drops *entries*. To see it, we fit a linear map with 12 inputs and 8 outputs under
# both, at rate 0.3, and draw from the two posteriors.

# %%
rng = np.random.default_rng(0)
X = rng.standard_normal((200, 12))
Y = X @ rng.standard_normal((12, 8)) + 0.5 * rng.standard_normal((200, 8))
P = 0.3

torch.manual_seed(0)
variants = {
    "Dropout: units": (nn.Sequential(nn.Dropout(P), nn.Linear(12, 8)), "1.weight"),
    "DropConnect: weights": (layers.DropConnect(nn.Linear(12, 8), P), "layer.weight"),
}
fits = {}
for name, (net, _) in variants.items():
    model = br.BayesianModel(net, likelihood=likelihoods.Gaussian(0.5))
    fits[name] = br.fit(model, X, Y, method=MCDropout(num_steps=1500, learning_rate=0.03), seed=0)

colours = plt.get_cmap("RdBu").with_extremes(bad="#d0d0d0")
figure, axes = plt.subplots(2, 3, figsize=(9, 4.4), layout="constrained")
for row, (name, (_, weight)) in zip(axes, variants.items(), strict=True):
    M, draws = fits[name].mean[weight], fits[name].sample(2, seed=1)[weight]
    for axis, W, title in zip(row, (M, *draws), ("M, the point", "a draw of W", "another draw"), strict=True):
        picture = axis.imshow(np.where(W == 0, np.nan, W), cmap=colours, vmin=-2.5, vmax=2.5)
        axis.set(title=title, xticks=[], yticks=[], xlabel="input")
    row[0].set_ylabel(name + "\n\noutput")
figure.colorbar(picture, ax=axes, shrink=0.7, label="weight (grey: dropped)")
plt.show()

for name, (_, weight) in variants.items():
    zero = fits[name].sample(500, seed=0)[weight] == 0
    whole = zero.all(1) | ~zero.any(1)
    print(f"{name}: {float(zero.double().mean()):.3f} of the entries are zero; by whole columns: {bool(whole.all())}")
    if bool(whole.all()) != ("units" in name):
        raise AssertionError(name)

# %% [markdown]
# The mean of $W$ is $M$ and its variance $M^2\,p/(1-p)$. So for one linear layer the epistemic variance of output $k$ at a row
# $x$ is known: $\frac{p}{1-p}\sum_j (M_{kj}x_j)^2$, for both variants alike.

# %%
for name, (_, weight) in variants.items():
    exact = P / (1 - P) * X[:50] ** 2 @ (fits[name].mean[weight].numpy() ** 2).T
    found = fits[name].predict(X[:50], num_samples=20_000, seed=0).epistemic_variance
    check(f"{name}, variance of 20,000 draws = closed form", found, exact, 0.1)

# %% [markdown]
# ## 2. The ELBO
#
# `MCDropout` maximises
#
# $$\mathrm{ELBO}=\underbrace{\sum_i\mathrm E_z\log p(y_i\mid f(x_i;M\circ z))}_{\text{fit, with noise}}
# -\underbrace{\mathrm E_z[-\log p(M\circ z)]}_{\text{penalty, averaged}}+\underbrace{H(z)}_{\text{entropy of the noise}}$$
#
# in nats, a sum over all rows. With a prior $N(0,\tau^2)$ the middle term is $\sum M^2/(2\tau^2(1-p))$: weight decay
# (`equivalents.dropout_decay` does the conversion). The entropy is a constant while $p$ is fixed; it decides once $p$ is
# learned (section 4). One warning: a point times noise is no proper density, and its ELBO is known up to a constant only.
# Compare it with itself, never with the ELBO of another method.
#
# For a linear regression with dropout on the inputs, the first term has a closed form as well, and $M$ is the
# solution of
#
# $$\bigl(X^\top X+\tfrac p{1-p}\,\mathrm{diag}(X^\top X)+\tfrac{\sigma^2}{\tau^2(1-p)}I\bigr)\,M=X^\top y :$$
#
# **dropout on inputs is a ridge** with one more term, which is larger for inputs of larger scale.

# %%
N, D, SIGMA, TAU = 100, 6, 0.5, 1.0
X = rng.standard_normal((N, D)) * [0.3, 0.6, 1, 1, 1.5, 2]
y = X @ rng.standard_normal(D) + SIGMA * rng.standard_normal(N)


def solution(p):
    decay = dropout_decay(p, 1 / TAU, N, SIGMA)  # λ of the loss (1/N) Σ ½(y − f)² + λ Σ M²
    gram = X.T @ X / N
    return np.linalg.solve(gram + p / (1 - p) * np.diag(np.diag(gram)) + 2 * decay * np.eye(D), X.T @ y / N)


curves = {}
for p in (0.0, 0.1, 0.3):
    net = nn.Sequential(nn.Dropout(p), nn.Linear(D, 1, bias=False)).double()
    nn.init.zeros_(net[1].weight)
    model = br.BayesianModel(net, priors.Normal(TAU), likelihoods.Gaussian(SIGMA))
    fit = br.fit(model, X, y, method=MCDropout(num_steps=2000), seed=0)
    curves[p] = fit.history
    check(f"rate {p}: the fit = the closed form", fit.mean["1.weight"][0], solution(p), 0.03)
plain = br.BayesianModel(nn.Linear(D, 1, bias=False).double(), priors.Normal(TAU), likelihoods.Gaussian(SIGMA))
check("rate 0: the closed form = MAP", solution(0.0), br.fit(plain, X, y, method="map").mean["weight"][0], 1e-6)

# %%
figure, axis = plt.subplots(figsize=(9, 2.8))
for (p, history), colour in zip(curves.items(), (GREY, BLUE, ORANGE), strict=True):
    axis.plot(history.steps, history.objective, color=colour, lw=1.2, label=f"rate {p}")
axis.set(xlabel="step", ylabel="ELBO (nats)")
axis.legend(frameon=False, ncols=3, loc="lower right")
plt.show()

# %% [markdown]
# The curves are jagged because each point is an estimate from the masks of one step; at rate 0 there is no noise. They end
# lower for larger rates: a network with noise fits worse on average. That is no reason to lower the rate: between fixed
# rates this ELBO does not choose.
#
# ## 3. Uncertainty away from the data
#
# A curve, known on two intervals only. Three answers to one model (50 tanh units, the same priors, known noise): the mode;
# MC dropout at rate 0.05; and a Laplace approximation, which is also only an approximation but gets its uncertainty from
# the data's curvature and not from a rate.

# %%
rng = np.random.default_rng(1)
NOISE = 0.15


def truth(x):
    return np.sin(1.5 * x) + 0.3 * x


def observed(x, noise=NOISE):
    return x[:, None], truth(x) + noise * rng.standard_normal(len(x))


def network(layer, dtype=torch.float32, noise=NOISE):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(1, 50), nn.Tanh(), layer, nn.Linear(50, 1)).to(dtype)
    rules = {"0.*": priors.Normal(2.0), "3.weight": priors.Normal(2.0, fan_in=True)}
    return br.BayesianModel(net, rules, likelihoods.Gaussian(noise))


x, y = observed(np.concatenate([rng.uniform(-3, -0.8, 50), rng.uniform(1.2, 3, 50)]))
fits = {
    "MAP": br.fit(network(nn.Identity(), torch.float64), x, y, method="map"),
    "MC dropout": br.fit(network(nn.Dropout(0.05)), x, y, method=MCDropout(num_steps=2000), seed=0),
    "Laplace": br.fit(network(nn.Identity(), torch.float64), x, y, method="laplace"),
}

# %%
grid = np.linspace(-5, 5, 201)
found = {name: fit.predict(grid[:, None], num_samples=400, seed=0) for name, fit in fits.items()}
sd = {name: predictive.epistemic_variance.sqrt().numpy() for name, predictive in found.items()}

figure, axes = plt.subplots(1, 3, figsize=(9, 3.2), sharex=True, sharey=True, layout="constrained")
for axis, (name, predictive) in zip(axes, found.items(), strict=True):
    axis.axvspan(-0.8, 1.2, color="#f2f2f2", lw=0)
    if name != "MAP":
        axis.plot(grid, predictive.output[:15].T, color=BLUE, lw=0.5, alpha=0.5)
    axis.plot(grid, predictive.mean, color=BLUE, lw=2)
    axis.plot(x, y, "k.", ms=2.5)
    axis.plot(grid, truth(grid), color=ORANGE, lw=1.2, ls="--")
    axis.set(title=name + {"MAP": ": one function"}.get(name, ": mean and 15 draws"), ylim=(-3, 3), xlabel="x")
axes[0].set_ylabel("y (grey: the gap; dashed: the truth)")
plt.show()

gap, seen = np.abs(grid - 0.2) < 0.5, (np.abs(grid) > 1.5) & (np.abs(grid) < 2.8)
for name in ("MC dropout", "Laplace"):
    print(f"{name:>10}: epistemic sd {sd[name][seen].mean():.3f} where the data are, {sd[name][gap].mean():.3f} in the gap")
ratio = {name: sd[name][gap].mean() / sd[name][seen].mean() for name in ("MC dropout", "Laplace")}
holds("Laplace is at least twice as unsure in the gap as on the data", ratio["Laplace"] > 2)
holds("MC dropout is not", ratio["MC dropout"] < 1.2)

# %% [markdown]
# Dropout's draws are functions, and wiggle about the mean. But **their spread hardly knows where the data are**. The reason is
# the formula of section 1, with hidden units $h(x)$ in place of inputs: variance $\frac p{1-p}\sum_j (M_jh_j(x))^2$. It is
# large where units are active, in a gap or not. With tanh units, which saturate, it is about constant; with ReLU units it
# would grow like $x^2$. So read it as: what this function loses when some units fail. Do not read it as distance
# from the data.
#
# ### One mask for all rows, or one a row
#
# A draw of the posterior is *one* network, so `predict` keeps a mask for all rows: the draws above are curves. Training, and
# most code for MC dropout, takes a new mask for each row (`masks="row"`). Each row alone has the same distribution,
# but what joins rows is lost: no curve, and no uncertainty of a sum or a difference.

# %%
kept = {masks: fits["MC dropout"].predict(grid[:, None], num_samples=400, seed=0, masks=masks) for masks in ("draw", "row")}
figure, axes = plt.subplots(1, 2, figsize=(9, 2.8), sharey=True, layout="constrained")
for axis, (masks, predictive) in zip(axes, kept.items(), strict=True):
    axis.plot(grid, predictive.output[:2].T, lw=1)
    axis.set(title={"draw": "one mask for all rows", "row": "a mask for each row"}[masks] + ": two draws", xlabel="x")
plt.show()

mean_sd = {masks: float(predictive.epistemic_variance.mean().sqrt()) for masks, predictive in kept.items()}
average = {masks: float(predictive.output.mean(1).std()) for masks, predictive in kept.items()}
print(f"sd at a row, on average: {mean_sd['draw']:.3f} and {mean_sd['row']:.3f}")
print(f"sd of the average over all rows: {average['draw']:.4f} and {average['row']:.4f}")
check("rows alone agree", mean_sd["row"], mean_sd["draw"], 0.05)
holds("averages do not", average["row"] < 0.5 * average["draw"])

# %% [markdown]
# ## 4. What the rate means
#
# A rate set by hand sets the epistemic sd by hand. Left: the data above, fitted at five rates; the line is proportional to
# $\sqrt{p/(1-p)}$. (Large rates stay below it: training then spreads the work over more units.) Right: a fixed rate against
# `ConcreteDropout`, whose rate is learned with the weights, on more and more rows over the whole interval; noisier ones,
# sd 0.6, so that few rows leave much unknown.

# %%
rates, by_rate = np.array([0.01, 0.02, 0.05, 0.1, 0.2]), []
inside = np.linspace(-2.8, 2.8, 57)[:, None]


def epistemic(fit, at=inside):
    return float(fit.predict(at, num_samples=1000, seed=0).epistemic_variance.mean().sqrt())


for rate in rates:
    fit = br.fit(network(nn.Dropout(rate)), x, y, method=MCDropout(num_steps=1000, learning_rate=0.02), seed=0)
    by_rate.append(epistemic(fit))

sizes, by_size, learned = (50, 150, 450), {"fixed at 0.05": [], "learned": []}, []
for n in sizes:
    rows = observed(rng.uniform(-3, 3, n), 0.6)
    for name, layer in (("fixed at 0.05", nn.Dropout(0.05)), ("learned", layers.ConcreteDropout(0.05))):
        method = MCDropout(num_steps=1500, learning_rate=0.02)
        fit = br.fit(network(layer, noise=0.6), *rows, method=method, seed=0)
        by_size[name].append(epistemic(fit))
    learned.append(float(fit.masks.layers["2"].rate))

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3.0), layout="constrained")
axes[0].plot(rates, by_rate, "o", color=BLUE)
line = np.sqrt(rates / (1 - rates))
axes[0].plot(rates, by_rate[1] / line[1] * line, color=GREY, lw=1, label="∝ √(p / (1 − p))")
axes[0].set(xscale="log", yscale="log", xlabel="rate, set by hand", ylabel="epistemic sd", title="the rate sets the answer")
axes[0].set_xticks(rates, rates)
axes[0].legend(frameon=False)
for (name, values), colour in zip(by_size.items(), (GREY, BLUE), strict=True):
    axes[1].plot(sizes, values, "o-", color=colour, label=f"rate {name}")
for n, value, rate in zip(sizes, by_size["learned"], learned, strict=True):
    axes[1].annotate(f"p = {rate:.2g}", (n, value), xytext=(0, 8), textcoords="offset points", ha="center", color=BLUE)
axes[1].set(xscale="log", yscale="log", xlabel="rows of data", title="does it shrink with more data?")
axes[1].set_xticks(sizes, sizes)
for axis in axes:
    axis.minorticks_off()
    axis.set_yticks([0.05, 0.1, 0.2], ["0.05", "0.1", "0.2"])
axes[1].margins(x=0.15, y=0.25)
axes[1].legend(frameon=False, loc="lower left")
plt.show()
for n, p, one, other in zip(sizes, learned, by_size["fixed at 0.05"], by_size["learned"], strict=True):
    print(f"{n:5d} rows: epistemic sd {one:.3f} at rate 0.05; {other:.3f} at the learned rate {p:.4f}")
fixed = by_size["fixed at 0.05"]
holds("at a fixed rate, nine times the data change the sd by less than a fifth", 0.8 < fixed[-1] / fixed[0] < 1.2)
holds("a learned rate falls with the data", learned[0] > learned[1] > learned[2])
holds("and the sd with it", by_size["learned"][2] < by_size["learned"][0] / 3)

# %% [markdown]
# Epistemic uncertainty should shrink with more data; at a fixed rate it does not, whatever the number of rows. A learned rate
# does fall: the noise costs fit in proportion to $N$, and the entropy that pays for it does not grow. With many rows it
# runs to zero, and the fit is the MAP. So let the rate be learned, or choose it by the log density of held-out rows
# (`br.compare`), and say in either case which rate it was. The report does (section 7).
#
# ## 5. Beside batch normalisation
#
# The usual trick for MC dropout is to predict with the network in training mode. Then batch normalisation is in training mode
# too: every prediction depends on the other rows of its batch, and overwrites the running statistics. Here
# dropout has a switch of its own.

# %%
torch.manual_seed(0)
net = nn.Sequential(nn.Linear(1, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Dropout(0.1), nn.Linear(20, 1))
fit = br.fit(br.BayesianModel(net, likelihood=likelihoods.Gaussian(NOISE)), x, y, method=MCDropout(num_steps=500), seed=0)
before = {name: buffer.clone() for name, buffer in fit.model.module.named_buffers()}
spread = float(fit.predict(x, num_samples=200).epistemic_variance.mean().sqrt())
same = all(torch.equal(before[name], buffer) for name, buffer in fit.model.module.named_buffers())
print(f"epistemic sd {spread:.3f}: dropout was sampled")
holds("every buffer of batch normalisation is bit-identical after predicting", same and spread > 0)

trick = copy.deepcopy(fit.model.module).train()  # the usual trick, on a copy
with torch.no_grad():
    trick(torch.as_tensor(x[:10], dtype=torch.float32))
moved = [name for name, buffer in trick.named_buffers() if not torch.equal(before[name], buffer)]
print("one prediction by the usual trick has changed", *moved)
holds("so the trick changes the network", len(moved) > 0)

# %% [markdown]
# ## 6. Noise for every weight
#
# `VariationalDropout` gives each weight a normal noise of its own, $W=M+\sigma\varepsilon$ with $\sigma$ learned, and the prior
# $p(w)\propto1/|w|$. A weight that the data do not need ends with $\alpha=\sigma^2/M^2$ large: pure noise, to be replaced by an
# exact zero. Twenty inputs, of which three matter:

# %%
rng = np.random.default_rng(5)
X = rng.standard_normal((1200, 20))
Y = 2 * np.tanh(X[:, 0]) + X[:, 1] - X[:, 2] + 0.3 * rng.standard_normal(1200)
torch.manual_seed(0)
net = nn.Sequential(layers.VariationalDropout(nn.Linear(20, 20)), nn.Tanh(), layers.VariationalDropout(nn.Linear(20, 1)))
model = br.BayesianModel(net, likelihood=likelihoods.Gaussian(0.3))
print(model.prior_table())
# the KL comes in slowly: weights learn before they are pruned
method = MCDropout(num_steps=3000, learning_rate=0.03, warmup=0.3)
with warnings.catch_warnings():
    warnings.simplefilter("ignore", br.ConvergenceWarning)  # printed instead: more steps would prune a little more
    sparse = br.fit(model, X[:600], Y[:600], method=method, seed=0)
print("\n", sparse.certificate, sep="")
pruned = sparse.prune()

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
for axis, fit, title in zip(axes, (sparse, pruned), ("M, as fitted", "pruned where log α > 3"), strict=True):
    W = fit.mean["0.layer.weight"].numpy()
    picture = axis.imshow(np.where(W == 0, np.nan, W), cmap=colours, vmin=-1, vmax=1, aspect="auto")
    axis.set(title=f"{title}: {(W != 0).sum()} of {W.size} weights", xlabel="input", ylabel="unit", yticks=[])
    axis.set_xticks(range(0, 20, 2))
figure.colorbar(picture, ax=axes, label="weight (grey: zero)")
plt.show()

for weight, share in sparse.sparsity().items():
    print(f"{weight}: {share:.0%} pure noise")
rms = {name: float((fit.predict(X[600:]).mean - torch.as_tensor(Y[600:])).square().mean().sqrt())
       for name, fit in {"with its noise": sparse, "pruned": pruned}.items()}  # fmt: skip
print("rms error on new rows:", ", ".join(f"{name} {value:.3f}" for name, value in rms.items()), "(the noise alone: 0.3)")
energy = pruned.mean["0.layer.weight"].square().sum(0).numpy()
print(f"share of the squared weights left that inputs 0, 1 and 2 have: {energy[:3].sum() / energy.sum():.0%}")
holds("pruning costs under 2 % of the error", rms["pruned"] < 1.02 * rms["with its noise"])
holds("four fifths of the first layer and more are gone", sparse.sparsity()["0.layer.weight"] > 0.8)
holds("the inputs that matter have the most weight left", set(np.argsort(energy)[-3:]) == {0, 1, 2})

# %% [markdown]
# The large entries on the left that are gone on the right have a noise that is larger still. A few small ones on idle inputs
# stayed. `sparse.compressed()` is the pruned network as a plain torch module.
#
# ## 7. How a report says it
#
# `br.report` names each noise, its rate, who chose it, and the uncertainty that comes from it alone.

# %%
x_new, y_new = observed(rng.uniform(-3, 3, 400))
report = br.report({"MC dropout": fits["MC dropout"], "Laplace": fits["Laplace"]}, x_new, y_new, num_samples=400)
print(report.data["dropout"]["MC dropout"]["finding"], "\n")
br.compare({name: fits[name] for name in fits}, x_new, y_new)

# %% [markdown]
# Here a rate that nothing had chosen does worse than the mode. To take along: dropout is inference, with a family of
# posteriors that was chosen for its price. Its draws are cheap networks, its spread is that of the rate, and whether
# that is right, held-out rows say.
