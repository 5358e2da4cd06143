"""Methods that choose how many weights each layer keeps, and which ones at random.

Layer densities ``min(1, c q_l)`` that share one scale c grow with c, so they have a single nested ranking: in a layer
of n weights the k-th to be kept, k = 1..n, enters when ``c q_l n`` passes k - 1/2, whatever the other layers do.
Sorting all weights by that c gives every layer its density to rounding, at any sparsity, full layers included.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..streams import stream
from .controls import layerwise_shuffle
from .rankings import Ranking
from .scores import magnitude
from .subject import Subject

__all__ = ["random_erk", "random_matched", "smart_ratio"]


def _entry_scales(sizes: Sequence[int], shares: Sequence[float], generator: torch.Generator) -> list[Tensor]:
    """For each layer of ``sizes`` weights, the scale at which each weight enters if ``c * share`` weights are kept."""
    return [
        (torch.randperm(size, generator=generator).double() + 0.5) / share
        for size, share in zip(sizes, shares, strict=True)
    ]


def random_erk(subject: Subject) -> Tensor:
    """Random, layers with the densities of Erdos-Renyi-Kernel: ``min(1, c (n_in + n_out + k_1 + ...) / n)``.

    Evci et al., Rigging the lottery (arXiv 1911.11134), section 3, after Mocanu et al. 2018: n is the layer's size and
    n_in, n_out, k_1, ... are the sides of its weight (inputs counted per group). One c for all layers, found by the
    sparsity; a layer that reaches density 1 is full and the others take the rest.
    """
    generator = stream(subject.seed, "weights within layers")
    shares = [float(sum(shape)) for shape in subject.prunable.shapes]
    return -torch.cat(_entry_scales(subject.prunable.sizes, shares, generator))


def random_matched(subject: Subject) -> Tensor:
    """Random, each layer with exactly the number of weights that ``magnitude`` keeps in it at the same sparsity.

    The control of Su et al. (arXiv 2009.11094) and Frankle et al. (arXiv 2009.08576) for global magnitude pruning, as a
    ranking: the ranks by magnitude, shuffled within each layer.
    """
    return layerwise_shuffle(Ranking.of_scores(magnitude(subject)).ranks, subject.prunable, subject.seed)


def smart_ratio(subject: Subject, last_linear: float = 0.3) -> Tensor:
    """Random, layer l of L with density ``min(1, c ((L - l + 1)^2 + (L - l + 1)))``; a last linear layer keeps 0.3.

    Su et al., Sanity-checking pruning methods: random tickets can win the jackpot (arXiv 2009.11094), their smart
    ratios for ResNets (their program divides by l^2 for VGGs; its networks have one linear layer). Layers that would
    pass 1 are full and the scale c goes up for the others, where the authors' program hands the excess to the layers
    from the first on. The last layer keeps its fraction as long as that is possible: at
    extreme sparsities it takes the last weights there are, and it grows only when all other layers are full.

    Args:
        last_linear: fraction kept of the last layer when that is linear.
    """
    generator = stream(subject.seed, "weights within layers")
    sizes = subject.prunable.sizes
    depths = range(len(sizes), 0, -1)
    shares = [size * (depth**2.0 + depth) for size, depth in zip(sizes, depths, strict=True)]
    scores = [-scale for scale in _entry_scales(sizes, shares, generator)]
    if len(subject.prunable.shapes[-1]) == 2:
        order = torch.randperm(sizes[-1], generator=generator).double()
        fixed = round(last_linear * sizes[-1])
        # Above all others, whose scores are in (-1/2, 0), as long as the fraction lasts, and below them beyond it.
        scores[-1] = torch.where(order < fixed, sizes[-1] - order, -1 - order)
    return torch.cat(scores)
