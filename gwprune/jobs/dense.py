"""Stages `prepare_data`, `train` and `snapshot`."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from tqdm import tqdm

from .. import datasets
from ..datasets import DeviceSplit
from ..network.losses import batch_deviation
from ..network.prunable import PrunableSet
from ..storage.files import write_json
from ..streams import stream_seed
from ..tables.files import write_table
from ..training.evaluation import Evaluation, evaluate, l1_norm
from ..training.train import EpochRecord, Recipe, train
from .artifacts import build_network, save_network
from .job import Job

__all__ = ["measure", "prepare_data", "progress_of", "snapshot", "train_dense", "values_of"]

logger = logging.getLogger("gwprune")


def prepare_data(path: str, *, dataset: Mapping[str, Any], data_dir: str) -> None:
    """Read or download a data set, split it, and write it as uint8 tensors."""
    data = datasets.prepare(dataset["name"], data_dir, **dataset["options"])
    datasets.save(data, path)
    sizes = {split: len(labels) for split, labels in data.labels.items()}
    logger.info("%s: %s, %d classes", data.name, sizes, data.classes)


def measure(model: nn.Module, prunable: PrunableSet, split: DeviceSplit, l1: float) -> dict[str, float]:
    """loss, objective (loss plus l1 term) and accuracies of a network on a split."""
    return values_of(evaluate(model, split), l1 * l1_norm(prunable))


def values_of(found: Evaluation, penalty: float) -> dict[str, float]:
    """The columns of tables: an evaluation, and its loss plus the l1 term as ``objective``."""
    return {
        "loss": found.loss,
        "objective": found.loss + penalty,
        "accuracy": found.accuracy,
        "top5_accuracy": found.top5_accuracy,
    }


def progress_of(job: Job, last_epoch: int, show: Callable[[EpochRecord], Any]) -> Callable[[EpochRecord], None]:
    """What follows an epoch: a line in the log, ``show``, and a stop if one is asked for and a checkpoint is there."""

    def progress(record: EpochRecord) -> None:
        logger.info("%s", record)
        show(record)
        if record.epoch < last_epoch:  # the last epoch has no checkpoint: what follows it is short
            job.interruption.check()

    return progress


def _initial(job: Job, images: datasets.ImageData, description: Mapping[str, Any]) -> tuple[nn.Module, dict[str, Any]]:
    """The untrained network of a run and seed, and what its files say of it."""
    about = {
        **description,
        "input_shape": list(images.images["train"].shape[1:]),
        "classes": images.classes,
        "data": images.fingerprint,
    }
    torch.manual_seed(stream_seed(job.seed, "initial weights"))
    return build_network(about).to(job.device), about


def snapshot(
    job: Job,
    data: str,
    path: str,
    *,
    description: Mapping[str, Any],
    epoch: int,
    recipe: Mapping[str, Any] | None,
    checkpoint: str,
) -> None:
    """Write the network as dense training has it after ``epoch`` epochs; 0: before the first, for which no recipe is
    needed. The epochs are trained again: training is repeatable, and a copy of every epoch would fill disks."""
    images = datasets.load(data)
    model, about = _initial(job, images, description)
    if epoch:
        splits = {name: DeviceSplit.from_data(images, name, job.device) for name in ("train", "val")}
        with tqdm(total=epoch, unit="epoch", disable=None) as bar, job.interruption.deferred():
            train(
                model,
                splits["train"],
                splits["val"],
                Recipe(**recipe),
                job.seed,
                last_epoch=epoch,
                checkpoint=Path(checkpoint),
                progress=progress_of(job, epoch, lambda _: bar.update()),
            )
    save_network(path, model, about, owner=job.key)
    Path(checkpoint).unlink(missing_ok=True)


def train_dense(
    job: Job,
    data: str,
    *,
    network: str,
    history: str,
    dense: str,
    description: Mapping[str, Any],
    recipe: Mapping[str, Any],
    checkpoint: str,
) -> None:
    """Train a network from a seeded start.

    Writes the network, the rows of table `training`, and as JSON what the tolerances need: loss, objective and
    accuracy on training and validation data, and the deviation of the training losses over mini-batches.
    """
    images = datasets.load(data)
    model, about = _initial(job, images, description)
    prunable = PrunableSet(model)
    splits = {name: DeviceSplit.from_data(images, name, job.device) for name in ("train", "val")}
    logger.info(
        "%s with %d prunable weights in %d tensors", description["name"], prunable.dimension, len(prunable.names)
    )
    plan = Recipe(**recipe)
    with tqdm(total=plan.epochs, unit="epoch", disable=None) as bar:

        def show(record: EpochRecord) -> None:
            bar.update(record.epoch - bar.n)
            bar.set_postfix(loss=f"{record.train_loss:.4f}", val=f"{record.val_accuracy:.2f}%")

        with job.interruption.deferred():
            records = train(
                model,
                splits["train"],
                splits["val"],
                plan,
                job.seed,
                checkpoint=Path(checkpoint),
                progress=progress_of(job, plan.epochs, show),
            )
    values = {name: measure(model, prunable, split, plan.l1) for name, split in splits.items()}
    batches = splits["train"].batches(plan.batch_size)
    deviation, count = batch_deviation(model, functional.cross_entropy, batches, plan.batch_size)
    summary = {
        "owner": job.key,
        "splits": values,
        "batch_std": deviation,
        "batches": count,
        "batch_size": plan.batch_size,
        "l1": plan.l1,
        "dimension": prunable.dimension,
    }
    logger.info("dense: %s, batch_std %.6g", values, summary["batch_std"])
    save_network(network, model, about, owner=job.key)
    write_table("training", [{**job.key, **vars(record)} for record in records], history, job.provenance())
    write_json(dense, summary)
    Path(checkpoint).unlink(missing_ok=True)
