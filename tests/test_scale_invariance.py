"""Weights that a batch normalisation follows: their length changes no prediction, and a fit must know it."""

import numpy as np
import pytest
import torch
from torch import nn

import bayesreg as br
from bayesreg import layers, likelihoods, priors
from bayesreg.behaviour import SCALE_NOTE, SHIFT_NOTE, by_batch, scale_invariant
from bayesreg.certificates import certify
from bayesreg.inference import MAP
from bayesreg.objective import (
    HeldLogJoint,
    LogJoint,
    along_sphere,
    by_all_rows,
    diagonal,
    full_hessian,
    hessian_product,
    on_sphere,
    output_jacobian,
    sample,
    scale_free,
)


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


def small(prior=None, noise=0.5):
    """Two units, every weight with a prior, so that a mode exists but for the lengths in front of the normalisation."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.Tanh(), nn.Linear(2, 1))
    return br.BayesianModel(net, {"*": priors.Normal(1.0), **(prior or {})}, likelihoods.Gaussian(noise))


def on_all_rows(posterior, X, y):
    """The log-joint of the network that normalises by these rows, as a function of the weights by name."""
    made = posterior.model.to(dtype=torch.float64)
    made = made.with_module(by_batch(made.module))
    return lambda values: made.log_joint(values, X, y)


LONG = {"num_steps": 700, "learning_rate": 0.05}


@pytest.fixture(scope="module", params=["free", "unit-norm"])
def fitted(request):
    with torch.random.fork_rng():
        return request.param, br.fit(small(), *rows(), method=MAP(**LONG, scale_invariant=request.param))


class TestCertificate:
    def test_a_fit_of_all_rows_is_judged_by_what_it_followed(self, fitted):
        kind, mode = fitted
        found = mode.certificate
        assert found.converged, str(found)
        before, after = map(float, str(found.details["norm of 0.weight"]).split(" -> "))
        assert after == pytest.approx(float(mode.mean["0.weight"].norm()), rel=1e-2)
        if kind == "free":
            assert str(found).endswith(
                f"0.weight is scale-invariant (a BatchNorm follows): its norm went from {before:g} to {after:g}, which changes "
                "no prediction (but for ε); scale_invariant='unit-norm' fixes it."
            )
        else:
            assert "each output unit is held at norm 1" in str(found)
            assert before == after == pytest.approx(2**0.5, rel=1e-2)  # two rows, from the start on
        assert float(found.details["log joint"]) == pytest.approx(
            float(on_all_rows(mode, *rows())({n: v.double() for n, v in mode.mean.items()})), abs=1e-3
        )

    def test_the_gradient_across_the_rows_vanishes_and_the_one_along_them_is_the_prior_s(self, fitted):
        _, mode = fitted
        values = {name: value.double().requires_grad_() for name, value in mode.mean.items()}
        on_all_rows(mode, *rows())(values).backward()
        weight, slope = values["0.weight"].detach(), values["0.weight"].grad
        direction = weight / weight.norm(dim=1, keepdim=True)
        along = (slope * direction).sum(1, keepdim=True)
        torch.testing.assert_close(along, -weight.norm(dim=1, keepdim=True), rtol=0, atol=0.05)  # of N(0, 1), and of ε
        first = small().module[0].weight.detach().double()
        assert float((slope - along * direction).norm()) < 0.5
        start = {name: value.clone() for name, value in mode.mean.items()} | {"0.weight": first}
        start = {name: value.double().requires_grad_() for name, value in start.items()}
        on_all_rows(mode, *rows())(start).backward()
        assert float(start["0.weight"].grad.norm()) > 20 * float((slope - along * direction).norm())

    def test_an_early_point_is_not_passed(self):
        mode = br.fit(small(), *rows(), method=MAP(num_steps=30))
        assert not mode.certificate.converged
        assert "Not converged" in str(mode.certificate)
        assert "0.weight is scale-invariant" in str(mode.certificate)

    def test_a_point_off_the_mode_has_the_newton_gain_of_the_directions(self, fitted):
        """Longer rows gain nothing; turned ones do. So it is for the log-joint that is judged, and its derivatives."""
        _, mode = fitted
        bound, data = mode.model.to(dtype=torch.float64).ingest(*rows())
        log_joint, data = by_all_rows(LogJoint(bound), data, None)
        u = log_joint.layout.flatten({name: value.double() for name, value in mode.mean.items()})
        (one,) = scale_free(log_joint)
        longer, turned = u.clone(), u.clone()
        longer[one.segment.slice] *= 1.3
        turned[one.segment.slice] += 0.3 * u[one.segment.slice].norm() * torch.randn(6, dtype=torch.float64)
        judge = lambda v: certify(log_joint, v, u, data, False, lambda: v, held=[one])  # noqa: E731
        assert judge(longer).details["nats to gain"] < 0.02
        assert judge(longer).details["nats climbed"] == pytest.approx(0.0, abs=1e-9)  # from u, the same directions
        assert judge(turned).details["nats to gain"] > 0.1
        assert judge(turned).details["nats climbed"] < -0.1
        held = HeldLogJoint(log_joint, [one], turned)
        x, y = data.full("the test")
        value = lambda v: held.prepared(v, x, y, len(x))  # noqa: E731
        v = turned.clone().requires_grad_()
        (slope,) = torch.autograd.grad(value(v), v)
        rays = (one.units(slope) * one.units(turned)).sum(1)
        torch.testing.assert_close(rays, torch.zeros_like(rays), rtol=0, atol=1e-9)
        torch.testing.assert_close(value(turned), log_joint.prepared(turned, x, y, len(x)))
        torch.testing.assert_close(full_hessian(held, turned, data), -torch.func.hessian(value)(turned), rtol=1e-7, atol=1e-7)
        torch.testing.assert_close(
            hessian_product(held, turned, data, u), full_hessian(held, turned, data) @ u, rtol=1e-7, atol=1e-7
        )

    def test_rows_that_depend_on_each_other_stay_together(self):
        bound, data = small().ingest(*rows(50))
        apart, together = data, by_all_rows(LogJoint(bound), data, None)[1]
        assert [len(x) for x, _ in apart.epoch(20)] == [20, 20, 10]
        assert [len(x) for x, _ in together.epoch(20)] == [50]
        assert len(sample(apart, 7).x) == 7
        assert len(sample(together, 7).x) == 50
        assert by_all_rows(LogJoint(bound), data, 20)[1] is data

    def test_of_more_unknowns_than_the_matrix_takes(self, monkeypatch, fitted):
        _, mode = fitted
        monkeypatch.setattr("bayesreg.certificates.optimality.FULL_CURVATURE", 5)
        monkeypatch.setattr("bayesreg.objective.curvature_products._COUPLED", 5)
        bound, data = mode.model.to(dtype=torch.float64).ingest(*rows())
        log_joint, data = by_all_rows(LogJoint(bound), data, None)
        held, u = scale_free(log_joint), log_joint.layout.flatten({name: v.double() for name, v in mode.mean.items()})
        found = certify(log_joint, u, u - 1.0, data, False, lambda steps: u, held=held)
        assert found.converged, str(found)
        assert found.details["smallest eigenvalue"] == pytest.approx(mode.certificate.details["smallest eigenvalue"], rel=1e-3)
        assert found.details["nats to gain"] == pytest.approx(mode.certificate.details["nats to gain"], abs=1e-3)
        turned = u.clone()
        turned[held[0].segment.slice] = turned[held[0].segment.slice].flip(0)
        assert not certify(log_joint, turned, u - 1.0, data, False, lambda steps: u, held=held).converged

    def test_a_relu_network_s_further_search_counts_directions_only(self):
        """A strong prior lets a search gain by shorter rows alone; that is no gain."""
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.ReLU(), nn.Linear(2, 1))
        rules = {"*": priors.Normal(1.0), "0.weight": priors.Normal(0.1)}
        mode = br.fit(br.BayesianModel(net, rules, likelihoods.Gaussian(0.5)), *rows(), method=MAP(**LONG))
        bound, data = mode.model.ingest(*rows())
        log_joint, data = by_all_rows(LogJoint(bound), data, None)
        u = log_joint.layout.flatten(mode.mean)
        (one,) = scale_free(log_joint)
        longer = u.clone()
        longer[one.segment.slice] *= 20
        shorter = lambda steps: u  # noqa: E731
        free, held = (certify(log_joint, longer, u - 1.0, data, False, shorter, held=rows) for rows in ((), (one,)))
        assert not free.converged
        assert held.converged, str(held)

    def test_the_jacobian_of_rows_that_depend_on_each_other(self):
        bound, data = small().to(dtype=torch.float64).ingest(*rows(20))
        log_joint, data = by_all_rows(LogJoint(bound), data, None)
        u, x = log_joint.layout.flatten(bound.weights()), data.full("the test")[0]
        found, output = output_jacobian(log_joint, u, x)
        whole = torch.func.jacrev(lambda v: bound_forward(log_joint, v, x))(u)
        torch.testing.assert_close(found[:, 0], whole)
        torch.testing.assert_close(output[:, 0], bound_forward(log_joint, u, x))
        exact, _ = diagonal(log_joint, u, data)
        torch.testing.assert_close(exact, (whole.square() / 0.25).sum(0))

    def test_of_mini_batches_tells_the_norms_beside_the_trend(self):
        mode = br.fit(small(), *rows(), method=MAP(num_steps=30, batch_size=20))
        assert str(mode.certificate).startswith("Not certified: in training, batch normalisation")
        assert "0.weight is scale-invariant" in str(mode.certificate)
        assert " -> " in str(mode.certificate.details["norm of 0.weight"])

    def test_with_dropout_beside_it_tells_them_too(self):
        model = br.BayesianModel(layers.MLP(3, (4, 3), batchnorm=True, dropout=0.1))
        mode = br.fit(model, *rows(), method=MAP(num_steps=10))
        assert str(mode.certificate).startswith("Not certified: in training, batch normalisation")
        assert "0.weight and 1 more are scale-invariant" in str(mode.certificate)
        assert {"norm of 0.weight", "norm of 4.weight"} <= set(mode.certificate.details)

    def test_without_one_there_is_no_word_of_it(self):
        model = br.BayesianModel(nn.Linear(3, 1))
        assert "invariant" not in str(br.fit(model, *rows(), method=MAP("adam", num_steps=10)).certificate)


def bound_forward(log_joint, u, x):
    return log_joint.model.forward(log_joint.layout.unflatten(u), x)


class TestNorms:
    def test_a_strong_prior_shrinks_the_rows_and_unit_norm_holds_them(self):
        strong = {"0.weight": priors.Normal(0.01)}
        method = {"num_steps": 150, "learning_rate": 0.02}
        free, held = (br.fit(small(strong), *rows(), method=MAP(**method, scale_invariant=s)) for s in ("free", "unit-norm"))
        lengths = free.mean["0.weight"].norm(dim=1)
        assert float((lengths / small().module[0].weight.detach().norm(dim=1)).max()) < 0.3
        torch.testing.assert_close(held.mean["0.weight"].norm(dim=1), torch.ones(2), rtol=0, atol=1e-6)
        assert any("0.weight is held at norm 1" in note for note in held.history.notes)

    def test_the_norms_of_a_free_solution_change_no_prediction(self, fitted):
        _, mode = fitted
        X, _ = rows()
        made = mode.model.to(dtype=torch.float64)
        made = made.with_module(by_batch(made.module))
        values = {name: value.double() for name, value in mode.mean.items()}
        x = made.prepare(X)
        before = made.forward(values, x)
        weight = values["0.weight"]
        values["0.weight"] = weight / weight.norm(dim=1, keepdim=True)
        torch.testing.assert_close(made.forward(values, x), before, rtol=0, atol=5e-3)  # what ε = 1e-5 explains

    @pytest.mark.parametrize("options", [{}, {"batch_size": 20}, {"clip_norm": 0.5}], ids=["all", "batches", "clipped"])
    def test_the_prior_of_a_held_row_is_a_constant(self, options):
        """The path is that of a fit without it, whatever its scale."""
        fits = [
            br.fit(small({"0.weight": p}), *rows(), seed=1, method=MAP(num_steps=40, scale_invariant="unit-norm", **options))
            for p in (priors.Normal(0.05), priors.Flat())
        ]
        torch.testing.assert_close(dict(fits[0].mean), dict(fits[1].mean), rtol=0, atol=2e-5)
        torch.testing.assert_close(fits[0].mean["0.weight"].norm(dim=1), torch.ones(2), rtol=0, atol=1e-6)

    def test_a_large_network_whose_tensors_have_gradients_of_their_own(self, monkeypatch):
        method = MAP(num_steps=30, batch_size=20, scale_invariant="unit-norm")
        whole = br.fit(small({"0.weight": priors.Normal(0.1)}), *rows(), method=method)
        monkeypatch.setattr("bayesreg.solvers.compiled.SMALL", 0)
        apart = br.fit(small({"0.weight": priors.Normal(0.1)}), *rows(), method=method)
        torch.testing.assert_close(dict(apart.mean), dict(whole.mean), rtol=0, atol=1e-5)

    @pytest.mark.parametrize("kind", NETS)
    def test_every_kind_of_layer_is_held(self, kind):
        layer, norm, shape = NETS[kind]
        net = nn.Sequential(layer, norm, nn.Flatten(), nn.LazyLinear(1))
        X = torch.randn(12, *shape)
        net(X)
        mode = br.fit(br.BayesianModel(net), X, X.flatten(1)[:, 0], method=MAP(num_steps=3, scale_invariant="unit-norm"))
        (one,) = scale_invariant(net, torch.Size(shape))
        lengths = one.units(mode.mean["0.weight"]).norm(dim=1)
        torch.testing.assert_close(lengths, torch.ones(norm.num_features), rtol=0, atol=1e-6)

    def test_a_checkpoint_belongs_to_one_choice(self, tmp_path):
        options = [MAP(scale_invariant=s).options.deciding() for s in ("free", "unit-norm")]
        assert options[0] != options[1]
        assert "scale_invariant" in options[0]

    def test_the_gradient_that_adam_sees_lies_across_the_rows(self):
        """Its first moment is a mean of such gradients at nearby points; along a row there is hardly anything."""
        bound, data = small({"0.weight": priors.Normal(0.01)}).ingest(*rows())
        log_joint = LogJoint(bound)
        (one,) = scale_free(log_joint)
        u = on_sphere(log_joint.layout.flatten(bound.start(*next(data.epoch()))), [one])
        gradient = torch.randn(2, 3)
        along_sphere(u, gradient, one)
        torch.testing.assert_close((gradient * one.units(u)).sum(1), torch.zeros(2), rtol=0, atol=1e-6)
        again = gradient.clone()
        along_sphere(u, again, one)
        torch.testing.assert_close(again, gradient)


class TestRefusals:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"scale_invariant": "one"}, r"scale_invariant must be one of .*'one' came"),
            (
                {"scale_invariant": "unit-norm", "optimizer": "lbfgs"},
                r"'lbfgs' finds its own steps, but scale_invariant='unit-norm'",
            ),
            (
                {"scale_invariant": "unit-norm", "optimizer": "fista"},
                r"'fista' finds its own steps, but scale_invariant='unit-norm'",
            ),
            ({"scale_invariant": "unit-norm", "num_restarts": 3}, r"num_restarts=3 runs fits side by side, which hold no norm"),
        ],
        ids=["unknown", "lbfgs", "fista", "restarts"],
    )
    def test_settings(self, options, message):
        with pytest.raises(ValueError, match=message):
            MAP(**options)

    @pytest.mark.parametrize(
        ("model", "message"),
        [
            (br.BayesianModel(nn.Linear(3, 1)), "no tensor of this model is followed by a BatchNorm; leave it out"),
            (small({"0.weight": priors.Laplace(1.0)}), r"0.weight has Laplace\(scale=1.0\), whose kink .* take Normal there"),
            (small({"0.weight": priors.HalfNormal(1.0)}), r"rows that can be turned freely, but 0.weight has HalfNormal"),
        ],
        ids=["none", "kink", "positive"],
    )
    def test_models(self, model, message):
        with pytest.raises(ValueError, match=message):
            br.fit(model, *rows(), method=MAP(scale_invariant="unit-norm"))

    def test_a_kink_is_taken_where_no_prox_meets_it(self):
        method = MAP("adam", num_steps=5, scale_invariant="unit-norm")
        mode = br.fit(small({"0.weight": priors.Laplace(1.0)}), *rows(), method=method)
        torch.testing.assert_close(mode.mean["0.weight"].norm(dim=1), torch.ones(2), rtol=0, atol=1e-6)
