"""What sampling costs: a gradient of many chains, a leapfrog, an independent draw; beside JAX, Pyro and NumPyro in one run.

    python benchmarks/sampling.py [--quick] [--peer PYTHON] [--core N]

Everything runs on one core, each in turn. JAX and NumPyro stand in an interpreter of their own, see jax_peer.py; without it
their rows are left out. Data are generated. A row is the ratio of two contestants round by round: median, minimum, maximum.
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import arviz
import numpy as np
import pyro
import torch
from jax_peer import Peer, stay_on
from pyro.infer import NUTS as PyroNUTS
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg._memory import keep_freed
from bayesreg.inference import HMC, MAP
from bayesreg.objective import Chains, LogJoint
from bayesreg.samplers import Microcanonical, NoUTurn, traced, traced_density

WIDE = (5, 16, 16, 16, 16, 2)  # airfoil's network: a mean and a log sd
MEMBERS, ROWS = 10, 1202
SMALL, NOISE = (8, 10, 1), 1.0
STEP, DEPTH = 0.01, 6  # of both No-U-Turn samplers, so that their trajectories are alike
Timed = Callable[[], tuple[float, int]]  # seconds, and how many of what is counted


def network(widths: tuple[int, ...], activation: type[nn.Module], seed: int = 0) -> nn.Sequential:
    """The same weights each time."""
    torch.manual_seed(seed)
    parts: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        parts += [nn.Linear(inputs, outputs), activation()]
    return nn.Sequential(*parts[:-1])


def generated(rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows and a smooth function of them with noise."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(rows, columns, generator=generator)
    f = torch.sin(x[:, 0] + 0.5 * x[:, 1]) + 0.5 * x[:, 2] * x[:, 3]
    return x, f + NOISE * torch.randn(rows, generator=generator)


def wide(rows: int) -> tuple[br.BayesianModel, Any]:
    """The network with a mean and an sd, bound to its data."""
    keep_freed(torch.device("cpu"))  # as `fit` does
    net = network(WIDE, nn.ReLU)
    return br.BayesianModel(net, priors.Normal(1.0), likelihoods.Gaussian("heteroscedastic")).ingest(*generated(rows, WIDE[0]))


def small() -> tuple[br.BayesianModel, torch.Tensor, torch.Tensor]:
    """A network that a sampler of full posteriors is for."""
    model = br.BayesianModel(network(SMALL, nn.Tanh), priors.Normal(1.0), likelihoods.Gaussian(NOISE))
    return model, *generated(200, SMALL[0])


def logistic() -> tuple[br.BayesianModel, torch.Tensor, torch.Tensor]:
    """Logistic regression, 500 × 10."""
    x, _ = generated(500, 10)
    chance = (x @ torch.linspace(-1, 1, 10)).sigmoid()
    y = (torch.rand(500, generator=torch.Generator().manual_seed(1)) < chance).float()
    return br.BayesianModel(network((10, 1), nn.Identity), priors.Normal(1.0), likelihoods.Bernoulli()), x, y


def in_turns(contestants: dict[str, Timed], rounds: int) -> dict[str, list[float]]:
    """Seconds of one thing, a number a round and contestant; the first two rounds are thrown away."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for r in range(-2, rounds):
        for name, run in contestants.items():
            seconds, count = run()
            if r >= 0:
                times[name].append(seconds / count)
    return times


def repeated(call: Callable[[], object], seconds: float = 0.2) -> Timed:
    """Calls of a function for a while."""

    def run() -> tuple[float, int]:
        started, count = time.perf_counter(), 0
        while count < 3 or time.perf_counter() - started < seconds:
            call()
            count += 1
        return time.perf_counter() - started, count

    return run


def head(title: str) -> None:
    """Of a table of ratios."""
    print(f"\n{title}\n\n| ratio | aim | median | min | max |\n|---|---|---|---|---|", flush=True)


