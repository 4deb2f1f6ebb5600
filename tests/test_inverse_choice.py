"""The rules for the penalty weight, against their formulas written out, scikit-learn, and a table of known errors."""

import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar

import bayesreg as br
from bayesreg import inverse, likelihoods, operators, priors
from bayesreg.datasets import inverse as problems

RULES = ("gcv", "l-curve", "discrepancy", "evidence", "evidence-profiled", "quasi-optimality")
LEVEL = 1e3  # level_scale / scale: precision ∝ D₂ᵀD₂ + 10⁻⁶ I
SMOOTH = priors.Smooth(order=2, scale=1.0, level_scale=LEVEL)


def noisy(problem, level, seed):
    """The problem's measurements, as the table's were drawn."""
    sigma = level * np.linalg.norm(problem.b) / math.sqrt(problem.b.size)
    return problem.b + sigma * np.random.default_rng(seed).standard_normal(problem.b.size), sigma


def model_of(problem, prior, noise):
    return br.BayesianModel(problem.operator, {"x": prior}, likelihoods.Gaussian(noise))


@pytest.fixture(scope="module")
def case():
    problem = problems.phillips(40)
    b, sigma = noisy(problem, 0.02, 3)
    return problem, problem.operator.matrix().numpy(), b, sigma


def dense(A, precision, b, lam):
    """x_λ and the influence matrix, by definition."""
    inner = np.linalg.solve(A.T @ A + lam * precision, A.T)
    return inner @ b, A @ inner


PENALTIES = {"independent": priors.Normal(2.0), "smooth": SMOOTH, "free level": priors.Smooth(order=2, scale=3.0)}


@pytest.mark.parametrize("prior", PENALTIES.values(), ids=PENALTIES)
def test_curves_are_their_formulas(case, prior):
    problem, A, b, sigma = case
    lambdas = np.logspace(-4, 1, 7)
    choice = inverse.choose(model_of(problem, prior, sigma), b, lambdas=lambdas)
    precision = prior.stretched(1 / prior.scale).gaussian((40,))[1]
    precision = (torch.diag(precision) if precision.dim() == 1 else precision).numpy()
    free = 0 if prior.proper else 2
    pairs = np.linalg.eigvalsh(precision)
    for i, lam in enumerate(lambdas):
        x, H = dense(A, precision, b, lam)
        residual, size = np.sum((A @ x - b) ** 2), x @ precision @ x
        df = np.trace(H)
        assert float(choice.data.spectrum.degrees_of_freedom(lam)) == pytest.approx(df, rel=1e-6)
        assert float(choice.data.residual_squares(lam)) == pytest.approx(residual, rel=1e-6)
        assert float(choice.data.penalty_squares(lam)) == pytest.approx(size, rel=1e-6)
        assert np.allclose(choice.data.solution(lam), x, atol=1e-6 * np.abs(x).max())
        assert float(choice.curves["gcv"][i]) == pytest.approx(40 * residual / (40 - df) ** 2, rel=1e-6)
        assert float(choice.curves["discrepancy"][i]) == pytest.approx(abs(0.5 * np.log(residual / (40 * sigma**2))), rel=1e-5)
        if prior.proper:
            C = A @ np.linalg.inv(precision) @ A.T * sigma**2 / lam + sigma**2 * np.eye(40)
            evidence = -0.5 * (np.linalg.slogdet(2 * np.pi * C)[1] + b @ np.linalg.solve(C, b))
        else:  # restricted: p(b) of the contrasts that the free directions do not touch
            whole = np.linalg.slogdet(A.T @ A + lam * precision)[1] - np.linalg.slogdet(A.T @ A)[1]
            penalised = residual + lam * size
            evidence = -0.5 * whole + 0.5 * (40 - free) * np.log(lam) - 0.5 * penalised / sigma**2
        offset = float(choice.curves["evidence"][i]) + evidence
        if i == 0 or prior.proper:
            first = offset if not prior.proper else 0.0
        assert offset == pytest.approx(first, abs=1e-4 * abs(evidence))
    assert (pairs[:free] < 1e-9).all()


def test_the_curvature_is_that_of_the_curve(case):
    problem, _, b, sigma = case
    lambdas = np.exp(np.linspace(-6, 2, 4001))
    choice = inverse.choose(model_of(problem, SMOOTH, sigma), b, ["l-curve"], lambdas=lambdas)
    t = np.log(lambdas)
    x = 0.5 * np.log(choice.data.residual_squares(choice.lambdas).numpy())
    y = 0.5 * np.log(choice.data.penalty_squares(choice.lambdas).numpy())
    dx, dy = np.gradient(x, t), np.gradient(y, t)
    numeric = (dx * np.gradient(dy, t) - np.gradient(dx, t) * dy) / (dx**2 + dy**2) ** 1.5
    assert np.allclose(choice.curvature[5:-5], numeric[5:-5], atol=1e-3 * np.abs(numeric).max())


