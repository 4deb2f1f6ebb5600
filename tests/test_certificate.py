"""The certificate of a mode: it depends on no units, it passes true modes, and it fails what is none."""

import dataclasses
import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import Lasso
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.certificates import (
    Advice,
    Alike,
    Cause,
    Certificate,
    Covariance,
    Finding,
    Outcome,
    certify,
    first_look,
    measure,
    sentence,
)
from bayesreg.inference import MAP
from bayesreg.objective import (
    LogJoint,
    diagonal,
    ends,
    full_hessian,
    gauss_newton,
    gauss_newton_product,
    gradient_of,
    hessian_product,
    in_double,
    prior_curvature,
)
from bayesreg.solvers import further
from tests.conftest import network


@pytest.mark.parametrize("offset", [0.0, 0.3])
def test_the_gain_is_the_log_joint_s_own_on_a_quadratic(standard_diabetes, offset):
    X, y = standard_diabetes
    model, data = br.BayesianModel(nn.Linear(10, 1).double(), priors.Normal(0.3), likelihoods.Gaussian(0.7)).ingest(X, y)
    log_joint = LogJoint(model)
    exact = br.fit(model, X, y, method="exact")
    u = exact.loc + offset * torch.linspace(-1, 1, 11, dtype=torch.float64) * exact.moments()[1]
    value, gradient = gradient_of(log_joint, u, data)
    best, _ = gradient_of(log_joint, exact.loc, data)
    found, _ = measure(log_joint, u, gradient, data)
    assert found.gain == pytest.approx(best - value, rel=1e-6, abs=1e-9)
    assert not found.saddle


