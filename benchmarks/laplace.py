"""What a Laplace approximation costs beside laplace-torch's, in one run on one thread: fit, prediction, and a fit by defaults.

    python benchmarks/laplace.py [--quick]

Net 13-50-1, ReLU, known noise, 1,000 rows, one mode for both. A fit of ours is a whole call of `br.fit` at the given mode, its
certificate included. Contestants take turns; a row is the ratio of two of them round by round: median, minimum, maximum. Below
the table: how far the predicted standard deviations of the two are apart. Tuning by the evidence is theirs at the mode as it
is, ours with the mode that follows the scales. Without laplace-torch only the last rows are printed.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import pathlib
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.inference import MAP, Evidence, LaplaceApproximation

COLUMNS, NOISE, AIMS = 13, 0.3, {"full": "≤ 0.3", "kron": "≤ 1", "diag": ""}
Times = dict[str, list[float]]


def generated(rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and a smooth function of them with noise."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, COLUMNS, generator=generator)
    f = torch.sin(x[:, 0] + 0.5 * x[:, 1]) + 0.5 * x[:, 2] * x[:, 3]
    return x, f + NOISE * torch.randn(rows, generator=generator)


def network(activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """The same weights each time."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(COLUMNS, 50), activation(), nn.Linear(50, 1))


def in_turns(contestants: dict[str, Callable[[], Any]], rounds: int, *, first: bool = True) -> Times:
    """Seconds a call, one number a round and contestant; after a `first` round that does not count."""
    times: Times = {name: [] for name in contestants}
    for r in range(-1 if first else 0, rounds):
        for name, call in contestants.items():
            started = time.perf_counter()
            call()
            if r >= 0:
                times[name].append(time.perf_counter() - started)
    return times


def row(what: str, ours: list[float], theirs: list[float], aim: str) -> None:
    """One line of the table."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    seen = f"{statistics.median(ratios):.2f} | {min(ratios):.2f} | {max(ratios):.2f}"
    print(f"| {what} | {statistics.median(ours):.3f} | {statistics.median(theirs):.3f} | {aim} | {seen} |", flush=True)


def laplace_torch() -> Any:
    """The module `laplace`, whose name this file has too; None where it is not installed."""
    here = pathlib.Path(__file__).parent.resolve()
    sys.path[:] = [place for place in sys.path if pathlib.Path(place or ".").resolve() != here]
    try:
        return importlib.import_module("laplace")
    except ImportError:
        return None


def beside_theirs(theirs: Any, rounds: int) -> list[str]:
    """The lines with laplace-torch in them; what the predictions say."""
    x, y = generated(1000)
    net = network()
    model = br.BayesianModel(net, priors.Normal(1.0), likelihoods.Gaussian(NOISE), standardize=False)
    mode = br.fit(model, x, y, method=MAP("adam", jacobian=True, num_steps=2000, compile=False), progress=False)
    trained = copy.deepcopy(net)
    trained.load_state_dict({name: value.clone() for name, value in mode.mean.items()})
    loader = DataLoader(TensorDataset(x, y[:, None]), batch_size=len(x))

    def other(structure: str) -> Any:
        options = {"subset_of_weights": "all", "hessian_structure": structure, "sigma_noise": NOISE, "prior_precision": 1.0}
        found = theirs.Laplace(trained, "regression", **options)
        found.fit(loader)
        return found

    said = []
    for structure, aim in AIMS.items():
        method = LaplaceApproximation("ggn", mode, structure=structure)
        ours = lambda method=method: br.fit(model, x, y, method=method, progress=False)  # noqa: E731
        times = in_turns({"ours": ours, "theirs": lambda structure=structure: other(structure)}, rounds)
        row(f"fit, {structure}", times["ours"], times["theirs"], aim)
        post, peer = ours(), other(structure)
        pair = {"ours": lambda post=post: spread(post, x), "theirs": lambda peer=peer: peer(x)}
        times = in_turns(pair, rounds)
        row(f"prediction of 1,000 rows, {structure}", times["ours"], times["theirs"], "≤ 0.1")
        tuner = LaplaceApproximation("ggn", mode, structure=structure, tune=Evidence(noise=False))
        pair = {
            "ours": lambda tuner=tuner: br.fit(model, x, y, method=tuner, progress=False),
            "theirs": lambda structure=structure: other(structure).optimize_prior_precision(method="marglik"),
        }
        times = in_turns(pair, max(1, rounds // 3), first=False)
        row(f"fit and evidence tuning, {structure}", times["ours"], times["theirs"], "≤ 0.1" if structure == "full" else "")
        apart = (spread(post, x)[1].sqrt() / peer(x)[1].reshape(-1).sqrt() - 1).abs()
        said.append(f"{structure}: predicted sds of the function are {float(apart.median()):.1e} apart (median of rows)")
    return said


def spread(post: br.AbstractPosterior, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of the function."""
    found = post.predict(x)
    return found.mean, found.epistemic_variance


def beside_the_mode(rounds: int, activations: Sequence[type[nn.Module]]) -> None:
    """The lines of whole fits by defaults."""
    x, y = generated(1000)
    for activation in activations:
        model = br.BayesianModel(network(activation))
        fits = {
            "laplace": lambda model=model: br.fit(model, x, y, method="laplace", progress=False),
            "map": lambda model=model: br.fit(model, x, y, method=MAP(jacobian=True), progress=False),
        }
        times = in_turns(fits, rounds, first=False)
        row(f"defaults, {activation.__name__}: laplace ÷ its map", times["laplace"], times["map"], "≤ 1.3")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under 45 s: fewer rounds")
    quick = parser.parse_args().quick
    warnings.simplefilter("ignore")  # fits are short on purpose, and what the peer warns of is its own
    torch.set_num_threads(1)
    peer = laplace_torch()
    print(
        f"One thread, torch {torch.__version__}." + (" laplace-torch is not installed: its rows are left out." * (peer is None))
    )
    print()
    print("| what | ours, s | other, s | aim | median | min | max |\n|---|---|---|---|---|---|---|")
    said = beside_theirs(peer, 2 if quick else 7) if peer is not None else []
    beside_the_mode(1 if quick else 3, (nn.ReLU,) if quick else (nn.ReLU, nn.Tanh))
    print("\n" + "; ".join(said) if said else "")


if __name__ == "__main__":
    main()
