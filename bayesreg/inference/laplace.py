"""The Laplace approximation: a Gaussian with the curvature of the log-joint at its mode, and the evidence that gives.

p(u | y) ≈ N(u*, H⁻¹),  H = −∂² log p(y, u)/∂u∂uᵀ at u*,   log p(y) ≈ log p(y, u*) + P/2 log 2π − ½ log|H|
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from bayesreg import _check
from bayesreg.behaviour import EACH_ROW, EVIDENCE
from bayesreg.certificates.certificate import Certificate
from bayesreg.certificates.has_mode import check_has_mode
from bayesreg.certificates.importance import num_draws, of_draws
from bayesreg.certificates.optimality import value_of
from bayesreg.certificates.outcome import Finding
from bayesreg.certificates.values import Covariance, Importance
from bayesreg.data.rows import Data
from bayesreg.inference.base import AbstractMethod
from bayesreg.inference.empirical_bayes import Evidence, checked_tune, tuned_mode, with_tuned
from bayesreg.inference.hmc import HMC
from bayesreg.inference.map import MAP
from bayesreg.model.model import BayesianModel
from bayesreg.model.spec import match_name
from bayesreg.objective.conditioning import TRUSTED
from bayesreg.objective.curvature import noisy_entries, unheld
from bayesreg.objective.factors import DenseFactor
from bayesreg.objective.flat import LogJoint
from bayesreg.objective.identify import check_separated
from bayesreg.objective.kron import SHARING
from bayesreg.objective.precision import precision_at
from bayesreg.objective.structures import (
    Structured,
    diagonal_blocks,
    has_kronecker,
    kronecker_blocks,
    last_layer,
    of_precision,
    over_some,
    widest,
)
from bayesreg.objective.whole import in_double
from bayesreg.posteriors.base import PREDICTIVES, AbstractPosterior
from bayesreg.posteriors.gaussian import AbstractAboutAMode, Gaussian
from bayesreg.posteriors.given_mode import check_mode, check_rows
from bayesreg.posteriors.record import FitRecord
from bayesreg.posteriors.refining import refined
from bayesreg.posteriors.structured import BlockGaussian
from bayesreg.priors.values import HALF_LOG_2PI
from bayesreg.solvers.history import History
from bayesreg.solvers.progress import ProgressCallback

Wide = tuple[LogJoint, torch.Tensor, Data]
_FIRST_DRAWS, _HOPELESS = 100, 1.5  # of an importance check, and the k̂ that more draws do not mend
_DENSE = 2000  # unknowns up to which scales are tuned by the whole matrix
STRUCTURES = ("auto", "full", "kron", "diag", "last-layer", "subnetwork")


class LaplaceApproximation(AbstractMethod):
    """A Gaussian around the mode of the unconstrained density: precision = curvature of the loss + curvature of the prior.

    Predictions use the network linearised at the mode, in closed form: draws of the Gaussian leave the region where the
    curvature describes the network itself.

    | structure | covariance | for |
    |---|---|---|
    | "full" | of all unknowns, (P, P) | up to a few thousand weights; exact for linear models |
    | "kron" | a Kronecker product for a Linear or convolutional layer with its bias, a diagonal for others (KFAC) | any size |
    | "diag" | independent weights | any size, and any kind of layer |
    | "last-layer" | of the weights of the layer that runs last; the others stay at the mode | large networks, quickly |
    | "subnetwork" | of some weights; the others stay at the mode | large networks |

    The noise is part of "full", and a block of its own, or one with the chosen weights, elsewhere. "auto" is "full" up to
    `max_parameters` unknowns, above that "kron" where such layers hold most weights, else "diag".

    Where a prior has a kink (Laplace, ElasticNet, GroupLasso) the Gaussian is over the weights that are not zero at the mode,
    under all structures but "kron"; the others are zero in every draw, and there is no evidence.

    Softmax is invariant to a number that is added to all classes. Where the last layer's prior is flat in that direction, the
    number is held at zero, and `std` is that of the differences from the classes' mean. No prediction depends on it.

    Args:
        curvature: "hessian" (exact second derivatives; refused where they are not positive definite), "ggn" (Gauss–Newton,
            never indefinite), "fisher" (the empirical Fisher matrix Σ ggᵀ of the rows' gradients, which is no curvature where
            the model is wrong), or "auto": where the covariance is dense the Hessian if it is positive definite and N·P² is
            below 10⁸, else Gauss–Newton; the certificate says which.
        mode: How the mode is found, a `MAP`, its defaults when None; it is taken in unconstrained space in any case. Or the
            mode itself, as `MAP(jacobian=True)` fitted it to the same model and data: its prior is the one of the curvature.
            With `tune` and None, weights and scales are trained together from the module's own weights.
        max_parameters: Refuse a dense covariance of more unknowns than this: it takes 8·P² bytes and P³ operations.
        structure: One of the table's, or "auto".
        subnetwork: Which weights "subnetwork" takes: names or globs of tensors, or how many: those with the largest marginal
            variance by the diagonal. 500 when None.
        refine: Draws of each of 32 chains of `HMC` that start from the Gaussian's draws and move in its coordinates, after as
            many that tune the steps; or an `HMC` whose settings are taken. The answer is then `Draws`, certified as chains are.
            It is for a Gaussian over all unknowns.
        sharing: Where a layer's weights act at several places of a row (positions of a sequence or image), "kron" counts each
            place as a row ("expand"), or a row's sum over places ("reduce").
        tune: "evidence" to tune the scales of the priors and of the noise to the highest evidence (empirical Bayes);
            `inference.Evidence(per="rule", noise=False)` for one scale a rule, or a noise that stays. The posterior's model
            has the tuned scales as numbers, the noise's too. "auto" is then Gauss–Newton.
        predictive: How the posterior predicts where `predict` is not told: "linearised", in closed form, or "draws", the
            network itself at draws of its weights.

    Raises:
        ValueError: If an argument is out of its range.

    References:
        MacKay (1992), A practical Bayesian framework for backpropagation networks. Immer, Korzepa and Bauer (2021), Improving
        predictions of Bayesian neural nets via local linearization. Daxberger, Kristiadi, Immer, Eschenhagen, Bauer and Hennig
        (2021), Laplace redux. Daxberger, Nalisnick, Allingham, Antorán and Hernández-Lobato (2021), Bayesian deep learning via
        subnetwork inference. Eschenhagen, Immer, Turner, Schneider and Hennig (2023), Kronecker-factored approximate curvature
        for modern neural network architectures.
    """

    name: ClassVar[str] = "laplace"
    when: ClassVar[str] = (
        "Any size, by its structure: honest error bars around a mode, up to a few thousand weights an evidence."
    )

    def __init__(
        self,
        curvature: str = "auto",
        mode: MAP | AbstractPosterior | None = None,
        max_parameters: int = 5000,
        *,
        structure: str = "auto",
        subnetwork: int | Sequence[str] | None = None,
        sharing: str = "expand",
        tune: str | Evidence | None = None,
        refine: int | HMC | None = None,
        predictive: str = "linearised",
    ) -> None:
        self.curvature = _check.one_of("curvature", curvature, ("auto", "hessian", "ggn", "fisher"))
        self.mode: Any = MAP() if mode is None else mode
        self.mode_given = mode is not None
        self.max_parameters = _check.count("max_parameters", max_parameters)
        self.structure = _check.one_of("structure", structure, STRUCTURES)
        self.subnetwork = _checked_subnetwork(subnetwork)
        self.sharing = _check.one_of("sharing", sharing, SHARING)
        self.predictive = _check.one_of("predictive", predictive, PREDICTIVES)
        self.tune = checked_tune(tune)
        if not isinstance(self.mode, MAP) and not (isinstance(self.mode, AbstractPosterior) and self.mode.is_mode):
            raise ValueError(f"mode must be a MAP or the mode that one fitted, but {_check.said(mode)} came; pass mode=MAP().")
        self.refine = refine if refine is None or isinstance(refine, HMC) else _check.count("refine", refine)
        if refine is not None and structure in ("last-layer", "subnetwork"):
            raise ValueError(
                f"refine needs a Gaussian over all unknowns, but structure={structure!r} holds some at the mode; take 'full', "
                "'kron' or 'diag'."
            )
        if structure == "kron" and curvature == "hessian":
            raise ValueError(
                "structure='kron' needs a curvature that is a sum over rows of squares, but curvature='hessian' came; take "
                "curvature='ggn' or 'fisher'."
            )

    def run(self, model: BayesianModel, data: Data, *, seed: int, report: ProgressCallback) -> AbstractPosterior:
        """Fit; see `AbstractMethod.run`.

        Raises:
            ValueError: If the model is too large, a prior has a kink, there is no usable mode or no proper posterior.
        """
        started = time.perf_counter()
        posterior = self._gaussian(model, data, seed, report)
        if self.refine is None:
            return posterior
        if posterior.width < len(posterior.loc):
            raise ValueError(
                "refine needs priors with two derivatives, but a kink holds some weights at zero, where no chain stays; take "
                "HMC or a Normal prior."
            )
        hmc = self.refine if isinstance(self.refine, HMC) else HMC(num_warmup=self.refine, num_samples=self.refine)
        sampler = hmc.sampler(LogJoint(posterior.model))
        return refined(posterior, sampler, hmc.options, data, seed, report, started)

    def _gaussian(self, model: BayesianModel, data: Data, seed: int, report: ProgressCallback) -> AbstractAboutAMode:
        """The Gaussian about the mode.

        Raises:
            ValueError: See `run`.
        """
        started = time.perf_counter()
        if self.tune is not None:
            return self._tuned(model, data, self.tune, seed, report)
        mode = self._mode(model, data, seed, report)
        if mode.certificate.point is None or not mode.certificate.usable:
            raise ValueError(f"a Laplace approximation needs a mode: {mode.certificate}")
        history = copy.deepcopy(mode.history)
        model, u, another = mode.model, mode.loc, mode.model.behaviour.why_not(EVIDENCE)
        if model.behaviour.normalising:
            history.of_statistics.append(
                f"{model.behaviour.normalises_by}: curvature and predictions use the running averages from the mode's "
                "training; at the mode of another objective there is no evidence."
            )
        elif another:
            history.notes.append(f"there is no evidence: {another}.")
        log_joint = LogJoint(model)
        # a structure that no large model needs in double precision sums its products in it all the same
        wide = (log_joint, u, data) if len(u) > self.max_parameters else in_double(log_joint, u, data)
        if mode is self.mode:
            check_rows(mode, value_of(*wide, jacobian=True))
        index = self._among(log_joint, u, data, history)
        structure = self._structure(wide, index, history)
        found = self._about(wide, index, structure)
        at = found.moved(wide[1].double())
        history.notes.extend([f"curvature: {found.taken}.", *found.notes])
        evidence, some = None, len(index) < len(u)
        proper = model.has_evidence and not another
        if proper and not (some and self.structure != "last-layer") and not log_joint.nonsmooth:
            value = value_of(*wide, jacobian=True) - (_log_prior_of_others(wide[0], wide[1], index) if some else 0.0)
            evidence = value + found.size * HALF_LOG_2PI - found.half_log_det
        certificate = _certificate(mode.certificate, found, structure)
        record = FitRecord(self.name, seed, history, certificate, 0.0, "unconstrained", evidence)
        posterior = _posterior(model, record, at.to(u), found, self.predictive == "linearised")
        if not found.free and not another:
            seen = _covered(posterior, found, (log_joint, u, data), wide, not some and log_joint.smooth)
            certificate = dataclasses.replace(certificate, importance=seen)
        elapsed = time.perf_counter() - started
        posterior.record = dataclasses.replace(record, certificate=certificate, elapsed=elapsed)
        return posterior

    def _mode(self, model: BayesianModel, data: Data, seed: int, report: ProgressCallback) -> Any:
        """The mode, fitted or given."""
        check_has_mode(model)
        self._check(model)
        if isinstance(self.mode, MAP):
            return self.mode.but(jacobian=True).run(model, data, seed=seed, report=report)
        check_mode(self.mode, model)
        return self.mode

    def _tuned(
        self, model: BayesianModel, data: Data, settings: Evidence, seed: int, report: ProgressCallback
    ) -> AbstractAboutAMode:
        """The approximation about the mode at the scales of the highest evidence."""
        started, method = time.perf_counter(), copy.copy(self)
        check_has_mode(model)
        self._check(model)
        mode = self._mode(model, data, seed, report) if self.mode_given else None
        method.mode, tuned = tuned_mode(model, mode, data, settings, 0 if self.structure == "diag" else _DENSE, seed)
        method.tune = None
        if self.curvature == "auto":
            method.curvature = "ggn"  # by which they were tuned
        posterior = method._gaussian(method.mode.model, data, seed, report)
        elapsed = time.perf_counter() - started
        certificate = with_tuned(posterior.certificate, tuned)
        posterior.record = dataclasses.replace(posterior.record, certificate=certificate, elapsed=elapsed)
        return posterior

    def _among(self, log_joint: LogJoint, u: torch.Tensor, data: Data, history: History) -> torch.Tensor:
        """Numbers of the unknowns that the Gaussian is over: not those that a kink holds at zero, nor those left at the mode.

        Raises:
            ValueError: If nothing is left.
        """
        active = unheld(log_joint, u)
        active[noisy_entries(log_joint)] = True
        index = torch.nonzero(active)[:, 0]
        if len(index) < len(u):
            history.notes.append(
                f"the Gaussian is over the {len(index):,} unknowns that are not held at a kink of their prior; the other "
                f"{len(u) - len(index):,} stay there in every draw."
            )
        if log_joint.nonsmooth:
            history.notes.append("there is no evidence: a prior has a kink, and its mode may sit there.")
        if self.structure == "last-layer":
            chosen, name = last_layer(log_joint, u, data)
            history.notes.append(
                f"the Gaussian is over the weights of {name or 'the network itself'} and the noise; the others stay at the "
                "mode, and the evidence is that of these weights given the others."
            )
        elif self.structure == "subnetwork":
            chosen = self._subnetwork(log_joint, u, data, index)
            history.notes.append(
                f"the Gaussian is over {len(chosen):,} of {len(u):,} unknowns; the others stay at the mode, and there is no "
                "evidence."
            )
        else:
            return index
        chosen = chosen[active[chosen]]
        if not len(chosen):
            raise ValueError(
                f"structure={self.structure!r} must be over some unknowns that no kink holds at zero, but all of these are "
                "zero; take structure='diag'."
            )
        return chosen

    def _subnetwork(self, log_joint: LogJoint, u: torch.Tensor, data: Data, active: torch.Tensor) -> torch.Tensor:
        """The weights that are asked for, with the noise."""
        if isinstance(self.subnetwork, int):
            return widest(log_joint, u, data, active, self.subnetwork, "fisher" if self.curvature == "fisher" else "ggn")
        found = [noisy_entries(log_joint)]
        for pattern in self.subnetwork:
            own = [s for s in log_joint.layout.in_order if match_name(pattern, s.latent.name) is not None]
            found += [torch.arange(s.start, s.stop) for s in own]
        return torch.cat(found).unique().to(u.device)

    def _structure(self, wide: Wide, index: torch.Tensor, history: History) -> str:
        """The one asked for, or that suits."""
        if self.structure != "auto":
            return self.structure
        if len(index) <= self.max_parameters:
            return "full"
        found = "kron" if len(index) == len(wide[1]) and has_kronecker(*wide) else "diag"
        history.notes.append(
            f"structure: {found!r}, since {len(index):,} unknowns are more than max_parameters={self.max_parameters:,}."
        )
        return found

    def _about(self, wide: Wide, index: torch.Tensor, structure: str) -> Structured:
        """The covariance in this structure.

        Raises:
            ValueError: If a dense covariance would be too large.
        """
        if structure == "kron":
            return kronecker_blocks(*wide, self.curvature, self.sharing)
        if structure == "diag":
            return diagonal_blocks(*wide, index, self.curvature)
        self._check_size(len(index))
        if len(index) < len(wide[1]) or self.curvature == "fisher":
            return over_some(*wide, index, self.curvature)
        precision, taken = precision_at(*wide, self.curvature)
        check_separated(*wide, precision)
        return of_precision(precision, taken, index, wide[1])

    def _check_size(self, size: int) -> None:
        if size > self.max_parameters:
            other = {"last-layer": "structure='diag'", "subnetwork": "a smaller subnetwork"}
            advice = other.get(self.structure, "structure='kron' or 'diag'")
            raise ValueError(
                f"a dense covariance takes at most max_parameters={self.max_parameters:,} unknowns, but there are {size:,}, a "
                f"matrix of {8e-9 * size**2:.1f} GB; take {advice}, or a larger max_parameters."
            )

    def _check(self, model: BayesianModel) -> None:
        nonsmooth = [name for name, latent in model.latents.items() if not latent.prior.smooth and not latent.is_noise]
        if self.structure == "full" and not nonsmooth:
            self._check_size(model.num_parameters)
        for pattern in self.subnetwork if self.structure == "subnetwork" and isinstance(self.subnetwork, tuple) else ():
            if all(match_name(pattern, name) is None for name in model.latents):
                near = _check.closest(pattern, list(model.latents))
                raise ValueError(f"subnetwork must name tensors that are unknowns, but {pattern!r} matches none{near}.")
        if why := model.behaviour.why_not(EACH_ROW):
            raise ValueError(
                f"LaplaceApproximation needs a network that sees each row by itself, but {why}; let it keep them, or take "
                "method='mean-field'."
            )
        kinked = [output.name for output in model.outputs if not output.prior.smooth]
        if kinked:
            raise ValueError(
                "LaplaceApproximation needs priors with two derivatives, but the output of "
                f"{kinked[0]} has one with a kink; take a Normal or StudentT there, or MeanField."
            )
        if model.outputs and (self.structure not in ("auto", "full") or model.num_parameters > self.max_parameters):
            raise ValueError(
                f"a prior on the output of {model.outputs[0].name} has a curvature over all unknowns, but "
                f"structure={self.structure!r} and {model.num_parameters:,} unknowns came; take structure='full' with "
                "max_parameters above that, or MeanField."
            )
        if nonsmooth and (self.structure == "kron" or model.outputs):
            raise ValueError(
                f"structure={self.structure!r} needs a log-prior with two derivatives at the mode, but {nonsmooth[0]} has "
                f"{model.latents[nonsmooth[0]].prior}, whose mode sits on its kink; take structure='diag', or a Normal prior."
            )


def _checked_subnetwork(given: int | Sequence[str] | None) -> int | tuple[str, ...]:
    """How many weights, or names of tensors.

    Raises:
        ValueError: If it is neither.
    """
    if given is None:
        return 500
    if isinstance(given, str):
        return (given,)
    if isinstance(given, (list, tuple)) and given and all(isinstance(name, str) for name in given):
        return tuple(given)
    if isinstance(given, (list, tuple)):
        raise ValueError(f"subnetwork must be names of tensors or a number, but {given!r} came; pass for example ['0.weight'].")
    return _check.count("subnetwork", given)  # pyright: ignore[reportArgumentType]


def _log_prior_of_others(log_joint: LogJoint, u: torch.Tensor, index: torch.Tensor) -> float:
    """The log-prior of the tensors that are not at `index`, at u."""
    inside, values = set(index.tolist()), log_joint.layout.unflatten(u)
    outside = [s.latent for s in log_joint.layout.in_order if s.start not in inside]
    return sum(float(latent.given(values).log_prob(values[latent.name])) for latent in outside)


def _posterior(
    model: BayesianModel, record: FitRecord, u: torch.Tensor, found: Structured, linearize: bool
) -> AbstractAboutAMode:
    """A Gaussian written out where it is one block over all unknowns, else one in blocks."""
    (first, *rest) = found.blocks
    if not rest and isinstance(first, DenseFactor) and len(first.index) == len(u):
        return Gaussian(model, record, u, first.root.to(u), linearize)
    return BlockGaussian(model, record, u, found.blocks, linearize)


def _covered(posterior: AbstractAboutAMode, found: Structured, narrow: Wide, wide: Wide, whole: bool) -> Importance | None:
    """How well the Gaussian covers the posterior, over the unknowns that vary; None where looking would cost too much.

    A few draws in the model's own type tell a hopeless case; only others get all that are affordable, in float64.
    """
    most = num_draws(wide[0], wide[2])
    if not most or wide[2].x is None:
        return None
    generator, seen = torch.Generator().manual_seed(0), None
    for count, (log_joint, u, data) in ((_FIRST_DRAWS, narrow), (most, wide)):
        noise = posterior.noise(count, generator)
        log_q = -0.5 * noise.double().square().sum(1) - found.size * HALF_LOG_2PI + found.half_log_det
        seen = of_draws(log_joint, posterior.from_noise(noise).to(u), log_q, data)
        if seen.shape > _HOPELESS:
            break
    if seen is None or (whole and seen.reliable):
        return seen
    return dataclasses.replace(seen, log_evidence=None, error=None)


def _certificate(mode: Certificate, found: Structured, structure: str) -> Certificate:
    """The mode's certificate, with the accuracy of the covariance about it."""
    judged = mode if found.error <= TRUSTED else mode.overrule(Finding.COVARIANCE_LOOSE)
    covariance = Covariance(found.taken, found.condition, found.digits, found.free, structure)
    return dataclasses.replace(judged, covariance=covariance)