@pytest.mark.parametrize("units", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_units_do_not_matter(diabetes, units, dtype):
    X, y = diabetes
    rules = {"weight": priors.Normal(100 * units), "bias": priors.Flat()}
    make = lambda: br.BayesianModel(nn.Linear(10, 1).to(dtype), rules, likelihoods.Gaussian(54 * units))  # noqa: E731
    short = br.fit(make(), X, y * units, method=MAP("adam", num_steps=100))
    assert short.certificate.finding is Finding.NOT_CONVERGED
    mode = br.fit(make(), X, y * units, method="map")
    assert mode.certificate.finding is Finding.CONVERGED_BY_DUALITY
    assert mode.certificate.point.nats_to_gain < 1e-3


def test_many_rows_and_few_unknowns_take_all_rows_and_reach_the_mode():
    generator = np.random.default_rng(0)
    X = np.zeros((100_000, 2))
    X[:, 0], X[:3, 1] = generator.normal(size=100_000), 1  # three rows alone speak about the second weight
    y = X @ [1.0, 8.0] + generator.normal(size=100_000)
    model = br.BayesianModel(nn.Linear(2, 1), priors.Normal(10.0), likelihoods.Gaussian(1.0))
    mode = br.fit(model, X, y, method="map")
    exact = br.fit(model, X, y, method="exact")
    assert float(((mode.mean["weight"] - exact.mean["weight"]) / exact.std["weight"]).abs().max()) < 0.01
    assert mode.certificate.converged
    noisy = br.fit(model, X, y, method=MAP(batch_size=256, num_steps=2000))
    assert noisy.certificate.finding is Finding.NOT_CONVERGED
    assert "nats are left to gain" in str(noisy.certificate)


@pytest.mark.parametrize(("likelihood", "width"), [(likelihoods.Bernoulli(), 1), (likelihoods.Categorical(), 2)], ids=str)
def test_separable_classes_have_no_mode_under_a_flat_prior(likelihood, width):
    generator = np.random.default_rng(0)
    X = np.r_[-1 - generator.random((20, 1)), 1 + generator.random((20, 1))]
    y = (X[:, 0] > 0).astype(int)
    model = br.BayesianModel(nn.Linear(1, width).double(), priors.Flat(), likelihood)
    mode = br.fit(model, X, y, method="map")
    assert mode.certificate.finding is Finding.UNBOUNDED
    assert (mode.certificate.no_mode.cause, mode.certificate.no_mode.name) == (Cause.SEPARATED, "weight")
    assert not mode.certificate.usable
    assert "every row is fitted with certainty, and the flat prior on weight lets the weights grow" in str(mode.certificate)
    with pytest.raises(ValueError, match=r"needs a mode: Not a usable mode: every row is fitted with certainty"):
        br.fit(model, X, y, method="laplace")
    proper = br.BayesianModel(nn.Linear(1, width).double(), priors.Normal(1.0), likelihood)
    assert br.fit(proper, X, y, method="map").certificate.converged


def test_a_far_offset_is_no_collapse():
    generator = np.random.default_rng(0)
    X = generator.normal(size=(500, 2))
    y = 300 + X @ [0.5, -0.3] + 0.1 * generator.normal(size=500)
    mode = br.fit(br.BayesianModel(nn.Linear(2, 1), {"bias": priors.Flat()}), X, y, method="map")
    assert mode.certificate.converged
    assert float(mode.mean["noise_scale"]) == pytest.approx(0.1, rel=0.1)


@pytest.mark.slow
def test_on_the_way_to_a_collapse_laplace_says_so_and_goes_on():
    """A network that is about to fit every row: the fit is not certified, but a curvature there still widens intervals."""
    generator = np.random.default_rng(0)
    X, new = generator.normal(size=(60, 2)), generator.normal(size=(300, 2))
    truth = lambda x: np.sin(2 * x[:, 0]) + x[:, 1]  # noqa: E731
    model = br.BayesianModel(network(2, 50, 1, activation=nn.ReLU), priors.Normal(3.0), standardize=True)
    fits = {name: br.fit(model, X, truth(X), method=name) for name in ("map", "laplace")}
    assert all(fit.certificate.finding is Finding.NEARLY_UNBOUNDED for fit in fits.values())
    mode, laplace = (br.metrics.coverage(fit.predict(new), truth(new), 0.95).rate for fit in fits.values())
    assert mode < 0.5 < laplace


def test_a_saddle_is_no_mode(monkeypatch):
    """All weights zero: the gradient of a tanh network vanishes there by symmetry, and nothing is learned."""
    X = torch.linspace(-1, 1, 40, dtype=torch.float64)[:, None]
    net = network(1, 3, 1, dtype=torch.float64)
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    model = br.BayesianModel(net, priors.Normal(3.0), likelihoods.Gaussian(0.1))
    monkeypatch.setattr("bayesreg.certificates.constant.says_the_same", lambda *at: False)  # which would begin elsewhere
    mode = br.fit(model, X, X[:, 0], method="map")
    assert float(mode.mean["0.weight"].abs().max()) == 0
    assert mode.certificate.finding is Finding.SADDLE
    assert "a saddle, not a mode" in str(mode.certificate)


class TestTrainingNoise:
    """Where training follows another objective than evaluation, no mode is certified; how the training went is told."""

    @pytest.mark.parametrize(
        ("layer", "batch_size", "who"),
        [
            (nn.Dropout(0.3), None, "dropout"),
            (nn.BatchNorm1d(5), 64, "batch normalisation"),
            (nn.Sequential(nn.BatchNorm1d(5), nn.Dropout(0.3)), None, "batch normalisation and dropout"),
        ],
        ids=["dropout", "batchnorm", "both"],
    )
    def test_is_named_with_the_trend(self, standard_diabetes, layer, batch_size, who):
        model = br.BayesianModel(nn.Sequential(nn.Linear(10, 5), nn.Tanh(), layer, nn.Linear(5, 1)))
        slow = MAP("adam", 600, 1e-4, batch_size, schedule="constant")
        found = br.fit(model, *standard_diabetes, method=slow).certificate
        assert found.finding is Finding.OTHER_OBJECTIVE
        assert found.training.layers == tuple(who.split(" and "))
        assert str(found).startswith(f"Not certified: in training, {who} made the objective differ from evaluation; judge this")
        assert f"the batches' log-likelihood changed by {found.details['rise']:+.1f} nats" in str(found)
        assert found.details["rise"] > 2.5 * found.details["Monte Carlo error"]  # as slow as that, it is still on its way
        assert "curvature from" not in found.details

    def test_too_few_steps_tell_nothing(self, standard_diabetes):
        model = br.BayesianModel(nn.Sequential(nn.Linear(10, 5), nn.Dropout(0.3), nn.Linear(5, 1)))
        assert str(br.fit(model, *standard_diabetes, method=MAP("adam", 50)).certificate).endswith("by held-out rows.")


def test_more_unknowns_than_the_matrix_takes(standard_diabetes):
    """Above `FULL_CURVATURE` the curvature is a diagonal; a mode passes, an early point does not."""
    X, y = standard_diabetes
    model = br.BayesianModel(network(10, 100, 1), likelihood=likelihoods.Gaussian(0.7))
    assert model.num_parameters > 1000
    assert br.fit(model, X, y, method="map").certificate.converged
    assert not br.fit(model, X, y, method=MAP("adam", num_steps=30)).certificate.converged


def judged(model, X, y, u=None, **options):
    """Certificate of a point, by default of the module's own weights, and the log-joint it is about."""
    bound, data = model.ingest(X, y)
    log_joint = LogJoint(bound)
    start = log_joint.layout.flatten(bound.start(*next(data.epoch())))
    u = start if u is None else u
    return certify(log_joint, u, start - 1.0, data, False, lambda steps: u, **options), log_joint, data


def test_smallest_eigenvalue_is_the_dense_one_s(standard_diabetes):
    """Small: the certificate's own matrix; and Lanczos on products with the same Hessian."""
    model = br.BayesianModel(network(10, 12, 1, dtype=torch.float64), likelihood=likelihoods.Gaussian(0.7))
    found, log_joint, data = judged(model, *standard_diabetes)
    u = log_joint.layout.flatten(log_joint.model.start(*next(data.epoch())))
    values = torch.linalg.eigvalsh(full_hessian(log_joint, u, data))
    assert found.details["smallest eigenvalue"] == pytest.approx(float(values[0]), rel=1e-9)
    lanczos = ends(lambda v: hessian_product(log_joint, u, data, v), u, 400)
    assert lanczos.smallest == pytest.approx(float(values[0]), abs=1e-6 * float(values[-1]))
    assert float(values[0]) <= lanczos.smallest + 1e-9
    assert lanczos.largest == pytest.approx(float(values[-1]), rel=0.2)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_products_are_those_of_the_matrices(standard_diabetes, seed):
    X, y = standard_diabetes
    v = torch.randn(10 * 5 + 5 + 5 + 1 + 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    model = br.BayesianModel(network(10, 5, 1, seed=seed, dtype=torch.float64))
    _, log_joint, data = judged(model, X, y)
    u = log_joint.layout.flatten(log_joint.model.start(*next(data.epoch())))
    torch.testing.assert_close(hessian_product(log_joint, u, data, v), full_hessian(log_joint, u, data) @ v)
    matrix = gauss_newton(log_joint, u, data)
    noise = log_joint.layout.segments["noise_scale"].slice
    matrix[noise, noise] = 2 * len(y) + prior_curvature(log_joint, u)[noise]  # Fisher's in place of the observed
    torch.testing.assert_close(gauss_newton_product(log_joint, u, data, v), matrix @ v)
    torch.testing.assert_close(sum(diagonal(log_joint, u, data)), matrix.diagonal())


@pytest.mark.slow  # quickly: the gain of such a model below, by the same products
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_smallest_eigenvalue_of_a_wide_linear_model_is_known(seed):
    """H = XᵀX/σ² + I/τ², and X has singular values 2, …, 40: the smallest is 4/σ² + 1/τ²."""
    rng = np.random.default_rng(seed)
    left, right = (np.linalg.qr(rng.normal(size=(1100, 1100)))[0] for _ in range(2))
    X = left * np.linspace(2, 40, 1100) @ right
    model = br.BayesianModel(nn.Linear(1100, 1, bias=False).double(), priors.Normal(2.0), likelihoods.Gaussian(0.5))
    found, _, _ = judged(model, X, X @ rng.normal(size=1100))
    known = 4 / 0.25 + 1 / 4
    assert found.details["curvature from"] == "Hessian, all 1,100 rows"
    assert known <= found.details["smallest eigenvalue"] + 1e-9 <= known + 1e-3 * 1600 / 0.25
    one = br.BayesianModel(nn.Linear(1100, 1, bias=False).double(), priors.Normal(2.0), likelihoods.Gaussian(0.5))
    few, _, _ = judged(one, X[:100], rng.normal(size=100))  # 1,000 directions of which the data say nothing
    assert few.details["smallest eigenvalue"] == pytest.approx(1 / 4, rel=1e-6)


def test_gain_of_a_wide_linear_model_is_the_log_joint_s_own():
    """Conjugate gradients in place of the matrix: a Newton step lands on the mode, whose value is known."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(300, 1200)), rng.normal(size=300)
    model = br.BayesianModel(nn.Linear(1200, 1, bias=False).double(), priors.Normal(1.0), likelihoods.Gaussian(1.0))
    found, log_joint, data = judged(model, X, y)
    mode = X.T @ np.linalg.solve(X @ X.T + np.eye(300), y)
    best, _ = gradient_of(log_joint, torch.from_numpy(mode), data)
    assert found.details["nats to gain"] == pytest.approx(best - found.details["log joint"], rel=1e-2)
    at_mode, _, _ = judged(model, X, y, torch.from_numpy(mode))
    assert at_mode.converged
    assert at_mode.details["largest gradient in posterior sds"] < 1e-8


@pytest.mark.parametrize("hidden", [3, 400])
@pytest.mark.parametrize("activation", [nn.Tanh, nn.ReLU])
def test_zero_weights_are_a_saddle_however_many(hidden, activation, monkeypatch):
    """All weights zero: the gradient vanishes there by symmetry, also where a ReLU has none, and nothing is learned."""
    X = torch.linspace(-1, 1, 40, dtype=torch.float64)[:, None]
    net = network(1, hidden, 1, dtype=torch.float64, activation=activation)
    for parameter in net.parameters():
        nn.init.zeros_(parameter)
    monkeypatch.setattr("bayesreg.certificates.constant.says_the_same", lambda *at: False)  # which would begin elsewhere
    mode = br.fit(
        br.BayesianModel(net, priors.Normal(3.0), likelihoods.Gaussian(0.1)),
        X,
        X[:, 0],
        method=MAP(num_steps=200, certify="full"),
    )
    assert mode.certificate.finding is Finding.SADDLE
    assert "a saddle, not a mode" in str(mode.certificate)
    assert "start from other weights" in str(mode.certificate)
    assert mode.certificate.details["nats gained along it"] > 100


@pytest.mark.parametrize("inputs", [1, 600])
def test_identical_hidden_units_are_a_saddle(inputs):
    """Units that start alike stay alike: the best of such networks has one unit, and splitting it gains."""
    X, hidden = torch.zeros(60, inputs, dtype=torch.float64), 2
    X[:, 0] = torch.linspace(-2, 2, 60)
    y = torch.sin(3 * X[:, 0])
    net = network(inputs, hidden, 1, dtype=torch.float64)
    with torch.no_grad():
        net[0].weight.fill_(0.5)
        net[0].bias.fill_(0.1)
        net[2].weight.fill_(1 / hidden)
    model = br.BayesianModel(net, {"*.weight": priors.Normal(3.0), "*.bias": priors.Normal(3.0)}, likelihoods.Gaussian(0.1))
    mode = br.fit(model, X, y, method="map")
    assert float((mode.mean["0.weight"][0] - mode.mean["0.weight"][1]).abs().max()) < 1e-6
    assert mode.certificate.finding is Finding.SADDLE
    assert "a saddle, not a mode" in str(mode.certificate)
    assert mode.certificate.point.smallest_eigenvalue < 0


def lasso_problem(prior, X, y):
    return br.BayesianModel(nn.Linear(10, 1, bias=False).double(), prior, likelihoods.Gaussian(0.7)), X, y


@pytest.mark.parametrize("b", [0.005, 0.02, 0.05])
def test_no_kkt_violation_at_scikit_learn_s_lasso(standard_diabetes, b):
    X, y = standard_diabetes
    w = Lasso(alpha=0.7**2 / (len(y) * b), fit_intercept=False, tol=1e-15, max_iter=1_000_000).fit(X, y).coef_
    found, _, _ = judged(*lasso_problem(priors.Laplace(b), X, y), torch.from_numpy(w))
    assert (w == 0).any()
    assert found.details["largest KKT violation in posterior sds"] < 1e-8
    assert found.converged


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_kkt_violation_of_separable_penalties_is_the_formula(standard_diabetes, seed):
    """√H · distance of −∇smooth from the subdifferential over H, for weights far from the kink, and at it."""
    X, rng = np.linalg.qr(standard_diabetes[0])[0] * 20, np.random.default_rng(seed)
    truth = rng.choice([-1.0, 1.0], 10) * (1 + rng.random(10))
    y, w = X @ truth + rng.normal(size=442), 1.3 * truth
    w[:4] = 0
    ascent, bend = X.T @ (y - X @ w) / 0.49, (X**2).sum(0) / 0.49
    b, tau = 0.05, 0.4
    at_zero = np.clip(np.abs(ascent) - 1 / b, 0, None)
    for prior, slope, more in (
        (priors.Laplace(b), np.sign(w) / b, 0.0),
        (priors.ElasticNet(b, tau), np.sign(w) / b + w / tau**2, 1 / tau**2),
    ):
        expected = np.where(w == 0, at_zero, np.abs(ascent - slope)) / np.sqrt(bend + more)
        found, _, _ = judged(*lasso_problem(prior, X, y), torch.from_numpy(w))
        step = np.abs(ascent - slope) / (bend + more)
        assert (step < np.abs(w))[w != 0].all()  # no step crosses the kink, where the formula would be another one
        assert found.details["largest KKT violation in posterior sds"] == pytest.approx(expected.max(), rel=1e-9)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_kkt_violation_of_a_group_lasso_is_by_group(standard_diabetes, seed):
    """Groups at zero: (‖∇‖ − 1/s)₊ over √H, H the largest of the diagonal; the others: the block's own proximal step."""
    X, Y = standard_diabetes[0], np.random.default_rng(seed).normal(size=(442, 3))
    net, s = nn.Linear(10, 3, bias=False).double(), 0.05
    model = br.BayesianModel(net, priors.GroupLasso(s, per="column"), likelihoods.Gaussian(1.0))
    ascent, bend = Y.T @ X, (X**2).sum(0).max()
    zero, _, _ = judged(model, X, Y, torch.zeros(30, dtype=torch.float64))
    expected = np.clip(np.linalg.norm(ascent, axis=0) - 1 / s, 0, None).max() / np.sqrt(bend)
    assert expected > 0
    assert zero.details["largest KKT violation in posterior sds"] == pytest.approx(expected, rel=1e-9)
    fitted = br.fit(model, X, Y, method="map")
    assert fitted.certificate.converged
    assert fitted.certificate.details["largest KKT violation in posterior sds"] < 1e-3


@pytest.mark.parametrize("units", [1e-3, 1e3])
@pytest.mark.parametrize("rule", [priors.Normal, priors.Laplace])
def test_relative_numbers_do_not_depend_on_units(standard_diabetes, units, rule):
    X, y = standard_diabetes
    w = torch.linspace(-0.2, 0.3, 10, dtype=torch.float64)
    key = f"largest {'gradient' if rule is priors.Normal else 'KKT violation'} in posterior sds"

    def number(of_x, of_y):
        likelihood = likelihoods.Gaussian(0.7 * of_y)
        model = br.BayesianModel(nn.Linear(10, 1, bias=False).double(), rule(0.3 * of_y / of_x), likelihood)
        found, _, _ = judged(model, X * of_x, y * of_y, w * (of_y / of_x))
        return found.details[key], found.details["nats to gain"]

    assert number(units, 1.0) == pytest.approx(number(1.0, 1.0), rel=1e-8)
    assert number(1.0, units) == pytest.approx(number(1.0, 1.0), rel=1e-8)


@pytest.mark.parametrize("values", [[-5.0] * 7 + [-9.0, -20.0, float("nan")], [-5.0] + [-9.0] * 9])
def test_restarts_are_in_the_details_and_the_sentence(standard_diabetes, values):
    model = br.BayesianModel(nn.Linear(10, 1).double(), priors.Normal(0.3), likelihoods.Gaussian(0.7))
    u = br.fit(model, *standard_diabetes, method="exact").loc
    found, _, _ = judged(model, *standard_diabetes, u, restarts=values)
    agree = values.count(-5.0)
    said = "7 of 10 restarts agree to 0.1 nats" if agree == 7 else "best of 10 restarts; no other came within 0.1 nats"
    assert said in str(found)
    assert found.converged
    assert found.details["restarts"] == 10
    assert found.details["restarts that agree"] == agree
    assert found.details["spread over restarts"] == (15.0 if agree == 7 else 4.0)


def test_a_small_duality_gap_is_a_proof_and_a_large_one_says_nothing(standard_diabetes):
    model = br.BayesianModel(nn.Linear(10, 1).double(), priors.Normal(0.3), likelihoods.Gaussian(0.7))
    u = br.fit(model, *standard_diabetes, method="exact").loc
    proved, _, _ = judged(model, *standard_diabetes, u, gap=0.02)
    assert proved.finding is Finding.CONVERGED_BY_DUALITY
    assert "at most 0.02 nats are left to gain, by the duality gap" in str(proved)
    assert "curvature from" not in proved.details
    open_, _, _ = judged(model, *standard_diabetes, u, gap=10.0)
    assert open_.finding is Finding.CONVERGED
    assert open_.details["duality gap"] == 10.0
    assert "duality gap" not in str(open_)
    assert not judged(model, *standard_diabetes, torch.zeros_like(u), gap=10.0)[0].converged


def test_details_survive_a_file(tmp_path, standard_diabetes):
    mode = br.fit(br.BayesianModel(nn.Linear(10, 1), priors.Laplace(0.05)), *standard_diabetes, method=MAP(num_steps=300))
    br.save(mode, tmp_path / "mode.pt")
    assert br.load(tmp_path / "mode.pt").certificate == mode.certificate
    assert {"smallest eigenvalue", "largest KKT violation in posterior sds"} <= mode.certificate.details.keys()


QUICK_STARTS = [((10, 8, 1), nn.Tanh, 1e-300), ((10, 8, 1), nn.ReLU, 1e-7), ((10, 200, 200, 1), nn.ReLU, 1e-300)]


class TestAStartIsNeverReturnedAsAMode:
    @pytest.mark.parametrize(
        ("widths", "activation", "rate"),
        [
            pytest.param(widths, activation, rate, marks=[] if (widths, activation, rate) in QUICK_STARTS else pytest.mark.slow)
            for widths in ((10, 8, 1), (10, 200, 200, 1))
            for activation in (nn.Tanh, nn.ReLU)
            for rate in (1e-300, 1e-12, 1e-7)
        ],
    )
    def test_adam_that_does_not_move(self, standard_diabetes, rate, activation, widths):
        model = br.BayesianModel(network(*widths, activation=activation), likelihood=likelihoods.Gaussian(0.7))
        mode = br.fit(model, *standard_diabetes, method=MAP("adam", learning_rate=rate, num_steps=10))
        assert not mode.certificate.converged
        assert "raise" in str(mode.certificate)

    def test_many_unknowns_and_hardly_any_rows(self):
        """1 % of P/2 is 25 nats here, and all that there is to climb is less."""
        rng = np.random.default_rng(0)
        model = br.BayesianModel(nn.Linear(5000, 1, bias=False), priors.Normal(1.0), likelihoods.Gaussian(1.0))
        X, y = rng.normal(size=(40, 5000)), 0.5 * rng.normal(size=40)
        nn.init.zeros_(model.module.weight)
        mode = br.fit(model, X, y, method=MAP("adam", learning_rate=1e-12, num_steps=10, certify="full"))
        assert mode.certificate.details["nats to gain"] < mode.certificate.details["tolerance"]
        assert mode.certificate.finding is Finding.CLIMB_UNFINISHED
        assert "climbed since the start" in str(mode.certificate)
        mode = br.fit(model, X, y, method=MAP("adam", learning_rate=1e-12, num_steps=10))
        assert mode.certificate.finding is Finding.CLIMB_UNFINISHED
        assert br.fit(model, X, y, method="map").certificate.converged

    def test_lbfgs_that_cannot_move(self):
        """The objective is not finite anywhere but at the start."""

        class Trap(nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = nn.Parameter(torch.tensor([0.5], dtype=torch.float64))

            def forward(self, x):
                return x[:, 0] * torch.where((self.weight - 0.5).abs() < 1e-200, self.weight, torch.nan)

        X = torch.linspace(-1, 1, 20, dtype=torch.float64)[:, None]
        model = br.BayesianModel(Trap(), priors.Normal(1.0), likelihoods.Gaussian(0.1))
        mode = br.fit(model, X, 2 * X[:, 0], method=MAP("lbfgs"))
        assert mode.certificate.finding in (Finding.NOT_MOVED, Finding.NOT_FINITE)
        assert "Not a mode: the" in str(mode.certificate)

    @pytest.mark.parametrize("where", ["value", "gradient"])
    def test_an_objective_that_is_no_number(self, where):
        class Broken(nn.Module):
            def __init__(self):
                super().__init__()
                self.weight = nn.Parameter(torch.ones(1, dtype=torch.float64))

            def forward(self, x):
                return x[:, 0] * (self.weight / self.weight if where == "value" else self.weight.abs().sqrt())

        X = torch.linspace(-1, 1, 20, dtype=torch.float64)[:, None]
        model = br.BayesianModel(Broken(), priors.Normal(1.0), likelihoods.Gaussian(0.1))
        found, _, _ = judged(model, X, X[:, 0], torch.zeros(1, dtype=torch.float64))
        assert found.finding is Finding.NOT_FINITE
        assert "is not a finite number where the search ended" in str(found)

    def test_a_start_at_the_mode_itself_is_one(self, standard_diabetes):
        X, y = standard_diabetes
        linear = nn.Linear(10, 1).double()
        model = br.BayesianModel(linear, priors.Normal(0.3), likelihoods.Gaussian(0.7))
        exact = br.fit(model, X, y, method="exact")
        with torch.no_grad():
            for name, parameter in linear.named_parameters():
                parameter.copy_(exact.mean[name])
        mode = br.fit(br.BayesianModel(linear, priors.Normal(0.3), likelihoods.Gaussian(0.7)), X, y, method=MAP("lbfgs"))
        assert mode.certificate.converged

    def test_an_end_below_the_start(self, standard_diabetes):
        X, y = standard_diabetes
        model = br.BayesianModel(nn.Linear(10, 1).double(), priors.Normal(0.3), likelihoods.Gaussian(0.7))
        bound, data = model.ingest(X, y)
        exact = br.fit(model, X, y, method="exact").loc
        below = exact + 0.1 * torch.ones_like(exact)
        found = certify(LogJoint(bound), below, exact, data, False, lambda steps: below)
        assert found.finding is Finding.BELOW_START
        assert "below its start; lower learning_rate" in str(found)


def test_a_flat_bias_alone_lets_nothing_grow_without_bound():
    """Separable rows, but the weights have a proper prior: a mode exists, however flat the bias."""
    generator = np.random.default_rng(0)
    X = np.r_[-1 - generator.random((15, 2)), 1 + generator.random((15, 2))]
    y = (X[:, 0] > 0).astype(int)
    rules = {"weight": priors.Normal(1e3), "bias": priors.Flat()}
    mode = br.fit(br.BayesianModel(nn.Linear(2, 1).double(), rules, likelihoods.Bernoulli()), X, y, method="map")
    assert mode.certificate.converged


# --- values and words ---

QUICK = {  # a fit of each kind that costs next to nothing, and what it comes to
    "mean field, few steps": (lambda: br.inference.MeanField(num_steps=50), Finding.TOO_FEW_STEPS),
    "mean field, on its way": (
        lambda: br.inference.MeanField(num_steps=200, learning_rate=1e-5, initial_scale=0.03),
        Finding.ELBO_SLOPE,
    ),
    "exact": (br.inference.Exact, Finding.EXACT),
    "early stopping": (lambda: MAP("adam", num_steps=60, validation_fraction=0.2), Finding.STOPPED_EARLY),
    "laplace": (br.inference.LaplaceApproximation, Finding.CONVERGED_BY_DUALITY),
    "too few steps": (lambda: MAP("adam", num_steps=20), Finding.NOT_CONVERGED),
}


@pytest.mark.filterwarnings("ignore::bayesreg.ConvergenceWarning")
@pytest.mark.parametrize("kind", QUICK)
def test_a_verdict_is_a_value_and_survives_a_file(tmp_path, standard_diabetes, kind):
    method, finding = QUICK[kind]
    model = br.BayesianModel(nn.Linear(10, 1).double(), priors.Normal(0.3), likelihoods.Gaussian(0.7))
    post = br.fit(model, *standard_diabetes, method=method())
    assert post.certificate.finding is finding
    assert post.certificate.converged is (finding.outcome is Outcome.CONVERGED)
    br.save(post, tmp_path / "post.pt")
    again = br.load(tmp_path / "post.pt").certificate
    assert again == post.certificate
    assert (str(again), again.details) == (str(post.certificate), post.certificate.details)
    assert again.finding is finding


@pytest.mark.parametrize(("passed", "said"), [(True, "As made."), (False, "Raise it.")])
def test_a_method_of_one_s_own_brings_its_own_check(passed, said):
    found = Certificate.checked(passed, said, {"rate": 0.5})
    assert (found.converged, str(found), found.details) == (passed, said, {"rate": 0.5})


def test_every_finding_has_words():
    from bayesreg.certificates import ADDED, VERDICTS

    assert ADDED.keys() | VERDICTS.keys() == set(Finding)
    assert not ADDED.keys() & VERDICTS.keys()
    assert sum(finding.outcome is Outcome.CONVERGED for finding in Finding) == 8


def test_a_later_look_overrules_and_what_was_found_before_is_told():
    first = Certificate(Finding.STOPPED_EARLY)
    found = first.overrule(Finding.COVARIANCE_LOOSE)
    found = dataclasses.replace(found, covariance=Covariance("Hessian", 1e15, 0), alike=Alike(2, 10))
    assert not found.converged
    assert found.overruled == (Finding.STOPPED_EARLY,)
    assert str(found).startswith("Not certified: of the covariance about 0 digits hold; standardise the inputs, or drop")
    assert " Stopped early: the best point on held-out rows" in str(found)
    assert str(found).endswith("lead no higher. Covariance from the Hessian; condition number 1e+15.")


def test_advice_is_worded_where_the_person_is():
    stuck = Certificate(Finding.NOT_MOVED)
    assert str(stuck) == "Not a mode: the fit did not leave its start; raise learning_rate or num_steps."
    said = sentence(stuck, lambda advice: f"<{advice.argument}>")
    assert said == "Not a mode: the fit did not leave its start; raise <learning_rate> or <num_steps>."
    assert Advice("num_steps").argument == "num_steps"


def test_noise_that_vanishes_overrules_a_fit_that_converged(standard_diabetes):
    X = standard_diabetes[0]
    model = br.BayesianModel(nn.Linear(10, 1).double(), priors.Normal(1.0))
    with pytest.warns(br.ConvergenceWarning, match="noise_scale"):
        found = br.fit(model, X, np.full(len(X), 3.0), method=br.inference.MeanField(num_steps=400)).certificate
    assert found.finding is Finding.NOISE_VANISHING
    assert (found.noise.name, found.noise.target) == ("noise_scale", 3.0)
    assert found.overruled[0] in (Finding.ELBO_SLOPE, Finding.ELBO_RISING, Finding.ELBO_MAXIMAL)
    assert "since all targets are 3; check the target column" in str(found)


def test_every_finding_is_of_a_kind_and_every_kind_is_found():
    assert {finding.outcome for finding in Finding} == set(Outcome)
    for finding in Finding:
        assert Certificate(finding).converged is (finding.outcome in (Outcome.CONVERGED, Outcome.CONVERGED_IN_FUNCTION))


# ── what a check may cost ───────────────────────────────────────────────────────────────────────────────────────────────────


def rows_of(count, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, 4, generator=generator, dtype=torch.float64)
    return x, torch.sin(x[:, 0]) + x[:, 1] * x[:, 2] + 0.3 * torch.randn(count, generator=generator, dtype=torch.float64)


def short(count, num_steps, certify, **words):
    net = network(4, 8, 1, dtype=torch.float64, activation=nn.ReLU)
    model = br.BayesianModel(net, priors.Normal(1.0), likelihoods.Gaussian(0.3))
    method = MAP("adam", num_steps=num_steps, batch_size=64, compile=False, certify=certify, **words)
    return br.fit(model, *rows_of(count), method=method, progress=False)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_what_a_few_steps_gain_is_left_to_gain(seed):
    """The bound of the look is below what a long search from there gains, whether it sees all rows or some."""
    model, data = br.BayesianModel(network(4, 8, 1, dtype=torch.float64), priors.Normal(1.0), likelihoods.Gaussian(0.3)).ingest(
        *rows_of(20_000, seed)
    )
    log_joint = LogJoint(model)
    start = log_joint.layout.flatten(model.start(*next(data.epoch())))
    u = start + 0.1 * torch.randn(len(start), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    long = further(log_joint, u, data, num_steps=500)
    gained = gradient_of(log_joint, long, data)[0] - gradient_of(log_joint, u, data)[0]
    for rows in (2000, 20_000):
        found = first_look(log_joint, u, start, data, rows, 5, jacobian=False, enough=1e9)
        assert 0 < found.at_least <= found.gain
        assert found.at_least < gained
        assert found.rows == rows
        value = gradient_of(log_joint, u, data)[0]
        assert abs(found.value - value) < (1e-6 if rows == 20_000 else 0.3 * abs(value))
        assert (found.error == 0) == (rows == 20_000)


def test_at_a_mode_a_few_steps_gain_nothing():
    """Seen on a part of the rows, noise must not be taken for a gain."""
    net = network(4, 8, 1, dtype=torch.float64, activation=nn.Tanh)
    mode = br.fit(br.BayesianModel(net, priors.Normal(1.0), likelihoods.Gaussian(0.3)), *rows_of(1500), method="map")
    bound, data = mode.model.ingest(*rows_of(1500))
    for rows in (512, 1000, 1500):
        look = first_look(LogJoint(bound), mode.loc, mode.loc - 0.1, data, rows, 4, jacobian=False, enough=1e9)
        assert look.at_least < 1.0


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rows_that_found_a_step_do_not_judge_it(seed):
    """At the exact mode of 200 weights, a step fitted to 1,000 of 20,000 rows gains 2,000 nats on them, and loses on others."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(20_000, 200, generator=generator, dtype=torch.float64)
    y = x.sum(1) + torch.randn(20_000, generator=generator, dtype=torch.float64)
    net = nn.Linear(200, 1, bias=False).double()
    exact = br.fit(br.BayesianModel(net, priors.Normal(1.0), likelihoods.Gaussian(1.0)), x, y, method="exact")
    bound, data = exact.model.ingest(x, y)
    look = first_look(LogJoint(bound), exact.loc, exact.loc - 0.1, data, 2000, 3, jacobian=False, enough=1e9)
    assert look.at_least < 1.0


def test_a_short_fit_is_judged_for_a_part_of_its_search(monkeypatch):
    """Counted in rows that go through the network: a check of 100 steps of 64 rows sees a few passes, a full one hundreds."""
    seen = []
    forward = nn.Linear.forward

    def counted(self, x):
        if self.in_features == 4:
            seen.append(len(x))
        return forward(self, x)

    monkeypatch.setattr(nn.Linear, "forward", counted)
    spent = {}
    for how in (False, "auto", "full"):
        seen.clear()
        post = short(3000, 300, how, learning_rate=1e-3)
        spent[how] = sum(seen)
        known = {False: Finding.UNCHECKED, "auto": Finding.NOT_CONVERGED, "full": Finding.NOT_CONVERGED}
        assert post.certificate.finding is known[how]
        assert ("at least" in str(post.certificate)) == (how == "auto")
    assert spent["auto"] - spent[False] < 0.1 * (spent["full"] - spent[False])


@pytest.mark.slow
def test_a_long_fit_is_judged_as_fully_as_ever():
    """Where the search cost more than the check, "auto" is "full", number by number."""
    found = [short(300, 6000, how).certificate for how in ("auto", "full")]
    assert found[0] == found[1]
    assert found[0].point.by_few_steps is None


def test_rows_that_nobody_sees_stay_in_the_data_s_own_precision(monkeypatch):
    """A short fit on many rows is judged by some of them, and these alone are made double; by the same numbers."""
    brought = []
    monkeypatch.setattr(
        "bayesreg.certificates.mode.in_double",
        lambda joint, u, data: (brought.append(len(data.x)), in_double(joint, u, data))[1],
    )
    x, y = rows_of(40_000)
    model = br.BayesianModel(network(4, 8, 1), priors.Normal(1.0), likelihoods.Gaussian(priors.HalfNormal(1.0)))
    method = MAP("adam", num_steps=30, batch_size=64, compile=False)
    point = br.fit(model, x.float(), y.float(), method=method).certificate.point
    assert brought == [point.looked_rows]
    assert point.looked_rows < point.num_data == 40_000


def test_a_check_that_cannot_be_paid_says_so():
    model = br.BayesianModel(nn.Linear(4, 1).double(), priors.Normal(1.0), likelihoods.Gaussian(0.3))
    nn.init.ones_(model.module.weight)
    nn.init.zeros_(model.module.bias)
    x, _ = rows_of(200_000)
    y = x.sum(1) + 0.3 * torch.randn(200_000, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    with pytest.warns(
        br.ConvergenceWarning, match=r"a few steps on .* of 200,000 rows gain less .*in Python say certify='full'"
    ):
        post = br.fit(
            model, x, y, method=MAP("adam", num_steps=400, learning_rate=1e-6, batch_size=64, compile=False), progress=False
        )
    assert post.certificate.outcome is Outcome.NOT_CERTIFIED
    assert post.certificate.finding is Finding.NOT_LOOKED
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        unchecked = br.fit(model, x, y, method=MAP("adam", num_steps=20, batch_size=64, certify=False), progress=False)
    assert "as was asked" in str(unchecked.certificate)
    with pytest.raises(ValueError, match="certify must be one of 'auto', 'full', but 'none' came"):
        MAP(certify="none")


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_value_that_nobody_judges_is_estimated_from_some_rows(seed):
    """Of 40,000 rows it sees eight thousand, and is off by at most 4.5 Monte Carlo errors; of few rows it is exact."""
    model = br.BayesianModel(network(4, 8, 1, dtype=torch.float64), priors.Normal(1.0), likelihoods.Gaussian(0.3))
    method = MAP("adam", num_steps=20, batch_size=64, compile=False, certify=False)
    for count in (1000, 40_000):
        x, y = rows_of(count, seed)
        mode = br.fit(model, x, y, method=method, progress=False)
        whole = gradient_of(LogJoint(mode.model), mode.loc, mode.model.ingest(x, y)[1])[0]
        by_row = mode.predict(x).log_prob(y)
        error = 0.0 if count == 1000 else float(by_row.std()) * count / 8000**0.5
        assert abs(mode.certificate.point.log_joint - whole) <= 4.5 * error + 1e-6
        assert (abs(mode.certificate.point.log_joint - whole) < 1e-6) == (count == 1000)
