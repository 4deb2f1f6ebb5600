"""Every prior at the ends of the number line: right where the true value can be written down, NaN for NaN, never a crash."""

import dataclasses
import math

import mpmath as mp
import numpy as np
import pytest
import torch
from torch.distributions import constraints

from bayesreg import priors
from bayesreg._catalog import concrete
from bayesreg.priors import AbstractElementwisePrior, AbstractPrior

SCALES = (1e-30, 1e-20, 1e-10, 1e10, 1e20, 1e30)
VALUES = [sign * v for v in (0.0, 1e-30, 1e-20, 1e-10, 1.0, 1e5, 1e10, 1e20, 1e30) for sign in (1, -1)]
SCALE_FIELDS = ("scale", "l1_scale", "l2_scale", "rate", "slab_scale")
MOST = {torch.float32: 3e38, torch.float64: 1e300}


def cases():
    for cls in concrete(AbstractPrior):
        prior = cls()
        if not isinstance(prior, AbstractElementwisePrior):
            continue
        yield prior
        for field in dataclasses.fields(prior):
            if field.name in SCALE_FIELDS and cls not in (priors.RegularizedHorseshoe, priors.SpikeSlab):
                yield from (dataclasses.replace(prior, **{field.name: s}) for s in SCALES)
    yield from (priors.ElasticNet(s, s) for s in SCALES)
    yield from (priors.ScaleMixture(s, s / 10) for s in SCALES)
    yield from (priors.SpikeSlab(0.5, s, s / 10) for s in SCALES)
    yield from (priors.RegularizedHorseshoe(s, slab_scale=2 * s) for s in SCALES)


def log_normal(w, sd):
    return -(w**2) / (2 * sd**2) - mp.log(sd * mp.sqrt(2 * mp.pi))


def log_student(w, df, scale):
    z = w / scale
    return -(df + 1) / 2 * mp.log(1 + z**2 / df) - mp.log(mp.beta(df / 2, mp.mpf(1) / 2) * mp.sqrt(df) * scale)


def log_horseshoe(w, scale):
    x = w**2 / (2 * scale**2)
    tail = -mp.log(x) + mp.log(1 - 1 / x + 2 / x**2) if x > 1e8 else x + mp.log(mp.e1(x))  # an asymptotic series far out
    return tail - mp.log(scale * mp.sqrt(2 * mp.pi**3))


TRUTH = {
    priors.Normal: lambda p, w: log_normal(w, p.scale),
    priors.Laplace: lambda p, w: -abs(w) / p.scale - mp.log(2 * p.scale),
    priors.StudentT: lambda p, w: log_student(w, p.df, p.scale),
    priors.Cauchy: lambda p, w: log_student(w, mp.mpf(1), p.scale),
    priors.GeneralizedNormal: lambda p, w: (
        -(abs(w / p.scale) ** p.beta) + mp.log(p.beta / (2 * p.scale * mp.gamma(1 / p.beta)))
    ),
    priors.HalfNormal: lambda p, w: mp.log(2) + log_normal(w, p.scale),
    priors.HalfCauchy: lambda p, w: mp.log(2) + log_student(w, mp.mpf(1), p.scale),
    priors.HalfStudentT: lambda p, w: mp.log(2) + log_student(w, p.df, p.scale),
    priors.Exponential: lambda p, w: mp.log(p.rate) - p.rate * w,
    priors.LogNormal: lambda p, w: log_normal(mp.log(w) - p.loc, p.scale) - mp.log(w),
    priors.Horseshoe: lambda p, w: log_horseshoe(w, p.scale),
    priors.ScaleMixture: lambda p, w: mp.log(
        p.weight * mp.exp(log_normal(w, p.wide)) + (1 - p.weight) * mp.exp(log_normal(w, p.narrow))
    ),
    priors.SpikeSlab: lambda p, w: mp.log(
        p.inclusion_probability * mp.exp(-abs(w) / p.slab_scale) / (2 * p.slab_scale)
        + (1 - p.inclusion_probability) * mp.exp(-abs(w) / p.spike_scale) / (2 * p.spike_scale)
    ),
}


