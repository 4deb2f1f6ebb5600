"""Statistics that each draw carries: torch's own on the same rows, all rows' where all are taken, and said so."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.behaviour import batchnorm
from bayesreg.certificates import Certificate
from bayesreg.inference import MAP, LaplaceApproximation, MCBatchNorm, MCDropout, MeanField
from bayesreg.posteriors import Dirac, FitRecord, WithStatistics
from bayesreg.solvers import History

pytestmark = pytest.mark.filterwarnings("ignore::bayesreg.ConvergenceWarning")
N = 40
KINDS = {
    "1d": ((3,), lambda: [nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 4), nn.BatchNorm1d(4)], 4),
    "2d": ((2, 4, 4), lambda: [nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 2), nn.BatchNorm2d(2)], 8),
    "3d": ((1, 3, 3, 3), lambda: [nn.Conv3d(1, 2, 2), nn.BatchNorm3d(2), nn.ReLU(), nn.Conv3d(2, 2, 2), nn.BatchNorm3d(2)], 2),
}
every_kind = pytest.mark.parametrize("kind", KINDS)
NORMS = (1, 4)  # where the layers stand
seeds = pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])


def problem(kind="1d", seed=0, dropout=False):
    generator = torch.Generator().manual_seed(seed)
    shape, make, width = KINDS[kind]
    x = torch.randn(N, *shape, generator=generator, dtype=torch.float64)
    y = x.flatten(1)[:, 0] + 0.3 * torch.randn(N, generator=generator, dtype=torch.float64)
    last = [nn.Flatten(), *([nn.Dropout(0.2)] if dropout else []), nn.Linear(width, 1)]
    module = nn.Sequential(*make(), *last).double()
    return br.BayesianModel(module, {"@norm": priors.Normal(1.0)}, likelihoods.Gaussian(0.5)), x, y


def point(kind="1d", seed=0, **options):
    """A mode where it starts: nothing need be fitted to have statistics."""
    model, x, y = problem(kind, seed, **options)
    model = model.bind(x, y)
    record = FitRecord("map", 0, History(), Certificate.checked(False, "Not fitted."))
    made = Dirac(model, record, torch.zeros(0))
    made.loc = made.layout.flatten(model.start(x, y))
    return made, x, y


def in_training(module, values, x, noise=None):
    """Torch's own forward in training mode on these rows, dropout off."""
    net = copy.deepcopy(module).train()
    for layer in net.modules():
        layer.training = isinstance(layer, nn.modules.batchnorm._BatchNorm)
    with torch.no_grad():
        return torch.func.functional_call(net, values, (x,))[:, 0]


