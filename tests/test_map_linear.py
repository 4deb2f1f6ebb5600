"""Linear-Gaussian modes against scikit-learn, the optimality conditions, and the duality gap's own promise."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import ElasticNet, Lasso, LogisticRegression, Ridge
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.objective import LogJoint
from bayesreg.solvers import (
    Columns,
    Elimination,
    Groups,
    History,
    LinearGaussian,
    Problem,
    Undetermined,
    Unsuited,
    affine_problem,
    group_lasso,
    lasso,
    ridge,
    solve,
    solve_path,
)

SIGMA = 0.7


def linear(inputs, rules, sigma=SIGMA, *, standardize=False, dtype=torch.float64, outputs=1):
    return br.BayesianModel(nn.Linear(inputs, outputs).to(dtype), rules, likelihoods.Gaussian(sigma), standardize)


def design(rows, columns, seed=0, correlation=0.5, relevant=15):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, columns))
    for j in range(1, columns):
        X[:, j] = correlation * X[:, j - 1] + (1 - correlation**2) ** 0.5 * X[:, j]
    w = np.zeros(columns)
    chosen = rng.permutation(columns)[:relevant]
    w[chosen] = 2 * rng.normal(size=len(chosen))
    return X, 3.0 + X @ w + rng.normal(size=rows)


def strongest(X, y):
    """The Laplace scale (noise 1) at and below which every weight is zero."""
    return 1 / np.abs(X.T @ (y - y.mean())).max()


def agrees(mode, coef, intercept, atol=1e-6):
    w = mode.mean["weight"][0].double().numpy()
    np.testing.assert_allclose(w, coef, rtol=1e-6, atol=atol)
    np.testing.assert_array_equal(w == 0, coef == 0)
    np.testing.assert_allclose(float(mode.mean["bias"]), intercept, rtol=1e-6, atol=atol)
    assert mode.certificate.converged
    assert mode.certificate.details["duality gap"] < 1e-6


@pytest.mark.parametrize("factor", [2.0, 20.0, 500.0])
@pytest.mark.parametrize("units", ["raw", "standard"])
def test_laplace_is_lasso_on_diabetes(diabetes, standard_diabetes, units, factor):
    X, y = diabetes if units == "raw" else standard_diabetes
    b = factor * strongest(X, y) * SIGMA**2
    mode = br.fit(linear(10, {"weight": priors.Laplace(b), "bias": priors.Flat()}), X, y, method="map")
    theirs = Lasso(alpha=SIGMA**2 / (len(y) * b), tol=1e-15, max_iter=100_000).fit(X, y)
    agrees(mode, theirs.coef_, theirs.intercept_, atol=1e-6)
    assert mode.history.notes[0].startswith("coordinate descent (scikit-learn): the model is linear-Gaussian")


@pytest.mark.parametrize(("b", "tau"), [(0.02, 0.1), (0.02, 10.0), (1.0, 0.05)])
def test_elastic_net_is_elastic_net_on_diabetes(standard_diabetes, b, tau):
    X, y = standard_diabetes
    mode = br.fit(linear(10, {"weight": priors.ElasticNet(b, tau), "bias": priors.Flat()}), X, y, method="map")
    a, c = SIGMA**2 / (len(y) * b), SIGMA**2 / (len(y) * tau**2)
    theirs = ElasticNet(alpha=a + c, l1_ratio=a / (a + c), tol=1e-15, max_iter=100_000).fit(X, y)
    agrees(mode, theirs.coef_, theirs.intercept_)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize(("rows", "columns"), [(60, 200), (400, 60)])
def test_random_designs(rows, columns, seed):
    X, y = design(rows, columns, seed)
    b = 20 * strongest(X, y)
    theirs = Lasso(alpha=1 / (rows * b), tol=1e-15, max_iter=1_000_000).fit(X, y)
    mode = br.fit(linear(columns, {"weight": priors.Laplace(b), "bias": priors.Flat()}, 1.0), X, y, method="map")
    agrees(mode, theirs.coef_, theirs.intercept_)


@pytest.mark.slow
@pytest.mark.parametrize("correlation", [0.0, 0.9])
@pytest.mark.parametrize(("rows", "columns"), [(500, 2000), (5000, 500)])
def test_large_random_designs(rows, columns, correlation):
    X, y = design(rows, columns, correlation=correlation, relevant=50)
    for factor in (5.0, 50.0):
        b = factor * strongest(X, y)
        theirs = Lasso(alpha=1 / (rows * b), tol=1e-14, max_iter=1_000_000).fit(X, y)
        mode = br.fit(linear(columns, {"weight": priors.Laplace(b), "bias": priors.Flat()}, 1.0), X, y, method="map")
        agrees(mode, theirs.coef_, theirs.intercept_)


def test_standardised_inputs_and_targets(diabetes, standard_diabetes):
    rules = {"weight": priors.Laplace(0.02), "bias": priors.Flat()}
    raw = br.fit(linear(10, rules, standardize=True), *diabetes, method="map")
    ready = br.fit(linear(10, rules), *standard_diabetes, method="map")
    torch.testing.assert_close(raw.mean["weight"], ready.mean["weight"], rtol=1e-10, atol=1e-12)
    assert raw.certificate.details["log joint"] == pytest.approx(
        ready.certificate.details["log joint"] - 442 * np.log(diabetes[1].std()), rel=1e-12
    )


def kkt(X, y, sigma, w, bias, l1, loc=0.0, bias_scale=None):
    """The largest violation of the lasso's optimality conditions, relative to the strength of each penalty."""
    residual = (y - X @ w - bias) / sigma**2
    pull = X.T @ residual
    moved = np.abs(w - loc) > 0
    held = np.maximum(np.abs(pull[~moved]) / l1[~moved] - 1, 0).max(initial=0)
    free = np.abs(pull[moved] / l1[moved] - np.sign(w - loc)[moved]).max(initial=0)
    level = abs(residual.sum() - (0 if bias_scale is None else bias / bias_scale**2)) / l1.max()
    return max(held, free, level)


