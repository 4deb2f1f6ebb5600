"""The model for a table of which nothing is said, and the method for those who do not want to choose."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

import bayesreg as br
from bayesreg import inference, likelihoods, priors
from bayesreg.inference import divided, line_of, log_scores, with_scale_by_folds
from bayesreg.model import default_model, hidden_units, network_note


def rows(count=60, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(count, 3))
    return X, X[:, 0] + 0.3 * rng.normal(size=count)


class TestModel:
    def test_a_line_and_one_hidden_layer(self):
        X, y = rows()
        model = default_model(X, y)
        assert {name: tuple(p.shape) for name, p in model.module.named_parameters()} == {
            **{"0.weight": (8, 3), "0.bias": (8,), "2.weight": (1, 8), "2.bias": (1,), "skip.weight": (1, 3)}
        }
        assert model.standardize is True
        assert "8 tanh units" in network_note(model, len(y))

    @pytest.mark.parametrize(
        ("y", "likelihood", "kind", "outputs"),
        [
            (np.arange(60.0), None, "Gaussian", 1),
            (np.arange(60) % 2, None, "Bernoulli", 1),
            (np.arange(60) % 3, likelihoods.Categorical(), "Categorical", 3),
            (np.arange(120.0).reshape(60, 2), None, "Gaussian", 2),
            (np.arange(60.0), likelihoods.HeteroscedasticGaussian(), "HeteroscedasticGaussian", 2),
        ],
    )
    def test_the_target_decides_outputs(self, y, likelihood, kind, outputs):
        model = default_model(rows()[0], y, likelihood)
        assert type(model.likelihood).__name__ == kind
        assert model.module[-1].out_features == outputs
        model.ingest(rows()[0], y)

    def test_where_the_output_is_a_logarithm_it_is_about_the_targets(self):
        X, y = rows()
        model = default_model(X, 1000 * np.exp(0.2 * y), likelihoods.LogNormal())
        bound, data = model.ingest(X, 1000 * np.exp(0.2 * y))
        specified = {r.name: r.specified for r in bound.resolved}
        spread = 0.2 * y.std()
        assert specified["2.bias"].loc == 0  # about the level, which the likelihood adds once
        assert specified["skip.weight"].scale == pytest.approx(spread, rel=5e-3)  # three digits, for people to read
        assert model.likelihood.noise_scale.rate == pytest.approx(0.05 * spread, rel=5e-3)  # in units of the output's sd
        out = bound.forward(bound.weights(), data.x)
        level = bound.likelihood.mean(out, noise_scale=torch.tensor(0.1)).log().mean()
        assert abs(float(level) - np.log(1000) - 0.2 * y.mean()) < 3 * spread

    @pytest.mark.parametrize("noise", [likelihoods.Gaussian(), likelihoods.StudentT(), likelihoods.LogNormal()], ids=str)
    def test_no_noise_scale_runs_to_zero(self, noise):
        """Where residuals vanish the density is σ^−(N+2) exp(−rate/σ), and its mode rate/(N + 2), whatever the likelihood."""
        X, y = rows(12)
        model = default_model(X, np.exp(y) if noise.log_link else y, noise, hidden=(20,))
        mode = br.fit(model, X, np.exp(y) if noise.log_link else y, method=inference.MAP(num_steps=2000, compile=False))
        unit = y.std() if noise.location_scale else 1.0
        assert float(mode.mean["noise_scale"]) > 0.9 * unit * model.likelihood.noise_scale.rate / 14

    def test_what_is_said_is_kept(self):
        X, y = rows()
        model = default_model(X, y, likelihoods.Gaussian(0.3), hidden=(4, 2), priors=priors.Normal(2.0))
        assert model.likelihood.fixed == {"noise_scale": 0.3}
        assert [m.out_features for m in model.module if isinstance(m, nn.Linear)] == [4, 2, 1, 1]
        assert {str(r.specified) for r in model.resolved} == {"Normal(scale=2.0)"}
        assert default_model(X, y, hidden=()).module.line is None

    def test_first_weights_follow_the_seed_and_nothing_else(self):
        X, y = rows()
        before = torch.get_rng_state()
        one, two, three = (default_model(X, y, seed=seed).module.state_dict()["0.weight"] for seed in (0, 0, 1))
        assert one.equal(two)
        assert not one.equal(three)
        assert torch.get_rng_state().equal(before)

    def test_sizes(self):
        assert [hidden_units(n, 5, 1) for n in (1, 25, 400, 10**6)] == [5, 5, 20, 50]
        assert hidden_units(10**6, 700, 10) == 5

    def test_a_network_through_every_row_has_a_mode_with_noise(self):
        """Under HalfNormal the density grows without end as the noise vanishes; under this prior it falls."""
        X, y = rows(12)
        model = default_model(X, y)
        noise = torch.logspace(-1, -6, 6, dtype=torch.float64)

        def densities(prior):
            return torch.stack([prior.log_prob(s) - len(y) * s.log() for s in noise])  # residuals of zero

        assert densities(model.likelihood.latents["noise_scale"]).diff()[2:].max() < 0
        assert densities(priors.HalfNormal(1.0)).diff().min() > 0

    def test_what_is_no_table(self):
        with pytest.raises(ValueError, match=r"a default model needs a table \(N, D\), but \(4, 2, 2\) came"):
            default_model(np.zeros((4, 2, 2)), np.arange(4.0))


def classes(count=80, seed=0):
    """Logits of which only a line decides."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(count, 3))
    return X, (X @ [1.5, -1.0, 0.0] + rng.logistic(size=count) > 0).astype(int)