def row(title: str, aim: str, ratios: list[float]) -> None:
    """One line of it."""
    print(f"| {title} | {aim} | {statistics.median(ratios):.3g} | {min(ratios):.3g} | {max(ratios):.3g} |", flush=True)


def gradients(peer: Peer, rounds: int, compiling: bool) -> None:
    """A gradient of ten members."""
    model, data = wide(ROWS)
    log_joint = LogJoint(model)
    density = Chains(log_joint, data, MEMBERS)
    u = 0.3 * torch.randn(MEMBERS, log_joint.layout.size, generator=torch.Generator().manual_seed(0))
    notes: list[str] = []
    ways = {"eager": density, "traced": traced_density(density, u, "", compile=False, notes=notes)}
    if compiling:
        started = time.perf_counter()
        ways["compiled"] = traced_density(density, u, "", compile=True, notes=notes)
        print(f"\nCompiling took {time.perf_counter() - started:.0f} s. {' '.join(notes)}")
    contestants: dict[str, Timed] = {name: repeated(lambda way=way: way(u)) for name, way in ways.items()}
    if not peer.missing:
        arrays = {"u": u.numpy(), "x": data.x.numpy(), "y": data.y.numpy()}
        theirs = peer.ask("gradient", arrays, widths=WIDE, calls=3)
        value, slope = density(u)
        apart = (torch.from_numpy(theirs["gradient"]) - slope).abs().max() / slope.abs().max()
        off = (torch.from_numpy(theirs["value"]) - density.nats(value)).abs().max()
        print(f"\nBoth take the same log-joint: values differ by {off:.2g} nats, gradients by {apart:.1g} of the largest.")
        calls = max(3, round(0.2 / theirs["seconds"]))
        contestants["JAX"] = lambda: (calls * peer.ask("gradient", arrays, widths=WIDE, calls=calls)["seconds"], calls)
    times = in_turns(contestants, rounds)
    told = ", ".join(f"{name} {1e3 * statistics.median(found):.2f} ms" for name, found in times.items())
    head(f"Gradient of {MEMBERS} members of a 16-16-16-16 ReLU network, {ROWS:,} rows: {told}.")
    base = "eager" if peer.missing else "JAX"
    aims = {"eager": "≤ 1.2", "traced": "", "compiled": "≤ 1.05"} if not peer.missing else {}
    for name in ways:
        if name != base:
            row(f"{name} ÷ {base}{', jitted vmap' * (base == 'JAX')}", aims.get(name, ""), ratio(times, name, base))


def ratio(times: dict[str, list[float]], a: str, b: str) -> list[float]:
    """Round by round."""
    return [p / q for p, q in zip(times[a], times[b], strict=True)]


class CountingNUTS(PyroNUTS):
    """Pyro's kernel as it is, with a count of its leapfrogs."""

    leapfrogs = 0

    def _build_basetree(self, *args: Any) -> Any:
        """One leapfrog."""
        self.leapfrogs += 1
        return super()._build_basetree(*args)


def leapfrogs(rounds: int, compiling: bool) -> None:
    """A leapfrog of both No-U-Turn samplers, from the same mode with the same step and unit masses."""
    for title, (model, x, y) in {"an 8-10-1 network": small(), "logistic regression": logistic()}.items():
        mode = br.fit(model, x, y, method=MAP(), progress=False)
        bound, data = model.ingest(x, y)
        log_joint = LogJoint(bound)
        density, start = Chains(log_joint, data, 1), mode.loc[None].float()
        ways = {"NUTS": traced_density(density, start, "", compile=False, notes=[])}
        if compiling:
            ways["NUTS, compiled"] = traced_density(density, start, "", compile=True, notes=[])
        contestants = {name: ours(way, start) for name, way in ways.items()} | {"Pyro's NUTS": pyros(bound, data, mode)}
        times = in_turns(contestants, rounds)
        said = ", ".join(f"{name} {1e3 * statistics.median(found):.2f} ms" for name, found in times.items())
        head(f"A leapfrog on {title}, P = {log_joint.layout.size}: {said}.")
        for name in ways:
            row(f"{name} ÷ Pyro's on `pyro_model`", "≤ 0.2", ratio(times, name, "Pyro's NUTS"))


