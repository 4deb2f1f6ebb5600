"""Several starts of a variational fit: the highest ELBO is kept, and its certificate says how far apart they are."""

import math

import pytest
import torch
from pyro.infer import autoguide
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.certificates import Certificate, Finding, rise, with_elbos
from bayesreg.inference import SVI, FullRank, LowRank, MeanField

METHODS = {
    "full rank": FullRank(num_steps=150, num_restarts=4),
    "low rank": LowRank(rank=1, num_steps=300, num_restarts=4),
    "mean field": MeanField(num_steps=300, num_restarts=4),
    "svi": SVI(autoguide.AutoNormal, num_steps=300, learning_rate=0.03, num_restarts=4),
}


class Square(nn.Module):
    """y = w², with a mode on each side of zero; other starts flip the sign."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([-1.0], dtype=torch.float64))

    def forward(self, x):
        return x[:, 0] * self.w.square()


def evidence(low, high):
    """Log ∫ p(y | w) p(w) dw of one side, by the trapezoidal rule: 20 targets of 1, noise 0.5, w ~ N(1, 1)."""
    w = torch.linspace(low, high, 200_001, dtype=torch.float64)
    normal = torch.distributions.Normal
    joint = 20 * normal(w.square(), 0.5).log_prob(torch.tensor(1.0)) + normal(1.0, 1.0).log_prob(w)
    return float(torch.logsumexp(joint, 0) + math.log((high - low) / 200_000))


@pytest.fixture(scope="module")
def model():
    return br.BayesianModel(Square(), {"w": priors.Normal(1.0, loc=1.0)}, likelihoods.Gaussian(0.5))


@pytest.mark.filterwarnings("ignore::bayesreg.ConvergenceWarning")
@pytest.mark.parametrize("name", [n if n == "mean field" else pytest.param(n, marks=pytest.mark.slow) for n in METHODS])
def test_the_higher_of_two_optima_is_kept_and_the_spread_is_their_evidences(name, model):
    X, y = torch.ones(20, 1, dtype=torch.float64), torch.ones(20, dtype=torch.float64)
    post = br.fit(model, X, y, method=METHODS[name], seed=2 if name == "svi" else 1)
    left, right = evidence(-3, 0), evidence(0, 3)
    found, error = post.certificate.restarts, post.certificate.elbo.trend.error
    assert float(post.mean["w"]) > 0.9
    assert found.count == 4
    assert 1 <= found.agree < 4
    assert found.spread == pytest.approx(right - left, abs=0.1 + 3 * error)
    assert post.certificate.elbo.trend.level == pytest.approx(right, abs=0.1 + 3 * error)
    assert "of 4 restarts lie" in str(post.certificate)
    assert any("4 starts: number" in note for note in post.history.notes)
    assert float(model.weights()["w"]) == float(post.model.weights()["w"]) == -1.0  # the person's module is as it was


def test_one_start_says_nothing_of_others(model):
    X, y = torch.ones(20, 1, dtype=torch.float64), torch.ones(20, dtype=torch.float64)
    post = br.fit(model, X, y, method=FullRank(num_steps=150))
    assert post.certificate.restarts is None
    assert float(post.mean["w"]) < 0


def test_words():
    one = Certificate(Finding.ELBO_LEVEL, elbo=rise(torch.zeros(1000)).elbo)
    assert str(with_elbos(one, [-10.0, -10.05], 0)).endswith("The ELBOs of 2 restarts agree to 0.1 nats.")
    several = str(with_elbos(one, [-10.0, -17.0], 0))
    assert several.endswith(
        "Several optima: the ELBOs of 2 restarts lie 7 nats apart; no other is within 0.1 nats of the best."
    )
    unsettled = str(with_elbos(one, [-10.0, -17.0, -10.0], 1))
    assert "The ELBOs of 3 restarts lie 7 nats apart, and 1 of them had not converged; 2 of them agree" in unsettled
    broken = with_elbos(one, [-10.0, -math.inf], 1).restarts
    assert (broken.agree, broken.spread) == (1, math.inf)


def test_what_does_not_go_together_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"num_restarts=3 makes several fits, of which a checkpoint keeps one; leave out"):
        SVI(num_restarts=3, checkpoint=tmp_path / "state.pt")
    with pytest.raises(ValueError, match=r"tune='evidence' makes several fits, and so does num_restarts=2; leave out"):
        MeanField(tune="evidence", num_restarts=2)
    with pytest.raises(ValueError, match="num_restarts"):
        FullRank(num_restarts=0)
