"""The precision of all unknowns at a mode, from the Hessian or the Gauss–Newton matrix, whichever can be inverted."""

from __future__ import annotations

import torch

from bayesreg.data.rows import Data
from bayesreg.objective.affine import is_affine
from bayesreg.objective.conditioning import TRUSTED
from bayesreg.objective.curvature import full_hessian, gauss_newton, gauss_newton_rows
from bayesreg.objective.flat import LogJoint
from bayesreg.objective.identify import Precision, Undetermined, from_matrix, from_rows, undetermined

_HESSIAN = 2**27  # rows × unknowns² up to which "auto" forms the Hessian: about a second
_GOOD = 1e-9  # relative error of the standard deviations that is small enough


def precision_at(log_joint: LogJoint, u: torch.Tensor, data: Data, curvature: str = "auto") -> tuple[Precision, str]:
    """The precision at the mode of the unconstrained density, (P,), and the name of the matrix it comes from.

    "auto" is the Hessian where it is positive definite and cheaper than the search for the mode, else Gauss–Newton's matrix.
    The objective is best in float64.

    Raises:
        ValueError: If the Hessian was asked for and is not positive definite.
        Undetermined: If neither data nor prior determine a direction.
    """
    if curvature != "ggn" and _is_gauss_newton(log_joint, data):
        return _gauss_newton(log_joint, u, data), "Hessian"
    why = ""
    if curvature == "hessian" or (curvature == "auto" and pays(len(u), data)):
        matrix = full_hessian(log_joint, u, data, jacobian=True).double()
        found = from_matrix(matrix, log_joint, u, data)
        if found is not None and found.root.error <= TRUSTED:
            return found, f"Hessian{log_joint.model.behaviour.approximately}"
        why = f" ({indefinite(matrix, curvature)})"
    return _gauss_newton(log_joint, u, data), f"Gauss–Newton matrix{why}"


def pays(size: int, data: Data) -> bool:
    """Whether second derivatives in so many unknowns cost no more than a search for a mode."""
    return data.num_data * size**2 <= _HESSIAN


def _is_gauss_newton(log_joint: LogJoint, data: Data) -> bool:
    """Whether the Gauss–Newton matrix is the Hessian: the network is linear in its weights, and nothing else is unknown."""
    model = log_joint.model
    if model.outputs or model.likelihood.latents or not model.likelihood.log_concave or data.x is None:
        return False
    return data.x.is_floating_point() and is_affine(log_joint, data)


def indefinite(hessian: torch.Tensor, curvature: str) -> str:
    """Why this Hessian is not taken, in words.

    Raises:
        ValueError: If it was asked for.
    """
    smallest = f"{float(torch.linalg.eigvalsh(hessian)[0]):.2g}"
    if curvature == "hessian":
        raise ValueError(
            f"the Hessian must be positive definite at a mode, but its smallest eigenvalue is {smallest}; "
            "take curvature='ggn', or fit the mode longer."
        )
    return f"the Hessian's smallest eigenvalue is {smallest}"


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