@pytest.mark.parametrize("bias", [priors.Flat(), priors.Normal(0.5)], ids=str)
@pytest.mark.parametrize("loc", [0.0, 0.3])
def test_intercept_and_centre(standard_diabetes, bias, loc):
    X, y = standard_diabetes
    y = y + 2.0
    mode = br.fit(linear(10, {"weight": priors.Laplace(0.02, loc=loc), "bias": bias}), X, y, method="map")
    w = mode.mean["weight"][0].numpy()
    assert 0 < (w == loc).sum() < 10
    assert kkt(X, y, SIGMA, w, float(mode.mean["bias"]), np.full(10, 50.0), loc, getattr(bias, "scale", None)) < 1e-9


def test_one_lambda_a_column(diabetes):
    """autoscale gives each column its own scale: sd(y)/sd(x), a plain lasso on standardised data."""
    X, y = diabetes
    mode = br.fit(linear(10, {"weight": priors.Laplace(0.05, autoscale=True), "bias": priors.Flat()}, 50.0), X, y, method="map")
    l1 = X.std(0) / (0.05 * y.std())
    w = mode.mean["weight"][0].numpy()
    assert 0 < (w == 0).sum() < 10
    assert kkt(X, y, 50.0, w, float(mode.mean["bias"]), l1) < 1e-6


class Parts(nn.Module):
    """Two linear maps of two halves of the inputs, each with a prior of its own, one bias."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(5, 1, bias=False).double(), nn.Linear(5, 1).double()

    def forward(self, x):
        return self.a(x[:, :5]) + self.b(x[:, 5:])


def test_a_scale_for_each_tensor(standard_diabetes):
    X, y = standard_diabetes
    rules = {"a.weight": priors.Laplace(0.01), "b.weight": priors.Laplace(0.05), "b.bias": priors.Flat()}
    mode = br.fit(br.BayesianModel(Parts(), rules, likelihoods.Gaussian(SIGMA)), X, y, method="map")
    w = np.r_[mode.mean["a.weight"][0], mode.mean["b.weight"][0]]
    assert (w == 0).any()
    assert kkt(X, y, SIGMA, w, float(mode.mean["b.bias"]), np.repeat([100.0, 20.0], 5)) < 1e-9


def test_laplace_beside_normal_beside_elastic_net(standard_diabetes):
    """The Normal half is eliminated; each half's optimality condition is written out."""
    X, y = standard_diabetes
    rules = {"a.weight": priors.ElasticNet(0.02, 0.1), "b.weight": priors.Normal(0.2), "b.bias": priors.Normal(1.0)}
    mode = br.fit(br.BayesianModel(Parts(), rules, likelihoods.Gaussian(SIGMA)), X, y, method="map")
    a, b, bias = mode.mean["a.weight"][0].numpy(), mode.mean["b.weight"][0].numpy(), float(mode.mean["b.bias"])
    pull = X.T @ (y - X @ np.r_[a, b] - bias) / SIGMA**2
    np.testing.assert_allclose(pull[5:], b / 0.2**2, rtol=1e-8)
    slope = pull[:5] - a / 0.1**2
    assert 0 < (a == 0).sum() < 5
    assert (np.abs(slope[a == 0]) <= 50 * (1 + 1e-9)).all()
    np.testing.assert_allclose(slope[a != 0], 50 * np.sign(a[a != 0]), rtol=1e-8)


