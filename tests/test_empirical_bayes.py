"""Scales tuned by the evidence: BayesianRidge's, a maximum by central differences, and the record of how it went."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes
from sklearn.linear_model import BayesianRidge
from sklearn.preprocessing import scale

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.inference import MAP, Evidence, LaplaceApproximation, MeanField
from bayesreg.model import with_known_noise, with_scales
from bayesreg.objective import LogJoint, updates
from bayesreg.solvers import GaussNewton, History, Scales, highest


def _strong() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(100, 6))
    x[:, 5] = x[:, 4] + 0.1 * rng.normal(size=100)  # correlated columns
    return x, 3 * x @ rng.normal(size=6) + 0.5 * rng.normal(size=100)


def _weak() -> tuple[Any, Any]:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(60, 8))
    return x, x @ rng.normal(size=8) * 0.3 + 2 * rng.normal(size=60)


def _diabetes() -> tuple[Any, Any]:
    x, y = load_diabetes(return_X_y=True)
    return scale(x), y / y.std()


DATA = {"strong": _strong, "weak": _weak, "diabetes": _diabetes}


def _centred(name: str) -> tuple[Any, Any]:
    x, y = DATA[name]()
    return x - x.mean(0), y - y.mean()


def _linear(columns: int, weight: Any = None, noise: float = 1.0) -> br.BayesianModel:
    net = torch.nn.Linear(columns, 1, bias=False).double()
    return br.BayesianModel(net, {"weight": weight or priors.Normal(1.0)}, likelihoods.Gaussian(noise), standardize=False)


def _tuned(model: br.BayesianModel, x: Any, y: Any, tune: Any = "evidence", **settings: Any) -> Any:
    return br.fit(model, x, y, method=LaplaceApproximation(tune=tune, **settings), progress=False)


def _scales(posterior: Any) -> dict[str, float]:
    return {label: values[-1] for label, values in posterior.history.scales.items()}


@pytest.mark.parametrize("name", DATA)
def test_a_linear_model_has_the_precisions_of_bayesian_ridge(name: str) -> None:
    x, y = _centred(name)
    tiny = dict.fromkeys(("alpha_1", "alpha_2", "lambda_1", "lambda_2"), 1e-12)
    oracle = BayesianRidge(fit_intercept=False, max_iter=20_000, tol=1e-12, **tiny).fit(x, y)
    posterior = _tuned(_linear(x.shape[1]), x, y)
    found = _scales(posterior)
    assert math.isclose(found["noise_scale"] ** -2, oracle.alpha_, rel_tol=0.01)
    assert math.isclose(found["weight"] ** -2, oracle.lambda_, rel_tol=0.01)
    assert np.allclose(posterior.mean["weight"].numpy(), oracle.coef_, atol=1e-3 * np.abs(oracle.coef_).max())
    assert posterior.certificate.converged
    assert "evidence is highest at the tuned scales" in str(posterior.certificate)


def test_fan_in_and_the_scale_as_written_make_no_difference() -> None:
    x, y = _centred("strong")
    plain = _scales(_tuned(_linear(6), x, y))["weight"]
    wide = _scales(_tuned(_linear(6, priors.Normal(30.0, fan_in=True)), x, y))["weight"]
    assert math.isclose(wide / math.sqrt(6), plain, rel_tol=1e-3)


def test_the_evidence_at_tuned_scales_is_that_of_exact() -> None:
    x, y = _centred("diabetes")
    posterior = _tuned(_linear(10), x, y)
    exact = br.fit(posterior.model, x, y, method="exact", progress=False)
    assert abs(posterior.log_evidence - exact.log_evidence) < 1e-3
    assert abs(posterior.history.log_evidence[-1] - exact.log_evidence) < 1e-3


def test_a_flat_bias_uses_up_a_row() -> None:
    x, y = _strong()
    net = torch.nn.Linear(6, 1).double()
    rules = {"weight": priors.Normal(1.0), "bias": priors.Flat()}
    posterior = _tuned(br.BayesianModel(net, rules, likelihoods.Gaussian(1.0), standardize=False), x, y)
    noise = _scales(posterior)["noise_scale"]
    factor = posterior.factor
    determined = 7 - float((factor[:6] @ factor[:6].mT).trace()) / _scales(posterior)["weight"] ** 2
    residual = float((torch.as_tensor(y) - posterior.predict(x).mean.squeeze()).square().sum())
    assert math.isclose(noise**2, residual / (100 - determined), rel_tol=1e-3)  # MacKay's fixed point
    assert any("bias" in note and "not tuned" in note for note in posterior.history.notes)
    assert posterior.log_evidence is None  # of an improper prior


def _evidence(model: br.BayesianModel, scales: dict[str, float], x: Any, y: Any) -> float:
    noise = scales.get("noise_scale")
    moved = with_scales(model, {name: value for name, value in scales.items() if name != "noise_scale"})
    moved = moved if noise is None else with_known_noise(moved, noise)
    posterior = br.fit(moved, x, y, method=LaplaceApproximation("ggn", MAP(num_steps=5000, certify=False)), progress=False)
    assert posterior.log_evidence is not None
    return posterior.log_evidence


def _slopes(posterior: Any, x: Any, y: Any, h: float = 1e-3) -> list[float]:
    """Central differences of refits in each scale's logarithm, from the module that holds the tuned mode."""
    module = posterior.model.module
    for name, value in posterior.mean.items():
        if name in dict(module.named_parameters()):
            module.get_parameter(name).data.copy_(value)
    found, at = [], _scales(posterior)
    for label in at:
        up, down = (_evidence(posterior.model, {**at, label: at[label] * math.exp(step)}, x, y) for step in (h, -h))
        found.append((up - down) / (2 * h))
    return found


