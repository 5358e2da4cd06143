"""Stages `rank`, `mask` and `sweep`: which weights go, and what the dense network is worth without them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from tqdm import tqdm

from .. import datasets
from ..artifacts import load_network, load_ranking, save_ranking
from ..datasets import DeviceSplit
from ..evaluation import left_norms, pruned
from ..jobs import Job
from ..many_masks import evaluate_masks
from ..parameters import PrunableSet
from ..pruning import Ranking, mask, rank, removed_count
from ..tables import write_table
from ..thresholds import criteria_of, empirical_threshold, refine
from .laboratory import Laboratory

__all__ = ["mask_weights", "rank_weights", "sweep"]

logger = logging.getLogger("gwprune")


def rank_weights(
    job: Job,
    network: str,
    path: str,
    *,
    method: str,
    data: str | None = None,
    samples: int = 1000,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Rank the prunable weights of a network by a method, from ``samples`` images where it needs ``data``."""
    prunable, given = _subject(job, network, data, samples)
    ranking = rank(method, prunable, job.seed, options=options or {}, **given)
    save_ranking(path, ranking, method, prunable.signature)


def mask_weights(
    job: Job,
    network: str,
    path: str,
    *,
    method: str,
    sparsity: float,
    data: str | None = None,
    samples: int = 1000,
    options: Mapping[str, Any] | None = None,
) -> None:
    """The mask of one sparsity, as a ranking, by a method whose masks depend on the sparsity."""
    prunable, given = _subject(job, network, data, samples)
    kept = mask(method, prunable, job.seed, sparsity, options=options or {}, **given)
    save_ranking(path, Ranking.of_mask(kept), method, prunable.signature)


def _subject(job: Job, network: str, data: str | None, samples: int) -> tuple[PrunableSet, dict[str, Any]]:
    model, known = load_network(network, job.device), None
    if data is not None:
        known = DeviceSplit.from_data(datasets.load(data), "train", job.device).subset(samples, job.seed).as_tensors()
    return PrunableSet(model), {"model": model, "data": known}


def sweep(
    job: Job,
    data: str,
    network: str,
    ranking: str,
    dense: str,
    path: str,
    *,
    method: str,
    l1: float,
    epochs: int,
    sparsities: Sequence[float],
    resolution: float,
    epsilon_rules: Sequence[str],
    accuracy_drops: Sequence[float],
) -> None:
    """One-shot sweep: bisection of every criterion's bracket down to ``resolution``, then the asked sparsities.

    Where an asked sparsity misses a criterion below its bracket, that earlier bracket is halved in turn.

    Args:
        epochs: of dense training, for the rows.
    """
    bench = Laboratory(job, data, network)
    known = load_ranking(ranking, bench.prunable.dimension, bench.prunable.signature, method)
    norms = known.pruned_norms(bench.prunable.flatten())
    wanted = criteria_of(dense, epsilon_rules, accuracy_drops)
    grid: dict[float, dict[str, dict[str, float]]] = {}
    with tqdm(unit="network", disable=None) as bar:

        def values(sparsity: float) -> dict[str, dict[str, float]]:
            with pruned(bench.prunable, known, [removed_count(sparsity, known.dimension)]) as counts:
                next(counts)
                bar.update()
                return bench.values(l1)

        grid[0.0] = values(0.0)
        for criterion in wanted:
            refine(grid, criterion, values, resolution, max(sparsities))
        asked = sorted(set(sparsities) - set(grid))
        counts = [removed_count(sparsity, known.dimension) for sparsity in asked]
        sizes = left_norms(bench.prunable.flatten(), known)
        splits = list(bench.splits.values())
        results = evaluate_masks(bench.model, bench.prunable, known, counts, splits)
        for sparsity, count, found in zip(asked, counts, results, strict=True):
            bar.update()
            grid[sparsity] = {
                name: {**vars(one), "objective": one.loss + l1 * float(sizes[count])}
                for name, one in zip(bench.splits, found, strict=True)
            }
        # A point that one criterion asks for may show another one's first miss elsewhere.
        known_points = -1
        while known_points != len(grid):
            known_points = len(grid)
            for criterion in wanted:
                refine(grid, criterion, values, resolution, max(sparsities))
        for criterion in wanted:
            logger.info("%s %s: %s", criterion.name, criterion.epsilon_rule, empirical_threshold(grid, criterion))
    rows = []
    for sparsity, found in grid.items():
        count = removed_count(sparsity, known.dimension)
        kept, norm = known.kept(count), norms[count]
        rows += bench.rows(method, "one_shot", sparsity, kept, pruned_norm=norm, epochs=epochs, values=found)
    write_table("sweep", rows, path, job.provenance())
