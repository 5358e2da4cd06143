"""Iterative methods as chains of levels: what each level prunes to and which epochs it trains; one job a level.

A method is one function that turns a target sparsity and the lengths of the trainings into levels. The levels say all
that a job has to do, and two targets whose chains begin alike share jobs.
"""

from __future__ import annotations

from dataclasses import dataclass

from .schedules import gmp_sparsity, imp_sparsities

__all__ = ["Epochs", "Level", "gmp", "imp", "rare_gems"]


@dataclass(frozen=True)
class Epochs:
    """Lengths of trainings: ``dense`` of the dense network, ``sparse`` of networks that are trained while sparse."""

    dense: int
    sparse: int


@dataclass(frozen=True)
class Level:
    """One job of a chain: prune, then train.

    Attributes:
        sparsity: of the mask under which the level trains; the lowest magnitudes of the level before go. For a search:
            the one that the whole search ends at.
        first_epoch: number of epochs of the training that come before those of this level.
        last_epoch: last epoch of this level.
        epochs: of the whole training.
        start: where the weights come from: ``"before"`` goes on with those of the level before (and its momentum),
            ``"rewound"`` takes those of the dense training after ``first_epoch`` epochs.
        begins_with: what the first level of a chain prunes: the ``"trained"`` or the ``"initial"`` network.
        search: the epochs search a mask at fixed weights instead of training.
        lr: learning rate of a search.
    """

    sparsity: float
    first_epoch: int
    last_epoch: int
    epochs: int
    start: str = "before"
    begins_with: str = "initial"
    search: bool = False
    lr: float = 0.0


def imp(target: float, epochs: Epochs, rate: float = 0.2, rewind_epoch: int = 1) -> list[Level]:
    """Iterative magnitude pruning: prune ``rate`` of the rest, rewind to an early epoch, train to the end, repeat.

    Frankle and Carbin, The lottery ticket hypothesis (arXiv 1803.03635); with rewinding Frankle et al., Linear mode
    connectivity and the lottery ticket hypothesis (arXiv 1912.05671). The first level prunes the dense network.

    Args:
        rewind_epoch: the weights and the schedule go back to those after this epoch of dense training; 0: to the
            initial weights.

    Raises:
        ValueError: for a target or rate outside its range, or a ``rewind_epoch`` that is not before the last epoch.
    """
    if not isinstance(rewind_epoch, int) or not 0 <= rewind_epoch < epochs.dense:
        raise ValueError(
            f"imp needs rewind_epoch to be a whole number from 0 to {epochs.dense - 1}, for dense training has"
            f" {epochs.dense} epochs; got {rewind_epoch!r}"
        )
    return [
        Level(round(sparsity, 6), rewind_epoch, epochs.dense, epochs.dense, "rewound", "trained")
        for sparsity in imp_sparsities(target, rate) or [target]  # a target of 0: trained on, unpruned
    ]


def gmp(target: float, epochs: Epochs, levels: int = 10, begin: float = 0.0, end: float = 0.75) -> list[Level]:
    """Gradual magnitude pruning: one training in which the sparsity rises from 0 to the target on a cubic schedule.

    Zhu and Gupta, To prune, or not to prune (arXiv 1710.01878), equation 1. Weights that have gone stay away.

    Args:
        levels: prunings, evenly spread; at most one an epoch.
        begin: where the rise begins, as a fraction of the epochs.
        end: where it ends, likewise.

    Raises:
        ValueError: for a target, ``levels``, ``begin`` or ``end`` outside its range.
    """
    if not 0 <= target < 1 or not isinstance(levels, int) or levels < 1 or not 0 <= begin < end < 1:
        raise ValueError(
            "gmp needs a target in [0, 1), levels >= 1 and 0 <= begin < end < 1,"
            f" got {target}, {levels!r}, {begin} and {end}"
        )
    total = epochs.sparse
    first = round(begin * total)
    last = min(max(round(end * total), first + 1), total - 1)
    count = min(levels, last - first)
    if count < 1:
        raise ValueError(f"gmp needs a training of at least 2 epochs, got {total}")
    when = [first + (last - first) * number // count for number in range(1, count + 1)]
    sparsities = [round(gmp_sparsity(number, 0, count, target), 6) for number in range(1, count + 1)]
    dense = Level(0.0, 0, when[0], total)
    ends = [*when[1:], total]
    return [dense, *(Level(s, *span, total) for s, span in zip(sparsities, zip(when, ends, strict=True), strict=True))]


def rare_gems(target: float, epochs: Epochs, search_epochs: int = 10, levels: int = 5, lr: float = 0.1) -> list[Level]:
    """Gem-Miner's search for a mask at the initial weights, then training of those weights under it.

    Sreenivasan et al., Rare gems: finding lottery tickets at initialization (arXiv 2202.12002); see
    :func:`gwprune.pruning.gem_epoch`.

    Args:
        search_epochs: of the search, beside those of training.
        levels: jobs that the search is cut into, at most one an epoch; scores are frozen out at the end of each.
        lr: learning rate of the scores.

    Raises:
        ValueError: for a target or option outside its range.
    """
    if not 0 <= target < 1 or search_epochs < 1 or not levels >= 1 or not lr > 0:
        raise ValueError(
            "rare_gems needs a target in [0, 1), search_epochs >= 1, levels >= 1 and lr > 0,"
            f" got {target}, {search_epochs}, {levels} and {lr}"
        )
    levels = min(levels, search_epochs)
    ends = [search_epochs * number // levels for number in range(1, levels + 1)]
    search = [
        Level(target, start, stop, search_epochs, search=True, lr=lr)
        for start, stop in zip([0, *ends[:-1]], ends, strict=True)
    ]
    return [*search, Level(target, 0, epochs.sparse, epochs.sparse)]
