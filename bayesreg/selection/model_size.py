"""Model size from the curvature at a mode: the effective number of weights, and the evidence.

degrees of freedom = tr[H_lik (H_lik + H_prior)⁻¹] over what is not zero;   log p(y) ≈ log p(y, u*) + P/2 log 2π − ½ log|H|
"""

from __future__ import annotations

import math

import torch

from bayesreg.behaviour import EVIDENCE
from bayesreg.data.rows import Data
from bayesreg.objective.curvature import likelihood_gauss_newton, prior_hessian, unheld
from bayesreg.objective.flat import LogJoint
from bayesreg.objective.precision import precision_at
from bayesreg.objective.whole import gradient_of

_ENOUGH = 0.5  # nats that a Newton step may still gain where an evidence is reported


def degrees_of_freedom(log_joint: LogJoint, u: torch.Tensor, data: Data) -> float:
    """The effective number of weights at a mode, 0 … P: tr[H_lik (H_lik + H_prior)⁻¹]; the noise is not counted.

    H_lik is the Gauss–Newton matrix of the likelihood, exact for a model that is linear in its weights. Where the network also
    predicts the noise it is the Fisher information, and the weights for the noise are counted. Where a penalty has a kink the
    trace is over the weights that are not at it: for the lasso it is their number, for the group lasso the curvature of the
    groups' norms is in H_prior, and for ridge it is tr[XᵀX (XᵀX + σ²/τ²)⁻¹]. The objective is best in float64.

    References:
        MacKay (1992), Bayesian interpolation. Zou, Hastie and Tibshirani (2007), On the "degrees of freedom" of the lasso.
        Vaiter, Deledalle, Peyré, Fadili and Dossal (2012), The degrees of freedom of the group lasso.
    """
    active = unheld(log_joint, u)
    likelihood = likelihood_gauss_newton(log_joint, u, data, active)
    whole = likelihood + prior_hessian(log_joint, u)[active][:, active]
    # a direction that neither data nor prior determine is no degree of freedom
    values, vectors = torch.linalg.eigh(0.5 * (whole + whole.mT))
    held = values > 1e-12 * values.amax().clamp_min(0) if len(values) else values > 0
    inner = torch.einsum("pk,pq,qk->k", vectors[:, held], likelihood, vectors[:, held])
    return float((inner / values[held]).sum())


def log_evidence(log_joint: LogJoint, u: torch.Tensor, data: Data) -> float:
    """The Laplace approximation of log p(y | x) in nats, in the data's own units; NaN where `u` is no mode.

    `u` is the mode of the unconstrained density; it counts as one where a Newton step would gain at most half a nat (or 1 % of
    P/2). The objective is best in float64.

    Raises:
        ValueError: If the curvature is singular.
    """
    value, gradient = gradient_of(log_joint, u, data, jacobian=True)
    precision, _ = precision_at(log_joint, u, data)
    gain = 0.5 * float((precision.factor.mT @ gradient.double()).square().sum())
    if gain > max(_ENOUGH, 0.005 * len(u)):
        return math.nan
    return value + 0.5 * len(u) * math.log(2 * math.pi) - precision.root.half_log_det


def no_evidence(log_joint: LogJoint, most: int) -> str:
    """Why there is no Laplace evidence of this model, one clause, or an empty text where there is one.

    The matrix is formed for at most `most` unknowns.
    """
    model = log_joint.model
    nonsmooth = [str(latent.prior) for latent in model.latents.values() if not latent.prior.smooth]
    improper = [name for name, latent in model.latents.items() if not latent.prior.proper]
    if another := model.behaviour.why_not(EVIDENCE):
        return another
    if nonsmooth:
        return (
            f"a Laplace approximation needs a log-prior with two derivatives, and {nonsmooth[0]} has a kink where the mode sits"
        )
    if improper:
        return f"the prior of {improper[0]} is improper, so that the evidence has no value"
    if log_joint.layout.size > most:
        return f"the model has {log_joint.layout.size:,} unknowns, more than {most:,}"
    return ""
