"""What a certificate says of lengths that no prediction depends on."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from bayesreg.certificates.certificate import Certificate
from bayesreg.certificates.values import Length, Lengths
from bayesreg.objective.directions import Rows


def with_norms(
    certificate: Certificate, rows: Sequence[Rows], start: torch.Tensor, u: torch.Tensor, unit_norm: bool
) -> Certificate:
    """The same certificate with what became of the lengths that no prediction depends on.

    Args:
        certificate: Of the fit.
        rows: The scale-invariant tensors.
        start: Where the fit began, (P,).
        u: Where it ended, (P,).
        unit_norm: Whether the rows were held at length one.

    Returns:
        The certificate with `lengths`, where there are such tensors.
    """
    if not rows:
        return certificate
    tensors = tuple(Length(one.name, one.norm(start), one.norm(u)) for one in rows)
    return dataclasses.replace(certificate, lengths=Lengths(tensors, unit_norm))
