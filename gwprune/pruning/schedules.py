"""Sparsities of iterative methods: pure functions for chains of jobs."""

from __future__ import annotations

import math
from fractions import Fraction

__all__ = ["gmp_sparsity", "imp_sparsities"]

# Each round is a training of its own.
_MOST_ROUNDS = 500


def imp_sparsities(target: float, rate: float = 0.2) -> list[float]:
    """Sparsities after 1, 2, ... rounds that each prune ``rate`` of the weights that remain; the last is ``target``.

    Iterative magnitude pruning (Frankle and Carbin, The lottery ticket hypothesis, arXiv 1803.03635; with rewinding
    Frankle et al., arXiv 1912.05671): round k reaches ``1 - (1 - rate)^k``, the last prunes what is left to the target.
    A target of 0 takes no round.

    Raises:
        ValueError: for a target outside [0, 1), a rate outside (0, 1), or a rate that takes more than 500 rounds.
    """
    if not 0 <= target < 1 or not 0 < rate < 1:
        raise ValueError(f"imp needs a target in [0, 1) and a rate in (0, 1), got {target} and {rate}")
    if math.log1p(-target) < _MOST_ROUNDS * math.log1p(-rate):
        raise ValueError(
            f"imp with rate {rate} needs more than {_MOST_ROUNDS} rounds to sparsity {target}, each a whole training:"
            " give a higher rate"
        )
    # Exact decimals, so that a target that is itself a level (0.36 at rate 0.2) is not followed by an empty round.
    goal, keep = Fraction(repr(float(target))), 1 - Fraction(repr(float(rate)))
    levels, remaining = [], keep
    while 1 - remaining < goal:
        levels.append(float(1 - remaining))
        remaining *= keep
    return [*levels, float(target)] if goal > 0 else []


def gmp_sparsity(step: int, start: int, end: int, target: float, initial: float = 0.0, every: int = 1) -> float:
    """Sparsity of gradual magnitude pruning at a training step: ``s_f + (s_i - s_f) (1 - (t - t_0) / (t_n - t_0))^3``.

    Zhu and Gupta, To prune, or not to prune (arXiv 1710.01878), equation 1: s_i = ``initial``, s_f = ``target``, t_0 =
    ``start``, t_n = ``end``; masks change at steps ``start``, ``start + every``, ... and at ``end``. The sparsity is
    ``initial`` before the first and ``target``, exactly, from ``end`` on.

    Raises:
        ValueError: unless ``start < end``, ``every >= 1`` and ``0 <= initial <= target <= 1``.
    """
    if not start < end or every < 1 or not 0 <= initial <= target <= 1:
        raise ValueError(
            "gmp needs start < end, every >= 1 and 0 <= initial <= target <= 1, got"
            f" start {start}, end {end}, every {every}, initial {initial}, target {target}"
        )
    if step >= end:
        return float(target)
    if step < start:
        return float(initial)
    pruned_at = start + (step - start) // every * every
    return float(target + (initial - target) * (1 - (pruned_at - start) / (end - start)) ** 3)