def test_uneven_elastic_nets(standard_diabetes):
    """Two elastic nets of different l2: no common λ, a Gram matrix of its own."""
    X, y = standard_diabetes
    rules = {"a.weight": priors.ElasticNet(0.02, 0.1), "b.weight": priors.ElasticNet(0.04, 0.5), "b.bias": priors.Flat()}
    mode = br.fit(br.BayesianModel(Parts(), rules, likelihoods.Gaussian(SIGMA)), X, y, method="map")
    w = np.r_[mode.mean["a.weight"][0], mode.mean["b.weight"][0]]
    slope = X.T @ (y - X @ w - float(mode.mean["b.bias"])) / SIGMA**2 - w / np.repeat([0.01, 0.25], 5)
    l1 = np.repeat([50.0, 25.0], 5)
    assert (np.abs(slope[w == 0]) <= l1[w == 0] * (1 + 1e-9)).all()
    np.testing.assert_allclose(slope[w != 0], (l1 * np.sign(w))[w != 0], rtol=1e-8)
    assert mode.certificate.details["duality gap"] < 1e-9


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("per", ["row", "column", "tensor"])
def test_group_lasso_meets_its_optimality_condition(per, seed):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(80, 30)) * np.geomspace(0.3, 3, 30)
    truth = np.zeros((4, 30))
    truth[:, :5] = rng.normal(size=(4, 5))
    if per == "row":
        truth[2:] = 0
    Y = X @ truth.T + rng.normal(size=(80, 4))
    scale = {"row": 0.01, "column": 0.02, "tensor": 0.02}[per]
    mode = br.fit(
        linear(30, {"weight": priors.GroupLasso(scale, per=per), "bias": priors.Flat()}, 1.0, outputs=4), X, Y, method="map"
    )
    W, bias = mode.mean["weight"].numpy(), mode.mean["bias"].numpy()
    residual = Y - X @ W.T - bias
    np.testing.assert_allclose(residual.sum(0), 0, atol=1e-8)
    pull = residual.T @ X
    cut = {"row": lambda M: list(M), "column": lambda M: list(M.T), "tensor": lambda M: [M.ravel()]}[per]
    zero = 0
    for w, g in zip(cut(W), cut(pull), strict=True):
        if (w == 0).all():
            zero += 1
            assert np.linalg.norm(g) <= 1 / scale * (1 + 1e-9)
        else:
            assert (w != 0).all()
            np.testing.assert_allclose(g, w / np.linalg.norm(w) / scale, rtol=1e-6, atol=1e-6 / scale)
    assert per != "column" or 0 < zero < 30
    assert mode.certificate.details["duality gap"] < 1e-7


