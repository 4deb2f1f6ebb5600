"""Standardisation and the ways data come in."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

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
        (([["a"] * 10], [1.0]), r"X must be an array of numbers, but list with entries of type <U1 came"),
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
