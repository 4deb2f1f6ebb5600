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
# # Inverse problems
#
# Find $x$ from $b = Ax + \text{noise}$. The lecture's two smallest examples are
#
# $$A=\begin{pmatrix}1\\1\end{pmatrix}\ \text{(no solution, one best answer)},\qquad
# A=\begin{pmatrix}1&1\end{pmatrix}\ \text{(many solutions)},$$
#
# and the repair is $\lVert Ax-b\rVert^2+\lambda\lVert x\rVert^2\to\min$. Bayes' rule says where the second term comes from:
# it is the prior, $\lambda=\sigma^2/\tau^2$. This chapter goes on from there:
#
# 1. **Three matrices**: does a solution exist, is it unique, is it stable?
# 2. An **ill-posed** problem, and what noise does to it.
# 3. **Tikhonov as a prior**, and the posterior behind it.
# 4. **How strong**: every rule for $\lambda$ on one axis.
# 5. A **smoothness** prior, and what the evidence says of it.
# 6. **L1 and total variation**: spikes and steps.
# 7. **Deblurring** with a credible band.
#
# All data are made here. Every claim is followed by a line that checks it.

# %%
import warnings

warnings.filterwarnings("ignore", message="IProgress not found")  # tqdm, where Jupyter has no widgets

import matplotlib.pyplot as plt
import numpy as np
import torch
from scipy.sparse.linalg import lsqr

import bayesreg as br
from bayesreg import inverse, likelihoods, operators, plots, priors
from bayesreg.datasets import inverse as problems

plt.rcParams.update({"figure.dpi": 80, "figure.figsize": (9, 2.8), "axes.spines.top": False, "axes.spines.right": False})
BLUE, ORANGE, GREY = "#1f77b4", "#d95f02", "#999999"


def holds(claim, truth):
    """Print a claim that is true or false, and stop if it is false."""
    print(f"{claim}: {'yes' if truth else 'no'}")
    if not truth:
        raise AssertionError(claim)


def model_of(operator, prior, noise_scale):
    return br.BayesianModel(operator, {"x": prior}, likelihoods.Gaussian(noise_scale))


def smaller(figure):
    figure.set_dpi(64)
    return figure


def error(found, truth):
    found = np.asarray(found)
    return float(np.linalg.norm(found - truth) / np.linalg.norm(truth))


# %% [markdown]
# ## 1. Three matrices
#
# Two measurements of one number that contradict each other: no solution, but one least-squares answer, their mean.

# %%
two_of_one = inverse.analyse([[1.0], [1.0]], [1.0, 2.0])
print(*two_of_one.verdict, sep="\n")
holds("the least-squares answer is the mean", abs(float(two_of_one.minimum_norm[0]) - 1.5) < 1e-12)

# %% [markdown]
# One measurement of a sum: every $(x_1, 2-x_1)$ is a solution. The shortest is $(1, 1)$; what the data do not see is the
# direction $(1,-1)$. A prior makes the answer unique, and along $(1,-1)$ the posterior *is* the prior.

# %%
sum_of_two = inverse.analyse([[1.0, 1.0]], [2.0])
print(*sum_of_two.verdict, sep="\n")
post = br.fit(model_of(operators.Dense([[1.0, 1.0]]), priors.Normal(1.0), 0.1), None, [2.0], method="exact")
draws = post.sample(4000, seed=0)["x"].numpy()
figure, axis = plt.subplots(figsize=(3.6, 3.2), layout="constrained")
axis.plot(*draws[:600].T, ".", ms=2, color=BLUE, alpha=0.5)
axis.plot([-1, 3], [3, -1], color=GREY, lw=1)
axis.set(xlabel="$x_1$", ylabel="$x_2$", title="posterior of $x_1 + x_2 = 2$", aspect="equal")
plt.show()
along = draws @ np.array([1, -1]) / np.sqrt(2)
holds("along (1, -1) the posterior sd is the prior's, 1", abs(along.std() - 1) < 0.05)

# %% [markdown]
# Two measurements that say nearly the same: a solution, only one, and worthless, since a small error of $b$ becomes a
# large one of $x$.

# %%
nearly_equal = inverse.analyse([[1.0, 1.0], [1.0, 1.0001]], [2.0, 2.0001], noise_scale=0.01)
print(*nearly_equal.verdict, sep="\n")
holds("it is not stable", not nearly_equal.stable)

