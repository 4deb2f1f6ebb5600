"""What a network does in training and whose randomness it is: one answer to each question, for every kind of module."""

import dataclasses

import pytest
import torch
from torch import nn

import bayesreg as br
from bayesreg import layers, likelihoods, priors
from bayesreg.behaviour import (
    AS_IT_STANDS,
    BATCH_STATISTICS,
    BY_ROWS,
    COMPILING,
    EACH_ROW,
    EVIDENCE,
    MANY_FITS,
    PREDICTION,
    ROW_WEIGHTS,
    Behaviour,
    normalises,
)
from bayesreg.inference import MAP, LaplaceApproximation, MeanField

pytestmark = pytest.mark.filterwarnings("ignore::bayesreg.ConvergenceWarning")


class Frozen(nn.Sequential):
    """A network that stays in evaluation mode."""

    def train(self, mode=True):
        return super().train(False)


class FrozenFirst(nn.Sequential):
    """A network whose first layers stay in evaluation mode."""

    def train(self, mode=True):
        super().train(mode)
        for layer in list(self)[:2]:
            layer.eval()
        return self


class Renamed(nn.BatchNorm1d):
    """A batch normalisation of another name, with torch's forward."""


class Activated(nn.BatchNorm1d):
    """A batch normalisation with a forward of its own."""

    def forward(self, x):
        return torch.relu(super().forward(x))


class Around(nn.Module):
    """A network with a forward of its own, which does nothing in training."""

    def __init__(self, *parts):
        super().__init__()
        self.parts = nn.Sequential(*parts)

    def forward(self, x):
        return self.parts(x)


class FunctionalDropout(Around):
    def forward(self, x):
        return self.parts(nn.functional.dropout(x, 0.3, self.training))


class Doubled(Around):
    def forward(self, x):
        return self.parts(2 * x if self.training else x)


class Recurrent(nn.Module):
    def __init__(self, dropout):
        super().__init__()
        self.rnn, self.out = nn.GRU(1, 4, 2, dropout=dropout, batch_first=True), nn.Linear(4, 1)

    def forward(self, x):
        return self.out(self.rnn(x[..., None])[0][:, -1])


