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
# # Priors and level sets
#
# Why does the lasso set weights to zero, and ridge never? Why does it take something from *every* weight, also from
# those that the data are sure of? What do the elastic net, the spike and slab and the horseshoe mend, and at what
# price? Each answer is a picture: of one weight, or of two.
#
# Chapter 01 has what we need: a penalty is $-\log p(w)$ up to a constant, in nats, and a regularised fit is the mode
# of the posterior (MAP). Every claim is followed by a line that checks it.

# %%
import warnings

warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm, where Jupyter has no widgets

import numpy as np
import torch
from scipy import integrate, stats
from sklearn.linear_model import ElasticNet, Lasso, Ridge
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, plots, priors
from bayesreg.data import load_diabetes

torch.manual_seed(0)  # networks are made with random weights


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


def shown(figure):
    """The figure, small enough for the page."""
    figure.set_dpi(80)
    return figure


# %% [markdown]
# ## 1. Two weights: why a corner makes a zero
#
# For a linear model with noise sd σ the loss is a bowl about the least-squares estimate $\hat w$,
#
# $$\tfrac12(w-\hat w)^\top A\,(w-\hat w)+\text{const},\qquad A=X^\top X/\sigma^2 ,$$
#
# and its level lines are ellipses (blue). Those of the penalty (orange, dashed) are circles for a normal prior and
# squares on their tips for a Laplace prior. At the MAP the two lines through it only **touch**: if they crossed, one
# could walk along one of them and lower the other.

# %%
shown(plots.level_sets(priors.Normal(1.0), priors.Laplace(1.0)))

# %% [markdown]
# The circle is touched somewhere off the axes. The square is touched at its corner, and a corner lies on an axis:
# $w_1$ is *exactly* zero. The picture's numbers are those of `br.fit`, for any data with this $A$ and $\hat w$.

# %%
w_ls, A = np.array([1.3, 2.6]), np.array([[2.0, -1.0], [-1.0, 1.4]])  # what level_sets draws when not told otherwise
X = np.linalg.cholesky(A).T  # XᵀX = A with σ = 1: two rows are enough
l2, l1 = (plots.map_of_two(prior, estimate=w_ls, precision=A).numpy() for prior in (priors.Normal(1.0), priors.Laplace(1.0)))
for name, prior, w in (("L2", priors.Normal(1.0), l2), ("L1", priors.Laplace(1.0), l1)):
    model = br.BayesianModel(nn.Linear(2, 1, bias=False).double(), prior, likelihoods.Gaussian(1.0))
    print(f"{name}: MAP {w.round(4)}")
    check(f"{name}: the same from br.fit", br.fit(model, X, X @ w_ls, method="map").mean["weight"][0], w, 1e-6)

print("pull of the loss on (w₁, w₂), −A(w − ŵ), in nats per unit")
print(f"  at the L2 mode {(-A @ (l2 - w_ls)).round(3)}, balanced by w/τ² = {l2.round(3)}")
print(f"  at the L1 mode {(-A @ (l1 - w_ls)).round(3)}, balanced by up to 1/β = 1 either way")
check("L2: the pulls are opposite and equal", -A @ (l2 - w_ls), l2, 1e-9)
holds("L1: w₁ = 0, and the loss pulls it with less than 1/β", l1[0] == 0 and abs((A @ (l1 - w_ls))[0]) < 1)

# %% [markdown]
# There is the mechanism, without geometry. L2 pulls a weight with $w/\tau^2$, which fades as the weight comes near
# zero, so anything in the data wins against it there. L1 pulls with $1/\beta$ down to the last inch: its kink holds a
# weight at zero against any force below $1/\beta$.
#
# ## 2. One weight: what a prior makes of one observation
#
# Take a single weight that was observed once, $y\sim N(w,\sigma^2)$. The MAP estimate as a function of $y$ is all that
# a penalty does, in one line; optimisers call it the proximal operator, statisticians a shrinkage rule.

# %%
tau, beta = 1.0, 1.0
elastic = priors.ElasticNet(l1_scale=1.5, l2_scale=1.5)
shown(plots.priors({"normal (L2)": priors.Normal(tau), "Laplace (L1)": priors.Laplace(beta), "elastic net": elastic}))