# %% [markdown]
# ## 2. An ill-posed problem
#
# `shaw` is light that went through a slit. Its matrix has singular values down to rounding, so that "the solution" is noise,
# even at 1 % noise in $b$. The Picard plot shows why: the coefficients $|u_i^\top b|$ level off at $\sigma$, the singular
# values do not, and their ratio is what enters $x$.

# %%
shaw = problems.shaw(64)
b, sigma = shaw.noisy(0.01, seed=0)
A = shaw.operator.matrix().numpy()
found = inverse.analyse(shaw.operator, b, sigma)
print(*found.verdict, sep="\n")
naive = found.minimum_norm.numpy()
print(f"relative error of the minimum-norm solution: {error(naive, shaw.x):.1e}")
holds("without a prior the answer is noise", error(naive, shaw.x) > 1000)
plots.picard(found)

# %% [markdown]
# ## 3. Tikhonov as a prior
#
# With the prior $N(0,\tau^2)$ on each entry the mode is Tikhonov's answer with $\lambda=\sigma^2/\tau^2$, which SciPy's `lsqr`
# calls `damp` $=\sigma/\tau$. The same declaration gives the posterior.

# %%
tau = 1.0
tikhonov = model_of(shaw.operator, priors.Normal(tau), sigma)
mode = br.fit(tikhonov, None, b, method="map")
damped = lsqr(A, b, damp=sigma / tau, atol=1e-15, btol=1e-15, iter_lim=10_000)[0]
holds("MAP is lsqr with damp = sigma / tau", error(mode.mean["x"], damped) < 1e-6)
posterior = br.fit(tikhonov, None, b, method="exact")
plots.directions(found, posterior)

# %% [markdown]
# Along the first few singular vectors the data are far sharper than the prior; along the rest, in grey, they say nothing and
# the posterior is the prior. The band shows it: it is as wide as independent entries allow.

# %%
plots.reconstruction(posterior, b, shaw.x)

# %% [markdown]
# ## 4. How strong
#
# Every rule is a curve over $\lambda$, and each assumes something else.

# %%
choice = inverse.choose(tikhonov, b)
print(choice)

# %%
errors = choice.errors(shaw.x)
print({rule: f"{value:.3f}" for rule, value in errors.items()})
at_discrepancy = choice["discrepancy"].residual / (sigma * np.sqrt(len(b)))
holds("the discrepancy's residual is sigma sqrt(M)", abs(at_discrepancy - 1) < 1e-6)
holds("no rule beats the truth", all(value >= errors["best"] - 1e-3 for value in errors.values()))
smaller(plots.penalty_weights(choice, shaw.x))

# %% [markdown]
# The L-curve's corner, and its curvature:

# %%
smaller(plots.l_curve(choice))

# %% [markdown]
# ## 5. A smoothness prior, and the evidence
#
# The evidence trusts the prior. "Independent entries" is a poor description of a straight line, so it is told to
# allow more than it should; that is the prior's fault, and comparing priors by the evidence finds it out. `deriv2` asks for
# the second derivative of a curve; its truth is a line.

# %%
line = problems.deriv2(64)
y, noise = line.noisy(0.01, seed=0)
models = {
    "independent": model_of(line.operator, priors.Normal(1.0), noise),
    "smooth": model_of(line.operator, priors.Smooth(order=2, scale=1.0, level_scale=300.0), noise),
}
compared = inverse.compare_priors(models, y)
print(compared)
answers = {name: compared.choices[name].solution("evidence") for name in models}
print({name: f"{error(x, line.x):.3f}" for name, x in answers.items()})
holds("the evidence prefers the smooth prior", compared.best == "smooth")
holds("and it is nearer to the truth", error(answers["smooth"], line.x) < 0.3 * error(answers["independent"], line.x))
figure, axes = plt.subplots(1, 2, sharey=True, layout="constrained")
for axis, name in zip(axes, models, strict=True):
    fit = br.fit(compared.model(name), None, y, method="exact")
    mean, sd = fit.mean["x"], fit.std["x"]
    axis.fill_between(range(64), mean - 1.64 * sd, mean + 1.64 * sd, color=BLUE, alpha=0.25, lw=0, label="90 % band")
    axis.plot(mean, color=BLUE, label="mean")
    axis.plot(line.x, "k--", lw=1, label="truth")
    axis.set(title=f"{name}: log evidence {compared.log_evidence[name]:.1f}", xlabel="entry of x")
axes[0].legend(frameon=False)
plt.show()

# %% [markdown]
# ## 6. L1 and total variation
#
# Blurred spikes, and a blurred signal with steps. The likelihood is the same; what changes is one word, the prior.

