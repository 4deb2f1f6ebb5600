"""Small fits of every kind, each a function of nothing that gives its numbers; `recorded_fits` records them."""

import math

import torch
from torch import nn

import bayesreg as br
from bayesreg import inference, layers, likelihoods, priors
from tests.recorded_reading import DOUBLE, classes, fit, fitted, leaves, linear, net, regression, short, started

CASES = {}


def case(function):
    """A recorded fit: its name is the function's."""
    CASES[function.__name__.replace("_", " ")] = function
    return function


# ------------------------------------------------------------------------------------------- modes of linear models


def gaussian_case(prior, *, noise=0.5, standardize=False, method="map", rows=None, outputs=1):
    rows = rows or regression(outputs=outputs)
    width = rows[0].shape[1]
    return fit(
        br.BayesianModel(linear(width, outputs), {"weight": prior}, likelihoods.Gaussian(noise), standardize), rows, method
    )


@case
def ridge():
    return gaussian_case(priors.Normal(0.5))


@case
def ridge_in_raw_units():
    return gaussian_case(priors.Normal(1.0, fan_in=True), standardize=True, rows=regression(units=True))


@case
def lasso():
    return gaussian_case(priors.Laplace(0.05))


@case
def elastic_net_auto_standardized():
    return gaussian_case(priors.ElasticNet(0.05, 1.0), standardize="auto", rows=regression(units=True))


@case
def group_lasso():
    return gaussian_case(priors.GroupLasso(0.05, per="column"), outputs=2)


@case
def total_variation():
    found = gaussian_case(priors.TotalVariation(0.05), rows=regression(width=8))
    del found["certificate"]["smallest eigenvalue"]  # of those that are free: which neighbours are equal is up to rounding
    return found


@case
def student_t_regression():
    return gaussian_case(priors.StudentT(3.0, 0.2), noise=priors.HalfNormal(1.0))


@case
def lasso_of_labels():
    model = br.BayesianModel(linear(3), {"weight": priors.Laplace(0.2)}, likelihoods.Bernoulli(), standardize=True)
    return fit(model, classes(), "map")


@case
def logistic_regression():
    return fit(br.BayesianModel(linear(3), priors.Normal(1.0), likelihoods.Bernoulli(), standardize=True), classes(), "map")


# ------------------------------------------------------------------------------------------------ modes of networks


def noisy_net(**options):
    return br.BayesianModel(net(4, 5, 1), {"*.weight": priors.Normal(0.7, fan_in=True)}, **options)


@case
def lbfgs_with_unknown_noise():
    return fit(noisy_net(standardize=True), regression(), "map")


@case
def lbfgs_with_jacobian():
    return fit(noisy_net(standardize=False), regression(), inference.MAP(jacobian=True))


@case
def lbfgs_heteroscedastic():
    model = br.BayesianModel(net(4, 3, 2), priors.Normal(0.5), likelihoods.Gaussian("heteroscedastic"), standardize=True)
    return fit(model, regression(), "map")


@case
def lbfgs_of_three_classes():
    model = br.BayesianModel(net(3, 4, 3), {"*.weight": priors.StudentT(4.0, 0.5)}, likelihoods.Categorical())
    return fit(model, classes(3), inference.MAP(num_steps=60))


@case
def lbfgs_from_two_outputs_in_raw_units():
    model = br.BayesianModel(net(4, 4, 2), {"0.weight": priors.Normal(0.6), "*.bias": priors.Cauchy(1.0)})
    return fit(model, regression(outputs=2, units=True), "map")


@case
def adam_in_batches():
    return fit(noisy_net(standardize=True), regression(), inference.MAP(num_steps=60, batch_size=16), seed=5)


@case
def adam_in_single_precision():
    model = br.BayesianModel(net(4, 6, 1, activation=nn.ReLU, dtype=torch.float32), standardize=True)
    return fit(model, regression(dtype=torch.float32), inference.MAP(num_steps=40, batch_size=20, certify="full"))


@case
def adam_for_a_relu_network():
    model = br.BayesianModel(net(4, 6, 1, activation=nn.ReLU), likelihood=likelihoods.Gaussian(0.3), standardize=False)
    return fit(model, regression(), inference.MAP(num_steps=80, certify="full"))