def test_quasi_optimality_is_the_answers_derivative(case):
    problem, A, b, sigma = case
    lam, step = 0.3, 1e-4
    choice = inverse.choose(model_of(problem, priors.Normal(1.0), sigma), b, ["quasi-optimality"], lambdas=[lam, 1.0, 2.0])
    ahead, behind = (dense(A, np.eye(40), b, lam * math.exp(d))[0] for d in (step, -step))
    assert float(choice.curves["quasi-optimality"][0]) == pytest.approx(np.linalg.norm(ahead - behind) / (2 * step), rel=1e-5)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_gcv_is_that_of_ridge_regression_in_scikit_learn(seed):
    from sklearn.linear_model import RidgeCV

    rng = np.random.default_rng(seed)
    A = rng.normal(size=(50, 8))
    b = A @ rng.normal(size=8) + rng.normal(size=50)
    lambdas = np.logspace(-2, 3, 60)
    model = br.BayesianModel(operators.Dense(A), {"x": priors.Normal(1.0)}, likelihoods.Gaussian(1.0))
    found = inverse.choose(model, b, ["gcv"], lambdas=lambdas)
    rotated = RidgeCV(lambdas, fit_intercept=False).fit(A, b)  # leave-one-out, of which GCV is the rotation-invariant form
    assert abs(math.log(found["gcv"].lam / rotated.alpha_)) < 1.0
    assert np.allclose(found.solution("gcv"), rotated.coef_, atol=0.05)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_evidence_of_unknown_noise_is_that_of_bayesian_ridge_in_scikit_learn(seed):
    from sklearn.linear_model import BayesianRidge

    rng = np.random.default_rng(seed)
    A = rng.normal(size=(50, 8))
    b = A @ rng.normal(size=8) + rng.normal(size=50)
    model = br.BayesianModel(operators.Dense(A), {"x": priors.Normal(1.0)})
    found = inverse.choose(model, b)["evidence"]
    peer = BayesianRidge(max_iter=5000, tol=1e-10, alpha_1=0, alpha_2=0, lambda_1=0, lambda_2=0, fit_intercept=False).fit(A, b)
    assert found.noise_scale == pytest.approx(peer.alpha_**-0.5, rel=1e-4)
    assert found.prior_scale == pytest.approx(peer.lambda_**-0.5, rel=1e-4)


@pytest.mark.parametrize("prior", [priors.Normal(2.0), SMOOTH, priors.MultivariateNormal(np.diag(np.linspace(1, 2, 40)))])
def test_the_chosen_model_is_the_answer(case, prior):
    problem, _, b, sigma = case
    choice = inverse.choose(model_of(problem, prior, sigma), b)
    for rule in ("gcv", "evidence"):
        exact = br.fit(choice.model(rule), None, b, method="exact")
        assert np.allclose(exact.mean["x"], choice.solution(rule), atol=1e-7)
    found = choice["evidence"]
    assert exact.log_evidence == pytest.approx(
        -float(choice.rules["evidence"].curve(choice.data, torch.tensor([found.lam]), sigma))
    )
    assert found.lam == pytest.approx((found.noise_scale / found.prior_scale) ** 2)
    if prior is SMOOTH:
        assert choice.model("evidence").resolved[0].specified.level_scale == pytest.approx(LEVEL * found.prior_scale)


def test_each_rule_is_at_its_optimum(case):
    problem, _, b, sigma = case
    choice = inverse.choose(model_of(problem, priors.Normal(1.0), sigma), b)
    assert tuple(choice.chosen) == RULES
    assert choice["discrepancy"].residual == pytest.approx(sigma * math.sqrt(40), rel=1e-8)
    for name in ("gcv", "evidence", "evidence-profiled"):
        at = math.log(choice[name].lam)
        curve = lambda t, rule=choice.rules[name]: float(rule.curve(choice.data, torch.tensor([math.exp(t)]), sigma)[0])  # noqa: E731
        best = minimize_scalar(curve, bounds=(at - 3, at + 3), method="bounded", options={"xatol": 1e-8})
        assert at == pytest.approx(best.x, abs=1e-3)


