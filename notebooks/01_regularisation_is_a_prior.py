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
# # Regularisation is a prior
#
# We start with $\|Ax-b\|^2\to\min$, watch it fail, repair it with $\alpha\|x\|^2$, and ask where $\alpha$ comes
# from. The answer is Bayes' rule, and it is the same for a matrix and for a neural network:
#
# $$-\log p(\theta\mid\text{data})\;=\;\underbrace{\sum_i-\log p(y_i\mid x_i,\theta)}_{\text{the loss, in nats}}
# \;+\;\underbrace{-\log p(\theta)}_{\text{the penalty, in nats}}\;+\;\text{const}.$$
#
# A regularised fit is the **mode** of that density. The chapter ends with what a mode hides.
#
# You need linear algebra (singular values) and the normal density. The data are 442 diabetes patients, ten
# measurements each and the progression of the disease a year later; they come with scikit-learn. Every claim is
# followed by a line that checks it.

# %%
import warnings

warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm, where Jupyter has no widgets

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.sparse.linalg import lsqr
from sklearn.linear_model import BayesianRidge, Lasso, Ridge
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.data import load_diabetes

plt.rcParams.update({"figure.dpi": 80, "figure.figsize": (9, 3.2), "axes.spines.top": False, "axes.spines.right": False})
BLUE, ORANGE, GREEN, GREY = "#1f77b4", "#d95f02", "#1b9e77", "#999999"


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


diabetes = load_diabetes()
X, y = diabetes.X, diabetes.y
print(diabetes, diabetes.feature_names)

# %% [markdown]
# ## 1. Least squares: small noise, huge error
#
# Take one measurement, the body-mass index (BMI) scaled to $[0, 1]$, and let $A$ have its powers
# $1, z, \dots, z^9$ as columns. To see an *error* we must know the truth, so we draw one, $x^\star\sim N(0, I)$,
# and observe $b = Ax^\star + \varepsilon$ with noise of sd $\sigma=10^{-3}$. With $A=USV^\top$ the least-squares
# answer is
#
# $$\hat x = x^\star + \sum_i \frac{u_i^\top\varepsilon}{s_i}\,v_i, \qquad
# \mathbb E\|\hat x-x^\star\|^2=\sigma^2\sum_i s_i^{-2}:$$
#
# noise along $u_i$ comes back divided by $s_i$.

# %%
rng = np.random.default_rng(1)
bmi = X[:, diabetes.feature_names.index("bmi")]
z = (bmi - bmi.min()) / np.ptp(bmi)
A = np.vander(z, 10, increasing=True)
N, D = A.shape
U, s, Vt = np.linalg.svd(A, full_matrices=False)

sigma, tau = 1e-3, 1.0
x_true = tau * rng.standard_normal(D)
noise = sigma * rng.standard_normal((300, N))
answers = np.linalg.lstsq(A, (A @ x_true + noise).T, rcond=None)[0].T  # 300 experiments, (300, D)
b, x_ls = A @ x_true + noise[0], answers[0]

print(f"condition number of A          {s[0] / s[-1]:.1e}")
print(f"relative noise in b            {np.linalg.norm(noise[0]) / np.linalg.norm(b):.1e}")
print(f"relative misfit of Ax to b     {np.linalg.norm(A @ x_ls - b) / np.linalg.norm(b):.1e}")
print(f"relative error of x            {np.linalg.norm(x_ls - x_true) / np.linalg.norm(x_true):.1e}")
check("E‖x̂−x*‖² = σ² Σ 1/s²", ((answers - x_true) ** 2).sum(1).mean(), sigma**2 * (s**-2.0).sum(), 0.35)

# %%
figure, (left, right) = plt.subplots(1, 2)
left.semilogy(range(1, D + 1), s, "o-", color=BLUE)
left.axhline(sigma / tau, color=ORANGE, ls="--")
left.text(0.9, sigma / tau / 4, "σ/τ: below it, noise drowns the signal", color=ORANGE)
left.set(title="Singular values of A", xlabel="i", ylabel="$s_i$")
right.plot(answers[:6].T, color=GREY, lw=1)
right.plot(x_true, "o-", color=BLUE, label="truth")
right.plot([], color=GREY, label="least squares, six noises")
right.set(title="Coefficients", xlabel="power of z", yscale="symlog")
right.legend(frameon=False, loc="lower left")
plt.show()

