"""Rules: which one wins, what the table says, and what is refused."""

import pytest
import torch
from torch import nn

import bayesreg as br
from bayesreg import priors
from bayesreg.model import PriorSpec
from tests.conftest import network


@pytest.fixture
def net():
    return nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2), nn.LayerNorm(2))


def chosen(module, rules):
    return {r.name: (r.specified, r.source) for r in PriorSpec(rules).resolve(module)}


def test_defaults(net):
    found = chosen(net, None)
    for name in ("0.weight", "4.weight"):
        assert found[name] == (priors.Normal(1.0, fan_in=True), "default")
    for name in ("0.bias", "4.bias"):
        assert found[name] == (priors.Normal(1.0), "default")
    for name in ("1.weight", "1.bias", "5.weight", "5.bias"):
        assert found[name] == (priors.Flat(), "default")


def test_the_most_specific_rule_wins_in_any_order(net):
    by_rank = [
        ("@weight", priors.Normal(1.0)),
        (nn.Linear, priors.Normal(2.0)),
        ("*.weight", priors.Normal(3.0)),
        ("[4].weight", priors.Normal(4.0)),
        (lambda name, p: priors.Normal(5.0) if name == "4.weight" else None, None),
        ("4.weight", priors.Normal(6.0)),
    ]
    for order in (by_rank, by_rank[::-1]):
        for top in range(1, len(by_rank) + 1):
            allowed = by_rank[:top]
            rules = dict(pair for pair in order if any(pair is a for a in allowed))
            assert chosen(net, rules)["4.weight"][0] == priors.Normal(float(top))


def test_a_later_rule_wins_a_tie(net):
    assert chosen(net, {"*.weight": priors.Normal(1.0), "4.*eight": priors.Normal(2.0)})["4.weight"][0] == priors.Normal(2.0)
    assert chosen(net, {"4.*eight": priors.Normal(2.0), "*.weight": priors.Normal(1.0)})["4.weight"][0] == priors.Normal(1.0)


def test_a_leading_star_dot_also_matches_no_prefix():
    assert chosen(nn.Linear(2, 1), {"*.weight": priors.Laplace(0.1)})["weight"][0] == priors.Laplace(0.1)


def test_a_bare_star_gives_way_to_everything(net):
    found = chosen(net, {"*": priors.Normal(1.0), "@bias": priors.Flat(), nn.Linear: priors.Laplace(1.0)})
    assert found["0.bias"][0] == priors.Flat()
    assert found["4.weight"][0] == priors.Laplace(1.0)
    assert found["0.weight"] == (priors.Normal(1.0), "glob '*'")


def test_roles(net):
    found = chosen(net, {"@norm": priors.Normal(9.0), "@bias": priors.Normal(8.0)})
    assert found["1.weight"][0] == found["5.bias"][0] == priors.Normal(9.0)
    assert found["0.bias"] == (priors.Normal(8.0), "role '@bias'")


def test_a_single_prior_is_for_every_tensor(net):
    assert {prior for prior, _ in chosen(net, priors.Laplace(0.3)).values()} == {priors.Laplace(0.3)}


def test_more_derived_types_win():
    class Special(nn.Linear):
        pass

    net = nn.Sequential(nn.Linear(2, 2), Special(2, 1))
    found = chosen(net, {Special: priors.Normal(2.0), nn.Linear: priors.Normal(1.0)})
    assert [found[n][0].scale for n in ("0.weight", "1.weight")] == [1.0, 2.0]


def test_tied_and_frozen_parameters():
    net = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 1))
    net[1].weight = net[0].weight
    net[2].requires_grad_(False)
    assert list(chosen(net, None)) == ["0.weight", "0.bias", "1.bias"]