class TestLinearPart:
    def test_it_is_the_network_without_what_is_hidden(self):
        X, y = rows()
        bound, data = default_model(X, 1000 * np.exp(y), likelihoods.LogNormal()).ingest(X, 1000 * np.exp(y))
        line = line_of(bound)
        assert list(line.latents) == ["2.bias", "skip.weight", "noise_scale"]
        values = {name: torch.full_like(v, 0.7) for name, v in line.weights().items()}
        hidden = {name: torch.zeros_like(v) for name, v in bound.weights().items()} | values
        assert line.forward(values, data.x).equal(bound.forward(hidden, data.x))
        assert (line.standardization, line.num_data) == (bound.standardization, bound.num_data)
        assert line.likelihood is bound.likelihood
        assert line_of(default_model(X, y, hidden=())) is None

    def test_its_mode_of_classes_is_logistic_regression_by_cross_validation(self):
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import cross_val_score

        X, y = classes()
        X = (X - X.mean(0)) / X.std(0)
        model = default_model(X, y)
        given = {r.name: priors.Flat() if r.name == "2.bias" else r.specified for r in model.resolved}
        bound, data = default_model(X, y, priors=given).ingest(X, y)
        line, said = with_scale_by_folds(line_of(bound), data, 0)
        mode = inference.MAP().run(line, data, seed=0, report=lambda *told: None)
        C = next(r.prior.scale for r in line.resolved if r.name == "skip.weight") ** 2
        other = LogisticRegression(C=C, tol=1e-8).fit(X, y)
        assert mode.mean["skip.weight"].numpy() == pytest.approx(other.coef_, abs=1e-4)

        def score(C):
            return cross_val_score(LogisticRegression(C=C), X, y, cv=5, scoring="neg_log_loss").mean()

        assert score(C) >= max(score(C * factor) for factor in (0.05, 20))
        assert said.startswith("scale of skip.weight by five-fold cross-validation of the linear part alone: 1 → ")

    def test_scores_are_the_predictive_s(self):
        X, y = classes()
        bound, data = default_model(X, y).ingest(X, y)
        mode = inference.MAP().run(line_of(bound), data, seed=0, report=lambda *told: None)
        part, rest, held = divided(bound, data, 0.25, seed=3)
        assert (rest.num_data, held.num_data, part.num_data) == (60, 20, 60)
        assert log_scores(mode, data).numpy() == pytest.approx(mode.predict(X).log_prob(y).numpy(), abs=1e-5)

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore::bayesreg.ConvergenceWarning")
    @pytest.mark.parametrize(("bent", "method"), [(False, "map"), (True, "mile")])
    def test_auto_takes_what_predicts_rows_left_out(self, bent, method):
        X, y = classes(200)
        y = (X[:, 0] * X[:, 1] > 0).astype(int) if bent else y
        found = br.fit(default_model(X, y), X, y, method="auto", progress=False)
        assert found.method == method
        assert found.history.notes[0].startswith("chosen by 'auto': ")
        assert "compared on 40 training rows that both were fitted without" in found.history.notes[1]


def taken(model, X, y, seconds=60.0):
    bound, data = model.ingest(X, y)
    return [type(c.method).__name__ for c in inference.Auto(seconds).candidates(bound, data)]