def test_total_variation_on_a_linear_map():
    """Denoising by TV is its own prox; and blurred, its subgradient condition holds at every jump."""
    rng = np.random.default_rng(0)
    truth = np.repeat([0.0, 2.0, -1.0], 10)
    y = truth + 0.3 * rng.normal(size=30)
    prior = priors.TotalVariation(0.3)
    model = br.BayesianModel(
        nn.Linear(30, 1, bias=False).double(), {"weight": priors.TotalVariation(0.3, per="row")}, likelihoods.Gaussian(0.3)
    )
    mode = br.fit(model, np.eye(30), y, method="map")
    expected = prior.prox(torch.tensor(y), 0.3**2)
    torch.testing.assert_close(mode.mean["weight"][0], expected, rtol=0, atol=1e-8)
    assert mode.certificate.converged


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_gap_bounds_what_is_left_and_closes_at_the_solution(seed):
    rng = np.random.default_rng(seed)
    A, t = np.asfortranarray(rng.normal(size=(40, 12))), rng.normal(size=40) * 3
    columns, l1, l2 = Columns(A, t), rng.uniform(2, 6, size=12), rng.uniform(0, 2, size=12)
    value = lambda w: 0.5 * ((t - A @ w) ** 2).sum() + l1 @ abs(w) + 0.5 * l2 @ w**2  # noqa: E731
    groups = Groups(np.arange(12), l1)
    best, gap, _ = lasso(columns, l1, l2)
    assert -1e-12 < gap < 1e-10
    for size in (1e-3, 1e-2, 0.1, 1.0):
        w = best + size * rng.normal(size=12)
        left = value(w) - value(best)
        assert left > 0
        assert groups.gap(columns, l2, w) >= left * (1 - 1e-9)
    assert groups.gap(columns, l2, np.zeros(12)) >= value(np.zeros(12)) - value(best)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_gap_is_primal_minus_dual(seed):
    """The dual ½‖t‖² − ½‖t − θ‖² − ½‖φ‖² at (θ, φ) = κ (r, −√c w), the elastic net's rows √c appended to A."""
    rng = np.random.default_rng(seed)
    A, t = np.asfortranarray(rng.normal(size=(40, 12))), rng.normal(size=40) * 3
    l1, l2, w = rng.uniform(2, 6, size=12), rng.uniform(0, 2, size=12), rng.normal(size=12)
    rows, target = np.concatenate([A, np.diag(np.sqrt(l2))]), np.concatenate([t, np.zeros(12)])
    residual = target - rows @ w
    theta = residual * min(1, (l1 / np.abs(rows.T @ residual)).min())
    assert (np.abs(rows.T @ theta) <= l1 * (1 + 1e-12)).all()  # it is in the dual's set
    primal = 0.5 * residual @ residual + l1 @ np.abs(w)
    dual = 0.5 * target @ target - 0.5 * ((target - theta) ** 2).sum()
    assert Groups(np.arange(12), l1).gap(Columns(A, t), l2, w) == pytest.approx(primal - dual, rel=1e-10)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_group_gap_bounds_what_is_left(seed):
    rng = np.random.default_rng(seed)
    A, t = np.asfortranarray(rng.normal(size=(40, 12))), rng.normal(size=40) * 3
    groups, none = Groups(np.arange(12) // 3, rng.uniform(4, 12, size=4)), np.zeros(12)
    columns = Columns(A, t)
    value = lambda w: 0.5 * ((t - A @ w) ** 2).sum() + groups.strength @ np.linalg.norm(w.reshape(4, 3), axis=1)  # noqa: E731
    best, gap, _ = group_lasso(columns, groups, none)
    assert -1e-12 < gap < 1e-9
    for size in (1e-3, 0.1, 1.0):
        w = best + size * rng.normal(size=12)
        assert groups.gap(columns, none, w) >= (value(w) - value(best)) * (1 - 1e-9) > 0


def test_an_uneven_elastic_net_of_many_columns():
    """Too many for a Gram matrix, and c differs between them: FISTA, against scikit-learn on rows that stand for the ridge."""
    X, y = design(40, 3100)
    l1, l2 = np.full(3100, 0.2 / strongest(X, y)), np.linspace(0.5, 2.0, 3100)
    w, gap, name = lasso(Columns(np.asfortranarray(X), y), l1, l2)
    assert name.startswith("FISTA")
    assert gap < 1e-6
    stacked, target = np.concatenate([X, np.diag(np.sqrt(l2))]), np.concatenate([y, np.zeros(3100)])
    theirs = Lasso(alpha=l1[0] / len(target), fit_intercept=False, tol=1e-12, max_iter=100_000).fit(stacked, target)
    np.testing.assert_allclose(w, theirs.coef_, atol=1e-6)


@pytest.mark.parametrize(("rows", "columns"), [(60, 200), (400, 60)])
def test_a_path_is_its_points(rows, columns):
    X, y = design(rows, columns)
    scales = np.array([30.0, 1.0, 3.0, 100.0, 0.5, 10.0, 50.0]) * strongest(X, y)  # in no order
    rules = [{"weight": priors.Laplace(b), "bias": priors.Flat()} for b in scales]
    models = [linear(columns, r, 1.0) for r in rules]
    bound, data = models[0].ingest(X, y)
    log_joints = [LogJoint(m.bind(X, y)) for m in models]
    problem = affine_problem(LogJoint(bound), data)
    for b, found, log_joint in zip(scales, solve_path(problem, log_joints), log_joints, strict=True):
        theirs = Lasso(alpha=1 / (rows * b), tol=1e-15, max_iter=1_000_000).fit(X, y)
        np.testing.assert_allclose(found.u[:columns].numpy(), theirs.coef_, atol=1e-6)
        np.testing.assert_array_equal(found.u[:columns].numpy() == 0, theirs.coef_ == 0)
        assert found.gap < 1e-7
        assert float((found.u - solve(problem, log_joint).u).abs().max()) < 1e-9


@pytest.mark.parametrize(("rows", "columns"), [(442, 10), (30, 80)])
@pytest.mark.parametrize("bias", [priors.Flat(), priors.Normal(0.5)], ids=str)
def test_gaussian_priors_have_a_closed_form(rows, columns, bias):
    X, y = design(rows, columns)
    mode = br.fit(linear(columns, {"weight": priors.Normal(0.3), "bias": bias}), X, y, method="map")
    extra = 0.0 if isinstance(bias, priors.Flat) else 1 / 0.5**2
    D = np.column_stack([X, np.ones(rows)])
    solution = np.linalg.solve(D.T @ D / SIGMA**2 + np.diag(np.r_[np.full(columns, 1 / 0.3**2), extra]), D.T @ y / SIGMA**2)
    np.testing.assert_allclose(np.r_[mode.mean["weight"][0], mode.mean["bias"]], solution, rtol=1e-9, atol=1e-11)
    assert mode.history.notes[0].startswith("closed form: the model is linear-Gaussian")
    assert mode.certificate.converged
    assert mode.certificate.details["duality gap"] < 1e-12


def test_raw_units_with_far_offsets_keep_their_digits():
    """Inputs around 10⁶ with sd 1 beside an intercept: the normal equations alone would lose the slope."""
    rng = np.random.default_rng(0)
    X = 1e6 + rng.normal(size=(200, 3))
    y = X @ [1.0, -1.0, 0.5] + 0.1 * rng.normal(size=200)
    mode = br.fit(linear(3, {"weight": priors.Normal(1.0), "bias": priors.Flat()}, 0.1), X, y, method="map")
    ridge = Ridge(alpha=0.01, solver="svd").fit(X, y)
    np.testing.assert_allclose(mode.mean["weight"][0], ridge.coef_, rtol=1e-6)
    lasso = br.fit(linear(3, {"weight": priors.Laplace(1.0), "bias": priors.Flat()}, 0.1), X, y, method="map")
    theirs = Lasso(alpha=0.01 / 200, tol=1e-15, max_iter=100_000).fit(X, y)
    np.testing.assert_allclose(lasso.mean["weight"][0], theirs.coef_, rtol=1e-6)


@pytest.mark.parametrize("rules", [priors.Laplace(0.02), priors.Normal(0.1), priors.ElasticNet(0.02, 0.1)], ids=str)
def test_float32_modules_are_solved_in_float64(standard_diabetes, rules):
    X, y = standard_diabetes
    narrow, wide = (
        br.fit(linear(10, {"weight": rules, "bias": priors.Flat()}, dtype=dtype), X, y, method="map")
        for dtype in (torch.float32, torch.float64)
    )
    assert narrow.mean["weight"].dtype == torch.float32
    np.testing.assert_allclose(narrow.mean["weight"].double(), wide.mean["weight"], rtol=1e-5, atol=1e-6)
    assert torch.equal(narrow.mean["weight"] == 0, wide.mean["weight"] == 0)
    assert narrow.certificate.converged
    assert 0 < narrow.certificate.details["duality gap"] < 1e-4  # it counts the rounding of the answer


def test_fixed_features_and_several_outputs(standard_diabetes):
    X, y = standard_diabetes
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(10, 20).requires_grad_(False), nn.ReLU(), nn.Linear(20, 1)).double()
    rules = {"2.weight": priors.Laplace(0.02), "2.bias": priors.Flat()}
    mode = br.fit(br.BayesianModel(net, rules, likelihoods.Gaussian(SIGMA)), X, y, method="map")
    with torch.no_grad():
        features = net[:2](torch.tensor(X)).numpy()
    theirs = Lasso(alpha=SIGMA**2 / (442 * 0.02), tol=1e-15, max_iter=100_000).fit(features, y)
    np.testing.assert_allclose(mode.mean["2.weight"][0], theirs.coef_, atol=1e-6)
    Y = np.column_stack([y, -2 * y])
    both = br.fit(linear(10, {"weight": priors.Laplace(0.02), "bias": priors.Flat()}, outputs=2), X, Y, method="map")
    for k in range(2):
        theirs = Lasso(alpha=SIGMA**2 / (442 * 0.02), tol=1e-15, max_iter=100_000).fit(X, Y[:, k])
        np.testing.assert_allclose(both.mean["weight"][k], theirs.coef_, atol=1e-6)