def exact(prior):
    """The prior's numbers with 60 digits."""

    class Numbers:
        pass

    found = Numbers()
    for field in dataclasses.fields(prior):
        value = getattr(prior, field.name)
        setattr(found, field.name, mp.mpf(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value)
    return found


def inside(prior):
    return [v for v in VALUES if prior.support is constraints.real or v > 0] if prior.support in SUPPORTS else []


SUPPORTS = (constraints.real, constraints.positive)
CASES = list(cases())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("prior", [p for p in CASES if type(p) in TRUTH], ids=repr)
def test_log_prob_is_the_density_s(prior, dtype):
    with mp.workdps(60):
        numbers = exact(prior)
        for value in inside(prior):
            if value == 0 and not prior.bounded:
                continue
            given = torch.tensor(value, dtype=dtype)
            truth = float(TRUTH[type(prior)](numbers, mp.mpf(float(given))))
            if abs(truth) < MOST[dtype]:
                tolerance = 1e-5 if dtype == torch.float32 else 1e-11
                found = float(prior.log_prob(given))
                assert found == pytest.approx(truth, rel=tolerance, abs=10 * tolerance), (value, found, truth)


@pytest.mark.parametrize("prior", CASES, ids=repr)
def test_single_precision_says_what_double_does(prior):
    values = torch.tensor(inside(prior), dtype=torch.float32)
    questions = {
        "log_prob": lambda x: torch.stack([prior.log_prob(v) for v in x]),
        "penalty": lambda x: torch.stack([prior.penalty(v) for v in x]),
        "gradient": prior.penalty_gradient,
        "autograd": lambda x: torch.func.vmap(torch.func.grad(prior.penalty))(x),
        "prox": lambda x: prior.prox(x, 1.0),
    }
    if not len(values):
        return
    if not prior.bounded:
        questions.pop("prox")
    for name, ask in questions.items():
        narrow, double = ask(values).double(), ask(values.double())
        assert narrow.dtype == double.dtype
        assert not bool(double.isnan().any()), (name, values[double.isnan()])
        rounding = 1e-5 * double.abs() + {"log_prob": 1e-5, "penalty": 1e-5, "prox": 1e-5 * values.double().abs()}.get(
            name, 0.0
        )
        wrong = (double.abs() < MOST[torch.float32]) & ~((narrow - double).abs() <= rounding + 1e-37)
        assert not bool(wrong.any()), (name, values[wrong].tolist(), narrow[wrong].tolist(), double[wrong].tolist())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("prior", [cls() for cls in concrete(AbstractPrior)], ids=repr)
class TestNoNumbers:
    def shape(self, prior):
        for shape in ((), (2, 3), (2,), (4, 5), (3, 3)):
            try:
                prior.resolve(shape)
            except ValueError:
                continue
            return shape
        raise AssertionError(prior)

    def test_nan_gives_nan(self, prior, dtype):
        value = torch.full(self.shape(prior), math.nan, dtype=dtype)
        assert math.isnan(prior.penalty(value)) or isinstance(prior, (priors.Flat, priors.Fixed))
        assert math.isnan(prior.log_prob(value)) or isinstance(prior, (priors.Flat, priors.Fixed))
        prior.penalty_gradient(value)
        if prior.bounded:
            found = prior.prox(value, 1.0)
            assert found.shape == value.shape
            assert bool(found.isnan().any()) or isinstance(prior, priors.Fixed)

    @pytest.mark.parametrize("sign", [1, -1])
    def test_infinity_is_no_crash(self, prior, dtype, sign):
        value = torch.full(self.shape(prior), sign * math.inf, dtype=dtype)
        if isinstance(prior, AbstractElementwisePrior) and (sign > 0 or prior.support is constraints.real):
            assert float(prior.log_prob(value)) == -math.inf or not prior.proper
        prior.penalty_gradient(value)
        if prior.bounded:
            assert prior.prox(value, 1.0).shape == value.shape


@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_half_cauchy_s_prox_is_the_best_root_of_its_cubic(scale):
    """z³ − s z² + (scale² + 2 step) z − s scale² = 0, by polynomial roots."""
    for value in (-2.0, 0.05, 1.0, 7.0, 300.0):
        for step in (0.01, 1.0, 50.0):
            roots = np.roots([1, -value, scale**2 + 2 * step, -value * scale**2])
            real = np.r_[0.0, roots[np.abs(roots.imag) < 1e-6].real.clip(0)]
            best = real[np.argmin(step * np.log1p(real**2 / scale**2) + 0.5 * (real - value) ** 2)]
            found = priors.HalfCauchy(scale).prox(torch.tensor([value], dtype=torch.float64), step)
            assert float(found) == pytest.approx(best, rel=1e-7, abs=1e-9)