def ours(density: Any, start: torch.Tensor) -> Timed:
    """Draws of `samplers.NoUTurn`."""
    sampler = NoUTurn(max_tree_depth=DEPTH)
    at = [sampler.init(density, start, 0)]

    def run() -> tuple[float, int]:
        started, count = time.perf_counter(), 0
        while time.perf_counter() - started < 0.2:
            at[0] = {**at[0], "step_size": torch.full_like(at[0]["step_size"], STEP)}
            changed, told = sampler.step(density, at[0])
            at[0] = {**at[0], **changed}
            count += int(told["n_steps"].sum())
        return time.perf_counter() - started, count

    return run


def pyros(model: br.BayesianModel, data: Any, mode: Any) -> Timed:
    """Draws of Pyro's kernel on the Pyro program, with its defaults but for what is tuned."""
    pyro.set_rng_seed(0)
    kernel = CountingNUTS(
        model.pyro_model, step_size=STEP, adapt_step_size=False, adapt_mass_matrix=False, max_tree_depth=DEPTH
    )
    kernel.setup(0, data.x, data.y)
    at = [{name: mode.mean[name].float() for name in kernel.initial_params}]

    def run() -> tuple[float, int]:
        started, before = time.perf_counter(), kernel.leapfrogs
        while time.perf_counter() - started < 0.2:
            at[0] = kernel.sample(at[0])
        return time.perf_counter() - started, kernel.leapfrogs - before

    return run


def effective(draws: np.ndarray) -> float:
    """The smallest bulk effective sample size, of draws (C, D, Q)."""
    return float(min(arviz.ess(np.ascontiguousarray(draws[..., q]), method="bulk") for q in range(draws.shape[-1])))


def outputs(model: br.BayesianModel, draws: torch.Tensor, x: torch.Tensor) -> np.ndarray:
    """What each draw (C, D, P) says about some training rows, (C, D, rows)."""
    log_joint = LogJoint(model.ingest(x, x[:, 0])[0])

    def one(u: torch.Tensor) -> torch.Tensor:
        values = log_joint.layout.unflatten(u)
        return torch.func.functional_call(model.module, values, (x,))[:, 0]

    return torch.vmap(one, chunk_size=500)(draws.flatten(0, 1)).unflatten(0, draws.shape[:2]).numpy()


def draws_a_second(peer: Peer, rounds: int, quick: bool) -> None:
    """Effective draws a second of whole calls, warm-up included."""
    cases: dict[str, Any] = {"logistic regression": (*logistic(), (10, 1), None)}
    methods = {"sequential": 1} if quick else {"sequential": 4, "vectorized": 64}
    if not quick:
        cases["an 8-10-1 network, outputs in 30 rows"] = (*small(), SMALL, NOISE)
    for title, (model, x, y, widths, noise) in cases.items():
        size = lambda u, m=model, x=x, net=noise is not None: effective(outputs(m, u, x[:30]) if net else u.numpy())  # noqa: E731
        found: dict[str, list[float]] = {"HMC": []}
        lines: dict[str, str] = {}
        arrays = {"x": x.numpy(), "y": y.numpy()}
        for r in range(rounds):
            started = time.perf_counter()
            posterior = br.fit(model, x, y, method=HMC(num_chains=64), seed=r, progress=False)
            spent = time.perf_counter() - started
            ess = size(posterior.chains)
            found["HMC"].append(ess / spent)
            lines["HMC, 64 chains"] = f"| HMC, 64 chains | {spent:.1f} | – | {ess:,.0f} | {ess / spent:,.0f} |"
            for method, chains in methods.items():
                if peer.missing:
                    continue
                words = {"widths": widths, "noise": noise, "chains": chains, "method": method, "draws": 500, "seed": r}
                told = peer.ask("nuts", arrays, **words)
                ess, name = size(torch.from_numpy(told["u"])), f"NumPyro's NUTS, {chains} chain(s), {method}"
                running = told["whole"] - told["compiling"]
                found.setdefault(name, []).append(ess / told["whole"])
                found.setdefault(f"{name}, its compiling left out", []).append(ess / running)
                cells = f"{told['whole']:.1f} | {told['compiling']:.1f} | {ess:,.0f} | {ess / told['whole']:,.0f}"
                lines[name] = f"| {name}, {told['steps']:.0f} leapfrogs a draw | {cells} |"
        print(f"\nEffective draws (least bulk ESS) of {title}; the last round:\n")
        print("| call | seconds | of them compiling | ESS | ESS a second |\n|---|---|---|---|---|")
        print("\n".join(lines.values()))
        if len(found) > 1:
            head(f"Effective draws a second, {title}.")
        for name in list(found)[1:]:
            row(f"HMC ÷ {name}", "≥ 1", ratio(found, "HMC", name))