# %% [markdown]
# The data are fitted as well as the noise allows, and the answer is worthless: the last directions $v_i$ are
# invisible in $b$, and least squares fills them with amplified noise.
#
# ## 2. Tikhonov: add $\alpha\|x\|^2$ and it calms down
#
# $$x_\alpha=\arg\min_x\|Ax-b\|^2+\alpha\|x\|^2=(A^\top A+\alpha I)^{-1}A^\top b
# =\sum_i\frac{s_i^2}{s_i^2+\alpha}\,\frac{u_i^\top b}{s_i}\,v_i .$$
#
# Directions with $s_i^2\gg\alpha$ stay as they are; directions with $s_i^2\ll\alpha$ are set to about zero. Too
# little $\alpha$ keeps the noise, too much removes the signal. Here is the error for 2,000 pairs of a truth
# $x^\star\sim N(0,\tau^2I)$ and a noise.


# %%
def tikhonov(A, b, alpha):
    return np.linalg.solve(A.T @ A + alpha * np.eye(A.shape[1]), A.T @ b)


filtered = Vt.T @ (s / (s**2 + 1e-6) * (U.T @ b))
check("filter factors = normal equations", filtered, tikhonov(A, b, 1e-6), 1e-6)

alphas = np.logspace(-13, 3, 97)
truth = tau * rng.standard_normal((2000, 1, D))  # in the basis v_i, which leaves N(0, τ²I) what it is
noisy = truth + sigma * rng.standard_normal((2000, 1, D)) / s
kept = s**2 / (s**2 + alphas[:, None])  # the filter factors, (97, D)
mse = ((kept * noisy - truth) ** 2).sum(2)  # (2000, 97)
best = alphas[mse.mean(0).argmin()]
x_best = tikhonov(A, b, best)
for name, x in {"least squares": x_ls, f"Tikhonov, α = {best:.1e}": x_best}.items():
    print(f"{name:>22}: relative error {np.linalg.norm(x - x_true) / np.linalg.norm(x_true):.2f}")

# %%
figure, (left, right) = plt.subplots(1, 2)
left.loglog(alphas, np.sqrt(mse[:12]).T, color=GREY, lw=0.7)
left.loglog(alphas, np.sqrt(mse.mean(0)), color=BLUE, lw=2)
left.axvline(best, color=ORANGE, ls="--")
left.text(best * 2, 300, f"minimum at α = {best:.1e}", color=ORANGE)
left.set(title="Twelve experiments, and the mean of 2,000", xlabel="α", ylabel="$‖x_α - x^*‖$")
right.plot(x_true, "o-", color=BLUE, label="truth")
right.plot(x_best, "s-", color=ORANGE, label="Tikhonov")
right.plot(x_ls, color=GREY, lw=1, label="least squares (leaves the picture)")
right.set(title="Coefficients, same data as above", xlabel="power of z", ylim=(-4, 4))
right.legend(frameon=False)
plt.show()

# %% [markdown]
# The best $\alpha$ is suspiciously close to $10^{-6}=\sigma^2/\tau^2$. That is no accident.
#
# ## 3. Where α comes from
#
# Write down what we assumed. Noise: $b\mid x\sim N(Ax,\sigma^2I)$. Before any data: $x\sim N(0,\tau^2I)$. Bayes'
# rule $p(x\mid b)=p(b\mid x)\,p(x)/p(b)$ in logarithms, with every constant:
#
# $$-\log p(x\mid b)=\underbrace{\frac{\|Ax-b\|^2}{2\sigma^2}+N\log(\sigma\sqrt{2\pi})}_{\text{loss, nats}}
# +\underbrace{\frac{\|x\|^2}{2\tau^2}}_{\text{penalty, nats}}+D\log(\tau\sqrt{2\pi})+\log p(b).$$
#
# The constants do not depend on $x$. Multiply the rest by $2\sigma^2$:
#
# $$\arg\max_x p(x\mid b)=\arg\min_x\|Ax-b\|^2+\frac{\sigma^2}{\tau^2}\|x\|^2,\qquad\boxed{\alpha=\sigma^2/\tau^2.}$$
#
# Tikhonov's answer is the posterior mode (MAP: maximum a posteriori), and α is no free knob: it is a ratio of two
# scales that mean something. In `bayesreg` one writes the two assumptions, and never α:

# %%
model = br.BayesianModel(
    nn.Linear(D, 1, bias=False).double(),  # the forward map x ↦ Ax: the unknown is its weight
    priors=priors.Normal(tau),
    likelihood=likelihoods.Gaussian(noise_scale=sigma),
)
print(model.prior_table(), "\n")
mode = br.fit(model, A, b, method="map")
print(mode.certificate, "\n")

alpha = sigma**2 / tau**2
ridge = Ridge(alpha=alpha, fit_intercept=False, solver="svd").fit(A, b)
check("bayesreg MAP = Tikhonov at α = σ²/τ²", mode.mean["weight"][0], tikhonov(A, b, alpha), 1e-6)
check("bayesreg MAP = scikit-learn Ridge(α) ", mode.mean["weight"][0], ridge.coef_, 1e-6)

nats = mode.model.log_joint(mode.mean, A, b)  # log p(b | x) + log p(x)
x = mode.mean["weight"][0].numpy()
loss = ((A @ x - b) ** 2).sum() / (2 * sigma**2) + N * np.log(sigma * np.sqrt(2 * np.pi))
penalty, constant = (x**2).sum() / (2 * tau**2), D * np.log(tau * np.sqrt(2 * np.pi))
print(f"loss {loss:.3f} + penalty {penalty:.3f} + constant {constant:.3f} nats; bayesreg's log joint {nats:.3f}")
check("−log joint = loss + penalty + constant", -nats, loss + penalty + constant, 1e-9)

# %% [markdown]
# And the minimum of the blue curve: averaged over truths and noises, direction $i$ contributes
# $\bigl(\alpha^2\tau^2+s_i^2\sigma^2\bigr)/(s_i^2+\alpha)^2$, whose derivative in α is zero at
# $\alpha=\sigma^2/\tau^2$ *for every $i$*. If the prior is true, no other α has a smaller mean squared error.

# %%
expected = ((alphas[:, None] ** 2 * tau**2 + s**2 * sigma**2) / (s**2 + alphas[:, None]) ** 2).sum(1)
check("the expected error is least at σ²/τ²", np.log10(alphas[expected.argmin()]), np.log10(alpha), 1e-3)
check("2,000 experiments agree with it", np.sqrt(mse.mean(0))[30:70], np.sqrt(expected)[30:70], 0.1)

# %% [markdown]
# From here on we use the real target $y$ and all ten measurements. `standardize=True` lets the priors speak about
# standardised columns (one prior scale then makes sense for all), and everything else comes back in the data's
# own units.


# %%
def linear(prior, noise_scale):
    """y = Xw + ε on standardised data, in double precision."""
    net = nn.Linear(X.shape[1], 1, bias=False).double()
    return br.BayesianModel(net, prior, likelihoods.Gaussian(noise_scale), standardize=True)


Z, t = (X - X.mean(0)) / X.std(0), (y - y.mean()) / y.std()
N, D = Z.shape
noise_scale = 0.7  # of standardised y; section 5 lets the data choose
for scale in (0.01, 0.1, 1.0):
    mode = br.fit(linear(priors.Normal(scale), noise_scale), X, y, method="map")
    ridge = Ridge(alpha=noise_scale**2 / scale**2, fit_intercept=False).fit(Z, t)
    check(f"τ = {scale:<4g} ⇔ Ridge(alpha={ridge.alpha:.4g})", mode.mean["weight"][0], ridge.coef_, 1e-8)

# %% [markdown]
# ## 4. The same for L1
#
# Replace the normal prior by Laplace's, $p(w)=\prod_j\frac1{2\beta}e^{-|w_j|/\beta}$. Its penalty is
# $\|w\|_1/\beta$: the lasso. scikit-learn divides the squared error by $2N$, hence
# $\alpha_{\text{lasso}}=\sigma^2/(N\beta)$.

# %%
beta = 0.05
lasso_model = linear(priors.Laplace(beta), noise_scale)
mode = br.fit(lasso_model, X, y, method="map")
lasso = Lasso(alpha=noise_scale**2 / (N * beta), fit_intercept=False, tol=1e-10).fit(Z, t)
w_mode = mode.mean["weight"][0].numpy()
print(mode.certificate)
check("MAP under a Laplace prior = Lasso(σ²/Nβ)", w_mode, lasso.coef_, 1e-6)
zero = lasso.coef_ == 0
print(f"exact zeros: Lasso {zero.sum()}, MAP {(w_mode == 0).sum()}")
holds("the zeros are the same weights", bool(((w_mode == 0) == zero).all()))

