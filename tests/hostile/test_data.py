"""Data as they come: each works, or gets one sentence."""

import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.inference import MAP, MeanField

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(103, 3, generator=GENERATOR, dtype=torch.float64)
Y = X @ torch.tensor([0.3, 0.7, 1.0]).double() + 0.5 * torch.randn(103, generator=GENERATOR).double()
FRAME = pd.DataFrame(X.numpy(), columns=list("abc"))
PAIRS = TensorDataset(X, Y)


def model(net=None, **options):
    return br.BayesianModel(net or nn.Linear(3, 1).double(), priors.Normal(0.3), likelihoods.Gaussian(0.5), **options)


def fit(*data, net=None, method="exact", **options):
    return br.fit(model(net), *data, method=method, progress=False, **options)


@pytest.fixture(scope="module")
def post():
    return fit(FRAME, Y)


class Ragged(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, i):
        return torch.ones(3 - i), 1.0


class NoLength(Dataset):
    def __getitem__(self, i):
        return torch.ones(3), 1.0


class OneByOne(IterableDataset):
    def __iter__(self):
        return iter(PAIRS)


def quiet(make):
    """What torch makes with a warning about itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


def quantised():
    return quiet(lambda: torch.quantize_per_tensor(X.float(), 0.1, 0, torch.qint8))


def nested():
    return quiet(lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged))


MASKED = np.ma.array(X.numpy(), mask=np.arange(309).reshape(103, 3) == 7)
INPUTS = {
    "None": (lambda: None, r"X must be an array of numbers, but None came"),
    "a number": (lambda: 5, r"X must be an array with a row for each case, but a single number came"),
    "a 0-d array": (lambda: np.array(2.0), r"X must be an array with a row for each case"),
    "text": (lambda: "abc", r"X must be an array of numbers, but str"),
    "sparse COO": (
        X.to_sparse,
        r"X must be a dense tensor of numbers, but one of layout torch.sparse_coo came; pass X.to_dense",
    ),
    "sparse CSR": (lambda: quiet(X.to_sparse_csr), r"layout torch.sparse_csr came; pass X.to_dense\(\)"),
    "SciPy CSR": (lambda: scipy.sparse.csr_matrix(X.numpy()), r"X must be dense, but a SciPy csr_matrix came; pass X.toarray"),
    "SciPy COO array": (lambda: scipy.sparse.coo_array(X.numpy()), r"a SciPy coo_array came; pass X.toarray\(\)"),
    "quantised": (quantised, r"a quantised one \(torch.qint8\) came; pass X.dequantize"),
    "meta": (lambda: torch.empty(103, 3, device="meta"), r"one without numbers \(device 'meta'\) came"),
    "nested": (nested, r"a nested one, of rows of several lengths came; pass torch.nested.to_padded_tensor"),
    "ragged": (lambda: [[1.0, 2.0, 3.0], [1.0, 2.0]], r"each row of X must have the same shape, but they differ"),
    "ragged tensors": (lambda: [torch.ones(3), torch.ones(2)], r"each row of X must have the same shape, but they differ"),
    "masked": (lambda: MASKED, r"1 of 309 entries are masked \(the first at row 2, column 1\); drop or impute"),
    "masked rows": (lambda: list(MASKED), r"1 of 309 entries are masked \(the first at row 2, column 1\)"),
    "pandas NA": (lambda: FRAME.astype("Float64").mask(FRAME > 2.3), r"entries are NaN or infinite \(the first at row"),
    "None inside": (lambda: [[1.0, None, 2.0]] * 103, r"103 of 309 entries are NaN or infinite"),
    "a dict": (lambda: {"a": X, "b": X}, r"a network must take one tensor, but X holds 2 arrays; join them"),
}


@pytest.mark.parametrize(("make", "message"), INPUTS.values(), ids=INPUTS)
@pytest.mark.parametrize("call", ["fit", "predict", "compare", "prior_predictive"])
def test_inputs_that_are_none(post, make, message, call):
    calls = {
        "fit": lambda x: fit(x, Y),
        "predict": lambda x: br.AbstractPosterior.predict(fit(X, Y), x),
        "compare": lambda x: br.compare({"a": fit(X, Y)}, x, Y),
        "prior_predictive": lambda x: model().prior_predictive(x, 3),
    }
    with pytest.raises(ValueError, match=message):
        calls[call](make())


TARGETS = {
    "missing": (None, r"y must be given when X is an array"),
    "a number": (5.0, r"y must be an array with a target for each row, but a single number came"),
    "four axes": (torch.ones(103, 6, 3, 1), r"y must have shape \(N,\), .* but \(103, 6, 3, 1\) came; pass y.reshape"),
    "masked": (
        np.ma.array(Y.numpy(), mask=np.arange(103) == 4),
        r"y must be finite, but 1 of 103 entries are masked .*row 4\)",
    ),
    "pandas NA": (pd.Series(Y.numpy()).astype("Float64").mask(Y.numpy() > 2), r"y must be finite, but \d+ of 103 entries"),
    "too short": (Y[:99], r"X has 103 rows and y has 99; check that both come from the same split"),
    "sparse": (Y.to_sparse(), r"y must be a dense tensor of numbers"),
}


@pytest.mark.parametrize(("y", "message"), TARGETS.values(), ids=TARGETS)
def test_targets_that_are_none(post, y, message):
    with pytest.raises(ValueError, match=message):
        fit(X, y)
    if "entries" in message:
        with pytest.raises(ValueError, match=message):
            br.compare({"a": post}, X, y)


def test_a_network_of_two_inputs_is_told_how():
    for two in ((X, X), [X.numpy(), X.numpy()], (X, X[:, :2]), (FRAME, FRAME)):
        with pytest.raises(
            ValueError, match=r"a network must take one tensor, but X holds 2 arrays; join them to one, .*forward"
        ):
            fit(two, Y)
    with pytest.raises(ValueError, match=r"a network must take one tensor, but X holds 2 arrays"):
        fit(DataLoader([((x, x), y) for x, y in PAIRS], 10))
    with pytest.raises(ValueError, match=r"a loader must give pairs \(x, y\)"):
        fit(DataLoader(TensorDataset(X, X, Y), 10))
    assert fit(list(X), list(Y)).num_data == 103  # rows as a list are one array


LOADERS = {
    "batch_size=None": (lambda: DataLoader(PAIRS, batch_size=None), None, r"it gave a single row: with batch_size=None"),
    "batch_size=None, streamed": (lambda: DataLoader(OneByOne(), batch_size=None), 103, r"it gave a single row"),
    "ragged": (lambda: DataLoader(Ragged(), 2), None, r"each row that a loader gives must have the same shape"),
    "ragged, no loader": (Ragged, None, r"each row of X must have the same shape"),
    "no length": (NoLength, None, r"a Dataset must have a length, but this one has no __len__"),
    "empty": (lambda: TensorDataset(X[:0], Y[:0]), None, r"X must have at least one row and one column"),
    "rows that change": (
        lambda: DataLoader([(X[:50], Y[:50]), (X[50:, :2], Y[50:])], batch_size=None),
        None,
        r"each row of X must have shape \(3,\), as in the fit, but \(2,\) came",
    ),
}


@pytest.mark.parametrize(("make", "num_data", "message"), LOADERS.values(), ids=LOADERS)
@pytest.mark.parametrize("standardize", [True, False])
def test_loaders_that_give_no_rows(make, num_data, message, standardize):
    with pytest.raises(ValueError, match=message):
        br.fit(model(standardize=standardize), make(), method="exact", num_data=num_data, progress=False)


def test_batches_as_items_of_a_data_set():
    loader = DataLoader([(X[:60], Y[:60]), (X[60:], Y[60:])], batch_size=None)
    torch.testing.assert_close(fit(loader).mean["weight"], fit(X, Y).mean["weight"])


@pytest.mark.parametrize("method", [MAP(num_steps=5), MeanField(num_steps=5), "exact", "laplace"], ids=str)
def test_tensors_made_under_inference_mode(method):
    with torch.inference_mode():
        x, y = X.clone(), Y.clone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", br.ConvergenceWarning)
        net = nn.Linear(3, 1).double()
        found = fit(x, y, net=net, method=method)
        torch.testing.assert_close(found.mean["weight"], fit(X, Y, net=net, method=method).mean["weight"], rtol=0, atol=0)
    with torch.inference_mode():
        assert found.predict(x, num_samples=4).mean.shape == (103,)
    assert br.compare({"a": found}, x, y, num_samples=4).num_data == 103


def test_whole_numbers_beyond_two_to_the_63():
    big = np.array([[2**63 + 2**20], [0]], dtype=np.uint64)
    for values in (big, torch.from_numpy(big)):
        assert br.data.as_tensor("X", values).flatten().tolist() == [float(2**63 + 2**20), 0.0]


@pytest.mark.parametrize("seed", [None, -1, 2**64, 1.5, "0", True, np.float64(1), np.array([1])])
def test_a_seed_is_refused_alike_everywhere(post, seed):
    predictive = post.predict(X, num_samples=3)
    calls = [
        lambda: fit(X, Y, seed=seed),
        lambda: post.predict(X, num_samples=3, seed=seed),
        lambda: post.sample(3, seed=seed),
        lambda: predictive.sample(3, seed=seed),
        lambda: model().sample_prior(3, seed=seed),
        lambda: model().prior_predictive(X, 3, seed=seed),
        lambda: br.compare({"a": post}, X, Y, num_samples=3, seed=seed),
        lambda: br.report({"a": post}, X, Y, num_samples=3, seed=seed),
        lambda: br.metrics.crps(predictive, Y, seed=seed),
        lambda: br.metrics.evaluate(predictive, Y, seed=seed),
        lambda: br.path(model(), X, Y, seed=seed, progress=False),
        lambda: br.stability(model(), X, Y, seed=seed, progress=False),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"seed must be a whole number >= 0 and below 2\*\*64, but .* came"):
            call()


@pytest.mark.parametrize("seed", [0, np.int8(3), 2**63 + 5, np.uint64(2**63 + 5), 2**64 - 1])
def test_every_whole_number_below_two_to_the_64_is_a_seed(post, seed):
    same = [post.predict(X, num_samples=4, seed=s).mean for s in (seed, int(seed))]
    assert same[0].equal(same[1])
    assert post.sample(2, seed=seed)["weight"].equal(post.sample(2, seed=int(seed))["weight"])
    assert br.compare({"a": post}, X, Y, num_samples=4, seed=seed).num_data == 103
    assert fit(X, Y, seed=seed).seed == int(seed)
    br.metrics.crps(post.predict(X, num_samples=3), Y, seed=seed)


def test_a_report_says_its_seed_as_a_plain_number(post):
    assert br.report({"a": post}, X[:9], Y[:9], num_samples=4, seed=np.uint64(2**64 - 1)).data["seed"] == 2**64 - 1


def test_more_draws_than_memory_holds(post):
    predictive, count = post.predict(X, num_samples=3), 10**12
    for call in (lambda: br.metrics.crps(predictive, Y, num_samples=count),):
        with pytest.raises(ValueError, match=r"must fit into 2,147,483,648 bytes, but 1,000,000,000,000 of .*lower num"):
            call()


@pytest.mark.parametrize("device", ["warp", "cuda:99", "meta", "", 3.5])
def test_a_device_that_is_not_there(device):
    with pytest.raises(ValueError, match=r"device must be one that .*pass for example device='cpu'"):
        fit(X, Y, device=device)
    with pytest.raises(ValueError, match=r"device must be one that"):
        model().to(device)
    with pytest.raises(ValueError, match=r"dtype must be a floating type, but torch.int64 came"):
        model().to(dtype=torch.int64)


def test_settings_of_a_method_belong_to_the_method():
    with pytest.raises(ValueError, match=r"fit got num_steps=5; write method=bayesreg.inference.MAP\(num_steps=5\)"):
        fit(X, Y, method="map", num_steps=5)
    with pytest.raises(ValueError, match=r"method=bayesreg.inference.MeanField\(learning_rate=0.1\)"):
        fit(X, Y, method=MeanField(), learning_rate=0.1)
    with pytest.raises(ValueError, match=r"but num_samples=5 came, which inference.Exact does not take either"):
        fit(X, Y, num_samples=5)
    with pytest.raises(ValueError, match=r"but sed=5 came, .*; did you mean 'seed'"):
        fit(X, Y, sed=5)


class Table(nn.Module):
    """A level in the first column, numbers beside it."""

    def __init__(self, cast=True):
        super().__init__()
        self.levels, self.head, self.cast = nn.Embedding(5, 2), nn.Linear(4, 1), cast

    def forward(self, x):
        level = x[:, 0].long() if self.cast else x[:, 0]
        return self.head(torch.cat([self.levels(level), x[:, 1:].to(self.head.weight.dtype)], 1))


LEVELS = torch.arange(103)[:, None] % 5
MIXED = torch.cat([LEVELS.double(), 50 * X[:, :2] + 1000], 1)


@pytest.mark.filterwarnings("ignore::bayesreg.ConvergenceWarning")
@pytest.mark.parametrize("x", [MIXED, MIXED.long()], ids=["float", "int"])
def test_numbers_beside_an_embedding_are_standardised(x):
    ours, few = model(Table().double(), standardize=True), MAP(num_steps=5, optimizer="lbfgs")
    found = br.fit(ours, x, Y, method=few)
    scale = found.model.standardization
    torch.testing.assert_close(scale.x_mean[1:], x.double().mean(0)[1:])
    torch.testing.assert_close(scale.x_scale[1:], x.double().std(0, correction=0)[1:])
    assert (float(scale.x_mean[0]), float(scale.x_scale[0])) == (0.0, 1.0)
    by_hand = torch.cat([x[:, :1].double(), (x.double() - x.double().mean(0))[:, 1:] / x.double().std(0, correction=0)[1:]], 1)
    hand = br.fit(ours, by_hand, Y, method=few)
    torch.testing.assert_close(found.predict(x).mean, hand.predict(by_hand).mean)


def test_indices_that_cannot_be_standardised_around():
    for x in (MIXED, MIXED.long()):
        with pytest.raises(ValueError, match=r"makes fractions of the numbers in X \(column 1\).*cast it, x\[:, 0\]"):
            br.fit(model(Table(cast=False).double(), standardize=True), x, Y, method="map", progress=False)
    bag = model(nn.Sequential(nn.EmbeddingBag(5, 1)).double(), standardize=True).bind(LEVELS, Y)
    assert bag.prepare(LEVELS).equal(LEVELS)


def test_an_index_out_of_range():
    net = nn.Sequential(nn.Embedding(5, 2), nn.Flatten(), nn.Linear(2, 1)).double()
    found = br.fit(model(net), LEVELS, Y, method=MAP(optimizer="lbfgs"), progress=False)
    for wrong, shown in ((LEVELS + 1, r"but 5 came \(row 4\)"), (LEVELS - 1, r"but -1 came \(row 0\)")):
        for call in (found.predict, lambda x: br.fit(model(net), x, Y, method="map", progress=False)):
            with pytest.raises(ValueError, match=rf"column 0 of X must hold whole numbers from 0 to 4, .*'0', {shown}"):
                call(wrong)
    with pytest.raises(ValueError, match=r"X must hold whole numbers where an embedding uses it directly"):
        br.fit(model(net), LEVELS.double(), Y, method="map", progress=False)
    with pytest.raises(ValueError, match=r"column 0 of X must hold whole numbers from 0 to 4, .*'levels', but 1.5 came"):
        br.fit(model(Table().double()), MIXED + 1.5 * (LEVELS == 0), Y, method="map", progress=False)


@pytest.mark.filterwarnings("ignore::bayesreg.ConvergenceWarning")
def test_images_of_another_size():
    images, other = torch.randn(9, 1, 8, 8, dtype=torch.float64), torch.randn(4, 1, 9, 7, dtype=torch.float64)
    flat = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 1)).double()
    with pytest.raises(ValueError, match=r"as \(1, 8, 8\) in the fit, but it fails on \(1, 9, 7\); bring the rows to the size"):
        fit(images, Y[:9], net=flat, method=MAP(num_steps=2)).predict(other)
    pooled = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 1)).double()
    assert fit(images, Y[:9], net=pooled, method=MAP(num_steps=2)).predict(other).mean.shape == (4,)


class Doubles(nn.Module):
    """Each pass over the same tensor would double it once more."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 1)

    def forward(self, x):
        return self.layer(x.mul_(2.0))


