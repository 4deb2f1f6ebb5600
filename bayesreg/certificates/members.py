"""The certificate of an ensemble: whether each member ended at a mode, and how far members lie apart."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from bayesreg.certificates.certificate import Certificate
from bayesreg.certificates.outcome import Finding
from bayesreg.certificates.values import OwnCheck


def of_members(
    judged: Sequence[Certificate], log_joints: torch.Tensor | None, outputs: torch.Tensor, *, what: str, temperature: float
) -> Certificate:
    """The certificate of an ensemble.

    Args:
        judged: Those of members that were looked at.
        log_joints: Of each member in nats, (R,), where they can be compared; None where each has an objective of its own.
        outputs: Each member's outputs in some training rows, (R, Q).
        what: What the members are, a clause.
        temperature: T.

    Returns:
        Passed where every member that was looked at ended at a mode.
    """
    failed = [one for one in judged if not one.converged]
    left = [one.nats_left for one in judged if one.nats_left is not None]
    between = float(outputs.double().var(0).mean().sqrt()) if len(outputs) > 1 else 0.0
    count, most = len(judged), max(left, default=None)
    numbers: dict[str, float | str] = {
        "members": float(len(outputs)),
        "members judged": float(count),
        "members at a mode": float(count - len(failed)),
        "sd of outputs between members": between,
        "sd of outputs within members": 0.0,
        "temperature": temperature,
    }
    if most is not None:
        numbers["most nats left by a member"] = most
    apart = ""
    if log_joints is not None:
        numbers["spread of log joints"] = spread = float(log_joints.max() - log_joints.min())
        apart = f" and {spread:.3g} nats from the best log-joint to the worst"
    early = any(one.finding is Finding.STOPPED_EARLY for one in judged)
    of = f"{count:,} of {len(outputs):,} members were judged: " if count < len(outputs) else f"{count:,} members: "
    said = f"{of}{count - len(failed):,} ended at a mode" + ("" if most is None else f", {most:.2g} nats left at most")
    said += f". They are {what}; the outputs' sd is {between:.2g} between members (each is a point){apart}."
    if temperature != 1.0:
        said += f" Temperature {temperature:g}: not the posterior, but its density to the power 1/{temperature:g}."
    if failed and not early:
        said += f" One that did not: {failed[0]}"
    found = Certificate.checked(not failed, said, numbers)
    return dataclasses.replace(found, finding=Finding.STOPPED_EARLY, check=OwnCheck(said, numbers)) if early else found