# %% [markdown]
# The mode is sparse. (Adam alone would only come close to zero; the fit ends with proximal steps, which land on it.)
# Is that what we *believe*? The posterior is a density: it gives the event $w_j=0$ probability zero. Two
# ways to it: `mean-field` fits one mean and one sd for each weight by maximising the ELBO, a lower bound of
# $\log p(y)$; and, as the truth to compare with, the Gibbs sampler of the "Bayesian lasso" (Park and Casella
# 2008), which is exact up to Monte Carlo error.

# %%
belief = br.fit(lasso_model, X, y, method="mean-field", seed=0)
mean, sd = belief.mean["weight"][0].numpy(), belief.std["weight"][0].numpy()
print(belief.certificate)

w, draws = np.full(D, 0.1), []
for _ in range(5000):  # a Laplace is a normal whose variance v is exponential: draw w given v, then 1/v given w
    precision = rng.wald(1 / (beta * np.abs(w)), 1 / beta**2)
    root = np.linalg.inv(np.linalg.cholesky(Z.T @ Z / noise_scale**2 + np.diag(precision)))
    w = root.T @ (root @ Z.T @ t / noise_scale**2 + rng.standard_normal(D))
    draws.append(w)
draws = np.array(draws[500:])

print(f"\n{'':>4}{'mode':>8} | mean-field {'mean':>6}{'sd':>7} | exact {'mean':>6}{'sd':>7}{'P(w > 0)':>10}")
columns = (diabetes.feature_names, w_mode, mean, sd, draws.mean(0), draws.std(0), (draws > 0).mean(0))
for row in zip(*columns, strict=True):
    print("{:>4}{:8.3f} | {:17.3f}{:7.3f} | {:12.3f}{:7.3f}{:10.2f}".format(*row))

# %%
figure, (left, right) = plt.subplots(1, 2, gridspec_kw={"width_ratios": [2, 3]})
grid = np.linspace(-0.25, 0.25, 201)
l1, l2 = priors.Laplace(beta), priors.Normal(np.sqrt(2) * beta)
for name, prior, colour in [("Laplace: L1", l1, ORANGE), ("Normal: L2", l2, BLUE)]:
    left.plot(grid, [float(prior.penalty(torch.tensor([w]))) for w in grid], color=colour, label=name)
left.set(title="Penalty of one weight, equal prior sd", xlabel="w", ylabel="nats")
left.legend(frameon=False)
right.axhline(0, color=GREY, lw=0.7)
right.errorbar(np.arange(D) + 0.2, mean, 2 * sd, fmt="s", ms=4, color=GREEN, capsize=3, label="mean-field ± 2 sd")
right.errorbar(range(D), draws.mean(0), 2 * draws.std(0), fmt="s", ms=4, color=BLUE, capsize=3, label="exact ± 2 sd")
right.plot(np.arange(D) - 0.2, w_mode, "o", color=ORANGE, label="mode (lasso)")
right.set(title="Standardised coefficients", xticks=range(D), xticklabels=diabetes.feature_names)
right.legend(frameon=False, fontsize=8)
plt.show()

# %%
for j in np.flatnonzero(zero):  # age, s2, s4
    low, high = np.quantile(draws[:, j], [0.025, 0.975])
    print(f"{diabetes.feature_names[j]:>3}: zero in the mode; 95 % of the posterior is [{low:+.2f}, {high:+.2f}]")
holds("s4, dropped by the lasso, may be as large as bp, which it kept", high > 0.8 * w_mode[diabetes.feature_names.index("bp")])

# %% [markdown]
# "The lasso set it to zero" is a statement about a mode, not evidence of absence. And mean-field, whose means are
# close, is too narrow for s1 to s5; the next section says why.
#
# ## 5. What the mode hides
#
# With a normal prior the whole posterior is in closed form, $w\mid y\sim N(\hat w,\Sigma)$,
# $\Sigma^{-1}=Z^\top Z/\sigma^2+I/\tau^2$. `exact` computes it; its mean is the mode, so the *covariance* is all
# that MAP leaves out.

