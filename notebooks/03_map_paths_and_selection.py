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
# # Modes: which inputs matter, which λ, and did it converge?
#
# A regularised fit is the mode of a posterior (MAP; chapter 01 has the algebra). This chapter is about using one:
#
# 1. L1 sets weights to exactly zero. What does such a zero say?
# 2. A **path**: the fits for all λ at once.
# 3. Which λ? Cross-validation, its "one standard error" rule, and the evidence; what each is good for.
# 4. **Stability**: would other patients give the same selection?
# 5. A group lasso on the inputs of a network.
# 6. Exact zeros from mini-batches.
# 7. What the **certificate** of a mode says, and what it cannot say.
#
# The data are 442 diabetes patients, ten measurements each, and the progression of the disease a year later; they come
# with scikit-learn. Every claim is followed by a line that checks it.

# %%
import warnings

warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm, where Jupyter has no widgets

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from sklearn.linear_model import Lasso, lasso_path
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, plots, priors
from bayesreg.data import load_diabetes
from bayesreg.inference import MAP

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


NOISE = 0.7  # sd of the noise, of standardised y; chapter 01 shows how the evidence finds it


def linear(prior, inputs=10):
    """y = Xw + ε on standardised data."""
    net = nn.Linear(inputs, 1, bias=False).double()
    return br.BayesianModel(net, prior, likelihoods.Gaussian(NOISE), standardize=True)


diabetes = load_diabetes()
X, y, names = diabetes.X, diabetes.y, diabetes.feature_names
N, D = X.shape

# %% [markdown]
# ## 1. L1 selects: exact zeros
#
# A Laplace prior $p(w)=\prod_j\frac1{2\beta}e^{-|w_j|/\beta}$ has the penalty $\lambda\|w\|_1$ with $\lambda=1/\beta$ nats per
# unit. Its mode is scikit-learn's lasso at $\alpha=\sigma^2/(N\beta)$.

# %%
beta = 0.05
mode = br.fit(linear(priors.Laplace(beta)), X, y, method="map")
w = mode.mean["weight"][0].numpy()
print(*mode.history.notes, mode.certificate, sep="\n")

Z, t = (X - X.mean(0)) / X.std(0), (y - y.mean()) / y.std()
lasso = Lasso(alpha=NOISE**2 / (N * beta), fit_intercept=False, tol=1e-12).fit(Z, t)
check("\nMAP under a Laplace prior = Lasso(σ²/Nβ)", w, lasso.coef_, 1e-6)
holds("and the same weights are exactly zero", bool(((w == 0) == (lasso.coef_ == 0)).all()))
print("dropped:", *(name for name, weight in zip(names, w, strict=True) if weight == 0))

# %% [markdown]
# Linear models have solvers of their own, and the last printed line is a proof: a **duality gap** bounds what *any* other
# $w$ could gain.
#
# Now, does a zero mean "this input has no effect"? Ask the posterior, which weighs every $w$. It is a density, so that
# "$w_j=0$ exactly" has probability zero under it, whatever the data. Here are three of its ten marginals, from the exact
# Gibbs sampler for this model (Park and Casella 2008; chapter 01 explains the lines).

# %%
rng = np.random.default_rng(0)
draws, v = [], np.full(D, 0.1)
for _ in range(6000):
    precision = rng.wald(1 / (beta * np.abs(v)), 1 / beta**2)  # a Laplace is a normal with an exponential variance
    root = np.linalg.inv(np.linalg.cholesky(Z.T @ Z / NOISE**2 + np.diag(precision)))
    v = root.T @ (root @ Z.T @ t / NOISE**2 + rng.standard_normal(D))
    draws.append(v)
draws = np.array(draws[500:])