# %%
y = torch.linspace(-6, 6, 241, dtype=torch.float64)
soft = y.sign() * (y.abs() - 1 / beta).clamp_min(0)
check("L2 shrinks in proportion: y/(1 + σ²/τ²)          ", priors.Normal(tau).prox(y, 1.0), y / (1 + 1 / tau**2), 1e-12)
check("L1 subtracts a constant:  sign(y)·max(|y| − σ²/β, 0)", priors.Laplace(beta).prox(y, 1.0), soft, 1e-12)
both = y.sign() * (y.abs() - 1 / 1.5).clamp_min(0) / (1 + 1 / 1.5**2)
check("elastic net: first the one, then the other        ", elastic.prox(y, 1.0), both, 1e-12)

# %% [markdown]
# Read the third panel. L2 takes half of everything, noise and signal alike. L1 sets $|y|<1$ to zero, and takes one
# unit from every larger observation, however large: that is its **bias**. The densities in the first panel say the
# same: the normal has no room for large weights, and Laplace's tail is a straight line in the second panel, so the
# pull never fades.
#
# ## 3. Correlated inputs: the elastic net
#
# Two inputs that say almost the same make a long valley: the data know $w_1+w_2$, and hardly $w_1-w_2$. One edge of
# the square lies along the valley, so the lasso follows whatever the noise did to the difference until it hits a
# corner. The elastic net's edges bulge.

# %%
A2 = np.array([[4.0, 3.8], [3.8, 4.0]])  # correlation 0.95
trio = {"lasso": priors.Laplace(1.0), "elastic net": priors.ElasticNet(1.5, 1.0), "ridge": priors.Normal(1.0)}
shown(plots.level_sets(trio, estimate=(2.2, -0.4), precision=A2))

# %%
rng = np.random.default_rng(0)
truth, spread = np.array([1.0, 1.0]), np.linalg.cholesky(np.linalg.inv(A2))
samples = [truth + spread @ rng.standard_normal(2) for _ in range(60)]  # least squares in 60 experiments
dropped, sd = {}, {}
for name, prior in trio.items():
    w = np.array([plots.map_of_two(prior, estimate=sample, precision=A2).numpy() for sample in samples])
    dropped[name], sd[name] = (w == 0).any(1).mean(), w.std(0).max()
    print(f"{name:>11}: one of two equal weights dropped in {dropped[name]:.0%} of experiments, sd of a weight {sd[name]:.2f}")
holds("the lasso drops one of the twins more often than not", dropped["lasso"] > 0.5)
holds("the elastic net hardly ever", dropped["elastic net"] < 0.1)
holds("and its weights scatter half as much", sd["elastic net"] < sd["lasso"] / 2)

# %% [markdown]
# ## 4. Letting large weights be: penalties that flatten
#
# To spare large weights, the pull must fade far out: the penalty must flatten, and the density have heavy tails. Three
# ways: a power $|w|^q$ with $q<1$ (the **bridge**), a logarithm (**Cauchy**, Student's t), or a mixture of a narrow and a
# wide density (**spike and slab**).

# %%
flat = {
    "Laplace (L1)": priors.Laplace(1.0),
    "bridge, q = 1/2": priors.GeneralizedNormal(beta=0.5, scale=0.3),
    "Cauchy": priors.Cauchy(0.4),
    "spike and slab": priors.SpikeSlab(inclusion_probability=0.5, slab_scale=4.0, spike_scale=0.4),
}
shown(plots.priors(flat))

# %%
shown(plots.level_sets({name: flat[name] for name in ("bridge, q = 1/2", "Cauchy", "spike and slab")}, estimate=(1.8, 3.8)))

# %% [markdown]
# In the third panel the estimates return to the diagonal, and the level lines cave in between the axes: corners become
# spikes, which are touched even sooner. (Cauchy's are rounded: its penalty is smooth at zero, so that its MAP is small
# there and not zero.) The price is the **jump**: where a line breaks, two minima are equally good, and an observation a
# hair larger moves the estimate by more than a unit. A penalty that flattens is not convex, and the answer that an
# optimiser finds may depend on where it starts.

