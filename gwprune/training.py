"""Dense training with an l1 penalty, and fine-tuning under a fixed mask, both resumable at any epoch."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, MutableMapping
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

__all__ = ["DivergedError", "EpochRecord", "Recipe", "epoch_seed", "learning_rate", "train"]

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


def epoch_seed(seed: int, epoch: int) -> int:
    """Seed of an epoch's own random numbers: a resumed training is the same training."""
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
    first_epoch: int = 0,
    last_epoch: int | None = None,
    momentum: MutableMapping[str, Tensor] | None = None,
) -> list[EpochRecord]:
    """Minimise cross-entropy plus ``l1 * sum |w|`` over the prunable weights by SGD, in place.

    A recipe can be trained in segments. Learning rates, data order and dropout of an epoch are those that it has in
    the whole recipe, so segments that hand over ``momentum`` end in the same bits as one training without a break.

    Args:
        mask: boolean (D,); weights where it is False are set to 0 and stay exactly 0.
        checkpoint: file that is rewritten after every epoch but the last one of the segment, taken up again when it
            is there and belongs to the same segment of the same recipe, seed, data and network, and left for the
            caller to remove.
        progress: called after each epoch.
        first_epoch: epochs of the recipe that were trained before; this call starts with the one after them.
        last_epoch: the epoch of the recipe after which to stop; None: its last.
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
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=recipe.lr,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
    )
    if momentum:
        _hand_over(momentum, model, optimizer, prunable, masks)
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
                "segment": [first_epoch, last_epoch],
                "momentum": digest(*(momentum[name] for name in sorted(momentum))) if momentum else "",
            }
        )
    )
    history = _resume(checkpoint, guard, model, optimizer)
    steps_per_epoch = math.ceil(len(train_split) / recipe.batch_size)
    for epoch in range(first_epoch + len(history) + 1, last_epoch + 1):
        start = time.perf_counter()
        # Dropout and data order of an epoch depend on (seed, epoch) alone, so a resumed run is the same run.
        torch.manual_seed(epoch_seed(seed, epoch))
        generator = torch.Generator().manual_seed(epoch_seed(seed, -epoch % 2**32))
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
        if checkpoint is not None and epoch < last_epoch:
            _save(checkpoint, guard, model, optimizer, history)
        if progress is not None:
            progress(record)
    model.eval()
    if masks is not None:
        _assert_held(prunable, masks)
    if momentum is not None:
        for name, parameter in model.named_parameters():
            buffer = optimizer.state[parameter].get("momentum_buffer")
            momentum[name] = torch.zeros_like(parameter) if buffer is None else buffer.clone()
    return history


def _hand_over(
    momentum: Mapping[str, Tensor],
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    prunable: PrunableSet,
    masks: list[Tensor] | None,
) -> None:
    """Start the optimizer with these buffers, without the entries of pruned weights: those would move from 0."""
    parameters = dict(model.named_parameters())
    expected = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    given = {name: tuple(buffer.shape) for name, buffer in momentum.items()}
    if given != expected:
        wrong = sorted(name for name in expected | given if given.get(name) != expected.get(name))
        raise ValueError(
            "momentum does not fit the network: "
            + ", ".join(f"{name} has shape {given.get(name)}, expected {expected.get(name)}" for name in wrong[:3])
        )
    for name, parameter in parameters.items():
        optimizer.state[parameter]["momentum_buffer"] = momentum[name].detach().to(parameter, copy=True)
    if masks is not None:
        for weight, kept in zip(prunable.parameters, masks, strict=True):
            optimizer.state[weight]["momentum_buffer"].mul_(kept)


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
