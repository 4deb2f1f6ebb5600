"""`fan_in=True` by what it is for: with inputs of unit variance a layer's output has unit variance, in the interior."""

import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import bayesreg as br
from bayesreg import priors
from bayesreg.layers import fan_ins
from bayesreg.model import PriorSpec

SCALED = priors.Normal(1.0, fan_in=True)


def output_sd(module, x, seed, draws=100):
    """Sd of the output over prior draws, position by position, root mean square over positions."""
    rules = {"*": SCALED, "*bias*": priors.Fixed(0.0)} if any("bias" in n for n, _ in module.named_parameters()) else SCALED
    resolved = PriorSpec(rules).resolve(module)
    total = 0.0
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        for _ in range(draws):
            values = {r.name: r.prior.draw(r.shape, 1, {})[0] for r in resolved}
            out = torch.func.functional_call(module, values, (x(),))
            total = total + (out[0] if isinstance(out, tuple) else out).square()
    return (total / draws).mean().sqrt()


class Interior(nn.Module):
    """A layer's output away from its edges, over whole strides."""

    def __init__(self, layer, margin, length):
        super().__init__()
        self.layer, self.window = layer, slice(margin, margin + length)

    def forward(self, x):
        out = self.layer(x)
        return out[(slice(None), slice(None), *[self.window] * (out.dim() - 2))]


class Pair(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x, torch.randn_like(x))


noise = lambda *shape: lambda: torch.randn(*shape)  # noqa: E731
LAYERS = {
    "linear": (lambda: nn.Linear(20, 30), noise(4, 20)),
    "convolution": (lambda: Interior(nn.Conv2d(6, 8, 3, padding=1), 2, 6), noise(2, 6, 10, 10)),
    "grouped": (lambda: nn.Conv2d(8, 12, 3, groups=4), noise(2, 8, 8, 8)),
    "depthwise": (lambda: nn.Conv1d(10, 20, 5, groups=10, dilation=2), noise(2, 10, 30)),
    "transposed": (lambda: Interior(nn.ConvTranspose2d(64, 1, 3), 3, 6), noise(2, 64, 10, 10)),
    "transposed wide": (lambda: Interior(nn.ConvTranspose2d(4, 32, 3), 3, 6), noise(2, 4, 10, 10)),
    "transposed grouped": (lambda: Interior(nn.ConvTranspose1d(12, 24, 5, groups=3), 6, 8), noise(2, 12, 20)),
    "transposed stride": (lambda: Interior(nn.ConvTranspose2d(8, 3, 4, stride=2), 4, 8), noise(2, 8, 10, 10)),
    "transposed uneven": (lambda: Interior(nn.ConvTranspose1d(8, 3, 5, stride=2), 6, 12), noise(2, 8, 16)),
    "transposed gaps": (lambda: Interior(nn.ConvTranspose1d(8, 3, 2, stride=4), 8, 16), noise(2, 8, 10)),
    "transposed dilated": (lambda: Interior(nn.ConvTranspose1d(8, 3, 3, dilation=2), 6, 8), noise(2, 8, 20)),
    "transposed volume": (lambda: Interior(nn.ConvTranspose3d(4, 2, 2, stride=2), 2, 4), noise(1, 4, 5, 5, 5)),
    "bilinear": (lambda: Pair(nn.Bilinear(5, 5, 7)), noise(6, 5)),
    "embedding": (lambda: nn.Embedding(9, 16), lambda: torch.arange(9)),
    "bag": (lambda: nn.EmbeddingBag(9, 16, mode="mean"), lambda: torch.arange(9)[:, None]),
    "weight norm": (lambda: parametrizations.weight_norm(nn.Linear(20, 30)), noise(4, 20)),
    "weight norm, transposed": (
        lambda: Interior(parametrizations.weight_norm(nn.ConvTranspose2d(8, 4, 3)), 3, 6),
        noise(2, 8, 10, 10),
    ),
    "inside a network": (lambda: nn.Sequential(nn.Sequential(nn.ConvTranspose1d(16, 2, 1), nn.Identity())), noise(2, 16, 5)),
}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", LAYERS)
def test_an_output_has_unit_variance(name, seed):
    make, x = LAYERS[name]
    assert float(output_sd(make(), x, seed)) == pytest.approx(1, abs=0.1)


def scales(module, rules=None):
    found = PriorSpec(rules or {"@weight": SCALED}).resolve(module)
    return {r.name: r.prior.scale for r in found if isinstance(r.prior, priors.Normal) and r.name != "bias"}


@pytest.mark.parametrize("layer", [nn.RNN, nn.LSTM, nn.GRU])
def test_recurrent_weights(layer):
    found = scales(layer(3, 16, num_layers=2, bidirectional=True))
    assert found["weight_ih_l0"] == found["weight_ih_l0_reverse"] == pytest.approx(3**-0.5)
    assert found["weight_hh_l0"] == found["weight_hh_l1_reverse"] == pytest.approx(16**-0.5)
    assert found["weight_ih_l1"] == pytest.approx(32**-0.5)  # both directions below
    assert scales(nn.LSTM(3, 16, proj_size=4))["weight_hr_l0"] == pytest.approx(16**-0.5)


