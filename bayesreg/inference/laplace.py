"""The Laplace approximation: a Gaussian with the curvature of the log-joint at its mode, and the evidence that gives.

p(u | y) ≈ N(u*, H⁻¹),  H = −∂² log p(y, u)/∂u∂uᵀ at u*,   log p(y) ≈ log p(y, u*) + P/2 log 2π − ½ log|H|
"""

from __future__ import annotations

import dataclasses
import math
import time
from typing import ClassVar

import torch

from bayesreg import _check
from bayesreg.behaviour import EACH_ROW, EVIDENCE
from bayesreg.certificates.certificate import Certificate
from bayesreg.certificates.has_mode import check_has_mode
from bayesreg.certificates.optimality import value_of
from bayesreg.certificates.outcome import Finding
from bayesreg.certificates.values import Covariance
from bayesreg.data.rows import Data
from bayesreg.inference.base import AbstractMethod
from bayesreg.inference.empirical_bayes import Evidence, checked_tune, tuned_mode, with_tuned
from bayesreg.inference.map import MAP
from bayesreg.model.model import BayesianModel
from bayesreg.objective.affine import is_affine
from bayesreg.objective.conditioning import TRUSTED
from bayesreg.objective.curvature import full_hessian, gauss_newton, gauss_newton_rows
from bayesreg.objective.flat import LogJoint
from bayesreg.objective.identify import Precision, Undetermined, check_separated, from_matrix, from_rows, undetermined
from bayesreg.objective.whole import in_double
from bayesreg.posteriors.gaussian import Gaussian
from bayesreg.posteriors.record import FitRecord
from bayesreg.solvers.progress import ProgressCallback

_GOOD = 1e-9  # relative error of the standard deviations that is small enough


class LaplaceApproximation(AbstractMethod):
    """A Gaussian around the mode of the unconstrained density, with a full covariance.

    Predictions use the network linearised at the mode: draws of the Gaussian leave the region where the curvature describes the
    network itself.

    Softmax is invariant to a number that is added to all classes. Where the last layer's prior is flat in that direction, the
    number is held at zero, and `std` is that of the differences from the classes' mean. No prediction depends on it.

    Args:
        curvature: "hessian" (exact second derivatives; refused where they are not positive definite), "ggn" (Gauss–Newton,
            never indefinite), or "auto": the Hessian where it is positive definite, else Gauss–Newton; the certificate says
            which.
        mode: How the mode is found, a `MAP`; its defaults when None. It is taken in unconstrained space in any case.
        max_parameters: Refuse more unknowns than this: the matrix takes 8·P² bytes and P³ operations.
        tune: "evidence" to tune the scales of the priors, and a known noise scale, to the highest evidence (empirical Bayes);
            `inference.Evidence(per="rule", noise=False)` for one scale a rule, or a noise that stays. The posterior's model
            has the tuned scales.

    Raises:
        ValueError: If an argument is out of its range.

    References:
        MacKay (1992), A practical Bayesian framework for backpropagation networks. Immer, Korzepa and Bauer (2021), Improving
        predictions of Bayesian neural nets via local linearization.
    """

    name: ClassVar[str] = "laplace"
    when: ClassVar[str] = "Up to a few thousand weights and smooth priors: correlations, honest error bars, an evidence."

    def __init__(
        self,
        curvature: str = "auto",
        mode: MAP | None = None,
        max_parameters: int = 5000,
        *,
        tune: str | Evidence | None = None,
    ) -> None:
        self.curvature = _check.one_of("curvature", curvature, ("auto", "hessian", "ggn"))
        self.mode = mode or MAP()
        self.max_parameters = _check.count("max_parameters", max_parameters)
        self.tune = checked_tune(tune)

    def run(self, model: BayesianModel, data: Data, *, seed: int, report: ProgressCallback) -> Gaussian:
        """Fit; see `AbstractMethod.run`.

        Raises:
            ValueError: If the model is too large, a prior has a kink, there is no usable mode or no proper posterior.
        """
        started = time.perf_counter()
        check_has_mode(model)
        self._check(model)
        mode, tuned, curvature = self.mode.but(jacobian=True).run(model, data, seed=seed, report=report), None, self.curvature
        if self.tune is not None:
            mode, tuned = tuned_mode(mode, data, self.tune, self.mode.options, self.max_parameters)
            curvature = "ggn" if curvature == "auto" else curvature  # by which they were tuned
        if mode.certificate.point is None or not mode.certificate.usable:
            raise ValueError(f"a Laplace approximation needs a mode: {mode.certificate}")
        model, u = mode.model, mode.loc
        another = model.behaviour.why_not(EVIDENCE)
        if model.behaviour.normalising:
            mode.history.of_statistics.append(
                f"{model.behaviour.normalises_by}: curvature and predictions use the running averages from the mode's "
                "training; at the mode of another objective there is no evidence."
            )
        elif another:
            mode.history.notes.append(f"there is no evidence: {another}.")
        log_joint = LogJoint(model)
        wide = in_double(log_joint, u, data)
        precision, taken = precision_at(*wide, curvature)
        root = precision.root
        check_separated(*wide, precision)
        u = precision.project(u.double()).to(u)
        evidence = None
        if all(latent.prior.proper for latent in model.latents.values()) and not model.outputs and not another:
            evidence = value_of(*wide, jacobian=True) + 0.5 * len(u) * math.log(2 * math.pi) - root.half_log_det
        certificate = with_tuned(_certificate(mode.certificate, precision, taken), tuned)
        mode.history.notes.append(f"curvature: {taken}.")
        elapsed = time.perf_counter() - started
        record = FitRecord(self.name, seed, mode.history, certificate, elapsed, "unconstrained", evidence)
        return Gaussian(model, record, u, precision.factor.to(u), linearize=True)

    def _check(self, model: BayesianModel) -> None:
        if model.num_parameters > self.max_parameters:
            raise ValueError(
                f"LaplaceApproximation takes at most max_parameters={self.max_parameters:,} unknowns, but the model has "
                f"{model.num_parameters:,}, a matrix of {8e-9 * model.num_parameters**2:.1f} GB; take MeanField, a smaller "
                "network, or a larger max_parameters."
            )
        if why := model.behaviour.why_not(EACH_ROW):
            raise ValueError(
                f"LaplaceApproximation needs a network that sees each row by itself, but {why}; let it keep them, or take "
                "method='mean-field'."
            )
        nonsmooth = [output.name for output in model.outputs if not output.prior.smooth]
        if nonsmooth:
            raise ValueError(
                "LaplaceApproximation needs priors with two derivatives, but the output of "
                f"{nonsmooth[0]} has one with a kink; take a Normal or StudentT there, or MeanField."
            )
        for name, latent in model.latents.items():
            if not latent.prior.smooth:
                raise ValueError(
                    f"LaplaceApproximation needs a log-prior with two derivatives at the mode, but {name} has {latent.prior}, "
                    "whose mode sits on its kink; take a Normal prior, or MeanField."
                )