# %%
scale = 0.2
exact = br.fit(linear(priors.Normal(scale), noise_scale), X, y, method="exact")
Sigma = np.linalg.inv(Z.T @ Z / noise_scale**2 + np.eye(D) / scale**2)
check("mean = mode", exact.mean["weight"][0], tikhonov(Z, t, noise_scale**2 / scale**2), 1e-10)
check("covariance = (ZᵀZ/σ² + I/τ²)⁻¹", exact.covariance, Sigma, 1e-10)

w = exact.sample(1, seed=3)["weight"][0]  # any w will do
density = torch.distributions.MultivariateNormal(exact.loc, exact.covariance).log_prob(w[0])
joint = exact.model.log_joint({"weight": w}, X, y)
check("log p(w | y) = log joint − log evidence", density, joint - exact.log_evidence, 1e-8)

meanfield = br.fit(exact.model, X, y, method="mean-field", seed=0)
ratio = meanfield.std["weight"][0].numpy() / np.sqrt(np.diag(Sigma))
theory = 1 / np.sqrt(np.diag(np.linalg.inv(Sigma)) * np.diag(Sigma))
print("\nsd(mean-field)/sd(exact):", " ".join(f"{n} {r:.2f}" for n, r in zip(diabetes.feature_names, ratio, strict=True)))
check("mean-field's variance = 1/diag(Σ⁻¹), not diag(Σ)", ratio, theory, 0.05)

# %% [markdown]
# The last lines are a warning about mean-field: where columns are correlated (the blood values s1 to s5),
# independent normals are far too narrow.
#
# ### A band instead of a line
#
# One input (BMI), forty patients, none above BMI 26, and a curve made of Gaussian bumps. The module is not linear
# in its *input*, but it is in its *weights*, so `exact` applies. The predictive variance has two parts:
# **aleatoric** (the noise; more data do not reduce it) and **epistemic** (what is not known about the curve).


# %%
class Bumps(nn.Module):
    """Gaussian bumps along one input, and a constant."""

    def __init__(self):
        super().__init__()
        self.register_buffer("centres", torch.linspace(-3, 9, 17, dtype=torch.float64))

    def forward(self, x):
        return torch.cat([torch.exp(-0.5 * (x - self.centres) ** 2), torch.ones_like(x)], 1)


def curve(scale):
    net = nn.Sequential(Bumps(), nn.Linear(18, 1, bias=False).double())
    return br.BayesianModel(net, priors.Normal(scale), likelihoods.Gaussian(1.0), standardize=True)


patients = np.flatnonzero(bmi < 26)[:40]
x, y_x = bmi[patients], y[patients]
curve_mode, curve_posterior = (br.fit(curve(1.0), x, y_x, method=method) for method in ("map", "exact"))

grid = np.linspace(18, 42, 200)
point, belief = curve_mode.predict(grid), curve_posterior.predict(grid, num_samples=4000, seed=0)
check("MAP's curve = posterior mean curve (4,000 draws)", belief.mean, point.mean, 0.05)
phi = Bumps()(curve_posterior.model.prepare(grid)).numpy()
by_hand = np.sqrt(np.einsum("nd,de,ne->n", phi, curve_posterior.covariance.numpy(), phi)) * y_x.std()
check("epistemic sd = √(φᵀΣφ) (4,000 draws)            ", belief.epistemic_variance.sqrt(), by_hand, 0.08)
for value in (24, 40):
    i = np.abs(grid - value).argmin()
    epistemic, aleatoric = belief.epistemic_variance[i].sqrt(), belief.aleatoric_variance[i].sqrt()
    print(f"BMI {value}: sd epistemic {epistemic:.0f}, aleatoric {aleatoric:.0f}, total {belief.std[i]:.0f}", end="; ")
    print(f"MAP says {point.std[i]:.0f}")

# %%
figure, (left, right) = plt.subplots(1, 2, sharey=True)
for axis, name, predictive, colour in [(left, "MAP", point, ORANGE), (right, "Posterior", belief, BLUE)]:
    lower, upper = (end.numpy() for end in predictive.interval(0.95))
    axis.fill_between(grid, lower, upper, color=colour, alpha=0.15, label="95 % of new patients")
    axis.plot(bmi, y, ".", color=GREY, ms=2, label="the other 402 patients")
    axis.plot(x, y_x, "k.", ms=6, label="the forty")
    axis.plot(grid, predictive.mean, color=colour, lw=2, label="mean")
    axis.set(title=name, xlabel="BMI", xlim=(18, 42), ylim=(-150, 450))