# %%
bridge = flat["bridge, q = 1/2"]
y, estimate = plots.priors(bridge).axes[2].lines[1].get_data()  # the line that was drawn; its gaps are NaN
jump = np.flatnonzero(np.isnan(estimate))[1]
threshold, beyond = y[jump], estimate[jump + 1]
costs = [(w - threshold) ** 2 / 2 + float(bridge.penalty(torch.tensor(w, dtype=torch.float64))) for w in (0.0, beyond)]
print(f"at y = {threshold:.4f} the estimates 0 and {beyond:.4f} cost {costs[0]:.6f} and {costs[1]:.6f} nats")
check("two equally good answers", costs[1], costs[0], 1e-4)
for name, prior in flat.items():
    far = torch.tensor([20.0], dtype=torch.float64)
    print(f"{name:>16}: an observation of 20 becomes {float(prior.prox(far, 1.0)):.2f}")

# %% [markdown]
# ## 5. The horseshoe: a prior that has no mode
#
# Give every weight a scale of its own and average over it: $w_j\sim N(0,(s\lambda_j)^2)$ with $\lambda_j$ half-Cauchy.
# The density that is left has a **pole** at zero and tails like a Cauchy's: it expects almost nothing or anything. A
# pole swallows the mode, so there is no MAP, but the posterior is fine, and its mean shrinks as one would wish.

# %%
horseshoe = priors.Horseshoe(0.5)
slab = priors.RegularizedHorseshoe(0.5, slab_scale=2.0)  # the same near zero, with a normal's tails
shown(plots.priors({"Laplace (L1)": priors.Laplace(0.5), "horseshoe": horseshoe, "with a slab": slab}, low=-5.0, high=5.0))

# %%
w = 0.7


def given_scale(log_scale):
    """N(w; 0, (0.5 λ)²) times the half-Cauchy density of λ, over log λ."""
    scale = np.exp(log_scale)
    return stats.norm.pdf(w, 0, 0.5 * scale) * stats.halfcauchy.pdf(scale) * scale


by_hand = np.log(integrate.quad(given_scale, -30, 30, limit=300)[0])
check("log density = the average over λ", float(horseshoe.log_prob(torch.tensor(w, dtype=torch.float64))), by_hand, 1e-9)
try:
    br.fit(br.BayesianModel(nn.Linear(2, 1).double(), horseshoe), X, X @ w_ls, method="map")
except ValueError as refusal:
    print(f"MAP refuses: {refusal}")

# %% [markdown]
# Does it matter? Here is the classical test: 200 weights, each observed once with unit noise; 190 are zero, ten are
# drawn from $N(0, 5^2)$; 100 repetitions. Ridge takes its scale from the evidence. The lasso may choose its scale in
# hindsight, the best for these very data. The horseshoe gets the rule of thumb, $s=$ relevant/irrelevant $=10/190$,
# and no tuning.

# %%
truth = np.zeros((100, 200))
truth[:, :10] = rng.normal(0, 5, (100, 10))
seen = truth + rng.standard_normal(truth.shape)
grid = np.linspace(-30, 30, 3001)
variance = np.maximum((seen**2).mean(1, keepdims=True) - 1, 1e-9)  # maximises the evidence of N(0, τ² + 1)
soft = {b: np.sign(seen) * np.maximum(np.abs(seen) - 1 / b, 0) for b in np.linspace(0.2, 2, 37)}
best = min(soft, key=lambda b: ((soft[b] - truth) ** 2).mean())
answers = {
    "no prior": seen,
    "ridge": seen * variance / (variance + 1),
    f"lasso, β = {best:.2f}": soft[best],
    "horseshoe mean": np.interp(seen, grid, plots.posterior_mean(priors.Horseshoe(10 / 190), grid)),
}
print(f"{'mean squared error':>20}{'all':>8}{'of the zeros':>15}{'of the rest':>14}")
error = {name: (answer - truth) ** 2 for name, answer in answers.items()}
for name, e in error.items():
    print(f"{name:>20}{e.mean():8.3f}{e[:, 10:].mean():15.3f}{e[:, :10].mean():14.2f}")
