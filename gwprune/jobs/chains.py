"""Work of the rules `level` and `measure`: iterative methods, one level a job, and the networks at their ends."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from .. import datasets
from ..datasets import DeviceSplit
from ..network.prunable import PrunableSet
from ..pruning import Level, Subject, gem_epoch, keep_highest, removed_count, start_gem_search
from ..streams import stream
from ..tables.files import write_table
from ..training.train import Recipe, train
from .artifacts import SparseState, load_network, load_sparse, save_sparse
from .dense import after_epoch, initial_network
from .evaluated import EvaluatedNetwork
from .job import Job
from .rules import Files

__all__ = ["LevelSettings", "MeasureSettings", "level", "measure_states"]

logger = logging.getLogger("gwprune")


@dataclass(frozen=True)
class LevelSettings:
    """Settings of rule `level`.

    Attributes:
        network: name and options of the network.
        level: fields of :class:`gwprune.pruning.Level`.
        recipe: of a training of ``level["epochs"]`` epochs.
        epochs: that the network before a first level was trained for.
        checkpoint: file of the training that is under way.
    """

    network: Mapping[str, Any]
    level: Mapping[str, Any]
    recipe: Mapping[str, Any]
    epochs: int
    checkpoint: str


def level(job: Job, inputs: Files, outputs: Files, settings: LevelSettings) -> None:
    """One level of an iterative method: prune the network of the level before, and train it (or search on).

    ``inputs["before"]`` is that network's file, without which a chain begins with the untrained network;
    ``inputs["rewound"]`` the network that gives the weights, of a level that rewinds.
    """
    step = Level(**settings.level)
    images = datasets.load(inputs["data"])
    splits = {name: DeviceSplit.from_data(images, name, job.device) for name in ("train", "val")}
    if "before" in inputs:
        state = load_sparse(inputs["before"], job.device, settings.epochs, owner=job.key)
    else:
        model, description = initial_network(job, images, settings.network)
        everything = torch.ones(PrunableSet(model).dimension, dtype=torch.bool, device=job.device)
        state = SparseState(model, description, everything)
    if step.search:
        _search(job, state, splits["train"], step, settings.recipe)
    else:
        _prune(state, step.sparsity)
        if "rewound" in inputs:
            state.model.load_state_dict(load_network(inputs["rewound"], job.device, owner=job.key).state_dict())
            state.momentum.clear()
        logger.info("sparsity %g, epochs %d to %d", step.sparsity, step.first_epoch + 1, step.last_epoch)
        with job.interruption.deferred():
            train(
                state.model,
                splits["train"],
                splits["val"],
                Recipe(**settings.recipe),
                job.seed,
                mask=state.kept,
                first_epoch=step.first_epoch,
                last_epoch=step.last_epoch,
                momentum=state.momentum,
                checkpoint=Path(settings.checkpoint),
                progress=after_epoch(job, step.last_epoch, f"sparsity {step.sparsity:g}"),
            )
    state.epochs += step.last_epoch - step.first_epoch
    save_sparse(outputs["state"], state, owner=job.key)
    Path(settings.checkpoint).unlink(missing_ok=True)


def _prune(state: SparseState, sparsity: float) -> None:
    """Remove the smallest weights that are left, down to ``sparsity``."""
    weights = PrunableSet(state.model).flatten()
    count = removed_count(sparsity, len(weights))
    if count > int((~state.kept).sum()):
        _mask(state, keep_highest(weights.abs(), count, within=state.kept))


def _mask(state: SparseState, kept: torch.Tensor) -> None:
    """Put the network under a sparser mask; count the squares of what it removes."""
    weights = PrunableSet(state.model).flatten()
    state.removed += float(weights[state.kept & ~kept].double().square().sum())
    state.kept = kept


def _search(job: Job, state: SparseState, split: DeviceSplit, step: Level, recipe: Mapping[str, Any]) -> None:
    """Go on with the search for a mask; at the end of the level the lowest scores are frozen out."""
    prunable, training = PrunableSet(state.model), Recipe(**recipe)
    search = state.search or start_gem_search(prunable, job.seed)
    subject = Subject(prunable, job.seed, model=state.model)
    for epoch in range(step.first_epoch, step.last_epoch):
        generator = stream(job.seed, "order of a search epoch", epoch + 1)
        batches = split.epoch(training.batch_size, generator, training.augmentation)
        period = step.last_epoch if epoch + 1 == step.last_epoch else step.epochs + 1
        search = gem_epoch(
            search, subject, batches, sparsity=step.sparsity, epochs=step.epochs, period=period, lr=step.lr
        )
        logger.info("search epoch %d of %d: %d weights left", epoch + 1, step.last_epoch, int(search.kept.sum()))
    state.search = search
    _mask(state, search.kept)


@dataclass(frozen=True)
class MeasureSettings:
    """Settings of rule `measure`.

    Attributes:
        method: iterative method.
        sparsities: at the ends of its chains.
        l1: coefficient of the penalty in the objective.
    """

    method: str
    sparsities: Sequence[float]
    l1: float


def measure_states(job: Job, inputs: Files, outputs: Files, settings: MeasureSettings) -> None:
    """Evaluate the networks at the ends of an iterative method's chains, a file of a state for each sparsity."""
    images, rows = datasets.load(inputs["data"]), []
    for sparsity, file in zip(settings.sparsities, inputs["states"], strict=True):
        state = load_sparse(file, job.device, sparsity=sparsity, owner=job.key)
        network = EvaluatedNetwork(job, state.model, images)
        rows += network.rows(
            settings.method,
            "trained",
            sparsity,
            state.kept,
            pruned_norm=state.removed**0.5,
            epochs=state.epochs,
            values=network.values(settings.l1),
        )
    write_table("sweep", rows, outputs["sweep"], job.provenance())