@case
def adam_with_cycles_and_a_clipped_gradient():
    method = inference.MAP("adam", 60, 0.02, num_cycles=3, clip_norm=0.5)
    return fit(noisy_net(standardize=True), regression(), method)


@case
def adam_from_a_loader():
    X, y, X_new, y_new = regression()
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(X, y), batch_size=16)
    method = inference.MAP(num_steps=60, schedule="constant")
    return fitted(br.fit(noisy_net(standardize=True), loader, method=method, progress=False), X_new, y_new)


@case
def early_stopping():
    return fit(noisy_net(standardize=True), regression(), inference.MAP(num_steps=200, validation_fraction=0.3, patience=5))


@case
def proximal_search_and_fista():
    priors_ = {"0.weight": priors.Laplace(0.1), "2.weight": priors.Normal(1.0)}
    model = br.BayesianModel(net(4, 4, 1), priors_, likelihoods.Gaussian(0.4), standardize=True)
    return fit(model, regression(), inference.MAP(num_steps=150))


@case
def proximal_search_in_batches():
    model = br.BayesianModel(net(4, 4, 1), {"*.weight": priors.ElasticNet(0.3, 1.0)}, standardize=True)
    return fit(model, regression(), inference.MAP("prox-adam", 80, 0.02, batch_size=20))


@case
def search_from_other_starts_where_all_weights_became_zero():
    model = br.BayesianModel(net(4, 4, 1), {"*.weight": priors.ElasticNet(0.05, 1.0)}, standardize=True)
    return fit(model, regression(), inference.MAP("prox-adam", 80, 0.02, batch_size=20))


@case
def proximal_search_of_groups():
    model = br.BayesianModel(net(6, 4, 3), {"0.weight": priors.GroupLasso(0.1)}, likelihoods.Categorical(), standardize=True)
    return fit(model, classes(3, width=6), inference.MAP("prox-adam", 80, 0.02))


@case
def restarts():
    model = br.BayesianModel(net(4, 3, 1), {"*.weight": priors.Normal(1.0)}, likelihoods.Gaussian(0.3), standardize=True)
    return fit(model, regression(40), inference.MAP("adam", 100, 0.02, num_restarts=3))


@case
def prior_on_activations():
    outputs = {"1": priors.Laplace(1.0)}
    return fit(noisy_net(standardize=True, outputs=outputs), regression(), inference.MAP(num_steps=60, certify="full"))


@case
def scales_from_data_and_noise():
    rules = {"weight": priors.Normal(2.0, autoscale=True), "bias": priors.Normal(300.0, relative_to_noise=True)}
    return fit(br.BayesianModel(linear(), rules, standardize=False), regression(units=True), "map")


def normalised(dtype=DOUBLE):
    return br.BayesianModel(started(layers.MLP(4, (5,), batchnorm=True, activation="tanh"), dtype), standardize=True)


@case
def batch_normalisation_and_refreshed_statistics():
    X, y, X_new, y_new = regression()
    mode = br.fit(normalised(), X, y, method=inference.MAP(num_steps=60, batch_size=16), progress=False)
    again = br.refresh_batchnorm(mode, X)
    draws = br.refresh_batchnorm(mode, X, batch_size=12, num_draws=30, seed=2)
    more = {"refreshed": short(again.model.module.buffers()), "at draws": short([draws.predict(X_new, num_samples=20).std])}
    return fitted(mode, X_new, y_new, buffers=short(mode.model.module.buffers()), **more)


@case
def batch_normalisation_at_unit_norm():
    return fit(normalised(), regression(), inference.MAP("adam", 60, scale_invariant="unit-norm"))


@case
def monte_carlo_batch_normalisation():
    method = inference.MCBatchNorm(16, inference.MAP(num_steps=60), num_draws=40)
    return fit(normalised(torch.float32), regression(dtype=torch.float32), method)


# ------------------------------------------------------------------------------------------------ exact and Laplace


@case
def exact():
    return gaussian_case(priors.Normal(0.5), method="exact", standardize=True, rows=regression(units=True))