def test_without_a_noise_scale_the_rules_find_one(case):
    problem, _, b, sigma = case
    choice = inverse.choose(br.BayesianModel(problem.operator, {"x": priors.Normal(1.0)}), b)
    assert tuple(choice.chosen) == ("gcv", "l-curve", "evidence", "quasi-optimality")
    assert "discrepancy: left out, since it must know σ" in str(choice)
    assert choice["gcv"].noise_scale == pytest.approx(sigma, rel=0.4)
    made = choice.model("gcv")
    assert float(made.noise({})["noise_scale"]) == choice["gcv"].noise_scale
    assert np.allclose(br.fit(made, None, b, method="map").mean["x"], choice.solution("gcv"), atol=1e-7)


def test_the_table_says_what_each_rule_assumes(case):
    problem, _, b, sigma = case
    choice = inverse.choose(model_of(problem, priors.Normal(1.0), sigma), b)
    for rule in RULES:
        assert f"{rule} assumes" in str(choice)
    frame = choice.to_frame()
    assert list(frame["rule"]) == list(RULES)
    assert frame["lambda"][0] == choice["gcv"].lam
    assert "<table" in choice._repr_html_()
    assert repr(choice).startswith("Choice(gcv: λ =")


def test_an_unanswered_rule_says_why(case):
    problem, _, b, _ = case
    choice = inverse.choose(model_of(problem, priors.Normal(1.0), 100.0), b)
    assert math.isnan(choice["discrepancy"].lam)
    assert "b is not larger than the noise" in str(choice)
    with pytest.raises(ValueError, match="a model must have a λ, but discrepancy: b is not larger"):
        choice.model("discrepancy")
    rng = np.random.default_rng(0)
    tall = br.BayesianModel(operators.Dense(rng.normal(size=(30, 4))), {"x": priors.Normal(1.0)}, likelihoods.Gaussian(0.01))
    assert "σ is too small" in str(inverse.choose(tall, rng.normal(size=30)))


def quick_errors(name, n, level, seeds, prior):
    problem, found = problems.PROBLEMS[name](n), {}
    for seed in range(seeds):
        b, sigma = noisy(problem, level, seed)
        rules = ["gcv", "discrepancy", "evidence", "evidence-profiled"]
        choice = inverse.choose(model_of(problem, prior, sigma), b, rules)
        for rule, error in choice.errors(problem.x).items():
            found.setdefault(rule, []).append(error)
    return {rule: np.array(errors) for rule, errors in found.items()}


def median_error(errors):
    """Standard error of a median, from the spread of the middle half."""
    return 1.253 * (np.quantile(errors, 0.75) - np.quantile(errors, 0.25)) / 1.349 / math.sqrt(len(errors))


COLUMNS = ("best", "gcv", "discrepancy", "evidence-profiled", "evidence")


def test_errors_of_one_row_of_the_table():
    """shaw, n = 32, 1 % noise: medians over 200 seeds, here over 20."""
    errors = quick_errors("shaw", 32, 1e-2, 20, priors.Normal(1.0))
    for rule, expected in zip(COLUMNS, (0.1213, 0.1529, 0.1592, 0.2213, 0.2096), strict=True):
        assert abs(np.median(errors[rule]) - expected) < 4 * median_error(errors[rule])


INDEPENDENT = """
shaw   32 1e-1 .1915 .2384 .2326 .3368 .3181
shaw   32 1e-2 .1213 .1529 .1592 .2213 .2096
shaw   32 1e-3 .0526 .0635 .0657 .1804 .1742
shaw   64 1e-2 .1017 .1366 .1539 .2151 .2110
heat   32 1e-2 .1510 .2103 .1586 .4439 .3555
heat   32 1e-3 .0464 .0540 .0517 .0625 .0623
heat   64 1e-3 .0459 .0650 .0473 .3903 .3193
deriv2 32 1e-2 .2742 .3034 .2925 .6111 .5268
deriv2 64 1e-2 .2617 .2808 .2796 .6086 .5586
deriv2 64 1e-3 .1742 .1886 .1821 .6286 .5021
"""
SMOOTHED = """
shaw   64 1e-2 .1490 .2057 .3367 .1736 .1796
shaw   64 1e-3 .0876 .1258 .1241 .1080 .1078
heat   64 1e-2 .1435 .1844 .1794 .1546 .1528
heat   64 1e-3 .0514 .0661 .0588 .0683 .0656
deriv2 64 1e-2 .0078 .0133 .0216 .0208 .0199
deriv2 64 1e-3 .0015 .0023 .0044 .0066 .0065
"""
ROWS = [(line.split(), priors.Normal(1.0), 200) for line in INDEPENDENT.strip().splitlines()]
ROWS += [(line.split(), SMOOTH, 100) for line in SMOOTHED.strip().splitlines()]


