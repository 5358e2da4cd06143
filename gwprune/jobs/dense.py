"""Work of the rules `prepare_data`, `train` and `snapshot`."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from .. import datasets
from ..datasets import DeviceSplit
from ..network.losses import BatchDeviation, BatchLoss, batch_deviation
from ..network.prunable import PrunableSet
from ..storage.files import write_json
from ..storage.states import load_state, read_weights
from ..streams import stream_seed
from ..tables.files import write_table
from ..training.evaluation import Evaluation, evaluate, l1_norm
from ..training.train import EpochRecord, Recipe, train
from .artifacts import build_network, save_network
from .job import Job
from .rules import Files

__all__ = [
    "DataSettings",
    "SnapshotSettings",
    "TrainSettings",
    "after_epoch",
    "columns_of",
    "initial_network",
    "prepare_data",
    "snapshot",
    "train_dense",
]

logger = logging.getLogger("gwprune")


@dataclass(frozen=True)
class DataSettings:
    """Settings of rule `prepare_data`.

    Attributes:
        dataset: name and options of the data set.
    """

    dataset: Mapping[str, Any]


def prepare_data(job: Job, inputs: Files, outputs: Files, settings: DataSettings) -> None:
    """Read or download a data set, split it, and write it as uint8 tensors to ``outputs["data"]``."""
    data = datasets.prepare(settings.dataset["name"], job.data_dir, **settings.dataset["options"])
    datasets.save(data, outputs["data"])
    sizes = {split: len(labels) for split, labels in data.labels.items()}
    logger.info("%s: %s, %d classes", data.name, sizes, data.classes)


def columns_of(evaluation: Evaluation, penalty: float) -> dict[str, float]:
    """Columns of tables: loss, accuracies, and the loss plus the l1 term as ``objective``."""
    return {
        "loss": evaluation.loss,
        "objective": evaluation.loss + penalty,
        "accuracy": evaluation.accuracy,
        "top5_accuracy": evaluation.top5_accuracy,
    }


def after_epoch(job: Job, last_epoch: int, what: str = "") -> Callable[[EpochRecord], None]:
    """What follows an epoch of training: a line in the log, and the end of the job if a signal asked for it.

    Args:
        job: that trains.
        last_epoch: of the training; it has no checkpoint, as what follows is short.
        what: is trained, where a job trains more than once.
    """

    def logged(record: EpochRecord) -> None:
        logger.info(
            "%sepoch %d of %d: loss %.5g, accuracy %.2f%%; validation loss %.5g, accuracy %.2f%%; lr %.4g; %.2f s",
            f"{what}, " if what else "", record.epoch, last_epoch, record.train_loss, record.train_accuracy,
            record.val_loss, record.val_accuracy, record.lr, record.seconds,
        )  # fmt: skip
        if record.epoch < last_epoch:
            job.interruption.check()

    return logged


def initial_network(
    job: Job, images: datasets.ImageData, network: Mapping[str, Any]
) -> tuple[nn.Module, dict[str, Any]]:
    """The untrained network of a run and seed.

    It is never a file: the seed gives the same weights everywhere.

    Args:
        job: its seed gives the weights.
        images: give the shape of an input and the number of classes.
        network: its name and options.

    Returns:
        The network in eval mode on the job's device, and the description that its files carry.
    """
    description = {
        **network,
        "input_shape": list(images.images["train"].shape[1:]),
        "classes": images.classes,
        "data": images.fingerprint,
    }
    torch.manual_seed(stream_seed(job.seed, "initial weights"))
    return build_network(description).to(job.device).eval(), description


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Settings of rule `train`.

    Attributes:
        network: name and options of the network.
        recipe: fields of :class:`gwprune.training.train.Recipe`; of a network that is given trained `batch_size` and
            `l1` alone.
        checkpoint: file of the training that is under way.
    """

    network: Mapping[str, Any]
    recipe: Mapping[str, Any]
    checkpoint: str = ""


@dataclass(frozen=True, kw_only=True)
class SnapshotSettings(TrainSettings):
    """Settings of rule `snapshot`: those of the training, and after which epoch the network is written."""

    epoch: int


