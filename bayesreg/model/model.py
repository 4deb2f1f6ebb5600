"""A Bayesian model: forward map × priors × likelihood, over data in their own units.

    log p(y, θ | x) = N/B · Σ_batch [log p(yᵢ | f(xᵢ; θ)) + log p(aᵢ)] + log p(θ)    (a sum over the data set, in nats)

aᵢ are the activations that have a prior of their own, if any. `pyro_model` is the same model as a Pyro program;
`objective.LogJoint` is the same number without Pyro's overhead.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import pyro
import pyro.distributions as dist
import torch

from bayesreg import _check
from bayesreg._memory import MAX_MEMORY, check_draws, together
from bayesreg.model import prior_predictive, program
from bayesreg.model.prior_table import PriorRow, PriorTable
from bayesreg.model.spec import Resolved, layer_notes, row
from bayesreg.model.units import AbstractBoundModel
from bayesreg.model.unknowns import check_sites, inside, root_mean_square, rows_of_scales
from bayesreg.predictive.mixture import Predictive

Values = Mapping[str, torch.Tensor]


@final
class BayesianModel(AbstractBoundModel):
    """A module with a prior on its weights and a likelihood on its output.

    The module is copied here; neither the user's own nor the copy is changed by any call of this package.

    Args:
        module: Any `torch.nn.Module` that maps x (B, ...) to an output (B,), (B, 1) or (B, K); (B, 2K) where it also predicts
            the noise. Its present weights are where a fit starts. Parameters with requires_grad=False are constants.
        priors: Rules from patterns to priors (see `PriorSpec`), one prior for all, or None for the defaults: Normal(1.0,
            fan_in=True) on weights, Normal(1.0) on biases, flat on normalisation layers.
        likelihood: What is assumed about the noise; Gaussian with a learned noise scale when None.
        standardize: Work on standardised x and, for a location likelihood, y, with statistics of the training rows. Priors then
            speak about standardised data; everything that comes back is in the data's own units. "auto" does so where x or y,
            in their own units, are out of reach of the priors (see `model.reach`), and says so.
        outputs: Priors on layers' outputs, from a module's name, a glob or a module type to a prior over one row's activation:
            {"2": priors.Laplace(1.0)}. See `model.activations`.

    Raises:
        ValueError: If a rule matches nothing, a parameter is not floating-point, or an argument is of the wrong kind.

    >>> from torch import nn
    >>> from bayesreg import priors
    >>> model = BayesianModel(nn.Linear(3, 1), priors={"weight": priors.Laplace(0.1)})
    >>> print(model.prior_table())
    tensor       shape   prior                  scale  penalty              source
    weight       1 × 3   Laplace(scale=0.1)     0.1    Σ |w| / 0.1          name 'weight'
    bias         1       Normal(scale=1.0)      1      Σ w² / (2·1²)        default
    noise_scale  scalar  HalfNormal(scale=1.0)  1      Σ w² / (2·1²), w ≥ 0 likelihood
    """

    def prior_table(self) -> PriorTable:
        """What is assumed about every unknown, before any fit.

        Returns:
            A table with tensor, shape, prior, the scale used, the penalty, and the rule it came from.
        """
        notes = layer_notes(self.module, self.resolved, self.row_shape)
        rows = [line for r in self.resolved for line in (row(r, notes.get(r.name, "")), *rows_of_scales(r.name, self.latents))]
        rows += [output.row for output in self.outputs]
        for latent in self.latents.values():
            if latent.is_noise:
                rows.append(row(Resolved(latent.name, latent.shape, latent.prior, latent.prior, "likelihood")))
                rows += rows_of_scales(latent.name, self.latents)
        for name, value in self.likelihood.fixed.items():
            rows.append(PriorRow(name, "scalar", "known", f"{value:.4g}", "–", "likelihood"))
        for name, note in self.likelihood.network_noise.items():
            rows.append(PriorRow(name, "each row", "the network's output", "–", "–", "likelihood", note))
        return PriorTable(tuple(rows), self.unit_notes)

    def log_likelihood(self, values: Values, x: Any, y: Any, num_data: int | None = None) -> torch.Tensor:
        """Log p(y | x, θ) of the whole data set, a scalar in nats, in the data's own units.

        Args:
            values: Every unknown by name, in constrained space and in the units that the model works in, as
                `posterior.sample(units="model")` gives them.
            x: Inputs (B, ...) in their own units.
            y: Targets in their own units.
            num_data: N; what the model was bound to when None. A batch of B counts N/B times.

        Returns:
            Scalar.
        """
        x, y = self.prepare(x, y)
        total = self.total(num_data)
        rows = self.likelihood.log_prob_sum(self.forward(values, x), y, **self.noise(values))
        return rows * (total / len(x)) + total * self.log_jacobian

    def log_activity(self, values: Values, x: Any, num_data: int | None = None) -> torch.Tensor:
        """Log-density of the activations that have a prior, N/B · Σ_batch, a scalar in nats; as for `log_likelihood`."""
        prepared = self.prepare(x)
        rows = self.forward_with_activity(values, prepared)[1] if self.outputs else self.like.new_zeros(())
        return rows.sum() * (self.total(num_data) / len(prepared))

    def log_joint(self, values: Values, x: Any, y: Any, num_data: int | None = None) -> torch.Tensor:
        """Log p(y, θ | x) = log-likelihood + log-prior (+ that of activations), a scalar in nats; as for `log_likelihood`."""
        joint = self.log_likelihood(values, x, y, num_data) + self.log_prior(values)
        return joint + self.log_activity(values, x, num_data) if self.outputs else joint

    def sample_prior(self, num_samples: int = 1000, *, seed: int = 0, max_memory: int = MAX_MEMORY) -> dict[str, torch.Tensor]:
        """Draws of every unknown from the prior, by name, (S, *shape), in the model's units; as for `prior_predictive`."""
        check_draws(count := _check.count("num_samples", num_samples), self.num_parameters, self.like, max_memory)
        return together(prior_predictive.in_blocks(self.latents, self.like, count, _check.seed(seed)))

    def prior_predictive(self, X: Any, num_samples: int = 1000, seed: int = 0, *, max_memory: int = MAX_MEMORY) -> Predictive:
        """What the priors say about y before any data are fitted: p(y | x) with weights and noise drawn from the prior.

        A model that standardises must know its statistics first: `model.bind(X, y)`. Priors on outputs are left out: they
        concern the fit. Untrained batch normalisation uses the statistics of X, for each draw its own.

        Args:
            X: Inputs (N, ...), in the data's own units.
            num_samples: S.
            seed: Same seed, same draws; the global random state is not touched.
            max_memory: Bytes that the stored outputs may take.

        Returns:
            The predictive, in the data's own units, one component a draw.

        Raises:
            ValueError: If a prior is improper and has no draws, X does not fit, or the outputs not into `max_memory`.

        >>> from torch import nn
        >>> from bayesreg import likelihoods, priors
        >>> model = BayesianModel(nn.Linear(1, 1, bias=False), priors.Normal(2.0), likelihoods.Gaussian(1.0))
        >>> found = model.prior_predictive([[3.0]], num_samples=20_000)
        >>> bool((found.variance - (3**2 * 2**2 + 1)).abs() < 2)
        True
        """
        inputs, count = self.prepare(X), _check.count("num_samples", num_samples)
        module = self.behaviour.evaluation()
        draws = prior_predictive.in_blocks(self.latents, self.like, count, _check.seed(seed))
        through: Any = (draws, lambda draw: self.forward(draw, inputs, module), self.noise, count, max_memory)
        return prior_predictive.predicted(self.likelihood, self.standardization, *through)

    def pyro_model(self, x: Any, y: Any = None, num_data: int | None = None) -> torch.Tensor:
        """The model as a Pyro program, over data in their own units.

        Sites: one for each unknown under its dotted name, parents first, and "y" inside the plate "data", which scales a batch
        by N/B; the factor "outputs" is there too when layers' outputs have priors. Sites may have leading axes, under
        `Predictive(parallel=True)` and vectorised particles: the draws then go through the network at once.

        Args:
            x: Inputs (B, ...).
            y: Targets; None to draw them.
            num_data: N; what the model was bound to when None.

        Returns:
            The targets, observed or drawn, in their own units.
        """
        check_sites(self.latents, ("y", "data", *(["outputs"] if self.outputs else [])))
        options = {"dtype": self.like.dtype, "device": self.like.device}
        values: dict[str, torch.Tensor] = {}
        for name, latent in self.latents.items():
            values[name] = pyro.sample(name, program.prior_of(latent, self.latents, values, options))
        if y is None:
            inputs = self.prepare(x)
            total = len(inputs)
        else:
            inputs, _ = self.prepare(x, y)
            y = self._cast(self._checked(x, self.targets(y))[1])
            total = self.total(num_data)
        targets, activations = program.targets_of(self, values, inputs)
        s = self.standardization
        if s is not None and self.likelihood.location_scale:
            mean, scale = s.y_mean.to(self.like.dtype), s.y_scale.to(self.like.dtype)
            affine = dist.transforms.AffineTransform(mean, scale, event_dim=targets.event_dim)
            targets = dist.TransformedDistribution(targets, affine)
        rows = torch.arange(len(inputs), device=inputs.device)
        with pyro.plate("data", total, subsample=rows):
            if self.outputs and y is not None:
                pyro.factor("outputs", activations)
            return pyro.sample("y", targets, obs=y)

    def start(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        """Initial values of a fit: the module's own weights, scales that suit them, and the noise of the residuals.

        Args:
            x: Prepared inputs.
            y: Prepared targets.

        Returns:
            Every unknown by name, in constrained space, detached copies.
        """
        values = {name: inside(self.latents[name].prior, parameter) for name, parameter in self.weights().items()}
        with torch.no_grad():
            guess = self.likelihood.start(self.forward(values, x[:1024], self.behaviour.at_start(len(x))), y[:1024])
        for name, latent in self.latents.items():
            if latent.is_noise:
                values[name] = inside(latent.prior, guess[name])
        for name, latent in reversed(self.latents.items()):  # a child has its value before its scale
            if latent.kind == "scale":
                values[name] = inside(latent.prior, root_mean_square(values[latent.child], latent.shape))
        return {name: values[name] for name in self.latents}