lasso, mean = (e for name, e in error.items() if name[:5] in ("lasso", "horse"))
gain = (lasso - mean).mean(1)
print(f"lasso − horseshoe: {gain.mean():.3f} ± {gain.std() / np.sqrt(len(gain)):.3f} (se over the repetitions)")
holds("the untuned horseshoe beats the best lasso by more than 3 se", gain.mean() > 3 * gain.std() / np.sqrt(len(gain)))

# %% [markdown]
# The lasso has one knob for two jobs: a λ that silences the zeros also cuts the signals, so it settles in between. The
# horseshoe does both. Note what it does *not* do: no estimate is exactly zero. Zeros are a property of modes; a
# posterior mean only comes close.
#
# ## 6. Scales that are unknown
#
# The half-Cauchy above is a **hyperprior**. In `bayesreg` a prior stands wherever a scale may, and `per` says who shares
# it: with `per="element"` it is the horseshoe again; with `per="column"` all weights that leave one input share a scale,
# which asks the data which *inputs* matter (automatic relevance determination).

# %%
diabetes = load_diabetes()
rng = np.random.default_rng(0)
wide = np.concatenate([diabetes.X, rng.standard_normal((len(diabetes.X), 10))], 1)  # ten measurements, ten columns of noise
names = [*diabetes.feature_names, *(f"noise {i}" for i in range(1, 11))]
net = br.BayesianModel(
    nn.Sequential(nn.Linear(20, 8), nn.Tanh(), nn.Linear(8, 1)).double(),
    priors={"0.weight": priors.Normal(priors.HalfCauchy(0.3), per="column", centered=False)},
    standardize=True,
)
net.prior_table()

# %%
fit = br.fit(net, wide, diabetes.y, method=br.inference.MeanField(num_steps=5000), seed=0)
print(fit.certificate, "\n")
scales = fit.mean["0.weight.scale"].reshape(-1).numpy()
order = np.argsort(-scales)
for j in order:
    print(f"{names[j]:>9} {scales[j]:.3f} {'■' * round(60 * scales[j])}")
holds("none of the first five is a column of noise", bool((order[:5] < 10).all()))

# %% [markdown]
# Body-mass index, blood pressure and s5 (a blood value) come first; the columns of noise end up with small scales, though
# nobody told the model which they are. A *mode* cannot do this: over weights and their scale together the density has a
# pole at scale zero (chapter 01, section 5), and `method="map"` refuses such a model for that reason:

# %%
try:
    br.fit(net, wide, diabetes.y, method="map")
except ValueError as refusal:
    print(refusal)

# %% [markdown]
# ## 7. What priors on weights mean for functions
#
# Nobody has opinions on the weight from unit 7 to unit 3. But we do have opinions on functions, and one can look: draw
# weights from the prior, and draw the functions. First the size. A sum of $H$ units with weights of sd 1 has sd
# $\propto\sqrt H$, so that a prior that is mild for ten units is wild for a thousand; `fan_in=True` divides the scale by
# $\sqrt H$.

# %%
x = np.linspace(-4, 4, 161)


def net_of(width, prior):
    """One input, one hidden layer, one output."""
    module = nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, 1)).double()
    steep = {"0.weight": priors.Normal(4.0), "0.bias": priors.Normal(8.0)}  # units that switch somewhere in the picture
    return br.BayesianModel(module, {**steep, "2.weight": prior}, likelihoods.Gaussian(0.3))


for fan_in in (False, True):
    nets = [net_of(H, priors.Normal(1.0, fan_in=fan_in)) for H in (10, 1000)]
    sd = [float(net.prior_predictive(x[:, None], 2000).output.std(0).mean()) for net in nets]
    print(f"fan_in={fan_in!s:>5}: sd of the functions with 10 units {sd[0]:.2f}, with 1,000 units {sd[1]:.2f}")
holds("with fan_in the width hardly matters", abs(sd[1] / sd[0] - 1) < 0.25)

# %%
many = net_of(300, priors.Normal(1.0, fan_in=True))
shown(plots.prior_predictive(many.prior_predictive(x[:, None], 500), x, level=0.8, num_lines=15))

# %%
few = net_of(300, priors.Cauchy(1 / 300))
shown(plots.prior_predictive(few.prior_predictive(x[:, None], 500), x, level=0.8, num_lines=15, series=1))

