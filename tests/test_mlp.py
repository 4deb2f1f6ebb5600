"""The conventional order of layers, and data normalisation as a layer."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

import bayesreg as br
from bayesreg import layers
from bayesreg.certificates import Certificate, Finding
from bayesreg.inference import MAP, MCDropout
from bayesreg.objective import Chains, LogJoint
from bayesreg.posteriors import Dirac, FitRecord
from bayesreg.solvers import History

SEEDS = pytest.mark.parametrize("seed", [0, 1, 2])


@pytest.fixture(autouse=True)
def _kept():
    with torch.random.fork_rng():
        yield


def rows(seed, count=80):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(count, 3)) * [1.0, 50.0, 0.01] + [0.0, 1e4, 3.0]
    return X, np.sin(X[:, 0]) + 0.02 * X[:, 1] + 0.1 * rng.normal(size=count)


class TestMLP:
    def test_layers_stand_in_the_conventional_order(self):
        net = layers.MLP(4, (7, 5), 2, "tanh", batchnorm=True, dropout=0.1)
        block = [nn.Linear, nn.BatchNorm1d, nn.Tanh, nn.Dropout]
        assert [type(layer) for layer in net] == [*block, *block, nn.Linear]
        assert [layer.in_features for layer in net if isinstance(layer, nn.Linear)] == [4, 7, 5]
        assert net(torch.zeros(3, 4)).shape == (3, 2)
        assert [type(layer) for layer in layers.MLP(4, ())] == [nn.Linear]

    @SEEDS
    def test_a_bias_before_batchnorm_would_change_nothing(self, seed):
        """That is why there is none: in training the batch's mean takes any bias away."""
        torch.manual_seed(seed)
        net, x = layers.MLP(4, (7,), batchnorm=True).double(), torch.randn(20, 4, dtype=torch.float64)
        shifted = nn.Linear(4, 7).double()
        shifted.weight, shifted.bias = net[0].weight, nn.Parameter(10 * torch.randn(7, dtype=torch.float64))
        torch.testing.assert_close(nn.Sequential(shifted, *net[1:])(x), net(x), rtol=1e-9, atol=1e-9)
        assert net[0].bias is None
        assert net[-1].bias is not None

    def test_other_activations_and_dropout_layers(self):
        net = layers.MLP(4, (7, 5), activation=nn.Mish, dropout=layers.ConcreteDropout)
        kinds = [type(layer) for layer in net]
        assert kinds == [nn.Linear, nn.Mish, layers.ConcreteDropout] * 2 + [nn.Linear]
        assert net[2] is not net[5]

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"hidden": 50}, r"hidden must be the widths of the hidden layers, but 50 came; pass for example \(50, 50\)"),
            ({"hidden": (0,)}, r"a width must be a whole number >= 1, but 0 came"),
            ({"inputs": 0}, r"a width must be a whole number >= 1, but 0 came"),
            ({"outputs": 0}, r"outputs must be a whole number >= 1, but 0 came"),
            ({"activation": "rellu"}, r"activation must be one of .*, but 'rellu' came"),
            ({"dropout": 1.0}, r"dropout must be a rate, 0 <= dropout < 1, but 1.0 came"),
            ({"dropout": -0.1}, r"dropout must be a rate, 0 <= dropout < 1, but -0.1 came"),
            ({"hidden": (), "skip": True}, r"skip=True needs a hidden layer, but hidden=\(\) came"),
        ],
    )
    def test_what_is_no_network(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            layers.MLP(**{"inputs": 3, **arguments})

    @pytest.mark.slow
    def test_a_fit_of_it_is_that_of_a_sequential_and_comes_back_without_code(self, tmp_path):
        X, y = rows(0)
        found = []
        for wrap in (lambda net: net, lambda net: nn.Sequential(*net)):
            torch.manual_seed(0)
            net = layers.MLP(3, (6,), activation="tanh").double()
            found.append(br.fit(br.BayesianModel(wrap(net), standardize=True), X, y, method=MAP(num_restarts=2), seed=0))
        torch.testing.assert_close(found[0].loc, found[1].loc)
        br.save(found[0], tmp_path / "a.pt")
        again = br.load(tmp_path / "a.pt")
        assert torch.equal(again.predict(X).mean, found[0].predict(X).mean)

    def test_dropout_and_batchnorm_of_it_are_fitted(self, tmp_path):
        X, y = rows(0)
        torch.manual_seed(0)
        model = br.BayesianModel(layers.MLP(3, (20,), batchnorm=True, dropout=0.1), standardize=True)
        post = br.fit(model, X, y, method=MCDropout(num_steps=500), seed=0)
        assert float(post.predict(X, num_samples=200).std.mean()) < 0.6 * y.std()
        br.save(post, tmp_path / "a.pt")
        assert torch.equal(br.load(tmp_path / "a.pt").predict(X).mean, post.predict(X).mean)


class Opaque(nn.Module):
    """A network of which nothing is known but its forward, so that it takes the general way."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        inner = self.inner
        hidden = inner[2](inner[1](inner[0](x)))
        return hidden + x @ inner.skip.weight.mT


class TestSkip:
    @pytest.fixture(params=["relu", "tanh", "gelu"])
    def net(self, request):
        torch.manual_seed(0)
        return layers.MLP(3, (5,), 2, request.param, skip=True).double()

    def test_it_adds_a_line(self, net):
        x = torch.randn(7, 3, dtype=torch.float64)
        by_hand = nn.Sequential(*(net[i] for i in range(3)))(x) + x @ net.skip.weight.mT
        torch.testing.assert_close(net(x), by_hand)
        assert net.skip.bias is None
        assert net[-1].out_features == 2

    def test_without_hidden_weights_it_is_a_linear_model(self, net):
        with torch.no_grad():
            net[2].weight.zero_()
        x = torch.randn(2, 7, 3, dtype=torch.float64)
        torch.testing.assert_close(net(x[0] + x[1]) + net(0 * x[0]), net(x[0]) + net(x[1]))

    def test_its_weights_are_scaled_by_their_inputs(self, net):
        table = br.BayesianModel(net).prior_table()
        scales = {cells[0]: cells[3] for cells in table.cells}
        assert float(scales["skip.weight"]) == pytest.approx(3**-0.5, rel=1e-3)
        assert float(scales["2.weight"]) == pytest.approx(5**-0.5, rel=1e-3)

    @pytest.mark.parametrize("num_rows", [4, 3000])
    def test_the_short_ways_give_what_the_module_gives(self, net, num_rows):
        """Predictions, the density of chains and its gradient: batched products against the module in a loop."""
        x = torch.randn(num_rows, 3, dtype=torch.float64)
        y = torch.randn(num_rows, 2, dtype=torch.float64)
        found = []
        for module in (net, Opaque(net)):
            model, data = br.BayesianModel(module, likelihood=br.likelihoods.Gaussian(0.5)).ingest(x, y)
            joint = LogJoint(model)
            u = joint.layout.flatten(model.start(data.x, data.y)) + 0.1 * torch.arange(3, dtype=torch.float64)[:, None]
            post = Dirac(model, FitRecord("map", 0, History("log joint"), Certificate(Finding.UNCHECKED)), u[1])
            made = post.predict_drawn(u, x).output
            found.append((*Chains(joint, data, 3)(u), made, torch.func.grad(lambda v, j=joint: j(v, x, y))(u[0])))
        for one, other in zip(*found, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)

    @pytest.mark.parametrize("structure", ["full", "kron", "diag", "last-layer"])
    def test_every_curvature_takes_it(self, structure):
        X, y = rows(0, 30)
        torch.manual_seed(0)
        net = layers.MLP(3, (2,), 1, "tanh", skip=True).double()
        model = br.BayesianModel(net, likelihood=br.likelihoods.Gaussian(0.5), standardize=True)
        post = br.fit(model, X, y, method=br.inference.LaplaceApproximation(structure=structure), progress=False)
        assert bool((post.predict(X).epistemic_variance > 0).all())
        held = {name for name, sd in post.std.items() if not sd.any()}
        assert held == ({"0.weight", "0.bias", "skip.weight"} if structure == "last-layer" else set())

    def test_a_file_brings_it_back_without_code(self, tmp_path):
        X, y = rows(0, 30)
        torch.manual_seed(0)
        net = layers.MLP(3, (2,), 1, "tanh", batchnorm=True, dropout=0.1, skip=True).double()
        mode = br.fit(br.BayesianModel(net, standardize=True), X, y, method=MAP(num_steps=20, certify=False), progress=False)
        br.save(mode, tmp_path / "a.pt")
        again = br.load(tmp_path / "a.pt")
        assert type(again.model.module) is layers.MLP
        assert torch.equal(again.predict(X).mean, mode.predict(X).mean)
        br.save(again, tmp_path / "b.pt")
        assert torch.equal(br.load(tmp_path / "b.pt").predict(X).mean, mode.predict(X).mean)


class TestStandardize:
    @pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int64])
    def test_its_output_has_mean_0_and_sd_1_and_constants_are_kept(self, dtype):
        X = np.column_stack([rows(0)[0] * 10, np.full(80, 7)]).astype(dtype)
        layer = layers.Standardize.of(X)
        out = layer(torch.as_tensor(X)).double()
        tolerance = 1e-9 if dtype is np.float64 else 1e-3
        varies = X.std(0) > 0
        torch.testing.assert_close(out.mean(0), torch.zeros(4, dtype=torch.float64), rtol=0, atol=tolerance)
        torch.testing.assert_close(out.std(0, correction=0), torch.as_tensor(varies * 1.0), rtol=0, atol=tolerance)
        assert layer.constant == tuple(np.flatnonzero(~varies))
        assert layer.scale[3] == 1

    def test_channels_of_images_and_a_single_column(self):
        x = 3 + 2 * torch.randn(50, 2, 4, 4, dtype=torch.float64)
        out = layers.Standardize.of(x)(x)
        torch.testing.assert_close(out.mean((0, 2, 3)), torch.zeros(2, dtype=torch.float64), rtol=0, atol=1e-12)
        torch.testing.assert_close(out.std((0, 2, 3), correction=0), torch.ones(2, dtype=torch.float64))
        assert layers.Standardize.of(np.arange(5.0)[:, None]).mean.tolist() == [2.0]

    @pytest.mark.parametrize(
        "extra",
        [
            "a constant column",
            *(pytest.param(extra, marks=pytest.mark.slow) for extra in ("none", "whole numbers", "one column")),
        ],
    )
    def test_a_model_that_standardises_is_one_with_the_layer_and_one_by_hand(self, extra):
        """Same predictions and log-densities, in the data's own units."""
        X, y = rows(1)
        if extra == "a constant column":
            X = np.column_stack([X, np.full(len(X), 4.0)])
        elif extra == "one column":
            X = X[:, :1]
        elif extra == "whole numbers":
            X, y = (5 * X).round().astype(np.int64), (5 * y).round().astype(np.int64)
        mean, sd = X.mean(0), np.where(X.std(0) == 0, 1.0, X.std(0))
        scaled = (y - y.mean()) / y.std()
        found = []
        for kind in ("model", "layer", "hand"):
            torch.manual_seed(0)
            net = layers.MLP(X.shape[1], (5,), activation="tanh").double()
            net = nn.Sequential(layers.Standardize.of(X), net) if kind == "layer" else net
            inputs, target = {"model": (X, y), "layer": (X, scaled), "hand": ((X - mean) / sd, scaled)}[kind]
            post = br.fit(br.BayesianModel(net, standardize=kind == "model"), inputs, target, method="map", seed=0)
            assert post.certificate.converged
            predicted = post.predict(inputs)
            by_hand = kind != "model"
            found.append(
                (
                    predicted.mean * y.std() + y.mean() if by_hand else predicted.mean,
                    predicted.log_prob(torch.as_tensor(target)) - (np.log(y.std()) if by_hand else 0),
                )
            )
        for one, other in itertools.pairwise(found):
            torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)

    def test_it_comes_back_without_code(self, tmp_path):
        X, y = rows(2)
        torch.manual_seed(0)
        net = nn.Sequential(layers.Standardize.of(X.astype(np.float32)), nn.Linear(3, 1))
        post = br.fit(br.BayesianModel(net), X, y, method="map")
        br.save(post, tmp_path / "a.pt")
        again = br.load(tmp_path / "a.pt")
        assert torch.equal(again.predict(X).mean, post.predict(X).mean)
        assert torch.equal(again.model.module[0].scale, post.model.module[0].scale)
        constant = layers.Standardize.of(np.column_stack([X, np.ones(len(X))]))
        net = nn.Sequential(constant, nn.Linear(4, 1)).double()
        br.save(br.fit(br.BayesianModel(net), np.column_stack([X, np.ones(len(X))]), y, method="map"), tmp_path / "b.pt")
        assert br.load(tmp_path / "b.pt").model.module[0].constant == (3,)

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: layers.Standardize([0.0], [0.0]), r"scale must be above 0, but 0 came; pass 1 for a constant column"),
            (lambda: layers.Standardize([0.0], [1.0, 1.0]), r"must have one shape, but \(1,\) and \(2,\) came"),
            (lambda: layers.Standardize([np.nan], [1.0]), r"mean must .*finite"),
            (lambda: layers.Standardize.of(np.zeros(5)), r"X must have rows and columns, but shape \(5,\) came"),
            (lambda: layers.Standardize.of(np.full((5, 1), np.inf)), r"X must .*finite"),
        ],
    )
    def test_what_are_no_statistics(self, make, message):
        with pytest.raises(ValueError, match=message):
            make()