figure, axes = plt.subplots(1, 3, sharex=True, sharey=True)
for axis, name in zip(axes, ("bmi", "s6", "s4"), strict=True):
    j = names.index(name)
    axis.hist(draws[:, j], bins=np.linspace(-0.2, 0.45, 66), density=True, color=BLUE, alpha=0.45)
    axis.axvline(w[j], color=ORANGE, lw=2)
    axis.set(title=f"{name}: mode {w[j]:.3f}" + (", dropped" if w[j] == 0 else ", kept"), xlabel="weight")
axes[0].set_ylabel("posterior density")
axes[0].text(w[names.index("bmi")] - 0.015, 9.5, "mode (lasso)", color=ORANGE, ha="right")
figure.tight_layout()
plt.show()

# %%
for name in ("bmi", "s6", "s4"):
    low, high = np.quantile(draws[:, names.index(name)], [0.025, 0.975])
    print(f"{name:>3}: 95 % of the posterior in [{low:+.2f}, {high:+.2f}]")
s4, s6 = (draws[:, names.index(name)] for name in ("s4", "s6"))
holds("dropped s4 has more room for an effect than kept s6", np.quantile(s4, 0.975) > np.quantile(s6, 0.975))

# %% [markdown]
# So a zero of the mode says: *at this λ, the data do not pay for this input.* It is a useful decision, and no evidence
# of absence. The rest of the chapter is about making it well.
#
# ## 2. All λ at once: a path
#
# `br.path` fits one model under many prior scales, and under every fold of a cross-validation, in one go. For a lasso it
# finds by itself where to begin: where all weights are zero.

# %%
path = br.path(linear(priors.Laplace(1.0)), X, y, seed=0)
print(path)
alphas = NOISE**2 * path.lambdas.numpy() / N
_, theirs, _ = lasso_path(Z, t, alphas=alphas, tol=1e-10)
check("\nall 20 fits = scikit-learn's lasso_path", path.coefficients["weight"][:, 0], theirs.T, 1e-4)

# %%
figure = plots.path(path, names=names)
figure.set_dpi(90)
figure

# %% [markdown]
# Read it from left to right, from a strong penalty to none. `bmi` and `s5` come first, then `bp` and `s3`; now and then
# one more. Two things to note:
#
# - At the right end of the first panel `s1` and `s2` run away from each other, and `s3` even changes its side: these blood
#   values are strongly correlated, and without a penalty only their combinations are known.
# - The held-out score in the last panel hardly cares. With 442 patients and ten inputs, prediction needs no penalty; "cv"
#   takes the loosest prior there is, and keeps everything. "1se" takes the strongest penalty that is not clearly worse.
#
# ## 3. Which λ?
#
# Make it harder, and make the truth known: half of the patients to learn from, and ten more columns of pure noise. A good
# selection has no noise in it.

# %%
rng = np.random.default_rng(0)
split = diabetes.train_test_split(0.5, seed=0)
columns = [*names, *(f"noise {i}" for i in range(1, 11))]


def widened(X):
    return pd.DataFrame(np.hstack([X, rng.standard_normal((len(X), 10))]), columns=columns)


train, test = widened(split.X_train), widened(split.X_test)
lassos = br.path(linear(priors.Laplace(1.0), 20), train, split.y_train)
ridges = br.path(linear(priors.Normal(1.0), 20), train, split.y_train, scales=np.geomspace(0.01, 3, 20))
print(ridges)

# %% [markdown]
# A smooth prior has one more column: the **evidence** $p(y\mid\tau)=\int p(y\mid w)\,p(w\mid\tau)\,dw$, which needs no folds.
# (With a kink at the mode, Laplace's approximation of the integral does not hold, and `lassos.best("evidence")` says so.)
# Look at how sharp the rules are: the held-out score changes by a few thousandths over three quarters of its column, far
# below its standard error, while the evidence falls by dozens of nats on either side of its maximum. Here both agree.

