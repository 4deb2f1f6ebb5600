"""A layer with noise in a person's own file is whole: units times z ~ U(1 − a, 1 + a), written here from faces only.

The class is made inside of a fixture, so that it is in the class tree for these tests alone.
"""

import gc
import math

import numpy as np
import pytest
import torch
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.behaviour import Behaviour
from bayesreg.inference import MAP, DropoutBound, MCDropout
from bayesreg.layers import AbstractUnitMask, independent, mask_layers, sampling, with_masks
from bayesreg.objective import LogJoint

ROWS, INPUTS, WIDTH, NOISE = 60, 3, 5, 0.5


@pytest.fixture(scope="module")
def uniform():
    class UniformNoise(AbstractUnitMask):
        """Units times z = 1 + a (2 Φ(ε) − 1), uniform on (1 − a, 1 + a)."""

        left_out = "under uniform noise log|M_column| is left out of the KL too, which is no constant: no bound."

        def __init__(self, a=0.3):
            super().__init__()
            self.a = float(a)

        def multiplier(self, noise):
            return 1 + self.a * (2 * torch.special.ndtr(noise) - 1)

        def spread(self, weight):
            return weight.abs() * self.a / math.sqrt(3)

        def expected_energy(self, prior, weight):
            at = independent(prior, weight)
            nodes, shares = (torch.as_tensor(part).to(weight) for part in np.polynomial.legendre.leggauss(20))
            found = sum(at.energy(weight * (1 + self.a * node)) * share / 2 for node, share in zip(nodes, shares, strict=True))
            return found.sum() - at.log_normaliser(weight.shape)

        def entropy(self, num_units):
            return num_units * math.log(2 * self.a) if self.a else 0.0

        @property
        def text(self):
            return f"units times U({1 - self.a:.3g}, {1 + self.a:.3g})"

        def extra_repr(self):
            return f"a={self.a:g}"

    yield UniformNoise
    del UniformNoise
    gc.collect()


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(ROWS, INPUTS))
    return X, X @ [1.0, -0.5, 0.0] + NOISE * rng.normal(size=ROWS)


def network(layer, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(INPUTS, WIDTH), nn.Tanh(), layer, nn.Linear(WIDTH, 1)).double()


def model(layer, prior=None):
    return br.BayesianModel(network(layer), prior or priors.Normal(1.0), likelihoods.Gaussian(NOISE), standardize=False)


@pytest.fixture(scope="module")
def posterior(uniform, data):
    return br.fit(model(uniform(0.3)), *data, method=MCDropout(num_steps=400), seed=0)


