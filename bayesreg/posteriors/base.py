"""The interface of posteriors, one for all: a mode is a Dirac posterior.

Dirac     a point                       Gaussian  N(loc, covariance) over the unconstrained vector
Draws     stored draws of a sampler     Guide     a variational family
"""

from __future__ import annotations

import abc
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import nn

from bayesreg import _check
from bayesreg._memory import MAX_MEMORY, blocks, check_draws, together
from bayesreg._threads import own
from bayesreg.certificates.certificate import Certificate
from bayesreg.model.model import BayesianModel
from bayesreg.model.unknowns import heir
from bayesreg.objective.flat import FlatLayout
from bayesreg.posteriors import closed_form, function_space, propagate
from bayesreg.posteriors.record import FitRecord
from bayesreg.predictive.mixture import Predictive
from bayesreg.predictive.offset import with_offset
from bayesreg.predictive.probabilities import LINKS
from bayesreg.solvers.history import History

PREDICTIVES = ("linearised", "draws")
_USUAL = 1000  # draws of a prediction


class AbstractPosterior(abc.ABC):
    """p(θ | data), in the form that a method gives it.

    Weights are in the units that the model works in (standardised data when it standardises); the noise scale, like
    every prediction, comes back in the data's own units.

    Args:
        model: The model, bound to its training data.
        record: What the method says about the fit.

    Attributes:
        state_shapes: Shapes of the tensors in `state`, a letter for each axis, P for the unknowns; None where `from_state`
            checks them.
        is_mode: True for one point, the mode that a regularised fit returns.
        masks: The network with masks, where a posterior's draws are the masks of its dropout.
        stats: What a sampler says of each stored draw, name to (C, D); empty where none was at work.
    """

    stats: Mapping[str, torch.Tensor] = MappingProxyType({})
    state_shapes: ClassVar[Mapping[str, str] | None] = None
    is_mode: ClassVar[bool] = False
    masks: Any = None

    def __init__(self, model: BayesianModel, record: FitRecord) -> None:
        self.model = model
        self.record = record
        self.layout = FlatLayout(model)

    @abc.abstractmethod
    def draw(self, num_samples: int, generator: torch.Generator) -> torch.Tensor:
        """Draws of the unconstrained vector, (S, P)."""

    @abc.abstractmethod
    def moments(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and sd of each unknown in constrained space and the model's units, flat, both (P,)."""

    @abc.abstractmethod
    def state(self) -> dict[str, Any]:
        """The tensors (and plain values) that make this posterior, for `save`."""

    @classmethod
    @abc.abstractmethod
    def from_state(cls, model: BayesianModel, record: FitRecord, state: dict[str, Any]) -> AbstractPosterior:
        """The inverse of `state`."""

    def as_normal(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """Mean (P,) of the unconstrained vector and a factor F of its covariance F Fᵀ, where it is normal; else None.

        F is (P, Q), or (P,) where it is diagonal. Where the network is linear in its weights, predictions are then exact.
        """
        return None

    def times_factor(self, rows: torch.Tensor) -> torch.Tensor | None:
        """Rows (M, P) times a factor F of the covariance F Fᵀ, (M, Q), where the unconstrained vector is normal; else None.

        With the rows J of a derivative, (J F)(J F)ᵀ is the covariance of a linear function of the unknowns. A posterior with
        structure never writes F out.
        """
        factor = None if (normal := self.as_normal()) is None else normal[1].to(rows)
        return None if factor is None else rows * factor if factor.dim() == 1 else rows @ factor

    def log_density(self, u: torch.Tensor) -> torch.Tensor | None:
        """Log q(u) of unconstrained draws (S, P), where it is normal and has a density: (S,), in nats; else None."""
        normal = self.as_normal()
        if normal is None or (normal[1].dim() == 2 and normal[1].shape[1] < len(normal[0])):
            return None
        return closed_form.log_density(u.double(), *(part.double() for part in normal))

    @property
    def at_a_point(self) -> bool:
        """True where the weights are the same in every draw, and only statistics may differ."""
        return self.is_mode

    @property
    def fitted(self) -> AbstractPosterior:
        """The posterior as it was fitted, before batch normalisation's statistics were refreshed."""
        return self

    @property
    def centre(self) -> AbstractPosterior:
        """A posterior with the same mean output, whose predictions cost least: the mode where a network is linearised there."""
        return self

    @property
    def method(self) -> str:
        """The method's name."""
        return self.record.method

    @property
    def seed(self) -> int:
        """The seed of the fit."""
        return self.record.seed

    @property
    def history(self) -> History:
        """How the fit went."""
        return self.record.history

    @property
    def certificate(self) -> Certificate:
        """Whether the fit can be believed, and why."""
        return self.record.certificate

    @property
    def elapsed(self) -> float:
        """Seconds that the fit took."""
        return self.record.elapsed

    @property
    def num_draws(self) -> int | None:
        """The number of distinct draws: 1 for a mode, the stored ones of a sampler; None where more can be made."""
        return None

    @property
    def usual_draws(self) -> int:
        """How many draws are mixed where nothing is said: 1,000, or each stored one once where there are fewer."""
        return min(_USUAL, self.num_draws or _USUAL)

    def _count(self, num_samples: int | None) -> int:
        return self.usual_draws if num_samples is None else _check.count("num_samples", num_samples)

    @property
    def num_chains(self) -> int | None:
        """The number of Markov chains that the stored draws are of; None where they are of none."""
        return None

    @property
    def space(self) -> str | None:
        """The space in which a mode was taken, None where there is no mode."""
        return self.record.space

    @property
    def log_evidence(self) -> float | None:
        """Log p(y | x) in nats, in the data's own units, where the method knows it."""
        return self.record.log_evidence

    @property
    def num_data(self) -> int:
        """N, the number of training rows."""
        return self.model.total()

    @property
    def batch_statistics(self) -> str | None:
        """The statistics that batch normalisation uses at prediction, in words; None where the network has none."""
        found = self.record.batch_statistics
        return self.model.behaviour.predicts_by if found is None else str(found)

    @property
    def mean(self) -> dict[str, torch.Tensor]:
        """E[θ | data] by name, in each unknown's shape; the point itself for a mode."""
        return self._named(self.moments()[0])

    @property
    def std(self) -> dict[str, torch.Tensor]:
        """sd[θ | data] by name, in each unknown's shape; zero for a mode."""
        return self._named(self.moments()[1])

    def sample(
        self, num_samples: int | None = None, *, seed: int = 0, units: str = "data", max_memory: int = MAX_MEMORY
    ) -> dict[str, torch.Tensor]:
        """Draws of every unknown.

        Args:
            num_samples: S; None for `usual_draws`.
            seed: Same seed, same draws; the global random state is not touched.
            units: "data" for the noise in the data's own units; "model" for every value as the model's sites and
                `model.log_joint` take it, which differs when the model standardises.
            max_memory: Bytes that the draws may take.

        Returns:
            By name, (S, *shape), in constrained space.

        Raises:
            ValueError: If num_samples is not a whole number >= 1, units is neither of the two, or the draws do not fit into
                `max_memory`.
        """
        seed = _check.seed(seed)
        _check.one_of("units", units, ("data", "model"))
        check_draws(count := self._count(num_samples), self.layout.size, self.model.like, max_memory)
        values = together(torch.vmap(self.layout.unflatten)(block) for block in self._draws(count, seed))
        return values if units == "model" else self.to_data_units(values)

    def predict(
        self,
        x: Any,
        *,
        num_samples: int | None = None,
        seed: int = 0,
        max_memory: int = MAX_MEMORY,
        predictive: str | None = None,
        link: str = "quadrature",
        offset: Any = None,
    ) -> Predictive:
        """p(y | x, data) at new inputs.

        Args:
            x: Inputs (N, ...), in the data's own units.
            num_samples: S, the number of draws that are mixed; for a mode it is one in any case. None for `usual_draws`: 1,000,
                or each stored draw once where there are fewer. More than are stored are each of them as often, up to one.
            seed: Same seed, same draws; the global random state is not touched.
            max_memory: Bytes that the stored outputs may take.
            predictive: "linearised" for the network that is linear in its weights about their mean, where the posterior is
                normal: a closed form for normal noise and for classes; "draws" for the network itself at draws of its weights.
                None for what the method chose, as Laplace approximations do.
            link: How classes' probabilities come from normal logits, where these are: "quadrature" (right to ten digits for
                two classes, to about .002 for several), "probit" or "bridge" (Laplace bridge), which are cruder; see
                `bayesreg/predictive/probabilities.py` for their errors.
            offset: A known part of each row's output, (N,) or (N, K), in the data's own units, as for `fit`; none when None.

        Returns:
            The predictive, in the data's own units. Where it has a closed form the draws are made when they are first asked
            for: by `sample`, or by its `output`.

        Raises:
            ValueError: If the inputs do not fit the model, the outputs not into `max_memory`, or a linearised prediction is
                asked of a posterior that is not normal.
        """
        seed, link = _check.seed(seed), _check.one_of("link", link, LINKS)
        max_memory = _check.count("max_memory", max_memory)
        count = 1 if self.is_mode else self._count(num_samples)
        self.check_statistics()
        inputs, normal = self.model.prepare(x), self._normal()
        centre = self._expanded_about(normal, predictive)

        def drawn() -> Predictive:
            draws, probe = self._draws_for_prediction(count, seed), self.draw(1, torch.Generator().manual_seed(seed))[0]
            options: dict[str, Any] = {"probe": probe, "linearize_at": centre, "max_memory": max_memory}
            return propagate.mixture(self.model, self.layout, draws, count, inputs, **options)

        if normal is None:
            return with_offset(drawn(), offset)
        self.model.behaviour.meet(self.model, inputs)
        options: dict[str, Any] = {"linear": centre is not None, "max_memory": max_memory, "link": link}
        function = closed_form.function_of(self.model, self.layout, normal, inputs, **options)
        if function is None:
            return with_offset(drawn(), offset)
        return with_offset(propagate.later(self.model, self.layout, normal.centre, count, inputs, drawn, function), offset)

    def sample_function(
        self,
        x: Any,
        num_samples: int | None = None,
        *,
        seed: int = 0,
        predictive: str | None = None,
        max_memory: int = MAX_MEMORY,
    ) -> torch.Tensor:
        """Joint draws of the network's outputs: draw s is one function at all rows.

        Args:
            x: Inputs (N, ...), in the data's own units.
            num_samples: S; None for `usual_draws`.
            seed: Same seed, same draws; the global random state is not touched.
            predictive: As for `predict`.
            max_memory: Bytes that they may take.

        Returns:
            (S, N) or (S, N, K), in the data's own units; logits for classes. (1, N) or (1, N, K) for a mode.

        Raises:
            ValueError: As for `predict`.
        """
        found = self.predict(x, num_samples=num_samples, seed=seed, predictive=predictive, max_memory=max_memory)
        return found.output

    def function_covariance(
        self,
        x: Any,
        *,
        num_samples: int | None = None,
        seed: int = 0,
        predictive: str | None = None,
        max_memory: int = MAX_MEMORY,
    ) -> torch.Tensor:
        """How the network's outputs at different rows vary together: the posterior over functions.

            Cov[f(x), f(x′)] = J(x) Σ J(x′)ᵀ      where f is linear in unknowns with covariance Σ

        That is exact where the unknowns are normal and the network is linearised at their mean, or linear in itself. Otherwise
        it is the covariance of draws, with a Monte Carlo error of about √(2/S) of a variance.

        Args:
            x: Inputs (N, ...), in the data's own units.
            num_samples: S, the draws where it is made of draws; None for `usual_draws`.
            seed: Same seed, same draws; the global random state is not touched.
            predictive: As for `predict`.
            max_memory: Bytes that the result and what it is made of may take.

        Returns:
            (N, N), or (N, K, N, K) with K outputs, float64, in the data's own units; of logits for classes, and with log noise
            scales among the outputs where the network predicts these.

        Raises:
            ValueError: As for `predict`, or if the result does not fit into `max_memory`.

        >>> import bayesreg as br
        >>> x, y = torch.tensor([[1.0], [2.0]]).double(), torch.tensor([1.0, 2.0]).double()
        >>> line = torch.nn.Linear(1, 1, bias=False).double()
        >>> model = br.BayesianModel(line, br.priors.Normal(1.0), br.likelihoods.Gaussian(1.0))
        >>> br.fit(model, x, y, method="exact").function_covariance(x).round(decimals=6).tolist()  # x x′ / (1 + Σ x²)
        [[0.166667, 0.333333], [0.333333, 0.666667]]
        """
        self.check_statistics()
        inputs, normal = self.model.prepare(x), self._normal()
        linear = self._expanded_about(normal, predictive) is not None
        if normal is not None:
            self.model.behaviour.meet(self.model, inputs)
            if linear or closed_form.is_affine(self.model, self.layout, normal, inputs):
                return function_space.of_linear(self.model, self.layout, normal, inputs, max_memory)
        options: dict[str, Any] = {"seed": seed, "predictive": predictive, "max_memory": max_memory}
        return function_space.of_draws(self.sample_function(x, num_samples, **options), max_memory)

    def _expanded_about(self, normal: closed_form.Normal | None, predictive: str | None) -> torch.Tensor | None:
        """The point about which a prediction takes the network as linear; None where it takes the network itself.

        Raises:
            ValueError: If there is none.
        """
        if predictive is None:
            return self._linearize_at()
        if _check.one_of("predictive", predictive, PREDICTIVES) == "draws":
            return None
        if normal is None:
            raise ValueError(
                "a linearised prediction needs a posterior that is normal in the weights, with a covariance, but "
                f"{type(self).__name__} of method {self.method!r} came; take predictive='draws', or a Laplace approximation."
            )
        return normal.centre

    def _normal(self) -> closed_form.Normal | None:
        """The unconstrained vector's distribution, where it is normal."""
        normal = self.as_normal()
        return None if normal is None else closed_form.Normal(normal[0], self.times_factor, self.draw)

    # a draw's network: its parameters, which need not be the unknowns, and a pass through it

    @property
    def draw_module(self) -> nn.Module:
        """The module that each draw's network is built on."""
        return self.model.module

    def draw_networks(self, num_samples: int, generator: torch.Generator) -> torch.Tensor:
        """The parameters of each draw's network, (S, Q)."""
        return self.draw(num_samples, generator)

    def forward_drawn(
        self, made_of: torch.Tensor, x: torch.Tensor, module: nn.Module, buffers: Mapping[str, torch.Tensor] | None = None
    ) -> torch.Tensor:
        """One draw's output, (B,) or (B, K), at prepared rows, in a module of `draw_module`'s structure."""
        return self.model.forward(self.layout.unflatten(made_of), x, module, buffers)

    def unknowns_of(self, made_of: torch.Tensor) -> torch.Tensor:
        """The unknowns of each draw, (S, P), from the parameters of its network."""
        return made_of

    def effective(self, made_of: torch.Tensor) -> torch.Tensor:
        """What a draw shows as its unknowns, (S, P): the weights that its network works with, where masks change them."""
        return self.unknowns_of(made_of)

    def in_order(self, num_samples: int, seed: int) -> torch.Tensor:
        """Parameters of networks, (S, Q), to be passed on: all stored draws, chain by chain, or independent new ones."""
        count = 1 if self.is_mode else _check.count("num_samples", num_samples)
        return self.draw_networks(count, torch.Generator().manual_seed(_check.seed(seed)))

    def predict_drawn(self, made_of: torch.Tensor, x: Any, *, max_memory: int = MAX_MEMORY) -> Predictive:
        """The predictive whose components are these draws' networks, (S, Q) as from `in_order`; x is as for `predict`."""
        drawn = made_of.split(next(blocks(len(made_of), self.layout.size)))
        return self.predict_blocks(drawn, len(made_of), made_of[0], x, max_memory=max_memory)

    def predict_blocks(
        self, drawn: Iterable[torch.Tensor], count: int, probe: torch.Tensor, x: Any, *, max_memory: int = MAX_MEMORY
    ) -> Predictive:
        """`predict_drawn` of `count` draws in blocks, of which none is made before `probe`, one draw, says they fit."""
        self.check_statistics()
        inputs, module = self.model.prepare(x), self.draw_module
        options: dict[str, Any] = {"probe": probe, "linearize_at": self._linearize_at(), "max_memory": max_memory}
        options |= {"forward": lambda one, rows: self.forward_drawn(one, rows, own(module)), "unknowns": self.unknowns_of}
        return propagate.mixture(self.model, self.layout, drawn, count, inputs, **options)

    def check_statistics(self) -> None:
        """Refuse a prediction by statistics that it cannot have, see `Behaviour.check_statistics`."""
        self.model.behaviour.check_statistics()

    def _draws(self, num_samples: int, seed: int) -> Iterator[torch.Tensor]:
        """Draws of the unconstrained vector in blocks, (s, P) each, that fit memory."""
        generator = torch.Generator().manual_seed(seed)
        for size in blocks(num_samples, self.layout.size):
            yield self.draw(size, generator)

    def _draws_for_prediction(self, num_samples: int, seed: int) -> Iterator[torch.Tensor]:
        return self._draws(num_samples, seed)

    def _linearize_at(self) -> torch.Tensor | None:
        return None

    def _named(self, flat: torch.Tensor) -> dict[str, torch.Tensor]:
        named = {name: flat[s.slice].reshape(s.latent.shape) for name, s in self.layout.segments.items()}
        return self.to_data_units(named)

    def to_data_units(self, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The same values by name with the noise in the data's own units; leading axes are free, and K outputs add theirs."""
        scale = self.model.standardization
        if scale is None or not self.model.likelihood.location_scale:
            return values
        assumed, width = self.model.likelihood, scale.y_scale.to(next(iter(values.values())).dtype)
        of = {name: heir(name, self.model.latents) for name in values}  # the noise too for the unknown scale of its prior

        noise = assumed.latents.keys() | assumed.fixed.keys()
        return {k: assumed.wide_noise(of[k], v, width) if of[k] in noise else v for k, v in values.items()}

    def __repr__(self) -> str:
        return f"{type(self).__name__}(method={self.method!r}, P={self.layout.size}, N={self.num_data})"
