"""A Bayesian model: forward map × priors × likelihood, over data in their own units.

    log p(y, θ | x) = N/B · Σ_batch log p(yᵢ | f(xᵢ; θ)) + log p(θ)          (a sum over the data set, in nats)

`pyro_model` is that sentence as a Pyro program; `inference.flat.LogJoint` is the same number without Pyro's overhead.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import nn
from torch.func import functional_call

from bayesreg import _check
from bayesreg.data import Data, Standardization, as_tensor, length_of, rows_of, unpack
from bayesreg.likelihoods import AbstractLikelihood, Gaussian
from bayesreg.priors import AbstractPrior
from bayesreg.spec import PriorRow, PriorSpec, PriorTable, Resolved, Rules, row

Values = Mapping[str, torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Latent:
    """One unknown of the model.

    Attributes:
        name: Dotted parameter name, or the noise's name.
        shape: Its shape.
        prior: Its prior, with every scale worked out.
        is_noise: True for the likelihood's own unknowns.
    """

    name: str
    shape: torch.Size
    prior: AbstractPrior
    is_noise: bool = False


class BayesianModel:
    """A module with a prior on its weights and a likelihood on its output.

    The module is copied here; the person's own is never changed, nor is the copy by any call of this package.

    Args:
        module: Any `torch.nn.Module` that maps x (B, ...) to an output (B,), (B, 1) or (B, K). Its present weights are
            where a fit starts. Parameters with requires_grad=False are constants.
        priors: Rules from patterns to priors (see `PriorSpec`), one prior for all, or None for the defaults:
            Normal(1.0, fan_in=True) on weights, Normal(1.0) on biases, flat on normalisation layers.
        likelihood: What is assumed about the noise; Gaussian with a learned noise scale when None.
        standardize: Work on standardised x and, for a location likelihood, y, with statistics of the training rows.
            Priors then speak about standardised data; everything that comes back is in the data's own units.

    Raises:
        ValueError: If a rule matches nothing, a parameter is not floating-point, or an argument is of the wrong kind.

    >>> from bayesreg import priors
    >>> model = BayesianModel(nn.Linear(3, 1), priors={"weight": priors.Laplace(0.1)})
    >>> print(model.prior_table())
    tensor       shape   prior                  scale  penalty              source
    weight       1 × 3   Laplace(scale=0.1)     0.1    Σ |w| / 0.1          name 'weight'
    bias         1       Normal(scale=1.0)      1      Σ w² / (2·1²)        default
    noise_scale  scalar  HalfNormal(scale=1.0)  1      Σ w² / (2·1²), w ≥ 0 likelihood
    """

    def __init__(
        self,
        module: nn.Module,
        priors: Rules | AbstractPrior | PriorSpec | None = None,
        likelihood: AbstractLikelihood | None = None,
        standardize: bool = False,
    ) -> None:
        if not isinstance(module, nn.Module):
            raise ValueError(
                f"module must be a torch.nn.Module, but {type(module).__name__} came; wrap the function in a module."
            )
        if likelihood is not None and not isinstance(likelihood, AbstractLikelihood):
            raise ValueError(
                f"likelihood must be one of bayesreg.likelihoods, but {likelihood!r} came; write for example "
                "likelihoods.Gaussian(noise_scale=priors.HalfNormal(1.0))."
            )
        self.spec = PriorSpec(priors)
        self.likelihood = likelihood or Gaussian()
        self.standardize = bool(standardize)
        self.standardization: Standardization | None = None
        self.num_data: int | None = None
        self.row_shape: torch.Size | None = None
        self.resolved: list[Resolved] = self.spec.resolve(module)
        if next(module.parameters(), None) is None:
            raise ValueError(
                "a model must have something to learn, but the module has no parameter; give it a layer with weights."
            )
        self.module = copy.deepcopy(module).eval()
        # every place where a tensor stands: torch's own tying of weights swaps a module that is used twice two times
        names = {id(module.get_parameter(r.name)): r.name for r in self.resolved}
        self._places: dict[str, str] = {
            f"{prefix}.{leaf}" if prefix else leaf: names[id(parameter)]
            for prefix, owner in module.named_modules()
            for leaf, parameter in owner.named_parameters(recurse=False)
            if id(parameter) in names
        }
        self.latents: dict[str, Latent] = {r.name: Latent(r.name, r.shape, r.prior) for r in self.resolved}
        for name, prior in self.likelihood.latents.items():
            if name in self.latents:
                raise ValueError(f"{name} is the likelihood's name for the noise, but the module has a parameter of that name.")
            self.latents[name] = Latent(name, torch.Size(), prior, is_noise=True)
        like = self.like
        self._known_noise = {name: like.new_tensor(value) for name, value in self.likelihood.fixed.items()}
        if not self.latents:
            raise ValueError("a model must have something to learn, but every parameter has requires_grad=False.")

    @property
    def like(self) -> torch.Tensor:
        """An empty tensor with the module's dtype and device."""
        first = next(self.module.parameters())
        return torch.empty(0, dtype=first.dtype, device=first.device)

    @property
    def num_parameters(self) -> int:
        """P, the number of unknowns, the noise included."""
        return sum(latent.shape.numel() for latent in self.latents.values())

    @property
    def is_deterministic(self) -> bool:
        """False where training differs from evaluation: batch normalisation or dropout in the module."""
        stochastic = (nn.modules.batchnorm._NormBase, nn.modules.dropout._DropoutNd)
        return not any(isinstance(m, stochastic) for m in self.module.modules())

    def prior_table(self) -> PriorTable:
        """What is assumed about every unknown, before any fit.

        Returns:
            A table with tensor, shape, prior, the scale used, the penalty, and the rule it came from.
        """
        rows = [row(r) for r in self.resolved]
        for latent in self.latents.values():
            if latent.is_noise:
                rows.append(row(Resolved(latent.name, latent.shape, latent.prior, latent.prior, "likelihood")))
        for name, value in self.likelihood.fixed.items():
            rows.append(PriorRow(name, "scalar", "known", f"{value:.4g}", "–", "likelihood"))
        return PriorTable(tuple(rows))

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> BayesianModel:
        """The same model with its module on another device, or in another floating type.

        Args:
            device: Where to; where it is when None.
            dtype: Which type; the one it has when None.

        Returns:
            A new model; this one is unchanged.
        """
        moved = copy.copy(self)
        moved.module = copy.deepcopy(self.module).to(device=device, dtype=dtype)
        moved._known_noise = {name: value.to(moved.like) for name, value in self._known_noise.items()}
        if self.standardization is not None:
            moved.standardization = self.standardization.to(moved.like.device)
        return moved

    def with_buffers(self, module: nn.Module) -> BayesianModel:
        """The same model with the buffers of a training copy (batch normalisation's running statistics).

        Args:
            module: A module of the same structure.

        Returns:
            A new model; this one is unchanged.
        """
        found = dict(module.named_buffers())
        if not found:
            return self
        carried = copy.copy(self)
        carried.module = copy.deepcopy(self.module)
        for name, buffer in carried.module.named_buffers():
            buffer.copy_(found[name])
        return carried

    def bind(self, X: Any, y: Any = None, *, num_data: int | None = None) -> BayesianModel:
        """The same model, knowing N and, when it standardises, the training statistics. `fit` calls this.

        Args:
            X: Training inputs, as for `fit`.
            y: Training targets, as for `fit`.
            num_data: N, where a loader cannot tell.

        Returns:
            A new model; this one is unchanged.
        """
        return self.ingest(X, y, num_data=num_data)[0]

    def ingest(self, X: Any, y: Any = None, *, num_data: int | None = None) -> tuple[BayesianModel, Data]:
        """Check the training data, bind the model to them, and prepare them.

        Args:
            X: Training inputs: NumPy array, tensor, data frame, `Dataset` or `DataLoader`.
            y: Training targets; None for a data set or loader.
            num_data: N, where a loader cannot tell.

        Returns:
            The bound model and the prepared rows.

        Raises:
            ValueError: If the data are not finite numbers of one length that fit the module and the likelihood.
        """
        came = rows_of(X, y)
        bound = copy.copy(self)
        streamed = not isinstance(came, tuple)
        raw = came if streamed else [came]
        if streamed:
            bound.num_data = length_of(came, num_data)
        else:
            bound.num_data = len(came[0])
            if num_data not in (None, bound.num_data):
                raise ValueError(
                    f"num_data must be the number of rows, but {num_data} came for {bound.num_data} rows; "
                    "leave it out, or pass a DataLoader when these rows are only a part."
                )
        if self.standardize:
            pairs = (self._checked(*unpack(batch)) for batch in raw)
            target = self.likelihood.location_scale
            bound.standardization = Standardization.of(pairs, target).to(self.like.device)
        batch = next(iter(raw), None)
        if batch is None:
            raise ValueError("a loader must give rows, but it gave no batch; check its batch_size, drop_last and data set.")
        first = bound.prepare(*unpack(batch))
        bound.row_shape = first[0].shape[1:]
        output = bound._check_forward(*first)
        if streamed:

            def prepare(x: Any, y: Any) -> Any:
                x, y = bound.prepare(x, y)
                self.likelihood.check_output(output, y)
                return x, y

            return bound, Data(bound.num_data, None, None, came, prepare)
        return bound, Data(bound.num_data, *first)

    def prepare(self, x: Any, y: Any = None) -> Any:
        """Data in the model's dtype, on its device, and in the units that it works in.

        Args:
            x: Inputs (B, ...) in their own units.
            y: Targets in their own units, or None.

        Returns:
            Prepared x, or the pair of prepared x and y when y is given.

        Raises:
            ValueError: If the model standardises but has not seen training data, or the data do not fit.
        """
        if self.standardize and self.standardization is None:
            raise ValueError(
                "a model with standardize=True must know its training statistics, but it has seen no data; "
                "call model = model.bind(X, y) first (fit does so)."
            )
        x, y = self._checked(x, y)
        if self.row_shape is not None and (x.dim() != len(self.row_shape) + 1 or x.shape[1] != self.row_shape[0]):
            raise ValueError(
                f"each row of X must have shape {tuple(self.row_shape)}, as in the fit, but {tuple(x.shape[1:])} came; pass "
                "the same columns, and a single row as an array of shape (1, ...)."
            )
        if self.standardization is not None:
            # in float64, and only then in the model's type: an offset of 10⁶ sds would eat a float32's digits
            x = x if self._takes_integers else self.standardization.x(x.double())
            y = y if y is None or not self.likelihood.location_scale else self.standardization.y(y)
        return self._cast(x) if y is None else (self._cast(x), self._cast(y))

    def forward(self, values: Values, x: torch.Tensor, module: nn.Module | None = None) -> torch.Tensor:
        """The network's output at prepared inputs, with these weights.

        Args:
            values: Weights by dotted name; the noise may be among them.
            x: Prepared inputs (B, ...).
            module: Another module of the same structure, for a training copy.

        Returns:
            (B,) for one output a row, else (B, K).
        """
        weights = {place: values[name] for place, name in self._places.items()}
        return one_column(functional_call(module or self.module, weights, (x,), tie_weights=False))

    def noise(self, values: Values) -> dict[str, torch.Tensor]:
        """The noise's numbers, learned or known, in the units that the model works in."""
        return {**self._known_noise, **{name: values[name] for name in self.likelihood.latents}}

    def log_prior(self, values: Values) -> torch.Tensor:
        """Log p(θ), a scalar in nats.

        Args:
            values: Every unknown by name, in constrained space.

        Returns:
            Scalar.
        """
        return sum((lat.prior.log_prob(values[name]) for name, lat in self.latents.items()), self.like.new_zeros(()))

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

    def log_joint(self, values: Values, x: Any, y: Any, num_data: int | None = None) -> torch.Tensor:
        """Log p(y, θ | x) = log-likelihood + log-prior, a scalar in nats; arguments as for `log_likelihood`."""
        return self.log_likelihood(values, x, y, num_data) + self.log_prior(values)

    @property
    def log_jacobian(self) -> float:
        """What standardisation adds to the log-density of one row, in nats."""
        if self.standardization is None or not self.likelihood.location_scale:
            return 0.0
        return self.standardization.log_jacobian

    def total(self, num_data: int | None = None) -> int:
        """N: what is given, else what the model is bound to.

        Raises:
            ValueError: If neither is known; a batch cannot tell.
        """
        if num_data is None and self.num_data is None:
            raise ValueError(
                "N must be known, since it weighs the data against the prior, but the model has seen no data; pass num_data=N, "
                "or call model = model.bind(X, y) first."
            )
        return self.num_data if num_data is None else _check.count("num_data", num_data)  # pyright: ignore

    def pyro_model(self, x: Any, y: Any = None, num_data: int | None = None) -> torch.Tensor:
        """The model as a Pyro program, over data in their own units.

        Sites: one for each unknown under its dotted name, and "y" inside the plate "data", which scales a batch by N/B.

        Args:
            x: Inputs (B, ...).
            y: Targets; None to draw them.
            num_data: N; what the model was bound to when None.

        Returns:
            The targets, observed or drawn, in their own units.
        """
        options = {"dtype": self.like.dtype, "device": self.like.device}
        values = {
            name: pyro.sample(name, latent.prior.distribution(latent.shape, **options)) for name, latent in self.latents.items()
        }
        if y is None:
            inputs = self.prepare(x)
            total = len(inputs)
        else:
            inputs, _ = self.prepare(x, y)
            y = self._cast(self._checked(x, y)[1])
            total = self.total(num_data)
        targets = self.likelihood.distribution(self.forward(values, inputs), **self.noise(values))
        s = self.standardization
        if s is not None and self.likelihood.location_scale:
            mean, scale = s.y_mean.to(self.like.dtype), s.y_scale.to(self.like.dtype)
            affine = dist.transforms.AffineTransform(mean, scale, event_dim=targets.event_dim)
            targets = dist.TransformedDistribution(targets, affine)
        rows = torch.arange(len(inputs), device=inputs.device)
        with pyro.plate("data", total, subsample=rows):
            return pyro.sample("y", targets, obs=y)

    @property
    def _takes_integers(self) -> bool:
        return any(isinstance(m, (nn.Embedding, nn.EmbeddingBag)) for m in self.module.modules())

    def _cast(self, values: torch.Tensor) -> torch.Tensor:
        """In the model's dtype, but whole numbers stay whole: class labels, and indices of an embedding."""
        return values.to(self.like.dtype) if values.is_floating_point() else values

    def _checked(self, x: Any, y: Any) -> Any:
        """Checked tensors on the model's device, in the data's own units and type; x floating unless it holds indices.

        Raises:
            ValueError: If the rows do not match, or the target does not fit the likelihood.
        """
        x = as_tensor("X", x)
        x = (x[:, None] if x.dim() == 1 else x).to(self.like.device)
        x = x if self._takes_integers or x.is_floating_point() else x.double()
        if y is not None:
            y = as_tensor("y", y).to(self.like.device)
            y = y[:, 0] if y.dim() == 2 and y.shape[1] == 1 else y
            y = self.likelihood.target(y if y.is_floating_point() else y.long(), torch.float64)
            if len(x) != len(y):
                raise ValueError(f"X and y must have one row for each other, but {len(x):,} and {len(y):,} rows came.")
        return x, y

    def _check_forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        values = {r.name: p for r, p in zip(self.resolved, self._parameters(), strict=True)}
        try:
            with torch.no_grad():
                output = self.forward(values, x[:2])
        except RuntimeError as error:
            raise ValueError(
                f"the module must accept rows of shape {tuple(x.shape[1:])}, but it failed on them: {error}; "
                "check the first layer's number of inputs."
            ) from error
        if len(output) != len(x[:2]):
            raise ValueError(f"the module must give one output a row, but {len(x[:2])} rows gave {tuple(output.shape)}.")
        self.likelihood.check_output(output, y)
        return _check.all_finite("the network's output at its first weights", output)

    def _parameters(self) -> list[torch.Tensor]:
        return [self.module.get_parameter(r.name).detach() for r in self.resolved]

    def start(self, x: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
        """Where a fit starts: the module's own weights, and the noise that their residuals show.

        Args:
            x: Prepared inputs.
            y: Prepared targets.

        Returns:
            Every unknown by name, in constrained space, detached copies.
        """
        values = {}
        for r, parameter in zip(self.resolved, self._parameters(), strict=True):
            inside = bool(r.prior.support.check(parameter).all())
            values[r.name] = parameter.clone() if inside else parameter.abs().clamp_min(1e-3)  # positive supports
        with torch.no_grad():
            guess = self.likelihood.start(self.forward(values, x[:1024]), y[:1024])
        return {**values, **{name: guess[name] for name, latent in self.latents.items() if latent.is_noise}}


def one_column(output: torch.Tensor) -> torch.Tensor:
    """(B, 1) as (B,), and the () that a module's own squeeze makes of one row as (1,)."""
    if output.dim() == 0:
        return output[None]
    return output.squeeze(-1) if output.dim() == 2 and output.shape[1] == 1 else output