def test_behaviour_knows_it(uniform):
    found = Behaviour(network(uniform()))
    assert found.known
    assert not found.deterministic
    assert Behaviour(network(nn.Identity())).deterministic
    assert all(reason is None for reason in found.transforms.values())
    assert list(mask_layers(with_masks(network(uniform())))) == ["2"]


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_its_noise_has_the_moments_that_it_says(uniform, seed):
    layer, count = uniform(0.4), 100_000
    z = layer.multiplier(torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    one = torch.ones(1, dtype=torch.float64)
    sd = float(layer.spread(one))
    assert abs(float(z.mean() - layer.average(one))) < 4 * sd / math.sqrt(count)
    assert float(z.std()) == pytest.approx(sd, rel=4 / math.sqrt(2 * count))
    assert 0.6 <= float(z.min()) < float(z.max()) <= 1.4


def test_the_expected_penalty_of_a_normal_prior_is_a_stronger_decay(uniform):
    a, tau, weight = 0.6, 0.7, torch.tensor([[1.0, -2.0, 0.3]]).double()
    found = [uniform(a).expected_energy(priors.Normal(tau), w) for w in (weight, 0 * weight)]
    expected = weight.square().sum() * (1 + a**2 / 3) / (2 * tau**2)
    assert float(found[0] - found[1]) == pytest.approx(float(expected), rel=1e-12)


def test_the_elbo_is_what_it_says_of_itself(uniform, data):
    layer = uniform(0.3)
    bound, rows = model(layer).ingest(*data)
    elbo = DropoutBound(LogJoint(bound), rows)
    u = elbo.start()
    values = elbo.log_joint.layout.unflatten(u)
    others = sum(-latent.prior.log_prob(values[name]) for name, latent in bound.latents.items() if name != "3.weight")
    own = layer.expected_energy(priors.Normal(1.0), values["3.weight"]) - WIDTH * math.log(0.6)
    torch.testing.assert_close(elbo.divergence(u, values, {}), others + own)


def test_without_noise_it_is_the_mode(uniform, data):
    mode = br.fit(model(nn.Identity()), *data, method=MAP("adam", num_steps=100), seed=0)
    silent = br.fit(model(uniform(0.0)), *data, method=MCDropout(num_steps=100), seed=0)
    nearly = br.fit(model(uniform(0.01)), *data, method=MCDropout(num_steps=100), seed=0)
    for name, value in mode.mean.items():
        torch.testing.assert_close(silent.mean[name], value, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(nearly.mean[name], value, rtol=0, atol=0.02)
    assert not any(sd.any() for sd in silent.std.values())


def test_the_posterior_predicts_with_masks(posterior, data):
    X, y = data
    assert posterior.certificate.converged, posterior.certificate.sentence
    assert posterior.noises == {"2": "units times U(0.7, 1.3)"}
    found = posterior.predict(X, num_samples=4000, seed=0)
    assert found.epistemic_variance.min() > 0
    values = posterior.layout.unflatten(posterior.loc)
    hidden = torch.tanh(torch.tensor(X) @ values["0.weight"].mT + values["0.bias"])
    variance = (hidden.square() * values["3.weight"].square()).sum(1) * 0.3**2 / 3
    torch.testing.assert_close(found.epistemic_variance, variance, rtol=0.1, atol=0)
    by_row = posterior.predict(X, num_samples=4000, seed=0, masks="row")
    torch.testing.assert_close(by_row.epistemic_variance, variance, rtol=0.1, atol=0)
    torch.testing.assert_close(posterior.std["3.weight"], values["3.weight"].abs() * 0.3 / math.sqrt(3))
    assert br.metrics.rmse(found, y) < 2 * NOISE
    plain = posterior.mode.predict(X)
    torch.testing.assert_close(plain.mean, found.mean, rtol=0, atol=0.05)


def test_what_the_kl_leaves_out_is_told(posterior):
    assert "2: units times U(0.7, 1.3), on 3.weight." in posterior.history.notes
    assert (
        "under uniform noise log|M_column| is left out of the KL too, which is no constant: no bound."
        in posterior.history.notes
    )


def test_nothing_of_it_can_be_pruned(posterior):
    assert posterior.sparsity() == {}
    with pytest.raises(ValueError, match="pruning needs weights with a learned sd each"):
        posterior.prune()


def test_it_stands_for_itself_in_training_and_under_sampling(uniform):
    layer, x = uniform(0.5), torch.ones(1000, 2)
    assert torch.equal(layer.eval()(x), x)
    assert layer.train()(x).std() > 0.2
    with sampling(nn.Sequential(layer).eval(), seed=0) as net:
        one = net(x)
    assert one.std() > 0.2


@pytest.mark.usefixtures("unrendered")
def test_the_report_names_it(posterior, data, tmp_path):
    made = br.report({"uniform": posterior}, *data)
    page, facts = made.save(tmp_path / "uniform.html")
    assert min(page.stat().st_size, facts.stat().st_size) > 1_000
    assert "units times U(0.7, 1.3)" in made.html
    assert "set by hand" in made.html


def test_it_is_saved_and_read_back_with_the_module(posterior, uniform, data, tmp_path):
    br.save(posterior, tmp_path / "uniform.pt")
    again = br.load(tmp_path / "uniform.pt", network(uniform(0.3), seed=5))
    assert torch.equal(again.predict(data[0], num_samples=20).mean, posterior.predict(data[0], num_samples=20).mean)
    with pytest.raises(ValueError, match=r"a of 2 .*UniformNoise\) was 0.3 and is 0.4"):
        br.load(tmp_path / "uniform.pt", network(uniform(0.4)))
    with pytest.raises(ValueError, match="not a Sequential of ordinary layers; pass it"):
        br.load(tmp_path / "uniform.pt")


@pytest.mark.usefixtures("unrendered")
def test_two_that_differ_are_two_models(uniform, posterior, data):
    other = br.fit(model(uniform(0.1)), *data, method=MCDropout(num_steps=20), seed=0)
    assert "units times U(0.9, 1.1)" in br.report({"wide": posterior, "narrow": other}, *data).html
