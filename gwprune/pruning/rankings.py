"""A ranking stands for all masks of a method: the mask of sparsity s removes the weights of rank < ceil(s D)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..network.prunable import PrunableSet
from .registry import Method, method_of
from .subject import Subject

__all__ = ["Ranking", "keep_highest", "mask", "rank", "removed_count"]


def removed_count(sparsity: float, dimension: int) -> int:
    """``ceil(s D)`` exactly: s is read as the decimal number it was written as, so 0.07 of 100 is 7, not 8.

    Raises:
        ValueError: for a sparsity outside [0, 1].
    """
    if isinstance(sparsity, str | bool | None) or not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity must be in [0, 1], got {sparsity!r}")
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

    @classmethod
    def of_scores(cls, scores: Tensor) -> Ranking:
        """Rank by scores (D,), the lowest first; equal scores go by index."""
        order = torch.argsort(scores, stable=True)
        ranks = torch.empty(len(order), dtype=torch.int32, device=order.device)
        ranks[order] = torch.arange(len(order), dtype=torch.int32, device=order.device)
        return cls(ranks)

    @classmethod
    def of_mask(cls, kept: Tensor) -> Ranking:
        """A ranking whose mask with as many removed weights is ``kept`` (D,); its other masks mean nothing.

        So one file format serves the methods whose masks depend on the sparsity.
        """
        return cls.of_scores(kept.to(torch.int8))

    @property
    def dimension(self) -> int:
        return len(self.ranks)

    @cached_property
    def order(self) -> Tensor:
        """Positions (D,) int64 of the weights in the order of their removal."""
        order = torch.empty(self.dimension, dtype=torch.int64, device=self.ranks.device)
        order[self.ranks.long()] = torch.arange(self.dimension, device=self.ranks.device)
        return order

    def kept(self, count: int) -> Tensor:
        """Boolean mask (D,), False at the ``count`` weights of lowest rank."""
        return self.ranks >= count

    def mask(self, sparsity: float) -> Tensor:
        """Boolean mask (D,) of a sparsity: exactly ``ceil(s D)`` entries are False."""
        return self.kept(removed_count(sparsity, self.dimension))

    def pruned_norms(self, weights: Tensor) -> np.ndarray:
        """``R`` after removing 0, 1, ..., D weights of ``weights`` (D,), float64 of shape (D + 1,)."""
        return np.sqrt(np.concatenate([[0.0], np.cumsum(self._in_order(weights) ** 2)]))

    def kept_l1_norms(self, weights: Tensor) -> np.ndarray:
        """Sum of |w| over what is left after removing 0, 1, ..., D of ``weights`` (D,), float64 of shape (D + 1,)."""
        return np.concatenate([[0.0], np.cumsum(np.abs(self._in_order(weights))[::-1])])[::-1]

    def _in_order(self, weights: Tensor) -> np.ndarray:
        return weights.detach().cpu().double().numpy()[self.order.cpu().numpy()]


def keep_highest(scores: Tensor, removed: int, within: Tensor | None = None) -> Tensor:
    """Boolean mask (D,), False at the ``removed`` weights of lowest score; equal scores go by index.

    Args:
        scores: (D,).
        within: an earlier mask (D,): what it has removed stays removed, whatever its score now.

    Raises:
        FloatingPointError: for a score that is not finite.
        ValueError: when ``within`` has removed more than ``removed`` already.
    """
    if not bool(torch.isfinite(scores).all()):
        raise FloatingPointError("a score is not finite, so the weights cannot be ranked")
    if within is not None:
        already = int((~within).sum())
        if already > removed:
            raise ValueError(f"{already} weights are removed already, more than the {removed} asked for")
        scores = scores.masked_fill(~within, -math.inf)
    if removed == 0:
        return torch.ones_like(scores, dtype=torch.bool)
    # The k-th value costs a fraction of a sort.
    threshold = scores.kthvalue(removed).values
    kept = scores > threshold
    ties = (scores == threshold).nonzero().flatten()
    kept[ties[removed - int((scores < threshold).sum()) :]] = True
    return kept


def rank(
    method: str, prunable: PrunableSet, seed: int, *, options: Mapping[str, Any] | None = None, **given: Any
) -> Ranking:
    """Rank the weights by a method's scores; equal scores go by index.

    The network is as before afterwards: weights, buffers, modes and gradient flags.

    Args:
        method: one of `names()`.
        options: the method's own, by name; see `METHODS[method].options`.
        **given: what some methods need: ``model``, ``data``, ``input_shape``, ``loss_fn``, ``batch_size``; see
            :class:`Subject`.

    Raises:
        ValueError: for an unknown method or option, for what the method needs and was not given, and for a method
            whose masks depend on the sparsity (:func:`mask` makes those).
        FloatingPointError: for scores that are not finite.
        TypeError: for a method that does not return a tensor of shape (D,).
    """
    entry, chosen = method_of(method), dict(options or {})
    if entry.depends_on_sparsity:
        raise ValueError(f"the masks of method {method} depend on the sparsity: it has no ranking, only mask()")
    subject = Subject(prunable, seed, **given)
    entry.check(subject, chosen)
    scores = _result(entry, "scores", subject, **chosen)
    if not bool(torch.isfinite(scores).all()):
        raise FloatingPointError(f"method {method}: a score is not finite, so the weights cannot be ranked")
    return Ranking.of_scores(scores)


def mask(
    method: str,
    prunable: PrunableSet,
    seed: int,
    sparsity: float,
    *,
    options: Mapping[str, Any] | None = None,
    **given: Any,
) -> Tensor:
    """Keep mask (D,) of any method at one sparsity: exactly ``ceil(s D)`` entries are False.

    Arguments and errors as :func:`rank`, beside a ValueError for a sparsity outside [0, 1], a TypeError for a method's
    mask that is not boolean, and an AssertionError for one with another number of weights.
    """
    entry, chosen = method_of(method), dict(options or {})
    count = removed_count(sparsity, prunable.dimension)
    if not entry.depends_on_sparsity:
        return rank(method, prunable, seed, options=chosen, **given).kept(count)
    subject = Subject(prunable, seed, **given)
    entry.check(subject, chosen)
    try:
        kept = _result(entry, "a keep mask", subject, sparsity, **chosen)
    except FloatingPointError as error:
        raise FloatingPointError(f"method {method}: {error}") from error
    if kept.dtype != torch.bool:
        raise TypeError(f"method {method} must return a boolean keep mask, got {kept.dtype}")
    if int((~kept).sum()) != count:
        raise AssertionError(f"method {method} removed {int((~kept).sum())} weights instead of {count}")
    return kept


def _result(entry: Method, what: str, subject: Subject, *args: Any, **options: Any) -> Tensor:
    """What a method returns, if it is a tensor with an entry for each weight."""
    try:
        result = entry.function(subject, *args, **options)
    except Exception as error:
        error.add_note(f"while pruning method {entry.name!r} was at work")
        raise
    dimension = subject.prunable.dimension
    if not isinstance(result, Tensor) or result.shape != (dimension,) or result.is_complex():
        got = f"{result.dtype} {tuple(result.shape)}" if isinstance(result, Tensor) else type(result).__name__
        raise TypeError(f"method {entry.name} must return {what} as a real tensor of shape ({dimension},), got {got}")
    return result