right.plot(grid, belief.output[:12].T, color=BLUE, lw=0.5)
left.legend(frameon=False, loc="lower left", fontsize=8, ncols=2)
left.set_ylabel("progression")
plt.show()

# %%
far = np.flatnonzero(bmi > x.max() + 2)
print(f"{len(far)} patients have a BMI above {x.max() + 2:.1f}. How many of them does the 95 % interval hold?")
for scale in (1.0, 0.3):
    for method in ("map", "exact"):
        lower, upper = br.fit(curve(scale), x, y_x, method=method).predict(bmi[far]).interval(0.95)
        inside = ((y[far] >= lower.numpy()) & (y[far] <= upper.numpy())).mean()
        print(f"τ = {scale}, {method:>5}: {inside:.0%}")

# %% [markdown]
# Both curves are the same curve; only one of them knows where it was never tested. There the posterior falls back
# on the prior, so the band is as good as the assumed τ: with $\tau=0.3$ it is too narrow as well. Which τ, then?
#
# ### The evidence chooses the prior scale
#
# $p(y\mid\tau)=\int p(y\mid w)\,p(w\mid\tau)\,dw$ is the **evidence**: how probable the data were before any
# weight was fitted. In this model
#
# $$\log p(y\mid\tau)=\underbrace{\log p(y,\hat w\mid\tau)}_{\text{log joint at the mode}}
# +\underbrace{\tfrac D2\log2\pi+\tfrac12\log|\Sigma|}_{\text{log volume of the posterior}} .$$
#
# Back to all patients and all ten measurements. `BayesianRidge` climbs this hill in σ and τ together, and gives
# us σ here.

# %%
reference = BayesianRidge(fit_intercept=False, compute_score=True, max_iter=1000, tol=1e-8).fit(Z, t)
sigma_hat, tau_hat = reference.alpha_**-0.5, reference.lambda_**-0.5
there = br.fit(linear(priors.Normal(tau_hat), sigma_hat), X, y, method="exact")
print(f"BayesianRidge: σ = {sigma_hat:.4f}, τ = {tau_hat:.4f}, i.e. Ridge(alpha={sigma_hat**2 / tau_hat**2:.2f})")
check("evidence = BayesianRidge's score − N log sd(y)", there.log_evidence, reference.scores_[-1] - N * np.log(y.std()), 1e-4)

taus = np.logspace(-12, 1, 131)
fits = [br.fit(linear(priors.Normal(tau), sigma_hat), X, y, method="exact") for tau in taus]
evidence = np.array([fit.log_evidence for fit in fits])
joint = np.array([float(fit.model.log_joint(fit.mean, X, y)) for fit in fits])
volume = np.array([0.5 * D * np.log(2 * np.pi) + 0.5 * float(torch.logdet(fit.covariance)) for fit in fits])
check("evidence = joint at the mode + log volume", joint + volume, evidence, 1e-9)
best = taus[evidence.argmax()]
print(f"largest evidence at τ = {best:.3f}, on a grid with steps of {taus[1] / taus[0] - 1:.0%}")
check("BayesianRidge's τ is that maximum", best, tau_hat, taus[1] / taus[0] - 1)
holds("the log joint at the mode is larger still at τ = 1e-12", joint[0] > joint[taus > 0.01].max())

# %%
fit_only = np.array([float(fit.model.log_likelihood(fit.mean, X, y)) for fit in fits])
trace = np.array([fit.mean["weight"][0].numpy() for fit in fits])
figure, (left, right) = plt.subplots(1, 2)
left.semilogx(taus, fit_only, color=GREEN, label="log likelihood at the mode")
left.semilogx(taus, joint, color=ORANGE, label="log joint at the mode")
left.semilogx(taus, evidence, color=BLUE, lw=2, label="log evidence")
left.plot(best, evidence.max(), "o", color=BLUE)
left.annotate(f"τ = {best:.2f}", (best, evidence.max()), (best * 1e-4, evidence.max() - 25), color=BLUE)
left.set(title="Which prior scale?", xlabel="τ", ylabel="nats", ylim=(evidence.max() - 330, evidence.max() + 100))
left.legend(frameon=False, loc="lower left", fontsize=8)
right.semilogx(taus[taus > 1e-3], trace[taus > 1e-3], lw=1.2)
right.axvline(best, color=BLUE, ls="--")
right.text(1.2e-3, trace.max() * 0.9, f"dashed: Ridge α = {sigma_hat**2 / best**2:.1f}", color=BLUE)
right.set(title="Ridge trace: the ten coefficients", xlabel="τ")
plt.show()