def snapshot(job: Job, inputs: Files, outputs: Files, settings: SnapshotSettings) -> None:
    """Write the network as dense training has it after an epoch.

    The epochs are trained again: training is repeatable, and a copy of every epoch would fill disks.
    """
    images = datasets.load(inputs["data"])
    model, description = initial_network(job, images, settings.network)
    if settings.epoch:
        splits = {name: DeviceSplit.from_data(images, name, job.device) for name in ("train", "val")}
        with job.interruption.deferred():
            train(
                model,
                splits["train"],
                splits["val"],
                Recipe(**settings.recipe),
                job.seed,
                last_epoch=settings.epoch,
                checkpoint=Path(settings.checkpoint),
                progress=after_epoch(job, settings.epoch),
            )
    save_network(outputs["network"], model, description, owner=job.key)
    Path(settings.checkpoint).unlink(missing_ok=True)


def train_dense(job: Job, inputs: Files, outputs: Files, settings: TrainSettings) -> None:
    """Train a network from a seeded start, or read the one that ``inputs["weights"]`` gives trained.

    Writes the network, the rows of table `training`, and as JSON what the tolerances need: loss, objective and
    accuracy on training and validation data, and the deviation of the training losses over mini-batches.
    """
    images = datasets.load(inputs["data"])
    model, description = initial_network(job, images, settings.network)
    prunable = PrunableSet(model)
    splits = {name: DeviceSplit.from_data(images, name, job.device) for name in ("train", "val")}
    name = settings.network["name"]
    logger.info("%s with %d prunable weights in %d tensors", name, prunable.dimension, len(prunable.names))
    records: list[EpochRecord] = []
    if "weights" in inputs:
        load_state(model, read_weights(inputs["weights"]), f"network.weights: {inputs['weights']}")
    else:
        recipe = Recipe(**settings.recipe)
        with job.interruption.deferred():
            records = train(
                model,
                splits["train"],
                splits["val"],
                recipe,
                job.seed,
                checkpoint=Path(settings.checkpoint),
                progress=after_epoch(job, recipe.epochs),
            )
    l1, batch_size = settings.recipe["l1"], settings.recipe["batch_size"]
    penalty = l1 * l1_norm(prunable)
    values = {name: columns_of(evaluate(model, split), penalty) for name, split in splits.items()}
    if "weights" in inputs:
        _check_trained(inputs["weights"], values["train"]["loss"], images.classes)
    batches = splits["train"].batches(batch_size)
    deviation = batch_deviation(model, BatchLoss(functional.cross_entropy), batches, batch_size)
    summary = {
        "owner": job.key,
        "splits": values,
        "batch_std": deviation.value,
        "batch_std_standard_error": deviation.standard_error if deviation.batches > 1 else None,
        "batches": deviation.batches,
        "batch_size": batch_size,
        "l1": l1,
        "dimension": prunable.dimension,
    }
    logger.info("dense: %s, batch_std %.6g", values, deviation.value)
    if 1 < deviation.batches < BatchDeviation.FEW:
        logger.warning(
            "batch_std %.3g, a loss tolerance, is known to %.2g only: it is the deviation between %d batches",
            deviation.value, deviation.standard_error, deviation.batches,
        )  # fmt: skip
    save_network(outputs["network"], model, description, owner=job.key)
    write_table("training", [{**job.key, **vars(record)} for record in records], outputs["history"], job.provenance())
    write_json(outputs["dense"], summary)
    if settings.checkpoint:
        Path(settings.checkpoint).unlink(missing_ok=True)


def _check_trained(path: str, loss: float, classes: int) -> None:
    """What is predicted of a network that was not trained for these data means nothing."""
    if not math.isfinite(loss):
        raise ValueError(f"network.weights: the training loss of {path} is {loss}")
    if loss >= math.log(classes):
        logger.warning(
            "the training loss of %s is %.4g, no better than guessing (%.4g): its classes may be in another order, or"
            " its inputs scaled otherwise",
            path, loss, math.log(classes),
        )  # fmt: skip
