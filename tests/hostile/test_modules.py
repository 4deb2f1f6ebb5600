"""A module that bayesreg has never seen: a posterior, or one sentence."""

import copy
import re
import warnings
from pathlib import Path

import pyro
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

import bayesreg as br
from bayesreg import inference, likelihoods, priors
from bayesreg.behaviour import base, by_batch, kinds
from bayesreg.certificates import mode as certificate
from bayesreg.inference import methods
from bayesreg.layers import copied
from bayesreg.objective import LogJoint, Replicas, curvature, gradient_of
from bayesreg.objective import curvature_products as products
from bayesreg.posteriors import MeanFieldGuide, outputs
from tests.hostile import zoo

DOCS = Path(__file__).parents[2] / "docs" / "modules.md"
LARGE = {"GRU, two layers", "LSTM, both directions", "torch.compile"}  # the slow table has them
WAYS = {  # what a network lacks, and to how many digits the numbers must be the same then
    "no vmap": (("vmap",), 1e-9),
    "no forward mode": (("forward-mode",), 1e-9),
    "loops": (("vmap", "forward-mode"), 1e-9),
    "forward mode alone": (("vmap", "double backward"), 1e-9),
    "nothing": (("vmap", "forward-mode", "double backward"), 1e-6),
}


def rows(count: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return x, x[:, 0].sin() + 0.3 * torch.randn(count, generator=generator, dtype=torch.float64)


def model_of(net: nn.Module, **options: object) -> br.BayesianModel:
    return br.BayesianModel(net, priors.Normal(1.0), likelihoods.Gaussian(0.3), **options)


def lacking(model: br.BayesianModel, *features: str) -> br.BayesianModel:
    """The same model, whose network is taken to lack some transforms."""
    behaviour = copy.copy(model.behaviour)
    behaviour._reasons = {f: "off" if f in features else None for f in base.FEATURES}
    return changed(model, behaviour=behaviour)


def changed(model: br.BayesianModel, **fields: object) -> br.BayesianModel:
    """A model that shares all but these attributes, which no call of the package would make."""
    model = copy.copy(model)
    vars(model).update(fields)
    return model


def quick(method: str) -> inference.AbstractMethod:
    """A few steps of a method: enough to go through each of its passes."""
    few = inference.MAP("adam", num_steps=3)
    return {
        "map": few,
        "mean-field": inference.MeanField(num_steps=3),
        "svi": inference.SVI(num_steps=3),
        "low-rank": inference.LowRank(2, num_steps=3),
        "full-rank": inference.FullRank(num_steps=3),
        "laplace": inference.LaplaceApproximation(mode=few),
        "exact": inference.Exact(),
        "gibbs": inference.Gibbs(4, 1, 2),
        "mc-dropout": inference.MCDropout(num_steps=3),
        "mc-batchnorm": inference.MCBatchNorm(mode=few, num_draws=4),
        "ensemble": inference.Ensemble(2, num_steps=3),
        "swag": inference.SWAG(2, 20, 1, 3, start=few, num_draws=4),
        "sghmc": inference.SGHMC(2, 4, 4, 1, compile=False),
        "hmc": inference.HMC(2, 4, 4, max_leapfrogs=2, compile=False),
        "nuts": inference.NUTS(1, 3, 4, max_tree_depth=1, compile=False),
        "mclmc": inference.MCLMC(2, 4, 4, 1, compile=False),
        "mile": inference.MicrocanonicalEnsemble(2, 4, 4, 1, num_steps=3, compile=False),
    }[method]


def fitted(net: nn.Module, method: inference.AbstractMethod, x: torch.Tensor, y: torch.Tensor) -> br.AbstractPosterior:
    """A posterior that predicts few rows and many, with finite numbers."""
    post = br.fit(model_of(net), x, y, method=method, progress=False)
    for count in (1, 25):  # 25 times as many are beyond what is vmapped
        predicted = post.predict(x.repeat(count, 1), num_samples=4)
        assert bool(torch.isfinite(predicted.mean).all() & torch.isfinite(predicted.std).all())
    assert str(post.certificate)
    return post


@pytest.mark.parametrize("name", sorted(zoo.ZOO.keys() - LARGE))
def test_each_module_has_a_mode(name):
    post = fitted(zoo.made(name), quick("map"), *rows(8))
    assert "could not be found" not in str(post.certificate)


@pytest.mark.parametrize(
    ("method", "name"),
    [
        pytest.param(method, name, marks=[] if name == "RNN" or method == "mean-field" else pytest.mark.slow)
        for method in ("mean-field", "laplace", "low-rank", "full-rank", "svi")
        for name in ("PReLU", "RNN", "MultiheadAttention", "weight_norm, the old hook", "checkpointed, reentrant")
    ],
)
def test_each_module_has_a_posterior(name, method):
    fitted(zoo.made(name), quick(method), *rows(8))


@pytest.mark.slow
def test_table_of_modules_and_methods():
    names = [name for name in methods() if name != "auto"]
    notes: dict[str, str] = {}
    lines = []
    for name in zoo.ZOO:
        cells = []
        for method in names:
            try:
                fitted(zoo.made(name), quick(method), *rows(10))
                cells.append("✓")
            except ValueError as error:
                said = str(error).split(", but")[0]
                cells.append(notes.setdefault(said, chr(ord("a") + len(notes))))
        stands = model_of(zoo.made(name)).bind(*rows(10)).behaviour
        lacks = ", ".join(f for f in base.FEATURES if stands.why_not(f)) or "–"
        lines.append(
            f"| {name} | {' | '.join(cells)} | {'its backward pass runs inside; ' if stands.recomputes else ''}{lacks} |"
        )
    head = [f"| module | {' | '.join(names)} | lacks |", "|" + "---|" * (len(names) + 2)]
    text = "\n".join(
        [
            "# Modules and methods",
            "",
            "Many kinds of networks, each fitted by each method: ✓ is a posterior that predicts; a letter is a refusal,",
            "one sentence that begins as written below. Transforms that a network does not support (vmap, forward-mode, a",
            "correct second backward pass) are found by a trial on two rows before the fit, and replaced by loops, by",
            "differentiating twice, or by differences of gradients; the certificate says which.",
            "",
            "`pytest -m slow tests/hostile/test_modules.py` prints this file.",
            "",
            *head,
            *lines,
            "",
            *(f"- {letter}: {said} …" for said, letter in notes.items()),
            "",
        ]
    )
    before = DOCS.read_text(encoding="utf-8") if DOCS.exists() else ""
    DOCS.write_text(text, encoding="utf-8")
    assert text == before, "docs/modules.md has been written anew; read what changed"


# --- the same numbers by every way ---


def bound(batchnorm: bool = False, classes: int = 0) -> tuple[LogJoint, torch.Tensor, br.data.Data]:
    torch.manual_seed(0)
    middle = [nn.BatchNorm1d(4)] if batchnorm else []
    net = nn.Sequential(nn.Linear(3, 4), *middle, nn.Tanh(), nn.Linear(4, classes or 1)).double()
    x, y = rows(20)
    if classes:
        model = br.BayesianModel(net, priors.Normal(1.0), likelihoods.Categorical())
        y = (y > 0).long()
    else:
        model = br.BayesianModel(net, priors.Normal(1.0))
    model, data = model.ingest(x, y)
    log_joint = LogJoint(model)
    generator = torch.Generator().manual_seed(1)
    return log_joint, 0.5 * torch.randn(log_joint.layout.size, generator=generator, dtype=torch.float64), data


def close(found: torch.Tensor, expected: torch.Tensor, digits: float) -> None:
    torch.testing.assert_close(found, expected, rtol=0.0, atol=digits * float(expected.abs().max()))


@pytest.mark.parametrize("classes", [0, 3])
@pytest.mark.parametrize("way", WAYS)
def test_curvature_is_the_same_by_every_way(way, classes):
    log_joint, u, data = bound(classes=classes)
    features, digits = WAYS[way]
    other = LogJoint(lacking(log_joint.model, *features))
    for f in (curvature.full_hessian, curvature.gauss_newton):
        close(f(other, u, data), f(log_joint, u, data), digits)
    for f in (products.hessian_product, products.gauss_newton_product):
        v = u.flip(0)
        close(f(other, u, data, v), f(log_joint, u, data, v), digits)
    for found, expected in zip(products.diagonal(other, u, data), products.diagonal(log_joint, u, data), strict=True):
        close(found, expected, digits)
    draws = u + 0.1 * torch.randn(5, len(u), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    for at in (None, u):
        found, expected = (
            outputs(
                j.model.behaviour,
                lambda v, x, j=j: j.model.forward(j.layout.unflatten(v), x),
                [draws],
                len(draws),
                data.x,
                probe=u,
                linearize_at=at,
            )
            for j in (other, log_joint)
        )
        close(found, expected, 1e-12)


@pytest.mark.parametrize("way", WAYS)
def test_curvature_through_batches_is_the_same_by_every_way(way):
    log_joint, u, data = bound(batchnorm=True)
    coupled = LogJoint(log_joint.model.with_module(by_batch(log_joint.model.module)))
    other = LogJoint(lacking(coupled.model, *WAYS[way][0]))
    found, expected = (curvature.output_jacobian(j, u, data.x)[0] for j in (other, coupled))
    close(found, expected, WAYS[way][1])


@pytest.mark.parametrize("batchnorm", [False, True])
def test_many_fits_at_once_are_the_same_by_loops(batchnorm):
    log_joint, u, data = bound(batchnorm=batchnorm)
    model = log_joint.model
    places = {f"0.{place}": name for place, name in model.places.items()}
    # a network that is no plain multilayer perceptron: `vmap` or a loop
    model = changed(model.with_module(nn.Sequential(model.module)), places=places)
    starts = torch.stack([u, u + 0.1, u - 0.2])
    made = [Replicas([LogJoint(m)], data.x, data.y, 3) for m in (model, lacking(model, *base.FEATURES))]
    for replicas in made:
        replicas.layers = None
    for training in (False, True):
        totals = []
        for replicas in made:
            leaves = replicas.leaves(starts)
            losses = replicas.losses(leaves, training=training)
            totals.append([losses.detach(), *torch.autograd.grad(losses.sum(), list(leaves.values()), materialize_grads=True)])
        for found, expected in zip(*totals, strict=True):
            torch.testing.assert_close(found, expected)
    for name, value in made[0].buffers.values.items():
        torch.testing.assert_close(made[1].buffers.values[name], value)
    close(made[1].hessians(starts), made[0].hessians(starts), 1e-6)


def test_elbo_is_the_same_by_loops():
    log_joint, u, data = bound()
    guide = MeanFieldGuide(log_joint.layout, u, torch.full_like(u, 0.1))
    other = LogJoint(lacking(log_joint.model, "vmap"))
    noise = torch.randn(4, len(u), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = [guide.elbo_at(guide.phi, noise, j, data.x, data.y, 20) for j in (log_joint, other)]
    torch.testing.assert_close(values[1], values[0])


@pytest.mark.parametrize("way", ["no vmap", "loops", "nothing"])
@pytest.mark.parametrize(("piece", "num_steps"), [(nn.Tanh, None), (nn.Tanh, 3), (nn.ReLU, 60)])
def test_verdict_is_the_same_by_every_way(way, num_steps, piece, monkeypatch):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 2), piece(), nn.Linear(2, 1)).double()
    x, y = rows(30)
    options = {"num_steps": num_steps, "optimizer": "auto" if piece is nn.Tanh else "adam", "certify": "full"}
    expected = br.fit(model_of(net), x, y, method=inference.MAP(**options), progress=False)
    met = base.Behaviour.met

    def limited(self, model, rows):
        return lacking(_Holder(met(self, model, rows)), *WAYS[way][0]).behaviour

    monkeypatch.setattr(base.Behaviour, "met", limited)
    found = br.fit(model_of(net), x, y, method=inference.MAP(**options), progress=False)
    assert found.certificate.converged == expected.certificate.converged
    assert ("saddle" in str(found.certificate)) == ("saddle" in str(expected.certificate))
    gains = [float(p.certificate.details["nats to gain"]) for p in (found, expected)]
    assert gains[0] == pytest.approx(gains[1], rel=1e-4, abs=1e-6)
    said = "by differences of gradients" in str(found.certificate.details["curvature from"])
    assert said == (way == "nothing" and piece is nn.Tanh)


class _Holder:
    def __init__(self, behaviour: base.Behaviour) -> None:
        self.behaviour = behaviour


# --- networks whose own second derivative, or backward pass, is another one ---


class Plain(nn.Module):
    """A network that says its middle out."""

    def __init__(self, middle) -> None:
        super().__init__()
        self.a, self.b, self.middle = nn.Linear(3, 4), nn.Linear(4, 1), middle

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.middle(self, x)


def pair(odd, plain) -> list[tuple[LogJoint, torch.Tensor, br.data.Data]]:
    found = []
    for middle in (odd, plain):
        torch.manual_seed(0)
        model, data = model_of(Plain(middle).double()).ingest(*rows(20))
        log_joint = LogJoint(model)
        u = 0.7 * torch.randn(log_joint.layout.size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        found.append((log_joint, u, data))
    return found


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_of_a_checkpointed_network(reentrant):
    """A checkpoint computes again in the backward pass, when other weights are in the module."""

    def odd(self, x):
        x = x.clone().requires_grad_() if reentrant else x
        return self.b(checkpoint(lambda h: torch.tanh(self.a(h)), x, use_reentrant=reentrant))

    (one, u, data), (other, _, _) = pair(odd, lambda self, x: self.b(torch.tanh(self.a(x))))
    assert one.model.behaviour.recomputes
    assert not other.model.behaviour.recomputes
    (value, slope), (expected, right) = gradient_of(one, u, data), gradient_of(other, u, data)
    assert value == pytest.approx(expected, rel=1e-12)
    close(slope, right, 1e-12)
    close(curvature.full_hessian(one, u, data), curvature.full_hessian(other, u, data), 1e-7)
    close(curvature.gauss_newton(one, u, data), curvature.gauss_newton(other, u, data), 1e-10)
    assert all(parameter.grad is None for parameter in one.model.module.parameters())


CUSTOM = {
    "old style": (zoo.OldSquare, lambda h: h * h + h),
    "once": (zoo.OnceSwish, nn.functional.silu),
    "intermediate saved": (zoo.HalfRememberedSwish, nn.functional.silu),
    "through NumPy": (zoo.ThroughNumpy, lambda h: h**3),
}


@pytest.mark.parametrize("name", CUSTOM)
def test_curvature_of_custom_functions(name):
    function, formula = CUSTOM[name]
    (one, u, data), (other, _, _) = pair(
        lambda self, x: self.b(function.apply(self.a(x))), lambda self, x: self.b(formula(self.a(x)))
    )
    close(curvature.full_hessian(one, u, data), curvature.full_hessian(other, u, data), 1e-7)
    close(curvature.gauss_newton(one, u, data), curvature.gauss_newton(other, u, data), 1e-10)


def test_weight_norm_has_the_curvature_of_its_formula():
    """Torch's own second backward pass of it is another function's."""

    class ByHand(nn.Module):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            inside = net[0].parametrizations.weight
            self.bias, self.g, self.v = net[0].bias, inside.original0, inside.original1
            self.w, self.c = net[2].weight, net[2].bias

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            weight = self.g * self.v / self.v.square().sum(1, keepdim=True).sqrt()
            return torch.tanh(x @ weight.mT + self.bias) @ self.w.mT + self.c

    net = zoo.made("weight_norm")
    found = []
    for module in (net, ByHand(copied(net))):
        model, data = model_of(module).ingest(*rows(20))
        log_joint = LogJoint(model)
        u = log_joint.layout.flatten(model.weights())
        found.append(curvature.full_hessian(log_joint, u, data))
    assert list(LogJoint(model_of(net)).layout.segments) == [
        "0.bias", "0.parametrizations.weight.original0", "0.parametrizations.weight.original1", "2.weight", "2.bias"
    ]  # fmt: skip
    close(found[0], found[1], 1e-7)


# --- what is known, copied, mixed ---


def _inputs(layer: nn.Module) -> torch.Tensor:
    x = torch.rand(2, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.1
    shape = {"1d": (2, 2, 4), "2d": (2, 2, 2, 2), "3d": (2, 2, 2, 2, 1)}.get(type(layer).__name__[-2:], (2, 8))
    return x.view(shape)


KNOWN = [
    *[layer() for layer in kinds.KNOWN if layer.__module__.endswith("activation")],
    nn.Linear(8, 2), nn.Flatten(), nn.Unflatten(1, (2, 4)), nn.Identity(), nn.LayerNorm(8), nn.GroupNorm(2, 8), nn.Dropout(),
    nn.Conv1d(2, 3, 2), nn.Conv2d(2, 3, 2), nn.Conv3d(2, 3, (2, 1, 1)), nn.ConvTranspose1d(2, 3, 2),
    nn.ConvTranspose2d(2, 3, 2),
    nn.AvgPool1d(2), nn.AvgPool2d(2), nn.MaxPool1d(2), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Dropout2d(),
    nn.BatchNorm1d(2), nn.BatchNorm2d(2), nn.BatchNorm3d(2),
]  # fmt: skip


@pytest.mark.parametrize("layer", KNOWN, ids=lambda layer: type(layer).__name__)
def test_known_layers_stand_everything(layer):
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.w = layer, nn.Parameter(torch.tensor([0.7]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (self.layer(x * self.w).flatten(1).sin()).sum(1)

    assert kinds.is_known(layer)
    assert not kinds.is_known(Around())
    x = _inputs(layer)
    model = model_of(Around().double()).bind(x, torch.zeros(2))
    assert model.behaviour.transforms == dict.fromkeys(base.FEATURES)


def test_every_known_layer_is_tried():
    own = {"Sequential", "MLP", "Standardize", "Bilinear", "ByBatch", "Embedding"}  # containers, two inputs, whole numbers
    assert {type(layer).__name__ for layer in KNOWN} | own == {layer.__name__ for layer in kinds.KNOWN}


def test_a_hook_or_a_new_forward_makes_a_layer_unknown():
    hooked, patched = nn.Linear(1, 1), nn.Linear(1, 1)
    hooked.register_forward_hook(lambda module, came, out: out)
    patched.forward = lambda x: x
    assert not kinds.is_known(hooked)
    assert not kinds.is_known(patched)


def test_copies_of_tensors_with_a_history():
    net = zoo.made("weight_norm, the old hook")
    x, _ = rows()
    net(x)
    for _ in range(2):
        other = copied(net)
        torch.testing.assert_close(other(x), net(x))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the operation has no rule for vmap
            scales = torch.ones(2, 4, 1, dtype=torch.float64)
            torch.func.vmap(lambda g: torch.func.functional_call(net, {"0.weight_g": g}, (x,)))(scales)


def test_wrappers_are_taken_off():
    inner = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
    model = br.BayesianModel(nn.Sequential(nn.DataParallel(inner), nn.Identity()))
    assert list(model.latents) == ["0.0.weight", "0.0.bias", "0.2.weight", "0.2.bias", "noise_scale"]
    assert "0.weight" in br.BayesianModel(nn.DataParallel(inner)).latents


def test_float32_with_a_float64_head_has_the_mode_of_the_whole_in_float64():
    x, y = rows(30)
    net = zoo.made("float32 with a float64 head")
    found = br.fit(model_of(net), x, y, method="map", progress=False)
    expected = br.fit(model_of(copy.deepcopy(net).double()), x, y, method="map", progress=False)
    assert found.certificate.converged
    torch.testing.assert_close(found.predict(x).mean.double(), expected.predict(x).mean, rtol=0, atol=1e-4)


def test_half_precision_inside_predicts_in_single():
    x, y = rows(30)
    post = br.fit(model_of(zoo.made("autocast inside")), x, y, method=quick("mean-field"), progress=False)
    assert post.predict(x, num_samples=3).mean.dtype == torch.float32


def test_a_fit_that_is_done_is_not_lost_to_its_certificate(monkeypatch):
    def broken(*args: object, **kwargs: object) -> None:
        raise NotImplementedError("Trying to use forward AD with aten::odd. It does not. Second sentence")

    monkeypatch.setattr(certificate, "measure", broken)
    x, y = rows()
    post = br.fit(model_of(zoo.made("LSTM")), x, y, method=quick("map").but(certify="full"), progress=False)
    assert not post.certificate.converged
    assert re.match(r"Not certified: Wrapped could not be judged \(NotImplementedError: Trying", str(post.certificate))
    assert "log joint" in post.certificate.details


# --- one sentence ---


class Forward(nn.Module):
    def __init__(self, call) -> None:
        super().__init__()
        self.a, self.call = nn.Linear(3, 1), call

    def forward(self, x: torch.Tensor):
        return self.call(self.a, x)


class Stateful(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.state = nn.GRUCell(3, 1), None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.state = self.cell(x, self.state)
        return self.state


class Norms(nn.Module):
    def __init__(self, **options: object) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(6, 2, **options), nn.Linear(6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.table((x > 0).long() + torch.arange(3) * 2).flatten(1))


def without_gradient(mode):
    def call(a, x):
        with mode():
            return a(x)

    return call


REFUSED = {
    "tuple": (lambda: nn.LSTM(3, 1, batch_first=True), r"gives a tuple of 2; take the first item in a module of your own"),
    "list": (lambda: Forward(lambda a, x: [a(x)]), r"gives a list of 1; take the first item"),
    "dict": (lambda: Forward(lambda a, x: {"logits": a(x), "h": x}), r"gives a dict with the keys 'logits', 'h'; take the one"),
    "None": (lambda: Forward(lambda a, x: None), r"gives None; let it end with a return"),
    "array": (lambda: Forward(lambda a, x: a(x).detach().numpy()), r"gives ndarray; return one tensor"),
    "complex output": (lambda: Forward(lambda a, x: a(x) * 1j), r"gives complex numbers; take the real part"),
    "sparse output": (lambda: Forward(lambda a, x: a(x).to_sparse()), r"layout torch.sparse_coo; call .to_dense"),
    "no_grad": (lambda: Forward(without_gradient(torch.no_grad)), r"must have a gradient .* but it has none"),
    "inference mode": (lambda: Forward(without_gradient(torch.inference_mode)), r"must have a gradient .* but it has none"),
    "detach": (lambda: Forward(lambda a, x: a(x).detach()), r"must have a gradient"),
    "argmax": (lambda: Forward(lambda a, x: a(x).argmax(-1)), r"must have a gradient"),
    "KeyError": (lambda: Forward(lambda a, x: {}["key"]), r"failed on them: KeyError: 'key'; see module\(X\[:2\]\)"),
    "two inputs": (lambda: nn.Bilinear(3, 3, 1), r"failed on them: TypeError"),
    "no forward": (lambda: nn.ModuleList([nn.Linear(3, 1)]), r"failed on them: NotImplementedError"),
    "fixed batch": (lambda: Forward(lambda a, x: a(x.view(2, 3))), r"any number of rows, but Forward failed on 3"),
    "state": (Stateful, r"any number of rows, but Stateful failed on 3 .* keep no state"),
    "max_norm": (lambda: Norms(max_norm=0.5), r"must leave the weights as they are, but that of Norms changes table.weight"),
    "one number": (lambda: Forward(lambda a, x: a(x).sum()), r"one output a row"),
    "meta": (lambda: nn.Linear(3, 1, device="meta"), r"weight is on the meta device"),
    "lazy": (lambda: nn.LazyLinear(1), r"weight is lazy"),
    "complex": (lambda: nn.Linear(3, 1, dtype=torch.complex64), r"weight is torch.complex64"),
    "bfloat16": (lambda: nn.Linear(3, 1, dtype=torch.bfloat16), r"weight is torch.bfloat16"),
    "without parameters": (lambda: nn.Flatten(), r"the module has no parameter"),
    "traced": (lambda: torch.jit.trace(nn.Linear(3, 1), torch.ones(2, 3)), r"a TopLevelTracedModule .* pass the module that"),
    "traced inside": (lambda: nn.Sequential(torch.jit.trace(nn.Linear(3, 1), torch.ones(2, 3))), r"0 is a TopLevelTraced"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_one_sentence(name):
    make, said = REFUSED[name]
    x, y = rows()
    with pytest.raises(ValueError, match=said) as raised:
        br.fit(model_of(make()), x.float(), y.float(), method="map", progress=False)
    assert len(str(raised.value).splitlines()) == 1


def test_output_priors_and_checkpoints_are_refused_together():
    x, y = rows()
    with pytest.raises(ValueError, match=r"a prior on outputs needs activations that are kept"):
        br.fit(model_of(zoo.made("checkpointed"), outputs={"a": priors.Normal(1.0)}), x, y, method="map", progress=False)


@pytest.mark.parametrize("name", ["y", "data", "outputs"])
def test_parameters_named_as_the_sites_of_the_program(name):
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Identity()
            self.register_parameter(name, nn.Parameter(torch.ones(3, dtype=torch.float64)))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x @ getattr(self, name))

    x, y = rows()
    outputs = {"layer": priors.Normal(1.0)} if name == "outputs" else None
    post = br.fit(model_of(Named(), outputs=outputs), x, y, method="map", progress=False)
    assert post.mean[name].shape == (3,)
    with pytest.raises(ValueError, match=rf"each site of pyro_model must have a name of its own, but '{name}' is"):
        pyro.poutine.trace(post.model.pyro_model).get_trace(x, y)


# --- what comes after a fit ---


@pytest.mark.parametrize("name", ["checkpointed", "custom function", "buffers"])
def test_a_loaded_posterior_is_linearised_as_it_was(name, tmp_path):
    x, y = rows(20)
    post = br.fit(model_of(zoo.made(name)), x, y, method=quick("laplace"), progress=False)
    br.save(post, tmp_path / "post.pt")
    again = br.load(tmp_path / "post.pt", module=zoo.made(name))
    torch.testing.assert_close(again.predict(x, num_samples=4).output, post.predict(x, num_samples=4).output)
    assert again.model.behaviour.recomputes == (name == "checkpointed")
    assert (again.model.behaviour.why_not("vmap") is None) == (name == "buffers")


@pytest.mark.parametrize("name", ["weight_norm, the old hook", pytest.param("checkpointed", marks=pytest.mark.slow)])
def test_what_comes_after_a_fit(name, tmp_path):
    x, y = rows(20)
    net = zoo.made(name)
    mode = br.fit(model_of(net), x, y, method=quick("map"), progress=False)
    post = br.fit(model_of(net), x, y, method=quick("mean-field"), progress=False)
    br.save(post, tmp_path / "post.pt")
    again = br.load(tmp_path / "post.pt", module=zoo.made(name))
    torch.testing.assert_close(again.predict(x, num_samples=3).mean, post.predict(x, num_samples=3).mean)
    assert "map" in str(br.compare({"map": mode, "mf": post}, x, y))
    if name == "checkpointed":
        br.report({"map": mode, "mf": post}, x, y).save(tmp_path / "report.html")
        assert (tmp_path / "report.html").exists()
