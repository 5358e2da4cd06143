"""Training with an l1 penalty, dense or under a fixed mask; it can be interrupted after any epoch."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim.sgd import sgd

from ..datasets import DeviceSplit
from ..network.prunable import PrunableSet
from ..storage.checkpoints import arithmetic, digest, set_aside
from ..storage.files import config_hash, save_tensors
from ..streams import stream, stream_seed
from .evaluation import evaluate

__all__ = ["DivergedError", "EpochRecord", "Recipe", "learning_rate", "train"]

logger = logging.getLogger("gwprune")

_DIVERGED = "the training loss is not finite at epoch {epoch}, step {step}; lower the learning rate or add warm-up"


class DivergedError(RuntimeError):
    """The training loss is not finite. The message names epoch and step."""


@dataclass(frozen=True)
class Recipe:
    """How to optimise; the fields are the configuration's keys of sections `training` and `fine_tuning`."""

    epochs: int
    batch_size: int = 128
    lr: float = 0.05
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0
    schedule: str = "cosine"
    milestones: list[int] = field(default_factory=list)
    gamma: float = 0.1
    warmup_epochs: float = 0.0
    augmentation: str = "none"
    label_smoothing: float = 0.0
    accumulation: int = 1
    mixed_precision: bool = False
    l1: float = 0.0


