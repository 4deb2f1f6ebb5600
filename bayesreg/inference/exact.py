"""Linear-Gaussian models in closed form: the posterior, its covariance and the evidence, to the last digit.

y = Φ w + offset + ε,  w ~ N(m₀, Λ⁻¹),  ε ~ N(0, σ² I)
A = ΦᵀΦ/σ² + Λ,   w | y ~ N(m₀ + A⁻¹ Φᵀ r/σ², A⁻¹),   r = y − offset − Φ m₀
log p(y) = −½ [NK log 2πσ² + log|A| − log|Λ| + rᵀr/σ² − rᵀΦ A⁻¹ Φᵀr/σ⁴]
"""

from __future__ import annotations

import math
import time
from typing import ClassVar

import torch

from bayesreg.data import Data
from bayesreg.flat import LogJoint
from bayesreg.inference.affine import departure, is_rounding
from bayesreg.inference.base import AbstractMethod, Report
from bayesreg.inference.curvature import output_jacobian
from bayesreg.layers.batchnorm import stateless, untrained
from bayesreg.likelihoods import Gaussian as GaussianLikelihood
from bayesreg.model import BayesianModel
from bayesreg.posterior import Gaussian
from bayesreg.record import Certificate, FitRecord, History

MAX_PARAMETERS = 10_000


class Exact(AbstractMethod):
    """The posterior of a model that is affine in its weights, with Gaussian or Flat priors and known Gaussian noise.

    Gaussian priors are Normal, Smooth and MultivariateNormal.

    Affinity is found numerically, not by class: fixed features under a linear layer qualify.

    References:
        Bishop (2006), Pattern Recognition and Machine Learning, section 3.3.
    """

    name: ClassVar[str] = "exact"
    when: ClassVar[str] = "The model is linear in its weights, priors are Normal, the noise is known: nothing beats it."

    def run(self, model: BayesianModel, data: Data, *, seed: int, report: Report) -> Gaussian:
        """Fit; see `AbstractMethod.run`.

        Raises:
            ValueError: If the model is not linear-Gaussian, too large, or its posterior improper.
        """
        started = time.perf_counter()
        _check_conjugate(model)
        log_joint = LogJoint(model)
        size = log_joint.layout.size
        if size > MAX_PARAMETERS:
            raise ValueError(
                f"Exact stores a {size:,} × {size:,} matrix and takes at most {MAX_PARAMETERS:,} unknowns; take MeanField."
            )
        loc0, precision0 = _prior_moments(log_joint)
        sigma2 = float(model.noise({})["noise_scale"]) ** 2
        gram = torch.zeros(size, size, dtype=torch.float64, device=loc0.device)
        moment, squares, count = torch.zeros_like(loc0), 0.0, 0
        origin = torch.zeros(size, dtype=model.like.dtype, device=model.like.device)
        for x, y in data.epoch(1024):
            jacobian, output = output_jacobian(log_joint, origin, x)
            _check_affine(log_joint, jacobian, output, x)
            design = jacobian.double().reshape(-1, size)
            residual = (y.double() - output.double().reshape(y.shape)).reshape(-1) - design @ loc0
            gram += design.mT @ design
            moment += design.mT @ residual
            squares += float(residual.square().sum())
            count += len(residual)
        precision = gram / sigma2 + precision0
        factor, info = torch.linalg.cholesky_ex(precision)
        if int(info) != 0:
            raise ValueError(
                "the posterior must be proper, but the data do not determine every weight that has a flat prior; "
                "give Normal priors to the weights, or drop redundant inputs."
            )
        shift = torch.cholesky_solve(moment[:, None] / sigma2, factor)[:, 0]
        evidence = None
        if all(latent.prior.proper for latent in model.latents.values()):
            log_det = 2 * float(factor.diagonal().log().sum()) - float(torch.linalg.slogdet(precision0)[1])
            quadratic = squares / sigma2 - float(moment @ shift) / sigma2
            evidence = -0.5 * (count * math.log(2 * math.pi * sigma2) + log_det + quadratic)
            evidence += data.num_data * model.log_jacobian
        eye = torch.eye(size, dtype=torch.float64, device=loc0.device)
        root = torch.linalg.solve_triangular(factor.mT, eye, upper=True)
        history = History("log joint", notes=["closed form: the model is linear-Gaussian."])
        certificate = Certificate(True, "Exact: closed form of the linear-Gaussian posterior.")
        record = FitRecord(self.name, seed, history, certificate, time.perf_counter() - started, None, evidence)
        return Gaussian(model, record, (loc0 + shift).to(model.like), root.to(model.like))


def _check_conjugate(model: BayesianModel) -> None:
    advice = "take LaplaceApproximation, MeanField or MAP for this model."
    if not isinstance(model.likelihood, GaussianLikelihood) or not model.likelihood.fixed:
        raise ValueError(
            f"Exact needs a Gaussian likelihood whose noise_scale is a number, but {model.likelihood} came; "
            f"write likelihoods.Gaussian(noise_scale=0.5), or {advice}"
        )
    for name, latent in model.latents.items():
        if latent.parents or latent.prior.gaussian(latent.shape) is None:
            raise ValueError(f"Exact needs Gaussian or Flat priors with known scales, but {name} has {latent.prior}; {advice}")
    if untrained(model.module) or stateless(model.module):
        raise ValueError(
            "Exact needs a network that is linear in its weights as it stands, but its batch normalisation has no statistics; "
            f"normalise by standardize=True or layers.Standardize, or {advice}"
        )
    if model.outputs:
        raise ValueError(f"Exact needs priors on weights alone, but the output of {model.outputs[0].name} has one; {advice}")


def _prior_moments(log_joint: LogJoint) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean of each entry, (P,), and the precision, (P, P), float64; a flat prior has precision zero."""
    size = log_joint.layout.size
    loc, precision = torch.zeros(size, dtype=torch.float64), torch.zeros(size, size, dtype=torch.float64)
    for segment in log_joint.layout.in_order:
        found = segment.latent.prior.gaussian(segment.latent.shape)
        if found is not None:
            loc[segment.slice] = found[0]
            block = found[1]
            precision[segment.slice, segment.slice] = torch.diag(block) if block.dim() == 1 else block
    device = log_joint.model.like.device
    return loc.to(device), precision.to(device)


def _check_affine(log_joint: LogJoint, jacobian: torch.Tensor, output: torch.Tensor, x: torch.Tensor) -> None:
    error = departure(log_joint, lambda u: jacobian @ u, output, x)
    if not is_rounding(error, x):
        raise ValueError(
            f"Exact needs a module that is linear in its weights, but its output departs from that by {error:.1e} of its size; "
            "take LaplaceApproximation, MeanField or MAP for this model."
        )
