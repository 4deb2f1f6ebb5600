"""What a prediction costs: mean and variance of many draws beside JAX, intervals beside the mean, a closed form beside draws.

    python benchmarks/predict.py [--quick] [--peer PYTHON] [--core N]

Everything runs on one core, each in turn. JAX stands in an interpreter of its own, see jax_peer.py; without it its rows are
left out. It maps one network over draws, jitted, in the faster of two ways: one after the other, or vmapped. Data are made up.
A row is the ratio of two contestants round by round: median, minimum, maximum.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jax_peer import Peer, stay_on
from sampling import generated, head, in_turns, network, row
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.posteriors import Draws, Gaussian

WIDTHS = (13, 50, 50, 1)


def stored(draws: int) -> tuple[Draws, torch.Tensor]:
    """Made-up draws about a point of a network with learned noise, and rows."""
    x, y = generated(5000, WIDTHS[0])
    model = br.BayesianModel(network(WIDTHS, nn.ReLU), priors.Normal(1.0), likelihoods.Gaussian(priors.HalfNormal(1.0)))
    mode: Any = br.fit(model, x, y, method=br.inference.MAP(num_steps=5, certify=False), progress=False)
    generator = torch.Generator().manual_seed(0)
    u = mode.loc + 0.1 * torch.randn(draws, len(mode.loc), generator=generator)
    return Draws(mode.model, mode.record, u), x


def timed(call: Callable[[], object], calls: int) -> Callable[[], tuple[float, int]]:
    """So many calls in a row."""

    def run() -> tuple[float, int]:
        started = time.perf_counter()
        for _ in range(calls):
            call()
        return time.perf_counter() - started, calls

    return run


def moments(posterior: Any, x: torch.Tensor, draws: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and variance of y."""
    found = posterior.predict(x, num_samples=draws)
    return found.mean, found.variance


def beside_jax(peer: Peer, rows: int, draws: int, rounds: int) -> None:
    """Mean and variance, and an interval on top of them."""
    posterior, x = stored(draws)
    x, calls = x[:rows], 1 if rows > 100 else 20

    def ours() -> None:
        moments(posterior, x, draws)

    def interval() -> None:
        found = posterior.predict(x, num_samples=draws)
        assert found.mean.shape == found.variance.shape
        found.interval(0.95)

    contestants: dict[str, Callable[[], tuple[float, int]]] = {
        "mean and variance": timed(ours, calls),
        "with an interval": timed(interval, calls),
    }
    if not peer.missing:
        arrays = {"u": posterior.draws.numpy(), "x": x.numpy()}
        theirs = peer.ask("predict", arrays, widths=WIDTHS, calls=1)
        mean, variance = moments(posterior, x, draws)
        off = max(np.abs(theirs["mean"] - mean.numpy()).max(), np.abs(theirs["variance"] / variance.numpy() - 1).max())
        print(f"\nBoth predict the same; they differ by {off:.1g}.")
        contestants["JAX"] = lambda: (calls * peer.ask("predict", arrays, widths=WIDTHS, calls=calls)["seconds"], calls)
    times = in_turns(contestants, rounds)
    told = ", ".join(f"{name} {1e3 * float(np.median(found)):.1f} ms" for name, found in times.items())
    head(f"{draws:,} draws × {rows:,} rows of {'-'.join(map(str, WIDTHS))}: {told}.")
    plain = times["mean and variance"]
    if "JAX" in times:
        aim = "≤ 1.1" if rows > 100 else "≤ 2"
        row("mean and variance ÷ JAX", aim, [a / b for a, b in zip(plain, times["JAX"], strict=True)])
    both = zip(times["with an interval"], plain, strict=True)
    row("with a 95 % interval ÷ without", "≤ 1.2" if rows > 100 else "", [a / b for a, b in both])


def closed_form(rounds: int) -> None:
    """The linearised predictive of a Gaussian over a small network, beside its draws."""
    x, y = generated(1000, WIDTHS[0])
    net = network((13, 50, 1), nn.ReLU)
    for name, likelihood in (
        ("regression", likelihoods.Gaussian(priors.HalfNormal(1.0))),
        ("two classes", likelihoods.Bernoulli()),
    ):
        model, target = br.BayesianModel(net, priors.Normal(1.0), likelihood), y if name == "regression" else (y > 0).float()
        mode: Any = br.fit(model, x, target, method=br.inference.MAP(num_steps=5, certify=False), progress=False)
        factor = 0.05 * torch.eye(len(mode.loc))
        posterior = Gaussian(mode.model, mode.record, mode.loc, factor, linearize=True)

        def drawn(posterior: Gaussian = posterior) -> None:
            found = posterior.predict(x)
            br.Predictive(found.likelihood, found.output, found.noise).std  # noqa: B018

        times = in_turns({"closed": timed(lambda p=posterior: moments(p, x, 1000), 5), "draws": timed(drawn, 2)}, rounds)
        closed, draws = times.values()
        head(f"Linearised, {name}, 1,000 rows of 13-50-1: {1e3 * float(np.median(closed)):.1f} ms without draws.")
        row("closed form ÷ its 1,000 draws", "≤ 0.2", [a / b for a, b in zip(closed, draws, strict=True)])


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rounds")
    parser.add_argument("--peer", help="an interpreter with jax")
    parser.add_argument("--core", type=int, help="the core to run on")
    options = parser.parse_args()
    started, core = time.perf_counter(), stay_on(options.core)
    torch.set_num_threads(1)
    peer = Peer(options.peer, "jax")
    print(f"torch {torch.__version__}; {peer.missing or peer.versions}; core {core}.")
    rounds = 3 if options.quick else 9
    for rows in (5000, 10):
        beside_jax(peer, rows, 1000, rounds)
    closed_form(rounds)
    peer.close()
    print(f"\n{time.perf_counter() - started:.0f} s.")


if __name__ == "__main__":
    main()
