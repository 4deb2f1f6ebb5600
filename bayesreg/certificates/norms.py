"""Adds to a certificate the norms of tensors whose scale no prediction depends on."""

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
    """The certificate with `lengths`: the norms of the scale-invariant tensors at the start and at the end of the fit.

    `unit_norm` says that each row was held at length one.
    """
    if not rows:
        return certificate
    tensors = tuple(Length(one.name, one.norm(start), one.norm(u)) for one in rows)
    return dataclasses.replace(certificate, lengths=Lengths(tensors, unit_norm))
