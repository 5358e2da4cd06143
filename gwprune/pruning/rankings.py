"""A ranking stands for all masks of a method: the mask of sparsity s removes the weights of rank < ceil(s D)."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import torch
from torch import Tensor

from ..parameters import PrunableSet
from .scores import METHODS

__all__ = ["Ranking", "rank", "removed_count"]


def removed_count(sparsity: float, dimension: int) -> int:
    """``ceil(s D)`` exactly: s is read as the decimal number it was written as, so 0.07 of 100 is 7, not 8.

    Raises:
        ValueError: for a sparsity outside [0, 1].
    """
    if not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity must be in [0, 1], got {sparsity}")
    return math.ceil(Fraction(repr(float(sparsity))) * dimension)


class Ranking:
    """``ranks`` (D,) int32: 0 for the weight that is removed first. Masks are exact and nested by construction.

    Raises:
        ValueError: when ``ranks`` is no permutation of 0..D-1.
    """

    def __init__(self, ranks: Tensor):
        counts = torch.bincount(ranks, minlength=len(ranks)) if len(ranks) and int(ranks.min()) >= 0 else None
        if counts is None or len(counts) != len(ranks) or not bool((counts == 1).all()):
            raise ValueError("a ranking must be a permutation of 0..D-1")
        self.ranks = ranks

    @property
    def dimension(self) -> int:
        return len(self.ranks)

    def kept(self, count: int) -> Tensor:
        """Boolean mask (D,), False at the ``count`` weights of lowest rank."""
        return self.ranks >= count

    def mask(self, sparsity: float) -> Tensor:
        """Boolean mask (D,) of a sparsity: exactly ``ceil(s D)`` entries are False."""
        return self.kept(removed_count(sparsity, self.dimension))

    def pruned_norms(self, weights: Tensor) -> np.ndarray:
        """``R`` after removing 0, 1, ..., D weights of ``weights`` (D,), float64 of shape (D + 1,)."""
        squares = torch.empty(self.dimension, dtype=torch.float64)
        squares[self.ranks.cpu().long()] = weights.detach().cpu().double() ** 2
        return np.sqrt(np.concatenate([[0.0], np.cumsum(squares.numpy())]))


def rank(method: str, prunable: PrunableSet, seed: int) -> Ranking:
    """Rank the weights by a method's scores; equal scores go by index.

    Raises:
        ValueError: for an unknown method.  FloatingPointError: for scores that are not finite.
    """
    if method not in METHODS:
        raise ValueError(f"no pruning method is called {method!r}; there are {', '.join(METHODS)}")
    scores = METHODS[method](prunable, seed)
    if not bool(torch.isfinite(scores).all()):
        raise FloatingPointError(f"method {method}: a score is not finite, so the weights cannot be ranked")
    order = torch.argsort(scores, stable=True)
    ranks = torch.empty(len(order), dtype=torch.int32, device=order.device)
    ranks[order] = torch.arange(len(order), dtype=torch.int32, device=order.device)
    return Ranking(ranks)
