"""The loop around a sampler's step: warm-up, draws that are kept, progress, checkpoints, and Ctrl-C.

Ctrl-C ends the run with what it has: the draws so far, or, before the first, where the chains stand.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from bayesreg.behaviour import COMPILING
from bayesreg.objective.chains import AbstractChains, Density
from bayesreg.samplers.base import AbstractSampler, Told, part_of, under
from bayesreg.samplers.options import ChainOptions
from bayesreg.samplers.tracing import Step, traced, traced_density
from bayesreg.solvers.checkpoint import Checkpoint, random_states, restore_random
from bayesreg.solvers.failures import FitError
from bayesreg.solvers.history import History
from bayesreg.solvers.progress import ProgressCallback

_TOLD = 100  # times that history and progress hear of it
_TRACED = 400  # gradients from which tracing pays
_FAR = 1e30  # stands for an infinite energy, so that what is kept is finite


@dataclasses.dataclass(frozen=True)
class Sampled:
    """What a run gives.

    Attributes:
        draws: (C, D, P), unconstrained.
        stats: What the sampler told of each draw, (C, D) each, means over the steps that are thinned away.
        divergences: Diverging steps of the sampling, thinned ones included.
        steps: Steps done of each chain, warm-up included.
        planned: Steps that were to be done.
    """

    draws: torch.Tensor
    stats: dict[str, torch.Tensor]
    divergences: int
    steps: int
    planned: int


def sample_chains(
    sampler: AbstractSampler,
    density: AbstractChains,
    start: torch.Tensor,
    options: ChainOptions,
    *,
    report: ProgressCallback,
    history: History,
    checkpoint: Checkpoint | None = None,
    compile: bool = False,
) -> Sampled:
    """Run R chains.

    Args:
        sampler: How they move.
        density: What they sample.
        start: (R, P).
        options: How long.
        report: Hears of the steps now and then.
        history: Where the mean log density of the chains is recorded.
        checkpoint: Where the state is kept.
        compile: Compile each step.

    Returns:
        The draws.

    Raises:
        FitError: If the density is not finite at the start, or the network raises.
    """
    run = _Run(sampler, density, start, options, history, compile)
    if checkpoint is not None:
        run.take_up(checkpoint)
    every = max(1, options.num_steps // _TOLD)
    try:
        while run.step < options.num_steps:
            told = run.advance()
            due = run.step % every == 0 or run.step == options.num_steps
            if due or run.step == 1:
                nats = float(density.nats(told["lp"]).mean())
                if due:
                    history.record(run.step, nats)
                report(run.step, options.num_steps, nats, _health(told))
            if checkpoint is not None and checkpoint.is_due(run.step):
                checkpoint.save(run.state(), history.notes)
    except KeyboardInterrupt:
        history.notes.append(f"stopped by the user after {run.step:,} of {options.num_steps:,} steps.")
        if checkpoint is not None:
            checkpoint.save(run.state(), history.notes)
            checkpoint.keep = True
    return run.result()


class _Run:
    """The state of a run: that of the sampler, and the draws so far."""

    def __init__(
        self,
        sampler: AbstractSampler,
        density: AbstractChains,
        start: torch.Tensor,
        options: ChainOptions,
        history: History,
        compile: bool,
    ) -> None:
        self.sampler, self.density, self.options, self.history = sampler, density, options, history
        found = [density(some) for some in start.split(density.num_chains)]
        bad = torch.cat([~(value.isfinite() & gradient.isfinite().all(1)) for value, gradient in found])
        if bool(bad.any()):
            raise FitError(
                f"the log-joint and its gradient must be finite where a chain starts, but they are not in {int(bad.sum())} of "
                f"{len(start)} chains; standardise the data, or start at the mode, start=MAP().",
                0,
                {},
            )
        self.target: Density = density
        faster = density.traceable and (compile or options.num_steps * sampler.gradients >= _TRACED)
        obstacle = density.log_joint.model.behaviour.why_not(COMPILING) or ""
        if faster and not sampler.traceable:
            self.target = traced_density(density, start[: density.num_chains], obstacle, compile=compile, notes=history.notes)
        self.chains = sampler.init(self.target, start, options.num_warmup)
        self.move: Step = lambda state: sampler.step(self.target, state)
        if faster and sampler.traceable:
            self.move = traced(self.move, self.chains, obstacle, compile=compile, notes=history.notes)
        self.step, self.divergences = 0, 0
        self.draws = start.new_zeros(len(start), options.num_samples, start.shape[1])
        self.stats: dict[str, torch.Tensor] = {}
        self.since: dict[str, torch.Tensor] = {}

    def advance(self) -> Told:
        """One step."""
        o, done, before = self.options, self.step, self.chains
        changed, told = self.move(before)
        after = {**before, **changed}
        if done < o.num_warmup:
            self.chains = self.sampler.warm_up(self.target, before, after, told, done, o.num_warmup)
            self.step += 1
            return told
        self.chains = after
        place, left = divmod(done - o.num_warmup + 1, o.thin)
        if "diverging" in told:
            self.divergences += int(told["diverging"].sum())
        for name, value in told.items():
            value = value.to(self.draws).nan_to_num(_FAR).clamp(-_FAR, _FAR)
            self.since[name] = self.since[name] + value if name in self.since else value
        if left == 0:
            self.draws[:, place - 1] = self.chains["u"]
            for name, value in self.since.items():
                column = self.stats.setdefault(name, self.draws.new_zeros(self.draws.shape[:2]))
                column[:, place - 1] = value / o.thin if name != "lp" else told[name].to(column)
            self.since = {}
        self.step += 1
        return told

    @property
    def kept(self) -> int:
        """Draws that each chain has so far."""
        return max(0, self.step - self.options.num_warmup) // self.options.thin

    def result(self) -> Sampled:
        """What there is."""
        draws, stats, o = self.draws[:, : self.kept], self.stats, self.options
        if not self.kept:
            draws, stats = self.chains["u"][:, None].clone(), {}
        stats = {name: value[:, : self.kept] for name, value in stats.items()}
        return Sampled(draws, stats, self.divergences, self.step, o.num_steps)

    def state(self) -> dict[str, Any]:
        """All that a checkpoint keeps."""
        tensors = {"draws": self.draws, **under("chains", self.chains), **under("stats", self.stats)}
        return {
            "step": self.step,
            "over": False,
            "stepper": {**tensors, **under("since", self.since), "divergences": self.divergences},
            "batches": {},
            **random_states(self.draws.device),
            "history": {"steps": list(self.history.steps), "objective": list(self.history.objective)},
            "watch": None,
            "losses": torch.zeros(0),
        }

    def take_up(self, checkpoint: Checkpoint) -> None:
        """Go on where a checkpoint stopped, if there is one."""
        checkpoint.check_room(self.state()["stepper"])
        found = checkpoint.load(self.draws.device, None)
        if found is None:
            return
        stepper = found["stepper"]
        self.step, self.draws, self.divergences = found["step"], stepper["draws"], stepper["divergences"]
        for part in ("chains", "stats", "since"):
            setattr(self, part, part_of(part, stepper))
        self.history.steps[:], self.history.objective[:] = found["history"]["steps"], found["history"]["objective"]
        self.history.notes.append(f"resumed from {checkpoint.path.name} after step {self.step:,}.")
        checkpoint.last = self.step
        restore_random(found)


def _health(told: Told) -> str:
    """Acceptance or energy error of a step, in words."""
    names = {"acceptance_rate": "acceptance", "energy_error": "energy error"}
    return ", ".join(f"{said} {float(told[name].mean()):.2g}" for name, said in names.items() if name in told)