def test_attention_weights():
    found = scales(
        nn.MultiheadAttention(12, 3, add_bias_kv=True),
        {"*": SCALED, "*_proj*.bias": priors.Flat(), "in_proj_bias": priors.Flat()},
    )
    assert found["in_proj_weight"] == found["out_proj.weight"] == pytest.approx(12**-0.5)
    assert found["bias_k"] == found["bias_v"] == 1
    found = scales(nn.MultiheadAttention(12, 3, kdim=5, vdim=7, bias=False))
    assert (found["q_proj_weight"], found["k_proj_weight"], found["v_proj_weight"]) == pytest.approx(
        (12**-0.5, 5**-0.5, 7**-0.5)
    )


def test_the_table_and_unknown_scales_say_it():
    layer = nn.ConvTranspose2d(64, 1, 3)
    assert PriorSpec({"weight": SCALED}).table(layer).rows[0].scale == "0.04167"
    unknown = priors.Normal(priors.HalfCauchy(1.0), fan_in=True)
    model = br.BayesianModel(nn.Sequential(layer, nn.Flatten()), {"0.weight": unknown})
    assert str(model.prior_table().rows[0].scale) == "0.weight.scale / √576"
    assert model.latents["0.weight"].factor == pytest.approx(1 / 24)


def test_a_shared_tensor_takes_the_most_inputs_that_it_has():
    embedding, head = nn.Embedding(50, 16), nn.Linear(16, 50, bias=False)
    head.weight = embedding.weight
    assert scales(nn.Sequential(embedding, head)) == {"0.weight": pytest.approx(0.25)}


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_old_weight_norm_and_other_parametrisations():
    old = torch.nn.utils.weight_norm(nn.Linear(20, 30))
    assert scales(old, {"*": SCALED, "bias": priors.Flat()}) == {"weight_g": 1, "weight_v": pytest.approx(20**-0.5)}
    spectral = parametrizations.spectral_norm(nn.ConvTranspose1d(8, 3, 5))
    before = {name: value.clone() for name, value in spectral.state_dict().items()}
    assert scales(spectral) == {"parametrizations.weight.original": pytest.approx(40**-0.5)}
    assert all(torch.equal(value, before[name]) for name, value in spectral.state_dict().items())

    class Low(nn.Module):
        def forward(self, a, b):
            return a @ b

        def right_inverse(self, weight):
            return weight[:, :2].clone(), torch.ones(2, weight.shape[1])

    low = nn.Linear(20, 30)
    parametrize.register_parametrization(low, "weight", Low())
    found = scales(low)
    assert found["parametrizations.weight.original0"] == pytest.approx(2**-0.5)
    assert found["parametrizations.weight.original1"] == pytest.approx(20**-0.5)


class Stored(nn.Module):
    """A module that stores its weight as (inputs, outputs), which nobody can know."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(40, 5))

    def forward(self, x):
        return x @ self.weight


class Own(nn.Linear):
    pass


def test_what_is_assumed_of_a_module_of_ones_own_is_said():
    row = PriorSpec(SCALED).table(Stored()).rows[0]
    assert (row.scale, row.note) == ("0.4472", "fan-in: all axes but the first")
    told = PriorSpec(priors.Normal(1.0, fan_in=40)).table(Stored()).rows[0]
    assert (float(told.scale), told.note) == (pytest.approx(40**-0.5, rel=1e-3), "")
    assert PriorSpec({"weight": SCALED}).table(Own(3, 2)).rows[0].note == ""
    assert priors.parse("Normal(1.0, fan_in=40)") == priors.Normal(1.0, fan_in=40)


@pytest.mark.parametrize("given", [0, -3, "40", math.nan, None])
def test_a_number_of_inputs_is_positive(given):
    with pytest.raises(ValueError, match=r"fan_in must be True or False, but .* came; .* give the number of inputs that a"):
        priors.Normal(1.0, fan_in=given)


def test_vectors_have_none():
    assert fan_ins(nn.PReLU(3)) == {}
    with pytest.raises(ValueError, match=r"weight, .*: fan_in=True must meet a tensor of two or more axes"):
        PriorSpec({"weight": SCALED}).resolve(nn.PReLU(3))
    norm = nn.LayerNorm((4, 5))
    assert scales(norm, {"weight": SCALED, "bias": priors.Flat()}) == {"weight": 1}


def test_a_path_keeps_the_inputs():
    from bayesreg.selection import with_scale

    model = br.BayesianModel(nn.Sequential(nn.ConvTranspose2d(64, 1, 3), nn.Flatten()), {"0.weight": SCALED})
    assert with_scale(model, ["0.weight"], 2.0).latents["0.weight"].prior.scale == pytest.approx(2 / 24)
