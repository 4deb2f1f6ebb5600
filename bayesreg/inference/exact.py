"""Linear-Gaussian models in closed form: the posterior, its covariance and the evidence, to the last digit.

y = Φ w + offset + ε,  w ~ N(m₀, (LᵀL)⁻¹),  ε ~ N(0, σ² I)
B = [L; Φ/σ] = Q R,  t = [0; r/σ],  r = y − offset − Φ m₀;   w | y ~ N(m₀ + R⁻¹Qᵀt, (RᵀR)⁻¹)
log p(y) = log |det L| − log |det R| − ½ ‖t − B R⁻¹Qᵀt‖² − NK/2 log 2πσ²
"""

from __future__ import annotations

import math
import time
from typing import ClassVar

import torch

from bayesreg.behaviour import AS_IT_STANDS
from bayesreg.certificates.certificate import Certificate
from bayesreg.certificates.outcome import Finding
from bayesreg.certificates.values import ClosedForm
from bayesreg.data.rows import Data
from bayesreg.inference.base import AbstractMethod
from bayesreg.model.model import BayesianModel
from bayesreg.objective.affine import check_affine
from bayesreg.objective.conditioning import EPS, TRUSTED, WORST, Products, Root, Rows, entries
from bayesreg.objective.curvature import output_jacobian
from bayesreg.objective.flat import LogJoint
from bayesreg.objective.inverse import MAX_FREE, InverseProblem, improper, inverse_problem, num_free
from bayesreg.objective.whole import in_double
from bayesreg.posteriors.gaussian import Gaussian
from bayesreg.posteriors.matrix_free import MatrixFree
from bayesreg.posteriors.record import FitRecord
from bayesreg.priors.values import HALF_LOG_2PI
from bayesreg.solvers.history import History
from bayesreg.solvers.krylov import LARGE, OF_DRAW, OF_MODE, conjugate_gradients
from bayesreg.solvers.progress import ProgressCallback

MAX_PARAMETERS = 10_000


