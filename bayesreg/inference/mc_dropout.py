"""Dropout as variational inference: the ELBO of a point times a random mask, W = M ∘ z(ε).

    ELBO = N/B Σ_batch E_z log p(yᵢ | f(xᵢ; M, z))  −  Σ_weights E_z[−log p(M ∘ z)]  +  Σ_layers H(z)      in nats

A masked point has no density, so the KL to a prior is known only up to a constant, the same for every M and rate (Hron,
Matthews and Ghahramani 2018); the constant is left out. A normal z (GaussianDropout) spreads a whole column along one line: its
KL there is E_z[−log p] − H(z) − log‖M_column‖. The last term is no constant, but it is no part of dropout as trained and is
left out too; the sum is then an expected penalty and no bound. Where σ is learned for each weight (VariationalDropout) the KL
is complete.
"""

from __future__ import annotations

import copy
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch

from bayesreg import _check
from bayesreg.behaviour import Behaviour, check_draws, together
from bayesreg.certificates.elbo import rise
from bayesreg.data.rows import Data
from bayesreg.inference.base import ConvergenceWarning, isolated
from bayesreg.inference.variational import AbstractVariational
from bayesreg.layers.copying import copied
from bayesreg.layers.sites import dotted
from bayesreg.model.model import BayesianModel
from bayesreg.objective.batched_buffers import ReplicaBuffers
from bayesreg.objective.flat import LogJoint
from bayesreg.posteriors.dirac import Dirac
from bayesreg.posteriors.masks import MaskedNetwork, Masks
from bayesreg.posteriors.record import FitRecord, stopped
from bayesreg.solvers.batches import resolve_batch
from bayesreg.solvers.compiled import make_stepper
from bayesreg.solvers.failures import FitError, rescuing
from bayesreg.solvers.history import History
from bayesreg.solvers.loop import run
from bayesreg.solvers.progress import ProgressCallback, reporter
from bayesreg.solvers.stepper import EagerAdam, checked_compile


