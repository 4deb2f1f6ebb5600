"""`fit` turns a model, data and a method into a posterior, and changes nothing else; the base class of methods."""

from __future__ import annotations

import abc
import contextlib
import copy
import dataclasses
import functools
import inspect
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Never, NoReturn, Self

import torch

from bayesreg import _check
from bayesreg._catalog import concrete
from bayesreg._memory import keep_freed
from bayesreg._threads import seeded
from bayesreg.behaviour import PREDICTION
from bayesreg.certificates.collapse import with_noise
from bayesreg.certificates.outcome import Finding
from bayesreg.data.rows import Data
from bayesreg.model.model import BayesianModel
from bayesreg.objective.chains import AbstractChains, Chains
from bayesreg.objective.flat import LogJoint
from bayesreg.posteriors.base import AbstractPosterior
from bayesreg.posteriors.of_chains import concluded
from bayesreg.samplers.base import AbstractSampler
from bayesreg.samplers.chain_loop import sample_chains
from bayesreg.samplers.options import ChainOptions, divided
from bayesreg.samplers.starting import chain_starts, pays_for_chains
from bayesreg.solvers.checkpoint import check_options, opened
from bayesreg.solvers.history import History
from bayesreg.solvers.progress import ProgressCallback, reporter
from bayesreg.solvers.stepper import checked_compile

_MISSED_ROWS, _MISSED_DRAWS = 500, 20


class ConvergenceWarning(UserWarning):
    """Warns that a fit's certificate is not passed; the message is its sentence, which says what to do."""


class AbstractMethod(abc.ABC):
    """A way from a model and data to a posterior.

    A subclass is one file: its settings as keyword arguments with defaults, and `run`.

    Attributes:
        name: Its name in strings and on the command line.
        when: When to use it, one sentence.
        told_first: How many of its notes come before those on units.
    """

    name: ClassVar[str]
    when: ClassVar[str]
    told_first: ClassVar[int] = 0  # of its notes, before those on units
    checkpoint: Any = None  # a path; the open file while the method runs
    checkpoint_every: int | None = None
    checkpoint_key: str | None = None

    def keep_in(self, checkpoint: Any, checkpoint_every: int | None, checkpoint_key: str | None) -> None:
        """Take the arguments of these names, for a constructor.

        Raises:
            ValueError: If they cannot be what they stand for.
        """
        check_options(checkpoint, checkpoint_every, checkpoint_key)
        self.checkpoint, self.checkpoint_every, self.checkpoint_key = checkpoint, checkpoint_every, checkpoint_key

    @property
    def deciding(self) -> dict[str, Any]:
        """The settings that decide the answer: all but where the state is kept."""
        return {name: value for name, value in vars(self).items() if not name.startswith("checkpoint")}

    @abc.abstractmethod
    def run(self, model: BayesianModel, data: Data, *, seed: int, report: ProgressCallback) -> AbstractPosterior:
        """The fit itself.

        Args:
            model: The model, bound to the data.
            data: Prepared rows.
            seed: Recorded with the answer; torch's generator is already seeded with it.
            report: Call it now and then with (step, number of steps, objective).

        Returns:
            The posterior.
        """

    def fit(
        self, model: BayesianModel, X: Any, y: Any = None, *, seed: int = 0, num_data: int | None = None
    ) -> AbstractPosterior:
        """Fit by this method; see `bayesreg.fit`."""
        return _fitted(model, X, y, self, seed, None, True, {"num_data": num_data})

    @classmethod
    def lengths(cls, num_steps: int) -> dict[str, int]:
        """The settings by which a fit takes about so many steps; none where it takes no steps of its own.

        Args:
            num_steps: Steps, of each chain where it runs chains.

        Returns:
            Arguments of the class.
        """
        return {"num_steps": num_steps} if "num_steps" in inspect.signature(cls).parameters else {}

    def eager(self) -> Self:
        """The same method, and the methods inside it, without compiling: for a call that ends after a few steps."""
        made = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, AbstractMethod):
                setattr(made, name, value.eager())
            elif name == "compile":
                setattr(made, name, False)
        return made

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