def test_table_says_what_a_person_reads():
    model = br.BayesianModel(network(16, 4, 1), {"0.weight": priors.Laplace(2.0, fan_in=True)})
    rows = model.prior_table().to_dicts()
    assert rows[0] == {
        "tensor": "0.weight",
        "shape": "4 × 16",
        "prior": "Laplace(scale=2.0, fan_in=True)",
        "scale": "0.5",
        "penalty": "Σ |w| / 0.5",
        "source": "name '0.weight'",
        "note": "",
    }
    assert rows[2]["source"] == "default"
    assert rows[-1]["tensor"] == "noise_scale"
    assert rows[-1]["source"] == "likelihood"
    assert list(model.prior_table().to_frame().columns) == list(rows[0])[:-1]  # no note, no column for notes
    assert "0.weight" in model.prior_table()._repr_html_()
    fixed = br.BayesianModel(network(2, 1), likelihood=br.likelihoods.Gaussian(0.5)).prior_table().rows[-1]
    assert (fixed.prior, fixed.scale) == ("known", "0.5")


def test_rules_go_through_text():
    rules = {"*.weight": priors.Laplace(0.1), "@bias": priors.Flat()}
    spec = PriorSpec(rules)
    assert PriorSpec.from_dict(spec.to_dict()).rules == spec.rules
    with pytest.raises(ValueError, match=r"a rule must be a name, glob or role to be written as text, but type Linear came"):
        PriorSpec({nn.Linear: priors.Flat()}).to_dict()


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        (
            {"0.wieght": priors.Flat()},
            r"name '0.wieght' matches none; did you mean '0.weight'.*; the names are 0.weight, 0.bias, 1.w",
        ),
        ({"*.weigth": priors.Flat()}, r"glob '\*.weigth' matches none; did you mean"),
        ({"@weights": priors.Flat()}, r"a role must be one of '@weight', '@bias', '@norm', but '@weights' came; did you mean"),
        (
            {nn.LSTM: priors.Flat()},
            r"type LSTM matches none; the types that hold tensors here are BatchNorm1d, Conv1d",
        ),
        ({lambda name, p: None: None}, r"callable <lambda> matches none; let it return a prior for one name at least"),
        ({lambda name, p: 1.0: None}, r"a callable rule must return a prior or None, but 1.0 came for 0.weight"),
        ({"0.weight": 0.1}, r"the rule for name '0.weight' must give a prior, but 0.1 came"),
        ({3: priors.Flat()}, r"a pattern must be a name, a glob, a role, a module type or a callable, but 3 came"),
        ([priors.Flat()], r"priors must be a mapping from patterns to priors, but list came"),
        (
            {"*.bias": priors.Normal(1.0, fan_in=True)},
            r"0.bias, glob '\*.bias': fan_in=True must meet a tensor of two or more axes",
        ),
    ],
)
def test_refusals(net, rules, message):
    with pytest.raises(ValueError, match=message):
        br.BayesianModel(net, rules)


def test_modules_that_cannot_be_learned_are_refused():
    net = nn.Linear(2, 1)
    net.steps = nn.Parameter(torch.tensor([1, 2]), requires_grad=False)
    with pytest.raises(ValueError, match=r"every parameter must be floating-point, but steps is torch.int64"):
        br.BayesianModel(net)
    with pytest.raises(ValueError, match=r"something to learn, but every parameter is fixed"):
        br.BayesianModel(nn.Linear(2, 1).requires_grad_(False), likelihood=br.likelihoods.Gaussian(1.0))
    with pytest.raises(ValueError, match=r"the module has no parameter; give it a layer with weights"):
        br.BayesianModel(nn.Identity())
    with pytest.raises(ValueError, match=r"every parameter must be float32 or float64, but weight is torch.float16"):
        br.BayesianModel(nn.Linear(2, 1).half())
    with pytest.raises(ValueError, match=r"every parameter must have its shape, but weight is lazy"):
        br.BayesianModel(nn.LazyLinear(1))
    with pytest.raises(ValueError, match=r"module must be a torch.nn.Module, but function came"):
        br.BayesianModel(lambda x: x)
    with pytest.raises(ValueError, match=r"likelihood must be one of bayesreg.likelihoods, but 'gaussian' came"):
        br.BayesianModel(nn.Linear(2, 1), likelihood="gaussian")