class MCDropout(AbstractVariational):
    """Fit a network with dropout layers by its ELBO; the posterior samples masks as training did.

    The network needs layers of `bayesreg.layers` or torch's own dropout layers. The weights M are at the mode of the
    ELBO, whose KL is, layer by layer:

    | layer | KL to the declared prior, up to a constant (GaussianDropout: and − Σ log‖M_column‖) | source |
    |---|---|---|
    | Dropout, ChannelDropout, DropConnect | Σ (1−p)·E(w/(1−p)) + p·E(0), E = −log p(w) | Gal and Ghahramani 2016 |
    | ConcreteDropout | the same, − K·H(p) for K units; p is learned | Gal, Hron and Kendall 2017 |
    | GaussianDropout | Σ E[−log p(w)] under N(w, α w²), α = p/(1−p) | Srivastava et al. 2014, Kingma et al. 2015 |
    | VariationalDropout | Σ k₁ − k₁ sigmoid(k₂ + k₃ log α) + ½ log(1 + 1/α), to 1/|w| | Molchanov et al. 2017 |

    For Normal(τ) the first line is Σ w²/(2τ²(1−p)): weight decay, see `equivalents.dropout_decay`. With rate 0 the ELBO is the
    log-joint and its mode the MAP. Weights that no mask multiplies are at their mode under their prior.

    Args:
        num_steps: Steps; 5,000, or 50 epochs of mini-batches, when None.
        learning_rate: Adam's first rate, falling to zero along a cosine; 0.01 when None.
        batch_size: Rows a step; as for `MeanField`.
        warmup: Share of the steps over which the KL's weight rises from 0 to 1; sparse networks want about 0.3.
        compile: As for `MAP`.
        checkpoint: A file where a running fit keeps its state, to continue from it to the same answer; as for `MAP`.
        checkpoint_every: Steps between two states, a hundredth of the fit at least; a twentieth when None.
        checkpoint_key: A text that names a loader's data, in place of reading it.

    Raises:
        ValueError: If an argument is out of its range.

    References:
        Gal and Ghahramani (2016), Dropout as a Bayesian approximation. Hron, Matthews and Ghahramani (2018), Variational
        Bayesian dropout: pitfalls and fixes.
    """

    name: ClassVar[str] = "mc-dropout"
    when: ClassVar[str] = "A network that has dropout: it is fitted as it would be trained, and its masks are the posterior."

    def __init__(
        self,
        num_steps: int | None = None,
        learning_rate: float | None = None,
        batch_size: int | None = None,
        *,
        warmup: float = 0.0,
        compile: bool | str = "auto",
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int | None = None,
        checkpoint_key: str | None = None,
    ) -> None:
        super().__init__(num_steps, learning_rate, batch_size, checkpoint, checkpoint_every, checkpoint_key)
        self.warmup = _check.finite("warmup", warmup)
        if not 0 <= self.warmup < 1:
            raise ValueError(
                f"warmup must be a share of the steps, 0 <= warmup < 1, but {warmup!r} came; pass for example 0.3."
            )
        self.compile = checked_compile(compile)

    def run(self, model: BayesianModel, data: Data, *, seed: int, report: ProgressCallback) -> Masks:
        """Fit; see `AbstractMethod.run`."""
        started = time.perf_counter()
        history = History("elbo")
        bound = DropoutBound(LogJoint(model), data)
        history.notes.extend(bound.notes())
        parameter = torch.nn.Parameter(bound.start())
        parameter.grad = torch.zeros_like(parameter)
        batch_size = resolve_batch(self.batch_size, data, bound.log_joint)
        schedule = self.schedule(data, batch_size)
        taken = torch.zeros((), dtype=torch.long)

        def backward(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            noise = torch.randn(bound.network.row_size(len(x)), dtype=parameter.dtype, device=parameter.device)
            taken.add_(1)
            loss, elbo = bound.loss(parameter, x, y, noise, self._divergence_weight(int(taken), schedule.num_steps))
            loss.backward()
            return elbo

        history.notes.append(f"adam: {batch_size or 'all'} rows a step, a mask for each row.")
        stepper = make_stepper(
            self.compile,
            parameter,
            backward,
            bound.loss,
            lambda: next(data.epoch(batch_size or data.num_data)),
            obstacle=bound.no_compiling(self.warmup),
            num_steps=schedule.num_steps,
            notes=history.notes,
            noise_size=bound.network.row_size(batch_size or data.num_data),
            num_data=data.num_data,
            buffers=[*bound.network.module.buffers(), taken],
        )
        constant = data.num_data * model.log_jacobian

        def rescued(failure: FitError) -> Masks:
            stepper.restore(failure.state)
            phi, record = stepper.parameter.detach(), stopped(self.name, seed, history, failure)
            failure.posterior = Dirac(model, record, bound.split(phi)[0].clone())  # where the network cannot run any more
            return bound.posterior(phi, record)

        with rescuing(rescued):
            losses = run(
                stepper,
                data.batches(batch_size, torch.Generator().manual_seed(torch.initial_seed())),
                schedule,
                layout=bound.log_joint.layout,
                report=report,
                history=history,
                objective=lambda loss, point: constant - data.num_data * float(loss),
                checkpoint=self.keep(bound.log_joint, parameter.detach(), data, schedule, batch_size, seed),
            )
        certificate = rise(constant - data.num_data * losses)
        record = FitRecord(self.name, seed, history, certificate, time.perf_counter() - started)
        return bound.posterior(stepper.parameter.detach(), record)

    def _divergence_weight(self, step: int, num_steps: int) -> float:
        """The KL's weight at a step, counted from 1."""
        return min(1.0, step / (self.warmup * num_steps)) if self.warmup else 1.0

    def fit_each(
        self,
        models: Sequence[BayesianModel],
        sets: Sequence[tuple[Any, Any]],
        *,
        seed: int = 0,
        progress: bool | ProgressCallback = True,
    ) -> list[Masks]:
        """Fit one network to several sets of equally many rows at once, as for cross-validation: each step is vmapped.

        Batch normalisation has running statistics for each set.

        Args:
            models: One for each set, alike except in their initial weights.
            sets: Pairs (X, y).
            seed: Seed of all fits.
            progress: As for `fit`.

        Returns:
            One posterior a set; `elapsed` is the whole time divided by their number.

        Raises:
            ValueError: If the sets have different numbers of rows.

        Warns:
            ConvergenceWarning: If certificates are not passed; says how many, and what the first of them says.
        """
        if len(models) != len(sets) or not sets:
            raise ValueError(f"each set needs a model of its own, but {len(models)} models and {len(sets)} sets came.")
        if self.checkpoint is not None:
            raise ValueError("checkpoint keeps the state of one fit, but fit_each runs several at once; leave it out here.")
        with isolated(_check.seed(seed), models[0].like.device), reporter(progress, self.name) as report:
            started = time.perf_counter()
            pairs = [model.ingest(X, y) for model, (X, y) in zip(models, sets, strict=True)]
            bounds = [DropoutBound(LogJoint(model), data) for model, data in pairs]
            found, histories = _together(self, bounds, seed, report)
        each = (time.perf_counter() - started) / len(sets)
        fits = [
            bound.posterior(phi, FitRecord(self.name, seed, history, rise(torch.tensor(history.objective)), each))
            for bound, phi, history in zip(bounds, found, histories, strict=True)
        ]
        doubtful = [fit.certificate.sentence for fit in fits if not fit.certificate.converged]
        if doubtful:
            said = f"{self.name}: {len(doubtful)} of {len(fits)} fits; the first of them: {doubtful[0]}"
            warnings.warn(said, ConvergenceWarning, stacklevel=2)
        return fits


class DropoutBound:
    """The ELBO of one model as a function of (M, numbers that its layers learn), divided by −N.

    Args:
        log_joint: The model's flat log-joint.
        data: Its rows.

    Raises:
        ValueError: If the network has no dropout, draws numbers of its own, or the KL is not defined; says what to do.
    """

    def __init__(self, log_joint: LogJoint, data: Data) -> None:
        self.log_joint, self.data, self.num_data = log_joint, data, data.num_data
        model = log_joint.model
        self.network = MaskedNetwork(model)
        self.module = self.network.module.train()  # batch normalisation trains; masks are given, not drawn
        if not self.network.layers:
            raise ValueError(
                "MCDropout needs a network with dropout, but it has no dropout layer; add nn.Dropout(0.05) or one of "
                "bayesreg.layers, or fit by method='map'."
            )
        self._check(next(data.epoch())[0][:64])
        self.learned = [
            (dotted(name, buffer), getattr(layer, buffer))
            for name, layer in self.network.layers.items()
            for buffer in layer.learned
        ]

    def _check(self, x: torch.Tensor) -> None:
        model, network = self.log_joint.model, self.network
        if model.outputs:
            raise ValueError("MCDropout needs priors on weights only, but a prior on outputs came; leave `outputs` out.")
        for name, latent in model.latents.items():
            if latent.parents:
                raise ValueError(
                    f"MCDropout needs fixed scales, since a mode over weights and their scale runs to scale zero, but that of "
                    f"{name} is unknown; fix it, or take method='mean-field'."
                )
            if name in network.weights:
                segment = self.log_joint.layout.segments[name]
                if segment.transform is not None:
                    raise ValueError(
                        f"a weight under dropout must be allowed to be 0, but the prior of {name}, {latent.prior}, has only "
                        "part of the real line as its support; take a prior on all of it."
                    )
                network.layers[network.weights[name]].check(latent.prior, model.weights()[name])
        noise = x.new_zeros(network.row_size(len(x)), dtype=model.like.dtype)
        values, buffers = model.weights(), network.named_by_row(noise, len(x))
        own = "which no posterior could repeat"
        check_draws(model.module, lambda: model.forward(values, x, copied(self.module), buffers), own)

    def notes(self) -> list[str]:
        """The parts of the ELBO, one sentence each."""
        said = [
            f"{name or 'the network'}: {self.network.layers[name].text}, on {', '.join(site.weights) or 'no weight directly'}."
            for name, site in self.network.sites.items()
        ]
        said.append("the KL of a point times a random mask is known up to a constant, which is left out of the ELBO.")
        left_out = dict.fromkeys(self.network.layers[name].left_out for name in self.network.sites)
        return said + list(filter(None, left_out))

    def no_compiling(self, warmup: float) -> str:
        """Why a whole step cannot be compiled, or an empty text."""
        if self.data.x is None:
            return "the rows are streamed by a loader"
        if Behaviour(self.module).normalising:
            return "batch normalisation changes its buffers at each step"
        if not self.log_joint.model.behaviour.traceable:
            return f"{type(self.log_joint.model.module).__name__} has steps that cannot be traced"
        return "the KL's weight changes from step to step" if warmup else ""

    def start(self) -> torch.Tensor:
        """Where a fit starts, (P + V,)."""
        return self.flatten(self.log_joint.layout.flatten(self.log_joint.model.start(*next(self.data.epoch()))))

    def flatten(self, u: torch.Tensor) -> torch.Tensor:
        """(P + V,): the unknowns, then what the layers learn at its present values."""
        return torch.cat([u, *[value.reshape(-1).to(u) for _, value in self.learned]])

    def split(self, phi: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The unknowns (P,), and what the layers learn, by the buffer's dotted name."""
        u, *rest = phi.split([self.log_joint.layout.size, *[value.numel() for _, value in self.learned]])
        return u, {name: part.view(value.shape) for (name, value), part in zip(self.learned, rest, strict=True)}

    def loss(
        self,
        phi: torch.Tensor,
        x: torch.Tensor,
        y: torch.Tensor,
        noise: torch.Tensor,
        weight: float = 1.0,
        statistics: Mapping[str, torch.Tensor] | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Minus the ELBO divided by N, from one batch and one ε, (`network.row_size(B)`,), as a scalar with gradient.

        `phi` is as for `flatten`; `weight` is that of the KL; `statistics` replace the module's buffers, and batch
        normalisation writes them. Also returned is the same with the KL's weight at 1, detached where possible.
        """
        model = self.log_joint.model
        u, learned = self.split(phi)
        values = self.log_joint.layout.unflatten(u)
        buffers = {**(statistics or {}), **self.network.named_by_row(noise, len(x)), **learned}
        output = model.forward(values, x, self.module, buffers)
        rows = self.log_joint.of_output(output, y, values) * (-1 / self.data.rows_a_batch(x))
        divergence = self.divergence(u, values, learned) * (1 / self.num_data)
        return rows + weight * divergence, (rows + divergence).detach()

    def divergence(self, u: torch.Tensor, values: dict[str, torch.Tensor], learned: dict[str, torch.Tensor]) -> torch.Tensor:
        """Σ E[−log p(W)] − Σ H(z), a scalar in nats."""
        total = u.new_zeros(())
        for name, latent in self.log_joint.model.latents.items():
            if name not in self.network.weights:
                total = total - latent.prior.log_prob(values[name])
        for name, site in self.network.sites.items():
            layer = self._with(name, learned)
            for weight in filter(values.__contains__, site.weights):  # others are constants
                total = total + layer.expected_energy(self.log_joint.model.latents[weight].prior, values[weight])
            total = total - layer.entropy(site.draw.numel())
        return total

    def _with(self, name: str, learned: dict[str, torch.Tensor]) -> Any:
        """A shallow copy of the layer with other learned numbers, so that they may be traced."""
        layer = self.network.layers[name]
        if not layer.learned:
            return layer
        made = copy.copy(layer)
        made._buffers = {**layer._buffers, **{b: learned[dotted(name, b)] for b in layer.learned}}
        return made

    def posterior(self, phi: torch.Tensor, record: FitRecord) -> Masks:
        """The posterior; learned numbers and batch normalisation's statistics go into its model's buffers."""
        u, learned = self.split(phi)
        with torch.no_grad():
            for name, value in learned.items():
                self.module.get_buffer(name).copy_(value)
        return Masks(self.log_joint.model.with_buffers(self.module), record, u.clone())


def _together(
    method: MCDropout, bounds: Sequence[DropoutBound], seed: int, report: ProgressCallback
) -> tuple[list[torch.Tensor], list[History]]:
    """All fits step by step: (P + V,) and the history of each, with the ELBO of every step.

    Each bound's own module afterwards holds batch normalisation's statistics of its set.

    Raises:
        ValueError: As `fit_each` does.
    """
    first, rows = bounds[0], {bound.num_data for bound in bounds}
    unlike = len({repr(bound.log_joint.model.prior_table()) for bound in bounds}) > 1
    if len(rows) > 1 or unlike or any(bound.data.x is None for bound in bounds):
        came = f"{', '.join(map(str, sorted(rows)))} rows came{' and models that differ' if unlike else ''}"
        raise ValueError(
            "sets that are fitted together must be arrays with equally many rows, and their models must have the same tensors "
            f"and priors, but {came}; fit them one by one."
        )
    x, y = (torch.stack([getattr(bound.data, name) for bound in bounds]) for name in ("x", "y"))
    start = torch.stack([bound.start() for bound in bounds])
    count, size, num_data = len(bounds), first.log_joint.layout.size, rows.pop()
    # the unknowns of all, then what the layers learn, so that an error finds the names
    parameter = torch.nn.Parameter(torch.cat([start[:, :size].reshape(-1), start[:, size:].reshape(-1)]))
    parameter.grad = torch.zeros_like(parameter)
    batch_size = resolve_batch(method.batch_size, first.data, first.log_joint)
    schedule = method.schedule(first.data, batch_size)
    losses: list[torch.Tensor] = []
    noises = [dotted(name, leaf) for name, layer in first.network.layers.items() for leaf in layer._buffers]
    statistics = ReplicaBuffers([bound.module for bound in bounds], count, noises)
    loss_of = together(first.log_joint.model.behaviour, first.loss, (0, 0, 0, 0, None, statistics.axes))

    def members(flat: torch.Tensor) -> torch.Tensor:
        return torch.cat([flat[: count * size].view(count, size), flat[count * size :].view(count, -1)], 1)

    def backward(index: torch.Tensor, _: torch.Tensor) -> torch.Tensor:
        noise = torch.randn(count, first.network.row_size(len(index)), dtype=x.dtype, device=x.device)
        weight = method._divergence_weight(len(losses) + 1, schedule.num_steps)
        loss, elbo = loss_of(members(parameter), x[:, index], y[:, index], noise, weight, statistics.values)
        loss.sum().backward()
        losses.append(elbo)
        return elbo.sum()

    index, history = torch.arange(num_data, device=x.device), History("elbo")
    stepper = EagerAdam(parameter, backward, buffers=list(statistics.values.values()))

    def rescued(failure: FitError) -> Masks:  # of the first set: an error carries one posterior
        stepper.restore(failure.state)
        statistics.write(0, first.module)
        return first.posterior(members(parameter.detach())[0], stopped(method.name, seed, history, failure))

    with rescuing(rescued):
        run(
            stepper,
            Data(num_data, index, index).batches(batch_size, torch.Generator().manual_seed(torch.initial_seed())),
            schedule,
            layout=first.log_joint.layout,
            report=report,
            history=history,
            objective=lambda loss, point: -num_data * float(loss),
        )
    elbos = -num_data * torch.stack(losses).double().cpu()
    histories = []
    for member, (bound, own) in enumerate(zip(bounds, elbos.T, strict=True)):
        statistics.write(member, bound.module)
        own = own + num_data * bound.log_joint.model.log_jacobian
        notes = [*bound.notes(), f"adam: {batch_size or 'all'} rows a step, {count} fits in each step."]
        histories.append(History("elbo", list(range(len(own))), own.tolist(), notes))
    return list(members(parameter.detach())), histories
