"""Stages `level` and `measure`: iterative methods, one level a job, and what the networks at their ends are worth."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from .. import datasets
from ..datasets import DeviceSplit
from ..network.prunable import PrunableSet
from ..pruning import Level, Subject, gem_epoch, keep_highest, removed_count, start_gem_search
from ..streams import stream
from ..tables.files import write_table
from ..training.train import Recipe, train
from .artifacts import SparseState, load_network, load_sparse, save_sparse
from .dense import progress_of
from .job import Job
from .laboratory import Laboratory

__all__ = ["level", "measure_states"]

logger = logging.getLogger("gwprune")


def level(
    job: Job,
    data: str,
    before: str,
    path: str,
    *,
    level: Mapping[str, Any],
    recipe: Mapping[str, Any],
    epochs: int,
    checkpoint: str,
    rewound: str | None = None,
) -> None:
    """One level of an iterative method: prune the network of the level before, and train it (or search on).

    Args:
        before: file of that level's state, or of the network that the first level starts from.
        level: fields of :class:`gwprune.pruning.Level`.
        recipe: of a training of ``level.epochs`` epochs.
        epochs: that the network before a first level was trained for.
        rewound: file of the network that gives the weights, of a level that rewinds.
    """
    step = Level(**level)
    state = load_sparse(before, job.device, epochs, owner=job.key)
    images = datasets.load(data)
    splits = {name: DeviceSplit.from_data(images, name, job.device) for name in ("train", "val")}
    if step.search:
        _search(job, state, splits["train"], step, recipe)
    else:
        _prune(state, step.sparsity)
        if rewound is not None:
            state.model.load_state_dict(load_network(rewound, job.device, owner=job.key).state_dict())
            state.momentum.clear()
        logger.info("sparsity %g, epochs %d to %d", step.sparsity, step.first_epoch + 1, step.last_epoch)
        length = step.last_epoch - step.first_epoch
        with tqdm(total=length, unit="epoch", disable=None) as bar, job.interruption.deferred():
            train(
                state.model,
                splits["train"],
                splits["val"],
                Recipe(**recipe),
                job.seed,
                mask=state.kept,
                first_epoch=step.first_epoch,
                last_epoch=step.last_epoch,
                momentum=state.momentum,
                checkpoint=Path(checkpoint),
                progress=progress_of(job, step.last_epoch, lambda _: bar.update()),
            )
    state.epochs += step.last_epoch - step.first_epoch
    save_sparse(path, state, owner=job.key)
    Path(checkpoint).unlink(missing_ok=True)


def _prune(state: SparseState, sparsity: float) -> None:
    """Remove the smallest weights that are left, down to ``sparsity``."""
    prunable = PrunableSet(state.model)
    count = removed_count(sparsity, prunable.dimension)
    if count <= int((~state.kept).sum()):
        return
    weights = prunable.flatten()
    _mask(state, keep_highest(weights.abs(), count, within=state.kept))


def _mask(state: SparseState, kept: torch.Tensor) -> None:
    """Put the network under a sparser mask; count the squares of what it removes."""
    weights = PrunableSet(state.model).flatten()
    state.removed += float(weights[state.kept & ~kept].double().square().sum())
    state.kept = kept


def _search(job: Job, state: SparseState, split: DeviceSplit, step: Level, recipe: Mapping[str, Any]) -> None:
    """Go on with the search for a mask; at the end of the level the lowest scores are frozen out."""
    prunable, plan = PrunableSet(state.model), Recipe(**recipe)
    search = state.search or start_gem_search(prunable, job.seed)
    subject = Subject(prunable, job.seed, model=state.model)
    for epoch in tqdm(range(step.first_epoch, step.last_epoch), unit="epoch", disable=None):
        generator = stream(job.seed, "order of a search epoch", epoch + 1)
        batches = split.epoch(plan.batch_size, generator, plan.augmentation)
        period = step.last_epoch if epoch + 1 == step.last_epoch else step.epochs + 1
        search = gem_epoch(
            search, subject, batches, sparsity=step.sparsity, epochs=step.epochs, period=period, lr=step.lr
        )
        logger.info("search epoch %d: %d weights left", epoch + 1, int(search.kept.sum()))
    state.search = search
    _mask(state, search.kept)


def measure_states(
    job: Job, data: str, states: Sequence[str], path: str, *, method: str, sparsities: Sequence[float], l1: float
) -> None:
    """Evaluate the networks at the ends of an iterative method's chains, a state file for each sparsity."""
    bench, rows = Laboratory(job, data, states[0]), []
    for sparsity, file in zip(sparsities, states, strict=True):
        state = load_sparse(file, job.device, sparsity=sparsity, owner=job.key)
        bench.model.load_state_dict(state.model.state_dict())
        rows += bench.rows(
            method,
            "trained",
            sparsity,
            state.kept,
            pruned_norm=state.removed**0.5,
            epochs=state.epochs,
            values=bench.values(l1),
        )
    write_table("sweep", rows, path, job.provenance())
