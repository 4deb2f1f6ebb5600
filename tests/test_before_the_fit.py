"""What can be seen before any fit: prior draws and predictions, scales that the data adjust, rules from a file."""

import math

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console
from scipy import stats
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.model import PriorSpec, rules_file
from tests.conftest import network

SEEDS = (0, 1, 2)


class TestPriorPredictive:
    def test_of_a_linear_model_is_normal_in_closed_form(self):
        """Var[y] = xᵀx τ² + τ₀² + σ², and it is exactly normal: moments within Monte Carlo error, three seeds."""
        X = torch.tensor([[1.0, 2.0], [0.0, 0.0], [-3.0, 1.0]], dtype=torch.float64)
        model = br.BayesianModel(
            nn.Linear(2, 1).double(), {"weight": priors.Normal(2.0), "bias": priors.Normal(0.5)}, likelihoods.Gaussian(0.3)
        )
        epistemic = X.square().sum(1) * 4 + 0.25
        for seed in SEEDS:
            found = model.prior_predictive(X, num_samples=4000, seed=seed)
            assert (found.num_samples, found.num_rows) == (4000, 3)
            error = epistemic * math.sqrt(2 / 4000)
            assert bool(((found.epistemic_variance - epistemic).abs() < 4.5 * error).all())
            torch.testing.assert_close(found.aleatoric_variance, torch.full((3,), 0.09, dtype=torch.float64))
            assert bool((found.mean.abs() < 4.5 * (epistemic / 4000).sqrt()).all())
            assert stats.kstest(found.output[:, 0].numpy(), stats.norm(0, math.sqrt(float(epistemic[0]))).cdf).pvalue > 0.01 / 3

    def test_of_a_standardised_model_is_in_the_data_s_units(self, diabetes):
        X, y = diabetes
        model = br.BayesianModel(nn.Linear(10, 1).double(), priors.Normal(0.3), standardize=True)
        with pytest.raises(ValueError, match=r"must know its training statistics, but it has seen no data"):
            model.prior_predictive(X)
        found = model.bind(X, y).prior_predictive(X, num_samples=4000)
        z = (X - X.mean(0)) / X.std(0)
        expected = (np.square(z).sum(1) * 0.09 + 0.09) * y.var()
        np.testing.assert_allclose(found.epistemic_variance.numpy(), expected, rtol=0.25)
        assert float(found.epistemic_variance.mean()) == pytest.approx(expected.mean(), rel=0.05)
        assert float(found.mean.mean()) == pytest.approx(y.mean(), abs=5)
        # the noise scale is half-normal in standardised units
        assert float(found.aleatoric_variance.mean()) == pytest.approx(y.var(), rel=0.1)

    @pytest.mark.parametrize(("likelihood", "width"), [(likelihoods.Bernoulli(), 1), (likelihoods.Categorical(), 3)])
    def test_of_classes_is_probabilities(self, likelihood, width):
        model = br.BayesianModel(network(2, 4, width), likelihood=likelihood)
        found = model.prior_predictive(torch.randn(5, 2), num_samples=200)
        assert found.mean.shape == ((5,) if width == 1 else (5, 3))
        if width == 3:
            torch.testing.assert_close(found.mean.sum(1), torch.ones(5))

    def test_of_several_outputs(self):
        model = br.BayesianModel(network(2, 4, 3), standardize=True)
        X, Y = torch.randn(20, 2), 10 * torch.randn(20, 3)
        assert model.bind(X, Y).prior_predictive(X, num_samples=50).variance.shape == (20, 3)

    def test_through_unknown_scales(self):
        """w | s ~ N(0, s²), s ~ half-normal(1): E[w²] = 1; every draw has a scale of its own."""
        model = br.BayesianModel(nn.Linear(1, 1, bias=False), priors.Normal(priors.HalfNormal(1.0)), likelihoods.Gaussian(1.0))
        drawn = model.sample_prior(1500, seed=1)
        assert {name: tuple(v.shape) for name, v in drawn.items()} == {"weight.scale": (1500,), "weight": (1500, 1, 1)}
        assert float(drawn["weight"].square().mean()) == pytest.approx(1, abs=4.5 * math.sqrt(8 / 1500))
        assert model.prior_predictive([[2.0]], 50).num_samples == 50

    def test_seed_decides_and_the_global_state_stays(self):
        model = br.BayesianModel(network(2, 3, 1))
        X = torch.randn(4, 2)
        before = torch.get_rng_state()
        a, b, c = (model.prior_predictive(X, 20, seed=seed).output for seed in (0, 0, 1))
        assert torch.get_rng_state().equal(before)
        assert a.equal(b)
        assert not a.equal(c)

    @pytest.mark.parametrize(
        ("rules", "message"),
        [
            ({"weight": priors.Flat()}, r"a draw from the prior needs proper priors, but weight \(Flat\(\)\) came"),
            (priors.Normal(1.0), r"num_samples must be a whole number >= 1, but 0 came"),
        ],
    )
    def test_refusals(self, rules, message):
        model = br.BayesianModel(nn.Linear(2, 1), rules)
        with pytest.raises(ValueError, match=message):
            model.prior_predictive(torch.zeros(3, 2), num_samples=0 if "num_samples" in message else 10)

    def test_a_fixed_tensor_is_no_unknown(self):
        model = br.BayesianModel(
            nn.Linear(2, 1), {"weight": priors.Fixed(3.0), "bias": priors.Normal(1.0)}, likelihoods.Gaussian(1.0)
        )
        assert list(model.latents) == ["bias"]
        output = model.prior_predictive([[1.0, 1.0]], 4000).output
        assert float(output.mean()) == pytest.approx(6, abs=0.1)
        mode = br.fit(model, torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([4.0, 4.0]), method="map")
        assert float(mode.mean["bias"]) == pytest.approx(2 / 3, abs=1e-5)  # Σ(4 − 3)/(N + 1)
        row = model.prior_table().rows[0]
        assert (row.prior, row.penalty) == ("Fixed(value=3.0)", "∞ unless w = 3")
        with pytest.raises(ValueError, match=r"something to learn, but every parameter is fixed"):
            br.BayesianModel(nn.Linear(2, 1), priors.Fixed(1.0), likelihoods.Gaussian(1.0))