class Rows(nn.Module):
    """Rows of 6 numbers as 2 channels of 3 positions, through a layer."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.out = layer, nn.Linear(6, 1)

    def forward(self, x):
        return self.out(self.layer(x.view(-1, 2, 3)).flatten(1))


def net(*parts):
    return nn.Sequential(nn.Linear(6, 4), *parts, nn.Tanh(), nn.Linear(4, 1))


@dataclasses.dataclass(frozen=True)
class Says:
    """The whole table of answers about one module; `own` is asked once it has met rows."""

    differences: str = ""
    normalising: tuple[str, ...] = ()
    coupling: tuple[str, ...] = ()
    statistics: tuple[str, ...] = ()
    draw: tuple[str, ...] = ()
    row_by_row: bool = True
    untrained: tuple[str, ...] = ()
    own_code: bool = False
    lacks: tuple[str, ...] = ()  # features that it has no answer of None to

    @property
    def deterministic(self):
        return not self.differences


NO_BATCHES = (BATCH_STATISTICS,)
BATCH = {"differences": "batch normalisation", "normalising": ("1",), "coupling": ("1",)}
TRACKED = {**BATCH, "statistics": ("1",), "untrained": ("1",)}
TRAINED = (COMPILING, EVIDENCE)
NORMALISED = (*TRAINED, ROW_WEIGHTS)
UNWRITTEN = (AS_IT_STANDS, PREDICTION)
NOISY = Says("dropout", draw=("1",), lacks=(*NO_BATCHES, *TRAINED, MANY_FITS))
PLAIN = Says(lacks=NO_BATCHES)

TABLE = {
    "mlp": (lambda: net(), PLAIN),
    "own forward": (lambda: Around(nn.Linear(6, 1)), PLAIN),
    "batch": (lambda: net(nn.BatchNorm1d(4)), Says(**TRACKED, lacks=(*NORMALISED, *UNWRITTEN))),
    "batch, no statistics": (
        lambda: net(nn.BatchNorm1d(4, track_running_stats=False)),
        Says(**BATCH, row_by_row=False, lacks=(*NORMALISED, *UNWRITTEN, EACH_ROW)),
    ),
    "synchronised": (lambda: net(nn.SyncBatchNorm(4)), Says(**TRACKED, lacks=(*NORMALISED, *UNWRITTEN))),
    "renamed": (lambda: net(Renamed(4)), Says(**TRACKED, lacks=(*NORMALISED, *UNWRITTEN))),
    "activated": (lambda: net(Activated(4)), Says(**TRACKED, lacks=(*NORMALISED, *UNWRITTEN, BY_ROWS))),
    "batch, frozen": (lambda: FrozenFirst(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)), PLAIN),
    "instance": (
        lambda: Rows(nn.InstanceNorm1d(2, track_running_stats=True)),
        Says(
            "instance normalisation",
            normalising=("layer",),
            statistics=("layer",),
            untrained=("layer",),
            lacks=(*NO_BATCHES, *NORMALISED, *UNWRITTEN),
        ),
    ),
    "instance, no statistics": (lambda: Rows(nn.InstanceNorm1d(2)), PLAIN),
    "instance, frozen": (lambda: Frozen(Rows(nn.InstanceNorm1d(2, track_running_stats=True))), PLAIN),
    "group": (lambda: Rows(nn.GroupNorm(1, 2)), PLAIN),
    "layer": (lambda: net(nn.LayerNorm(4)), PLAIN),
    "dropout": (lambda: net(nn.Dropout(0.2)), NOISY),
    "dropout of rate 0": (lambda: net(nn.Dropout(0.0)), PLAIN),
    "dropout, frozen": (lambda: Frozen(*net(nn.Dropout(0.2))), PLAIN),
    **{
        f"our {layer.__name__}": (lambda layer=layer: net(layer()), NOISY)
        for layer in (layers.Dropout, layers.GaussianDropout, layers.ConcreteDropout)
    },
    "our dropconnect": (
        lambda: nn.Sequential(nn.Linear(6, 4), layers.DropConnect(nn.Linear(4, 1), 0.2)),
        NOISY,
    ),
    "both": (
        lambda: nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Dropout(0.2), nn.Linear(4, 1)),
        Says(
            **{**TRACKED, "differences": "batch normalisation and dropout"},
            draw=("2",),
            lacks=(*NORMALISED, *UNWRITTEN, MANY_FITS),
        ),
    ),
    "doubled": (
        lambda: Doubled(nn.Linear(6, 1)),
        Says("the network itself", own_code=True, lacks=(*NO_BATCHES, *TRAINED, MANY_FITS)),
    ),
    "doubled, dropout of rate 0": (
        lambda: Doubled(nn.Linear(6, 4), nn.Dropout(0.0), nn.Linear(4, 1)),
        Says("the network itself", own_code=True, lacks=(*NO_BATCHES, *TRAINED, MANY_FITS)),
    ),
    "recurrent": (lambda: Recurrent(0.0), PLAIN),
    "attention": (lambda: Rows(nn.TransformerEncoderLayer(3, 1, 8, 0.0, batch_first=True)), PLAIN),
}  # fmt: skip
LAYERS = (COMPILING, EVIDENCE, ROW_WEIGHTS, MANY_FITS, EACH_ROW, BATCH_STATISTICS, BY_ROWS, AS_IT_STANDS, PREDICTION)


def rows(num_rows=40):
    x = torch.randn(num_rows, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return x, x[:, 0]


def model_of(module):
    return br.BayesianModel(
        module.double(), {"@norm": priors.Normal(1.0)} if has_weights(module) else None, likelihoods.Gaussian(0.5)
    )


def has_weights(module):
    return any(normalises(layer) and list(layer.parameters()) for layer in module.modules())


@pytest.mark.parametrize("name", TABLE)
def test_the_table(name):
    make, says = TABLE[name]
    module = make()
    modes = {layer: layer.training for layer in module.modules()}
    model = model_of(module).bind(*rows())
    assert {layer: layer.training for layer in module.modules()} == modes
    found = model.behaviour
    for question in ("differences", "deterministic", "row_by_row", "own_code"):
        assert getattr(found, question) == getattr(says, question), question
    for question in ("normalising", "coupling", "statistics", "draw", "untrained"):
        assert tuple(getattr(found, question)) == getattr(says, question), question
    lacks = {feature for feature in LAYERS if found.why_not(feature) is not None}
    lacks -= set() if found.traceable else {COMPILING} - set(says.lacks)
    assert lacks == set(says.lacks)


@pytest.mark.parametrize("name", TABLE)
def test_the_answers_are_true(name):
    """Training against evaluation, and a row by itself against the same row among others, by the module's own numbers."""
    make, says = TABLE[name]
    torch.manual_seed(0)
    module, (x, _) = make().double(), rows()
    x = 3 + 2 * x
    found = Behaviour(module)
    before = {key: value.clone() for key, value in module.state_dict().items()}
    with torch.no_grad():
        trained = found.training_copy()
        alike = torch.allclose(trained(x)[:2], module.eval()(x[:2]))
        written = any(not torch.equal(value, before[key]) for key, value in trained.state_dict().items())
        among, alone = module(x)[:2], module(x[:2])
        assert (alike and not written) == says.deterministic
        assert torch.allclose(among, alone) == says.row_by_row
        quiet = found.training_copy(noise=False)
        quiet(x)
        moved = {key.rpartition(".")[0] for key, value in quiet.state_dict().items() if not torch.equal(value, before[key])}
        assert moved == set(says.statistics)
        if found.why_not(BY_ROWS) is None:
            held = found.by_rows().eval()
            assert torch.allclose(held(x), found.training_copy(noise=False)(x))
            assert not any(Behaviour(held).normalising)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


