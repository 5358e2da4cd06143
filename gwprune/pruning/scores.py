"""One-shot methods: each gives every prunable weight a score; low scores are removed first."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..parameters import PrunableSet

__all__ = ["METHODS", "names"]

Score = Callable[[PrunableSet, int], Tensor]

METHODS: dict[str, Score] = {}


def _register(function: Score) -> Score:
    METHODS[function.__name__] = function
    return function


def names() -> list[str]:
    """Names of all methods, in the order of their definition."""
    return list(METHODS)


@_register
def magnitude(prunable: PrunableSet, seed: int) -> Tensor:
    """|w| over all layers together: global magnitude pruning, the paper's LOMP."""
    return prunable.flatten().abs()


@_register
def magnitude_layerwise(prunable: PrunableSet, seed: int) -> Tensor:
    """|w| within each layer: every layer reaches the same sparsity (to rounding: a weight or two).

    The score is the weight's place in its own layer as a fraction of the layer.
    """
    scores = []
    for weight in prunable.parameters:
        order = torch.argsort(weight.detach().abs().reshape(-1), stable=True)
        place = torch.empty(len(order), dtype=torch.float64, device=order.device)
        # Half a step, so that a layer of n weights loses its k-th when the sparsity passes (k - 1/2) / n.
        place[order] = (torch.arange(len(order), dtype=torch.float64, device=order.device) + 0.5) / len(order)
        scores.append(place)
    return torch.cat(scores)


@_register
def random(prunable: PrunableSet, seed: int) -> Tensor:
    """Uniform over all weights: the control that knows nothing of the network."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(prunable.dimension, generator=generator, dtype=torch.float64)
