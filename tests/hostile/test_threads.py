"""Threads: predictions side by side are those of one thread, bit for bit; fits wait, and give what they give alone."""

import copy
import gc
import os
import pickle
import threading
import weakref

import pytest
import torch
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg._threads import drawing, own, seeded
from bayesreg.inference import MAP, LaplaceApproximation, MCBatchNorm, MCDropout, MeanField

X = torch.randn(60, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
Y = X.sum(1) + 0.1 * X[:, 0].sin()
SHORT = MAP(num_steps=20)


def layers(*extra):
    return nn.Sequential(nn.Linear(3, 8), *extra, nn.Tanh(), nn.Linear(8, 1)).double()


def model_of(net, **options):
    return br.BayesianModel(net, priors.Normal(0.3), likelihoods.Gaussian(0.5), **options)


@pytest.fixture(scope="module")
def posteriors():
    """Several of one model, and of others, of every kind."""
    with torch.random.fork_rng(devices=[]):
        plain, batchnorm, both = (
            model_of(layers()),
            model_of(layers(nn.BatchNorm1d(8))),
            layers(nn.BatchNorm1d(8), nn.Dropout(0.2)),
        )
        watched = model_of(layers(), outputs={"1": priors.Normal(1.0)})
    fits = [
        *((plain, method) for method in (SHORT, MeanField(num_steps=20), LaplaceApproximation(mode=MAP(num_steps=300)))),
        *((batchnorm, method) for method in (SHORT, MCBatchNorm(10, SHORT, num_draws=20))),
        (model_of(both), MCDropout(num_steps=20)),
        (watched, SHORT),
    ]
    return [br.fit(model, X, Y, method=method, progress=False) for model, method in fits]


def questions(posteriors):
    """What threads ask: each a function of nothing that gives a tensor."""
    for post in posteriors:
        yield lambda post=post: post.predict(X[:7], num_samples=6, seed=3).output
        yield lambda post=post: post.predict(X[:7], num_samples=5, seed=3).sample(9, seed=1)
        yield lambda post=post: post.sample(5, seed=2)["0.weight"]
        values = {name: value[0] for name, value in post.sample(1, units="model").items()}
        yield lambda post=post, values=values: post.model.log_joint(values, X, Y)
        yield lambda post=post: post.model.prior_predictive(X[:5], num_samples=4, seed=5).output
    masks = next(post for post in posteriors if hasattr(post, "noises"))
    yield lambda: masks.predict(X[:7], num_samples=6, seed=3, masks="row").output


def ask(asked, wanted, num_threads, times, meanwhile=lambda: None):
    """The answers that were wrong, of threads that begin together."""
    wrong, ready = [], threading.Barrier(num_threads + 1)

    def work(number):
        ready.wait()
        for turn in range(times):
            which = (turn * 7 + number) % len(asked)
            try:
                if not torch.equal(asked[which](), wanted[which]):
                    wrong.append(which)
            except Exception as failure:
                wrong.append(f"{which}: {failure!r}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(num_threads)]
    for thread in threads:
        thread.start()
    ready.wait()
    meanwhile()
    for thread in threads:
        thread.join()
    return wrong


def check(posteriors, num_threads, times):
    with torch.no_grad():
        asked = list(questions(posteriors))
        wanted = [question() for question in asked]
    before, model = torch.get_rng_state(), posteriors[0].model
    alone = br.fit(model, X, Y, method=MeanField(num_steps=60), progress=False)
    found = []

    def fit():
        for method in (MeanField(num_steps=60), MAP(num_steps=60, batch_size=20)):
            found.append(br.fit(model, X, Y, method=method, progress=False))

    assert ask(asked, wanted, num_threads, times, fit) == []
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(found[0].guide.phi, alone.guide.phi)
    assert all(isinstance(parameter, nn.Parameter) for parameter in model.module.parameters())


def test_predictions_side_by_side_and_beside_a_fit(posteriors):
    check(posteriors, 4, 80)


@pytest.mark.slow
def test_twelve_threads(posteriors):
    check(posteriors, 12, 3000)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_fits_of_separate_models_give_what_they_give_alone(seed):
    with torch.random.fork_rng(devices=[]):
        models = [model_of(layers()), model_of(layers(nn.Dropout(0.1))), model_of(layers(nn.Dropout(0.1)))]
    methods = [MeanField(num_steps=40), MCDropout(num_steps=40), SHORT]

    def means(model, method):
        found = br.fit(model, X, Y, method=method, seed=seed, progress=False).mean
        return torch.cat([value.flatten() for value in found.values()])

    pairs = zip(models, methods, strict=True)
    asked = [lambda model=model, method=method: means(model, method) for model, method in pairs]
    wanted, before = [question() for question in asked], torch.get_rng_state()
    assert ask(asked, wanted, 3, 2) == []
    assert torch.equal(torch.get_rng_state(), before)


def test_a_copy_shares_tensors_and_goes_with_its_module():
    module = layers(nn.BatchNorm1d(8))
    made = own(module)
    assert own(module) is made
    assert {id(tensor) for tensor in made.state_dict(keep_vars=True).values()} == {
        id(tensor) for tensor in module.state_dict(keep_vars=True).values()
    }
    elsewhere = []
    thread = threading.Thread(target=lambda one: elsewhere.append(own(one)), args=(module,))
    thread.start()
    thread.join()
    assert elsewhere.pop() is not made
    gone = weakref.ref(made)
    del made, module, thread
    gc.collect()
    assert gone() is None


class Listed(nn.Module):
    """Holds a tensor where no module looks for one."""

    def __init__(self):
        super().__init__()
        self.layer, self.units = nn.Linear(3, 1).double(), [torch.ones(3, dtype=torch.float64)]

    def forward(self, x):
        return self.layer(x * self.units[0])


@pytest.mark.parametrize("transform", [torch.func.jacrev, torch.func.jacfwd, torch.vmap])
def test_a_first_pass_under_a_transform_leaves_nothing_of_it_in_the_copy(transform):
    model = model_of(Listed())
    values = {name: value[None] if transform is torch.vmap else value for name, value in model.weights().items()}
    transform(lambda given: model.forward(given, X[:2]))(values)
    assert type(model.to_run().units[0]) is torch.Tensor
    assert not torch._C._functorch.is_functorch_wrapped_tensor(model.to_run().units[0])


def test_models_and_posteriors_are_copied_and_moved_as_before(posteriors):
    post = posteriors[1]
    wanted = post.predict(X[:5], num_samples=3).output
    for twin in (copy.copy(post), copy.deepcopy(post)):
        assert torch.equal(twin.predict(X[:5], num_samples=3).output, wanted)
    assert "threads" not in str(vars(post.model))
    weights = pickle.loads(pickle.dumps(post.model.module))
    assert torch.equal(weights[0].weight, post.model.module[0].weight)
    values, x = post.model.weights(), X[:4]
    single = post.model.to(dtype=torch.float32)
    assert single.forward(single.weights(), x.float()).dtype == torch.float32
    other = post.model.with_module(copy.deepcopy(post.model.module))
    with torch.no_grad():
        other.module[0].weight.zero_()  # numbers may change in place
    zero = {**values, "0.weight": torch.zeros_like(values["0.weight"])}
    assert torch.equal(other.forward(other.weights(), x), post.model.forward(zero, x))


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_private_draws_are_those_of_a_seeded_generator(seed):
    """Of every distribution that a prior or a likelihood draws from, and of torch's own dropout."""
    one = torch.full((5,), 0.5)
    draws = [
        *(lambda d=d: d.sample((3,)) for d in distributions(one)),
        lambda: torch.rand_like(one) + torch.randn(5) + torch.randint(3, (5,)) + torch.randperm(5),
        lambda: nn.functional.dropout(one, 0.5) + nn.functional.alpha_dropout(one, 0.5, training=True),
        lambda: torch.vmap(lambda x: nn.functional.dropout(x, 0.5), randomness="different")(torch.ones(4, 5)),
    ]
    before = torch.get_rng_state()
    for draw in draws:
        with seeded(torch.device("cpu"), seed):
            wanted = [draw(), draw()]
        with drawing(seed):
            found = [draw(), draw()]
        assert all(map(torch.equal, found, wanted))
    with drawing(seed):
        torch.native_dropout(one, 0.5, train=True)  # takes no generator
    assert torch.equal(torch.get_rng_state(), before)


def distributions(one):
    names = torch.distributions
    yield from (names.Normal(one, one), names.Laplace(one, one), names.StudentT(3 * one), names.Cauchy(one, one))
    yield from (names.Gamma(one, one), names.Beta(one, one), names.Bernoulli(one), names.Categorical(one), names.Poisson(one))
    yield from (names.Binomial(5, one), names.Dirichlet(one), names.Uniform(0 * one, one), names.Exponential(one))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_waits_for_no_thread_that_it_does_not_have():
    held, let_go = threading.Event(), threading.Event()

    def hold():
        with seeded(torch.device("cpu"), 0):
            held.set()
            let_go.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(60)
    child = os.fork()
    if not child:
        with seeded(torch.device("cpu"), 0):
            os._exit(7)
    let_go.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