# %%
fits = {
    "lasso, cv": lassos.fit(lassos.best("cv")),
    "lasso, 1se": lassos.fit(lassos.best("1se")),
    "ridge, evidence": ridges.fit(ridges.best("evidence")),
    "hardly any penalty": ridges.posterior(-1),
}
for name, fit in fits.items():
    kept = fit.mean["weight"][0] != 0
    print(
        f"{name:>18}: keeps {int(kept[:10].sum()):2d} of 10 measurements and {int(kept[10:].sum()):2d} of 10 columns of noise"
    )
by_cv, by_1se = (fits[f"lasso, {rule}"].mean["weight"][0, 10:] != 0 for rule in ("cv", "1se"))
holds("what predicts best keeps columns of noise", bool(by_cv.any()))
holds("1se keeps fewer", bool(by_1se.sum() < by_cv.sum()))
br.compare(fits, test, split.y_test)

# %% [markdown]
# The **predictive best keeps too many inputs**, and this is no accident of these data: to predict well, the lasso must not
# shrink the weights that matter too much, so its λ is small, and too small to keep the noise out. A column of noise
# with a weight near zero costs a prediction next to nothing. In short:
#
# | you want | take | because |
# |---|---|---|
# | predictions | `"cv"` | that is what it measures |
# | a short list of inputs | `"1se"`, then section 4 | it drops more, and loses a little |
# | a prior scale, all rows used for the fit | `"evidence"`, a smooth prior | sharp, no folds; trusts the model |
#
# None of them makes a list of inputs "the truth".
#
# ## 4. Would other patients give the same list?
#
# `br.stability` refits under bootstrap samples of the rows, all at once, and counts. We ask it about the fit with the
# worse list, the one by "cv".

# %%
found = br.stability(linear(priors.Laplace(lassos.best("cv")), 20), train, split.y_train, num_bootstraps=200, seed=0)

figure, axis = plt.subplots(figsize=(9, 3.2))
place, frequency, kept = np.arange(20), found.frequency.numpy(), found.kept.numpy()
for part, colour, label in ((slice(0, 10), BLUE, "measurement"), (slice(10, 20), GREY, "column of noise")):
    axis.bar(place[part], frequency[part], color=colour, width=0.7, label=label)
axis.plot(place[kept], np.full(kept.sum(), 1.06), "v", color=ORANGE, ms=6, label="kept by the fit to all rows")
axis.axhline(0.9, color="black", lw=1, ls=":")
axis.text(19.55, 0.9, "0.9", va="center")
axis.set(ylabel="share of 200 refits", ylim=(0, 1.12), xlim=(-0.6, 19.5))
axis.set_xticks(place, columns, rotation=50, ha="right", rotation_mode="anchor")
axis.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0))
plt.show()

print("kept by the fit:        ", *(name for name, k in zip(columns, kept, strict=True) if k), sep="  ")
print("in 90 % of all refits:  ", *found.stable(0.9), sep="  ")
holds("no column of noise is stable", all("noise" not in name for name in found.stable(0.9)))

# %% [markdown]
# The columns of noise come and go with the sample; what matters stays. The threshold is a judgement (a noise column with
# luck reaches 0.8 here), so use the frequencies as a ranking.
#
# ## 5. A network: dropping whole inputs
#
# In a network, one input feeds many weights, and L1 on each of them drops few inputs entirely. The **group lasso**
# $\sum_j\|w_{\cdot j}\|/s$ puts a kink on the norm of a whole column: an input is in or out.

# %%
rng = np.random.default_rng(0)
signal = {"x0": lambda x: 3 * np.tanh(x / 2), "x1": lambda x: x, "x2": lambda x: -1.5 * x}  # x3 … x9 do nothing
inputs = [f"x{j}" for j in range(10)]
x_train, x_new = (pd.DataFrame(rng.standard_normal((rows, 10)), columns=inputs) for rows in (300, 2000))
truth = sum(f(x_new[name]) for name, f in signal.items()).to_numpy()
target = sum(f(x_train[name]) for name, f in signal.items()).to_numpy() + rng.standard_normal(300)


