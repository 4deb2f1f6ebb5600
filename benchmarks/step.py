"""What a training step costs: bare PyTorch, ours, Pyro's, side by side in one run on one thread.

    python benchmarks/step.py [--quick] [--device cuda]

Net 13-50-50-1, batch 100, and 784-1200-1200-10, batch 128; the same batches for all. The contestants take turns in short
rounds, so that a machine whose speed drifts slows all of them alike; a row is the ratio of two contestants round by round:
median, minimum, maximum.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable
from typing import Any

import pyro
import torch
from torch import nn

import bayesreg as br
from bayesreg import layers, likelihoods, priors
from bayesreg.inference import one_draw_step
from bayesreg.objective import LogJoint, TrainingCopy
from bayesreg.posteriors import DeltaGuide, FlatELBO, MeanFieldGuide
from bayesreg.solvers import SMALL as SPLIT
from bayesreg.solvers import AbstractStepper, CompiledAdam, EagerAdam, History, Schedule, run

SMALL = ("13-50-50-1", (13, 50, 50, 1), 1000, 100)
LARGE = ("784-1200-1200-10", (784, 1200, 1200, 10), 1280, 128)
NOISE = 0.5
Step = tuple[Callable[[int], None], int]  # what is called, and how many steps that is


def network(widths: tuple[int, ...], device: torch.device) -> nn.Sequential:
    """The same weights each time."""
    torch.manual_seed(0)
    parts: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        parts += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*parts[:-1]).to(device)


def bare(net: nn.Module, batches: list) -> Step:
    """A plain PyTorch loop: fused Adam with weight decay on the module's own parameters."""
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, weight_decay=1e-3, fused=True)
    classes = not batches[0][1].is_floating_point()

    def step(i: int) -> None:
        x, y = batches[i % len(batches)]
        optimizer.zero_grad()
        output = net(x)
        loss = nn.functional.cross_entropy(output, y) if classes else nn.functional.mse_loss(output[:, 0], y)
        loss.backward()
        optimizer.step()

    return step, 1


def stepping(stepper: AbstractStepper, batches: list) -> Step:
    """A stepper on batches in turn, as the loop calls it."""
    each = stepper.steps_a_call
    groups = [[batches[(i + j) % len(batches)] for j in range(each)] for i in range(len(batches))]
    rates = [1e-3] * each

    def step(i: int) -> None:
        stepper.advance(groups[i * each % len(groups)], rates, False)

    return step, each


def ours(model: br.BayesianModel, batches: list, num_data: int, compiled: bool = False, native: bool = False) -> Step:
    """The step of `MAP(optimizer="adam")`, or "prox-adam" where a penalty has a kink."""
    log_joint = LogJoint(model)
    nonsmooth = [group for group in log_joint.groups if group.nonsmooth]
    start = log_joint.layout.flatten(model.start(*batches[0]))
    copy = TrainingCopy(log_joint, start, num_data, proximal=bool(nonsmooth))
    options: dict[str, Any] = {"nonsmooth": nonsmooth, "num_data": num_data}
    if compiled:
        return stepping(CompiledAdam(start, copy.pure_loss, batches[0], native=native, **options), batches)
    pieces = copy.split() if len(start) > SPLIT else ()
    return stepping(EagerAdam(copy.flat, copy.backward, pieces=pieces, **options), batches)


