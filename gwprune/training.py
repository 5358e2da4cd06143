"""Dense training with an l1 penalty, and fine-tuning under a fixed mask, both resumable at any epoch."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from .checkpoints import arithmetic, digest
from .datasets import DeviceSplit
from .evaluation import evaluate
from .files import config_hash, save_tensors
from .parameters import PrunableSet

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
    l1: float = 0.0


@dataclass(frozen=True)
class EpochRecord:
    """One row of the training table, without run and seed. Losses in nats, accuracies in percent."""

    epoch: int
    train_loss: float
    train_accuracy: float
    val_loss: float
    val_accuracy: float
    lr: float
    seconds: float


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Learning rate of step ``step`` (from 0 over the whole training).

    Warm-up and the cosine count steps, milestones count epochs, as their names say.
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


def _epoch_seed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence([seed, epoch, 0x7261]).generate_state(1, np.uint64)[0] >> 1)


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
) -> list[EpochRecord]:
    """Minimise cross-entropy plus ``l1 * sum |w|`` over the prunable weights by SGD, in place.

    Args:
        mask: boolean (D,); weights where it is False are set to 0 and stay exactly 0.
        checkpoint: file that is rewritten after every epoch, taken up again when it is there and belongs to the same
            recipe, seed, data and network, and left for the caller to remove.
        progress: called after each epoch.

    Returns:
        One record per epoch.

    Raises:
        DivergedError: naming epoch and step, when the loss is not finite.
        ValueError: when the mask does not fit the network.
    """
    prunable = PrunableSet(model)
    masks = None
    if mask is not None:
        masks = [part.to(prunable.parameters[0].device) for part in prunable.unflatten(mask.cpu().float())]
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
    )
    guard = (
        ""
        if checkpoint is None
        else config_hash(
            {
                "recipe": vars(recipe),
                "seed": seed,
                "names": prunable.names,
                "arithmetic": arithmetic(train_split.device),
                "data": digest(train_split.images, train_split.labels),
                "start": digest(*model.state_dict().values()),
                "mask": "" if mask is None else digest(mask),
            }
        )
    )
    history = _resume(checkpoint, guard, model, optimizer)
    steps_per_epoch = math.ceil(len(train_split) / recipe.batch_size)
    for epoch in range(len(history) + 1, recipe.epochs + 1):
        start = time.perf_counter()
        # Dropout and data order of an epoch depend on (seed, epoch) alone, so a resumed run is the same run.
        torch.manual_seed(_epoch_seed(seed, epoch))
        generator = torch.Generator().manual_seed(_epoch_seed(seed, -epoch % 2**32))
        losses, seen, correct = [], 0, torch.zeros((), dtype=torch.int64, device=train_split.device)
        rate = learning_rate(recipe, (epoch - 1) * steps_per_epoch, steps_per_epoch)
        model.train()
        if masks is not None:
            _apply(prunable, masks)
        for step, (inputs, labels) in enumerate(train_split.epoch(recipe.batch_size, generator, recipe.augmentation)):
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(recipe, (epoch - 1) * steps_per_epoch + step, steps_per_epoch)
            if len(labels) == 1 and step:
                continue  # batch normalisation has no variance of a single leftover sample
            output = model(inputs)
            loss = functional.cross_entropy(output, labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            _penalise(prunable, recipe.l1, masks)
            optimizer.step()
            losses.append(loss.detach())
            correct += (output.detach().argmax(1) == labels).sum()
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
        if checkpoint is not None and epoch < recipe.epochs:
            _save(checkpoint, guard, model, optimizer, history)
        if progress is not None:
            progress(record)
    model.eval()
    if masks is not None:
        _assert_held(prunable, masks)
    return history


def _apply(prunable: PrunableSet, masks: list[Tensor]) -> None:
    with torch.no_grad():
        for weight, kept in zip(prunable.parameters, masks, strict=True):
            weight.mul_(kept)


def _penalise(prunable: PrunableSet, l1: float, masks: list[Tensor] | None) -> None:
    """Add the l1 subgradient; then drop gradients of pruned weights, so that momentum never moves them from 0."""
    with torch.no_grad():
        for index, weight in enumerate(prunable.parameters):
            if weight.grad is None:
                continue
            if l1:
                weight.grad.add_(weight.sign(), alpha=l1)
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


def _save(
    path: Path, guard: str, model: nn.Module, optimizer: torch.optim.Optimizer, history: list[EpochRecord]
) -> None:
    state = {
        "guard": guard,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "history": [vars(record) for record in history],
    }
    save_tensors(path, state)


def _resume(path: Path | None, guard: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> list[EpochRecord]:
    if path is None or not path.exists():
        return []
    try:
        state: Mapping[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # whatever a half-written file raises, training starts over  # noqa: BLE001
        return []
    if not isinstance(state, dict) or state.get("guard") != guard:
        return []
    logger.info("%s: going on after epoch %d", path, len(state["history"]))
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return [EpochRecord(**record) for record in state["history"]]
