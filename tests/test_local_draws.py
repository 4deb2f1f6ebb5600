"""Draws of weights row by row: the same ELBO and gradient on average as one draw for all rows, with less noise."""

import pytest
import torch
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.inference import one_draw_step
from bayesreg.objective import LocalDraws, LogJoint, PairedNoise, TrainingCopy
from bayesreg.posteriors import MeanFieldGuide

SEEDS = [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))]


class Sequence(nn.Module):
    """One layer that meets five places of a row, one whose weights are used behind its back, and one as it should be."""

    def __init__(self):
        super().__init__()
        self.places, self.spied, self.last = nn.Linear(1, 3), nn.Linear(5, 1), nn.Linear(3, 1)

    def forward(self, x):
        places = self.places(x[:, :, None]).tanh().sum(1)
        return self.last(places) + self.spied(x) * self.spied.weight.sum()


class Tied(nn.Module):
    """One layer called twice, two that share their weights, and one by itself."""

    def __init__(self):
        super().__init__()
        self.twice, self.one, self.other, self.last = (nn.Linear(5, 5) for _ in range(4))
        self.other.weight = self.one.weight

    def forward(self, x):
        return self.last(self.twice(self.twice(x).tanh()) + self.one(x) * self.other(x)).sum(1, keepdim=True)


class Across(nn.Module):
    """Rows that see each other's mean."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(5, 1)

    def forward(self, x):
        return self.a(x - x.mean(0))


def convolution():
    first, second = nn.Conv1d(1, 4, 2, padding=1), nn.Conv1d(4, 4, 3, groups=2)
    return nn.Sequential(nn.Unflatten(1, (1, 5)), first, nn.Tanh(), second, nn.Tanh(), nn.Flatten(), nn.Linear(16, 1))


def perceptron():
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 1))


def problem(net, prior=None):
    generator = torch.Generator().manual_seed(0)
    X, y = torch.randn(20, 5, generator=generator).double(), torch.randn(20, generator=generator).double()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = net().double()
    rules = {"*.weight": prior or priors.Normal(1.0)}
    model = br.BayesianModel(net, rules, likelihoods.Gaussian(noise_scale=priors.HalfNormal(1.0))).bind(X, y)
    log_joint = LogJoint(model)
    return log_joint, log_joint.layout.flatten(model.start(X, y)), *model.prepare(X, y)


def gradients(net, local, count, seed, prior=None):
    """Many one-draw steps: minus the ELBO divided by N, (count,), its gradient, (count, 2P), and the layers drawn by row."""
    log_joint, start, x, y = problem(net, prior)
    guide = MeanFieldGuide(log_joint.layout, start, torch.linspace(0.1, 0.3, len(start)).to(start))
    copy = TrainingCopy(log_joint, start, len(x), noise=False)
    draws = LocalDraws(copy, x) if local else None
    losses, found = [], []
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for _ in range(count):
            guide.phi.grad = torch.zeros_like(guide.phi)
            losses.append(one_draw_step(guide, copy, log_joint, x, y, draws))
            found.append(guide.phi.grad)
    return torch.stack(losses), torch.stack(found), draws and draws.found


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    ("net", "layers", "gain"),
    [
        (perceptron, ["0", "2"], 3.0),
        (convolution, ["1", "3", "6"], 2.0),
        (Sequence, ["places", "last"], 1.2),
        (Tied, ["last"], 1.0),
    ],
)
def test_same_gradient_on_average_with_less_noise(net, layers, gain, seed):
    count = 250
    plain, ours = gradients(net, False, count, seed), gradients(net, True, count, seed + 100)
    assert ours[2] == layers
    for one, other in zip(plain[:2], ours[:2], strict=True):
        error = ((one.var(0) + other.var(0)) / count).sqrt().clamp_min(1e-12)
        z = (one.mean(0) - other.mean(0)) / error
        assert float(z.abs().max()) < 4.5
    ratio = (plain[1].var(0) / ours[1].var(0).clamp_min(1e-30)).log().median().exp()
    assert float(ratio) > gain


@pytest.mark.parametrize(
    "prior", [pytest.param(priors.GroupLasso(1.0), marks=pytest.mark.slow), priors.Horseshoe(0.3)], ids=str
)
def test_priors_without_a_closed_form_are_met_at_a_draw(prior):
    count = 250
    plain, ours = (gradients(perceptron, local, count, 5 + local, prior) for local in (False, True))
    error = ((plain[1].var(0) + ours[1].var(0)) / count).sqrt().clamp_min(1e-12)
    assert float(((plain[1].mean(0) - ours[1].mean(0)) / error).abs().max()) < 4.5


@pytest.mark.parametrize(
    "net", [Across, lambda: nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1))], ids=["mean", "norm"]
)
def test_rows_that_see_each_other_share_one_draw(net):
    log_joint, start, x, _ = problem(net)
    assert LocalDraws(TrainingCopy(log_joint, start, len(x), noise=False), x).found == []


def test_only_plain_unknowns_are_drawn_by_row():
    log_joint, start, x, _ = problem(perceptron, priors.LogNormal(0.0, 1.0))
    assert LocalDraws(TrainingCopy(log_joint, start, len(x), noise=False), x).found == []
    log_joint, start, x, _ = problem(perceptron, priors.Fixed(0.1))  # nothing of a layer but its bias is unknown
    draws = LocalDraws(TrainingCopy(log_joint, start, len(x), noise=False), x)
    assert draws.found == []
    assert float(draws.drawn.min()) == 1.0


@pytest.mark.parametrize("begun", [0, 3])
def test_the_second_of_two_steps_has_the_numbers_of_the_first(begun):
    """Whatever is kept in between: after a resume nothing is, and other rows may ask for other numbers on the way."""

    def asked(noise, rows, steps):
        found = []
        for _ in range(steps):
            noise.begin()
            found.append([noise.normal(3), noise.signs(rows, 2), noise.normal(rows, 2)])
        return found

    def fresh(taken):
        noise = PairedNoise(torch.zeros(1, dtype=torch.float64))
        noise.taken.fill_(taken)
        return noise

    first, second = asked(fresh(2 * begun), 4, 2)
    assert first[0].equal(-second[0])
    assert first[1].equal(second[1])
    assert first[2].equal(-second[2])
    for rows in (4, 5):
        noise = fresh(2 * begun)
        asked(noise, 4, 1)
        going_on, resumed = asked(noise, rows, 1)[0], asked(fresh(2 * begun + 1), rows, 1)[0]
        assert all(one.equal(other) for one, other in zip(going_on, resumed, strict=True))
    noise = fresh(2 * begun)
    asked(noise, 4, 1)
    noise.taken.fill_(2 * begun + 3)  # taken back to another step
    assert asked(noise, 4, 1)[0][0].equal(asked(fresh(2 * begun + 3), 4, 1)[0][0])