def mean_field(model: br.BayesianModel, batches: list, num_data: int, compiled: bool = False) -> Step:
    """The step of `MeanField()`: one draw, closed-form KL."""
    log_joint = LogJoint(model)
    start = log_joint.layout.flatten(model.start(*batches[0]))
    guide = MeanFieldGuide(log_joint.layout, start, torch.full_like(start, 0.03))
    guide.phi.grad = torch.zeros_like(guide.phi)
    if not compiled:
        copy = TrainingCopy(log_joint, start, num_data, training=False)
        backward = lambda x, y: one_draw_step(guide, copy, log_joint, x, y)  # noqa: E731
        return stepping(EagerAdam(guide.phi, backward), batches)

    def loss(phi: torch.Tensor, x: torch.Tensor, y: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found = guide.elbo_at(phi, noise[None], log_joint, x, y, num_data) * (-1 / num_data)
        return found, found

    return stepping(CompiledAdam(guide.phi, loss, batches[0], noise_size=len(start)), batches)


def numpyro_scan(widths: tuple[int, ...], batches: list, num_data: int) -> Step | None:
    """NumPyro's AutoDelta with its own Adam, 100 steps in one jitted scan; None where NumPyro is not installed."""
    try:
        import jax
        import numpyro
        import numpyro.distributions as npd
        from numpyro.infer import SVI, Trace_ELBO
        from numpyro.infer.autoguide import AutoDelta
    except ImportError:
        return None
    X, Y = (
        jax.numpy.stack([jax.numpy.asarray(part.cpu().numpy()) for part in column]) for column in zip(*batches, strict=True)
    )

    def program(x: Any, y: Any) -> None:
        hidden = x
        for i, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
            weight = numpyro.sample(f"w{i}", npd.Normal(0, inputs**-0.5).expand([outputs, inputs]).to_event(2))
            bias = numpyro.sample(f"b{i}", npd.Normal(0, 1).expand([outputs]).to_event(1))
            hidden = hidden @ weight.T + bias
            hidden = jax.nn.relu(hidden) if i < len(widths) - 2 else hidden
        with numpyro.plate("data", num_data, subsample_size=len(x)):
            numpyro.sample("y", npd.Normal(hidden[:, 0], NOISE), obs=y)

    machine = SVI(program, AutoDelta(program), numpyro.optim.Adam(1e-3), Trace_ELBO())
    state = [machine.init(jax.random.PRNGKey(0), X[0], Y[0])]

    @jax.jit
    def scanned(start: Any) -> Any:
        take = lambda carry, i: (machine.update(carry, X[i % len(X)], Y[i % len(X)])[0], None)  # noqa: E731
        return jax.lax.scan(take, start, jax.numpy.arange(100))[0]

    def step(i: int) -> None:
        state[0] = jax.block_until_ready(scanned(state[0]))

    return step, 100


def svi(model: br.BayesianModel, guide: object, loss: object, batches: list) -> Step:
    """`pyro.infer.SVI` around the model's Pyro program."""
    machine = pyro.infer.SVI(model.pyro_model, guide, pyro.optim.Adam({"lr": 1e-3, "fused": True}), loss=loss)

    def step(i: int) -> None:
        machine.step(*batches[i % len(batches)])

    return step, 1


def measure(contestants: dict[str, Step], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Seconds a step, one number a round and contestant, the contestants taking turns of equal length."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    calls = dict.fromkeys(contestants, 3)
    for r in range(-2, rounds):
        for name, (step, each) in contestants.items():
            started = time.perf_counter()
            for i in range(calls[name]):
                step(i)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            spent = (time.perf_counter() - started) / calls[name]
            if r == -1:
                calls[name] = max(1, round(seconds / spent))
            if r >= 0:
                times[name].append(spent / each)
    return times


def epoch_overhead(widths: tuple[int, ...], device: torch.device, rounds: int) -> list[float]:
    """An epoch of 8,192 rows inside `loop.run` (batches, rates, history, progress) over the same steps on ready batches."""
    generator = torch.Generator().manual_seed(0)
    X, y = (torch.randn(8192, *shape, generator=generator).to(device) for shape in ((widths[0],), ()))
    model, data = br.BayesianModel(network(widths, device), likelihood=likelihoods.Gaussian(NOISE)).ingest(X, y)
    log_joint = LogJoint(model)
    copy = TrainingCopy(log_joint, log_joint.layout.flatten(model.start(X, y)), 8192)
    stepper = EagerAdam(copy.flat, copy.backward)
    ready = list(zip(X.split(100)[:-1], y.split(100)[:-1], strict=True))
    epochs, found = 5, []
    for r in range(-1, rounds):
        started = time.perf_counter()
        for _ in range(epochs):
            for batch in ready:
                stepper.advance([batch], [1e-3], False)
        plain = time.perf_counter() - started
        started = time.perf_counter()
        run(
            stepper,
            data.batches(100, generator),
            Schedule(epochs * len(ready), 1e-3),
            layout=log_joint.layout,
            report=lambda step, total, objective: None,
            history=History(),
            objective=copy.objective,
        )
        if r >= 0:
            found.append((time.perf_counter() - started) / plain)
    return found


def small(device: torch.device, rounds: int, compiling: bool) -> None:
    """The net where overhead decides."""
    title, widths, rows, batch = SMALL
    generator = torch.Generator().manual_seed(0)
    X, y = (torch.randn(rows, *shape, generator=generator).to(device) for shape in ((widths[0],), ()))
    batches = list(zip(X.split(batch), y.split(batch), strict=True))
    model = br.BayesianModel(network(widths, device), likelihood=likelihoods.Gaussian(NOISE)).bind(X, y)
    learned = br.BayesianModel(network(widths, device)).bind(X, y)
    nonsmooth = br.BayesianModel(network(widths, device), {"0.weight": priors.GroupLasso(0.3)}, likelihoods.Gaussian(NOISE))
    torch.manual_seed(0)
    norms = layers.MLP(widths[0], widths[1:-1], 1, batchnorm=True).to(device).train()
    normalised = br.BayesianModel(norms, likelihood=likelihoods.Gaussian(NOISE)).bind(X, y)
    log_joint = LogJoint(model)
    delta = DeltaGuide(log_joint.layout, log_joint.layout.flatten(model.start(*batches[0])))
    auto = pyro.infer.autoguide.AutoDelta(model.pyro_model)
    contestants = {
        "bare PyTorch": bare(network(widths, device), batches),
        "MAP": ours(model, batches, rows),
        "MAP, learned noise": ours(learned, batches, rows),
        "bare PyTorch, BatchNorm": bare(norms, batches),
        "MAP, BatchNorm": ours(normalised, batches, rows),
        "MAP, prox-Adam, group lasso": ours(nonsmooth.bind(X, y), batches, rows),
        "mean-field": mean_field(model, batches, rows),
        "mean-field, learned noise": mean_field(learned, batches, rows),
        "SVI with FlatELBO": svi(model, delta, FlatELBO(), batches),
        "Pyro AutoDelta SVI": svi(model, auto, pyro.infer.Trace_ELBO(), batches),
    }
    pairs = [
        ("MAP", "bare PyTorch", "≤ 1.05"),
        ("MAP, learned noise", "bare PyTorch", ""),
        ("MAP, BatchNorm", "bare PyTorch, BatchNorm", "≤ 1.05"),
        ("MAP, prox-Adam, group lasso", "bare PyTorch", ""),
        ("Pyro AutoDelta SVI", "MAP", "≥ 8"),
        ("mean-field", "bare PyTorch", "≤ 1.6"),
        ("mean-field, learned noise", "bare PyTorch", ""),
        ("SVI with FlatELBO", "bare PyTorch", "≤ 1.4"),
    ]
    if compiling:
        contestants["MAP, compiled"] = ours(model, batches, rows, compiled=True)
        contestants["MAP, compiled natively"] = ours(model, batches, rows, compiled=True, native=True)
        contestants["mean-field, compiled"] = mean_field(model, batches, rows, compiled=True)
        pairs += [("MAP, compiled", "bare PyTorch", "≤ 0.30"), ("MAP, compiled natively", "bare PyTorch", "≤ 0.30")]
        pairs += [("mean-field, compiled", "bare PyTorch", "≤ 0.5")]
    theirs = numpyro_scan(widths, batches, rows)
    if theirs is not None:
        contestants["NumPyro, jitted scan"] = theirs
        ways = ["MAP, compiled natively", "MAP, compiled"] if compiling else []  # the first from 400,000 steps on
        pairs += [(way, "NumPyro, jitted scan", "≤ 1.8") for way in ways]
    times = measure(contestants, rounds, 0.05)
    print(f"\nNet {title}, batch {batch}; a bare step took {1e3 * statistics.median(times['bare PyTorch']):.2f} ms here.\n")
    show(times, pairs)
    row("an epoch of 8,192 rows in the loop ÷ its steps alone", "≤ 1.03", epoch_overhead(widths, device, rounds))


def large(device: torch.device, rounds: int, compiling: bool) -> None:
    """The net where arithmetic decides."""
    title, widths, rows, batch = LARGE
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(rows, widths[0], generator=generator).to(device)
    y = torch.randint(10, (rows,), generator=generator).to(device)
    batches = list(zip(X.split(batch), y.split(batch), strict=True))
    model = br.BayesianModel(network(widths, device), likelihood=likelihoods.Categorical()).bind(X, y)
    contestants = {"bare PyTorch": bare(network(widths, device), batches), "MAP": ours(model, batches, rows)}
    pairs = [("MAP", "bare PyTorch", "≤ 1.05")]
    if compiling:
        contestants["MAP, compiled"] = ours(model, batches, rows, compiled=True)
        pairs.append(("MAP, compiled", "bare PyTorch", "≤ 1.05"))
    contestants["mean-field"] = mean_field(model, batches, rows)
    pairs.append(("mean-field", "bare PyTorch", ""))
    times = measure(contestants, rounds, 0.3)
    print(f"\nNet {title}, batch {batch}; a bare step took {1e3 * statistics.median(times['bare PyTorch']):.2f} ms here.\n")
    show(times, pairs)


def show(times: dict[str, list[float]], pairs: list[tuple[str, str, str]]) -> None:
    """A table of ratios, round by round."""
    print("| step ÷ step | aim | median | min | max |\n|---|---|---|---|---|")
    for a, b, aim in pairs:
        row(f"{a} ÷ {b}", aim, [p / q for p, q in zip(times[a], times[b], strict=True)])


def row(title: str, aim: str, ratios: list[float]) -> None:
    """One line of it."""
    print(f"| {title} | {aim} | {statistics.median(ratios):.2f} | {min(ratios):.2f} | {max(ratios):.2f} |")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under 45 s: fewer rounds, nothing is compiled")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(options.device)
    print(f"{device.type}, one thread, torch {torch.__version__}.")
    small(device, 12 if options.quick else 40, not options.quick)
    large(device, 4 if options.quick else 12, not options.quick)


if __name__ == "__main__":
    main()