def test_the_log_joint_is_the_model_s_own(diabetes):
    X, y = diabetes
    model = linear(10, {"weight": priors.Laplace(0.05), "bias": priors.Normal(1.0)}, standardize=True)
    mode = br.fit(model, X, y, method="map")
    values = {name: draws[0] for name, draws in mode.sample(1, units="model").items()}
    value = float(mode.model.log_joint(values, X, y))
    assert mode.certificate.details["log joint"] == pytest.approx(value, rel=1e-12)
    assert mode.history.objective == [mode.certificate.details["log joint"]]


@pytest.mark.parametrize("flat", ["weight", "both"])
def test_more_flat_weights_than_rows_are_refused_by_name(flat):
    X, y = design(20, 40)
    rules = {"weight": priors.Flat(), "bias": priors.Flat() if flat == "both" else priors.Normal(1.0)}
    with pytest.raises(
        ValueError, match=r"do not determine weight( and bias)?, whose prior Flat\(\) leaves it free .* Normal\(1.0\)"
    ):
        br.fit(linear(40, rules), X, y, method="map")


@pytest.mark.parametrize("column", ["constant", "duplicate", "zero"])
def test_a_redundant_column_under_a_flat_prior_is_refused(column):
    X, y = design(50, 4)
    X[:, 2] = {"constant": 300.1, "duplicate": X[:, 1] * 3.3, "zero": 0.0}[column]
    with pytest.raises(
        ValueError,
        match=r"the mode must be one point, but the data do not determine weight( and bias)?, whose prior Flat\(\) leaves",
    ):
        br.fit(linear(4, priors.Flat()), X, y, method="map")