# the table's λ stood on a grid, which moves the answer of a rule that cuts a curve, or whose optimum is flat, a little further
COARSE = {
    ("independent", "deriv2 64 1e-3", "evidence"): 0.04,
    ("smooth", "shaw 64 1e-2", "discrepancy"): 0.035,
    ("smooth", "heat 64 1e-3", "discrepancy"): 0.035,
    ("smooth", "deriv2 64 1e-3", "discrepancy"): 0.035,
}


@pytest.mark.slow
@pytest.mark.parametrize(("row", "prior", "seeds"), ROWS, ids=lambda v: "-".join(v[:3]) if isinstance(v, list) else "")
def test_median_errors_are_those_of_the_table(row, prior, seeds):
    name, n, level, *expected = row
    errors, kind = quick_errors(name, int(n), float(level), seeds, prior), "smooth" if prior is SMOOTH else "independent"
    for rule, value in zip(COLUMNS, map(float, expected), strict=True):
        allowed = COARSE.get((kind, f"{name} {n} {level}", rule), 0.03)
        found = float(np.median(np.nan_to_num(errors[rule], nan=math.inf)))  # no answer is an infinite error
        assert found == pytest.approx(value, rel=allowed, abs=6e-5), rule


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_under_the_right_prior_the_evidence_finds_its_scale(seed):
    """x and b are drawn from the model itself; the scale's own uncertainty is that of its information."""
    truth, sigma, A = 0.7, 0.05, problems.deriv2(100).operator.matrix() * 100
    rng = np.random.default_rng(seed)
    right = br.BayesianModel(
        operators.Dense(A), {"x": priors.Smooth(order=1, scale=truth, level_scale=10.0)}, likelihoods.Gaussian(sigma)
    )
    x = right.sample_prior(1, seed=seed)["x"][0]
    b = A @ x + sigma * torch.from_numpy(rng.normal(size=100))
    found = inverse.choose(right, b, ["evidence"])
    df = found["evidence"].degrees_of_freedom
    assert abs(math.log(found["evidence"].prior_scale / truth)) < 4 / math.sqrt(2 * df)


def test_priors_are_ranked_by_their_evidence():
    problem = problems.deriv2(32)
    b, sigma = noisy(problem, 1e-2, 0)
    models = {"independent": model_of(problem, priors.Normal(1.0), sigma)}
    models["smooth"] = model_of(problem, priors.Smooth(order=2, scale=1.0, level_scale=30.0), sigma)
    found = inverse.compare_priors(models, b)
    assert found.best == "smooth"
    assert list(found.log_evidence.values()) == sorted(found.log_evidence.values(), reverse=True)
    for name, value in found.log_evidence.items():
        assert br.fit(found.model(name), None, b, method="exact").log_evidence == pytest.approx(value, abs=1e-6)
    better = [problem.x - found.choices[name].solution("evidence").numpy() for name in ("smooth", "independent")]
    assert np.linalg.norm(better[0]) < 0.3 * np.linalg.norm(better[1])
    assert "The best of several wrong priors is still wrong" in str(found)