# %% [markdown]
# Green: the fit only ever improves with τ. Orange: the log joint, which one would follow by treating τ as one
# more parameter of the mode. It has a bump at a sensible place, but no maximum: every tenth of τ adds $D\log10$
# nats, 23 here and 555 for the 241 weights of the network below, where nothing is left of the bump. Blue: the
# evidence weighs the fit against the volume of prior that was wasted. **A mode cannot choose its own regulariser;
# the evidence can.**
#
# ## 6. The same sentence for a network
#
# Nothing above used linearity except the closed forms. Half of the patients train a ReLU network 10–20–1; the
# noise scale is unknown too and has a prior. `laplace` puts a Gaussian with the curvature of the log joint at the
# mode; `mean-field` is as before.

# %%
split = diabetes.train_test_split(0.5, seed=0)
torch.manual_seed(0)
network = br.BayesianModel(
    nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 1)),
    priors={"*.weight": priors.Normal(1.0, fan_in=True), "*.bias": priors.Normal(1.0)},
    likelihood=likelihoods.Gaussian(noise_scale=priors.HalfNormal(1.0)),
    standardize=True,
)
print(network.prior_table(), "\n")
posteriors = {
    name: br.fit(network, split.X_train, split.y_train, method=method, seed=0)
    for name, method in {"MAP": "map", "Laplace": "laplace", "mean-field": "mean-field"}.items()
}
for name, posterior in posteriors.items():
    print(f"{name}: {posterior.certificate}")
comparison = br.compare(posteriors, split.X_test, split.y_test)
comparison

# %%
levels = np.linspace(0.02, 0.98, 49)
colours = {"MAP": ORANGE, "Laplace": BLUE, "mean-field": GREEN}
figure, (left, right) = plt.subplots(1, 2, gridspec_kw={"width_ratios": [2, 3]})
left.plot([0, 1], [0, 1], color=GREY, lw=0.7)
for name, predictive in comparison.predictives.items():
    pit = predictive.cdf(split.y_test).numpy()
    left.plot(levels, [(np.abs(2 * pit - 1) <= level).mean() for level in levels], color=colours[name], label=name)
left.set(title="Coverage on 221 new patients", xlabel="stated", ylabel="observed")
left.legend(frameon=False)
shown = np.argsort(comparison.predictives["Laplace"].std.numpy())[::7]
for shift, name in ((-0.17, "MAP"), (0.17, "Laplace")):
    predictive = comparison.predictives[name]
    lower, upper = (end.numpy()[shown] for end in predictive.interval(0.95))
    right.vlines(np.arange(len(shown)) + shift, lower, upper, color=colours[name], lw=2.5, label=f"{name}, 95 %")
right.plot(split.y_test[shown], "k.", label="observed")
right.set(title="Every seventh of them, by Laplace's predictive sd", xticks=[], ylabel="progression")
right.legend(frameon=False, loc="upper left", ncols=3, fontsize=8)
right.set_ylim(top=right.get_ylim()[1] + 70)
plt.show()

# %% [markdown]
# The point predictions are equally good, but the mode's 95 % intervals hold only about nine patients in ten: 241
# weights were fitted to 221 rows, the residuals became too small, and the mode took them for the noise. Laplace's
# intervals widen exactly where the weights are undetermined. At 95 %, mean-field errs to the other side here: it
# cannot represent the posterior's correlations, gives up part of the fit, and calls the rest noise. One split
# proves little; here are two more.

# %%
coverage = {"MAP": [], "Laplace": []}
for seed in (0, 1, 2):
    part = diabetes.train_test_split(0.5, seed=seed)
    for name, method in {"MAP": "map", "Laplace": "laplace"}.items():
        again = posteriors[name] if seed == 0 else br.fit(network, part.X_train, part.y_train, method=method, seed=seed)
        coverage[name].append(br.metrics.coverage(again.predict(part.X_test), part.y_test).rate)
for name, rates in coverage.items():
    print(f"{name:>8}: coverage of the 95 % interval in three splits: {', '.join(f'{rate:.1%}' for rate in rates)}")
holds("MAP covers less than Laplace in each split", all(m < c for m, c in zip(*coverage.values(), strict=True)))

