"""Linear-Gaussian models whose noise or prior scales are unknown: the weights are integrated out, and drawn from their normal.

y = Φ w + offset + ε,  ε ~ N(0, σ² I),  w | s ~ N(m, Λ(s)⁻¹),  σ and s with any priors
log p(y | σ, s) = −½ log|H| + ½ log|Λ| + ½ μᵀHμ − ½ mᵀΛm − rᵀr/2σ² − N log σ,   H = ΦᵀΦ/σ² + Λ,  μ = H⁻¹(Φᵀr/σ² + Λ m)

A sweep draws each scale from p(scale | other scales, y) by slice sampling, then w from N(μ, H⁻¹). That is Gibbs sampling with
w collapsed: scales move as far as the data let them, and not as far as the present w does.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from bayesreg import _check
from bayesreg.behaviour import AS_IT_STANDS
from bayesreg.certificates.mixing import of_chains
from bayesreg.certificates.values import Mixing
from bayesreg.data.rows import Data
from bayesreg.inference.base import AbstractMethod
from bayesreg.model.model import BayesianModel
from bayesreg.objective.affine import check_affine
from bayesreg.objective.curvature import output_jacobian
from bayesreg.objective.flat import LogJoint, Segment
from bayesreg.objective.whole import in_double
from bayesreg.posteriors.draws import Draws
from bayesreg.posteriors.record import FitRecord
from bayesreg.priors.values import HALF_LOG_2PI
from bayesreg.solvers.history import History
from bayesreg.solvers.progress import ProgressCallback

MAX_WEIGHTS, MAX_SCALES = 2000, 100
_ROWS = 50  # whose outputs are judged
_OUT, _IN = 20, 100  # steps at most of a slice, outwards and inwards


class Gibbs(AbstractMethod):
    """Draws of weights and of unknown scales, where the weights are normal given these: noise, prior scales, or both.

    The model must be linear in its weights with Gaussian noise and Gaussian priors; the scales may have any priors, also
    hierarchical ones. Draws of the scales do not depend on those of the weights, so that hundreds of draws are enough.

    Args:
        num_chains: C; they start at draws that lie apart.
        num_warmup: Sweeps of each chain that are thrown away, in which slices find their widths.
        num_samples: D, draws that are kept of each chain.

    Raises:
        ValueError: If one of them is not a whole number >= 1.

    References:
        Neal (2003), Slice sampling. Liu (1994), The collapsed Gibbs sampler in Bayesian computations with applications to a
        gene regulation problem. Bardsley (2012), MCMC-based image reconstruction with uncertainty quantification.
    """

    name: ClassVar[str] = "gibbs"
    when: ClassVar[str] = "The model is linear and Gaussian, but the noise or a prior's scale is unknown."

    def __init__(self, num_chains: int = 24, num_warmup: int = 12, num_samples: int = 50) -> None:
        self.num_chains, self.num_warmup = _check.count("num_chains", num_chains), _check.count("num_warmup", num_warmup)
        self.num_samples = _check.count("num_samples", num_samples)

    @classmethod
    def lengths(cls, num_steps: int) -> dict[str, int]:
        """A tenth of the steps of each chain to warm up; see `AbstractMethod.lengths`."""
        warmup = max(1, num_steps // 10)
        return {"num_warmup": warmup, "num_samples": max(1, num_steps - warmup)}

    def run(self, model: BayesianModel, data: Data, *, seed: int, report: ProgressCallback) -> Draws:
        """Fit; see `AbstractMethod.run`.

        Raises:
            ValueError: If the model is not linear and Gaussian given its scales, or too large.
        """
        started = time.perf_counter()
        conditional = _Conditional(*_checked(model, data))
        planned, history, kept = self.num_warmup + self.num_samples, History("log joint"), []
        scales = conditional.start(self.num_chains)
        width, now = torch.ones(conditional.count, dtype=torch.float64), conditional.value(scales)
        for sweep in range(planned):
            for place in range(conditional.count):
                before = scales[:, place]
                scales, now = _slice(conditional, scales, now, place, float(width[place]))
                if sweep < self.num_warmup:
                    width[place] = 0.7 * width[place] + 0.3 * max(3.0 * float((scales[:, place] - before).abs().mean()), 0.05)
            if sweep >= self.num_warmup:
                kept.append(conditional.drawn(scales))
            if sweep % 10 == 0:
                history.record(sweep, float(now.mean()))
                report(sweep, planned, history.objective[-1])
        draws = torch.stack(kept, 1)
        count = f"{conditional.count:,} unknown scale{'s' * (conditional.count != 1)}"
        history.notes.append(f"{count} by slice sampling with the weights integrated out; weights from their normal.")
        found = Mixing(self.num_chains, self.num_samples, planned, planned, 1.0)
        rows = conditional.design[:: max(1, -(-len(conditional.design) // _ROWS))]
        certificate = of_chains(found, draws, draws[..., conditional.at] @ rows.mT)
        record = FitRecord(self.name, seed, history, certificate, time.perf_counter() - started)
        return Draws(model, record, draws.to(model.like))


class _Conditional:
    """p(scales | y) and p(w | y, scales), for C unconstrained lines of scales at once."""

    def __init__(self, log_joint: LogJoint, design: torch.Tensor, rest: torch.Tensor, count: float) -> None:
        layout = log_joint.layout
        self.log_joint, self.design, self.rows = log_joint, design, count
        self.gram, self.moment, self.square = design.mT @ design, design.mT @ rest, float(rest @ rest)
        self.weights = [s for s in layout.in_order if s.latent.kind == "weight"]
        self.scales = [s for s in layout.in_order if s.latent.kind != "weight"]
        self.at = torch.cat([torch.arange(s.start, s.stop) for s in self.weights])
        self.count = sum(s.stop - s.start for s in self.scales)
        self.noise = str(log_joint.model.likelihood.plain.squared_error_scale)

    def start(self, num_chains: int) -> torch.Tensor:
        """Scales of the chains, (C, n): about the size of the targets, a fifth to five times."""
        size = 0.5 * math.log(max(self.square / self.rows, 1e-300))
        level = [size if s.latent.is_noise else 0.0 for s in self.scales for _ in range(s.stop - s.start)]
        away = 3.2 * torch.rand(num_chains, self.count, dtype=torch.float64) - 1.6
        made = torch.tensor(level, dtype=torch.float64) + away
        return torch.where(self.value(made).isfinite()[:, None], made, 0.0)

    def _given(self, line: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """For one line of scales: log p(scales) + log p(w = m | scales) + log-Jacobian, σ, m (n,) and Λ (n, n)."""
        values, jacobian = _constrained(self.scales, line)
        sigma = self.log_joint.model.noise(values)[self.noise].double().reshape(())
        blocks, means = [], []
        for s in self.weights:
            loc, held = s.latent.given(values).gaussian(s.latent.shape)
            values[s.latent.name] = torch.as_tensor(loc, dtype=torch.float64).expand(s.latent.shape)
            means.append(values[s.latent.name].reshape(-1))
            blocks.append(torch.diag_embed(held) if held.dim() == 1 else held)
        precision = blocks[0] if len(blocks) == 1 else torch.block_diag(*blocks)
        return self.log_joint.model.log_prior(values) + jacobian, sigma, torch.cat(means), precision

    def normal(self, scales: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of each line: a factor of H (C, n, n), the mean of w (C, n), and log p(scales, y), −∞ where there is none (C,)."""
        total, sigma, mean, precision = torch.vmap(self._given)(scales)
        shift = (precision @ mean[..., None])[..., 0]
        right = self.moment / sigma[:, None].square() + shift
        factor, failed = torch.linalg.cholesky_ex(self.gram / sigma[:, None, None].square() + precision)
        found = torch.cholesky_solve(right[..., None], factor)[..., 0]
        value = total + 0.5 * ((found * right).sum(1) - (mean * shift).sum(1) - self.square / sigma.square())
        value = value - self.rows * (sigma.log() + HALF_LOG_2PI) - factor.diagonal(dim1=1, dim2=2).log().sum(1)
        value = value + mean.shape[1] * HALF_LOG_2PI
        return factor, found, torch.where((failed == 0) & value.isfinite(), value, -math.inf)

    def value(self, scales: torch.Tensor) -> torch.Tensor:
        """Log p(scales, y) as a density of the unconstrained scales, (C,)."""
        return self.normal(scales)[2]

    def drawn(self, scales: torch.Tensor) -> torch.Tensor:
        """A draw of the whole unconstrained vector for each line, (C, P)."""
        factor, mean, _ = self.normal(scales)
        noise = torch.randn(*mean.shape, 1, dtype=torch.float64)
        w = mean + torch.linalg.solve_triangular(factor.mT, noise, upper=True)[..., 0]
        return torch.vmap(self._flat)(scales, w)

    def _flat(self, line: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        return self.log_joint.layout.flatten(_constrained(self.scales, line)[0] | _constrained(self.weights, w)[0])


def _constrained(segments: Sequence[Segment], line: torch.Tensor) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Values by name of the segments' unconstrained numbers in one line, and the transforms' log-Jacobian."""
    values, jacobian = {}, line.new_zeros(())
    for s, part in zip(segments, line.split([s.stop - s.start for s in segments]), strict=True):
        value = part if s.transform is None else s.transform(part)
        if s.transform is not None:
            jacobian = jacobian + s.transform.log_abs_det_jacobian(part, value).sum()
        values[s.latent.name] = value.reshape(s.latent.shape)
    return values, jacobian


def _slice(
    conditional: _Conditional, scales: torch.Tensor, now: torch.Tensor, place: int, width: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """One scale of each chain drawn anew, by stepping out and shrinking; the scales (C, n) and their densities (C,)."""

    def at(value: torch.Tensor) -> torch.Tensor:
        return conditional.value(_with(scales, place, value))

    here = scales[:, place]
    level = now - torch.empty_like(now).exponential_()
    low = here - width * torch.rand_like(here)
    high = low + width
    for _ in range(_OUT):  # both ends in one go
        inside = conditional.value(torch.cat([_with(scales, place, end) for end in (low, high)])) > level.repeat(2)
        if not bool(inside.any()):
            break
        below, above = inside.chunk(2)
        low, high = low - width * below, high + width * above
    open_, result = torch.ones_like(here, dtype=torch.bool), here.clone()
    density = now.clone()
    for _ in range(_IN):
        there = low + (high - low) * torch.rand_like(here)
        value = at(there)
        taken = open_ & (value > level)
        result, density = torch.where(taken, there, result), torch.where(taken, value, density)
        open_ = open_ & ~taken
        if not bool(open_.any()):
            break
        low, high = torch.where(there < here, there, low), torch.where(there < here, high, there)
    return _with(scales, place, result), density


def _with(scales: torch.Tensor, place: int, value: torch.Tensor) -> torch.Tensor:
    """The scales with one of each line replaced."""
    made = scales.clone()
    made[:, place] = value
    return made


def _checked(model: BayesianModel, data: Data) -> tuple[LogJoint, torch.Tensor, torch.Tensor, float]:
    """The log-joint in float64, Φ with rows weighted, what the offset leaves of the targets, and the number of targets.

    Raises:
        ValueError: If the model is not linear and Gaussian given its scales.
    """
    advice = "take NUTS, MeanField or LaplaceApproximation for this model."
    if model.likelihood.plain.squared_error_scale is None:
        raise ValueError(f"Gibbs needs a Gaussian likelihood with one noise scale, but {model.likelihood} came; {advice}")
    if why := model.behaviour.why_not(AS_IT_STANDS):
        raise ValueError(f"Gibbs needs a network that is linear in its weights as it stands, but {why}; {advice}")
    if model.outputs:
        raise ValueError(f"Gibbs needs priors on weights alone, but the output of {model.outputs[0].name} has one; {advice}")
    ones: Any = {name: torch.ones(latent.shape, dtype=torch.float64) for name, latent in model.latents.items()}
    for name, latent in model.latents.items():
        if latent.kind == "weight" and latent.given(ones).gaussian(latent.shape) is None:
            raise ValueError(f"Gibbs needs Gaussian or Flat priors on weights, but {name} has {latent.prior}; {advice}")
        if latent.kind != "weight" and not latent.centered:
            raise ValueError(f"Gibbs needs scales with priors of their own, but {name} is not centred; {advice}")
    sizes = [sum(x.shape.numel() for x in model.latents.values() if (x.kind == "weight") is of) for of in (True, False)]
    if sizes[0] > MAX_WEIGHTS or sizes[1] > MAX_SCALES:
        raise ValueError(
            f"Gibbs factorises a matrix for each step, for at most {MAX_WEIGHTS:,} weights and {MAX_SCALES} scales, but "
            f"{sizes[0]:,} and {sizes[1]:,} came; fix the scales and take Exact, or {advice}"
        )
    data.full("Gibbs")
    log_joint = LogJoint(model)
    origin = torch.zeros(log_joint.layout.size, dtype=model.like.dtype, device=model.like.device)
    log_joint, origin, data = in_double(log_joint, origin, data)
    weights = torch.cat([torch.arange(s.start, s.stop) for s in log_joint.layout.in_order if s.latent.kind == "weight"])
    designs, rests, count = [], [], 0.0
    for x, rows in data.epoch(1024):
        y, weight, _ = model.likelihood.brought(rows)
        jacobian, output = output_jacobian(log_joint, origin, x)
        check_affine(log_joint, jacobian, output, x, who="Gibbs", instead="NUTS, MeanField or LaplaceApproximation")
        often = torch.ones(len(x), dtype=torch.float64) if weight is None else weight.double()
        factor = often.sqrt().repeat_interleave(output.shape[1])
        designs.append(jacobian.double()[..., weights].reshape(-1, len(weights)) * factor[:, None])
        rests.append((y.double().reshape(output.shape) - output.double()).reshape(-1) * factor)
        count += float(often.sum()) * output.shape[1]
    return log_joint, torch.cat(designs), torch.cat(rests), count