def network(prior, dtype=torch.float64):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(10, 20), nn.Tanh(), nn.Linear(20, 1)).to(dtype)
    return br.BayesianModel(net, {"0.weight": prior}, likelihoods.Gaussian(1 / target.std()), standardize=True)


group = priors.GroupLasso(0.02, per="column")
nets = {
    "normal": br.fit(network(priors.Normal(1.0, fan_in=True)), x_train, target, method="map"),
    "group lasso": br.fit(network(group), x_train, target, method=MAP(num_steps=1500)),
}
norms, error = {}, {}
for name, fit in nets.items():
    norms[name] = fit.mean["0.weight"].norm(dim=0).numpy()
    error[name] = np.sqrt(np.mean((fit.predict(x_new).mean.numpy() - truth) ** 2))
    print(f"{name:>11}: {(norms[name] == 0).sum()} of 10 inputs dropped; rms error of the function {error[name]:.2f}", end="; ")
    print(fit.certificate)

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 2.6), sharey=True)
for axis, (name, norm) in zip(axes, norms.items(), strict=True):
    axis.bar(range(10), norm, color=[BLUE] * 3 + [GREY] * 7, width=0.7)
    axis.plot(
        np.flatnonzero(norm == 0), np.zeros((norm == 0).sum()), "x", color=ORANGE, ms=7, label="exactly zero", clip_on=False
    )
    axis.set(title=f"{name}: error {error[name]:.2f}")
    axis.set_xticks(range(10), inputs)
axes[0].set_ylabel("norm of an input's weights")
axes[1].legend(frameon=False)
figure.tight_layout()
plt.show()
dropped = norms["group lasso"] == 0
holds("six of the seven inputs that do nothing are out, and no other", dropped[3:].sum() == 6 and not dropped[:3].any())
holds("and the function is better for it", error["group lasso"] < error["normal"] / 1.5)

# %% [markdown]
# The one that stayed has a sixtieth of the norm of `x0`; a stronger penalty drops it too, and shrinks the others more.
# `br.path(network(group), ..., rule="0.weight")` and `br.stability` do for a network what they did for the linear model.
#
# ## 6. Exact zeros from mini-batches
#
# With many rows an optimiser sees a few at a time. Adam follows a slope, and has none at the kink: it hovers about
# zero and never lands. `prox-adam` splits the step. Adam takes the smooth part, and the penalty's **proximal step**,
# in Adam's own metric, sets to zero what should be zero. `optimizer="auto"` takes it where a penalty has a kink.

# %%
print(f"{'':>10}{'weights = 0':>14}{'|w| < 0.001':>14}{'of':>6}{'rms error':>12}")
zeros = {}
for optimizer in ("adam", "prox-adam"):
    fit = br.fit(network(group, torch.float32), x_train, target, method=MAP(optimizer, num_steps=2000, batch_size=50), seed=0)
    weight = fit.mean["0.weight"]
    zeros[optimizer] = int((weight == 0).sum())
    rms = np.sqrt(np.mean((fit.predict(x_new).mean.numpy() - truth) ** 2))
    print(f"{optimizer:>10}{zeros[optimizer]:14d}{int((weight.abs() < 1e-3).sum()):14d}{weight.numel():6d}{rms:12.3f}")
holds("Adam has no zeros, prox-Adam has", zeros["adam"] == 0 and zeros["prox-adam"] > 0)

# %% [markdown]
# Both have found about the same function. But after Adam someone has to choose the threshold below which a weight is "zero",
# and nobody knows it.
#
# For long runs there is more of this kind: `compile=True` compiles the whole step, optimiser included (ten seconds once,
# then several times as fast for a small network; "auto" does it from 50,000 steps on); `checkpoint="fit.pt"` lets a fit
# that was stopped go on; `validation_fraction=0.2` stops early, and its certificate says that such a point is no mode.
#
# ## 7. What the certificate says
#
# Every fit is judged after the search, in nats: how much would a Newton step still gain, and does the log-joint bend
# downwards in *every* direction? If not, `br.fit` warns. Three fits of one small network, the second from a bad start and
# the third cut short:


# %%
def small(start_at_zero=False):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(10, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    for parameter in net.parameters():
        if start_at_zero:
            nn.init.zeros_(parameter)
    return br.BayesianModel(net, likelihood=likelihoods.Gaussian(NOISE), standardize=True)


for name, start_at_zero, steps in (
    ("as it should be", False, None),
    ("all weights zero", True, None),
    ("ten steps", False, 10),
):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", br.ConvergenceWarning)
        fit = br.fit(small(start_at_zero), X, y, method=MAP(num_steps=steps))
    kinds = ", ".join(warning.category.__name__ for warning in caught) or "no warning"
    print(f"{name} ({kinds}):\n  {fit.certificate}\n")

# %% [markdown]
# The second is the classical trap: at zero every unit of the network is the same, the gradient vanishes by symmetry, and
# an optimiser that looks at gradients is content. The curvature gives it away. `certificate.details` has the numbers.
#
# ### What it cannot say
#
# "Converged to *a* mode." A network has many, and each passes. Here are eight fits of three units to sixty points, which
# differ only in their first weights.

# %%
rng = np.random.default_rng(4)
x = np.sort(rng.uniform(-3, 3, 60))
wave = np.sin(2 * x) + 0.2 * rng.standard_normal(60)


def three_units(seed):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(1, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    return br.BayesianModel(net, priors.Normal(3.0), likelihoods.Gaussian(0.2))


eight = [br.fit(three_units(seed), x[:, None], wave, method="map") for seed in range(8)]
nats = np.array([fit.certificate.details["log joint"] for fit in eight])
grid = np.linspace(-3.2, 3.2, 200)
best = nats > nats.max() - 0.1

figure, axis = plt.subplots(figsize=(9, 3.2))
axis.plot(x, wave, "k.", ms=5)
axis.set(xlabel="x", ylabel="y")
for fit, good in sorted(zip(eight, best, strict=True), key=lambda pair: pair[1]):
    axis.plot(grid, fit.predict(grid[:, None]).mean, color=BLUE if good else ORANGE, lw=2 if good else 1.2)
axis.plot([], color=BLUE, lw=2, label=f"{best.sum()} starts: the best mode")
axis.plot(
    [], color=ORANGE, lw=1.2, label=f"{(~best).sum()} starts: others, {nats.max() - nats[~best].max():.0f} or more nats lower"
)
axis.legend(frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
plt.show()
print("certified as modes:", sum(fit.certificate.converged for fit in eight), "of 8; log joints", *nats.round(1))

# %%
fit = br.fit(three_units(0), x[:, None], wave, method=MAP(num_restarts=8, num_steps=10_000), seed=0)
print(fit.certificate)
holds("the certificate says that restarts disagree", fit.certificate.details["restarts that agree"] < 8)

# %% [markdown]
# `num_restarts` runs the starts side by side, keeps the best, and reports how many agree. Where they do not, a
# mode is one answer of several, and so are its zeros. For a linear model with a convex penalty the question does not
# arise: the duality gap of section 1 speaks about all $w$.
#
# ## To take away
#
# 1. L1's zeros are exact, at the mode. They say "not worth its price at this λ", not "no effect".
# 2. Fit the whole path; choose by what you want: predictions (cv), a short list (1se), a prior scale (evidence).
# 3. The λ that predicts best keeps too many inputs. `br.stability` tells the steady ones from the lucky ones.
# 4. On a network, put the group lasso on the columns of the first layer.
# 5. Read the certificate: it finds saddles and unfinished fits. It does not know of higher modes; restarts do.
#
# Try it: draw other columns of noise (another seed in section 3) and see which lists change; give section 5 a target with
# `x0` squared, which has no linear effect, and look at what a group lasso does from a random start.
