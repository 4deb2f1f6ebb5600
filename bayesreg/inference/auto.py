"""The method for those who do not want to choose: the best answer that this model and these rows allow in a minute.

    closed form, where the posterior has one
    → chains of the posterior itself, where their gradients fit into the time
    → a Gaussian about the mode, its scales at the highest evidence
    → independent normals by steps on batches

What was taken, why, and what the dearer one would cost stands in the posterior's `history.notes`.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator
from typing import Any, ClassVar

from bayesreg import _check
from bayesreg._text import counted, number, plus_minus
from bayesreg.data.rows import Data
from bayesreg.inference.base import AbstractMethod
from bayesreg.inference.exact import Exact
from bayesreg.inference.hmc import HMC
from bayesreg.inference.laplace import LaplaceApproximation
from bayesreg.inference.linear_part import (
    SKIP,
    divided,
    last_layer,
    line_of,
    log_scores,
    with_scale_by_folds,
)
from bayesreg.inference.map import MAP
from bayesreg.inference.mean_field import MeanField
from bayesreg.inference.mile import MicrocanonicalEnsemble
from bayesreg.model.model import BayesianModel
from bayesreg.model.rescaled import own_scale, with_scales
from bayesreg.objective.affine import is_affine
from bayesreg.objective.batched import is_replicable
from bayesreg.objective.evidence import scaled
from bayesreg.objective.flat import LogJoint
from bayesreg.posteriors.base import AbstractPosterior
from bayesreg.solvers.evidence_scales import WHY
from bayesreg.solvers.failures import FitError
from bayesreg.solvers.progress import ProgressCallback

# seconds of one gradient of all chains on one core, a + b · chains · rows · weights, by the width of the type
_CALL, _PRODUCT = 1e-3, {4: 1.5e-9, 8: 3e-9}
_MEMBERS, _SEARCH, _DRAWS, _THIN = 6, 500, 50, 5
_FIXED = _SEARCH + 2 * _DRAWS * _THIN  # gradients besides the warm-up's
_SHORT, _LONG = 400, 800  # steps of a warm-up, at least and at most
_AIMED = 0.25  # of the time; all of it is the limit
_FEW, _MOST = 4, 0.6  # members, and share of the time, where that would cut the warm-up short
_STEPS, _TURNS, _DENSE, _FLOPS = 3000, 40, 2000, 5e9  # of a Laplace approximation: gradients, curvatures and their size
_PATIENT = 5.0  # times as long as chains a Laplace approximation of a network may take: no cheaper method is as good
_HELD, _LEAST_ROWS = 0.2, 50  # rows on which network and line are compared, and the fewest rows to be divided
_LEAPFROGS = 10  # of a draw of HMC on a posterior with one region


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A method that may be taken.

    Attributes:
        method: The method.
        why: Why it is the one, a clause.
        cost: Seconds on one core, about; None where they are few, or not known beforehand.
        dearer: What the next better answer would take, a sentence; empty where there is none.
        by_chains: Whether it draws from the posterior at the scales that it is given.
    """

    method: AbstractMethod
    why: str
    cost: float | None = None
    dearer: str = ""
    by_chains: bool = False

    @property
    def sentence(self) -> str:
        """What was chosen, and why."""
        cost = "" if self.cost is None else f", in about {_seconds(self.cost)} on one core"
        said = f"chosen by 'auto': {self.method.name}{cost}, since {self.why}."
        return f"{said} {self.dearer}".rstrip()