@case
def exact_under_a_smooth_prior():
    return gaussian_case(priors.Smooth(1, 0.3, level_scale=1.0), method="exact", rows=regression(width=8))


@case
def laplace_hessian():
    method = inference.LaplaceApproximation("hessian")
    return fit(noisy_net(standardize=True), regression(), method)


@case
def laplace_gauss_newton():
    model = br.BayesianModel(net(3, 4, 1), priors.Normal(1.0), likelihoods.Bernoulli(), standardize=True)
    return fit(model, classes(), inference.LaplaceApproximation("ggn"))


@case
def laplace_of_three_classes():
    model = br.BayesianModel(linear(3, 3), {"weight": priors.Normal(1.0), "bias": priors.Flat()}, likelihoods.Categorical())
    return fit(model, classes(3), "laplace")


@case
def laplace_with_a_prior_on_activations():
    return fit(noisy_net(standardize=True, outputs={"0": priors.Normal(2.0)}), regression(), "laplace")


# -------------------------------------------------------------------------------------------------------- mean field


@case
def mean_field():
    return fit(noisy_net(standardize=True), regression(), inference.MeanField(150))


@case
def mean_field_horseshoe():
    model = br.BayesianModel(linear(6), {"weight": priors.Horseshoe(0.3)}, standardize=True)
    return fit(model, regression(width=6), inference.MeanField(150))


@case
def mean_field_unknown_scales():
    rules = {"0.weight": priors.Normal(priors.HalfCauchy(1.0), per="column", centered=False)}
    return fit(br.BayesianModel(net(4, 4, 1), rules, standardize=True), regression(), inference.MeanField(120, 0.02))


@case
def mean_field_heteroscedastic_by_four_draws():
    model = br.BayesianModel(net(4, 4, 2), likelihood=likelihoods.Gaussian("heteroscedastic"), standardize=True)
    return fit(model, regression(), inference.MeanField(120, num_particles=4))


@case
def mean_field_in_single_precision():
    model = br.BayesianModel(net(3, 4, 1, dtype=torch.float32), priors.Laplace(0.5), likelihoods.Bernoulli())
    return fit(model, classes(dtype=torch.float32), inference.MeanField(120, batch_size=20, initial_scale=0.05))


@case
def mean_field_of_three_classes():
    model = br.BayesianModel(net(3, 4, 3), {"0.weight": priors.GroupHorseshoe(0.5)}, likelihoods.Categorical())
    return fit(model, classes(3), inference.MeanField(120, 0.02))


@case
def mean_field_with_batch_normalisation():
    return fit(normalised(), regression(), inference.MeanField(120, batch_size=20))


# ----------------------------------------------------------------------------------------------------------- dropout


def dropping(noise, method, prior=None):
    model = br.BayesianModel(net(4, 6, 1, noise=noise), prior, standardize=True)
    X, y, X_new, y_new = regression()
    posterior = br.fit(model, X, y, method=method, progress=False)
    return fitted(posterior, X_new, y_new, buffers=short([b for b in posterior.model.module.buffers() if b.numel()]))


@case
def dropout():
    return dropping(lambda: nn.Dropout(0.1), inference.MCDropout(120, 0.02), priors.Laplace(0.5))


@case
def dropout_at_a_learned_rate():
    return dropping(layers.ConcreteDropout, inference.MCDropout(120, 0.02))


@case
def gaussian_dropout():
    return dropping(lambda: layers.GaussianDropout(0.2), inference.MCDropout(120, batch_size=20), priors.Normal(0.7))


@case
def dropped_connections_of_labels():
    module = started(nn.Sequential(nn.Linear(3, 5), nn.Tanh(), layers.DropConnect(nn.Linear(5, 1), 0.2)))
    model = br.BayesianModel(module, priors.Normal(1.0), likelihoods.Bernoulli(), standardize=True)
    return fit(model, classes(), inference.MCDropout(120))


@case
def variational_dropout():
    module = started(nn.Sequential(layers.VariationalDropout(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 1)))
    X, y, X_new, y_new = regression()
    method = inference.MCDropout(120, 0.05, warmup=0.3)
    posterior = br.fit(br.BayesianModel(module, standardize=True), X, y, method=method, progress=False)
    return fitted(posterior, X_new, y_new, variance=short([posterior.model.module[0].log_variance]))