class Exact(AbstractMethod):
    """The posterior of a model that is affine in its weights, with Gaussian or Flat priors and known Gaussian noise.

    Gaussian priors are Normal, Smooth and MultivariateNormal.

    Affinity is found numerically, not by class: fixed features under a linear layer qualify. Raw features whose columns are
    nearly the same cost digits, not their square: the certificate states the condition number κ of design and priors together,
    in columns of one length. About κ · 2⁻⁵² of each sd is rounding; above 1e-4 it is not certified, above 0.1 refused.

    A linear operator with many unknowns is never written out as a matrix: the mean is found by conjugate gradients, and a draw
    by solving with the data and the prior's mean perturbed, until a bound in nats says that it is exact enough. The answer is
    then `posteriors.MatrixFree`.

    Args:
        matrix_free: Whether to do without matrices; for operators with more than 1,500 unknowns when None.

    Raises:
        ValueError: If matrix_free is none of True, False and None.

    References:
        Bishop (2006), Pattern Recognition and Machine Learning, section 3.3. Bardsley, Solonen, Haario and Laine (2014),
        Randomize-then-optimize: a method for sampling from posterior distributions in nonlinear inverse problems.
    """

    name: ClassVar[str] = "exact"
    when: ClassVar[str] = "The model is linear in its weights, priors are Normal, the noise is known: nothing beats it."

    def __init__(self, matrix_free: bool | None = None) -> None:
        if matrix_free not in (True, False, None):
            raise ValueError(f"matrix_free must be True, False or None, but {matrix_free!r} came; leave it out.")
        self.matrix_free = matrix_free

    def _without_matrices(self, model: BayesianModel, data: Data) -> InverseProblem | None:
        """The problem to be solved by products; None where it is to be solved by matrices."""
        if self.matrix_free is False or (self.matrix_free is None and model.num_parameters <= LARGE):
            return None
        problem = inverse_problem(model, data)
        return problem if problem is not None and problem.prior.num_free <= MAX_FREE else None

    def run(self, model: BayesianModel, data: Data, *, seed: int, report: ProgressCallback) -> Gaussian | MatrixFree:
        """Fit; see `AbstractMethod.run`.

        Raises:
            ValueError: If the model is not linear-Gaussian, too large, or its posterior improper.
        """
        started = time.perf_counter()
        if (problem := self._without_matrices(model, data)) is not None:
            return _matrix_free(model, data, problem, seed, report)
        _check_conjugate(model)
        log_joint = LogJoint(model)
        size = log_joint.layout.size
        if size > MAX_PARAMETERS:
            raise ValueError(
                f"Exact stores a {size:,} × {size:,} matrix and takes at most {MAX_PARAMETERS:,} unknowns; take MeanField."
            )
        log_joint, origin, data = in_double(
            log_joint, torch.zeros(size, dtype=model.like.dtype, device=model.like.device), data
        )
        loc0, prior_root = _prior_moments(log_joint)
        sigma = float(model.noise({})[str(model.likelihood.plain.squared_error_scale)])

        def passed(into: Rows | Products) -> tuple[float, float, int]:
            count, offset, width = 0.0, 0.0, 1
            for x, rows in data.epoch(1024):
                y, weight, _ = model.likelihood.brought(rows)
                jacobian, output = output_jacobian(log_joint, origin, x)
                check_affine(log_joint, jacobian, output, x, who="Exact", instead="LaplaceApproximation, MeanField or MAP")
                design = jacobian.double().reshape(-1, size)
                residual = (y.double() - output.double().reshape(y.shape)).reshape(-1) - design @ loc0
                offset = offset or _offset(design)  # on the first rows
                often = torch.ones_like(residual) if weight is None else weight.double().repeat_interleave(output[0].numel())
                factor = often.sqrt() / sigma
                into.add(design * factor[:, None], residual * factor)
                count, width = count + float(often.sum()), output[0].numel()
            return count, offset, width

        quick, careful = Products(prior_root), Rows(prior_root)
        count, offset, width = passed(quick)
        found = quick.solve()
        if found is None:
            passed(careful)
        root, shift, rest = found or careful.solve()
        if not root.error < WORST:
            raise ValueError(_undetermined(log_joint, root, offset))
        evidence = None
        if model.has_evidence:
            # log N(loc0 | loc0, Λ⁻¹) is ½ log|Λ| − P/2 log 2π, to the last digit
            half_log_det = float(log_joint.log_prior(loc0.to(origin))) + size * HALF_LOG_2PI - root.half_log_det
            evidence = half_log_det - 0.5 * rest - count * (math.log(sigma) + HALF_LOG_2PI)
            evidence += count / width * model.log_jacobian
        history = History("log joint", notes=["closed form: the model is linear-Gaussian."])
        certificate = _certificate(root, loc0 + shift, model.like.dtype)
        record = FitRecord(self.name, seed, history, certificate, time.perf_counter() - started, None, evidence)
        return Gaussian(model, record, (loc0 + shift).to(model.like), root.inverse.to(model.like))


def _matrix_free(model: BayesianModel, data: Data, problem: InverseProblem, seed: int, report: ProgressCallback) -> MatrixFree:
    """The posterior by products alone, and how exact its mean and a draw are.

    Raises:
        ValueError: If the posterior is improper.
    """
    started = time.perf_counter()
    _, b = data.full("Exact")
    right = torch.cat([problem.right(b.reshape(-1)), problem.noise(1, torch.Generator().manual_seed(seed))])
    mean, drawn = (
        conjugate_gradients(problem, part, error, told=lambda step, left: report(step, step, -left))
        for part, error in ((right[:1], OF_MODE), (right[1:], OF_DRAW))
    )
    exact = mean.error <= OF_MODE and drawn.error <= OF_DRAW
    reason = "more than 1,500" if model.num_parameters > LARGE else "as asked"
    said = (
        f"{'Closed form' if exact else 'Not converged'}, without a matrix ({model.num_parameters:,} unknowns, {reason}): by "
        f"conjugate gradients the mean is within {mean.error:.1g} posterior sds ({mean.steps} steps), a draw within "
        f"{drawn.error:.1g} ({drawn.steps} steps), root mean square over the unknowns"
        f"{'.' if exact else '; narrow the prior of x, or rescale the problem.'}"
    )
    numbers = {"error of the mean in sds": mean.error, "error of a draw in sds": drawn.error}
    history = History("log joint", notes=["closed form: the model is linear-Gaussian; no matrix is formed."])
    certificate = Certificate.checked(exact, said, numbers)
    record = FitRecord(Exact.name, seed, history, certificate, time.perf_counter() - started)
    rows = torch.zeros(0, dtype=torch.long) if problem.rows is None else problem.rows
    return MatrixFree(model, record, mean.x.reshape(-1).to(model.like), rows)


