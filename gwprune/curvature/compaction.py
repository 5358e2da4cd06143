"""Curvature products on a network without its dead units: the same matrix, less work."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from ..streams import stream
from .dead_units import without_dead_units
from .operator import CurvatureOperator, ProductOperator

__all__ = ["CompactedOperator", "compacted"]


class CompactedOperator(ProductOperator):
    """The matrix of ``full``, multiplied by way of the smaller operator ``small``.

    Everything else (``shape``, ``gradient``, ``prunable``, ...) is that of ``full``.

    Attributes:
        full: the operator of the whole network, of order D.
        small: the operator of the network without its dead units, of order D'.
        index: (D',), the coordinates of ``small`` among those of ``full``; on all others rows are exactly zero.
    """

    def __init__(self, full: CurvatureOperator, small: CurvatureOperator, index: Tensor):
        self.full, self.small, self.index = full, small, index.to(full.device)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.full, name)

    @property
    def products(self) -> int:
        """Number of products so far, on either network."""
        return self.full.products + self.small.products

    @property
    def seconds(self) -> float:
        """That the last product took."""
        return self.small.seconds

    @property
    def graph_bytes(self) -> float:
        """That the graphs take which are there at a time."""
        return self.small.graph_bytes

    def multiply(self, columns: list[Tensor]) -> list[Tensor]:
        parts = self.small.multiply([column[self.index] for column in columns])
        return [
            torch.zeros_like(column).index_copy_(0, self.index, part)
            for column, part in zip(columns, parts, strict=True)
        ]

    def release(self) -> None:
        """Give back the memory of kept graphs."""
        self.full.release()
        self.small.release()


def compacted(operator: CurvatureOperator, seed: int = 0) -> CurvatureOperator | CompactedOperator:
    """The same matrix to rounding, computed on a copy of the network without its dead units.

    This takes two products: one with a random vector, which shows the rows that are exactly zero, and one to compare.
    The smaller network keeps the weights of now: when they change, make the operator anew.

    Args:
        operator: of the whole network.
        seed: of the random vector.

    Returns:
        The wrapped operator; ``operator`` itself when nothing could be taken out of its network, or when the smaller
        network has another curvature, which a warning tells.
    """
    vector = torch.randn(operator.shape[0], generator=stream(seed, "dead units"))
    vector = vector.to(operator.device, operator.dtype)
    # The graphs of the whole network would fill the memory that those of the smaller one need.
    keeps, operator.keeps_graphs = operator.keeps_graphs, False
    expected = operator @ vector
    operator.keeps_graphs = keeps

    def run(model: nn.Module) -> None:
        for batch, _ in operator.batches():
            operator.batch_loss.run(model, batch)

    smaller = without_dead_units(operator.model, operator.prunable, expected == 0, run)
    if smaller is None:
        return operator
    operator.release()
    small = CurvatureOperator(
        smaller.model, operator.batch_loss, operator.data, prunable=smaller.prunable, **operator.options
    )
    result = CompactedOperator(operator, small, smaller.index)
    difference = (result @ vector - expected).norm()
    if difference > max(300.0, 4 * operator.roundings) * torch.finfo(operator.dtype).eps * expected.norm():
        warnings.warn(
            "the network without its dead units has another curvature (relative difference"
            f" {(difference / expected.norm()).item():.2g}); products stay on the full network",
            stacklevel=2,
        )
        return operator
    return result