class TestAutoscale:
    def rules(self, scale=None):
        return {"weight": priors.Normal(scale, autoscale=True), "bias": priors.Flat()}

    def test_is_ridge_with_a_penalty_for_each_column(self, diabetes):
        X, y = diabetes
        model = br.BayesianModel(nn.Linear(10, 1).double(), self.rules(), likelihoods.Gaussian(54.0))
        scale = 2.5 * y.std() / X.std(0)
        centred = X - X.mean(0)
        expected = np.linalg.solve(centred.T @ centred / 54**2 + np.diag(scale**-2), centred.T @ (y - y.mean()) / 54**2)
        for method in ("map", "exact"):
            found = br.fit(model, X, y, method=method).mean["weight"][0].numpy()
            np.testing.assert_allclose(found, expected, rtol=1e-6)

    def test_is_what_standardising_by_hand_does(self, diabetes):
        X, y = diabetes
        model = br.BayesianModel(nn.Linear(10, 1).double(), self.rules(0.3), likelihoods.Gaussian(54.0))
        by_hand = br.BayesianModel(
            nn.Linear(10, 1).double(),
            {"weight": priors.Normal(0.3), "bias": priors.Flat()},
            likelihoods.Gaussian(54 / y.std()),
            True,
        )
        a, b = (br.fit(m, X, y, method="exact").predict(X, num_samples=2).mean for m in (model, by_hand))
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)
        same = br.BayesianModel(nn.Linear(10, 1).double(), self.rules(0.3), likelihoods.Gaussian(54 / y.std()), True)
        c = br.fit(same, X, y, method="exact").predict(X, num_samples=2).mean
        torch.testing.assert_close(c, b, rtol=1e-9, atol=1e-9)  # standardised, it is the plain scale

    def test_the_table_shows_specified_beside_adjusted(self, diabetes):
        X, y = diabetes
        model = br.BayesianModel(nn.Linear(10, 1).double(), self.rules())
        row = model.prior_table().rows[0]
        assert (row.prior, row.scale) == ("Normal(scale=2.5, autoscale=True)", "2.5 · sd(y)/sd(x)")
        row = model.bind(X, y).prior_table().rows[0]
        scales = 2.5 * y.std() / X.std(0)
        assert row.prior == "Normal(scale=2.5, autoscale=True)"
        assert row.scale == f"{scales.min():.4g} … {scales.max():.4g}"

    def test_goes_through_a_file(self, diabetes, tmp_path):
        X, y = diabetes
        post = br.fit(br.BayesianModel(nn.Linear(10, 1).double(), self.rules()), X, y, method="laplace")
        br.save(post, tmp_path / "post.pt")
        again = br.load(tmp_path / "post.pt")
        assert str(again.model.prior_table()) == str(post.model.prior_table())
        values = post.sample(1, units="model")
        values = {name: value[0] for name, value in values.items()}
        torch.testing.assert_close(again.model.log_joint(values, X, y), post.model.log_joint(values, X, y))

    @pytest.mark.parametrize(
        ("module", "rules", "message"),
        [
            (
                network(10, 3, 1),
                {"0.weight": priors.Normal(autoscale=True)},
                r"autoscale=True needs a linear model, one nn.Linear",
            ),
            (
                nn.Linear(10, 1),
                {"bias": priors.Normal(autoscale=True)},
                r"autoscale=True must meet a weight \(outputs, inputs\)",
            ),
        ],
    )
    def test_refusals(self, diabetes, module, rules, message):
        with pytest.raises(ValueError, match=message):
            br.BayesianModel(module, rules).bind(*diabetes)