def precision_at(log_joint: LogJoint, u: torch.Tensor, data: Data, curvature: str = "auto") -> tuple[Precision, str]:
    """The precision at the mode of the unconstrained density, (P,), and the name of the matrix it comes from.

    The objective is best in float64.

    Raises:
        ValueError: If the Hessian was asked for and is not positive definite.
        Undetermined: If neither data nor prior determine a direction.
    """
    if curvature != "ggn" and _is_gauss_newton(log_joint, data):
        return _gauss_newton(log_joint, u, data), "Hessian"
    why = ""
    if curvature != "ggn":
        matrix = full_hessian(log_joint, u, data, jacobian=True).double()
        found = from_matrix(matrix, log_joint, u, data)
        if found is not None and found.root.error <= TRUSTED:
            return found, f"Hessian{log_joint.model.behaviour.approximately}"
        smallest = f"{float(torch.linalg.eigvalsh(matrix)[0]):.2g}"
        if curvature == "hessian":
            raise ValueError(
                f"the Hessian must be positive definite at a mode, but its smallest eigenvalue is {smallest}; "
                "take curvature='ggn', or fit the mode longer."
            )
        why = f" (the Hessian's smallest eigenvalue is {smallest})"
    return _gauss_newton(log_joint, u, data), f"Gauss–Newton matrix{why}"


def _is_gauss_newton(log_joint: LogJoint, data: Data) -> bool:
    """Whether the Gauss–Newton matrix is the Hessian: the network is linear in its weights, and nothing else is unknown."""
    model = log_joint.model
    if model.outputs or model.likelihood.latents or not model.likelihood.log_concave or data.x is None:
        return False
    return data.x.is_floating_point() and is_affine(log_joint, data)


def _gauss_newton(log_joint: LogJoint, u: torch.Tensor, data: Data) -> Precision:
    """The precision by Gauss–Newton: from the matrix, or from the rows of its root where the matrix loses digits.

    Raises:
        Undetermined: If it does not determine a direction.
    """
    matrix = gauss_newton(log_joint, u, data, jacobian=True).double()
    found = from_matrix(matrix, log_joint, u, data)
    if found is not None and found.root.error <= _GOOD:
        return found
    rows = gauss_newton_rows(log_joint, u, data)
    if rows is not None:
        return from_rows(rows, log_joint, u, data)
    if found is not None:
        return found
    lengths = matrix.diagonal().abs().sqrt().clamp_min(torch.finfo(torch.float64).tiny)
    values, vectors = torch.linalg.eigh(matrix / lengths[:, None] / lengths)
    raise Undetermined(undetermined(log_joint, vectors[:, 0], float((values[-1] / values[0].abs()).sqrt())))


def _certificate(mode: Certificate, precision: Precision, taken: str) -> Certificate:
    """The mode's certificate, with the accuracy of the covariance about it."""
    root = precision.root
    found = mode if root.error <= TRUSTED else mode.overrule(Finding.COVARIANCE_LOOSE)
    return dataclasses.replace(found, covariance=Covariance(taken, root.condition, root.digits, precision.names))