WRITERS = {
    "ReLU": lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 1)),
    "behind a view": lambda: nn.Sequential(nn.Flatten(), nn.ELU(inplace=True), nn.Linear(3, 1)),
    "dropout": lambda: nn.Sequential(nn.Dropout(0.3, inplace=True), nn.Linear(3, 1)),
    "by hand": Doubles,
}


@pytest.mark.filterwarnings("ignore::bayesreg.ConvergenceWarning")
@pytest.mark.parametrize(
    ("name", "method"),
    [(name, method) for name in ("ReLU", "behind a view", "by hand") for method in (MAP(num_steps=5), MeanField(num_steps=5))]
    + [("by hand", "laplace"), ("dropout", br.inference.MCDropout(num_steps=5)), ("dropout", MAP(num_steps=5))],
)
def test_a_first_layer_that_works_in_place_leaves_the_rows_alone(name, method, tmp_path):
    net = WRITERS[name]()
    x, y = X.float().numpy(), Y.float().numpy()  # shares its memory with the tensors
    before = x.copy()
    found = br.fit(model(net), x, y, method=method, progress=False)
    br.save(found, tmp_path / "post.pt")
    again = br.load(tmp_path / "post.pt", module=net)
    for post in (found, again):
        first = post.predict(x, num_samples=3).mean
        assert first.equal(post.predict(x, num_samples=3).mean)
        assert br.compare({"a": post}, x, y, num_samples=3).num_data == 103
    model(net).prior_predictive(x, 3)
    assert (x == before).all()


def test_a_network_that_writes_its_input_is_fitted_as_one_that_does_not():
    torch.manual_seed(0)
    net = Doubles().double()
    plain = nn.Sequential(nn.Linear(3, 1)).double()
    with torch.no_grad():
        plain[0].weight.copy_(net.layer.weight)
        plain[0].bias.copy_(net.layer.bias)
    steps = MAP(num_steps=20, optimizer="adam")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", br.ConvergenceWarning)
        written, ours = (fit(x, Y, net=n, method=steps) for n, x in ((net, X), (plain, 2 * X)))
    torch.testing.assert_close(written.mean["layer.weight"], ours.mean["0.weight"], rtol=0, atol=0)
