"""Small data and networks for `recorded_cases`, and the numbers that are read of a fit."""

import math

import torch
from torch import nn

import bayesreg as br
from bayesreg import metrics

DOUBLE = torch.float64


def regression(rows=60, width=4, outputs=1, *, dtype=DOUBLE, units=False):
    """Training rows, and 10 more: (X, y, X_new, y_new)."""
    generator = torch.Generator().manual_seed(rows + 10 * width + outputs)
    X = torch.randn(rows + 10, width, generator=generator, dtype=DOUBLE)
    weight = torch.randn(width, outputs, generator=generator, dtype=DOUBLE)
    weight[width // 2 :] *= 0.1
    y = (X @ weight + 0.5 * torch.sin(2 * X[:, :1])) / width**0.5
    y = y + 0.3 * torch.randn(y.shape, generator=generator, dtype=DOUBLE)
    if units:
        X, y = 50 + 20 * X, 300 + 80 * y
    y = y.squeeze(1) if outputs == 1 else y
    X, y = X.to(dtype), y.to(dtype)
    return X[:rows], y[:rows], X[rows:], y[rows:]


def classes(count=2, rows=80, width=3, *, dtype=DOUBLE):
    """The same for labels."""
    X, y, X_new, y_new = regression(rows, width, 1 if count == 2 else count, dtype=dtype)
    label = (lambda v: (v > 0.1).long()) if count == 2 else (lambda v: v.argmax(1))
    return X, label(y), X_new, label(y_new)


def started(module, dtype=DOUBLE):
    """The module with weights drawn in double precision: torch's own start, in single, has other last digits elsewhere."""
    generator, module = torch.Generator().manual_seed(1), module.to(dtype)
    for parameter in module.parameters():
        if not bool((parameter == 1).all()):  # a normalisation's scale
            drawn = torch.rand(parameter.shape, generator=generator, dtype=DOUBLE)
            parameter.data.copy_((2 * drawn - 1) / max(1, parameter.shape[-1]) ** 0.5)
    return module


def net(*widths, activation=nn.Tanh, noise=None, dtype=DOUBLE):
    """A perceptron, with a layer of noise before each linear layer but the first."""
    made = [nn.Linear(widths[0], widths[1])]
    for i in range(1, len(widths) - 1):
        made += [activation(), *([noise()] if noise else []), nn.Linear(widths[i], widths[i + 1])]
    return started(nn.Sequential(*made), dtype)


def linear(width=4, outputs=1, dtype=DOUBLE):
    return started(nn.Linear(width, outputs), dtype)


def short(values):
    """Norm and first entry of each tensor."""
    found = []
    for value in values:
        value = value.detach().double().reshape(-1)
        found += [float(value.norm()), float(value[0])]
    return found


def predicted(posterior, X, y):
    """What is predicted on new rows, by 40 draws."""
    new = posterior.predict(X, num_samples=40, seed=3)
    found = {
        "predictive mean": short([new.mean]) + new.mean.double().reshape(-1)[1:4].tolist(),
        "predictive std": short([new.std]),
        "epistemic variance": short([new.epistemic_variance]),
        "log_prob": [float(new.log_prob(y).double().sum())],
    }
    if new.kind == "regression":
        found["interval"] = short(new.interval(0.9))
        found["crps"] = [metrics.crps(new, y)]
    else:
        found["ece"] = [metrics.ece(new, y)]
    return found


def certified(certificate):
    """Whether it passed, and its numbers but those that are rounding at a mode, or the error of a small difference."""
    found = {"converged": certificate.converged}
    numbers = {name: value for name, value in certificate.details.items() if isinstance(value, float)}
    rounding = ("posterior sds", "rounding in sds", ", Monte Carlo error")
    found["certificate"] = {name: value for name, value in numbers.items() if not any(part in name for part in rounding)}
    return found


def fitted(posterior, X, y, **more):
    """All that is recorded of one posterior."""
    mean, std, drawn = posterior.mean, posterior.std, posterior.sample(5, seed=1)
    found = {"dtype": str(next(iter(mean.values())).dtype).removeprefix("torch."), **more}
    found["names"] = list(mean)
    found["mean"] = short(mean.values())
    if any(bool(value.any()) for value in std.values()):
        found["std"] = short(std.values())
        found["draws"] = short([torch.cat([value.double().reshape(-1) for value in drawn.values()])])
    found["zeros"] = sum(int((value == 0).sum()) for value in mean.values())
    found |= certified(posterior.certificate)
    objective = posterior.history.objective
    if objective:  # a closed form has none; how many steps L-BFGS takes is up to rounding
        found["objective"] = [objective[0], objective[-1]]
    if posterior.log_evidence is not None:
        found["evidence"] = [posterior.log_evidence]
    return found | predicted(posterior, X, y)


def fit(model, rows, method, seed=0, **more):
    """Fit to the first rows, and read on the others."""
    X, y, X_new, y_new = rows
    return fitted(br.fit(model, X, y, method=method, seed=seed, progress=False), X_new, y_new, **more)


def leaves(value, path=()):
    """Numbers in a tree of plain values, in the order of their names; no times, versions or numbers of steps."""
    if isinstance(value, dict):
        for name in sorted(value, key=str):
            if name not in ("seconds", "versions", "created", "steps", "history"):
                yield from leaves(value[name], (*path, name))
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from leaves(entry, path)
    elif isinstance(value, (bool, int, float)) and math.isfinite(value):
        yield path, float(value)