# %%
size = 80
kernel = np.exp(-0.5 * (np.arange(-8, 9) / 2.5) ** 2)
blur = operators.Convolution1d(kernel / kernel.sum(), boundary="reflect", shape=(size,))
spikes, steps = np.zeros(size), np.zeros(size)
spikes[[15, 30, 38, 60]] = [1.0, 0.8, -0.6, 1.2]
steps[20:35], steps[35:55], steps[55:62] = 1.0, 0.4, -0.5
rng = np.random.default_rng(0)
truths = {"spikes": spikes, "steps": steps}
sd = 0.01
blurred = {name: blur(torch.tensor(x)).numpy() + sd * rng.standard_normal(size) for name, x in truths.items()}
beliefs = {
    "Normal": priors.Normal(0.3),
    "Laplace (L1)": priors.Laplace(0.05),
    "TotalVariation": priors.TotalVariation(0.05),
}
modes = {}
figure, axes = plt.subplots(2, 3, figsize=(9, 4), sharey="row", layout="constrained")
for row, (name, x) in zip(axes, truths.items(), strict=True):
    for axis, (belief, prior) in zip(row, beliefs.items(), strict=True):
        modes[name, belief] = br.fit(model_of(blur, prior, sd), None, blurred[name], method="map").mean["x"].numpy()
        axis.plot(x, color=GREY, lw=3, alpha=0.6)
        axis.plot(blurred[name], color=ORANGE, lw=1)
        axis.plot(modes[name, belief], color=BLUE, lw=1.3)
        axis.set_title(f"{belief}: error {error(modes[name, belief], x):.2f}", fontsize=10)
figure.suptitle("grey: truth, orange: data, blue: mode", fontsize=10)
plt.show()
on, off = spikes != 0, spikes == 0
near = np.convolve(on, [1, 1, 1], "same") > 0
l1 = modes["spikes", "Laplace (L1)"]
holds("L1 finds the four spikes", all(np.abs(l1[max(i - 1, 0) : i + 2]).max() > 0.3 for i in np.flatnonzero(on)))
holds("and is exactly zero at most other places", (l1[~near] == 0).mean() > 0.8)
holds("total variation is the best for steps", min(beliefs, key=lambda p: error(modes["steps", p], steps)) == "TotalVariation")

# %% [markdown]
# ## 7. Deblurring with a credible band
#
# An image out of focus, and a corner of the sensor that is broken: 784 unknowns, of which one block is not measured. The
# operator is a product, $A$ = mask · blur, and the prior's scale is that of GCV. The posterior sd is the map that the
# sharpened image alone hides: where the image is known, and where it is a guess.

# %%
picture = problems.deblurring_2d(28)
seen = np.ones((28, 28), dtype=bool)
seen[2:15, 12:26] = False
image, sigma = picture.noisy(0.02, seed=1)
camera = operators.Mask(seen) @ picture.operator
pixels = image[seen]
print(inverse.analyse(camera, pixels, sigma).verdict[-1])
smooth = model_of(camera, priors.Smooth(order=2, scale=1.0, level_scale=30.0), sigma)
choice = inverse.choose(smooth, pixels, ["gcv", "evidence", "discrepancy"])
print(choice)

# %%
sharp = br.fit(choice.model("gcv"), None, pixels, method="exact")
answer = inverse.judge(sharp, pixels, picture.x)
print(answer)
holds("the answer is nearer to the truth than the blurred image", answer.relative_error < error(image, picture.x))
inside, outside = answer.sd[6:11, 16:22].mean(), answer.sd[18:].mean()
holds("what was not measured is known less", inside > 1.5 * outside)
smaller(plots.reconstruction(sharp, pixels, picture.x))

# %% [markdown]
# One row of the image, through the broken corner, with its band:

# %%
row = 8
figure, axis = plt.subplots(layout="constrained")
axis.fill_between(range(28), answer.lower[row], answer.upper[row], color=BLUE, alpha=0.25, lw=0, label="90 % band")
axis.plot(answer.mean[row], color=BLUE, label="mean")
axis.plot(picture.x[row], "k--", lw=1, label="truth")
axis.plot(np.where(seen[row], image[row], np.nan), color=ORANGE, lw=1, label="data")
axis.set(xlabel=f"row {row} of the image")
axis.legend(frameon=False, ncols=4)
plt.show()

# %% [markdown]
# And all of it in one page, `br.report(...).save("report.html")`; its verdict:

# %%
br.report({"posterior": sharp}, None, pixels, truth=picture.x)