def slopes(chains: tuple[int, ...], rows: tuple[int, ...], seconds: float) -> None:
    """What a step of `MCLMC`, two gradients, costs against chains and rows."""
    for what, sizes in (("chains", chains), ("rows", rows)):
        fixed = f"{ROWS:,} rows" if what == "chains" else f"{MEMBERS} chains"
        print(f"\nA step of MCLMC on the 16-16-16-16 network, {fixed}:\n")
        print(f"| {what} | ms | slope from the line before |\n|---|---|---|")
        found: list[tuple[float, float]] = []
        for size in sizes:
            model, data = wide(size if what == "rows" else ROWS)
            count = size if what == "chains" else MEMBERS
            log_joint = LogJoint(model)
            density, sampler = Chains(log_joint, data, count), Microcanonical()
            torch.manual_seed(0)
            state = sampler.init(density, 0.3 * torch.randn(count, log_joint.layout.size), 100)
            step = traced(lambda state, s=sampler, d=density: s.step(d, state), state, "", compile=False, notes=[])
            timed = repeated(lambda step=step, state=state: step(state), seconds)
            spent, times = timed()
            spent, times = timed()
            ms = 1e3 * spent / times
            slope = "" if not found else f"{math.log(ms / found[-1][1]) / math.log(size / found[-1][0]):.2f}"
            print(f"| {size:,} | {ms:.3g} | {slope} |", flush=True)
            found.append((size, ms))
        logs = np.log(np.array(found)).T
        print(f"\nCost grows as {what} to the power {np.polyfit(*logs, 1)[0]:.2f} overall.")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="under 45 s: fewer rounds, sizes and models, nothing of ours is compiled"
    )
    parser.add_argument("--peer", help="an interpreter with jax and numpyro; this one when left out")
    parser.add_argument("--core", type=int, help="the core on which everything runs; the last one when left out")
    options = parser.parse_args()
    warnings.simplefilter("ignore", br.ConvergenceWarning)
    stay_on(options.core)
    torch.set_num_threads(1)
    peer, quick = Peer(options.peer, "jax", "numpyro"), options.quick
    print(f"One core, torch {torch.__version__}, Pyro {pyro.__version__}; {peer.missing or peer.versions}")
    try:
        gradients(peer, 5 if quick else 25, not quick)
        leapfrogs(3 if quick else 12, not quick)
        draws_a_second(peer, 1 if quick else 3, quick)
        sizes = ((1, 16, 256), (100, 1000, 10_000)) if quick else ((1, 4, 16, 64, 256), (100, 300, 1000, 3000, 10_000, 30_000))
        slopes(*sizes, 0.3 if quick else 1.0)
    finally:
        peer.close()


if __name__ == "__main__":
    main()