class Auto(AbstractMethod):
    """The method that suits a model and its rows: exact, chains, a Laplace approximation by the evidence, or mean-field.

    | taken | where |
    |---|---|
    | `Exact` | the output is linear in the weights, normal priors, normal noise of known scale |
    | `LaplaceApproximation(tune="evidence")` | the output is linear in the weights: one region, nearly normal |
    | `HMC` | the same, where nothing can be tuned and its chains fit into the time |
    | `MicrocanonicalEnsemble` | a network whose chains fit into the time: rows × weights decide |
    | `MAP` of the linear part | the same for classes, unless the network is ahead on training rows that were left out |
    | `LaplaceApproximation(tune="evidence")` | a network whose curvature fits into five times as much |
    | `MeanField` | everything else |

    The chains of an `MLP` with a linear part draw at the scale of that part at which the evidence of the linear model alone is
    highest, see `at_scales`; a Laplace approximation tunes all scales.

    Labels of classes have often no noise, and a posterior's average of probabilities is then less sure than it should be. So a
    fifth of the training rows is left out of shorter chains and of the mode of the linear part, whose scale is found by
    cross-validation; the network goes on with all rows only where it is ahead on these by more than a standard error. The
    linear part is the same model with the hidden weights `Fixed(0.0)`.

    What a method refuses goes to the next, and the refusal is told. The answer is the posterior that the method gives, with
    its own certificate. The choice rests on counts (rows, weights, operations), never on a clock, so that it is the same on
    every machine.

    Args:
        seconds: About how long chains may take on one core.

    Raises:
        ValueError: If seconds is not > 0.

    References:
        Sommer, Robnik, Nozadze, Seljak and Rügamer (2025), Microcanonical Langevin ensembles: advancing the sampling of
        Bayesian neural networks. MacKay (1992), A practical Bayesian framework for backpropagation networks.

    >>> import torch, bayesreg as br
    >>> X, y = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([0.0, 1.0, 2.0])
    >>> line = torch.nn.Linear(1, 1, bias=False)
    >>> model = br.BayesianModel(line, br.priors.Normal(1.0), br.likelihoods.Gaussian(1.0))
    >>> found = br.fit(model, X, y, method="auto")
    >>> found.method, round(float(found.mean["weight"]), 5)  # 5/6, exactly
    ('exact', 0.83333)
    """

    name: ClassVar[str] = "auto"
    told_first: ClassVar[int] = 1  # what was chosen
    when: ClassVar[str] = "You do not want to choose: the best answer that the model and the rows allow in a minute."

    def __init__(self, seconds: float = 60.0) -> None:
        self.seconds = _check.positive("seconds", seconds)

    def candidates(self, model: BayesianModel, data: Data) -> Iterator[Candidate]:
        """What may be taken, the best first."""
        yield Candidate(Exact(), "the posterior has a closed form")
        log_joint = LogJoint(model)
        if data.x is not None and not model.behaviour.normalising and is_replicable(log_joint):
            yield from self._chains(log_joint, data)
        dearer, cost = self._of_chains(log_joint, data), _curvature(log_joint, data)
        if data.x is not None and cost <= _PATIENT * self.seconds:
            why = f"chains would take longer than {_seconds(self.seconds)}, or the model does not allow them"
            best = f"{why}; its scales are those of the highest evidence"
            yield Candidate(LaplaceApproximation(tune="evidence"), best, cost, dearer)
            yield Candidate(LaplaceApproximation(), f"{why}, and its scales cannot be tuned", cost, dearer)
        yield Candidate(MeanField(), "the others refused the model, or would take minutes", None, dearer)
        yield Candidate(MAP(), "no other method takes the model: a mode, without any uncertainty of the function")

    def at_scales(self, model: BayesianModel, data: Data, seed: int) -> tuple[BayesianModel, str]:
        """The model, the scale of its linear part tuned by the evidence of that part alone, and a sentence.

        A linear model's evidence is cheap and certain, and its scale says how large the outputs are: the hidden part may then
        be as large, or as large as its prior says. Where nothing can be tuned the model is what it was.
        """
        line = line_of(model)
        if line is None or data.x is None:
            return model, ""
        try:
            tuned = LaplaceApproximation(tune="evidence").run(line, data, seed=seed, report=lambda *_: None)
            scale = float(f"{tuned.history.scales[SKIP][-1]:.3g}")
        except (ValueError, FitError):
            return model, ""
        hidden = f"{last_layer(model)}.weight"
        before, own = own_scale(model, [SKIP]), own_scale(model, [hidden]) if hidden in scaled(model) else math.inf
        values = {SKIP: scale} | ({hidden: scale} if scale > own else {})
        said = f"scale of {SKIP} {WHY} of the linear part alone: {before:.3g} → {scale:.3g}"
        said += f", and of {hidden} the same" if hidden in values else ""
        return with_scales(model, values, WHY), f"{said}."

    def run(self, model: BayesianModel, data: Data, *, seed: int, report: ProgressCallback) -> AbstractPosterior:
        """Fit; see `AbstractMethod.run`.

        Raises:
            ValueError: If no method takes the model.
        """
        started, refused = time.perf_counter(), dict[str, str]()
        for candidate in self.candidates(model, data):
            try:
                if candidate.by_chains:
                    posterior, said = self._network(candidate, model, data, seed, report)
                else:
                    posterior, said = candidate.method.run(model, data, seed=seed, report=report), [candidate.sentence]
            except (ValueError, FitError) as error:
                refused[candidate.method.name] = str(error)
                continue
            told = [f"{name} was not taken: {why}" for name, why in refused.items() if name != Exact.name]
            posterior.history.notes[:0] = [*said, *told]
            posterior.record = dataclasses.replace(posterior.record, elapsed=time.perf_counter() - started)
            return posterior
        name, why = next(reversed(refused.items()))
        raise ValueError(f"'auto' needs a model that some method takes, but even {name} refused it: {why}")

    def _network(
        self, candidate: Candidate, model: BayesianModel, data: Data, seed: int, report: ProgressCallback
    ) -> tuple[AbstractPosterior, list[str]]:
        """Chains of the network, or for classes the mode of its linear part, and what is to be said.

        The simpler one is taken unless the other is ahead by more than a standard error, as usual in cross-validation (Breiman,
        Friedman, Olshen and Stone 1984).
        """
        taken, scales = self.at_scales(model, data, seed)
        said, method, line = [candidate.sentence, *([scales] if scales else [])], candidate.method, line_of(model)
        assumed = model.likelihood
        if line is None or assumed.labels is None or assumed.latents or data.num_data < _LEAST_ROWS:
            return method.run(taken, data, seed=seed, report=report), said
        line, by_folds = with_scale_by_folds(line, data, seed)
        (part, rest, held), (line_part, _, _) = (divided(m, data, _HELD, seed) for m in (taken, line))
        pilot = _shorter(method).run(part, rest, seed=seed, report=report)
        mode = MAP().run(line_part, rest, seed=seed, report=report)
        of_net, of_line = (log_scores(posterior, held) for posterior in (pilot, mode))
        ahead = of_net - of_line
        gain, se = float(ahead.sum()), float(ahead.std() * len(ahead) ** 0.5)
        compared = (
            f"compared on {counted(len(ahead), 'training row')} that both were fitted without: log score a row "
            f"{float(of_net.mean()):.3f} by chains of the network, {float(of_line.mean()):.3f} by the mode of its linear part "
            f"alone; the network is ahead by {plus_minus(gain, se)} nats in all."
        )
        if gain <= se:
            posterior = MAP().run(line, data, seed=seed, report=report)
            why = "since chains of the whole network are not ahead by a standard error on classes that were left out"
            chosen = f"chosen by 'auto': the mode of the linear part alone, {why}; it has no uncertainty of the function."
            return posterior, [chosen, compared, by_folds]
        posterior = _going_on(method, pilot).run(taken, data, seed=seed, report=report)
        return posterior, [said[0], compared, *said[1:]]

    def _chains(self, log_joint: LogJoint, data: Data) -> Iterator[Candidate]:
        """Chains that fit into the time."""
        if is_affine(log_joint, data):
            cost = _curvature(log_joint, data)
            if cost <= self.seconds:
                why = "the output is linear in the weights: one region, nearly normal, whose scales the evidence tunes"
                yield Candidate(LaplaceApproximation(tune="evidence"), why, cost)
            hmc = HMC()
            cost = hmc.options.num_steps * _LEAPFROGS * _gradient(log_joint, data, hmc.options.num_chains)
            if cost <= self.seconds:
                yield Candidate(hmc, "the output is linear in the weights, so that there is one region to draw from", cost)
            return
        members, warmup = _MEMBERS, self._warmup(log_joint, data, _MEMBERS, _AIMED)
        if warmup < _LONG:  # fewer members, of which each comes further
            members, warmup = _FEW, self._warmup(log_joint, data, _FEW, _MOST)
        cost = _gradient(log_joint, data, members) * (2 * warmup + _FIXED)
        if cost <= self.seconds:
            mile = MicrocanonicalEnsemble(members, warmup, _DRAWS, _THIN, num_steps=_SEARCH)
            size = f"{counted(data.num_data, 'row')} × {counted(log_joint.layout.size, 'unknown')} allow {members} members"
            why = f"a network's posterior has many regions, and {size} of {warmup:,} steps"
            yield Candidate(mile, why, cost, self._of_chains(log_joint, data), by_chains=True)

    def _warmup(self, log_joint: LogJoint, data: Data, members: int, share: float) -> int:
        """Steps of a warm-up for which a share of the time is enough, within bounds."""
        steps = int((share * self.seconds / _gradient(log_joint, data, members) - _FIXED) / 2)
        return min(max(steps, _SHORT), _LONG) // 100 * 100

    def _of_chains(self, log_joint: LogJoint, data: Data) -> str:
        """What the full run of chains would take, where there is one."""
        if data.x is None or log_joint.model.behaviour.normalising:
            return ""
        full = MicrocanonicalEnsemble()
        o = full.options
        cost = _gradient(log_joint, data, o.num_chains) * (full.num_steps + 2 * o.num_steps)
        return f"Longer chains, inference.MicrocanonicalEnsemble(), would take about {_seconds(cost)}."