# %% [markdown]
# Then the shape. With normal weights (first picture) 300 small contributions add up, and none matters alone: smooth
# curves, in the limit of many units a Gaussian process. With Cauchy weights (second picture) a few large units stand out
# from the crowd, and a draw is often one step: a prior for functions with a few features. Heavy tails mean the same here
# as on the axis: nearly nothing, or much.

# %%
for name, model in {"normal": many, "Cauchy": few}.items():
    v = model.sample_prior(500, seed=0)["2.weight"][:, 0].abs()
    share = float((v.amax(1) / v.sum(1)).median())
    print(f"{name}: the largest of 300 units carries {share:.1%} of Σ|v| (median of 500 draws)")

# %% [markdown]
# ## 8. The same priors under other names
#
# | prior | penalty | elsewhere |
# |---|---|---|
# | `Normal` | $w^2/2\tau^2$ | ridge, L2, weight decay, Tikhonov |
# | `Laplace` | $\lvert w\rvert/\beta$ | lasso, L1, basis pursuit denoising |
# | `ElasticNet` | both | elastic net |
# | `GeneralizedNormal(beta=q)` | $\lvert w/s\rvert^q$ | bridge, Lq |
# | `StudentT`, `Cauchy` | $\frac{\nu+1}2\log(1+w^2/\nu s^2)$ | log penalty; what the relevance vector machine integrates to |
# | `ScaleMixture` | mixture of two normals | stochastic search variable selection; "Bayes by backprop" |
# | `SpikeSlab` | mixture of two Laplaces | spike-and-slab lasso |
# | `Horseshoe`, `RegularizedHorseshoe` | has a pole | global-local shrinkage; Finnish horseshoe |
# | `Normal(HalfCauchy(s), per="column")` | hierarchical | automatic relevance determination (ARD) |
# | `GroupLasso` | $\sum_g\lVert w_g\rVert/s$ | group lasso, structured sparsity |
# | `MultivariateNormal` | $\frac12w^\top C^{-1}w$ | generalised Tikhonov; a Gaussian process at given points |
#
# For L2, L1 and both, the numbers translate. `br.equivalents` says what to write elsewhere to assume the same:

# %%
X, y = diabetes.X, diabetes.y
Z, t = (X - X.mean(0)) / X.std(0), (y - y.mean()) / y.std()
noise_scale = 0.7
both = priors.ElasticNet(l1_scale=0.05, l2_scale=0.2)
table = br.equivalents(both, num_data=len(t), noise_scale=noise_scale)
table

# %%
theirs = {"Ridge": Ridge, "Lasso": Lasso, "ElasticNet": ElasticNet}
for prior, tool in ((priors.Normal(0.2), "Ridge"), (priors.Laplace(0.05), "Lasso"), (both, "ElasticNet")):
    rows = br.equivalents(prior, num_data=len(t), noise_scale=noise_scale).rows
    same = next(row for row in rows if row.tool == tool)
    coef = theirs[tool](**same.numbers, fit_intercept=False, tol=1e-10).fit(Z, t).coef_
    model = br.BayesianModel(nn.Linear(10, 1, bias=False).double(), prior, likelihoods.Gaussian(noise_scale), standardize=True)
    mode = br.fit(model, X, y, method="map").mean["weight"][0].numpy()
    check(f"MAP under {prior} = {same.write}, {(mode == 0).sum()} zeros", mode, coef, 1e-5)

# %% [markdown]
# ## To take away
#
# 1. At the MAP the level lines of loss and penalty touch. Corners on the axes make zeros; bulging edges share.
# 2. Zero comes from a kink: a pull that does not fade near zero. Bias comes from a pull that does not fade far out.
# 3. A penalty whose pull fades far out is not convex: sparing large weights costs jumps and several minima.
# 4. A posterior mean has neither jumps nor zeros, and can use priors that have no mode at all, such as the horseshoe.
# 5. An unknown scale is one more prior; the posterior learns it, the mode cannot.
# 6. A prior on weights is a prior on functions. Draw some before you fit.
#
# Try it: give `plots.level_sets` two columns of your own data ($A=X^\top X/\sigma^2$); turn the ellipse until the lasso
# leaves the axis; look at `priors.GroupLasso(1.0, per="tensor")`, whose level lines have a corner nowhere but at zero.
