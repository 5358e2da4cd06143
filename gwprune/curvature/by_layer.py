"""What each layer has of a network's curvature, and of the loss that pruning costs in the local quadratic model."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..spectral.lanczos import rademacher
from .operator import CurvatureOperator

__all__ = ["LayerCurvature", "by_layer"]


@dataclass(frozen=True)
class LayerCurvature:
    """One tensor of the prunable set.

    Attributes:
        trace: of its block of the curvature, estimated.
        trace_standard_error: of the estimate, over random probes.
        rise: its part of ``-g^T Delta + 1/2 Delta^T H Delta``, in units of the loss.
    """

    trace: float
    trace_standard_error: float
    rise: float


def by_layer(operator: CurvatureOperator, removed: Tensor, probes: int = 8, seed: int = 0) -> list[LayerCurvature]:
    """Trace and part of the quadratic rise of every tensor of the prunable set, from ``probes`` + 1 products.

    The part of layer l is ``-g_l^T Delta_l + 1/2 Delta_l^T (H Delta)_l``: half of what it shares with another layer is
    its own, so that the parts add up to the rise of the whole removed vector. The rises of layers that are pruned one
    at a time do not. Traces by Hutchinson (1990): the mean of ``v_l^T (H v)_l`` over Rademacher vectors v.

    Args:
        operator: the curvature H.
        removed: the removed vector Delta, (D,).
        probes: number of random vectors, at least 2.
        seed: of these.

    Raises:
        ValueError: for fewer than 2 probes.
    """
    if probes < 2:
        raise ValueError(f"probes must be at least 2, got {probes}")
    sizes, removed = operator.prunable.sizes, removed.to(operator.device, operator.dtype)
    vector = (operator @ removed).double() / 2 - operator.gradient().double()
    rises = [float(part.sum()) for part in (removed.double() * vector).split(sizes)]
    found = []
    for number in range(probes):
        probe = rademacher(operator.shape[0], seed, number).to(operator.device, operator.dtype)
        products = (probe * (operator @ probe)).double()
        found.append(torch.stack([part.sum() for part in products.split(sizes)]).cpu())
    values = torch.stack(found)
    errors = values.std(0) / math.sqrt(probes)
    return [
        LayerCurvature(float(trace), float(error), rise)
        for trace, error, rise in zip(values.mean(0), errors, rises, strict=True)
    ]