class TestAuto:
    def test_the_order_of_what_may_be_taken(self):
        X, y = rows()
        rest = ["LaplaceApproximation", "LaplaceApproximation", "MeanField", "MAP"]
        line, network = default_model(X, y, hidden=()), default_model(X, y)
        assert taken(line, X, y) == ["Exact", "LaplaceApproximation", "HMC", *rest]
        assert taken(network, X, y) == ["Exact", "MicrocanonicalEnsemble", *rest]
        assert taken(network, X, y, seconds=1.0) == ["Exact", *rest]
        assert taken(network, X, y, seconds=0.01) == ["Exact", "MeanField", "MAP"]
        loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(y)), 10)
        assert taken(network, loader, None) == ["Exact", "MeanField", "MAP"]

    def test_a_batch_normalisation_has_no_chains(self):
        X, y = rows()
        net = br.layers.MLP(3, (4,), batchnorm=True)
        assert "MicrocanonicalEnsemble" not in taken(br.BayesianModel(net), X, y)

    def test_the_warm_up_follows_rows_and_weights(self):
        small, large = (
            next(c for c in inference.Auto(30.0).candidates(*default_model(*d).ingest(*d)) if c.method.name == "mile")
            for d in (rows(40), rows(4000))
        )
        assert small.method.options.num_warmup > large.method.options.num_warmup
        assert small.cost < large.cost <= 30.0

    def test_what_is_exact_is_exact(self):
        X, y = rows()
        model = br.BayesianModel(nn.Linear(3, 1).double(), priors.Normal(1.0), likelihoods.Gaussian(0.3))
        found, exact = (br.fit(model, X, y, method=name) for name in ("auto", "exact"))
        assert found.method == "exact"
        assert torch.equal(found.mean["weight"], exact.mean["weight"])
        assert found.history.notes[0] == "chosen by 'auto': exact, since the posterior has a closed form."
        away = br.BayesianModel(nn.Linear(3, 1).double(), priors.Normal(1.0), likelihoods.Gaussian(0.3), standardize=True)
        notes = br.fit(away, X + 100, y, method="auto").history.notes
        assert notes[0].startswith("chosen by 'auto'")  # before what is said of units

    def test_what_is_refused_is_told_and_the_next_is_taken(self):
        X, y = rows()
        model = br.BayesianModel(nn.Linear(3, 1).double(), priors.Laplace(1.0), likelihoods.Gaussian(0.3))
        found = br.fit(model, X, y, method=inference.Auto(1.0), progress=False)
        assert found.method == "laplace"
        assert "laplace was not taken: tune='evidence' must have an evidence" in found.history.notes[1]

    def test_chains_take_the_scale_of_the_linear_part_from_its_evidence(self):
        """That of the linear model alone, which is ridge regression's."""
        X, y = rows(200)
        bound, data = default_model(X, y).ingest(X, y)
        found, said = inference.Auto().at_scales(bound, data, 0)
        line = br.BayesianModel(nn.Linear(3, 1), priors.Normal(1.0), likelihoods.Gaussian(0.5), standardize=True)
        tuned = br.fit(line, X, y, method=inference.LaplaceApproximation(tune="evidence"), progress=False)
        scale = next(r.specified.scale for r in found.resolved if r.name == "skip.weight")
        assert scale / 3**0.5 == pytest.approx(tuned.history.scales["weight"][-1], rel=0.05)
        assert said == f"scale of skip.weight tuned by the evidence of the linear part alone: 1 → {scale:.3g}."
        plain = br.BayesianModel(nn.Sequential(nn.Linear(3, 1)))
        bound, data = plain.ingest(X, y)
        assert inference.Auto().at_scales(bound, data, 0) == (bound, "")

    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore::bayesreg.ConvergenceWarning")
    def test_a_table_by_the_defaults(self):
        X, y = rows()
        found = br.fit(default_model(X, y), X, y, method=inference.Auto(8.0), progress=False)
        assert found.method == "mile"
        new, target = rows(200, seed=1)
        line = br.baselines.fit_baselines(X, y, names=["linear"])["ridge"]
        gap = found.predict(new).log_prob(target) - line.predict(new).log_prob(target)
        assert float(gap.mean()) > -2 * float(gap.std()) / 200**0.5

    def test_seconds(self):
        with pytest.raises(ValueError, match=r"seconds must be .*> 0, but 0 came"):
            inference.Auto(0)


class TestCommandLine:
    @pytest.mark.parametrize(
        ("count", "likelihood", "kept"),
        [
            (60, likelihoods.Gaussian(), ["auto"]),  # 44 weights
            (2000, likelihoods.Gaussian(), ["map", "auto"]),  # 226
            (60, likelihoods.Gaussian(0.3), ["map", "auto"]),
            (60, likelihoods.LogNormal(), ["auto"]),
            (60, likelihoods.Poisson(), ["map", "auto"]),
        ],
        ids=str,
    )
    def test_no_mode_whose_noise_would_run_to_zero_stands_beside(self, count, likelihood, kept):
        from types import SimpleNamespace

        from bayesreg.cli import job

        @dataclasses.dataclass
        class Case:
            split: SimpleNamespace
            said: tuple[str, ...] = ()

        X, y = rows(count)
        y = np.exp(y) if likelihood.log_link and not likelihood.discrete else abs(y).round() if likelihood.discrete else y
        model = default_model(X, y, likelihood)
        found, case = job.by_default(job.methods(["map", "auto"]), Case(SimpleNamespace(y_train=y)), model)
        assert list(found) == kept
        assert [line.partition(":")[0] for line in case.said] == ["the mode is left out"] * (len(kept) == 1)
