"""One-shot methods that look at the weights alone. Scores are (D,); low scores are removed first."""

from __future__ import annotations

import torch
from torch import Tensor

from ..streams import stream
from .subject import Subject

__all__ = ["lamp", "magnitude", "magnitude_layerwise", "random"]


def magnitude(subject: Subject) -> Tensor:
    """|w| over all layers together: global magnitude pruning, the LOMP of Zhang et al. (arXiv 2306.05857)."""
    return subject.prunable.flatten().abs()


def magnitude_layerwise(subject: Subject) -> Tensor:
    """|w| within each layer: every layer reaches the same sparsity (to rounding: a weight or two).

    Han et al., Learning both weights and connections for efficient neural networks (arXiv 1506.02626), with one
    sparsity for all layers. The score is the weight's place in its own layer as a fraction of the layer.
    """
    scores = []
    for weight in subject.prunable.parameters:
        order = torch.argsort(weight.detach().abs().reshape(-1), stable=True)
        place = torch.empty(len(order), dtype=torch.float64, device=order.device)
        # Half a step, so that a layer of n weights loses its k-th when the sparsity passes (k - 1/2) / n.
        place[order] = (torch.arange(len(order), dtype=torch.float64, device=order.device) + 0.5) / len(order)
        scores.append(place)
    return torch.cat(scores)


def random(subject: Subject) -> Tensor:
    """Uniform over all weights: the control that knows nothing of the network."""
    generator = stream(subject.seed, "random scores")
    return torch.rand(subject.prunable.dimension, generator=generator, dtype=torch.float64)


def lamp(subject: Subject) -> Tensor:
    """Layer-adaptive magnitude: ``w_u^2 / sum_{v >= u} w_v^2`` with each layer's weights sorted by magnitude.

    Lee et al., Layer-adaptive sparsity for the magnitude-based pruning (arXiv 2010.07611), the LAMP score. The
    largest weight of every layer scores 1, so no layer is emptied while another has two weights. Weights of a layer
    that is zero throughout score 0.
    """
    scores = []
    for weight in subject.prunable.parameters:
        squares = weight.detach().double().square().reshape(-1)
        order = torch.argsort(squares, stable=True)
        ascending = squares[order]
        remaining = ascending.flip(0).cumsum(0).flip(0)
        score = torch.empty_like(squares)
        score[order] = torch.where(remaining == 0, 0.0, ascending / remaining)
        scores.append(score)
    return torch.cat(scores)