def fit(
    model: BayesianModel,
    X: Any,
    y: Any = None,
    *,
    method: AbstractMethod | str,
    seed: int = 0,
    num_data: int | None = None,
    sample_weight: Any = None,
    offset: Any = None,
    device: torch.device | str | None = None,
    progress: bool | ProgressCallback = True,
    **settings: Never,
) -> AbstractPosterior:
    """Fit a model's posterior, or its mode, to data.

    The user's module, the random state and Pyro's parameter store are left as they were, also when it fails.

    In threads fits wait for each other, since each seeds torch's global generator and restores it; predictions do not.

    Args:
        model: The model: network, priors and likelihood.
        X: Inputs (N, ...): NumPy array, tensor, data frame, whose columns' names are kept and matched at prediction; or a
            `Dataset` or `DataLoader` of pairs.
        y: Targets (N,) or (N, K); None for a data set or loader. (N, T, K), T steps a row, is held as T·K targets,
            step by step: so are the network's outputs (B, T, K), and predictions are (N, T·K).
        method: A method, or its name: "map", "laplace", "mile"; `bayesreg methods` lists all.
        seed: Same seed, same machine, same answer.
        num_data: N, needed only for a loader whose data set has no length. The rows in a pass are counted before the search,
            from the sampler where possible; they must be all N rows, or rows drawn evenly from N.
        sample_weight: How often each row counts, (N,), >= 0: its log-likelihood is multiplied by it. A weight of two is the
            row twice, and standardisation takes the weights too.
        offset: A known part of the network's output for each row, (N,) or (N, K), in the data's own units, which is added to
            it: log exposure for counts. `posterior.predict(X, offset=...)` adds it to predictions.
        device: Where to fit; the module's device when None.
        progress: True for a bar on stderr when that is a terminal, False for none, or a function that is called with (step,
            number of steps, objective in nats).
        **settings: None is accepted: settings go to the method itself, method=inference.MAP(num_steps=2000).

    Returns:
        The posterior.

    Raises:
        ValueError: If the data, the model and the method do not fit together; says what must hold and what to do.

    Warns:
        ConvergenceWarning: If the posterior's certificate is not passed; says what to raise.

    >>> import torch
    >>> from bayesreg import priors, likelihoods
    >>> X = torch.tensor([[0.0], [1.0], [2.0]])
    >>> model = BayesianModel(torch.nn.Linear(1, 1, bias=False), priors.Normal(1.0), likelihoods.Gaussian(1.0))
    >>> mode = fit(model, X, torch.tensor([0.0, 1.0, 2.0]), method="map")
    >>> round(float(mode.mean["weight"]), 5)  # Σxy/(Σx² + σ²/τ²) = 5/6
    0.83333
    """
    if settings:
        _refuse_settings(settings, resolve(method))
    given = {"num_data": num_data, "sample_weight": sample_weight, "offset": offset}
    return _fitted(model, X, y, method, seed, device, progress, given)


def _refuse_settings(settings: Mapping[str, Any], method: AbstractMethod) -> NoReturn:
    """Refuse settings given to `fit`, and say which method takes them.

    Raises:
        ValueError: Always.
    """
    name, value = next(iter(settings.items()))
    own = [key for key in inspect.signature(type(method)).parameters if key != "self"]
    made = f"inference.{type(method).__name__}"
    if name in own:
        raise ValueError(
            f"a method's settings must be given to the method itself, but fit got {name}={value!r}; write "
            f"method=bayesreg.{made}({name}={value!r})."
        )
    known = [key for key in inspect.signature(fit).parameters if key != "settings"]
    raise ValueError(
        f"fit must be given {', '.join(known)}, but {name}={value!r} came, which {made} does not take either"
        f"{_check.closest(name, [*known, *own])}."
    )