def _certificate(root: Root, loc: torch.Tensor, dtype: torch.dtype) -> Certificate:
    """The certificate, from the condition number and the rounding of the module's type."""
    cast = root.cast_error(loc, dtype)
    finding = Finding.FEW_DIGITS if root.error > TRUSTED else Finding.ROUNDED if cast > 0.05 else Finding.EXACT
    form = ClosedForm(root.condition, root.digits, cast, str(dtype).removeprefix("torch."))
    return Certificate(finding, closed_form=form)


def _offset(design: torch.Tensor) -> float:
    """The largest mean of a column of the design, in units of its sd; constant columns are left out."""
    mean, spread = design.mean(0).abs(), design.std(0, correction=0)
    offset = mean / spread.maximum(EPS * mean)  # an sd below rounding counts as zero
    return max(offset[(spread > EPS * mean) | (mean > 1e8)].tolist(), default=0.0)


def _undetermined(log_joint: LogJoint, root: Root, offset: float) -> str:
    """The error where double precision does not hold the posterior, or neither data nor prior determine a direction of it."""
    if log_joint.model.linear_operator is not None and log_joint.model.improper:
        return improper(num_free(root.factor))
    where = entries(log_joint.layout, root.weakest)
    if offset > 1e6:
        return (
            f"Exact must tell {where} apart, but an input is {offset:.1g} times as large as its spread (condition number "
            f"{root.condition:.1g}, more than double precision holds); centre or standardise the inputs (standardize=True)."
        )
    if not log_joint.model.improper:
        return (
            f"Exact must tell {where} apart, but the condition number of inputs and priors together is {root.condition:.1g}, "
            "more than double precision holds; drop redundant inputs, standardise them, or narrow these priors."
        )
    return (
        f"the posterior must be proper, but the data do not determine every weight that has a flat prior: {where} can move "
        "together; give Normal priors to the weights, or drop inputs that are constant or repeat each other."
    )


def _check_conjugate(model: BayesianModel) -> None:
    advice = "take LaplaceApproximation, MeanField or MAP for this model."
    if (model.likelihood.plain.squared_error_scale or "") not in model.likelihood.fixed:
        raise ValueError(
            f"Exact needs a Gaussian likelihood whose noise_scale is a number, but {model.likelihood} came; "
            f"write likelihoods.Gaussian(noise_scale=0.5), or {advice}"
        )
    for name, latent in model.latents.items():
        if latent.parents or latent.prior.gaussian(latent.shape) is None:
            raise ValueError(f"Exact needs Gaussian or Flat priors with known scales, but {name} has {latent.prior}; {advice}")
    if why := model.behaviour.why_not(AS_IT_STANDS):
        raise ValueError(
            f"Exact needs a network that is linear in its weights as it stands, but {why}; normalise by "
            f"standardize=True or layers.Standardize, or {advice}"
        )
    if model.outputs:
        raise ValueError(f"Exact needs priors on weights alone, but the output of {model.outputs[0].name} has one; {advice}")


def _prior_moments(log_joint: LogJoint) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean of each entry, (P,), and a root of the precision, (P,) or (q, P), float64; zero precision for a flat prior."""
    loc, blocks = torch.zeros(log_joint.layout.size, dtype=torch.float64), []
    for segment in log_joint.layout.in_order:
        prior, shape = segment.latent.prior, segment.latent.shape
        found, root = prior.gaussian(shape), prior.gaussian_root(shape)
        if found is not None and root is not None:
            loc[segment.slice] = found[0]
            blocks.append(root)
    diagonal = all(block.dim() == 1 for block in blocks)
    root = torch.cat(blocks) if diagonal else torch.block_diag(*(torch.diag(b) if b.dim() == 1 else b for b in blocks))
    device = log_joint.model.like.device
    return loc.to(device), root.to(device)