@pytest.mark.parametrize(
    "make", [lambda: FunctionalDropout(nn.Linear(6, 1)), lambda: Recurrent(0.5)], ids=["functional", "gru"]
)
def test_numbers_that_belong_to_no_layer_are_refused(make):
    with pytest.raises(ValueError, match=r"randomness in training must be that of a layer .* draws numbers of its own"):
        model_of(make()).bind(*rows())


@pytest.mark.parametrize("name", ["batch", "instance", "dropout", "doubled"])
def test_where_training_is_another_function_nobody_claims_an_evidence(name):
    x, y = rows()
    few = MAP("adam", num_steps=30)
    found = br.fit(model_of(TABLE[name][0]()), x, y, method=LaplaceApproximation(mode=few))
    assert found.log_evidence is None
    assert any("there is no evidence" in note for note in found.history.said)
    assert "makes training follow another objective" in found.model.behaviour.why_not(EVIDENCE)


@pytest.mark.parametrize("name", ["instance, no statistics", "instance, frozen", "batch, frozen", "dropout, frozen"])
def test_where_it_is_the_same_function_there_is_one(name):
    x, y = rows()
    torch.manual_seed(0)
    assert br.fit(model_of(TABLE[name][0]()), x, y, method="laplace").log_evidence is not None


@pytest.mark.parametrize("method", [MAP("adam", num_steps=60), MeanField(num_steps=60)], ids=["map", "mean-field"])
def test_statistics_of_instance_normalisation_are_written_by_a_fit(method):
    x, y = rows()
    fitted = br.fit(model_of(TABLE["instance"][0]()), 5 + x, y, method=method)
    assert fitted.model.behaviour.untrained == []
    assert bool((fitted.model.module.layer.running_mean > 3).all())
    assert not fitted.model.behaviour.deterministic
    fitted.predict(5 + x[:3], num_samples=4)  # and no warning


def test_exact_refuses_instance_normalisation_without_statistics():
    with pytest.raises(
        ValueError, match=r"linear in its weights as it stands, but its instance normalisation has no statistics"
    ):
        br.fit(model_of(TABLE["instance"][0]()), *rows(), method="exact")


def test_a_model_with_another_module_answers_for_that_module():
    x, y = rows()
    model = model_of(net(nn.BatchNorm1d(4))).bind(x, y)
    held = model.with_module(model.behaviour.by_rows())
    assert (model.behaviour.deterministic, held.behaviour.deterministic) == (False, True)
    assert (model.behaviour.row_by_row, held.behaviour.row_by_row) == (True, False)
    fitted = br.fit(model, x, y, method=MAP("adam", num_steps=30)).model
    assert (model.behaviour.untrained, fitted.behaviour.untrained) == (["1"], [])
    assert fitted.to(dtype=torch.float32).behaviour.module is not fitted.module


def test_a_loaded_network_of_its_own_code_is_looked_at_again(tmp_path):
    x, y = rows()
    post = br.fit(model_of(Doubled(nn.Linear(6, 1))), x, y, method=MAP("adam", num_steps=5))
    br.save(post, tmp_path / "p")
    again = br.load(tmp_path / "p", module=Doubled(nn.Linear(6, 1)))
    again.predict(x[:3])
    assert again.model.behaviour.own_code
