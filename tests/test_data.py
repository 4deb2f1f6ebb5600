"""Standardisation and the ways data come in."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.data import Data, Standardization, as_tensor
from tests.conftest import linear_model, network


def test_statistics_in_one_pass_over_batches_are_numpy_s():
    generator = np.random.default_rng(0)
    X, y = 1e6 + generator.normal(size=(1000, 3)), generator.normal(5, 2, size=1000)
    parts = [(torch.tensor(X[i : i + 77]), torch.tensor(y[i : i + 77])) for i in range(0, 1000, 77)]
    found = Standardization.of(iter(parts), target=True)
    np.testing.assert_allclose(found.x_mean, X.mean(0), rtol=1e-14)
    np.testing.assert_allclose(found.x_scale, X.std(0), rtol=1e-9)
    assert float(found.y_scale) == pytest.approx(y.std(), rel=1e-12)
    assert found.log_jacobian == pytest.approx(-np.log(y.std()), rel=1e-12)


def test_images_are_standardised_by_channel():
    x = torch.randn(20, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3 + 7
    found = Standardization.of(iter([(x, torch.arange(20.0))]), target=False)
    assert found.x_mean.shape == (3, 1, 1)
    torch.testing.assert_close(found.x_mean.flatten(), x.mean((0, 2, 3)))
    torch.testing.assert_close(found.x_scale.flatten(), x.std((0, 2, 3), correction=0))


@pytest.mark.parametrize("method", ["exact", "map", "laplace"])
@pytest.mark.parametrize("dtype", [np.float64, np.int64])
def test_standardising_by_hand_gives_the_same_predictions_and_densities(diabetes, method, dtype):
    X, y = diabetes
    X = np.column_stack([X.round(), np.full(len(X), 3.0)]).astype(dtype)  # with a constant column
    scale = np.where(X.std(0) == 0, 1, X.std(0))
    Z, t = (X - X.mean(0)) / scale, (y - y.mean()) / y.std()
    ours = br.fit(linear_model(11), X, y, method=method).predict(X, num_samples=50)
    hand = br.fit(linear_model(11, standardize=False), Z, t, method=method).predict(Z, num_samples=50)
    np.testing.assert_allclose(ours.mean, hand.mean * y.std() + y.mean(), rtol=1e-6)
    np.testing.assert_allclose(ours.std, hand.std * y.std(), rtol=1e-6)
    np.testing.assert_allclose(ours.log_prob(y), hand.log_prob(t) - np.log(y.std()), rtol=1e-6, atol=1e-6)


def test_a_constant_column_is_kept_and_named(diabetes):
    X = np.column_stack([diabetes[0], np.full(442, 0.1)])
    post = br.fit(linear_model(11), X, diabetes[1], method="exact")
    assert post.model.standardization.constant == (10,)
    assert float(post.std["weight"][0, 10]) == pytest.approx(0.3)  # the prior's own: the data say nothing


@pytest.mark.parametrize("offset", [0.0, 1e6, -1e7])
def test_a_far_offset_costs_a_float32_network_no_digits(standard_diabetes, offset):
    X, y = standard_diabetes
    fits = [
        br.fit(linear_model(dtype=torch.float32), X + shift, y + shift, method="exact").predict(X + shift, num_samples=10)
        for shift in (0.0, offset)
    ]
    np.testing.assert_allclose(fits[1].mean - offset, fits[0].mean, atol=2e-4)
    np.testing.assert_allclose(fits[1].log_prob(y + offset), fits[0].log_prob(y), atol=1e-3)


def test_classes_are_not_standardised(breast_cancer):
    X, y = breast_cancer
    model = br.BayesianModel(nn.Linear(30, 1).double(), likelihood=likelihoods.Bernoulli(), standardize=True)
    post = br.fit(model, X * 50 + 3, y, method="map")
    plain = br.fit(br.BayesianModel(nn.Linear(30, 1).double(), likelihood=likelihoods.Bernoulli()), X, y, method="map")
    torch.testing.assert_close(post.mean["weight"], plain.mean["weight"], rtol=1e-6, atol=1e-8)
    assert post.model.log_jacobian == 0


def test_embeddings_keep_their_indices():
    torch_rng = torch.Generator().manual_seed(0)
    X = torch.randint(5, (60, 1), generator=torch_rng)
    net = nn.Sequential(nn.Embedding(5, 1), nn.Flatten())
    post = br.fit(br.BayesianModel(net, priors.Normal(10.0), standardize=True), X, 3.0 * X[:, 0], method="map")
    assert post.predict(X).mean.shape == (60,)


class Rows(IterableDataset):
    def __iter__(self):
        generator = torch.Generator().manual_seed(0)
        for _ in range(30):
            yield torch.randn(10, generator=generator, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64)


def test_streamed_data_need_their_length():
    loader = DataLoader(Rows(), batch_size=10)
    model = linear_model(standardize=False)
    with pytest.raises(ValueError, match=r"N must be known, .* but the loader's data set has no length; pass num_data=N"):
        br.fit(model, loader, method="map")
    assert br.fit(model, loader, method="exact", num_data=30).num_data == 30
    with pytest.raises(ValueError, match=r"an IterableDataset must come inside a DataLoader, with num_data=N"):
        br.fit(model, Rows(), method="exact")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            (np.zeros((3, 10), "datetime64[ns]"), np.zeros(3)),
            r"X must be an array of numbers, but datetime64\[ns\] came; encode",
        ),
        (([["a"] * 10], [1.0]), r"X must be an array of numbers, but 'a' came in row 1 of the list; pass a data frame"),
        (([[1.0] * 10], None), r"y must be given when X is an array"),
        ((np.zeros((0, 10)), np.zeros(0)), r"X must have at least one row and one column, but shape \(0, 10\) came"),
        ((np.zeros((3, 10), complex), np.zeros(3)), r"X must be real, but torch.complex128 came"),
        ((DataLoader(TensorDataset(torch.zeros(3, 10))), None), r"a loader must give pairs \(x, y\), but list came"),
        ((TensorDataset(torch.zeros(3, 10), torch.zeros(3)), [1.0]), r"y must be None when X is a Dataset or DataLoader"),
    ],
)
def test_refusals(data, message):
    with pytest.raises(ValueError, match=message):
        br.fit(linear_model(standardize=False), *data, method="map")


def test_num_data_must_not_contradict_the_rows():
    with pytest.raises(ValueError, match=r"num_data must be the number of rows, but 99 came for 3 rows"):
        br.fit(linear_model(standardize=False), np.ones((3, 10)), np.ones(3), method="map", num_data=99)


@pytest.mark.slow
def test_a_short_last_batch_counts_each_row_once():
    """By its own length its one row would weigh as much as the other 64."""
    X = np.linspace(-1, 1, 65)[:, None]
    y = X[:, 0].copy()
    y[-1] = 20.0
    rows = TensorDataset(torch.tensor(X), torch.tensor(y))
    model = br.BayesianModel(nn.Linear(1, 1).double(), likelihood=likelihoods.Gaussian(1.0))
    exact = br.fit(model, X, y, method="exact")
    for method in (br.inference.MAP(num_steps=4000), br.inference.MeanField(num_steps=4000)):
        post = br.fit(model, DataLoader(rows, batch_size=64), method=method)
        assert float((post.mean["weight"] - exact.mean["weight"]).abs() / exact.std["weight"]) < 1


class Once(IterableDataset):
    def __init__(self):
        self.rows = iter([(torch.zeros(10).double(), torch.tensor(1.0).double())] * 30)

    def __iter__(self):
        return self.rows


def test_loaders_that_do_not_give_all_rows_are_refused():
    rows = TensorDataset(torch.randn(60, 10).double(), torch.randn(60).double())
    model = linear_model(standardize=False)
    with pytest.raises(ValueError, match=r"drop_last=True leaves 20 out; make it with drop_last=False"):
        br.fit(model, DataLoader(rows, batch_size=40, drop_last=True), method="map")
    with pytest.raises(ValueError, match=r"must give all N = 61 rows in one pass, but it gave 60"):
        br.fit(model, DataLoader(rows, batch_size=40), method="exact", num_data=61)
    with pytest.raises(ValueError, match=r"must give rows in every pass, but a pass gave none"):
        br.fit(model, DataLoader(Once(), batch_size=10), method="map", num_data=30)
    with pytest.raises(ValueError, match=r"it gave no batch"):
        br.fit(model, DataLoader(rows, batch_sampler=[]), method="map", num_data=60)
    classes = TensorDataset(torch.randn(60, 10), torch.arange(60) // 20)
    two = br.BayesianModel(nn.Linear(10, 2), likelihood=likelihoods.Categorical())
    with pytest.raises(ValueError, match=r"class numbers below the number of logits, 2, but class 2 came"):
        br.fit(two, DataLoader(classes, batch_size=20), method="map")


@pytest.mark.parametrize("standardize", [True, False])
def test_rows_of_another_shape_are_not_broadcast(diabetes, standardize):
    X, y = diabetes
    post = br.fit(linear_model(standardize=standardize), X, y, method="exact")
    for wrong in (X[0], X[:5, :1], X[:, :9], X[:, :, None]):
        with pytest.raises(ValueError, match=r"each row of X must have shape \(10,\), as in the fit, but"):
            post.predict(wrong)


def test_an_embedding_s_target_is_standardised():
    generator = np.random.default_rng(0)
    X = generator.integers(0, 5, (60, 1))
    y = 1e4 + 500 * X[:, 0] + 50 * generator.normal(size=60)
    net = nn.Sequential(nn.Embedding(5, 2), nn.Flatten(), nn.Linear(2, 1))
    post = br.fit(br.BayesianModel(net, likelihood=likelihoods.Gaussian(0.5), standardize=True), X, y, method="map")
    assert float(post.predict(X[:1]).std) == pytest.approx(0.5 * y.std(), rel=1e-5)


@pytest.mark.parametrize("convert", [">f8", "longdouble", "uint16", "uint64"])
def test_any_number_type_is_taken(convert):
    X = np.arange(20.0).reshape(10, 2).astype(convert)
    assert as_tensor("X", X).double().equal(torch.arange(20.0).double().reshape(10, 2))


def test_epochs_are_permutations():
    data = Data(10, torch.arange(10.0)[:, None], torch.arange(10.0))
    batches = data.batches(3, torch.Generator().manual_seed(0))
    epochs = [torch.cat([next(batches)[1] for _ in range(3)]) for _ in range(4)]
    assert all(len(epoch.unique()) == 9 for epoch in epochs)
    assert not epochs[0].equal(epochs[1])
    assert sum(len(x) for x, _ in data.epoch(4)) == 10


def test_arrays_are_not_copied_needlessly_and_never_changed():
    array = np.arange(6.0).reshape(3, 2)
    tensor = as_tensor("X", array)
    assert tensor.data_ptr() == array.ctypes.data
    array.flags.writeable = False
    before = array.copy()
    br.fit(br.BayesianModel(network(2, 1), standardize=True), array, array[:, 0], method="map")
    assert (array == before).all()


LINE = torch.randn(103, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
HEIGHT = (
    LINE @ torch.tensor([0.3, 0.7, 1.0]).double() + 0.5 * torch.randn(103, generator=torch.Generator().manual_seed(1)).double()
)
PAIRS = TensorDataset(LINE, HEIGHT)


class Streamed(IterableDataset):
    """Every row once a pass, also in each of several workers."""

    def __iter__(self):
        return iter(PAIRS)


class Estimated(Streamed):
    def __len__(self):
        return 100


class Shrinking(IterableDataset):
    def __init__(self):
        self.passes = 0

    def __iter__(self):
        self.passes += 1
        return iter([PAIRS[i] for i in range(103 if self.passes < 3 else 51)])


class Drawn:
    """Batches of ten rows, drawn with replacement."""

    def __iter__(self):
        for _ in range(20):
            yield torch.randint(103, (10,)).tolist()


class Balanced:
    """Half of each batch from the first five rows."""

    def __iter__(self):
        for _ in range(11):
            yield torch.cat([torch.randint(5, (5,)), torch.randint(103, (5,))]).tolist()


class Endless:
    def __iter__(self):
        while True:
            yield 0


def line_model():
    return br.BayesianModel(nn.Linear(3, 1, bias=False).double(), priors.Normal(0.3), likelihoods.Gaussian(0.5))


def of_shard(rank):
    return list(DistributedSampler(PAIRS, 2, rank, shuffle=False))


# the loader, num_data, N, the rows that the posterior is about
ALL = list(range(103))
EVEN = {
    "streamed, a last batch of one row": (lambda: DataLoader(Streamed(), 102), 103, ALL),
    "an estimated length, N said": (lambda: DataLoader(Estimated(), 50), 103, ALL),
    "drawn with replacement, often": (lambda: DataLoader(PAIRS, 60, sampler=RandomSampler(PAIRS, True, 309)), None, ALL),
    "drawn with replacement, seldom": (lambda: DataLoader(PAIRS, 20, sampler=RandomSampler(PAIRS, True, 60)), None, ALL),
    "a random part a pass": (lambda: DataLoader(PAIRS, 20, sampler=RandomSampler(PAIRS, num_samples=60)), 103, ALL),
    "weights that are equal": (lambda: DataLoader(PAIRS, 60, sampler=WeightedRandomSampler(torch.ones(103), 206)), None, ALL),
    "batches of one's own, drawn": (lambda: DataLoader(PAIRS, batch_sampler=Drawn()), None, ALL),
    "batches of one's own, listed": (lambda: DataLoader(PAIRS, batch_sampler=[ALL[:50], ALL[50:]]), None, ALL),
    "each row twice a pass": (lambda: DataLoader(PAIRS, batch_sampler=[ALL[:90], ALL, ALL[90:]]), None, ALL),
    "a split": (lambda: DataLoader(PAIRS, 30, sampler=SubsetRandomSampler(range(80))), None, ALL[:80]),
    "a shard": (lambda: DataLoader(PAIRS, 20, sampler=DistributedSampler(PAIRS, 2, 0, shuffle=False)), None, of_shard(0)),
    "numbers as tensors": (lambda: DataLoader(PAIRS, batch_sampler=list(torch.arange(103).split(40))), None, ALL),
    "lists of numbers, drawn": (
        lambda: DataLoader(PAIRS, batch_size=None, sampler=BatchSampler(RandomSampler(PAIRS, True, 309), 60, False)),
        None,
        ALL,
    ),
    "items that are batches": (
        lambda: DataLoader([PAIRS[:60], PAIRS[60:]], batch_size=1, collate_fn=lambda items: items[0]),
        None,
        ALL,
    ),
}


@pytest.mark.parametrize(("make", "num_data", "rows"), EVEN.values(), ids=EVEN)
def test_a_row_weighs_n_over_the_rows_of_a_pass(make, num_data, rows):
    """In evaluation every row counts once; in training every batch by what it is of a pass, N · m/R."""
    exact = br.fit(line_model(), LINE[rows], HEIGHT[rows], method="exact")
    post = br.fit(line_model(), make(), method="exact", num_data=num_data)
    assert post.num_data == len(rows)
    torch.testing.assert_close(post.mean["weight"], exact.mean["weight"], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(post.std["weight"], exact.std["weight"], rtol=1e-10, atol=1e-12)
    _, data = line_model().ingest(make(), num_data=num_data)
    batches = data.batches(None, torch.Generator())
    total, passes = torch.zeros(3, dtype=torch.float64), 40 if data.stream.whole is not data.stream.loader else 1
    squares = torch.zeros_like(total)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        for _ in range(passes):
            found = torch.zeros_like(total)
            for x, _ in (next(batches) for _ in range(data.steps_an_epoch(None))):
                found += x.sum(0) * (data.num_data / data.rows_a_batch(x) / data.steps_an_epoch(None))
            total, squares = total + found, squares + found.square()
    error = ((squares / passes - (total / passes).square()).clamp_min(0) / max(1, passes - 1)).sqrt()
    assert ((total / passes - LINE[rows].sum(0)).abs() <= 4 * error + 1e-10).all()


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("case", ["streamed, a last batch of one row", "drawn with replacement, often", "a split", "a shard"])
def test_searches_over_a_loader_end_at_the_posterior_of_its_rows(case, seed):
    make, num_data, rows = EVEN[case]
    exact = br.fit(line_model(), LINE[rows], HEIGHT[rows], method="exact")
    narrow = torch.linalg.inv(exact.covariance).diagonal().rsqrt()  # the optimum of independent normals
    mode = br.fit(line_model(), make(), method=br.inference.MAP(num_steps=2500), num_data=num_data, seed=seed)
    assert float(((mode.mean["weight"] - exact.mean["weight"]) / exact.std["weight"]).abs().max()) < 0.3
    post = br.fit(line_model(), make(), method=br.inference.MeanField(num_steps=2500), num_data=num_data, seed=seed)
    assert float(((post.mean["weight"] - exact.mean["weight"]) / exact.std["weight"]).abs().max()) < 0.5
    torch.testing.assert_close(post.std["weight"].flatten(), narrow, rtol=0.15, atol=0)


UNEVEN = {
    "two workers that each give everything": (
        lambda: DataLoader(Streamed(), 60, num_workers=2),
        103,
        r"must give all N = 103 rows in one pass, but it gave 206; .*let every worker give its own share",
    ),
    "an estimated length": (lambda: DataLoader(Estimated(), 50), None, r"all N = 100 rows in one pass, but it gave 103"),
    "N said otherwise": (lambda: DataLoader(Streamed(), 50), 1000, r"all N = 1,000 rows in one pass, but it gave 103"),
    "a split, N of all": (
        lambda: DataLoader(PAIRS, sampler=SubsetRandomSampler(range(80))),
        103,
        r"N = 103 .*it gave 80; leave",
    ),
    "a shard, N of all": (
        lambda: DataLoader(PAIRS, sampler=DistributedSampler(PAIRS, 2, 1)),
        103,
        r"N = 103 .*it gave 52; leave",
    ),
    "draws, N of a pass": (lambda: DataLoader(PAIRS, sampler=RandomSampler(PAIRS, True, 60)), 60, r"N = 60 rows .*it gave 103"),
    "weights": (
        lambda: DataLoader(PAIRS, sampler=WeightedRandomSampler(torch.arange(1.0, 104.0), 103)),
        None,
        r"must draw every row alike, .*a WeightedRandomSampler with weights from 1 to 103 came; take shuffle=True",
    ),
    "balanced batches": (
        lambda: DataLoader(PAIRS, batch_sampler=Balanced()),
        None,
        r"must draw every row alike.* a Balanced, which",
    ),
    "some rows twice": (
        lambda: DataLoader(PAIRS, batch_sampler=[ALL, [3]]),
        None,
        r"gives some rows 1 and others 2 times in a pass",
    ),
    "endless": (
        lambda: DataLoader(PAIRS, batch_sampler=BatchSampler(Endless(), 9, False)),
        None,
        r"a pass .* must end, but a Endless",
    ),
    "one pass only": (
        lambda: DataLoader(PAIRS, batch_sampler=iter([ALL])),
        None,
        r"its sampler is an iterator that ends with the",
    ),
    "a split's last rows left out": (
        lambda: DataLoader(PAIRS, 30, sampler=SubsetRandomSampler(range(80)), drop_last=True),
        None,
        r"drop_last=True leaves 20 out",
    ),
    "batches' last rows left out": (
        lambda: DataLoader(PAIRS, batch_sampler=BatchSampler(RandomSampler(PAIRS), 30, True)),
        None,
        r"drop_last=True leaves 13 out",
    ),
}


@pytest.mark.parametrize(("make", "num_data", "message"), UNEVEN.values(), ids=UNEVEN)
def test_what_contradicts_n_is_refused_before_the_search(make, num_data, message):
    begun = []
    with pytest.raises(ValueError, match=message):
        br.fit(line_model(), make(), method="map", num_data=num_data, progress=lambda *step: begun.append(step))
    assert not begun


def test_passes_that_differ_in_length_end_the_search():
    with pytest.raises(ValueError, match=r"same number of rows in every pass, but the first had 103 and a later one 51"):
        br.fit(line_model(), DataLoader(Shrinking(), 40), method=br.inference.MAP(num_steps=50), num_data=103)


def test_counting_costs_nothing_where_the_rows_are_known():
    """An honest loader is not read for it, and a standardising model counts in the pass that it makes in any case."""

    class Counted(TensorDataset):
        read = 0

        def __getitem__(self, index):
            type(self).read += 1
            return super().__getitem__(index)

    rows = Counted(LINE, HEIGHT)
    for loader in (
        DataLoader(rows, 20),
        DataLoader(rows, 20, shuffle=True),
        DataLoader(rows, batch_sampler=[ALL[:50], ALL[50:]]),
    ):
        Counted.read = 0
        line_model().bind(loader)
        assert Counted.read <= 50  # the first batch
    passes = []

    class Passes(Streamed):
        def __iter__(self):
            passes.append(0)
            return super().__iter__()

    model = br.BayesianModel(nn.Linear(3, 1).double(), likelihood=likelihoods.Gaussian(0.5), standardize=True)
    model.bind(DataLoader(Passes(), 50), num_data=103)
    assert len(passes) == 1


def test_what_a_loader_gives_is_noted():
    post = br.fit(line_model(), DataLoader(PAIRS, 30, sampler=SubsetRandomSampler(range(80))), method="exact")
    assert "N = 80: a SubsetRandomSampler gives 80 of the data set's 103 rows." in post.history.notes
    post = br.fit(line_model(), DataLoader(PAIRS, 30, sampler=RandomSampler(PAIRS, True, 206)), method="exact")
    assert "N = 103: a RandomSampler draws 206 rows a pass at random; each weighs 0.5." in post.history.notes


HELD_OUT = {
    "pairs": lambda: DataLoader(PAIRS, 20),
    "shuffled": lambda: DataLoader(PAIRS, 20, shuffle=True),
    "last rows dropped": lambda: DataLoader(PAIRS, 20, shuffle=True, drop_last=True),
    "a data set": lambda: PAIRS,
    "streamed": lambda: DataLoader(Streamed(), 20),
    "a list": lambda: DataLoader(list(PAIRS), 20),
    "lists of numbers": lambda: DataLoader(PAIRS, batch_size=None, sampler=BatchSampler(RandomSampler(PAIRS), 20, False)),
    "x alone": lambda: DataLoader(LINE, 20),
    "x in a tuple": lambda: DataLoader(TensorDataset(LINE), 20),
    "a data set of x": lambda: TensorDataset(LINE),
}


@pytest.mark.parametrize("make", HELD_OUT.values(), ids=HELD_OUT)
def test_predictions_and_scores_take_what_a_fit_takes(make):
    model = line_model()
    post, pairs = br.fit(model, PAIRS, method="exact"), len(next(iter(make()))) == 2
    before, wanted = torch.get_rng_state(), post.predict(LINE)
    torch.testing.assert_close(post.predict(make()).mean, wanted.mean)
    torch.testing.assert_close(model.prior_predictive(make(), 5).mean, model.prior_predictive(LINE, 5).mean)
    if pairs:
        scores = br.compare({"a": post}, make()).scores["a"]
        assert dict(scores) == pytest.approx(dict(br.compare({"a": post}, LINE, HEIGHT).scores["a"]))
    assert before.equal(torch.get_rng_state())
    with pytest.raises(ValueError, match=r"y must be None when X is a Dataset or DataLoader"):
        br.compare({"a": post}, make(), HEIGHT)


def test_a_report_takes_a_loader():
    post = br.fit(line_model(), PAIRS, method="exact")
    assert br.report({"a": post}, DataLoader(PAIRS, 20, shuffle=True)).data["data"]["num_test"] == 103
    with pytest.raises(ValueError, match=r"y must be given when X is an array"):
        br.report({"a": post}, LINE)


def frames():
    import pyarrow
    from pandas import DataFrame

    frame = DataFrame(LINE.numpy(), columns=list("abc"))
    return {"pandas": frame, "arrow": pyarrow.Table.from_pandas(frame)}


@pytest.mark.parametrize("kind", ["pandas", "arrow"])
@pytest.mark.parametrize("standardize", [True, False])
def test_columns_go_by_name(kind, standardize, tmp_path):
    from pandas import DataFrame

    frame, shuffled = frames()[kind], frames()[kind]
    shuffled = shuffled[["c", "a", "b"]] if kind == "pandas" else shuffled.select(["c", "a", "b"])
    model = br.BayesianModel(nn.Linear(3, 1).double(), priors.Normal(0.3), likelihoods.Gaussian(0.5), standardize)
    post = br.fit(model, frame, HEIGHT, method="exact")
    br.save(post, tmp_path / "post.pt")
    for found in (post, br.load(tmp_path / "post.pt")):
        assert found.model.feature_names == ("a", "b", "c")
        wanted = found.predict(LINE).mean  # an array goes by position
        assert found.predict(frame).mean.equal(wanted)
        assert found.predict(shuffled).mean.equal(wanted)
        with pytest.raises(ValueError, match=r"columns of X must be those of the fit, 'a', 'b', 'c', but it lacks 'b'; select"):
            found.predict(DataFrame(LINE[:, :2].numpy(), columns=["a", "c"]))
        with pytest.raises(ValueError, match=r"but it lacks 'c', it has unknown 'd'"):
            found.predict(DataFrame(LINE.numpy(), columns=["a", "b", "d"]))
        with pytest.raises(ValueError, match=r"but it has unknown 'y'"):
            br.compare({"a": found}, DataFrame(np.ones((3, 4)), columns=["a", "b", "c", "y"]), np.ones(3))
        with pytest.raises(ValueError, match=r"but it has twice 'a'"):
            found.predict(DataFrame(np.ones((3, 4)), columns=["a", "a", "b", "c"]))
    scores = [br.compare({"a": post}, x, HEIGHT).scores["a"]["mlpd"] for x in (frame, shuffled)]
    assert scores[0] == scores[1]
    values = post.sample(1, units="model")
    values = {name: value[0] for name, value in values.items()}
    assert post.model.log_likelihood(values, shuffled, HEIGHT).equal(post.model.log_likelihood(values, frame, HEIGHT))


def test_columns_of_an_array_go_by_position_whatever_comes_later():
    post = br.fit(line_model(), LINE, HEIGHT, method="exact")
    frame = frames()["pandas"]
    assert not post.predict(frame[["c", "a", "b"]]).mean.equal(post.predict(frame).mean)
    refitted = br.fit(br.fit(line_model(), frame, HEIGHT, method="exact").model, LINE, HEIGHT, method="exact")
    assert refitted.model.feature_names is None


def test_numbered_columns_are_names_too_and_so_are_those_of_several_targets():
    from pandas import DataFrame

    numbered = DataFrame(LINE.numpy())
    post = br.fit(line_model(), numbered, HEIGHT, method="exact")
    assert post.predict(numbered[[2, 0, 1]]).mean.equal(post.predict(numbered).mean)
    targets = DataFrame({"u": HEIGHT.numpy(), "v": -3 * HEIGHT.numpy()})
    two = br.BayesianModel(nn.Linear(3, 2).double(), priors.Normal(0.3), likelihoods.Gaussian(0.5))
    both = br.fit(two, numbered, targets, method="exact")
    found = [br.compare({"a": both}, numbered, y).scores["a"]["mlpd"] for y in (targets, targets[["v", "u"]])]
    assert found[0] == found[1]
    with pytest.raises(
        ValueError, match=r"columns of y must be those of the fit, 'u', 'v', but it lacks 'v', it has unknown 'w'"
    ):
        br.compare({"a": both}, numbered, targets.rename(columns={"v": "w"}))


def test_a_report_names_the_weights_by_the_fit_s_columns():
    frame = frames()["pandas"]
    post = br.fit(line_model(), frame, HEIGHT, method="exact")
    assert br.report({"a": post}, frame[["c", "a", "b"]], HEIGHT).data["data"]["features"] == ["a", "b", "c"]


def test_a_path_and_early_stopping_keep_the_columns_names():
    frame = frames()["pandas"]
    model = br.BayesianModel(network(3, 4, 1), priors.Normal(0.5), likelihoods.Gaussian(0.5), standardize=True)
    post = br.fit(model, frame, HEIGHT, method=br.inference.MAP(num_steps=20, validation_fraction=0.2))
    assert post.model.feature_names == ("a", "b", "c")