RULES = {
    "*.weight": priors.Normal(1.0 / 3, fan_in=True, tag="all"),
    '0.we"ig\\ht?': priors.Normal(priors.HalfCauchy(priors.HalfCauchy(0.1)), per="element", centered=False),
    "@bias": priors.LogUniform(1e-3, 1e3),
    "@norm": priors.MultivariateNormal(((1.0, 0.5), (0.5, 2.0)), per="row"),
    "2.weight": priors.Positive(priors.GeneralizedNormal(0.5, 0.1)),
}
OUTPUTS = {"2": priors.Laplace(1.0), "ä": priors.Smooth(2, 0.1, level_scale=3.0)}


class TestRulesFile:
    def test_round_trip_is_exact(self, tmp_path):
        text = rules_file.dumps(RULES, OUTPUTS)
        back = rules_file.loads(text)
        assert back.priors.rules == RULES
        assert back.outputs == OUTPUTS
        assert list(back.priors.rules) == list(RULES)  # a later rule wins a tie: the order counts
        assert rules_file.dumps(back.priors, back.outputs) == text
        path = tmp_path / "priors.toml"
        path.write_text(text, encoding="utf-8")
        assert rules_file.read(path) == back or rules_file.read(path).priors.rules == RULES
        assert rules_file.dumps({}) == "[priors]\n"

    def test_a_prior_may_be_a_table(self):
        found = rules_file.loads(
            """
            [priors.weight]
            prior = "Normal"
            per = "column"
            scale = { prior = "HalfCauchy", scale = 2 }
            """
        )
        assert found.priors.rules == {"weight": priors.Normal(priors.HalfCauchy(2.0), per="column")}

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("[prior]\n", r"must have sections \[priors\] and \[outputs\] only, but 'prior' came; did you mean 'priors'"),
            (
                "[priors]\nweight = { prior = 'Normal', scal = 1.0 }",
                r"\[priors\]: Normal must have keys among .*'scal' came; did you",
            ),
            ("[priors]\nweight = { prior = 'Norml' }", r"a prior must be one of .*'Norml' came; did you mean 'Normal'"),
            ("[priors]\nweight = { scale = 1.0 }", r"with its class under 'prior'"),
            ("[outputs]\n'2' = 'Normal(-1)'", r"\[outputs\]: scale must be a finite number > 0, but -1"),
            ("[priors]\nweight = 3", r"a prior must be a text or a mapping"),
            ("priors = 3", r"\[priors\] must hold lines of the form"),
            ("[priors\n", r"a file of rules must be TOML, but it cannot be read"),
            (
                "[priors]\nweight = 'Flat'\nweight = 'Flat'",
                r"a file of rules must be TOML, but it cannot be read: Cannot overwrite",
            ),
        ],
    )
    def test_refusals(self, text, message):
        with pytest.raises(ValueError, match=message):
            rules_file.loads(text)

    def test_a_file_that_is_not_there_or_no_text(self, tmp_path):
        with pytest.raises(ValueError, match=r"there must be a file of rules, but '.*none.toml' does not exist"):
            rules_file.read(tmp_path / "none.toml")
        (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
        with pytest.raises(ValueError, match=r"must be a text file in UTF-8"):
            rules_file.read(tmp_path / "bytes.toml")
        (tmp_path / "wrong.toml").write_text("[prior]\n")
        with pytest.raises(ValueError, match=r"wrong.toml: a file of rules must have sections"):
            rules_file.read(tmp_path / "wrong.toml")

    def test_types_cannot_be_written(self):
        with pytest.raises(
            ValueError, match=r"a rule must be a name, glob or role to be written as text, but type Linear came"
        ):
            rules_file.dumps({nn.Linear: priors.Flat()})


class TestRules:
    def test_specifications_can_be_joined(self):
        both = PriorSpec({"*.weight": priors.Normal(0.5)}) & {"@bias": priors.Flat()}
        assert both.to_dict() == {"*.weight": "Normal(scale=0.5)", "@bias": "Flat()"}

    @pytest.mark.parametrize(
        "make",
        [
            lambda a, b: PriorSpec({"*.weight": a}) & PriorSpec({"*.weight": b}),
            lambda a, b: PriorSpec([("*.weight", a), ("*.weight", b)]),
            lambda a, b: br.BayesianModel(nn.Linear(2, 1), [("*.weight", a), ("*.weight", b)]),
        ],
    )
    def test_two_equal_rules_are_refused(self, make):
        message = (
            r"each rule must have a pattern of its own, but glob '\*.weight' came twice, with Normal\(scale=1.0\) and Laplace"
        )
        with pytest.raises(ValueError, match=message):
            make(priors.Normal(1.0), priors.Laplace(1.0))

    def test_what_is_no_rules_is_refused(self):
        for given in ("weight", [1, 2], 3.0):
            with pytest.raises(ValueError, match=r"priors must be a mapping from patterns to priors, but"):
                PriorSpec(given)


class TestTable:
    def model(self):
        module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1))
        return br.BayesianModel(module, {"0.weight": priors.Normal(priors.HalfCauchy(1.0), per="column")})

    def test_marks_what_a_person_should_know(self):
        notes = {row.tensor: row.note for row in self.model().prior_table().rows}
        assert notes["0.weight"].split("; ", 1)[0] == "hierarchical"
        assert notes["0.weight.scale"] == "unknown scale"
        assert notes["1.weight"] == notes["1.bias"] == "normalisation layer: flat by default"
        assert notes["3.weight"] == ""

    def test_is_a_rich_table_a_data_frame_and_html(self):
        table = self.model().prior_table()
        console = Console(width=200, record=True, file=None)
        with console.capture() as captured:
            console.print(table)
        for row in table.rows:
            assert row.tensor in captured.get()
        frame = table.to_frame()
        assert isinstance(frame, pd.DataFrame)
        assert list(frame.columns) == ["tensor", "shape", "prior", "scale", "penalty", "source", "note"]
        assert frame.shape == (len(table.rows), 7)
        assert "hierarchical" in table._repr_html_()

    def test_markup_in_a_name_is_text(self):
        table = br.model.PriorTable((br.model.PriorRow("[red]w", "2", "Flat()", "–", "0", "default"),))
        console = Console(width=100)
        with console.capture() as captured:
            console.print(table)
        assert "[red]w" in captured.get()


def test_a_model_never_changes():
    model = br.BayesianModel(nn.Linear(2, 1))
    kept = dict(vars(model))
    X, y = torch.randn(20, 2, generator=torch.Generator().manual_seed(0)), torch.arange(20.0)
    for name in ("num_data", "module", "standardization", "anything"):
        with pytest.raises(AttributeError, match=f"a model must not be changed, but {name} was set; take model.bind"):
            setattr(model, name, None)
        with pytest.raises(AttributeError, match="must not be changed"):
            delattr(model, name)
    bound = model.bind(X, y)
    others = [
        bound,
        model.to(dtype=torch.float64),
        bound.with_rows(7),
        bound.with_names(("a", "b"), None),
        br.fit(model, X, y, method="map").model,
    ]
    assert all(other is not model for other in others)
    assert bound.num_data == 20
    assert others[2].num_data == 7
    assert others[3].feature_names == ("a", "b")
    assert {k: v for k, v in vars(model).items() if k in kept} == kept
    assert model.num_data is None