# %% [markdown]
# The evidence still answers questions, such as whether the network was needed:

# %%
straight = br.BayesianModel(nn.Linear(10, 1), likelihood=network.likelihood, standardize=True)
straight_line = br.fit(straight, split.X_train, split.y_train, method="laplace")
print(f"log evidence: linear model {straight_line.log_evidence:.1f}, network {posteriors['Laplace'].log_evidence:.1f} nats")
holds("the linear model has the larger evidence", straight_line.log_evidence > posteriors["Laplace"].log_evidence)

# %% [markdown]
# For these data: no. A straight line explains them as well, and wastes less prior probability on curves that were
# not there.
#
# ## 7. The same λ under other names
#
# | written as | minimises | λ, for noise sd σ and prior sd τ |
# |---|---|---|
# | `Ridge(alpha=λ)` | $\|y-Xw\|^2+λ\|w\|^2$ | $σ^2/τ^2$ |
# | `Lasso(alpha=λ)` | $\|y-Xw\|^2/2N+λ\|w\|_1$ | $σ^2/(Nβ)$, Laplace scale β |
# | `lsqr(damp=λ)` | $\|y-Xw\|^2+λ^2\|w\|^2$ | $σ/τ$ |
# | `weight_decay=λ`, mean log loss | $\frac1N\sum_i-\log p(y_i\mid w)+\frac λ2\|w\|^2$ | $1/(Nτ^2)$ |
# | `weight_decay=λ`, `MSELoss` | $\frac1N\|y-Xw\|^2+\frac λ2\|w\|^2$ | $2σ^2/(Nτ^2)$ |
#
# AdamW is missing on purpose: its decoupled decay is not the gradient of any penalty, so there is no prior whose
# mode it finds. The next cell runs all of them but the lasso, which section 4 had.

# %%
tau, sigma = 0.2, noise_scale
w_map = br.fit(linear(priors.Normal(tau), sigma), X, y, method="map").mean["weight"][0].numpy()


def train(optimizer, loss, weight_decay, rate, steps=3_000):
    """A bare PyTorch loop over all rows, the rate falling to zero."""
    w, inputs, target = torch.zeros(D, dtype=torch.float64, requires_grad=True), torch.tensor(Z), torch.tensor(t)
    search = optimizer([w], lr=rate, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(search, steps)
    for _ in range(steps):
        search.zero_grad()
        loss(inputs @ w, target).backward()
        search.step()
        schedule.step()
    return w.detach().numpy()


def mean_log_loss(output, target):
    return (output - target).square().mean() / (2 * sigma**2)


check("Ridge       ", Ridge(alpha=sigma**2 / tau**2, fit_intercept=False).fit(Z, t).coef_, w_map, 1e-8)
check("lsqr        ", lsqr(Z, t, damp=sigma / tau, atol=1e-12, btol=1e-12)[0], w_map, 1e-6)
check("SGD, log loss", train(torch.optim.SGD, mean_log_loss, 1 / (N * tau**2), 0.1), w_map, 1e-4)
check("SGD, MSELoss ", train(torch.optim.SGD, nn.MSELoss(), 2 * sigma**2 / (N * tau**2), 0.1), w_map, 1e-4)
check("Adam, MSELoss", train(torch.optim.Adam, nn.MSELoss(), 2 * sigma**2 / (N * tau**2), 0.02), w_map, 1e-4)
decoupled = train(torch.optim.AdamW, nn.MSELoss(), 2 * sigma**2 / (N * tau**2), 0.005, steps=10_000)
print(f"AdamW, same λ: {np.abs(decoupled - w_map).max():.1e} from the mode with that penalty,", end=" ")
print(f"{np.abs(decoupled - np.linalg.lstsq(Z, t, rcond=None)[0]).max():.1e} from least squares, which has none")

# %% [markdown]
# ## To take away
#
# 1. A loss in nats plus a penalty in nats is a log posterior; a regularised fit is its mode.
# 2. λ is a ratio of scales, $σ^2/τ^2$ up to the tool's factors of $N$ and 2. Say the scales, and every tool agrees.
# 3. Sparsity, smallness and confidence of the mode are properties of the mode. The posterior says what is known.
# 4. The mode cannot choose its own τ or judge its own noise; the evidence and the posterior can.
#
# Try it: give `priors.Laplace` to the network's first layer; halve the training set and watch the coverage; plot
# the evidence of the network against its prior scale.