@case
def dropout_of_two_sets():
    sets = [regression(width=4), regression(width=4, units=True)]
    models = [br.BayesianModel(net(4, 5, 1, noise=layers.ConcreteDropout), standardize=True) for _ in sets]
    found = inference.MCDropout(120, 0.02).fit_each(models, [(X, y) for X, y, *_ in sets], seed=4, progress=False)
    first, second = (fitted(one, *rows[2:]) for one, rows in zip(found, sets, strict=True))
    return first | {f"second {name}": second[name] for name in ("mean", "std", "objective", "log_prob")}


# ------------------------------------------------------------------------------ many fits, and what is said about them


def along(path, names=("scales", "log_joint", "degrees_of_freedom", "held_out", "log_evidence")):
    found = {name: short([getattr(path, name)]) for name in names if getattr(path, name) is not None}
    coefficients = {name: short([value]) for name, value in path.coefficients.items()}
    return {"dtype": "float64", "zeros": path.zeros.tolist(), **found, **coefficients}


@case
def path_of_a_lasso():
    X, y, *_ = regression(rows=50, width=6)
    model = br.BayesianModel(linear(6), {"weight": priors.Laplace(0.1)}, likelihoods.Gaussian(0.5), standardize=True)
    path = br.path(model, X, y, folds=4, progress=False)
    return along(path) | {"best": [path.best("cv"), path.best("1se")]}


@case
def path_of_a_ridge_by_its_evidence():
    X, y, *_ = regression(rows=50, width=6)
    model = br.BayesianModel(linear(6), {"weight": priors.Normal(0.5)}, likelihoods.Gaussian(0.5), standardize=True)
    path = br.path(model, X, y, folds=None, progress=False)
    return along(path) | {"best": [path.best("evidence")]}


@case
def path_of_a_network():
    X, y, *_ = regression(rows=40)
    model = noisy_net(likelihood=likelihoods.Gaussian(0.5), standardize=True)
    path = br.path(model, X, y, scales=[0.5, 1.0, 2.0], folds=2, num_steps=60, progress=False)
    return along(path) | {"best": [path.best("cv")]}


@case
def stability():
    X, y, *_ = regression(rows=50, width=6)
    model = br.BayesianModel(linear(6), {"weight": priors.Laplace(0.05)}, likelihoods.Gaussian(0.5), standardize=True)
    found = br.stability(model, X, y, num_bootstraps=12, progress=False)
    kept = {"kept": found.kept.tolist(), "frequency": found.frequency.tolist()}
    return {"dtype": "float64", **kept, "size": found.size.tolist(), "stable": found.stable(0.8)}


@case
def equivalents():
    shown = (priors.Normal(0.5), priors.Laplace(0.1), priors.ElasticNet(0.1, 1.0))
    tables = [br.equivalents(prior, num_data=100, noise_scale=0.7, num_outputs=2) for prior in shown]
    numbers = {
        f"{index} {row['tool']}": {name: float(value) for name, value in row["numbers"].items()}
        for index, table in enumerate(tables)
        for row in table.to_dicts()
        if row["numbers"]
    }
    return {"dtype": "float64", "numbers": numbers, "text": str(br.equivalents(priors.Laplace(0.1), num_data=100)).split("\n")}


@case
def comparison_and_report():
    X, y, X_new, y_new = regression(rows=80, units=True)
    fits = {"MAP": "map", "Laplace": "laplace", "mean-field": inference.MeanField(100)}
    posteriors = {name: br.fit(noisy_net(standardize=True), X, y, method=how, progress=False) for name, how in fits.items()}
    compared = br.compare(posteriors, X_new, y_new, num_samples=50)
    scores = {name: dict(found.metrics) for name, found in compared.scores.items()}
    page = br.report(posteriors, X_new, y_new, num_samples=50)
    facts = {}
    for path, number in leaves(page.data):
        facts.setdefault(path[0], []).append(number)
    told = {name: [len(numbers), math.fsum(numbers), math.hypot(*numbers)] for name, numbers in facts.items()}
    return {"dtype": "float64", "best": compared.best, "scores": scores, "report": told}