def _fitted(
    model: BayesianModel,
    X: Any,
    y: Any,
    method: AbstractMethod | str,
    seed: int,
    device: torch.device | str | None,
    progress: bool | ProgressCallback,
    given: Mapping[str, Any],
) -> AbstractPosterior:
    """The body of `fit`, called directly by public functions, so that a warning points at the user's line.

    `given` is what `ingest` takes besides the rows.

    Raises:
        ValueError: As `fit` does.
    """
    if not isinstance(model, BayesianModel):
        raise ValueError(
            f"model must be a BayesianModel, but {type(model).__name__} came; wrap the network: BayesianModel(net, ...)."
        )
    method = resolve(method)
    seed = _check.seed(seed)
    if device is not None:
        model = model.to(device)
    keep_freed(model.like.device)
    with isolated(seed, model.like.device):
        bound, data = model.ingest(X, y, **given)
        with reporter(progress, method.name) as report, contextlib.ExitStack() as stack:
            posterior = _keeping(method, stack).run(bound, data, seed=seed, report=report)
            found = dataclasses.replace(posterior.record, training_rmse=training_rmse(posterior, data))
            point = lambda: posterior.moments()[0]  # noqa: E731
            said = with_noise(posterior.certificate, posterior.model, posterior.layout, point, data)
            posterior.record = dataclasses.replace(found, certificate=said)
    posterior.history.notes[method.told_first : method.told_first] = bound.unit_notes
    posterior.history.notes.extend(data.notes)
    if not posterior.certificate.converged and posterior.certificate.finding is not Finding.UNCHECKED:
        warnings.warn(f"{method.name}: {posterior.certificate.sentence}", ConvergenceWarning, stacklevel=3)
    return posterior


