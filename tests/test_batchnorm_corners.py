"""Batch normalisation where it is easily got wrong: frozen, derived, shared, unused, first guesses, held-out rows."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.behaviour import batchnorm, scale_invariant
from bayesreg.inference import MAP, LaplaceApproximation, MCBatchNorm, MCDropout, MeanField

pytestmark = pytest.mark.filterwarnings("ignore::bayesreg.ConvergenceWarning")
QUICK = MAP(num_steps=30, batch_size=16)


class Activated(nn.BatchNorm1d):
    """A batch normalisation with a forward of its own."""

    def forward(self, x):
        return torch.relu(super().forward(x))


class KeptInEvaluation(nn.BatchNorm1d):
    """A batch normalisation that stays in evaluation mode by itself."""

    def train(self, mode=True):
        return super().train(False)


class Frozen(nn.Module):
    """A network that keeps its batch normalisation in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)
        self.norm.running_mean += 3.0
        self.double()

    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x):
        return self.last(torch.tanh(self.norm(self.first(x))))


def rows(num_rows=60, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num_rows, 3, generator=generator, dtype=torch.float64)
    return x, x[:, 0] + 0.3 * torch.randn(num_rows, generator=generator, dtype=torch.float64)


def net(*layers):
    return nn.Sequential(*(layers or [nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh()]), nn.Linear(4, 1)).double()


def model(module=None, **options):
    return br.BayesianModel(module or net(), {"@norm": priors.Normal(1.0)}, **options)


class TestFrozen:
    @pytest.mark.parametrize("method", [QUICK, MeanField(num_steps=30), MCBatchNorm(mode=QUICK)], ids=["map", "vi", "batches"])
    def test_statistics_stay(self, method):
        x, y = rows()
        frozen = model(Frozen())
        if isinstance(method, MCBatchNorm):
            with pytest.raises(
                ValueError, match="needs a network with batch normalisation, but Frozen has none that training updates"
            ):
                br.fit(frozen, x, y, method=method)
            return
        post = br.fit(frozen, x, y, method=method)
        assert post.model.module.norm.running_mean.tolist() == [3.0] * 4
        assert bool(post.predict(x, num_samples=3).mean.isfinite().all())  # and no warning
        assert post.batch_statistics is None

    def test_weights_before_it_are_restricted_by_their_prior(self):
        assert scale_invariant(Frozen(), torch.Size([3])) == []
        own = Frozen().norm
        kept = nn.Sequential(nn.Conv1d(2, 4, 1), KeptInEvaluation(4))
        assert own.training
        assert scale_invariant(kept) == []
        with pytest.raises(ValueError, match="no tensor of this model is followed by a BatchNorm"):
            br.fit(model(Frozen()), *rows(), method=MAP("adam", 5, scale_invariant="unit-norm"))

    def test_is_no_training_noise(self):
        """The network is the same in training and evaluation, so that its mode is certified."""
        x, y = rows()
        frozen = model(Frozen(), likelihood=likelihoods.Gaussian(0.5))
        assert frozen.behaviour.deterministic
        assert br.fit(frozen, x, y, method="map").certificate.converged
        assert br.fit(frozen, x, y, method="laplace").log_evidence is not None

    def test_without_statistics_it_still_is_no_fixed_map(self):
        module = Frozen()
        module.norm = nn.BatchNorm1d(4, track_running_stats=False).double()
        x, y = rows()
        mode = br.fit(model(module), x, y, method=QUICK)
        with pytest.raises(ValueError, match="must not depend on the rows beside it"):
            mode.predict(x)
        assert bool(br.refresh_batchnorm(mode, x).predict(x[:1]).mean.isfinite().all())


class TestAForwardOfItsOwn:
    def test_is_fitted_by_its_mode_and_refused_where_another_would_stand_in(self):
        x, y = rows()
        assert scale_invariant(nn.Sequential(nn.Conv1d(2, 4, 1), Activated(4))) == []  # who knows what it does besides
        derived = model(net(nn.Linear(3, 4), Activated(4)))
        mode = br.fit(derived, x, y, method=MAP(num_steps=30))
        assert mode.predict(x).mean.shape == (60,)
        match = r"must be torch's own class, but Activated at 1 has a forward of its own; put what it adds"
        for refused in (
            lambda: br.refresh_batchnorm(mode, x),
            lambda: br.fit(derived, x, y, method=MeanField(num_steps=5)),
            lambda: br.fit(derived, x, y, method="mc-batchnorm"),
        ):
            with pytest.raises(ValueError, match=match):
                refused()


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
@pytest.mark.parametrize("stale", [False, True], ids=["fresh", "stale"])
def test_the_first_guess_of_the_noise_is_that_of_a_training_step(seed, stale):
    """Whatever the statistics are that the module came with, and in whatever units the inputs are."""
    x, y = rows(seed=seed)
    module = net()
    if stale:
        module[1].running_var *= 1e-4
    found = []
    for factor in (1.0, 1000.0):
        bound, data = model(module, likelihood=likelihoods.Gaussian()).ingest(x * factor, y)
        found.append(float(bound.start(*next(data.epoch()))["noise_scale"]))
    trained = copy.deepcopy(module).train()
    expected = float((trained(x)[:, 0] - y).square().mean().sqrt().detach())
    assert found[0] == pytest.approx(expected, rel=0.2)
    assert found[1] == pytest.approx(found[0], rel=0.2)