@dataclass(frozen=True)
class EpochRecord:
    """One row of the training table, without run and seed. Losses in nats, accuracies in percent.

    ``epoch`` counts from 1 over the whole recipe, also in a later segment of it.
    """

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    lr: float
    seconds: float


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Learning rate of one step. Warm-up and the cosine count steps, milestones count epochs.

    Args:
        recipe: of the training.
        step: from 0 over the whole training.
        steps_per_epoch: number of batches in an epoch.
    """
    warmup = recipe.warmup_epochs * steps_per_epoch
    if step < warmup:
        return recipe.lr * (step + 1) / math.ceil(warmup)
    if recipe.schedule == "cosine":
        total = recipe.epochs * steps_per_epoch
        return recipe.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1)))
    if recipe.schedule == "multistep":
        epoch = step // steps_per_epoch
        return recipe.lr * recipe.gamma ** sum(epoch >= milestone for milestone in recipe.milestones)
    return recipe.lr


def train(
    model: nn.Module,
    train_split: DeviceSplit,
    val_split: DeviceSplit,
    recipe: Recipe,
    seed: int,
    *,
    mask: Tensor | None = None,
    checkpoint: Path | None = None,
    progress: Callable[[EpochRecord], None] | None = None,
    first_epoch: int = 0,
    last_epoch: int | None = None,
    momentum: MutableMapping[str, Tensor] | None = None,
) -> list[EpochRecord]:
    """Minimise cross-entropy plus ``l1 * sum |w|`` over the prunable weights by SGD, in place.

    A recipe can be trained in segments. An epoch has the learning rates, data order and dropout that it has in the
    whole recipe, so segments that hand over ``momentum`` end in the same bits as one training without a break.

    Args:
        model: the network, on the device of the splits; in eval mode afterwards.
        train_split: samples to train on.
        val_split: samples that each epoch's record is measured on.
        recipe: its ``label_smoothing`` is in the gradient alone; every reported loss is plain cross-entropy.
        seed: of dropout and data order.
        mask: boolean (D,); weights where it is False are set to 0 and stay exactly 0.
        checkpoint: file that is rewritten after every epoch except the last one of the segment. When it is there and
            belongs to the same segment of the same recipe, seed, data and network, the training goes on from it. The
            caller removes it.
        progress: called after each epoch.
        first_epoch: number of epochs of the recipe that were trained before.
        last_epoch: epoch of the recipe after which to stop; None: its last.
        momentum: momentum buffers by the names of ``model.named_parameters()``, shaped like the parameters. Empty:
            start without. At the end it holds the buffers of the last step; entries of pruned weights are 0.

    Returns:
        One record per epoch of the segment.

    Raises:
        DivergedError: naming epoch and step, when the loss is not finite.
        ValueError: when mask or momentum do not fit the network, or the epochs are not a segment of the recipe.
    """
    last_epoch = recipe.epochs if last_epoch is None else last_epoch
    if not 0 <= first_epoch < last_epoch <= recipe.epochs:
        raise ValueError(
            f"first_epoch = {first_epoch} and last_epoch = {last_epoch} are no segment of {recipe.epochs} epochs;"
            " allowed: 0 <= first_epoch < last_epoch <= epochs"
        )
    prunable = PrunableSet(model)
    masks = None
    if mask is not None:
        masks = [part.to(prunable.parameters[0].device) for part in prunable.unflatten(mask.cpu().float())]
    parameters: list[Tensor] = list(model.parameters())
    buffers = _momentum_buffers(momentum or {}, model, prunable, masks)
    precision = _precision(recipe, train_split.device)
    # Every step's l1 term goes through it: fresh memory of that size costs more than the arithmetic.
    scratch = prunable.parameters[0].new_empty(max(prunable.sizes) if recipe.l1 else 0)
    guard, history = "", []
    if checkpoint is not None:
        belongs_to = {
            "recipe": vars(recipe),
            "seed": seed,
            "names": prunable.names,
            "arithmetic": arithmetic(train_split.device),
            "data": digest(train_split.images, train_split.labels),
            "start": digest(*model.state_dict().values()),
            "mask": "" if mask is None else digest(mask),
            "segment": [first_epoch, last_epoch],
            "momentum": digest(*(momentum[name] for name in sorted(momentum))) if momentum else "",
        }
        guard = config_hash(belongs_to)
        history = _resume(checkpoint, guard, model, buffers)
    steps_per_epoch = math.ceil(len(train_split) / recipe.batch_size)
    for epoch in range(first_epoch + len(history) + 1, last_epoch + 1):
        start = time.perf_counter()
        # Random numbers depend on seed and epoch alone, so that a resumed training is the same training.
        torch.manual_seed(stream_seed(seed, "epoch", epoch))
        generator = stream(seed, "order of an epoch", epoch)
        losses, seen, correct = [], 0, torch.zeros((), dtype=torch.int64, device=train_split.device)
        rate = learning_rate(recipe, (epoch - 1) * steps_per_epoch, steps_per_epoch)
        model.train()
        if mask is not None:
            prunable.assign(prunable.flatten() * mask.to(masks[0].device))
        for step, (inputs, labels) in enumerate(train_split.epoch(recipe.batch_size, generator, recipe.augmentation)):
            step_rate = learning_rate(recipe, (epoch - 1) * steps_per_epoch + step, steps_per_epoch)
            if len(labels) == 1 and step:
                continue  # batch normalisation has no variance of a single leftover sample
            for parameter in parameters:
                parameter.grad = None
            loss, hits = _add_gradient(model, inputs, labels, recipe, precision)
            _penalise(prunable, recipe.l1, masks, scratch)
            _descend(parameters, buffers, recipe, step_rate)
            losses.append(loss)
            correct += hits
            seen += len(labels)
            if (step + 1) % 100 == 0:  # each look waits for the device
                _check_finite(losses, epoch)
        _check_finite(losses, epoch)
        validation = evaluate(model, val_split)
        if not math.isfinite(validation.loss):
            raise DivergedError(_DIVERGED.format(epoch=epoch, step=len(losses)))
        record = EpochRecord(
            epoch=epoch,
            train_loss=float(torch.stack(losses).double().mean()),
            train_accuracy=100.0 * int(correct) / seen,
            val_loss=validation.loss,
            val_accuracy=validation.accuracy,
            lr=rate,
            seconds=time.perf_counter() - start,
        )
        history.append(record)
        if checkpoint is not None and epoch < last_epoch:
            state = {"guard": guard, "model": model.state_dict(), "momentum": buffers}
            save_tensors(checkpoint, {**state, "history": [vars(record) for record in history]})
        if progress is not None:
            progress(record)
    model.eval()
    if masks is not None:
        _assert_held(prunable, masks)
    if momentum is not None:
        for (name, _), buffer in zip(model.named_parameters(), buffers, strict=True):
            momentum[name] = buffer.clone()
    return history


def _momentum_buffers(
    momentum: Mapping[str, Tensor], model: nn.Module, prunable: PrunableSet, masks: list[Tensor] | None
) -> list[Tensor]:
    """A buffer for each parameter: ``momentum`` (none: zeros) without the entries of pruned weights, which would move
    from 0."""
    parameters = dict(model.named_parameters())
    expected = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    given = {name: tuple(buffer.shape) for name, buffer in momentum.items()}
    if given not in ({}, expected):
        wrong = sorted(name for name in expected | given if given.get(name) != expected.get(name))
        raise ValueError(
            "momentum does not fit the network: "
            + ", ".join(f"{name} has shape {given.get(name)}, expected {expected.get(name)}" for name in wrong[:3])
        )
    # In the parameter's memory layout, as the fused step wants it.
    buffers = {name: torch.zeros_like(parameter, requires_grad=False) for name, parameter in parameters.items()}
    for name, buffer in momentum.items():
        buffers[name].copy_(buffer)
    if masks is not None:
        of = {id(parameter): buffers[name] for name, parameter in parameters.items()}
        for weight, kept in zip(prunable.parameters, masks, strict=True):
            of[id(weight)].mul_(kept)
    return list(buffers.values())


@torch.no_grad()
def _descend(parameters: list[Tensor], buffers: list[Tensor], recipe: Recipe, rate: float) -> None:
    """One step of SGD, in one pass over the weights.

    :class:`torch.optim.SGD` would do the same, but imports PyTorch's compiler: a second at the start of every job.
    """
    held = [(weight, buffer) for weight, buffer in zip(parameters, buffers, strict=True) if weight.grad is not None]
    sgd(
        [weight for weight, _ in held],
        [weight.grad for weight, _ in held],
        [buffer for _, buffer in held] if recipe.momentum else [],
        fused=True,
        weight_decay=recipe.weight_decay,
        momentum=recipe.momentum,
        lr=rate,
        dampening=0.0,
        nesterov=recipe.nesterov,
        maximize=False,
    )


def _precision(recipe: Recipe, device: torch.device) -> AbstractContextManager:
    """Where forward passes are computed. bfloat16 needs no loss scaling, hence no state between segments."""
    if not recipe.mixed_precision:
        return nullcontext()
    if device.type != "cuda":
        logger.info("mixed_precision is for CUDA devices: training on %s in single precision", device)
        return nullcontext()
    return torch.autocast("cuda", dtype=torch.bfloat16)


def _add_gradient(
    model: nn.Module, inputs: Tensor, labels: Tensor, recipe: Recipe, precision: AbstractContextManager
) -> tuple[Tensor, Tensor]:
    """Add the gradient of the mean loss over the batch, one micro-batch after the other.

    Returns:
        Mean cross-entropy without smoothing, and the number of samples that were classified correctly.
    """
    pieces = math.ceil(len(labels) * recipe.accumulation / recipe.batch_size)
    if recipe.accumulation < recipe.batch_size:  # of a single sample batch normalisation has no variance
        pieces = max(1, min(pieces, len(labels) // 2))
    total: Any = 0.0
    hits: Any = 0
    for part, targets in zip(inputs.tensor_split(pieces), labels.tensor_split(pieces), strict=True):
        share = len(targets) / len(labels)
        with precision:
            output = model(part)
            loss = functional.cross_entropy(output, targets, label_smoothing=recipe.label_smoothing)
        (loss * share if pieces > 1 else loss).backward()
        output, loss = output.detach(), loss.detach()
        if recipe.label_smoothing:
            loss = functional.cross_entropy(output.float(), targets)
        total = total + loss * share
        hits = hits + (output.argmax(1) == targets).sum()
    return total, hits


@torch.no_grad()
def _penalise(prunable: PrunableSet, l1: float, masks: list[Tensor] | None, scratch: Tensor) -> None:
    """Add the l1 subgradient; then drop gradients of pruned weights, so that momentum never moves them from 0."""
    for index, weight in enumerate(prunable.parameters):
        if weight.grad is None:
            continue
        if l1:
            sign = torch.sign(weight, out=scratch[: weight.numel()].view(weight.shape))
            weight.grad.add_(sign, alpha=l1)
        if masks is not None:
            weight.grad.mul_(masks[index])


def _assert_held(prunable: PrunableSet, masks: list[Tensor]) -> None:
    for name, weight, kept in zip(prunable.names, prunable.parameters, masks, strict=True):
        if bool((weight.detach()[kept == 0] != 0).any()):
            raise AssertionError(f"a pruned weight of {name} moved from 0 during fine-tuning")


def _check_finite(losses: list[Tensor], epoch: int) -> None:
    finite = torch.isfinite(torch.stack(losses))
    if not bool(finite.all()):
        step = int((~finite).nonzero()[0]) + 1
        raise DivergedError(_DIVERGED.format(epoch=epoch, step=step))


def _resume(path: Path, guard: str, model: nn.Module, buffers: list[Tensor]) -> list[EpochRecord]:
    """Take up the training that a checkpoint holds; a checkpoint of another one is set aside, with a warning."""
    if not path.exists():
        return []
    try:
        state: Mapping[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a half-written file raises, training starts over  # noqa: BLE001
        set_aside(path, f"it cannot be read ({type(error).__name__})")
        return []
    if not isinstance(state, dict) or state.get("guard") != guard:
        set_aside(path)
        return []
    logger.info("%s: going on after epoch %d", path, len(state["history"]))
    model.load_state_dict(state["model"])
    for buffer, stored in zip(buffers, state["momentum"], strict=True):
        buffer.copy_(stored)
    return [EpochRecord(**record) for record in state["history"]]