def training_rmse(posterior: AbstractPosterior, data: Data) -> tuple[float, ...] | None:
    """RMSE of the predicted mean on a few hundred training rows, for each output, in the data's own units.

    None where no noise scale is learned, targets are classes, rows are streamed, or nothing can be predicted.
    """
    model, s = posterior.model, posterior.model.standardization
    learned = model.likelihood.heteroscedastic or any(latent.is_noise for latent in model.latents.values())
    if (
        not learned
        or model.likelihood.labels is not None
        or data.x is None
        or data.y is None
        or model.behaviour.why_not(PREDICTION)
    ):
        return None
    rows = torch.arange(0, len(data.x), -(-len(data.x) // _MISSED_ROWS), device=data.x.device)
    x, y = data.x[rows], model.likelihood.observed(data.y[rows])
    if s is not None:
        x = s.x_mean.to(x) + s.x_scale.to(x) * x
        y = s.y_mean.to(y) + s.y_scale.to(y) * y if model.likelihood.location_scale else y
    try:
        predicted = posterior.centre.predict(x, num_samples=_MISSED_DRAWS, seed=0)
        missed = (predicted.target(y) - predicted.mean).double().reshape(len(rows), -1)
    except (ValueError, RuntimeError):  # predicting reports the error; raised here it would lose the fit
        return None
    return tuple(missed.square().mean(0).sqrt().tolist())


def _keeping(method: AbstractMethod, stack: contextlib.ExitStack) -> AbstractMethod:
    """The same method, and the methods inside it, with their checkpoint files open until the stack closes."""
    made = copy.copy(method)
    for name, value in vars(method).items():
        if isinstance(value, AbstractMethod):
            setattr(made, name, _keeping(value, stack))
    if method.checkpoint is not None:
        made.checkpoint = stack.enter_context(opened(method.checkpoint, method.checkpoint_every, method.checkpoint_key))
    return made


def resolve(method: AbstractMethod | str) -> AbstractMethod:
    """A method from its name, or itself.

    Raises:
        ValueError: If there is no such method; the closest names are given.
    """
    if isinstance(method, AbstractMethod):
        return method
    known: dict[str, Callable[[], AbstractMethod]] = methods()
    return known[_check.one_of("method", method, known)]()


def methods() -> dict[str, Any]:
    """Every method's class by name, sorted, whichever file is imported first."""
    return {cls.name: cls for cls in sorted(concrete(AbstractMethod), key=lambda cls: cls.name)}


@functools.cache
def _start_libraries() -> None:
    """Import torch's compiler and start its threads now: these seconds belong to no fit's time."""
    import scipy.optimize  # noqa: F401

    with torch.inference_mode(False), torch.enable_grad():
        x = torch.ones(512, 512) @ torch.ones(512, 512)
        torch.func.vmap(torch.func.grad(lambda row: row.sum()))(x)
        torch.optim.Adam([torch.nn.Parameter(x)]).step()


@contextlib.contextmanager
def isolated(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's generators inside the block and restore them after it; gradients are recorded inside in any case.

    The generator of `device` is restored too. Torch's own start-up time falls before the block, so that a clock inside does not
    count it.
    """
    _start_libraries()
    with seeded(device, seed), torch.inference_mode(False), torch.enable_grad():
        yield


class AbstractSampling(AbstractMethod):
    """A method that runs Markov chains on all rows; a subclass says by which sampler.

    Args:
        options: How many chains, how long, and from where.
        checkpoint: As for `MAP`, with checkpoint_every and checkpoint_key.
        checkpoint_every: Steps between two states.
        checkpoint_key: A text that names the data.
        compile: Whether the gradient is compiled: True, False, or "auto" for runs that are long enough.

    Raises:
        ValueError: If an argument is out of its range.
    """

    ensemble: ClassVar[bool] = False  # whether chains are members that need not meet
    compile: bool | str = "auto"
    all_rows: ClassVar[bool] = True  # at each step, so that a loader is refused

    def __init__(
        self,
        options: ChainOptions,
        checkpoint: str | os.PathLike[str] | None = None,
        checkpoint_every: int | None = None,
        checkpoint_key: str | None = None,
        compile: bool | str = "auto",
    ) -> None:
        self.keep_in(checkpoint, checkpoint_every, checkpoint_key)
        self.options, self.compile = options, checked_compile(compile)

    @classmethod
    def lengths(cls, num_steps: int) -> dict[str, int]:
        """Warm-up and draws in the default's proportions; see `AbstractMethod.lengths`."""
        return divided(cls, num_steps)

    @abc.abstractmethod
    def sampler(self, log_joint: LogJoint) -> AbstractSampler:
        """How its chains move on this log-joint."""

    def density(self, log_joint: LogJoint, data: Data, num_chains: int) -> AbstractChains:
        """What its chains walk on."""
        return Chains(log_joint, data, num_chains, temperature=self.options.temperature)

    def starts(self, model: BayesianModel, data: Data, seed: int, report: ProgressCallback) -> torch.Tensor:
        """Where the chains start, (C, P), unconstrained."""
        return chain_starts(LogJoint(model), data, self.options, seed, report)

    def run(self, model: BayesianModel, data: Data, *, seed: int, report: ProgressCallback) -> AbstractPosterior:
        """Fit; see `AbstractMethod.run`.

        Raises:
            ValueError: If rows are streamed.
            FitError: If the density is not finite where a chain starts.
        """
        started, o, history = time.perf_counter(), self.options, History("log joint")
        log_joint = LogJoint(model)
        if self.all_rows:
            data.full("a sampler that sees all rows at each step")

        def searching(step: int, total: int, nats: float, said: str = "") -> None:
            report(0, o.num_steps, nats, f"search for a start, {step}/{total}")

        start = self.starts(model, data, seed, searching)
        sampler = self.sampler(log_joint)
        together = sampler.chains_at_once or len(start)
        density = self.density(log_joint, data, together)
        calls = o.num_steps * sampler.gradients * -(-len(start) // together)
        compile = self.compile is True or (self.compile == "auto" and pays_for_chains(log_joint, calls))
        if self.checkpoint is not None:
            self.checkpoint.belong(log_joint, start, data, (self.name, self.deciding), seed, o.num_steps)
        run = sample_chains(
            sampler,
            density,
            start,
            o,
            report=report,
            history=history,
            checkpoint=self.checkpoint,
            compile=compile,
        )
        return concluded(self, model, density, run, seed, history, started)
