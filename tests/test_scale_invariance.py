"""Weights that a batch normalisation follows: their length changes no prediction, and a fit must know it."""

import numpy as np
import pytest
import torch
from torch import nn

import bayesreg as br
from bayesreg import layers, likelihoods, priors
from bayesreg.inference import MAP
from bayesreg.layers.batchnorm import by_batch
from bayesreg.layers.invariance import SCALE_NOTE, SHIFT_NOTE, scale_invariant


@pytest.fixture(autouse=True)
def _kept():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def names(module, row_shape=None):
    return [(one.weight, one.bias) for one in scale_invariant(module, row_shape)]


class Skip(nn.Module):
    """No Sequential; the first block's normalisation is all that reads its layer, the second's is passed by."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(3, 4), nn.BatchNorm1d(4)
        self.second, self.after = nn.Linear(4, 4), nn.BatchNorm1d(4)
        self.last = nn.Linear(4, 1)

    def forward(self, x):
        h = self.second(torch.tanh(self.norm(self.first(x))))
        return self.last(self.after(h) + 0.1 * h)


NETS = {
    "1d": (nn.Linear(3, 4), nn.BatchNorm1d(4), (3,)),
    "1d-conv": (nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), (2, 9)),
    "2d": (nn.Conv2d(2, 4, 3, padding=1, groups=2), nn.BatchNorm2d(4), (2, 5, 5)),
    "2d-transposed": (nn.ConvTranspose2d(4, 6, 2, groups=2), nn.BatchNorm2d(6), (4, 3, 3)),
    "3d": (nn.Conv3d(1, 3, 2), nn.BatchNorm3d(3), (1, 3, 3, 3)),
    "3d-transposed": (nn.ConvTranspose3d(2, 3, 2), nn.BatchNorm3d(3), (2, 2, 2, 2)),
}


class TestFinding:
    @pytest.mark.parametrize("kind", NETS)
    def test_each_unit_s_length_and_bias_change_no_output(self, kind):
        layer, norm, shape = NETS[kind]
        norm = type(norm)(norm.num_features, eps=0.0)
        net = by_batch(nn.Sequential(layer, norm)).double()
        x = torch.randn(12, *shape, dtype=torch.float64)
        (found,) = scale_invariant(nn.Sequential(layer, norm), torch.Size(shape))
        before = net(x)
        with torch.no_grad():
            units = found.units(net[0].weight)
            assert len(units) == norm.num_features
            factors = torch.linspace(0.1, 10.0, len(units), dtype=torch.float64)[:, None]
            net[0].weight.copy_(found.from_units(factors * units, net[0].weight.shape))
            net[0].bias += 3.0
        torch.testing.assert_close(net(x), before, rtol=1e-9, atol=1e-9)

    def test_nested_sequentials_are_read_in_their_order(self):
        net = nn.Sequential(
            nn.Sequential(nn.Linear(3, 4), nn.Identity()), nn.Sequential(nn.BatchNorm1d(4), nn.ReLU()), nn.Linear(4, 1)
        )
        assert names(net) == [("0.0.weight", "0.0.bias")]
        assert names(layers.MLP(3, (8, 5), batchnorm=True, dropout=0.1)) == [("0.weight", None), ("4.weight", None)]

    def test_images_are_known_before_the_data(self):
        net = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.AvgPool2d(2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 5), nn.BatchNorm1d(5)
        )
        expected = [("0.weight", "0.bias"), ("5.weight", "5.bias")]
        assert names(net) == names(net, torch.Size([1, 8, 8])) == expected

    @pytest.mark.parametrize(
        "net",
        [
            nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.BatchNorm1d(4)),
            nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.1), nn.BatchNorm1d(4)),
            nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4)),
            nn.Sequential(nn.Linear(3, 4).requires_grad_(False), nn.BatchNorm1d(4), nn.Linear(4, 1)),
            nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 4)),
            nn.Sequential(nn.Linear(3, 4), nn.Flatten(0), nn.BatchNorm1d(4)),
        ],
        ids=["relu", "dropout", "layernorm", "frozen", "before", "flattened"],
    )
    def test_what_does_not_feed_straight_into_one_is_not_marked(self, net):
        assert names(net) == names(net, torch.Size([3])) == []

    def test_tied_weights_are_not_marked(self):
        shared = nn.Linear(3, 3)
        twice = nn.Sequential(shared, nn.BatchNorm1d(3), nn.Tanh(), shared, nn.BatchNorm1d(3))
        assert names(twice) == names(twice, torch.Size([3])) == []
        one, other = nn.Linear(3, 3), nn.Linear(3, 3)
        other.weight = one.weight
        tied = nn.Sequential(one, nn.BatchNorm1d(3), nn.Tanh(), other)
        assert names(tied) == names(tied, torch.Size([3])) == []

    def test_a_module_of_one_s_own_is_read_when_the_rows_are_known(self):
        assert names(Skip()) == []
        assert names(Skip(), torch.Size([3])) == [("first.weight", "first.bias")]

    def test_a_linear_layer_along_another_axis_than_the_channels(self):
        """BatchNorm1d takes the second axis of (B, 5, 4), the layer's units lie in the third."""
        net = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5))
        assert names(net, torch.Size([5, 4])) == []
        assert names(net, torch.Size([4])) == [("0.weight", "0.bias")]

    def test_nothing_is_changed(self):
        net, state = Skip(), torch.get_rng_state()
        kept = {name: value.clone() for name, value in net.state_dict().items()}
        scale_invariant(net, torch.Size([3]))
        assert torch.get_rng_state().equal(state)
        assert net.training
        assert all(value.equal(kept[name]) for name, value in net.state_dict().items())


def rows(count=60, noise=0.1):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(count, 3))
    return X, np.sin(X[:, 0]) + 0.5 * X[:, 1] + noise * rng.normal(size=count)


class TestTable:
    def test_notes_stand_in_both_tables(self):
        net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1))
        rules = {"*.bias": priors.Normal(2.0)}
        for table in (br.PriorSpec(rules).table(net), br.BayesianModel(net, rules).prior_table()):
            notes = {row.tensor: row.note for row in table.rows}
            assert notes["0.weight"] == SCALE_NOTE
            assert notes["0.bias"] == SHIFT_NOTE
            assert notes["3.weight"] == notes["3.bias"] == ""

    def test_a_bound_model_of_one_s_own(self):
        model = br.BayesianModel(Skip())
        notes = [{row.tensor: row.note for row in m.prior_table().rows} for m in (model, model.bind(*rows()))]
        assert [note["first.weight"] for note in notes] == ["", SCALE_NOTE]

    def test_what_is_certain_has_no_note(self):
        model = br.BayesianModel(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), {"0.bias": priors.Fixed(0.0)})
        notes = {row.tensor: row.note for row in model.prior_table().rows}
        assert (notes["0.bias"], notes["0.weight"]) == ("", SCALE_NOTE)

    def test_the_report_says_what_it_means(self):
        X, y = rows()
        fits = {
            "bn": br.fit(br.BayesianModel(layers.MLP(3, (4,), batchnorm=True)), X, y, method=MAP(num_steps=20)),
            "plain": br.fit(br.BayesianModel(layers.MLP(3, (4,))), X, y, method=MAP("adam", num_steps=20)),
        }
        found = br.report(fits, X, y, num_samples=5)
        tables = {table["posteriors"][0]: table["remarks"] for table in found.data["priors"]}
        assert "van Laarhoven, 2017" in tables["bn"][0]
        assert tables["plain"] == []
        assert tables["bn"][0][:60] in found.html