class TestMonteCarloBatchNorm:
    @seeds
    @every_kind
    def test_a_draw_s_statistics_are_torch_s_on_its_rows(self, kind, seed):
        mode, x, _ = point(kind, seed)
        post = br.refresh_batchnorm(mode, x, batch_size=7, num_draws=5, seed=seed)
        assert isinstance(post, WithStatistics)
        generator = torch.Generator().manual_seed(seed)
        for s in range(5):
            rows = x[torch.randperm(N, generator=generator)[:7]]
            before = rows
            for i, layer in enumerate(mode.model.module[:5]):
                if i in NORMS:
                    mean, var = (post.statistics()[f"{i}.running_{leaf}"][s] for leaf in ("mean", "var"))
                    count = before.numel() / before.shape[1]
                    theirs = torch.zeros_like(mean), torch.ones_like(var)
                    out = F.batch_norm(before, *theirs, layer.weight, layer.bias, training=True, momentum=1.0, eps=layer.eps)
                    torch.testing.assert_close(mean, theirs[0], rtol=1e-6, atol=1e-9)
                    torch.testing.assert_close(var * count / (count - 1), theirs[1], rtol=1e-6, atol=1e-9)
                    ours = F.batch_norm(before, mean, var, layer.weight, layer.bias, eps=layer.eps)
                    torch.testing.assert_close(ours, out, rtol=1e-6, atol=1e-9)
                    before = out
                else:
                    before = layer(before)

    @seeds
    @every_kind
    def test_with_all_rows_is_the_network_with_population_statistics(self, kind, seed):
        mode, x, _ = point(kind, seed)
        post = br.refresh_batchnorm(mode, x, batch_size=N, num_draws=6, seed=seed)
        refreshed = br.refresh_batchnorm(mode, x)
        assert isinstance(refreshed, Dirac)
        rows, found = x[:9] * 3, post.predict(x[:9] * 3, num_samples=6)
        torch.testing.assert_close(found.mean, refreshed.predict(rows).mean, rtol=1e-9, atol=1e-9)
        assert float(found.epistemic_variance.max()) < 1e-24
        trained = in_training(mode.model.module, mode.mean, x)
        torch.testing.assert_close(refreshed.predict(x).mean, trained, rtol=1e-6, atol=1e-9)

    @seeds
    def test_smaller_batches_are_noisier(self, seed):
        mode, x, _ = point(seed=seed)
        found = [br.refresh_batchnorm(mode, x, batch_size=size, num_draws=300, seed=seed) for size in (4, 12, 36)]
        variances = [float(post.predict(x, num_samples=300).epistemic_variance.mean()) for post in found]
        assert variances[0] > 1.5 * variances[1] > 2.25 * variances[2]  # about 1/B: apart by far more than Monte Carlo error

    def test_the_method_is_the_mode_and_these_draws(self):
        model, x, y = problem()
        search = MAP(num_steps=60)
        post = br.fit(model, x, y, method=MCBatchNorm(8, search, num_draws=30), seed=3)
        mode = br.fit(model, x, y, method=MAP(num_steps=60, batch_size=8), seed=3)
        assert post.base.loc.equal(mode.loc)
        again = br.refresh_batchnorm(mode, x, batch_size=8, num_draws=30, seed=3)
        assert post.predict(x, num_samples=30).mean.equal(again.predict(x, num_samples=30).mean)
        assert post.method == "mc-batchnorm"
        assert post.batch_statistics == "the statistics of one random batch of 8 out of 40 rows, for each draw"
        assert any("statistics of 8 random rows" in note for note in post.history.notes)
        assert search.batch_size is None

    def test_takes_any_prior_and_at_most_all_rows(self):
        model, x, y = problem()
        sparse = br.BayesianModel(model.module, {"0.weight": priors.Laplace(0.05)}, model.likelihood)
        post = br.fit(sparse, x, y, method=MCBatchNorm(10**6, MAP(num_steps=60), num_draws=3))
        assert "batch of 40 out of 40 rows" in post.batch_statistics

    @pytest.mark.parametrize(
        ("make", "match"),
        [
            (lambda: MCBatchNorm(1), r"batch_size must be at least 2, since one row has no variance, but 1 came"),
            (lambda: MCBatchNorm(0), r"batch_size must be a whole number >= 1, but 0 came"),
            (lambda: MCBatchNorm(8, MAP(batch_size=16)), r"batch_size=8 and a mode with batch_size=16 came; give it in one"),
        ],
        ids=["one", "zero", "two sizes"],
    )
    def test_refuses_settings(self, make, match):
        with pytest.raises(ValueError, match=match):
            make()

    def test_refuses_networks_and_streams(self):
        model, x, y = problem()
        with pytest.raises(ValueError, match=r"MCBatchNorm needs a network with batch normalisation, but Linear has none that"):
            br.fit(br.BayesianModel(nn.Linear(3, 1).double()), x, y, method="mc-batchnorm")
        with pytest.raises(ValueError, match=r"Monte Carlo batch normalisation needs all rows at once, but a DataLoader came"):
            br.fit(model, DataLoader(TensorDataset(x, y), batch_size=8), method="mc-batchnorm")


