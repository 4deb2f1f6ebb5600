"""What a training step costs: bare PyTorch, ours, Pyro's, side by side in one run on one thread.

    python benchmarks/step.py [--quick] [--device cuda]

Net 13-50-50-1, batch 100, the same batches for all. The contestants take turns in short rounds, so that a machine whose
speed drifts slows all of them alike; a row is the ratio of two contestants round by round: median, minimum, maximum.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable

import pyro
import torch
from torch import nn

import bayesreg as br
from bayesreg import likelihoods, priors
from bayesreg.flat import LogJoint
from bayesreg.guides import DeltaGuide, FlatELBO, MeanFieldGuide
from bayesreg.inference.mean_field import one_draw_step
from bayesreg.inference.training import TrainingCopy

ROWS, BATCH, WIDTHS, NOISE = 1000, 100, (13, 50, 50, 1), 0.5


def network(device: torch.device) -> nn.Sequential:
    """The same weights each time."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(WIDTHS):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).to(device)


def bare(batches: list) -> Callable[[int], None]:
    """A plain PyTorch loop: fused Adam with weight decay on the module's own parameters."""
    net = network(batches[0][0].device)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3, weight_decay=1e-3, fused=True)

    def step(i: int) -> None:
        x, y = batches[i % len(batches)]
        optimizer.zero_grad()
        nn.functional.mse_loss(net(x)[:, 0], y).backward()
        optimizer.step()

    return step


def ours(model: br.BayesianModel, batches: list) -> Callable[[int], None]:
    """The step inside `MAP(optimizer="adam")`: a training copy over one flat vector, fused Adam."""
    log_joint = LogJoint(model)
    copy = TrainingCopy(log_joint, log_joint.layout.flatten(model.start(*batches[0])), ROWS)
    return flat_step(copy.flat, lambda i: copy.backward(*batches[i % len(batches)]))


def mean_field(model: br.BayesianModel, batches: list) -> Callable[[int], None]:
    """The step inside `MeanField()`: one draw, closed-form KL."""
    log_joint = LogJoint(model)
    start = log_joint.layout.flatten(model.start(*batches[0]))
    guide = MeanFieldGuide(log_joint.layout, start, torch.full_like(start, 0.03))
    guide.phi.grad = torch.zeros_like(guide.phi)
    copy = TrainingCopy(log_joint, start, ROWS, training=False)
    return flat_step(guide.phi, lambda i: one_draw_step(guide, copy, log_joint, *batches[i % len(batches)]))


def flat_step(parameter: nn.Parameter, backward: Callable) -> Callable[[int], None]:
    """One fused Adam update of one flat parameter."""
    optimizer = torch.optim.Adam([parameter], lr=1e-3, fused=True)

    def step(i: int) -> None:
        parameter.grad.zero_()  # pyright: ignore[reportOptionalMemberAccess]
        backward(i)
        optimizer.step()

    return step


def svi(model: br.BayesianModel, guide: object, loss: object, batches: list) -> Callable[[int], None]:
    """`pyro.infer.SVI` around the model's Pyro program."""
    machine = pyro.infer.SVI(model.pyro_model, guide, pyro.optim.Adam({"lr": 1e-3}), loss=loss)

    def step(i: int) -> None:
        machine.step(*batches[i % len(batches)])

    return step


def measure(contestants: dict[str, Callable[[int], None]], rounds: int, steps: int) -> dict[str, list[float]]:
    """Seconds a step, one number a round and contestant, the contestants taking turns."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for r in range(-2, rounds):
        for name, step in contestants.items():
            count = max(3, steps // 8) if name.startswith("Pyro") else steps
            started = time.perf_counter()
            for i in range(count):
                step(i)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if r >= 0:
                times[name].append((time.perf_counter() - started) / count)
    return times


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under 45 s")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(1)
    device = torch.device(options.device)
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(ROWS, WIDTHS[0], generator=generator).to(device)
    y = torch.randn(ROWS, generator=generator).to(device)
    batches = list(zip(X.split(BATCH), y.split(BATCH), strict=True))
    model = br.BayesianModel(network(device), likelihood=likelihoods.Gaussian(NOISE)).bind(X, y)
    learned = br.BayesianModel(network(device)).bind(X, y)
    mixed = br.BayesianModel(network(device), {"0.weight": priors.Laplace(0.3)}).bind(X, y)
    log_joint = LogJoint(model)
    delta = DeltaGuide(log_joint.layout, log_joint.layout.flatten(model.start(*batches[0])))
    auto = pyro.infer.autoguide.AutoDelta(model.pyro_model)
    contestants = {
        "bare PyTorch": bare(batches),
        "MAP": ours(model, batches),
        "MAP, learned noise": ours(learned, batches),
        "MAP, Laplace on one layer, learned noise": ours(mixed, batches),
        "mean-field": mean_field(model, batches),
        "mean-field, learned noise": mean_field(learned, batches),
        "SVI with FlatELBO": svi(model, delta, FlatELBO(), batches),
        "Pyro AutoDelta SVI": svi(model, auto, pyro.infer.Trace_ELBO(), batches),
    }
    times = measure(contestants, 12 if options.quick else 40, 100 if options.quick else 200)
    pairs = [
        ("MAP", "bare PyTorch", "≤ 1.2"),
        ("MAP, learned noise", "bare PyTorch", ""),
        ("MAP, Laplace on one layer, learned noise", "bare PyTorch", ""),
        ("Pyro AutoDelta SVI", "MAP", "≥ 6"),
        ("mean-field", "bare PyTorch", "≤ 1.8"),
        ("mean-field, learned noise", "bare PyTorch", ""),
        ("SVI with FlatELBO", "bare PyTorch", ""),
    ]
    print(f"Net {'-'.join(map(str, WIDTHS))}, batch {BATCH}, {device.type}, one thread, torch {torch.__version__}.")
    print(f"A bare step took {1e3 * statistics.median(times['bare PyTorch']):.2f} ms here.\n")
    print("| step ÷ step | aim | median | min | max |\n|---|---|---|---|---|")
    for a, b, aim in pairs:
        ratios = [p / q for p, q in zip(times[a], times[b], strict=True)]
        print(f"| {a} ÷ {b} | {aim} | {statistics.median(ratios):.2f} | {min(ratios):.2f} | {max(ratios):.2f} |")


if __name__ == "__main__":
    main()
