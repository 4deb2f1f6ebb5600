"""What a certificate says of lengths that no prediction depends on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from bayesreg.certificates.certificate import Certificate
from bayesreg.objective.directions import Rows


def with_norms(
    certificate: Certificate, rows: Sequence[Rows], start: torch.Tensor, u: torch.Tensor, unit_norm: bool
) -> Certificate:
    """The same certificate with a word on what became of the lengths that no prediction depends on.

    Args:
        certificate: Of the fit.
        rows: The scale-invariant tensors.
        start: Where the fit began, (P,).
        u: Where it ended, (P,).
        unit_norm: Whether the rows were held at length one.

    Returns:
        The certificate with "norm of <tensor>", "2.31 -> 1.05", in its details, and a sentence more.
    """
    if not rows:
        return certificate
    before, after = ([f"{one.norm(point):.3g}" for one in rows] for point in (start, u))
    details = {f"norm of {one.name}": f"{a} -> {b}" for one, a, b in zip(rows, before, after, strict=True)}
    single, names = len(rows) == 1, rows[0].name if len(rows) == 1 else f"{rows[0].name} and {len(rows) - 1} more"
    what = f" {names} {'is' if single else 'are'} scale-invariant (a BatchNorm follows)"
    if unit_norm:
        word = f"{what}: each output unit is held at norm 1."
    elif single:
        word = (
            f"{what}: its norm went from {before[0]} to {after[0]}, which changes no prediction (but for ε); "
            "scale_invariant='unit-norm' fixes it."
        )
    else:
        word = (
            f"{what}: the norm of {rows[0].name} went from {before[0]} to {after[0]}, which changes no prediction (but for ε); "
            "scale_invariant='unit-norm' fixes them."
        )
    return dataclasses.replace(certificate, sentence=certificate.sentence + word, details={**certificate.details, **details})