@pytest.mark.parametrize("standardize", [False, True])
def test_redundant_columns_under_laplace(standardize):
    """A constant input beside an intercept and a zero one get weight 0; duplicates share one weight; all is certified."""
    X, y = design(80, 6, relevant=6)
    X = np.column_stack([X, np.full(80, 300.1), np.zeros(80), X[:, 0]])
    model = linear(9, {"weight": priors.Laplace(0.1), "bias": priors.Flat()}, standardize=standardize)
    mode = br.fit(model, X, y, method="map")
    w = mode.mean["weight"][0].numpy()
    assert w[6] == w[7] == 0
    alone = br.fit(
        linear(6, {"weight": priors.Laplace(0.1), "bias": priors.Flat()}, standardize=standardize), X[:, :6], y, method="map"
    )
    assert w[0] + w[8] == pytest.approx(float(alone.mean["weight"][0, 0]), abs=1e-6)
    assert mode.certificate.converged
    assert mode.certificate.details["duality gap"] < 1e-6


def test_a_constant_target_gives_zeros(standard_diabetes):
    X, _ = standard_diabetes
    mode = br.fit(linear(10, {"weight": priors.Laplace(0.1), "bias": priors.Flat()}), X, np.full(442, 7.0), method="map")
    assert float(mode.mean["weight"].abs().max()) == 0
    assert float(mode.mean["bias"]) == pytest.approx(7.0)
    assert mode.certificate.converged