def test_whole_numbers_go_through_in_blocks(monkeypatch):
    ids = torch.randint(7, (40, 2), generator=torch.Generator().manual_seed(0))
    y = ids.double().sum(1)
    module = nn.Sequential(nn.Embedding(7, 3), nn.Flatten(), nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).double()
    mode = br.fit(model(module), ids, y, method=QUICK)
    expected = br.refresh_batchnorm(mode, ids).model.module[3]
    monkeypatch.setattr(batchnorm, "AT_ONCE", 14)
    found = br.refresh_batchnorm(mode, ids).model.module[3]
    torch.testing.assert_close(found.running_var, expected.running_var, rtol=1e-9, atol=1e-12)


class TestSaved:
    def test_statistics_that_the_module_has_no_place_for(self, tmp_path):
        x, y = rows()
        module = Frozen()
        module.norm = nn.BatchNorm1d(4, track_running_stats=False).double()
        again = copy.deepcopy(module)
        mode = br.refresh_batchnorm(br.fit(model(module), x, y, method=QUICK), x)
        br.save(mode, tmp_path / "post.pt")
        found = br.load(tmp_path / "post.pt", module=again).predict(x).mean
        torch.testing.assert_close(found, mode.predict(x).mean, rtol=1e-12, atol=1e-14)

    def test_the_base_s_record(self, tmp_path):
        x, y = rows()
        post = br.fit(model(), x, y, method=MCBatchNorm(8, MAP(num_steps=30), num_draws=5))
        br.save(post, tmp_path / "post.pt")
        again = br.load(tmp_path / "post.pt")
        assert (again.method, again.base.method, again.base.space) == ("mc-batchnorm", "map", "constrained")
        assert br.refresh_batchnorm(again, x).history == br.refresh_batchnorm(post, x).history


def test_wide_activations_go_through_fewer_at_a_time(monkeypatch):
    """The bound is on what a layer puts out, and the answer does not depend on it."""
    x, y = rows()
    wide = nn.Sequential(nn.Linear(3, 500), nn.BatchNorm1d(500), nn.Tanh(), nn.Linear(500, 1)).double()
    mode = br.fit(model(wide), x, y, method=QUICK)
    expected = br.refresh_batchnorm(mode, x, batch_size=8, num_draws=6)
    heard = []
    forward = batchnorm.ByBatch.forward
    monkeypatch.setattr(batchnorm.ByBatch, "forward", lambda layer, rows: heard.append(rows.numel()) or forward(layer, rows))
    monkeypatch.setattr(batchnorm, "AT_ONCE", 2 * 8 * 500)
    found = br.refresh_batchnorm(mode, x, batch_size=8, num_draws=6)
    torch.testing.assert_close(found.found, expected.found, rtol=1e-9, atol=1e-12)
    assert len(heard) == 1 + 3  # the measure, and two draws at a time


class TestRefusedBeforeTheSearch:
    def test_a_layer_at_two_places(self):
        norm = nn.BatchNorm1d(4)
        heard = []
        with pytest.raises(ValueError, match="must be used once in a pass"):
            br.fit(
                model(net(nn.Linear(3, 4), norm, nn.Linear(4, 4), norm)),
                *rows(),
                method=MCBatchNorm(mode=QUICK),
                progress=lambda *what: heard.append(what),
            )
        assert not heard

    def test_draws_beyond_memory(self):
        heard = []
        with pytest.raises(ValueError, match=r"stored draws must fit into 2,147,483,648 bytes, but 900,000,000 draws of 8 num"):
            br.fit(model(), *rows(), method=MCBatchNorm(8, num_draws=900_000_000), progress=lambda *what: heard.append(what))
        assert not heard

    def test_a_mode_that_holds_rows_out(self):
        with pytest.raises(ValueError, match=r"the rows that training saw, but the mode's validation_fraction=0.2 holds some"):
            MCBatchNorm(8, MAP(validation_fraction=0.2))

    def test_a_linear_network_without_statistics(self):
        module = nn.Sequential(nn.BatchNorm1d(3, affine=False), nn.Linear(3, 1)).double()
        linear = br.BayesianModel(module, likelihood=likelihoods.Gaussian(0.5))
        with pytest.raises(ValueError, match=r"as it stands, but its batch normalisation has no statistics; normalise by"):
            br.fit(linear, *rows(), method="exact")
        assert br.fit(linear, *rows(), method=MAP(num_steps=50)).model.module[0].num_batches_tracked > 0

    def test_bootstrap_refits(self):
        with pytest.raises(ValueError, match=r"bootstrap refits count rows several times, but the network has batch norm"):
            br.stability(model(), *rows(), num_bootstraps=3)

    def test_draws_that_do_not_fit_into_memory(self):
        post = br.fit(model(), *rows(), method=MeanField(num_steps=5))
        with pytest.raises(ValueError, match=r"stored draws must fit into 1,000 bytes, but 1,000 draws of 38 numbers"):
            br.refresh_batchnorm(post, rows()[0], max_memory=1000)