def test_a_wrong_prior_under_the_evidence_is_warned_of():
    problem = problems.deriv2(64)
    b, sigma = noisy(problem, 1e-3, 0)
    choice = inverse.choose(model_of(problem, priors.Normal(1.0), sigma), b, ["gcv", "evidence"])
    assert choice["evidence"].lam < 0.1 * choice["gcv"].lam
    assert "The evidence trusts the prior" in str(choice)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda A, b: (br.BayesianModel(A, {"x": priors.Laplace(1.0)}), b, None), "needs a quadratic penalty"),
        (lambda A, b: (br.BayesianModel(A, {"x": priors.Flat()}), b, None), "needs a quadratic penalty"),
        (lambda A, b: (br.BayesianModel(A, {"x": priors.Normal(priors.HalfNormal(1.0))}), b, None), "whose scale is a number"),
        (
            lambda A, b: (br.BayesianModel(A, {"x": priors.Normal()}, likelihoods.StudentT(4.0)), b, None),
            "Gaussian noise of one",
        ),
        (
            lambda A, b: (br.BayesianModel(A, {"x": priors.Normal()}), b, ["discrepancy"]),
            "discrepancy must know the noise's sd",
        ),
        (lambda A, b: (br.BayesianModel(A, {"x": priors.Normal()}), b, ["lcurve"]), "rules must be one of"),
        (lambda A, b: (br.BayesianModel(A, {"x": priors.Normal()}), b[:3], None), "b must have the shape"),
        (lambda A, b: (br.BayesianModel(A, {"x": priors.Normal()}), b * np.nan, None), "b must"),
        (lambda A, b: (br.BayesianModel(A, {"x": priors.Normal()}), b * 1j, None), "b must be real"),
        (lambda A, b: (br.BayesianModel(torch.nn.Linear(3, 1)), b, None), "the model must be one of an operator"),
        (lambda A, b: (br.BayesianModel(operators.Dense(np.zeros((5, 4)))), b[:5], None), "A must say something about x"),
        (
            lambda A, b: (br.BayesianModel(operators.Dense([[1.0, -1.0]]), {"x": priors.Smooth()}), b[:1], None),
            "must be proper",
        ),
        (
            lambda A, b: (br.BayesianModel(operators.Mask(np.ones(3000) > 0), {"x": priors.Smooth()}), np.ones(3000), None),
            "flat in 1",
        ),
    ],
)
def test_what_no_rule_is_for_is_refused(case, make, said):
    problem, _, b, _ = case
    model, data, rules = make(problem.operator, b)
    with pytest.raises(ValueError, match=said):
        inverse.choose(model, data, rules)


def test_improper_priors_have_no_evidence_to_compare(case):
    problem, _, b, sigma = case
    with pytest.raises(ValueError, match=r"flat is one that is|flat in some directions; give Smooth a level_scale"):
        inverse.compare_priors({"flat": model_of(problem, priors.Smooth(), sigma)}, b)
    with pytest.raises(ValueError, match="models must hold at least one"):
        inverse.compare_priors({}, b)


@pytest.mark.parametrize("lambdas", [[1.0], [3.0, 2.0, 1.0], [0.0, 1.0, 2.0], [[1.0, 2.0, 3.0]]])
def test_lambdas_increase(case, lambdas):
    problem, _, b, sigma = case
    with pytest.raises(ValueError, match="lambdas must be at least three numbers > 0 that increase"):
        inverse.choose(model_of(problem, priors.Normal(1.0), sigma), b, lambdas=lambdas)


def test_truth_has_the_unknowns_shape(case):
    problem, _, b, sigma = case
    with pytest.raises(ValueError, match="truth must have the unknown's shape"):
        inverse.choose(model_of(problem, priors.Normal(1.0), sigma), b, ["gcv"]).errors(np.ones(3))


@pytest.fixture(scope="module")
def large():
    """One problem taken apart, and the same as if it were too large for that."""
    problem = problems.deblurring_1d(200)
    b, sigma = problem.noisy(0.02, seed=0)
    model = model_of(problem, priors.Smooth(order=1, scale=1.0, level_scale=20.0), sigma)
    exact = inverse.choose(model, b)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bayesreg.inverse.setting.MOST", 10)
        estimated = inverse.choose(model, b)
    return problem, exact, estimated


def test_a_large_problem_has_the_same_sums(large):
    _, exact, estimated = large
    assert (exact.exact, estimated.exact) == (True, False)
    for lam in estimated.lambdas[:: len(estimated.lambdas) // 5]:
        for name in ("residual_squares", "penalised_squares", "penalty_squares"):
            assert float(getattr(estimated.data, name)(lam)) == pytest.approx(float(getattr(exact.data, name)(lam)), rel=0.01)
        traces = estimated.data.spectrum.traces(lam)
        error = float(traces.std()) / math.sqrt(len(traces))
        assert abs(float(traces.mean() - exact.data.spectrum.degrees_of_freedom(lam))) < 5 * error


def test_a_large_problem_has_the_same_answers(large):
    problem, exact, estimated = large
    assert estimated["discrepancy"].lam == pytest.approx(exact["discrepancy"].lam, rel=1e-6)
    assert estimated["l-curve"].lam == pytest.approx(exact["l-curve"].lam, rel=1e-4)
    for name in ("gcv", "evidence"):  # which need traces, known to some per cent
        assert estimated[name].prior_scale == pytest.approx(exact[name].prior_scale, rel=0.25)
        assert estimated.errors(problem.x)[name] == pytest.approx(exact.errors(problem.x)[name], rel=0.1)
    assert "df are estimated by 4 random probes" in str(estimated)
    assert "best" not in estimated.errors(problem.x)