class TestEachDraw:
    @pytest.mark.parametrize("num_rows", [N, 700], ids=["vmapped", "one by one"])
    def test_of_a_guide_has_its_own_over_all_rows(self, num_rows, monkeypatch):
        monkeypatch.setattr("bayesreg.posteriors.refreshed._TOGETHER", 200)
        model, x, y = problem()
        guide = br.fit(model, x, y, method=MeanField(num_steps=50, initial_scale=0.3))
        x = x.repeat(-(-num_rows // N), 1)[:num_rows] + torch.arange(num_rows)[:, None] % 3
        post = br.refresh_batchnorm(guide, x, num_draws=4, seed=1)
        assert post.batch_statistics == f"each draw's own statistics, over {num_rows} rows"
        draws = torch.vmap(post.layout.unflatten)(post.made_of)
        generator = torch.Generator().manual_seed(2)
        order = torch.randperm(4, generator=generator)
        out = post.predict(x, num_samples=4, seed=2)
        expected = [in_training(model.module, {k: v[s] for k, v in draws.items()}, x) for s in order]
        torch.testing.assert_close(out.mean, torch.stack(expected).mean(0), rtol=1e-6, atol=1e-9)
        torch.testing.assert_close(out.epistemic_variance, torch.stack(expected).var(0, correction=0), rtol=1e-6, atol=1e-9)
        assert float(post.statistics()["1.running_mean"].std(0).min()) > 0
        assert post.mean["0.weight"].equal(guide.mean["0.weight"])
        assert post.sample(3)["0.weight"].equal(guide.sample(3)["0.weight"])

    def test_of_dropout_has_its_mask_s(self):
        model, x, y = problem(dropout=True)
        module = nn.Sequential(nn.Dropout(0.3), *model.module)  # in front, so that the statistics feel it
        model = br.BayesianModel(module, model.spec.rules, model.likelihood)
        noisy = br.fit(model, x, y, method=MCDropout(num_steps=50))
        post = br.refresh_batchnorm(noisy, x, num_draws=5)
        weights = noisy.layout.unflatten(noisy.loc)
        for s in range(5):
            effective = noisy.masks.effective(weights, post.made_of[s])
            first = x @ effective["1.weight"].T + weights["1.bias"]
            torch.testing.assert_close(post.statistics()["2.running_mean"][s], first.mean(0), rtol=1e-9, atol=1e-12)
        both = br.refresh_batchnorm(noisy, x, batch_size=8, num_draws=5)
        assert "one random batch of 8" in both.batch_statistics
        assert float(both.predict(x, num_samples=5).epistemic_variance.min()) > 0

    def test_of_a_linearised_network_are_the_mode_s(self):
        model, x, y = problem()
        laplace = br.fit(model, x, y, method=LaplaceApproximation(mode=MAP(num_steps=200)))
        post = br.refresh_batchnorm(laplace, x)
        assert type(post) is type(laplace)
        assert post.batch_statistics == "the statistics of 40 rows, at the mode"
        assert not laplace.batch_statistics.startswith("the statistics")
        at_mode = br.refresh_batchnorm(Dirac(laplace.model, laplace.record, laplace.loc), x)
        torch.testing.assert_close(post.predict(x, num_samples=10).mean, at_mode.predict(x).mean, rtol=1e-9, atol=1e-9)
        with pytest.raises(ValueError, match=r"a linearised Laplace approximation came, whose network is one point; refresh"):
            br.refresh_batchnorm(laplace, x, batch_size=8)

    def test_is_repeatable_and_touches_no_random_state(self):
        mode, x, _ = point()
        state = torch.get_rng_state()
        a, b, c = (br.refresh_batchnorm(mode, x, batch_size=8, num_draws=20, seed=seed) for seed in (0, 0, 1))
        assert a.predict(x).mean.equal(b.predict(x).mean)
        assert not a.predict(x).mean.equal(c.predict(x).mean)
        assert not a.predict(x, num_samples=5, seed=0).mean.equal(a.predict(x, num_samples=5, seed=1).mean)
        assert torch.get_rng_state().equal(state)
        assert br.refresh_batchnorm(a, x).predict(x).mean.equal(br.refresh_batchnorm(mode, x).predict(x).mean)

    @pytest.mark.parametrize("kind", ["mode", "batches", "guide", "dropout"])
    def test_is_saved(self, kind, tmp_path):
        mode, x, y = point(dropout=kind == "dropout")
        if kind in ("guide", "dropout"):
            method = MeanField(num_steps=20) if kind == "guide" else MCDropout(num_steps=20)
            mode = br.fit(mode.model, x, y, method=method)
        post = br.refresh_batchnorm(mode, x, batch_size=8 if kind == "batches" else None, num_draws=6)
        br.save(post, tmp_path / "post.pt")
        again = br.load(tmp_path / "post.pt")
        assert type(again) is type(post)
        assert again.batch_statistics == post.batch_statistics
        assert again.predict(x, num_samples=6).mean.equal(post.predict(x, num_samples=6).mean)

    def test_takes_what_fit_takes(self):
        mode, x, y = point()
        expected = br.refresh_batchnorm(mode, x).predict(x).mean
        for came in (x.numpy(), TensorDataset(x, y), DataLoader(TensorDataset(x, y), batch_size=7)):
            torch.testing.assert_close(br.refresh_batchnorm(mode, came).predict(x).mean, expected, rtol=1e-9, atol=1e-9)

    def test_more_rows_than_fit_in_memory_are_the_same_rows(self, monkeypatch):
        mode, x, _ = point("2d")
        expected = br.refresh_batchnorm(mode, x)
        monkeypatch.setattr(batchnorm, "AT_ONCE", 7 * x[0].numel())
        found = br.refresh_batchnorm(mode, x)
        for name, value in expected.model.module.named_buffers():
            torch.testing.assert_close(found.model.module.get_buffer(name), value, rtol=1e-12, atol=1e-14)


class TestRefusals:
    def test_of_refreshing(self):
        mode, x, _ = point()
        plain = br.fit(br.BayesianModel(nn.Linear(3, 1).double()), x, x[:, 0], method=MAP(num_steps=5))
        with pytest.raises(ValueError, match=r"refreshing needs a network with batch normalisation, but Linear has none that"):
            br.refresh_batchnorm(plain, x)
        with pytest.raises(ValueError, match=r"posterior must be what fit returned, but BayesianModel came"):
            br.refresh_batchnorm(mode.model, x)
        for size in (1, N + 1):
            with pytest.raises(ValueError, match=rf"batch_size must be between 2, .* and the 40 rows, but {size} came"):
                br.refresh_batchnorm(mode, x, batch_size=size)
        with pytest.raises(ValueError, match=r"each row of X must have shape \(3,\)"):
            br.refresh_batchnorm(mode, x[:, :2])
        with pytest.raises(ValueError, match=r"need at least two values a channel, but one row came"):
            br.refresh_batchnorm(mode, x[:1])

    def test_of_a_layer_that_is_met_twice(self):
        norm = nn.BatchNorm1d(3)
        module = nn.Sequential(nn.Linear(3, 3), norm, nn.Linear(3, 3), norm, nn.Linear(3, 1)).double()
        x = torch.randn(N, 3).double()
        post = br.fit(br.BayesianModel(module), x, x[:, 0], method=MAP(num_steps=5, batch_size=8))
        with pytest.raises(ValueError, match=r"must be used once in a pass .*, but 1 is used twice; use a layer"):
            br.refresh_batchnorm(post, x)


class TestStatisticsNobodyTook:
    def test_predicting_by_them_warns(self):
        mode, x, _ = point()
        assert mode.batch_statistics == "mean 0 and variance 1: no training step has written any"
        with pytest.warns(UserWarning, match=r"batch normalisation at 1 has no statistics yet, .*refresh_batchnorm"):
            mode.predict(x)

    @seeds
    def test_prior_draws_normalise_by_their_inputs(self, seed):
        model, x, _ = problem(seed=seed)
        found = model.prior_predictive(x, num_samples=4, seed=seed)
        draws = model.sample_prior(4, seed=seed)
        expected = [in_training(model.module, {k: v[s] for k, v in draws.items()}, x) for s in range(4)]
        torch.testing.assert_close(found.mean, torch.stack(expected).mean(0), rtol=1e-6, atol=1e-9)
        with pytest.raises(ValueError, match=r"need at least two values a channel, but one row came"):
            model.prior_predictive(x[:1])