def test_a_layer_that_no_pass_meets_is_left_alone():
    class Spare(nn.Sequential):
        def __init__(self, *layers):
            super().__init__(*layers)
            self.spare = nn.BatchNorm1d(5)

        def forward(self, x):
            return self[3](self[2](self[1](self[0](x))))

    x, y = rows()
    mode = br.fit(model(Spare(*net()).double()), x, y, method=QUICK)
    assert mode.batch_statistics == "running averages of training"
    found = br.refresh_batchnorm(mode, x)
    assert found.model.module.spare.running_var.tolist() == [1.0] * 5
    assert bool(found.predict(x).mean.isfinite().all())


def test_a_layer_without_forward_derivatives_is_fitted_all_the_same():
    module = net()
    parametrizations.weight_norm(module[0])
    mode = br.fit(model(module), *rows(), method=MAP(num_steps=30))
    assert str(mode.certificate).startswith(("Not certified: in training, batch normalisation", "Not conv", "Conv"))


def test_a_path_leaves_normalisation_layers_out():
    x, y = rows()
    found = br.path(br.BayesianModel(net(), likelihood=likelihoods.Gaussian(0.5)), x, y, scales=[0.3, 1.0], num_steps=20)
    assert len(found.scales) == 2


class TestWhatARefreshedFitSays:
    def test_its_notes_are_its_own(self):
        x, y = rows()
        guide = br.fit(model(), x, y, method=MeanField(num_steps=20))
        assert any("one set for all" in note for note in guide.history.said)
        assert not any("one set for all" in note for note in br.refresh_batchnorm(guide, x, num_draws=3).history.said)
        laplace = br.fit(
            model(likelihood=likelihoods.Gaussian(0.5)), x, y, method=LaplaceApproximation("ggn", MAP(num_steps=50))
        )
        notes = br.refresh_batchnorm(laplace, x).history.said
        assert any("the curvature uses the running averages" in note for note in notes)
        assert not any("curvature and predictions" in note for note in notes)

    def test_its_dropout_is_still_reported(self):
        x, y = rows()
        noisy = br.fit(model(net(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.2))), x, y, method=MCDropout(num_steps=30))
        fits = {"dropout": br.refresh_batchnorm(noisy, x, num_draws=20)}
        made = br.report(fits, np.asarray(x), np.asarray(y), num_samples=20)
        assert made.data["dropout"]["dropout"]["layers"][0]["rate"] == 0.2
        assert "each draw's own statistics" in made.data["batchnorm"]["dropout"]["finding"]


@pytest.mark.parametrize(
    "momentum", [*(pytest.param(value, marks=pytest.mark.slow) for value in (0.0, 1e-12, 1e-4)), 5e-3, 0.1, None]
)
def test_statistics_that_a_momentum_never_takes_are_warned_about(momentum):
    X = torch.randn(60, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 5
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, momentum=momentum), nn.ReLU(), nn.Linear(4, 1)).double()
    post = br.fit(br.BayesianModel(net), X, X[:, 0], method=MAP("adam", num_steps=40), progress=False)
    if momentum is None or momentum == 0.1:
        post.predict(X[:5])
    else:
        with pytest.warns(UserWarning, match=r"predicts by mean 0 and variance 1, or nearly: momentum="):
            post.predict(X[:5])
        assert "or nearly: momentum=" in post.batch_statistics
    br.refresh_batchnorm(post, X).predict(X[:5])  # which has them, and warns no more


def test_statistics_from_elsewhere_are_believed_whatever_the_momentum():
    net = nn.Sequential(nn.BatchNorm1d(3, momentum=0.0), nn.BatchNorm1d(3, momentum=1e-9)).double()
    for layer in net:
        layer.running_mean += 2.0
        layer.running_var *= 0.3
        layer.num_batches_tracked += 1000
    assert batchnorm.untrained(net) == []


def test_one_layer_among_trained_ones_is_found():
    net = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3, momentum=0.0)).train()
    net(torch.randn(8, 3))
    with pytest.warns(UserWarning, match="batch normalisation at 1 has no statistics yet"):
        batchnorm.check_statistics(net)
