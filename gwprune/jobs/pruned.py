"""Stages `rank`, `mask` and `sweep`: which weights go, and what the dense network is worth without them."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tqdm import tqdm

from .. import datasets
from ..datasets import DeviceSplit
from ..network.prunable import PrunableSet
from ..pruning import Ranking, mask, rank, removed_count
from ..tables.files import write_table
from ..tables.thresholds import criteria_of, empirical_threshold, search
from ..training.evaluation import evaluate, pruned
from .artifacts import load_network, load_ranking, save_ranking, weights_digest
from .dense import values_of
from .job import Job
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
    owner = {**job.key, "weights": weights_digest(prunable)}
    ranking = rank(method, prunable, job.seed, options=options or {}, **given)
    save_ranking(path, ranking, method, prunable.signature, owner=owner)


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
    owner = {**job.key, "weights": weights_digest(prunable)}
    kept = mask(method, prunable, job.seed, sparsity, options=options or {}, **given)
    save_ranking(path, Ranking.of_mask(kept), method, prunable.signature, owner=owner)


def _subject(job: Job, network: str, data: str | None, samples: int) -> tuple[PrunableSet, dict[str, Any]]:
    model, known = load_network(network, job.device, owner=job.key), None
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
    """One-shot sweep: every criterion bracketed to ``resolution`` by bisection, and the asked sparsities.

    Args:
        epochs: of dense training, for the rows.
    """
    bench = Laboratory(job, data, network)
    known = load_ranking(ranking, bench.prunable.dimension, bench.prunable.signature, method, owner=bench.ranked)
    dense_weights = bench.prunable.flatten()
    norms, kept_norms = known.pruned_norms(dense_weights), known.kept_l1_norms(dense_weights)
    wanted = criteria_of(dense, epsilon_rules, accuracy_drops, owner=job.key)
    with tqdm(unit="network", disable=None) as bar:

        def measure(points: Sequence[float]) -> Iterator[dict[str, dict[str, float]]]:
            for point in points:
                count = removed_count(point, known.dimension)
                penalty = l1 * float(kept_norms[count])
                with pruned(bench.prunable, known.kept(count)):
                    values = {
                        name: values_of(evaluate(bench.model, split), penalty) for name, split in bench.splits.items()
                    }
                bar.update()
                yield values

        grid = search(wanted, sparsities, measure, resolution)
        for criterion in wanted:
            logger.info("%s %s: %s", criterion.name, criterion.epsilon_rule, empirical_threshold(grid, criterion))
    rows = []
    for sparsity, found in grid.items():
        count = removed_count(sparsity, known.dimension)
        kept, norm = known.kept(count), norms[count]
        rows += bench.rows(method, "one_shot", sparsity, kept, pruned_norm=norm, epochs=epochs, values=found)
    write_table("sweep", rows, path, job.provenance())
