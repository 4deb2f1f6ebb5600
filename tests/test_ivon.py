"""Natural-gradient steps reach the optimum of the ELBO: exact on a linear model, with prior and noise of any kind."""

import math

import pytest
import torch
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.inference import MeanField
from bayesreg.solvers import Averaged, EagerAdam, EagerIvon, SettledByIvon, Settling
from tests.conftest import linear_model


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_the_conjugate_optimum(standard_diabetes, seed):
    """The exact mean, and sd² = 1/diag(precision)."""
    post = br.fit(linear_model(), *standard_diabetes, method=MeanField(2000, optimizer="ivon"), seed=seed)
    exact = br.fit(linear_model(), *standard_diabetes, method="exact")
    factor = exact.as_normal()[1]
    precision = torch.linalg.inv(factor @ factor.mT).diagonal()
    loc, scale = post.guide.moments()
    assert post.certificate.converged
    assert bool(((loc - exact.as_normal()[0]).abs() < 0.05 * factor.norm(dim=1)).all())
    torch.testing.assert_close(scale.square() * precision, torch.ones_like(scale), rtol=0, atol=0.05)


@pytest.mark.slow
def test_it_starts_far_away_and_arrives_where_adam_does(standard_diabetes):
    X, y = standard_diabetes
    rules = {"weight": priors.Laplace(0.2), "bias": priors.Normal(1.0)}
    model = br.BayesianModel(nn.Linear(10, 1).double(), rules, likelihoods.Gaussian(priors.HalfNormal(1.0)))
    one, other = (br.fit(model, X, y, method=MeanField(1500, initial_scale=0.03, optimizer=name)) for name in ("ivon", "adam"))
    for name in one.mean:
        assert bool(((one.mean[name] - other.mean[name]).abs() < 0.3 * other.std[name]).all())
        torch.testing.assert_close(one.std[name], other.std[name], rtol=0.15, atol=0)


def test_settings_that_do_not_go_together_are_refused():
    with pytest.raises(ValueError, match="compile=True needs optimizer='adam', but 'ivon' came"):
        MeanField(optimizer="ivon", compile=True)
    with pytest.raises(ValueError, match=r"optimizer must be one of 'adam', 'ivon', but 'sgd' came"):
        MeanField(optimizer="sgd")


class TestSettling:
    """A fast search, and natural-gradient steps that end it in each unknown's own units."""

    precision = torch.tensor([1.0, 1e2, 1e4, 1e6], dtype=torch.float64)

    def made(self):
        """Minus the ELBO of a normal posterior N(1, 1/precision), its gradient by independent draws; N is 1."""
        phi = nn.Parameter(torch.zeros(8, dtype=torch.float64))
        phi.grad = torch.zeros_like(phi)
        generator = torch.Generator().manual_seed(0)

        def backward(x, y):
            loc, log_scale = phi.detach().chunk(2)
            noise = torch.randn(4, generator=generator, dtype=torch.float64)
            off = loc + log_scale.exp() * noise - 1
            slope = self.precision * off
            phi.grad += torch.cat([slope, slope * log_scale.exp() * noise - 1])
            return 0.5 * (self.precision * off.square()).sum() - log_scale.sum()

        adam, ivon = EagerAdam(phi, backward), EagerIvon(phi, backward, num_data=1, pace=0.5)
        return phi, SettledByIvon(adam, ivon, 0.1)

    def taken(self, stepper, schedule, steps):
        for step in steps:
            stepper.advance([(torch.zeros(1), torch.zeros(1))], [schedule.rate(step)], False)

    def test_it_ends_at_the_optimum_whatever_the_units(self):
        stepper = Averaged(self.made()[1], 0.101, 200)
        self.taken(stepper, Settling(2500, 0.05, turn=400), range(2500))
        loc, log_scale = stepper.answer.chunk(2)
        assert bool(((loc - 1).abs() * self.precision.sqrt() < 0.3).all())
        assert bool((log_scale + 0.5 * self.precision.log()).abs().max() < 0.3)

    def test_a_state_brings_both_back(self):
        schedule = Settling(60, 0.05, turn=20)
        (phi, one), (other_phi, other) = self.made(), self.made()
        self.taken(one, schedule, range(50))
        self.taken(other, schedule, range(50))
        kept = one.state()
        one.advance([(torch.ones(1), torch.ones(1))], [0.005], False)
        one.restore(kept)
        assert phi.equal(other_phi)
        assert one.state()["rate"] == other.state()["rate"] == 0.05

    def test_more_steps_only_while_the_objective_rises(self):
        schedule = Settling(3000, 1.0, budget=3200, turn=1000, least=0.1)
        falling = torch.linspace(1, 0, 3000)
        assert schedule.after(falling[:2000]) is schedule
        assert schedule.after(0.01 * falling) is schedule
        longer = schedule.after(falling)
        assert longer.num_steps == 3200
        assert longer.after(torch.linspace(1, 0, 3200)) is longer
        assert "budget" in longer.said[0]
        assert "rose no more" in schedule.said[0]
        assert math.isclose(schedule.rate(2999), 0.1)


@pytest.mark.slow
def test_a_default_fit_says_that_it_settled(standard_diabetes):
    post = br.fit(linear_model(), *standard_diabetes, method=MeanField())
    assert post.certificate.converged
    assert any("rose no more: after " in note for note in post.history.notes)