class Clipped(nn.Module):
    """Affine near zero, not elsewhere."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(10, 1).double()

    def forward(self, x):
        return nn.functional.hardtanh(self.inner(x), -15.0, 15.0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: br.BayesianModel(Clipped(), priors.Normal(1.0), likelihoods.Gaussian(SIGMA)),
        lambda: br.BayesianModel(
            nn.Sequential(nn.Linear(10, 2), nn.Tanh(), nn.Linear(2, 1)).double(), None, likelihoods.Gaussian(1.0)
        ),
        lambda: br.BayesianModel(nn.Linear(10, 1).double(), priors.Normal(1.0)),  # the noise is learned
        lambda: br.BayesianModel(nn.Linear(10, 1).double(), priors.StudentT(3.0, 1.0), likelihoods.Gaussian(1.0)),
        lambda: br.BayesianModel(nn.Linear(10, 1).double(), priors.SpikeSlab(0.1), likelihoods.Gaussian(1.0)),
        lambda: br.BayesianModel(Parts(), None, likelihoods.Gaussian(1.0), outputs={"a": priors.Laplace(1.0)}),
        lambda: br.BayesianModel(nn.Sequential(nn.Linear(10, 1), nn.Dropout(0.1)).double(), None, likelihoods.Gaussian(1.0)),
    ],
)
def test_other_models_are_left_alone(standard_diabetes, make):
    model, data = make().ingest(*standard_diabetes)
    problem = Problem(LogJoint(model), data)
    start = torch.zeros(problem.log_joint.layout.size)
    with pytest.raises(Unsuited, match="a network that is linear in its weights, Gaussian noise of known scale"):
        LinearGaussian().solve(problem, start, History(), lambda step, total, nats: None)


def test_what_was_asked_for_is_done(standard_diabetes):
    model = linear(10, {"weight": priors.Normal(0.3), "bias": priors.Flat()})
    asked = br.fit(model, *standard_diabetes, method=br.inference.MAP("lbfgs"))
    found = br.fit(model, *standard_diabetes, method="map")
    assert asked.history.notes[0] == "lbfgs: asked for."
    torch.testing.assert_close(asked.mean["weight"], found.mean["weight"], rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_elimination_is_the_joint_solution(seed):
    rng = np.random.default_rng(seed)
    B, t, mean = rng.normal(size=(30, 3)), rng.normal(size=30), rng.normal(size=3)
    precision = np.array([0.0, 2.0, 5.0])
    held = Elimination(B, mean, np.diag(np.sqrt(precision))[1:])
    expected = np.linalg.solve(B.T @ B + np.diag(precision), B.T @ t + precision * mean)
    np.testing.assert_allclose(held.values(t), expected, rtol=1e-12)
    np.testing.assert_allclose(ridge(B, t, mean, precision)[0], expected, rtol=1e-12)
    value = lambda v: 0.5 * ((t - B @ v) ** 2).sum() + 0.5 * precision @ (v - mean) ** 2  # noqa: E731
    v = expected + rng.normal(size=3)
    slope = B.T @ (t - B @ v) - precision * (v - mean)
    assert held.excess(slope) == pytest.approx(value(v) - value(expected))
    assert ridge(B, t, mean, precision)[1](v) == pytest.approx(value(v) - value(expected))
    with pytest.raises(Undetermined):
        Elimination(np.column_stack([B, B[:, 0]]), np.zeros(4), np.zeros((0, 4)))


@pytest.mark.parametrize("b", [0.05, pytest.param(0.5, marks=pytest.mark.slow)])
@pytest.mark.parametrize("bias", [priors.Flat(), priors.Laplace(0.5)], ids=["flat bias", "Laplace bias"])
def test_laplace_with_bernoulli_is_l1_logistic_regression(breast_cancer, b, bias):
    """saga leaves the intercept free; liblinear penalises it like a weight, which is a Laplace prior of the same scale."""
    X, y = breast_cancer
    free = isinstance(bias, priors.Flat)
    rules = {"weight": priors.Laplace(b), "bias": bias if free else priors.Laplace(b)}
    mode = br.fit(br.BayesianModel(nn.Linear(30, 1).double(), rules, likelihoods.Bernoulli()), X, y, method="map")
    w, level = mode.mean["weight"][0].numpy(), float(mode.mean["bias"])
    pull = X.T @ (y - 1 / (1 + np.exp(-X @ w - level)))
    assert 0 < (w == 0).sum() < 30
    assert (np.abs(pull[w == 0]) <= (1 + 1e-7) / b).all()
    np.testing.assert_allclose(pull[w != 0], np.sign(w[w != 0]) / b, rtol=1e-6)
    solver = "saga" if free else "liblinear"
    theirs = LogisticRegression(C=b, l1_ratio=1.0, solver=solver, tol=1e-9, max_iter=20_000, random_state=0).fit(X, y)
    np.testing.assert_allclose(w, theirs.coef_[0], atol=1e-5)
    np.testing.assert_allclose(level, theirs.intercept_[0], atol=1e-5)
    assert mode.certificate.converged