def _net() -> br.BayesianModel:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Tanh(), torch.nn.Linear(2, 1)).double()
    return br.BayesianModel(net, None, likelihoods.Gaussian(0.5), standardize=False)


def _waves() -> tuple[Any, Any]:
    """Two units that are both needed, and their noise."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 2))
    f = 1.5 * np.tanh(2 * x[:, 0] + 0.7) - np.tanh(x[:, 1] - 1.5 * x[:, 0] - 0.5)
    return x, f + 0.4 + 0.3 * rng.normal(size=200)


@pytest.mark.filterwarnings("ignore::bayesreg.inference.ConvergenceWarning")
def test_it_is_a_maximum_of_a_linear_model() -> None:
    x, y = _centred("weak")
    assert max(map(abs, _slopes(_tuned(_linear(8), x, y), x, y))) < 0.05


@pytest.mark.filterwarnings("ignore::bayesreg.inference.ConvergenceWarning")
def test_it_is_a_maximum_of_a_network_though_its_curvature_moves() -> None:
    x, y = _waves()
    posterior = _tuned(_net(), x, y)
    assert posterior.certificate.tuned is not None
    assert not posterior.certificate.tuned.fixed
    assert max(map(abs, _slopes(posterior, x, y))) < 0.05


def test_a_learned_noise_may_stay_and_only_the_priors_are_tuned() -> None:
    x, y = _waves()
    model = br.BayesianModel(_net().module, None, likelihoods.Gaussian(), standardize=False)
    posterior = _tuned(model, x, y, Evidence(noise=False))
    assert "noise_scale" not in posterior.history.scales
    before = br.fit(model, x, y, method=LaplaceApproximation("ggn"), progress=False).log_evidence
    assert before is not None
    assert posterior.log_evidence is not None
    assert posterior.log_evidence > before + 0.5
    assert max(map(abs, np.diff(posterior.history.log_evidence)[-1:])) < 0.1


def test_a_learned_noise_is_tuned_with_the_density_of_its_logarithm() -> None:
    x, y = _centred("weak")
    net = torch.nn.Linear(8, 1, bias=False).double()
    rules = {"weight": priors.Normal(1.0)}
    noisy = likelihoods.Gaussian(priors.HalfNormal(0.5))
    posterior = _tuned(br.BayesianModel(net, rules, noisy, standardize=False), x, y)
    sigma = _scales(posterior)["noise_scale"]
    residual = float((torch.as_tensor(y) - posterior.predict(x).mean.squeeze()).square().sum())
    determined = 8 - float((posterior.factor @ posterior.factor.mT).trace()) / _scales(posterior)["weight"] ** 2
    assert abs(residual / sigma**2 - (60 - determined) + 1 - (sigma / 0.5) ** 2) < 0.05


def _pieces(activation: type[torch.nn.Module]) -> tuple[Any, np.ndarray]:
    torch.manual_seed(1)
    net = torch.nn.Sequential(torch.nn.Linear(2, 6), activation(), torch.nn.Linear(6, 1)).double()
    x, y = _waves()
    model, data = br.BayesianModel(net, None, likelihoods.Gaussian(0.5), standardize=False).ingest(x, y)
    assert data.x is not None
    assert data.y is not None
    start = LogJoint(model).layout.flatten(model.start(data.x, data.y))
    search = GaussNewton(model, start, data, Scales.of(model, Evidence()))
    return search, np.log(search.scales.start)


def test_scales_of_relu_layers_that_make_no_difference_are_found_and_left() -> None:
    search, t = _pieces(torch.nn.ReLU)
    at = search.looked(t, search.settled(t, search.u, History()))
    assert at is not None
    same = at.same / at.same[0]
    assert np.allclose(same, [[1], [1], [-1], [0], [0]], atol=1e-6)  # first weight and bias, second weight, its bias, the noise
    assert abs(at.slope @ same[:, 0]) < 1e-6
    u, layout = at.what.u.clone(), search.log_joint(t).layout
    for move, name in zip(0.7 * same[:, 0], search.scales.labels[:-1], strict=False):
        u[layout.segments[name].slice] *= math.exp(move)
    moved = search.looked(t + 0.7 * same[:, 0], u)
    assert moved is not None
    assert abs(moved.evidence - at.evidence) < 1e-6  # the same model, written otherwise
    smooth, t = _pieces(torch.nn.Tanh)
    found = smooth.looked(t, smooth.u)
    assert found is not None
    assert found.same.shape == (5, 0)


def test_a_network_with_kinks_is_trained_with_its_scales() -> None:
    x, y = _waves()
    search, _ = _pieces(torch.nn.ReLU)
    posterior = _tuned(br.BayesianModel(search.model.module, None, likelihoods.Gaussian(), standardize=False), x, y)
    evidences = posterior.history.log_evidence
    assert evidences[-1] > evidences[0] + 100
    assert posterior.certificate.tuned is not None
    assert posterior.certificate.tuned.maximal
    assert 0.25 < _scales(posterior)["noise_scale"] < 0.4  # 0.3


def test_logistic_regression_is_highest_on_a_grid() -> None:
    x, y = load_breast_cancer(return_X_y=True)
    x, y = scale(x)[::4], y[::4]
    net = torch.nn.Linear(30, 1).double()
    rules = {"weight": priors.Normal(1.0), "bias": priors.Normal(3.0)}
    model = br.BayesianModel(net, rules, likelihoods.Bernoulli(), standardize=False)
    posterior = _tuned(model, x, y)
    at = _scales(posterior)
    assert posterior.log_evidence is not None
    for weight, bias in itertools.product((0.5, 0.9, 1.1, 2.0), (0.8, 1.25)):
        other = _evidence(posterior.model, {"weight": at["weight"] * weight, "bias": at["bias"] * bias}, x, y)
        assert other < posterior.log_evidence + 1e-6


def test_one_scale_for_all_tensors_of_a_rule() -> None:
    x, y = _waves()
    model = br.BayesianModel(_net().module, {"*": priors.Normal(1.0)}, likelihoods.Gaussian(0.5), standardize=False)
    posterior = _tuned(model, x, y, Evidence(per="rule", noise=False))
    (label,) = posterior.history.scales
    assert "glob '*'" in label
    assert len({r.specified.path_scale for r in posterior.model.resolved}) == 1
    assert posterior.model.likelihood.fixed == {"noise_scale": 0.5}
    assert all(r.source.endswith("tuned by the evidence") for r in posterior.model.resolved)


def test_beyond_the_whole_matrix_its_diagonal() -> None:
    x, y = _waves()
    bound, data = _net().ingest(x, y)
    mode = br.fit(_net(), x, y, method=MAP(jacobian=True), progress=False)
    search = GaussNewton(mode.model, mode.loc, data, Scales.of(bound, Evidence()), dense=False)
    heard: list[float] = []
    found = highest(search, lambda step, t, at: heard.append(at.evidence))
    assert found is not None
    assert found.at.evidence == heard[-1] > heard[0] + 5


def test_weights_that_the_data_do_not_need_are_named() -> None:
    rng = np.random.default_rng(3)
    x, noise = rng.normal(size=(50, 3)), rng.normal(size=50)
    y = noise - x @ np.linalg.lstsq(x, noise, rcond=None)[0] * 0.95
    posterior = _tuned(_linear(3), x, y)
    assert posterior.certificate.tuned is not None
    assert posterior.certificate.tuned.vanishing == ("weight",)
    assert posterior.certificate.converged
    assert "scale zero" in str(posterior.certificate)


def test_the_record_survives_a_file(tmp_path: Any) -> None:
    x, y = _centred("weak")
    posterior = _tuned(_linear(8), x, y)
    br.save(posterior, tmp_path / "tuned.pt")
    again = br.load(tmp_path / "tuned.pt")
    assert again.history.scales == posterior.history.scales
    assert again.certificate == posterior.certificate
    assert str(again.model.prior_table()) == str(posterior.model.prior_table())
    assert "tuned by the evidence" in str(again.model.prior_table())


def test_what_cannot_be_tuned_is_refused() -> None:
    x, y = _centred("weak")
    with pytest.raises(ValueError, match="tune must be None, 'evidence'"):
        LaplaceApproximation(tune="marglik")
    with pytest.raises(ValueError, match="per must be"):
        Evidence(per="layer")
    flat = br.BayesianModel(torch.nn.Linear(8, 1), priors.Flat(), likelihoods.Gaussian())
    with pytest.raises(ValueError, match="must have a scale to tune"):
        _tuned(flat, x, y, Evidence(noise=False))
    unknown = br.BayesianModel(torch.nn.Linear(8, 1), {"weight": priors.Normal(priors.HalfCauchy(1.0))})
    with pytest.raises(ValueError, match=r"LaplaceApproximation\(tune='evidence'\)"):
        _tuned(unknown, x, y)


@pytest.mark.parametrize("prior", [priors.StudentT(4.0, 0.7), priors.Normal(0.8, 0.3)], ids=str)
def test_slopes_are_derivatives_under_other_smooth_priors(prior: Any) -> None:
    x, y = _centred("weak")
    model = _linear(8, prior, 2.0)
    bound, data = model.ingest(x, y)
    mode = br.fit(model, x, y, method=MAP(jacobian=True), progress=False)
    search = GaussNewton(mode.model, mode.loc, data, Scales.of(bound, Evidence()))
    search.linear = False
    t = np.log(search.scales.start)
    at, h = search.evaluated(t, None), 1e-3
    assert at is not None
    for j, move in enumerate(h * np.eye(2)):
        up, down = search.evaluated(t + move, at), search.evaluated(t - move, at)
        assert up is not None
        assert down is not None
        assert abs((up.evidence - down.evidence) / (2 * h) - at.slope[j]) < 1e-3


def test_a_kink_and_a_diagonal_structure() -> None:
    x, y = _centred("weak")
    with pytest.raises(ValueError, match="has a kink where the mode may sit"):
        _tuned(_linear(8, priors.Laplace(1.0)), x, y)
    posterior = _tuned(_net(), *_waves(), structure="diag")
    assert posterior.log_evidence == pytest.approx(posterior.history.log_evidence[-1], abs=0.05)
    assert any("diagonal" in note for note in posterior.history.notes)


def test_a_mode_that_is_given() -> None:
    x, y = _centred("weak")
    mode = br.fit(_linear(8), x, y, method=MAP(jacobian=True), progress=False)
    assert _scales(_tuned(_linear(8), x, y, mode=mode)) == pytest.approx(_scales(_tuned(_linear(8), x, y)), rel=1e-3)


@pytest.mark.filterwarnings("ignore::bayesreg.inference.ConvergenceWarning")
def test_a_comparison_shows_evidences_and_when_they_compare() -> None:
    x, y = _centred("diabetes")
    fits = {
        "wide": br.fit(_linear(10), x, y, method="laplace", progress=False),
        "tuned": _tuned(_linear(10), x, y),
        "map": br.fit(_linear(10), x, y, method="map", progress=False),
    }
    found = br.compare(fits, x[:50], y[:50])
    assert set(found.log_evidences) == {"wide", "tuned"}
    assert found.log_evidences["tuned"] > found.log_evidences["wide"]
    text = str(found)
    assert "log evidence" in text.splitlines()[0]
    assert "tuned (2): at scales tuned to it" in text
    assert found.to_dict()["posteriors"]["map"]["log_evidence"] is None
    assert math.isnan(found.to_frame().loc["map", "log_evidence"])
    fewer = br.fit(_linear(10), x[:100], y[:100], method="laplace", progress=False)
    assert "100 and 442 training rows" in str(br.compare({"all": fits["wide"], "fewer": fewer}, x[:50], y[:50]))
    assert "log evidence" not in str(br.compare({"map": fits["map"]}, x[:50], y[:50]))


def _orthogonal(seed: int) -> tuple[Any, Any]:
    rng = np.random.default_rng(seed)
    x = np.linalg.qr(rng.normal(size=(64, 12)))[0] * 8.0  # XᵀX = 64 I
    return x, x @ (0.7 * rng.normal(size=12)) + 2 * rng.normal(size=64)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
@pytest.mark.filterwarnings("ignore::bayesreg.inference.ConvergenceWarning")
def test_mean_field_on_orthogonal_columns_has_the_closed_form(seed: int) -> None:
    x, y = _orthogonal(seed)
    expected = math.sqrt(np.square(x.T @ y / 64).mean() - 2.0**2 / 64)  # least squares are N(0, s² + σ²/64)
    method = MeanField(compile=False, num_steps=1000, tune=Evidence(noise=False))
    posterior = br.fit(_linear(12, noise=2.0), x, y, method=method, seed=seed, progress=False)
    assert math.isclose(_scales(posterior)["weight"], expected, rel_tol=0.02)
    assert posterior.certificate.tuned is not None
    assert posterior.certificate.tuned.maximal
    assert "tuned by the evidence" in str(posterior.model.prior_table())
    laplace = _tuned(_linear(12, noise=2.0), x, y, Evidence(noise=False))
    assert math.isclose(_scales(laplace)["weight"], expected, rel_tol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::bayesreg.inference.ConvergenceWarning")
def test_mean_field_tunes_a_laplace_prior_to_the_expected_size_and_the_noise() -> None:
    x, y = _orthogonal(0)
    method = MeanField(compile=False, num_steps=1000, tune="evidence")
    posterior = br.fit(_linear(12, priors.Laplace(3.0), 1.0), x, y, method=method, progress=False)
    size = float(posterior.sample(4000, seed=0)["weight"].abs().mean())
    assert math.isclose(_scales(posterior)["weight"], size, rel_tol=0.03)
    draws = posterior.sample(500, seed=1)["weight"].squeeze(1).numpy()
    residual = np.square(y[:, None] - x @ draws.T).mean()
    assert math.isclose(_scales(posterior)["noise_scale"], math.sqrt(residual), rel_tol=0.02)


def test_updates_of_a_normal_by_closed_form_and_by_quadrature() -> None:
    loc, sd = torch.tensor([1.0, -2.0, 0.5]).double(), torch.tensor([0.5, 0.1, 1.0]).double()
    model = br.BayesianModel(torch.nn.Linear(3, 1, bias=False).double(), priors.StudentT(1e6, 2.0), likelihoods.Gaussian(1.0))
    found = updates(LogJoint(model), loc, sd)["weight"]
    squares = float((loc.square() + sd.square()).mean())
    assert math.isclose(2.0 * math.exp(found.step), math.sqrt(squares), rel_tol=1e-3)
    assert math.isclose(found.slope, 3 * squares / 4 - 3, rel_tol=1e-3)
    normal = br.BayesianModel(torch.nn.Linear(3, 1, bias=False).double(), priors.Normal(2.0), likelihoods.Gaussian(1.0))
    mackay = updates(LogJoint(normal), loc, sd)["weight"]
    determined = 3 - float(sd.square().sum()) / 4
    assert math.isclose(2.0 * math.exp(mackay.step), math.sqrt(float(loc.square().sum()) / determined), rel_tol=1e-6)
    assert math.isclose(mackay.slope, 3 * squares / 4 - 3, rel_tol=1e-6)
