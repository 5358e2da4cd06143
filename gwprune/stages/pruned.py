"""Stages `rank`, `sweep` and `finetune`: prune to check the prediction."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from tqdm import tqdm

from .. import datasets
from ..artifacts import load_network, load_ranking, save_ranking
from ..datasets import DeviceSplit
from ..evaluation import pruned
from ..jobs import Job
from ..parameters import PrunableSet
from ..pruning import Ranking, rank, removed_count
from ..tables import write_table
from ..thresholds import criteria_of, empirical_threshold, refine
from ..training import EpochRecord, Recipe, train
from .dense import measure

__all__ = ["finetune", "rank_weights", "sweep"]

logger = logging.getLogger("gwprune")

SPLITS = ("train", "val", "test")


def rank_weights(job: Job, network: str, path: str, *, method: str) -> None:
    """Rank the prunable weights of the dense network by a method."""
    prunable = PrunableSet(load_network(network, job.device))
    save_ranking(path, rank(method, prunable, job.seed), method, prunable.signature)


def _rows(
    job: Job, method: str, stage: str, ranking: Ranking, norms: Any, sparsity: float, values: Mapping[str, Mapping]
) -> list[dict[str, Any]]:
    count = removed_count(sparsity, ranking.dimension)
    common = {
        **job.key,
        "method": method,
        "stage": stage,
        "sparsity": sparsity,
        "nonzeros": ranking.dimension - count,
        "pruned_norm": float(norms[count]),
    }
    return [{**common, "split": split, **values[split]} for split in SPLITS]


def _loaded(job: Job, data: str, network: str, ranking: str, method: str):
    model = load_network(network, job.device)
    prunable = PrunableSet(model)
    images = datasets.load(data)
    splits = {name: DeviceSplit.from_data(images, name, job.device) for name in SPLITS}
    known = load_ranking(ranking, prunable.dimension, prunable.signature, method)
    return model, prunable, splits, known, known.pruned_norms(prunable.flatten())


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
    sparsities: Sequence[float],
    resolution: float,
    epsilon_rules: Sequence[str],
    accuracy_drops: Sequence[float],
) -> None:
    """One-shot sweep: the asked sparsities, then bisection of every criterion's bracket down to ``resolution``."""
    model, prunable, splits, known, norms = _loaded(job, data, network, ranking, method)
    wanted = criteria_of(dense, epsilon_rules, accuracy_drops)
    grid: dict[float, dict[str, dict[str, float]]] = {}
    with tqdm(unit="network", disable=None) as bar:

        def values(sparsity: float) -> dict[str, dict[str, float]]:
            with pruned(prunable, known, [removed_count(sparsity, known.dimension)]) as counts:
                next(counts)
                bar.update()
                return {name: measure(model, prunable, split, l1) for name, split in splits.items()}

        for sparsity in sorted({0.0, *sparsities}):
            grid[sparsity] = values(sparsity)
        # A point that one criterion asks for may show another one's first miss elsewhere.
        known_points = -1
        while known_points != len(grid):
            known_points = len(grid)
            for criterion in wanted:
                refine(grid, criterion, values, resolution, max(sparsities))
        for criterion in wanted:
            logger.info("%s %s: %s", criterion.name, criterion.epsilon_rule, empirical_threshold(grid, criterion))
    rows = [
        row for sparsity, found in grid.items() for row in _rows(job, method, "one_shot", known, norms, sparsity, found)
    ]
    write_table("sweep", rows, path, job.provenance())


def _prune(model: nn.Module, prunable: PrunableSet, ranking: Ranking, sparsity: float):
    mask = ranking.mask(sparsity).to(prunable.parameters[0].device)
    prunable.assign(prunable.flatten() * mask)
    return mask


def finetune(
    job: Job,
    data: str,
    network: str,
    ranking: str,
    path: str,
    *,
    method: str,
    sparsity: float,
    recipe: Mapping[str, Any],
    checkpoint: str,
) -> None:
    """Prune to one sparsity, train on with the mask held, and evaluate."""
    model, prunable, splits, known, norms = _loaded(job, data, network, ranking, method)
    mask = _prune(model, prunable, known, sparsity)
    plan = Recipe(**recipe)
    with tqdm(total=plan.epochs, unit="epoch", disable=None) as bar:

        def progress(record: EpochRecord) -> None:
            logger.info("%s", record)
            bar.update(record.epoch - bar.n)

        train(
            model,
            splits["train"],
            splits["val"],
            plan,
            job.seed,
            mask=mask,
            checkpoint=Path(checkpoint),
            progress=progress,
        )
    zeros = int((prunable.flatten() == 0).sum())
    if zeros < removed_count(sparsity, known.dimension):
        raise AssertionError(f"only {zeros} weights are zero after fine-tuning at sparsity {sparsity}")
    values = {name: measure(model, prunable, split, plan.l1) for name, split in splits.items()}
    write_table("sweep", _rows(job, method, "fine_tuned", known, norms, sparsity, values), path, job.provenance())
    Path(checkpoint).unlink(missing_ok=True)