def _shorter(method: Any) -> MicrocanonicalEnsemble:
    """Chains half as long, for a comparison."""
    o = method.options
    return MicrocanonicalEnsemble(o.num_chains, o.num_warmup // 2, _DRAWS // 2, o.thin, num_steps=method.num_steps)


def _going_on(method: Any, pilot: AbstractPosterior) -> MicrocanonicalEnsemble:
    """The rest of these chains, from where the shorter ones stopped."""
    o = method.options
    return MicrocanonicalEnsemble(o.num_chains, o.num_warmup // 2, o.num_samples, o.thin, num_steps=1, start=pilot)


def _gradient(log_joint: LogJoint, data: Data, chains: int) -> float:
    """Seconds of one gradient of all chains, about."""
    width: Any = log_joint.model.like.element_size()
    return _CALL + _PRODUCT.get(width, _PRODUCT[8]) * chains * data.num_data * log_joint.layout.size


def _curvature(log_joint: LogJoint, data: Data) -> float:
    """Seconds of a Laplace approximation with scales by the evidence, about: steps to a mode, and curvatures."""
    squares = data.num_data * min(log_joint.layout.size, _DENSE) ** 2
    return _STEPS * _gradient(log_joint, data, 1) + _TURNS * squares / _FLOPS


def _seconds(value: float) -> str:
    """A duration to one digit.

    >>> _seconds(12.3), _seconds(400), _seconds(9000)
    ('12 s', '7 min', '2.5 h')
    """
    if value < 100:
        return f"{number(max(value, 1.0), 2)} s"
    return f"{value / 60:.0f} min" if value < 6000 else f"{number(value / 3600, 2)} h"
